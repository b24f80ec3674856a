"""`gigagan serve` as people start it: real replicas, real load, a replica killed under it, the end."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import aiohttp
import pytest
from PIL import Image

from gigagan_core.config.serve import ServeSettings
from gigagan_core.errors import GigaganError
from gigagan_core.inference import places
from gigagan_core.serving.models import pin
from gigagan_core.serving.server import _listening, _reason, _url
from gigagan_core.store.store import Store, open_store

from .running import Server, serving, write_models

CLIENTS = 32
DOCS = Path(__file__).resolve().parents[2] / "docs" / "inference.md"


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with (
            pytest.raises(GigaganError, match=f"127.0.0.1:{port} cannot be listened on"),
            _listening(ServeSettings(port=port)),
        ):
            pass


def test_an_address_that_others_reach_is_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    with _listening(ServeSettings(port=0)):
        assert capsys.readouterr().err == ""
    with _listening(ServeSettings(host="0.0.0.0", port=0)):
        assert capsys.readouterr().err.count("open to other machines") == 1
    with (
        pytest.raises(GigaganError, match=r"--host 192\.0\.2\.|192\.0\.2\.1:0 cannot"),
        _listening(ServeSettings(host="192.0.2.1", port=0)),
    ):
        pass


def test_the_address_told_is_one_for_a_browser() -> None:
    assert _url("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert _url("0.0.0.0", 80) == "http://127.0.0.1:80"
    assert _url("::1", 80) == "http://[::1]:80"


def test_a_model_that_a_replica_cannot_open_is_its_sentence() -> None:
    trace = (
        "Traceback ...\n  raise GigaganError(x)\ngigagan_core.errors.GigaganError: bundle b is damaged\n more"
    )
    status = SimpleNamespace(deployments={"pictures": SimpleNamespace(message=trace)})
    assert _reason(RuntimeError(trace), None) == "bundle b is damaged"
    assert _reason(RuntimeError("failed to update"), status) == "bundle b is damaged"
    assert "did not start: no memory" in _reason(RuntimeError("no memory"), None)


def test_what_is_served_is_pinned_when_the_server_starts(
    tmp_path: Path, save_tiny_encoder: Callable[..., None]
) -> None:
    options = write_models(tmp_path, save_tiny_encoder)
    base, encoder, upsampler = options[1::2]
    store = open_store(str(tmp_path / "store"))
    served, without = pin(base, upsampler, encoder, "cpu", store)
    assert (served.model, served.encoder, served.upsampler, without) == (base, encoder, upsampler, None)
    served, without = pin(base, None, encoder, "cpu", store)
    assert served.upsampler is None
    assert "upsampler" in without, "the newest is taken where there is one, and there is none"
    with pytest.raises(GigaganError):
        pin(base, "latest", encoder, "cpu", store)


def test_an_upsampler_of_another_size_is_served_only_where_it_is_named(
    tmp_path: Path,
    save_tiny_encoder: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    base, encoder, upsampler = write_models(tmp_path, save_tiny_encoder)[1::2]
    store, find = open_store(str(tmp_path / "store")), places.find_bundle

    def find_newest(reference: str, kind: str, store: Store) -> places.Place:
        return find(upsampler if reference == "latest" else reference, kind, store)

    monkeypatch.setattr(places, "find_bundle", find_newest)
    served, without = pin(base, None, encoder, "cpu", store)
    assert (served.upsampler, without) == (upsampler, None)
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["network"]["image_size"] = 32
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    served, without = pin(base, None, encoder, "cpu", store)
    assert served.upsampler is None
    assert without.startswith(
        "the upsampler was trained on pictures of 16 px, and the model makes 32 px; name"
    )
    assert capsys.readouterr().err == ""
    served, without = pin(base, upsampler, encoder, "cpu", store)
    assert (served.upsampler, without) == (upsampler, None)
    assert "warning: the upsampler was trained on pictures of 16 px" in capsys.readouterr().err


WITHOUT_REPLICAS = """
import contextlib
from gigagan_core.serving import server

class Nobody:
    facts = {"name": "small", "sha256": "0" * 64}
    async def ready_replicas(self):
        return 0

@contextlib.contextmanager
def replicas(models, settings):
    yield Nobody()
    print("replicas are stopped", flush=True)

server.replicas = replicas
from gigagan_core.cli import main
main()
"""


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_and_is_no_failure(models, tmp_path: Path, signal_number) -> None:
    with serving(tmp_path, *models, "--no-page", code=WITHOUT_REPLICAS) as server:
        assert server.get("/healthz") == {"status": "ok"}
        assert server.stop(signal_number) == 0
        said = server.errors.read_text()
    assert f"serving   {server.url}" in said
    assert said.index("stopping") < said.index("replicas are stopped")
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, save_tiny_encoder: Callable[..., None]) -> list[str]:
    return write_models(tmp_path_factory.mktemp("models"), save_tiny_encoder)


async def load(server: Server, seconds: float, at_half: callable) -> tuple[Counter, set[bytes]]:
    """Statuses that `CLIENTS` saw, and what every answer to one and the same request was."""
    statuses: Counter = Counter()
    same: set[bytes] = set()
    until = time.monotonic() + seconds

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        while time.monotonic() < until:
            one_of_all = statuses.total() % 5 == 0
            asked = {"prompts": ["a dog"], "seed": 5 if one_of_all else number, "truncation": 0.7}
            if not one_of_all:
                asked |= {"truncation": number / CLIENTS, "count": 1 + number % 3}
            async with session.post(f"{server.url}/v1/generate", json=asked) as response:
                document = await response.json()
                statuses[response.status] += 1
                if one_of_all:
                    same.add(document["pictures"][0]["png"])

    async def half() -> None:
        await asyncio.sleep(seconds / 2)
        await asyncio.to_thread(at_half)

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:
        await asyncio.gather(half(), *(client(session, number) for number in range(CLIENTS)))
    return statuses, same


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_no_accepted_request_is_lost_when_a_replica_is_killed(models, tmp_path: Path) -> None:
    with serving(tmp_path, *models, "--replicas", "2", "--no-page") as server:
        before = {each.pid for each in server.replicas()}
        assert len(before) == 2
        killed = server.replicas()[0]
        statuses, same = asyncio.run(load(server, 10.0, killed.kill))
        assert set(statuses) == {200}, server.errors.read_text()[-2000:]
        assert statuses[200] > CLIENTS
        assert len(same) == 1, (
            "one request has one picture, whatever it shares a batch with, whoever makes it"
        )
        figures = dict(line.rsplit(" ", 1) for line in _text(server, "/metrics") if not line.startswith("#"))
        assert float(figures["gigagan_retries_total"]) > 0, "the kill met requests that had been accepted"
        batches = float(figures["gigagan_batch_pictures_count"])
        assert float(figures["gigagan_batch_pictures_sum"]) > 2 * batches, "requests share forward passes"
        _wait_for_replicas(server, 2)
        after = {each.pid for each in server.replicas()}
        assert killed.pid not in after
        assert len(after) == 2
        model = server.get("/v1/model")
        assert model["licence"] == {"data": "CC BY-SA 4.0"}
        assert model["upsampler"]["scale"] == 8
        assert server.stop(signal.SIGTERM) == 0
        assert "Traceback" not in server.errors.read_text()


def _text(server: Server, path: str) -> list[str]:
    import urllib.request

    with urllib.request.urlopen(server.url + path, timeout=30) as response:
        return response.read().decode().splitlines()


def _wait_for_replicas(server: Server, count: int) -> None:
    until = time.monotonic() + 90
    while server.get("/readyz")["replicas"] < count:
        assert time.monotonic() < until, "the killed replica was not replaced"
        time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_single_replica_is_replaced_while_its_requests_wait(models, tmp_path: Path) -> None:
    with serving(tmp_path, *models, "--no-page") as server:
        killed = server.replicas()[0]
        statuses, same = asyncio.run(load(server, 6.0, killed.kill))
        assert set(statuses) == {200}, server.errors.read_text()[-2000:]
        assert len(same) == 1
        assert [each.pid for each in server.replicas()] != [killed.pid]
        assert server.stop(signal.SIGINT) == 0


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_examples_of_the_documentation_work(models, tmp_path: Path) -> None:
    section = DOCS.read_text().split("## Serving")[1].split("\n## ")[0]
    examples = section.split("```")[3]
    assert examples.count("curl ") == 5
    Image.new("RGB", (40, 30), "green").save(tmp_path / "photograph.jpg")
    with serving(tmp_path, *models, "--no-page") as server:
        script = examples.replace("127.0.0.1:8080", server.url).replace(
            "curl -s", "curl -sS --fail-with-body"
        )
        done = subprocess.run(
            ["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr
        assert server.stop(signal.SIGTERM) == 0
    pictures = json.JSONDecoder().raw_decode(done.stdout)[0]["pictures"]
    assert [(picture["width"], picture["height"]) for picture in pictures] == [(128, 128)] * 4
    assert Image.open(tmp_path / "mixed.png").size == (16, 16)
    assert Image.open(tmp_path / "large.png").size == (80, 60)
    assert "gigagan_ready_replicas 1.0" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_damaged_model_is_one_sentence(models, tmp_path: Path) -> None:
    base = Path(models[1])
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in base.iterdir():
        body = file.read_bytes()
        (damaged / file.name).write_bytes(body[:-100] if file.suffix == ".safetensors" else body)
    with pytest.raises(AssertionError) as failure, serving(tmp_path, *models, "--model", str(damaged)):
        pass
    said = str(failure.value)
    assert "gigagan: error: model bundle" in said
    assert "Traceback" not in said
