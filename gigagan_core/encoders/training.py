"""Contrastive training of a small CLIP (Radford et al. 2021) in plain torch, resumable bit for bit.

Everything random is keyed by (seed, images seen), so a run that is cut off and continued meets the same order and
the same augmentation. The training set is held in memory as uint8.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gigagan_core.config.encoder import AugmentationSettings, EncoderSettings
from gigagan_core.encoders import tokenizer
from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel, Tower
from gigagan_core.encoders.open_clip_encoder import Preprocessing
from gigagan_core.encoders.recall import Recall, recall
from gigagan_core.losses.contrastive import clip_contrastive_loss
from gigagan_core.models.randomness import keyed_permutation, keyed_uniform

PREPROCESSING = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
"""Of the encoders trained here: the GAN's own range, [-1, 1]."""


def architecture_of(settings: EncoderSettings) -> ClipArchitecture:
    """The plain CLIP that settings ask for, with open_clip's own vocabulary."""
    vision, text = settings.vision, settings.text
    return ClipArchitecture(
        embed_dim=settings.embed_dim,
        image_size=settings.image_size,
        patch_size=settings.patch_size,
        vision=Tower(vision.width, vision.layers, vision.heads, vision.mlp_ratio),
        text=Tower(text.width, text.layers, text.heads, text.mlp_ratio),
        pool=settings.pool,
        context_length=settings.context_length,
    )


class Vocabulary:
    """The rows of the token embedding that a set of captions uses, as a small embedding of their own.

    A caption set uses a few of 49,408 tokens. The other rows never have a gradient, so leaving them out changes
    nothing but the time: the optimiser would otherwise walk over 6 million zeros a step.
    """

    def __init__(self, tokens: Tensor) -> None:
        # Sorted, so that end-of-text keeps the highest number and still marks the end.
        self.rows = tokens.unique()

    def shorten(self, tokens: Tensor) -> Tensor:
        """Token numbers -> rows of the small embedding. Every token must be one of the set's."""
        return torch.searchsorted(self.rows, tokens)

    def embedding(self, full: nn.Embedding) -> nn.Embedding:
        """A trainable copy of the rows in use."""
        return nn.Embedding.from_pretrained(full.weight.detach()[self.rows].clone(), freeze=False)

    def fill(self, full: Tensor, trained: Tensor) -> Tensor:
        """The full table with the trained rows in place."""
        return (
            full.detach().clone().index_copy(0, self.rows.to(full.device), trained.detach().to(full.device))
        )


class ContrastiveTraining:
    """The state of a training run: model, optimizer, images seen.

    images: uint8 [M, 3, S, S], captions: M strings; held_out: the same for retrieval figures, never trained on.
    """

    def __init__(
        self,
        settings: EncoderSettings,
        images: Tensor,
        captions: list[str],
        held_out: tuple[Tensor, list[str]],
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings, self.device = settings, torch.device(device)
        self.images_seen = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            model = ClipModel(architecture_of(settings))
        tokens = tokenizer.tokenize(captions, settings.context_length)
        held_out_tokens = tokenizer.tokenize(held_out[1], settings.context_length)
        self._vocabulary = Vocabulary(torch.cat([tokens, held_out_tokens]))
        self._full_embedding = model.token_embedding.weight.detach()
        model.token_embedding = self._vocabulary.embedding(model.token_embedding)
        self.model = model.to(self.device)
        self._images, self._tokens = images.to(self.device), self._vocabulary.shorten(tokens).to(self.device)
        self._held_out = (
            held_out[0].to(self.device),
            self._vocabulary.shorten(held_out_tokens).to(self.device),
        )
        numbers = {caption: number for number, caption in enumerate(dict.fromkeys(captions))}
        self._caption_ids = torch.tensor([numbers[caption] for caption in captions], device=self.device)
        self.optimizer = _optimizer(self.model, settings)
        self._order = (-1, torch.empty(0, dtype=torch.int64))

    @property
    def finished(self) -> bool:
        return self.images_seen >= self.settings.total_images

    def step(self) -> dict[str, float]:
        """One batch; returns loss, learning_rate and logit_scale.

        Equal captions in a batch are no negatives of each other.
        """
        settings = self.settings
        indices = torch.arange(self.images_seen, self.images_seen + settings.batch_size)
        rows = self._rows(indices).to(self.device)
        images = augment(to_input(self._images[rows]), settings.augmentation, settings.seed, indices)
        rate = learning_rate(settings, self.images_seen + settings.batch_size)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        scale = self.model.logit_scale.exp()
        loss = clip_contrastive_loss(
            self.model.encode_image(images),
            self.model.encode_text(self._tokens[rows]),
            temperature=1 / scale,
            ids=self._caption_ids[rows],
            symmetric=True,
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(settings.max_logit_scale))
        self.images_seen += settings.batch_size
        return {"loss": loss.item(), "learning_rate": rate, "logit_scale": scale.item()}

    @torch.no_grad()
    def evaluate(self, batch_size: int = 512) -> Recall:
        """Retrieval on the held-out pairs."""
        self.model.eval()
        images, tokens = self._held_out
        image_embeds = torch.cat(
            [self.model.encode_image(to_input(part)) for part in images.split(batch_size)]
        )
        text_embeds = torch.cat([self.model.encode_text(part) for part in tokens.split(batch_size)])
        self.model.train()
        return recall(image_embeds, text_embeds)

    def trained(self) -> ClipModel:
        """The model with its full vocabulary, on the CPU; tokens that no caption had keep their first values."""
        model = ClipModel(self.model.architecture)
        weights = {name: value.detach().cpu() for name, value in self.model.state_dict().items()}
        name = "token_embedding.weight"
        model.load_state_dict({**weights, name: self._vocabulary.fill(self._full_embedding, weights[name])})
        return model

    def save(self, path: Path, **extra: Any) -> None:
        """Write a checkpoint in one step; extra: tensors and plain values that `load` gives back."""
        partial = path.with_name(f"{path.name}.partial")
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save({**state, "images_seen": self.images_seen, "extra": extra}, partial)
        os.replace(partial, path)

    def load(self, path: Path) -> dict[str, Any]:
        """Continue from a checkpoint of the same settings and data."""
        stored = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(stored["model"])
        self.optimizer.load_state_dict(stored["optimizer"])
        self.images_seen = stored["images_seen"]
        return stored["extra"]

    def _rows(self, indices: Tensor) -> Tensor:
        """Which training rows consecutive global samples are: exact epochs, each in an order of its own."""
        size = len(self._images)
        epochs, places = indices // size, indices % size
        parts = [self._epoch(epoch)[places[epochs == epoch]] for epoch in epochs.unique().tolist()]
        return torch.cat(parts)

    def _epoch(self, epoch: int) -> Tensor:
        if self._order[0] != epoch:
            purpose = f"encoder-order/{epoch}"
            order = keyed_permutation(self.settings.seed, purpose, torch.arange(len(self._images)))
            self._order = (epoch, order)
        return self._order[1]


def to_input(images: Tensor) -> Tensor:
    """uint8 [N, 3, S, S] -> float32 in [-1, 1], which `PREPROCESSING` leaves as it is."""
    return images.to(torch.float32) / 127.5 - 1


def augment(images: Tensor, settings: AugmentationSettings, seed: int, indices: Tensor) -> Tensor:
    """Shift and scale [N, 3, S, S] a little; what comes in from outside repeats the edge.

    indices: int64 [N], global sample indices, which decide the movement together with the seed.
    """
    if not settings.shift and not settings.scale:
        return images
    draws = (2 * keyed_uniform(seed, "encoder-augmentation", indices, (3,)) - 1).to(images.device)
    zoom = 1 + settings.scale * draws[:, 0]
    # affine_grid measures in half sides
    shift_x, shift_y = (2 * settings.shift * draws[:, axis] for axis in (1, 2))
    zero = torch.zeros_like(zoom)
    movement = torch.stack(
        [torch.stack([zoom, zero, shift_x], dim=1), torch.stack([zero, zoom, shift_y], dim=1)], dim=1
    )
    grid = F.affine_grid(movement, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def learning_rate(settings: EncoderSettings, images_seen: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth."""
    warm = min(1.0, images_seen / settings.warmup_images) if settings.warmup_images else 1.0
    done = min(1.0, images_seen / settings.total_images)
    return settings.learning_rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def _optimizer(model: ClipModel, settings: EncoderSettings) -> torch.optim.AdamW:
    decayed, free = [], []
    for name, parameter in model.named_parameters():
        keeps_size = parameter.ndim < 2 or "embedding" in name
        (free if keeps_size else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": settings.weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas, eps=1e-6, fused=True)
