"""The loops of the two sign compressors."""

from __future__ import annotations

import numpy as np
from numba import njit

from psrv.codec import kernels as old
from psrv.codec.kernels import (
    JIT,
    _add_block,
    _unpack_block,
    decode_sign,
    decode_sign_onto,
    decode_unscaled,
    decode_unscaled_onto,
    finish_mean,
    finite_scales,
    norm1,
)
from psrv.codec.vector import load_float

__all__ = [
    "decode_sign",
    "decode_sign_onto",
    "decode_unscaled",
    "decode_unscaled_onto",
    "finite_scales",
    "norm1",
]

_encode_sign, _encode_unscaled, _subtract = old.encode_sign, old.encode_unscaled, old.subtract_signs


@njit(**JIT)
def encode_sign(x, residual, rho, edges, bit_edges, payload, lanes):
    if residual:
        finish_mean(x, edges[-1], np.float32(1), residual, rho)
    return _encode_sign(x, edges, bit_edges, payload, lanes)


@njit(**JIT)
def reduce_sign(payloads, weights, factor, edges, bit_edges, out, residual, rho):
    blocks = edges.size - 1
    for b in range(blocks):
        count = edges[b + 1] - edges[b]
        at = 4 * edges[b]
        for k in range(payloads.size):
            scale = load_float(payloads[k] + 4 * b)
            if weights:
                scale *= load_float(weights + 4 * k)
            bits = payloads[k] + 4 * blocks + bit_edges[b]
            if k == 0:
                _unpack_block(bits, count, scale, out + at)
            else:
                _add_block(bits, count, scale, out + at, out + at)
        finish_mean(out + at, count, factor, residual + at if residual else 0, rho)


@njit(**JIT)
def relay_sign(payloads, weights, factor, edges, bit_edges, residual, rho, out, result, lanes):
    reduce_sign(payloads, weights, factor, edges, bit_edges, out, residual, rho)
    return _encode_sign(out, edges, bit_edges, result, lanes)


@njit(**JIT)
def encode_unscaled(x, residual, rho, count, key, payload):
    if residual:
        finish_mean(x, count, np.float32(1), residual, rho)
    bad = _encode_unscaled(x, count, key, payload)
    if bad < 0:
        _subtract(payload, count, x)
    return bad


@njit(**JIT)
def reduce_unscaled(payloads, weights, factor, count, out, residual, rho):
    for k in range(payloads.size):
        scale = np.float32(1)
        if weights:
            scale *= load_float(weights + 4 * k)
        if k == 0:
            _unpack_block(payloads[k], count, scale, out)
        else:
            _add_block(payloads[k], count, scale, out, out)
    finish_mean(out, count, factor, residual, rho)
