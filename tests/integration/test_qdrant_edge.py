"""The embedded index against processes that die, and against a second owner."""

from __future__ import annotations

import json
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from common import identity
from common.adapters.index.qdrant_edge import QdrantEdgeIndex
from common.model import DocumentKey, MetadataValue, Record
from common.ports.errors import PermanentError, TransientError
from common.ports.index import FieldFilter, IndexUnavailableError

NAMESPACE = "docs"
KEY = identity.document_key(DocumentKey(NAMESPACE, "a"))

WRITER = """
import asyncio, sys
from pathlib import Path
from tests.integration.test_qdrant_edge import NAMESPACE, record
from common.adapters.index.qdrant_edge import QdrantEdgeIndex

async def main():
    index = QdrantEdgeIndex(Path(sys.argv[1]))
    for n in range(10_000):
        await index.upsert(NAMESPACE, [record(n)])
        print("+", n, flush=True)
        if n % 3 == 2:
            await index.delete(NAMESPACE, [record(n - 1).id])
            print("-", n - 1, flush=True)

asyncio.run(main())
"""

HOLDER = """
import asyncio, sys
from pathlib import Path
from tests.integration.test_qdrant_edge import NAMESPACE, record
from common.adapters.index.qdrant_edge import QdrantEdgeIndex

async def main():
    index = QdrantEdgeIndex(Path(sys.argv[1]))
    await index.upsert(NAMESPACE, [record(0)])
    print("holding", flush=True)
    sys.stdin.read()
    await index.close()

asyncio.run(main())
"""


def record(number: int, metadata: dict[str, MetadataValue] | None = None) -> Record:
    return Record(
        id=identity.record_id(KEY, 1, number),
        vector=array("f", [1.0, float(number), 0.5]),
        document_id="a",
        generation=1,
        number=number,
        doc_hash="h",
        heading_path=(),
        text="text",
        metadata=metadata or {},
    )


def start(program: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def kill_after(folder: Path, lines: int) -> list[str]:
    """What the writer reported as done before it was killed in the middle of its work."""
    with start(WRITER, folder) as writer:
        assert writer.stdout is not None
        seen = [writer.stdout.readline() for _ in range(lines)]
        writer.kill()
        seen += writer.stdout.readlines()
    return [line.strip() for line in seen if line.endswith("\n")]


async def numbers(index: QdrantEdgeIndex) -> set[int]:
    return {int(i.rpartition("#")[2]) async for i in index.list_ids(NAMESPACE)}


@pytest.mark.parametrize("lines", [1, 40, 151])
async def test_what_returned_before_sigkill_is_there_afterwards(tmp_path: Path, lines: int) -> None:
    done = [(line[0], int(line[2:])) for line in kill_after(tmp_path, lines)]
    deleted = {n for sign, n in done if sign == "-"}
    written = {n for sign, n in done if sign == "+"}
    last = max(written)
    # The write under way at the kill may have happened or not.
    under_way = {last - 1 if last % 3 == 2 and done[-1][0] == "+" else last + 1}
    index = QdrantEdgeIndex(tmp_path)
    found = await numbers(index)
    assert found - under_way == written - deleted - under_way
    await index.upsert(NAMESPACE, [record(20_000)])
    assert await index.count(NAMESPACE) == len(found) + 1
    await index.close()


async def test_a_second_process_is_told_who_owns_the_index(tmp_path: Path) -> None:
    with start(HOLDER, tmp_path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
        second = QdrantEdgeIndex(tmp_path)
        with pytest.raises(IndexUnavailableError, match="bloomweaver up"):
            await second.count(NAMESPACE)
        with pytest.raises(IndexUnavailableError, match="another process"):
            await second.upsert("a namespace the owner never opened", [record(1)])
        assert holder.stdin is not None
        holder.stdin.close()
        assert holder.wait() == 0
        assert await second.count(NAMESPACE) == 1
        await second.close()


@pytest.mark.parametrize("left", ["", "shard", "shard/segments"])
async def test_a_half_made_folder_is_made_anew(tmp_path: Path, left: str) -> None:
    (tmp_path / identity.namespace_key(NAMESPACE) / left).mkdir(parents=True)
    draft = tmp_path / ".new-killed" / "shard"
    draft.mkdir(parents=True)
    index = QdrantEdgeIndex(tmp_path)
    assert await index.query(NAMESPACE, array("f", [1.0, 0.0, 0.0]), top_k=1) == []
    await index.upsert(NAMESPACE, [record(1)])
    assert await numbers(index) == {1}
    assert not draft.exists()
    await index.close()


async def test_a_folder_that_held_records_is_never_made_anew(tmp_path: Path) -> None:
    index = QdrantEdgeIndex(tmp_path)
    await index.upsert(NAMESPACE, [record(1)])
    await index.close()
    description = tmp_path / identity.namespace_key(NAMESPACE) / "namespace.json"
    content = description.read_text()
    description.unlink()
    damaged = QdrantEdgeIndex(tmp_path)
    with pytest.raises(TransientError, match=r"namespace\.json"):
        await damaged.upsert(NAMESPACE, [record(2)])
    await damaged.close()
    description.write_text(content)
    mended = QdrantEdgeIndex(tmp_path)
    assert await numbers(mended) == {1}
    await mended.close()


async def test_another_format_is_refused(tmp_path: Path) -> None:
    index = QdrantEdgeIndex(tmp_path)
    await index.upsert(NAMESPACE, [record(1)])
    await index.close()
    description = tmp_path / identity.namespace_key(NAMESPACE) / "namespace.json"
    description.write_text(json.dumps({**json.loads(description.read_text()), "format": 99}))
    newer = QdrantEdgeIndex(tmp_path)
    with pytest.raises(TransientError, match="format 99"):
        await newer.count(NAMESPACE)
    await newer.close()


async def test_deleted_space_is_reclaimed_at_close_and_nothing_else_is(tmp_path: Path) -> None:
    index = QdrantEdgeIndex(tmp_path)
    await index.upsert(NAMESPACE, [record(n) for n in range(3000)])
    await index.delete(NAMESPACE, [record(n).id for n in range(1500)])
    await index.close()
    reopened = QdrantEdgeIndex(tmp_path)
    assert await numbers(reopened) == set(range(1500, 3000))
    found = await reopened.query(NAMESPACE, array("f", [1.0, 1700.0, 0.5]), top_k=1200)
    assert len(found) == 1200
    assert [m.score for m in found] == sorted((m.score for m in found), reverse=True)
    await reopened.close()


async def test_a_closed_index_says_so(tmp_path: Path) -> None:
    index = QdrantEdgeIndex(tmp_path)
    await index.close()
    await index.close()
    with pytest.raises(IndexUnavailableError, match="closed"):
        await index.count(NAMESPACE)


@pytest.mark.parametrize("name", ['"', "\\", "%22", "%2522", "a.b", "a[0]", "", "ü\n\0", "%"])
async def test_any_field_name_can_be_filtered_by(tmp_path: Path, name: str) -> None:
    index = QdrantEdgeIndex(tmp_path)
    await index.upsert(NAMESPACE, [record(1, {name: "yes"}), record(2, {f"{name}x": "yes"})])
    (match,) = await index.query(
        NAMESPACE, array("f", [1, 1, 1]), top_k=5, where=FieldFilter(name, "eq", "yes")
    )
    assert match.metadata == {name: "yes"}
    await index.close()


async def test_large_integers_and_empty_lists_come_back_and_match(tmp_path: Path) -> None:
    metadata: dict[str, MetadataValue] = {"id": 2**60 + 1, "tags": []}
    index = QdrantEdgeIndex(tmp_path)
    await index.upsert(NAMESPACE, [record(1, metadata), record(2, {"id": 2**60})])
    vector = array("f", [1, 1, 1])
    for where in (FieldFilter("id", "eq", 2**60 + 1), FieldFilter("tags", "exists", True)):
        (match,) = await index.query(NAMESPACE, vector, top_k=5, where=where)
        assert match.metadata == metadata
    everything = await index.query(NAMESPACE, vector, top_k=5, where=FieldFilter("id", "nin", ()))
    assert len(everything) == 2
    assert await index.query(NAMESPACE, vector, top_k=5, where=FieldFilter("id", "in", ())) == []
    await index.close()


async def test_a_value_it_cannot_hold_is_permanent_and_harms_no_neighbour(tmp_path: Path) -> None:
    index = QdrantEdgeIndex(tmp_path)
    await index.upsert(NAMESPACE, [record(1)])
    for metadata in ({"n": 2**64}, {"n": float("nan")}, {"n": "\ud800"}):
        with pytest.raises(PermanentError):
            await index.upsert(NAMESPACE, [record(2, dict(metadata))])
    assert await numbers(index) == {1}
    await index.close()
