"""Every option: its name, type, default, limits, and how it is shown to people.

Three frozen objects, one for each thing that needs options: the job that is trained, a
worker's way to its server, and a server. A name means the same in all three, and is the
option's one name on the command line, in files, in the environment and in Python;
``psrv/config.py`` says where values come from. Building one with a value that cannot work
raises ``ConfigError`` with one line: the option, the value found, and what is expected.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from psrv.errors import ConfigError

DEFAULT_ADDRESS = "tcp://127.0.0.1:5800"
MIB = 1 << 20


@dataclass(frozen=True)
class Option:
    """How an option is shown to people.

    Attributes:
        help: one sentence for ``--help``.
        expected: completes "found X; expected ..." in an error.
        short: a one-letter flag, with its dash.
        panel: the heading it stands under in ``--help``.
        hidden: left out of ``--help``.
        launcher: variables of other launchers that set it when nothing of psrv's does.
    """

    help: str
    expected: str
    short: str = ""
    panel: str = "Job"
    hidden: bool = False
    launcher: tuple[str, ...] = ()


def _address(text: str, *, any_port: bool) -> str:
    full = text if "://" in text else f"tcp://{text}"
    match = re.fullmatch(r"tcp://(\[[0-9a-fA-F:.%]+\]|[^\s:/\[\]]+):(\*|\d{1,5})", full)
    if match is None:
        raise ValueError("not tcp://HOST:PORT")
    port = match[2]
    if port == "*" and not any_port:
        raise ValueError("a worker needs the real port")
    if port != "*" and not 1 <= int(port) <= 65535:
        raise ValueError("port out of range")
    return full


def _server_address(text: str) -> str:
    return _address(text, any_port=False)


def _bind_address(text: str) -> str:
    return _address(text, any_port=True)


def _theory(text: str) -> str:
    if re.fullmatch(r"theory(-pl)?( *\* *[0-9.]+(e[-+]?[0-9]+)?)?", text) is None:
        raise ValueError("not a multiple of theory")
    return text


def drops_of(text: str | None) -> tuple[float, ...]:
    """The fractions in ``0.5,0.75``; none of None."""
    return tuple(float(part) for part in text.split(",")) if text else ()


def _drops(text: str) -> str:
    fractions = drops_of(text)
    ascending = all(a < b for a, b in pairwise(fractions))
    if not ascending or not all(0 < f < 1 for f in fractions):
        raise ValueError("not ascending fractions")
    return text


def _link(text: str) -> str:
    from psrv.links import rate_of

    rate_of(text)
    return text


def host_of(address: str) -> str:
    """The host in ``tcp://HOST:PORT``, without the brackets of IPv6."""
    return address.removeprefix("tcp://").rpartition(":")[0].strip("[]")


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach a ``tcp://HOST:PORT`` that a server binds to."""
    host = host_of(address)
    if host in ("localhost", "lo"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
TheoryStep = Annotated[str, AfterValidator(_theory)]
Feedback = Literal["plain", "ef", "markov"]
_COUNT = "a whole number, at least 1"
_SECONDS = "a number of seconds above 0"
_FRACTION = "a number from 0 up to, but not, 1"
_FEEDBACK = "plain, ef or markov"
_YES_NO = "true or false"
_SPEC = "a compressor such as sign, bf16, qsgd:4 or top-k:0.01/bf16 (see psrv compressors)"

Workers = Annotated[
    Count,
    Option("Worker processes in the run.", _COUNT, short="-n"),
]
Link = Annotated[
    Annotated[str, AfterValidator(_link)] | None,
    Option(
        "Rate of every process's link, as 100mbit or 1gbit, each process on an emulated host of "
        "its own (Linux, root); by default all talk over the loopback.",
        "a rate such as 100mbit or 1gbit, at least 64kbit, or none",
        panel="Connection",
    ),
]
Out = Annotated[Path | None, Option("Folder for the run's files.", "a folder", panel="Measurement")]
Trace = Annotated[
    bool, Option("Record spans for trace.json (Perfetto).", _YES_NO, panel="Measurement")
]


class Settings(BaseModel):
    """Base of the three configurations: frozen, no unknown names, one-line errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        str_strip_whitespace=True,
        defer_build=True,  # validators are built when first used, and not for --help
    )

    @model_validator(mode="wrap")
    @classmethod
    def _one_line_errors(
        cls, values: Any, build: ModelWrapValidatorHandler[Self], info: ValidationInfo
    ) -> Self:
        try:
            return build(values)
        except ValidationError as error:
            raise _explain(cls, error, values, info.context or {}) from None

    @classmethod
    def option(cls, name: str) -> Option:
        """The description of one field."""
        metadata = cls.model_fields[name].metadata
        return next(item for item in metadata if isinstance(item, Option))


class JobConfig(Settings):
    """What is trained and how: the same on every worker, and in a simulation."""

    method: Annotated[str, Option("Method to train with; see 'psrv methods'.", "a method name")] = (
        "cd-adam"
    )
    task: Annotated[
        str | None, Option("Built-in task to train; see 'psrv tasks'.", "a task name")
    ] = None
    workers: Workers = 4
    servers: Annotated[
        int,
        Field(ge=1, le=1),
        Option("Server processes.", "1: this version runs one server process", hidden=True),
    ] = 1
    rounds: Annotated[Count | None, Option("Rounds to train; the task has a default.", _COUNT)] = (
        None
    )
    lr: Annotated[
        NotNegative | TheoryStep | None,
        Option(
            "Step size: a number, or 'theory' or 'theory*4', the one that the method's theorem "
            "allows, times a number. The task has a default for each method.",
            "a number of at least 0, or theory, or theory*4 and the like",
        ),
    ] = None
    lr_drops: Annotated[
        Annotated[str, AfterValidator(_drops)] | None,
        Option(
            "Fractions of the run after which the step size is divided by ten: 0.5,0.75.",
            "ascending numbers between 0 and 1, such as 0.5,0.75",
        ),
    ] = None
    batch: Annotated[
        Count | None, Option("Samples a worker takes in a round; the task has a default.", _COUNT)
    ] = None
    anchor_batch: Annotated[
        Count | None,
        Option("Samples a worker takes in a dense round of MARINA; by default batch / p.", _COUNT),
    ] = None
    seed: Annotated[
        int,
        Field(ge=0, lt=1 << 63),
        Option("Seed of the data order, the start and the compressors.", "a whole number from 0"),
    ] = 0
    blocks: Annotated[
        Count | Literal["tensor", "global"],
        Option(
            "Coordinates that share one scale: a number, 'tensor' or 'global'.",
            "tensor, global, or a whole number of at least 1",
            panel="Method",
        ),
    ] = 32768
    compressor: Annotated[
        str | None,
        Option("Compressor for both directions (ef21, marina: up).", _SPEC, panel="Method"),
    ] = None
    up_compressor: Annotated[
        str | None, Option("Compressor from worker to server.", _SPEC, panel="Method")
    ] = None
    down_compressor: Annotated[
        str | None, Option("Compressor from server to worker.", _SPEC, panel="Method")
    ] = None
    uplink: Annotated[
        Feedback | Literal["marina"] | None,
        Option(
            "Feedback from worker to server: plain, ef, markov or marina.",
            "plain, ef, markov or marina",
            panel="Method",
        ),
    ] = None
    downlink: Annotated[
        Feedback | None,
        Option("Feedback from server to worker: plain, ef or markov.", _FEEDBACK, panel="Method"),
    ] = None
    rule: Annotated[
        str | None,
        Option("Update rule, in place of the method's own.", "an update rule", panel="Method"),
    ] = None
    momentum: Annotated[
        Fraction | None, Option("Momentum; beta of signum.", _FRACTION, panel="Method")
    ] = None
    weight_decay: Annotated[
        NotNegative, Option("Weight decay.", "a number, at least 0", panel="Method")
    ] = 0.0
    decoupled: Annotated[
        bool, Option("Decay the weights apart from the step, as AdamW.", _YES_NO, panel="Method")
    ] = False
    beta1: Annotated[
        Fraction | None, Option("Decay of Adam's first moment.", _FRACTION, panel="Method")
    ] = None
    beta2: Annotated[
        Fraction | None, Option("Decay of Adam's second moment.", _FRACTION, panel="Method")
    ] = None
    nu: Annotated[
        Positive | None,
        Option("Constant inside AMSGrad's root.", "a number above 0", panel="Method"),
    ] = None
    eps: Annotated[
        Positive | None,
        Option("Constant beside 1-bit Adam's root.", "a number above 0", panel="Method"),
    ] = None
    warmup: Annotated[
        Count | None,
        Option(
            "Dense rounds at the start of 1-bit Adam; by default a fifth of the run.",
            _COUNT,
            panel="Method",
        ),
    ] = None
    init: Annotated[
        Literal["dense", "compressed"] | None,
        Option(
            "How Markov channels open: with a dense round, or compressed from zero.",
            "dense or compressed",
            panel="Method",
        ),
    ] = None
    probability: Annotated[
        Annotated[float, Field(gt=0, le=1)] | None,
        Option(
            "Probability of a dense round of MARINA; by default the share of the vector that "
            "a compressed message holds.",
            "a number above 0 and at most 1",
            panel="Method",
        ),
    ] = None
    eval_every: Annotated[
        Count | None,
        Option(
            "Rounds between evaluations; by default about ten in a run.",
            _COUNT,
            panel="Measurement",
        ),
    ] = None
    check_every: Annotated[
        Annotated[int, Field(ge=0)],
        Option(
            "Rounds between checks that all replicas are equal; 0 never checks.",
            "a whole number, at least 0",
            panel="Measurement",
        ),
    ] = 100
    on_nonfinite: Annotated[
        Literal["abort"],
        Option("What to do on NaN or infinity in a gradient.", "abort"),
    ] = "abort"
    link: Link = None
    trace: Trace = False
    out: Out = None
    data: Annotated[Path | None, Option("Where the task's data files are.", "a file or folder")] = (
        None
    )

    def method_options(self) -> dict[str, Any]:
        """The options of ``psrv.methods.resolve`` that have a value."""
        values = {name: getattr(self, name) for name in METHOD_OPTIONS}
        return {name: value for name, value in values.items() if value is not None}


COMMAND_OPTIONS = frozenset({"workers", "servers", "link", "trace", "out"})
"""What psrv decides of a job whose training script is the user's own."""

METHOD_OPTIONS = (
    "compressor",
    "up_compressor",
    "down_compressor",
    "uplink",
    "downlink",
    "rule",
    "momentum",
    "weight_decay",
    "decoupled",
    "beta1",
    "beta2",
    "nu",
    "eps",
    "warmup",
    "init",
    "probability",
)


class ConnectConfig(Settings):
    """How a worker finds its server and its place in the run."""

    server: Annotated[
        str,
        AfterValidator(_server_address),
        Option("Address of the server.", "tcp://HOST:PORT", panel="Connection"),
    ] = DEFAULT_ADDRESS
    rank: Annotated[
        Annotated[int, Field(ge=0)] | None,
        Option(
            "This worker's rank; by default the server gives one.",
            "a whole number from 0 to workers - 1",
            panel="Connection",
            launcher=("RANK", "SLURM_PROCID"),
        ),
    ] = None
    workers: Annotated[
        Count | None,
        Option(
            "Worker processes in the run.",
            _COUNT,
            short="-n",
            launcher=("WORLD_SIZE", "SLURM_NTASKS"),
        ),
    ] = None
    connect_timeout: Annotated[
        Positive,
        Option("Seconds to wait for the server to answer.", _SECONDS, panel="Connection"),
    ] = 30.0
    out: Out = None
    trace: Trace = False

    @model_validator(mode="after")
    def _rank_below_workers(self) -> ConnectConfig:
        if self.rank is not None and self.workers is not None and self.rank >= self.workers:
            raise ConfigError(
                f"rank is {self.rank} in a run of {self.workers} workers; "
                f"expected 0 to {self.workers - 1}"
            )
        return self


class ServerConfig(Settings):
    """How the server is reached, and how long it waits for whom."""

    bind: Annotated[
        str,
        AfterValidator(_bind_address),
        Option(
            "Address to listen on; port * takes any free one.", "tcp://HOST:PORT", panel="Server"
        ),
    ] = DEFAULT_ADDRESS
    workers: Workers = 4
    insecure: Annotated[
        bool,
        Option(
            "Allow other machines to connect, without keys: for a network you trust.",
            _YES_NO,
            panel="Server",
        ),
    ] = False
    lease: Annotated[
        Positive,
        Option("Seconds of silence after which a worker is lost.", _SECONDS, panel="Server"),
    ] = 30.0
    heartbeat: Annotated[
        Positive, Option("Seconds between heartbeats.", _SECONDS, panel="Server")
    ] = 1.0
    join_timeout: Annotated[
        Positive, Option("Seconds to wait for all workers to join.", _SECONDS, panel="Server")
    ] = 120.0
    round_timeout: Annotated[
        Positive,
        Option(
            "Seconds a round may wait for a worker that is alive before the run is ended.",
            _SECONDS,
            panel="Server",
        ),
    ] = 1800.0
    max_message: Annotated[
        Annotated[int, Field(ge=1024)],
        Option(
            "Largest message accepted, in bytes.",
            "a whole number of bytes, at least 1024",
            panel="Server",
        ),
    ] = 256 * MIB
    address_file: Annotated[
        Path | None,
        Option("File to write the real address to, once bound.", "a file name", panel="Server"),
    ] = None
    slow_ms: Annotated[
        NotNegative,
        Option(
            "Milliseconds to sleep in each reduction: a test aid that makes the server slow.",
            "a number of milliseconds, at least 0",
            panel="Server",
            hidden=True,
        ),
    ] = 0.0
    link: Link = None
    out: Out = None
    trace: Trace = False

    @model_validator(mode="after")
    def _reachable_on_purpose(self) -> ServerConfig:
        if not self.insecure and not is_loopback(self.bind):
            raise ConfigError(
                f"bind is {self.bind}, which other machines can reach, and there are no keys; "
                "bind to 127.0.0.1, or add --insecure on a network you trust"
            )
        if self.lease < 2 * self.heartbeat:
            raise ConfigError(
                f"lease is {self.lease:g} s with a heartbeat every {self.heartbeat:g} s; "
                "expected a lease of at least two heartbeats"
            )
        return self


def unknown(name: str, known: set[str]) -> str:
    """The end of a sentence about an option that does not exist."""
    close = difflib.get_close_matches(name, sorted(known), n=1)
    hint = f"did you mean '{close[0]}'?" if close else "'psrv launch --help' lists them"
    return f"which is not an option; {hint}"


def _explain(
    model: type[Settings],
    error: ValidationError,
    values: Mapping[str, object],
    labels: Mapping[str, str],
) -> ConfigError:
    """The first complaint of a validation, as one line."""
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if name not in model.model_fields:
        return ConfigError(f"'{name}' was set, {unknown(name, set(model.model_fields))}")
    found = values.get(name)
    text = repr(found) if isinstance(found, str) else str(found)
    label = labels.get(name, name)
    return ConfigError(f"{label} is {text}; expected {model.option(name).expected}")
