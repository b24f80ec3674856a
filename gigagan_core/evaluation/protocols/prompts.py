"""Prompt suites: COCO's captions, PartiPrompts, text or JSONL files; a seeded choice of them, with its hash."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gigagan_core.errors import GigaganError
from gigagan_core.evaluation.baselines import sample
from gigagan_core.evaluation.protocols.protocol import Layout
from gigagan_core.store.fingerprint import digest
from gigagan_core.text import lines

_TEXTS = ("prompt", "caption", "text")
_MANIFEST = {"source", "count", "available", "sha256"}
_IDS = ("id", "key", "name", "file_name")


@dataclass(frozen=True)
class Prompt:
    """id: what the source calls it. text: a stranger's words, raw."""

    id: str
    text: str


@dataclass(frozen=True)
class PromptSet:
    """prompts: chosen, in the order of the images. available: how many could have been chosen. source: for records."""

    prompts: tuple[Prompt, ...]
    available: int
    source: str

    @property
    def sha256(self) -> str:
        """Of ids and texts in their order: two evaluations with this sum asked for the same images."""
        return digest([[prompt.id, prompt.text] for prompt in self.prompts])

    @property
    def texts(self) -> list[str]:
        """The captions, in order."""
        return [prompt.text for prompt in self.prompts]

    def write(self, path: Path) -> None:
        """The manifest: one JSON object a line, after a first one with source, counts and sum."""
        head = {
            "source": self.source,
            "count": len(self.prompts),
            "available": self.available,
            "sha256": self.sha256,
        }
        rows = [head, *({"id": prompt.id, "prompt": prompt.text} for prompt in self.prompts)]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def load_prompts(path: Path, layout: Layout, count: int, seed: int) -> PromptSet:
    """At most `count` prompts of a file, drawn by seed, in the file's order.

    layout: ``coco``: a captions_*.json; one caption of each drawn image, drawn by the same seed, blank ones left out.
    ``parti``: the TSV of PartiPrompts. ``file``, by its ending: .jsonl or .ndjson (prompt, caption or text on each
    line; of an earlier report's `prompts.jsonl` the sum is checked), .tsv as ``parti``, other text, one prompt a line.
    Raises GigaganError, with the line where there is one, for a file that is not so, for .json and .csv, whose lines
    are no prompts, for a prompt that is no text or in JSONL blank, and where there is none.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise GigaganError(
            f"prompts {path} cannot be read ({error}); give a UTF-8 file of prompts"
        ) from error
    ending = path.suffix.lower()
    if layout == "coco":
        return _coco(text, path, count, seed)
    if layout == "parti" or ending == ".tsv":
        found = _parti(text, path)
    elif ending in (".json", ".csv"):
        raise GigaganError(
            f"prompts {path}: lines of a {ending} file are no prompts; give .jsonl, a .tsv with a column Prompt, or "
            "text with one prompt a line (a captions_*.json is read by COCO's protocols alone)"
        )
    elif ending in (".jsonl", ".ndjson"):
        found = _json_lines(text, path)
    else:
        found = [
            Prompt(str(number), line.strip()) for number, line in enumerate(lines(text), 1) if line.strip()
        ]
    return choose(found, count, seed, str(path))


def choose(prompts: list[Prompt], count: int, seed: int, source: str) -> PromptSet:
    """At most `count` of them, drawn by seed, in their order. Raises GigaganError where there are none."""
    if not prompts:
        raise GigaganError(f"prompts {source}: there are none; give a file that holds some")
    rows = sample(min(count, len(prompts)), len(prompts), seed).tolist()
    return PromptSet(tuple(prompts[row] for row in sorted(rows)), len(prompts), source)


def _coco(text: str, path: Path, count: int, seed: int) -> PromptSet:
    captions: dict[int, list[tuple[int, str]]] = defaultdict(list)
    try:
        document = json.loads(text)
        files = {int(image["id"]): str(image["file_name"]) for image in document["images"]}
        for row in document["annotations"]:
            if caption := " ".join(_text(row["caption"]).split()):
                captions[int(row["image_id"])].append((int(row["id"]), caption))
    except (ValueError, LookupError, TypeError) as error:
        raise GigaganError(
            f"prompts {path}: not COCO's captions ({type(error).__name__}: {error}); give a captions_*.json with "
            "images and annotations"
        ) from error
    images = [image for image in sorted(files) if captions[image]]
    if not images:
        raise GigaganError(f"prompts {path}: no image has a caption; give a captions_*.json that holds some")
    chosen = sorted(sample(min(count, len(images)), len(images), seed).tolist())
    # one number for each image of the file, so that a smaller count asks for the same captions
    draws = torch.rand(len(images), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    prompts = []
    for row in chosen:
        own = sorted(captions[images[row]])
        number, caption = own[int(draws[row] * len(own))]
        prompts.append(Prompt(f"{files[images[row]]}#{number}", caption))
    return PromptSet(tuple(prompts), len(images), str(path))


def _parti(text: str, path: Path) -> list[Prompt]:
    # quotation marks are part of the prompts
    rows = csv.DictReader(lines(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    found = []
    try:
        if "Prompt" not in (rows.fieldnames or ()):
            raise GigaganError(f"prompts {path}: no column Prompt; give PartiPrompts' TSV, with its header")
        for number, row in enumerate(rows, 1):
            if prompt := _text(row["Prompt"]).strip():
                found.append(Prompt(f"{number}/{row.get('Category')}/{row.get('Challenge')}", prompt))
    except TypeError as error:
        raise GigaganError(
            f"prompts {path}, line {rows.line_num}: no prompt in its column ({error}); mend that line"
        ) from error
    except csv.Error as error:
        raise GigaganError(f"prompts {path}, line {rows.line_num + 1}: {error}; mend that line") from error
    return found


def _json_lines(text: str, path: Path) -> list[Prompt]:
    found: list[Prompt] = []
    sha256 = None
    for number, line in enumerate(lines(text), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            if number == 1 and row.keys() >= _MANIFEST:
                sha256 = str(row["sha256"])
                continue
            found.append(Prompt(str(_first(row, _IDS) or number), _required(row)))
        except (ValueError, LookupError, AttributeError, TypeError) as error:
            raise GigaganError(
                f'prompts {path}, line {number}: no JSON object with a prompt ({error}); write {{"prompt": "..."}}'
            ) from error
    if sha256 not in (None, PromptSet(tuple(found), len(found), "").sha256):
        raise GigaganError(
            f"prompts {path} are not those of its first line (sha256 {sha256[:12]}); take the report's own file, or "
            "delete that line"
        )
    return found


def _first(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _required(row: dict[str, Any]) -> str:
    found = _first(row, _TEXTS)
    if found is None:
        raise LookupError(f"none of {', '.join(_TEXTS)}")
    if not _text(found).strip():
        raise ValueError("it is blank")
    return _text(found)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"no text but {str(value)[:40]!r}")
    return value
