"""Images from model bundles: captions to images, and small images to large ones.

Latents are keyed by (seed, index), index being the position in the list given, so image i does not depend on the
batch size or on how many images are made (up to the rounding of the last bit, which a different batch size can move by
1 of 255). `pipeline.GigaGANPipeline` is the door for people; these functions serve the stages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gigagan_core.errors import GigaganError
from gigagan_core.inference.conditions import Prompt, code_of, condition_of
from gigagan_core.inference.latents import LATENT, LOW_NOISE, fixed_noise
from gigagan_core.models.randomness import keyed_normal
from gigagan_core.training.checkpoint import load_bundle, load_untrained

if TYPE_CHECKING:
    from gigagan_core.encoders.protocol import Encoder


@torch.no_grad()
def generate(
    bundle: Path | str,
    captions: Sequence[Prompt],
    encoder: Encoder | None,
    seed: int = 0,
    psi: float = 1.0,
    batch_size: int = 64,
    untrained: bool = False,
    on_batch: Callable[[int], None] = lambda done: None,
    prompt_psi: float = 1.0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """One image a caption (or class label): uint8 [N, 3, H, W] on the CPU.

    bundle: of a base model, or an artifact's folder that holds one. psi: truncation towards the mean over all prompts,
    prompt_psi: towards the prompt's own; 1 changes nothing.
    untrained: the generator as it was before the first step, from the seed that the config names.
    on_batch: called with the number of images just made. device: where the work is done; the encoder must be there.
    Raises GigaganError for a bundle that does not fit.
    """
    network, config = open_bundle(bundle, "base", encoder, untrained, device)
    indices = torch.arange(len(captions))
    images = []
    for rows in indices.split(batch_size):
        batch = [captions[row] for row in rows.tolist()]
        images.append(draw(network, encoder, batch, rows, seed, psi, prompt_psi))
        on_batch(len(rows))
    size = config["image_size"]
    return torch.cat(images) if images else torch.empty(0, 3, size, size, dtype=torch.uint8)


@torch.no_grad()
def draw(
    network: nn.Module,
    encoder: Encoder | None,
    captions: Sequence[Prompt],
    indices: Tensor,
    seed: int,
    psi: float,
    prompt_psi: float = 1.0,
    strict: bool = True,
) -> Tensor:
    """One batch of images from a base generator: uint8 [N, 3, H, W] on the CPU; indices int64 [N] key the latents.

    captions: N; labels for a class-conditional network, anything for one without condition. prompt_psi, psi: truncation
    towards the prompt's own mean and then towards the mean over all (the order is R).
    Raises GigaganError where an image is not finite; strict False: shows what there is.
    """
    device = next(network.parameters()).device
    z = keyed_normal(seed, LATENT, indices.to(device), (network.settings.z_dim,))
    code = code_of(network, encoder, captions)
    w = network.map(z, code)
    if prompt_psi != 1.0:
        w = network.truncate(w, prompt_psi, network.prompt_mean(code))
    w = network.truncate(w, psi)
    images = network.synthesise(w, code, fixed_noise(device))[0]
    return to_uint8(finite(images) if strict else images)


@torch.no_grad()
def upsample(
    bundle: Path | str,
    low: Tensor,
    captions: Sequence[Prompt],
    encoder: Encoder | None,
    seed: int = 0,
    noise: float = 0.0,
    batch_size: int = 32,
    untrained: bool = False,
    on_batch: Callable[[int], None] = lambda done: None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Large images from small ones: uint8 [N, 3, H, W] on the CPU.

    low: uint8 [N, 3, h, h] at the upsampler's input size. captions: N, one an image. noise: standard deviation of
    Gaussian noise added to the input, in units of [-1, 1]; more lets the network invent more. device: as in `generate`.
    Raises GigaganError for a bundle or images that do not fit.
    """
    network, config = open_bundle(bundle, "upsampler", encoder, untrained, device)
    side = network.settings.low_size
    if low.dtype != torch.uint8 or tuple(low.shape[1:]) != (3, side, side):
        raise GigaganError(
            f"the upsampler {bundle} takes uint8 images [N, 3, {side}, {side}], not {low.dtype} {list(low.shape)}"
        )
    if len(captions) != len(low):
        raise GigaganError(
            f"{len(low)} images and {len(captions)} captions were given; give one caption an image"
        )
    indices = torch.arange(len(low))
    images = []
    for rows in indices.split(batch_size):
        batch_captions = [captions[row] for row in rows.tolist()]
        images.append(enlarge(network, encoder, low[rows], batch_captions, rows, seed, noise))
        on_batch(len(rows))
    size = config["image_size"]
    return torch.cat(images) if images else torch.empty(0, 3, size, size, dtype=torch.uint8)


@torch.no_grad()
def enlarge(
    network: nn.Module,
    encoder: Encoder | None,
    low: Tensor,
    captions: Sequence[Prompt],
    indices: Tensor,
    seed: int,
    noise: float,
    strict: bool = True,
) -> Tensor:
    """One batch through an upsampler: uint8 [N, 3, h, h] -> uint8 [N, 3, H, W]; indices int64 [N] key the latents.

    Raises GigaganError where an image is not finite; strict False: shows what there is.
    """
    device = next(network.parameters()).device
    indices = indices.to(device)
    small = low.to(device).to(torch.float32) / 127.5 - 1
    if noise:
        small = small + noise * keyed_normal(seed, LOW_NOISE, indices, tuple(small.shape[1:]))
    z = keyed_normal(seed, LATENT, indices, (network.settings.z_dim,))
    condition = condition_of(network, encoder, captions)
    images = network(small, z, condition, fixed_noise(device))[0]
    return to_uint8(finite(images) if strict else images)


class NotFinite(GigaganError):
    """A network gave NaN or infinity: the fault of the model, whatever it was asked for."""


def finite(images: Tensor) -> Tensor:
    """The images [N, 3, H, W]. Raises NotFinite where they hold NaN or infinity, which bytes would not show."""
    bad = (~torch.isfinite(images)).flatten(1).any(dim=1)
    if bad.any():
        raise NotFinite(
            f"{int(bad.sum())} of {len(images)} images are not finite: the model's weights are damaged or its training "
            "diverged; take an earlier checkpoint, or float32 as precision"
        )
    return images


def to_uint8(images: Tensor) -> Tensor:
    """float [N, 3, H, W] in [-1, 1] (clamped) -> uint8, rounded to nearest, on the CPU."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()


def open_bundle(
    bundle: Path | str,
    kind: str,
    encoder: Encoder | None,
    untrained: bool = False,
    device: torch.device | str = "cpu",
) -> tuple[nn.Module, dict]:
    """The network of a bundle on a device, and its config. Raises GigaganError as `load_bundle` and `check_bundle` do.

    untrained: as it was before the first step.
    """
    network, config = (load_untrained if untrained else load_bundle)(bundle, device)
    check_bundle(bundle, network, config, kind, encoder)
    return network, config


def check_bundle(
    bundle: Path | str, network: nn.Module, config: dict, kind: str, encoder: Encoder | None
) -> None:
    """Raise GigaganError where a bundle is of another kind ("base", "upsampler"), or has had another encoder."""
    if config["kind"] != kind:
        raise GigaganError(
            f"model bundle {bundle} is of kind {config['kind']}, and kind {kind} is needed here; name another model"
        )
    if not network.settings.text_conditioned or encoder is None:
        return
    if config.get("encoder_sha256") not in (None, encoder.sha256):
        raise GigaganError(
            f"model bundle {bundle} was trained with encoder {config['encoder_sha256'][:12]}, not with "
            f"{encoder.sha256[:12]}; give the encoder that its manifest names"
        )
