"""gigagan-coco-30k from prompts to figures: the same as by hand, resumed, here and in Ray tasks."""

from __future__ import annotations

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from gigagan_core.assets.catalogue import CATALOGUE
from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import extraction, kept_work, shard_pass
from gigagan_core.evaluation.extractors.registry import ExtractorPlace
from gigagan_core.evaluation.folder_metrics import FolderMetrics, measure
from gigagan_core.evaluation.picture_folder import list_pictures
from gigagan_core.evaluation.protocols import generation
from gigagan_core.evaluation.protocols.named import protocol
from gigagan_core.evaluation.protocols.protocol import Judge
from gigagan_core.evaluation.protocols.run import evaluate
from gigagan_core.inference.generate import generate, upsample
from gigagan_core.store.fingerprint import code_digest, digest, sha256_file

from .conftest import FEW, IMAGES, named, no_ray, values

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")


def test_the_whole_protocol_gives_what_generating_saving_and_comparing_folders_gives(
    run, coco, judges, models, tmp_path
):
    result = evaluate(run(metrics=("fd", "is")), no_ray)
    sha256 = sha256_file(judges["inception"])[:8]
    assert list(values(result)) == [
        f"fd_inception-{sha256}_256_28",
        f"is_inception-{sha256}_256_28",
        f"clip-score_{named(judges, 'clip-vit-b32')}_256_28",
        f"clip-score_{named(judges, 'clip-vit-g14')}_256_28",
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
    assert "29 real images where coco-2014-val has 40,504: a distance to them is not the protocol's" in said


def test_the_reference_s_own_count_of_images_is_not_cautioned(run, monkeypatch):
    whole = replace(CATALOGUE["coco-2014-val"], images=IMAGES + 1)
    monkeypatch.setitem(CATALOGUE, "coco-2014-val", whole)
    said = " ".join(evaluate(run(limit=12), no_ray).cautions)
    assert "12 images where" in said
    assert "real images where" not in said


def test_the_authors_mode_truncates_before_clip_and_leaves_inception_alone(run, judges):
    exact, authors = (values(evaluate(run(mode=mode), no_ray)) for mode in ("exact", "authors"))
    clip = named(judges, "clip-vit-b32")
    ends = (f"clip-score_{clip}-truncated_256_28", f"clip-score_{clip}_256_28")
    assert ends[0] in authors
    assert ends[1] not in authors
    (score,) = [name for name in exact if name.startswith("is_")]
    assert authors[score] == exact[score]
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


def test_a_link_among_the_real_images_that_leads_nowhere_ends_it_in_a_sentence(run, coco, tmp_path):
    images = tmp_path / "val"
    shutil.copytree(coco / "val2014", images)
    (images / "more.jpg").symlink_to(tmp_path / "nowhere")
    with pytest.raises(GigaganError, match=r"val/more\.jpg leads to no file; mend or remove that link"):
        evaluate(run(assets={**run().assets, "coco-2014-val": images}), no_ray)


def test_a_damaged_generated_image_is_made_again(run, tmp_path):
    whole = values(evaluate(run(work=tmp_path / "undisturbed"), no_ray))
    assert values(evaluate(run(keep=IMAGES), no_ray)) == whole
    (damaged,) = (tmp_path / "work").rglob("00000002.png")
    data = damaged.read_bytes()
    damaged.write_bytes(data[:100])
    for record in (tmp_path / "work").rglob("features-*.json"):
        record.unlink()
    assert values(evaluate(run(keep=IMAGES), no_ray)) == whole
    assert damaged.read_bytes() == data


def test_a_generated_image_that_does_not_decode_is_called_so_and_not_for_good(run, monkeypatch):
    decode = shard_pass.decode
    monkeypatch.setattr(
        shard_pass,
        "decode",
        lambda picture, size: "a bad day" if picture.name == "00000002.png" else decode(picture, size),
    )
    with pytest.raises(
        GigaganError, match=r"generated image 00000002\.png does not decode \(a bad day\); give"
    ):
        evaluate(run(), no_ray)
    monkeypatch.undo()
    (figure, *_) = evaluate(run(), no_ray).figures
    assert figure.fake == IMAGES


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


def test_more_samples_than_an_earlier_evaluation_kept_are_made_again_and_fewer_take_none(run, monkeypatch):
    few, made, images = evaluate(run(), no_ray).shown, [], generation.Sampler.images
    assert len(few) == 5
    monkeypatch.setattr(
        generation.Sampler,
        "images",
        lambda self, captions, first, low=None: made.append(first) or images(self, captions, first, low),
    )
    more = evaluate(run(keep=11), no_ray).shown
    assert made == [0, 8], "of the shards that hold them alone"
    assert len(more) == 11
    assert more[:5] == few
    assert evaluate(run(keep=2), no_ray).shown == few[:2]
    assert evaluate(run(keep=11), no_ray).shown == more
    assert made == [0, 8]


def test_an_edit_of_what_makes_images_makes_them_again_and_one_of_a_judge_does_not(monkeypatch):
    """By the modules whose source is in the key."""

    def key_with(edited: str) -> str:
        def code(module: str) -> tuple[str, dict[str, str]]:
            modules = code_digest(module)[1]
            changed = {name: "edited" if name == edited else known for name, known in modules.items()}
            return digest(changed), changed

        with monkeypatch.context() as patch:
            for each in (kept_work, generation):
                patch.setattr(each, "code_digest", code)
            for cached in (kept_work.makers_digest, generation._maker):
                cached.cache_clear()
            found = generation.Model(None, None, None).key
        for cached in (kept_work.makers_digest, generation._maker):
            cached.cache_clear()
        return found

    unchanged = key_with("")
    for module in ("models.generator", "inference.generate", "evaluation.protocols.generation"):
        assert key_with(f"gigagan_core.{module}") != unchanged, module
    for module in ("evaluation.extractors.dino", "evaluation.shard_pass", "evaluation.similarity"):
        assert key_with(f"gigagan_core.{module}") == unchanged, module


def test_two_evaluations_at_once_take_turns_and_lose_no_image(run, tmp_path, monkeypatch):
    """One in each mode, on the same images: before, one let go what the other was about to decode."""
    alone = values(evaluate(run(mode="authors", work=tmp_path / "alone"), no_ray))
    inside, together, extract_shard = set(), [], generation.extract_shard

    def slow(shard, plan, work):
        folder = Path(shard.pictures["fake"][0].path).parent if "fake" in shard.pictures else None
        if folder is not None:
            together.append(folder in inside)
            inside.add(folder)
            time.sleep(0.02)
        result = extract_shard(shard, plan, work)
        inside.discard(folder)
        return result

    monkeypatch.setattr(generation, "extract_shard", slow)
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(evaluate, run(mode=mode), no_ray) for mode in ("exact", "authors")]
        found = [values(each.result()) for each in running]
    assert found[1] == alone
    assert len(together) == 8
    assert not any(together)


def test_real_images_are_decoded_and_shrunk_a_batch_at_a_time(run, drawings, tmp_path, monkeypatch):
    names = []
    for row, image in enumerate(drawings(7, 48, 3)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{row}.png")
        names.append(f"{row}.png")
    sources = tuple(list_pictures(tmp_path))
    shard = generation.PromptShard(0, tuple(names), run().model, sources, 32, 8)
    whole = generation.low_images(replace(shard, model=replace(shard.model, batch_size=100)))
    seen, shrink = [], generation.shrink
    monkeypatch.setattr(generation, "shrink", lambda x, size: seen.append(len(x)) or shrink(x, size))
    found = generation.low_images(replace(shard, model=replace(shard.model, batch_size=3)))
    assert seen == [3, 3, 1]
    assert torch.equal(found, whole)
