"""Mapping network M: latent z and sentence descriptor t_global to the style code w."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gigagan_core.models.layers import ACTIVATION_GAIN, LEAK, EqualLinear, at_least_fp32, unit_second_moment


class MappingNetwork(nn.Module):
    """MLP on concat(z, t_global) (V2), both at unit second moment, learning rate of its own (StyleGAN2; I)."""

    def __init__(
        self,
        z_dim: int,
        text_width: int,
        w_dim: int,
        depth: int,
        lr_multiplier: float,
        text_projection: int = 0,
    ) -> None:
        """text_width: width of t_global, 0 without text. text_projection: t_global is first brought to this width."""
        super().__init__()
        self.project = EqualLinear(text_width, text_projection) if text_width and text_projection else None
        width = z_dim + (text_projection or text_width if text_width else 0)
        self.layers = nn.ModuleList(
            EqualLinear(width if i == 0 else w_dim, w_dim, lr_multiplier=lr_multiplier, gain=ACTIVATION_GAIN)
            for i in range(depth)
        )

    def forward(self, z: Tensor, t_global: Tensor | None) -> Tensor:
        """z [N, z_dim], t_global [N, text_width] or None -> w [N, w_dim], fp32 or wider whatever the autocast."""
        # Every layer of the synthesis network multiplies by what comes out here; bf16 would be coarse.
        with torch.autocast(z.device.type, enabled=False):
            x = unit_second_moment(z)
            if t_global is not None:
                t_global = at_least_fp32(t_global)
                sentence = t_global if self.project is None else self.project(t_global)
                x = torch.cat([x, unit_second_moment(sentence)], dim=-1)
            for layer in self.layers:
                x = F.leaky_relu(layer(x), LEAK)
            return x
