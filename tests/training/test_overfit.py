"""Eight captioned images learned by heart: the GAN's losses together give each caption its own image."""

from __future__ import annotations

import pytest
import torch

from gigagan_core.models.settings import DiscriminatorSettings, GeneratorSettings
from gigagan_core.training.loop import Batch, run_loop
from gigagan_core.training.recipes import base_training
from gigagan_core.training.settings import (
    BaseLossSettings,
    BaseTraining,
    EmaSettings,
    OptimiserSettings,
    R1Settings,
    ScheduleSettings,
)
from gigagan_core.training.world import World

from .conftest import ATTENTION, Hooks, make_encoder

SIZE, STEPS = 16, 400
CAPTIONS = [
    "red disc",
    "green disc",
    "blue disc",
    "black square",
    "red stripes",
    "green square",
    "sky",
    "sun",
]
TEXT = {"text_dim": 16, "text_width": 32, "text_depth": 1, "text_head_dim": 8}


def make_targets() -> torch.Tensor:
    """[8, 3, 16, 16] in [-1, 1]: shapes of one colour on another."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, SIZE), torch.linspace(-1, 1, SIZE), indexing="ij")
    disc, square, stripes = (x**2 + y**2) < 0.5, (x.abs() < 0.6) & (y.abs() < 0.6), (x * 5).sin() > 0
    red, green, blue = (torch.eye(3)[i] * 1.6 - 0.8 for i in range(3))
    white, black = torch.full((3,), 0.9), torch.full((3,), -0.9)
    pairs = [
        (disc, red, white),
        (disc, green, white),
        (disc, blue, black),
        (square, black, white),
        (stripes, red, black),
        (square, green, black),
        (y < 0, blue, white),
        (disc, red + green + 0.8, blue),
    ]
    return torch.stack(
        [torch.where(mask, inside[:, None, None], outside[:, None, None]) for mask, inside, outside in pairs]
    )


def the_same_batch():
    images, start = make_targets(), 0
    while True:
        yield Batch(images, CAPTIONS, CAPTIONS, torch.arange(start, start + 8))
        start += 8


@pytest.fixture(scope="module")
def trained():
    encoder = make_encoder()
    optimiser = OptimiserSettings(learning_rate=0.0025)
    training = BaseTraining(
        schedule=ScheduleSettings(batch_size=8, total_images=8 * STEPS, w_mean_decay=0.9),
        losses=BaseLossSettings(level_weights=(0.4, 0.3, 0.3), contrastive=0.0),
        generator=optimiser,
        discriminator=optimiser,
        r1=R1Settings(strength=0.5),
        ema=EmaSettings(decay=0.95),
    )
    state, recipe = base_training(
        GeneratorSettings(
            image_size=SIZE,
            z_dim=8,
            w_dim=32,
            mapping_depth=2,
            mapping_lr_multiplier=0.1,
            channel_base=512,
            channel_max=48,
            kernels=(1, 2, 2),
            blocks=(1, 1, 1),
            attention_depths=(0, 1, 0),
            noise=False,
            **TEXT,
            **ATTENTION,
        ),
        DiscriminatorSettings(
            image_size=SIZE,
            levels=3,
            channel_base=512,
            channel_max=48,
            blocks=(1, 1, 1),
            attention_depths=(0, 1, 0),
            predictor_depth=2,
            **TEXT,
            **ATTENTION,
        ),
        training,
        encoder,
    )
    run_loop(state, recipe, the_same_batch(), training.schedule, Hooks(), World())
    return state.ema, encoder


def draw(trained, captions: list[str]) -> torch.Tensor:
    network, encoder = trained
    z = torch.randn(8, 8, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return network(z, encoder.text_tokens(encoder.tokenize(captions)))[0]


def nearest(found: torch.Tensor, targets: torch.Tensor) -> list[int]:
    return torch.cdist(found.flatten(1), targets.flatten(1)).argmin(dim=1).tolist()


def test_each_image_is_nearest_to_its_own_target_in_pixels_and_in_features(trained) -> None:
    images, targets = draw(trained, CAPTIONS), make_targets()
    assert nearest(images, targets) == list(range(8))
    _, encoder = trained
    with torch.no_grad():
        features = [encoder.image_embed(x) for x in (images, targets)]
    assert nearest(*features) == list(range(8))


def test_swapping_two_captions_swaps_the_two_images(trained) -> None:
    swapped = [CAPTIONS[i] for i in (0, 6, 2, 3, 4, 5, 1, 7)]
    assert nearest(draw(trained, swapped), make_targets()) == [0, 6, 2, 3, 4, 5, 1, 7]
