"""Frames as GIF or MP4."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from gigagan_core.errors import GigaganError

ENDINGS = (".gif", ".mp4")


def save_animation(path: Path | str, frames: Sequence[Image.Image], frames_per_second: float = 12.0) -> None:
    """Write frames of one size as a looping GIF (256 colours a frame) or as MP4 (MPEG-4 part 2), by the ending.

    The file is there when it is whole. Raises GigaganError for another ending, where no frame is given, or where the
    file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise GigaganError(f"animation {path}: the ending {path.suffix!r} is not known; write .gif or .mp4")
    if not frames:
        raise GigaganError(f"animation {path} has no frame; give at least one")
    save = _save_gif if path.suffix.lower() == ".gif" else _save_mp4
    # OpenCV knows the format by the ending
    partial = path.with_name(f".{path.stem}.partial{path.suffix.lower()}")
    try:
        save(partial, frames, frames_per_second)
        os.replace(partial, path)
    except OSError as error:
        raise GigaganError(
            f"animation {path} cannot be written ({error.strerror}); choose another place"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def _save_gif(path: Path, frames: Sequence[Image.Image], frames_per_second: float) -> None:
    first, *rest = frames
    # A GIF counts hundredths of a second, and players slow down what is faster than two of them.
    milliseconds = max(20, round(100 / frames_per_second) * 10)
    first.save(path, save_all=True, append_images=rest, duration=milliseconds, loop=0)


def _save_mp4(path: Path, frames: Sequence[Image.Image], frames_per_second: float) -> None:
    try:
        import cv2
    except ImportError:
        raise GigaganError(
            f"animation {path}: MP4 needs opencv-python-headless, which is not installed; write .gif"
        ) from None
    with path.open("wb"):
        pass  # OpenCV says nothing of a place that cannot be written
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), frames_per_second, frames[0].size)
    if not writer.isOpened():
        raise GigaganError(f"animation {path}: OpenCV here cannot write MP4; write .gif")
    try:
        for frame in frames:
            writer.write(np.ascontiguousarray(np.asarray(frame.convert("RGB"))[..., ::-1]))
    finally:
        writer.release()
    # OpenCV says nothing of a disk that is full either.
    video = cv2.VideoCapture(str(path))
    held = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    video.release()
    if held != len(frames):
        raise OSError(errno.EIO, f"it holds {held} of {len(frames)} frames; is the disk full?")
