"""Servers that give a byte now and then or none at all, and fetches that wait for another."""

from __future__ import annotations

import os
import re
import threading

import pytest

from gigagan_core import console
from gigagan_core.assets import download
from gigagan_core.assets.fetch import fetch
from gigagan_core.assets.folder import AssetFolder
from gigagan_core.errors import GigaganError


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    """A minute of patience is 0.1 s here, in which 100 bytes must come."""
    monkeypatch.setattr(download, "PERIOD", 0.1)


def test_a_trickle_is_asked_again_and_what_came_stays(mirror, weights):
    mirror.drips = [0.01, 0.01]
    assert fetch(weights, mirror=mirror.url).path.read_bytes() == mirror.files["weights.bin"]
    starts = [int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) for asked in mirror.ranges[1:]]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1] < 100


def test_a_trickle_that_does_not_end_is_given_up_though_every_request_gives_some(mirror, weights):
    mirror.drips = [0.01] * 20
    with pytest.raises(
        GigaganError, match=r"was cut off after .* MB \(only \d+ bytes in 0 s\); give the same"
    ):
        fetch(weights, mirror=mirror.url)
    assert len(mirror.ranges) == download.TRIES
    assert AssetFolder().state(weights).size > 0


def test_an_answer_that_stalls_after_good_speed_has_got_further(mirror, weights, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    mirror.stalls = list(range(1000, 1000 + download.TRIES + 1))
    fetch(weights, mirror=mirror.url)
    assert len(mirror.ranges) == download.TRIES + 2


def test_what_came_is_kept_before_a_piece_is_full(mirror, weights, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    monkeypatch.setattr(download, "PIECE", 1 << 20)
    mirror.stalls = [3000]
    fetch(weights, mirror=mirror.url)
    assert mirror.ranges == [None, "bytes=3000-"]


def test_a_fetch_that_waits_for_another_says_for_whom(mirror, weights):
    folder, said, waits = AssetFolder(), [], threading.Event()

    def hear(line: str) -> None:
        said.append(line)
        waits.set()

    with console.heard_by(hear), folder.locked("weights"):
        fetching = threading.Thread(target=fetch, args=(weights, folder, mirror.url))
        fetching.start()
        assert waits.wait(10)
        assert mirror.ranges == []
    fetching.join(10)
    assert said[0].startswith(f"weights: process {os.getpid()} on {os.uname().nodename}, since 20")
    assert said[0].endswith(f"is fetching it into {folder.root}; waiting for that")
    assert folder.state(weights).state == "fetched"
