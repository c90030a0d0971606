"""`python -m tests.bench.peers.install`: makes `.venv-peers` from pyproject's group `peers`.

Does nothing when it holds what the group asks for.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from tests.bench.report import progress

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / ".venv-peers"
PYTHON = FOLDER / "bin" / "python"
_INSTALLED = FOLDER / "installed.txt"


def requirements() -> list[str]:
    """pip older than 25.1 reads no dependency groups, so they are read here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [str(requirement) for requirement in project["dependency-groups"]["peers"]]


def install() -> Path:
    """The environment's interpreter. Raises CalledProcessError when pip fails."""
    wanted = "\n".join(requirements())
    if not _INSTALLED.is_file() or _INSTALLED.read_text(encoding="utf-8") != wanted:
        progress(f"peers: installing into {FOLDER.name} (once; a few minutes)")
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER)], check=True)
        pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *requirements()], check=True, stdout=sys.stderr)
        _INSTALLED.write_text(wanted, encoding="utf-8")
    return PYTHON


def versions(names: list[str]) -> dict[str, str]:
    """As they are installed there."""
    code = "import sys, importlib.metadata as m; print(*map(m.version, sys.argv[1:]))"
    done = subprocess.run(
        [str(PYTHON), "-c", code, *names], check=True, capture_output=True, text=True
    )
    return dict(zip(names, done.stdout.split(), strict=True))


if __name__ == "__main__":
    install()
