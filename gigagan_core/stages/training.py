"""What train-base and train-upsampler have in common: launch, watch, export."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from gigagan_core import console
from gigagan_core.encoders.roles import CONDITION, require_role
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import Outcome, StageWork
from gigagan_core.store.artifact import Artifact, Input
from gigagan_core.tracking.system_metrics import system_metrics
from gigagan_core.training.card import model_card
from gigagan_core.training.curves import write_curves
from gigagan_core.training.record import NON_FINITE, TrainingRecord
from gigagan_core.training.worker import TrainingJob


def check_inputs(inputs: Mapping[str, Input], stage: str) -> None:
    """Raise GigaganError where data or encoder is missing, a weight is none, or the encoder is the judge.

    inputs["data"]: a shard set, or pairs of one and its weight. The pairs are in the fingerprint as they are given:
    their order says which of equal samples stays, their weights how often each set is seen.
    """
    missing = [name for name in ("data", "encoder") if not inputs.get(name)]
    if missing:
        raise GigaganError(f"{stage} needs {' and '.join(missing)}; give a shard set and an encoder")
    mixture_of(inputs["data"])
    require_role(inputs["encoder"], CONDITION)


def mixture_of(data: Any) -> list[tuple[Artifact, float]]:
    """Shard sets and their weights, of a stage's input. Raises GigaganError for a weight or a set that is none."""
    if isinstance(data, Artifact):
        return [(data, 1.0)]
    for shard_set, weight in data:
        if not (math.isfinite(weight) and weight > 0):
            raise GigaganError(
                f"shard set {shard_set.short} has weight {weight}; give a number above 0, or leave it out"
            )
    digests = [shard_set.output_digest for shard_set, _ in data]
    twice = [shard_set.short for shard_set, _ in data if digests.count(shard_set.output_digest) > 1]
    if twice:
        raise GigaganError(
            f"shard set {twice[0]} is in the mixture more than once; give it once, with one weight"
        )
    return list(data)


def train_stage(work: StageWork, kind: Literal["base", "upsampler"]) -> Outcome:
    """Train, or go on training, and fill the stage's output with bundle, curves and sample grids."""
    mixture, encoder = mixture_of(work.inputs["data"]), work.inputs["encoder"]
    further = {
        name: _place(work.inputs[name])
        for name in ("vision_encoder", "lpips", "init_from")
        if work.inputs.get(name)
    }
    folders = tuple((str(data.path), weight) for data, weight in mixture)
    job = TrainingJob(settings=work.settings, data=folders, encoder=_place(encoder), **further)
    for data, _ in mixture:
        work.run.log_dataset("train", data.uri, data.output_digest, data.manifest.get("counts"))
    label = work.label.replace("train-", "training ")
    from gigagan_core.training.checkpoint import MILESTONES, milestones

    samples = work.path / "samples"
    with console.progress(label, total=job.total_images, unit="images") as bar, system_metrics(work.run):
        record = TrainingRecord(bar, work.run, samples)
        checkpoint = _launch(work, job, record)
    history, images_seen, parameters = _export(work, job, kind, checkpoint, work.output)
    for milestone in milestones(work.path):
        place = work.output / MILESTONES / f"{milestone.images_seen:09d}"
        _export(work, job, kind, milestone.folder, place)
    write_curves(work.output / "curves.json", history)
    for folder in (samples, work.path / NON_FINITE):
        if folder.is_dir():
            shutil.copytree(folder, work.output / folder.name, dirs_exist_ok=True)
    return Outcome(
        summary=summary_of(history, images_seen, parameters), notes=terms_of([data for data, _ in mixture])
    )


def terms_of(data: list[Artifact]) -> dict[str, str]:
    """Licences and attributions of all the sets."""
    found = {
        key: dict.fromkeys(str(shard_set.notes[key]) for shard_set in data if key in shard_set.notes)
        for key in ("licence", "license", "attribution")
    }
    return {key: " · ".join(texts) for key, texts in found.items() if texts}


def one_by_one(inputs: Mapping[str, Input]) -> dict[str, Input]:
    """The inputs with each shard set of a mixture under a name of its own."""
    if isinstance(inputs["data"], Artifact):
        return dict(inputs)
    sets = {
        f"data {number}, weight {weight:g}": data for number, (data, weight) in enumerate(inputs["data"], 1)
    }
    return {**sets, **{name: value for name, value in inputs.items() if name != "data"}}


def _launch(work: StageWork, job: TrainingJob, record: TrainingRecord) -> Path:
    if work.settings.launcher == "plain":
        from gigagan_core.training import launch_plain

        return launch_plain.launch(job, work.path, record.handle)
    from gigagan_core.training import launch_ray

    return launch_ray.launch(job, work.path.absolute(), record.handle, work.ray(), work.settings.workers)


def _place(encoder: Any) -> str:
    """What `load_encoder` takes: an artifact's folder, or ARCH:PATH of an outside file."""
    return str(encoder.path) if isinstance(encoder, Artifact) else encoder.uri


def _export(
    work: StageWork, job: TrainingJob, kind: str, checkpoint: Path, folder: Path
) -> tuple[list[dict[str, float]], int, int]:
    """Write ``folder/bundle/`` from a checkpoint; returns the learning curves, images seen, parameters."""
    from gigagan_core.encoders.open_clip_encoder import load_encoder
    from gigagan_core.training.checkpoint import read_state

    state = read_state(checkpoint)
    encoder = load_encoder(job.encoder).sha256
    parameters = export_model(folder, work.settings, one_by_one(work.inputs), kind, state, encoder)
    return state["history"], state["images_seen"], parameters


def export_model(
    folder: Path,
    settings: Any,
    inputs: Mapping[str, Input],
    kind: str,
    state: Mapping[str, Any],
    encoder_sha256: str,
) -> int:
    """Write ``folder/bundle/``, the average of a training's state; returns its parameters.

    inputs: for the card, one set each. state: a `checkpoint.snapshot`.
    """
    import torch

    from gigagan_core.training.checkpoint import export_bundle
    from gigagan_core.training.recipes import initial_network
    from gigagan_core.training.worker import network_settings

    seed = settings.training.schedule.seed
    network = initial_network(network_settings(settings), seed)
    network.load_state_dict(state["ema"])
    parameters = sum(parameter.numel() for parameter in network.parameters())
    config = {
        "kind": kind,
        "image_size": settings.image_size,
        "encoder_sha256": encoder_sha256,
        "seed": seed,
        "images_seen": state["images_seen"],
        "torch": torch.__version__,
    }
    card = model_card(settings, inputs, config, parameters, state["history"])
    export_bundle(folder / "bundle", network, config, card)
    return parameters


def summary_of(history: list[dict[str, float]], images_seen: int, parameters: int) -> dict[str, float]:
    """The figures of a model's manifest: losses as they ended, and sizes."""
    last = history[-1] if history else {}
    return {
        "images_seen": images_seen,
        "parameters": parameters,
        **{name: value for name, value in last.items() if name.endswith("/loss")},
    }
