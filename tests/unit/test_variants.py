"""Embedding variants: which model and which queue a namespace has, and what cannot be meant."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.adapters.embedder.profile import url_of
from common.cli.configuration import load_settings
from common.cli.problems import WrongUsageError
from common.composition import open_ports
from common.model import DocumentKey, EmbeddingProfile, QueueName, Vector, WakeUp
from common.settings import Settings
from common.variants import (
    DEFAULT,
    VariantError,
    check_variants,
    own_variant,
    variant_of,
    variants_of,
)
from tests.fakes.embedder import HashEmbedder
from tests.pipeline import Pipeline, pipeline
from webhook.accept import Change, ChangeType, ProfileMismatchError
from webhook.role import acceptor_of
from workers.fleet import worker_environment

LARGE = {
    "namespaces": ["kb-*", "tenant?"],
    "change_queue_name": "ChangeQueue-large",
    "embedder_url": "fastembed:/models/large",
}
GPU = {
    "namespaces": ["kb-images", "gpu"],
    "change_queue_name": "ChangeQueue-gpu",
    "embedder_url": "fastembed:/models/gpu",
}


def settings(variants: dict[str, Any], **more: Any) -> Settings:
    given = {"queue_url": "sqs:", "embedding_variants": variants, **more}
    return Settings(_env_file=None, **given)


@pytest.mark.parametrize(
    ("namespace", "name"),
    [
        ("kb-one", "large"),
        ("tenant7", "large"),
        ("tenant77", DEFAULT),
        ("gpu", "gpu"),
        ("kb-images", "large"),
        ("KB-one", DEFAULT),
        ("docs", DEFAULT),
    ],
)
def test_the_first_pattern_that_matches_counts(namespace: str, name: str) -> None:
    assert variant_of(settings({"large": LARGE, "gpu": GPU}), namespace).name == name


def test_the_order_is_the_one_given() -> None:
    assert variant_of(settings({"gpu": GPU, "large": LARGE}), "kb-images").name == "gpu"


def test_the_default_variant_is_the_settings_own() -> None:
    made = settings({}, change_queue_name="Changes", embedder_url="fastembed:small")
    (only,) = variants_of(made)
    assert (only.name, only.change_queue_name, only.embedder_url) == (
        DEFAULT, "Changes", "fastembed:small",
    )  # fmt: skip
    assert own_variant(made) == variant_of(made, "anything") == only


def test_a_worker_embeds_the_variant_that_it_is_given() -> None:
    made = settings({"large": LARGE}, embedding_variant="large")
    assert own_variant(made).embedder_url == "fastembed:/models/large"
    assert variant_of(made, "docs").change_queue_name == "ChangeQueue"


@pytest.mark.parametrize(
    ("variants", "more", "line"),
    [
        ({"large": LARGE}, {"queue_url": "sqlite:"}, "the queue 'sqlite:' has one change queue"),
        ({"large": LARGE}, {"embedding_variant": "huge"}, "no embedding variant .huge.*large, de"),
        ({}, {"embedding_variant": "large"}, "no embedding variant 'large'.*has default"),
        ({"default": LARGE}, {}, "'default' is the name of"),
        ({"a": LARGE, "b": {**GPU, "change_queue_name": "ChangeQueue-large"}}, {},
         "'b' and 'a' have the same change queue 'ChangeQueue-large'"),
        ({"a": {**LARGE, "change_queue_name": "ChangeQueue"}}, {},
         "'a' and 'default' have the same change queue 'ChangeQueue'"),
        ({"a": {**LARGE, "change_queue_name": "CreateQueue"}}, {},
         "queue of 'a' is that of BLOOMWEAVER_CREATE_QUEUE_NAME=CreateQueue"),
        ({"a": {**LARGE, "change_queue_name": "Up"}}, {"update_queue_name": "Up"},
         "BLOOMWEAVER_UPDATE_QUEUE_NAME=Up"),
        ({"a": {**LARGE, "change_queue_name": "DeleteQueue"}}, {}, "DELETE_QUEUE_NAME"),
        ({"a": {**LARGE, "change_queue_name": "DeadLetterQueue"}}, {}, "DEAD_LETTER_QUEUE_NAME"),
        ({"a": {**LARGE, "change_queue_name": "IntakeQueue"}}, {}, "INTAKE_QUEUE_NAME"),
        ({"a": LARGE, "b": GPU}, {}, "'kb-images' of 'b' is never reached: 'a' takes it before"),
        ({"a": LARGE, "b": {**GPU, "namespaces": ["kb-?x*"]}}, {}, "'kb-.x.' of 'b' is never"),
        ({"a": LARGE, "b": {**GPU, "namespaces": ["gpu", "kb-*"]}}, {},
         "'kb-\\*' of 'b' is never reached: 'a' takes it before"),
        ({"a": {**LARGE, "namespaces": ["*"]}, "b": GPU}, {},
         "'gpu' of 'b' is never reached: 'a' takes it before"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_said_at_the_start(
    variants: dict[str, Any], more: dict[str, Any], line: str
) -> None:
    with pytest.raises(VariantError, match=line):
        check_variants(settings(variants, **more))


def test_what_is_right_is_not_refused() -> None:
    check_variants(settings({"gpu": GPU, "large": LARGE}, embedding_variant="gpu"))
    wider = {**GPU, "namespaces": ["k*", "kb", "tenant7", "t?n*"]}
    check_variants(settings({"large": LARGE, "wider": wider}))
    plain, others = {**GPU, "namespaces": ["gpu", "[*"]}, {**LARGE, "namespaces": ["gpu2", "[ab]"]}
    check_variants(settings({"plain": plain, "others": others}))
    check_variants(settings({}, queue_url="sqlite:"))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "embedding_variants"),
        ('{"large": {"namespaces": ["a"]}}', r"EMBEDDING_VARIANTS\.LARGE\.CHANGE_QUEUE_NAME"),
        (json.dumps({"a": {**LARGE, "namespaces": []}}), r"EMBEDDING_VARIANTS\.A\.NAMESPACES"),
        (json.dumps({"a": {**LARGE, "model": "x"}}), r"EMBEDDING_VARIANTS\.A\.MODEL"),
    ],
)
def test_variants_that_cannot_be_read_are_named(
    text: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLOOMWEAVER_EMBEDDING_VARIANTS", text)
    with pytest.raises(WrongUsageError, match=line):
        load_settings({})


def test_a_child_process_reads_the_variants_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    made = settings({"large": LARGE})
    child = worker_environment(made, {}, "embed-1")["BLOOMWEAVER_EMBEDDING_VARIANTS"]
    monkeypatch.setenv("BLOOMWEAVER_EMBEDDING_VARIANTS", child)
    assert load_settings({}).embedding_variants == made.embedding_variants


# --- accepting -----------------------------------------------------------------------------------

SMALL_PROFILE = EmbeddingProfile(model="small", fingerprint="1", dimension=8, max_tokens=64)
LARGE_PROFILE = EmbeddingProfile(model="large", fingerprint="2", dimension=16, max_tokens=64)


@pytest.fixture
async def flow(tmp_path: Path) -> AsyncIterator[Pipeline]:
    async with pipeline(tmp_path) as made:
        yield made


def two_models(folder: Path) -> Settings:
    return settings(
        {"large": {**LARGE, "embedder_url": url_of(LARGE_PROFILE)}},
        embedder_url=url_of(SMALL_PROFILE),
        data_dir=folder / "data",
        registry_url="sqlite:",
    )


def insert(namespace: str) -> Change:
    key = DocumentKey(namespace, "a")
    return Change(key=key, change_type=ChangeType.INSERT, content=b"x", content_type="text/plain")


async def test_a_namespace_is_bound_to_the_profile_of_its_variant(
    flow: Pipeline, tmp_path: Path
) -> None:
    async with open_ports(two_models(tmp_path), receiver="test", own_index=False) as ports:
        acceptor = replace(acceptor_of(ports), queue=flow.queue)
        for namespace in ("kb-one", "docs"):
            await acceptor.accept(insert(namespace))
        assert {name: p.model for name, p in (await ports.registry.namespaces()).items()} == {
            "kb-one": "large",
            "docs": "small",
        }


async def test_a_namespace_that_changes_its_variant_is_refused(
    flow: Pipeline, tmp_path: Path
) -> None:
    await flow.registry.bind_namespace("kb-one", SMALL_PROFILE)
    async with open_ports(two_models(tmp_path), receiver="test", own_index=False) as ports:
        with pytest.raises(ProfileMismatchError, match=r"small.*large"):
            await acceptor_of(ports).bind("kb-one")


# --- searching -----------------------------------------------------------------------------------


class Asked(HashEmbedder):
    def __init__(self) -> None:
        super().__init__()
        self.queries: list[str] = []

    async def embed_query(self, text: str) -> Vector[float]:
        self.queries.append(text)
        return await super().embed_query(text)


async def test_a_search_embeds_with_the_namespace_s_model(flow: Pipeline) -> None:
    small, large = Asked(), Asked()
    made = settings({"large": LARGE})
    models = {"large": large, DEFAULT: small}
    searcher = replace(flow.searcher, embedder_of=lambda name: models[variant_of(made, name).name])
    await searcher.search("kb-one", "of the large", top_k=1)
    await searcher.search("docs", "of the small", top_k=1)
    assert (large.queries, small.queries) == (["of the large"], ["of the small"])


# --- routing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", ["", "large"])
async def test_changes_go_to_the_queue_of_their_namespace_whoever_sends_them(
    own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a worker of one variant may have to wake documents of another."""
    from common.adapters.queue.sqs import SqsQueue, connect
    from common.adapters.queue.sqs_messages import Envelope

    sent: list[tuple[str, str]] = []

    class Line:
        def __init__(self, name: str) -> None:
            self.name = name

        async def send(self, envelope: Envelope, **_more: Any) -> None:
            sent.append((self.name, envelope.wake_up().namespace))

    monkeypatch.setattr(SqsQueue, "_line", lambda _self, name: Line(name))
    queue = connect("sqs:", settings({"large": LARGE}, embedding_variant=own), "test")
    wake_ups = [WakeUp(namespace=n, document_id="a", version=1) for n in ("kb-one", "docs")]
    await queue.send(QueueName.CHANGE, wake_ups)
    await queue.send(QueueName.CREATE, wake_ups[:1])
    assert sent == [
        ("ChangeQueue-large", "kb-one"), ("ChangeQueue", "docs"), ("CreateQueue", "kb-one"),
    ]  # fmt: skip
    received_from = queue._names.of[QueueName.CHANGE]
    assert received_from == ("ChangeQueue-large" if own else "ChangeQueue")
    assert sorted(queue._names.all_of(QueueName.CHANGE)) == ["ChangeQueue", "ChangeQueue-large"]
