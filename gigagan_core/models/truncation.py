"""Truncation: style codes drawn towards their running mean (StyleGAN; paper, appendix C.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gigagan_core.models.layers import at_least_fp32
from gigagan_core.models.randomness import keyed_normal
from gigagan_core.models.text import TextCode


class StyleMean(nn.Module):
    """Mixin that keeps the running mean of w and truncates towards it, or towards a prompt's own."""

    w_mean: Tensor  # [w_dim]

    def register_w_mean(self, w_dim: int) -> None:
        """To be called once, after nn.Module's own constructor."""
        self.register_buffer("w_mean", torch.zeros(w_dim))

    @torch.no_grad()
    def update_w_mean(self, w: Tensor, decay: float) -> None:
        """w_mean <- decay * w_mean + (1 - decay) * mean of w [N, w_dim] (of the whole global batch: gather first)."""
        mean = at_least_fp32(w.detach()).mean(dim=0).to(self.w_mean.dtype)
        self.w_mean.mul_(decay).add_(mean, alpha=1.0 - decay)

    def truncate(self, w: Tensor, psi: float, mean: Tensor | None = None) -> Tensor:
        """w [N, w_dim] or [N, layers, w_dim] -> mean + psi (w - mean).

        mean: what to be drawn towards, [w_dim] or as w; None: the running mean over all prompts. `prompt_mean` gives
        the one for a prompt alone; the paper uses both, one after the other (the order is R).
        psi = 1 is exactly the identity; psi = 0 is exactly the mean, so that an image depends on its prompt alone.
        """
        if psi == 1.0:
            return w
        mean = self.w_mean.to(w.dtype) if mean is None else mean
        return mean.expand_as(w) if psi == 0.0 else mean + psi * (w - mean)

    @torch.no_grad()
    def prompt_mean(self, code: TextCode | None, samples: int = 512) -> Tensor:
        """Mean over z of M(z, c) for each of N prompts: [N, w_dim].

        The `samples` latents are a fixed set, the same for every prompt and wherever it is computed.
        """
        size = 1 if code is None else len(code.t_global)
        device = self.w_mean.device
        latents = keyed_normal(0, "prompt mean", torch.arange(samples, device=device), (self.settings.z_dim,))
        latents, means = latents.to(self.w_mean.dtype), []
        for row in range(size):
            each = None
            if code is not None:
                each = code._replace(t_global=code.t_global[row].expand(samples, -1))  # M reads no words
            means.append(self.map(latents, each).mean(dim=0))
        return torch.stack(means)
