from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from psrv.tasks import resnet  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        yield


def count(model) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_parameters_are_those_of_table_6(depth, millions):
    found = count(resnet.resnet(depth)) / 1e6
    assert round(found, 1 if millions > 1 else 2) == millions


def test_exact_numbers_of_parameters():
    assert count(resnet.resnet(20)) == 269_722
    assert count(resnet.resnet18()) == 11_173_962
    # A stem, then 2 convolutions with 2 normalisations in each of 3 stages, then 64x10 + 10.
    weights = 9 * (3 * 16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    assert count(resnet.resnet(8)) == weights + 2 * (16 + 2 * (16 + 32 + 64)) + 650


def test_weighted_layers_are_as_many_as_the_name_says():
    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    for depth in (8, 20, 56):
        layers = [m for m in resnet.resnet(depth).modules() if isinstance(m, kinds)]
        assert len(layers) == depth
    # 18 and three 1x1 convolutions in shortcuts.
    assert sum(isinstance(m, kinds) for m in resnet.resnet18().modules()) == 21
    with pytest.raises(ValueError, match="depth is 21; expected 6k"):
        resnet.resnet(21)


def test_networks_have_no_buffers_and_map_images_to_classes():
    for model in (resnet.resnet(8), resnet.resnet18()):
        assert not list(model.buffers())
        with torch.no_grad():
            assert model(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_stages_halve_the_resolution_and_double_the_channels():
    x = torch.randn(2, 3, 32, 32)
    shapes = []
    with torch.no_grad():
        for layer in resnet.resnet(20):
            x = layer(x)
            if isinstance(layer, resnet.Block):
                shapes.append(tuple(x.shape[1:]))
    assert shapes == [(16, 32, 32)] * 3 + [(32, 16, 16)] * 3 + [(64, 8, 8)] * 3


def test_shortcut_without_parameters_takes_every_second_pixel_and_adds_zeros():
    block = resnet.Block(4, 8, 2, project=False)
    with torch.no_grad():
        block.norm2.weight.zero_()
        x = torch.rand(3, 4, 6, 6)
        y = block(x)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 6:].any()


def test_training_normalises_like_pytorch_does():
    ours, theirs = resnet.BatchNorm(5), torch.nn.BatchNorm2d(5)
    with torch.no_grad():
        ours.weight.uniform_()
        ours.bias.uniform_()
        theirs.load_state_dict(dict(ours.named_parameters()), strict=False)
    x = torch.randn(4, 5, 3, 3) * 3 + 1
    for _ in range(2):
        assert torch.equal(ours(x), theirs(x))


def test_one_batch_of_everything_gives_the_population_itself():
    model = torch.nn.Sequential(resnet.BatchNorm(3), torch.nn.ReLU(), resnet.BatchNorm(3))
    x = torch.randn(8, 3, 4, 4) * 2 + 5
    (mean, variance), second = resnet.population_statistics(model, [x])
    torch.testing.assert_close(mean, x.mean((0, 2, 3)))
    torch.testing.assert_close(variance, x.var((0, 2, 3)))
    inner = torch.relu((x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True))
    torch.testing.assert_close(second[0], inner.mean((0, 2, 3)), atol=1e-2, rtol=1e-2)


def test_several_batches_give_the_variance_of_all_values():
    layer = resnet.BatchNorm(2)
    parts = [torch.randn(50, 2, 4, 4) + shift for shift in (-3.0, 0.0, 4.0)]
    [(mean, variance)] = resnet.population_statistics(layer, parts)
    whole = torch.cat(parts)
    torch.testing.assert_close(mean, whole.mean((0, 2, 3)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(variance, whole.var((0, 2, 3)), atol=1e-2, rtol=1e-3)


def test_fixed_statistics_make_images_independent_and_end_with_the_block():
    model = resnet.resnet(8)
    x = torch.randn(6, 3, 32, 32)
    found = resnet.population_statistics(model, [x])
    with torch.no_grad():
        own = model(x)
        with resnet.normalised_by(model, found):
            together = model(x)
            alone = torch.cat([model(x[i : i + 1]) for i in range(6)])
            torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
            assert torch.equal(together, model(x))
        assert torch.equal(model(x), own)
    # The same statistics but for the unbiased variance, so nearly the same scores.
    assert np.allclose(together, own, atol=0.1)


def test_an_error_inside_leaves_the_network_in_training():
    model = resnet.resnet(8)
    x = torch.randn(4, 3, 32, 32)
    found = resnet.population_statistics(model, [x])
    with torch.no_grad():
        own = model(x)
        with pytest.raises(RuntimeError):
            resnet.population_statistics(model, [x, torch.randn(4, 1, 32, 32)])
        with pytest.raises(KeyError), resnet.normalised_by(model, found):
            raise KeyError
        assert torch.equal(model(x), own)
    assert all(
        m.fixed is None and m.seen is None
        for m in model.modules()
        if isinstance(m, resnet.BatchNorm)
    )
