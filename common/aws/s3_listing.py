"""What a bucket holds, a page at a time, and when it was put there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from common.aws.s3_bucket import LONGEST_TRANSFER_SECONDS, S3Bucket

COARSEST_SECONDS = 1.0
"""S3 tells the time of a put in whole seconds."""


@dataclass(frozen=True, slots=True)
class Found:
    """`put_by`: when it was put at the latest, seconds since the epoch by S3's clock."""

    key: str
    size_bytes: int
    put_by: float


def put_by(modified: datetime, etag: str) -> float:
    """The latest moment an object's put can have ended.

    The date of an upload in parts, whose ETag has a dash, is that of its beginning.
    """
    slack = LONGEST_TRANSFER_SECONDS if "-" in etag else 0.0
    return modified.timestamp() + COARSEST_SECONDS + slack


async def pages(bucket: S3Bucket, prefix: str) -> AsyncIterator[list[Found]]:
    """The objects whose key begins with `prefix`, in order of key."""
    after: dict[str, str] = {}
    while True:
        async with bucket.call(f"list {prefix}") as call:
            page = await call.s3.list_objects_v2(Bucket=bucket.name, Prefix=prefix, **after)  # type: ignore[arg-type]
        yield [
            Found(entry["Key"], entry["Size"], put_by(entry["LastModified"], entry["ETag"]))
            for entry in page.get("Contents", [])
        ]
        if not page["IsTruncated"]:
            return
        after = {"ContinuationToken": page["NextContinuationToken"]}
