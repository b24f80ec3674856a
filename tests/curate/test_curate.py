"""Curation: scores once, selections at will, nothing lost and nothing overwritten."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gigagan_core.config.curate import (
    CaptionRules,
    CurateSettings,
    NearDuplicateRule,
    ScoreRule,
)
from gigagan_core.data import scoring
from gigagan_core.data.reader import load_all
from gigagan_core.data.scorers.clip_similarity import ClipSimilarityScorer
from gigagan_core.data.shards import read_index
from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.errors import GigaganError
from gigagan_core.stages import curate
from gigagan_core.stages.base import RunContext
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.fingerprint import code_digest
from gigagan_core.tracking.null import NullRun

from .conftest import rows_of

COLUMN = "clip_similarity_test-condition"
Make = Callable[..., Artifact]


def settings(**rule: object) -> CurateSettings:
    return CurateSettings(clip_similarity=ScoreRule(**rule), batch_size=4, in_process_shards=8)


def others(**rules: object) -> CurateSettings:
    """Every rule but the one on clip_similarity, which is off."""
    return CurateSettings(clip_similarity=ScoreRule(), batch_size=4, in_process_shards=8, **rules)


def test_every_row_that_counts_gets_the_encoder_s_similarity(
    context: RunContext, shard_set: Make, encoder: Make
) -> None:
    data, condition = shard_set(), encoder()
    rows = rows_of(curate.run(settings(keep_fraction=0.8), {"data": data, "encoder": condition}, context))
    assert [row["key"] for row in rows] == [row["key"] for row in rows_of(data)]
    images, captions, keys = load_all(data, 16)
    network = load_encoder(condition.path)
    expected = torch.cosine_similarity(
        network.image_embed(images.float() / 127.5 - 1), network.text_embed(network.tokenize(captions))
    )
    scores = {row["key"]: row[COLUMN] for row in rows}
    torch.testing.assert_close(torch.tensor([scores[key] for key in keys]), expected)
    assert all(row[COLUMN] is None for row in rows if row["status"] != "success")
    assert [row["clip_similarity"] for row in rows] == [0.5] * 24


def test_the_best_share_stays_and_the_counts_add_up(
    context: RunContext, shard_set: Make, encoder: Make
) -> None:
    data = shard_set()
    curated = curate.run(settings(keep_fraction=0.8), {"data": data, "encoder": encoder()}, context)
    assert curated.manifest["counts"] == {"in": 20, "out": 16, "rejected": {"clip_similarity_too_low": 4}}
    rows = [row for row in rows_of(curated) if row["status"] == "success"]
    threshold = curated.summary["clip_similarity_threshold"]
    for row in rows:
        assert row["selected"] == (row[COLUMN] >= threshold)
        assert row["rejected_by"] == (None if row["selected"] else "clip_similarity_too_low")
    assert sum(shard.selected for shard in read_index(curated)) == 16
    assert len(load_all(curated, 16)[2]) == 16
    assert curated.notes["licence"] == "CC0"
    assert (curated.path / "ATTRIBUTION.txt").read_text() == "drawn by a test\n"


def test_another_threshold_does_not_score_again(
    context: RunContext, shard_set: Make, encoder: Make, scored: list[int]
) -> None:
    inputs = {"data": shard_set(), "encoder": encoder()}
    first = curate.run(settings(keep_fraction=0.8), inputs, context)
    assert sum(scored) == 20
    calls = len(scored)
    second = curate.run(settings(keep_fraction=0.5), inputs, context)
    third = curate.run(settings(minimum=-1.0), inputs, context)
    assert len(scored) == calls
    assert [artifact.manifest["counts"]["out"] for artifact in (first, second, third)] == [16, 10, 20]
    # ... and another set, or another encoder's scores, are scored
    curate.run(settings(minimum=-1.0), {**inputs, "data": shard_set("others", 1)}, context)
    assert len(scored) > calls


def test_scoring_cut_off_goes_on_with_the_shards_that_are_left(
    context: RunContext, shard_set: Make, encoder: Make, scored: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {"data": shard_set(shards=3), "encoder": encoder()}
    original, shards = scoring.score_shard, []

    def killed(shard, scorer, path, *others) -> None:
        shards.append(path.name)
        if len(shards) == 3:
            raise KeyboardInterrupt
        original(shard, scorer, path, *others)

    monkeypatch.setattr(scoring, "score_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        curate.run(settings(), inputs, context)
    assert sum(scored) == 20
    monkeypatch.setattr(scoring, "score_shard", original)
    curated = curate.run(settings(), inputs, context)
    assert sum(scored) == 30
    whole = {row["key"]: row[COLUMN] for row in rows_of(curated) if row["status"] == "success"}
    assert len(whole) == 30
    assert None not in whole.values()


@pytest.mark.parametrize(("missing", "out"), [("keep", 20), ("drop", 18)])
def test_a_score_that_was_not_computed_is_null_and_the_rule_says_what_becomes_of_the_row(
    context: RunContext, shard_set: Make, encoder: Make, missing: str, out: int
) -> None:
    corrupt = ("000000003", "000010007")
    inputs = {"data": shard_set(corrupt=corrupt), "encoder": encoder()}
    curated = curate.run(settings(minimum=-1.0, missing=missing), inputs, context)
    rows = {row["key"]: row for row in rows_of(curated)}
    for key in corrupt:
        assert rows[key][COLUMN] is None
        assert rows[key]["selected"] == (missing == "keep")
    rejected = {"clip_similarity_missing": 2} if missing == "drop" else {}
    assert curated.manifest["counts"] == {"in": 20, "out": out, "rejected": rejected}
    kept_anyway = curated.summary.get("kept_without_clip_similarity")
    assert kept_anyway == (2 if missing == "keep" else None)
    scores = context.store.artifacts("score")[-1]
    assert scores.manifest["counts"] == {"in": 20, "out": 18, "rejected": {"picture_unreadable": 2}}


def test_a_missing_score_can_stop_the_run(context: RunContext, shard_set: Make, encoder: Make) -> None:
    inputs = {"data": shard_set(corrupt=("000000003",)), "encoder": encoder()}
    with pytest.raises(
        GigaganError, match=r"1 of 20 rows have no clip_similarity; set clip_similarity\.missing"
    ):
        curate.run(settings(minimum=-1.0, missing="fail"), inputs, context)


def test_a_score_that_is_not_a_number_is_null(
    context: RunContext, shard_set: Make, encoder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ClipSimilarityScorer.score

    def broken(self, inputs, captions):
        scores = original(self, inputs, captions)
        scores[COLUMN][0] = math.nan
        return scores

    monkeypatch.setattr(ClipSimilarityScorer, "score", broken)
    curated = curate.run(settings(minimum=-1.0), {"data": shard_set(shards=1), "encoder": encoder()}, context)
    assert curated.manifest["counts"]["rejected"] == {"clip_similarity_missing": 3}
    scores = context.store.artifacts("score")[-1]
    assert scores.manifest["counts"]["rejected"] == {"score_not_finite": 3}


def test_without_a_bound_scores_are_added_and_nothing_leaves(
    context: RunContext, shard_set: Make, encoder: Make
) -> None:
    data = shard_set(corrupt=("000000003",))
    curated = curate.run(settings(), {"data": data, "encoder": encoder()}, context)
    assert curated.manifest["counts"] == {"in": 20, "out": 20, "rejected": {}}


def test_curated_again_rows_that_left_stay_out_and_no_column_is_overwritten(
    context: RunContext, shard_set: Make, encoder: Make
) -> None:
    condition = encoder()
    once = curate.run(settings(keep_fraction=0.8), {"data": shard_set(), "encoder": condition}, context)
    twice = curate.run(settings(keep_fraction=0.5), {"data": once, "encoder": condition}, context)
    assert twice.manifest["counts"] == {"in": 16, "out": 8, "rejected": {"clip_similarity_too_low": 8}}
    first, second = rows_of(once), rows_of(twice)
    assert [row[COLUMN] for row in second] == [row[COLUMN] for row in first]
    assert len([name for name in second[0] if name.startswith(COLUMN)]) == 2
    assert not any(
        now["selected"] and not before["selected"] for now, before in zip(second, first, strict=True)
    )
    assert len(load_all(twice, 16)[2]) == 8


def test_the_curated_set_copies_no_picture_and_survives_a_move_of_the_store(
    context: RunContext, shard_set: Make, encoder: Make, tmp_path: Path
) -> None:
    curated = curate.run(settings(), {"data": shard_set(), "encoder": encoder()}, context)
    assert not list(curated.path.glob("*.tar"))
    for entry in json.loads((curated.path / "shards.json").read_text()):
        assert not Path(entry["tar"]).is_absolute()
    relative = curated.path.relative_to(tmp_path / "store")
    shutil.move(tmp_path / "store", tmp_path / "elsewhere")
    assert len(load_all(tmp_path / "elsewhere" / relative, 16)[2]) == 20


def test_in_a_remote_store_the_curated_set_holds_its_tars(
    shard_set: Make, encoder: Make, tmp_path: Path
) -> None:
    data, condition = shard_set(), encoder()
    with RunContext.open("memory://curate-test") as remote:
        curated = curate.run(settings(), {"data": data, "encoder": condition}, remote)
        assert len(load_all(curated, 16)[2]) == 20


def test_the_judge_chooses_no_training_data(context: RunContext, shard_set: Make, encoder: Make) -> None:
    with pytest.raises(GigaganError, match="is an encoder of role judge and role condition is needed"):
        curate.run(settings(), {"data": shard_set(), "encoder": encoder("judge")}, context)


def test_a_shard_set_in_an_encoder_s_place_is_refused(context: RunContext, shard_set: Make) -> None:
    with pytest.raises(GigaganError, match="is a shard-set and role condition is needed"):
        curate.run(settings(), {"data": shard_set(), "encoder": shard_set()}, context)


def test_a_rule_that_leaves_nothing_is_one_sentence(
    context: RunContext, shard_set: Make, encoder: Make
) -> None:
    with pytest.raises(
        GigaganError, match=r"leave none of 20 rows \(clip_similarity_too_low: 20\); loosen clip_similarity"
    ):
        curate.run(settings(minimum=0.999), {"data": shard_set(), "encoder": encoder()}, context)


def test_a_damaged_tar_is_one_sentence(context: RunContext, shard_set: Make, encoder: Make) -> None:
    data = shard_set()
    tar = read_index(data)[1].tar
    tar.write_bytes(tar.read_bytes()[:4000])
    with pytest.raises(GigaganError, match=r"00001.tar (is a damaged tar|lacks the picture)"):
        curate.run(settings(), {"data": data, "encoder": encoder()}, context)


def test_a_missing_input_and_two_bounds_are_refused(context: RunContext, shard_set: Make) -> None:
    with pytest.raises(GigaganError, match="curate needs encoder"):
        curate.run(settings(), {"data": shard_set()}, context)
    with pytest.raises(ValueError, match="not both"):
        ScoreRule(minimum=0.1, keep_fraction=0.9)


def test_captions_that_say_nothing_of_the_picture_leave_each_for_its_reason(
    context: RunContext, shard_set: Make, encoder: Make
) -> None:
    captions = {
        "000000000": "IMG_1234.jpg",
        "000000001": "Click here to see more",
        "000000002": None,
        "000000003": "red",
        "000010004": "a very long caption " * 20,
    }
    rules = CaptionRules(min_words=2, max_characters=100)
    data = shard_set(captions=captions)
    curated = curate.run(others(captions=rules), {"data": data, "encoder": encoder()}, context)
    rejected = {row["key"]: row["rejected_by"] for row in rows_of(curated) if row["rejected_by"]}
    assert rejected == {
        "000000000": "caption_too_few_words",
        "000000001": "caption_boilerplate_click_here",
        "000000002": "caption_too_few_words",
        "000000003": "caption_too_few_words",
        "000010004": "caption_too_long",
    }
    assert curated.manifest["counts"]["out"] == 15


def test_the_first_of_near_duplicates_stays_over_all_shards(
    context: RunContext, shard_set: Make, encoder: Make
) -> None:
    phashes = {
        "000000001": "00000000ffffffff",
        "000000005": "ffffffff00000000",
        "000010002": "00000000fffffff0",  # 4 bits from the first
        "000010003": "00000000ffffff00",  # 8 from the first, 4 from one that has left
        "000010004": "ffffffff00000000",
    }
    data = shard_set(phashes=phashes)
    inputs = {"data": data, "encoder": encoder()}
    curated = curate.run(others(duplicates=NearDuplicateRule(max_distance=4)), inputs, context)
    left = {row["key"] for row in rows_of(curated) if row["rejected_by"] == "near_duplicate"}
    assert left == {"000010002", "000010004"}
    assert curated.manifest["counts"] == {"in": 20, "out": 18, "rejected": {"near_duplicate": 2}}
    assert curated.summary["kept_without_phash"] == 15
    dropped = others(duplicates=NearDuplicateRule(max_distance=4, missing="drop"))
    counts = curate.run(dropped, inputs, context).manifest["counts"]
    assert counts == {"in": 20, "out": 3, "rejected": {"near_duplicate": 2, "phash_missing": 15}}
    with pytest.raises(GigaganError, match=r"no perceptual hash \(phash\); set duplicates.missing"):
        curate.run(others(duplicates=NearDuplicateRule(max_distance=4, missing="fail")), inputs, context)


def test_a_row_that_leaves_for_another_reason_makes_no_duplicate(
    context: RunContext, shard_set: Make, encoder: Make
) -> None:
    data = shard_set(
        captions={"000000001": "photo.png"},
        phashes={"000000001": "0" * 16, "000010002": "0" * 16},
    )
    rules = others(duplicates=NearDuplicateRule(max_distance=0))
    curated = curate.run(rules, {"data": data, "encoder": encoder()}, context)
    assert curated.manifest["counts"]["rejected"] == {"caption_boilerplate_file_name": 1}


def test_the_page_of_the_set_goes_to_the_records_and_not_into_the_artifact(
    context: RunContext, shard_set: Make, encoder: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = []
    monkeypatch.setattr(
        NullRun, "log_artifact", lambda self, path, folder=None: pages.append(path.read_text())
    )
    curated = curate.run(settings(keep_fraction=0.8), {"data": shard_set(), "encoder": encoder()}, context)
    assert len(pages) == 1
    assert "clip similarity too low" in pages[0]
    assert "data:image/jpeg" in pages[0]
    assert "drawn by a test" in pages[0]
    assert not list(curated.path.glob("*.html"))


def test_the_page_s_source_decides_no_artifact() -> None:
    _, modules = code_digest(curate.SPEC.module)
    assert "gigagan_core.data.near_duplicates" in modules
    assert not {"gigagan_core.data.report", "gigagan_core.data.report_template"} & set(modules)


def test_the_command_writes_the_page_of_any_shard_set(shard_set: Make, tmp_path: Path) -> None:
    data, page = shard_set(), tmp_path / "pages" / "page.html"
    command = ["data", "report", "--store", str(tmp_path / "store"), "--data", data.short, "--out", str(page)]
    done = subprocess.run(
        [sys.executable, "-c", "from gigagan_core.cli import main; main()", *command, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert answer["report"] == str(page)
    assert answer["artifact"]["fingerprint"] == data.fingerprint
    text = page.read_text()
    assert "20 of 24 rows are selected, in 2" in text
    assert "CC0" in text
    assert data.fingerprint in text
