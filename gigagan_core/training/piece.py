"""What a piece of a training leaves behind and goes on from: few files, none above `transport.PART_BYTES`.

``result.json``, the index, comes last and names the others: ``N-state`` in parts, ``N-model.safetensors`` (the average)
and ``N-record.zip`` (curves, metrics, sample grids, what was not finite), N the images seen. ``sample.png`` is the
newest grid.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gigagan_core.training.curves import write_curves
from gigagan_core.training.transport import (
    from_safetensors,
    read_index,
    read_parts,
    squeeze,
    to_safetensors,
    unsqueeze,
    write_file,
    write_index,
    write_parts,
)

INDEX = "result.json"
SCHEMA = 1
NEWEST_GRID = "sample.png"
RECORD_BYTES = 4_000_000
_FILES = ("*-state.*", "*-model.safetensors", "*-record.zip")


class Result(NamedTuple):
    """index: what ``result.json`` says. saved: a `checkpoint.snapshot`. record: the bytes of a zip."""

    index: dict[str, Any]
    saved: dict[str, Any]
    record: bytes


def read_result(folder: Path) -> Result:
    """What a piece left. Raises GigaganError where a file is missing, damaged or of other code."""
    index = read_index(folder / INDEX, SCHEMA, "result of a portable training")
    files = {name: read_parts(folder, parts) for name, parts in index["files"].items()}
    saved = torch.load(io.BytesIO(unsqueeze(files["state"])), weights_only=True)
    return Result(index, _filled(saved, from_safetensors(files["model"])), bytes(files["record"]))


def has_result(folder: Path) -> bool:
    """Whether a piece has left something there."""
    return (folder / INDEX).is_file()


def copy_result(source: Path, target: Path) -> None:
    """A copy of a result in another folder. Raises GigaganError where it is not whole."""
    if source.resolve() == target.resolve():
        return
    index = read_result(source).index
    for name in [part["file"] for parts in index["files"].values() for part in parts]:
        shutil.copyfile(source / name, target / name)
    shutil.copyfile(source / INDEX, target / INDEX)


def write_result(folder: Path, about: dict[str, Any], saved: dict[str, Any], record: Path) -> None:
    """Write a result in the place of the one before it, which stays whole until the new one is.

    about: for the index. saved: a `checkpoint.snapshot`, which loses parts on the way. record: the folder of what is
    shown.
    """
    name = f"{saved['images_seen']:09d}"
    average = saved["ema"]
    write_curves(record / "curves.json", saved["history"])
    stream = io.BytesIO()
    torch.save(_thinned(saved), stream)
    files = {
        "state": write_parts(folder, f"{name}-state", squeeze(stream.getvalue())),
        "model": [write_file(folder / f"{name}-model.safetensors", to_safetensors(average))],
        "record": [write_file(folder / f"{name}-record.zip", zipped(record))],
    }
    grids = sorted((record / "samples").glob("*.png"))
    if grids:
        shutil.copyfile(grids[-1], folder / NEWEST_GRID)
    write_index(folder / INDEX, {"schema": SCHEMA, **about, "files": files})
    named = {part["file"] for parts in files.values() for part in parts}
    for path in [path for pattern in _FILES for path in folder.glob(pattern)]:
        if path.name not in named:
            path.unlink()


def _thinned(saved: dict[str, Any]) -> dict[str, Any]:
    """Without the average, which lies beside it, and without what the next step overwrites unread.

    That is AdamW's first moment where beta1 is 0, as the paper has it: it is the last gradient then.
    """
    for optimizer in saved["optimizers"].values():
        for group in optimizer["param_groups"]:
            for number in group["params"]:
                if group["betas"][0] == 0 and number in optimizer["state"]:
                    del optimizer["state"][number]["exp_avg"]
    return {**saved, "ema": {}}


def _filled(saved: dict[str, Any], average: dict[str, Tensor]) -> dict[str, Any]:
    for optimizer in saved["optimizers"].values():
        for of_one in optimizer["state"].values():
            of_one.setdefault("exp_avg", torch.zeros_like(of_one["exp_avg_sq"]))
    return {**saved, "ema": average}


# ---- the record --------------------------------------------------------------------------------------


def zipped(folder: Path) -> bytes:
    """A record as a zip of `RECORD_BYTES` at most; every other grid is left out, the newest never, until it fits."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    grids = [path for path in files if path.suffix == ".png"]
    others = [path for path in files if path.suffix != ".png"]
    while True:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in (*others, *grids):
                archive.write(path, path.relative_to(folder))
        if stream.tell() <= RECORD_BYTES or len(grids) < 2:
            return stream.getvalue()
        grids = grids[::-2][::-1]


def unzip_record(record: bytes, folder: Path) -> None:
    """Put a result's record into a folder (made if missing)."""
    with zipfile.ZipFile(io.BytesIO(record)) as archive:
        archive.extractall(folder)


class Record:
    """What is shown of a training, in a folder: ``metrics.jsonl``, ``samples/``, ``non-finite/``."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()
        (folder / "samples").mkdir(parents=True, exist_ok=True)

    def start_from(self, images_seen: int) -> None:
        """Leave out grids drawn after the checkpoint that training goes on from; they come again soon."""
        for path in (self.folder / "samples").glob("*.png"):
            if int(path.stem) > images_seen:
                path.unlink()

    def metrics(self, images_seen: int, metrics: dict[str, float]) -> None:
        """One more line; of images that training came to twice, after going back, the later line counts."""
        with self._lock, open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"images": images_seen, **metrics}) + "\n")

    def sample(self, images_seen: int, png: bytes) -> None:
        """One more grid."""
        (self.folder / "samples" / f"{images_seen:09d}.png").write_bytes(png)

    def non_finite(self, details: dict[str, Any]) -> None:
        """Losses and samples that made training go back."""
        path = self.folder / "non-finite" / f"{details['images_seen']:09d}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(details))

    @property
    def begun(self) -> bool:
        """Whether anything is in it."""
        return any(path.is_file() for path in self.folder.rglob("*"))

    @contextlib.contextmanager
    def resting(self) -> Iterator[Path]:
        """The folder, to which no line is added inside."""
        with self._lock:
            yield self.folder
