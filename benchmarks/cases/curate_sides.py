"""The same JPEGs judged by a scorer that costs nothing: through curation, and by a plain loop over PIL."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import PIL
import torch
from torch import Tensor

from benchmarks.cases.reader_sides import decoded
from benchmarks.side_by_side import answer
from gigagan_core.data.pictures import read_bytes
from gigagan_core.data.scoring import pictures_of, score_shard
from gigagan_core.data.shards import read_index, selected_rows


class FreeScorer:
    """Stands for a model; what is left is what curation itself costs."""

    name, version = "free", "0"

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def score(self, inputs: Tensor, captions: list[str]) -> dict[str, Tensor]:
        return {self.name: torch.zeros(len(captions))}


class Scored:
    """Every picture of a shard set once. options: folder, image_size, batch."""

    parameters = None
    calls = 1

    def __init__(self, options: dict[str, Any]):
        torch.set_num_threads(1)
        self.shards = read_index(options["folder"])
        self.image_size, self.batch = options["image_size"], options["batch"]

    def warm_up(self) -> None:
        self.run()


class Ours(Scored):
    """From the tar to the parquet of scores."""

    def run(self) -> None:
        scorer = FreeScorer(self.image_size)
        with tempfile.TemporaryDirectory() as folder:
            for number, shard in enumerate(self.shards):
                path = Path(folder) / "scores" / f"{number:05d}.parquet"
                path.parent.mkdir(exist_ok=True)
                score_shard(shard, scorer, path, self.batch)


class Pil(Scored):
    """Decode and resize only, of bytes that are in memory, on one thread like the other side."""

    def __init__(self, options: dict[str, Any]):
        super().__init__(options)
        self.encoded = []
        for shard in self.shards:
            captions = {row["key"]: row["caption"] for row in selected_rows(shard, ["key", "caption"])}
            self.encoded += [read_bytes(sample) for sample in pictures_of(shard, captions)]

    def run(self) -> None:
        for encoded in self.encoded:
            decoded(encoded, self.image_size)


if __name__ == "__main__":
    side = {"ours": Ours, "pillow": Pil}[sys.argv[1]]
    answer({"score": side}, {"torch": torch.__version__, "pillow": PIL.__version__})
