"""Packed by command, trained in a piece, imported: a model of the store that evaluation takes as any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from gigagan_core.cli.app import app
from gigagan_core.config import presets
from gigagan_core.config.base import Settings
from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.encoders.clip_model import ClipModel
from gigagan_core.encoders.open_clip_encoder import Preprocessing, save_encoder
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.lineage import trace
from gigagan_core.planning.encoders import trained_here
from gigagan_core.stages import evaluate, import_model, references
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, materialise
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.store import Store
from gigagan_core.training.piece import read_result
from gigagan_core.training.portable import Limits, train_piece

SHORT = ["--set", "training.schedule.total_images=32", "--set", "training.schedule.threads=1"]


class Labelled(Settings):
    label: str


def put(store: Path, kind: str, label: str, fill: Callable[[Path], Any], **notes: str) -> Artifact:
    """An artifact of the store whose files `fill` writes."""

    def produce(work: Any) -> Outcome:
        fill(work.output)
        return Outcome(counts={"in": 16, "out": 16, "rejected": {}}, notes=notes)

    spec = StageSpec("train-encoder" if kind == "encoder" else "import", kind, module="gigagan_core.text")
    with RunContext.open(str(store)) as context:
        return materialise(spec, Labelled(label=label), {}, context, produce, label=label)


def encoder(role: str, seed: int) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ClipModel(trained_here(presets.preset("tiny").condition))
        save_encoder(folder, model, Preprocessing(), name=f"openmoji-{role}", role=role)

    return fill


@pytest.fixture(scope="module")
def store(inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")

    def pictures(where: Path) -> None:
        shutil.copytree(inputs["data"].path, where, dirs_exist_ok=True)

    def others(where: Path) -> None:
        pictures(where)
        (where / "note.txt").write_text("held out")

    put(folder, "shard-set", "import train", pictures, licence="CC BY-SA 4.0", attribution="OpenMoji")
    put(folder, "shard-set", "import heldout", others)
    put(folder, "encoder", "condition", encoder("condition", 0), role="condition")
    put(folder, "encoder", "judge", encoder("judge", 1), role="judge")
    return folder


def gigagan(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="gigagan")


def packed(store: Path, out: Path, *options: str) -> Result:
    return gigagan(
        "data", "pack", "--preset", "tiny", "--store", str(store), "--out", str(out), *SHORT, *options
    )


@pytest.fixture(scope="module")
def result(store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("portable")
    done = packed(store, folder / "pack")
    assert done.exit_code == 0, done.output
    assert (folder / "pack" / "ATTRIBUTION.txt").read_text() == "CC BY-SA 4.0\nOpenMoji\n"
    train_piece(folder / "pack", folder / "out", Limits(60.0), "cpu")
    return folder / "out"


@pytest.fixture(scope="module")
def model(store, result) -> Artifact:
    with RunContext.open(str(store)) as context:
        return import_model.run(result, context)


def test_the_artifact_is_a_base_model_as_if_trained_here(model, result, store) -> None:
    assert (model.stage, model.kind) == ("import-model", "base-model")
    saved = read_result(result).saved
    weights = load_file(model.path / "bundle" / "model.safetensors")
    assert all(torch.equal(value, saved["ema"][name]) for name, value in weights.items())
    config = json.loads((model.path / "bundle" / "config.json").read_text())
    assert (config["kind"], config["images_seen"]) == ("base", 32)
    card = (model.path / "bundle" / "MODEL_CARD.md").read_text()
    assert "OpenMoji" in card
    curves = json.loads((model.path / "curves.json").read_text())
    assert curves["images"] == [16, 32]
    assert (model.path / "samples" / "000000032.png").is_file()
    assert model.summary["images_seen"] == 32
    assert model.notes["trained"]["device"] == "CPU"
    assert references.base_model(Store(str(store)), "latest") == model
    assert references.encoder_of(Store(str(store)), model).notes["role"] == "condition"


def test_its_lineage_names_data_encoder_pack_and_result(model, store, result) -> None:
    lines = {line["role"]: line for line in trace({"model": model}, Store(str(store)))}
    assert lines["model ← data"]["stage"] == "import train"
    assert lines["model ← encoder"]["stage"] == "condition"
    assert lines["model ← pack"]["fingerprint"] == read_result(result).index["pack"]
    assert lines["model ← result"]["fingerprint"] == read_result(result).index["sha256"]


def test_given_again_nothing_is_imported(model, store, result) -> None:
    with RunContext.open(str(store)) as context:
        assert import_model.run(result, context) == model
        assert context.history[0].cached


def test_evaluation_takes_it(model, store) -> None:
    settings = EvaluateSettings(
        image_size=16,
        patch_size=8,
        patches_per_image=2,
        bootstrap_resamples=100,
        samples_shown=2,
        neighbours=1,
    )
    with RunContext.open(str(store)) as context:
        report = evaluate.run(settings, references.evaluation_inputs(context.store), context)
    assert report.manifest["counts"]["out"] == 16
    assert (report.path / "report.html").is_file()


def test_an_upsampler_comes_back_as_one(store, tmp_path) -> None:
    for part, objective in (("upsampler", "gan"), ("control", "l1")):
        done = packed(store, tmp_path / part, "--part", part)
        assert done.exit_code == 0, done.output
        train_piece(tmp_path / part, tmp_path / f"{part}-out", Limits(60.0, images=16), "cpu")
        with RunContext.open(str(store)) as context:
            made = import_model.run(tmp_path / f"{part}-out", context)
        assert made.kind == "upsampler-model"
        assert made.summary["images_seen"] == 16  # not finished, and imported all the same
        assert references.upsampler(Store(str(store)), "latest", objective) == made


def test_another_store_is_refused_with_one_sentence(result, tmp_path) -> None:
    with (
        RunContext.open(str(tmp_path)) as context,
        pytest.raises(GigaganError, match="is not in store") as refusal,
    ):
        import_model.run(result, context)
    assert "\n" not in str(refusal.value)


def test_the_judge_is_not_packed(store, tmp_path) -> None:
    judge = references.encoder(Store(str(store)), "latest", role="judge")
    done = packed(store, tmp_path / "pack", "--encoder", judge.fingerprint)
    assert done.exit_code == 1
    assert "what judges the models must take no part in making them" in done.stderr
    assert not (tmp_path / "pack").exists()
