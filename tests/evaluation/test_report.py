"""Figures, verdicts and pages: what a reader is told, and what a stranger's caption cannot do to it."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import charts, claims, gate, judging, report, report_page
from gigagan_core.evaluation.bootstrap import Interval, bootstrap_mean
from gigagan_core.evaluation.curves import Curve, read_curves
from gigagan_core.evaluation.names import NEIGHBOURS
from gigagan_core.evaluation.neighbours import Nearest, Repetition
from gigagan_core.evaluation.patches import bicubic, consistency_error, psnr, shrink
from gigagan_core.evaluation.pictures import Row, data_uri, grid, wrapped
from gigagan_core.evaluation.report import Report, Sample
from gigagan_core.evaluation.report_figures import figures
from gigagan_core.evaluation.report_file import read_report
from gigagan_core.evaluation.set_metrics import MeasureOptions
from gigagan_core.evaluation.similarity import ssim

COUNT = 40
SCRIPT = "<script>alert(1)</script> cat"
ANSI = "red \x1b[31mcat\x1b[0m \x1b]0;title\x07and\x00 bell\x07"
SETTINGS = EvaluateSettings(
    image_size=16,
    upsampled_size=32,
    patch_size=8,
    patches_per_image=2,
    bootstrap_resamples=200,
    batch_size=16,
)


@pytest.fixture(scope="module")
def judged(encoder, drawings):
    """Figures of a model that has learned its task well, and of an upsampler better than bicubic."""
    captions = [SCRIPT, ANSI] + [f"drawing {number}" for number in range(COUNT - 2)]
    high = drawings(COUNT, 32, seed=1)
    real = shrink(high, 16)
    encoder.pictures = dict(zip(captions, real, strict=True))
    noise = torch.randint(-20, 21, real.shape, generator=torch.Generator().manual_seed(2))
    generated = (real.int() + noise).clamp(0, 255).to(torch.uint8)
    untrained = torch.randint(
        0, 256, real.shape, generator=torch.Generator().manual_seed(3), dtype=torch.uint8
    )
    training = shrink(drawings(60, 32, seed=4), 16)
    sets = judging.judge_base(encoder, captions, real, generated, untrained, training, SETTINGS)
    better = ((bicubic(real, 32).int() + high.int()) // 2).to(torch.uint8)
    upsamplers = judging.judge_upsamplers(
        encoder, high, shrink(high, 16), {"upsampler": ("upsampler", better)}, SETTINGS
    )
    return captions, real, generated, high, sets, upsamplers


@pytest.fixture(scope="module")
def whole(judged) -> Report:
    captions, real, generated, high, sets, upsamplers = judged
    by_id = {figures.id: figures for figures in sets}
    return Report(
        settings=SETTINGS,
        count=COUNT,
        independent=COUNT,
        judge={"name": "openmoji-judge", "sha256": "ab" * 32},
        condition={"name": "openmoji-condition", "sha256": "cd" * 32},
        sets=sets,
        upsamplers=upsamplers,
        claims=[
            claims.distance_claim(
                by_id["generated"].fd.distance,
                by_id["untrained"].fd.distance,
                by_id["blurred"].fd.distance,
                8,
                by_id["generated"].fd_interval,
            ),
            claims.caption_claim(by_id["generated"].clip),
            claims.retrieval_claim(by_id["generated"].retrieval),
            claims.patch_claim(
                upsamplers[0].patch_fd.distance,
                upsamplers[1].patch_fd.distance,
                None,
                upsamplers[0].over_bicubic,
            ),
            claims.consistency_claim(upsamplers[0].consistency, upsamplers[1].consistency, 0.05),
        ],
        cautions=["a caution"],
        samples=[Sample(captions[i], {"generated": generated[i], "real": real[i]}) for i in range(4)],
        strips=[Sample(captions[i], {"input": real[i], "real": high[i]}) for i in range(2)],
        lineage=[
            {
                "role": "model",
                "stage": "train-base",
                "fingerprint": "0123456789abcdef",
                "made": "2025-01-01 10:00",
                "git_commit": "abc",
                "mlflow_run": "def",
                "settings": {"seed": 0, "note": SCRIPT},
            }
        ],
        attribution=["OpenMoji · CC BY-SA 4.0", SCRIPT],
        record={"machine": {"cores": 2}, "packages": {"torch": "2"}},
    )


class Page(html.parser.HTMLParser):
    """What a browser would make of a page: tags, attributes that load or run something, visible text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href")]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]

    def handle_data(self, data):
        self.text += data


def test_a_good_model_is_shown_to_be_good(whole):
    assert [claim.status for claim in whole.claims] == ["shown"] * 5


def test_a_report_of_other_pictures_does_not_speak_of_drawings(whole):
    own = replace(whole, attribution=["photographs · CC0"], protocol=report.OWN_PROTOCOL)
    assert [report.as_json(each)["protocol"] for each in (whole, own)] == ["openmoji-heldout", "own-heldout"]
    page = report_page.render(own, report.metrics(own)).replace("openmoji-judge", "").lower()
    assert "openmoji" not in page
    assert "drawings" not in page


def test_an_image_set_goes_through_the_encoder_once(encoder, judged):
    _, real, generated, _, _, _ = judged
    told = []
    encoder.seen = 0
    # captions that name no picture: only the images then go through the image encoder
    strangers = [f"unknown {number}" for number in range(COUNT)]
    judging.judge_base(encoder, strangers, real, generated, None, real, SETTINGS, on_batch=told.append)
    assert encoder.seen == sum(told) == judging.images_to_judge(COUNT, False, COUNT, SETTINGS)


def test_baselines_come_out_in_the_order_they_must(judged):
    distance = {figures.id: figures.fd.distance for figures in judged[4] if figures.fd}
    assert distance["training"] < distance["mean-image"] < distance["untrained"]
    assert distance["generated"] < distance["blurred"] < distance["untrained"]


def test_every_figure_has_a_name_with_its_encoder_and_is_finite(whole):
    named = report.metrics(whole)
    assert "fd_openmoji-judge_16_40" in named
    assert "baseline/blurred/fd_openmoji-judge_16_40" in named
    assert "patch8-fd_openmoji-judge_32_80" in named
    assert all(re.fullmatch(r"[A-Za-z0-9_\-./]+", name) for name in named)
    assert not any("fid" in name for name in named)
    assert all(math.isfinite(value) for value in named.values())


def test_every_figure_of_an_upsampler_has_an_interval_over_images(judged, whole):
    _, real, _, high, _, upsamplers = judged
    found = {figure.name: figure for figure in figures(whole)}
    names = ("patch8-fd_openmoji-judge_32_80", "psnr_32_40", "ssim_32_40", "consistency-rmse_32_40")
    for name in (*names, *(f"baseline/bicubic/{name}" for name in names)):
        interval = found[name].interval
        assert interval.low < found[name].value < interval.high, name
        assert interval.level == SETTINGS.confidence
    better = ((bicubic(real, 32).int() + high.int()) // 2).to(torch.uint8)
    draws = {"resamples": SETTINGS.bootstrap_resamples, "seed": SETTINGS.seed}
    assert found["psnr_32_40"].interval == bootstrap_mean(psnr(better, high), **draws)
    assert found["ssim_32_40"].interval == bootstrap_mean(ssim(better, high), **draws)
    squares = bootstrap_mean(consistency_error(better, real), **draws)
    assert found["consistency-rmse_32_40"].interval.high == pytest.approx(squares.high**0.5)
    assert found["consistency-rmse_32_40"].value == pytest.approx(upsamplers[0].consistency)


def test_a_strict_gate_may_ask_for_every_figure_of_an_upsampler(whole, tmp_path):
    stored = read_report(report.write(whole, tmp_path)["json"])
    met = ("patch8-fd<10", "patch-fd<10", "psnr>1", "ssim>0", "consistency-rmse<1")
    assert all(verdict.holds for verdict in gate.judge(stored, met, strict=True))
    value = stored.figures["psnr_32_40"].value
    assert gate.judge(stored, [f"psnr>={value}"])[0].holds
    assert not gate.judge(stored, [f"psnr>={value}"], strict=True)[0].holds


def test_variants_of_one_drawing_widen_the_intervals_of_an_upsampler(encoder, judged):
    _, real, _, high, _, upsamplers = judged
    groups = torch.arange(COUNT) // 8
    grouped = judging.judge_upsamplers(encoder, high, real, {}, SETTINGS, groups)[-1]
    assert "5 groups of images" in grouped.psnr_interval.method
    assert grouped.psnr == upsamplers[-1].psnr
    assert grouped.psnr_interval != upsamplers[-1].psnr_interval


def test_the_written_report_is_whole(whole, tmp_path):
    paths = report.write(whole, tmp_path)
    assert set(paths) == {"json", "html", "samples", "upsampler"}
    stored = json.loads(paths["json"].read_text())
    assert stored["schema_version"] == report.SCHEMA_VERSION
    assert stored["metrics"] == report.metrics(whole)
    assert {claim["id"]: claim["status"] for claim in stored["claims"]}["distance"] == "shown"
    assert stored["samples"][0] == SCRIPT
    page = Page(paths["html"].read_text())
    assert "5 of 5 claims shown" in page.text
    assert "CC BY-SA 4.0" in page.text


def test_captions_are_text_on_the_page_and_nothing_else(whole, tmp_path):
    written = report.write(whole, tmp_path)["html"].read_text()
    page = Page(written)
    assert "script" not in page.tags
    assert page.handlers == []
    assert SCRIPT in page.text  # a reader sees what the stranger wrote
    assert "red cat and bell" in page.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", written)


def test_the_page_needs_nothing_outside_itself(whole, tmp_path):
    page = Page(report.write(whole, tmp_path)["html"].read_text())
    assert page.addresses
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not {"link", "iframe", "object", "form"} & set(page.tags)


def test_what_is_not_shown_and_not_measured_is_said(whole, tmp_path):
    half_done = [claims.distance_claim(0.6, 1.0, 0.7, 8), claims.patch_claim(None, None, None)]
    assert [claim.status for claim in half_done] == ["not shown", "not measured"]
    bare = Report(**{**vars(whole), "claims": half_done, "upsamplers": [], "strips": []})
    page = Page(report.write(bare, tmp_path)["html"].read_text())
    assert "0 of 2 claims shown" in page.text
    assert "no upsampler was given" in page.text


@pytest.mark.parametrize(
    ("generated", "untrained", "blurred", "status"),
    [
        (0.4, 1.0, 0.5, "shown"),
        (0.4, 1.0, 0.3, "not shown"),
        (0.5, 1.0, 0.6, "not shown"),
        (0.4, None, 0.5, "not measured"),
        (0.4, 1.0, None, "not measured"),
    ],
)
def test_the_distance_must_beat_both_baselines(generated, untrained, blurred, status):
    assert claims.distance_claim(generated, untrained, blurred, 8).status == status


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((1234.56, "1234.6"), (12.345, "12.35"), (0.5634, "0.563"), (0.00542, "0.0054"), (0, "0.000")),
        *((-1.2246e-05, "-0.000012"), (0.00099, "0.00099"), (float("nan"), "n/a")),
    ],
)
def test_a_figure_beside_zero_does_not_read_as_zero(value, shown):
    assert claims.figure(value) == shown


def test_a_claim_about_the_upsampler_turns_with_its_figures():
    below, around = (Interval(-0.2, high, 0.95, "bootstrap") for high in (-0.01, 0.01))
    assert claims.patch_claim(0.2, 0.3, 0.1, below).status == "shown"
    assert claims.patch_claim(0.2, 0.3, 0.1, around).status == "not shown"
    assert claims.patch_claim(None, 0.3, 0.1, None).status == "not measured"
    assert claims.consistency_claim(0.05, 0.01, 0.05).status == "shown"
    assert claims.consistency_claim(0.051, 0.01, 0.05).status == "not shown"


def test_images_of_another_size_are_named(encoder, judged):
    captions, real = judged[0], judged[1]
    with pytest.raises(GigaganError, match="set image_size to the model's"):
        judging.judge_base(encoder, captions, real, real[:, :, :8, :8], None, None, SETTINGS)


def test_too_few_training_images_for_the_baselines_are_named(encoder, judged):
    captions, real, generated = judged[:3]
    with pytest.raises(GigaganError, match="need 40 training images"):
        judging.judge_base(encoder, captions, real, generated, None, real[:39], SETTINGS)


def test_a_grid_draws_any_caption_and_shows_small_images_by_their_pixels():
    small = torch.zeros(3, 2, 2, dtype=torch.uint8)
    small[0, 0, 0] = 255
    rows = [Row(text, (small,)) for text in (SCRIPT, ANSI, "", "x" * 500, "猫 🐈 \u202e abc\n\n\tdef")]
    sheet = grid(rows, ["generated"], tile=64, columns=2)
    top = sheet.height - 12 - 12 - 64
    tile = sheet.crop((12, top, 12 + 64, top + 64))
    assert tile.getcolors() is not None
    assert {colour for _, colour in tile.getcolors()} == {(255, 0, 0), (0, 0, 0)}


def test_a_page_holds_small_pictures_exactly_and_large_ones_in_few_bytes():
    small, large = (
        torch.randint(0, 256, (3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        for side in (64, 256)
    )
    addresses = [data_uri(image).partition(",") for image in (small, large)]
    decoded = [
        Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB") for _, _, encoded in addresses
    ]
    assert [head for head, _, _ in addresses] == ["data:image/png;base64", "data:image/jpeg;base64"]
    assert torch.equal(torch.from_numpy(np.array(decoded[0])).permute(2, 0, 1), small)
    assert decoded[1].size == (256, 256)
    flat = torch.full((3, 256, 256), 200, dtype=torch.uint8)
    assert data_uri(flat).startswith("data:image/png")  # a drawing stays sharp


def test_long_captions_are_cut_to_their_lines():
    from PIL import ImageFont

    font = ImageFont.load_default(14)
    lines = wrapped("a caption of many words " * 10, 120, font, 2)
    assert len(lines) == 2
    assert lines[-1].endswith("…")
    assert all(font.getlength(line) <= 120 for line in lines)
    assert wrapped("short", 120, font, 2) == ["short"]
    assert wrapped("w" * 400, 120, font, 2)[0].endswith("…")


def test_a_chart_escapes_names_and_leaves_bad_points_out():
    lines = [charts.Line("<b>loss</b>", ((0, 1.0), (10, math.nan), (20, 2.0)))]
    svg = charts.line_chart(lines, "images & seen")
    assert "<b>" not in svg
    assert "images &amp; seen" in svg
    assert "nan" not in svg
    assert charts.line_chart([charts.Line("empty", ((0, math.nan),))], "x") == ""
    assert charts.ticks(0.0, 1.0) == pytest.approx([0, 0.5, 1.0])
    assert charts.ticks(3.0, 3.0) == [3.0]
    assert (
        len(
            re.findall(
                r"[\d.]+,[\d.]+",
                charts.line_chart(
                    [charts.Line("long", tuple((float(i), float(i)) for i in range(5000)))], "x"
                ),
            )
        )
        <= 400
    )


def test_curves_of_single_pyramid_levels_stay_out_of_the_page(whole, tmp_path):
    points = ((0.0, 1.0), (8.0, 2.0))
    names = ("discriminator/logit_real_level3", "generator/loss")
    curves = [Curve("Base model", name.split("/")[1], name, points) for name in names]
    page = Page(report.write(Report(**{**vars(whole), "curves": curves}), tmp_path)["html"].read_text())
    assert "generator/loss" in page.text
    assert "level3" not in page.text
    assert page.tags.count("svg") == 1


def test_curves_are_read_from_an_artifact_and_damage_is_named(tmp_path):
    assert read_curves(tmp_path, "Base model") == []
    stored = {"images": [8, 16], "metrics": {"generator/loss": [1.5, None], "grad_norm/generator": [2, 3]}}
    (tmp_path / "curves.json").write_text(json.dumps(stored))
    first, second = read_curves(tmp_path, "Base model")
    assert (first.chart, first.points) == ("loss", ((8.0, 1.5),))
    assert (second.chart, second.points) == ("grad_norm", ((8.0, 2.0), (16.0, 3.0)))
    (tmp_path / "curves.json").write_text('{"images": [1')
    with pytest.raises(GigaganError, match="unreadable curves"):
        read_curves(tmp_path, "Base model")


def repeated(threshold: float) -> Repetition:
    apart = Nearest(torch.ones(40, dtype=torch.float64), torch.zeros(40, dtype=torch.int64))
    return Repetition(apart, apart, threshold, 0.1, Interval(0.0, 0.2, 0.95, "by hand"))


def test_what_is_not_the_default_of_a_figure_is_in_its_name(whole):
    twins = repeated(threshold=0.3)
    usual = replace(whole, repetition=twins)
    changed = replace(
        usual, settings=SETTINGS.model_copy(update={"normalise_features": False, "neighbours": 5})
    )
    renamed = {
        "fd": "fd_openmoji-judge-raw_16_40",
        "precision": "precision-k5_openmoji-judge-raw_16_40",
        "recall": "recall-k5_openmoji-judge-raw_16_40",
        "near-duplicates": "near-duplicates_openmoji-judge-raw_16_40",
        "patch-fd": "patch8-fd_openmoji-judge-raw_32_80",
    }
    for before, after in zip(figures(usual), figures(changed), strict=True):
        assert (before.metric, before.value) == (after.metric, after.value)
        place, _, own = before.name.rpartition("/")
        assert after.name == (f"{place}/" if place else "") + renamed.get(before.metric, own)
    assert {"clip-score_openmoji-judge_16_40", "precision-k5_openmoji-judge-raw_16_40"} <= {
        figure.name for figure in figures(changed)
    }
    defaults = EvaluateSettings().neighbours, MeasureOptions().neighbours, MeasureOptions().density_neighbours
    assert defaults == (NEIGHBOURS["precision"], NEIGHBOURS["recall"], NEIGHBOURS["density"])


@pytest.mark.parametrize(("threshold", "said"), [(0.0, True), (0.2, False)])
def test_a_threshold_of_nothing_for_twins_is_said(whole, threshold, said):
    twins = repeated(threshold)
    (figure,) = [
        each for each in figures(replace(whole, repetition=twins)) if each.metric == "near-duplicates"
    ]
    assert any("only equal features count" in caution for caution in figure.cautions) == said
