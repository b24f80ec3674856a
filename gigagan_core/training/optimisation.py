"""Optimisers, warm-up and the moving average of weights."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from gigagan_core.models.attention import split_attention_parameters
from gigagan_core.training.settings import EmaSettings, OptimiserSettings
from gigagan_core.training.sharding import local


def adamw(network: nn.Module, settings: OptimiserSettings) -> AdamW:
    """AdamW with the paper's two weight decays: one for attention blocks, one for everything else (V2)."""
    attention, others = split_attention_parameters(network)
    groups = [
        {
            "params": [parameter for _, parameter in attention],
            "weight_decay": settings.weight_decay_attention,
        },
        {"params": [parameter for _, parameter in others], "weight_decay": settings.weight_decay},
    ]
    return AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,  # one kernel a step instead of some a parameter: networks here have hundreds of them
    )


def set_learning_rate(optimizer: Optimizer, settings: OptimiserSettings, images_seen: int) -> None:
    """The learning rate after `images_seen` images; a pure function of them, so that resuming repeats it."""
    share = 1.0
    if settings.warm_up_images:
        share = min(1.0, (images_seen + 1) / settings.warm_up_images)
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate * share


def ema_decay(settings: EmaSettings, batch_size: int, images_seen: int) -> float:
    """Decay of the average for the step that ends at `images_seen` images."""
    if not settings.ramp:
        return settings.decay
    half_life_images = max(images_seen * settings.ramp, 1e-8)
    return min(settings.decay, 0.5 ** (batch_size / half_life_images))


@torch.no_grad()
def update_ema(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average <- decay * average + (1 - decay) * network, for parameters; buffers are copied.

    Of split networks every worker averages its own part: nothing is sent.
    """
    averaged, current = ([local(p) for p in module.parameters()] for module in (average, network))
    torch._foreach_lerp_(averaged, current, 1.0 - decay)
    for kept, buffer in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(buffer)
