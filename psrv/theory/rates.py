"""The step size that a theorem allows, for a method as psrv runs it.

What ``lr="theory"`` stands for: the constants of the problem (``Smoothness``) meet those of
the compressor, in the layout's buckets and among the run's workers.

    dense both ways, rule sgd           1 / L-                   gradient descent
    marina up, lossless down, sgd       Theorem 4 (5 with mu)    A, B and p
    markov up, lossless down, sgd       Theorem 6 (7 with mu)    alpha

Source: Szlendak, Tyurin and Richtarik 2022 (permutation compressors). Buckets are drawn
apart from each other and share no coordinate, so A is their largest and B their smallest;
likewise alpha is their smallest.
"""

from __future__ import annotations

import re

import numpy as np

from psrv.codec.base import Blocks, Compressor
from psrv.codec.channel import Channel, Feedback
from psrv.codec.permk import PermK
from psrv.codec.registry import parse
from psrv.codec.sign import Sign
from psrv.codec.topk import TopK
from psrv.errors import ConfigError
from psrv.layout import Layout
from psrv.methods import Method
from psrv.theory.inequality import AB, ab_of_variance
from psrv.theory.smoothness import Smoothness
from psrv.theory.steps import ef21_step, marina_step

_SPEC = re.compile(r"theory(?:-pl)?(?:\*([0-9.]+(?:e[-+]?[0-9]+)?))?")


def multiplier(text: str) -> float:
    """4.0 from ``theory*4``, and 1.0 from ``theory`` or ``theory-pl``.

    Raises:
        ConfigError: anything else.
    """
    found = _SPEC.fullmatch(text.replace(" ", ""))
    try:
        factor = float(found[1] or 1) if found else -1.0
    except ValueError:
        factor = -1.0
    if not 0 < factor < float("inf"):
        raise ConfigError(
            f"lr is '{text}'; expected a number, 'theory', or 'theory*4' and the like"
        )
    return factor


def proved_step(
    text: str, method: Method, layout: Layout, workers: int, smoothness: Smoothness
) -> float:
    """The step size that ``theory*4`` (Theorems 4, 6) or ``theory-pl*4`` (5, 7) stands for.

    Raises:
        ConfigError: as ``multiplier`` and ``theory_step``; or no mu is known for ``theory-pl``.
    """
    factor, mu = multiplier(text), None
    if "-pl" in text:
        mu = smoothness.mu
        if not mu:
            raise ConfigError(
                f"lr is '{text}', but no mu > 0 of the Polyak-Lojasiewicz condition is known for "
                "this problem; use theory"
            )
    return factor * theory_step(method, layout, workers, smoothness, mu)


def theory_step(
    method: Method,
    layout: Layout,
    workers: int,
    smoothness: Smoothness,
    mu: float | None = None,
) -> float:
    """The largest step size that is proved for a completed method.

    Args:
        mu: of the Polyak-Lojasiewicz condition; None for smooth nonconvex functions.

    Raises:
        ConfigError: no theorem of the paper is about this method, or about its compressor.
    """
    up, s = method.up, smoothness
    if method.weight_decay:
        raise ConfigError(
            f"lr is 'theory', whose constants are those of f without the weight decay of "
            f"{method.weight_decay:g} that the rule adds; give a number, or put the term into f"
        )
    if method.rule != "sgd" or method.outgoing != "gradient" or not _lossless(method.down):
        raise ConfigError(_none(method, "its update is not that of SGD on what workers sent"))
    if up.feedback is Feedback.MARINA:
        ab, p = ab_of(parse(up.compressor), layout, workers), method.probability
        if p is None:
            raise ConfigError("probability is not settled; complete the method first")
        return marina_step(s.L_minus, s.L_plus, s.L_plus_minus, ab.A, ab.B, p, mu=mu)
    if up.feedback is Feedback.MARKOV:
        alpha = min(alpha_of(up.codec(), bucket.blocks, workers) for bucket in layout.buckets)
        return ef21_step(s.L_minus, s.L_plus, alpha, mu=mu)
    if not _lossless(up):
        raise ConfigError(_none(method, f"no step is proved for {up.feedback} {up.compressor}"))
    return 1 / s.L_minus


def ab_of(codec: Compressor, layout: Layout, workers: int) -> AB:
    """A and B of an unbiased compressor in every bucket of a layout.

    Raises:
        ConfigError: a biased compressor.
    """
    found = []
    for bucket in layout.buckets:
        if isinstance(codec, PermK):
            pair = codec.ab(bucket.blocks, workers)
            found.append(None if pair is None else AB(*pair))
        else:
            omega = codec.omega(bucket.blocks, workers)
            found.append(None if omega is None else ab_of_variance(omega, workers))
    known = [ab for ab in found if ab is not None]
    if len(known) < len(found):
        raise ConfigError(f"compressor '{codec.spec}' is biased: it has no A and B")
    return AB(max(ab.A for ab in known), min(ab.B for ab in known))


def alpha_of(codec: Compressor, blocks: Blocks, workers: int) -> float:
    """alpha in E ||C(x) - x||^2 <= (1 - alpha) ||x||^2, for every x of these blocks.

    1 / d_b of the largest block for the scaled sign: its worst case, a single coordinate.
    For C / (1 + omega) it is 1 / (1 + omega).

    Raises:
        ConfigError: a compressor for which none is proved.
    """
    if codec.lossless:
        return 1.0
    if isinstance(codec, Sign):
        return 1 / int(np.diff(blocks.edges).max())
    if isinstance(codec, TopK) and codec.form.name in ("float32", "natural"):
        return codec.count(blocks) / blocks.dimension / (1 + codec.form.omega)
    omega = parse(codec.spec).omega(blocks, workers)
    if omega is None:
        raise ConfigError(f"no alpha is proved for compressor '{codec.spec}'")
    return 1 / (1 + omega)


def _lossless(channel: Channel) -> bool:
    return channel.feedback is Feedback.PLAIN and channel.codec().lossless


def _none(method: Method, reason: str) -> str:
    return (
        f"lr is 'theory', but no theorem gives method '{method.name}' a step size: {reason}; give "
        "a number, or use marina, ef21 or sgd"
    )
