"""The real stages: what decides each, and what deciding costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from gigagan_core.config.curate import SCORERS
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
