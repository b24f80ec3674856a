"""Both sides of `bench_ingest.py`: one table of URLs fetched, resized to 128 px and written as shards.

Every run asks for URLs of its own (`/RUN/NUMBER.jpg`), so that a fault meets each of them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from abc import ABC, abstractmethod
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.side_by_side import answer
from gigagan_core import environment

environment.set_defaults()
IMAGE_SIZE = 128
PARTITIONS = 4
HOST = "images.example"


class Fetching(ABC):
    """A run: `images` rows in `PARTITIONS` tables."""

    parameters, calls = None, 1

    def __init__(self, options: dict[str, Any]):
        self.images, self.port, self.side = options["images"], options["port"], type(self).__name__
        self.folder = Path(tempfile.mkdtemp(prefix="bench-ingest-"))
        self.runs = 0
        self.obtained: list[int] = []

    def warm_up(self) -> None:
        self._measured(200)
        self.obtained.clear()

    def run(self) -> None:
        self._measured(self.images)

    def facts(self) -> dict[str, Any]:
        """Images obtained in each run."""
        return {"obtained": self.obtained}

    def _measured(self, images: int) -> None:
        self.runs += 1
        place = self.folder / str(self.runs)
        tables = place / "tables"
        tables.mkdir(parents=True)
        each = images // PARTITIONS
        for part in range(PARTITIONS):
            numbers = range(part * each, (part + 1) * each)
            urls = [f"http://{self.host()}/{self.side}-{os.getpid()}-{self.runs}/{n}.jpg" for n in numbers]
            captions = [f"picture number {n}" for n in numbers]
            pq.write_table(pa.table({"url": urls, "caption": captions}), tables / f"{part}.parquet")
        self.obtained.append(self.fetch(tables, place))

    @abstractmethod
    def host(self) -> str:
        """Where this side's URLs point."""

    @abstractmethod
    def fetch(self, tables: Path, place: Path) -> int:
        """Fetch the tables' pictures to a place; how many were obtained."""


class Ours(Fetching):
    """The ingest stage on a local Ray session that is up already."""

    def __init__(self, options: dict[str, Any]):
        super().__init__(options)
        from gigagan_core.stages.base import RunContext

        environ = {"GIGAGAN_HOME": str(self.folder / "home")}
        os.environ.update(environ)
        self._context = RunContext.open(str(self.folder / "store"))
        self.context = self._context.__enter__()

    def host(self) -> str:
        return HOST

    def fetch(self, tables: Path, place: Path) -> int:
        from gigagan_core.config.ingest import FetchSettings, IngestSettings, RuleSettings
        from gigagan_core.stages import ingest

        settings = IngestSettings(
            image_size=IMAGE_SIZE,
            # the site shows the same pictures over and over
            rules=RuleSettings(duplicate_bytes=False, duplicate_pictures="off"),
            fetch=FetchSettings(hosts={HOST: f"127.0.0.1:{self.port}"}),
        )
        made = ingest.run(settings, {"metadata": str(tables)}, self.context)
        return made.manifest["counts"]["out"]


class Img2dataset(Fetching):
    """img2dataset as its documentation calls it, with two processes and its default patience."""

    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def fetch(self, tables: Path, place: Path) -> int:
        import img2dataset

        output = place / "shards"
        img2dataset.download(
            url_list=str(tables),
            input_format="parquet",
            url_col="url",
            caption_col="caption",
            output_format="webdataset",
            output_folder=str(output),
            processes_count=2,
            thread_count=32,
            image_size=IMAGE_SIZE,
            resize_mode="center_crop",
            number_sample_per_shard=self.images // PARTITIONS,
            enable_wandb=False,
        )
        return sum(json.loads(path.read_text())["successes"] for path in output.glob("*_stats.json"))


if __name__ == "__main__":
    cases = {"ours": Ours, "img2dataset": Img2dataset}
    chosen = cases[sys.argv[1]]
    answer({"ingest": chosen}, {"img2dataset": version("img2dataset"), "ray": version("ray")})
