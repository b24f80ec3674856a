"""What a run says at its end: stages with their times, figures, verdicts, and where the pictures are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich import filesize

from gigagan_core import console, environment
from gigagan_core.stages.base import StageRecord
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.runs import RunRecord
from gigagan_core.text import for_terminal

_VERDICT_STYLES = {"shown": "green", "not shown": "bold red", "not measured": "yellow"}


def document(
    history: Sequence[StageRecord],
    mlflow: Mapping[str, str] | None = None,
    record: RunRecord | None = None,
) -> dict[str, Any]:
    """A run as JSON-able values: what `--json` prints. mlflow: its name of the run. record: the store's of it."""
    reports = [line.artifact for line in history if line.artifact.kind == "report"]
    return {
        "stages": [_stage(line) for line in history],
        "seconds": round(sum(line.seconds for line in history), 3),
        "report": _report(reports[-1]) if reports else None,
        "mlflow": dict(mlflow) if mlflow else None,
        "run": record.id if record else None,
        "kept": _kept(record) if record else [],
    }


def _kept(record: RunRecord) -> list[dict[str, Any]]:
    """What a run took over from the one that it is a rerun of."""
    named = record.artifacts.items()
    return [{"role": role, **reference} for role, reference in named if reference["how"] == "kept"]


def _stage(line: StageRecord) -> dict[str, Any]:
    artifact = line.artifact
    return {
        "label": line.label,
        **artifact.reference(),
        "uri": artifact.uri,
        "created": artifact.manifest["created"],
        "bytes": artifact.bytes,
        "cached": line.cached,
        "why": line.why,
        "seconds": round(line.seconds, 3),
        "counts": artifact.manifest.get("counts", {}),
        "summary": artifact.summary,
    }


def _report(artifact: Artifact) -> dict[str, Any]:
    folder = artifact.path
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {
        "protocol": report.get("protocol"),
        "metrics": report.get("metrics", {}),
        "claims": report.get("claims", []),
        "html": str(folder / "report.html"),
        "json": str(folder / "report.json"),
        "pictures": [str(path) for path in sorted(folder.glob("*.png"))],
    }


def show(run: Mapping[str, Any], seconds: float | None = None) -> None:
    """Print a `document` on standard error. seconds: of the whole command, its start included."""
    screen = console.console()
    screen.print()
    screen.print(_stages_table(run, seconds))
    report = run.get("report")
    if not report:
        _show_last_stage(run["stages"])
        return
    screen.print()
    screen.print(_figures_table(report["metrics"]))
    if report["claims"]:
        screen.print()
        screen.print(_verdicts_table(report["claims"]))
    screen.print()
    for name, paths in (("report", [report["html"]]), ("pictures", report["pictures"])):
        for path in paths:
            screen.print(f"{name:9} {for_terminal(path, 1000)}", overflow="ignore", no_wrap=True)


def _show_last_stage(stages: Sequence[Mapping[str, Any]]) -> None:
    """A single stage's rows by the reason that they left for, its figures, and where its artifact lies."""
    for stage in stages[-1:]:
        screen = console.console()
        if rejected := stage["counts"].get("rejected"):
            table = _table("rows rejected", "")
            table.columns[1].justify = "right"
            for reason, count in sorted(rejected.items(), key=lambda each: (-each[1], each[0])):
                table.add_row(for_terminal(reason), f"{count:,}")
            screen.print(table)
        if stage["summary"]:
            screen.print(_figures_table(stage["summary"]))
        screen.print(f"artifact  {for_terminal(stage['uri'], 1000)}", overflow="ignore", no_wrap=True)


def show_where_to_look(in_prefect: bool = False) -> None:
    """Print where MLflow's pages are: on its server, or after the command that opens those of this folder.

    in_prefect: the run is one of Prefect's, whose pages that command opens too.
    """
    if page := environment.mlflow_page():
        console.console().print(f"look at   {for_terminal(page, 1000)}", overflow="ignore", no_wrap=True)
    else:
        pages = "Prefect's and MLflow's pages" if in_prefect else "MLflow's pages"
        console.console().print(f"look at   [bold]make ui[/bold]  ({pages} of these runs)")


def _stages_table(run: Mapping[str, Any], seconds: float | None) -> Any:
    table = _table("stage", "artifact", "rows out / in", "seconds", "")
    for stage in run["stages"]:
        counts = stage["counts"]
        table.add_row(
            for_terminal(stage["label"]),
            stage["fingerprint"][:12],
            f"{counts['out']:,} / {counts['in']:,}" if "in" in counts else "",
            f"{stage['seconds']:.1f}",
            for_terminal(_how(stage)),
        )
    total = run["seconds"] if seconds is None else seconds
    table.add_row("in all", "", "", f"{total:.1f}", "", style="bold")
    for column in table.columns[2:4]:
        column.justify = "right"
    return table


def _how(stage: Mapping[str, Any]) -> str:
    """What was used again, or why it was made."""
    if stage["cached"]:
        return f"cached, made {stage['created'][:16]}, {filesize.decimal(stage['bytes'])}"
    return stage["why"]


def _figures_table(metrics: Mapping[str, float]) -> Any:
    """One line a figure: this run's value, and beside it the baselines', which have names of their own."""
    beside: dict[str, list[str]] = {}
    for name, value in metrics.items():
        if name.startswith("baseline/"):
            _, baseline, figure = name.split("/", 2)
            beside.setdefault(figure, []).append(f"{baseline} {value:.3g}")
    table = _table("figure", "this run", "beside it")
    table.columns[0].overflow = "fold"
    table.columns[1].justify = "right"
    table.columns[2].style = "dim"
    own = {name: value for name, value in metrics.items() if not name.startswith("baseline/")}
    for name in dict.fromkeys([*own, *beside]):
        value = f"{own[name]:.4g}" if name in own else ""
        table.add_row(for_terminal(name), value, for_terminal(", ".join(beside.get(name, []))))
    return table


def _verdicts_table(claims: Sequence[Mapping[str, Any]]) -> Any:
    table = _table("claim", "verdict", "by")
    for claim in claims:
        style = _VERDICT_STYLES.get(claim["status"], "")
        status = for_terminal(claim["status"])
        verdict = f"[{style}]{status}[/{style}]" if style else status
        table.add_row(for_terminal(claim["title"]), verdict, for_terminal(claim.get("sentence", "")))
    return table


def _table(*columns: str) -> Any:
    from rich import box
    from rich.table import Table

    return Table(*columns, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
