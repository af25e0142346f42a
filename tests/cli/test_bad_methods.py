"""What people get wrong with the methods that have dense rounds: one line, and exit code 2."""

from __future__ import annotations

import pytest

from psrv.cli import main
from psrv.errors import ConfigError
from psrv.methods import resolve


@pytest.mark.parametrize(
    ("words", "texts"),
    [
        ("ef21 --up-compressor top-k:0", ("top-k:0", "K is 0", "from 1")),
        ("ef21 --up-compressor top-k:101", ("K is 101", "only 100 coordinates", "give a smaller")),
        ("ef21 --up-compressor top-k:1.5", ("K is 1.5", "above 0 and at most 1")),
        ("ef21 --up-compressor top-k:0.0", ("K is 0.0", "above 0 and at most 1")),
        ("marina --up-compressor rand-k:101", ("K is 101", "only 100 coordinates")),
        ("marina --up-compressor rand-k:-1", ("rand-k:-1", "expected rand-k:K")),
        ("marina --up-compressor perm-k:groups=9", ("9 groups", "as many senders", "got 4")),
        ("marina --up-compressor perm-k:blocks=9", ("9 blocks", "as many senders", "4 and 100")),
        ("marina --probability 0", ("--probability is '0'", "above 0 and at most 1")),
        ("marina --probability 1.01", ("--probability is '1.01'", "above 0 and at most 1")),
        ("marina --probability -0.1", ("--probability is '-0.1'", "above 0 and at most 1")),
        ("marina --probability nan", ("--probability is 'nan'", "above 0 and at most 1")),
        ("marina --probability often", ("--probability is 'often'", "above 0 and at most 1")),
        ("cd-adam --probability 0.5", ("'cd-adam' does not use probability", "it uses")),
        ("onebit-adam --warmup 9", ("warmup is 9", "a run of 5 rounds", "expected fewer")),
        ("onebit-adam --warmup 0", ("--warmup is '0'", "at least 1")),
        ("onebit-adam --eps 0", ("--eps is '0'", "above 0")),
        ("ef21 --warmup 2", ("'ef21' does not use warmup",)),
        ("ef21 --init warm", ("--init is 'warm'", "dense or compressed")),
        ("marina --downlink marina", ("--downlink is 'marina'", "plain, ef or markov")),
        ("marina --up-compressor top-k:0.1", ("'top-k:0.1'", "biased", "perm-k, rand-k")),
        ("marina --up-compressor sign", ("'sign'", "biased", "markov feedback")),
        ("marina --down-compressor perm-k", ("the downlink cannot use compressor 'perm-k'",)),
        ("marina --anchor-batch 5", ("anchor_batch is 5", "minibatches")),
        ("marina --lr theory*", ("--lr is 'theory*'", "theory*4")),
        (
            "onebit-adam --uplink marina --up-compressor dense",
            ("rule 'onebit-adam' needs", "plain, ef or markov"),
        ),
    ],
)  # fmt: skip
def test_it_is_refused_with_what_was_found_and_what_is_expected(words, texts, capsys, tmp_path):
    folder = tmp_path / "run"
    fixed = ["--task", "quadratic:d=100", "-n", "4", "--out", str(folder)]
    rounds = ["--rounds", "5"]
    assert main(["simulate", *fixed, *rounds, "--method", *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("psrv: error: ")
    assert error.count("\n") == 1
    assert [text for text in texts if text not in error] == []
    assert not (folder / "summary.json").exists()


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("sgd", {"downlink": "marina"}, "the downlink cannot use marina feedback"),
        ("marina", {"probability": 0}, "probability is 0"),
        ("marina", {"probability": 1.5}, "probability is 1.5"),
        ("marina", {"probability": float("nan")}, "probability is nan"),
        ("marina", {"probability": True}, "probability is True"),
        ("onebit-adam", {"warmup": 2.5}, "warmup is 2.5"),
        ("onebit-adam", {"warmup": -1}, "warmup is -1"),
        ("onebit-adam", {"rule": "sgd"}, "sends Adam's momentum"),
        ("dist-ef-sgd", {"uplink": "marina", "up_compressor": "perm-k"}, "sends nothing while"),
        ("dist-ef-sgdm", {"uplink": "markov", "init": "dense"}, "sends nothing while"),
        ("ef21", {"init": "warm"}, "init is 'warm'; expected dense or compressed"),
    ],
)
def test_python_options_are_refused_likewise(name, options, text):
    with pytest.raises(ConfigError) as caught:
        resolve(name, **options)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["signsgd", "signum", "marina", "sgd"])
def test_one_worker_alone_works_and_is_told_what_that_means(method, caplog, tmp_path):
    """A vote of one, a permutation among one: the worker's own message, in full."""

    words = ["--task", "quadratic:d=100", "--rounds", "3", "--out", str(tmp_path / "run")]
    assert main(["simulate", *words, "-n", "1", "--method", method]) == 0
    said = [text for text in caplog.messages if "with one worker" in text]
    assert len(said) == (method != "sgd")
    assert resolve(method).remarks(2) == []
