"""Batches for training out of a shard set: exact epochs, the same order whoever reads, resumed exactly.

Needs torch, pyarrow, numpy and Pillow only. The order of an epoch is a function of (seed, epoch) alone; the
position in the endless sequence of epochs is the global sample index, so a run that saw n images goes on
with ``start_image=n`` as if it had never stopped, on any number of workers.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gigagan_core.data.pictures import CorruptPicture, Sample, decode, list_samples
from gigagan_core.data.shards import folder_of
from gigagan_core.errors import GigaganError
from gigagan_core.models.randomness import keyed_bits
from gigagan_core.text import plain
from gigagan_core.training.loop import Batch

MAX_CORRUPT_SHARE = 0.01
"""The budget: so many of the samples (at least one) may turn out undecodable before reading stops."""

CACHE_MB = 512
PREFETCHED_BATCHES = 2
_log = logging.getLogger(__name__)


class Pictures:
    """Decoded pictures by position, remembered while they all fit; counts those that do not decode.

    image_size: side of the pictures, pixels. cache_mb: nothing is remembered where all pictures together
    would take more. May be used from several threads.
    """

    def __init__(self, samples: Sequence[Sample], image_size: int, cache_mb: int = CACHE_MB):
        self.samples = samples
        self.corrupt: dict[int, str] = {}
        self._image_size = image_size
        self._budget = max(1, int(MAX_CORRUPT_SHARE * len(samples)))
        self._lock = threading.Lock()
        shape = (len(samples), 3, image_size, image_size)
        fits = int(np.prod(shape, dtype=np.int64)) <= cache_mb * 2**20
        self._cache = np.empty(shape, np.uint8) if fits else None
        self._cached = np.zeros(len(samples), bool)

    def get(self, position: int) -> np.ndarray | None:
        """uint8 [3, image_size, image_size], or None for a picture in quarantine.

        Raises GigaganError when more pictures than the budget allows do not decode.
        """
        if position in self.corrupt:
            return None
        if self._cached[position]:
            return self._cache[position]
        try:
            pixels = decode(self.samples[position], self._image_size).transpose(2, 0, 1)
        except CorruptPicture as error:
            self._quarantine(position, str(error))
            return None
        if self._cache is None:
            return pixels
        self._cache[position] = pixels
        self._cached[position] = True
        return self._cache[position]

    def _quarantine(self, position: int, message: str) -> None:
        with self._lock:
            self.corrupt[position] = message
            count = len(self.corrupt)
        _log.warning("left out a picture that does not decode: %s", plain(message))
        if count > self._budget:
            raise GigaganError(
                f"{count} of {len(self.samples)} pictures do not decode, more than the {self._budget} allowed (last: "
                f"{plain(message)}); remove the shard's artifact and run ingest again"
            )


class ShardReader:
    """Iterates for ever over this worker's share of the global batches of a shard set.

    shard_set: an artifact or a folder. image_size: side of the images, pixels; smaller than they are kept,
    as a rule. batch_size: of the *global* batch; worker `rank` of `world_size` gets the contiguous slice
    number `rank` of it. seed: decides order and flips. flip: mirror every image with probability 1/2, keyed
    by its global sample index. start_image: images of the global sequence already seen.
    cache_mb: decoded pictures are kept in memory where all of them fit in so many MiB.

    A picture that does not decode is left out with a warning, and the next of the epoch's order takes its
    place, on whatever worker it falls. Raises GigaganError for damaged shards and for sets too small.
    """

    def __init__(
        self,
        shard_set: Any,
        image_size: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        flip: bool = False,
        start_image: int = 0,
        cache_mb: int = CACHE_MB,
        decode_threads: int = 2,
    ):
        if batch_size % world_size:
            raise GigaganError(
                f"a batch of {batch_size} images does not divide among {world_size} workers; "
                f"set batch_size to a multiple of {world_size}"
            )
        self.samples = list_samples(shard_set)
        if len(self.samples) < batch_size:
            raise GigaganError(
                f"{folder_of(shard_set)} has {len(self.samples)} selected samples, too few for a batch of "
                f"{batch_size}; ingest more, select more, or set a smaller batch_size"
            )
        self.pictures = Pictures(self.samples, image_size, cache_mb)
        self._batch_size, self._seed, self._flip = batch_size, seed, flip
        self._share = batch_size // world_size
        self._start = start_image + rank * self._share
        self._decode_threads = decode_threads
        self._orders: dict[int, Tensor] = {}

    def __len__(self) -> int:
        """Samples in an epoch."""
        return len(self.samples)

    def __iter__(self) -> Iterator[Batch]:
        """Batches from `start_image` on, prepared by a thread; the thread ends with the iterator."""
        ready: queue.Queue[Batch | BaseException] = queue.Queue(PREFETCHED_BATCHES)
        stopped = threading.Event()

        def put(item: Batch | BaseException) -> None:
            while not stopped.is_set():
                with contextlib.suppress(queue.Full):
                    ready.put(item, timeout=0.1)
                    return

        def prepare() -> None:
            try:
                with ThreadPoolExecutor(self._decode_threads) as pool:
                    first = self._start
                    while not stopped.is_set():
                        put(self._batch(first, pool))
                        first += self._batch_size
            except BaseException as error:  # handed to the reader's caller
                put(error)

        thread = threading.Thread(target=prepare, name="shard-reader", daemon=True)
        thread.start()
        try:
            while True:
                item = ready.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
        finally:
            stopped.set()

    def _batch(self, first: int, pool: ThreadPoolExecutor) -> Batch:
        indices = torch.arange(first, first + self._share, dtype=torch.int64)
        found = list(pool.map(self._find, indices.tolist()))
        images = torch.from_numpy(np.stack([pixels for _, pixels in found]))
        images = images.to(torch.float32).div_(127.5).sub_(1.0)
        if self._flip:
            mirrored = keyed_bits(self._seed, "reader/flip", indices, 1)[:, 0] < 0
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        chosen = [self.samples[position] for position, _ in found]
        return Batch(images, [item.caption for item in chosen], [item.key for item in chosen], indices)

    def _find(self, index: int) -> tuple[int, np.ndarray]:
        """The sample at a global index: (position, pixels)."""
        epoch, place = divmod(index, len(self.samples))
        order = self._order(epoch)
        for step in range(len(order)):
            position = int(order[(place + step) % len(order)])
            pixels = self.pictures.get(position)
            if pixels is not None:
                return position, pixels
        raise AssertionError("every picture is in quarantine, which the budget forbids")

    def _order(self, epoch: int) -> Tensor:
        """int64 [samples]: the positions in the order of this epoch."""
        order = self._orders.get(epoch)
        if order is None:
            everyone = torch.arange(len(self.samples), dtype=torch.int64)
            order = keyed_bits(self._seed, f"reader/epoch {epoch}", everyone, 1)[:, 0].argsort(stable=True)
            # A batch touches two epochs at most, a few batches are under way.
            self._orders = {number: kept for number, kept in self._orders.items() if number >= epoch - 2}
            self._orders[epoch] = order
        return order


def load_all(shard_set: Any, image_size: int) -> tuple[Tensor, list[str], list[str]]:
    """Every selected picture of a small set: (uint8 [N, 3, image_size, image_size], captions, keys).

    By shard, then in the table's order. Pictures that do not decode are left out, under the same budget as
    in training. Raises GigaganError for damaged shards and for a set without a selected sample.
    """
    samples = list_samples(shard_set)
    if not samples:
        raise GigaganError(f"{folder_of(shard_set)} has no selected sample; select more or ingest more")
    pictures = Pictures(samples, image_size, cache_mb=0)
    with ThreadPoolExecutor(2) as pool:
        decoded = list(pool.map(pictures.get, range(len(samples))))
    kept = [(sample, pixels) for sample, pixels in zip(samples, decoded, strict=True) if pixels is not None]
    images = torch.from_numpy(np.stack([pixels for _, pixels in kept]))
    return images, [sample.caption for sample, _ in kept], [sample.key for sample, _ in kept]
