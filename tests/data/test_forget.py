"""Forgetting: pictures and descriptions go, counts stay, models are named, nothing comes back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from gigagan_core.config.curate import ScoreSettings
from gigagan_core.config.ingest import IngestSettings
from gigagan_core.data.forget import Forgotten
from gigagan_core.data.openmoji import HOST, PublishedSet
from gigagan_core.data.scorers import image_embedding
from gigagan_core.data.scores import read_scores
from gigagan_core.errors import GigaganError
from gigagan_core.stages import ingest, scoring
from gigagan_core.stages.base import RunContext, materialise
from gigagan_core.stages.forget import forget
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.fingerprint import sha256_file
from gigagan_core.store.lineage import made_of
from gigagan_core.store.store import Store, open_store

from .helpers import pictures_of, rows_of, run_ingest


def first_table(published: PublishedSet) -> str:
    return str(sorted(published.train.glob("*.parquet"))[0])


@pytest.fixture
def ingested(published: PublishedSet, ingest_settings: Callable[..., IngestSettings], tmp_path: Path):
    """A store with one table ingested, and the settings that did it."""
    settings = ingest_settings()
    return open_store(str(tmp_path)), run_ingest(first_table(published), settings, tmp_path), settings


@pytest.fixture
def scored(ingested, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """Embeddings of the ingested set, all ones."""

    class Ones:
        name, version, image_size = "embedding", "1", 8

        def score(self, inputs: torch.Tensor, captions: list[str]) -> dict[str, torch.Tensor]:
            return {self.name: torch.ones(len(captions), 4)}

    store, artifact, _ = ingested
    monkeypatch.setattr(image_embedding, "load", lambda settings, places: Ones())
    with RunContext.open(store) as context:
        spec = scoring.spec_of(scoring.EMBEDDING)
        settings = ScoreSettings(scorer="image_embedding")
        return materialise(spec, settings, {"data": artifact}, context, scoring.embed)


def test_embeddings_and_scores_of_a_sample_go_with_it(ingested, scored: Artifact) -> None:
    store, artifact, _ = ingested
    victim = next(row for row in rows_of(artifact) if row["status"] == "success" and row["selected"])
    forget(store, Forgotten.of(urls=[victim["url"]]))
    stored = read_scores(store.find("embed", scored.fingerprint).path / "00000.parquet")
    place = stored.keys.index(victim["key"])
    vectors = stored.columns["embedding"]
    assert np.isnan(vectors[place]).all()
    assert (np.delete(vectors, place, axis=0) == 1).all()
    assert stored.missing == {"forgotten": 1}
    counts, before = store.find("embed", scored.fingerprint).manifest["counts"], scored.manifest["counts"]
    assert counts == {**before, "out": before["out"] - 1, "rejected": {"forgotten": 1}}


def kept(artifact: Artifact) -> list[dict]:
    return [row for row in rows_of(artifact) if row["status"] == "success" and row["selected"]]


def test_a_second_request_finds_what_was_made_before_the_first_one(ingested, scored: Artifact) -> None:
    store, artifact, _ = ingested
    model = train_on(store, artifact)
    first, second, *_ = kept(artifact)
    assert forget(store, Forgotten.of(urls=[first["url"]])).trained == [model]
    assert forget(store, Forgotten.of(urls=[f" {second['url']}"])).trained == [model]
    stored = read_scores(store.find("embed", scored.fingerprint).path / "00000.parquet")
    assert stored.missing == {"forgotten": 2}
    assert forget(store, Forgotten.of(urls=["http://nowhere.example/x"])).trained == []


def train_on(store: Store, data: Artifact) -> Artifact:
    """A model by its manifest, made of a shard set as it is now."""
    manifest = {
        "stage": "train-base",
        "kind": "base-model",
        "fingerprint": "f" * 64,
        "counts": {},
        "parts": {},
    }
    with store.work("f" * 64) as folder:
        (folder / "output").mkdir()
        return store.commit(folder / "output", {**manifest, "inputs": {"data": data.reference()}})


class Killed(BaseException):
    """A kill, as it is in Python."""


def die_at_write(number: int, root: Path) -> Callable[[str, str], None]:
    """In the place of `os.replace`: the last step of each write to a store's artifacts."""
    replace, written = os.replace, []

    def dies(source: str, target: str) -> None:
        below = Path(target).relative_to(root).parts if Path(target).is_relative_to(root) else ("_",)
        if not below[0].startswith("_"):
            written.append(target)
            if len(written) > number:
                raise Killed
        replace(source, target)

    return dies


def test_killed_between_any_two_writes_and_given_again_it_is_as_if_it_never_was(
    ingested, scored: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, artifact, _ = ingested
    victim = kept(artifact)[0]
    wanted = Forgotten.of(urls=[victim["url"]])
    # tar, table and manifest of the partition; of the set, and its index; scores and their manifest
    for write in range(9):
        root = tmp_path.with_name(f"{tmp_path.name} {write}")
        shutil.copytree(store.uri, root)
        copied = open_store(str(root))
        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", die_at_write(write, root))
            with pytest.raises(Killed):
                forget(copied, wanted)
        forget(copied, wanted)
        assert_forgotten(copied, victim)
        (shard,) = json.loads((copied.find("ingest", artifact.fingerprint).path / "shards.json").read_text())
        assert shard["selected"] == artifact.manifest["counts"]["out"] - 1


def assert_forgotten(store: Store, victim: dict) -> None:
    """One sample is nowhere, and every manifest says what is there."""
    artifacts = store.artifacts()
    assert len(artifacts) == 3
    for each in artifacts:
        for name, entry in each.manifest["files"].items():
            assert sha256_file(each.path / name) == entry["sha256"], f"{each.kind} {name}"
        counts = each.manifest["counts"]
        assert counts["in"] == counts["out"] + sum(counts["rejected"].values())
        assert counts["rejected"]["forgotten"] == 1
        if each.kind == "embeddings":
            assert read_scores(each.path / "00000.parquet").missing == {"forgotten": 1}
        else:
            assert victim["key"] not in pictures_of(each.path)
            for path in each.path.glob("*.parquet"):
                assert victim["url"] not in pq.read_table(path)["url"].to_pylist()


def test_a_host_takes_all_its_samples(ingested) -> None:
    store, artifact, _ = ingested
    removal = forget(store, Forgotten.of(hosts=[HOST]))
    assert {each.kind: rows for each, rows in removal.rows} == {"partition": 27, "shard-set": 27}
    after = store.find("ingest", artifact.fingerprint)
    assert {row["status"] for row in rows_of(after)} == {"forgotten"}
    assert pictures_of(after.path) == set()
    assert after.manifest["counts"]["out"] == 0


@pytest.mark.parametrize("by", ["url", "sha256"])
def test_a_sample_is_removed_from_tars_and_tables_and_the_counts_add_up(by: str, ingested) -> None:
    store, artifact, _ = ingested
    victim = next(row for row in rows_of(artifact) if row["status"] == "success" and row["selected"])
    wanted = Forgotten.of(urls=[victim["url"]]) if by == "url" else Forgotten.of(sha256=[victim["sha256"]])
    removal = forget(store, wanted)
    assert {each.kind for each, _ in removal.rows} == {"partition", "shard-set"}
    after = store.find("ingest", artifact.fingerprint)
    assert after.output_digest != artifact.output_digest, "what depends on it runs again"
    left = {row["key"]: row for row in rows_of(after)}
    blank = left[victim["key"]]
    assert (blank["status"], blank["selected"]) == ("forgotten", False)
    described = set(blank) - {"key", "source", "status", "selected"}
    assert {"url", "caption", "sha256", "phash"} <= described
    assert not any(blank[name] for name in described)
    for folder in (each.path for each in store.artifacts() if each.kind in ("partition", "shard-set")):
        assert victim["key"] not in pictures_of(folder)
    counts = after.manifest["counts"]
    assert counts["out"] == artifact.manifest["counts"]["out"] - 1
    assert counts["in"] == counts["out"] + sum(counts["rejected"].values())
    everything = b"".join(path.read_bytes() for path in after.path.rglob("*") if path.is_file())
    assert victim["url"].encode() not in everything
    assert pictures_of(after.path) == pictures_of(artifact.path)
    untouched = [row for row in rows_of(after) if row["key"] != victim["key"]]
    assert all(row["caption"] for row in untouched)


def test_what_is_forgotten_is_not_fetched_again(ingested, published, site) -> None:
    store, artifact, settings = ingested
    victim = next(row for row in rows_of(artifact) if row["status"] == "success" and row["selected"])
    forget(store, Forgotten.of(urls=[victim["url"]]))
    with RunContext.open(store.uri, force=True) as context:
        again = ingest.run(settings, {"metadata": first_table(published)}, context)
    statuses = {row["key"]: row["status"] for row in rows_of(again)}
    assert statuses[victim["key"]] == "forgotten"
    assert again.manifest["counts"]["rejected"]["forgotten"] == 1
    assert victim["key"] not in pictures_of(again.path)


def test_a_host_is_meant_with_its_subdomains_and_nothing_like_it() -> None:
    wanted = Forgotten.of(hosts=["Example.com."])
    for url in ("http://example.com/a.jpg", "https://cdn.EXAMPLE.com:8080/b", "http://example.com./c"):
        assert wanted.names(url), url
    for url in (
        "http://example.com.evil.org/",
        "http://notexample.com/",
        "http://other.org/?example.com",
        None,
    ):
        assert not wanted.names(url), url


@pytest.mark.parametrize("host", ["bücher.example", "BÜCHER.example.", "xn--bcher-kva.example"])
def test_a_host_of_other_letters_is_meant_in_both_spellings(host: str) -> None:
    wanted = Forgotten.of(hosts=[host])
    assert wanted.names("http://bücher.example/a")
    assert wanted.names("https://cdn.xn--bcher-kva.example/b")
    assert not wanted.names("http://bucher.example/a")
    assert not wanted.names(f"http://{'a' * 70}.example/"), "which is no name, and no reason to stop"


@pytest.mark.parametrize(
    "given", [{}, {"urls": [" "]}, {"hosts": ["."]}, {"sha256": ["12"]}, {"sha256": ["x" * 64]}]
)
def test_a_request_that_names_nothing_is_refused(given: dict[str, list[str]]) -> None:
    with pytest.raises(GigaganError):
        Forgotten.of(**given)


def test_requests_add_up_and_are_remembered(ingested) -> None:
    from gigagan_core.stages.forget import remembered

    store, _, _ = ingested
    assert not remembered(store)
    assert forget(store, Forgotten.of(urls=["http://nowhere.example/x"])).rows == []
    forget(store, Forgotten.of(hosts=["bad.example"]))
    assert remembered(open_store(store.uri)) == Forgotten.of(
        urls=["http://nowhere.example/x"], hosts=["bad.example"]
    )
    assert all(not name.startswith("_") for name in {each.stage for each in store.artifacts()})


def test_models_are_found_through_what_lies_between(tmp_path: Path) -> None:
    def made(stage: str, *inputs: Artifact) -> Artifact:
        references = {str(n): [each.reference()] for n, each in enumerate(inputs)}
        return Artifact(
            stage, stage, stage * 4, 1, f"digest of {stage}", str(tmp_path), {"inputs": references}
        )

    data, other = made("ingest"), made("other")
    curated = made("curate", data)
    model, stranger = made("train-base", curated, other), made("train-encoder", other)
    everything = [stranger, model, curated, data, other]
    assert made_of(everything, [data]) == [model, curated]
    assert made_of(everything, [stranger]) == []


def test_the_command_names_what_was_removed(ingested, capsys) -> None:
    from gigagan_core.cli import store_keeping_commands

    store, artifact, _ = ingested
    victim = next(row for row in rows_of(artifact) if row["status"] == "success")
    store_keeping_commands.forget(url=[victim["url"]], store=store.uri)
    shown = capsys.readouterr()
    assert artifact.short in shown.out
    assert isinstance(store, Store)
