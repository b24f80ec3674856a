"""Verdicts as data: what a report claims, the figures that decide it, and whether they show it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from gigagan_core.evaluation.bootstrap import Interval
from gigagan_core.evaluation.clip_score import ClipScore
from gigagan_core.evaluation.retrieval import Retrieval

Status = Literal["shown", "not shown", "not measured"]

# A trained generator must at least halve the distance it started from.
UNTRAINED_SHARE = 0.5


@dataclass(frozen=True)
class Claim:
    """id: stable key. title: a few words. statement: what would be shown. status: whether it is.

    numbers: (label, value) in the order to read them, the judged one first; unit "%": they are shares.
    interval: what it is an interval of, low end, high end; None where the verdict needs none.
    sentence: the comparison that decides, for logs and tables.
    """

    id: str
    title: str
    statement: str
    status: Status
    numbers: tuple[tuple[str, float], ...]
    sentence: str
    unit: Literal["", "%"] = ""
    interval: tuple[str, float, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-able; shares stay shares of 1."""
        return asdict(self) | {"numbers": dict(self.numbers)}


def figure(value: float, unit: str = "") -> str:
    """A figure as reports print it: about three digits, two of a tiny one; unit "%" prints a share as a percentage."""
    if value != value:
        return "n/a"
    if unit == "%":
        return f"{value:.1%}"
    size = abs(value)
    decimals = 1 if size >= 100 else 2 if size >= 10 else 3 if size >= 0.1 or size == 0 else 4
    if 0 < size < 1e-3:  # the end of an interval beside 0 must not read as 0
        decimals = min(1 - math.floor(math.log10(size)), 9)
    return f"{value:.{decimals}f}"


def distance_claim(
    generated: float,
    untrained: float | None,
    blurred: float | None,
    blur_size: int,
    interval: Interval | None = None,
) -> Claim:
    """The model's distance is below half of the untrained one's and below that of blurred real images.

    interval: of the model's distance; it stands beside the verdict, which compares the distances as measured.
    """
    numbers = [("generated", generated)]
    half = None if untrained is None else UNTRAINED_SHARE * untrained
    if half is not None:
        numbers += [("half of untrained", half)]
    if blurred is not None:
        numbers += [(f"real, blurred to {blur_size} x {blur_size}", blurred)]
    compared = [_compare(generated, value, label) for label, value in numbers[1:]]
    return Claim(
        "distance",
        "Close to real",
        "The Frechet distance of generated images to held-out real ones is below half of the untrained "
        f"generator's and below that of real training images blurred to {blur_size} x {blur_size}.",
        _status(None if half is None or blurred is None else generated < half and generated < blurred),
        tuple(numbers),
        "; ".join(compared) or "no baseline was given to compare with",
        interval=None
        if interval is None
        else (f"{interval.level:.0%} interval of the distance", interval.low, interval.high),
    )


def caption_claim(score: ClipScore) -> Claim:
    """Right captions score above shuffled ones; the interval of the difference excludes zero."""
    interval = score.interval
    return Claim(
        "clip-score",
        "Follows its captions",
        "The CLIP score with the right captions is above that with shuffled ones, and the "
        f"{interval.level:.0%} bootstrap interval of the difference excludes zero.",
        _status(interval.low > 0),
        (
            ("right captions", score.score),
            ("shuffled captions", score.shuffled),
            ("difference", score.difference),
        ),
        f"difference {figure(score.difference)}, {interval.level:.0%} interval "
        f"{figure(interval.low)} to {figure(interval.high)}",
        interval=(f"{interval.level:.0%} interval of it", interval.low, interval.high),
    )


def retrieval_claim(found: Retrieval) -> Claim:
    """Recall@k of the own caption is above chance, interval included."""
    interval = found.interval
    return Claim(
        "retrieval",
        "Finds its captions",
        f"The image's own caption is among its {found.k} nearest of {found.distinct} distinct captions more "
        f"often than chance: the {interval.level:.0%} interval of recall@{found.k} lies above it.",
        _status(interval.low > found.chance),
        ((f"recall@{found.k}", found.recall), ("chance", found.chance)),
        f"recall {found.recall:.1%}, {interval.level:.0%} interval {interval.low:.1%} to "
        f"{interval.high:.1%}, chance {found.chance:.1%}",
        unit="%",
        interval=(f"{interval.level:.0%} interval of recall", interval.low, interval.high),
    )


def patch_claim(
    gan: float | None, bicubic: float | None, control: float | None, difference: Interval | None = None
) -> Claim:
    """The upsampler's patch distance is below bicubic's, and `difference`, the interval of theirs, below zero.

    An L1-only control stands beside them.
    """
    named = (("upsampler", gan), ("bicubic", bicubic), ("L1-only control", control))
    measured = gan is not None and bicubic is not None and difference is not None
    return Claim(
        "patch-distance",
        "Sharper than bicubic",
        "The Frechet distance of full-resolution patches to the real ones is lower for the upsampler than "
        "for bicubic enlarging, and the bootstrap interval of the difference on the same pictures excludes zero; "
        "an upsampler trained with L1 alone stands beside it.",
        _status(difference.high < 0 if measured else None),
        tuple((label, value) for label, value in named if value is not None),
        f"{_compare(gan, bicubic, 'bicubic')}; {difference.level:.0%} interval of the difference "
        f"{figure(difference.low)} to {figure(difference.high)}"
        if measured
        else "no upsampler was given",
        interval=(f"{difference.level:.0%} interval of the difference", difference.low, difference.high)
        if measured
        else None,
    )


def consistency_claim(gan: float | None, bicubic: float | None, tolerance: float) -> Claim:
    """The upsampler's output, shrunk, matches its input within a stated tolerance."""
    named = (("upsampler", gan), ("tolerance", tolerance), ("bicubic", bicubic))
    return Claim(
        "consistency",
        "True to its input",
        "The upsampler's output, shrunk again, matches its input: the root mean square difference is within "
        f"{tolerance:.1%} of the pixel range.",
        _status(None if gan is None else gan <= tolerance),
        tuple((label, value) for label, value in named if value is not None) if gan is not None else (),
        f"{gan:.2%} of the pixel range, tolerance {tolerance:.1%}"
        if gan is not None
        else "no upsampler was given",
        unit="%",
    )


def _status(holds: bool | None) -> Status:
    return "not measured" if holds is None else "shown" if holds else "not shown"


def _compare(value: float, other: float, label: str) -> str:
    return f"{figure(value)} is {'below' if value < other else 'not below'} {figure(other)} ({label})"
