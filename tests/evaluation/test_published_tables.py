"""The published tables as data, and what stands beside them."""

from __future__ import annotations

import json

import pytest

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.bootstrap import Interval
from gigagan_core.evaluation.figures import Figure, figure_from_json
from gigagan_core.evaluation.protocols.named import PROTOCOLS
from gigagan_core.evaluation.published_tables import TABLES, beside, load


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


def test_equal_protocols_differ_in_nothing_and_others_say_in_what():
    ours = [
        figure("fid_inception_256_30k", "fd", "inception", 12.0),
        figure("clip-score_ViT-g-14_256_30k", "clip-score", "ViT-g-14"),
    ]
    rows = {(row["model"], row["quantity"]): row for row in beside(ours, "table2")}
    assert rows["LDM", "fid"]["ours"] == 12.0
    assert rows["LDM", "fid"]["differs"] == []
    assert rows["LDM", "parameters"]["ours"] is None
    clip = rows["GigaGAN, authors' rerun", "clip-score"]
    assert clip["differs"] == ["theirs by ViT-B-32-quickgelu, ours by ViT-g-14"]
    small = beside([figure("fd_inception-0123abcd_64_36", "fd", "inception-0123abcd")], "table2")
    (gigagan,) = [row for row in small if row["model"] == "GigaGAN" and row["published"] == 9.09]
    assert gigagan["differs"] == [
        "theirs by inception, ours by inception-0123abcd",
        "theirs 256 px, ours 64",
        "theirs 30k images, ours 36",
    ]


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
