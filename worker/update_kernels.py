"""The arithmetic of the update rules and of local momentum, coordinate by coordinate.

Float32 throughout, one rounding an operation, in the order written: Numba neither
reorders nor fuses here, so replicas on different processors stay identical. Constants
such as 1 - beta are computed in float64 and rounded to float32 once, by the caller.
Each kernel walks over stretches of 4,096 coordinates, short loops that LLVM vectorises,
while the stretch is in the L1 cache. All arrays are float32, shape (d_b,), contiguous.
"""

from __future__ import annotations

import numpy as np
from numba import njit

JIT = {"nogil": True, "cache": True, "error_model": "numpy"}
STRETCH = 4096


@njit(**JIT)
def local_nesterov(g, m, m_next, mu):
    """m_next = mu m + g; g = mu m_next + g."""
    for i in range(g.size):
        g_i = g[i]
        m_i = mu * m[i] + g_i
        m_next[i] = m_i
        g[i] = mu * m_i + g_i


@njit(**JIT)
def local_ema(g, m, m_next, beta, complement):
    """m_next = beta m + (1 - beta) g; g = m_next."""
    for i in range(g.size):
        m_i = beta * m[i] + complement * g[i]
        m_next[i] = m_i
        g[i] = m_i


@njit(**JIT)
def shared_ema(g, m, beta, complement):
    """g = beta m + (1 - beta) g."""
    for i in range(g.size):
        g[i] = beta * m[i] + complement * g[i]


@njit(**JIT)
def sgd(x, u, eta, decay):
    """x = x - eta (u + decay x)."""
    for i in range(x.size):
        x[i] = x[i] - eta * (u[i] + decay * x[i])


@njit(**JIT)
def nesterov(x, u, buffer, eta, decay, mu):
    """d = u + decay x; buffer = mu buffer + d; x = x - eta (d + mu buffer)."""
    for start in range(0, x.size, STRETCH):
        stop = min(start + STRETCH, x.size)
        xs, us, bs = x[start:stop], u[start:stop], buffer[start:stop]
        for i in range(xs.size):
            bs[i] = mu * bs[i] + (us[i] + decay * xs[i])
        for i in range(xs.size):
            xs[i] = xs[i] - eta * ((us[i] + decay * xs[i]) + mu * bs[i])


@njit(**JIT)
def ef_nesterov(x, u, buffer, eta, decay, mu):
    """buffer = mu buffer + decay x; x = x - eta (u + mu buffer + decay x), summed left to right."""
    for start in range(0, x.size, STRETCH):
        stop = min(start + STRETCH, x.size)
        xs, us, bs = x[start:stop], u[start:stop], buffer[start:stop]
        for i in range(xs.size):
            bs[i] = mu * bs[i] + decay * xs[i]
        for i in range(xs.size):
            xs[i] = xs[i] - eta * ((us[i] + mu * bs[i]) + decay * xs[i])


@njit(**JIT)
def amsgrad(x, u, m, v, v_max, alpha, decay, shrink, beta1, rest1, beta2, rest2, nu):
    """AMSGrad, nu inside the root, no bias correction; ``shrink`` is 1 or 1 - alpha lambda.

    x = shrink x (decoupled) or u = u + decay x; m = beta1 m + rest1 u;
    v = beta2 v + rest2 (u u); v_max = max(v_max, v); x = x - (alpha m) / sqrt(v_max + nu).
    """
    for start in range(0, x.size, STRETCH):
        stop = min(start + STRETCH, x.size)
        xs, us, ms = x[start:stop], u[start:stop], m[start:stop]
        vs, tops = v[start:stop], v_max[start:stop]
        for i in range(xs.size):
            g = us[i] + decay * xs[i]
            ms[i] = beta1 * ms[i] + rest1 * g
        for i in range(xs.size):
            g = us[i] + decay * xs[i]
            vs[i] = beta2 * vs[i] + rest2 * (g * g)
        for i in range(xs.size):
            tops[i] = vs[i] if vs[i] > tops[i] else tops[i]
        for i in range(xs.size):
            xs[i] = shrink * xs[i] - (alpha * ms[i]) / np.sqrt(tops[i] + nu)


@njit(**JIT)
def adam(x, u, m, v, alpha, decay, shrink, beta1, rest1, beta2, rest2, eps):
    """Adam without bias correction; ``shrink`` is 1 or 1 - alpha lambda.

    x = shrink x (decoupled) or u = u + decay x; m = beta1 m + rest1 u;
    v = beta2 v + rest2 (u u); x = x - (alpha m) / (sqrt(v) + eps).
    """
    for start in range(0, x.size, STRETCH):
        stop = min(start + STRETCH, x.size)
        xs, us, ms, vs = x[start:stop], u[start:stop], m[start:stop], v[start:stop]
        for i in range(xs.size):
            u_i = us[i] + decay * xs[i]
            ms[i] = beta1 * ms[i] + rest1 * u_i
            vs[i] = beta2 * vs[i] + rest2 * (u_i * u_i)
        for i in range(xs.size):
            xs[i] = shrink * xs[i] - (alpha * ms[i]) / (np.sqrt(vs[i]) + eps)


@njit(**JIT)
def frozen_adam(x, u, m, v, alpha, decay, shrink, eps):
    """m = u + decay x, or 0 where v is 0; x = shrink x - (alpha m) / (sqrt(v) + eps)."""
    zero = np.float32(0)
    for start in range(0, x.size, STRETCH):
        stop = min(start + STRETCH, x.size)
        xs, us, ms, vs = x[start:stop], u[start:stop], m[start:stop], v[start:stop]
        for i in range(xs.size):
            m_i = us[i] + decay * xs[i]
            ms[i] = m_i if vs[i] > zero else zero
        for i in range(xs.size):
            xs[i] = shrink * xs[i] - (alpha * ms[i]) / (np.sqrt(vs[i]) + eps)
