"""Two folders of images compared: whoever's model made them. `gigagan metrics` is a thin door onto `measure`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from gigagan_core import console, environment
from gigagan_core.assets.folder import PREFIX
from gigagan_core.encoders.perceptual import lpips_sha256
from gigagan_core.errors import GigaganError, nearest
from gigagan_core.evaluation.captions import captions_of, read_captions
from gigagan_core.evaluation.extraction import (
    FAKE,
    REAL,
    PatchPlan,
    Plan,
    ShardResult,
    cut,
    loaded,
)
from gigagan_core.evaluation.extractors.base import Extractor
from gigagan_core.evaluation.extractors.registry import ExtractorPlace
from gigagan_core.evaluation.figures import Figure, Naming
from gigagan_core.evaluation.gathering import (
    PAIRED,
    PATCH_FD,
    WHO,
    extractor_facts,
    facts_of,
    named,
    naming_of,
    pair_figures,
    preparation,
    set_measures,
    worked,
)
from gigagan_core.evaluation.picture_folder import (
    ENDINGS,
    Picture,
    dangling,
    digest_of,
    list_pictures,
    pair_up,
    passed_over,
)
from gigagan_core.evaluation.set_metrics import (
    CLIP_ONLY,
    INCEPTION_ONLY,
    MEASURES,
    OF_GENERATED,
    MeasureOptions,
    applies,
)
from gigagan_core.store.fingerprint import digest

METRICS = (*MEASURES, *PAIRED, PATCH_FD)
DEFAULT = ("fd", "kid", "precision-recall", "density-coverage", "cmmd", "clip-score", "is")
"""What is measured where nothing is asked for: of these, all that the extractors and the captions allow."""
_OF_SINGLE_IMAGES = ("cmmd", "clip-score", "is")
"""Measures that have words of their own for a single image, or a value."""


@dataclass(frozen=True)
class FolderMetrics:
    """What to compare, and how.

    real, fake: folders; real None: only the measures OF_GENERATED can be had. extractors: places; the first gives
    patch-FD. metrics: of METRICS; None: of DEFAULT, what all this allows. captions: see `read_captions`. size: centre
    crop and Lanczos to this side first (the authors' rule), or None. lpips: BACKBONE:PATH. skip_corrupt: leave files
    out that do not decode, and say so, instead of refusing. work: where features are kept; None: under the home folder.
    shard_size, batch_size, threads (see `Plan`): decide no result, but a changed shard_size finds no kept features.
    """

    real: Path | None
    fake: Path
    extractors: tuple[ExtractorPlace, ...]
    metrics: tuple[str, ...] | None = None
    captions: Path | None = None
    size: int | None = None
    lpips: str | None = None
    patch_size: int = 64
    patches_per_image: int = 4
    skip_corrupt: bool = False
    options: MeasureOptions = field(default_factory=MeasureOptions)
    work: Path | None = None
    shard_size: int = 256
    batch_size: int = 32
    threads: int | None = None


@dataclass(frozen=True)
class Measured:
    """figures, and the record of how they were made, JSON-able. cautions: of the whole comparison."""

    figures: tuple[Figure, ...]
    record: dict[str, Any]
    cautions: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """One document: the figures by name, the record, the cautions."""
        return {
            "schema": 1,
            "figures": {figure.name: figure.as_json() for figure in self.figures},
            **self.record,
            "cautions": list(self.cautions),
        }


def measure(settings: FolderMetrics, ray: ModuleType | None = None) -> Measured:
    """Every metric asked for, from one pass over the folders that it looks at.

    ray: connected, to spread the shards over its cluster; None: in this process. A killed run continues where it was.
    Raises GigaganError, one sentence, for bad folders, files, captions, weights or metrics.
    """
    settings = _with_absolute_places(settings)
    extractors = [loaded(place) for place in settings.extractors]
    metrics = _wanted(settings, extractors)
    plan = _plan(settings, extractors, metrics)
    pictures = _pictures(settings, plan)
    captions, unused = None, 0
    if settings.captions is not None:
        names = [picture.name for picture in pictures[FAKE]]
        captions, unused = captions_of(names, read_captions(settings.captions), str(settings.captions))
    shards = cut(pictures, captions, settings.shard_size, _is_paired(plan))
    results = worked(
        "features", shards, plan, settings.work, lambda result: _refuse_corrupt(result, settings), ray
    )
    facts = {role: facts_of(results, role) for role in pictures}
    naming = naming_of(facts)
    _require_two(settings, metrics, facts)
    too_few = [] if settings.metrics else _too_few_for(settings.options, facts)
    left_out = [metric for metric in metrics if metric in too_few]
    metrics = [metric for metric in metrics if metric not in too_few]
    figures = _figures(settings, extractors, metrics, results, plan, naming, ray)
    record = _record(settings, extractors, pictures, facts, results, captions)
    cautions = _cautions(settings, pictures, facts)
    if unused:
        cautions.append(f"{unused} captions of {settings.captions} belong to no image")
    if left_out:
        cautions.append(f"too few images for {', '.join(left_out)}")
    return Measured(tuple(figures), record, tuple(cautions))


def _wanted(settings: FolderMetrics, extractors: list[Extractor]) -> list[str]:
    """The metrics to compute, checked against what is given."""
    if not extractors:
        raise GigaganError("no extractor is given; name one, such as inception:FILE")
    names = [extractor.name for extractor in extractors]
    repeated = [name for place, name in enumerate(names) if name in names[:place]]
    if repeated:
        raise GigaganError(f"extractor {repeated[0]} is given twice; give each once")
    clips = any(extractor.is_clip for extractor in extractors)
    has_logits = any(extractor.has_logits for extractor in extractors)
    cannot = {
        "clip-score": "needs captions: give --captions FILE" if settings.captions is None else "",
        "lpips": "needs its weights: give --lpips vgg:FILE or alex:FILE" if settings.lpips is None else "",
    }
    for metric in CLIP_ONLY:
        if not clips:
            cannot[metric] = "needs a CLIP: add an extractor such as ViT-B-32:FILE"
    for metric in INCEPTION_ONLY:
        cannot[metric] = (
            "" if has_logits else "needs Inception with its classifier: add the extractor inception:FILE"
        )
    if settings.real is None:
        cannot |= {
            metric: "needs real images: give --real FOLDER"
            for metric in METRICS
            if metric not in OF_GENERATED
        }
    if settings.metrics is None:
        found = [metric for metric in DEFAULT if not cannot.get(metric)]
        if not found:
            raise GigaganError(
                "without real images there is the CLIP score, which needs a CLIP and --captions FILE, and the "
                "Inception Score, which needs Inception with its classifier; give these, or --real FOLDER"
            )
        return found
    for metric in settings.metrics:
        if metric not in METRICS:
            raise GigaganError(f"no metric {metric!r}; {nearest(metric, METRICS)}")
        if cannot.get(metric):
            raise GigaganError(f"{metric} {cannot[metric]}")
    return list(dict.fromkeys(settings.metrics))


def _plan(settings: FolderMetrics, extractors: list[Extractor], metrics: Sequence[str]) -> Plan:
    of_sets = [metric for metric in metrics if metric in MEASURES]
    lpips = settings.lpips if "lpips" in metrics else None
    return Plan(
        extractors=tuple(
            named(place, each, of_sets) for place, each in zip(settings.extractors, extractors, strict=True)
        ),
        size=settings.size,
        pairs=tuple(metric for metric in metrics if metric in PAIRED),
        lpips=lpips,
        lpips_sha256=lpips and lpips_sha256(lpips),
        patches=PatchPlan(settings.patch_size, settings.patches_per_image, settings.options.seed)
        if PATCH_FD in metrics
        else None,
        batch_size=settings.batch_size,
        threads=settings.threads,
    )


def _is_paired(plan: Plan) -> bool:
    return bool(plan.pairs or plan.patches)


def _pictures(settings: FolderMetrics, plan: Plan) -> dict[str, list[Picture]]:
    """The pictures of every role that something is wanted of, side by side where they are compared so."""
    if settings.real is not None and not plan.looks_at(REAL):
        console.note(f"no measure asked for looks at real images: {settings.real} is not read")
    folders = {REAL: settings.real, FAKE: settings.fake}
    threads = settings.threads or len(os.sched_getaffinity(0))
    pictures = {
        role: list_pictures(folder, threads)
        for role, folder in folders.items()
        if folder is not None and plan.looks_at(role)
    }
    if _is_paired(plan):
        pairs = pair_up(pictures[REAL], pictures[FAKE], (folders[REAL], folders[FAKE]))
        pictures = dict(zip((REAL, FAKE), pairs, strict=True))
    return pictures


def _with_absolute_places(settings: FolderMetrics) -> FolderMetrics:
    """For Ray's tasks, which run in other folders."""
    return replace(
        settings,
        extractors=tuple(replace(each, place=_absolute(each.place)) for each in settings.extractors),
        lpips=settings.lpips and _absolute(settings.lpips),
        work=(settings.work or environment.home() / "metrics").absolute(),
    )


def _absolute(place: str) -> str:
    """A folder, or the FILE of NAME:FILE, by its absolute path; an asset, which each machine looks up, as it is."""
    if Path(place).expanduser().is_dir():
        return str(Path(place).expanduser().absolute())
    name, _, file = place.partition(":")
    if not file or place.startswith(PREFIX) or file.startswith(PREFIX):
        return place
    return f"{name}:{Path(file).expanduser().absolute()}"


def _refuse_corrupt(result: ShardResult, settings: FolderMetrics) -> None:
    for role, facts in result.facts.items():
        if facts["corrupt"] and not settings.skip_corrupt:
            name, reason = facts["corrupt"][0]
            more = f", and {len(facts['corrupt']) - 1} more so far" if len(facts["corrupt"]) > 1 else ""
            raise GigaganError(
                f"{getattr(settings, role) / name} does not decode ({reason}){more}; remove or replace it, or give "
                "--skip-corrupt to leave such files out"
            )


def _require_two(settings: FolderMetrics, metrics: list[str], facts: dict[str, dict[str, Any]]) -> None:
    """One image has no covariance, and no other image to be compared with."""
    of_both = [metric for metric in metrics if metric in MEASURES and metric not in _OF_SINGLE_IMAGES]
    for role in facts:
        if of_both and facts[role]["count"] < 2:
            raise GigaganError(
                f"{getattr(settings, role)} holds 1 image, and {of_both[0]} needs at least 2 of either set; add images"
            )


def _too_few_for(options: MeasureOptions, facts: dict[str, dict[str, Any]]) -> list[str]:
    """Of DEFAULT, what so few images do not allow; asked for by name, it is an error instead."""
    of_both, generated = min(each["count"] for each in facts.values()), facts[FAKE]["count"]
    enough = {
        "precision-recall": of_both > options.neighbours,
        "density-coverage": of_both > options.density_neighbours,
        "is": generated >= options.splits,
    }
    return [metric for metric, holds in enough.items() if not holds]


def _figures(
    settings: FolderMetrics,
    extractors: list[Extractor],
    metrics: list[str],
    results: list[ShardResult],
    plan: Plan,
    naming: Naming,
    ray: ModuleType | None,
) -> list[Figure]:
    figures: list[Figure] = []
    own = [
        [metric for metric in metrics if metric in MEASURES and applies(metric, extractor)]
        for extractor in extractors
    ]
    with console.progress("measures", total=sum(map(len, own)), unit="measures") as bar:
        for extractor, known, of_sets in zip(extractors, plan.extractors, own, strict=True):
            if of_sets:
                measures = set_measures(known, extractor, results, naming, settings.options, ray)
            for metric in of_sets:
                figures += measures.figures([metric])
                bar.advance(1)
    return figures + pair_figures(plan, extractors, results, naming, settings.options, ray)


def _record(
    settings: FolderMetrics,
    extractors: list[Extractor],
    pictures: dict[str, list[Picture]],
    facts: dict[str, dict[str, Any]],
    results: list[ShardResult],
    captions: list[str] | None,
) -> dict[str, Any]:
    from gigagan_core.store.provenance import packages

    options = settings.options
    return {
        "sets": {
            role: {
                "folder": str(getattr(settings, role)),
                "files": len(pictures[role]),
                "images": facts[role]["count"],
                "digest": digest_of(pictures[role]),
                "sizes": facts[role]["sizes"],
                "corrupt": facts[role]["corrupt"],
            }
            for role in pictures
        },
        "captions": None
        if captions is None
        else {"file": str(settings.captions), "sha256": digest(captions), "count": len(captions)},
        "extractors": [extractor_facts(each) for each in extractors],
        "preparation": preparation(settings.size),
        "seed": options.seed,
        "resamples": options.resamples,
        "feature_bytes": sum(path.stat().st_size for result in results for path in result.files.values()),
        "packages": packages(),
        "threads": torch.get_num_threads(),
    }


def _cautions(
    settings: FolderMetrics, pictures: dict[str, list[Picture]], facts: dict[str, dict[str, Any]]
) -> list[str]:
    found = []
    for role in pictures:
        sizes, corrupt = facts[role]["sizes"], facts[role]["corrupt"]
        if len(sizes) > 1:
            found.append(
                f"the {WHO[role]} have {len(sizes)} sizes; each is resized by itself, and --size N makes them alike"
            )
        if skipped := passed_over(getattr(settings, role)):
            found.append(
                f"{len(skipped)} files among the {WHO[role]} were left out by their ending (first: {skipped[0]}); "
                f"taken are {', '.join(ENDINGS)}"
            )
        if lost := dangling(getattr(settings, role)):
            found.append(f"{len(lost)} links among the {WHO[role]} lead to no file (first: {lost[0]})")
        if corrupt:
            found.append(
                f"{len(corrupt)} of {len(pictures[role])} {WHO[role]} do not decode and were left out"
            )
        repeated = len(pictures[role]) - len({picture.sha256 for picture in pictures[role]})
        if repeated:
            found.append(f"{repeated} of {len(pictures[role])} {WHO[role]} repeat another one, byte for byte")
    if REAL not in pictures:
        return found
    shared = {picture.sha256 for picture in pictures[REAL]} & {picture.sha256 for picture in pictures[FAKE]}
    if shared:
        found.append(f"{len(shared)} files occur in both folders, byte for byte")
    if settings.size is None and set(facts[REAL]["sizes"]) != set(facts[FAKE]["sizes"]):
        found.append("real and generated images differ in size, which alone moves a distance; see --size")
    return found
