"""Doorbells: a process that waits for a queue learns of a send in another one within a millisecond.

Each listener has a FIFO in `<root>/<queue>/`; ringing writes a byte to every FIFO there. A ring
that is lost (the sender died before it) costs only time: whoever waits also looks by itself now
and then.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
from pathlib import Path

from common.ports.errors import PermanentError, TransientError

__all__ = ["Doorbell", "Doorbells"]

_READ_BYTES = 65536


class Doorbell:
    """A listener's FIFO, watched by the running event loop until it is closed."""

    def __init__(self, folder: Path) -> None:
        """Raises PermanentError where the file system has no FIFOs."""
        name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._path = folder / name
        self._loop = asyncio.get_running_loop()
        self._waiters: set[asyncio.Future[None]] = set()
        self.rings = 0
        """How often it was heard; read it before looking for work, give it to wait()."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = _open_fifo(folder / f".{name}", self._path)
        except OSError as error:
            raise PermanentError(
                f"{folder} cannot hold a FIFO ({error.strerror}): "
                "the data folder must be on a local file system of this machine"
            ) from error
        self._loop.add_reader(self._descriptor, self._hear)

    async def wait(self, *, rings: int, timeout_seconds: float) -> None:
        """Return when it rang since `rings` was read, or after `timeout_seconds`."""
        if self.rings != rings:
            return
        waiter: asyncio.Future[None] = self._loop.create_future()
        self._waiters.add(waiter)
        timer = self._loop.call_later(timeout_seconds, _wake, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        self._path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._wake_all()

    def _hear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._descriptor, _READ_BYTES)
        self._wake_all()

    def _wake_all(self) -> None:
        self.rings += 1
        for waiter in self._waiters:
            _wake(waiter)


class Doorbells:
    """The doorbells of all queues: one listener per queue for this process, anyone's to ring."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._listeners: dict[str, Doorbell] = {}
        self._closed = False

    def listen(self, queue: str) -> Doorbell:
        """This process's doorbell of the queue; the first call opens it.

        Raises TransientError once close() was called.
        """
        if self._closed:
            raise TransientError("the doorbells are closed: this process is shutting down")
        if queue not in self._listeners:
            self._listeners[queue] = Doorbell(self._root / queue)
        return self._listeners[queue]

    def ring(self, queue: str) -> None:
        """Wake all who listen to the queue, in any process. Never fails, never blocks."""
        try:
            with os.scandir(self._root / queue) as entries:
                paths = [entry.path for entry in entries if not entry.name.startswith(".")]
        except OSError:
            return  # nobody has listened yet
        for path in paths:
            _ring(path)

    def close(self) -> None:
        self._closed = True
        while self._listeners:
            self._listeners.popitem()[1].close()


def _open_fifo(hidden: Path, path: Path) -> int:
    # It appears under its name only when it can be rung: a ringer takes one without a reader for
    # a dead process's and removes it. Opened for writing too, it never reports an end of file.
    os.mkfifo(hidden, 0o600)
    try:
        descriptor = os.open(hidden, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        hidden.rename(path)
    except OSError:
        hidden.unlink(missing_ok=True)
        raise
    return descriptor


def _ring(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no reader: its process died
            with contextlib.suppress(OSError):
                Path(path).unlink()
        return
    try:
        with contextlib.suppress(OSError):  # EAGAIN: it is full of rings that nobody heard yet
            os.write(descriptor, b"!")
    finally:
        os.close(descriptor)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
