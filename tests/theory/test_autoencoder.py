from __future__ import annotations

import numpy as np
import pytest

from psrv.errors import ConfigError, DataError
from psrv.objectives import Autoencoder
from psrv.objectives import autoencoder as module
from psrv.simulation import Objective


def plain(problem, images, x, rank):
    """f_i and its gradient in float64, as section A.5 writes them."""
    k, f = problem.code, problem.features
    wide = x.astype(np.float64).reshape(2 * k, f)
    d, e = wide[:k].T, wide[k:]
    a = images[rank]
    m = d @ e - np.eye(f)
    second = a.T @ a / len(a)
    value = np.mean(np.sum((a @ m.T) ** 2, 1)) + problem.lam / 2 * np.sum(m * m)
    inner = 2 * m @ second + problem.lam * m
    return value, np.concatenate([(inner @ e.T).T.ravel(), (d.T @ inner).ravel()])


def shares(problem, images):
    """The images of each worker, dealt as the module documents it; float64."""
    n = problem.workers
    order = np.random.default_rng([problem.seed, 0]).permutation(len(images))
    parts = np.array_split(images[order], n + 1)
    return [parts[part] for part in problem.parts]


@pytest.fixture
def images(rng):
    return rng.random((53, 9), np.float32)


@pytest.mark.parametrize("lam", [0.0, 0.03])
@pytest.mark.parametrize("homogeneity", [0.0, 0.6, 1.0])
def test_gradients_and_loss_are_those_of_the_formulas(images, rng, homogeneity, lam):
    problem = Autoencoder(images, 6, homogeneity, lam, code=3, seed=2)
    held = shares(problem, images.astype(np.float64))
    x = rng.standard_normal(problem.dimension).astype(np.float32)
    before = x.copy()
    expected = [plain(problem, held, x, rank) for rank in range(6)]
    found = problem.gradients(x, 0)
    assert found.dtype == np.float32
    assert np.array_equal(x, before)
    for rank, (_, gradient) in enumerate(expected):
        np.testing.assert_allclose(found[rank], gradient, rtol=1e-4, atol=2e-4)
        np.testing.assert_allclose(problem.gradient(rank, x, 0), gradient, rtol=1e-4, atol=2e-4)
    mean = np.mean([value for value, _ in expected])
    assert problem.loss(x) == pytest.approx(mean, rel=1e-5)
    fresh = Autoencoder(images, 6, homogeneity, lam, code=3, seed=2)
    assert fresh.loss(x) == pytest.approx(mean, rel=1e-5)  # without gradients(x) before it


def test_gradient_is_the_slope_of_the_loss(images, rng):
    problem = Autoencoder(images, 4, 0.5, 0.01, code=2)
    x = (rng.standard_normal(problem.dimension) / 3).astype(np.float32)
    mean = problem.gradients(x).mean(0)
    direction = rng.standard_normal(x.size).astype(np.float32)
    step = np.float32(2.0**-8)
    change = problem.loss(x + step * direction) - problem.loss(x - step * direction)
    assert change / (2 * float(step)) == pytest.approx(float(mean @ direction), rel=1e-3)


def test_the_split_is_the_documented_one(images):
    problem = Autoencoder(images, 40, 0.75, code=2, seed=5)
    stream = np.random.default_rng([5, 0])
    stream.permutation(53)
    shared = stream.random(40) < 0.75
    assert np.array_equal(problem.parts == 0, shared)
    assert 0 < shared.sum() < 40
    assert np.array_equal(problem.parts[~shared], np.flatnonzero(~shared) + 1)


def test_homogeneity_is_what_it_says(images):
    x = Autoencoder(images, 5, code=2).initial()
    same = Autoencoder(images, 5, 1.0, code=2).gradients(x)
    assert all(np.array_equal(row, same[0]) for row in same)
    rows = Autoencoder(images, 5, 0.0, code=2).gradients(x)
    assert len(np.unique(rows, axis=0)) == 5


def test_the_start_depends_on_the_seed_alone(images):
    one, two = Autoencoder(images, 3, code=2, seed=1), Autoencoder(images, 9, 0.5, code=2, seed=1)
    assert np.array_equal(one.initial(), two.initial())
    assert one.initial().dtype == np.float32
    assert not np.array_equal(one.initial(), Autoencoder(images, 3, code=2).initial())
    assert one.initial().std() == pytest.approx(1 / 3, rel=0.3)


def test_bytes_become_fractions(rng):
    raw = rng.integers(0, 256, (30, 4, 4), np.uint8)
    x = Autoencoder(raw, 2, code=2).initial()
    scaled = raw.reshape(30, 16).astype(np.float32) / np.float32(255)
    expected = Autoencoder(scaled, 2, code=2).gradients(x)
    assert np.array_equal(Autoencoder(raw, 2, code=2).gradients(x), expected)


def test_cuts_for_small_products_change_nothing_but_rounding(images, rng, monkeypatch):
    x = rng.standard_normal(2 * 3 * 9).astype(np.float32)
    whole = Autoencoder(images, 6, code=3).gradients(x)
    monkeypatch.setattr(module, "_SMALL", 200)
    monkeypatch.setattr(module, "_ROWS", 20)
    cut = Autoencoder(images, 6, code=3)
    assert len(cut._columns(cut._chunks[0].images)) > 2
    assert len(cut._chunks) > 2
    np.testing.assert_allclose(cut.gradients(x), whole, rtol=1e-4, atol=1e-4)
    monkeypatch.setattr(module, "_ROWS", 2)  # parts that are large: one product each
    large = Autoencoder(images, 6, code=3)
    assert len(large._columns(large._chunks[0].images)) == 1
    np.testing.assert_allclose(large.gradients(x), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lam", [0.0, 0.05])
def test_gradient_descent_comes_down_to_the_minimum(images, lam):
    problem = Autoencoder(images, 4, 0.5, lam, code=3)
    x = problem.initial()
    for t in range(1200):
        x = x - np.float32(0.2) * problem.gradients(x, t).mean(0)
    assert problem.loss(x) == pytest.approx(problem.minimum(), rel=1e-3)
    assert problem.loss(x) >= problem.minimum() * (1 - 1e-5)


def test_it_is_an_objective(images):
    assert isinstance(Autoencoder(images, 4), Objective)


def test_refused(images, tmp_path):
    with pytest.raises(ConfigError, match="53 images, 53 workers"):
        Autoencoder(images, 53)
    with pytest.raises(ConfigError, match=r"homogeneity is 1\.5"):
        Autoencoder(images, 3, 1.5)
    problem = Autoencoder(images, 3)
    with pytest.raises(ConfigError, match="no worker 3 of 3"):
        problem.gradient(3, problem.initial())
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        Autoencoder.from_folder(tmp_path)


def test_mnist_with_a_thousand_workers(data):
    problem = Autoencoder.from_folder(data, workers=1000, homogeneity=0.9, lam=1e-4)
    assert problem.dimension == 25_088
    assert (problem.parts == 0).mean() == pytest.approx(0.9, abs=0.03)
    x = problem.initial()
    rows = problem.gradients(x, 0)
    assert rows.shape == (1000, 25_088)
    for rank in (0, 999, int(np.flatnonzero(problem.parts)[0])):
        np.testing.assert_allclose(rows[rank], problem.gradient(rank, x), rtol=1e-3, atol=1e-4)
    loss = problem.loss(x)
    assert problem.loss(x - np.float32(1e-3) * rows.mean(0)) < loss
    assert 0 < problem.minimum() < loss
