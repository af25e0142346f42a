"""psrv: a parameter server that trains over an ordinary network, compressed both ways.

In a training script::

    session = psrv.connect()
    optimizer = psrv.DistributedOptimizer(model, session, method="cd-adam", lr=1e-3)

In one process, for research::

    result = psrv.simulate(objective, method="cd-adam", workers=20, rounds=1000, lr=1e-3)
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "connect": "psrv.worker.session",
    "Session": "psrv.worker.session",
    "DistributedOptimizer": "psrv.worker.optimizer",
    "simulate": "psrv.simulation",
    "Simulation": "psrv.simulation",
    "PsrvError": "psrv.errors",
    "ConfigError": "psrv.errors",
    "NonFiniteError": "psrv.errors",
    "LostError": "psrv.errors",
    "RefusedError": "psrv.errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import psrv`` costs nothing."""
    module = _PUBLIC.get(name)
    if module is None:
        raise AttributeError(f"module 'psrv' has no attribute '{name}'")
    value = getattr(import_module(module), name)
    globals()[name] = value
    return value
