from __future__ import annotations

import sys

import pytest

from psrv.errors import ConfigError, DataError, PsrvError
from psrv.methods import METHODS
from psrv.tasks import TASKS, make_task, task_class
from psrv.tasks.base import share
from psrv.tasks.spec import (
    read_count,
    read_index,
    read_number,
    read_seconds,
    read_switch,
    split_spec,
)


def test_spec_splits_into_name_argument_and_pairs():
    assert split_spec("digits") == ("digits", None, {})
    assert split_spec(" libsvm:a9a ") == ("libsvm", "a9a", {})
    assert split_spec("quadratic:d=7,noise=0.1") == ("quadratic", None, {"d": "7", "noise": "0.1"})
    assert split_spec("synthetic:11M, compute=50ms") == ("synthetic", "11M", {"compute": "50ms"})


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("quadratic:d=1,d=2", "sets d twice"),
        ("quadratic:d=1,7", "'7' is not of the form key=value"),
        ("quadratic:", "'' is not of the form key=value"),
        ("quadratic:d=", "'d=' is not of the form key=value"),
        ("quadratic:=3", "'=3' is not of the form key=value"),
        ("synthetic:1M,,compute=1ms", "'' is not of the form key=value"),
    ],
)
def test_malformed_spec_is_refused(spec, says):
    with pytest.raises(ConfigError) as caught:
        split_spec(spec)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("4096", 4096), ("1e6", 10**6), ("11M", 11 * 10**6), ("25.6M", 25_600_000), ("4k", 4000)],
)
def test_counts_take_units(text, value):
    assert read_count(text) == value


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "M", "", "1e400", "nan", "3x", "1e-1", "1 1"])
def test_bad_counts_are_refused(text):
    with pytest.raises(ValueError, match="a whole number of at least 1"):
        read_count(text)


def test_times_take_units():
    assert read_seconds("50ms") == pytest.approx(0.05)
    assert read_seconds("0.2s") == pytest.approx(0.2)
    assert read_seconds("200us") == pytest.approx(2e-4)
    assert read_seconds("3") == 3.0


@pytest.mark.parametrize("text", ["-1ms", "fast", "5m", "1e400", ""])
def test_bad_times_are_refused(text):
    with pytest.raises(ValueError, match="a length of time"):
        read_seconds(text)


def test_numbers_are_finite_and_not_negative():
    assert read_number("1e-6") == 1e-6
    assert read_index("0") == 0
    for text in ("-1", "nan", "inf", "x", ""):
        with pytest.raises(ValueError):
            read_number(text)
    for text in ("-1", "1.0", "x", ""):
        with pytest.raises(ValueError):
            read_index(text)


def test_switches_are_yes_or_no_in_any_case():
    assert [read_switch(text) for text in ("yes", "True", "NO", " false ")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("spec", "setup", "says"),
    [
        ("nosuch", {}, "digits, mnist, cifar10, libsvm:NAME, quadratic, synthetic:D"),
        ("", {}, "no task named ''"),
        ("quadratic:q=1", {}, "no option 'q'; its options: d, lam, noise"),
        ("digits:d=1", {}, "no option 'd'; its options: device"),
        ("digits:device=tpu", {}, "device is 'tpu'; expected one of auto, cpu, cuda"),
        ("cifar10:augment=maybe", {}, "augment is 'maybe'; expected yes or no"),
        ("cifar10:model=vgg", {}, "expected one of cnn, resnet8, resnet20"),
        ("quadratic:7", {}, "takes no argument"),
        ("synthetic", {}, "synthetic:D"),
        ("libsvm", {}, "libsvm:NAME"),
        ("quadratic:d=1.5", {}, "d is '1.5'; expected a whole number"),
        ("quadratic:d=9", {"d": 8}, "already sets d"),
        ("quadratic", {"workers": 0}, "workers is 0"),
        ("quadratic", {"seed": -1}, "seed is -1"),
        ("quadratic", {"batch": 32}, "takes no batch size (got 32)"),
        ("synthetic:soon", {}, "D is 'soon'"),
        ("synthetic:9,slow=1ms", {}, "slow and slow_rank go together"),
        ("synthetic:9,slow_rank=1", {}, "slow and slow_rank go together"),
        ("synthetic:9,slow=1ms,slow_rank=2", {"workers": 2}, "the ranks are 0 to 1"),
        ("libsvm:../a9a", {}, "expected a file's name"),
        ("libsvm:..", {}, "expected a file's name"),
    ],
)
def test_what_cannot_be_built_is_a_config_error(spec, setup, says):
    with pytest.raises(ConfigError) as caught:
        make_task(spec, **{"workers": 2, **setup})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_options_may_come_as_keywords():
    by_text = make_task("quadratic:d=50,noise=0.25", workers=2)
    by_keyword = make_task("quadratic", workers=2, d=50, noise=0.25)
    assert by_text.settings == by_keyword.settings
    assert by_keyword.dimension == 50


def test_defaults_are_known_without_building():
    assert task_class("mnist").default_rounds == 936
    assert task_class("mnist").default_batch == 32
    assert task_class("libsvm:a9a").default_batch is None
    assert [n for n, t in TASKS.items() if t.needs_torch] == ["digits", "mnist", "cifar10"]


def test_every_method_has_a_step_size():
    task = make_task("quadratic", workers=2)
    assert {task.default_lr(m) > 0 for m in METHODS} == {True}
    assert task.default_lr("cd-adam") == task.default_lr(METHODS["amsgrad"])
    assert task.default_lr("signum") == task.step_sizes["sign"]
    assert task.default_lr("dist-ef-sgdm") == task.step_sizes["momentum"]
    with pytest.raises(ConfigError, match="nosuch"):
        task.default_lr("nosuch")


@pytest.mark.parametrize(
    ("spec", "module", "says"),
    [
        ("digits", "torch", "pip install 'psrv[torch]'"),
        ("digits", "sklearn.datasets", "pip install 'psrv[learn]'"),
        ("libsvm:tiny", "scipy.sparse", "pip install 'psrv[learn]'"),
    ],
)
def test_missing_dependency_says_what_to_install(monkeypatch, tmp_path, spec, module, says):
    if module != "torch" and spec == "digits":
        pytest.importorskip("torch")
    (tmp_path / "tiny").write_text("1 1:1\n-1 2:1\n")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError) as caught:
        make_task(spec, workers=1, data=tmp_path)
    assert says in str(caught.value)
    assert f"task {spec} needs" in str(caught.value)


def test_data_errors_are_psrv_errors_with_their_exit_code():
    with pytest.raises(PsrvError) as caught:
        make_task("libsvm:a9a", workers=1)
    assert isinstance(caught.value, DataError)
    assert caught.value.exit_code == 2


def test_shares_are_contiguous_and_the_first_ones_longer():
    parts = [share(11, 4, r) for r in range(4)]
    assert [(p.start, p.stop) for p in parts] == [(0, 3), (3, 6), (6, 9), (9, 11)]
    assert share(2, 3, 2) == slice(2, 2)
