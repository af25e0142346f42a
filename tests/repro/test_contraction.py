"""delta, phi and what is kept, against their definitions; p_t against what is encoded."""

import numpy as np
import pytest

from psrv.codec import Coder
from psrv.codec.blocks import Blocks
from psrv.errors import ConfigError
from psrv.job import Job
from psrv.layout import Tensor
from psrv.methods import resolve
from psrv.repro.contraction import Watch, block_edges, deltas, kept, to_compress
from psrv.simulation import Cluster

TENSORS = (Tensor("a", (7, 3)), Tensor("b", (5,)), Tensor("c", (40,)))


def vector(seed: int = 0) -> np.ndarray:
    """A float32 vector whose tensors differ in size by factors of ten."""
    rng = np.random.default_rng(seed)
    v = rng.standard_normal(66).astype(np.float32)
    v[:40] *= 100
    v[40:45] *= 0.01
    return v


def test_edges_follow_the_layout_last_tensor_first() -> None:
    assert block_edges(TENSORS, "tensor").tolist() == [0, 40, 45, 66]
    assert block_edges(TENSORS, "global").tolist() == [0, 66]
    assert block_edges(TENSORS, 16).tolist() == [0, 16, 32, 40, 45, 61, 66]


@pytest.mark.parametrize("rule", ["tensor", "global", 16])
def test_kept_is_what_the_compressor_leaves(rule: str | int) -> None:
    v, edges = vector(), block_edges(TENSORS, rule)
    left = v.copy()
    Coder("sign", Blocks(edges)).encode(left, 0, 0)
    expected = 1 - np.sum(left.astype(float) ** 2) / np.sum(v.astype(float) ** 2)
    assert kept(v, edges) == pytest.approx(expected, abs=1e-6)


def test_deltas_are_those_of_proposition_1() -> None:
    v, edges = vector(), block_edges(TENSORS, "tensor")
    for found, start, stop in zip(deltas(v, edges), edges[:-1], edges[1:], strict=True):
        b = v[start:stop].astype(float)
        assert found == pytest.approx(np.abs(b).sum() ** 2 / (b.size * (b**2).sum()))


def test_a_zero_block_is_kept_whole() -> None:
    v, edges = vector(), block_edges(TENSORS, "tensor")
    v[40:45] = 0
    assert deltas(v, edges)[1] == 1.0
    assert kept(np.zeros(66, np.float32), edges) == 1.0


def test_finer_blocks_never_keep_less() -> None:
    rules = (4, 16, "tensor", "global")
    for seed in range(20):
        shares = [kept(vector(seed), block_edges(TENSORS, rule)) for rule in rules]
        assert shares == sorted(shares, reverse=True)


def cluster(method: str) -> Cluster:
    job = Job("test", resolve(method), TENSORS, "tensor", 0, (0.0,), check_every=0)
    return Cluster(job, 2)


@pytest.mark.parametrize("method", ["dist-ef-sgd", "dist-ef-sgdm", "cd-adam"])
def test_what_will_be_compressed_is_what_the_payload_and_the_rest_add_up_to(method: str) -> None:
    """Over three rounds with a step size that changes."""
    found = cluster(method)
    for round, eta in enumerate((0.1, 0.1, 0.02)):
        expected = []
        for sender in found.senders:
            sender.gradient[:] = vector(10 * round + sender.rank)
            expected.append(to_compress(sender, eta))
        bucket = found.layout.buckets[0]
        for sender, p in zip(found.senders, expected, strict=True):
            payload = sender.encode(bucket, round, eta)
            left, decoded = p.copy(), np.empty_like(p)
            coder = Coder("sign", bucket.blocks, workers=2)
            assert np.array_equal(coder.encode(left, round, sender.rank)[12:], payload[12:])
            coder.decode(payload, decoded, round, sender.rank)
            assert np.allclose(decoded + left, p, rtol=1e-5, atol=1e-4)
            sender.commit()


def test_other_methods_have_nothing_to_watch() -> None:
    sender = cluster("signum").senders[0]
    with pytest.raises(ConfigError, match="signum cannot be watched"):
        to_compress(sender, 0.1)


def test_a_watch_keeps_the_extremes_of_each_epoch() -> None:
    found = cluster("dist-ef-sgdm")
    edges = {"tensor": block_edges(TENSORS, "tensor"), "global": block_edges(TENSORS, "global")}
    watch, expected = Watch(edges, per_epoch=2), []
    for round in range(4):
        for sender in found.senders:
            sender.gradient[:] = vector(round + 100 * sender.rank)
        of_round = [deltas(to_compress(s, 0.1), edges["tensor"]).min() for s in found.senders]
        expected.append(min(of_round))
        watch.look(found.senders, round, 0.1)
        found.step([0.1])
    result = watch.result()
    assert result["phi"]["tensor"] == [min(expected[:2]), min(expected[2:])]
    assert result["phi"]["global"] == result["kept"]["global"]
    for least, most in zip(result["kept"]["tensor"], result["most"]["tensor"], strict=True):
        assert 0 < least < most <= 1
    assert len(result["variation"]["tensor"]) == 2
