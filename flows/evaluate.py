"""Models are judged on held-out captions, and a report shows it."""

from __future__ import annotations

from prefect import flow

from flows.events import announce_passed
from flows.runtime import FLOW, open_run
from flows.tasks import evaluate_stage, gate
from gigagan_core.config.backend import BackendSettings
from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.stages import gate as gates
from gigagan_core.stages import protocol_inputs


@flow(name="evaluate", **FLOW)
def evaluate(
    model: str = "latest",
    upsampler: str | None = None,
    control: str | None = None,
    data: str = "latest",
    train: str | None = None,
    condition: str | None = None,
    judge: str = "latest",
    tradeoff: str | None = None,
    preset: str = "demo",
    overrides: list[str] | None = None,
    settings: EvaluateSettings | None = None,
    require: list[str] | None = None,
    strict: bool = False,
    despite_cautions: bool = False,
    promote: str | None = None,
    store: str | None = None,
    force: bool = False,
    accept_code_change: bool = False,
    backend: BackendSettings | None = None,
) -> str:
    """Models, held-out shard set, judge -> report.

    Args:
        model: base model: fingerprint, prefix, path, or latest.
        upsampler: upsampler to judge too, if any.
        control: the upsampler's L1-only control, if any.
        data: held-out shard set.
        train: training shard set, for the baselines made of training images and for their nearest ones.
        condition: encoder of the model; without it the one that it was trained with.
        judge: encoder of role judge, or ARCH:PATH of a weight file.
        tradeoff: truncation sweep of the same model, to show in the report.
        preset: settings to start from.
        overrides: changes to them, each as KEY=VALUE.
        settings: all settings at once, in place of preset and overrides.
        require: what must hold of the figures, e.g. fd<0.2; the flow fails where one does not.
        strict: require it of the worse end of each figure's interval.
        despite_cautions: pass a report of a rehearsal, or of a model judged on the images that it was trained on.
        promote: registered model whose alias moves from candidate to champion where all holds.
        store: folder or URI of the artifact store; without it the local one.
        force: work though the artifact exists.
        accept_code_change: keep an artifact that older code made.
        backend: where the work is done; without it on the machine of this flow run.

    Returns the report's fingerprint.
    """
    requirements = gates.checked(require, promote)
    chosen = (
        protocol_inputs.require_read(settings) if settings else protocol_inputs.settings_of(preset, overrides)
    )
    with open_run("evaluate", store, force, accept_code_change, backend=backend) as run:
        inputs = protocol_inputs.inputs_of(
            run.store,
            chosen,
            model=model,
            upsampler=upsampler,
            control=control,
            data=data,
            train=train,
            condition=condition,
            judge=judge,
            tradeoff=tradeoff,
        )
        report = evaluate_stage(run, chosen, inputs)
        if requirements:
            gate(report, requirements, strict, [promote] if promote else [], despite_cautions)
            announce_passed(report, run.store.uri, requirements, strict, despite_cautions)
        return report.fingerprint
