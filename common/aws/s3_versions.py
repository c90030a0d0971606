"""The versions of keys in a versioned bucket: deleting the exact ones that were looked at.

A version is deleted by its id, so that a put that comes meanwhile, which makes another one, is
never undone. Deleting the newest by its id makes the one before it current, so the newest goes
last, in a request of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from common.aws.s3_bucket import S3Bucket
from common.aws.s3_listing import put_by
from common.ports.errors import TransientError

if TYPE_CHECKING:
    from types_aiobotocore_s3.type_defs import ObjectIdentifierTypeDef

KEYS_PER_DELETE = 1000


@dataclass(frozen=True, slots=True)
class Version:
    """`put_by`: when it was put at the latest, seconds since the epoch by S3's clock."""

    key: str
    id: str
    newest: bool
    marker: bool
    """It says that the key is deleted."""
    put_by: float


async def versions_of(bucket: S3Bucket, key: str) -> list[Version]:
    """All of one key, delete markers included, as of one moment or several."""
    found: list[Version] = []
    after: dict[str, str] = {}
    while True:
        async with bucket.call(f"list the versions of {key}") as call:
            page = await call.s3.list_object_versions(Bucket=bucket.name, Prefix=key, **after)  # type: ignore[arg-type]
        for entry in page.get("Versions", []):
            written = put_by(entry["LastModified"], entry["ETag"])
            found.append(
                Version(entry["Key"], entry["VersionId"], entry["IsLatest"], False, written)
            )
        for mark in page.get("DeleteMarkers", []):
            written = put_by(mark["LastModified"], "")
            found.append(Version(mark["Key"], mark["VersionId"], mark["IsLatest"], True, written))
        # Keys come in order, and `key` is the first of those that begin with it.
        if not page["IsTruncated"] or page["NextKeyMarker"] != key:
            return [version for version in found if version.key == key]
        after = {"KeyMarker": key, "VersionIdMarker": page["NextVersionIdMarker"]}


def newest_of(versions: Iterable[Version]) -> Version | None:
    """None: there is none, or it was put while they were being listed."""
    return next((version for version in versions if version.newest), None)


def older_than(versions: Sequence[Version], before: float) -> list[Version]:
    """All of a key if even its newest is older, else none."""
    newest = newest_of(versions)
    return [*versions] if newest is not None and newest.put_by < before else []


async def delete_versions(bucket: S3Bucket, versions: Sequence[Version]) -> None:
    """Of any number of keys. Raises TransientError when one cannot be deleted."""
    for last in (False, True):
        chosen = [version for version in versions if version.newest is last]
        await delete_objects(bucket, [{"Key": v.key, "VersionId": v.id} for v in chosen])


async def delete_objects(bucket: S3Bucket, objects: Sequence[ObjectIdentifierTypeDef]) -> None:
    """In requests of a thousand. Missing ones are no error. Raises TransientError."""
    rest = iter(objects)
    while some := list(islice(rest, KEYS_PER_DELETE)):
        async with bucket.call(f"delete {len(some)} objects") as call:
            answer = await call.s3.delete_objects(
                Bucket=bucket.name, Delete={"Objects": some, "Quiet": True}
            )
        if errors := answer.get("Errors"):
            first = errors[0]
            raise TransientError(
                f"cannot delete {len(errors)} of {len(some)} objects of s3://{bucket.name}, the "
                f"first of them {first.get('Key')}: {first.get('Code')}: {first.get('Message')}"
            )
