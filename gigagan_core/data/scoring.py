"""Scoring a shard: its rows are read once, in batches, and judged by one scorer."""

from __future__ import annotations

import itertools
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from gigagan_core.data.pictures import ENDINGS, CorruptPicture, Sample, decode
from gigagan_core.data.scores import KEY, SCORER, VERSION, ShardScores, read_scores, write_scores
from gigagan_core.data.shards import Shard, selected_rows
from gigagan_core.errors import GigaganError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class Scorer(Protocol):
    """Judges rows, in batches.

    name: of its column, and unlike any other scorer's. version: sha256 of its weights, or what else decides its
    scores. image_size: side in pixels of the pictures it is given (centre square, antialiased); None where it reads
    embeddings, or captions only.
    """

    name: str
    version: str
    image_size: int | None

    def score(self, inputs: Tensor, captions: list[str]) -> dict[str, Tensor]:
        """Pictures uint8 [N, 3, S, S] or embeddings float32 [N, E], and N captions -> column: float32 [N].

        All on the CPU; NaN where there is no score. A scorer of captions is given inputs [N, 0]. What makes
        embeddings gives a column of vectors, float32 [N, E].
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
    embeddings: Path | None = None,
) -> None:
    """Score the rows that count and write them to `path`, as `data.scores` says.

    Rows are in the order of the table. A picture that does not decode, or whose score is not finite, gets a null.
    embeddings: the file of this shard's embeddings, for a scorer that reads them; a row without one gets a null for
    the same reason. Raises GigaganError for a damaged tar and for lost pictures.
    """
    captions = {row[KEY]: row["caption"] or "" for row in selected_rows(shard, [KEY, "caption"])}
    if scorer.image_size is not None:
        batches = _pictures(shard, captions, scorer.image_size, batch_size)
    elif embeddings is not None:
        batches = _embeddings(embeddings, list(captions), batch_size)
    else:
        batches = (Batch(keys, np.empty((len(keys), 0))) for keys in _batches(captions, batch_size))
    found = _Found(list(captions))
    for batch in batches:
        found.add(batch, scorer, captions)
        on_batch(len(batch.keys) + len(batch.unreadable))
    if lost := found.lost():
        raise GigaganError(
            f"shard {shard.tar} lacks the picture of {len(lost)} of {len(captions)} rows (first: {lost[0]}); remove "
            "its artifact and run ingest again"
        )
    write_scores(found.scores(scorer), path)


@dataclass(frozen=True)
class Batch:
    """Some rows and what a scorer is given of them. inputs: [N, ...]. unreadable: key -> why it has none."""

    keys: Sequence[str]
    inputs: np.ndarray
    unreadable: Mapping[str, str] = field(default_factory=dict)


class _Found:
    """What is known so far of the rows of a shard."""

    def __init__(self, keys: list[str]) -> None:
        self._row = {key: row for row, key in enumerate(keys)}
        self._columns: dict[str, np.ndarray] = {}
        self._reasons: dict[str, str] = {}
        self._seen = np.zeros(len(keys), bool)

    def add(self, batch: Batch, scorer: Scorer, captions: Mapping[str, str]) -> None:
        import torch

        self._reasons |= batch.unreadable
        self._seen[[self._row[key] for key in (*batch.keys, *batch.unreadable)]] = True
        if not batch.keys:
            return
        rows = [self._row[key] for key in batch.keys]
        scored = scorer.score(torch.from_numpy(batch.inputs), [captions[key] for key in batch.keys])
        for name, tensor in scored.items():
            values = tensor.numpy()
            if name not in self._columns:
                self._columns[name] = np.full((len(self._row), *values.shape[1:]), np.nan, np.float32)
            self._columns[name][rows] = values
            finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
            self._reasons |= {batch.keys[place]: "score_not_finite" for place in np.flatnonzero(~finite)}

    def lost(self) -> list[str]:
        """Keys that no batch had."""
        return [key for key, row in self._row.items() if not self._seen[row]]

    def scores(self, scorer: Scorer) -> ShardScores:
        # a shard of which no row could be scored still has the column
        columns = self._columns or {scorer.name: np.full(len(self._row), np.nan, np.float32)}
        metadata = {SCORER: scorer.name, VERSION: scorer.version}
        reasons = [self._reasons.get(key) for key in self._row]
        return ShardScores(list(self._row), columns, dict.fromkeys(columns, metadata), reasons)


def _pictures(shard: Shard, captions: Mapping[str, str], image_size: int, batch_size: int) -> Iterator[Batch]:
    """uint8 [N, 3, S, S], in the order of the tar."""
    for samples in _batches(pictures_of(shard, captions), batch_size):
        keys, unreadable = [], {}
        pixels = np.empty((len(samples), image_size, image_size, 3), np.uint8)
        for sample in samples:
            try:
                pixels[len(keys)] = decode(sample, image_size)
                keys.append(sample.key)
            except CorruptPicture:
                unreadable[sample.key] = "picture_unreadable"
        yield Batch(keys, pixels[: len(keys)].transpose(0, 3, 1, 2), unreadable)


def _embeddings(path: Path, keys: list[str], batch_size: int) -> Iterator[Batch]:
    """float32 [N, E], in the order of the table."""
    stored = read_scores(path)
    if stored.keys != keys:
        raise AssertionError(f"the embeddings {path} are of another shard")
    (vectors,) = stored.columns.values()
    for rows in _batches(range(len(keys)), batch_size):
        there = [row for row in rows if stored.reasons[row] is None]
        unreadable = {keys[row]: reason for row in rows if (reason := stored.reasons[row]) is not None}
        yield Batch([keys[row] for row in there], vectors[there], unreadable)


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


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch
