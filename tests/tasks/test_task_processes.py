from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from psrv.layout import Layout
from psrv.tasks import make_task

WORKERS, ROUNDS = 3, 3


def hashes(spec: str, data: str, ranks: Sequence[int]) -> dict[str, str]:
    """sha256 of the gradients of some ranks over a few rounds with a made-up update."""
    task = make_task(spec, workers=WORKERS, seed=11, data=data)
    task.bind(Layout.build(task.tensors))
    x = task.initial()
    out = np.empty_like(x)
    found = {}
    for t in range(ROUNDS):
        for rank in ranks:
            task.gradient(rank, x, t, task.batch(rank, t), out)
            found[f"rank {rank} round {t}"] = hashlib.sha256(out).hexdigest()
        x += np.float32(0.01 * (t + 1))
    return found


SCRIPT = """
import importlib.util, json, sys
found = importlib.util.spec_from_file_location("tasks_under_test", sys.argv[1])
module = importlib.util.module_from_spec(found)
found.loader.exec_module(module)
bits = module.hashes(sys.argv[2], sys.argv[3], [2])
print(json.dumps([bits, sorted({"torch", "scipy.sparse", "sklearn"} & set(sys.modules))]))
"""


@pytest.mark.parametrize(
    ("spec", "needs"),
    [
        ("digits", ("sklearn", "torch")),
        ("libsvm:rows", ("scipy.sparse",)),
        ("quadratic:d=500,noise=0.2", ()),
        ("synthetic:50k", ()),
    ],
)
def test_another_process_computes_the_same_bits(tmp_path, spec, needs):
    for module in needs:
        pytest.importorskip(module)
    draw = np.random.default_rng(4)
    signs, values = draw.choice([-1, 1], 90), draw.normal(size=(90, 12))
    (tmp_path / "rows").write_text(
        "".join(
            f"{sign} " + " ".join(f"{j}:{v:.4f}" for j, v in enumerate(row, 1)) + "\n"
            for sign, row in zip(signs, values, strict=True)
        )
    )
    # This process plays all ranks, as the simulation does; the other is rank 2 alone, with
    # another setting of the libraries' threads.
    here = hashes(spec, str(tmp_path), range(WORKERS))
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, __file__, spec, str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode == 0, ended.stderr
    there, imported = json.loads(ended.stdout)
    assert len(there) == ROUNDS
    assert there == {key: here[key] for key in there}
    assert len(set(here.values())) == WORKERS * ROUNDS
    assert set(needs) <= set(imported)
    if not needs:
        assert not imported, "a task may import nothing heavier than it needs"


def test_description_is_plain():
    for spec in ("quadratic:noise=0.5", "synthetic:9k,compute=1ms"):
        described = make_task(spec, workers=2, seed=3).describe()
        assert json.loads(json.dumps(described)) == described
        assert described["name"] == spec
        assert described["workers"] == 2
