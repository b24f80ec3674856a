"""The stages of a pipeline run by their roles: what needs what, and what a change reaches.

A role is what an artifact is in a run: "train" and "heldout" are both shard sets made by ingest. The upsampler's own
training set has roles of its own, in a run where it is not the base model's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

Role = Literal[
    "train",
    "heldout",
    "upsampler_train",
    "condition",
    "judge",
    "curated",
    "upsampler_curated",
    "base",
    "upsampler",
    "control",
    "report",
]
StageName = Literal["ingest", "train-encoder", "curate", "train-base", "train-upsampler", "evaluate"]
Branch = Literal["base", "upsampler", "heldout"]

ROLES: tuple[Role, ...] = get_args(Role)
"""In the order in which they can be made."""

NEEDS: dict[Role, tuple[Role, ...]] = {
    "train": (),
    "heldout": (),
    "upsampler_train": (),
    "condition": ("train", "heldout"),
    "judge": ("train", "heldout"),
    "curated": ("train", "condition"),
    "upsampler_curated": ("upsampler_train", "condition"),
    "base": ("curated", "condition"),
    "upsampler": ("upsampler_curated", "condition"),
    "control": ("upsampler_curated", "condition"),
    "report": ("base", "upsampler", "control", "curated", "heldout", "condition", "judge"),
}
STANDS_FOR: dict[Role, Role] = {"upsampler_train": "train", "upsampler_curated": "curated"}
"""In a run with one training set, the base model's is the upsampler's too."""

MADE_BY: dict[StageName, tuple[Role, ...]] = {
    "ingest": ("train", "heldout", "upsampler_train"),
    "train-encoder": ("condition", "judge"),
    "curate": ("curated", "upsampler_curated"),
    "train-base": ("base",),
    "train-upsampler": ("upsampler", "control"),
    "evaluate": ("report",),
}
BRANCHES: dict[Branch, tuple[Role, ...]] = {
    "base": ("train", "curated", "base", "report"),
    "upsampler": ("upsampler_train", "upsampler_curated", "upsampler", "control", "report"),
    "heldout": ("heldout", "report"),
}
"""What new data of one kind reaches, from the tables on, while everything else of the run is kept."""

SECTIONS: dict[str, tuple[Role, ...]] = {
    "source": MADE_BY["ingest"],
    "ingest": MADE_BY["ingest"],
    "condition": ("condition",),
    "judge": ("judge",),
    "curate": MADE_BY["curate"],
    "base": ("base",),
    "upsampler": ("upsampler",),
    "control": ("control",),
    "evaluate": ("report",),
    "gate": ("report",),
}
"""The roles that a section of `PipelineSettings` decides."""


def is_apart(role: Role) -> bool:
    """Whether only a run has the role whose upsampler has a training set of its own."""
    return role in STANDS_FOR


def needs(role: Role, apart: bool) -> tuple[Role, ...]:
    """What a role is made of. apart: whether the upsampler has a training set of its own."""
    return tuple(need if apart else STANDS_FOR.get(need, need) for need in NEEDS[role])


def downstream(roles: Iterable[Role], apart: bool) -> set[Role]:
    """The roles, and all that is made of any of them."""
    found = set(roles)
    for role in ROLES:
        if found.intersection(needs(role, apart)):
            found.add(role)
    return found


def upstream(roles: Iterable[Role], apart: bool) -> set[Role]:
    """The roles, and all that they are made of."""
    found = set(roles)
    for role in reversed(ROLES):
        if role in found:
            found.update(needs(role, apart))
    return found
