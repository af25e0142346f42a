"""The hessian-variance experiment: whole in miniature, and its rules on known numbers."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from psrv.objectives import Autoencoder
from psrv.repro.hessian_variance import EXPERIMENT, autoencoder, regression, run
from psrv.repro.study import Study
from psrv.repro.verdict import Verdict

HELD, NOT, OPEN = Verdict.HELD, Verdict.NOT_HELD, Verdict.UNDECIDED


def write_data(folder):
    stream = np.random.default_rng(3)
    lines = [
        " ".join([f"{y:.4f}", *(f"{j}:{v:.5f}" for j, v in enumerate(row, start=1))])
        for y, row in zip(stream.random(40), 1 + stream.random((40, 6)), strict=True)
    ]
    (folder / "mg").write_text("\n".join(lines) + "\n")
    images = stream.integers(0, 256, (30, 28, 28), dtype=np.uint8)
    header = struct.pack(">4B3I", 0, 0, 8, 3, *images.shape)
    with gzip.open(folder / "train-images-idx3-ubyte.gz", "wb") as file:
        file.write(header + images.tobytes())


@pytest.fixture
def _small(monkeypatch):
    monkeypatch.setattr(autoencoder, "WORKERS", 5)
    monkeypatch.setattr(regression, "SPLITS", {False: 30})
    # An eigenvalue problem of 784 x 784, for a table; tested with the autoencoder.
    monkeypatch.setattr(Autoencoder, "minimum", lambda self: 0.0)
    # Of these small images: the first step is too large, and nothing below the second is tried.
    monkeypatch.setattr(autoencoder, "COMPARED", {False: (5, 12)})
    steps = dict.fromkeys(("heterogeneous", "homogeneous"), (2.0, 2**-9))
    monkeypatch.setattr(autoencoder, "STEPS", {False: steps})
    monkeypatch.setattr(autoencoder, "LOWEST", 2**-9)


@pytest.mark.usefixtures("_small")
def test_the_whole_in_miniature(tmp_path):
    write_data(tmp_path)
    study = Study(EXPERIMENT, tmp_path / "out", data=tmp_path, seeds=2, processes=0)
    run(study)
    # The split of mg; 2 regimes with 2 steps; the better step's second seed.
    assert study.computed == 1 + 4 + 2
    assert [claim.place for claim in study.claims][:3] == ["A.8.1"] * 3
    # The paper's figures are mg's, and not those of these 40 rows.
    assert [claim.verdict for claim in study.claims][:2] == [NOT, NOT]
    steps, table5 = study.tables[1], study.tables[2]
    assert [row[2].split()[0] for row in steps.rows if row[1] == "2^1"] == ["diverged"] * 2
    assert [row[-1] for row in steps.rows if row[1] == "2^-9"] == ["best"] * 2
    measured = [row[2:] for row in table5.rows if row[1] == "measured"]
    assert np.shape(measured) == (2, 2)
    # Where most workers hold the same images their gradients differ less.
    assert all(alike > apart >= 1 for alike, apart in zip(*measured, strict=True))
    cells = study.cells(
        autoencoder.marina_ratios,
        study.settings["marina_ratios"],
    )
    local = cells["homogeneous-2^-9-0"]["local"]["5"]
    assert local[1] == pytest.approx(local[0] + local[2])
    assert study.kept == 6 + 2  # the first seed of the best steps was asked for twice


def test_the_constants_of_a_split_by_hand(tmp_path):
    # Two machines with one row each: A_1 = diag(1, 0), A_2 = diag(0, 4).
    (tmp_path / "mg").write_text("1 1:1\n1 2:2\n")
    found = regression.mg_constants(str(tmp_path / "mg"), 1)
    # Means of the squares: diag(1, 16) / 2; about the mean diag(.5, 2): diag(.25, 4).
    assert found["file"] == pytest.approx([2, np.sqrt(8), 2])
    assert found["random"][0] == pytest.approx([2, np.sqrt(8), 2])
    readings = found["readings"]
    assert readings["the same, f their sum (as printed)"] == pytest.approx([4, 2 * np.sqrt(8), 4])
    assert readings["||X w - y||^2 a machine, f their mean"] == pytest.approx([4, 2 * 8**0.5, 4])


def local(fall, mean):
    """Every tenth round with this ratio, and (L+^t)^2 that much larger at t = 10 than at 300."""
    found = {str(t): [0, mean, 1] for t in range(10, 301, 10)}
    return found | {"10": [0, mean * fall, fall]}


def judged(alike, apart, falls=(400, 400), mean=12, tried=None):
    """The verdicts of part two for ratios by t, each of two seeds."""
    study = Study(EXPERIMENT, Path("unused"))
    compared = [10, 100, 200, 300]
    table = {"homogeneous": alike, "heterogeneous": apart}
    runs = {"homogeneous": [{"local": local(f, mean), "diverged": None} for f in falls]}
    autoencoder._claims(study, compared, table, runs)
    best = {"homogeneous": 2**-7, "heterogeneous": 2**-8}
    autoencoder._entries_claim(study, compared, table, tried or {}, best)
    return [claim.verdict for claim in study.claims]


PAPER = [[v, v] for v in (104.73, 10, 10, 9.96)], [[v, v] for v in (18.83, 2.5, 2.5, 2.31)]


def test_claims_on_the_papers_own_numbers():
    assert judged(*PAPER) == [HELD, HELD, HELD, HELD]


def test_claims_on_other_numbers():
    alike, apart = PAPER
    assert judged(apart, alike)[2] is NOT
    assert judged(alike, [*alike[:3], [2, 20]])[2] is OPEN
    assert judged(alike, apart, mean=30)[0] is NOT
    assert judged(alike, apart, mean=4)[0] is NOT
    assert judged(alike, apart, falls=(4, 4))[1] is NOT
    assert judged(alike, apart, falls=(4, 40))[1] is OPEN
    assert judged([*alike[:3], [30, 30]], apart)[3] is NOT
    missing = [*alike[:3], [9.96, None]]
    assert judged(missing, apart) == [HELD, HELD, OPEN, OPEN]


def test_a_ratio_is_a_mean_over_the_rounds_about_it():
    result = {"local": {"9": [0, 8, 2], "10": [0, 4, 4], "12": [0, 16, 1], "13": [0, 1, 9]}}
    assert autoencoder.ratio_at(result, 10) == pytest.approx((4 * 1 * 16) ** (1 / 3))
    assert autoencoder.ratio_at(result, 100) is None
    compared, wanted = autoencoder.points(True)
    assert {t + k for t in compared for k in range(-2, 3)} <= set(wanted)


def test_entries_that_another_step_has_are_undecided():
    """The paper's step is not known; another regime's step, or one that diverged, is no help."""
    alike, apart = PAPER
    alike = [[600, 610], *alike[1:]]
    good = {"local": {"10": [0, 111, 1], "300": [0, 7, 1]}, "diverged": None}
    far = {"local": {"10": [0, 400, 1], "300": [0, 7, 1]}, "diverged": None}
    assert judged(alike, apart, tried={("homogeneous", 2**-8): good})[3] is OPEN
    assert judged(alike, apart, tried={("homogeneous", 2**-8): far})[3] is NOT
    assert judged(alike, apart, tried={("heterogeneous", 2**-8): good})[3] is NOT
    lost = {"local": {}, "diverged": 30}
    assert judged(alike, apart, tried={("homogeneous", 2**-6): lost})[3] is NOT


def test_the_grid_is_extended_where_its_end_is_best():
    def tried(*ends, regime="homogeneous"):
        """By step 2^-6, 2^-7, ...: the gradient norm in the end; None diverged."""
        return {
            (regime, 2.0 ** -(6 + k)): {"end": end, "diverged": 3 if end is None else None}
            for k, end in enumerate(ends)
        }

    beyond = autoencoder._beyond
    assert beyond(tried(None, 2.0, 3.0), "homogeneous") == []
    assert beyond(tried(None, 3.0, 2.0), "homogeneous") == [2**-9]
    assert beyond(tried(2.0, 3.0, 4.0), "homogeneous") == [2**-5]
    assert beyond(tried(2.0), "homogeneous") == [2**-7, 2**-5]
    assert beyond(tried(None, None), "homogeneous") == [2**-8]
    both = tried(None, 2.0, 3.0) | tried(3.0, 2.0, regime="heterogeneous")
    assert (beyond(both, "homogeneous"), beyond(both, "heterogeneous")) == ([], [2**-8])
    down = tried(*[None] * 10, 1.0)
    assert beyond(down, "homogeneous") == [], "2^-16 is the end"
