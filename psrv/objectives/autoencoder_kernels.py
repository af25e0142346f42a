"""Single coordinates of many workers' gradients: the loop of ``autoencoder.py``."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def coordinates(images, left, inner, matrix, penalty, slots, ranks, offsets, columns, out):
    """out[j] = the gradient of the worker whose j it is, at columns[j].

    Args:
        images: float32 (c, m, features). left: (c, 2 code, m). inner: (c, code, code).
        matrix, penalty: (2 code, features): D' above E, and the gradient of the penalty.
        slots, ranks: int64: the parts of this chunk that each of these ranks holds.
        offsets, columns: rank i's are columns[offsets[i]:offsets[i + 1]].
        out: float32[columns.size]; only these ranks' are written.
    """
    rows, features = images.shape[1], images.shape[2]
    code = inner.shape[1]
    for s in range(ranks.size):
        slot, rank = slots[s], ranks[s]
        for j in range(offsets[rank], offsets[rank + 1]):
            row, column = divmod(np.int64(columns[j]), features)
            total = np.float32(0)
            for m in range(rows):
                total += left[slot, row, m] * images[slot, m, column]
            if row < code:
                for k in range(code):
                    total += inner[slot, row, k] * matrix[k, column]
            out[j] = total + penalty[row, column]
