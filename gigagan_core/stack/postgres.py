"""PostgreSQL: a data folder with a password, one database for Prefect and one for MLflow."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess

from gigagan_core.errors import GigaganError
from gigagan_core.servers import HOST
from gigagan_core.stack.folder import StackFolder
from gigagan_core.stack.programs import as_user, postgres_programs, unprivileged_user

USER = "gigagan"
DATABASES = ("prefect", "mlflow")


class Postgres:
    """One server of a stack's folder."""

    def __init__(self, folder: StackFolder, port: int):
        self._folder, self._port = folder, port
        self._home = folder.path / "postgres"
        self._data = self._home / "data"
        self._user = unprivileged_user()
        self._programs = postgres_programs(self._data)

    def command(self) -> list[str]:
        """The server, in the foreground, on loopback and without a Unix socket."""
        settings = {
            "listen_addresses": HOST,
            "port": str(self._port),
            "unix_socket_directories": "",
            "max_connections": "100",
            "shared_buffers": "64MB",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return as_user(self._user, [str(self._programs / "postgres"), "-D", str(self._data), *options])

    def prepare(self) -> None:
        """Make the data folder where there is none; one that a kill left half made is made anew."""
        if (self._data / "PG_VERSION").is_file():
            return
        self._home.mkdir(exist_ok=True)
        self._require_reachable()
        making, password = self._home / "making", self._home / "password"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        password.touch(mode=0o600)
        password.write_text(self._folder.secret("postgres"))
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            for path in (self._home, making, password):
                os.chown(path, account.pw_uid, account.pw_gid)
        options = (
            "--username",
            USER,
            "--pwfile",
            str(password),
            "--auth",
            "scram-sha-256",
            "--data-checksums",
        )
        command = [
            str(self._programs / "initdb"),
            "-D",
            str(making),
            *options,
            "-E",
            "UTF8",
            "--locale",
            "C.UTF-8",
        ]
        try:
            done = subprocess.run(
                as_user(self._user, command),
                cwd="/",
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
            )
        finally:
            password.unlink()
        if done.returncode != 0:
            reason = " ".join(done.stderr.split())[-400:]
            raise GigaganError(f"PostgreSQL's data folder {self._data} cannot be made: {reason}")
        os.rename(making, self._data)

    def _require_reachable(self) -> None:
        """Another user must be able to walk to the data."""
        if self._user is None:
            return
        for folder in [self._home, *self._home.parents]:
            if folder != self._home and not folder.stat().st_mode & 0o001:
                raise GigaganError(
                    f"PostgreSQL runs as user {self._user}, who may not enter {folder}; set GIGAGAN_HOME to a folder "
                    "that others may enter, or use another user than root"
                )

    def answers(self) -> bool:
        """Whether it takes our password."""
        import psycopg2

        try:
            self._connect("postgres").close()
        except psycopg2.OperationalError:
            return False
        return True

    def create_databases(self) -> None:
        """Make those that are missing."""
        connection = self._connect("postgres")
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                cursor.execute("select datname from pg_database")
                known = {name for (name,) in cursor.fetchall()}
                for name in DATABASES:
                    if name not in known:
                        cursor.execute(f"create database {name}")
        finally:
            connection.close()

    def url(self, database: str, driver: str) -> str:
        """An SQLAlchemy URL with the password in it: for environments, never for command lines and logs."""
        password = self._folder.secret("postgres")
        return f"postgresql+{driver}://{USER}:{password}@{HOST}:{self._port}/{database}"

    def _connect(self, database: str):
        import psycopg2

        return psycopg2.connect(
            host=HOST,
            port=self._port,
            user=USER,
            password=self._folder.secret("postgres"),
            dbname=database,
            connect_timeout=2,
        )
