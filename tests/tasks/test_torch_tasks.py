from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from psrv.codec.base import aligned
from psrv.errors import ConfigError, DataError
from psrv.layout import Layout, Tensor
from psrv.tasks import make_task

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytestmark = pytest.mark.torch

FILES = {
    "train-images-idx3-ubyte": ("images", 60),
    "train-labels-idx1-ubyte": ("labels", 60),
    "t10k-images-idx3-ubyte": ("images", 25),
    "t10k-labels-idx1-ubyte": ("labels", 25),
}


def idx(values: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()


@pytest.fixture
def extract(tmp_path):
    """A folder with a small extract in MNIST's form: half of the files packed."""
    draw = np.random.default_rng(0)
    for position, (name, (kind, count)) in enumerate(FILES.items()):
        values = (
            draw.integers(0, 256, (count, 28, 28)) if kind == "images" else np.arange(count) % 10
        )
        content = idx(values)
        if position % 2:
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture
def digits(bound):
    return bound("digits", seed=5)


def gradient(task, rank, x, round=0, batch=None):
    out = np.full(task.dimension, np.nan, np.float32)
    task.gradient(rank, x, round, task.batch(rank, round) if batch is None else batch, out)
    return out


def test_digits_are_split_in_proportion_and_the_same_way_for_every_seed():
    one, other = (make_task("digits", workers=2, seed=s) for s in (0, 9))
    assert one.samples == {"train": 1437, "test": 360}
    for task in (one, other):
        train = np.bincount(task._train[1].numpy(), minlength=10)
        test = np.bincount(task._test[1].numpy(), minlength=10)
        assert np.abs(test - (train + test) / 5).max() < 1
    assert torch.equal(one._test[0], other._test[0])
    both = torch.cat([one._train[0], one._test[0]]).flatten(1)
    assert both.shape == (1797, 64)
    assert int(both.max()) == 16


def test_model_sizes(extract):
    assert 10_000 <= make_task("digits", workers=1).dimension <= 40_000
    mnist = make_task("mnist", workers=1, data=extract, batch=8)
    assert mnist.dimension == 1_195_934
    assert sum(p.numel() for p in mnist.model.parameters()) == mnist.dimension


def test_tensors_are_the_models_in_forward_order(digits):
    assert digits.tensors[0] == Tensor("0.weight", (16, 1, 3, 3))
    assert digits.tensors[-1] == Tensor("8.bias", (10,))
    assert digits.layout.offsets["8.bias"] == 0


def test_initial_parameters_depend_on_the_seed_alone(bound):
    one, same, other = (bound("digits", seed=s).initial() for s in (1, 1, 2))
    assert one.dtype == np.float32
    assert np.array_equal(one, same)
    assert np.mean(one != other) > 0.99


def test_global_random_state_is_left_alone():
    torch.manual_seed(77)
    np.random.seed(77)
    expected = torch.rand(3), np.random.random(3)
    torch.manual_seed(77)
    np.random.seed(77)
    task = make_task("digits", workers=2)
    task.bind(Layout.build(task.tensors))
    gradient(task, 0, task.initial())
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.random(3), expected[1])


def test_gradient_is_what_plain_pytorch_computes(digits):
    x = digits.initial()
    images, labels = digits.batch(3, 7)
    assert images.shape == (32, 1, 8, 8)
    model = digits.build(torch)
    views = digits.layout.views(x)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(views[name].copy()))
    torch.nn.CrossEntropyLoss()(model(images), labels).backward()
    found = digits.layout.views(gradient(digits, 3, x, 7))
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(found[name], parameter.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_gradient_agrees_with_finite_differences_in_float64(digits):
    images, labels = digits.batch(0, 0)
    x = digits.initial()
    found = digits.layout.views(gradient(digits, 0, x))
    model = digits.build(torch).double()
    views = digits.layout.views(x)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(views[name].astype(np.float64)))

        def loss() -> float:
            return float(torch.nn.functional.cross_entropy(model(images.double()), labels))

        for name in ("0.weight", "6.weight", "8.bias"):
            flat = dict(model.named_parameters())[name].view(-1)
            for j in (0, 5):
                kept = float(flat[j])
                flat[j] = kept + 1e-5
                up = loss()
                flat[j] = kept - 1e-5
                down = loss()
                flat[j] = kept
                assert (up - down) / 2e-5 == pytest.approx(float(found[name].flat[j]), abs=2e-5)


def test_gradient_writes_out_and_nothing_else(digits):
    x = digits.initial()
    before = x.copy()
    batch = digits.batch(0, 0)
    images = batch[0].clone()
    assert np.isfinite(gradient(digits, 0, x, batch=batch)).all()
    assert np.array_equal(x, before)
    assert torch.equal(batch[0], images)


def test_parameters_follow_x_wherever_it_lies(digits):
    first = digits.initial()
    moved = first + np.float32(0.01)
    second = aligned(first.size)
    second[:] = moved
    shifted = aligned(first.size + 1)[1:]
    shifted[:] = moved
    frozen = moved.copy()
    frozen.flags.writeable = False
    start = gradient(digits, 0, first)
    expected = gradient(digits, 0, second)
    assert not np.array_equal(start, expected)
    assert np.array_equal(gradient(digits, 0, first), start)
    assert np.array_equal(gradient(digits, 0, shifted), expected)
    assert np.array_equal(gradient(digits, 0, frozen), expected)
    first[:] = moved
    assert np.array_equal(gradient(digits, 0, first), expected)
    shifted[:] = second - np.float32(0.01)
    assert not np.array_equal(gradient(digits, 0, shifted), expected)


def test_out_may_lie_anywhere(digits):
    x = digits.initial()
    expected = gradient(digits, 1, x)
    out = np.zeros(x.size + 3, np.float32)
    digits.gradient(1, x, 0, digits.batch(1, 0), out[3:])
    assert np.array_equal(out[3:], expected)


def test_gradient_works_where_the_caller_switched_gradients_off(digits):
    x = digits.initial()
    expected = gradient(digits, 1, x)
    with torch.no_grad():
        assert np.array_equal(gradient(digits, 1, x), expected)


def test_one_object_plays_all_ranks_as_separate_objects_do(bound):
    together = bound("digits", workers=3)
    x = together.initial()
    rows = [gradient(together, rank, x, 4) for rank in range(3)]
    for rank in (2, 0, 1):
        alone = bound("digits", workers=3)
        assert np.array_equal(gradient(alone, rank, alone.initial(), 4), rows[rank])
    assert not np.array_equal(rows[0], rows[1])


def test_evaluation_shares_add_up_to_the_whole_test_set(bound):
    whole, parts = bound("digits", workers=1), bound("digits", workers=7)
    x = whole.initial()
    expected = whole.evaluate(0, x)
    sums = [parts.evaluate(rank, x) for rank in range(7)]
    assert [s["count"] for s in sums] == [52, 52, 52, 51, 51, 51, 51]
    total = {k: sum(s[k] for s in sums) for k in expected}
    assert total.pop("loss_sum") == pytest.approx(expected.pop("loss_sum"), rel=1e-6)
    assert total == expected
    assert total["total"] == 360
    assert not whole.full_gradient(0, x, np.empty_like(x))


def test_workers_may_outnumber_the_test_images(bound, extract):
    task = bound("mnist", workers=30, data=extract, batch=2)
    x = task.initial()
    sums = [task.evaluate(rank, x) for rank in range(30)]
    assert sum(s["total"] for s in sums) == 25
    assert sums[29] == {"loss_sum": 0, "count": 0, "correct": 0, "total": 0}


def test_digits_reach_95_percent_with_adam_in_one_process(bound):
    task = bound("digits", workers=1, batch=128)
    x = torch.nn.Parameter(torch.from_numpy(task.initial()))
    x.grad = torch.zeros_like(x)
    adam = torch.optim.Adam([x], lr=task.default_lr("amsgrad"))
    for t in range(150):
        task.gradient(0, x.detach().numpy(), t, task.batch(0, t), x.grad.numpy())
        adam.step()
    found = task.evaluate(0, x.detach().numpy())
    assert found["correct"] / found["total"] >= 0.95


def test_layout_of_another_model_is_refused():
    task = make_task("digits", workers=1)
    with pytest.raises(ConfigError, match="another model than task digits"):
        task.bind(Layout.build((Tensor("x", (3,)),)))


def test_batch_and_workers_are_checked():
    with pytest.raises(ConfigError, match="shard holds 359 of the 1437"):
        make_task("digits", workers=4, batch=360)
    with pytest.raises(ConfigError, match="1437 training samples for 1438 workers"):
        make_task("digits", workers=1438)
    assert make_task("digits", workers=4, batch=359).describe()["batch"] == 359


def test_mnist_reads_plain_and_packed_files(bound, extract):
    task = bound("mnist", workers=2, data=extract, batch=4)
    assert task.samples == {"train": 60, "test": 25}
    images, labels = task.batch(0, 0)
    assert images.shape == (4, 1, 28, 28)
    rows = task.shards.batch(0, 0)
    assert labels.tolist() == (rows % 10).tolist()
    raw = (extract / "train-images-idx3-ubyte").read_bytes()[16:]
    pixels = np.frombuffer(raw, np.uint8).reshape(60, 1, 28, 28)[rows]
    np.testing.assert_allclose(images.numpy(), (pixels - 33.33) / 78.57, rtol=1e-4, atol=1e-5)


def test_missing_mnist_file_names_what_was_looked_for(extract):
    (extract / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError) as caught:
        make_task("mnist", workers=1, data=extract)
    for part in (str(extract / "t10k-labels-idx1-ubyte"), ".gz", "IDX file", "https://", "--data"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("train-images-idx3-ubyte", b"", "begins with nothing and has 0 bytes"),
        ("train-images-idx3-ubyte", b"<html>not found</html>", "begins with 3c 68 74 6d"),
        ("train-images-idx3-ubyte", idx(np.zeros(60)), "expected 00 00 08 03"),
        ("train-images-idx3-ubyte", idx(np.zeros((60, 28, 28)))[:-1], "holds 47039 values"),
        ("train-images-idx3-ubyte", idx(np.zeros((60, 28, 28))) + b"0", "holds 47041 values"),
        ("train-images-idx3-ubyte", idx(np.zeros((60, 28, 27))), "shape (60, 28, 27)"),
        ("train-images-idx3-ubyte", idx(np.zeros((0, 28, 28))), "shape (0, 28, 28)"),
        ("train-images-idx3-ubyte", idx(np.zeros((59, 28, 28))), "59 images, but"),
        ("t10k-images-idx3-ubyte", b"\0\0\x08\x03" + b"\xff" * 12, "the file is damaged"),
        ("train-labels-idx1-ubyte.gz", gzip.compress(idx(np.full(60, 10))), "holds label 10"),
        (
            "train-labels-idx1-ubyte.gz",
            gzip.compress(idx(np.zeros(60)))[:-9],
            "not a whole gzip file",
        ),
    ],
)
def test_damaged_mnist_file_is_a_data_error(extract, name, content, says):
    (extract / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        make_task("mnist", workers=1, data=extract)
    assert says in str(caught.value)
    assert str(extract / name) in str(caught.value)


def test_real_mnist_has_its_published_size_and_learns(data, bound):
    task = bound("mnist", workers=1, data=data, batch=64)
    assert task.samples == {"train": 60_000, "test": 10_000}
    x = torch.nn.Parameter(torch.from_numpy(task.initial()))
    x.grad = torch.zeros_like(x)
    adam = torch.optim.Adam([x], lr=task.default_lr("amsgrad"))
    for t in range(60):
        task.gradient(0, x.detach().numpy(), t, task.batch(0, t), x.grad.numpy())
        adam.step()
    found = task.evaluate(0, x.detach().numpy())
    assert found["correct"] / found["total"] > 0.85
