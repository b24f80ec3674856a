"""Settings of the train-encoder stage: a small CLIP where no weight file of a large one is given."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gigagan_core.config.base import Settings, operational


class TowerSettings(Settings):
    """One transformer."""

    width: int = Field(128, ge=8)
    layers: int = Field(3, ge=1)
    heads: int = Field(2, ge=1)
    mlp_ratio: float = Field(4.0, gt=0)

    @model_validator(mode="after")
    def _divides(self) -> TowerSettings:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide into {self.heads} heads")
        return self


class AugmentationSettings(Settings):
    """Small movements of training images. No flip: captions say left and right, and flags have sides."""

    shift: float = Field(0.08, ge=0, le=0.5)
    """Largest shift, as a share of the side."""

    scale: float = Field(0.10, ge=0, lt=1)
    """Largest change of size, up and down."""


class EncoderSettings(Settings):
    """A CLIP trained on one shard set, in the role it may be used in. Lengths are in images."""

    role: Literal["condition", "judge"] = "condition"
    """`condition` conditions the GAN; `judge` gives every reported figure and is seen by no training stage."""

    name: str | None = Field(None, pattern=r"^[A-Za-z0-9\-]+$")
    """For the names of scores and metrics, e.g. ``fd_openmoji-judge_32_370``; without one the data's and the role."""

    seed: int = 0

    image_size: int = Field(32, ge=8)
    patch_size: int = Field(8, ge=2)
    embed_dim: int = Field(128, ge=8)
    """Dimensions of the common space. A Frechet distance wants more images than these."""

    context_length: int = Field(24, ge=4)
    """Tokens a caption is cut to. OpenMoji's longest name has 17, with start and end."""

    pool: Literal["tok", "avg"] = "avg"
    """Image vector: class token, or mean of patches (a little better here: R@10 0.60 against 0.58)."""

    vision: TowerSettings = TowerSettings(width=128, layers=4, heads=2)
    text: TowerSettings = TowerSettings(width=128, layers=3, heads=2)

    total_images: int = Field(24_000, ge=1)
    batch_size: int = Field(128, ge=2)
    """Pairs a step; every other pair of the batch is a negative."""

    learning_rate: float = Field(1e-3, gt=0)
    warmup_images: int = Field(2_000, ge=0)
    """Linear warm-up; then a cosine to a hundredth of the rate."""

    weight_decay: float = Field(0.1, ge=0)
    """On matrices; not on gains, biases, positions and token embeddings."""

    betas: tuple[float, float] = (0.9, 0.98)
    max_logit_scale: float = Field(100.0, gt=1)
    """Cap of the learned inverse temperature (Radford et al., section 2.5)."""

    augmentation: AugmentationSettings = AugmentationSettings()

    use_gpu: bool = operational(False)
    threads: int | None = operational(None, ge=1)
    """Threads of torch; None leaves torch's choice. Equal weights need equal threads."""

    log_every: int = operational(1_024, ge=1)
    evaluate_every: int = operational(6_000, ge=1)
    checkpoint_every: int = operational(8_192, ge=1)
    """Cadences in images."""

    @model_validator(mode="after")
    def _fits_together(self) -> EncoderSettings:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        return self

    @property
    def text_width(self) -> int:
        """Channels of a token feature: what a network conditioned on this encoder takes as `text_dim`."""
        return self.text.width


def demo_encoder(role: Literal["condition", "judge"]) -> EncoderSettings:
    """The demo's two encoders: of different seed and width, so that the judge is not the condition's twin."""
    if role == "condition":
        return EncoderSettings()
    return EncoderSettings(
        role="judge",
        seed=1,
        vision=TowerSettings(width=160, layers=4, heads=5),
        text=TowerSettings(width=96, layers=3, heads=3),
    )
