"""A training whose networks are small enough to be counted in seconds, and its counts, made once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from gigagan_core.config.base import with_overrides
from gigagan_core.config.training import BaseTrainingSettings
from gigagan_core.planning.counting import Counted, count
from gigagan_core.planning.encoders import FrozenNetworks
from gigagan_core.planning.profile import Shape, StepProfile, profile
from tests.training.conftest import ARCHITECTURE, DISCRIMINATOR, GENERATOR, base_settings

FROZEN = FrozenNetworks(ARCHITECTURE, "tiny")
SETTINGS = BaseTrainingSettings(
    generator=GENERATOR, discriminator=DISCRIMINATOR, training=base_settings(batch_size=16, total_images=1600)
)


def settings_with(*overrides: str) -> BaseTrainingSettings:
    return with_overrides(SETTINGS, overrides)


def sharded_on(workers: int) -> StepProfile:
    settings = settings_with("training.schedule.parallelism=sharded")
    return profile(settings, FROZEN, [Shape(4, workers)], as_on_gpu=False)[0]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package")
def three_sizes() -> list[StepProfile]:
    """Of 4, 8 and 16 samples, on two workers."""
    return profile(SETTINGS, FROZEN, [Shape(n, 2) for n in (4, 8, 16)], as_on_gpu=False)


@pytest.fixture(scope="package")
def counted() -> Counted:
    return count(SETTINGS, FROZEN, largest=16)


@pytest.fixture(scope="package")
def sharded() -> dict[int, Any]:
    """The same step split over two and over four workers."""
    return {workers: sharded_on(workers) for workers in (2, 4)}
