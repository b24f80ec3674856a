"""Scores on disk: for each shard's table a parquet of key, scores, and why a row has none.

A score is a number or, for embeddings, a vector. One that could not be computed is null, never 0. Every score's column
says in its metadata which scorer made it, by name and version.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

KEY = "key"
MISSING_BECAUSE = "missing_because"
SCORER, VERSION = "scorer", "version"
"""Keys of a column's metadata."""


@dataclass(frozen=True)
class ShardScores:
    """One shard's scores, by the rows of its table that counted, in their order.

    columns: name -> float32 [N] or [N, E], NaN where there is no score. metadata: name -> the scorer's name and
    version. reasons: why a row has no score, None where it has.
    """

    keys: list[str]
    columns: dict[str, np.ndarray]
    metadata: dict[str, dict[str, str]]
    reasons: list[str | None]

    @property
    def missing(self) -> Counter[str]:
        """Rows without a score, by reason."""
        return Counter(reason for reason in self.reasons if reason is not None)


def write_scores(scores: ShardScores, path: Path) -> None:
    """Write to `path` in one step: a kill leaves nothing that could be taken for a whole file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields, columns = [pa.field(KEY, pa.string())], [pa.array(scores.keys, pa.string())]
    for name, values in scores.columns.items():
        columns.append(_array(values))
        fields.append(pa.field(name, columns[-1].type, metadata=scores.metadata[name]))
    columns.append(pa.array(scores.reasons, pa.string()))
    fields.append(pa.field(MISSING_BECAUSE, pa.string()))
    # beside the folder that becomes the artifact, so that a kill leaves no half file in it
    partial = path.parent.with_name(f"{path.name}.partial")
    pq.write_table(pa.Table.from_arrays(columns, schema=pa.schema(fields)), partial)
    os.replace(partial, path)


def read_scores(path: Path) -> ShardScores:
    """What `write_scores` wrote."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    names = [name for name in table.column_names if name not in (KEY, MISSING_BECAUSE)]
    return ShardScores(
        keys=table[KEY].to_pylist(),
        columns={name: _values(table[name].combine_chunks()) for name in names},
        metadata={name: _decoded(table.field(name).metadata) for name in names},
        reasons=table[MISSING_BECAUSE].to_pylist(),
    )


def read_reasons(path: Path) -> list[str | None]:
    """`ShardScores.reasons` of a file, without its scores."""
    import pyarrow.parquet as pq

    return pq.read_table(path, columns=[MISSING_BECAUSE])[MISSING_BECAUSE].to_pylist()


def version_of(path: Path) -> str:
    """The version of the scorer that made a file."""
    import pyarrow.parquet as pq

    column = next(field for field in pq.read_schema(path) if field.name not in (KEY, MISSING_BECAUSE))
    return _decoded(column.metadata)[VERSION]


def score_field(name: str, metadata: Mapping[str, str]) -> pa.Field:
    """The column of a score in a table, with the scorer's name and version in its metadata."""
    import pyarrow as pa

    return pa.field(name, pa.float32(), metadata=dict(metadata))


def _array(values: np.ndarray) -> pa.Array:
    """float32 [N] or [N, E] as a column of numbers or of vectors; a vector that is not finite is null as a whole."""
    import pyarrow as pa

    finite = np.isfinite(values) if values.ndim == 1 else np.isfinite(values).all(axis=1)
    if values.ndim == 1:
        return pa.array(values, pa.float32(), mask=~finite)
    # Lists of any length: parquet does not bring back a null among lists of one fixed length.
    offsets = np.concatenate([[0], np.cumsum(finite * values.shape[1])])
    flat = pa.array(values[finite].reshape(-1), pa.float32())
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat, mask=pa.array(~finite))


def _values(column: pa.Array) -> np.ndarray:
    """What `_array` was given, with NaN for null; vectors of width 0 where every one is null."""
    import pyarrow as pa

    if not pa.types.is_list(column.type):
        return column.to_numpy(zero_copy_only=False).astype(np.float32)
    there = column.is_valid().to_numpy(zero_copy_only=False)
    vectors = column.flatten().to_numpy().reshape(max(there.sum(), 1), -1)
    values = np.full((len(column), vectors.shape[1]), np.nan, np.float32)
    values[there] = vectors[: there.sum()]
    return values


def _decoded(metadata: Mapping[bytes, bytes] | None) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (metadata or {}).items()}
