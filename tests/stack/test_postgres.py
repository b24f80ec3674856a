"""PostgreSQL alone: what is committed outlives `kill -9`, and the runbook's backup brings it back."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gigagan_core.errors import GigaganError
from gigagan_core.servers import dying_with_parent
from gigagan_core.stack.folder import StackFolder
from gigagan_core.stack.postgres import Postgres
from gigagan_core.stack.programs import postgres_programs
from gigagan_core.stages.ray_session import any_port

from .running import wait_for

pytestmark = pytest.mark.stack


@pytest.fixture
def folder() -> Iterator[StackFolder]:
    home = Path(tempfile.mkdtemp(prefix="gigagan-postgres-"))
    home.chmod(0o711)
    made = StackFolder(home / "stack")
    made.create()
    yield made
    shutil.rmtree(home)


@contextmanager
def serving(folder: StackFolder, stop: int = signal.SIGINT) -> Iterator[tuple[Postgres, int]]:
    port = any_port()
    server = Postgres(folder, port)
    server.prepare()
    with open(folder.log("postgres"), "ab") as log:
        command = dying_with_parent(server.command())
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for("PostgreSQL", server.answers, seconds=60)
        server.create_databases()
        yield server, port
    finally:
        process.send_signal(stop)
        process.wait(60)


def query(folder: StackFolder, port: int, text: str) -> list[Any]:
    import psycopg2

    password = folder.secret("postgres")
    connection = psycopg2.connect(
        host="127.0.0.1", port=port, user="gigagan", password=password, dbname="mlflow"
    )
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(text)
        rows = cursor.fetchall() if cursor.description else []
    connection.close()
    return rows


def test_what_was_committed_outlives_a_kill(folder: StackFolder) -> None:
    with serving(folder, stop=signal.SIGKILL) as (_, port):
        query(folder, port, "create table runs (name text); insert into runs values ('kept')")
    with serving(folder) as (_, port):
        assert query(folder, port, "select name from runs") == [("kept",)]


def test_the_runbooks_dump_restores_what_was_dropped(folder: StackFolder, tmp_path: Path) -> None:
    with serving(folder) as (_, port):
        query(folder, port, "create table runs (name text); insert into runs values ('kept')")
        programs = postgres_programs()
        variables = {**os.environ, "PGPASSWORD": folder.secret("postgres")}
        where = ("-h", "127.0.0.1", "-p", str(port), "-U", "gigagan")
        dump = tmp_path / "mlflow.dump"
        with open(dump, "wb") as output:
            subprocess.run(
                [programs / "pg_dump", *where, "-Fc", "mlflow"], env=variables, stdout=output, check=True
            )
        query(folder, port, "delete from runs; create table later (name text)")
        restore = (programs / "pg_restore", *where, "--clean", "--if-exists", "-d", "mlflow", dump)
        subprocess.run(restore, env=variables, check=True)
        assert query(folder, port, "select name from runs") == [("kept",)]


def test_a_folder_that_its_user_may_not_enter_is_one_sentence(folder: StackFolder) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root's PostgreSQL runs as somebody else")
    folder.path.parent.chmod(0o700)
    with pytest.raises(GigaganError, match=f"may not enter {folder.path.parent}"):
        Postgres(folder, any_port()).prepare()
