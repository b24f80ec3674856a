"""One pass over the pictures of a shard: decoded once, in threads, while the networks work on those before."""

from __future__ import annotations

import functools
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gigagan_core.assets.folder import resolve_named
from gigagan_core.encoders.perceptual import SMALLEST, load_lpips
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.extraction import (
    CAPTIONS,
    FAKE,
    FEATURES,
    PAIRS,
    PATCHES,
    REAL,
    Plan,
    Shard,
    device,
    loaded,
)
from gigagan_core.evaluation.extractors.base import Extractor
from gigagan_core.evaluation.features import to_unit_range
from gigagan_core.evaluation.patches import cut_patches, patch_positions, psnr
from gigagan_core.evaluation.picture_folder import decode
from gigagan_core.evaluation.similarity import ssim

Stream = tuple[str, str, str]
_BATCHES_AHEAD = 2
_OF_ONE_PAIR = {"psnr": psnr, "ssim": ssim}
_LPIPS_PIXELS = 1 << 20
"""Of the pairs that LPIPS sees at once: its VGG keeps more than 2 GB of one pair of 1024 px."""


@dataclass
class Done:
    """rows: stream -> float32 [n, D]. facts: role -> count, sizes ("HxW" -> count), corrupt ([position, reason]) and
    kept (positions in the shard of the pictures that have rows)."""

    rows: dict[Stream, np.ndarray] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class _Place:
    """One place of a shard, decoded: pictures by role or what is wrong with them, and what the networks take."""

    pictures: dict[str, np.ndarray | str]
    prepared: dict[Stream, list[np.ndarray]]

    @property
    def whole(self) -> bool:
        return not any(isinstance(picture, str) for picture in self.pictures.values())


class ShardPass:
    """Computes `wanted` streams of a shard; see `extraction.extract_shard`."""

    def __init__(self, shard: Shard, plan: Plan, wanted: list[Stream]) -> None:
        self._shard, self._plan = shard, plan
        asked = {key for kind, _, key in wanted if kind != PAIRS}
        self._extractors: dict[str, Extractor] = {
            each.key: loaded(each.place) for each in plan.extractors if each.key in asked
        }
        self._embedded = [stream for stream in wanted if stream[0] in (FEATURES, PATCHES)]
        self._captioned = [stream for stream in wanted if stream[0] == CAPTIONS]
        self._paired = [stream for stream in wanted if stream[0] == PAIRS]
        self._side_by_side = any(kind in (PAIRS, PATCHES) for kind, _, _ in wanted)
        self._lpips = _Lpips(plan)

    def run(self) -> Done:
        """Raises GigaganError where a file cannot be read, pairs differ in size, or a network refuses its input."""
        rows: dict[Stream, list[np.ndarray]] = defaultdict(list)
        waiting: dict[Stream, list[np.ndarray]] = defaultdict(list)
        corrupt: dict[str, list[tuple[int, str]]] = {role: [] for role in self._shard.pictures}
        sizes: dict[str, Counter[str]] = {role: Counter() for role in self._shard.pictures}
        kept = []
        for position, place in enumerate(self._places()):
            for role, picture in place.pictures.items():
                if isinstance(picture, str):
                    corrupt[role].append((position, picture))
            if not place.whole:
                continue
            kept.append(position)
            for role, picture in place.pictures.items():
                sizes[role][f"{picture.shape[0]}x{picture.shape[1]}"] += 1
            self._measure_pair(place, rows)
            for stream, prepared in place.prepared.items():
                waiting[stream] += prepared
                self._embed(stream, waiting, rows, self._plan.batch_size)
        for stream in self._embedded:
            self._embed(stream, waiting, rows, 1)
        done = Done(facts={role: self._facts(kept, corrupt[role], sizes[role]) for role in corrupt})
        for stream in self._embedded:
            width = self._extractors[stream[2]].width
            done.rows[stream] = _joined(rows[stream], width)
        for stream in self._paired:
            pieces = self._lpips.rows() if stream[2] == "lpips" else rows[stream]
            done.rows[stream] = _joined(pieces, 1)
        for stream in self._captioned:
            done.rows[stream] = self._captions(self._extractors[stream[2]], kept)
        return done

    def _facts(self, kept: list[int], corrupt: list[tuple[int, str]], sizes: Counter[str]) -> dict[str, Any]:
        return {"count": len(kept), "sizes": dict(sizes), "corrupt": corrupt, "kept": kept}

    def _places(self) -> Iterator[_Place]:
        """Every place of the shard in order, a bounded number decoded before they are taken."""
        ahead = _BATCHES_AHEAD * self._plan.batch_size
        with ThreadPoolExecutor(self._plan.threads or len(os.sched_getaffinity(0))) as pool:
            waiting: dict[int, Future[_Place]] = {}
            for position in range(len(self._shard)):
                for coming in range(position, min(position + ahead, len(self._shard))):
                    if coming not in waiting:
                        waiting[coming] = pool.submit(self._place, coming)
                yield waiting[position].result()
                waiting[position] = Future()  # lets go of the pictures

    def _place(self, position: int) -> _Place:
        pictures = {
            role: decode(listed[position], self._plan.size) for role, listed in self._shard.pictures.items()
        }
        place = _Place(pictures, {})
        if place.whole:
            if self._side_by_side:
                self._require_equal_sizes(pictures, position)
            for stream in self._embedded:
                kind, role, key = stream
                cut = [pictures[role]] if kind == FEATURES else self._patches(pictures[role], position)
                place.prepared[stream] = [self._extractors[key].prepare(each) for each in cut]
        return place

    def _patches(self, picture: np.ndarray, position: int) -> list[np.ndarray]:
        """Seeded patches; the picture's global number decides the places, so both of a pair get the same."""
        patches = self._plan.patches
        if patches is None:
            raise AssertionError("patch streams without a patch plan")
        height, width = picture.shape[:2]
        if height != width:
            raise GigaganError(
                f"patch-FD takes square images and {self._shard.pictures[FAKE][position].name} is {width} x {height}; "
                "give --size N, which crops to the centre square"
            )
        number = torch.tensor([self._shard.first + position])
        places = patch_positions(number, height, patches.size, patches.per_image, patches.seed)
        cut = cut_patches(_tensor(picture), places, patches.size)
        return list(cut.permute(0, 2, 3, 1).contiguous().numpy())

    def _embed(
        self,
        stream: Stream,
        waiting: dict[Stream, list[np.ndarray]],
        rows: dict[Stream, list[np.ndarray]],
        at_least: int,
    ) -> None:
        """Full batches through the network, and with at_least 1 what is left; equal shapes are one batch."""
        while len(waiting[stream]) >= at_least:
            batch = waiting[stream][: self._plan.batch_size]
            del waiting[stream][: self._plan.batch_size]
            rows[stream].append(self._extractors[stream[2]].features_of(batch))

    def _require_equal_sizes(self, pictures: dict[str, np.ndarray], position: int) -> None:
        real, fake = (list(pictures[role].shape[:2]) for role in (REAL, FAKE))
        if real != fake:
            raise GigaganError(
                f"paired images differ in size ({real} and {fake}): {self._shard.pictures[FAKE][position].name}; PSNR, "
                "SSIM, LPIPS and patch-FD need equal sizes, so give --size N or images of one size"
            )

    def _measure_pair(self, place: _Place, rows: dict[Stream, list[np.ndarray]]) -> None:
        if not self._paired:
            return
        real, fake = (_tensor(place.pictures[role]) for role in (REAL, FAKE))
        for stream in self._paired:
            if stream[2] == "lpips":
                self._lpips.add(fake, real)
            else:
                rows[stream].append(_column(_OF_ONE_PAIR[stream[2]](fake, real)))

    def _captions(self, extractor: Extractor, kept: list[int]) -> np.ndarray:
        captions = [self._shard.captions[position] for position in kept]
        size = 8 * self._plan.batch_size
        pieces = [
            extractor.caption_features(captions[start : start + size])
            for start in range(0, len(captions), size)
        ]
        return _joined(pieces, extractor.width)


class _Lpips:
    """LPIPS of pairs as they come, those of one size in common batches."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._done: list[np.ndarray] = []

    def add(self, fake: Tensor, real: Tensor) -> None:
        """One pair, uint8 [1, 3, H, W] each. Raises GigaganError for images that are too small for the backbone."""
        backbone = resolve_named(self._plan.lpips or "").partition(":")[0]
        height, width = fake.shape[-2:]
        if min(height, width) < SMALLEST.get(backbone, 0):
            raise GigaganError(
                f"LPIPS by {backbone} takes images of at least {SMALLEST[backbone]} px, these are {width} x {height}; "
                "give larger ones"
            )
        if self._waiting and self._waiting[0][0].shape != fake.shape:
            self._measure()
        self._waiting.append((fake, real))
        if len(self._waiting) * height * width >= _LPIPS_PIXELS:
            self._measure()

    def rows(self) -> list[np.ndarray]:
        """Of every pair, in order: float32 [n, 1] a batch."""
        if self._waiting:
            self._measure()
        return self._done

    @torch.inference_mode()
    def _measure(self) -> None:
        network = _lpips_network(self._plan.lpips or "", self._plan.lpips_sha256, device())
        fake, real = (
            to_unit_range(torch.cat(side).to(device())) for side in zip(*self._waiting, strict=True)
        )
        self._done.append(_column(network(fake, real)))
        self._waiting.clear()


@functools.lru_cache(maxsize=1)
def _lpips_network(place: str, sha256: str | None, on: str) -> nn.Module:
    """LPIPS, loaded once a process. sha256: of its backbone, so that another file at the same place is read anew."""
    return load_lpips(place, on)


def _column(values: Tensor) -> np.ndarray:
    """One number an image to float32 [N, 1]."""
    return values.reshape(-1, 1).to("cpu", torch.float32).numpy()


def _joined(pieces: list[np.ndarray], width: int) -> np.ndarray:
    return np.concatenate([np.empty((0, width), np.float32), *pieces])


def _tensor(picture: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] to uint8 [1, 3, H, W]."""
    return torch.from_numpy(np.array(picture.transpose(2, 0, 1)))[None]
