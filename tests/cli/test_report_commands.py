"""`gigagan report compare`, `report gate`, `latency` and `tradeoff` as a person gives them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

FD = "fd_judge_32_370"


def report(folder: Path, fd: float, *cautions: str) -> str:
    interval = {"low": fd - 0.02, "high": fd + 0.02, "level": 0.95, "method": "made up"}
    folder.mkdir()
    document = {
        "schema": "gigagan-report",
        "schema_version": 2,
        "encoders": {"judge": {"name": "judge", "sha256": "ab" * 32}},
        "settings": {"seed": 0, "psi": fd},
        "lineage": [],
        "figures": {FD: {"value": fd, "interval": interval, "better": "lower", "extractor": "judge"}},
        "cautions": list(cautions),
    }
    (folder / "report.json").write_text(json.dumps(document))
    return str(folder)


def test_two_reports_are_compared_on_screen_and_as_a_document(
    inside: Any, gigagan: Any, tmp_path: Path
) -> None:
    one, two = report(tmp_path / "one", 0.3), report(tmp_path / "two", 0.1)
    done = inside("report", "compare", one, two)
    assert done.exit_code == 0
    assert "0.3 (0.28 to 0.32)" in done.stdout
    assert "-0.2" in done.stdout
    assert "evaluate: psi" in done.stdout
    document = json.loads(gigagan("report", "compare", one, f"{two}/report.json", "--json").stdout)
    assert document["figures"][0]["better"] == "second"
    assert document["figures"][0]["overlap"] is False


def test_reports_in_folders_of_one_name_have_headings_of_their_own(
    inside: Any, gigagan: Any, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = report(tmp_path / "a" / "output", 0.3), report(tmp_path / "b" / "output", 0.1)
    heading, line, *_ = inside("report", "compare", one, two).stdout.splitlines()
    assert heading.split()[:3] == ["figure", "a/output", "b/output"]
    assert line.split()[-1] == "b/output"
    document = json.loads(gigagan("report", "compare", one, two, "--json").stdout)
    assert (document["first"], document["second"]) == ("a/output", "b/output")


def test_the_gate_opens_and_stays_shut_by_its_exit_code(inside: Any, gigagan: Any, tmp_path: Path) -> None:
    place = report(tmp_path / "one", 0.1)
    assert inside("report", "gate", place, "--require", "fd<0.11").exit_code == 0
    assert inside("report", "gate", place, "--require", "fd<0.11", "--strict").exit_code == 1
    done = gigagan("report", "gate", place, "--require", "fd<0.2", "--require", "fd<0.05", "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["passed"] is False
    assert [each["holds"] for each in document["requirements"]] == [True, False]
    assert f"{FD} is 0.1, not as fd<0.05 requires" in done.stderr
    assert inside("report", "gate", place).exit_code == 2


def test_the_gate_says_what_the_report_cautions_and_stays_shut_for_a_rehearsal(
    inside: Any, gigagan: Any, tmp_path: Path
) -> None:
    few = report(tmp_path / "few", 0.1, "No training images were given.")
    done = inside("report", "gate", few, "--require", "fd<0.2")
    assert done.exit_code == 0
    assert "warning: No training images were given." in done.stderr
    rehearsal = "20 images where protocol x has 30,000: do not quote these figures as its"
    place = report(tmp_path / "rehearsal", 0.1, rehearsal)
    done = gigagan("report", "gate", place, "--require", "fd<0.2", "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert document["passed"] is False
    assert document["cautions"] == [rehearsal]
    assert rehearsal in document["refusals"][0]
    assert f"the gate stays shut: its report cautions: {rehearsal}" in done.stderr
    done = inside("report", "gate", place, "--require", "fd<0.2", "--despite-cautions")
    assert done.exit_code == 0
    assert rehearsal in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("report", "compare", "latest", "latest"), "has no report"),
        (("report", "gate", "latest", "--require", "fd<1"), "has no report"),
        (("latency",), "has no base model"),
        (("tradeoff", "--psi", "1,0.5"), "has no base model"),
        (("tradeoff", "--psi", "1,high"), "--set"),
        (("tradeoff", "--psi", "2"), "less than or equal to 1"),
    ],
)
def test_what_is_missing_or_misspelt_is_one_sentence(
    inside: Any, arguments: tuple[str, ...], sentence: str
) -> None:
    done = inside(*arguments)
    assert done.exit_code == 1
    assert sentence in done.stderr
    assert len([line for line in done.stderr.splitlines() if "error" in line]) == 1
