"""Settings of the evaluate stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gigagan_core.config.base import Settings, operational


class EvaluateSettings(Settings):
    """How a base model, and an upsampler where there is one, are judged on held-out captions."""

    protocol: Literal["openmoji-heldout"] = "openmoji-heldout"
    """Which images, captions and baselines: all held-out drawings, one generated image for each caption."""

    image_size: int = Field(32, ge=4)
    """Side of the base model's images, pixels; real images are judged at the same size."""

    upsampled_size: int = Field(128, ge=8)
    """Side of the upsampler's images, pixels."""

    max_images: int | None = Field(None, ge=2)
    """Judge at most this many held-out images, drawn by seed; None: all."""

    psi: float = Field(1.0, ge=0.0, le=1.0)
    """Truncation: 1 leaves the model as it is, lower trades diversity for fidelity."""

    seed: int = 0
    """Decides latents, bootstrap draws, patches, baselines and the samples shown."""

    normalise_features: bool = True
    """Distances on features of unit length; see `evaluation.features.image_features`."""

    recall_k: int = Field(10, ge=1)
    """k of image-to-caption recall@k."""

    neighbours: int = Field(3, ge=1)
    """k of the manifolds of precision and recall (Kynkaanniemi et al. use 3)."""

    bootstrap_resamples: int = Field(2000, ge=100)
    confidence: float = Field(0.95, gt=0.5, lt=1.0)
    """Level of every interval."""

    patch_size: int = Field(32, ge=4)
    """Side of the upsampler's patches, pixels at full resolution."""

    patches_per_image: int = Field(4, ge=1)

    consistency_tolerance: float = Field(0.05, gt=0.0)
    """An upsampler's output, shrunk, matches its input up to this root mean square of the pixel range."""

    samples_shown: int = Field(24, ge=1)
    upsampled_shown: int = Field(8, ge=1)

    batch_size: int = operational(64, ge=1)
    """Images generated or judged at once."""
