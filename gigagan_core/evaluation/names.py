"""Names of figures, built from what was measured: two different measurements never share a name."""

from __future__ import annotations

import re
from collections.abc import Container
from typing import NamedTuple

_ALLOWED = re.compile(r"[A-Za-z0-9_\-./]+")
INCEPTION, LEGACY = "inception", "legacy_pytorch"
PUBLISHED_INCEPTION = {
    # inception-2015-12-05.pt, TorchScript (StyleGAN2-ADA's), which clean-fid's modes clean and legacy_tensorflow use
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
    # pt_inception-2015-12-05-6726825d.pth, pytorch-fid's, which its mode legacy_pytorch uses
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
}
"""sha256 of the Inception weights whose Frechet distance may be called FID; readers compare FIDs across papers."""

NEIGHBOURS = {"precision": 3, "recall": 3, "density": 5, "coverage": 5}
"""k of the manifolds as published: Kynkaanniemi et al. 2019, Naeem et al. 2020."""


def metric_name(
    metric: str, *, extractor: str | None, resolution: int | str, count: int, sha256: str | None = None
) -> str:
    """``<metric>_<extractor>_<resolution>_<count>``, e.g. ``fd_openmoji-judge_32_370``.

    metric: short name, ``-`` between its words. extractor: the network whose features were used, None for figures
    that need none. resolution: side of the images judged, pixels, or ``native`` where they differ. count: images (or
    patches) on each side of the comparison, of the generated ones where the counts differ; whole thousands are
    written ``30k``. sha256: of the extractor's weights; only `fid` needs it. The result is a valid MLflow key.
    Raises ValueError for characters MLflow refuses, and for ``fid`` of anything but Inception's published weights.
    """
    if re.search(r"(^|-)fid", metric.lower()) and sha256 not in PUBLISHED_INCEPTION:
        raise ValueError(
            f"'fid' is the name of the distance by Inception's published weights alone; call {extractor!r}'s 'fd'"
        )
    parts = (metric, extractor, str(resolution), short_count(count))
    name = "_".join(part for part in parts if part is not None)
    if not _ALLOWED.fullmatch(name):
        raise ValueError(f"{name!r}: a metric's name holds letters, digits and _-./ only")
    return name


class Parts(NamedTuple):
    """What a metric's name says. baseline: its id, "" for the model's own. extractor: "" where it needs none."""

    baseline: str
    metric: str
    extractor: str
    resolution: str
    count: str


def parse(name: str) -> Parts:
    """The parts of a name that `metric_name` made, with ``baseline/<id>/`` before it or not.

    Raises ValueError for any other name.
    """
    place, _, own = name.rpartition("/")
    parts = own.split("_")
    if len(parts) == 3:
        parts.insert(1, "")
    if len(parts) != 4 or (place and not place.startswith("baseline/")):
        raise ValueError(f"{name!r} is no <metric>_<extractor>_<resolution>_<count>")
    return Parts(place.removeprefix("baseline/"), *parts)


def extractor_name(name: str) -> str:
    """An encoder's name with what MLflow refuses, and the ``_`` between a metric name's parts, made ``-``."""
    return re.sub(r"[^A-Za-z0-9\-.]+", "-", name).strip("-") or "unnamed"


def by_weights(name: str, sha256: str, published: Container[str | None] = ()) -> str:
    """`name`, followed by the beginning of the weights' sum unless they are `published` under it."""
    return name if sha256 in published else f"{name}-{sha256[:8]}"


def with_neighbours(metric: str, k: int) -> str:
    """``precision``, and with another k than the published one ``precision-k5``. metric: of NEIGHBOURS."""
    return metric if k == NEIGHBOURS[metric] else f"{metric}-k{k}"


def feature_space(extractor: str, normalised: bool) -> str:
    """The extractor's name, and where its features keep the length that it gives them ``<name>-raw``."""
    return extractor if normalised else f"{extractor}-raw"


def short_count(count: int) -> str:
    """30000 -> ``30k``; 370 -> ``370``."""
    return f"{count // 1000}k" if count >= 1000 and count % 1000 == 0 else str(count)
