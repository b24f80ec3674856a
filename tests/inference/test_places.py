"""A model is found in the store, in a folder and in MLflow's registry, and its encoder with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from gigagan_core import environment
from gigagan_core.config.base import Settings
from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.errors import GigaganError
from gigagan_core.inference.pipeline import GigaGANPipeline, load_upsampler
from gigagan_core.inference.places import find_bundle, find_encoder
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, materialise
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.store import Store
from gigagan_core.tracking.mlflow_run import MlflowTracker

from .conftest import make_generator


class NoSettings(Settings):
    """None."""


def put(store: Path, kind: str, source: Path, name: str, inputs: dict[str, Any]) -> Artifact:
    """An artifact of a copy of `source`."""
    import shutil

    def work(stage_work) -> Outcome:
        shutil.copytree(source, stage_work.output / name, dirs_exist_ok=True)
        return Outcome(notes={"role": "condition"} if kind == "encoder" else {})

    spec = StageSpec(f"train-{kind}", kind=kind, module="gigagan_core.text")
    with RunContext.open(str(store)) as context:
        return materialise(spec, NoSettings(), inputs, context, work, label=kind)


@pytest.fixture
def stored(tmp_path: Path, bundle, encoder_folder: Path) -> tuple[Store, Artifact, Artifact]:
    """A store, the encoder in it, and the model that was trained with it."""
    store = tmp_path / "store"
    words = put(store, "encoder", encoder_folder, ".", {})
    model = put(store, "base-model", bundle(make_generator(), "base"), "bundle", {"encoder": words})
    return Store(str(store)), words, model


def test_a_model_is_found_by_every_name_that_the_store_gives_it(stored, encoder) -> None:
    store, _, model = stored
    for reference in ("latest", model.fingerprint, model.short, str(model.path)):
        place = find_bundle(reference, "base", store)
        assert place.name == model.short
        assert find_encoder(None, place, store, "cpu").sha256 == encoder.sha256
    with pytest.raises(GigaganError, match="has no upsampler"):
        find_bundle("latest", "upsampler", store)


def test_an_artifacts_folder_brings_its_encoder_from_its_own_store(stored, encoder, tmp_path) -> None:
    _, _, model = stored
    for name in ("other", "sto"):  # the beginning of a folder's name is not that folder
        other = Store(str(tmp_path / name))
        place = find_bundle(model.path, "base", other)
        assert find_encoder(None, place, other, "cpu").sha256 == encoder.sha256


def test_the_encoder_of_a_bare_bundle_is_known_by_its_sum(stored, encoder, tmp_path) -> None:
    store, words, _ = stored
    place = find_bundle(tmp_path / "base", "base", store)
    assert place.artifact is None
    assert find_encoder(None, place, store, "cpu").sha256 == encoder.sha256
    for reference in ("latest", words.short, str(words.path), load_encoder(words.path)):
        assert find_encoder(reference, place, store, "cpu").sha256 == encoder.sha256
    with pytest.raises(GigaganError, match=r"not in store .*other; name it"):
        find_encoder(None, place, Store(str(tmp_path / "other")), "cpu")


def test_a_registered_model_is_found_by_its_alias(
    bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    folder = bundle(make_generator(), "base")
    client = MlflowClient(environment.mlflow_uri())
    client.create_registered_model("tiny")
    version = client.create_model_version("tiny", source=str(folder)).version
    client.set_registered_model_alias("tiny", "champion", version)
    for reference in ("models:/tiny@champion", f"models:/tiny/{version}"):
        place = find_bundle(reference, "base")
        assert place.name == reference
        assert (place.folder / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    with pytest.raises(GigaganError, match=r"gives no model models:/tiny@loser .*; write models:/NAME@ALIAS"):
        find_bundle("models:/tiny@loser", "base")


def test_a_model_that_training_registered_is_found_in_its_store(
    stored, encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    store, _, model = stored
    with MlflowTracker(environment.mlflow_uri()).stage_run("train-base") as run:
        run.finish(model)
    other = Store(str(tmp_path / "other"))
    uri = "models:/gigagan-base@candidate"
    place = find_bundle(uri, "base", other)
    assert place.artifact == model
    assert (place.folder, place.name) == (model.path, uri)
    assert find_encoder(None, place, other, "cpu").sha256 == encoder.sha256
    with pytest.raises(GigaganError, match="is of kind base-model, and kind upsampler-model is needed"):
        find_bundle(uri, "upsampler", other)
    moved = tmp_path / "moved"
    Path(store.uri).rename(moved)
    assert find_bundle(uri, "base", Store(str(moved))).folder == moved / model.path.relative_to(store.uri)
    with pytest.raises(
        GigaganError, match=r"is artifact .*, which is not in store .* nor in .*other; name its store"
    ):
        find_bundle(uri, "base", other)


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "", "cpu cpu"])
def test_a_device_that_cannot_be_used_is_one_sentence(bundle, encoder, device) -> None:
    for load in (GigaGANPipeline.from_pretrained, load_upsampler):
        with pytest.raises(
            GigaganError, match=r"device '.*' cannot be used \(.+\); give --device cpu"
        ) as said:
            load(bundle(make_generator(), "base"), encoder, device=device)
        assert "\n" not in str(said.value)
