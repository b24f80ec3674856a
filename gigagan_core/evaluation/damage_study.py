"""An upsampler on pictures it did not see made: every kind of damage, before and after, beside bicubic enlarging."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gigagan_core.config.base import all_settings
from gigagan_core.config.damage import DamageKind, DamageSettings
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import baselines, patches
from gigagan_core.evaluation.bootstrap import Interval, bootstrap_mean
from gigagan_core.evaluation.damage import WHAT, damaged
from gigagan_core.evaluation.extractors.base import Extractor
from gigagan_core.evaluation.feature_set import FeatureSet
from gigagan_core.evaluation.features import to_unit_range
from gigagan_core.evaluation.figures import Figure, Naming
from gigagan_core.evaluation.frechet import frechet_distance
from gigagan_core.evaluation.frechet_error import distance_interval
from gigagan_core.evaluation.gathering import mean_figure
from gigagan_core.evaluation.picture_folder import cropped_and_resized
from gigagan_core.evaluation.set_metrics import MeasureOptions
from gigagan_core.evaluation.similarity import ssim
from gigagan_core.inference.conditions import Prompt
from gigagan_core.inference.generate import to_uint8
from gigagan_core.inference.latents import Keys
from gigagan_core.inference.outputs import OutputFolder
from gigagan_core.inference.pictures import open_picture, take_apart
from gigagan_core.inference.upsampling import TiledUpsampler, TileOptions

UNDAMAGED = "undamaged"
OURS, BICUBIC = "upsampler", "bicubic"
SCHEMA, SCHEMA_VERSION = "gigagan-damage", 1
_AT_A_TIME = 16


@dataclass(frozen=True)
class Originals:
    """The pictures as they should come out: uint8 [N, 3, S, S]; names: for files; prompts: what they show, or None.

    cautions: sentences about those that were left out.
    """

    names: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    images: Tensor
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """One kind of damage. low: what the upsampler was given, uint8 [N, 3, s, s]; enlarged: by `OURS` and `BICUBIC`,
    uint8 [N, 3, S, S], with the figures of each. gains: by name, how much better ours is, image by image."""

    kind: DamageKind | str
    low: Tensor
    enlarged: dict[str, Tensor]
    figures: dict[str, list[Figure]]
    gains: dict[str, tuple[float, Interval]]

    @property
    def what(self) -> str:
        """The damage in a sentence."""
        return WHAT.get(self.kind, "The original shrunk bicubically, as in training.")


@dataclass(frozen=True)
class Study:
    """Every kind, the undamaged pictures first. upsampler: what it is."""

    settings: DamageSettings
    upsampler: dict[str, Any]
    originals: Originals
    trials: tuple[Trial, ...]
    cautions: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """JSON-able, without the pictures."""
        return {
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "upsampler": self.upsampler,
            "settings": all_settings(self.settings),
            "images": len(self.originals.names),
            "sizes": {"input": self.trials[0].low.shape[-1], "output": self.originals.images.shape[-1]},
            "kinds": [_trial_json(trial) for trial in self.trials],
            "cautions": list(self.cautions),
        }


def _trial_json(trial: Trial) -> dict[str, Any]:
    return {
        "kind": trial.kind,
        "what": trial.what,
        "figures": {
            by: {figure.name: figure.as_json() for figure in figures} for by, figures in trial.figures.items()
        },
        "gains": {
            name: {"value": gain, "interval": {"low": ends.low, "high": ends.high, "level": ends.level}}
            for name, (gain, ends) in trial.gains.items()
        },
    }


def originals_of(files: Sequence[tuple[Path, str]], size: int, settings: DamageSettings) -> Originals:
    """Pictures from files, given with their names: upright, transparency dropped, the centre square, Lanczos to `size`.

    Smaller pictures would be blurred before anything is tried, so they are left out, as are those that do not decode;
    at most `max_images` are drawn of the rest. Raises GigaganError where fewer than two are left.
    """
    kept, small, broken = [], 0, 0
    for place in torch.randperm(len(files), generator=torch.Generator().manual_seed(settings.seed)).tolist():
        if len(kept) == settings.max_images:
            break
        path, name = files[place]
        try:
            pixels = to_uint8(take_apart(open_picture(path)).rgb[None])[0].permute(1, 2, 0).numpy()
        except GigaganError:
            broken += 1
            continue
        if min(pixels.shape[:2]) < size:
            small += 1
            continue
        kept.append(
            (place, name, torch.from_numpy(cropped_and_resized(pixels, size).copy()).permute(2, 0, 1))
        )
    if len(kept) < 2:
        raise GigaganError(
            f"{len(kept)} of {len(files)} pictures can be used ({small} are smaller than the {size} px that the "
            f"upsampler makes, {broken} do not decode); give 2 or more"
        )
    kept.sort()
    reasons = {f"smaller than {size} px": small, "not to be decoded": broken}
    cautions = [f"left out as {reason}: {count}" for reason, count in reasons.items() if count]
    images = torch.stack([image for _, _, image in kept])
    return Originals(tuple(name for _, name, _ in kept), (None,) * len(kept), images, tuple(cautions))


def originals_of_set(
    images: Tensor, captions: Sequence[str], keys: Sequence[str], text: bool, settings: DamageSettings
) -> Originals:
    """Of a shard set's pictures uint8 [N, 3, S, S] with their captions. text: whether the upsampler reads those."""
    rows = baselines.sample(min(settings.max_images, len(images)), len(images), settings.seed)
    listed = rows.tolist()
    prompts = tuple(captions[row] if text else None for row in listed)
    return Originals(tuple(keys[row] for row in listed), prompts, images[rows])


def study(
    upsampler: TiledUpsampler,
    originals: Originals,
    settings: DamageSettings,
    folder: OutputFolder,
    extractors: Sequence[Extractor] = (),
    lpips: str | None = None,
    options: TileOptions | None = None,
    overwrite: bool = False,
    on_images: Callable[[int], None] = lambda done: None,
) -> Study:
    """Damage, enlarge, judge. Pictures go to `folder`; what lies there of the same making is not made again.

    extractors: each gives a Frechet distance of whole pictures and one of patches. lpips: BACKBONE:PATH.
    on_images: called with the number of pictures just enlarged. Raises GigaganError.
    """
    size, scale = originals.images.shape[-1], upsampler.network.scale
    low = patches.shrink(originals.images, size // scale)
    indices = torch.arange(len(low))
    judge = _Judge(originals.images, extractors, lpips, settings)
    _save(folder, "original", originals, originals.images)
    trials = []
    for kind in (UNDAMAGED, *settings.kinds):
        given = low if kind == UNDAMAGED else damaged(low, kind, settings, indices)
        _save(folder, f"input/{kind}", originals, given)
        made = _enlarged(upsampler, given, originals, settings, folder, kind, options, overwrite, on_images)
        enlarged = {OURS: made, BICUBIC: patches.bicubic(given, size)}
        judged = {by: judge(images) for by, images in enlarged.items()}
        figures = {by: list(each.figures) for by, each in judged.items()}
        gains = judge.gains(judged[OURS], judged[BICUBIC])
        trials.append(Trial(kind, given, enlarged, figures, gains))
    said = [
        f"{figure.name}: {text}"
        for trial in trials
        for figures in trial.figures.values()
        for figure in figures
        for text in figure.cautions
    ]
    cautions = (*originals.cautions, *dict.fromkeys(said))
    return Study(settings, dict(upsampler.model), originals, tuple(trials), cautions)


def _save(folder: OutputFolder, under: str, originals: Originals, images: Tensor) -> None:
    for name, image in zip(originals.names, images, strict=True):
        folder.save(f"{under}/{name}", _pil(image), {})


def _enlarged(
    upsampler: TiledUpsampler,
    low: Tensor,
    originals: Originals,
    settings: DamageSettings,
    folder: OutputFolder,
    kind: str,
    options: TileOptions | None,
    overwrite: bool,
    on_images: Callable[[int], None],
) -> Tensor:
    """uint8 [N, 3, S, S] by the upsampler, a few at a time; those that are there are read."""
    records = [
        {
            "input": hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest(),
            "prompt": prompt,
            "seed": settings.seed,
            "index": row,
            "noise": settings.upsampler_noise,
            "upsampler": upsampler.model,
        }
        for row, (image, prompt) in enumerate(zip(low, originals.prompts, strict=True))
    ]
    places = [f"upsampled/{kind}/{name}" for name in originals.names]
    there = [not overwrite and folder.holds(*both) for both in zip(places, records, strict=True)]
    on_images(sum(there))
    todo = [row for row, done in enumerate(there) if not done]
    for start in range(0, len(todo), _AT_A_TIME):
        rows = todo[start : start + _AT_A_TIME]
        large = upsampler.enlarge(
            to_unit_range(low[rows]),
            [originals.prompts[row] for row in rows],
            keys=Keys((settings.seed,) * len(rows), tuple(rows)),
            noise=settings.upsampler_noise,
            options=options,
        )
        for row, image in zip(rows, to_uint8(large), strict=True):
            folder.save(places[row], _pil(image), records[row])
        on_images(len(rows))
    made = [np.array(open_picture(folder.path(place)).convert("RGB")) for place in places]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)


def _pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


@dataclass(frozen=True)
class _Judged:
    """figures of one set of enlarged pictures. per_image: float64 [N] by the name of a figure that is a mean."""

    figures: tuple[Figure, ...]
    per_image: dict[str, Tensor]


class _Judge:
    """Figures of enlarged pictures beside the originals, whose features are taken once."""

    def __init__(
        self, real: Tensor, extractors: Sequence[Extractor], lpips: str | None, settings: DamageSettings
    ) -> None:
        self._real, self._extractors, self._lpips = real, extractors, lpips
        self._measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"psnr": patches.psnr, "ssim": ssim}
        if lpips is not None:
            self._measures["lpips"] = _lpips(lpips)
        self._options = MeasureOptions(settings.seed, settings.bootstrap_resamples, settings.confidence)
        size, count = real.shape[-1], torch.arange(len(real))
        self._naming = Naming(size, len(real))
        self._patch_size = min(settings.patch_size, size)
        self._places = patches.patch_positions(
            count, size, self._patch_size, settings.patches_per_image, settings.seed
        )
        # patches of one picture are no independent evidence
        self._groups = {"fd": None, self._patches: count.repeat_interleave(settings.patches_per_image)}
        self._references = [self._features(extractor, real, "originals") for extractor in extractors]

    @property
    def _patches(self) -> str:
        return f"patch{self._patch_size}-fd"

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> _Judged:
        figures, per_image = [], {}
        for metric, measure in self._measures.items():
            # one picture at a time: in float64 all at once would be many times their memory
            pairs = zip(images.split(1), self._real.split(1), strict=True)
            values = torch.cat([measure(image, real) for image, real in pairs])
            figures.append(mean_figure(metric, values, self._naming, self._options, self._lpips))
            per_image[figures[-1].name] = values
        for extractor, reference in zip(self._extractors, self._references, strict=True):
            found = self._features(extractor, images, "enlarged pictures")
            figures += [
                self._distance(extractor, metric, reference[metric], found[metric]) for metric in reference
            ]
        return _Judged(tuple(figures), per_image)

    def gains(self, ours: _Judged, theirs: _Judged) -> dict[str, tuple[float, Interval]]:
        """By figure, how much better ours is: both enlarge the same pictures, so the differences pair."""
        found = {}
        for figure in ours.figures:
            if figure.name in ours.per_image:
                gain = ours.per_image[figure.name] - theirs.per_image[figure.name]
                gain = gain if figure.better == "higher" else -gain
                found[figure.name] = float(gain.mean()), bootstrap_mean(gain, **self._draws)
        return found

    @property
    def _draws(self) -> dict[str, Any]:
        options = self._options
        return {"resamples": options.resamples, "seed": options.seed, "level": options.level}

    def _features(self, extractor: Extractor, images: Tensor, name: str) -> dict[str, FeatureSet]:
        """Of the whole pictures, and of their patches, which lie at the same places in every set."""
        cut = patches.cut_patches(images, self._places, self._patch_size)
        return {
            "fd": FeatureSet.of(extractor.features(images), name),
            self._patches: FeatureSet.of(extractor.features(cut), f"patches of {name}"),
        }

    def _distance(self, extractor: Extractor, metric: str, real: FeatureSet, fake: FeatureSet) -> Figure:
        fd = frechet_distance(real.moments, fake.moments)
        groups = self._groups[metric]
        interval = distance_interval(real, fake, fd.distance, groups=(groups, groups), **self._draws)
        return Figure(
            self._naming(metric, extractor, len(fake)),
            metric,
            fd.distance,
            len(real),
            len(fake),
            "lower",
            extractor.name,
            interval=interval,
            cautions=(fd.caution,) if fd.caution else (),
        )


def _lpips(place: str) -> Callable[[Tensor, Tensor], Tensor]:
    from gigagan_core.encoders.perceptual import load_lpips

    network = load_lpips(place)
    return lambda images, real: network(to_unit_range(images), to_unit_range(real)).flatten().double()
