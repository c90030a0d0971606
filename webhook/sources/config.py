"""What sources.yaml may say, as models that refuse what they do not know."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, field_validator, model_validator

from webhook.signatures import (
    TOLERANCE_SECONDS,
    Basic,
    Digest,
    Encoding,
    NobodyYet,
    PlainHmac,
    SharedToken,
    StandardWebhooks,
    StandardWebhooksPublic,
    TimestampedHmac,
    Unverified,
    Verification,
    github,
    standard_public_key,
    standard_secret,
)
from webhook.sources.expressions import Expression, ExpressionError, Template

MAX_SECRETS = 8
REMEMBERED_HOURS = 96.0
"""Senders try again for so long: four days."""
MAX_CHANGES = 1000
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

_CONTENTS = ("content", "content_url", "content_of_github")
_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\*?|\*")
_HEADER = r"^[A-Za-z0-9-]{1,64}$"
_REPOSITORIES = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}/(?:\*|[A-Za-z0-9._-]{1,100})")


def _expression(value: Any) -> Expression:
    if not isinstance(value, str):
        raise ValueError("must be a JMESPath expression, as text")  # noqa: TRY004 - pydantic's
    try:
        return Expression(value)
    except ExpressionError as error:
        raise ValueError(str(error)) from None


def _template(value: Any) -> Template:
    if not isinstance(value, str) or not value:
        raise ValueError("must be text, with expressions in braces")
    try:
        return Template(value)
    except ExpressionError as error:
        raise ValueError(str(error)) from None


Asked = Annotated[Expression, PlainValidator(_expression)]
Filled = Annotated[Template, PlainValidator(_template)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


# --- verification --------------------------------------------------------------------------------


class _WithSecrets(_Strict):
    """`secret`, or `secrets` while one is being replaced by another."""

    secret: str | None = None
    secrets: list[str] | None = Field(None, min_length=1, max_length=MAX_SECRETS)

    @model_validator(mode="after")
    def _has_one(self) -> _WithSecrets:
        if (self.secret is None) == (self.secrets is None):
            raise ValueError("needs `secret`, or `secrets` for several at once")
        return self

    @property
    def references(self) -> dict[tuple[str | int, ...], str]:
        """By where in the verification each stands."""
        if self.secrets is None:
            return {("secret",): self.secret or ""}
        return {("secrets", number): one for number, one in enumerate(self.secrets)}

    def verification(self, secrets: tuple[str, ...]) -> Verification:
        """Raises ValueError for a secret that cannot be one."""
        raise NotImplementedError


class StandardConfig(_WithSecrets):
    kind: Literal["standard-webhooks"]
    tolerance_seconds: float = Field(TOLERANCE_SECONDS, gt=0, le=3600)
    prefix: Literal["webhook-", "svix-"] = "webhook-"

    def verification(self, secrets: tuple[str, ...]) -> Verification:
        try:
            keys = tuple(standard_secret(secret) for secret in secrets)
        except ValueError:
            raise ValueError("must be base64, as the sender shows it: whsec_…") from None
        return StandardWebhooks(keys, self.tolerance_seconds, self.prefix)


class StandardPublicConfig(_Strict):
    """Its keys are public, and stand in the file."""

    kind: Literal["standard-webhooks-v1a"]
    public_keys: list[str] = Field(min_length=1, max_length=MAX_SECRETS)
    tolerance_seconds: float = Field(TOLERANCE_SECONDS, gt=0, le=3600)
    prefix: Literal["webhook-", "svix-"] = "webhook-"

    @field_validator("public_keys")
    @classmethod
    def _are_keys(cls, texts: list[str]) -> list[str]:
        for text in texts:
            try:
                standard_public_key(text)
            except ValueError:
                raise ValueError("each must be a key as the sender shows it: whpk_…") from None
        return texts

    @property
    def references(self) -> dict[tuple[str | int, ...], str]:
        return {}

    def verification(self, secrets: tuple[str, ...]) -> Verification:
        del secrets
        keys = tuple(standard_public_key(text) for text in self.public_keys)
        return StandardWebhooksPublic(keys, self.tolerance_seconds, self.prefix)


class GitHubConfig(_WithSecrets):
    kind: Literal["github"]

    def verification(self, secrets: tuple[str, ...]) -> Verification:
        return github(_bytes(secrets))


class HmacConfig(_WithSecrets):
    kind: Literal["hmac"]
    header: str = Field(pattern=_HEADER)
    prefix: str = Field("", max_length=32)
    encoding: Encoding = "hex"
    digest: Digest = "sha256"

    def verification(self, secrets: tuple[str, ...]) -> Verification:
        header = self.header.lower()
        return PlainHmac(_bytes(secrets), header, self.prefix, self.encoding, self.digest)


class TimestampedConfig(_WithSecrets):
    kind: Literal["stripe"]
    header: str = Field("Stripe-Signature", pattern=_HEADER)
    encoding: Encoding = "hex"
    unit: Literal["s", "ms"] = "s"
    tolerance_seconds: float = Field(TOLERANCE_SECONDS, gt=0, le=3600)

    def verification(self, secrets: tuple[str, ...]) -> Verification:
        return TimestampedHmac(
            _bytes(secrets),
            header=self.header.lower(),
            encoding=self.encoding,
            milliseconds=self.unit == "ms",
            tolerance_seconds=self.tolerance_seconds,
        )


class TokenConfig(_WithSecrets):
    kind: Literal["token"]
    header: str = Field("Authorization", pattern=_HEADER)
    prefix: str | None = Field(None, max_length=32)

    def verification(self, secrets: tuple[str, ...]) -> Verification:
        header = self.header.lower()
        default = "Bearer " if header == "authorization" else ""
        mark = default if self.prefix is None else self.prefix
        return SharedToken(_bytes(secrets), header, mark)


class BasicConfig(_WithSecrets):
    kind: Literal["basic"]
    username: str = Field(min_length=1, max_length=256, pattern=r"^[^:\x00-\x1f\x7f]+$")

    def verification(self, secrets: tuple[str, ...]) -> Verification:
        return Basic(_bytes(secrets), self.username)


class NoneConfig(_Strict):
    kind: Literal["none"]

    @property
    def references(self) -> dict[tuple[str | int, ...], str]:
        return {}

    def verification(self, secrets: tuple[str, ...]) -> Verification:
        del secrets
        return Unverified()


class HandshakeConfig(_Strict):
    """Until Notion has sent the token that is to be the secret (`webhook.sources.handshake`)."""

    kind: Literal["notion-handshake"]

    @property
    def references(self) -> dict[tuple[str | int, ...], str]:
        return {}

    def verification(self, secrets: tuple[str, ...]) -> Verification:
        del secrets
        return NobodyYet()


def _bytes(secrets: tuple[str, ...]) -> tuple[bytes, ...]:
    return tuple(secret.encode() for secret in secrets)


VerifyConfig = Annotated[
    StandardConfig
    | StandardPublicConfig
    | GitHubConfig
    | HmacConfig
    | TimestampedConfig
    | TokenConfig
    | BasicConfig
    | HandshakeConfig
    | NoneConfig,
    Field(discriminator="kind"),
]


# --- mapping -------------------------------------------------------------------------------------


class GitHubFile(_Strict):
    """A file of a repository, fetched with the source's `github_token`.

    With `branch`, as it is on that branch when the delivery is worked, which is the change's
    `source_version` too, unless the rule gives one: of two deliveries the one that looked later
    shows what is newer, whatever came first. `ref` is the commit that was pushed and `before` the
    one before it: while the branch is still said to be there, or at an older commit than the one
    that was pushed, GitHub has not caught up, unless the push is older than it ever takes. Without
    `branch`, as it is at `ref`. What is not on the branch is deleted.
    """

    repository: Filled
    path: Filled
    ref: Filled
    branch: Filled | None = None
    before: Filled | None = None
    pushed_at: Asked | None = None
    """When it was pushed: microseconds since 1970, as `epoch_us` gives them."""
    gone: Asked | None = None
    """Whether the payload says that the file was removed, so that it is no surprise."""
    commit_as: str | None = None
    """The field of the metadata that is to name the commit it was fetched at."""


class GitHubComparison(_Strict):
    """Two commits that are compared, where `when` holds and there is a `github_token`."""

    when: Asked
    repository: Filled
    before: Filled
    after: Filled


class Refusal(_Strict):
    """What `when` holds for is refused with this detail, 422: a delivery, or a rule's change."""

    when: Asked
    detail: str = Field(min_length=1, max_length=1000)


class Rule(_Strict):
    """Makes a change of each item for which `when` holds.

    Expressions are asked of `{payload, item, headers, parameters, source}`. Fields are those of a
    change as POST /v1/changes takes it; what an expression finds nothing for is left out.
    """

    change_type: Literal["insert", "update", "delete"] = "insert"
    when: Asked | None = None
    each: Asked | None = None
    """A list within the item: a change is made of each of it, which is then the `item`."""
    refuse: list[Refusal] = Field(default_factory=list, max_length=16)
    """Such as: what has none of the fields it is made of would empty a document."""
    namespace: Filled | None = None
    document_id: Filled
    content: Asked | None = None
    content_url: Filled | None = None
    content_of_github: GitHubFile | None = None
    content_encoding: Literal["utf-8", "base64"] | None = None
    content_type: Filled | None = None
    metadata: dict[str, Asked] | None = Field(None, max_length=64)
    source_version: Asked | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Rule:
        given = [name for name in _CONTENTS if getattr(self, name) is not None]
        if self.change_type == "delete":
            carried = (*_CONTENTS, "content_encoding", "content_type", "metadata")
            if found := [name for name in carried if getattr(self, name) is not None]:
                raise ValueError(f"a delete carries nothing of the document: remove {found[0]}")
        elif self.change_type == "insert" and not given:
            raise ValueError(f"an insert needs one of {', '.join(_CONTENTS)}")
        if len(given) > 1:
            raise ValueError(f"content is in one place: {given[0]} or {given[1]}")
        return self


class Warned(_Strict):
    """Told in the answer and in the log of a delivery with an item for which `when` holds; one
    without items is asked once."""

    when: Asked
    message: Filled


class SourceConfig(_Strict):
    preset: str | None = None
    description: str = ""
    namespace: str | None = None
    namespaces: list[str] | None = Field(None, min_length=1, max_length=64)
    """What the rules may name, a trailing * for any ending; `namespace` alone is the usual case."""
    verify: VerifyConfig
    format: Literal["json", "ndjson", "form", "cloudevents"] = "json"
    parameters: dict[str, str | int | float | bool | list[str]] = Field(default_factory=dict)
    """Of a preset, for its expressions."""
    ignore: Asked | None = None
    """Deliveries that are answered and change nothing."""
    refuse: list[Refusal] = Field(default_factory=list, max_length=16)
    items: Asked | None = None
    """The items of a delivery, a list; without it the payload is the one item."""
    changes: list[Rule] = Field(min_length=1, max_length=64)
    warnings: list[Warned] = Field(default_factory=list, max_length=64)
    delivery_id: Asked | None = None
    trust_unsigned_headers: bool = False
    """Headers decide although the signature is not of them: whoever can replay a delivery within
    its time can put others into their place."""
    remembered_hours: float = Field(REMEMBERED_HOURS, gt=0, le=24 * 60)
    max_changes: int = Field(MAX_CHANGES, ge=1, le=100_000)
    max_body_bytes: int | None = Field(None, ge=1)
    github_token: str | None = None
    """A reference, as a secret is. Without one, rules for files of GitHub change nothing."""
    repositories: list[str] | None = Field(None, min_length=1, max_length=1000)
    """What the token may be used for, `owner/name` or `owner/*`: deliveries name the repository,
    and whoever can sign one is not to choose among all that the token may read."""
    compare_on_github: GitHubComparison | None = None
    """Gives expressions `compared`, as `webhook.sources.github_compared` says."""
    stopped: bool = False
    """Answered with 410, so that the sender stops."""

    @field_validator("repositories")
    @classmethod
    def _are_repositories(cls, names: list[str] | None) -> list[str] | None:
        for name in names or ():
            if _REPOSITORIES.fullmatch(name) is None:
                raise ValueError(f"{name!r} is neither owner/name nor owner/*")
        return names

    @model_validator(mode="after")
    def _reaches_something(self) -> SourceConfig:
        if (self.namespace is None) == (self.namespaces is None):
            raise ValueError("needs `namespace`, or `namespaces` that its rules choose from")
        for pattern in self.reach:
            if _PATTERN.fullmatch(pattern) is None:
                raise ValueError(f"{pattern!r} is no namespace")
        if self.namespace is not None and self.namespace.endswith("*"):
            raise ValueError("`namespace` is one; `namespaces` may end in *")
        if self.namespace is None and any(rule.namespace is None for rule in self.changes):
            raise ValueError("with `namespaces`, each rule says which one: `namespace`")
        return self

    @property
    def reach(self) -> tuple[str, ...]:
        return tuple(self.namespaces or [self.namespace or ""])

    def may_read(self, repository: str) -> bool:
        """Whether the token may be used for it. GitHub's names are the same in any case."""
        name = repository.lower()
        owner, _, rest = name.partition("/")
        allowed = {one.lower() for one in self.repositories or ()}
        return bool(rest) and "/" not in rest and bool({name, f"{owner}/*"} & allowed)
