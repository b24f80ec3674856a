"""The discriminator's predictor at one scale (equation 7): psi_j(features, t_D) + Conv1x1(features)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gigagan_core.models.adaptive_conv import AdaptiveConv2d
from gigagan_core.models.layers import EqualConv2d


class Predictor(nn.Module):
    """psi: 1x1 convolutions modulated by t_D (four, V1), then one to a logit. Shared by all levels."""

    def __init__(self, channels: int, text_width: int, depth: int, width: int = 0) -> None:
        """text_width 0: no psi, only the unconditional Conv1x1. width 0: psi is as wide as its features."""
        super().__init__()
        width = width or channels
        self.layers = nn.ModuleList(
            AdaptiveConv2d(channels if i == 0 else width, width, text_width, kernel_size=1)
            for i in range(depth if text_width else 0)
        )
        self.out = EqualConv2d(width, 1, 1) if text_width else None
        self.unconditional = EqualConv2d(channels, 1, 1)

    def forward(self, x: Tensor, t_D: Tensor | None) -> Tensor:
        """x [levels * N, C, h, w], t_D [N, text_width] or None -> logits [levels * N, 1, h, w]."""
        logits = self.unconditional(x)
        if self.out is None:
            return logits
        code = t_D.repeat(len(x) // len(t_D), 1)
        y = x
        for layer in self.layers:
            y = layer(y, code)
        return torch.add(self.out(y), logits)
