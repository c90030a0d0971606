"""A system as it is run."""

from __future__ import annotations

from dataclasses import dataclass

PRODUCT = "bloomweaver"
PEERS = {
    "langchain": "langchain-core",
    "llamaindex": "llama-index-core",
    "cocoindex": "cocoindex",
}
"""And the package whose version says which release was measured."""


@dataclass(frozen=True, slots=True)
class Variant:
    """`batch` of None is the system's own default, of everything that is sent in batches.

    `int8`: on the graph that `bloomweaver optimize` makes; the product only.
    """

    system: str
    batch: int | None = None
    int8: bool = False

    def __str__(self) -> str:
        if self.system == PRODUCT:
            return f"{self.system}, int8 graph" if self.int8 else self.system
        return f"{self.system}, {f'batch {self.batch}' if self.batch else 'its defaults'}"
