"""What a network is conditioned on: captions, class labels, or nothing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gigagan_core.models.settings import DiscriminatorSettings, GeneratorSettings, UpsamplerSettings
from gigagan_core.models.text import TextCode, TextEncoder, TextFeatures

Condition = TextFeatures | Tensor | None
"""Frozen features of N captions; int64 [N] class labels; or None, for a network without condition."""


class ClassEncoder(nn.Module):
    """One learned vector a class, in the place of a sentence descriptor; there are no words."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.randn(classes, width))

    def forward(self, labels: Tensor) -> TextCode:
        """labels int64 [N] -> t_global [N, width]; the class itself is the only word, for whoever looks for one."""
        t_global = self.vectors[labels]
        return TextCode(t_global[:, None], t_global, torch.ones_like(labels, dtype=torch.bool)[:, None])


def condition_encoder(
    settings: GeneratorSettings | DiscriminatorSettings | UpsamplerSettings,
) -> TextEncoder | ClassEncoder | None:
    """T for captions, vectors for classes, None without condition; codes are `settings.text_width` wide."""
    if settings.conditioning == "text":
        return TextEncoder(
            settings.text_dim, settings.text_width, settings.text_depth, settings.text_head_dim
        )
    if settings.conditioning == "class":
        return ClassEncoder(settings.classes, settings.text_width)
    return None


def code_width(settings: GeneratorSettings | DiscriminatorSettings | UpsamplerSettings) -> int:
    """Width of t_global; 0 without condition."""
    return 0 if settings.conditioning == "none" else settings.text_width
