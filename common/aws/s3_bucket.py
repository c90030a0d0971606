"""A bucket: its client, opened at the first call, deadlines by size, and errors in words."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import ClientError as BrokenBodyError
from botocore.exceptions import ClientError

from common.aws.clients import AwsClients, shared_clients
from common.aws.errors import SDK_ERRORS, AwsSetupError, at_start, code_of, transient

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

SLOWEST_BYTES_PER_SECOND = 1024 * 1024
LONGEST_TRANSFER_SECONDS = 900.0
"""However large: also what an upload's date may lie behind its end (`s3_versions`)."""

_MISSING = frozenset({"404", "NoSuchKey", "NoSuchVersion", "NotFound"})
_CHANGED = frozenset(
    {"412", "PreconditionFailed", "409", "ConditionalRequestConflict", "OperationAborted"}
)


def is_missing(error: ClientError) -> bool:
    """Whether there is no object under the key. (A HEAD's answer has no body to name a code.)"""
    return code_of(error) in _MISSING


def is_refused(error: ClientError) -> bool:
    """Whether the request's condition did not hold, or someone wrote at the same moment."""
    return code_of(error) in _CHANGED


def bucket_and_prefix(url: str, variable: str) -> tuple[str, str]:
    """`s3://BUCKET/a/b` is ("BUCKET", "a/b/"). Raises AwsSetupError that names the variable."""
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    prefix = prefix.strip("/")
    plain = not prefix or all(part not in ("", ".", "..") for part in prefix.split("/"))
    if not url.startswith("s3://") or not bucket or not plain:
        raise AwsSetupError(
            f"{variable}={url!r} is not of the form s3://BUCKET or s3://BUCKET/PATH"
        )
    return bucket, f"{prefix}/" if prefix else ""


@dataclass(slots=True)
class Call:
    """`s3` for what is to be done before the deadline."""

    s3: S3Client
    _deadline: asyncio.Timeout
    _timeout_seconds: float

    def allow(self, size_bytes: int) -> None:
        """Count the deadline from now, with the time that so many bytes may take."""
        now = asyncio.get_running_loop().time()
        self._deadline.reschedule(now + seconds_for(size_bytes, self._timeout_seconds))


def seconds_for(size_bytes: int, timeout_seconds: float) -> float:
    return min(timeout_seconds + size_bytes / SLOWEST_BYTES_PER_SECOND, LONGEST_TRANSFER_SECONDS)


class S3Bucket:
    """`kms_key_id` None: encrypted with S3's own keys."""

    def __init__(self, name: str, *, timeout_seconds: float, kms_key_id: str | None = None) -> None:
        self.name = name
        self.timeout_seconds = timeout_seconds
        self._kms_key_id = kms_key_id
        self._clients: AwsClients | None = None

    @contextlib.asynccontextmanager
    async def call(self, doing: str, *, size_bytes: int = 0) -> AsyncIterator[Call]:
        """For one request. `doing` completes 'cannot …'. Raises TransientError, AwsSetupError.

        A body that breaks off while it is read is no error of the SDK's, but of its HTTP client's.
        """
        seconds = seconds_for(size_bytes, self.timeout_seconds)
        try:
            async with asyncio.timeout(seconds) as deadline:
                yield Call(await self._client(), deadline, self.timeout_seconds)
        except (*SDK_ERRORS, BrokenBodyError) as error:
            raise transient(error, f"{doing} (s3://{self.name})") from error

    async def _client(self) -> S3Client:
        if self._clients is None:
            self._clients = shared_clients()
        client: S3Client = await self._clients.client("s3")
        return client

    @property
    def encryption(self) -> dict[str, Any]:
        """What every request that writes an object says of its encryption."""
        if self._kms_key_id is None:
            return {"ServerSideEncryption": "AES256"}
        return {
            "ServerSideEncryption": "aws:kms",
            "SSEKMSKeyId": self._kms_key_id,
            "BucketKeyEnabled": True,
        }

    async def is_versioned(self) -> bool:
        """Not where versioning is suspended: a put replaces there, as in any other bucket."""
        async with self.call("read the bucket's versioning") as call:
            found = await call.s3.get_bucket_versioning(Bucket=self.name)
        return found.get("Status") == "Enabled"

    async def check(self, prefix: str) -> bool:
        """Whether the bucket is versioned. A listing says what is wrong where a HEAD gives a bare
        status, and needs the same permission. Raises PermanentError, TransientError."""
        doing = f"list the bucket {self.name}"
        try:
            async with asyncio.timeout(self.timeout_seconds):
                s3 = await self._client()
                await s3.list_objects_v2(Bucket=self.name, Prefix=prefix, MaxKeys=1)
                doing = f"read whether the bucket {self.name} is versioned"
                found = await s3.get_bucket_versioning(Bucket=self.name)
        except SDK_ERRORS as error:
            raise at_start(error, doing) from error
        return found.get("Status") == "Enabled"

    async def close(self) -> None:
        clients, self._clients = self._clients, None
        if clients is not None:
            await clients.release()
