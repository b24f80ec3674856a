"""The embedded drawings' tables, which two first pipelines may write at once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from gigagan_core.config.pipeline import SourceSettings
from gigagan_core.data import openmoji
from gigagan_core.errors import GigaganError
from gigagan_core.stages import sources


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tables of a few bytes, in a home of their own."""

    def write(folder: Path, limit: int | None, size: int) -> SimpleNamespace:
        for split in ("train", "heldout"):
            (folder / split).mkdir(parents=True)
            (folder / split / "0.parquet").write_bytes(b"table")
        return SimpleNamespace(counts={"train": 1, "heldout": 1})

    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(openmoji, "publish", write)


@pytest.mark.usefixtures("quick")
def test_a_second_pipeline_takes_the_tables_that_the_first_one_has_just_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both have looked before either was done."""
    source = SourceSettings()
    first = sources.tables_of(source)
    exists = Path.exists
    looks: list[Path] = []

    def looked_before(path: Path, **options: bool) -> bool:
        looks.append(path)
        return len(looks) > 1 and exists(path, **options)

    monkeypatch.setattr(Path, "exists", looked_before)
    assert sources.tables_of(source) == first
    assert looks[0] == Path(first["train"]).parent
    assert [path.name for path in looks[0].parent.iterdir()] == [looks[0].name], "nothing unfinished is left"


@pytest.mark.usefixtures("quick")
def test_a_folder_that_somebody_names_must_be_new(tmp_path: Path) -> None:
    folder = tmp_path / "tables"
    folder.mkdir()
    assert sources.publish(folder) == {"train": 1, "heldout": 1}
    with pytest.raises(GigaganError, match="tables is there already; name a new folder"):
        sources.publish(folder)
