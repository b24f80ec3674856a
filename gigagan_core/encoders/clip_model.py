"""CLIP's two plain towers (Radford et al. 2021), with the parameter names and the numbers of open_clip's `CLIP`.

Importing open_clip takes 8 s on 2 cores, because it brings timm and torchvision, and every training worker would
pay that. This module needs torch alone, serves every plain ViT of open_clip (B/32 to bigG/14, and the small ones
trained here), and shares its folders and weights with it; a test holds the two equal. What it does not cover
(ResNet, timm, CoCa towers) is left to open_clip itself.

Axes: N samples, L text positions, C width, P patches, E embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_VISION_KEYS = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio", "pool_type"}
_TEXT_KEYS = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}
_MODEL_KEYS = {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"}


@dataclass(frozen=True)
class Tower:
    """One transformer: width C, layers, heads, and the MLP's hidden width as a multiple of C."""

    width: int
    layers: int
    heads: int
    mlp_ratio: float = 4.0


@dataclass(frozen=True)
class ClipArchitecture:
    """A plain CLIP. pool: which output tokens make the image's vector, "tok" (the class token) or "avg" (patches)."""

    embed_dim: int
    image_size: int
    patch_size: int
    vision: Tower
    text: Tower
    pool: str = "tok"
    context_length: int = 77
    vocab_size: int = 49408
    quick_gelu: bool = False

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ClipArchitecture | None:
        """From open_clip's `model_cfg`; None where it asks for more than the plain towers."""
        vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
        plain = (
            set(config) <= _MODEL_KEYS
            and set(vision) <= _VISION_KEYS
            and set(text) <= _TEXT_KEYS
            and isinstance(vision.get("layers", 12), int)
            and isinstance(vision.get("image_size", 224), int)
            and vision.get("pool_type", "tok") in ("tok", "avg")
        )
        if not plain:
            return None
        # open_clip's defaults (CLIPVisionCfg, CLIPTextCfg)
        vision_width = vision.get("width", 768)
        return cls(
            embed_dim=config["embed_dim"],
            image_size=vision.get("image_size", 224),
            patch_size=vision.get("patch_size", 16),
            vision=Tower(
                vision_width,
                vision.get("layers", 12),
                vision_width // vision.get("head_width", 64),
                vision.get("mlp_ratio", 4.0),
            ),
            text=Tower(
                text.get("width", 512),
                text.get("layers", 12),
                text.get("heads", 8),
                text.get("mlp_ratio", 4.0),
            ),
            pool=vision.get("pool_type", "tok"),
            context_length=text.get("context_length", 77),
            vocab_size=text.get("vocab_size", 49408),
            quick_gelu=config.get("quick_gelu", False),
        )

    def to_config(self) -> dict[str, Any]:
        """As open_clip's `model_cfg`."""
        return {
            "embed_dim": self.embed_dim,
            "quick_gelu": self.quick_gelu,
            "vision_cfg": {
                "image_size": self.image_size,
                "patch_size": self.patch_size,
                "width": self.vision.width,
                "layers": self.vision.layers,
                "head_width": self.vision.width // self.vision.heads,
                "mlp_ratio": self.vision.mlp_ratio,
                "pool_type": self.pool,
            },
            "text_cfg": {
                "context_length": self.context_length,
                "vocab_size": self.vocab_size,
                "width": self.text.width,
                "layers": self.text.layers,
                "heads": self.text.heads,
                "mlp_ratio": self.text.mlp_ratio,
            },
        }


class ClipModel(nn.Module):
    """A plain CLIP. `encode_image` and `encode_text` give vectors in the common space, not normalised."""

    def __init__(self, architecture: ClipArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        text, quick = architecture.text, architecture.quick_gelu
        self.visual = _VisionTower(architecture)
        self.transformer = _Transformer(text, causal=True, quick_gelu=quick)
        self.token_embedding = nn.Embedding(architecture.vocab_size, text.width)
        self.positional_embedding = nn.Parameter(torch.empty(architecture.context_length, text.width))
        self.ln_final = nn.LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.empty(text.width, architecture.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        nn.init.normal_(self.text_projection, std=text.width**-0.5)

    def encode_image(self, images: Tensor) -> Tensor:
        """[N, 3, S, S] float32, normalised by the encoder's mean and std -> [N, E]."""
        return self.visual(images)[0]

    def image_features(self, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """The same, and the patches after each of `layers` (blocks from 1) as [N, C, h, w], C the tower's width."""
        return self.visual(images, layers)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """int64 [N, L] -> [N, E], read at the end-of-text token; L up to the context's length."""
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        x = self.ln_final(self.transformer(x))
        # end-of-text has the highest number of all tokens
        return x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)] @ self.text_projection


class _VisionTower(nn.Module):
    def __init__(self, architecture: ClipArchitecture) -> None:
        super().__init__()
        tower, patch = architecture.vision, architecture.patch_size
        self.pool = architecture.pool
        patches = (architecture.image_size // patch) ** 2
        scale = tower.width**-0.5
        self.conv1 = nn.Conv2d(3, tower.width, patch, stride=patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(tower.width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(patches + 1, tower.width))
        self.ln_pre = nn.LayerNorm(tower.width)
        self.transformer = _Transformer(tower, causal=False, quick_gelu=architecture.quick_gelu)
        self.ln_post = nn.LayerNorm(tower.width)
        self.proj = nn.Parameter(scale * torch.randn(tower.width, architecture.embed_dim))

    def forward(self, images: Tensor, layers: Sequence[int] = ()) -> tuple[Tensor, list[Tensor]]:
        """-> [N, E], and the patches after each of `layers` (blocks from 1) as [N, C, h, w]."""
        x = self.conv1(images)
        grid = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)  # [N, P, C]
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        x, maps = self.ln_pre(x), []
        for number, block in enumerate(self.transformer.resblocks, start=1):
            x = block(x)
            if number in layers:
                maps.append(x[:, 1:].transpose(1, 2).unflatten(2, grid))
        x = self.ln_post(x)
        x = x[:, 1:].mean(dim=1) if self.pool == "avg" else x[:, 0]
        return x @ self.proj, maps


class _Transformer(nn.Module):
    def __init__(self, tower: Tower, causal: bool, quick_gelu: bool) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(_Block(tower, causal, quick_gelu) for _ in range(tower.layers))
        self._initialise(tower)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x

    def _initialise(self, tower: Tower) -> None:
        """OpenAI's scheme; open_clip uses it in the text tower only."""
        output_std = tower.width**-0.5 * (2 * tower.layers) ** -0.5
        for block in self.resblocks:
            nn.init.normal_(block.attn.in_proj_weight, std=tower.width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=output_std)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * tower.width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=output_std)
            for layer in (block.attn.out_proj, block.mlp.c_fc, block.mlp.c_proj):
                nn.init.zeros_(layer.bias)


class _Block(nn.Module):
    def __init__(self, tower: Tower, causal: bool, quick_gelu: bool) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(tower.width)
        self.attn = _Attention(tower.width, tower.heads, causal)
        self.ln_2 = nn.LayerNorm(tower.width)
        self.mlp = _Mlp(tower.width, int(tower.width * tower.mlp_ratio), quick_gelu)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, L, C] -> [N, L, C]."""
        joint = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        query, key, value = joint.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        return self.out_proj(y.transpose(1, 2).flatten(2))


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int, quick_gelu: bool) -> None:
        super().__init__()
        self.quick_gelu = quick_gelu
        self.c_fc = nn.Linear(width, hidden)
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        # OpenAI's own weights were trained with the sigmoid approximation
        x = x * torch.sigmoid(1.702 * x) if self.quick_gelu else F.gelu(x)
        return self.c_proj(x)
