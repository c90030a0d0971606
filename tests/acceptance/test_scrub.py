"""`bloomweaver scrub` on a running service under writing, after real damage, and on a folder that a
service has left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.service import Service, running, wait_until

pytestmark = pytest.mark.slow

DOCUMENTS = 30


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    yield from running(tmp_path)


def send(service: Service, number: int) -> None:
    changes = [
        {"change_type": "insert", "document_id": f"{n}.md", "content": f"Text {n}, {number}."}
        for n in range(DOCUMENTS)
    ]
    service.post("/v1/changes", {"changes": changes})


def scrub(service: Service, *arguments: str, code: int) -> Any:
    ended = service.run("scrub", "--json", *arguments)
    assert ended.returncode == code, ended.stdout + ended.stderr
    return json.loads(ended.stdout)


def all_completed(service: Service) -> bool:
    documents = service.documents()
    return documents.get("COMPLETED", 0) == DOCUMENTS == sum(documents.values())


def test_damage_is_found_on_a_running_service_and_mended(service: Service) -> None:
    send(service, 1)
    report = scrub(service, code=0)  # while they are being embedded and applied
    assert report["findings"] == []
    wait_until("all applied", lambda: all_completed(service))
    send(service, 2)
    report = scrub(service, code=0)
    assert (report["findings"], report["documents_checked"]) == ([], DOCUMENTS)
    wait_until("all applied again", lambda: all_completed(service))

    shutil.rmtree(service.data_dir / "blobs" / "packs")
    report = scrub(service, code=1)
    assert report["counts"] == {"pack": DOCUMENTS}
    report = scrub(service, "--repair", code=0)
    assert report["repaired_total"] == DOCUMENTS
    wait_until("all written anew", lambda: all_completed(service))
    assert scrub(service, code=0)["findings"] == []

    assert service.stop() == 0
    report = scrub(service, code=0)  # the folder itself
    assert (report["findings"], report["documents_checked"]) == ([], DOCUMENTS)
