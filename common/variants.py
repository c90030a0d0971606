"""Embedding variants: namespaces that are embedded with another model, from a queue of its own.

Pure functions of the settings. A namespace belongs to the first variant, in the given order, one of
whose patterns it matches, and else to the default one, which is the settings' own change queue and
embedder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from common.ports.errors import PermanentError
from common.settings import Settings

DEFAULT = "default"
QUEUES_WITH_VARIANTS = ("sqs",)


class VariantError(PermanentError):
    """The variants contradict each other or the queue; the message names the setting."""


@dataclass(frozen=True, slots=True)
class Variant:
    """`namespaces`: patterns with * ? and [seq]."""

    name: str
    namespaces: tuple[str, ...]
    change_queue_name: str
    embedder_url: str


def variants_of(settings: Settings) -> tuple[Variant, ...]:
    """In the order in which they are asked; the default one, which takes the rest, is the last."""
    configured = (
        Variant(name, tuple(given.namespaces), given.change_queue_name, given.embedder_url)
        for name, given in settings.embedding_variants.items()
    )
    default = Variant(DEFAULT, ("*",), settings.change_queue_name, settings.embedder_url)
    return (*configured, default)


def variant_of(settings: Settings, namespace: str) -> Variant:
    """The variant that embeds the namespace."""
    return next(
        variant
        for variant in variants_of(settings)
        if any(fnmatchcase(namespace, pattern) for pattern in variant.namespaces)
    )


def own_variant(settings: Settings) -> Variant:
    """The one that this process embeds with. Raises VariantError."""
    wanted = settings.embedding_variant or DEFAULT
    variants = {variant.name: variant for variant in variants_of(settings)}
    if wanted not in variants:
        raise VariantError(
            f"there is no embedding variant {wanted!r}: BLOOMWEAVER_EMBEDDING_VARIANTS has "
            f"{', '.join(variants)}"
        )
    return variants[wanted]


def check_variants(settings: Settings) -> None:
    """Raises VariantError. To be called before anything is opened."""
    own_variant(settings)
    if not settings.embedding_variants:
        return
    wrong = [*_of_the_queue(settings), *_overlaps(settings)]
    if wrong:
        raise VariantError(f"BLOOMWEAVER_EMBEDDING_VARIANTS: {'; '.join(wrong)}")


def _of_the_queue(settings: Settings) -> Iterator[str]:
    scheme = settings.queue_url.partition(":")[0]
    if scheme not in QUEUES_WITH_VARIANTS:
        yield (
            f"the queue {settings.queue_url!r} has one change queue, so that all namespaces share "
            "one model: remove the variants, or set BLOOMWEAVER_QUEUE_URL to sqs:"
        )


def _overlaps(settings: Settings) -> Iterator[str]:
    """What could never be meant: a worker would take what another model has to embed."""
    queues: dict[str, str] = {DEFAULT: settings.change_queue_name}
    others = _other_queues(settings)
    patterns: dict[str, str] = {}
    for name, given in settings.embedding_variants.items():
        if name == DEFAULT:
            yield "'default' is the name of what BLOOMWEAVER_EMBEDDER_URL embeds"
            continue
        for other, queue in queues.items():
            if queue == given.change_queue_name:
                yield f"{name!r} and {other!r} have the same change queue {queue!r}"
        if (taken := others.get(given.change_queue_name)) is not None:
            yield f"the change queue of {name!r} is that of {taken}={given.change_queue_name}"
        queues[name] = given.change_queue_name
        for pattern in given.namespaces:
            takers = (patterns[one] for one in patterns if _covers(one, pattern))
            taker = next(takers, name)
            if taker != name:
                yield f"{pattern!r} of {name!r} is never reached: {taker!r} takes it before"
            patterns.setdefault(pattern, name)


def _other_queues(settings: Settings) -> dict[str, str]:
    """The variable of each queue that is not for changes, by its name."""
    roles = ("create", "update", "delete", "dead_letter", "intake")
    fields = [f"{role}_queue_name" for role in roles]
    return {getattr(settings, field): f"BLOOMWEAVER_{field.upper()}" for field in fields}


def _covers(earlier: str, later: str) -> bool:
    """Whether `earlier` takes all that `later` could, where that is plain: it is the same pattern,
    or a prefix and *, which `later` begins with."""
    prefix = earlier.removesuffix("*")
    plain = prefix != earlier and not any(special in prefix for special in "*?[")
    return earlier == later or (plain and later.startswith(prefix))
