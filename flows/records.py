"""What a flow run shows on its page: counts by reason, figures, pictures, the MLflow run.

Reasons, labels and captions come from outside: everything is escaped for Markdown here.
"""

from __future__ import annotations

import base64
import contextlib
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed
from rich import filesize

from gigagan_core import console, environment, servers
from gigagan_core.stages.base import StageRecord
from gigagan_core.store.artifact import Artifact
from gigagan_core.text import for_markdown, plain
from gigagan_core.tracking.experiment import run_url
from gigagan_core.tracking.mlflow_run import StageRun

# A page loads every artifact's text whole: larger pictures are shrunk to about this many bytes.
PICTURE_BYTES = 300_000


class Outage:
    """What is shown on Prefect's pages must not end the work that it shows: days of it may be behind.

    While the server does not answer, what would be shown is left out, and the console says so once.
    """

    def __init__(self) -> None:
        self._told = False

    @contextlib.contextmanager
    def outlived(self) -> Iterator[None]:
        """Around a request to Prefect, whose failure is told and goes no further."""
        try:
            yield
            self._told = False
        except Exception as error:  # of httpx, of Prefect, of the network: none is a reason to stop
            if not self._told:
                console.warn(
                    f"Prefect does not answer ({type(error).__name__}: {plain(error)}); work goes on, and its page "
                    "lacks what is not sent meanwhile"
                )
            self._told = True


class ProgressPage:
    """Progress of a stage as a Prefect artifact: made when there is something to show, then updated."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._outage = Outage()

    def __call__(self, what: str, share: float, figures: Mapping[str, Any]) -> None:
        """share: 0 to 1. figures: shown beside it, by name. Never raises."""
        with self._outage.outlived():
            self._show(what, share, figures)

    def _show(self, what: str, share: float, figures: Mapping[str, Any]) -> None:
        shown = "  ".join(f"{name} {value}" for name, value in figures.items())
        description = _harmless(f"{what}  {shown}")
        percent = round(100 * min(max(share, 0.0), 1.0), 1)
        if what in self._made:
            update_progress_artifact(self._made[what], progress=percent, description=description)
        else:
            self._made[what] = create_progress_artifact(
                progress=percent, key=_key(what, "progress"), description=description
            )


def sentence(line: StageRecord) -> str:
    """A stage's end, for the log: what it made or reused, how many rows, how long it took."""
    artifact = line.artifact
    size = f", {filesize.decimal(artifact.bytes)}," if artifact.bytes else ""
    did = f"cached, {artifact.short} of {artifact.manifest['created'][:19]}{size} is used again"
    if not line.cached:
        did = f"made {artifact.short}" + (f" ({line.why})" if line.why else "")
    counts = artifact.manifest.get("counts", {})
    rows = f"; {counts['out']} of {counts['in']} kept" if "in" in counts else ""
    return plain(f"{line.label}: {did}{rows}; {line.seconds:.1f} s")


def publish(line: StageRecord) -> None:
    """A stage's table of counts, its figures and its pictures as Prefect artifacts of the current task."""
    artifact, label = line.artifact, plain(line.label)
    counts = artifact.manifest.get("counts", {})
    if "in" in counts:
        create_table_artifact(
            key=_key(label, "counts"), table=counts_table(counts), description=f"{_harmless(label)}: rows"
        )
    create_markdown_artifact(
        key=_key(label, "result"),
        markdown=result_markdown(line),
        description=f"{_harmless(label)}: {'reused' if line.cached else 'made'} {artifact.short}",
    )
    if not line.cached:  # what was used again names its record in the text
        publish_stage_link(line)


def counts_table(counts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows in, rows out, and every rejection by its reason, most frequent first."""
    rejected = sorted(counts.get("rejected", {}).items(), key=lambda item: -item[1])
    lines = [("in", counts["in"]), ("out", counts["out"])]
    lines += [(f"rejected: {reason}", number) for reason, number in rejected]
    whole = max(counts["in"], 1)
    return [
        {"rows": _harmless(name), "number": number, "share": f"{number / whole:.1%}"}
        for name, number in lines
    ]


def result_markdown(line: StageRecord) -> str:
    """Fingerprint, place, figures and pictures of what a stage made."""
    artifact = line.artifact
    parts = [f"## {for_markdown(line.label)}", ""]
    if line.cached:
        made = artifact.manifest["created"][:19]
        parts += [
            f"**Cached**: nothing was done, {artifact.short} of {for_markdown(made)} is used again.",
            "",
        ]
    for warning in artifact.notes.get("warnings", ()):
        parts += [f"**Warning: {for_markdown(warning, 1000)}**", ""]
    parts += [
        "| | |",
        "|---|---|",
        f"| artifact | `{artifact.fingerprint}` |",
        f"| kind | {for_markdown(artifact.kind)} |",
        f"| place | {for_markdown(artifact.uri)} |",
    ]
    made_by = artifact.manifest.get("mlflow")
    if made_by:
        parts.append(f"| MLflow run | {mlflow_link(made_by)} |")
    parts += [f"| {for_markdown(name)} | {value:.6g} |" for name, value in artifact.summary.items()]
    notes = {name: artifact.notes[name] for name in ("licence", "attribution") if artifact.notes.get(name)}
    parts += [f"| {for_markdown(name)} | {for_markdown(text, 1000)} |" for name, text in notes.items()]
    for picture in pictures(artifact):
        parts += ["", f"![{for_markdown(picture.stem)}]({data_uri(picture)})"]
    return "\n".join(parts) + "\n"


def pictures(artifact: Artifact) -> list[Path]:
    """The pictures to show: those at the top of an artifact's folder, and the last sample grid of a training."""
    names = sorted(artifact.manifest.get("files", {}))
    shown = [name for name in names if re.fullmatch(r"[^/]+\.png", name)]
    shown += [name for name in names if re.fullmatch(r"samples/[^/]+\.png", name)][-1:]
    return [artifact.path / name for name in shown]


def data_uri(picture: Path) -> str:
    """A picture inside its own address: Prefect serves no files."""
    raw, kind = picture.read_bytes(), "png"
    if len(raw) > PICTURE_BYTES:
        from PIL import Image

        with Image.open(picture) as image:
            shrunk = image.convert("RGB")
        for quality in (85, 70, 50):
            output = io.BytesIO()
            shrunk.save(output, "JPEG", quality=quality)
            raw, kind = output.getvalue(), "jpeg"
            if len(raw) <= PICTURE_BYTES:
                break
            shrunk = shrunk.resize((max(1, shrunk.width * 3 // 4), max(1, shrunk.height * 3 // 4)))
    return f"data:image/{kind};base64,{base64.b64encode(raw).decode()}"


def publish_usage(history: Sequence[StageRecord]) -> None:
    """What each stage of a run took and cost; of stages that were reused, what they took when they were made."""
    if not history:
        return
    create_table_artifact(
        key="usage",
        table=usage_table(history),
        description="Time, CPU-hours and GPU-hours by stage; what was reused is in brackets and not in the sum",
    )


def usage_table(history: Sequence[StageRecord]) -> list[dict[str, Any]]:
    """A row a stage, and the sum; a cost only where a price is known."""
    rows, sums, currencies = [], Counter[str](), set()
    for line in history:
        used = line.artifact.manifest.get("usage") or {}
        shown = {"stage": _harmless(line.label), "seconds": _amount(line.seconds, line.cached)}
        for name in ("cpu_hours", "gpu_hours", "cost"):
            if name in used:
                unit = f" {used['currency']}" if name == "cost" else ""
                shown[name] = _amount(used[name], line.cached) + unit
        rows.append(shown)
        if not line.cached:
            sums.update({name: used[name] for name in ("cpu_hours", "gpu_hours", "cost") if name in used})
            currencies |= {used["currency"]} if "cost" in used else set()
    total: dict[str, Any] = {"stage": "in all", "seconds": _amount(sum(line.seconds for line in history))}
    total |= {name: _amount(value) for name, value in sums.items()}
    if "cost" in total:
        total["cost"] += f" {'/'.join(sorted(currencies))}"
    return [*rows, total]


def _amount(value: float, reused: bool = False) -> str:
    return f"({value:.4g})" if reused else f"{value:.4g}"


def publish_stage_link(line: StageRecord) -> None:
    """A link to the MLflow run that recorded what the stage made."""
    made_by = line.artifact.manifest.get("mlflow")
    if made_by:
        create_link_artifact(
            key=_key(plain(line.label), "mlflow"),
            link=_mlflow_url(made_by)[0],
            link_text=f"MLflow run {made_by['run_id']}",
            description=f"{_harmless(line.label)}: its record",
        )


def publish_mlflow_link(run: StageRun) -> None:
    """A link to the MLflow run of a whole pipeline run."""
    create_markdown_artifact(
        key="mlflow-run",
        markdown=f"{mlflow_link(run.reference())}\n",
        description="The MLflow run of this pipeline run",
    )


def mlflow_link(reference: Mapping[str, str]) -> str:
    """A Markdown link to an MLflow run, on the server that serves it, or will when `make ui` is given."""
    url, is_there = _mlflow_url(reference)
    return f"[{reference['run_id']}]({url})" + ("" if is_there else " (served by `make ui`)")


def _mlflow_url(reference: Mapping[str, str]) -> tuple[str, bool]:
    """The page of an MLflow run, and whether a server is known to serve it now."""
    server = environment.mlflow_page()
    if server is None and (found := servers.running()) is not None:
        server = found.mlflow
    later = f"http://{servers.HOST}:{servers.MLFLOW_PORT}"
    return str(run_url(server or later, reference["experiment_id"], reference["run_id"])), server is not None


def end_dead_flow_runs(ended: Sequence[Mapping[str, str]], own: str | None) -> None:
    """Mark as crashed the flow runs, and their task runs, whose process died without a word.

    ended: tags of the MLflow runs that the same process left open. own: id of this flow run, which may be a retry of
    the one that died.
    """
    dead = Crashed(message="its process died without ending this run")
    died = {tags["prefect.flow_run_id"] for tags in ended if "prefect.flow_run_id" in tags} - {str(own)}
    with get_client(sync_client=True) as client:
        for flow_run_id in died:
            try:
                state = client.read_flow_run(flow_run_id).state
            except ObjectNotFound:
                continue  # it reported to another server
            only_this = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
            for task_run in client.read_task_runs(flow_run_filter=only_this):
                if task_run.state is None or not task_run.state.is_final():
                    client.set_task_run_state(task_run.id, dead, force=True)
            if state is None or not state.is_final():
                client.set_flow_run_state(flow_run_id, dead, force=True)


def _harmless(text: object) -> str:
    """For cells and descriptions, which Prefect shows as plain text here and as Markdown there."""
    return re.sub(r"[^\w .,:/%()+-]", "·", plain(text))


def _key(label: str, what: str) -> str:
    """Prefect's keys hold small letters, digits and dashes."""
    return f"{re.sub(r'[^a-z0-9]+', '-', label.lower()).strip('-')}-{what}"
