"""The `prepare-assets` flow, its task called without a server."""

from __future__ import annotations

import hashlib
import http.server
import threading
from functools import partial

import pytest

from flows import prepare_assets as module
from gigagan_core.assets import catalogue
from gigagan_core.assets.folder import resolve
from gigagan_core.errors import GigaganError


def test_the_flow_fetches_what_is_named_and_what_a_protocol_needs(tmp_path, monkeypatch):
    monkeypatch.setenv("GIGAGAN_ASSETS", str(tmp_path / "assets"))
    served = tmp_path / "served"
    served.mkdir()
    for name in ("parti-prompts", "clip-vit-b32", "aesthetic-v2"):
        known = catalogue.asset(name)
        (served / known.file).write_bytes(name.encode())
        sha256 = hashlib.sha256(name.encode()).hexdigest()
        changed = catalogue.Asset(**{**vars(known), "sha256": sha256, "size": None})
        monkeypatch.setitem(catalogue.CATALOGUE, name, changed)
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=served)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tables = []
    monkeypatch.setattr(module, "create_table_artifact", lambda **shown: tables.append(shown["table"]))
    monkeypatch.setattr(module, "fetch_asset", module.fetch_asset.fn)
    mirror = f"http://127.0.0.1:{server.server_address[1]}"
    paths = module.prepare_assets.fn(["aesthetic-v2"], "parti-prompts", mirror)
    server.shutdown()
    server.server_close()
    assert paths == [resolve(f"asset:{name}") for name in ("aesthetic-v2", "clip-vit-b32", "parti-prompts")]
    assert [row["how"] for row in tables[0]] == ["fetched"] * 3
    with pytest.raises(GigaganError, match="no asset is named"):
        module.prepare_assets.fn()
