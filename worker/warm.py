"""Compile, or load from the cache, every kernel that a worker or a simulation runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from psrv import codec
from psrv.codec.base import Blocks, Bucket, aligned
from psrv.codec.channel import Channel, Feedback
from psrv.layout import Layout, Tensor
from psrv.methods import METHODS, Method
from psrv.worker.rules import make_rule
from psrv.worker.sender import Sender

PLAIN = Channel(Feedback.PLAIN, "dense")
"""What the outgoing vector is run with: the compressors have been, and may refuse d = 40."""


def warmup(methods: Iterable[Method] = METHODS.values()) -> int:
    """Run the compressors, the rule and the outgoing vector of methods, on small vectors.

    Returns:
        How many methods were run.

    Raises:
        CodecError: the kernels do not compute on this machine what the specification says.
    """
    chosen = list(methods)
    codec.warmup(spec for m in chosen for link in (m.up, m.down) for spec in link.specs)
    layout = Layout.build([Tensor("x", (40,))])
    bucket = Bucket(0, 0, 40, 0, Blocks.of([40]))
    for method in chosen:
        rule = make_rule(method, 40)
        sender = Sender(replace(method, up=PLAIN), layout, 0, 0, 1, rule.state)
        # Before and after a warm-up: what runs then is not the same.
        for round in (0, method.warmup or 0):
            sender.encode(bucket, round, 1.0)
            rule.apply(aligned(40), aligned(40), bucket, 0.1, 0.0, round)
    return len(chosen)
