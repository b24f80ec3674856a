"""Pictures to features, once: each is decoded one time for all that is wanted of it, shard by shard, resumable.

A shard is a fixed run of pictures. What is computed of it (a stream) is kept in the work folder under a name made of
the pictures' contents and of everything that decides the stream, our source and the versions of packages included, as
.npy beside a .json with its sha256, written last: a killed evaluation continues with the shards that lack it, and a
second model is judged against the same real images without computing theirs again. A stream whose file does not have
its sum, or has a damaged record, is computed again.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import picture_folder
from gigagan_core.evaluation.extractors.base import Extractor
from gigagan_core.evaluation.extractors.registry import ExtractorPlace
from gigagan_core.evaluation.kept_work import makers_digest, require_same_extractor, require_same_lpips
from gigagan_core.evaluation.picture_folder import Picture, digest_of
from gigagan_core.store.fingerprint import digest, sha256_file

REAL, FAKE = "real", "fake"
FEATURES, CAPTIONS, PATCHES, PAIRS = "features", "captions", "patches", "pairs"
_DAMAGED = (ValueError, LookupError, TypeError, AttributeError)
"""What a record raises that is no JSON, or not of its form."""
RAY_IN_FLIGHT = 2
"""Shards in flight for each GPU, or CPU where there is none: one works, one waits."""
MAKER = "gigagan_core.evaluation.shard_pass"
"""The module that makes features: its source and what it imports is part of their folder's name."""
THREADS_IN_TASK = 2
"""That decode in a Ray task: as many tasks as processors run beside each other, and the networks work in the first."""


@dataclass(frozen=True)
class NamedExtractor:
    """An extractor and where it is. key: `kept_work.extractor_key`, for the streams' names. sha256: of its weights.
    reads: what it is wanted for, as kind of stream and role: (FEATURES, REAL), (FEATURES, FAKE), (CAPTIONS, FAKE).
    """

    place: ExtractorPlace
    key: str
    sha256: str
    reads: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class PatchPlan:
    """Patches cut out of paired images: side in pixels, how many of each image, seed of their places."""

    size: int
    per_image: int
    seed: int


@dataclass(frozen=True)
class Plan:
    """What is wanted of the pictures.

    extractors: each sees the pictures that it is wanted for. size: side that pictures are cropped and resized to, or
    None. pairs: of psnr, ssim, lpips. lpips: BACKBONE:PATH. patches: patch features of paired pictures by the first
    extractor. batch_size: pictures a network sees at once; threads: that decode, None: one for each processor of the
    process, and in a Ray task THREADS_IN_TASK. Neither decides a result.
    """

    extractors: tuple[NamedExtractor, ...]
    size: int | None = None
    pairs: tuple[str, ...] = ()
    lpips: str | None = None
    lpips_sha256: str | None = None
    patches: PatchPlan | None = None
    batch_size: int = 32
    threads: int | None = None

    def looks_at(self, role: str) -> bool:
        """Whether anything is wanted of the pictures of a role."""
        if self.pairs or self.patches:
            return True
        return any(role == read for each in self.extractors for _, read in each.reads)


@dataclass(frozen=True)
class Shard:
    """A run of pictures of each role; real and fake are aligned where both are there. captions: of the fake ones.
    first: global number of the first picture."""

    first: int
    pictures: Mapping[str, tuple[Picture, ...]]
    captions: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.pictures.values())))


@dataclass(frozen=True)
class ShardResult:
    """Where a shard's streams are. files: (stream, role, extractor's key) -> .npy. facts: by role, as in
    `shard_pass.Done`, but for corrupt: [name, reason]. fresh: something had to be computed."""

    files: Mapping[tuple[str, str, str], Path]
    facts: Mapping[str, dict[str, Any]]
    fresh: bool


def cut(
    pictures: Mapping[str, list[Picture]], captions: list[str] | None, shard_size: int, paired: bool
) -> list[Shard]:
    """Shards of every role by itself, or of the roles side by side where they are paired."""
    if paired:
        groups: list[dict[str, list[Picture]]] = [dict(pictures)]
    else:
        groups = [{role: listed} for role, listed in pictures.items()]
    shards = []
    for group in groups:
        for start in range(0, len(next(iter(group.values()))), shard_size):
            own = {role: tuple(listed[start : start + shard_size]) for role, listed in group.items()}
            texts = captions[start : start + shard_size] if captions is not None and FAKE in own else None
            shards.append(Shard(start, own, None if texts is None else tuple(texts)))
    return shards


def extract(
    shards: list[Shard],
    plan: Plan,
    work: Path,
    *,
    ray: ModuleType | None = None,
    on_shard: Callable[[Any, ShardResult], None] = lambda shard, result: None,
    task: Callable[[Any, Plan, Path], ShardResult] | None = None,
) -> list[ShardResult]:
    """Every stream of every shard, in order; in this process, or in Ray tasks where `ray` is given (and connected).

    work: a folder that every node sees. task: what is done with a shard, `extract_shard` by default.
    Raises GigaganError as soon as a shard cannot be done; shards done stay done.
    """
    results: dict[int, ShardResult] = {}
    work_on = task or extract_shard
    running = _here(shards, plan, work, work_on) if ray is None else _in_ray(ray, shards, plan, work, work_on)
    for number, result in running:
        results[number] = result
        on_shard(shards[number], result)
    return [results[number] for number in range(len(shards))]


def _here(
    shards: list[Any], plan: Plan, work: Path, work_on: Callable[[Any, Plan, Path], ShardResult]
) -> Iterator[tuple[int, ShardResult]]:
    for number, shard in enumerate(shards):
        yield number, work_on(shard, plan, work)


def _in_ray(
    ray: ModuleType,
    shards: list[Any],
    plan: Plan,
    work: Path,
    work_on: Callable[[Any, Plan, Path], ShardResult],
) -> Iterator[tuple[int, ShardResult]]:
    """A bounded number of tasks in flight, one CPU each."""
    plan = replace(plan, threads=plan.threads or THREADS_IN_TASK)
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    task = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=2)(work_on)
    waiting = list(enumerate(shards))[::-1]
    running: dict[Any, int] = {}
    limit = RAY_IN_FLIGHT * (gpus or int(resources.get("CPU", 1)))
    try:
        while waiting or running:
            while waiting and len(running) < limit:
                number, shard = waiting.pop()
                running[task.remote(shard, plan, work)] = number
            (done,), _ = ray.wait(list(running), num_returns=1)
            number = running.pop(done)
            yield number, answer_of(ray, done)
    finally:
        for reference in running:
            ray.cancel(reference)


def answer_of(ray: ModuleType, reference: Any) -> Any:
    """What a task gave back. Raises the task's GigaganError as one of this process, without the worker's traceback."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.as_instanceof_cause()
        raise GigaganError(str(error.cause)) if isinstance(cause, GigaganError) else error from None


def extract_shard(shard: Shard, plan: Plan, work: Path) -> ShardResult:
    """The streams of one shard, those that are not in the work folder yet computed in one pass over its pictures.

    Raises GigaganError where the work folder cannot be written, a picture cannot be read, or this machine has other
    weights than the plan was made with; nothing is kept then.
    """
    files, missing, facts_file, facts = _planned(shard, plan, work)
    if missing:
        from gigagan_core.evaluation.shard_pass import ShardPass

        _require_same_networks(plan, {key for _, _, key in missing})
        with writing(work):
            facts_file.parent.mkdir(parents=True, exist_ok=True)
        done = ShardPass(shard, plan, missing).run()
        with writing(work):
            for stream, rows in done.rows.items():
                _keep(files[stream], rows)
            _write(facts_file, json.dumps(done.facts).encode())
        facts = done.facts
    return ShardResult(files, _with_names(facts, shard), bool(missing))


def is_done(shard: Shard, plan: Plan, work: Path) -> bool:
    """Whether `extract_shard` would read no picture."""
    return not _planned(shard, plan, work)[1]


def forget(shard: Shard, plan: Plan, work: Path) -> None:
    """Have the shard done again by the next `extract_shard`."""
    _planned(shard, plan, work)[2].unlink(missing_ok=True)


def _planned(
    shard: Shard, plan: Plan, work: Path
) -> tuple[dict[tuple[str, str, str], Path], list[tuple[str, str, str]], Path, dict[str, Any]]:
    """The file of every stream, the streams to be computed, the file of the facts, and these.

    To be computed are the streams whose file is not there whole, and all where the facts are not, which say what
    pictures have rows.
    """
    contents = [digest_of(shard.pictures[role]) for role in sorted(shard.pictures)]
    folder = work / digest([picture_folder.DECODING, makers_digest(MAKER), *contents])[:32]
    files = {stream: folder / f"{_file_name(stream, shard, plan)}.npy" for stream in _streams(shard, plan)}
    facts_file = folder / f"facts-{'-'.join(sorted(shard.pictures))}-{plan.size}.json"
    facts = _read_facts(facts_file)
    missing = [stream for stream in files if not (facts and _whole(files[stream]))]
    return files, missing, facts_file, facts


def _streams(shard: Shard, plan: Plan) -> list[tuple[str, str, str]]:
    streams = [
        (kind, role, each.key)
        for each in plan.extractors
        for kind, role in each.reads
        if role in shard.pictures and (kind != CAPTIONS or shard.captions is not None)
    ]
    if {REAL, FAKE} <= set(shard.pictures):
        streams += [(PAIRS, FAKE, measure) for measure in plan.pairs]
        if plan.patches is not None:
            streams += [(PATCHES, role, plan.extractors[0].key) for role in (REAL, FAKE)]
    return streams


def _file_name(stream: tuple[str, str, str], shard: Shard, plan: Plan) -> str:
    """Everything that decides the rows, but for the pictures' contents, which name the folder."""
    kind, role, key = stream
    decides: list[Any] = [kind, key, plan.size, sorted(shard.pictures)]
    if kind == CAPTIONS:
        decides.append(shard.captions)
    if kind == PATCHES and plan.patches is not None:
        decides += [plan.patches.size, plan.patches.per_image, plan.patches.seed, shard.first]
    if kind == PAIRS and key == "lpips":
        decides.append(plan.lpips_sha256)
    return f"{kind}-{role}-{digest(decides)[:24]}"


def _require_same_networks(plan: Plan, keys: set[str]) -> None:
    """What a node computes is kept under keys that another one made of its own files. keys: of what it computes."""
    for each in plan.extractors:
        if each.key in keys:
            require_same_extractor(each.place.place, loaded(each.place), each.key, each.sha256)
    if plan.lpips is not None and plan.lpips_sha256 is not None:
        require_same_lpips(plan.lpips, plan.lpips_sha256)


@functools.lru_cache(maxsize=8)
def loaded(place: ExtractorPlace) -> Extractor:
    """The extractor at a place, loaded once a process."""
    from gigagan_core.evaluation.extractors.registry import load_extractor

    return load_extractor(place, device())


def device() -> str:
    """Where networks run in this process."""
    return "cuda" if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def writing(work: Path, what: str = "features") -> Iterator[None]:
    """Raises GigaganError for what keeps a file from being written below `work`. what: the files, for its sentence."""
    try:
        yield
    except OSError as error:
        raise GigaganError(
            f"{what} cannot be written below {work} ({error.strerror or error}); make room or name another folder, "
            "and give the same command again: what is there is used"
        ) from error


def _whole(path: Path) -> bool:
    try:
        record = json.loads(path.with_suffix(".json").read_text())
        return bool(record["sha256"] == sha256_file(path))
    except (OSError, *_DAMAGED):
        return False


def _read_facts(path: Path) -> dict[str, Any]:
    """`shard_pass.Done`'s facts by role, none where they are not there whole.

    A corrupt picture is known by its place in the shard, for equal pictures of other names share these facts.
    """
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
        whole = all(
            isinstance(each["count"], int)
            and isinstance(each["sizes"], dict)
            and all(isinstance(position, int) for position, _ in each["corrupt"])
            for each in facts.values()
        )
    except (OSError, *_DAMAGED):
        return {}
    return facts if whole else {}


def _with_names(facts: Mapping[str, dict[str, Any]], shard: Shard) -> dict[str, dict[str, Any]]:
    """The facts with [name, reason] of every corrupt picture, by the names that this shard has for them."""
    return {
        role: each
        | {"corrupt": [[shard.pictures[role][place].name, reason] for place, reason in each["corrupt"]]}
        for role, each in facts.items()
    }


def _keep(path: Path, rows: np.ndarray) -> None:
    """Write a stream; rows that are not finite are not recorded as done, so that nothing goes on from them."""
    temporary = _temporary(path)
    with open(temporary, "wb") as file:
        np.save(file, rows)
    os.replace(temporary, path)
    if np.isfinite(rows).all():
        record = {"sha256": sha256_file(path), "rows": len(rows)}
        _write(path.with_suffix(".json"), json.dumps(record).encode())


def _temporary(path: Path) -> Path:
    """One writer's alone: on another node a process may have the same number."""
    return path.with_suffix(f".{uuid.uuid4().hex[:12]}.part")


def _write(path: Path, data: bytes) -> None:
    temporary = _temporary(path)
    temporary.write_bytes(data)
    os.replace(temporary, path)
