"""Vision-aided discriminator: logits on the features of a frozen image encoder (Kumari et al. 2022; paper, 3.3).

The encoder is not part of the network: whoever calls gives its feature maps. Each map goes through a fixed random
projection, a 3x3 convolution modulated by t_D and a 3x3 convolution to a map of logits (V1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gigagan_core.models.adaptive_conv import AdaptiveConv2d
from gigagan_core.models.layers import EqualConv2d


class VisionAidedHeads(nn.Module):
    """One head a feature map. Only the convolutions learn; the projections are drawn once and kept."""

    def __init__(self, layers: int, width: int, channels: int, code_width: int) -> None:
        """layers: maps read. width: their channels. channels: after the projection. code_width: of t_D, or 0."""
        super().__init__()
        self.heads = nn.ModuleList(_Head(width, channels, code_width) for _ in range(layers))

    def forward(self, maps: Sequence[Tensor], t_D: Tensor | None) -> list[Tensor]:
        """maps: [N, width, h, w] each, t_D [N, code_width] or None -> logits [N, 1, h, w], one a head."""
        if len(maps) != len(self.heads):
            raise ValueError(f"{len(maps)} feature maps were given for {len(self.heads)} heads")
        return [head(x, t_D) for head, x in zip(self.heads, maps)]


class _Head(nn.Module):
    def __init__(self, width: int, channels: int, code_width: int) -> None:
        super().__init__()
        # Fixed: a head that could choose what it looks at would find the few directions that tell at once.
        self.register_buffer("projection", torch.randn(channels, width, 1, 1) / math.sqrt(width))
        self.modulated = AdaptiveConv2d(channels, channels, code_width) if code_width else None
        self.plain = None if code_width else EqualConv2d(channels, channels, 3, activate=True)
        self.out = EqualConv2d(channels, 1, 3)

    def forward(self, x: Tensor, t_D: Tensor | None) -> Tensor:
        # Residual streams of a ViT have a few huge channels: normalised over channels, as its next layer would.
        x = x.to(self.projection.dtype)
        x = (x - x.mean(dim=1, keepdim=True)) * torch.rsqrt(x.var(dim=1, keepdim=True, unbiased=False) + 1e-6)
        x = torch.nn.functional.conv2d(x, self.projection)
        return self.out(self.plain(x) if self.modulated is None else self.modulated(x, t_D))
