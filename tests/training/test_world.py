"""Two workers with half the batch each take the same step as one worker with all of it."""

from __future__ import annotations

import socket
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from gigagan_core.training import loop
from gigagan_core.training.checkpoint import load_checkpoint, snapshot, write_checkpoint
from gigagan_core.training.state import TrainState
from gigagan_core.training.world import World

from .conftest import (
    Hooks,
    NoMeter,
    base_settings,
    batches,
    make_base,
    make_upsampler,
    upsampler_settings,
    weights,
)

CASES = {"base": (make_base, base_settings, 8), "upsampler": (make_upsampler, upsampler_settings, 16)}


def train(case: str, world: World):
    make, settings, size = CASES[case]
    # 4 steps of 8 images: R1 is due in the first and in the last one.
    training = settings(precision="float64", total_images=32)
    state, recipe = make(training, world=world)
    with mock.patch.object(loop, "FlopMeter", NoMeter):
        loop.run_loop(state, recipe, batches(size, world=world), training.schedule, Hooks(), world)
    return state


def worker(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        for case in CASES:
            state = train(case, World.joined())
            torch.save({"weights": weights(state), "history": state.history}, f"{folder}/{case}{rank}.pt")
        torch.save(histories(World.joined(), Path(folder)), f"{folder}/histories{rank}.pt")
        spoil(rank, folder)
    finally:
        dist.destroy_process_group()


class Saving(Hooks):
    """Writes every checkpoint into a folder of its own, from rank 0."""

    def __init__(self, world: World, folder: Path):
        super().__init__()
        self._world, self._folder = world, folder

    def on_checkpoint(self, state: TrainState) -> None:
        saved = snapshot(state, self._world)
        if self._world.rank == 0:
            place = self._folder / str(state.images_seen)
            place.mkdir(parents=True, exist_ok=True)
            write_checkpoint(place, saved, self._world, seed=0)


def histories(world: World, folder: Path) -> list[list[dict[str, float]]]:
    """The curves of six steps, and those again from the checkpoint in the middle of a read of three steps."""
    training = base_settings(
        precision="float64", total_images=48, metrics_every_steps=3, checkpoint_every_images=16
    )
    found = []
    for start in (0, 16):
        state, recipe = make_base(training, world=world)
        if start:
            world.collect(None)  # waits for rank 0, which writes
            load_checkpoint(folder / str(start), state)
        hooks, source = Saving(world, folder), batches(8, start_image=start, world=world)
        with mock.patch.object(loop, "FlopMeter", NoMeter):
            loop.run_loop(state, recipe, source, training.schedule, hooks, world)
        found.append(state.history)
    return found


def spoil(rank: int, folder: str) -> None:
    """The planted fault: gradients summed within a worker only."""
    World.average_gradients = lambda self, parameters: None
    state = train("base", World.joined())
    torch.save({"weights": weights(state)}, f"{folder}/spoiled{rank}.pt")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    # Fresh processes: a fork would inherit the threads of whatever the test run has started before.
    # They find this module the way sys.path, which they are given, says.
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1]))
        multiprocessing.start_processes(worker, (free_port(), str(folder)), nprocs=2, start_method="spawn")
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_workers_train_as_one(case: str, two_workers: Path) -> None:
    alone = train(case, World())
    for rank in (0, 1):
        saved = torch.load(two_workers / f"{case}{rank}.pt", weights_only=True)
        for name, value in weights(alone).items():
            torch.testing.assert_close(saved["weights"][name], value, rtol=0, atol=1e-9, msg=name)
        for ours, theirs in zip(saved["history"], alone.history, strict=True):
            # Entropies are looked at on each worker's first samples only.
            for name, value in ((n, v) for n, v in theirs.items() if not n.startswith("entropy/")):
                assert ours[name] == pytest.approx(value, abs=1e-9), name


def test_metrics_after_a_restart_are_those_of_all_workers(two_workers: Path, tmp_path: Path) -> None:
    alone, _ = histories(World(), tmp_path)
    for rank in (0, 1):
        undisturbed, resumed = torch.load(two_workers / f"histories{rank}.pt", weights_only=True)
        assert resumed == undisturbed
        assert [row["images"] for row in resumed] == [24, 48]
        for ours, theirs in zip(resumed, alone, strict=True):
            for name, value in ((n, v) for n, v in theirs.items() if not n.startswith("entropy/")):
                assert ours[name] == pytest.approx(value, abs=1e-9), name


def test_workers_that_do_not_share_gradients_would_be_noticed(two_workers: Path) -> None:
    alone = weights(train("base", World()))
    spoiled = torch.load(two_workers / "spoiled0.pt", weights_only=True)["weights"]
    assert max((spoiled[name] - value).abs().max().item() for name, value in alone.items()) > 1e-6
