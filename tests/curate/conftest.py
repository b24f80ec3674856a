"""Small shard sets and a tiny encoder, in a store, for the tests of curate and train-encoder."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from gigagan_core.config.base import Settings
from gigagan_core.data.shards import ATTRIBUTION_FILE, Shard, read_index, write_index, write_shard
from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel, Tower
from gigagan_core.encoders.open_clip_encoder import Preprocessing, save_encoder
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise
from gigagan_core.store.artifact import Artifact

COLOURS = ("red", "green", "blue", "black", "white", "yellow")


def rows_of(artifact: Artifact) -> list[dict]:
    """Every row of a shard set."""
    return [row for shard in read_index(artifact) for row in pq.read_table(shard.parquet).to_pylist()]


class Named(Settings):
    name: str


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small run faster on one thread, by far where the cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def context(tmp_path: Path) -> Iterator[RunContext]:
    with RunContext.open(str(tmp_path / "store")) as opened:
        yield opened


def _picture(left: str, right: str) -> bytes:
    image = Image.new("RGB", (24, 24), left)
    image.paste(right, (12, 0, 24, 24))
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def _tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture
def shard_set(context: RunContext) -> Callable[..., Artifact]:
    """(name, shards, ...) -> artifact of 12 rows a shard: 10 pictures, one never fetched, one ruled out.

    corrupt: keys whose picture is no picture. captions, phashes: by key, where they are not the usual ones; a row has
    no phash unless it is named. The table has a clip_similarity of its own: 0.5 everywhere.
    """

    def make(
        name: str = "drawings",
        shards: int = 2,
        corrupt: tuple[str, ...] = (),
        captions: Mapping[str, str | None] = {},
        phashes: Mapping[str, str] = {},
        attribution: str = "drawn by a test",
    ) -> Artifact:
        def produce(work: StageWork) -> Outcome:
            written: list[Shard] = []
            for number in range(shards):
                keys = [f"{number:05d}{row:04d}" for row in range(12)]
                pairs = [
                    (COLOURS[(number + row) % 6], COLOURS[(row // 6 + 2 * row) % 6]) for row in range(12)
                ]
                usual = [f"{left} beside {right}" for left, right in pairs]
                status = ["success"] * 10 + ["http_404", "caption_too_few_words"]
                pictures = {
                    f"{key}.png": b"no picture" if key in corrupt else _picture(*pair)
                    for key, pair, state in zip(keys, pairs, status, strict=True)
                    if state != "http_404"
                }
                table = pa.table(
                    {
                        "key": keys,
                        "caption": [captions.get(*row) for row in zip(keys, usual, strict=True)],
                        "phash": pa.array([phashes.get(key) for key in keys], pa.string()),
                        "status": status,
                        "selected": [state == "success" for state in status],
                        "clip_similarity": pa.array([0.5] * 12, pa.float32()),
                        "source": ["test"] * 12,
                    }
                )
                tar = _tar(work.path / f"{number}.tar", pictures)
                written.append(write_shard(work.output, number, tar, table))
            write_index(work.output, written)
            (work.output / ATTRIBUTION_FILE).write_text("drawn by a test\n")
            notes = {"licence": "CC0", "attribution": attribution}
            return Outcome({"in": 12 * shards, "out": 10 * shards, "rejected": {"x": 2 * shards}}, {}, notes)

        spec = StageSpec("ingest", kind="shard-set", module="gigagan_core.text")
        return materialise(
            spec,
            Named(name=f"{name}/{shards}/{corrupt}/{captions}/{phashes}/{attribution}"),
            {},
            context,
            produce,
        )

    return make


@pytest.fixture
def encoder(context: RunContext) -> Callable[[str], Artifact]:
    """(role) -> an untrained encoder artifact."""

    def make(role: str = "condition") -> Artifact:
        def produce(work: StageWork) -> Outcome:
            towers = Tower(width=16, layers=1, heads=1), Tower(width=16, layers=2, heads=2)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(len(role))
                model = ClipModel(ClipArchitecture(12, 16, 8, *towers, context_length=8))
            save_encoder(work.output, model, Preprocessing(), name=f"test-{role}", role=role)
            return Outcome(notes={"role": role})

        spec = StageSpec("train-encoder", kind="encoder", module="gigagan_core.text")
        return materialise(spec, Named(name=role), {}, context, produce)

    return make


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches of pictures that a CLIP was given, call by call."""
    from gigagan_core.data.scorers.image_embedding import ImageEmbedding

    calls: list[int] = []
    original = ImageEmbedding.score

    def counted(self: ImageEmbedding, inputs: torch.Tensor, captions: list[str]) -> dict[str, torch.Tensor]:
        assert inputs.dtype == torch.uint8
        assert inputs.shape == (len(captions), 3, self.image_size, self.image_size)
        calls.append(len(captions))
        return original(self, inputs, captions)

    monkeypatch.setattr(ImageEmbedding, "score", counted)
    return calls
