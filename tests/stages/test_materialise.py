"""A stage's life: found, made, cut off, forced, accepted."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gigagan_core.config.base import Settings, operational
from gigagan_core.errors import GigaganError
from gigagan_core.stages import base
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, StageWork, materialise
from gigagan_core.store.artifact import LOG, MANIFEST, Artifact, ExternalTable
from gigagan_core.store.store import open_store

SPEC = StageSpec("double", kind="shard-set", module="gigagan_core.text")


class DoubleSettings(Settings):
    factor: int = 2
    threads: int = operational(1)


class Calls:
    """A stage's work that counts how often it is done."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, work: StageWork) -> Outcome:
        self.count += 1
        (work.output / "value.json").write_text(json.dumps({"factor": work.settings.factor}))
        return Outcome(counts={"in": 3, "out": 2, "rejected": {"blurred": 1}}, summary={"share": 2 / 3})


@pytest.fixture
def context(tmp_path: Path):
    with RunContext.open(str(tmp_path / "store")) as opened:
        yield opened


def test_the_same_settings_and_inputs_are_made_once(context: RunContext) -> None:
    produce = Calls()
    first = materialise(SPEC, DoubleSettings(), {}, context, produce)
    second = materialise(SPEC, DoubleSettings(threads=8), {}, context, produce)
    assert produce.count == 1
    assert first == second
    assert json.loads((first.path / "value.json").read_text()) == {"factor": 2}
    assert [record.cached for record in context.history] == [False, True]


def test_another_setting_or_another_input_makes_another_artifact(context: RunContext) -> None:
    produce = Calls()
    first = materialise(SPEC, DoubleSettings(), {}, context, produce)
    other_setting = materialise(SPEC, DoubleSettings(factor=3), {}, context, produce)
    other_input = materialise(
        SPEC, DoubleSettings(), {"data": ExternalTable("a", "0" * 64)}, context, produce
    )
    moved_input = materialise(
        SPEC, DoubleSettings(), {"data": ExternalTable("b", "0" * 64)}, context, produce
    )
    assert produce.count == 3
    assert len({first.fingerprint, other_setting.fingerprint, other_input.fingerprint}) == 3
    assert moved_input == other_input


def test_the_manifest_says_what_made_the_artifact(context: RunContext) -> None:
    artifact = materialise(
        SPEC, DoubleSettings(), {"data": ExternalTable("t.parquet", "a" * 64)}, context, Calls()
    )
    manifest = json.loads((artifact.path / "manifest.json").read_text())
    assert manifest["counts"] == {"in": 3, "out": 2, "rejected": {"blurred": 1}}
    assert manifest["inputs"] == {"data": {"uri": "t.parquet", "sha256": "a" * 64}}
    assert manifest["settings"] == {"factor": 2, "threads": 1}
    assert manifest["files"]["value.json"]["bytes"] == 13
    assert manifest["packages"]["torch"]
    assert manifest["wall_seconds"] >= 0


def test_what_is_made_says_why_it_was_not_there_and_what_is_there_says_what_it_is(
    context: RunContext, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    produce = Calls()
    first = materialise(SPEC, DoubleSettings(), {}, context, produce)
    assert "double: not cached: the store has none yet" in capsys.readouterr().err
    materialise(SPEC, DoubleSettings(), {}, context, produce)
    made = first.manifest["created"][:19]
    assert f"double: nothing to do, there is {first.short} (made {made}, 13 bytes)" in capsys.readouterr().err
    materialise(SPEC, DoubleSettings(factor=3), {}, context, produce)
    assert f"setting factor 2 -> 3 (against {first.short} of {made})" in capsys.readouterr().err
    modules = {**first.manifest["code_modules"], "gigagan_core.text": "edited"}
    monkeypatch.setattr(base, "code_digest", lambda module: ("other", modules))
    materialise(SPEC, DoubleSettings(), {}, context, produce)
    assert f"code gigagan_core.text changed (against {first.short}" in capsys.readouterr().err
    context.force = True
    materialise(SPEC, DoubleSettings(), {}, context, produce)
    assert [line.why.partition(":")[0] for line in context.history] == [
        "not cached",
        "",
        "not cached",
        "not cached",
        "forced",
    ]


def test_a_cached_artifact_that_is_removed_at_that_moment_is_made_again(
    context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    produce = Calls()
    first = materialise(SPEC, DoubleSettings(), {}, context, produce)
    touch = context.store.touch

    def removed(artifact: Artifact) -> bool:
        shutil.rmtree(artifact.path)
        return touch(artifact)

    monkeypatch.setattr(context.store, "touch", removed)
    assert materialise(SPEC, DoubleSettings(), {}, context, produce) == first
    assert produce.count == 2


def test_force_makes_a_new_attempt_and_what_depends_on_it_runs_too(context: RunContext) -> None:
    produce, after = Calls(), Calls()
    first = materialise(SPEC, DoubleSettings(), {}, context, produce)
    materialise(SPEC, DoubleSettings(factor=5), {"data": first}, context, after)
    context.force = True
    second = materialise(SPEC, DoubleSettings(), {}, context, produce)
    context.force = False
    materialise(SPEC, DoubleSettings(factor=5), {"data": second}, context, after)
    assert (produce.count, after.count) == (2, 2)
    assert second.fingerprint == first.fingerprint
    assert (first.attempt, second.attempt) == (1, 2)
    assert second.output_digest != first.output_digest
    assert (first.path / "value.json").exists()
    assert context.store.find("double", first.fingerprint) == second


def test_a_code_change_makes_anew_unless_it_is_accepted(context: RunContext, monkeypatch) -> None:
    produce = Calls()
    first = materialise(SPEC, DoubleSettings(), {}, context, produce)
    monkeypatch.setattr(base, "code_digest", lambda module: ("other code", [module]))
    context.accept_code_change = True
    kept = materialise(SPEC, DoubleSettings(), {}, context, produce)
    assert produce.count == 1
    assert kept.output_digest == first.output_digest
    assert kept.manifest["accepted"][0]["code"] == "other code"
    context.accept_code_change = False
    assert materialise(SPEC, DoubleSettings(), {}, context, produce) == first
    monkeypatch.setattr(base, "code_digest", lambda module: ("third code", [module]))
    materialise(SPEC, DoubleSettings(), {}, context, produce)
    assert produce.count == 2


def test_a_failed_stage_leaves_its_work_and_no_artifact(context: RunContext) -> None:
    def fails(work: StageWork) -> Outcome:
        (work.path / "half").write_text("done")
        raise RuntimeError("the middle")

    def continues(work: StageWork) -> Outcome:
        assert (work.path / "half").read_text() == "done"
        return Outcome()

    with pytest.raises(RuntimeError, match="the middle"):
        materialise(SPEC, DoubleSettings(), {}, context, fails)
    assert context.store.artifacts() == []
    artifact = materialise(SPEC, DoubleSettings(), {}, context, continues)
    assert not (Path(context.store.uri) / "_work" / artifact.fingerprint).exists()


def test_rows_that_do_not_add_up_are_never_committed(context: RunContext) -> None:
    with pytest.raises(AssertionError, match="do not add up"):
        materialise(SPEC, DoubleSettings(), {}, context, lambda work: Outcome(counts={"in": 3, "out": 1}))
    assert context.store.artifacts() == []


def test_a_full_disk_is_one_sentence_however_deep_it_stands(context: RunContext) -> None:
    def fills(work: StageWork) -> Outcome:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("task failed") from error

    with pytest.raises(GigaganError, match=r"double: no space left on the disk of .*finished work is kept"):
        materialise(SPEC, DoubleSettings(), {}, context, fills)


def test_a_full_disk_beside_a_remote_store_is_the_one_of_unfinished_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path))

    def fills(work: StageWork) -> Outcome:
        raise OSError(errno.ENOSPC, "No space left on device")

    with (
        RunContext.open("memory://full") as context,
        pytest.raises(GigaganError, match=f"no space left on the disk of {tmp_path} "),
    ):
        materialise(SPEC, DoubleSettings(), {}, context, fills)


def test_a_commit_killed_before_its_rename_is_finished_and_not_repeated(
    context: RunContext, monkeypatch
) -> None:
    produce = Calls()
    monkeypatch.setattr(os, "rename", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        materialise(SPEC, DoubleSettings(), {}, context, produce)
    monkeypatch.undo()
    assert context.store.artifacts() == []
    materialise(SPEC, DoubleSettings(), {}, context, produce)
    assert produce.count == 1
    assert len(context.store.artifacts()) == 1


def test_half_a_manifest_that_a_kill_left_is_no_file_of_the_artifact(context: RunContext) -> None:
    def goes_on_after_a_kill(work: StageWork) -> Outcome:
        (work.output / f".{MANIFEST}.4711").write_text('{"files": {')
        return Calls()(work)

    made = materialise(SPEC, DoubleSettings(), {}, context, goes_on_after_a_kill)
    assert list(made.manifest["files"]) == ["value.json"]
    assert sorted(os.listdir(made.path)) == sorted([LOG, MANIFEST, "value.json"])


SLOW_STAGE = """
import os, sys, time
from gigagan_core.config.base import Settings
from gigagan_core.stages.base import Outcome, RunContext, StageSpec, materialise

def produce(work):
    with open(sys.argv[2], "a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(1.5)
    return Outcome()

with RunContext.open(sys.argv[1]) as context:
    materialise(StageSpec("slow", "shard-set", "gigagan_core.text"), Settings(), {}, context, produce)
"""


def test_two_runs_at_once_make_one_artifact(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SLOW_STAGE, str(tmp_path / "store"), str(tmp_path / "log")]
    runs = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert len((tmp_path / "log").read_text().split()) == 1
    assert len(open_store(str(tmp_path / "store")).artifacts()) == 1


def test_the_lease_of_a_killed_run_is_free(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\n"
            "from gigagan_core.store.store import open_store\n"
            "with open_store(sys.argv[1]).work('f' * 64):\n"
            "    print('held', flush=True)\n"
            "    time.sleep(60)\n",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait(10)
    waits: list[str] = []
    with open_store(str(tmp_path)).work("f" * 64, on_wait=waits.append):
        pass
    assert waits == []


def test_artifacts_are_named_by_prefix_path_or_latest(context: RunContext) -> None:
    first = materialise(SPEC, DoubleSettings(), {}, context, Calls())
    second = materialise(SPEC, DoubleSettings(factor=3), {}, context, Calls())
    store = context.store
    assert store.resolve(first.fingerprint[:10], ("shard-set",)) == first
    assert store.resolve(str(first.path), ("shard-set",)) == first
    assert store.resolve("latest", ("shard-set",)) == second
    assert store.resolve("latest", ("shard-set",), where=lambda artifact: artifact == first) == first
    with pytest.raises(GigaganError, match="has no encoder"):
        store.resolve("latest", ("encoder",), what="encoder")
    with pytest.raises(GigaganError, match="is a shard-set made by double"):
        store.resolve(first.fingerprint[:10], ("encoder",), what="--encoder")
    with pytest.raises(GigaganError, match="gigagan store ls"):
        store.resolve("0123456789ab", ("shard-set",))
    with pytest.raises(GigaganError, match="give an artifact's folder"):
        store.resolve("./nowhere", ("shard-set",))


def test_a_remote_store_commits_by_its_manifest_and_is_read_through_the_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "home"))
    with RunContext.open("memory://bucket/store") as context:
        artifact = materialise(SPEC, DoubleSettings(), {}, context, Calls())
        produce = Calls()
        again = materialise(SPEC, DoubleSettings(), {}, context, produce)
    assert produce.count == 0
    assert again == artifact
    assert artifact.uri.startswith("memory://")
    assert json.loads((artifact.path / "value.json").read_text()) == {"factor": 2}


@pytest.mark.parametrize("force", [False, True])
def test_what_another_machine_has_made_meanwhile_is_taken_unless_forced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    """An object store, where no lease of the other machine is seen."""
    uri = f"memory://bucket/{tmp_path.name}"
    theirs: list[Artifact] = []

    def overtaken(work: StageWork) -> Outcome:
        monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "other"))
        with RunContext.open(uri) as other:
            theirs.append(materialise(SPEC, DoubleSettings(), {}, other, Calls()))
        return Calls()(work)

    monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / "one"))
    with RunContext.open(uri, force=force) as context:
        made = materialise(SPEC, DoubleSettings(), {}, context, overtaken)
    assert theirs[0].attempt == 1
    assert made.attempt == (2 if force else 1)
    assert (made == theirs[0]) is not force


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("/dev/null/store", "cannot be created"),
        ("nonsense://bucket", "give a folder or a URI"),
    ],
)
def test_an_unreachable_store_is_one_sentence(uri: str, sentence: str) -> None:
    with pytest.raises(GigaganError, match=sentence):
        open_store(uri)


def test_an_unreadable_manifest_is_named(context: RunContext) -> None:
    artifact: Artifact = materialise(SPEC, DoubleSettings(), {}, context, Calls())
    (artifact.path / "manifest.json").write_text("{cut")
    with pytest.raises(GigaganError, match=r"manifest\.json is not JSON; remove that folder"):
        context.store.artifacts()
