"""Networks see the ends of each axis as the data's boundary conditions have them."""

import pytest
import torch
from torch.nn import functional

from longrun.nn.fno import FNOBackbone
from longrun.nn.unet import CircularConvolution
from longrun.nn.walls import pad_as
from longrun.runtime import checkpoint

SIZES = {"fields": 1, "conditions": 0}


def description(boundary, static=()):
    return {"boundary": boundary, "static": static}


def built(name, boundary, **options):
    torch.manual_seed(0)
    module = checkpoint.build(name, SIZES | {"dims": len(boundary)} | options, seed=0)
    for parameter in module.parameters():
        if not parameter.any():  # those of last layers
            torch.nn.init.normal_(parameter, std=0.3)
    module.fit_data(description(boundary))
    return module.eval()


@pytest.mark.parametrize("boundary", [("wall", "periodic"), ("open", "unknown")])
def test_a_convolution_pads_each_axis_as_it_ends(boundary):
    layer = CircularConvolution(2, 3, 4)
    pad_as(layer, boundary)
    x = torch.randn(2, 3, 8, 6)
    modes = ["circular" if kind == "periodic" else "constant" for kind in boundary]
    padded = functional.pad(x, (0, 0, 1, 1), modes[0])
    padded = functional.pad(padded, (1, 1, 0, 0), modes[1])
    assert torch.allclose(layer(x), layer.convolution(padded), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("unet", {"width": 4, "multipliers": [1, 2]}),
        ("fno", {"width": 4, "modes": 4}),
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_only_periodic_axes_have_no_origin(name, options, axis):
    boundary = ["wall", "wall"]
    boundary[axis] = "periodic"
    module = built(name, boundary, **options)
    frames = torch.randn(2, 1, 1, 16, 16)

    def step(frames):
        return module.step(frames, torch.empty(2, 0))

    with torch.no_grad():
        for along in (0, 1):
            moved = step(frames.roll(4, 3 + along))
            shifted = step(frames).roll(4, 2 + along)
            assert torch.allclose(moved, shifted, atol=1e-4) == (along == axis)


def test_an_fno_between_walls_sees_zeros_beyond_the_far_ones():
    network = FNOBackbone(2, 1, 1, width=4, modes=3)
    pad_as(network, ("wall", "periodic"))
    x = torch.randn(2, 1, 20, 12)
    padded = functional.pad(x, (0, 0, 0, 3))  # an eighth of 20, rounded up
    assert torch.allclose(network(x), network.operator(padded)[:, :, :20], atol=1e-6)


def test_channels_that_do_not_move_are_kept():
    module = checkpoint.build("unet", SIZES | {"dims": 1, "fields": 2, "width": 4}, seed=0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    module.fit_data(description(("wall",), static=(1,)))
    frames = torch.randn(2, 1, 2, 16)
    parameters = torch.empty(2, 0)
    memory = module.begin(frames, parameters)
    for _ in range(2):
        frame, memory = module.advance(memory)
        assert torch.equal(frame[:, 1], frames[:, 0, 1])
        assert not torch.allclose(frame[:, 0], frames[:, 0, 0])
