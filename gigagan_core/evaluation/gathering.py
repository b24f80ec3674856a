"""From the shards' results to figures: what a comparison of folders and a protocol have in common."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from gigagan_core import console
from gigagan_core.assets.catalogue import CATALOGUE
from gigagan_core.assets.folder import resolve_named
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.bootstrap import interval_of_mean
from gigagan_core.evaluation.extraction import (
    CAPTIONS,
    FAKE,
    FEATURES,
    PAIRS,
    PATCHES,
    REAL,
    NamedExtractor,
    Plan,
    ShardResult,
    extract,
)
from gigagan_core.evaluation.extractors.base import Extractor
from gigagan_core.evaluation.extractors.registry import ExtractorPlace
from gigagan_core.evaluation.feature_set import FeatureSet
from gigagan_core.evaluation.figures import Figure, Naming
from gigagan_core.evaluation.kept_work import extractor_key
from gigagan_core.evaluation.ray_moments import moments_in_ray
from gigagan_core.evaluation.set_metrics import MeasureOptions, SetMeasures, applies

PAIRED = {"psnr": "higher", "ssim": "higher", "lpips": "lower"}
PATCH_FD = "patch-fd"
WHO = {REAL: "real images", FAKE: "generated images"}


def named(place: ExtractorPlace, extractor: Extractor, metrics: Sequence[str]) -> NamedExtractor:
    """An extractor with the key of its streams.

    metrics: of MEASURES, those wanted; they say which pictures and captions it has to read.
    """
    return NamedExtractor(place, extractor_key(extractor), extractor.sha256, _reads(extractor, metrics))


def _reads(extractor: Extractor, metrics: Sequence[str]) -> tuple[tuple[str, str], ...]:
    own = [metric for metric in metrics if applies(metric, extractor)]
    reads = {
        (FEATURES, REAL): any(metric != "clip-score" for metric in own),
        (FEATURES, FAKE): bool(own),
        (CAPTIONS, FAKE): "clip-score" in own,
    }
    return tuple(each for each, wanted in reads.items() if wanted)


def extractor_facts(extractor: Extractor) -> dict[str, Any]:
    """What a record says of an extractor."""
    return {
        "name": extractor.name,
        "sha256": extractor.sha256,
        "dimensions": extractor.width,
        "rule": extractor.rule,
        "configuration": extractor.configuration,
        "published": extractor.published,
    }


def lpips_name(place: str) -> str:
    """What figures and records call LPIPS by the backbone that BACKBONE:PATH or an asset names."""
    return f"lpips-{resolve_named(place).partition(':')[0]}"


def lpips_facts(plan: Plan) -> list[dict[str, Any]]:
    """Of LPIPS what `extractor_facts` is of an extractor; nothing where the plan has none."""
    if plan.lpips is None:
        return []
    name = lpips_name(plan.lpips)
    published = CATALOGUE[name].sha256 == plan.lpips_sha256
    rule = "LPIPS 0.1 of image and image, as they are judged, in [-1, 1]"
    return [
        {"name": name, "sha256": plan.lpips_sha256, "dimensions": None, "rule": rule, "published": published}
    ]


def facts_of(results: list[ShardResult], role: str) -> dict[str, Any]:
    """count, sizes and corrupt of all shards of a role."""
    sizes: Counter[str] = Counter()
    corrupt: list[list[str]] = []
    count = 0
    for result in results:
        if role in result.facts:
            sizes.update(result.facts[role]["sizes"])
            corrupt += result.facts[role]["corrupt"]
            count += result.facts[role]["count"]
    if count == 0:
        raise GigaganError(f"none of the {WHO[role]} decodes; give a folder of images")
    return {"count": count, "sizes": dict(sizes), "corrupt": corrupt}


def naming_of(facts: Mapping[str, dict[str, Any]]) -> Naming:
    """What the figures of these images are called. facts: of every role that there is, see `facts_of`."""
    resolution = _resolution_of({size for of_role in facts.values() for size in of_role["sizes"]})
    return Naming(resolution, facts[FAKE]["count"], _resolution_of(set(facts[FAKE]["sizes"])))


def _resolution_of(sizes: set[str]) -> int | str:
    """The side of images of these sizes ("HxW") where all are squares of one size, else "native"."""
    if len(sizes) > 1:
        return "native"
    height, _, width = next(iter(sizes)).partition("x")
    return int(height) if height == width else "native"


def gathered(
    results: list[ShardResult], stream: str, role: str, key: str, ray: ModuleType | None = None
) -> FeatureSet | None:
    """The rows of a stream of all shards, in their order; None where no shard has it. ray: takes their moments."""
    paths = [result.files[(stream, role, key)] for result in results if (stream, role, key) in result.files]
    if not paths:
        return None
    elsewhere = None if ray is None else functools.partial(moments_in_ray, ray, paths, WHO[role])
    return FeatureSet.mapped(paths, WHO[role], elsewhere)


def set_measures(
    known: NamedExtractor,
    extractor: Extractor,
    results: list[ShardResult],
    naming: Naming,
    options: MeasureOptions,
    ray: ModuleType | None = None,
) -> SetMeasures:
    """The measures of an extractor that reads the generated images, on what the shards hold. ray: see `gathered`."""
    real, fake = (gathered(results, FEATURES, role, known.key, ray) for role in (REAL, FAKE))
    if fake is None:
        raise AssertionError(f"no shard has {WHO[FAKE]}")
    captions = gathered(results, CAPTIONS, FAKE, known.key)
    return SetMeasures(extractor, real, fake, naming, options, captions)


def paired_figure(
    metric: str, results: list[ShardResult], naming: Naming, options: MeasureOptions, lpips: str | None
) -> Figure:
    """The mean of a measure of pairs. lpips: what its weights were named by."""
    rows = gathered(results, PAIRS, FAKE, metric)
    if rows is None:
        raise AssertionError(f"no shard has {metric}")
    return mean_figure(metric, rows.all()[:, 0].double(), naming, options, lpips)


def mean_figure(
    metric: str, values: Tensor, naming: Naming, options: MeasureOptions, lpips: str | None
) -> Figure:
    """The mean of a measure of pairs, float64 [N], with its interval. lpips: what its weights were named by."""
    network = lpips_name(lpips or "") if metric == "lpips" else None
    interval, cautions = interval_of_mean(
        values, resamples=options.resamples, seed=options.seed, level=options.level
    )
    return Figure(
        name=naming(network or metric),
        metric=metric,
        value=float(values.mean()),
        real=len(values),
        fake=len(values),
        better=PAIRED[metric],
        extractor=network,
        interval=interval,
        details={"unit": "dB"} if metric == "psnr" else {},
        cautions=cautions,
    )


def patch_figure(
    extractor: Extractor,
    plan: Plan,
    results: list[ShardResult],
    naming: Naming,
    options: MeasureOptions,
    ray: ModuleType | None = None,
) -> Figure:
    """Frechet distance of the patches that the plan asks for."""
    real, fake = (gathered(results, PATCHES, role, plan.extractors[0].key, ray) for role in (REAL, FAKE))
    if real is None or fake is None or plan.patches is None:
        raise AssertionError("no shard has patches")
    patches = replace(naming, count=len(fake))
    groups = torch.arange(len(fake)) // plan.patches.per_image
    (found,) = SetMeasures(extractor, real, fake, patches, options, groups=groups).figures(["fd"])
    details = {"patch_size": plan.patches.size, "patches_per_image": plan.patches.per_image}
    return replace(
        found,
        name=patches(f"patch{plan.patches.size}-fd", extractor),
        metric=PATCH_FD,
        details={**found.details, **details},
    )


def pair_figures(
    plan: Plan,
    extractors: Sequence[Extractor],
    results: list[ShardResult],
    naming: Naming,
    options: MeasureOptions,
    ray: ModuleType | None = None,
) -> list[Figure]:
    """Every figure of image beside image that the plan asks for."""
    figures = [paired_figure(metric, results, naming, options, plan.lpips) for metric in plan.pairs]
    if plan.patches is not None:
        figures.append(patch_figure(extractors[0], plan, results, naming, options, ray))
    return figures


def preparation(size: int | None) -> str:
    """What is done to every image before a network sees it, for a record."""
    if size is None:
        return "as they are"
    return f"centre crop to the short side, PIL Lanczos to {size} px on uint8"


def worked(
    title: str,
    shards: Sequence[Any],
    plan: Plan,
    work: Path,
    check: Callable[[ShardResult], None],
    ray: ModuleType | None = None,
    task: Callable[[Any, Plan, Path], ShardResult] | None = None,
) -> list[ShardResult]:
    """`extract` with a progress bar, and a word on what an earlier run had done.

    check: given every result as it comes; raises where an image of it must not be left out.
    """
    total = sum(len(shard) * len(shard.pictures) for shard in shards)
    done = kept = 0
    with console.progress(title, total=total, unit="images") as bar:

        def on_shard(shard: Any, result: ShardResult) -> None:
            nonlocal done, kept
            check(result)
            images = len(shard) * len(shard.pictures)
            done += images
            if result.fresh:
                bar.set(done)
            else:
                kept += images
                bar.start_from(done)

        results = extract(list(shards), plan, work, ray=ray, on_shard=on_shard, task=task)
    if kept:
        console.note(f"{kept} of {total} images had their features in {work} already")
    return results
