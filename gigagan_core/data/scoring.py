"""Scores of pictures and captions, shard by shard: for each shard's table a parquet of key and scores.

A score that could not be computed is null, never 0. Every score's column says in its metadata which scorer made it,
by name and version.
"""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gigagan_core.data.pictures import ENDINGS, CorruptPicture, Sample, decode
from gigagan_core.data.shards import Shard, selected_rows
from gigagan_core.errors import GigaganError

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

KEY = "key"
MISSING_BECAUSE = "missing_because"
SCORER, VERSION = "scorer", "version"
"""Keys of a column's metadata."""


class Scorer(Protocol):
    """Judges pictures and captions, in batches.

    name: of its column, and unlike any other scorer's. version: sha256 of its weights, or what else decides its
    scores. image_size: side in pixels of the pictures it is given (centre square, antialiased); None where it reads
    captions only.
    """

    name: str
    version: str
    image_size: int | None

    def score(self, images: Tensor, captions: list[str]) -> dict[str, Tensor]:
        """uint8 [N, 3, S, S] and N captions -> column: float32 [N]; NaN where there is no score.

        S is 0 for a scorer of captions.
        """
        ...


def in_unit_range(images: Tensor) -> Tensor:
    """uint8 -> float32 in [0, 1]."""
    return images.float() / 255


@dataclass(frozen=True)
class ShardScores:
    """One shard's scores, by the rows of its table that counted, in their order.

    columns: name -> float32 [N], NaN where there is no score. metadata: name -> the scorer's name and version.
    missing: why rows have none, and how many.
    """

    keys: list[str]
    columns: dict[str, np.ndarray]
    metadata: dict[str, dict[str, str]]
    missing: Counter[str]


def score_shard(
    shard: Shard,
    scorer: Scorer,
    path: Path,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda done: None,
) -> None:
    """Score the rows that count and write key, scores and `missing_because` to `path`, in one step.

    Rows are in the order of the table. A picture that does not decode, or whose score is not finite, gets a null.
    Raises GigaganError for a damaged tar and for lost pictures.
    """
    captions = {row[KEY]: row["caption"] or "" for row in selected_rows(shard, [KEY, "caption"])}
    scored: dict[str, dict[str, float]] = {}
    missing: dict[str, str] = {}
    samples = pictures_of(shard, captions) if scorer.image_size else _captions(shard, captions)
    for batch in _batches(samples, batch_size):
        _score_batch(batch, scorer, scored, missing)
        on_batch(len(batch))
    if lost := [key for key in captions if key not in scored and key not in missing]:
        raise GigaganError(
            f"shard {shard.tar} lacks the picture of {len(lost)} of {len(captions)} rows (first: {lost[0]}); remove "
            "its artifact and run ingest again"
        )
    _write(list(captions), scored, missing, scorer, path)


def read_scores(path: Path) -> ShardScores:
    """What `score_shard` wrote."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    names = [name for name in table.column_names if name not in (KEY, MISSING_BECAUSE)]
    return ShardScores(
        keys=table[KEY].to_pylist(),
        columns={name: table[name].to_numpy().astype(np.float32) for name in names},
        metadata={name: _decoded(table.field(name).metadata) for name in names},
        missing=Counter(reason for reason in table[MISSING_BECAUSE].to_pylist() if reason is not None),
    )


def score_field(name: str, metadata: Mapping[str, str]) -> pa.Field:
    """The column of a score in a table, with the scorer's name and version in its metadata."""
    import pyarrow as pa

    return pa.field(name, pa.float32(), metadata=dict(metadata))


def _decoded(metadata: Mapping[bytes, bytes] | None) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (metadata or {}).items()}


def _score_batch(
    batch: list[Sample], scorer: Scorer, scored: dict[str, dict[str, float]], missing: dict[str, str]
) -> None:
    import torch

    readable, pixels = _pixels(batch, scorer.image_size, missing)
    if not readable:
        return
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    columns = scorer.score(images, [sample.caption for sample in readable])
    values = {name: column.tolist() for name, column in columns.items()}
    for row, sample in enumerate(readable):
        scored[sample.key] = {name: column[row] for name, column in values.items()}
        if not np.isfinite(list(scored[sample.key].values())).all():
            missing[sample.key] = "score_not_finite"


def _pixels(
    batch: list[Sample], image_size: int | None, missing: dict[str, str]
) -> tuple[list[Sample], np.ndarray]:
    """The samples that decode, and uint8 [N, S, S, 3]."""
    if image_size is None:
        return batch, np.empty((len(batch), 0, 0, 3), np.uint8)
    readable, pixels = [], []
    for sample in batch:
        try:
            pixels.append(decode(sample, image_size))
            readable.append(sample)
        except CorruptPicture:
            missing[sample.key] = "picture_unreadable"
    return readable, np.stack(pixels) if pixels else np.empty((0, image_size, image_size, 3), np.uint8)


def _write(
    keys: list[str],
    scored: dict[str, dict[str, float]],
    missing: dict[str, str],
    scorer: Scorer,
    path: Path,
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # a shard of which no row could be scored still has the column
    names = dict.fromkeys(name for columns in scored.values() for name in columns) or [scorer.name]
    fields, columns = [pa.field(KEY, pa.string())], [pa.array(keys, pa.string())]
    for name in names:
        values = np.array([scored.get(key, {}).get(name, np.nan) for key in keys], np.float32)
        columns.append(pa.array(values, pa.float32(), mask=~np.isfinite(values)))
        fields.append(score_field(name, {SCORER: scorer.name, VERSION: scorer.version}))
    columns.append(pa.array([missing.get(key) for key in keys], pa.string()))
    fields.append(pa.field(MISSING_BECAUSE, pa.string()))
    # beside the folder that becomes the artifact, so that a kill leaves no half file in it
    partial = path.parent.with_name(f"{path.name}.partial")
    pq.write_table(pa.Table.from_arrays(columns, schema=pa.schema(fields)), partial)
    os.replace(partial, path)


def _captions(shard: Shard, captions: dict[str, str]) -> Iterator[Sample]:
    """The captions alone: the tar stays closed."""
    return (Sample(key, caption, shard.tar, 0, 0) for key, caption in captions.items())


def pictures_of(shard: Shard, captions: Mapping[str, str]) -> Iterator[Sample]:
    """The pictures of these keys, in the order of the tar: read once, from front to back."""
    try:
        with tarfile.open(shard.tar, "r:") as tar:
            for member in tar:
                key, _, ending = member.name.rpartition(".")
                if ending.lower() in ENDINGS and key in captions:
                    yield Sample(key, captions[key], shard.tar, member.offset_data, member.size)
    except (tarfile.TarError, EOFError) as error:
        raise GigaganError(
            f"shard {shard.tar} is a damaged tar ({error}); remove its artifact and run ingest again"
        ) from None


def _batches(samples: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
    batch: list[Sample] = []
    for sample in samples:
        batch.append(sample)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
