"""What a figure of two folders is called."""

from __future__ import annotations

from gigagan_core.evaluation.set_metrics import MeasureOptions

from .conftest import values


def test_a_resolution_is_that_of_all_images_that_took_part(compare, picture_folder, tmp_path):
    larger, captions = picture_folder(40, 64, 1), tmp_path / "captions.txt"
    captions.write_text("".join(f"{row:04}\tdisc {row}\n" for row in range(40)))
    asked = {"real": larger, "captions": captions, "metrics": ("fd", "precision-recall", "clip-score")}
    assert list(values(compare(**asked))) == [
        "fd_openmoji-judge_native_40",
        "precision_openmoji-judge_native_40",
        "recall_openmoji-judge_native_40",
        # which looks at no real image
        "clip-score_openmoji-judge_48_40",
    ]
    sized = compare(**asked, size=32)
    assert {name.split("_")[2] for name in values(sized)} == {"32"}


def test_another_k_is_in_the_name(compare):
    options = MeasureOptions(resamples=100, neighbours=4, density_neighbours=6)
    assert list(values(compare(metrics=("precision-recall", "density-coverage"), options=options))) == [
        f"{name}_openmoji-judge_48_40" for name in ("precision-k4", "recall-k4", "density-k6", "coverage-k6")
    ]
