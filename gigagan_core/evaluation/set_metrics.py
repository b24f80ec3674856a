"""Every measure of two sets of features, by name: what `gigagan metrics` computes once the pass is over."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from gigagan_core.assets.catalogue import CATALOGUE
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.bootstrap import (
    OF_ONE_IMAGE,
    Interval,
    bootstrap_mean,
    interval_of_mean,
    wilson,
)
from gigagan_core.evaluation.clip_score import caption_cosines
from gigagan_core.evaluation.extractors.base import Extractor
from gigagan_core.evaluation.feature_set import FeatureSet
from gigagan_core.evaluation.figures import Figure, Naming
from gigagan_core.evaluation.frechet import Reference
from gigagan_core.evaluation.frechet_error import distance_interval, extrapolate
from gigagan_core.evaluation.inception_score import InceptionScore, inception_score
from gigagan_core.evaluation.kernel_distances import (
    CMMD_ASSET,
    CMMD_NETWORK,
    CMMD_SCALE,
    CMMD_SIGMA,
    cmmd,
    kid,
)
from gigagan_core.evaluation.names import with_neighbours
from gigagan_core.evaluation.precision_recall import DensityCoverage, Manifolds, manifolds


@dataclass(frozen=True)
class MeasureOptions:
    """What decides a measure beside the features. The defaults are the published ones.

    Raises GigaganError for a seed that torch's generators do not take.
    """

    seed: int = 0
    resamples: int = 1000
    level: float = 0.95
    neighbours: int = 3
    density_neighbours: int = 5
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    splits: int = 10

    def __post_init__(self) -> None:
        if not -(2**63) <= self.seed < 2**63:
            raise GigaganError(f"seed {self.seed} is beyond 64 bits; give a smaller one")


class SetMeasures:
    """The measures of one extractor's features of the real and the generated images; what they share is computed once.

    real: None where there are none; only the measures OF_GENERATED can be had then. captions: features of the generated
    images' captions, for the CLIP score, or None. groups: int64 [N] of either set, equal where features are of one
    image, whose patches are no independent evidence; only the distance's interval heeds them.
    """

    def __init__(
        self,
        extractor: Extractor,
        real: FeatureSet | None,
        fake: FeatureSet,
        naming: Naming,
        options: MeasureOptions,
        captions: FeatureSet | None = None,
        groups: Tensor | None = None,
    ) -> None:
        self._extractor, self._given, self._fake = extractor, real, fake
        self._naming, self._options, self._captions = naming, options, captions
        self._groups = groups

    def figures(self, metrics: list[str]) -> list[Figure]:
        """Figures of these metrics (keys of MEASURES), in order. Raises GigaganError for what cannot be had."""
        return [figure for metric in metrics for figure in MEASURES[metric](self)]

    def fd(self) -> list[Figure]:
        """Frechet distance, with its interval."""
        found = self._reference.distance(self._fake.moments)
        alone = self._groups is not None and len(self._groups.unique()) == 1
        interval = None if alone else self._distance_interval(found.distance)
        details = {
            "mean_term": found.mean_term,
            "covariance_term": found.covariance_term,
            "negative_mass": found.negative_mass,
            "imaginary_mass": found.imaginary_mass,
            "null_directions": {"real": found.null_directions[0], "fake": found.null_directions[1]},
            "dimensions": found.dimensions,
            "seed": self._options.seed,
        }
        cautions = (*([found.caution] if found.caution else []), *([OF_ONE_IMAGE] if alone else []))
        return [self._figure("fd", found.distance, interval=interval, details=details, cautions=cautions)]

    def _distance_interval(self, distance: float) -> Interval:
        return distance_interval(
            self._real,
            self._fake,
            distance,
            resamples=self._options.resamples,
            seed=self._options.seed,
            level=self._options.level,
            groups=(self._groups, self._groups),
        )

    def fd_infinity(self) -> list[Figure]:
        """Frechet distance extrapolated to infinitely many generated images."""
        found = extrapolate(self._reference, self._fake, seed=self._options.seed)
        details = {
            "sizes": list(found.sizes),
            "distances": list(found.distances),
            "slope": found.slope,
            "residual": found.residual,
            "seed": self._options.seed,
        }
        cautions: tuple[str, ...] = ()
        if found.sizes[0] <= self._fake.dimensions:
            cautions = (
                f"its smallest subset has {found.sizes[0]} images for {self._fake.dimensions} dimensions: the distance "
                "is not linear in 1/N there and the extrapolation is biased",
            )
        return [self._figure("fd-infinity", found.value, details=details, cautions=cautions)]

    def kid(self) -> list[Figure]:
        """Kernel Inception Distance."""
        options = self._options
        found = kid(
            self._real.all(),
            self._fake.all(),
            subsets=options.kid_subsets,
            subset_size=options.kid_subset_size,
            seed=options.seed,
        )
        details = {"subsets": found.subsets, "subset_size": found.subset_size, "seed": options.seed}
        cautions = []
        if found.subset_size < options.kid_subset_size:
            cautions.append(f"subsets of {found.subset_size} images, not of {options.kid_subset_size}")
        if found.spread is None:
            cautions.append("no spread, for every subset would be all of the images")
        return [
            self._figure("kid", found.value, spread=found.spread, details=details, cautions=tuple(cautions))
        ]

    def precision_recall(self) -> list[Figure]:
        """Improved precision and recall."""
        shares, level = self._manifolds.shares, self._options.level
        details = {"neighbours": shares.k, "interval_holds": "the manifolds fixed"}
        fake, real = len(self._fake), len(self._real)
        return [
            self._figure(
                "precision",
                shares.precision,
                name=with_neighbours("precision", shares.k),
                better="higher",
                interval=wilson(round(shares.precision * fake), fake, level),
                details=details,
            ),
            self._figure(
                "recall",
                shares.recall,
                name=with_neighbours("recall", shares.k),
                better="higher",
                interval=wilson(round(shares.recall * real), real, level),
                details=details,
            ),
        ]

    def density_coverage(self) -> list[Figure]:
        """Density and coverage."""
        options = self._options
        # with too few images for the cached ones this raises, in a sentence
        coverage = self._manifolds.coverage or self._of_manifolds(options.density_neighbours).coverage
        found = cast(DensityCoverage, coverage)
        details = {"neighbours": found.k, "interval_holds": "the manifolds fixed"}
        density = bootstrap_mean(
            found.per_image, resamples=options.resamples, seed=options.seed, level=options.level
        )
        covered = wilson(round(found.coverage * len(self._real)), len(self._real), options.level)
        return [
            self._figure(
                metric,
                value,
                name=with_neighbours(metric, found.k),
                better="higher",
                interval=interval,
                details=details,
            )
            for metric, value, interval in (
                ("density", found.density, density),
                ("coverage", found.coverage, covered),
            )
        ]

    def cmmd(self) -> list[Figure]:
        """CLIP maximum mean discrepancy. Raises GigaganError for an extractor that is no CLIP."""
        self._require_clip("cmmd")
        cautions: tuple[str, ...] = ()
        published, name = CATALOGUE[CMMD_ASSET], self._extractor.name
        # the whole name: one that ends in -truncated has other pixels
        if name.removesuffix(f"-{self._extractor.sha256[:8]}") not in (published.reader, CMMD_NETWORK):
            cautions = (f"published CMMD takes {published.reader}, this is {name}",)
        elif self._extractor.sha256 != published.sha256:
            cautions = (
                f"these weights of {CMMD_NETWORK} (sha256 {self._extractor.sha256[:12]}) are not the published CMMD's",
            )
        details = {"sigma": CMMD_SIGMA, "scale": CMMD_SCALE}
        value = cmmd(self._real.all(), self._fake.all())
        return [self._figure("cmmd", value, details=details, cautions=cautions)]

    def clip_score(self) -> list[Figure]:
        """Mean cosine of the generated images with their captions: no factor, no clamp."""
        self._require_clip("clip-score")
        if self._captions is None:
            raise GigaganError("the CLIP score needs the generated images' captions; give --captions FILE")
        cosines, options = caption_cosines(self._fake.all(), self._captions.all()), self._options
        interval, cautions = interval_of_mean(
            cosines, resamples=options.resamples, seed=options.seed, level=options.level
        )
        name, score = self._extractor.clip_score_name, float(cosines.mean())
        return [self._figure(name, score, better="higher", interval=interval, cautions=cautions, real=0)]

    def inception_score(self) -> list[Figure]:
        """Inception Score of the generated images; in the details that of the real ones, where they are enough."""
        options = self._options
        score = self._inception_score(self._fake)
        enough = self._given is not None and len(self._given) >= options.splits
        of_real = self._inception_score(self._real).value if enough else None
        details = {"splits": options.splits, "seed": options.seed, "real_images": of_real}
        cautions = () if self._extractor.published else ("not by Inception's published weights",)
        return [
            self._figure(
                "is",
                score.value,
                better="higher",
                spread=score.spread,
                details=details,
                cautions=cautions,
                real=0,
            )
        ]

    def _inception_score(self, features: FeatureSet) -> InceptionScore:
        options = self._options
        return inception_score(features, self._extractor.logits, splits=options.splits, seed=options.seed)

    @property
    def _real(self) -> FeatureSet:
        if self._given is None:
            raise GigaganError(
                "only the CLIP score and the Inception Score do without real images; give some"
            )
        return self._given

    @functools.cached_property
    def _reference(self) -> Reference:
        return Reference(self._real.moments)

    @functools.cached_property
    def _manifolds(self) -> Manifolds:
        density_k = self._options.density_neighbours
        return self._of_manifolds(density_k if len(self._real) > density_k else None)

    def _of_manifolds(self, density_k: int | None) -> Manifolds:
        return manifolds(self._real.all(), self._fake.all(), self._options.neighbours, density_k)

    def _require_clip(self, metric: str) -> None:
        if not self._extractor.is_clip:
            raise GigaganError(
                f"{metric} needs a CLIP and {self._extractor.name} is none; add an extractor such as ViT-B-32:FILE"
            )

    def _figure(
        self, metric: str, value: float, *, name: str | None = None, better: str = "lower", **more: object
    ) -> Figure:
        """name: short one, where it says more than the metric's."""
        return Figure(
            name=self._naming(name or metric, self._extractor, with_real=more.get("real") != 0),
            metric=metric,
            value=value,
            better=better,
            extractor=self._extractor.name,
            **{"real": len(self._given or ()), "fake": len(self._fake), **more},
        )


MEASURES: dict[str, Callable[[SetMeasures], list[Figure]]] = {
    "fd": SetMeasures.fd,
    "fd-infinity": SetMeasures.fd_infinity,
    "kid": SetMeasures.kid,
    "precision-recall": SetMeasures.precision_recall,
    "density-coverage": SetMeasures.density_coverage,
    "cmmd": SetMeasures.cmmd,
    "clip-score": SetMeasures.clip_score,
    "is": SetMeasures.inception_score,
}
CLIP_ONLY, INCEPTION_ONLY = ("cmmd", "clip-score"), ("is",)
OF_GENERATED = ("clip-score", "is")
"""Measures of the generated images alone; the Inception Score of the real ones stands beside theirs where they are."""


def applies(metric: str, extractor: Extractor) -> bool:
    """Whether a measure can be taken with an extractor."""
    if metric in CLIP_ONLY:
        return extractor.is_clip
    return metric not in INCEPTION_ONLY or extractor.has_logits
