"""The `prepare-assets` flow, its task called without a server."""

from __future__ import annotations

import hashlib
import http.server
import inspect
import threading
from functools import partial

import pytest
from prefect.states import Failed

from flows import prepare_assets as module
from gigagan_core.assets import catalogue, download
from gigagan_core.assets.fetch import fetch
from gigagan_core.assets.folder import resolve
from gigagan_core.errors import GigaganError

NAMES = ("aesthetic-v2", "clip-vit-b32", "parti-prompts")


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A mirror's folder and address."""
    monkeypatch.setenv("GIGAGAN_ASSETS", str(tmp_path / "assets"))
    folder = tmp_path / "served"
    folder.mkdir()
    for name in NAMES:
        known = catalogue.asset(name)
        (folder / known.file).write_bytes(name.encode())
        sha256 = hashlib.sha256(name.encode()).hexdigest()
        changed = catalogue.Asset(**{**vars(known), "sha256": sha256, "size": None})
        monkeypatch.setitem(catalogue.CATALOGUE, name, changed)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def tables(monkeypatch):
    """What the flow publishes."""
    published = []
    monkeypatch.setattr(module, "create_table_artifact", lambda **shown: published.append(shown["table"]))
    return published


def test_the_flow_fetches_what_is_named_and_what_a_protocol_needs(served, tables, monkeypatch):
    monkeypatch.setattr(module, "fetch_asset", module.fetch_asset.fn)
    paths = module.prepare_assets.fn(["aesthetic-v2"], "parti-prompts", served[1])
    assert paths == [resolve(f"asset:{name}") for name in NAMES]
    assert [row["how"] for row in tables[0]] == ["fetched"] * 3
    with pytest.raises(GigaganError, match="no asset is named"):
        module.prepare_assets.fn()


def test_an_asset_that_cannot_be_fetched_keeps_no_other_away_and_the_table_says_why(
    served, tables, monkeypatch
):
    monkeypatch.setattr(module, "fetch_asset", module.fetch_asset.fn)
    folder, mirror = served
    (folder / catalogue.asset("aesthetic-v2").file).unlink()
    with pytest.raises(GigaganError, match=r"^1 of 3 assets were not fetched \(aesthetic-v2\); .* HTTP 404"):
        module.prepare_assets.fn(["aesthetic-v2"], "parti-prompts", mirror)
    assert [row["how"] for row in tables[0]] == ["not fetched", "fetched", "fetched"]
    assert "answers HTTP 404" in tables[0][0]["why"]
    assert len({tuple(row) for row in tables[0]}) == 1


def test_only_a_fault_of_the_network_is_tried_again(served, monkeypatch):
    monkeypatch.setattr(download, "WAIT", 0.0)
    condition = module.fetch_asset.retry_condition_fn
    assert inspect.isfunction(condition)  # Prefect takes any other callable for a no
    folder, mirror = served
    each = catalogue.asset("parti-prompts")

    def retried(address: str) -> bool:
        with pytest.raises(GigaganError) as told:
            fetch(each, mirror=address)
        return condition(None, None, Failed(data=told.value))

    assert retried("http://127.0.0.1:9")
    (folder / each.file).write_bytes(b"another file")
    assert not retried(mirror)
    (folder / each.file).unlink()
    assert not retried(mirror)
    assert not retried("nowhere")
