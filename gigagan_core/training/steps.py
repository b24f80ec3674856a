"""The losses of one training step, each a plain function of (models, batch, settings).

Every function returns (scalar loss, metrics); the caller takes gradients and moves weights. Nothing here
waits for the device. Equations are the paper's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gigagan_core.losses.adversarial import discriminator_loss, generator_loss, mean_logit
from gigagan_core.losses.contrastive import clip_contrastive_loss
from gigagan_core.losses.matching import caption_ids, matching_loss, valid_pairs
from gigagan_core.losses.r1 import r1_penalty
from gigagan_core.losses.reconstruction import (
    encoder_feature_distance,
    l1_loss,
    low_resolution_consistency,
    patch_corners,
)
from gigagan_core.models.condition import Condition
from gigagan_core.models.discriminator import Discriminator, ImageFeatures, Predictions
from gigagan_core.models.generator import Generator
from gigagan_core.models.pyramid import image_pyramid, resize
from gigagan_core.models.randomness import keyed_derangement, keyed_normal, keyed_uniform
from gigagan_core.models.settings import GeneratorSettings
from gigagan_core.models.synthesis import Noise, keyed_noise
from gigagan_core.models.text import TextFeatures
from gigagan_core.models.upsampler import Upsampler
from gigagan_core.training.settings import (
    BaseLossSettings,
    BaseTraining,
    UpsamplerLossSettings,
    UpsamplerTraining,
)
from gigagan_core.training.world import World

Metrics = dict[str, Tensor]


@dataclass(frozen=True)
class BaseModels:
    """encoder: frozen, satisfies `encoders.protocol.Encoder`; also judges the contrastive loss.

    vision_encoder: the frozen encoder whose features the vision-aided heads read; None: the same (the paper's is
    another CLIP).
    """

    generator: Generator
    discriminator: Discriminator
    encoder: Any
    vision_encoder: Any = None
    world: World = field(default_factory=World)


@dataclass(frozen=True)
class UpsamplerModels:
    """discriminator: None for the L1 control. lpips: images [N, 3, H, W] in [-1, 1], twice -> distances."""

    generator: Upsampler
    discriminator: Discriminator | None
    encoder: Any
    lpips: Callable[[Tensor, Tensor], Tensor] | None = None
    world: World = field(default_factory=World)


@dataclass(frozen=True)
class Captions:
    """What a step knows of N captions, or class labels; the frozen encoder makes it once a batch.

    condition: token features or labels, for G and D. embeds: [N, E], for the contrastive loss; None for labels.
    ids: int64 [N], equal where captions are. partner: int64 [N], whose caption stands in as the wrong one.
    valid: bool [N], whether that one differs.
    """

    condition: Condition
    embeds: Tensor | None
    ids: Tensor
    partner: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Peers:
    """All samples of this worker's batch, for a step that sees one micro-batch and compares it with every other.

    image_embeds, text_embeds: [n, E], without gradient. ids: int64 [n]. start: where the micro-batch begins. count:
    how many micro-batches the batch has.
    """

    image_embeds: Tensor
    text_embeds: Tensor
    ids: Tensor
    start: int
    count: int


@dataclass(frozen=True)
class StepBatch:
    """A batch, or a micro-batch of one, made ready for the steps.

    real: pyramid of real images [N, 3, r, r], high to low, as the discriminator takes them.
    low: [N, 3, h, h], the upsampler's noisy input; None for the base. clean_low: the same without noise.
    indices: int64 [N], global sample index; keys all randomness.
    peers: None where this is the worker's whole batch, or no loss compares samples.
    """

    real: list[Tensor]
    captions: Captions
    indices: Tensor
    low: Tensor | None = None
    clean_low: Tensor | None = None
    peers: Peers | None = None


# ---- preparation -----------------------------------------------------------------------------------


def to_unit_range(images: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 [N, 3, H, W] -> `dtype` in [-1, 1]; floating point, in that range already, changes its type only."""
    if images.dtype != torch.uint8:
        return images.to(dtype)
    return images.to(dtype).div_(127.5).sub_(1.0)


@torch.no_grad()
def read_captions(
    encoder: Any,
    captions: Sequence[str],
    indices: Tensor,
    seed: int,
    block: int,
    dtype: torch.dtype,
    text_layer: int = GeneratorSettings.text_layer,
) -> Captions:
    """Run the frozen encoder over the captions, once; choose each sample's wrong caption.

    block: captions are exchanged within contiguous blocks of so many samples (0: all given). dtype: of what
    the networks compute in. text_layer: which hidden state of the encoder they read.
    """
    tokens = encoder.tokenize(list(captions)).to(indices.device)
    text = encoder.text_tokens(tokens, text_layer)
    ids = caption_ids(captions, indices.device)
    partner = keyed_derangement(seed, "matching", indices, block or None)
    return Captions(
        condition=TextFeatures(text.features.to(dtype), text.eot_index, text.mask),
        embeds=encoder.text_embed(tokens).to(dtype),
        ids=ids,
        partner=partner,
        valid=valid_pairs(ids, partner),
    )


@torch.no_grad()
def read_labels(labels: Tensor, indices: Tensor, seed: int, block: int) -> Captions:
    """The same for a class-conditional network. labels: int64 [N], 0 <= label < classes."""
    partner = keyed_derangement(seed, "matching", indices, block or None)
    return Captions(labels, None, labels, partner, valid_pairs(labels, partner))


def prepare_base(models: BaseModels, images: Tensor, captions: Captions, indices: Tensor) -> StepBatch:
    """images: [N, 3, H, W] in [-1, 1] at the generator's size."""
    sizes = models.discriminator.settings.input_resolutions
    return StepBatch(real=image_pyramid(images, sizes), captions=captions, indices=indices)


def prepare_upsampler(
    models: UpsamplerModels, images: Tensor, captions: Captions, indices: Tensor, settings: UpsamplerTraining
) -> StepBatch:
    """images: [N, 3, H, W] in [-1, 1] at the upsampler's output size; its input is made from them."""
    clean = resize(images, models.generator.settings.low_size)
    sizes = models.discriminator.settings.input_resolutions if models.discriminator else [images.shape[-1]]
    seed, strength = settings.schedule.seed, settings.losses.noise
    sigma = strength * keyed_uniform(seed, "low/strength", indices, (1, 1, 1), images.dtype)
    low = clean + sigma * keyed_normal(seed, "low/noise", indices, tuple(clean.shape[1:]), images.dtype)
    return StepBatch(
        real=image_pyramid(images, sizes), captions=captions, indices=indices, low=low, clean_low=clean
    )


def split(batch: StepBatch, size: int) -> list[StepBatch]:
    """Contiguous micro-batches of `size` samples, which divides the batch; 0: the batch itself.

    Captions must have been exchanged within blocks that divide `size` (see `read_captions`).
    """
    total = len(batch.indices)
    if size in (0, total):
        return [batch]
    return [_part(batch, slice(start, start + size)) for start in range(0, total, size)]


def _part(batch: StepBatch, rows: slice) -> StepBatch:
    def cut(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[rows]

    captions = batch.captions
    condition = captions.condition
    if isinstance(condition, TextFeatures):
        condition = TextFeatures(*(value[rows] for value in condition))
    else:
        condition = cut(condition)
    return StepBatch(
        real=[images[rows] for images in batch.real],
        captions=Captions(
            condition,
            cut(captions.embeds),
            captions.ids[rows],
            captions.partner[rows] - rows.start,
            captions.valid[rows],
        ),
        indices=batch.indices[rows],
        low=cut(batch.low),
        clean_low=cut(batch.clean_low),
    )


@torch.no_grad()
def meet_peers(
    models: BaseModels | UpsamplerModels,
    micros: Sequence[StepBatch],
    settings: BaseTraining | UpsamplerTraining,
) -> Sequence[StepBatch]:
    """The micro-batches, each knowing the embeddings of all generated images, where the contrastive loss is on.

    Costs one more pass of generator and image encoder, and makes the accumulated gradient that of the whole batch.
    """
    if len(micros) == 1 or not settings.losses.contrastive:
        return micros
    make = generate_pyramid if isinstance(models, BaseModels) else upsample_pyramid
    embeds = [
        models.encoder.image_embed(make(models, micro, settings.schedule.seed, "generator")[0])
        for micro in micros
    ]
    texts = torch.cat([micro.captions.embeds for micro in micros])
    images, ids = torch.cat(embeds).to(texts.dtype), torch.cat([micro.captions.ids for micro in micros])
    size = len(micros[0].indices)
    return [
        replace(micro, peers=Peers(images, texts, ids, number * size, len(micros)))
        for number, micro in enumerate(micros)
    ]


# ---- base ------------------------------------------------------------------------------------------


def generate_pyramid(models: BaseModels, batch: StepBatch, seed: int, purpose: str) -> list[Tensor]:
    """Images for the batch's captions, high to low; latents are keyed by (seed, purpose, sample index)."""
    generator = models.generator
    z = _latents(generator, batch, seed, purpose)
    return generator(z, batch.captions.condition, _noise(generator, seed, batch.indices))


def discriminator_step(
    models: BaseModels, batch: StepBatch, settings: BaseTraining
) -> tuple[Tensor, Metrics]:
    """D's loss: non-saturating logistic over all predictions, and matching (equation 8)."""
    with torch.no_grad():
        fake = generate_pyramid(models, batch, settings.schedule.seed, "discriminator")
    loss, metrics = _discriminator_loss(models.discriminator, batch, fake, settings.losses)
    if settings.losses.vision_aided:
        vision_aided = _vision_aided_discrimination(models, batch, fake[0])
        loss = loss + settings.losses.vision_aided * vision_aided
        metrics |= {"discriminator/loss": loss.detach(), "discriminator/vision_aided": vision_aided.detach()}
    return loss, metrics


def r1_step(
    models: BaseModels | UpsamplerModels, batch: StepBatch, settings: BaseTraining | UpsamplerTraining
) -> tuple[Tensor, Metrics]:
    """R1 on the real images, already times interval / 2 since it is due once an interval."""
    penalty = r1_penalty(
        models.discriminator,
        batch.real,
        batch.captions.condition,
        settings.losses.level_weights,
        settings.losses.intermediate_adversarial,
    )
    loss = penalty * (0.5 * settings.r1.strength * settings.r1.interval)
    return loss, {"discriminator/r1": penalty.detach()}


def generator_step(models: BaseModels, batch: StepBatch, settings: BaseTraining) -> tuple[Tensor, Metrics]:
    """G's loss: adversarial, matching (its sign is I), CLIP contrastive (equation 9) and vision-aided."""
    losses = settings.losses
    fake = generate_pyramid(models, batch, settings.schedule.seed, "generator")
    loss, metrics = _fooling_loss(models.discriminator, batch, fake, losses)
    embeds = None
    if losses.vision_aided:
        embeds, maps = _vision_features(models, fake[0])
        t_D = models.discriminator.encode(batch.captions.condition)
        vision_aided = generator_loss(models.discriminator.predict_vision(maps, t_D))
        loss = loss + losses.vision_aided * vision_aided
        metrics["generator/vision_aided"] = vision_aided.detach()
    if losses.contrastive:
        if embeds is None or models.vision_encoder not in (None, models.encoder):
            embeds = models.encoder.image_embed(fake[0])
        contrastive = _contrastive(models, batch, embeds, losses.contrastive_temperature)
        loss = loss + losses.contrastive * contrastive
        metrics["generator/contrastive"] = contrastive.detach()
    return loss, {"generator/loss": loss.detach(), **metrics}


@torch.no_grad()
def track_w_mean(
    models: BaseModels | UpsamplerModels,
    micros: Sequence[StepBatch],
    settings: BaseTraining | UpsamplerTraining,
) -> None:
    """Move the network's running mean of w, which truncation pulls towards; the same on every worker."""
    generator = models.generator
    means = []
    for batch in micros:
        z = _latents(generator, batch, settings.schedule.seed, "generator")
        w = generator.map(z, generator.encode(batch.captions.condition))
        means.append(w.mean(dim=0, keepdim=True))
    mean = models.world.mean(torch.stack(means).mean(dim=0))
    generator.update_w_mean(mean, settings.schedule.w_mean_decay)


# ---- upsampler -------------------------------------------------------------------------------------


def upsample_pyramid(models: UpsamplerModels, batch: StepBatch, seed: int, purpose: str) -> list[Tensor]:
    """The batch's low-resolution images made large, high to low."""
    upsampler = models.generator
    z = _latents(upsampler, batch, seed, purpose)
    return upsampler(batch.low, z, batch.captions.condition, _noise(upsampler, seed, batch.indices))


def upsampler_discriminator_step(
    models: UpsamplerModels, batch: StepBatch, settings: UpsamplerTraining
) -> tuple[Tensor, Metrics]:
    """D's loss on full-size real images and on upsampled ones."""
    with torch.no_grad():
        fake = upsample_pyramid(models, batch, settings.schedule.seed, "discriminator")
    return _discriminator_loss(models.discriminator, batch, fake, settings.losses)


def upsampler_generator_step(
    models: UpsamplerModels, batch: StepBatch, settings: UpsamplerTraining
) -> tuple[Tensor, Metrics]:
    """The upsampler's loss: adversarial and matching, plus nearness to the real image and to the input."""
    losses, real = settings.losses, batch.real[0]
    fake = upsample_pyramid(models, batch, settings.schedule.seed, "generator")
    loss, metrics = _fooling_loss(models.discriminator, batch, fake, losses)
    loss = losses.adversarial * loss
    parts: dict[str, tuple[float, Tensor]] = {}
    if losses.contrastive:
        embeds = models.encoder.image_embed(fake[0])
        contrastive = _contrastive(models, batch, embeds, losses.contrastive_temperature)
        parts["contrastive"] = losses.contrastive, contrastive
    if losses.feature_distance:
        parts["feature_distance"] = (
            losses.feature_distance,
            _feature_distance(models, batch, fake[0], settings),
        )
    if losses.lpips:
        parts["lpips"] = losses.lpips, models.lpips(fake[0], real).mean()
    if losses.l1:
        parts["l1"] = losses.l1, l1_loss(fake[0], real)
    if losses.consistency:
        parts["consistency"] = losses.consistency, low_resolution_consistency(fake[0], batch.clean_low)
    for name, (weight, part) in parts.items():
        loss = loss + weight * part
        metrics[f"generator/{name}"] = part.detach()
    return loss, {"generator/loss": loss.detach(), **metrics}


def l1_step(models: UpsamplerModels, batch: StepBatch, settings: UpsamplerTraining) -> tuple[Tensor, Metrics]:
    """The control: the same upsampler and inputs, mean absolute error alone."""
    fake = upsample_pyramid(models, batch, settings.schedule.seed, "generator")
    loss = l1_loss(fake[0], batch.real[0])
    return loss, {"generator/loss": loss.detach()}


# ---- shared ----------------------------------------------------------------------------------------

Losses = BaseLossSettings | UpsamplerLossSettings


def _discriminator_loss(
    discriminator: Discriminator, batch: StepBatch, fake: list[Tensor], losses: Losses
) -> tuple[Tensor, Metrics]:
    captions = batch.captions
    t_D = discriminator.encode(captions.condition)
    features = [discriminator.features(images) for images in (batch.real, fake)]
    real_logits, fake_logits = (discriminator.predict(of, t_D) for of in features)
    adversarial = discriminator_loss(
        real_logits, fake_logits, losses.level_weights, losses.intermediate_adversarial
    )
    loss = adversarial
    metrics = {"discriminator/adversarial": adversarial.detach()}
    metrics |= _logit_means(real_logits, "real") | _logit_means(fake_logits, "fake")
    if losses.matching and t_D is not None:
        matching, valid = _matching(discriminator, features, t_D, captions, losses)
        loss = loss + losses.matching * matching
        metrics["discriminator/matching"] = matching.detach()
        # 0 in a batch whose captions are all equal: matching then taught nothing.
        metrics["discriminator/valid_pair_share"] = valid / len(captions.valid)
    return loss, {"discriminator/loss": loss.detach(), **metrics}


def _fooling_loss(
    discriminator: Discriminator, batch: StepBatch, fake: list[Tensor], losses: Losses
) -> tuple[Tensor, Metrics]:
    t_D = discriminator.encode(batch.captions.condition)
    features = discriminator.features(fake)
    adversarial = generator_loss(
        discriminator.predict(features, t_D), losses.level_weights, losses.intermediate_adversarial
    )
    loss, metrics = adversarial, {"generator/adversarial": adversarial.detach()}
    if losses.matching and losses.matching_in == "both" and t_D is not None:
        matching, _ = _matching(discriminator, [features], t_D, batch.captions, losses)
        loss = loss + losses.matching * matching
        metrics["generator/matching"] = matching.detach()
    return loss, metrics


def _matching(
    discriminator: Discriminator,
    features: list[ImageFeatures],
    t_D: Tensor,
    captions: Captions,
    losses: Losses,
) -> tuple[Tensor, Tensor]:
    wrong = t_D[captions.partner]
    mismatched = [discriminator.predict(of, wrong) for of in features]
    result = matching_loss(mismatched, captions.valid, losses.level_weights, losses.intermediate_matching)
    return result.loss, result.valid


def _contrastive(
    models: BaseModels | UpsamplerModels, batch: StepBatch, embeds: Tensor, temperature: float
) -> Tensor:
    # Every worker computes the loss over the captions of the whole global batch: see World.gather.
    world, captions = models.world, batch.captions
    embeds, texts, ids = embeds.to(captions.embeds.dtype), captions.embeds, captions.ids
    if batch.peers is not None:
        embeds, texts, ids = _among_peers(embeds, batch.peers), batch.peers.text_embeds, batch.peers.ids
    return clip_contrastive_loss(
        world.gather(embeds), world.gather(texts), temperature=temperature, ids=world.gather(ids)
    )


def _among_peers(embeds: Tensor, peers: Peers) -> Tensor:
    """[n, E] of all micro-batches, where this one's have a gradient.

    The loss of all of them is computed in each of `count` micro-batches and then averaged, but a sample has its
    gradient in one of them only: hence times `count`, value untouched.
    """
    own = embeds.detach() + peers.count * (embeds - embeds.detach())
    before, after = peers.image_embeds[: peers.start], peers.image_embeds[peers.start + len(embeds) :]
    return torch.cat([before, own, after])


def _vision_aided_discrimination(models: BaseModels, batch: StepBatch, fake: Tensor) -> Tensor:
    """D's logistic loss on the frozen encoder's features of real images and of `fake` [N, 3, H, W]."""
    discriminator = models.discriminator
    t_D = discriminator.encode(batch.captions.condition)
    predictions = []
    for images in (batch.real[0], fake):
        with torch.no_grad():
            _, maps = _vision_features(models, images)
        predictions.append(discriminator.predict_vision(maps, t_D))
    return discriminator_loss(*predictions)


def _vision_features(models: BaseModels, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Embeddings and the maps that the vision-aided heads read, in one pass of the frozen encoder."""
    encoder = models.encoder if models.vision_encoder is None else models.vision_encoder
    return encoder.image_features(images, models.discriminator.settings.vision_layers)


def _feature_distance(
    models: UpsamplerModels, batch: StepBatch, images: Tensor, settings: UpsamplerTraining
) -> Tensor:
    real, count = batch.real[0], settings.losses.feature_patches
    if not count:
        return encoder_feature_distance(models.encoder.image_embed, images, real)
    side = models.encoder.image_size
    corners = patch_corners(settings.schedule.seed, batch.indices, real.shape[-1], side, count)
    return encoder_feature_distance(models.encoder.image_embed, images, real, corners, side)


def _latents(network: Generator | Upsampler, batch: StepBatch, seed: int, purpose: str) -> Tensor:
    shape = (network.settings.z_dim,)
    return keyed_normal(seed, f"{purpose}/z", batch.indices, shape, batch.real[0].dtype)


def _logit_means(predictions: Predictions, name: str) -> Metrics:
    levels = sorted({prediction.level for prediction in predictions})
    return {f"discriminator/logit_{name}_level{level}": mean_logit(predictions, level) for level in levels}


def _noise(network: Generator | Upsampler, seed: int, indices: Tensor) -> Noise | None:
    if not network.settings.noise:
        return None
    draw, dtype = keyed_noise(seed, indices), network.w_mean.dtype
    return lambda layer, resolution: draw(layer, resolution).to(dtype)
