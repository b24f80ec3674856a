"""Everything that training changes, and that a checkpoint must hold."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gigagan_core.training.world import World


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
    ema: the moving average of the generator; equal on every worker.
    images_seen: over all workers; also the position in the data, and the step axis of every metric.
    history: one dict a read of the metrics: {"images": n, metric: value}; the learning curves.
    """

    networks: dict[str, nn.Module]
    ema: nn.Module
    optimizers: dict[str, Optimizer]
    images_seen: int = 0
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    window: MetricWindow = field(default_factory=MetricWindow)

    @classmethod
    def start(cls, networks: dict[str, nn.Module], optimizers: dict[str, Optimizer]) -> TrainState:
        """The state before the first step; the average starts as a copy of the generator."""
        ema = copy.deepcopy(networks["generator"]).eval().requires_grad_(False)
        return cls(networks, ema, optimizers)

    @property
    def generator(self) -> nn.Module:
        """The generator, or the upsampler."""
        return self.networks["generator"]

    def state_dict(self) -> dict[str, Any]:
        """All of it, of tensors and plain values only: loads with ``weights_only=True``."""
        return {
            "networks": {name: network.state_dict() for name, network in self.networks.items()},
            "ema": self.ema.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "images_seen": self.images_seen,
            "step": self.step,
            "history": self.history,
            "window": self.window.state_dict(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave; raises RuntimeError where the networks differ."""
        for name, network in self.networks.items():
            network.load_state_dict(saved["networks"][name])
        self.ema.load_state_dict(saved["ema"])
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(saved["optimizers"][name])
        self.images_seen, self.step = saved["images_seen"], saved["step"]
        self.history = list(saved["history"])
        self.window.load_state_dict(saved["window"])
