"""Lays a model, and what is made of it, into an image, and embeds a text with it.

    python bake_model.py NAME [FOLDER]

NAME is a packaged model's, or what the model in FOLDER shall be called. It comes to lie in
BLOOMWEAVER_MODEL_CACHE_DIR. A folder that lacks a file ends the build, and not the first worker.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

from common.adapters.embedder.packaged_model import PACKAGED_MODELS
from common.composition import connect
from common.ports.embedder import Embedder, ModelUnavailableError, PreparingEmbedder
from common.settings import Settings


def laid(name: str, given: Path, cache: Path) -> str:
    """The path of the model, which is `given` no longer. Raises ModelUnavailableError."""
    if name in PACKAGED_MODELS or "/" in name:
        raise ModelUnavailableError(
            f"a model folder needs a name of its own, not {name!r}: --build-arg MODEL_NAME=…"
        )
    cache.mkdir(parents=True, exist_ok=True)
    return str(shutil.move(given, cache / name))


async def bake(model: str, settings: Settings) -> int:
    """The dimension of the vectors. Raises ModelUnavailableError."""
    embedder: Embedder = connect("embedder", f"fastembed:{model}", settings, "build")
    try:
        if isinstance(embedder, PreparingEmbedder):
            await embedder.prepare()
        await embedder.load()
        return len(await embedder.embed_query("a text"))
    finally:
        await embedder.close()


def main(name: str, *given: str) -> None:
    settings = Settings(device="cpu")
    try:
        model = laid(name, Path(given[0]), settings.model_folder) if given else name
        dimension = asyncio.run(bake(model, settings))
    except ModelUnavailableError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{model}: vectors of {dimension} numbers\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
