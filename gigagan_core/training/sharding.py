"""Networks whose weights, gradients and optimiser state are split over the workers (FSDP2).

A unit (`sharding_units`) is gathered whole before it runs and split again after; its gradients are averaged and
split as its backward pass ends. Everything here but `sharding_units` is collective: every worker calls it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

# What the steps call on a network, besides the network itself.
_ENTRANCES = ("encode", "map", "synthesise", "features", "predict", "predict_vision")


def sharding_units(network: nn.Module) -> list[nn.Module]:
    """The parts that are gathered one at a time: each child, and each member of a list of stages or predictors.

    What is left (a generator's learned constant) belongs to the network itself, which is the last unit.
    """
    units: list[nn.Module] = []
    for child in network.children():
        units += child if isinstance(child, nn.ModuleList) else [child]
    # A scale without predictions has no predictor.
    return [unit for unit in units if unit is not None and any(True for _ in unit.parameters())] + [network]


def data_parallel_mesh(device_type: str) -> DeviceMesh:
    """All workers in one row. device_type: "cuda" or "cpu"; the launcher has made the process group."""
    return init_device_mesh(device_type, (dist.get_world_size(),))


def shard(network: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Split the network's parameters over the mesh, in place; buffers stay whole on every worker.

    The weights must be equal on all workers: each keeps its part, nothing is sent. Those of a network on the
    meta device stay there; others move to the mesh's device. Weights keep their type, and gradients are averaged
    in it, so that the arithmetic is that of whole networks.
    """
    # Feature maps leave as views of tokens; nothing is done to them in place, which the warning is about.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    for unit in sharding_units(network):
        # Also the network itself is split again after its forward pass: what runs without gradient (the
        # discriminator's fakes) has no backward pass that would do it, and the optimiser sees split weights.
        fully_shard(
            unit,
            mesh=mesh,
            reshard_after_forward=True,
            shard_placement_fn=lambda parameter: Shard(split_dimension(parameter.shape, mesh.size())),
        )
    for name in _ENTRANCES:
        if hasattr(network, name):
            register_fsdp_forward_method(network, name)
    return network


def split_dimension(shape: torch.Size, workers: int) -> int:
    """Along which dimension a parameter is split: the first that divides evenly, else 0, which need not.

    A bank of kernels [N, out, in, k, k] has fewer kernels than there are workers: split along N, most workers
    would hold nothing and the first ones everything.
    """
    return next((dim for dim, size in enumerate(shape) if size and size % workers == 0), 0)


def keep_gathered(network: nn.Module, keep: bool) -> None:
    """Whether the weights stay whole after a backward pass, until the next one or `settle`.

    A penalty on gradients needs it: its second backward pass reads weights that the first one has gathered.
    """
    if isinstance(network, FSDPModule):
        network.set_reshard_after_backward(not keep)


def settle(network: nn.Module) -> None:
    """Split what is still whole: an optimiser step on split weights would not be seen by gathered ones."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@contextmanager
def training_only(networks: dict[str, nn.Module], name: str) -> Iterator[None]:
    """While the block runs, gradients are taken for the weights of one network; the others take part frozen.

    At its end what is still gathered is split again. Raises RuntimeError where a gradient was left in it.
    """
    frozen = [
        parameter
        for other, network in networks.items()
        if other != name
        for parameter in network.parameters()
        if parameter.requires_grad
    ]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        yield
        _check_nothing_left(networks[name])
    finally:
        settle(networks[name])
        for parameter in frozen:
            parameter.requires_grad_(True)


def _check_nothing_left(network: nn.Module) -> None:
    """A backward pass that reaches no output of a unit, as a penalty's may, leaves its gradients for the next one."""
    if not is_sharded(network):
        return
    for name, parameter in network.named_parameters():
        if not isinstance(parameter, DTensor) and parameter.grad is not None:
            raise RuntimeError(f"the gradient of {name} was not shared: let a term without penalty come last")


def local(tensor: Tensor) -> Tensor:
    """This worker's part of a split tensor, sharing its memory; another tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """`function` on every tensor of nested dicts, lists and tuples; the rest as it is."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: map_tensors(function, value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(map_tensors(function, value) for value in tree)
    return tree


def gather(tree: Any) -> Any:
    """Split tensors made whole in rank 0's CPU memory, one at a time; None in their place on other ranks."""

    def whole(tensor: Tensor) -> Tensor | None:
        if not isinstance(tensor, DTensor):
            return tensor
        full = tensor.detach().full_tensor()
        return full.cpu() if dist.get_rank() == 0 else None

    return map_tensors(whole, tree)


def split_like(whole: Tensor, pattern: Tensor) -> Tensor:
    """This worker's part of a whole tensor, where `pattern` is split and has its shape; else all of it.

    A copy, on the pattern's device. Nothing is sent: every worker has the whole one.
    """
    if not isinstance(pattern, DTensor) or whole.shape != pattern.shape:
        return whole.to(pattern.device, copy=True)
    part = distribute_tensor(whole, pattern.device_mesh, pattern.placements, src_data_rank=None)
    return part.clone()  # of the part alone: it may be a view of the whole


def is_sharded(network: nn.Module) -> bool:
    """Whether `shard` has split it."""
    return isinstance(network, FSDPModule)


def gathered(network: nn.Module) -> nn.Module | None:
    """The network with whole weights on rank 0, on its device (a copy, where it is split); None on other ranks."""
    if not is_sharded(network):
        return network
    weights = gather(network.state_dict())
    if dist.get_rank() != 0:
        return None
    plain = next(kind for kind in type(network).__mro__ if not issubclass(kind, FSDPModule))
    with torch.device("meta"):
        whole = plain(network.settings)
    whole.load_state_dict(weights, assign=True)
    device = local(next(network.parameters())).device
    return whole.to(device).train(network.training).requires_grad_(False)
