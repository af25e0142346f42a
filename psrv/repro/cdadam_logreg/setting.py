"""What is run: the sets, methods and step sizes, quick and in full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

METHODS: Mapping[str, str] = MappingProxyType(
    {
        "amsgrad": "uncompressed",
        "amsgrad-naive": "naive",
        "amsgrad-ef": "error feedback",
        "cd-adam": "CD-Adam",
    }
)
"""The four of Figures 2 and 4, by psrv's names, with what they are called here."""

COMPRESSORS: Mapping[str, str] = MappingProxyType({"sign": "sign", "top-1": "top-k:1"})
"""The compressor of a figure, by its name here."""

SHUFFLED = "shuffled"
"""The order of rows beside ``file``, which is where the rows stay as published."""

COMMON = 1e-3
"""The step size at which all methods are compared without a choice: the paper's first."""

PAPER_STEPS = (0.001, 0.003, 0.005, 0.007, 0.009)
""".001, then .002 more at a time as long as .01 is not passed."""

LANES = 8


@dataclass(frozen=True)
class Setting:
    """One size of the experiment.

    Attributes:
        sets: names of LIBSVM files. workers: n.
        rounds: T of all runs. longer: T of error feedback and CD-Adam where a claim needs another
            one, by set.
        top_rounds: T of all runs with top-1.
        steps: step sizes among which each method's best is chosen.
        shuffled: the set on which the order of rows is also drawn at random; "" for none.
        socket_sets, socket_rounds, socket_kinds: which chosen runs go over sockets, and T there.
        every: rounds between recorded norms.
    """

    sets: tuple[str, ...]
    rounds: int
    top_rounds: int
    longer: Mapping[str, int]
    steps: tuple[float, ...]
    shuffled: str
    socket_sets: tuple[str, ...]
    socket_rounds: int
    socket_kinds: tuple[str, ...]
    workers: int = 20
    every: int = 25

    def rounds_of(self, dataset: str, kind: str, method: str, order: str = "file") -> int:
        """T of one run."""
        if kind == "top-1":
            return self.top_rounds
        long = method in ("amsgrad-ef", "cd-adam") and order == "file"
        return max(self.rounds, self.longer.get(dataset, 0)) if long else self.rounds

    def against_ef(self, dataset: str) -> int:
        """The round at which error feedback and CD-Adam are compared."""
        return self.longer.get(dataset, self.rounds)


SETS = ("phishing", "mushrooms", "a9a", "w8a")
LONGER = MappingProxyType({"phishing": 2000, "w8a": 4000, "a9a": 6000})

QUICK = Setting(
    sets=SETS,
    rounds=3000,
    top_rounds=2000,
    longer=LONGER,
    steps=(0.001, 0.002, 0.007, 0.01),
    shuffled="mushrooms",
    socket_sets=("phishing", "mushrooms"),
    socket_rounds=100,
    socket_kinds=("sign",),
)

FULL = Setting(
    sets=SETS,
    rounds=3000,
    top_rounds=3000,
    longer=LONGER,
    steps=tuple(step / 1000 for step in range(1, 11)),
    shuffled="mushrooms",
    socket_sets=SETS,
    socket_rounds=3000,
    socket_kinds=("sign", "top-1"),
)
