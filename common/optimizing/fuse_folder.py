"""`python -m common.optimizing.fuse_folder ORIGINAL DRAFT`: the fused graph of a model folder.

What common/adapters/embedder/fused_model.py runs as a child. DRAFT is an empty folder; in the end
it holds a whole model folder, or only the record that says why there is none.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer

from common.adapters.embedder.fused_model import GRAPH, MOST_BYTES, keep
from common.optimizing.float_graph import float_graph, fused_graph
from common.optimizing.model_folder import complete
from common.optimizing.problems import UnsuitableModelError

__all__ = ["main", "why_not_fused"]

_TEXT: Final = (
    "Whoever compares two graphs needs a text with some variety in it: numbers such as 42.7 and "
    "1,024, a name like Lovelace, a rare word or two (quokka, zeugma), naïve spelling, a path as "
    "in /var/lib/data, `code(x) == None`, and enough length that attention has something to do. "
)
_MOST_TOKENS: Final = 160


def why_not_fused(original: Path, draft: Path) -> str | None:
    """None when the draft holds the fused model now. Raises OSError."""
    size = (original / GRAPH).stat().st_size
    if size > MOST_BYTES:
        return f"its graph has {size:,} bytes, more than {MOST_BYTES:,}"
    try:
        plain = float_graph(original / GRAPH, draft)
    except UnsuitableModelError as error:
        return str(error)
    if plain.ByteSize() > MOST_BYTES:  # weights that were stored as int8 are four times as large
        return f"its weights take {plain.ByteSize():,} bytes, more than {MOST_BYTES:,}"
    graph, fusions = fused_graph(plain, _token_ids(original))
    if not fusions:
        return "nothing in its graph is known how to be fused with the same outputs"
    complete(draft, original)
    (draft / GRAPH).write_bytes(graph.SerializeToString())
    return None


def main(original: Path, draft: Path) -> None:
    keep(draft, why_not_fused(original, draft))


def _token_ids(original: Path) -> list[int]:
    tokenizer = Tokenizer.from_file(str(original / "tokenizer.json"))
    ids: list[int] = tokenizer.encode(_TEXT * 3).ids
    return ids[:_MOST_TOKENS]


def _end_with_parent() -> None:
    """Its end of the pipe is closed whatever it dies of; nothing is ever written to it."""
    os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    main(Path(sys.argv[1]), Path(sys.argv[2]))
