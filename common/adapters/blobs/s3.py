"""Blobs as objects of an S3 bucket, encrypted, below a prefix: `s3://BUCKET/PREFIX`.

Keys below the prefix are those of `common.identity` (raw/…, packs/…), so that lifecycle rules can
go by prefix. In a versioned bucket unreferenced blobs are collected by version; rules that expire
noncurrent versions and abandoned uploads keep it small. In one that is not versioned nothing can be
collected without the risk of undoing a put, so nothing is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import structlog
from botocore.exceptions import ClientError

from common.adapters.blobs.s3_upload import (
    PART_BYTES,
    SHA256_FIELD,
    Content,
    put,
    put_if_absent,
    put_in_parts,
    sha256_of,
)
from common.aws.s3_bucket import S3Bucket, bucket_and_prefix, is_missing
from common.aws.s3_listing import Found, pages
from common.aws.s3_versions import (
    Version,
    delete_objects,
    delete_versions,
    newest_of,
    older_than,
    versions_of,
)
from common.blob_keys import segments_of
from common.ports.blobs import BlobInfo, BlobNotFoundError
from common.settings import Settings

__all__ = ["S3BlobStore"]

log = structlog.get_logger(__name__)

PUTS_AT_ONCE = 32
"""The others wait without a deadline running, and leave connections to reads."""
LOOKS_AT_ONCE = 16


class S3BlobStore:
    """Implements BlobStore and Checkable. Other processes may use the bucket too.

    Raises ValueError for a key that is no plain relative path of printable ASCII segments.
    """

    def __init__(self, bucket: S3Bucket, prefix: str = "") -> None:
        """`prefix` is empty or ends with a slash. The bucket is closed with the store."""
        self._bucket = bucket
        self._prefix = prefix
        self._puts = asyncio.Semaphore(PUTS_AT_ONCE)
        self._told = False

    async def close(self) -> None:
        await self._bucket.close()

    async def check(self) -> str:
        versioned = await self._bucket.check(self._prefix)
        where = f"s3://{self._bucket.name}/{self._prefix}"
        return f"{where}: {'versioned' if versioned else _NOT_COLLECTED}"

    async def put(self, key: str, data: bytes) -> bool:
        name = self._name(key)
        content = await Content.of(data)
        async with self._puts:
            if len(data) > PART_BYTES:
                known = await self._holds(name, content)
                await put_in_parts(self._bucket, name, content)
                return not known
            if await put_if_absent(self._bucket, name, content):
                return True
            known = await self._holds(name, content)
            await put(self._bucket, name, content)
            return not known

    async def get(self, key: str) -> bytes:
        """Read once more when it does not arrive as it was sent. What is stored damaged is
        returned: its reader knows what it should be, and has it made again."""
        name = self._name(key)
        data, sha256 = await self._read(key, name)
        if sha256 and (await sha256_of(data)).hex() != sha256:
            log.warning("blob.damaged", blob=key)
            data, _ = await self._read(key, name)
        return data

    async def exists(self, key: str) -> bool:
        return await self._head(self._name(key)) is not None

    async def delete(self, keys: Sequence[str]) -> None:
        await delete_objects(self._bucket, [{"Key": self._name(key)} for key in keys])

    async def delete_if_older(self, keys: Sequence[str], *, before: float) -> int:
        names = [self._name(key) for key in keys]
        if not names or not await self._may_collect():
            return 0
        places = asyncio.Semaphore(LOOKS_AT_ONCE)
        found = await asyncio.gather(*(self._older(name, before, places) for name in names))
        await delete_versions(self._bucket, [version for versions in found for version in versions])
        newest = [newest_of(versions) for versions in found]
        return sum(version is not None and not version.marker for version in newest)

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        start = prefix.rstrip("/")
        if start and not prefix.endswith("/") and (itself := await self._first(self._name(start))):
            yield self._info(itself)
        below = f"{self._name(start)}/" if start else self._prefix
        async for page in pages(self._bucket, below):
            for found in page:
                yield self._info(found)

    def _name(self, key: str) -> str:
        segments_of(key)
        return self._prefix + key

    def _info(self, found: Found) -> BlobInfo:
        return BlobInfo(found.key.removeprefix(self._prefix), found.size_bytes, found.put_by)

    async def _first(self, name: str) -> Found | None:
        """The object of just this name: the first of all that begin with it."""
        async for page in pages(self._bucket, name):
            return page[0] if page and page[0].key == name else None
        return None

    async def _read(self, key: str, name: str) -> tuple[bytes, str]:
        """The bytes and the SHA-256 that was stored with them, hex; empty if there is none."""
        async with self._bucket.call(f"read {name}") as call:
            try:
                answer = await call.s3.get_object(Bucket=self._bucket.name, Key=name)
            except ClientError as error:
                if is_missing(error):
                    raise BlobNotFoundError(f"there is no blob {key}") from error
                raise
            call.allow(answer["ContentLength"])
            async with answer["Body"] as body:
                return await body.read(), answer["Metadata"].get(SHA256_FIELD, "")

    async def _head(self, name: str) -> tuple[int, str] | None:
        """Size and stored SHA-256."""
        async with self._bucket.call(f"look at {name}") as call:
            try:
                found = await call.s3.head_object(Bucket=self._bucket.name, Key=name)
            except ClientError as error:
                if is_missing(error):
                    return None
                raise
        return found["ContentLength"], found["Metadata"].get(SHA256_FIELD, "")

    async def _holds(self, name: str, content: Content) -> bool:
        """Whether the very same bytes are there."""
        found = await self._head(name)
        if found is None or found[0] != len(content.data):
            return False
        if found[1]:
            return found[1] == content.sha256_hex
        try:
            return (await self._read(name, name))[0] == content.data
        except BlobNotFoundError:
            return False

    async def _may_collect(self) -> bool:
        """Asked anew each time: where versioning was suspended meanwhile, a put replaces."""
        if await self._bucket.is_versioned():
            return True
        if not self._told:
            self._told = True
            log.warning("blobs.not_collected", bucket=self._bucket.name, why=_NOT_COLLECTED)
        return False

    async def _older(
        self, name: str, before: float, places: asyncio.Semaphore
    ) -> Sequence[Version]:
        async with places:
            return older_than(await versions_of(self._bucket, name), before)


_NOT_COLLECTED = (
    "not versioned, so that blobs which nothing refers to are never deleted: turn the bucket's "
    "versioning on"
)


def connect(url: str, settings: Settings, receiver: str) -> S3BlobStore:
    """Raises AwsSetupError."""
    bucket, prefix = bucket_and_prefix(url, "BLOOMWEAVER_BLOBS_URL")
    return S3BlobStore(
        S3Bucket(
            bucket,
            timeout_seconds=settings.request_timeout_seconds,
            kms_key_id=settings.blobs_kms_key_id,
        ),
        prefix,
    )
