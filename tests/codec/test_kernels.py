"""The compiled loops: cached on disk, without the interpreter's lock, inside their buffers."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba.core.dispatcher import Dispatcher

from codec_pair import Pair
from codec_reference import wide
from psrv import codec
from psrv.codec import Blocks, kernels, rng

USE = """
import json, sys
from numba.core.dispatcher import Dispatcher
from psrv import codec
from psrv.codec import kernels, rng

codec.warmup()
if sys.argv[1] == "train":
    import numpy as np
    from psrv.codec.channel import Channel, Downlink, Feedback, Relay, Uplink
    from psrv.layout import Layout, Tensor

    codec.digest()
    buckets = Layout.build([Tensor("x", (40, 30))], 500).buckets
    for up in Feedback:
        for down in Feedback:
            channels = Channel(up, "sign"), Channel(down, "sign")
            worker, replica = Uplink(channels[0], buckets, 0, 0, 1), Downlink(channels[1], buckets, 0)
            server = [Relay(*channels, bucket, 0, 1) for bucket in buckets]
            for round in range(2):
                worker.buffer[:] = np.arange(1200)
                for bucket, relay in zip(buckets, server, strict=True):
                    result = relay.run([worker.encode(bucket, round, 0.1)], round, 0.1)
                    replica.decode(bucket, result, round, 0.1)
                for end in (worker, replica, *server):
                    end.commit()

found = [f for m in (kernels, rng) for f in vars(m).values() if isinstance(f, Dispatcher)]
print(json.dumps({
    "hits": sum(sum(f.stats.cache_hits.values()) for f in found),
    "misses": sum(sum(f.stats.cache_misses.values()) for f in found),
    "unused": sorted(f.__name__ for f in found if not f.signatures),
}))
"""


def process(what: str, cache: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", USE, what],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_after_warmup_another_process_compiles_nothing(tmp_path: Path) -> None:
    first = process("warmup", tmp_path)
    assert first["misses"] > 0
    assert first["unused"] == [], "these are compiled in the first round"
    second = process("train", tmp_path)
    assert second["misses"] == 0
    assert second["hits"] > 0


def test_kernels_release_the_lock_are_cached_and_keep_every_rounding() -> None:
    for kernel in (f for m in (kernels, rng) for f in vars(m).values()):
        if isinstance(kernel, Dispatcher):
            assert kernel.targetoptions["nogil"], kernel.__name__
            assert not kernel.targetoptions.get("fastmath"), kernel.__name__
            assert kernel.stats.cache_path, kernel.__name__


def test_warmup_counts_the_compressors() -> None:
    assert codec.warmup() == len(codec.COMPRESSORS)


# Guard pages


class Guarded:
    """A readable and writable run of bytes that ends, and one that begins, at forbidden memory."""

    def __init__(self) -> None:
        page = mmap.PAGESIZE
        self._size = 4 * page
        self._map = mmap.mmap(-1, self._size + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        protect = ctypes.CDLL(None, use_errno=True).mprotect
        protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for at in (start, start + page + self._size):
            assert protect(at, page, 0) == 0, os.strerror(ctypes.get_errno())
        whole = np.frombuffer(self._map, np.uint8)
        self._room = whole[page : page + self._size]

    def places(self, count: int) -> Iterator[np.ndarray]:
        """``count`` bytes at the end, and at the start."""
        yield self._room[self._size - count :]
        yield self._room[:count]


@pytest.mark.skipif(sys.platform == "win32", reason="no mprotect")
def test_no_kernel_reads_or_writes_outside_its_buffers(pair: Pair) -> None:
    """A touch outside ends the process: vector operations escape Numba's bounds check."""
    vectors, payloads = Guarded(), Guarded()
    for count in (*range(1, 71), 127, 1000):
        for sizes in ([count], [1] * count, [9] * (count // 9) + [count % 9 or 9]):
            blocks, d = Blocks.of(sizes), sum(sizes)
            x = wide(d)
            size = pair.real.payload_bytes(blocks)
            for vector, payload in zip(vectors.places(4 * d), payloads.places(size), strict=True):
                buffer = vector.view(np.float32)
                buffer[:] = x
                pair.real.encode(buffer, blocks, 1, payload)
                pair.real.decode(payload, blocks, buffer)
                pair.real.decode_onto(payload, blocks, buffer, buffer)
                pair.real.reduce([payload, payload], blocks, buffer, x, 1.0)
                pair.real.reduce([payload.copy()], blocks, x.copy(), buffer, 1.0)
