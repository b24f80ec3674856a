"""What is handed to a job is JSON, and comes out of it as it went in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_stage import TinySettings, run

from gigagan_core.backends import request as requests
from gigagan_core.backends.request import Request, decode, encode, request_of
from gigagan_core.config import presets
from gigagan_core.config.base import result_settings
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import RunContext, StageCall
from gigagan_core.store.artifact import Artifact, ExternalFile, ExternalTable, digest_of
from gigagan_core.store.store import open_store
from gigagan_core.tracking.mlflow_run import MlflowTracker


@pytest.fixture
def artifact(context: RunContext) -> Artifact:
    return run(TinySettings(), {}, context)


def test_inputs_survive_as_json(context: RunContext, artifact: Artifact) -> None:
    inputs = {
        "data": [(artifact, 0.5), (artifact, 2.0)],
        "encoder": ExternalFile("ViT:/w.pt", "a" * 64, read_as="ViT"),
        "metadata": [ExternalTable("/t.parquet", "b" * 64, 7)],
        "captions": Path("/c.csv"),
        "train": None,
        "place": "s3://bucket/x",
    }
    for name, value in inputs.items():
        back = decode(json.loads(json.dumps(encode(value))), context.store)
        assert digest_of(back) == digest_of(value), name
    assert decode(encode(inputs["captions"]), context.store) == Path("/c.csv")
    assert decode(encode(inputs["metadata"]), context.store)[0].rows == 7
    with pytest.raises(TypeError, match="object cannot be handed"):
        encode(object())


@pytest.mark.parametrize("preset", ["demo", "openmoji"])
def test_every_stages_settings_survive_with_their_fingerprint(preset: str, context: RunContext) -> None:
    whole = presets.preset(preset)
    for name in type(whole).model_fields:
        settings = getattr(whole, name)
        if settings is None:
            continue
        request = request_of(StageCall(run, settings, {}), context)
        request.write(context.store, "job")
        back = requests.settings_of(Request.read(context.store, "job"))
        assert result_settings(back) == result_settings(settings), name
        assert back == settings, name


def test_an_artifact_from_outside_the_store_is_found_by_its_place(
    context: RunContext, artifact: Artifact, tmp_path: Path
) -> None:
    with RunContext.open(str(tmp_path / "other")) as other:
        assert decode(encode(artifact), other.store) == artifact
        Path(artifact.uri).rename(tmp_path / "moved")
        with pytest.raises(GigaganError, match="holds the stage's inputs"):
            decode(encode(artifact), other.store)


def test_the_key_is_of_the_call_and_not_of_who_records_it(context: RunContext, tmp_path: Path) -> None:
    def key(settings: TinySettings, **inputs: str) -> str:
        return request_of(StageCall(run, settings, inputs), context).key

    first = key(TinySettings())
    context.origin = {"prefect.flow_run_id": "1"}
    assert key(TinySettings()) == first
    others = [key(TinySettings(word="x")), key(TinySettings(), data="y")]
    context.store = open_store(str(tmp_path / "other"))
    assert len({first, *others, key(TinySettings())}) == 4


def test_a_password_in_an_address_stays_here(context: RunContext) -> None:
    tracker = MlflowTracker("postgresql://user:secret@host/mlflow", tags={"a": "b"})
    context.tracker = tracker
    request = request_of(StageCall(run, TinySettings(), {}), context)
    request.write(context.store, "job")
    kept = Path(context.store.uri, "_jobs", "job.request.json").read_text()
    assert "secret" not in kept
    assert MlflowTracker.of(request.tracker, {"gigagan.job": "job"})._tags == {"a": "b", "gigagan.job": "job"}


def test_a_missing_request_is_one_sentence(context: RunContext) -> None:
    with pytest.raises(GigaganError, match="see the same store"):
        Request.read(context.store, "nobody")
