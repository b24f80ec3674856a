"""Protocols on a small set in COCO's layout, by scripted networks of fixed random weights: nothing is called FID.

A Frechet distance of 2,048 dimensions takes seconds, its extrapolation minutes: most tests take another measure.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from gigagan_core.assets.catalogue import CATALOGUE
from gigagan_core.config.evaluate import OPENMOJI, PROTOCOL_NAMES, EvaluateSettings
from gigagan_core.encoders import weights as encoder_weights
from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel, Tower
from gigagan_core.encoders.open_clip_encoder import Preprocessing, load_encoder, save_encoder
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import extraction
from gigagan_core.evaluation.extractors.registry import ExtractorPlace
from gigagan_core.evaluation.folder_metrics import METRICS, FolderMetrics, measure
from gigagan_core.evaluation.picture_folder import cropped_and_resized
from gigagan_core.evaluation.protocols import generation
from gigagan_core.evaluation.protocols.generation import Model
from gigagan_core.evaluation.protocols.named import PROTOCOLS, protocol
from gigagan_core.evaluation.protocols.prompts import Prompt, load_prompts
from gigagan_core.evaluation.protocols.protocol import Judge, Protocol
from gigagan_core.evaluation.protocols.run import ProtocolRun, evaluate
from gigagan_core.evaluation.set_metrics import MeasureOptions
from gigagan_core.inference.generate import generate, upsample
from gigagan_core.models.settings import GeneratorSettings, UpsamplerSettings
from gigagan_core.stages import evaluate as stage
from gigagan_core.stages import protocol_inputs
from gigagan_core.stages.base import RunContext
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.fingerprint import sha256_file

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")
IMAGES, FEW = 28, MeasureOptions(resamples=100)
TEXT = {"text_dim": 16, "text_width": 8, "text_depth": 1, "text_head_dim": 4}
SMALL = {"z_dim": 6, "w_dim": 8, "mapping_depth": 2, "channel_base": 64, "channel_max": 8}
BLOCKS = {"attention_head_dim": 4, **SMALL, **TEXT}
GENERATOR = GeneratorSettings(image_size=8, kernels=(1, 2), blocks=(1, 1), attention_depths=(0, 0), **BLOCKS)
UPSAMPLER = UpsamplerSettings(
    low_size=8,
    image_size=32,
    bottleneck_size=4,
    encoder_blocks=(1,),
    encoder_attention_depths=(0,),
    kernels=(1, 1, 1, 2),
    blocks=(1, 1, 1, 1),
    attention_depths=(0, 0, 0, 0),
    lowest_rgb=8,
    **BLOCKS,
)
CONDITION = ClipArchitecture(
    embed_dim=8,
    image_size=8,
    patch_size=4,
    vision=Tower(width=16, layers=1, heads=2),
    text=Tower(width=16, layers=2, heads=2),
    pool="avg",
    context_length=8,
)
TINY_CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}


def quick(found: Protocol, *metrics: str) -> Protocol:
    """The protocol with other measures by Inception."""
    first, *others = found.judges
    return replace(found, judges=(replace(first, metrics=metrics), *others)) if metrics else found


def no_ray():
    raise AssertionError("so few shards need no Ray")


@pytest.fixture(autouse=True)
def tiny_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocols name open_clip's architectures; here the names stand for networks of one block."""
    original = encoder_weights.architecture_config
    tiny = ("ViT-B-32-quickgelu", "ViT-g-14")
    monkeypatch.setattr(
        encoder_weights,
        "architecture_config",
        lambda name: TINY_CLIP if name in tiny else original(name),
    )


@pytest.fixture(scope="module")
def coco(tmp_path_factory, drawings) -> Path:
    """A folder in COCO's layout: JPEGs of several shapes, five captions each; one image without any."""
    folder = tmp_path_factory.mktemp("coco")
    (folder / "val2014").mkdir()
    (folder / "annotations").mkdir()
    images, captions = [], []
    for row, picture in enumerate(drawings(IMAGES + 1, 64, 5)):
        name = f"COCO_val2014_{row:012}.jpg"
        shape = ((64, 64), (64, 48), (40, 64))[row % 3]
        pixels = picture.permute(1, 2, 0).numpy()[: shape[0], : shape[1]]
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / "val2014" / name, quality=90)
        images.append({"id": 1000 - row, "file_name": name})
        if row < IMAGES:
            captions += [
                {"image_id": 1000 - row, "id": 10 * row + n, "caption": f"disc {row},\n number {n} "}
                for n in range(5)
            ]
    document = {"images": images, "annotations": captions[::-1]}
    (folder / "annotations" / "captions_val2014.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def judges(tmp_path_factory, scripted_inception) -> dict[str, Path]:
    """Weight files of the protocol's judges, none of them the published one."""
    folder = tmp_path_factory.mktemp("judges")
    found = {"inception": scripted_inception}
    for seed, name in enumerate(("clip-vit-b32", "clip-vit-g14")):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ClipModel(ClipArchitecture.from_config(TINY_CLIP))
        found[name] = folder / f"{name}.pt"
        torch.save(model.state_dict(), found[name])
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Artifact]:
    """A base model of 8 px, an upsampler to 32 px and their encoder, untrained."""
    from gigagan_core.training.checkpoint import export_bundle
    from gigagan_core.training.recipes import initial_network

    folder = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_encoder(
            folder / "condition", ClipModel(CONDITION), Preprocessing(), name="condition", role="condition"
        )
    sha256 = load_encoder(folder / "condition").sha256
    for kind, settings in (("base", GENERATOR), ("upsampler", UPSAMPLER)):
        config = {
            "kind": kind,
            "image_size": settings.image_size,
            "encoder_sha256": sha256,
            "seed": 0,
        }
        export_bundle(folder / kind / "bundle", initial_network(settings, 1), config, "a card")
    kinds = {"condition": "encoder", "base": "base-model", "upsampler": "upsampler-model"}
    return {name: artifact(folder / name, kind) for name, kind in kinds.items()}


def artifact(folder: Path, kind: str) -> Artifact:
    digest = hashlib.sha256(str(folder).encode()).hexdigest()
    return Artifact(kind, kind, digest, 1, digest, str(folder), {"created": "2025-01-01T10:00"})


@pytest.fixture
def run(coco, judges, models, tmp_path):
    """(changed fields of the run, of the protocol) -> the run of gigagan-coco-30k on the small set."""

    def make(name: str = "gigagan-coco-30k", mode: str = "exact", metrics=("is",), **changed) -> ProtocolRun:
        settings = {
            "protocol": quick(protocol(name, mode), *metrics if name != "prompt-file" else ()),
            "model": Model(models["base"], models["upsampler"], models["condition"], seed=3, batch_size=4),
            "assets": {
                **judges,
                "coco-2014-val": coco / "val2014",
                "coco-2014-captions": coco / "annotations" / "captions_val2014.json",
            },
            "work": tmp_path / "work",
            "shard_size": 8,
            "keep": 5,
            "options": FEW,
        }
        return ProtocolRun(**{**settings, **changed})

    return make


def values(result) -> dict[str, float]:
    return {figure.name: figure.value for figure in result.figures}


# ---- the whole of gigagan-coco-30k -----------------------------------------------------------------


def test_the_whole_protocol_gives_what_generating_saving_and_comparing_folders_gives(
    run, coco, judges, models, tmp_path
):
    result = evaluate(run(metrics=("fd", "is")), no_ray)
    sha256 = sha256_file(judges["inception"])[:8]
    assert list(values(result)) == [
        f"fd_inception-{sha256}_256_28",
        f"is_inception-{sha256}_256_28",
        "clip-score_ViT-B-32-quickgelu_256_28",
        "clip-score_ViT-g-14_256_28",
    ]
    # by hand: generate, save, write captions, compare the folders
    captions = result.prompts.texts
    encoder = load_encoder(models["condition"].uri)
    small = generate(models["base"].uri, captions, encoder, seed=3)
    large = upsample(models["upsampler"].uri, small, captions, encoder, seed=3)
    fake = tmp_path / "fake"
    fake.mkdir()
    lines = []
    for row, image in enumerate(large):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(fake / f"{row:05}.png")
        lines.append(json.dumps({"file_name": f"{row:05}.png", "caption": captions[row]}))
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    known = measure(
        FolderMetrics(
            real=coco / "val2014",
            fake=fake,
            extractors=(
                ExtractorPlace(f"inception:{judges['inception']}"),
                ExtractorPlace(f"ViT-B-32-quickgelu:{judges['clip-vit-b32']}"),
            ),
            metrics=("fd", "is", "clip-score"),
            captions=tmp_path / "captions.jsonl",
            size=256,
            options=FEW,
            work=tmp_path / "other",
        )
    )
    for figure in known.figures:
        if figure.name in values(result):
            assert values(result)[figure.name] == pytest.approx(figure.value, rel=1e-4), figure.name
    assert result.record["real"]["count"] == IMAGES + 1  # every image, also the one without a caption
    assert [path.name for _, path in result.shown] == [f"{row:08}.png" for row in range(5)]
    # its number is never called FID, and what is missing to quote it is said
    assert not any("fid" in name for name in values(result))
    said = " ".join(result.cautions)
    assert "28 images where protocol gigagan-coco-30k has 30,000: do not quote" in said
    assert "is not the published inception" in said
    assert "is not the published clip-vit-b32" in said
    assert "makes images of 32 px and protocol gigagan-coco-30k is for 512 px" in said


def test_the_authors_mode_truncates_before_clip_and_leaves_inception_alone(run):
    exact, authors = (values(evaluate(run(mode=mode), no_ray)) for mode in ("exact", "authors"))
    assert "clip-score_ViT-B-32-quickgelu-truncated_256_28" in authors
    assert "clip-score_ViT-B-32-quickgelu_256_28" not in authors
    (score,) = [name for name in exact if name.startswith("is_")]
    assert authors[score] == exact[score]
    ends = ("clip-score_ViT-B-32-quickgelu-truncated_256_28", "clip-score_ViT-B-32-quickgelu_256_28")
    assert authors[ends[0]] != exact[ends[1]]
    assert authors[ends[0]] == pytest.approx(exact[ends[1]], abs=0.05)


def test_a_killed_evaluation_makes_only_the_images_it_lacks(run, tmp_path, monkeypatch):
    undisturbed = values(evaluate(run(work=tmp_path / "undisturbed"), no_ray))
    made, images = [], generation.Sampler.images

    def dies_in_the_third_shard(self, captions, first, low=None):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(first)
        return images(self, captions, first, low)

    monkeypatch.setattr(generation.Sampler, "images", dies_in_the_third_shard)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run(), no_ray)
    assert made == [0, 8]
    made.clear()
    monkeypatch.setattr(
        generation.Sampler,
        "images",
        lambda self, captions, first, low=None: made.append(first) or images(self, captions, first, low),
    )
    again = evaluate(run(), no_ray)
    assert made == [16, 24]
    assert values(again) == undisturbed
    made.clear()
    evaluate(run(), no_ray)
    assert made == []


def test_images_are_let_go_but_for_the_first_and_made_again_for_another_judge(run, tmp_path, monkeypatch):
    clip_only = replace(protocol("gigagan-coco-30k"), judges=(Judge("clip-vit-b32", ("clip-score",)),))
    evaluate(run(protocol=clip_only), no_ray)
    assert len(list((tmp_path / "work").rglob("*.png"))) == 5
    both = values(evaluate(run(), no_ray))
    assert values(evaluate(run(work=tmp_path / "fresh"), no_ray)) == both
    # a damaged picture of those kept is no reason to be wrong: its features are there
    for path in (tmp_path / "work").rglob("*.png"):
        path.write_bytes(b"damaged")
    assert values(evaluate(run(), no_ray)) == both


def test_a_sample_that_is_gone_or_damaged_moves_no_caption_to_another_image(run, tmp_path):
    whole = evaluate(run(), no_ray).shown
    (gone,) = (tmp_path / "work").rglob("00000001.png")
    (damaged,) = (tmp_path / "work").rglob("00000003.png")
    gone.unlink()
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert evaluate(run(), no_ray).shown == (whole[0], whole[2], whole[4])


def test_other_captions_seeds_models_or_shards_are_other_images(run, models):
    shard = generation.PromptShard(0, ("a", "b"), run().model)
    others = (
        replace(shard, captions=("a", "c")),
        replace(shard, first=8),
        replace(shard, model=replace(shard.model, seed=4)),
        replace(shard, model=replace(shard.model, psi=0.5)),
        replace(shard, model=replace(shard.model, upsampler=None)),
    )
    folders = {each.folder(Path("w")) for each in (shard, *others)}
    assert len(folders) == 6
    same = replace(shard, keep=9, model=replace(shard.model, batch_size=1))
    assert same.folder(Path("w")) == shard.folder(Path("w"))


def test_the_base_model_alone_is_judged_at_64_px(run):
    result = evaluate(
        run("coco-30k-64", model=replace(run().model, upsampler=None), limit=12),
        no_ray,
    )
    assert {name.rpartition("_")[0].rpartition("_")[2] for name in values(result)} == {"64"}
    assert "12 images where" in " ".join(result.cautions)
    assert "of 8 px and protocol coco-30k-64 is for 64 px" in " ".join(result.cautions)


def test_a_corrupt_real_image_ends_it_in_a_sentence(run, coco, tmp_path):
    images = tmp_path / "val"
    shutil.copytree(coco / "val2014", images)
    (images / "COCO_val2014_000000000003.jpg").write_bytes(b"no picture")
    changed = {**run().assets, "coco-2014-val": images}
    with pytest.raises(GigaganError, match=r"COCO_val2014_000000000003.jpg does not decode"):
        evaluate(run(assets=changed), no_ray)


@pytest.mark.slow
def test_ray_tasks_give_the_same_figures(run, tmp_path):
    """Workers know nothing of the small CLIPs: by Inception alone."""
    from gigagan_core.stages.ray_session import RaySession

    alone = replace(protocol("gigagan-coco-30k"), judges=(Judge("inception", ("is",)),))
    here = evaluate(run(protocol=alone, work=tmp_path / "here"), no_ray)
    session = RaySession(num_cpus=1)
    try:
        there = evaluate(run(protocol=alone, work=tmp_path / "there", in_process=0), session.ray)
    finally:
        session.close()
    assert values(there) == pytest.approx(values(here), rel=1e-6)


# ---- upsampling ------------------------------------------------------------------------------------


def test_an_upsampler_is_judged_on_real_images_shrunk(judges, models, drawings, tmp_path):
    from gigagan_core.evaluation.patches import shrink

    pictures = drawings(20, 40, 7)
    held_out = shard_set(tmp_path / "set", pictures, [f"disc {row}" for row in range(20)])
    small = Protocol(
        name="small",
        what="a test's",
        task="upsampling",
        judges=(Judge("inception", ("is",)), Judge("clip-vit-b32", ("clip-score",))),
        size=32,
        made=32,
        low=8,
        count=16,
        origin="",
        pairs=("psnr", "ssim"),
        patches=None,
    )
    model = Model(None, models["upsampler"], models["condition"], seed=1)
    result = evaluate(
        ProtocolRun(small, model, judges, tmp_path / "work", data=held_out, shard_size=6, options=FEW), no_ray
    )
    assert result.cautions[0].startswith("inception")  # neither count nor size is another than the protocol's
    assert result.prompts.available == 20
    # by hand
    rows = [int(prompt.id) for prompt in result.prompts.prompts]
    high = torch.stack(
        [
            torch.from_numpy(cropped_and_resized(pictures[row].permute(1, 2, 0).numpy(), 32).copy())
            for row in rows
        ]
    ).permute(0, 3, 1, 2)
    encoder = load_encoder(models["condition"].uri)
    large = upsample(models["upsampler"].uri, shrink(high, 8), result.prompts.texts, encoder, seed=1)
    for name, images in (("real", high), ("fake", large)):
        (tmp_path / name).mkdir()
        for row, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(
                tmp_path / name / f"{row:05}.png"
            )
    known = measure(
        FolderMetrics(
            real=tmp_path / "real",
            fake=tmp_path / "fake",
            extractors=(ExtractorPlace(f"inception:{judges['inception']}"),),
            metrics=("is", "psnr", "ssim"),
            options=FEW,
            shard_size=6,
            work=tmp_path / "other",
        )
    )
    found = values(result)
    assert set(found) == {figure.name for figure in known.figures} | {"clip-score_ViT-B-32-quickgelu_32_16"}
    for figure in known.figures:
        assert found[figure.name] == pytest.approx(figure.value, rel=1e-4), figure.name


def shard_set(folder: Path, images, captions: list[str]) -> Artifact:
    from gigagan_core.data.download import partition_schema
    from gigagan_core.data.shards import write_index, write_shard

    folder.mkdir()
    rows = []
    with tarfile.open(folder / "pictures.tar", "w") as tar:
        for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
            png = io.BytesIO()
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(png, "PNG")
            member = tarfile.TarInfo(f"{number:04d}.png")
            member.size = len(png.getvalue())
            tar.addfile(member, io.BytesIO(png.getvalue()))
            known = {"key": f"{number:04d}", "caption": caption, "status": "success", "selected": True}
            rows.append({**dict.fromkeys(partition_schema().names), **known})
    table = pa.Table.from_pylist(rows, partition_schema())
    write_index(folder, [write_shard(folder, 0, folder / "pictures.tar", table)])
    return artifact(folder, "shard-set")


# ---- the stage -------------------------------------------------------------------------------------


@pytest.fixture
def found(models, monkeypatch):
    """The store's models, found whatever is asked for."""
    monkeypatch.setattr(protocol_inputs.references, "base_model", lambda store, name: models["base"])
    monkeypatch.setattr(protocol_inputs.references, "upsampler", lambda store, name: models["upsampler"])
    monkeypatch.setattr(protocol_inputs.references, "encoder_of", lambda store, model: models["condition"])


def test_missing_assets_are_all_named_with_the_command_before_any_work(found, tmp_path, monkeypatch):
    monkeypatch.setenv("GIGAGAN_ASSETS", str(tmp_path / "assets"))
    settings = EvaluateSettings(protocol="gigagan-coco-30k")
    everything = "inception clip-vit-b32 clip-vit-g14 coco-2014-captions coco-2014-val"
    with pytest.raises(GigaganError, match=f"`gigagan assets fetch {everything}` gets them"):
        protocol_inputs.inputs_of(None, settings)
    wrong = settings.model_copy(update={"assets": {"coco-2014-vall": "/x"}})
    with pytest.raises(GigaganError, match="needs no 'coco-2014-vall'; did you mean 'coco-2014-val'"):
        protocol_inputs.inputs_of(None, wrong)
    gone = settings.model_copy(update={"assets": dict.fromkeys(protocol("gigagan-coco-30k").assets, "/gone")})
    with pytest.raises(GigaganError, match="asset inception: /gone is not there"):
        protocol_inputs.inputs_of(None, gone)
    own = EvaluateSettings(protocol="prompt-file", assets={"clip-vit-b32": str(tmp_path)})
    with pytest.raises(GigaganError, match="takes prompts of yours; name their file with --set prompts=FILE"):
        protocol_inputs.inputs_of(None, own)


def test_the_stage_commits_a_report_and_finds_it_again(run, found, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "gigagan-coco-30k", quick(PROTOCOLS["gigagan-coco-30k"], "fd"))
    own = {name: str(path) for name, path in run().assets.items()}
    settings = EvaluateSettings(
        protocol="gigagan-coco-30k",
        mode="authors",
        assets=own,
        max_images=20,
        bootstrap_resamples=100,
        samples_shown=4,
        batch_size=8,
    )
    with RunContext.open(str(tmp_path / "store")) as context:
        inputs = protocol_inputs.inputs_of(context.store, settings, upsampler="latest")
        made = stage.run(settings, inputs, context)
        again = stage.run(settings, inputs, context)
    assert again.fingerprint == made.fingerprint
    assert [line.cached for line in context.history] == [False, True]
    assert made.manifest["counts"] == {"in": IMAGES, "out": 20, "rejected": {"not drawn": IMAGES - 20}}
    assert made.manifest["inputs"]["asset/inception"]["sha256"] == sha256_file(run().assets["inception"])
    stored = json.loads((made.path / "report.json").read_text())
    assert stored["schema"] == "gigagan-report"
    assert stored["metrics"] == made.summary
    assert set(stored["figures"]) == set(stored["metrics"])
    assert not any("fid" in name for name in stored["metrics"])
    prompts = [json.loads(line) for line in (made.path / "prompts.jsonl").read_text().splitlines()]
    assert prompts[0]["sha256"] == made.notes["prompts_sha256"] == stored["how"]["prompts"]["sha256"]
    assert len(prompts) == 21
    page = (made.path / "report.html").read_text()
    assert "do not quote these figures" in page
    assert not re.search(r"(src|href)=.http", page)
    assert (made.path / "samples.png").is_file()
    beside = [row for row in stored["published"] if row["model"] == "GigaGAN" and row["quantity"] == "fid"]
    assert beside[0]["published"] == 9.09
    assert "theirs by inception" in " ".join(beside[0]["differs"])


# ---- the protocols and prompt suites as data -------------------------------------------------------


def test_every_protocol_names_assets_and_measures_that_exist():
    assert set(PROTOCOL_NAMES) == {*PROTOCOLS, OPENMOJI}
    for each in PROTOCOLS.values():
        assert set(each.assets) <= set(CATALOGUE), each.name
        assert {metric for judge in each.judges for metric in judge.metrics} <= set(METRICS)
        assert (each.low is not None) == (each.task == "upsampling")
        assert all(CATALOGUE[judge.asset].reader for judge in each.judges)
    coco = protocol("gigagan-coco-30k", "authors")
    assert (coco.size, coco.made, coco.count, coco.reference) == (256, 512, 30_000, "coco-2014-val")
    assert [judge.truncate for judge in coco.judges] == [False, True, True]
    assert not any(judge.truncate for judge in protocol("gigagan-coco-30k").judges)
    with pytest.raises(GigaganError, match="did you mean 'gigagan-coco-30k'"):
        protocol("gigagan-coco30k")


def test_coco_captions_are_one_of_each_drawn_image_and_a_smaller_draw_is_part_of_a_larger(coco):
    file = coco / "annotations" / "captions_val2014.json"
    every = load_prompts(file, "coco", 30_000, seed=0)
    assert len(every.prompts) == every.available == IMAGES
    assert len({prompt.id.partition("#")[0] for prompt in every.prompts}) == IMAGES
    for prompt in every.prompts:
        name, _, number = prompt.id.partition("#")
        row = int(re.search(r"_(\d+)\.jpg", name)[1])
        assert prompt.text == f"disc {row}, number {int(number) - 10 * row}"
    few = load_prompts(file, "coco", 9, seed=0)
    assert set(few.prompts) < set(every.prompts)
    assert few.sha256 == load_prompts(file, "coco", 9, seed=0).sha256
    assert len({few.sha256, every.sha256, load_prompts(file, "coco", 9, seed=1).sha256}) == 3
    assert len({prompt.id[-1] for prompt in every.prompts}) > 1  # not always the first caption


def test_the_manifest_holds_what_was_asked_for(coco, tmp_path):
    found = load_prompts(coco / "annotations" / "captions_val2014.json", "coco", 5, seed=0)
    found.write(tmp_path / "prompts.jsonl")
    head, *lines = map(json.loads, (tmp_path / "prompts.jsonl").read_text().splitlines())
    assert head["sha256"] == found.sha256
    assert [line["prompt"] for line in lines] == found.texts


def test_the_manifest_of_a_report_is_a_file_of_the_same_prompts(coco, tmp_path):
    manifest = tmp_path / "prompts.jsonl"
    found = load_prompts(coco / "annotations" / "captions_val2014.json", "coco", 5, seed=0)
    odd = Prompt("odd", "two\u2028lines, a \x85 and a \x0c page")
    found = replace(found, prompts=(*found.prompts, odd))
    found.write(manifest)
    again = load_prompts(manifest, "file", 100, seed=3)
    assert again.prompts == found.prompts
    assert again.sha256 == found.sha256
    manifest.write_text(manifest.read_text().replace("odd", "even"))
    with pytest.raises(GigaganError, match=r"prompts.jsonl are not those of its first line"):
        load_prompts(manifest, "file", 100, seed=3)


def test_parti_prompts_keep_their_quotation_marks(tmp_path):
    file = tmp_path / "PartiPrompts.tsv"
    file.write_text(
        'Prompt\tCategory\tChallenge\tNote\n"hello" on a sign\tAbstract\tWriting\t\na cat\tAnimals\tBasic\t\n'
    )
    found = load_prompts(file, "parti", 10, seed=0)
    assert found.texts == ['"hello" on a sign', "a cat"]
    assert found.prompts[1].id == "2/Animals/Basic"
    file.write_text("Text\na cat\n")
    with pytest.raises(GigaganError, match="no column Prompt"):
        load_prompts(file, "parti", 10, seed=0)


def test_own_prompts_are_text_or_jsonl(tmp_path):
    text = tmp_path / "own.txt"
    text.write_bytes("a cat\r\n\n  a dog \na\u2028b".encode())
    assert load_prompts(text, "file", 10, seed=0).texts == ["a cat", "a dog", "a\u2028b"]
    lines = tmp_path / "own.jsonl"
    lines.write_text('{"prompt": "a cat", "id": 7}\n{"caption": "a dog"}\n')
    assert [(p.id, p.text) for p in load_prompts(lines, "file", 10, seed=0).prompts] == [
        ("7", "a cat"),
        ("2", "a dog"),
    ]
    lines.write_text('{"prompt": "a cat"}\n{"words": "a dog"}\n')
    with pytest.raises(GigaganError, match="line 2: no JSON object with a prompt"):
        load_prompts(lines, "file", 10, seed=0)
    text.write_text("\n\n")
    with pytest.raises(GigaganError, match="there are none"):
        load_prompts(text, "file", 10, seed=0)
    with pytest.raises(GigaganError, match="not COCO's captions"):
        load_prompts(lines, "coco", 10, seed=0)
    with pytest.raises(GigaganError, match="cannot be read"):
        load_prompts(tmp_path / "gone", "file", 10, seed=0)


def test_prompts_of_ones_own_take_the_place_of_the_protocols_and_that_is_said(run, tmp_path):
    own = tmp_path / "own.txt"
    own.write_text("\n".join(f"prompt {row}" for row in range(12)))
    clip_only = replace(protocol("gigagan-coco-30k"), judges=(Judge("clip-vit-b32", ("clip-score",)),))
    result = evaluate(run(protocol=replace(clip_only, reference=None), prompts=own), no_ray)
    assert list(values(result)) == ["clip-score_ViT-B-32-quickgelu_256_12"]
    assert result.record["real"] is None
    assert "took the place of the protocol's" in " ".join(result.cautions)
    file = evaluate(run("prompt-file", prompts=own), no_ray)
    assert values(file) == values(result)
    assert "has 1,000,000" not in " ".join(file.cautions)


def test_features_of_the_real_images_are_shared_by_models(run, models, monkeypatch):
    evaluate(run(), no_ray)
    seen, extract_shard = [], extraction.extract_shard
    monkeypatch.setattr(
        generation,
        "extract_shard",
        lambda shard, plan, work: seen.append(extract_shard(shard, plan, work)) or seen[-1],
    )
    evaluate(run(model=replace(run().model, seed=4)), no_ray)
    fresh = [(set(result.facts), result.fresh) for result in seen]
    assert fresh.count(({"real"}, False)) == 4
    assert fresh.count(({"fake"}, True)) == 4


def test_an_upsampler_of_another_size_is_refused(models):
    sampler = generation.Sampler.__new__(generation.Sampler)
    sampler._upsampler = SimpleNamespace(settings=UPSAMPLER)
    with pytest.raises(GigaganError, match="takes images of 8 px and is given 16 px"):
        sampler._require_fits(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
