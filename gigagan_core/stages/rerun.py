"""A stage of an earlier pipeline run again, with other data or settings: what runs, and what is kept as it was.

The stage and everything downstream of it run; all else is the earlier run's, whatever has changed in its code since.
New tables reach the stage through ingest and curation, which then run for these data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from gigagan_core.config.base import parse, with_overrides
from gigagan_core.config.pipeline import PipelineSettings
from gigagan_core.errors import GigaganError
from gigagan_core.stages.roles import (
    BRANCHES,
    MADE_BY,
    ROLES,
    SECTIONS,
    STANDS_FOR,
    Branch,
    Role,
    StageName,
    downstream,
    is_apart,
    needs,
    upstream,
)
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.lineage import Key, references_of
from gigagan_core.store.runs import RunRecord
from gigagan_core.store.store import Store

Mode = Literal["append", "replace"]
OWN_DATA: dict[StageName, Branch] = {
    "train-base": "base",
    "train-upsampler": "upsampler",
    "evaluate": "heldout",
}
"""Whose data a stage with one kind takes."""
FIELDS: dict[Role, str] = {"train": "train", "heldout": "heldout", "upsampler_train": "upsampler"}
"""The field of `SourceSettings` with the tables of a role."""
_STATES = {"running": "is running", "failed": "failed", "stopped": "was stopped", "crashed": "crashed"}


@dataclass(frozen=True)
class RunPlan:
    """What a pipeline run does. wanted: the roles that run. kept: artifacts of an earlier run. forced: made again.

    of: the id of that run.
    """

    settings: PipelineSettings
    wanted: frozenset[Role]
    kept: Mapping[Role, Artifact]
    forced: frozenset[Role] = frozenset()
    of: str | None = None


@dataclass(frozen=True)
class Change:
    """What is to be different. tables: parquet files, folders, URIs. branch: whose data; None: every training set's.

    only: leave out what is downstream. overrides: KEY=VALUE of the whole pipeline's settings. force: make the stage
    again though its artifact exists.
    """

    tables: tuple[str, ...] = ()
    mode: Mode = "append"
    branch: Branch | None = None
    only: bool = False
    overrides: tuple[str, ...] = ()
    force: bool = False


def whole(settings: PipelineSettings, force: bool = False) -> RunPlan:
    """A run of everything that the settings ask for."""
    wanted = frozenset(role for role in ROLES if has_role(role, settings))
    return RunPlan(settings, wanted, {}, wanted if force else frozenset())


def has_role(role: Role, settings: PipelineSettings) -> bool:
    """Whether a run with these settings has the role."""
    if is_apart(role):
        return settings.source.upsampler is not None
    return role != "control" or settings.control is not None


def plan(stage: StageName, record: RunRecord, change: Change, store: Store) -> RunPlan:
    """The stage of a recorded run, and what is downstream of it.

    Raises GigaganError where the change reaches nothing that runs, or the store lacks what is to be kept.
    """
    before = parse(PipelineSettings, record.settings, f"the settings of run {record.short}")
    branch = _branch(stage, change)
    with_data = _with_data(before, record, change, branch, stage, store)
    settings = with_overrides(with_data, change.overrides)
    wanted = _wanted(stage, change, branch, settings)
    _check_overrides(with_data, settings, wanted, stage)
    forced = wanted.intersection(MADE_BY[stage]) if change.force else frozenset()
    kept = _kept(record, wanted, settings, store)
    return RunPlan(settings, frozenset(wanted), kept, frozenset(forced), record.id)


def _branch(stage: StageName, change: Change) -> Branch | None:
    own = OWN_DATA.get(stage)
    if change.branch not in (None, own) and (own or stage == "train-encoder"):
        what = f"takes {own} data alone" if own else "trains for base model and upsampler alike"
        raise GigaganError(
            f"--for {change.branch}: {stage} {what}; leave --for out, or begin at ingest or curate"
        )
    return change.branch or (own if change.tables else None)


def _exchanged(stage: StageName, change: Change, branch: Branch | None, apart: bool) -> set[Role]:
    """The roles whose tables become other ones."""
    if not change.tables:
        return set()
    if branch is not None:
        return {BRANCHES[branch][0]}
    return {"train", "upsampler_train"} if apart and stage != "train-encoder" else {"train"}


def _wanted(stage: StageName, change: Change, branch: Branch | None, settings: PipelineSettings) -> set[Role]:
    apart = settings.source.upsampler is not None
    exchanged = _exchanged(stage, change, branch, apart)
    own = {role for role in MADE_BY[stage] if has_role(role, settings)}
    if stage == "ingest" and exchanged:
        own &= exchanged
    reached = set(own) if change.only else downstream(own, apart)
    # The tables' way to the stage; the encoders are not on it.
    chains = [chain for chain in BRANCHES.values() if chain[0] in exchanged]
    above = upstream(own, apart)
    reached |= exchanged.union(role for chain in chains for role in chain if role in above)
    if branch is not None:
        reached &= set(BRANCHES[branch])
        own &= set(BRANCHES[branch])
    if not own:
        raise GigaganError(f"the run has no {' or '.join(MADE_BY[stage])}, so {stage} has nothing to do")
    return {role for role in reached if has_role(role, settings)}


def _with_data(
    before: PipelineSettings,
    record: RunRecord,
    change: Change,
    branch: Branch | None,
    stage: StageName,
    store: Store,
) -> PipelineSettings:
    """The earlier settings with the new tables.

    Where one of base model and upsampler gets other data, the other one's stay what they were.
    """
    source = before.source
    apart = source.upsampler is not None
    parts = branch in ("base", "upsampler") and not apart
    exchanged = _exchanged(stage, change, branch, apart)
    if not (exchanged or parts):
        return before
    update: dict[str, Any] = {"kind": "tables"}
    for role, field in FIELDS.items():
        earlier = partial(_tables_in, record, role, store)
        if role in exchanged:
            update[field] = (*(earlier() if change.mode == "append" else ()), *change.tables)
        elif role == "upsampler_train":
            update[field] = earlier() if parts else source.upsampler
        else:
            update[field] = getattr(source, field) or earlier()
    changes: dict[str, Any] = {"source": source.model_copy(update=update)}
    if change.tables and change.mode == "replace" and source.kind == "openmoji":
        # What is the user's own has neither the drawings' licence nor their server.
        changes["ingest"] = before.ingest.model_copy(update={"site": None})
    return before.model_copy(update=changes)


def _tables_in(record: RunRecord, role: Role, store: Store) -> tuple[str, ...]:
    """The tables that a shard set of the run was made of, each by itself."""
    artifact = _artifact(record, role, store)
    tables = [reference["uri"] for name, reference in references_of(artifact.manifest) if name == "metadata"]
    if not tables:
        raise GigaganError(
            f"{role} of run {record.short} is {artifact.label} {artifact.short}, which was not made of tables; give "
            "--replace"
        )
    return tuple(tables)


def _check_overrides(
    before: PipelineSettings, after: PipelineSettings, wanted: set[Role], stage: StageName
) -> None:
    for section, roles in SECTIONS.items():
        if getattr(before, section) != getattr(after, section) and not wanted.intersection(roles):
            makes = next(name for name, made in MADE_BY.items() if set(made).intersection(roles))
            raise GigaganError(
                f"--set {section}: {makes} is not part of this run, which begins at {stage}; give `gigagan run {makes}`"
            )


def _kept(
    record: RunRecord, wanted: set[Role], settings: PipelineSettings, store: Store
) -> dict[Role, Artifact]:
    """The earlier run's artifacts that are not made anew; those that something is made of must be there."""
    apart = settings.source.upsampler is not None
    needed = {need for role in wanted for need in needs(role, apart)}
    kept = {}
    for role in ROLES:
        if role in wanted or not has_role(role, settings):
            continue
        if role in needed:
            kept[role] = _artifact(record, role, store)
        elif (found := _find(record, role, store)) is not None:
            kept[role] = found
    return kept


def _artifact(record: RunRecord, role: Role, store: Store) -> Artifact:
    found = _find(record, role, store)
    if found is not None:
        return found
    makes = next(name for name, made in MADE_BY.items() if role in made)
    if _reference(record, role) is None:
        state = "" if record.state == "finished" else f", it {_STATES[record.state]}"
        raise GigaganError(f"run {record.short} has no {role}{state}; begin at {makes}, or name another run")
    raise GigaganError(
        f"{role} of run {record.short} is no longer in store {store.uri}; begin at {makes}, or name another run"
    )


def _find(record: RunRecord, role: Role, store: Store) -> Artifact | None:
    reference = _reference(record, role)
    if reference is None:
        return None
    key = Key.of(reference)
    return store.attempt(key.stage, key.fingerprint, key.attempt or 1)


def _reference(record: RunRecord, role: Role) -> Mapping[str, Any] | None:
    """As the run names it; a run with one training set has it for the upsampler too."""
    return record.artifacts.get(role) or record.artifacts.get(STANDS_FOR.get(role, role))
