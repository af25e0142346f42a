"""``Coder``: the contract as rounds and ranks, for use without channels."""

from __future__ import annotations

import numpy as np
import pytest

from codec_pair import Pair
from codec_reference import Draw, wide
from psrv import codec
from psrv.codec import Blocks, Coder
from psrv.errors import CodecError, ConfigError

WORKERS, SIZES = 3, [40, 70, 23]


def coder_of(pair: Pair) -> Coder:
    return Coder(pair.real, Blocks.of(SIZES), workers=WORKERS, seed=5, bucket=7)


def test_payloads_are_those_of_the_compressor_with_the_draw_of_round_and_rank(pair: Pair) -> None:
    sender, receiver = coder_of(pair), coder_of(pair)
    payloads, draws = [], [Draw(5, 4, 7, rank, WORKERS) for rank in range(WORKERS)]
    for draw in draws:
        x = wide(133, draw.rank)
        expected, left = pair.encode(x, SIZES, draw)
        payload = sender.encode(x, round=4, rank=draw.rank)
        assert payload.tobytes() == expected
        assert x.tobytes() == left.tobytes()
        assert sender.payload_bytes(4, draw.rank) in (payload.size, None)
        out = np.empty(133, np.float32)
        receiver.decode(payload, out, round=4, rank=draw.rank)
        assert out.tobytes() == pair.decode(expected, SIZES, draw).tobytes()
        base = wide(133, 8)
        receiver.decode_onto(payload, base, out, round=4, rank=draw.rank)
        assert out.tobytes() == pair.onto(expected, SIZES, base, draw).tobytes()
        payloads.append(payload.copy())
    residual, weights = wide(133, 9), np.array([0.5, 0.25, 2], np.float32)
    out = np.empty(133, np.float32)
    receiver.reduce(payloads, out, round=4, residual=residual, rho=0.5)
    assert out.tobytes() == pair.expected(payloads, SIZES, residual, 0.5, draws=draws).tobytes()
    receiver.reduce(payloads, out, round=4, weights=weights)
    assert out.tobytes() == pair.expected(payloads, SIZES, weights=weights, draws=draws).tobytes()
    receiver.reduce(payloads[::2], out, round=4, ranks=[0, 2])
    assert out.tobytes() == pair.expected(payloads[::2], SIZES, draws=draws[::2]).tobytes()


def test_relay_encodes_as_the_server(pair: Pair) -> None:
    up, down = coder_of(pair), Coder("sign", Blocks.of(SIZES), seed=5, bucket=7)
    payloads = [up.encode(wide(133, r), 2, r).copy() for r in range(WORKERS)]
    out, expected = np.empty(133, np.float32), np.empty(133, np.float32)
    payload = up.relay(payloads, out, down, round=2, residual=wide(133, 9), rho=0.5).copy()
    up.reduce(payloads, expected, round=2, residual=wide(133, 9), rho=0.5)
    assert payload.tobytes() == down.encode(expected, 2, codec.rng.SERVER).tobytes()
    assert out.tobytes() == expected.tobytes()


def test_the_first_lines_of_the_module_work() -> None:
    coder = Coder("top-k:0.01/bf16", 1000, workers=4)
    gradient, out = wide(1000), np.empty(1000, np.float32)
    payload = coder.encode(gradient, round=0, rank=2)
    coder.decode(payload, out, round=0, rank=2)
    assert np.count_nonzero(out) == 10
    np.testing.assert_array_equal(out + gradient, wide(1000))


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ConfigError, match="unknown"):
        Coder("sing", 10)
    with pytest.raises(CodecError, match="edges must ascend"):
        Coder("sign", 0)
    coder = Coder("sign", 10)
    for weights in (np.ones(2, np.float32), np.ones(1), np.array([np.nan], np.float32)):
        with pytest.raises(CodecError, match="weights of 1 payloads need to be finite"):
            coder.reduce([coder.encode(wide(10))], wide(10), weights=weights)
