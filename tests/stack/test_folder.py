"""A stack's secrets, ports and programs, without starting any of it."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from gigagan_core.errors import GigaganError
from gigagan_core.servers import HOST
from gigagan_core.stack import programs
from gigagan_core.stack.folder import StackFolder, StackState
from gigagan_core.stack.services import exports, services
from gigagan_core.tracking.process import owner


@pytest.fixture
def folder(tmp_path: Path) -> StackFolder:
    made = StackFolder(tmp_path / "stack")
    made.create()
    return made


def test_secrets_are_ours_alone_and_stay_the_same(folder: StackFolder) -> None:
    first = {path.name: path.read_text() for path in folder.secrets.iterdir()}
    assert set(first) == {"postgres", "ray", "aws"}
    assert stat.S_IMODE(folder.secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.secrets.iterdir()} == {0o600}
    folder.create()
    assert {path.name: path.read_text() for path in folder.secrets.iterdir()} == first
    other = StackFolder(folder.path.with_name("other"))
    other.create()
    assert all(other.secret(name) != first[name] for name in first)


def secret_values(folder: StackFolder) -> list[str]:
    aws = [line.split(" = ")[1] for line in folder.secret("aws").splitlines() if " = " in line]
    return [folder.secret("postgres"), folder.secret("ray"), *aws]


def test_no_secret_is_in_a_command_or_in_what_a_shell_is_told(
    folder: StackFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "DEBIAN_FOLDERS", installed(tmp_path / "15" / "bin").parents[1])
    monkeypatch.setattr("gigagan_core.stack.postgres.unprivileged_user", lambda: None)
    ports = folder.ports()
    wanted = services(folder, ports, Path("/"))
    shown = [word for service in wanted for word in service.command]
    shown += exports(folder, ports, Path("/")).values()
    assert [word for word in shown for secret in secret_values(folder) if secret in word] == []
    assert folder.secret("postgres") in str([service.variables for service in wanted]), "it is handed over"


def test_the_ports_of_last_time_come_first_and_a_taken_one_is_replaced(folder: StackFolder) -> None:
    ports = folder.ports()
    assert len(set(ports.values())) == len(ports)
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        wanted = {**ports, "s3": taken.getsockname()[1]}
        folder.write(StackState(owner(), "/", wanted))
        again = folder.ports()
    assert again["s3"] not in (wanted["s3"], ports["s3"])
    assert {name: port for name, port in again.items() if name != "s3"} == {
        name: port for name, port in ports.items() if name != "s3"
    }


def test_a_stack_whose_supervisor_has_died_is_not_running(folder: StackFolder) -> None:
    folder.write(StackState(owner(), "/", {}))
    assert folder.running() is not None
    folder.write(StackState(owner() + "0", "/", {}))
    assert folder.read() is not None
    assert folder.running() is None
    folder.state_file.write_text("{")
    assert folder.read() is None


def test_ray_gets_a_short_folder_however_long_ours_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / ("deep" * 20)))
    one, other = StackFolder(tmp_path / ("a" * 100)), StackFolder(tmp_path / ("b" * 100))
    assert one.ray != other.ray
    assert len(str(one.ray)) <= 40


def test_a_missing_postgresql_names_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "DEBIAN_FOLDERS", tmp_path)
    with pytest.raises(GigaganError, match="apt-get install postgresql"):
        programs.postgres_programs()


def installed(where: Path) -> Path:
    where.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (where / name).touch(mode=0o755)
    return where


def test_data_are_opened_by_the_version_that_wrote_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(programs, "DEBIAN_FOLDERS", tmp_path)
    older, newer = (installed(tmp_path / version / "bin") for version in ("9", "15"))
    assert programs.postgres_programs() == newer
    data = tmp_path / "data"
    data.mkdir()
    (data / "PG_VERSION").write_text("9\n")
    assert programs.postgres_programs(data) == older
    (data / "PG_VERSION").write_text("14\n")
    with pytest.raises(GigaganError, match="apt-get install postgresql-14"):
        programs.postgres_programs(data)


def test_postgresql_never_runs_as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert programs.unprivileged_user() is None
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(GigaganError, match="apt-get install util-linux"):
        programs.unprivileged_user()
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    known = {"nobody": 65534}
    monkeypatch.setattr("pwd.getpwnam", known.__getitem__)
    assert programs.unprivileged_user() == "nobody"
    known.clear()
    with pytest.raises(GigaganError, match="refuses to run as root"):
        programs.unprivileged_user()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(GigaganError, match="cannot be written"):
        StackFolder(tmp_path / "file" / "stack").create()
