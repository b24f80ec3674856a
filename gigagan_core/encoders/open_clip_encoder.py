"""A frozen CLIP behind the encoder protocol: from an open_clip folder, or from a weight file as ARCH:PATH."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gigagan_core.assets.catalogue import CATALOGUE
from gigagan_core.assets.folder import resolve_named
from gigagan_core.encoders import tokenizer
from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel
from gigagan_core.encoders.weights import load_outside, load_plain, read_weights
from gigagan_core.errors import GigaganError
from gigagan_core.models.text import TextFeatures
from gigagan_core.store.fingerprint import sha256_file

CONFIG_FILE = "open_clip_config.json"
WEIGHTS_FILE = "model.safetensors"
# Names that open_clip's published folders use, in its own order of preference.
_WEIGHT_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    WEIGHTS_FILE,
)
_WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth")
PENULTIMATE = -2
"""Text layer: the input of the last block; a network's settings may name another (`GeneratorSettings.text_layer`)."""


@dataclass(frozen=True)
class Preprocessing:
    """How images in [0, 1] become input; the names are open_clip's `preprocess_cfg`, the defaults OpenAI's."""

    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    interpolation: str = "bicubic"


class ClipEncoder(nn.Module):
    """`encoders.protocol.Encoder` on a CLIP of ours or of open_clip: frozen, always in evaluation mode.

    model: `ClipModel`, or open_clip's `CLIP` or `CustomTextCLIP` with its own text tower. own: it was saved by
    `save_encoder`, under a name that says what it was trained on.
    Raises GigaganError where the text tower is of another kind.
    """

    def __init__(
        self,
        model: nn.Module,
        preprocessing: Preprocessing,
        *,
        name: str,
        sha256: str,
        role: str | None = None,
        own: bool = False,
    ) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        text = getattr(model, "text", model)
        layers = len(text.transformer.resblocks) if hasattr(text, "transformer") else 0
        if not layers or getattr(text, "cls_emb", None) is not None:
            raise GigaganError(f"encoder {name}: its text tower is not a plain transformer of open_clip")
        self.name, self.sha256, self.role, self.own = name, sha256, role, own
        self.context_length: int = text.positional_embedding.shape[0]
        self.width: int = text.positional_embedding.shape[1]
        self.embed_dim: int = _output_width(text)
        self.image_size: int = _image_size(model)
        self.logit_scale = float(model.logit_scale.detach().exp())
        self.preprocessing, self.interpolation = preprocessing, preprocessing.interpolation
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)
        self.eval()

    @property
    def configuration(self) -> dict[str, Any]:
        """What decides the features beside the weights, JSON-able. A model of open_clip's own goes by its name."""
        model = self.model
        architecture = model.architecture.to_config() if isinstance(model, ClipModel) else self.name
        return {"architecture": architecture, "preprocessing": asdict(self.preprocessing)}

    def train(self, mode: bool = True) -> ClipEncoder:
        """Stays in evaluation mode: a frozen encoder inside a model in training must not change."""
        return super().train(False)

    def tokenize(self, captions: list[str]) -> Tensor:
        """N captions -> int64 [N, L] on the encoder's device."""
        return tokenizer.tokenize(captions, self.context_length).to(self.mean.device)

    def text_tokens(self, tokens: Tensor, text_layer: int = PENULTIMATE) -> TextFeatures:
        """int64 [N, L] -> features [N, L, C], eot_index [N], mask [N, L]: True up to and including end-of-text.

        text_layer: which hidden state, counted from the end: -1 the last block's output, -2 its input (before
        `ln_final`). The mask tells words from padding; features at padding are whatever the causal tower makes of it.
        Raises GigaganError where the tower has not that many layers.
        """
        text = getattr(self.model, "text", self.model)
        transformer = text.transformer
        layers = len(transformer.resblocks)
        if not -layers - 1 <= text_layer <= -1:
            raise GigaganError(
                f"encoder {self.name}: text_layer {text_layer} is not between {-layers - 1} and -1; set another"
            )
        x = text.token_embedding(tokens) + text.positional_embedding
        blocks = transformer.resblocks[: layers + 1 + text_layer]
        if isinstance(self.model, ClipModel):
            for block in blocks:
                x = block(x)
        else:
            x = x if transformer.batch_first else x.transpose(0, 1)
            for block in blocks:
                x = block(x, attn_mask=text.attn_mask)
            x = x if transformer.batch_first else x.transpose(0, 1)
        # The end-of-text token has the highest number; the first one ends the caption, should it name another.
        eot_index = tokens.argmax(dim=-1)
        mask = torch.arange(tokens.shape[1], device=tokens.device) <= eot_index[:, None]
        return TextFeatures(x, eot_index, mask)

    def text_embed(self, tokens: Tensor) -> Tensor:
        """int64 [N, L] -> float32 [N, E], not normalised."""
        return self.model.encode_text(tokens)

    def caption_embed(self, tokens: Tensor) -> Tensor:
        """`text_embed` without the padding behind the longest caption, which decides nothing: the tower is causal.

        A caption of ten words costs a fifth of the 77 positions. Equal up to rounding.
        """
        if isinstance(self.model, ClipModel):
            tokens = tokens[:, : int(tokens.argmax(dim=-1).max()) + 1]
        return self.text_embed(tokens)

    def image_embed(self, images: Tensor) -> Tensor:
        """float32 [N, 3, H, W] in [-1, 1] -> float32 [N, E], not normalised; gradients reach the images.

        Images are resized antialiased to `image_size`; one that is not square is squeezed, so crop it first.
        Nothing is clamped or rounded: a clamp would take the gradient from a generator that overshoots.
        """
        return self.model.encode_image(self._prepared(images))

    def image_features(self, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """The same, and in one pass the patches after each of `layers` (blocks from 1) as [N, C, h, w].

        Raises GigaganError where the image tower has no such blocks.
        """
        if isinstance(self.model, ClipModel):
            count = self.model.architecture.vision.layers
        else:
            count = len(getattr(getattr(self.model.visual, "transformer", None), "resblocks", ()))
        if not count or max(layers, default=0) > count:
            raise GigaganError(
                f"encoder {self.name}: blocks {list(layers)} are wanted, of {count} in its image tower"
            )
        x = self._prepared(images)
        if isinstance(self.model, ClipModel):
            return self.model.image_features(x, layers)
        found = self.model.visual.forward_intermediates(
            x, indices=[layer - 1 for layer in layers], output_fmt="NCHW"
        )
        return found["image_features"], found["image_intermediates"]

    def _prepared(self, images: Tensor) -> Tensor:
        x = (images.to(self.mean.dtype) + 1) / 2
        size = (self.image_size, self.image_size)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size=size, mode=self.interpolation, align_corners=False, antialias=True)
        return (x - self.mean) / self.std


def save_encoder(
    folder: Path, model: ClipModel, preprocessing: Preprocessing, *, name: str, role: str | None = None
) -> None:
    """Write `open_clip_config.json` and `model.safetensors`; open_clip reads the folder too (`local-dir:`)."""
    from safetensors.torch import save_file

    config = {
        "model_cfg": model.architecture.to_config(),
        "preprocess_cfg": asdict(preprocessing),
        "tokenizer": tokenizer.NAME,
        "name": name,
        "role": role,
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()},
        folder / WEIGHTS_FILE,
    )
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def load_encoder(place: str | Path, device: str | torch.device = "cpu") -> ClipEncoder:
    """A frozen encoder from a folder in open_clip's layout, or from a weight file named ARCH:PATH.

    place: an encoder artifact's folder, a published open_clip folder, or for instance
    ``ViT-L-14-quickgelu:/weights/openai.safetensors`` (OpenAI's own weights need a quickgelu architecture), or
    ``asset:clip-vit-l14``.
    An outside file is taken with OpenAI's mean and std unless an `open_clip_config.json` beside it has others; of
    OpenAI's own files, known by their sums, that config is not heeded.
    Nothing is downloaded. Raises GigaganError for what is missing, unknown, damaged or does not fit.
    """
    folder = Path(place).expanduser()
    if folder.is_dir():
        encoder = _from_folder(folder)
    else:
        name, colon, file = resolve_named(str(place)).partition(":")
        if not colon or not file:
            raise GigaganError(
                f"encoder {place}: no such folder; give an encoder's folder or ARCH:PATH, such as "
                "ViT-L-14:/weights/open_clip_model.safetensors"
            )
        path = Path(file).expanduser()
        model, sha256 = load_outside(name, path)
        encoder = ClipEncoder(
            model,
            _outside_preprocessing(name, path, sha256),
            name=name,
            sha256=sha256,
        )
    return encoder.to(device)


def encoder_name(place: str | Path) -> str:
    """The name `load_encoder` would give, without loading any weight."""
    folder = Path(place)
    return (
        str(_read_config(folder).get("name") or folder.name)
        if folder.is_dir()
        else str(place).partition(":")[0]
    )


def _from_folder(folder: Path) -> ClipEncoder:
    config = _read_config(folder)
    path = next((folder / name for name in _WEIGHT_NAMES if (folder / name).is_file()), None)
    if path is None:
        raise GigaganError(f"encoder {folder}: no {WEIGHTS_FILE} there; run train-encoder again")
    architecture = ClipArchitecture.from_config(config["model_cfg"])
    if architecture is None:
        raise GigaganError(
            f"encoder {folder}: its architecture is not a plain CLIP; name it as ARCH:PATH, so that open_clip builds it"
        )
    return ClipEncoder(
        load_plain(architecture, read_weights(path), f"encoder {folder}"),
        _preprocessing(config),
        name=str(config.get("name") or folder.name),
        sha256=sha256_file(path),
        role=config.get("role"),
        own=bool(config.get("name")),  # published folders have no such key
    )


def _read_config(folder: Path, required: bool = True) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        if not required:
            return {}
        raise GigaganError(f"encoder {folder}: no {CONFIG_FILE} there; give a folder that train-encoder made")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        config["model_cfg"]["embed_dim"]
    except (ValueError, KeyError, TypeError) as error:
        raise GigaganError(f"{path} is damaged ({error!r}); run train-encoder again") from error
    return config


def _preprocessing(config: dict[str, Any]) -> Preprocessing:
    stored = config.get("preprocess_cfg", {})
    default = Preprocessing()
    return Preprocessing(
        mean=tuple(stored.get("mean", default.mean)),
        std=tuple(stored.get("std", default.std)),
        interpolation=stored.get("interpolation", default.interpolation),
    )


def _outside_preprocessing(name: str, path: Path, sha256: str) -> Preprocessing:
    """Of a weight file. Raises GigaganError where the config beside it may be of another file of that folder."""
    if any(each.sha256 == sha256 for each in CATALOGUE.values()):
        return Preprocessing()  # the catalogue's CLIPs of known sum are OpenAI's
    found = _preprocessing(_read_config(path.parent, required=False))
    if found == Preprocessing() or path.name in _WEIGHT_NAMES:
        return found
    files = sorted(each.name for each in path.parent.iterdir() if each.suffix in _WEIGHT_ENDINGS)
    if others := [each for each in files if each != path.name]:
        raise GigaganError(
            f"encoder {name}:{path}: {CONFIG_FILE} beside it has a mean, std or interpolation of its own and may be "
            f"{others[0]}'s; give this file a folder of its own, with its config where it has one"
        )
    return found


def _output_width(text: nn.Module) -> int:
    projection = text.text_projection
    if projection is None:
        return text.positional_embedding.shape[1]
    return projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]


def _image_size(model: nn.Module) -> int:
    if isinstance(model, ClipModel):
        return model.architecture.image_size
    size = model.visual.image_size
    return size if isinstance(size, int) else size[0]
