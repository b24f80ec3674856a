"""What an evaluation by a protocol needs, found or named as missing before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gigagan_core.assets.catalogue import asset
from gigagan_core.assets.folder import AssetFolder, require
from gigagan_core.config.evaluate import OPENMOJI, EvaluateSettings
from gigagan_core.errors import GigaganError, nearest
from gigagan_core.evaluation.folder_files import digest_of_folder
from gigagan_core.evaluation.protocols.named import protocol as protocol_of
from gigagan_core.evaluation.protocols.protocol import Protocol
from gigagan_core.evaluation.protocols.request import ASSET
from gigagan_core.stages import references
from gigagan_core.store.artifact import ExternalFile
from gigagan_core.store.fingerprint import sha256_file
from gigagan_core.store.store import Store

LATEST = "latest"


def settings_of(preset: str, overrides: Sequence[str] | None = None) -> EvaluateSettings:
    """The settings of a preset's evaluation with KEY=VALUE changes.

    Raises GigaganError for a change that the protocol does not read.
    """
    settings = references.settings_of(preset, "evaluate", overrides)
    return require_read(settings, references.settings_of(preset, "evaluate"))


def require_read(settings: EvaluateSettings, before: EvaluateSettings | None = None) -> EvaluateSettings:
    """`settings`. Raises GigaganError where one that the protocol does not read is not as `before` (the defaults)."""
    before = before or EvaluateSettings()
    ignored = sorted(name for name in settings.unread if getattr(settings, name) != getattr(before, name))
    if ignored:
        raise GigaganError(
            f"--set {' and '.join(ignored)}: protocol {settings.protocol} does not read that; leave it out, or name "
            "another --protocol"
        )
    return settings


def inputs_of(
    store: Store,
    settings: EvaluateSettings,
    *,
    model: str = LATEST,
    upsampler: str | None = None,
    control: str | None = None,
    data: str = LATEST,
    train: str | None = None,
    condition: str | None = None,
    judge: str = LATEST,
    tradeoff: str | None = None,
) -> dict[str, Any]:
    """The inputs of `gigagan_core.stages.evaluate` for the protocol of the settings.

    Raises GigaganError, naming every asset that is missing and the command that fetches them, for what is not in the
    store, and for what is given and the protocol does not look at.
    """
    if settings.protocol == OPENMOJI:
        return references.evaluation_inputs(
            store, model, upsampler, control, data, train, condition, judge, tradeoff
        )
    protocol = protocol_of(settings.protocol, settings.mode)
    _refuse_ignored(protocol, settings, model, control, data, judge, tradeoff)
    files = _assets(protocol, settings)
    if protocol.prompts is not None and protocol.prompts.layout == "file" and settings.prompts is None:
        raise GigaganError(
            f"protocol {protocol.name} takes prompts of yours; name their file with --set prompts=FILE"
        )
    upsampling = protocol.task == "upsampling"
    base = None if upsampling else references.base_model(store, model)
    enlarging = references.upsampler(store, upsampler or LATEST) if upsampling or upsampler else None
    chosen = base or enlarging
    if chosen is None:
        raise AssertionError("neither a base model nor an upsampler")
    encoder = references.encoder(store, condition) if condition else references.encoder_of(store, chosen)
    return {
        "model": base,
        "upsampler": enlarging,
        "condition": encoder,
        "data": references.shard_set(store, data, held_out=True) if protocol.needs_data else None,
        "train": references.shard_set(store, train) if train and not upsampling else None,
        "prompts": _external(settings.prompts, "prompts") if settings.prompts else None,
        **files,
    }


def _refuse_ignored(
    protocol: Protocol,
    settings: EvaluateSettings,
    model: str,
    control: str | None,
    data: str,
    judge: str,
    tradeoff: str | None,
) -> None:
    """Raise GigaganError for the first thing given that the protocol does not look at; "latest" is nothing given."""
    upsampling = protocol.task == "upsampling"
    ignored = {
        "--tradeoff": (tradeoff, f"only a report of protocol {OPENMOJI} shows one"),
        "--control": (control, f"only protocol {OPENMOJI} judges one"),
        "--judge": (
            judge != LATEST,
            f"protocol {protocol.name} has its own judges, see `gigagan assets list`",
        ),
        "--data": (
            data != LATEST and not protocol.needs_data,
            f"protocol {protocol.name} takes no shard set",
        ),
        "--model": (upsampling and model != LATEST, f"protocol {protocol.name} enlarges real images"),
        "--set prompts": (
            upsampling and settings.prompts,
            f"protocol {protocol.name} enlarges captioned images",
        ),
    }
    for option, (given, why) in ignored.items():
        if given:
            raise GigaganError(f"{option}: {why}; leave it out")


def _assets(protocol: Protocol, settings: EvaluateSettings) -> dict[str, ExternalFile]:
    own = settings.assets
    for name in own:
        if name not in protocol.assets:
            raise GigaganError(
                f"--set assets: protocol {protocol.name} needs no {name!r}; {nearest(name, protocol.assets)}"
            )
    folder = AssetFolder()
    missing = [name for name in protocol.assets if name not in own]
    require(missing, f"protocol {protocol.name}", folder)
    found = {}
    for name in protocol.assets:
        if name in own:
            found[ASSET + name] = _external(own[name], f"asset {name}")
        else:
            sha256 = (folder.record(name) or {})["sha256"]
            found[ASSET + name] = ExternalFile(str(folder.place(asset(name))), sha256)
    return found


def _external(place: str, what: str) -> ExternalFile:
    """A file by its sum; a folder by the names and sums of its files."""
    path = Path(place).expanduser().absolute()
    if path.is_dir():
        return ExternalFile(str(path), digest_of_folder(path))
    if not path.is_file():
        raise GigaganError(f"{what}: {path} is not there; give the path of an existing one")
    return ExternalFile(str(path), sha256_file(path))
