"""What was read out of sources is known to the next process, and never wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gigagan_core.store import fingerprint
from gigagan_core.store.source_cache import FILE, Source, SourceCache

SOURCE = Source("ab" * 32, ("gigagan_core.losses", "gigagan_core.errors"))


def test_a_source_is_known_to_the_next_process_by_its_bytes_and_name(tmp_path: Path) -> None:
    first = SourceCache(tmp_path, b"reader")
    first.add(first.key("a", b"x = 1"), SOURCE)
    first.save()
    again = SourceCache(tmp_path, b"reader")
    assert again.get(again.key("a", b"x = 1")) == SOURCE
    assert again.get(again.key("a", b"x = 2")) is None
    assert again.get(again.key("b", b"x = 1")) is None


def test_what_another_reader_found_is_not_believed(tmp_path: Path) -> None:
    first = SourceCache(tmp_path, b"reader")
    first.add(first.key("a", b"x = 1"), SOURCE)
    first.save()
    other = SourceCache(tmp_path, b"reader, mended")
    assert other.get(other.key("a", b"x = 1")) is None


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"a": 1}', b'{"a": ["b"]}', b"\xff\xfe"])
def test_a_damaged_file_is_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    cache = SourceCache(tmp_path, b"reader")
    cache.add("key", SOURCE)
    cache.save()
    assert json.loads((tmp_path / FILE).read_text()) == {"key": [SOURCE.digest, list(SOURCE.imported)]}


def test_a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    cache = SourceCache(tmp_path / "file", b"reader")
    cache.add("key", SOURCE)
    cache.save()
    assert cache.get("key") == SOURCE


def test_the_package_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path))
    fingerprint._read_module.cache_clear()
    parsed: list[str] = []
    real = fingerprint._parsed

    def counted(name: str, path: Path, text: bytes) -> Source:
        parsed.append(name)
        return real(name, path, text)

    monkeypatch.setattr(fingerprint, "_parsed", counted)
    digest, modules = fingerprint.code_digest("gigagan_core.stages.ingest")
    assert sorted(parsed) == sorted(modules)
    # as another process would begin
    fingerprint._known.cache_clear()
    fingerprint._read_module.cache_clear()
    assert fingerprint.code_digest("gigagan_core.stages.ingest") == (digest, modules)
    assert len(parsed) == len(modules)
