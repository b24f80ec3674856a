"""Settings of the train-base and train-upsampler stages."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gigagan_core.config.base import Settings, operational
from gigagan_core.models.settings import DiscriminatorSettings, GeneratorSettings, UpsamplerSettings
from gigagan_core.training.settings import BaseTraining, UpsamplerTraining

Launcher = Literal["ray", "plain"]
Crop = Literal["centre", "random"]


class BaseTrainingSettings(Settings):
    """How a base model is trained: networks, losses, optimisers, and what to show meanwhile."""

    generator: GeneratorSettings = Field(default_factory=GeneratorSettings)
    discriminator: DiscriminatorSettings = Field(default_factory=DiscriminatorSettings)
    training: BaseTraining = Field(default_factory=BaseTraining)
    crop: Crop = "centre"
    """Which square of a picture that is none; random: another one at each visit."""

    launcher: Launcher = operational("ray")
    """ray: in a Ray Train trainer, restarted when a worker dies. plain: in this process."""
    workers: int = operational(1, ge=1)
    max_restarts: int = operational(2, ge=0)
    """How often Ray Train starts the workers anew after one has died; nodes taken away are not counted."""
    use_gpu: bool = operational(False)
    decode_threads: int = operational(2, ge=1)
    """Threads of each worker that decode pictures, besides those that compute."""

    sample_captions: tuple[str, ...] = operational(())
    """Prompts of the sample grids; empty: captions of the first training images."""
    sample_count: int = operational(8, ge=1)
    """How many captions to take from the data where none are given."""
    sample_psis: tuple[float, ...] = operational((1.0, 0.7, 0.0))
    """Truncation of each row of the sample grids."""
    validation_images: int = operational(0, ge=0)
    """How many pictures are measured at every checkpoint, beside training; 0: none."""

    @property
    def image_size(self) -> int:
        """Side of the images trained on, pixels."""
        return self.generator.image_size

    @model_validator(mode="after")
    def _fits_together(self) -> BaseTrainingSettings:
        if self.generator.image_size != self.discriminator.image_size:
            raise ValueError(
                f"the generator makes {self.generator.image_size} px and the discriminator takes "
                f"{self.discriminator.image_size} px; make them equal"
            )
        if self.discriminator.levels > 1 and not self.generator.multi_scale:
            raise ValueError("a discriminator with several levels needs generator.multi_scale")
        losses = self.training.losses
        _check_conditions("generator", self.generator, self.discriminator, losses.contrastive)
        if bool(losses.vision_aided) != bool(self.discriminator.vision_layers):
            raise ValueError(
                f"losses.vision_aided is {losses.vision_aided:g} and discriminator.vision_layers has "
                f"{len(self.discriminator.vision_layers)} entries: a loss without heads, or heads "
                "that nothing trains; give both or neither"
            )
        _check_levels(self.discriminator, losses.level_weights)
        _check_batch(self.training, self.workers, self.discriminator)
        return self


class UpsamplerTrainingSettings(Settings):
    """How an upsampler, or its L1 control, is trained."""

    upsampler: UpsamplerSettings = Field(default_factory=UpsamplerSettings)
    discriminator: DiscriminatorSettings = Field(
        default_factory=lambda: DiscriminatorSettings(
            image_size=512, levels=5, blocks=(1,) * 8, attention_depths=(0, 2, 2, 0, 0, 0, 0, 0)
        )
    )
    training: UpsamplerTraining = Field(default_factory=UpsamplerTraining)
    crop: Crop = "centre"

    launcher: Launcher = operational("ray")
    workers: int = operational(1, ge=1)
    max_restarts: int = operational(2, ge=0)
    """How often Ray Train starts the workers anew after one has died; nodes taken away are not counted."""
    use_gpu: bool = operational(False)
    decode_threads: int = operational(2, ge=1)
    sample_count: int = operational(8, ge=1)
    """How many images the sample grids show."""
    validation_images: int = operational(0, ge=0)
    """How many pictures are measured at every checkpoint, beside training; 0: none."""

    @property
    def image_size(self) -> int:
        """Side of the images trained on, pixels; the input is made from them."""
        return self.upsampler.image_size

    @model_validator(mode="after")
    def _fits_together(self) -> UpsamplerTrainingSettings:
        if self.upsampler.image_size != self.discriminator.image_size:
            raise ValueError(
                f"the upsampler makes {self.upsampler.image_size} px and the discriminator takes "
                f"{self.discriminator.image_size} px; make them equal"
            )
        made, taken = self.upsampler.output_resolutions, self.discriminator.input_resolutions
        if made[: len(taken)] != taken:
            raise ValueError(
                f"the upsampler makes images of {made} px and the discriminator takes {taken} px"
            )
        losses = self.training.losses
        if self.training.objective == "gan":
            _check_conditions("upsampler", self.upsampler, self.discriminator, losses.contrastive)
        if self.discriminator.vision_layers:
            raise ValueError(
                "an upsampler has no vision-aided loss, so nothing would train the heads; leave "
                "discriminator.vision_layers empty"
            )
        _check_levels(self.discriminator, losses.level_weights)
        _check_batch(self.training, self.workers, self.discriminator)
        return self


def _check_conditions(
    name: str,
    network: GeneratorSettings | UpsamplerSettings,
    discriminator: DiscriminatorSettings,
    contrastive: float,
) -> None:
    """Both networks are given the same condition, and a loss on captions has some."""
    ours, theirs = (
        f"{each.conditioning} ({each.classes})" if each.classes else each.conditioning
        for each in (network, discriminator)
    )
    if ours != theirs:
        raise ValueError(
            f"the conditioning (classes) of the {name} is {ours} and of the discriminator {theirs}; make them equal"
        )
    if contrastive and network.conditioning == "class":
        raise ValueError(
            f"the {name} is conditioned on classes, and the contrastive loss compares images with captions; set "
            "losses.contrastive to 0"
        )


def _check_levels(discriminator: DiscriminatorSettings, weights: tuple[float, ...] | None) -> None:
    if weights is not None and len(weights) != discriminator.levels:
        raise ValueError(
            f"losses.level_weights has {len(weights)} entries and the discriminator {discriminator.levels} levels"
        )


def _check_batch(
    training: BaseTraining | UpsamplerTraining, workers: int, discriminator: DiscriminatorSettings
) -> None:
    """Whatever looks at several samples at once must find them all on one worker, in one micro-batch: how the work is
    shared out is no part of a model's name, so nothing may depend on it."""
    batch_size, losses = training.schedule.batch_size, training.losses
    if batch_size % workers:
        raise ValueError(f"a batch of {batch_size} does not split over {workers} workers")
    share, micro = batch_size // workers, training.schedule.micro_batch_size
    if micro and share % micro:
        raise ValueError(f"micro_batch_size is {micro}, which does not divide a worker's batch of {share}")
    held, name = (micro, "micro_batch_size") if micro else (share, "a worker's batch")
    if losses.matching_block and held % losses.matching_block:
        raise ValueError(f"matching_block is {losses.matching_block}, which does not divide {name} of {held}")
    group = discriminator.minibatch_std_group
    # A group larger than the batch shrinks to it; how the batch is shared out must not decide its size.
    shared = bool(micro) or workers > 1
    if group and (held % group if held > group or shared else group % held):
        raise ValueError(f"minibatch_std_group is {group}, which does not divide {name} of {held}")
    exchanging = losses.matching and getattr(training, "objective", "gan") == "gan"
    if shared and exchanging and not losses.matching_block:
        setting = f"micro_batch_size is {micro}" if micro else f"workers is {workers}"
        mend = f"set matching_block to {held} or a divisor" if held > 1 else f"{name} needs two samples"
        raise ValueError(f"{setting} and matching_block 0, so that the result would depend on it; {mend}")
