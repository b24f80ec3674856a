"""The default settings are the paper's sizes, counted on the meta device without the text encoder T."""

import pytest
import torch

from gigagan_core.models.discriminator import Discriminator
from gigagan_core.models.generator import Generator
from gigagan_core.models.settings import DiscriminatorSettings, GeneratorSettings, UpsamplerSettings
from gigagan_core.models.upsampler import Upsampler


@pytest.mark.parametrize(
    ("kind", "settings", "millions"),
    [
        (Generator, GeneratorSettings(w_token=False), 652.5),
        (Generator, GeneratorSettings(), 652.5),
        (Discriminator, DiscriminatorSettings(), 381.4),
        (Upsampler, UpsamplerSettings(w_token=False), 359.1),
    ],
)
def test_networks_are_within_one_percent_of_the_published_count(kind, settings, millions):
    with torch.device("meta"):
        network = kind(settings)
    total = sum(p.numel() for n, p in network.named_parameters() if not n.startswith("text_encoder."))
    assert total / 1e6 == pytest.approx(millions, rel=0.01)


def test_the_learned_text_encoder_has_the_size_of_four_transformer_layers():
    with torch.device("meta"):
        network = Generator(GeneratorSettings()).text_encoder
    assert sum(p.numel() for p in network.parameters()) == 28_351_488
