"""The base generator: prompt and latent in, pyramid of images out (paper, section 3.1 and equation 5)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gigagan_core.models.mapping import MappingNetwork
from gigagan_core.models.settings import GeneratorSettings
from gigagan_core.models.synthesis import Noise, SynthesisStage, layer_codes
from gigagan_core.models.text import TextCode, TextEncoder, TextFeatures
from gigagan_core.models.truncation import StyleMean


class Generator(StyleMean, nn.Module):
    """Learned text encoder, mapping network and synthesis network."""

    def __init__(self, settings: GeneratorSettings) -> None:
        super().__init__()
        self.settings = settings
        text_width = settings.text_width if settings.text_conditioned else 0
        self.text_encoder = (
            TextEncoder(settings.text_dim, text_width, settings.text_depth, settings.text_head_dim)
            if text_width
            else None
        )
        self.mapping = MappingNetwork(
            settings.z_dim,
            text_width,
            settings.w_dim,
            settings.mapping_depth,
            settings.mapping_lr_multiplier,
            settings.mapping_text_dim,
        )
        self.register_w_mean(settings.w_dim)
        self.constant = nn.Parameter(torch.randn(1, settings.channels(4), 4, 4))
        self.stages = nn.ModuleList()
        width = settings.channels(4)
        for i, resolution in enumerate(settings.resolutions):
            self.stages.append(
                SynthesisStage(
                    settings,
                    width,
                    settings.channels(resolution),
                    kernels=settings.kernels[i],
                    blocks=settings.blocks[i],
                    attention_depth=settings.attention_depths[i],
                    text_width=text_width if settings.cross_attention else 0,
                    up=i > 0,
                    single_first_conv=i == 0,
                    rgb=True,
                )
            )
            width = settings.channels(resolution)

    @property
    def num_layers(self) -> int:
        """How many w a sample takes in `synthesise`: one per adaptive convolution, coarse to fine."""
        return sum(stage.num_layers for stage in self.stages)

    def forward(
        self, z: Tensor, text: TextFeatures | None = None, noise: Noise | None = None
    ) -> list[Tensor]:
        """z [N, z_dim] ~ N(0, 1), text of N captions (None without text) -> pyramid, high to low."""
        code = None if self.text_encoder is None else self.encode_text(text)
        return self.synthesise(self.map(z, code), code, noise)

    def encode_text(self, text: TextFeatures) -> TextCode:
        """Frozen features of N captions -> t_local, t_global and the words' mask."""
        return self.text_encoder(text)

    def map(self, z: Tensor, text_code: TextCode | None = None) -> Tensor:
        """z [N, z_dim] -> w [N, w_dim] = M(z, t_global)."""
        return self.mapping(z, None if text_code is None else text_code.t_global)

    def synthesise(
        self, w: Tensor, text_code: TextCode | None = None, noise: Noise | None = None
    ) -> list[Tensor]:
        """w [N, w_dim], or [N, num_layers, w_dim] to address layers -> images [N, 3, r, r] about [-1, 1].

        From high to low: image_size, ..., 8, 4 (with multi_scale off: image_size only). Not clamped.
        """
        codes = layer_codes(w, self.num_layers)
        x = self.constant.expand(len(w), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        rgb, pyramid, layer = None, [], 0
        for stage in self.stages:
            x, rgb = stage(x, rgb, codes, layer, text_code, noise)
            layer += stage.num_layers
            pyramid.append(rgb)
        pyramid.reverse()
        return pyramid if self.settings.multi_scale else pyramid[:1]
