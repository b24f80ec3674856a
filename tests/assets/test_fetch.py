"""Fetching from a mirror on loopback: cut, refused, wrong, full; and what counts as there."""

from __future__ import annotations

import errno
import gzip
import hashlib
import http.client
import io
import json
import shutil
import ssl
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from gigagan_core.assets import download
from gigagan_core.assets import folder as folder_module
from gigagan_core.assets.fetch import fetch, verify
from gigagan_core.assets.folder import AssetFolder
from gigagan_core.errors import GigaganError


def test_a_fetched_file_is_checked_recorded_and_not_fetched_again(mirror, weights, home):
    done = fetch(weights, mirror=mirror.url)
    assert done.path == home / "assets" / "weights.bin"
    assert done.path.read_bytes() == mirror.files["weights.bin"]
    assert (done.how, done.pinned) == ("fetched", False)
    record = json.loads((home / "assets" / "manifest.json").read_text())["assets"]["weights"]
    assert record["sha256"] == weights.sha256
    assert record["address"] == f"{mirror.url}/weights.bin"
    assert fetch(weights, mirror=mirror.url).how == "already there"
    assert len(mirror.ranges) == 1
    assert sorted(path.name for path in (home / "assets").iterdir() if path.name[0] != ".") == [
        "manifest.json",
        "weights.bin",
    ]


def test_a_cut_connection_continues_with_the_bytes_it_lacks(mirror, weights):
    mirror.cut_after = [3000, 2000]
    done = fetch(weights, mirror=mirror.url)
    assert mirror.ranges == [None, "bytes=3000-", "bytes=5000-"]
    assert hashlib.sha256(done.path.read_bytes()).hexdigest() == weights.sha256


def test_a_fetch_that_was_given_up_continues_in_the_next_process(mirror, weights, home):
    mirror.cut_after = [4000] + [0] * download.TRIES
    with pytest.raises(GigaganError, match=r"cut off after 0\.0 of 0\.0 MB .* the same command again"):
        fetch(weights, mirror=mirror.url)
    assert AssetFolder().state(weights).state == "partial"
    assert AssetFolder().state(weights).size == 4000
    assert not (home / "assets" / "weights.bin").exists()
    asked = len(mirror.ranges)
    fetch(weights, mirror=mirror.url)
    assert mirror.ranges[asked:] == ["bytes=4000-"]


def test_a_server_without_ranges_and_one_with_a_new_file_begin_anew(mirror, weights):
    mirror.knows_ranges, mirror.cut_after = False, [3000]
    assert fetch(weights, mirror=mirror.url).path.read_bytes() == mirror.files["weights.bin"]
    partial = AssetFolder().root / "other.bin.partial"
    partial.write_bytes(b"old bytes")
    Path(f"{partial}.json").write_text('{"address": "x", "etag": "\\"old\\""}')
    mirror.knows_ranges, mirror.files["other.bin"] = True, b"new bytes, and more of them"
    other = replace(
        weights,
        name="other",
        file="other.bin",
        size=None,
        sha256=hashlib.sha256(mirror.files["other.bin"]).hexdigest(),
    )
    assert fetch(other, mirror=mirror.url).path.read_bytes() == mirror.files["other.bin"]


def test_a_passing_fault_is_tried_again_and_a_missing_file_is_not(mirror, weights):
    mirror.status = [503, 429]
    fetch(weights, mirror=mirror.url)
    assert len(mirror.ranges) == 3
    gone = replace(weights, name="gone", file="gone.bin")
    with pytest.raises(GigaganError, match=r"asset gone: http://.*/gone.bin answers HTTP 404; give --mirror"):
        fetch(gone, mirror=mirror.url)
    assert len(mirror.ranges) == 4


def test_a_wrong_sum_is_refused_and_the_file_does_not_stay(mirror, weights, home):
    right = mirror.files["weights.bin"]
    mirror.files["weights.bin"] = right[:-1] + b"?"
    with pytest.raises(GigaganError, match=f"and not sha256 {weights.sha256}; it was deleted"):
        fetch(weights, mirror=mirror.url)
    assert not list((home / "assets").glob("weights*"))
    mirror.files["weights.bin"] = right
    assert fetch(weights, mirror=mirror.url).sha256 == weights.sha256
    weak = replace(weights, name="weak", sha256=None, weaker=("sha1", "0" * 40))
    with pytest.raises(GigaganError, match=f"and not sha1 {'0' * 40}"):
        fetch(replace(weak, file="weights2.bin"), mirror=_served_as(mirror, "weights2.bin"))


def _served_as(mirror, name: str) -> str:
    mirror.files[name] = mirror.files["weights.bin"]
    return mirror.url


def test_an_unknown_sum_is_pinned_with_a_warning_and_another_file_is_refused_then(mirror, weights, capsys):
    unknown = replace(weights, sha256=None)
    done = fetch(unknown, mirror=mirror.url)
    assert done.pinned
    assert "no public source states its sha256" in " ".join(capsys.readouterr().err.split())
    done.path.unlink()
    mirror.files["weights.bin"] = b"something else"
    with pytest.raises(GigaganError, match=f"and not sha256 {done.sha256}"):
        fetch(unknown, mirror=mirror.url)


def test_a_web_page_is_never_taken_for_a_file(mirror, weights):
    mirror.content_type = "text/html; charset=utf-8"
    with pytest.raises(GigaganError, match="answers with a web page instead of the file"):
        fetch(replace(weights, sha256=None), mirror=mirror.url)


def test_a_full_disk_is_one_sentence_and_what_was_fetched_stays(mirror, weights, home, monkeypatch):
    copy = download._copy

    def full(source, target, on_piece):
        with open("/dev/full", "wb", buffering=0) as device:
            target.write(source.read(2048))
            copy(source, device, on_piece)

    monkeypatch.setattr(download, "_copy", full)
    with pytest.raises(
        GigaganError, match=r"asset weights: no space left on the disk of .*what was fetched stays"
    ):
        fetch(weights, mirror=mirror.url)
    monkeypatch.undo()
    monkeypatch.setenv("GIGAGAN_HOME", str(home))
    fetch(weights, mirror=mirror.url)
    assert mirror.ranges[-1] == "bytes=2048-"


def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(mirror, weights, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage._replace(free=5000))
    with pytest.raises(GigaganError, match=r"needs 0 MB more and the disk of .* has 0 MB; free some"):
        fetch(weights, mirror=mirror.url)
    assert AssetFolder().state(weights).size == 0


def test_an_archive_is_unpacked_to_the_member_that_is_wanted(mirror, weights, home):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("val/1.txt", "one")
        archive.writestr("val/2.txt", "two")
        archive.writestr("other/3.txt", "three")
        archive.writestr("../escaped.txt", "never")
    mirror.files["images.zip"] = packed.getvalue()
    images = replace(
        weights,
        name="images",
        file="images.zip",
        member="val",
        sha256=hashlib.sha256(packed.getvalue()).hexdigest(),
    )
    done = fetch(images, mirror=mirror.url)
    assert done.path == home / "assets" / "images" / "val"
    assert {path.name: path.read_text() for path in done.path.iterdir()} == {"1.txt": "one", "2.txt": "two"}
    assert not (home / "assets" / "images" / "other").exists()
    shutil.rmtree(done.path)
    assert AssetFolder().state(images).state == "changed"
    asked = len(mirror.ranges)
    assert (fetch(images, mirror=mirror.url).path / "1.txt").is_file()
    assert len(mirror.ranges) == asked
    with pytest.raises(GigaganError, match="holds no train"):
        fetch(replace(images, name="train", member="train"), mirror=mirror.url)


def test_a_file_put_there_by_hand_is_checked_and_taken_in(mirror, weights, home):
    (home / "assets").mkdir(parents=True)
    (home / "assets" / "weights.bin").write_bytes(mirror.files["weights.bin"])
    assert AssetFolder().state(weights).state == "unrecorded"
    assert verify(weights) == weights.sha256
    assert mirror.ranges == []
    assert AssetFolder().state(weights).state == "fetched"
    other = replace(weights, name="other", file="other.bin")
    (home / "assets" / "other.bin").write_bytes(b"another file")
    with pytest.raises(GigaganError, match=r"other.bin has sha256 .* the catalogue's is"):
        fetch(other, mirror=mirror.url)


def test_verify_reads_the_file_again(mirror, weights):
    with pytest.raises(GigaganError, match="`gigagan assets fetch weights` gets it"):
        verify(weights)
    path = fetch(weights, mirror=mirror.url).path
    assert verify(weights) == weights.sha256
    path.write_bytes(path.read_bytes()[:-1] + b"!")  # of the same size
    assert AssetFolder().state(weights).state == "fetched"
    with pytest.raises(GigaganError, match="has sha256"):
        verify(weights)


def test_two_at_once_fetch_one_file_once(mirror, weights):
    threads = [
        threading.Thread(target=fetch, args=(weights,), kwargs={"mirror": mirror.url}) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(mirror.ranges) == 1


def test_a_mirror_is_an_http_address(weights):
    with pytest.raises(GigaganError, match="--mirror file:///etc is no http"):
        fetch(weights, mirror="file:///etc")


def test_a_folder_that_cannot_be_written_is_one_sentence(mirror, weights, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(GigaganError, match=r"file/assets cannot be written \(.*\); set GIGAGAN_ASSETS"):
        fetch(weights, AssetFolder(tmp_path / "file" / "assets"), mirror.url)


@pytest.mark.parametrize(
    ("content_type", "what"),
    [
        ("application/json", "a JSON document"),
        ("application/problem+json; charset=utf-8", "a JSON document"),
        ("application/xml", "an XML document"),
        ("application/xhtml+xml", "an XML document"),
    ],
)
def test_a_page_of_an_error_is_never_taken_for_a_file(mirror, unknown, content_type, what):
    mirror.content_type = content_type
    with pytest.raises(GigaganError, match=f"answers with {what} instead of the file; give --mirror"):
        fetch(unknown, mirror=mirror.url)
    assert AssetFolder().state(unknown).state == "missing"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\n", "is a git-LFS pointer"),
    ],
)
def test_what_stands_for_a_file_is_not_pinned_as_the_file(mirror, weights, unknown, home, body, reason):
    right, mirror.files["weights.bin"] = mirror.files["weights.bin"], body
    for asset in (unknown, replace(weights, size=None)):
        with pytest.raises(GigaganError, match=f"what .*weights.bin gave {reason}.*; it was deleted"):
            fetch(asset, mirror=mirror.url)
        assert not list((home / "assets").glob("weights*"))
        assert AssetFolder().record("weights") is None
    (home / "assets" / "weights.bin").write_bytes(body)  # by hand, as a clone without git-LFS leaves it
    with pytest.raises(GigaganError, match=f"weights.bin {reason}.*; delete it and give"):
        fetch(unknown, mirror=mirror.url)
    (home / "assets" / "weights.bin").unlink()
    mirror.files["weights.bin"] = right
    assert fetch(unknown, mirror=mirror.url).pinned


def test_a_file_whose_end_nobody_tells_is_not_pinned(mirror, unknown, home):
    mirror.framing, mirror.cut_after = "close", [4000]
    with pytest.raises(GigaganError, match=r"says neither how long weights.bin is nor .*; give --mirror URL"):
        fetch(unknown, mirror=mirror.url)
    assert not list((home / "assets").glob("weights*"))


def test_the_catalogues_size_tells_a_cut_where_the_server_does_not(mirror, weights):
    mirror.framing, mirror.cut_after = "close", [4000]
    done = fetch(weights, mirror=mirror.url)
    assert mirror.ranges == [None, "bytes=4000-"]
    assert done.sha256 == weights.sha256


def test_the_last_chunk_tells_a_cut_too(mirror, unknown):
    mirror.framing, mirror.cut_after = "chunks", [4000]
    done = fetch(unknown, mirror=mirror.url)
    assert mirror.ranges == [None, "bytes=4000-"]
    assert done.path.read_bytes() == mirror.files["weights.bin"]


@pytest.mark.parametrize("heeds", [True, False])
@pytest.mark.parametrize("marks", ["etag", "date"])
def test_two_versions_of_a_file_are_never_joined(mirror, unknown, heeds, marks):
    new = b"2" * 9000
    mirror.cut_after, mirror.later = [4000], [{"weights.bin": new}]
    mirror.heeds, mirror.tags, mirror.dated = heeds, marks == "etag", marks == "date"
    assert fetch(unknown, mirror=mirror.url).path.read_bytes() == new
    assert mirror.ranges == ([None, "bytes=4000-"] if heeds else [None, "bytes=4000-", None])


def test_a_kill_never_leaves_notes_of_one_version_beside_bytes_of_another(mirror, unknown, monkeypatch):
    mirror.cut_after = [4000] + [0] * download.TRIES
    with pytest.raises(GigaganError, match="was cut off"):
        fetch(unknown, mirror=mirror.url)
    mirror.files["weights.bin"] = b"2" * 9000

    class Killed(BaseException):
        pass

    def killed(*arguments):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(download, "open", killed, raising=False)
        with pytest.raises(Killed):
            fetch(unknown, mirror=mirror.url)
    assert fetch(unknown, mirror=mirror.url).path.read_bytes() == b"2" * 9000


def test_an_unchanged_file_is_continued_by_its_date(mirror, unknown):
    mirror.tags, mirror.dated, mirror.cut_after = False, True, [4000]
    assert fetch(unknown, mirror=mirror.url).path.read_bytes() == mirror.files["weights.bin"]
    assert mirror.ranges == [None, "bytes=4000-"]


def test_without_a_sum_or_a_version_every_request_begins_anew(mirror, weights, unknown):
    new = b"2" * 9000
    mirror.tags, mirror.cut_after, mirror.later = False, [4000], [{"weights.bin": new}]
    assert fetch(unknown, mirror=mirror.url).path.read_bytes() == new
    assert mirror.ranges == [None, None]
    # a pinned sum tells, as a published one does
    (AssetFolder().root / "weights.bin").unlink()
    mirror.ranges, mirror.cut_after = [], [4000]
    fetch(unknown, mirror=mirror.url)
    assert mirror.ranges == [None, "bytes=4000-"]


def test_a_server_that_keeps_cutting_at_other_places_is_given_up(mirror, weights):
    mirror.knows_ranges, mirror.cut_after = False, [4000, 2000] * 20
    with pytest.raises(GigaganError, match="was cut off after"):
        fetch(weights, mirror=mirror.url)
    assert len(mirror.ranges) == 1 + download.TRIES


@pytest.mark.parametrize(
    "fault", [OSError(errno.EHOSTUNREACH, "No route to host"), ssl.SSLError(1, "bad record mac")], ids=type
)
@pytest.mark.parametrize("where", ["begin", "read1"])
def test_a_fault_of_the_network_is_tried_again(mirror, weights, monkeypatch, fault, where):
    faults, original = [fault], getattr(http.client.HTTPResponse, where)

    def faulty(self, *arguments):
        if faults:
            raise faults.pop()
        return original(self, *arguments)

    monkeypatch.setattr(http.client.HTTPResponse, where, faulty)
    assert fetch(weights, mirror=mirror.url).sha256 == weights.sha256
    assert faults == []
    faults += [fault] * download.TRIES
    (AssetFolder().root / "weights.bin").unlink()
    with pytest.raises(GigaganError, match=f"gave nothing .*{fault.strerror}"):
        fetch(weights, mirror=mirror.url)


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://host:port/", "http://a b/", "http://ä/", "http:///x", "x"]
)
def test_a_mirror_that_is_no_address_is_one_sentence(weights, url):
    with pytest.raises(GigaganError, match="is no http or https address"):
        fetch(weights, mirror=url)


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"assets": []},
        {"assets": {"weights": 3}},
        {"assets": {"weights": {}}},
        {"assets": {"weights": {"sha256": "0", "size": "1"}}},
        {"assets": {"weights": {"sha256": "0", "size": 1, "members": None}}},
    ],
    ids=json.dumps,
)
def test_a_damaged_manifest_is_one_sentence(weights, home, document):
    (home / "assets").mkdir(parents=True)
    (home / "assets" / "weights.bin").write_bytes(b"x")
    (home / "assets" / "manifest.json").write_text(json.dumps(document))
    for ask in (lambda: AssetFolder().state(weights), lambda: fetch(weights), lambda: verify(weights)):
        with pytest.raises(GigaganError, match=r"manifest\.json is damaged .*; delete it and fetch again"):
            ask()


def test_what_is_no_file_in_the_assets_folder_is_one_sentence(mirror, weights, home):
    root = home / "assets"
    (root / "weights.bin").mkdir(parents=True)
    with pytest.raises(GigaganError, match=r"weights\.bin is a folder; move it away"):
        fetch(weights, mirror=mirror.url)
    assert mirror.ranges == []
    (root / "weights.bin").rmdir()
    (root / "weights.bin.partial").mkdir()
    with pytest.raises(
        GigaganError, match=r"asset weights: .*weights\.bin\.partial: Is a directory; mend that"
    ):
        fetch(weights, mirror=mirror.url)
    (root / "weights.bin.partial").rmdir()
    (root / "manifest.json").mkdir()
    with pytest.raises(GigaganError, match=r"manifest\.json is damaged"):
        fetch(weights, mirror=mirror.url)


def test_a_file_that_cannot_be_read_is_one_sentence_and_stays(mirror, weights, monkeypatch):
    path = fetch(weights, mirror=mirror.url).path

    def failing(path):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(folder_module, "sha256_file", failing)
    with pytest.raises(GigaganError, match=r"weights\.bin cannot be read \(Input/output error\)"):
        verify(weights)
    path.rename(f"{path}.partial")
    with pytest.raises(GigaganError, match=r"weights\.bin\.partial cannot be read"):
        fetch(weights, mirror=mirror.url)
    assert Path(f"{path}.partial").is_file()


def test_verify_names_a_fetched_file_that_is_gone(mirror, weights):
    path = fetch(weights, mirror=mirror.url).path
    path.rename(f"{path}.partial")  # as a fetch that goes on leaves it
    for _ in range(2):
        with pytest.raises(
            GigaganError, match=r"weights\.bin was fetched and is gone; `gigagan assets fetch weights`"
        ):
            verify(weights)
        Path(f"{path}.partial").unlink(missing_ok=True)


def test_an_address_that_gives_nothing_is_not_said_to_have_been_cut_off(mirror, weights):
    mirror.status = [503] * 9
    with pytest.raises(
        GigaganError, match=r"gave nothing \(HTTP 503\); look at the network, or give --mirror"
    ):
        fetch(weights, mirror=mirror.url)
    with pytest.raises(GigaganError, match=r"gave nothing \(.*refused\); look at the network"):
        fetch(weights, mirror="http://127.0.0.1:9")


def test_packed_bytes_are_not_pinned_as_the_file(mirror, unknown):
    mirror.files["weights.bin"], mirror.encoding = gzip.compress(b"weights"), "gzip"
    with pytest.raises(GigaganError, match=r"answers packed \(gzip\) though asked for the plain file"):
        fetch(unknown, mirror=mirror.url)
    mirror.files["weights.bin"], mirror.encoding = b"weights", "identity"
    assert fetch(unknown, mirror=mirror.url).path.read_bytes() == b"weights"
