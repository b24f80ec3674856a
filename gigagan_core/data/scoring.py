"""Scores of pictures and captions, shard by shard: for each shard's table a parquet of key and score.

A score that could not be computed is null, never 0.
"""

from __future__ import annotations

import math
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from gigagan_core.data.pictures import ENDINGS, CorruptPicture, Sample, decode
from gigagan_core.data.shards import Shard, selected_rows
from gigagan_core.errors import GigaganError

if TYPE_CHECKING:
    from torch import Tensor

    from gigagan_core.encoders.protocol import Encoder

KEY = "key"
MISSING_BECAUSE = "missing_because"


class Scorer(Protocol):
    """Judges pictures, in batches.

    name: the score's column. version: sha256 of what decides it, such as weights. image_size: side in pixels of
    the pictures it is given (centre square, antialiased).
    """

    name: str
    version: str
    image_size: int

    def score(self, images: Tensor, captions: list[str]) -> Tensor:
        """float32 [N, 3, S, S] in [-1, 1] and N captions -> float32 [N]; NaN where there is no score."""
        ...


class ClipSimilarityScorer:
    """Cosine of image and caption, in [-1, 1], by any encoder of the protocol."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        # Its own column by encoder: a table's clip_similarity comes from another model and is not comparable.
        self.name = f"clip_similarity_{encoder.name}"
        self.version = encoder.sha256
        self.image_size = encoder.image_size

    def score(self, images: Tensor, captions: list[str]) -> Tensor:
        import torch
        import torch.nn.functional as F

        with torch.no_grad():
            texts = self._encoder.text_embed(self._encoder.tokenize(captions))
            pictures = self._encoder.image_embed(images.to(texts.device))
            return F.cosine_similarity(pictures, texts, dim=1).cpu()


def clip_similarity(place: str) -> ClipSimilarityScorer:
    """The scorer by an encoder's folder or ARCH:PATH."""
    from gigagan_core.encoders.open_clip_encoder import load_encoder

    return ClipSimilarityScorer(load_encoder(place))


@dataclass(frozen=True)
class ShardScores:
    """One shard's scores. name: the column. values: key -> score or None. missing: key -> why there is none."""

    name: str
    values: dict[str, float | None]
    missing: dict[str, str]


def score_shard(
    shard: Shard,
    scorer: Scorer,
    path: Path,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda done: None,
) -> None:
    """Score the rows that count and write key, score and `missing_because` to `path`, in one step.

    Rows are in the order of the table. A picture that does not decode, or whose score is not finite, gets a null.
    Raises GigaganError for a damaged tar and for lost pictures.
    """
    captions = {row[KEY]: row["caption"] or "" for row in selected_rows(shard, [KEY, "caption"])}
    values: dict[str, float | None] = {}
    missing: dict[str, str] = {}
    for batch in _batches(_samples(shard, captions), batch_size):
        _score_batch(batch, scorer, values, missing)
        on_batch(len(batch))
    if lost := [key for key in captions if key not in values]:
        raise GigaganError(
            f"shard {shard.tar} lacks the picture of {len(lost)} of {len(captions)} rows (first: {lost[0]}); remove "
            "its artifact and run ingest again"
        )
    _write(ShardScores(scorer.name, {key: values[key] for key in captions}, missing), path)


def read_scores(path: Path) -> ShardScores:
    """What `score_shard` wrote."""
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    name = next(column for column in table.column_names if column not in (KEY, MISSING_BECAUSE))
    keys = table[KEY].to_pylist()
    reasons = zip(keys, table[MISSING_BECAUSE].to_pylist(), strict=True)
    return ShardScores(
        name,
        dict(zip(keys, table[name].to_pylist(), strict=True)),
        {key: reason for key, reason in reasons if reason is not None},
    )


def _score_batch(
    batch: list[Sample], scorer: Scorer, values: dict[str, float | None], missing: dict[str, str]
) -> None:
    import numpy as np
    import torch

    pixels: list[np.ndarray] = []
    readable: list[Sample] = []
    for sample in batch:
        try:
            pixels.append(decode(sample, scorer.image_size))
            readable.append(sample)
        except CorruptPicture:
            values[sample.key], missing[sample.key] = None, "picture_unreadable"
    if not readable:
        return
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
    scores = scorer.score(images, [sample.caption for sample in readable]).tolist()
    for sample, value in zip(readable, scores, strict=True):
        values[sample.key] = value if math.isfinite(value) else None
        if values[sample.key] is None:
            missing[sample.key] = "score_not_finite"


def _write(scores: ShardScores, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    keys = list(scores.values)
    table = pa.table(
        {
            KEY: pa.array(keys, pa.string()),
            scores.name: pa.array(list(scores.values.values()), pa.float32()),
            MISSING_BECAUSE: pa.array([scores.missing.get(key) for key in keys], pa.string()),
        }
    )
    # beside the folder that becomes the artifact, so that a kill leaves no half file in it
    partial = path.parent.with_name(f"{path.name}.partial")
    pq.write_table(table, partial)
    os.replace(partial, path)


def _samples(shard: Shard, captions: dict[str, str]) -> Iterator[Sample]:
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
