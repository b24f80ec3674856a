"""How long a model takes, and how much memory: text encoder, base and upsampler apart, by batch size.

A call is timed from the caller's side, with the device idle before and done after it. CUDA queues work, so a time
without synchronising would be that of the queueing.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gigagan_core.errors import GigaganError
from gigagan_core.inference.memory import is_out_of_memory, release
from gigagan_core.inference.places import find_device
from gigagan_core.models.randomness import keyed_normal
from gigagan_core.models.synthesis import keyed_noise

if TYPE_CHECKING:
    from gigagan_core.encoders.protocol import Encoder

TEXT, BASE, UPSAMPLER, ALL = "text encoder", "base", "upsampler", "all"
CAPTION = "a red apple on a wooden table"
_MIB = 2**20


@dataclass(frozen=True)
class Timing:
    """One part at one batch size.

    p50, p95, mean: seconds a call. throughput: images a second at the mean. All None where the batch did not fit into
    memory. calls: timed ones. peak_mib: the part's own weights and what its calls took beside them (CPU: resident;
    CUDA: allocated by torch); None where it did not fit or the system does not tell. device: as torch names it.
    """

    part: str
    batch: int
    p50: float | None
    p95: float | None
    mean: float | None
    throughput: float | None
    calls: int
    peak_mib: float | None
    device: str

    @property
    def fits(self) -> bool:
        """Whether the batch fitted into memory, so that there are times."""
        return self.mean is not None


@dataclass(frozen=True)
class Timings:
    """What was timed where. device: its name; threads: that torch computes with on a CPU."""

    timings: list[Timing]
    device: str
    threads: int

    def as_json(self) -> dict[str, Any]:
        """JSON-able, with the machine that these times belong to."""
        from gigagan_core.store.provenance import machine, packages

        return {
            "device": self.device,
            "threads": self.threads,
            "timings": [asdict(timing) for timing in self.timings],
            "machine": machine(),
            "packages": packages(),
        }


def time_models(
    base: Path | str,
    upsampler: Path | str | None,
    encoder: str,
    *,
    batches: Sequence[int],
    captions: Sequence[str] = (CAPTION,),
    device: str | None = None,
    calls: int = 20,
    warm_up: int = 3,
    on_part: Callable[[int], None] = lambda done: None,
) -> Timings:
    """Times of model bundles, loaded for it.

    base, upsampler: bundles, or artifacts' folders that hold one. encoder: what `load_encoder` takes. device: "cpu",
    "cuda", ...; None: CUDA where there is one. Raises GigaganError for a device that is not there, and as `measure`.
    """
    from gigagan_core.encoders.open_clip_encoder import load_encoder
    from gigagan_core.training.checkpoint import load_bundle

    place = torch.device(find_device(device))
    generator = load_bundle(base, place)[0]
    large = None if upsampler is None else load_bundle(upsampler, place)[0]
    frozen = load_encoder(encoder, place)
    for tensor in frozen.parameters():
        tensor.sum()  # mapped from its file until it is read, which must not count as the first call's memory
    timings = measure(
        parts(generator, large, frozen, captions),
        batches,
        place,
        weights=weight_bytes(generator, large, frozen),
        warm_up=warm_up,
        calls=calls,
        on_part=on_part,
    )
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else str(place)
    return Timings(timings, name, torch.get_num_threads())


def as_metrics(timings: Sequence[Timing]) -> dict[str, float]:
    """For the records: ``latency/<part>/batch<N>/<figure>``; times in seconds, memory in MiB."""
    named: dict[str, float] = {}
    for timing in timings:
        place = f"latency/{timing.part.replace(' ', '-')}/batch{timing.batch}"
        for figure in ("p50", "p95", "throughput", "peak_mib"):
            value = getattr(timing, figure)
            if value is not None:
                named[f"{place}/{figure}"] = value
    return named


def parts(
    base: nn.Module | None, upsampler: nn.Module | None, encoder: Encoder, captions: Sequence[str]
) -> dict[str, Callable[[int], Callable[[], Any]]]:
    """What is timed, by name: each takes a batch size, prepares what comes before it, and gives the call.

    base, upsampler: generators on one device with the encoder, or None. captions: drawn from in turn. "base" and
    "upsampler" are given the frozen text features; their own learned text encoders count as theirs. "all": from
    captions to large images, where the two fit.
    """
    found: dict[str, Callable[[int], Callable[[], Any]]] = {}

    def batch_of(size: int) -> list[str]:
        return [captions[row % len(captions)] for row in range(size)]

    def text(size: int) -> Callable[[], Any]:
        chosen = batch_of(size)
        return lambda: encoder.text_tokens(encoder.tokenize(chosen))

    found[TEXT] = text
    if base is not None:
        found[BASE] = lambda size: _generating(base, text(size)(), size)
    if upsampler is not None:
        found[UPSAMPLER] = lambda size: _enlarging(upsampler, text(size)(), size)
    if base is not None and upsampler is not None and _fit(base, upsampler):
        found[ALL] = lambda size: _whole(base, upsampler, text(size), size)
    return found


def weight_bytes(base: nn.Module | None, upsampler: nn.Module | None, encoder: nn.Module) -> dict[str, int]:
    """Bytes of the networks that each of the `parts` runs."""
    own = {
        name: sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
        for name, network in ((TEXT, encoder), (BASE, base), (UPSAMPLER, upsampler))
        if network is not None
    }
    return {**own, ALL: sum(own.values())}


def _fit(base: nn.Module, upsampler: nn.Module) -> bool:
    return base.settings.image_size == upsampler.settings.low_size


def _generating(network: nn.Module, features: Any, size: int) -> Callable[[], Tensor]:
    latents, noise = _latents(network, size)
    return lambda: network(latents, features, noise)[0]


def _enlarging(network: nn.Module, features: Any, size: int) -> Callable[[], Tensor]:
    latents, noise = _latents(network, size)
    side = network.settings.low_size
    low = keyed_normal(0, "latency/low", torch.arange(size), (3, side, side)).to(latents.device).clamp(-1, 1)
    given = features if network.settings.text_conditioned else None
    return lambda: network(low, latents, given, noise)[0]


def _whole(base: nn.Module, upsampler: nn.Module, text: Callable[[], Any], size: int) -> Callable[[], Tensor]:
    latents, noise = _latents(base, size)
    more, more_noise = _latents(upsampler, size)
    conditioned = upsampler.settings.text_conditioned

    def call() -> Tensor:
        features = text()
        low = base(latents, features, noise)[0].clamp(-1, 1)
        return upsampler(low, more, features if conditioned else None, more_noise)[0]

    return call


def _latents(network: nn.Module, size: int) -> tuple[Tensor, Any]:
    device = next(network.parameters()).device
    indices = torch.arange(size, device=device)
    return keyed_normal(0, "latency/z", indices, (network.settings.z_dim,)), keyed_noise(0, indices)


@torch.inference_mode()
def measure(
    named: dict[str, Callable[[int], Callable[[], Any]]],
    batches: Sequence[int],
    device: torch.device | str,
    *,
    weights: Mapping[str, int] | None = None,
    warm_up: int = 2,
    calls: int = 20,
    on_part: Callable[[int], None] = lambda done: None,
) -> list[Timing]:
    """Every part at every batch size, parts in order; one that does not fit into memory has a row without times.

    weights: bytes of the networks that a part runs, counted into its memory. warm_up: calls before the first timed one.
    Raises GigaganError for a batch size below 1.
    """
    device, found = torch.device(device), []
    if min(batches, default=1) < 1 or calls < 1:
        raise GigaganError("latency needs batch sizes and calls of at least 1; write for example --batch 1,8")
    for part, prepare in named.items():
        own = (weights or {}).get(part, 0)
        for batch in batches:
            timing = None
            try:
                timing = _timed(part, prepare, batch, device, own, warm_up, calls)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
            if timing is None:  # outside of the handler, which keeps the failed call's tensors alive
                release()
                timing = Timing(part, batch, None, None, None, None, 0, None, str(device))
            found.append(timing)
            on_part(1)
    return found


def _timed(
    part: str,
    prepare: Callable[[int], Callable[[], Any]],
    batch: int,
    device: torch.device,
    weights: int,
    warm_up: int,
    calls: int,
) -> Timing:
    call = prepare(batch)
    memory = PeakMemory(device, weights)
    for _ in range(max(1, warm_up)):
        call()
    seconds = torch.tensor(list(_seconds(call, device, calls)), dtype=torch.float64)
    p50, p95 = seconds.quantile(torch.tensor([0.5, 0.95], dtype=torch.float64)).tolist()
    mean = float(seconds.mean())
    return Timing(part, batch, p50, p95, mean, batch / mean, calls, memory.mib(), str(device))


def _seconds(call: Callable[[], Any], device: torch.device, calls: int) -> Iterator[float]:
    for _ in range(calls):
        _wait_for(device)
        started = time.perf_counter()
        call()
        _wait_for(device)
        yield time.perf_counter() - started


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


class PeakMemory:
    """The most memory that is held from here on, above what is held now, and the weights of what runs.

    weights: bytes. Other networks may be loaded beside, so what is held now says nothing of this one. On a CPU the rest
    is the process's resident memory: Linux resets its peak on request (proc(5), clear_refs). What malloc keeps of
    earlier work is given back first, else it would hide as much of ours.
    """

    def __init__(self, device: torch.device, weights: int = 0):
        self._device, self._weights = device, weights
        if device.type == "cuda":
            _wait_for(device)
            torch.cuda.reset_peak_memory_stats(device)
            self._before: int | None = torch.cuda.memory_allocated(device)
        else:
            self._before = _reset_resident()

    def mib(self) -> float | None:
        """The peak so far, MiB."""
        if self._device.type == "cuda":
            peak: int | None = torch.cuda.max_memory_allocated(self._device)
        else:
            peak = _status("VmHWM")
        if peak is None or self._before is None:
            return None
        return (self._weights + max(0, peak - self._before)) / _MIB


def _reset_resident() -> int | None:
    """Resident bytes now, after which the peak counts from here; None where the system does not allow it."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return None
    return _status("VmRSS")


def _status(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
