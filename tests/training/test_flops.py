"""FLOPs of a step, counted where it is made."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gigagan_core.config.plan import GPUS, gpu_named
from gigagan_core.training.flops import FlopMeter
from gigagan_core.training.loop import run_loop
from gigagan_core.training.world import World

from .conftest import Hooks, base_settings, batches, make_base


def counted(work) -> int:
    meter = FlopMeter()
    with meter.step("one"):
        work()
    return meter.read()


def test_a_product_is_two_operations_a_term() -> None:
    a, b = torch.rand(3, 5), torch.rand(5, 7)
    assert counted(lambda: a @ b) == 2 * 3 * 5 * 7


@pytest.mark.parametrize("groups", [1, 2])
def test_both_gradients_of_a_convolution_cost_what_it_does(groups: int) -> None:
    x = torch.rand(3, 4, 8, 8, requires_grad=True)
    weight = torch.rand(6, 4 // groups, 3, 3, requires_grad=True)
    forward = 2 * 3 * 8 * 8 * weight.numel()
    assert counted(lambda: F.conv2d(x, weight, padding=1, groups=groups)) == forward
    whole = counted(lambda: F.conv2d(x, weight, padding=1, groups=groups).sum().backward())
    assert whole == 3 * forward


def test_steps_of_a_kind_are_counted_once_and_added_each_time() -> None:
    meter, a = FlopMeter(), torch.rand(4, 4)
    for kind, size in (("plain", 4), ("with penalty", 2), ("plain", 4)):
        with meter.step(kind):
            a[:size] @ a
    assert meter.read() == 2 * 16 * (4 + 2 + 4)
    assert meter.read() == 0


def test_the_loop_reports_the_rate_and_a_step_with_penalty_costs_more() -> None:
    training = base_settings(total_images=48, diagnostics_every_steps=0)
    state, recipe = make_base(training)
    hooks = Hooks()
    run_loop(state, recipe, batches(8), training.schedule, hooks, World())
    figures = [metrics for _, metrics in hooks.metrics]
    work = [row["flops_per_second_per_device"] / row["images_per_second"] for row in figures]
    # two steps a read, the penalty every third: steps 0 and 3 have it, 4 and 5 do not
    assert work[0] == pytest.approx(work[1], rel=1e-6)
    assert work[0] > 1.1 * work[2]


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA H200", "h200-141gb"),
        ("NVIDIA H100 PCIe", None),
        ("Tesla T4", None),
    ],
)
def test_a_driver_s_name_finds_its_data_sheet(said: str, name: str | None) -> None:
    assert gpu_named(said) is (GPUS[name] if name else None)
