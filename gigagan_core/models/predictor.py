"""The predictors of one scale, shared by all levels: of text (equation 7), of a class, or of neither."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from gigagan_core.models.adaptive_conv import AdaptiveConv2d
from gigagan_core.models.condition import code_width
from gigagan_core.models.layers import EqualConv2d, EqualLinear
from gigagan_core.models.settings import DiscriminatorSettings


def predictor(settings: DiscriminatorSettings, channels: int) -> nn.Module:
    """The predictor that the settings ask for, of feature maps with `channels` channels."""
    width = code_width(settings)
    if width and settings.predictor == "projection":
        return ProjectionPredictor(channels, width)
    return ModulatedPredictor(channels, width, settings.predictor_depth, settings.predictor_width)


class ModulatedPredictor(nn.Module):
    """psi_j(features, t_D) + Conv1x1(features); psi: 1x1 convolutions modulated by t_D (four, V1), one to a logit."""

    def __init__(self, channels: int, code_width: int, depth: int, width: int = 0) -> None:
        """code_width 0: no psi, only the unconditional Conv1x1. width 0: psi is as wide as its features."""
        super().__init__()
        width = width or channels
        self.layers = nn.ModuleList(
            AdaptiveConv2d(channels if i == 0 else width, width, code_width, kernel_size=1)
            for i in range(depth if code_width else 0)
        )
        self.out = EqualConv2d(width, 1, 1) if code_width else None
        self.unconditional = EqualConv2d(channels, 1, 1)

    def forward(self, x: Tensor, t_D: Tensor | None) -> Tensor:
        """x [levels * N, C, h, w], t_D [N, code_width] or None -> logits [levels * N, 1, h, w]."""
        logits = self.unconditional(x)
        if self.out is None:
            return logits
        code = t_D.repeat(len(x) // len(t_D), 1)
        y = x
        for layer in self.layers:
            y = layer(y, code)
        return torch.add(self.out(y), logits)


class ProjectionPredictor(nn.Module):
    """<V t_D, features> / sqrt(C) + Conv1x1(features) (Miyato & Koyama 2018)."""

    def __init__(self, channels: int, code_width: int) -> None:
        super().__init__()
        self.project = EqualLinear(code_width, channels, bias=False, gain=1.0 / math.sqrt(channels))
        self.unconditional = EqualConv2d(channels, 1, 1)

    def forward(self, x: Tensor, t_D: Tensor) -> Tensor:
        """x [levels * N, C, h, w], t_D [N, code_width] -> logits [levels * N, 1, h, w]."""
        code = self.project(t_D).repeat(len(x) // len(t_D), 1)[..., None, None]
        return (x * code.to(x.dtype)).sum(dim=1, keepdim=True) + self.unconditional(x)
