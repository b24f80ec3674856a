"""The command line is a contract: exit codes, one sentence for an error, one document for --json."""

from __future__ import annotations

import importlib.metadata
import json
import resource
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gigagan_core import __version__

COMMANDS = {
    "pipeline",
    "run",
    "ingest",
    "import",
    "train-encoder",
    "curate",
    "train-base",
    "train-upsampler",
    "evaluate",
    "assets list",
    "assets fetch",
    "assets verify",
    "generate",
    "serve",
    "interpolate",
    "mix",
    "upsample",
    "damage",
    "export",
    "tradeoff",
    "latency",
    "report compare",
    "report gate",
    "presets",
    "plan",
    "doctor",
    "ui",
    "env",
    "stack up",
    "stack down",
    "stack status",
    "stack logs",
    "stack env",
    "store ls",
    "store show",
    "store diff",
    "store runs",
    "store pin",
    "store unpin",
    "store gc",
    "store forget",
    "data publish",
    "data pack",
    "import-model",
    "data report",
}
HEAVY = {"torch", "ray", "mlflow", "prefect", "open_clip", "img2dataset", "matplotlib", "pandas", "pyarrow"}

NOISY = """
import os, subprocess, sys
from gigagan_core.cli.answer import answering
with answering(as_json=True) as answer:
    print("from print")
    os.write(1, b"from a worker below sys.stdout\\n")
    subprocess.run(["echo", "from a child"])
    answer({"caption": "caf\\u00e9 \\x1b[31m"})
"""
STOPPED = """
import os, signal, sys, time
from gigagan_core.cli.answer import answering
from gigagan_core.tracking.process import Terminated
import typer
try:
    with answering(as_json=True) as answer:
        if sys.argv[1] == "exit":
            sys.exit(0)
        if sys.argv[1] == "garbled":
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except Terminated:
                raise SystemError("a C function returned a result with an exception set")
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        time.sleep(5)
except typer.Exit as error:
    sys.exit(error.exit_code)
"""
FAILING = """
import sys
import typer
from gigagan_core.cli.answer import answering
from gigagan_core.errors import GigaganError
try:
    with answering(as_json="--json" in sys.argv):
        raise GigaganError("caption '\\x1b[31m[bold]x[/bold]\\n' is bad; mend it")
except typer.Exit as error:
    sys.exit(error.exit_code)
"""


def sentence_of(done: Any) -> str:
    """Standard error, which must be the one line of an error."""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("gigagan: error: ")
    return lines[0].removeprefix("gigagan: error: ")


def test_help_names_every_command_at_once_and_imports_nothing_heavy(gigagan: Any) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = gigagan("--help", COLUMNS="200")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert all(command.split()[0] in done.stdout for command in COMMANDS)
    # Processor time, since the machine may be busy with other things.
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 1.5
    loaded = gigagan(code="import sys, gigagan_core.cli.app; print(*sys.modules)").stdout.split()
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(inside: Any, command: str) -> None:
    done = inside(*command.split(), "--help")
    assert done.exit_code == 0
    assert "Usage: gigagan " + command in done.stdout
    # What a shell evaluates, and lines of a log, are no documents.
    assert ("--json" in done.stdout) == (command not in ("env", "stack env", "stack logs"))


def test_the_pipeline_comes_through_the_entry_point_group() -> None:
    entries = {entry.name: entry.value for entry in importlib.metadata.entry_points(group="gigagan.commands")}
    assert entries["pipeline"] == "flows.command:register"


def test_the_version_is_printed(inside: Any) -> None:
    assert inside("--version").stdout == f"gigagan {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [["no-such-command"], ["presets", "--no-such-option"], ["ingest"], ["train-encoder", "--role", "x"]],
)
def test_a_misspelt_command_ends_with_2(inside: Any, arguments: list[str]) -> None:
    done = inside(*arguments)
    assert done.exit_code == 2
    assert "Usage: gigagan" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("command", ["pipeline", "train-base", "evaluate"])
def test_an_unknown_preset_is_one_sentence_with_the_nearest_name(inside: Any, command: str) -> None:
    done = inside(command, "--preset", "dmeo")
    assert done.exit_code == 1
    assert "unknown preset 'dmeo'; did you mean 'demo'?" in sentence_of(done)


def test_an_unknown_key_is_one_sentence_with_the_nearest_name(inside: Any) -> None:
    done = inside("pipeline", "--set", "ingest.imagesize=64")
    assert done.exit_code == 1
    assert "unknown key 'ingest.imagesize'; did you mean 'image_size'?" in sentence_of(done)


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("pipeline", "cannot be created"),
        ("store ls", "does not exist; name the folder or URI of one"),
        ("train-base", "cannot be created"),
    ],
)
def test_a_store_out_of_reach_is_one_sentence(
    inside: Any, tmp_path: Path, command: str, sentence: str
) -> None:
    (tmp_path / "file").write_text("")
    done = inside(*command.split(), "--store", str(tmp_path / "file" / "store"))
    assert done.exit_code == 1
    assert sentence in sentence_of(done)


def test_a_stage_without_its_input_says_what_is_missing(inside: Any) -> None:
    done = inside("curate")
    assert done.exit_code == 1
    assert "has no shard set" in sentence_of(done)


def test_json_is_the_only_thing_on_standard_output(gigagan: Any) -> None:
    done = gigagan(code=NOISY)
    assert json.loads(done.stdout) == {"caption": "café \x1b[31m"}
    assert "\x1b" not in done.stdout
    assert done.stderr.splitlines() == ["from print", "from a worker below sys.stdout", "from a child"]


def test_an_error_is_a_sentence_on_standard_error_and_a_document_for_json(gigagan: Any) -> None:
    done = gigagan("--json", code=FAILING)
    assert done.returncode == 1
    assert sentence_of(done) == "caption '[bold]x[/bold] ' is bad; mend it"
    assert json.loads(done.stdout) == {"error": "caption '[bold]x[/bold] ' is bad; mend it"}
    assert gigagan(code=FAILING).stdout == ""


@pytest.mark.parametrize(
    ("how", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("exit", 130), ("garbled", 143)]
)
def test_a_stopped_command_says_that_it_continues(gigagan: Any, how: str, code: int) -> None:
    done = gigagan(how, code=STOPPED)
    assert done.returncode == code
    assert "continues where it was cut off" in done.stderr
    assert "Traceback" not in done.stderr
    assert set(json.loads(done.stdout)) == {"error"}


def test_a_defect_keeps_its_traceback_and_still_answers_in_json(gigagan: Any) -> None:
    done = gigagan("--json", code=FAILING.replace("GigaganError(", "RuntimeError("))
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert json.loads(done.stdout)["error"].startswith("RuntimeError: caption")


def test_presets_say_what_they_are_for(inside: Any) -> None:
    from gigagan_core.config.presets import PRESETS

    shown = inside("presets").stdout
    assert all(name in shown and preset.purpose in shown for name, preset in PRESETS.items())


def test_published_tables_are_whole_and_a_folder_is_never_overwritten(inside: Any, tmp_path: Path) -> None:
    done = inside("data", "publish", "tables", "--limit", "64")
    assert done.exit_code == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == [
        "ATTRIBUTION.txt",
        "heldout",
        "train",
    ]
    again = inside("data", "publish", "tables")
    assert again.exit_code == 1
    assert "is there already" in sentence_of(again)


def test_env_points_a_shell_at_this_home_whatever_its_name(
    inside: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "it's a $(home)"
    monkeypatch.setenv("GIGAGAN_HOME", str(home))
    monkeypatch.setenv("PREFECT_HOME", str(home / "prefect"))
    done = inside("env")
    assert done.exit_code == 0
    names = ("GIGAGAN_HOME", "PREFECT_HOME", "MLFLOW_TRACKING_URI", "PREFECT_API_URL")
    script = done.stdout + "\n".join(f'printf "%s\\n" "${name}"' for name in names)
    shell = subprocess.run(
        ["sh", "-c", script], env={"PATH": "/bin:/usr/bin"}, capture_output=True, text=True
    )
    assert shell.stdout.splitlines() == [str(home), f"{home}/prefect", f"sqlite:///{home}/mlflow.db", ""]
    assert "gigagan ui" in done.stdout  # how to get the server that is missing
