"""The workers that share a training step.

Replicated networks stay unwrapped: gradients are averaged after the backward pass as one flat tensor, since hooks
of DistributedDataParallel do not support the double backward of R1. Those of `sharding` arrive averaged and split.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


@dataclass(frozen=True)
class World:
    """rank: this worker, 0 to size - 1. size: how many workers share each global batch.

    Every worker holds the contiguous slice `rank` of the global batch, all slices equally long.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def joined(cls) -> World:
        """The process group that the launcher made, or a world of one."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the workers; a missing gradient stays missing.

        Split gradients are left alone: they have been averaged in the backward pass.
        """
        if self.size == 1:
            return
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is not None and not isinstance(parameter.grad, DTensor):
                by_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
        for gradients in by_type.values():
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            dist.all_reduce(flat)
            flat /= self.size
            pieces = flat.split([gradient.numel() for gradient in gradients])
            for gradient, piece in zip(gradients, pieces, strict=True):
                gradient.copy_(piece.view_as(gradient))

    def mean(self, value: Tensor) -> Tensor:
        """The mean of `value` over the workers, without gradient."""
        if self.size == 1:
            return value.detach()
        total = value.detach().clone()
        dist.all_reduce(total)
        return total / self.size

    def gather(self, rows: Tensor) -> Tensor:
        """[n, ...] of this worker -> [size * n, ...] of all, in rank order, differentiable.

        For losses that compare each row with all rows: every worker computes the loss of the whole batch,
        and the gradient of this worker's rows comes back times `size`, so that averaging the workers'
        gradients gives exactly the gradient that one worker with the whole batch has.
        """
        if self.size == 1:
            return rows
        return _Gather.apply(rows, self.rank, self.size)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any worker; waits for all of them."""
        return any(self.collect(flag))

    def collect(self, value: Any) -> list[Any]:
        """Every worker's `value` (small and picklable), in rank order; waits for all of them."""
        if self.size == 1:
            return [value]
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values


def total_norm(tensors: list[Tensor]) -> Tensor:
    """The Euclidean norm of all tensors together; where some are split, every worker calls it and gets the same."""
    if not any(isinstance(tensor, DTensor) for tensor in tensors):
        return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
    parts = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    squares = torch.stack(torch._foreach_norm(parts)).square()
    split = torch.tensor([isinstance(tensor, DTensor) for tensor in tensors], device=squares.device)
    total = torch.where(split, squares, 0.0).sum()
    dist.all_reduce(total)
    return (total + torch.where(split, 0.0, squares).sum()).sqrt()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor, rank: int, size: int) -> Tensor:
        ctx.rank, ctx.size, ctx.rows = rank, size, len(rows)
        pieces = [torch.empty_like(rows) for _ in range(size)]
        dist.all_gather(pieces, rows.contiguous())
        return torch.cat(pieces)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None, None]:
        own = gradient[ctx.rank * ctx.rows : (ctx.rank + 1) * ctx.rows]
        return own * ctx.size, None, None
