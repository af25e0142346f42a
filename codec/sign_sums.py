"""Sums of sign payloads, a chunk of 4,096 coordinates at a time.

A row of 64 coordinates is summed in registers over all payloads, or over ``TOGETHER`` of
them at a time; the rest of a chunk group by group, then coordinate by coordinate, always with
the same operations in the same order. Every function here becomes part of the kernel that
calls it (``sign_kernels.py``).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from psrv.codec.kernels import JIT
from psrv.codec.sign_vector import (
    copy_bytes,
    count_rows,
    fetch_ahead,
    lanes_total,
    sum_group,
    sum_rows,
)
from psrv.codec.vector import load_byte, load_float, load_word64, store_float, store_word64

INLINE = {"inline": "always", **JIT}
"""For pieces of kernels, so that they are compiled where they are used and not once more."""

TOGETHER = 32
"""Payloads that are added in one pass; more go on from the sum in memory, a chunk in L1."""

DIRECT = 12
"""Payloads that are read where they lie; of more, a chunk's signs are copied first."""

RUN = 512
"""Bytes of a chunk's signs."""

# Scratch of a sum, on the stack: where its parts begin, in bytes, and how many float32.
COPIES = 0
RUNS = COPIES + TOGETHER * RUN
SCALES = RUNS + 8 * TOGETHER
LANES = SCALES + 4 * TOGETHER
ZEROS = LANES + 256
WORK = (ZEROS + 256) // 4


@njit(**INLINE)
def bit(bits, j):
    """Bit j of a run of bits, as uint8."""
    return (load_byte(bits + (j >> 3)) >> np.uint8(j & 7)) & np.uint8(1)


@njit(**INLINE)
def fill_row(row, value):
    """row = 64 times ``value``."""
    for j in range(64):
        store_float(np.float32(value), row + 4 * j)


@njit(**INLINE)
def _gather(payloads, first, size, bits, count, work):
    """To ``RUNS`` of ``work``: where the signs of payloads ``first`` and following are read.

    Payloads tend to start at the same offset in a page. Read in turn where they lie, more than
    the L1 cache has ways, often eight, throw each other out of it. A few are better left
    there all the same: the processor sees what will be read next.
    """
    for k in range(size):
        run = payloads[first + k] + bits
        if payloads.size > DIRECT:
            copy = work + COPIES + RUN * k
            copy_bytes(run, (count + 7) >> 3, copy)
            fetch_ahead(run + RUN, RUN)
            run = copy
        store_word64(np.uint64(run), work + RUNS + 8 * k)


@njit(**INLINE)
def sum_chunk(payloads, weights, header, bits, count, factor, out, residual, rho, work, normed):
    """out = ((w_0 c_0 + w_1 c_1) + ...) * factor (+ rho * residual) of a chunk.

    Args:
        payloads: int64[n], an address each.
        weights: address of float32[n], or 0: all are 1.
        header: byte of a payload where the block's scale is, or -1: all are 1.
        bits: byte of a payload where the chunk's signs are.
        residual: address of float32[count], or 0.
        work: address of ``WORK`` float32 of scratch.
        normed: whether the norm is asked for.

    Returns:
        The sum of |out|, float32, as ``docs/payloads.md`` has a chunk's.
    """
    rows, groups = count >> 6, count >> 4
    runs, scales, lanes, zeros = work + RUNS, work + SCALES, work + LANES, work + ZEROS
    fill_row(zeros, -0.0)  # -0 + x is x, for every x; 0 + x would not keep a -0
    n = payloads.size
    for first in range(0, n, TOGETHER):
        size = min(TOGETHER, n - first)
        for k in range(size):
            scale = np.float32(1) if header < 0 else load_float(payloads[first + k] + header)
            if weights:
                scale *= load_float(weights + 4 * (first + k))
            store_float(scale, scales + 4 * k)
        _gather(payloads, first, size, bits, count, work)
        last = first + size == n
        times = factor if last else np.float32(1)  # x * 1 is x
        rest = residual if last else 0
        start, step = (out, 256) if first else (zeros, 0)
        fill_row(lanes, 0.0)
        into = lanes if normed else 0
        sum_rows(runs, scales, size, rows, start, step, times, out, rest, rho, into)
        for g in range(4 * rows, groups):
            here, lane = out + 64 * g, lanes + 64 * (g & 3)
            begin = here if first else zeros
            source, ratio = (rest + 64 * g, rho) if rest else (zeros, np.float32(1))
            sum_group(runs, 2 * g, scales, size, begin, times, here, source, ratio, lane)
        for j in range(16 * groups, count):
            total = load_float(out + 4 * j) if first else np.float32(-0.0)
            for k in range(size):
                scale = load_float(scales + 4 * k)
                total += -scale if bit(load_word64(runs + 8 * k), j) else scale
            total *= times
            if rest:
                total += rho * load_float(rest + 4 * j)
            store_float(total, out + 4 * j)
            lane = lanes + 4 * (j & 63)
            store_float(load_float(lane) + abs(total), lane)
    return lanes_total(lanes)


@njit(**INLINE)
def count_chunk(payloads, bits, rows, factor, out, residual, rho, work):
    """``sum_chunk`` of whole rows where every scale and weight is 1."""
    runs, zeros = work + RUNS, work + ZEROS
    fill_row(zeros, 0.0)
    n = payloads.size
    for first in range(0, n, TOGETHER):
        size = min(TOGETHER, n - first)
        last = first + size == n
        times = factor if last else np.float32(1)
        rest = residual if last else 0
        start, step = (out, 256) if first else (zeros, 0)
        _gather(payloads, first, size, bits, 64 * rows, work)
        count_rows(runs, size, rows, start, step, times, out, rest, rho)
