"""The published tables as data, and what stands beside them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.bootstrap import Interval
from gigagan_core.evaluation.figures import Figure, figure_from_json
from gigagan_core.evaluation.protocols.named import PROTOCOLS, protocol
from gigagan_core.evaluation.published_tables import TABLES, beside, load

CLIP = "ViT-B-32-quickgelu"


def number(table: str, model: str, quantity: str, resolution: int | None = None) -> float:
    (found,) = [
        each.value
        for each in load(table)
        if (each.model, each.quantity) == (model, quantity) and resolution in (None, each.resolution)
    ]
    return found


def figure(name: str, metric: str, extractor: str | None, value: float = 5.0) -> Figure:
    return Figure(name, metric, value, 10, 10, "lower", extractor)


@pytest.mark.parametrize("table", TABLES)
def test_every_number_says_what_it_is_how_sure_and_where_it_is_from(table):
    numbers = load(table)
    assert len({(each.model, each.quantity, each.resolution) for each in numbers}) == len(numbers)
    for each in numbers:
        assert each.mark in ("V1", "V2")
        assert each.source
        assert each.value > 0
        assert each.quantity in ("fid", "clip-score", "is", "patch-fid", "lpips", "parameters", "seconds")


def test_the_numbers_are_the_papers():
    assert len({each.model for each in load("table1")}) == 12
    assert number("table1", "multi-scale", "clip-score") == 0.300
    assert number("table1", "scale-up", "parameters") == 652.5e6
    assert number("table2", "GigaGAN", "fid", 256) == 9.09
    assert number("table2", "GigaGAN", "fid", 64) == 7.28
    assert number("table2", "eDiff-I", "seconds") == 32.0
    assert number("table3", "GigaGAN", "clip-score") == 0.32
    assert number("table4", "GigaGAN", "patch-fid") == 8.90
    assert number("table5", "GigaGAN", "is") == 191.5
    assert number("tableA1", "StyleGAN-XL", "fid") == 2.32
    assert "Parti-350M" not in {each.model for each in load("table2")}  # no value found
    with pytest.raises(GigaganError, match="did you mean 'table2'"):
        load("tabel2")


def test_only_the_authors_rerun_was_made_as_ours_is_and_its_clip_score_as_mode_authors():
    fid = figure("fid_inception_256_30k", "fd", "inception", 12.0)
    reruns = "GigaGAN, authors' rerun", "GigaGAN, authors' rerun, diffusion noise before upsampling"
    for mode, network in (("exact", CLIP), ("authors", f"{CLIP}-truncated")):
        clip = figure(f"clip-score_{network}_256_30k", "clip-score", network)
        rows = beside([fid, clip], "table2", protocol("gigagan-coco-30k", mode))
        alike = {(row["model"], row["quantity"]) for row in rows if row["ours"] and not row["differs"]}
        quantities = ("fid", "clip-score") if mode == "authors" else ("fid",)
        assert alike == {(model, quantity) for model in reruns for quantity in quantities}, mode
    exact = figure(f"clip-score_{CLIP}_256_30k", "clip-score", CLIP)
    rows = beside([exact], "table2", protocol("gigagan-coco-30k"))
    (score,) = [row for row in rows if row["model"] == reruns[0] and row["ours"]]
    assert score["differs"] == [f"theirs by {CLIP}-truncated, ours by {CLIP}"]


def test_pairs_that_may_not_be_compared_say_why():
    ours = [
        figure("fid_inception_256_30k", "fd", "inception", 12.0),
        figure("clip-score_ViT-g-14_256_30k", "clip-score", "ViT-g-14"),
    ]
    coco = protocol("gigagan-coco-30k")
    rows = {(row["model"], row["quantity"]): row for row in beside(ours, "table2", coco)}
    assert rows["LDM", "fid"]["ours"] == 12.0
    assert rows["LDM", "fid"]["differs"] == [
        "theirs does not state which captions and code it was taken with"
    ]
    assert rows["LDM", "parameters"]["ours"] is None
    clip = rows["GigaGAN, authors' rerun", "clip-score"]
    assert clip["differs"] == [f"theirs by {CLIP}-truncated, ours by ViT-g-14"]
    small = beside([figure("fd_inception-0123abcd_64_36", "fd", "inception-0123abcd")], "table2")
    (gigagan,) = [row for row in small if row["model"] == "GigaGAN" and row["published"] == 9.09]
    assert gigagan["differs"] == [
        "theirs by inception, ours by inception-0123abcd",
        "theirs 256 px, ours 64",
        "theirs 30k images, ours 36",
        "theirs does not state which code took it (the authors' rerun: 9.06)",
        "ours was taken by no protocol of this table",
    ]


def test_what_a_table_does_not_state_is_said_of_every_number_that_it_moves():
    ladder = [
        figure("fid_inception_64_10k", "fd", "inception"),
        figure(f"clip-score_{CLIP}-truncated_64_10k", "clip-score", f"{CLIP}-truncated"),
    ]
    rows = [row for row in beside(ladder, "table1", protocol("ladder-fid-10k", "authors")) if row["ours"]]
    assert len(rows) == 24
    for row in rows:
        assert row["differs"] == ["theirs does not state its reference images and captions"]
    pairs = [
        figure("patch256-fid_inception_1024_40k", "patch-fd", "inception"),
        figure("lpips-vgg_1024_10k", "lpips", "lpips-vgg"),
    ]
    found = {
        row["quantity"]: row["differs"] for row in beside(pairs, "table4", protocol("laion-128-to-1024"))
    }
    of_patches = "theirs does not state its reference images, nor size and number of its patches"
    assert found["patch-fid"] == [of_patches]
    assert found["lpips"] == [
        "theirs by an unstated network, ours by lpips-vgg",
        "theirs does not state its reference images",
    ]


def test_cautions_of_ours_stand_against_every_number_or_against_those_of_their_network():
    fid = figure("fid_inception_256_30k", "fd", "inception")
    network = f"{CLIP}-truncated"
    clip = figure(f"clip-score_{network}_256_30k", "clip-score", network)
    clip = replace(clip, cautions=("other weights",))
    said = ("other weights", "psi = 0.5")
    rows = beside([fid, clip], "table2", protocol("gigagan-coco-30k", "authors"), said)
    rerun = {row["quantity"]: row["differs"] for row in rows if row["model"] == "GigaGAN, authors' rerun"}
    assert rerun == {"fid": ["psi = 0.5"], "clip-score": ["other weights", "psi = 0.5"]}
    other = beside([fid], "table2", protocol("ladder-fid-10k"))
    assert all(
        "ours was taken by no protocol of this table" in row["differs"] for row in other if row["ours"]
    )


def test_the_nearest_of_several_figures_stands_beside():
    ours = [
        figure("fid_inception_64_10k", "fd", "inception", 1.0),
        figure("fid_inception_256_30k", "fd", "inception", 2.0),
        figure("baseline/x/fid_inception_256_30k", "fd", "inception", 3.0),
    ]
    by_table = {table: beside(ours, table) for table in ("table1", "table2")}
    assert {row["ours"] for row in by_table["table1"] if row["quantity"] == "fid"} == {1.0}
    assert by_table["table2"][0]["ours"] == 2.0


def test_without_a_published_network_nothing_stands_beside():
    assert beside([figure("fd_openmoji-judge_32_370", "fd", "openmoji-judge")]) == []
    assert {row["table"] for row in beside([figure("fid_inception_64_10k", "fd", "inception")])} == set(
        TABLES.values()
    )


def test_protocols_name_tables_that_exist():
    assert {each.rows for each in PROTOCOLS.values()} - {None} <= set(TABLES)


def test_a_figure_of_a_report_is_read_back_whole():
    interval = Interval(0.1, 0.3, 0.95, "bootstrap")
    whole = Figure("fd_a_8_9", "fd", 0.2, 9, 9, "lower", "a", interval, None, {"seed": 1}, ("few images",))
    for each in (whole, figure("psnr_8_9", "psnr", None)):
        assert figure_from_json(each.name, json.loads(json.dumps(each.as_json()))) == each
