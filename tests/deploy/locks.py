"""Reads the files that `make locks` writes."""

from __future__ import annotations

import re
from pathlib import Path

from packaging.requirements import Requirement

HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")


def lines_of(path: Path) -> list[str]:
    """One requirement each, with its hashes; comments left out."""
    kept = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    return [line for line in "\n".join(kept).replace("\\\n", " ").splitlines() if line.strip()]


def requirements_of(path: Path) -> list[Requirement]:
    return [Requirement(line.partition(" --hash=")[0].strip()) for line in lines_of(path)]


def locked(path: Path, *, python: str) -> dict[str, str]:
    """Version by name, of what is installed on Linux with this Python."""
    environment = {
        "python_version": ".".join(python.split(".")[:2]),
        "python_full_version": python,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "os_name": "posix",
    }
    return {
        found.name: str(found.specifier).removeprefix("==")
        for found in requirements_of(path)
        if found.marker is None or found.marker.evaluate(environment)
    }
