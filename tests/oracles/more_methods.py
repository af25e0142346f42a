"""MARINA, EF21 one and two ways, 1-bit Adam and DoubleSqueeze: ``reference.py`` continued.

Sources: the permutation paper, Algorithm 1 and Appendix B (MARINA) and Appendix E (EF21 of
Richtarik, Sokolov and Fatkhullin 2021); the CD-Adam paper, section 7.2, for EF21 two ways and 1-bit
Adam (Tang et al. 2021); Tang et al. 2019 for DoubleSqueeze; DESIGN section 5 where they are silent.

A round t here takes the gradients at x^t and ends with x^{t+1}, so that MARINA's coin of round t
decides the message of round t; the paper draws the same coin in round t - 1. Round 0 is dense.
"""

from __future__ import annotations

import numpy as np

from oracles.operators import draws, heads, operator
from oracles.reference import ALGORITHMS as FIRST
from oracles.reference import SERVER, Algorithm


class Compressed(Algorithm):
    """An algorithm whose workers use a sparse compressor: ``self.up``, and down ``self.down``.

    ``contracted``: whether its compressors are used as C / (1 + omega).
    """

    contracted = True

    def __init__(self, *args, up="top-k:0.1", down="dense", init="dense", probability=None, **more):
        super().__init__(*args, **more)
        self.up = operator(up, self.contracted)
        self.down = None if down == "dense" else operator(down, self.contracted)
        self.init, self.p = init, probability

    def draws(self):
        return draws(self.seed, self.t, self.bucket, self.n)

    def server_draw(self):
        return self.draws()[0]._replace(rank=SERVER, workers=1)


class Marina(Compressed):
    """Algorithm 1 of the permutation paper; g_hat is g^t, previous is grad f_i(x^{t-1})."""

    STATE = ("x", "g_hat")
    WORKER = ("previous",)
    contracted = False

    def step(self, g, eta):
        if self.t == 0 or heads(self.seed, self.t, self.p):  # lines 2 and 4
            self.g_hat = self.mean(g)  # line 8, theta = 1, and line 10
        else:
            differences = [g[i] - self.previous[i] for i in range(self.n)]
            # Line 8, theta = 0, and line 10: the mean of g^t + C_i(..) is g^t plus their mean.
            self.g_hat = self.g_hat + self.up.mean(differences, self.draws())
        self.sgd(self.g_hat, eta)  # line 7
        self.previous = [row.copy() for row in g]


class Ef21(Compressed):
    """EF21: g_i <- g_i + C(grad f_i(x) - g_i); the server keeps their mean.

    The first round: g_i = grad f_i(x^0), or with ``init=compressed`` C(grad f_i(x^0)).
    """

    STATE = ("x", "g_hat")
    WORKER = ("h",)

    def push(self, g):
        """The mean of what the workers send; each adds it to its own g_i."""
        if self.t == 0 and self.init == "dense":
            self.h = [self.h[i] + g[i] for i in range(self.n)]  # h is 0, so that -0 becomes +0
            return self.mean(g)
        pushed = []
        for i in range(self.n):
            c = self.up(g[i] - self.h[i], self.draws()[i])
            self.h[i] = self.h[i] + c
            pushed.append(c)
        return self.mean(pushed)

    def step(self, g, eta):
        self.g_hat = self.g_hat + self.push(g)
        self.sgd(self.g_hat, eta)


class Ef21TwoWay(Ef21):
    """EF21 with a Markov sequence on the way back too; the server holds r = g_hat - g_tilde."""

    STATE = ("x", "g_tilde", "r")

    def back(self, r):
        """What the server sends of r."""
        if self.t == 0 and self.init == "dense":
            return r.copy()
        return self.down(r, self.server_draw())

    def step(self, g, eta):
        r = self.push(g) + self.r
        c = self.back(r)
        self.r = r - c
        self.g_tilde = self.g_tilde + c
        self.sgd(self.g_tilde, eta)


class Ef21TwoWayApart(Ef21TwoWay):
    """The same with g_hat and g_tilde stored apart."""

    STATE = ("x", "g_tilde", "g_hat")

    def step(self, g, eta):
        self.g_hat = self.g_hat + self.push(g)
        self.g_tilde = self.g_tilde + self.back(self.g_hat - self.g_tilde)
        self.sgd(self.g_tilde, eta)


class BothWays(Algorithm):
    """Classical error feedback in both directions: the errors are never rescaled."""

    def both_ways(self, vectors):
        """What all receive; C is the blockwise scaled sign."""
        pushed = []
        for i in range(self.n):
            p = vectors[i] + self.e[i]
            c = self.C(p, i)
            self.e[i] = p - c
            pushed.append(c)
        p = self.mean(pushed) + self.e_server
        c = self.C(p, SERVER)
        self.e_server = p - c
        return c


class OnebitAdam(BothWays):
    """1-bit Adam: T_1 rounds of Adam on dense gradients, then momentum over a frozen variance.

    Adam without bias correction. lambda x is added to u, later as (1 - beta_1) lambda x to m: what
    it would be if nothing were compressed. ``decoupled``: AdamW's form in both.
    Coordinates frozen at v = 0 keep m = 0: m / (0 + eps) would be a step of another size.
    """

    STATE = ("x", "m", "v", "e_server")
    WORKER = ("e",)

    def __init__(self, *args, warmup=1, eps=1e-8, **more):
        super().__init__(*args, **more)
        self.warmup, self.eps = warmup, eps

    def step(self, g, alpha):
        f, x = self.f, self.x
        beta1, rest1 = f(self.beta1), f(1.0 - self.beta1)
        lam = 0.0 if self.decoupled else self.lam
        if self.t < self.warmup:
            u = self.mean(g) + f(lam) * x
            self.m = beta1 * self.m + rest1 * u
            self.v = f(self.beta2) * self.v + f(1.0 - self.beta2) * (u * u)
        else:
            u = self.both_ways([beta1 * self.m + rest1 * row for row in g])
            self.m = np.where(self.v == 0, f(0), u + f((1.0 - self.beta1) * lam) * x)
        if self.decoupled:
            x = f(1.0 - alpha * self.lam) * x
        self.x = x - (f(alpha) * self.m) / (np.sqrt(self.v) + f(self.eps))


class DoubleSqueeze(BothWays):
    """The gradient both ways, and SGD."""

    STATE = ("x", "e_server")
    WORKER = ("e",)

    def step(self, g, eta):
        self.sgd(self.both_ways(g), eta)


ALGORITHMS = FIRST | {
    "marina": Marina,
    "ef21": Ef21,
    "ef21-two-way": Ef21TwoWay,
    "onebit-adam": OnebitAdam,
    "double-squeeze": DoubleSqueeze,
}

SPARSE = ("marina", "ef21", "ef21-two-way")
"""Methods whose compressor is sparse in the preset."""
