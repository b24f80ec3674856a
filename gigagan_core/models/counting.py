"""How many parameters settings make, without memory: networks on the meta device."""

from __future__ import annotations

import torch
from torch import nn

from gigagan_core.models.discriminator import Discriminator
from gigagan_core.models.generator import Generator
from gigagan_core.models.settings import DiscriminatorSettings, GeneratorSettings, UpsamplerSettings
from gigagan_core.models.upsampler import Upsampler

NOT_COUNTED_BY_THE_PAPER = ("condition_encoder.layers.", "condition_encoder.project.", "vision_aided.")
"""The learned text encoder T, and the heads on a frozen image encoder: a published total leaves them out (fit)."""

_KINDS = {
    GeneratorSettings: Generator,
    DiscriminatorSettings: Discriminator,
    UpsamplerSettings: Upsampler,
}


def on_meta_device(settings: GeneratorSettings | DiscriminatorSettings | UpsamplerSettings) -> nn.Module:
    """The network that the settings describe, with shapes and no weights."""
    with torch.device("meta"):
        return _KINDS[type(settings)](settings)


def count_parameters(
    settings: GeneratorSettings | DiscriminatorSettings | UpsamplerSettings,
) -> tuple[int, int]:
    """(parameters as the paper counts them, all parameters)."""
    counts = {name: parameter.numel() for name, parameter in on_meta_device(settings).named_parameters()}
    left_out = sum(n for name, n in counts.items() if name.startswith(NOT_COUNTED_BY_THE_PAPER))
    total = sum(counts.values())
    return total - left_out, total
