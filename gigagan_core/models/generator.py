"""The base generator: prompt and latent in, pyramid of images out (paper, section 3.1 and equation 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gigagan_core.models.condition import Condition, code_width, condition_encoder
from gigagan_core.models.layers import Recomputing
from gigagan_core.models.mapping import MappingNetwork
from gigagan_core.models.settings import GeneratorSettings
from gigagan_core.models.synthesis import Codes, Noise, SynthesisStage, layer_codes, layer_words
from gigagan_core.models.text import TextCode
from gigagan_core.models.truncation import StyleMean


class Generator(StyleMean, Recomputing, nn.Module):
    """Learned text encoder (or class vectors), mapping network and synthesis network."""

    def __init__(self, settings: GeneratorSettings) -> None:
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
        self.constant = nn.Parameter(torch.randn(1, settings.channels(4), 4, 4))
        self.stages = nn.ModuleList()
        channels = settings.channels(4)
        for i, resolution in enumerate(settings.resolutions):
            self.stages.append(
                SynthesisStage(
                    settings,
                    channels,
                    settings.channels(resolution),
                    kernels=settings.kernels[i],
                    blocks=settings.blocks[i],
                    attention_depth=settings.attention_depths[i],
                    text_width=width if settings.cross_attention else 0,
                    up=i > 0,
                    single_first_conv=i == 0,
                    rgb=True,
                )
            )
            channels = settings.channels(resolution)

    @property
    def num_layers(self) -> int:
        """How many w a sample takes in `synthesise`: one per adaptive convolution, coarse to fine."""
        return sum(stage.num_layers for stage in self.stages)

    def forward(self, z: Tensor, condition: Condition = None, noise: Noise | None = None) -> list[Tensor]:
        """z [N, z_dim] ~ N(0, 1), N captions or class labels (None without condition) -> pyramid, high to low."""
        code = self.encode(condition)
        return self.synthesise(self.map(z, code), code, noise)

    def encode(self, condition: Condition) -> TextCode | None:
        """Frozen features of N captions, or labels -> t_local, t_global, the words' mask; None without condition."""
        return None if self.condition_encoder is None else self.condition_encoder(condition)

    def map(self, z: Tensor, code: TextCode | None = None) -> Tensor:
        """z [N, z_dim] -> w [N, w_dim] = M(z, t_global)."""
        return self.mapping(z, None if code is None else code.t_global)

    def synthesise(self, w: Tensor, code: Codes = None, noise: Noise | None = None) -> list[Tensor]:
        """w [N, w_dim], or [N, num_layers, w_dim] to address layers -> images [N, 3, r, r] about [-1, 1].

        code: of N captions, or one such code a layer.

        From high to low: image_size, ..., 8, 4 (with multi_scale off: image_size only). Not clamped.
        """
        codes, words = layer_codes(w, self.num_layers), layer_words(code, self.num_layers)
        x = self.constant.expand(w.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        rgb, pyramid, layer = None, [], 0
        for stage in self.stages:
            x, rgb = self.run(stage, x, rgb, codes, layer, words, noise)
            layer += stage.num_layers
            pyramid.append(rgb)
        pyramid.reverse()
        return pyramid if self.settings.multi_scale else pyramid[:1]
