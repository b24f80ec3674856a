"""Ingest from table to shard set, on the site with many faults: nothing lost, nothing twice."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gigagan_core.config.ingest import IngestSettings
from gigagan_core.data import download, openmoji
from gigagan_core.data.openmoji import PublishedSet
from gigagan_core.data.reader import load_all
from gigagan_core.data.site import OpenMojiSite
from gigagan_core.errors import GigaganError
from gigagan_core.store.artifact import Artifact

from .helpers import fates, members_of, pictures_of, rows_of, run_ingest, table_of

MakeSettings = Callable[..., IngestSettings]
REASON_OF_FAULT = {
    "not_found": "http_404",
    "reset": "connection_reset",
    "stall": "timeout",
    "truncated": "truncated_body",
    "html": "not_an_image",
    "opt_out": "opted_out",
    None: "success",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def ingested(published: PublishedSet, ingest_settings: MakeSettings, store: Path) -> Artifact:
    """The training tables, ingested once in an undisturbed run."""
    return run_ingest(published.train, ingest_settings(licence="L", attribution="A"), store)


def test_every_row_has_the_fate_that_the_sites_faults_decide(ingested: Artifact, site: OpenMojiSite) -> None:
    rows = rows_of(ingested)
    expected = {row["url"]: REASON_OF_FAULT[site.faults.fault(row["url"], 1)] for row in rows}
    assert {row["url"]: row["status"] for row in rows} == expected
    assert set(REASON_OF_FAULT.values()) == set(expected.values()), "the set meets every fault"
    counts = ingested.manifest["counts"]
    by_reason = Counter(expected.values())
    assert counts["in"] == len(rows) == 54
    assert counts["out"] == by_reason.pop("success")
    assert counts["rejected"] == dict(by_reason)


def test_what_fails_once_comes_in_at_the_second_attempt(ingested: Artifact, site: OpenMojiSite) -> None:
    again = [row for row in rows_of(ingested) if site.faults.fault(row["url"], 0) in ("stall", "unavailable")]
    assert {row["attempts"] for row in again} == {2}
    assert Counter(row["status"] for row in again) == {"success": 2, "timeout": 2}
    gone = [row for row in rows_of(ingested) if row["status"] in ("http_404", "opted_out", "not_an_image")]
    assert {row["attempts"] for row in gone} == {1}


def test_sums_are_those_of_the_fetched_bytes(ingested: Artifact) -> None:
    for row in rows_of(ingested):
        if row["status"] == "success":
            code, _, kind = row["url"].rpartition("/")[2].rpartition(".")
            assert row["sha256"] == hashlib.sha256(openmoji.image_bytes(code, kind)).hexdigest()
            assert (row["original_width"], row["original_height"]) == (160, 160)


def test_a_shard_has_img2datasets_layout(ingested: Artifact, store: Path) -> None:
    successes = [row for row in rows_of(ingested) if row["key"].startswith(rows_of(ingested)[0]["key"][:12])]
    successes = {row["key"]: row for row in successes if row["status"] == "success"}
    members = members_of(ingested.path / "00000.tar")
    assert set(members) == {f"{key}.{ending}" for key in successes for ending in ("png", "txt", "json")}
    for key, row in successes.items():
        assert members[f"{key}.txt"].decode() == row["caption"]
        assert json.loads(members[f"{key}.json"])["sha256"] == row["sha256"]
    (stats, _) = sorted(store.glob("download/*/00000_stats.json"))
    assert json.loads(stats.read_text())["count"] == 27


def test_pictures_are_read_back_on_white_at_the_size_kept(ingested: Artifact) -> None:
    images, captions, keys = load_all(ingested, 32)
    assert len(images) == len(captions) == len(set(keys)) == ingested.manifest["counts"]["out"]
    assert (images[:, :, 0, 0] > 250).all()
    assert images.float().mean() > 128
    assert images.amin() < 64


def test_licence_and_attribution_travel(ingested: Artifact) -> None:
    assert (ingested.notes["licence"], ingested.notes["attribution"]) == ("L", "A")
    assert (ingested.path / "ATTRIBUTION.txt").read_text() == "L\nA\n"


def test_a_second_run_fetches_nothing_and_other_rules_fetch_nothing(
    ingested: Artifact,
    published: PublishedSet,
    ingest_settings: MakeSettings,
    store: Path,
    site: OpenMojiSite,
) -> None:
    before = len(site.requests())
    assert run_ingest(published.train, ingest_settings(licence="L", attribution="A"), store) == ingested
    stricter = run_ingest(published.train, ingest_settings(rules={"min_caption_words": 3}), store)
    assert stricter.manifest["counts"]["out"] < ingested.manifest["counts"]["out"]
    assert stricter.manifest["counts"]["rejected"]["caption_too_few_words"] > 0
    assert len(site.requests()) == before


def test_a_folder_with_one_more_table_fetches_that_one_only(
    ingested: Artifact,
    published: PublishedSet,
    ingest_settings: MakeSettings,
    store: Path,
    site: OpenMojiSite,
    tmp_path: Path,
) -> None:
    shutil.copytree(published.train, tmp_path / "more")
    shutil.copy(published.heldout_tables[0], tmp_path / "more" / "part-00009.parquet")
    before = len(site.requests())
    more = run_ingest(tmp_path / "more", ingest_settings(), store)
    new_urls = set(pq.read_table(published.heldout_tables[0])["URL"].to_pylist())
    assert {request["url"] for request in site.requests()[before:]} == new_urls
    assert more.manifest["counts"]["in"] == 60
    assert {**fates(more), **fates(ingested)} == fates(more)


_KILLED_RUN = """
import json, sys
from gigagan_core.config.ingest import IngestSettings
from gigagan_core.stages import ingest, partitions
from gigagan_core.stages.base import RunContext
if __name__ == "__main__":
    with RunContext.open(sys.argv[1]) as context:
        ingest.run(IngestSettings.model_validate_json(sys.argv[3]), {"metadata": sys.argv[2]}, context)
"""


def test_a_run_killed_in_the_middle_and_given_again_ends_as_if_it_never_was(
    ingested: Artifact,
    published: PublishedSet,
    ingest_settings: MakeSettings,
    site: OpenMojiSite,
    tmp_path: Path,
) -> None:
    settings = ingest_settings(partitions_in_flight=1)
    before = len(site.requests())
    arguments = [str(tmp_path), str(published.train), settings.model_dump_json()]
    killed = subprocess.Popen([sys.executable, "-c", _KILLED_RUN, *arguments], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    # The first partition's 27 URLs are done, the second one's are under way.
    while len(site.requests()) < before + 45 and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait(10) == -signal.SIGKILL
    (finished,) = tmp_path.glob("download/*/manifest.json")
    done = set(pq.read_table(finished.with_name("00000.parquet"))["url"].to_pylist())
    asked_before = len(site.requests())
    resumed = run_ingest(published.train, settings, tmp_path)
    assert fates(resumed) == fates(ingested)
    assert resumed.manifest["counts"] == ingested.manifest["counts"]
    assert not done & {request["url"] for request in site.requests()[asked_before:]}
    assert list((tmp_path / "_work").glob("*/")) == []


FEW, MANY = range(3), range(3, 23)


@pytest.mark.parametrize("seed", [*FEW, *(pytest.param(seed, marks=pytest.mark.slow) for seed in MANY)])
def test_killed_at_any_moment_and_given_again_nothing_is_lost_and_nothing_comes_twice(
    seed: int,
    ingested: Artifact,
    published: PublishedSet,
    ingest_settings: MakeSettings,
    site: OpenMojiSite,
    tmp_path: Path,
) -> None:
    settings, random = ingest_settings(partitions_in_flight=2), Random(seed)
    arguments = [str(tmp_path), str(published.train), settings.model_dump_json()]
    for _ in range(1 + random.randrange(2)):
        enough = len(site.requests()) + random.randrange(56)
        killed = subprocess.Popen([sys.executable, "-c", _KILLED_RUN, *arguments], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(site.requests()) < enough and killed.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(random.random() * 0.3)
        killed.kill()
        killed.wait(10)
    resumed = run_ingest(published.train, settings, tmp_path)
    assert fates(resumed) == fates(ingested)
    assert len(rows_of(resumed)) == len(fates(resumed)), "no row twice"
    assert resumed.manifest["counts"] == ingested.manifest["counts"]
    assert list((tmp_path / "_work").glob("*/")) == []


def test_hostile_captions_pass_untouched_and_null_ones_are_counted(
    good_urls: list[str], ingest_settings: MakeSettings, tmp_path: Path
) -> None:
    captions = [
        "<script>alert(1)</script>",
        "\x1b[31mred\x1b[0m\x07 \u202eevil",
        "a\nb\tc",
        None,
        "[bold]x[/bold]",
    ]
    table = table_of(tmp_path / "in", good_urls[:5], captions)
    artifact = run_ingest(table, ingest_settings(), tmp_path / "store")
    kept = [caption for caption in captions if caption is not None]
    assert load_all(artifact, 32)[1] == kept
    members = members_of(artifact.path / "00000.tar")
    texts = {content.decode() for name, content in members.items() if name.endswith(".txt")}
    assert texts == set(kept)
    assert artifact.manifest["counts"] == {"in": 5, "out": 4, "rejected": {"no_caption": 1}}


def test_a_full_disk_in_the_middle_is_one_sentence_and_the_same_command_goes_on(
    published: PublishedSet, ingest_settings: MakeSettings, ingested: Artifact, tmp_path: Path, monkeypatch
) -> None:
    original, added = download._PartitionWriter.add, []

    def full(self, fetched) -> None:
        added.append(fetched.row)
        if len(added) > 30:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, fetched)

    settings = ingest_settings(partitions_in_flight=1)
    with monkeypatch.context() as patched:
        patched.setattr(download._PartitionWriter, "add", full)
        with pytest.raises(GigaganError, match=r"ingest: no space left .* finished work is kept"):
            run_ingest(published.train, settings, tmp_path)
    assert len(list(tmp_path.glob("download/*/manifest.json"))) == 1
    assert fates(run_ingest(published.train, settings, tmp_path)) == fates(ingested)


def test_a_long_table_is_cut_into_partitions(
    good_urls: list[str], ingest_settings: MakeSettings, tmp_path: Path
) -> None:
    table = table_of(tmp_path / "in", good_urls[:7])
    artifact = run_ingest(table, ingest_settings(rows_per_partition=3), tmp_path / "store")
    shards = json.loads((artifact.path / "shards.json").read_text())
    assert [shard["rows"] for shard in shards] == [3, 3, 1]
    assert len(set(fates(artifact))) == 7
    assert [row["url"] for row in rows_of(artifact)] == good_urls[:7]


def test_over_the_error_budget_the_run_stops_and_finished_partitions_stay(
    good_urls: list[str], ingest_settings: MakeSettings, site: OpenMojiSite, tmp_path: Path
) -> None:
    good = table_of(tmp_path / "in", good_urls[:4])
    dead = table_of(
        tmp_path / "in", [f"http://{openmoji.HOST}/160/none-{n}.png" for n in range(3)] + good_urls[4:5]
    )
    settings = ingest_settings(partitions_in_flight=1, fetch={"max_failed_share": 0.5})
    sentence = (
        r"t1\.parquet: 75% of 4 URLs failed, more than fetch\.max_failed_share=0\.5 allows \(http_404 3\)"
    )
    with pytest.raises(GigaganError, match=sentence):
        run_ingest([good, dead], settings, tmp_path / "store")
    assert len(list(tmp_path.glob("store/download/*/manifest.json"))) == 1
    before = len(site.requests())
    generous = ingest_settings(partitions_in_flight=1, fetch={"max_failed_share": 1.0})
    artifact = run_ingest([good, dead], generous, tmp_path / "store")
    assert artifact.manifest["counts"]["rejected"] == {"http_404": 3}
    assert not {request["url"] for request in site.requests()[before:]} & set(good_urls[:4])


def test_bad_input_is_one_sentence_before_anything_is_asked_for(
    good_urls: list[str], ingest_settings: MakeSettings, site: OpenMojiSite, tmp_path: Path
) -> None:
    before = len(site.requests())
    good = table_of(tmp_path / "in", good_urls[:2])
    wrong = tmp_path / "wrong.parquet"
    pq.write_table(pa.table({"a": [1], "b": [2]}), wrong)
    with pytest.raises(GigaganError, match=r"wrong\.parquet has the columns a, b"):
        run_ingest([good, wrong], ingest_settings(), tmp_path / "store")
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(good.read_bytes()[:200])
    with pytest.raises(GigaganError, match=r"cut\.parquet is not a whole parquet file"):
        run_ingest([good, cut], ingest_settings(), tmp_path / "store")
    empty = tmp_path / "empty.parquet"
    pq.write_table(pq.read_table(good).slice(0, 0), empty)
    with pytest.raises(GigaganError, match="without a row"):
        run_ingest(empty, ingest_settings(), tmp_path / "store")
    assert len(site.requests()) == before


def test_rules_that_leave_nothing_are_one_sentence(
    good_urls: list[str], ingest_settings: MakeSettings, tmp_path: Path
) -> None:
    table = table_of(tmp_path / "in", good_urls[:2])
    with pytest.raises(GigaganError, match=r"none of 2 rows is left \(picture_too_small 2\)"):
        run_ingest(table, ingest_settings(rules={"min_side": 161}), tmp_path / "store")


def test_images_on_the_block_list_are_not_kept_and_the_list_is_known_by_its_sums(
    published: PublishedSet, ingest_settings: MakeSettings, ingested: Artifact, tmp_path: Path
) -> None:
    blocked = sorted({row["sha256"] for row in rows_of(ingested) if row["status"] == "success"})[:2]
    listed = tmp_path / "blocked.txt"
    listed.write_text(f"# known to be harmful\n{blocked[0].upper()}\n\n{blocked[1]}  # twice seen\n")
    made = run_ingest(published.train, ingest_settings(block_list=str(listed)), tmp_path / "store")
    statuses = {row["sha256"]: row["status"] for row in rows_of(made) if row["sha256"]}
    assert {statuses[each] for each in blocked} == {"blocked"}
    assert made.manifest["counts"]["rejected"]["blocked"] == len(blocked)
    keys = {row["key"] for row in rows_of(made) if row["status"] == "blocked"}
    assert not keys & pictures_of(made.path)
    listed.write_text("\n".join(reversed(blocked)))
    again = run_ingest(published.train, ingest_settings(block_list=str(listed)), tmp_path / "store")
    assert again.fingerprint == made.fingerprint, "order and comments decide nothing"
    listed.write_text(blocked[0])
    other = run_ingest(published.train, ingest_settings(block_list=str(listed)), tmp_path / "store")
    assert other.fingerprint != made.fingerprint


@pytest.mark.parametrize(
    ("text", "sentence"), [(None, "cannot be read"), ("not a sum\n", "'not a sum' is no sha256")]
)
def test_a_block_list_that_is_none_is_refused_before_anything_is_fetched(
    text: str | None, sentence: str, published: PublishedSet, ingest_settings: MakeSettings, tmp_path: Path
) -> None:
    listed = tmp_path / "blocked.txt"
    if text is not None:
        listed.write_text(text)
    with pytest.raises(GigaganError, match=sentence):
        run_ingest(published.train, ingest_settings(block_list=str(listed)), tmp_path / "store")
    assert not list((tmp_path / "store").glob("download/*"))


def test_a_body_that_is_not_the_one_the_table_knows_is_refused(
    ingested: Artifact, ingest_settings: MakeSettings, tmp_path: Path
) -> None:
    good = [row for row in rows_of(ingested) if row["status"] == "success"][:6]
    sums = [row["sha256"] for row in good]
    sums[1] = "0" * 64
    table = {
        "uid": [row["key"] for row in good],
        "url": [row["url"] for row in good],
        "text": [row["caption"] for row in good],
        "original_width": [256] * 6,
        "original_height": [256] * 6,
        "sha256": [sums[0].upper(), *sums[1:5], None],
    }
    pq.write_table(pa.table(table), tmp_path / "table.parquet")
    made = run_ingest(tmp_path / "table.parquet", ingest_settings(), tmp_path / "store")
    statuses = {row["url"]: row["status"] for row in rows_of(made)}
    expected = {row["url"]: "success" for row in good} | {good[1]["url"]: "sha256_mismatch"}
    assert statuses == expected
    trusting = ingest_settings(fetch={"verify_sha256": False})
    made = run_ingest(tmp_path / "table.parquet", trusting, tmp_path / "store")
    assert {row["status"] for row in rows_of(made)} == {"success"}
