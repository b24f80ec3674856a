"""Two folders judged: by ours in one pass, and by clean-fid followed by a plain CLIP-score pass; same weights."""

from __future__ import annotations

import itertools
import sys
import tempfile
import warnings
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import cleanfid
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision import transforms

from benchmarks.side_by_side import answer
from gigagan_core.encoders.open_clip_encoder import load_encoder
from gigagan_core.evaluation.extractors.registry import ExtractorPlace
from gigagan_core.evaluation.folder_metrics import FolderMetrics, measure
from gigagan_core.evaluation.frechet import frechet_distance
from gigagan_core.evaluation.moments import Moments

warnings.simplefilter("ignore")
BATCH = 32


class Judged(ABC):
    """options: folder (real, fake, captions.tsv, inception-2015-12-05.pt, clip.pt), threads, metrics, warm."""

    parameters = None
    calls = 1

    def __init__(self, options: dict[str, Any]):
        torch.set_num_threads(options["threads"])
        self.options, self.folder = options, Path(options["folder"])
        self.values: dict[str, float] = {}

    def warm_up(self) -> None:
        self.judge(self.folder / "warm", ["kid", "clip-score"])

    def run(self) -> None:
        self.judge(self.folder, self.options["metrics"])

    @abstractmethod
    def judge(self, folder: Path, metrics: list[str]) -> None:
        """Compare the generated pictures of a folder with its real ones."""

    def facts(self) -> dict[str, Any]:
        return {"values": {name: float(f"{value:.7g}") for name, value in self.values.items()}}


class Ours(Judged):
    """Every metric of `gigagan metrics` from one pass; nothing kept from an earlier run."""

    def judge(self, folder: Path, metrics: list[str]) -> None:
        with tempfile.TemporaryDirectory() as work:
            settings = FolderMetrics(
                real=folder / "real",
                fake=folder / "fake",
                extractors=(
                    ExtractorPlace(f"inception:{self.folder / 'inception-2015-12-05.pt'}"),
                    ExtractorPlace(f"ViT-B-32:{self.folder / 'clip.pt'}", prefix=False),
                ),
                metrics=tuple(metrics),
                captions=folder / "captions.tsv",
                work=Path(work),
                batch_size=BATCH,
                threads=self.options["threads"],
            )
            self.values = {figure.name: figure.value for figure in measure(settings).figures}


class CleanFid(Judged):
    """clean-fid's functions as its documentation calls them, each over both folders; then a loop for the CLIP score."""

    def __init__(self, options: dict[str, Any]):
        super().__init__(options)
        from cleanfid import features

        original = features.InceptionV3W
        # it looks in /tmp, whoever's file lies there
        features.InceptionV3W = lambda path, **more: original(str(self.folder), **more)
        self.encoder = load_encoder(f"ViT-B-32:{self.folder / 'clip.pt'}")

    def judge(self, folder: Path, metrics: list[str]) -> None:
        from cleanfid import fid

        given = {
            "fdir1": str(folder / "real"),
            "fdir2": str(folder / "fake"),
            "device": torch.device("cpu"),
            "num_workers": self.options["threads"],
            "batch_size": BATCH,
            "use_dataparallel": False,
            "verbose": False,
        }
        self.values = {}
        if "fd" in metrics:
            self.values["fd"] = float(fid.compute_fid(**given))
        if "kid" in metrics:
            self.values["kid"] = float(fid.compute_kid(**given))
        self.values["clip-score"] = self.clip_score(folder)

    @torch.inference_mode()
    def clip_score(self, folder: Path) -> float:
        preprocess = transforms.Compose(
            [
                transforms.Resize(224, transforms.InterpolationMode.BICUBIC),
                transforms.CenterCrop(224),
                transforms.ToTensor(),
            ]
        )
        lines = (folder / "captions.tsv").read_text().splitlines()[1:]
        rows = [line.split("\t") for line in lines]
        cosines = []
        for batch in itertools.batched(rows, BATCH) if sys.version_info >= (3, 12) else _batched(rows):
            images = [preprocess(Image.open(folder / "fake" / name).convert("RGB")) for name, _ in batch]
            seen = self.encoder.image_embed(torch.stack(images) * 2 - 1)
            read = self.encoder.text_embed(self.encoder.tokenize([caption for _, caption in batch]))
            cosines.append(F.cosine_similarity(seen, read))
        return float(torch.cat(cosines).mean())


def _batched(rows: list[Any]) -> Any:
    return (rows[start : start + BATCH] for start in range(0, len(rows), BATCH))


class Distance:
    """Frechet distance from features at hand. options: images, dimensions, threads."""

    parameters = None
    calls = 1

    def __init__(self, options: dict[str, Any]):
        torch.set_num_threads(options["threads"])
        generator = np.random.default_rng(0)
        shape = options["images"], options["dimensions"]
        decay = (1 + np.arange(options["dimensions"])) ** -0.5
        self.sets = [
            (generator.standard_normal(shape) * decay + shift).astype(np.float32) for shift in (0, 0.01)
        ]
        self.value = float("nan")

    def warm_up(self) -> None:
        """Nothing: a whole run is long enough."""

    def facts(self) -> dict[str, Any]:
        return {"distance": self.value}


class OurDistance(Distance):
    def run(self) -> None:
        self.value = frechet_distance(*(Moments.of(torch.from_numpy(each)) for each in self.sets)).distance


class CleanFidDistance(Distance):
    def run(self) -> None:
        from cleanfid.fid import fid_from_feats

        self.value = float(fid_from_feats(*self.sets))


CASES = {
    "ours": {"judge": Ours, "distance": OurDistance},
    "cleanfid": {"judge": CleanFid, "distance": CleanFidDistance},
}

if __name__ == "__main__":
    version = getattr(cleanfid, "__version__", None) or __import__("importlib.metadata").metadata.version(
        "clean-fid"
    )
    answer(CASES[sys.argv[1]], {"torch": torch.__version__, "clean-fid": version})
