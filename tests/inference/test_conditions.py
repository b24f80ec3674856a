"""What people ask a network for reaches it, or is refused in one sentence."""

from __future__ import annotations

import pytest
import torch

from gigagan_core.errors import GigaganError
from gigagan_core.inference.conditions import code_of, condition_of, cut_prompts
from gigagan_core.training.loop import Batch
from gigagan_core.training.samples import BaseSampler, UpsamplerSampler

from .conftest import make_generator, make_upsampler

CLASSES = {"conditioning": "class", "classes": 4, "cross_attention": False}


def batch(labels: list[int]) -> Batch:
    count = len(labels)
    images = torch.full((count, 3, 128, 128), 100, dtype=torch.uint8)
    names = [f"caption {i}" for i in range(count)]
    return Batch(images, names, names, torch.arange(count), torch.tensor(labels))


@pytest.mark.parametrize(
    ("sampler", "network"),
    [
        (BaseSampler(None, (1.0,)), make_generator(**CLASSES)),
        (UpsamplerSampler(None, 16), make_upsampler(**CLASSES)),
    ],
    ids=["base", "upsampler"],
)
def test_sample_grids_of_class_conditional_networks_are_drawn_from_labels(sampler, network) -> None:
    grids = []
    for labels in ([0, 1], [2, 1], [0, 1]):
        sampler.choose(batch(labels))
        grids.append(sampler.draw(network))
    assert grids[0] == grids[2] != grids[1]


@pytest.mark.parametrize(
    ("sampler", "make"),
    [(BaseSampler(None, (1.0,)), make_generator), (UpsamplerSampler(None, 16), make_upsampler)],
    ids=["base", "upsampler"],
)
def test_a_grid_never_ends_a_training_that_can_still_go_back(sampler, make) -> None:
    network = make(**CLASSES)
    with torch.no_grad():
        for value in network.parameters():
            value.fill_(torch.nan)
    sampler.choose(batch([0, 1]))
    assert sampler.draw(network).startswith(b"\x89PNG")


def test_a_network_of_captions_needs_an_encoder_and_text(encoder) -> None:
    network = make_generator()
    assert condition_of(network, encoder, ["dog", "cat"]).features.shape[:2] == (2, 8)
    with pytest.raises(GigaganError, match="no encoder was given"):
        condition_of(network, None, ["dog"])
    with pytest.raises(GigaganError, match="3 is none; give text"):
        condition_of(network, encoder, ["dog", 3])


def test_a_prompt_is_read_once_however_often_it_is_asked_for(encoder, monkeypatch) -> None:
    network, prompts = make_generator(), ["a dog", "a cat", "a dog", "a dog"]
    each = network.encode(condition_of(network, encoder, prompts))
    read = []
    tokenize = encoder.tokenize
    monkeypatch.setattr(encoder, "tokenize", lambda texts: read.append(list(texts)) or tokenize(texts))
    code = code_of(network, encoder, prompts)
    assert read == [["a dog", "a cat"]]
    for found, expected in zip(code, each, strict=True):
        torch.testing.assert_close(found, expected)


def test_exactly_the_prompts_that_lose_their_end_are_known(encoder) -> None:
    fits, longer = "a b c d e f", "a b c d e f g"  # with start and end: 8 and 9 tokens
    assert cut_prompts(encoder, [fits, longer, ""]) == [longer]
    assert cut_prompts(encoder, []) == []
