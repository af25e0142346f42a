"""What senders and receivers remember, and that only a commit changes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

from codec_reference import Draw, Floats, Reference, wide
from codec_references import reference_of
from psrv import codec
from psrv.codec import parse, rng
from psrv.codec.channel import Channel, Downlink, Feedback, Relay, Uplink
from psrv.errors import CodecError, ConfigError, NonFiniteError
from psrv.layout import Layout, Tensor

SEED, RANK = 3, 2
LAYOUT = Layout.build(
    [Tensor("w", (30, 20)), Tensor("b", (37,)), Tensor("v", (8, 50))], 128, bucket_bytes=1024
)
BUCKETS, DIMENSION = LAYOUT.buckets, LAYOUT.dimension
SILENCE = [b""] * len(BUCKETS)
HEADS = 0.4
"""p of MARINA's coin; SEED's first tosses have both sides."""

ETAS = (0.1, 0.1, 0.05, 0.0, 0.0, 0.2, 0.013)


def sizes_of(bucket: Any) -> list[int]:
    return np.diff(bucket.blocks.edges).tolist()


def step(uplink: Uplink, vector: Floats, round: int, eta: float) -> list[bytes]:
    """One round of a sender: its payloads, before the commit."""
    uplink.buffer[:] = vector
    return [uplink.encode(bucket, round, eta).tobytes() for bucket in BUCKETS]


def run(uplink: Uplink, vector: Floats, round: int = 0, eta: float = 0.1) -> list[bytes]:
    payloads = step(uplink, vector, round, eta)
    uplink.commit()
    return payloads


def name(value: object) -> str:
    """Of a parameter, for pytest."""
    if isinstance(value, Channel):
        return f"{value.feedback}-{value.compressor}{'-rescaled' if value.rescale else ''}"
    return getattr(value, "__name__", str(value))


# Uplink


def plain(spec: str, rescale: bool) -> Callable[[Floats, int, float], list[bytes]]:
    return lambda v, round, eta: encoded(spec, v, round)[0] if eta or not rescale else SILENCE


def error_feedback(spec: str, rescale: bool) -> Callable[[Floats, int, float], list[bytes]]:
    e, last = np.zeros(DIMENSION, np.float32), 0.0

    def send(v: Floats, round: int, eta: float) -> list[bytes]:
        nonlocal e, last
        if rescale and eta == 0:
            return SILENCE
        p = v + np.float32(last / eta if rescale else 1) * e
        payloads, c = encoded(spec, p, round, memory=True)
        e, last = p - c, eta
        return payloads

    return send


def markov(
    spec: str, rescale: bool, start: Floats | None = None
) -> Callable[[Floats, int, float], list[bytes]]:
    h = np.zeros(DIMENSION, np.float32) if start is None else start

    def send(v: Floats, round: int, eta: float) -> list[bytes]:
        nonlocal h
        if rescale and eta == 0:
            return SILENCE
        payloads, c = encoded(spec, v - h, round, memory=True)
        h = h + c
        return payloads

    return send


def marina(spec: str, rescale: bool) -> Callable[[Floats, int, float], list[bytes]]:
    last = np.zeros(DIMENSION, np.float32)

    def send(v: Floats, round: int, eta: float) -> list[bytes]:
        nonlocal last
        if round == 0 or rng.coin(SEED, round, HEADS):
            payloads = encoded("dense", v, round)[0]
        else:
            payloads = encoded(spec, v - last, round)[0]
        last = v.copy()
        return payloads

    return send


def opened(definition: Callable[..., Any]) -> Callable[..., Any]:
    """The definition of a channel whose first two rounds are dense."""

    def make(spec: str, rescale: bool) -> Callable[[Floats, int, float], list[bytes]]:
        dense, later = definition("dense", rescale), None

        def send(v: Floats, round: int, eta: float) -> list[bytes]:
            nonlocal later
            if round < 2:
                return dense(v, round, eta)
            if later is None:
                # With C(x) = x an error stays 0, and Markov memory is what was sent.
                later = definition(spec, rescale)
                if definition is markov:
                    later = markov(spec, rescale, vector_of(0) + (vector_of(1) - vector_of(0)))
            return later(v, round, eta)

        return send

    make.__name__ = f"opened {definition.__name__}"
    return make


def vector_of(round: int) -> Floats:
    vector = wide(DIMENSION, round)
    vector[::7] = 0
    return vector


def reference_for(spec: str, memory: bool) -> Reference:
    """The transcription of what a channel uses: C / (1 + omega) where something is remembered."""
    usual = parse(spec)
    return reference_of(spec, memory and usual.contracted() is not usual)


def encoded(spec: str, v: Floats, round: int, memory: bool = False) -> tuple[list[bytes], Floats]:
    """Every bucket's payload of ``v``, and what they decode to."""
    reference, payloads, parts = reference_for(spec, memory), [], []
    for bucket in BUCKETS:
        draw = Draw(SEED, round, bucket.index, RANK, 3)
        payloads.append(reference.encode(v[bucket.slice], sizes_of(bucket), draw))
        parts.append(reference.decode(payloads[-1], sizes_of(bucket), draw))
    return payloads, np.concatenate(parts)


SENDERS = [
    (plain, Channel(Feedback.PLAIN, "sign")),
    (plain, Channel(Feedback.PLAIN, "sign-unscaled")),
    (plain, Channel(Feedback.PLAIN, "dense", rescale=True)),
    (error_feedback, Channel(Feedback.EF, "sign")),
    (error_feedback, Channel(Feedback.EF, "sign", rescale=True)),
    (error_feedback, Channel(Feedback.EF, "dense", rescale=True)),
    (markov, Channel(Feedback.MARKOV, "sign")),
    (markov, Channel(Feedback.MARKOV, "sign", rescale=True)),
    (markov, Channel(Feedback.MARKOV, "dense")),
    *(
        (definition, Channel(feedback, spec))
        for spec in ("fp16", "natural", "qsgd:4", "top-k:0.25/bf16", "rand-k:0.25", "perm-k")
        for definition, feedback in (
            (plain, Feedback.PLAIN),
            (error_feedback, Feedback.EF),
            (markov, Feedback.MARKOV),
        )
    ),
    *(
        (marina, Channel(Feedback.MARINA, spec, opening=1, probability=HEADS))
        for spec in ("perm-k", "perm-k/natural", "rand-k:0.25", "qsgd:4", "dense")
    ),
    (opened(error_feedback), Channel(Feedback.EF, "sign", opening=2)),
    (opened(markov), Channel(Feedback.MARKOV, "sign", opening=2)),
    (opened(plain), Channel(Feedback.PLAIN, "perm-k", opening=2)),
]


@pytest.mark.parametrize(("definition", "channel"), SENDERS, ids=name)
def test_a_sender_sends_what_its_definition_says_bit_for_bit(
    definition: Callable[..., Any], channel: Channel
) -> None:
    sender = definition(channel.compressor, channel.rescale)
    uplink = Uplink(channel, BUCKETS, SEED, RANK, 3)
    for round, eta in enumerate(ETAS):
        vector = vector_of(round)
        expected = sender(vector, round, eta)
        assert run(uplink, vector, round, eta) == expected
        for bucket, payload in zip(BUCKETS, expected, strict=True):
            draw = codec.Draw(SEED, round, bucket.index, RANK, 3)
            assert channel.payload_bytes(bucket, eta, draw) in (len(payload), None)
            assert len(payload) <= channel.payload_bound(bucket, 3)


MEMORIES = (Feedback.PLAIN, Feedback.EF, Feedback.MARKOV)


def channels(rescale: bool = False) -> list[Channel]:
    return [
        Channel(feedback, spec, rescale) for feedback, spec in product(MEMORIES, ("sign", "dense"))
    ]


MARINAS = [
    Channel(Feedback.MARINA, spec, opening=1, probability=HEADS) for spec in ("perm-k", "dense")
]


@pytest.mark.parametrize("channel", channels(rescale=True) + MARINAS, ids=name)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_in_any_bucket_leaves_the_sender_as_it_was(
    channel: Channel, bad: float
) -> None:
    disturbed, calm = (Uplink(channel, BUCKETS, SEED, RANK, 3) for _ in range(2))
    for round, eta in enumerate(ETAS):
        for bucket in BUCKETS:
            vector = wide(DIMENSION, 50 + round)
            vector[bucket.stop - 1] = bad
            if not channel.silent(eta):
                with pytest.raises(NonFiniteError):
                    step(disturbed, vector, round, eta)
        good = wide(DIMENSION, round)
        assert run(disturbed, good, round, eta) == run(calm, good, round, eta)
    if calm.memory is not None:
        assert disturbed.memory.tobytes() == calm.memory.tobytes()


def test_a_round_that_is_encoded_again_before_its_commit_gives_the_same_payloads() -> None:
    for channel in channels() + MARINAS:
        uplink = Uplink(channel, BUCKETS, SEED, RANK, 3)
        for round in range(4):
            vector = wide(DIMENSION, round)
            assert step(uplink, vector, round, 0.1) == step(uplink, vector, round, 0.1)
            uplink.commit()


@pytest.mark.parametrize("feedback", [Feedback.EF, Feedback.MARKOV])
def test_what_is_remembered_stays_while_the_step_size_is_zero(feedback: Feedback) -> None:
    uplink = Uplink(Channel(feedback, "sign", rescale=True), BUCKETS, SEED, RANK, 3)
    run(uplink, wide(DIMENSION), 0, 0.1)
    memory = uplink.memory.copy()
    assert memory.any()
    assert run(uplink, wide(DIMENSION, 1), 1, 0.0) == SILENCE
    assert uplink.memory.tobytes() == memory.tobytes()


def test_feedback_over_a_compressor_that_does_not_shrink_the_error_is_refused() -> None:
    for feedback in (Feedback.EF, Feedback.MARKOV):
        with pytest.raises(ConfigError, match=r"'sign-unscaled'.*use sign or dense"):
            Channel(feedback, "sign-unscaled")


def test_only_a_channel_that_follows_the_step_size_is_ever_silent() -> None:
    for channel in (*channels(), *channels(rescale=True)):
        assert channel.silent(0.0) == channel.rescale
        assert not channel.silent(0.1)


# Relay and downlink


class Round:
    """n senders, the server and a receiver, over every bucket."""

    def __init__(self, up: Channel, down: Channel, workers: int = 3) -> None:
        self.workers = [Uplink(up, BUCKETS, SEED, rank, workers) for rank in range(workers)]
        self.relays = [Relay(up, down, bucket, SEED, workers) for bucket in BUCKETS]
        self.replica = Downlink(down, BUCKETS, SEED)
        self.sent: list[list[bytes]] = []
        self.results: list[bytes] = []

    def push(self, vectors: Sequence[Floats], round: int, eta: float = 0.1) -> None:
        self.sent = [step(w, v, round, eta) for w, v in zip(self.workers, vectors, strict=True)]

    def relay(self, round: int, eta: float = 0.1) -> None:
        self.results = [
            relay.run([np.frombuffer(p[k], np.uint8) for p in self.sent], round, eta).tobytes()
            for k, relay in enumerate(self.relays)
        ]

    def receive(self, round: int, eta: float = 0.1) -> Floats:
        for bucket, result in zip(BUCKETS, self.results, strict=True):
            self.replica.decode(bucket, np.frombuffer(result, np.uint8), round, eta)
        for end in (*self.workers, *self.relays):
            end.commit()
        return self.replica.commit()

    def __call__(self, vectors: Sequence[Floats], round: int, eta: float = 0.1) -> Floats:
        self.push(vectors, round, eta)
        self.relay(round, eta)
        return self.receive(round, eta).copy()

    def state(self) -> bytes:
        """Everything remembered, anywhere."""
        kept = [w.memory for w in self.workers] + [r.residual for r in self.relays]
        kept += [r.mean for r in self.relays] + [self.replica.memory]
        return b"".join(b"-" if part is None else part.tobytes() for part in kept)


def vectors_of(round: int, workers: int = 3) -> list[Floats]:
    return [np.clip(wide(DIMENSION, 10 * round + rank), -3, 3) for rank in range(workers)]


PAIRS = list(product(channels(), channels())) + [
    (Channel(up, a), Channel(down, b))
    for up, down in product(MEMORIES, MEMORIES)
    for a, b in (("top-k:0.25", "top-k:0.5/bf16"), ("perm-k", "rand-k:0.5"), ("qsgd:4", "natural"))
]


@pytest.mark.parametrize(("up", "down"), PAIRS, ids=name)
def test_what_arrives_and_what_is_kept_add_up_to_what_was_sent(up: Channel, down: Channel) -> None:
    """The identities by which each feedback loses nothing, to rounding."""
    run = Round(up, down)
    arrived = np.zeros(DIMENSION)
    due = np.zeros(DIMENSION)
    for round in range(12):
        vectors = vectors_of(round)
        received = run(vectors, round)
        contributions = []
        for rank, (worker, payloads) in enumerate(zip(run.workers, run.sent, strict=True)):
            parts = [
                reference_for(up.compressor, up.feedback is not Feedback.PLAIN).decode(
                    p, sizes_of(b), Draw(SEED, round, b.index, rank, 3)
                )
                for p, b in zip(payloads, BUCKETS, strict=True)
            ]
            if up.feedback is Feedback.MARKOV:
                contributions.append(worker.memory.astype(float))
            else:
                contributions.append(np.concatenate(parts).astype(float))
        goal = np.mean(contributions, axis=0)
        arrived += received
        due += goal
        kept = [relay.residual for relay in run.relays]
        residual = None if kept[0] is None else np.concatenate(kept)
        near = {"rtol": 1e-4, "atol": 1e-4}
        if down.feedback is Feedback.PLAIN:
            if down.compressor == "dense":
                np.testing.assert_allclose(received, goal, **near)
        elif down.feedback is Feedback.EF:
            np.testing.assert_allclose(arrived + residual, due, **near)
        elif up.feedback is Feedback.MARKOV:
            np.testing.assert_allclose(received + residual, goal, **near)
        else:
            assert residual.tobytes() == received.tobytes()  # the server's h~ is every worker's h


def test_error_feedback_both_ways_is_algorithm_2_with_its_changing_step_size() -> None:
    """The server's p~ = mean + (eta_{t-1} / eta_t) e~, in float32, bit for bit."""
    up, down = (Channel(Feedback.EF, "sign", rescale=True) for _ in range(2))
    run = Round(up, down)
    error, last, sign = np.zeros(DIMENSION, np.float32), 0.0, reference_of("sign")
    for round, eta in enumerate(ETAS):
        received = run(vectors_of(round), round, eta)
        if eta == 0:
            assert run.results == SILENCE
            assert not received.any()
            continue
        for k, bucket in enumerate(BUCKETS):
            sizes, s = sizes_of(bucket), bucket.slice
            c = [sign.decode(payloads[k], sizes, Draw()) for payloads in run.sent]
            p = ((c[0] + c[1]) + c[2]) * np.float32(1 / 3) + np.float32(last / eta) * error[s]
            assert sign.encode(p, sizes, Draw()) == run.results[k]
            error[s] = p - sign.decode(run.results[k], sizes, Draw())
            assert received[s].tobytes() == sign.decode(run.results[k], sizes, Draw()).tobytes()
        last = eta
        assert np.concatenate([r.residual for r in run.relays]).tobytes() == error.tobytes()


@pytest.mark.parametrize(("up", "down"), list(product(*[channels(rescale=True)] * 2)), ids=name)
def test_a_round_with_a_step_size_of_zero_is_as_if_it_had_not_been(
    up: Channel, down: Channel
) -> None:
    paused, calm = Round(up, down), Round(up, down)
    before = np.zeros(DIMENSION, np.float32)
    for round, eta in enumerate((0.1, 0.05, 0.2)):
        received = paused(vectors_of(90 + round), round, 0.0)
        assert paused.results == SILENCE
        markov = down.feedback is Feedback.MARKOV
        assert received.tobytes() == (before if markov else np.zeros_like(before)).tobytes()
        before = paused(vectors_of(round), round, eta)
        assert before.tobytes() == calm(vectors_of(round), round, eta).tobytes()
        assert paused.state() == calm.state()


def test_markov_memories_both_ways_follow_a_constant_vector() -> None:
    """CD-Adam: with gradients that stay, what the workers hold converges to their mean."""
    run = Round(*(Channel(Feedback.MARKOV, "sign") for _ in range(2)))
    vectors = vectors_of(0)
    goal = np.mean(vectors, axis=0)
    errors = [np.linalg.norm(run(vectors, round) - goal) for round in range(150)]
    assert errors[-1] < 0.01 * errors[0]


def test_unscaled_signs_both_ways_are_a_majority_vote_with_specified_ties() -> None:
    channel = Channel(Feedback.PLAIN, "sign-unscaled")
    for workers in (1, 2, 3, 4):
        vectors = vectors_of(1, workers)
        received = Round(channel, channel, workers)(vectors, 5)
        votes = np.sum(np.sign(vectors), axis=0)
        decided = votes != 0
        assert (received[decided] == np.sign(votes)[decided]).all()
        assert decided.all() == (workers % 2 == 1)
        for bucket in BUCKETS:
            key = rng.key(SEED, rng.Purpose.TIE, 5, bucket.index, rng.SERVER)
            ties = 1.0 - 2.0 * rng.bits(key, bucket.stop - bucket.start)
            tied = ~decided[bucket.slice]
            assert (received[bucket.slice][tied] == ties[tied]).all()


@pytest.mark.parametrize(("up", "down"), PAIRS, ids=name)
def test_nothing_is_remembered_before_the_commit(up: Channel, down: Channel) -> None:
    disturbed, calm = Round(up, down), Round(up, down)
    for round in range(3):
        before = disturbed.state()
        disturbed.push(vectors_of(90 + round), round)
        disturbed.relay(round)
        for bucket, result in zip(BUCKETS, disturbed.results, strict=True):
            disturbed.replica.decode(bucket, np.frombuffer(result, np.uint8), round, 0.1)
        assert disturbed.state() == before
        a, b = disturbed(vectors_of(round), round), calm(vectors_of(round), round)
        assert a.tobytes() == b.tobytes()
        assert disturbed.results == calm.results
        assert disturbed.state() == calm.state()


@pytest.mark.parametrize(("up", "down"), PAIRS, ids=name)
def test_a_refused_round_leaves_the_server_as_it_was(up: Channel, down: Channel) -> None:
    disturbed, calm = Round(up, down), Round(up, down)
    for round in range(3):
        disturbed.push(vectors_of(round), round)
        good = disturbed.sent[1]
        disturbed.sent[1] = [payload[:-1] for payload in good]
        with pytest.raises(CodecError):
            disturbed.relay(round)
        for relay in disturbed.relays:
            relay.commit()  # of a round that did not run: nothing
        disturbed.sent[1] = good
        disturbed.relay(round)
        assert disturbed.receive(round).tobytes() == calm(vectors_of(round), round).tobytes()
        assert disturbed.state() == calm.state()


@pytest.mark.parametrize("down", ["rand-k:3", "dense", "sign"])
@pytest.mark.parametrize(("above", "below"), list(product(Feedback, MEMORIES)))
def test_a_sum_that_overflows_anywhere_is_refused_and_nothing_is_kept(
    above: Feedback, below: Feedback, down: str
) -> None:
    """Also at a coordinate that the downlink would not have sent."""
    bucket = Layout.build([Tensor("x", (64,))]).buckets[0]
    for at in range(0, 64, 7):
        up = Channel(above, "dense", probability=0.5 if above is Feedback.MARINA else None)
        relay = Relay(up, Channel(below, down), bucket, SEED, 2)
        vector = np.zeros(64, np.float32)
        vector[at] = 3e38
        before = [None if v is None else v.tobytes() for v in (relay.residual, relay.mean)]
        with pytest.raises(NonFiniteError):
            relay.run([vector.tobytes()] * 2, 0, 0.1)
        relay.commit()
        after = [None if v is None else v.tobytes() for v in (relay.residual, relay.mean)]
        assert before == after


def test_the_payloads_of_a_round_differ_and_so_need_a_draw() -> None:
    with pytest.raises(ValueError, match="differ by round and rank"):
        Channel(Feedback.PLAIN, "perm-k").payload_bytes(BUCKETS[0], 0.1)


def test_the_server_holds_one_vector_a_bucket_where_one_is_enough() -> None:
    for feedback in (Feedback.EF, Feedback.MARKOV):
        relay = Relay(*[Channel(feedback, "sign")] * 2, BUCKETS[0], SEED, 3)
        assert relay.mean is None
        assert relay.residual.size == BUCKETS[0].blocks.dimension
    relay = Relay(*[Channel(Feedback.PLAIN, "sign")] * 2, BUCKETS[0], SEED, 3)
    assert relay.mean is None
    assert relay.residual is None


def test_coin_is_the_one_that_the_specification_shows():
    """``docs/payloads.md``, section 2; and it is fair."""
    tosses = [rng.coin(7, t, 0.25) for t in range(16)]
    assert [t for t, heads in enumerate(tosses) if heads] == [0, 1, 2, 3, 7, 8, 14, 15]
    assert all(rng.coin(3, t, 1.0) for t in range(100))
    heads = sum(rng.coin(seed, t, 0.25) for seed in range(10) for t in range(2000))
    assert abs(heads - 5000) < 4 * (20000 * 0.25 * 0.75) ** 0.5
