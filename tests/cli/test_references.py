"""What `latest`, a prefix, a path or ARCH:PATH stands for, and which settings a command starts from."""

from __future__ import annotations

from pathlib import Path

import pytest

from gigagan_core.config.base import Settings
from gigagan_core.errors import GigaganError
from gigagan_core.stages import references
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, materialise
from gigagan_core.store.artifact import Artifact, ExternalFile, digest_of
from gigagan_core.store.fingerprint import sha256_file
from gigagan_core.store.store import Store


class Numbered(Settings):
    number: int
    training: dict = {}


class Maker:
    """Makes artifacts of any kind, each different from the last."""

    def __init__(self, folder: Path):
        self.folder, self.number = folder, 0

    def make(
        self, kind: str, label: str, inputs: dict | None = None, objective: str = "gan", **notes: str
    ) -> Artifact:
        self.number += 1
        stage = label.split()[0] if kind == "shard-set" else kind
        spec = StageSpec(stage, kind=kind, module="gigagan_core.text")
        settings = Numbered(number=self.number, training={"objective": objective})
        with RunContext.open(str(self.folder)) as context:
            return materialise(
                spec, settings, inputs or {}, context, lambda work: Outcome(notes=notes), label=label
            )

    @property
    def store(self) -> Store:
        return Store(str(self.folder))


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path / "store")


def test_latest_never_hands_the_held_out_set_to_training(maker: Maker) -> None:
    train = maker.make("shard-set", "ingest train")
    held_out = maker.make("shard-set", "ingest heldout")
    assert references.shard_set(maker.store, "latest") == train
    assert references.shard_set(maker.store, "latest", held_out=True) == held_out
    curated = maker.make("shard-set", "curate", {"data": train})
    assert references.shard_set(maker.store, "latest") == curated
    curated_held_out = maker.make("shard-set", "curate", {"data": held_out})
    assert references.shard_set(maker.store, "latest") == curated
    assert references.shard_set(maker.store, "latest", held_out=True) == curated_held_out
    assert references.shard_set(maker.store, held_out.fingerprint[:8]) == held_out
    assert references.shard_set(maker.store, train.uri, held_out=True).fingerprint == train.fingerprint


def test_what_comes_before_the_selection_never_takes_what_was_selected(maker: Maker) -> None:
    train = maker.make("shard-set", "ingest train")
    curated = maker.make("shard-set", "curate", {"data": train})
    maker.make("shard-set", "curate", {"data": maker.make("shard-set", "ingest heldout")})
    assert references.uncurated(maker.store, "latest") == train
    assert references.uncurated(maker.store, curated.fingerprint[:8]) == curated


def test_latest_encoder_is_the_newest_of_its_role(maker: Maker) -> None:
    condition = maker.make("encoder", "train-encoder (condition)", role="condition")
    judge = maker.make("encoder", "train-encoder (judge)", role="judge")
    assert references.encoder(maker.store, "latest") == condition
    assert references.encoder(maker.store, "latest", role="judge") == judge


def test_latest_upsampler_and_control_are_told_apart_by_their_objective(maker: Maker) -> None:
    upsampler = maker.make("upsampler-model", "train-upsampler")
    control = maker.make("upsampler-model", "train-upsampler-l1", objective="l1")
    assert references.upsampler(maker.store, "latest") == upsampler
    assert references.upsampler(maker.store, "latest", objective="l1") == control


def test_a_weight_file_is_known_by_its_sum(maker: Maker, tmp_path: Path) -> None:
    weights = tmp_path / "ViT.pt"
    weights.write_bytes(b"weights")
    found = references.encoder(maker.store, f"ViT-L-14:{weights}")
    assert found == ExternalFile(f"ViT-L-14:{weights}", sha256_file(weights), read_as="ViT-L-14")
    with pytest.raises(GigaganError, match="no such weight file"):
        references.encoder(maker.store, f"ViT-L-14:{tmp_path / 'missing.pt'}")


def test_one_weight_file_is_another_input_in_another_architecture(maker: Maker, tmp_path: Path) -> None:
    """ViT-B-32 and ViT-B-32-quickgelu take the same file, and give other features."""
    weights = tmp_path / "ViT.pt"
    weights.write_bytes(b"weights")
    plain, quick = (
        references.encoder(maker.store, f"{architecture}:{weights}")
        for architecture in ("ViT-B-32", "ViT-B-32-quickgelu")
    )
    assert digest_of(plain) != digest_of(quick)
    moved = tmp_path / "moved.pt"
    moved.write_bytes(b"weights")
    assert digest_of(references.encoder(maker.store, f"ViT-B-32:{moved}")) == digest_of(plain)
    model = maker.make("base-model", "train-base", {"encoder": quick})
    assert references.encoder_of(maker.store, model) == quick


def test_an_evaluation_uses_the_encoder_that_the_model_was_trained_with(maker: Maker) -> None:
    old = maker.make("encoder", "train-encoder (condition)", role="condition")
    model = maker.make("base-model", "train-base", {"encoder": old})
    maker.make("encoder", "train-encoder (condition)", role="condition")
    judge = maker.make("encoder", "train-encoder (judge)", role="judge")
    held_out = maker.make("shard-set", "ingest heldout")
    inputs = references.evaluation_inputs(maker.store)
    assert inputs["condition"] == old
    assert (inputs["model"], inputs["judge"], inputs["data"]) == (model, judge, held_out)
    assert inputs["upsampler"] is inputs["control"] is inputs["train"] is None


def test_the_encoder_of_a_model_can_be_a_weight_file_or_be_gone(maker: Maker) -> None:
    outside = ExternalFile("ViT-L-14:/weights.pt", "a" * 64)
    model = maker.make("base-model", "train-base", {"encoder": outside})
    assert references.encoder_of(maker.store, model) == outside
    other = Maker(maker.folder.with_name("other")).make("encoder", "train-encoder (condition)")
    orphan = maker.make("base-model", "train-base", {"encoder": other})
    with pytest.raises(GigaganError, match="trained with is not in store"):
        references.encoder_of(maker.store, orphan)


def test_own_tables_are_not_given_the_embedded_site_nor_its_licence() -> None:
    assert references.settings_of("demo", "ingest").site == "openmoji"
    own_settings = references.settings_of("demo", "ingest", own_tables=True)
    assert own_settings.site is None
    assert own_settings.table_schema == "auto"
    own = ["source.kind=tables", "source.train=a.parquet", "source.heldout=b.parquet"]
    assert references.pipeline_settings("demo", own).ingest.site is None
    assert references.pipeline_settings("demo").ingest.site == "openmoji"


@pytest.mark.parametrize(
    ("preset", "section"),
    [("paper-t2i-64", "upsampler"), ("paper-upsampler-64-to-512", "base"), ("ablation-deeper", "ingest")],
)
def test_a_section_that_a_preset_lacks_is_one_sentence(preset: str, section: str) -> None:
    with pytest.raises(
        GigaganError, match=f"preset '{preset}' has no {section} settings; choose one that has"
    ):
        references.settings_of(preset, section)


def test_a_preset_of_one_stage_gives_that_stage_alone() -> None:
    settings = references.settings_of("paper-t2i-64", "base", ["workers=8"])
    assert settings.workers == 8
    assert settings.generator.w_dim == 1024
    assert references.settings_of("openmoji-64-to-256", "control").training.objective == "l1"
    with pytest.raises(GigaganError, match="'ablation-deeper' is of one stage; give it to train-base"):
        references.pipeline_settings("ablation-deeper")


def test_training_data_is_one_set_or_several_with_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "shard_set", lambda store, reference: f"set {reference}")
    assert references.training_data(None, "latest") == "set latest"
    assert references.training_data(None, ["/a=b/c"]) == "set /a=b/c"
    assert references.training_data(None, ["abc=0.7", "def"]) == [("set abc", 0.7), ("set def", 1.0)]
    with pytest.raises(GigaganError, match="no shard set was named"):
        references.training_data(None, [])


def test_a_pipeline_is_not_judged_by_another_protocol() -> None:
    with pytest.raises(GigaganError, match="gigagan evaluate --protocol parti-prompts` afterwards"):
        references.pipeline_settings("tiny", ["evaluate.protocol=parti-prompts"])
