"""POST /v1/sources/{name}, as a system that sends webhooks meets it."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
from multidict import CIMultiDict
from structlog.testing import capture_logs

from common import telemetry
from common.adapters.receipts.sqlite import SqliteReceipts
from common.composition import ConfigurationError
from common.model import QueueName
from common.outbound import Fetched
from common.outbound_rules import RefusedError
from common.ports.errors import PermanentError, TransientError
from common.settings import Settings
from tests.fakes.audit import MemoryAuditTrail
from tests.fakes.receipts import MemoryReceipts
from tests.integration.test_access import key_in, running, settings_in
from tests.integration.test_http_api import Api, is_problem, serving
from tests.pipeline import Pipeline, pipeline
from tests.source_files import SECRET, VARIABLE, recorded
from tests.unit.test_github_files import MISSING, GitHub
from webhook.accept import Acceptor
from webhook.auditing import Auditing
from webhook.content_urls import ContentUrls
from webhook.limits import Limits
from webhook.sources import deliveries
from webhook.sources.directory import SourceDirectory
from webhook.token_bucket import Rate
from webhook.work_to_the_end import WorkToTheEnd

FILE = f"""\
sources:
  wiki:
    namespace: docs
    verify: {{kind: standard-webhooks, secret: "${{{VARIABLE}}}"}}
    ignore: payload.type == 'ping'
    items: payload.pages
    max_body_bytes: 100000
    max_changes: 50
    changes:
      - when: "!(item.gone)"
        document_id: "{{item.id}}"
        content: item.text
        source_version: item.n
      - when: item.gone
        change_type: delete
        document_id: "{{item.id}}"
        source_version: item.n
  github:
    namespace: docs
    verify: {{kind: github, secret: "${{{VARIABLE}}}"}}
    changes: [{{document_id: "{{item.id}}", content: item.text}}]
  tenants:
    namespaces: [docs, team-*]
    verify: {{kind: basic, username: sender, secret: "${{{VARIABLE}}}"}}
    items: payload
    changes:
      - namespace: "{{item.namespace}}"
        document_id: "{{item.id}}"
        content: item.text
  titles:
    namespace: docs
    verify: {{kind: token, secret: "${{{VARIABLE}}}"}}
    changes: [{{change_type: update, document_id: "{{item.id}}", metadata: {{title: item.title}}}}]
  events:
    preset: cloudevents
    namespace: docs
    verify: {{kind: hmac, header: X-Signature, secret: "${{{VARIABLE}}}"}}
  connected-events:
    preset: cloudevents
    namespace: docs
    verify: {{kind: token, secret: "${{{VARIABLE}}}"}}
  repository:
    preset: github-push
    namespace: docs
    github_token: ${{{VARIABLE}}}
    repositories: [example-org/handbook]
    verify: {{secret: "${{{VARIABLE}}}"}}
  local:
    namespace: docs
    verify: {{kind: none}}
    changes: [{{document_id: "{{item.id}}", content: item.text}}]
  links:
    namespace: docs
    verify: {{kind: token, secret: "${{{VARIABLE}}}"}}
    items: payload
    changes:
      - {{when: item.at, document_id: "{{item.id}}", content_url: "https://files.example/{{item.at}}"}}
      - {{when: item.text, document_id: "{{item.id}}", content: item.text}}
  titled-texts:
    namespace: docs
    verify: {{kind: token, secret: "${{{VARIABLE}}}"}}
    items: payload
    changes:
      - {{when: item.text, document_id: "{{item.id}}", content: item.text}}
      - when: item.title
        change_type: update
        document_id: "{{item.id}}"
        metadata: {{title: item.title}}
  old:
    stopped: true
    namespace: docs
    verify: {{kind: none}}
    changes: [{{document_id: "{{item.id}}", content: item.text}}]
"""


@dataclass
class Sender:
    """Sends as the named source would, signed with its secret."""

    api: Api
    directory: SourceDirectory
    receipts: Any

    async def send(
        self, name: str, payload: Any, *, delivery_id: str = "m1", at: float | None = None,
        signed_as: bytes | None = None, **headers: str,
    ) -> tuple[int, Any, CIMultiDict[str]]:  # fmt: skip
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        source = self.directory.sources[name]
        given = source.verification.sign(
            signed_as if signed_as is not None else body,
            delivery_id=delivery_id,
            now=time.time() if at is None else at,
        )
        given |= {key.replace("_", "-"): value for key, value in headers.items()}
        return await self.post(name, body, given)

    async def post(
        self, name: str, body: bytes, headers: dict[str, str]
    ) -> tuple[int, Any, CIMultiDict[str]]:
        async with self.api.client.post(
            f"/v1/sources/{name}", data=io.BytesIO(body), headers=headers, allow_redirects=False
        ) as answer:
            return answer.status, await answer.json(content_type=None), CIMultiDict(answer.headers)

    async def texts(self) -> dict[str, str | None]:
        """Of all documents that were changed; None: deleted."""
        page = await self.api.flow.registry.scan("docs")
        found: dict[str, str | None] = {}
        for row in page.rows:
            desired = row.desired
            content = None
            if not desired.tombstone:
                content = (await self.api.flow.blobs.get(desired.blob_key)).decode()
            found[row.key.document_id] = content
        return found


@asynccontextmanager
async def sending(
    flow: Pipeline,
    path: Path,
    receipts: Any,
    *,
    file: str = FILE,
    settings: Mapping[str, Any] | None = None,
    **services: Any,
) -> AsyncIterator[Sender]:
    path.write_text(file)
    directory = SourceDirectory(path, on_loopback=True)
    await directory.start()
    too = {"sources": directory, "receipts": receipts, **services}
    given = {"fetch_allowed_hosts": ["files.example"], **(settings or {})}
    async with serving(flow, services_too=too, **given) as api:
        yield Sender(api, directory, receipts)


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, SECRET)


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


@pytest.fixture
async def sender(flow: Pipeline, tmp_path: Path) -> AsyncIterator[Sender]:
    receipts = SqliteReceipts(tmp_path / "receipts.sqlite")
    async with sending(flow, tmp_path / "sources.yaml", receipts) as made:
        yield made
    await receipts.close()


def pages(*items: dict[str, Any]) -> dict[str, Any]:
    return {"pages": list(items)}


# --- accepted ------------------------------------------------------------------------------------


async def test_a_delivery_is_durable_before_it_is_answered(sender: Sender) -> None:
    one, two = {"id": "a", "text": "A", "n": 1}, {"id": "b", "text": "B", "n": 1}
    status, body, _ = await sender.send("wiki", pages(one, two))
    assert (status, body) == (
        200,
        {
            "source": "wiki", "delivery_id": "m1", "changes": 2, "ignored": 0,
            "accepted": 2, "unchanged": 0, "superseded": 0,
        },
    )  # fmt: skip
    assert sorted(sender.api.journal) == [
        "blob",
        "blob",
        "row",
        "row",
        "wake change",
        "wake change",
    ]
    assert await sender.texts() == {"a": "A", "b": "B"}


async def test_deletes_and_what_is_not_newer(sender: Sender) -> None:
    await sender.send("wiki", pages({"id": "a", "text": "A", "n": 5}))
    late, gone = {"id": "a", "text": "late", "n": 4}, {"id": "b", "gone": True, "n": 9}
    _, body, _ = await sender.send("wiki", pages(late, gone), delivery_id="m2")
    assert (body["accepted"], body["superseded"]) == (1, 1)
    await sender.send("wiki", pages({"id": "b", "text": "overtaken", "n": 8}), delivery_id="m3")
    assert await sender.texts() == {"a": "A", "b": None}


async def test_what_is_ignored_is_answered_and_changes_nothing(sender: Sender) -> None:
    for payload in ({"type": "ping"}, pages(), {}):
        status, body, _ = await sender.send("wiki", payload)
        assert (status, body["changes"]) == (200, 0)
    assert await sender.texts() == {}


async def test_a_changed_file_is_in_force_at_once(sender: Sender, tmp_path: Path) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text(FILE.replace("  github:", "  forge:"))
    assert not sender.directory.look()
    assert sender.directory.look()
    status, _, _ = await sender.send("forge", {"id": "a", "text": "A"})
    assert status == 200
    status, body, _ = await sender.post("github", b"{}", {})
    assert is_problem(status, body, "not-found")


async def test_a_binary_cloud_event(sender: Sender) -> None:
    event: Any = {
        "content_type": "text/markdown", "ce_specversion": "1.0", "ce_id": "42",
        "ce_source": "/s", "ce_type": "t.saved", "ce_subject": "run.md",
    }  # fmt: skip
    body = recorded("cloudevents-binary.md")
    status, answer, _ = await sender.send("events", body, **event)
    assert is_problem(status, answer, "invalid-field", "ce-specversion")
    status, answer, _ = await sender.send("connected-events", body, **event)
    assert (status, answer["delivery_id"]) == (200, '[["/s", "42"]]')
    assert "Restart the queue" in str((await sender.texts())["/s#run.md"])


async def test_the_files_of_a_push_are_fetched_and_kept(flow: Pipeline, tmp_path: Path) -> None:
    github = GitHub(README=b"# Handbook")
    path, push = tmp_path / "sources.yaml", recorded("github-push.json")
    async with sending(flow, path, MemoryReceipts(), github=github) as sender:
        event: Any = {"X_GitHub_Event": "push", "X_GitHub_Delivery": "d1"}
        status, body, _ = await sender.send("repository", push, **event)
        assert (status, body["changes"], body["accepted"]) == (200, 4, 4)
        assert (await sender.texts())["example-org/handbook/README.md"] == "# Handbook"
        asked = len(github.asked)
        assert github.asked["README.md"]["Authorization"] == f"Bearer {SECRET}"
        github.asked.clear()
        await sender.send("repository", push, **event)
        assert (asked, github.asked) == (4, {})


async def test_a_push_comes_again_while_github_is_away(flow: Pipeline, tmp_path: Path) -> None:
    """The files that could be had are worked; GitHub's next delivery brings the others."""
    github = GitHub(old=[TransientError("api.github.com answers 502", retry_after_seconds=7), b"#"])
    path, push = tmp_path / "sources.yaml", recorded("github-push.json")
    async with sending(flow, path, MemoryReceipts(), github=github) as sender:
        event: Any = {"X_GitHub_Event": "push", "X_GitHub_Delivery": "d1"}
        status, body, headers = await sender.send("repository", push, **event)
        assert is_problem(status, body, "content-unavailable", "changes[3].content")
        assert headers["Retry-After"] == "7"
        assert "example-org/handbook/docs/old.md" not in await sender.texts()
        github.asked.clear()
        status, body, headers = await sender.send("repository", push, **event)
        assert (status, body["changes"], list(github.asked)) == (200, 4, ["docs/old.md"])
        assert "Idempotency-Replayed" not in headers
        assert (await sender.texts())["example-org/handbook/docs/old.md"] == "#"


async def test_a_push_as_a_form_is_signed_as_it_was_sent(flow: Pipeline, tmp_path: Path) -> None:
    path, push = tmp_path / "sources.yaml", recorded("github-push.json")
    body = urlencode({"payload": push.decode()}).encode()
    event: Any = {
        "X_GitHub_Event": "push", "X_GitHub_Delivery": "d1",
        "Content_Type": "application/x-www-form-urlencoded",
    }  # fmt: skip
    async with sending(flow, path, MemoryReceipts(), github=GitHub()) as sender:
        status, _, _ = await sender.send("repository", body, signed_as=push, **event)
        assert status == 401
        status, body_of, _ = await sender.send("repository", body, **event)
        assert (status, body_of["accepted"]) == (200, 4)


async def test_a_file_that_cannot_be_had_holds_up_no_other(flow: Pipeline, tmp_path: Path) -> None:
    """Nor does one that is no text: sending them again would mend neither."""
    github = GitHub(old=RefusedError("api.github.com answers 403", status=403), README=b"\xff")
    path, push = tmp_path / "sources.yaml", recorded("github-push.json")
    async with sending(flow, path, MemoryReceipts(), github=github) as sender:
        event: Any = {"X_GitHub_Event": "push", "X_GitHub_Delivery": "d1"}
        status, body, _ = await sender.send("repository", push, **event)
        assert (status, body["accepted"], body["refused"]) == (200, 2, 2)
        names = {error["document_id"].rpartition("/")[2] for error in body["errors"]}
        assert names == {"old.md", "README.md"}
        assert await sender.texts() == {
            "example-org/handbook/docs/Travel & costs.md": "# A page",
            "example-org/handbook/docs/draft.md": None,
        }
        github.answers |= {"old": b"# Old", "README": b"# Read"}
        _, again, headers = await sender.send("repository", push, **event)
        assert (again["accepted"], again["unchanged"], again.get("refused")) == (2, 2, None)
        assert "Idempotency-Replayed" not in headers
        assert (await sender.texts())["example-org/handbook/README.md"] == "# Read"


async def test_two_pushes_in_one_second_end_as_the_branch_does(
    flow: Pipeline, tmp_path: Path
) -> None:
    """Told in the wrong order, both of the same second: the branch is what is true."""
    github, path = GitHub("9" * 40, README=b"# New"), tmp_path / "sources.yaml"
    push = json.loads(recorded("github-push.json"))
    newer = push | {"before": "3" * 40, "after": "9" * 40}
    async with sending(flow, path, MemoryReceipts(), github=github) as sender:
        for number, payload in enumerate((newer, push)):
            event: Any = {"X_GitHub_Event": "push", "X_GitHub_Delivery": f"d{number}"}
            status, _, _ = await sender.send("repository", payload, **event)
            assert status == 200
        assert (await sender.texts())["example-org/handbook/README.md"] == "# New"
        github.answers["README"] = b"# Newest"
        third: Any = {"X_GitHub_Event": "push", "X_GitHub_Delivery": "d3"}
        await sender.send("repository", newer | {"before": "8" * 40}, **third)
        assert (await sender.texts())["example-org/handbook/README.md"] == "# Newest"


@pytest.mark.parametrize("forced", [False, True])
async def test_a_signed_push_reads_no_other_repository(
    flow: Pipeline, tmp_path: Path, forced: bool
) -> None:
    """Whoever knows one hook's secret does not choose what the token reads."""
    github, path = GitHub(), tmp_path / "sources.yaml"
    push = json.loads(recorded("github-push.json")) | {"forced": forced}
    push["repository"]["full_name"] = "other/private"
    async with sending(flow, path, MemoryReceipts(), github=github) as sender:
        event: Any = {"X_GitHub_Event": "push", "X_GitHub_Delivery": "d1"}
        status, body, _ = await sender.send("repository", push, **event)
        assert (status, body["detail"].split(" is ")[0]) == (403, "'other/private'")
        assert github.asked == {}
        assert await sender.texts() == {}


FORCED = json.loads(recorded("github-push.json")) | {"forced": True, "commits": []}
DROPPED, BROUGHT = "3" * 40 + "..." + "1" * 40, "1" * 40 + "..." + "3" * 40


async def test_what_a_force_push_drops_is_looked_at(flow: Pipeline, tmp_path: Path) -> None:
    """A page that only a dropped commit had is deleted; one that it had changed is as before."""
    github, path = GitHub(dropped=MISSING), tmp_path / "sources.yaml"
    github.compared = {
        DROPPED: [
            {"filename": "dropped.md", "status": "added"},
            {"filename": "README.md", "status": "modified"},
            {"filename": "to.md", "previous_filename": "from.md", "status": "renamed"},
        ],
        BROUGHT: [{"filename": "docs/new.md", "status": "added"}, {"filename": "Makefile"}],
    }
    async with sending(flow, path, MemoryReceipts(), github=github) as sender:
        event: Any = {"X_GitHub_Event": "push", "X_GitHub_Delivery": "d1"}
        status, body, _ = await sender.send("repository", FORCED, **event)
        assert (status, body["changes"], body.get("warnings")) == (200, 5, None)
        names = {name.rpartition("/")[2]: text for name, text in (await sender.texts()).items()}
        assert names == {
            "dropped.md": None, "README.md": "# A page", "new.md": "# A page",
            "from.md": "# A page", "to.md": "# A page",
        }  # fmt: skip
        elsewhere = FORCED | {"ref": "refs/heads/other"}
        github.compared.clear()
        other: Any = {"X_GitHub_Event": "push", "X_GitHub_Delivery": "d2"}
        status, body, _ = await sender.send("repository", elsewhere, **other)
        assert (status, body["ignored"]) == (200, 1)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (RefusedError("api.github.com answers 404", status=404), "stay as they were"),
        ("{}", "stay as they were"),
        ([{"filename": f"{n}.txt"} for n in range(300)], "more than the 300 files"),
    ],
)
async def test_a_push_that_does_not_tell_everything_says_so(
    flow: Pipeline, tmp_path: Path, answer: Any, words: str
) -> None:
    github, path = GitHub(), tmp_path / "sources.yaml"
    github.compared = {DROPPED: answer, BROUGHT: []}
    async with sending(flow, path, MemoryReceipts(), github=github) as sender:
        event: Any = {"X_GitHub_Event": "push", "X_GitHub_Delivery": "d1"}
        with capture_logs() as logs:
            status, body, _ = await sender.send("repository", FORCED, **event)
        assert (status, body["changes"]) == (200, 0)
        assert words in body["warnings"][0]
        assert "--delete-missing" in body["warnings"][0]
        assert [log["warnings"] for log in logs if log["event"] == "source.warned"] == [
            body["warnings"]
        ]


async def test_a_force_push_comes_again_while_github_is_away(
    flow: Pipeline, tmp_path: Path
) -> None:
    github, path = GitHub(), tmp_path / "sources.yaml"
    away = TransientError("api.github.com answers 503", retry_after_seconds=9)
    github.compared = {DROPPED: away}
    async with sending(flow, path, MemoryReceipts(), github=github) as sender:
        event: Any = {"X_GitHub_Event": "push", "X_GitHub_Delivery": "d1"}
        status, body, headers = await sender.send("repository", FORCED, **event)
        assert is_problem(status, body, "content-unavailable", "compare_on_github")
        assert headers["Retry-After"] == "9"
        named = FORCED | {"commits": [{"modified": ["README.md"]}]}
        status, _, _ = await sender.send("repository", named, **event)
        assert status == 503
        assert await sender.texts() == {"example-org/handbook/README.md": "# A page"}
        github.compared = {DROPPED: [{"filename": "other.md"}], BROUGHT: []}
        status, body, headers = await sender.send("repository", named, **event)
        assert (status, body["accepted"], body["unchanged"]) == (200, 1, 1)
        assert "Idempotency-Replayed" not in headers


async def test_a_comparison_that_takes_too_long_holds_up_no_named_file(
    flow: Pipeline, tmp_path: Path
) -> None:
    github, path = GitHub(), tmp_path / "sources.yaml"
    github.compared = {DROPPED: TimeoutError()}
    named = FORCED | {"commits": [{"modified": ["README.md"]}]}
    async with sending(flow, path, MemoryReceipts(), github=github) as sender:
        event: Any = {"X_GitHub_Event": "push", "X_GitHub_Delivery": "d1"}
        status, body, _ = await sender.send("repository", named, **event)
        assert is_problem(status, body, "unavailable", "compare_on_github")
        assert await sender.texts() == {"example-org/handbook/README.md": "# A page"}


# --- one by one ----------------------------------------------------------------------------------


async def test_one_change_that_can_never_be_accepted_holds_up_no_other(sender: Sender) -> None:
    good, bad = {"id": "a", "text": "A"}, {"id": "b"}
    counted = telemetry.SOURCE_REFUSED.labels("wiki")
    before = counted._value.get()
    with capture_logs() as logs:
        status, body, _ = await sender.send("wiki", pages(bad, good, {"text": "x"}))
    assert (status, body["changes"], body["accepted"], body["refused"]) == (200, 3, 1, 2)
    assert [(e["field"], e["document_id"], e["status"]) for e in body["errors"]] == [
        ("items[2].rules[0].document_id", "", 422),
        ("changes[0].content", "b", 422),
    ]
    assert await sender.texts() == {"a": "A"}
    (told,) = [log for log in logs if log["event"] == "source.changes_refused"]
    assert (told["source"], told["count"]) == ("wiki", 2)
    assert counted._value.get() == before + 2


async def test_an_answer_does_not_repeat_a_megabyte(sender: Sender) -> None:
    wrong = [{"id": "x" * 50_000, "text": "A"}, {"id": "y" * 40_000}]
    _, body, _ = await sender.send("wiki", pages(*wrong, {"id": "a", "text": "A"}))
    assert (body["accepted"], body["refused"]) == (1, 2)
    assert len(json.dumps(body)) < 2000


async def test_where_nothing_is_valid_the_delivery_is_refused(sender: Sender) -> None:
    status, body, _ = await sender.send("wiki", pages({"id": "b"}, {"text": "x"}))
    assert is_problem(status, body, "invalid-field", "items[1].rules[0].document_id")
    assert [error["document_id"] for error in body["errors"]] == ["", "b"]
    status, body, headers = await sender.send("wiki", pages({"id": "b"}, {"text": "x"}))
    assert status == 422, "it is not remembered"
    assert "Idempotency-Replayed" not in headers


async def test_what_may_be_accepted_later_is_to_come_again_whatever_is_wrong_with_others(
    sender: Sender,
) -> None:
    sender.api.queue.errors.append(TransientError("the queue is away"))
    both = pages({"id": "b"}, {"id": "a", "text": "A"})
    status, body, _ = await sender.send("wiki", both)
    assert is_problem(status, body, "unavailable")
    status, body, _ = await sender.send("wiki", both)
    assert (status, body["refused"]) == (200, 1)
    assert await sender.texts() == {"a": "A"}


async def test_a_namespace_of_another_model_holds_up_no_other(sender: Sender) -> None:
    flow = sender.api.flow
    other = replace(flow.embedder.profile, fingerprint="f" * 64)
    await flow.registry.bind_namespace("team-x", other)
    sent = [{"namespace": name, "id": "a", "text": "A"} for name in ("team-x", "docs")]
    status, body, _ = await sender.send("tenants", sent)
    assert is_problem(status, body, "profile-mismatch", "changes[0].namespace")
    assert await sender.texts() == {"a": "A"}


class Files:
    """The guarded client, with a server behind it."""

    def __init__(self, **answers: bytes | Exception) -> None:
        self.answers = answers

    async def fetch(self, url: str) -> Fetched:
        answer = self.answers[url.rpartition("/")[2]]
        if isinstance(answer, Exception):
            raise answer
        return Fetched(answer, "text/markdown")


async def test_content_that_is_out_of_reach_holds_up_no_other(
    flow: Pipeline, tmp_path: Path
) -> None:
    files = Files(a=TransientError("files.example answers 502"), b=b"B")
    files.answers["gone"] = RefusedError("files.example answers 404", status=404)
    client: Any = files
    urls = ContentUrls(client=client, settings=Settings(_env_file=None))
    both = [{"id": name, "at": name} for name in ("a", "b", "gone")]
    later = {"id": "a", "text": "after what could not be fetched"}
    sent = [*both, later, {"id": "c", "text": "C"}]
    path = tmp_path / "sources.yaml"
    async with sending(flow, path, MemoryReceipts(), content_urls=urls) as sender:
        status, body, headers = await sender.send("links", sent)
        assert is_problem(status, body, "content-unavailable", "content_url")
        assert "Retry-After" in headers
        assert await sender.texts() == {"b": "B", "c": "C"}, "the changes of one document in order"
        files.answers["a"] = b"A"
        status, body, _ = await sender.send("links", sent)
        assert (status, body["refused"]) == (200, 1)
        assert body["errors"][0]["field"] == "changes[2].content_url"
        assert (await sender.texts())["a"] == "after what could not be fetched"


async def test_refused_changes_are_in_the_audit_trail(flow: Pipeline, tmp_path: Path) -> None:
    trail = MemoryAuditTrail()
    auditing = Auditing(trail=trail)
    path = tmp_path / "sources.yaml"
    async with sending(flow, path, MemoryReceipts(), auditing=auditing) as sender:
        await sender.send("wiki", pages({"id": "b"}, {"id": "a", "text": "A"}))
        outside = {"namespace": "other", "id": "c", "text": "C"}
        await sender.send("tenants", [{"namespace": "docs", "id": "d", "text": "D"}, outside])
        await auditing.close()
    refused = [(e.document_id, e.result) for e in trail.events if e.action == "refused"]
    assert sorted(refused) == [("b", "invalid-field"), ("c", "forbidden")]


async def test_what_was_refused_is_tried_again_once_it_is_mended(
    flow: Pipeline, tmp_path: Path
) -> None:
    """And its neighbour, which has changed meanwhile, is left alone."""
    files = Files(a=RefusedError("files.example answers 403", status=403))
    client: Any = files
    urls = ContentUrls(client=client, settings=Settings(_env_file=None))
    sent = [{"id": "a", "at": "a"}, {"id": "b", "text": "old"}]
    path = tmp_path / "sources.yaml"
    d1: Any = {"webhook_id": "d1"}
    async with sending(flow, path, MemoryReceipts(), content_urls=urls) as sender:
        status, body, _ = await sender.send("links", sent, **d1)
        assert (status, body["accepted"], body["refused"]) == (200, 1, 1)
        await sender.send("links", [{"id": "b", "text": "new"}], webhook_id="d2")
        files.answers["a"] = b"A"
        status, body, headers = await sender.send("links", sent, **d1)
        assert (status, body["accepted"], body["unchanged"]) == (200, 1, 1)
        assert "Idempotency-Replayed" not in headers
        assert await sender.texts() == {"a": "A", "b": "new"}
        assert (await sender.send("links", sent, **d1))[2]["Idempotency-Replayed"] == "true"


async def test_a_document_that_has_to_be_mended_holds_up_no_other(sender: Sender) -> None:
    sender.api.queue.failing_document = "a"
    sender.api.queue.errors.append(PermanentError("the row of a is damaged"))
    both = pages({"id": "a", "text": "A"}, {"id": "b", "text": "B"})
    status, body, headers = await sender.send("wiki", both)
    assert is_problem(status, body, "unavailable", "changes[0].document_id")
    assert "Retry-After" in headers
    assert (await sender.texts())["b"] == "B"
    status, body, _ = await sender.send("wiki", both)
    assert (status, body["accepted"] + body["unchanged"]) == (200, 2)


async def test_one_namespace_too_many_holds_up_no_other(flow: Pipeline, tmp_path: Path) -> None:
    sent = [{"namespace": name, "id": "a", "text": "A"} for name in ("docs", "team-x")]
    path, one = tmp_path / "sources.yaml", {"max_namespaces": 1}
    async with sending(flow, path, MemoryReceipts(), settings=one) as sender:
        await sender.send("tenants", sent[:1])
        newer = [{**sent[0], "text": "newer"}]
        status, body, _ = await sender.send("tenants", [*sent[1:], *newer])
        assert is_problem(status, body, "quota-exceeded", "changes[0].document_id")
        assert await sender.texts() == {"a": "newer"}


async def test_what_a_delivery_changes_nothing_in_is_no_new_namespace(sender: Sender) -> None:
    status, _, _ = await sender.send("titles", {"id": "a", "title": "T"})
    assert status >= 400
    assert await sender.api.flow.registry.namespaces() == {}


async def test_a_namespace_that_has_to_be_mended_holds_up_no_other(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_bound = Acceptor.is_bound

    async def damaged(self: Acceptor, namespace: str) -> bool:
        if namespace == "team-x":
            raise PermanentError("its binding is damaged")
        return await is_bound(self, namespace)

    monkeypatch.setattr(Acceptor, "is_bound", damaged)
    sent = [{"namespace": name, "id": "a", "text": "A"} for name in ("team-x", "docs")]
    status, body, _ = await sender.send("tenants", sent)
    assert is_problem(status, body, "unavailable", "changes[0]")
    assert await sender.texts() == {"a": "A"}


async def test_what_the_mapping_refused_is_told_again(sender: Sender) -> None:
    for outcome in ("accepted", "unchanged"):
        sent = pages({"id": "a", "text": "A"}, {"text": "x"})
        _, body, headers = await sender.send("wiki", sent)
        assert (body[outcome], body["refused"], len(body["errors"])) == (1, 1, 1)
        assert "Idempotency-Replayed" not in headers


async def test_what_the_same_delivery_replaces_does_not_come_again(sender: Sender) -> None:
    """Done later, after what replaced it, it would undo that."""
    sent = [{"id": "a", "title": "T"}, {"id": "a", "text": "A"}]
    status, body, _ = await sender.send("titled-texts", sent)
    assert (status, body["accepted"], body["superseded"]) == (200, 1, 1)


# --- again ---------------------------------------------------------------------------------------


async def test_a_delivery_that_comes_again_changes_nothing_again(sender: Sender) -> None:
    first = await sender.send("github", {"id": "a", "text": "old"}, X_GitHub_Delivery="d1")
    await sender.send("github", {"id": "a", "text": "new"}, X_GitHub_Delivery="d2")
    again = await sender.send("github", {"id": "a", "text": "old"}, X_GitHub_Delivery="d1")
    assert again[:2] == first[:2]
    assert again[2]["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first[2]
    assert await sender.texts() == {"a": "new"}


async def test_another_body_under_the_same_id_is_another_delivery(sender: Sender) -> None:
    await sender.send("github", {"id": "a", "text": "one"}, X_GitHub_Delivery="d1")
    status, body, _ = await sender.send(
        "github", {"id": "a", "text": "two"}, X_GitHub_Delivery="d1"
    )
    assert (status, body["accepted"]) == (200, 1)
    assert await sender.texts() == {"a": "two"}


async def test_sources_do_not_share_delivery_ids(sender: Sender) -> None:
    await sender.send("local", {"id": "a", "text": "A"}, webhook_id="d1")
    replayed = []
    for _ in range(2):
        _, body, headers = await sender.send(
            "wiki", pages({"id": "b", "text": "B"}), delivery_id="d1"
        )
        assert body["accepted"] == 1
        replayed.append(headers.get("Idempotency-Replayed"))
    assert replayed == [None, "true"]


async def test_a_new_mapping_works_an_old_delivery_again(sender: Sender, tmp_path: Path) -> None:
    await sender.send("github", {"id": "a", "text": "A"}, X_GitHub_Delivery="d1")
    old = 'changes: [{document_id: "{item.id}", c'
    new = old.replace("{item.id}", "new/{item.id}")
    (tmp_path / "sources.yaml").write_text(FILE.replace(old, new, 1))
    assert not sender.directory.look()
    assert sender.directory.look()
    await sender.send("github", {"id": "a", "text": "A"}, X_GitHub_Delivery="d1")
    assert await sender.texts() == {"a": "A", "new/a": "A"}


async def test_the_same_delivery_twice_at_once_is_harmless(sender: Sender) -> None:
    payload = pages(*({"id": str(n), "text": "x", "n": 1} for n in range(10)))
    answers = await asyncio.gather(*(sender.send("wiki", payload) for _ in range(4)))
    assert {status for status, _, _ in answers} == {200}
    # Who comes while it is worked, and who comes later, is told the same.
    assert [body["accepted"] for _, body, _ in answers] == [10] * 4
    rows = (await sender.api.flow.registry.scan("docs")).rows
    assert [row.desired.version for row in rows] == [1] * 10


async def test_a_delivery_that_failed_is_not_remembered(sender: Sender) -> None:
    sender.api.queue.errors.append(TransientError("the queue is away"))
    one = pages({"id": "a", "text": "A"})
    status, body, headers = await sender.send("wiki", one)
    assert is_problem(status, body, "unavailable")
    assert int(headers["Retry-After"]) >= 1
    status, body, headers = await sender.send("wiki", one)
    assert (status, body["changes"]) == (200, 1)
    assert "Idempotency-Replayed" not in headers
    assert await sender.texts() == {"a": "A"}


async def test_without_its_receipts_a_source_answers_503(flow: Pipeline, tmp_path: Path) -> None:
    receipts = MemoryReceipts()
    async with sending(flow, tmp_path / "sources.yaml", receipts) as sender:
        receipts.errors.append(TransientError("away"))
        status, body, headers = await sender.send("wiki", pages({"id": "a", "text": "A"}))
        assert is_problem(status, body, "unavailable")
        assert "Retry-After" in headers
        assert await sender.texts() == {}
        status, _, _ = await sender.send("wiki", pages({"id": "a", "text": "A"}))
        assert status == 200
        (receipt,) = receipts.kept.values()
        assert receipt.expires_at == pytest.approx(time.time() + 4 * 86400, abs=60)


# --- limits --------------------------------------------------------------------------------------


async def test_a_source_has_limits_of_its_own(flow: Pipeline, tmp_path: Path) -> None:
    once = Limits(requests=Rate(per_second=0.001, burst=1), clock=lambda: 0.0)
    path = tmp_path / "sources.yaml"
    async with sending(flow, path, MemoryReceipts(), limits=once) as sender:
        assert (await sender.send("wiki", {}))[0] == 200
        status, body, headers = await sender.send("wiki", {})
        assert is_problem(status, body, "rate-limited")
        assert int(headers["Retry-After"]) >= 1
        assert (await sender.send("github", {"id": "a", "text": "A"}))[0] == 200


async def test_a_list_is_charged_as_one(flow: Pipeline, tmp_path: Path) -> None:
    """Or one that is longer than the burst would be refused for ever, and be begun each time."""
    limits = Limits(changes=Rate(per_second=0.001, burst=2), clock=lambda: 0.0)
    client: Any = Files(**{str(number): b"x" for number in range(5)})
    urls = ContentUrls(client=client, settings=Settings(_env_file=None))
    path, sent = tmp_path / "sources.yaml", [{"id": str(n), "at": str(n)} for n in range(5)]
    services: Any = {"limits": limits, "content_urls": urls}
    async with sending(flow, path, MemoryReceipts(), **services) as sender:
        status, body, _ = await sender.send("links", sent)
        assert (status, body["accepted"]) == (200, 5)
        status, body, _ = await sender.send("links", sent[:1])
        assert is_problem(status, body, "rate-limited")


async def test_what_is_under_way_is_bounded(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "MAX_UNDER_WAY", 1)
    sender.api.queue.hold = asyncio.Event()
    one, other = pages({"id": "a", "text": "A"}), pages({"id": "b", "text": "B"})
    first = asyncio.create_task(sender.send("wiki", one))
    await sender.api.registry.rows.acquire()
    status, body, headers = await sender.send("wiki", other, delivery_id="m2")
    assert is_problem(status, body, "over-capacity")
    assert headers["Retry-After"] == "5"
    again = asyncio.create_task(sender.send("wiki", one))
    sender.api.queue.hold.set()
    assert [(await task)[0] for task in (first, again)] == [200, 200]
    assert (await sender.send("wiki", other, delivery_id="m2"))[0] == 200


async def test_the_password_of_a_source_cannot_be_guessed_for_long(
    flow: Pipeline, tmp_path: Path
) -> None:
    limits = Limits(failures=Rate(per_second=0.001, burst=3), clock=lambda: 0.0)
    path = tmp_path / "sources.yaml"
    async with sending(flow, path, MemoryReceipts(), limits=limits) as sender:
        guesses = [
            (await sender.post("titles", b"{}", {"Authorization": f"Bearer guess-{n}"}))[0]
            for n in range(5)
        ]
        assert guesses == [401, 401, 401, 429, 429]
        status, _, _ = await sender.send("wiki", {})
        assert status == 200


# --- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wiki", "github", "tenants", "titles", "events"])
async def test_nobody_else_is_let_in(sender: Sender, name: str) -> None:
    body = json.dumps(pages({"id": "a", "text": "A"})).encode()
    signed = sender.directory.sources[name].verification.sign(
        body, delivery_id="m", now=time.time()
    )
    changed = {key: f"{value[:-3]}xyz" for key, value in signed.items()}
    attempts = [(body, {}), (body, changed)]
    if name not in ("tenants", "titles"):  # whose secret is a password, and signs nothing
        attempts.append((body + b" ", signed))
    for sent, headers in attempts:
        status, answer, got = await sender.post(name, sent, headers)
        assert is_problem(status, answer, "unauthenticated")
        assert got["WWW-Authenticate"].startswith("Basic" if name == "tenants" else "Webhook-")
        assert SECRET not in json.dumps(answer)
    assert await sender.texts() == {}


async def test_a_signature_is_checked_before_anything_is_parsed(sender: Sender) -> None:
    status, body, _ = await sender.post("wiki", b"{ no JSON", {})
    assert is_problem(status, body, "unauthenticated")
    status, body, _ = await sender.send("wiki", b"{ no JSON")
    assert is_problem(status, body, "malformed-json")


async def test_an_old_delivery_cannot_be_replayed(sender: Sender) -> None:
    one = pages({"id": "a", "text": "A"})
    status, body, _ = await sender.send("wiki", one, at=time.time() - 310)
    assert is_problem(status, body, "unauthenticated")
    assert "look at both clocks" in body["detail"]


async def test_a_refusal_is_logged_without_secrets(sender: Sender) -> None:
    with capture_logs() as logs:
        await sender.post("titles", b"{}", {"Authorization": f"Bearer {SECRET}x"})
    (told,) = [log for log in logs if log["event"] == "source.refused"]
    assert (told["source"], told["address"]) == ("titles", "127.0.0.1")
    assert SECRET not in str(logs)


async def test_a_namespace_that_is_not_the_sources_is_refused(sender: Sender) -> None:
    def item(namespace: str) -> dict[str, str]:
        return {"namespace": namespace, "id": "a", "text": "A"}

    status, _, _ = await sender.send("tenants", [item("docs"), item("team-x")])
    assert status == 200
    for other in ("other", "docs2", "team"):
        status, body, _ = await sender.send("tenants", item(other))
        assert is_problem(status, body, "forbidden", "changes[0].namespace")
        sent = [item("docs") | {"id": other}, item(other)]
        status, body, _ = await sender.send("tenants", sent)
        assert (status, body["accepted"], body["refused"]) == (200, 1, 1)
        (error,) = body["errors"]
        assert (error["status"], error["field"]) == (403, "changes[1].namespace")
    assert await sender.texts() == {"a": "A", "other": "A", "docs2": "A", "team": "A"}
    assert set(await sender.api.flow.registry.namespaces()) == {"docs", "team-x"}


async def test_an_update_that_overtook_its_insert_is_to_come_again(sender: Sender) -> None:
    status, body, _ = await sender.send("titles", {"id": "a", "title": "T"})
    assert is_problem(status, body, "invalid-field", "changes[0].document_id")
    await sender.send("local", {"id": "a", "text": "A"})
    status, body, _ = await sender.send("titles", {"id": "a", "title": "T"})
    assert (status, body["accepted"]) == (200, 1)


async def test_sizes_are_bounded(sender: Sender) -> None:
    status, body, _ = await sender.send("wiki", pages({"id": "a", "text": "x" * 100_000}))
    assert is_problem(status, body, "too-large")
    many = pages(*({"id": str(n), "text": "x"} for n in range(51)))
    status, body, _ = await sender.send("wiki", many)
    assert is_problem(status, body, "too-large")
    assert await sender.texts() == {}


async def test_a_stopped_source_is_gone_and_an_unknown_one_unknown(sender: Sender) -> None:
    status, body, _ = await sender.post("old", b"{}", {})
    assert is_problem(status, body, "gone")
    for name in ("new", "wiki%2F", "..%2Fchanges", "%00"):
        status, body, _ = await sender.post(name, b"{}", {})
        assert is_problem(status, body, "not-found")
    async with sender.api.client.get("/v1/sources/wiki") as answer:
        assert answer.status == 405


@pytest.mark.parametrize(
    "headers",
    [{"Host": "rebound.example"}, {"Origin": "https://evil.example"},
     {"Sec-Fetch-Site": "cross-site"}],
)  # fmt: skip
async def test_no_web_page_uses_an_unverified_source(
    sender: Sender, headers: dict[str, str]
) -> None:
    status, body, _ = await sender.post("local", b'{"id": "a", "text": "A"}', headers)
    assert is_problem(status, body, "forbidden")
    assert await sender.texts() == {}


# --- the role ------------------------------------------------------------------------------------


async def test_the_role_serves_its_sources_and_keeps_its_receipts(tmp_path: Path) -> None:
    path = tmp_path / "sources.yaml"
    path.write_text(FILE)
    settings = settings_in(tmp_path, sources_file=path)
    payload = json.dumps({"id": "a", "text": "A"}).encode()
    headers = {"Webhook-Id": "d1"}

    async def send(url: str) -> tuple[int, str | None]:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v1/sources/local", data=payload, headers=headers) as answer,
        ):
            return answer.status, answer.headers.get("Idempotency-Replayed")

    async with running(settings) as url:
        assert await send(url) == (200, None)
    async with running(settings) as url:
        assert await send(url) == (200, "true")
    path.write_text(FILE.replace("secret:", "secrt:"))
    with pytest.raises(ConfigurationError, match=r"sources\.yaml:4: source wiki"):
        async with running(settings):
            raise AssertionError("it listens")
    path.write_text(FILE)
    await key_in(settings)
    with pytest.raises(ConfigurationError, match="kind none is for a service on loopback"):
        async with running(settings_in(tmp_path, sources_file=path, host="0.0.0.0")):  # noqa: S104
            raise AssertionError("it listens")


async def test_a_sender_that_hangs_up_has_delivered(flow: Pipeline, tmp_path: Path) -> None:
    """It is gone between the row and the wake-up; some never send again."""
    async with sending(flow, tmp_path / "sources.yaml", MemoryReceipts()) as sender:
        api = sender.api
        api.queue.hold = asyncio.Event()
        body = json.dumps({"pages": [{"id": "a", "text": "one", "n": 1}]}).encode()
        verification = sender.directory.sources["wiki"].verification
        headers = verification.sign(body, delivery_id="m1", now=time.time())
        host, port = api.runner.addresses[0][:2]
        _, writer = await asyncio.open_connection(host, port)
        lines = [
            "POST /v1/sources/wiki HTTP/1.1",
            f"Host: {host}",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await api.registry.rows.acquire()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        while api.runner.server and api.runner.server.connections:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0)
        api.queue.hold.set()
        (delivery,) = await flow.queue.receive(
            QueueName.CHANGE, limit=9, visibility_seconds=30, wait_seconds=20
        )
        assert delivery.wake_up.document_id == "a"


async def test_who_delivers_again_meanwhile_waits_for_the_same_answer() -> None:
    under_way: WorkToTheEnd[dict[str, Any]] = WorkToTheEnd()
    go = asyncio.Event()
    begun = 0

    async def work() -> dict[str, Any]:
        nonlocal begun
        begun += 1
        await go.wait()
        return {"changes": begun}

    first = asyncio.create_task(under_way.result(("wiki", "m1"), work))
    again = asyncio.create_task(under_way.result(("wiki", "m1"), work))
    other = asyncio.create_task(under_way.result(("wiki", "m2"), work))
    closing = asyncio.create_task(under_way.close(wait_seconds=30.0))
    go.set()
    assert await first == await again
    await other
    await closing
    assert begun == 2
