"""FLOPs and bytes of single operations, against torch's own counter and against what they must be."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from gigagan_core.planning.fakes import faking
from gigagan_core.planning.tracker import Tracker


def flops(tracker: Tracker) -> int:
    return sum(sum(phase.flops.values()) for phase in tracker.phases.values())


def test_flops_are_those_of_torchs_counter() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 64, 5))
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    with FlopCounterMode(display=False) as torchs:
        network(x).sum().backward()
    tracker = Tracker()
    with tracker:
        tracker.enter_phase("all")
        network(x).sum().backward()
    assert flops(tracker) == torchs.get_total_flops()


def test_a_kernel_a_sample_costs_what_the_samples_cost_one_by_one() -> None:
    """torch's own counter would take the weights' gradient four times."""
    x, kernels = torch.randn(4, 6, 8, 8, requires_grad=True), torch.randn(4, 5, 6, 3, 3, requires_grad=True)

    def count(together: bool) -> int:
        tracker = Tracker()
        with tracker:
            tracker.enter_phase("all")
            if together:
                y = F.conv2d(x.reshape(1, 24, 8, 8), kernels.flatten(0, 1), padding=1, groups=4)
            else:
                y = torch.cat([F.conv2d(x[n : n + 1], kernels[n], padding=1) for n in range(4)])
            y.sum().backward()
        return flops(tracker)

    assert count(True) == count(False) == 3 * 2 * 4 * 64 * 9 * 6 * 5


def test_attention_and_precisions_are_told_apart() -> None:
    tracker = Tracker()
    with faking(as_on_gpu=False), tracker:
        tracker.enter_phase("all")
        query = torch.empty(2, 4, 16, 8, requires_grad=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            F.scaled_dot_product_attention(query, query, query).float().sum().backward()
        F.conv2d(torch.empty(1, 3, 8, 8), torch.empty(5, 3, 1, 1))
        torch.empty(7, 8) @ torch.empty(8, 9)
    found = {precision: count for (_, precision), count in tracker.phases["all"].flops.items()}
    products = 2 * 2 * 4 * 16 * 16 * 8  # of one matrix product over the batch and the heads
    assert found == {"bfloat16": (2 + 5) * products, "tf32": 2 * 64 * 3 * 5, "float32": 2 * 7 * 8 * 9}


def test_a_storage_counts_once_and_until_it_is_gone() -> None:
    tracker = Tracker()
    with faking(), tracker:
        tracker.enter_phase("first")
        kept = torch.empty(1000)
        views = kept.view(10, 100), kept[5:]
        gone = torch.empty(500)
        del gone
        tracker.enter_phase("second")
        del views
        torch.empty(100)
    assert tracker.phases["first"].peak == 4 * 1500
    assert tracker.phases["second"].peak == 4 * 1100
    assert sum(tracker.held.values()) == 4 * 1000
    del kept
    assert sum(tracker.held.values()) == 0


def test_a_storage_that_is_emptied_in_place_is_not_held() -> None:
    tracker = Tracker()
    with faking(), tracker:
        tracker.enter_phase("all")
        gathered = torch.empty(1000)
        gathered.untyped_storage().resize_(0)
        assert sum(tracker.held.values()) == 0
        gathered.untyped_storage().resize_(4000)
    assert sum(tracker.held.values()) == 4000
    assert tracker.phases["all"].peak == 4000
