"""`gigagan plan`: memory, hours and cost of a training before a GPU is paid for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gigagan_core.cli.answer import answering
from gigagan_core.cli.options import JsonOption, PresetOption, SetOption, numbers
from gigagan_core.cli.tables import print_table

if TYPE_CHECKING:
    from gigagan_core.config.plan import PlanSettings
    from gigagan_core.planning.encoders import FrozenNetworks
    from gigagan_core.planning.profile import TrainingSettings

_CLIP, _VISION_CLIP = "ViT-L-14", "ViT-B-32"
"""The paper's: of the captions (V1), and of the vision-aided heads (V1)."""


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("plan")(plan)


def plan(
    preset: PresetOption = "paper-t2i-64",
    gpus: Annotated[
        str, typer.Option("--gpus", metavar="N[,N...]", help="Numbers of GPUs to plan for.")
    ] = "8",
    part: Annotated[
        Literal["base", "upsampler"] | None,
        typer.Option("--part", help="Which model of a preset that has both.", show_default="base"),
    ] = None,
    gpu: Annotated[
        str, typer.Option("--gpu", metavar="NAME", help="a100-40gb, a100-80gb, h100-80gb or h200-141gb.")
    ] = "a100-80gb",
    gpu_memory: Annotated[
        float | None,
        typer.Option("--gpu-memory", metavar="GIB", help="Of one GPU.", show_default="the data sheet's"),
    ] = None,
    gpu_hour_price: Annotated[
        float, typer.Option("--gpu-hour-price", metavar="DOLLARS", help="Of one GPU.")
    ] = 2.5,
    mfu: Annotated[
        float, typer.Option("--mfu", help="Share of the GPU's peak that the work is assumed to reach.")
    ] = 0.3,
    assume: Annotated[
        list[str] | None,
        typer.Option(
            "--assume",
            metavar="KEY=VALUE",
            help="Another assumption: reserve, gpus_per_node, link_efficiency.",
        ),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder", metavar="ARCH", help="open_clip architecture.", show_default="the preset's"
        ),
    ] = None,
    vision_encoder: Annotated[
        str | None,
        typer.Option(
            "--vision-encoder", metavar="ARCH", help="Of the vision-aided heads.", show_default="ViT-B-32"
        ),
    ] = None,
    rehearse: Annotated[
        bool,
        typer.Option(
            "--rehearse", help="Run one step of each configuration, without values; fail as it would."
        ),
    ] = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count what a training takes on so many GPUs: memory by part, work, traffic, hours and cost.

    Nothing is trained and no GPU is needed: the real networks, steps and optimisers run on tensors without values.
    With --rehearse nothing is extrapolated, and what does not fit ends the command with an error.
    """
    with answering(as_json) as answer:
        from gigagan_core import console
        from gigagan_core.config.base import parse, with_overrides
        from gigagan_core.config.plan import PlanSettings

        gpu_counts = numbers(gpus, "--gpus")
        values = {"gpu": gpu, "gpu_memory": gpu_memory, "gpu_hour_price": gpu_hour_price, "mfu": mfu}
        assumed = with_overrides(parse(PlanSettings, values, "options"), assume or (), "--assume")
        settings, frozen = configuration(preset, part, encoder, vision_encoder, overrides or [])
        console.note(f"{preset}: counting on {assumed.gpu}; the paper's sizes take some minutes")
        if rehearse:
            from gigagan_core.planning.rehearsal import rehearse as run

            document: dict[str, Any] = {"rehearsals": [run(settings, frozen, n, assumed) for n in gpu_counts]}
            show = _show_rehearsals
        else:
            document = planned(settings, frozen, gpu_counts, assumed)
            show = _show_plan
        document = {"preset": preset, **_named(frozen), **document}
        answer(document)
        if not as_json:
            show(document)


def configuration(
    preset: str, part: str | None, encoder: str | None, vision_encoder: str | None, overrides: list[str]
) -> tuple[TrainingSettings, FrozenNetworks]:
    """The settings of the training, on one worker, and the architectures of its frozen networks."""
    from gigagan_core.config import presets
    from gigagan_core.config.base import with_overrides

    named = presets.PRESETS.get(preset)
    part = part or (named.part if named and named.part else "base")
    settings = with_overrides(presets.section(preset, part), ["workers=1", *overrides])
    return settings, _frozen(preset, settings, encoder, vision_encoder)


def _frozen(
    preset: str, settings: TrainingSettings, encoder: str | None, vision_encoder: str | None
) -> FrozenNetworks:
    from gigagan_core.config import presets
    from gigagan_core.config.encoder import demo_encoder
    from gigagan_core.planning.encoders import FrozenNetworks, architecture, trained_here

    if presets.PRESETS[preset].part is None:
        own = presets.preset(preset).condition
    else:
        own = demo_encoder("condition")
    network = settings.discriminator
    if encoder is None and network.text_dim == own.text_width:
        text, name = trained_here(own), own.name
    else:
        name = encoder or _CLIP
        text = architecture(name)
    vision = None
    if network.vision_layers:
        vision = vision_encoder or _VISION_CLIP
    return FrozenNetworks(text, name, architecture(vision) if vision else None, vision)


def _named(frozen: FrozenNetworks) -> dict[str, Any]:
    return {"encoder": frozen.encoder_name, "vision_encoder": frozen.vision_encoder_name}


def planned(
    settings: TrainingSettings, frozen: FrozenNetworks, gpu_counts: tuple[int, ...], assumed: PlanSettings
) -> dict[str, Any]:
    """What `gigagan_core.planning.plan` says of these numbers of GPUs, each checked first."""
    from gigagan_core.planning.counting import count
    from gigagan_core.planning.plan import on_gpus
    from gigagan_core.planning.plan import plan as planned
    from gigagan_core.planning.rehearsal import check

    for number in gpu_counts:
        check(on_gpus(settings, number), frozen)
    largest = settings.training.schedule.batch_size // min(gpu_counts)
    return planned(settings, count(settings, frozen, largest), gpu_counts, assumed)


# ---- what is shown ----------------------------------------------------------------------------------


def _show_plan(document: dict[str, Any]) -> None:
    columns = [
        (each, layout) for each in document["plans"] for layout in ("replicated", "sharded") if layout in each
    ]
    heads = [f"{each['gpus']} GPUs, {layout}" for each, layout in columns]
    _title("On each GPU, GiB")
    print_table(("", *heads), _memory_rows(document, columns), numbers_from=1)
    _title("The training")
    print_table(("", *heads), _time_rows(columns), numbers_from=1)
    _title("Work and kept activations of one image (R1: of one that is penalised)")
    columns = ("phase", "block", "TFLOP", "kept, MiB", "with checkpointing, MiB")
    print_table(columns, _image_rows(document), numbers_from=2)
    _title("Assumed")
    print_table(("", "", ""), _assumption_rows(document))


def _title(text: str) -> None:
    typer.echo(f"\n{text}")


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"


def _memory_rows(
    document: dict[str, Any], columns: list[tuple[dict[str, Any], str]]
) -> list[tuple[str, ...]]:
    layouts = [each[layout] for each, layout in columns]
    rows = [("samples a GPU", *(str(each["samples_a_gpu"]) for each, _ in columns))]
    rows += [(name, *(_gib(found["states"][name]) for found in layouts)) for name in document["states"]]
    chosen = _chosen(document)
    for name in layouts[0][chosen]["peak_by_phase"]:
        peaks = (found[chosen]["peak_by_phase"].get(name) for found in layouts)
        rows.append((f"fullest moment, {name}", *(_gib(size) if size else "" for size in peaks)))
    for title, key in (
        ("whole step, activations kept", "without_checkpointing"),
        ("whole step, checkpointing", "with_checkpointing"),
    ):
        rows.append((title, *(_gib(found[key]["peak"]) for found in layouts)))
        largest = (found[key]["largest_micro_batch"] for found in layouts)
        rows.append(("largest micro-batch that fits", *(str(n or "none") for n in largest)))
    return rows


def _chosen(document: dict[str, Any]) -> str:
    return (
        "with_checkpointing" if document["schedule"]["activation_checkpointing"] else "without_checkpointing"
    )


def _time_rows(columns: list[tuple[dict[str, Any], str]]) -> list[tuple[str, ...]]:
    times = [each[layout].get("time") for each, layout in columns]

    def row(name: str, key: str, form: str) -> tuple[str, ...]:
        return (name, *(form.format(time[key]) if time else "does not fit" for time in times))

    computed = dict.fromkeys(name for time in times if time for name in time["compute_seconds"])
    rows = [row("micro-batch", "micro_batch", "{}")]
    for name in computed:
        rows.append(
            (f"seconds, {name}", *(f"{time['compute_seconds'][name]:.4f}" if time else "" for time in times))
        )
    rows += [
        row("seconds, communication", "communication_seconds", "{:.4f}"),
        row("seconds a step", "step_seconds", "{:.3f}"),
        (
            "sent by a GPU a step, GB",
            *(f"{time['sent_bytes_a_gpu'] / 1e9:.2f}" if time else "" for time in times),
        ),
        row("images a second", "images_a_second", "{:,.0f}"),
        row("hours", "hours", "{:,.1f}"),
        row("GPU days", "gpu_days", "{:,.1f}"),
        row("dollars", "cost", "{:,.0f}"),
    ]
    return rows


def _image_rows(document: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for name, work in document["flops_an_image"].items():
        by_kind = ", ".join(f"{flops / 1e12:.3f} {kind}" for kind, flops in work.items())
        kept = document["kept_an_image"].get(name, {"without_checkpointing": {}, "with_checkpointing": {}})
        rows.append((name, "", by_kind, *(_mib(sum(blocks.values())) for blocks in kept.values())))
        for block, size in sorted(kept["without_checkpointing"].items(), key=lambda item: -item[1]):
            rows.append(("", block, "", _mib(size), _mib(kept["with_checkpointing"].get(block, 0))))
    return rows


def _mib(size: float) -> str:
    return f"{size / 2**20:.2f}" if size else ""


_UNITS = {
    "gpu_memory": "GiB",
    "gpu_hour_price": "dollars",
    "nvlink_bytes_a_second": "one direction, in a node",
    "network_bytes_a_second": "one direction, a GPU's share of its node's cards",
    "mfu": "of the peak, in every precision",
    "reserve": "of the memory, for what is no tensor",
    "link_efficiency": "of a link's bandwidth; no traffic is hidden behind work",
}


def _assumption_rows(document: dict[str, Any]) -> list[tuple[str, str, str]]:
    shown = {**document["assumptions"], **document["schedule"]}
    shown |= {name: document[name] for name in ("encoder", "vision_encoder") if document[name]}
    for kind, flops in shown.pop("peak_flops").items():
        shown[f"peak in {kind}"] = f"{flops / 1e12:g} TFLOP/s"
    return [(name.replace("_", " "), _value(value), _UNITS.get(name, "")) for name, value in shown.items()]


def _value(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _show_rehearsals(document: dict[str, Any]) -> None:
    found = document["rehearsals"]
    rows = [
        ("samples a GPU", *(str(each["samples_a_gpu"]) for each in found)),
        *(
            (f"fullest moment, {name}", *(_gib(each["peak_by_phase"][name]) for each in found))
            for name in found[0]["peak_by_phase"]
        ),
        ("whole step", *(_gib(each["peak"]) for each in found)),
        ("tensors may have", *(_gib(each["memory"]) for each in found)),
    ]
    _title("Rehearsed, GiB on each GPU")
    print_table(
        ("", *(f"{each['gpus']} GPUs, {each['parallelism']}" for each in found)), rows, numbers_from=1
    )
