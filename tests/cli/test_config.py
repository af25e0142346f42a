"""Where an option's value comes from, and what is said about one that cannot work."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from psrv.cli import main
from psrv.config import (
    ConnectConfig,
    JobConfig,
    ServerConfig,
    child_environment,
    connect_config_from_environment,
    load,
)
from psrv.errors import ConfigError
from psrv.options import is_loopback

SERVER = {"PSRV_SERVER": "tcp://10.0.0.5:5800"}


def write(folder: Path, text: str, name: str = "job.toml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_defaults_are_those_of_the_method_table_and_the_task():
    job = JobConfig()
    assert (job.method, job.workers, job.blocks, job.seed) == ("cd-adam", 4, 32768, 0)
    assert job.rounds is job.lr is job.batch is job.rule is job.task is None


def test_flag_beats_environment_beats_file_beats_default(tmp_path):
    file = write(tmp_path, "rounds = 1\nseed = 2\nworkers = 3\nbatch = 4\n")
    environ = {"PSRV_ROUNDS": "10", "PSRV_SEED": "20", "PSRV_WORKERS": ""}
    job = load(JobConfig, {"rounds": "100", "seed": None}, file=file, environ=environ)
    assert (job.rounds, job.seed, job.workers, job.batch) == (100, 20, 3, 4)
    assert job.check_every == 100


def test_one_file_serves_servers_and_workers(tmp_path):
    file = write(tmp_path, 'workers = 2\nlease = 9.5\nmethod = "sgd"\nserver = "tcp://a:1"\n')
    assert load(ServerConfig, file=file, environ={}).lease == 9.5
    assert load(JobConfig, file=file, environ={}).method == "sgd"
    assert load(ConnectConfig, file=file, environ={}).server == "tcp://a:1"


def test_job_file_of_an_earlier_run_is_a_configuration_file(tmp_path):
    content = {"config": {"method": "signum", "blocks": "tensor"}, "versions": {}, "command": None}
    file = write(tmp_path, json.dumps(content), "job.json")
    job = load(JobConfig, file=file, environ={})
    assert (job.method, job.blocks) == ("signum", "tensor")


def test_text_is_read_as_the_option_s_type():
    flags = {"lr": "1e-3", "blocks": "64", "decoupled": "yes", "out": "runs/a", "trace": True}
    job = load(JobConfig, flags, environ={})
    assert (job.lr, job.blocks, job.decoupled, job.trace) == (1e-3, 64, True, True)
    assert job.out == Path("runs/a")
    assert load(JobConfig, {"blocks": "global"}, environ={}).blocks == "global"


def test_method_options_are_those_with_a_value():
    assert JobConfig().method_options() == {"weight_decay": 0.0, "decoupled": False}
    job = JobConfig(momentum=0.5, uplink="ef", lr=1.0, blocks="tensor")
    assert job.method_options() == {
        "weight_decay": 0.0,
        "decoupled": False,
        "momentum": 0.5,
        "uplink": "ef",
    }


def test_configuration_is_frozen():
    with pytest.raises(ValidationError):
        JobConfig().method = "sgd"


BAD_VALUES = [
    ("workers", "0", "a whole number, at least 1"),
    ("workers", "four", "a whole number, at least 1"),
    ("workers", "2.5", "a whole number, at least 1"),
    ("servers", "2", "1: this version runs one server process"),
    ("rounds", "0", "a whole number, at least 1"),
    ("lr", "-1", "a number of at least 0, or theory, or theory*4 and the like"),
    ("lr", "nan", "a number of at least 0, or theory, or theory*4 and the like"),
    ("lr", "inf", "a number of at least 0, or theory, or theory*4 and the like"),
    ("batch", "-3", "a whole number, at least 1"),
    ("link", "fast", "a rate such as 100mbit or 1gbit, at least 64kbit, or none"),
    ("link", "1kbit", "a rate such as 100mbit or 1gbit, at least 64kbit, or none"),
    ("seed", "-1", "a whole number from 0"),
    ("blocks", "layer", "tensor, global, or a whole number of at least 1"),
    ("blocks", "0", "tensor, global, or a whole number of at least 1"),
    ("uplink", "magic", "plain, ef, markov or marina"),
    ("momentum", "1", "a number from 0 up to, but not, 1"),
    ("beta2", "1.5", "a number from 0 up to, but not, 1"),
    ("nu", "0", "a number above 0"),
    ("weight_decay", "-0.1", "a number, at least 0"),
    ("on_nonfinite", "skip", "abort"),
    ("lease", "0", "a number of seconds above 0"),
    ("heartbeat", "soon", "a number of seconds above 0"),
    ("max_message", "12", "a whole number of bytes, at least 1024"),
]


@pytest.mark.parametrize(("name", "value", "expected"), BAD_VALUES)
def test_bad_value_is_one_line_with_option_value_and_expectation(name, value, expected, capsys):
    flag = "--" + name.replace("_", "-")
    assert main(["launch", "--task", "quadratic", flag, value]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"psrv: error: {flag} is '{value}'; expected {expected}\n"
    assert captured.out == ""


def test_bad_value_names_the_variable_or_the_file_it_came_from(tmp_path):
    with pytest.raises(ConfigError, match=r"^PSRV_WORKERS is 'x'; expected a whole number"):
        load(JobConfig, environ={"PSRV_WORKERS": "x"})
    file = write(tmp_path, "workers = -1")
    with pytest.raises(ConfigError, match=rf"^workers in {file} is -1; expected a whole number"):
        load(JobConfig, file=file, environ={})
    with pytest.raises(ConfigError, match=r"^workers is 0; expected"):
        JobConfig(workers=0)


def test_unknown_option_suggests_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"'wrkers' was set.* did you mean 'workers'"):
        JobConfig(wrkers=2)
    file = write(tmp_path, "methud = 'sgd'")
    with pytest.raises(ConfigError, match=r"sets 'methud'.* did you mean 'method'"):
        load(JobConfig, file=file, environ={})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("job.toml", "workers = ", "not valid TOML"),
        ("job.json", "{", "not valid JSON"),
        ("job.json", "[1]", "holds a list; expected an object"),
        ("job.yaml", "workers: 4", "ends in .toml or .json"),
    ],
)
def test_unreadable_file_is_named(tmp_path, name, text, message):
    file = write(tmp_path, text, name)
    with pytest.raises(ConfigError, match=message) as caught:
        load(JobConfig, file=file, environ={})
    assert str(file) in str(caught.value)


def test_missing_file_is_named(capsys):
    assert main(["simulate", "--config", "nowhere.toml"]) == 2
    error = capsys.readouterr().err
    assert error == (
        "psrv: error: cannot read the configuration file nowhere.toml: No such file or directory\n"
    )


def test_without_a_server_connect_says_what_to_do():
    with pytest.raises(ConfigError, match=r"psrv launch -n N -- python train\.py.*PSRV_SERVER"):
        connect_config_from_environment({})


@pytest.mark.parametrize(
    ("variables", "rank", "workers"),
    [
        ({}, None, None),
        ({"PSRV_RANK": "1", "PSRV_WORKERS": "4"}, 1, 4),
        ({"RANK": "2", "WORLD_SIZE": "3"}, 2, 3),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, 0, 8),
        # torchrun inside a Slurm job; and psrv's own launcher inside either.
        ({"RANK": "2", "WORLD_SIZE": "3", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, 2, 3),
        ({"PSRV_RANK": "5", "PSRV_WORKERS": "6", "RANK": "2", "WORLD_SIZE": "3"}, 5, 6),
    ],
)
def test_rank_and_workers_come_from_the_nearest_launcher(variables, rank, workers):
    config = connect_config_from_environment(SERVER | variables)
    assert (config.server, config.rank, config.workers) == ("tcp://10.0.0.5:5800", rank, workers)


def test_script_s_own_arguments_beat_the_environment():
    environ = SERVER | {"PSRV_RANK": "1", "PSRV_CONNECT_TIMEOUT": "3"}
    config = connect_config_from_environment(environ, rank=2, connect_timeout=None)
    assert (config.rank, config.connect_timeout) == (2, 3.0)
    config = connect_config_from_environment({}, server="127.0.0.1:7")
    assert config.server == "tcp://127.0.0.1:7"
    with pytest.raises(ConfigError, match="'timeout' was given, which is not an option"):
        connect_config_from_environment(environ, timeout=3)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "one"}, "^RANK is 'one'; expected a whole number"),
        ({"SLURM_PROCID": "-1"}, "^SLURM_PROCID is '-1'"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "^rank is 4 in a run of 4 workers; expected 0 to 3"),
        ({"PSRV_SERVER": "tcp://somewhere"}, "^PSRV_SERVER is 'tcp://somewhere'; expected tcp://"),
        ({"PSRV_SERVER": "tcp://h:*"}, "expected tcp://HOST:PORT"),
        ({"PSRV_SERVER": "tcp://h:70000"}, "expected tcp://HOST:PORT"),
        ({"PSRV_SERVER": "ipc:///tmp/x"}, "expected tcp://HOST:PORT"),
        ({"PSRV_TRACE": "maybe"}, "^PSRV_TRACE is 'maybe'; expected true or false"),
    ],
)
def test_bad_environment_is_refused(variables, message):
    with pytest.raises(ConfigError, match=message):
        connect_config_from_environment(SERVER | variables)


@pytest.mark.parametrize(
    "bind", ["tcp://0.0.0.0:5800", "*:5800", "tcp://10.1.2.3:1", "tcp://[::]:9", "tcp://eth0:1"]
)
def test_address_that_others_can_reach_needs_insecure(bind):
    with pytest.raises(ConfigError, match=r"other machines can reach.*--insecure"):
        ServerConfig(bind=bind)
    assert not is_loopback(ServerConfig(bind=bind, insecure=True).bind)


@pytest.mark.parametrize(
    "bind", ["127.0.0.1:*", "tcp://127.0.0.9:1", "tcp://localhost:80", "tcp://[::1]:5800"]
)
def test_loopback_address_needs_nothing(bind):
    assert is_loopback(ServerConfig(bind=bind).bind)


def test_lease_must_outlast_heartbeats():
    with pytest.raises(ConfigError, match="at least two heartbeats"):
        ServerConfig(lease=1.0, heartbeat=1.0)


def test_children_do_not_inherit_options_that_were_already_weighed(monkeypatch):
    monkeypatch.setenv("PSRV_METHOD", "sgd")
    monkeypatch.setenv("PSRV_LEASE", "1")
    monkeypatch.setenv("OTHER", "kept")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environment = child_environment({"rank": 3, "trace": False, "out": None})
    assert {k: v for k, v in environment.items() if k.startswith("PSRV_")} == {
        "PSRV_RANK": "3",
        "PSRV_TRACE": "0",
    }
    assert (environment["OTHER"], environment["OMP_NUM_THREADS"]) == ("kept", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert child_environment({})["OMP_NUM_THREADS"] == "8"
