"""Pictures of any folder: listed, identified by content, decoded, brought to one size."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.extractors.base import centre_square
from gigagan_core.evaluation.folder_files import files_of, unreadable

ENDINGS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
"""What clean-fid looks at, in letters of either case, with .jfif and without .npy."""
DECODING = 2
"""Version of what `decode` makes of a file's bytes: features kept under another are not taken for this one's."""
_DEEP = ("I", "F")
"""How Pillow's modes begin that hold greys of more than 8 bits; it clips them at 255 when it converts them."""


@dataclass(frozen=True)
class Picture:
    """One file. name: its path within the folder, with `/`. path: absolute. sha256: of its bytes."""

    name: str
    path: str
    sha256: str


def list_pictures(folder: Path, threads: int = 4) -> list[Picture]:
    """Every picture in a folder and the folders below it, by name; links are followed, hidden files left out.

    Raises GigaganError where the folder is missing, holds no picture, or where one of its folders or pictures cannot be
    read.
    """
    if not folder.is_dir():
        raise GigaganError(f"{folder} is no folder; give one that holds images")
    names = sorted(
        path.relative_to(folder).as_posix() for path in files_of(folder) if path.suffix.lower() in ENDINGS
    )
    if not names:
        raise GigaganError(f"{folder} holds no images ({', '.join(ENDINGS)}); give a folder that does")
    with ThreadPoolExecutor(threads) as pool:
        sums = pool.map(lambda name: hashlib.sha256(_bytes_of(folder / name)).hexdigest(), names)
        return [
            Picture(name, str((folder / name).absolute()), found)
            for name, found in zip(names, sums, strict=True)
        ]


def passed_over(folder: Path) -> list[str]:
    """Files that are pictures by their ending, or arrays of them, and that `list_pictures` does not list, by name."""
    endings = {*Image.registered_extensions(), ".npy"} - set(ENDINGS)
    return sorted(
        path.relative_to(folder).as_posix() for path in files_of(folder) if path.suffix.lower() in endings
    )


def dangling(folder: Path) -> list[str]:
    """Links that lead nowhere and that by their ending were pictures or folders, by name."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in files_of(folder, dangling=True)
        if path.suffix.lower() in (*ENDINGS, "")
    )


def digest_of(pictures: Iterable[Picture]) -> str:
    """sha256 over the pictures' contents, in their order."""
    return hashlib.sha256("".join(picture.sha256 for picture in pictures).encode()).hexdigest()


def pair_up(
    real: list[Picture], fake: list[Picture], folders: tuple[Path, Path]
) -> tuple[list[Picture], list[Picture]]:
    """Both lists in the order of their names without ending, for measures that compare image with image.

    Raises GigaganError where the counts differ or an image has no partner of its name.
    """
    if len(real) != len(fake):
        raise GigaganError(
            f"{folders[0]} holds {len(real)} images and {folders[1]} {len(fake)}; PSNR, SSIM, LPIPS and patch-FD "
            "compare image with image, so give folders of equally many"
        )
    by_name = [{Path(p.name).with_suffix("").as_posix(): p for p in pictures} for pictures in (real, fake)]
    lonely = sorted(by_name[0].keys() ^ by_name[1].keys())
    if lonely or len(by_name[0]) != len(real):
        what = lonely[0] if lonely else "a name occurs with two endings"
        raise GigaganError(
            f"images of {folders[0]} and {folders[1]} do not pair by name ({what}); give both the same names"
        )
    names = sorted(by_name[0])
    return [by_name[0][name] for name in names], [by_name[1][name] for name in names]


def decode(picture: Picture, size: int | None) -> np.ndarray | str:
    """The picture as uint8 [H, W, 3], or what Pillow finds wrong with it.

    Transparency is dropped and EXIF orientation not looked at, as clean-fid does. Greys of more than 8 bits, which both
    would clip to white, count as not decoding. size: centre crop to the short side, then PIL Lanczos to size x size on
    uint8, the authors' rule for COCO; None: as it is.
    Raises GigaganError where the file cannot be read, has other bytes than its sha256 says, or memory runs out: none of
    that is a fault of the picture's, and what is wrong with a picture is kept for good.
    """
    data = _bytes_of(Path(picture.path))
    if hashlib.sha256(data).hexdigest() != picture.sha256:
        raise GigaganError(
            f"{picture.path} changed while it was being judged; let nothing write there and give the same command again"
        )
    try:
        opened = Image.open(io.BytesIO(data))
        if opened.mode.startswith(_DEEP):
            return f"greys of more than 8 bits, mode {opened.mode}, would be clipped to white: save it with 8"
        image = np.asarray(opened.convert("RGB"))
    except UnidentifiedImageError:  # its words hold an address in memory
        return "no image format that Pillow knows"
    except MemoryError as error:
        raise GigaganError(
            f"memory ran out while {picture.path} was decoded; free some and give the same command again"
        ) from error
    except Exception as error:  # PIL raises many kinds
        return " ".join(f"{type(error).__name__}: {error}".split())[:120]
    return image if size is None else cropped_and_resized(image, size)


def cropped_and_resized(image: np.ndarray, size: int) -> np.ndarray:
    """uint8 [H, W, 3] to uint8 [size, size, 3]: centre crop to the short side, PIL Lanczos; equal size: no change."""
    square = centre_square(image)
    if len(square) == size:
        return np.ascontiguousarray(square)
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(square)).resize((size, size), Image.Resampling.LANCZOS)
    )


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, MemoryError) as error:
        raise unreadable(path, error) from error
