"""Networks as `torch.export` programs, which torch alone can load and run on any machine, or as ONNX files.

The frozen encoder travels as a program too, so that a caption's tokens are all that is needed. Latents and truncation
are the caller's; per-pixel noise is the fixed field of `latents.fixed_noise`, stored with the program.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from unittest import mock

import torch
from torch import Tensor, nn

from gigagan_core.errors import GigaganError
from gigagan_core.inference import onnx_format
from gigagan_core.inference.latents import fixed_noise
from gigagan_core.models import adaptive_conv
from gigagan_core.models.condition import Condition
from gigagan_core.models.settings import GeneratorSettings
from gigagan_core.models.text import TextFeatures

if TYPE_CHECKING:
    from gigagan_core.encoders.protocol import Encoder

Format = Literal["torch", "onnx"]
DESCRIPTION: dict[Format, str] = {"torch": "export.json", "onnx": "export-onnx.json"}
_ENDINGS: dict[Format, str] = {"torch": ".pt2", "onnx": ".onnx"}
_EXAMPLES = 2  # a batch of one would be taken for a constant


class _Noisy(nn.Module):
    """A network, and the noise fields it asks for, as buffers."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def noise(self, layer: int, resolution: int) -> Tensor:
        name = f"noise_{layer}_{resolution}"
        if not hasattr(self, name):
            device = next(self.network.parameters()).device
            self.register_buffer(name, fixed_noise(device)(layer, resolution))
        return getattr(self, name)

    def condition(self, inputs: tuple[Tensor, ...]) -> Condition:
        kind = self.network.settings.conditioning
        return TextFeatures(*inputs) if kind == "text" else inputs[0] if kind == "class" else None

    def mapped(self, z: Tensor, psi: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Any]:
        code = self.network.encode(self.condition(inputs))
        w = self.network.map(z, code)
        return torch.lerp(self.network.w_mean.expand_as(w), w, psi[:, None]), code


class BaseProgram(_Noisy):
    """z [N, z_dim], psi [N], then the condition -> image float [N, 3, H, W] about [-1, 1]."""

    def forward(self, z: Tensor, psi: Tensor, *condition: Tensor) -> Tensor:
        w, code = self.mapped(z, psi, condition)
        return self.network.synthesise(w, code, self.noise)[0]


class UpsamplerProgram(_Noisy):
    """low [N, 3, h, h] in [-1, 1], z [N, z_dim], psi [N], then the condition -> image float [N, 3, H, W]."""

    def forward(self, low: Tensor, z: Tensor, psi: Tensor, *condition: Tensor) -> Tensor:
        w, code = self.mapped(z, psi, condition)
        return self.network.synthesise(low, w, code, self.noise)[0]


class EncoderProgram(nn.Module):
    """tokens int64 [N, L] -> features [N, L, C], eot_index [N], mask [N, L]: the condition of the other programs."""

    def __init__(self, encoder: Encoder, text_layer: int) -> None:
        super().__init__()
        self.encoder, self.text_layer = encoder, text_layer

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(self.encoder.text_tokens(tokens, self.text_layer))


def export_networks(
    folder: Path,
    base: nn.Module | None = None,
    upsampler: nn.Module | None = None,
    encoder: Encoder | None = None,
    models: dict[str, Any] | None = None,
    batch_size: int | None = None,
    format: Format = "torch",
) -> dict[str, Any]:
    """Write `base.pt2`, `upsampler.pt2` and `encoder.pt2`, as many as are given, and `export.json`; returns the latter.

    Each program is checked against the network it was made of, and none is put into `folder` before all have passed:
    what an earlier export left there stays as it was. encoder: needed where a network takes captions.
    models: what the networks are, for the description. batch_size: the only one that the programs then take; None: any,
    which costs banks of many kernels dearly at high resolution, since a kernel for each sample cannot be traced.
    format: "onnx" writes `.onnx` files and `export-onnx.json`, of networks on the CPU. Raises GigaganError where a
    network cannot be exported or gives what is not finite, or where the results differ.
    """
    if format == "onnx":
        onnx_format.require()
        _require_cpu(base, upsampler)
    traced = batch_size or _EXAMPLES
    programs: dict[str, tuple[nn.Module, dict[str, Tensor]]] = {}
    if base is not None:
        programs["base"] = BaseProgram(base), _inputs(base, encoder, traced)
    if upsampler is not None:
        programs["upsampler"] = UpsamplerProgram(upsampler), _inputs(upsampler, encoder, traced)
    if encoder is not None:
        layer = _text_layer([network for network in (base, upsampler) if network is not None])
        programs["encoder"] = EncoderProgram(encoder, layer), {"tokens": _tokens(encoder, traced)}
    document: dict[str, Any] = {
        "format": format,
        "torch": torch.__version__,
        "models": models or {},
        "programs": {},
    }
    with _put_when_whole(folder, DESCRIPTION[format]) as partial:
        for name, (module, inputs) in programs.items():
            path = partial / f"{name}{_ENDINGS[format]}"
            difference = _export(path, module.eval(), inputs, format, any_batch=batch_size is None)
            document["programs"][name] = {
                "file": path.name,
                "inputs": {
                    key: [batch_size or "N", *value.shape[1:], str(value.dtype).removeprefix("torch.")]
                    for key, value in inputs.items()
                },
                "largest_difference": difference,
            }
        text = json.dumps(document, indent=1) + "\n"
        (partial / DESCRIPTION[format]).write_text(text, encoding="utf-8")
    return document


def _require_cpu(*networks: nn.Module | None) -> None:
    """Raise GigaganError for a network elsewhere.

    onnxruntime computes on the CPU here, and a GPU's TensorFloat-32 may differ by more than the tolerance.
    """
    if any(next(each.parameters()).device.type != "cpu" for each in networks if each is not None):
        raise GigaganError("ONNX files are made of networks on the CPU, and run anywhere; give --device cpu")


@contextlib.contextmanager
def _put_when_whole(folder: Path, description: str) -> Iterator[Path]:
    """A folder to write into, whose files replace those of `folder` when the block ends without an error.

    description: the file that speaks of the others. It is the first to go and the last to come, so that there is never
    one beside programs that are not its own.
    """
    partial = folder / ".export.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        (folder / description).unlink(missing_ok=True)
        # the weights of a large ONNX file, which it finds by their name, are a file beside it
        for path in sorted(partial.iterdir(), key=lambda path: path.name == description):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(partial)


@torch.no_grad()
def _export(
    path: Path, module: nn.Module, inputs: dict[str, Tensor], format: Format, any_batch: bool
) -> float:
    arguments = tuple(inputs.values())
    _require_finite(path, module(*arguments))  # the noise fields are made now, as parts of the program
    shapes, own_kernels = None, contextlib.nullcontext()
    if any_batch:
        dims = [{0: torch.export.Dim("batch", min=1, max=1024)} for _ in arguments]
        first = _named(module)
        shapes = (*dims[:first], tuple(dims[first:])) if first < len(dims) else tuple(dims)
        # A kernel for each sample is a convolution of so many groups, which would be a constant.
        own_kernels = mock.patch.object(adaptive_conv, "scales_maps", return_value=True)
    try:
        with own_kernels:
            program = torch.export.export(module, arguments, dynamic_shapes=shapes, strict=False)
        if format == "onnx":
            onnx_format.save(program, path, list(inputs))
        else:
            torch.export.save(program, path)
    except GigaganError:
        raise
    except Exception as error:  # torch.export has many kinds of its own
        reason = " ".join(str(error).split())[:300]
        raise GigaganError(f"{path.name} cannot be exported ({reason}); report it with the model") from error
    runs = onnx_format.load(path) if format == "onnx" else torch.export.load(path).module()
    return _difference(path, runs, module, arguments, any_batch)


def _named(module: nn.Module) -> int:
    """How many inputs come before the condition."""
    return {BaseProgram: 2, UpsamplerProgram: 3, EncoderProgram: 1}[type(module)]


def _require_finite(path: Path, result: Tensor | tuple[Tensor, ...]) -> None:
    """Raise GigaganError where a network gives NaN or infinity."""
    if not all(bool(torch.isfinite(each).all()) for each in _tensors(result)):
        raise GigaganError(
            f"the network of {path.name} gives what is not finite: its weights are damaged or its training diverged; "
            "export an earlier one"
        )


def _difference(
    path: Path,
    program: Callable[..., Any],
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    any_batch: bool,
) -> float:
    """The largest difference between program and network; on one sample and on three, where it takes any number."""
    largest = torch.zeros(())
    for count in (1, 3) if any_batch else (len(arguments[0]),):
        batch = tuple(value[torch.arange(count) % len(value)] for value in arguments)
        for found, expected in zip(_tensors(program(*batch)), _tensors(module(*batch)), strict=True):
            difference = found.float().cpu() - expected.float().cpu()
            largest = torch.maximum(largest, difference.abs().max())  # Python's `max` would leave NaN out
    if not largest <= _TOLERANCE:
        raise GigaganError(
            f"{path.name} differs by {largest:.3g} from the network it was made of; do not use it, and report it"
        )
    return float(largest)


_TOLERANCE = 1e-3


def _tensors(result: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def _inputs(network: nn.Module, encoder: Encoder | None, count: int) -> dict[str, Tensor]:
    """`count` examples of every input, by name, in order."""
    settings, device = network.settings, next(network.parameters()).device
    generator = torch.Generator().manual_seed(0)
    inputs: dict[str, Tensor] = {}
    if hasattr(settings, "low_size"):
        side = settings.low_size
        inputs["low"] = torch.rand(count, 3, side, side, generator=generator) * 2 - 1
    inputs["z"] = torch.randn(count, settings.z_dim, generator=generator)
    inputs["psi"] = torch.linspace(0.5, 1.0, count)
    if settings.conditioning == "class":
        inputs["labels"] = torch.arange(count) % settings.classes
    elif settings.conditioning == "text":
        if encoder is None:
            raise GigaganError("the model is conditioned on captions; give its encoder to export it with")
        inputs |= encoder.text_tokens(_tokens(encoder, count), settings.text_layer)._asdict()
    return {name: value.to(device) for name, value in inputs.items()}


def _text_layer(networks: list[nn.Module]) -> int:
    """The hidden state of the encoder that the networks read."""
    layers = {network.settings.text_layer for network in networks if network.settings.text_conditioned}
    if len(layers) > 1:
        raise GigaganError(
            f"the networks read text layers {sorted(layers)}, and an exported encoder gives one; export them apart"
        )
    return layers.pop() if layers else GeneratorSettings.text_layer


def _tokens(encoder: Encoder, count: int) -> Tensor:
    return encoder.tokenize([f"a red apple and {i} old trees" for i in range(count)])
