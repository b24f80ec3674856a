"""The whole pipeline at the smallest size, on the loopback site with its faults; then once more, from the store.

One run for all checks: it starts Prefect, Ray, a Ray Train worker and MLflow for real.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

STAGES = [
    "ingest train",
    "ingest heldout",
    "train-encoder (condition)",
    "train-encoder (judge)",
    "curate (embeddings)",
    "curate (scores)",
    "curate",
    "train-base",
    "train-upsampler",
    "train-upsampler-l1",
    "evaluate",
]


def gigagan(home: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    environment = {**os.environ, "GIGAGAN_HOME": str(home), "PREFECT_HOME": str(home / "prefect")}
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", "from gigagan_core.cli import main; main()", *arguments],
        env=environment,
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=540,
    )
    return done, time.monotonic() - started


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pipeline") / "home"


@pytest.fixture(scope="module")
def first(home: Path) -> dict:
    done, _ = gigagan(home, "pipeline", "--preset", "tiny", "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


@pytest.mark.timeout(600)
def test_every_stage_runs_and_every_row_is_accounted_for(first: dict) -> None:
    assert [stage["label"] for stage in first["stages"]] == STAGES
    assert not any(stage["cached"] for stage in first["stages"])
    counted = [stage for stage in first["stages"] if "in" in stage["counts"]]
    assert {"ingest train", "ingest heldout", "curate", "evaluate"} <= {stage["label"] for stage in counted}
    for stage in counted:
        counts = stage["counts"]
        assert counts["in"] == counts["out"] + sum(counts["rejected"].values()), stage["label"]
    ingest = first["stages"][0]["counts"]
    assert ingest["rejected"].get("http_404", 0) > 0


def test_the_report_names_its_encoder_and_is_whole(first: dict) -> None:
    report = first["report"]
    count = first["stages"][1]["counts"]["out"]
    assert f"fd_openmoji-judge_16_{count}" in report["metrics"]
    assert report["protocol"] == "openmoji-heldout"
    assert not [name for name in report["metrics"] if "fid" in name.lower()]
    assert {claim["status"] for claim in report["claims"]} <= {"shown", "not shown", "not measured"}
    page = Path(report["html"]).read_text()
    assert "CC BY-SA 4.0" in page
    assert 'src="http' not in page
    assert all(Path(picture).stat().st_size > 1000 for picture in report["pictures"])


def test_mlflow_has_a_parent_and_a_finished_child_for_each_stage(first: dict, home: Path) -> None:
    with sqlite3.connect(home / "mlflow.db") as database:
        runs = dict(database.execute("select run_uuid, status from runs"))
        parents = dict(database.execute("select run_uuid, value from tags where key = 'mlflow.parentRunId'"))
        prefect = database.execute("select value from tags where key = 'prefect.flow_run_id'").fetchall()
        steps = database.execute("select max(step) from metrics where key like '%loss%'").fetchone()[0]
    assert set(runs.values()) == {"FINISHED"}
    assert len(parents) == len(STAGES)
    assert set(parents.values()) == {first["mlflow"]["run_id"]}
    assert prefect
    assert steps >= 64


def test_a_second_run_finds_everything_done(first: dict, home: Path) -> None:
    done, seconds = gigagan(home, "pipeline", "--preset", "tiny", "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    second = json.loads(done.stdout)
    assert all(stage["cached"] for stage in second["stages"])
    assert [s["fingerprint"] for s in second["stages"]] == [s["fingerprint"] for s in first["stages"]]
    assert second["report"]["metrics"] == first["report"]["metrics"]
    # Not a benchmark: a stage that ran again would take minutes.
    assert seconds < 180


def test_one_stage_runs_alone_on_artifacts_that_exist(first: dict, home: Path) -> None:
    keep = "clip_similarity.keep_fraction=0.8"
    data = first["stages"][0]["fingerprint"]
    done, _ = gigagan(home, "curate", "--data", data[:12], "--preset", "tiny", "--set", keep, "--json")
    assert done.returncode == 0, done.stderr[-4000:]
    *scored, curated = json.loads(done.stdout)["stages"]
    before = next(stage["counts"] for stage in first["stages"] if stage["label"] == "curate")
    assert [stage["label"] for stage in scored] == ["curate (embeddings)", "curate (scores)"]
    assert all(stage["cached"] for stage in scored)
    assert curated["counts"]["in"] == before["in"]
    assert curated["counts"]["out"] < before["out"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_upsampler_of_that_run_is_trained_again_on_more_data(first: dict, home: Path) -> None:
    more = home / "more"
    done, _ = gigagan(home, "data", "publish", str(more), "--limit", "64")
    assert done.returncode == 0, done.stderr[-4000:]
    again = (
        "run",
        "train-upsampler",
        "--from",
        first["run"],
        "--only",
        "--with",
        str(more / "train"),
        "--json",
    )
    done, _ = gigagan(home, *again)
    assert done.returncode == 0, done.stderr[-4000:]
    second = json.loads(done.stdout)
    stages = {stage["label"]: stage for stage in second["stages"]}
    assert next(iter(stages)) == "ingest upsampler"
    assert list(stages)[-2:] == ["train-upsampler", "train-upsampler-l1"]
    assert not any(stages[name]["cached"] for name in ("ingest upsampler", "train-upsampler"))
    # Of the rows of both, the new table's alone were asked for.
    rows = first["stages"][0]["counts"]["in"]
    ingested = stages["ingest upsampler"]
    assert ingested["counts"]["in"] == rows + ingested["summary"]["fetched_urls"]
    assert ingested["why"] == "not cached: the store has none yet"
    kept = {each["role"]: each["fingerprint"] for each in second["kept"]}
    by_label = {stage["label"]: stage["fingerprint"] for stage in first["stages"]}
    assert (kept["base"], kept["condition"]) == (
        by_label["train-base"],
        by_label["train-encoder (condition)"],
    )
    done, _ = gigagan(home, "store", "runs", "--json")
    known = json.loads(done.stdout)
    assert (known[0]["id"], known[-1]["of"]) == (first["run"], first["run"])
    assert {each["status"] for each in known} == {"finished"}
