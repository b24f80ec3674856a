"""The paper's models as training settings. Networks and their marks: `models.published`; loss weights and
optimisers: the defaults of `training.settings`, with their own.
"""

from __future__ import annotations

from typing import Literal

from gigagan_core.config.training import BaseTrainingSettings, UpsamplerTrainingSettings
from gigagan_core.models import published
from gigagan_core.training.settings import (
    BaseLossSettings,
    BaseTraining,
    EmaSettings,
    ScheduleSettings,
    UpsamplerLossSettings,
    UpsamplerTraining,
)


def text_to_image_64() -> BaseTrainingSettings:
    """The base model: 64 px, LAION and COYO; the scale-up row of Table 1."""
    return BaseTrainingSettings(
        generator=published.text_to_image_64_generator(),
        discriminator=published.text_to_image_64_discriminator(),
        training=BaseTraining(
            schedule=ScheduleSettings(
                precision="bfloat16",
                activation_checkpointing=True,
                parallelism="sharded",  # ours: replicated, weights, gradients, Adam and average are 20.3 GB a GPU
            ),
            # I: the weight is not known. The block is a worker's batch at 64 workers, and any other's, too.
            losses=BaseLossSettings(vision_aided=1.0, matching_block=8),
        ),
        workers=64,
        use_gpu=True,
    )


def upsampler_64_to_512() -> UpsamplerTrainingSettings:
    """The base model's upsampler."""
    return UpsamplerTrainingSettings(
        upsampler=published.upsampler_64_to_512(),
        discriminator=published.upsampler_64_to_512_discriminator(),
        training=UpsamplerTraining(
            # R: 192 to 320. sharded: ours, since replicated state is 8.8 GB a GPU beside activations of 512 px
            schedule=_schedule(batch_size=192, steps=915_000, parallelism="sharded"),
            losses=UpsamplerLossSettings(
                matching_block=4
            ),  # a worker's batch at 48 workers, and any other's, too
        ),
        workers=48,
        use_gpu=True,
    )


def upsampler_128_to_1024() -> UpsamplerTrainingSettings:
    """The large upsampler."""
    return UpsamplerTrainingSettings(
        upsampler=published.upsampler_128_to_1024(),
        discriminator=published.upsampler_128_to_1024_discriminator(),
        training=UpsamplerTraining(
            # R. sharded: ours, since replicated state is 15.5 GB a GPU beside activations of 1024 px
            schedule=_schedule(batch_size=192, steps=160_000, parallelism="sharded"),
            losses=UpsamplerLossSettings(matching_block=4),
            ema=EmaSettings(decay=0.9912),  # R
        ),
        workers=48,  # four samples each: a whole number of mini-batch-std groups
        use_gpu=True,
    )


def upsampler_imagenet_64_to_256() -> UpsamplerTrainingSettings:
    """Table 5: unconditional, so without matching and CLIP losses."""
    return UpsamplerTrainingSettings(
        upsampler=published.upsampler_imagenet_64_to_256(),
        discriminator=published.upsampler_imagenet_64_to_256_discriminator(),
        training=UpsamplerTraining(
            schedule=_schedule(batch_size=256, steps=460_000, flip=True),  # R
            losses=UpsamplerLossSettings(matching=0.0, contrastive=0.0, lpips=100.0),  # V1: 100
            ema=EmaSettings(decay=0.9912),  # R
        ),
        workers=32,
        use_gpu=True,
    )


def imagenet_256() -> BaseTrainingSettings:
    """Table A1: class-conditional, by projection; a single image and a single prediction."""
    return BaseTrainingSettings(
        generator=published.imagenet_256_generator(),
        discriminator=published.imagenet_256_discriminator(),
        training=BaseTraining(
            schedule=_schedule(batch_size=1024, steps=480_000, flip=True),  # R
            losses=BaseLossSettings(level_weights=(1.0,), matching=0.0, contrastive=0.0),
            ema=EmaSettings(decay=0.9651),  # R
        ),
        workers=64,
        use_gpu=True,
    )


def _schedule(
    batch_size: int,
    steps: int,
    flip: bool = False,
    parallelism: Literal["replicated", "sharded"] = "replicated",
) -> ScheduleSettings:
    return ScheduleSettings(
        batch_size=batch_size,
        total_images=steps * batch_size,
        flip=flip,
        precision="bfloat16",
        activation_checkpointing=True,
        parallelism=parallelism,
    )
