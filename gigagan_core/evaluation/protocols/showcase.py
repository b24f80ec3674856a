"""What a protocol's report shows beside its figures: samples, best and worst, failures, nearest training images.

Which few of many images these are is known only once all are judged, and most are gone by then. The choice is made by
the kept features alone, and an image by model, caption and number: so the chosen ones are made again, and are the same
however often the work was cut off and whoever did it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from gigagan_core import console
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import report_sections
from gigagan_core.evaluation.baselines import sample as drawn
from gigagan_core.evaluation.clip_score import caption_cosines, distinct_indices
from gigagan_core.evaluation.extraction import CAPTIONS, FAKE, FEATURES, REAL, Plan, ShardResult, cut, extract
from gigagan_core.evaluation.figures import Figure
from gigagan_core.evaluation.galleries import (
    Chosen,
    Compared,
    Gallery,
    Pictures,
    Sample,
    by_neighbours,
    by_score,
    far_from_own,
)
from gigagan_core.evaluation.gathering import gathered, naming_of, worked
from gigagan_core.evaluation.picture_folder import Picture, cropped_and_resized, decode
from gigagan_core.evaluation.protocols import reference
from gigagan_core.evaluation.protocols.generation import (
    PromptShard,
    judge_shard,
    kept_images,
    low_images,
    make_again,
)
from gigagan_core.evaluation.protocols.run import ProtocolResult, ProtocolRun
from gigagan_core.evaluation.report_figures import of_neighbours
from gigagan_core.store.fingerprint import sha256_file

SIDE = 256
"""Pictures are shown as they are judged, but not enlarged and at most so many pixels wide."""
GENERATED, INPUT, ORIGINAL, TRAINING = "generated", "input", "real", "training"

Ray = Callable[[], ModuleType]


@dataclass(frozen=True)
class Showcase:
    """samples: of the first captions; galleries: chosen by figures, pictures uint8 [3, S, S].

    figures: what nearest neighbours say. remarks: sentences by section ("scores", "failures", "memorisation"), also on
    what could not be shown and why.
    """

    samples: tuple[Sample, ...]
    galleries: tuple[Gallery, ...]
    figures: tuple[Figure, ...]
    remarks: Mapping[str, str]


class Wanted(NamedTuple):
    """Stands for a picture until it is there: what it is of, and its row among those."""

    role: str
    row: int


class _TrainingSet(NamedTuple):
    pictures: Sequence[Picture]
    features: Tensor


def show(run: ProtocolRun, result: ProtocolResult, ray: Ray) -> Showcase:
    """Everything a report of this result shows. ray: gives the connected module; asked only for much work.

    Raises GigaganError, one sentence, for a training set or images that cannot be read.
    """
    training = None if run.train is None or result.evidence.paired else _training_set(run, result, ray)
    found = _unlike_originals(run, result) if result.evidence.paired else _neighbours(run, result, training)
    galleries = [*_best_and_worst(run, result), *found.galleries]
    samples = _samples(run, result)
    shown = [*samples, *(sample for gallery in galleries for sample in gallery.samples)]
    wanted = {each for sample in shown for each in sample.images.values()}
    album = _album(run, result, training.pictures if training else (), wanted, ray)

    def with_pictures(samples: Iterable[Sample]) -> tuple[Sample, ...]:
        return tuple(
            replace(each, images={name: album[wanted] for name, wanted in each.images.items()})
            for each in samples
        )

    return Showcase(
        with_pictures(samples),
        tuple(replace(gallery, samples=with_pictures(gallery.samples)) for gallery in galleries),
        tuple(_figures(run, result, found)),
        _remarks(run, result, found, training),
    )


def _samples(run: ProtocolRun, result: ProtocolResult) -> list[Sample]:
    """The first captions, which nobody chose; of an upsampler with what it was given and should have made."""
    roles = (INPUT, GENERATED, ORIGINAL) if result.evidence.paired else (GENERATED,)
    return [
        Sample(caption, {role: Wanted(role, row) for role in roles})
        for row, caption in enumerate(result.prompts.texts[: run.keep])
    ]


def _best_and_worst(run: ProtocolRun, result: ProtocolResult) -> list[Gallery]:
    """By the first network whose CLIP score the protocol takes."""
    evidence = result.evidence
    for judge, extractor, known in zip(
        result.protocol.judges, evidence.extractors, evidence.plan.extractors, strict=True
    ):
        images = gathered(evidence.results, FEATURES, FAKE, known.key)
        texts = gathered(evidence.results, CAPTIONS, FAKE, known.key)
        if "clip-score" in judge.metrics and images is not None and texts is not None:
            scores = caption_cosines(images.all(), texts.all())
            return by_score(_pictures(result, range(len(scores))), scores, run.gallery, extractor.name)
    return []


def _neighbours(run: ProtocolRun, result: ProtocolResult, training: _TrainingSet | None) -> Chosen:
    """By the first network, among at most `run.searched` images of each kind; the samples are among them."""
    evidence, seed = result.evidence, result.protocol.seed
    made, real = _features(result, FAKE), _features(result, REAL)
    if made is None:
        raise AssertionError("no generated image has features")
    first = torch.arange(min(run.keep, len(made)))
    # minutes for tens of thousands, without a word from the search itself
    console.note("looking for nearest neighbours of the generated images, for the galleries")
    rows = torch.cat([first, drawn(min(run.searched, len(made)), len(made), seed)]).unique()
    pictures = _pictures(result, rows.tolist())
    known: list[int] = []
    if real is not None:
        known = drawn(min(run.searched, len(real)), len(real), seed).tolist()
        pictures = replace(pictures, real=[Wanted(ORIGINAL, row) for row in known])
    if training is not None:
        places = range(len(training.pictures))
        pictures = replace(pictures, training=[Wanted(TRAINING, place) for place in places])
    features = Compared(
        made[rows],
        distinct_indices(list(pictures.captions))[1],
        None if real is None else real[known],
        distinct_indices([evidence.real[row].sha256 for row in known])[1],
        None if training is None else training.features,
    )
    return by_neighbours(pictures, features, first.tolist(), run.gallery, replace(run.options, seed=seed))


def _unlike_originals(run: ProtocolRun, result: ProtocolResult) -> Chosen:
    """Of an upsampler: what differs most from the real image that was shrunk."""
    made, real = _features(result, FAKE), _features(result, REAL)
    if made is None or real is None:
        raise AssertionError("generated and real images are not paired")
    pictures = _pictures(result, range(len(made)))
    return Chosen([far_from_own(pictures, (made - real).norm(dim=1), run.gallery)])


def _pictures(result: ProtocolResult, rows: Iterable[int]) -> Pictures:
    """Of these generated images, each with its original where it was made from one."""
    rows, texts = list(rows), result.prompts.texts
    originals = [Wanted(ORIGINAL, row) for row in rows] if result.evidence.paired else None
    return Pictures([texts[row] for row in rows], [Wanted(GENERATED, row) for row in rows], originals)


def _features(result: ProtocolResult, role: str) -> Tensor | None:
    """By the first network, float32 [N, D]."""
    found = gathered(result.evidence.results, FEATURES, role, result.evidence.plan.extractors[0].key)
    return None if found is None else _comparable(result, found.all())


def _comparable(result: ProtocolResult, features: Tensor) -> Tensor:
    """A CLIP's are only ever compared by cosine: their length means nothing."""
    return F.normalize(features, dim=1) if result.evidence.extractors[0].is_clip else features


def _training_set(run: ProtocolRun, result: ProtocolResult, ray: Ray) -> _TrainingSet:
    """At most `run.searched` training images, drawn by seed, with their features by the first network.

    Images that do not decode are left out: training left them out too.
    """
    protocol, known = result.protocol, result.evidence.plan.extractors[0]
    known = replace(known, reads=((FEATURES, REAL),))
    plan = Plan((known,), protocol.size, batch_size=run.batch_size, threads=run.threads)
    pictures = reference.unpack(run.train, run.work, run.searched, protocol.seed).pictures
    shards = cut({REAL: list(pictures)}, None, run.shard_size, False)
    results = worked(
        "training images",
        shards,
        plan,
        run.work,
        lambda result: None,
        ray() if len(shards) > run.in_process else None,
        task=judge_shard,
    )
    kept = [
        shard.pictures[REAL][place]
        for shard, done in zip(shards, results, strict=True)
        for place in done.facts[REAL]["kept"]
    ]
    found = gathered(results, FEATURES, REAL, known.key)
    if found is None or not kept:
        raise GigaganError(
            f"no image of training set {run.train.short} decodes; name another one with --train, or none"
        )
    return _TrainingSet(kept, _comparable(result, found.all()))


def _figures(run: ProtocolRun, result: ProtocolResult, found: Chosen) -> list[Figure]:
    extractor = result.evidence.extractors[0]
    caution = _other_source(run)
    sides = {FAKE: result.record["generated"]}
    if result.record["real"]:
        sides[REAL] = result.record["real"]
    naming = naming_of(sides)

    def name(metric: str) -> str:
        some = found.memorisation or found.repetition
        return naming(metric, extractor, 0 if some is None else len(some.generated.distance))

    return of_neighbours(
        found.memorisation, found.repetition, name, extractor.name, (caution,) if caution else ()
    )


def _other_source(run: ProtocolRun) -> str:
    """Why being near to training images says less of this protocol; empty where nothing does."""
    if run.protocol.reference in (None, "data"):
        return ""
    return (
        f"the real images are those of {run.protocol.reference}; where the training set is of another source, that "
        "alone makes generated images the nearer ones"
    )


def _remarks(
    run: ProtocolRun, result: ProtocolResult, found: Chosen, training: _TrainingSet | None
) -> dict[str, str]:
    name, remarks = result.protocol.name, {"scores": "", "failures": report_sections.twins(found.repetition)}
    if not any("clip-score" in judge.metrics for judge in result.protocol.judges):
        remarks["scores"] = f"Protocol {name} takes no CLIP score, so no image is best or worst by it."
    if not result.evidence.real:
        remarks["failures"] = (
            f"Protocol {name} has no real images, so nothing says which images are unlike them."
        )
    return remarks | {"memorisation": _on_memory(run, result, found, training)}


def _on_memory(run: ProtocolRun, result: ProtocolResult, found: Chosen, training: _TrainingSet | None) -> str:
    if result.evidence.paired:
        return "An upsampler enlarges the real image that it is given, so no training images were searched."
    if training is None:
        return (
            "No training set was given, so nothing here says whether training images were copied; --train ARTIFACT "
            "names one."
        )
    if found.memorisation is None:
        return (
            f"Among {len(training.pictures):,} training images. What a small distance is no figure says here: that "
            "takes real images and several captions."
        )
    caution = _other_source(run)
    return report_sections.copying(found.memorisation) + (f" But {caution}." if caution else "")


def _album(
    run: ProtocolRun, result: ProtocolResult, training: Sequence[Picture], wanted: set[Wanted], ray: Ray
) -> dict[Wanted, Tensor]:
    """The pictures, uint8 [3, S, S], as the judges see them but not enlarged and at most SIDE pixels wide."""
    rows = sorted(each.row for each in wanted if each.role == GENERATED)
    files = {
        GENERATED: _generated(run, result, rows, ray),
        ORIGINAL: result.evidence.real,
        TRAINING: training,
    }
    side = min(SIDE, run.protocol.size or SIDE)
    return {
        each: low_images(_single(run, result, each.row))[0]
        if each.role == INPUT
        else _decoded(files[each.role][each.row], side)
        for each in wanted
    }


def _decoded(picture: Picture, side: int) -> Tensor:
    pixels = decode(picture, None)
    if isinstance(pixels, str):
        raise GigaganError(
            f"{picture.path} decoded when it was judged and no longer does ({pixels}); give the same command again"
        )
    square = cropped_and_resized(pixels, min(side, *pixels.shape[:2]))
    return torch.from_numpy(square.transpose(2, 0, 1).copy())


def _generated(run: ProtocolRun, result: ProtocolResult, rows: Sequence[int], ray: Ray) -> dict[int, Picture]:
    """The files of these generated images; those that were let go are made again, and stay."""
    files = {int(path.stem): path for _, path in result.shown}
    shards = [_single(run, result, row) for row in rows if row not in files]
    if shards:
        module = ray() if len(result.evidence.shards) > run.in_process else None
        with console.progress("galleries", total=len(shards), unit="images") as bar:

            def on_shard(shard: PromptShard, done: ShardResult) -> None:
                bar.advance(1)

            extract(shards, result.evidence.plan, run.work, ray=module, on_shard=on_shard, task=make_again)
        for shard in shards:
            files |= kept_images(shard, run.work)
    return {row: _as_picture(files[row]) for row in rows}


def _as_picture(path: Path) -> Picture:
    return Picture(path.name, str(path.absolute()), sha256_file(path))


def _single(run: ProtocolRun, result: ProtocolResult, row: int) -> PromptShard:
    """The shard of this one image."""
    shard = result.evidence.shards[row // run.shard_size]
    place = row - shard.first
    return replace(
        shard,
        first=row,
        captions=shard.captions[place : place + 1],
        sources=shard.sources[place : place + 1],
    )
