"""An environment of terraform/envs on an emulator of AWS: applied, looked at and destroyed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from botocore.session import get_session

from tests.deploy.terraform import Workspace
from tests.servers.aws import REGION, aws_environment

_EMULATED = """
provider "aws" {
  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_metadata_api_check     = true
}
"""
_UNATTENDED = ("-auto-approve", "-input=false", "-no-color", "-lock=false", "-parallelism=30")
"""The provider waits more than it works."""
INSTALLATION = {"region": REGION, "bucket_suffix": "tests", "alarm_emails": ["ops@example.com"]}


@dataclass
class Cloud:
    """`folder`: envs/dev or envs/prod. State is a file: the backend's bucket is left out."""

    endpoint_url: str
    folder: str
    variables: dict[str, Any]
    workspace: Workspace = field(default_factory=Workspace)
    before: dict[str, list[str]] = field(init=False)
    """What there was already."""

    def __post_init__(self) -> None:
        here = self.workspace.root / self.folder
        (here / "backend.tf").unlink()
        (here / "emulator_override.tf").write_text(_EMULATED)
        self.given: dict[str, Any] = {**INSTALLATION, **self.variables}
        self.before = self.leftovers()

    def apply(self, **more: Any) -> None:
        """What is given stays given, as in a file of variables."""
        self.given |= more
        file = self.workspace.root / self.folder / "installation.auto.tfvars.json"
        file.write_text(json.dumps(self.given))
        self._terraform("apply", *_UNATTENDED)
        self.__dict__.pop("outputs", None)

    def destroy(self) -> None:
        self._terraform("destroy", *_UNATTENDED)

    @cached_property
    def outputs(self) -> dict[str, Any]:
        told = json.loads(self._terraform("output", "-json"))
        return {name: one["value"] for name, one in told.items()}

    def state(self) -> dict[str, Any]:
        shown: dict[str, Any] = json.loads(self._terraform("show", "-json"))
        return shown

    def client(self, service: str) -> Any:
        return get_session().create_client(
            service,
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )

    @property
    def environment(self) -> dict[str, str]:
        return aws_environment(self.endpoint_url)

    def leftovers(self) -> dict[str, list[str]]:
        """What there is, by kind. Before an apply and after its destroy it is the same."""
        return {kind: sorted(listed(self.client)) for kind, listed in _LISTED.items()}

    def _terraform(self, *arguments: str) -> str:
        done = self.workspace.run(self.folder, *arguments, environment=self.environment)
        assert done.returncode == 0, done.stderr[-6000:]
        return done.stdout


Client = Callable[[str], Any]


def _pages(
    service: str, operation: str, members: str, name: str | None
) -> Callable[[Client], Iterator[str]]:
    """`members`: where the answer lists them; `name`: of a member, None where it is a text."""

    def listed(client: Client) -> Iterator[str]:
        opened = client(service)
        answers: Any = [getattr(opened, operation)()]
        if opened.can_paginate(operation):
            answers = opened.get_paginator(operation).paginate()
        for answer in answers:
            for member in answer.get(members, ()):
                if name is None:
                    yield member
                elif member.get("State") != "deleted":  # Endpoints are shown a while longer.
                    yield member[name]

    return listed


_LISTED: Mapping[str, Callable[[Client], Iterator[str]]] = {
    "queues": _pages("sqs", "list_queues", "QueueUrls", None),
    "tables": _pages("dynamodb", "list_tables", "TableNames", None),
    "buckets": _pages("s3", "list_buckets", "Buckets", "Name"),
    "functions": _pages("lambda", "list_functions", "Functions", "FunctionName"),
    "mappings": _pages("lambda", "list_event_source_mappings", "EventSourceMappings", "UUID"),
    "apis": _pages("apigatewayv2", "get_apis", "Items", "ApiId"),
    "roles": _pages("iam", "list_roles", "Roles", "RoleName"),
    "instance profiles": _pages(
        "iam", "list_instance_profiles", "InstanceProfiles", "InstanceProfileName"
    ),
    "log groups": _pages("logs", "describe_log_groups", "logGroups", "logGroupName"),
    "rules": _pages("events", "list_rules", "Rules", "Name"),
    "schedules": _pages("scheduler", "list_schedules", "Schedules", "Name"),
    "alarms": _pages("cloudwatch", "describe_alarms", "MetricAlarms", "AlarmName"),
    "dashboards": _pages("cloudwatch", "list_dashboards", "DashboardEntries", "DashboardName"),
    "topics": _pages("sns", "list_topics", "Topics", "TopicArn"),
    "secrets": _pages("secretsmanager", "list_secrets", "SecretList", "Name"),
    "repositories": _pages("ecr", "describe_repositories", "repositories", "repositoryName"),
    "groups": _pages(
        "autoscaling", "describe_auto_scaling_groups", "AutoScalingGroups", "AutoScalingGroupName"
    ),
    "launch templates": _pages(
        "ec2", "describe_launch_templates", "LaunchTemplates", "LaunchTemplateName"
    ),
    "networks": _pages("ec2", "describe_vpcs", "Vpcs", "VpcId"),
    "endpoints": _pages("ec2", "describe_vpc_endpoints", "VpcEndpoints", "VpcEndpointId"),
    "security groups": _pages("ec2", "describe_security_groups", "SecurityGroups", "GroupId"),
}
