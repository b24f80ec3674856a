"""Which hidden state of the frozen encoder a network reads: a setting of the network, in training and ever after."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from gigagan_core.config.base import result_settings, with_overrides
from gigagan_core.config.presets import section
from gigagan_core.errors import GigaganError
from gigagan_core.inference.conditions import condition_of
from gigagan_core.training.checkpoint import export_bundle, load_bundle
from gigagan_core.training.recipes import base_training, initial_network, upsampler_training

from .conftest import (
    CAPTIONS,
    DISCRIMINATOR,
    GENERATOR,
    LARGE_DISCRIMINATOR,
    UPSAMPLER,
    base_settings,
    batches,
    distance,
    make_encoder,
    upsampler_settings,
)


def features_in_training(kind: str, text_layer: int) -> torch.Tensor:
    if kind == "base":
        network = replace(GENERATOR, text_layer=text_layer)
        _, recipe = base_training(network, DISCRIMINATOR, base_settings(), make_encoder())
    else:
        network = replace(UPSAMPLER, text_layer=text_layer)
        settings = upsampler_settings()
        _, recipe = upsampler_training(network, LARGE_DISCRIMINATOR, settings, make_encoder(), lpips=distance)
    (batch,) = recipe.prepare(next(batches(network.image_size)))
    return batch.captions.condition.features


@pytest.mark.parametrize("text_layer", [-1, -2, -3])
def test_training_and_inference_read_the_layer_that_the_network_names(text_layer: int) -> None:
    encoder = make_encoder()
    expected = encoder.text_tokens(encoder.tokenize(list(CAPTIONS)), text_layer).features
    assert torch.equal(features_in_training("base", text_layer), expected)
    assert torch.equal(features_in_training("upsampler", text_layer), expected)
    network = initial_network(replace(GENERATOR, text_layer=text_layer), seed=0)
    assert torch.equal(condition_of(network, encoder, CAPTIONS).features, expected)
    assert (text_layer == -2) == torch.equal(expected, features_in_training("base", -2))


def test_a_layer_that_the_encoder_lacks_is_one_sentence() -> None:
    with pytest.raises(GigaganError, match="text_layer -4 is not between -3 and -1; set another"):
        features_in_training("base", -4)


def test_a_bundle_names_the_layer_and_one_of_before_means_the_input_of_the_last_block(tmp_path) -> None:
    network = initial_network(replace(GENERATOR, text_layer=-1), seed=0)
    export_bundle(tmp_path, network, {"kind": "base", "image_size": 8, "seed": 0}, "# card")
    assert load_bundle(tmp_path)[0].settings.text_layer == -1
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["network"].pop("text_layer") == -1
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_bundle(tmp_path)[0].settings.text_layer == -2


@pytest.mark.parametrize("key", ["generator.text_layer", "upsampler.text_layer"])
def test_the_layer_decides_the_result(key: str) -> None:
    settings = section("demo", "base" if key.startswith("generator") else "upsampler")
    assert result_settings(with_overrides(settings, [f"{key}=-1"])) != result_settings(settings)
