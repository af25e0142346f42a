"""A job in psrv and its transcription, side by side on the same gradients."""

from __future__ import annotations

import numpy as np

from oracles import reference
from oracles.more_methods import ALGORITHMS, Compressed, OnebitAdam
from psrv.job import Job
from psrv.layout import Layout, Tensor
from psrv.methods import METHODS, resolve
from psrv.simulation import Cluster

NAMES = tuple(METHODS)
EF_RESCALED = ("dist-ef-sgd", "dist-ef-sgdm")
SMALL_RUN = {
    "ef21": {"up_compressor": "top-k:0.1"},
    "ef21-two-way": {"compressor": "top-k:0.1"},
    "marina": {"up_compressor": "perm-k", "probability": 0.25},
    "onebit-adam": {"warmup": 3},
}
"""What a method is given so that a small model and a few rounds show all that it does."""

SMALL = (("conv", (5, 7), 0), ("bias", (11,), 0), ("gain", (), 0), ("fc", (64, 3), 0))
GROUPED = (("conv", (5, 7), 0), ("bias", (11,), 1), ("gain", (), 1), ("fc", (64, 3), 0))
LARGE = (("bias", (130,), 0), ("fc", (170, 200), 0), ("tail", (4099,), 0))  # 34,000 > 32,768

ETAS = (0.0, 0.1, 0.1, 0.05, 0.0, 0.0, 0.2, 0.013, 0.3, 1e-3)
"""Step sizes round after round: zero at the start, for a while, and changing."""


class Gradients:
    """Gradients by tensor name: each tensor of its own size, some coordinates dead.

    A fifth of all coordinates is zero on every worker and in every round (dead units), a
    tenth of the rest on some worker in some round, half of those as -0. The others are a pull
    towards a random point plus noise, so that what a method did enters the next round.
    """

    def __init__(self, tensors, n, seed=0):
        self.tensors, self.n = tensors, n
        self.rng = np.random.default_rng(seed)
        self.sizes = {name: 10.0 ** self.rng.uniform(-3, 1) for name, _, _ in tensors}
        self.goal = {name: self.rng.standard_normal(shape) for name, shape, _ in tensors}
        self.alive = {name: self.rng.random(shape) > 0.2 for name, shape, _ in tensors}

    def start(self):
        """x_0 by name."""
        return {
            name: self.rng.standard_normal(shape).astype(np.float32)
            for name, shape, _ in self.tensors
        }

    def draw(self, x):
        """One worker's gradients at the parameters ``x`` (by name)."""
        drawn = {}
        for name, shape, _ in self.tensors:
            g = (x[name] - self.goal[name]) * 0.1 + self.rng.standard_normal(shape)
            g = (g * self.sizes[name]).astype(np.float32)
            missing = self.rng.random(shape) < 0.1
            g = np.where(missing, np.float32(self.rng.choice([0.0, -0.0])), g)
            drawn[name] = np.where(self.alive[name], g, np.float32(0))
        return drawn


def make_job(method, tensors, blocks, decay=0.0, seed=0, bucket_floats=None, **options):
    """A psrv job over (name, shape, group) rows; group k has weight decay ``decay / (k + 1)``."""
    if isinstance(method, str):
        resolved = resolve(method, **(SMALL_RUN.get(method, {}) | options))
    else:
        resolved = method
    rows = tuple(Tensor(*t) for t in tensors)
    groups = 1 + max(t.group for t in rows)
    decays = tuple(decay / (k + 1) for k in range(groups))
    job = Job("oracle", resolved, rows, blocks, seed, decays, check_every=0)
    if bucket_floats is not None:  # jobs have buckets of 4 MiB; small ones need no large model
        job.__dict__["layout"] = Layout.build(rows, blocks, 4 * bucket_floats)
    return job


def options_of(m, kind=None):
    """The options of the transcription ``kind`` of a psrv method."""
    found = {
        "momentum": m.momentum, "decoupled": m.decoupled,
        "beta1": m.beta1, "beta2": m.beta2, "nu": m.nu,
    }  # fmt: skip
    kind = kind or ALGORITHMS[m.name]
    if not isinstance(kind, type):
        return found
    if issubclass(kind, Compressed):
        found |= {"up": m.up.compressor, "down": m.down.compressor}
        found |= {"init": "dense" if m.up.opening else "compressed"}
        found |= {"probability": m.up.probability}
    if issubclass(kind, OnebitAdam):
        found |= {"warmup": m.up.opening, "eps": m.eps}
    return found


class Pair:
    """psrv's cluster and the transcription of its method, stepped on equal gradients."""

    def __init__(
        self, method, tensors=SMALL, blocks=7, n=2, decay=0.0, seed=5, kind=None,
        dtype=np.float32, bucket_floats=None, **options,
    ):  # fmt: skip
        self.job = make_job(method, tensors, blocks, decay, seed, bucket_floats, **options)
        self.tensors, self.n = tensors, n
        self.gradients = Gradients(tensors, n, seed=seed)
        self.cluster = Cluster(self.job, n)
        start = self.gradients.start()
        x = reference.flat(tensors, start)
        for name, view in self.job.layout.views(self.cluster.replica.parameters).items():
            view[...] = start[name]
        m = self.job.method
        cuts = reference.cut(tensors, blocks, bucket_floats or 1 << 20)
        self.reference = reference.Model(
            kind or ALGORITHMS[m.name], cuts, x, n, self.job.decays, dtype, seed=seed,
            **options_of(m, kind),
        )  # fmt: skip

    def draw(self):
        """This round's gradients, written into the senders; returns them flat, n of them."""
        layout, flats = self.job.layout, []
        x = layout.views(self.cluster.replica.parameters)
        for sender in self.cluster.senders:
            g = self.gradients.draw(x)
            for name, view in layout.views(sender.gradient).items():
                view[...] = g[name]
            flats.append(reference.flat(self.tensors, g))
        return flats

    def round(self, etas):
        """One round of both; returns psrv's payload bytes per worker."""
        g = self.draw()
        sent = self.cluster.step(etas)
        self.reference.round(g, etas)
        return sent

    def etas(self, t):
        """Group k's step size in round t: the schedule, shifted by k."""
        return [ETAS[(t + k) % len(ETAS)] * (1 + k) for k in range(len(self.job.decays))]

    def differences(self):
        """Names of the states in which the two are not equal bit for bit."""
        found = []
        for name, mine in states(self.cluster).items():
            attribute, _, rank = name.partition("@")
            theirs = self.reference.get(attribute, int(rank) if rank else None)
            if not same(mine, theirs):
                found.append(name)
        return found


_RULE_STATE = {"momentum": "b", "decay_momentum": "m_decay", "m": "m", "v": "v", "v_max": "v_max"}


def states(cluster):
    """Every remembered vector of a cluster, flat, by the transcription's names.

    A worker's own are named ``name@rank``. What the server's relays hold back until the next
    round's first push is committed first: the round is over.
    """
    method, buckets = cluster.job.method, cluster.layout.buckets
    named = {"x": cluster.replica.parameters}
    named |= {_RULE_STATE[k]: v for k, v in cluster.replica.rule.state.items()}
    if cluster.replica.downlink.memory is not None:
        named["g_tilde"] = cluster.replica.downlink.memory
    for sender in cluster.senders:
        if sender.momentum is not None:
            named[f"m_local@{sender.rank}"] = sender.momentum
        if sender.uplink.memory is not None:
            memory = {"markov": "h", "marina": "previous"}.get(method.up.feedback, "e")
            named[f"{memory}@{sender.rank}"] = sender.uplink.memory
    relays = [cluster.aggregator.residual(b.index) for b in buckets]
    for relay in relays:
        relay.commit()
    if relays[0].residual is not None:
        if method.down.feedback == "ef":
            name = "e_server"
        else:
            name = "r" if method.up.feedback == "markov" else "h_server"
        named[name] = np.concatenate([relay.residual for relay in relays])
    if relays[0].mean is not None:
        named["g_hat"] = np.concatenate([relay.mean for relay in relays])
    return named


def same(a, b):
    """Equal bit for bit, the signs of zeros too: a sign method sends them."""
    if a.dtype != np.float32 or b.dtype != np.float32:
        return False
    return np.array_equal(a.view(np.uint32), b.view(np.uint32))
