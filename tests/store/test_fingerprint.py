"""What changes a fingerprint, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gigagan_core.store import fingerprint


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small copy of the package's shape: a stage that imports a loss, one that imports a reader."""
    for name, text in {
        "__init__.py": "",
        "store/__init__.py": "",
        "store/store.py": "STORE = 1\n",
        "losses/__init__.py": "",
        "losses/matching.py": '"""Eq. 8."""\n\ndef loss(x):\n    """Doc."""\n    return x * 2  # twice\n',
        "data/__init__.py": "",
        "data/reader.py": "def read():\n    return 1\n",
        "stages/__init__.py": "",
        "stages/train.py": (
            "from gigagan_core.store.store import STORE\n\n"
            "def run():\n    from gigagan_core.losses import matching\n    return matching.loss(STORE)\n"
        ),
        "stages/ingest.py": "from ..data.reader import read\n\ndef run():\n    return read()\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(fingerprint, "PACKAGE_FOLDER", tmp_path)
    return tmp_path


def digests() -> tuple[str, str]:
    return (
        fingerprint.code_digest("gigagan_core.stages.train")[0],
        fingerprint.code_digest("gigagan_core.stages.ingest")[0],
    )


def test_an_edited_loss_changes_training_and_not_ingest(package: Path) -> None:
    before = digests()
    (package / "losses/matching.py").write_text('"""Eq. 8."""\n\ndef loss(x):\n    return x * 3\n')
    after = digests()
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_docstrings_comments_and_blank_lines_change_nothing(package: Path) -> None:
    before = digests()
    (package / "losses/matching.py").write_text(
        '"""Another text."""\n\n\n# why\ndef loss(x):\n    """Other doc."""\n\n    return x * 2\n'
    )
    assert digests() == before


def test_relative_imports_are_followed(package: Path) -> None:
    before = digests()
    (package / "data/reader.py").write_text("def read():\n    return 2\n")
    after = digests()
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_the_store_does_not_decide_a_result(package: Path) -> None:
    before = digests()
    (package / "store/store.py").write_text("STORE = 2\n")
    assert digests() == before


def test_modules_that_decide_are_listed(package: Path) -> None:
    _, modules = fingerprint.code_digest("gigagan_core.stages.train")
    assert "gigagan_core.losses.matching" in modules
    assert "gigagan_core.data.reader" not in modules
    assert "gigagan_core.store.store" not in modules


def test_the_digest_ignores_the_order_of_keys() -> None:
    assert fingerprint.digest({"a": 1, "b": [1, 2]}) == fingerprint.digest({"b": [1, 2], "a": 1})
    assert fingerprint.digest({"a": 1, "b": [1, 2]}) != fingerprint.digest({"a": 1, "b": [2, 1]})
