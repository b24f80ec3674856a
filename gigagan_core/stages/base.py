"""What every stage has in common: is it done already, do it, commit it, record it.

A stage module defines ``SPEC``, ``run(settings, inputs, context)`` and the work itself, and calls
`materialise`. Deciding that an artifact exists imports neither torch nor ray.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from rich import filesize

from gigagan_core import console, environment
from gigagan_core.config.backend import HeldSettings, PriceSettings
from gigagan_core.config.base import Settings, all_settings, flat, result_settings
from gigagan_core.errors import GigaganError
from gigagan_core.stages.ray_session import RaySession
from gigagan_core.stages.usage import held_by, usage
from gigagan_core.store.artifact import LOG, Artifact, Input, digest_of, reference_of
from gigagan_core.store.difference import decisive
from gigagan_core.store.fingerprint import code_digest, digest
from gigagan_core.store.lineage import artifacts_in
from gigagan_core.store.provenance import git_commit, machine, packages
from gigagan_core.store.store import Store, open_store
from gigagan_core.text import plain

REASONS_SAID = 3
"""Differences that a line names."""


@dataclass(frozen=True)
class StageSpec:
    """name: the stage, and its folder in the store. kind: what it makes (see `Artifact.kind`).

    module: dotted name of the module whose source, with all it imports, decides the result.
    """

    name: str
    kind: str
    module: str


@dataclass
class Outcome:
    """What a stage says of its finished work.

    counts: {"in": n, "out": n, "rejected": {reason: n}}; in = out + all rejected.
    summary: figures, by metric name. notes: free facts (licence, attribution, role).
    """

    counts: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass
class RunContext:
    """What a stage runs in: store, records, Ray, and whether what exists may be used.

    force: make a new attempt though an artifact exists. accept_code_change: keep an artifact that
    older code made, and say so in its manifest.
    history: what was made or reused in this context, in order, for the closing table.
    on_progress: told what is being done, the share that is done, and figures of it; every few seconds.
    on_warning: told what must not be missed, before the work begins.
    only_cached: raise `NotMade` rather than work. origin: who asked, for the manifest.
    held: what stages hold; None: found out by `usage.held_by`. prices: of that.
    backend: a `gigagan_core.backends.base.Backend`, where `run` has stages worked out; None: in this process.
    """

    store: Store
    tracker: Any
    force: bool = False
    accept_code_change: bool = False
    ray_session: RaySession = field(default_factory=RaySession)
    history: list[StageRecord] = field(default_factory=list)
    on_progress: Callable[[str, float, Mapping[str, Any]], None] = lambda what, share, figures: None
    on_warning: Callable[[str], None] = lambda message: None
    only_cached: bool = False
    origin: Mapping[str, Any] = field(default_factory=dict)
    held: HeldSettings | None = None
    prices: PriceSettings = field(default_factory=PriceSettings)
    backend: Any = None

    def warn(self, message: str) -> None:
        """Say something that must not be missed, on the console and wherever else this run is recorded."""
        console.warn(message)
        self.on_warning(message)

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, store: str | Store | None = None, tracker: Any = None, **options: Any
    ) -> Iterator[RunContext]:
        """A context whose Ray is stopped at the end of the block; without a tracker nothing is recorded."""
        if tracker is None:
            from gigagan_core.tracking.null import NullTracker

            tracker = NullTracker()
        opened = store if isinstance(store, Store) else open_store(store)
        context = cls(store=opened, tracker=tracker, **options)
        try:
            yield context
        finally:
            context.ray_session.close()

    def run(
        self, stage_run: Callable[..., Artifact], settings: Any, inputs: Mapping[str, Any], **options: Any
    ) -> Artifact:
        """What ``stage_run(settings, inputs, context, **options)`` gives, wherever the backend has it worked out."""
        if self.backend is None:
            return stage_run(settings, inputs, self, **options)
        return self.backend.run(StageCall(stage_run, settings, inputs, options), self)


@dataclass(frozen=True)
class StageCall:
    """One stage to run: ``run(settings, inputs, context, **options)`` of a module of this package."""

    run: Callable[..., Artifact]
    settings: Any
    inputs: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)


class NotMade(Exception):
    """A stage has work to do, in a context that wants to know no more."""


@dataclass(frozen=True)
class StageRecord:
    """One line of a pipeline run's history.

    label: the stage's name, with the role where it has one. why: of what was made, why it was not cached.
    """

    label: str
    artifact: Artifact
    cached: bool
    seconds: float
    why: str = ""


@dataclass
class StageWork:
    """What the work of a stage is handed.

    path: scratch that survives a kill and is leased to this run. output: its files become the artifact.
    run: the record (`gigagan_core.tracking`) of this stage.
    """

    path: Path
    output: Path
    settings: Any
    inputs: Mapping[str, Input]
    store: Store
    run: Any
    context: RunContext
    label: str

    def ray(self) -> ModuleType:
        """The ray module, started on first need, one session a pipeline run."""
        return self.context.ray_session.ray()


def materialise(
    spec: StageSpec,
    settings: Settings,
    inputs: Mapping[str, Input],
    context: RunContext,
    produce: Callable[[StageWork], Outcome],
    label: str | None = None,
    quiet: bool = False,
    code: tuple[str, dict[str, str]] | None = None,
) -> Artifact:
    """The artifact of a stage: found in the store, or made by `produce` and committed.

    label: the name shown and recorded, where one stage runs in several roles. quiet: print no line, for the
    thousand parts of something that shows its own progress. code: what `code_digest` gives for `spec.module`, where
    the caller has it for all of them.
    Raises GigaganError for what the user can mend; work done so far stays for the next run.
    """
    label = label or spec.name
    started = time.monotonic()
    source, modules = code or code_digest(spec.module)
    parts = {
        "stage": spec.name,
        "settings": result_settings(settings),
        "inputs": {name: digest_of(value) for name, value in sorted(inputs.items()) if value is not None},
        "code": source,
    }
    fingerprint = digest(parts)
    record = {
        "stage": spec.name,
        "kind": spec.kind,
        "fingerprint": fingerprint,
        "parts": parts,
        "code_modules": modules,
        "inputs": {name: reference_of(value) for name, value in inputs.items() if value is not None},
    }
    cached = None if context.force else _existing(spec, parts, fingerprint, context)
    why = ""
    if cached is None:
        if context.only_cached:
            raise NotMade(label)
        uses = artifacts_in(inputs)
        with context.store.work(fingerprint, lambda holder: _tell_wait(label, holder), uses) as folder:
            # Another run may have finished the same work while this one waited for the lease.
            cached = None if context.force else context.store.find(spec.name, fingerprint)
            cached = cached or context.store.finish_interrupted_commit(folder / "output")
            if cached is None:
                if not quiet:
                    resumed = any(folder.iterdir())
                    console.heading(f"{label}{' (continuing what was cut off)' if resumed else ''}")
                    why = "forced" if context.force else why_made(record, label, context.store)
                    console.note(f"{label}: {why}")
                log = None if quiet else folder / LOG
                artifact = _make(record, settings, inputs, context, produce, folder, label, started, log)
            context.store.discard_work(fingerprint)
    if cached is not None:
        if not quiet:
            console.note(f"{label}: nothing to do, there is {described(cached)}")
        context.tracker.record_cached(label, cached)
        artifact = cached
    seconds = time.monotonic() - started
    context.history.append(StageRecord(label, artifact, cached is not None, seconds, why))
    return artifact


def described(artifact: Artifact) -> str:
    """An artifact that is used again: short fingerprint, when it was made, size."""
    made = artifact.manifest["created"][:19]
    return f"{artifact.short} (made {made}, {filesize.decimal(artifact.bytes)})"


def why_made(record: Mapping[str, Any], label: str, store: Store) -> str:
    """Why no artifact of the store is what a stage is about to make, against the one that comes nearest.

    record: as a manifest has them, "stage", "parts", "code_modules", "inputs". label: of the stage; artifacts of
    another role are no comparison.
    """
    compared = [
        (decisive(artifact.manifest, record), artifact)
        for artifact in reversed(store.artifacts(record["stage"]))
        if artifact.label == label
    ]
    if not compared:
        return "not cached: the store has none yet"
    found, nearest = min(compared, key=lambda pair: len(pair[0]))
    said = "; ".join(str(each) for each in found[:REASONS_SAID])
    more = f"; and {len(found) - REASONS_SAID} more" if len(found) > REASONS_SAID else ""
    return f"not cached: {said}{more} (against {nearest.short} of {nearest.manifest['created'][:19]})"


def _existing(
    spec: StageSpec, parts: dict[str, Any], fingerprint: str, context: RunContext
) -> Artifact | None:
    found = context.store.find(spec.name, fingerprint)
    if found is not None and not context.store.touch(found):
        found = None  # removed this very moment
    if found is None and context.accept_code_change:
        older = context.store.find_with_other_code(spec.name, parts["settings"], parts["inputs"])
        if older is not None:
            found = context.store.accept(older, fingerprint, parts["code"])
    return found


def _make(
    record: dict[str, Any],
    settings: Settings,
    inputs: Mapping[str, Input],
    context: RunContext,
    produce: Callable[[StageWork], Outcome],
    folder: Path,
    label: str,
    started: float,
    log: Path | None,
) -> Artifact:
    output = folder / "output"
    output.mkdir(exist_ok=True)
    tags = {"gigagan.stage": record["stage"], "gigagan.fingerprint": record["fingerprint"]}
    with (
        _plain_errors(label, context.store),
        context.tracker.stage_run(label, params=flat(settings), tags=tags) as run,
        _log_kept(log, run),
    ):
        work = StageWork(folder, output, settings, inputs, context.store, run, context, label)
        outcome = produce(work)
        _check_counts(label, outcome.counts)
        seconds = time.monotonic() - started
        used = usage(context.held or held_by(settings), seconds, context.prices)
        manifest = {
            **record,
            "label": label,
            "settings": all_settings(settings),
            "counts": outcome.counts,
            "summary": outcome.summary,
            "notes": outcome.notes,
            "wall_seconds": round(seconds, 3),
            "usage": used,
            "git_commit": git_commit(),
            "packages": packages(),
            "machine": machine(),
            "mlflow": run.reference(),
            "origin": dict(context.origin),
        }
        if log is not None:
            shutil.copyfile(log, output / LOG)
        artifact = context.store.commit(output, manifest, another=context.force)
        run.log_usage(used)
        run.finish(artifact)
    return artifact


@contextlib.contextmanager
def _log_kept(log: Path | None, run: Any) -> Iterator[None]:
    """Inside, every line goes into the log. However the block ends, the log is with the record, too: a failed stage
    leaves no artifact to keep it in."""
    if log is None:
        yield
        return
    try:
        with console.copied_to(log):
            yield
    finally:
        run.keep_log(log)


def _check_counts(label: str, counts: Mapping[str, Any]) -> None:
    """Invariant 9: rows in = rows out + rows rejected by named reasons."""
    if "in" not in counts:
        return
    rejected = sum(counts.get("rejected", {}).values())
    if counts["in"] != counts["out"] + rejected:
        raise AssertionError(
            f"{label}: {counts['in']} rows in, {counts['out']} out and {rejected} rejected do not add up"
        )


def _tell_wait(label: str, holder: str) -> None:
    console.note(f"{label}: {plain(holder)} is making the same artifact; waiting for it")


@contextlib.contextmanager
def _plain_errors(label: str, store: Store) -> Iterator[None]:
    """Turn a full disk, wherever in the chain of causes it stands, into one sentence."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, GigaganError) and cause is not error:
                raise GigaganError(str(cause)) from error
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
                # Where the store is elsewhere, unfinished work is under the home folder.
                place = store.uri if store.is_local else str(environment.home())
                free = shutil.disk_usage(place).free // 2**20
                raise GigaganError(
                    f"{label}: no space left on the disk of {place} ({free} MiB free); free some and give the same "
                    "command again, finished work is kept"
                ) from error
            cause = getattr(cause, "cause", None) or cause.__cause__ or cause.__context__
        raise
