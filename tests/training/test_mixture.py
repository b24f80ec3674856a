"""Training on several shard sets: what the stage takes, records and refuses."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from gigagan_core.errors import GigaganError
from gigagan_core.stages import train_base
from gigagan_core.stages.base import RunContext
from gigagan_core.store.artifact import Artifact

from .test_stages import settings

Inputs = dict[str, Artifact]


@pytest.fixture
def second(inputs: Inputs, tmp_path: Path) -> Artifact:
    """Another shard set with terms of its own."""
    data = inputs["data"]
    folder = tmp_path / "second"
    shutil.copytree(data.path, folder)
    manifest = {**data.manifest, "notes": {"licence": "CC0", "attribution": "somebody else"}}
    changed = {"fingerprint": "second-fingerprint", "output_digest": "second-digest", "uri": str(folder)}
    return dataclasses.replace(data, **changed, manifest=manifest)


def train(store: Path, given: Inputs) -> Artifact:
    with RunContext.open(str(store)) as context:
        return train_base.run(settings(total_images=16), given, context)


def test_a_mixture_is_trained_on_recorded_and_known_by_sets_and_weights(
    inputs: Inputs,
    second: Artifact,
    tmp_path: Path,
) -> None:
    mixed = {**inputs, "data": [(inputs["data"], 0.7), (second, 0.3)]}
    made = train(tmp_path / "store", mixed)
    assert train(tmp_path / "store", mixed).output_digest == made.output_digest
    recorded = made.manifest["inputs"]["data"]
    assert [(data["output_digest"], weight) for data, weight in recorded] == [
        (inputs["data"].output_digest, 0.7),
        ("second-digest", 0.3),
    ]
    assert made.notes["licence"] == "CC BY-SA 4.0 · CC0"
    card = (made.path / "bundle" / "MODEL_CARD.md").read_text()
    assert "data 1, weight 0.7" in card
    assert "somebody else" in card
    other = train(tmp_path / "store", {**inputs, "data": [(inputs["data"], 0.5), (second, 0.5)]})
    assert other.fingerprint != made.fingerprint


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused_before_anything_runs(
    inputs: Inputs,
    second: Artifact,
    tmp_path: Path,
    weight: float,
) -> None:
    with pytest.raises(GigaganError, match=r"shard set second-finge has weight .*; give a number above 0"):
        train(tmp_path, {**inputs, "data": [(inputs["data"], 1), (second, weight)]})


def test_a_set_given_twice_and_no_set_are_refused(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(GigaganError, match="in the mixture more than once; give it once"):
        train(tmp_path, {**inputs, "data": [(inputs["data"], 1), (inputs["data"], 2)]})
    with pytest.raises(GigaganError, match="needs data"):
        train(tmp_path, {**inputs, "data": []})
