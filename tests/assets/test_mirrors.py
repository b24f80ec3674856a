"""Mirrors that ask for a password or a signature: sent where they belong, shown and recorded nowhere."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from gigagan_core.assets.fetch import fetch
from gigagan_core.assets.folder import AssetFolder
from gigagan_core.errors import GigaganError

from .conftest import Mirror


def basic(pair: str) -> str:
    return f"Basic {base64.b64encode(pair.encode()).decode()}"


def written(home: Path) -> str:
    """All that a fetch leaves in the assets folder but the file itself."""
    files = [path for path in (home / "assets").iterdir() if path.name != "weights.bin"]
    return "".join(path.read_text() for path in files)


@pytest.mark.parametrize(
    ("before_host", "pair"),
    [("reader:secret@", "reader:secret"), ("reader:s%40cret%2F1@", "reader:s@cret/1"), ("token@", "token:")],
)
def test_a_mirrors_password_is_sent_and_shown_nowhere(mirror, weights, home, capsys, before_host, pair):
    mirror.cut_after = [4000]
    fetch(weights, mirror=mirror.url.replace("://", f"://{before_host}"))
    assert mirror.requests == [("/assets/weights.bin", basic(pair))] * 2
    assert AssetFolder().record("weights")["address"] == f"{mirror.url}/weights.bin"
    shown = written(home) + "".join(capsys.readouterr())
    assert before_host.rstrip("@").rpartition(":")[2] not in shown


def test_a_mirror_that_refuses_or_is_away_is_named_without_its_password(mirror, weights):
    mirror.status = [401]
    for url in (mirror.url, "http://127.0.0.1:9"):
        with pytest.raises(
            GigaganError, match=r"127\.0\.0\.1:\d+/.*weights\.bin (answers HTTP 401|gave noth)"
        ) as told:
            fetch(weights, mirror=url.replace("://", "://reader:secret@"))
        assert "secret" not in str(told.value)


def test_a_password_is_not_sent_where_a_mirror_leads_on_to(mirror, weights):
    other = Mirror()
    other.files, mirror.moved = mirror.files, other.url
    try:
        fetch(weights, mirror=mirror.url.replace("://", "://reader:secret@"))
    finally:
        other.stop()
    assert mirror.requests == [("/assets/weights.bin", basic("reader:secret"))]
    assert other.requests == [("/assets/weights.bin", None)]


def test_a_signature_stands_behind_the_name_of_the_file(mirror, weights, home, capsys):
    fetch(weights, mirror=f"{mirror.url}/?version=2&sig=secret%2F")
    assert mirror.requests == [("/assets/weights.bin?version=2&sig=secret%2F", None)]
    assert AssetFolder().record("weights")["address"] == f"{mirror.url}/weights.bin"
    assert "secret" not in written(home) + "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "url",
    [
        "http://reader:secret@host:port/",
        "http://reader:secret/1@host/",
        "reader:secret@host",
        "ftp://reader:secret@host",
        "http://host:port/?sig=secret",
        "http://reader:secret@host/#part",
    ],
)
def test_a_mirror_that_is_no_address_is_refused_without_its_password(mirror, weights, url):
    with pytest.raises(GigaganError, match=r"--mirror \S* is no http or https address") as told:
        fetch(weights, mirror=url)
    assert "secret" not in str(told.value)
