"""A server process of a test run: started once, on a free port, ended when the tests end."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp

from tests.acceptance.service import free_port

START_SECONDS = 60.0


class ServerProcess:
    """`command` holds {port}; ready once `GET {url}{probe}` answers with anything.

    `with_children`: it starts processes of its own, which are to end with it.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        probe: str,
        with_children: bool = False,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = Path(mkdtemp(prefix="bloomweaver-server-"))
        self.log = self.folder / "server.log"
        filled = [part.format(port=self.port, folder=self.folder) for part in command]
        self._with_children = with_children
        self._stopped: subprocess.Popen[bytes] | None = None
        given = {
            k: v.format(port=self.port, folder=self.folder) for k, v in (environment or {}).items()
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                filled,
                env={**_inherited(), **given},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=with_children,
            )
        atexit.register(self.stop)
        self._wait(self.url + probe)

    def stop(self) -> None:
        if self._stopped is self.process:
            return
        self._stopped = self.process  # it may be started again, as another one
        if self._with_children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        elif self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def _wait(self, url: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not _answers(url):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        return True
    except OSError:
        return False
    return True


def _inherited() -> dict[str, str]:
    """Without what would send a server's own SDK to another server."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "BLOOMWEAVER_"))}
