"""What people do around an optimizer every day: copies of the model, accumulation, long runs."""

from __future__ import annotations

import copy
import io
import time

import numpy as np
import torch

import psrv
from optimizer.models import F, alone, batch, make_model
from psrv.measure.summary import MAX_HISTORY, WorkerTotals
from psrv.messages import Bye, Direction
from psrv.wire import decode, encode


def step(model, optimizer, t: int) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(batch(t)[0]), batch(t)[1]).backward()
    optimizer.step()


def test_copies_of_the_model_run_and_are_not_timed():
    def script(session):
        model = make_model()
        optimizer = psrv.DistributedOptimizer(model, session, method="sgd", lr=0.1)
        step(model, optimizer, 0)
        copied = copy.deepcopy(model)
        averaged = torch.optim.swa_utils.AveragedModel(model)
        stored = io.BytesIO()
        torch.save(model, stored)
        stored.seek(0)
        loaded = torch.load(stored, weights_only=False)
        outputs = [m(batch(1)[0]).detach().numpy() for m in (model, copied, averaged, loaded)]
        step(model, optimizer, 1)
        assert not np.array_equal(outputs[0], model(batch(1)[0]).detach().numpy())
        return outputs, len(stored.getvalue()), sum(p.numel() for p in model.parameters())

    outputs, size, parameters = alone(script)
    assert all(np.array_equal(o, outputs[0]) for o in outputs)
    assert size < 4 * parameters + 20_000, "the optimizer's vectors were stored with the model"


def test_both_passes_of_an_accumulated_gradient_count_as_compute():
    def script(session):
        model = make_model()
        optimizer = psrv.DistributedOptimizer(model, session, method="sgd", lr=0.1)
        step(model, optimizer, 0)
        for part in range(2):
            loss = F.cross_entropy(model(batch(part)[0]), batch(part)[1])
            time.sleep(0.05)  # stands for work: what is measured is where it is counted
            loss.backward()
        optimizer.step()
        return session.trainer.totals.detail(digest="", wall_seconds=0.0)

    parts = alone(script)["breakdown_seconds"]
    assert parts["compute"] > 0.05
    assert parts["data"] < 0.025


def test_report_of_a_run_with_very_many_evaluations_fits_its_message():
    totals = WorkerTotals(0)
    for t in range(20_000):
        totals.add_evaluation({"round": t, "loss": 0.1 * t, "accuracy": None, "grad_norm": 1e-9})
    detail = totals.detail(digest="ab" * 32, wall_seconds=1.0)
    frames = encode(Bye(0, detail))
    history = decode(frames, max_payload=0, direction=Direction.TO_SERVER).summary["history"]
    assert MAX_HISTORY / 2 <= len(history) <= MAX_HISTORY + 1
    rounds = [record["round"] for record in history]
    assert rounds[0] == 0
    assert rounds[-1] == 19_999
    assert len(set(np.diff(rounds[:-1]))) == 1
    assert WorkerTotals(1).detail(digest="", wall_seconds=0.0)["history"] == []
