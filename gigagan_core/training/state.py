"""Everything that training changes, and that a checkpoint must hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gigagan_core.training.sharding import gather, map_tensors, split_like
from gigagan_core.training.world import World

HISTORY_ROWS = 10_000
"""An even number; of a hundred metrics each, so many rows are 50 MB. Weeks of training read the metrics a hundred
thousand times, and every checkpoint holds what is kept of that."""


class MetricWindow:
    """Sums of metrics since they were last read; they stay on the device until then."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: dict[str, Tensor]) -> None:
        """One step's metrics, each a scalar tensor; a metric need not come every step."""
        for name, value in metrics.items():
            value = value.detach().to(torch.float64)
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def read(self, world: World) -> dict[str, float]:
        """The mean of each metric since the last read, over steps and workers; empties the window."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        means = torch.stack([self._sums[name] / self._counts[name] for name in names])
        values = world.mean(means).tolist()
        self._sums, self._counts = {}, {}
        return dict(zip(names, values, strict=True))

    def share(self, world: World) -> None:
        """Give every worker the mean of all sums, so that one worker's window stands for all in a checkpoint."""
        if not self._sums:
            return
        names = sorted(self._sums)
        means = world.mean(torch.stack([self._sums[name] for name in names]))
        self._sums = dict(zip(names, means.unbind(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._sums, self._counts = dict(saved["sums"]), dict(saved["counts"])


@dataclass
class TrainState:
    """Networks, their average, optimisers and counters.

    networks: "generator" (or upsampler), and "discriminator" where there is one. optimizers: same names.
    ema: the moving average of the generator; equal on every worker, or split like it.
    images_seen: over all workers; the step axis of every metric.
    skipped_images: left out after losses that were not finite, so that training does not meet them again.
    history: one dict a read of the metrics: {"images": n, metric: value}; the learning curves. At most `HISTORY_ROWS`.
    """

    networks: dict[str, nn.Module]
    ema: nn.Module
    optimizers: dict[str, Optimizer]
    images_seen: int = 0
    skipped_images: int = 0
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    window: MetricWindow = field(default_factory=MetricWindow)

    def remember(self, row: dict[str, float]) -> None:
        """One more row of the history. Where it grows too long every second row goes: first and last one stay."""
        self.history.append(row)
        if len(self.history) > HISTORY_ROWS:
            self.history = self.history[::2]

    @property
    def generator(self) -> nn.Module:
        """The generator, or the upsampler."""
        return self.networks["generator"]

    @property
    def next_index(self) -> int:
        """Global index of the next image: the position in the data."""
        return self.images_seen + self.skipped_images

    def state_dict(self) -> dict[str, Any]:
        """All of it, of tensors and plain values only: loads with ``weights_only=True``.

        Where networks are split every worker must call this; rank 0 gets whole tensors in CPU memory, the others
        None in their place. Other tensors are the living ones: see `checkpoint.snapshot`.
        """
        state = {
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "ema": self.ema.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "images_seen": self.images_seen,
            "skipped_images": self.skipped_images,
            "step": self.step,
            "history": self.history,
            "window": self.window.state_dict(),
        }
        return gather(state)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave on rank 0, whatever the workers and the parallelism it came from.

        Every worker has all of it and takes its part. Raises RuntimeError where the networks differ.
        """
        for name, network in self.networks.items():
            load_network(network, saved["networks"][name])
        load_network(self.ema, saved["ema"])
        for name, optimizer in self.optimizers.items():
            load_optimizer(optimizer, saved["optimizers"][name])
        self.images_seen, self.skipped_images = saved["images_seen"], saved["skipped_images"]
        self.step = saved["step"]
        self.history = list(saved["history"])
        device = next(self.generator.parameters()).device
        self.window.load_state_dict(map_tensors(lambda tensor: tensor.to(device), saved["window"]))


def load_network(network: nn.Module, saved: dict[str, Tensor]) -> None:
    """Load whole weights into a network that may be split. Raises RuntimeError where it is another network's."""
    own = network.state_dict()
    network.load_state_dict(
        {name: split_like(value, own[name]) if name in own else value for name, value in saved.items()}
    )


def load_optimizer(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Load a whole optimiser state for parameters that may be split. Raises ValueError where it is another's."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = {
        number: {name: split_like(value, parameters[number]) for name, value in of_one.items()}
        for number, of_one in saved["state"].items()
        if number < len(parameters)
    }
    optimizer.load_state_dict({**saved, "state": state})
