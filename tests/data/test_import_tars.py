"""Tars as they come: damaged, joined, made on a Mac, or with dots in their names. No sample goes without a row."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from gigagan_core.data.import_tars import Found, read_tar
from gigagan_core.errors import GigaganError

Member = tuple[str, bytes]


def write(path: Path, *members: Member) -> Path:
    """A tar in which a name may come twice."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(path: Path, *members: Member) -> list[tuple[str, bytes | None, str | None]]:
    return [as_tuple(found) for found in read_tar(write(path / "t.tar", *members))]


def as_tuple(found: Found) -> tuple[str, bytes | None, str | None]:
    return found.name, found.body, found.caption


FIVE = [member for n in range(5) for member in ((f"s{n}.png", b"p%d" % n), (f"s{n}.txt", b"c%d" % n))]


# ---- whole or not ------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", [1, 4, 9])
def test_a_damaged_header_is_one_sentence_and_no_shorter_tar(tmp_path: Path, member: int) -> None:
    path = write(tmp_path / "t.tar", *FIVE)
    with tarfile.open(path) as tar:
        offset = tar.getmembers()[member].offset
    content = bytearray(path.read_bytes())
    content[offset + 10] ^= 0x55
    path.write_bytes(content)
    with pytest.raises(
        GigaganError, match=rf"t\.tar is no whole tar \(after byte {offset:,} something follows"
    ):
        list(read_tar(path))


def test_two_tars_in_one_file_are_one_sentence(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.tar", *FIVE[:4]), write(tmp_path / "b.tar", *FIVE[4:])
    first.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(
        GigaganError, match=r"a\.tar is no whole tar .* 2 samples could be read\); copy it again"
    ):
        list(read_tar(first))


def test_whole_and_empty_tars_are_read_whatever_the_length_of_their_end(tmp_path: Path) -> None:
    assert samples(tmp_path) == []
    assert len(samples(tmp_path, *FIVE)) == 5
    path = write(tmp_path / "long.tar", *FIVE)
    path.write_bytes(path.read_bytes() + bytes(2**21))
    assert len(list(read_tar(path))) == 5


# ---- whose file is whose -----------------------------------------------------------------------------


def test_a_date_or_a_version_in_a_name_tells_samples_apart(tmp_path: Path) -> None:
    members = [("photo.2021.png", b"p"), ("photo.2021.txt", b"x"), ("b.png", b"q"), ("b.txt", b"y")]
    members += [("v1.0_x.png", b"r"), ("v1.0_x.txt", b"z"), ("v1.1_x.txt", b"w"), ("v1.1_x.png", b"s")]
    assert samples(tmp_path, *members) == [
        ("photo.2021", b"p", "x"),
        ("b", b"q", "y"),
        ("v1.0_x", b"r", "z"),
        ("v1.1_x", b"s", "w"),
    ]


def test_a_picture_gets_no_caption_of_another_number(tmp_path: Path) -> None:
    members = [("photo.2021.png", b"p"), ("photo.2022.txt", b"x")]
    assert samples(tmp_path, *members) == [("photo.2021", b"p", None), ("photo.2022", None, "x")]


def test_a_picture_and_a_text_that_are_named_by_words_belong_together(tmp_path: Path) -> None:
    members = [("0.image.png", b"p"), ("0.caption.txt", b"x"), ("1.image.png", b"q"), ("1.caption.txt", b"y")]
    assert samples(tmp_path, *members) == [("0", b"p", "x"), ("1", b"q", "y")]


def test_of_several_pictures_without_a_plain_one_each_has_a_row(tmp_path: Path) -> None:
    members = [("0.left.png", b"p"), ("0.right.png", b"q"), ("0.caption.txt", b"x")]
    assert samples(tmp_path, *members) == [
        ("0.left", b"p", None),
        ("0.right", b"q", None),
        ("0.caption", None, "x"),
    ]


def test_a_mask_beside_a_whole_sample_is_none_and_a_whole_pair_is_one(tmp_path: Path) -> None:
    members = [
        ("v1.png", b"p"),
        ("v1.txt", b"x"),
        ("v1.mask.png", b"m"),
        ("v1.2.png", b"q"),
        ("v1.2.txt", b"y"),
    ]
    assert samples(tmp_path, *members) == [("v1", b"p", "x"), ("v1.2", b"q", "y")]


def test_a_name_that_comes_again_is_another_sample(tmp_path: Path) -> None:
    members = [("a.png", b"p"), ("a.txt", b"x"), ("a.png", b"q"), ("a.txt", b"y")]
    assert samples(tmp_path, *members) == [("a", b"p", "x"), ("a", b"q", "y")]


def test_what_a_mac_puts_beside_each_file_splits_no_sample(tmp_path: Path) -> None:
    members = [("d/._a.png", b"?"), ("d/a.png", b"p"), ("d/._a.txt", b"?"), ("d/a.txt", b"x")]
    assert samples(tmp_path, *members) == [("d/a", b"p", "x")]


def test_a_picture_or_a_label_alone_has_a_row_and_other_files_have_none(tmp_path: Path) -> None:
    members = [("a.png", b"p"), ("b.cls", b"3"), ("__index__.bin", b"?"), ("c.npy", b"?"), ("noending", b"?")]
    assert samples(tmp_path, *members) == [("a", b"p", None), ("b", None, None)]
