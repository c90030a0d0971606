"""What a delivery changes: a source's rules over its payload. Pure.

A rule gives the JSON of a change, as POST /v1/changes takes it, so that everything that is checked
there is checked here. Whatever the payload is, the outcome is a list of changes and of Problems, or
a Problem of the delivery as a whole. What is wrong with one item is no fault of its neighbours.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote

from common.ports.receipts import MAX_ID_BYTES
from common.settings import Settings
from webhook.accept import Change
from webhook.problems import FORBIDDEN, INVALID_FIELD, TOO_LARGE, Problem
from webhook.signatures import Headers, SharedToken
from webhook.sources.config import (
    GitHubConfig,
    GitHubFile,
    Rule,
    StandardConfig,
    StandardPublicConfig,
)
from webhook.sources.expressions import Expression, ExpressionError, Template
from webhook.sources.loading import Source
from webhook.validation import change_of

T = TypeVar("T")
JSON = dict[str, Any]
_Made = tuple[JSON, "FileOfGitHub | None"]

MIN_ITEMS, ITEMS_A_CHANGE = 10_000, 10
"""So many items a delivery may have, for each change that it may make, and always."""
MAX_WARNINGS = 20
MAX_WARNING_CHARACTERS = 1000

_TO_PATH = re.compile(r"^[^:/?#]*://[^/?#\\]*")
_BEHIND_PATH = re.compile(r"[?#]")
_SLASHES = re.compile(r"[/\\]")
_UNSEEN = re.compile(r"[\x00-\x20\x7f]")
"""URL parsers drop some of them."""
_SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})


@dataclass(frozen=True, slots=True)
class FileOfGitHub:
    """As `config.GitHubFile` says it, for one file."""

    repository: str
    path: str
    ref: str
    branch: str = ""
    before: str = ""
    pushed_at: int | None = None
    """In microseconds since 1970; None: nobody says."""
    gone: bool = False
    commit_as: str = ""


@dataclass(frozen=True, slots=True)
class Mapped:
    """`items`: how many the delivery has; `unmatched`: for how many of them no rule held.
    `ignored`: the source's condition to ignore the delivery held, and nothing was looked at."""

    changes: list[JSON]
    files: Mapping[int, FileOfGitHub] = field(default_factory=dict)
    """What the content of some changes, by their index, is yet to be fetched from."""
    items: int = 0
    unmatched: int = 0
    ignored: bool = False
    refused: list[Problem] = field(default_factory=list)
    """Of items that a rule could make no change of; the field names item and rule."""
    warnings: list[str] = field(default_factory=list)


def context_of(source: Source, headers: Headers, payload: Any) -> JSON:
    """What expressions are asked of. No header that may hold a secret is among them."""
    hidden = set(_SECRET_HEADERS)
    if isinstance(source.verification, SharedToken):
        hidden.add(source.verification.header)
    shown = {name: ", ".join(values) for name, values in headers.items() if name not in hidden}
    return {
        "payload": payload,
        "headers": shown,
        "trusted_headers": shown if headers_decide(source) else {},
        "parameters": source.config.parameters,
        "source": source.name,
        "can_fetch": bool(source.github_token),
    }


def headers_decide(source: Source) -> bool:
    """Whether headers are as good as the body: the sender is known by the connection, or the
    operator has said so."""
    return not source.verification.signs_body or source.config.trust_unsigned_headers


def map_delivery(source: Source, context: JSON) -> Mapped:
    """Raises Problem (422, 413) for a delivery that cannot be looked into, or makes too much."""
    config = source.config
    if config.ignore is not None and _asked("ignore", config.ignore.holds, context):
        return Mapped([], ignored=True)
    for number, refusal in enumerate(config.refuse):
        if _asked(f"refuse[{number}].when", refusal.when.holds, context):
            raise Problem(INVALID_FIELD, refusal.detail, field=f"refuse[{number}]")
    items = _list_of("items", config.items, context) if config.items else [context["payload"]]
    check_items(source, len(items))
    found = _Findings(source)
    for number, item in enumerate(items):
        found.look_at(f"items[{number}]." if config.items else "", {**context, "item": item})
    if not items:
        found.warn({**context, "item": None})
    files = {index: file for index, (_, file) in enumerate(found.made) if file is not None}
    return Mapped(
        [change for change, _ in found.made],
        files,
        items=len(items),
        unmatched=found.unmatched,
        refused=found.refused,
        warnings=list(found.warnings),
    )


def merged(parts: Sequence[Mapped], max_changes: int) -> Mapped:
    """As if they were of one delivery. Raises Problem (413)."""
    changes: list[JSON] = []
    files: dict[int, FileOfGitHub] = {}
    for part in parts:
        files |= {len(changes) + index: file for index, file in part.files.items()}
        changes += part.changes
        _check_count(len(changes), max_changes)
    return Mapped(
        changes,
        files,
        refused=[problem for part in parts for problem in part.refused],
        warnings=list(dict.fromkeys(text for part in parts for text in part.warnings)),
    )


def checked(mapped: Mapped, limits: Settings, *, traceparent: str = "") -> list[Change | Problem]:
    """Each change as it is to be accepted, or what is wrong with it, the index in its field."""
    return [
        _checked(index, value, limits, traceparent) for index, value in enumerate(mapped.changes)
    ]


def _checked(index: int, value: JSON, limits: Settings, traceparent: str) -> Change | Problem:
    try:
        return change_of(value, limits, traceparent=traceparent)
    except Problem as problem:
        return problem.within(f"changes[{index}]")


def delivery_id_of(source: Source, headers: Headers, context: JSON) -> str | None:
    """What the sender calls this delivery, the same when it sends it again; None: nothing."""
    config = source.config
    if config.delivery_id is not None:
        found = _asked("delivery_id", config.delivery_id.of, context)
    elif config.format == "cloudevents":
        found = [[event["source"], event["id"]] for event in context["payload"]]
    else:
        found = next(iter(headers.get(_id_header(source), ())), None)
    if found is None or found in ("", []):
        return None
    text = found if isinstance(found, str) else _written("delivery_id", found)
    data = text.encode(errors="surrogatepass")
    if len(data) <= MAX_ID_BYTES and text.isprintable():
        return text
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _id_header(source: Source) -> str:
    verify = source.config.verify
    if isinstance(verify, StandardConfig | StandardPublicConfig):
        return f"{verify.prefix}id"
    return "x-github-delivery" if isinstance(verify, GitHubConfig) else "webhook-id"


def _written(where: str, value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True)
    except (RecursionError, ValueError):
        raise _refused(where, "is nested too deep") from None


# --- rules ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Findings:
    """Of the items looked at so far."""

    source: Source
    made: list[_Made] = field(default_factory=list)
    refused: list[Problem] = field(default_factory=list)
    unmatched: int = 0
    warnings: dict[str, None] = field(default_factory=dict)

    def look_at(self, where: str, context: JSON) -> None:
        """Raises Problem (413) beyond the changes that a delivery may make."""
        before = len(self.made) + len(self.refused)
        for number, rule in enumerate(self.source.config.changes):
            with self._each_for_itself():
                self._follow(f"{where}rules[{number}]", rule, context)
            _check_count(len(self.made) + len(self.refused), self.source.config.max_changes)
        self.unmatched += len(self.made) + len(self.refused) == before
        self.warn(context)

    def _follow(self, where: str, rule: Rule, context: JSON) -> None:
        """Raises Problem where nothing can be made of the item."""
        source = self.source
        if rule.content_of_github is not None and not source.github_token:
            return
        if rule.when is not None and not _asked(f"{where}.when", rule.when.holds, context):
            return
        if rule.each is None:
            self.made.append(_made(source, where, rule, context))
            return
        items = _list_of(f"{where}.each", rule.each, context)
        _check_count(len(items), source.config.max_changes)
        for number, item in enumerate(items):
            with self._each_for_itself():
                within = f"{where}.each[{number}]"
                self.made.append(_made(source, within, rule, {**context, "item": item}))

    @contextmanager
    def _each_for_itself(self) -> Iterator[None]:
        """What is wrong with one item; too many of them are the delivery's fault."""
        try:
            yield
        except Problem as problem:
            if problem.kind is TOO_LARGE:
                raise
            self.refused.append(problem)

    def warn(self, context: JSON) -> None:
        """A warning that cannot be asked for this payload is none."""
        for warning in self.source.config.warnings:
            with suppress(ExpressionError):
                if len(self.warnings) < MAX_WARNINGS and warning.when.holds(context):
                    self.warnings[warning.message.of(context)[:MAX_WARNING_CHARACTERS]] = None


def _made(source: Source, where: str, rule: Rule, context: JSON) -> _Made:
    for number, refusal in enumerate(rule.refuse):
        place = f"{where}.refuse[{number}]"
        if _asked(f"{place}.when", refusal.when.holds, context):
            raise Problem(INVALID_FIELD, refusal.detail, field=place)
    change = _change(source, where, rule, context)
    if rule.content_of_github is None:
        return change, None
    return change, _file(source, f"{where}.content_of_github", rule.content_of_github, context)


def _file(source: Source, where: str, file: GitHubFile, context: JSON) -> FileOfGitHub:
    """Raises Problem, 403 for a repository that the source may not read."""
    repository = _asked(f"{where}.repository", file.repository.of, context)
    require_repository(source, repository, f"{where}.repository")
    return FileOfGitHub(
        repository=repository,
        path=_asked(f"{where}.path", file.path.of, context),
        ref=_asked(f"{where}.ref", file.ref.of, context),
        branch=_filled(f"{where}.branch", file.branch, context) or "",
        before=_filled(f"{where}.before", file.before, context) or "",
        pushed_at=_time(_whole(_value(f"{where}.pushed_at", file.pushed_at, context))),
        gone=file.gone is not None and _asked(f"{where}.gone", file.gone.holds, context),
        commit_as=file.commit_as or "",
    )


def _time(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def require_repository(source: Source, repository: str, where: str) -> None:
    """Before anything is asked for with the source's token. Raises Problem (403)."""
    if not source.config.may_read(repository):
        detail = f"{repository[:200]!r} is none of the repositories that this source may read"
        raise Problem(FORBIDDEN, detail, field=where)


def _change(source: Source, where: str, rule: Rule, context: JSON) -> JSON:
    namespace = source.config.namespace
    if rule.namespace is not None:
        namespace = _asked(f"{where}.namespace", rule.namespace.of, context)
    change = {
        "change_type": rule.change_type,
        "namespace": namespace,
        "document_id": _asked(f"{where}.document_id", rule.document_id.of, context),
        "content": _value(f"{where}.content", rule.content, context),
        "content_url": _url(f"{where}.content_url", rule.content_url, context),
        "content_encoding": rule.content_encoding,
        "content_type": _filled(f"{where}.content_type", rule.content_type, context),
        "metadata": _metadata(f"{where}.metadata", rule.metadata, context),
        "source_version": _whole(_value(f"{where}.source_version", rule.source_version, context)),
    }
    return {name: value for name, value in change.items() if value is not None}


def _metadata(where: str, rules: Mapping[str, Expression] | None, context: JSON) -> JSON | None:
    if rules is None:
        return None
    found = {name: _value(f"{where}.{name}", rule, context) for name, rule in rules.items()}
    return {name: value for name, value in found.items() if value is not None}


def _value(where: str, expression: Expression | None, context: JSON) -> Any:
    return None if expression is None else _asked(where, expression.of, context)


def _filled(where: str, template: Template | None, context: JSON) -> str | None:
    return None if template is None else _asked(where, template.of, context)


def _url(where: str, template: Template | None, context: JSON) -> str | None:
    """Without `.` and `..` in its path, which would lead out of what the template says as soon as
    somebody on the way resolves them. Raises Problem."""
    url = _filled(where, template, context)
    if url is not None and {".", ".."} & set(_SLASHES.split(_path_of(url))):
        raise Problem(INVALID_FIELD, "the path of the URL has . or .. in it", field=where)
    return url


def _path_of(url: str) -> str:
    """As whoever is asked may read it."""
    path = _BEHIND_PATH.split(_TO_PATH.sub("", url), maxsplit=1)[0]
    return _UNSEEN.sub("", unquote(path))


def _whole(value: Any) -> Any:
    """JMESPath's to_number and some senders write whole numbers as 7.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _list_of(where: str, expression: Expression, context: JSON) -> list[Any]:
    """Nothing found is nothing to do; one thing is a list of one."""
    found = _asked(where, expression.of, context)
    if found is None:
        return []
    return found if isinstance(found, list) else [found]


def _asked(where: str, ask: Callable[[JSON], T], context: JSON) -> T:
    try:
        return ask(context)
    except ExpressionError as error:
        raise _refused(where, str(error)) from None


def _refused(where: str, detail: str) -> Problem:
    return Problem(INVALID_FIELD, f"the mapping cannot read this payload: {detail}", field=where)


def check_items(source: Source, count: int) -> None:
    """Also those that change nothing take time. Raises Problem (413)."""
    limit = max(MIN_ITEMS, ITEMS_A_CHANGE * source.config.max_changes)
    if count > limit:
        detail = f"this delivery has more than {limit} items; a larger max_changes allows more"
        raise Problem(TOO_LARGE, detail, limit=limit)


def _check_count(count: int, limit: int) -> None:
    if count > limit:
        detail = f"this delivery makes more than {limit} changes; max_changes allows more"
        raise Problem(TOO_LARGE, detail, limit=limit)
