"""The value formats by themselves: every number, every place in a run, pieces of runs."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from codec_reference import NOT_FINITE, VALUES, Draw, Floats, wide
from psrv import codec
from psrv.codec import Blocks, aligned, format_kernels
from psrv.codec.base import address
from psrv.codec.dense import BrainFloat, Dense, Half, Natural, Values
from psrv.codec.formats import FORMATS, Format
from reference_values import (
    broken_runs,
    from_natural,
    natural_exponents,
    random_bits,
    read_run,
    write_run,
)

KEY = 0xFEDCBA9876543210
ONE = np.float32(1)
COUNTS = (*range(1, 71), 127, 128, 129, 511, 512, 513, 2047, 2048, 2049, 4099)


@pytest.fixture(params=list(FORMATS.values()), ids=list(FORMATS))
def form(request: pytest.FixtureRequest) -> Format:
    return request.param


@pytest.fixture(params=["bf16", "fp16"])
def half(request: pytest.FixtureRequest) -> Format:
    return FORMATS[request.param]


def same(a: Floats, b: Floats) -> bool:
    """Equal bit for bit: -0 is not 0."""
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def pieces(count: int, cuts: tuple[int, ...] = ()) -> list[tuple[int, int]]:
    """First number and size of each piece of a run that is cut there."""
    return [(a, b - a) for a, b in pairwise([0, *(c for c in cuts if c < count), count])]


def encode(
    form: Format, x: Floats, key: int = KEY, cuts: tuple[int, ...] = (), gain: np.float32 = ONE
) -> tuple[bytes, Floats]:
    """The run, and what is left of x."""
    left, run = x.copy(), np.full(form.size(x.size) + 64, 0xEE, np.uint8)
    for first, size in pieces(x.size, cuts):
        where = address(left) + 4 * first
        bad = format_kernels.encode_scaled(
            form.code, where, first, size, x.size, address(run), np.uint64(key), gain
        )
        assert bad == -1
    assert (run[form.size(x.size) :] == 0xEE).all()
    return run[: form.size(x.size)].tobytes(), left


def decode(
    form: Format, run: bytes, count: int, gain: np.float32 = ONE, cuts: tuple[int, ...] = ()
) -> Floats:
    data, out = np.frombuffer(run, np.uint8), np.full(count + 16, np.nan, np.float32)
    for first, size in pieces(count, cuts):
        where = address(out) + 4 * first
        format_kernels.decode_values(form.code, address(data), first, size, count, gain, where)
    assert np.isnan(out[count:]).all()
    return out[:count]


def add(
    form: Format, run: bytes, base: Floats, gain: np.float32 = ONE, cuts: tuple[int, ...] = ()
) -> Floats:
    data, out = np.frombuffer(run, np.uint8), np.full(base.size + 16, np.nan, np.float32)
    for first, size in pieces(base.size, cuts):
        source, target = address(base) + 4 * first, address(out) + 4 * first
        format_kernels.add_values(
            form.code, address(data), first, size, base.size, gain, source, target
        )
    assert np.isnan(out[base.size :]).all()
    return out[: base.size]


def check(form: Format, run: bytes, count: int) -> int:
    data = np.frombuffer(run, np.uint8)
    return format_kernels.check_values(form.code, address(data), count)


# Every place in a run


@pytest.mark.parametrize("kind", VALUES)
def test_a_run_of_any_length_is_as_transcribed(form: Format, kind: str) -> None:
    for count in COUNTS:
        x, base = VALUES[kind](count), wide(count, 7)
        run, left = encode(form, x)
        assert run == write_run(form.name, x, KEY), count
        values = read_run(form.name, run, count)
        assert same(decode(form, run, count), values), count
        assert same(left, x - values), count
        assert same(add(form, run, base), base + values), count
        assert check(form, run, count) == -1


@pytest.mark.parametrize("gain", [8 / 9, -3.7, 2.0])
def test_the_gain_is_one_rounded_product(form: Format, gain: float) -> None:
    factor = np.float32(gain)
    for count in (1, 15, 16, 17, 70, 2049):
        x, base = wide(count), wide(count, 7)
        run, left = encode(form, x, gain=factor)
        assert run == write_run(form.name, x, KEY)
        values = factor * read_run(form.name, run, count)
        assert same(left, x - values)
        assert same(decode(form, run, count, factor), values)
        assert same(add(form, run, base, factor), base + values)


@pytest.mark.parametrize("cuts", [(64,), (64, 192, 256), (2048,), (1024, 4096)])
def test_pieces_give_what_the_whole_run_gives(form: Format, cuts: tuple[int, ...]) -> None:
    for count in (1, 63, 64, 65, 200, 257, 2049, 4099):
        x, base = wide(count), wide(count, 7)
        run, left = encode(form, x)
        in_pieces, piecewise = encode(form, x, cuts=cuts)
        assert in_pieces == run
        assert same(piecewise, left)
        assert same(decode(form, run, count, cuts=cuts), decode(form, run, count))
        assert same(add(form, run, base, cuts=cuts), add(form, run, base))


def test_nothing_needs_alignment(form: Format) -> None:
    for shift in range(1, 18):
        count = 70
        x = wide(count, shift)
        vector = aligned(4 * count + 64, np.uint8)[shift:][: 4 * count].view(np.float32)
        vector[:] = x
        room = aligned(form.size(count) + 64, np.uint8)[shift:][: form.size(count)]
        bad = format_kernels.encode_scaled(
            form.code, address(vector), 0, count, count, address(room), np.uint64(KEY), ONE
        )
        assert bad == -1
        assert room.tobytes() == write_run(form.name, x, KEY)
        values = read_run(form.name, room.tobytes(), count)
        assert same(vector, x - values)
        vector[:] = x
        format_kernels.add_values(
            form.code, address(room), 0, count, count, ONE, address(vector), address(vector)
        )
        assert same(vector, x + values)
        format_kernels.decode_values(
            form.code, address(room), 0, count, count, ONE, address(vector)
        )
        assert same(vector, values)
        assert format_kernels.check_values(form.code, address(room), count) == -1


def test_the_first_number_that_cannot_be_sent_is_named(form: Format) -> None:
    run = np.empty(form.size(150), np.uint8)
    for count in (1, 16, 17, 150):
        for at in range(count):
            for bad in NOT_FINITE:
                x = wide(count)
                x[at], x[-1] = bad, bad
                found = format_kernels.encode_scaled(
                    form.code, address(x), 0, count, count, address(run), np.uint64(0), ONE
                )
                assert found == at
                assert same(x[at : at + 1], np.array([bad], np.float32))


def test_the_first_number_that_cannot_have_been_sent_is_named(form: Format) -> None:
    for count in (1, 15, 31, 32, 33, 64, 65, 140):
        run, _ = encode(form, wide(count))
        broken = list(broken_runs(form.name, run, count))
        ways = len(broken) // count
        for i, data in enumerate(broken):
            assert check(form, data, count) == i // ways
        assert check(form, run, count) == -1


# Every number


def test_every_half_decodes_as_numpy_decodes_it(half: Format) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16)
    values = read_run(half.name, halves.tobytes(), halves.size)
    finite = np.isfinite(values)
    if half.name == "fp16":
        assert same(values, halves.view(np.float16).astype(np.float32))
    else:
        assert same(values, (halves.astype(np.uint32) << np.uint32(16)).view(np.float32))
    got = decode(half, halves[finite].tobytes(), int(finite.sum()))
    assert same(got, values[finite])
    for pattern, good in zip(halves, finite, strict=True):
        assert (check(half, pattern.tobytes(), 1) == -1) == good
    for start in range(0, halves.size, 4096):
        good = finite[start : start + 4096]
        expected = -1 if good.all() else int(np.argmin(good))
        assert check(half, halves[start : start + 4096].tobytes(), 4096) == expected


def around(half: Format) -> Floats:
    """Every half, every middle of two, and the float32 on both sides of each."""
    values = read_run(half.name, np.arange(1 << 16, dtype=np.uint16).tobytes(), 1 << 16)
    ordered = np.unique(np.abs(values[np.isfinite(values)]))
    middles = ((ordered[:-1].astype(float) + ordered[1:]) / 2).astype(np.float32)
    points = np.concatenate([ordered, middles, np.float32([0, 65519.996, 65520, 65536, 3.4e38])])
    with np.errstate(over="ignore"):
        near = [points, *(np.nextafter(points, np.float32(to)) for to in (np.inf, -np.inf))]
    both = np.concatenate([*near, *(-n for n in near)])
    return both[np.isfinite(both)]


def test_every_half_and_what_lies_about_it_rounds_as_transcribed(half: Format) -> None:
    x = around(half)
    assert x.size > 300_000
    run, left = encode(half, x)
    assert run == write_run(half.name, x, 0)
    assert same(left, x - read_run(half.name, run, x.size))


def test_float32_of_any_bits_round_as_transcribed(form: Format) -> None:
    bits = np.random.default_rng(1).integers(0, 1 << 32, 200_000, np.uint32).view(np.float32)
    denormal = np.random.default_rng(2).integers(0, 1 << 23, 1000, np.uint32).view(np.float32)
    x = np.concatenate([bits[np.isfinite(bits)], denormal, -denormal])
    run, left = encode(form, x)
    assert run == write_run(form.name, x, KEY)
    values = read_run(form.name, run, x.size)
    assert same(decode(form, run, x.size), values)
    assert same(left, x - values)
    assert np.isfinite(left).all()


def test_fp16_rounds_as_numpy_does_but_for_infinity() -> None:
    x = around(FORMATS["fp16"])
    with np.errstate(over="ignore"):
        expected = np.clip(x.astype(np.float16), np.float16(-65504), np.float16(65504))
    run, _ = encode(FORMATS["fp16"], x)
    assert run == expected.tobytes()


def test_nothing_finite_becomes_infinite(form: Format) -> None:
    largest = np.finfo(np.float32).max
    x = np.float32([largest, -largest, 3.39e38, -3.39e38, 2.0**127, -(2.0**127)] * 4)
    run, left = encode(form, x)
    assert check(form, run, x.size) == -1
    values = decode(form, run, x.size)
    assert (np.sign(values) == np.sign(x)).all()
    assert (np.abs(left) <= np.abs(x)).all()


def test_zero_keeps_its_sign(form: Format) -> None:
    x = np.float32([0.0, -0.0] * 40)
    run, left = encode(form, x)
    assert same(decode(form, run, x.size), x)
    assert same(left, np.zeros_like(x))


@pytest.mark.parametrize(("name", "digits", "least"), [("bf16", 8, -126), ("fp16", 11, -14)])
def test_the_error_is_within_the_stated_share_of_a_number(
    name: str, digits: int, least: int
) -> None:
    x = around(FORMATS[name])
    top = 65504.0 if name == "fp16" else 3.3895e38
    x = x[(np.abs(x) >= 2.0**least) & (np.abs(x) <= top)]
    _, left = encode(FORMATS[name], x)
    share = np.abs(left.astype(float)) / np.abs(x)
    assert 0.99 * 2.0**-digits < share.max() <= 2.0**-digits


# Chance


MANTISSAS = (1, 1 << 22, (1 << 23) - 1)


@pytest.mark.parametrize("field", [0, 1, 253])
def test_of_all_draws_as_many_round_up_as_the_mantissa_says(field: int) -> None:
    draws = np.arange(1 << 23, dtype=np.uint32) << np.uint32(9)
    for mantissa in MANTISSAS:
        x = np.array([(field << 23) + mantissa], np.uint32).view(np.float32)
        exponents = natural_exponents(np.broadcast_to(x, draws.shape), draws)
        assert set(np.unique(exponents)) <= {field, field + 1}
        assert int((exponents == field + 1).sum()) == mantissa
        # The mean of all draws is x: with f as the exponent field, 2^f and what f stands for.
        low, high = (float(from_natural(np.array([f]), np.False_)[0]) for f in (field, field + 1))
        assert low + (high - low) * mantissa / 2**23 == float(x[0])


@pytest.mark.parametrize("value", [1.0, 1.5, -1.25, 3.9, 1e-3, -7e30, 1e-39, 2e-42])
def test_natural_is_unbiased_at_every_place(value: float) -> None:
    natural, count = FORMATS["natural"], 1 << 17
    x = np.full(count, value, np.float32)
    exact = float(x[0])
    for key in (1, 2):
        values = decode(natural, encode(natural, x, key)[0], count).astype(float)
        for part in (values, values[::2], values[1::2], values[:16], values[-77:]):
            low, high = np.abs(values).min(), np.abs(values).max()
            chance = (abs(exact) - low) / (high - low) if high > low else 0.0
            deviation = (high - low) * np.sqrt(chance * (1 - chance) / part.size)
            assert abs(part.mean() - exact) <= 5 * deviation


def test_the_variance_of_natural_is_at_most_an_eighth_and_reaches_it() -> None:
    natural, count = FORMATS["natural"], 1 << 16
    shares = []
    for value in np.linspace(1, 2, 33, dtype=np.float32):
        _, left = encode(natural, np.full(count, value, np.float32))
        shares.append(np.square(left, dtype=float).mean() / float(value) ** 2)
    assert 0.99 / 8 < max(shares) < 1.02 / 8


def test_random_bits_are_the_streams_halves_whatever_the_place() -> None:
    """A number halfway between two powers goes up where the first of its bits is set."""
    count = 300
    x = np.full(count, np.float32(1.5), np.float32)
    run, _ = encode(FORMATS["natural"], x)
    up = np.frombuffer(run, np.uint8)[:count] == 128
    assert (up == (random_bits(KEY, count) >= 1 << 31)).all()


# As compressors


@pytest.mark.parametrize("kind", [Dense, BrainFloat, Half, Natural])
def test_each_format_has_a_compressor_that_says_what_it_keeps(kind: type[Values]) -> None:
    compressor, blocks = kind.of(None, None), Blocks.of([10, 7])
    assert compressor.payload_bound(blocks, 3) == kind.form.size(17)
    assert compressor.lossless == (kind is Dense)
    assert compressor.random == (kind is Natural)
    expected = {Dense: 0.0, Natural: 1 / 8}.get(kind)
    assert compressor.omega(blocks, 3) == expected
    contracted = compressor.contracted()
    assert contracted.contractive
    assert contracted.contracted() is contracted
    assert (contracted is compressor) == (kind is not Natural)


def test_contracted_natural_sends_the_same_and_shrinks_the_error_on_average() -> None:
    plain, blocks = Natural.of(None, None), Blocks.of([4000])
    contracted, x = plain.contracted(), wide(4000)
    assert contracted.omega(blocks, 1) is None
    errors = []
    for round in range(50):
        draw = codec.Draw(round=round)
        rooms = [np.empty(4500, np.uint8) for _ in range(2)]
        plain.encode(x.copy(), blocks, draw, rooms[0])
        left = x.copy()
        contracted.encode(left, blocks, draw, rooms[1])
        assert rooms[0].tobytes() == rooms[1].tobytes()
        errors.append(np.square(left, dtype=float).sum())
    assert np.mean(errors) <= (1 - 8 / 9) * np.square(x, dtype=float).sum()


def test_natural_draws_from_the_senders_own_stream() -> None:
    natural, blocks, x = Natural.of(None, None), Blocks.of([200]), wide(200)
    for draw in (Draw(), Draw(5, 4, 3, 2, 8)):
        room = np.empty(225, np.uint8)
        natural.encode(x.copy(), blocks, codec.Draw(*draw), room)
        assert room.tobytes() == write_run("natural", x, draw.own(2))


def test_weights_and_the_gain_are_two_rounded_products() -> None:
    blocks, weights = Blocks.of([1500]), np.float32([0.3, 1.0, 2.7])
    contracted = Natural.of(None, None).contracted()
    draws = [codec.Draw(rank=rank, workers=3) for rank in range(3)]
    payloads, total = [], None
    for draw, weight in zip(draws, weights, strict=True):
        room = np.empty(contracted.payload_bound(blocks, 3), np.uint8)
        contracted.encode(wide(1500, draw.rank) * np.float32(1e-37), blocks, draw, room)
        payloads.append(room)
        part = weight * (np.float32(8 / 9) * read_run("natural", room.tobytes(), 1500))
        total = part if total is None else total + part
    out = aligned(1500)
    contracted.reduce(payloads, blocks, draws, out, weights=weights)
    assert same(out, total)
