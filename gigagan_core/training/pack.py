"""A pack: all that a training needs, in one folder, for a machine that has torch and the standard library alone.

`data.packing` writes it where everything else is at hand. ``pack.json`` names the settings, what the pack was made of,
and the other files: ``pictures``, ``samples`` and ``encoder``, each in parts.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import lzma
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gigagan_core.data import order
from gigagan_core.encoders.clip_model import ClipArchitecture
from gigagan_core.encoders.open_clip_encoder import ClipEncoder, Preprocessing
from gigagan_core.encoders.weights import load_plain
from gigagan_core.errors import GigaganError
from gigagan_core.models.settings import DiscriminatorSettings, GeneratorSettings, UpsamplerSettings
from gigagan_core.training.loop import Batch
from gigagan_core.training.settings import BaseTraining, UpsamplerTraining
from gigagan_core.training.transport import from_bytes, from_safetensors, read_index, read_parts, to_bytes

INDEX = "pack.json"
SCHEMA = 1
BLOCK_BYTES = 16 * 2**20
"""Pictures are compressed in blocks of about so many bytes."""


@dataclass(frozen=True)
class PackedJob:
    """The part of a training's settings that its steps need; what launchers need stays behind.

    network: of the generator or upsampler. sample_psis: None for an upsampler.
    """

    network: GeneratorSettings | UpsamplerSettings
    discriminator: DiscriminatorSettings
    training: BaseTraining | UpsamplerTraining
    sample_count: int
    sample_captions: tuple[str, ...] = ()
    sample_psis: tuple[float, ...] | None = None

    @classmethod
    def of(cls, kind: str, settings: dict[str, Any]) -> PackedJob:
        """From the values of a `BaseTrainingSettings` ("base") or an `UpsamplerTrainingSettings` ("upsampler")."""
        base = kind == "base"
        psis = tuple(settings["sample_psis"]) if base else None
        return cls(
            restored(GeneratorSettings, settings["generator"])
            if base
            else restored(UpsamplerSettings, settings["upsampler"]),
            restored(DiscriminatorSettings, settings["discriminator"]),
            restored(BaseTraining if base else UpsamplerTraining, settings["training"]),
            settings["sample_count"],
            tuple(settings.get("sample_captions", ())),
            psis,
        )


def restored(settings_type: type, values: dict[str, Any]) -> Any:
    """A settings dataclass from its JSON-able values. Raises GigaganError for a key that it does not know."""
    hints = typing.get_type_hints(settings_type)
    unknown = set(values) - {field.name for field in dataclasses.fields(settings_type)}
    if unknown:
        raise GigaganError(
            f"{settings_type.__name__} has no setting {sorted(unknown)[0]!r}; use the same code on both machines"
        )
    return settings_type(**{name: _restored_value(hints[name], value) for name, value in values.items()})


def _restored_value(hint: Any, value: Any) -> Any:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        hint = next((each for each in typing.get_args(hint) if dataclasses.is_dataclass(each)), hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return restored(hint, value)
    if isinstance(value, list):
        return tuple(_restored_value(None, each) for each in value)
    return value


# ---- what is in it -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pack:
    """index: what ``pack.json`` says, its own sum under "sha256". job: its settings.

    images: uint8 [N, 3, S, S], those that are `lost` black. captions, keys: N each. labels: int64 [N], or None.
    lost: positions of pictures that could not be read. encoder: frozen, on the CPU.
    """

    index: dict[str, Any]
    job: PackedJob
    images: Tensor
    captions: list[str]
    keys: list[str]
    labels: Tensor | None
    lost: frozenset[int]
    encoder: PackedEncoder

    @classmethod
    def read(cls, folder: Path) -> Pack:
        """Everything in a pack's folder. Raises GigaganError where a file is missing, damaged or of other code."""
        index = read_index(folder / INDEX, SCHEMA, "pack")
        files = {name: read_parts(folder, parts) for name, parts in index["files"].items()}
        samples = json.loads(bytes(files["samples"]))
        labels = samples["labels"]
        return cls(
            index=index,
            job=PackedJob.of(index["kind"], index["settings"]),
            images=unpack_pictures(files["pictures"], index["blocks"], index["image_size"]),
            captions=samples["captions"],
            keys=samples["keys"],
            labels=None if labels is None else torch.tensor(labels, dtype=torch.int64),
            lost=frozenset(samples["lost"]),
            encoder=PackedEncoder.of(index["encoder"], from_safetensors(files["encoder"]), samples["tokens"]),
        )


class PackedEncoder(ClipEncoder):
    """A frozen CLIP that knows the captions of its pack alone: their tokens are stored, other words are left out."""

    _tokens: dict[str, list[int]]

    @classmethod
    def of(
        cls, about: dict[str, Any], weights: dict[str, Tensor], tokens: dict[str, list[int]]
    ) -> PackedEncoder:
        """about: name, role, sha256 (of the whole encoder's weights), model_cfg and preprocess_cfg.

        tokens: by caption, up to the end of the text, numbered as the rows of the embedding that are left.
        """
        architecture = ClipArchitecture.from_config(about["model_cfg"])
        if architecture is None:
            raise GigaganError(f"encoder {about['name']} is no plain CLIP; pack again with one that is")
        preprocess = {
            name: tuple(v) if isinstance(v, list) else v for name, v in about["preprocess_cfg"].items()
        }
        encoder = cls(
            load_plain(architecture, weights, f"the pack's encoder {about['name']}"),
            Preprocessing(**preprocess),
            name=about["name"],
            sha256=about["sha256"],
            role=about["role"],
        )
        encoder._tokens = tokens
        return encoder

    def tokenize(self, captions: list[str]) -> Tensor:
        """N captions of the pack -> int64 [N, L] on the encoder's device. Raises GigaganError for another caption."""
        rows = torch.zeros(len(captions), self.context_length, dtype=torch.int64)
        for row, caption in zip(rows, captions):
            if caption not in self._tokens:
                raise GigaganError(
                    f"the pack does not hold the tokens of {caption!r}; name it as a sample caption when packing"
                )
            found = self._tokens[caption]
            row[: len(found)] = torch.tensor(found)
        return rows.to(self.mean.device)


def pack_pictures(images: Tensor) -> bytes:
    """A block: uint8 [n, 3, S, S] compressed by lzma, pixel by pixel, so that equal pixels are equal bytes in a row."""
    return lzma.compress(to_bytes(images.permute(0, 2, 3, 1)), preset=6)


def unpack_pictures(content: bytearray, blocks: Sequence[Sequence[int]], image_size: int) -> Tensor:
    """uint8 [N, 3, S, S]. blocks: (bytes, pictures) of each, in order."""
    images = torch.empty(sum(count for _, count in blocks), 3, image_size, image_size, dtype=torch.uint8)
    start = first = 0
    for size, count in blocks:
        raw = bytearray(lzma.decompress(memoryview(content)[start : start + size]))
        pixels = from_bytes(raw, torch.uint8, (count, image_size, image_size, 3))
        images[first : first + count] = pixels.permute(0, 3, 1, 2)
        start, first = start + size, first + count
    return images


class PackReader:
    """What `data.reader.ShardReader` is to shard sets: the same samples at the same places, from a pack's memory.

    batch_size: of the global batch, of which worker `rank` of `world_size` gets its slice. start_image: images of the
    global sequence already seen.
    """

    def __init__(
        self,
        pack: Pack,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        flip: bool = False,
        start_image: int = 0,
    ):
        self._pack, self._batch_size, self._seed, self._flip = pack, batch_size, seed, flip
        self._share = batch_size // world_size
        self._start = start_image + rank * self._share
        self._counts, self._shares = pack.index["counts"], pack.index["shares"]

    def __iter__(self) -> Iterator[Batch]:
        """Batches from `start_image` on, for ever."""
        for first in itertools.count(self._start, self._batch_size):
            yield self._batch(torch.arange(first, first + self._share))

    def _batch(self, indices: Tensor) -> Batch:
        pack = self._pack
        sets, visits = order.visits(indices, self._shares, self._seed)
        positions = order.positions(sets, visits, self._counts, self._seed)
        for row in [row for row, position in enumerate(positions.tolist()) if position in pack.lost]:
            instead = order.candidates(int(sets[row]), int(visits[row]), self._counts, self._seed)
            positions[row] = next(position for position in instead if position not in pack.lost)
        images = pack.images[positions]
        if self._flip:
            mirrored = order.mirrored(indices, self._seed)
            images[mirrored] = images[mirrored].flip(-1)
        rows = positions.tolist()
        return Batch(
            images=images,
            captions=[pack.captions[row] for row in rows],
            keys=[pack.keys[row] for row in rows],
            indices=indices,
            labels=None if pack.labels is None else pack.labels[positions],
        )
