"""Truncation: style codes drawn towards their running mean (StyleGAN; paper, appendix C.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gigagan_core.models.layers import at_least_fp32


class StyleMean(nn.Module):
    """Mixin that keeps the running mean of w and truncates towards it."""

    w_mean: Tensor  # [w_dim]

    def register_w_mean(self, w_dim: int) -> None:
        """To be called once, after nn.Module's own constructor."""
        self.register_buffer("w_mean", torch.zeros(w_dim))

    @torch.no_grad()
    def update_w_mean(self, w: Tensor, decay: float = 0.998) -> None:
        """w_mean <- decay * w_mean + (1 - decay) * mean of w [N, w_dim] (of the whole global batch: gather first)."""
        mean = at_least_fp32(w.detach()).mean(dim=0).to(self.w_mean.dtype)
        self.w_mean.mul_(decay).add_(mean, alpha=1.0 - decay)

    def truncate(self, w: Tensor, psi: float) -> Tensor:
        """w [N, w_dim] or [N, layers, w_dim] -> w_mean + psi (w - w_mean).

        psi = 1 is exactly the identity; psi = 0 is exactly w_mean, so that an image depends on its prompt alone.
        """
        if psi == 1.0:
            return w
        mean = self.w_mean.to(w.dtype)
        return mean.expand_as(w) if psi == 0.0 else mean + psi * (w - mean)
