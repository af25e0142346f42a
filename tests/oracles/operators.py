"""The papers' random and sparse compressors, as operators on vectors: no payloads here.

Written from the permutation paper's definitions: 5 and 6 (perm-k), 7 (its block form), Appendix M
(groups), A.1 (rand-k, top-k) and Lemma 9 (quantisers). Differs: permuted are runs of coordinates,
of which a single coordinate is one kind, and Q acts on the chosen values, after C and not before.

In float64 an operator is its definition, and a mean is the sum over n. In float32 they multiply in
the order of ``docs/payloads.md``, sections 10 to 13, so that psrv can be compared bit for bit.
Permutations, indices and rounding bits are of that page's generator, from ``tests/reference_*``.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

import numpy as np

from codec_reference import Draw, key_of, word_of
from reference_permk import ASSIGNMENT, PERMUTATION, images_of
from reference_sparse import CHOICE, ROUNDING
from reference_values import from_natural, natural_exponents, random_bits

COIN = 6


def heads(seed, round, p):
    """MARINA, Algorithm 1, line 4: theta ~ Be(p), drawn by everybody alike."""
    return (word_of(key_of(seed, COIN, round, 0, 0), 0) >> 11) * 2.0**-53 < p


@lru_cache(maxsize=64)
def permutation(key, m):
    """pi_0 to pi_{m-1}; all workers of a round ask for the same one."""
    return images_of(key, m, range(m))


def quantise(values, form, draw):
    """Q of the chosen values, in the order in which they are sent."""
    if form == "natural":
        bits = random_bits(draw.own(ROUNDING), values.size)
        exponents = natural_exponents(values, bits)
        return from_natural(exponents, np.signbit(values)).astype(values.dtype)
    if form == "bf16":  # round to nearest, ties to even, of numbers that are not huge
        bits = values.astype(np.float32).view(np.uint32)
        bits = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return (bits & np.uint32(0xFFFF0000)).view(np.float32).astype(values.dtype)
    assert form == "float32", form
    return values


class Operator:
    """C_i of worker i in a round.

    Args:
        form: the quantiser of the chosen values.
        contracted: C / (1 + omega), which error feedback and Markov memory use.
    """

    def __init__(self, form="float32", contracted=False):
        self.form, self.contracted = form, contracted
        self.noise = Fraction(1, 8) if form == "natural" else Fraction(0)

    def chosen(self, x, draw):
        """The coordinates that are sent, in order, and the factor that makes C unbiased."""
        raise NotImplementedError

    def factor(self, unbiased):
        return 1 / (1 + self.noise) if self.contracted else unbiased

    def __call__(self, x, draw, share=None):
        """C_i(x); with ``share`` the factor is that much of it, in one rounding."""
        own, unbiased = self.chosen(x, draw)
        factor = self.factor(unbiased) if share is None else self.factor(unbiased) * share
        out = np.zeros_like(x)
        out[own] += x.dtype.type(float(factor)) * quantise(x[own], self.form, draw)
        return out

    def mean(self, vectors, draws):
        """1/n sum_i C_i(a_i)."""
        total = np.zeros_like(vectors[0])
        for a, draw in zip(vectors, draws, strict=True):
            total = total + self(a, draw)
        return total * total.dtype.type(1.0 / len(vectors))


class TopK(Operator):
    """The K coordinates of largest magnitude; of equal ones the first."""

    def __init__(self, amount, form="float32", contracted=False):
        super().__init__(form, contracted)
        self.amount = amount

    def count(self, d):
        if isinstance(self.amount, int):
            return min(self.amount, d)
        return max(1, round(self.amount * d))

    def chosen(self, x, draw):
        order = np.argsort(-np.abs(x), kind="stable")
        return np.sort(order[: self.count(x.size)]), Fraction(1)


class RandK(TopK):
    """K coordinates at random, times d / K: each worker on its own."""

    def chosen(self, x, draw):
        k = self.count(x.size)
        return images_of(draw.own(CHOICE), x.size, range(k)), Fraction(x.size, k)


class PermK(Operator):
    """The n workers of a round divide the coordinates by a permutation that all of them know."""

    def __init__(self, form="float32", contracted=False, run=None, groups=1, blocks=None):
        super().__init__(form, contracted)
        self.run, self.groups, self.blocks = run, groups, blocks

    def chosen(self, x, draw):
        group, i, n = self.place(draw)
        pi_n = permutation(draw.shared(ASSIGNMENT, group), n)
        if self.blocks is not None:
            edges = tuple(b * x.size // self.blocks for b in range(self.blocks + 1))
            return definition_7(parts(edges), pi_n, i)
        length = self.run or (16 if x.size >= 1 << 16 else 1)
        units = parts((*range(0, x.size, length), x.size))
        if len(units) < n:
            return definition_6(units, pi_n, i)
        pi_d = permutation(draw.shared(PERMUTATION, group), len(units))
        return definition_5(units, pi_d, pi_n, i)

    def place(self, draw):
        """The worker's group, its place i in it, and how many members n that has."""
        members = np.array_split(np.arange(draw.workers), self.groups)
        (group,) = [k for k, ranks in enumerate(members) if draw.rank in ranks]
        return group, draw.rank - int(members[group][0]), members[group].size

    def mean(self, vectors, draws):
        """1/n sum_i C_i(a_i); in float32, factor / n is one number: 1 with one owner each."""
        if vectors[0].dtype == np.float64 or self.contracted:
            return super().mean(vectors, draws)
        total = np.zeros_like(vectors[0])
        for a, draw in zip(vectors, draws, strict=True):
            total = total + self(a, draw, share=Fraction(1, len(vectors)))
        return total


@lru_cache(maxsize=64)
def parts(edges):
    """The coordinates between each two edges."""
    return [np.arange(start, stop) for start, stop in pairwise(edges)]


def definition_5(units, pi_d, pi_n, i):
    """d >= n, d = k n + r: the units pi_{k(i-1)+1} to pi_{ki}, and S(x)_{pi_i}, times n."""
    n = len(pi_n)
    k, r = divmod(len(units), n)
    own = [units[pi_d[j]] for j in range(k * i, k * i + k)]
    S = [pi_d[k * n + j] for j in range(r)] + [None] * (n - r)
    if S[pi_n[i]] is not None:
        own.append(units[S[pi_n[i]]])
    return np.concatenate(own), Fraction(n)


def definition_6(units, pi, i):
    """n >= d, n = q d + r: S holds each unit q times, then r zeros; C_i = n/q S_{pi_i}."""
    n, d = len(pi), len(units)
    q, r = divmod(n, d)
    S = [unit for unit in units for _ in range(q)] + [np.zeros(0, np.int64)] * r
    return S[pi[i]], Fraction(n, q)


def definition_7(P, pi, i):
    """n = m q + r: A_{(l-1)q+1} to A_{lq} are n/q Diag(P_l), the last r are 0; C_i = A_{pi_i}."""
    n, m = len(pi), len(P)
    q = n // m
    A = [np.zeros(0, np.int64)] * n
    for part in range(m):
        for copy in range(q):
            A[part * q + copy] = P[part]
    return A[pi[i]], Fraction(n, q)


def operator(spec, contracted=False):
    """The operator that a spec such as ``perm-k:groups=2/natural`` names."""
    spec, _, form = spec.partition("/")
    name, _, argument = spec.partition(":")
    form = form or "float32"
    if name == "perm-k":
        pairs = (item.split("=") for item in argument.split(",") if item)
        return PermK(form, contracted, **{key: int(value) for key, value in pairs})
    amount = float(argument) if "." in argument else int(argument)
    return {"top-k": TopK, "rand-k": RandK}[name](amount, form, contracted)


def draws(seed, round, bucket, n):
    """Where worker 0 to n - 1 take their randomness from."""
    return [Draw(seed, round, bucket, rank, n) for rank in range(n)]
