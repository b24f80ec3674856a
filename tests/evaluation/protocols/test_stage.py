"""The stage `evaluate` with a protocol: assets before any work, one report, found again."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from gigagan_core import environment
from gigagan_core.config.evaluate import EvaluateSettings
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.protocols import generation, request
from gigagan_core.evaluation.protocols import run as protocol_runs
from gigagan_core.evaluation.protocols.named import PROTOCOLS, protocol
from gigagan_core.stages import evaluate as stage
from gigagan_core.stages import protocol_inputs
from gigagan_core.stages.base import RunContext
from gigagan_core.store.artifact import ExternalFile
from gigagan_core.store.fingerprint import sha256_file

from .conftest import IMAGES, quick

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*")


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
    galleries = {path.stem for path in (made.path / "galleries").iterdir()}
    assert galleries == {each["id"] for each in stored["galleries"]} == {"best", "worst", "far", "alike"}
    for text in (
        "Best by CLIP score",
        "Unlike any real image",
        "Alike for different captions",
        "Base model",
        "9.09",
    ):
        assert text in page, text
    for line in stored["lineage"]:
        assert line["fingerprint"][:12] in page
    assert {"model", "upsampler", "condition", "asset/inception"} <= {
        line["role"] for line in stored["lineage"]
    }
    assert len(page) < 4_000_000
    beside = [row for row in stored["published"] if row["model"] == "GigaGAN" and row["quantity"] == "fid"]
    assert beside[0]["published"] == 9.09
    assert "theirs by inception" in " ".join(beside[0]["differs"])


def test_other_pictures_of_the_same_names_and_sizes_are_another_input(run, found, tmp_path):
    folder = tmp_path / "val2014"
    folder.mkdir()

    def drawn(value: int) -> str:
        Image.new("RGB", (8, 8), (value, 0, 0)).save(folder / "0.bmp")
        return protocol_inputs.inputs_of(None, settings)["asset/coco-2014-val"].sha256

    own = {name: str(path) for name, path in run().assets.items()} | {"coco-2014-val": str(folder)}
    settings = EvaluateSettings(protocol="gigagan-coco-30k", assets=own)
    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("gigagan-coco-30k", {"judge": "abc"}, "--judge: protocol gigagan-coco-30k has its own judges"),
        ("gigagan-coco-30k", {"control": "abc"}, "--control: only protocol openmoji-heldout judges one"),
        ("gigagan-coco-30k", {"data": "abc"}, "--data: protocol gigagan-coco-30k takes no shard set"),
        ("parti-prompts", {"tradeoff": "abc"}, "--tradeoff: only a report of protocol openmoji-heldout"),
        ("laion-128-to-1024", {"model": "abc"}, "--model: protocol laion-128-to-1024 enlarges real images"),
    ],
)
def test_what_a_protocol_does_not_look_at_is_refused(name, given, wanted):
    with pytest.raises(GigaganError, match=f"{wanted}.*; leave it out"):
        protocol_inputs.inputs_of(None, EvaluateSettings(protocol=name), **given)


def test_images_that_are_enlarged_keep_their_captions(tmp_path):
    settings = EvaluateSettings(protocol="imagenet-64-to-256", prompts=str(tmp_path / "own.txt"))
    with pytest.raises(GigaganError, match="--set prompts: protocol imagenet-64-to-256 enlarges captioned"):
        protocol_inputs.inputs_of(None, settings)


def test_a_setting_that_the_protocol_does_not_read_is_refused_and_a_presets_makes_no_other_artifact():
    with pytest.raises(
        GigaganError, match="--set image_size and recall_k: protocol parti-prompts does not read"
    ):
        protocol_inputs.settings_of("demo", ["protocol=parti-prompts", "image_size=64", "recall_k=3"])
    with pytest.raises(GigaganError, match="--set mode: protocol openmoji-heldout does not read"):
        protocol_inputs.settings_of("demo", ["mode=authors"])
    with pytest.raises(GigaganError, match="--set upsampled_size: protocol parti-prompts does not read"):
        protocol_inputs.require_read(EvaluateSettings(protocol="parti-prompts", upsampled_size=64))
    chosen = [
        protocol_inputs.settings_of(preset, ["protocol=parti-prompts", "samples_shown=4", "max_images=8"])
        for preset in ("demo", "openmoji")
    ]
    assert chosen[0] != chosen[1]
    assert chosen[0].as_read() == chosen[1].as_read()
    assert chosen[0].as_read().samples_shown == 4
    demonstrations = protocol_inputs.settings_of("openmoji", ["neighbours=5"])
    assert demonstrations.as_read() == demonstrations


def test_every_setting_is_read_by_a_protocol():
    by_openmoji, by_others = EvaluateSettings().unread, EvaluateSettings(protocol="parti-prompts").unread
    assert not by_openmoji & by_others
    assert by_openmoji | by_others < set(EvaluateSettings.model_fields)


def test_the_run_that_is_asked_for_knows_its_teachers_its_own_files_and_its_truncation(
    run, found, models, artifact, tmp_path, monkeypatch
):
    own = {name: str(path) for name, path in run().assets.items()}
    settings = EvaluateSettings(protocol="gigagan-coco-30k", assets=own, psi=0.5)
    clip = ExternalFile(
        f"ViT-B-32-quickgelu:{own['clip-vit-b32']}", sha256_file(run().assets["clip-vit-b32"])
    )
    pupil = artifact(Path(models["base"].uri), "base-model", inputs={"vision_encoder": clip.reference()})
    asked = []

    def stop(run, ray):
        asked.append(run)
        raise GigaganError("seen")

    monkeypatch.setattr(protocol_runs, "evaluate", stop)
    with RunContext.open(str(tmp_path / "store")) as context:
        inputs = protocol_inputs.inputs_of(context.store, settings)
        with pytest.raises(GigaganError, match="seen"):
            stage.run(settings, {**inputs, "model": pupil}, context)
    (asked_for,) = asked
    assert asked_for.teachers == {clip.sha256: "model ← vision_encoder"}
    assert not asked_for.saw_data
    assert asked_for.fetched == frozenset()
    assert (asked_for.protocol.psi, asked_for.model.psi) == (1.0, 0.5)
    some = settings.model_copy(update={"assets": {"inception": own["inception"]}})
    assert request.protocol_run(some, inputs, {}, False).fetched == set(own) - {"inception"}


def test_force_makes_and_judges_everything_anew(run, found, tmp_path, monkeypatch):
    monkeypatch.setitem(PROTOCOLS, "gigagan-coco-30k", quick(PROTOCOLS["gigagan-coco-30k"], "is"))
    own = {name: str(path) for name, path in run().assets.items()}
    settings = EvaluateSettings(
        protocol="gigagan-coco-30k", assets=own, max_images=12, bootstrap_resamples=100, samples_shown=12
    )
    made, fresh = [], []
    images, extract_shard = generation.Sampler.images, generation.extract_shard
    monkeypatch.setattr(
        generation.Sampler,
        "images",
        lambda self, captions, first, low=None: made.append(len(captions)) or images(self, captions, first),
    )
    monkeypatch.setattr(
        generation,
        "extract_shard",
        lambda shard, plan, work: fresh.append(extract_shard(shard, plan, work)) or fresh[-1],
    )

    def evaluated(force: bool):
        made.clear()
        fresh.clear()
        with RunContext.open(str(tmp_path / "store"), force=force) as context:
            inputs = protocol_inputs.inputs_of(context.store, settings, upsampler="latest")
            return stage.run(settings, inputs, context)

    first = evaluated(force=False)
    assert made == [12]
    kept = {path: path.stat().st_mtime_ns for path in (environment.home() / "metrics").rglob("*.npy")}
    forced = evaluated(force=True)
    assert made == [12]
    assert fresh
    assert all(result.fresh for result in fresh)
    assert forced.summary == first.summary
    assert forced.output_digest != first.output_digest
    assert kept == {path: path.stat().st_mtime_ns for path in (environment.home() / "metrics").rglob("*.npy")}


def test_a_training_set_is_an_input_where_images_may_be_copied_from_it(found, run, monkeypatch):
    monkeypatch.setattr(protocol_inputs.references, "shard_set", lambda store, name, held_out=False: name)
    own = {name: str(path) for name, path in run().assets.items()}
    settings = EvaluateSettings(protocol="gigagan-coco-30k", assets=own)
    assert protocol_inputs.inputs_of(None, settings)["train"] is None
    assert protocol_inputs.inputs_of(None, settings, train="latest")["train"] == "latest"
    enlarging = EvaluateSettings(
        protocol="imagenet-64-to-256", assets={"inception": str(run().assets["inception"])}
    )
    assert protocol_inputs.inputs_of(None, enlarging, train="latest")["train"] is None
