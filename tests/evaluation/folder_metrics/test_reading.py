"""What of the folders is read, by which networks, and by how many threads."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import shard_pass
from gigagan_core.evaluation.extraction import loaded
from gigagan_core.evaluation.extractors.registry import ExtractorPlace

from .conftest import values

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")


@pytest.fixture
def captions(sets, tmp_path) -> Path:
    """One for each generated image."""
    file = tmp_path / "captions.tsv"
    file.write_text("file\tcaption\n" + "".join(f"{path.name}\t{path.stem}\n" for path in sets[1].iterdir()))
    return file


@pytest.fixture
def seen(judge, scripted_inception, monkeypatch) -> dict[str, int]:
    """Network -> what it has read: images, or captions under `captions`."""
    counts = {"inception": 0, "judge": 0, "captions": 0}

    def counting(name: str, known):
        def call(given):
            counts[name] += len(given)
            return known(given)

        return call

    for name, place in (("inception", f"inception:{scripted_inception}"), ("judge", str(judge))):
        extractor = loaded(ExtractorPlace(place))
        monkeypatch.setattr(extractor, "features_of", counting(name, extractor.features_of))
    clip = loaded(ExtractorPlace(str(judge)))
    monkeypatch.setattr(clip, "caption_features", counting("captions", clip.caption_features))
    return counts


@pytest.mark.parametrize(
    ("metrics", "inception", "judge_reads", "read"),
    [
        (("is", "clip-score"), 80, 40, 40),
        (("clip-score",), 0, 40, 40),
        (("kid", "is"), 80, 80, 0),
        (("cmmd",), 0, 80, 0),
        (("psnr",), 0, 0, 0),
        (("psnr", "cmmd", "clip-score"), 0, 80, 40),
    ],
)
def test_a_network_reads_what_a_measure_of_its_own_looks_at(
    compare, seen, judge, scripted_inception, captions, metrics, inception, judge_reads, read
):
    extractors = (f"inception:{scripted_inception}", judge)
    compare(extractors=extractors, metrics=metrics, captions=captions)
    assert seen == {"inception": inception, "judge": judge_reads, "captions": read}


def test_a_measure_added_later_reads_only_what_is_not_kept(compare, seen, captions):
    alone = values(compare(metrics=("clip-score",), captions=captions))
    both = values(compare(metrics=("clip-score", "fd"), captions=captions))
    assert seen == {"inception": 0, "judge": 80, "captions": 40}
    assert alone.items() <= both.items()


def test_the_clip_score_and_the_inception_score_need_no_real_images(
    compare, sets, judge, scripted_inception, captions
):
    extractors = (f"inception:{scripted_inception}", judge)
    measured = compare(real=None, extractors=extractors, captions=captions)
    assert [(figure.metric, figure.real, figure.fake) for figure in measured.figures] == [
        ("is", 0, 40),
        ("clip-score", 0, 40),
    ]
    assert measured.figures[0].details["real_images"] is None
    assert list(measured.record["sets"]) == ["fake"]
    json.dumps(measured.as_json())
    beside = compare(extractors=extractors, captions=captions, metrics=("is", "clip-score"))
    assert values(beside) == values(measured)
    assert beside.figures[0].details["real_images"] > 1


def test_what_needs_real_images_says_so_before_any_work(compare, tmp_path, captions):
    for metric in ("fd", "precision-recall", "cmmd", "psnr", "patch-fd"):
        with pytest.raises(GigaganError, match=rf"{metric} needs real images: give --real FOLDER"):
            compare(real=None, metrics=(metric,), captions=captions)
    with pytest.raises(
        GigaganError, match=r"without real images there is the CLIP score, which needs a CLIP and"
    ):
        compare(real=None)
    assert not (tmp_path / "work").exists()


def test_real_images_that_nothing_looks_at_are_not_read_and_that_is_said(compare, captions, tmp_path, capsys):
    measured = compare(real=tmp_path / "not there", metrics=("clip-score",), captions=captions)
    assert [figure.metric for figure in measured.figures] == ["clip-score"]
    assert "no measure asked for looks at real images" in capsys.readouterr().err


@pytest.mark.parametrize(("asked", "used"), [(3, 3), (None, len(os.sched_getaffinity(0)))])
def test_as_many_threads_decode_as_asked_for_or_there_are_processors(compare, monkeypatch, asked, used):
    pools, known = [], shard_pass.ThreadPoolExecutor
    monkeypatch.setattr(
        shard_pass, "ThreadPoolExecutor", lambda threads: pools.append(threads) or known(threads)
    )
    compare(metrics=("fd",), threads=asked)
    assert pools == [used, used]


def test_kept_features_are_no_images_a_second(compare, capsys):
    compare(metrics=("fd",))
    assert "features: 80/80 images, 0.0/s" not in capsys.readouterr().err
    compare(metrics=("fd",))
    assert "features: 80/80 images, 0.0/s" in capsys.readouterr().err
