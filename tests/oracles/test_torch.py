"""Where torch defines the same update, psrv takes the same step.

torch fuses multiply and add where the processor can, psrv never does: from the same state, each
fused operation may be off by one unit in the last place. Told to do without
(ATEN_CPU_CAPABILITY=default), torch gives the same bits.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from oracles.harness import ETAS, make_job
from psrv.simulation import Cluster

pytestmark = pytest.mark.torch

D = 4133
ULP = 2.0**-23  # the largest unit in the last place, relative
TENSORS = (("w", (D,), 0),)
MOMENTUM = {"sgd": {}, "sgdm": {"momentum": 0.9}}


def steps(method, rounds=25, decay=0.0, torch_kind="SGD", **options):
    """One worker and torch from the same state, round by round.

    Yields:
        psrv's and torch's parameters after the step, and the sum of its terms' magnitudes.
    """
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(3)
    adam = torch_kind != "SGD"
    cluster = Cluster(make_job(method, TENSORS, 512, decay, **options), 1)
    x = cluster.replica.parameters
    x[:] = rng.standard_normal(D)
    weight = torch.nn.Parameter(torch.zeros(D))
    for t in range(rounds):
        eta = ETAS[t % len(ETAS)]
        g = (rng.standard_normal(D) * 10 ** rng.uniform(-2, 2)).astype(np.float32)
        before = x.copy()
        weight.data = torch.from_numpy(before.copy())
        weight.grad = torch.from_numpy(g.copy())
        old = {k: v.copy() for k, v in cluster.replica.rule.state.items()}
        kept = {k: torch.from_numpy(v.copy()) for k, v in old.items()}
        if adam:
            b1, b2 = options["beta1"], options["beta2"]
            # torch corrects for the zero start: undone by the step size. eps outside the root: 0.
            factor = (1 - b1 ** (t + 1)) / np.sqrt(1 - b2 ** (t + 1))
            wd = decay / factor if options["decoupled"] else decay
            kind = getattr(torch.optim, torch_kind)
            other = kind(
                [weight], lr=eta * factor, betas=(b1, b2), eps=0.0, amsgrad=True, weight_decay=wd
            )
            names = {"exp_avg": "m", "exp_avg_sq": "v", "max_exp_avg_sq": "v_max"}
            other.state[weight] = {k: kept[v] for k, v in names.items()}
            other.state[weight]["step"] = torch.tensor(float(t))
        else:
            other = torch.optim.SGD(
                [weight], lr=eta, weight_decay=decay, nesterov="momentum" in options,
                momentum=options.get("momentum", 0),
            )  # fmt: skip
            if t and "momentum" in kept:
                other.state[weight]["momentum_buffer"] = kept["momentum"]
        other.step()
        cluster.senders[0].gradient[:] = g
        cluster.step([eta])
        new = cluster.replica.rule.state
        d = g + np.float32(decay) * before
        if adam:
            step = (np.abs(old["m"]) + np.abs(d)) / np.sqrt(new["v_max"])
        else:
            step = np.abs(d) + sum(0.9 * np.abs(v) for v in new.values())
        size = np.abs(before) + np.float32(eta) * step
        yield x, weight.detach().numpy(), size


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize(("method", "ulps"), [("sgd", 1), ("sgdm", 2)])
def test_sgd_takes_torchs_step_within_one_ulp_for_each_fused_operation(method, ulps, decay):
    for mine, theirs, size in steps(method, decay=decay, **MOMENTUM[method]):
        assert (np.abs(mine - theirs) <= ulps * ULP * size).all()


@pytest.mark.parametrize(("kind", "decoupled"), [("Adam", False), ("AdamW", True)])
def test_amsgrad_takes_the_step_of_torchs_without_bias_correction(kind, decoupled):
    options = {"beta1": 0.8, "beta2": 0.95, "nu": 1e-30, "decoupled": decoupled}
    for mine, theirs, size in steps("amsgrad", decay=0.1, torch_kind=kind, **options):
        assert (np.abs(mine - theirs) <= 4 * ULP * size).all()


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"),
    reason="compilers fuse multiply and add where every processor of a kind can",
)
def test_sgdm_equals_torch_bit_for_bit_without_fused_operations():
    pytest.importorskip("torch")
    here = Path(__file__)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import torch\n"
        "assert torch.backends.cpu.get_cpu_capability() == 'DEFAULT'\n"
        "from oracles.test_torch import MOMENTUM, steps\n"
        "for method, options in MOMENTUM.items():\n"
        "    for decay in (0.0, 0.01):\n"
        "        for mine, theirs, _ in steps(method, decay=decay, **options):\n"
        "            assert (mine == theirs).all(), (method, decay)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(here.parents[1])],
        env=os.environ | {"ATEN_CPU_CAPABILITY": "default"},
        check=True,
        timeout=100,
    )
