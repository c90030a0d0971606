"""The TypeScript client is made of the API as it is, type-checks, and works against the service.

What needs node is left out where `make check` could not set it up, and says so.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest

from common.settings import Settings
from tests.fakes.receipts import MemoryReceipts
from tests.integration.test_client import working
from tests.integration.test_http_api import serving
from tests.pipeline import pipeline
from webhook.openapi import document
from workers.scrub import Scrubber
from workers.scrub_job import ScrubJob

FOLDER = Path("frontend/client")
WITHIN_SECONDS = 120.0
MEND = "the API has changed: run `make client`, and commit what it writes"

needs_node = pytest.mark.skipif(
    not (shutil.which("npm") and (FOLDER / "node_modules" / "ready").exists()),
    reason="node and the client's packages are not here: `make check` sets them up where node is",
)


def test_the_description_is_the_apis() -> None:
    told = json.loads((FOLDER / "openapi.json").read_text())
    assert told == json.loads(json.dumps(document(Settings(_env_file=None)))), MEND


def test_the_description_needs_no_service_and_no_settings(tmp_path: Path) -> None:
    environment = {**os.environ, "BLOOMWEAVER_MAX_TOP_K": "7", "PYTHONPATH": str(Path.cwd())}
    printed = subprocess.run(
        [sys.executable, "-m", "webhook.print_openapi"], check=True, capture_output=True,
        cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert printed.stdout == (FOLDER / "openapi.json").read_bytes(), MEND


async def npm(*words: str, **environment: str) -> tuple[int, str]:
    """The exit code, and all that was said."""
    process = await asyncio.create_subprocess_exec(
        "npm", "run", "--silent", *words, cwd=FOLDER, stdout=PIPE, stderr=STDOUT,
        env={**os.environ, **environment},
    )  # fmt: skip
    try:
        async with asyncio.timeout(WITHIN_SECONDS):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, said.decode()


@needs_node
async def test_the_types_are_those_of_the_description() -> None:
    code, said = await npm("generate", "--", "--check")
    assert code == 0, f"{MEND}\n{said}"


@needs_node
async def test_it_type_checks_and_works(tmp_path: Path) -> None:
    async with pipeline(tmp_path) as flow:
        scrub = ScrubJob(
            Scrubber(registry=flow.registry, blobs=flow.blobs, index=flow.index, queue=flow.queue,
                     timers=flow.sweeper.timers, clock=flow.clock)
        )  # fmt: skip
        receipts = {"receipts": MemoryReceipts()}
        async with serving(flow, scrub=scrub, services_too=receipts) as api, working(flow):
            code, said = await npm("test", BLOOMWEAVER_URL=str(api.url("")))
    assert code == 0, said
    assert "# skipped 0" in said
