"""top-k of many rows finds what the codec's selection finds."""

from __future__ import annotations

import numpy as np
import pytest

from psrv.codec import selection
from psrv.codec.base import address
from psrv.crowd.leaders import lead_rows
from psrv.crowd.rows import NONE


def rows_of(kind, n, d):
    stream = np.random.default_rng(5)
    rows = stream.standard_normal((n, d)).astype(np.float32)
    if kind == "ties":
        rows = np.round(rows).astype(np.float32)
    if kind == "zeros":
        rows *= stream.random((n, d)) < 0.01
    return rows


@pytest.mark.parametrize("kind", ["plain", "ties", "zeros"])
@pytest.mark.parametrize("d", [1, 63, 64, 65, 1000])
@pytest.mark.parametrize("k", [1, 2, 17, 48])
def test_leaders_are_the_selection(kind, d, k):
    if k > d:
        k = d
    rows, memory = rows_of(kind, 4, d), rows_of("plain", 4, d) * np.float32(kind == "plain")
    columns, values = np.empty(4 * k, np.int32), np.empty(4 * k, np.float32)
    before = rows.copy()
    assert lead_rows(rows, memory, 0, 4, 0, d, np.float32(-1), False, k, columns, values) == -1
    assert np.array_equal(rows, before)
    for i in range(4):
        x = rows[i].copy()
        found = selection.select(address(x), d, k, address(memory[i]), -1.0)
        part = slice(i * k, i * k + k)
        assert columns[part].tolist() == found.indices.tolist()
        assert values[part].tobytes() == found.values.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found(bad):
    rows = rows_of("plain", 3, 200)
    rows[1, 130] = rows[1, 150] = bad
    columns, values = np.empty(6, np.int32), np.empty(6, np.float32)
    found = lead_rows(rows, NONE, 0, 3, 0, 200, np.float32(1), False, 2, columns, values)
    assert found == 200 + 130


def test_sums_are_kept_where_they_are_asked_for():
    rows, memory = rows_of("plain", 2, 70), rows_of("plain", 2, 70)
    expected = rows + np.float32(0.5) * memory
    columns, values = np.empty(2, np.int32), np.empty(2, np.float32)
    lead_rows(rows, memory, 0, 2, 0, 70, np.float32(0.5), True, 1, columns, values)
    assert np.array_equal(rows, expected)
