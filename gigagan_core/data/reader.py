"""Batches for training out of shard sets: exact epochs, the same order whoever reads, resumed exactly.

Needs torch, pyarrow, numpy and Pillow only. What stands at an index of the endless sequence of images is a function
of (seed, index) alone (see `mixture`), so a run that saw n images goes on with ``start_image=n`` as if it had never
stopped, on any number of workers. A sample costs about 45 bytes and its caption in memory (10 million samples with
captions of 60 letters a GB); pictures are decoded just before they are needed.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gigagan_core.data.mixture import Mixture
from gigagan_core.data.order import candidates, mirrored
from gigagan_core.data.pictures import LOST, CorruptPicture, Samples, decode_planes, read_samples
from gigagan_core.data.shards import folder_of
from gigagan_core.errors import GigaganError
from gigagan_core.models.randomness import keyed_uniform
from gigagan_core.text import plain
from gigagan_core.training.loop import Batch

MAX_CORRUPT_SHARE = 0.01
"""The budget: so many of the samples (at least one) may turn out unreadable before reading stops."""

CACHE_MB = 512
PREFETCHED_BATCHES = 2
_PIECE = 8
_log = logging.getLogger(__name__)

Crop = Literal["centre", "random"]


class Pictures:
    """Decoded pictures by position, remembered while they all fit; counts those that cannot be read.

    image_size: side of the pictures, pixels. cache_mb: nothing is remembered where all pictures together
    would take more. May be used from several threads. Raises GigaganError where more of the samples are lost with
    damaged shards than the budget allows.
    """

    def __init__(self, samples: Samples, image_size: int, cache_mb: int = CACHE_MB):
        self.samples = samples
        self.corrupt: dict[int, str] = {}
        self._image_size = image_size
        self._budget = max(1, int(MAX_CORRUPT_SHARE * len(samples)))
        self._lock = threading.Lock()
        shape = (len(samples), 3, image_size, image_size)
        fits = math.prod(shape) <= cache_mb * 2**20
        self._cache = np.empty(shape, np.uint8) if fits else None
        self._cached = np.zeros(len(samples) if fits else 0, bool)
        for sentence in samples.damage:
            _log.warning("%s; its lost pictures are left out", plain(sentence))
        lost = np.flatnonzero(samples.size == LOST).tolist()
        self.corrupt.update(dict.fromkeys(lost, "lost with its shard"))
        if lost:
            self._check_budget(samples.damage[-1])

    def get(self, position: int, place: float | None = None, mirrored: bool = False) -> np.ndarray | None:
        """uint8 [3, image_size, image_size], or None for a picture in quarantine: see `read`."""
        pixels = np.empty((3, self._image_size, self._image_size), np.uint8)
        return pixels if self.read(position, pixels, place, mirrored) else None

    def read(
        self, position: int, out: np.ndarray, place: float | None = None, mirrored: bool = False
    ) -> bool:
        """Write a picture to out, uint8 [3, image_size, image_size]; False for a picture in quarantine.

        place, mirrored: see `pictures.decode_planes`; only centred squares are remembered.
        Raises GigaganError when more pictures than the budget allows cannot be read.
        """
        if position in self.corrupt:
            return False
        try:
            if self._cache is None or place is not None:
                decode_planes(self.samples, position, out, place, mirrored)
                return True
            if not self._cached[position]:
                decode_planes(self.samples, position, self._cache[position])
                self._cached[position] = True
        except CorruptPicture as error:
            self._quarantine(position, str(error))
            return False
        pixels = self._cache[position]
        out[:] = pixels[..., ::-1] if mirrored else pixels
        return True

    def _quarantine(self, position: int, message: str) -> None:
        _log.warning("left out a picture that does not decode: %s", plain(message))
        with self._lock:
            self.corrupt[position] = message
            self._check_budget(message)

    def _check_budget(self, message: str) -> None:
        if len(self.corrupt) > self._budget:
            raise GigaganError(
                f"{len(self.corrupt)} of {len(self.samples)} pictures cannot be read, more than the {self._budget} "
                f"allowed (last: {plain(message)}); remove the shard's artifact and run ingest again"
            )


class ShardReader:
    """Iterates for ever over this worker's share of the global batches of shard sets.

    data: what `Mixture` takes (a shard set, or pairs of one and its weight), or a `Mixture`.
    image_size: side of the images, pixels; smaller than they are kept, as a rule.
    batch_size: of the *global* batch; worker `rank` of `world_size` gets the contiguous slice number `rank` of it.
    seed: decides order, crops and flips. flip: mirror every image with probability 1/2. crop: which square of a
    picture that is none. Both are keyed by the image's global index.
    start_image: images of the global sequence already seen.
    cache_mb: decoded pictures are kept in memory where all of them fit in so many MiB.

    A picture that does not decode is left out with a warning, and the next of the epoch's order takes its
    place, on whatever worker it falls. Raises GigaganError for sets too small, and for more damage than
    `MAX_CORRUPT_SHARE`.
    """

    def __init__(
        self,
        data: Any,
        image_size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        flip: bool = False,
        crop: Crop = "centre",
        start_image: int = 0,
        cache_mb: int = CACHE_MB,
        decode_threads: int = 2,
    ):
        if batch_size % world_size:
            raise GigaganError(
                f"a batch of {batch_size} images does not divide among {world_size} workers; "
                f"set batch_size to a multiple of {world_size}"
            )
        self.mixture = data if isinstance(data, Mixture) else Mixture(data)
        _check_size(self.mixture, batch_size)
        self.pictures = Pictures(self.mixture.samples, image_size, cache_mb)
        self._batch_size, self._seed, self._flip, self._crop = batch_size, seed, flip, crop
        self._share = batch_size // world_size
        self._start = start_image + rank * self._share
        self._decode_threads = decode_threads
        self._buffers = _Buffers((self._share, 3, image_size, image_size))

    def __len__(self) -> int:
        """Samples in an epoch, of all sets."""
        return len(self.mixture)

    def __iter__(self) -> Iterator[Batch]:
        """Batches from `start_image` on, some of them decoded ahead by threads, which end with the iterator."""
        pool = ThreadPoolExecutor(self._decode_threads, thread_name_prefix="shard-reader")
        ahead: deque[_Order] = deque()
        try:
            for first in itertools.count(self._start, self._batch_size):
                ahead.append(self._begin(first, pool))
                if len(ahead) > PREFETCHED_BATCHES:
                    yield self._finish(ahead.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _begin(self, first: int, pool: ThreadPoolExecutor) -> _Order:
        """Start decoding a batch."""
        indices = np.arange(first, first + self._share)
        sets, visits = self.mixture.visits(indices, self._seed)
        keys = torch.from_numpy(indices)
        order = _Order(
            indices=keys,
            sets=sets,
            visits=visits,
            positions=self.mixture.positions(sets, visits, self._seed),
            places=self._places(keys),
            mirrored=self._mirrored(keys),
            images=self._buffers.take(),
        )
        piece = min(_PIECE, -(-self._share // self._decode_threads))
        for start in range(0, self._share, piece):
            rows = range(start, min(start + piece, self._share))
            order.pieces.append(pool.submit(self._fill, order, rows))
        return order

    def _places(self, indices: Tensor) -> list[float | None]:
        if self._crop == "centre":
            return [None] * len(indices)
        return keyed_uniform(self._seed, "reader/crop", indices, dtype=torch.float64).tolist()

    def _mirrored(self, indices: Tensor) -> list[bool]:
        if not self._flip:
            return [False] * len(indices)
        return mirrored(indices, self._seed).tolist()

    def _fill(self, order: _Order, rows: range) -> None:
        """Decode some images of a batch."""
        for row in rows:
            view = order.images[row], order.places[row], order.mirrored[row]
            if not self.pictures.read(int(order.positions[row]), *view):
                order.positions[row] = self._instead(order, row, view)

    def _instead(self, order: _Order, row: int, view: tuple[Any, ...]) -> int:
        """Where a row's picture is in quarantine: read the next of its set's epoch that can be read; its position."""
        of_set, counts = int(order.sets[row]), self.mixture.counts
        following = candidates(of_set, int(order.visits[row]), counts, self._seed)
        for position in itertools.islice(following, 1, None):
            if self.pictures.read(position, *view):
                return position
        raise GigaganError(
            f"no picture of {self.mixture.folders[of_set]} can be read; remove its artifact and run ingest again"
        )

    def _finish(self, order: _Order) -> Batch:
        """The batch, once all of it is decoded."""
        for piece in order.pieces:
            piece.result()
        samples = self.mixture.samples
        chosen = [samples[position] for position in order.positions]
        labels = None
        if samples.label is not None:
            labels = torch.from_numpy(samples.label[order.positions].astype(np.int64))
        return Batch(
            images=torch.from_numpy(order.images),
            captions=[sample.caption for sample in chosen],
            keys=[sample.key for sample in chosen],
            indices=order.indices,
            labels=labels,
        )


class _Buffers:
    """Memory of batches, used again when nobody holds the batch: new pages cost as much time as filling them."""

    def __init__(self, shape: tuple[int, ...]):
        self._shape = shape
        self._free: list[np.ndarray] = []

    def take(self) -> np.ndarray:
        """uint8 [*shape], not initialised; free again when the array and every tensor of its memory are gone."""
        memory = self._free.pop() if self._free else np.empty(self._shape, np.uint8)
        lent = memory.view()
        weakref.finalize(lent, self._free.append, memory).atexit = False
        return lent


@dataclass
class _Order:
    """A batch under way: what was asked for, and where it goes. positions change where a picture is replaced."""

    indices: Tensor
    sets: np.ndarray
    visits: np.ndarray
    positions: np.ndarray
    places: list[float | None]
    mirrored: list[bool]
    images: np.ndarray
    pieces: list[Future[None]] = field(default_factory=list)


def _check_size(mixture: Mixture, batch_size: int) -> None:
    shares = np.array(mixture.shares) / sum(mixture.shares)
    for folder, count, share in zip(mixture.folders, mixture.counts, shares, strict=True):
        needed = math.ceil(share * batch_size)
        if count < needed:
            part = f"its {needed} of " if needed < batch_size else ""
            raise GigaganError(
                f"{folder} has {count} selected samples, too few for {part}a batch of {batch_size}; ingest more, "
                "select more, or set a smaller batch_size"
            )


def load_all(shard_set: Any, image_size: int) -> tuple[Tensor, list[str], list[str]]:
    """Every selected picture of a small set: (uint8 [N, 3, image_size, image_size], captions, keys).

    By shard, then in the table's order. Pictures that cannot be read are left out, under the same budget as
    in training. Raises GigaganError for more damage than that and for a set without a selected sample.
    """
    samples = read_samples(shard_set)
    pictures = Pictures(samples, image_size, cache_mb=0)
    with ThreadPoolExecutor(2) as pool:
        decoded = list(pool.map(pictures.get, range(len(samples))))
    kept = [position for position, pixels in enumerate(decoded) if pixels is not None]
    if not kept:
        raise GigaganError(
            f"{folder_of(shard_set)} has no selected sample to read; select more or ingest more"
        )
    images = torch.from_numpy(np.stack([decoded[position] for position in kept]))
    found = [samples[position] for position in kept]
    return images, [sample.caption for sample in found], [sample.key for sample in found]
