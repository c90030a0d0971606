"""The check of policies finds what it is for; no Terraform is run here."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.deploy.policies import Exempt, Resource, findings, resources_of, unused

QUEUE = "arn:aws:sqs:eu-central-1:123456789012:bw-change"
PLAIN = {"Bool": {"aws:SecureTransport": "false"}}


def policy(kind: str, *statements: dict[str, Any], **values: Any) -> Resource:
    text = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    name = "assume_role_policy" if kind == "aws_iam_role" else "policy"
    return Resource(f"module.a.{kind}.this", kind, {name: text, **values})


def allow(action: object, resource: object, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def found(*resources: Resource, exempt: tuple[Exempt, ...] = ()) -> list[str]:
    return findings(list(resources), exempt, {"arn:aws:iam::aws:policy/Known": "tried"})


def test_what_names_its_actions_and_resources_is_fine() -> None:
    assert found(policy("aws_iam_role_policy", allow(["sqs:SendMessage"], [QUEUE]))) == []
    inside = [
        "arn:aws:s3:::bw-blobs-1/*",
        "arn:aws:dynamodb:r:1:table/bw/index/*",
        "arn:aws:logs:r:1:log-group:/bw/worker:*",
        "arn:aws:autoscaling:r:1:autoScalingGroup:*:autoScalingGroupName/bw",
    ]
    assert found(policy("aws_iam_policy", allow("s3:GetObject", inside))) == []


@pytest.mark.parametrize(
    "statement",
    [
        allow("*", QUEUE),
        allow(["sqs:SendMessage", "sqs:*"], QUEUE),
        allow("s3:Get*", "arn:aws:s3:::bw-blobs-1/*"),
        allow("sqs:SendMessage", "*"),
        allow("sqs:SendMessage", [QUEUE, "arn:aws:sqs:eu-central-1:123456789012:*"]),
        allow("logs:PutLogEvents", "arn:aws:logs:r:1:log-group:*"),
        allow("dynamodb:Query", "arn:aws:dynamodb:r:1:table/*"),
        allow("s3:GetObject", "arn:aws:s3:::*"),
        allow("s3:GetObject", "arn:aws:s3:::*/*"),
        {"Effect": "Allow", "NotAction": "iam:PassRole", "Resource": QUEUE},
        {"Effect": "Allow", "Action": "sqs:SendMessage", "NotResource": QUEUE},
    ],
)
def test_what_is_wider_is_found(statement: dict[str, Any]) -> None:
    assert len(found(policy("aws_iam_role_policy", statement))) == 1


def test_an_exemption_covers_its_action_and_no_other() -> None:
    token = Exempt("ecr:GetAuthorizationToken", "no resource level")
    wide = policy("aws_iam_role_policy", allow(["ecr:GetAuthorizationToken", "ecr:GetImage"], "*"))
    (told,) = found(wide, exempt=(token,))
    assert "ecr:GetImage on resource *" in told
    elsewhere = Exempt("ecr:GetImage", "of the workers", address="module.workers")
    assert len(found(wide, exempt=(token, elsewhere))) == 1


def test_an_exemption_that_nothing_needs_is_told() -> None:
    token = Exempt("ecr:GetAuthorizationToken", "no resource level")
    assert unused([policy("aws_iam_role_policy", allow("ecr:GetImage", QUEUE))], (token,)) == [
        token
    ]
    assert unused([policy("aws_iam_role_policy", allow(token.action, "*"))], (token,)) == []


def test_a_role_or_resource_that_anybody_may_use_is_found() -> None:
    assert found(policy("aws_iam_role", {"Effect": "Allow", "Principal": {"AWS": "*"}}))
    assert found(policy("aws_sqs_queue_policy", allow("sqs:SendMessage", QUEUE, Principal="*")))
    from_here = {"ArnEquals": {"aws:SourceArn": "arn:aws:s3:::bw-landing-1"}}
    bound = allow("sqs:SendMessage", QUEUE, Principal="*", Condition=from_here)
    assert found(policy("aws_sqs_queue_policy", bound)) == []


def test_policies_of_aws_are_attached_only_if_they_are_known() -> None:
    def attached(name: str) -> Resource:
        arn = f"arn:aws:iam::aws:policy/{name}"
        return Resource("a.b", "aws_iam_role_policy_attachment", {"policy_arn": arn})

    assert found(attached("Known")) == []
    assert "AdministratorAccess" in found(attached("AdministratorAccess"))[0]


REFUSAL = {"Effect": "Deny", "Principal": "*", "Action": "sqs:*", "Condition": PLAIN}


@pytest.mark.parametrize(
    ("changed", "is_enough"),
    [
        ({}, True),
        ({"Principal": {"AWS": "*"}}, True),
        ({"Effect": "Allow"}, False),
        ({"Action": "sqs:SendMessage"}, False),
        ({"Principal": {"AWS": QUEUE}}, False),
        ({"Condition": {"Bool": {"aws:SecureTransport": "true"}}}, False),
    ],
)
def test_a_queue_needs_a_policy_that_refuses_plain_requests(
    changed: dict[str, Any], is_enough: bool
) -> None:
    queue = Resource("aws_sqs_queue.change", "aws_sqs_queue", {"id": "url-1", "url": "url-1"})
    told = found(queue, policy("aws_sqs_queue_policy", REFUSAL | changed, queue_url="url-1"))
    assert ("aws_sqs_queue.change: no policy refuses requests without TLS" in told) != is_enough


def test_the_policy_of_another_queue_does_not_count() -> None:
    queue = Resource("aws_sqs_queue.change", "aws_sqs_queue", {"id": "url-1", "url": "url-1"})
    assert found(queue, policy("aws_sqs_queue_policy", REFUSAL, queue_url="url-2"))


def test_resources_of_all_modules_are_read() -> None:
    def one(address: str) -> dict[str, Any]:
        return {"address": address, "type": "aws_sqs_queue", "mode": "managed", "values": {}}

    inner = {"resources": [one("module.a.module.b.q")]}
    root = {"resources": [one("q")], "child_modules": [{"child_modules": [inner]}]}
    found = resources_of({"values": {"root_module": root}})
    assert [resource.address for resource in found] == ["q", "module.a.module.b.q"]
