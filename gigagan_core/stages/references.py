"""From the words of a person to a stage's settings and inputs.

An artifact is named by a fingerprint, a unique prefix of one, a path, or `latest`; an encoder also as
ARCH:PATH of a weight file. `asset:NAME` stands for a fetched file wherever a weight file is named.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gigagan_core.assets.folder import resolve_named
from gigagan_core.config import presets
from gigagan_core.config.base import with_overrides
from gigagan_core.config.pipeline import PipelineSettings
from gigagan_core.config.tradeoff import TradeoffSettings
from gigagan_core.errors import GigaganError
from gigagan_core.stages.selection import SPEC as CURATE
from gigagan_core.store.artifact import Artifact, ExternalFile
from gigagan_core.store.fingerprint import sha256_file
from gigagan_core.store.named import base_model, encoder, encoder_of, upsampler, weight_file
from gigagan_core.store.store import Store

HELD_OUT = "heldout"
"""The last word of the label of a shard set that no training stage may see."""


def pipeline_settings(preset: str, overrides: Sequence[str] | None = None) -> PipelineSettings:
    """A preset with KEY=VALUE changes; KEY is dotted, e.g. ``base.training.schedule.total_images``."""
    settings = with_overrides(presets.preset(preset), overrides or ())
    if settings.source.kind == "tables":
        settings = settings.model_copy(update={"ingest": _without_site(settings.ingest)})
    return settings


def settings_of(
    preset: str, section: str, overrides: Sequence[str] | None = None, own_tables: bool = False
) -> Any:
    """One stage's settings of a preset with KEY=VALUE changes.

    section: a field of `PipelineSettings`. own_tables: the user's, so neither the embedded site nor its
    licence belongs to them.
    """
    settings = presets.section(preset, section)
    if own_tables:
        settings = _without_site(settings)
    return with_overrides(settings, overrides or ())


def tradeoff_settings(preset: str, overrides: Sequence[str] | None = None) -> TradeoffSettings:
    """A truncation sweep of a preset's model, judged as the preset's evaluation is, with KEY=VALUE changes."""
    evaluated = presets.section(preset, "evaluate")
    shared = set(TradeoffSettings.model_fields) & set(type(evaluated).model_fields) - {"psi"}
    settings = TradeoffSettings(**{name: getattr(evaluated, name) for name in shared})
    return with_overrides(settings, overrides or ())


def _without_site(settings: Any) -> Any:
    return settings.model_copy(update={"site": None})


def shard_set(store: Store, reference: str, held_out: bool = False) -> Artifact:
    """A shard set, curated or not; `latest` is the newest for training, or the newest held-out one."""
    return store.resolve(
        reference,
        ("shard-set",),
        where=lambda artifact: reference != "latest" or _is_held_out(store, artifact) == held_out,
        what="held-out shard set" if held_out else "shard set",
    )


def uncurated(store: Store, reference: str) -> Artifact:
    """The shard set of a stage before `curate`, and its own; `latest` is the newest for training that is not curated.

    Else the same command given again would take its own result, and select once more from what was selected.
    """
    return store.resolve(
        reference,
        ("shard-set",),
        where=lambda artifact: (
            reference != "latest" or not (artifact.stage == CURATE.name or _is_held_out(store, artifact))
        ),
        what="shard set that is not curated",
    )


def training_data(store: Store, references: str | Sequence[str]) -> Artifact | list[tuple[Artifact, float]]:
    """What a model is trained on: a shard set, or several, each as REFERENCE or REFERENCE=WEIGHT.

    Without a weight a set counts 1; weights are shares of the images, whatever they sum to.
    """
    named = [references] if isinstance(references, str) else list(references)
    if not named:
        raise GigaganError("no shard set was named; give --data ARTIFACT, or `latest`")
    pairs = [_with_weight(reference) for reference in named]
    if len(pairs) == 1:
        return shard_set(store, pairs[0][0])
    return [(shard_set(store, reference), weight) for reference, weight in pairs]


def _with_weight(reference: str) -> tuple[str, float]:
    name, equals, weight = reference.rpartition("=")
    try:
        return (name, float(weight)) if equals else (reference, 1.0)
    except ValueError:  # a path may hold an equals sign
        return reference, 1.0


def _is_held_out(store: Store, artifact: Artifact) -> bool:
    """Whether a shard set was fetched to be held out, or selected from one that was."""
    source = artifact.manifest.get("inputs", {}).get("data") if artifact.stage == CURATE.name else None
    if source and (parent := store.attempt(source["stage"], source["fingerprint"], source["attempt"])):
        return _is_held_out(store, parent)
    return artifact.label.split()[-1:] == [HELD_OUT]


def initial_model(store: Store, reference: str, kind: str) -> Artifact | ExternalFile:
    """A model to start warm from: an artifact of this kind ("base-model", "upsampler-model"), or a bundle's folder."""
    folder = Path(reference).expanduser().absolute()
    weights = folder / "model.safetensors"
    if weights.is_file():
        return ExternalFile(str(folder), sha256_file(weights))
    return store.resolve(reference, (kind,), what=f"{kind.removesuffix('-model')} model to start from")


def report(store: Store, reference: str) -> Path:
    """A report's folder or `report.json`: of an artifact, or anywhere on this machine."""
    path = Path(reference).expanduser()
    if path.is_file() or (path / "report.json").is_file():
        return path
    return store.resolve(reference, ("report",), what="report").path


def lpips_weights(reference: str) -> ExternalFile:
    """BACKBONE:PATH of an LPIPS backbone's weight file, such as vgg:/weights/vgg16-397923af.pth, or asset:lpips-vgg."""
    backbone, colon, path = resolve_named(reference).partition(":")
    if not colon:
        raise GigaganError(
            f"LPIPS weights {reference!r}: write BACKBONE:PATH, such as vgg:/weights/vgg16.pth"
        )
    return weight_file(backbone, path, what="LPIPS weights", kind="BACKBONE")


def evaluation_inputs(
    store: Store,
    model: str = "latest",
    upsampler_: str | None = None,
    control: str | None = None,
    data: str = "latest",
    train: str | None = None,
    condition: str | None = None,
    judge: str = "latest",
    tradeoff: str | None = None,
) -> dict[str, Any]:
    """The inputs of `gigagan_core.stages.evaluate`; without `condition`, the encoder of the model."""
    base = base_model(store, model)
    return {
        "model": base,
        "upsampler": upsampler(store, upsampler_) if upsampler_ else None,
        "control": upsampler(store, control, objective="l1") if control else None,
        "data": shard_set(store, data, held_out=True),
        "train": shard_set(store, train) if train else None,
        "condition": encoder(store, condition) if condition else encoder_of(store, base),
        "judge": encoder(store, judge, role="judge"),
        "tradeoff": store.resolve(tradeoff, ("tradeoff",), what="trade-off") if tradeoff else None,
    }


def tradeoff_inputs(
    store: Store,
    model: str = "latest",
    data: str = "latest",
    condition: str | None = None,
    judge: str = "latest",
) -> dict[str, Any]:
    """The inputs of `gigagan_core.stages.tradeoff`; without `condition`, the encoder of the model."""
    found = evaluation_inputs(store, model, data=data, condition=condition, judge=judge)
    return {name: found[name] for name in ("model", "data", "condition", "judge")}
