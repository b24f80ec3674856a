"""Reports beside each other, and the gate: what may be compared, and what lets a model through."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import gate
from gigagan_core.evaluation.comparison import compare
from gigagan_core.evaluation.gathering import PAIRED, PATCH_FD
from gigagan_core.evaluation.report_file import StoredReport, labels, read_report
from gigagan_core.evaluation.set_metrics import MEASURES

FD = "fd_openmoji-judge_32_370"
SCORE = "clip-score_openmoji-judge_32_370"


def figure(value: float, low: float | None = None, high: float | None = None, **more: Any) -> dict[str, Any]:
    interval = None if low is None else {"low": low, "high": high, "level": 0.95, "method": "made up"}
    return {
        "value": value, "interval": interval, "better": "lower", "extractor": "openmoji-judge", **more
    }  # fmt: skip


@pytest.fixture
def stored(tmp_path):
    """(figures by name, judge's sha256, ...) -> the report read back from its file."""
    made = []

    def make(
        figures: dict[str, Any],
        sha256: str = "ab" * 32,
        data: str = "d1",
        cautions: Sequence[str] = (),
        **settings: Any,
    ) -> StoredReport:
        folder = tmp_path / f"report{len(made)}"
        made.append(folder)
        folder.mkdir()
        document = {
            "schema": "gigagan-report",
            "schema_version": 2,
            "encoders": {"judge": {"name": "openmoji_judge", "sha256": sha256}},
            "settings": {"seed": 0, **settings},
            "lineage": [
                {
                    "role": "model",
                    "fingerprint": folder.name,
                    "output_digest": "m",
                    "settings": {"lr": len(made)},
                },
                {"role": "data", "fingerprint": data, "output_digest": data, "settings": {}},
            ],
            "figures": figures,
            "cautions": list(cautions),
        }
        (folder / "report.json").write_text(json.dumps(document))
        return read_report(folder)

    return make


def test_figures_of_one_name_are_compared_and_overlap_is_said(stored):
    one = stored({FD: figure(0.20, 0.18, 0.22), SCORE: figure(0.30, 0.25, 0.35, better="higher")})
    two = stored({FD: figure(0.10, 0.08, 0.12), SCORE: figure(0.32, 0.27, 0.37, better="higher")})
    found = {each.name: each for each in compare(one, two).figures}
    assert found[FD].difference == pytest.approx(-0.1)
    assert (found[FD].overlap, found[FD].better) == (False, "second")
    assert (found[SCORE].overlap, found[SCORE].better) == (True, "undecided")
    turned = {each.name: each for each in compare(two, one).figures}
    assert turned[FD].better == "first"


@pytest.mark.parametrize(
    ("second", "low", "high", "better", "known"),
    [
        (0.20, 0.18, 0.22, "lower", "equal"),
        (0.40, 0.35, 0.45, "lower", "first"),
        (0.40, 0.35, 0.45, "higher", "second"),
        (0.25, 0.22, 0.30, "lower", "undecided"),
        (0.40, None, None, "lower", "undecided"),
        (float("nan"), float("nan"), float("nan"), "higher", "undecided"),
        (float("inf"), 0.30, float("inf"), "lower", "undecided"),
        (0.40, 0.35, float("nan"), "higher", "undecided"),
        (0.20, float("nan"), 0.25, "lower", "undecided"),
    ],
)
def test_who_is_better_follows_the_intervals(stored, second, low, high, better, known):
    one = stored({FD: figure(0.20, 0.18, 0.22, better=better)})
    two = stored({FD: figure(second, low, high, better=better)})
    assert compare(one, two).figures[0].better == known


def test_another_resolution_count_or_extractor_is_refused_in_a_sentence(stored):
    one = stored({FD: figure(0.2), "baseline/blurred/" + FD: figure(0.3), "psnr_128_370": figure(30.0)})
    two = stored(
        {
            "fd_openmoji-judge_64_500": figure(0.1),
            "fd-infinity_openmoji-judge_32_370": figure(0.1),
            "psnr_128_370": figure(31.0, extractor=None),
        }
    )
    found = compare(one, two)
    assert [each.name for each in found.figures] == []  # psnr: the one claims an extractor, the other none
    assert (
        f"{FD} and fd_openmoji-judge_64_500 differ in resolution (32 and 64) and count (370 and 500)"
        in (found.refused[1])
    )
    assert found.only_first == ["baseline/blurred/" + FD]
    assert found.only_second == ["fd-infinity_openmoji-judge_32_370"]


def test_one_name_with_other_weights_is_refused(stored):
    one, two = stored({FD: figure(0.2), "psnr_128_370": figure(30.0, extractor=None)}), None
    two = stored({FD: figure(0.1), "psnr_128_370": figure(31.0, extractor=None)}, sha256="cd" * 32)
    found = compare(one, two)
    assert [each.name for each in found.figures] == ["psnr_128_370"]
    assert (
        "other weights of the extractor openmoji-judge (sha256 abababababab and cdcdcdcdcdcd)"
        in found.refused[0]
    )


def test_one_name_with_another_count_of_real_images_is_refused(stored):
    counts = [{"images": {"real": real, "fake": 370}} for real in (40504, 100, 40504)]
    one, two, same = (
        stored({FD: figure(0.2, **count), SCORE: figure(0.3, images={"real": 0, "fake": 370})})
        for count in counts
    )
    found = compare(one, two)
    assert [each.name for each in found.figures] == [SCORE]
    assert f"1 figures ({FD}, ...) have the same name and other counts" in found.refused[0]
    assert "real images (40504 and 100): not compared" in found.refused[0]
    assert compare(one, same).refused == []
    assert "(unknown and 100)" in compare(stored({FD: figure(0.2)}), two).refused[0]


def test_a_protocols_report_names_its_networks_elsewhere(tmp_path):
    def made(folder: str, sha256: str) -> StoredReport:
        (tmp_path / folder).mkdir()
        document = {
            "schema": "gigagan-report",
            "schema_version": 2,
            "settings": {},
            "lineage": [],
            "how": {"extractors": [{"name": "inception", "sha256": sha256}]},
            "figures": {"fd_inception_256_30k": figure(9.0, 8.9, 9.1, extractor="inception")},
        }
        (tmp_path / folder / "report.json").write_text(json.dumps(document))
        return read_report(tmp_path / folder)

    one, same, other = made("one", "a" * 64), made("same", "a" * 64), made("other", "b" * 64)
    assert compare(one, same).figures[0].better == "equal"
    assert compare(one, other).figures == []
    assert "other weights of the extractor inception" in compare(one, other).refused[0]


@pytest.mark.parametrize(
    ("first", "second", "called"),
    [
        ("/r/experiment-1-a/report.json", "/r/experiment-1-b/report.json", ("experiment-1-a", "experiment-1-b")),
        ("/r/a/output/report.json", "/r/b/output/report.json", ("a/output", "b/output")),
        ("/r/output/report.json", "/r/output/old.json", ("output", "old.json")),
        (f"/s/{'a' * 64}/report.json", f"/s/{'a' * 64}.2/report.json", ("a" * 12, f"{'a' * 12}.2")),
        (f"/s/{'a' * 63}b/report.json", f"/s/{'a' * 64}/report.json", ("first", "second")),
        ("/r/output/report.json", "/r/output/report.json", ("first", "second")),
    ],
)  # fmt: skip
def test_two_reports_are_called_by_what_tells_their_places_apart(first, second, called):
    assert labels(StoredReport(first, {}, (), {}), StoredReport(second, {}, (), {})) == called


def test_settings_that_differ_and_other_images_are_said(stored):
    found = compare(stored({FD: figure(0.2)}, psi=1.0), stored({FD: figure(0.2)}, psi=0.7, data="d2", seed=1))
    differing = {each.name: (each.first, each.second) for each in found.settings}
    assert differing["evaluate: psi"] == (1.0, 0.7)
    assert differing["model: lr"] == (1, 2)
    assert differing["data"] == ("d1", "d2")
    assert "The held-out images are not the same" in found.cautions[0]
    assert "seeds differ" in found.cautions[1]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no report.json there"),
        ("{", "unreadable"),
        ('{"schema": "other"}', "is no gigagan-report"),
        ('{"schema": "gigagan-report", "schema_version": 1}', "schema version 1 and this code reads 2"),
        ('{"schema": "gigagan-report", "schema_version": 2, "figures": {}}', "damaged figures"),
        (
            '{"schema": "gigagan-report", "schema_version": 2, "encoders": {"judge": {}}, "figures": {"x": '
            '{"interval": null, "value": 1, "better": "lower", "extractor": null}}}',
            "damaged figures",
        ),
        *(
            (
                f'{{"schema": "gigagan-report", "schema_version": 2, "figures": {{}}, {rest}}}',
                "settings are no object, or lineage is no list of roles",
            )
            for rest in (
                '"settings": null, "lineage": []',
                '"settings": [1], "lineage": []',
                '"settings": {}, "lineage": [{}]',
                '"settings": {}, "lineage": ["role"]',
                '"settings": {}, "lineage": {"role": 1}',
                '"settings": {}, "lineage": [{"role": null}]',
                '"settings": {}, "lineage": [{"role": "data", "settings": null}]',
            )
        ),
        *(
            (
                f'{{"schema": "gigagan-report", "schema_version": 2, "figures": {{}}, "settings": {{}}, '
                f'"lineage": [], "cautions": {cautions}}}',
                "cautions are no list of sentences",
            )
            for cautions in ("null", '"few images"', "[1]")
        ),
        (
            '{"schema": "gigagan-report", "schema_version": 2, "figures": {}, "settings": {}, "lineage": null}',
            "damaged figures",
        ),
    ],
)
def test_what_is_no_report_is_a_sentence(tmp_path: Path, content, sentence):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(GigaganError, match=sentence):
        read_report(tmp_path)


# ---- the gate --------------------------------------------------------------------------------------


@pytest.fixture
def judged(stored) -> StoredReport:
    return stored(
        {
            FD: figure(0.20, 0.15, 0.25),
            "fd-infinity_openmoji-judge_32_370": figure(0.1),
            "baseline/blurred/" + FD: figure(0.5),
            SCORE: figure(0.30, 0.25, 0.35, better="higher"),
            "clip-score-difference_openmoji-judge_32_370": figure(0.1, 0.05, 0.15, better="higher"),
            "broken_openmoji-judge_32_370": figure(float("nan")),
            "runaway_openmoji-judge_32_370": figure(float("inf"), 1.0, float("inf"), better="higher"),
            "lost_openmoji-judge_32_370": figure(float("-inf"), float("-inf"), 1.0),
            "wide_openmoji-judge_32_370": figure(0.2, 0.1, float("inf")),
        }
    )


@pytest.mark.parametrize(
    ("requirement", "strict", "holds"),
    [
        ("fd<0.21", False, True),
        ("fd<0.20", False, False),
        ("fd<=0.20", False, True),
        ("fd < 0.21", True, False),
        ("fd<0.26", True, True),
        ("clip-score>=0.30", False, True),
        ("clip-score>0.30", False, False),
        ("clip-score>=0.30", True, False),
        ("clip-score>=0.25", True, True),
        (f"{FD}<1", False, True),
        ("fd-inf<0.2", False, True),
        ("fd-infinity<0.2", True, False),
        ("broken<1", False, False),
        ("broken>0", False, False),
        ("runaway>0.25", False, False),
        ("runaway>0.25", True, False),
        ("lost<1", False, False),
        ("wide<1", False, True),
        ("wide<1", True, False),
        ("wide>0", True, True),
    ],
)
def test_a_requirement_holds_or_not(judged, requirement, strict, holds):
    (verdict,) = gate.judge(judged, [requirement], strict)
    assert verdict.holds is holds
    assert ("not as" not in verdict.sentence and "without an interval" not in verdict.sentence) is holds


def test_a_number_that_is_not_finite_is_said_to_be_none(judged):
    (infinite, ends, broken) = gate.judge(judged, ["runaway>0.25", "lost<1", "broken<1"])
    assert infinite.sentence == (
        "runaway_openmoji-judge_32_370 is inf, no finite number, not as runaway>0.25 requires"
    )
    assert "is -inf, no finite number, not as lost<1 requires" in ends.sentence
    assert "is nan, no finite number, not as broken<1 requires" in broken.sentence
    (strictly,) = gate.judge(judged, ["wide<1"], strict=True)
    assert "(the worse end of its interval is inf), no finite number, not as wide<1" in strictly.sentence


def test_a_failed_gate_says_each_failure_with_what_was_measured(judged):
    with pytest.raises(GigaganError) as caught:
        gate.require(judged, ["fd<0.1", "clip-score>0.1", "clip-score>0.9"], strict=True)
    text = str(caught.value)
    assert "is 0.2 (the worse end of its interval is 0.25), not as fd<0.1 requires" in text
    assert "(the worse end of its interval is 0.25), not as clip-score>0.9 requires" in text
    assert "clip-score>0.1" not in text
    assert len(gate.require(judged, ["fd<0.3"])) == 1


@pytest.mark.parametrize(
    ("requirement", "sentence"),
    [
        ("fd", "write FIGURE"),
        ("fd=0.2", "write FIGURE"),
        ("fd<good", "write FIGURE"),
        ("fd<nan", "write FIGURE"),
        ("fid<9", "did you mean 'fd'"),
        ("clip<1", "may be clip-score_"),
    ],
)
def test_a_requirement_that_cannot_be_judged_is_a_sentence(judged, requirement, sentence):
    with pytest.raises(GigaganError, match=sentence):
        gate.judge(judged, [requirement])


@pytest.mark.parametrize(
    ("requirement", "other"),
    [
        ("fd<0.2", "fd-infinity"),
        ("fid<0.2", "fid-infinity"),
        ("clip-score<0.2", "clip-score-difference"),
        ("baseline/blurred/fd<0.2", "baseline/blurred/fd-infinity"),
    ],
)
def test_a_measure_is_never_taken_for_another_whose_name_it_begins(stored, requirement, other):
    report = stored({f"{other}_openmoji-judge_32_370": figure(0.1)})
    with pytest.raises(GigaganError, match=f"has no figure {requirement.split('<')[0]!r}"):
        gate.judge(report, [requirement])
    assert gate.judge(report, [f"{other}<0.2"])[0].holds


def test_a_measure_is_found_though_its_name_says_more(stored):
    named = {
        "patch256-fid_inception_1024_40k": figure(7.0, metric="patch-fd"),
        "baseline/bicubic/patch256-fid_inception_1024_40k": figure(9.0, metric="patch-fd"),
        "fid_inception_256_10k": figure(8.0, metric="fd"),
    }
    report = stored(named)
    assert gate.judge(report, ["patch-fd<8"])[0].name == "patch256-fid_inception_1024_40k"
    assert gate.judge(report, ["fd<9"])[0].name == "fid_inception_256_10k"
    both = stored(
        {**named, FD: figure(0.2, metric="fd"), "patch64-fd_a_64_9": figure(1.0, metric="patch-fd")}
    )
    assert gate.judge(both, ["fd<9"])[0].name == FD, "what is called so goes first"
    with pytest.raises(GigaganError, match="'patch-fd' may be patch256-fid_inception_1024_40k, patch64-fd_a"):
        gate.judge(both, ["patch-fd<8"])


def test_every_measure_that_begins_anothers_name_is_known():
    names = {*MEASURES, "fid", "fid-infinity", "clip-score-difference", *PAIRED, PATCH_FD}
    beginnings = {one for one in names for other in names if other.startswith(f"{one}-")}
    assert beginnings == set(gate.WHOLE)


REHEARSAL = "20 images where protocol gigagan-coco-30k has 30,000: do not quote these figures as its"
TRAINED_ON = "The model was trained on the very images it is judged by."


@pytest.mark.parametrize("caution", [REHEARSAL, TRAINED_ON])
def test_a_report_that_says_nothing_of_the_model_passes_no_gate_unless_told_to(stored, caution):
    report = stored({FD: figure(0.2)}, cautions=["No training images were given.", caution])
    (refusal,) = gate.refusals(report)
    assert caution.rstrip(".") in refusal
    with pytest.raises(GigaganError, match=r"the gate stays shut: its report cautions: .*--despite-cautions"):
        gate.require(report, ["fd<0.3"])
    assert gate.require(report, ["fd<0.3"], despite_cautions=True)[0].holds
    with pytest.raises(GigaganError, match=r"not as fd<0.1 requires$"):
        gate.require(report, ["fd<0.1"], despite_cautions=True)


def test_cautions_of_the_report_and_of_the_judged_figures_go_with_the_verdicts(stored):
    few, all_ = "370 images for 512 dimensions", "Distance of Generated: as few images as dimensions."
    report = stored(
        {
            FD: figure(0.2, cautions=["as few images as dimensions"]),
            SCORE: figure(0.3, better="higher", cautions=[few]),
            "kid_openmoji-judge_32_370": figure(0.1, cautions=["not asked for"]),
        },
        cautions=[all_, "a\x1b[31m red\nfile"],
    )
    said = gate.cautions(report, gate.judge(report, ["fd<1", "clip-score>0", "clip-score>0.1"]))
    assert said == [all_, "a red file", f"{SCORE}: {few}"]
    assert gate.refusals(report) == []


def test_a_gate_without_a_requirement_is_none(judged):
    from gigagan_core.stages.gate import checked, promote_judged

    with pytest.raises(GigaganError, match="lets everything through"):
        gate.judge(judged, [])
    with pytest.raises(GigaganError, match="needs at least one requirement"):
        checked(None, "gigagan-base")
    with pytest.raises(ValueError, match="has passed"):
        promote_judged(judged, "gigagan-base", gate.judge(judged, ["fd<0.1"]))
