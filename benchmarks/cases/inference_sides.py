"""Our side of `bench_inference.py`: pictures through `GigaGANPipeline` and `TiledUpsampler`, random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cases.models_ours import FixedText
from benchmarks.side_by_side import answer
from gigagan_core.inference.pipeline import GigaGANPipeline
from gigagan_core.inference.upsampling import TiledUpsampler, TileOptions
from gigagan_core.models import published
from gigagan_core.models.generator import Generator
from gigagan_core.models.settings import demo_generator, demo_upsampler
from gigagan_core.models.upsampler import Upsampler


class _Words(FixedText):
    """Token features in the place of a frozen CLIP's, whose own work is the same for everybody."""

    context_length = 77

    def tokenize(self, captions: list[str]) -> Tensor:
        return torch.zeros(len(captions), 77, dtype=torch.int64)


def _network(kind: type[nn.Module], settings: Any, device: str) -> nn.Module:
    torch.manual_seed(0)
    return kind(settings).to(device).eval().requires_grad_(False)


class Picture:
    """One prompt to one finished picture, batch 1."""

    calls = 1

    def __init__(self, options: dict[str, Any]):
        torch.set_num_threads(options["threads"])
        device, size = options["device"], options["size"]
        paper = options["networks"] == "paper"
        base = published.text_to_image_64_generator() if paper else demo_generator(64)
        encoder = _Words(base.text_dim)
        upsampler = None
        if size > 64:
            large = published.upsampler_64_to_512() if paper else demo_upsampler(64, size)
            upsampler = TiledUpsampler(_network(Upsampler, large, device), encoder)
        network = _network(Generator, base, device)
        self.pipe = GigaGANPipeline(network, encoder, upsampler, precision=options["precision"])
        networks = [network, *([upsampler.network] if upsampler else [])]
        self.parameters = sum(p.numel() for each in networks for p in each.parameters())
        self.upsample = upsampler is not None
        self.size = size
        self.seed = 0

    def warm_up(self) -> None:
        self.run()

    def run(self) -> None:
        self.seed += 1
        made = self.pipe("a red apple", seed=self.seed, batch_size=1, upsample=self.upsample)
        assert made.images[0].size == (self.size, self.size)


class Large:
    """512 px to 4096 px in tiles."""

    calls = 1

    def __init__(self, options: dict[str, Any]):
        torch.set_num_threads(options["threads"])
        paper = options["networks"] == "paper"
        settings = published.upsampler_64_to_512() if paper else demo_upsampler()
        network = _network(Upsampler, settings, options["device"])
        self.upsampler = TiledUpsampler(network, _Words(settings.text_dim))
        self.parameters = sum(p.numel() for p in network.parameters())
        self.low = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(0)) * 2 - 1
        self.options = TileOptions(memory_limit=2.0, precision=options["precision"])

    def warm_up(self) -> None:
        side = self.upsampler.network.settings.low_size
        self.upsampler.enlarge(self.low[..., :side, :side], [""], options=self.options)

    def run(self) -> None:
        large = self.upsampler.enlarge(self.low, [""], 8, options=self.options)
        assert large.shape == (1, 3, 4096, 4096)


if __name__ == "__main__":
    answer({"picture": Picture, "large": Large}, {"torch": torch.__version__})
