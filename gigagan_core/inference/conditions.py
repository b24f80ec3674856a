"""What people ask a network for, as the network takes it: captions, class labels, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from gigagan_core.errors import GigaganError
from gigagan_core.models.condition import Condition
from gigagan_core.models.text import TextCode

if TYPE_CHECKING:
    from gigagan_core.encoders.protocol import Encoder

Prompt = str | int | None
"""A caption, a class label, or nothing, as the network's conditioning wants."""

_WANTED = {"text": "captions", "class": "class labels", "none": "no prompt"}


def condition_of(network: nn.Module, encoder: Encoder | None, prompts: Sequence[Prompt]) -> Condition:
    """N prompts as N conditions on the network's device; None for a network without condition.

    network: a Generator or Upsampler. Raises GigaganError where the prompts are of another kind, a label is unknown,
    or captions are wanted and there is no encoder.
    """
    settings, device = network.settings, next(network.parameters()).device
    if settings.conditioning == "none":
        return None
    if settings.conditioning == "class":
        return torch.tensor([_label(prompt, settings.classes) for prompt in prompts], device=device)
    if encoder is None:
        raise GigaganError(
            "the model is conditioned on captions and no encoder was given; name the one it was trained with"
        )
    wrong = next((prompt for prompt in prompts if not isinstance(prompt, str)), "")
    if wrong != "":
        raise GigaganError(f"the model is conditioned on captions, and {wrong!r} is none; give text")
    return encoder.text_tokens(encoder.tokenize(list(prompts)).to(device), settings.text_layer)


def code_of(network: nn.Module, encoder: Encoder | None, prompts: Sequence[Prompt]) -> TextCode | None:
    """N prompts as N codes, each distinct prompt read once; None for a network without condition.

    Raises GigaganError as `condition_of` does.
    """
    distinct = list(dict.fromkeys(prompts))
    code = network.encode(condition_of(network, encoder, distinct))
    if code is None or len(distinct) == len(prompts):
        return code
    place = {prompt: row for row, prompt in enumerate(distinct)}
    return code.index(torch.tensor([place[prompt] for prompt in prompts], device=code.t_global.device))


def check_prompts(network: nn.Module, prompts: Sequence[Prompt]) -> None:
    """Raise GigaganError where prompts are given to a network without condition, or are not of its kind."""
    settings = network.settings
    kinds = {"text": str, "class": int, "none": type(None)}
    for prompt in prompts:
        if not isinstance(prompt, kinds[settings.conditioning]) or isinstance(prompt, bool):
            raise GigaganError(
                f"the model takes {_WANTED[settings.conditioning]}, and {prompt!r} was given; give "
                f"{_WANTED[settings.conditioning]}"
            )
        if settings.conditioning == "class":
            _label(prompt, settings.classes)


def cut_prompts(encoder: Encoder, prompts: Sequence[str]) -> list[str]:
    """Those prompts of which the encoder reads the beginning only."""
    from gigagan_core.encoders.tokenizer import tokenize

    if not prompts:
        return []
    # A cut caption ends in end-of-text like any other; with room for one token more it fills that room too.
    longer = tokenize(list(prompts), encoder.context_length + 1)[:, -1] != 0
    return [prompt for prompt, cut in zip(prompts, longer.tolist()) if cut]


def _label(prompt: Prompt, classes: int) -> int:
    if not isinstance(prompt, int) or isinstance(prompt, bool) or not 0 <= prompt < classes:
        raise GigaganError(
            f"the model is conditioned on classes, and {prompt!r} is none; give labels from 0 to {classes - 1}"
        )
    return prompt
