"""A report's figures by their full names: with intervals for readers, as plain numbers for records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from gigagan_core.evaluation.bootstrap import Interval, wilson
from gigagan_core.evaluation.figures import Figure
from gigagan_core.evaluation.gathering import PATCH_FD
from gigagan_core.evaluation.judging import SetFigures, UpsamplerFigures
from gigagan_core.evaluation.names import NEIGHBOURS, feature_space, metric_name, with_neighbours
from gigagan_core.evaluation.neighbours import NEAR_QUANTILE, Memorisation, Repetition

if TYPE_CHECKING:
    from gigagan_core.evaluation.report import Report

_NO_THRESHOLD = (
    f"{NEAR_QUANTILE:.0%} of the real images have a twin of equal features for another caption, so only equal features "
    "count as near: a model that repeats itself less exactly does not show"
)


def figures(report: Report) -> list[Figure]:
    """Every figure that says how good something is; a baseline's name begins with ``baseline/<id>/``.

    Names are valid MLflow keys, values finite.
    """
    found = [figure for figures in report.sets for figure in _of_set(report, figures)]
    found += [figure for figures in report.upsamplers for figure in _of_upsampler(report, figures)]
    found += of_neighbours(
        report.memorisation,
        report.repetition,
        lambda metric: _name(report, metric, report.settings.image_size, report.count),
        report.extractor,
    )
    return found


def metrics(report: Report) -> dict[str, float]:
    """The value of every figure, and what stands beside some of them: shuffled captions, ends of intervals, chance."""
    named = {figure.name: figure.value for figure in figures(report)}
    for each in report.sets:
        prefix, size = _prefix(each, "generated"), report.settings.image_size
        for metric, value in _beside(each).items():
            named[prefix + _name(report, metric, size, report.count)] = value
    return named


def set_values(figures: SetFigures) -> dict[str, float]:
    """The figures that a set has, by short name, in the order of the report's table."""
    values: dict[str, float] = {}
    if figures.fd is not None:
        values["fd"] = figures.fd.distance
    if figures.clip is not None:
        values["clip-score"] = figures.clip.score
        values["clip-score-difference"] = figures.clip.difference
    if figures.retrieval is not None:
        values[f"retrieval-at-{figures.retrieval.k}"] = figures.retrieval.recall
    if figures.manifold is not None:
        values["precision"] = figures.manifold.precision
        values["recall"] = figures.manifold.recall
    return values | _beside(figures)


def _beside(figures: SetFigures) -> dict[str, float]:
    values: dict[str, float] = {}
    if figures.clip is not None:
        values["clip-score-shuffled"] = figures.clip.shuffled
        values["clip-score-difference-low"] = figures.clip.interval.low
        values["clip-score-difference-high"] = figures.clip.interval.high
    if figures.retrieval is not None:
        values[f"retrieval-at-{figures.retrieval.k}-chance"] = figures.retrieval.chance
    return values


def _of_set(report: Report, each: SetFigures) -> Iterator[Figure]:
    fd, clip, retrieval, manifold = each.fd, each.clip, each.retrieval, each.manifold

    def made(metric: str, value: float, better: str, interval: Interval | None, real: int) -> Figure:
        short = with_neighbours(metric, report.settings.neighbours) if metric in NEIGHBOURS else metric
        name = _prefix(each, "generated") + _name(report, short, report.settings.image_size, report.count)
        cautions = (f"{fd.caution}",) if metric == "fd" and fd and fd.caution else ()
        return Figure(
            name,
            metric,
            value,
            real,
            report.count,
            better,
            report.extractor,
            interval=interval,
            cautions=cautions,
        )

    if fd is not None:
        yield made("fd", fd.distance, "lower", each.fd_interval, report.count)
    if clip is not None:
        yield made("clip-score", clip.score, "higher", each.score_interval, 0)
        yield made("clip-score-difference", clip.difference, "higher", clip.interval, 0)
    if retrieval is not None:
        metric = f"retrieval-at-{retrieval.k}"
        yield made(metric, retrieval.recall, "higher", retrieval.interval, 0)
    if manifold is not None:
        for metric, share in (("precision", manifold.precision), ("recall", manifold.recall)):
            yield made(metric, share, "higher", _share_interval(report, share), report.count)


def _share_interval(report: Report, share: float) -> Interval:
    """Of a share of all images; the manifolds are held fixed."""
    hits = round(share * report.count)
    return wilson(hits, report.count, report.settings.confidence, report.independent)


def _of_upsampler(report: Report, each: UpsamplerFigures) -> Iterator[Figure]:
    settings, prefix = report.settings, _prefix(each, "upsampler")
    size, patches = settings.upsampled_size, each.patch_fd.count
    name = prefix + _name(report, f"patch{settings.patch_size}-fd", size, patches)
    cautions = (each.patch_fd.caution,) if each.patch_fd.caution else ()
    yield Figure(
        name,
        PATCH_FD,
        each.patch_fd.distance,
        patches,
        patches,
        "lower",
        report.extractor,
        interval=each.patch_interval,
        cautions=cautions,
    )
    # these compare pixels: no encoder in their names
    for metric, value, better, interval in (
        ("psnr", each.psnr, "higher", each.psnr_interval),
        ("ssim", each.ssim, "higher", each.ssim_interval),
        ("consistency-rmse", each.consistency, "lower", each.consistency_interval),
    ):
        name = prefix + f"{metric}_{size}_{report.count}"
        yield Figure(name, metric, value, report.count, report.count, better, interval=interval)


def of_neighbours(
    memorisation: Memorisation | None,
    repetition: Repetition | None,
    name: Callable[[str], str],
    extractor: str,
    cautions: tuple[str, ...] = (),
) -> list[Figure]:
    """The figures of nearest neighbours. name: a metric's full name. cautions: of the one beside training images."""
    found = []
    if memorisation is not None:
        count = len(memorisation.generated.distance)
        details = {"training_images_searched": memorisation.searched, "no_copying": 0.5}
        found.append(
            Figure(
                name("copying"),
                "copying",
                memorisation.closer,
                len(memorisation.held_out.distance),
                count,
                "lower",
                extractor,
                interval=memorisation.interval,
                details=details,
                cautions=cautions,
            )
        )
    if repetition is not None:
        count = len(repetition.generated.distance)
        found.append(
            Figure(
                name("near-duplicates"),
                "near-duplicates",
                repetition.share,
                len(repetition.real.distance),
                count,
                "lower",
                extractor,
                interval=repetition.interval,
                details={"nearer_than": repetition.threshold},
                cautions=() if repetition.threshold else (_NO_THRESHOLD,),
            )
        )
    return found


def _prefix(each: SetFigures | UpsamplerFigures, own: str) -> str:
    return "" if each.id == own else f"baseline/{each.id}/"


def _name(report: Report, metric: str, resolution: int, count: int) -> str:
    is_cosine = metric.startswith(("clip-score", "retrieval"))
    space = feature_space(report.extractor, is_cosine or report.settings.normalise_features)
    return metric_name(metric, extractor=space, resolution=resolution, count=count)
