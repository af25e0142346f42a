"""The kernels of the sign compressors against plain NumPy, in the order that the document states.

Every buffer lies at an odd address between bytes that nothing may touch, and what is only read
has to be as it was.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from codec_reference import Floats, bit_of, norm1, pack, ranges, unpack, wide
from psrv.codec import Blocks, rng, sign_kernels

Sizes = Sequence[int]

SHAPES: dict[str, Sizes] = {
    "1 to 70": range(1, 71),
    "about 2048": (2047, 2048, 2049),
    "about 4096": (4095, 4096, 4097),
    "odd ends": (3, 8259, 64, 4111),
    "default": (1 << 15, 1 << 15, 77),
}
NONE = np.float32(1)
CANARY = 0xA5
MARGIN = 131


class Arena:
    """Buffers at odd addresses, with canaries on both sides."""

    def __init__(self) -> None:
        self._rooms: list[tuple[np.ndarray, int, int]] = []
        self._constants: list[tuple[np.ndarray, np.ndarray]] = []

    def room(self, size: int) -> np.ndarray:
        """uint8[size], spoilt."""
        memory = np.full(size + 2 * MARGIN + 1, CANARY, np.uint8)
        start = MARGIN + 1 - (memory.ctypes.data + MARGIN) % 2  # so that the address is odd
        self._rooms.append((memory, start, start + size))
        return memory[start : start + size]

    def floats(self, values: Floats | int) -> Floats:
        """A copy of a vector; or a spoilt one of that length."""
        if isinstance(values, int):
            return self.room(4 * values).view("<f4")
        vector = self.room(4 * values.size).view("<f4")
        vector[:] = values
        return vector

    def constant(self, values: np.ndarray) -> np.ndarray:
        """A copy that has to stay as it is."""
        held = self.room(values.nbytes)
        held[:] = np.ascontiguousarray(values).view(np.uint8)
        self._constants.append((held, held.copy()))
        return held.view(values.dtype)

    def check(self) -> None:
        for memory, start, stop in self._rooms:
            assert (memory[:start] == CANARY).all()
            assert (memory[stop:] == CANARY).all()
        for held, before in self._constants:
            np.testing.assert_array_equal(held, before)


def at(array: np.ndarray | None) -> int:
    return 0 if array is None else array.__array_interface__["data"][0]


def same(a: np.ndarray, b: np.ndarray) -> None:
    """Equal bit for bit, the sign of a zero included."""
    np.testing.assert_array_equal(
        np.ascontiguousarray(a).view(np.uint8), np.ascontiguousarray(b).view(np.uint8)
    )


# Plain NumPy


def total(terms: list[Floats], factor: np.float32, residual: Floats | None, rho: float) -> Floats:
    out = terms[0]
    for term in terms[1:]:
        out = out + term
    out = out * factor
    return out if residual is None else out + np.float32(rho) * residual


def signed(payload: bytes, sizes: Sizes, weight: np.float32) -> Floats:
    """w C(x) of a sign payload, with w times the scale rounded."""
    scales = np.frombuffer(payload, "<f4", len(sizes))
    parts, at_byte = [], 4 * len(sizes)
    for size, scale in zip(sizes, scales, strict=True):
        length = (size + 7) // 8
        negative = unpack(payload[at_byte : at_byte + length], size)
        parts.append(np.where(negative, -(weight * scale), weight * scale))
        at_byte += length
    return np.concatenate(parts)


def encoded(x: Floats, sizes: Sizes) -> tuple[bytes, Floats]:
    """A sign payload, and x - C(x)."""
    scales, bits = [], []
    for start, stop in ranges(sizes):
        scales.append(np.float32(norm1(x[start:stop]) / (stop - start)))
        bits.append(pack(np.signbit(x[start:stop])))
    payload = np.array(scales, "<f4").tobytes() + b"".join(bits)
    return payload, x - signed(payload, sizes, NONE)


def votes(payload: bytes, count: int, weight: np.float32) -> Floats:
    return np.where(unpack(payload, count), -weight, weight)


def voted(x: Floats, key: int) -> tuple[bytes, Floats]:
    """An unscaled payload, and x - C(x)."""
    drawn = np.array([bit_of(key, i) for i in np.flatnonzero(x == 0).tolist()], bool)
    negative = x < 0
    negative[x == 0] = drawn
    return pack(negative), x - np.where(negative, np.float32(-1), np.float32(1))


def payloads_of(sizes: Sizes, n: int) -> list[bytes]:
    """n sign payloads; some scales are denormal, and a ninth of the blocks is zero in all."""
    made = []
    for k in range(n):
        payload = bytearray(encoded(wide(sum(sizes), 100 + k), sizes)[0])
        scales = np.frombuffer(payload, "<f4", len(sizes))
        if k % 5 == 1:
            scales[0] = 1e-45
        if len(sizes) > 3:
            scales[3::9] = 0.0
        made.append(bytes(payload))
    return made


def votes_of(count: int, n: int) -> list[bytes]:
    random = np.random.default_rng(n)
    return [random.integers(0, 256, (count + 7) // 8, np.uint8).tobytes() for _ in range(n)]


WEIGHTS = (1.0, -0.375, 0.3, 0.0, 1.7)


def weights_of(n: int) -> Floats:
    return np.resize(np.array(WEIGHTS, np.float32), n)


class Server:
    """The arguments of a reduction in an arena of their own."""

    def __init__(self, payloads: list[bytes], weights: Floats | None, residual: Floats | None):
        self.arena = Arena()
        self._held = [self.arena.constant(np.frombuffer(p, np.uint8)) for p in payloads]
        self.payloads = np.array([at(p) for p in self._held], np.int64)
        n = len(payloads)
        self.factor = np.float32(1 / n) if weights is None else np.float32(1)
        self._weights = None if weights is None else self.arena.constant(weights)
        self._residual = None if residual is None else self.arena.constant(residual)
        self.weights, self.residual = at(self._weights), at(self._residual)


def reduced(
    payloads: list[bytes], sizes: Sizes, weights: Floats | None, residual: Floats | None, rho: float
) -> Floats:
    server = Server(payloads, weights, residual)
    blocks, out = Blocks.of(sizes), server.arena.floats(sum(sizes))
    sign_kernels.reduce_sign(
        server.payloads,
        server.weights,
        server.factor,
        blocks.edges,
        blocks.bit_edges,
        at(out),
        server.residual,
        np.float32(rho),
    )
    server.arena.check()
    return out


def relayed(
    payloads: list[bytes], sizes: Sizes, weights: Floats | None, residual: Floats | None, rho: float
) -> tuple[int, bytes, Floats]:
    server = Server(payloads, weights, residual)
    blocks, out = Blocks.of(sizes), server.arena.floats(sum(sizes))
    result = server.arena.room(len(payloads[0]))
    bad = sign_kernels.relay_sign(
        server.payloads,
        server.weights,
        server.factor,
        blocks.edges,
        blocks.bit_edges,
        server.residual,
        np.float32(rho),
        at(out),
        at(result),
    )
    server.arena.check()
    return bad, result.tobytes(), out


def reduced_votes(
    payloads: list[bytes], count: int, weights: Floats | None, residual: Floats | None, rho: float
) -> Floats:
    server = Server(payloads, weights, residual)
    out = server.arena.floats(count)
    sign_kernels.reduce_unscaled(
        server.payloads,
        server.weights,
        server.factor,
        count,
        at(out),
        server.residual,
        np.float32(rho),
    )
    server.arena.check()
    return out


def encode(
    x: Floats, sizes: Sizes, residual: Floats | None, rho: float
) -> tuple[int, bytes, Floats]:
    arena, blocks = Arena(), Blocks.of(sizes)
    buffer = arena.floats(x)
    rest = None if residual is None else arena.constant(residual)
    payload = arena.room(4 * len(blocks) + int(blocks.bit_edges[-1]))
    bad = sign_kernels.encode_sign(
        at(buffer),
        at(rest),
        np.float32(rho),
        blocks.edges,
        blocks.bit_edges,
        at(payload),
    )
    arena.check()
    return bad, payload.tobytes(), buffer


def encode_votes(
    x: Floats, residual: Floats | None, rho: float, key: int
) -> tuple[int, bytes, Floats]:
    arena = Arena()
    buffer = arena.floats(x)
    rest = None if residual is None else arena.constant(residual)
    payload = arena.room((x.size + 7) // 8)
    bad = sign_kernels.encode_unscaled(
        at(buffer), at(rest), np.float32(rho), x.size, np.uint64(key), at(payload)
    )
    arena.check()
    return bad, payload.tobytes(), buffer


# What a sender does


shapes = pytest.mark.parametrize("sizes", SHAPES.values(), ids=SHAPES.keys())
rhos = pytest.mark.parametrize("rho", [None, 1.0, 0.7, 0.0, -2.5])


@shapes
@rhos
def test_encode_sign_adds_packs_and_subtracts(sizes: Sizes, rho: float | None) -> None:
    x, residual = wide(sum(sizes), 1), None if rho is None else wide(sum(sizes), 2)
    x[::7], x[3::11] = 0.0, -0.0
    added = x if residual is None else x + np.float32(rho) * residual
    payload, rest = encoded(added, sizes)
    bad, written, left = encode(x, sizes, residual, rho or 0.0)
    assert (bad, written) == (-1, payload)
    same(left, rest)


@pytest.mark.parametrize("count", [*range(1, 71), 127, 128, 4097])
@pytest.mark.parametrize("rho", [None, 0.7])
def test_encode_unscaled_adds_packs_and_subtracts(count: int, rho: float | None) -> None:
    key = rng.key(1, rng.Purpose.TIE, 2, 3, 4)
    x, residual = wide(count, 1), None if rho is None else wide(count, 2)
    x[::3] = 0.0
    x[1::5] = -0.0
    if residual is not None:
        residual[::2] = 0.0
    added = x if residual is None else x + np.float32(rho) * residual
    payload, rest = voted(added, key)
    bad, written, left = encode_votes(x, residual, rho or 0.0, key)
    assert (bad, written) == (-1, payload)
    same(left, rest)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found_wherever_it_is(value: float) -> None:
    sizes = (70, 64, 9, 4111)
    edges = np.cumsum((0, *sizes))
    for i in (0, 15, 16, 63, 64, 69, 70, 133, 134, 142, 143, 4238, 4240, 4252, 4253):
        block = int(np.searchsorted(edges, i, side="right")) - 1
        for into_residual in (False, True):
            x, residual = wide(sum(sizes), 3), wide(sum(sizes), 4)
            (residual if into_residual else x)[i] = value
            assert encode(x, sizes, residual, 1.0)[0] == block
            assert encode_votes(x, residual, 1.0, 5)[0] == i
            if into_residual:
                payloads = payloads_of(sizes, 2)
                bad, _, out = relayed(payloads, sizes, None, residual, 1.0)
                assert bad == block
                start, stop = edges[block : block + 2]
                expected = reduced(payloads, sizes, None, residual, 1.0)
                same(out[start:stop], expected[start:stop])  # for whoever looks for the cause


def test_magnitudes_that_sum_to_more_than_float32_holds_are_refused() -> None:
    sizes = (64, 5000)
    x = np.full(sum(sizes), 1e38, np.float32)
    x[:64] = 1
    assert encode(x, sizes, None, 1.0)[0] == 1
    assert encode(x, sizes, x, 1.0)[0] == 1
    payloads = [encoded(np.full(sum(sizes), 1e33, np.float32), sizes)[0]] * 2
    weights = np.array([3e4, 3e4], np.float32)
    assert relayed(payloads, sizes, weights, None, 1.0)[0] == 0
    assert encode_votes(x, None, 1.0, 5)[0] == -1


# What a server does


def cases(d: int) -> list[tuple[bool, Floats | None, float]]:
    """Whether there are weights, the residual, and rho."""
    residual = wide(d, 9)
    residual[::5], residual[1::5] = 0.0, -0.0
    return [(False, None, 1.0), (False, residual, 0.7), (True, None, 1.0), (True, residual, -1.5)]


COUNTS = (*range(1, 21), 31, 32, 33, 64, 65)


@pytest.mark.parametrize(
    ("name", "n"),
    [(name, n) for name in SHAPES for n in (COUNTS if name != "default" else (1, 4, 33))],
)
def test_sums_are_in_rank_order_whatever_their_length(name: str, n: int) -> None:
    sizes = SHAPES[name]
    d = sum(sizes)
    payloads, ballots = payloads_of(sizes, n), votes_of(d, n)
    for weighted, residual, rho in cases(d):
        weights = weights_of(n) if weighted else None
        each = weights_of(n) if weighted else np.ones(n, np.float32)
        factor = np.float32(1) if weighted else np.float32(1 / n)

        terms = [signed(p, sizes, w) for p, w in zip(payloads, each, strict=True)]
        expected = total(terms, factor, residual, rho)
        same(reduced(payloads, sizes, weights, residual, rho), expected)

        payload, rest = encoded(expected, sizes)
        bad, written, left = relayed(payloads, sizes, weights, residual, rho)
        assert (bad, written) == (-1, payload)
        same(left, rest)

        terms = [votes(p, d, w) for p, w in zip(ballots, each, strict=True)]
        same(reduced_votes(ballots, d, weights, residual, rho), total(terms, factor, residual, rho))


def test_weights_of_one_are_no_weights() -> None:
    sizes = (130, 4111)
    payloads, ballots = payloads_of(sizes, 5), votes_of(sum(sizes), 5)
    ones = np.ones(5, np.float32)
    terms = [signed(p, sizes, NONE) for p in payloads]
    same(reduced(payloads, sizes, ones, None, 1.0), total(terms, NONE, None, 1.0))
    terms = [votes(p, sum(sizes), NONE) for p in ballots]
    same(reduced_votes(ballots, sum(sizes), ones, None, 1.0), total(terms, NONE, None, 1.0))


@pytest.mark.parametrize("n", [255, 256, 1000, 10_000])
def test_thousands_of_payloads(n: int) -> None:
    sizes = (70, 53)
    d = sum(sizes)
    kinds, ballots = payloads_of(sizes, 23), votes_of(d, 23)
    order = np.random.default_rng(0).integers(0, 23, n)
    residual = wide(d, 8)
    for weights in (None, weights_of(n)):
        each = np.ones(n, np.float32) if weights is None else weights
        factor = np.float32(1 / n) if weights is None else np.float32(1)
        terms = [signed(kinds[k], sizes, w) for k, w in zip(order, each, strict=True)]
        expected = total(terms, factor, residual, 0.7)
        payload, rest = encoded(expected, sizes)
        bad, written, left = relayed([kinds[k] for k in order], sizes, weights, residual, 0.7)
        assert (bad, written) == (-1, payload)
        same(left, rest)
        terms = [votes(ballots[k], d, w) for k, w in zip(order, each, strict=True)]
        same(
            reduced_votes([ballots[k] for k in order], d, weights, residual, 0.7),
            total(terms, factor, residual, 0.7),
        )


def test_the_residual_may_be_where_the_result_goes() -> None:
    """What one round leaves over is the next round's residual, in the same memory if need be."""
    sizes = (100, 4111)
    payloads, residual = payloads_of(sizes, 3), wide(sum(sizes), 6)
    payload, rest = encoded(
        total([signed(p, sizes, NONE) for p in payloads], np.float32(1 / 3), residual, 0.7), sizes
    )
    server, blocks, result = Server(payloads, None, None), Blocks.of(sizes), bytearray(payload)
    written = np.frombuffer(result, np.uint8)
    written[:] = 0
    bad = sign_kernels.relay_sign(
        server.payloads,
        0,
        server.factor,
        blocks.edges,
        blocks.bit_edges,
        at(residual),
        np.float32(0.7),
        at(residual),
        at(written),
    )
    assert (bad, bytes(result)) == (-1, payload)
    same(residual, rest)


# What a receiver does


@shapes
def test_decoding(sizes: Sizes) -> None:
    d, blocks = sum(sizes), Blocks.of(sizes)
    base = wide(d, 7)
    base[::4] = -0.0
    for payload, ballot in zip(payloads_of(sizes, 2), votes_of(d, 2), strict=True):
        arena = Arena()
        data, vote = (arena.constant(np.frombuffer(p, np.uint8)) for p in (payload, ballot))
        out, held = arena.floats(d), arena.constant(base)
        sign_kernels.decode_sign(at(data), blocks.edges, blocks.bit_edges, at(out))
        same(out, signed(payload, sizes, NONE))
        sign_kernels.decode_sign_onto(at(data), blocks.edges, blocks.bit_edges, at(held), at(out))
        same(out, base + signed(payload, sizes, NONE))
        sign_kernels.decode_unscaled(at(vote), d, at(out))
        same(out, votes(ballot, d, NONE))
        sign_kernels.decode_unscaled_onto(at(vote), d, at(held), at(out))
        same(out, base + votes(ballot, d, NONE))
        sign_kernels.decode_unscaled_onto(at(vote), d, at(out), at(out))
        same(out, base + votes(ballot, d, NONE) + votes(ballot, d, NONE))
        arena.check()
