"""`gigagan serve` as a process of its own, over the small models of `tests/inference`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.training.checkpoint import export_bundle
from tests.inference.conftest import make_generator, make_upsampler

MAIN = "from gigagan_core.cli import main; main()"
START_SECONDS = 150
CARD = (
    "# Small\n\n| input | what | fingerprint | licence and attribution |\n|---|---|---|---|\n"
    "| data | drawings | `abc` | CC BY\\-SA 4\\.0 |\n"
)


def write_models(folder: Path, save_encoder: Callable[..., None]) -> list[str]:
    """Encoder, base model (16 px) and upsampler (16 to 128 px); gives the options that name them.

    save_encoder: the fixture `save_tiny_encoder`.
    """
    save_encoder(folder / "encoder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = {"base": make_generator(), "upsampler": make_upsampler()}
    sha256 = load_encoder(folder / "encoder").sha256
    for kind, network in networks.items():
        config = {"kind": kind, "image_size": network.settings.image_size, "encoder_sha256": sha256}
        export_bundle(folder / kind, network, {**config, "seed": 0}, CARD)
    places = {"--model": "base", "--encoder": "encoder", "--upsampler": "upsampler"}
    return [part for option, name in places.items() for part in (option, str(folder / name))]


@dataclass
class Server:
    """A running server. errors: where its standard error goes."""

    url: str
    process: subprocess.Popen[str]
    errors: Path

    def get(self, path: str) -> dict:
        """The JSON at a path."""
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return json.load(response)

    def replicas(self) -> list[psutil.Process]:
        """Its replicas' processes."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [each for each in children if "ServeReplica" in _title(each)]

    def stop(self, signal_number: int) -> int:
        """Its exit code."""
        self.process.send_signal(signal_number)
        return self.process.wait(60)


def _title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@contextlib.contextmanager
def serving(folder: Path, *options: str, code: str = MAIN) -> Iterator[Server]:
    """A server that is ready; killed at the end where the test has not stopped it. code: what runs the command."""
    errors = folder / "errors.txt"
    command = [sys.executable, "-c", code, "serve", "--json", "--port", "0", *options]
    with open(errors, "w") as stderr:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "GIGAGAN_HOME": str(folder / "home")},
        )
    try:
        yield Server(_address(process, errors), process, errors)
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for each in (*([process] if process.poll() is None else []), *children):
            with contextlib.suppress(psutil.Error, OSError):
                each.kill()
        process.wait(30)
        process.stdout.close()


def _address(process: subprocess.Popen[str], errors: Path) -> str:
    text, until = "", time.monotonic() + START_SECONDS
    for line in process.stdout:
        text += line
        # A KeyError: the command has answered with what went wrong.
        with contextlib.suppress(ValueError, KeyError):
            return json.loads(text)["url"]
        assert time.monotonic() < until
    raise AssertionError(f"the server did not start: {errors.read_text()[-3000:]}")
