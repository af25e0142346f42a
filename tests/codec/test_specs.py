"""Specs: what is allowed parses and prints back, what is not says what is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psrv import codec
from psrv.codec.amount import Amount
from psrv.errors import ConfigError


@pytest.mark.parametrize("spec", codec.EXAMPLES)
def test_every_example_prints_back(spec: str) -> None:
    assert codec.parse(spec).spec == spec
    assert codec.parse(spec) is codec.parse(spec)
    assert codec.parse(spec).contracted().spec == spec


def test_every_compressor_shows_an_example_and_says_what_it_allows() -> None:
    for name, kind in codec.COMPRESSORS.items():
        assert kind.examples
        assert all(codec.parse(spec).name == name for spec in kind.examples)
        assert kind.grammar.startswith(name)
        assert kind.summary


@pytest.mark.parametrize(
    ("given", "printed"),
    [
        ("top-k:0.010", "top-k:0.01"),
        ("top-k:1e-2", "top-k:0.01"),
        ("top-k:020", "top-k:20"),
        ("top-k:1.0", "top-k:1.0"),
        ("top-k:1", "top-k:1"),
        ("top-k:.5/float32", "top-k:0.5"),
        ("rand-k:0.1/fp16", "rand-k:0.1/fp16"),
        ("qsgd:04", "qsgd:4"),
    ],
)
def test_a_spec_prints_in_one_way(given: str, printed: str) -> None:
    assert codec.parse(given).spec == printed
    assert codec.parse(printed).spec == printed


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("", "compressor '' is unknown; expected one of dense, "),
        ("topk:0.1", "compressor 'topk:0.1' is unknown; expected one of"),
        ("Sign", "compressor 'Sign' is unknown"),
        ("top-k:0." + "0" * 100, "compressor 'top-k:0.000000000000...' has 108 characters"),
        ("sign:4", "compressor 'sign:4' cannot be: .*takes no argument.*; expected sign$"),
        ("sign/bf16", "takes no argument and no value format"),
        ("dense:", "cannot be"),
        ("top-k", r"K is '', neither a count such as 20 nor a fraction .*; expected top-k:K"),
        ("top-k:", "K is '', neither a count"),
        ("top-k:0", "K is 0, and a count is from 1"),
        ("top-k:-3", "K is '-3', neither"),
        ("top-k: 0.5", "K is ' 0.5', neither"),
        ("top-k:0.5\n", r"compressor 'top-k:0.5\\n' holds characters that no spec has"),
        ("top-k:\N{ARABIC-INDIC DIGIT THREE}", r"'top-k:\\u0663' holds characters"),
        ("top-k:0.0", r"K is 0\.0, and a fraction is above 0"),
        ("top-k:1.5", r"K is 1\.5, and a fraction is above 0 and at most 1"),
        ("top-k:nan", "K is 'nan'"),
        ("top-k:inf", "K is 'inf'"),
        ("top-k:ten", "K is 'ten', neither a count"),
        ("top-k:0.1/half", "value format 'half' is none of float32, bf16, fp16, natural; "),
        ("top-k:0.1/", "value format '' is none of"),
        ("top-k:0.1/bf16/bf16", "value format 'bf16/bf16' is none of"),
        ("rand-k:2147483648", "K is 2147483648"),
        ("qsgd", "expected qsgd:LEVELS"),
        ("qsgd:0", "expected qsgd:LEVELS"),
        ("qsgd:40000", "expected qsgd:LEVELS"),
        ("perm-k:run=0", "expected perm-k"),
        ("perm-k:runs=4", "expected perm-k"),
        ("perm-k:groups", "expected perm-k"),
        ("perm-k:groups=2,groups=3", "expected perm-k"),
    ],
)
def test_a_bad_spec_says_what_is_allowed(spec: str, text: str) -> None:
    with pytest.raises(ConfigError, match=text) as caught:
        codec.parse(spec)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=20))
def test_any_text_is_a_compressor_or_refused(text: str) -> None:
    for spec in (text, f"top-k:{text}", f"rand-k:{text}", f"perm-k:{text}", f"qsgd:{text}"):
        try:
            found = codec.parse(spec)
        except ConfigError:
            continue
        assert codec.parse(found.spec).spec == found.spec


def test_k_is_a_count_or_a_rounded_fraction_and_at_least_one() -> None:
    assert [Amount(0.01).count(d) for d in (1, 49, 149, 151, 1000)] == [1, 1, 1, 2, 10]
    assert [Amount(0.5).count(d) for d in (1, 3, 5)] == [1, 2, 2]  # halves to even, as round()
    assert [Amount(20).count(d) for d in (20, 1000)] == [20, 20]
    with pytest.raises(ConfigError, match="K is 20, but the vector has only 19 coordinates"):
        Amount(20).count(19)
    assert [Amount(1.0).count(d) for d in (1, 7)] == [1, 7]
    assert (Amount(20).whole, Amount(0.2).whole) == (True, False)
