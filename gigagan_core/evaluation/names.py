"""Names of figures, built from what was measured: two different measurements never share a name."""

from __future__ import annotations

import re

_ALLOWED = re.compile(r"[A-Za-z0-9_\-./]+")
# A Frechet distance may be called FID only on Inception's features; readers compare FIDs across papers.
_FID_EXTRACTORS = ("inception",)


def metric_name(metric: str, *, extractor: str, resolution: int, count: int) -> str:
    """``<metric>_<extractor>_<resolution>_<count>``, e.g. ``fd_openmoji-judge_32_370``.

    metric: short name, ``-`` between its words. extractor: the network whose features were used.
    resolution: side of the images judged, pixels. count: images (or patches) on each side of the
    comparison; whole thousands are written ``30k``. The result is a valid MLflow key.
    Raises ValueError for characters MLflow refuses, and for ``fid`` of anything but Inception.
    """
    if metric.lower().startswith("fid") and not extractor.lower().startswith(_FID_EXTRACTORS):
        raise ValueError(f"'fid' is the name of Inception's distance alone; call {extractor!r}'s 'fd'")
    name = f"{metric}_{extractor}_{resolution}_{short_count(count)}"
    if not _ALLOWED.fullmatch(name):
        raise ValueError(f"{name!r}: a metric's name holds letters, digits and _-./ only")
    return name


def extractor_name(name: str) -> str:
    """An encoder's name with what MLflow refuses, and the ``_`` between a metric name's parts, made ``-``."""
    return re.sub(r"[^A-Za-z0-9\-.]+", "-", name).strip("-") or "unnamed"


def short_count(count: int) -> str:
    """30000 -> ``30k``; 370 -> ``370``."""
    return f"{count // 1000}k" if count >= 1000 and count % 1000 == 0 else str(count)
