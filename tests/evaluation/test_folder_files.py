"""The one sum over a folder's files: what is in them counts, not what they look like from outside."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation import folder_files
from gigagan_core.evaluation.folder_files import digest_of_folder


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("0.bmp", "1.bmp", "more/2.bmp")):
        save(folder / name, number)
    return folder


def save(path: Path, value: int) -> None:
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)


def test_other_pictures_of_the_same_names_and_sizes_have_another_sum(pictures):
    before, size = digest_of_folder(pictures), (pictures / "1.bmp").stat().st_size
    assert digest_of_folder(pictures) == before
    save(pictures / "1.bmp", 7)
    assert (pictures / "1.bmp").stat().st_size == size
    assert digest_of_folder(pictures) != before
    save(pictures / "1.bmp", 1)
    assert digest_of_folder(pictures) == before


def test_names_count_and_the_folders_place_and_hidden_files_do_not(pictures, tmp_path):
    before = digest_of_folder(pictures)
    (pictures / ".listing").write_text("by a file manager")
    assert digest_of_folder(pictures.rename(tmp_path / "moved")) == before
    (tmp_path / "moved" / "0.bmp").rename(tmp_path / "moved" / "3.bmp")
    assert digest_of_folder(tmp_path / "moved") != before


def test_what_links_lead_to_counts(pictures, tmp_path):
    (pictures / "more").rename(tmp_path / "elsewhere")
    without = digest_of_folder(pictures)
    (pictures / "more").symlink_to(tmp_path / "elsewhere")
    before = digest_of_folder(pictures)
    assert before != without
    save(tmp_path / "elsewhere" / "2.bmp", 7)
    assert digest_of_folder(pictures) != before


def test_a_file_that_cannot_be_read_is_one_sentence(pictures, monkeypatch):
    def failing(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(folder_files, "sha256_file", failing)
    with pytest.raises(GigaganError, match=r"0\.bmp cannot be read \(Input/output error\); mend that"):
        digest_of_folder(pictures)
