"""The stages, from a shard set on disk to a bundle, also across a kill and through Ray Train."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file

from gigagan_core.config.training import BaseTrainingSettings, UpsamplerTrainingSettings
from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.errors import GigaganError
from gigagan_core.inference.generate import generate
from gigagan_core.stages import train_base, train_upsampler
from gigagan_core.stages.base import RunContext
from gigagan_core.stages.references import initial_model, lpips_weights
from gigagan_core.store.artifact import Artifact
from gigagan_core.tracking import connection
from gigagan_core.tracking.mlflow_run import MlflowTracker, StageRun
from gigagan_core.training import checkpoint, launch_plain, steps
from gigagan_core.training.checkpoint import load_untrained
from gigagan_core.training.record import Event
from gigagan_core.training.validation import validate
from gigagan_core.training.worker import TrainingJob

from .conftest import (
    DISCRIMINATOR,
    GENERATOR,
    LARGE_DISCRIMINATOR,
    UPSAMPLER,
    artifact,
    base_settings,
    upsampler_settings,
)


def settings(launcher: str = "plain", **schedule) -> BaseTrainingSettings:
    return BaseTrainingSettings(
        generator=GENERATOR,
        discriminator=DISCRIMINATOR,
        training=base_settings(
            **{"threads": 1, "checkpoint_every_images": 16, "sample_every_images": 16, **schedule}
        ),
        launcher=launcher,
        sample_count=2,
    )


def train(store: Path, inputs: dict[str, Artifact], launcher: str = "plain", **schedule) -> Artifact:
    with RunContext.open(str(store)) as context:
        return train_base.run(settings(launcher, **schedule), inputs, context)


def trained_weights(made: Artifact) -> dict[str, torch.Tensor]:
    return load_file(made.path / "bundle" / "model.safetensors")


def assert_equal_weights(first: Artifact, second: Artifact) -> None:
    ours, theirs = trained_weights(first), trained_weights(second)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


@pytest.fixture(scope="module")
def base(inputs, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Trained to the end without a break."""
    threads = torch.get_num_threads()
    made = train(tmp_path_factory.mktemp("store"), inputs, total_images=320)
    assert torch.get_num_threads() == threads
    return made


def test_the_artifact_holds_bundle_curves_and_grids(base: Artifact, inputs) -> None:
    config = json.loads((base.path / "bundle" / "config.json").read_text())
    assert (config["kind"], config["images_seen"], config["image_size"]) == ("base", 320, 8)
    curves = json.loads((base.path / "curves.json").read_text())
    assert curves["images"] == list(range(16, 321, 16))
    assert all(len(values) == 20 for values in curves["metrics"].values())
    # R1 is due every third step, so a read of two steps may have met none: its place is kept, empty.
    assert None in curves["metrics"]["discriminator/r1"] or len(curves["metrics"]["discriminator/r1"]) == 20
    grids = sorted(path.name for path in (base.path / "samples").glob("*.png"))
    assert grids == [f"{images:09d}.png" for images in range(0, 321, 16)]
    with Image.open(base.path / "samples" / grids[0]) as grid:
        assert grid.size == (2 * 8 + 2, 3 * 8 + 4)  # two captions, three psi
    images = generate(base.path, ["red apple"], load_encoder(inputs["encoder"].path))
    assert images.shape == (1, 3, 8, 8)


def test_the_card_names_data_terms_and_settings_and_escapes_strangers_text(base: Artifact) -> None:
    card = (base.path / "bundle" / "MODEL_CARD.md").read_text()
    assert "CC BY" in card
    assert "losses.matching" in card.replace("\\", "")
    assert "git commit" in card
    assert "<script>" not in card
    assert "\x1b" not in card
    assert " *bold*" not in card


def test_given_again_nothing_is_trained(base: Artifact, inputs) -> None:
    store = Path(base.uri).parents[1]
    started = time.monotonic()
    again = train(store, inputs, total_images=320)
    assert again.output_digest == base.output_digest
    assert time.monotonic() - started < 5


def when_there_is(pattern: str, store: Path, act: Callable[[], bool]) -> threading.Thread:
    """Call `act` once a file of this pattern exists below the store's work, until it says that it is done."""

    def watch() -> None:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline:
            if any((store / "_work").glob(pattern)) and act():
                return
            time.sleep(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def training_elsewhere(store: Path, inputs: dict[str, Artifact], **schedule) -> multiprocessing.Process:
    """`train` begun in a fresh process: a fork of one that has used autograd's threads cannot use them again."""
    child = multiprocessing.get_context("spawn").Process(target=train, args=(store, inputs), kwargs=schedule)
    # It finds this module the way sys.path, which it is given, says.
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1]))
        child.start()
    return child


def test_killed_with_minus_nine_and_run_again_it_ends_with_the_same_bits(base, inputs, tmp_path) -> None:
    child = training_elsewhere(tmp_path, inputs, total_images=320)

    def kill() -> bool:
        os.kill(child.pid, signal.SIGKILL)
        return True

    when_there_is("*/checkpoints/0*/checkpoint.json", tmp_path, kill)
    child.join(600)
    assert child.exitcode == -signal.SIGKILL
    again = train(tmp_path, inputs, total_images=320)
    assert_equal_weights(again, base)
    assert (again.path / "curves.json").read_text() == (base.path / "curves.json").read_text()


@pytest.mark.slow  # two workers killed at other moments: test_ray_kills
def test_ray_train_gives_the_same_model_also_when_its_worker_is_killed(base, inputs, tmp_path) -> None:
    import psutil

    killed: list[int] = []

    def kill_worker() -> bool:
        for process in psutil.Process().children(recursive=True):
            try:
                name = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if "RayTrainWorker" in name:
                process.kill()
                killed.append(process.pid)
                return True
        return False

    watcher = when_there_is("*/ray/train/checkpoint_*/checkpoint.json", tmp_path, kill_worker)
    made = train(tmp_path, inputs, launcher="ray", total_images=320)
    watcher.join(1)
    assert killed
    assert_equal_weights(made, base)
    assert (made.path / "curves.json").read_text() == (base.path / "curves.json").read_text()
    grids = sorted(path.name for path in (made.path / "samples").glob("*.png"))
    assert len(grids) == 21


@pytest.mark.parametrize("objective", ["gan", "l1"])
def test_an_upsampler_and_its_control_are_trained_and_named_apart(objective: str, inputs, tmp_path) -> None:
    vgg = torchvision.models.vgg16(weights=None).features
    torch.save({f"features.{key}": value for key, value in vgg.state_dict().items()}, tmp_path / "vgg.pth")
    wanted = UpsamplerTrainingSettings(
        upsampler=UPSAMPLER,
        discriminator=LARGE_DISCRIMINATOR,
        training=upsampler_settings(objective, threads=1, sample_every_images=40),
        launcher="plain",
        sample_count=2,
    )
    with RunContext.open(str(tmp_path)) as context:
        if objective == "gan":
            with pytest.raises(GigaganError, match="no LPIPS weights were given; give vgg:PATH"):
                train_upsampler.run(wanted, inputs, context)
            inputs = {**inputs, "lpips": lpips_weights(f"vgg:{tmp_path / 'vgg.pth'}")}
        made = train_upsampler.run(wanted, inputs, context)
    assert ("generator/lpips" in made.path.joinpath("curves.json").read_text()) == (objective == "gan")
    assert made.kind == "upsampler-model"
    assert made.manifest["label"] == ("train-upsampler" if objective == "gan" else "train-upsampler-l1")
    curves = json.loads((made.path / "curves.json").read_text())
    assert ("discriminator/loss" in curves["metrics"]) == (objective == "gan")
    with Image.open(made.path / "samples" / "000000040.png") as grid:
        assert grid.size == (2 * 16 + 2, 3 * 16 + 4)


def test_what_does_not_fit_is_said_before_training_starts(inputs, tmp_path) -> None:
    wide = dataclasses.replace(GENERATOR, text_dim=20)
    wrong = settings().model_copy(update={"generator": wide})
    with (
        RunContext.open(str(tmp_path)) as context,
        pytest.raises(GigaganError, match="text_dim is 20, but the encoder's token features are 16"),
    ):
        train_base.run(wrong, inputs, context)
    judge = artifact("train-encoder", "encoder", Path(inputs["encoder"].uri), {"role": "judge"})
    with (
        RunContext.open(str(tmp_path)) as context,
        pytest.raises(GigaganError, match="role condition is needed"),
    ):
        train_base.run(settings(), {**inputs, "encoder": judge}, context)
    with RunContext.open(str(tmp_path)) as context, pytest.raises(GigaganError, match="needs data"):
        train_base.run(settings(), {"encoder": inputs["encoder"]}, context)


def poison(monkeypatch: pytest.MonkeyPatch, indices: set[int]) -> None:
    """The generator's loss is NaN in every batch that holds one of these images."""
    original = steps.generator_step

    def poisoned(models, batch, settings):
        loss, metrics = original(models, batch, settings)
        bad = indices & set(batch.indices.tolist())
        return (loss * float("nan") if bad else loss), metrics

    monkeypatch.setattr(steps, "generator_step", poisoned)


def images_fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Index of the first image of every batch that the networks see from now on."""
    first: list[int] = []
    original = steps.prepare_base
    monkeypatch.setattr(
        steps,
        "prepare_base",
        lambda models, images, captions, indices: (
            first.append(int(indices[0])) or original(models, images, captions, indices)
        ),
    )
    return first


def test_a_bad_batch_is_left_out_and_training_goes_on_from_the_last_checkpoint(
    inputs, tmp_path, monkeypatch, capsys
) -> None:
    poison(monkeypatch, {42})
    fed = images_fed(monkeypatch)
    made = train(tmp_path, inputs, total_images=96)
    # checkpoints at 16, 32, ...: 32 to 47 are left out, and 48 to 111 come in their place and after it
    assert fed == [*range(0, 48, 8), *range(48, 112, 8)]
    curves = json.loads((made.path / "curves.json").read_text())
    assert curves["images"] == list(range(16, 97, 16))
    assert all(torch.isfinite(value).all() for value in trained_weights(made).values())
    said = " ".join(capsys.readouterr().err.split())
    assert "loss generator is nan; training goes back to 32 images" in said
    assert "rollback 1 of 3" in said
    (note,) = (made.path / "non-finite").glob("*.json")
    details = json.loads(note.read_text())
    assert details["first_index"] == 40
    assert len(details["keys_by_worker"][0]) == 8
    assert details["losses"]["generator"] == "nan"


def test_a_bad_first_batch_is_left_out_where_there_is_no_checkpoint_yet(
    inputs, tmp_path, monkeypatch, capsys
) -> None:
    poison(monkeypatch, {3})
    fed = images_fed(monkeypatch)
    made = train(tmp_path, inputs, total_images=32)
    assert fed == [0, 8, 16, 24, 32]
    assert made.summary["images_seen"] == 32
    assert "training goes back to 0 images" in " ".join(capsys.readouterr().err.split())


def test_going_back_to_one_checkpoint_has_a_limit(inputs, tmp_path, monkeypatch) -> None:
    poison(monkeypatch, set(range(40, 1000)))
    fed = images_fed(monkeypatch)
    with pytest.raises(GigaganError, match=r"no update was applied; batch keys: 0.*learning rate"):
        train(tmp_path, inputs, total_images=96, max_rollbacks=2)
    assert fed[5:] == [40, 48, 56]


def test_a_checkpoint_is_written_while_training_goes_on(inputs, tmp_path, monkeypatch) -> None:
    order: list[str] = []
    started, fed = threading.Event(), images_fed(monkeypatch)
    original = checkpoint.write_checkpoint

    def slow(folder, saved, *given):
        if saved["images_seen"] == 16:
            started.set()
            deadline = time.monotonic() + 60
            while fed[-1] < 24 and time.monotonic() < deadline:
                time.sleep(0.01)
            order.append(f"wrote 16 at {fed[-1]}")
        original(folder, saved, *given)

    monkeypatch.setattr(checkpoint, "write_checkpoint", slow)
    made = train(tmp_path, inputs, total_images=48)
    assert started.is_set()
    # two more steps were made before the first write ended, and the second write waited for it
    assert order == ["wrote 16 at 24"]
    assert made.summary["images_seen"] == 48


def test_a_checkpoint_that_cannot_be_written_is_one_sentence(inputs, tmp_path, monkeypatch) -> None:
    def full(folder, saved, *given):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint, "write_checkpoint", full)
    with pytest.raises(
        GigaganError, match=r"could not be written below .*Input/output error.*same command again"
    ):
        train(tmp_path, inputs, total_images=48)


def test_told_to_end_it_saves_first_and_goes_on_from_there(base, inputs, tmp_path) -> None:
    child = training_elsewhere(tmp_path, inputs, total_images=320, checkpoint_every_images=10_000)

    def terminate() -> bool:
        os.kill(child.pid, signal.SIGTERM)
        return True

    when_there_is("*/samples/000000032.png", tmp_path, terminate)
    child.join(600)
    assert child.exitcode != 0
    (saved,) = tmp_path.glob("_work/*/checkpoints/0*")
    assert 0 < int(saved.name) < 320
    assert_equal_weights(train(tmp_path, inputs, total_images=320), base)


class Away:
    """An MLflow client that answers nothing."""

    def __getattr__(self, name: str):
        raise ConnectionError("refused")


def test_mlflow_away_in_the_middle_does_not_stop_training_and_costs_no_metric(
    inputs, tmp_path, monkeypatch, capsys
) -> None:
    tracker = MlflowTracker(f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setattr(connection, "RETRY_AFTER_SECONDS", 0.0)
    log_metrics, asked = StageRun.log_metrics, []

    def shaky(run, metrics, step=0):
        if any(name.startswith("system/") for name in metrics):
            return  # another thread's
        asked.append(step)
        client = run._connection._client
        run._connection._client = Away() if 32 <= step < 80 else client
        log_metrics(run, metrics, step)
        run._connection._client = client

    monkeypatch.setattr(StageRun, "log_metrics", shaky)
    with RunContext.open(str(tmp_path / "store"), tracker) as context:
        made = train_base.run(settings(total_images=96, sample_every_images=0), inputs, context)
    assert asked[:6] == list(range(16, 97, 16))
    history = tracker._connection.client.get_metric_history(
        made.manifest["mlflow"]["run_id"], "generator/loss"
    )
    assert {point.step for point in history} >= set(range(16, 97, 16))
    said = capsys.readouterr().err
    assert said.count("did not take") == 1
    assert said.count("db answers again") == 1


def test_a_model_starts_warm_from_an_earlier_one_and_names_it(base, inputs, tmp_path) -> None:
    with RunContext.open(str(tmp_path)) as context:
        start = initial_model(context.store, str(base.path / "bundle"), "base-model")
        wanted = settings(total_images=8)
        still = dataclasses.replace(wanted.training.generator, learning_rate=1e-12)
        wanted = wanted.model_copy(update={"training": dataclasses.replace(wanted.training, generator=still)})
        made = train_base.run(wanted, {**inputs, "init_from": start}, context)
    for name, value in trained_weights(made).items():
        if name != "w_mean":  # moves by itself
            torch.testing.assert_close(value, trained_weights(base)[name], rtol=0, atol=1e-3, msg=name)
    assert made.manifest["inputs"]["init_from"]["sha256"] == start.sha256
    # without it the same settings end elsewhere
    assert any(
        (value - trained_weights(base)[name]).abs().max() > 0.1
        for name, value in trained_weights(train(tmp_path, inputs, total_images=8)).items()
    )


def test_a_bundle_of_another_network_is_no_start(base, inputs, tmp_path) -> None:
    wide = dataclasses.replace(GENERATOR, mapping_depth=3)
    with RunContext.open(str(tmp_path)) as context:
        start = initial_model(context.store, str(base.path / "bundle"), "base-model")
        wanted = settings(total_images=8).model_copy(update={"generator": wide})
        with pytest.raises(GigaganError, match="cannot be the start of this training"):
            train_base.run(wanted, {**inputs, "init_from": start}, context)
        with pytest.raises(GigaganError, match="no base model to start from"):
            initial_model(context.store, "0123456", "base-model")


@pytest.mark.parametrize("kind", ["base", "upsampler"])
def test_checkpoints_are_measured_beside_training(kind: str, inputs, tmp_path) -> None:
    logged: dict[int, dict[str, float]] = {}
    job = TrainingJob(
        settings=settings(total_images=48).model_copy(update={"validation_images": 12})
        if kind == "base"
        else UpsamplerTrainingSettings(
            upsampler=UPSAMPLER,
            discriminator=LARGE_DISCRIMINATOR,
            training=dataclasses.replace(
                upsampler_settings("l1", threads=1, total_images=48, checkpoint_every_images=16)
            ),
            launcher="plain",
            sample_count=2,
            validation_images=12,
        ),
        data=((str(inputs["data"].path), 1.0),),
        encoder=str(inputs["encoder"].path),
    )
    size = job.settings.image_size

    def see(event: Event) -> None:
        if event.kind == "validated":
            logged[event.images_seen] = event.metrics

    last = launch_plain.launch(job, tmp_path, see)
    assert set(logged) <= {16, 32, 48}
    assert logged, "the first checkpoint is always measured"
    images_seen, figures = validate(last, job)
    assert images_seen == 48
    assert set(figures) == {f"validation/fd_tiny_{size}_12", f"validation/clip-score_tiny_{size}_12"}
    assert all(np.isfinite(value) for value in figures.values())
    assert validate(last, job)[1] == figures


def test_a_checkpoint_that_cannot_be_measured_is_a_warning(inputs, tmp_path, capsys) -> None:
    wanted = settings(total_images=32).model_copy(
        update={"validation_images": 1}
    )  # no covariance of one picture
    with RunContext.open(str(tmp_path)) as context:
        made = train_base.run(wanted, inputs, context)
    assert made.summary["images_seen"] == 32
    assert "could not be measured: a covariance needs at least 2 images" in " ".join(
        capsys.readouterr().err.split()
    )


def test_milestones_become_models_of_their_own(inputs, tmp_path) -> None:
    made = train(tmp_path, inputs, total_images=96, keep_every_images=40)
    kept = sorted(made.path.glob("milestones/*"))
    assert [path.name for path in kept] == ["000000048", "000000080"]
    encoder = load_encoder(inputs["encoder"].path)
    early, late = (generate(path, ["red apple"], encoder) for path in (kept[0], made.path))
    assert not torch.equal(early, late)


def test_a_blow_up_is_one_sentence(inputs, tmp_path) -> None:
    training = base_settings(threads=1, max_rollbacks=0)
    wild = dataclasses.replace(training.generator, learning_rate=1e30)
    wanted = settings().model_copy(update={"training": dataclasses.replace(training, generator=wild)})
    with (
        RunContext.open(str(tmp_path)) as context,
        pytest.raises(GigaganError, match=r"no update was applied; batch keys: 0.*learning rate"),
    ):
        train_base.run(wanted, inputs, context)


@pytest.mark.slow
def test_two_ray_workers_with_split_networks_make_the_model_of_one_worker(inputs, tmp_path) -> None:
    schedule = {"total_images": 32, "parallelism": "sharded"}
    alone = train(tmp_path / "alone", inputs, **schedule)
    two = settings("ray", **schedule).model_copy(update={"workers": 2})
    with RunContext.open(str(tmp_path / "two")) as context:
        made = train_base.run(two, inputs, context)
    # In float32 a gradient about zero may change its sign, and AdamW's first step is all sign: compared as a whole.
    start = load_untrained(made.path)[0].state_dict()
    theirs, ours = trained_weights(alone), trained_weights(made)
    assert ours.keys() == theirs.keys()
    moved, apart = (
        torch.cat([(value - other[name]).flatten() for name, value in theirs.items()]).norm()
        for other in (start, ours)
    )
    assert apart < 0.02 * moved
    first, second = (json.loads((each.path / "curves.json").read_text())["metrics"] for each in (alone, made))
    for name in ("discriminator/loss", "generator/loss", "grad_norm/generator"):
        assert second[name] == pytest.approx(first[name], rel=1e-2)
    grids = [sorted(path.name for path in (each.path / "samples").glob("*.png")) for each in (made, alone)]
    assert grids[0] == grids[1] == [f"{images:09d}.png" for images in (0, 16, 32)]
