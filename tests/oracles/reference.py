"""The papers' pseudo-code, written down plainly: what psrv's methods are compared with.

NumPy only, and nothing of psrv is imported: compressors, the random generator, the order of
every sum and the cutting into buckets are written here a second time, from their specifications.
No payloads, no channels, no late commits: a round is the lines of the paper's algorithm.

An ``Algorithm`` runs one bucket, a ``Model`` one for each bucket. ``dtype`` is float32 or
float64. In float32 every operation is rounded once, in the order in which an expression is
written (NumPy neither reorders nor fuses), constants are computed in float64 and rounded once,
and the result must equal psrv's bit for bit. In float64 the norm is NumPy's own sum.

Read with: papers/dist-ef-blockwise-sgdm.md (Algorithms 2 to 4), papers/cd-adam.md (Algorithm 1),
DESIGN section 5. ``docs/methods.md`` has the same in formulas.
"""

from __future__ import annotations

from math import prod

import numpy as np

# --- the random generator: SplitMix64 with a key per stream -------------------------------------

GAMMA = 0x9E3779B97F4A7C15
MASK = 2**64 - 1
TIE = 1
SERVER = 0xFFFFFFFF


def mix(z):
    """SplitMix64's finaliser on a Python integer."""
    z = z & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def tie_bits(seed, round, bucket, rank, count):
    """What stands in for the signs of exact zeros: 1 (negative) or 0 for each coordinate."""
    key = mix(seed + GAMMA)
    for field in (TIE, round, bucket, rank):
        key = mix((key ^ field) + GAMMA)
    words = [mix(key + (i + 1) * GAMMA) for i in range(-(-count // 64))]
    return np.array([(words[j // 64] >> (j % 64)) & 1 for j in range(count)])


# --- compressors --------------------------------------------------------------------------------


def norm1(block):
    """Sum of |x|: float32 in 64 lanes over chunks of 4096, halved; float64 between chunks."""
    if block.dtype == np.float64:
        return np.abs(block).sum()
    total = 0.0
    for start in range(0, block.size, 4096):
        chunk = np.abs(block[start : start + 4096])
        rows = np.zeros((-(-chunk.size // 64), 64), np.float32)  # |x| + 0 = |x|: the rest is zeros
        rows.reshape(-1)[: chunk.size] = chunk
        lanes = np.zeros(64, np.float32)
        for row in rows:
            lanes = lanes + row
        while lanes.size > 1:
            half = lanes.size // 2
            lanes = lanes[:half] + lanes[half:]
        total += float(lanes[0])
    return total


def scaled_sign(v, sizes):
    """Block b becomes its mean magnitude with the sign bits of v; -0 counts as negative."""
    out = np.empty_like(v)
    start = 0
    for size in sizes:
        block = v[start : start + size]
        scale = v.dtype.type(norm1(block) / size)
        out[start : start + size] = np.where(np.signbit(block), -scale, scale)
        start += size
    return out


def unscaled_sign(v, seed, round, bucket, rank):
    """+1 or -1; an exact zero takes the generator's bit."""
    drawn = tie_bits(seed, round, bucket, rank, v.size)
    negative = np.where(v == 0, drawn == 1, v < 0)
    return np.where(negative, v.dtype.type(-1), v.dtype.type(1))


# --- one bucket ---------------------------------------------------------------------------------


class Algorithm:
    """The state of n workers and a server for one bucket, and what all methods share.

    ``STATE`` names the vectors that live on the server or on every replica, ``WORKER`` those that
    each worker has its own of (lists of n). ``signs`` collects what was given to a sign this
    round, as (rank or SERVER, vector): a test sets aside the coordinates that rounding decides.
    """

    STATE = ("x",)
    WORKER = ()

    def __init__(
        self, x, sizes, n, seed=0, bucket=0, decay=0.0, dtype=np.float32,
        momentum=0.9, decoupled=False, beta1=0.9, beta2=0.99, nu=1e-8,
    ):  # fmt: skip
        self.f = np.dtype(dtype).type
        self.x = np.array(x, dtype)
        self.sizes, self.n, self.seed, self.bucket = sizes, n, seed, bucket
        self.lam = decay
        self.mu, self.decoupled = momentum, decoupled
        self.beta1, self.beta2, self.nu = beta1, beta2, nu
        self.t = 0
        self.last_eta = 0.0  # eta_{-1} = 0 (Algorithms 2 to 4, line 1)
        self.signs = []
        for name in self.STATE[1:]:
            setattr(self, name, np.zeros_like(self.x))
        for name in self.WORKER:
            setattr(self, name, [np.zeros_like(self.x) for _ in range(n)])

    def round(self, g, eta):
        """One round over n gradients with step size ``eta``."""
        self.signs = []
        self.step([np.asarray(row, self.x.dtype) for row in g], eta)
        self.t += 1

    def step(self, g, eta):
        raise NotImplementedError

    def mean(self, vectors):
        """((c_0 + c_1) + c_2 + ...) times 1/n."""
        total = vectors[0]
        for vector in vectors[1:]:
            total = total + vector
        return total * self.f(1.0 / self.n)

    def C(self, v, who):
        """The blockwise scaled sign."""
        self.signs.append((who, v))
        return scaled_sign(v, self.sizes)

    def vote(self, v, who):
        """The unscaled sign."""
        self.signs.append((who, v))
        return unscaled_sign(v, self.seed, self.t, self.bucket, who)

    def sgd(self, u, eta):
        self.x = self.x - self.f(eta) * (u + self.f(self.lam) * self.x)

    def amsgrad(self, u, alpha):
        """CD-Adam, Algorithm 1, lines 13 to 16; nu inside the root, no bias correction."""
        f = self.f
        x = self.x
        if self.decoupled:
            x = f(1.0 - alpha * self.lam) * x
        else:
            u = u + f(self.lam) * x
        self.m = f(self.beta1) * self.m + f(1.0 - self.beta1) * u
        self.v = f(self.beta2) * self.v + f(1.0 - self.beta2) * (u * u)
        self.v_max = np.maximum(self.v_max, self.v)
        self.x = x - (f(alpha) * self.m) / np.sqrt(self.v_max + f(self.nu))


class Sgd(Algorithm):
    def step(self, g, eta):
        self.sgd(self.mean(g), eta)


class Sgdm(Algorithm):
    """torch.optim.SGD(nesterov=True) on the mean gradient."""

    STATE = ("x", "b")

    def step(self, g, eta):
        f = self.f
        d = self.mean(g) + f(self.lam) * self.x
        self.b = f(self.mu) * self.b + d
        self.x = self.x - f(eta) * (d + f(self.mu) * self.b)


class SignSgd(Algorithm):
    """Signs up, majority vote down: the sign of the sum of signs, a tie at random."""

    def outgoing(self, g, i):
        return g[i]

    def step(self, g, eta):
        votes = sum(self.vote(self.outgoing(g, i), i) for i in range(self.n))
        self.sgd(self.vote(votes, SERVER), eta)


class Signum(SignSgd):
    WORKER = ("m_local",)

    def outgoing(self, g, i):
        f = self.f
        self.m_local[i] = f(self.mu) * self.m_local[i] + f(1.0 - self.mu) * g[i]
        return self.m_local[i]


class DistEfSgd(Algorithm):
    """dist-EF-SGD, Algorithm 2; with the blockwise compressor Algorithm 3.

    Differs: weight decay (from the authors' experiments), and eta = 0, for which the paper's
    eta_{t-1} / eta_t has no value: nothing is sent, both errors stay, and eta_{t-1} of a later
    round is the last step size that was not zero.
    """

    STATE = ("x", "e_server")
    WORKER = ("e",)

    def outgoing(self, g, i):
        return g[i]  # line 4

    def update(self, delta, eta):
        self.sgd(delta, eta)  # line 7

    def step(self, g, eta):
        v = [self.outgoing(g, i) for i in range(self.n)]
        if eta == 0:
            self.update(np.zeros_like(self.x), eta)
            return
        rho = self.f(self.last_eta / eta)
        pushed = []
        for i in range(self.n):
            p = v[i] + rho * self.e[i]  # line 5 (Algorithm 4: line 6)
            delta = self.C(p, i)  # line 6
            self.e[i] = p - delta  # line 8
            pushed.append(delta)
        p = self.mean(pushed) + rho * self.e_server  # line 10
        delta = self.C(p, SERVER)  # line 11
        self.e_server = p - delta  # line 12
        self.update(delta, eta)
        self.last_eta = eta


class DistEfSgdm(DistEfSgd):
    """dist-EF-blockSGDM, Algorithm 4.

    Line 6 as printed leaves out g: p = mu m + rho e. The text of section 3.3 ("the compressed
    mu m + g + rho e is sent") and Lemma 3 have it, and so has this.
    """

    STATE = ("x", "e_server", "m_decay")
    WORKER = ("e", "m_local")

    def outgoing(self, g, i):
        mu = self.f(self.mu)
        self.m_local[i] = mu * self.m_local[i] + g[i]  # line 5
        return mu * self.m_local[i] + g[i]  # line 6, without rho e

    def update(self, delta, eta):
        mu, lam = self.f(self.mu), self.f(self.lam)
        self.m_decay = mu * self.m_decay + lam * self.x
        self.x = self.x - self.f(eta) * ((delta + mu * self.m_decay) + lam * self.x)  # line 8


class AmsGrad(Algorithm):
    STATE = ("x", "m", "v", "v_max")

    def step(self, g, eta):
        self.amsgrad(self.mean(g), eta)


class AmsGradNaive(AmsGrad):
    """CD-Adam, section 7.1: compressed both ways, nothing remembered."""

    def step(self, g, eta):
        pushed = [self.C(g[i], i) for i in range(self.n)]
        self.amsgrad(self.C(self.mean(pushed), SERVER), eta)


class AmsGradEf(AmsGrad):
    """CD-Adam, section 7.1: classical error feedback both ways; rho is 1."""

    STATE = ("x", "m", "v", "v_max", "e_server")
    WORKER = ("e",)

    def step(self, g, eta):
        pushed = []
        for i in range(self.n):
            p = g[i] + self.e[i]
            c = self.C(p, i)
            self.e[i] = p - c
            pushed.append(c)
        p = self.mean(pushed) + self.e_server
        c = self.C(p, SERVER)
        self.e_server = p - c
        self.amsgrad(c, eta)


class CdAdam(AmsGrad):
    """CD-Adam, Algorithm 1, the server holding r = g-hat - g-tilde alone (DESIGN section 2).

    Lines 8 to 10 need only this difference: g-hat + mean(c_i) - g-tilde = r + mean(c_i), and
    after both updates it is that minus c. In real numbers nothing changes; in float32 the order of
    roundings does, so this order is what psrv specifies, and ``CdAdamApart`` is the paper's.
    """

    STATE = ("x", "m", "v", "v_max", "g_tilde", "r")
    WORKER = ("h",)

    def step(self, g, eta):
        pushed = self.push(g)
        r = self.mean(pushed) + self.r
        c = self.C(r, SERVER)
        self.r = r - c
        self.g_tilde = self.g_tilde + c  # line 12
        self.amsgrad(self.g_tilde, eta)

    def push(self, g):
        """Lines 5 and 6; h is g-hat^(i)."""
        pushed = []
        for i in range(self.n):
            c = self.C(g[i] - self.h[i], i)
            self.h[i] = self.h[i] + c
            pushed.append(c)
        return pushed


class CdAdamApart(CdAdam):
    """CD-Adam, Algorithm 1, line by line: g-hat and g-tilde are stored apart."""

    STATE = ("x", "m", "v", "v_max", "g_tilde", "g_hat")

    def step(self, g, eta):
        pushed = self.push(g)
        self.g_hat = self.g_hat + self.mean(pushed)  # line 8
        c = self.C(self.g_hat - self.g_tilde, SERVER)  # line 9
        self.g_tilde = self.g_tilde + c  # lines 10 and 12
        self.amsgrad(self.g_tilde, eta)


ALGORITHMS = {
    "sgd": Sgd,
    "sgdm": Sgdm,
    "signsgd": SignSgd,
    "signum": Signum,
    "dist-ef-sgd": DistEfSgd,
    "dist-ef-sgdm": DistEfSgdm,
    "amsgrad": AmsGrad,
    "amsgrad-naive": AmsGradNaive,
    "amsgrad-ef": AmsGradEf,
    "cd-adam": CdAdam,
}


# --- a model of several tensors -----------------------------------------------------------------


def cut(tensors, blocks, bucket_floats=1 << 20):
    """How a model is cut: (start, stop, group, block sizes) of every bucket.

    Args:
        tensors: (name, shape, group) in forward order; the flat vector has the last one first.
        blocks: coordinates in a block, "tensor" or "global".
        bucket_floats: a bucket is closed before it would hold more.
    """
    runs = []
    for _, shape, group in reversed(tensors):
        size = prod(shape)
        step = size if isinstance(blocks, str) else blocks
        runs += [(group, min(step, size - at)) for at in range(0, size, step)]
    if blocks == "global":
        runs = [(runs[0][0], sum(size for _, size in runs))]
    buckets = []
    for group, size in runs:
        full = buckets and sum(buckets[-1][1]) + size > bucket_floats
        if not buckets or buckets[-1][0] != group or full:
            buckets.append((group, []))
        buckets[-1][1].append(size)
    cuts, start = [], 0
    for group, sizes in buckets:
        cuts.append((start, start + sum(sizes), group, sizes))
        start += sum(sizes)
    return cuts


def flat(tensors, arrays):
    """Arrays by name, as one vector: the last tensor first."""
    return np.concatenate([np.ravel(arrays[name]) for name, _, _ in reversed(tensors)])


class Model:
    """One ``Algorithm`` for each bucket of a model.

    Args:
        kind: a class above.
        cuts: from ``cut``.
        x: the flat vector at the start.
        decays: weight decay of each group.
    """

    def __init__(self, kind, cuts, x, n, decays, dtype=np.float32, **options):
        self.cuts = cuts
        self.parts = [
            kind(x[start:stop], sizes, n, bucket=b, decay=decays[group], dtype=dtype, **options)
            for b, (start, stop, group, sizes) in enumerate(cuts)
        ]

    def round(self, g, etas):
        """One round over n flat gradients; ``etas`` has a step size for each group."""
        for part, (start, stop, group, _) in zip(self.parts, self.cuts, strict=True):
            part.round([row[start:stop] for row in g], etas[group])

    def get(self, name, rank=None):
        """A state vector as one flat vector; ``rank`` for a worker's own."""
        vectors = [getattr(part, name) for part in self.parts]
        return np.concatenate([v if rank is None else v[rank] for v in vectors])

    def put(self, name, vector, rank=None):
        """Replace a state vector by a flat one, in this model's dtype."""
        for part, (start, stop, _, _) in zip(self.parts, self.cuts, strict=True):
            piece = np.array(vector[start:stop], part.x.dtype)
            if rank is None:
                setattr(part, name, piece)
            else:
                getattr(part, name)[rank] = piece
