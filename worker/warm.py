"""Compile, or load from the cache, every kernel that a worker or a simulation runs."""

from __future__ import annotations

from psrv import codec
from psrv.codec.base import Blocks, Bucket, aligned
from psrv.layout import Layout, Tensor
from psrv.methods import METHODS
from psrv.worker.rules import make_rule
from psrv.worker.sender import Sender


def warmup() -> int:
    """Run the codec and every rule and outgoing vector once, on small vectors.

    Returns:
        How many methods were run.
    """
    codec.warmup()
    layout = Layout.build([Tensor("x", (40,))])
    bucket = Bucket(0, 0, 40, 0, Blocks.of([40]))
    for method in METHODS.values():
        Sender(method, layout, 0, 0, 1).encode(bucket, 0, 1.0)
        make_rule(method, 40).apply(aligned(40), aligned(40), bucket, 0.1, 0.0)
    return len(METHODS)
