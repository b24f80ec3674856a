"""The replica's own rules, in this process: Ray Serve's local testing mode, without Ray's processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ray import serve

from gigagan_core.config.serve import ServeSettings
from gigagan_core.errors import GigaganError
from gigagan_core.inference.generate import NotFinite, finite
from gigagan_core.inference.recipes import Point, PromptMixing
from gigagan_core.serving import painting
from gigagan_core.serving.backend import ReplicaBackend
from gigagan_core.serving.batches import BatchRules
from gigagan_core.serving.jobs import PictureJob, UpsampleJob
from gigagan_core.serving.models import ServedModels
from gigagan_core.serving.replica import application, share

from .running import write_models


@pytest.fixture
def backend(tmp_path: Path, save_tiny_encoder: Callable[..., None]) -> ReplicaBackend:
    """One replica, in batches of at most 8."""
    base, encoder, upsampler = write_models(tmp_path, save_tiny_encoder)[1::2]
    models = ServedModels(base, "small", encoder, upsampler, "large", "cpu")
    settings = ServeSettings(max_batch_size=8)
    deployed = application(models, settings, cores=1, gpus=0)
    handle = serve.run(deployed, name=f"local-{tmp_path.name}", route_prefix=None, _local_testing_mode=True)
    facts = handle.facts.remote().result(timeout_s=60)
    return ReplicaBackend(handle, facts, "local", BatchRules(8, wait_seconds=0.01))


@pytest.mark.parametrize(
    ("replicas", "cores", "gpus", "reserved"),
    [
        (1, 2, 0, {"num_cpus": 2}),
        (3, 8, 0, {"num_cpus": 2}),
        (4, 2, 0, {"num_cpus": 0.5}),
        (2, 16, 2, {"num_cpus": 8, "num_gpus": 1.0}),
        (1, 16, 8, {"num_cpus": 16, "num_gpus": 1.0}),
        (3, 16, 2, {"num_cpus": 5, "num_gpus": 0.5}),
    ],
)
def test_replicas_share_cores_and_gpus_so_that_all_find_a_place(replicas, cores, gpus, reserved) -> None:
    assert share(replicas, cores, gpus) == reserved


def points(count: int) -> list[PictureJob]:
    return [PictureJob(Point(prompt="a dog", seed=seed)) for seed in range(count)]


def test_requests_that_come_while_a_batch_runs_share_the_next_one(backend, monkeypatch) -> None:
    batches: list[int] = []
    make = painting.make_pictures

    def slowly(pipe, jobs, batch_size):
        import time

        time.sleep(0.3)
        batches.append(len(jobs))
        return make(pipe, jobs, batch_size)

    monkeypatch.setattr(painting, "make_pictures", slowly)

    async def one_by_one() -> None:
        first = asyncio.create_task(backend.pictures(points(1)))
        await asyncio.sleep(0.15)
        late = []
        for _ in range(5):  # each beyond the wait of the one before
            late.append(asyncio.create_task(backend.pictures(points(1))))
            await asyncio.sleep(0.02)
        await asyncio.gather(first, *late)

    asyncio.run(one_by_one())
    assert batches == [1, 5]


def test_a_request_of_many_pictures_is_cut_into_batches(backend) -> None:
    async def in_turn():
        return await backend.pictures(points(11)), await backend.pictures(points(11)[10:])

    made, alone = asyncio.run(in_turn())
    assert len(made) == 11
    assert sorted(each.batch.pictures for each in made if each.batch) == [3, 8]
    assert made[10].image.tobytes() == alone[0].image.tobytes()


def test_a_request_that_the_model_cannot_make_leaves_the_others_alone(backend) -> None:
    wrong = PictureJob(PromptMixing(first=(Point(prompt="a"),), second=(Point(prompt="b"),), layers=(99,)))

    async def together():
        return await asyncio.gather(
            backend.pictures(points(1)), backend.pictures([wrong]), return_exceptions=True
        )

    made, refusal = asyncio.run(together())
    assert made[0].image.size == (16, 16)
    assert isinstance(refusal, GigaganError)
    assert "has no layer 99" in str(refusal)


def test_a_picture_that_cannot_be_made_leaves_the_others_alone(backend, monkeypatch) -> None:
    make = painting.make_pictures

    def unless_seven(pipe, jobs, batch_size):
        if any(job.what.seed == 7 for job in jobs):
            raise GigaganError("picture 7 is not finite")
        return make(pipe, jobs, batch_size)

    monkeypatch.setattr(painting, "make_pictures", unless_seven)
    bad = PictureJob(Point(prompt="a dog", seed=7))

    async def together():
        return await asyncio.gather(
            backend.pictures(points(2)), backend.pictures([bad]), return_exceptions=True
        )

    made, refusal = asyncio.run(together())
    assert [one.image.size for one in made] == [(16, 16)] * 2
    assert str(refusal) == "picture 7 is not finite"


def test_weights_that_are_damaged_are_no_fault_of_the_request(backend, monkeypatch) -> None:
    def damaged(pipe, jobs, batch_size):
        return finite(torch.full((len(jobs), 3, 16, 16), torch.nan))

    monkeypatch.setattr(painting, "make_pictures", damaged)
    with pytest.raises(NotFinite, match="1 of 1 images are not finite"):
        asyncio.run(backend.pictures(points(2)))


def test_a_picture_is_upsampled_between_batches(backend) -> None:
    async def together():
        small = (await backend.pictures(points(1)))[0].image
        return await asyncio.gather(backend.upsample(UpsampleJob(small)), backend.pictures(points(2)))

    large, made = asyncio.run(together())
    assert large.size == (128, 128)
    assert len(made) == 2
    assert backend.facts["upsampler"]["name"] == "large"
