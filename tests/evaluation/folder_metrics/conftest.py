"""Two folders of pictures, a small judge, and what compares them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gigagan_core.encoders.clip_model import ClipArchitecture, ClipModel
from gigagan_core.encoders.open_clip_encoder import Preprocessing, save_encoder
from gigagan_core.evaluation.extractors.registry import ExtractorPlace
from gigagan_core.evaluation.folder_metrics import FolderMetrics, Measured, measure
from gigagan_core.evaluation.set_metrics import MeasureOptions

FEW = MeasureOptions(resamples=100, kid_subsets=3)


@pytest.fixture(scope="module")
def judge(tmp_path_factory) -> Path:
    """An untrained encoder of 16 dimensions in its folder."""
    torch.manual_seed(0)
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "patch_size": 8, "head_width": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    model = ClipModel(ClipArchitecture.from_config(config))
    folder = tmp_path_factory.mktemp("judge")
    save_encoder(folder, model, Preprocessing(), name="openmoji-judge", role="judge")
    return folder


@pytest.fixture(scope="module")
def sets(picture_folder) -> tuple[Path, Path]:
    return picture_folder(40, 48, 1), picture_folder(40, 48, 2)


@pytest.fixture
def compare(sets, judge, tmp_path):
    """Compare the two folders with the small judge; what is given replaces that."""

    def run(**changed: object) -> Measured:
        places = tuple(ExtractorPlace(str(each)) for each in changed.pop("extractors", (judge,)))
        given = {"real": sets[0], "fake": sets[1], "options": FEW, "work": tmp_path / "work", **changed}
        ray = given.pop("ray", None)
        return measure(FolderMetrics(extractors=places, **given), ray)

    return run


def values(measured: Measured) -> dict[str, float]:
    return {figure.name: figure.value for figure in measured.figures}


def pixels(folder: Path) -> torch.Tensor:
    files = sorted(folder.iterdir())
    return torch.stack([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files])
