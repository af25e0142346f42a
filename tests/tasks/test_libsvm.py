from __future__ import annotations

import gzip

import numpy as np
import pytest

from psrv.errors import ConfigError, DataError
from psrv.tasks import make_task
from psrv.tasks.libsvm_file import read_rows

pytest.importorskip("scipy")

TEXT = """\
+1 1:0.5 3:-2
-1 2:1e0

-1 1:-.25 2:3. 4:+1
+1
-1 4:2.5
+1 3:1
-1 1:1 2:1 3:1 4:1
"""
DENSE = np.array(
    [
        [0.5, 0, -2, 0],
        [0, 1, 0, 0],
        [-0.25, 3, 0, 1],
        [0, 0, 0, 0],
        [0, 0, 0, 2.5],
        [0, 0, 1, 0],
        [1, 1, 1, 1],
    ]
)
LABELS = np.array([1, -1, -1, 1, -1, 1, -1.0])
PARTS = [slice(0, 3), slice(3, 5), slice(5, 7)]
"""Seven rows over three workers: the first part has one row more."""


def value(rows: slice, x: np.ndarray, lam: float = 0.1) -> float:
    margins = LABELS[rows] * (DENSE[rows] @ x)
    return np.log1p(np.exp(-margins)).mean() + lam * (x**2 / (1 + x**2)).sum()


def slope(rows: slice, x: np.ndarray, lam: float = 0.1) -> np.ndarray:
    signed = LABELS[rows, None] * DENSE[rows]
    weights = 1 / (1 + np.exp(signed @ x))
    return -signed.T @ weights / len(signed) + lam * 2 * x / (1 + x**2) ** 2


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tiny").write_text(TEXT)
    return tmp_path


@pytest.fixture
def task(bound, folder):
    return bound("libsvm:tiny", workers=3, data=folder)


X = np.array([0.3, -1.25, 0.75, 2.0], np.float32)


def test_file_is_read_as_written(folder):
    rows = read_rows(folder / "tiny")
    assert rows.labels.tolist() == LABELS.tolist()
    assert rows.features == 4
    assert rows.starts.tolist() == [0, 2, 3, 6, 6, 7, 8, 12]
    full = np.zeros((7, 4))
    full[np.repeat(np.arange(7), np.diff(rows.starts)), rows.columns] = rows.values
    assert np.array_equal(full, DENSE)


def test_gzipped_file_and_windows_line_ends_read_the_same(folder):
    (folder / "packed.gz").write_bytes(gzip.compress(TEXT.replace("\n", "\r\n").encode()))
    plain, packed = read_rows(folder / "tiny"), read_rows(folder / "packed.gz")
    for name in ("labels", "starts", "columns", "values"):
        assert np.array_equal(getattr(plain, name), getattr(packed, name))


def test_gradient_is_the_formula_on_each_part(task):
    before, out = X.copy(), np.empty_like(X)
    for rank, rows in enumerate(PARTS):
        task.gradient(rank, X, 0, None, out)
        np.testing.assert_allclose(out, slope(rows, X.astype(np.float64)), rtol=2e-7)
        assert task.full_gradient(rank, X, out)
        np.testing.assert_allclose(out, slope(rows, X.astype(np.float64)), rtol=2e-7)
    assert np.array_equal(X, before)


def test_gradient_agrees_with_finite_differences_of_the_loss(task):
    out = np.empty_like(X)
    for rank in range(3):
        task.gradient(rank, X, 0, None, out)
        for j in range(4):
            up, down = X.copy(), X.copy()
            up[j] += 2.0**-8
            down[j] -= 2.0**-8
            change = task.evaluate(rank, up)["loss_sum"] - task.evaluate(rank, down)["loss_sum"]
            assert change * 2**7 == pytest.approx(float(out[j]), abs=1e-5)


def test_loss_is_the_mean_of_the_parts_also_when_they_are_unequal(task):
    wide = X.astype(np.float64)
    expected = np.mean([value(rows, wide) for rows in PARTS])
    sums = [task.evaluate(rank, X) for rank in range(3)]
    assert sum(s["loss_sum"] for s in sums) / sum(s["count"] for s in sums) == pytest.approx(
        expected
    )
    assert task.loss(X) == pytest.approx(expected)
    assert "correct" not in sums[0]


def test_equal_parts_give_the_papers_function(bound, folder):
    lines = [line for line in TEXT.splitlines() if line][:6]
    (folder / "six").write_text("\n".join(lines))
    task = bound("libsvm:six", workers=3, data=folder)
    assert task.loss(X) == pytest.approx(value(slice(0, 6), X.astype(np.float64)))


def test_lambda_is_an_option(bound, folder):
    task = bound("libsvm:tiny,lam=0.7", workers=3, data=folder)
    out = np.empty_like(X)
    task.gradient(1, X, 0, None, out)
    np.testing.assert_allclose(out, slope(PARTS[1], X.astype(np.float64), lam=0.7), rtol=2e-7)


@pytest.mark.parametrize(("low", "high"), [("0", "1"), ("1", "2"), ("-1", "1"), ("-1.0", "+1")])
def test_two_classes_become_minus_and_plus_one(bound, folder, task, low, high):
    renamed = [
        line.replace("+1", high, 1) if line.startswith("+1") else line.replace("-1", low, 1)
        for line in TEXT.splitlines()
        if line
    ]
    (folder / "renamed").write_text("\n".join(renamed))
    other = bound("libsvm:renamed", workers=3, data=folder)
    mine, its = np.empty_like(X), np.empty_like(X)
    for rank in range(3):
        task.gradient(rank, X, 0, None, mine)
        other.gradient(rank, X, 0, None, its)
        assert np.array_equal(mine, its)


def test_start_is_zero_and_features_can_be_more_than_the_file_has(bound, folder):
    task = bound("libsvm:tiny,features=6", workers=1, data=folder)
    x, out = task.initial(), np.empty(6, np.float32)
    assert x.shape == (6,)
    assert not x.any()
    task.gradient(0, x, 0, None, out)
    assert out[:4].all()
    assert not out[4:].any()
    with pytest.raises(ConfigError, match=r"features is 3, but .* has index 4"):
        make_task("libsvm:tiny,features=3", workers=1, data=folder)


def test_huge_margins_neither_overflow_nor_warn(task):
    out = np.empty_like(X)
    for scale in (1e4, 1e8, 1e30):
        task.gradient(0, X * np.float32(scale), 0, None, out)
        assert np.isfinite(out).all()
        assert np.isfinite(task.evaluate(0, X * np.float32(scale))["loss_sum"])


def test_more_workers_than_rows_is_refused(folder):
    with pytest.raises(ConfigError, match="7 rows for 8 workers"):
        make_task("libsvm:tiny", workers=8, data=folder)


def test_missing_file_names_both_places_and_the_source(tmp_path):
    with pytest.raises(DataError) as caught:
        make_task("libsvm:a9a", workers=1, data=tmp_path)
    for part in (str(tmp_path / "a9a"), "a9a.gz", "LIBSVM text", "csie.ntu.edu.tw", "--data"):
        assert part in str(caught.value)
    with pytest.raises(DataError, match="--data DIR or PSRV_DATA"):
        make_task("libsvm:a9a", workers=1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 1:1\nx 1:1\n", "line 2: the label is 'x', expected a number"),
        ("1 1:1\n\n-1 0:1\n", "line 3: '0:1' is not of the form index:value"),
        ("1 1:1:1\n", "line 1: '1:1:1' is not of the form"),
        ("1 1:nan\n", "'1:nan' is not of the form"),
        ("1 1:inf\n", "'1:inf' is not of the form"),
        ("1 1 :2\n", "'1' is not of the form"),
        ("1 1:2 # note\n", "'#' is not of the form"),
        ("1 1: 2\n", "'1:' is not of the form"),
        ("1 -1:2\n", "'-1:2' is not of the form"),
        ("1 1:1 99999999999:1\n", "'99999999999:1' is not of the form"),
        ("1 1:1\n-1 2:1 2:3\n", "line 2: index 2 follows 2; indices must ascend"),
        ("1 1:1\n-1 1:1 5:1 3:3\n", "line 2: index 3 follows 5"),
        ("1 1:1\n\n-1 1:1e999\n", "line 3: a number is too large"),
        ("\n  \n", "holds no rows"),
        ("", "holds no rows"),
        ("\x00\xff\n", "the label is"),
        ("1 1:1\n1 2:1\n", "1 distinct labels (1); expected two classes"),
        ("1 1:1\n3 2:1\n", "2 distinct labels (1, 3)"),
        ("".join(f"{i} 1:1\n" for i in range(9)), "9 distinct labels (0, 1, 2, 3, 4, ...)"),
    ],
)
def test_damaged_file_is_a_data_error_that_names_the_line(tmp_path, text, says):
    (tmp_path / "bad").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        make_task("libsvm:bad", workers=1, data=tmp_path)
    assert says in str(caught.value)
    assert str(tmp_path / "bad") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_descending_index_across_lines_is_fine(tmp_path):
    (tmp_path / "ok").write_text("1 5:1\n-1 1:1\n-1\n1 1:3\n")
    assert read_rows(tmp_path / "ok").columns.tolist() == [4, 0, 0]


def test_cut_archive_is_a_data_error(tmp_path):
    packed = gzip.compress(TEXT.encode() * 50)
    for name, content in (
        ("cut", packed[:60]),
        ("wrong", b"1 1:1\n"),
        ("flip", packed[:-8] + bytes(8)),
    ):
        (tmp_path / f"{name}.gz").write_bytes(content)
        with pytest.raises(DataError, match="not a whole gzip file"):
            make_task(f"libsvm:{name}", workers=1, data=tmp_path)


@pytest.mark.parametrize(
    ("name", "rows", "features", "positive"),
    [
        ("a9a", 32561, 123, 7841),
        ("w8a", 49749, 300, 1479),
        ("mushrooms", 8124, 112, 4208),
        ("phishing", 11055, 68, 6157),
    ],
)
def test_real_files_have_their_published_sizes(data, bound, name, rows, features, positive):
    task = bound(f"libsvm:{name}", workers=20, data=data)
    assert (task.samples, task.dimension) == (rows, features)
    found = read_rows(data / f"{name}.gz").labels
    assert (found == found.max()).sum() == positive
    # At 0 every row has loss log 2 and the regulariser is 0.
    assert task.loss(task.initial()) == pytest.approx(np.log(2))


def test_regression_targets_are_refused(data):
    with pytest.raises(DataError, match=r"distinct labels .* expected two classes"):
        make_task("libsvm:mg", workers=2, data=data)


def gradients_one_by_one(task, x):
    rows = np.empty((task.workers, task.dimension), np.float32)
    for rank, out in enumerate(rows):
        task.gradient(rank, x, 0, None, out)
    return rows


@pytest.mark.parametrize("workers", [1, 3, 7])
@pytest.mark.parametrize("points", [1, 2, 8, 9])
def test_all_gradients_in_one_pass_have_the_bits_of_each(bound, folder, workers, points):
    task = bound("libsvm:tiny,features=6", workers=workers, data=folder)
    at = np.random.default_rng(points).normal(size=(points, 6)).astype(np.float32)
    at[0, 1] = -0.0
    found = task.gradients_at(at)
    assert found.shape == (points, workers, 6)
    for x, rows in zip(at, found, strict=True):
        assert rows.tobytes() == gradients_one_by_one(task, x).tobytes()
        assert rows.tobytes() == task.gradients(x, 0).tobytes()


def test_all_gradients_in_one_pass_on_real_rows(data, bound):
    task = bound("libsvm:mushrooms", workers=20, data=data)
    at = np.random.default_rng(0).normal(size=(3, task.dimension)).astype(np.float32)
    found = task.gradients_at(at)
    for x, rows in zip(at, found, strict=True):
        assert rows.tobytes() == gradients_one_by_one(task, x).tobytes()


def test_shuffled_rows_are_the_same_rows_in_an_order_of_the_seed(bound, folder):
    def parts(spec, seed=0):
        task = bound(spec, workers=7, data=folder, seed=seed)
        assert task.loss(X) == pytest.approx(np.mean([value(slice(i, i + 1), X) for i in range(7)]))
        return gradients_one_by_one(task, X)

    shuffled = bound("libsvm:tiny,order=shuffled", workers=7, data=folder)
    assert np.array_equal(shuffled.gradients(X, 0), gradients_one_by_one(shuffled, X))
    file, drawn = parts("libsvm:tiny,order=file"), parts("libsvm:tiny,order=shuffled")
    assert np.array_equal(file, parts("libsvm:tiny"))
    assert not np.array_equal(file, drawn)
    assert sorted(map(tuple, file.tolist())) == sorted(map(tuple, drawn.tolist()))
    assert np.array_equal(drawn, parts("libsvm:tiny,order=shuffled"))
    assert not np.array_equal(drawn, parts("libsvm:tiny,order=shuffled", seed=1))


def test_unknown_order_is_refused(bound, folder):
    with pytest.raises(ConfigError, match="order is 'random'; expected file or shuffled"):
        bound("libsvm:tiny,order=random", workers=3, data=folder)
