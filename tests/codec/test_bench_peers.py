"""What ``psrv bench codec`` compares with computes the same as the codec, in either library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from psrv import codec
from psrv.bench.codec import SPECS
from psrv.bench.peer import Order, Peer, qsgd_gain
from psrv.bench.plain import plain
from psrv.codec import Blocks, Draw
from psrv.codec.base import Bytes, Floats

BLOCKS = Blocks.of([170, 33])  # an odd number, so that no bits fill their last byte
D = BLOCKS.dimension
N = 4

SAME_BYTES = ("dense", "fp16", "bf16", "natural", "sign", "sign-unscaled")
EXACT = ("dense", "fp16", "bf16", "sign-unscaled")
"""No draw and no sum, so that every number of the same payload is known."""


class Library(NamedTuple):
    name: str
    make: Callable[[Order], Peer | None]
    vector: Callable[[Any], Any]

    def peer(self, spec: str, feedback: bool = False) -> Peer:
        peer = self.make(Order.of(spec, feedback, N))
        assert peer is not None
        return peer


@pytest.fixture(params=["numpy", pytest.param("torch", marks=pytest.mark.torch)])
def library(request: pytest.FixtureRequest) -> Library:
    if request.param == "numpy":
        return Library("numpy", plain, lambda x: x)
    torch = pytest.importorskip("torch")
    from psrv.bench.plain_torch import plain_torch

    return Library("torch", plain_torch, torch.from_numpy)


@pytest.fixture(params=SPECS)
def spec(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[False, True], ids=["C", "contracted"])
def feedback(request: pytest.FixtureRequest) -> bool:
    return request.param


def normal(seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(D, np.float32)


def real(
    spec: str, feedback: bool, x: Floats, residual: Floats | None = None
) -> tuple[Bytes, Floats]:
    """psrv's payload and C(x)."""
    compressor = codec.parse(spec)
    compressor = compressor.contracted() if feedback else compressor
    draw, buffer, out = Draw(workers=N), x.copy(), np.empty_like(x)
    room = np.empty(compressor.payload_bound(BLOCKS, N), np.uint8)
    payload = room[: compressor.encode(buffer, BLOCKS, draw, room, residual)]
    compressor.decode(payload, BLOCKS, draw, out)
    return payload, out


def as_arrays(library: Library, name: str, payload: Bytes) -> tuple[Any, ...]:
    """psrv's bytes as the peer has them."""
    if name == "natural":
        return tuple(library.vector(part.copy()) for part in (payload[:D], payload[D:]))
    types = {"dense": "f4", "fp16": "f2", "bf16": "u2"}
    array = library.vector(payload.view(types.get(name, "u1")))
    if name == "bf16" and library.name == "torch":
        import torch

        array = array.view(torch.bfloat16)
    return (array,)


def nbytes(payload: Any) -> int:
    """Bytes of all arrays in a payload; a number is known to both ends."""
    if isinstance(payload, tuple | list):
        return sum(map(nbytes, payload))
    return 0 if isinstance(payload, int) else payload.nbytes


def test_there_is_a_peer_of_every_compressor(library: Library, spec: str, feedback: bool) -> None:
    assert library.make(Order.of(spec, feedback, N)) is not None
    assert library.make(Order.of("nosuch", feedback, N)) is None


def test_what_is_sent_and_what_is_left_are_x(library: Library, spec: str, feedback: bool) -> None:
    peer, x, left, e = library.peer(spec, feedback), normal(), normal(), normal(1)
    payload = peer.encode(library.vector(left), BLOCKS)
    decoded = np.asarray(peer.decode(payload, BLOCKS))
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded + left, x, atol=1e-4)
    left = normal()
    payload = peer.encode(library.vector(left), BLOCKS, library.vector(e))
    np.testing.assert_allclose(np.asarray(peer.decode(payload, BLOCKS)) + left, x + e, atol=1e-4)


def test_decode_onto_adds(library: Library, spec: str, feedback: bool) -> None:
    peer, base = library.peer(spec, feedback), normal(2)
    payload = peer.encode(library.vector(normal()), BLOCKS)
    decoded = np.asarray(peer.decode(payload, BLOCKS))
    peer.decode_onto(payload, BLOCKS, library.vector(base))
    np.testing.assert_allclose(base, normal(2) + decoded, rtol=1e-6, atol=1e-6)


def test_the_mean_is_the_mean(library: Library, spec: str, feedback: bool) -> None:
    peer = library.peer(spec, feedback)
    payloads = [peer.encode(library.vector(normal(rank)), BLOCKS, rank=rank) for rank in range(N)]
    decoded = [np.asarray(peer.decode(payload, BLOCKS)) for payload in payloads]
    mean = np.asarray(peer.mean(payloads, BLOCKS))
    np.testing.assert_allclose(mean, np.mean(decoded, 0), rtol=1e-5, atol=1e-6)


def test_what_draws_nothing_is_what_the_codec_computes(
    library: Library, spec: str, feedback: bool
) -> None:
    e = normal(1)
    for residual in (None, e):
        x = normal()
        _, expected = real(spec, feedback, x, residual)
        peer = library.peer(spec, feedback)
        given = None if residual is None else library.vector(residual)
        decoded = np.asarray(peer.decode(peer.encode(library.vector(x), BLOCKS, given), BLOCKS))
        name, _, _ = spec.partition(":")
        if name in EXACT or spec in ("top-k:0.001", "top-k:0.01", "top-k:0.01/bf16", "top-k:0.1"):
            assert decoded.tobytes() == (expected + 0.0).tobytes()
        elif name == "sign":
            np.testing.assert_allclose(decoded, expected, rtol=1e-6)
            assert (np.signbit(decoded) == np.signbit(expected)).all()
        elif name == "top-k":
            assert (np.flatnonzero(decoded) == np.flatnonzero(expected)).all()


@pytest.mark.parametrize("name", SAME_BYTES)
def test_the_codec_s_payloads_decode_to_the_same_bits(
    library: Library, name: str, feedback: bool
) -> None:
    payload, expected = real(name, feedback, normal())
    peer = library.peer(name, feedback)
    decoded = np.asarray(peer.decode(as_arrays(library, name, payload), BLOCKS))
    assert decoded.tobytes() == expected.tobytes()
    assert nbytes(peer.encode(library.vector(normal()), BLOCKS)) == payload.size


def test_natural_sends_one_of_the_powers_of_two_around_a_number(
    library: Library, feedback: bool
) -> None:
    peer, x = library.peer("natural", feedback), normal()
    decoded = np.asarray(peer.decode(peer.encode(library.vector(x.copy()), BLOCKS), BLOCKS))
    powers = decoded / np.float32(8 / 9) if feedback else decoded
    fractions, _ = np.frexp(powers)
    np.testing.assert_allclose(np.abs(fractions) % 0.5, 0, atol=1e-6)
    assert ((powers / x > 0.5 - 1e-6) & (powers / x < 2 + 1e-6)).all()


@pytest.mark.parametrize("levels", [4, 100, 1000])
def test_qsgd_sends_one_of_the_levels_around_a_number(
    library: Library, levels: int, feedback: bool
) -> None:
    peer, x = library.peer(f"qsgd:{levels}", feedback), normal()
    payload = peer.encode(library.vector(x.copy()), BLOCKS)
    decoded = np.asarray(peer.decode(payload, BLOCKS))
    gain = qsgd_gain(levels, BLOCKS) if feedback else 1.0
    for start, stop in ((0, 170), (170, 203)):
        unit = np.linalg.norm(x[start:stop].astype(float)) / levels
        level = decoded[start:stop] / (unit * gain)
        np.testing.assert_allclose(level, level.round(), atol=2e-4 * levels**0.5)
        assert (np.abs(level * unit - x[start:stop]) < unit * 1.001).all()
    if levels == 4:
        assert nbytes(payload) == real("qsgd:4", feedback, x)[0].size
    if feedback:
        compressor = codec.parse(f"qsgd:{levels}")
        assert gain == pytest.approx(1 / (1 + compressor.omega(BLOCKS, N)))  # type: ignore[operator]


def test_rand_k_sends_k_coordinates(library: Library, feedback: bool) -> None:
    x = normal()
    for fraction in (0.01, 0.5):
        spec = f"rand-k:{fraction}"
        peer, k = library.peer(spec, feedback), round(fraction * D)
        payloads = [peer.encode(library.vector(x.copy()), BLOCKS, rank=r) for r in (0, 1)]
        decoded = [np.asarray(peer.decode(payload, BLOCKS)) for payload in payloads]
        for each in decoded:
            sent = np.flatnonzero(each)
            assert sent.size == k
            np.testing.assert_allclose(each[sent], x[sent] * (1 if feedback else D / k), rtol=1e-5)
        assert (decoded[0] != decoded[1]).any()
        assert nbytes(payloads[0]) == real(spec, feedback, x)[0].size


def test_perm_k_cuts_the_vector_among_the_senders(library: Library, feedback: bool) -> None:
    peer, x = library.peer("perm-k", feedback), normal()
    payloads = [peer.encode(library.vector(x.copy()), BLOCKS, rank=r) for r in range(N)]
    decoded = np.array([np.asarray(peer.decode(payload, BLOCKS)) for payload in payloads])
    assert ((decoded != 0).sum(0) == 1).all()
    assert {int((each != 0).sum()) for each in decoded} == {D // N, D // N + 1}
    np.testing.assert_allclose(decoded.sum(0), x * (1 if feedback else N), rtol=1e-6)
    assert nbytes(payloads[0]) in (4 * (D // N), 4 * (D // N) + 4)


def test_top_k_sends_an_index_in_32_bits(library: Library) -> None:
    peer = library.peer("top-k:0.1")
    assert nbytes(peer.encode(library.vector(normal()), BLOCKS)) == 8 * round(0.1 * D)
