"""What a cold start loads. Time is measured by tests/bench/lambda_cold.py; here it is modules."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.adapters.embedder.profile import url_of
from common.model import EmbeddingProfile
from tests.servers.aws import aws_environment

MODELS = {"fastembed", "onnxruntime", "onnx", "tokenizers", "huggingface_hub", "qdrant_edge"}
READERS = {"pypdf", "docx", "selectolax", "markdown_it"}
PROFILE = EmbeddingProfile(model="some", fingerprint="0123", dimension=8, max_tokens=64)
ON_AWS = {
    "BLOOMWEAVER_QUEUE_URL": "sqs:",
    "BLOOMWEAVER_REGISTRY_URL": "dynamodb:documents",
    "BLOOMWEAVER_BLOBS_URL": "s3://bucket/prefix",
    "BLOOMWEAVER_INDEX_URL": "pinecone:https://index.example",
    "BLOOMWEAVER_PINECONE_API_KEY": "key",
    "BLOOMWEAVER_EMBEDDER_URL": url_of(PROFILE),
    "BLOOMWEAVER_START_CHECKS": "false",
}
OPEN = """
import json, sys
import {module} as entry
entry.SANDBOX.run({work})
print(json.dumps(sorted(sys.modules)))
"""


def loaded_by(module: str, folder: Path, *, work: str = "nothing") -> set[str]:
    """Modules in a fresh interpreter, once the entry point has opened all its adapters."""
    code = "async def nothing(opened): pass\n" + OPEN.format(module=module, work=work)
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ, **ON_AWS, **aws_environment("http://127.0.0.1:9"),
            "PYTHONPATH": str(Path.cwd()), "BLOOMWEAVER_DATA_DIR": str(folder / "data"),
        },
        cwd=folder, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return set(json.loads(ended.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_a_consumer_loads_no_model_no_numbers_and_no_web_framework(tmp_path: Path) -> None:
    loaded = loaded_by("workers.lambda_entry", tmp_path)
    assert "common.adapters.registry.dynamodb" in loaded
    assert not {*MODELS, *READERS, "numpy", "aiohttp.web", "uvloop", "typer"} & loaded


@pytest.mark.slow
def test_the_webhook_loads_no_model(tmp_path: Path) -> None:
    loaded = loaded_by("webhook.lambda_entry", tmp_path)
    assert "aiohttp.web" in loaded
    assert not {*MODELS, *READERS, "typer"} & loaded
