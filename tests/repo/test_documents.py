"""What the documents tell a reader to type is what the programs take."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from gigagan_core.cli.app import app
from gigagan_core.config import presets

UsageError = typer.BadParameter.__base__
"""Click's, of the copy that typer brings."""

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("infra/**/*.md"))]
_BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?gigagan (?=[a-z])(.*)$")
_SYNOPSIS = re.compile(r"[\[\]]|\.\.\.")
"""What a synopsis has besides words: `[--older-than 30d] ...`."""
_END = {"|", "&&", "||", ";", ">", ">>", "2>", "&"}


def commands(text: str) -> list[str]:
    """The `gigagan` command lines of a document's code blocks, continued lines joined, without what follows a pipe."""
    found = []
    for block in _BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if command := _COMMAND.match(line.strip()):
                words = shlex.split(_SYNOPSIS.sub("", command[1]), comments=True)
                found.append(
                    shlex.join(words[: next((i for i, w in enumerate(words) if w in _END), len(words))])
                )
    return found


def parse(line: str) -> dict[str, object]:
    """The options that a command line gives; UsageError where the command does not take it."""
    words, command = shlex.split(line), typer.main.get_command(app)
    context = typer.Context(command)
    while hasattr(command, "resolve_command"):
        name, command, words = command.resolve_command(context, words)
        assert command is not None
        context = typer.Context(command, parent=context, info_name=name)
    options, left, _ = command.make_parser(context).parse_args(args=list(words))
    if left:
        raise UsageError(f"{' '.join(left)} is left over")
    return options


WRITTEN = [
    pytest.param(line, id=f"{document.relative_to(ROOT)}: {line[:60]}")
    for document in DOCUMENTS
    for line in commands(document.read_text())
]


OWN_PRESET = "longer-demo"
"""Of docs/extending.md, which says how to write it."""


@pytest.mark.parametrize("line", WRITTEN)
def test_a_command_of_the_documents_is_one(line: str) -> None:
    options = parse(line)
    if isinstance(name := options.get("preset"), str) and name.islower() and name != OWN_PRESET:
        assert name in presets.PRESETS


def test_a_command_that_is_none_would_be_seen() -> None:
    assert commands("```\ngigagan store ls --all  # everything\n  out\n```") == ["store ls --all"]
    for line in ("store lst", "store gc --no-such-option", "generate --count"):
        with pytest.raises(UsageError):
            parse(line)
    assert len(WRITTEN) > 60


EXTENDED = """
import torch
from gigagan_core.config import presets
from gigagan_core.config.base import with_overrides
from gigagan_core.config.curate import CurateSettings, ScoreSettings
from gigagan_core.stages import curate, scoring

settings = with_overrides(CurateSettings(), ["contrast.minimum=0.05"])
assert curate._wanted(settings)[-1] == "contrast" and "contrast" not in curate._wanted(CurateSettings())
assert curate._weights("contrast", settings, None) == {}
chosen = curate._score_settings("contrast", settings, {})
pictures = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
pictures[1, :, ::2] = 255
assert scoring._load(chosen, ()).score(pictures, ["", ""])["contrast_std"].tolist() == [0.0, 0.5]
longer, demo = presets.preset("longer-demo"), presets.preset("demo")
assert longer.base.training.schedule.total_images == 17_920 > demo.base.training.schedule.total_images
"""


def test_what_extending_says_makes_a_scorer_and_a_preset(tmp_path: Path) -> None:
    page = (ROOT / "docs/extending.md").read_text()
    scorer, function, entry = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[:3]
    shutil.copytree(
        ROOT / "gigagan_core", tmp_path / "gigagan_core", ignore=shutil.ignore_patterns("__pycache__")
    )

    def edit(file: str, old: str, new: str) -> None:
        path = tmp_path / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file}: {old}"
        path.write_text(text.replace(old, new))

    (tmp_path / "gigagan_core/data/scorers/contrast.py").write_text(scorer)
    for line in (
        '`"contrast"` at the end of `ScorerName`',
        "`contrast: ScoreRule \\| None = None` in `CurateSettings`",
        '`"contrast": "gigagan_core.data.scorers.contrast",` in `SCORER_MODULES`',
        '`"contrast": settings.contrast is not None,` in `_wanted`',
        '`if scorer in ("language", "contrast"):` in `_weights`',
    ):
        assert line in page
    edit("gigagan_core/config/curate.py", '"language"]', '"language", "contrast"]')
    rule = "    language: LanguageRule = LanguageRule()\n"
    edit("gigagan_core/config/curate.py", rule, f"{rule}    contrast: ScoreRule | None = None\n")
    known = '    "language": "gigagan_core.data.scorers.language",\n'
    added = '    "contrast": "gigagan_core.data.scorers.contrast",\n'
    edit("gigagan_core/stages/scoring.py", known, known + added)
    on = '        "language": settings.language.language is not None,\n'
    edit("gigagan_core/stages/curate.py", on, f'{on}        "contrast": settings.contrast is not None,\n')
    needs_none = '    if scorer == "language":\n        return {}'
    edit(
        "gigagan_core/stages/curate.py",
        needs_none,
        needs_none.replace('== "language"', 'in ("language", "contrast")'),
    )
    named = "PRESETS: dict[str, Preset] = {\n"
    edit("gigagan_core/config/presets.py", named, f"{function}\n\n{named}{entry}")

    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", EXTENDED], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
