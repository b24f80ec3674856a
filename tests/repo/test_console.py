"""Progress in a log file: plain lines with rate and figures, nothing on standard output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gigagan_core import console

# Ours, and one like that of Prefect's log handler, into a pipe that nobody reads any more.
WITHOUT_READER = """
import sys
from rich.console import Console
from gigagan_core import console
if sys.argv[2] == "outlives":
    console.outlive_reader()
sys.stdin.read()
for number in range(3):
    Console(stderr=True).print("a line of a log")
    console.note("a line")
    print("a line", flush=True)
open(sys.argv[1], "w").write("work done")
"""


def test_a_bar_without_a_terminal_ends_in_a_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("downloading [x]", total=4, unit="images") as bar:
        bar.advance(3, success="75%")
        bar.advance(1, loss=0.25)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("downloading [x]: 4/4 images, ")
    assert captured.err.rstrip().endswith("success 75%  loss 0.25")


def test_resumed_work_counts_in_the_total_and_not_in_the_rate(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("training", total=1_000_000, unit="images") as bar:
        bar.start_from(1_000_000)
    assert "training: 1,000,000/1,000,000 images, 0.0/s" in capsys.readouterr().err


def test_work_that_an_earlier_run_did_counts_in_no_rate_whenever_it_is_met(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = iter([0.0])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(begin, 100.0))
    with console.progress("features", total=1000, unit="images") as bar:
        bar.set(200)
        bar.start_from(900)
        bar.set(1000)
    assert "features: 1,000/1,000 images, 3.0/s" in capsys.readouterr().err


def test_messages_show_markup_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.note("[red]a caption[/red]")
    console.warn("[bold]b")
    err = capsys.readouterr().err
    assert "[red]a caption[/red]" in err
    assert "[bold]b" in err


@pytest.mark.parametrize("outlives", ["outlives", "ends"])
def test_a_process_goes_on_when_the_reader_of_its_output_has_gone(tmp_path: Path, outlives: str) -> None:
    reading, writing = os.pipe()
    done = tmp_path / "done"
    process = subprocess.Popen(
        [sys.executable, "-c", WITHOUT_READER, str(done), outlives],
        stdin=subprocess.PIPE,
        stdout=writing,
        stderr=writing,
    )
    os.close(writing)
    os.close(reading)
    process.communicate(b"", timeout=30)
    assert done.exists() == (outlives == "outlives")
    assert (process.returncode == 0) == (outlives == "outlives")
