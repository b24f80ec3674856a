"""What Ray's tasks are given and what they give back, with Ray's part played in this process."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import ray_moments
from gigagan_core.evaluation.extraction import THREADS_IN_TASK, Plan
from gigagan_core.evaluation.feature_set import FeatureSet
from gigagan_core.evaluation.ray_moments import moments_in_ray

from .conftest import values

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")


class PretendedRay:
    """Runs a task where its result is asked for. tasks: (function's name, arguments), in the order of submission."""

    class TaskError(Exception):
        def __init__(self, cause: Exception):
            self.cause = cause

        def as_instanceof_cause(self) -> Exception:
            return self.cause

    exceptions = SimpleNamespace(RayTaskError=TaskError)

    def __init__(self) -> None:
        self.tasks: list[tuple[str, tuple]] = []

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def remote(self, **options: object):
        def wrap(function):
            def submit(*arguments: object):
                self.tasks.append((function.__name__, arguments))
                return functools.partial(function, *arguments)

            return SimpleNamespace(remote=submit)

        return wrap

    def wait(self, references: list, num_returns: int):
        return references[-1:], references[:-1]  # the last is done first

    def get(self, reference: functools.partial):
        try:
            return reference()
        except GigaganError as error:
            raise self.TaskError(error) from error

    def cancel(self, reference: object) -> None:
        pass


@pytest.fixture
def ray() -> PretendedRay:
    return PretendedRay()


def plans(ray: PretendedRay) -> list[Plan]:
    return [arguments[1] for name, arguments in ray.tasks if name == "extract_shard"]


def test_moments_are_taken_in_tasks_over_shards_and_merged_to_the_same_distance(
    compare, ray, tmp_path, monkeypatch
):
    here = compare(metrics=("fd",), shard_size=4)
    monkeypatch.setattr(ray_moments, "SHARDS_A_TASK", 3)
    there = compare(metrics=("fd",), shard_size=4, ray=ray, work=tmp_path / "on ray")
    assert values(there) == pytest.approx(values(here), rel=1e-9)
    runs = [arguments for name, arguments in ray.tasks if name == "_moments_of"]
    assert [len(paths) for paths, _, _ in runs] == 2 * [3, 3, 3, 1]
    assert [first for _, _, first in runs] == 2 * [0, 12, 24, 36]
    ray.tasks.clear()
    compare(metrics=("kid",), shard_size=4, ray=ray, work=tmp_path / "on ray")
    assert not any(name == "_moments_of" for name, _ in ray.tasks), "no distance, no moments"


def test_moments_of_tasks_equal_those_of_one_process(ray, tmp_path, monkeypatch):
    features = torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) * 3 + 1
    paths = []
    for number, piece in enumerate(features.split(7)):
        paths.append(tmp_path / f"{number}.npy")
        np.save(paths[-1], piece.numpy())
    np.save(tmp_path / "empty.npy", np.empty((0, 12), np.float32))
    paths.insert(3, tmp_path / "empty.npy")
    monkeypatch.setattr(ray_moments, "SHARDS_A_TASK", 2)
    known, found = FeatureSet.of(features).moments, moments_in_ray(ray, paths, "real images")
    assert found.count == 50
    torch.testing.assert_close(found.mean, known.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.scatter, known.scatter, rtol=1e-12, atol=1e-10)
    broken = np.load(paths[-1])
    broken[0, 3] = np.nan
    np.save(paths[-1], broken)
    with pytest.raises(GigaganError, match=r"^real images: .*first: image 49"):
        moments_in_ray(ray, paths, "real images")


def test_tasks_get_absolute_places_of_weights(compare, ray, scripted_inception, judge, monkeypatch):
    monkeypatch.chdir(scripted_inception.parent)
    (scripted_inception.parent / "alexnet.pth").write_bytes(b"read by no one")
    places = (f"inception:{scripted_inception.name}", judge)
    with pytest.raises(GigaganError, match=r"LPIPS weights .* do not fit"):
        compare(extractors=places, metrics=("is", "lpips"), lpips="alex:alexnet.pth", ray=ray)
    plan = plans(ray)[0]
    assert [each.place.place for each in plan.extractors] == [f"inception:{scripted_inception}", str(judge)]
    assert plan.lpips == f"alex:{scripted_inception.parent / 'alexnet.pth'}"


@pytest.mark.parametrize(("asked", "given"), [(None, THREADS_IN_TASK), (5, 5)])
def test_tasks_decode_with_few_threads_unless_more_are_asked_for(compare, ray, asked, given):
    compare(metrics=("fd",), threads=asked, ray=ray)
    assert {plan.threads for plan in plans(ray)} == {given}
