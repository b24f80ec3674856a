"""`gigagan` in a home of its own: as a process, or quicker in this one; and small models in its store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gigagan_core.cli.app import app
from gigagan_core.config.base import Settings
from gigagan_core.models.settings import GeneratorSettings, UpsamplerSettings
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, materialise
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.fingerprint import sha256_file
from gigagan_core.training.checkpoint import export_bundle
from gigagan_core.training.recipes import initial_network

Gigagan = Callable[..., subprocess.CompletedProcess[str]]
TEXT = {"text_dim": 16, "text_width": 8, "text_depth": 1, "text_head_dim": 4}
SHARED = {"z_dim": 6, "w_dim": 8, "mapping_depth": 2, "channel_base": 128, "channel_max": 8, "noise": False}
SHARED |= {"attention_head_dim": 4, "attention_mlp_ratio": 2.0}
BASE = GeneratorSettings(
    image_size=8, kernels=(1, 2), blocks=(1, 1), attention_depths=(0, 1), **TEXT, **SHARED
)
LARGER_BASE = GeneratorSettings(
    image_size=16, kernels=(1, 1, 2), blocks=(1, 1, 1), attention_depths=(0, 0, 1), **TEXT, **SHARED
)
CLASSES = GeneratorSettings(
    image_size=8,
    kernels=(1, 2),
    blocks=(1, 1),
    attention_depths=(0, 0),
    conditioning="class",
    classes=4,
    text_width=8,
    cross_attention=False,
    **SHARED,
)
UPSAMPLER = UpsamplerSettings(
    low_size=8,
    image_size=16,
    bottleneck_size=4,
    encoder_blocks=(1,),
    encoder_attention_depths=(0,),
    kernels=(1, 1, 2),
    blocks=(1, 1, 1),
    attention_depths=(0, 0, 0),
    lowest_rgb=8,
    **TEXT,
    **SHARED,
)
Inside = Callable[..., Result]
MAIN = "from gigagan_core.cli import main; main()"


@pytest.fixture
def gigagan(tmp_path: Path) -> Gigagan:
    """Run the command with these arguments; `code` replaces it by other Python."""

    def run(*arguments: str, code: str = MAIN, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env={**os.environ, "GIGAGAN_HOME": str(tmp_path / "home"), **variables},
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command in this process: a second faster, good enough where file descriptors do not matter."""
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments), prog_name="gigagan")

    return run


class Numbered(Settings):
    """Different settings make different artifacts."""

    number: int


class Models:
    """Puts small models into the store of the commands."""

    def __init__(self, store: Path, save_encoder: Callable[[Path], None]):
        self.store, self.number, self.sum = str(store), 0, ""
        self.save_encoder = save_encoder

    def put(self, kind: str, write: Callable[[Path], None], inputs: dict | None = None) -> Artifact:
        self.number += 1

        def work(stage_work) -> Outcome:
            write(stage_work.output)
            return Outcome(notes={"role": "condition"} if kind == "encoder" else {})

        spec = StageSpec(f"train-{kind}", kind=kind, module="gigagan_core.text")
        with RunContext.open(self.store) as context:
            return materialise(spec, Numbered(number=self.number), inputs or {}, context, work, label=kind)

    def encoder(self) -> Artifact:
        artifact = self.put("encoder", self.save_encoder)
        self.sum = sha256_file(artifact.path / "model.safetensors")
        return artifact

    def model(self, settings, kind: str, encoder: Artifact | None) -> Artifact:
        network = initial_network(settings, seed=0)
        name = "upsampler" if kind == "upsampler-model" else "base"
        config = {"kind": name, "image_size": settings.image_size, "encoder_sha256": self.sum, "seed": 0}
        inputs = {"encoder": encoder} if encoder else {}
        return self.put(kind, lambda out: export_bundle(out / "bundle", network, config, "# card"), inputs)


@pytest.fixture
def models(tmp_path: Path, inside: Inside, save_tiny_encoder: Callable[[Path], None]) -> Models:
    return Models(tmp_path / "home" / "store", save_tiny_encoder)


@pytest.fixture
def trained(models: Models) -> Models:
    """A store with an encoder, a base model and an upsampler."""
    encoder = models.encoder()
    models.model(BASE, "base-model", encoder)
    models.model(UPSAMPLER, "upsampler-model", encoder)
    return models


@pytest.fixture
def ask(inside: Inside, capfd: pytest.CaptureFixture[str]) -> Callable[..., dict]:
    """The JSON that a command answers; what it says besides is in `said`."""

    def run(*arguments: str) -> dict:
        capfd.readouterr()
        done = inside(*arguments, "--json")
        assert done.exit_code == 0, done.stderr
        return {**json.loads(capfd.readouterr().out), "said": done.stderr}

    return run


def failure(done: Result) -> str:
    """The one sentence."""
    assert done.exit_code == 1, done.output
    lines = [line for line in done.stderr.splitlines() if line.startswith("gigagan: error")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]
