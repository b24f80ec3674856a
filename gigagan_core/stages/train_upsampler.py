"""The train-upsampler stage: captioned images and an encoder in, an upsampler (or its L1 control) out."""

from __future__ import annotations

from gigagan_core.config.training import UpsamplerTrainingSettings
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise
from gigagan_core.stages.training import check_inputs, train_stage
from gigagan_core.store.artifact import Artifact, Input

SPEC = StageSpec("train-upsampler", kind="upsampler-model", module=__name__)


def run(settings: UpsamplerTrainingSettings, inputs: dict[str, Input], context: RunContext) -> Artifact:
    """Train an upsampler; `settings.training.objective` says whether as a GAN or as the L1 control.

    inputs: "data", a shard set, or pairs of one and its weight; "encoder", an encoder artifact;
    "lpips", a backbone's weight file (needed where
    `losses.lpips` is not 0), see `encoders.perceptual.load_lpips`; "init_from", as train-base's. The artifact holds
    ``bundle/``, ``curves.json`` and ``samples/``, as train-base's does. Raises GigaganError for what the user can mend.
    """
    objective = settings.training.objective
    label = SPEC.name if objective == "gan" else f"{SPEC.name}-{objective}"
    check_inputs(inputs, SPEC.name)
    if objective == "gan" and settings.training.losses.lpips and inputs.get("lpips") is None:
        raise GigaganError(
            f"training.losses.lpips is {settings.training.losses.lpips:g} and no LPIPS weights were given; give "
            "vgg:PATH of torchvision's VGG-16 weights, or set training.losses.lpips=0 and "
            "training.losses.feature_distance instead"
        )
    return materialise(SPEC, settings, inputs, context, _produce, label=label)


def _produce(work: StageWork) -> Outcome:
    return train_stage(work, kind="upsampler")
