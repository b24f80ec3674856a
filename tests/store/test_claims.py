"""Two machines with one object store: each fills a folder of its own, and what one has committed stays whole."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gigagan_core.store import claims
from gigagan_core.store.artifact import Artifact
from gigagan_core.store.fingerprint import sha256_file
from gigagan_core.store.store import Store, open_store

FINGERPRINT = "f" * 64
FILES = ("a.bin", "b.bin")
Machine = Callable[[str], Store]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """The one store as a machine of this name opens it."""
    uri = f"memory://bucket/{secrets.token_hex(4)}"

    def opened(name: str) -> Store:
        monkeypatch.setenv("GIGAGAN_HOME", str(tmp_path / name))
        return open_store(uri)

    return opened


def commit(store: Store, content: bytes, another: bool = True) -> Artifact:
    with store.work(FINGERPRINT) as folder:
        output = folder / "output"
        output.mkdir(exist_ok=True)
        for name in FILES:
            (output / name).write_bytes(content)
        manifest = {"stage": "ingest", "kind": "shard-set", "fingerprint": FINGERPRINT}
        made = store.commit(output, manifest, another)
        store.discard_work(FINGERPRINT)
        return made


def is_whole(store: Store, artifact: Artifact, tmp_path: Path) -> bool:
    for name, entry in artifact.manifest["files"].items():
        store.fs.get_file(f"{artifact.uri}/{name}", str(tmp_path / name))
        if sha256_file(tmp_path / name) != entry["sha256"]:
            return False
    return set(artifact.manifest["files"]) == set(FILES)


def before_the_first_put(
    monkeypatch: pytest.MonkeyPatch, store: Store, then: Callable[[], Any], cut_off: bool = False
) -> None:
    """cut_off: behind the first put, too."""
    put_file, puts = store.fs.put_file, []

    def putting(source: str, target: str) -> None:
        is_first = not puts
        puts.append(target)
        if is_first:
            then()
        put_file(source, target)
        if is_first and cut_off:
            raise ConnectionError("cut off")

    monkeypatch.setattr(store.fs, "put_file", putting)


def test_what_a_faster_machine_commits_in_the_middle_stays_whole(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow, fast = machine("slow"), machine("fast")
    before_the_first_put(monkeypatch, slow, lambda: commit(fast, b"fast"))
    commit(slow, b"slow")
    both = machine("third").artifacts()
    assert len({each.attempt for each in both}) == len(both) == 2
    assert all(is_whole(fast, each, tmp_path) for each in both)


def test_a_machine_that_is_killed_while_it_writes_spoils_nothing_and_takes_what_is_there(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow, fast = machine("slow"), machine("fast")

    with monkeypatch.context() as patch:
        before_the_first_put(patch, slow, lambda: commit(fast, b"fast"), cut_off=True)
        with pytest.raises(ConnectionError):
            commit(slow, b"slow")
    (found,) = machine("third").artifacts()
    assert is_whole(fast, found, tmp_path)
    assert commit(machine("slow"), b"slow", another=False) == found


def test_what_another_machine_has_made_before_the_first_put_is_taken(
    machine: Machine, tmp_path: Path
) -> None:
    slow, fast = machine("slow"), machine("fast")
    assert slow.find("ingest", FINGERPRINT) is None
    made = commit(fast, b"fast")
    assert commit(slow, b"slow", another=False) == made
    assert is_whole(fast, made, tmp_path)
    assert commit(slow, b"slow").attempt == 2, "forced"


def test_the_same_work_goes_on_in_its_folder_after_a_kill(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = machine("one")

    with monkeypatch.context() as patch:
        before_the_first_put(patch, store, lambda: None, cut_off=True)
        with pytest.raises(ConnectionError):
            commit(store, b"first try")
    again = commit(machine("one"), b"second try")
    assert again.attempt == 1
    assert is_whole(store, again, tmp_path)


def test_an_owner_is_known_again_unless_a_kill_left_half_of_it(tmp_path: Path) -> None:
    one = claims.owner_of(tmp_path)
    assert claims.owner_of(tmp_path) == one
    (tmp_path / ".claim").write_bytes(b"")
    assert len(claims.owner_of(tmp_path)) == len(one)


def test_a_claim_on_a_server_without_conditional_writes(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, folder = machine("one").fs, f"/bucket/{secrets.token_hex(4)}"
    pipe_file = fs.pipe_file

    def plain(path: str, value: bytes, mode: str = "overwrite") -> None:
        if mode == "create":
            raise OSError(errno.ENOSYS, "A header you provided implies functionality that is not implemented")
        pipe_file(path, value)

    monkeypatch.setattr(fs, "pipe_file", plain)
    assert [claims.claim(fs, folder, owner) for owner in (b"one", b"two", b"one")] == [True, False, True]


def test_a_claim_that_cannot_be_written_is_no_other_machines(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = machine("one").fs

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Access Denied")

    monkeypatch.setattr(fs, "pipe_file", refused)
    with pytest.raises(PermissionError):
        claims.claim(fs, f"/bucket/{secrets.token_hex(4)}", b"one")
