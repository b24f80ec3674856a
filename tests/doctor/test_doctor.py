"""`gigagan doctor`: every check with what it looks at broken on purpose."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import resource
import shutil
import sys
from collections import namedtuple
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gigagan_core import environment
from gigagan_core.assets.catalogue import asset
from gigagan_core.assets.folder import AssetFolder
from gigagan_core.cli import plan_commands
from gigagan_core.cli.app import app
from gigagan_core.config.base import with_overrides
from gigagan_core.config.presets import section
from gigagan_core.doctor import estimate, finding, gpus, kubernetes_api, machine, services, storage, weights
from gigagan_core.doctor.checks import checks
from gigagan_core.doctor.finding import Finding
from gigagan_core.doctor.gpus import Gpu
from gigagan_core.doctor.request import Request

Usage = namedtuple("Usage", "total used free")
LOCK = Path(__file__).resolve().parents[2] / "requirements.lock"


def one(found: Iterable[Finding]) -> Finding:
    (only,) = list(found)
    return only


def statuses(found: Iterable[Finding]) -> list[str]:
    return [each.status for each in found]


def of_lpips(found: Iterable[Finding]) -> Finding:
    return one(each for each in found if each.name == "weights lpips-vgg")


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (
        "RAY_ADDRESS",
        "RAY_API_SERVER_ADDRESS",
        "RAY_AUTH_TOKEN",
        "RAY_AUTH_TOKEN_PATH",
        "KUBECONFIG",
    ):
        monkeypatch.delenv(name, raising=False)


# ---- how checks are run -----------------------------------------------------------------------------


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on() -> None:
    def broken() -> Iterable[Finding]:
        raise ValueError("no such sensor")

    found = list(finding.run([("a", broken), ("b", lambda: [finding.ok("b", "well")])]))
    assert statuses(found) == ["fail", "ok"]
    assert found[0].what == "could not be looked at (ValueError: no such sensor)"


def test_every_finding_that_is_not_ok_has_a_mend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1, 1, 1))
    monkeypatch.setattr(machine, "available_memory", lambda: 1)
    request = Request(store="/dev/null/store", backend="ray-job", preset="openmoji", plan=False)
    names = {"memory", "shared memory", "store", "disk", "ray", "gpus"}
    found = list(finding.run([pair for pair in checks(request) if pair[0] in names]))
    assert {each.name for each in found if each.status != "ok"} >= names - {"gpus"}
    assert all(each.mend for each in found if each.status != "ok")


# ---- the machine ------------------------------------------------------------------------------------


def test_this_environment_is_as_the_lock_pins_it() -> None:
    assert one(machine.python()).status == "ok"
    found = one(machine.packages(LOCK))
    assert found.status == "ok", found


def test_another_python_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.13.1")
    found = one(machine.python())
    assert (found.status, found.what) == ("fail", "Python 3.13.1, and <3.13,>=3.11 is needed")


def with_versions(monkeypatch: pytest.MonkeyPatch, **changed: str | None) -> None:
    version = importlib.metadata.version

    def other(name: str) -> str:
        if name in changed:
            if changed[name] is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return changed[name]
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", other)


def test_a_wrong_and_a_missing_package_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with_versions(monkeypatch, fastapi="0.152.0", ray=None)
    found = one(machine.packages(LOCK))
    assert found.status == "fail"
    assert "ray is missing (wanted <2.61,>=2.60)" in found.what
    assert "fastapi 0.152.0 (wanted <0.151,>=0.139)" in found.what


def test_a_package_off_its_pin_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    pin = importlib.metadata.version("aiohappyeyeballs")
    with_versions(monkeypatch, aiohappyeyeballs="0.0.1")
    found = one(machine.packages(LOCK))
    assert found.status == "warn"
    assert found.what == f"not as the lock pins them: aiohappyeyeballs 0.0.1 (wanted =={pin})"


def test_the_shadowing_backport_is_found_and_a_missing_lock_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with_versions(monkeypatch, dataclasses="0.8")
    found = list(machine.packages(tmp_path / "requirements.lock"))
    assert statuses(found) == ["fail", "warn"]
    assert found[0].mend == "pip uninstall dataclasses"


@pytest.mark.parametrize(("gib", "status"), [(1.0, "fail"), (3.0, "warn"), (8.0, "ok")])
def test_memory(monkeypatch: pytest.MonkeyPatch, gib: float, status: str) -> None:
    monkeypatch.setattr(machine, "available_memory", lambda: int(gib * 2**30))
    assert one(machine.memory()).status == status


def test_the_memory_that_is_available_is_that_of_this_machine() -> None:
    assert 2**20 < machine.available_memory() < 2**45


@pytest.mark.parametrize(("mib", "status"), [(64, "warn"), (1000, "ok")])
def test_shared_memory(monkeypatch: pytest.MonkeyPatch, mib: int, status: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, mib * 2**20))
    assert one(machine.shared_memory()).status == status


def test_shared_memory_that_is_not_mounted(tmp_path: Path) -> None:
    assert one(machine.shared_memory(str(tmp_path / "shm"))).status == "fail"


@pytest.mark.parametrize(("limit", "status"), [(256, "fail"), (1024, "warn"), (65536, "ok"), (-1, "ok")])
def test_open_files(monkeypatch: pytest.MonkeyPatch, limit: int, status: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limit, limit))
    assert one(machine.open_files()).status == status


# ---- GPUs -------------------------------------------------------------------------------------------


def gpus_of(monkeypatch: pytest.MonkeyPatch, count: int, gib: float, free: float = 1.0) -> None:
    memory = int(gib * 2**30)
    monkeypatch.setattr(gpus, "seen", lambda: [Gpu("NVIDIA H100", memory, int(free * memory))] * count)


def test_a_preset_for_gpus_needs_some_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus_of(monkeypatch, 0, 0)
    assert one(gpus.present(Request("demo"))).status == "ok"
    assert one(gpus.present(Request("paper-t2i-64", backend="kuberay"))).status == "ok"
    found = one(gpus.present(Request("paper-t2i-64")))
    assert found.status == "fail"
    assert "preset paper-t2i-64 trains on GPUs and torch sees none" in found.what


def test_a_driver_without_gpus_and_a_gpu_in_use_are_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gpus_of(monkeypatch, 0, 0)
    driver = tmp_path / "version"
    driver.write_text("NVRM version")
    monkeypatch.setattr(gpus, "DRIVER", driver)
    assert "a driver is there and torch sees no GPU" in one(gpus.present(Request("demo"))).what
    gpus_of(monkeypatch, 2, 80, free=0.5)
    assert statuses(gpus.present(Request("demo"))) == ["ok", "warn"]


@pytest.mark.parametrize(
    ("count", "largest", "own", "status", "said"),
    [
        (8, 8, 8, "ok", "micro-batches of up to 8 fit into 80 GiB"),
        (8, 4, 8, "fail", "samples of 8 at a time do not fit; micro-batches of up to 4 fit"),
        (8, None, 8, "fail", "a step does not fit into 80 GiB on 8 GPUs"),
        (
            3,
            8,
            8,
            "warn",
            "the preset has 8 workers and this machine 3 GPUs; with 2, micro-batches of up to 8",
        ),
    ],
)
def test_memory_is_held_against_the_plan(
    monkeypatch: pytest.MonkeyPatch, count: int, largest: int | None, own: int, status: str, said: str
) -> None:
    blocks = f"training.losses.matching_block={own}"
    settings = with_overrides(
        section("openmoji-64", "base"), ["workers=8", blocks, f"training.schedule.micro_batch_size={own}"]
    )
    batch = settings.training.schedule.batch_size
    assert batch % 8 == 0
    assert batch % 3 != 0
    asked = []

    def planned(settings: Any, frozen: Any, counts: tuple[int, ...], assumed: Any) -> dict[str, Any]:
        asked.append((counts, assumed.gpu_memory))
        layout = {"fits": largest is not None, "time": {"micro_batch": largest}}
        return {"plans": [{"replicated": layout, "sharded": layout}]}

    gpus_of(monkeypatch, count, 80)
    monkeypatch.setattr(Request, "trainings", lambda self: {"base": settings})
    monkeypatch.setattr(plan_commands, "planned", planned)
    found = one(gpus.fits(Request("openmoji-64")))
    assert (found.status, found.name) == (status, "gpu memory, base")
    assert found.what.startswith(said)
    assert asked == [((8 if count == 8 else 2,), 80.0)]
    assert one(gpus.fits(Request("openmoji-64", plan=False))).what == "not counted, as --no-plan says"


@pytest.mark.slow
def test_a_real_plan_knows_a_gpu_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus_of(monkeypatch, 1, 80)
    assert one(gpus.fits(Request("openmoji-64"))).status == "ok"
    gpus_of(monkeypatch, 1, 0.4)
    tight = one(gpus.fits(Request("openmoji-64")))
    assert tight.status == "fail"
    assert "gigagan plan --preset openmoji-64 --part base --gpus 1" in tight.mend


def test_processes_that_agree_on_a_sum_and_some_that_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(gpus.talk("gloo", 1)) == []
    monkeypatch.setattr(sys, "executable", "/bin/false")
    found = one(gpus.talk("gloo", 2))
    assert (found.status, found.what) == ("fail", "a sum over 2 processes failed: no word")
    assert "NCCL_DEBUG=INFO" in found.mend


@pytest.mark.slow
def test_two_real_processes_agree_on_a_sum() -> None:
    found = one(gpus.talk("gloo", 2))
    assert found.status == "ok", found
    assert found.what.startswith("2 processes agree on a sum, 4 MiB in ")


# ---- the store --------------------------------------------------------------------------------------


def test_a_store_is_probed_and_left_as_it_was(tmp_path: Path) -> None:
    store = tmp_path / "store"
    found = list(storage.probed(Request(store=str(store))))
    assert statuses(found) == ["ok", "ok"]
    assert [path for path in store.rglob("*") if path.is_file()] == []


def test_a_store_that_cannot_be_made_is_one_finding() -> None:
    found = one(storage.probed(Request(store="/dev/null/store")))
    assert found.status == "fail"
    assert "cannot be created" in found.what


def test_a_store_that_takes_nothing_or_gives_back_other_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    from gigagan_core.store.store import Store

    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_note", refuse)
        found = one(storage.probed(Request(store="memory://bucket/readonly")))
        assert found.status == "fail"
        assert "does not let us write, read and remove: PermissionError" in found.what
    monkeypatch.setattr(Store, "read_note", lambda self, place: {"probe": "another"})
    found = one(storage.probed(Request(store="memory://bucket/garbled")))
    assert "does not give back what was written" in found.what


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir(mode=0o500)
    assert one(storage.probed(Request(store=str(folder)))).status == "fail"


@pytest.mark.parametrize(("skew", "status"), [(0.1, "ok"), (-30.0, "warn"), (1200.0, "fail")])
def test_the_clock_against_the_stores(skew: float, status: str) -> None:
    assert one(storage.clock(skew)).status == status


@pytest.mark.parametrize(("share", "status"), [(0.5, "fail"), (1.5, "warn"), (3.0, "ok")])
def test_the_disk_against_what_the_preset_writes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, share: float, status: str
) -> None:
    monkeypatch.setattr(estimate, "estimate", lambda request: 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, int(share * 10**9)))
    found = one(storage.room(Request(store=str(tmp_path / "not" / "yet" / "there"))))
    assert found.status == status
    assert "demo writes about 1.0 GB" in found.what


def test_larger_presets_need_more_room(tmp_path: Path) -> None:
    small, large = (estimate.estimate(Request(name)) for name in ("tiny", "openmoji"))
    assert 0 < small < large
    model_alone = estimate.estimate(Request("openmoji-64"))
    assert 50e6 < model_alone < large


# ---- weights ----------------------------------------------------------------------------------------


def test_the_files_of_a_preset_are_named_by_its_losses() -> None:
    assert Request("demo").assets() == []
    assert Request("paper-upsampler-64-to-512").assets() == ["lpips-vgg"]


def test_the_encoder_that_a_model_is_usually_trained_with_is_missed_and_may_be_another(
    tmp_path: Path,
) -> None:
    found = list(weights.weights(Request("paper-t2i-64"), AssetFolder(tmp_path)))
    assert [(each.status, each.name) for each in found] == [
        ("warn", "weights clip-vit-l14"),
        ("warn", "weights clip-vit-b32"),
    ]
    assert "or name another file with --encoder" in found[0].mend
    own = one(weights.weights(Request("openmoji-64"), AssetFolder(tmp_path)))
    assert own.what == "openmoji-64 needs no file from outside"


def test_missing_and_wrong_weights_are_told_apart(tmp_path: Path) -> None:
    request, folder = Request("paper-upsampler-64-to-512"), AssetFolder(tmp_path)
    missing = of_lpips(weights.weights(request, folder))
    assert (missing.status, missing.mend) == ("fail", "gigagan assets fetch lpips-vgg")
    each = asset("lpips-vgg")
    content = b"not the weights"
    folder.file(each).write_bytes(content)
    folder.keep(each, {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)})
    wrong = of_lpips(weights.weights(request, folder))
    assert wrong.status == "fail"
    assert (
        f"has sha256 {hashlib.sha256(content).hexdigest()} and the catalogue's is {each.sha256}" in wrong.what
    )


def test_right_weights_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    content = b"weights"
    right = dataclasses.replace(asset("lpips-vgg"), sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(weights, "asset", lambda name: right if name == right.name else asset(name))
    folder = AssetFolder(tmp_path)
    folder.file(right).write_bytes(content)
    folder.keep(right, {"sha256": right.sha256, "size": len(content)})
    assert of_lpips(weights.weights(Request("paper-upsampler-64-to-512"), folder)).status == "ok"


# ---- servers ----------------------------------------------------------------------------------------


def test_prefect_away_refusing_and_of_another_version(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[..., str], closed_port: int
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert one(services.prefect()).status == "ok"
    ours = importlib.metadata.version("prefect")
    for version, status in ((ours, "ok"), ("2.14.0", "fail"), (ours.rpartition(".")[0] + ".999", "warn")):
        url = serve(lambda method, path, headers, body, version=version: (200, json.dumps(version)))
        monkeypatch.setenv("PREFECT_API_URL", f"{url}/api")
        assert one(services.prefect()).status == status, version
    monkeypatch.setenv("PREFECT_API_URL", serve(lambda *asked: (401, "{}")))
    assert "refuses us (401)" in one(services.prefect()).what
    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{closed_port}/api")
    away = one(services.prefect())
    assert away.status == "fail"
    assert "Connection refused" in away.what


def test_mlflow_away_and_of_another_version(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[..., str], closed_port: int
) -> None:
    ours = importlib.metadata.version("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", serve(lambda *asked: (200, ours)))
    assert one(services.mlflow()).status == "ok"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", serve(lambda *asked: (200, "2.0.0")))
    assert f"serves version 2.0.0, and {ours} is installed here" in one(services.mlflow()).what
    monkeypatch.setenv("MLFLOW_TRACKING_URI", serve(lambda *asked: (403, "Invalid Host header")))
    assert "--allowed-hosts" in one(services.mlflow()).mend
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{closed_port}")
    assert one(services.mlflow()).status == "fail"


def test_mlflows_database_is_read_and_its_password_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, closed_port: int
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert "will be made by the first run" in one(services.mlflow()).what
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "mlflow.db").write_text("this is no database, however long it may be " * 50)
    found = one(services.mlflow())
    assert found.status == "fail"
    assert "is not a database" in found.what
    place = f"mlflow:secret@127.0.0.1:{closed_port}/mlflow"
    for driver, said in (("postgresql+psycopg2", "Connection refused"), ("postgresql+pg8000", "driver")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{driver}://{place}")
        found = one(services.mlflow())
        assert found.status == "fail"
        assert said in found.what
        assert "secret" not in str(found)


def test_a_ray_dashboard_and_its_token(monkeypatch: pytest.MonkeyPatch, serve: Callable[..., str]) -> None:
    ours = importlib.metadata.version("ray")

    def guarded(method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        known = headers.get("authorization") == "Bearer right"
        return (200, {"ray_version": ours}) if known else (401, {"error": "no"})

    request = Request(backend="ray-job", ray_address=serve(guarded))
    assert "wants a token" in one(services.ray(request)).what
    monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
    refused = one(services.ray(request))
    assert "does not take our token" in refused.what
    assert "wrong" not in str(refused)
    token = environment.home().parent / "token"
    token.write_text("right\n")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    assert statuses(services.ray(request)) == ["ok"]


def test_a_ray_cluster_that_is_away_open_or_of_another_version(
    monkeypatch: pytest.MonkeyPatch, serve: Callable[..., str], closed_port: int
) -> None:
    assert one(services.ray(Request())).status == "ok"
    assert "has no address" in one(services.ray(Request(backend="ray-job"))).what
    ours = importlib.metadata.version("ray")
    open_to_all = serve(lambda *asked: (200, {"ray_version": ours}))
    assert statuses(services.ray(Request(backend="ray-job", ray_address=open_to_all))) == ["ok", "warn"]
    other = serve(lambda *asked: (200, {"ray_version": "2.59.0"}))
    assert "fail" in statuses(services.ray(Request(backend="ray-job", ray_address=other)))
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{closed_port}")
    assert "cannot be reached" in one(services.ray(Request())).what
    address = serve(lambda *asked: (200, "")).removeprefix("http://")
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert one(services.ray(Request())).status == "ok"


def kube(
    allowed: Callable[[str], bool], groups: Iterable[str] = ("ray.io",)
) -> Callable[..., tuple[int, Any]]:
    """A Kubernetes API that knows its version, its groups, and who may do what."""

    def answer(method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        if path == "/version/":
            fields = (
                "major",
                "minor",
                "gitCommit",
                "gitTreeState",
                "buildDate",
                "goVersion",
                "compiler",
                "platform",
            )
            return 200, {**dict.fromkeys(fields, "1"), "gitVersion": "v1.31.0"}
        if path == "/apis/":
            version = {"groupVersion": "ray.io/v1", "version": "v1"}
            listed = [{"name": name, "versions": [version], "preferredVersion": version} for name in groups]
            return 200, {"kind": "APIGroupList", "groups": listed}
        assert path == "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        attributes = body["spec"]["resourceAttributes"]
        assert attributes["namespace"] == "training"
        wanted = attributes["resource"] + (
            f"/{attributes['subresource']}" if "subresource" in attributes else ""
        )
        status = {"allowed": allowed(f"{attributes['verb']} {wanted}")}
        return 201, {"kind": "SelfSubjectAccessReview", "spec": body["spec"], "status": status}

    return answer


def test_kubernetes_rights_are_asked_for_one_by_one(serve: Callable[..., str], closed_port: int) -> None:
    def request(url: str) -> Request:
        return Request(backend="kuberay", namespace="training", kube_api=url)

    assert list(kubernetes_api.kubernetes(Request())) == []
    found = list(kubernetes_api.kubernetes(request(serve(kube(lambda right: True)))))
    assert statuses(found) == ["ok", "ok", "ok"], found
    forbidden = {"delete rayjobs", "get pods/log"}
    found = list(kubernetes_api.kubernetes(request(serve(kube(lambda right: right not in forbidden)))))
    assert statuses(found) == ["ok", "ok", "fail"]
    assert found[-1].what == "in namespace training we may not delete rayjobs, get pods/log"
    found = list(kubernetes_api.kubernetes(request(serve(kube(lambda right: True, groups=["apps"])))))
    assert statuses(found) == ["ok", "fail", "ok"]
    away = one(kubernetes_api.kubernetes(request(f"http://127.0.0.1:{closed_port}")))
    assert away.status == "fail"
    nowhere = one(kubernetes_api.kubernetes(Request(backend="kuberay")))
    assert (nowhere.status, nowhere.name) == ("fail", "kubernetes")


# ---- the command ------------------------------------------------------------------------------------


def test_the_command_ends_with_1_where_something_fails(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    quick = [
        ("memory", machine.memory),
        ("store", lambda: [finding.fail("store", "is [bold]full[/bold]", "empty it")]),
    ]
    monkeypatch.setattr("gigagan_core.doctor.checks.checks", lambda request: quick)
    shown = CliRunner().invoke(app, ["doctor"])
    assert shown.exit_code == 1
    assert "fail  store             is [bold]full[/bold] -> empty it" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "1 ok, 0 to look at, 1 to mend"
    capfd.readouterr()
    as_json = CliRunner().invoke(app, ["doctor", "--json", "--store", str(tmp_path)])
    assert as_json.exit_code == 1
    document = json.loads(capfd.readouterr().out)
    assert (document["ok"], document["fail"]) == (1, 1)
    assert document["findings"][1]["mend"] == "empty it"
    monkeypatch.setattr("gigagan_core.doctor.checks.checks", lambda request: quick[:1])
    assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


def test_an_unknown_preset_is_one_sentence() -> None:
    done = CliRunner().invoke(app, ["doctor", "--preset", "dmeo"])
    assert done.exit_code == 1
    assert "did you mean 'demo'?" in done.stderr


def test_the_checks_import_nothing_heavy_before_they_run() -> None:
    names = [name for name, _ in checks(Request())]
    assert len(names) == len(set(names))
    assert {
        "python",
        "packages",
        "gpus",
        "nccl",
        "store",
        "disk",
        "weights",
        "prefect",
        "mlflow",
        "ray",
    } < set(names)
