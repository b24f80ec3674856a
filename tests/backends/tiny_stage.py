"""A stage that writes a word, slowly where it is told to; a job imports it by its name."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from gigagan_core import console
from gigagan_core.config.base import Settings, operational
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise
from gigagan_core.store.artifact import Artifact

SPEC = StageSpec("tiny", kind="shard-set", module="gigagan_core.text")


class TinySettings(Settings):
    word: str = "well"
    seconds: float = operational(0.0)
    end: str = operational("well")
    """well; badly: with a sentence; crash: without a word of ours."""
    ray_task: bool = operational(False)
    """Let a Ray task say the word."""


def run(
    settings: TinySettings, inputs: dict[str, Any], context: RunContext, label: str | None = None
) -> Artifact:
    return materialise(SPEC, settings, inputs, context, produce, label=label)


def produce(work: StageWork) -> Outcome:
    settings: TinySettings = work.settings
    console.note(f"the word is {settings.word}")
    (work.path / "pid").write_text(str(os.getpid()))
    deadline = time.monotonic() + settings.seconds
    while time.monotonic() < deadline and not (work.path / "go").exists():
        time.sleep(0.1)
    if settings.end == "badly":
        raise GigaganError(f"the word {settings.word!r} is bad; choose another")
    if settings.end == "crash":
        print("line before the end", flush=True)
        raise RuntimeError("a defect of ours")
    if settings.ray_task:
        ray = work.ray()

        @ray.remote(num_cpus=0)
        def say(word: str) -> str:
            print(f"a worker says {word}", flush=True)
            time.sleep(1.0)  # Ray collects what workers print now and then
            return word

        ray.get(say.remote(settings.word))
        time.sleep(1.0)
    Path(work.output / "word.txt").write_text(settings.word)
    return Outcome(counts={"in": 1, "out": 1, "rejected": {}})
