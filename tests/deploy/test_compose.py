"""docker/compose.yaml as far as it can be looked at without an engine: nothing of it was started.

Its images are built and started by test_images.py; here it is what it says of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.settings import Settings
from tests.deploy.buildah import ROOT
from tests.servers.aws import ministack

pytestmark = pytest.mark.deploy

DOCKER = ROOT / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: it for name, it in SERVICES.items() if "build" in it}
PRODUCT = {name: it for name, it in OURS.items() if "worker" in it["build"]["dockerfile"]}
ON_AWS = {name: it for name, it in PRODUCT.items() if "environment" in it}


def test_one_container_does_without_a_profile_and_the_roles_have_one() -> None:
    assert [name for name, it in SERVICES.items() if "profiles" not in it] == ["bloomweaver"]
    assert set(ON_AWS) == {"provision", "webhook", "embed", "apply", "sweep"}


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_is_published_beyond_this_machine(name: str) -> None:
    ports = SERVICES[name].get("ports", [])
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []
    assert SERVICES[name].get("network_mode") is None
    assert SERVICES[name].get("privileged") is None


@pytest.mark.parametrize("name", OURS)
def test_a_container_of_ours_can_change_nothing_but_its_volumes(name: str) -> None:
    service = OURS[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", OURS)
def test_what_is_built_exists(name: str) -> None:
    build = OURS[name]["build"]
    assert (DOCKER / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).is_file()


@pytest.mark.parametrize("name", SERVICES)
def test_who_waits_for_health_waits_for_one_that_tells_it(name: str) -> None:
    for other, condition in SERVICES[name].get("depends_on", {}).items():
        if condition["condition"] == "service_healthy":
            assert "healthcheck" in SERVICES[other] or _checks_itself(SERVICES[other]), other
        else:
            assert condition["condition"] == "service_completed_successfully"
            assert other == "provision"


def _checks_itself(service: dict[str, Any]) -> bool:
    return "HEALTHCHECK --" in (ROOT / service["build"]["dockerfile"]).read_text()


@pytest.mark.parametrize("name", SERVICES)
def test_named_volumes_are_declared(name: str) -> None:
    sources = [volume.split(":")[0] for volume in SERVICES[name].get("volumes", [])]
    missing = [source for source in sources if source not in COMPOSE["volumes"]]
    assert [source for source in missing if not (DOCKER / source).is_file()] == []


@pytest.mark.parametrize("name", [name for name in PRODUCT if name != "provision"])
def test_the_product_knows_each_command(name: str) -> None:
    """With --help, that is: parsed, and not carried out."""
    command = [sys.executable, "-m", "common.cli.main", *PRODUCT[name]["command"], "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_each_setting_is_one_of_the_product() -> None:
    known = {f"BLOOMWEAVER_{field.upper()}" for field in Settings.model_fields}
    given = {key for it in ON_AWS.values() for key in it["environment"]}
    assert {key for key in given if key.startswith("BLOOMWEAVER_")} - known == set()


def test_what_is_provisioned_is_what_the_roles_need(tmp_path: Path) -> None:
    """Run twice, as a second `up` does; then every role's own checks of queue, table and bucket."""
    environment = _environment(ministack().url) | {
        "BLOOMWEAVER_DATA_DIR": str(tmp_path),
        "BLOOMWEAVER_INDEX_URL": "qdrant:http://127.0.0.1:9",  # nobody: there is none here
        "BLOOMWEAVER_CHECK_TIMEOUT_SECONDS": "60",
    }
    script = [sys.executable, str(DOCKER / "provision.py")]
    for _ in range(2):
        ended = subprocess.run(
            script, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert ended.returncode == 0, ended.stderr
    doctor = [sys.executable, "-m", "common.cli.main", "doctor", "--json"]
    told = subprocess.run(
        doctor, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    verdicts = {each["name"]: each["verdict"] for each in json.loads(told.stdout)["checks"]}
    assert {name: verdicts[name] for name in ("queue", "registry", "blobs")} == {
        "queue": "fine", "registry": "fine", "blobs": "fine",
    }  # fmt: skip


def _environment(endpoint_url: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "BLOOMWEAVER_"))}
    given = SERVICES["provision"]["environment"] | {"AWS_ENDPOINT_URL": endpoint_url}
    return {**kept, **given, "PYTHONPATH": str(ROOT)}
