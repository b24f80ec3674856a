"""What the stages that judge a model have in common: the judge is nobody's teacher."""

from __future__ import annotations

from collections.abc import Mapping

from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import StageWork
from gigagan_core.store.artifact import Artifact, Input


def check_judge(judge: str, condition: str, inputs: Mapping[str, Input], work: StageWork) -> None:
    """Raise GigaganError where a training stage has used the judge: it would grade its own pupil.

    judge, condition: sha256 of the encoders. inputs: the stage's.
    """
    from gigagan_core.evaluation import lineage

    trained = {name: inputs.get(name) for name in ("model", "upsampler", "control")}
    used = {line["fingerprint"] for line in lineage.trace(trained, work.store)}
    if judge == condition or getattr(inputs["judge"], "fingerprint", None) in used:
        raise GigaganError(
            f"the judge (sha256 {judge[:12]}) took part in training the model; evaluate with an encoder that "
            "no training stage used, for instance the one trained with role judge"
        )


def teachers(work: StageWork) -> dict[str, str]:
    """sha256 -> role of every file from outside that the models, or the data they were trained on, were made with.

    A network among them would judge its own pupil. A role: ``model ← vision_encoder``.
    """
    from gigagan_core.evaluation import lineage

    made = {name: work.inputs.get(name) for name in ("model", "upsampler", "condition")}
    lines = lineage.trace(made, work.store)
    return {line["fingerprint"]: line["role"] for line in lines if line["stage"] == lineage.OUTSIDE}


def saw(work: StageWork) -> bool:
    """Whether the models were trained on the shard set that judges them, or on one that it was selected from."""
    from gigagan_core.evaluation import lineage

    models = lineage.trace({name: work.inputs.get(name) for name in ("model", "upsampler")}, work.store)
    data = lineage.trace({"data": work.inputs.get("data")}, work.store)
    judged = {line["fingerprint"] for line in data if set(line["role"].split(lineage.ARROW)) == {"data"}}
    return not judged.isdisjoint(line["fingerprint"] for line in models)


def place(encoder: Input) -> str:
    """What `load_encoder` takes: an artifact's folder, or ARCH:PATH of an outside file."""
    return str(encoder.path) if isinstance(encoder, Artifact) else encoder.uri
