"""What an attempt writes and what it keeps."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from common.model import Applied, IdRange, expand
from common.pack import Pack
from common.transitions import compress
from tests.builders import pack
from workers.plan import plan_apply


def shown(base: Pack, *ranges: IdRange) -> Applied:
    return Applied(
        version=base.version,
        doc_hash=base.doc_hash,
        metadata_hash=base.metadata_hash,
        embedding_profile=base.embedding_profile,
        manifest=ranges,
        chunk_count=len(base.chunks),
    )


def test_only_the_changed_chunk_is_written() -> None:
    base, new = pack(["a", "b", "c"]), pack(["a", "B", "c"], version=2)
    plan = plan_apply(new, shown(base, IdRange(1, 0, 2)), base)
    assert plan.new == [1]
    assert expand(plan.manifest(IdRange(2, 0, 0))) == [(1, 0), (2, 0), (1, 2)]


def test_other_metadata_writes_every_record() -> None:
    base, new = pack(["a", "b"]), pack(["a", "b"], version=2, metadata={"lang": "en"})
    assert plan_apply(new, shown(base, IdRange(1, 0, 1)), base).new == [0, 1]


def test_another_embedding_profile_writes_every_record() -> None:
    base = pack(["a", "b"])
    new = pack(["a", "b"], version=2, embedding_profile="other")
    assert plan_apply(new, shown(base, IdRange(1, 0, 1)), base).new == [0, 1]


def test_without_a_base_pack_every_record_is_written() -> None:
    base, new = pack(["a"]), pack(["a"], version=2)
    assert plan_apply(new, shown(base, IdRange(1, 0, 0)), None).new == [0]


def test_equal_chunks_keep_a_record_each() -> None:
    base, new = pack(["x", "x"]), pack(["x", "x", "x"], version=2)
    plan = plan_apply(new, shown(base, IdRange(1, 0, 1)), base)
    assert plan.new == [2]
    manifest = expand(plan.manifest(IdRange(2, 0, 0)))
    assert len(set(manifest)) == 3


def test_a_document_that_only_lost_chunks_writes_nothing() -> None:
    base, new = pack(["a", "b", "c"]), pack(["c"], version=2)
    plan = plan_apply(new, shown(base, IdRange(1, 0, 2)), base)
    assert plan.new == []
    assert expand(plan.manifest(None)) == [(1, 2)]


texts = st.lists(st.sampled_from("abcdef"), max_size=12)


@given(texts, texts)
def test_the_manifest_spells_the_new_version(old: list[str], new: list[str]) -> None:
    """Whatever was there before: reading the manifest's records in order gives the new chunks."""
    base, wanted = pack(old), pack(new, version=2)
    index = {(1, n): text for n, text in enumerate(old)}
    applied = replace(shown(base), manifest=compress(sorted(index)))
    plan = plan_apply(wanted, applied, base)
    own = IdRange(2, 0, len(plan.new) - 1) if plan.new else None
    index.update({(2, n): new[place] for n, place in enumerate(plan.new)})
    manifest = expand(plan.manifest(own))
    assert [index[ids] for ids in manifest] == new
    assert len(set(manifest)) == len(manifest)
