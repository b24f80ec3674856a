"""Several shard sets read as one: shares, exact epochs of each, duplicates, labels."""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gigagan_core.data.mixture import Mixture
from gigagan_core.data.order import BLOCK, shuffled
from gigagan_core.data.pictures import Samples
from gigagan_core.data.reader import ShardReader
from gigagan_core.data.shards import read_index
from gigagan_core.errors import GigaganError
from gigagan_core.training.loop import Batch

MakeSet = Callable[..., Path]


def set_column(folder: Path, name: str, values: Sequence[Any], kind: pa.DataType | None = None) -> Path:
    """Give the rows of a set, over all its shards, a column's values."""
    start = 0
    for shard in read_index(folder):
        table = pq.read_table(shard.parquet)
        column = pa.array(values[start : start + len(table)], kind)
        if name in table.column_names:
            table = table.drop_columns(name)
        pq.write_table(table.append_column(name, column), shard.parquet)
        start += len(table)
    return folder


@pytest.fixture
def named_set(make_shard_set: MakeSet) -> MakeSet:
    """A shard set whose captions say the set and the row: "laion 3"."""

    def make(name: str, rows: Sequence[int]) -> Path:
        folder = make_shard_set(rows, name=name)
        return set_column(folder, "caption", [f"{name} {row}" for row in range(sum(rows))])

    return make


def take(data: object, batches: int, batch_size: int = 5, **options: object) -> list[Batch]:
    reader = ShardReader(data, **{"image_size": 16, "seed": 7, **options}, batch_size=batch_size)
    return list(islice(reader, batches))


def captions(batches: list[Batch]) -> list[str]:
    return [caption for batch in batches for caption in batch.captions]


# ---- the order -------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 9, 10, 17, 1000])
def test_a_shuffle_is_a_permutation_and_another_one_for_each_purpose(count: int) -> None:
    first, again, other = (shuffled(torch.arange(count), count, 3, purpose) for purpose in ("a", "a", "b"))
    assert sorted(first.tolist()) == list(range(count))
    assert torch.equal(first, again)
    assert count < 9 or not torch.equal(first, other)
    assert torch.equal(shuffled(torch.tensor([count - 1, 0]), count, 3, "a"), first[[-1, 0]])


def test_the_order_is_the_one_that_trainings_have_begun_with() -> None:
    """Another one would continue them with images out of turn."""
    assert shuffled(torch.arange(10), 10, 3, "a").tolist() == [8, 9, 0, 2, 3, 1, 4, 5, 6, 7]
    found = shuffled(torch.arange(4), 10**12, 7, "reader/set 0 epoch 5")
    assert found.tolist() == [503056655909, 677045935105, 942488597852, 864540072921]


def test_a_shuffle_is_even_and_keeps_no_neighbours() -> None:
    order = shuffled(torch.arange(1000), 1000, 0, "a").numpy()
    assert abs(np.corrcoef(np.arange(1000), order)[0, 1]) < 0.1
    assert 300 < np.abs(np.diff(order)).mean() < 366  # a third of the length
    landed = np.zeros((9, 9))
    for epoch in range(2000):
        landed[np.arange(9), shuffled(torch.arange(9), 9, 0, f"epoch {epoch}").numpy()] += 1
    expected = 2000 / 9
    assert ((landed - expected) ** 2 / expected).sum() < 64 + 4 * np.sqrt(2 * 64)  # chi squared, 64 degrees


def test_a_shuffle_of_a_trillion_costs_no_more_than_what_is_looked_at() -> None:
    found = shuffled(torch.arange(10**12 - 500, 10**12), 10**12, 0, "a")
    assert len(set(found.tolist())) == 500
    assert found.min() >= 0
    assert found.max() < 10**12


def test_a_sample_takes_few_bytes_beyond_its_key_and_caption() -> None:
    count = 10_000
    texts = pa.chunked_array([pa.array(["x" * 20] * count)])
    numbers = np.zeros(count, np.int32)
    samples = Samples((Path("a.tar"),), numbers, numbers.astype(np.int64), numbers, numbers, texts, texts)
    assert samples.nbytes / count < 20 + 20 + 20 + 10


# ---- shares and epochs -----------------------------------------------------------------------------


def test_each_set_has_its_share_of_every_thousand_images_in_a_row(named_set: MakeSet) -> None:
    mixture = Mixture([(named_set("laion", (7,)), 7), (named_set("coyo", (5,)), 3)])
    assert mixture.shares == [700, 300]
    sets, _ = mixture.visits(np.arange(BLOCK, 3 * BLOCK), seed=1)
    assert Counter(sets[:BLOCK].tolist()) == Counter(sets[BLOCK:].tolist()) == {0: 700, 1: 300}
    assert not np.array_equal(sets[:BLOCK], sets[BLOCK:])
    assert 200 < (np.diff(sets[:BLOCK]) == 1).sum() < 220 + 30  # mixed: 0.7 * 0.3 of all pairs


def test_thirds_are_shared_out_to_the_last_image(named_set: MakeSet) -> None:
    mixture = Mixture([(named_set(name, (2,)), 1) for name in ("a", "b", "c")])
    assert sorted(mixture.shares) == [333, 333, 334]


def test_every_set_has_exact_epochs_of_its_own(named_set: MakeSet) -> None:
    data = [(named_set("laion", (4, 3)), 0.7), (named_set("coyo", (5,)), 0.3)]
    seen = captions(take(data, batches=240))
    for name, count in (("laion", 7), ("coyo", 5)):
        of_set = [caption for caption in seen if caption.startswith(name)]
        epochs = [of_set[start : start + count] for start in range(0, len(of_set) - count + 1, count)]
        assert len(epochs) >= 70
        assert all(len(set(epoch)) == count for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 30


@pytest.mark.parametrize("start", [5, 43, 995])
def test_a_mixture_started_in_the_middle_gives_what_the_first_would_have_given(
    named_set: MakeSet, start: int
) -> None:
    data = [(named_set("laion", (4, 3)), 2), (named_set("coyo", (5,)), 1)]
    options = {"flip": True, "crop": "random"}
    through = take(data, batches=205, **options)
    resumed = take(data, batches=2, start_image=start, **options)
    assert captions(resumed) == captions(through)[start : start + 10]
    images = torch.cat([batch.images for batch in through])[start : start + 10]
    assert torch.equal(torch.cat([batch.images for batch in resumed]), images)


def test_workers_share_each_batch_of_a_mixture(named_set: MakeSet) -> None:
    data = [(named_set("laion", (4, 3)), 2), (named_set("coyo", (5,)), 1)]
    alone = take(data, batches=6, batch_size=4)
    halves = [take(data, batches=6, batch_size=4, rank=rank, world_size=2) for rank in range(2)]
    assert captions([half for pair in zip(*halves, strict=True) for half in pair]) == captions(alone)


def test_what_is_no_mixture_is_one_sentence(named_set: MakeSet) -> None:
    large, small = named_set("large", (9,)), named_set("small", (1,))
    with pytest.raises(GigaganError, match="large has weight 0 in the mixture; give a number above 0"):
        Mixture([(large, 0), (small, 1)])
    with pytest.raises(GigaganError, match=r"small has weight 1 of 5001 .*less than one image in 1000"):
        Mixture([(large, 5000), (small, 1)])
    with pytest.raises(GigaganError, match="small has 1 selected samples, too few for its 2 of a batch of 4"):
        take([(large, 1), (small, 1)], batches=1, batch_size=4)
    with pytest.raises(GigaganError, match="no shard sets"):
        Mixture([])


# ---- duplicates ------------------------------------------------------------------------------------


def kept(*folders: Path) -> list[str]:
    samples = Mixture([(folder, 1) for folder in folders]).samples
    return [samples[position].caption for position in range(len(samples))]


def test_of_samples_with_equal_bytes_the_first_set_keeps_its_own(named_set: MakeSet) -> None:
    laion = set_column(named_set("laion", (2, 1)), "sha256", ["a" * 64, None, "b" * 64])
    coyo = set_column(named_set("coyo", (3, 1)), "sha256", ["c" * 64, "b" * 64, None, "b" * 64])
    assert kept(laion, coyo) == ["laion 0", "laion 1", "laion 2", "coyo 0", "coyo 2"]
    assert kept(coyo, laion) == ["coyo 0", "coyo 1", "coyo 2", "coyo 3", "laion 0", "laion 1"]
    assert Mixture([(laion, 1), (coyo, 1)]).duplicates == [0, 2]


def test_an_equal_picture_is_a_duplicate_with_the_same_caption_only(named_set: MakeSet) -> None:
    laion, coyo = named_set("laion", (2,)), named_set("coyo", (3,))
    set_column(laion, "phash", ["00ff", None])
    set_column(coyo, "phash", ["00ff", "00ff", None])
    set_column(coyo, "caption", ["laion 0", "another", "laion 1"])
    assert kept(laion, coyo) == ["laion 0", "laion 1", "another", "laion 1"]


def test_only_a_sample_that_stays_makes_later_ones_duplicates(named_set: MakeSet) -> None:
    first, second, third = (named_set(name, (2,)) for name in ("first", "second", "third"))
    set_column(first, "sha256", ["a" * 64, None])
    set_column(second, "sha256", ["a" * 64, None])
    set_column(second, "phash", ["00ff", None])
    set_column(third, "phash", ["00ff", None])
    set_column(third, "caption", ["second 0", "third 1"])
    assert kept(first, second, third) == ["first 0", "first 1", "second 1", "second 0", "third 1"]


def test_one_set_alone_keeps_its_duplicates(named_set: MakeSet) -> None:
    laion = set_column(named_set("laion", (2,)), "sha256", ["a" * 64, "a" * 64])
    assert len(Mixture(laion)) == 2


def test_a_set_with_nothing_of_its_own_is_named(named_set: MakeSet) -> None:
    laion, coyo = named_set("laion", (2,)), named_set("coyo", (2,))
    for folder in (laion, coyo):
        set_column(folder, "sha256", ["a" * 64, "b" * 64])
    with pytest.raises(GigaganError, match=r"coyo has no selected sample \(2 are in the sets before it\)"):
        Mixture([(laion, 1), (coyo, 1)])


# ---- labels ----------------------------------------------------------------------------------------


def labels_seen(data: object, count: int) -> dict[str, int]:
    found = {}
    for batch in take(data, batches=1, batch_size=count):
        assert batch.labels.dtype == torch.int64
        found |= dict(zip(batch.keys, batch.labels.tolist(), strict=True))
    return found


def write_json(folder: Path, notes: Sequence[Any]) -> None:
    """Replace the JSON of the rows of a set's only tar."""
    (shard,) = read_index(folder)
    with tarfile.open(shard.tar) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]
    with tarfile.open(shard.tar, "w") as tar:
        for member, content in members:
            if member.name.endswith(".json"):
                content = json.dumps(notes[int(member.name[1:5])]).encode()
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("where", ["column", "extra", "tar"])
def test_labels_are_read_from_the_table_or_the_tar(make_shard_set: MakeSet, where: str) -> None:
    folder, labels = make_shard_set((4,)), [3, 0, 999, 3]
    if where == "column":
        set_column(folder, "label", labels, pa.int16())
    elif where == "extra":
        set_column(folder, "extra", [json.dumps({"label": label}) for label in labels])
    else:
        write_json(folder, [{"label": label} for label in labels])
    assert labels_seen(folder, 4) == {f"k{row:04d}": label for row, label in enumerate(labels)}
    assert Mixture(folder).unlabelled == 0


def test_what_is_no_label_counts_as_none(make_shard_set: MakeSet) -> None:
    folder = make_shard_set((5,))
    assert take(folder, batches=1)[0].labels is None
    assert Mixture(folder).unlabelled == 5
    notes = [{"label": 1}, {"label": "cat"}, {"label": -2}, [], {"label": True}]
    set_column(folder, "extra", [json.dumps(note) for note in notes])
    assert Mixture(folder).unlabelled == 4


def test_a_set_without_labels_in_a_mixture_is_counted(named_set: MakeSet) -> None:
    labelled = set_column(named_set("labelled", (3,)), "label", [0, 1, 2])
    mixture = Mixture([(labelled, 1), (named_set("plain", (2,)), 1)])
    assert mixture.unlabelled == 2
    assert mixture.samples.label.tolist() == [0, 1, 2, -1, -1]
