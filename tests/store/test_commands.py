"""`gigagan store ...` as a person sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gigagan_core.cli.options import duration, moment
from gigagan_core.errors import GigaganError
from gigagan_core.store import runs
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.runs import RunRecord
from gigagan_core.store.store import Store, open_store

Make = Callable[..., Artifact]


@pytest.fixture
def made(make: Make, store: Store) -> dict[str, Artifact]:
    """Shard set, model and report of one run, a control that nothing refers to, all older than a month."""
    shards = make("ingest", "shard-set", {"table": None}, {"rules": {"min_side": 1}}, days_old=50)
    model = make("train-base", "base-model", {"data": shards}, {"seed": 1}, days_old=45)
    lonely = make(
        "train-base", "base-model", {"data": shards}, {"seed": 2}, {"gigagan_core.losses": "2"}, days_old=44
    )
    report = make("evaluate", "report", {"model": model, "train": shards}, days_old=40)
    record = RunRecord(
        id="ab" * 16,
        flow="pipeline",
        created="2026-01-01T00:00:00+00:00",
        process="",
        settings={},
        status="finished",
        artifacts={"report": {**report.reference(), "how": "made"}},
        prefect={"id": "1-2-3", "name": "amber-lynx", "url": "http://prefect/runs/1-2-3"},
    )
    runs.write(store, record)
    return {"shards": shards, "model": model, "lonely": lonely, "report": report}


def answer(done: Any) -> Any:
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_ls_filters_by_kind_age_and_use(gigagan: Any, make: Make, made: dict[str, Artifact]) -> None:
    def listed(*arguments: str) -> set[str]:
        return {each["fingerprint"] for each in answer(gigagan("ls", "--json", *arguments))}

    partition = make("download", "partition")
    assert listed() == {each.fingerprint for each in made.values()}
    assert listed("--all") - listed() == {partition.fingerprint}
    assert listed("--kind", "partition") == {partition.fingerprint}
    assert listed("--kind", "base-model") == {made["model"].fingerprint, made["lonely"].fingerprint}
    assert listed("--since", "42d") == {made["report"].fingerprint}
    assert listed("--unused") == {made["lonely"].fingerprint, partition.fingerprint}
    assert listed("--unused", "--kind", "base-model") == {made["lonely"].fingerprint}


def test_show_tells_lineage_up_and_down_size_and_links(gigagan: Any, made: dict[str, Artifact]) -> None:
    model = made["model"]
    shown = answer(gigagan("show", model.short, "--json"))
    assert shown["fingerprint"] == model.fingerprint
    assert [(each["role"], each["fingerprint"]) for each in shown["made_of"]] == [
        ("data", made["shards"].fingerprint)
    ]
    assert [(each["role"], each["fingerprint"]) for each in shown["used_by"]] == [
        ("model", made["report"].fingerprint)
    ]
    assert shown["bytes"] == 7
    report = answer(gigagan("show", made["report"].short, "--json"))
    assert report["runs"] == ["ab" * 16]
    assert report["links"] == {"Prefect run amber-lynx": "http://prefect/runs/1-2-3"}
    (nested,) = [each for each in report["made_of"] if each["role"] == "model"]
    assert nested["next"][0]["fingerprint"] == made["shards"].fingerprint
    text = gigagan("show", made["report"].short).stdout
    assert f"model: {model.short} train-base" in text
    assert f"data: {made['shards'].short} ingest" in text
    assert "(above)" in text, "the shard set is in the tree twice and told of once"
    assert "nothing in this store" in text


def test_show_links_to_mlflow_where_a_browser_finds_it(
    gigagan: Any, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make("train-base", "base-model", mlflow={"experiment_id": "1", "run_id": "r" * 32})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:secret@mlflow.example:5000")
    links = answer(gigagan("show", model.short, "--json"))["links"]
    assert links == {"MLflow run": f"https://mlflow.example:5000/#/experiments/1/runs/{'r' * 32}"}
    monkeypatch.setenv("GIGAGAN_MLFLOW_UI_URL", "http://localhost:5000")
    links = answer(gigagan("show", model.short, "--json"))["links"]
    assert links == {"MLflow run": f"http://localhost:5000/#/experiments/1/runs/{'r' * 32}"}
    monkeypatch.delenv("GIGAGAN_MLFLOW_UI_URL")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql+psycopg2://ana:secret@db/mlflow")
    links = answer(gigagan("show", model.short, "--json"))["links"]
    assert links == {"MLflow run": f"{'r' * 32} in postgresql+psycopg2://db/mlflow"}


def test_show_draws_a_loop_free_tree_of_a_shard_set_and_counts_its_partitions(
    gigagan: Any, make: Make
) -> None:
    parts = [make("download", "partition", settings={"start": start}) for start in (0, 1)]
    shards = make("ingest", "shard-set", notes={"partitions": [part.fingerprint for part in parts]})
    assert "2 partitions" in gigagan("show", shards.short).stdout


def test_diff_names_settings_and_modules_and_says_when_equal(gigagan: Any, made: dict[str, Artifact]) -> None:
    one, other = made["model"].short, made["lonely"].short
    differ = answer(gigagan("diff", one, other, "--json"))
    assert [(each["what"], each["name"]) for each in differ["differences"]] == [
        ("setting", "seed"),
        ("code", "gigagan_core.losses"),
    ]
    assert differ["same_content"]
    table = gigagan("diff", one, other)
    assert [line.split() for line in table.stdout.splitlines()][1] == ["setting", "seed", "1", "2"]
    equal = gigagan("diff", one, one)
    assert equal.stdout == ""
    assert "equal: settings, inputs, code and package versions are the same" in equal.stderr
    wrong = gigagan("diff", one, made["report"].short)
    assert wrong.exit_code == 1
    assert "name two of one stage" in wrong.stderr


def test_gc_removes_nothing_until_it_is_told_to(
    gigagan: Any, store: Store, made: dict[str, Artifact]
) -> None:
    planned = answer(gigagan("gc", "--json"))
    assert [each["fingerprint"] for each in planned["artifacts"]] == [made["lonely"].fingerprint]
    assert not planned["deleted"]
    assert planned["bytes"] > 7
    assert "nothing was removed: add --delete" in gigagan("gc").stderr
    assert len(store.artifacts()) == 4
    deleted = answer(gigagan("gc", "--delete", "--json"))
    assert deleted["deleted"]
    assert deleted["bytes"] == planned["bytes"]
    assert {each.fingerprint for each in open_store(store.uri).artifacts()} == {
        made[name].fingerprint for name in ("shards", "model", "report")
    }


def test_gc_spares_what_is_pinned_and_forgets_runs_beyond_keep(
    gigagan: Any, made: dict[str, Artifact]
) -> None:
    assert "is pinned" in gigagan("pin", made["lonely"].short, "--why", "the poster").stderr
    assert answer(gigagan("show", made["lonely"].short, "--json"))["pinned"]
    assert answer(gigagan("gc", "--json"))["artifacts"] == []
    planned = answer(gigagan("gc", "--keep", "0", "--json"))
    assert {each["fingerprint"] for each in planned["artifacts"]} == {
        made["model"].fingerprint,
        made["report"].fingerprint,
    }
    assert planned["runs"] == ["ab" * 16]
    assert planned["kept"] == {"pinned": 1}
    assert "is no longer pinned" in gigagan("unpin", made["lonely"].short).stderr


def test_gc_keeps_a_model_whose_mlflow_is_not_this_one(gigagan: Any, make: Make) -> None:
    make("train-base", "base-model", mlflow={"experiment_id": "1", "run_id": "r" * 32}, days_old=90)
    planned = answer(gigagan("gc", "--json"))
    assert planned["artifacts"] == []
    assert next(iter(planned["kept"])).startswith("its MLflow run rrrrrrrrrrrr is not in sqlite:///")
    assert len(answer(gigagan("gc", "--ignore-mlflow", "--json"))["artifacts"]) == 1


def test_runs_are_listed_with_what_they_reused(gigagan: Any, made: dict[str, Artifact]) -> None:
    (run,) = answer(gigagan("runs", "--json"))
    assert (run["id"], run["status"]) == ("ab" * 16, "finished")
    row = gigagan("runs").stdout.splitlines()[1].split()
    assert row == ["ab" * 6, "amber-lynx", "pipeline", "2026-01-01T00:00:00", "finished", "1", "0", "0"]


def test_a_name_that_fits_nothing_is_one_sentence(gigagan: Any, made: dict[str, Artifact]) -> None:
    done = gigagan("show", "0123456789")
    assert done.exit_code == 1
    assert "has no artifact '0123456789'; `gigagan store ls` lists what there is" in done.stderr


def test_times_are_written_as_dates_or_as_long_ago() -> None:
    assert duration("2w", "--older-than").days == 14
    assert duration("12h", "--older-than").total_seconds() == 43200
    assert moment("2026-11-01", "--since").isoformat() == "2026-11-01T00:00:00+00:00"
    with pytest.raises(GigaganError, match="--since 'soon' is no duration; write for example"):
        moment("soon", "--since")


@pytest.mark.parametrize("command", [["gc", "--older-than", "99999999999d"], ["ls", "--since", "1000000d"]])
def test_a_time_before_all_dates_is_one_sentence(gigagan: Any, command: list[str]) -> None:
    done = gigagan(*command)
    assert done.exit_code == 1
    assert f"{command[1]} '{command[2]}' reaches back beyond the year 1; give a shorter time" in done.stderr


def test_show_takes_a_path(gigagan: Any, made: dict[str, Artifact]) -> None:
    shown = answer(gigagan("show", str(Path(made["model"].uri)), "--json"))
    assert shown["fingerprint"] == made["model"].fingerprint
