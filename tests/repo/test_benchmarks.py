"""The benchmarks' own machinery: what is measured is what is written down."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import side_by_side

ROOT = Path(__file__).resolve().parents[2]

SIDE = """
import time
from benchmarks.side_by_side import answer

class Sleep:
    parameters, calls = 7, 2
    def __init__(self, options):
        print("a library talks")
    def warm_up(self): pass
    def run(self): time.sleep(SECONDS)

answer({"sleep": Sleep}, {"torch": "0", "peer": "1.2"})
"""


@pytest.fixture
def sides(tmp_path: Path) -> dict[str, Path]:
    """Two sides: ours sleeps 0.05 s for two calls, the peer four times as long."""
    scripts = {}
    for name, seconds in (("ours", 0.05), ("peer", 0.2)):
        scripts[name] = tmp_path / f"{name}.py"
        scripts[name].write_text(SIDE.replace("SECONDS", str(seconds)))
    return scripts


def test_a_comparison_is_of_equal_calls_and_is_written_whole(sides, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(side_by_side, "RESULTS", tmp_path / "results")
    side_by_side.compare(
        "sleeping",
        "sleep",
        (sys.executable, sides["ours"]),
        (sys.executable, sides["peer"]),
        "peer",
        {"device": "cpu"},
        repeats=3,
        note="nothing",
    )
    written = json.loads((tmp_path / "results" / "sleeping.json").read_text())
    assert written["ours"]["min"] >= 0.025, "half of the time of two calls"
    assert written["ours"]["min"] < written["peer"]["min"]
    assert written["ratio"]["median"] > 1
    assert written["ratio"]["min"] <= written["ratio"]["median"] <= written["ratio"]["max"]
    assert written["peer"]["name"] == "peer"
    assert written["peer"]["version"] == "1.2"
    assert {"command", "date", "machine", "versions", "unit", "memory_ratio"} <= set(written)
    assert "sleeping" in capsys.readouterr().out


def test_a_side_that_dies_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('no such network')")
    with pytest.raises(SystemExit, match="no such network"):
        side_by_side.Side(sys.executable, broken, "sleep", {})


def test_without_a_gpu_the_paper_size_benchmark_says_so_and_measures_nothing() -> None:
    done = run("bench_paper_size.py", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0
    assert "needs a GPU" in done.stdout


@pytest.mark.slow
def test_the_paper_size_benchmark_can_be_rehearsed() -> None:
    done = run("bench_paper_size.py", "--rehearse", "--batch", "4", "--repeats", "1")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["step"]["images_per_second"] > 0
    assert figures["step"]["teraflops_a_step"] > 0
    assert figures["upsampling"]["image_size"] == 128


def run(script: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *options],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
