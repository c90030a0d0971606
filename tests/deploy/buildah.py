"""Builds the images of docker/ where there is no Docker and no registry of images.

buildah and mmdebstrap come from Debian, which takes root; pip inside a build uses the settings of
pip outside. The base image cannot be pulled: a Debian with Python stands in for it, under its name.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BASE_IMAGE = "docker.io/library/python:3.12-slim-bookworm"
PROGRAMS = {"buildah": "buildah", "mmdebstrap": "mmdebstrap"}
BASE_PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"
MINUTES = 60
_KEPT = ("index-url", "extra-index-url", "trusted-host", "proxy", "default-timeout", "timeout")
"""Of pip's settings; its certificates are a file, which the build is given as a secret."""
CA_BUNDLE = "/run/secrets/ca-bundle.pem"


class CannotBuildError(Exception):
    """This machine builds no images; the message says why."""


@dataclass(frozen=True)
class Image:
    """What was built: its root file system, and what its author says of how to start it."""

    name: str
    root: Path
    manifest: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = self.manifest["Docker"]["config"]
        return config

    @cached_property
    def environment(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self.config["Env"])


@dataclass
class Builder:
    """Everything it makes lies in one folder."""

    folder: Path

    @cached_property
    def driver(self) -> str:
        """vfs copies all files for each layer and each container, and works everywhere."""
        known = "\toverlay\n" in Path("/proc/filesystems").read_text()
        return "overlay" if known and _can_lay_over(self.folder / "try") else "vfs"

    @property
    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "STORAGE_DRIVER": self.driver,
            "BUILDAH_ISOLATION": "chroot",
            "CONTAINERS_STORAGE_CONF": str(self.folder / "storage.conf"),
            "TMPDIR": str(self.folder / "tmp"),
        }

    def prepare(self) -> None:
        """Raises CannotBuildError, subprocess.SubprocessError."""
        require_programs()
        (self.folder / "tmp").mkdir()
        (self.folder / "storage.conf").write_text(
            f'[storage]\ndriver = "{self.driver}"\ngraphroot = "{self.folder}/graph"\n'
            f'runroot = "{self.folder}/run"\n'
        )
        policy = {"default": [{"type": "insecureAcceptAnything"}]}
        (self.folder / "policy.json").write_text(json.dumps(policy))
        self._make_base()

    def close(self) -> None:
        """Nothing of it is left."""
        if (self.folder / "policy.json").exists():
            self._run("umount", "--all")
        shutil.rmtree(self.folder)

    def build(self, role: str, **arguments: str) -> Image:
        """Of docker/ROLE.Dockerfile. Raises AssertionError with the end of its log."""
        given = [part for item in arguments.items() for part in ("--build-arg", "=".join(item))]
        name = f"bloomweaver-{role}"
        self._build(name, ROOT / f"docker/{role}.Dockerfile", ROOT, *given, *self._secrets())
        container = self._run("from", "--pull-never", name)
        manifest = json.loads(self._run("inspect", "--type", "image", name))
        return Image(name, Path(self._run("mount", container)), manifest)

    def _make_base(self) -> None:
        context = self.folder / "base"
        context.mkdir()
        command = ["mmdebstrap", "--quiet", "--variant=minbase", "--mode=root"]
        command += [f"--include={BASE_PACKAGES}", "bookworm", str(context / "rootfs.tar")]
        try:
            _checked(command, self._environment)
        except (AssertionError, OSError, subprocess.SubprocessError) as error:
            raise CannotBuildError(f"no base image can be made here: {error}") from error
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        (context / "Dockerfile").write_text(f"FROM scratch\nADD rootfs.tar /\nENV PATH={path}\n")
        self._build(BASE_IMAGE, context / "Dockerfile", context)
        (context / "rootfs.tar").unlink()

    def _build(self, name: str, dockerfile: Path, context: Path, *options: str) -> None:
        # --format docker: the other one has no place for a health check.
        self._run(
            "build", "--format", "docker", "--pull-never", "--layers=false", *options,
            "--file", str(dockerfile), "--tag", name, str(context),
        )  # fmt: skip

    def _run(self, command: str, *arguments: str) -> str:
        signed = command in ("build", "from")
        policy = ["--signature-policy", str(self.folder / "policy.json")] if signed else []
        return _checked(["buildah", command, *policy, *arguments], self._environment)

    def _secrets(self) -> list[str]:
        settings = pip_settings()
        secrets = {}
        if certificates := settings.pop("cert", None):
            secrets["ca-bundle"] = certificates
            settings["cert"] = CA_BUNDLE
        lines = [f"{key} = {value}\n" for key, value in settings.items()]
        file = self.folder / "pip.conf"
        file.touch(mode=0o600)
        file.write_text("".join(["[global]\n", *lines]))
        secrets["pip-conf"] = str(file)
        return [f"--secret=id={name},src={path}" for name, path in secrets.items()]


def pip_settings() -> dict[str, str]:
    """What pip needs to reach its index from here; folders of this machine mean nothing inside."""
    listed = _checked([sys.executable, "-m", "pip", "config", "list"], dict(os.environ))
    found = {}
    for line in listed.splitlines():
        key, _, value = line.partition("=")
        found[key.rpartition(".")[2]] = str(ast.literal_eval(value))
    reached = {key: " ".join(v for v in found[key].split() if not v.startswith("file:"))
               for key in _KEPT if key in found}  # fmt: skip
    certificates = {"cert": found["cert"]} if found.get("cert") else {}
    return {key: value for key, value in (reached | certificates).items() if value}


def require_programs() -> None:
    """Installs what is missing where that can be done. Raises CannotBuildError."""
    missing = [package for package, name in PROGRAMS.items() if not shutil.which(name)]
    if os.geteuid() != 0:
        raise CannotBuildError("buildah needs root here, to mount and to change the root folder")
    if missing and not shutil.which("apt-get"):
        raise CannotBuildError(f"{' and '.join(missing)} missing, and no apt-get to install them")
    try:
        if missing:
            _checked(["apt-get", "update", "-qq"], dict(os.environ))
            options = ["install", "-qq", "--no-install-recommends"]
            noninteractive = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
            _checked(["apt-get", *options, *missing], noninteractive)
        _checked(["unshare", "--mount", "--pid", "--fork", "true"], dict(os.environ))
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        raise CannotBuildError(str(error)) from error


def _can_lay_over(folder: Path) -> bool:
    """Not where the folder itself lies on one, as in many containers."""
    for name in ("lower", "upper", "work", "merged"):
        (folder / name).mkdir(parents=True)
    options = f"lowerdir={folder}/lower,upperdir={folder}/upper,workdir={folder}/work"
    mounting = ["mount", "-t", "overlay", "overlay", "-o", options, str(folder / "merged")]
    # In a mount namespace of its own: nothing has to be taken away.
    tried = subprocess.run(["unshare", "--mount", *mounting], capture_output=True, check=False)
    return tried.returncode == 0


def _checked(command: list[str], environment: dict[str, str]) -> str:
    """What it printed. Raises AssertionError with the end of what it said otherwise."""
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False,
        timeout=10 * MINUTES,
    )  # fmt: skip
    said = f"{ended.stdout}\n{ended.stderr}"[-4000:]
    assert ended.returncode == 0, (
        f"{' '.join(command[:3])} … ended with {ended.returncode}:\n{said}"
    )
    return ended.stdout.strip()
