"""Scoring spread over Ray: bounded, on GPUs where they are asked for, with equal scores."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from gigagan_core import ray_nodes
from gigagan_core.config.curate import CurateSettings, LanguageRule, ScoreRule, ScoreSettings
from gigagan_core.data.scorers import clip_similarity, image_embedding
from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.errors import GigaganError
from gigagan_core.stages import curate
from gigagan_core.stages import scoring as scoring_stage
from gigagan_core.stages.base import RunContext
from gigagan_core.store.artifact import Artifact

from .conftest import rows_of

COLUMN = "clip_similarity_test-condition"
Make = Callable[..., Artifact]


def settings() -> CurateSettings:
    return CurateSettings(clip_similarity=ScoreRule(), batch_size=4, in_process_shards=8)


class InlineRay:
    """Ray's calls that scoring makes, done at once; remembers what tasks ask for and the most ever in flight."""

    def __init__(self, **resources: float) -> None:
        self.resources, self.most, self.asked = resources, 0, []

    def nodes(self) -> list[dict]:
        dead = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
        return [dead, {"Alive": True, "Resources": self.resources}]

    def remote(self, **options: object) -> Callable:
        self.asked.append(options)
        return lambda function: SimpleNamespace(remote=lambda *given: functools.partial(function, *given))

    def wait(self, running: list, num_returns: int) -> tuple[list, list]:
        self.most = max(self.most, len(running))
        return running[:num_returns], running[num_returns:]

    def get(self, tasks: list) -> list:
        return [task() for task in tasks]


def spread(context: RunContext, inputs: dict) -> Artifact:
    """Curate with every shard in a task of its own."""
    context.force = True
    return curate.run(CurateSettings(in_process_shards=0, clip_similarity=ScoreRule()), inputs, context)


def test_many_shards_are_scored_in_bounded_tasks_with_equal_scores(
    context: RunContext, shard_set: Make, encoder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"data": shard_set(shards=5), "encoder": encoder()}
    here = curate.run(settings(), inputs, context)
    ray = InlineRay(CPU=2.0)
    monkeypatch.setattr(context.ray_session, "ray", lambda: ray)
    assert [row[COLUMN] for row in rows_of(spread(context, inputs))] == [row[COLUMN] for row in rows_of(here)]
    assert ray.most == 2


@pytest.mark.parametrize(
    ("wanted", "there", "sentence"),
    [
        ({"gpus_per_task": 1.0}, {"CPU": 4.0}, "gpus_per_task=1 and no node .* more than 0 GPU"),
        ({"gpus_per_task": 0.5}, {"CPU": 4.0, "GPU": 0.0}, "gpus_per_task=0.5 and no node"),
        ({"cpus_per_task": 8.0}, {"CPU": 4.0}, "cpus_per_task=8 and no node .* more than 4 CPU"),
    ],
)
def test_what_no_node_has_is_refused_where_ray_would_wait_for_ever(
    wanted: dict, there: dict, sentence: str, context: RunContext, shard_set: Make, encoder: Make, monkeypatch
) -> None:
    ray = InlineRay(**there)
    monkeypatch.setattr(context.ray_session, "ray", lambda: ray)
    inputs = {"data": shard_set(), "encoder": encoder()}
    with pytest.raises(GigaganError, match=sentence):
        curate.run(CurateSettings(in_process_shards=0, **wanted), inputs, context)
    assert ray.asked == []


def test_cpus_and_gpus_on_different_nodes_are_no_place_for_a_task() -> None:
    wanted = ScoreSettings(scorer="watermark", cpus_per_task=4.0, gpus_per_task=1.0)
    apart = [{"CPU": 8.0}, {"CPU": 2.0, "GPU": 1.0}]
    with pytest.raises(GigaganError, match=r"cpus_per_task=4, gpus_per_task=1 and no node .* has both"):
        scoring_stage._require_a_node(apart, wanted)
    scoring_stage._require_a_node([*apart, {"CPU": 4.0, "GPU": 1.0}], wanted)


class GrowingRay(InlineRay):
    """A cluster without a node, which gets them while it is asked for some or has tasks that wait."""

    def __init__(self, *growth: float) -> None:
        super().__init__()
        self.growth, self.groups, self.bundles, self.waiting = list(growth), [], [], 0
        self.util = SimpleNamespace(
            placement_group=self.placement_group, remove_placement_group=self.groups.remove
        )

    def placement_group(self, bundles: list[dict]) -> object:
        self.bundles += bundles
        self.groups.append(object())
        return self.groups[-1]

    def nodes(self) -> list[dict]:
        if self.growth and (self.groups or self.waiting > self.resources.get("CPU", 0.0)):
            self.resources = {"CPU": self.growth.pop(0)}
        return super().nodes()

    def wait(self, running: list, num_returns: int) -> tuple[list, list]:
        self.waiting = len(running)
        return super().wait(running, num_returns)


def test_a_growing_cluster_gets_a_node_and_more_of_them_for_the_tasks_that_wait(
    context: RunContext, shard_set: Make, encoder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIGAGAN_RAY_NODE_PATIENCE_S", "60")
    monkeypatch.setattr(ray_nodes, "POLL_SECONDS", 0.0)
    inputs = {"data": shard_set(shards=9), "encoder": encoder()}
    here = curate.run(settings(), inputs, context)
    ray = GrowingRay(0.0, 1.0, 2.0, 3.0)
    monkeypatch.setattr(context.ray_session, "ray", lambda: ray)
    assert [row[COLUMN] for row in rows_of(spread(context, inputs))] == [row[COLUMN] for row in rows_of(here)]
    assert ray.bundles == [{"CPU": 1.0}], "asked for once: where there is a node, tasks that wait do it"
    assert ray.groups == []
    assert ray.resources == {"CPU": 3.0}
    assert ray.most == 6


def test_a_node_that_does_not_come_ends_scoring_when_the_patience_does(
    context: RunContext, shard_set: Make, encoder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIGAGAN_RAY_NODE_PATIENCE_S", "0.05")
    monkeypatch.setattr(ray_nodes, "POLL_SECONDS", 0.01)
    ray = GrowingRay()
    monkeypatch.setattr(context.ray_session, "ray", lambda: ray)
    with pytest.raises(GigaganError, match=r"cpus_per_task=1 and no node .* more than 0 CPU"):
        spread(context, {"data": shard_set(), "encoder": encoder()})
    assert (ray.bundles, ray.groups, ray.asked) == ([{"CPU": 1.0}], [], [])


def test_networks_ask_for_a_gpu_and_run_on_it_and_nothing_else_does(
    context: RunContext, shard_set: Make, encoder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray, devices = InlineRay(CPU=8.0, GPU=1.0), []
    monkeypatch.setattr(context.ray_session, "ray", lambda: ray)
    for module in (image_embedding, clip_similarity):
        monkeypatch.setattr(
            module, "load_encoder", lambda place, device: devices.append(device) or load_encoder(place)
        )
    # What the stub of an encoder stays on: this machine need not have a GPU.
    monkeypatch.setattr(torch.Tensor, "to", lambda self, *to: self)
    language = CurateSettings(
        in_process_shards=0, gpus_per_task=0.5, language=LanguageRule(language="en", minimum=None)
    )
    curate.run(language, {"data": shard_set(shards=5), "encoder": encoder()}, context)
    assert [asked["num_gpus"] for asked in ray.asked] == [0.5, 0.5, 0.0]
    assert devices == ["cuda", "cuda"]
    assert ray.most == 5, "scorers of captions are bounded by the CPUs"
    embedded = ScoreSettings(scorer="image_embedding", gpus_per_task=0.5)
    assert scoring_stage._in_flight(ray, embedded) == 2


def test_without_cuda_scoring_on_it_is_refused_here(
    context: RunContext, shard_set: Make, encoder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    inputs = {"data": shard_set(), "encoder": encoder()}
    with pytest.raises(GigaganError, match="gpus_per_task=1 and torch sees no CUDA device"):
        curate.run(CurateSettings(gpus_per_task=1), inputs, context)


def test_gpus_and_spreading_decide_no_score(context: RunContext, shard_set: Make, encoder: Make) -> None:
    inputs = {"data": shard_set(), "encoder": encoder()}
    first = curate.run(settings(), inputs, context)
    assert curate.run(CurateSettings(clip_similarity=ScoreRule(), gpus_per_task=1), inputs, context) == first


@pytest.mark.slow
def test_ray_workers_give_equal_scores(
    context: RunContext, shard_set: Make, encoder: Make, scored: list[int]
) -> None:
    inputs = {"data": shard_set(), "encoder": encoder()}
    here = curate.run(settings(), inputs, context)
    calls = len(scored)
    ours, theirs = (
        [row[COLUMN] for row in rows_of(artifact)] for artifact in (here, spread(context, inputs))
    )
    assert len(scored) == calls  # this process scored nothing more
    for mine, other in zip(ours, theirs, strict=True):
        assert mine is other is None or mine == pytest.approx(other, abs=1e-6)
