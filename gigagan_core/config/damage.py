"""Settings of the test of an upsampler on other generators' kinds of damage."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from gigagan_core.config.base import Settings
from gigagan_core.config.noise import UpsamplerNoise

DamageKind = Literal["blur", "jpeg", "residual_noise", "latent_grid", "resized_nearest", "resized_bicubic"]
DAMAGE_KINDS: tuple[DamageKind, ...] = get_args(DamageKind)


class Blur(Settings):
    """A generator without fine detail, a photograph out of focus: a Gaussian."""

    sigma: float = Field(1.0, gt=0.0, le=8.0)
    """Standard deviation, pixels."""


class Jpeg(Settings):
    """A picture that was sent around: JPEG with chroma at half the resolution."""

    quality: int = Field(20, ge=1, le=95)


class ResidualNoise(Settings):
    """A diffusion model that stopped early: sqrt(1 - level^2) x + level n, n ~ N(0, 1) (Ho et al. 2020, eq. 4)."""

    level: float = Field(0.1, gt=0.0, lt=1.0)
    """Standard deviation of what noise is left, in units of [-1, 1]."""


class LatentGrid(Settings):
    """A latent decoder's: ringing and offsets on the grid of its latents (Odena et al. 2016), shifted colours."""

    period: int = Field(8, ge=2, le=64)
    """Pixels of the picture that one latent stands for, along each side."""

    ringing: float = Field(0.05, ge=0.0, le=1.0)
    """Amplitude of the cosine with that period along each axis, in units of [-1, 1]."""

    blocks: float = Field(0.04, ge=0.0, le=1.0)
    """Standard deviation of each cell's offset."""

    colour: float = Field(0.06, ge=0.0, le=1.0)
    """Standard deviation of a picture's offset in each channel."""


class Resized(Settings):
    """A picture enlarged before by somebody else: shrunk and enlarged again by one filter."""

    factor: int = Field(2, ge=2, le=8)


class DamageSettings(Settings):
    """Which pictures are damaged how, and what is shown of them."""

    kinds: tuple[DamageKind, ...] = DAMAGE_KINDS
    """What is tried, beside the undamaged picture."""

    blur: Blur = Blur()
    jpeg: Jpeg = Jpeg()
    residual_noise: ResidualNoise = ResidualNoise()
    latent_grid: LatentGrid = LatentGrid()
    resized_nearest: Resized = Resized()
    resized_bicubic: Resized = Resized()

    seed: int = 0
    """Decides the pictures drawn, the damage, the latents, the patches and the intervals."""

    max_images: int = Field(64, ge=2)
    """At most so many pictures, drawn by seed."""

    upsampler_noise: UpsamplerNoise = 0.0
    """Noise that the upsampler adds to its input, in units of [-1, 1]; see docs/inference.md."""

    patch_size: int = Field(32, ge=4)
    """Side of the patches of the patch distance, pixels of the large picture."""

    patches_per_image: int = Field(4, ge=1)
    bootstrap_resamples: int = Field(1000, ge=100)
    confidence: float = Field(0.95, gt=0.5, lt=1.0)

    shown: int = Field(6, ge=1)
    """Pictures of each kind on the sheets."""
