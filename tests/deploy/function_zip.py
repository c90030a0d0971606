"""The functions' code as a zip, for an emulator that runs it with the packages of its Python."""

from __future__ import annotations

import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("common", "webhook", "workers")


def function_zip(path: Path) -> Path:
    """Sources alone: on AWS the packages that they import would have to be in it, too."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for package in PACKAGES:
            for file in sorted((ROOT / package).rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    archive.write(file, file.relative_to(ROOT))
    return path
