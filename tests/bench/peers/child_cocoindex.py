"""CocoIndex: an app over a folder of files, updated after each edit; its state in LMDB."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cocoindex as coco
import fastembed
import numpy as np
from cocoindex.connectors import localfs, qdrant
from cocoindex.ops.text import RecursiveSplitter
from cocoindex.resources.id import IdGenerator
from cocoindex.resources.schema import VectorSchema
from qdrant_client import QdrantClient

from tests.bench.peers.child_embedding import DIMENSION, NAME
from tests.bench.peers.child_system import COLLECTION, CountingClient

DEFAULT_BATCH = 64
"""What its own embedder for sentence-transformers uses; it has none for fastembed."""
STORE = coco.ContextKey[QdrantClient]("store")


def split(text: str, chunk_size: int) -> list[str]:
    """`chunk_size` in bytes."""
    chunks = RecursiveSplitter().split(
        text, chunk_size=chunk_size, chunk_overlap=0, language="markdown"
    )
    return [chunk.text for chunk in chunks]


class _Embedder:
    """As its own embedders are made: memoised for each file, texts in flight batched."""

    def __init__(self, model: Any, batch: int) -> None:
        @coco.fn.as_async(batching=True, runner=coco.GPU, max_batch_size=batch)
        def embed_batch(texts: list[str]) -> list[Any]:
            return list(model.embed(texts))

        @coco.fn(memo=True, version=1, logic_tracking="self")
        async def embed(text: str) -> Any:
            return await embed_batch(text)

        self.embed = embed


class CocoIndex:
    """Implements System."""

    def __init__(
        self, folder: Path, client: CountingClient, chunk_size: int, batch: int | None
    ) -> None:
        self._client = client
        self._files = folder / "files"
        self._files.mkdir()
        self._chunk_size = chunk_size
        model = fastembed.TextEmbedding(model_name=NAME)
        embedder = _Embedder(model, DEFAULT_BATCH if batch is None else batch)
        self._app = _app(folder, self._files, client, self.split, embedder)

    def upsert(self, documents: Mapping[str, str]) -> None:
        for name, content in documents.items():
            path = self._files / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        self._app.update_blocking()

    def delete(self, document_id: str) -> None:
        (self._files / document_id).unlink(missing_ok=True)
        self._app.update_blocking()

    def records(self) -> Iterator[tuple[str, str]]:
        for payload in self._client.payloads():
            yield payload["filename"], payload["text"]

    def split(self, text: str) -> list[str]:
        return split(text, self._chunk_size)

    def close(self) -> None:
        self._client.close()


def _app(folder: Path, files: Path, client: QdrantClient, split: Any, embedder: _Embedder) -> Any:
    @coco.fn
    async def process_chunk(text: str, name: str, ids: IdGenerator, target: Any) -> None:
        vector = await embedder.embed(text)
        point = qdrant.PointStruct(
            id=await ids.next_id(text),
            vector=vector.tolist(),
            payload={"filename": name, "text": text},
        )
        target.declare_point(point)

    @coco.fn(memo=True)
    async def process_file(file: Any, target: Any) -> None:
        name = file.file_path.path.relative_to(files).as_posix()
        await coco.map(process_chunk, split(await file.read_text()), name, IdGenerator(), target)

    @coco.fn
    async def main() -> None:
        vectors = qdrant.QdrantVectorDef(
            schema=VectorSchema(dtype=np.dtype(np.float32), size=DIMENSION)
        )
        target = await qdrant.mount_collection_target(
            STORE, COLLECTION, await qdrant.CollectionSchema.create(vectors=vectors)
        )
        walked = localfs.walk_dir(files, recursive=True)
        await coco.mount_each(process_file, walked.items(), target)

    provided = coco.ContextProvider()
    provided.provide(STORE, client)
    environment = coco.Environment(
        coco.Settings(db_path=folder / "state"), context_provider=provided
    )
    return coco.App(coco.AppConfig(name="bench", environment=environment), main)


connect = CocoIndex
