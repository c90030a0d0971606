"""What a person may want to know of a source that is no mistake: it would change less than it says.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from common.outbound_rules import ALLOWED_BY, HostList, RefusedError, target_of
from common.settings import Settings
from webhook.sources.config import Rule
from webhook.sources.loading import Source

_UP_TO_HOST = re.compile(r"https?://[^/?#]+(?:[/?#]|$)")


def remarks_of(source: Source, settings: Settings) -> list[str]:
    """One line each, none twice."""
    found = (
        remark
        for rule in source.config.changes
        for remark in (*_of_url(source, rule, settings), *_of_github(source, rule))
    )
    return [f"source {source.name}: {remark}" for remark in dict.fromkeys(found)]


def _of_url(source: Source, rule: Rule, settings: Settings) -> Iterator[str]:
    """Where the host is known before any payload it is judged; where not, whether there is any."""
    if rule.content_url is None:
        return
    if not settings.fetch_allowed_hosts:
        yield f"fetches content by its URL, and no host is allowed ({ALLOWED_BY})"
        return
    asked = {"parameters": source.config.parameters, "source": source.name}
    known = rule.content_url.beginning(asked)
    if _UP_TO_HOST.match(known) is None:
        return
    try:
        HostList(settings.fetch_allowed_hosts).require(target_of(known))
    except RefusedError as error:
        yield f"content_url: {error}"


def _of_github(source: Source, rule: Rule) -> Iterator[str]:
    if rule.content_of_github is None:
        return
    if not source.github_token:
        yield (
            "has no github_token (and `repositories` it is for): no file is fetched, and only "
            "removed ones change anything"
        )
        return
    named = rule.content_of_github.repository.constant
    if named is not None and not source.config.may_read(named):
        yield f"reads files of {named}, which is none of its `repositories`: all are refused"
