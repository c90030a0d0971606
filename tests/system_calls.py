"""Watches the system calls with which a program makes data durable, as strace would.

    python tests/system_calls.py EVENTS.jsonl NEEDLE -- program argument …

runs the program to its end and writes one line of JSON for each write, sync and rename of any of
its threads (not of its child processes). It needs Linux (5.3) and nothing else: a process may
always trace its own children, unless the machine forbids it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_TRACEME, _SETOPTIONS, _SYSCALL, _GET_SYSCALL_INFO = 0, 0x4200, 24, 0x420E
_SYSGOOD, _FOLLOW_THREADS, _TELL_EXEC, _EXIT_KILL = 0x1, 0x8, 0x10, 0x100000
_SYSCALL_STOP = signal.SIGTRAP | 0x80
_ENTRY, _EXIT = 1, 2
_WALL = 0x40000000
_DATA_BYTES = 40

SYNCS = ("fsync", "fdatasync", "msync")

_CALLS = {
    0xC000003E: {  # x86-64
        1: "write", 18: "pwrite64", 20: "writev", 44: "sendto", 46: "sendmsg", 26: "msync",
        74: "fsync", 75: "fdatasync", 82: "rename", 264: "renameat", 316: "renameat2",
    },
    0xC00000B7: {  # aarch64
        64: "write", 68: "pwrite64", 66: "writev", 206: "sendto", 211: "sendmsg", 227: "msync",
        82: "fsync", 83: "fdatasync", 38: "renameat", 276: "renameat2",
    },
}  # fmt: skip
"""By the kernel's name for the architecture, then by number."""


@dataclass(slots=True)
class Call:
    """One system call that succeeded. `began` and `ended` order the calls of all threads."""

    name: str
    path: str
    """The file of its descriptor, or the new name of a rename."""
    began: int
    ended: int = 0
    holds: bool = False
    """The needle is in the data of a write; or in the file, at the moment a sync began."""
    data: str = ""
    """Of a write: how it begins, as Latin-1."""


class _Info(ctypes.Structure):
    """struct ptrace_syscall_info; `values` are the number and the arguments, or the result."""

    _fields_ = (
        ("stop", ctypes.c_uint8),
        ("padding", ctypes.c_uint8 * 3),
        ("architecture", ctypes.c_uint32),
        ("pointers", ctypes.c_uint64 * 2),
        ("values", ctypes.c_uint64 * 8),
    )


class Tracer:
    """Runs one program. The thread that calls run() is its tracer."""

    def __init__(self, needle: bytes) -> None:
        self.calls: list[Call] = []
        self._needle = needle
        self._clock = 0
        self._under_way: dict[int, Call] = {}
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._libc.ptrace.argtypes = (
            ctypes.c_long,
            ctypes.c_long,
            ctypes.c_void_p,
            ctypes.c_void_p,
        )
        self._libc.ptrace.restype = ctypes.c_long

    def run(self, command: Sequence[str]) -> int:
        """Its exit code. SIGTERM to this process goes on to the program."""
        program = os.fork()
        if program == 0:
            self._ptrace(_TRACEME, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            os.execvp(command[0], list(command))  # noqa: S606 - it is what this is for
        signal.signal(signal.SIGTERM, lambda *_: os.kill(program, signal.SIGTERM))
        os.waitpid(program, _WALL)
        options = _SYSGOOD | _FOLLOW_THREADS | _TELL_EXEC | _EXIT_KILL
        self._ptrace(_SETOPTIONS, program, 0, options)
        self._ptrace(_SYSCALL, program)
        return self._follow(program)

    def _follow(self, program: int) -> int:
        known = {program}
        while True:
            thread, status = os.waitpid(-1, _WALL)
            if os.WIFSTOPPED(status):
                new = thread not in known
                known.add(thread)
                self._go_on(thread, self._signal_to_pass_on(thread, status, new=new))
            elif thread == program:
                return os.waitstatus_to_exitcode(status)

    def _signal_to_pass_on(self, thread: int, status: int, *, new: bool) -> int:
        number = os.WSTOPSIG(status)
        if number == _SYSCALL_STOP:
            self._note(thread)
            return 0
        is_event = status >> 16 != 0
        return 0 if is_event or (new and number == signal.SIGSTOP) else number

    def _go_on(self, thread: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # killed in the meantime
            self._ptrace(_SYSCALL, thread, 0, number)

    def _note(self, thread: int) -> None:
        info = _Info()
        try:
            size = ctypes.sizeof(info)
            self._ptrace(_GET_SYSCALL_INFO, thread, size, ctypes.addressof(info))
        except ProcessLookupError:
            return
        self._clock += 1
        if info.stop == _ENTRY:
            name = _CALLS[info.architecture].get(info.values[0])
            if name is not None:
                self._under_way[thread] = self._call(thread, name, list(info.values[1:7]))
        elif info.stop == _EXIT and (call := self._under_way.pop(thread, None)):
            call.ended = self._clock
            if ctypes.c_int64(info.values[0]).value >= 0:
                self.calls.append(call)

    def _call(self, thread: int, name: str, arguments: list[int]) -> Call:
        memory = _Memory(thread)
        if name.startswith("rename"):
            new_name = arguments[1] if name == "rename" else arguments[3]
            return Call(name, memory.text(new_name), self._clock)
        if name == "msync":
            return Call(name, memory.file_at(arguments[0]), self._clock)
        path = memory.file_of(arguments[0])
        if name in {"fsync", "fdatasync"}:
            return Call(name, path, self._clock, holds=self._is_in(Path(path)))
        data = b"".join(memory.written(name, arguments))
        start = data[:_DATA_BYTES].decode("latin-1")
        return Call(name, path, self._clock, holds=self._needle in data, data=start)

    def _is_in(self, path: Path) -> bool:
        return path.is_file() and self._needle in path.read_bytes()

    def _ptrace(self, request: int, thread: int, address: int = 0, data: int = 0) -> None:
        if self._libc.ptrace(request, thread, address, data) == -1:
            number = ctypes.get_errno()
            raise OSError(number, f"ptrace: {os.strerror(number)}")


class _Memory:
    """What a stopped thread's pointers and descriptors mean."""

    def __init__(self, thread: int) -> None:
        self._folder = Path(f"/proc/{thread}")

    def file_of(self, descriptor: int) -> str:
        try:
            return str((self._folder / "fd" / str(ctypes.c_int32(descriptor).value)).readlink())
        except OSError:
            return ""

    def file_at(self, address: int) -> str:
        for line in (self._folder / "maps").read_text().splitlines():
            first, _, rest = line.partition("-")
            if int(first, 16) <= address < int(rest.split()[0], 16):
                return line.partition("/")[1] + line.partition("/")[2]
        return ""

    def text(self, address: int) -> str:
        return os.fsdecode(self._read(address, 4096).partition(b"\0")[0])

    def written(self, name: str, arguments: list[int]) -> Iterator[bytes]:
        if name in {"write", "pwrite64", "sendto"}:
            yield self._read(arguments[1], arguments[2])
            return
        table, count = arguments[1], arguments[2]
        if name == "sendmsg":
            _, _, table, count = self._numbers(arguments[1], 4)
        for place in range(min(count, 1024)):
            address, size = self._numbers(table + 16 * place, 2)
            yield self._read(address, size)

    def _numbers(self, address: int, count: int) -> list[int]:
        raw = self._read(address, 8 * count)
        return [int.from_bytes(raw[8 * i : 8 * i + 8], sys.byteorder) for i in range(count)]

    def _read(self, address: int, size: int) -> bytes:
        with (self._folder / "mem").open("rb", buffering=0) as memory:
            memory.seek(address)
            data = b""
            while len(data) < size:
                try:
                    part = memory.read(min(size - len(data), 1 << 20))
                except OSError:  # the mapping ends here
                    return data
                data += part
            return data


def main(arguments: Sequence[str]) -> int:
    events, needle, _, *command = arguments
    tracer = Tracer(needle.encode())
    code = tracer.run(command)
    lines = [json.dumps(asdict(call)) + "\n" for call in tracer.calls]
    Path(events).write_text("".join(lines))
    return code


def read_calls(events: Path) -> list[Call]:
    """In the order in which they ended."""
    found: list[dict[str, Any]] = [json.loads(line) for line in events.read_text().splitlines()]
    return [Call(**fields) for fields in found]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
