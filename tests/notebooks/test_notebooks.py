"""The notebooks: tidy and small as they are kept, and whole from start to end on the artifacts of a pipeline."""

from __future__ import annotations

import ast
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from .conftest import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
BYTES = 200_000
SECONDS_A_CELL = 240

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_the_five() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


@notebooks
def test_a_notebook_is_kept_small_and_names_no_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < BYTES
    nbformat.validate(read(path))
    for folder in ("work", "tmp", "root", "home"):
        assert f"/{folder}/" not in text, folder
    assert "Traceback" not in text


@notebooks
def test_a_notebook_calls_public_functions_only(path: Path) -> None:
    for source in code(read(path)):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gigagan_core"):
                parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                assert not [part for part in parts if part.startswith("_")], source
            if isinstance(node, ast.Import):
                assert not [alias.name for alias in node.names if alias.name.startswith("flows")], source
            if isinstance(node, ast.Attribute):
                assert not node.attr.startswith("_"), source


@pytest.mark.slow
@pytest.mark.timeout(1800)
@notebooks
def test_a_notebook_runs_from_start_to_end(path: Path, home: Path) -> None:
    notebook = read(path)
    before = sorted(each.name for each in (home / "store").glob("*/*"))
    client = NotebookClient(
        notebook,
        timeout=SECONDS_A_CELL,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
    )
    python_path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    # raises CellExecutionError, with the cell and its traceback
    client.execute(env={**os.environ, "GIGAGAN_HOME": str(home), "PYTHONPATH": python_path})
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    assert any(output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    assert len(nbformat.writes(notebook).encode()) < BYTES, "what it shows is too large to keep"
    assert sorted(each.name for each in (home / "store").glob("*/*")) == before, "a notebook reads the store"
