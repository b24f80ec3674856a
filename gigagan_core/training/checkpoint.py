"""Checkpoints, to continue training, and model bundles, to use what was trained.

A checkpoint folder holds ``state.pt`` and ``checkpoint.json``; the JSON is written last and holds the
state's sha256, so a folder without it, or with another sum, is not a checkpoint.
A bundle folder holds ``model.safetensors`` (the averaged generator), ``config.json``, ``MODEL_CARD.md``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from gigagan_core.errors import GigaganError
from gigagan_core.store.fingerprint import sha256_file
from gigagan_core.training.sharding import map_tensors
from gigagan_core.training.state import TrainState, load_network
from gigagan_core.training.world import World

STATE = "state.pt"
META = "checkpoint.json"
WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "MODEL_CARD.md"
BUNDLE_SCHEMA = 1


# ---- checkpoints -----------------------------------------------------------------------------------


def snapshot(state: TrainState, world: World) -> dict[str, Any]:
    """A copy of the state in CPU memory, which later steps leave alone; every worker must call it.

    Whole on rank 0, empty on the others. Loads into any number of workers, replicated or sharded.
    """
    state.window.share(world)
    living = state.state_dict()
    if world.rank != 0:
        return {}
    return map_tensors(lambda tensor: tensor.detach().to("cpu", copy=True), living)


def write_checkpoint(folder: Path, saved: dict[str, Any], world: World, seed: int) -> None:
    """Write a checkpoint's files into an existing folder, the sum last. saved: what `snapshot` gave rank 0.

    The reader's position is `images_seen`; all other randomness is a function of the seed and of it. Raises OSError.
    """
    _save(saved, folder / STATE)
    _sync(folder / STATE)
    meta = {
        "images_seen": saved["images_seen"],
        "step": saved["step"],
        "seed": seed,
        "world_size": world.size,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "sha256": sha256_file(folder / STATE),
    }
    (folder / META).write_text(json.dumps(meta, indent=1))
    _sync(folder / META)


def load_checkpoint(folder: Path, state: TrainState) -> dict[str, Any]:
    """Continue `state` from a checkpoint folder; returns what `checkpoint.json` says.

    Each worker reads the file, and brings to its device what it holds of the state.
    Raises GigaganError where the folder is not a whole checkpoint or belongs to other networks.
    """
    saved = read_state(folder)
    try:
        state.load_state_dict(saved)
    except (RuntimeError, KeyError, ValueError) as error:
        raise GigaganError(
            f"checkpoint {folder} belongs to other networks or settings ({str(error).splitlines()[0]}); train "
            "with the settings that made it, or delete it"
        ) from error
    return read_meta(folder) or {}


def read_state(folder: Path) -> dict[str, Any]:
    """The `snapshot` in a checkpoint folder; raises GigaganError where it is not whole.

    Its tensors are mapped from the file, so that the workers of a node share the memory.
    """
    meta = read_meta(folder)
    if meta is None:
        raise GigaganError(f"checkpoint {folder}: no readable {META} there; give a whole checkpoint folder")
    if sha256_file(folder / STATE) != meta["sha256"]:
        raise GigaganError(
            f"checkpoint {folder}: {STATE} does not have the sha256 that {META} names; delete the folder to "
            "continue from the checkpoint before it"
        )
    return torch.load(folder / STATE, map_location="cpu", weights_only=True, mmap=True)


def read_meta(folder: Path) -> dict[str, Any] | None:
    """What a checkpoint says of itself; None where the folder is not a whole checkpoint."""
    try:
        return json.loads((folder / META).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


class CheckpointFolder:
    """The checkpoints of one run in a local folder: written aside, renamed when whole, the last few kept."""

    def __init__(self, root: Path, keep: int = 2):
        self._root, self._keep = root, keep

    @contextlib.contextmanager
    def new(self, images_seen: int) -> Iterator[Path]:
        """A folder to write a checkpoint into; it becomes one when the block ends without an error."""
        final = self._root / f"{images_seen:012d}"
        partial = self._root / f".{final.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _sync(self._root)
        for old in self.all()[: -self._keep]:
            shutil.rmtree(old)

    def all(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        if not self._root.is_dir():
            return []
        folders = [path for path in self._root.iterdir() if not path.name.startswith(".")]
        return sorted(path for path in folders if read_meta(path) is not None)

    def latest(self) -> Path | None:
        """The newest whole checkpoint, or None."""
        found = self.all()
        return found[-1] if found else None


MILESTONES = "milestones"


def keep_milestone(checkpoint: Path, folder: Path, images_seen: int, every: int) -> None:
    """Keep a copy below ``folder/milestones/`` where this is the first checkpoint after `every` more images; 0: never.

    The copy shares the files of a checkpoint on the same disk. It is whole or not there.
    """
    if not every or images_seen < every:
        return
    root = folder / MILESTONES
    if any(path.images_seen // every == images_seen // every for path in milestones(folder)):
        return
    link_checkpoint(checkpoint, root / f".{images_seen:012d}.partial").rename(root / f"{images_seen:012d}")


class Milestone(NamedTuple):
    """A checkpoint that is kept whatever is pruned."""

    images_seen: int
    folder: Path


def milestones(folder: Path) -> list[Milestone]:
    """Those below ``folder/milestones/``, oldest first."""
    found = (folder / MILESTONES).glob("[0-9]*")
    return sorted(Milestone(int(path.name), path) for path in found)


def link_checkpoint(checkpoint: Path, target: Path) -> Path:
    """A copy at `target`, replacing what is there, that outlives the checkpoint; it shares its files where it can."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(checkpoint, target, copy_function=_link)
    return target


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copy2(source, target)


def _save(saved: dict[str, Any], path: Path) -> None:
    """`torch.save`, but a full disk is the OSError that it is: torch's own way to a file raises RuntimeError."""
    with path.open("wb") as file:
        try:
            torch.save(saved, file)
        except RuntimeError as error:
            # What torch says when it closes the archive after a failed write; that one stands behind it.
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def _sync(path: Path) -> None:
    """Have the file or folder on the disk before anything says that it is there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- bundles ---------------------------------------------------------------------------------------


def export_bundle(folder: Path, network: nn.Module, config: dict[str, Any], card: str) -> None:
    """Write a model bundle into `folder` (made if missing).

    network: a Generator or Upsampler; its `settings` dataclass goes into the config as "network".
    config: "kind" ("base" or "upsampler"), "image_size", "encoder_sha256", "seed" (of the initial weights) and
    whatever else is known.
    card: Markdown for people, e.g. from `model_card`.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    whole = {"schema": BUNDLE_SCHEMA, **config, "network": asdict(network.settings)}
    (folder / CONFIG).write_text(json.dumps(whole, indent=1, sort_keys=True))
    (folder / CARD).write_text(card)


def read_config(path: Path | str) -> dict[str, Any]:
    """A bundle's config: at least "kind" and, as a mapping, "network". Raises GigaganError where there is none."""
    folder = bundle_folder(Path(path))
    try:
        config = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise _no_config(path, str(error)) from error
    if not isinstance(config, dict) or config.get("kind") not in ("base", "upsampler"):
        raise _no_config(path, 'it is of no "kind" of ours')
    if not isinstance(config.get("network"), dict):
        raise _no_config(path, 'it has no settings of a "network"')
    return config


def _no_config(path: Path | str, reason: str) -> GigaganError:
    return GigaganError(
        f"model bundle {path}: no usable {CONFIG} ({reason}); give a folder with {WEIGHTS} and {CONFIG}"
    )


def load_bundle(path: Path | str, device: torch.device | str = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """The network of a bundle (eval, frozen) and its config.

    path: a bundle folder, or an artifact's folder that holds one as ``bundle/``. Raises GigaganError.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    network, config = load_untrained(path, device)
    try:
        network.load_state_dict(load_file(bundle_folder(Path(path)) / WEIGHTS, device=str(device)))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise _unusable(path, error) from error
    return network, config


def start_warm(state: TrainState, path: Path) -> None:
    """Give generator and average the weights of an earlier model; the discriminator starts as it is.

    path: as `load_bundle`'s. Raises GigaganError where the bundle's network is another.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    read_config(path)
    try:
        weights = load_file(bundle_folder(path) / WEIGHTS)
        for network in (state.generator, state.ema):
            load_network(network, weights)
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise GigaganError(
            f"model bundle {path} cannot be the start of this training ({reason}); give one whose network has the "
            "same settings, or leave out init-from"
        ) from error


def load_untrained(path: Path | str, device: torch.device | str = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """The network of a bundle as it was before the first step, made again from settings and seed; its config."""
    from pydantic import TypeAdapter, ValidationError

    from gigagan_core.models.settings import GeneratorSettings, UpsamplerSettings
    from gigagan_core.training.recipes import initial_network

    config = read_config(path)
    settings_type = GeneratorSettings if config["kind"] == "base" else UpsamplerSettings
    try:
        settings = TypeAdapter(settings_type).validate_python(config["network"])
        network = initial_network(settings, config["seed"])
    except (ValidationError, KeyError) as error:
        raise _unusable(path, error) from error
    return network.to(device).eval().requires_grad_(False), config


def _unusable(path: Path | str, error: Exception) -> GigaganError:
    reason = str(error).splitlines()[0]
    return GigaganError(
        f"model bundle {path}: {CONFIG} and {WEIGHTS} do not fit this code ({reason}); train it again"
    )


def bundle_folder(path: Path) -> Path:
    """The bundle of a path that is one, or that holds one."""
    return path / "bundle" if (path / "bundle" / CONFIG).is_file() else path
