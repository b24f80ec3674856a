"""The paper's networks as settings, and the parameters that it counts for each.

Marks as in `models.settings`. Counts leave the frozen encoder and the learned text encoder T out: only so does one
reading meet all of them. Read docs/parameters.md for what was chosen to fit, and how sure each choice is.
"""

from __future__ import annotations

from dataclasses import dataclass

from gigagan_core.models.settings import DiscriminatorSettings, GeneratorSettings, UpsamplerSettings

Settings = GeneratorSettings | DiscriminatorSettings | UpsamplerSettings
VISION_LAYERS = (3, 6, 9, 12)  # I: blocks of a CLIP ViT-B/32


@dataclass(frozen=True)
class Published:
    """A network with a published count.

    millions: the paper's parameters. explained: whether the reading was found from other counts and meets this one;
    where it is False the settings are the nearest natural ones, and no match is claimed.
    """

    name: str
    settings: Settings
    millions: float
    explained: bool = True


def text_to_image_64_generator() -> GeneratorSettings:
    """The base model's generator, 64 px: the defaults."""
    return GeneratorSettings()


def text_to_image_64_discriminator() -> DiscriminatorSettings:
    """The base model's discriminator, with vision-aided heads on four blocks of a CLIP ViT-B/32 (which ones: I)."""
    return DiscriminatorSettings(vision_layers=VISION_LAYERS)


def upsampler_64_to_512() -> UpsamplerSettings:
    """The base model's upsampler: the defaults."""
    return UpsamplerSettings()


def upsampler_64_to_512_discriminator() -> DiscriminatorSettings:
    """Its discriminator: five levels, 512 to 32 px."""
    return DiscriminatorSettings(
        image_size=512,
        levels=5,
        channel_base=32768,  # R
        channel_max=512,  # R
        blocks=(1,) * 8,  # R
        attention_depths=(0, 2, 2, 0, 0, 0, 0, 0),  # R
        minibatch_std_group=4,  # R
    )


def upsampler_128_to_1024() -> UpsamplerSettings:
    """The large upsampler, twice as wide as recollected: else half of the published parameters would be missing."""
    return UpsamplerSettings(
        low_size=128,
        image_size=1024,
        bottleneck_size=16,  # V1: three down blocks
        channel_base=65536,  # fit; R says 32768
        channel_max=1024,  # fit; R says 512
        kernels=(1, 1, 2, 4, 8, 16, 16),  # fit: from the bottleneck up, as in the smaller one
        blocks=(4, 4, 4, 4, 4, 4, 3),  # R
        attention_depths=(2, 0, 0, 0, 0, 0, 0),  # R: at 8 and 16 px, of which 16 is here
        encoder_attention_depths=(0, 0, 2),  # I: at the same resolution
        lowest_rgb=16,
    )


def upsampler_128_to_1024_discriminator() -> DiscriminatorSettings:
    """Its discriminator."""
    return DiscriminatorSettings(
        image_size=1024,
        levels=5,
        channel_base=32768,  # R
        channel_max=512,  # R
        blocks=(1,) * 9,  # R
        attention_depths=(0, 2, 2, 0, 0, 0, 0, 0, 0),  # R
        minibatch_std_group=2,  # R
    )


def upsampler_imagenet_64_to_256() -> UpsamplerSettings:
    """The unconditional upsampler of Table 5."""
    return UpsamplerSettings(
        image_size=256,
        conditioning="none",
        cross_attention=False,
        blocks=(5, 5, 5, 5, 5, 5),  # R
        kernels=(1, 1, 2, 4, 8, 16),  # fit, as at 64 -> 512
        attention_depths=(0, 4, 2, 0, 0, 0),  # R: at 16 and 32 px
        encoder_attention_depths=(2, 4, 0),  # I: at the same resolutions
        attention_width=1.375,  # R: 1.4, in whole heads
    )


def upsampler_imagenet_64_to_256_discriminator() -> DiscriminatorSettings:
    """Its discriminator."""
    return DiscriminatorSettings(
        image_size=256,
        levels=5,
        conditioning="none",
        channel_base=32768,  # R
        channel_max=512,  # R
        blocks=(1,) * 7,  # R
        attention_depths=(0,) * 7,  # R
        minibatch_std_group=2,  # R
    )


def imagenet_256_generator() -> GeneratorSettings:
    """The class-conditional generator of Table A1."""
    return GeneratorSettings(
        image_size=256,
        conditioning="class",
        classes=1000,
        text_width=512,  # I: of a class's vector
        z_dim=64,  # R
        w_dim=512,  # R
        mapping_depth=2,  # R
        channel_base=32768,  # R
        channel_max=512,  # R
        kernels=(8,) * 7,  # R
        blocks=(5,) * 7,  # R
        convs_per_block=1,  # fit: with two, 8 kernels would count over a billion
        attention_depths=(0, 4, 4, 4, 0, 0, 0),  # R
        cross_attention=False,
        multi_scale=False,  # R: "projection D", not MS-I/O
        rgb_per="resolution",
    )


def imagenet_256_discriminator() -> DiscriminatorSettings:
    """Its discriminator: one image in, one prediction out, by projection."""
    return DiscriminatorSettings(
        image_size=256,
        levels=1,
        intermediate_predictions=False,
        conditioning="class",
        classes=1000,
        text_width=512,  # I
        channel_base=32768,  # R
        channel_max=768,  # R
        blocks=(1,) * 7,  # R
        attention_depths=(0, 1, 1, 1, 0, 0, 0),  # R
        predictor="projection",  # R
        minibatch_std_group=8,  # R
    )


PUBLISHED: tuple[Published, ...] = (
    Published("text-to-image 64, generator", text_to_image_64_generator(), 652.5),
    Published("text-to-image 64, discriminator", text_to_image_64_discriminator(), 381.4),
    Published("upsampler 64 to 512", upsampler_64_to_512(), 359.1),
    Published("upsampler 64 to 256, ImageNet", upsampler_imagenet_64_to_256(), 359.0, explained=False),
    Published("upsampler 128 to 1024", upsampler_128_to_1024(), 693.0, explained=False),
    Published("ImageNet 256, generator", imagenet_256_generator(), 569.0, explained=False),
)
"""Every network whose size the paper states, the ladder of Table 1 apart (`config.ablations`)."""
