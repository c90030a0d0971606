"""What a repository holds, through GitHub's API: a file at a commit, a branch's last commit, and
the files in which two commits differ."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from common.outbound import OutboundClient
from common.outbound_rules import RefusedError

API = "https://api.github.com"
ALLOWED_HOSTS = ("api.github.com",)
"""For the client that fetches them: content by URL in a change reaches none of these by that."""
RAW = "application/vnd.github.raw+json"
SHA = "application/vnd.github.sha"
JSON_TYPE = "application/vnd.github+json"
API_VERSION = "2022-11-28"
MOST_COMPARED = 300
"""Files that GitHub names of a comparison; of more it says nothing."""
MAX_PATH_BYTES = 4096

_COMMIT = re.compile(rb"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}/(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")
_REF = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,254}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,1024}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


async def fetch_github_file(
    client: OutboundClient, repo: str, path: str, ref: str, token: str
) -> bytes:
    """The file's bytes. `repo` is OWNER/NAME, `ref` a commit, a branch or a tag.

    Raises RefusedError for names that could not be of a file, a path that is none (`status` 404
    when there is nothing, or nothing that the token may see), and what is larger than the client's
    limit; TransientError at an outage or a rate limit.
    """
    answer = await client.fetch(contents_url(repo, path, ref), _headers(token, RAW))
    if ".raw" not in (answer.content_type or ""):  # A folder or a submodule is told of as JSON.
        raise RefusedError(f"{path!r} in {repo} is no file")
    return answer.content


async def fetch_github_head(client: OutboundClient, repo: str, branch: str, token: str) -> str:
    """The last commit of the branch just now.

    Raises RefusedError (`status` 404 when there is nothing, or nothing that the token may see), and
    TransientError at an outage or a rate limit.
    """
    answer = await client.fetch(head_url(repo, branch), _headers(token, SHA))
    if not _COMMIT.fullmatch(answer.content):
        raise RefusedError(f"GitHub names no commit of the branch {branch!r}")
    return answer.content.decode()


async def require_github_commit(client: OutboundClient, repo: str, commit: str, token: str) -> None:
    """Raises RefusedError where GitHub does not know the commit (`status` 404 or 422), or does not
    just yet; TransientError at an outage or a rate limit."""
    await client.fetch(commit_url(repo, commit), _headers(token, SHA))


async def fetch_github_standing(
    client: OutboundClient, repo: str, base: str, head: str, token: str
) -> str:
    """Where `head` stands, seen from `base`: `ahead`, `behind`, `identical` or `diverged`.

    Raises RefusedError (`status` 404 where the two have nothing in common, or one of them is not
    there), and TransientError.
    """
    # The files stand on the first page only, and nobody asks for them here.
    url = compare_url(repo, base, head) + "&page=2"
    answer = await client.fetch(url, _headers(token, JSON_TYPE))
    try:
        return str((await asyncio.to_thread(json.loads, answer.content))["status"])
    except (ValueError, LookupError, TypeError, RecursionError):
        raise RefusedError("GitHub's comparison cannot be read") from None


@dataclass(frozen=True, slots=True)
class Compared:
    """`paths`: those that the second commit touched since both parted, old names of moved ones
    among them; `cut`: there may be more of them."""

    paths: tuple[str, ...]
    cut: bool


async def compare_on_github(
    client: OutboundClient, repo: str, base: str, head: str, token: str
) -> Compared:
    """What `head` has that `base` has not. Raises RefusedError (`status` 404 where the two have
    nothing in common, or one of them is not there), and TransientError."""
    answer = await client.fetch(compare_url(repo, base, head), _headers(token, JSON_TYPE))
    return await asyncio.to_thread(_compared, answer.content)


def _compared(content: bytes) -> Compared:
    """Blocking: it may be megabytes. Raises RefusedError."""
    try:
        files: list[dict[str, Any]] = json.loads(content)["files"]
        names = [file.get(name) for file in files for name in ("previous_filename", "filename")]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise RefusedError("GitHub's comparison cannot be read") from None
    paths = dict.fromkeys(name for name in names if isinstance(name, str))
    return Compared(tuple(paths), cut=len(files) >= MOST_COMPARED)


def compare_url(repo: str, base: str, head: str) -> str:
    """Raises RefusedError for what would ask for something else."""
    _require_repository(repo)
    if not all(_COMMIT.fullmatch(commit.encode()) for commit in (base, head)):
        raise RefusedError("two commits are compared, by their hashes")
    return f"{API}/repos/{repo}/compare/{base}...{head}?per_page=1"


def commit_url(repo: str, commit: str) -> str:
    """Raises RefusedError for what would ask for something else."""
    _require_repository(repo)
    if not _COMMIT.fullmatch(commit.encode()):
        raise RefusedError("a commit is named by its hash")
    return f"{API}/repos/{repo}/commits/{commit}"


def _headers(token: str, accepted: str) -> dict[str, str]:
    """Raises RefusedError, which does not repeat the token."""
    if not _TOKEN.fullmatch(token):
        raise RefusedError("the GitHub token is none")
    return {
        "Authorization": f"Bearer {token}",
        "Accept": accepted,
        "X-GitHub-Api-Version": API_VERSION,
    }


def head_url(repo: str, branch: str) -> str:
    """Raises RefusedError for what would ask for something else."""
    _require_repository(repo)
    quoted = "/".join(quote(part, safe="") for part in _parts(branch))
    return f"{API}/repos/{repo}/commits/heads/{quoted}"


def contents_url(repo: str, path: str, ref: str) -> str:
    """Raises RefusedError for what would ask for something else."""
    _require_repository(repo)
    if not _REF.fullmatch(ref) or ".." in ref:
        raise RefusedError("the ref must be a commit, a branch or a tag")
    quoted = "/".join(quote(part, safe="") for part in _parts(path))
    return f"{API}/repos/{repo}/contents/{quoted}?ref={quote(ref, safe='')}"


def _require_repository(repo: str) -> None:
    if not _REPOSITORY.fullmatch(repo):
        raise RefusedError("the repository must be OWNER/NAME")


def _parts(path: str) -> list[str]:
    try:
        size = len(path.encode())
    except UnicodeEncodeError:
        raise RefusedError("the path is not UTF-8") from None
    parts = path.split("/")
    if size > MAX_PATH_BYTES or _CONTROL.search(path) or {"", ".", ".."} & set(parts):
        raise RefusedError("the path must be one of a file within the repository")
    return parts
