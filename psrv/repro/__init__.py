"""The papers' experiments, each run by one command: ``psrv repro NAME``.

experiment.py   what an experiment says about itself, and the data files it needs
study.py        what an experiment is given: cells, runs, panels, tables, claims
verdict.py      held, not held or undecided: the rule
store.py        finished cells on disk    cells.py, cell_process.py   cells in parallel
runs.py         runs over sockets and in simulation, read back
learning.py     training runs as cells    ladder.py   their step sizes
agreement.py    a run over sockets beside the simulated one
figures.py      panels to PNG    page.py   report.html    output.py   data.json and the rest
docs/repro.md says how to use it, how to add an experiment, and what a verdict means.
"""

from __future__ import annotations

import difflib
import importlib

from psrv.errors import ConfigError
from psrv.repro.experiment import Experiment

# Module of each experiment; imported when it is asked for.
EXPERIMENTS = {
    "perm-quadratic": "psrv.repro.perm_quadratic",
    "perm-autoencoder": "psrv.repro.perm_autoencoder",
    "hessian-variance": "psrv.repro.hessian_variance",
    "cdadam-logreg": "psrv.repro.cdadam_logreg",
    "cdadam-cifar": "psrv.repro.cdadam_cifar",
    "ef-cifar": "psrv.repro.ef_cifar",
    "ef-wallclock": "psrv.repro.ef_wallclock",
}


def load_experiment(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in EXPERIMENTS:
        close = difflib.get_close_matches(name, EXPERIMENTS, n=1, cutoff=0.5)
        hint = f"did you mean '{close[0]}'?" if close else "'psrv repro --list' shows them"
        raise ConfigError(f"there is no experiment '{name}'; {hint}")
    found = importlib.import_module(EXPERIMENTS[name]).EXPERIMENT
    assert isinstance(found, Experiment)
    return found


__all__ = ["EXPERIMENTS", "Experiment", "load_experiment"]
