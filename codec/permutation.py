"""Who owns which coordinates in a round of perm-k, without a message or a table.

The d coordinates are cut into R runs of L (the last may be shorter), or into M contiguous
parts of nearly equal size. Workers are cut into G contiguous groups; in each, n members
divide all coordinates among themselves, independently of the other groups. With pi on
[0, R) and pi_n on [0, n) the group's two bijections of the round (``codec/bijection.py``):

    R >= n, R = k n + r   member i owns runs pi(k i), ..., pi(k i + k - 1), and run
                          pi(k n + j) where j = pi_n(i) < r. Every run has one owner.
    R < n,  n = q R + r   j = pi_n(i): member i owns run j // q, or is idle if j >= q R.
                          Every run has q owners. Parts are always divided in this way.

What a member sends has to be multiplied by n, or by n / q, for the group's mean to be
unbiased.

Source: Szlendak, Tyurin and Richtarik 2022, "Permutation compressors for provably faster
distributed nonconvex optimization", Definitions 5, 6 and 7 (block form) and Appendix M
(groups). Differs: runs of coordinates are permuted instead of coordinates, which their
proofs allow, since all that they use of pi is that each coordinate's owner is uniform.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from psrv.codec import bijection, scratch
from psrv.codec.base import address
from psrv.codec.rng import SERVER, Draw, Purpose
from psrv.errors import CodecError, ConfigError

LARGEST = (1 << 31) - 1
"""Coordinates of a bucket, so that each has a number in int32."""

LARGE, RUN = 1 << 16, 16
"""From so many coordinates on, runs of 16 (a cache line of float32) unless asked otherwise.
Far below the 2^20 of a full bucket, since few buckets are quite full."""


@dataclass(frozen=True, slots=True)
class Split:
    """How the coordinates of a bucket are divided among the members of a group.

    Attributes:
        dimension: d. members: n.
        length: L; 0 where there are parts instead of runs.
        runs: R runs, or M parts.
        each, over: k and r where every run has one owner, else 0.
        owners: q, of every run.
    """

    dimension: int
    members: int
    length: int
    runs: int
    each: int
    over: int
    owners: int

    @property
    def gain(self) -> float:
        """What values are multiplied by so that the group's mean is unbiased."""
        return self.members / self.owners

    @property
    def most(self) -> int:
        """The most values that a member owns in any round."""
        if self.each:
            return min(self.dimension, (self.each + (self.over > 0)) * self.length)
        return max(self.size(0), self.size(self.runs - 1))

    @property
    def constant(self) -> float:
        """A = B of the paper's inequality: Theorems 8 and 9, Lemma 10."""
        n, q = self.members, self.owners
        return 1.0 if q == 1 else 1 - n * (q - 1) / ((n - 1) * q)

    def start(self, run: int) -> int:
        """The first coordinate of a run or part."""
        return run * self.length if self.length else run * self.dimension // self.runs

    def size(self, run: int) -> int:
        """Coordinates of a run or part."""
        stop = self.dimension if run == self.runs - 1 else self.start(run + 1)
        return stop - self.start(run)


@lru_cache(maxsize=256)
def split_of(dimension: int, members: int, run: int | None, parts: int | None) -> Split:
    """Divide d coordinates among n members in runs of ``run``, or in ``parts`` parts.

    Raises:
        ConfigError: more parts than members or coordinates, or more coordinates than 2^31 - 1.
    """
    if dimension > LARGEST:
        raise ConfigError(f"perm-k takes up to {LARGEST} coordinates a bucket, got {dimension}")
    if parts is not None:
        if parts > members or parts > dimension:
            raise ConfigError(
                f"perm-k with {parts} blocks needs as many senders in every group and as many "
                f"coordinates, and there are {members} and {dimension}"
            )
        return Split(dimension, members, 0, parts, 0, 0, members // parts)
    length = run or (RUN if dimension >= LARGE else 1)
    runs = -(-dimension // length)
    if runs >= members:
        return Split(dimension, members, length, runs, *divmod(runs, members), 1)
    return Split(dimension, members, length, runs, 0, 0, members // runs)


class Deal:
    """What each member of one group owns in one round.

    Attributes:
        split: of the coordinates.
    """

    def __init__(self, split: Split, group: int, draw: Draw) -> None:
        self.split = split
        self._run_key = draw.shared(Purpose.PERMUTATION, group)
        self._member_key = draw.shared(Purpose.ASSIGNMENT, group)
        self._places: list[int] | None = None
        self._short: int | None = None

    def place_all(self) -> None:
        """Find the places of all members at once; for a caller that asks for each of them."""
        places = np.empty(self.split.members, np.int32)
        bijection.images(np.uint64(self._member_key), places.size, 0, places.size, address(places))
        self._places = places.tolist()

    def _place(self, member: int) -> int:
        """pi_n of a member."""
        if self._places is not None:
            return self._places[member]
        return bijection.image(self._member_key, self.split.members, member)

    def values(self, member: int) -> int:
        """How many coordinates a member owns; found without its runs, in O(1)."""
        s = self.split
        if not s.each:
            place = self._place(member)
            return s.size(place // s.owners) if place < s.owners * s.runs else 0
        place = self._place(member) if s.over else s.members
        count = (s.each + (place < s.over)) * s.length
        missing = s.runs * s.length - s.dimension
        if missing:
            if self._short is None:
                self._short = bijection.preimage(self._run_key, s.runs, s.runs - 1)
            owned = self._short - s.each * member
            if 0 <= owned < s.each or self._short - s.each * s.members == place:
                count -= missing
        return count

    def starts(self, member: int) -> tuple[NDArray[np.int32], int]:
        """The first coordinate of each run that a member owns, in the order of its payload.

        Returns:
            int32[number of runs], in scratch memory until the next call, and how long runs are:
            one that would reach beyond d ends there.
        """
        s = self.split
        place = self._place(member) if s.over or not s.each else s.members
        if not s.each:
            if place >= s.owners * s.runs:
                return scratch.array("run starts", 0, np.int32), 1
            run = place // s.owners
            starts = scratch.array("run starts", 1, np.int32)
            starts[0] = s.start(run)
            return starts, s.size(run)
        starts = scratch.array("run starts", s.each + (place < s.over), np.int32)
        key, at = np.uint64(self._run_key), address(starts)
        bijection.images(key, s.runs, s.each * member, s.each, at)
        if place < s.over:
            bijection.images(key, s.runs, s.each * s.members + place, 1, at + 4 * s.each)
        if s.length > 1:
            np.multiply(starts, s.length, out=starts)
        return starts, s.length


@dataclass(frozen=True, slots=True)
class Group:
    """Ranks ``first`` to ``first + members - 1``, group ``index`` of all."""

    index: int
    first: int
    members: int


@lru_cache(maxsize=64)
def groups_of(workers: int, count: int) -> tuple[Group, ...]:
    """``count`` contiguous groups; the first workers mod count have one member more.

    Raises:
        ConfigError: more groups than workers.
    """
    if not 1 <= count <= workers:
        raise ConfigError(f"perm-k with {count} groups needs as many senders, got {workers}")
    size, more = divmod(workers, count)
    firsts = [g * size + min(g, more) for g in range(count + 1)]
    return tuple(Group(g, firsts[g], firsts[g + 1] - firsts[g]) for g in range(count))


@dataclass(frozen=True, slots=True)
class Division:
    """The rule by which the senders of a round divide a bucket.

    Attributes:
        run: L; None for ``RUN`` in buckets of ``LARGE`` coordinates and more, else 1.
        groups: G.
        parts: M, or None for runs.
    """

    run: int | None = None
    groups: int = 1
    parts: int | None = None

    def splits(self, dimension: int, workers: int) -> list[Split]:
        """How each group divides the coordinates; ``ConfigError`` if one cannot."""
        groups = groups_of(workers, self.groups)
        return [split_of(dimension, g.members, self.run, self.parts) for g in groups]

    def deal(self, dimension: int, draw: Draw) -> tuple[Deal, int]:
        """What the members of the sender's group own in that round, and which one it is."""
        group = self._group(draw)
        split = split_of(dimension, group.members, self.run, self.parts)
        return Deal(split, group.index, draw), _rank(draw) - group.first

    def deals(self, dimension: int, draws: Sequence[Draw]) -> list[tuple[Deal, int]]:
        """``deal`` of each draw, with less work where they are of one round."""
        made: dict[tuple[int, ...], Deal] = {}
        found = []
        for draw in draws:
            group = self._group(draw)
            key = (draw.seed, draw.round, draw.bucket, group.index, group.first, group.members)
            deal = made.get(key)
            if deal is None:
                split = split_of(dimension, group.members, self.run, self.parts)
                deal = made[key] = Deal(split, group.index, draw)
                if len(draws) > 1:
                    deal.place_all()
            found.append((deal, _rank(draw) - group.first))
        return found

    def complete(self, draws: Sequence[Draw]) -> tuple[Group, ...] | None:
        """The groups, where the draws are those of every rank of one round in order."""
        first = draws[0]
        workers = _senders(first)
        ranks = [SERVER] if first.rank == SERVER else range(workers)
        same = [Draw(first.seed, first.round, first.bucket, r, first.workers) for r in ranks]
        return groups_of(workers, self.groups) if list(draws) == same else None

    def _group(self, draw: Draw) -> Group:
        groups, rank = groups_of(_senders(draw), self.groups), _rank(draw)
        if not 0 <= rank < _senders(draw):
            raise CodecError(f"perm-k of {draw.workers} senders has no rank {draw.rank}")
        found = rank // groups[0].members  # groups behind the first may be smaller
        while rank >= groups[found].first + groups[found].members:
            found += 1
        return groups[found]


def _senders(draw: Draw) -> int:
    """Among how many the vector is divided: the server has it for itself."""
    return 1 if draw.rank == SERVER else draw.workers


def _rank(draw: Draw) -> int:
    return 0 if draw.rank == SERVER else draw.rank
