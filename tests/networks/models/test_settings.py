"""Network settings: importable without torch, strict, and clear about what is wrong."""

import dataclasses
import json
import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from gigagan_core.models.settings import (
    DiscriminatorSettings,
    GeneratorSettings,
    UpsamplerSettings,
    demo_discriminator,
    demo_generator,
    demo_upsampler,
)

ALL = [
    GeneratorSettings(),
    DiscriminatorSettings(),
    UpsamplerSettings(),
    demo_generator(),
    demo_discriminator(),
    demo_discriminator(128, levels=3),
    demo_upsampler(),
]


def test_settings_are_read_without_importing_torch():
    code = "import sys; import gigagan_core.models.settings; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("settings", ALL, ids=lambda s: type(s).__name__)
def test_settings_survive_json_and_pydantic(settings):
    plain = json.loads(json.dumps(dataclasses.asdict(settings)))
    assert type(settings)(**plain) == settings
    assert hash(type(settings)(**plain)) == hash(settings)
    assert TypeAdapter(type(settings)).validate_python(plain) == settings


def test_unknown_keys_are_refused_by_pydantic():
    with pytest.raises(ValidationError, match="kernel_bank"):
        TypeAdapter(GeneratorSettings).validate_python({"kernel_bank": 8})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GeneratorSettings(image_size=48), "image_size must be 4 times a power of two"),
        (lambda: GeneratorSettings(kernels=(1, 1)), "kernels needs 5 entries"),
        (lambda: GeneratorSettings(blocks=(3, 3, 0, 2, 2)), "blocks needs 5 entries of at least 1"),
        (lambda: GeneratorSettings(residual="dense"), "residual must be one of conv, identity, none"),
        (lambda: GeneratorSettings(attention_head_dim=60), "attention_head_dim"),
        (lambda: GeneratorSettings(text_head_dim=60), "text_width"),
        (lambda: GeneratorSettings(convs_per_block=3), "convs_per_block must be from 1 to 2"),
        (lambda: GeneratorSettings(mapping_lr_multiplier=0.0), "positive"),
        (lambda: GeneratorSettings(channel_base=32), "leaves no channel"),
        (lambda: DiscriminatorSettings(levels=6), "levels must be from 1 to 5"),
        (lambda: DiscriminatorSettings(levels=0), "levels must be from 1 to 5"),
        (lambda: UpsamplerSettings(low_size=8), "sizes must rise"),
        (lambda: UpsamplerSettings(lowest_rgb=4), "lowest_rgb"),
        (lambda: UpsamplerSettings(encoder_blocks=(1,)), "encoder_blocks needs 3 entries"),
        (lambda: UpsamplerSettings(skip="maybe"), "skip must be one of"),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_be_right(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_tuples_and_pyramids_have_the_order_their_names_say():
    settings = DiscriminatorSettings()
    assert settings.resolutions == (4, 8, 16, 32, 64)
    assert settings.input_resolutions == (64, 32, 16, 8, 4)
    upsampler = UpsamplerSettings()
    assert upsampler.resolutions == (8, 16, 32, 64, 128, 256, 512)
    assert upsampler.encoder_resolutions == (64, 32, 16, 8)
    assert upsampler.output_resolutions == (512, 256, 128, 64, 32, 16, 8)
