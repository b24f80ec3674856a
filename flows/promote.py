"""A model whose report meets its requirements becomes the champion of its registered model."""

from __future__ import annotations

from prefect import flow
from prefect.logging import get_run_logger

from flows.runtime import FLOW, stage_task
from gigagan_core.errors import GigaganError
from gigagan_core.stages import gate as gates
from gigagan_core.stages import references
from gigagan_core.store.store import open_store
from gigagan_core.tracking.registry import NAMES


@stage_task(name="promote")
def promote_judged(
    report: str, store: str | None, require: list[str], strict: bool, model: str, despite_cautions: bool
) -> list[str]:
    """The gate once more, on the report as it lies in the store; gives sentences on what was found and done."""
    place = references.report(open_store(store), report)
    return gates.pass_gate(place, require, strict, [model], despite_cautions)


@flow(name="promote", **FLOW)
def promote(
    require: list[str],
    report: str = "latest",
    model: str = NAMES["base-model"],
    strict: bool = False,
    despite_cautions: bool = False,
    store: str | None = None,
) -> list[str]:
    """Report -> alias `champion` on the model version that it judged, where every requirement holds.

    Args:
        require: what must hold of the report's figures, e.g. fd<0.2.
        report: report: fingerprint, prefix, path, or latest.
        model: registered model whose alias moves from candidate to champion.
        strict: require it of the worse end of each figure's interval.
        despite_cautions: pass a report of a rehearsal, or of a model judged on the images that it was trained on.
        store: folder or URI of the artifact store; without it the local one.

    Returns what was found and done, in sentences.
    """
    if not require:
        raise GigaganError("promote needs at least one requirement; give require, such as fd<0.2")
    said = promote_judged(report, store, gates.checked(require, model), strict, model, despite_cautions)
    for sentence in said:
        get_run_logger().info(sentence)
    return said
