"""OpenMoji on one GPU: the demonstration's data at twice its size, with networks that an hour can teach something.

Everything is ours, where it differs from the paper's values. A bundle stays under 16 MB (four million parameters),
and training resumes, so that it can be had in pieces of minutes.
"""

from __future__ import annotations

from gigagan_core.config.training import BaseTrainingSettings, UpsamplerTrainingSettings
from gigagan_core.models.settings import DiscriminatorSettings, GeneratorSettings, UpsamplerSettings
from gigagan_core.training.settings import (
    BaseLossSettings,
    BaseTraining,
    EmaSettings,
    OptimiserSettings,
    R1Settings,
    ScheduleSettings,
    UpsamplerLossSettings,
    UpsamplerTraining,
)

_TEXT = {"text_dim": 128, "text_width": 128, "text_depth": 2, "text_head_dim": 32}  # of the condition encoder
_ATTENTION = {"attention_head_dim": 32, "attention_mlp_ratio": 2.0}
_OPTIMISER = OptimiserSettings(learning_rate=0.0025)


def base_64() -> BaseTrainingSettings:
    """64 px: the paper's five levels, attention at 8 and 16 px, every loss that needs no outside file."""
    return BaseTrainingSettings(
        generator=GeneratorSettings(
            z_dim=64,
            w_dim=192,
            channel_base=2048,
            channel_max=128,
            kernels=(1, 1, 2, 2, 4),
            blocks=(1, 1, 1, 1, 1),
            attention_depths=(0, 1, 1, 0, 0),
            **_TEXT,
            **_ATTENTION,
        ),
        discriminator=DiscriminatorSettings(
            channel_base=4096,
            channel_max=192,
            blocks=(1, 1, 1, 1, 1),
            attention_depths=(0, 1, 1, 0, 0),
            predictor_depth=2,
            minibatch_std_group=4,
            **_TEXT,
            **_ATTENTION,
        ),
        training=BaseTraining(
            schedule=ScheduleSettings(
                batch_size=64,
                total_images=2_000_000,
                w_mean_decay=0.99,
                precision="bfloat16",
                checkpoint_every_images=64_000,
                sample_every_images=128_000,
            ),
            losses=BaseLossSettings(),
            generator=_OPTIMISER,
            discriminator=_OPTIMISER,
            r1=R1Settings(strength=1.0),
            ema=EmaSettings(decay=0.999),
        ),
        use_gpu=True,
    )


def upsampler_64_to_256() -> UpsamplerTrainingSettings:
    """64 to 256 px, onto the enlarged input; a frozen encoder's feature distance in the place of LPIPS."""
    return UpsamplerTrainingSettings(
        upsampler=UpsamplerSettings(
            image_size=256,
            bottleneck_size=16,
            z_dim=64,
            w_dim=128,
            channel_base=8192,
            channel_max=96,
            encoder_blocks=(1, 1),
            encoder_attention_depths=(0, 0),
            kernels=(1, 1, 2, 2, 2),
            blocks=(2, 2, 2, 1, 1),
            attention_depths=(1, 0, 0, 0, 0),
            lowest_rgb=64,
            residual_output=True,
            **_TEXT,
            **_ATTENTION,
        ),
        discriminator=DiscriminatorSettings(
            image_size=256,
            levels=3,
            channel_base=8192,
            channel_max=128,
            blocks=(1,) * 7,
            attention_depths=(0, 1, 1, 0, 0, 0, 0),
            predictor_depth=2,
            minibatch_std_group=4,
            **_TEXT,
            **_ATTENTION,
        ),
        training=UpsamplerTraining(
            schedule=ScheduleSettings(
                batch_size=32,
                total_images=640_000,
                precision="bfloat16",
                checkpoint_every_images=32_000,
                sample_every_images=32_000,
            ),
            losses=UpsamplerLossSettings(
                level_weights=(0.6, 0.2, 0.2),
                adversarial=0.25,
                matching=0.25,
                contrastive=0.0,
                lpips=0.0,
                feature_distance=10.0,
                feature_patches=8,
                l1=10.0,
            ),
            generator=_OPTIMISER,
            discriminator=_OPTIMISER,
            ema=EmaSettings(decay=0.999),
        ),
        use_gpu=True,
    )
