"""Makes on an emulator of AWS what compose.yaml's profile `aws` works with: queues, table, bucket.

For a fresh emulator, and only for that: what is deployed is made by Terraform. Run again it changes
nothing. Needs AWS_ENDPOINT_URL and the BLOOMWEAVER_* settings of the roles.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

from botocore.exceptions import ClientError

from common.adapters.registry.dynamodb_table import definition
from common.aws.clients import AwsClients, shared_clients
from common.settings import Settings

RETENTION_SECONDS = 14 * 86400
VISIBILITY_SECONDS = 300
MAX_RECEIVES = 3
THERE_ALREADY = frozenset({"ResourceInUseException", "BucketAlreadyOwnedByYou"})


async def provision(settings: Settings) -> None:
    """Raises botocore's errors."""
    clients = shared_clients()
    try:
        await queues(clients, settings)
        await table(clients, settings.registry_url.partition(":")[2])
        await bucket(clients, settings.blobs_url.split("/")[2])
    finally:
        await clients.release()


async def queues(clients: AwsClients, settings: Settings) -> None:
    sqs = await clients.client("sqs")
    kept = {"MessageRetentionPeriod": str(RETENTION_SECONDS)}
    made = await sqs.create_queue(QueueName=settings.dead_letter_queue_name, Attributes=kept)
    wanted: Any = {"QueueUrl": made["QueueUrl"], "AttributeNames": ["QueueArn"]}
    arn = (await sqs.get_queue_attributes(**wanted))["Attributes"]["QueueArn"]
    redrive = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": MAX_RECEIVES})
    attributes = kept | {"VisibilityTimeout": str(VISIBILITY_SECONDS), "RedrivePolicy": redrive}
    for kind in ("change", "create", "update", "delete"):
        name = getattr(settings, f"{kind}_queue_name")
        await sqs.create_queue(QueueName=name, Attributes=attributes)


async def table(clients: AwsClients, name: str) -> None:
    dynamodb = await clients.client("dynamodb")
    await unless_there(dynamodb.create_table(**definition(name)))


async def bucket(clients: AwsClients, name: str) -> None:
    s3 = await clients.client("s3")
    where = {"LocationConstraint": os.environ["AWS_REGION"]}
    await unless_there(s3.create_bucket(Bucket=name, CreateBucketConfiguration=where))
    await s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})


async def unless_there(creating: Any) -> None:
    try:
        await creating
    except ClientError as error:
        if error.response["Error"]["Code"] not in THERE_ALREADY:
            raise


if __name__ == "__main__":
    if "AWS_ENDPOINT_URL" not in os.environ:
        sys.exit("AWS_ENDPOINT_URL is not set: this is for an emulator, Terraform is for AWS")
    asyncio.run(provision(Settings()))
