"""All that one installation needs of an AWS emulator: its queues, its table and its bucket."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from common.adapters.registry.dynamodb_table import definition
from common.aws.clients import AwsClients, shared_clients
from tests.servers.aws import REGION, aws_environment

if TYPE_CHECKING:
    from types_aiobotocore_dynamodb.client import DynamoDBClient
    from types_aiobotocore_s3.client import S3Client
    from types_aiobotocore_sqs.client import SQSClient

WORKED_QUEUES = ("CHANGE", "CREATE", "UPDATE", "DELETE", "INTAKE")
MAX_RECEIVES = 3
VISIBILITY_SECONDS = 300


async def provision(endpoint_url: str, settings: Mapping[str, str]) -> None:
    """`settings`: BLOOMWEAVER_* variables; taken are the names of queues, table and bucket, and
    the receives after which SQS moves a message."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in aws_environment(endpoint_url).items():
            monkeypatch.setenv(name, value)
        clients = shared_clients()
        try:
            await _queues(clients, settings)
            await _table(clients, settings["BLOOMWEAVER_REGISTRY_URL"].partition(":")[2])
            await _bucket(clients, settings["BLOOMWEAVER_BLOBS_URL"].split("/")[2])
        finally:
            await clients.release()


async def _queues(clients: AwsClients, settings: Mapping[str, str]) -> None:
    sqs: SQSClient = await clients.client("sqs")
    kept: Any = {"MessageRetentionPeriod": str(14 * 86400)}
    made = await sqs.create_queue(
        QueueName=settings["BLOOMWEAVER_DEAD_LETTER_QUEUE_NAME"], Attributes=kept
    )
    described = await sqs.get_queue_attributes(
        QueueUrl=made["QueueUrl"], AttributeNames=["QueueArn"]
    )
    redrive = {
        "deadLetterTargetArn": described["Attributes"]["QueueArn"],
        "maxReceiveCount": settings.get("BLOOMWEAVER_MAX_RECEIVES", str(MAX_RECEIVES)),
    }
    attributes = kept | {
        "VisibilityTimeout": str(VISIBILITY_SECONDS),
        "RedrivePolicy": json.dumps(redrive),
    }
    for name in WORKED_QUEUES:
        queue = settings[f"BLOOMWEAVER_{name}_QUEUE_NAME"]
        await sqs.create_queue(QueueName=queue, Attributes=attributes)


async def _table(clients: AwsClients, name: str) -> None:
    dynamodb: DynamoDBClient = await clients.client("dynamodb")
    await dynamodb.create_table(**definition(name))


async def _bucket(clients: AwsClients, name: str) -> None:
    s3: S3Client = await clients.client("s3")
    where: Any = {"LocationConstraint": REGION}
    await s3.create_bucket(Bucket=name, CreateBucketConfiguration=where)
    await s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
