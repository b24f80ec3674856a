"""The import-model stage: what a portable training brought back becomes a model of the store, as if trained here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gigagan_core.config.base import parse
from gigagan_core.config.training import BaseTrainingSettings, UpsamplerTrainingSettings
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise
from gigagan_core.stages.training import export_model, mixture_of, one_by_one, summary_of, terms_of
from gigagan_core.store.artifact import Artifact, ExternalFile
from gigagan_core.store.store import Store

SPECS = {
    "base": StageSpec("import-model", kind="base-model", module=__name__),
    "upsampler": StageSpec("import-model", kind="upsampler-model", module=__name__),
}
_SETTINGS = {"base": BaseTrainingSettings, "upsampler": UpsamplerTrainingSettings}


def run(folder: Path, context: RunContext) -> Artifact:
    """The model in a result of `training.portable`, finished or not.

    The artifact holds ``bundle/``, ``curves.json``, ``samples/`` and ``metrics.jsonl``; its inputs are the shard sets,
    the encoder, the pack and the result. Raises GigaganError where the result is damaged, or where the store lacks what
    the pack was made of.
    """
    from gigagan_core.training import piece
    from gigagan_core.training.transport import read_index

    index = read_index(folder / piece.INDEX, piece.SCHEMA, "result of a portable training")
    kind = index["kind"]
    settings = parse(_SETTINGS[kind], index["settings"], str(folder / piece.INDEX))
    sets = [(_found(context.store, each["reference"]), each["weight"]) for each in index["data"]]
    inputs: dict[str, Any] = {
        "data": sets[0][0] if len(sets) == 1 else sets,
        "encoder": _found(context.store, index["encoder"]["reference"]),
        "pack": ExternalFile("pack", index["pack"]),
        "result": ExternalFile(str(folder.absolute()), index["sha256"]),
    }
    label = f"import-model ({kind})"
    return materialise(
        SPECS[kind], settings, inputs, context, lambda work: _produce(work, folder, kind), label
    )


def _found(store: Store, reference: dict[str, Any]) -> Artifact | ExternalFile:
    """The artifact of a manifest's reference, with the content that the pack was made of."""
    if "uri" in reference:
        return ExternalFile(reference["uri"], reference["sha256"], read_as=reference.get("read_as"))
    found = store.find(reference["stage"], reference["fingerprint"])
    if found is None or found.output_digest != reference["output_digest"]:
        raise GigaganError(
            f"the {reference['kind']} {reference['fingerprint'][:12]} that the pack was made of is not in store "
            f"{store.uri}; import the model into the store where the pack was made (--store)"
        )
    return found


def _produce(work: StageWork, folder: Path, kind: str) -> Outcome:
    from gigagan_core.training.piece import read_result, unzip_record

    index, state, record = read_result(folder)
    inputs = one_by_one(work.inputs)
    parameters = export_model(work.output, work.settings, inputs, kind, state, index["encoder"]["sha256"])
    unzip_record(record, work.output)
    work.run.log_artifact(work.output / "curves.json")
    for row in state["history"]:
        figures = {name: value for name, value in row.items() if name != "images"}
        work.run.log_metrics(figures, step=int(row["images"]))
    for grid in sorted((work.output / "samples").glob("*.png")):
        work.run.log_image("samples", grid, step=int(grid.stem))
    trained = {
        name: index[name] for name in ("device", "torch", "threads", "seconds", "preset", "total_images")
    }
    return Outcome(
        summary=summary_of(state["history"], state["images_seen"], parameters),
        notes={**terms_of([data for data, _ in mixture_of(work.inputs["data"])]), "trained": trained},
    )
