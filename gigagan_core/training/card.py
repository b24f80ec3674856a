"""The model card that travels with a bundle: what it is, what it was made of, and under which terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gigagan_core.config.base import flat
from gigagan_core.config.training import BaseTrainingSettings, UpsamplerTrainingSettings
from gigagan_core.store.artifact import Artifact, Input
from gigagan_core.store.provenance import git_commit
from gigagan_core.text import for_markdown

_WHAT = {"base": "Text-to-image GigaGAN base generator", "upsampler": "GigaGAN upsampler"}


def model_card(
    settings: BaseTrainingSettings | UpsamplerTrainingSettings,
    inputs: Mapping[str, Input],
    config: Mapping[str, Any],
    parameters: int,
    history: list[dict[str, float]],
) -> str:
    """Markdown. config: the bundle's. parameters: of the network. history: `TrainState.history`."""
    title = _WHAT[config["kind"]]
    objective = getattr(settings.training, "objective", "gan")
    if objective == "l1":
        title += " (control, trained with mean absolute error alone)"
    lines = [
        f"# {title}, {config['image_size']} px",
        "",
        f"{parameters:,} parameters, the moving average over training; {config['images_seen']:,} images seen.",
        "",
        "## Made from",
        "",
        "| input | what | fingerprint | licence and attribution |",
        "|---|---|---|---|",
    ]
    for name, value in inputs.items():
        if isinstance(value, Artifact):
            terms = " · ".join(
                str(value.notes[key]) for key in ("licence", "attribution") if value.notes.get(key)
            )
            what = value.manifest.get("label", value.stage)
            lines.append(
                f"| {name} | {for_markdown(what)} | `{value.short}` | {for_markdown(terms, 2000) or '—'} |"
            )
        elif value is not None:
            lines.append(f"| {name} | {for_markdown(value.uri)} | `{value.sha256[:12]}` | not known here |")
    lines += [
        "",
        "A model made of these images carries their terms: check them before you pass it on.",
        "",
        f"Code: git commit `{git_commit() or 'unknown'}`. Encoder: sha256 `{config['encoder_sha256']}`.",
        "",
        "## Training figures",
        "",
        "Losses at the end; none of them measures quality. See the report of the evaluate stage for that.",
        "",
        "| metric | value |",
        "|---|---|",
        *(f"| {name} | {value:.5g} |" for name, value in sorted((history[-1] if history else {}).items())),
        "",
        "## Settings",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {name} | {for_markdown(value)} |" for name, value in flat(settings).items()),
        "",
    ]
    return "\n".join(lines)
