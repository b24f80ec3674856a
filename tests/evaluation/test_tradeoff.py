"""The truncation sweep: its figures, its front, and that a killed one continues."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict

import pytest
import torch

from gigagan_core.config.tradeoff import TradeoffSettings
from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import tradeoff as figures
from gigagan_core.evaluation.bootstrap import Interval
from gigagan_core.evaluation.tradeoff import Point
from gigagan_core.evaluation.tradeoff_page import render
from gigagan_core.inference.generate import generate
from gigagan_core.stages import tradeoff
from gigagan_core.stages.base import RunContext
from gigagan_core.tracking.null import NullRun, NullTracker
from gigagan_core.training.checkpoint import load_bundle

SETTINGS = TradeoffSettings(image_size=8, psi=(1.0, 0.5), prompt_psi=(0.5, 0.0), bootstrap_resamples=100)


class SeriesTracker(NullTracker):
    """Records in memory: metrics with their steps, files by name."""

    def __init__(self) -> None:
        self.run = Series()

    def stage_run(self, *_, **__):
        return contextlib.nullcontext(self.run)


class Series(NullRun):
    def __init__(self) -> None:
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.files: list[str] = []

    def log_metrics(self, metrics, step: int = 0) -> None:
        self.logged.append((step, dict(metrics)))

    def log_artifact(self, path, folder=None) -> None:
        self.files.append(path.name)


def point(psi: float, prompt_psi: float, fd: float, clip: float) -> Point:
    interval = Interval(0.0, 1.0, 0.95, "made up")
    return Point(psi, prompt_psi, fd, interval, clip, interval)


def test_every_point_is_judged_once():
    settings = TradeoffSettings(psi=(0.5, 1.0, 0.5), prompt_psi=(1.0, 0.7), both=True)
    assert settings.points() == [(1.0, 1.0), (0.5, 1.0), (1.0, 0.7), (0.5, 0.7)]
    assert TradeoffSettings(psi=(), prompt_psi=()).points() == []


def test_truncations_that_differ_in_the_last_digit_are_two_points(tmp_path):
    settings, judged = TradeoffSettings(psi=(1.0, 0.9999999, 0.5), prompt_psi=()), []

    def judge(psi, prompt_psi):
        judged.append(psi)
        return point(psi, prompt_psi, psi, psi)

    for _ in range(2):
        found = figures.sweep(settings, tmp_path, judge)
        assert [each.psi for each in found] == judged == [1.0, 0.9999999, 0.5]
    assert [each.key for each in found] == ["psi-1-prompt-1", "psi-0.9999999-prompt-1", "psi-0.5-prompt-1"]


def test_the_front_holds_what_nothing_beats():
    points = [
        point(1, 1, 0.1, 0.2),
        point(0.9, 1, 0.2, 0.3),
        point(0.8, 1, 0.3, 0.25),
        point(1, 0.9, 0.2, 0.3),
    ]
    assert [each.on_front for each in figures.with_front(points)] == [True, True, False, True]


def test_curves_begin_without_truncation():
    points = [point(psi, 1, 0, 0) for psi in (0.5, 1.0, 0.8)] + [point(1, 0.7, 0, 0), point(0.5, 0.5, 0, 0)]
    places = {
        name: [(each.psi, each.prompt_psi) for each in curve]
        for name, curve in figures.curves(points).items()
    }
    assert places == {
        "global mean": [(1, 1), (0.8, 1), (0.5, 1)],
        "prompt mean": [(1, 1), (1, 0.7)],
        "both": [(0.5, 0.5)],
    }
    assert list(figures.curves([point(1, 1, 0, 0)])) == ["global mean"]


def test_a_sweep_is_committed_logged_and_its_points_are_the_models(inputs, tmp_path):
    tracker = SeriesTracker()
    with RunContext.open(str(tmp_path / "store"), tracker) as context:
        made = tradeoff.run(SETTINGS, inputs, context)
        again = tradeoff.run(SETTINGS, inputs, context)
    assert again.fingerprint == made.fingerprint
    assert [line.cached for line in context.history] == [False, True]
    document = json.loads((made.path / "tradeoff.json").read_text())
    assert document["figures"] == {"fd": "fd_openmoji-judge_8_18", "clip": "clip-score_openmoji-judge_8_18"}
    places = [(each["psi"], each["prompt_psi"]) for each in document["points"]]
    assert places == [(1.0, 1.0), (0.5, 1.0), (1.0, 0.5), (1.0, 0.0)]
    # every truncation changes the images
    assert len({each["fd"] for each in document["points"]}) == 4
    towards_prompt = {
        step: values["tradeoff/prompt-mean/fd_openmoji-judge_8_18"]
        for step, values in tracker.run.logged
        if "tradeoff/prompt-mean/fd_openmoji-judge_8_18" in values
    }
    assert towards_prompt == {
        0: document["points"][0]["fd"], 50: document["points"][2]["fd"], 100: document["points"][3]["fd"]
    }  # fmt: skip
    assert tracker.run.files == ["tradeoff.html", "tradeoff.json"]
    assert all(
        each["fd_interval"]["low"] <= each["fd"] <= each["fd_interval"]["high"] for each in document["points"]
    )
    best = min(document["points"], key=lambda each: each["fd"])
    assert made.summary["best/fd_openmoji-judge_8_18"] == best["fd"]
    assert (made.summary["best-fd/psi"], made.summary["best-fd/prompt-psi"]) == (
        best["psi"],
        best["prompt_psi"],
    )
    page = (made.path / "tradeoff.html").read_text()
    assert page.count("<circle") == 5  # the untruncated begins both curves
    assert "http:" not in page
    assert "https:" not in page
    assert "<script" not in page


def test_without_truncation_the_sweep_says_what_the_evaluation_says(inputs, tmp_path):
    from gigagan_core.config.evaluate import EvaluateSettings
    from gigagan_core.stages import evaluate

    few = {name: inputs[name] for name in ("model", "data", "condition", "judge")}
    with RunContext.open(str(tmp_path / "store")) as context:
        swept = tradeoff.run(SETTINGS, few, context)
        judged = evaluate.run(EvaluateSettings(image_size=8, bootstrap_resamples=100), few, context)
    first = json.loads((swept.path / "tradeoff.json").read_text())["points"][0]
    assert first["fd"] == judged.summary["fd_openmoji-judge_8_18"]
    assert first["clip"] == judged.summary["clip-score_openmoji-judge_8_18"]


def test_features_at_their_own_length_have_another_name(inputs, tmp_path):
    few = {name: inputs[name] for name in ("model", "data", "condition", "judge")}
    settings = SETTINGS.model_copy(update={"normalise_features": False})
    with RunContext.open(str(tmp_path / "store")) as context:
        swept = tradeoff.run(settings, few, context)
    names = json.loads((swept.path / "tradeoff.json").read_text())["figures"]
    assert names == {"fd": "fd_openmoji-judge-raw_8_18", "clip": "clip-score_openmoji-judge_8_18"}


def test_a_report_shows_the_sweep_of_its_model(inputs, tmp_path):
    from gigagan_core.config.evaluate import EvaluateSettings
    from gigagan_core.stages import evaluate

    few = {name: inputs[name] for name in ("model", "data", "condition", "judge")}
    settings = EvaluateSettings(image_size=8, bootstrap_resamples=100)
    with RunContext.open(str(tmp_path / "store")) as context:
        swept = tradeoff.run(SETTINGS, few, context)
        bare = evaluate.run(settings, few, context)
        shown = evaluate.run(settings, {**few, "tradeoff": swept}, context)
        other = {**few, "model": inputs["control"]}
        with pytest.raises(GigaganError, match=r"trade-off \w+ is of another model"):
            evaluate.run(settings, {**other, "tradeoff": swept}, context)
    document = json.loads((swept.path / "tradeoff.json").read_text())
    stored = json.loads((shown.path / "report.json").read_text())
    assert stored["tradeoff"]["points"] == document["points"]
    assert stored["metrics"] == json.loads((bare.path / "report.json").read_text())["metrics"]
    pages = [(each.path / "report.html").read_text() for each in (bare, shown)]
    assert [page.count("<circle") for page in pages] == [0, 5]
    assert "Pareto front" in pages[1]
    sweep = figures.read(swept.path / "tradeoff.json")
    assert [asdict(each) | {"curve": each.curve} for each in sweep.points] == document["points"]
    assert render(sweep) == (swept.path / "tradeoff.html").read_text()


def test_another_file_is_no_tradeoff(tmp_path):
    for text in ("nothing", '{"schema": "gigagan-report"}', '{"schema": "gigagan-tradeoff", "points": [{}]}'):
        (tmp_path / "tradeoff.json").write_text(text)
        with pytest.raises(GigaganError, match="no trade-off"):
            figures.read(tmp_path / "tradeoff.json")


def test_a_killed_sweep_continues_with_the_next_point(inputs, tmp_path, monkeypatch):
    calls = []

    def counted(*arguments, **options):
        calls.append((options["psi"], options["prompt_psi"]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return generate(*arguments, **options)

    monkeypatch.setattr("gigagan_core.inference.generate.generate", counted)
    with RunContext.open(str(tmp_path / "store")) as context:
        with pytest.raises(KeyboardInterrupt):
            tradeoff.run(SETTINGS, inputs, context)
        made = tradeoff.run(SETTINGS, inputs, context)
    assert calls == [(1.0, 1.0), (0.5, 1.0), (1.0, 0.5), (1.0, 0.5), (1.0, 0.0)]
    with RunContext.open(str(tmp_path / "other")) as context:
        whole = tradeoff.run(SETTINGS, inputs, context)
    assert (made.path / "tradeoff.json").read_text() == (whole.path / "tradeoff.json").read_text()


def test_truncation_towards_the_prompt_gives_one_image_a_prompt_and_not_one_for_all(inputs):
    encoder = load_encoder(inputs["condition"].uri)
    images = {
        seed: generate(inputs["model"].path, ["a", "b"], encoder, seed=seed, prompt_psi=0.0)
        for seed in (0, 1)
    }
    network, _ = load_bundle(inputs["model"].path)
    means = network.prompt_mean(network.encode(encoder.text_tokens(encoder.tokenize(["a", "b"]))))
    assert not torch.equal(means[0], means[1])
    assert not torch.equal(images[0][0], images[0][1])
    plain = generate(inputs["model"].path, ["a", "b"], encoder, seed=0)
    assert not torch.equal(images[0], plain)
    assert torch.equal(generate(inputs["model"].path, ["a", "b"], encoder, seed=0, prompt_psi=1.0), plain)


def test_what_cannot_be_swept_is_a_sentence(inputs, tmp_path):
    with RunContext.open(str(tmp_path / "store")) as context:
        with pytest.raises(GigaganError, match="no point to judge"):
            tradeoff.run(TradeoffSettings(psi=(), prompt_psi=()), inputs, context)
        with pytest.raises(GigaganError, match="needs judge"):
            tradeoff.run(SETTINGS, {**inputs, "judge": None}, context)
        with pytest.raises(GigaganError, match="set image_size=8"):
            tradeoff.run(SETTINGS.model_copy(update={"image_size": 16}), inputs, context)
        with pytest.raises(GigaganError, match="role judge is needed"):
            tradeoff.run(SETTINGS, {**inputs, "judge": inputs["condition"]}, context)
    (tmp_path / "psi-1-prompt-1.json").write_text('{"psi": 1}')
    with pytest.raises(GigaganError, match="no point of a sweep"):
        figures.sweep(SETTINGS, tmp_path, lambda psi, prompt_psi: point(psi, prompt_psi, 0, 0))


def test_the_page_escapes_what_it_is_given():
    page = render(figures.Sweep([point(1, 1, 0.1, 0.2)], {"fd": "<b>fd</b>", "clip": "clip & score"}))
    assert "<b>" not in page
    assert "clip &amp; score" in page
