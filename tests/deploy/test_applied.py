"""What an installation can have, as far as moto knows it, is applied there, read, and destroyed.

moto keeps what it is told and runs nothing, so that nothing is used here: `test_deployed.py` does.
It takes the fleets of workers, which ministack cannot (terraform/README.md, Gaps).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.deploy.cloud import Cloud
from tests.deploy.installations import everything
from tests.servers.aws import fresh_moto

pytestmark = pytest.mark.deploy

NAME = "bloomweaver-prod"
NOT_ON_MOTO = {"kms_key_arn": None, "domain": None, "frontend": None, "monthly_budget_usd": None}
"""terraform/README.md, Gaps; a customer key would have to be there before."""
THROWN_AWAY = {
    "deletion": False,
    "point_in_time_recovery": True,
    "keep_contents": False,
    "secret_recovery_days": 0,
}


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    emulator = fresh_moto()
    variables = (
        everything(NAME)
        | NOT_ON_MOTO
        | {
            "protection": THROWN_AWAY,
            "database": {"deletion_protection": False},
            "emulated": {"redrive_allow_policies": False},
        }
    )
    made = Cloud(emulator.url, "envs/prod", variables)
    try:
        made.apply()
        yield made
    finally:
        emulator.stop()
        shutil.rmtree(emulator.folder, ignore_errors=True)


def test_each_variant_has_a_queue_and_a_group_without_instances(cloud: Cloud) -> None:
    queues = cloud.outputs["queues"]["change_queues"]
    assert set(queues) == {"default", "large", "gpu"}
    found = cloud.client("autoscaling").describe_auto_scaling_groups()["AutoScalingGroups"]
    sizes = {one["AutoScalingGroupName"]: (one["MinSize"], one["DesiredCapacity"]) for one in found}
    assert sizes == {f"{NAME}-worker-{variant}": (0, 0) for variant in queues}


def test_functions_are_told_of_queues_table_and_buckets_that_are_there(cloud: Cloud) -> None:
    environment = _settings_of(cloud, "webhook")
    tables = cloud.client("dynamodb").list_tables()["TableNames"]
    assert environment["BLOOMWEAVER_REGISTRY_URL"].partition(":")[2] in tables
    buckets = [one["Name"] for one in cloud.client("s3").list_buckets()["Buckets"]]
    assert environment["BLOOMWEAVER_BLOBS_URL"].split("/")[2] in buckets
    urls = cloud.client("sqs").list_queues()["QueueUrls"]
    names = {url.rpartition("/")[2] for url in urls}
    told = {value for key, value in environment.items() if key.endswith("_QUEUE_NAME")}
    variants = json.loads(environment["BLOOMWEAVER_EMBEDDING_VARIANTS"])
    assert told | {one["change_queue_name"] for one in variants.values()} <= names


def test_messages_that_fail_end_beside_those_of_their_kind(cloud: Cloud) -> None:
    sqs, made = cloud.client("sqs"), cloud.outputs["queues"]
    for name, queue in {**made["change_queues"], **made["queues"]}.items():
        if "dead_letter" in name:
            continue
        got = sqs.get_queue_attributes(QueueUrl=queue["url"], AttributeNames=["All"])
        policy = json.loads(got["Attributes"]["RedrivePolicy"])
        letters = "intake_dead_letter" if name == "intake" else "dead_letter"
        assert policy["deadLetterTargetArn"] == made["queues"][letters]["arn"]
        assert int(policy["maxReceiveCount"]) == 3


def test_the_landing_zone_tells_the_intake(cloud: Cloud) -> None:
    s3, bucket = cloud.client("s3"), cloud.outputs["landing_bucket"]
    told = s3.get_bucket_notification_configuration(Bucket=bucket)["QueueConfigurations"]
    intake = cloud.outputs["queues"]["queues"]["intake"]["arn"]
    assert {one["QueueArn"] for one in told} == {intake}
    events = {event for one in told for event in one["Events"]}
    removed = {"s3:ObjectRemoved:Delete", "s3:ObjectRemoved:DeleteMarkerCreated"}
    assert events == {"s3:ObjectCreated:*"} | removed


def test_destroy_leaves_nothing(cloud: Cloud) -> None:
    cloud.destroy()
    assert cloud.leftovers() == cloud.before


def _settings_of(cloud: Cloud, role: str) -> dict[str, Any]:
    name = cloud.outputs["functions"][role]
    told = cloud.client("lambda").get_function_configuration(FunctionName=name)
    found: dict[str, Any] = told["Environment"]["Variables"]
    return found
