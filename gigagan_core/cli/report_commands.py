"""`gigagan report compare`, `report gate` and `latency`: what was measured, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gigagan_core.cli.answer import answering
from gigagan_core.cli.options import ConditionOption, JsonOption, ModelOption, StoreOption, numbers
from gigagan_core.cli.tables import print_table

if TYPE_CHECKING:
    from gigagan_core.evaluation.comparison import Comparison
    from gigagan_core.evaluation.gate import Verdict
    from gigagan_core.evaluation.latency import Timing

report_app = typer.Typer(no_args_is_help=True, help="Compare reports, and let models through a gate.")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(report_app, name="report")
    app.command("latency")(latency)


@report_app.command("compare")
def report_compare(
    first: Annotated[str, typer.Argument(metavar="A", help="Report: an artifact, `latest`, or a path.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The report to set beside it.")],
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Set the figures of two reports beside each other, with what makes them comparable or not and their cautions."""
    with answering(as_json) as answer:
        from gigagan_core.evaluation.comparison import compare
        from gigagan_core.evaluation.report_file import read_report
        from gigagan_core.stages import references
        from gigagan_core.store.store import open_store

        opened = open_store(store)
        comparison = compare(
            *(read_report(references.report(opened, reference)) for reference in (first, second))
        )
        answer(comparison.as_json())
        if not as_json:
            _show_comparison(comparison)


@report_app.command("gate")
def report_gate(
    report: Annotated[str, typer.Argument(metavar="REPORT", help="An artifact, `latest`, or a path.")],
    require: Annotated[
        list[str],
        typer.Option(
            "--require",
            metavar="FIGURE<NUMBER",
            help='What must hold, e.g. "fd<0.2"; also <=, >, >=. Repeat for more.',
        ),
    ],
    strict: Annotated[
        bool, typer.Option("--strict", help="Of the worse end of each figure's interval.")
    ] = False,
    despite_cautions: Annotated[
        bool,
        typer.Option(
            "--despite-cautions",
            help="Pass a report of a rehearsal, or of a model judged on the images that it was trained on.",
        ),
    ] = False,
    promote: Annotated[
        str | None,
        typer.Option(
            "--promote",
            metavar="MODEL",
            help="Where all hold, move this registered model's alias from candidate to champion.",
        ),
    ] = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a model through if its report meets every requirement; exit code 1 if it does not.

    The report's cautions are shown with the verdicts, and two shut the gate: that of a rehearsal, and that of a model
    judged on the images that it was trained on.

    FIGURE is a figure's full name, its measure (fd, clip-score, precision, ...), or a unique beginning of its name.
    """
    with answering(as_json) as answer:
        from gigagan_core.evaluation import gate
        from gigagan_core.evaluation.report_file import read_report
        from gigagan_core.stages import references
        from gigagan_core.stages.gate import promote_judged
        from gigagan_core.store.store import open_store

        read = read_report(references.report(open_store(store), report))
        verdicts = gate.judge(read, require, strict)
        refusals = [] if despite_cautions else gate.refusals(read)
        passed = all(verdict.holds for verdict in verdicts) and not refusals
        promoted = promote_judged(read, promote, verdicts) if passed and promote else None
        cautions = gate.cautions(read, verdicts)
        answer(
            {
                "report": read.place,
                "passed": passed,
                "requirements": [verdict.as_json() for verdict in verdicts],
                "cautions": cautions,
                "refusals": refusals,
                "promoted": promoted,
            }
        )
        _show_verdicts(verdicts, cautions, refusals, promoted)
    if not passed:
        raise typer.Exit(1)


def _show_verdicts(
    verdicts: Sequence[Verdict],
    cautions: Sequence[str],
    refusals: Sequence[str],
    promoted: dict[str, Any] | None,
) -> None:
    from gigagan_core import console
    from gigagan_core.stages.gate import promotion

    for verdict in verdicts:
        (console.note if verdict.holds else console.warn)(verdict.sentence)
    for sentence in cautions:
        console.warn(sentence)
    for sentence in refusals:
        console.warn(f"the gate stays shut: {sentence}")
    if promoted:
        console.note(promotion(promoted))


def _show_comparison(comparison: Comparison) -> None:
    from gigagan_core import console
    from gigagan_core.text import plain

    rows = [
        (
            each.name,
            _with_interval(each.first, each.first_interval),
            _with_interval(each.second, each.second_interval),
            f"{each.difference:+.4g}",
            {True: "yes", False: "no", None: ""}[each.overlap],
            {"first": comparison.first, "second": comparison.second}.get(each.better, each.better),
        )
        for each in comparison.figures
    ]
    columns = ("figure", comparison.first, comparison.second, "difference", "intervals overlap", "better")
    print_table(columns, rows)
    for label, names in (
        (comparison.first, comparison.only_first),
        (comparison.second, comparison.only_second),
    ):
        if names:
            console.note(f"only in {label}: {', '.join(names)}")
    if comparison.settings:
        rows = [(each.name, str(each.first), str(each.second)) for each in comparison.settings]
        print_table(("setting that differs", comparison.first, comparison.second), rows)
    own = [
        f"{label}: {caution}"
        for label, cautions in (
            (comparison.first, comparison.first_cautions),
            (comparison.second, comparison.second_cautions),
        )
        for caution in cautions
    ]
    for sentence in (*comparison.refused, *comparison.cautions, *own):
        console.warn(plain(sentence, 1000))


def _with_interval(value: float, interval: tuple[float, float] | None) -> str:
    return f"{value:.4g}" + (f" ({interval[0]:.4g} to {interval[1]:.4g})" if interval else "")


def latency(
    model: ModelOption = "latest",
    upsampler: Annotated[
        str | None, typer.Option("--upsampler", metavar="ARTIFACT", help="Upsampler to time too.")
    ] = None,
    encoder: ConditionOption = None,
    batch: Annotated[str, typer.Option("--batch", metavar="N[,N...]", help="Batch sizes.")] = "1,8,32",
    device: Annotated[
        str | None,
        typer.Option("--device", help="cpu, cuda, cuda:1.", show_default="cuda where there is one"),
    ] = None,
    calls: Annotated[int, typer.Option("--calls", min=1, help="Timed calls of each.")] = 20,
    warm_up: Annotated[int, typer.Option("--warm-up", min=1, help="Calls before the first timed one.")] = 3,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time a model: p50, p95, throughput and peak memory of text encoder, base and upsampler, by batch size."""
    with answering(as_json) as answer:
        from gigagan_core import console
        from gigagan_core.evaluation.latency import time_models
        from gigagan_core.stages import references
        from gigagan_core.stages.judge import place
        from gigagan_core.store.store import open_store

        opened = open_store(store)
        base = references.base_model(opened, model)
        large = references.upsampler(opened, upsampler) if upsampler else None
        conditions = references.encoder(opened, encoder) if encoder else references.encoder_of(opened, base)
        timed = time_models(
            base.path,
            large and large.path,
            place(conditions),
            batches=numbers(batch, "--batch"),
            device=device,
            calls=calls,
            warm_up=warm_up,
        )
        answer(timed.as_json())
        if not as_json:
            _show_timings(timed.timings)
        lost = [f"{each.part}, batch {each.batch}" for each in timed.timings if not each.fits]
        if lost:
            console.warn(f"not timed, for they did not fit into memory on {timed.device}: {'; '.join(lost)}")
    if lost:
        raise typer.Exit(1)


def _show_timings(timings: Sequence[Timing]) -> None:
    from gigagan_core.evaluation.report_sections import timing_cells

    rows = [(timing.part, str(timing.batch), *timing_cells(timing)) for timing in timings]
    print_table(("part", "batch", "p50", "p95", "images a second", "peak memory"), rows, numbers_from=1)
