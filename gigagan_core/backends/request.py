"""What a job is asked to do and what it answers, as JSON beside the artifacts: nothing is pickled.

`STORE/_jobs/<id>.request.json` and `.result.json`. The id names the asker and the call, so whoever asks for the same
finds the same job.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gigagan_core.config.backend import HeldSettings, PriceSettings
from gigagan_core.config.base import Settings, all_settings, parse
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import RunContext, StageCall, StageRecord
from gigagan_core.store.artifact import Artifact, ExternalFile, ExternalTable
from gigagan_core.store.fingerprint import code_digest, digest
from gigagan_core.store.store import Store

FOLDER = "_jobs"
Progress = tuple[str, float, dict[str, Any]]
"""What is being done, the share that is done, figures of it."""
_PROGRESS = "gigagan-progress "


class Request(Settings):
    """A stage's call. run: module of the stage. code, modules: digests of the source that decides its result, of all
    and of each module. store: URI, as the submitter sees it."""

    run: str
    store: str
    settings_type: str
    settings: dict[str, Any]
    inputs: dict[str, Any]
    options: dict[str, Any]
    force: bool
    accept_code_change: bool
    code: str
    modules: dict[str, str]
    tracker: dict[str, Any] | None
    origin: dict[str, Any]
    held: HeldSettings | None = None
    prices: PriceSettings = PriceSettings()

    @property
    def stage(self) -> str:
        """The last part of the module's name, with dashes: for ids and names."""
        return self.run.rpartition(".")[2].replace("_", "-")

    @property
    def key(self) -> str:
        """Eight digits that the same call has again, whoever asks and whatever records it."""
        others = {"modules", "tracker", "origin", "held", "prices"}
        return digest(self.model_dump(mode="json", exclude=others))[:8]

    def write(self, store: Store, job: str) -> None:
        """Keep the request where the job finds it; what an earlier job of that id has answered counts no more."""
        store.write_note(f"{FOLDER}/{job}.result.json", None)
        store.write_note(f"{FOLDER}/{job}.request.json", all_settings(self))

    @classmethod
    def read(cls, store: Store, job: str) -> Request:
        """The request of a job. Raises GigaganError where there is none."""
        found = store.read_note(f"{FOLDER}/{job}.request.json")
        if found is None:
            raise GigaganError(
                f"store {store.uri} has no request of job {job}; does this machine see the same store as the one "
                "that submitted it?"
            )
        return parse(cls, found, f"request of job {job}")


def request_of(call: StageCall, context: RunContext) -> Request:
    """The request for a stage's call. Raises TypeError for an input that cannot be said in JSON."""
    settings = type(call.settings)
    code, modules = code_digest(call.run.__module__)
    return Request(
        run=call.run.__module__,
        store=context.store.uri,
        settings_type=f"{settings.__module__}:{settings.__qualname__}",
        settings=all_settings(call.settings),
        inputs={name: encode(value) for name, value in call.inputs.items()},
        options=dict(call.options),
        force=context.force,
        accept_code_change=context.accept_code_change,
        code=code,
        modules=modules,
        tracker=context.tracker.reference(),
        origin=dict(context.origin),
        held=context.held,
        prices=context.prices,
    )


def settings_of(request: Request) -> Settings:
    """The stage's settings, validated again."""
    module, _, name = request.settings_type.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    if not (isinstance(found, type) and issubclass(found, Settings)):
        raise GigaganError(
            f"{request.settings_type} is no settings class; was the request made by another version?"
        )
    return parse(found, request.settings, "request")


def encode(value: Any) -> Any:
    """An input of a stage as JSON; places of artifacts are hints, they are known by stage and fingerprint."""
    if isinstance(value, Artifact):
        return {"artifact": {**value.reference(), "uri": value.uri}}
    if isinstance(value, ExternalTable):
        return {"table": {**value.reference(), "rows": value.rows}}
    if isinstance(value, ExternalFile):
        return {"file": value.reference()}
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, (list, tuple)):
        return [encode(item) for item in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"an input of type {type(value).__name__} cannot be handed to a job")


def decode(value: Any, store: Store) -> Any:
    """What `encode` was given, lists in place of tuples. Raises GigaganError where the store lacks an artifact."""
    if isinstance(value, list):
        return [decode(item, store) for item in value]
    if not isinstance(value, Mapping):
        return value
    ((kind, entry),) = value.items()
    if kind == "artifact":
        return _artifact(entry, store)
    if kind == "path":
        return Path(entry)
    return (ExternalTable if kind == "table" else ExternalFile)(**entry)


def _artifact(entry: Mapping[str, Any], store: Store) -> Artifact:
    found = store.attempt(entry["stage"], entry["fingerprint"], entry["attempt"])
    if found is None:
        found = store.at(entry["uri"])
    if found is None or found.output_digest != entry["output_digest"]:
        raise GigaganError(
            f"{entry['kind']} {entry['fingerprint'][:12]} is not in store {store.uri}; give the job a store that holds "
            "the stage's inputs"
        )
    return found


def write_result(store: Store, job: str, history: list[StageRecord], error: str | None = None) -> None:
    """Say what a job has made or, in one sentence, why not."""
    stages = [
        {
            "label": line.label,
            "cached": line.cached,
            "seconds": round(line.seconds, 3),
            "why": line.why,
            "artifact": encode(line.artifact)["artifact"],
        }
        for line in history
    ]
    store.write_note(f"{FOLDER}/{job}.result.json", {"stages": stages, "error": error})


def read_result(store: Store, job: str) -> tuple[list[StageRecord], str | None] | None:
    """What `write_result` said; None where nothing was, or what was made is gone."""
    found = store.read_note(f"{FOLDER}/{job}.result.json")
    if found is None:
        return None
    try:
        stages = [
            StageRecord(
                each["label"],
                _artifact(each["artifact"], store),
                each["cached"],
                each["seconds"],
                each["why"],
            )
            for each in found["stages"]
        ]
    except GigaganError:
        return None
    return stages, found["error"]


def progress_line(what: str, share: float, figures: Mapping[str, Any]) -> str:
    """Progress as a line that a job prints among its others."""
    return _PROGRESS + json.dumps([what, share, dict(figures)], default=str)


def progress_in(line: str) -> Progress | None:
    """What `progress_line` was given; None for any other line."""
    if not line.startswith(_PROGRESS):
        return None
    try:
        what, share, figures = json.loads(line.removeprefix(_PROGRESS))
        return str(what), float(share), dict(figures)
    except (ValueError, TypeError):
        return None


def as_command(python: str, store: str, job: str) -> list[str]:
    """The command of a job."""
    return [python, "-m", "gigagan_core.backends.run_stage", "--store", store, "--job", job]
