"""The local backend: what Ray's workers print is in the stage's log, and not on the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_stage import TinySettings, run

from gigagan_core import console
from gigagan_core.backends.base import LocalBackend
from gigagan_core.stages.base import RunContext


@pytest.mark.slow
def test_workers_lines_are_in_the_log_and_not_on_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    heard: list[str] = []
    with RunContext.open(str(tmp_path), backend=LocalBackend()) as context, console.heard_by(heard.append):
        artifact = context.run(run, TinySettings(ray_task=True), {})
    log = (artifact.path / "stage.log").read_text()
    assert "a worker says well" in log
    assert any(line.endswith("a worker says well") and "(say pid=" in line for line in heard)
    shown = capfd.readouterr()
    assert "a worker says" not in shown.out + shown.err
    assert "the word is well" in shown.err
