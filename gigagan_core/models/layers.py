"""Layers with an equalised learning rate, resampling, and the numerics that every network here shares.

Equalised learning rate (Karras et al. 2018; V1 for GigaGAN): weights are drawn from N(0, 1) and scaled by
1 / sqrt(fan_in) when used, so that one step size fits every layer. Feature maps are kept channels_last: on CPU
convolution, resampling and pooling are two to five times faster so, and the tokens of attention are then a view.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

LEAK = 0.2
ACTIVATION_GAIN = math.sqrt(2.0)  # keeps unit variance through a leaky ReLU (StyleGAN2)


def at_least_fp32(x: Tensor) -> Tensor:
    """bf16 and fp16 become fp32; fp32 and fp64 stay, so that float64 checks hold."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def unit_second_moment(x: Tensor, eps: float = 1e-8) -> Tensor:
    """x [..., C] scaled to a mean square of one over its last axis (StyleGAN2's latent normalisation)."""
    x = at_least_fp32(x)
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)


def leaky_relu(x: Tensor) -> Tensor:
    """In place: only for tensors that a layer has just made (its backward reads the result, not the input)."""
    return F.leaky_relu_(x, LEAK)


def upsample(x: Tensor, factor: int = 2) -> Tensor:
    """[N, C, H, W] -> [N, C, factor H, factor W], bilinear."""
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def downsample(x: Tensor, factor: int = 2) -> Tensor:
    """[N, C, H, W] -> [N, C, H / factor, W / factor], box filter."""
    return F.avg_pool2d(x, factor)


def tokens(x: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H W, C]; a view where x is channels_last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def from_tokens(x: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, H W, C] -> [N, C, H, W], channels_last."""
    return x.unflatten(1, size).permute(0, 3, 1, 2)


class Recomputing:
    """Mixin of networks whose stages may be recomputed in the backward pass instead of kept in memory."""

    checkpoint_activations: bool = False

    def run(self, stage: nn.Module, *inputs: Any) -> Any:
        """stage(*inputs), and nothing of what is inside kept for the backward pass where that is switched on."""
        if self.checkpoint_activations and torch.is_grad_enabled():
            # Nothing in a network draws from the global random state: noise is given from outside.
            return checkpoint(stage, *inputs, use_reentrant=False, preserve_rng_state=False)
        return stage(*inputs)

    @contextmanager
    def keeping_activations(self) -> Iterator[None]:
        """Within it nothing is left to be recomputed; the networks' own switch is as before afterwards."""
        before, self.checkpoint_activations = self.checkpoint_activations, False
        try:
            yield
        finally:
            self.checkpoint_activations = before


class EqualLinear(nn.Module):
    """y = x W^T / sqrt(fan_in) + b, both times `lr_multiplier`; W is drawn from N(0, 1) / lr_multiplier."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        bias_init: float = 0.0,
        lr_multiplier: float = 1.0,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init / lr_multiplier)) if bias else None
        self.weight_gain = gain * lr_multiplier / math.sqrt(in_features)
        self.bias_gain = gain * lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] -> [..., out_features]."""
        bias = self.bias
        if bias is not None and self.bias_gain != 1.0:
            bias = bias * self.bias_gain
        return F.linear(x, self.weight * self.weight_gain, bias)


class EqualConv2d(nn.Module):
    """Convolution with an equalised learning rate, optionally followed by a leaky ReLU.

    `gain` multiplies the result. A leaky ReLU commutes with a positive factor, so the factor (and the one that
    restores unit variance after the activation) rides on the small weight instead of the large feature map.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        bias: bool = True,
        activate: bool = False,
        gain: float = 1.0,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.activate = activate
        self.bias_gain = gain * (ACTIVATION_GAIN if activate else 1.0)
        self.weight_gain = self.bias_gain / math.sqrt(in_channels * kernel_size**2)
        self.padding = kernel_size // 2 if padding is None else padding

    def forward(self, x: Tensor) -> Tensor:
        """x [N, in, H, W] -> [N, out, H', W'], H' = H with the default padding."""
        bias = self.bias
        if bias is not None and self.bias_gain != 1.0:
            bias = bias * self.bias_gain
        y = F.conv2d(x, self.weight * self.weight_gain, bias, padding=self.padding)
        return leaky_relu(y) if self.activate else y


def residual_projection(kind: str, in_channels: int, out_channels: int) -> nn.Module | None:
    """The skip path of a block: a 1x1 convolution, the identity, or None for no skip at all.

    kind: "conv", "identity" (a 1x1 convolution only where the widths differ) or "none".
    """
    if kind == "none":
        return None
    if kind == "identity" and in_channels == out_channels:
        return nn.Identity()
    return EqualConv2d(in_channels, out_channels, 1, bias=False)
