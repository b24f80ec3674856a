"""From a model trained on a mixture back to each of its shard sets."""

from __future__ import annotations

from types import SimpleNamespace

from gigagan_core.evaluation.lineage import attribution, trace
from gigagan_core.store.artifact import Artifact, reference_of


def made(stage: str, notes: dict[str, str] | None = None, **inputs: object) -> Artifact:
    manifest = {"inputs": {name: reference_of(value) for name, value in inputs.items()}, "notes": notes or {}}
    return Artifact(stage, stage, f"{stage} fingerprint", 1, f"{stage} digest", f"/{stage}", manifest)


def test_every_set_of_a_mixture_is_traced_and_its_weight_is_no_artifact() -> None:
    laion, coyo = made("laion", {"licence": "L"}), made("coyo", {"licence": "C"})
    model = made("train-base", data=[(laion, 0.7), (coyo, 0.3)])
    known = {each.fingerprint: each for each in (laion, coyo, model)}
    store = SimpleNamespace(find=lambda stage, fingerprint: known.get(fingerprint))
    lines = trace({"model": model}, store)
    assert [line["stage"] for line in lines] == ["train-base", "laion", "coyo"]
    assert attribution({"data": [(laion, 0.7), (coyo, 1)]}) == ["L", "C"]
