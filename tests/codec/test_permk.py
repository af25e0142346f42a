"""``perm-k``: who sends what, and that the mean of it is the mean."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import pytest

from codec_reference import NOT_FINITE, Draw, Floats, NotFiniteError, wide
from psrv import codec
from psrv.codec import Blocks, aligned
from psrv.codec.formats import FORMATS
from psrv.codec.permk import PermK
from psrv.errors import CodecError, ConfigError, NonFiniteError
from reference_permk import Permk

SPECS = (
    "perm-k",
    "perm-k:run=3",
    "perm-k:run=16",
    "perm-k:groups=2",
    "perm-k:run=5,groups=3",
    "perm-k:blocks=2",
    "perm-k:blocks=3",
    "perm-k:groups=2,blocks=2",
)
FORMS = ("float32", "bf16", "fp16", "natural")


def made(spec: str, contracted: bool = False) -> PermK:
    """The compressor of a spec."""
    name, _, form = spec.partition("/")
    _, colon, argument = name.partition(":")
    compressor = PermK.of(argument if colon else None, form or None)
    return compressor.contracted() if contracted else compressor


def transcribed(spec: str, contracted: bool = False) -> Permk:
    """Its transcription."""
    name, _, form = spec.partition("/")
    options = dict(o.split("=") for o in name.partition(":")[2].split(",") if o)
    given = {name: int(number) for name, number in options.items()}
    return Permk(**given, format=form or "float32", contracted=contracted)  # type: ignore[arg-type]


def draws_of(n: int, round: int = 3) -> list[Draw]:
    return [Draw(1, round, 2, rank, n) for rank in range(n)]


def same(a: Floats, b: Floats) -> bool:
    """Equal bit for bit: -0 is not 0."""
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def encode(
    c: PermK, x: Floats, draw: Draw, residual: Floats | None = None, rho: float = 1.0
) -> tuple[bytes, Floats]:
    """The payload, and what was left in the buffer."""
    blocks, buffer = Blocks.of([x.size]), aligned(x.size)
    buffer[:] = x
    senders = 1 if draw.rank == codec.rng.SERVER else draw.workers
    room = np.full(c.payload_bound(blocks, senders), 0xEE, np.uint8)
    size = c.encode(buffer, blocks, codec.Draw(*draw), room, residual, rho)
    assert size == c.payload_bytes(blocks, codec.Draw(*draw))
    assert (room[size:] == 0xEE).all()
    return room[:size].tobytes(), buffer


def decode(c: PermK, payload: bytes, d: int, draw: Draw) -> Floats:
    out = np.full(d, np.nan, np.float32)
    c.decode(payload, Blocks.of([d]), codec.Draw(*draw), out)
    return out


def reduce(
    c: PermK,
    payloads: Sequence[bytes],
    d: int,
    draws: Sequence[Draw],
    residual: Floats | None = None,
    rho: float = 1.0,
    weights: Floats | None = None,
) -> Floats:
    out = np.full(d, np.nan, np.float32)
    given = [codec.Draw(*draw) for draw in draws]
    c.reduce(payloads, Blocks.of([d]), given, out, residual, rho, weights)
    return out


def cases(spec: str) -> Iterator[tuple[int, int]]:
    """Coordinates and senders that a spec can take, in all regimes, with and without rest."""
    for n in (*range(1, 10), 23):
        for d in (1, 2, 5, 8, 16, 17, 100):
            try:
                made(spec).payload_bound(Blocks.of([d]), n)
            except ConfigError:
                continue
            yield d, n


def agrees(spec: str, d: int, n: int, contracted: bool, round: int = 3) -> None:
    """Every operation of every sender gives what the transcription gives, bit for bit."""
    c, r = made(spec, contracted), transcribed(spec, contracted)
    draws, blocks = draws_of(n, round), Blocks.of([d])
    base, residual = wide(d, 8), wide(d, 9)
    base[::3] = -0.0
    bound, payloads = c.payload_bound(blocks, n), []
    for draw in draws:
        x = wide(d, draw.rank)
        x[:: 2 + draw.rank] = -0.0
        payload, left = encode(c, x, draw)
        assert payload == r.encode(x, [d], draw), (d, draw)
        assert len(payload) == r.size([d], draw) <= bound
        decoded = r.decode(payload, [d], draw)
        assert same(decode(c, payload, d, draw), decoded), (d, draw)
        assert same(left, x - decoded), (d, draw)
        total = x + np.float32(0.3) * residual
        payload, left = encode(c, x, draw, residual, 0.3)
        assert payload == r.encode(total, [d], draw)
        decoded = r.decode(payload, [d], draw)
        assert same(left, total - decoded)
        out = np.full(d, np.nan, np.float32)
        c.decode_onto(payload, blocks, codec.Draw(*draw), base, out)
        own, _ = r.own([d], draw)
        onto = base.copy()
        onto[own] += decoded[own]
        assert same(out, onto), (d, draw)
        payloads.append(payload)
    weights = wide(n, 5)
    for given in (None, weights):
        for rest, rho in ((None, 1.0), (residual, 1.0), (residual, -0.7)):
            expected = r.reduce(payloads, [d], draws, rest, rho, given)
            assert same(reduce(c, payloads, d, draws, rest, rho, given), expected), (d, n, rho)


# As transcribed


@pytest.mark.parametrize("contracted", [False, True], ids=["unbiased", "contracted"])
@pytest.mark.parametrize("spec", SPECS)
def test_small_vectors_in_every_regime_are_as_transcribed(spec: str, contracted: bool) -> None:
    seen = 0
    for d, n in cases(spec):
        agrees(spec, d, n, contracted)
        seen += 1
    assert seen > 30


@pytest.mark.parametrize("contracted", [False, True], ids=["unbiased", "contracted"])
@pytest.mark.parametrize("form", FORMS[1:])
def test_every_value_format_is_as_transcribed(form: str, contracted: bool) -> None:
    for spec in ("perm-k", "perm-k:run=16,groups=2", "perm-k:blocks=2"):
        for d, n in ((2, 5), (40, 7), (100, 4), (333, 4)):
            agrees(f"{spec}/{form}", d, n, contracted)


@pytest.mark.parametrize(
    ("spec", "d", "n"),
    [
        ("perm-k", 20_000, 3),
        ("perm-k:run=2", 9_999, 2),
        ("perm-k:run=16", 40_000, 3),
        ("perm-k:run=16", 40_009, 2),
        ("perm-k:run=17", 10_001, 2),
        ("perm-k:run=48", 50_001, 4),
        ("perm-k:run=3000", 40_009, 3),
        ("perm-k:run=65536", 140_009, 2),
        ("perm-k:run=16,groups=2", 40_009, 5),
        ("perm-k:blocks=2", 10_001, 5),
        ("perm-k:run=16/natural", 20_009, 2),
        ("perm-k:run=7/bf16", 20_009, 2),
    ],
)
def test_vectors_of_many_pieces_are_as_transcribed(spec: str, d: int, n: int) -> None:
    """The short run lies elsewhere in each round, and what follows it is shifted."""
    for round in range(3):
        agrees(spec, d, n, round == 2, round)


def test_large_buckets_are_cut_into_runs_of_16_and_others_are_not() -> None:
    for d, length in (((1 << 16) + 5, 16), ((1 << 16) - 1, 1)):
        x, draw = wide(d), Draw(1, 3, 2, 1, 64)
        usual, left = encode(made("perm-k"), x, draw)
        asked, rest = encode(made(f"perm-k:run={length}"), x, draw)
        assert usual == asked
        assert same(left, rest)
        other = made(f"perm-k:run={17 - length}")
        assert usual != encode(other, x, draw)[0]


def test_a_large_vector_reduces_as_transcribed() -> None:
    d, draws = (1 << 21) + 37, draws_of(3)
    c, r = made("perm-k"), transcribed("perm-k")
    payloads = [encode(c, wide(d, draw.rank), draw)[0] for draw in draws]
    residual = wide(d, 9)
    expected = r.reduce(payloads, [d], draws, residual, 0.5)
    assert same(reduce(c, payloads, d, draws, residual, 0.5), expected)


# Who owns what


def owners(spec: str, d: int, n: int, round: int) -> np.ndarray:
    """bool[n, d], from what the compressor itself sends of a vector of ones."""
    c = made(spec, contracted=True)
    found = []
    for draw in draws_of(n, round):
        payload, left = encode(c, np.ones(d, np.float32), draw)
        assert len(payload) == 4 * int((left == 0).sum())
        found.append(left == 0)
    return np.array(found)


@pytest.mark.parametrize("spec", SPECS)
def test_every_coordinate_has_q_owners_in_every_group(spec: str) -> None:
    for d, n in cases(spec):
        own = owners(spec, d, n, 7)
        division = made(spec).division
        ranks = np.array_split(np.arange(n), division.groups)
        for members, split in zip(ranks, division.splits(d, n), strict=True):
            assert (own[members].sum(0) == split.owners).all(), (d, n)
            idle = int((own[members].sum(1) == 0).sum())
            parts = division.parts or min(d, split.runs)
            assert idle == (len(members) % parts if parts <= len(members) else 0), (d, n)


@pytest.mark.parametrize(("d", "n"), [(100, 7), (7, 7), (20, 3)])
def test_nobody_sends_more_than_one_coordinate_more_than_another(d: int, n: int) -> None:
    for round in range(20):
        sent = owners("perm-k", d, n, round).sum(1)
        assert sent.sum() == d
        assert set(sent.tolist()) <= {d // n, -(-d // n)}


def test_the_bound_is_reached_and_never_passed() -> None:
    for spec in SPECS:
        for d, n in ((100, 7), (101, 4), (50, 6)):
            blocks = Blocks.of([d])
            c = made(spec)
            sizes = {
                c.payload_bytes(blocks, codec.Draw(*draw))
                for round in range(40)
                for draw in draws_of(n, round)
            }
            assert max(sizes) == c.payload_bound(blocks, n), (spec, d, n)


def test_an_idle_sender_sends_nothing_and_keeps_everything() -> None:
    c, d, n = made("perm-k:blocks=2"), 50, 5
    draws, x = draws_of(n), wide(50)
    sent = [encode(c, x, draw) for draw in draws]
    (idle,) = [i for i, (payload, _) in enumerate(sent) if not payload]
    assert same(sent[idle][1], x)
    assert not decode(c, b"", d, draws[idle]).any()
    with pytest.raises(CodecError, match="4 bytes, expected 0 for 0 of 50 coordinates"):
        decode(c, bytes(4), d, draws[idle])
    mean = reduce(c, [payload for payload, _ in sent], d, draws)
    np.testing.assert_allclose(mean, x, rtol=1e-6)


@pytest.mark.parametrize("spec", ["perm-k", "perm-k:run=16", "perm-k/natural"])
def test_one_sender_alone_and_the_server_send_everything(spec: str) -> None:
    x, d, c = wide(300), 300, made(spec)
    for draw in (Draw(1, 3, 2, 0, 1), *(Draw(1, 3, 2, codec.rng.SERVER, n) for n in (1, 8))):
        payload, left = encode(c, x, draw)
        assert len(payload) == FORMATS[spec.partition("/")[2] or "float32"].size(d)
        decoded = decode(c, payload, d, draw)
        assert same(left, x - decoded)
        assert same(decoded, transcribed(spec).decode(payload, [d], draw))
        assert same(reduce(c, [payload], d, [draw]), decoded)
        assert not left.any() or "natural" in spec


# The mean


@pytest.mark.parametrize("spec", ["perm-k", "perm-k:run=3", "perm-k:run=16"])
def test_the_mean_is_the_values_side_by_side_to_the_bit(spec: str) -> None:
    """Definition 5: so that equal vectors give their mean exactly, and n does not matter."""
    for d, n in ((1000, 3), (1001, 7), (160, 9), (17, 2)):
        c, draws = made(spec), draws_of(n)
        vectors = [wide(d, rank) for rank in range(n)]
        payloads = [encode(c, x, draw)[0] for x, draw in zip(vectors, draws, strict=True)]
        own = owners(spec, d, n, 3)
        expected = np.choose(own.argmax(0), vectors) if n < 32 else None
        assert same(reduce(c, payloads, d, draws), expected)
        equal = [encode(c, vectors[0], draw)[0] for draw in draws]
        assert same(reduce(c, equal, d, draws), vectors[0])


@pytest.mark.parametrize("spec", SPECS)
def test_equal_vectors_give_their_mean_to_rounding(spec: str) -> None:
    for d, n in cases(spec):
        x, draws = wide(d), draws_of(n)
        for contracted in (False, True):
            c = made(spec, contracted)
            payloads = [encode(c, x, draw)[0] for draw in draws]
            mean = reduce(c, payloads, d, draws)
            if not contracted:
                np.testing.assert_allclose(mean, x, rtol=1e-6)
            else:
                shares = owners(spec, d, n, 3).sum(0) / n
                np.testing.assert_allclose(mean, x * shares, rtol=1e-6)


def test_a_part_of_the_senders_or_one_twice_is_summed_as_it_is() -> None:
    for spec in ("perm-k", "perm-k:run=16", "perm-k:groups=2", "perm-k:blocks=2"):
        d, draws = 200, draws_of(5)
        c, r = made(spec), transcribed(spec)
        payloads = [encode(c, wide(d, draw.rank), draw)[0] for draw in draws]
        other = [Draw(1, 4, 2, 2, 5), Draw(1, 3, 9, 0, 3)]
        extra = [encode(c, wide(d, 7), draw)[0] for draw in other]
        every = payloads + extra, draws + other
        for order in (
            [1],
            [0, 1, 3],
            [4, 1, 2, 3, 0],
            [0, 0, 2, 3, 4],
            [2, 2, 2],
            [0, 1, 2, 3, 4, 5],
            [0, 6],
        ):
            some = [every[0][i] for i in order]
            given = [every[1][i] for i in order]
            residual = wide(d, 9)
            assert same(reduce(c, some, d, given), r.reduce(some, [d], given))
            expected = r.reduce(some, [d], given, residual, 0.5)
            assert same(reduce(c, some, d, given, residual, 0.5), expected)


# What the papers say of it


ROUNDS = 500


@cache
def many(spec: str, d: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The vectors a_i, float64[n, d]; C_i(a_i) in each of many rounds; and the means of those."""
    a = np.array([wide(d, rank) for rank in range(n)])
    c, sent, means = made(spec), [], []
    for round in range(ROUNDS):
        draws = draws_of(n, round)
        payloads = [encode(c, x, draw)[0] for x, draw in zip(a, draws, strict=True)]
        sent.append([decode(c, p, d, draw) for p, draw in zip(payloads, draws, strict=True)])
        means.append(reduce(c, payloads, d, draws))
    return a.astype(float), np.array(sent, float), np.array(means, float)


REGIMES = (
    ("perm-k", 11, 4),
    ("perm-k:run=3", 11, 3),
    ("perm-k", 3, 8),
    ("perm-k", 4, 9),
    ("perm-k:blocks=2", 7, 5),
    ("perm-k:groups=2", 5, 5),
    ("perm-k:groups=2", 2, 7),
    ("perm-k/natural", 5, 3),
    ("perm-k/natural", 2, 5),
)


@pytest.mark.parametrize(("spec", "d", "n"), REGIMES)
def test_each_is_unbiased_and_varies_by_omega(spec: str, d: int, n: int) -> None:
    a, sent, _ = many(spec, d, n)
    error = sent.mean(0) - a
    assert (np.abs(error) <= 4.5 * sent.std(0) / math.sqrt(ROUNDS) + 1e-12).all()
    omega = made(spec).omega(Blocks.of([d]), n)
    assert omega is not None
    for i in range(n):
        squares = np.square(sent[:, i] - a[i]).sum(1)
        limit = omega * float(np.square(a[i]).sum())
        slack = 4.5 * squares.std() / math.sqrt(ROUNDS)
        assert squares.mean() <= limit + slack
        if spec in ("perm-k", "perm-k:run=3", "perm-k:blocks=2"):
            assert squares.mean() >= limit - slack  # an equality where nothing is rounded


@pytest.mark.parametrize(("spec", "d", "n"), REGIMES)
def test_the_mean_varies_as_theorems_8_and_9_and_lemma_17_say(spec: str, d: int, n: int) -> None:
    a, _, means = many(spec, d, n)
    error = np.square(means - a.mean(0)).sum(1)
    slack = 4.5 * error.std() / math.sqrt(ROUNDS)
    blocks, c = Blocks.of([d]), made(spec)
    constants = c.ab(blocks, n)
    assert constants is not None
    squares, square = np.square(a).sum(1).mean(), np.square(a.mean(0)).sum()
    assert error.mean() <= constants[0] * squares - constants[1] * square + slack
    exact = 0.0  # (49), an equality for these compressors
    for members, split in zip(
        np.array_split(a, c.division.groups), c.division.splits(d, n), strict=True
    ):
        share = (len(members) / n) ** 2 * split.constant
        own = np.square(members).sum(1).mean() - np.square(members.mean(0)).sum()
        exact += share * float(own)
    if "natural" in spec:
        assert error.mean() >= exact - slack
    else:
        assert abs(error.mean() - exact) <= slack + 1e-6 * squares


def test_the_constants_are_the_papers() -> None:
    blocks = Blocks.of([10])
    assert made("perm-k").ab(blocks, 4) == (1, 1)
    assert made("perm-k").ab(blocks, 10) == (1, 1)
    assert made("perm-k").ab(blocks, 19) == (1, 1)  # q = 1, nine idle
    a = 1 - 23 * (2 - 1) / ((23 - 1) * 2)
    assert made("perm-k").ab(blocks, 23) == pytest.approx((a, a))
    assert made("perm-k:blocks=2").ab(blocks, 5) == pytest.approx((3 / 8, 3 / 8))
    assert made("perm-k:blocks=1").ab(blocks, 3) == (0, 0)
    assert made("perm-k:groups=2").ab(blocks, 5) == (3 / 5, 1 / 2)
    assert made("perm-k/natural").ab(blocks, 4) == (9 / 8, 1)
    assert made("perm-k").omega(blocks, 4) == 3
    assert made("perm-k").omega(blocks, 23) == 23 / 2 - 1
    assert made("perm-k:blocks=2").omega(blocks, 5) == 5 / 2 - 1
    assert made("perm-k:groups=2").omega(blocks, 5) == 2
    assert made("perm-k/natural").omega(blocks, 4) == 4 * 9 / 8 - 1
    contracted = made("perm-k", contracted=True)
    assert contracted.omega(blocks, 4) is contracted.ab(blocks, 4) is None
    assert contracted.contracted() is contracted
    assert (made("perm-k").contractive, contracted.contractive) == (False, True)


@pytest.mark.parametrize("spec", ["perm-k", "perm-k:groups=2", "perm-k/natural"])
def test_the_contracted_form_shrinks_the_error_as_transcribed_on_average(spec: str) -> None:
    d, n, count, x = 12, 3, 600, wide(12)
    c, r = made(spec, contracted=True), transcribed(spec, contracted=True)
    norm = float(np.square(x, dtype=float).sum())
    left = [
        np.square(encode(c, x, Draw(1, round, 2, 1, n))[1], dtype=float).sum()
        for round in range(count)
    ]
    assert np.mean(left) <= (1 - r.alpha([d], n)) * norm + 4.5 * np.std(left) / math.sqrt(count)


def test_groups_draw_independently() -> None:
    """Two groups of one size would else divide the vector alike."""
    for round in range(5):
        own = owners("perm-k:groups=2", 60, 6, round)
        assert not np.array_equal(own[:3], own[3:])


def test_seed_round_and_bucket_change_the_division() -> None:
    c, blocks = made("perm-k", contracted=True), Blocks.of([60])
    seen = set()
    for draw in ((1, 1, 1), (2, 1, 1), (1, 2, 1), (1, 1, 2)):
        buffer, room = np.ones(60, np.float32), np.empty(80, np.uint8)
        c.encode(buffer, blocks, codec.Draw(*draw, 0, 3), room)
        seen.add(buffer.tobytes())
    assert len(seen) == 4


# Refusals


@pytest.mark.parametrize(
    ("spec", "d", "n", "text"),
    [
        ("perm-k:groups=4", 10, 3, "4 groups needs as many senders, got 3"),
        ("perm-k:blocks=4", 10, 3, "4 blocks needs as many senders in every group .* 3 and 10"),
        ("perm-k:blocks=4", 3, 5, "4 blocks needs .* coordinates, and there are 5 and 3"),
        ("perm-k:groups=2,blocks=3", 10, 5, "3 blocks needs .* 2 and 10"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_the_reason(
    spec: str, d: int, n: int, text: str
) -> None:
    c, blocks = made(spec), Blocks.of([d])
    draw, payload = codec.Draw(rank=n - 1, workers=n), np.empty(80, np.uint8)
    for call in (
        lambda: c.payload_bound(blocks, n),
        lambda: c.payload_bytes(blocks, draw),
        lambda: c.encode(np.ones(d, np.float32), blocks, draw, payload),
        lambda: c.reduce([payload], blocks, [draw], np.ones(d, np.float32)),
    ):
        with pytest.raises(ConfigError, match=text):
            call()


@pytest.mark.parametrize("rank", [-1, 3, 1000])
def test_a_rank_that_there_is_not_is_refused(rank: int) -> None:
    with pytest.raises(CodecError, match=f"3 senders has no rank {rank}"):
        decode(made("perm-k"), b"", 10, Draw(0, 0, 0, rank, 3))


def test_more_coordinates_than_int32_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="up to 2147483647 coordinates"):
        made("perm-k").payload_bound(Blocks.of([1 << 31]), 4)


@pytest.mark.parametrize("bad", NOT_FINITE)
def test_a_number_that_is_not_finite_is_refused_whoever_owns_it(bad: float) -> None:
    c, residual = made("perm-k"), wide(70, 2)
    for at in range(70):
        x = wide(70)
        x[at] = bad
        for rest in (None, residual):
            with pytest.raises(NonFiniteError, match=f"coordinate {at} is") as caught:
                encode(c, x, Draw(0, 0, 0, 0, 4), rest)
            assert caught.value.coordinate == at
        with pytest.raises(NonFiniteError):
            encode(c, residual, Draw(0, 0, 0, 0, 4), x, 0.5)


@pytest.mark.parametrize("spec", ["perm-k", "perm-k:run=16", "perm-k:run=3/natural", "perm-k/bf16"])
def test_a_number_too_large_for_the_scale_is_refused_by_both_ends(spec: str) -> None:
    c, d, n = made(spec), 50, 4
    draws = draws_of(n)
    own = owners(spec.partition("/")[0], d, n, 3)
    for at in (0, 20, d - 1):
        x = wide(d)
        x[at] = -3e38
        for draw in draws:
            if not own[draw.rank, at]:
                encode(c, x, draw)
                continue
            with pytest.raises(NotFiniteError):
                transcribed(spec).encode(x, [d], draw)
            with pytest.raises(NonFiniteError, match=f"coordinate {at} is .*4.0 times") as caught:
                encode(c, x, draw)
            assert caught.value.coordinate == at
            payload, _ = encode(made(spec, contracted=True), x, draw)
            with pytest.raises(CodecError, match="too large for its scale"):
                decode(c, payload, d, draw)
            payloads = [encode(made(spec, contracted=True), x, one)[0] for one in draws]
            mean = reduce(c, payloads, d, draws)  # multiplied by gain / n, which is 1
            assert mean[at] == transcribed(spec).reduce(payloads, [d], draws)[at] != 0
            with pytest.raises(CodecError, match="too large for its scale"):
                reduce(c, payloads, d, draws, weights=np.full(n, -0.9, np.float32))


@pytest.mark.parametrize("form", FORMS)
def test_a_payload_that_is_none_is_refused_before_anything_is_written(form: str) -> None:
    spec, d, n = f"perm-k:run=3/{form}", 40, 3
    c, r, blocks = made(spec), transcribed(spec), Blocks.of([40])
    draws = draws_of(n)
    good = [encode(c, wide(d, draw.rank), draw)[0] for draw in draws]
    real = [codec.Draw(*draw) for draw in draws]
    lengths = [good[1][:-1], good[1] + b"\0", b"", good[1] * 2]
    for bad in (*lengths, *r.broken(good[1], [d], draws[1])):
        out, base = wide(d, 7), wide(d, 8)
        with pytest.raises(CodecError, match=r"expected|not finite"):
            c.decode(bad, blocks, real[1], out)
        with pytest.raises(CodecError, match=r"expected|not finite"):
            c.decode_onto(bad, blocks, real[1], base, out)
        with pytest.raises(CodecError, match=r"expected|not finite"):
            c.reduce([good[0], bad, good[2]], blocks, real, out, base, 0.5)
        assert same(out, wide(d, 7))
        assert same(base, wide(d, 8))
    for wrong in (None, 7, "text"):
        with pytest.raises(CodecError, match="not a run of bytes"):
            c.decode(wrong, blocks, real[1], wide(d))  # type: ignore[arg-type]
    with pytest.raises(CodecError, match="no payload"):
        c.reduce([], blocks, [], wide(d))
    with pytest.raises(CodecError, match="weights"):
        c.reduce(good, blocks, real, wide(d), weights=np.ones(2, np.float32))


def test_vectors_and_rooms_of_another_kind_are_refused() -> None:
    c, blocks, draw = made("perm-k"), Blocks.of([33]), codec.Draw(workers=3)
    payload, _ = encode(c, wide(33), Draw(workers=3))
    room, good = np.empty(len(payload), np.uint8), wide(33)
    for wrong in (wide(32), wide(66)[::2], wide(33).astype(np.float64)):
        for call in (
            lambda w=wrong: c.encode(w, blocks, draw, room),
            lambda w=wrong: c.encode(good, blocks, draw, room, w),
            lambda w=wrong: c.decode(payload, blocks, draw, w),
            lambda w=wrong: c.decode_onto(payload, blocks, draw, w, good),
            lambda w=wrong: c.decode_onto(payload, blocks, draw, good, w),
            lambda w=wrong: c.reduce([payload], blocks, [draw], w),
            lambda w=wrong: c.reduce([payload], blocks, [draw], good, w),
        ):
            with pytest.raises(CodecError, match=r"contiguous float32\[33\]"):
                call()
    with pytest.raises(CodecError, match="payload needs a writable"):
        c.encode(good, blocks, draw, room[:-1])


# Specs


@pytest.mark.parametrize(
    ("argument", "form", "printed"),
    [
        (None, None, "perm-k"),
        ("run=16", None, "perm-k:run=16"),
        ("groups=1", "float32", "perm-k"),
        ("groups=3,run=07", "natural", "perm-k:run=7,groups=3/natural"),
        ("blocks=4,groups=2", "fp16", "perm-k:groups=2,blocks=4/fp16"),
        ("run=65536", None, "perm-k:run=65536"),
    ],
)
def test_a_spec_prints_in_one_way(argument: str | None, form: str | None, printed: str) -> None:
    c = PermK.of(argument, form)
    assert c.spec == printed == made(printed).spec == c.contracted().spec


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("", "option '' is unknown"),
        ("run", "run is '', not a number"),
        ("run=", "run is ''"),
        ("run=0", "run is 0, and runs are of 1 to 65536"),
        ("run=65537", "runs are of 1 to 65536"),
        ("run=-1", "run is '-1'"),
        ("run=1e3", "run is '1e3'"),
        ("run=\N{ARABIC-INDIC DIGIT THREE}", "not a number"),
        ("run=" + "9" * 5000, "not a number of up to 9 digits"),
        ("groups=0", "at least 1 group"),
        ("blocks=0", "at least 1 block"),
        ("run=2,run=2", "option 'run' is unknown, or given twice"),
        ("runs=2", "option 'runs' is unknown"),
        ("run=2,blocks=2", "not cut into runs as well"),
        ("run=2,", "option '' is unknown"),
    ],
)
def test_a_bad_option_is_refused(argument: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        PermK.of(argument, None)


# Memory


@pytest.mark.parametrize("offset", [1, 4, 20, 63])
def test_no_buffer_needs_alignment_and_nothing_is_written_beside_it(offset: int) -> None:
    for spec in ("perm-k", "perm-k:run=16", "perm-k:run=20"):
        c, d, draw = made(spec), 1000, Draw(1, 3, 2, 1, 3)
        blocks, real = Blocks.of([d]), codec.Draw(*draw)
        expected, left = encode(c, wide(d), draw)
        room = np.full(4 * d + 256, 0xAB, np.uint8)
        buffer = room[64 + offset : 64 + offset + 4 * d].view(np.float32)
        rest = np.full(len(expected) + 256, 0xCD, np.uint8)
        payload = rest[64 + offset : 64 + offset + len(expected)]
        buffer[:] = wide(d)
        c.encode(buffer, blocks, real, payload)
        assert payload.tobytes() == expected
        assert same(buffer, left)
        c.decode(payload, blocks, real, buffer)
        assert same(buffer, decode(c, expected, d, draw))
        c.decode_onto(payload, blocks, real, buffer, buffer)
        c.reduce([payload] * 2, blocks, [real] * 2, buffer)
        for guarded, mark in ((room, 0xAB), (rest, 0xCD)):
            assert (guarded[: 64 + offset] == mark).all()
            assert (guarded[-(192 - offset) :] == mark).all()


def test_no_call_allocates_in_proportion_to_the_vector() -> None:
    d, n = 1 << 20, 4
    blocks, x, out = Blocks.of([d]), aligned(d), aligned(d)
    for spec in ("perm-k", "perm-k:run=1"):
        c, draws = made(spec), [codec.Draw(*draw) for draw in draws_of(n)]
        room = np.empty(c.payload_bound(blocks, n), np.uint8)
        payload = room[: c.encode(x, blocks, draws[1], room)].copy()
        payloads = [np.zeros(c.payload_bytes(blocks, draw), np.uint8) for draw in draws]
        for call in (
            lambda c=c, r=room, draws=draws: c.encode(x, blocks, draws[1], r, out, 0.5),
            lambda c=c, p=payload, draws=draws: c.decode(p, blocks, draws[1], out),
            lambda c=c, p=payload, draws=draws: c.decode_onto(p, blocks, draws[1], x, out),
            lambda c=c, p=payloads, draws=draws: c.reduce(p, blocks, draws, out, x, 0.5),
        ):
            call()
            tracemalloc.start()
            try:
                call()
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak < 16_384, f"{peak} bytes"


def test_two_threads_work_as_one() -> None:
    d, draws = 50_000, draws_of(3)

    def work(seed: int) -> bytes:
        c = made("perm-k:run=16")
        payloads = [encode(c, wide(d, seed + draw.rank), draw)[0] for draw in draws]
        return reduce(c, payloads, d, draws).tobytes()

    alone = [work(seed) for seed in range(6)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, range(6))) == alone
