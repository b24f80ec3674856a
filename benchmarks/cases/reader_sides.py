"""The same JPEGs to pixels: by our reader, by plain PIL in threads, by plain webdataset in processes."""

from __future__ import annotations

import atexit
import io
import multiprocessing
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image

from benchmarks.side_by_side import answer
from gigagan_core.data.pictures import read_bytes, read_samples
from gigagan_core.data.reader import ShardReader
from gigagan_core.data.shards import read_index


class Read:
    """`images` pictures of a run. options: folder, image_size, images, batch, threads."""

    parameters = None
    calls = 1

    def __init__(self, options: dict[str, Any]):
        torch.set_num_threads(1)
        self.folder, self.image_size = Path(options["folder"]), options["image_size"]
        self.images, self.batch, self.threads = options["images"], options["batch"], options["threads"]

    def warm_up(self) -> None:
        self.run()


class Ours(Read):
    """Batches of bytes as training gets them; a new iterator each time, so nothing is decoded before the clock."""

    def __init__(self, options: dict[str, Any]):
        super().__init__(options)
        self.reader = ShardReader(
            self.folder,
            self.image_size,
            self.batch,
            seed=0,
            flip=True,
            cache_mb=0,
            decode_threads=self.threads,
        )

    def run(self) -> None:
        batches = iter(self.reader)
        for _ in islice(batches, self.images // self.batch):
            pass
        batches.close()


class Pil(Read):
    """Decode and resize only, of bytes that are in memory: no file, no batch, no float."""

    def __init__(self, options: dict[str, Any]):
        super().__init__(options)
        samples = read_samples(self.folder)
        self.encoded = [read_bytes(samples[position]) for position in range(len(samples))]

    def run(self) -> None:
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(self._some, range(self.threads)))

    def _some(self, first: int) -> None:
        for number in range(first, self.images, self.threads):
            decoded(self.encoded[number % len(self.encoded)], self.image_size)


class WebDataset(Read):
    """Batches of bytes by webdataset's usual pipeline, with as many worker processes as the others have threads.

    Its workers are halted between two runs, or they would fill their queues while the other side is measured.
    """

    def __init__(self, options: dict[str, Any]):
        import webdataset as wds

        super().__init__(options)
        tars = [str(shard.tar) for shard in read_index(self.folder)]
        data = (
            wds.WebDataset(tars, shardshuffle=len(tars), resampled=False, seed=0)
            .shuffle(1000)
            .rename(picture="jpg", caption="txt", key="__key__")
            .map(self._prepared)
            .to_tuple("picture", "caption", "key")
            .batched(self.batch)
            .repeat()
        )
        loader = wds.WebLoader(data, batch_size=None, num_workers=self.threads)
        self.batches = iter(loader)

    def warm_up(self) -> None:
        super().warm_up()
        # After the loader has registered its own cleaning up, which waits for the workers: a halted one cannot end.
        atexit.register(self._signal, signal.SIGCONT)

    def _prepared(self, sample: dict[str, Any]) -> dict[str, Any]:
        picture = torch.from_numpy(decoded(sample["picture"], self.image_size).copy()).permute(2, 0, 1)
        if torch.rand(()) < 0.5:
            picture = picture.flip(-1)
        return {**sample, "picture": picture, "caption": sample["caption"].decode()}

    def run(self) -> None:
        self._signal(signal.SIGCONT)
        for _ in islice(self.batches, self.images // self.batch):
            pass
        self._signal(signal.SIGSTOP)

    @staticmethod
    def _signal(number: int) -> None:
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, number)


def decoded(encoded: bytes, image_size: int) -> np.ndarray:
    """uint8 [image_size, image_size, 3] of a square picture."""
    with Image.open(io.BytesIO(encoded)) as image:
        image = image.convert("RGB") if image.mode != "RGB" else image
        if image.size != (image_size, image_size):
            image = image.resize((image_size, image_size), Image.Resampling.BICUBIC)
        return np.asarray(image)


if __name__ == "__main__":
    import importlib.metadata

    versions = {name: importlib.metadata.version(name) for name in ("torch", "webdataset")}
    side = {"ours": Ours, "pillow": Pil, "webdataset": WebDataset}[sys.argv[1]]
    answer({"read": side}, {**versions, "pillow": PIL.__version__})
