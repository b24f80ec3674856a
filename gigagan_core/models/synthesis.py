"""Blocks of a synthesis network: adaptive convolutions, attention, RGB outputs. Shared by base and upsampler."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from gigagan_core.models.adaptive_conv import AdaptiveConv2d
from gigagan_core.models.attention import AttentionBlock
from gigagan_core.models.layers import (
    EqualLinear,
    at_least_fp32,
    from_tokens,
    residual_projection,
    tokens,
    upsample,
)
from gigagan_core.models.randomness import keyed_normal
from gigagan_core.models.settings import GeneratorSettings, UpsamplerSettings
from gigagan_core.models.text import TextCode

Noise = Callable[[int, int], Tensor]
"""noise(layer, resolution) -> [N, 1, resolution, resolution] ~ N(0, 1), for the layers that add noise."""


def keyed_noise(seed: int, indices: Tensor) -> Noise:
    """Noise keyed by (seed, layer, global sample index): indices int64 [N]."""
    return lambda layer, resolution: keyed_normal(
        seed, f"noise/{layer}", indices, (1, resolution, resolution)
    )


def layer_codes(w: Tensor, num_layers: int) -> tuple[Tensor, ...]:
    """w [N, w_dim] (the same everywhere) or [N, num_layers, w_dim] -> num_layers tensors [N, w_dim]."""
    if w.dim() == 2:
        return (w,) * num_layers
    if w.dim() != 3 or w.shape[1] != num_layers:
        raise ValueError(f"w must be [N, w_dim] or [N, {num_layers}, w_dim], not {list(w.shape)}")
    return w.unbind(dim=1)


Codes = TextCode | Sequence[TextCode] | None
"""What words the layers see: the same for all, or one code a layer (prompt mixing), or none."""


def layer_words(code: Codes, num_layers: int) -> tuple[TextCode | None, ...]:
    """One code for all layers, or one a layer -> one a layer."""
    if code is None or isinstance(code, TextCode):
        return (code,) * num_layers
    if len(code) != num_layers:
        raise ValueError(f"give one text code, or one a layer ({num_layers}), not {len(code)}")
    return tuple(code)


class SynthesisBlock(nn.Module):
    """x -> skip(x) + residual_gain * convolutions(x): one or two adaptive convolutions (V1: gain 0.4)."""

    def __init__(
        self,
        settings: GeneratorSettings | UpsamplerSettings,
        in_channels: int,
        out_channels: int,
        kernels: int,
        convs: int,
        up: bool = False,
    ) -> None:
        super().__init__()
        self.up = up
        self.skip = residual_projection(settings.residual, in_channels, out_channels)
        self.convs = nn.ModuleList(
            AdaptiveConv2d(
                in_channels if i == 0 else out_channels,
                out_channels,
                settings.w_dim,
                kernels=kernels,
                up=up and i == 0,
                upsample_first=settings.upsample_first,
                noise=settings.noise,
                gain=settings.residual_gain if self.skip is not None and i == convs - 1 else 1.0,
            )
            for i in range(convs)
        )

    def forward(self, x: Tensor, codes: tuple[Tensor, ...], layer: int, noise: Noise | None = None) -> Tensor:
        """x [N, in, H, W] -> [N, out, H', W']; layer: number of the first convolution, which takes codes[layer]."""
        y = x
        for i, conv in enumerate(self.convs):
            drawn = None
            if noise is not None and conv.noise_strength is not None:
                drawn = noise(layer + i, x.shape[-1] * (2 if self.up else 1))
            y = conv(y, codes[layer + i], drawn)
        if self.skip is None:
            return y
        skip = self.skip(x)
        return y + (upsample(skip) if self.up else skip)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to three channels, not demodulated (StyleGAN2): (w + 1) c + 3 c + 3 parameters."""

    def __init__(self, channels: int, w_dim: int, gain: float = 1.0, start_at_zero: bool = False) -> None:
        super().__init__()
        self.modulation = EqualLinear(w_dim, channels, bias_init=1.0, gain=1.0)
        self.weight = nn.Parameter(torch.zeros(3, channels) if start_at_zero else torch.randn(3, channels))
        self.bias = nn.Parameter(torch.zeros(3))
        self.weight_gain = gain / math.sqrt(channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """x [N, C, H, W], w [N, w_dim] -> [N, 3, H, W], fp32 or wider."""
        # Three rows per sample are far smaller than the feature map, so the style goes onto them.
        style = (self.modulation(w) * self.weight_gain)[:, None]
        kernel = (self.weight * style).to(x.dtype)
        rgb = torch.baddbmm(self.bias.to(x.dtype), tokens(x), kernel.mT)
        return at_least_fp32(from_tokens(rgb, tuple(x.shape[-2:])))


class SynthesisStage(nn.Module):
    """All blocks of one resolution, its attention and its RGB outputs (equation 5)."""

    def __init__(
        self,
        settings: GeneratorSettings | UpsamplerSettings,
        in_channels: int,
        out_channels: int,
        *,
        kernels: int,
        blocks: int,
        attention_depth: int,
        text_width: int,
        up: bool,
        single_first_conv: bool,
        rgb: bool,
        rgb_starts_at_zero: bool = False,
        skip: str | None = None,
    ) -> None:
        """text_width 0: no cross-attention. single_first_conv: the first block has one convolution (4 px).

        rgb: the stage adds to the image (with rgb_starts_at_zero: nothing before training). skip: how encoder
        features of `out_channels` at this resolution join: "concatenate" (to the upsampled input), "add" (to
        the first block's output), None (there are none).
        """
        super().__init__()
        self.skip = skip
        # Features to concatenate have this stage's resolution, so the input is brought there before they meet.
        self.up_before = up and skip == "concatenate"
        self.blocks = nn.ModuleList()
        for i in range(blocks):
            self.blocks.append(
                SynthesisBlock(
                    settings,
                    in_channels + (out_channels if self.up_before else 0) if i == 0 else out_channels,
                    out_channels,
                    kernels,
                    1 if single_first_conv and i == 0 else settings.convs_per_block,
                    up=up and i == 0 and not self.up_before,
                )
            )
        per_block = settings.attention_per == "block"
        self.attention = nn.ModuleList(
            nn.ModuleList(
                AttentionBlock(
                    out_channels,
                    settings.attention_head_dim,
                    settings.attention_gain,
                    settings.attention_width,
                    settings.attention_mlp_ratio,
                    w_dim=settings.w_dim if settings.w_token else 0,
                    text_width=text_width,
                    cross_mlp=settings.cross_attention_mlp,
                )
                for _ in range(attention_depth if per_block or i == blocks - 1 else 0)
            )
            for i in range(blocks)
        )
        last_only = settings.rgb_per == "resolution"
        self.to_rgb = nn.ModuleList(
            ToRGB(out_channels, settings.w_dim, settings.rgb_gain, rgb_starts_at_zero)
            if rgb and (i == blocks - 1 or not last_only)
            else None
            for i in range(blocks)
        )
        self.num_layers = sum(len(block.convs) for block in self.blocks)

    def forward(
        self,
        x: Tensor,
        rgb: Tensor | None,
        codes: tuple[Tensor, ...],
        layer: int,
        words: tuple[TextCode | None, ...],
        noise: Noise | None = None,
        skip: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """x [N, in, h, h], rgb of the stage below or None -> (x [N, out, r, r], rgb [N, 3, r, r] or None).

        codes, words: style code and text code of every layer of the network; layer: number of the stage's first
        convolution. Attention takes those of the convolution before it. The image is the sum of all RGB outputs so far.
        """
        if rgb is not None:
            rgb = upsample(rgb)
        if self.up_before:
            x = torch.cat([upsample(x), skip], dim=1)
        for i, (block, attention, to_rgb) in enumerate(zip(self.blocks, self.attention, self.to_rgb)):
            x = block(x, codes, layer, noise)
            if i == 0 and self.skip == "add":
                x = x + skip
            layer += len(block.convs)
            for module in attention:
                x = module(x, codes[layer - 1], words[layer - 1])
            if to_rgb is not None:
                part = to_rgb(x, codes[layer - 1])
                rgb = part if rgb is None else rgb + part
        return x, rgb
