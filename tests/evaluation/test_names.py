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
from gigagan_core.evaluation.extractors.base import published_sums
from gigagan_core.evaluation.extractors.clip import embedded_name
from gigagan_core.evaluation.extractors.registry import ExtractorPlace, load_extractor
from gigagan_core.evaluation.names import by_weights
from gigagan_core.store.fingerprint import sha256_file

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
