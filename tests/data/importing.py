"""What several tests of imports do: make pictures, tars and folders, and import them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gigagan_core.config.ingest import ImportSettings
from gigagan_core.stages import import_data
from gigagan_core.stages.base import RunContext
from gigagan_core.store.artifact import Artifact

from .helpers import rows_of


def picture(number: int, kind: str = "JPEG", size: tuple[int, int] = (24, 20)) -> bytes:
    """Noise that only `number` decides."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def run(source: Path, store: Path, captions: Path | None = None, **settings: Any) -> Artifact:
    with RunContext.open(str(store)) as context:
        return import_data.run(ImportSettings(**settings), {"source": source, "captions": captions}, context)


def by_name(artifact: Artifact) -> dict[str, dict[str, Any]]:
    return {json.loads(row["extra"])["imported_from"]: row for row in rows_of(artifact)}


def sample(number: int, ending: str = "jpg", **known: Any) -> dict[str, bytes]:
    """The files of an img2dataset sample."""
    key = f"{number:09d}"
    said = {"caption": f"caption {number}", "url": f"http://a.example/{number}", "key": key, **known}
    return {
        f"{key}.{ending}": picture(number, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[ending]),
        f"{key}.txt": f"caption {number}".encode(),
        f"{key}.json": json.dumps(said).encode(),
    }
