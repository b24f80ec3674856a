"""The train-encoder stage: what the artifact holds, what it refuses, and that it goes on where it was cut off."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from gigagan_core.config.encoder import EncoderSettings, TowerSettings
from gigagan_core.data import openmoji
from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.encoders.roles import require_role
from gigagan_core.encoders.training import ContrastiveTraining
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.curves import read_curves
from gigagan_core.stages import train_encoder
from gigagan_core.stages.base import RunContext
from gigagan_core.store.artifact import Artifact, ExternalFile
from gigagan_core.tracking.null import NullRun

Make = Callable[..., Artifact]
TINY = EncoderSettings(
    role="judge",
    name="tiny-judge",
    image_size=16,
    embed_dim=16,
    context_length=8,
    vision=TowerSettings(width=16, layers=1, heads=1),
    text=TowerSettings(width=16, layers=1, heads=1),
    total_images=96,
    batch_size=8,
    warmup_images=16,
    log_every=16,
    evaluate_every=32,
    checkpoint_every=32,
)


def test_the_artifact_is_an_encoder_with_role_figures_and_curves(
    context: RunContext, shard_set: Make
) -> None:
    inputs = {"data": shard_set(), "heldout": shard_set("others", 1)}
    artifact = train_encoder.run(TINY, inputs, context)
    encoder = load_encoder(artifact.path)
    assert (encoder.name, encoder.role, encoder.width, encoder.embed_dim) == ("tiny-judge", "judge", 16, 16)
    assert artifact.notes["role"] == "judge"
    assert artifact.manifest["counts"] == {"in": 20, "out": 20, "rejected": {}, "heldout": 10}
    summary = artifact.summary
    assert 0 <= summary["retrieval_r1"] <= summary["retrieval_r10"] <= 1
    assert summary["chance_r10"] == 1
    curves = {curve.name: curve.points for curve in read_curves(artifact.path, "encoder")}
    assert [images for images, _ in curves["loss"]] == [16, 32, 48, 64, 80, 96]
    assert [images for images, _ in curves["retrieval_r10"]] == [32, 64, 96]
    assert set(curves) == {"loss", "learning_rate", "logit_scale", "retrieval_r1", "retrieval_r10"}
    assert train_encoder.run(TINY, inputs, context) == artifact


@pytest.mark.parametrize(
    ("attribution", "name"), [(openmoji.ATTRIBUTION, "openmoji-judge"), ("drawn by a test", "own-judge")]
)
def test_a_name_that_is_not_given_tells_of_the_data(
    context: RunContext, shard_set: Make, attribution: str, name: str
) -> None:
    settings = TINY.model_copy(update={"name": None, "total_images": 16, "evaluate_every": 16})
    data = shard_set(attribution=attribution)
    artifact = train_encoder.run(settings, {"data": data, "heldout": shard_set("others", 1)}, context)
    assert (artifact.notes["name"], load_encoder(artifact.path).name) == (name, name)


def test_cut_off_and_given_again_it_ends_with_the_same_files(
    context: RunContext, shard_set: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"data": shard_set(), "heldout": shard_set("others", 1)}
    whole = train_encoder.run(TINY, inputs, context)
    context.force = True
    original, steps = ContrastiveTraining.step, []

    def killed(self: ContrastiveTraining) -> dict[str, float]:
        if self.images_seen >= 72:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(ContrastiveTraining, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        train_encoder.run(TINY, inputs, context)

    def counted(self: ContrastiveTraining) -> dict[str, float]:
        steps.append(self.images_seen)
        return original(self)

    monkeypatch.setattr(ContrastiveTraining, "step", counted)
    resumed = train_encoder.run(TINY, inputs, context)
    assert steps == [64, 72, 80, 88]
    assert resumed.attempt == 2
    assert resumed.manifest["files"] == whole.manifest["files"]


def test_the_metrics_are_recorded_by_images_seen(context: RunContext, shard_set: Make) -> None:
    recorded = []

    class Recording(NullRun):
        def log_metrics(self, metrics, step=0):
            recorded.append((step, set(metrics)))

    @contextlib.contextmanager
    def stage_run(name, params=None, tags=None):
        yield Recording()

    inputs = {"data": shard_set(), "heldout": shard_set("others", 1)}
    context.tracker.stage_run = stage_run
    train_encoder.run(TINY, inputs, context)
    assert [step for step, _ in recorded] == [16, 32, 48, 64, 80, 96]
    assert recorded[0][1] == {"loss", "learning_rate", "logit_scale"}
    assert {"retrieval_r1", "retrieval_r10"} <= recorded[1][1]


def test_threads_are_given_back(context: RunContext, shard_set: Make) -> None:
    before = torch.get_num_threads()
    inputs = {"data": shard_set(), "heldout": shard_set("others", 1)}
    train_encoder.run(TINY.model_copy(update={"threads": before + 1}), inputs, context)
    assert torch.get_num_threads() == before


def test_what_cannot_be_trained_on_is_one_sentence(
    context: RunContext, shard_set: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = shard_set()
    with pytest.raises(GigaganError, match="train-encoder needs heldout"):
        train_encoder.run(TINY, {"data": data}, context)
    inputs = {"data": data, "heldout": shard_set("others", 1)}
    monkeypatch.setattr(train_encoder, "MAX_BYTES_IN_MEMORY", 20 * 3 * 16**2 - 1)
    with pytest.raises(
        GigaganError, match=r"20 images of 16 px take .* give a smaller shard set, or a CLIP's"
    ):
        train_encoder.run(TINY, inputs, context)
    if not torch.cuda.is_available():
        with pytest.raises(GigaganError, match="use_gpu is set and torch finds no GPU"):
            train_encoder.run(TINY.model_copy(update={"use_gpu": True}), inputs, context)


def test_a_training_stage_that_is_handed_the_judge_is_stopped(encoder: Make, shard_set: Make) -> None:
    require_role(encoder("condition"), "condition")
    require_role(encoder("judge"), "judge")
    require_role(ExternalFile("ViT-L-14:/weights.pt", "0" * 64), "condition")
    with pytest.raises(GigaganError, match="what judges the models must take no part in making them"):
        require_role(encoder("judge"), "condition")
    with pytest.raises(GigaganError, match="role judge is needed"):
        require_role(encoder("condition"), "judge")
    with pytest.raises(GigaganError, match="is a shard-set"):
        require_role(shard_set(), "condition")


def test_deciding_that_it_is_there_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from gigagan_core.stages import curate, train_encoder\n"
        "from gigagan_core.config.curate import CurateSettings\n"
        "from gigagan_core.config.encoder import demo_encoder\n"
        "demo_encoder('judge'), CurateSettings()\n"
        "print([name for name in ('torch', 'ray', 'open_clip', 'mlflow') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.replace("'", '"')) == []
