"""Settings of the trade-off stage."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from gigagan_core.config.base import Settings, operational

Psi = Annotated[float, Field(ge=0.0, le=1.0)]


class TradeoffSettings(Settings):
    """Which truncations of a base model are judged, on which of the held-out captions."""

    psi: tuple[Psi, ...] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
    """Truncation towards the mean over all prompts, each with prompt_psi = 1."""

    prompt_psi: tuple[Psi, ...] = (0.9, 0.8, 0.7, 0.6, 0.5)
    """Truncation towards the prompt's own mean, each with psi = 1."""

    both: bool = False
    """Every psi with every prompt_psi too: the paper uses both, one after the other."""

    image_size: int = Field(32, ge=4)
    """Side of the base model's images, pixels; real images are judged at the same size."""

    max_images: int | None = Field(None, ge=2)
    """Judge at most this many held-out images, drawn by seed; None: all."""

    seed: int = Field(0, ge=-(2**63), lt=2**63)
    """Decides latents, the images drawn, and the bootstrap; the latents are the same at every point."""

    normalise_features: bool = True
    """As the evaluation's."""

    bootstrap_resamples: int = Field(1000, ge=100)
    confidence: float = Field(0.95, gt=0.5, lt=1.0)

    batch_size: int = operational(64, ge=1)
    """Images generated or judged at once."""

    @field_validator("psi", "prompt_psi")
    @classmethod
    def _once_each(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(sorted(set(values), reverse=True))

    def points(self) -> list[tuple[float, float]]:
        """(psi, prompt_psi) of every point, each once: the curve of psi, then that of prompt_psi, then the rest."""
        found = [(psi, 1.0) for psi in self.psi] + [(1.0, psi) for psi in self.prompt_psi]
        if self.both:
            found += [(psi, prompt_psi) for psi in self.psi for prompt_psi in self.prompt_psi]
        return list(dict.fromkeys(found))
