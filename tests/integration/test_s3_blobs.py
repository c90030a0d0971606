"""What blobs in S3 promise beyond the port: encryption, parts, versions, and clear words."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from aiohttp import web

from common.adapters.blobs.s3 import S3BlobStore, connect
from common.adapters.blobs.s3_upload import PART_BYTES
from common.aws.clients import shared_clients
from common.aws.errors import AwsSetupError
from common.aws.s3_bucket import S3Bucket
from common.ports.errors import TransientError
from common.settings import Settings
from tests.servers.aws import aws_environment, ministack, moto
from tests.servers.buckets import new_bucket, s3_client
from tests.servers.http_log import answering
from tests.servers.process import ServerProcess

if TYPE_CHECKING:
    from types_aiobotocore_s3.client import S3Client

pytestmark = pytest.mark.slow

LARGE = b"0123456789abcdef" * (PART_BYTES // 8)
"""Two parts and a bit."""
EACH = pytest.mark.parametrize("server", [moto, ministack])


@contextlib.asynccontextmanager
async def opened(
    server: Callable[[], ServerProcess], *, versioned: bool = True, key_id: str | None = None
) -> AsyncIterator[tuple[S3BlobStore, str, S3Client]]:
    """A store at `p/`, its bucket and a client of the test's own."""
    async with new_bucket(server(), versioned=versioned) as name, s3_client() as s3:
        store = S3BlobStore(S3Bucket(name, timeout_seconds=30, kms_key_id=key_id), "p/")
        yield store, name, s3
        await store.close()


@EACH
@pytest.mark.parametrize("data", [b"small", LARGE + b"more"], ids=["small", "in-parts"])
async def test_objects_are_encrypted_and_bear_their_checksum(
    server: Callable[[], ServerProcess], data: bytes
) -> None:
    async with opened(server) as (store, bucket, s3):
        assert await store.put("raw/a", data)
        assert not await store.put("raw/a", data)
        assert await store.get("raw/a") == data

        found = await s3.head_object(Bucket=bucket, Key="p/raw/a")

    assert found["ServerSideEncryption"] == "AES256"
    assert len(found["Metadata"]["sha256"]) == 64


async def test_a_key_of_kms_encrypts_where_one_is_set() -> None:
    async with opened(moto, key_id="alias/ours") as (store, bucket, s3):
        await store.put("raw/a", b"x")
        await store.put("raw/b", LARGE)

        for key in ("p/raw/a", "p/raw/b"):
            found = await s3.head_object(Bucket=bucket, Key=key)
            assert found["ServerSideEncryption"] == "aws:kms"
            assert found["SSEKMSKeyId"].endswith("alias/ours")


@EACH
async def test_what_someone_else_put_there_is_compared_by_its_bytes(
    server: Callable[[], ServerProcess],
) -> None:
    async with opened(server) as (store, bucket, s3):
        await s3.put_object(Bucket=bucket, Key="p/raw/a", Body=b"damage")

        assert await store.put("raw/a", b"intact")
        assert await store.get("raw/a") == b"intact"

        await s3.put_object(Bucket=bucket, Key="p/raw/b", Body=b"intact")
        assert not await store.put("raw/b", b"intact")


@EACH
async def test_stored_damage_is_returned_for_its_reader_to_see(
    server: Callable[[], ServerProcess],
) -> None:
    async with opened(server) as (store, bucket, s3):
        wrong = {"sha256": "0" * 64}
        await s3.put_object(Bucket=bucket, Key="p/raw/a", Body=b"damaged", Metadata=wrong)

        assert await store.get("raw/a") == b"damaged"


async def test_a_body_that_breaks_off_is_trouble_that_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def half(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "1000"})
        await answer.prepare(request)
        await answer.write(b"half of it")
        assert request.transport is not None
        request.transport.close()
        return answer

    async with answering(half) as server:
        for name, value in aws_environment(server.url).items():
            monkeypatch.setenv(name, value)
        store = S3BlobStore(S3Bucket("b", timeout_seconds=30))
        with pytest.raises(TransientError, match="cannot read raw/a"):
            await store.get("raw/a")
        await store.close()


class _Breaking:
    """Lets `count` parts through and then does `what` (the SDK's event, before a request)."""

    def __init__(self, count: int, what: Callable[[], None]) -> None:
        self.left = count
        self.what = what

    def __call__(self, **_given: Any) -> None:
        self.left -= 1
        if self.left < 0:
            self.what()


@EACH
@pytest.mark.parametrize("how", ["fails", "is cancelled"])
async def test_an_upload_that_does_not_end_leaves_no_parts_behind(
    server: Callable[[], ServerProcess], how: str
) -> None:
    async with opened(server) as (store, bucket, s3):
        await store.put("raw/a", LARGE)
        put = asyncio.create_task(store.put("raw/a", LARGE + b"other"))

        def breaks() -> None:
            if how == "is cancelled":
                put.cancel()
            else:
                raise TimeoutError

        clients = shared_clients()
        client = await clients.client("s3")
        client.meta.events.register("before-call.s3.UploadPart", _Breaking(1, breaks))
        with pytest.raises((TransientError, asyncio.CancelledError)):
            await put
        await clients.release()

        uploads = await s3.list_multipart_uploads(Bucket=bucket)
        assert uploads.get("Uploads", []) == []
        assert await store.get("raw/a") == LARGE


@EACH
async def test_collection_takes_all_versions_of_what_is_old(
    server: Callable[[], ServerProcess],
) -> None:
    async with opened(server) as (store, bucket, s3):
        for data in (b"1", b"2", b"2"):
            await store.put("raw/a", data)
        await store.put("raw/gone", b"x")
        await store.delete(["raw/gone"])
        await store.put("raw/a-longer-name", b"kept")

        assert await store.delete_if_older(["raw/a", "raw/gone"], before=time.time() + 60) == 1

        page = await s3.list_object_versions(Bucket=bucket)
        assert [found["Key"] for found in page["Versions"]] == ["p/raw/a-longer-name"]
        assert not page.get("DeleteMarkers")


@EACH
async def test_a_put_between_the_look_and_the_delete_stays(
    server: Callable[[], ServerProcess],
) -> None:
    async with opened(server) as (store, _, _):
        await store.put("raw/a", b"same")
        clients = shared_clients()
        events = (await clients.client("s3")).meta.events

        async def put(**_given: Any) -> None:
            events.unregister("before-call.s3.DeleteObjects", put)
            await store.put("raw/a", b"same")

        events.register("before-call.s3.DeleteObjects", put)
        await store.delete_if_older(["raw/a"], before=time.time() + 60)
        await clients.release()

        assert await store.get("raw/a") == b"same"


@EACH
async def test_without_versions_nothing_is_collected_and_it_is_said_once(
    server: Callable[[], ServerProcess],
) -> None:
    async with opened(server, versioned=False) as (store, _, _):
        await store.put("raw/a", b"x")
        with structlog.testing.capture_logs() as logs:
            for _ in range(2):
                assert await store.delete_if_older(["raw/a"], before=time.time() + 60) == 0

        assert [entry["event"] for entry in logs] == ["blobs.not_collected"]
        assert await store.get("raw/a") == b"x"
        assert "turn the bucket's versioning on" in await store.check()


@EACH
async def test_where_versioning_was_suspended_nothing_is_collected(
    server: Callable[[], ServerProcess],
) -> None:
    """A put replaces the version called null there, so that deleting that one could undo a put."""
    async with opened(server) as (store, bucket, s3):
        assert "versioned" in await store.check()
        await s3.put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}
        )
        await store.put("raw/a", b"x")

        assert await store.delete_if_older(["raw/a"], before=time.time() + 60) == 0
        assert await store.exists("raw/a")


@EACH
async def test_the_check_says_what_is_wrong_and_how_to_mend_it(
    server: Callable[[], ServerProcess],
) -> None:
    async with new_bucket(server(), versioned=True):
        settings = Settings(_env_file=None)
        store = connect("s3://no-such-bucket-here/p", settings, "me")
        with pytest.raises(
            AwsSetupError, match=r"no-such-bucket-here.*create it, or check its name"
        ):
            await store.check()
        with pytest.raises(TransientError, match="no-such-bucket-here"):
            await store.get("raw/a")
        await store.close()


@pytest.mark.parametrize(
    "url", ["s3:", "s3://", "s3:///p", "s3:bucket", "s3://b/a//c", "s3://b/.."]
)
def test_an_address_that_names_no_bucket_is_refused(url: str) -> None:
    with pytest.raises(AwsSetupError, match="BLOOMWEAVER_BLOBS_URL"):
        connect(url, Settings(_env_file=None), "me")
