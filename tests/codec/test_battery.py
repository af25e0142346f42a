"""What every compressor promises (``codec/base.py``), for every one that is registered."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec_pair import Pair, draws_of, real_draw
from codec_reference import NOT_FINITE, VALUES, Draw, Floats, NotFiniteError, wide
from psrv import codec
from psrv.codec import Blocks, aligned
from psrv.errors import CodecError, NonFiniteError

DRAWS = draws_of(3)
DRAW, REAL = DRAWS[1], real_draw(DRAWS[1])


def splits(count: int, pair: Pair | None = None) -> list[list[int]]:
    """Ways to cut ``count`` coordinates into blocks: none, all, and tails of every kind."""
    if pair is not None and not pair.spec.startswith(("sign", "qsgd")):
        return [[count]]  # blocks play no part
    ways = [[count], [1] * count, [1, count - 1], [count - 1, 1], [7, count - 7], [16, count - 16]]
    ways.append([9] * (count // 9) + [count % 9])
    ways.append([count // 3, 8, count - count // 3 - 8])
    whole = [way for way in ways if min(way) >= 0]
    return sorted({tuple(size for size in way if size) for way in whole})


def same(a: Floats, b: Floats) -> bool:
    """Equal bit for bit: -0 is not 0."""
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def agrees(pair: Pair, x: Floats, sizes: Sequence[int], draw: Draw = DRAW) -> None:
    """The kernels give what the transcription gives, bit for bit."""
    try:
        expected = pair.reference.encode(x, sizes, draw)
    except NotFiniteError:
        with pytest.raises(NonFiniteError):
            pair.encode(x, sizes, draw)
        return
    payload, residual = pair.encode(x, sizes, draw)
    assert payload == expected, sizes
    assert pair.reference.size(sizes, draw) in (len(payload), None)
    assert len(payload) <= pair.real.payload_bound(Blocks.of(sizes), draw.workers)
    decoded = pair.reference.decode(payload, sizes, draw)
    assert same(pair.decode(payload, sizes, draw), decoded), sizes
    with np.errstate(over="ignore"):
        assert same(residual, x - decoded), sizes
        base = wide(x.size, 9)
        onto = base + decoded
    assert same(pair.onto(payload, sizes, base, draw), onto), sizes


# Values and sizes


@pytest.mark.parametrize("kind", VALUES)
def test_every_size_to_70_however_cut_is_as_transcribed(pair: Pair, kind: str) -> None:
    for count in range(1, 71):
        x = VALUES[kind](count)
        for sizes in splits(count, pair):
            agrees(pair, x, sizes, DRAWS[count % 3])


SIZES = (
    [127],
    [2047],
    [2048, 2049],
    [4095, 4096, 4097],
    [4096 * 3 + 63, 5, 4096 + 64],
    [32768, 32768, 10000],
    [123_457],
)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_sizes_about_the_chunks_of_the_kernels_are_as_transcribed(
    pair: Pair, sizes: list[int]
) -> None:
    agrees(pair, wide(sum(sizes)), sizes)


def test_predicted_payload_bytes_are_those_of_the_design(pair: Pair) -> None:
    for count in range(1, 71):
        for sizes in splits(count):
            for draw in DRAWS:
                size = pair.real.payload_bytes(Blocks.of(sizes), real_draw(draw))
                assert size == pair.reference.size(sizes, draw)
    blocks = [1 << 15] * 341 + [74]
    size = pair.real.payload_bytes(Blocks.of(blocks), REAL)
    assert size == pair.reference.size(blocks, DRAW)


def test_a_lossless_compressor_gives_back_every_bit_and_leaves_zero(pair: Pair) -> None:
    x = np.concatenate([make(50) for name, make in VALUES.items() if name != "one huge"])
    payload, residual = pair.encode(x, [x.size], DRAW)
    exact = same(pair.decode(payload, [x.size], DRAW), x) and not residual.any()
    assert exact == pair.real.lossless


def test_only_a_random_compressor_depends_on_the_draw(pair: Pair) -> None:
    x = VALUES["some zeros"](500)
    payloads = {pair.encode(x, [500], Draw(round=t, workers=3))[0] for t in range(10)}
    assert (len(payloads) > 1) == pair.real.random


@pytest.mark.parametrize("rho", [1.0, -1.0, 1 / 3, 0.0])
def test_a_residual_is_added_before_anything_else(pair: Pair, rho: float) -> None:
    for sizes in ([1], [33], [7, 16, 1, 40], [2048 + 5, 4096, 4096 * 3 + 17]):
        x, residual = wide(sum(sizes)), wide(sum(sizes), 8)
        before = residual.copy()
        expected = pair.encode(x + np.float32(rho) * residual, sizes, DRAW)
        payload, left = pair.encode(x, sizes, DRAW, residual, rho)
        assert payload == expected[0]
        assert same(left, expected[1])
        assert same(residual, before)


@pytest.mark.parametrize("spec", ["sign", "sign-unscaled"])
def test_bits_that_no_coordinate_uses_are_sent_as_zero_and_ignored(spec: str) -> None:
    pair = Pair.of(spec)
    x = -np.abs(wide(11)) - 1
    payload, _ = pair.encode(x, [11])
    assert payload[-1] == 0b111
    assert same(pair.decode(payload[:-1] + b"\xff", [11]), pair.decode(payload, [11]))


# Contraction


finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
moderate = finite.filter(lambda value: value == 0 or 1e-15 < abs(value) < 1e15)


@st.composite
def vectors(draw: st.DrawFn, values: st.SearchStrategy[float]) -> tuple[Floats, list[int]]:
    """A vector of up to 80 coordinates, and its cut into blocks."""
    x = np.array(draw(st.lists(values, min_size=1, max_size=80)), np.float32)
    cuts = draw(st.sets(st.integers(1, x.size - 1))) if x.size > 1 else set()
    return x, np.diff([0, *sorted(cuts), x.size]).tolist()


@given(case=vectors(finite))
def test_any_finite_vector_is_as_transcribed_or_refused(
    pair: Pair, case: tuple[Floats, list[int]]
) -> None:
    x, sizes = case
    agrees(pair, x, sizes)


@given(case=vectors(moderate))
def test_a_contractive_compressor_shrinks_the_error(
    pair: Pair, case: tuple[Floats, list[int]]
) -> None:
    x, sizes = case
    low, high = getattr(pair.reference, "range", (0, np.inf))
    x = np.where((np.abs(x) >= low) & (np.abs(x) <= high), x, np.float32(0))
    alpha = pair.reference.alpha(sizes)
    assert pair.real.contractive == (alpha > 0)
    if alpha and not pair.real.random:  # on average only, and shown in tests of their own
        _, residual = pair.encode(x, sizes)
        norm = np.square(x, dtype=float).sum()
        assert np.square(residual, dtype=float).sum() <= (1 - alpha + 1e-6) * norm
        assert codec.alpha(pair.real, x, Blocks.of(sizes)) >= alpha - 1e-6


def test_the_contraction_of_sign_is_the_papers_formula() -> None:
    x, sizes = wide(300), [100, 200]
    parts = np.split(x.astype(float), [100])
    left = sum(np.square(p).sum() - np.abs(p).sum() ** 2 / p.size for p in parts)
    expected = 1 - left / np.square(x, dtype=float).sum()
    assert codec.alpha(codec.parse("sign"), x, Blocks.of(sizes)) == pytest.approx(
        expected, rel=1e-5
    )


# Reduction


@pytest.mark.parametrize("n", range(1, 10))
def test_reduce_is_the_mean_of_the_decoded_in_rank_order(pair: Pair, n: int) -> None:
    for sizes in ([1], [33], [7, 16, 1, 40], [2048 + 5, 4096, 2048 * 3 + 17]):
        count, draws = sum(sizes), draws_of(n)
        payloads = [pair.encode(wide(count, d.rank), sizes, d)[0] for d in draws]
        expected = pair.expected(payloads, sizes, draws=draws)
        assert same(pair.reduce(payloads, sizes, draws=draws), expected)
        residual = wide(count, 99)
        for rho in (1.0, 0.0, 1 / 3, -1.0):
            expected = pair.expected(payloads, sizes, residual, rho, draws=draws)
            assert same(pair.reduce(payloads, sizes, residual, rho, draws=draws), expected)
        weights = np.abs(wide(n, 7))
        expected = pair.expected(payloads, sizes, residual, 0.5, weights, draws)
        assert same(pair.reduce(payloads, sizes, residual, 0.5, weights, draws), expected)


@pytest.mark.parametrize("down", ["dense", "sign", "sign-unscaled"])
def test_relay_is_reduce_and_then_encode(pair: Pair, down: str) -> None:
    sizes, draws, encoder = [7, 2048, 1, 4100], draws_of(3), Pair.of(down)
    count, server = sum(sizes), Draw(1, 3, 2, codec.rng.SERVER, 1)
    payloads = [pair.encode(wide(count, d.rank), sizes, d)[0] for d in draws]
    for residual, rho in ((None, 1.0), (wide(count, 99), 0.5)):
        reduced = pair.reduce(payloads, sizes, residual, rho, draws=draws)
        expected, left = encoder.encode(reduced, sizes, server)
        blocks, out = Blocks.of(sizes), aligned(count)
        result = np.empty(encoder.real.payload_bound(blocks, 1), np.uint8)
        real = [real_draw(d) for d in draws]
        size = pair.real.relay(
            payloads, blocks, real, out, residual, rho, encoder.real, real_draw(server), result
        )
        assert result[:size].tobytes() == expected
        assert same(out, left)


def test_reduce_of_a_payload_that_is_given_twice_counts_it_twice(pair: Pair) -> None:
    payload, _ = pair.encode(wide(100), [60, 40])
    expected = pair.expected([payload] * 3, [60, 40])
    assert same(pair.reduce([payload] * 3, [60, 40]), expected)


def test_reduce_of_nothing_is_refused(pair: Pair) -> None:
    with pytest.raises(CodecError, match="no payload"):
        pair.reduce([], [5])


def test_base_and_out_may_be_the_same_vector(pair: Pair) -> None:
    payload, _ = pair.encode(wide(300), [100, 200], DRAW)
    vector, blocks = wide(300, 1), Blocks.of([100, 200])
    expected = vector + pair.reference.decode(payload, [100, 200], DRAW)
    pair.real.decode_onto(np.frombuffer(payload, np.uint8), blocks, REAL, vector, vector)
    assert same(vector, expected)


# Memory


def shifted(x: Floats, offset: int) -> Floats:
    """A copy of ``x`` that starts ``offset`` bytes behind a cache line."""
    room = aligned(x.nbytes + 64, np.uint8)[offset : offset + x.nbytes].view(np.float32)
    room[:] = x
    return room


@pytest.mark.parametrize("offset", [1, 2, 4, 20, 63])
def test_no_buffer_needs_alignment(pair: Pair, offset: int) -> None:
    sizes = [100, 33]
    blocks, x = Blocks.of(sizes), wide(133)
    expected, residual = pair.encode(x, sizes, DRAW)
    decoded = pair.decode(expected, sizes, DRAW)
    buffer = shifted(x, offset)
    bound = pair.real.payload_bound(blocks, DRAW.workers)
    room = aligned(bound + 64, np.uint8)[offset : offset + bound]
    payload = room[: pair.real.encode(buffer, blocks, REAL, room)]
    assert payload.tobytes() == expected
    assert same(buffer, residual)
    out = shifted(np.zeros(133, np.float32), offset)
    pair.real.decode(payload, blocks, REAL, out)
    assert same(out, decoded)
    pair.real.decode_onto(payload, blocks, REAL, shifted(x, offset), out)
    assert same(out, x + decoded)
    pair.real.reduce([payload, payload], blocks, [REAL, REAL], out, shifted(x, offset), 0.5)
    assert same(out, pair.expected([expected] * 2, sizes, x, 0.5, draws=[DRAW, DRAW]))


def test_a_view_into_a_longer_vector_is_encoded_in_place_and_nothing_else_changes(
    pair: Pair,
) -> None:
    flat = wide(1000)
    before = flat.copy()
    view, blocks = flat[333:777], Blocks.of([444])
    room = np.empty(pair.real.payload_bound(blocks, DRAW.workers), np.uint8)
    payload = room[: pair.real.encode(view, blocks, REAL, room)]
    assert payload.tobytes() == pair.reference.encode(before[333:777], [444], DRAW)
    assert same(np.delete(flat, slice(333, 777)), np.delete(before, slice(333, 777)))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, "read-only array"])
def test_payloads_may_be_any_bytes_and_read_only(pair: Pair, kind: Any) -> None:
    payload, _ = pair.encode(wide(77), [77])
    if kind == "read-only array":
        given = np.frombuffer(payload, np.uint8)
        assert not given.flags.writeable
    else:
        given = kind(payload)
    assert same(pair.decode(given, [77]), pair.reference.decode(payload, [77], Draw()))
    assert same(pair.reduce([given], [77]), pair.expected([payload], [77]))


def test_nothing_is_written_outside_the_buffers(pair: Pair) -> None:
    for count in range(1, 71):
        sizes = splits(count)[-1]
        blocks, margin = Blocks.of(sizes), 64
        size = pair.real.payload_bound(blocks, DRAW.workers)
        payload = np.full(size + 2 * margin, 0xAB, np.uint8)
        vector = np.full(count + 2 * margin, 123, np.float32)
        inner, room = vector[margin:-margin], payload[margin : margin + size]
        inner[:] = wide(count)
        bits = room[: pair.real.encode(inner, blocks, REAL, room, wide(count, 1))]
        pair.real.decode(bits, blocks, REAL, inner)
        pair.real.decode_onto(bits, blocks, REAL, inner, inner)
        pair.real.reduce([bits, bits], blocks, [REAL, REAL], inner, wide(count), 1.0)
        for edge in (payload[:margin], payload[-margin:]):
            assert (edge == 0xAB).all()
        for edge in (vector[:margin], vector[-margin:]):
            assert (edge == 123).all()


def test_no_call_allocates_in_proportion_to_the_vector(pair: Pair) -> None:
    blocks = Blocks.of([1 << 15] * 32)
    count = blocks.dimension
    x, out, residual = aligned(count), aligned(count), aligned(count)
    x[:] = wide(count)
    room = np.empty(pair.real.payload_bound(blocks, DRAW.workers), np.uint8)
    payload = room[: pair.real.encode(x.copy(), blocks, REAL, room)].copy()
    calls: list[Callable[[], object]] = [
        lambda: pair.real.encode(x, blocks, REAL, room),
        lambda: pair.real.encode(x, blocks, REAL, room, residual, 0.5),
        lambda: pair.real.decode(payload, blocks, REAL, out),
        lambda: pair.real.decode_onto(payload, blocks, REAL, x, out),
        lambda: pair.real.reduce([payload] * 4, blocks, [REAL] * 4, out, residual, 0.5),
    ]
    for call in calls:
        call()
        tracemalloc.start()
        try:
            call()
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 16_384, f"{peak} bytes for {count} coordinates"


def test_two_threads_encode_and_reduce_as_one(pair: Pair) -> None:
    sizes = [1 << 15, 1 << 15, 777]
    inputs = [wide(sum(sizes), seed) for seed in range(8)]

    def work(x: Floats) -> tuple[bytes, bytes]:
        payload, residual = pair.encode(x, sizes, DRAW)
        return payload, pair.reduce([payload] * 3, sizes, residual, draws=[DRAW] * 3).tobytes()

    alone = [work(x) for x in inputs]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            assert list(pool.map(work, inputs)) == alone


# Refusals


@pytest.mark.parametrize("bad", NOT_FINITE, ids=["nan", "-nan", "inf", "-inf"])
def test_a_number_that_is_not_finite_is_refused_by_its_coordinate(pair: Pair, bad: float) -> None:
    for sizes in ([70], [7, 16, 1, 46], [1] * 70, [64, 6]):
        for at in range(70):
            x = wide(70)
            x[at] = bad
            # A partial compressor looks at every coordinate only where there is one to add.
            residual = np.zeros(70, np.float32) if pair.real.partial else None
            with pytest.raises(NonFiniteError, match=f"coordinate {at} is -?(nan|inf)") as caught:
                pair.encode(x, sizes, DRAW, residual)
            assert caught.value.coordinate == at


@pytest.mark.parametrize("bad", NOT_FINITE, ids=["nan", "-nan", "inf", "-inf"])
def test_the_first_of_several_is_named_in_a_long_vector(pair: Pair, bad: float) -> None:
    for at in (0, 4095, 4096, 5000, 8191, 9999, 12_287):
        x = wide(12_288)
        x[at], x[-1] = bad, np.nan
        residual = np.zeros(x.size, np.float32) if pair.real.partial else None
        with pytest.raises(NonFiniteError) as caught:
            pair.encode(x, [5000, 5000, 2288], DRAW, residual)
        assert caught.value.coordinate == at


def test_a_sum_beyond_float32_is_refused_and_names_the_block() -> None:
    x = wide(30)
    x[10:20] = 3e38
    blocks = Blocks.of([10, 10, 10])
    with pytest.raises(NonFiniteError, match="10 to 19 sum to more than float32") as caught:
        codec.parse("sign").encode(x, blocks, codec.Draw(), np.empty(18, np.uint8))
    assert caught.value.coordinate == 10


def readers(pair: Pair) -> list[Callable[[bytes, list[int]], Floats]]:
    """Every operation that takes a payload, beside good ones where it takes several."""

    def reduce(payload: bytes, sizes: list[int]) -> Floats:
        good, _ = pair.encode(wide(sum(sizes)), sizes)
        return pair.reduce([good, payload, good], sizes)

    def onto(payload: bytes, sizes: list[int]) -> Floats:
        return pair.onto(payload, sizes, np.zeros(sum(sizes), np.float32))

    return [pair.decode, onto, reduce]


def test_a_payload_of_the_wrong_length_is_refused(pair: Pair) -> None:
    sizes = [20, 13]
    payload, _ = pair.encode(wide(33), sizes)
    for read in readers(pair):
        for wrong in (*(payload[:size] for size in range(len(payload))), payload + b"\0"):
            fixed = pair.reference.size(sizes, Draw()) is not None
            match = f"{len(wrong)} bytes, expected {len(payload)}" if fixed else pair.real.name
            with pytest.raises(CodecError, match=match):
                read(wrong, sizes)


def test_what_is_no_run_of_bytes_is_refused(pair: Pair) -> None:
    payload, _ = pair.encode(wide(33), [33])
    spread = np.zeros(2 * len(payload), np.uint8)[::2]
    for wrong in (None, 7, "text", spread):
        with pytest.raises(CodecError, match="not a run of bytes"):
            pair.decode(wrong, [33])


def test_a_number_in_a_payload_that_cannot_be_is_refused(pair: Pair) -> None:
    sizes = [5, 20, 8]
    payload, _ = pair.encode(wide(33), sizes)
    for broken in pair.reference.broken(payload, sizes, Draw()):
        for read in readers(pair):
            with pytest.raises(CodecError, match=f"^{pair.real.name}.* payload "):
                read(broken, sizes)


def test_a_refused_payload_leaves_out_as_it_was(pair: Pair) -> None:
    sizes, blocks = [5, 20, 8], Blocks.of([5, 20, 8])
    good, _ = pair.encode(wide(33), sizes)
    none = codec.Draw()
    for bad in (good[:-1], *pair.reference.broken(good, sizes, Draw())):
        out, base = wide(33, 7), wide(33, 8)
        for call in (
            lambda p, o=out: pair.real.decode(p, blocks, none, o),
            lambda p, o=out, b=base: pair.real.decode_onto(p, blocks, none, b, o),
            lambda p, o=out, b=base: pair.real.reduce([good, p], blocks, [none] * 2, o, b, 1.0),
        ):
            with pytest.raises(CodecError):
                call(bad)
        assert same(out, wide(33, 7))
        assert same(base, wide(33, 8))


@given(data=st.data())
def test_any_bytes_give_values_or_a_codec_error(pair: Pair, data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    fixed = pair.reference.size(sizes, Draw())
    size = pair.real.payload_bound(Blocks.of(sizes), 1) if fixed is None else fixed
    junk = data.draw(st.binary(min_size=size, max_size=size) | st.binary(max_size=2 * size))
    for read in readers(pair):
        try:
            values = read(junk, sizes)
        except CodecError:
            continue
        assert len(junk) == size or fixed is None
        assert values.shape == (sum(sizes),)
        assert not np.isnan(values).any()


@pytest.mark.parametrize(
    "wrong",
    [
        wide(32),
        wide(34),
        wide(33).astype(np.float64),
        wide(33).astype(">f4"),
        wide(66)[::2],
        wide(33)[::-1],
        wide(33).reshape(3, 11),
    ],
    ids=["short", "long", "float64", "big-endian", "spread", "reversed", "matrix"],
)
def test_a_vector_of_another_kind_is_refused_before_a_kernel_sees_it(
    pair: Pair, wrong: np.ndarray
) -> None:
    blocks, good = Blocks.of([33]), wide(33)
    payload = np.frombuffer(pair.encode(good, [33])[0], np.uint8)
    room, none = np.empty(pair.real.payload_bound(blocks, 1), np.uint8), codec.Draw()
    calls: list[Callable[[], object]] = [
        lambda: pair.real.encode(wrong, blocks, none, room),
        lambda: pair.real.encode(good.copy(), blocks, none, room, wrong),
        lambda: pair.real.decode(payload, blocks, none, wrong),
        lambda: pair.real.decode_onto(payload, blocks, none, wrong, good),
        lambda: pair.real.decode_onto(payload, blocks, none, good, wrong),
        lambda: pair.real.reduce([payload], blocks, [none], wrong),
        lambda: pair.real.reduce([payload], blocks, [none], good, wrong, 1.0),
    ]
    for call in calls:
        with pytest.raises(CodecError, match=r"contiguous float32\[33\]"):
            call()


def test_what_is_no_array_is_refused(pair: Pair) -> None:
    blocks, none = Blocks.of([3]), codec.Draw()
    room = np.empty(pair.real.payload_bound(blocks, 1), np.uint8)
    payload = room[: pair.real.encode(wide(3), blocks, none, room)].copy()
    calls: list[Callable[[], object]] = [
        lambda: pair.real.encode([1.0, 2.0, 3.0], blocks, none, room),  # type: ignore[arg-type]
        lambda: pair.real.decode(payload, blocks, none, [0.0] * 3),  # type: ignore[arg-type]
        lambda: pair.real.reduce([payload], blocks, [none], wide(3), weights=[1.0]),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(CodecError, match="list"):
            call()


def test_what_is_written_to_must_be_writable_and_of_the_right_size(pair: Pair) -> None:
    blocks, vector = Blocks.of([33]), wide(33)
    none = codec.Draw()
    room = np.empty(pair.real.payload_bound(blocks, 1), np.uint8)
    for wrong in (room[:-1], np.append(room, room)[::2], room.view(np.int8)):
        with pytest.raises(CodecError, match="payload needs a writable"):
            pair.real.encode(vector.copy(), blocks, none, wrong)
    payload = room[: pair.real.encode(vector.copy(), blocks, none, room)].copy()
    vector.flags.writeable = room.flags.writeable = False
    with pytest.raises(CodecError, match="writable"):
        pair.real.encode(vector.copy(), blocks, none, room)
    calls: list[Callable[[], object]] = [
        lambda: pair.real.encode(vector, blocks, none, room.copy()),
        lambda: pair.real.decode(payload, blocks, none, vector),
        lambda: pair.real.decode_onto(payload, blocks, none, vector, vector),
        lambda: pair.real.reduce([payload], blocks, [none], vector),
    ]
    for call in calls:
        with pytest.raises(CodecError, match="read-only"):
            call()
