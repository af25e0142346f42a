"""Experiment perm-autoencoder: its search and claims on made-up races, and a small study."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from psrv.errors import DataError
from psrv.repro import load_experiment, perm_autoencoder
from psrv.repro.perm_autoencoder import (
    COMPRESSORS,
    EXPERIMENT,
    GUESSES,
    LAMS,
    LOWEST,
    ROUNDS,
    horizon,
    race_cell,
    score_of,
    search_cell,
)
from psrv.repro.study import Study
from psrv.repro.verdict import Verdict

HELD, NOT_HELD, UNDECIDED = Verdict.HELD, Verdict.NOT_HELD, Verdict.UNDECIDED


# The score


def test_score_is_the_geometric_mean_over_the_second_half_of_the_compressed_bits():
    first, bits = horizon(0), horizon(1000)
    assert (first, bits) == (32 * 25_088, 32 * (25_088 + 26_000))
    # From e^-2 at half the way to e^-4 at the end, by a straight line of logarithms.
    half = (first + bits) / 2
    curve = [[0.0, half, bits], [1.0, np.exp(-2), np.exp(-4)]]
    found = score_of({"lost": False, "curve": curve}, bits)
    assert found == pytest.approx(np.exp(-3))
    # What was worse before half the way, and what came after the end, count for nothing.
    curve = [[0.0, half - 1, half, bits, 2 * bits], [1.0, 9.0, np.exp(-2), np.exp(-4), 1e-9]]
    assert score_of({"lost": False, "curve": curve}, bits) == pytest.approx(np.exp(-3))
    assert score_of({"lost": True, "curve": curve}, bits) is None


# The search


@pytest.fixture
def searched(monkeypatch):
    """``search_cell`` for perm-k from a guess, on scores by exponent; None is divergence."""

    def search(
        start: int, scores: dict[int, float | None], late: int | None = None
    ) -> tuple[Any, set[float]]:
        def race(data, homogeneity, lam, compressor, lr, seed, rounds):
            assert (seed in (0, 1), compressor) == (True, "perm-k")
            score = scores.get(round(np.log2(lr)))
            if seed == 1 and round(np.log2(lr)) == late:
                score = None
            return {"score": score, "lost": score is None, "curve": [[0.0], [1.0]]}

        monkeypatch.setattr(perm_autoencoder, "race_cell", race)
        monkeypatch.setitem(GUESSES, "perm-k", 2.0**start)
        found = search_cell("", 0.5, 0.0, "perm-k", 10, 2)
        assert list(found["tried"]) == sorted(found["tried"], key=float)
        return found["best"], {float(lr) for lr in found["tried"]}

    return search


VALLEY: dict[int, float | None] = {k: 1.5 ** abs(k + 7) for k in range(-20, -3)}


@pytest.mark.parametrize("start", [-14, -8, -7, -6, -4, 0])
def test_search_finds_the_best_step_from_below_above_and_where_all_diverges(searched, start):
    best, tried = searched(start, VALLEY)
    assert best == 2.0**-7
    assert 2.0**-6 in tried, "a larger one, and worse"
    assert 2.0**-8 in tried, "a smaller one, and worse"


def test_search_does_not_halve_where_doubling_helped(searched):
    best, tried = searched(-8, VALLEY)
    assert (best, tried) == (2.0**-7, {2.0**-8, 2.0**-7, 2.0**-6})


def test_search_keeps_a_step_beside_divergence(searched):
    best, tried = searched(-9, {-9: 0.5, -8: 0.4, -10: 0.6})
    assert (best, tried) == (2.0**-8, {2.0**-9, 2.0**-8, 2.0**-7})


def test_a_step_that_one_seed_does_not_survive_is_too_large(searched):
    best, tried = searched(-9, VALLEY, late=-7)
    assert (best, tried) == (2.0**-8, {2.0**-9, 2.0**-8, 2.0**-7})


def test_search_ends_where_every_step_diverges(searched):
    best, tried = searched(-12, {})
    assert best is None
    assert tried == {2.0**k for k in range(-16, -11)}
    assert min(tried) == LOWEST


# Claims


PAPER = {  # Figure 2's order, as scores
    "perm-k": {p: [0.1, 0.101] for p in (0.0, 0.5, 0.75, 0.9, 1.0)},
    "rand-k": {p: [1.0, 1.1] for p in (0.0, 0.5, 0.75, 0.9, 1.0)},
    "top-k": {0.0: [0.05], 0.5: [0.05], 0.75: [0.1], 0.9: [0.2], 1.0: [0.3]},
}


def judged(
    p: float, lam: float = 0.0, *, seeds: int = 2, **change: list[float | None]
) -> dict[str, Any]:
    """The claims of one p^ and lambda; ``perm_k=[...]`` gives other scores."""
    study = Study(EXPERIMENT, Path("unused"), seeds=seeds)
    scores = {c: change.get(c.replace("-", "_"), PAPER[c][p]) for c in COMPRESSORS}
    races = {(p, lam, c): [{"score": s} for s in found] for c, found in scores.items()}
    perm_autoencoder._claims(study, races, p, lam)
    return {claim.sentence.split(",")[0]: claim for claim in study.claims}


RAND = "perm-k is ahead of rand-k at equal bits"
TOP = "perm-k is ahead of top-k at equal bits"
BEHIND = "top-k is ahead of perm-k at equal bits"
OTHER = "top-k is ahead of rand-k at equal bits"
EQUAL = "perm-k and top-k are about equal at equal bits"


@pytest.mark.parametrize(
    ("p", "sentences"),
    [
        (0.0, [RAND, BEHIND, OTHER]),
        (0.5, [RAND, BEHIND, OTHER]),
        (0.75, [RAND, EQUAL]),
        (0.9, [RAND, TOP]),
        (1.0, [RAND, TOP]),
    ],
)
def test_the_papers_order_holds_what_the_paper_says(p, sentences):
    made = judged(p)
    assert list(made) == sentences
    assert {claim.verdict for claim in made.values()} == {HELD}
    assert {claim.place for claim in made.values()} == {"5.2, Figure 2"}
    assert all(f"p^ = {p:g}, lambda 0" in claim.sentence for claim in made.values())
    assert all("best step" in claim.sentence for claim in made.values())
    # Only what was seen to hold is expected.
    known = {0.9: [RAND], 1.0: [RAND, TOP]}.get(p, [])
    assert [sentence for sentence, claim in made.items() if claim.expected is HELD] == known


@pytest.mark.parametrize(
    ("p", "sentence", "change"),
    [
        (0.5, RAND, {"rand_k": [0.09, 0.091]}),
        (0.0, BEHIND, {"top_k": [0.2]}),
        (0.5, OTHER, {"top_k": [2.0]}),
        (0.75, EQUAL, {"top_k": [0.2]}),
        (0.75, EQUAL, {"top_k": [0.05]}),
        (0.9, TOP, {"top_k": [0.05]}),
        (1.0, TOP, {"perm_k": [0.5, 0.51]}),
    ],
)
def test_another_order_is_not_held(p, sentence, change):
    assert judged(p, **change)[sentence].verdict is NOT_HELD


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(1.0, HELD), (1.04, HELD), (0.96, HELD), (1.06, NOT_HELD), (0.94, NOT_HELD)],
)
def test_about_equal_is_within_five_percent_either_way(ratio, verdict):
    made = judged(0.75, perm_k=[0.1, 0.1], top_k=[0.1 * ratio])
    assert made[EQUAL].verdict is verdict
    assert "from 0.95 to 1.05" in made[EQUAL].needs


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"perm_k": [0.01, 3.0]}, "2 seeds"),  # the seeds disagree
        ({"perm_k": [0.1, None]}, "1 missing"),  # one diverged at the step that was best
        ({"perm_k": []}, "no value (2 missing)"),  # every step diverged
        ({"rand_k": [], "perm_k": [], "top_k": []}, "no value (2 missing)"),
    ],
)
def test_seeds_that_disagree_or_are_missing_decide_nothing(change, text):
    for sentence in (RAND, TOP):
        claim = judged(1.0, **change)[sentence]
        assert claim.verdict is UNDECIDED
        assert text in claim.measured


def test_a_top_k_that_diverged_everywhere_spoils_its_own_claims_only():
    made = judged(0.5, top_k=[])
    assert [made[s].verdict for s in (RAND, BEHIND, OTHER)] == [HELD, UNDECIDED, UNDECIDED]


def test_one_seed_decides_nothing():
    made = judged(1.0, seeds=1, perm_k=[0.1], rand_k=[1.0], top_k=[0.3])
    assert {claim.verdict for claim in made.values()} == {UNDECIDED}
    assert made[RAND].measured == "10"


@pytest.mark.parametrize("p", [0.0, 0.5, 0.75, 0.9, 1.0])
def test_with_a_penalty_the_paper_says_less_and_nothing_is_expected(p):
    """A.7 has top-k ahead for lambda 0 and 1e-5, which is not among ours."""
    made = judged(p, 1e-3)
    assert list(made) == ([RAND, TOP] if p >= 0.9 else [RAND])
    assert {claim.expected for claim in made.values()} == {None}
    assert {claim.place for claim in made.values()} == {"A.5 and A.6, Figures 8 and 9"}


def test_a_larger_lambda_is_judged_where_most_images_are_shared():
    study = Study(EXPERIMENT, Path("unused"), seeds=2)
    scores = {0.0: {"rand-k": 10.0, "top-k": 2.0}, 1e-4: {}, 1e-3: {"rand-k": 30.0, "top-k": 1.5}}
    races = {
        (p, lam, c): [{"score": given.get(c, 1.0)}] * (1 if c == "top-k" else 2)
        for p in (0.5, 0.9)
        for lam, given in scores.items()
        for c in COMPRESSORS
    }
    perm_autoencoder._larger_lambda(study, races)
    assert [(claim.verdict, claim.measured.split()[0]) for claim in study.claims] == [
        (HELD, "3"),
        (NOT_HELD, "0.75"),
    ]
    assert study.claims[0].sentence == (
        "perm-k is further ahead of rand-k with lambda 0.001 than with 0, p^ = 0.9"
    )
    study.claims.clear()
    perm_autoencoder._larger_lambda(study, {key: r for key, r in races.items() if key[1] == 0})
    assert not study.claims


def tolerated(p, perm, top):
    """The claim on A.7's steps, for scores by exponent; None is divergence."""
    study = Study(EXPERIMENT, Path("unused"), seeds=2)
    scores = {"perm-k": perm, "top-k": top}
    found = {
        (p, 0.0, c): {"tried": {repr(2.0**k): {"score": s} for k, s in its.items()}}
        for c, its in scores.items()
    }
    perm_autoencoder._tolerated(study, found, p, 0.0)
    return study.claims


@pytest.mark.parametrize(
    ("perm", "top", "verdict"),
    [
        ({-8: 0.1, -7: None}, {-9: 0.1, -8: None}, HELD),
        ({-8: 0.1, -7: 2.5}, {-9: 0.1, -8: None}, HELD),  # above its start, and not over 1e8
        ({-8: 0.1, -7: None}, {-8: 0.1, -7: None}, UNDECIDED),  # the grid's resolution
        ({-8: 0.1, -7: 0.2}, {-8: 0.1, -7: None}, HELD),
        ({-8: 0.1, -7: None}, {-9: 0.1, -8: 0.2}, UNDECIDED),  # top-k's limit was not looked for
        ({-9: 0.1, -8: None}, {-8: 0.1, -7: None}, NOT_HELD),
        ({-8: None}, {-9: 0.1, -8: None}, UNDECIDED),
    ],
)
def test_where_workers_are_alike_perm_k_must_stand_a_step_that_top_k_does_not(perm, top, verdict):
    (claim,) = tolerated(0.9, perm, top)
    assert (claim.verdict, claim.place) == (verdict, "A.7, Figure 10")
    assert claim.expected is None


@pytest.mark.parametrize(
    ("perm", "top", "verdict"),
    [
        ({-8: 0.1, -7: None}, {-9: 0.1, -8: None}, HELD),
        ({-8: 0.1, -7: None}, {-10: 0.1, -9: None}, NOT_HELD),
        ({-11: 0.1, -10: None}, {-9: 0.1, -8: None}, NOT_HELD),
        ({-9: 0.1, -8: 0.2}, {-9: 0.1, -8: None}, UNDECIDED),
    ],
)
def test_where_they_differ_the_steps_must_be_about_the_same(perm, top, verdict):
    (claim,) = tolerated(0.0, perm, top)
    assert claim.verdict is verdict


def test_between_the_two_the_paper_says_nothing_of_steps():
    assert tolerated(0.75, {-8: 0.1}, {-8: 0.1}) == []
    (claim,) = tolerated(1.0, {-8: 0.1, -7: 0.2}, {-8: None})
    assert claim.measured == "perm-k: 2^-7 yes, larger not tried; top-k: none yes, 2^-8 no"


def test_settings_are_the_papers():
    assert load_experiment("perm-autoencoder") is EXPERIMENT
    assert tuple(ROUNDS[True]) == (0.0, 0.5, 0.75, 0.9, 1.0)
    assert LAMS[True] == (0.0, 1e-4, 1e-3)
    assert set(ROUNDS[False]) <= set(ROUNDS[True])
    for p, rounds in ROUNDS[False].items():
        assert f"{p:g}" in EXPERIMENT.quick
        assert f"{rounds:,}" in EXPERIMENT.quick
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        EXPERIMENT.check_data(None)


# On a made-up file


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """90 images of 4 x 4 pixels, 8 workers: d = 512, and K = 64 for all three."""
    images = np.random.default_rng(3).integers(0, 256, (90, 4, 4), dtype=np.uint8)
    folder = tmp_path / "data"
    folder.mkdir()
    with gzip.open(folder / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.tobytes())
    monkeypatch.setattr(perm_autoencoder, "WORKERS", 8)
    monkeypatch.setattr(perm_autoencoder, "K", 64)
    monkeypatch.setattr(perm_autoencoder, "DIMENSION", 512)
    monkeypatch.setitem(perm_autoencoder.METHODS["rand-k"], "up_compressor", "rand-k:0.125")
    monkeypatch.setitem(perm_autoencoder.METHODS["top-k"], "up_compressor", "top-k:64")
    monkeypatch.setattr(perm_autoencoder, "ROUNDS", {False: {0.5: 20, 1.0: 30}})
    for compressor in COMPRESSORS:
        monkeypatch.setitem(GUESSES, compressor, 2.0**-5)
    perm_autoencoder.problem.cache_clear()
    yield folder
    perm_autoencoder.problem.cache_clear()


def test_every_compressor_spends_the_same_bits(data):
    """A dense round, then 64 floats a round; top-k's indices are bits as well."""
    for compressor in COMPRESSORS:
        result = race_cell(str(data), 0.5, 0.0, compressor, 2.0**-7, 0, 20)
        bits = result["curve"][0]
        assert bits[:2] == [0, 32 * 512]
        assert bits[-1] > horizon(20) >= bits[-2]
        compressed = {step for step in np.diff(bits).tolist() if step != 32 * 512}
        if compressor == "top-k":  # indices of at most 9 bits, fewer where they are packed
            assert all(32 * 64 < step <= (32 + 9) * 64 + 64 for step in compressed)
        else:
            assert compressed == {32 * 64}
        assert result["score"] == score_of(result, horizon(20))


def test_small_study_from_the_search_to_the_claims(data, tmp_path):
    study = Study(EXPERIMENT, tmp_path / "out", data=data, seeds=3, processes=0)
    EXPERIMENT.run(study)
    assert study.computed == 6
    assert [claim.sentence.split(",")[0] for claim in study.claims] == [
        RAND, BEHIND, OTHER, "perm-k and top-k tolerate about the same steps",
        RAND, TOP, "perm-k tolerates larger steps than top-k",
    ]  # fmt: skip
    assert all("no value" not in claim.measured for claim in study.claims)
    orders = [claim for claim in study.claims if "at equal bits" in claim.sentence]
    assert all("3 seeds" in claim.measured for claim in orders)
    # Workers with the same images: MARINA with perm-k takes the steps of gradient descent.
    assert float(orders[3].measured.split()[0]) > 1
    (table,) = study.tables
    assert [row[1:3] for row in table.rows] == [[p, c] for p in (0.5, 1.0) for c in COMPRESSORS]
    assert all(row[3].startswith("2^") for row in table.rows)
    groups = [panel.group for panel in study.panels]
    assert groups == ["Figures 2 and 8", "Figure 9", "Figure 10"] * 2
    best = study.panels[0]
    assert [curve.label for curve in best.curves] == list(COMPRESSORS)
    assert all(label.startswith(("perm-k", "rand-k")) for label in labels(study.panels[1]))
    assert all(label.startswith(("perm-k", "top-k")) for label in labels(study.panels[2]))
    assert any("--full" in note for note in study.notes)
    again = Study(EXPERIMENT, tmp_path / "out", data=data, seeds=3, processes=0)
    EXPERIMENT.run(again)
    assert again.computed == 0
    assert [claim.measured for claim in again.claims] == [c.measured for c in study.claims]


def labels(panel) -> list[str]:
    found = [curve.label for curve in panel.curves]
    assert len(found) == len(set(found)) > 2
    return found
