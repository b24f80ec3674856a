"""Pictures of many requests in one forward pass, whatever they ask for."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from gigagan_core.errors import GigaganError
from gigagan_core.inference.conditions import check_prompts, cut_prompts
from gigagan_core.inference.editing import Styles, check_layers, join, lay_out
from gigagan_core.inference.memory import in_batches
from gigagan_core.inference.recipes import Interpolation, Point
from gigagan_core.serving.jobs import Batch, Made, PictureJob, UpsampleJob

if TYPE_CHECKING:
    from PIL import Image

    from gigagan_core.inference.pipeline import GigaGANPipeline
    from gigagan_core.inference.recipes import PromptField

_MARKS = 2
"""Start and end of a text, which are tokens too."""


def check(pipe: GigaGANPipeline, job: PictureJob) -> None:
    """Raise GigaganError for what this model cannot make, before it shares a batch with others."""
    check_prompts(pipe.network, prompts_of(job))
    if not isinstance(job.what, Point):
        if pipe.network.settings.conditioning != "text":
            raise GigaganError("the model takes no captions, so there are none to mix; leave mixing out")
        if not isinstance(job.what, Interpolation):
            check_layers(pipe.network, job.what.layers)
    if job.upsample:
        if pipe.upsampler is None:
            raise GigaganError("the server has no upsampler; ask without upsampling")
        # An edited picture has no prompt of its own, as in `GigaGANPipeline.apply`.
        pipe.upsampler.named([job.what.prompt if isinstance(job.what, Point) else None])


def prompts_of(job: PictureJob) -> list[PromptField]:
    """What a picture is asked to show: one prompt, or two that are mixed."""
    what = job.what
    if isinstance(what, Point):
        return [what.prompt]
    if isinstance(what, Interpolation):
        return list(what.prompts)
    return [point.prompt for point in (*what.first, *what.second)]


@torch.no_grad()
def make_pictures(pipe: GigaGANPipeline, jobs: Sequence[PictureJob], batch_size: int) -> list[Made]:
    """One picture a job: points and recipes together in passes of at most `batch_size`.

    A picture is the same in whatever company (`docs/inference.md`). jobs: checked ones. Raises GigaganError.
    """
    started = time.perf_counter()
    styles, places = _styles(pipe, jobs)
    images: dict[int, Image.Image] = {}
    for rows, made in in_batches(
        torch.arange(len(jobs)), batch_size, lambda rows: pipe.synthesise(styles.index(rows))
    ):
        at = [places[row] for row in rows.tolist()]
        images |= zip(at, _finished(pipe, [jobs[place] for place in at], made))
    batch = Batch(len(jobs), time.perf_counter() - started)
    cut = _cut(pipe, jobs)
    made = [
        Made(images[place], tuple(prompt for prompt in prompts_of(job) if prompt in cut))
        for place, job in enumerate(jobs)
    ]
    return [replace(made[0], batch=batch), *made[1:]]


def _styles(pipe: GigaGANPipeline, jobs: Sequence[PictureJob]) -> tuple[Styles, list[int]]:
    """Style codes and words of all jobs, and which job each row belongs to; all points are read at once."""
    plain = [place for place, job in enumerate(jobs) if isinstance(job.what, Point)]
    recipes = [place for place, job in enumerate(jobs) if not isinstance(job.what, Point)]
    parts = [pipe.latents([jobs[place].what for place in plain])[1]] if plain else []
    parts += [lay_out(jobs[place].what, pipe).styles for place in recipes]
    return join(parts, pipe.num_layers), plain + recipes


def _finished(pipe: GigaGANPipeline, jobs: Sequence[PictureJob], made: torch.Tensor) -> list[Image.Image]:
    """Pixels -> pictures; those that are upsampled with the same noise go through it together."""
    groups: dict[tuple[bool, float], list[int]] = defaultdict(list)
    for row, job in enumerate(jobs):
        groups[job.upsample, job.noise if job.upsample else 0.0].append(row)
    images: dict[int, Image.Image] = {}
    for (upsample, noise), rows in groups.items():
        # An edited picture has no prompt of its own, as in `GigaGANPipeline.apply`.
        whats = [jobs[row].what for row in rows]
        points = [what if isinstance(what, Point) else Point() for what in whats]
        images |= zip(rows, pipe.finished(made[rows], points, upsample, noise))
    return [images[row] for row in range(len(jobs))]


def _cut(pipe: GigaGANPipeline, jobs: Sequence[PictureJob]) -> set[str]:
    if pipe.encoder is None:
        return set()
    prompts = {prompt for job in jobs for prompt in prompts_of(job) if isinstance(prompt, str)}
    # A token is a byte or more: short ones need not be looked at, which costs as much as reading them did.
    room = pipe.encoder.context_length - _MARKS
    return set(cut_prompts(pipe.encoder, [prompt for prompt in prompts if len(prompt.encode()) > room]))


def enlarge(pipe: GigaGANPipeline, job: UpsampleJob) -> Image.Image:
    """The picture through the upsampler. Raises GigaganError."""
    made = pipe.upsample(
        job.image, job.prompt, job.scale, seed=job.seed, noise=job.noise, truncation=job.truncation
    )
    return made[0]
