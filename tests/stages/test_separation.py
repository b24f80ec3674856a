"""The real stages: what decides each, and what deciding costs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from gigagan_core.assets.catalogue import CATALOGUE
from gigagan_core.config.curate import SCORERS
from gigagan_core.evaluation import published_tables
from gigagan_core.stages import curate, scoring
from gigagan_core.store import fingerprint


def test_real_stages_are_separated_as_the_design_says() -> None:
    _, ingest = fingerprint.code_digest("gigagan_core.stages.ingest")
    _, train = fingerprint.code_digest("gigagan_core.stages.train_base")
    assert not [name for name in ingest if name.startswith(("gigagan_core.losses", "gigagan_core.models"))]
    assert [name for name in train if name.startswith("gigagan_core.losses.")]
    assert not [name for name in train if name.startswith("gigagan_core.evaluation")]


def test_scoring_and_selecting_decide_nothing_of_each_other() -> None:
    _, selection = fingerprint.code_digest(curate.SPEC.module)
    selecting = {name for name in selection if "selection" in name or "duplicates" in name}
    assert {"gigagan_core.data.selection", "gigagan_core.data.near_duplicates"} <= selecting
    computing = {"gigagan_core.stages.scoring", "gigagan_core.data.scoring", "gigagan_core.data.scorers"}
    assert not computing & set(selection)
    for scorer in SCORERS:
        _, modules = fingerprint.code_digest(scoring.spec_of(scorer).module)
        assert "gigagan_core.data.scoring" in modules
        assert not selecting & set(modules), scorer
        others = set(scoring.SCORER_MODULES.values()) & set(modules)
        assert others == {scoring.SCORER_MODULES[scorer]}, "an edited scorer reruns no other one"


def digests() -> tuple[str, ...]:
    """Of the sources of evaluation, training and ingest."""
    stages = ("evaluate", "train_base", "train_upsampler", "curate", "ingest")
    return tuple(fingerprint.code_digest(f"gigagan_core.stages.{stage}")[0] for stage in stages)


def test_a_corrected_published_number_decides_a_report_and_nothing_else(tmp_path, monkeypatch) -> None:
    assert {path.stem for path in fingerprint.TABLES.glob("*")} == set(published_tables.TABLES)
    before, copy = digests(), tmp_path / "tables"
    shutil.copytree(fingerprint.TABLES, copy)
    monkeypatch.setattr(fingerprint, "TABLES", copy)
    assert digests() == before
    (copy / "table2.csv").write_text((copy / "table2.csv").read_text().replace("9.09", "9.10"))
    after = digests()
    assert after[0] != before[0]
    assert after[1:] == before[1:]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("inception", {"reader": "inception-legacy_pytorch"}),
        ("coco-2014-val", {"images": 40_503}),
        ("coco-2014-captions", {"member": "annotations/captions_train2014.json"}),
        ("clip-vit-b32", {"sha256": "0" * 64}),
    ],
)
def test_what_the_catalogue_says_of_an_asset_decides_a_report_and_nothing_else(
    monkeypatch, name, change
) -> None:
    before, known = digests(), CATALOGUE[name]
    monkeypatch.setitem(CATALOGUE, name, replace(known, address="http://elsewhere/", licence="another"))
    assert digests() == before
    monkeypatch.setitem(CATALOGUE, name, replace(known, **change))
    after = digests()
    assert after[0] != before[0]
    assert after[1:] == before[1:]


def test_deciding_that_everything_is_there_needs_neither_torch_nor_ray(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from gigagan_core.stages import ingest, train_encoder, curate, train_base, train_upsampler, evaluate\n"
        "from gigagan_core.store.fingerprint import code_digest\n"
        "code_digest('gigagan_core.stages.evaluate')\n"
        "from gigagan_core.store.store import open_store\n"
        "open_store(sys.argv[1]).artifacts()\n"
        "heavy = {'torch', 'ray', 'mlflow', 'prefect', 'open_clip'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
