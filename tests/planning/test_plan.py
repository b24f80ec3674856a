"""What a plan makes of the counts: memory and traffic by workers, time, and what fits."""

from __future__ import annotations

import pytest

from gigagan_core.config.plan import PlanSettings
from gigagan_core.errors import GigaganError
from gigagan_core.models.counting import on_meta_device
from gigagan_core.planning.counting import Counted
from gigagan_core.planning.plan import micro_batches, on_gpus, peak, plan, traffic_a_step
from gigagan_core.planning.profile import PARAMETERS, StepProfile
from tests.planning.conftest import SETTINGS, settings_with

ASSUMED = PlanSettings()


def test_states_fall_with_the_workers_where_they_are_split(counted: Counted) -> None:
    plans = plan(SETTINGS, counted, (2, 4), ASSUMED)["plans"]
    for two, four in zip(
        plans[0]["sharded"]["states"].items(), plans[1]["sharded"]["states"].items(), strict=True
    ):
        assert four[1] == pytest.approx(two[1] if two[0] == "frozen networks" else two[1] / 2)
    assert plans[0]["replicated"]["states"] == plans[1]["replicated"]["states"]


def test_a_split_step_that_was_not_counted_is_foreseen(
    counted: Counted, sharded: dict[int, StepProfile]
) -> None:
    # Counted on 8 workers; rehearsed on 2, as on a CPU, which differs in a few kernels.
    assert peak(counted, 2, "sharded", 4, 4, False) == pytest.approx(sharded[2].peak, rel=0.1)


def test_what_is_sent_is_the_closed_form_of_a_ring(counted: Counted) -> None:
    networks = (SETTINGS.generator, SETTINGS.discriminator)
    gradients = 4 * sum(p.numel() for network in networks for p in on_meta_device(network).parameters())
    traffic = traffic_a_step(SETTINGS, counted, 4, "replicated", 1)
    assert traffic["allreduce"] == pytest.approx(gradients, rel=0.01)
    # 8 floats of picture, 8 of caption and its number, for each of the batch's 16 samples
    assert traffic["allgather"] == 16 * (2 * 8 * 4 + 8)
    time = plan(SETTINGS, counted, (4,), ASSUMED)["plans"][0]["replicated"]["time"]
    sent = 2 * 3 / 4 * traffic["allreduce"] + 3 / 4 * traffic["allgather"]
    assert time["sent_bytes_a_gpu"] == pytest.approx(sent)
    assert time["communication_seconds"] == pytest.approx(sent / (0.7 * 300e9))
    assert traffic_a_step(SETTINGS, counted, 1, "replicated", 1) == {}


def test_the_ring_across_nodes_is_as_fast_as_their_network() -> None:
    assert ASSUMED.bandwidth(8) == pytest.approx(0.7 * 300e9)
    assert ASSUMED.bandwidth(16) == pytest.approx(0.7 * 8 * 25e9)


def test_hours_and_cost_follow_from_a_step(counted: Counted) -> None:
    time = plan(SETTINGS, counted, (4,), ASSUMED)["plans"][0]["replicated"]["time"]
    whole = sum(time["compute_seconds"].values()) + time["communication_seconds"]
    assert time["step_seconds"] == pytest.approx(whole)
    assert time["images_a_second"] == pytest.approx(16 / whole)
    assert time["hours"] == pytest.approx(whole * 100 / 3600)
    assert time["cost"] == pytest.approx(4 * 2.5 * time["hours"])
    twice = plan(SETTINGS, counted, (4,), PlanSettings(mfu=0.6))["plans"][0]["replicated"]["time"]
    assert sum(twice["compute_seconds"].values()) == pytest.approx(sum(time["compute_seconds"].values()) / 2)


def test_the_largest_micro_batch_that_fits_is_found(counted: Counted) -> None:
    def largest(memory: float) -> int | None:
        found = plan(SETTINGS, counted, (1,), PlanSettings(gpu_memory=memory, reserve=0.0))
        return found["plans"][0]["replicated"]["without_checkpointing"]["largest_micro_batch"]

    # Micro-batches of 4, the matching block of these settings, up to the whole batch.
    assert micro_batches(16, counted.unit) == [16, 8, 4]
    needs = {n: peak(counted, 1, "replicated", n, 16, False) / 2**30 for n in (4, 8, 16)}
    assert needs[4] < needs[8] < needs[16]
    assert [largest(needs[n] * 1.001) for n in (4, 8, 16)] == [4, 8, 16]
    assert largest(needs[4] * 0.9) is None


def test_checkpointing_takes_less(counted: Counted) -> None:
    found = plan(SETTINGS, counted, (1,), ASSUMED)["plans"][0]["replicated"]
    less, more = found["with_checkpointing"]["peak_by_phase"], found["without_checkpointing"]["peak_by_phase"]
    assert less["generator"] < more["generator"]
    assert less["r1"] == more["r1"]
    assert found["states"][PARAMETERS] > 0


def test_a_batch_that_does_not_split_is_refused() -> None:
    with pytest.raises(GigaganError, match="a batch of 16 does not split over 3 workers"):
        on_gpus(SETTINGS, 3)
    with pytest.raises(GigaganError, match="matching_block is 4"):
        on_gpus(settings_with(), 8)


def test_an_unknown_gpu_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="did you mean 'a100-80gb'"):
        PlanSettings(gpu="a100-80g")
