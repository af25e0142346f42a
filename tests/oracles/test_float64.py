"""Round by round from the same state, every method agrees with its algorithm in float64.

Before each round the float64 transcription takes over psrv's state, so that errors do not
pile up: what is compared is one round. For CD-Adam it is the paper's Algorithm 1 with g-hat
and g-tilde stored apart.

A sign is discontinuous: where rounding decides one, the two may part for good reasons. Such a
coordinate counts as explained only if the number in question is below the tolerance; its block
is then set aside for this round, since its scale at the server moves too. It must be rare.
"""

from __future__ import annotations

import numpy as np
import pytest

from oracles import reference
from oracles.harness import GROUPED, LARGE, NAMES, SMALL, Pair, states
from oracles.reference import SERVER

EPS = 2.0**-24
TOLERANCE = 32 * EPS
"""Times the size of what a number was made from. A norm of 64 lanes adds up to 64 + 6 roundings
to a scale, in practice far fewer; everything else is a handful of operations."""

SET_ASIDE = 1e-3
"""At most this share of coordinates and rounds."""


def take_over(model, named):
    """Give the float64 model psrv's state."""
    for name, vector in named.items():
        attribute, _, rank = name.partition("@")
        if attribute == "r":  # the single residual: g-hat is g-tilde + r
            vector = vector.astype(np.float64) + named["g_tilde"]
            attribute = "g_hat"
        model.put(attribute, vector, int(rank) if rank else None)


def block_max(cuts, vectors):
    """The largest magnitude in each coordinate's block, over several flat vectors."""
    size = np.max(np.abs(vectors), axis=0)
    out = np.empty(size.shape)
    for start, _, _, sizes in cuts:
        for length in sizes:
            out[start : start + length] = size[start : start + length].max()
            start += length
    return out


def signs(model, who):
    """What ``who`` took signs of this round, flat; zeros for a bucket that was silent."""
    rows = []
    for part in model.parts:
        given = dict(part.signs)
        rows.append(given.get(who, np.zeros_like(part.x)).astype(np.float64))
    return np.concatenate(rows)


def compare(pair, model, g, before, etas):
    """Assert that psrv's states after a round are the model's; returns coordinates set aside."""
    cuts, method = pair.reference.cuts, pair.job.method
    after = states(pair.cluster)
    eta = np.concatenate([np.full(stop - start, etas[group]) for start, stop, group, _ in cuts])
    lam = np.concatenate(
        [np.full(b - a, pair.job.decays[group]) for a, b, group, _ in cuts]
    )
    x = np.abs(before["x"].astype(np.float64))
    senders = [*range(pair.n), SERVER] if pair.reference.parts[0].signs or any(
        part.signs for part in pair.reference.parts
    ) else []
    aside = np.zeros(x.size, bool)
    size = np.max(np.abs(g), axis=0).astype(np.float64)
    if senders:
        mine = {who: signs(pair.reference, who) for who in senders}
        theirs = {who: signs(model, who) for who in senders}
        inputs = [*mine.values(), g[0], *(v for k, v in before.items() if k[0] in "ehrm" and v.size)]
        inputs = [v for v in inputs if v.size == x.size]
        size = block_max(cuts, inputs)
        for who in senders:
            parted = np.signbit(mine[who]) != np.signbit(theirs[who])
            wrong = parted & (np.abs(theirs[who]) > TOLERANCE * size) & ~aside
            assert not wrong.any(), f"sign of {who} differs where it is well decided"
            aside |= block_max(cuts, [parted.astype(float)]) > 0
            gap = np.abs(mine[who] - theirs[who])[~aside]
            assert (gap <= TOLERANCE * size[~aside]).all(), f"what {who} compressed"
    if method.up.compressor == "sign-unscaled":
        size = np.maximum(size, 1.0)
    u = size + lam * x
    for name, vector in after.items():
        attribute, _, rank = name.partition("@")
        if attribute == "r":
            expected = model.get("g_hat") - model.get("g_tilde")
        else:
            expected = model.get(attribute, int(rank) if rank else None)
        here = u + np.abs(before[name])
        if name == "v" or name == "v_max":
            here = u * u + np.abs(before[name])
        if name == "x" and method.rule == "amsgrad":
            root = np.sqrt(model.get("v_max") + method.nu)
            m = np.abs(model.get("m"))
            here = x + eta * ((u + m) / root + m * (u * u + model.get("v")) / root**3)
        elif name == "x":
            momenta = [np.abs(before[k]) for k in ("b", "m_decay") if k in before]
            here = x + eta * (u + sum(momenta, np.zeros(x.size)))
        gap = np.abs(vector.astype(np.float64) - expected)
        worst = (gap - TOLERANCE * here)[~aside].max()
        assert worst <= 0, f"{name} is off by {(gap / here)[~aside].max() / EPS:.0f} roundings"
    return int(aside.sum())


@pytest.mark.parametrize("n", [1, 2, 4, 7])
@pytest.mark.parametrize(
    ("tensors", "blocks", "rounds"),
    [(SMALL, 7, 30), (SMALL, "global", 30), (GROUPED, "tensor", 30), (LARGE, 32768, 3)],
    ids=["small-7", "small-global", "grouped-tensor", "large-32768"],
)
@pytest.mark.parametrize("method", NAMES)
def test_one_round_agrees_with_float64(method, tensors, blocks, rounds, n):
    pair = Pair(method, tensors, blocks=blocks, n=n, decay=0.01)
    kind = reference.CdAdamApart if method == "cd-adam" else reference.ALGORITHMS[method]
    m = pair.job.method
    model = reference.Model(
        kind, pair.reference.cuts, pair.reference.get("x"), n, pair.job.decays, np.float64, seed=5,
        momentum=m.momentum, beta1=m.beta1, beta2=m.beta2, nu=m.nu,
    )  # fmt: skip
    aside = 0
    for t in range(1, rounds + 1):
        before = {name: vector.copy() for name, vector in states(pair.cluster).items()}
        for part, same in zip(model.parts, pair.reference.parts, strict=True):
            part.t, part.last_eta = same.t, same.last_eta
        take_over(model, before)
        g = pair.draw()
        etas = pair.etas(t)
        pair.cluster.step(etas)
        pair.reference.round(g, etas)
        model.round(g, etas)
        assert pair.differences() == []
        aside += compare(pair, model, g, before, etas)
    assert aside <= SET_ASIDE * rounds * before["x"].size
