"""``lr="theory"``: the theorem's step for a method, a layout and n workers."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

import psrv
from psrv.codec import parse
from psrv.codec.blocks import Blocks
from psrv.errors import ConfigError
from psrv.layout import Layout, Tensor
from psrv.methods import resolve
from psrv.objectives import Quadratics
from psrv.tasks import make_task
from psrv.theory import (
    Smoothness,
    ab_of,
    alpha_of,
    measured_alpha,
    multiplier,
    proved_step,
    theory_step,
)

S = Smoothness(2.0, 3.0, 0.5, np.array([2.0, 4.0]))


def one_bucket(dimension: int, block=4) -> Layout:
    return Layout.build([Tensor("x", (dimension,))], block)


def step(name: str, dimension: int, workers: int, mu=None, layout=None, **options) -> float:
    layout = layout or one_bucket(dimension)
    method = resolve(name, **options).completed(layout, workers)
    return theory_step(method, layout, workers, S, mu)


@pytest.mark.parametrize(
    ("text", "factor"),
    [("theory", 1.0), ("theory*4", 4.0), ("theory * 0.5", 0.5), ("theory*1e-3", 1e-3)],
)
def test_multiplier(text, factor):
    assert multiplier(text) == factor


@pytest.mark.parametrize(
    "text", ["", "theorem", "theory*", "theory*0", "theory*-1", "theory*1.2.3"]
)
def test_what_is_no_multiple_of_theory(text):
    with pytest.raises(ConfigError, match=r"expected a number, 'theory', or 'theory\*4'"):
        multiplier(text)


def test_marina_with_perm_k_is_theorem_4_and_5():
    """d >= n: A = B = 1, p = 1/n; n > d with q owners: Theorem 2's constant, p = 1/d."""
    assert step("marina", 12, 4) == pytest.approx(1 / (2 + sqrt(3) * 0.5))
    assert step("marina", 12, 4, mu=1e-9) == pytest.approx(1 / (2 + sqrt(2 * 3) * 0.5))
    assert step("marina", 12, 4, mu=10.0) == pytest.approx(0.25 / 20)
    q = 1 - 10 * (2 - 1) / ((10 - 1) * 2)
    assert step("marina", 5, 10) == pytest.approx(1 / (2 + sqrt(4 * q) * 0.5))


def test_marina_with_rand_k_and_with_a_quantiser():
    a = (12 / 3 - 1) / 4
    rand = step("marina", 12, 4, compressor="rand-k:0.25")
    assert rand == pytest.approx(1 / (2 + sqrt(3 * a * 9)))
    omega = 4 * (1 + 1 / 8) - 1
    p = 9 * 3 / (32 * 12)  # 9 bits a value, rounded up to bytes
    quantised = step("marina", 12, 4, compressor="rand-k:0.25/natural", probability=p)
    assert quantised == pytest.approx(1 / (2 + sqrt((1 - p) / p * omega / 4 * 9)))


def test_ef21_is_theorem_6():
    root = sqrt(1 - 0.25)
    assert step("ef21", 12, 4, compressor="top-k:0.25") == pytest.approx(
        1 / (2 + 3 * root / (1 - root))
    )
    theta = 1 - root
    assert step("ef21", 12, 4, compressor="top-k:3", mu=5.0) == pytest.approx(
        min(1 / (2 + 3 * sqrt(2 * (0.75 / theta) / theta)), theta / 10)
    )


def test_gradient_descent_and_what_has_no_theorem():
    assert step("sgd", 12, 4) == 0.5
    for name in ("cd-adam", "dist-ef-sgd", "ef21-two-way", "sgdm", "signsgd"):
        with pytest.raises(ConfigError, match=f"no theorem gives method '{name}' a step size"):
            step(name, 12, 4)


def test_buckets_give_the_largest_a_and_the_smallest_b():
    layout = Layout.build([Tensor("a", (3,)), Tensor("b", (40,))], 64, bucket_bytes=16)
    assert len(layout.buckets) == 2
    pairs = [
        ab_of(parse("perm-k"), Layout.build([Tensor("x", (size,))], 64), 8) for size in (3, 40)
    ]
    found = ab_of(parse("perm-k"), layout, 8)
    assert (max(p.A for p in pairs), min(p.B for p in pairs)) == (found.A, found.B)
    assert found.A > found.B
    with pytest.raises(ConfigError, match="'sign' is biased"):
        ab_of(parse("sign"), layout, 8)


@pytest.mark.parametrize(
    ("spec", "alpha"),
    [
        ("dense", 1.0),
        ("sign", 1 / 8),
        ("top-k:0.25", 0.25),
        ("top-k:0.25/natural", 0.25 / 1.125),
        ("rand-k:0.25", 0.25),
        ("perm-k", 1 / 4),
        ("natural", 1 / 1.125),
    ],
)
def test_alpha_is_never_above_what_is_measured(spec, alpha):
    blocks = Blocks.of([8, 8, 4])
    codec = parse(spec).contracted()
    assert alpha_of(codec, blocks, 4) == pytest.approx(alpha)
    # The hardest vectors of each: one coordinate for the sign, all equal for the sparse.
    draws = np.random.default_rng(1)
    vectors = np.eye(20, dtype=np.float32)[0], np.ones(20, np.float32), draws.standard_normal(20)
    for vector in vectors:
        measured = measured_alpha(codec, vector.astype(np.float32), blocks=blocks, workers=4)
        assert measured.value >= alpha - 4 * measured.error - 1e-6, spec


def test_there_is_no_alpha_for_half_precision():
    with pytest.raises(ConfigError, match="no alpha is proved for compressor 'bf16'"):
        alpha_of(parse("bf16"), Blocks.of([8]), 2)


def test_simulation_takes_the_step_and_its_multiple():
    problem = Quadratics.generate(workers=4, dimension=12, noise=0.1, lam=1e-2, seed=3)
    known = problem.smoothness()
    proved = 1 / (known.L_minus + sqrt(3) * known.L_plus_minus)
    for factor, text in ((1.0, "theory"), (0.5, "theory*0.5")):
        runs = [
            psrv.simulate(problem, "marina", 4, 20, lr=lr, blocks="global")
            for lr in (text, factor * proved)
        ]
        np.testing.assert_allclose(runs[0].parameters, runs[1].parameters, rtol=1e-6)

    class Plain:
        initial, gradient, loss = problem.initial, problem.gradient, problem.loss

    with pytest.raises(ConfigError, match=r"Plain has no smoothness\(\); give a number"):
        psrv.simulate(Plain(), "marina", 4, 5, lr="theory")


def test_polyak_lojasiewicz_is_asked_for_by_name():
    problem = Quadratics.generate(workers=4, dimension=12, noise=0.1, lam=1e-2, seed=3)
    layout, known = one_bucket(12), problem.smoothness()
    method = resolve("marina").completed(layout, 4)
    assert known.mu == problem.lam == 1e-2
    expected = theory_step(method, layout, 4, known, mu=1e-2)
    assert proved_step("theory-pl*2", method, layout, 4, known) == 2 * expected
    assert expected < proved_step("theory", method, layout, 4, known)
    with pytest.raises(ConfigError, match="no mu > 0 of the Polyak-Lojasiewicz condition is known"):
        proved_step("theory-pl", method, layout, 4, S)


def test_weight_decay_is_not_in_the_constants():
    with pytest.raises(ConfigError, match=r"without the weight decay of 0\.1 that the rule adds"):
        step("marina", 12, 4, weight_decay=0.1)


def test_blocks_of_perm_k_are_its_units():
    """K.1: of M blocks a message holds one, so p = 1 / M where n >= M."""
    method = resolve("marina", up_compressor="perm-k:blocks=2").completed(
        one_bucket(1000, 1000), 10
    )
    assert method.probability == 0.5
    method = resolve("marina", up_compressor="perm-k:groups=2").completed(
        one_bucket(1000, 1000), 10
    )
    assert method.probability == 0.2


def test_tasks_know_their_constants_or_say_that_they_do_not():
    task = make_task("quadratic:d=30,noise=0.2", workers=3)
    task.bind(one_bucket(30))
    known = task.smoothness()
    gradients = [np.empty(30, np.float32) for _ in range(2)]
    x = np.random.default_rng(0).standard_normal(30).astype(np.float32)
    for rank in range(3):
        task.gradient(rank, x, 0, None, gradients[0])
        task.gradient(rank, np.zeros(30, np.float32), 0, None, gradients[1])
        change = np.linalg.norm(gradients[0] - gradients[1])
        assert change <= known.L_workers[rank] * np.linalg.norm(x) * (1 + 1e-5)
    with pytest.raises(ConfigError, match="the smoothness of task synthetic:100 is not known"):
        make_task("synthetic:100", workers=2).smoothness()
