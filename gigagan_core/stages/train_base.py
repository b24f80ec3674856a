"""The train-base stage: captioned images and an encoder in, a base model out."""

from __future__ import annotations

from gigagan_core.config.training import BaseTrainingSettings
from gigagan_core.encoders.roles import CONDITION, require_role
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise
from gigagan_core.stages.training import check_inputs, train_stage
from gigagan_core.store.artifact import Artifact, Input

SPEC = StageSpec("train-base", kind="base-model", module=__name__)


def run(settings: BaseTrainingSettings, inputs: dict[str, Input], context: RunContext) -> Artifact:
    """Train a base model.

    inputs: "data", a shard set, or pairs of one and its weight; "encoder", an encoder artifact;
    "vision_encoder", optional, whose features the vision-aided heads read (else the encoder's); "init_from", optional,
    an earlier model, or its bundle, whose generator is the start. The artifact holds ``bundle/`` (the model),
    ``curves.json`` (metrics by images seen) and ``samples/`` (grids, named by images seen).
    Raises GigaganError for what the user can mend; training goes on from the last checkpoint when run again.
    """
    check_inputs(inputs, SPEC.name)
    if inputs.get("vision_encoder") is not None:
        require_role(inputs["vision_encoder"], CONDITION)
    return materialise(SPEC, settings, inputs, context, _produce)


def _produce(work: StageWork) -> Outcome:
    return train_stage(work, kind="base")
