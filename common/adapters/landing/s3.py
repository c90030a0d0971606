"""The landing zone in an S3 bucket: `s3://BUCKET` or `s3://BUCKET/PREFIX`.

Objects are put under incoming/ and move to processed/ or failed/. The bucket is to notify the
intake queue of ObjectCreated:* under incoming/ and of ObjectRemoved:* under processed/; others do
no harm and cost a look each, and what a lifecycle rule expires deletes no document. It should be
versioned: where it is not, a file that is put again with the same bytes just while it is moved
cannot be told from the one that is moved.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from common.aws.s3_bucket import S3Bucket, bucket_and_prefix, is_missing, is_refused
from common.aws.s3_listing import Found, pages
from common.aws.s3_versions import delete_versions, newest_of, versions_of
from common.landing import key_of, longest_name_bytes, notices_in, reason_key, waiting_name
from common.ports.landing import (
    Area,
    LandedObject,
    MovedOnError,
    Notice,
    Places,
    TooLargeToMoveError,
)
from common.settings import Settings

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import HeadObjectOutputTypeDef

__all__ = ["S3Landing"]

MAX_COPY_BYTES = 5 * 1024**3
"""Of one request. No limit for documents comes near it."""


class S3Landing:
    """Implements Landing and Checkable."""

    def __init__(self, bucket: S3Bucket, prefix: str = "") -> None:
        """`prefix` is empty or ends with a slash. The bucket is closed with the landing zone."""
        self._bucket = bucket
        self._prefix = prefix

    async def close(self) -> None:
        await self._bucket.close()

    async def check(self) -> str:
        versioned = await self._bucket.check(self._key(Area.INCOMING, ""))
        kept = "versioned" if versioned else "not versioned, which it should be"
        return f"s3://{self._bucket.name}/{self._prefix}: {kept}"

    @property
    def longest_name_bytes(self) -> int:
        return longest_name_bytes(self._prefix)

    def notices_in(self, message: str) -> list[Notice]:
        return notices_in(message, self._bucket.name, self._prefix)

    async def look(self, name: str) -> Places:
        # Incoming first: what is being moved is copied before it is removed there, so that whoever
        # no longer finds it there finds it where it went.
        incoming = await self._head(self._key(Area.INCOMING, name))
        processed, failed = await asyncio.gather(
            *(self._head(self._key(area, name)) for area in (Area.PROCESSED, Area.FAILED))
        )
        return Places(incoming=incoming, processed=processed, failed=failed)

    async def read(self, name: str, area: Area, seen: LandedObject) -> bytes:
        key = self._key(area, name)
        async with self._bucket.call(f"read {key}", size_bytes=seen.size_bytes) as call:
            try:
                answer = await call.s3.get_object(
                    Bucket=self._bucket.name, Key=key, IfMatch=seen.etag
                )
            except ClientError as error:
                if _has_moved_on(error):
                    raise MovedOnError(f"{key} is not what it was") from error
                raise
            async with answer["Body"] as body:
                return await body.read()

    async def move(
        self, name: str, seen: LandedObject, to: Area, *, replacing: LandedObject | None
    ) -> str | None:
        if seen.size_bytes > MAX_COPY_BYTES:
            raise TooLargeToMoveError(f"{name} is larger than S3 copies in one request")
        try:
            revision = await self._copy(name, seen, to, replacing)
        except MovedOnError:
            return None
        await self._remove(self._key(Area.INCOMING, name), seen)
        return revision

    async def explain(self, name: str, reason: bytes) -> None:
        key = reason_key(self._prefix, name)
        async with self._bucket.call(f"write {key}") as call:
            await call.s3.put_object(
                Bucket=self._bucket.name,
                Key=key,
                Body=reason,
                ContentType="application/json",
                **self._bucket.encryption,
            )

    async def forget_failure(self, name: str, seen: LandedObject) -> None:
        if await self._delete(self._key(Area.FAILED, name), seen.etag):
            reason = reason_key(self._prefix, name)
            async with self._bucket.call(f"delete {reason}") as call:
                await call.s3.delete_object(Bucket=self._bucket.name, Key=reason)

    async def waiting(self, *, before: float) -> AsyncIterator[list[str]]:
        async for page in pages(self._bucket, self._key(Area.INCOMING, "")):
            old = [found for found in page if found.put_by < before]
            named = [
                (name, found)
                for found in old
                if (name := waiting_name(self._prefix, found.key, found.size_bytes)) is not None
            ]
            yield [name for name, found in named if not await self._stays(name, found)]

    async def _stays(self, name: str, found: Found) -> bool:
        """Whether it cannot be moved, and a reason that was written since lies beside it."""
        if found.size_bytes <= MAX_COPY_BYTES:
            return False
        key = reason_key(self._prefix, name)
        async for page in pages(self._bucket, key):
            # Keys come in order, and `key` is the first of those that begin with it.
            return any(one.key == key and one.put_by >= found.put_by for one in page[:1])
        return False

    def _key(self, area: Area, name: str) -> str:
        return key_of(self._prefix, area, name)

    async def _head(self, key: str) -> LandedObject | None:
        async with self._bucket.call(f"look at {key}") as call:
            try:
                return _landed(await call.s3.head_object(Bucket=self._bucket.name, Key=key))
            except ClientError as error:
                if is_missing(error):
                    return None
                raise

    async def _copy(
        self, name: str, seen: LandedObject, to: Area, replacing: LandedObject | None
    ) -> str:
        """With its content type and metadata. Raises MovedOnError."""
        key = self._key(to, name)
        condition: Any = {"IfMatch": replacing.etag} if replacing else {"IfNoneMatch": "*"}
        async with self._bucket.call(f"copy to {key}", size_bytes=seen.size_bytes) as call:
            try:
                answer = await call.s3.copy_object(
                    Bucket=self._bucket.name,
                    Key=key,
                    CopySource={
                        "Bucket": self._bucket.name,
                        "Key": self._key(Area.INCOMING, name),
                    },
                    CopySourceIfMatch=seen.etag,
                    TaggingDirective="REPLACE",  # copying tags takes a permission of its own
                    **condition,
                    **self._bucket.encryption,
                )
            except ClientError as error:
                if _has_moved_on(error):
                    raise MovedOnError(f"{key} is not what it was") from error
                raise
        return _version(answer.get("VersionId")) or answer["CopyObjectResult"]["ETag"]

    async def _remove(self, key: str, seen: LandedObject) -> None:
        """Only what was seen. In a versioned bucket with those below it: one that someone replaced
        before it was taken must not come back."""
        if seen.version_id is None:
            await self._delete(key, seen.etag)
            return
        versions = await versions_of(self._bucket, key)
        newest = newest_of(versions)
        if newest is not None and newest.id == seen.version_id:
            await delete_versions(self._bucket, versions)

    async def _delete(self, key: str, etag: str) -> bool:
        """False: there is another one, or none."""
        async with self._bucket.call(f"delete {key}") as call:
            try:
                await call.s3.delete_object(Bucket=self._bucket.name, Key=key, IfMatch=etag)
            except ClientError as error:
                if _has_moved_on(error):
                    return False
                raise
        return True


def _has_moved_on(error: ClientError) -> bool:
    return is_missing(error) or is_refused(error)


def _landed(found: HeadObjectOutputTypeDef) -> LandedObject:
    return LandedObject(
        etag=found["ETag"],
        version_id=_version(found.get("VersionId")),
        size_bytes=found["ContentLength"],
        content_type=found.get("ContentType", ""),
        content_encoding=found.get("ContentEncoding", ""),
        metadata=found.get("Metadata", {}),
    )


def _version(given: str | None) -> str | None:
    """'null' is the one version of a bucket that keeps no others, and is replaced by every put."""
    return None if given in (None, "null") else given


def connect(url: str, settings: Settings, receiver: str) -> S3Landing:
    """Raises AwsSetupError."""
    bucket, prefix = bucket_and_prefix(url, "BLOOMWEAVER_LANDING_URL")
    return S3Landing(
        S3Bucket(
            bucket,
            timeout_seconds=settings.request_timeout_seconds,
            kms_key_id=settings.blobs_kms_key_id,
        ),
        prefix,
    )
