"""Settings of the three networks: plain frozen dataclasses, importable without torch.

Defaults are the paper's text-to-image 64 px model and its 64 -> 512 upsampler. Marks on the fields say where a
value comes from: V2 two or more notes on the paper agree, V1 one states it, R recollected, I inferred, fit chosen
because the published parameter counts want it. Everything marked R, I or fit may be moved by a preset.

Tuples "from 4 px up" have one entry per resolution, lowest first: 4, 8, 16, ... , image_size. An upsampler's
decoder tuples start at `bottleneck_size` instead. Image pyramids run the other way, from high to low.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gigagan_core.models.checks import (
    check_attention,
    check_choice,
    check_condition,
    check_entries,
    check_from_4,
    check_range,
    check_style,
    check_widths,
    freeze_tuples,
    resolutions,
)

Residual = Literal["conv", "identity", "none"]
Per = Literal["block", "resolution"]
PredictorKind = Literal["modulated", "projection"]
Conditioning = Literal["text", "class", "none"]
Skip = Literal["concatenate", "add"]

# As in training.settings: pydantic, where it embeds these, refuses unknown keys, NaN and infinity.
_STRICT = {"extra": "forbid", "allow_inf_nan": False}


@dataclass(frozen=True)
class GeneratorSettings:
    """Mapping network, learned text encoder and synthesis network of the base generator."""

    __pydantic_config__ = _STRICT

    image_size: int = 64
    z_dim: int = 128  # V2
    w_dim: int = 1024  # V1
    mapping_depth: int = 4  # V2
    mapping_lr_multiplier: float = 0.01  # I: StyleGAN2's
    mapping_text_dim: int = (
        0  # > 0: t_global is projected to this width before M (I: StyleGAN2's class embedding)
    )

    conditioning: Conditioning = "text"  # "class": a learned vector a class stands in for t_global
    classes: int = 0  # of a class-conditional network
    text_dim: int = 768  # C of the frozen encoder's features
    # R: which of its hidden states, counted from the end: -1 the last block's output, -2 its input. The discriminator
    # is given the same. The paper's is the penultimate layer (V1)
    text_layer: int = -2
    text_width: int = 768  # V1: width of the learned text encoder T, or of a class's vector
    text_depth: int = 4  # V1; 0: T only selects (and projects, where the widths differ)
    text_head_dim: int = 64  # I

    channel_base: int = 16384  # R
    channel_max: int = 1536  # fit; the recollected 1600 overshoots the count
    kernels: tuple[int, ...] = (1, 1, 2, 4, 8)  # V2: bank size N, from 4 px up; 1 is StyleGAN2's convolution
    blocks: tuple[int, ...] = (3, 3, 3, 2, 2)  # V1, from 4 px up
    convs_per_block: int = 2  # fit; the first block at 4 px has one, as in StyleGAN2
    residual: Residual = (
        "conv"  # fit: "conv" 1x1 on every block, "identity" 1x1 only where widths differ, "none"
    )
    residual_gain: float = 0.4  # V1
    noise: bool = True  # I: StyleGAN2's per-pixel noise, strength learned from 0; drawn by the caller
    upsample_first: bool = False  # I: True convolves after upsampling (4 times the work), False before

    attention_depths: tuple[int, ...] = (0, 2, 2, 1, 0)  # V1, from 4 px up; 0: none
    attention_per: Per = "resolution"  # fit; "block" repeats the depth after every block
    attention_gain: float = 0.3  # V1
    attention_head_dim: int = 64  # I
    attention_width: float = 1.0  # R: inner width of attention / channels
    attention_mlp_ratio: float = 4.0  # R
    # I: w enters self-attention as one more key and value; projected only where its width is not the features' (fit)
    w_token: bool = True
    cross_attention: bool = True  # V1
    cross_attention_mlp: bool = True  # fit: cross-attention has a feed-forward of its own

    rgb_per: Per = "block"  # fit: an RGB output after every block, or after the last block of a resolution
    rgb_gain: float = 1.0  # I: of every RGB output; a short training wants to start near the range of images
    multi_scale: bool = True  # V1: all resolutions are returned; False: the largest only

    def __post_init__(self) -> None:
        freeze_tuples(self)
        count = len(resolutions(4, self.image_size, "image_size"))
        check_from_4(self, count, kernels=1, blocks=1, attention_depths=0)
        check_style(self)
        check_choice(self, "conditioning", Conditioning)
        check_condition(self)
        check_widths(self)
        check_attention(self, zip(self.resolutions, self.attention_depths))
        check_choice(self, "residual", Residual)
        check_choice(self, "attention_per", Per)
        check_choice(self, "rgb_per", Per)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """4, 8, ..., image_size."""
        return resolutions(4, self.image_size, "image_size")

    @property
    def text_conditioned(self) -> bool:
        """Whether it takes captions, and so a frozen text encoder's features."""
        return self.conditioning == "text"

    def channels(self, resolution: int) -> int:
        """Feature width at a resolution: min(base / r, max)."""
        return min(self.channel_base // resolution, self.channel_max)


@dataclass(frozen=True)
class DiscriminatorSettings:
    """Multi-scale-input, multi-scale-output discriminator (paper, equations 6 and 7)."""

    __pydantic_config__ = _STRICT

    image_size: int = 64
    levels: int = 5  # V1: how many pyramid images enter, from image_size down; 1: single-scale input
    intermediate_predictions: bool = True  # V1: a prediction at every scale; False: at the last one only

    conditioning: Conditioning = "text"  # "class": a learned vector a class stands in for t_global
    classes: int = 0  # of a class-conditional network
    text_dim: int = 768  # C of the frozen encoder's features
    text_width: int = 768  # fit: width of t_D, or of a class's vector
    text_depth: int = 4  # R: "learned attention"
    text_head_dim: int = 64  # I

    channel_base: int = 16384  # R
    channel_max: int = 1536  # R
    blocks: tuple[int, ...] = (
        2,
        2,
        2,
        2,
        1,
    )  # V1, from 4 px up; the last halves, at 4 px it is the epilogue (fit)
    residual: Residual = "conv"  # fit, as in the generator
    residual_gain: float = 0.4  # V1

    attention_depths: tuple[int, ...] = (0, 2, 2, 1, 0)  # V1, from 4 px up
    attention_gain: float = 0.3  # V1
    attention_head_dim: int = 64  # I
    attention_width: float = 1.0  # R
    attention_mlp_ratio: float = 4.0  # R

    # "modulated": psi_j as in equation 7; "projection": the inner product with t_D (Miyato & Koyama 2018), which
    # the class-conditional model has (R)
    predictor: PredictorKind = "modulated"
    predictor_depth: int = 4  # V1: modulated 1x1 convolutions in psi_j
    predictor_width: int = 0  # I: 0: as wide as the features it reads
    minibatch_std_group: int = (
        0  # V1: off for text-to-image 64 px; else contiguous groups of this many samples
    )

    # Blocks (from 1) of a frozen image encoder that vision-aided heads read; empty: there are none. V1: layers of
    # CLIP ViT-B/32; which ones is not known
    vision_layers: tuple[int, ...] = ()
    vision_width: int = 768  # C of the frozen encoder's image features
    vision_channels: int = 256  # I: after the fixed random projection

    def __post_init__(self) -> None:
        freeze_tuples(self)
        count = len(resolutions(4, self.image_size, "image_size"))
        check_from_4(self, count, blocks=1, attention_depths=0)
        check_choice(self, "conditioning", Conditioning)
        check_condition(self)
        check_widths(self)
        check_attention(self, zip(self.resolutions, self.attention_depths))
        check_choice(self, "residual", Residual)
        check_choice(self, "predictor", PredictorKind)
        check_range(self, "levels", 1, count)
        check_range(self, "predictor_depth", 1)
        check_range(self, "predictor_width", 0)
        check_range(self, "minibatch_std_group", 0)
        check_range(self, "vision_width", 1)
        check_range(self, "vision_channels", 1)
        if (
            sorted(set(self.vision_layers)) != list(self.vision_layers)
            or min(self.vision_layers, default=1) < 1
        ):
            raise ValueError(f"vision_layers must rise from 1 on, not {self.vision_layers}")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """4, 8, ..., image_size."""
        return resolutions(4, self.image_size, "image_size")

    @property
    def input_resolutions(self) -> tuple[int, ...]:
        """Sizes of the pyramid images it takes, from high to low."""
        return self.resolutions[::-1][: self.levels]

    @property
    def text_conditioned(self) -> bool:
        """Whether it takes captions, and so a frozen text encoder's features."""
        return self.conditioning == "text"

    def channels(self, resolution: int) -> int:
        """Feature width at a resolution: min(base / r, max)."""
        return min(self.channel_base // resolution, self.channel_max)


@dataclass(frozen=True)
class UpsamplerSettings:
    """Asymmetric U-Net from low_size to image_size: down to bottleneck_size, then up (paper, section 3.4)."""

    __pydantic_config__ = _STRICT

    low_size: int = 64
    image_size: int = 512
    bottleneck_size: int = 8  # V1: 3 down blocks from 64
    z_dim: int = 128  # R
    w_dim: int = 512  # V2
    mapping_depth: int = 4  # V2
    mapping_lr_multiplier: float = 0.01  # I
    mapping_text_dim: int = 0  # as in GeneratorSettings

    conditioning: Conditioning = "text"  # "class": a learned vector a class stands in for t_global
    classes: int = 0  # of a class-conditional network
    text_dim: int = 768
    text_layer: int = -2  # R: as in GeneratorSettings
    text_width: int = 768  # V1
    text_depth: int = 2  # R
    text_head_dim: int = 64  # I

    channel_base: int = 32768  # R
    channel_max: int = 512  # R
    encoder_blocks: tuple[int, ...] = (1, 1, 1)  # fit: one down block per halving, from low_size down, N = 1
    encoder_attention_depths: tuple[int, ...] = (2, 2, 2)  # fit: after each down block
    kernels: tuple[int, ...] = (1, 1, 2, 4, 8, 16, 16)  # fit: decoder, from bottleneck_size up
    blocks: tuple[int, ...] = (4, 4, 4, 4, 4, 4, 3)  # R: decoder, from bottleneck_size up
    convs_per_block: int = 2  # fit
    skip: Skip = "concatenate"  # fit: how encoder features join the decoder at equal resolution; or "add"
    residual: Residual = "conv"  # fit
    residual_gain: float = 0.4  # V1
    noise: bool = True  # I
    upsample_first: bool = False  # I

    attention_depths: tuple[int, ...] = (2, 2, 2, 1, 0, 0, 0)  # R: decoder, from bottleneck_size up
    attention_per: Per = "resolution"  # fit
    attention_gain: float = 0.3  # V1
    attention_head_dim: int = 64  # I
    attention_width: float = 1.0  # R
    attention_mlp_ratio: float = 4.0  # R
    w_token: bool = True  # I
    cross_attention: bool = True  # V1
    cross_attention_mlp: bool = True  # fit

    rgb_per: Per = "block"  # fit
    rgb_gain: float = 1.0  # I
    lowest_rgb: int = 8  # fit: smallest decoder resolution with an RGB output: the last level of the pyramid
    residual_output: bool = False  # I: outputs are added to the resized input instead of standing alone

    def __post_init__(self) -> None:
        freeze_tuples(self)
        resolutions(self.bottleneck_size, self.low_size, "low_size")
        count = len(self.resolutions)
        if not self.bottleneck_size < self.low_size < self.image_size:
            raise ValueError(
                f"sizes must rise from bottleneck_size ({self.bottleneck_size}) over low_size ({self.low_size}) "
                f"to image_size ({self.image_size})"
            )
        start = self.bottleneck_size
        check_from_4(self, count, start=start, kernels=1, blocks=1, attention_depths=0)
        halvings = len(self.encoder_resolutions) - 1
        for name, least in (("encoder_blocks", 1), ("encoder_attention_depths", 0)):
            check_entries(self, name, halvings, least, f"one per halving from {self.low_size} to {start} px")
        if self.lowest_rgb not in self.resolutions:
            raise ValueError(
                f"lowest_rgb is {self.lowest_rgb}, but the decoder works at {self.resolutions} px"
            )
        check_style(self)
        check_choice(self, "conditioning", Conditioning)
        check_condition(self)
        check_widths(self)
        check_attention(self, zip(self.resolutions, self.attention_depths))
        check_attention(self, zip(self.encoder_resolutions[1:], self.encoder_attention_depths))
        check_choice(self, "residual", Residual)
        check_choice(self, "attention_per", Per)
        check_choice(self, "rgb_per", Per)
        check_choice(self, "skip", Skip)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """The decoder's: bottleneck_size, ..., image_size."""
        return resolutions(self.bottleneck_size, self.image_size, "image_size")

    @property
    def encoder_resolutions(self) -> tuple[int, ...]:
        """low_size, ..., bottleneck_size."""
        return resolutions(self.bottleneck_size, self.low_size, "low_size")[::-1]

    @property
    def output_resolutions(self) -> tuple[int, ...]:
        """Sizes of the images it returns, from high to low."""
        return tuple(r for r in self.resolutions[::-1] if r >= self.lowest_rgb)

    @property
    def text_conditioned(self) -> bool:
        """Whether it takes captions, and so a frozen text encoder's features."""
        return self.conditioning == "text"

    def channels(self, resolution: int) -> int:
        """Feature width at a resolution: min(base / r, max)."""
        return min(self.channel_base // resolution, self.channel_max)


def demo_generator(image_size: int = 32, text_dim: int = 128) -> GeneratorSettings:
    """Base generator of the `demo` preset: minutes on 2 CPU cores. Everything smaller than the paper's on purpose."""
    count = len(resolutions(4, image_size, "image_size"))
    return GeneratorSettings(
        image_size=image_size,
        z_dim=64,
        w_dim=128,
        mapping_depth=2,
        mapping_lr_multiplier=0.1,  # 0.01 does not move in a few hundred steps
        text_dim=text_dim,
        text_width=128,
        text_depth=1,
        text_head_dim=32,
        channel_base=1024,
        channel_max=128,
        kernels=(1, 1, 2, 2, 2, 2, 2)[:count],
        blocks=(1,) * count,
        noise=False,
        attention_depths=(0, 1, 0, 0, 0, 0, 0)[:count],
        attention_head_dim=32,
        attention_mlp_ratio=2.0,
        cross_attention_mlp=False,
        rgb_per="resolution",
    )


def demo_discriminator(
    image_size: int = 32, levels: int | None = None, text_dim: int = 128
) -> DiscriminatorSettings:
    """Discriminator of the `demo` preset, for the base (32 px) and for the upsampler (128 px, 3 levels)."""
    count = len(resolutions(4, image_size, "image_size"))
    return DiscriminatorSettings(
        image_size=image_size,
        levels=count if levels is None else levels,
        text_dim=text_dim,
        text_width=128,
        text_depth=1,
        text_head_dim=32,
        channel_base=1024,
        channel_max=128,
        blocks=(1,) * count,
        attention_depths=(0, 1, 0, 0, 0, 0, 0)[:count],
        attention_head_dim=32,
        attention_mlp_ratio=2.0,
        predictor_depth=2,
    )


def demo_upsampler(low_size: int = 32, image_size: int = 128, text_dim: int = 128) -> UpsamplerSettings:
    """Upsampler of the `demo` preset: adds detail onto the bicubically enlarged input."""
    bottleneck = max(4, low_size // 4)
    count = len(resolutions(bottleneck, image_size, "image_size"))
    halvings = len(resolutions(bottleneck, low_size, "low_size")) - 1
    return UpsamplerSettings(
        low_size=low_size,
        image_size=image_size,
        bottleneck_size=bottleneck,
        z_dim=64,
        w_dim=128,
        mapping_depth=2,
        mapping_lr_multiplier=0.1,
        text_dim=text_dim,
        text_width=128,
        text_depth=1,
        text_head_dim=32,
        channel_base=1024,
        channel_max=64,
        encoder_blocks=(1,) * halvings,
        encoder_attention_depths=(0,) * halvings,
        kernels=(2, 2) + (1,) * (count - 2),  # a bank costs least where the maps are small
        blocks=(1,) * count,
        skip="add",
        noise=False,
        attention_depths=(1,) + (0,) * (count - 1),
        attention_head_dim=32,
        attention_mlp_ratio=2.0,
        cross_attention_mlp=False,
        rgb_per="resolution",
        lowest_rgb=low_size,
        residual_output=True,
    )
