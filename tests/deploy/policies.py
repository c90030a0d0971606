"""What is wrong with the policies of a Terraform state, as pure functions of its JSON.

A state is what `terraform show -json` prints (`values.root_module`), or what `terraform test -json
-verbose` tells of a mocked apply (`root_module`); modules have their `child_modules` in them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

IDENTITY = {"aws_iam_role_policy": "policy", "aws_iam_policy": "policy"}
OF_RESOURCES = {
    "aws_sqs_queue_policy": "policy",
    "aws_s3_bucket_policy": "policy",
    "aws_sns_topic_policy": "policy",
    "aws_secretsmanager_secret_policy": "policy",
    "aws_ecr_repository_policy": "policy",
    "aws_kms_key": "policy",
    "aws_vpc_endpoint": "policy",
    "aws_dynamodb_resource_policy": "policy",
}
ATTACHED = {"aws_iam_role_policy_attachment": "policy_arn"}

NEED_TLS = {
    "aws_sqs_queue": ("aws_sqs_queue_policy", "queue_url"),
    "aws_s3_bucket": ("aws_s3_bucket_policy", "bucket"),
    "aws_sns_topic": ("aws_sns_topic_policy", "arn"),
}
"""By type: whose policy has to refuse requests without TLS, and where it names its resource."""

_ALL_THERE_IS = ("*", "sqs:*", "s3:*", "sns:Publish")
"""SNS takes no star in a topic's policy; what others could do with a topic is publish."""

OWN_RESOURCE = ("aws_kms_key", "aws_vpc_endpoint")
"""In their policies a resource `*` is the key, or whatever is reached through the endpoint; who may
use that is still bound by the policies of the callers."""

Statement = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Exempt:
    """A `*` that has to be: an action, or a resource of this action, with its reason."""

    action: str
    reason: str
    address: str = ""
    """Part of the address of the resource whose policy it is; empty: any."""

    def covers(self, address: str, action: str) -> bool:
        return self.action == action and self.address in address


@dataclass(frozen=True, slots=True)
class Resource:
    address: str
    kind: str
    values: Mapping[str, Any]


def resources_of(state: Mapping[str, Any]) -> list[Resource]:
    """Of all modules; data sources are left out."""
    return list(_resources(state.get("values", state)["root_module"]))


def _resources(module: Mapping[str, Any]) -> Iterator[Resource]:
    for found in module.get("resources", ()):
        if found.get("mode", "managed") == "managed":
            yield Resource(found["address"], found["type"], found["values"])
    for child in module.get("child_modules", ()):
        yield from _resources(child)


def findings(
    resources: list[Resource], exempt: tuple[Exempt, ...], attachable: Mapping[str, str]
) -> list[str]:
    """In words, one each. `attachable`: policies of AWS that may be attached, with the reason."""
    return [
        *(told for resource in resources for told in _policy_findings(resource, exempt)),
        *(told for resource in resources for told in _attached(resource, attachable)),
        *_without_tls(resources),
    ]


def unused(resources: list[Resource], exempt: tuple[Exempt, ...]) -> list[Exempt]:
    """Of the exemptions those that nothing needs."""
    wide = [
        (resource.address, action)
        for resource in resources
        for statement in statements(resource)
        for action in _list(statement.get("Action"))
        if "*" in action or any(map(_is_wide, _list(statement.get("Resource"))))
    ]
    return [one for one in exempt if not any(one.covers(*each) for each in wide)]


def statements(resource: Resource) -> list[Statement]:
    """That allow something: of a role's own policies or of a resource's. Trust has none here."""
    return [s for s in _statements(resource, {**IDENTITY, **OF_RESOURCES}) if _allows(s)]


def _policy_findings(resource: Resource, exempt: tuple[Exempt, ...]) -> Iterator[str]:
    for statement in statements(resource):
        for wrong in _wide(resource, statement, exempt):
            yield f"{resource.address}: {wrong}: {json.dumps(statement)}"
    for statement in _statements(resource, {**OF_RESOURCES, "aws_iam_role": "assume_role_policy"}):
        if _allows(statement) and _is_anybody(statement) and resource.kind != "aws_vpc_endpoint":
            yield f"{resource.address}: lets anybody in: {json.dumps(statement)}"


def _wide(resource: Resource, statement: Statement, exempt: tuple[Exempt, ...]) -> Iterator[str]:
    if "NotAction" in statement or "NotResource" in statement:
        yield "allows all but something"
    actions = _list(statement.get("Action"))
    unbound = [a for a in actions if not any(e.covers(resource.address, a) for e in exempt)]
    yield from (f"action {action}" for action in unbound if "*" in action)
    if resource.kind not in OWN_RESOURCE:
        wide = [r for r in _list(statement.get("Resource")) if _is_wide(r)]
        yield from (f"{action} on resource {r}" for action in unbound for r in wide)


def _is_wide(resource: str) -> bool:
    """Whether nothing but perhaps its kind is named: `*`, `…:log-group:*`, `…:table/*`, `…:::*`.
    A part of what has a name is not wide: `…:log-group:NAME:*`, `…:::bucket/*`."""
    *_, service, region, account, named = ["", "", "", *resource.split(":", 5)][-4:]
    kind = "" if service == "s3" and not region + account else "([A-Za-z-]+[:/])?"
    return re.fullmatch(kind + "[*:/]+", named) is not None


def _attached(resource: Resource, attachable: Mapping[str, str]) -> Iterator[str]:
    name = ATTACHED.get(resource.kind)
    if name is None:
        return
    arn = str(resource.values.get(name))
    if ":aws:policy/" in arn and arn not in attachable:
        yield f"{resource.address}: attaches {arn}, of which nobody here decides what it allows"


def _without_tls(resources: list[Resource]) -> Iterator[str]:
    for resource in resources:
        if resource.kind not in NEED_TLS:
            continue
        kind, attribute = NEED_TLS[resource.kind]
        names = {resource.values.get(each) for each in ("id", "url", "bucket", "arn")}
        policies = [
            other for other in resources
            if other.kind == kind and other.values.get(attribute) in names - {None}
        ]  # fmt: skip
        if not any(_refuses_plain(policy) for policy in policies):
            yield f"{resource.address}: no policy refuses requests without TLS"


def _refuses_plain(policy: Resource) -> bool:
    return any(
        statement.get("Effect") == "Deny"
        and _is_anybody({**statement, "Condition": None})
        and statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}
        and any(action in _ALL_THERE_IS for action in _list(statement.get("Action")))
        for statement in _statements(policy, OF_RESOURCES)
    )


def _statements(resource: Resource, where: Mapping[str, str]) -> list[Statement]:
    text = resource.values.get(where.get(resource.kind, ""))
    if not text:
        return []
    found = json.loads(text).get("Statement", [])
    return found if isinstance(found, list) else [found]


def _allows(statement: Statement) -> bool:
    return bool(statement.get("Effect") == "Allow")


def _is_anybody(statement: Statement) -> bool:
    principal = statement.get("Principal")
    named = principal.get("AWS") if isinstance(principal, dict) else principal
    return "*" in _list(named) and not statement.get("Condition")


def _list(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]
