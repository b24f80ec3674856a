"""The peer's side of `bench_training.py`: the trainer and data set of gigagan-pytorch, over the same pictures."""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from typing import Any

import torch
from gigagan_pytorch import GigaGAN, ImageDataset

from benchmarks.cases.models_gigagan_pytorch import DISCRIMINATOR, GENERATOR
from benchmarks.side_by_side import answer

PENALTY_EVERY = 16  # as often as ours; its own default is 4


class Training:
    """`steps` steps of its trainer a run; it saves nothing in between."""

    calls = 1
    parameters: int | None = None

    def __init__(self, options: dict[str, Any]):
        torch.manual_seed(0)
        folder = tempfile.mkdtemp()
        self._steps = options["steps"]
        self._gan = GigaGAN(
            generator=GENERATOR,
            discriminator=DISCRIMINATOR,
            model_folder=f"{folder}/models",
            results_folder=f"{folder}/results",
            apply_gradient_penalty_every=PENALTY_EVERY,
            save_and_sample_every=10**9,
            early_save_thres_steps=0,
            accelerate_kwargs={"cpu": True},
        )
        data = ImageDataset(options["pictures"], image_size=64, augment_horizontal_flip=False)
        self._gan.set_dataloader(data.get_dataloader(batch_size=options["batch"], num_workers=1))

    def warm_up(self) -> None:
        self._gan(steps=1)  # saves and draws samples, as its first step always does

    def run(self) -> None:
        self._gan(steps=self._steps)


if __name__ == "__main__":
    answer(
        {"training": Training}, {"torch": torch.__version__, "gigagan-pytorch": version("gigagan-pytorch")}
    )
