"""``qsgd`` by itself: every number of levels, what it promises on average, hostile payloads."""

from __future__ import annotations

import math

import numpy as np
import pytest

from codec_reference import VALUES, Draw, Floats, NotFiniteError, wide, with_number
from psrv import codec
from psrv.codec import Blocks, aligned
from psrv.codec.qsgd import MOST_LEVELS, QSGD
from psrv.errors import CodecError, ConfigError, NonFiniteError
from reference_values import Qsgd, norm2, random_bits, scaled, to_planes, unit_of

DRAW = Draw(1, 3, 2, 1, 3)
LEVELS = (1, 2, 3, 4, 7, 8, 100, 127, 128, 255, 1000, 16383, 16384, 32767)
CUTS = ([1], [15], [16], [17], [33, 16, 1, 7], [9] * 9, [2047, 2], [2049, 4097], [4096, 31, 8200])


def same(a: Floats, b: Floats) -> bool:
    """Equal bit for bit: -0 is not 0."""
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def encode(real: QSGD, x: Floats, sizes: list[int], draw: Draw = DRAW) -> tuple[bytes, Floats]:
    left, blocks = x.copy(), Blocks.of(sizes)
    room = np.full(real.payload_bound(blocks, 1) + 64, 0xEE, np.uint8)
    size = real.encode(left, blocks, codec.Draw(*draw), room)
    assert (room[size:] == 0xEE).all()
    return room[:size].tobytes(), left


def decode(real: QSGD, payload: bytes, sizes: list[int]) -> Floats:
    out = np.full(sum(sizes), np.nan, np.float32)
    real.decode(np.frombuffer(payload, np.uint8), Blocks.of(sizes), codec.Draw(*DRAW), out)
    return out


def onto(real: QSGD, payload: bytes, sizes: list[int], base: Floats) -> Floats:
    out = np.full(sum(sizes), np.nan, np.float32)
    given = np.frombuffer(payload, np.uint8)
    real.decode_onto(given, Blocks.of(sizes), codec.Draw(*DRAW), base, out)
    return out


def forms(levels: int) -> list[tuple[QSGD, Qsgd]]:
    """The compressor and its transcription, as parsed and as error feedback uses it."""
    plain = QSGD(levels)
    contracted = plain.contracted()
    assert isinstance(contracted, QSGD)
    return [(plain, Qsgd(levels)), (contracted, Qsgd(levels, contracted=True))]


def agrees(real: QSGD, reference: Qsgd, x: Floats, sizes: list[int]) -> None:
    payload, left = encode(real, x, sizes)
    assert payload == reference.encode(x, sizes, DRAW), (real.spec, sizes)
    assert len(payload) == reference.size(sizes, DRAW)
    values, base = reference.decode(payload, sizes, DRAW), wide(x.size, 7)
    assert np.isfinite(values).all()
    assert same(decode(real, payload, sizes), values), (real.spec, sizes)
    assert same(left, x - values), (real.spec, sizes)
    with np.errstate(over="ignore"):
        assert same(onto(real, payload, sizes, base), base + values), (real.spec, sizes)


# As transcribed


@pytest.mark.parametrize("levels", LEVELS)
def test_every_number_of_levels_is_as_transcribed(levels: int) -> None:
    for real, reference in forms(levels):
        for sizes in CUTS:
            agrees(real, reference, wide(sum(sizes)), sizes)


@pytest.mark.parametrize("kind", VALUES)
def test_every_size_is_as_transcribed(kind: str) -> None:
    for levels in (1, 4, 300):
        real, reference = forms(levels)[0]
        for count in (*range(1, 71), 127, 129, 2047, 2048, 2049, 4095, 4097):
            agrees(real, reference, VALUES[kind](count), [count])
            agrees(real, reference, VALUES[kind](count + 3), [3, count])


def test_float32_of_any_bits_are_as_transcribed_or_refused() -> None:
    bits = np.random.default_rng(1).integers(0, 1 << 32, 40_000, np.uint32).view(np.float32)
    bits = bits[np.isfinite(bits)]
    refused = 0
    for levels in (1, 3, 4, 32767):
        real, reference = forms(levels)[0]
        for start in range(0, bits.size - 60, 60):
            x = bits[start : start + 60]
            try:
                reference.encode(x, [20, 1, 39], DRAW)
            except NotFiniteError:
                refused += 1
                with pytest.raises(NonFiniteError):
                    encode(real, x, [20, 1, 39])
            else:
                agrees(real, reference, x, [20, 1, 39])
    assert refused > 0


@pytest.mark.parametrize("exponent", [-149, -140, -127, -126, -65, -64, -63, 0, 63, 64, 65, 127])
def test_norms_of_every_magnitude_give_levels_of_the_same_vector(exponent: int) -> None:
    """Where powers of two move numbers without rounding, the levels stay what they were."""
    x = np.float32([1, -1, 1, 1, 0, 0, -1, 0, 0, 1, -1, 1] + [0] * 9)
    for levels in (1, 4, 32767):
        real, reference = forms(levels)[0]
        moved = np.ldexp(x, min(exponent, 125)).astype(np.float32)
        agrees(real, reference, moved, [x.size])
        payload, _ = encode(real, moved, [x.size])
        norm = np.frombuffer(payload[:4], "<f4")[0]
        if exponent > -120:
            assert payload[4:] == encode(real, x, [x.size])[0][4:]
            assert norm == np.ldexp(norm2(x), min(exponent, 125))


def test_no_level_of_the_largest_norm_is_infinite() -> None:
    largest = np.finfo(np.float32).max
    for levels in LEVELS:
        for real, reference in forms(levels):
            for x in ([largest], [-largest] + [0.0] * 20, [2.4e38, -2.4e38, 1.0]):
                agrees(real, reference, np.float32(x), [len(x)])
    rounded_down = [s for s in LEVELS if unit_of(largest, s) != largest / np.float32(s)]
    assert rounded_down, "no case of the rule was tried"


def test_zeros_are_level_0_and_lose_their_sign() -> None:
    real, _ = forms(4)[0]
    payload, left = encode(real, np.float32([0.0, -0.0] * 10), [13, 7])
    assert payload[:8] == bytes(8)
    assert not decode(real, payload, [13, 7]).any()
    assert not np.signbit(decode(real, payload, [13, 7])).any()
    assert not left.any()


def test_random_bits_are_those_of_the_coordinate_in_the_bucket() -> None:
    """One level of equal coordinates: up where the first of the 32 bits is 0."""
    real = QSGD(1)
    for sizes in ([64], [5, 59], [1, 2, 1, 60]):
        bits = random_bits(DRAW.own(2), 64)
        start = sum(sizes[:-1])
        x = np.zeros(64, np.float32)
        # Four equal coordinates have norm 2, and so t = 1/2.
        for first in range(start, 60, 4):
            x[:] = 0
            x[first : first + 4] = -1
            payload, _ = encode(real, x, sizes)
            got = decode(real, payload, sizes)[first : first + 4]
            assert (got == np.where(bits[first : first + 4] < 1 << 31, -2, 0)).all()


def test_a_level_is_the_upper_one_from_half_a_draw_on() -> None:
    """Of a coordinate whose t is r + f in units of 2^-24, r being its own 24 bits."""
    draws = random_bits(DRAW.own(2), 30_000) >> np.uint32(8)
    low = np.flatnonzero(draws[1:] < 1 << 11) + 1
    assert low.size > 1
    for part, goes_up in ((0.25, False), (0.5, False), (0.75, True), (1.0, True)):
        x = np.zeros(draws.size, np.float32)
        x[0] = 1
        x[low] = (draws[low] + part) * 2.0**-24
        assert norm2(x) == 1
        payload, _ = encode(QSGD(1), x, [x.size])
        assert (decode(QSGD(1), payload, [x.size])[low] == goes_up).all()


def test_a_level_never_passes_the_last_one() -> None:
    """Alone in its block, a coordinate has t = s but for two roundings: some t are above s."""
    count = 20_000
    x, draws = np.abs(wide(count)), random_bits(DRAW.own(2), count) >> np.uint32(8)
    t = x * (np.float32(MOST_LEVELS) / x)
    above = (t - np.float32(MOST_LEVELS)).astype(float) * 2**24 > draws + 0.5
    assert above.sum() > 3
    payload, _ = encode(QSGD(MOST_LEVELS), x, [1] * count)
    units = x / np.float32(MOST_LEVELS)
    got = decode(QSGD(MOST_LEVELS), payload, [1] * count)
    assert same(got[above], (np.float32(MOST_LEVELS) * units)[above])


@pytest.mark.parametrize("levels", [1, 4, 300])
def test_a_reduction_is_the_sum_of_what_each_payload_decodes_to(levels: int) -> None:
    draws, weights = (
        [codec.Draw(rank=rank, workers=3) for rank in range(3)],
        np.float32([2, 1, 0.3]),
    )
    for real, reference in forms(levels):
        for sizes in ([511, 512, 513], [3000, 5]):
            blocks, residual = Blocks.of(sizes), wide(sum(sizes), 9)
            payloads, values = [], []
            for draw in draws:
                room = np.empty(real.payload_bound(blocks, 3), np.uint8)
                real.encode(wide(sum(sizes), draw.rank), blocks, draw, room)
                payloads.append(room)
                values.append(reference.decode(room.tobytes(), sizes, DRAW))
            out = aligned(sum(sizes))
            real.reduce(payloads, blocks, draws, out, residual, 0.7)
            total = (values[0] + values[1]) + values[2]
            assert same(out, total * np.float32(1 / 3) + np.float32(0.7) * residual)
            real.reduce(payloads, blocks, draws, out, weights=weights)
            parts = [w * v for w, v in zip(weights, values, strict=True)]
            assert same(out, (parts[0] + parts[1]) + parts[2])


def test_nothing_needs_alignment() -> None:
    sizes, x = [100, 33, 7], wide(140)
    for real, _ in forms(4):
        expected, left = encode(real, x, sizes)
        blocks, draw = Blocks.of(sizes), codec.Draw(*DRAW)
        for shift in range(1, 18):
            vector = aligned(4 * 140 + 64, np.uint8)[shift:][:560].view(np.float32)
            vector[:] = x
            room = aligned(len(expected) + 64, np.uint8)[shift:][: len(expected)]
            real.encode(vector, blocks, draw, room)
            assert room.tobytes() == expected
            assert same(vector, left)
            real.decode(room, blocks, draw, vector)
            assert same(vector, decode(real, expected, sizes))


# On average


@pytest.mark.parametrize("levels", [1, 4, 100, 32767])
def test_the_mean_over_all_draws_is_the_coordinate_to_float32(levels: int) -> None:
    """Counted, not drawn: of 2^24 values r as many give the upper level as r + 1/2 is below."""
    most = np.float32([2.9e38, -1e38, 3e37, 1e30])
    for x in (wide(300), np.float32(1e-41) * wide(60), np.float32(1e34) * wide(60), most):
        norm = norm2(x)
        unit = float(unit_of(norm, levels))
        t = scaled(x, norm, levels).astype(float)
        below = np.floor(t)
        ups = np.clip(np.ceil((t - below) * 2**24 - 0.5), 0, 2**24)
        mean = np.minimum(below + ups / 2**24, levels) * unit
        exact = np.abs(x.astype(float))
        # Half a draw of 2^24; the roundings of t, whose factor is denormal for the largest norms;
        # and that of the unit, which is for the smallest.
        share = 2.0**-21 if norm > 2.0**126 else 2.0**-22
        bound = unit * 2.0**-25 + share * exact + (below + 1) * 2.0**-150
        assert (np.abs(mean - exact) <= bound).all()


def rounds(real: QSGD, x: Floats, sizes: list[int], count: int) -> np.ndarray:
    """C(x) of as many rounds, float64[count, d]."""
    blocks, draws = Blocks.of(sizes), [codec.Draw(seed=9, round=t) for t in range(count)]
    room, found = np.empty(real.payload_bound(blocks, 1), np.uint8), np.empty((count, x.size))
    out = aligned(x.size)
    for t, draw in enumerate(draws):
        real.encode(x.copy(), blocks, draw, room)
        real.decode(room, blocks, draw, out)
        found[t] = out
    return found


@pytest.mark.parametrize("levels", [1, 4, 100])
def test_every_coordinate_is_unbiased_over_rounds(levels: int) -> None:
    sizes, x, count = [37, 300, 16], wide(353), 4000
    found = rounds(QSGD(levels), x, sizes, count)
    deviation = found.std(axis=0) / math.sqrt(count)
    units = np.repeat(
        [unit_of(norm2(part), levels) for part in np.split(x, np.cumsum(sizes)[:-1])], sizes
    )
    # A level that was hardly ever drawn shows no spread: allow for a few such draws.
    allowed = 5 * deviation + 12 * units / count
    error = np.abs(found.mean(axis=0) - x)
    assert (error <= allowed).all()
    drawn = deviation > 0.02 * units / math.sqrt(count)
    scores = (found.mean(axis=0) - x)[drawn] / deviation[drawn]
    assert drawn.sum() > 100
    assert np.abs(scores).max() < 5
    assert abs(scores.mean()) * math.sqrt(scores.size) < 5


@pytest.mark.parametrize("levels", [1, 4, 100])
def test_the_variance_is_within_omega(levels: int) -> None:
    for sizes in ([400], [100, 300]):
        x, blocks = wide(400), Blocks.of(sizes)
        real = QSGD(levels)
        found = rounds(real, x, sizes, 300)
        omega = real.omega(blocks, 3)
        assert omega == Qsgd(levels).omega(sizes)
        share = np.square(found - x).sum(axis=1).mean() / np.square(x, dtype=float).sum()
        assert 0 < share <= omega


@pytest.mark.parametrize("levels", [1, 4, 100])
def test_the_contracted_form_sends_the_same_and_shrinks_the_error_on_average(levels: int) -> None:
    (plain, _), (real, reference) = forms(levels)
    x, sizes = wide(400), [100, 300]
    assert encode(real, x, sizes)[0] == encode(plain, x, sizes)[0]
    assert real.contractive
    assert real.omega(Blocks.of(sizes), 1) is None
    assert real.contracted() is real
    assert not plain.contractive
    found = rounds(real, x, sizes, 300)
    share = np.square(found - x).sum(axis=1).mean() / np.square(x, dtype=float).sum()
    assert share <= 1 - reference.alpha(sizes)


# Refusals


def test_a_code_that_no_level_has_is_refused_wherever_it_is() -> None:
    for levels in (1, 4, 127, 128, 32767):
        real, reference = forms(levels)[0]
        for sizes in ([1], [15], [16], [40], [3, 33]):
            payload, _ = encode(real, wide(sum(sizes)), sizes)
            for broken in reference.broken(payload, sizes, DRAW):
                out = np.full(sum(sizes), 7, np.float32)
                given = np.frombuffer(broken, np.uint8)
                blocks, draw = Blocks.of(sizes), codec.Draw(*DRAW)
                for read in (
                    lambda o, g=given, b=blocks, d=draw: real.decode(g, b, d, o),  # noqa: B023
                    lambda o, g=given, b=blocks, d=draw: real.decode_onto(g, b, d, o, o),  # noqa: B023
                    lambda o, g=given, b=blocks, d=draw: real.reduce([g], b, [d], o),  # noqa: B023
                ):
                    with pytest.raises(CodecError, match=f"^{real.spec} payload holds a "):
                        read(out)
                    assert (out == 7).all()


def test_every_code_up_to_twice_the_levels_is_read() -> None:
    for levels in (1, 4, 7, 8, 300):
        real, reference = forms(levels)[0]
        codes = np.arange(2 * levels + 1)
        payload = np.float32(levels).tobytes() + to_planes(codes, reference.width)
        assert (decode(real, payload, [codes.size]) == codes - levels).all()


def test_bits_that_no_coordinate_uses_are_sent_as_zero_and_ignored() -> None:
    real = QSGD(4)  # 4 bits: 13 coordinates leave 4 of the last byte
    x = wide(13)
    payload, _ = encode(real, x, [13])
    assert payload[-1] < 16
    changed = payload[:-1] + bytes([payload[-1] | 0xF0])
    assert same(decode(real, changed, [13]), decode(real, payload, [13]))


@pytest.mark.parametrize("norm", [0.0, -0.0, 1e-45, 3.4028235e38])
def test_any_norm_that_is_a_number_gives_numbers(norm: float) -> None:
    for levels in LEVELS:
        real, _ = forms(levels)[0]
        payload, _ = encode(real, wide(70), [70])
        forged = with_number(payload, 0, norm)
        assert np.isfinite(decode(real, forged, [70])).all()


def test_a_norm_beyond_float32_is_refused_and_names_the_block() -> None:
    x = wide(30)
    x[10:20] = 3e38
    with pytest.raises(NonFiniteError, match="10 to 19 is more than float32") as caught:
        encode(QSGD(4), x, [10, 10, 10])
    assert caught.value.coordinate == 10


@pytest.mark.parametrize(
    ("argument", "form"),
    [
        (None, None), ("", None), ("0", None), ("32768", None), ("-1", None), ("+4", None),
        ("4.0", None), ("1e2", None), (" 4", None), ("4_0", None), ("٤", None), ("²", None),
        ("9" * 5000, None), ("4", "bf16"), ("4", ""),
    ],
)  # fmt: skip
def test_what_is_no_number_of_levels_is_refused(argument: str | None, form: str | None) -> None:
    with pytest.raises(ConfigError):
        QSGD.of(argument, form)


@pytest.mark.parametrize("levels", [1, 4, MOST_LEVELS])
def test_a_spec_prints_back(levels: int) -> None:
    made = QSGD.of(str(levels), None)
    assert made.spec == f"qsgd:{levels}"
    assert made.contracted().spec == made.spec
    assert made.width == math.ceil(math.log2(2 * levels + 1))
