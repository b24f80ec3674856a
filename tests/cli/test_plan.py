"""`gigagan plan`: one document, one table, one sentence."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest

COMMAND = [sys.executable, "-c", "from gigagan_core.cli import main; main()", "plan", "--json"]


def test_one_document_holds_plan_and_assumptions() -> None:
    options = ["--preset", "tiny", "--gpus", "1,2", "--gpu", "h100-80gb", "--mfu", "0.4"]
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["preset"] == "tiny"
    assert document["assumptions"]["mfu"] == 0.4
    assert document["assumptions"]["gpu_memory"] == 80
    assert "data sheet" in document["assumptions"]["source"]
    assert [each["gpus"] for each in document["plans"]] == [1, 2]
    assert "sharded" not in document["plans"][0]
    assert document["plans"][1]["sharded"]["time"]["cost"] > 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--preset", "tiny", "--gpus", "3"], "a batch of 8 does not split over 3 workers"),
        (["--preset", "tiny", "--gpus", "two"], "no list of numbers"),
        (["--preset", "tiny", "--gpu", "h100"], "did you mean 'h100-80gb'"),
        (["--preset", "tiny", "--assume", "margin=0.2"], "unknown key 'margin'"),
        (["--preset", "paper-t2i-64", "--encoder", "ViT-B-32"], "text_dim is 768, but the encoder's"),
        (["--preset", "tiny", "--encoder", "ViT-L-15"], "no architecture 'ViT-L-15'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(inside: Any, arguments: list[str], sentence: str) -> None:
    done = inside("plan", *arguments)
    assert done.exit_code == 1
    assert sentence in done.stderr
    assert done.stdout == ""


def test_a_rehearsal_on_too_small_a_gpu_fails(inside: Any) -> None:
    done = inside("plan", "--preset", "tiny", "--gpus", "2", "--rehearse", "--gpu-memory", "0.01")
    assert done.exit_code == 1
    assert "take more or larger GPUs" in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_papers_model_is_planned_in_minutes() -> None:
    start = time.process_time()
    done = subprocess.run([*COMMAND, "--gpus", "64"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["plans"][0]["replicated"]
    assert found["with_checkpointing"]["largest_micro_batch"] == 8
    assert 4.0 < found["states"]["parameters"] / 2**30 < 4.2
    assert time.process_time() - start < 600
