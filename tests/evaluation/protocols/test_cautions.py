"""Whatever makes a run another than its protocol is said, and whatever makes a network another than the published."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torchvision

from gigagan_core.assets.catalogue import CATALOGUE
from gigagan_core.evaluation.protocols import cautions
from gigagan_core.evaluation.protocols.cautions import SAW_DATA, Network, of_networks, of_run
from gigagan_core.evaluation.protocols.generation import Model
from gigagan_core.evaluation.protocols.prompts import Prompt, PromptSet
from gigagan_core.evaluation.protocols.protocol import Judge, Protocol
from gigagan_core.evaluation.protocols.run import ProtocolRun, evaluate
from gigagan_core.stages.judge import saw, teachers
from gigagan_core.store.artifact import ExternalFile
from gigagan_core.store.fingerprint import sha256_file

from .conftest import FEW, no_ray

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")
COCO = {"coco-2014-val", "coco-2014-captions"}


@pytest.fixture
def said(run, monkeypatch):
    """(protocol, changed fields of the run) -> the sentences of a run of all its images, by a model of its size."""

    def sentences(name: str, **changed) -> list[str]:
        asked = run(name, **{"fetched": frozenset(COCO), **changed})
        monkeypatch.setattr(cautions, "read_config", lambda path: {"image_size": asked.protocol.made})
        prompts = PromptSet((Prompt("", "a cat"),) * asked.protocol.count, asked.protocol.count, "a test's")
        return of_run(asked, prompts, 40_504, 0)

    return sentences


def test_a_run_that_is_the_protocol_has_nothing_to_say(said):
    assert said("gigagan-coco-30k") == []
    assert said("ladder-fid-10k") == []


def test_images_and_captions_of_ones_own_are_not_known_to_be_cocos(said, run):
    both = said("gigagan-coco-30k", fetched=frozenset())
    assert [sentence.partition(" has the place of ")[2].partition(" and ")[0] for sentence in both] == [
        "coco-2014-val",
        "coco-2014-captions",
    ]
    assert "put val2014.zip into the assets folder" in both[0]
    (captions,) = said("gigagan-coco-30k", fetched=frozenset({"coco-2014-val"}))
    assert str(run().assets["coco-2014-captions"]) in captions


def test_a_file_of_ones_own_is_known_by_its_sum(said, run, tmp_path, monkeypatch):
    own = tmp_path / "PartiPrompts.tsv"
    own.write_text("Prompt\na cat\n")
    assets = {**run().assets, "parti-prompts": own}
    (sentence,) = said("parti-prompts", assets=assets)
    assert "PartiPrompts.tsv is not the published parti-prompts (sha256" in sentence
    known = replace(CATALOGUE["parti-prompts"], sha256=sha256_file(own))
    monkeypatch.setitem(CATALOGUE, "parti-prompts", known)
    assert said("parti-prompts", assets=assets) == []


def test_prompts_of_ones_own_are_said_wherever_the_protocol_has_others(said, tmp_path):
    own = tmp_path / "own.txt"
    for name in ("gigagan-coco-30k", "ladder-fid-10k"):
        assert said(name, prompts=own) == [f"prompts of {own} took the place of the protocol's"]
    assert said("prompt-file", prompts=own) == []


def test_truncation_and_training_on_the_judged_images_are_said(said, run):
    model = replace(run().model, psi=0.5)
    assert said("ladder-fid-10k", model=model) == [
        "images with truncation psi = 0.5 where protocol ladder-fid-10k has 1"
    ]
    assert said("ladder-fid-10k", saw_data=True) == [SAW_DATA]


def test_a_network_is_the_published_one_by_its_sum_and_no_pupils_teacher(run):
    published = CATALOGUE["clip-vit-b32"].sha256
    networks = [
        Network("clip-vit-b32", "B", published),
        Network("clip-vit-g14", "g", "1" * 64),
        Network("lpips-vgg", "lpips-vgg", "2" * 64),
    ]
    found = of_networks(run(), networks)
    assert found["B"] == ()
    assert found["g"] == (
        "nothing shows that g (sha256 111111111111) is clip-vit-g14, whose sum no public source states",
    )
    assert found["lpips-vgg"][0].startswith("lpips-vgg is not the published lpips-vgg (sha256 222222222222)")
    assert of_networks(run(fetched=frozenset({"clip-vit-g14"})), networks)["g"] == ()
    taught = of_networks(run(teachers={published: "model ← vision_encoder"}), networks)
    assert taught["B"] == (
        "B (sha256 40d365715913) took part in making the model (model ← vision_encoder): figures by it flatter the "
        "model",
    )


def test_what_trained_a_model_and_on_what_is_found_by_its_lineage(artifact, tmp_path):
    clip = ExternalFile("ViT-B-32-quickgelu:/clip.pt", "c" * 64)
    ingested = artifact(tmp_path / "ingested", "shard-set")
    curated = artifact(tmp_path / "curated", "shard-set", inputs={"data": ingested.reference()})
    model = artifact(
        tmp_path / "model",
        "base-model",
        inputs={"data": [[curated.reference(), 1.0]], "vision_encoder": clip.reference()},
    )
    known = {each.fingerprint: each for each in (ingested, curated, model)}
    store = SimpleNamespace(find=lambda stage, fingerprint: known.get(fingerprint))

    def work(**inputs) -> SimpleNamespace:
        return SimpleNamespace(inputs=inputs, store=store)

    # the judge is an input too, and no teacher for that
    judged_by = {"asset/clip-vit-b32": clip, "asset/inception": ExternalFile("/i.pt", "d" * 64)}
    assert teachers(work(model=model, **judged_by)) == {"c" * 64: "model ← vision_encoder"}
    assert teachers(work(model=curated, condition=clip, **judged_by)) == {"c" * 64: "condition"}
    other = artifact(tmp_path / "other", "shard-set")
    assert [saw(work(model=model, data=data)) for data in (curated, ingested, other, None)] == [
        True,
        True,
        False,
        False,
    ]


def test_the_backbone_of_lpips_is_recorded_and_its_weights_are_those_of_the_catalogue_or_not(
    judges, models, drawings, shard_set, tmp_path
):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        features = torchvision.models.alexnet(weights=None).features
    backbone = tmp_path / "alexnet.pth"
    torch.save({f"features.{name}": value for name, value in features.state_dict().items()}, backbone)
    held_out = shard_set(tmp_path / "set", drawings(4, 40, 7), [f"disc {row}" for row in range(4)])
    small = Protocol(
        name="small",
        what="a test's",
        task="upsampling",
        judges=(Judge("clip-vit-b32", ("clip-score",)),),
        size=32,
        made=32,
        low=8,
        count=4,
        origin="",
        pairs=("psnr", "lpips"),
        lpips="lpips-alex",
    )
    assets = {**judges, "lpips-alex": backbone}
    model = Model(None, models["upsampler"], models["condition"])
    work = tmp_path / "work"
    result = evaluate(ProtocolRun(small, model, assets, work, data=held_out, options=FEW), no_ray)
    (facts,) = [each for each in result.record["extractors"] if each["name"] == "lpips-alex"]
    assert facts["sha256"] == sha256_file(backbone)
    assert facts["published"] is False
    figures = {figure.metric: figure for figure in result.figures}
    assert figures["lpips"].extractor == "lpips-alex"
    (caution,) = figures["lpips"].cautions
    assert caution.startswith("lpips-alex is not the published lpips-alex (sha256")
    assert caution in result.cautions
    assert figures["psnr"].cautions == ()
    (clip,) = figures["clip-score"].cautions
    assert "is not the published clip-vit-b32" in clip
