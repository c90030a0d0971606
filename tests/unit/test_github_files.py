"""The files that a push names become the content of its changes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from common.outbound import CONCURRENT_FETCHES, Fetched
from common.outbound_rules import RefusedError, TooLargeError
from common.ports.errors import TransientError
from common.settings import Settings
from tests.source_files import SECRET, VARIABLE, delivered, recorded, source
from webhook.problems import Problem
from webhook.sources.github_files import LOOKS, with_files
from webhook.sources.mapping import Mapped, map_delivery

REPOSITORY = "https://api.github.com/repos/example-org/handbook/"
PUSHED, BEFORE, LATER = "3" * 40, "1" * 40, "9" * 40
MISSING = RefusedError("api.github.com answers 404", status=404)
DRAFT, TRAVEL, OLD, README = (
    f"example-org/handbook/{name}"
    for name in ("docs/draft.md", "docs/Travel & costs.md", "docs/old.md", "README.md")
)


class GitHub:
    """The guarded client, with GitHub behind it: answers by path, each as often as it is asked; of
    a list one after the other. `heads`: where the branch is, one look after the other."""

    def __init__(self, *heads: str | Exception, **answers: Any) -> None:
        self.heads = list(heads) or [PUSHED]
        self.answers: dict[str, Any] = {"draft": MISSING, **answers}
        self.asked: dict[str, Mapping[str, str]] = {}
        self.commits: set[str] = set()
        self.compared: dict[str, Any] = {}
        """Files or an error, by `base...head`."""
        self.standings: dict[str, Any] = {}
        """Of heads, seen from what was pushed; others are ahead."""
        self.unknown: set[str] = set()
        """Commits."""

    async def fetch(self, url: str, headers: Mapping[str, str]) -> Fetched:
        assert url.startswith(REPOSITORY)
        place = url.removeprefix(REPOSITORY)
        if place == "commits/heads/main":
            assert headers["Accept"] == "application/vnd.github.sha"
            head = self.heads.pop(0) if len(self.heads) > 1 else self.heads[0]
            return Fetched(_given(head), "application/vnd.github.sha; charset=utf-8")
        if place.endswith("?per_page=1&page=2"):
            base, _, head = place.removeprefix("compare/").partition("?")[0].partition("...")
            assert base == PUSHED
            standing = self.standings.get(head, "ahead")
            standing = standing.pop(0) if isinstance(standing, list) else standing
            told = standing if isinstance(standing, Exception) else json.dumps({"status": standing})
            return Fetched(_given(told), "application/json; charset=utf-8")
        if place.startswith("commits/"):
            found = MISSING if place.removeprefix("commits/") in self.unknown else PUSHED
            return Fetched(_given(found), "application/vnd.github.sha; charset=utf-8")
        if place.startswith("compare/"):
            found = self.compared[place.removeprefix("compare/").removesuffix("?per_page=1")]
            told = json.dumps({"files": found}) if isinstance(found, list) else found
            return Fetched(_given(told), "application/json; charset=utf-8")
        path, _, commit = place.removeprefix("contents/").partition("?ref=")
        self.asked[path] = headers
        self.commits.add(commit)
        answer = self.answers.get(path.rpartition("/")[2].partition(".")[0], b"# A page")
        if isinstance(answer, list):
            answer = answer.pop(0)
        return Fetched(_given(answer), "application/vnd.github.raw+json; charset=utf-8")


def _given(answer: str | bytes | Exception) -> bytes:
    if isinstance(answer, Exception):
        raise answer
    return answer.encode() if isinstance(answer, str) else answer


def pushed(push: Any = None, **fields: Any) -> Mapped:
    reference = f"${{{VARIABLE}}}"
    made = source(
        preset="github-push", verify={"secret": reference}, github_token=reference,
        repositories=["example-org/*"], **fields,
    )  # fmt: skip
    body = json.dumps(push).encode() if push else recorded("github-push.json")
    return map_delivery(made, delivered(made, body, x_github_event="push").context)


class Fetching:
    """One delivery of the recorded push, at a time that each look at the clock moves on."""

    def __init__(self, github: Any, **limits: Any) -> None:
        self.github, self.settings = github, Settings(_env_file=None, **limits)
        self.paused: list[float] = []
        self.now = 1_772_439_331.0

    async def __call__(self, mapped: Mapped | None = None) -> dict[str, Any]:
        """The changes by document, `Problem`s among them."""
        mapped = mapped or pushed()
        refused = await with_files(
            mapped, SECRET, self.github, self.settings, clock=self._clock, pause=self._pause
        )
        found = {index: refused.get(index, change) for index, change in enumerate(mapped.changes)}
        names = {OLD: "old.md", README: "README.md", DRAFT: "draft.md", TRAVEL: "costs.md"}
        paths = {index: file.path for index, file in mapped.files.items()}
        return {
            name: found[index]
            for name, end in names.items()
            for index, path in paths.items()
            if path.endswith(end)
        }

    def _clock(self) -> float:
        self.now += 0.5
        return self.now

    async def _pause(self, seconds: float) -> None:
        self.paused.append(seconds)


async def test_content_is_what_the_branch_holds_just_now() -> None:
    github = GitHub(LATER, old="# Ältere Seite\n".encode(), README=b"")
    fetching = Fetching(github)
    found = await fetching()
    assert github.commits == {LATER}
    assert found[OLD]["content"] == "IyDDhGx0ZXJlIFNlaXRlCg=="
    assert (found[README]["content"], found[README]["content_encoding"]) == ("", "base64")
    assert found[README]["metadata"]["commit"] == LATER
    assert found[DRAFT] == {
        "change_type": "delete", "namespace": "docs", "document_id": DRAFT,
        "source_version": 1_772_439_331_500_000,
    }  # fmt: skip
    assert {change["source_version"] for change in found.values()} == {1_772_439_331_500_000}
    assert all(sent["Authorization"] == f"Bearer {SECRET}" for sent in github.asked.values())
    assert fetching.paused == []


async def test_who_looks_later_wins_although_the_push_was_told_earlier() -> None:
    """Two deliveries within one second of GitHub's, worked in the other order."""
    fetching = Fetching(GitHub(LATER))
    late = await fetching()
    overtaken = await fetching()
    assert overtaken[README]["source_version"] > late[README]["source_version"]
    assert overtaken[README]["metadata"]["commit"] == LATER


async def test_the_version_is_of_the_time_before_the_branch_was_looked_at() -> None:
    """What is pushed while the answer is on its way belongs to whoever asks after it."""
    fetching = Fetching(GitHub())
    asked_at: list[float] = []
    fetch = fetching.github.fetch

    async def slow(url: str, headers: Mapping[str, str]) -> Fetched:
        asked_at.append(fetching.now)
        fetching.now += 100
        return await fetch(url, headers)  # type: ignore[no-any-return]

    fetching.github.fetch = slow
    found = await fetching()
    assert found[README]["source_version"] == int(asked_at[0] * 1_000_000)


async def test_a_branch_that_github_does_not_show_yet_is_looked_at_again() -> None:
    github = GitHub(BEFORE, BEFORE, PUSHED)
    fetching = Fetching(github)
    found = await fetching()
    assert github.commits == {PUSHED}
    assert len(fetching.paused) == 2
    assert found[README]["source_version"] == 1_772_439_332_500_000, "of the last look"
    with pytest.raises(Problem) as refused:
        await (late := Fetching(GitHub(BEFORE)))()
    assert (refused.value.kind.status, len(late.paused)) == (503, LOOKS)
    assert "Retry-After" in refused.value.headers
    assert late.github.asked == {}


async def test_a_file_that_was_pushed_and_is_not_there_is_asked_for_again() -> None:
    """Also where the branch has gone on: who answers may be behind there as well."""
    for head in (PUSHED, LATER):
        github = GitHub(head, old=[MISSING, b"# There"], README=[MISSING, MISSING])
        fetching = Fetching(github)
        found = await fetching()
        assert found[OLD]["content"] == "IyBUaGVyZQ=="
        assert found[README]["change_type"] == "delete"
        assert len(fetching.paused) == 1, "once for all that are missing"


async def test_no_pause_is_made_for_what_the_push_itself_removes() -> None:
    fetching = Fetching(GitHub())
    assert (await fetching())[DRAFT]["change_type"] == "delete"
    assert fetching.paused == []


async def test_no_file_is_deleted_at_a_commit_that_github_does_not_show_yet() -> None:
    github = GitHub(LATER, old=MISSING, README=[MISSING, b"#"])
    github.unknown = {LATER}
    found = await Fetching(github)()
    assert {found[name].kind.status for name in (OLD, README)} == {503}
    assert found[OLD].response().headers["Retry-After"]
    assert found[TRAVEL]["change_type"] == "insert"


async def test_a_file_that_a_later_push_removed_is_deleted() -> None:
    fetching = Fetching(GitHub(LATER, old=MISSING))
    assert (await fetching())[OLD]["change_type"] == "delete"
    assert len(fetching.paused) == 1


OLDER = "0" * 39 + "1"


@pytest.mark.parametrize("standing", ["behind", MISSING])
async def test_a_head_that_is_older_than_the_push_is_none(standing: Any) -> None:
    """Three commits; of the third is told, and who answers still knows the first alone."""
    github = GitHub(OLDER, OLDER, PUSHED)
    github.standings = {OLDER: standing}
    fetching = Fetching(github)
    assert {change["change_type"] for change in (await fetching()).values()} == {"insert", "delete"}
    assert (github.commits, len(fetching.paused)) == ({PUSHED}, 2)
    late = GitHub(OLDER)
    late.standings = {OLDER: standing}
    with pytest.raises(Problem) as refused:
        await Fetching(late)()
    assert (refused.value.kind.status, late.asked) == (503, {})


@pytest.mark.parametrize("standing", ["ahead", "identical", "diverged"])
async def test_a_branch_that_has_gone_on_since_is_what_counts(standing: str) -> None:
    github = GitHub(LATER)
    github.standings = {LATER: standing}
    fetching = Fetching(github)
    await fetching()
    assert (github.commits, fetching.paused) == ({LATER}, [])


@pytest.mark.parametrize("head", [BEFORE, OLDER])
async def test_a_branch_that_was_forced_back_is_so_a_minute_after_the_push(head: str) -> None:
    """A to B and back to A: to whoever works B's delivery it looks as if B were yet to come."""
    github = GitHub(head)
    github.standings = {OLDER: "behind"}
    fetching = Fetching(github)
    fetching.now += 50
    with pytest.raises(Problem):
        await fetching()
    fetching.now += 10
    await fetching()
    assert github.commits == {head}


async def test_a_pushed_commit_that_cannot_be_compared_is_told_of() -> None:
    github = GitHub(LATER)
    github.standings = {LATER: RefusedError("api.github.com answers 401", status=401)}
    found = await Fetching(github)()
    assert "cannot be looked at: api.github.com answers 401" in found[README].detail


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RefusedError("api.github.com answers 403", status=403), 422),
        (RefusedError("'docs/old.md' in example-org/handbook is no file"), 422),
        (TooLargeError("api.github.com answers more than 7 bytes"), 413),
    ],
)
async def test_a_file_that_cannot_be_had_is_no_fault_of_the_others(
    error: Exception, status: int
) -> None:
    found = await Fetching(GitHub(old=error))()
    problem = found.pop(OLD)
    assert problem.kind.status == status
    assert problem.detail.startswith("docs/old.md: ")
    assert problem.field.startswith("changes[")
    assert [change["change_type"] for change in found.values()] == ["insert", "delete", "insert"]


@pytest.mark.parametrize("status", [404, 401])
async def test_a_repository_that_the_token_may_not_see_loses_nothing(status: int) -> None:
    github = GitHub(RefusedError(f"api.github.com answers {status}", status=status))
    found = await Fetching(github)()
    assert all(isinstance(problem, Problem) for problem in found.values())
    assert "the branch 'main' cannot be looked at" in found[README].detail
    assert github.asked == {}


async def test_a_file_at_a_commit_that_nobody_looked_for_is_not_deleted() -> None:
    rule = {
        "each": "payload.head_commit.modified",
        "document_id": "{item}",
        "content_of_github": {
            "repository": "{payload.repository.full_name}", "path": "{item}",
            "ref": "{payload.after}",
        },
        "source_version": "`7`",
    }  # fmt: skip
    mapped = pushed(changes=[rule])
    found = await Fetching(GitHub(README=MISSING))(mapped)
    assert found[README].kind.status == 422
    assert mapped.changes[1]["source_version"] == 7


LIMITED = TransientError("api.github.com answers 429", retry_after_seconds=61.2)


async def test_a_file_that_may_be_had_later_is_no_fault_of_the_others() -> None:
    found = await Fetching(
        GitHub(**{"Travel%20%26%20costs": TransientError("api.github.com answers 502")})
    )()
    assert found.pop(TRAVEL).kind.status == 503
    assert [change["change_type"] for change in found.values()] == ["insert", "insert", "delete"]


async def test_an_outage_or_a_limit_of_github_is_told_to_the_sender() -> None:
    found = await Fetching(GitHub(**{"Travel%20%26%20costs": LIMITED}))()
    assert found[TRAVEL].response().headers["Retry-After"] == "62"
    assert SECRET not in str(found[TRAVEL])
    with pytest.raises(Problem) as refused:
        await Fetching(GitHub(LIMITED))()
    assert refused.value.kind.status == 503
    assert refused.value.response().headers["Retry-After"] == "62"


async def test_github_is_asked_for_no_more_once_its_limit_is_met() -> None:
    push = json.loads(recorded("github-push.json"))
    push["commits"] = [{"added": [f"{n}.md" for n in range(100)]}]
    github = GitHub(**{f"{n}": LIMITED for n in range(100)})
    mapped = pushed(push)
    refused = await with_files(mapped, SECRET, github, Settings(_env_file=None))  # type: ignore[arg-type]
    assert len(refused) == 100
    assert 1 <= len(github.asked) <= CONCURRENT_FETCHES


async def test_a_file_that_does_not_come_holds_up_no_other() -> None:
    github = GitHub()
    fetch, began = github.fetch, asyncio.Event()

    async def held(url: str, headers: Mapping[str, str]) -> Fetched:
        if "old.md" in url:
            began.set()
            await asyncio.Event().wait()
        return await fetch(url, headers)

    github.fetch = held  # type: ignore[method-assign]
    found = await Fetching(github, request_timeout_seconds=0.05)()
    assert began.is_set()
    assert found.pop(OLD).kind.status == 503
    assert not any(isinstance(change, Problem) for change in found.values())


async def test_the_files_of_one_push_are_bounded_together() -> None:
    await Fetching(GitHub(), max_body_bytes=24)()
    with pytest.raises(Problem) as refused:
        await Fetching(GitHub(), max_body_bytes=23)()
    assert refused.value.kind.status == 413


async def test_where_nothing_is_fetched_a_push_with_files_is_refused() -> None:
    with pytest.raises(Problem):
        await Fetching(None)()


async def test_a_push_without_documents_asks_nothing() -> None:
    push = json.loads(recorded("github-push.json"))
    push["commits"] = [{"added": ["Makefile"], "removed": [], "modified": []}]
    github = GitHub()
    assert await Fetching(github)(pushed(push)) == {}
    assert github.asked == {}
