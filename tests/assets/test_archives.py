"""Archives: the wanted member unpacked, damage told from a whole one, and losses seen afterwards."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace

import pytest

from gigagan_core.assets import archive as archives
from gigagan_core.assets import fetch as fetching
from gigagan_core.assets.catalogue import Asset
from gigagan_core.assets.fetch import fetch, verify
from gigagan_core.assets.folder import AssetFolder, require
from gigagan_core.errors import GigaganError

FILES = {f"val/{number}.txt": f"picture {number} " * 40 for number in range(5)}
CENTRAL = b"PK\x01\x02"


def packed(files: dict[str, str], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return stream.getvalue()


def changed(data: bytes, at: int, to: bytes) -> bytes:
    return data[:at] + to + data[at + len(to) :]


def in_directory(data: bytes, offset: int, to: bytes) -> bytes:
    return changed(data, data.index(CENTRAL) + offset, to)


@pytest.fixture
def images(mirror, weights) -> Asset:
    """A folder of five files in an archive of known sum."""
    data = packed({**FILES, "other/6.txt": "six"})
    mirror.files["images.zip"] = data
    sha256 = hashlib.sha256(data).hexdigest()
    return replace(weights, name="images", file="images.zip", member="val", sha256=sha256, size=len(data))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "its stream is broken": lambda data: changed(data, 30 + len("val/0.txt"), b"\xff" * 6),
    "its directory is gone": lambda data: data[: data.index(CENTRAL)],
    "it is encrypted": lambda data: in_directory(changed(data, 6, b"\x01"), 8, b"\x01"),
    "its compression is unknown": lambda data: in_directory(changed(data, 8, b"\x63"), 10, b"\x63"),
    "its checksum is another": lambda data: in_directory(data, 16, b"\x00\x00\x00\x00"),
    "its bzip2 stream is broken": lambda data: changed(
        packed(FILES, zipfile.ZIP_BZIP2), 40 + len("val/0.txt"), b"\xff" * 6
    ),
    "its LZMA stream is broken": lambda data: changed(
        packed(FILES, zipfile.ZIP_LZMA), 40 + len("val/0.txt"), b"\xff" * 6
    ),
    "its names are no text": lambda data: data.replace(b"val/0.txt", b"val/\xff.txt").replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x00\x08"
    ),
    "it is another archive": lambda data: packed({"train/1.txt": "one"}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_archive_is_no_obstacle_to_a_whole_one(mirror, images, damage, home):
    unknown = replace(images, sha256=None, size=None)
    whole = mirror.files["images.zip"]
    mirror.files["images.zip"] = damage(whole)
    with pytest.raises(GigaganError, match=r"asset images: .*images\.zip .*it was deleted, so give"):
        fetch(unknown, mirror=mirror.url)
    assert [path.name for path in (home / "assets").iterdir() if path.name[0] != "."] == []
    assert not (home / "assets" / ".images.unpacking").exists()
    mirror.files["images.zip"] = whole
    assert len(list(fetch(unknown, mirror=mirror.url).path.iterdir())) == len(FILES)


def test_a_damaged_archive_left_by_a_killed_fetch_is_no_obstacle_either(mirror, images, home):
    (home / "assets").mkdir(parents=True)
    (home / "assets" / "images.zip").write_bytes(DAMAGES["its stream is broken"](mirror.files["images.zip"]))
    unknown = replace(images, sha256=None, size=None)
    with pytest.raises(GigaganError, match="it was deleted, so give"):
        fetch(unknown, mirror=mirror.url)
    assert fetch(unknown, mirror=mirror.url).pinned


def test_an_archive_whose_sum_is_right_stays_though_it_cannot_be_unpacked(mirror, images, home):
    damaged = DAMAGES["its stream is broken"](mirror.files["images.zip"])
    mirror.files["images.zip"] = damaged
    known = replace(images, sha256=hashlib.sha256(damaged).hexdigest(), size=len(damaged))
    with pytest.raises(
        GigaganError, match=r"images\.zip has the right sum and cannot be unpacked \(Error -3"
    ):
        fetch(known, mirror=mirror.url)
    assert (home / "assets" / "images.zip").is_file()


@pytest.mark.parametrize("loss", ["four files", "a file's bytes", "a foreign file"])
def test_a_folder_that_lost_files_is_changed_and_unpacked_again(mirror, images, loss):
    place = fetch(images, mirror=mirror.url).path
    record = AssetFolder().record("images")
    assert record["members"] == {"files": 5, "bytes": sum(map(len, FILES.values()))}
    if loss == "four files":
        for number in range(4):
            (place / f"{number}.txt").unlink()
    elif loss == "a file's bytes":
        (place / "3.txt").write_text("")
    else:
        (place / "more").mkdir()
        (place / "more" / "6.txt").write_text("six")
    assert AssetFolder().state(images).state == "changed"
    with pytest.raises(
        GigaganError, match=r"files? of [\d,]+ bytes where 5 files of .*fetch images` unpacks it"
    ):
        verify(images)
    asked = len(mirror.ranges)
    again = fetch(images, mirror=mirror.url)
    assert (again.how, len(mirror.ranges)) == ("unpacked again", asked)
    assert {f"val/{path.name}": path.read_text() for path in place.iterdir()} == FILES
    assert verify(images) == images.sha256
    assert AssetFolder().record("images")["address"] == record["address"]


def test_a_protocol_does_not_start_on_a_folder_that_lost_files(mirror, images, monkeypatch):
    from gigagan_core.assets import catalogue

    monkeypatch.setitem(catalogue.CATALOGUE, "images", images)
    (fetch(images, mirror=mirror.url).path / "1.txt").unlink()
    with pytest.raises(
        GigaganError, match=r"protocol x needs images, .*`gigagan assets fetch images` gets it"
    ):
        require(["images"], "protocol x")


def test_a_single_file_of_an_archive_is_compared_too(mirror, images):
    one = replace(images, member="val/2.txt")
    place = fetch(one, mirror=mirror.url).path
    assert AssetFolder().record("images")["members"] == {"files": 1, "bytes": len(FILES["val/2.txt"])}
    place.write_text("shorter")
    assert AssetFolder().state(one).state == "changed"
    place.unlink()
    assert AssetFolder().state(one).state == "changed"
    with pytest.raises(GigaganError, match=r"2\.txt is gone where 1 file of .* were unpacked"):
        verify(one)
    fetch(one, mirror=mirror.url)
    assert place.read_text() == FILES["val/2.txt"]


def test_a_record_from_before_members_were_counted_is_made_anew(mirror, images, home):
    fetch(images, mirror=mirror.url)
    manifest = home / "assets" / "manifest.json"
    document = json.loads(manifest.read_text())
    del document["assets"]["images"]["members"]
    manifest.write_text(json.dumps(document))
    assert AssetFolder().state(images).state == "changed"
    assert fetch(images, mirror=mirror.url).how == "unpacked again"
    assert AssetFolder().state(images).state == "fetched"


@pytest.mark.parametrize("member", ["val", "val/2.txt"])
def test_verify_sees_an_unpacked_file_of_the_same_size(mirror, images, member):
    wanted = replace(images, member=member)
    place = fetch(wanted, mirror=mirror.url).path
    changed = AssetFolder().root / "images" / "val" / "2.txt"
    whole = changed.read_text()
    assert verify(wanted) == wanted.sha256
    changed.write_text(whole[::-1])
    assert AssetFolder().state(wanted).state == "fetched"
    with pytest.raises(
        GigaganError, match=rf"asset images: {changed} is not as in .*images\.zip; delete {place} and give"
    ):
        verify(wanted)
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    assert fetch(wanted, mirror=mirror.url).how == "unpacked again"
    assert verify(wanted) == wanted.sha256
    assert changed.read_text() == whole


def test_what_was_unpacked_and_cannot_be_read_is_one_sentence(mirror, images, monkeypatch):
    fetch(images, mirror=mirror.url)

    def failing(path):
        raise OSError(errno.EIO, "Input/output error")  # as reading on raises it, without the name

    monkeypatch.setattr(archives, "_crc32", failing)
    with pytest.raises(
        GigaganError, match=r"images/val cannot be read \(Input/output error\); mend that, or"
    ):
        verify(images)


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "fault", [OSError(errno.ENOSPC, "No space left on device"), Killed()], ids=["full", "killed"]
)
@pytest.mark.parametrize("step", ["unpack", "_record"])
def test_a_fetch_cut_off_before_its_record_is_no_file_put_there_by_hand(
    mirror, images, home, monkeypatch, fault, step
):
    def failing(*arguments):
        raise fault

    with monkeypatch.context() as patched:
        patched.setattr(fetching, step, failing)
        with pytest.raises((GigaganError, Killed), match=r"no space left|^$"):
            fetch(images, mirror=mirror.url)
    assert AssetFolder().state(images).state == "unrecorded"
    done = fetch(images, mirror="http://127.0.0.1:9/another")
    assert done.how == "fetched"
    assert AssetFolder().record("images")["address"] == f"{mirror.url}/images.zip"
    assert len(mirror.ranges) == 1
    assert not list((home / "assets").glob("*.partial*"))


def test_another_file_put_where_a_fetch_was_cut_off_is_not_said_to_be_fetched(
    mirror, images, home, monkeypatch
):
    def killed(*arguments):
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(fetching, "unpack", killed)
        with pytest.raises(Killed):
            fetch(images, mirror=mirror.url)
    other = packed({**FILES, "other/7.txt": "seven"})
    (home / "assets" / "images.zip").write_bytes(other)
    images = replace(images, sha256=hashlib.sha256(other).hexdigest(), size=len(other))
    assert fetch(images, mirror=mirror.url).how == "taken in"
    assert AssetFolder().record("images")["address"] == "put there by hand"
