"""The path of a task through a device with a memory of its own; a CPU plays the device."""

from __future__ import annotations

import types

import numpy as np
import pytest

from psrv.codec.base import aligned
from psrv.errors import ConfigError
from psrv.tasks import make_task
from psrv.tasks.torch_device import OnDevice, OnHost, choose_device

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytestmark = pytest.mark.torch


@pytest.fixture
def pair(bound):
    """The same task with its parameters on the host, and through a device's copies."""
    host, device = bound("digits:device=cpu", seed=2), bound("digits:device=cpu", seed=2)
    names = [t.name for t in device.tensors]
    device._places = OnDevice(torch, device.layout, names, device._parameters, torch.device("cpu"))
    assert isinstance(host._places, OnHost)
    return host, device


def gradient(task, rank, x, out=None):
    out = np.full(task.dimension, np.nan, np.float32) if out is None else out
    task.gradient(rank, x, 3, task.batch(rank, 3), out)
    return out


def test_gradients_and_evaluations_are_those_of_the_host(pair):
    host, device = pair
    x = host.initial()
    assert np.array_equal(device.initial(), x)
    for step in range(3):
        before = x.copy()
        for rank in (0, 3):
            assert np.array_equal(gradient(device, rank, x), gradient(host, rank, x))
        assert device.evaluate(1, x) == host.evaluate(1, x)
        assert np.array_equal(x, before)
        x += np.float32(0.01 * (step + 1))


def test_parameters_follow_x_wherever_it_lies(pair):
    host, device = pair
    x = host.initial()
    expected = gradient(host, 0, x)
    shifted = aligned(x.size + 1)[1:]
    shifted[:] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    out = np.zeros(x.size + 3, np.float32)
    for place in (shifted, frozen):
        assert np.array_equal(gradient(device, 0, place, out[3:]), expected)
    shifted += np.float32(0.1)
    assert not np.array_equal(gradient(device, 0, shifted), expected)


def test_the_device_never_shares_memory_with_x_or_out(pair):
    _, device = pair
    x = device.initial()
    out = gradient(device, 0, x)
    kept = out.copy()
    gradient(device, 1, x)
    assert np.array_equal(out, kept)
    parameter = device._parameters[0].detach()
    before = parameter.clone()
    x += np.float32(1)
    assert torch.equal(parameter, before)


def fake(available):
    return types.SimpleNamespace(
        cuda=types.SimpleNamespace(is_available=lambda: available),
        device=lambda name: name,
        __version__="9.9",
    )


def test_auto_takes_cuda_where_there_is_one():
    assert [choose_device(fake(True), d, "t") for d in ("auto", "cpu", "cuda")] == [
        "cuda",
        "cpu",
        "cuda",
    ]
    assert [choose_device(fake(False), d, "t") for d in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(ConfigError, match=r"task t: device is cuda, but .* device=auto"):
        choose_device(fake(False), "cuda", "t")


def test_description_says_which_device_was_taken(bound):
    described = bound("digits:device=cpu").describe()
    assert described["device"] == "cpu"
    assert described["options"] == {"device": "cpu"}


@pytest.fixture
def cuda():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.mark.usefixtures("cuda")
def test_cuda_is_close_to_the_cpu_and_repeats_its_own_bits(bound):
    there, again, here = (bound(f"digits:device={d}", seed=2) for d in ("cuda", "auto", "cpu"))
    x = here.initial()
    assert np.array_equal(there.initial(), x)
    assert there._parameters[0].is_cuda
    settings = torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32
    for rank in range(4):
        found, expected = gradient(there, rank, x), gradient(here, rank, x)
        assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
        assert np.array_equal(gradient(again, rank, x), found)
    theirs, ours = there.evaluate(0, x), here.evaluate(0, x)
    assert theirs["loss_sum"] == pytest.approx(ours["loss_sum"], rel=1e-4)
    assert again.evaluate(0, x) == theirs
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32) == settings


@pytest.mark.usefixtures("cuda")
def test_cuda_repeats_the_bits_of_a_residual_network(tmp_path):
    from psrv.layout import Layout
    from tasks.cifar_data import records, write_folder

    write_folder(tmp_path / "cifar-10-batches-bin", records(64, 0), records(20, 1))
    tasks = [
        make_task(f"cifar10:cache=no,device={d}", workers=2, batch=8, data=tmp_path)
        for d in ("cuda", "cuda", "cpu")
    ]
    for task in tasks:
        task.bind(Layout.build(task.tensors))
    x = tasks[2].initial()
    first, second, host = (gradient(task, 1, x) for task in tasks)
    assert np.array_equal(first, second)
    assert np.linalg.norm(first - host) < 1e-3 * np.linalg.norm(host)
    assert tasks[0].evaluate(0, x) == tasks[1].evaluate(0, x)
