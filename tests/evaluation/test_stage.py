"""The evaluate stage on untrained networks: whole, cached, honest about what it was given."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel, Tower
from gigagan_core.encoders.open_clip_encoder import Preprocessing, load_encoder, save_encoder
from gigagan_core.errors import GigaganError
from gigagan_core.models.settings import GeneratorSettings, UpsamplerSettings
from gigagan_core.stages import evaluate
from gigagan_core.stages.base import RunContext
from gigagan_core.store.artifact import Artifact, ExternalFile
from gigagan_core.tracking.null import NullRun, NullTracker

HELD_OUT, TRAINING = 18, 24
TEXT = {"text_dim": 16, "text_width": 8, "text_depth": 1, "text_head_dim": 4}
SMALL = {"z_dim": 6, "w_dim": 8, "mapping_depth": 2, "channel_base": 64, "channel_max": 8}
GENERATOR = GeneratorSettings(
    image_size=8,
    kernels=(1, 2),
    blocks=(1, 1),
    attention_depths=(0, 0),
    attention_head_dim=4,
    **SMALL,
    **TEXT,
)
UPSAMPLER = UpsamplerSettings(
    low_size=8,
    image_size=16,
    bottleneck_size=4,
    encoder_blocks=(1,),
    encoder_attention_depths=(0,),
    kernels=(1, 1, 2),
    blocks=(1, 1, 1),
    attention_depths=(0, 0, 0),
    attention_head_dim=4,
    lowest_rgb=8,
    **SMALL,
    **TEXT,
)
ARCHITECTURE = ClipArchitecture(
    embed_dim=8,
    image_size=8,
    patch_size=4,
    vision=Tower(width=16, layers=1, heads=2),
    text=Tower(width=16, layers=2, heads=2),
    pool="avg",
    context_length=8,
)
SETTINGS = EvaluateSettings(
    image_size=8,
    upsampled_size=16,
    patch_size=8,
    patches_per_image=2,
    bootstrap_resamples=100,
    samples_shown=4,
    upsampled_shown=2,
)
TONES = ("", " light skin tone", " dark skin tone")


def artifact(folder: Path, kind: str, notes: dict | None = None, inputs: dict | None = None) -> Artifact:
    digest = hashlib.sha256(str(folder).encode()).hexdigest()
    manifest = {"created": "2025-01-01T10:00", "notes": notes or {}, "inputs": inputs or {}}
    return Artifact(kind, kind, digest, 1, digest, str(folder), manifest)


def shard_set(folder: Path, images, captions: list[str]) -> Artifact:
    from gigagan_core.data.download import partition_schema
    from gigagan_core.data.shards import write_index, write_shard

    folder.mkdir()
    rows = []
    with tarfile.open(folder / "pictures.tar", "w") as tar:
        for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
            png = io.BytesIO()
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(png, "PNG")
            for ending, content in (("png", png.getvalue()), ("txt", caption.encode())):
                member = tarfile.TarInfo(f"{number:04d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
            known = {"key": f"{number:04d}", "caption": caption, "status": "success", "selected": True}
            rows.append({**dict.fromkeys(partition_schema().names), **known})
    table = pa.Table.from_pylist(rows, partition_schema())
    write_index(folder, [write_shard(folder, 0, folder / "pictures.tar", table)])
    return artifact(folder, "shard-set", {"licence": "CC BY-SA 4.0", "attribution": "OpenMoji"})


def bundle(folder: Path, network_settings, kind: str, seed: int, sha256: str, **extra) -> Artifact:
    from gigagan_core.training.checkpoint import export_bundle
    from gigagan_core.training.recipes import initial_network

    config = {
        "kind": kind,
        "image_size": network_settings.image_size,
        "encoder_sha256": sha256,
        "seed": 0,
    }
    export_bundle(folder / "bundle", initial_network(network_settings, seed), config, "a card")
    (folder / "curves.json").write_text(
        json.dumps({"images": [8, 16], "metrics": {"generator/loss": [2, 1]}})
    )
    return artifact(folder, f"{kind}-model", **extra)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, drawings) -> dict[str, Artifact]:
    import torch

    folder = tmp_path_factory.mktemp("inputs")
    encoders = {}
    for seed, role in enumerate(("condition", "judge")):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ClipModel(ARCHITECTURE)
        save_encoder(folder / role, model, Preprocessing(), name=f"openmoji-{role}", role=role)
        encoders[role] = artifact(folder / role, "encoder", {"role": role})
    sha256 = load_encoder(folder / "condition").sha256
    captions = [f"drawing {number // 3}{TONES[number % 3]}" for number in range(HELD_OUT)]
    train = shard_set(folder / "train", drawings(TRAINING, 16, seed=1), [f"t {i}" for i in range(TRAINING)])
    return {
        **encoders,
        "model": bundle(folder / "model", GENERATOR, "base", 1, sha256),
        "upsampler": bundle(folder / "upsampler", UPSAMPLER, "upsampler", 2, sha256),
        "control": bundle(folder / "control", UPSAMPLER, "upsampler", 3, sha256),
        "data": shard_set(folder / "data", drawings(HELD_OUT, 16, seed=2), captions),
        "train": train,
    }


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
    assert stored["attribution"] == ["OpenMoji · CC BY-SA 4.0"]
    assert {line["role"] for line in stored["lineage"]} >= set(inputs)

    assert tracker.run.metrics == stored["metrics"]
    assert set(tracker.run.tags) == {f"claim.{claim['id']}" for claim in stored["claims"]}
    assert tracker.run.files == ["samples", "upsampler", "report.html", "report.json"]
    assert made.summary["fd_openmoji-judge_8_18"] == stored["metrics"]["fd_openmoji-judge_8_18"]


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


def test_a_model_judged_on_its_own_training_images_is_pointed_out(inputs, tmp_path):
    used = inputs["data"].reference()
    changed = artifact(Path(inputs["model"].uri), "base-model", inputs={"data": used})
    with RunContext.open(str(tmp_path / "store")) as context:
        made = evaluate.run(SETTINGS, {**inputs, "model": changed, "train": inputs["data"]}, context)
    cautions = " ".join(made.notes["cautions"])
    assert "trained on the very images" in cautions
    assert f"{HELD_OUT} held-out images also occur in the training set" in cautions


def test_a_judge_that_took_part_in_training_is_refused(inputs, tmp_path):
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
