"""The running product as its users meet it: one process group, HTTP and the command line."""

from __future__ import annotations

import io
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from docx import Document
from pypdf import PdfWriter

from tests.acceptance.service import Service, running, wait_until

pytestmark = pytest.mark.slow

GOOD = "# Gardening\n\nTulips bloom in spring and need cold winters."


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    yield from running(tmp_path_factory.mktemp("service"))


def insert(service: Service, document_id: str, text: str = GOOD) -> int:
    answer = service.post(
        "/v1/changes",
        {
            "change_type": "insert",
            "document_id": document_id,
            "content": text,
            "content_type": "text/markdown",
        },
    )
    return int(answer["version"])


def document(service: Service, document_id: str) -> dict[str, object]:
    got = service.get(f"/v1/namespaces/default/documents/{quote(document_id, safe='')}")
    return dict(got)


def status(service: Service, document_id: str) -> object:
    return document(service, document_id)["status"]


def search(service: Service, query: str, **options: object) -> list[dict[str, object]]:
    answer = service.post("/v1/namespaces/default/search", {"query": query, **options})
    return list(answer["hits"])


def test_a_writer_reads_its_own_write(service: Service) -> None:
    version = insert(service, "flowers.md")
    hits = search(service, "when do tulips bloom", min_version={"flowers.md": version}, wait=60)
    assert hits[0]["document_id"] == "flowers.md"
    assert hits[0]["version"] == version
    assert "Tulips" in str(hits[0]["text"])


def test_a_deleted_document_is_not_found_again(service: Service) -> None:
    insert(service, "secret.md", "The zebra password is swordfish.")
    assert search(service, "zebra password", wait=60)[0]["document_id"] == "secret.md"
    service.post("/v1/changes", {"change_type": "delete", "document_id": "secret.md"})
    hits = search(service, "zebra password", wait=60)
    assert "secret.md" not in {hit["document_id"] for hit in hits}


def test_a_broken_document_fails_alone_and_can_be_tried_again(service: Service) -> None:
    service.put("broken.pdf", b"%PDF-1.7 this is no PDF at all", "application/pdf")
    insert(service, "neighbour.md", "# Neighbour\n\nNothing happened to me.")
    wait_until("broken.pdf failed", lambda: status(service, "broken.pdf") == "FAILED")
    wait_until("its neighbour is done", lambda: status(service, "neighbour.md") == "COMPLETED")
    assert "PDF" in str(document(service, "broken.pdf")["error"])

    listed = service.run("dlq", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    assert "broken.pdf" in listed.stdout
    assert service.run("dlq", "redrive", "--all").returncode == 0
    wait_until("it failed again", lambda: _dead(service) == ["broken.pdf"])

    service.put("broken.pdf", _pdf(), "application/pdf")
    wait_until("the mended one is done", lambda: status(service, "broken.pdf") == "COMPLETED")


def _dead(service: Service) -> list[str]:
    letters = service.get("/v1/dead-letters")["dead_letters"]
    failed = status(service, "broken.pdf") == "FAILED"
    return [letter["document_id"] for letter in letters] if failed else []


def _pdf() -> bytes:
    writer = PdfWriter()
    writer.add_blank_page(72, 72)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_push_sends_what_changed_and_deletes_what_is_gone(service: Service, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "a.md").write_text("# A\n\nApples are red.")
    (tree / "b.html").write_text("<h1>B</h1><p>Bananas are yellow.</p>")
    docx = Document()
    docx.add_paragraph("Cherries grow on trees.")
    docx.save(str(tree / "c.docx"))
    push = ("push", str(tree), "--namespace", "fruit", "--json")

    first = service.run(*push)
    assert first.returncode == 0, first.stderr
    found = service.run("search", "yellow fruit", "--namespace", "fruit", "--json")
    assert json.loads(found.stdout)["hits"][0]["document_id"] == "b.html"

    (tree / "a.md").write_text("# A\n\nApples are green.")
    (tree / "b.html").unlink()
    second = service.run(*push, "--delete-missing")
    assert second.returncode == 0, second.stderr
    listed = service.get("/v1/namespaces/fruit/documents")["documents"]
    stands = {d["document_id"]: (d["status"], d["version"]) for d in listed}
    assert stands == {
        "a.md": ("COMPLETED", 2),
        "b.html": ("DELETED", 2),
        "c.docx": ("COMPLETED", 1),
    }


def test_a_worker_that_is_killed_loses_nothing(service: Service) -> None:
    text = "\n\n".join(f"# Section {n}\n\n{GOOD} Number {n}." for n in range(60))
    insert(service, "long.md", text)
    wait_until("it is being worked on", lambda: status(service, "long.md") == "PROCESSING")
    for pid in service.workers():
        os.kill(pid, signal.SIGKILL)
    wait_until("it is done all the same", lambda: status(service, "long.md") == "COMPLETED")
    assert document(service, "long.md")["attempts"] == 2


def test_a_canary_flies_through_it(service: Service) -> None:
    flown = service.run("canary", "--json", "--timeout-seconds", "60")
    assert flown.returncode == 0, flown.stderr
    told = json.loads(flown.stdout)
    assert (told["ok"], told["searched"], len(told["steps"])) == (True, True, 7)
    left = service.get("/v1/namespaces/canary/documents")["documents"]
    assert [row["status"] for row in left] == ["DELETED"]


def test_metrics_tell_of_all_processes(service: Service) -> None:
    insert(service, "metrics.md", "# Metrics\n\nCount me.")
    wait_until("it is done", lambda: status(service, "metrics.md") == "COMPLETED")
    found = service.run("search", "count me", "--wait", "30")
    assert found.returncode == 0, found.stderr
    totals = service.get("/v1/stats")["totals"]
    assert totals["chunks_embedded"] >= 1


def test_a_second_service_on_the_same_folder_is_refused(service: Service) -> None:
    assert service.process
    second = service.run("up", "--port", "0")
    assert second.returncode == 2
    assert str(service.process.pid) in second.stdout + second.stderr


def test_a_port_in_use_is_said_in_a_line(service: Service, tmp_path: Path) -> None:
    other = ["--port", str(service.port), "--data-dir", str(tmp_path / "other")]
    refused = service.run("up", *other)
    assert refused.returncode == 1
    assert "address already in use" in refused.stdout + refused.stderr
    assert "Traceback" not in refused.stdout + refused.stderr


def test_the_apply_roles_say_where_they_live(service: Service) -> None:
    refused = service.run("worker", "create")
    assert refused.returncode == 2
    assert "bloomweaver up" in refused.stdout + refused.stderr


def test_sigterm_drains_and_the_rest_is_done_after_the_restart(tmp_path: Path) -> None:
    service = Service(tmp_path, workers_max=1)
    service.start()
    try:
        for n in range(12):
            insert(service, f"{n}.md", f"# Document {n}\n\n" + f"Sentence number {n}. " * 300)
        wait_until("work has begun", lambda: service.documents().get("PROCESSING", 0) > 0)
        workers = service.workers()
        assert service.stop() == 0, service.tail()
        for pid in workers:
            assert not Path(f"/proc/{pid}").exists(), "a worker outlived its service"
        service.start()
        wait_until("all are done", lambda: service.documents() == {"COMPLETED": 12})
        assert service.stop() == 0, service.tail()
    finally:
        service.close()


def test_the_demo_runs_to_its_end(tmp_path: Path) -> None:
    demo = Service(tmp_path).run("demo")
    assert demo.returncode == 0, demo.stdout[-2000:] + demo.stderr[-2000:]
    for word in ("documents", "chunks embedded", "reused", " s, ", "worker", "stopped cleanly"):
        assert word in demo.stdout.lower(), f"the demo does not say {word!r}"
