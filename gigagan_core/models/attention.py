"""Attention of the GAN: L2 self-attention with tied queries and keys, and cross-attention to words.

Letters of shapes: N batch, h heads, L queries, S keys, d width of a head, C channels.
Both run through scaled_dot_product_attention, whose fast kernels have no second derivative: what is to be
differentiated twice (R1) runs inside `double_backward_safe()`.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gigagan_core.models.layers import LEAK, EqualLinear, at_least_fp32, from_tokens, tokens

if TYPE_CHECKING:
    from gigagan_core.models.text import TextCode  # which is built of this module's parts

# Fast GPU kernels want the width of a head to be a multiple of this (16 bytes of bf16).
_HEAD_MULTIPLE = 8
_FEW_KEYS = 128


def double_backward_safe() -> AbstractContextManager:
    """Within it, attention uses the kernel that can be differentiated twice. Must be open during the forward."""
    return sdpa_kernel(SDPBackend.MATH)


def l2_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax_s( -||q_l - k_s||^2 / sqrt(8 d) ) v_s  (L2 attention: Kim et al. 2021; V2, the scale I).

    query [N, h, L, d], key and value [N, h, S, d] -> [N, h, L, d].

    For independent q and k of unit variance the squared distance has variance 8 d, hence the scale. The term
    ||q||^2 is the same for all keys of a query and drops out of the softmax; ||k||^2 rides along as one more
    channel of k, met by a constant one in q. It is centred over the keys, which the softmax does not see either
    and which keeps it small enough for bf16.
    """
    width = query.shape[-1]
    scale = 1.0 / math.sqrt(8.0 * width)
    norm = at_least_fp32(key).square().sum(dim=-1, keepdim=True)
    bias = ((norm.mean(dim=-2, keepdim=True) - norm) * scale).to(key.dtype)
    if query.device.type == "cpu" and key.shape[-2] <= _FEW_KEYS:
        return _small_attention(query * (2.0 * scale), key, value, bias)
    pad = 0 if query.device.type == "cpu" else -(width + 1) % _HEAD_MULTIPLE
    query = F.pad(torch.cat([query * (2.0 * scale), query.new_ones(*query.shape[:-1], 1)], dim=-1), (0, pad))
    key = F.pad(torch.cat([key, bias], dim=-1), (0, pad))
    value = F.pad(value, (0, pad + 1))
    return F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., :width]


def _small_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    # Written out: on CPU, for few keys, a third faster than the fused kernel with its longer heads.
    shape = query.shape
    query, key, value, bias = (t.flatten(0, 1) for t in (query, key, value, bias))
    logits = torch.baddbmm(bias.mT, query, key.mT)
    return torch.bmm(at_least_fp32(logits).softmax(dim=-1).to(value.dtype), value).view(shape)


def split_heads(x: Tensor, head_dim: int) -> Tensor:
    """[N, L, h d] -> [N, h, L, d]."""
    return x.unflatten(-1, (-1, head_dim)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """[N, h, L, d] -> [N, L, h d]."""
    return x.transpose(1, 2).flatten(2)


class L2SelfAttention(nn.Module):
    """L2 self-attention of feature tokens, one projection for queries and keys, w as one more key and value."""

    def __init__(self, channels: int, inner: int, head_dim: int, w_dim: int = 0) -> None:
        """w_dim: 0 leaves the w token out (the discriminator has no w)."""
        super().__init__()
        self.head_dim = head_dim
        self.norm = nn.LayerNorm(channels)
        self.query_key = EqualLinear(channels, inner)
        self.value = EqualLinear(channels, inner)
        self.out = EqualLinear(inner, channels)
        self.w_token = None
        if w_dim:
            # Where w is as wide as the features, the shared key and value projections read it as it is (fit).
            self.w_token = nn.Identity() if w_dim == channels else EqualLinear(w_dim, channels)

    def forward(self, x: Tensor, w: Tensor | None = None) -> Tensor:
        """x [N, L, C], w [N, w_dim] -> [N, L, C]; the residual is the caller's."""
        length, x = x.shape[1], self._with_token(x, w)
        key = split_heads(self.query_key(x), self.head_dim)
        value = split_heads(self.value(x), self.head_dim)
        return self.out(merge_heads(l2_attention(key[:, :, :length], key, value)))

    def weights(self, x: Tensor, w: Tensor | None = None) -> Tensor:
        """The same x, w -> softmax weights [N, h, L, S], float32 or wider; S: L tokens and w, where it is one."""
        length, x = x.shape[1], self._with_token(x, w)
        key = at_least_fp32(split_heads(self.query_key(x), self.head_dim))
        distance = torch.cdist(key[:, :, :length], key).square()
        return (-distance / math.sqrt(8.0 * self.head_dim)).softmax(dim=-1)

    def _with_token(self, x: Tensor, w: Tensor | None) -> Tensor:
        x = self.norm(x)
        if self.w_token is None:
            return x
        token = F.layer_norm(self.w_token(w), x.shape[-1:])
        return torch.cat([x, token[:, None].to(x.dtype)], dim=1)


class CrossAttention(nn.Module):
    """Dot-product attention from feature tokens to words; padding is masked."""

    def __init__(self, channels: int, inner: int, head_dim: int, text_width: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.norm = nn.LayerNorm(channels)
        self.query = EqualLinear(channels, inner)
        self.key = EqualLinear(text_width, inner)
        self.value = EqualLinear(text_width, inner)
        self.out = EqualLinear(inner, channels)

    def forward(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """x [N, L, C], words [N, S, text_width], mask bool [N, S] (True = attend; at least one each)."""
        query = split_heads(self.query(self.norm(x)), self.head_dim)
        key = split_heads(self.key(words), self.head_dim)
        value = split_heads(self.value(words), self.head_dim)
        return self.out(
            merge_heads(F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None]))
        )

    def weights(self, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """The same x, words, mask -> softmax weights [N, h, L, S], float32 or wider; 0 on padding."""
        query = at_least_fp32(split_heads(self.query(self.norm(x)), self.head_dim))
        key = at_least_fp32(split_heads(self.key(words), self.head_dim))
        logits = query @ key.mT / math.sqrt(self.head_dim)
        return logits.masked_fill(~mask[:, None, None], -torch.inf).softmax(dim=-1)


class FeedForward(nn.Module):
    """Two linear layers with a leaky ReLU between them, on normalised tokens."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        hidden = round(channels * ratio)
        self.norm = nn.LayerNorm(channels)
        self.inner = EqualLinear(channels, hidden)
        self.out = EqualLinear(hidden, channels, gain=math.sqrt(2.0))

    def forward(self, x: Tensor) -> Tensor:
        """[N, L, C] -> [N, L, C]; the residual is the caller's."""
        return self.out(F.leaky_relu(self.inner(self.norm(x)), LEAK))


class AttentionBlock(nn.Module):
    """Self-attention, feed-forward and, where there are words, cross-attention and its feed-forward.

    Every branch is added with `gain` (0.3, V1) to the feature map.
    """

    def __init__(
        self,
        channels: int,
        head_dim: int,
        gain: float,
        width_multiplier: float = 1.0,
        mlp_ratio: float = 4.0,
        w_dim: int = 0,
        text_width: int = 0,
        cross_mlp: bool = True,
    ) -> None:
        """w_dim 0: no w token. text_width 0: no cross-attention."""
        super().__init__()
        inner = round(channels * width_multiplier)
        self.gain = gain
        self.self_attention = L2SelfAttention(channels, inner, head_dim, w_dim)
        self.feed_forward = FeedForward(channels, mlp_ratio)
        self.cross_attention = CrossAttention(channels, inner, head_dim, text_width) if text_width else None
        self.cross_feed_forward = FeedForward(channels, mlp_ratio) if text_width and cross_mlp else None

    def forward(self, x: Tensor, w: Tensor | None = None, words: TextCode | None = None) -> Tensor:
        """x [N, C, H, W] -> [N, C, H, W]; w [N, w_dim]; words: of N captions, for cross-attention."""
        size = tuple(x.shape[-2:])
        y = tokens(x)
        y = torch.add(y, self.self_attention(y, w).to(y.dtype), alpha=self.gain)
        y = torch.add(y, self.feed_forward(y).to(y.dtype), alpha=self.gain)
        if self.cross_attention is not None:
            y = torch.add(y, self.cross_attention(y, words.t_local, words.mask).to(y.dtype), alpha=self.gain)
        if self.cross_feed_forward is not None:
            y = torch.add(y, self.cross_feed_forward(y).to(y.dtype), alpha=self.gain)
        return from_tokens(y, size)


def split_attention_parameters(
    network: nn.Module,
) -> tuple[list[tuple[str, nn.Parameter]], list[tuple[str, nn.Parameter]]]:
    """(parameters of attention blocks, all others) as (name, parameter): weight decay differs (0.01 and 1e-5, V2).

    A whole block counts as attention, with its feed-forwards and norms, and the learned text encoder does not (I).
    """
    attention = {
        id(p) for m in network.modules() if isinstance(m, AttentionBlock) for p in m.parameters(recurse=True)
    }
    named = list(network.named_parameters())
    return [n for n in named if id(n[1]) in attention], [n for n in named if id(n[1]) not in attention]
