"""Which model is served: pinned once, opened by every replica, described for whoever asks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gigagan_core import console
from gigagan_core.errors import GigaganError

if TYPE_CHECKING:
    from gigagan_core.inference.pipeline import GigaGANPipeline
    from gigagan_core.inference.places import Place
    from gigagan_core.store.store import Store

_TERMS_COLUMN = "licence and attribution"


@dataclass(frozen=True)
class ServedModels:
    """Absolute places of what is served. A replica that starts later opens the same, whatever `latest` is by then.

    encoder: a folder or ARCH:PATH; None for a model without captions. name, upsampler_name: for records.
    """

    model: str
    name: str
    encoder: str | None = None
    upsampler: str | None = None
    upsampler_name: str | None = None
    device: str | None = None

    def open(self) -> GigaGANPipeline:
        """The pipeline. Raises GigaganError for what does not belong together."""
        from gigagan_core.inference.pipeline import GigaGANPipeline

        pipe = GigaGANPipeline.from_pretrained(
            self.model, self.encoder, upsampler=self.upsampler, device=self.device
        )
        pipe.model["name"] = self.name
        if pipe.upsampler is not None:
            pipe.upsampler.model["name"] = self.upsampler_name
        return pipe


def pin(
    model: str, upsampler: str | None, encoder: str | None, device: str | None, store: Store
) -> tuple[ServedModels, str | None]:
    """What these references mean now, and why there is no upsampler where none was named and the newest does not fit.

    The arguments are those of the commands; upsampler: None takes the newest where it fits, "none" none.
    Raises GigaganError where something named is missing; warns where the upsampler named was trained on pictures of
    another size.
    """
    from gigagan_core.inference.places import find_bundle, locate_encoder

    base = find_bundle(model, "base", store)
    read_by = locate_encoder(encoder, base, store)
    larger, reason = None, None
    if upsampler != "none":
        try:
            larger = _upsampler_for(base, upsampler, store)
        except GigaganError as error:
            if upsampler is not None:
                raise
            reason = str(error)
    served = ServedModels(
        model=str(base.folder.absolute()),
        name=base.name,
        encoder=None if read_by is None else str(read_by),
        upsampler=None if larger is None else str(larger.folder.absolute()),
        upsampler_name=None if larger is None else larger.name,
        device=device,
    )
    return served, reason


def _upsampler_for(base: Place, reference: str | None, store: Store) -> Place:
    from gigagan_core.inference.places import find_bundle, other_size
    from gigagan_core.models.settings import GeneratorSettings, UpsamplerSettings
    from gigagan_core.training.checkpoint import read_config

    found = find_bundle(reference or "latest", "upsampler", store)
    configs = [read_config(place.folder) for place in (base, found)]
    if len({config.get("encoder_sha256") for config in configs} - {None}) > 1:
        raise GigaganError(
            f"upsampler {found.name} has another encoder than model {base.name}; name one that goes with it"
        )
    networks = [config["network"] for config in configs]
    image_size = networks[0].get("image_size", GeneratorSettings.image_size)
    if said := other_size(image_size, networks[1].get("low_size", UpsamplerSettings.low_size)):
        if reference is None:
            raise GigaganError(f"{said}; name another with --upsampler")
        console.warn(f"{said}; expect less of what it enlarges")
    return found


def describe(pipe: GigaGANPipeline, models: ServedModels) -> dict[str, Any]:
    """What the models are, as JSON-able values: sizes, sums, the card, the terms of what they were made of."""
    return {
        **pipe.model,
        "image_size": pipe.image_size,
        **_conditioning(pipe.network),
        "layers": pipe.num_layers,
        "parameters": _parameters(pipe.network),
        "encoder": _encoder(pipe.encoder),
        "upsampler": _upsampler(pipe.upsampler, models),
        **_card(models.model),
    }


def _conditioning(network: Any) -> dict[str, Any]:
    settings = network.settings
    classes = settings.classes if settings.conditioning == "class" else None
    return {"conditioning": settings.conditioning, "classes": classes}


def _upsampler(upsampler: Any, models: ServedModels) -> dict[str, Any] | None:
    if upsampler is None:
        return None
    return {
        **upsampler.model,
        "scale": upsampler.network.scale,
        "trained_on_size": upsampler.network.settings.low_size,
        **_conditioning(upsampler.network),
        "parameters": _parameters(upsampler.network),
        **_card(models.upsampler),
    }


def _encoder(encoder: Any) -> dict[str, Any] | None:
    if encoder is None:
        return None
    return {"sha256": encoder.sha256, "context_length": encoder.context_length}


def _parameters(network: Any) -> int:
    return sum(value.numel() for value in network.parameters())


def _card(folder: str) -> dict[str, Any]:
    from gigagan_core.training.checkpoint import CARD, bundle_folder

    try:
        card = (bundle_folder(Path(folder)) / CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        card = ""
    return {"licence": terms_of(card), "card": card}


def terms_of(card: str) -> dict[str, str]:
    """Licence and attribution of what a model was made of, by the table in its card; empty where it tells none."""
    terms: dict[str, str] = {}
    inside = False
    for line in card.splitlines():
        # A bar inside of a cell is escaped.
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
        if not cells:
            inside = False
        elif cells[-1] == _TERMS_COLUMN:
            inside = True
        elif inside and not set(cells[0]) <= {"-"}:
            terms[cells[0]] = re.sub(r"\\(.)", r"\1", cells[-1])
    return terms
