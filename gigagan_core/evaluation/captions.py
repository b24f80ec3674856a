"""Captions by file name, and what the authors' protocol does with them before CLIP reads them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from gigagan_core.errors import GigaganError
from gigagan_core.text import lines

PREFIX = "A photo depicts "
_FILE_COLUMNS = ("file_name", "file", "filename", "name", "image", "key")
_CAPTION_COLUMNS = ("caption", "text", "prompt")


def prefixed_tokens(tokens: Tensor, tokenize: Callable[[list[str]], Tensor]) -> Tensor:
    """The authors' way to prefix captions: three tokens after the start token, the end token last where it was cut.

    tokens: int64 [N, L], start, caption, end, zeros. tokenize: N strings -> [N, L]. Returns [N, L].
    """
    length = tokens.shape[1]
    alone = tokenize([PREFIX])
    end = int(alone.max())  # the end-of-text token has the highest number
    words = alone[:, 1 : int((alone[0] == end).nonzero()[0])].expand(len(tokens), -1)
    joined = torch.cat([tokens[:, :1], words, tokens[:, 1:]], dim=1)[:, :length].clone()
    joined[:, -1] = torch.where(joined[:, -1] > 0, end, joined[:, -1])
    return joined


def read_captions(path: Path) -> dict[str, str]:
    """File name -> caption, of JSONL (an object with a file and a caption on each line), CSV, TSV, or text.

    A line of a text file is NAME, a tab, the caption. Columns may be called file_name, file, filename, name, image or
    key, and caption, text or prompt. Raises GigaganError, with the line, for what is not so, for a caption that is no
    text or blank, and for a name given twice with different captions.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise GigaganError(
            f"captions {path} cannot be read ({error}); give a UTF-8 file of names and captions"
        ) from error
    kind = path.suffix.lower()
    if kind in (".jsonl", ".ndjson", ".json"):
        rows = _json_lines(text, path)
    elif kind in (".csv", ".tsv"):
        rows = _table(text, path, "," if kind == ".csv" else "\t")
    else:
        rows = _text_lines(text, path)
    found: dict[str, str] = {}
    for number, name, caption in rows:
        if not caption.strip():
            raise GigaganError(
                f"captions {path}, line {number}: the caption of {name!r} is blank; write one, or delete the line"
            )
        if found.setdefault(name, caption) != caption:
            raise GigaganError(
                f"captions {path}, line {number}: {name!r} has a second caption; keep one for each"
            )
    if not found:
        raise GigaganError(f"captions {path}: there are none; give a file name and a caption on each line")
    return found


def captions_of(files: Iterable[str], captions: dict[str, str], where: str) -> tuple[list[str], int]:
    """One caption for each file, by its relative path, its name, or its name without ending, in this order.

    Returns them, and how many captions belong to no file. Raises GigaganError, naming the first file, where some have
    none, and where one caption would serve several files: a name does not say in which folder.
    """
    files, owners = list(files), dict[str, str]()
    missing = []
    for file in files:
        key = next((key for key in (file, Path(file).name, Path(file).stem) if key in captions), None)
        if key is None:
            missing.append(file)
        elif owners.setdefault(key, file) != file:
            raise GigaganError(
                f"captions {where}: {key!r} may be {owners[key]} or {file}; name files by their path in the folder, "
                "with their ending"
            )
    if missing:
        raise GigaganError(
            f"{len(missing)} of {len(files)} images have no caption in {where} (first: {missing[0]}); add them, or "
            "move these images away: CLIP score needs one for every image"
        )
    return [captions[key] for key in owners], len(captions) - len(owners)


def _text_lines(text: str, path: Path) -> Iterable[tuple[int, str, str]]:
    for number, line in enumerate(lines(text), 1):
        if not line.strip():
            continue
        name, tab, caption = line.partition("\t")
        if not tab:
            raise GigaganError(
                f"captions {path}, line {number}: no tab between file name and caption; captions are matched by name, "
                "never by their order"
            )
        yield number, name.strip(), caption.strip()


def _json_lines(text: str, path: Path) -> Iterable[tuple[int, str, str]]:
    for number, line in enumerate(lines(text), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            yield number, *_name_and_caption(row)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise GigaganError(
                f"captions {path}, line {number}: not a JSON object with a file and a caption ({error}); write "
                '{"file_name": "a.png", "caption": "..."}'
            ) from error


def _table(text: str, path: Path, delimiter: str) -> Iterable[tuple[int, str, str]]:
    # strict: a quotation mark that is never closed would swallow the lines after it
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter, strict=True)
    begins = 1  # where csv fails, line_num does not say in which line the row began
    try:
        if reader.fieldnames:
            begins = reader.line_num + 1
        for row in reader:
            if None in row.values():
                raise ValueError("fewer fields than the header has columns")
            if None in row:
                raise ValueError(
                    "more fields than the header has columns (a caption that holds the separator needs quotation marks)"
                )
            yield reader.line_num, *_name_and_caption(row)
            begins = reader.line_num + 1
    except (LookupError, TypeError) as error:
        raise GigaganError(
            f"captions {path}, line {reader.line_num}: {error}; the header must name a file and a caption column, such "
            "as file_name,caption"
        ) from error
    except (ValueError, csv.Error) as error:
        raise GigaganError(f"captions {path}, line {begins}: {error}; mend that line") from error


def _name_and_caption(row: dict) -> tuple[str, str]:
    def first(columns: tuple[str, ...], kinds: type | tuple[type, ...]) -> str:
        for column in columns:
            if row.get(column) is not None:
                if not isinstance(row[column], kinds):
                    raise TypeError(f"{column} is no text but {str(row[column])[:40]!r}")
                return str(row[column])
        raise LookupError(f"none of {', '.join(columns)}")

    return first(_FILE_COLUMNS, (str, int)), first(_CAPTION_COLUMNS, str)
