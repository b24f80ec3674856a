"""Our side of `bench_models.py`. Runs with torch alone."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.side_by_side import answer
from gigagan_core.models.adaptive_conv import AdaptiveConv2d
from gigagan_core.models.condition import Condition
from gigagan_core.models.discriminator import Discriminator
from gigagan_core.models.generator import Generator
from gigagan_core.models.pyramid import image_pyramid
from gigagan_core.models.settings import DiscriminatorSettings, GeneratorSettings
from gigagan_core.models.text import TextFeatures
from gigagan_core.training.loop import Batch, Recipe, train_step
from gigagan_core.training.recipes import base_training
from gigagan_core.training.settings import BaseLossSettings, BaseTraining, ScheduleSettings
from gigagan_core.training.world import World

# As many parameters as the peer's networks have, 9.9M and 10.4M: the paper's widths divided by four or a little more,
# one block a resolution. Attention at 16 and 32 px and two kernels, as the peer's.
WIDTHS = {"z_dim": 64, "w_dim": 256, "kernels": (2,) * 5, "blocks": (1,) * 5}
TEXT = {"text_dim": 256, "text_width": 256, "text_depth": 1}
ATTENTION = {"attention_depths": (0, 0, 1, 1, 0), "attention_head_dim": 32}
UNCONDITIONAL = {"conditioning": "none", "cross_attention": False}
GENERATOR = GeneratorSettings(channel_base=4096, channel_max=280, **WIDTHS, **ATTENTION, **UNCONDITIONAL)
DISCRIMINATOR = DiscriminatorSettings(
    channel_base=4096, channel_max=408, blocks=(1,) * 5, conditioning="none", **ATTENTION
)
TEXT_GENERATOR = GeneratorSettings(channel_base=4096, channel_max=224, **WIDTHS, **ATTENTION, **TEXT)
TEXT_DISCRIMINATOR = DiscriminatorSettings(
    channel_base=4096, channel_max=288, blocks=(1,) * 5, **ATTENTION, **TEXT
)


class Measured(ABC):
    """A case on a device; `run` waits for it."""

    def __init__(self, options: dict[str, Any]):
        self.device = torch.device(options["device"])
        self.batch, self.bf16 = options["batch"], options["precision"] == "bf16"
        self.parameters: int | None = None
        # A call of milliseconds is repeated: alone, it would mostly meet the other process's caches.
        self.calls = options["calls"]
        torch.manual_seed(0)

    def warm_up(self) -> None:
        self.run()

    @abstractmethod
    def run(self) -> None:
        """The work."""

    def count(self, *networks: nn.Module) -> None:
        self.parameters = sum(p.numel() for network in networks for p in network.parameters())


class Pass(Measured):
    """Forward and backward, `calls` times."""

    def run(self) -> None:
        for _ in range(self.calls):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                loss = self.loss()
            loss.backward()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @abstractmethod
    def loss(self) -> Tensor:
        """A scalar to differentiate."""


class Convolution(Pass):
    """Adaptive convolution with its affine layers, bias and activation, 256 -> 256, 16 x 16, N 8."""

    def __init__(self, options: dict[str, Any]):
        super().__init__(options)
        self.layer = AdaptiveConv2d(256, 256, 256, kernels=8).to(self.device)
        x = torch.randn(self.batch, 256, 16, 16, device=self.device).contiguous(
            memory_format=torch.channels_last
        )
        self.x, self.w = (
            x.requires_grad_(),
            torch.randn(self.batch, 256, device=self.device, requires_grad=True),
        )
        self.count(self.layer)

    def loss(self) -> Tensor:
        return self.layer(self.x, self.w).square().mean()


class GeneratorPass(Pass):
    """Forward and backward of the generator, all pyramid levels."""

    def __init__(self, options: dict[str, Any]):
        super().__init__(options)
        self.network = Generator(GENERATOR).to(self.device)
        self.count(self.network)

    def loss(self) -> Tensor:
        z = torch.randn(self.batch, self.network.settings.z_dim, device=self.device)
        return sum(image.square().mean() for image in self.network(z))


class DiscriminatorPass(Pass):
    """Forward and backward of the discriminator on a pyramid."""

    def __init__(self, options: dict[str, Any]):
        super().__init__(options)
        self.network = Discriminator(DISCRIMINATOR).to(self.device)
        images = torch.rand(self.batch, 3, 64, 64, device=self.device) * 2 - 1
        self.pyramid = image_pyramid(images, DISCRIMINATOR.input_resolutions)
        self.count(self.network)

    def loss(self) -> Tensor:
        return sum(p.logits.square().mean() for p in self.network(self.pyramid))


class NoText:
    """In the place of a frozen encoder, for networks without text."""

    def tokenize(self, captions: list[str]) -> Tensor:
        return torch.zeros(len(captions), 2, dtype=torch.int64)

    def text_tokens(self, tokens: Tensor, text_layer: int = -2) -> Condition:
        mask = torch.ones(tokens.shape, dtype=torch.bool, device=tokens.device)
        return TextFeatures(torch.zeros(*tokens.shape, 1, device=tokens.device), tokens[:, 0], mask)

    def text_embed(self, tokens: Tensor) -> Tensor:
        return torch.zeros(len(tokens), 1, device=tokens.device)


class FixedText(NoText):
    """77 token features a caption, drawn once: the frozen encoder's own work is the same for everybody."""

    def __init__(self, width: int):
        self.width = width

    def text_tokens(self, tokens: Tensor, text_layer: int = -2) -> Condition:
        random = torch.Generator().manual_seed(0)
        features = torch.randn(len(tokens), 77, self.width, generator=random).to(tokens.device)
        eot = torch.full((len(tokens),), 20, dtype=torch.int64, device=tokens.device)
        return TextFeatures(
            features, eot, (torch.arange(77, device=tokens.device) <= 20).expand(len(tokens), -1)
        )


class Step(Measured):
    """A whole training step: both updates with their optimisers and the moving average, R1 off."""

    text = False
    every = 1_000_000  # steps between penalties, after the first

    def __init__(self, options: dict[str, Any]):
        super().__init__(options)
        schedule = ScheduleSettings(
            batch_size=self.batch,
            precision="bfloat16" if self.bf16 else "float32",
            compile=options.get("compile", False),
        )
        losses = (
            BaseLossSettings(contrastive=0.0)
            if self.text
            else BaseLossSettings(matching=0.0, contrastive=0.0)
        )
        training = BaseTraining(schedule=schedule, losses=losses)
        training = dataclasses.replace(training, r1=dataclasses.replace(training.r1, interval=self.every))
        networks = (TEXT_GENERATOR, TEXT_DISCRIMINATOR) if self.text else (GENERATOR, DISCRIMINATOR)
        encoder = FixedText(TEXT["text_dim"]) if self.text else NoText()
        self.state, self.recipe = base_training(*networks, training, encoder, self.device)
        self.count(*self.state.networks.values())
        self.state.step = 1  # the penalty is due at step 0

    def warm_up(self) -> None:
        self.run()
        self.state.step = 1

    def run(self) -> None:
        step(self.state, self.recipe, self.batch)
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class PenaltyStep(Step):
    """The same with R1."""

    every = 1


class TextStep(Step):
    """The same, conditioned on text, with matching loss in both networks; R1 off."""

    text = True


def step(state: Any, recipe: Recipe, size: int, side: int = 64) -> None:
    """One training step on `size` random images."""
    start = state.images_seen
    captions = [f"caption {start + i}" for i in range(size)]
    images = torch.rand(size, 3, side, side) * 2 - 1
    train_step(state, recipe, Batch(images, captions, captions, torch.arange(start, start + size)), World())


CASES = {
    "convolution": Convolution,
    "generator": GeneratorPass,
    "discriminator": DiscriminatorPass,
    "step": Step,
    "penalty_step": PenaltyStep,
    "text_step": TextStep,
}

if __name__ == "__main__":
    answer(CASES, {"torch": torch.__version__})
