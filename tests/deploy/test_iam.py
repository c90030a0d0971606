"""What each role of an installation may do, and who may use what it makes: read from the state that
an apply with a mocked provider leaves, so that every policy's text is known and no account, no
network and no emulator is needed."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from tests.deploy.installations import everything
from tests.deploy.policies import Exempt, Resource, findings, resources_of, unused
from tests.deploy.terraform import Workspace

pytestmark = pytest.mark.deploy

ENVIRONMENTS = ("envs/dev", "envs/prod")
JOIN_A_NETWORK = "Lambda's own, for functions in a VPC: an interface has no name before it is made"
EXEMPT = (
    *(
        Exempt(f"ec2:{action}", JOIN_A_NETWORK, address="module.function")
        for action in (
            "AssignPrivateIpAddresses",
            "CreateNetworkInterface",
            "DeleteNetworkInterface",
            "DescribeNetworkInterfaces",
            "DescribeSubnets",
            "UnassignPrivateIpAddresses",
        )
    ),
    Exempt("autoscaling:DescribeAutoScalingInstances", "AWS gives it no resource level"),
    Exempt("ecr:GetAuthorizationToken", "AWS gives it no resource level"),
)
BOUNDARY = "arn:aws:iam::123456789012:policy/boundary"
ATTACHABLE: dict[str, str] = {}
"""Policies that AWS keeps, by ARN, and why one is attached."""


@cache
def mocked_state(folder: str) -> tuple[Resource, ...]:
    """Skips, saying so, where there is no Terraform."""
    workspace = Workspace()
    here = workspace.root / folder
    (here / "backend.tf").unlink()
    name = f"bloomweaver-{folder.rpartition('/')[2]}"
    variables = _bounded(name) | {"kms_key_arn": None, "customer_key": True}
    (here / "everything.tftest.hcl").write_text(_MOCKED % _as_hcl(variables))
    done = workspace.run(folder, "test", "-json", "-verbose")
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, [line for line in told if line.get("@level") == "error"]
    (state,) = [line["test_state"] for line in told if line["type"] == "test_state"]
    return tuple(resources_of(state))


def _bounded(name: str) -> dict[str, Any]:
    return everything(name) | {"permissions_boundary_arn": BOUNDARY}


def _as_hcl(variables: dict[str, Any]) -> str:
    return "\n".join(f"  {key} = {json.dumps(value)}" for key, value in variables.items())


_MOCKED = """
mock_provider "aws" {
  source = "../../modules/bloomweaver/tests/mocks"
}

mock_provider "aws" {
  alias  = "us_east_1"
  source = "../../modules/bloomweaver/tests/mocks"
}

variables {
%s
}

run "everything" {
  command = apply
}
"""


@pytest.mark.parametrize("folder", ENVIRONMENTS)
def test_each_policy_names_what_it_allows(folder: str) -> None:
    assert findings(list(mocked_state(folder)), EXEMPT, ATTACHABLE) == []


@pytest.mark.parametrize("folder", ENVIRONMENTS)
def test_no_exemption_is_kept_that_nothing_needs(folder: str) -> None:
    assert unused(list(mocked_state(folder)), EXEMPT) == []


def test_each_function_and_each_fleet_has_a_role_of_its_own() -> None:
    state = mocked_state("envs/dev")
    policies = {
        one.address: one.values["role"] for one in state if one.kind == "aws_iam_role_policy"
    }
    assert len(policies) == len(set(policies.values()))
    beside = {address.partition(".aws_iam_role_policy.")[0] for address in policies}
    functions = [one.address for one in state if one.kind == "aws_lambda_function"]
    fleets = [one.values["name"] for one in state if one.kind == "aws_autoscaling_group"]
    assert (len(functions), len(fleets)) == (7, 3)
    assert {address.partition(".aws_lambda_function.")[0] for address in functions} <= beside
    assert set(fleets) <= set(policies.values())


def test_one_key_encrypts_all_that_can_have_one() -> None:
    """The topic's own key is for installations without one."""
    keys = [one.address for one in mocked_state("envs/dev") if one.kind == "aws_kms_key"]
    assert keys == ["module.bloomweaver.module.key[0].aws_kms_key.this"]


def test_lambda_may_pull_the_image_that_functions_run() -> None:
    (policy,) = (one for one in mocked_state("envs/dev") if one.kind == "aws_ecr_repository_policy")
    assert policy.values["repository"] == "bloomweaver-dev/functions"


def test_each_role_has_the_boundary_that_is_asked_for() -> None:
    roles = {
        one.address: one.values["permissions_boundary"]
        for one in mocked_state("envs/dev")
        if one.kind == "aws_iam_role"
    }
    assert set(roles.values()) == {BOUNDARY}, roles


def test_what_fleets_start_carries_the_installations_tags() -> None:
    told = [
        specification["tags"].get("Installation")
        for one in mocked_state("envs/dev")
        if one.kind == "aws_launch_template"
        for specification in one.values["tag_specifications"]
    ]
    assert told == 9 * ["bloomweaver-dev"], "three fleets: instances, volumes, interfaces"


def test_the_api_lets_the_console_in() -> None:
    (webhook,) = [
        one.values["environment"][0]["variables"]
        for one in mocked_state("envs/dev")
        if one.kind == "aws_lambda_function"
        and one.address.startswith("module.bloomweaver.module.webhook")
    ]
    assert json.loads(webhook["BLOOMWEAVER_CORS_ORIGINS"]) == ["https://mocked.example.com"]


def test_dev_and_prod_differ_in_numbers_only() -> None:
    root = Workspace().root / "envs"
    texts = [
        {path.name: path.read_text() for path in (root / env).glob("*.tf")}
        for env in ("dev", "prod")
    ]
    assert texts[0] == texts[1]
