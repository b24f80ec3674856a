"""The page of a protocol's report: what it holds, and what a stranger's prompt cannot do to it."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.evaluation import report_sections
from gigagan_core.evaluation.figures import Figure
from gigagan_core.evaluation.protocols import document
from gigagan_core.evaluation.protocols.run import evaluate
from gigagan_core.evaluation.protocols.showcase import show

from .conftest import no_ray

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")
SCRIPT = "<script>alert(1)</script> cat"
INFINITY = Figure(
    "fd-infinity_inception-01234567_256_30k",
    "fd-infinity",
    9.5,
    40_504,
    30_000,
    "lower",
    details={"sizes": [5000, 15_000, 30_000], "distances": [13.5, 10.8, 10.2], "slope": 20_000.0},
)


def written(report, folder):
    folder.mkdir(exist_ok=True)
    paths = document.write(report, folder)
    return paths, paths["html"].read_text(), json.loads(paths["json"].read_text())


@pytest.fixture
def prompted(run, tmp_path):
    """The report of prompts that a stranger wrote."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join([SCRIPT, "red \x1b[31mcat\x07", *(f"thing {row}" for row in range(6))]))
    asked = run("prompt-file", prompts=prompts, keep=3, gallery=2)
    result = evaluate(asked, no_ray)
    return document.ProtocolReport(result, show(asked, result, no_ray), EvaluateSettings())


def test_samples_and_galleries_are_in_the_page_and_the_prompts_are_text(prompted, tmp_path):
    paths, page, stored = written(prompted, tmp_path / "report")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; cat" in page
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", page)
    for text in ("Samples", "Best by CLIP score", "Worst by CLIP score", "Alike for different captions"):
        assert text in page, text
    assert "has no real images" in page
    assert "No training set was given" in page
    pictures = re.findall(r'<img\s+src="([^"]{30})', page)
    assert len(pictures) == 3 + 2 + 2 + 2 * 2  # the pair shows two
    assert all(re.match("data:image/(png|jpeg);base64,", address) for address in pictures)
    assert set(paths) >= {"samples", "galleries/best", "galleries/worst", "galleries/alike"}
    assert stored["samples"][0] == SCRIPT
    assert [each["id"] for each in stored["galleries"]] == ["best", "worst", "alike"]
    assert all(each["shown"] for each in stored["galleries"])
    assert stored["galleries"][0]["shown"][0]["note"].startswith("cosine ")
    assert set(stored["remarks"]) == {"failures", "memorisation"}


def test_an_extrapolation_is_drawn_with_its_points_and_its_line(prompted, tmp_path):
    (chart,) = report_sections.extrapolations([INFINITY, replace(INFINITY, metric="fd")])
    svg = str(chart["svg"])
    titles = re.findall("<title>([^<]*)</title>", svg)
    assert titles == ["30,000", "15,000", "5,000", "9.500", "fit"]
    across = [float(x) for x in re.findall(r'<circle[^>]* cx="([\d.]+)"', svg)]
    assert across[3] < across[0] < across[1] < across[2]  # infinitely many stand at the left
    assert across[4] == across[2]
    up = [float(y) for y in re.findall(r'<circle[^>]* cy="([\d.]+)"', svg)]
    assert up[4] == up[2]  # 9.5 + 20,000 / 5,000 is the distance of the smallest subset
    result = replace(prompted.result, figures=(*prompted.result.figures, INFINITY))
    page = written(replace(prompted, result=result), tmp_path / "with")[1]
    assert "Without the bias of the count" in page
    assert "Without the bias of the count" not in written(prompted, tmp_path / "without")[1]
