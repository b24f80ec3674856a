"""The evaluate stage: held-out captions become images, the judge compares them, a report shows it.

Inputs by name: ``model`` (base-model), ``upsampler`` and ``control`` (upsampler-model, optional; the control
was trained with L1 alone), ``data`` (held-out shard set), ``train`` (training shard set, optional: baselines
made of training images need it), ``condition`` and ``judge`` (encoder). Protocols other than the demonstration's take
what `protocol_inputs` gives them instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from gigagan_core.config.evaluate import OPENMOJI, EvaluateSettings
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise
from gigagan_core.stages.held_out_report import held_out_report
from gigagan_core.stages.judge import saw, teachers
from gigagan_core.store.artifact import Artifact, Input
from gigagan_core.store.lineage import inputs_of
from gigagan_core.store.provenance import record

if TYPE_CHECKING:
    from pathlib import Path

SPEC = StageSpec("evaluate", kind="report", module=__name__)


def run(settings: EvaluateSettings, inputs: Mapping[str, Input], context: RunContext) -> Artifact:
    """The report artifact: `report.json`, `report.html`, `samples.png`, `upsampler.png`, `galleries/`.

    Of a protocol with outside networks: `report.json`, `report.html`, `prompts.jsonl`, `samples.png`, `galleries/`.
    Raises GigaganError where an input is missing. A judge that took part in training the model is refused by protocol
    openmoji-heldout; elsewhere, where the judges are the field's, its figures carry a caution.
    """
    from gigagan_core.encoders.roles import CONDITION, JUDGE, require_role

    if settings.protocol != OPENMOJI:
        label = f"evaluate ({settings.protocol})"
        return materialise(SPEC, settings.as_read(), inputs, context, _produce_by_protocol, label=label)
    missing = [name for name in ("model", "data", "condition", "judge") if inputs.get(name) is None]
    if missing:
        raise GigaganError(f"evaluate needs {' and '.join(missing)}; give the artifact of each")
    require_role(inputs["condition"], CONDITION)
    require_role(inputs["judge"], JUDGE)
    _require_own_sweep(inputs)
    return materialise(SPEC, settings.as_read(), inputs, context, _produce)


def _require_own_sweep(inputs: Mapping[str, Input]) -> None:
    """Raise GigaganError where the truncation sweep is of another model."""
    swept, model = inputs.get("tradeoff"), inputs["model"]
    if swept is not None and (model.stage, model.output_digest) not in inputs_of(swept):
        raise GigaganError(f"trade-off {swept.short} is of another model than {model.short}; sweep this one")


def _produce_by_protocol(work: StageWork) -> Outcome:
    from gigagan_core.evaluation import lineage
    from gigagan_core.evaluation.curves import curves_of
    from gigagan_core.evaluation.protocols import document
    from gigagan_core.evaluation.protocols.request import protocol_run
    from gigagan_core.evaluation.protocols.run import evaluate
    from gigagan_core.evaluation.protocols.showcase import show

    # forced work takes nothing that was kept, and goes on with its own after a kill
    own = work.path / "metrics" if work.context.force else None
    asked = protocol_run(work.settings, work.inputs, teachers(work), saw(work), own)
    result = evaluate(asked, work.ray)
    report = document.ProtocolReport(
        result,
        show(asked, result, work.ray),
        work.settings,
        curves=curves_of(work.inputs),
        lineage=lineage.trace({name: each for name, each in work.inputs.items() if each}, work.store),
        attribution=lineage.attribution(work.inputs),
        record=record(work.run.run_id),
    )
    paths = document.write(report, work.output)
    work.run.log_metrics(report.metrics)
    _log_files(work, paths)
    chosen, available = len(result.prompts.prompts), result.prompts.available
    left = available - chosen
    return Outcome(
        counts={"in": available, "out": chosen, "rejected": {"not drawn": left} if left else {}},
        summary=report.metrics,
        notes={"cautions": list(result.cautions), "prompts_sha256": result.prompts.sha256},
    )


def _produce(work: StageWork) -> Outcome:
    from gigagan_core.evaluation import report as reports

    report, available = held_out_report(work)
    paths = reports.write(report, work.output)
    named = reports.metrics(report)
    held_out = work.inputs["data"]
    work.run.log_dataset("held-out", held_out.uri, held_out.output_digest, held_out.manifest.get("counts"))
    work.run.log_metrics(named)
    work.run.set_tags({f"claim.{claim.id}": claim.status for claim in report.claims})
    _log_files(work, paths)
    skipped = available - report.count
    return Outcome(
        counts={
            "in": available,
            "out": report.count,
            "rejected": {"over max_images": skipped} if skipped else {},
        },
        summary=_headlines(named),
        notes={
            "claims": {claim.id: claim.status for claim in report.claims},
            "cautions": list(report.cautions),
            "extractor": report.extractor,
            "attribution": "\n".join(report.attribution),
        },
    )


def _log_files(work: StageWork, paths: Mapping[str, Path]) -> None:
    shown = {name: path for name, path in paths.items() if path.suffix == ".png"}
    for name, path in sorted(shown.items()):
        work.run.log_image(name, path)
    for name in sorted(paths.keys() - shown.keys()):
        work.run.log_artifact(paths[name])


def _headlines(named: Mapping[str, float]) -> dict[str, float]:
    """The figures for the closing table: the model's own, and the distances of every baseline."""
    ends = ("-low", "-high", "-chance")
    return {
        name: value
        for name, value in named.items()
        if not name.partition("_")[0].endswith(ends)
        and (not name.startswith("baseline/") or name.split("/")[-1].partition("_")[0].endswith("fd"))
    }
