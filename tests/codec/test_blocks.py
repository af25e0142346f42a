"""How a model becomes blocks and buckets."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from psrv.codec import Blocks, aligned
from psrv.errors import CodecError, ConfigError
from psrv.layout import BLOCK, BUCKET_BYTES, Layout, Tensor, digest_of

MODEL = (
    Tensor("first.weight", (300, 200)),
    Tensor("first.bias", (300,)),
    Tensor("scale", ()),
    Tensor("last.weight", (10, 300)),
    Tensor("last.bias", (10,)),
)


def sizes_of(layout: Layout) -> list[list[int]]:
    return [np.diff(bucket.blocks.edges).tolist() for bucket in layout.buckets]


# Blocks


@given(sizes=st.lists(st.integers(1, 100), min_size=1, max_size=30))
def test_blocks_follow_one_another_and_their_bits_start_on_bytes(sizes: list[int]) -> None:
    blocks = Blocks.of(sizes)
    assert blocks.edges.tolist() == [sum(sizes[:b]) for b in range(len(sizes) + 1)]
    bits = [sum((size + 7) // 8 for size in sizes[:b]) for b in range(len(sizes) + 1)]
    assert blocks.bit_edges.tolist() == bits
    assert (len(blocks), blocks.dimension) == (len(sizes), sum(sizes))


@pytest.mark.parametrize("sizes", [[], [0], [3, 0], [0, 3], [3, -1]], ids=str)
def test_an_empty_block_or_none_at_all_is_refused(sizes: list[int]) -> None:
    with pytest.raises(CodecError, match="no empty block"):
        Blocks.of(sizes)


def test_blocks_do_not_follow_a_change_of_the_array_they_were_made_of() -> None:
    edges = np.array([0, 5, 9])
    blocks = Blocks(edges)
    edges[:] = 1 << 40
    assert blocks.edges.tolist() == [0, 5, 9]


def test_aligned_vectors_begin_on_a_cache_line_and_hold_zeros() -> None:
    for size in (0, 1, 15, 16, 17, 1000):
        for dtype in (np.float32, np.uint8, np.float64):
            vector = aligned(size, dtype)
            assert (vector.shape, vector.dtype) == ((size,), dtype)
            assert size == 0 or vector.ctypes.data % 64 == 0
            assert not vector.any()


# The layout


def test_the_last_tensor_comes_first() -> None:
    layout = Layout.build(MODEL)
    assert [tensor.name for tensor in layout.tensors] == [t.name for t in reversed(MODEL)]
    assert layout.offsets == {
        "last.bias": 0,
        "last.weight": 10,
        "scale": 3010,
        "first.bias": 3011,
        "first.weight": 3311,
    }
    assert layout.dimension == 63_311


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (BLOCK, [10, 3000, 1, 300, 32_768, 27_232]),
        (1000, [10, 1000, 1000, 1000, 1, 300] + [1000] * 60),
        (60_000, [10, 3000, 1, 300, 60_000]),
        ("tensor", [10, 3000, 1, 300, 60_000]),
        ("global", [63_311]),
    ],
    ids=str,
)
def test_blocks_are_runs_of_one_tensor(rule: Any, expected: list[int]) -> None:
    assert sizes_of(Layout.build(MODEL, rule)) == [expected]


def test_the_default_block_is_the_designs() -> None:
    assert BLOCK == 2**15
    assert BUCKET_BYTES == 4 * 2**20


def test_a_bucket_closes_before_it_would_be_too_long() -> None:
    layout = Layout.build(MODEL, 1000, bucket_bytes=4 * 2500)
    assert sizes_of(layout) == [[10, 1000, 1000], [1000, 1, 300, 1000]] + [[1000, 1000]] * 29 + [
        [1000]
    ]


def test_a_block_longer_than_a_bucket_is_a_bucket_of_its_own() -> None:
    layout = Layout.build(MODEL, "tensor", bucket_bytes=4 * 3010)
    assert sizes_of(layout) == [[10, 3000], [1, 300], [60_000]]


def test_global_is_one_block_in_one_bucket_however_long() -> None:
    layout = Layout.build([Tensor("x", (3 * BUCKET_BYTES,))], "global")
    assert sizes_of(layout) == [[3 * BUCKET_BYTES]]


def test_parameter_groups_never_share_a_bucket() -> None:
    groups = (0, 1, 1, 0, 0)
    tensors = [Tensor(t.name, t.shape, g) for t, g in zip(MODEL, groups, strict=True)]
    layout = Layout.build(tensors)
    assert [bucket.group for bucket in layout.buckets] == [0, 1, 0]
    assert [(bucket.start, bucket.stop) for bucket in layout.buckets] == [
        (0, 3010),
        (3010, 3311),
        (3311, 63_311),
    ]
    assert layout.groups == 2


@st.composite
def models(draw: st.DrawFn) -> tuple[list[Tensor], int | str, int]:
    shapes = draw(st.lists(st.lists(st.integers(1, 9), max_size=3), min_size=1, max_size=12))
    rule = draw(st.integers(1, 50) | st.just("tensor") | st.just("global"))
    group = st.just(0) if rule == "global" else st.integers(0, 2)
    tensors = [Tensor(f"t{i}", tuple(shape), draw(group)) for i, shape in enumerate(shapes)]
    return tensors, rule, 4 * draw(st.integers(1, 300))


@given(model=models())
def test_buckets_of_whole_blocks_cover_every_coordinate_once(
    model: tuple[list[Tensor], Any, int],
) -> None:
    tensors, rule, room = model
    layout = Layout.build(tensors, rule, room)
    assert layout.buckets[0].start == 0
    assert layout.buckets[-1].stop == layout.dimension == sum(t.size for t in tensors)
    for before, after in pairwise(layout.buckets):
        assert before.stop == after.start
        longer = 4 * (after.blocks.edges[1] + before.blocks.dimension)
        assert longer > room or before.group != after.group, "closed too early"
    for index, bucket in enumerate(layout.buckets):
        assert bucket.index == index
        assert bucket.blocks.dimension == bucket.stop - bucket.start
        assert 4 * bucket.blocks.dimension <= room or len(bucket.blocks) == 1
        if rule == "global":
            continue
        for start, stop in pairwise((bucket.blocks.edges + bucket.start).tolist()):
            tensor = layout.tensor_at(start)
            assert tensor is layout.tensor_at(stop - 1)
            assert tensor.group == bucket.group
            assert rule == "tensor" or stop - start <= rule
    for tensor in tensors:
        first = layout.offsets[tensor.name]
        assert layout.tensor_at(first) == layout.tensor_at(first + tensor.size - 1) == tensor


def test_views_are_the_tensors_inside_the_flat_vector() -> None:
    layout = Layout.build(MODEL)
    flat = np.arange(layout.dimension, dtype=np.float32)
    views = layout.views(flat)
    assert list(views) == [t.name for t in layout.tensors]
    for tensor in MODEL:
        view = views[tensor.name]
        assert view.shape == tensor.shape
        assert np.shares_memory(view, flat)
        assert view.flat[0] == layout.offsets[tensor.name]
    views["last.weight"][:] = -1
    assert (flat[10:3010] == -1).all()


# Digests


def test_the_digest_of_a_layout_is_this_one() -> None:
    """Workers of different versions compare it: what it is made of cannot change unnoticed."""
    plain = hashlib.sha256()
    plain.update(b"b\0(2, 3)\x000\na\0()\x001\n")
    plain.update(b"0 6 0\n" + np.array([0, 4, 6], "<i8").tobytes())
    plain.update(b"6 7 1\n" + np.array([0, 1], "<i8").tobytes())
    layout = Layout.build([Tensor("a", (), 1), Tensor("b", (2, 3))], 4)
    assert layout.digest() == plain.digest()


def test_any_difference_shows_in_the_digest() -> None:
    def build(tensors: Any = MODEL, **options: Any) -> bytes:
        return Layout.build(tensors, **options).digest()

    first, *rest = MODEL
    others = [
        build([*rest, first]),
        build(rest),
        build([Tensor("renamed", first.shape), *rest]),
        build([Tensor(first.name, (200, 300)), *rest]),
        build([Tensor(first.name, first.shape, 1), *rest]),
        build(blocks=1000),
        build(blocks="tensor"),
        build(blocks="global"),
        build(bucket_bytes=5000),
    ]
    assert len({build(), *others}) == len(others) + 1
    assert build() == build()


def test_the_digest_of_parameters_is_over_their_bytes() -> None:
    x = np.array([1, -0.0, 2], np.float32)
    data = bytes.fromhex("0000803f0000008000000040")
    assert digest_of(x) == hashlib.sha256(data).hexdigest()
    assert digest_of(np.repeat(x, 2)[::2]) == digest_of(x)
    assert digest_of(np.abs(x)) != digest_of(x)


# Refusals


@pytest.mark.parametrize(
    ("tensors", "rule", "message"),
    [
        ([], BLOCK, "no parameters"),
        ([MODEL[0], MODEL[0]], BLOCK, "'first.weight' is listed twice"),
        ([Tensor("e", (3, 0))], BLOCK, r"'e' of shape \(3, 0\) has no elements"),
        (MODEL, 0, "at least 1"),
        (MODEL, -5, "at least 1"),
        (MODEL, "layer", "'layer'; expected tensor, global, or a whole number"),
        ([MODEL[0], Tensor("b", (1,), 1)], "global", "one parameter group"),
    ],
    ids=["none", "twice", "empty", "zero", "negative", "unknown", "groups"],
)
def test_what_cannot_be_laid_out_is_refused_with_the_reason(
    tensors: Any, rule: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Layout.build(tensors, rule)
