"""The evaluate stage on untrained networks: whole, cached, honest about what it was given."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.protocols.named import HELD_OUT as HELD_OUT_PROTOCOL
from gigagan_core.stages import evaluate
from gigagan_core.stages.base import RunContext
from gigagan_core.store.artifact import ExternalFile
from gigagan_core.tracking.null import NullRun, NullTracker

HELD_OUT = 18  # as in conftest
SETTINGS = EvaluateSettings(
    image_size=8,
    upsampled_size=16,
    patch_size=8,
    patches_per_image=2,
    bootstrap_resamples=100,
    samples_shown=4,
    upsampled_shown=2,
)


class Recorder(NullRun):
    """A run that remembers what was logged."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.files: list[str] = []
        self.tags: dict[str, str] = {}

    def log_metrics(self, metrics, step: int = 0) -> None:
        self.metrics |= metrics

    def log_image(self, key, image, step: int = 0) -> None:
        self.files.append(key)

    def log_artifact(self, path, folder=None) -> None:
        self.files.append(Path(path).name)

    def set_tags(self, tags) -> None:
        self.tags |= tags


class RecordingTracker(NullTracker):
    def __init__(self) -> None:
        self.run = Recorder()

    def stage_run(self, *_, **__):
        import contextlib

        return contextlib.nullcontext(self.run)


def test_a_whole_evaluation_is_committed_recorded_and_then_cached(inputs, tmp_path):
    tracker = RecordingTracker()
    with RunContext.open(str(tmp_path / "store"), tracker) as context:
        made = evaluate.run(SETTINGS, inputs, context)
        again = evaluate.run(SETTINGS, inputs, context)
    assert again.fingerprint == made.fingerprint
    assert [line.cached for line in context.history] == [False, True]
    assert made.manifest["counts"] == {"in": HELD_OUT, "out": HELD_OUT, "rejected": {}}
    names = {path.name for path in made.path.iterdir()}
    assert {"report.json", "report.html", "samples.png", "upsampler.png"} <= names

    stored = json.loads((made.path / "report.json").read_text())
    assert stored["encoders"]["judge"]["name"] == "openmoji-judge"
    # three tones of each drawing: the intervals count the drawings
    assert stored["independent"] == HELD_OUT // 3 == 6
    assert "6 groups" in stored["sets"][0]["clip_interval"]["method"]
    assert "6 independent" in stored["sets"][0]["retrieval_interval"]["method"]
    assert [figures["id"] for figures in stored["sets"]] == [
        "generated", "untrained", "blurred", "mean-image", "training", "held-out",
    ]  # fmt: skip
    assert [figures["id"] for figures in stored["upsamplers"]] == ["upsampler", "control", "bicubic"]
    assert {claim["status"] for claim in stored["claims"]} <= {"shown", "not shown"}
    assert {curve["group"] for curve in stored["curves"]} == {"Base model", "Upsampler", "L1-only control"}
    assert stored["protocol"] == "own-heldout"  # the fixture's pictures are not the drawings
    assert stored["attribution"] == ["OpenMoji · CC BY-SA 4.0"]
    assert {line["role"] for line in stored["lineage"]} >= set(inputs)

    assert tracker.run.metrics == stored["metrics"]
    assert set(tracker.run.tags) == {f"claim.{claim['id']}" for claim in stored["claims"]}
    galleries = [gallery["id"] for gallery in stored["galleries"]]
    assert galleries == ["best", "worst", "far", "alike", "neighbours", "closest"]
    pictures = sorted([f"galleries/{name}" for name in galleries] + ["samples", "upsampler"])
    assert tracker.run.files == [*pictures, "report.html", "report.json"]
    assert made.summary["fd_openmoji-judge_8_18"] == stored["metrics"]["fd_openmoji-judge_8_18"]
    taken = {figure["metric"] for figure in stored["figures"].values()}
    listed = {metric for judge in HELD_OUT_PROTOCOL.judges for metric in judge.metrics}
    assert listed - {"precision-recall"} | {"precision", "recall"} <= taken


def test_the_same_inputs_give_the_same_figures(inputs, tmp_path):
    figures = []
    for name in ("first", "second"):
        with RunContext.open(str(tmp_path / name)) as context:
            made = evaluate.run(SETTINGS, inputs, context)
            figures.append(json.loads((made.path / "report.json").read_text())["metrics"])
    assert figures[0] == figures[1]


def test_the_images_judged_are_the_models_and_the_baseline_is_the_same_model_untrained(inputs, tmp_path):
    from gigagan_core.data.reader import load_all
    from gigagan_core.evaluation.features import image_features
    from gigagan_core.evaluation.frechet import frechet_distance
    from gigagan_core.evaluation.moments import Moments
    from gigagan_core.inference.generate import generate

    few = {name: inputs[name] for name in ("model", "data", "condition", "judge")}
    with RunContext.open(str(tmp_path / "store")) as context:
        made = evaluate.run(SETTINGS, few, context)
    real, captions, _ = load_all(inputs["data"], 8)
    condition, judge = load_encoder(inputs["condition"].uri), load_encoder(inputs["judge"].uri)
    for prefix, untrained in (("", False), ("baseline/untrained/", True)):
        images = generate(inputs["model"].uri, captions, condition, untrained=untrained)
        known = frechet_distance(
            Moments.of(image_features(judge, real)), Moments.of(image_features(judge, images))
        )
        assert made.summary[f"{prefix}fd_openmoji-judge_8_18"] == pytest.approx(known.distance, rel=1e-4)


def test_without_upsampler_and_training_set_it_says_what_is_missing(inputs, tmp_path):
    few = {name: inputs[name] for name in ("model", "data", "condition", "judge")}
    settings = SETTINGS.model_copy(update={"max_images": 12})
    with RunContext.open(str(tmp_path / "store")) as context:
        made = evaluate.run(settings, few, context)
    stored = json.loads((made.path / "report.json").read_text())
    assert made.manifest["counts"] == {"in": HELD_OUT, "out": 12, "rejected": {"over max_images": 6}}
    statuses = {claim["id"]: claim["status"] for claim in stored["claims"]}
    assert statuses["distance"] == statuses["patch-distance"] == statuses["consistency"] == "not measured"
    assert any("No training images were given" in caution for caution in stored["cautions"])
    assert not (made.path / "upsampler.png").exists()


def test_a_model_judged_on_its_own_training_images_is_pointed_out(inputs, artifact, tmp_path):
    from gigagan_core.evaluation import gate
    from gigagan_core.evaluation.report_file import read_report

    used = inputs["data"].reference()
    changed = artifact(Path(inputs["model"].uri), "base-model", inputs={"data": used})
    with RunContext.open(str(tmp_path / "store")) as context:
        made = evaluate.run(SETTINGS, {**inputs, "model": changed, "train": inputs["data"]}, context)
    cautions = " ".join(made.notes["cautions"])
    assert "trained on the very images" in cautions
    assert f"{HELD_OUT} held-out images also occur in the training set" in cautions
    assert "trained on the very images" in gate.refusals(read_report(made.path))[0]


def test_a_judge_that_took_part_in_training_is_refused(inputs, artifact, tmp_path):
    with RunContext.open(str(tmp_path / "store")) as context:
        with pytest.raises(GigaganError, match="role judge is needed"):
            evaluate.run(SETTINGS, {**inputs, "judge": inputs["condition"]}, context)
        # a weight file has no role: its sum gives it away
        encoder = inputs["condition"]
        file = ExternalFile(encoder.uri, load_encoder(encoder.uri).sha256)
        with pytest.raises(GigaganError, match="took part in training the model"):
            evaluate.run(SETTINGS, {**inputs, "judge": file}, context)
        pupil = artifact(
            Path(inputs["model"].uri), "base-model", inputs={"encoder": inputs["judge"].reference()}
        )
        with pytest.raises(GigaganError, match="took part in training the model"):
            evaluate.run(SETTINGS, {**inputs, "model": pupil}, context)
        with pytest.raises(GigaganError, match="needs data and judge"):
            evaluate.run(SETTINGS, {**inputs, "data": None, "judge": None}, context)
        assert context.history == []
