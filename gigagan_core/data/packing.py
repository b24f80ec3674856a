"""From shard sets and an encoder to a pack, which trains on a machine with torch alone (see `training.pack`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gigagan_core.config.base import all_settings
from gigagan_core.config.training import BaseTrainingSettings, UpsamplerTrainingSettings
from gigagan_core.data.mixture import Mixture
from gigagan_core.data.reader import Pictures
from gigagan_core.encoders.clip_model import ClipModel
from gigagan_core.encoders.open_clip_encoder import ClipEncoder, Preprocessing, load_encoder
from gigagan_core.errors import GigaganError
from gigagan_core.models.counting import on_meta_device
from gigagan_core.text import plain
from gigagan_core.training.pack import BLOCK_BYTES, INDEX, SCHEMA, pack_pictures
from gigagan_core.training.transport import PART_BYTES, Part, to_safetensors, write_index, write_parts
from gigagan_core.training.worker import check_labels, check_text_width, check_vision, network_settings

ATTRIBUTION = "ATTRIBUTION.txt"
_EMBEDDING = "token_embedding.weight"

TrainingSettings = BaseTrainingSettings | UpsamplerTrainingSettings


def write_pack(
    folder: Path,
    settings: TrainingSettings,
    data: list[tuple[Path, float]],
    encoder: Path | str,
    made_of: Mapping[str, Any],
) -> dict[str, Any]:
    """Write a pack into a new or empty folder, and return what its index says.

    data: folders of shard sets, each with its weight. encoder: what `load_encoder` takes. made_of: "preset", "data"
    (for each set: reference, weight, label, notes) and "encoder" (its reference), for the lineage of what is trained.
    Raises GigaganError where the training needs more than a pack can hold, or the folder is not empty.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise GigaganError(f"{folder} is not empty; give a new folder, or empty it")
    _check(settings)
    frozen = load_encoder(encoder)
    check_text_width(settings, frozen.width)
    check_vision(settings, frozen)
    mixture = Mixture(data)
    check_labels(mixture, network_settings(settings))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _write(folder, settings, mixture, frozen, made_of)
    except BaseException:
        shutil.rmtree(folder)
        raise


def _check(settings: TrainingSettings) -> None:
    losses = settings.training.losses
    if getattr(settings.training, "objective", "gan") == "gan" and getattr(losses, "lpips", 0.0):
        raise GigaganError(
            "a pack holds no LPIPS network; set training.losses.lpips=0 and feature_distance instead"
        )
    if settings.crop != "centre":
        raise GigaganError(f"a pack holds each picture once and crop is {settings.crop}; set crop=centre")
    average = on_meta_device(network_settings(settings)).state_dict().values()
    size = sum(tensor.nbytes for tensor in average)
    if size > PART_BYTES:
        raise GigaganError(
            f"the network's weights take {size / 1e6:.1f} MB and a piece of a portable training brings back a model of "
            f"{PART_BYTES / 1e6:.0f} MB at most; take a smaller network"
        )


def _write(
    folder: Path,
    settings: TrainingSettings,
    mixture: Mixture,
    encoder: ClipEncoder,
    made_of: Mapping[str, Any],
) -> dict[str, Any]:
    samples = mixture.samples
    captions, keys = samples.caption.to_pylist(), samples.key.to_pylist()
    captions = [caption or "" for caption in captions]
    asked = [*captions, *getattr(settings, "sample_captions", ())]
    about, weights, tokens = _encoder(encoder, list(dict.fromkeys(asked)))
    blocks, packed = [], bytearray()
    pictures = Pictures(samples, settings.image_size, cache_mb=0)
    for images in _blocks(pictures, len(samples), settings.image_size):
        block = pack_pictures(images)
        blocks.append((len(block), len(images)))
        packed += block
    text = {
        "captions": captions,
        "keys": keys,
        "labels": None if samples.label is None else samples.label.tolist(),
        "lost": sorted(pictures.corrupt),
        "tokens": tokens,
    }
    contents = {"pictures": packed, "samples": json.dumps(text).encode(), "encoder": to_safetensors(weights)}
    files: dict[str, list[Part]] = {
        name: write_parts(folder, name, content) for name, content in contents.items()
    }
    terms = [
        str(each["notes"][key])
        for each in made_of["data"]
        for key in ("licence", "attribution")
        if each["notes"].get(key)
    ]
    (folder / ATTRIBUTION).write_text("".join(f"{plain(line, 2000)}\n" for line in dict.fromkeys(terms)))
    index = {
        "schema": SCHEMA,
        "kind": "base" if isinstance(settings, BaseTrainingSettings) else "upsampler",
        "preset": made_of["preset"],
        "settings": all_settings(settings),
        "data": made_of["data"],
        "encoder": {**about, "reference": made_of["encoder"]},
        "image_size": settings.image_size,
        "counts": mixture.counts,
        "shares": mixture.shares,
        "blocks": blocks,
        "files": files,
    }
    return {**index, "sha256": write_index(folder / INDEX, index)}


def _blocks(pictures: Pictures, count: int, image_size: int) -> Iterator[Tensor]:
    """Every picture in order, some at a time: uint8 [n, 3, S, S], black where it cannot be read."""
    size = max(1, BLOCK_BYTES // (3 * image_size**2))
    positions = iter(range(count))
    with ThreadPoolExecutor(2) as pool:
        while rows := list(islice(positions, size)):
            block = torch.zeros(len(rows), 3, image_size, image_size, dtype=torch.uint8)
            for place, pixels in enumerate(pool.map(pictures.get, rows)):
                if pixels is not None:
                    block[place] = torch.from_numpy(pixels)
            yield block


def _encoder(
    encoder: ClipEncoder, captions: list[str]
) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, list[int]]]:
    """What is known of the encoder, its weights, and the captions' tokens; words that no caption has are left out.

    The rows of the embedding that stay keep their order, so that the end of the text is still the highest number.
    """
    if not isinstance(encoder.model, ClipModel):
        raise GigaganError(f"encoder {encoder.name} is no plain CLIP, and a pack holds those alone")
    tokens = encoder.tokenize(captions)
    words = tokens.unique()
    words = words if words[0] == 0 else torch.cat([torch.zeros(1, dtype=words.dtype), words])
    renamed = torch.searchsorted(words, tokens)
    ends = tokens.argmax(dim=1) + 1
    weights = dict(encoder.model.state_dict())
    weights[_EMBEDDING] = weights[_EMBEDDING][words]
    config = encoder.model.architecture.to_config()
    config["text_cfg"]["vocab_size"] = len(words)
    mean, std = (tuple(buffer.flatten().tolist()) for buffer in (encoder.mean, encoder.std))
    preprocessing = Preprocessing(mean, std, encoder.interpolation)
    about = {
        "name": encoder.name,
        "role": encoder.role,
        "sha256": encoder.sha256,
        "model_cfg": config,
        "preprocess_cfg": asdict(preprocessing),
    }
    rows = zip(captions, renamed.tolist(), ends.tolist(), strict=True)
    return about, weights, {caption: row[:end] for caption, row, end in rows}
