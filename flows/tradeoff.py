"""A base model is judged at several truncations, and a page shows what each costs and gives."""

from __future__ import annotations

from prefect import flow

from flows.runtime import FLOW, open_run
from flows.tasks import tradeoff_stage
from gigagan_core.config.backend import BackendSettings
from gigagan_core.config.tradeoff import TradeoffSettings
from gigagan_core.stages import references


@flow(name="tradeoff", **FLOW)
def tradeoff(
    model: str = "latest",
    data: str = "latest",
    condition: str | None = None,
    judge: str = "latest",
    preset: str = "demo",
    overrides: list[str] | None = None,
    settings: TradeoffSettings | None = None,
    store: str | None = None,
    force: bool = False,
    accept_code_change: bool = False,
    backend: BackendSettings | None = None,
) -> str:
    """Base model, held-out shard set, judge -> distance and CLIP score by truncation, with the Pareto front.

    Args:
        model: base model: fingerprint, prefix, path, or latest.
        data: held-out shard set.
        condition: encoder of the model; without it the one that it was trained with.
        judge: encoder of role judge, or ARCH:PATH of a weight file.
        preset: whose evaluation says how images are judged.
        overrides: changes to the settings, each as KEY=VALUE, e.g. psi=[1,0.8,0.6].
        settings: all settings at once, in place of preset and overrides.
        store: folder or URI of the artifact store; without it the local one.
        force: work though the artifact exists.
        accept_code_change: keep an artifact that older code made.
        backend: where the work is done; without it on the machine of this flow run.

    Returns the artifact's fingerprint.
    """
    chosen = settings or references.tradeoff_settings(preset, overrides)
    with open_run("tradeoff", store, force, accept_code_change, backend=backend) as run:
        inputs = references.tradeoff_inputs(run.store, model, data, condition, judge)
        return tradeoff_stage(run, chosen, inputs).fingerprint
