"""IFactFormer against the equations of its paper, and the size of the public code."""

import itertools
import math

import pytest
import torch

from longrun.methods.forecast.ifactformer import IFactFormer, Kernel, Layer, along, angles
from longrun.nn.coordinates import turned

NONE = torch.zeros(2, 0)


def build(seed=0, **options):
    torch.manual_seed(seed)
    sizes = {"width": 8, "heads": 2, "head_width": 4, "iterations": 3}
    return IFactFormer(3, 3, 0, **sizes | options)


def frames(space=(4, 6, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 1, 3, *space, generator=generator)


@pytest.mark.parametrize(("axes", "count"), [("parallel", 1_163_427), ("chained", 1_071_267)])
def test_has_the_parameters_of_the_paper(axes, count):
    """Counted in the public code: 1.163 and 1.071 million."""
    with torch.device("meta"):
        module = IFactFormer(3, 3, 0, axes=axes)
    assert sum(parameter.numel() for parameter in module.parameters()) == count


def test_the_implicit_layer_is_one_and_the_explicit_ones_are_many():
    assert len(build().layers) == 1 and len(build(implicit=False).layers) == 3
    module, other = build(), build(implicit=False)
    for layer in other.layers:
        layer.load_state_dict(module.layers[0].state_dict())
    u = module.lift(frames()[:, 0].movedim(1, -1)) + module.positions((4, 6, 5))
    with torch.no_grad():
        for _ in range(3):
            u = u + module.layers[0](u) / 3
        expected = module.head(u).movedim(-1, 1)
        torch.testing.assert_close(module.step(frames(), NONE), expected)
        assert not torch.allclose(other.step(frames(), NONE), expected, atol=1e-3)


def test_more_iterations_of_a_shared_layer_are_smaller_steps_of_one_flow():
    """Steps of 1 / N are Euler's method: the error halves when N doubles."""
    found = []
    for iterations in (4, 8, 16, 32):
        module = build(iterations=iterations, gain=1.0).double()
        with torch.no_grad():
            found.append(module.step(frames().double(), NONE.double()))
    change = [(one - other).norm() for one, other in itertools.pairwise(found)]
    for one, other in itertools.pairwise(change):
        assert 1.7 < one / other < 2.4


def values_through(layer, w, v):
    """Values after the kernels as full matrices over all points, by Kronecker products."""
    kernels = [kernel(w, axis) for axis, kernel in enumerate(layer.kernels, start=1)]
    identity = [torch.eye(n).expand(2, 2, n, n) for n in v.shape[2:5]]

    def matrix(chosen):
        parts = [
            k if at in chosen else one
            for at, (k, one) in enumerate(zip(kernels, identity, strict=True))
        ]
        return torch.einsum("bhij,bhlm,bhrs->bhilrjms", *parts).reshape(2, 2, 120, 120)

    flat = v.flatten(2, 4)
    if layer.chained:
        return matrix({0, 1, 2}) @ flat
    return torch.cat([matrix({axis}) @ flat for axis in range(3)], dim=-1)


@pytest.mark.parametrize("chained", [True, False])
def test_kernels_act_side_by_side_or_one_after_the_other(chained):
    torch.manual_seed(0)
    layer = Layer(3, 8, 2, 4, chained, rotary=True, gain=3.0)
    u = torch.randn(2, 4, 6, 5, 8)
    seen = []
    layer.out.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        found = layer(u)
        normed = layer.norm(u)
        v = layer.values(normed).unflatten(-1, (2, 4)).movedim(-2, 1)
        y = values_through(layer, layer.mix(normed), v)
        y = (y - y.mean(2, keepdim=True)) / (y.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = y.transpose(1, 2).flatten(2).unflatten(1, (4, 6, 5))
    assert found.shape == u.shape
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)


def test_a_chain_dies_at_the_published_start_and_parallel_kernels_do_not():
    """Gradients of the kernels: what Adam divides by is 1e-8."""
    sizes = {}
    for axes in ("parallel", "chained"):
        for gain in (0.02, 1.0):
            module = build(axes=axes, gain=gain, width=32, head_width=16)
            module.step(frames((8, 8, 8)), NONE).square().mean().backward()
            gradient = module.layers[0].kernels[0].query.weight.grad
            sizes[axes, gain] = gradient.abs().mean().item()
    assert sizes["chained", 0.02] < 1e-9
    assert min(sizes["parallel", 0.02], sizes["parallel", 1.0], sizes["chained", 1.0]) > 1e-7


def test_without_kernels_points_do_not_know_each_other():
    """What a point hears of the others comes through the kernels and the norm behind them."""
    module = build(positions=False, gain=1.0)
    x = frames((4, 4, 4))
    other = x.clone()
    other[..., 2, 2, 2] += 1.0
    with torch.no_grad():
        change = (module.step(other, NONE) - module.step(x, NONE))[..., 0, 0, 0].abs().max()
        for kernel in module.layers[0].kernels:
            kernel.query.weight.zero_()
        alone = (module.step(other, NONE) - module.step(x, NONE))[..., 0, 0, 0].abs().max()
    assert change > 1e-4 and alone == 0


def test_rotation_lets_a_kernel_depend_on_distance_alone():
    torch.manual_seed(0)
    kernel = Kernel(8, 2, 12, rotary=True, gain=1.0)
    uniform = torch.randn(1, 1, 8).expand(1, 6, 8)
    with torch.no_grad():
        matrix = kernel(uniform, 1)[0, 0]
        plain = Kernel(8, 2, 12, rotary=False, gain=1.0)(uniform, 1)
    for shift in range(1, 5):
        diagonal = matrix.diagonal(shift)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-3, atol=1e-5)
    assert matrix.diagonal(1)[0] != matrix.diagonal(2)[0]
    torch.testing.assert_close(plain, plain[..., :1, :1].expand_as(plain))


def test_rotation_turns_by_the_coordinate():
    x = torch.zeros(1, 1, 4, 2)
    x[..., 0] = 1.0
    angle = 64 * 2 * math.pi * torch.arange(4) / 4
    expected = torch.stack([angle.cos(), angle.sin()], dim=-1)
    torch.testing.assert_close(turned(x, angles(x))[0, 0], expected, rtol=0, atol=1e-4)


def test_along_is_a_product_with_one_axis():
    kernel, values = torch.randn(2, 3, 6, 6), torch.randn(2, 3, 4, 6, 5, 7)
    expected = torch.einsum("bhlm,bhimrc->bhilrc", kernel, values)
    torch.testing.assert_close(along(kernel, values, 3), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 0}, "must be at least 1"),
        ({"head_width": 3}, "head_width must be even"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)
