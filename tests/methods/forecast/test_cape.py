"""CAPE against the equations of its paper."""

import pytest
import torch
from torch.nn import functional

from longrun.methods.forecast.cape import CAPE, SpectralConvolution

STATISTICS = {
    "mean": [0.0],
    "std": [1.0],
    "increment_std": [0.3],
    "condition_low": [1.0, 0.05, 0.2, 0.0],
    "condition_high": [1.0, 0.05, 4.0, 0.0],
}
POINTS = 32


def build(seed=0, dims=1, **options):
    torch.manual_seed(seed)
    small = {"width": 6, "modes": 4, "layers": 2, "block_width": 8, "multipliers": [1, 2]}
    given = {"target": "state", "normalise": False, "criterion": "relative_l2"}
    points = [POINTS] * dims
    module = CAPE(1, dims, 1, points, **small | given | options)
    module.fit_statistics(STATISTICS)
    return module


def frames(batch=3, count=1, dims=1):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, count, 1, *[POINTS] * dims, generator=generator)


def speeds(*values):
    """Parameters of the store: length, dt, speed, diffusivity."""
    return torch.tensor([[1.0, 0.05, value, 0.0] for value in values])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_parameters_are_taken_as_they_are():
    assert build().scaled_conditions(speeds(0.2, 3.0)).flatten().tolist() == pytest.approx([0.2, 3])
    flat = build(dims=2).scaled_conditions(speeds(0.25, 3.0)).flatten()
    expected = torch.sigmoid(torch.tensor([0.25, 3.0]).log())
    torch.testing.assert_close(flat, expected)


@pytest.mark.parametrize("dims", [1, 2])
def test_the_block_is_the_formula(dims):
    module = build(dims=dims)
    block, x = module.block, frames(dims=dims)[:, 0]
    condition = torch.tensor([[0.2], [1.0], [4.0]])
    convolve = functional.conv1d if dims == 1 else functional.conv2d
    pool = functional.avg_pool1d if dims == 1 else functional.avg_pool2d
    g = []
    for gate in block.gates:
        hidden = functional.gelu(functional.linear(condition, gate[0].weight, gate[0].bias))
        value = functional.linear(hidden, gate[2].weight, gate[2].bias)
        g.append(value.reshape(*value.shape, *(1,) * dims))
    padded = functional.pad(x, (2, 2) * dims, mode="circular")
    lift = block.lift.convolution
    y = functional.gelu(convolve(padded, lift.weight, lift.bias))
    local = functional.pad(y, (2, 2) * dims, mode="circular")
    depthwise = convolve(local, block.depthwise.weight, block.depthwise.bias, groups=4)
    coarse = block.spectral(pool(y, 4)) * g[0]
    for axis in range(2, 2 + dims):
        coarse = coarse.repeat_interleave(4, axis)
    z = coarse + block.pointwise(y) * g[1] + depthwise * g[2] + block.shortcut(y)
    r = block.project(functional.gelu(z))
    axes = tuple(range(2, 2 + dims))
    r = (r - r.mean(axes, keepdim=True)) / (r.var(axes, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(block(x, condition), r, rtol=1e-4, atol=1e-5)
    estimate = module.estimate(x[:, None], condition)
    expected = x + r if dims == 1 else x * (1 + r)
    torch.testing.assert_close(estimate, expected, rtol=1e-4, atol=1e-5)


def test_the_spectral_branch_is_a_convolution_that_keeps_low_modes():
    torch.manual_seed(0)
    layer = SpectralConvolution([16], 1, 1, 3)
    x = torch.randn(1, 1, 16)
    spectrum = torch.fft.rfft(x)
    expected = torch.zeros_like(spectrum)
    expected[..., :3] = spectrum[..., :3] * layer.weight[0, 0]
    torch.testing.assert_close(layer(x), torch.fft.irfft(expected, n=16))


@pytest.mark.parametrize(("points", "shape"), [([32], (16,)), ([16, 16], (16, 9)), ([64], (16,))])
def test_the_spectral_branch_has_the_modes_of_the_paper_that_the_grid_has(points, shape):
    modes = 16 if len(points) == 1 else 9
    assert SpectralConvolution(points, 2, 3, modes).weight.shape == (2, 3, *shape)


def test_silent_gates_make_the_method_blind_to_parameters():
    module = build()
    given = frames(2)
    with torch.no_grad():
        assert not torch.allclose(*(module.predict(given, speeds(v, v)) for v in (0.2, 4.0)))
        for gate in module.block.gates:
            torch.nn.init.zeros_(gate[2].weight)
            torch.nn.init.zeros_(gate[2].bias)
        assert torch.equal(*(module.predict(given, speeds(v, v)) for v in (0.2, 4.0)))


@pytest.mark.parametrize("dims", [1, 2])
def test_a_silent_norm_leaves_the_base_with_the_frame_twice(dims):
    # "CAPE with a zero embedding is its base": e = x, so the base sees (x, x) and only the last
    # convolution is left of CAPE.
    module = build(dims=dims)
    for parameter in module.block.norm.parameters():
        torch.nn.init.zeros_(parameter)
    x = frames(2, dims=dims)
    grid = torch.stack(torch.meshgrid(*[torch.arange(POINTS) / POINTS] * dims, indexing="ij"))
    inputs = torch.cat([x[:, 0], x[:, 0], grid.expand(2, *grid.shape)], dim=1)
    with torch.no_grad():
        expected = module.mix(module.network(inputs))
        torch.testing.assert_close(module.step(x, torch.ones(2, 1)), expected)


def test_channels_are_constants_and_none_is_blind():
    channels, none = build(conditioning="channels"), build(conditioning="none")
    given = frames(1)
    with torch.no_grad():
        assert not torch.equal(*(channels.predict(given, speeds(v)) for v in (0.2, 4.0)))
        assert torch.equal(*(none.predict(given, speeds(v)) for v in (0.2, 4.0)))
    assert channels.block is None and none.block is None


@pytest.mark.parametrize("base", ["fno", "unet"])
def test_any_base_is_trained_through_the_block(base):
    module = build(base=base)
    if base == "unet":  # which starts with zeros only
        torch.nn.init.normal_(module.network.head[-1].convolution.weight)
    batch = {"window": frames(3, 2), "parameters": speeds(0.2, 1.0, 4.0)}
    module.batch_loss(batch, generator()).backward()
    assert module.block.gates[0][0].weight.grad.abs().max() > 0


def test_the_loss_is_the_relative_error_and_that_of_the_estimate():
    module = build(auxiliary_weight=0.25)
    window, parameters = frames(3, 2), speeds(0.2, 1.0, 4.0)
    with torch.no_grad():
        conditions = module.scaled_conditions(parameters)
        truth = window[:, 1].flatten(1)
        found = [
            ((frame.flatten(1) - truth).norm(dim=1) / truth.norm(dim=1)).mean()
            for frame in (
                module.step(window[:, :1], conditions),
                module.estimate(window[:, :1], conditions),
            )
        ]
        loss = module.batch_loss({"window": window, "parameters": parameters}, generator())
    torch.testing.assert_close(loss, found[0] + 0.25 * found[1])


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("target", ["state", "residual"])
def test_a_true_estimate_has_no_error(monkeypatch, target, normalise):
    module = build(target=target, normalise=normalise, block_updates=1)
    module.fit_statistics(STATISTICS | {"mean": [0.5], "std": [2.0]})
    window = frames(3, 2)
    monkeypatch.setattr(module, "estimate", lambda *_: module.normalised(window[:, 1:])[:, 0])
    loss = module.batch_loss({"window": window, "parameters": speeds(1, 1, 1)}, generator())
    assert loss < 1e-5


def test_first_the_block_is_trained_alone():
    module = build(block_updates=1)  # outside a trainer it is update 0
    batch = {"window": frames(3, 2), "parameters": speeds(0.2, 1.0, 4.0)}
    module.batch_loss(batch, generator()).backward()
    trained = {name.split(".")[0] for name, p in module.named_parameters() if p.grad is not None}
    assert trained == {"block"}


def test_the_first_updates_see_true_frames(monkeypatch):
    module = build(block_updates=1, training={"name": "curriculum", "unroll": 3, "after": 1})
    window, seen = frames(2, 4), []
    estimate = module.estimate
    monkeypatch.setattr(
        module, "estimate", lambda history, c: seen.append(history) or estimate(history, c)
    )
    module.batch_loss({"window": window, "parameters": speeds(1, 2)}, generator())
    assert torch.equal(torch.cat(seen, dim=1), window[:, :3])


def test_the_gradient_penalty_is_that_of_finite_differences():
    # not the operator: neuraloperator computes in single precision
    module = build(base="unet", gradient_weight=1.0, gradient_norm=0.3).double()
    torch.nn.init.normal_(module.network.head[-1].convolution.weight)
    x = frames(4).double()
    drawn = torch.rand(4, 1, dtype=torch.float64, generator=generator(5))
    speed, step = 0.2 + 3.8 * drawn, 1e-6
    with torch.no_grad():
        ahead, behind = (module.step(x, speed + sign * step) for sign in (1, -1))
    norm = ((ahead - behind) / (2 * step)).flatten(1).norm(dim=1)
    expected = (norm - 0.3).square().mean()
    found = module.gradient_penalty(x, generator(5))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)
    found.backward()
    assert module.block.gates[0][0].weight.grad.abs().max() > 0


def test_sizes_of_the_paper_are_comparable():
    # paper: baselines of width 36 in one dimension make up for the block of a base of width 20
    counts = [
        sum(p.numel() for p in CAPE(1, 1, 1, [128], conditioning=kind, width=width).parameters())
        for kind, width in (("cape", 20), ("channels", 36), ("none", 36))
    ]
    assert counts == [69_001, 78_733, 78_661]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_width": 7}, "must be even"),
        ({"modes": 1}, "modes must be at least 2"),
        ({"conditioning": "none", "gradient_weight": 1.0}, "need conditioning: cape"),
        ({"conditioning": "channels", "block_updates": 3}, "need conditioning: cape"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_a_grid_that_cannot_be_pooled_is_refused():
    with pytest.raises(ValueError, match="must be a multiple of 4"):
        CAPE(1, 1, 1, [30])


def test_the_block_needs_a_parameter():
    with pytest.raises(ValueError, match="a parameter that varies"):
        CAPE(1, 1, 0, [32])
