"""What a store was asked to forget does not come back by an import."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from gigagan_core.data import import_writing
from gigagan_core.data.forget import Forgotten
from gigagan_core.stages.forget import forget
from gigagan_core.store.store import open_store

from .helpers import pictures_of, rows_of
from .importing import picture, run, sample, write_tar

VICTIM = hashlib.sha256(picture(0)).hexdigest()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tar of four samples, each with a URL of its own, and one more tar."""
    write_tar(tmp_path / "in" / "0.tar", {name: body for n in range(4) for name, body in sample(n).items()})
    write_tar(tmp_path / "in" / "1.tar", sample(9))
    return tmp_path / "in"


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("named", "gone"),
    [
        ({"sha256": [VICTIM]}, [0]),
        ({"urls": ["http://a.example/1"]}, [1]),
        ({"hosts": ["example"]}, [0, 1, 2, 3]),
    ],
    ids=["by its bytes", "by its URL", "by its host"],
)
def test_the_next_import_leaves_it_out(
    source: Path, tmp_path: Path, named: dict[str, list[str]], gone: list[int]
) -> None:
    store = tmp_path / "store"
    if len(gone) == 4:  # something must be left
        write_tar(source / "2.tar", {"b.jpg": picture(8), "b.txt": b"kept"})
    first = run(source, store)
    forget(open_store(str(store)), Forgotten.of(**named))
    again = run(source, store, rules={"min_caption_words": 0})
    assert again.fingerprint != first.fingerprint
    rows = rows_of(again)[:4]
    statuses = ["forgotten" if number in gone else "success" for number in range(4)]
    assert [row["status"] for row in rows] == statuses
    counts = again.manifest["counts"]
    assert counts["in"] == counts["out"] + sum(counts["rejected"].values())
    for number in gone:
        said = {name for name, value in rows[number].items() if value is not None}
        assert said == {"key", "source", "status", "selected"}
        assert rows[number]["key"] not in pictures_of(again.path)
        assert f"http://a.example/{number}".encode() not in everything_in(again.path)


def test_pieces_made_before_the_request_are_made_anew(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, real, made, kill = tmp_path / "store", import_writing.import_piece, [], True

    def import_piece(plan: Any, piece: Any, *rest: Any) -> int:
        if kill and piece.number == 1:
            raise KeyboardInterrupt
        made.append(piece.number)
        return real(plan, piece, *rest)

    monkeypatch.setattr(import_writing, "import_piece", import_piece)
    with pytest.raises(KeyboardInterrupt):
        run(source, store, threads=1)
    forget(open_store(str(store)), Forgotten.of(sha256=[VICTIM]))
    kill = False
    artifact = run(source, store, threads=1)
    assert made == [0, 0, 1]
    assert [row["status"] for row in rows_of(artifact)] == ["forgotten", *["success"] * 4]
    assert picture(0) not in everything_in(store)
