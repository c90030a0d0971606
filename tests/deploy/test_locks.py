"""The locks of docker/: hashes for all, versions that pyproject allows, and no address."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.deploy.buildah import ROOT
from tests.deploy.locks import HASH, lines_of, requirements_of

DOCKER = ROOT / "docker"
LOCKS = sorted(DOCKER.glob("requirements-*.txt"))
EXTRAS = {
    "functions": ("functions", "postgres", "qdrant"),
    "worker-cpu": ("postgres", "qdrant"),
    "worker-gpu": ("gpu", "postgres", "qdrant"),
}
# They share their files with those of the extra `gpu`, as pyproject.toml says.
REPLACED = {"worker-gpu": {"fastembed", "onnxruntime"}}


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def versions(role: str) -> dict[str, set[str]]:
    """Some have one for each of several Pythons."""
    found: dict[str, set[str]] = {}
    for requirement in requirements_of(DOCKER / f"requirements-{role}.txt"):
        version = str(requirement.specifier).removeprefix("==")
        found.setdefault(canonicalize_name(requirement.name), set()).add(version)
    return found


def unfit(wanted: Requirement, role: str) -> list[str]:
    locked = versions(role).get(canonicalize_name(wanted.name), set())
    if not locked:
        return [f"{wanted} is not locked"]
    return [f"{wanted}, not {version}" for version in locked if version not in wanted.specifier]


def test_there_is_a_lock_for_each_image() -> None:
    images = {path.name.removesuffix(".Dockerfile") for path in DOCKER.glob("*.Dockerfile")}
    locked = {path.stem.removeprefix("requirements-") for path in LOCKS}
    assert locked == images | {"build"}
    assert set(EXTRAS) == images - {"emulator"}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_each_line_is_one_version_with_hashes(path: Path) -> None:
    lines = lines_of(path)
    assert lines
    assert [line for line in lines if not HASH.search(line)] == []
    assert [
        r for r in requirements_of(path) if not re.fullmatch(r"==[^,*]+", str(r.specifier))
    ] == []


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_names_no_place_to_fetch_from(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"https?://|^-|--(?:index|find|extra|trusted)", text, re.MULTILINE)


@pytest.mark.parametrize("role", EXTRAS)
def test_a_lock_satisfies_the_project(role: str) -> None:
    table = project()["project"]
    listed = [*table["dependencies"]]
    for extra in EXTRAS[role]:
        listed += table["optional-dependencies"][extra]
    wanted = [Requirement(line) for line in listed]
    kept = [each for each in wanted if each.name not in REPLACED.get(role, set())]
    assert [problem for each in kept for problem in unfit(each, role)] == []


def test_the_gpu_lock_leaves_out_what_its_packages_replace() -> None:
    assert REPLACED["worker-gpu"] & set(versions("worker-gpu")) == set()


def test_what_builds_the_project_is_what_it_asks_for() -> None:
    wanted = [Requirement(line) for line in project()["build-system"]["requires"]]
    assert [problem for each in wanted for problem in unfit(each, "build")] == []


def test_the_emulator_is_the_one_of_the_tests() -> None:
    extras = project()["project"]["optional-dependencies"]["dev"]
    (wanted,) = [Requirement(line) for line in extras if line.startswith("ministack")]
    assert unfit(wanted, "emulator") == []
