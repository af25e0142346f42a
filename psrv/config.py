"""What a user can set: every option, where its value comes from, and what is allowed.

Each command builds one frozen object from these places; the first that has a value wins:

    command line (--weight-decay) > environment (PSRV_WEIGHT_DECAY)
        > file (--config job.toml or job.json, ``weight_decay``) > launcher > default

An option has one name everywhere: underscores in files and in Python, dashes on the
command line, capitals after ``PSRV_`` in the environment, where an empty value counts as
not set. *Launcher* is torchrun's RANK and WORLD_SIZE, or Slurm's SLURM_PROCID and
SLURM_NTASKS, and only gives a worker's rank and the number of workers.

A configuration file may be shared by servers and workers: each reads the options it
knows. A ``job.json`` that an earlier run left is such a file too. This module is the only
one that reads psrv's variables from ``os.environ``. Whatever cannot work raises
``ConfigError`` (exit code 2) with one line: the option, the value found, and what is expected.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from psrv.errors import ConfigError
from psrv.options import (
    DEFAULT_ADDRESS,
    ConnectConfig,
    JobConfig,
    ServerConfig,
    Settings,
    unknown,
)

__all__ = [
    "ConnectConfig",
    "JobConfig",
    "ServerConfig",
    "child_environment",
    "connect_config_from_environment",
    "limit_threads",
    "load",
]

PREFIX = "PSRV_"
MODELS: tuple[type[Settings], ...] = (JobConfig, ConnectConfig, ServerConfig)
S = TypeVar("S", bound=Settings)


def load(
    model: type[S],
    flags: Mapping[str, object] | None = None,
    *,
    file: Path | None = None,
    defaults: Mapping[str, object] | None = None,
    only: Collection[str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> S:
    """Build a configuration from all the places an option can be set.

    Args:
        model: ``JobConfig``, ``ConnectConfig`` or ``ServerConfig``.
        flags: command-line values by option name; None means not given, and names of
            other configurations are passed over.
        file: a .toml or .json file.
        defaults: in place of the model's own defaults, below everything else.
        only: the options to look for; the others keep the model's own defaults.
        environ: in place of ``os.environ``.

    Raises:
        ConfigError: the first thing that cannot work.
    """
    names = set(model.model_fields) if only is None else set(only)
    values: dict[str, object] = {}
    labels: dict[str, str] = {}
    for source in (
        {name: (name, value) for name, value in (defaults or {}).items()},
        _from_launcher(model, os.environ if environ is None else environ),
        _from_file(file),
        _from_environment(model, os.environ if environ is None else environ),
        {name: (flag_of(name), value) for name, value in (flags or {}).items()},
    ):
        for name, (label, value) in source.items():
            if value is not None and name in names:
                values[name], labels[name] = value, label
    return model.model_validate(values, context=labels)


def connect_config_from_environment(
    environ: Mapping[str, str] | None = None, **overrides: object
) -> ConnectConfig:
    """How ``psrv.connect()`` finds its run, from the variables that a launcher set.

    Args:
        environ: in place of ``os.environ``.
        overrides: options given in the script; None means not given.

    Raises:
        ConfigError: no server is named, a variable holds something else than it should, or
            an override is not an option.
    """
    for name in overrides.keys() - ConnectConfig.model_fields.keys():
        raise ConfigError(f"'{name}' was given, {unknown(name, set(ConnectConfig.model_fields))}")
    variables = os.environ if environ is None else environ
    if overrides.get("server") is None and not variables.get(PREFIX + "SERVER"):
        raise ConfigError(
            "no server to connect to: run the script under 'psrv launch -n N -- python train.py', "
            "or set PSRV_SERVER to the address of a running server, such as " + DEFAULT_ADDRESS
        )
    return load(ConnectConfig, overrides, environ=variables)


def child_environment(settings: Mapping[str, object]) -> dict[str, str]:
    """This process's environment for a process of the run.

    Every PSRV_ option is taken out, since the parent has already weighed it, and ``settings``
    (by option name; None is left out) are put in. One thread a process for linear
    algebra unless the user chose a number, as torchrun does: workers share the machine.
    """
    known = {PREFIX + name.upper() for model in MODELS for name in model.model_fields}
    environment = {name: value for name, value in os.environ.items() if name not in known}
    for name, value in settings.items():
        if value is not None:
            text = str(int(value)) if isinstance(value, bool) else str(value)
            environment[PREFIX + name.upper()] = text
    environment.setdefault("OMP_NUM_THREADS", "1")
    return environment


def limit_threads() -> None:
    """One thread for linear algebra in this process; call before NumPy is imported.

    Sums are ordered by thread count in some libraries, and a simulation has to give the
    bits of the processes that ``child_environment`` starts.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def flag_of(name: str) -> str:
    """The command-line flag of an option."""
    return "--" + name.replace("_", "-")


def _from_environment(
    model: type[Settings], environ: Mapping[str, str]
) -> dict[str, tuple[str, object]]:
    found = {name: PREFIX + name.upper() for name in model.model_fields}
    return {name: (var, environ[var]) for name, var in found.items() if environ.get(var)}


def _from_launcher(
    model: type[Settings], environ: Mapping[str, str]
) -> dict[str, tuple[str, object]]:
    found: dict[str, tuple[str, object]] = {}
    for name in model.model_fields:
        for variable in model.option(name).launcher:
            if environ.get(variable):
                found[name] = (variable, environ[variable])
                break
    return found


def _from_file(path: Path | None) -> dict[str, tuple[str, object]]:
    if path is None:
        return {}
    table = _read(path)
    if isinstance(table.get("config"), dict) and "versions" in table:
        table = table["config"]  # the job.json of an earlier run
    known = {name for model in MODELS for name in model.model_fields}
    for name in table:
        if name not in known:
            raise ConfigError(f"{path} sets '{name}', {unknown(name, known)}")
    return {name: (f"{name} in {path}", value) for name, value in table.items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"cannot read the configuration file {path}: {reason}") from None
    try:
        if path.suffix == ".toml":
            return tomllib.loads(text)
        if path.suffix == ".json":
            table = json.loads(text)
            if isinstance(table, dict):
                return table
            raise ConfigError(f"{path} holds a {type(table).__name__}; expected an object")
    except ValueError as error:
        raise ConfigError(f"{path} is not valid {path.suffix[1:].upper()}: {error}") from None
    raise ConfigError(f"configuration file {path}: expected a name that ends in .toml or .json")
