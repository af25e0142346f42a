"""Gathering and scattering runs of coordinates, for perm-k.

A sender's values are those of its runs, one run after the other: run i is the coordinates
from starts[i] on, ``length`` of them or as many as there are before d. They pass through
``room`` a piece at a time, where they are in the L1 cache, and from there into a value
format or out of one (``codec/format_kernels.py``).

``starts`` is int32; the callers have proved that runs are inside [0, d), that none appears
twice, and that their sizes add up to ``total``.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from psrv.codec.format_kernels import decode_values, encode_scaled
from psrv.codec.format_vector import prefetch, stack_room
from psrv.codec.kernels import JIT, finish_mean, first_not_finite
from psrv.codec.lanes import F32, FLOATS, load, store
from psrv.codec.vector import add_floats, add_scaled, load_float, scale_floats, store_float

PIECE = 2048
"""Values in ``room``: a multiple of 64, as the value formats ask for."""

FAR = 1 << 18
"""From so many coordinates on, 1 MiB, lines are asked for ahead of time: a reduction with a
residual then takes a third of the time in a bucket of 4 MiB. Within a second-level cache
asking takes longer than waiting."""

AHEAD = 64
"""Runs that lie between one that is asked for and the one that is worked on."""


@intrinsic
def copy_floats(ctx, x, out):
    """out[0:16] = x[0:16]."""

    def gen(c, b, sig, args):
        store(b, load(b, args[0]), args[1])
        return c.get_dummy_value()

    return types.none(types.int64, types.int64), gen


@intrinsic
def leave_floats(ctx, left, x):
    """x[0:16] = left[0:16], but for zeros in x, which stay as they are."""

    def gen(c, b, sig, args):
        left, x = args
        old = load(b, x)
        zero = ir.Constant(FLOATS, [ir.Constant(F32, 0.0)] * FLOATS.count)
        store(b, b.select(b.fcmp_ordered("==", old, zero), old, load(b, left)), x)
        return c.get_dummy_value()

    return types.none(types.int64, types.int64), gen


@njit(**JIT)
def _gather(x, starts, length, dimension, run, skip, count, room):
    """room = the next ``count`` values, from value ``skip`` of run ``run`` on.

    Returns:
        The run and the value in it that come next.
    """
    if length == 1:
        for i in range(count):
            store_float(load_float(x + 4 * np.int64(starts[run + i])), room + 4 * i)
        return run + count, 0
    done = 0
    while done < count:
        if length == 16 and skip == 0:
            # Whole runs of one vector, the usual kind, without the bookkeeping below.
            while count - done >= 16 and starts[run] <= dimension - 16:
                if dimension >= FAR:
                    prefetch(x + 4 * np.int64(starts[min(run + AHEAD, starts.size - 1)]))
                copy_floats(x + 4 * np.int64(starts[run]), room + 4 * done)
                run, done = run + 1, done + 16
            if done == count:
                break
        start = np.int64(starts[run])
        whole = min(length, dimension - start)
        size = min(whole - skip, count - done)
        at, to = x + 4 * (start + skip), room + 4 * done
        for i in range(size // 16):
            copy_floats(at + 64 * i, to + 64 * i)
        for i in range(size // 16 * 16, size):
            store_float(load_float(at + 4 * i), to + 4 * i)
        done, skip = done + size, skip + size
        if skip == whole:
            run, skip = run + 1, 0
    return run, skip


@njit(**JIT)
def _leave(left, starts, length, dimension, run, skip, count, x):
    """x = left in the values that ``_gather`` took, but for zeros: C(x) is +0 there."""
    if length == 1:
        for i in range(count):
            at = x + 4 * np.int64(starts[run + i])
            if load_float(at) != 0:
                store_float(load_float(left + 4 * i), at)
        return
    done = 0
    while done < count:
        if length == 16 and skip == 0:
            while count - done >= 16 and starts[run] <= dimension - 16:
                leave_floats(left + 4 * done, x + 4 * np.int64(starts[run]))
                run, done = run + 1, done + 16
            if done == count:
                break
        start = np.int64(starts[run])
        whole = min(length, dimension - start)
        size = min(whole - skip, count - done)
        at, of = x + 4 * (start + skip), left + 4 * done
        for i in range(size // 16):
            leave_floats(of + 64 * i, at + 64 * i)
        for i in range(size // 16 * 16, size):
            if load_float(at + 4 * i) != 0:
                store_float(load_float(of + 4 * i), at + 4 * i)
        done, skip = done + size, skip + size
        if skip == whole:
            run, skip = run + 1, 0


def coordinate_of(starts, length, dimension, index):
    """The coordinate of value ``index``. Not compiled: only an error asks for it."""
    for start in starts.tolist():
        whole = min(length, dimension - start)
        if index < whole:
            return start + index
        index -= whole
    return -1


@njit(**JIT)
def encode_runs(code, x, dimension, starts, length, total, payload, key, gain, room):
    """Write the values of the runs; x becomes x - gain * Q(x) there.

    Args:
        code: of the format. x: address of float32[dimension], all finite.
        payload: address of the run of ``total`` numbers.
        key: uint64, of the stream that ``natural`` draws from.
        gain: float32, what the receiver will multiply by.
        room: address of float32[PIECE].

    Returns:
        -1, or the first value whose product with ``gain`` is more than float32 holds.
    """
    run, skip = 0, 0
    for first in range(0, total, PIECE):
        size = min(PIECE, total - first)
        next_run, next_skip = _gather(x, starts, length, dimension, run, skip, size, room)
        encode_scaled(code, room, first, size, total, payload, key, gain)
        bad = first_not_finite(room, size) if gain > 1 else -1
        if bad >= 0:
            return first + bad
        _leave(room, starts, length, dimension, run, skip, size, x)
        run, skip = next_run, next_skip
    return -1


@njit(**JIT)
def first_too_large(code, payload, total, gain, room):
    """-1, or the first of a payload's finite values that float32 cannot hold ``gain`` times."""
    for first in range(0, total, PIECE):
        size = min(PIECE, total - first)
        decode_values(code, payload, first, size, total, gain, room)
        bad = first_not_finite(room, size)
        if bad >= 0:
            return first + bad
    return -1


@njit(**JIT)
def scatter_runs(
    code,
    payload,
    dimension,
    starts,
    length,
    total,
    gain,
    onto,
    out,
    finish,
    factor,
    residual,
    rho,
    room,
):
    """out = base + gain * Q in the runs, where base is 0, or ``out`` itself if ``onto``.

    With ``finish``, out = (base + gain * Q) * factor + rho * residual: for the last sender
    that adds to these coordinates.

    Args:
        payload: address of the run of ``total`` numbers, checked.
        gain, factor, rho: float32. residual: address of float32[dimension], or 0.
        room: address of float32[PIECE].
    """
    zeros = stack_room()
    run, skip = 0, 0
    for first in range(0, total, PIECE):
        count = min(PIECE, total - first)
        decode_values(code, payload, first, count, total, gain, room)
        if length == 1:
            for i in range(count):
                at = 4 * np.int64(starts[first + i])
                value = load_float(out + at if onto else zeros) + load_float(room + 4 * i)
                if finish:
                    value = value * factor
                    if residual:
                        value = value + rho * load_float(residual + at)
                store_float(value, out + at)
            continue
        done = 0
        while done < count:
            if length == 16 and skip == 0:
                while count - done >= 16 and starts[run] <= dimension - 16:
                    at = 4 * np.int64(starts[run])
                    if dimension >= FAR:
                        ahead = 4 * np.int64(starts[min(run + AHEAD, starts.size - 1)])
                        prefetch(out + ahead)
                        if residual:
                            prefetch(residual + ahead)
                    add_floats(room + 4 * done, out + at if onto else zeros, out + at)
                    if finish:
                        if residual:
                            add_scaled(out + at, factor, residual + at, rho)
                        else:
                            scale_floats(out + at, factor)
                    run, done = run + 1, done + 16
                if done == count:
                    break
            start = np.int64(starts[run])
            whole = min(length, dimension - start)
            size = min(whole - skip, count - done)
            at, of = 4 * (start + skip), room + 4 * done
            for i in range(size // 16):
                base = out + at + 64 * i if onto else zeros
                add_floats(of + 64 * i, base, out + at + 64 * i)
            for i in range(size // 16 * 16, size):
                base = out + at + 4 * i if onto else zeros
                store_float(load_float(base) + load_float(of + 4 * i), out + at + 4 * i)
            if finish:
                finish_mean(out + at, size, factor, residual + at if residual else 0, rho)
            done, skip = done + size, skip + size
            if skip == whole:
                run, skip = run + 1, 0
