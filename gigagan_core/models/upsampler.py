"""The upsampler: an asymmetric U-Net from a low-resolution image to a larger pyramid (paper, section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gigagan_core.models.attention import AttentionBlock
from gigagan_core.models.condition import Condition, code_width, condition_encoder
from gigagan_core.models.layers import EqualConv2d, Recomputing, downsample
from gigagan_core.models.mapping import MappingNetwork
from gigagan_core.models.pyramid import resize
from gigagan_core.models.settings import UpsamplerSettings
from gigagan_core.models.synthesis import (
    Codes,
    Noise,
    SynthesisBlock,
    SynthesisStage,
    layer_codes,
    layer_words,
)
from gigagan_core.models.text import TextCode
from gigagan_core.models.truncation import StyleMean


class Upsampler(StyleMean, Recomputing, nn.Module):
    """Down to the bottleneck in residual blocks, up again in synthesis stages, skips at equal resolutions."""

    def __init__(self, settings: UpsamplerSettings) -> None:
        super().__init__()
        self.settings = settings
        width = code_width(settings)
        self.condition_encoder = condition_encoder(settings)
        self.mapping = MappingNetwork(
            settings.z_dim,
            width,
            settings.w_dim,
            settings.mapping_depth,
            settings.mapping_lr_multiplier,
            settings.mapping_text_dim,
        )
        self.register_w_mean(settings.w_dim)
        self.from_rgb = EqualConv2d(3, settings.channels(settings.low_size), 3, activate=True)
        self.encoder = nn.ModuleList(
            _DownStage(settings, above, below, blocks, depth)
            for above, below, blocks, depth in zip(
                settings.encoder_resolutions,
                settings.encoder_resolutions[1:],
                settings.encoder_blocks,
                settings.encoder_attention_depths,
            )
        )
        self.decoder = nn.ModuleList()
        channels = settings.channels(settings.bottleneck_size)
        for i, resolution in enumerate(settings.resolutions):
            joins = settings.bottleneck_size < resolution <= settings.low_size
            self.decoder.append(
                SynthesisStage(
                    settings,
                    channels,
                    settings.channels(resolution),
                    kernels=settings.kernels[i],
                    blocks=settings.blocks[i],
                    attention_depth=settings.attention_depths[i],
                    text_width=width if settings.cross_attention else 0,
                    up=i > 0,
                    single_first_conv=False,
                    rgb=resolution >= settings.lowest_rgb,
                    rgb_starts_at_zero=settings.residual_output,
                    skip=settings.skip if joins else None,
                )
            )
            channels = settings.channels(resolution)

    @property
    def num_layers(self) -> int:
        """How many w a sample takes: one per adaptive convolution, encoder first."""
        return sum(stage.num_layers for stage in (*self.encoder, *self.decoder))

    @property
    def scale(self) -> int:
        """How many times larger the output is than the input."""
        return self.settings.image_size // self.settings.low_size

    @property
    def stride(self) -> int:
        """Pixels of the input under one of the bottleneck: a shift by so many shifts the output, borders aside."""
        return self.settings.low_size // self.settings.bottleneck_size

    def forward(
        self, low: Tensor, z: Tensor, condition: Condition = None, noise: Noise | None = None
    ) -> list[Tensor]:
        """low [N, 3, low_size, low_size] in [-1, 1], z [N, z_dim], N captions or labels -> pyramid, high to low."""
        side = self.settings.low_size
        if tuple(low.shape[-2:]) != (side, side):
            raise ValueError(f"the upsampler takes {side} px, not {tuple(low.shape[-2:])}")
        code = self.encode(condition)
        return self.synthesise(low, self.map(z, code), code, noise)

    def encode(self, condition: Condition) -> TextCode | None:
        """Frozen features of N captions, or labels -> t_local, t_global, the words' mask; None without condition."""
        return None if self.condition_encoder is None else self.condition_encoder(condition)

    def map(self, z: Tensor, code: TextCode | None = None) -> Tensor:
        """z [N, z_dim] -> w [N, w_dim] = M(z, t_global)."""
        return self.mapping(z, None if code is None else code.t_global)

    def synthesise(
        self, low: Tensor, w: Tensor, code: Codes = None, noise: Noise | None = None
    ) -> list[Tensor]:
        """low [N, 3, low_size, low_size], w [N, w_dim] or [N, num_layers, w_dim] -> images about [-1, 1].

        A tile of an image may have another side than it was trained with: any multiple of `stride`.
        From high to low: image_size, ..., lowest_rgb. With `residual_output` the images are
        added to the input resized to each resolution (bicubic), and are zero before training. Not clamped.
        """
        settings = self.settings
        if low.shape[-1] != low.shape[-2] or low.shape[-1] % self.stride:
            raise ValueError(
                f"the upsampler takes squares of a multiple of {self.stride} px, not {tuple(low.shape[-2:])}"
            )
        codes, words = layer_codes(w, self.num_layers), layer_words(code, self.num_layers)
        x = self.from_rgb(low.contiguous(memory_format=torch.channels_last))
        skips, layer = {settings.low_size: x}, 0
        for stage, resolution in zip(self.encoder, settings.encoder_resolutions[1:]):
            x = self.run(stage, x, codes, layer, words, noise)
            layer += stage.num_layers
            skips[resolution] = x
        rgb, pyramid = None, []
        for stage, resolution in zip(self.decoder, settings.resolutions):
            x, rgb = self.run(stage, x, rgb, codes, layer, words, noise, skips.get(resolution))
            layer += stage.num_layers
            if rgb is not None:
                pyramid.append(rgb)
        pyramid.reverse()
        if settings.residual_output:
            pyramid = [image + resize(low, image.shape[-1]) for image in pyramid]
        return pyramid


class _DownStage(nn.Module):
    """Blocks with modulated convolutions (N = 1), the last of which halves the resolution, then attention."""

    def __init__(
        self, settings: UpsamplerSettings, above: int, below: int, blocks: int, attention_depth: int
    ) -> None:
        super().__init__()
        width, out_width = settings.channels(above), settings.channels(below)
        self.blocks = nn.ModuleList(
            SynthesisBlock(
                settings, width, out_width if i == blocks - 1 else width, 1, settings.convs_per_block
            )
            for i in range(blocks)
        )
        self.attention = nn.ModuleList(
            AttentionBlock(
                out_width,
                settings.attention_head_dim,
                settings.attention_gain,
                settings.attention_width,
                settings.attention_mlp_ratio,
                w_dim=settings.w_dim if settings.w_token else 0,
                text_width=code_width(settings) if settings.cross_attention else 0,
                cross_mlp=settings.cross_attention_mlp,
            )
            for _ in range(attention_depth)
        )
        self.num_layers = sum(len(block.convs) for block in self.blocks)

    def forward(
        self,
        x: Tensor,
        codes: tuple[Tensor, ...],
        layer: int,
        words: tuple[TextCode | None, ...],
        noise: Noise | None,
    ) -> Tensor:
        """[N, in, r, r] -> [N, out, r / 2, r / 2]."""
        for i, block in enumerate(self.blocks):
            if i == len(self.blocks) - 1:
                x = downsample(x)
            x = block(x, codes, layer, noise)
            layer += len(block.convs)
        for module in self.attention:
            x = module(x, codes[layer - 1], words[layer - 1])
        return x
