"""From a report to its HTML page: what stands where, in which words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from gigagan_core.evaluation import report_sections, tradeoff_page
from gigagan_core.evaluation.bootstrap import Interval
from gigagan_core.evaluation.claims import figure
from gigagan_core.evaluation.report_template import TEMPLATE

if TYPE_CHECKING:
    from gigagan_core.evaluation.report import Report


def render(report: Report, metrics: Mapping[str, float]) -> str:
    """The whole page as text; it refers to nothing outside itself and runs no script."""
    settings = report.settings
    return report_sections.filled(
        TEMPLATE,
        title=report.protocol,
        lead=_lead(report),
        tally=_tally(report),
        claims=report.claims,
        cautions=report.cautions,
        samples_note=(
            f"Held-out captions, drawn by seed {settings.seed}, not by hand: one image for each, at "
            f"truncation psi = {settings.psi:g}, beside the real picture of that caption."
        ),
        samples_class="",
        samples=[report_sections.shown(sample) for sample in report.samples],
        strips=[report_sections.shown(sample) for sample in report.strips],
        extractor=report.extractor,
        image_size=settings.image_size,
        count=report.count,
        bars=_bars(report),
        **_base_table(report),
        **_upsampler_table(report),
        gallery_sections=report_sections.galleries(
            report.galleries,
            {
                "memorisation": report_sections.copying(report.memorisation),
                "failures": report_sections.twins(report.repetition),
            },
        ),
        **report_sections.latency(report),
        tradeoff=tradeoff_page.section(report.tradeoff) if report.tradeoff else "",
        charts=report_sections.training_charts(report.curves),
        terms=_terms(report),
        lineage=report.lineage,
        metrics=metrics,
        attribution=report.attribution,
        machine=report_sections.joined(report.record.get("machine", {})),
        versions=report_sections.joined(report.record.get("packages", {}), separator=" "),
    )


def _lead(report: Report) -> str:
    settings = report.settings
    upsampled = f", upsampled to {settings.upsampled_size}" if report.upsamplers else ""
    return (
        f"{report.count} held-out captions at {settings.image_size} pixels{upsampled}; truncation psi = "
        f"{settings.psi:g}, seed {settings.seed}. Every distance and score is {report.extractor}'s, an "
        "encoder that no training stage uses."
    )


def _tally(report: Report) -> str:
    shown = sum(claim.status == "shown" for claim in report.claims)
    return f"{shown} of {len(report.claims)} claims shown"


def _bars(report: Report) -> list[dict[str, Any]]:
    judged = sorted((s for s in report.sets if s.fd is not None), key=lambda figures: figures.fd.distance)
    longest = max([figures.fd.distance for figures in judged] + [1e-12])
    return [
        {
            "label": figures.label,
            "value": figures.fd.distance,
            "share": round(100 * max(figures.fd.distance, 0) / longest, 2),
            "ours": figures.id == "generated",
        }
        for figures in judged
    ]


def _base_table(report: Report) -> dict[str, Any]:
    k = report.settings.recall_k
    rows = []
    for s in report.sets:
        values = [
            _with_range(figure(s.fd.distance), s.fd_interval) if s.fd else "–",
            _with_range(figure(s.clip.score), s.score_interval) if s.clip else "–",
            _with_range(figure(s.clip.difference), s.clip.interval) if s.clip else "–",
            _with_range(f"{s.retrieval.recall:.1%}", s.retrieval.interval, "%") if s.retrieval else "–",
            f"{s.manifold.precision:.2f}" if s.manifold else "–",
            f"{s.manifold.recall:.2f}" if s.manifold else "–",
        ]
        rows.append({"label": s.label, "values": values, "ours": s.id == "generated"})
    found = next((s.retrieval for s in report.sets if s.retrieval), None)
    chance = f"Guessing gives recall@{k} {found.chance:.1%} over {found.distinct} captions. " if found else ""
    return {
        "base_columns": [
            "distance", "CLIP score", "above shuffled", f"caption recall@{k}", "precision", "recall",
        ],
        "base_rows": rows,
        "base_hint": (
            f"{chance}Below a figure its {report.settings.confidence:.0%} interval. A dash: the figure makes no "
            "sense for that set."
        ),
    }  # fmt: skip


def _with_range(value: str, interval: Interval | None, unit: str = "") -> Markup | str:
    """A figure with its interval below it."""
    if interval is None:
        return value
    return Markup("{}<small>{} to {}</small>").format(
        value, figure(interval.low, unit), figure(interval.high, unit)
    )


def _upsampler_table(report: Report) -> dict[str, Any]:
    settings = report.settings
    rows = [
        {
            "label": u.label,
            "values": [
                _with_range(figure(u.patch_fd.distance), u.patch_interval),
                _with_range(f"{u.psnr:.2f} dB", u.psnr_interval),
                _with_range(figure(u.ssim), u.ssim_interval),
                _with_range(f"{u.consistency:.2%}", u.consistency_interval, "%"),
            ],
            "ours": u.id == "upsampler",
        }
        for u in report.upsamplers
    ]
    return {
        "upsampler_columns": ["patch distance", "PSNR", "SSIM", "difference to input"],
        "upsampler_rows": rows,
        "upsampler_note": (
            f"Held-out real pictures, shrunk to {settings.image_size} pixels and enlarged to "
            f"{settings.upsampled_size}. The patch distance compares crops of {settings.patch_size} x "
            f"{settings.patch_size} pixels at full resolution, {settings.patches_per_image} an image, at the "
            "same places in every set."
        ),
        "upsampler_hint": (
            f"Below a figure its {settings.confidence:.0%} interval. Lower distance, higher PSNR and SSIM, lower "
            "difference are better. PSNR and SSIM reward a blurred guess, so the L1-only control may lead there; the "
            "patch distance is what sharpness shows in."
        ),
    }


def _terms(report: Report) -> list[tuple[str, str]]:
    settings = report.settings
    sha = str(report.judge.get("sha256", ""))[:12]
    drawn = (
        f"The interval draws the {report.independent} pictures behind the {report.count} images, each with "
        "all its variants."
        if report.independent < report.count
        else "The interval draws images."
    )
    length = "scaled to unit length" if settings.normalise_features else "as the encoder gives them"
    return [
        (
            report.extractor,
            f"The encoder that judges (sha256 {sha}…). It is not the one that conditions the models, and no "
            "training stage used it.",
        ),
        (
            "Distance",
            f"Frechet distance between Gaussians fitted to {report.extractor} features, {length}. It "
            "depends on encoder, resolution and count, so compare it only where all three agree; it is not "
            "comparable with distances on Inception features. The interval says how "
            "far another draw of images would move it; verdicts compare the distances as they are.",
        ),
        (
            "CLIP score",
            f"Mean cosine between {report.extractor}'s features of an image and of its caption. Shuffled: "
            f"the mean over the captions of all other images. {drawn}",
        ),
        (
            f"Caption recall@{settings.recall_k}",
            "Share of images whose own caption is among the nearest "
            f"{settings.recall_k} of all distinct held-out captions; ties count against the image. Its "
            f"interval counts {report.independent} independent images.",
        ),
        (
            "Precision, recall",
            "Share of generated images on the manifold of real ones, and the reverse; balls reach to the "
            f"{settings.neighbours} nearest neighbours (Kynkäänniemi et al. 2019).",
        ),
        (
            "Nearer to training images",
            "Chance that a generated image is nearer to its nearest training image than a held-out real image is to "
            "its own (Meehan et al. 2020), by the judge's features.",
        ),
        (
            "Mean training image",
            "One image repeated: no diversity. Where a model ends that has learned the average only.",
        ),
        (
            "PSNR, SSIM",
            "Means over the images of the peak signal-to-noise ratio and of the structural similarity (Wang et al. "
            "2004) beside the real image.",
        ),
        (
            "Difference to input",
            "Root mean square over pixels between the enlarged image, shrunk again, and the image it was "
            "made from, as a share of the pixel range.",
        ),
    ]
