"""The closing tables: every figure and verdict, and nothing that a stranger's text could do to a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gigagan_core import console
from gigagan_core.cli import closing
from gigagan_core.config.base import Settings
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise

HOSTILE = "\x1b[31m[bold]a[/bold] <script>\u202e"


class NoSettings(Settings):
    pass


def report(work: StageWork) -> Outcome:
    claims = [
        {"title": "Distance", "status": "shown", "sentence": f"0.4 against 0.5 {HOSTILE}"},
        {"title": "Patches", "status": "not shown", "sentence": "0.5 against 0.4"},
        {"title": HOSTILE, "status": HOSTILE, "sentence": ""},
    ]
    metrics = {
        "fd_openmoji-judge_32_370": 0.4,
        "baseline/blurred/fd_openmoji-judge_32_370": 0.5,
        HOSTILE: 1.0,
    }
    (work.output / "report.json").write_text(json.dumps({"metrics": metrics, "claims": claims}))
    (work.output / "report.html").write_text("<p>")
    (work.output / "samples.png").write_bytes(b"")
    return Outcome(counts={"in": 1200, "out": 1100, "rejected": {"http_404": 100}})


@pytest.fixture
def run(tmp_path: Path) -> dict[str, Any]:
    with RunContext.open(str(tmp_path / "store")) as context:
        for _ in range(2):
            spec = StageSpec("evaluate", kind="report", module="gigagan_core.text")
            materialise(spec, NoSettings(), {}, context, report, label=f"evaluate {HOSTILE}")
        return closing.document(context.history, {"run_id": "abc"})


def test_the_document_can_be_written_as_json_and_names_every_stage(run: dict[str, Any]) -> None:
    assert json.loads(json.dumps(run)) == run
    assert [stage["cached"] for stage in run["stages"]] == [False, True]
    assert run["report"]["metrics"]["fd_openmoji-judge_32_370"] == 0.4
    assert [Path(path).name for path in run["report"]["pictures"]] == ["samples.png"]
    assert Path(run["report"]["html"]).is_file()
    assert run["mlflow"] == {"run_id": "abc"}


def test_the_end_shows_times_figures_verdicts_and_paths(
    run: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(console, "_console", None)
    closing.show(run, seconds=61.25)
    closing.show_where_to_look()
    captured = capsys.readouterr()
    shown = captured.err
    assert captured.out == ""
    for expected in ("1,100 / 1,200", "cached", "61.2", "blurred", "0.4", "not shown", "make ui"):
        assert expected in shown
    assert run["report"]["html"] in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "[bold]a[/bold]" in shown  # shown as it is, not obeyed


def test_a_single_stage_shows_where_its_artifact_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_console", None)
    with RunContext.open(str(tmp_path / "store")) as context:
        spec = StageSpec("ingest", kind="shard-set", module="gigagan_core.text")
        materialise(spec, NoSettings(), {}, context, lambda work: Outcome(summary={"kept_share": 0.9}))
        closing.show(closing.document(context.history))
    shown = capsys.readouterr().err
    assert "kept_share" in shown
    assert str(tmp_path / "store" / "ingest") in shown


def test_a_single_stage_shows_why_rows_left_the_most_frequent_reason_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_console", None)
    counts = {"in": 1240, "out": 1, "rejected": {"http_404": 5, "no_caption": 1234}}
    with RunContext.open(str(tmp_path / "store")) as context:
        spec = StageSpec("ingest", kind="shard-set", module="gigagan_core.text")
        materialise(spec, NoSettings(), {}, context, lambda work: Outcome(counts=counts))
        closing.show(closing.document(context.history))
    shown = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert shown.index(["no_caption", "1,234"]) < shown.index(["http_404", "5"])


def test_the_pages_of_a_server_are_named_by_its_address(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_console", None)
    closing.show_where_to_look()
    assert "make ui  (MLflow's pages" in capsys.readouterr().err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@mlflow.example:5000")
    closing.show_where_to_look(in_prefect=True)
    said = capsys.readouterr().err
    assert "http://mlflow.example:5000" in said
    assert "secret" not in said
    assert "make ui" not in said
