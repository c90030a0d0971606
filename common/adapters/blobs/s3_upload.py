"""Writing an object to S3: in one request, or in parts side by side when it is large."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog
from botocore.exceptions import ClientError

from common.aws.s3_bucket import S3Bucket, is_refused
from common.ports.errors import PortError

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import CompletedPartTypeDef

log = structlog.get_logger(__name__)

PART_BYTES = 8 * 1024 * 1024
"""Also the largest object that is written in one request."""
PARTS_AT_ONCE = 4
INLINE_BYTES = 64 * 1024
SHA256_FIELD = "sha256"
"""User metadata with the SHA-256 of the whole: S3's own of an upload in parts is of its parts."""


@dataclass(frozen=True, slots=True)
class Content:
    data: bytes
    sha256: bytes

    @classmethod
    async def of(cls, data: bytes) -> Content:
        return cls(data, await sha256_of(data))

    @property
    def sha256_hex(self) -> str:
        return self.sha256.hex()


async def sha256_of(data: bytes) -> bytes:
    """Beside the event loop where it takes a while."""
    if len(data) <= INLINE_BYTES:
        return hashlib.sha256(data).digest()
    return await asyncio.to_thread(lambda: hashlib.sha256(data).digest())


async def put_if_absent(bucket: S3Bucket, name: str, content: Content) -> bool:
    """False: something is there, or is being written or deleted just now; nothing was done."""
    try:
        await put(bucket, name, content, only_if_absent=True)
    except _RefusedError:
        return False
    return True


class _RefusedError(Exception):
    """The condition did not hold."""


async def put(
    bucket: S3Bucket, name: str, content: Content, *, only_if_absent: bool = False
) -> None:
    condition: dict[str, Any] = {"IfNoneMatch": "*"} if only_if_absent else {}
    async with bucket.call(f"write {name}", size_bytes=len(content.data)) as call:
        try:
            await call.s3.put_object(
                Bucket=bucket.name,
                Key=name,
                Body=content.data,
                ChecksumSHA256=_base64(content.sha256),
                Metadata={SHA256_FIELD: content.sha256_hex},
                **bucket.encryption,
                **condition,
            )
        except ClientError as error:
            if only_if_absent and is_refused(error):
                raise _RefusedError from error
            raise


async def put_in_parts(bucket: S3Bucket, name: str, content: Content) -> None:
    """Whole or not at all: parts that nobody completes are given up, and cost until then."""
    async with bucket.call(f"begin writing {name}") as call:
        begun = await call.s3.create_multipart_upload(
            Bucket=bucket.name,
            Key=name,
            ChecksumAlgorithm="SHA256",
            Metadata={SHA256_FIELD: content.sha256_hex},
            **bucket.encryption,
        )
    upload = _Upload(bucket, name, begun["UploadId"])
    try:
        async with bucket.call(f"write {name}", size_bytes=len(content.data)):
            await upload.complete(await upload.send_all(content.data))
    except BaseException:
        # Shielded: a call that is cancelled must not leave parts behind that are paid for.
        await asyncio.shield(asyncio.create_task(upload.abort()))
        raise


@dataclass(frozen=True, slots=True)
class _Upload:
    bucket: S3Bucket
    name: str
    id: str

    async def send_all(self, data: bytes) -> list[CompletedPartTypeDef]:
        places = asyncio.Semaphore(PARTS_AT_ONCE)
        starts = range(0, len(data), PART_BYTES)
        tasks = [
            asyncio.create_task(self._send(number, data, start, places))
            for number, start in enumerate(starts, 1)
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(
        self, number: int, data: bytes, start: int, places: asyncio.Semaphore
    ) -> CompletedPartTypeDef:
        async with places:
            part = data[start : start + PART_BYTES]
            checksum = _base64(await sha256_of(part))
            doing = f"write part {number} of {self.name}"
            async with self.bucket.call(doing, size_bytes=len(part)) as call:
                answer = await call.s3.upload_part(
                    Bucket=self.bucket.name,
                    Key=self.name,
                    UploadId=self.id,
                    PartNumber=number,
                    Body=part,
                    ChecksumSHA256=checksum,
                )
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": checksum}

    async def complete(self, parts: list[CompletedPartTypeDef]) -> None:
        async with self.bucket.call(f"complete {self.name}") as call:
            await call.s3.complete_multipart_upload(
                Bucket=self.bucket.name,
                Key=self.name,
                UploadId=self.id,
                MultipartUpload={"Parts": parts},
            )

    async def abort(self) -> None:
        """What cannot be given up now is left to the bucket's lifecycle rule."""
        try:
            async with self.bucket.call(f"give up writing {self.name}") as call:
                await call.s3.abort_multipart_upload(
                    Bucket=self.bucket.name, Key=self.name, UploadId=self.id
                )
        except PortError as error:
            log.warning("blob.parts_left", error=str(error))


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
