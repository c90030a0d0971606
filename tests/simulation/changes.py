"""What clients send: few documents, and few paragraphs of which their contents are made."""

from __future__ import annotations

import random
from functools import lru_cache

from common import identity
from common.chunking.chunk import Chunk
from common.chunking.chunker import ChunkSizes
from common.model import DocumentKey, MetadataValue
from tests.fakes.embedder import WordTokenizer
from tests.simulation.plan import NAMESPACE, Plan
from tests.simulation.ports import POISON
from webhook.accept import Change, ChangeType
from workers.embed import make_chunks

SIZES = ChunkSizes(target_tokens=3, max_tokens=64)
PARAGRAPHS = ("tulips bloom early", "roses need sun", "ferns like shade", "moss grows slow")


class Changes:
    """Draws changes. `contents` keeps by blob key what every content truly is."""

    def __init__(self, drawn: random.Random, plan: Plan) -> None:
        self.random = drawn
        self.plan = plan
        self.contents: dict[str, bytes] = {}

    def draw(self) -> Change:
        drawn = self.random
        key = DocumentKey(NAMESPACE, f"d{drawn.randrange(self.plan.documents)}")
        kind = drawn.choices(list(ChangeType), (6, 2, 3))[0]
        source_version = drawn.randrange(20) if drawn.random() < 0.2 else None
        if kind is ChangeType.DELETE:
            return Change(key=key, change_type=kind, source_version=source_version)
        metadata: dict[str, MetadataValue] | None = None
        if drawn.random() < 0.4:
            metadata = {"lang": drawn.choice(("de", "en"))}
        content = None
        if kind is ChangeType.INSERT or drawn.random() < 0.4:
            content = self._content()
        return Change(
            key=key,
            change_type=kind,
            content=content,
            content_type="text/plain",
            metadata=metadata,
            source_version=source_version,
        )

    def _content(self) -> bytes:
        drawn = self.random
        if drawn.random() < self.plan.poison:
            return POISON.encode()
        count = drawn.choice((1, 2, 3, 3, 5))
        content = "\n\n".join(drawn.choice(PARAGRAPHS) for _ in range(count)).encode()
        blob_key = identity.raw_blob_key(NAMESPACE, identity.sha256_hex(content))
        self.contents[blob_key] = content
        return content

    def chunks_of(self, blob_key: str) -> list[str]:
        """The chunk texts of a blob's true content."""
        return [chunk.text for chunk in chunks_of(self.contents[blob_key])]


@lru_cache(maxsize=10_000)
def chunks_of(content: bytes) -> list[Chunk]:
    return make_chunks(content, "text/plain", WordTokenizer(), SIZES)
