"""Terraform, run on a copy of terraform/: the source tree stays as it was.

Where terraform or its provider cannot be had, a test that asks for them skips, and the message
names what was not checked. No call reaches an account: the keys are made up, and shared files and
the instance's role are out of sight. For an emulator give AWS_ENDPOINT_URL in `environment`.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

SOURCE = Path(__file__).parents[2] / "terraform"
SCALING_POLICY = Path("common/scaling_policy.json")
"""Which the workers' module reads from the checkout it lies in."""
PROVIDER = Path("registry.terraform.io/hashicorp/aws")
MIRRORS = (
    "/opt/tf-plugins",
    "~/.terraform.d/plugins",
    "~/.terraform.d/plugin-cache",
    "/usr/local/share/terraform/plugins",
    "/usr/share/terraform/plugins",
)
"""Where a provider may lie, beside the folder that TF_PLUGIN_DIR names."""
REGION = "eu-central-1"
OUT_OF_REACH = ("Failed to query available provider packages", "Failed to install provider")
LIMIT_SECONDS = 900
_LEFT_BEHIND = shutil.ignore_patterns(".terraform", "*.tfstate*", "*.tfplan")
_OFFLINE_PROVIDER = """
provider "aws" {
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_requesting_account_id  = true
}
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `terraform test` counted, and all that it said."""

    passed: int
    failed: int
    skipped: int
    output: str


class Workspace:
    """A copy of terraform/. Plans and states lie in it, and go with it when the tests end.

    Folders are named from terraform/ on, such as "modules/sqs". One that calls no module shares
    the installed provider with the others: an installation hashes 700 MB.
    """

    def __init__(self) -> None:
        holder = Path(mkdtemp(prefix="bloomweaver-terraform-"))
        atexit.register(shutil.rmtree, holder, ignore_errors=True)
        self.root = holder / "terraform"
        shutil.copytree(SOURCE, self.root, ignore=_LEFT_BEHIND)
        self.scaling_policy = holder / SCALING_POLICY
        self.scaling_policy.parent.mkdir()
        shutil.copy(SOURCE.parent / SCALING_POLICY, self.scaling_policy)
        self._shared = holder / "shared"
        self._data: dict[str, Path] = {}

    def init(self, folder: str) -> None:
        """Once for each folder. Backends are left out: state is a file in the copy."""
        if folder in self._data:
            return
        data, here = self._data_folder(folder), self.root / folder
        lock = data / "lock.hcl"
        if lock.exists():
            shutil.copy(lock, here / ".terraform.lock.hcl")
        else:
            self._install(folder, data)
            shutil.copy(here / ".terraform.lock.hcl", lock)
        self._data[folder] = data

    def run(
        self, folder: str, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`terraform ARGUMENTS` in an initialised folder, whatever comes of it."""
        self.init(folder)
        return _run(folder, self.root, arguments, self._data[folder], environment or {})

    def validate(self, folder: str) -> list[str]:
        """What is wrong, warnings too (a deprecated argument is one)."""
        told = json.loads(self.run(folder, "validate", "-json").stdout)
        return [
            f"{found['severity']}: {found['summary']}: {found.get('detail', '')}"
            for found in told["diagnostics"]
        ]

    def test(self, folder: str) -> Outcome:
        """`terraform test`, which validates first."""
        done = self.run(folder, "test", "-no-color")
        output = done.stdout + done.stderr
        counts = {what: int(number) for number, what in _COUNTS.findall(output)}
        failed = counts.get("failed", 0) or int(done.returncode != 0)
        return Outcome(counts.get("passed", 0), failed, counts.get("skipped", 0), output)

    def plan_json(
        self,
        folder: str,
        variables: Mapping[str, Any],
        *,
        environment: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """The plan as `terraform show -json` tells it. A module is given a provider that needs no
        network; one that reads data of the account needs an emulator.

        Raises AssertionError with what terraform said.
        """
        self.init(folder)
        here = self.root / folder
        if folder.startswith("modules/"):
            (here / "offline_provider.tf").write_text(_OFFLINE_PROVIDER)
        (here / "given.tfvars.json").write_text(json.dumps(variables))
        planned = ("plan", "-input=false", "-lock=false", "-no-color", "-out=given.tfplan")
        try:
            done = self.run(
                folder, *planned, "-var-file=given.tfvars.json", environment=environment
            )
            assert done.returncode == 0, done.stdout + done.stderr
            shown = self.run(folder, "show", "-json", "given.tfplan", environment=environment)
        finally:
            (here / "offline_provider.tf").unlink(missing_ok=True)
        assert shown.returncode == 0, shown.stderr
        plan: dict[str, Any] = json.loads(shown.stdout)
        return plan

    def _data_folder(self, folder: str) -> Path:
        texts = (path.read_text() for path in (self.root / folder).rglob("*.hcl"))
        roots = (path.read_text() for path in (self.root / folder).glob("*.tf"))
        alone = not any(_CALLS_A_MODULE.search(text) for text in (*texts, *roots))
        data = self._shared if alone else self._shared.parent / folder.replace("/", "-")
        data.mkdir(exist_ok=True)
        return data

    def _install(self, folder: str, data: Path) -> None:
        mirror = provider_mirror()
        where = [f"-plugin-dir={mirror}"] if mirror else []
        arguments = ("init", "-input=false", "-backend=false", "-no-color", *where)
        done = _run(folder, self.root, arguments, data, {})
        if not mirror and any(reason in done.stderr for reason in OUT_OF_REACH):
            pytest.skip(
                "Terraform's provider for AWS is in none of the usual places and cannot be"
                f" fetched: terraform/{folder} was not checked"
            )
        assert done.returncode == 0, done.stdout + done.stderr


_COUNTS = re.compile(r"(\d+) (passed|failed|skipped)")
_CALLS_A_MODULE = re.compile(r'^\s*module(\s+"[^"]+")?\s*\{', re.MULTILINE)


@cache
def workspace() -> Workspace:
    """For whatever leaves no state: initialised once for all tests of this process."""
    return Workspace()


def folders(kind: str) -> list[str]:
    """`kind`: modules or envs."""
    found = {path.parent for path in (SOURCE / kind).glob("*/*.tf")}
    return sorted(str(path.relative_to(SOURCE)) for path in found)


def formatted() -> list[str]:
    """The files that `terraform fmt` would change."""
    done = subprocess.run(
        [program("the format of terraform/"), "fmt", "-check", "-recursive", "-list=true", "."],
        cwd=SOURCE,
        env=_environment(None, {}),
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert not done.stderr, done.stderr
    return done.stdout.split()


def program(unchecked: str) -> str:
    """Skips where there is none. `unchecked`: what is then not checked."""
    found = shutil.which("terraform")
    if found is None:
        pytest.skip(f"terraform is not on this machine: {unchecked} was not checked")
    return found


def provider_mirror() -> Path | None:
    """The folder to give as -plugin-dir; None: terraform looks for itself, with the network."""
    named = os.environ.get("TF_PLUGIN_DIR")
    places = [*([named] if named else []), *MIRRORS]
    candidates = (Path(place).expanduser() for place in places)
    return next((place for place in candidates if (place / PROVIDER).is_dir()), None)


def _run(
    folder: str, root: Path, arguments: Sequence[str], data: Path, given: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program(f"terraform/{folder}"), *arguments],
        cwd=root / folder,
        env=_environment(data, given),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


def _environment(data: Path | None, given: Mapping[str, str]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "TF_")) or name == "TF_PLUGIN_CACHE_DIR"
    }
    configuration = os.environ.get("TF_CLI_CONFIG_FILE", "")
    if Path(configuration).is_file():
        kept["TF_CLI_CONFIG_FILE"] = configuration
    return {
        **kept,
        **({"TF_DATA_DIR": str(data)} if data else {}),
        "TF_IN_AUTOMATION": "1",
        "CHECKPOINT_DISABLE": "1",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        **given,
    }
