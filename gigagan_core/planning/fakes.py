"""Tensors without values: a whole training step runs on them in seconds, at any size, without memory.

They pose as CPU tensors, since autocast and the backward pass of another device would want that device to be there.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.distributed.device_mesh import DeviceMesh

from gigagan_core.models import attention
from gigagan_core.training import recipes, sharding


class _FakeMode(FakeTensorMode):
    def __deepcopy__(self, memo: dict[int, Any]) -> _FakeMode:
        # A copied network (the average) stays in the same world.
        return self


def _layer_norm_as_on_gpu(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    # CUDA's autocast computes it in float32, the CPU's does not.
    return _layer_norm(x.float() if torch.is_autocast_enabled("cpu") else x, *args, **kwargs)


_layer_norm = F.layer_norm


def _mesh_of_real_numbers(device_type: str) -> DeviceMesh:
    # A mesh reads its ranks when it is made.
    with unset_fake_temporarily():
        return sharding.data_parallel_mesh(device_type)


@contextlib.contextmanager
def faking(as_on_gpu: bool = True) -> Iterator[FakeTensorMode]:
    """Within it every new tensor has shape and dtype, and no values; conditions on tensors are true.

    as_on_gpu: attention over few keys and layer norms as CUDA does them, else as the CPU does.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        if as_on_gpu:
            # There no count of keys is so small that attention is written out.
            stack.enter_context(mock.patch.object(attention, "_FEW_KEYS", 0))
            stack.enter_context(mock.patch.object(F, "layer_norm", _layer_norm_as_on_gpu))
        # They are where they shall be; torch would exchange each parameter for itself, and fail.
        stack.enter_context(mock.patch.object(nn.Module, "to", lambda module, *args, **kwargs: module))
        stack.enter_context(mock.patch.object(recipes, "data_parallel_mesh", _mesh_of_real_numbers))
        # "Is every gradient finite?"
        stack.enter_context(mock.patch.object(FakeTensor, "__bool__", return_value=True))
        yield stack.enter_context(_FakeMode(allow_non_fake_inputs=False))


@contextlib.contextmanager
def fake_workers(count: int) -> Iterator[None]:
    """A process group of `count` workers of which this process is the first, and the others answer nothing."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if count == 1:
        yield
        return
    dist.init_process_group("fake", rank=0, world_size=count, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()
