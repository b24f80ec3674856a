"""Protocols of upsamplers: real images, shrunk and enlarged again."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.extractors.registry import ExtractorPlace
from gigagan_core.evaluation.folder_metrics import FolderMetrics, measure
from gigagan_core.evaluation.picture_folder import cropped_and_resized
from gigagan_core.evaluation.protocols import generation, reference
from gigagan_core.evaluation.protocols.generation import Model
from gigagan_core.evaluation.protocols.protocol import Judge, Protocol
from gigagan_core.evaluation.protocols.run import ProtocolRun, evaluate
from gigagan_core.inference.generate import upsample

from .conftest import FEW, UPSAMPLER, named, no_ray, values

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")


def test_an_upsampler_is_judged_on_real_images_shrunk(judges, models, drawings, shard_set, tmp_path):
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
    assert set(found) == {figure.name for figure in known.figures} | {
        f"clip-score_{named(judges, 'clip-vit-b32')}_32_16"
    }
    for figure in known.figures:
        assert found[figure.name] == pytest.approx(figure.value, rel=1e-4), figure.name


@pytest.mark.parametrize("damaged", ["index.json", "00000002.image"])
@pytest.mark.parametrize("content", [None, b"", b"[]", "as many bytes"])
def test_real_images_are_unpacked_once_and_again_where_they_are_damaged(
    tmp_path, drawings, shard_set, monkeypatch, damaged, content
):
    held_out = shard_set(tmp_path / "set", drawings(4, 16, 6), [f"disc {row}" for row in range(4)])
    first = reference.unpack(held_out, tmp_path / "work")
    (file,) = (tmp_path / "work").rglob(damaged)
    whole = file.read_bytes()
    file.unlink()
    if content is not None:
        file.write_bytes(bytes(len(whole)) if content == "as many bytes" else content)
    assert reference.unpack(held_out, tmp_path / "work") == first
    assert file.read_bytes() == whole
    monkeypatch.setattr(reference, "read_samples", lambda shard_set: pytest.fail("it is unpacked"))
    assert reference.unpack(held_out, tmp_path / "work") == first


def test_an_upsampler_of_another_size_is_refused(models):
    sampler = generation.Sampler.__new__(generation.Sampler)
    sampler._upsampler = SimpleNamespace(settings=UPSAMPLER)
    with pytest.raises(GigaganError, match="takes images of 8 px and is given 16 px"):
        sampler._require_fits(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
