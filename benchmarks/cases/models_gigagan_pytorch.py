"""The peer's side of `bench_models.py`: gigagan-pytorch by its own classes and its own trainer's steps."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from importlib.metadata import version
from typing import Any

import torch
from gigagan_pytorch.gigagan_pytorch import AdaptiveConv2DMod, Discriminator, Generator, GigaGAN
from torch import Tensor, nn

from benchmarks.side_by_side import answer

GENERATOR = {
    "image_size": 64,
    "dim_capacity": 8,
    "dim_max": 512,
    "style_network": {"dim": 64, "depth": 4},
    "unconditional": True,
}
DISCRIMINATOR = {"image_size": 64, "dim_capacity": 16, "dim_max": 256, "unconditional": True}


class Measured(ABC):
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
    """Their adaptive convolution alone: no affine layers, bias or activation."""

    def __init__(self, options: dict[str, Any]):
        super().__init__(options)
        self.layer = AdaptiveConv2DMod(256, 256, 3, num_conv_kernels=8).to(self.device)
        shapes = ((self.batch, 256, 16, 16), (self.batch, 256), (self.batch, 8))
        self.inputs = [torch.randn(shape, device=self.device, requires_grad=True) for shape in shapes]
        self.count(self.layer)

    def loss(self) -> Tensor:
        return self.layer(*self.inputs).square().mean()


class GeneratorPass(Pass):
    def __init__(self, options: dict[str, Any]):
        super().__init__(options)
        self.network = Generator(**GENERATOR).to(self.device)
        self.count(self.network)

    def loss(self) -> Tensor:
        noise = torch.randn(self.batch, 64, device=self.device)
        image, levels = self.network(noise=noise, batch_size=self.batch, return_all_rgbs=True)
        return image.square().mean() + sum(level.square().mean() for level in levels)


class DiscriminatorPass(Pass):
    def __init__(self, options: dict[str, Any]):
        super().__init__(options)
        self.network = Discriminator(**DISCRIMINATOR).to(self.device)
        self.images = torch.rand(self.batch, 3, 64, 64, device=self.device) * 2 - 1
        self.levels = self.network.real_images_to_rgbs(self.images)
        self.count(self.network)

    def loss(self) -> Tensor:
        logits, multi, _ = self.network(
            self.images, self.levels, return_multiscale_outputs=True, calc_aux_loss=False
        )
        return logits.square().mean() + sum(part.square().mean() for part in multi)


class Step(Measured):
    """One step of each of their trainer's networks, without gradient penalty."""

    penalty = False

    def __init__(self, options: dict[str, Any]):
        super().__init__(options)
        folder = tempfile.mkdtemp()
        self.gan = GigaGAN(
            generator=GENERATOR,
            discriminator=DISCRIMINATOR,
            model_folder=f"{folder}/models",
            results_folder=f"{folder}/results",
            amp=self.bf16,
            mixed_precision_type="bf16",
            accelerate_kwargs={"cpu": self.device.type == "cpu"},
        ).to(self.device)
        self.count(self.gan.unwrapped_G, self.gan.unwrapped_D)

    def warm_up(self) -> None:
        self._step(penalty=False)

    def run(self) -> None:
        self._step(self.penalty)
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def _step(self, penalty: bool) -> None:
        batches = iter(lambda: torch.rand(self.batch, 3, 64, 64), None)
        self.gan.train_discriminator_step(dl_iter=batches, apply_gradient_penalty=penalty)
        self.gan.train_generator_step(dl_iter=batches, batch_size=self.batch)


class PenaltyStep(Step):
    """The same with their gradient penalty, on real and on generated images."""

    penalty = True


CASES = {
    "convolution": Convolution,
    "generator": GeneratorPass,
    "discriminator": DiscriminatorPass,
    "step": Step,
    "penalty_step": PenaltyStep,
}

if __name__ == "__main__":
    answer(CASES, {"torch": torch.__version__, "gigagan-pytorch": version("gigagan-pytorch")})
