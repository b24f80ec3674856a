"""Floating point operations of a step, counted by what it really does."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_aten = torch.ops.aten


def _convolution_backward(
    grad: Tensor, x: Tensor, weight: Tensor, *args: Any, out_val: Any, **kwargs: Any
) -> int:
    """Each gradient that is asked for costs what the forward pass does.

    torch's own formula leaves the groups out, and so counts the gradient of the weights too large by the number of
    samples, where every sample has a kernel of its own.
    """
    transposed, output_mask = args[4], args[7]
    positions = x if transposed else grad
    macs = positions.shape[0] * positions.shape[2:].numel() * weight.numel()
    return 2 * macs * sum(output_mask[:2])  # of the input, of the weight; a bias costs no product


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> int:
    return sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape)


FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    _aten.convolution_backward: _convolution_backward,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""Operation -> FLOPs of (its arguments, out_val=its result); a product and a sum are two."""


class FlopMeter:
    """FLOPs of the steps since it was last read. Steps of one kind cost the same, so the first of each is counted."""

    def __init__(self) -> None:
        self._by_kind: dict[Hashable, int] = {}
        self._total = 0

    @contextmanager
    def step(self, kind: Hashable) -> Iterator[None]:
        """Around a step. kind: what is due in it; the same means as many operations. What is recomputed counts."""
        if kind not in self._by_kind:
            with torch.compiler.set_stance("force_eager"), _Counter() as counter:
                yield
            self._by_kind[kind] = counter.flops
        else:
            yield
        self._total += self._by_kind[kind]

    def read(self) -> int:
        """The sum, of this worker; begins anew."""
        total, self._total = self._total, 0
        return total


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        packet = getattr(function, "_overloadpacket", None)
        # The parts of a split tensor come by again, as ordinary ones.
        if packet in FORMULAS and not any(issubclass(kind, DTensor) for kind in types):
            self.flops += FORMULAS[packet](*args, **(kwargs or {}), out_val=result)
        return result
