"""What an ingest says of itself: while it runs, in its record, and as warnings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gigagan_core.config.ingest import IngestSettings
from gigagan_core.data import openmoji
from gigagan_core.data.openmoji import PublishedSet
from gigagan_core.data.site import OpenMojiSite
from gigagan_core.stages import ingest, partitions
from gigagan_core.stages.base import RunContext
from gigagan_core.store.fingerprint import code_digest
from gigagan_core.tracking.null import NullRun

from .helpers import run_ingest

MakeSettings = Callable[..., IngestSettings]


def test_the_record_of_a_run_has_the_sets_page_and_the_tables_it_is_made_of(
    published: PublishedSet, ingest_settings: MakeSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages, read = [], []
    monkeypatch.setattr(NullRun, "log_artifact", lambda self, path: pages.append(path.read_text()))
    monkeypatch.setattr(NullRun, "log_dataset", lambda self, *described: read.append(described))
    made = run_ingest(published.train, ingest_settings(attribution="drawn by many"), tmp_path)
    (page,) = pages
    assert f"{made.manifest['counts']['out']} of 54 rows are selected, in 2" in page
    assert "http 404" in page
    assert "data:image/jpeg" in page
    assert "drawn by many" in page
    assert not list(made.path.glob("*.html")), "it is no part of the output digest"
    ((name, place, digest, counts),) = read
    assert (name, place, counts) == ("ingest", str(published.train), made.manifest["counts"])
    one = run_ingest(sorted(published.train.glob("*.parquet"))[0], ingest_settings(), tmp_path)
    assert read[1][1] == str(sorted(published.train.glob("*.parquet"))[0])
    assert read[1][2] != digest
    assert one.fingerprint != made.fingerprint


def test_counts_are_told_while_it_runs(
    published: PublishedSet,
    ingest_settings: MakeSettings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.setattr(partitions, "TELL_SECONDS", 0.0)
    told, logged = [], []
    monkeypatch.setattr(NullRun, "log_metrics", lambda self, metrics, step=0: logged.append((step, metrics)))
    with RunContext.open(str(tmp_path), on_progress=lambda *given: told.append(given)) as context:
        made = ingest.run(ingest_settings(), {"metadata": published.train}, context)
    what, share, figures = told[-1]
    assert (what, 0 < share <= 1) == ("ingest: fetching", True)
    assert "success" in figures
    assert [share for _, share, _ in told] == sorted(share for _, share, _ in told)
    step, metrics = logged[-1]
    assert 0 < metrics["fetch/success"] <= step <= 54
    assert metrics["fetch/urls_per_second"] > 0
    reasons = made.manifest["counts"]["rejected"]
    failed = {name.rpartition("/")[2]: n for name, n in metrics.items() if name.startswith("fetch/failed/")}
    assert failed
    assert all(0 < n <= reasons[reason] for reason, n in failed.items())
    shown = capsys.readouterr().err
    assert "fetching: 54/54 URLs" in shown
    assert "http_404" in shown


def test_own_pictures_among_the_drawings_are_not_said_to_be_drawings(
    published: PublishedSet, site: OpenMojiSite, ingest_settings: MakeSettings, tmp_path: Path
) -> None:
    table = pq.read_table(sorted(published.train.glob("*.parquet"))[0])
    urls = [url.replace(openmoji.HOST, "own.example") for url in table["URL"].to_pylist()]
    pq.write_table(pa.table({"url": urls, "caption": ["mine"] * len(urls)}), tmp_path / "own.parquet")
    hosts = {"own.example": site.hosts[openmoji.HOST]}
    settings = ingest_settings(site="openmoji", fetch={"hosts": hosts})
    drawings = run_ingest(published.heldout, settings, tmp_path / "store")
    assert openmoji.are_drawings(drawings.notes)
    mixed = run_ingest([published.heldout, tmp_path / "own.parquet"], settings, tmp_path / "store")
    assert mixed.manifest["counts"]["out"] > drawings.manifest["counts"]["out"]
    assert not openmoji.are_drawings(mixed.notes)
    assert mixed.notes["attribution"] == f"Of a part of the pictures: {openmoji.ATTRIBUTION}"
    assert mixed.notes["licence"] == f"Of a part of the pictures: {openmoji.LICENCE}"


def test_the_pages_source_decides_no_shard_set() -> None:
    for module in ("gigagan_core.stages.ingest", "gigagan_core.stages.import_data"):
        _, modules = code_digest(module)
        assert "gigagan_core.data.rules" in modules
        assert not {"gigagan_core.data.report", "gigagan_core.stages.pages"} & set(modules)


def test_a_withdrawn_release_gets_a_warning_first_and_it_stays_with_the_artifact(
    published: PublishedSet,
    ingest_settings: MakeSettings,
    site: OpenMojiSite,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    told, before = [], len(site.requests())

    def hear(message: str) -> None:
        assert len(site.requests()) == before, "nothing was fetched yet"
        told.append(message)

    with RunContext.open(str(tmp_path / "store"), on_warning=hear) as context:
        made = ingest.run(ingest_settings(), {"metadata": published.train}, context)
    assert told == made.manifest["notes"]["warnings"]
    (warning,) = made.manifest["notes"]["warnings"]
    assert "laion2B-en-joined" in warning
    assert "Re-LAION" in warning
    assert "block_list" in warning
    assert warning in " ".join(capsys.readouterr().err.split())
    run_ingest(published.train, ingest_settings(), tmp_path / "store")
    assert "warning: tables of laion2B-en-joined" in capsys.readouterr().err, (
        "also where nothing is to be done"
    )
