"""The compiled loops: cached on disk, without the interpreter's lock, inside their buffers."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

from codec_pair import Pair, real_draw
from codec_reference import Draw, Floats, wide
from guard_pages import Guarded
from psrv import codec
from psrv.codec import Blocks, kernels

USE = """
import importlib, json, pkgutil, sys
from numba.core.dispatcher import Dispatcher
from psrv import codec

codec.warmup()
if sys.argv[1] == "train":
    import numpy as np
    from psrv.codec.channel import Channel, Downlink, Feedback, Relay, Uplink
    from psrv.layout import Layout, Tensor

    codec.digest()
    buckets = Layout.build([Tensor("x", (40, 30))], 500).buckets
    memories = [f for f in Feedback if f != "marina"]  # which takes no sign
    for up in memories:
        for down in memories:
            channels = Channel(up, "sign"), Channel(down, "sign")
            worker = Uplink(channels[0], buckets, 0, 0, 1)
            replica = Downlink(channels[1], buckets, 0)
            server = [Relay(*channels, bucket, 0, 1) for bucket in buckets]
            for round in range(2):
                worker.buffer[:] = np.arange(1200)
                for bucket, relay in zip(buckets, server, strict=True):
                    result = relay.run([worker.encode(bucket, round, 0.1)], round, 0.1)
                    replica.decode(bucket, result, round, 0.1)
                for end in (worker, replica, *server):
                    end.commit()

names = [m.name for m in pkgutil.iter_modules(codec.__path__, "psrv.codec.")]
everything = [f for name in names for f in vars(importlib.import_module(name)).values()]
found = {f for f in everything if isinstance(f, Dispatcher)}
print(json.dumps({
    "hits": sum(sum(f.stats.cache_hits.values()) for f in found),
    "misses": sum(sum(f.stats.cache_misses.values()) for f in found),
    "unused": sorted(
        f.__name__
        for f in found
        if not f.signatures and f.targetoptions.get("inline") != "always"  # part of others
    ),
}))
"""


def process(what: str, cache: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", USE, what],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_after_warmup_another_process_compiles_nothing(tmp_path: Path) -> None:
    first = process("warmup", tmp_path)
    assert first["misses"] > 0
    assert first["unused"] == [], "these are compiled in the first round"
    second = process("train", tmp_path)
    assert second["misses"] == 0
    assert second["hits"] > 0


def dispatchers() -> Iterator[Dispatcher]:
    for module in pkgutil.iter_modules(codec.__path__, "psrv.codec."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Dispatcher):
                yield value


def test_kernels_release_the_lock_are_cached_and_keep_every_rounding() -> None:
    for kernel in dispatchers():
        assert kernel.targetoptions["nogil"], kernel.__name__
        assert not kernel.targetoptions.get("fastmath"), kernel.__name__
        assert kernel.stats.cache_path, kernel.__name__


def test_warmup_counts_the_compressors() -> None:
    assert codec.warmup() == len(codec.COMPRESSORS)
    assert codec.warmup(["sign", "top-k:0.01/fp16"]) == 2


# What compressors share

COUNTS = (0, *range(1, 71), 4080, 4095, 4096, 4097, 8209)


def at(array: Floats) -> int:
    return array.__array_interface__["data"][0]


def unaligned(vector: Floats) -> Floats:
    """A copy that starts on an odd address."""
    room = np.empty(4 * vector.size + 1, np.uint8)
    copy = room[1:] if room.ctypes.data % 2 == 0 else room[:-1]
    out = copy.view("<f4")
    out[:] = vector
    return out


def same(a: Floats, b: Floats) -> None:
    """Equal bit for bit."""
    np.testing.assert_array_equal(a.copy().view(np.uint32), b.view(np.uint32))


@pytest.mark.parametrize("factor", [1.0, 0.3, -0.0])
@pytest.mark.parametrize("rho", [None, 1.0, 0.7])
def test_finish_mean(factor: float, rho: float | None) -> None:
    for count in COUNTS:
        x, residual = wide(count, 1), wide(count, 2)
        x[::5] = -0.0
        expected = x * np.float32(factor)
        if rho is not None:
            expected = expected + np.float32(rho) * residual
        buffer, rest = unaligned(x), unaligned(residual)
        where = at(rest) if rho is not None else 0
        kernels.finish_mean(at(buffer), count, np.float32(factor), where, np.float32(rho or 0))
        same(buffer, expected)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_first_not_finite(value: float) -> None:
    for count in COUNTS:
        x = unaligned(np.full(count, -np.finfo(np.float32).max, np.float32))
        assert kernels.first_not_finite(at(x), count) == -1
        for i in {0, 15, 16, count // 2, 4095, 4096, count - 1}:
            if 0 <= i < count:
                x[-1] = value
                x[i] = value
                assert kernels.first_not_finite(at(x), count) == i
                x[i] = x[-1] = 1


# Guard pages


@pytest.mark.skipif(sys.platform == "win32", reason="no mprotect")
def test_no_kernel_reads_or_writes_outside_its_buffers(pair: Pair) -> None:
    """A touch outside ends the process: vector operations escape Numba's bounds check."""
    draw = real_draw(Draw(workers=1))
    vectors, payloads = Guarded(4 * 1000), Guarded(1 << 16)
    for count in (*range(1, 71), 127, 1000):
        for sizes in ([count], [1] * count, [9] * (count // 9) + [count % 9 or 9]):
            blocks, x = Blocks.of(sizes), wide(sum(sizes))
            for at_end in (True, False):
                buffer = vectors.floats(x.size, at_end)
                buffer[:] = x
                bound = pair.real.payload_bound(blocks, draw.workers)
                room = payloads.place(bound, at_end)
                size = pair.real.encode(buffer, blocks, draw, room)
                written = room[:size].copy()
                payload = payloads.place(size, at_end)
                payload[:] = written
                pair.real.decode(payload, blocks, draw, buffer)
                pair.real.decode_onto(payload, blocks, draw, buffer, buffer)
                pair.real.reduce([payload, payload], blocks, [draw, draw], buffer, x, 1.0)
                pair.real.reduce([written], blocks, [draw], x.copy(), buffer, 1.0)
                buffer[:] = x
                pair.real.encode(x.copy(), blocks, draw, np.empty(bound, np.uint8), buffer, 0.5)
