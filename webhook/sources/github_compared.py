"""What a force push drops and brings: GitHub tells only of the commits that it brings."""

from __future__ import annotations

import structlog

from common.github_contents import Compared, compare_on_github
from common.outbound import OutboundClient
from common.outbound_rules import RefusedError
from common.ports.errors import TransientError
from common.settings import Settings
from webhook.problems import Problem, deadline
from webhook.sources.expressions import ExpressionError
from webhook.sources.github_files import unavailable
from webhook.sources.loading import Source
from webhook.sources.mapping import JSON, require_repository

log = structlog.get_logger(__name__)

_FIELD = "compare_on_github"


async def with_comparison(
    source: Source, context: JSON, client: OutboundClient | None, settings: Settings
) -> tuple[JSON, Problem | None]:
    """The context with `compared`, where the source's `compare_on_github` asks for it: `commits` as
    a push names them, and `cut` where there may be more. Without an answer the context is as it
    was; the Problem (503) says that there may be one later: what the payload names by itself waits
    for nothing. Raises Problem: 403 for another repository than the source's."""
    asked = source.config.compare_on_github
    if asked is None or client is None or not source.github_token:
        return context, None
    try:
        if not asked.when.holds({**context, "item": None}):
            return context, None
        repository, before, after = (
            template.of(context) for template in (asked.repository, asked.before, asked.after)
        )
        require_repository(source, repository, "compare_on_github.repository")
        async with deadline(settings.request_timeout_seconds):
            token = source.github_token
            dropped = await compare_on_github(client, repository, after, before, token)
            brought = await compare_on_github(client, repository, before, after, token)
    except (ExpressionError, RefusedError) as error:
        log.warning("source.not_compared", source=source.name, why=str(error))
        return context, None
    except TransientError as error:
        return context, unavailable(error, _FIELD)
    except Problem as problem:  # it took too long
        return context, problem.within(_FIELD)
    return {**context, "compared": _told(dropped, brought)}, None


def _told(dropped: Compared, brought: Compared) -> JSON:
    """What was dropped is gone, unless it was brought as well or was there before."""
    commits = [{"removed": list(dropped.paths)}, {"modified": list(brought.paths)}]
    return {"commits": commits, "cut": dropped.cut or brought.cut}
