"""From the settings and inputs of the evaluate stage to what `run.evaluate` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gigagan_core import environment
from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.evaluation.protocols.named import protocol as protocol_of

if TYPE_CHECKING:
    from gigagan_core.evaluation.protocols.run import ProtocolRun

ASSET = "asset/"
"""What the names of the inputs begin with that are assets."""


def protocol_run(
    settings: EvaluateSettings,
    inputs: Mapping[str, Any],
    teachers: Mapping[str, str],
    saw_data: bool,
    work: Path | None = None,
) -> ProtocolRun:
    """The evaluation that settings and inputs ask for. teachers, saw_data: as in `run.ProtocolRun`.

    work: where images and features are kept; None: below the home folder, where other evaluations find them.
    """
    from gigagan_core.evaluation.protocols.generation import Model
    from gigagan_core.evaluation.protocols.run import ProtocolRun
    from gigagan_core.evaluation.set_metrics import MeasureOptions

    protocol = protocol_of(settings.protocol, settings.mode)
    model = Model(
        base=inputs.get("model"),
        upsampler=inputs.get("upsampler"),
        encoder=inputs["condition"],
        seed=settings.seed,
        psi=settings.psi,
        batch_size=settings.batch_size,
    )
    prompts = inputs.get("prompts")
    assets = {
        name.removeprefix(ASSET): Path(each.uri) for name, each in inputs.items() if name.startswith(ASSET)
    }
    return ProtocolRun(
        protocol=replace(protocol, seed=settings.seed),
        model=model,
        assets=assets,
        work=work or environment.home() / "metrics",
        data=inputs.get("data"),
        prompts=None if prompts is None else Path(prompts.uri),
        fetched=frozenset(assets) - settings.assets.keys(),
        teachers=teachers,
        saw_data=saw_data,
        limit=settings.max_images,
        shard_size=settings.shard_size,
        in_process=settings.in_process_shards,
        keep=settings.samples_shown,
        batch_size=settings.batch_size,
        threads=settings.threads,
        options=MeasureOptions(resamples=settings.bootstrap_resamples, level=settings.confidence),
        train=inputs.get("train"),
        gallery=settings.gallery_shown,
        searched=settings.training_searched,
    )
