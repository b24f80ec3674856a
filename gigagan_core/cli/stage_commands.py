"""One command a stage, each a thin door onto the function that a flow or a notebook calls too."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from gigagan_core.cli.answer import answering
from gigagan_core.cli.options import (
    AcceptOption,
    AsHeldOutOption,
    BackendOption,
    BackendSetOption,
    ConditionOption,
    EncoderOption,
    ForceOption,
    HeldOutOption,
    InitFromOption,
    JsonOption,
    JudgedDataOption,
    JudgeOption,
    MixtureOption,
    ModelOption,
    PresetOption,
    SetOption,
    StoreOption,
    UncuratedOption,
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module, in the order of the pipeline."""
    app.command("ingest")(ingest)
    app.command("import")(import_data)
    app.command("train-encoder")(train_encoder)
    app.command("curate")(curate)
    app.command("train-base")(train_base)
    app.command("train-upsampler")(train_upsampler)
    app.command("evaluate")(evaluate)
    app.command("tradeoff")(tradeoff)


@contextlib.contextmanager
def stage_surroundings(
    store: str | None,
    force: bool,
    accept_code_change: bool,
    as_json: bool,
    backend: str | None = None,
    backend_set: list[str] | None = None,
) -> Iterator[Any]:
    """The surroundings of one stage: store, records in MLflow, Ray or a backend; and at the end the answer."""
    with answering(as_json) as answer:
        from gigagan_core import servers
        from gigagan_core.backends.base import open_backend
        from gigagan_core.cli.closing import document, show, show_where_to_look
        from gigagan_core.config.backend import backend_settings
        from gigagan_core.stages.base import RunContext
        from gigagan_core.stages.session import PoliteRaySession
        from gigagan_core.tracking.mlflow_run import MlflowTracker

        where = backend_settings(backend, backend_set)
        options = {
            "force": force,
            "accept_code_change": accept_code_change,
            "backend": open_backend(where),
            "prices": where.prices,
        }
        tracker = MlflowTracker(server=servers.serving_records())
        with RunContext.open(store, tracker, ray_session=PoliteRaySession(), **options) as context:
            yield context
            run = document(context.history)
        show(run)
        show_where_to_look()
        answer(run)


def ingest(
    metadata: Annotated[
        str,
        typer.Option(
            "--metadata", metavar="FILE|FOLDER|URI", help="Parquet table or tables of URLs and captions."
        ),
    ],
    preset: Annotated[
        str | None,
        typer.Option("--preset", metavar="NAME", help="Settings to start from; see `gigagan presets`."),
    ] = None,
    held_out: AsHeldOutOption = False,
    overrides: SetOption = None,
    store: StoreOption = None,
    force: ForceOption = False,
    accept_code_change: AcceptOption = False,
    backend: BackendOption = None,
    backend_set: BackendSetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a table's images into a shard set: filter, download, rules; every rejection is counted."""
    with stage_surroundings(store, force, accept_code_change, as_json, backend, backend_set) as context:
        from gigagan_core.config.base import with_overrides
        from gigagan_core.config.ingest import IngestSettings
        from gigagan_core.stages import ingest as stage
        from gigagan_core.stages.references import settings_of

        if preset is None:
            settings = with_overrides(IngestSettings(), overrides or ())
        else:
            settings = settings_of(preset, "ingest", overrides, own_tables=True)
        label = f"ingest {'heldout' if held_out else 'train'}"
        context.run(stage.run, settings, {"metadata": metadata}, label=label)


def import_data(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="webdataset or img2dataset tars, captioned pictures, or a folder a class."
        ),
    ],
    captions: Annotated[
        Path | None,
        typer.Option(
            "--captions", metavar="FILE", help="Table of captions, or of class names, for pictures without."
        ),
    ] = None,
    held_out: AsHeldOutOption = False,
    overrides: SetOption = None,
    store: StoreOption = None,
    force: ForceOption = False,
    accept_code_change: AcceptOption = False,
    backend: BackendOption = None,
    backend_set: BackendSetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a shard set of pictures that are on this machine already; every rejection is counted."""
    with stage_surroundings(store, force, accept_code_change, as_json, backend, backend_set) as context:
        from gigagan_core.config.base import with_overrides
        from gigagan_core.config.ingest import ImportSettings
        from gigagan_core.stages import import_data as stage

        settings = with_overrides(ImportSettings(), overrides or ())
        inputs = {"source": str(folder.expanduser()), "captions": captions}
        context.run(stage.run, settings, inputs, label=f"import {'heldout' if held_out else 'train'}")


def train_encoder(
    data: UncuratedOption = "latest",
    held_out: HeldOutOption = "latest",
    role: Annotated[
        Literal["condition", "judge"],
        typer.Option(
            "--role", help="condition: for training and curation. judge: for every reported figure."
        ),
    ] = "condition",
    preset: PresetOption = "demo",
    overrides: SetOption = None,
    store: StoreOption = None,
    force: ForceOption = False,
    accept_code_change: AcceptOption = False,
    backend: BackendOption = None,
    backend_set: BackendSetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a small CLIP, where no weight file of a large one is given."""
    with stage_surroundings(store, force, accept_code_change, as_json, backend, backend_set) as context:
        from gigagan_core.stages import references
        from gigagan_core.stages import train_encoder as stage

        settings = references.settings_of(preset, role, overrides)
        inputs = {
            "data": references.uncurated(context.store, data),
            "heldout": references.shard_set(context.store, held_out, held_out=True),
        }
        context.run(stage.run, settings, inputs)


def curate(
    data: UncuratedOption = "latest",
    encoder: EncoderOption = "latest",
    preset: PresetOption = "demo",
    overrides: SetOption = None,
    store: StoreOption = None,
    force: ForceOption = False,
    accept_code_change: AcceptOption = False,
    backend: BackendOption = None,
    backend_set: BackendSetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add scores to every row of a shard set and select by them; other thresholds do not score again."""
    with stage_surroundings(store, force, accept_code_change, as_json, backend, backend_set) as context:
        from gigagan_core.stages import curate as stage
        from gigagan_core.stages import references

        settings = references.settings_of(preset, "curate", overrides)
        inputs = {
            "data": references.uncurated(context.store, data),
            "encoder": references.encoder(context.store, encoder),
        }
        context.run(stage.run, settings, inputs)


def train_base(
    data: MixtureOption = None,
    encoder: EncoderOption = "latest",
    vision_encoder: Annotated[
        str | None,
        typer.Option(
            "--vision-encoder",
            metavar="ARTIFACT|ARCH:PATH",
            help="Whose image features the vision-aided heads read, where the preset has some.",
            show_default="the encoder",
        ),
    ] = None,
    init_from: InitFromOption = None,
    preset: PresetOption = "demo",
    overrides: SetOption = None,
    store: StoreOption = None,
    force: ForceOption = False,
    accept_code_change: AcceptOption = False,
    backend: BackendOption = None,
    backend_set: BackendSetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the text-to-image GAN at its lowest resolution."""
    with stage_surroundings(store, force, accept_code_change, as_json, backend, backend_set) as context:
        from gigagan_core.stages import references
        from gigagan_core.stages import train_base as stage

        vision = references.encoder(context.store, vision_encoder) if vision_encoder else None
        start = references.initial_model(context.store, init_from, stage.SPEC.kind) if init_from else None
        further = {"vision_encoder": vision, "init_from": start}
        _run_on_data(stage.run, "base", data, encoder, preset, overrides, context, **further)


def train_upsampler(
    data: MixtureOption = None,
    encoder: EncoderOption = "latest",
    lpips: Annotated[
        str | None,
        typer.Option(
            "--lpips",
            metavar="BACKBONE:PATH",
            help="LPIPS weights, e.g. vgg:/weights/vgg16.pth, where the preset's losses have lpips.",
        ),
    ] = None,
    objective: Annotated[
        Literal["gan", "l1"],
        typer.Option("--objective", help="gan, or l1 for the control that the report sets beside it."),
    ] = "gan",
    init_from: InitFromOption = None,
    preset: PresetOption = "demo",
    overrides: SetOption = None,
    store: StoreOption = None,
    force: ForceOption = False,
    accept_code_change: AcceptOption = False,
    backend: BackendOption = None,
    backend_set: BackendSetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the upsampler, which makes large images of the base model's."""
    with stage_surroundings(store, force, accept_code_change, as_json, backend, backend_set) as context:
        from gigagan_core.stages import references
        from gigagan_core.stages import train_upsampler as stage

        section = "upsampler" if objective == "gan" else "control"
        start = references.initial_model(context.store, init_from, stage.SPEC.kind) if init_from else None
        further = {"lpips": references.lpips_weights(lpips) if lpips else None, "init_from": start}
        _run_on_data(stage.run, section, data, encoder, preset, overrides, context, **further)


def _run_on_data(
    run: Callable[..., Any],
    section: str,
    data: list[str] | None,
    encoder: str,
    preset: str,
    overrides: list[str] | None,
    context: Any,
    **further: Any,
) -> None:
    from gigagan_core.stages import references

    settings = references.settings_of(preset, section, overrides)
    inputs = {
        "data": references.training_data(context.store, data or "latest"),
        "encoder": references.encoder(context.store, encoder),
        **further,
    }
    context.run(run, settings, inputs)


def evaluate(
    model: ModelOption = "latest",
    upsampler: Annotated[
        str | None, typer.Option("--upsampler", metavar="ARTIFACT", help="Upsampler to judge too.")
    ] = None,
    control: Annotated[
        str | None, typer.Option("--control", metavar="ARTIFACT", help="The upsampler's L1-only control.")
    ] = None,
    data: JudgedDataOption = "latest",
    train: Annotated[
        str | None,
        typer.Option(
            "--train", metavar="ARTIFACT", help="Training shard set, for baselines and nearest images."
        ),
    ] = None,
    encoder: ConditionOption = None,
    judge: JudgeOption = "latest",
    sweep: Annotated[
        str | None,
        typer.Option("--tradeoff", metavar="ARTIFACT", help="Truncation sweep of the model, to show too."),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", metavar="NAME", help="What is judged how.", show_default="the preset's"),
    ] = None,
    preset: PresetOption = "demo",
    overrides: SetOption = None,
    store: StoreOption = None,
    force: ForceOption = False,
    accept_code_change: AcceptOption = False,
    backend: BackendOption = None,
    backend_set: BackendSetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge models on held-out captions, and write a report."""
    with stage_surroundings(store, force, accept_code_change, as_json, backend, backend_set) as context:
        from gigagan_core.stages import evaluate as stage
        from gigagan_core.stages import protocol_inputs

        chosen = [*(overrides or ()), *([f"protocol={protocol}"] if protocol else ())]
        settings = protocol_inputs.settings_of(preset, chosen)
        inputs = protocol_inputs.inputs_of(
            context.store,
            settings,
            model=model,
            upsampler=upsampler,
            control=control,
            data=data,
            train=train,
            condition=encoder,
            judge=judge,
            tradeoff=sweep,
        )
        context.run(stage.run, settings, inputs)


def tradeoff(
    model: ModelOption = "latest",
    data: JudgedDataOption = "latest",
    encoder: ConditionOption = None,
    judge: JudgeOption = "latest",
    psi: Annotated[
        str | None,
        typer.Option(
            "--psi", metavar="P,P,...", help="Truncations towards the mean.", show_default="1 to 0.5"
        ),
    ] = None,
    prompt_psi: Annotated[
        str | None,
        typer.Option(
            "--prompt-psi",
            metavar="P,P,...",
            help="Truncations towards each prompt's own mean.",
            show_default="0.9 to 0.5",
        ),
    ] = None,
    preset: PresetOption = "demo",
    overrides: SetOption = None,
    store: StoreOption = None,
    force: ForceOption = False,
    accept_code_change: AcceptOption = False,
    backend: BackendOption = None,
    backend_set: BackendSetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a base model at several truncations: distance against CLIP score, and the Pareto front."""
    with stage_surroundings(store, force, accept_code_change, as_json, backend, backend_set) as context:
        from gigagan_core.stages import references
        from gigagan_core.stages import tradeoff as stage

        named = (("psi", psi), ("prompt_psi", prompt_psi))
        lists = [f"{name}=[{values}]" for name, values in named if values is not None]
        settings = references.tradeoff_settings(preset, [*(overrides or ()), *lists])
        inputs = references.tradeoff_inputs(context.store, model, data, encoder, judge)
        context.run(stage.run, settings, inputs)
