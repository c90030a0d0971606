"""What a loss of power leaves half written is recognised, never served, and healed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.error
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from common import identity, pack
from common.adapters.blobs.folder import FolderBlobStore
from common.adapters.index.qdrant_edge import QdrantEdgeIndex
from common.adapters.registry.sqlite import SqliteRegistry
from common.model import DocumentKey, QueueName, Record, Row, Status
from common.pack import CorruptPackError
from common.ports.errors import TransientError
from common.transitions import Outcome
from tests import builders
from tests.acceptance.service import Service, wait_until
from tests.builders import TIMERS
from tests.integration.test_http_api import serving
from tests.pipeline import NAMESPACE, Pipeline, pipeline
from workers.notes import RegistryNote
from workers.outcome import Done, GiveUp
from workers.retry import PermanentFailureError

SEARCH = "/v1/namespaces/default/search"
CONTENT = f"/v1/namespaces/{NAMESPACE}/documents/a.md/content"
TEXT = "# Tulips\n\nThey bloom in spring.\n\n# Soil\n\nLoose, and not too wet in winter."
DAMAGED = "the stored content is damaged; send the document again"


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


# --- packs ------------------------------------------------------------------------------------


def test_a_pack_cut_off_anywhere_is_no_pack() -> None:
    whole = pack.encode(builders.pack(["one", "two", "three"]))
    for size in range(len(whole)):
        with pytest.raises(CorruptPackError):
            pack.decode(whole[:size])
    assert len(pack.decode(whole).chunks) == 3


def test_a_pack_with_one_wrong_byte_anywhere_is_no_pack() -> None:
    whole = pack.encode(builders.pack(["one", "two", "three"]))
    for place in range(len(whole)):
        torn = bytearray(whole)
        torn[place] ^= 0x40
        with pytest.raises(CorruptPackError):
            pack.decode(bytes(torn))


def test_a_pack_whose_tail_never_reached_the_disk_is_no_pack() -> None:
    """Some file systems leave zeros where data was not written back."""
    whole = pack.encode(builders.pack(["one", "two", "three"]))
    for size in range(0, len(whole), 7):
        with pytest.raises(CorruptPackError):
            pack.decode(whole[:size] + bytes(len(whole) - size))


@pytest.mark.parametrize("left", [0, 1, 7, 8, 12, 40, -33, -32, -1])
async def test_a_torn_pack_is_made_again_before_it_is_applied(
    flow: Pipeline, tmp_path: Path, left: int
) -> None:
    await flow.insert("a.md", TEXT)
    await flow.step(QueueName.CHANGE)
    (key,) = [info.key async for info in flow.blobs.list("packs")]
    file = tmp_path / "data" / "blobs" / key
    file.write_bytes(file.read_bytes()[:left])

    assert await flow.step(QueueName.CREATE) == Done("pack is missing, embedding again")
    await flow.run()

    assert (await flow.row("a.md")).status is Status.COMPLETED
    assert " ".join(await flow.shown("a.md")).count("bloom in spring") == 1
    pack.decode(file.read_bytes())


async def test_a_torn_applied_pack_is_not_reused(flow: Pipeline, tmp_path: Path) -> None:
    await flow.insert("a.md", TEXT)
    await flow.run()
    (key,) = [info.key async for info in flow.blobs.list("packs")]
    file = tmp_path / "data" / "blobs" / key
    file.write_bytes(file.read_bytes()[:-10])

    await flow.insert("a.md", TEXT.replace("spring", "April"))
    await flow.run()

    assert "They bloom in April." in " ".join(await flow.shown("a.md"))
    assert "Loose, and not too wet" in " ".join(await flow.shown("a.md"))


# --- raw content ------------------------------------------------------------------------------


def _cut(content: bytes) -> bytes:
    return content[:-5]


def _zeroed(content: bytes) -> bytes:
    return content[:10] + bytes(len(content) - 10)


def _empty(_: bytes) -> bytes:
    return b""


TEARS = [_cut, _zeroed, _empty]


async def torn(flow: Pipeline, tmp_path: Path, tear: Callable[[bytes], bytes]) -> Path:
    """The file of a.md's content, damaged."""
    file = tmp_path / "data" / "blobs" / (await flow.row("a.md")).desired.blob_key
    file.write_bytes(tear(file.read_bytes()))
    return file


@pytest.mark.parametrize("tear", TEARS)
async def test_torn_content_is_never_chunked_and_sending_it_again_heals_it(
    flow: Pipeline, tmp_path: Path, tear: Callable[[bytes], bytes]
) -> None:
    await flow.insert("a.md", TEXT)
    file = await torn(flow, tmp_path, tear)
    delivery = await flow.receive(QueueName.CHANGE)
    assert delivery is not None
    with pytest.raises(PermanentFailureError, match=DAMAGED):
        await flow.handle(delivery)
    note = RegistryNote(registry=flow.registry, queue=flow.queue, timers=TIMERS, clock=flow.clock)
    await note(delivery, GiveUp(DAMAGED))
    await flow.queue.dead_letter(delivery, DAMAGED)
    assert (await flow.row("a.md")).status is Status.FAILED

    await flow.insert("a.md", TEXT)
    await flow.run()

    row = await flow.row("a.md")
    assert (row.status, row.error) == (Status.COMPLETED, None)
    assert "They bloom in spring." in " ".join(await flow.shown("a.md"))
    assert file.read_bytes() == TEXT.encode()


@pytest.mark.parametrize("tear", TEARS)
async def test_torn_content_is_not_served_and_sending_it_again_heals_it(
    flow: Pipeline, tmp_path: Path, tear: Callable[[bytes], bytes]
) -> None:
    """Also of a document that is complete: what is sent again is unchanged for the registry."""
    async with serving(flow) as api:
        await flow.insert("a.md", TEXT)
        await flow.run()
        await torn(flow, tmp_path, tear)

        async with api.client.get(CONTENT) as answer:
            assert answer.status == 500
            problem = await answer.json(content_type=None)
        assert problem["type"].endswith(":damaged")
        assert problem["detail"] == DAMAGED

        assert (await flow.insert("a.md", TEXT)).outcome is Outcome.UNCHANGED
        async with api.client.get(CONTENT) as answer:
            assert (answer.status, await answer.text()) == (200, TEXT)


async def test_torn_chunks_are_not_served(flow: Pipeline, tmp_path: Path) -> None:
    async with serving(flow) as api:
        await flow.insert("a.md", TEXT)
        await flow.run()
        (key,) = [info.key async for info in flow.blobs.list("packs")]
        file = tmp_path / "data" / "blobs" / key
        file.write_bytes(file.read_bytes()[:-1])

        status, problem = await api.get(f"/v1/namespaces/{NAMESPACE}/documents/a.md/chunks")

        assert status == 500
        assert problem["type"].endswith(":damaged")
        assert "scrub --repair" in problem["detail"]


# --- a rename that never happened -----------------------------------------------------------------


async def test_what_a_dead_writer_left_unnamed_is_no_blob(tmp_path: Path) -> None:
    """Killed between the write and the rename: there is a file without its name."""
    program = (
        "import asyncio, os, sys\n"
        "from pathlib import Path\n"
        "from common.adapters.blobs.folder import FolderBlobStore\n"
        "Path.replace = lambda *_: os._exit(9)\n"
        "store = FolderBlobStore(Path(sys.argv[1]))\n"
        "asyncio.run(store.put('raw/n/a', b'never named'))\n"
    )
    code = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False).returncode
    assert code == 9
    (left,) = (tmp_path / ".tmp").iterdir()

    store = FolderBlobStore(tmp_path)
    assert [info async for info in store.list("")] == []
    assert not await store.exists("raw/n/a")
    await store.put("raw/n/a", b"named")
    assert await store.get("raw/n/a") == b"named"
    await store.close()

    os.utime(left, (1000, 1000))
    await FolderBlobStore(tmp_path).close()
    assert not left.exists()


# --- SQLite's log ---------------------------------------------------------------------------------

WAL_HEADER, FRAME = 32, 24 + 4096


async def commits(path: Path) -> list[dict[str, Row]]:
    """The rows of a registry after each of its commits, the last of them only in its log."""
    path.parent.mkdir()
    registry = SqliteRegistry(path)
    states: list[dict[str, Row]] = [{}]
    for version in (1, 2, 3):
        for name in ("a", "b", "c", "d"):
            row = states[-1].get(name) or builders.row(key=DocumentKey(NAMESPACE, name), revision=0)
            text = f"{name} {version} " * 200
            stored = await registry.put_if(replace(row, desired=builders.desired(text)))
            assert stored is not None
            states.append({**states[-1], name: stored})
    shutil.copytree(path.parent, path.parent.with_name("killed"))
    await registry.close()
    return states


async def rows_of(path: Path) -> dict[str, Row]:
    registry = SqliteRegistry(path)
    page = await registry.scan(NAMESPACE)
    await registry.close()
    return {row.key.document_id: row for row in page.rows}


@pytest.mark.parametrize("zeros", [False, True], ids=["cut off", "zeros"])
async def test_a_torn_log_shows_what_was_committed_before_and_nothing_else(
    tmp_path: Path, zeros: bool
) -> None:
    states = await commits(tmp_path / "whole" / "registry.sqlite")
    killed = tmp_path / "killed"
    (killed / "registry.sqlite-shm").unlink()  # it does not outlive the machine
    size = (killed / "registry.sqlite-wal").stat().st_size
    frames = (size - WAL_HEADER) // FRAME
    shown = set()
    for place in sorted({0, 7, size - 1, size, *_cuts(frames)}):
        torn_folder = tmp_path / f"torn-{place}"
        shutil.copytree(killed, torn_folder)
        _cut_off(torn_folder / "registry.sqlite-wal", place, zeros=zeros)

        rows = await rows_of(torn_folder / "registry.sqlite")

        assert rows in states, f"cut at {place}: no state that ever was"
        shown.add(states.index(rows))
        assert await _takes_writes(torn_folder / "registry.sqlite")
    assert {0, len(states) - 2, len(states) - 1} <= shown, "the cuts are not where commits are"
    assert len(shown) > 5


def _cuts(frames: int) -> Iterator[int]:
    for frame in range(0, frames, 3):
        yield from (WAL_HEADER + frame * FRAME + part for part in (0, 11, 24, 24 + 2048))


def _cut_off(file: Path, place: int, *, zeros: bool) -> None:
    size = file.stat().st_size
    os.truncate(file, place)
    if zeros:
        os.truncate(file, size)


async def _takes_writes(path: Path) -> bool:
    registry = SqliteRegistry(path)
    stored = await registry.put_if(builders.row(key=DocumentKey(NAMESPACE, "new"), revision=0))
    await registry.close()
    return stored is not None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
async def test_wake_ups_lost_with_the_queues_log_are_sent_again(
    flow: Pipeline, tmp_path: Path, share: float
) -> None:
    """The queue's log is not synced: a loss of power may take its end, and the registry none."""
    for number in range(10):
        await flow.insert(f"{number}.md", f"# {number}\n\nThis is document {number}.")
    shutil.copytree(tmp_path / "data", tmp_path / "after" / "data")
    log = tmp_path / "after" / "data" / "queue.sqlite-wal"
    os.truncate(log, int(log.stat().st_size * share))
    log.with_name("queue.sqlite-shm").unlink()

    async with pipeline(tmp_path / "after") as after:
        left = (await after.queue.depth(QueueName.CHANGE)).waiting
        assert left < 10
        await after.run()
        after.clock.now += 1000
        await after.sweeper.sweep_rows()
        await after.run()

        for number in range(10):
            assert f"This is document {number}." in (await after.shown(f"{number}.md"))[0]


# --- the index's log ------------------------------------------------------------------------------

BATCHES, BATCH_RECORDS = 6, 10


def record(number: int) -> Record:
    return Record(
        id=identity.record_id(identity.document_key(builders.KEY), 1, number),
        vector=builders.vector(1.0, float(number), 0.5),
        document_id=builders.KEY.document_id,
        generation=1,
        number=number,
        doc_hash="hash",
        heading_path=("A",),
        text=f"text {number}",
        metadata={"number": number},
    )


async def index_log(root: Path) -> Path:
    """An index as a killed process leaves it: its log file, in a copy."""
    index = QdrantEdgeIndex(root / "whole")
    for batch in range(BATCHES):
        records = [record(batch * BATCH_RECORDS + place) for place in range(BATCH_RECORDS)]
        await index.upsert(NAMESPACE, records)
    await index.delete(NAMESPACE, [record(0).id])
    shutil.copytree(root / "whole", root / "killed")
    await index.close()
    return min((root / "killed").glob("*/shard/wal/open-*"))


async def numbers_in(root: Path) -> list[int]:
    """Which records the index shows; each must be whole."""
    index = QdrantEdgeIndex(root)
    try:
        found = await index.query(NAMESPACE, builders.vector(1.0, 1.0, 1.0), top_k=1000)
        ids = {i async for i in index.list_ids(NAMESPACE)}
        assert ids == {match.id for match in found}
        for match in found:
            whole = record(match.number)
            assert (match.id, match.text, match.metadata) == (whole.id, whole.text, whole.metadata)
        return sorted(match.number for match in found)
    finally:
        await index.close()


def prefix(batches: int, *, deleted: bool = False) -> list[int]:
    return list(range(1 if deleted else 0, batches * BATCH_RECORDS))


@pytest.mark.parametrize("zeros", [False, True], ids=["cut off", "zeros"])
async def test_a_torn_log_of_the_index_shows_what_was_written_before_and_nothing_else(
    tmp_path: Path, zeros: bool
) -> None:
    log = await index_log(tmp_path)
    used = len(log.read_bytes().rstrip(b"\0"))
    shown = []
    for share in (0.003, 0.3, 0.5, 0.7, 0.999, 1.0):
        torn_root = tmp_path / f"torn-{share}"
        shutil.copytree(tmp_path / "killed", torn_root)
        _cut_off(torn_root / log.relative_to(tmp_path / "killed"), int(used * share), zeros=zeros)
        shown.append(await numbers_in(torn_root))
    states = [prefix(batches) for batches in range(BATCHES + 1)] + [prefix(BATCHES, deleted=True)]
    assert all(numbers in states for numbers in shown)
    assert shown[0] == []
    assert shown[-2:] == [prefix(BATCHES), prefix(BATCHES, deleted=True)]
    assert sorted(shown, key=states.index) == shown


@pytest.mark.parametrize("left", [0, 5])
async def test_a_log_without_its_beginning_is_refused_with_the_mend(
    tmp_path: Path, left: int
) -> None:
    log = await index_log(tmp_path)
    os.truncate(log, left)

    index = QdrantEdgeIndex(tmp_path / "killed")
    with pytest.raises(TransientError, match=r"remove .*scrub --repair"):
        await index.count(NAMESPACE)
    await index.close()

    shutil.rmtree(log.parents[2])
    assert await numbers_in(tmp_path / "killed") == []


@pytest.mark.slow
def test_a_damaged_index_is_an_outage_until_it_is_written_anew(tmp_path: Path) -> None:
    service = Service(tmp_path, stale_after_seconds=2, sweep_interval_seconds=0.5)
    try:
        service.start()
        service.put("a.md", TEXT.encode(), "text/markdown")
        wait_until("a.md is complete", lambda: service.documents() == {"COMPLETED": 1})
        service.kill_group()
        (log,) = service.data_dir.glob("index/*/shard/wal/open-1")
        os.truncate(log, 0)

        service.start()
        service.put("b.md", b"# Roses\n\nThey need sun.", "text/markdown")
        with pytest.raises(urllib.error.HTTPError) as refused:
            service.post(SEARCH, {"query": "flowers in spring"})
        with refused.value as answer:
            assert answer.status == 503
        # The row tells people what is wrong and how to mend it; nothing is given up for it.
        wait_until("b.md waits", lambda: "scrub --repair" in str(_document(service, "b.md")))
        assert _document(service, "b.md")["status"] == "PENDING"
        service.stop()

        shutil.rmtree(log.parents[2])
        service.start()
        service.run("scrub", "--repair")
        wait_until("all is complete", lambda: service.documents() == {"COMPLETED": 2})
        wait_until("scrub finds nothing", lambda: service.run("scrub").returncode == 0)
        found = service.post(SEARCH, {"query": "flowers in spring"})
        assert {match["document_id"] for match in found["hits"]} == {"a.md", "b.md"}
    finally:
        service.close()


def _document(service: Service, document_id: str) -> dict[str, object]:
    return dict(service.get(f"/v1/namespaces/default/documents/{document_id}"))
