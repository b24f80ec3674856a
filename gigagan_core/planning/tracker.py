"""What the operations of a step do: FLOPs, bytes held at every moment, bytes between workers."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gigagan_core.training.flops import FORMULAS

OTHER = "other"
"""Holder of what no block of a network made."""

_aten = torch.ops.aten


_CONVOLUTIONS = {_aten.convolution, _aten.convolution_backward}
_PRECISIONS = {torch.bfloat16: "bfloat16", torch.float32: "float32", torch.float64: "float64"}


@dataclass
class Phase:
    """A part of the step. Bytes are those on this worker.

    flops: by (holder, precision); tf32 is a convolution of float32 numbers, which torch lets the tensor cores do.
    peak: bytes held at the fullest moment. held: then, by holder. traffic: bytes of each kind of collective.
    """

    flops: Counter[tuple[str, str]] = field(default_factory=Counter)
    peak: int = 0
    held: Counter[str] = field(default_factory=Counter)
    traffic: Counter[str] = field(default_factory=Counter)


class Tracker(TorchDispatchMode):
    """Counts while it is entered. Every storage counts once, under the holder that was at work when it came.

    granularity: bytes are rounded up to a multiple of it (512 is that of CUDA's allocator).
    """

    def __init__(self, granularity: int = 1) -> None:
        super().__init__()
        self.phases: dict[str, Phase] = {}
        self._phase = Phase()
        self._granularity = granularity
        self._holder = OTHER
        self._known: dict[int, tuple[weakref.ref[Any], str, int]] = {}
        self.held: Counter[str] = Counter()
        self._total = 0

    # ---- what is going on ---------------------------------------------------------------------------

    def enter_phase(self, name: str) -> None:
        """What follows counts towards the phase `name`, until the next one."""
        self._phase = self.phases.setdefault(name, Phase())
        self._holder = OTHER
        self._look()

    @contextmanager
    def holding(self, holder: str) -> Iterator[None]:
        """What is made meanwhile belongs to `holder`."""
        before, self._holder = self._holder, holder
        try:
            yield
        finally:
            self._holder = before

    @contextmanager
    def watching(self, module: nn.Module, holder: str) -> Iterator[None]:
        """What is made while the module runs belongs to `holder`, in a recomputation too."""
        before: list[str] = []

        def start(*_: Any) -> None:
            before.append(self._holder)
            self._holder = holder

        def end(*_: Any) -> None:
            self._holder = before.pop()

        hooks = (
            module.register_forward_pre_hook(start),
            module.register_forward_hook(end, always_call=True),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    # ---- bytes --------------------------------------------------------------------------------------

    def __enter__(self) -> Tracker:
        """Start counting."""
        tracker, resize = self, torch.UntypedStorage.resize_

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            tracker._resized(storage)
            return result

        # Sharded weights come and go in storages that stay: no operation tells of it.
        self._patch = mock.patch.object(torch.UntypedStorage, "resize_", resized)
        self._patch.start()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        """Stop counting."""
        super().__exit__(*error)
        self._patch.stop()

    def _resized(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        holder = self._known[key][1] if key in self._known else self._holder
        self._forget(key)
        self._take(storage, holder)

    def claim(self, tensors: Iterable[Tensor | None], holder: str) -> None:
        """These tensors' storages belong to `holder` from now on, known before or not."""
        with self.holding(holder):
            for tensor in tensors:
                if tensor is not None:
                    self._forget(_storage(tensor)._cdata)
                    self._hold(tensor)

    def _hold(self, tensor: Tensor) -> None:
        storage = _storage(tensor)
        if storage._cdata not in self._known:
            self._take(storage, self._holder)

    def _take(self, storage: torch.UntypedStorage, holder: str) -> None:
        key = storage._cdata
        size = -(-storage.nbytes() // self._granularity) * self._granularity
        # The reference's callback speaks of the storage, not of one Python name of it.
        reference = weakref.ref(storage, lambda _: self._forget(key))
        self._known[key] = reference, holder, size
        self.held[holder] += size
        self._total += size
        self._look()

    def _forget(self, key: int) -> None:
        if key in self._known:
            _, holder, size = self._known.pop(key)
            self.held[holder] -= size
            self._total -= size

    def _look(self) -> None:
        if self._total > self._phase.peak:
            self._phase.peak, self._phase.held = self._total, self.held.copy()

    # ---- operations ---------------------------------------------------------------------------------

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and take notes."""
        result = function(*args, **(kwargs or {}))
        if any(issubclass(kind, DTensor) for kind in types):
            return result  # its parts come by again, as ordinary tensors
        packet = getattr(function, "_overloadpacket", None)
        if packet in FORMULAS:
            flops = FORMULAS[packet](*args, **(kwargs or {}), out_val=result)
            self._phase.flops[self._holder, _precision(packet, args)] += flops
        elif "c10d" in function.namespace and packet.__name__ != "wait_tensor":
            self._phase.traffic[packet.__name__.strip("_")] += _whole_bytes(*args, result)
        for leaf in (result,) if isinstance(result, Tensor) else tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._hold(leaf)
        return result


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage()


def _precision(packet: Any, args: tuple[Any, ...]) -> str:
    dtype = next(leaf.dtype for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
    if dtype == torch.float32 and packet in _CONVOLUTIONS:
        return "tf32"
    return _PRECISIONS[dtype]


def _whole_bytes(*given: Any) -> int:
    """Of what a collective reduces, gathers or splits: the largest of its arguments and its result."""
    return max(sum(t.nbytes for t in tree_leaves(each) if isinstance(t, Tensor)) for each in given)
