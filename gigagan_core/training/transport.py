"""Files that travel to a machine with torch alone and back: small, summed, and written by the standard library.

A folder has an index, a JSON file that is written last; it names every other file with its size and sha256.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gigagan_core.errors import GigaganError
from gigagan_core.store.fingerprint import digest

PART_BYTES = 16_000_000
"""The largest file that is written; what is longer lies in several."""

Part = dict[str, Any]


def write_parts(folder: Path, name: str, content: bytes | bytearray) -> list[Part]:
    """Write ``name.000``, ``name.001`` ... and return what the index says of them: file, bytes, sha256."""
    parts = []
    for number, start in enumerate(range(0, max(len(content), 1), PART_BYTES)):
        piece = memoryview(content)[start : start + PART_BYTES]
        parts.append(write_file(folder / f"{name}.{number:03d}", piece))
    return parts


def write_file(path: Path, content: bytes | bytearray | memoryview) -> Part:
    """One file, on the disk when this returns, and what the index says of it."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def read_parts(folder: Path, parts: Sequence[Part]) -> bytearray:
    """What was written, whole. Raises GigaganError where a file is missing or is another."""
    content = bytearray()
    for part in parts:
        path = folder / part["file"]
        if not path.is_file():
            raise GigaganError(f"{path} is missing; copy the whole folder again")
        piece = path.read_bytes()
        if hashlib.sha256(piece).hexdigest() != part["sha256"]:
            raise GigaganError(
                f"{path} is damaged: its sha256 is not the one that its folder's index names; copy it again"
            )
        content += piece
    return content


def write_index(path: Path, body: Mapping[str, Any]) -> str:
    """Write the index in one step, sealed by its own sum, which is returned."""
    # As it will be read: a tuple is a list then, and has another sum
    body = json.loads(json.dumps(body))
    partial = path.with_suffix(".partial")
    write_file(partial, json.dumps({**body, "sha256": digest(body)}, indent=1).encode())
    os.replace(partial, path)
    return digest(body)


def read_index(path: Path, schema: int, what: str) -> dict[str, Any]:
    """An index, its own sum under "sha256". what: for the sentence of a GigaganError, where it is none of ours."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        whole = digest({name: value for name, value in found.items() if name != "sha256"}) == found["sha256"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise GigaganError(f"{path.parent} is no {what}: no readable {path.name} there") from error
    if not whole:
        raise GigaganError(f"{path} is damaged: it does not have the sha256 that it names; copy it again")
    if found.get("schema") != schema:
        raise GigaganError(
            f"{path} has schema {found.get('schema')} and this code reads {schema}; use the same code on both machines"
        )
    return found


# ---- tensors as bytes --------------------------------------------------------------------------------


def to_bytes(tensor: Tensor) -> bytearray:
    """The numbers of a CPU tensor in order, as they lie in memory."""
    flat = tensor.detach().contiguous().view(-1)
    content = bytearray(flat.numel() * flat.element_size())
    if content:
        torch.frombuffer(content, dtype=flat.dtype).copy_(flat)
    return content


def from_bytes(content: bytearray, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """The tensor whose numbers these are; it shares their memory."""
    if not content:
        return torch.empty(tuple(shape), dtype=dtype)
    return torch.frombuffer(content, dtype=dtype).view(tuple(shape))


def squeeze(content: bytes | bytearray) -> bytearray:
    """Compressed without loss, for what is mostly float32: signs and exponents repeat, and mantissas do not.

    Each number's first bytes are put together, then their second ones and so on: 8 bytes of length, then the four
    planes, each compressed by zlib behind 8 bytes of its own length.
    """
    padded = bytearray(content) + bytes(-len(content) % 4)
    planes = torch.frombuffer(padded, dtype=torch.uint8).view(-1, 4).t().contiguous()
    out = bytearray(struct.pack("<Q", len(content)))
    for plane in planes:
        packed = zlib.compress(to_bytes(plane), 1)
        out += struct.pack("<Q", len(packed)) + packed
    return out


def unsqueeze(squeezed: bytearray) -> bytearray:
    """What `squeeze` was given."""
    (length,) = struct.unpack_from("<Q", squeezed)
    start, planes = 8, []
    for _ in range(4):
        (size,) = struct.unpack_from("<Q", squeezed, start)
        plane = bytearray(zlib.decompress(memoryview(squeezed)[start + 8 : start + 8 + size]))
        planes.append(torch.frombuffer(plane, dtype=torch.uint8))
        start += 8 + size
    return to_bytes(torch.stack(planes, dim=1))[:length]


# ---- safetensors, where the library is not there -----------------------------------------------------

_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


def to_safetensors(tensors: Mapping[str, Tensor]) -> bytearray:
    """The bytes of a .safetensors file: length of the header, header in JSON, numbers."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    # Wide numbers first, so that each tensor begins at a multiple of its width
    for name, tensor in sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])):
        numbers = to_bytes(tensor.cpu())
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [len(data), len(data) + len(numbers)],
        }
        data += numbers
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return bytearray(struct.pack("<Q", len(text)) + text) + data


def from_safetensors(content: bytearray) -> dict[str, Tensor]:
    """Name -> tensor of a .safetensors file's bytes, in memory of their own."""
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(bytes(content[8 : 8 + length]))
    header.pop("__metadata__", None)
    return {
        name: from_bytes(
            content[8 + length + about["data_offsets"][0] : 8 + length + about["data_offsets"][1]],
            _TYPES[about["dtype"]],
            about["shape"],
        )
        for name, about in header.items()
    }
