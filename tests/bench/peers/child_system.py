"""What every tool under measurement can be asked, and the Qdrant they all write to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from qdrant_client import QdrantClient

COLLECTION = "documents"


class System(Protocol):
    """Calls return once the change is in the store."""

    def upsert(self, documents: Mapping[str, str]) -> None: ...

    def delete(self, document_id: str) -> None: ...

    def records(self) -> Iterator[tuple[str, str]]:
        """Document id and text of everything the store holds."""

    def split(self, text: str) -> list[str]:
        """The chunks as they are embedded."""

    def close(self) -> None: ...


class CountingClient(QdrantClient):
    """A local Qdrant that counts the points written to it."""

    written = 0

    def upsert(  # type: ignore[override]
        self, collection_name: str, points: Any, **options: Any
    ) -> Any:
        self.written += _count(points)
        return super().upsert(collection_name, points, **options)

    def upload_points(  # type: ignore[override]
        self, collection_name: str, points: Any, **options: Any
    ) -> None:
        listed = list(points)
        self.written += len(listed)
        super().upload_points(collection_name, listed, **options)

    def payloads(self) -> Iterator[dict[str, Any]]:
        """Of every point there is."""
        if not self.collection_exists(COLLECTION):
            return
        offset = None
        while True:
            points, offset = self.scroll(COLLECTION, limit=1000, offset=offset, with_payload=True)
            for point in points:
                yield point.payload or {}
            if offset is None:
                return


def open_client(folder: Path) -> CountingClient:
    """Called from several threads by some tools, one at a time."""
    return CountingClient(path=str(folder / "qdrant"), force_disable_check_same_thread=True)


def _count(points: Any) -> int:
    return len(points) if isinstance(points, list) else len(points.ids)
