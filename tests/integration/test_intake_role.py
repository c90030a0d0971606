"""`bloomweaver worker intake` as a process: takes files in, drains, says what is set up wrongly."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.adapters.registry.sqlite import SqliteRegistry
from common.aws.clients import shared_clients
from common.model import DocumentKey
from common.storage.data_folder import DataFolder
from tests.servers.aws import aws_environment, ministack
from tests.servers.buckets import new_bucket, s3_client

pytestmark = pytest.mark.slow

PATIENCE_SECONDS = 90.0


def started(folder: Path, **settings: str) -> subprocess.Popen[str]:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("BLOOMWEAVER_")}
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "bloomweaver"), "worker", "intake"],
        env={
            **inherited,
            **aws_environment(ministack().url),
            **{f"BLOOMWEAVER_{name.upper()}": value for name, value in settings.items()},
            "BLOOMWEAVER_DATA_DIR": str(folder),
        },
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


async def test_the_process_takes_files_in_and_drains(tmp_path: Path) -> None:
    async with new_bucket(ministack(), versioned=True) as bucket, s3_client() as s3:
        clients = shared_clients()
        sqs = await clients.client("sqs")
        url = (await sqs.create_queue(QueueName=f"intake-{bucket}"))["QueueUrl"]
        found = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        await s3.put_bucket_notification_configuration(
            Bucket=bucket,
            NotificationConfiguration={
                "QueueConfigurations": [
                    {
                        "QueueArn": found["Attributes"]["QueueArn"],
                        "Events": ["s3:ObjectCreated:*"],
                    }
                ]
            },
        )
        await clients.release()
        await s3.put_object(Bucket=bucket, Key="incoming/docs/a.md", Body=b"# A")
        process = started(
            tmp_path, landing_url=f"s3://{bucket}", intake_queue_name=f"intake-{bucket}"
        )
        try:
            await _until_processed(tmp_path, process)
            process.send_signal(signal.SIGTERM)
            output, _ = await asyncio.to_thread(process.communicate, timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
        page = await s3.list_objects_v2(Bucket=bucket)

    assert process.returncode == 0, output
    assert [entry["Key"] for entry in page["Contents"]] == ["processed/docs/a.md"]


async def test_the_process_finds_what_nobody_told_of(tmp_path: Path) -> None:
    """A bucket that notifies nobody."""
    async with new_bucket(ministack(), versioned=True) as bucket, s3_client() as s3:
        clients = shared_clients()
        sqs = await clients.client("sqs")
        await sqs.create_queue(QueueName=f"intake-{bucket}")
        await clients.release()
        await s3.put_object(Bucket=bucket, Key="incoming/docs/a.md", Body=b"# A")
        process = started(
            tmp_path,
            landing_url=f"s3://{bucket}",
            intake_queue_name=f"intake-{bucket}",
            intake_listing_age_seconds="0",
            intake_listing_interval_seconds="0.2",
        )
        try:
            await _until_processed(tmp_path, process)
            process.send_signal(signal.SIGTERM)
            output, _ = await asyncio.to_thread(process.communicate, timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
        page = await s3.list_objects_v2(Bucket=bucket)

    assert process.returncode == 0, output
    assert [entry["Key"] for entry in page["Contents"]] == ["processed/docs/a.md"]


async def _until_processed(folder: Path, process: subprocess.Popen[str]) -> None:
    registry = SqliteRegistry(DataFolder(folder).registry_path)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while await registry.get(DocumentKey("docs", "a.md")) is None:
        assert process.poll() is None
        assert time.monotonic() < deadline
        await asyncio.sleep(0.1)
    await registry.close()


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "BLOOMWEAVER_LANDING_URL is not set"),
        ({"landing_url": "s3://no-such-bucket-at-all"}, "create it, or check its name"),
        ({"landing_url": "BUCKET", "intake_queue_name": "NoSuchQueue"}, "NoSuchQueue"),
    ],
)
async def test_what_is_set_up_wrongly_is_said_in_a_line(
    settings: dict[str, str], why: str, tmp_path: Path
) -> None:
    async with new_bucket(ministack(), versioned=True) as bucket:
        given = {
            name: value.replace("BUCKET", f"s3://{bucket}") for name, value in settings.items()
        }
        process = started(tmp_path, **given)
        output, _ = await asyncio.to_thread(process.communicate, timeout=PATIENCE_SECONDS)

    assert process.returncode == 2, output
    assert why in output
    assert "Traceback" not in output
