"""Experiment perm-quadratic: its claims on made-up runs, and a small study."""

from __future__ import annotations

import pytest

from psrv.repro import perm_quadratic
from psrv.repro.perm_quadratic import EXPERIMENT, NOISES, cells, show
from psrv.repro.perm_quadratic.cells import COMPRESSORS, step_of
from psrv.repro.study import Study
from psrv.repro.verdict import Verdict

HELD, NOT_HELD, UNDECIDED = Verdict.HELD, Verdict.NOT_HELD, Verdict.UNDECIDED
LAM = 1e-6


# Claims


SENT = 250.0
"""Bits of a race that does not arrive, where nothing else is said."""


def made_up(change=None, sent=SENT, lost=False):
    """What the trial found: perm-k ahead, and what is given in its place.

    Args:
        change: bits by (n, noise, compressor). sent, lost: of races without bits.
    """
    usual: dict[str, list[float | None]] = {
        "perm-k": [100.0, 101.0, 99.0, 100.0],
        "rand-k": [400.0, 404.0, 396.0, 400.0],
        "top-k": [150.0],
    }
    found, races, limits = {}, {}, {}
    for n in (10, 1000):
        for noise in NOISES:
            for compressor in COMPRESSORS:
                bits = usual[compressor]
                if compressor == "top-k" and (n == 10 or noise == 0.8):
                    bits = [50.0]
                bits = (change or {}).get((n, noise, compressor), bits)
                key = (n, noise, LAM, compressor)
                races[key] = [
                    {
                        "bits": b,
                        "rounds": 7,
                        "lost": lost and b is None,
                        "curve": [[0, sent if b is None else b], [1, 0.1]],
                    }
                    for b in bits
                ]
                found[key] = {"best": 2.0, "tried": {}}
                limits[key] = 200.0 if compressor == "top-k" and n == 1000 else float("inf")
    return found, races, limits


class Claims:
    """Takes the place of a study."""

    full, seeds = False, range(8)

    def __init__(self) -> None:
        self.made: dict[str, tuple[Verdict, Verdict | None, str]] = {}

    def claim(self, sentence, needs, measured, verdict, *, place="", expected=None):
        self.made[sentence] = (verdict, expected, measured)


@pytest.fixture
def claims(monkeypatch):
    monkeypatch.setattr(cells, "step_of", lambda n, noise, lam, c: {"perm-k": 2.0}.get(c, 1.0))

    def make(change=None, **how) -> dict[str, tuple[Verdict, Verdict | None, str]]:
        study = Claims()
        show.claims(study, *made_up(change, **how), LAM)
        return study.made

    return make


def test_what_the_trial_found_holds(claims):
    made = claims()
    assert {verdict for verdict, _, _ in made.values()} == {HELD}
    assert {s for s, (_, e, _) in made.items() if e is HELD} == {
        *(f"perm-k needs fewer bits than rand-k, n = 1,000, noise {n:g}" for n in NOISES),
        *(f"perm-k needs fewer bits than top-k, n = 1,000, noise {n:g}" for n in (0.0, 0.1)),
        "top-k needs fewer bits than perm-k, n = 1,000, noise 0.8",
        "for n = 10 top-k needs the fewest bits, at every noise scale, lambda 1e-06",
    }


@pytest.mark.parametrize(
    ("bits", "verdict"),
    [
        ([290.0, 291.0, 289.0, 290.0], NOT_HELD),  # 2.9 times, and 3 are needed
        ([100.0, 900.0, 200.0, 250.0], UNDECIDED),
        ([400.0, None, 400.0, 400.0], UNDECIDED),
        ([310.0, 311.0, 309.0, 310.0], HELD),
    ],
)
def test_rand_k_must_need_three_times_as_many_bits_where_workers_agree(claims, bits, verdict):
    made = claims({(1000, 0.0, "rand-k"): bits})
    assert made["perm-k needs fewer bits than rand-k, n = 1,000, noise 0"][0] is verdict


PERM_AHEAD = "perm-k needs fewer bits than top-k, n = 1,000, noise 0"
TOP_AHEAD = "top-k needs fewer bits than perm-k, n = 1,000, noise 0.8"


@pytest.mark.parametrize(
    ("sent", "lost", "verdict", "text"),
    [
        (250.0, False, HELD, "at least 2 "),  # its limit is 200, perm-k's mean 100
        (120.0, False, HELD, "at least 1.2 "),  # the rounds had run out
        (80.0, False, UNDECIDED, "at least 0.8 "),
        (250.0, True, UNDECIDED, "no value"),
    ],
)
def test_a_top_k_that_did_not_arrive_is_a_lower_bound(claims, sent, lost, verdict, text):
    made = claims({(1000, 0.0, "top-k"): [None]}, sent=sent, lost=lost)
    assert made[PERM_AHEAD][0] is verdict
    assert made[PERM_AHEAD][2].startswith(text)


@pytest.mark.parametrize(
    ("sent", "verdict", "text"),
    [(250.0, NOT_HELD, "at most 0.5 "), (50.0, UNDECIDED, "at most 2 ")],
)
def test_the_other_way_round_it_bounds_the_quotient_from_above(claims, sent, verdict, text):
    made = claims({(1000, 0.8, "top-k"): [None]}, sent=sent)
    assert made[TOP_AHEAD][0] is verdict
    assert made[TOP_AHEAD][2].startswith(text)


def test_perm_k_that_did_not_arrive_is_no_bound(claims):
    made = claims({(1000, 0.0, "perm-k"): [100.0, None, 100.0, 100.0]})
    assert made[PERM_AHEAD] == (UNDECIDED, HELD, "no value")


def test_no_step_at_all_decides_nothing(claims):
    made = claims({(1000, 0.0, "top-k"): []})
    assert made[PERM_AHEAD] == (UNDECIDED, HELD, "no value")


def test_one_seed_decides_nothing_where_coins_are_tossed(claims):
    change = {(10, 0.0, "perm-k"): [100.0], (10, 0.0, "rand-k"): [400.0]}
    verdict, _, text = claims(change)["perm-k needs fewer bits than rand-k, n = 10, noise 0"]
    assert (verdict, text) == (UNDECIDED, "4")


STEPS = "perm-k's best step is no smaller than rand-k's, noise up to .2, lambda 1e-06"


def test_best_steps_are_compared_as_numbers_not_as_multipliers(claims):
    """Of equal multipliers the steps differ as the theorem's do: twice as large here."""
    assert claims()[STEPS] == (HELD, None, "from 2 to 2, 8 of 8 at least 2")


@pytest.mark.parametrize(
    ("multiplier", "verdict", "text"),
    [
        (1.0, UNDECIDED, "from 1 to 2, 7 of 8 at least 2"),
        (0.5, UNDECIDED, "from 0.5 to 2, 7 of 8 at least 2"),
        (0.25, NOT_HELD, "from 0.25 to 2, 7 of 8 at least 2"),
    ],
)
def test_steps_within_the_grid_s_factor_decide_nothing(monkeypatch, multiplier, verdict, text):
    """One of perm-k's eight best steps is no longer twice rand-k's."""
    monkeypatch.setattr(cells, "step_of", lambda n, noise, lam, c: 1.0)
    study, (found, _, _) = Claims(), made_up()
    for key, result in found.items():
        result["best"] = 2.0 if key[3] == "perm-k" else 1.0
    found[10, 0.1, LAM, "perm-k"]["best"] = multiplier
    show._steps(study, found, LAM)
    assert study.made[STEPS] == (verdict, None, text)


def test_one_noise_scale_is_enough_against_top_k_of_ten_workers(claims):
    made = claims({(10, 0.2, "top-k"): [120.0]})
    sentence = "for n = 10 top-k needs the fewest bits, at every noise scale, lambda 1e-06"
    assert made[sentence][0] is NOT_HELD


def test_all_that_is_judged_of_ten_workers_is_shown(claims):
    """Both rivals at all five noise scales; rand-k's alone can decide."""
    made = claims({(10, 0.2, "rand-k"): [20.0, 21.0, 19.0, 20.0]})
    sentence = "for n = 10 top-k needs the fewest bits, at every noise scale, lambda 1e-06"
    verdict, _, text = made[sentence]
    assert verdict is NOT_HELD
    assert text.startswith("perm-k / top-k at noise 0: 2 ")
    assert "; rand-k / top-k at noise 0: 8 " in text
    assert "0.2: 0.4 " in text
    assert text.count("4 seeds") == 10


SOCKETS = "over sockets the chosen runs of ten workers take the same steps as in simulation"
ROW = {"noise": 0.1, "compressor": "perm-k"}
RAN = ROW | {"rounds": 9, "bits": 1.0, "same": True, "relative": 9e-10, "seconds": 1.0}


@pytest.mark.parametrize(
    ("rows", "verdict", "text"),
    [
        ([RAN, RAN], HELD, "2 of 2 equal; at most 9.00e-10"),
        ([RAN, ROW], UNDECIDED, "1 of 1 equal; at most 9.00e-10; 1 not run"),
        ([ROW], UNDECIDED, "0 of 0 equal; 1 not run"),
        ([], UNDECIDED, "0 of 0 equal"),
        ([RAN | {"same": False}, ROW], NOT_HELD, "0 of 1 equal"),
        ([RAN | {"relative": 1e-8}], NOT_HELD, "1 of 1 equal; at most 1.00e-8"),
    ],
)
def test_a_run_that_is_missing_over_sockets_leaves_the_claim_undecided(rows, verdict, text):
    study = Claims()
    show.socket_claim(study, rows)
    assert study.made[SOCKETS][:2] == (verdict, HELD)
    assert study.made[SOCKETS][2].startswith(text)


def test_without_a_race_that_arrives_nothing_is_run_over_sockets():
    races = {(10, 0.1, LAM, c): [] if c == "perm-k" else [{"bits": None}] for c in COMPRESSORS}
    assert perm_quadratic._over_sockets(Claims(), {}, races) == [
        {"noise": 0.1, "compressor": "perm-k"},
        {"noise": 0.1, "compressor": "top-k"},
    ]


def test_the_problem_that_the_coins_leave_open_gets_more_seeds():
    study = Claims()
    hard, usual = (1000, 0.8, LAM), (1000, 0.2, LAM)
    assert perm_quadratic._tuned_on(study, hard) == 16
    assert perm_quadratic._raced_on(study, hard) == 32
    assert perm_quadratic._tuned_on(study, usual) == 3
    assert perm_quadratic._raced_on(study, usual) == 16
    assert perm_quadratic._raced_on(study, (10, 0.8, LAM)) == 8


# All of it


def test_small_study_from_the_search_to_the_claims(tmp_path, monkeypatch):
    """Ten workers, twenty coordinates, and neither sockets nor other processes."""
    monkeypatch.setattr(cells, "DIMENSION", 20)
    monkeypatch.setattr(cells, "TARGET", 1e-2)
    monkeypatch.setattr(perm_quadratic, "WORKERS", {False: (10,)})
    monkeypatch.setattr(perm_quadratic, "NOISES", (0.0, 0.1))
    monkeypatch.setattr(perm_quadratic, "ROUNDS", {False: 2000})
    monkeypatch.setattr(perm_quadratic, "SOCKETS", {False: ()})
    cells.problem.cache_clear()
    study = Study(EXPERIMENT, tmp_path, full=False, seeds=2, processes=0)
    try:
        EXPERIMENT.run(study)
    finally:
        cells.problem.cache_clear()
    by_name = {claim.sentence: claim for claim in study.claims}
    assert "for n = 10 top-k needs the fewest bits, at every noise scale, lambda 1e-06" in by_name
    assert by_name["perm-k needs fewer bits than rand-k, n = 10, noise 0"].measured != "no value"
    # 6 searches, each on both seeds: their races are shown, and none is run again.
    assert study.computed == 6
    assert "2 seeds" in by_name["perm-k needs fewer bits than rand-k, n = 10, noise 0"].measured
    assert any("coins" in note and "not of the problems" in note for note in study.notes)
    (table,) = study.tables
    assert len(table.rows) == 6
    assert {panel.group for panel in study.panels} == {
        "Figure 1 (lambda 1e-06)", "Figure 4 (lambda 1e-06)", "Figure 6 (lambda 1e-06)",
    }  # fmt: skip
    again = Study(EXPERIMENT, tmp_path, full=False, seeds=2, processes=0)
    EXPERIMENT.run(again)
    assert again.computed == 0, "all of it was kept"
    assert [c.verdict for c in again.claims] == [c.verdict for c in study.claims]


def test_theorem_s_step_is_the_one_that_the_runs_take():
    """Theorem 4 with A = B = 1, p = 1 / n: 1 / (L- + sqrt(n - 1) L+-)."""
    known = cells.problem(10, 0.1, LAM).smoothness()
    expected = 1 / (known.L_minus + 3 * known.L_plus_minus)
    assert step_of(10, 0.1, LAM, "perm-k") == pytest.approx(expected)
    assert step_of(10, 0.1, LAM, "rand-k") < step_of(10, 0.0, LAM, "perm-k")
