"""``perm-quadratic``: MARINA with perm-k and rand-k, EF21 with top-k, on tridiagonal quadratics.

cells.py   the problems, searches and races
show.py    curves, tables and claims

Source: Szlendak, Tyurin and Richtarik 2022 (permutation compressors), section 5.1, Figure 1,
and A.1 to A.4, Figures 3 to 7, Algorithm 2.
"""

from __future__ import annotations

from typing import Any

from psrv.repro.experiment import Experiment
from psrv.repro.perm_quadratic import show
from psrv.repro.perm_quadratic.cells import (
    COMPRESSORS,
    method_of,
    race_cell,
    search_cell,
    task_spec,
)
from psrv.repro.perm_quadratic.show import Found, Key, Races
from psrv.repro.study import Study

WORKERS = {False: (10, 1000), True: (10, 1000, 10000)}
NOISES = (0.0, 0.05, 0.1, 0.2, 0.8)
GUESSES = {
    10: {"perm-k": 1.0, "rand-k": 2.0, "top-k": 16.0},
    1000: {"perm-k": 1.0, "rand-k": 8.0, "top-k": 128.0},
    10000: {"perm-k": 1.0, "rand-k": 8.0, "top-k": 128.0},
}
"""Where a search begins; it goes from there as far as it needs."""
APART = 0.8, 4.0
"""The noise at which perm-k's and, for many workers, top-k's search begins with so many times
the guess."""

PATIENCE = 3.0
"""Top-k of many workers, whose rounds are dear, is given up after so many times perm-k's bits:
it then needs more than that."""

SPREAD = 2
"""Times as many seeds where n = 1,000: there a dense round is 1,000 compressed ones, and how
often the coin gives one decides most of a run's bits."""

HARD = (1000, 0.8, 1e-6)
HARD_TUNED, HARD_SPREAD = 2, 4
"""The problem where perm-k leads rand-k least, and the bits of seeds differ tenfold: the mean over
three seeds is half that over 48. There steps are tuned on so many times the usual number of seeds,
and raced on so many times."""

EVERY = 10
ROUNDS = {False: 120_000, True: 200_000}
SOCKETS = {False: (0.1,), True: NOISES}
"""The noise of the problems that n = 10 processes run as well."""

Problem = tuple[int, float, float]
"""Workers, noise, lambda."""


def run(study: Study) -> None:
    """Search, race, repeat over sockets, show."""
    lams = (1e-6, 1e-4) if study.full else (1e-6,)
    problems = [(n, noise, lam) for lam in lams for n in WORKERS[study.full] for noise in NOISES]
    # The longest searches first, so that no core is left with one of them alone.
    problems.sort(key=lambda problem: (problem[0], problem[1]), reverse=True)
    rounds = ROUNDS[study.full]
    found: Found = {}
    limits: dict[Key, float] = {}

    def seek(compressors: tuple[str, ...], chosen: list[Problem]) -> None:
        settings: dict[str, dict[str, Any]] = {}
        for n, noise, lam in chosen:
            for compressor in compressors:
                limit = float("inf")
                perm = found.get((n, noise, lam, "perm-k"), {}).get("score")
                if compressor == "top-k" and n > 10 and perm is not None:
                    limit = PATIENCE * perm
                limits[n, noise, lam, compressor] = limit
                settings[_name(n, noise, lam, compressor)] = {
                    "n": n,
                    "noise": noise,
                    "lam": lam,
                    "compressor": compressor,
                    "start": _guess(n, noise, compressor),
                    # EF21 draws nothing: every seed is the same run.
                    "seeds": 1 if compressor == "top-k" else _tuned_on(study, (n, noise, lam)),
                    "rounds": rounds,
                    "every": EVERY,
                    "most_bits": limit,
                }
        for result, given in zip(
            study.cells(search_cell, settings).values(), settings.values(), strict=True
        ):
            found[given["n"], given["noise"], given["lam"], given["compressor"]] = result

    study.stage("step sizes of perm-k and rand-k")
    seek(("perm-k", "rand-k"), problems)
    study.stage("step sizes of top-k")
    seek(("top-k",), problems)

    study.stage("races at the best step sizes")
    settings = {}
    for (n, noise, lam, compressor), result in found.items():
        # Those of a search are the races of the first seeds; one that did not arrive ended it.
        done = len(result["races"])
        if compressor == "top-k" or result["score"] is None:
            continue
        for seed in range(done, _raced_on(study, (n, noise, lam))):
            settings[f"{_name(n, noise, lam, compressor)}-{seed}"] = {
                "n": n,
                "noise": noise,
                "lam": lam,
                "compressor": compressor,
                "multiplier": result["best"],
                "seed": seed,
                "rounds": rounds,
                "every": EVERY,
                "most_bits": limits[n, noise, lam, compressor],
            }
    raced = study.cells(race_cell, settings)
    races: Races = {key: list(result["races"]) for key, result in found.items()}
    for name, given in settings.items():
        key = (given["n"], given["noise"], given["lam"], given["compressor"])
        races[key].append(raced[name])

    study.stage("n = 10 over sockets")
    sockets = _over_sockets(study, found, races)
    show.everything(study, found, races, limits, sockets)


def _guess(n: int, noise: float, compressor: str) -> float:
    """Where a search begins."""
    apart, times = APART
    larger = noise == apart and (compressor == "perm-k" or (compressor == "top-k" and n > 10))
    return GUESSES[n][compressor] * (times if larger else 1)


def _tuned_on(study: Study, problem: Problem) -> int:
    """Seeds of a search."""
    seeds = len(study.seeds)
    return HARD_TUNED * seeds if problem == HARD else min(seeds, 8 if study.full else 3)


def _raced_on(study: Study, problem: Problem) -> int:
    """Seeds in all, those of the search among them."""
    spread = HARD_SPREAD if problem == HARD else SPREAD if problem[0] == 1000 else 1
    return spread * len(study.seeds)


def _over_sockets(study: Study, found: Found, races: Races) -> list[dict[str, Any]]:
    """The best runs of ten workers as processes, and the same in simulation, seed 0.

    A row has noise and compressor only where there is no such run, since seed 0 did not arrive.
    """
    rows: list[dict[str, Any]] = []
    for noise in SOCKETS[study.full]:
        for compressor in COMPRESSORS:
            key = (10, noise, 1e-6, compressor)
            if not study.full and compressor == "rand-k":
                continue  # of the three the one with the most rounds
            rows.append({"noise": noise, "compressor": compressor})
            if not races[key] or races[key][0]["bits"] is None:
                continue
            rounds = races[key][0]["rounds"]
            job = {
                **method_of(10, compressor),
                "task": task_spec(noise, 1e-6),
                "workers": 10,
                "rounds": rounds,
                "lr": f"theory*{found[key]['best']!r}",
                "blocks": "global",
                "seed": 0,
                "eval_every": rounds,
            }
            name = _name(*key)
            real = study.launch(f"sockets-{name}", **job)
            simulated = study.simulate_run(f"simulated-{name}", **job)
            first, last = real.evaluations[0], real.evaluations[-1]
            rows[-1] |= {
                "rounds": rounds,
                "bits": 8 * real.summary["bytes_per_worker_round"]["payload_up"] * rounds,
                "same": real.summary["replica_digest"] == simulated.summary["replica_digest"],
                "relative": (last["grad_norm"] / first["grad_norm"]) ** 2,
                "seconds": real.summary["wall_seconds"],
            }
    return rows


def _name(n: int, noise: float, lam: float, compressor: str) -> str:
    return f"n{n}-noise{noise:g}-lam{lam:g}-{compressor}"


EXPERIMENT = Experiment(
    name="perm-quadratic",
    paper="Szlendak, Tyurin and Richtarik 2022 (permutation compressors)",
    place="5.1, A.2 to A.4, Figures 1 and 3 to 7, Algorithm 2",
    question=(
        "How many bits must a worker send until ||grad f||^2 is a billionth of what it was, as the "
        "workers' functions differ more and more?"
    ),
    quick=(
        "n = 10 and 1,000, d = 1,000, lambda = 1e-6, all five noise scales; step sizes tuned on 3 "
        "seeds, then 8 seeds (n = 1,000: 16) at the best; n = 1,000 with noise 0.8 tuned on 16, "
        "then 32; noise 0.1 with n = 10 over sockets, perm-k and top-k"
    ),
    full=(
        "n = 10, 1,000 and 10,000, lambda = 1e-6 and 1e-4, as the paper, tuned on 8 seeds, raced "
        "on 8 (n = 1,000: 16; with noise 0.8 and lambda = 1e-6 16 and 32); all noise scales of "
        "n = 10 over sockets. L+ and L+- are exact, not the paper's upper bounds"
    ),
    needs=(),
    run=run,
    quick_seeds=8,
    full_seeds=8,
)
