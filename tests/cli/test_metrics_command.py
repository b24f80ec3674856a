"""`gigagan metrics` as a person or a script calls it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gigagan_core.cli.metrics_command import places
from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel
from gigagan_core.encoders.open_clip_encoder import Preprocessing, save_encoder
from gigagan_core.errors import GigaganError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Real images, generated ones, and an untrained encoder."""
    generator = np.random.default_rng(0)
    for name in ("real", "fake"):
        (tmp_path / name).mkdir()
        for row in range(12):
            image = Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8))
            image.save(tmp_path / name / f"{row}.png")
    torch.manual_seed(0)
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
    }
    model = ClipModel(ClipArchitecture.from_config(config))
    save_encoder(tmp_path / "judge", model, Preprocessing(), name="tiny", role="judge")
    return tmp_path / "real", tmp_path / "fake", tmp_path / "judge"


def arguments(folders: tuple[Path, Path, Path]) -> list[str]:
    real, fake, judge = folders
    return [
        "metrics",
        "--real",
        str(real),
        "--fake",
        str(fake),
        "--extractor",
        str(judge),
        "--resamples",
        "100",
    ]


def test_json_is_one_document_and_nothing_else_on_standard_output(gigagan, folders):
    done = gigagan(*arguments(folders), "--metrics", "fd,kid", "--seed", "7", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert list(document["figures"]) == ["fd_tiny_24_12", "kid_tiny_24_12"]
    fd = document["figures"]["fd_tiny_24_12"]
    assert fd["interval"]["low"] < fd["value"] < fd["interval"]["high"]
    assert fd["images"] == {"real": 12, "fake": 12}
    assert fd["details"]["seed"] == document["seed"] == 7
    assert document["sets"]["real"]["images"] == 12
    assert "features: 24/24 images" in done.stderr


def test_a_person_gets_a_table_with_intervals_and_counts(inside, folders):
    shown = inside(*arguments(folders))
    assert shown.exit_code == 0
    for name in ("fd", "kid", "precision", "recall", "density", "coverage", "cmmd"):
        assert f"{name}_tiny_24_12" in shown.stdout
    assert "12 / 12" in shown.stdout
    assert "(95%)" in shown.stdout


def test_bad_input_is_one_sentence_and_exit_code_1(inside, folders, tmp_path):
    (tmp_path / "empty").mkdir()
    for changed, sentence in (
        (["--fake", str(tmp_path / "empty")], "holds no images"),
        (["--sha256", "0" * 64], "expected 0000"),
        (["--weights", "x.pt"], "--weights x.pt belongs to no --extractor"),
        (["--metrics", "fidd"], "no metric 'fidd'"),
        (["--seed", str(2**63)], "seed 9223372036854775808 is beyond 64 bits"),
    ):
        done = inside(*arguments(folders), *changed)
        assert done.exit_code == 1
        errors = [line for line in done.stderr.splitlines() if line.startswith("gigagan: error:")]
        assert len(errors) == 1
        assert sentence in errors[0]


def test_weights_given_apart_go_to_the_extractors_that_name_none(tmp_path):
    found = places(
        ["inception", "ViT-B-32:c.pt", str(tmp_path), "dinov2-vitl14"], ["i.pt", "d.pt"], ["ab"], "authors"
    )
    assert [each.place for each in found] == [
        "inception:i.pt",
        "ViT-B-32:c.pt",
        str(tmp_path),
        "dinov2-vitl14:d.pt",
    ]
    assert [each.sha256 for each in found] == ["ab", None, None, None]
    assert all(each.prefix and each.truncate for each in found)
    with pytest.raises(GigaganError, match="belongs to no --extractor"):
        places(["inception:i.pt"], ["j.pt"], [], "exact")


def test_a_comma_too_many_names_no_metric(gigagan, folders):
    done = gigagan(*arguments(folders), "--metrics", " fd,", "--json")
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)["figures"]) == ["fd_tiny_24_12"]


def test_generated_images_alone_have_a_clip_score(inside, folders, tmp_path):
    _, fake, judge = folders
    (tmp_path / "captions.csv").write_text(
        "file,caption\n" + "".join(f"{row}.png,noise\n" for row in range(12))
    )
    given = ["metrics", "--fake", str(fake), "--extractor", str(judge), "--resamples", "100"]
    shown = inside(*given, "--captions", str(tmp_path / "captions.csv"))
    assert shown.exit_code == 0, shown.stderr
    assert "clip-score_tiny_24_12" in shown.stdout
    assert "12 / 12" not in shown.stdout
    refused = inside(*given, "--metrics", "fd")
    assert refused.exit_code == 1
    assert "fd needs real images: give --real FOLDER" in refused.stderr


def test_how_the_work_is_done_is_an_option(inside, folders, monkeypatch):
    asked = []

    def measure(settings):
        asked.append((settings.threads, settings.batch_size))
        raise GigaganError("enough")

    monkeypatch.setattr("gigagan_core.evaluation.folder_metrics.measure", measure)
    inside(*arguments(folders), "--threads", "3", "--batch-size", "5")
    inside(*arguments(folders))
    assert asked == [(3, 5), (None, 32)]
    assert inside(*arguments(folders), "--threads", "0").exit_code == 2


def test_the_help_names_the_default_metrics(inside):
    shown = " ".join(inside("metrics", "--help").stdout.replace("│", " ").split())
    assert "fd, fd-infinity, kid, precision-recall" in shown
    assert "all of the first but fd-infinity" in shown
