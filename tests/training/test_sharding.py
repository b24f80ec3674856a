"""Two workers that hold half the weights each train as one that holds them all; checkpoints fit them all."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn
from torch.distributed.tensor import DTensor

from gigagan_core.training import loop
from gigagan_core.training.checkpoint import load_checkpoint, snapshot, write_checkpoint
from gigagan_core.training.flops import FlopMeter
from gigagan_core.training.loop import run_loop, train_step
from gigagan_core.training.sharding import (
    data_parallel_mesh,
    gathered,
    keep_gathered,
    shard,
    sharding_units,
    split_dimension,
    training_only,
)
from gigagan_core.training.state import TrainState
from gigagan_core.training.world import World

from .conftest import Hooks, NoMeter, base_settings, batches, make_base, make_upsampler, upsampler_settings

MIDDLE, END = 2, 4  # steps; R1 is due in steps 0 and 3
# name: how the networks are made, its settings, size of the images, the schedule
CASES: dict[str, tuple[Any, Any, int, dict[str, Any]]] = {
    "base": (make_base, base_settings, 8, {}),
    "upsampler": (
        make_upsampler,
        upsampler_settings,
        16,
        {"batch_size": 16, "micro_batch_size": 4, "activation_checkpointing": True},
    ),
}
# the checkpoint that two workers go on from, and how
MOVES = {
    "one-to-sharded": ("one", "sharded"),
    "sharded-to-sharded": ("sharded", "sharded"),
    "sharded-to-replicated": ("sharded", "replicated"),
}


def train(
    case: str,
    world: World,
    parallelism: str,
    until: int,
    resume: Path | None = None,
    meter: type[FlopMeter] = NoMeter,
) -> tuple[TrainState, dict[str, Any]]:
    """The state after `until` steps, and its snapshot; on every worker."""
    make, settings, size, schedule = CASES[case]
    batch = schedule.get("batch_size", 8)
    training = settings(precision="float64", total_images=until * batch, parallelism=parallelism, **schedule)
    state, recipe = make(training, world=world)
    if resume is not None:
        # A step into another state first: a checkpoint is also gone back to in the middle of training.
        train_step(state, recipe, next(batches(size, batch, 1000, world)), world)
        load_checkpoint(resume, state)
    source = batches(size, batch, state.images_seen, world)
    with mock.patch.object(loop, "FlopMeter", meter):
        run_loop(state, recipe, source, training.schedule, SilentHooks(), world)
    return state, snapshot(state, world)


class SilentHooks(Hooks):
    """The loop saves; what is compared is the snapshot after it."""

    def on_checkpoint(self, state: TrainState) -> None:
        pass


def checkpoint(folder: Path, case: str, world: World, parallelism: str) -> Path:
    _, saved = train(case, world, parallelism, MIDDLE)
    if world.rank == 0:
        folder.mkdir(parents=True)
        write_checkpoint(folder, saved, world, seed=0)
    return folder


# ---- in the workers --------------------------------------------------------------------------------


def worker(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        world, root = World.joined(), Path(folder)
        # with split weights the meter runs as it does in real training, but for the case that takes longest
        for case, meter in (("base", FlopMeter), ("upsampler", NoMeter)):
            state, saved = train(case, world, "sharded", END, meter=meter)
            keep(root / f"{case}.pt", rank, saved)
            keep(root / f"{case}-share{rank}.pt", 0, share(state))
            average = gathered(state.ema)
            if rank == 0:
                keep(root / f"{case}-average.pt", rank, average.state_dict())
        checkpoint(root / "sharded", "base", world, "sharded")
        dist.barrier()  # it is rank 0 that writes
        for name, (start, parallelism) in MOVES.items():
            keep(root / f"{name}.pt", rank, train("base", world, parallelism, END, root / start)[1])
        penalise(root, rank)
        spoil(root, rank, world)
    finally:
        dist.destroy_process_group()


def keep(path: Path, rank: int, what: Any) -> None:
    if rank == 0:
        torch.save(what, path)


def share(state: TrainState) -> dict[str, list[int]]:
    """Numbers held by this worker and numbers in all, of every tensor that training changes."""
    found: dict[str, Any] = {f"ema.{name}": value for name, value in state.ema.named_parameters()}
    for kind, network in state.networks.items():
        optimizer = state.optimizers[kind]
        for name, value in network.named_parameters():
            found[f"{kind}.{name}"] = value
            found |= {f"{kind}.{name}.{key}": kept for key, kept in optimizer.state[value].items()}
    return {
        name: [value.to_local().numel() if isinstance(value, DTensor) else value.numel(), value.numel()]
        for name, value in found.items()
        if not name.endswith(".step")
    }


def linear() -> nn.Module:
    """A network whose second backward pass reaches no output of its units, and so none of their hooks."""
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)).double()
    with torch.no_grad():
        for number, parameter in enumerate(network.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).view_as(parameter) / 10 + number)
    return network


def penalty(network: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    rows = rows.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(network(rows).sum(), rows, create_graph=True)
    return slopes.square().mean()


def penalise(root: Path, rank: int) -> None:
    """The penalty before another term, and alone."""
    rows, gradients, error = torch.ones(2, 4, dtype=torch.float64), {}, ""
    for alone in (False, True):
        network = shard(linear(), data_parallel_mesh("cpu"))
        try:
            with training_only({"linear": network}, "linear"):
                keep_gathered(network, True)
                penalty(network, rows).backward()
                keep_gathered(network, False)
                if not alone:
                    network(rows).square().mean().backward()
        except RuntimeError as raised:
            error = str(raised)
        if not alone:
            gradients = {name: parameter.grad.full_tensor() for name, parameter in network.named_parameters()}
    keep(root / "penalty.pt", rank, {"gradients": gradients, "error": error})


def spoil(root: Path, rank: int, world: World) -> None:
    """The planted fault: a gradient norm over this worker's part alone."""
    loop.total_norm = lambda tensors: torch.stack(torch._foreach_norm([t.to_local() for t in tensors])).norm()
    keep(root / "own-norm.pt", rank, train("base", world, "sharded", 2)[1])


# ---- in the test -----------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    checkpoint(folder / "one", "base", World(), "replicated")
    # Fresh processes: a fork would inherit the threads of whatever the test run has started before.
    # They find this module the way sys.path, which they are given, says.
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1]))
        multiprocessing.start_processes(worker, (free_port(), str(folder)), nprocs=2, start_method="spawn")
    return folder


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    """What one worker makes of each case, without a break."""
    return {case: train(case, World(), "replicated", END)[1] for case in CASES}


def flat(tree: Any, name: str = "") -> dict[str, Any]:
    """Every leaf of nested dicts and lists by its path."""
    if isinstance(tree, dict):
        return {
            key: leaf for part, value in tree.items() for key, leaf in flat(value, f"{name}/{part}").items()
        }
    if isinstance(tree, (list, tuple)):
        return flat(dict(enumerate(tree)), name)
    return {name: tree}


def assert_same_state(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    # Entropies are those of a worker's first samples.
    ours, theirs = (
        {name: leaf for name, leaf in flat(tree).items() if "/entropy/" not in name}
        for tree in (ours, theirs)
    )
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        if isinstance(value, str | bool) or value is None:
            assert ours[name] == value, name
        else:
            found = torch.as_tensor(ours[name])
            torch.testing.assert_close(found, torch.as_tensor(value), rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("case", CASES)
def test_split_networks_train_as_whole_ones(case: str, two_workers: Path, alone) -> None:
    """Weights, average, optimiser state, counters and the whole history of losses and gradient norms."""
    saved = torch.load(two_workers / f"{case}.pt", weights_only=True)
    assert {"discriminator/r1", "generator/loss", "grad_norm/generator", "ema_distance"} <= saved["history"][
        0
    ].keys()
    assert_same_state(saved, alone[case])


@pytest.mark.parametrize("move", MOVES)
def test_a_checkpoint_goes_on_with_other_workers_and_parallelism(move: str, two_workers: Path, alone) -> None:
    saved = torch.load(two_workers / f"{move}.pt", weights_only=True)
    assert saved["step"] == END
    assert_same_state(saved, alone["base"])


def test_a_checkpoint_of_split_networks_goes_on_with_one_worker(two_workers: Path, alone) -> None:
    assert_same_state(train("base", World(), "sharded", END, two_workers / "sharded")[1], alone["base"])


@pytest.mark.parametrize("case", CASES)
def test_every_worker_holds_half(case: str, two_workers: Path) -> None:
    shares = [torch.load(two_workers / f"{case}-share{rank}.pt", weights_only=True) for rank in (0, 1)]
    for name, (_, whole) in shares[0].items():
        held = [share[name][0] for share in shares]
        assert sum(held) == whole, name
        assert whole == 1 or max(held) < whole, f"{name} is whole on one worker"
    for share in shares:
        held, whole = (sum(numbers) for numbers in zip(*share.values(), strict=True))
        assert held / whole == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("case", CASES)
def test_the_average_is_made_whole_for_samples(case: str, two_workers: Path, alone) -> None:
    average = torch.load(two_workers / f"{case}-average.pt", weights_only=True)
    assert_same_state(average, alone[case]["ema"])


def test_a_penalty_leaves_its_gradients_to_the_next_backward_pass(two_workers: Path) -> None:
    network, rows = linear(), torch.ones(2, 4, dtype=torch.float64)
    (penalty(network, rows) + network(rows).square().mean()).backward()
    found = torch.load(two_workers / "penalty.pt", weights_only=True)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(found["gradients"][name], parameter.grad, rtol=0, atol=1e-12, msg=name)
    assert "was not shared" in found["error"]


def test_a_norm_of_one_part_would_be_noticed(two_workers: Path) -> None:
    spoiled = torch.load(two_workers / "own-norm.pt", weights_only=True)["history"][0]
    right = train("base", World(), "replicated", 2)[1]["history"][0]
    assert abs(spoiled["grad_norm/generator"] - right["grad_norm/generator"]) > 1e-6


def test_a_snapshot_is_left_alone_by_later_steps() -> None:
    state, saved = train("base", World(), "replicated", 1)
    with torch.no_grad():
        for tensor in flat(state.state_dict()).values():
            if isinstance(tensor, torch.Tensor):
                tensor.fill_(7)
    assert_same_state(saved, train("base", World(), "replicated", 1)[1])


def test_units_hold_every_parameter_once() -> None:
    state, _ = make_upsampler()
    for network in state.networks.values():
        *parts, whole = sharding_units(network)
        assert whole is network
        inside = [id(parameter) for part in parts for parameter in part.parameters()]
        assert len(inside) == len(set(inside))
        assert set(inside) <= {id(parameter) for parameter in network.parameters()}


@pytest.mark.parametrize(
    ("shape", "workers", "expected"),
    [
        ((8, 512, 512, 3, 3), 64, 1),
        ((8, 512, 512, 3, 3), 8, 0),
        ((512, 77), 64, 0),
        ((1,), 2, 0),
        ((3, 5), 2, 0),
    ],
)
def test_parameters_are_split_where_it_comes_out_even(shape, workers: int, expected: int) -> None:
    assert split_dimension(torch.Size(shape), workers) == expected
