"""Exported programs as ONNX files, for runtimes that are not torch: `onnx`, `onnxscript`, `onnxruntime` do the work."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from gigagan_core.errors import GigaganError

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_NO_FUNCTION = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)', overload='(\w+)'\)>")
_NOT_IMPLEMENTED = re.compile(r"Could not find an implementation for (\w+\(\d+\))")


def require() -> None:
    """Raise GigaganError where a package is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise GigaganError(
            f"ONNX needs packages that are not installed: {', '.join(missing)}; install them with `pip install "
            f"{' '.join(missing)}`, or leave out --format onnx"
        )


def save(program: ExportedProgram, path: Path, inputs: Sequence[str]) -> None:
    """Write a program; weights beyond 2 GB go to a file beside it, since ONNX's own cannot hold them.

    inputs: names, in the order of the program's. Raises GigaganError naming the operators that ONNX has not.
    """
    program = program.run_decompositions({torch.ops.aten.where.self: _where})
    try:
        translated = torch.onnx.export(program, dynamo=True, verbose=False, input_names=list(inputs))
    except torch.onnx.OnnxExporterError as error:
        raise GigaganError(_sentence(path, error)) from error
    if translated is None:
        raise AssertionError("the exporter gave no program")
    translated.save(path)


def _where(condition: Tensor, self: Tensor, other: Tensor) -> Tensor:
    """Of truth values by logic, since onnxruntime chooses between numbers only."""
    if self.dtype != torch.bool or other.dtype != torch.bool:
        return NotImplemented
    return (condition & self) | (~condition & other)


def load(path: Path) -> Callable[..., tuple[Tensor, ...]]:
    """The file in onnxruntime, on the CPU: tensors in the order of its inputs -> tensors on the CPU.

    Raises GigaganError where the runtime lacks an operator.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # its own kinds derive from Exception alone
        raise GigaganError(_sentence(path, error)) from error
    names = [each.name for each in session.get_inputs()]

    def run(*arguments: Tensor) -> tuple[Tensor, ...]:
        given = dict(zip(names, (value.cpu().numpy() for value in arguments), strict=True))
        return tuple(torch.from_numpy(value) for value in session.run(None, given))

    return run


def _sentence(path: Path, error: BaseException) -> str:
    text = "\n".join(str(each) for each in _chain(error))
    missing = {
        "ONNX": sorted({".".join(found) for found in _NO_FUNCTION.findall(text)}),
        "onnxruntime": sorted(set(_NOT_IMPLEMENTED.findall(text))),
    }
    said = [f"{where} has no {', '.join(operators)}" for where, operators in missing.items() if operators]
    what = " and ".join(said) or " ".join(str(error).split())[:300]
    return f"{path.name} cannot be written as ONNX ({what}); export it without --format onnx"


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
