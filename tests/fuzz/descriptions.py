"""Spoilt descriptions of a job in a Join: the server takes one, or turns its sender away."""

from __future__ import annotations

import copy
import re
from random import Random
from typing import Any

from fuzz.inputs import Finding, forms
from psrv.codec.registry import parse
from psrv.errors import PsrvError
from psrv.layout import Layout, Tensor
from psrv.messages import Error, Join
from psrv.methods import METHODS
from psrv.server.membership import Begin, Heard, Membership, Send
from virtual_run import hello, make_job, make_terms

ALIEN: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, 3, 7, -1, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 40, (1 << 63) - 1,
    0.0, 0.5, -1.0, 1e308, "", "global", "tensor", "plain", "ef", "markov", "sgd", "amsgrad",
    "\x1b[2J", "\ud800", "x" * 5000, [], [1], [[]], {}, {"a": 1},
)  # fmt: skip
SPECS = tuple(form.spec for form in forms())
LETTERS = "0123456789.,:/=-_e \u0665\x00kr"
MODELS = (
    [["w", [5, 3], 0], ["b", [6], 0]],
    [["x", [3], 0]],
    [["x", [1000, 1000], 0]],
    [["x", [(1 << 31) - 1], 0]],
    [["x", [1 << 31], 0]],
    [["x", [1 << 32], 0]],
)


def spec(random: Random) -> str:
    """One that may be a compressor's."""
    text = list(random.choice(SPECS))
    for _ in range(random.choice((0, 0, 0, 0, 0, 0, 1, 2))):
        at, letter = random.randrange(len(text) + 1), random.choice(LETTERS)
        text[at : at + random.randrange(2)] = letter * random.choice((1, 1, 1, 20, 5000))
    return "".join(text)


def spoilt(random: Random) -> dict[str, Any]:
    """A description of some job, changed in up to three places."""
    described = make_job(random.choice(list(METHODS))).describe()
    described = copy.deepcopy(described)
    method = described["method"]
    method["up_compressor"], method["down_compressor"] = spec(random), spec(random)
    method["uplink"], method["downlink"] = (random.choice(("plain", "plain", "ef")) for _ in "ud")
    described["tensors"] = copy.deepcopy(random.choice(MODELS))
    small = described["tensors"][0][1][0] < 10
    described["blocks"] = random.choice(("global", "tensor", 7 if small else 1 << 24))
    described["decays"] = [0.0]
    for _ in range(random.choice((0, 0, 0, 1, 2, 3))):
        holder: Any = described
        while True:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            key = random.choice(keys)
            inner = holder[key]
            if not isinstance(inner, dict | list) or not inner or random.random() < 0.3:
                break
            holder = inner
        holder[key] = copy.deepcopy(random.choice(ALIEN))
    if random.random() < 0.95:
        described["layout"] = digest(described)
    return described


def digest(described: dict[str, Any]) -> str:
    """Of the layout that the description gives, or of none."""
    try:
        method = described["method"]
        whole = any(parse(method[f"{way}_compressor"]).whole for way in ("up", "down"))
        tensors = [Tensor(name, tuple(shape), group) for name, shape, group in described["tensors"]]
        if sum(tensor.size for tensor in tensors) > 1 << 32:
            return ""
        return Layout.build(tensors, described["blocks"], whole=whole).digest().hex()
    except (PsrvError, KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return ""


def receive(described: dict[str, Any], workers: int) -> str:
    """What the server does about it: "begin", "wait", or why the sender is turned away.

    Raises:
        Finding: anything else.
    """
    membership = Membership(make_terms(workers))
    membership.handle(Heard("peer", hello(0)), 0)
    try:
        actions = membership.handle(Heard("peer", Join(0, described)), 0)
    except Exception as error:
        raise Finding(f"a Join raised {type(error).__name__}: {error}") from error
    for action in actions:
        if isinstance(action, Begin):
            return "begin"
        if isinstance(action, Send) and isinstance(action.message, Error):
            text = action.message.text
            return f"turned away: {re.sub(r'[^a-z ].*', '', text.removeprefix('worker 0: '))}"
    return "wait"
