"""One image, or few: what has a value is given, and what cannot be had is said of the right set."""

from __future__ import annotations

import pytest

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.bootstrap import OF_ONE_IMAGE

from .conftest import values

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")


def test_a_figure_of_a_single_image_stands_without_an_interval(compare, picture_folder, tmp_path):
    one = {"real": picture_folder(1, 48, 1), "fake": picture_folder(1, 48, 2)}
    file = tmp_path / "captions.txt"
    file.write_text("0000\ta disc\n")
    measured = compare(
        **one, metrics=("clip-score", "psnr", "ssim", "patch-fd"), captions=file, patch_size=16
    )
    assert [figure.metric for figure in measured.figures] == ["clip-score", "psnr", "ssim", "patch-fd"]
    for figure in measured.figures:
        assert figure.interval is None
        assert OF_ONE_IMAGE in figure.cautions
    two = {"real": picture_folder(2, 48, 1), "fake": picture_folder(2, 48, 2)}
    psnr, patches = compare(**two, metrics=("psnr", "patch-fd"), patch_size=16).figures
    for figure in (psnr, patches):
        assert figure.interval.low < figure.value < figure.interval.high
        assert OF_ONE_IMAGE not in figure.cautions


def test_few_real_images_cost_the_inception_score_a_detail_and_few_generated_ones_the_score(
    compare, picture_folder, scripted_inception
):
    inception = {"extractors": (f"inception:{scripted_inception}",), "metrics": ("is",)}
    whole = compare(**inception)
    few = compare(**inception, real=picture_folder(3, 48, 1))
    assert values(few) == values(whole)
    assert whole.figures[0].details["real_images"] > 1
    assert few.figures[0].details["real_images"] is None
    with pytest.raises(GigaganError, match="each of its 10 splits; there are 3 generated images"):
        compare(**inception, fake=picture_folder(3, 48, 1))


def test_few_real_images_leave_the_inception_score_in_the_default(compare, picture_folder, narrow_inception):
    measured = compare(extractors=(f"inception:{narrow_inception()}",), real=picture_folder(6, 48, 1))
    assert "is" in {figure.metric for figure in measured.figures}


def test_an_inception_without_classifier_gives_everything_but_the_inception_score(compare, narrow_inception):
    given = {"extractors": (f"inception:{narrow_inception(classifier=False)}",)}
    assert {figure.metric for figure in compare(**given).figures} == {
        "fd",
        "kid",
        "precision",
        "recall",
        "density",
        "coverage",
    }
    with pytest.raises(GigaganError, match="is needs Inception with its classifier: add the extractor"):
        compare(**given, metrics=("is",))
