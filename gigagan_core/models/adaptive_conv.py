"""Convolution with sample-adaptive kernel selection (paper, equations 1 and 2).

Each sample's kernel is a softmax-weighted sum over a bank of N kernels, then modulated and demodulated as in
StyleGAN2:

    K_n = sum_i softmax(W_f w_n + b_f)_i K_i            (1)
    y_n = conv(x_n, K_n * s_n) / ||K_n * s_n||,   s_n = W_m w_n + b_m   (2)

The modulation s multiplies input channels and the norm divides output channels, so both act on feature maps
or on kernels, whichever is smaller. No tensor ever holds batch x N kernels: the softmax weights are contracted with
the bank first, or ride on the maps.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gigagan_core.models.layers import (
    ACTIVATION_GAIN,
    EqualLinear,
    at_least_fp32,
    leaky_relu,
    upsample,
)

_EPS = 1e-8


class AdaptiveConv2d(nn.Module):
    """Adaptive convolution, noise, bias and leaky ReLU: one layer of the synthesis network.

    Parameters: bank [N, out, in, k, k], bias [out], noise strength, modulation (w_dim -> in), and with N > 1
    the selection (w_dim -> N): 9 io N + o + 1 + (w + 1) i + (w + 1) N.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        kernels: int = 1,
        kernel_size: int = 3,
        up: bool = False,
        upsample_first: bool = False,
        noise: bool = False,
        gain: float = 1.0,
    ) -> None:
        """up: doubles the resolution, before (`upsample_first`) or after the convolution. gain: of the result."""
        super().__init__()
        self.bank = nn.Parameter(torch.randn(kernels, out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(1)) if noise else None
        self.modulation = EqualLinear(w_dim, in_channels, bias_init=1.0)
        self.selection = EqualLinear(w_dim, kernels) if kernels > 1 else None
        self.up = up
        self.upsample_first = upsample_first
        self.fan_in_gain = 1.0 / math.sqrt(in_channels * kernel_size**2)
        # A leaky ReLU commutes with positive factors: they ride on the demodulation, which is [N, out].
        self.gain = gain * ACTIVATION_GAIN

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None) -> Tensor:
        """x [N, in, H, W], w [N, w_dim], noise [N, 1, H', W'] or None -> [N, out, H', W'].

        H' = 2 H with `up`, else H. Without `noise` the layer adds none, whatever its strength.
        """
        style, selection = self.coefficients(w)
        if self.up and self.upsample_first:
            x = upsample(x)
        y = modulated_conv(x, self.bank, style, selection, self.bias * self.gain, self.gain)
        if self.up and not self.upsample_first:
            y = upsample(y)  # keeps constants, so the bias may already be in
        if noise is not None and self.noise_strength is not None:
            y = y + (noise * (self.noise_strength * self.gain)).to(y.dtype)
        return leaky_relu(y)

    def coefficients(self, w: Tensor) -> tuple[Tensor, Tensor | None]:
        """w [N, w_dim] -> style [N, in], selection [N, kernels] (softmax) or None; in fp32 or wider."""
        with torch.autocast(w.device.type, enabled=False):
            w = at_least_fp32(w)
            style = self.modulation(w) * self.fan_in_gain
            return style, None if self.selection is None else self.selection(w).softmax(dim=-1)


def kernel_energy(bank: Tensor, style: Tensor, selection: Tensor | None) -> Tensor:
    """sum over (input, taps) of (K_n s_n)^2 = a_n^T [ sum_c s_nc^2 sum_taps K_i K_j ] a_n, without building K_n.

    bank [k, O, I, h, w], style [N, I], selection [N, k] or None -> [N, O].
    """
    square = style.square()
    if selection is None:
        return square @ bank[0].square().sum(dim=(-2, -1)).T
    count, out_channels, in_channels = bank.shape[:3]
    taps = bank.flatten(3).permute(1, 2, 0, 3)  # O, I, k, taps
    first, second = torch.triu_indices(count, count, device=bank.device).unbind()
    gram = (taps @ taps.transpose(-1, -2))[:, :, first, second]  # the upper triangle; twice off the diagonal
    pairs = selection[:, first] * selection[:, second] * torch.where(first == second, 1.0, 2.0).to(selection)
    energy = square @ gram.permute(1, 0, 2).reshape(in_channels, -1)  # N, O pairs
    return (energy.view(-1, out_channels, len(first)) * pairs[:, None]).sum(dim=-1)


def modulated_conv(
    x: Tensor, bank: Tensor, style: Tensor, selection: Tensor | None, bias: Tensor, gain: float = 1.0
) -> Tensor:
    """gain * conv(x_n, K_n s_n) / ||K_n s_n|| + bias, in the form that costs least for these shapes.

    x [N, I, H, W], bank [k, O, I, h, w], style [N, I], selection [N, k] or None (k = 1), bias [O] -> [N, O, H, W].
    Norms are taken in fp32 or wider whatever the autocast.
    """
    if scales_maps(len(bank), x.shape[-2] * x.shape[-1]):
        return _shared_kernels(x, bank, style, selection, bias, gain)
    return _own_kernels(x, bank, style, selection, bias, gain)


def scales_maps(kernels: int, pixels: int) -> bool:
    """Whether the bank's kernels are shared by the batch, and selection acts on maps; else each sample builds its own.

    A bank multiplies the work on maps by its size; building kernels costs the same at any resolution. The bound is
    where the two cross, measured on CPU (oneDNN) at 32 to 128 channels; with one kernel, maps always won.
    """
    return (kernels - 1) * pixels <= 64


def _shared_kernels(
    x: Tensor, bank: Tensor, style: Tensor, selection: Tensor | None, bias: Tensor, gain: float
) -> Tensor:
    count, out_channels, in_channels, height, width = bank.shape
    with torch.autocast(x.device.type, enabled=False):
        norm = torch.rsqrt(kernel_energy(bank, style, selection) + _EPS) * gain
    if selection is None:
        x, kernel = x * style.to(x.dtype)[..., None, None], bank[0]
    else:
        # The sum over the bank is a convolution's own sum over input channels.
        factors = (selection[:, :, None] * style[:, None]).to(x.dtype)[:, None, None]
        x = (x.permute(0, 2, 3, 1)[..., None, :] * factors).flatten(3).permute(0, 3, 1, 2)
        kernel = bank.transpose(0, 1).reshape(out_channels, count * in_channels, height, width)
    y = F.conv2d(x, kernel, padding=(height // 2, width // 2))
    return torch.addcmul(bias.to(y.dtype)[:, None, None], y, norm.to(y.dtype)[..., None, None])


def _own_kernels(
    x: Tensor, bank: Tensor, style: Tensor, selection: Tensor | None, bias: Tensor, gain: float
) -> Tensor:
    _, out_channels, in_channels, height, width = bank.shape
    size, pixels = len(x), x.shape[-2] * x.shape[-1]
    padding = (height // 2, width // 2)
    if selection is None:
        kernel = bank.expand(size, -1, -1, -1, -1)
    else:
        kernel = (selection @ bank.flatten(1)).unflatten(1, bank.shape[1:])
    with torch.autocast(x.device.type, enabled=False):
        energy = (at_least_fp32(kernel).square().sum(dim=(-2, -1)) * style.square()[:, None]).sum(dim=-1)
        norm = torch.rsqrt(energy + _EPS) * gain  # [N, O]
    on_maps = pixels < out_channels * height * width  # maps are smaller than kernels
    if on_maps:
        x = x * style.to(x.dtype)[..., None, None]
    else:
        kernel = kernel * (norm[:, :, None] * style[:, None])[..., None, None].to(kernel.dtype)
    y = F.conv2d(
        x.reshape(1, size * in_channels, *x.shape[-2:]),
        kernel.flatten(0, 1),
        None if on_maps else bias.repeat(size),
        padding=padding,
        groups=size,
    ).view(size, out_channels, *x.shape[-2:])
    if not on_maps:
        return y
    return torch.addcmul(bias.to(y.dtype)[:, None, None], y, norm.to(y.dtype)[..., None, None])
