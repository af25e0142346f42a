from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from psrv.errors import ConfigError
from psrv.layout import Layout
from psrv.tasks import make_task
from psrv.tasks.cifar_file import JPEG, Jpeg
from tasks.cifar_data import jpeg_arrays, records, write_folder

torch = pytest.importorskip("torch")
pytest.importorskip("PIL")
pytestmark = pytest.mark.torch

TRAIN, TEST = records(90, 0), records(24, 1)


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path / "data" / "cifar-10-batches-bin", TRAIN, TEST)
    return tmp_path / "data"


@pytest.fixture
def task(bound, folder):
    return bound("cifar10:model=resnet8,cache=no", workers=3, batch=4, seed=5, data=folder)


def gradient(task, rank, x, round=0, size=None):
    out = np.full(task.dimension, np.nan, np.float32)
    task.gradient(rank, x, round, task.batch(rank, round, size), out)
    return out


def raw(task, images) -> np.ndarray:
    """The bytes that a prepared batch was made from."""
    mean, deviation = task._mean.numpy(), task._deviation.numpy()
    return np.rint(images.numpy() * deviation + mean).astype(int)


def test_models_and_options(bound, folder):
    sizes = {"cnn": 73_274, "resnet20": 269_722, "resnet18": 11_173_962}
    for model, size in sizes.items():
        found = bound(f"cifar10:model={model},cache=no", workers=2, batch=4, data=folder)
        assert found.dimension == size
    small = bound("cifar10:model=cnn,cache=no,train=40,test=9", workers=2, batch=4, data=folder)
    assert small.samples == {"train": 40, "test": 9}
    assert np.array_equal(small._train[0].numpy().reshape(40, -1), TRAIN[:40, 1:])
    assert small._test[1].tolist() == TEST[:9, 0].tolist()
    with pytest.raises(ConfigError, match=r"test is 25, but .* holds 24 test images"):
        make_task("cifar10:cache=no,test=25", workers=1, data=folder)


def test_without_augmentation_a_batch_is_the_shards_own_images(bound, folder):
    plain = bound("cifar10:model=cnn,cache=no,augment=no", workers=3, batch=4, data=folder)
    images, labels = plain.batch(2, 1)
    rows = plain.shards.batch(2, 1)
    assert images.shape == (4, 3, 32, 32)
    assert np.array_equal(raw(plain, images).reshape(4, -1), TRAIN[rows, 1:])
    assert labels.tolist() == TRAIN[rows, 0].tolist()


def test_augmentation_shifts_by_at_most_four_and_mirrors(bound, folder):
    task = bound("cifar10:model=cnn,cache=no", workers=1, batch=90, data=folder)
    found = raw(task, task.batch(0, 0)[0])
    rows = task.shards.batch(0, 0)
    shifts = set()
    for image, original in zip(found, TRAIN[rows, 1:].reshape(-1, 3, 32, 32), strict=True):
        padded = np.pad(original, ((0, 0), (4, 4), (4, 4)))
        fits = [
            (down, right, mirrored)
            for mirrored in (False, True)
            for down in range(9)
            for right in range(9)
            if np.array_equal(
                image[:, :, ::-1] if mirrored else image,
                padded[:, down : down + 32, right : right + 32],
            )
        ]
        assert fits
        shifts.update(fits)
    assert {s[0] for s in shifts} == {s[1] for s in shifts} == set(range(9))
    assert {s[2] for s in shifts} == {False, True}


def test_augmentation_depends_on_seed_rank_and_round_alone(bound, folder):
    def make(seed=5):
        return bound("cifar10:model=cnn,cache=no", workers=3, batch=4, seed=seed, data=folder)

    one, other = make(), make()
    found = {(rank, t): one.batch(rank, t)[0] for rank in range(3) for t in (0, 1, 40)}
    for key in reversed(found):
        other.batch(0, 7, 20)
        assert torch.equal(other.batch(*key)[0], found[key])
    pixels = torch.from_numpy(np.tile(TRAIN[:1, 1:], (16, 1)).reshape(16, 3, 32, 32))
    drawn = [t.augmented(pixels, *key) for t in (one, make(6)) for key in ((0, 0), (0, 1), (1, 0))]
    for i, a in enumerate(drawn):
        assert not any(torch.equal(a, b) for b in drawn[:i])


def test_two_gradients_of_a_batch_differ_by_x_alone(task):
    x = task.initial()
    moved = x + np.float32(0.01)
    at_x, at_moved = gradient(task, 1, x, 6), gradient(task, 1, moved, 6)
    assert not np.array_equal(at_x, at_moved)
    assert np.array_equal(gradient(task, 1, x, 6), at_x)


def test_batches_of_another_size_are_larger_and_limited_by_the_shard(task):
    images, labels = task.batch(0, 2, 30)
    assert images.shape == (30, 3, 32, 32)
    assert labels.shape == (30,)
    assert (task.batch_size, task.largest_batch) == (4, 30)
    assert np.isfinite(gradient(task, 0, task.initial(), 2, 30)).all()
    with pytest.raises(ConfigError, match="batch of 31 was asked for"):
        task.batch(0, 2, 31)


def test_evaluation_depends_on_x_alone(bound, folder, task):
    x = task.initial()
    first = [task.evaluate(rank, x) for rank in range(3)]
    moved = x + np.float32(0.05)
    there = task.evaluate(0, moved)
    gradient(task, 1, moved)
    assert [task.evaluate(rank, x) for rank in (2, 1, 0)] == first[::-1]
    fresh = bound("cifar10:model=resnet8,cache=no", workers=3, batch=4, seed=5, data=folder)
    assert fresh.evaluate(0, moved) == there
    assert there != first[0]
    assert sum(part["total"] for part in first) == 24


def test_training_is_as_it_was_after_an_evaluation(task):
    x = task.initial()
    before = gradient(task, 0, x)
    task.evaluate(0, x)
    assert np.array_equal(gradient(task, 0, x), before)


def test_statistics_are_computed_once_for_each_x(task, monkeypatch):
    from psrv.tasks import resnet

    calls = []
    real = resnet.population_statistics
    monkeypatch.setattr(resnet, "population_statistics", lambda *a: calls.append(1) or real(*a))
    x = task.initial()
    for _ in range(2):
        for rank in range(3):
            task.evaluate(rank, x)
    assert len(calls) == 1
    x[0] += np.float32(1)  # the same array with other values
    task.evaluate(0, x)
    assert len(calls) == 2


def test_sample_of_the_statistics_is_an_option(bound, folder, task):
    other = bound(
        "cifar10:model=resnet8,cache=no,sample=30", workers=3, seed=5, batch=4, data=folder
    )
    x = task.initial()
    assert other.evaluate(0, x) != task.evaluate(0, x)
    assert other.evaluate(0, x)["loss_sum"] == pytest.approx(
        task.evaluate(0, x)["loss_sum"], rel=0.05
    )


def test_jpeg_data_is_decoded_once_and_kept(bound, tmp_path, monkeypatch):
    np.savez(tmp_path / "cifar10-jpeg.npz", **jpeg_arrays(TRAIN, TEST))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    specs = ("cifar10:model=cnn,cache=no", "cifar10:model=cnn")
    memory, kept = (bound(spec, workers=1, batch=4, data=tmp_path) for spec in specs)
    monkeypatch.setattr("psrv.tasks.cifar_file.Jpeg.records", None)  # must not be needed again
    again = bound(
        f"cifar10:model=cnn,cache={tmp_path}/cache/psrv", workers=1, batch=4, data=tmp_path
    )
    x = memory.initial()
    for task in (kept, again):
        assert torch.equal(task._train[0], memory._train[0])
        assert np.array_equal(gradient(task, 0, x, size=4), gradient(memory, 0, x, size=4))
    assert memory.describe()["images"]["train"].endswith("in memory")
    for split, place in kept.describe()["images"].items():
        assert Path(place.split(" in ")[1]).parent == tmp_path / "cache" / "psrv"
        assert f"cifar10-{split}-" in place
    assert len(list((tmp_path / "cache" / "psrv").glob("*.npy"))) == 2


SCRIPT = """
import hashlib, sys
import numpy as np
from psrv.layout import Layout
from psrv.tasks import make_task
task = make_task("cifar10:model=resnet8,cache=no", workers=3, batch=4, seed=5, data=sys.argv[1])
task.bind(Layout.build(task.tensors))
x, out = task.initial(), np.empty(task.dimension, np.float32)
task.gradient(2, x, 3, task.batch(2, 3, 9), out)
print(hashlib.sha256(out).hexdigest(), task.evaluate(2, x)["loss_sum"].hex())
"""


def test_another_process_computes_the_same_bits(folder, task):
    import hashlib

    x = task.initial()
    for rank in range(3):  # this one plays all ranks, the other is rank 2 alone
        out = gradient(task, rank, x, 3, 9)
        loss = task.evaluate(rank, x)["loss_sum"]
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, timeout=100
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == [hashlib.sha256(out).hexdigest(), loss.hex()]


def test_real_data_has_its_published_size_and_is_learned(data):
    if not (data / JPEG).is_file():
        pytest.skip("PSRV_DATA has no cifar10-jpeg.npz")
    spec = "cifar10:model=cnn,cache=no,train=6000,test=500"
    task = make_task(spec, workers=1, batch=64, data=data)
    for split, each in (("train", 5000), ("test", 1000)):
        labels = Jpeg(data / JPEG, "cifar10")._arrays(split)[2]
        assert np.bincount(labels).tolist() == [each] * 10
    task.bind(Layout.build(task.tensors))
    mean, deviation = (
        v(task._train[0][:5000].to(torch.float32), (0, 2, 3)) for v in (torch.mean, torch.std)
    )
    assert torch.allclose(mean, task._mean.flatten(), atol=2)
    assert torch.allclose(deviation, task._deviation.flatten(), atol=2)
    x = torch.nn.Parameter(torch.from_numpy(task.initial()))
    x.grad = torch.zeros_like(x)
    adam = torch.optim.Adam([x], lr=task.default_lr("amsgrad"))
    for t in range(80):
        task.gradient(0, x.detach().numpy(), t, task.batch(0, t), x.grad.numpy())
        adam.step()
    found = task.evaluate(0, x.detach().numpy())
    assert found["correct"] / found["total"] > 0.25
