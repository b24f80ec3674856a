"""Shards of prompts become images and, in the same task, features; what is done is found again after a kill.

The images lie as PNG files only as long as they are needed, but for the first few: 30,000 of 512 px would take 12 GB.
What they were is recorded by their sums, so that their features are found without them; where other features are
wanted of images that are gone, or more images are to be kept, they are made again. Evaluations that ask for the same
images at once take turns, shard by shard.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.extraction import (
    FAKE,
    REAL,
    Plan,
    Shard,
    ShardResult,
    extract_shard,
    forget,
    is_done,
    writing,
)
from gigagan_core.evaluation.kept_work import makers_digest
from gigagan_core.evaluation.patches import shrink
from gigagan_core.evaluation.picture_folder import Picture, decode
from gigagan_core.store.artifact import Artifact, Input, digest_of
from gigagan_core.store.fingerprint import code_digest, digest, sha256_file

_RECORD = "pictures.json"
MAKERS = (
    "gigagan_core.inference.generate",
    "gigagan_core.encoders.open_clip_encoder",
    "gigagan_core.evaluation.patches",
    "gigagan_core.evaluation.picture_folder",
)
"""The modules that make images: their source and what they import is part of the images' key."""
_IMAGES = "generated images"


@dataclass(frozen=True)
class Model:
    """What makes the images, picklable: artifacts are opened where they are needed.

    base: turns captions into images, or None for upsampling real ones. upsampler: or None. encoder: conditions both.
    seed: keys the latents, with the number of the image. psi: truncation. batch_size: images at once; it decides
    nothing (up to the rounding of the last bit).
    """

    base: Input
    upsampler: Input
    encoder: Input
    seed: int = 0
    psi: float = 1.0
    batch_size: int = 16

    @property
    def key(self) -> str:
        """Of everything that decides the images, our source included, but for captions and inputs."""
        inputs = [digest_of(each) for each in (self.base, self.upsampler, self.encoder)]
        return digest([*inputs, self.seed, self.psi, _maker()])


@functools.cache
def _maker() -> str:
    """Digest of what makes images; of this module its own source alone, for it imports what judges them, too."""
    return digest([makers_digest(*MAKERS), code_digest(__name__)[1][__name__]])


@dataclass(frozen=True)
class _Record:
    """Images that were made, and how many first ones of all shards were to be kept of them."""

    pictures: tuple[Picture, ...]
    keep: int

    def lacks(self, shard: PromptShard) -> bool:
        """Whether an image that the shard keeps was let go by an evaluation that kept fewer."""
        numbered = enumerate(self.pictures, shard.first)
        return any(self.keep <= number < shard.keep and not _is_as_made(each) for number, each in numbered)


@dataclass(frozen=True)
class PromptShard:
    """A run of captions and what becomes of them.

    first: number of the first image. captions: one an image. sources: real images to be shrunk to `low` pixels and
    enlarged, cropped and resized to `size` first; none where captions alone decide. keep: so many first images stay.
    """

    first: int
    captions: tuple[str, ...]
    model: Model
    sources: tuple[Picture, ...] = ()
    size: int | None = None
    low: int | None = None
    keep: int = 0

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def pictures(self) -> tuple[str, ...]:
        """The roles whose images it has."""
        return (REAL, FAKE) if self.sources else (FAKE,)

    def folder(self, work: Path) -> Path:
        """Where its images are recorded."""
        sums = [source.sha256 for source in self.sources]
        key = digest([self.model.key, self.first, list(self.captions), sums, self.size, self.low])
        return work / "generated" / key[:32]


def judge_shard(shard: Shard | PromptShard, plan: Plan, work: Path) -> ShardResult:
    """The streams of a shard of files, or of one whose images have to be made first."""
    return extract_shard(shard, plan, work) if isinstance(shard, Shard) else generate_shard(shard, plan, work)


def generate_shard(shard: PromptShard, plan: Plan, work: Path) -> ShardResult:
    """The streams of a shard of captions; images are made where they, or features of them, are missing or damaged.

    Raises GigaganError for a model that does not fit, and for a source that does not decode.
    """
    folder = shard.folder(work)
    with _alone_in(folder, work):
        record = _recorded(folder)
        if record is None or record.lacks(shard) or not _is_enough(record, shard, plan, work):
            record = _make(shard, folder, 0 if record is None else record.keep)
        judged = _with(shard, record.pictures)
        result = extract_shard(judged, plan, work)
        if result.facts[FAKE]["corrupt"]:
            # Pillow wrote these files, so this is a fault of the moment and not to be kept
            forget(judged, plan, work)
            (folder / _RECORD).unlink()
        for number, picture in enumerate(record.pictures, shard.first):
            if number >= max(shard.keep, record.keep):
                Path(picture.path).unlink(missing_ok=True)
    return result


def _is_enough(record: _Record, shard: PromptShard, plan: Plan, work: Path) -> bool:
    """Whether every feature is there, or every image to take them of."""
    done = is_done(_with(shard, record.pictures), plan, work)
    return done or all(_is_as_made(picture) for picture in record.pictures)


def make_again(shard: PromptShard, plan: Plan, work: Path) -> ShardResult:
    """The shard's images as files, all of which stay; those that are there as they were made are not made again.

    No features are taken; plan: unused, for `extraction.extract` gives it to every task.
    """
    folder = shard.folder(work)
    with _alone_in(folder, work):
        record = _recorded(folder)
        fresh = record is None or not all(_is_as_made(picture) for picture in record.pictures)
        if fresh:
            _make(shard, folder, shard.first + len(shard))
    return ShardResult({}, {}, fresh)


@contextlib.contextmanager
def _alone_in(folder: Path, work: Path) -> Iterator[None]:
    """One evaluation at a time: another one would let images go that this one is about to judge."""
    with contextlib.ExitStack() as stack:
        with writing(work, _IMAGES):
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(folder.with_suffix(".lock"), "w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def kept_images(shard: PromptShard, work: Path) -> dict[int, Path]:
    """The files of its images that were kept and are as they were made, by the number of the image."""
    record = _recorded(shard.folder(work))
    return {
        number: Path(picture.path)
        for number, picture in enumerate(record.pictures if record else (), shard.first)
        if _is_as_made(picture)
    }


class Sampler:
    """The networks of a model, loaded; on the GPU where there is one."""

    def __init__(self, model: Model) -> None:
        from gigagan_core.encoders.open_clip_encoder import load_encoder
        from gigagan_core.inference.generate import open_bundle

        self._model = model
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._encoder: Any = load_encoder(place_of(model.encoder), self._device)
        self._base, self._upsampler = (
            None if each is None else open_bundle(place_of(each), kind, self._encoder, device=self._device)[0]
            for kind, each in (("base", model.base), ("upsampler", model.upsampler))
        )

    def images(self, captions: Sequence[str], first: int, low: Tensor | None = None) -> Tensor:
        """uint8 [N, 3, H, W] of N captions; image i has the latent of number first + i. low: uint8 [N, 3, h, h]."""
        from gigagan_core.inference.generate import draw, enlarge

        model, made = self._model, []
        for start in range(0, len(captions), model.batch_size):
            batch = list(captions[start : start + model.batch_size])
            rows = torch.arange(first + start, first + start + len(batch))
            if self._base is not None:
                images = draw(self._base, self._encoder, batch, rows, model.seed, model.psi)
            elif low is not None:
                images = low[start : start + len(batch)]
            else:
                raise AssertionError("neither a base model nor images to enlarge")
            if self._upsampler is not None:
                self._require_fits(images)
                images = enlarge(self._upsampler, self._encoder, images, batch, rows, model.seed, 0.0)
            made.append(images)
        return torch.cat(made)

    def _require_fits(self, images: Tensor) -> None:
        side = self._upsampler.settings.low_size
        if images.shape[-1] != side:
            raise GigaganError(
                f"the upsampler takes images of {side} px and is given {images.shape[-1]} px; name the upsampler of "
                "this base model, or a protocol of its size"
            )


@functools.lru_cache(maxsize=1)
def _sampler(model: Model) -> Sampler:
    return Sampler(model)


def place_of(each: Input) -> str:
    """A folder on this machine, or ARCH:PATH of an outside file."""
    if each is None or isinstance(each, list):
        raise AssertionError(f"{each!r} is no model")
    return str(each.path) if isinstance(each, Artifact) else each.uri


def _make(shard: PromptShard, folder: Path, kept: int) -> _Record:
    low = low_images(shard) if shard.sources else None
    images = _sampler(shard.model).images(shard.captions, shard.first, low)
    with writing(folder, _IMAGES):
        folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    for number, image in enumerate(images, shard.first):
        encoded = io.BytesIO()
        # quick rather than small: most of them live for a minute
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(encoded, "PNG", compress_level=1)
        path = folder / f"{number:08}.png"
        _write(path, encoded.getvalue())
        pictures.append(
            Picture(path.name, str(path.absolute()), hashlib.sha256(encoded.getvalue()).hexdigest())
        )
    made = _Record(tuple(pictures), max(shard.keep, kept))
    rows = [[picture.name, picture.sha256] for picture in pictures]
    _write(folder / _RECORD, json.dumps({"keep": made.keep, "pictures": rows}).encode())
    return made


def low_images(shard: PromptShard) -> Tensor:
    """Its real images as the upsampler gets them, uint8 [N, 3, low, low]; GigaganError for one that does not decode.

    Decoded and shrunk in batches: in float32, 256 images of 1024 px take 3 GB.
    """
    if shard.low is None:
        raise AssertionError("sources need the size that they are shrunk to")
    step = shard.model.batch_size
    starts = range(0, len(shard.sources), step)
    return torch.cat([shrink(_decoded(shard, start, start + step), shard.low) for start in starts])


def _decoded(shard: PromptShard, start: int, end: int) -> Tensor:
    """Some sources at the shard's size, uint8 [n, 3, size, size]."""
    if shard.size is None:
        raise AssertionError("sources need one size to be batched at")
    pictures = []
    for source in shard.sources[start:end]:
        picture = decode(source, shard.size)
        if isinstance(picture, str):
            raise GigaganError(
                f"real image {source.path} does not decode ({picture}); remove it from the set"
            )
        pictures.append(torch.from_numpy(picture.transpose(2, 0, 1).copy()))
    return torch.stack(pictures)


def _recorded(folder: Path) -> _Record | None:
    try:
        document = json.loads((folder / _RECORD).read_text())
        rows = [(name, str((folder / name).absolute()), sha256) for name, sha256 in document["pictures"]]
        return _Record(tuple(Picture(*row) for row in rows), int(document["keep"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _is_as_made(picture: Picture) -> bool:
    path = Path(picture.path)
    return path.is_file() and sha256_file(path) == picture.sha256


def _with(shard: PromptShard, pictures: tuple[Picture, ...]) -> Shard:
    roles = {FAKE: pictures} | ({REAL: shard.sources} if shard.sources else {})
    return Shard(shard.first, roles, shard.captions)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.part")
    with writing(path.parent, _IMAGES):
        temporary.write_bytes(data)
        os.replace(temporary, path)
