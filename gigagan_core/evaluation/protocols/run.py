"""A protocol carried out: prompts to images to features to figures, here or in Ray tasks, from where a kill left it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from gigagan_core import console
from gigagan_core.assets.catalogue import CATALOGUE
from gigagan_core.encoders.perceptual import lpips_sha256
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.extraction import (
    FAKE,
    REAL,
    PatchPlan,
    Plan,
    ShardResult,
    cut,
    loaded,
)
from gigagan_core.evaluation.extractors.base import Extractor
from gigagan_core.evaluation.extractors.registry import ExtractorPlace
from gigagan_core.evaluation.figures import Figure, Naming
from gigagan_core.evaluation.gathering import (
    WHO,
    extractor_facts,
    facts_of,
    lpips_facts,
    named,
    naming_of,
    pair_figures,
    preparation,
    set_measures,
    worked,
)
from gigagan_core.evaluation.picture_folder import Picture, dangling, digest_of, list_pictures
from gigagan_core.evaluation.protocols import cautions, reference
from gigagan_core.evaluation.protocols.generation import (
    Model,
    PromptShard,
    judge_shard,
    kept_images,
)
from gigagan_core.evaluation.protocols.prompts import Prompt, PromptSet, choose, load_prompts
from gigagan_core.evaluation.protocols.protocol import Judge, Layout, Protocol
from gigagan_core.evaluation.set_metrics import MeasureOptions, applies
from gigagan_core.text import plain


@dataclass(frozen=True)
class ProtocolRun:
    """What is judged by which protocol, and how the work is done.

    assets: the path of every asset that the protocol needs. fetched: those of them that came out of the assets folder,
    which took them in by their sums; of any other only a sum can show what it is. data: shard set, where the protocol
    needs one. prompts: a file that takes the place of the protocol's prompts, or the data's captions; none where real
    images are upsampled. teachers: sha256 -> role of the files from outside that the models were trained with.
    saw_data: whether they were trained on images of `data`.
    work: a folder that every node sees; finished shards are found there again. limit: at most so many images, a
    rehearsal. in_process: up to so many shards are worked on here, more in Ray tasks. keep: so many first images stay,
    for the report. batch_size: pictures a judge sees at once. threads: see `Plan`. train: shard set the model was
    trained on, or None. gallery: images of each gallery. searched: nearest neighbours are looked for among at most so
    many images of each kind.
    """

    protocol: Protocol
    model: Model
    assets: Mapping[str, Path]
    work: Path
    data: Any = None
    prompts: Path | None = None
    fetched: frozenset[str] = frozenset()
    teachers: Mapping[str, str] = field(default_factory=dict)
    saw_data: bool = False
    limit: int | None = None
    shard_size: int = 256
    in_process: int = 8
    keep: int = 64
    batch_size: int = 32
    threads: int | None = None
    options: MeasureOptions = field(default_factory=MeasureOptions)
    train: Any = None
    gallery: int = 8
    searched: int = 50_000

    @property
    def count(self) -> int:
        """Images to make."""
        return min(self.protocol.count, self.limit or self.protocol.count)


@dataclass(frozen=True)
class Evidence:
    """What the figures were taken from. shards: of captions, in the order of the images. results: of all shards.

    plan, extractors: the judges. real: the real images in the order of their features; paired: real image i is what
    generated image i was made from.
    """

    shards: tuple[PromptShard, ...]
    results: list[ShardResult]
    plan: Plan
    extractors: tuple[Extractor, ...]
    real: tuple[Picture, ...]
    paired: bool


@dataclass(frozen=True)
class ProtocolResult:
    """figures by the protocol; prompts: what was asked for; shown: (caption, file of its image) of the first images.

    record: how the figures were made, JSON-able. cautions: what must be said with every figure. evidence: what a
    gallery is chosen by.
    """

    protocol: Protocol
    figures: tuple[Figure, ...]
    prompts: PromptSet
    shown: tuple[tuple[str, Path], ...]
    record: dict[str, Any]
    cautions: tuple[str, ...]
    evidence: Evidence


def evaluate(run: ProtocolRun, ray: Callable[[], ModuleType]) -> ProtocolResult:
    """Every figure of the protocol. ray: gives the connected module; asked only where there are many shards.

    Raises GigaganError, one sentence, for models, files or sets that do not fit the protocol.
    """
    protocol = run.protocol
    data = reference.unpack(run.data, run.work) if run.data is not None else None
    prompts, sources = _prompts(run, data)
    places = [_place(judge, run.assets) for judge in protocol.judges]
    extractors = [loaded(place) for place in places]
    _require_applicable(protocol, extractors)
    plan = _plan(run, places, extractors)
    real = _real(run, data) if plan.looks_at(REAL) else []
    made = _prompt_shards(run, prompts, sources)
    paired = [] if sources or not real else cut({REAL: real}, None, run.shard_size, False)
    shards = [*paired, *made]
    module = ray() if len(shards) > run.in_process else None
    results = worked(
        f"protocol {protocol.name}", shards, plan, run.work, _refuse_corrupt, module, task=judge_shard
    )
    facts = _facts(results, bool(real or sources))
    naming = naming_of(facts)
    doubts = cautions.of_networks(run, _networks(run, extractors, plan))
    figures = [
        replace(figure, cautions=(*figure.cautions, *doubts.get(figure.extractor or "", ())))
        for figure in _figures(run, extractors, plan, results, naming, module)
    ]
    record = {
        "protocol": _as_json(protocol),
        "prompts": {"source": prompts.source, "available": prompts.available, "sha256": prompts.sha256},
        "generated": {**facts[FAKE], "model": run.model.key, "seed": run.model.seed, "psi": run.model.psi},
        "real": {**facts[REAL], "digest": digest_of(real or sources)} if REAL in facts else None,
        "extractors": [*map(extractor_facts, extractors), *lpips_facts(plan)],
        "preparation": preparation(protocol.size),
        "options": asdict(run.options),
    }
    texts = prompts.texts
    shown = [(texts[number], path) for shard in made for number, path in kept_images(shard, run.work).items()]
    real_count = facts[REAL]["count"] if REAL in facts else None
    found = cautions.of_run(run, prompts, real_count, data.lost if data is not None else 0)
    return ProtocolResult(
        protocol,
        tuple(figures),
        prompts,
        tuple(shown[: run.keep]),
        record,
        (*found, *(sentence for sentences in doubts.values() for sentence in sentences)),
        Evidence(tuple(made), results, plan, tuple(extractors), tuple(real or sources), bool(sources)),
    )


def _prompts(run: ProtocolRun, data: reference.DataSet | None) -> tuple[PromptSet, list[Any]]:
    """The captions, and for upsampling the real images they belong to."""
    protocol = run.protocol
    if protocol.task == "upsampling":
        if run.prompts is not None:
            raise AssertionError("upsampling takes the captions of its images")
        if data is None:
            raise AssertionError("upsampling needs a data set")
        rows = [Prompt(str(row), caption) for row, caption in enumerate(data.captions)]
        chosen = choose(rows, run.count, protocol.seed, "captions of the data set")
        return chosen, [data.pictures[int(prompt.id)] for prompt in chosen.prompts]
    if run.prompts is not None:
        is_coco = protocol.prompts is not None and protocol.prompts.layout == "coco"
        layout: Layout = "coco" if is_coco and run.prompts.suffix.lower() == ".json" else "file"
        return load_prompts(run.prompts, layout, run.count, protocol.seed), []
    if protocol.prompts is None:
        if data is None:
            raise AssertionError("captions need a data set")
        rows = [Prompt(str(row), caption) for row, caption in enumerate(data.captions) if caption]
        return choose(rows, run.count, protocol.seed, "captions of the data set"), []
    if protocol.prompts.asset is None:
        raise GigaganError(
            f"protocol {protocol.name} takes prompts of yours; name their file with --set prompts=FILE"
        )
    path = run.assets[protocol.prompts.asset]
    return load_prompts(path, protocol.prompts.layout, run.count, protocol.seed), []


def _real(run: ProtocolRun, data: reference.DataSet | None) -> list[Any]:
    """The real images that are no one's partners; none where generated and real images are paired."""
    wanted = run.protocol.reference
    if run.protocol.task == "upsampling" or wanted is None:
        return []
    if wanted == "data":
        return list(data.pictures) if data is not None else []
    folder = run.assets[wanted]
    if lost := dangling(folder):
        raise GigaganError(
            f"{folder / lost[0]} leads to no file; mend or remove that link: the protocol judges by all of the images"
        )
    return list_pictures(folder)


def _place(judge: Judge, assets: Mapping[str, Path]) -> ExtractorPlace:
    if judge.asset is None:
        raise AssertionError("an encoder judges in the evaluate stage alone")
    reader = CATALOGUE[judge.asset].reader
    return ExtractorPlace(f"{reader}:{assets[judge.asset]}", truncate=judge.truncate)


def _networks(run: ProtocolRun, extractors: list[Extractor], plan: Plan) -> list[cautions.Network]:
    found = [
        cautions.Network(str(judge.asset), extractor.name, extractor.sha256)
        for judge, extractor in zip(run.protocol.judges, extractors, strict=True)
    ]
    lpips = [
        cautions.Network(str(run.protocol.lpips), each["name"], each["sha256"]) for each in lpips_facts(plan)
    ]
    return found + lpips


def _require_applicable(protocol: Protocol, extractors: list[Extractor]) -> None:
    for judge, extractor in zip(protocol.judges, extractors, strict=True):
        for metric in judge.metrics:
            if not applies(metric, extractor):
                raise GigaganError(
                    f"protocol {protocol.name} takes {metric} by {judge.asset}, and {extractor.name} cannot give it; "
                    "name another file for that asset"
                )


def _plan(run: ProtocolRun, places: list[ExtractorPlace], extractors: list[Extractor]) -> Plan:
    protocol = run.protocol
    lpips = None
    if protocol.lpips is not None:
        lpips = f"{CATALOGUE[protocol.lpips].reader}:{run.assets[protocol.lpips]}"
    return Plan(
        extractors=tuple(
            named(place, each, judge.metrics)
            for place, each, judge in zip(places, extractors, protocol.judges, strict=True)
        ),
        size=protocol.size,
        pairs=protocol.pairs,
        lpips=lpips,
        lpips_sha256=lpips and lpips_sha256(lpips),
        patches=protocol.patches
        and PatchPlan(protocol.patches.size, protocol.patches.per_image, protocol.seed),
        batch_size=run.batch_size,
        threads=run.threads,
    )


def _prompt_shards(run: ProtocolRun, prompts: PromptSet, sources: list[Any]) -> list[PromptShard]:
    texts, protocol = prompts.texts, run.protocol
    return [
        PromptShard(
            start,
            tuple(texts[start : start + run.shard_size]),
            run.model,
            tuple(sources[start : start + run.shard_size]),
            protocol.size if sources else None,
            protocol.low if sources else None,
            run.keep,
        )
        for start in range(0, len(texts), run.shard_size)
    ]


def _refuse_corrupt(result: ShardResult) -> None:
    mend = {REAL: "remove or replace it", FAKE: "give the same command again, which makes it anew"}
    for role, facts in result.facts.items():
        if facts["corrupt"]:
            name, reason = facts["corrupt"][0]
            raise GigaganError(
                f"{WHO[role].removesuffix('s')} {name} does not decode ({plain(reason)}); {mend[role]}: the protocol "
                "judges by all of them"
            )


def _facts(results: list[ShardResult], has_real: bool) -> dict[str, dict[str, Any]]:
    return {role: facts_of(results, role) for role in ((REAL, FAKE) if has_real else (FAKE,))}


def _figures(
    run: ProtocolRun,
    extractors: list[Extractor],
    plan: Plan,
    results: list[ShardResult],
    naming: Naming,
    ray: ModuleType | None,
) -> list[Figure]:
    protocol, figures = run.protocol, []
    options = replace(run.options, seed=protocol.seed)
    total = sum(len(judge.metrics) for judge in protocol.judges)
    with console.progress("measures", total=total, unit="measures") as bar:
        for judge, extractor, known in zip(protocol.judges, extractors, plan.extractors, strict=True):
            measures = set_measures(known, extractor, results, naming, options, ray)
            for metric in judge.metrics:
                figures += measures.figures([metric])
                bar.advance(1)
    return figures + pair_figures(plan, extractors, results, naming, options, ray)


def _as_json(protocol: Protocol) -> dict[str, Any]:
    return asdict(protocol) | {"assets": list(protocol.assets)}
