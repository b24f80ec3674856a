"""A figure's name and the key of kept features say everything that decided them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gigagan_core.assets.catalogue import CATALOGUE
from gigagan_core.encoders import weights as encoder_weights
from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel
from gigagan_core.encoders.open_clip_encoder import CONFIG_FILE, Preprocessing, load_encoder, save_encoder
from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import kept_work
from gigagan_core.evaluation.extraction import MAKER
from gigagan_core.evaluation.extractors.base import published_sums
from gigagan_core.evaluation.extractors.clip import embedded_name
from gigagan_core.evaluation.extractors.registry import ExtractorPlace, load_extractor
from gigagan_core.evaluation.gathering import extractor_facts
from gigagan_core.evaluation.kept_work import extractor_key
from gigagan_core.evaluation.names import by_weights
from gigagan_core.store.fingerprint import code_digest, sha256_file

TINY = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}


def tiny(seed: int) -> ClipModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ClipModel(ClipArchitecture.from_config(TINY))


@pytest.fixture
def clip_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two weight files of ViT-B-32, which here stands for a network of one block."""
    original = encoder_weights.architecture_config
    monkeypatch.setattr(
        encoder_weights, "architecture_config", lambda name: TINY if name == "ViT-B-32" else original(name)
    )
    files = [tmp_path / f"{seed}.pt" for seed in range(2)]
    for seed, file in enumerate(files):
        torch.save(tiny(seed).state_dict(), file)
    return files


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A folder as open_clip publishes them, called by its architecture: its config has no name."""
    folder = tmp_path / "ViT-B-32"
    save_encoder(folder, tiny(0), Preprocessing(), name="any")
    configured(folder, name=None)
    return folder


def configured(folder: Path, **changed: object) -> None:
    """Write other values into a folder's config; None takes a key out."""
    config = json.loads((folder / CONFIG_FILE).read_text()) | changed
    (folder / CONFIG_FILE).write_text(json.dumps({key: each for key, each in config.items() if each}))


def test_weights_that_are_not_the_catalogues_have_their_sum_in_the_name(clip_files, monkeypatch):
    first, second = (load_extractor(f"ViT-B-32:{file}") for file in clip_files)
    assert [first.name, second.name] == [f"ViT-B-32-{sha256_file(file)[:8]}" for file in clip_files]
    assert first.name != second.name
    known = replace(CATALOGUE["clip-vit-b32"], reader="ViT-B-32", sha256=first.sha256)
    monkeypatch.setitem(CATALOGUE, "clip-vit-b32", known)
    place = ExtractorPlace(f"ViT-B-32:{clip_files[0]}", truncate=True)
    assert load_extractor(place).name == "ViT-B-32-truncated"
    assert load_extractor(f"ViT-B-32:{clip_files[1]}").name == second.name


@pytest.mark.parametrize("name", ["dinov2-vits14", "dinov2-vitb14", "dinov2-vitl14", "dinov2-vitg14"])
def test_dinos_published_weights_are_called_by_its_name_alone(name):
    assert by_weights(name, CATALOGUE[name].sha256, published_sums(name)) == name
    assert by_weights(name, "0123456789", published_sums(name)) == f"{name}-01234567"


def test_a_published_folder_is_never_taken_for_the_weight_file_in_it(clip_files, published):
    folder, file = load_extractor(str(published)), load_extractor(f"ViT-B-32:{clip_files[0]}")
    assert folder.name == f"ViT-B-32-squeezed-{folder.sha256[:8]}"
    assert folder.clip_score_name == "clip-score-plain"
    assert file.clip_score_name == "clip-score"
    with pytest.raises(GigaganError, match=r"is an encoder's folder, .* leave --clip-protocol authors out"):
        load_extractor(ExtractorPlace(str(published), truncate=True))
    # the stages that judge by it call it so too, and by a weight file as well, for they squeeze
    assert embedded_name(load_encoder(published)) == folder.name
    assert embedded_name(load_encoder(f"ViT-B-32:{clip_files[0]}")) == f"ViT-B-32-squeezed-{file.sha256[:8]}"


def test_our_own_encoders_are_called_by_what_they_were_trained_on(tmp_path, published):
    save_encoder(tmp_path / "own", tiny(0), Preprocessing(), name="openmoji-judge", role="judge")
    own = load_extractor(str(tmp_path / "own"))
    assert (own.name, own.clip_score_name) == ("openmoji-judge", "clip-score")
    shutil.copytree(published, tmp_path / "named")
    configured(tmp_path / "named", name="ViT-B-32")
    assert load_extractor(str(tmp_path / "named")).name.startswith("ViT-B-32-squeezed-")


# ---- mean and std ----------------------------------------------------------------------------------

HALVES = {"mean": [0.5] * 3, "std": [0.25] * 3}


def config_beside(file: Path) -> None:
    """A published config with mean and std of its own, in the folder of a weight file."""
    (file.parent / CONFIG_FILE).write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": HALVES}))


def test_mean_and_std_are_in_the_rule_and_decide_the_key(clip_files):
    place = ExtractorPlace(f"ViT-B-32:{clip_files[0]}")
    guessed = load_extractor(place)
    assert "mean 0.48145466 0.4578275 0.40821073, std 0.26862954" in guessed.rule
    clip_files[1].unlink()
    config_beside(clip_files[0])
    given = load_extractor(place)
    assert "mean 0.5 0.5 0.5, std 0.25 0.25 0.25" in given.rule
    assert given.name == guessed.name
    assert extractor_key(given) != extractor_key(guessed)
    assert extractor_facts(given)["configuration"]["preprocessing"]["mean"] == (0.5, 0.5, 0.5)


def test_a_config_that_may_be_of_another_file_is_refused_where_it_would_matter(clip_files, tmp_path):
    config_beside(clip_files[0])
    with pytest.raises(GigaganError, match=r"0\.pt: .* and may be 1\.pt's; give this file a folder"):
        load_encoder(f"ViT-B-32:{clip_files[0]}")
    published = clip_files[0].rename(tmp_path / "open_clip_pytorch_model.bin")
    assert load_encoder(f"ViT-B-32:{published}").preprocessing.mean == (0.5, 0.5, 0.5)
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"model_cfg": TINY}))
    assert load_encoder(f"ViT-B-32:{clip_files[1]}").preprocessing == Preprocessing()


def test_openais_own_files_have_openais_mean_and_std_whatever_lies_beside_them(clip_files, monkeypatch):
    config_beside(clip_files[0])
    known = replace(CATALOGUE["clip-vit-b32"], reader="ViT-B-32", sha256=sha256_file(clip_files[0]))
    monkeypatch.setitem(CATALOGUE, "clip-vit-b32", known)
    assert load_encoder(f"ViT-B-32:{clip_files[0]}").preprocessing == Preprocessing()


def test_every_clip_of_a_known_sum_in_the_catalogue_is_openais():
    clips = [each for each in CATALOGUE.values() if each.reader in encoder_weights.architectures()]
    assert clips
    assert all("openaipublic" in each.address for each in clips if each.sha256 is not None)


# ---- keys ------------------------------------------------------------------------------------------


def test_a_folders_config_decides_the_key_of_what_is_kept(published):
    place = ExtractorPlace(str(published))
    before = load_extractor(place)
    configured(published, model_cfg=TINY | {"quick_gelu": True})
    after = load_extractor(place)
    assert before.sha256 == after.sha256
    assert extractor_key(before) != extractor_key(after)


def test_the_source_of_kept_features_is_all_that_touches_a_picture_and_nothing_that_compares():
    modules = code_digest(MAKER)[1]
    for name in (
        "picture_folder",
        "shard_pass",
        "extractors.clip",
        "extractors.dino",
        "extractors.inception",
    ):
        assert f"gigagan_core.evaluation.{name}" in modules
    for name in ("evaluation.similarity", "evaluation.patches", "evaluation.captions", "encoders.clip_model"):
        assert f"gigagan_core.{name}" in modules
    for name in ("evaluation.frechet", "evaluation.set_metrics", "evaluation.gathering", "training.steps"):
        assert f"gigagan_core.{name}" not in modules


def test_an_edit_and_another_version_are_another_maker(monkeypatch):
    def digest_now() -> str:
        kept_work.makers_digest.cache_clear()
        return kept_work.makers_digest(MAKER)

    before = digest_now()
    assert digest_now() == before
    with monkeypatch.context() as patch:
        patch.setattr(kept_work, "code_digest", lambda module: ("edited", {}))
        assert digest_now() != before
    with monkeypatch.context() as patch:
        patch.setattr(kept_work, "_version", lambda name: "0.1" if name == "pillow" else "2")
        assert digest_now() != before
    assert digest_now() == before
