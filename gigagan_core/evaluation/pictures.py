"""Pictures of a report: single images for the page, captioned grids for records that show PNG only."""

from __future__ import annotations

import base64
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from gigagan_core.text import plain

if TYPE_CHECKING:
    from PIL import Image, ImageFont

_MARGIN = 12
_GAP = 6
_TEXT_SIZE = 14
_LINE_HEIGHT = 18
_TEXT_LINES = 2
_LOSSLESS_BYTES = 60_000
_OPTIMISED_UP_TO = 128
_INK = (31, 30, 28)
_MUTED = (107, 104, 98)
_PAPER = (252, 251, 248)
_EDGE = (227, 223, 214)


@dataclass(frozen=True)
class Row:
    """A caption and its pictures. caption: a stranger's text, raw. images: uint8 [3, H, W], any sizes."""

    caption: str
    images: tuple[Tensor, ...]


def to_pil(image: Tensor) -> Image.Image:
    """uint8 [3, H, W] to a PIL RGB image."""
    from PIL import Image

    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def data_uri(image: Tensor) -> str:
    """uint8 [3, H, W] inside an address, so that a page needs no other file: PNG, or JPEG where that is too large.

    A page of a hundred photographs of 256 px would have 15 MB of PNG and has 4 MB of JPEG.
    """
    picture, buffer, kind = to_pil(image), io.BytesIO(), "png"
    picture.save(
        buffer, format="PNG", optimize=picture.width <= _OPTIMISED_UP_TO
    )  # takes a second for larger ones
    if buffer.tell() > _LOSSLESS_BYTES:
        buffer, kind = io.BytesIO(), "jpeg"
        picture.save(buffer, format="JPEG", quality=92, subsampling=0)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def grid(rows: Sequence[Row], titles: Sequence[str], *, tile: int = 128, columns: int = 1) -> Image.Image:
    """Captioned pictures on one sheet: each row's images side by side under its caption.

    titles: one for each image of a row. tile: side at which every image is shown, pixels; smaller ones
    are enlarged without smoothing, so a 32 pixel image shows its pixels. columns: rows side by side.
    """
    from PIL import Image, ImageDraw

    font = _font()
    cell_width = len(titles) * tile + (len(titles) - 1) * _GAP
    text_height = _TEXT_LINES * _LINE_HEIGHT + _GAP
    cell_height = text_height + tile + _MARGIN
    columns = min(columns, max(1, len(rows)))
    lines = -(-len(rows) // columns)
    top = _MARGIN + _LINE_HEIGHT + _GAP
    width = 2 * _MARGIN + columns * cell_width + (columns - 1) * 3 * _MARGIN
    sheet = Image.new("RGB", (width, top + lines * cell_height + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column in range(columns):
        left = _MARGIN + column * (cell_width + 3 * _MARGIN)
        for position, title in enumerate(titles):
            for line in wrapped(title, tile, font, 1):
                draw.text((left + position * (tile + _GAP), _MARGIN), line, fill=_MUTED, font=font)
    for number, row in enumerate(rows):
        left = _MARGIN + (number % columns) * (cell_width + 3 * _MARGIN)
        y = top + (number // columns) * cell_height
        lines_of_text = wrapped(row.caption, cell_width, font, _TEXT_LINES)
        # a short caption stands directly above its pictures
        text_top = y + text_height - _GAP - len(lines_of_text) * _LINE_HEIGHT
        for line_number, line in enumerate(lines_of_text):
            draw.text((left, text_top + line_number * _LINE_HEIGHT), line, fill=_INK, font=font)
        for position, image in enumerate(row.images):
            x = left + position * (tile + _GAP)
            box = (x - 1, y + text_height - 1, x + tile, y + text_height + tile)
            draw.rectangle(box, outline=_EDGE)
            sheet.paste(_at_size(image, tile), (x, y + text_height))
    return sheet


def wrapped(text: str, width: float, font: ImageFont.FreeTypeFont, lines: int) -> list[str]:
    """At most `lines` lines of visible characters that fit `width` pixels; a cut text ends in an ellipsis."""
    done: list[str] = []
    waiting = plain(text).split(" ")
    while waiting and len(done) < lines:
        line = ""
        while waiting and font.getlength(f"{line} {waiting[0]}".strip()) <= width:
            line = f"{line} {waiting.pop(0)}".strip()
        if waiting and (not line or len(done) == lines - 1):
            # a word wider than the line, or no line left: cut by characters
            rest = f"{line} {' '.join(waiting)}".strip()
            kept = next(
                n
                for n in range(len(rest), -1, -1)
                if font.getlength(rest[:n].rstrip() + "…") <= width or n == 0
            )
            return [*done, rest[:kept].rstrip() + "…"]
        done.append(line)
    return done


def _at_size(image: Tensor, tile: int) -> Image.Image:
    from PIL import Image

    picture = to_pil(image)
    smoothing = Image.Resampling.NEAREST if picture.width <= tile else Image.Resampling.LANCZOS
    return picture.resize((tile, tile), smoothing)


def _font() -> ImageFont.FreeTypeFont:
    from PIL import ImageFont

    # DejaVu, which comes with matplotlib, has far more scripts than Pillow's own font.
    spec = importlib.util.find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(path, _TEXT_SIZE)
    return ImageFont.load_default(_TEXT_SIZE)
