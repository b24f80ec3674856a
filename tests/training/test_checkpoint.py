"""Checkpoints are whole or not there; bundles hold what inference needs and nothing that can run."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from gigagan_core.errors import GigaganError
from gigagan_core.inference.generate import generate, upsample
from gigagan_core.training.checkpoint import (
    CheckpointFolder,
    export_bundle,
    keep_milestone,
    load_bundle,
    load_checkpoint,
    load_untrained,
    milestones,
    read_config,
    snapshot,
    write_checkpoint,
)
from gigagan_core.training.loop import train_step
from gigagan_core.training.recipes import initial_network
from gigagan_core.training.world import World

from .conftest import GENERATOR, UPSAMPLER, batches, make_base, make_encoder, weights

CAPTIONS = ["red apple", "green pear", "blue bird", "old tree", "dog"]


@pytest.fixture
def trained():
    state, recipe = make_base()
    train_step(state, recipe, next(batches(8)), World())
    return state


def save(folder: CheckpointFolder, state) -> None:
    with folder.new(state.images_seen) as partial:
        write_checkpoint(partial, snapshot(state, World()), World(), seed=0)


def test_a_checkpoint_brings_everything_back(trained, tmp_path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    save(folder, trained)
    fresh, _ = make_base()
    meta = load_checkpoint(folder.latest(), fresh)
    assert (meta["images_seen"], meta["step"], meta["world_size"], meta["threads"]) == (8, 1, 1, 1)
    assert all(torch.equal(value, weights(fresh)[name]) for name, value in weights(trained).items())
    ours, theirs = fresh.optimizers["generator"].state_dict(), trained.optimizers["generator"].state_dict()
    assert torch.equal(ours["state"][0]["exp_avg_sq"], theirs["state"][0]["exp_avg_sq"])


def test_only_the_last_two_are_kept(trained, tmp_path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    for images in (8, 16, 24):
        trained.images_seen = images
        save(folder, trained)
    assert [path.name for path in folder.all()] == ["000000000016", "000000000024"]


def test_a_save_cut_off_leaves_the_checkpoint_before_it(trained, tmp_path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    save(folder, trained)

    def cut_off() -> None:
        with folder.new(16) as partial:
            write_checkpoint(partial, snapshot(trained, World()), World(), seed=0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_off()
    assert [path.name for path in folder.all()] == ["000000000008"]
    save_again = CheckpointFolder(tmp_path / "checkpoints")
    trained.images_seen = 16
    save(save_again, trained)
    assert save_again.latest().name == "000000000016"


def test_a_folder_without_its_sum_is_no_checkpoint(trained, tmp_path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    save(folder, trained)
    trained.images_seen = 16
    save(folder, trained)
    (folder.latest() / "checkpoint.json").unlink()
    assert folder.latest().name == "000000000008"


def test_a_damaged_checkpoint_is_refused(trained, tmp_path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints")
    save(folder, trained)
    path = folder.latest() / "state.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    fresh, _ = make_base()
    with pytest.raises(GigaganError, match="sha256"):
        load_checkpoint(folder.latest(), fresh)


def test_a_checkpoint_of_another_network_is_refused(trained, tmp_path) -> None:
    from .conftest import make_upsampler

    folder = CheckpointFolder(tmp_path / "checkpoints")
    save(folder, trained)
    other, _ = make_upsampler()
    with pytest.raises(GigaganError, match="other networks"):
        load_checkpoint(folder.latest(), other)


def test_the_first_checkpoint_after_each_milestone_outlives_the_others(trained, tmp_path) -> None:
    folder = CheckpointFolder(tmp_path / "checkpoints", keep=1)
    for images in (8, 16, 24, 32, 40, 48):
        trained.images_seen = images
        save(folder, trained)
        keep_milestone(folder.latest(), tmp_path, images, every=20)
    assert [path.name for path in folder.all()] == ["000000000048"]
    assert [kept.images_seen for kept in milestones(tmp_path)] == [24, 40]
    fresh, _ = make_base()
    load_checkpoint(milestones(tmp_path)[0].folder, fresh)
    assert fresh.images_seen == 24


@pytest.fixture
def bundle(trained, tmp_path):
    path = tmp_path / "artifact"
    config = {"kind": "base", "image_size": 8, "encoder_sha256": "5" * 64, "seed": 0}
    export_bundle(path / "bundle", trained.ema, config, "# card")
    return path


def test_a_bundle_gives_the_averaged_generator_back(bundle, trained) -> None:
    network, config = load_bundle(bundle)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert network.settings == GENERATOR
    assert config["kind"] == "base"
    for name, value in trained.ema.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)


def test_the_untrained_generator_is_made_again_from_the_bundle(bundle) -> None:
    untrained, _ = load_untrained(bundle)
    expected = initial_network(GENERATOR, 0).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in untrained.state_dict().items())


def test_a_bundle_that_does_not_fit_is_refused_in_one_sentence(bundle, tmp_path) -> None:
    with pytest.raises(GigaganError, match=r"no usable config\.json"):
        load_bundle(tmp_path)
    config = json.loads((bundle / "bundle" / "config.json").read_text())
    config["network"]["w_dim"] = 10
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    (broken / "bundle" / "config.json").write_text(json.dumps(config))
    with pytest.raises(GigaganError, match="do not fit"):
        load_bundle(broken)


@pytest.mark.parametrize(
    "content", ["", "[]", "3", '"base"', "null", '{"kind": ["base"]}', '{"kind": "base"}']
)
def test_json_that_is_no_config_is_refused_in_one_sentence(tmp_path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    for read in (read_config, load_bundle, load_untrained):
        with pytest.raises(GigaganError, match=r"no usable config\.json"):
            read(tmp_path)


def test_an_image_depends_on_seed_and_index_not_on_the_batch(bundle) -> None:
    encoder = make_encoder()
    whole = generate(bundle, CAPTIONS, encoder, seed=3, batch_size=5).to(torch.int16)
    assert whole.shape == (5, 3, 8, 8)
    for batch_size in (1, 2, 4):
        parts = generate(bundle, CAPTIONS, encoder, seed=3, batch_size=batch_size).to(torch.int16)
        assert (whole - parts).abs().max() <= 1
    fewer = generate(bundle, CAPTIONS[:3], encoder, seed=3, batch_size=5).to(torch.int16)
    assert (whole[:3] - fewer).abs().max() <= 1
    other = generate(bundle, CAPTIONS, encoder, seed=4, batch_size=5).to(torch.int16)
    assert (whole - other).abs().max() > 1


def test_psi_of_zero_gives_one_image_a_prompt(bundle) -> None:
    encoder = make_encoder()
    images = generate(bundle, ["dog", "dog", "cat"], encoder, psi=0.0).to(torch.int16)
    assert (images[0] - images[1]).abs().max() <= 1
    assert (images[0] - images[2]).abs().max() > 1


def test_no_caption_gives_no_image(bundle) -> None:
    assert generate(bundle, [], make_encoder()).shape == (0, 3, 8, 8)


def test_a_bundle_is_not_used_with_another_encoder_or_for_another_purpose(bundle) -> None:
    encoder = make_encoder()
    low = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    with pytest.raises(GigaganError, match="kind upsampler is needed"):
        upsample(bundle, low, ["dog"], encoder)
    encoder.sha256 = "6" * 64
    with pytest.raises(GigaganError, match="trained with encoder 555555555555"):
        generate(bundle, CAPTIONS, encoder)


def test_an_upsampler_checks_what_it_is_given(tmp_path) -> None:
    config = {"kind": "upsampler", "image_size": 16, "encoder_sha256": "5" * 64, "seed": 0}
    export_bundle(tmp_path, initial_network(UPSAMPLER, 0), config, "# card")
    encoder = make_encoder()
    low = torch.randint(0, 256, (3, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    whole = upsample(tmp_path, low, CAPTIONS[:3], encoder, noise=0.1).to(torch.int16)
    single = upsample(tmp_path, low, CAPTIONS[:3], encoder, noise=0.1, batch_size=1).to(torch.int16)
    assert whole.shape == (3, 3, 16, 16)
    assert (whole - single).abs().max() <= 1
    with pytest.raises(GigaganError, match="takes uint8 images"):
        upsample(tmp_path, low.float(), CAPTIONS[:3], encoder)
    with pytest.raises(GigaganError, match="3 images and 2 captions"):
        upsample(tmp_path, low, CAPTIONS[:2], encoder)
