"""What a loss curve does not show: whether kernels and attention still choose, and how far the average lags behind.

An entropy is divided by its largest possible value: 1 means that all kernels or all keys count alike (nothing is
chosen), 0 that one of them has it all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gigagan_core.models.adaptive_conv import AdaptiveConv2d
from gigagan_core.models.attention import CrossAttention, L2SelfAttention
from gigagan_core.training.world import total_norm

SAMPLES = 2
"""Of a batch, whose attention weights are written out: they take L x L numbers a head."""


@torch.no_grad()
def entropies(network: nn.Module, run: Callable[[], Any], name: str) -> dict[str, Tensor]:
    """Mean entropy, in [0, 1], of every kernel selection and every attention that `run()` passes through.

    network: holds the layers. run: a forward pass of it, whatever its arguments. name: begins the metrics' names, such
    as ``entropy/generator/kernels/stages.2.blocks.0.convs.0``.
    """
    found: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for path, module in network.named_modules():
            for of, (kind, entropy) in _MEASURES.items():
                if not isinstance(module, of):
                    continue
                keep = _keep(found, f"entropy/{name}/{kind}/{path}", entropy)
                hooks.enter_context(_before(module, keep))
        run()
    return found


@contextmanager
def _before(module: nn.Module, hook: Callable[..., None]) -> Iterator[None]:
    handle = module.register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _keep(found: dict[str, Tensor], name: str, entropy: Callable[..., Tensor | None]) -> Callable[..., None]:
    def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
        value = entropy(module, *given)
        if value is not None:
            found[name] = value

    return hook


def _of_kernels(conv: AdaptiveConv2d, x: Tensor, w: Tensor, *_: Any) -> Tensor | None:
    selection = conv.coefficients(w)[1]
    if selection is None:
        return None
    return relative_entropy(selection, torch.tensor(selection.shape[-1], device=w.device))


def _of_self_attention(attention: L2SelfAttention, x: Tensor, w: Tensor | None = None) -> Tensor:
    weights = attention.weights(x[:SAMPLES], None if w is None else w[:SAMPLES])
    return relative_entropy(weights, torch.tensor(weights.shape[-1], device=x.device))


def _of_cross_attention(attention: CrossAttention, x: Tensor, words: Tensor, mask: Tensor) -> Tensor:
    weights = attention.weights(x[:SAMPLES], words[:SAMPLES], mask[:SAMPLES])
    return relative_entropy(weights, mask[:SAMPLES].sum(dim=-1)[:, None, None])


def relative_entropy(weights: Tensor, count: Tensor) -> Tensor:
    """Mean of -sum p ln p / ln(count) over all rows of `weights` [..., S], which sum to 1. Scalar in [0, 1].

    count: how many choices there were, broadcast over the rows; a row with one choice counts as 0.
    """
    entropy = torch.special.entr(weights).sum(dim=-1)
    return torch.where(count > 1, entropy / count.clamp(min=2).log(), 0.0).mean()


@torch.no_grad()
def relative_distance(average: nn.Module, network: nn.Module) -> Tensor:
    """|average - network| / |network| over all parameters, Euclidean, also where workers share them. Scalar."""
    theirs = [parameter.detach() for parameter in network.parameters()]
    difference = torch._foreach_sub([parameter.detach() for parameter in average.parameters()], theirs)
    return total_norm(difference) / total_norm(theirs)


_MEASURES: dict[type[nn.Module], tuple[str, Callable[..., Tensor | None]]] = {
    AdaptiveConv2d: ("kernels", _of_kernels),
    L2SelfAttention: ("self_attention", _of_self_attention),
    CrossAttention: ("cross_attention", _of_cross_attention),
}
