"""Checks of network settings: each raises a ValueError that names the field, its value and what would be right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args


def resolutions(lowest: int, highest: int, name: str) -> tuple[int, ...]:
    """(lowest, 2 lowest, 4 lowest, ..., highest); ValueError where doubling never meets `highest`."""
    found = [lowest]
    while 0 < found[-1] < highest:
        found.append(2 * found[-1])
    if found[-1] != highest or lowest < 1:
        raise ValueError(f"{name} must be {lowest} times a power of two, not {highest}")
    return tuple(found)


def freeze_tuples(settings) -> None:
    """Lists become tuples."""
    # JSON gives lists back; equal settings must compare and hash equal wherever they were read from.
    for name in settings.__dataclass_fields__:
        value = getattr(settings, name)
        if isinstance(value, list):
            object.__setattr__(settings, name, tuple(value))


def check_from_4(settings, count: int, start: int = 4, **least: int) -> None:
    """least: for each field its smallest entry; one entry per resolution from `start` px up."""
    for name, minimum in least.items():
        check_entries(settings, name, count, minimum, f"{start} to {settings.image_size} px, lowest first")


def check_entries(settings, name: str, count: int, minimum: int, what: str) -> None:
    """`count` entries of at least `minimum`; what: which entry belongs to what."""
    entries = getattr(settings, name)
    if len(entries) != count or any(entry < minimum for entry in entries):
        raise ValueError(f"{name} needs {count} entries of at least {minimum} ({what}), not {entries}")


def check_range(settings, name: str, least: float, most: float | None = None) -> None:
    """least <= value <= most."""
    value = getattr(settings, name)
    if value < least or (most is not None and value > most):
        bound = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be {bound}, not {value}")


def check_choice(settings, name: str, literal: object) -> None:
    """literal: the Literal type the field is annotated with."""
    choices = get_args(literal)
    if getattr(settings, name) not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {getattr(settings, name)!r}")


def check_style(settings) -> None:
    """Latents, style codes, the mapping network, and blocks that take styles."""
    for name in ("z_dim", "w_dim", "mapping_depth"):
        check_range(settings, name, 1)
    check_range(settings, "mapping_text_dim", 0)
    check_range(settings, "convs_per_block", 1, 2)
    if settings.mapping_lr_multiplier <= 0:
        raise ValueError(f"mapping_lr_multiplier must be positive, not {settings.mapping_lr_multiplier}")


def check_condition(settings) -> None:
    """What the network is conditioned on: captions, classes, or nothing."""
    check_range(settings, "text_dim", 1)
    check_range(settings, "text_depth", 0)
    if (settings.conditioning == "class") != (settings.classes > 0):
        raise ValueError(
            f"classes is {settings.classes} with conditioning {settings.conditioning!r}; give the number of "
            'classes with conditioning "class", and 0 without'
        )
    if settings.text_conditioned and settings.text_width % settings.text_head_dim:
        raise ValueError(
            f"text_width ({settings.text_width}) must be a multiple of text_head_dim ({settings.text_head_dim})"
        )


def check_widths(settings) -> None:
    """At least one channel everywhere."""
    if settings.channels(settings.image_size) < 1:
        raise ValueError(
            f"channel_base ({settings.channel_base}) leaves no channel at {settings.image_size} px"
        )


def check_attention(settings, depth_at: Iterable[tuple[int, int]]) -> None:
    """depth_at: (resolution, depth) pairs. The width of a head must divide the inner width."""
    for resolution, depth in depth_at:
        inner = settings.channels(resolution) * settings.attention_width
        if depth and inner % settings.attention_head_dim:
            raise ValueError(
                f"attention at {resolution} px is {inner:g} wide, which attention_head_dim "
                f"({settings.attention_head_dim}) does not divide; change either, or set the depth there to 0"
            )
