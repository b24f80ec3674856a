"""Weight files of CLIPs: read as tensors only, never unpickled as code, never downloaded."""

from __future__ import annotations

import contextlib
import difflib
import json
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gigagan_core.assets.catalogue import CATALOGUE
from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel
from gigagan_core.encoders.tokenizer import open_clip_folder
from gigagan_core.errors import GigaganError
from gigagan_core.store.fingerprint import sha256_file

# OpenAI's files also carry these three numbers; they are no parameters.
_NOT_PARAMETERS = ("input_resolution", "context_length", "vocab_size")
_TEXT_PREFIX = "text."
LARGE = 50_000_000
"""Parameters from which on a model is not filled with values only to be overwritten."""


def read_weights(path: Path, sha256: str | None = None) -> dict[str, Tensor]:
    """Name -> tensor of a .safetensors or torch file, or of OpenAI's TorchScript archives by their published sums.

    sha256: of the file, where it is known already. Raises GigaganError where it is none of these, or holds more.
    """
    try:
        if _is_torchscript(path):
            return _published_archive(path, sha256 or sha256_file(path))
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            stored: Any = load_file(path)
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise GigaganError(
            f"weight file {path} is not there; give the path of an existing one, nothing is ever downloaded"
        ) from None
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise GigaganError(
            f"weight file {path} is damaged or holds more than tensors; save its state_dict as .safetensors"
        ) from error
    except Exception as error:  # safetensors has an error class of its own
        if type(error).__name__ != "SafetensorError":
            raise
        raise GigaganError(f"weight file {path} is damaged ({error}); fetch or make it again") from error
    if isinstance(stored, dict):
        stored = stored.get("state_dict", stored)
    if not _is_state_dict(stored):
        raise GigaganError(f"weight file {path} holds no state_dict; save the model's state_dict()")
    return {name.removeprefix("module."): value for name, value in stored.items()}


def _is_state_dict(stored: Any) -> bool:
    if not isinstance(stored, dict) or not stored:
        return False
    return all(isinstance(name, str) and isinstance(value, Tensor) for name, value in stored.items())


def _published_archive(path: Path, sha256: str) -> dict[str, Tensor]:
    """The tensors of a TorchScript archive. Opening one runs its code, so the catalogue must name this very file."""
    if sha256 not in {each.sha256 for each in CATALOGUE.values()}:
        raise GigaganError(
            f"weight file {path} is a TorchScript archive and none that `gigagan assets` knows, so it is not opened; "
            "save its state_dict as .safetensors"
        )
    with quiet_torchscript():
        return torch.jit.load(str(path), map_location="cpu").state_dict()


def _is_torchscript(path: Path) -> bool:
    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


@contextlib.contextmanager
def quiet_torchscript() -> Iterator[None]:
    """TorchScript is deprecated, and published weights are TorchScript."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
        yield


def load_plain(architecture: ClipArchitecture, weights: dict[str, Tensor], where: str) -> ClipModel:
    """A plain CLIP in float32 with these weights. Raises GigaganError where names or shapes do not fit."""
    weights = {name: value for name, value in weights.items() if name not in _NOT_PARAMETERS}
    if "token_embedding.weight" not in weights:
        # open_clip's CustomTextCLIP keeps the same text tower one level deeper
        weights = {name.removeprefix(_TEXT_PREFIX): value for name, value in weights.items()}
    model = _empty(architecture, sum(value.numel() for value in weights.values()))
    wanted = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    if wanted != given:
        raise GigaganError(f"{where}: the weights do not fit the architecture ({_difference(wanted, given)})")
    model.load_state_dict({name: value.to(torch.float32) for name, value in weights.items()}, assign=True)
    return model


def _empty(architecture: ClipArchitecture, parameters: int) -> ClipModel:
    """A model whose values are about to be replaced; torch's random state is left as it is."""
    # The meta device saves a large model's memory, but its first use imports 900 modules of torch: 6 s on one core.
    device = "meta" if parameters > LARGE else "cpu"
    with torch.random.fork_rng(devices=[]), torch.device(device):
        return ClipModel(architecture)


def architectures() -> list[str]:
    """Names of open_clip's architectures, without importing open_clip."""
    return sorted(path.stem for path in (open_clip_folder() / "model_configs").glob("*.json"))


def architecture_config(name: str) -> dict[str, Any]:
    """open_clip's `model_cfg` of an architecture. Raises GigaganError for an unknown name, with the nearest one."""
    path = open_clip_folder() / "model_configs" / f"{name}.json"
    known = architectures()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}?" if close else "open_clip.list_models() lists them"
        raise GigaganError(f"open_clip has no architecture {name!r}; {hint}")
    return json.loads(path.read_text(encoding="utf-8"))


def load_outside(name: str, path: Path) -> tuple[nn.Module, str]:
    """An open_clip model of a named architecture from a weight file, and the file's sha256; the caller freezes it.

    Raises GigaganError for an unknown architecture, one whose text tower or tokenizer would have to be
    downloaded, a missing or damaged file, weights that do not fit, or published ones of another architecture.
    """
    config = architecture_config(name)
    if not path.is_file():
        raise GigaganError(
            f"encoder {name}:{path}: no such weight file; give ARCH:PATH with an existing one, nothing is downloaded"
        )
    text = config.get("text_cfg", {})
    if "hf_model_name" in text or "hf_tokenizer_name" in text or "multimodal_cfg" in config:
        raise GigaganError(
            f"{name}: its text tower or tokenizer is not part of open_clip and would have to be downloaded; "
            "take an architecture with open_clip's own, such as ViT-L-14"
        )
    sha256 = sha256_file(path)
    _refuse_another_architecture(name, path, sha256)
    architecture = ClipArchitecture.from_config(config)
    if architecture is None:
        return _load_with_open_clip(name, path, sha256), sha256
    return load_plain(architecture, read_weights(path, sha256), f"encoder {name}:{path}"), sha256


def _refuse_another_architecture(name: str, path: Path, sha256: str) -> None:
    """Weights trained with QuickGELU fit an architecture with GELU, and give other features without a word."""
    known = next((each for each in CATALOGUE.values() if each.sha256 == sha256), None)
    if known is not None and known.reader in architectures() and known.reader != name:
        raise GigaganError(
            f"encoder {name}:{path} is {known.what} (asset {known.name}), whose architecture is {known.reader}; write "
            f"{known.reader}:{path}"
        )


def _load_with_open_clip(name: str, path: Path, sha256: str) -> nn.Module:
    import open_clip

    read_weights(path, sha256)  # its errors are sentences
    try:
        return open_clip.create_model(name, pretrained=str(path), weights_only=True, pretrained_text=False)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise GigaganError(
            f"encoder {name}:{path}: the weights do not fit the architecture ({reason})"
        ) from error


def _difference(wanted: dict[str, Any], given: dict[str, Any]) -> str:
    missing, unknown = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted))
    if missing or unknown:
        parts = [f"missing {missing[0]} and {len(missing) - 1} more"] if missing else []
        parts += [f"unknown {unknown[0]} and {len(unknown) - 1} more"] if unknown else []
        return ", ".join(parts)
    name = next(name for name in wanted if wanted[name] != given[name])
    return f"{name} is {list(given[name])}, the architecture has {list(wanted[name])}"
