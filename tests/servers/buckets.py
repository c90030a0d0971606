"""Buckets on the emulators, each test with one of its own."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest

from common.aws.clients import shared_clients
from tests.servers.aws import REGION, use
from tests.servers.process import ServerProcess

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

_numbers = itertools.count(1)


@contextlib.asynccontextmanager
async def s3_client() -> AsyncIterator[S3Client]:
    """What the environment points at; the product's own client, for what tests do beside it."""
    clients = shared_clients()
    try:
        client: S3Client = await clients.client("s3")
        yield client
    finally:
        await clients.release()


@contextlib.asynccontextmanager
async def new_bucket(server: ServerProcess, *, versioned: bool) -> AsyncIterator[str]:
    """The name of an empty bucket, the environment pointing at its server."""
    name = f"bucket-{os.getpid()}-{next(_numbers)}"
    with pytest.MonkeyPatch.context() as monkeypatch:
        use(monkeypatch, server)
        async with s3_client() as s3:
            where: Any = {"LocationConstraint": REGION}
            await s3.create_bucket(Bucket=name, CreateBucketConfiguration=where)
            if versioned:
                await s3.put_bucket_versioning(
                    Bucket=name, VersioningConfiguration={"Status": "Enabled"}
                )
            yield name
