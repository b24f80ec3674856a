"""The locked environment: what makes the stack start, and what a lock may not hold."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def check_lock():
    spec = importlib.util.spec_from_file_location("check_lock", ROOT / "infra" / "check_lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lock() -> str:
    return (ROOT / "requirements.lock").read_text()


@pytest.fixture(scope="module")
def pyproject() -> dict:
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)


def test_the_lock_is_clean(check_lock, lock: str, pyproject: dict) -> None:
    assert check_lock.problems(lock, pyproject) == []


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("torchvision==0.29.1", "torchvision==0.28.0", "no matching pair"),
        ("zipp==", "--index-url https://mirror.example/simple\nzipp==", "names an address"),
        ("zipp==", "dataclasses==0.8 \\\n    --hash=sha256:00\nzipp==", "dataclasses backport"),
        ("fastapi==0.150.0", "fastapi==0.151.0", "where Prefect's server starts"),
        ("webdataset==", "webdatasets==", "lacks webdataset"),
    ],
)
def test_a_planted_fault_in_the_lock_is_found(check_lock, lock, pyproject, old, new, sentence) -> None:
    assert old in lock
    found = check_lock.problems(lock.replace(old, new), pyproject)
    assert any(sentence in line for line in found)


def test_no_backport_shadows_the_standard_library() -> None:
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version("dataclasses")
    import dataclasses

    assert Path(dataclasses.__file__).parent == Path(importlib.__file__).parent.parent


def test_the_whole_stack_imports_together() -> None:
    names = "torch, torchvision, prefect, ray, open_clip, webdataset, mlflow, cleanfid, pandas, img2dataset, fastapi"
    script = f"from gigagan_core import environment; environment.set_defaults()\nimport {names}\n"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_another_python_is_refused_in_one_sentence(tmp_path: Path) -> None:
    script = (
        "import sys; sys.version_info = (3, 13, 0, 'final', 0)\n"
        "try:\n    import gigagan_core\nexcept ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert (
        done.stdout
        == "gigagan needs Python 3.11 or 3.12 and this is 3.13; run `make install`, then .venv/bin/gigagan\n"
    )


@pytest.mark.parametrize("python", ["3.13", "3.10", "2.7"])
def test_make_install_refuses_another_python_in_one_sentence(python: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["sh", str(ROOT / "infra" / "install.sh")],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHON": python},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "the stack holds on Python 3.11 and 3.12" in done.stderr
    assert list(tmp_path.iterdir()) == []
