"""The reader: exact epochs, one order for everybody, resumed exactly, damage counted and named."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gigagan_core.data import reader as reader_module
from gigagan_core.data.pictures import _list_plain_tar, list_tar, to_square
from gigagan_core.data.reader import ShardReader, load_all
from gigagan_core.data.shards import Shard, read_index, write_index
from gigagan_core.errors import GigaganError
from gigagan_core.training.loop import Batch

MakeSet = Callable[..., Path]


def numbered_picture(number: int, size: int) -> np.ndarray:
    """What `make_shard_set` makes of a number; uint8 [size, size, 3]."""
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    pixels[..., 0] = number
    return pixels


def encoded(pixels: np.ndarray) -> bytes:
    """The PNG that `make_shard_set` puts into its tars."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def take(folder: Path, batches: int, batch_size: int = 3, **options: object) -> list[Batch]:
    reader = ShardReader(folder, **{"image_size": 16, "seed": 7, **options}, batch_size=batch_size)
    return list(islice(reader, batches))


def keys(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def test_every_epoch_has_every_sample_once_in_another_order(make_shard_set: MakeSet) -> None:
    seen = keys(take(make_shard_set((5, 4)), batches=9))
    epochs = [seen[:9], seen[9:18], seen[18:]]
    assert all(sorted(epoch) == [f"k{number:04d}" for number in range(9)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_epochs_stay_exact_where_batches_straddle_them(make_shard_set: MakeSet) -> None:
    seen = keys(take(make_shard_set((5, 4)), batches=9, batch_size=4))
    assert all(len(set(seen[start : start + 9])) == 9 for start in (0, 9, 18, 27))


def test_a_batch_is_images_captions_keys_and_positions(make_shard_set: MakeSet) -> None:
    first, second = take(make_shard_set((5, 4)), batches=2)
    assert first.images.shape == (3, 3, 16, 16)
    assert first.images.dtype == torch.uint8
    assert torch.equal(second.indices, torch.tensor([3, 4, 5]))
    for image, key, caption in zip(first.images, first.keys, first.captions, strict=True):
        number = int(key[1:])
        assert caption == f"caption {number}"
        assert torch.equal(image, torch.from_numpy(numbered_picture(number, 16)).permute(2, 0, 1))


@pytest.mark.parametrize("start", [3, 4, 20])
def test_a_reader_started_in_the_middle_gives_what_the_first_would_have_given(
    make_shard_set: MakeSet, start: int
) -> None:
    folder = make_shard_set((5, 4))
    through = take(folder, batches=12, flip=True)
    images = torch.cat([batch.images for batch in through])
    resumed = take(folder, batches=3, flip=True, start_image=start)
    assert keys(resumed) == keys(through)[start : start + 9]
    assert torch.equal(torch.cat([batch.images for batch in resumed]), images[start : start + 9])
    assert resumed[0].indices[0] == start


@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_share_each_batch_in_contiguous_slices(make_shard_set: MakeSet, world_size: int) -> None:
    folder = make_shard_set((7, 7))
    alone = take(folder, batches=4, batch_size=6, flip=True)
    workers = [
        take(folder, batches=4, batch_size=6, flip=True, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for number, whole in enumerate(alone):
        parts = [worker[number] for worker in workers]
        assert len({len(part.keys) for part in parts}) == 1
        assert keys(parts) == whole.keys
        assert torch.equal(torch.cat([part.indices for part in parts]), whole.indices)
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)


def test_the_seed_decides_the_order_and_nothing_else_does(make_shard_set: MakeSet) -> None:
    folder = make_shard_set((5, 4))
    plain = keys(take(folder, batches=3))
    assert keys(take(folder, batches=3, cache_mb=0, decode_threads=4)) == plain
    assert keys(take(folder, batches=3, seed=8)) != plain


def test_flips_are_half_of_all_and_the_same_at_each_visit(make_shard_set: MakeSet) -> None:
    folder = make_shard_set((8,))
    straight = torch.cat([batch.images for batch in take(folder, batches=50, batch_size=8)])
    flipped = torch.cat([batch.images for batch in take(folder, batches=50, batch_size=8, flip=True)])
    mirrored = (flipped == straight.flip(-1)).flatten(1).all(1)
    assert torch.equal(mirrored, ~(flipped == straight).flatten(1).all(1))
    assert 150 < mirrored.sum() < 250


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 99)])
@pytest.mark.parametrize("image_size", [16, 40, 64])
def test_resizing_is_pils_antialiased_bicubic_on_the_centre(size: tuple[int, int], image_size: int) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    left, top = (size[0] - 64) // 2, (size[1] - 64) // 2
    square = image.crop((left, top, left + 64, top + 64))
    expected = np.asarray(square.resize((image_size, image_size), Image.Resampling.BICUBIC))
    assert np.array_equal(np.asarray(to_square(image, image_size)), expected)


def test_a_random_square_is_as_long_as_the_shorter_side_and_lies_anywhere() -> None:
    pixels = np.zeros((8, 20, 3), np.uint8)
    pixels[...] = np.arange(20)[None, :, None]
    wide = Image.fromarray(pixels)
    for image in (wide, wide.transpose(Image.Transpose.TRANSPOSE)):
        squares = [np.asarray(to_square(image, 8, place)) for place in (0.0, 0.5, 1 - 1e-9)]
        assert [square[0, 0, 0] for square in squares] == [0, 6, 12]
        assert [square[-1, -1, 0] for square in squares] == [7, 13, 19]


@pytest.fixture
def wide_set(make_shard_set: MakeSet) -> Path:
    """Four pictures of 40 x 16 px whose blue says the column."""
    folder = make_shard_set((4,))
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for number in range(4):
            pixels = np.full((16, 40, 3), number, np.uint8)
            pixels[..., 2] = np.arange(40)
            content = encoded(pixels)
            member = tarfile.TarInfo(f"k{number:04d}.png")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return folder


def lefts(batches: list[Batch]) -> list[int]:
    """The column of the source at which each image begins."""
    return [int(image[2, 0, 0]) for batch in batches for image in batch.images]


def test_random_crops_are_keyed_by_the_global_index_and_cover_the_picture(wide_set: Path) -> None:
    assert set(lefts(take(wide_set, batches=5, batch_size=4))) == {12}
    through = lefts(take(wide_set, batches=100, batch_size=4, crop="random"))
    assert set(through) == set(range(25))
    assert lefts(take(wide_set, batches=2, batch_size=4, crop="random", start_image=40)) == through[40:48]
    assert lefts(take(wide_set, batches=3, batch_size=4, crop="random", cache_mb=0)) == through[:12]


def test_transparency_becomes_white_and_grey_becomes_rgb() -> None:
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    assert np.array_equal(np.asarray(to_square(clear, 8)), np.full((8, 8, 3), 255, np.uint8))
    grey = to_square(Image.new("L", (8, 8), 7), 8)
    assert np.array_equal(np.asarray(grey), np.full((8, 8, 3), 7, np.uint8))


def test_only_rows_that_succeeded_and_are_selected_are_read(make_shard_set: MakeSet) -> None:
    folder = make_shard_set((4,), statuses={1: "http_404"})
    parquet = folder / "00000.parquet"
    table = pq.read_table(parquet)
    selected = [key != "k0002" and chosen for key, chosen in zip(*map(_list, _columns(table)), strict=True)]
    pq.write_table(table.set_column(table.column_names.index("selected"), "selected", [selected]), parquet)
    assert load_all(folder, 16)[2] == ["k0000", "k0003"]


def _columns(table: object) -> tuple:
    return table["key"], table["selected"]


def _list(column: object) -> list:
    return column.to_pylist()


def test_a_set_can_point_at_the_tars_of_another(make_shard_set: MakeSet, tmp_path: Path) -> None:
    origin = make_shard_set((3,))
    pointing = tmp_path / "pointing"
    pointing.mkdir()
    (pointing / "own.parquet").write_bytes((origin / "00000.parquet").read_bytes())
    write_index(pointing, [Shard(origin / "00000.tar", pointing / "own.parquet", 3, 3)])
    assert json.loads((pointing / "shards.json").read_text())[0]["parquet"] == "own.parquet"
    assert load_all(pointing, 16)[2] == load_all(origin, 16)[2]


def test_load_all_gives_every_picture_in_the_order_of_the_tables(make_shard_set: MakeSet) -> None:
    images, captions, found = load_all(make_shard_set((5, 4)), 16)
    assert (images.dtype, tuple(images.shape)) == (torch.uint8, (9, 3, 16, 16))
    assert found == [f"k{number:04d}" for number in range(9)]
    assert captions[8] == "caption 8"
    assert images[:, 0, 0, 0].tolist() == list(range(9))


def damage(folder: Path, key: str) -> None:
    """Overwrite the middle of one picture in its tar."""
    for shard in read_index(folder):
        content = bytearray(shard.tar.read_bytes())
        place = content.find(encoded(numbered_picture(int(key[1:]), 16)))
        if place >= 0:
            content[place + 8 : place + 60] = bytes(52)
            shard.tar.write_bytes(content)


def test_a_picture_that_does_not_decode_is_left_out_counted_and_told(
    make_shard_set: MakeSet, caplog: pytest.LogCaptureFixture
) -> None:
    folder = make_shard_set((5, 4))
    damage(folder, "k0003")
    reader = ShardReader(folder, image_size=16, batch_size=3, seed=7)
    seen = keys(list(islice(reader, 3)))
    assert set(seen) == {f"k{number:04d}" for number in range(9)} - {"k0003"}
    assert list(reader.pictures.corrupt) == [3]
    assert "00000.tar, sample k0003" in caplog.text
    assert len(load_all(folder, 16)[2]) == 8


def test_a_damaged_picture_gives_every_worker_the_same_batches(make_shard_set: MakeSet) -> None:
    folder = make_shard_set((5, 4))
    damage(folder, "k0003")
    alone = keys(take(folder, batches=6, batch_size=4))
    halves = [take(folder, batches=6, batch_size=4, rank=rank, world_size=2) for rank in range(2)]
    assert keys([batch for pair in zip(*halves, strict=True) for batch in pair]) == alone


def test_more_damage_than_the_budget_stops_with_a_sentence(make_shard_set: MakeSet) -> None:
    folder = make_shard_set((5, 4))
    damage(folder, "k0003")
    damage(folder, "k0006")
    with pytest.raises(
        GigaganError, match=r"2 of 9 pictures cannot be read, more than the 1 allowed .*run ingest"
    ):
        take(folder, batches=3)


def cut(folder: Path, name: str, bytes_less: int) -> None:
    """Cut the end of one of a set's files off."""
    path = folder / name
    path.write_bytes(path.read_bytes()[:-bytes_less])


@pytest.mark.parametrize(
    ("ending", "sentence"),
    [
        ("tar", r"shard .*00000\.tar is a damaged tar .*run ingest again"),
        ("parquet", r"shard table .*00000\.parquet is damaged .*run ingest again"),
    ],
)
def test_a_damaged_shard_beyond_the_budget_is_named_with_the_mend(
    make_shard_set: MakeSet, ending: str, sentence: str
) -> None:
    folder = make_shard_set((5,))
    cut(folder, f"00000.{ending}", (folder / f"00000.{ending}").stat().st_size // 2 - 100)
    for read in (lambda: take(folder, batches=1), lambda: load_all(folder, 16)):
        with pytest.raises(GigaganError, match=sentence):
            read()


@pytest.mark.parametrize("ending", ["tar", "parquet"])
def test_a_damaged_shard_within_the_budget_is_left_out_and_counted(
    make_shard_set: MakeSet, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    whole, folder = make_shard_set((200, 2), name="whole"), make_shard_set((200, 2))
    everything = keys(take(whole, batches=2, batch_size=101))
    path = folder / f"00001.{ending}"
    path.write_bytes(path.read_bytes()[:600])
    reader = ShardReader(folder, image_size=16, batch_size=101, seed=7)
    seen = keys(list(islice(reader, 2)))
    assert "00001" in caplog.text
    assert len(caplog.records) <= 2
    assert len(reader) == 202
    assert len(reader.pictures.corrupt) == 2
    assert not {"k0200", "k0201"} & set(seen)
    # The other samples keep their places, so a run goes on after a repair where it was.
    differing = [ours for ours, theirs in zip(everything, seen, strict=True) if ours != theirs]
    assert sorted(differing) == ["k0200", "k0201"]
    assert len(load_all(folder, 16)[2]) == 200
    halves = [take(folder, batches=2, batch_size=202, rank=rank, world_size=2) for rank in range(2)]
    assert keys([batch for pair in zip(*halves, strict=True) for batch in pair])[:202] == keys(
        take(folder, batches=1, batch_size=202)
    )


@pytest.mark.parametrize("kind", ["plain", "times", "long names", "folders", "gnu", "no end"])
def test_a_tar_is_listed_as_tarfile_lists_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tar"
    names = ["a.png", "b.txt", "c.json"]
    if kind == "long names":
        names.append("d" * 150 + ".png")
    if kind == "folders":
        names.append("e" * 80 + "/" + "f" * 60 + ".png")
    layout = {"gnu": tarfile.GNU_FORMAT, "folders": tarfile.USTAR_FORMAT}.get(kind, tarfile.PAX_FORMAT)
    with tarfile.open(path, "w", format=layout) as tar:
        for size, name in enumerate(names, 511):
            member = tarfile.TarInfo(name)
            member.size = size
            member.mtime = 1.5 if kind == "times" else 0
            tar.addfile(member, io.BytesIO(bytes(size)))
    if kind == "no end":
        path.write_bytes(path.read_bytes()[: 3 * 1024 + 512])
    with tarfile.open(path) as tar:
        expected = [(member.name, member.offset_data, member.size) for member in tar]
    assert list(list_tar(path)) == expected
    assert [name for name, _, _ in expected] == names
    assert (_list_plain_tar(path) is not None) == (kind in ("plain", "times"))


def test_a_size_that_is_no_number_is_damage_of_the_tar(make_shard_set: MakeSet) -> None:
    folder = make_shard_set((5,))
    whole = bytearray((folder / "00000.tar").read_bytes())
    last = max(place for place in range(0, len(whole), 512) if whole[place + 257 : place + 262] == b"ustar")
    whole[last + 124 : last + 135] = b"99999999999"
    (folder / "00000.tar").write_bytes(whole)
    assert sum(name.endswith(".png") for name, _, _ in list_tar(folder / "00000.tar")) == 5
    (batch,) = take(folder, batches=1)
    assert len(batch.keys) == len(batch.images)


def test_a_tar_that_lacks_pictures_is_named(make_shard_set: MakeSet) -> None:
    folder, other = make_shard_set((5,)), make_shard_set((3,), name="other")
    (folder / "00000.tar").write_bytes((other / "00000.tar").read_bytes())
    with pytest.raises(GigaganError, match=r"00000\.tar lacks the picture of 2 of 5 rows \(first: k0003\)"):
        take(folder, batches=1)


def test_what_cannot_make_a_batch_is_one_sentence(make_shard_set: MakeSet, tmp_path: Path) -> None:
    folder = make_shard_set((4,))
    with pytest.raises(GigaganError, match="has 4 selected samples, too few for a batch of 5"):
        take(folder, batches=1, batch_size=5)
    with pytest.raises(GigaganError, match="a batch of 4 images does not divide among 3 workers"):
        take(folder, batches=1, batch_size=4, world_size=3)
    with pytest.raises(GigaganError, match=r"holds no shards\.json"):
        take(tmp_path, batches=1)
    none_left = make_shard_set((2,), statuses={0: "http_404", 1: "timeout"}, name="none")
    with pytest.raises(GigaganError, match="no selected sample"):
        load_all(none_left, 16)
    with pytest.raises(GigaganError, match="no selected sample"):
        take(none_left, batches=1)
    (folder / "00000.tar").unlink()
    with pytest.raises(GigaganError, match=r"00000\.tar is missing"):
        take(folder, batches=1)


def test_large_sets_are_decoded_again_and_small_ones_once(
    make_shard_set: MakeSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, decoded = make_shard_set((4,)), []
    original = reader_module.decode_planes
    monkeypatch.setattr(
        reader_module,
        "decode_planes",
        lambda samples, position, *options: decoded.append(position) or original(samples, position, *options),
    )
    for cache_mb, at_least, at_most in ((512, 4, 4), (0, 20, 40)):
        decoded.clear()
        take(folder, batches=5, batch_size=4, cache_mb=cache_mb, decode_threads=1)
        assert at_least <= len(decoded) <= at_most


def test_a_png_of_the_kept_size_passes_unchanged(make_shard_set: MakeSet) -> None:
    folder = make_shard_set((1,))
    with Image.open(io.BytesIO(encoded(numbered_picture(0, 16)))) as image:
        assert np.array_equal(load_all(folder, 16)[0][0].permute(1, 2, 0).numpy(), np.asarray(image))


@pytest.mark.parametrize("kept_size", [64, 48])
def test_a_smaller_view_is_derived_at_reading(make_shard_set: MakeSet, kept_size: int) -> None:
    folder = make_shard_set((3,), size=kept_size)
    images = load_all(folder, 16)[0]
    for number in range(3):
        picture = Image.fromarray(numbered_picture(number, kept_size))
        expected = np.asarray(picture.resize((16, 16), Image.Resampling.BICUBIC))
        assert np.array_equal(images[number].permute(1, 2, 0).numpy(), expected)


def test_plain_webdataset_reads_the_shards(make_shard_set: MakeSet) -> None:
    import webdataset

    folder = make_shard_set((5, 4))
    tars = [str(shard.tar) for shard in read_index(folder)]
    pictures, captions, found = load_all(folder, 16)
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == found
    assert [sample["txt"].decode() for sample in samples] == captions
    for sample, picture in zip(samples, pictures, strict=True):
        with Image.open(io.BytesIO(sample["png"])) as image:
            assert np.array_equal(np.asarray(image).transpose(2, 0, 1), picture.numpy())


def test_a_batch_that_is_held_keeps_its_images(make_shard_set: MakeSet) -> None:
    folder = make_shard_set((9,))
    reader = ShardReader(folder, image_size=16, batch_size=3, seed=7)
    held, copies = [], []
    for number, batch in enumerate(islice(reader, 60)):
        if number % 7 == 0:
            held.append(batch.images[1])  # a view of the batch's memory, which outlives the batch
            copies.append(batch.images[1].clone())
    assert all(torch.equal(view, copy) for view, copy in zip(held, copies, strict=True))
    assert len(reader._buffers._free) < 12


def test_an_iterator_that_is_given_up_leaves_no_thread(make_shard_set: MakeSet) -> None:
    before = set(threading.enumerate())
    batches = iter(ShardReader(make_shard_set((9,)), image_size=16, batch_size=3, seed=7))
    next(batches)
    batches.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
    assert set(threading.enumerate()) == before


def test_reading_needs_torch_pyarrow_numpy_and_pillow_only(make_shard_set: MakeSet) -> None:
    script = (
        "import sys\n"
        "from gigagan_core.data.reader import ShardReader\n"
        "next(iter(ShardReader(sys.argv[1], image_size=16, batch_size=2, seed=0)))\n"
        "heavy = {'rich', 'pydantic', 'fsspec', 'cv2', 'ray', 'torchvision', 'webdataset', 'aiohttp'}\n"
        "found = heavy & set(sys.modules)\n"
        "sys.exit(f'imported {found}' if found else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(make_shard_set((3,)))], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
