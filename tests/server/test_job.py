"""Descriptions of a job that a stranger may send: refused in one line, soon and cheaply."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psrv.errors import ConfigError
from psrv.job import difference, job_from_description
from virtual_run import make_job

GOOD = make_job().describe()
HUGE = 2**62

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)


def test_job_survives_its_own_description():
    assert job_from_description(GOOD).describe() == GOOD


@pytest.mark.parametrize(
    "change",
    [
        {"tensors": [["x", [HUGE] * 300, 0]]},
        {"tensors": [["x", [HUGE] * 16, 0]]},
        {"tensors": [["x", [2**32], 0], ["y", [2**31], 0]]},
        {"tensors": [["x", [HUGE], 0]] * 1000},
        {"tensors": [["x", [2**31], 0]], "blocks": 256},
        {"tensors": [["x", [2], HUGE]]},
        {"tensors": []},
        {"options": {"a": None}},
        {"options": [1]},
        {"decays": [0.0] * 7},
        {"layout": "00"},
        {"seed": -1},
    ],
    ids=str,
)
def test_job_out_of_bounds_is_refused_at_once(change):
    started = time.process_time()
    described = GOOD | change
    if change == {"options": {"a": None}}:
        assert "options a is None, the run has not given" in difference(described, GOOD)
        return
    with pytest.raises(ConfigError) as caught:
        job_from_description(described)
    assert len(str(caught.value)) < 400
    assert time.process_time() - started < 2


@given(st.sampled_from(sorted(GOOD)), PLAIN)
def test_any_plain_value_in_a_description_gives_a_job_or_a_refusal(key, value):
    described = GOOD | {key: value}
    try:
        job = job_from_description(described)
    except ConfigError:
        return
    assert job.layout.dimension > 0
    difference(described, GOOD)


@given(st.dictionaries(st.text(max_size=5), PLAIN, max_size=4))
def test_jobs_that_differ_in_any_option_are_told_apart_in_one_printable_line(options):
    text = difference(GOOD | {"options": options}, GOOD)
    assert (text is None) == (options == GOOD["options"])
    assert text is None or (text.isprintable() and len(text) < 600)
