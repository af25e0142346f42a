"""The methods, as rows of one table: what goes out, through which channels, into which rule.

A new method is a row here. ``resolve`` turns a name and the user's options into a
``Method``; any uplink, downlink, compressor and rule may be combined, and a combination
that cannot work is refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

from psrv.codec.channel import Channel, Feedback
from psrv.codec.permk import PermK
from psrv.errors import ConfigError
from psrv.layout import Layout

OUTGOING = ("gradient", "nesterov", "ema", "first-moment")
"""What a worker sends: g; mu m + g after m <- mu m + g; m after m <- beta m + (1 - beta) g; or g in
the warm-up and then beta1 m + (1 - beta1) g with the m that all workers share."""

RULES = ("sgd", "nesterov", "ef-nesterov", "amsgrad", "onebit-adam")
"""How the received vector updates the model; see ``worker/rules.py``."""

INITS = ("dense", "compressed")
"""How a Markov channel opens: with the vector itself, or compressed from a memory of zero."""

_USED_BY_RULE = {
    "sgd": (),
    "nesterov": ("momentum",),
    "ef-nesterov": ("momentum",),
    "amsgrad": ("beta1", "beta2", "nu", "decoupled"),
    "onebit-adam": ("beta1", "beta2", "eps", "decoupled", "warmup"),
}
_USED_BY_OUTGOING = {
    "gradient": (),
    "nesterov": ("momentum",),
    "ema": ("momentum",),
    "first-moment": ("beta1",),
}
_FIXED = {"name", "outgoing", "up", "down", "summary", "source"}
_CHANNEL_OPTIONS = ("uplink", "downlink", "compressor", "up_compressor", "down_compressor", "rule")


@dataclass(frozen=True)
class Method:
    """Everything that a worker and a server need to know of a method.

    Attributes:
        up, down: the channels.
        momentum: mu, or beta of signum; in [0, 1).
        weight_decay: lambda >= 0; each rule says where it enters.
        decoupled: weight decay as in AdamW (of the Adam family).
        beta1, beta2: in [0, 1). nu: > 0, inside AMSGrad's root. eps: > 0, beside Adam's.
        warmup: T_1, the rounds of 1-bit Adam in which all is dense; None: not settled yet.
        init: how Markov channels open: one of ``INITS``.
        probability: p of MARINA's dense rounds, in (0, 1]; None: not settled yet.
    """

    name: str
    outgoing: str
    up: Channel
    down: Channel
    rule: str
    momentum: float = 0.9
    weight_decay: float = 0.0
    decoupled: bool = False
    beta1: float = 0.9
    beta2: float = 0.99
    nu: float = 1e-8
    eps: float = 1e-8
    warmup: int | None = None
    init: str = "compressed"
    probability: float | None = None
    summary: str = field(default="", compare=False)
    source: str = field(default="", compare=False)

    @property
    def compressor(self) -> str:
        """The compressor, or ``X up, Y down`` where they differ."""
        up, down = self.up.compressor, self.down.compressor
        return up if up == down else f"{up} up, {down} down"

    @property
    def used_options(self) -> tuple[str, ...]:
        """The options that change what this method does."""
        named = _USED_BY_RULE[self.rule] + _USED_BY_OUTGOING[self.outgoing]
        feedbacks = (self.up.feedback, self.down.feedback)
        if Feedback.MARKOV in feedbacks and self.rule != "onebit-adam":
            named += ("init",)
        if Feedback.MARINA in feedbacks:
            named += ("probability",)
        return ("weight_decay", *dict.fromkeys(named))

    def completed(self, layout: Layout, workers: int, rounds: int | None = None) -> Method:
        """The method with the defaults that depend on the run filled in.

        p becomes the share of a vector's bytes that a compressed message has (1/n for
        perm-k, K/d for rand-k; Lemmas 13 and 14 of the permutation paper), T_1 a fifth of
        the rounds.

        Args:
            rounds: T; None where it is unknown, as in a user's own script.

        Raises:
            ConfigError: a warm-up that is longer than the run, or has no default.
        """
        method = self
        if Feedback.MARINA is self.up.feedback and self.probability is None:
            method = replace(method, probability=dense_share(self.up, layout, workers))
        if "warmup" in self.used_options:
            if self.warmup is None and rounds is None:
                raise ConfigError(
                    f"method '{self.name}' needs warmup, the number of dense rounds at the start; "
                    "a fifth of the run is usual"
                )
            if self.warmup is None and rounds is not None:
                method = replace(method, warmup=max(1, rounds // 5))
            elif rounds is not None and not 0 < (self.warmup or 0) < rounds:
                raise ConfigError(
                    f"warmup is {self.warmup} in a run of {rounds} rounds; expected fewer, or "
                    "nothing is ever compressed, and at least 1, or nothing moves"
                )
        return _opened(method)

    def remarks(self, workers: int) -> list[str]:
        """What is worth knowing of this method with so few workers: it works, and means less."""
        found = []
        if workers == 1 and self.up.codec().shared:
            found.append(
                f"with one worker, {self.up.compressor} has nobody to divide the vector with: all "
                "of it is sent each round"
            )
        if workers == 1 and self.up.compressor == self.down.compressor == "sign-unscaled":
            found.append("with one worker, the majority vote is that worker's own signs")
        return found

    def check_minibatches(self) -> None:
        """Raises ``ConfigError`` for a method that only full gradients suit.

        MARINA takes the difference of what goes out at two points on one batch, and local
        momentum at the earlier point is of other batches.
        """
        if self.up.feedback is Feedback.MARINA and self.outgoing != "gradient":
            raise ConfigError(
                f"method '{self.name}' sends local momentum, which a marina uplink cannot carry on "
                "minibatches: both of its gradients must be of one batch; use marina or sgd with "
                "this uplink, or a task that takes all its data each round"
            )

    def describe(self) -> dict[str, Any]:
        """Plain values: what two workers must agree on, and what goes into job.json."""
        described: dict[str, Any] = {
            "name": self.name,
            "outgoing": self.outgoing,
            "uplink": str(self.up.feedback),
            "downlink": str(self.down.feedback),
            "up_compressor": self.up.compressor,
            "down_compressor": self.down.compressor,
            "rescale": self.up.rescale or self.down.rescale,
            "rule": self.rule,
        }
        return described | {name: getattr(self, name) for name in self.used_options}


def dense_share(channel: Channel, layout: Layout, workers: int) -> float:
    """MARINA's default p: bytes of a compressed message over those of a dense one, at most 1."""
    codec = channel.codec()
    if isinstance(codec, PermK):
        rule, values = codec.division, codec.form.size(1 << 10) / (4 << 10)
        units = rule.parts or -(-layout.dimension // (rule.run or 1))
        group = -(-workers // rule.groups)
        return values / min(group, units)
    compressed = sum(codec.payload_bound(b.blocks, workers) for b in layout.buckets)
    return min(1.0, compressed / (4 * layout.dimension))


def _opens_dense(method: Method) -> bool:
    markov = Feedback.MARKOV in (method.up.feedback, method.down.feedback)
    return markov and method.init == "dense"


def _opened(method: Method) -> Method:
    """The method with its channels told how they open, and when MARINA's rounds are dense.

    Options that it does not use go back to what they are where nobody has set them.
    """
    used = method.used_options
    method = replace(
        method,
        init=method.init if "init" in used else "compressed",
        probability=method.probability if "probability" in used else None,
        warmup=method.warmup if "warmup" in used else None,
    )

    def channel(link: Channel) -> Channel:
        opening = 0
        if method.rule == "onebit-adam":
            opening = method.warmup or 0
        elif link.feedback is Feedback.MARKOV:
            opening = int(method.init == "dense")
        probability = method.probability if link.feedback is Feedback.MARINA else None
        return replace(link, opening=opening, probability=probability)

    return replace(method, up=channel(method.up), down=channel(method.down))


def from_description(described: Mapping[str, Any]) -> Method:
    """The method that ``describe`` described. Raises ``ConfigError`` for anything else."""
    try:
        rescale = bool(described["rescale"])
        up, down = (
            Channel(Feedback(described[link]), str(described[spec]), rescale)
            for link, spec in (("uplink", "up_compressor"), ("downlink", "down_compressor"))
        )
        known = {f.name for f in fields(Method)}
        options = {k: v for k, v in described.items() if k in known - {"name", "outgoing", "rule"}}
        method = Method(
            str(described["name"]),
            str(described["outgoing"]),
            up,
            down,
            str(described["rule"]),
            **options,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"not a description of a method: {error!r}") from error
    _check(method)
    for option in ("probability", "warmup"):
        if option in method.used_options and getattr(method, option) is None:
            raise ConfigError(f"{option} of method '{method.name}' is not settled")
    return _opened(method)


def _row(
    name: str,
    outgoing: str,
    up: tuple[str, str],
    down: tuple[str, str],
    rule: str,
    summary: str,
    source: str,
    rescale: bool = False,
    **options: Any,
) -> Method:
    uplink, downlink = (Channel(Feedback(f), c, rescale) for f, c in (up, down))
    return _opened(
        Method(name, outgoing, uplink, downlink, rule, summary=summary, source=source, **options)
    )


_DENSE = ("plain", "dense")
_VOTE = ("plain", "sign-unscaled")
_EF = "Zheng, Huang and Kwok 2019"
_CD = "Wang, Lin and Chen 2022"
_EF21 = "Richtarik, Sokolov and Fatkhullin 2021"

METHODS: Mapping[str, Method] = MappingProxyType(
    {
        row.name: row
        for row in (
            _row("sgd", "gradient", _DENSE, _DENSE, "sgd", "full-precision SGD", "baseline"),
            _row(
                "sgdm", "gradient", _DENSE, _DENSE, "nesterov",
                "full-precision SGD with Nesterov momentum", "torch.optim.SGD(nesterov=True)",
            ),
            _row(
                "signsgd", "gradient", _VOTE, _VOTE, "sgd",
                "signs up, majority vote down", "Bernstein et al. 2018",
            ),
            _row(
                "signum", "ema", _VOTE, _VOTE, "sgd",
                "signs of local momentum up, majority vote down", "Bernstein et al. 2019",
            ),
            _row(
                "dist-ef-sgd", "gradient", ("ef", "sign"), ("ef", "sign"), "sgd",
                "error feedback both ways", f"{_EF}, Algorithms 2 and 3", rescale=True,
            ),
            _row(
                "dist-ef-sgdm", "nesterov", ("ef", "sign"), ("ef", "sign"), "ef-nesterov",
                "dist-EF-blockSGDM: local Nesterov momentum, error feedback both ways",
                f"{_EF}, Algorithm 4", rescale=True,
            ),
            _row(
                "amsgrad", "gradient", _DENSE, _DENSE, "amsgrad",
                "full-precision AMSGrad", "Reddi, Kale and Kumar 2018",
            ),
            _row(
                "amsgrad-naive", "gradient", ("plain", "sign"), ("plain", "sign"), "amsgrad",
                "AMSGrad on compressed gradients, nothing remembered", f"{_CD}, section 7.1",
            ),
            _row(
                "amsgrad-ef", "gradient", ("ef", "sign"), ("ef", "sign"), "amsgrad",
                "AMSGrad with error feedback both ways", f"{_CD}, section 7.1",
            ),
            _row(
                "cd-adam", "gradient", ("markov", "sign"), ("markov", "sign"), "amsgrad",
                "AMSGrad with Markov memory both ways", f"{_CD}, Algorithm 1",
            ),
            _row(
                "onebit-adam", "first-moment", ("ef", "sign"), ("ef", "sign"), "onebit-adam",
                "dense Adam first, then momentum in signs over a frozen variance",
                "Tang et al. 2021",
            ),
            _row(
                "double-squeeze", "gradient", ("ef", "sign"), ("ef", "sign"), "sgd",
                "error feedback both ways, never rescaled", "Tang et al. 2019",
            ),
            _row(
                "ef21", "gradient", ("markov", "top-k:0.01"), _DENSE, "sgd",
                "SGD with Markov memory of the workers", _EF21, init="dense",
            ),
            _row(
                "ef21-two-way", "gradient", ("markov", "top-k:0.01"), ("markov", "top-k:0.01"),
                "sgd", "SGD with Markov memory both ways", f"{_EF21}; {_CD}, section 7.2",
                init="dense",
            ),
            _row(
                "marina", "gradient", ("marina", "perm-k"), _DENSE, "sgd",
                "differences of gradients, each worker its part; now and then all of it",
                "Szlendak, Tyurin and Richtarik 2022, Algorithm 1",
            ),
        )
    }
)  # fmt: skip


def resolve(name: str, **options: Any) -> Method:
    """A method by name, with the user's options in place of the preset's.

    Args:
        name: a row of ``METHODS``.
        options: ``momentum``, ``weight_decay``, ``decoupled``, ``beta1``, ``beta2``, ``nu``,
            ``uplink``, ``downlink``, ``compressor`` (both ways), ``up_compressor``,
            ``down_compressor``, ``rule``. None means the preset's own.

    Raises:
        ConfigError: unknown name or option, a value out of range, an option that this method
            does not use, or a combination that cannot work.
    """
    preset = METHODS.get(name)
    if preset is None:
        raise ConfigError(f"method '{name}' is unknown; expected one of {', '.join(METHODS)}")
    given = {k: v for k, v in options.items() if v is not None}
    known = {f.name for f in fields(Method)} - _FIXED
    for option in given:
        if option not in known and option not in _CHANNEL_OPTIONS:
            allowed = ", ".join(sorted({*known, *_CHANNEL_OPTIONS}))
            raise ConfigError(f"option '{option}' is unknown; expected one of {allowed}")
    both = given.pop("compressor", None)
    up = _channel(preset.up, "uplink", "up_compressor", both, given)
    one_way = preset.up.compressor != preset.down.compressor
    down = _channel(preset.down, "downlink", "down_compressor", None if one_way else both, given)
    if Feedback.EF not in (up.feedback, down.feedback):
        up, down = replace(up, rescale=False), replace(down, rescale=False)
    rule = given.pop("rule", preset.rule)
    if rule not in RULES:
        raise ConfigError(f"rule '{rule}' is unknown; expected one of {', '.join(RULES)}")
    method = replace(preset, up=up, down=down, rule=rule)
    for option, value in given.items():
        if option not in method.used_options and value != getattr(preset, option):
            raise ConfigError(
                f"method '{name}' does not use {option}; it uses {', '.join(method.used_options)}"
            )
    method = replace(method, **given)
    _check(method)
    return _opened(method)


def _channel(
    preset: Channel, link: str, spec: str, both: str | None, given: dict[str, Any]
) -> Channel:
    feedback = given.pop(link, preset.feedback)
    try:
        feedback = Feedback(feedback)
    except ValueError:
        allowed = ", ".join(Feedback)
        raise ConfigError(f"{link} '{feedback}' is unknown; expected one of {allowed}") from None
    compressor = given.pop(spec, None) or both or preset.compressor
    return Channel(feedback, compressor, preset.rescale)


def _check(method: Method) -> None:
    if (method.up.rescale or method.down.rescale) and (
        Feedback.MARINA is method.up.feedback or _opens_dense(method)
    ):
        raise ConfigError(
            f"method '{method.name}' sends nothing while the step size is 0, and so could miss the "
            "dense rounds that marina and init=dense rely on; use double-squeeze or sgd with these "
            "channels, which are never silent"
        )
    _check_compressors(method.up, method.down)
    if method.outgoing not in OUTGOING or method.rule not in RULES:
        raise ConfigError(
            f"method '{method.name}' sends '{method.outgoing}' into rule '{method.rule}'; "
            f"expected one of {', '.join(OUTGOING)}, and one of {', '.join(RULES)}"
        )
    if method.rule == "onebit-adam" and (
        Feedback.MARINA in (method.up.feedback, method.down.feedback)
        or method.outgoing != "first-moment"
    ):
        raise ConfigError(
            "rule 'onebit-adam' needs the momentum that method 'onebit-adam' sends, through plain, "
            "ef or markov channels"
        )
    if method.outgoing == "first-moment" and method.rule != "onebit-adam":
        raise ConfigError(
            f"method '{method.name}' sends Adam's momentum, which rule '{method.rule}' does not "
            "keep; leave its rule as it is"
        )
    if method.init not in INITS:
        raise ConfigError(f"init is {method.init!r}; expected {' or '.join(INITS)}")
    if method.probability is not None and not 0 < _number(method, "probability") <= 1:
        raise ConfigError(f"probability is {method.probability}; expected above 0 and at most 1")
    if method.warmup is not None and (
        isinstance(method.warmup, bool) or not isinstance(method.warmup, int) or method.warmup < 0
    ):
        raise ConfigError(f"warmup is {method.warmup!r}; expected a number of rounds, 0 or more")
    for option in ("momentum", "beta1", "beta2"):
        value = _number(method, option)
        if not 0 <= value < 1:
            raise ConfigError(f"{option} is {value}; expected a number from 0 to below 1")
    for option in ("nu", "eps"):
        if not _number(method, option) > 0:
            raise ConfigError(f"{option} is {getattr(method, option)}; expected a number above 0")
    if not 0 <= _number(method, "weight_decay") < float("inf"):
        raise ConfigError(f"weight_decay is {method.weight_decay}; expected 0 or more")


def _check_compressors(up: Channel, down: Channel) -> None:
    sender, server = up.codec(), down.codec()
    if down.feedback is Feedback.MARINA:
        raise ConfigError(
            "the downlink cannot use marina feedback: its compressed rounds hold only on average "
            "over many senders, and the server is one; use markov, ef or plain"
        )
    if server.shared:
        raise ConfigError(
            f"the downlink cannot use compressor '{down.compressor}': it divides the vector among "
            "the senders of a round, and the server is one; give --up-compressor "
            f"{up.compressor} and another --down-compressor, such as dense or rand-k"
        )
    if sender.sparse and down.compressor == "sign-unscaled":
        raise ConfigError(
            f"a downlink of sign-unscaled cannot follow an uplink of '{up.compressor}': a "
            "coordinate that no worker sent is a tie, and would be moved at random; use sign or "
            "dense down"
        )


def _number(method: Method, option: str) -> float:
    value = getattr(method, option)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(f"{option} is {value!r}; expected a number")
    return float(value)
