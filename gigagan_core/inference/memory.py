"""How many images fit into memory at a time, and what to do when they did not."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from gigagan_core.errors import GigaganError
from gigagan_core.models.generator import Generator
from gigagan_core.models.settings import GeneratorSettings, UpsamplerSettings
from gigagan_core.models.upsampler import Upsampler

ResultT = TypeVar("ResultT")
LARGEST_BATCH = 64
_SHARE_OF_FREE = 0.5
_COUNTING = threading.Lock()  # the tracker replaces a method of torch while it counts
_WORDS = 77  # CLIP's context; other lengths make no difference beside the maps
_WORKSPACE = 1.5  # kernels take memory of their own beside the tensors that are counted


def batch_that_fits(network: nn.Module, memory_limit: float | None = None, tile: int | None = None) -> int:
    """The largest batch, up to `LARGEST_BATCH`, whose tensors stay within a limit.

    memory_limit: GiB of working memory, the weights not counted; None: half of what is free on the network's device.
    tile: side of an upsampler's input where it is another than it was trained with.
    Raises GigaganError where not even one image fits.
    """
    one = bytes_an_image(network.settings, tile)
    if memory_limit is None:
        limit = free_bytes(next(network.parameters()).device) * _SHARE_OF_FREE
    else:
        limit = memory_limit * 2**30
    if not 0 <= limit < math.inf:
        raise GigaganError(f"the memory limit is {memory_limit:g} GiB; give a number above 0")
    fits = int(limit // one)
    if fits < 1 and memory_limit is not None:
        raise GigaganError(
            f"one image takes about {one / 2**30:.3g} GiB of working memory, and the limit is {memory_limit:g} GiB; "
            "raise the limit"
        )
    return min(max(fits, 1), LARGEST_BATCH)


@functools.lru_cache(32)
def bytes_an_image(settings: GeneratorSettings | UpsamplerSettings, tile: int | None = None) -> int:
    """Working memory of one more image in a batch, float32: counted on tensors without values, with kernels' share."""
    with _COUNTING:
        one, two = (_peak(settings, count, tile) for count in (1, 2))
    return int((two - one) * _WORKSPACE)


def _peak(settings: GeneratorSettings | UpsamplerSettings, count: int, tile: int | None) -> int:
    from torch._subclasses.fake_tensor import FakeTensorMode

    from gigagan_core.models.text import TextCode
    from gigagan_core.planning.tracker import Tracker

    # They pose as CPU tensors: autocast does not know the meta device.
    with FakeTensorMode(), torch.no_grad():
        width = settings.text_width
        code = TextCode(
            torch.empty(count, _WORDS, width), torch.empty(count, width), torch.ones(count, _WORDS).bool()
        )
        inputs = [torch.empty(count, settings.w_dim), None if settings.conditioning == "none" else code]
        if isinstance(settings, UpsamplerSettings):
            side = tile or settings.low_size
            inputs.insert(0, torch.empty(count, 3, side, side))
            network = Upsampler(settings)
        else:
            network = Generator(settings)
        with Tracker() as tracker:
            tracker.enter_phase("synthesis")
            network.synthesise(*inputs)
    return tracker.phases["synthesis"].peak


def free_bytes(device: torch.device | str) -> int:
    """What a device has left for tensors."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or a CPU."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # The CPU's allocator has no error of its own.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def in_batches(
    rows: Tensor, batch_size: int, work: Callable[[Tensor], ResultT]
) -> Iterator[tuple[Tensor, ResultT]]:
    """(rows of a batch, work(rows)) for all rows (int64 [N]); the batch is halved where memory runs out.

    Raises GigaganError where a single one does not fit.
    """
    start = 0
    while start < len(rows):
        batch = rows[start : start + batch_size]
        try:
            result = work(batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            result = None
        if result is None:  # outside of the handler, which keeps the failed call's tensors alive
            release()
            batch_size = len(batch) // 2
            if not batch_size:
                raise OutOfMemory("memory ran out on a single image; free some, or use a smaller model")
            continue
        yield batch, result
        start += len(batch)


class OutOfMemory(GigaganError):
    """Not even one image fits."""


def release() -> None:
    """Give back what torch keeps of freed memory, after a call that did not fit."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
