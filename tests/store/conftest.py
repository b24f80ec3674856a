"""Artifacts made by hand: a few bytes, any stage, any inputs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gigagan_core.cli.app import app
from gigagan_core.store.artifact import MANIFEST, Artifact, reference_of
from gigagan_core.store.fingerprint import digest
from gigagan_core.store.store import Store, open_store

DAY = 24 * 3600.0


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


@pytest.fixture
def make(store: Store) -> Callable[..., Artifact]:
    """Commits an artifact: make("ingest", "shard-set", settings={...}, inputs={...}, days_old=40)."""

    def commit(
        stage: str,
        kind: str,
        inputs: dict[str, Any] | None = None,
        settings: dict[str, Any] | None = None,
        code: dict[str, str] | None = None,
        notes: dict[str, Any] | None = None,
        mlflow: dict[str, str] | None = None,
        into: Store = store,
        days_old: float = 0.0,
        content: bytes | Path = b"weights",
    ) -> Artifact:
        references = {name: reference_of(value) for name, value in (inputs or {}).items()}
        modules = code or {"gigagan_core.losses": "1"}
        parts = {
            "stage": stage,
            "settings": settings or {},
            "inputs": {name: str(value) for name, value in references.items()},
            "code": digest(modules),
        }
        manifest = {
            "stage": stage,
            "kind": kind,
            "fingerprint": digest(parts),
            "parts": parts,
            "code_modules": modules,
            "inputs": references,
            "settings": settings or {},
            "notes": notes or {},
            "mlflow": mlflow,
            "packages": {"torch": "2.0"},
        }
        with into.work(manifest["fingerprint"]) as folder:
            output = folder / "output"
            output.mkdir(exist_ok=True)
            if isinstance(content, Path):
                os.link(content, output / "file.bin")
            else:
                (output / "file.bin").write_bytes(content)
            made = into.commit(output, manifest)
            into.discard_work(made.fingerprint)
        return aged(made, days_old) if days_old else made

    return commit


@dataclass(frozen=True)
class Ran:
    """How a command ended. stdout: with what `--json` writes below `sys.stdout`."""

    exit_code: int
    stdout: str
    stderr: str


@pytest.fixture
def gigagan(
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Callable[..., Ran]:
    """Runs `gigagan store ...` on this store, in this process."""
    monkeypatch.setenv("GIGAGAN_STORE", store.uri)
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> Ran:
        done = CliRunner().invoke(app, ["store", *arguments])
        return Ran(done.exit_code, done.stdout + capfd.readouterr().out, done.stderr)

    return run


def aged(artifact: Artifact, days: float) -> Artifact:
    """As if it had been made, and last used, so many days ago."""
    path = Path(artifact.uri) / MANIFEST
    made = datetime.now(UTC) - timedelta(days=days)
    path.write_text(path.read_text().replace(artifact.manifest["created"], made.isoformat()))
    os.utime(path, (time.time() - days * DAY,) * 2)
    return Artifact.from_manifest(json.loads(path.read_text()), artifact.uri)
