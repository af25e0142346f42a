"""A vector of 2^31 - 1 coordinates that takes no memory: only what is touched becomes real.

It lies between forbidden pages, 8 GiB of addresses without a promise of memory. A sparse
payload is added to it where its coordinates are, so that every product of an index and a size
is as large as it can be. A dense payload would touch all of it, which no test can hold; its
kernels compute addresses in int64 from an int64 base, as these do.
"""

from __future__ import annotations

import json
import mmap
from collections import Counter
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codec_reference import Floats
from fuzz.inputs import Finding, Form
from fuzz.mutations import mutated
from fuzz.record import Record
from guard_pages import Guarded
from psrv.codec import Blocks, Compressor, Draw, gaps
from psrv.codec.base import address
from psrv.errors import CodecError

LARGEST = (1 << 31) - 1
"""The most coordinates of a bucket of a sparse compressor: indices are int32."""

SENDERS = 1 << 20
"""So many that a sender's share of the vector is small as well."""


class Vast:
    """The vector, zero but for what was added since the last ``take``."""

    def __init__(self) -> None:
        self.vector = Guarded(4 * LARGEST, lazy=True).floats(LARGEST, at_end=True)
        self._first = address(self.vector)

    def take(self) -> tuple[NDArray[np.int64], Floats]:
        """Where the vector is not zero, ascending, and what is there; it is zero afterwards."""
        page = mmap.PAGESIZE
        start, stop = self._first // page, -(-(self._first + self.vector.nbytes) // page)
        with open("/proc/self/pagemap", "rb") as file:
            file.seek(8 * start)
            entries = np.frombuffer(file.read(8 * (stop - start)), np.uint64)
        found = []
        for number in np.flatnonzero(entries >> np.uint64(62)).tolist():  # in memory, or swapped
            low = max(0, ((start + number) * page - self._first) // 4)
            part = self.vector[low : ((start + number + 1) * page - self._first) // 4]
            found.append(low + np.flatnonzero(part))
        places = np.concatenate([np.empty(0, np.int64), *found])
        values = self.vector[places]
        self.vector[places] = 0
        return places, values


def ladder(compressor: Compressor, blocks: Blocks, draw: Draw, random: Random) -> tuple[bytes, int]:
    """A payload of the values 1 to K, and K.

    On the coordinates that ``draw`` gives; or on some of our choice, the first and the last.
    """
    size = compressor.payload_bytes(blocks, draw)
    if size is not None:
        return np.arange(1, size // 4 + 1, dtype="<f4").tobytes(), size // 4
    k = compressor.amount.count(LARGEST)
    points = np.array([0, *sorted(random.sample(range(1, LARGEST - 1), k - 2)), LARGEST - 1], "<i4")
    form, size = gaps.choose(address(points), k, LARGEST)
    code = np.empty(size, np.uint8)
    gaps.encode(address(points), k, LARGEST, form, address(code))
    return np.arange(1, k + 1, dtype="<f4").tobytes() + code.tobytes(), k


def try_vast(job: dict[str, Any], record: Record) -> Counter[str]:
    """Add payloads of a sparse compressor, good and spoilt, to the vast vector.

    Raises:
        Finding: a good one was refused, what was added is not its values, or a spoilt one
            that was refused has left something.
    """
    compressor, blocks = Form(*job["form"]).compressor(), Blocks.of([LARGEST])
    counts: Counter[str] = Counter()
    try:
        vast = Vast()
    except OSError:  # a limit on addresses, or no overcommitment
        return Counter({"no room": 1})
    random = Random(f"{job['seed']}/vast/{job['form']}")
    for case in range(job["cases"]):
        workers = SENDERS if compressor.shared else 1
        draw = Draw(job["seed"], case, 0, random.randrange(workers), workers)
        good, count = ladder(compressor, blocks, draw, random)
        spoilt = mutated(random, good, [good], len(good) + 1, False)
        for payload in (good, spoilt):
            record.note(json.dumps({**job, "cases": case + 1}), payload)
            data = np.frombuffer(payload, np.uint8)
            try:
                compressor.decode_onto(data, blocks, draw, vast.vector, vast.vector)
            except CodecError as error:
                if payload is good:
                    raise Finding(f"a good payload is refused: {error}") from None
                if vast.take()[0].size:
                    raise Finding(f"refused ({error}), but something was written") from None
                counts["refused"] += 1
                continue
            places, values = vast.take()
            if payload is good:
                sent = np.arange(1, count + 1, dtype=np.float32)
                if places.size != count or not np.array_equal(np.sort(values), sent * values.min()):
                    raise Finding(f"1 to {count} were sent; {places.size} came, {values[:9]}...")
                counts["coordinates"] += places.size
            counts["accepted"] += 1
    return counts
