"""The evaluate stage: held-out captions become images, the judge compares them, a report shows it.

Inputs by name: ``model`` (base-model), ``upsampler`` and ``control`` (upsampler-model, optional; the control
was trained with L1 alone), ``data`` (held-out shard set), ``train`` (training shard set, optional: baselines
made of training images need it), ``condition`` and ``judge`` (encoder). Protocols other than the demonstration's take
what `protocol_inputs` gives them instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gigagan_core import console
from gigagan_core.config.evaluate import OPENMOJI, EvaluateSettings
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise
from gigagan_core.stages.judge import check_judge, place, saw, teachers
from gigagan_core.store.artifact import Artifact, Input
from gigagan_core.store.lineage import inputs_of

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from gigagan_core.encoders.protocol import Encoder
    from gigagan_core.evaluation.claims import Claim
    from gigagan_core.evaluation.galleries import Sample
    from gigagan_core.evaluation.judging import SetFigures, UpsamplerFigures
    from gigagan_core.evaluation.latency import Timing
    from gigagan_core.evaluation.report import Report

SPEC = StageSpec("evaluate", kind="report", module=__name__)


def run(settings: EvaluateSettings, inputs: Mapping[str, Input], context: RunContext) -> Artifact:
    """The report artifact: `report.json`, `report.html`, `samples.png`, `upsampler.png`, `galleries/`.

    Of a protocol with outside networks: `report.json`, `report.html`, `prompts.jsonl`, `samples.png`, `galleries/`.
    Raises GigaganError where an input is missing. A judge that took part in training the model is refused by protocol
    openmoji-heldout; elsewhere, where the judges are the field's, its figures carry a caution.
    """
    from gigagan_core.encoders.roles import CONDITION, JUDGE, require_role

    if settings.protocol != OPENMOJI:
        label = f"evaluate ({settings.protocol})"
        return materialise(SPEC, settings.as_read(), inputs, context, _produce_by_protocol, label=label)
    missing = [name for name in ("model", "data", "condition", "judge") if inputs.get(name) is None]
    if missing:
        raise GigaganError(f"evaluate needs {' and '.join(missing)}; give the artifact of each")
    require_role(inputs["condition"], CONDITION)
    require_role(inputs["judge"], JUDGE)
    _require_own_sweep(inputs)
    return materialise(SPEC, settings.as_read(), inputs, context, _produce)


def _require_own_sweep(inputs: Mapping[str, Input]) -> None:
    """Raise GigaganError where the truncation sweep is of another model."""
    swept, model = inputs.get("tradeoff"), inputs["model"]
    if swept is not None and (model.stage, model.output_digest) not in inputs_of(swept):
        raise GigaganError(f"trade-off {swept.short} is of another model than {model.short}; sweep this one")


def _produce_by_protocol(work: StageWork) -> Outcome:
    from gigagan_core.evaluation import lineage
    from gigagan_core.evaluation.curves import curves_of
    from gigagan_core.evaluation.protocols import document
    from gigagan_core.evaluation.protocols.request import protocol_run
    from gigagan_core.evaluation.protocols.run import evaluate
    from gigagan_core.evaluation.protocols.showcase import show

    # forced work takes nothing that was kept, and goes on with its own after a kill
    own = work.path / "metrics" if work.context.force else None
    asked = protocol_run(work.settings, work.inputs, teachers(work), saw(work), own)
    result = evaluate(asked, work.ray)
    report = document.ProtocolReport(
        result,
        show(asked, result, work.ray),
        work.settings,
        curves=curves_of(work.inputs),
        lineage=lineage.trace({name: each for name, each in work.inputs.items() if each}, work.store),
        attribution=lineage.attribution(work.inputs),
        record=_record(work),
    )
    paths = document.write(report, work.output)
    work.run.log_metrics(report.metrics)
    _log_files(work, paths)
    chosen, available = len(result.prompts.prompts), result.prompts.available
    left = available - chosen
    return Outcome(
        counts={"in": available, "out": chosen, "rejected": {"not drawn": left} if left else {}},
        summary=report.metrics,
        notes={"cautions": list(result.cautions), "prompts_sha256": result.prompts.sha256},
    )


def _produce(work: StageWork) -> Outcome:
    from gigagan_core.evaluation import report as reports

    report, available = _evaluate(work)
    paths = reports.write(report, work.output)
    named = reports.metrics(report)
    held_out = work.inputs["data"]
    work.run.log_dataset("held-out", held_out.uri, held_out.output_digest, held_out.manifest.get("counts"))
    work.run.log_metrics(named)
    work.run.set_tags({f"claim.{claim.id}": claim.status for claim in report.claims})
    _log_files(work, paths)
    skipped = available - report.count
    return Outcome(
        counts={
            "in": available,
            "out": report.count,
            "rejected": {"over max_images": skipped} if skipped else {},
        },
        summary=_headlines(named),
        notes={
            "claims": {claim.id: claim.status for claim in report.claims},
            "cautions": list(report.cautions),
            "extractor": report.extractor,
            "attribution": "\n".join(report.attribution),
        },
    )


def _log_files(work: StageWork, paths: Mapping[str, Path]) -> None:
    shown = {name: path for name, path in paths.items() if path.suffix == ".png"}
    for name, path in sorted(shown.items()):
        work.run.log_image(name, path)
    for name in sorted(paths.keys() - shown.keys()):
        work.run.log_artifact(paths[name])


def _evaluate(work: StageWork) -> tuple[Report, int]:
    """The report, and how many held-out images there were."""
    from gigagan_core.data.openmoji import are_drawings, base_name
    from gigagan_core.data.reader import load_all
    from gigagan_core.encoders.open_clip_encoder import load_encoder
    from gigagan_core.evaluation import baselines, galleries, judging, lineage, tradeoff
    from gigagan_core.evaluation.clip_score import distinct_indices
    from gigagan_core.evaluation.curves import curves_of
    from gigagan_core.evaluation.extractors.clip import embedded_name
    from gigagan_core.evaluation.report import OWN_PROTOCOL, Report
    from gigagan_core.inference.places import find_device

    settings, inputs = work.settings, work.inputs
    condition = load_encoder(place(inputs["condition"]), find_device(None))  # where the networks are
    judge = load_encoder(place(inputs["judge"]))
    origins = lineage.trace(inputs, work.store)
    check_judge(judge.sha256, condition.sha256, inputs, work)

    real, captions, keys = load_all(inputs["data"], settings.image_size)
    available = len(captions)
    chosen = baselines.sample(min(settings.max_images or available, available), available, settings.seed)
    real, captions = real[chosen], [captions[row] for row in chosen.tolist()]
    training = load_all(inputs["train"], settings.image_size)[0] if inputs.get("train") else None

    # skin tones of one drawing are no independent evidence: intervals draw them together
    groups = distinct_indices([base_name(caption) for caption in captions])[1]
    generated, untrained = _generate(work, condition, captions)
    total = judging.images_to_judge(len(captions), True, 0 if training is None else len(training), settings)
    with console.progress("judging images", total=total, unit="images") as bar:
        features = judging.base_features(
            judge, captions, real, generated, untrained, training, settings, on_batch=bar.advance
        )
    sets = judging.base_figures(features, captions, settings, groups)
    shown = _shown(len(captions), settings)
    chosen_pictures = galleries.choose(
        galleries.Pictures(captions, generated, real, training),
        features,
        sets[0].clip.per_image,
        shown,
        groups,
        settings,
    )
    if inputs.get("upsampler") is None:
        upsamplers, strips = [], []
        pictures = {"generated": generated[shown], "real": real[shown]}
    else:
        high, _, high_keys = load_all(inputs["data"], settings.upsampled_size)
        if high_keys != keys:
            raise AssertionError("the reader gave the held-out images in two different orders")
        high = high[chosen]
        upsamplers, strips = _judge_upsamplers(work, judge, condition, high, captions, groups, shown)
        upsampled = _upsample(work, "upsampler", condition, generated[shown], [captions[i] for i in shown])
        pictures = {"generated": generated[shown], "upsampled": upsampled, "real": high[shown]}
    report = Report(
        settings=settings,
        count=len(captions),
        independent=len(groups.unique()),
        judge=_facts(judge) | {"name": embedded_name(judge)},
        condition=_facts(condition),
        sets=sets,
        upsamplers=upsamplers,
        claims=_claims(sets, upsamplers, settings),
        cautions=_cautions(sets, upsamplers, real, training, inputs),
        samples=_samples([captions[i] for i in shown], pictures),
        strips=strips,
        galleries=chosen_pictures.galleries,
        memorisation=chosen_pictures.memorisation,
        repetition=chosen_pictures.repetition,
        tradeoff=tradeoff.read(swept.path / "tradeoff.json") if (swept := inputs.get("tradeoff")) else None,
        timings=_timings(work, captions),
        curves=curves_of(inputs),
        lineage=origins,
        attribution=lineage.attribution(inputs),
        record=_record(work),
        protocol=settings.protocol if are_drawings(inputs["data"].notes) else OWN_PROTOCOL,
    )
    return report, available


def _generate(work: StageWork, condition: Encoder, captions: list[str]) -> tuple[Tensor, Tensor]:
    """One image a caption from the model, and from the generator it was before training."""
    from gigagan_core.inference.generate import generate
    from gigagan_core.inference.places import find_device

    settings, images = work.settings, []
    with console.progress("generating", total=2 * len(captions), unit="images") as bar:
        for untrained in (False, True):
            images.append(
                generate(
                    work.inputs["model"].path,
                    captions,
                    condition,
                    seed=settings.seed,
                    psi=settings.psi,
                    batch_size=settings.batch_size,
                    untrained=untrained,
                    on_batch=bar.advance,
                    device=find_device(None),
                )
            )
    return images[0], images[1]


def _judge_upsamplers(
    work: StageWork,
    judge: Encoder,
    condition: Encoder,
    high: Tensor,
    captions: list[str],
    groups: Tensor,
    shown: list[int],
) -> tuple[list[UpsamplerFigures], list[Sample]]:
    """Figures of upsampler, control and bicubic on real held-out images, and the strips that show them."""
    from gigagan_core.evaluation import judging
    from gigagan_core.evaluation.patches import bicubic, shrink

    settings = work.settings
    low = shrink(high, settings.image_size)
    labels = {"upsampler": "upsampler", "control": "L1-only control"}
    given = {name: label for name, label in labels.items() if work.inputs.get(name) is not None}
    enlarged = {
        name: (label, _upsample(work, name, condition, low, captions)) for name, label in given.items()
    }
    patches = (2 + len(given)) * len(high) * settings.patches_per_image
    with console.progress("judging upsamplers", total=patches, unit="patches") as bar:
        figures = judging.judge_upsamplers(judge, high, low, enlarged, settings, groups, on_batch=bar.advance)
    strip = shown[: settings.upsampled_shown]
    pictures = {"input": low[strip], "bicubic": bicubic(low[strip], settings.upsampled_size)}
    for name in ("control", "upsampler"):
        if name in enlarged:
            pictures[enlarged[name][0]] = enlarged[name][1][strip]
    pictures["real"] = high[strip]
    return figures, _samples([captions[i] for i in strip], pictures)


def _upsample(work: StageWork, name: str, condition: Encoder, low: Tensor, captions: list[str]) -> Tensor:
    from gigagan_core.inference.generate import upsample
    from gigagan_core.inference.places import find_device

    settings = work.settings
    with console.progress(f"upsampling ({name})", total=len(low), unit="images") as bar:
        return upsample(
            work.inputs[name].path,
            low,
            captions,
            condition,
            seed=settings.seed,
            batch_size=settings.batch_size,
            on_batch=bar.advance,
            device=find_device(None),
        )


def _timings(work: StageWork, captions: list[str]) -> list[Timing]:
    """Of the model and the upsampler at the batch sizes that the settings name; none by default.

    What the judging found stands, whether there is memory for this or not.
    """
    batches = work.settings.latency_batches
    if not batches:
        return []
    from gigagan_core.evaluation import latency
    from gigagan_core.inference.memory import is_out_of_memory

    upsampler = work.inputs.get("upsampler")
    try:
        with console.progress("timing", total=4 * len(batches), unit="parts") as bar:
            timings = latency.time_models(
                work.inputs["model"].path,
                None if upsampler is None else upsampler.path,
                place(work.inputs["condition"]),
                batches=batches,
                captions=captions,
                on_part=bar.advance,
            ).timings
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        console.warn("not timed: no memory for the models once more; `gigagan latency` times them alone")
        return []
    work.run.log_metrics(latency.as_metrics(timings))
    return timings


def _shown(count: int, settings: EvaluateSettings) -> list[int]:
    """Positions of the samples shown: drawn by seed, so that nobody picks the good ones."""
    import torch

    generator = torch.Generator().manual_seed(settings.seed)
    return torch.randperm(count, generator=generator)[: settings.samples_shown].tolist()


def _samples(captions: list[str], pictures: Mapping[str, Tensor]) -> list[Sample]:
    from gigagan_core.evaluation.galleries import Sample

    return [
        Sample(caption, {name: images[row] for name, images in pictures.items()})
        for row, caption in enumerate(captions)
    ]


def _claims(
    sets: list[SetFigures], upsamplers: list[UpsamplerFigures], settings: EvaluateSettings
) -> list[Claim]:
    from gigagan_core.evaluation import claims
    from gigagan_core.evaluation.baselines import BLUR_SIZE

    by_id = {figures.id: figures for figures in sets}
    distance = {name: figures.fd.distance for name, figures in by_id.items() if figures.fd is not None}
    generated = by_id["generated"]
    enlarged = {figures.id: figures for figures in upsamplers}
    patch = {name: figures.patch_fd.distance for name, figures in enlarged.items()}
    kept = {name: figures.consistency for name, figures in enlarged.items()}
    return [
        claims.distance_claim(
            distance["generated"],
            distance.get("untrained"),
            distance.get("blurred"),
            BLUR_SIZE,
            generated.fd_interval,
        ),
        claims.caption_claim(generated.clip),
        claims.retrieval_claim(generated.retrieval),
        claims.patch_claim(
            patch.get("upsampler"),
            patch.get("bicubic"),
            patch.get("control"),
            enlarged["upsampler"].over_bicubic if "upsampler" in enlarged else None,
        ),
        claims.consistency_claim(kept.get("upsampler"), kept.get("bicubic"), settings.consistency_tolerance),
    ]


def _cautions(
    sets: list[SetFigures],
    upsamplers: list[UpsamplerFigures],
    real: Tensor,
    training: Tensor | None,
    inputs: Mapping[str, Input],
) -> list[str]:
    """What a reader must know before quoting a figure."""
    from gigagan_core.evaluation.baselines import shared_images
    from gigagan_core.evaluation.protocols.cautions import SAW_DATA

    found = [(s.label, s.fd) for s in sets if s.fd is not None and s.id == "generated"]
    found += [(f"patches of {u.label}", u.patch_fd) for u in upsamplers]
    cautions = [f"Distance of {label}: {fd.caution}." for label, fd in found if fd.caution]
    if training is None:
        cautions.append("No training images were given, so the baselines made of them are missing.")
    elif shared := shared_images(training, real):
        cautions.append(f"{shared} held-out images also occur in the training set, byte for byte.")
    trained_on = {output_digest for _, output_digest in inputs_of(inputs["model"])}
    if inputs["data"].output_digest in trained_on:
        cautions.append(SAW_DATA)
    return cautions


def _facts(encoder: Encoder) -> dict[str, Any]:
    return {name: getattr(encoder, name) for name in ("name", "sha256", "image_size", "embed_dim")}


def _record(work: StageWork) -> dict[str, Any]:
    from datetime import UTC, datetime

    from gigagan_core.store.provenance import git_commit, machine, packages

    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": git_commit(),
        "mlflow_run": work.run.run_id,
        "machine": machine(),
        "packages": packages(),
    }


def _headlines(named: Mapping[str, float]) -> dict[str, float]:
    """The figures for the closing table: the model's own, and the distances of every baseline."""
    ends = ("-low", "-high", "-chance")
    return {
        name: value
        for name, value in named.items()
        if not name.partition("_")[0].endswith(ends)
        and (not name.startswith("baseline/") or name.split("/")[-1].partition("_")[0].endswith("fd"))
    }
