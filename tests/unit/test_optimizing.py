"""A faster graph: what is fused, what is good enough, and what may be written where."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import helper

from common.chunking.chunker import ChunkSizes
from common.model import Vector
from common.optimizing.agreement import FUSED_BAR, INT8_BAR, agreement
from common.optimizing.float_graph import fused_graph
from common.optimizing.fusion import Fusions, fuse
from common.optimizing.measurement import speed_ratio, vectors
from common.optimizing.model_folder import complete, draft_beside, put_in_place, require_writable
from common.optimizing.optimize import Graph, Request
from common.optimizing.problems import OptimizationError, TargetExistsError
from common.optimizing.quantization import reduced_range_needed
from common.optimizing.sample import joined, passages, spread
from common.ports.embedder import Passage
from tests.encoder_layer import EncoderLayer
from tests.fakes.embedder import HashEmbedder, WordTokenizer

IDS = [(7 * n) % 50 for n in range(60)]


def test_a_layer_is_fused_and_its_outputs_stay() -> None:
    original = EncoderLayer().model()
    before = original.SerializeToString()
    fused, fusions = fused_graph(original, IDS)
    assert fusions == Fusions(attention=1, gelu=1, residual=1)
    kinds = [node.op_type for node in fused.graph.node]
    assert {"MultiHeadAttention", "Gelu", "Sum"} <= set(kinds)
    assert not {"Softmax", "Erf"} & set(kinds)
    assert original.SerializeToString() == before


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("position bias", Fusions(attention=0, gelu=1, residual=1)),
        ("gelu", Fusions(attention=1, gelu=0, residual=1)),
    ],
)
def test_what_is_not_recognised_stays_as_it_is(fault: str, found: Fusions) -> None:
    _, fusions = fused_graph(EncoderLayer(fault).model(), IDS)
    assert fusions == found


def test_a_fusion_that_changes_a_padded_text_is_dropped() -> None:
    """A mask that hides the text and shows the padding: alone a text would not tell."""
    model = EncoderLayer("mask").model()
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    assert fuse(copy).attention == 1
    graph, fusions = fused_graph(model, IDS)
    assert not fusions
    assert graph is model


def test_a_graph_with_branches_is_left_alone() -> None:
    model = EncoderLayer().model()
    branch = helper.make_graph([helper.make_node("Identity", ["words"], ["w"])], "branch", [], [])
    node = helper.make_node("If", ["flag"], ["unused"], then_branch=branch, else_branch=branch)
    model.graph.node.append(node)
    assert not fuse(model)


# --- agreement -----------------------------------------------------------------------------------


def at(*degrees: float) -> list[Vector[float]]:
    return [array("f", (math.cos(math.radians(d)), math.sin(math.radians(d)))) for d in degrees]


def test_agreement_is_the_cosine_whatever_the_length() -> None:
    found = agreement(at(0, 0, 0, 0), [array("f", (v[0] * 3, v[1] * 3)) for v in at(0, 0, 0, 60)])
    assert found.texts == 4
    assert found.least == pytest.approx(0.5)
    assert found.mean == pytest.approx(0.875)
    assert found.fifth_percentile == pytest.approx(0.575)
    assert str(found).startswith("mean cosine 0.8750 ")


@pytest.mark.parametrize("broken", [(0.0, 0.0), (math.nan, 1.0)])
def test_a_broken_vector_agrees_with_nothing(broken: tuple[float, float]) -> None:
    assert agreement(at(0), [array("f", broken)]).mean == 0


@pytest.mark.parametrize("others", [[], at(0, 1)])
def test_other_numbers_of_vectors_cannot_be_compared(others: list[Vector[float]]) -> None:
    with pytest.raises(ValueError, match="cannot be compared"):
        agreement(at(*range(len(others) // 2)), others)


@pytest.mark.parametrize(
    ("graph", "asked", "least"),
    [
        ("int8", None, INT8_BAR),
        ("int8", 0.5, INT8_BAR),
        ("int8", 0.995, 0.995),
        ("fused", None, FUSED_BAR),
        ("fused", 0.99, FUSED_BAR),
    ],
)
def test_the_bar_can_be_raised_and_never_lowered(
    tmp_path: Path, graph: Graph, asked: float | None, least: float
) -> None:
    request = Request(
        original=tmp_path,
        original_profile=HashEmbedder().profile,
        target=tmp_path / "new",
        graph=graph,
        open_embedder=lambda _: HashEmbedder(),
        documents=[],
        sizes=ChunkSizes(),
        bar=asked,
    )
    assert request.least_cosine == least


@pytest.mark.parametrize(
    ("machine", "flags", "reduced"),
    [
        ("x86_64", "sse4_2 avx2 avx512f avx512_vnni", False),
        ("AMD64", "avx2 avx_vnni", False),
        ("x86_64", "avx2 avx512f", True),
        ("x86_64", "", True),
        ("aarch64", "asimddp", False),
        ("arm64", "", False),
    ],
)
def test_weights_keep_to_seven_bits_where_products_overflow(
    machine: str, flags: str, reduced: bool
) -> None:
    assert reduced_range_needed(machine, flags) is reduced


# --- measuring -----------------------------------------------------------------------------------


class Paced(HashEmbedder):
    """Takes so many ticks of a common clock for each text."""

    def __init__(self, clock: list[float], ticks: Iterator[float]) -> None:
        super().__init__()
        self.clock, self.ticks = clock, ticks

    async def embed_documents(self, passages: Any) -> list[Vector[float]]:
        self.clock[0] += next(self.ticks)
        return await super().embed_documents(passages)


async def test_speed_is_the_median_of_pairs_taken_in_turn() -> None:
    clock = [0.0]
    original = Paced(clock, iter([8.0, 8.0, 80.0]))
    other = Paced(clock, iter([4.0, 2.0, 40.0]))
    ratio = await speed_ratio(original, other, ["a", "b", "c"], clock=lambda: clock[0])
    assert ratio == 2.0
    assert original.embedded == other.embedded == ["a", "b", "c"]


async def test_vectors_come_in_order_and_are_counted() -> None:
    embedder, counts = HashEmbedder(), list[int]()
    found = await vectors(embedder, [Passage(f"text {n}") for n in range(40)], counts.append)
    assert embedder.embedded == [f"text {n}" for n in range(40)]
    assert (len(found), counts[-1]) == (40, 40)


def test_a_sample_is_of_distinct_chunks_from_all_of_it() -> None:
    text = b"# One\n\nfirst words here\n\n# Two\n\nother words there\n"
    documents = [(text, "text/markdown"), (text, "text/markdown")]
    found = list(passages(documents, WordTokenizer(), ChunkSizes()))
    assert len(found) == len({passage.text for passage in found}) == 2
    many = [Passage(str(n), array("i", [n])) for n in range(10)]
    assert [passage.text for passage in spread(many, 5)] == ["0", "2", "4", "6", "8"]
    assert spread(many, 20) == many


def test_texts_for_the_speed_are_put_together_to_a_size() -> None:
    many = [Passage(str(n), array("i", [n] * 4)) for n in range(10)]
    assert joined(many, tokens=8, limit=3) == ["0\n1", "2\n3", "4\n5"]
    assert joined(many[:1], tokens=8, limit=3) == ["0"]


# --- the folder ----------------------------------------------------------------------------------


def written(folder: Path, content: str) -> None:
    with draft_beside(folder) as draft:
        (draft / "model.onnx").write_text(content)
        put_in_place(draft, folder, {"graph": content})


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "model-int8"
    written(folder, "first")
    (folder / "left over").touch()
    written(folder, "second")
    assert (folder / "model.onnx").read_text() == "second"
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx", "optimized.json"]
    assert list(folder.parent.iterdir()) == [folder]


def test_what_this_command_wrote_is_overwritten_by_force_only(tmp_path: Path) -> None:
    folder = tmp_path / "model-int8"
    written(folder, "first")
    with pytest.raises(TargetExistsError, match="--force"):
        require_writable(folder, replace=False)
    require_writable(folder, replace=True)


def test_a_folder_of_something_else_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(TargetExistsError, match="not written by this command"):
        require_writable(tmp_path, replace=True)
    with pytest.raises(TargetExistsError, match="no folder"):
        require_writable(tmp_path / "photo.jpg", replace=True)


def test_a_place_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OptimizationError, match="--out"):
        require_writable(tmp_path / "file" / "model-int8", replace=False)


def test_all_but_other_weights_is_copied(tmp_path: Path) -> None:
    original, draft = tmp_path / "original", tmp_path / "draft"
    (original / "1_Pooling").mkdir(parents=True)
    draft.mkdir()
    copied = ["tokenizer.json", "config.json", "vocab.txt", "1_Pooling/config.json"]
    for name in [*copied, "model.onnx", "model.onnx_data", "model.safetensors", "optimized.json"]:
        (original / name).write_text(name)
    complete(draft, original)
    found = {path.relative_to(draft).as_posix() for path in draft.rglob("*") if path.is_file()}
    assert found == set(copied)
