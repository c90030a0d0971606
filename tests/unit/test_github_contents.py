"""Whatever a push names, one file of that repository is asked for and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.github_contents import commit_url, contents_url
from common.outbound_rules import RefusedError, target_of

REF = "0123456789abcdef0123456789abcdef01234567"
CONTENTS = "https://api.github.com/repos/acme/docs/contents/"


@pytest.mark.parametrize(
    ("path", "quoted"),
    [
        ("README.md", "README.md"),
        ("guide/start here.md", "guide/start%20here.md"),
        ("a?b#c&d%2F.md", "a%3Fb%23c%26d%252F.md"),
        ("grün/日本.md", "gr%C3%BCn/%E6%97%A5%E6%9C%AC.md"),
        ("..a/b..", "..a/b.."),
    ],
)
def test_the_path_is_quoted(path: str, quoted: str) -> None:
    assert contents_url("acme/docs", path, REF) == f"{CONTENTS}{quoted}?ref={REF}"


def test_a_ref_is_quoted() -> None:
    assert contents_url("acme/docs", "a", "feature/x").endswith("?ref=feature%2Fx")


@pytest.mark.parametrize(
    "repo", ["", "acme", "acme/", "/docs", "acme/docs/x", "acme/..", "acme/.", "../docs", "a b/c",
             "acme/docs?x", "acme/docs#x", "acme/docs%2F", "acme/docs\n", "-acme/docs"],
)  # fmt: skip
def test_a_repository_is_an_owner_and_a_name(repo: str) -> None:
    with pytest.raises(RefusedError, match="OWNER/NAME"):
        contents_url(repo, "a", REF)


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\nb", "a\0",
             "x" * 4097, "\ud800"],
)  # fmt: skip
def test_a_path_stays_within_the_repository(path: str) -> None:
    with pytest.raises(RefusedError, match="path"):
        contents_url("acme/docs", path, REF)


@pytest.mark.parametrize("ref", ["", "a b", "a&x=y", "../x", "a..b", "-x", "x" * 256, "a\n"])
def test_a_ref_is_a_name(ref: str) -> None:
    with pytest.raises(RefusedError, match="ref"):
        contents_url("acme/docs", "a", ref)


def test_a_commit_is_asked_for_by_its_hash() -> None:
    assert commit_url("acme/docs", REF) == f"https://api.github.com/repos/acme/docs/commits/{REF}"
    for commit in ("main", "heads/main", REF[:-1], f"{REF}/..", ""):
        with pytest.raises(RefusedError, match="hash"):
            commit_url("acme/docs", commit)


@given(st.text(max_size=40), st.text(max_size=40))
def test_no_path_and_no_ref_leads_elsewhere(path: str, ref: str) -> None:
    try:
        url = contents_url("acme/docs", path, ref)
    except RefusedError:
        return
    target = target_of(url)
    assert (target.url.scheme, target.host, target.port) == ("https", "api.github.com", 443)
    assert target.url.raw_path.startswith("/repos/acme/docs/contents/")
    assert target.url.path == f"/repos/acme/docs/contents/{path}"
    assert dict(target.url.query) == {"ref": ref}
