"""Small models, their data, and runs of one or more workers as threads."""

from __future__ import annotations

import threading

import numpy as np
import torch
from torch import nn

from local_run import Started, serving

F = nn.functional


_DRAWING = threading.Lock()


def make_model(seed=0) -> nn.Sequential:
    """The same bits for a seed in every thread, though torch's generator is the process's."""
    with _DRAWING:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def make_norm(seed=0) -> nn.Sequential:
    """A model with BatchNorm's statistics."""
    with _DRAWING:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def batch(t: int, rank=0, width=6):
    draw = torch.Generator().manual_seed(1000 * rank + t)
    x = torch.randn(16, width, generator=draw)
    return x, torch.randint(3, (16,), generator=draw)


NEEDED = {"onebit-adam": {"warmup": 3}}
"""Options without which a script cannot use a method."""


def train(model, optimizer, rounds, rank=0, start=0, scheduler=None, decide=None):
    twice = optimizer.state_dict().get("psrv", {}).get("method", {}).get("uplink") == "marina"
    for t in range(start, start + rounds):
        x, y = batch(t, rank)

        def evaluate(t=t, x=x, y=y):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            if decide is not None:
                decide(t)
            return loss

        if twice:
            optimizer.step(evaluate)
        else:
            evaluate()
            optimizer.step()
        if scheduler is not None:
            scheduler.step()


def alone(script, **server):
    """Run ``script(session)`` as the only worker of a server."""
    with serving(1, **server) as running, running.connect(0) as session:
        return script(session)


def together(script, workers=2):
    """Run ``script(session)`` on each worker; what they return, by rank."""

    def run(server, rank):
        with server.connect(rank) as session:
            return script(session)

    with serving(workers) as server:
        started = [Started(run, server, rank) for rank in range(workers)]
        return [worker.result() for worker in started]


def flat(model) -> np.ndarray:
    return np.concatenate([p.detach().float().numpy().ravel() for p in model.parameters()])
