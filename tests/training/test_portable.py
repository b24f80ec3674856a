"""A pack trains where torch is alone, to the same bits as here, in pieces, and comes back as a model of the store."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from gigagan_core.config.training import BaseTrainingSettings, UpsamplerTrainingSettings
from gigagan_core.data import packing
from gigagan_core.data.packing import write_pack
from gigagan_core.data.reader import ShardReader
from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.errors import GigaganError
from gigagan_core.training import launch_plain, piece, portable, transport
from gigagan_core.training.checkpoint import read_state
from gigagan_core.training.pack import Pack, PackReader
from gigagan_core.training.piece import Record, read_result
from gigagan_core.training.portable import Limits, train_piece
from gigagan_core.training.samples import png
from gigagan_core.training.worker import TrainingJob

from .conftest import (
    CAPTIONS,
    DISCRIMINATOR,
    GENERATOR,
    LARGE_DISCRIMINATOR,
    UPSAMPLER,
    base_settings,
    upsampler_settings,
)

ALONE = """
import sys

class Alone:
    # torch's own packages and dependencies; numpy is none of them
    allowed = {"torch", "torchgen", "functorch", "typing_extensions", "sympy", "mpmath", "networkx", "jinja2",
               "markupsafe", "fsspec", "filelock", "setuptools", "triton", "nvidia", "cuda", "gigagan_core"}

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        standard = root in sys.stdlib_module_names or root.startswith("_sysconfigdata")
        if root not in self.allowed and not standard:
            return None
        return self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Alone, sys.meta_path)
"""
FOREVER = 60.0  # minutes


def settings(**schedule) -> BaseTrainingSettings:
    chosen = {"threads": 1, "flip": True, "total_images": 80, "checkpoint_every_images": 32, **schedule}
    return BaseTrainingSettings(
        generator=GENERATOR,
        discriminator=DISCRIMINATOR,
        training=base_settings(**{"sample_every_images": 32, **chosen}),
        launcher="plain",
        sample_count=2,
        sample_captions=("red apple", "a red cat"),
    )


def upsampler(objective: str = "gan", **losses) -> UpsamplerTrainingSettings:
    training = upsampler_settings(objective, threads=1, total_images=16)
    values = json.loads(
        UpsamplerTrainingSettings(
            upsampler=UPSAMPLER,
            discriminator=LARGE_DISCRIMINATOR,
            training=training,
            launcher="plain",
            sample_count=2,
        ).model_dump_json()
    )
    values["training"]["losses"] |= losses
    return UpsamplerTrainingSettings.model_validate(values)


def pack_of(inputs, folder: Path, wanted=None, data=None) -> Path:
    made_of = {
        "preset": "tiny",
        "data": [
            {
                "reference": inputs["data"].reference(),
                "weight": 1.0,
                "label": "x",
                "notes": inputs["data"].notes,
            }
        ],
        "encoder": inputs["encoder"].reference(),
    }
    data = data or [(inputs["data"].path, 1.0)]
    write_pack(folder, wanted or settings(), data, inputs["encoder"].path, made_of)
    return folder


def trained_here(inputs, folder: Path, wanted) -> dict:
    """The state at the end of the plain launcher's training on the shard set itself."""
    job = TrainingJob(wanted, ((str(inputs["data"].path), 1.0),), str(inputs["encoder"].path))
    return read_state(launch_plain.launch(job, folder, lambda event: None))


def assert_same_training(ours: dict, theirs: dict) -> None:
    for network in ours["networks"]:
        assert_same_tensors(ours["networks"][network], theirs["networks"][network])
        first, second = (each["optimizers"][network]["state"] for each in (ours, theirs))
        assert all(torch.equal(first[n]["exp_avg_sq"], second[n]["exp_avg_sq"]) for n in first)
    assert_same_tensors(ours["ema"], theirs["ema"])
    assert ours["history"] == theirs["history"]
    assert (ours["images_seen"], ours["step"]) == (theirs["images_seen"], theirs["step"])


def assert_same_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


@pytest.fixture(scope="module")
def pack(inputs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_of(inputs, tmp_path_factory.mktemp("pack") / "pack")


@pytest.fixture(scope="module")
def pieces(pack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained where torch is alone: ``whole`` at once; ``first`` to 48 images, and from there ``second`` to the end."""
    folder = tmp_path_factory.mktemp("results")
    code = (
        ALONE
        + f"""
from gigagan_core.training.portable import main
pack = {str(pack)!r}
sys.exit(
    main([pack, "--out", "whole", "--device", "cpu"])
    or main([pack, "--out", "first", "--device", "cpu", "--images", "48"])
    or main([pack, "--out", "second", "--device", "cpu", "--resume", "first"])
)
"""
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "80 of 80 images" in done.stdout
    assert "48 of 80 images after" in done.stdout
    assert "give --resume first to go on" in done.stdout
    return folder


def test_with_torch_alone_the_weights_are_those_of_the_plain_launcher(pieces, inputs, tmp_path) -> None:
    here = trained_here(inputs, tmp_path, settings())
    assert here["images_seen"] == 80
    assert_same_training(read_result(pieces / "whole").saved, here)


def test_in_pieces_it_ends_with_the_same_bits(pieces) -> None:
    whole, second = read_result(pieces / "whole"), read_result(pieces / "second")
    assert_same_training(second.saved, whole.saved)
    assert second.index["seconds"] > read_result(pieces / "first").index["seconds"]


def test_a_result_is_few_files_that_other_tools_read(pieces, tmp_path) -> None:
    folder = pieces / "second"
    names = sorted(path.name for path in folder.iterdir())
    state, model, record = (f"000000080-{end}" for end in ("state.000", "model.safetensors", "record.zip"))
    assert names == [model, record, state, "result.json", "sample.png"]
    assert_same_tensors(load_file(folder / model), read_result(folder).saved["ema"])
    with Image.open(folder / "sample.png") as grid:
        assert grid.size == (2 * 8 + 2, 3 * 8 + 4)
    with zipfile.ZipFile(folder / record) as archive:
        archive.extractall(tmp_path)
    curves = json.loads((tmp_path / "curves.json").read_text())
    assert curves["images"] == list(range(16, 81, 16))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["images"] for line in lines] == curves["images"]
    assert all(line["images_per_second"] > 0 for line in lines)
    assert [path.name for path in sorted((tmp_path / "samples").iterdir())] == [
        f"{images:09d}.png" for images in (0, 32, 48, 64, 80)
    ]


@pytest.mark.parametrize("objective", ["gan", "l1"])
def test_an_upsampler_is_the_plain_launchers_too(objective: str, inputs, tmp_path) -> None:
    wanted = upsampler(objective, lpips=0.0)
    pack = pack_of(inputs, tmp_path / "pack", wanted)
    train_piece(pack, tmp_path / "out", Limits(FOREVER), "cpu")
    here = trained_here(inputs, tmp_path / "here", wanted)
    assert_same_training(read_result(tmp_path / "out").saved, here)


def test_a_pack_reads_as_its_shard_sets_do(inputs, tmp_path) -> None:
    """A mixture, mirrored pictures, and one that cannot be read."""
    other = tmp_path / "other"
    shutil.copytree(inputs["data"].path, other)
    tar = bytearray((other / "00000.tar").read_bytes())
    start = tar.index(b"\x89PNG", 4000)  # not the first picture
    tar[start : start + 64] = bytes(64)
    (other / "00000.tar").write_bytes(tar)
    data = [(other, 0.25), (inputs["data"].path, 0.75)]
    pack = Pack.read(pack_of(inputs, tmp_path / "pack", data=data))
    assert len(pack.lost) == 1
    options = {"batch_size": 8, "seed": 3, "flip": True, "start_image": 984}
    for ours, theirs in zip(islice(PackReader(pack, **options), 12), ShardReader(data, 8, **options)):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.indices, theirs.indices)
        assert (ours.captions, ours.keys) == (theirs.captions, theirs.keys)


def test_the_packed_encoder_gives_the_same_features_for_the_captions_it_knows(pack, inputs) -> None:
    theirs, ours = load_encoder(inputs["encoder"].path), Pack.read(pack).encoder
    assert ours.model.token_embedding.num_embeddings < 20 < theirs.model.token_embedding.num_embeddings
    captions = [*CAPTIONS, "a red cat"]
    first, second = (each.text_tokens(each.tokenize(captions)) for each in (ours, theirs))
    assert all(torch.equal(one, other) for one, other in zip(first, second))
    first, second = (each.text_embed(each.tokenize(captions)) for each in (ours, theirs))
    assert torch.equal(first, second)
    assert ours.sha256 == theirs.sha256
    with pytest.raises(GigaganError, match="does not hold the tokens of 'a green car'"):
        ours.tokenize(["a green car"])


# ---- what goes wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pictures.000", "samples.000", "encoder.000", "pack.json"])
def test_a_damaged_pack_is_refused(name: str, pack, tmp_path) -> None:
    copy = shutil.copytree(pack, tmp_path / "pack")
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(GigaganError, match=rf"{name}.*(is damaged|no readable)|no readable {name}"):
        Pack.read(copy)
    (copy / name).unlink()
    with pytest.raises(GigaganError, match=f"{name}.*missing|no readable {name}"):
        Pack.read(copy)


def test_a_damaged_result_is_refused_and_what_is_there_is_not_overwritten(
    pack, pieces, tmp_path, capsys
) -> None:
    copy = shutil.copytree(pieces / "first", tmp_path / "first")
    path = copy / "000000048-state.000"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    assert portable.main([str(pack), "--out", str(copy), "--resume", str(copy), "--device", "cpu"]) == 1
    assert "state.000 is damaged: its sha256" in capsys.readouterr().err
    assert portable.main([str(pack), "--out", str(copy), "--device", "cpu"]) == 1
    assert "holds a training; give --resume" in capsys.readouterr().err
    with pytest.raises(GigaganError, match="holds no result to go on from"):
        train_piece(pack, tmp_path / "new", Limits(FOREVER), "cpu", resume=tmp_path)


def test_another_packs_result_is_refused(inputs, pieces, tmp_path) -> None:
    other = pack_of(inputs, tmp_path / "pack", settings(seed=1))
    with pytest.raises(GigaganError, match="was trained from another pack"):
        train_piece(other, tmp_path / "out", Limits(FOREVER), "cpu", resume=pieces / "first")


def test_no_file_is_larger_than_the_limit(inputs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(transport, "PART_BYTES", 20_000)
    pack = pack_of(inputs, tmp_path / "pack", settings(total_images=16))
    train_piece(pack, tmp_path / "out", Limits(FOREVER), "cpu")
    parts = [*pack.glob("*.00?"), *(tmp_path / "out").glob("*-state.*")]
    assert len(parts) > 8
    assert all(path.stat().st_size <= 20_000 for path in parts)
    assert read_result(tmp_path / "out").saved["images_seen"] == 16


def test_a_network_that_does_not_fit_into_a_file_is_refused(inputs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(packing, "PART_BYTES", 20_000)
    with pytest.raises(GigaganError, match=r"weights take 0\.\d MB .*; take a smaller network"):
        pack_of(inputs, tmp_path / "pack")


def test_a_record_that_grows_too_large_loses_old_grids(tmp_path, monkeypatch) -> None:
    record = Record(tmp_path)
    noise = torch.randint(0, 256, (64, 64, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for images in range(8):
        record.sample(images, png(noise))
    record.metrics(7, {"loss": 1.0})
    monkeypatch.setattr(piece, "RECORD_BYTES", 40_000)
    with zipfile.ZipFile(io.BytesIO(piece.zipped(tmp_path))) as archive:
        assert archive.namelist() == ["metrics.jsonl", "samples/000000003.png", "samples/000000007.png"]


def test_it_stops_before_the_minutes_are_over_and_goes_on(pack, tmp_path, capsys) -> None:
    # So few that the reserve for saving is more: the first question ends it.
    seen = train_piece(pack, tmp_path, Limits(0.01), "cpu")
    assert seen == 16
    assert train_piece(pack, tmp_path, Limits(0.01), "cpu", resume=tmp_path) == 32
    assert "from 16 of 80 images" in capsys.readouterr().out


def test_what_a_pack_cannot_hold_is_one_sentence(inputs, tmp_path) -> None:
    with pytest.raises(GigaganError, match=r"no LPIPS network; set training\.losses\.lpips=0"):
        pack_of(inputs, tmp_path / "pack", upsampler())
    with pytest.raises(GigaganError, match="crop is random; set crop=centre"):
        pack_of(inputs, tmp_path / "pack", settings().model_copy(update={"crop": "random"}))
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "mine").touch()
    with pytest.raises(GigaganError, match="is not empty; give a new folder"):
        pack_of(inputs, tmp_path / "pack")


def test_squeezing_loses_nothing_and_saves_something() -> None:
    numbers = torch.randn(50_001, generator=torch.Generator().manual_seed(0))
    content = bytes(transport.to_bytes(numbers)) + b"odd"
    squeezed = transport.squeeze(content)
    assert transport.unsqueeze(squeezed) == content
    assert len(squeezed) < 0.9 * len(content)
