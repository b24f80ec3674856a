"""Scoring a shard: its pictures are decoded once, in batches, and judged by one scorer."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from gigagan_core.data.pictures import ENDINGS, CorruptPicture, Sample, decode
from gigagan_core.data.scores import KEY, SCORER, VERSION, ShardScores, write_scores
from gigagan_core.data.shards import Shard, selected_rows
from gigagan_core.errors import GigaganError

if TYPE_CHECKING:
    from torch import Tensor


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


def score_shard(
    shard: Shard,
    scorer: Scorer,
    path: Path,
    batch_size: int,
    on_batch: Callable[[int], None] = lambda done: None,
) -> None:
    """Score the rows that count and write them to `path`, as `data.scores` says.

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
    # a shard of which no row could be scored still has the column
    names = dict.fromkeys(name for columns in scored.values() for name in columns) or [scorer.name]
    columns = {
        name: np.array([scored.get(key, {}).get(name, np.nan) for key in captions], np.float32)
        for name in names
    }
    metadata = {SCORER: scorer.name, VERSION: scorer.version}
    reasons = [missing.get(key) for key in captions]
    write_scores(ShardScores(list(captions), columns, dict.fromkeys(names, metadata), reasons), path)


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
