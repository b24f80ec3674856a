"""What goes into a run, in the forms that MLflow takes: metrics, tags, a description."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from gigagan_core.text import for_markdown, plain

VALUE_LENGTH = 5000
"""Characters of one value."""


class MetricEntry(NamedTuple):
    """A figure of a run. timestamp: milliseconds since 1970. step: images seen."""

    key: str
    value: float
    timestamp: int
    step: int


def artifact_tags(artifact: Any) -> dict[str, Any]:
    """Which artifact a run has made or used again."""
    return {
        "gigagan.fingerprint": artifact.fingerprint,
        "gigagan.output_digest": artifact.output_digest,
        "gigagan.attempt": artifact.attempt,
        "gigagan.artifact": artifact.uri,
        # What MLflow shows as the run's description.
        "mlflow.note.content": links(artifact),
    }


def artifact_metrics(artifact: Any) -> dict[str, float]:
    """Counts and figures of an artifact's manifest, under names that MLflow takes."""
    counts = artifact.manifest.get("counts", {})
    figures = {f"count/{key}": counts[key] for key in ("in", "out") if key in counts}
    figures |= {f"count/rejected/{reason}": n for reason, n in counts.get("rejected", {}).items()}
    figures |= artifact.summary
    return {
        re.sub(r"[^A-Za-z0-9_\-./]+", "_", name): float(value)
        for name, value in figures.items()
        if isinstance(value, (int, float)) and not math.isnan(value)
    }


def usage_metrics(used: Mapping[str, Any]) -> dict[str, float]:
    """CPU-hours and GPU-hours, and their cost under the name of its currency."""
    named = {f"usage/{name}": float(used[name]) for name in ("cpu_hours", "gpu_hours") if name in used}
    return named | ({f"usage/cost_{used['currency']}": float(used["cost"])} if "cost" in used else {})


def links(artifact: Any) -> str:
    """Markdown: where the artifact lies, and the page of the run that asked for it."""
    asked = artifact.manifest.get("origin") or {}
    page = asked.get("prefect.flow_run_url")
    lines = [f"Artifact: `{plain(artifact.uri).replace('`', '')}`"]
    if page:
        lines.append(f"Prefect: [{for_markdown(asked.get('prefect.flow_run_name') or 'flow run')}]({page})")
    return "\n\n".join(lines)


def as_strings(tags: Mapping[str, Any]) -> dict[str, str]:
    """Tags without those that have no value, each cut to what MLflow takes."""
    return {key: str(value)[:VALUE_LENGTH] for key, value in tags.items() if value is not None}
