"""The files of infra/ as they are, and a copy in which a test may plant a fault."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"


def load(name: str) -> ModuleType:
    """A script of infra/, which is no package."""
    known = f"infra_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, INFRA / f"{name}.py")
        sys.modules[known] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[known])
    return sys.modules[known]


@pytest.fixture(scope="session")
def check() -> ModuleType:
    return load("check")


@pytest.fixture(scope="session")
def exporter() -> ModuleType:
    return load("exporter")


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """compose.yaml with its anchors resolved; variables are left as they are written."""
    return yaml.safe_load((INFRA / "compose.yaml").read_text())


@pytest.fixture(scope="session")
def manifests() -> list[dict[str, Any]]:
    """Every object of infra/kubernetes."""
    return [
        document
        for path in load("check").MANIFESTS.files(ROOT)
        for document in yaml.safe_load_all(path.read_text())
    ]


@pytest.fixture
def planted(tmp_path: Path) -> Callable[[str, str, str], Path]:
    """Copies infra/, puts `new` for the first `old` in a file, and gives the copy's root."""

    def plant(file: str, old: str, new: str) -> Path:
        shutil.copytree(INFRA, tmp_path / "infra", ignore=shutil.ignore_patterns("__pycache__", ".env"))
        path = tmp_path / "infra" / file
        text = path.read_text()
        assert old in text, f"{file} has no {old!r} any more"
        path.write_text(text.replace(old, new, 1))
        return tmp_path

    return plant
