"""The learned text encoder T on top of a frozen encoder's token features (paper, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gigagan_core.models.attention import FeedForward, merge_heads, split_heads
from gigagan_core.models.layers import EqualLinear


class TextFeatures(NamedTuple):
    """What a frozen encoder says about N captions of at most L tokens."""

    features: Tensor  # [N, L, C] float32
    eot_index: Tensor  # [N] int64: position of the end-of-text token
    mask: Tensor  # [N, L] bool: True where a token is present, False on padding

    def index(self, rows: Tensor) -> TextFeatures:
        """The captions `rows` (int64 [M]), for instance a derangement of the batch."""
        return TextFeatures(self.features[rows], self.eot_index[rows], self.mask[rows])


class TextCode(NamedTuple):
    """What the generator sees of N captions."""

    t_local: Tensor  # [N, L, D]: word descriptors, for cross-attention
    t_global: Tensor  # [N, D]: sentence descriptor, for the mapping network
    mask: Tensor  # [N, L] bool: True at words (at least one each); end-of-text and padding are False

    def index(self, rows: Tensor) -> TextCode:
        """The captions `rows` (int64 [M])."""
        return TextCode(self.t_local[rows], self.t_global[rows], self.mask[rows])


class TextEncoder(nn.Module):
    """T: a transformer over all tokens; t_local is its output at the words, t_global at end-of-text (V1).

    Features are normalised on the way in (the residual stream of a CLIP has a few huge channels) and codes on the
    way out, both without parameters. Positions are already in the frozen features. Depth 0 only selects.
    """

    def __init__(
        self, feature_dim: int, width: int, depth: int, head_dim: int, mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        self.project = EqualLinear(feature_dim, width) if feature_dim != width else nn.Identity()
        self.layers = nn.ModuleList(_TextLayer(width, head_dim, mlp_ratio) for _ in range(depth))

    def forward(self, text: TextFeatures) -> TextCode:
        """N captions of L tokens with C features -> TextCode of width D. What stands at padding has no effect."""
        eot = F.one_hot(text.eot_index, text.mask.shape[1]).bool()
        present = text.mask | eot
        x = text.features.masked_fill(~present[..., None], 0.0)
        x = self.project(F.layer_norm(x, x.shape[-1:]))
        for layer in self.layers:
            x = layer(x, present)
        x = F.layer_norm(x, x.shape[-1:]).masked_fill(~present[..., None], 0.0)
        t_global = x[torch.arange(x.shape[0], device=x.device), text.eot_index]
        words = present & ~eot
        # An empty caption has no word; attention over nothing is NaN, so end-of-text then stands in.
        return TextCode(x, t_global, torch.where(words.any(dim=1, keepdim=True), words, present))


class _TextLayer(nn.Module):
    def __init__(self, width: int, head_dim: int, mlp_ratio: float) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.norm = nn.LayerNorm(width)
        self.query_key_value = EqualLinear(width, 3 * width)
        self.out = EqualLinear(width, width)
        self.feed_forward = FeedForward(width, mlp_ratio)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        """x [N, L, D], present bool [N, L] -> [N, L, D]."""
        query, key, value = (
            split_heads(part, self.head_dim) for part in self.query_key_value(self.norm(x)).chunk(3, dim=-1)
        )
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=present[:, None, None])
        x = x + self.out(merge_heads(y))
        return x + self.feed_forward(x)
