"""The evaluation of protocol openmoji-heldout: what models make of held-out captions, judged by an encoder of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gigagan_core import console
from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.stages.base import StageWork
from gigagan_core.stages.judge import check_judge, place
from gigagan_core.store.artifact import Input
from gigagan_core.store.lineage import inputs_of
from gigagan_core.store.provenance import record

if TYPE_CHECKING:
    from torch import Tensor

    from gigagan_core.encoders.protocol import Encoder
    from gigagan_core.evaluation.claims import Claim
    from gigagan_core.evaluation.galleries import Sample
    from gigagan_core.evaluation.judging import SetFigures, UpsamplerFigures
    from gigagan_core.evaluation.latency import Timing
    from gigagan_core.evaluation.report import Report


def held_out_report(work: StageWork) -> tuple[Report, int]:
    """The report, and how many held-out images there were.

    Raises GigaganError where the judge took part in training.
    """
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
        record=record(work.run.run_id),
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
