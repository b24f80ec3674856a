"""Random numbers keyed by (seed, purpose, global sample index): no generator, no state, no rank.

A counter-based hash (splitmix64) gives every sample its own stream, so a batch may be split over any number of
workers, or drawn again after a restart, and each sample meets the same numbers, bit for bit. For that reason the
logarithm and the cosine below use only + - * / and square root: library functions may round differently at the
end of a vector, or on another device.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def keyed_bits(seed: int | Sequence[int], purpose: str, indices: Tensor, count: int) -> Tensor:
    """int64 [N, count] of uniform bits; row n depends on (its seed, purpose, indices[n]) only.

    seed: of all rows, or N of them. indices: int64 [N], global sample indices. purpose: a name; different names give
    independent streams.
    """
    if indices.dtype != torch.int64 or indices.dim() != 1:
        raise ValueError(f"indices must be int64 [N], not {indices.dtype} {list(indices.shape)}")
    if isinstance(seed, Sequence):
        if len(seed) != len(indices):
            raise ValueError(f"{len(seed)} seeds for {len(indices)} samples")
        streams = [_key_and_offset(one, purpose) for one in seed]
        key, offset = torch.tensor(streams, dtype=torch.int64, device=indices.device).reshape(-1, 2).unbind(1)
    else:
        key, offset = _key_and_offset(seed, purpose)
    stream = splitmix(splitmix(indices ^ key) + offset)
    counter = torch.arange(1, count + 1, dtype=torch.int64, device=indices.device) * _GAMMA
    return splitmix(stream[:, None] + counter)


def _key_and_offset(seed: int, purpose: str) -> tuple[int, int]:
    digest = hashlib.sha256(f"{seed}/{purpose}".encode()).digest()
    return tuple(_signed(int.from_bytes(digest[at : at + 8], "little")) for at in (0, 8))


def keyed_uniform(
    seed: int, purpose: str, indices: Tensor, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32
) -> Tensor:
    """[N, *shape], uniform on the open interval (0, 1) before the cast to `dtype`; on the device of `indices`."""
    bits = keyed_bits(seed, purpose, indices, math.prod(shape))
    return _unit(bits).reshape(len(indices), *shape).to(dtype)


def keyed_normal(
    seed: int | Sequence[int],
    purpose: str,
    indices: Tensor,
    shape: Sequence[int] = (),
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """[N, *shape] drawn from N(0, 1) in float64 (Box-Muller), then cast; on the device of `indices`.

    seed: of all rows, or N of them.
    """
    count = math.prod(shape)
    pairs = (count + 1) // 2
    bits = keyed_bits(seed, purpose, indices, 2 * pairs)
    radius = torch.sqrt(-2.0 * _log(_unit(bits[:, :pairs])))
    cosine, sine = _cos_sin_turns(_unit(bits[:, pairs:]))
    normal = torch.cat([radius * cosine, radius * sine], dim=1)[:, :count]
    return normal.reshape(len(indices), *shape).to(dtype)


def keyed_permutation(seed: int, purpose: str, indices: Tensor, block: int | None = None) -> Tensor:
    """int64 [N]: a random permutation of positions that stays inside contiguous blocks of `block` samples.

    block: None takes the whole batch as one; else it must divide N. Blocks do not cross a worker's batch, so
    how many workers share a global batch does not change who meets whom.
    """
    return _order(seed, purpose, indices, block).flatten()


def keyed_derangement(seed: int, purpose: str, indices: Tensor, block: int | None = None) -> Tensor:
    """int64 [N]: a random cycle within each block, so that no position keeps its own (block of at least 2).

    out[n] is the position whose caption sample n is to meet. A block of one cannot be deranged: it maps to
    itself, and the matching loss masks it like any pair of equal captions.
    """
    order = _order(seed, purpose, indices, block)
    successor = torch.empty_like(order).flatten()
    successor[order.flatten()] = order.roll(-1, dims=1).flatten()
    return successor


def _order(seed: int, purpose: str, indices: Tensor, block: int | None) -> Tensor:
    size = len(indices)
    block = size if block is None else block
    if size == 0 or block < 1 or size % block:
        raise ValueError(f"a batch of {size} samples does not split into blocks of {block}")
    bits = keyed_bits(seed, purpose, indices, 1).view(-1, block)
    starts = torch.arange(0, size, block, device=indices.device)
    return bits.argsort(dim=1, stable=True) + starts[:, None]


def splitmix(x: Tensor) -> Tensor:
    """splitmix64's finaliser: int64 of any shape -> as many well mixed bits."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    # int64 >> keeps the sign; the mask makes it a logical shift.
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _unit(bits: Tensor) -> Tensor:
    # 52 bits and a half step: exactly representable, never 0 and never 1.
    return (_shift(bits, 12).to(torch.float64) + 0.5) * 2.0**-52


def _log(x: Tensor) -> Tensor:
    """Natural logarithm of float64 x > 0: x = m 2^e, log m = 2 artanh((m - 1) / (m + 1)), |s| < 0.172."""
    mantissa, exponent = torch.frexp(x)
    small = mantissa < math.sqrt(0.5)
    mantissa = torch.where(small, 2.0 * mantissa, mantissa)
    exponent = (exponent - small.to(exponent.dtype)).to(torch.float64)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = torch.full_like(s, 1.0 / 21.0)
    for k in range(19, 0, -2):
        series = series * square + 1.0 / k
    return exponent * math.log(2.0) + 2.0 * s * series


def _cos_sin_turns(turns: Tensor) -> tuple[Tensor, Tensor]:
    """cos(2 pi t) and sin(2 pi t) for float64 t in (0, 1): Taylor series on an eighth of a turn either side."""
    quarter = torch.floor(turns * 4.0 + 0.5)
    angle = (turns - quarter * 0.25) * (2.0 * math.pi)
    square = angle * angle
    cosine = torch.full_like(angle, 1.0 / math.factorial(18))
    sine = torch.full_like(angle, 1.0 / math.factorial(19))
    for k in range(16, -1, -2):
        cosine = 1.0 / math.factorial(k) - cosine * square
        sine = 1.0 / math.factorial(k + 1) - sine * square
    sine = sine * angle
    quarter = quarter.to(torch.int64) & 3
    swap = (quarter & 1).bool()
    cosine, sine = torch.where(swap, sine, cosine), torch.where(swap, cosine, sine)
    cosine = torch.where((quarter == 1) | (quarter == 2), -cosine, cosine)
    sine = torch.where(quarter >= 2, -sine, sine)
    return cosine, sine
