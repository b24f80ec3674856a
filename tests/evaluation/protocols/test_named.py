"""Every protocol as it is written, by its name: on few images, with scripted networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import shard_pass
from gigagan_core.evaluation.bootstrap import OF_ONE_IMAGE
from gigagan_core.evaluation.extractors.clip import OpenClip
from gigagan_core.evaluation.extractors.registry import ExtractorPlace
from gigagan_core.evaluation.folder_metrics import FolderMetrics, measure
from gigagan_core.evaluation.patches import bicubic
from gigagan_core.evaluation.protocols import generation, request
from gigagan_core.evaluation.protocols.named import PROTOCOLS, protocol
from gigagan_core.evaluation.protocols.protocol import Patches
from gigagan_core.evaluation.protocols.run import evaluate

from .conftest import FEW, IMAGES, no_ray

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")

COUNT = 22
"""Images of the data set: FD-infinity needs 20."""
FD = ["fd", "fd-infinity"]


@pytest.fixture
def data(shard_set, drawings, tmp_path):
    """A shard set of 40 px with captions."""
    return shard_set(tmp_path / "set", drawings(COUNT, 40, 7), [f"disc {row}" for row in range(COUNT)])


@pytest.fixture
def whole(run, narrow_inception, judges, coco, models, data, tmp_path):
    """(name, changed fields) -> the run of a protocol with all that is written of it."""
    (tmp_path / "parti.tsv").write_text(
        "Prompt\tCategory\tChallenge\n" + "".join(f"a disc {row}\tWorld\tBasic\n" for row in range(9))
    )
    (tmp_path / "backbone.pth").write_bytes(b"read by the scripted network alone")
    captions = coco / "annotations" / "captions_val2014.json"
    assets = {
        **judges,
        "inception": narrow_inception(),
        "coco-2014-val": coco / "val2014",
        "coco-2014-captions": captions,
        "coco-2017-val": coco / "val2014",
        "coco-2017-captions": captions,
        "parti-prompts": tmp_path / "parti.tsv",
        "lpips-vgg": tmp_path / "backbone.pth",
    }

    def make(name: str, **changed):
        found, model = protocol(name), run().model
        if found.task == "upsampling":
            model = replace(model, base=None)
        elif found.made == 64:
            model = replace(model, upsampler=None)
        given = {"assets": assets, "model": model, "data": data if found.needs_data else None, **changed}
        return run(name, metrics=(), **given)

    return make


@pytest.fixture
def enlarging(monkeypatch):
    """(size) -> bicubic enlarging with noise takes the place of an upsampler of that size."""

    class Enlarging:
        def __init__(self, size: int) -> None:
            self._size = size

        def images(self, captions, first: int, low: torch.Tensor) -> torch.Tensor:
            large = bicubic(low, self._size).int()
            for row, image in enumerate(large, first):
                image += torch.randint(-20, 20, image.shape, generator=torch.Generator().manual_seed(row))
            return large.clamp(0, 255).to(torch.uint8)

    def take(size: int) -> None:
        monkeypatch.setattr(generation, "_sampler", lambda model: Enlarging(size))

    return take


@pytest.fixture
def lpips(monkeypatch) -> None:
    """The mean absolute difference in LPIPS' place."""

    def load(place: str, device: str):
        return lambda fake, real: (fake - real).abs().mean(dim=(1, 2, 3), keepdim=True)

    monkeypatch.setattr(shard_pass, "load_lpips", load)


def told(result) -> list[str]:
    """Metrics, each with the resolution and count in its name."""
    return [f"{figure.metric} {'_'.join(figure.name.split('_')[-2:])}" for figure in result.figures]


@pytest.mark.parametrize(
    ("name", "metrics", "size", "count"),
    [
        ("gigagan-coco-30k", [*FD, "clip-score", "clip-score"], 256, IMAGES),
        ("coco2017-5k", [*FD, "clip-score"], 256, IMAGES),
        ("coco-30k-64", [*FD, "clip-score"], 64, IMAGES),
        ("ladder-fid-10k", [*FD, "clip-score"], 64, COUNT),
        ("parti-prompts", ["clip-score"], 256, 9),
    ],
)
def test_captions_become_the_figures_that_a_protocol_names(whole, name, metrics, size, count):
    result = evaluate(whole(name), no_ray)
    assert told(result) == [f"{metric} {size}_{count}" for metric in metrics]
    assert all(np.isfinite(figure.value) for figure in result.figures)
    real = {"ladder-fid-10k": COUNT, "parti-prompts": 0}.get(name, IMAGES + 1)
    assert {figure.real for figure in result.figures if figure.metric in FD} <= {real}
    assert (result.record["real"] or {"count": 0})["count"] == real
    assert f"{count} images where protocol {name} has {PROTOCOLS[name].count:,}" in " ".join(result.cautions)


def test_real_images_become_the_figures_of_an_upsampler_of_imagenet(whole, enlarging):
    enlarging(256)
    result = evaluate(whole("imagenet-64-to-256"), no_ray)
    assert told(result) == [f"{metric} 256_{COUNT}" for metric in (*FD, "is")]
    assert {figure.real for figure in result.figures} == {COUNT, 0}
    assert result.figures[2].details["real_images"] > 1


@pytest.mark.slow
def test_real_images_become_the_figures_of_a_large_upsampler(whole, enlarging, lpips):
    enlarging(1024)
    result = evaluate(whole("laion-128-to-1024"), no_ray)
    metrics = [f"{metric} 1024_{COUNT}" for metric in (*FD, "clip-score", "lpips")]
    assert told(result) == [*metrics, f"patch-fd 1024_{4 * COUNT}"]
    assert result.figures[-1].name.startswith("patch256-fd_")


def test_the_large_upsamplers_figures_are_those_of_its_folders(whole, lpips, drawings, tmp_path):
    """laion-128-to-1024 at 32 px: its distances, CLIP score, LPIPS and patches beside a comparison of folders."""
    small = replace(protocol("laion-128-to-1024"), size=32, made=32, low=8, patches=Patches(16, 4))
    run = whole("laion-128-to-1024", protocol=small, keep=COUNT)
    result = evaluate(run, no_ray)
    for folder in ("real", "fake"):
        (tmp_path / folder).mkdir()
    lines = []
    for row, (caption, path) in enumerate(result.shown):
        Image.open(path).save(tmp_path / "fake" / f"{row:02}.png")
        lines.append(f"{row:02}.png\t{caption}\n")
    for row, image in enumerate(drawings(COUNT, 40, 7)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "real" / f"{row:02}.png")
    (tmp_path / "captions.txt").write_text("".join(lines))
    known = measure(
        FolderMetrics(
            real=tmp_path / "real",
            fake=tmp_path / "fake",
            extractors=(
                ExtractorPlace(f"inception:{run.assets['inception']}"),
                ExtractorPlace(f"ViT-B-32-quickgelu:{run.assets['clip-vit-b32']}"),
            ),
            metrics=("fd", "fd-infinity", "clip-score", "lpips", "patch-fd"),
            captions=tmp_path / "captions.txt",
            size=32,
            lpips=f"vgg:{run.assets['lpips-vgg']}",
            patch_size=16,
            patches_per_image=4,
            options=FEW,
            work=tmp_path / "other",
        )
    )
    of_folders = {figure.name: figure.value for figure in known.figures}
    found = {figure.name: figure.value for figure in result.figures}
    assert len(found) == 5
    for name, value in found.items():
        assert value == pytest.approx(of_folders[name], rel=1e-4), name


def test_the_clips_of_a_score_read_no_real_image(whole, monkeypatch):
    seen, features_of = [], OpenClip.features_of
    monkeypatch.setattr(
        OpenClip,
        "features_of",
        lambda self, prepared: seen.append((self.name, len(prepared))) or features_of(self, prepared),
    )
    evaluate(whole("gigagan-coco-30k"), no_ray)
    read: dict[str, int] = {}
    for name, count in seen:
        read[name] = read.get(name, 0) + count
    assert list(read.values()) == [IMAGES, IMAGES]


def test_a_single_prompt_has_a_score_without_an_interval(whole, tmp_path):
    (tmp_path / "one.txt").write_text("a red disc\n")
    (figure,) = evaluate(whole("prompt-file", prompts=tmp_path / "one.txt"), no_ray).figures
    assert figure.metric == "clip-score"
    assert figure.interval is None
    (of_weights,) = figure.cautions[1:]
    assert figure.cautions[0] == OF_ONE_IMAGE
    assert "is not the published clip-vit-b32" in of_weights


def test_a_judge_that_cannot_give_a_measure_is_refused_before_any_image_is_made(
    whole, narrow_inception, monkeypatch
):
    monkeypatch.setattr(generation, "_sampler", lambda model: pytest.fail("an image is made"))
    assets = {**whole("imagenet-64-to-256").assets, "inception": narrow_inception(classifier=False)}
    with pytest.raises(
        GigaganError, match=r"protocol imagenet-64-to-256 takes is by inception, and .* cannot"
    ):
        evaluate(whole("imagenet-64-to-256", assets=assets), no_ray)


def test_images_that_cannot_be_written_are_one_sentence(whole, data, tmp_path):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "one.txt").write_text("a red disc\n")
    for name, what in (("prompt-file", "generated images"), ("ladder-fid-10k", "real images")):
        own = {"prompts": tmp_path / "one.txt"} if name == "prompt-file" else {}
        run = whole(name, work=tmp_path / "file", **own)
        with pytest.raises(GigaganError, match=rf"^{what} cannot be written below .*\(Not a directory\)"):
            evaluate(run, no_ray)


def test_the_stages_threads_reach_the_protocol(models):
    from gigagan_core.config.evaluate import EvaluateSettings

    for asked in (None, 6):
        settings = EvaluateSettings(protocol="parti-prompts", threads=asked)
        inputs = {"model": models["base"], "condition": models["condition"]}
        assert request.protocol_run(settings, inputs, {}, False).threads == asked
