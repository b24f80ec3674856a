"""Networks small enough for float64 checks, with every part switched on."""

import dataclasses

import pytest
import torch

from gigagan_core.models.discriminator import Discriminator
from gigagan_core.models.generator import Generator
from gigagan_core.models.settings import DiscriminatorSettings, GeneratorSettings, UpsamplerSettings
from gigagan_core.models.text import TextFeatures
from gigagan_core.models.upsampler import Upsampler

TEXT = {"text_dim": 12, "text_width": 8, "text_depth": 1, "text_head_dim": 4}
ATTENTION = {"attention_head_dim": 4, "attention_mlp_ratio": 2.0}


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small spend their time waiting for threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def generator_settings() -> GeneratorSettings:
    return GeneratorSettings(
        image_size=16,
        z_dim=6,
        w_dim=10,
        mapping_depth=2,
        channel_base=128,
        channel_max=8,
        kernels=(1, 2, 3),
        blocks=(2, 1, 1),
        attention_depths=(0, 1, 0),
        **TEXT,
        **ATTENTION,
    )


@pytest.fixture
def discriminator_settings() -> DiscriminatorSettings:
    return DiscriminatorSettings(
        image_size=16,
        levels=3,
        channel_base=128,
        channel_max=8,
        blocks=(1, 2, 1),
        attention_depths=(0, 1, 0),
        predictor_depth=2,
        **TEXT,
        **ATTENTION,
    )


@pytest.fixture
def upsampler_settings() -> UpsamplerSettings:
    return UpsamplerSettings(
        low_size=8,
        image_size=16,
        bottleneck_size=4,
        z_dim=6,
        w_dim=10,
        mapping_depth=2,
        channel_base=128,
        channel_max=8,
        encoder_blocks=(1,),
        encoder_attention_depths=(1,),
        kernels=(1, 1, 2),
        blocks=(1, 1, 1),
        attention_depths=(1, 0, 0),
        lowest_rgb=4,
        **TEXT,
        **ATTENTION,
    )


@pytest.fixture
def make_generator(generator_settings):
    def make(dtype=torch.float32, **changes) -> Generator:
        torch.manual_seed(0)
        return Generator(dataclasses.replace(generator_settings, **changes)).to(dtype)

    return make


@pytest.fixture
def make_discriminator(discriminator_settings):
    def make(dtype=torch.float32, **changes) -> Discriminator:
        torch.manual_seed(1)
        return Discriminator(dataclasses.replace(discriminator_settings, **changes)).to(dtype)

    return make


@pytest.fixture
def make_upsampler(upsampler_settings):
    def make(dtype=torch.float32, **changes) -> Upsampler:
        torch.manual_seed(2)
        return Upsampler(dataclasses.replace(upsampler_settings, **changes)).to(dtype)

    return make


@pytest.fixture
def make_condition(make_text):
    def make(network: torch.nn.Module, size: int = 3):
        """What the network is conditioned on: captions, labels, or nothing."""
        if network.settings.conditioning == "class":
            return torch.arange(size) % network.settings.classes
        return make_text(size) if network.settings.text_conditioned else None

    return make


@pytest.fixture
def make_text():
    def make(size=3, length=7, dtype=torch.float32, seed=3) -> TextFeatures:
        """Captions of different lengths, padding after end-of-text."""
        random = torch.Generator().manual_seed(seed)
        eot = torch.arange(size) % (length - 2) + 1
        mask = torch.arange(length)[None] <= eot[:, None]
        features = torch.randn(size, length, TEXT["text_dim"], generator=random, dtype=torch.float64).to(
            dtype
        )
        return TextFeatures(features, eot, mask)

    return make
