"""Networks see the ends of each axis as the data's boundary conditions have them."""

import pytest
import torch
from torch.nn import functional

from longrun.nn.fno import FNOBackbone
from longrun.nn.unet import CircularConvolution
from longrun.nn.walls import pad_as
from longrun.runtime import checkpoint
from longrun.runtime.cli import UserError

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


# A boundary that is prescribed -------------------------------------------------------------------

CHANNEL = {"name": "confined_flow", "flow": "channel", "points": 8, "aspect": [2, 1], "length": 2.0}
NAMES = ["length", "length_y", "dt", "speed", "density", "viscosity"]
KNOWN = torch.tensor([[2.0, 1.0, 0.1, 0.8, 1.0, 0.01], [2.0, 1.0, 0.1, 1.2, 1.0, 0.01]])
NETWORKS = {
    "cfdbench": {"width": 4, "depth": 2},
    "deeponet": {"width": 8, "depth": 2},
    "unet": {"width": 4, "multipliers": [1, 2]},
    "fno": {"width": 4, "modes": 3, "layers": 1},
}


def in_channel(name, boundary, equation=CHANNEL, names=NAMES):
    sizes = {"fields": 2, "dims": 2, "conditions": 0, "points": [16, 8], "equation": equation}
    options = NETWORKS[name] | {"boundary": boundary}
    module = checkpoint.build(name, checkpoint.sizes(name, sizes) | options, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    described = description(("velocity inlet, outlet", "no-slip walls"))
    module.fit_data(described | {"equation": equation, "parameter_names": names})
    return module.eval()


def flow():
    torch.manual_seed(2)
    return torch.randn(2, 1, 2, 16, 8)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_boundary_is_imposed_or_predicted_or_lost(name):
    frames, memories = flow(), {}
    with torch.no_grad():
        for boundary in ("imposed", "predicted", "masked"):
            module = in_channel(name, boundary)
            memory = module.begin(frames, KNOWN)
            assert (memory["history"][:, 0, 0, 0, 1:-1] == KNOWN[:, 3:4]).all()  # the inlet
            first, memory = module.advance(memory)
            second, _ = module.advance(memory)
            assert first.shape == frames[:, 0].shape
            memories[boundary] = memory["history"][:, 0], first, second
    free = module._walls(KNOWN).free
    rims = {boundary: memory[0] for boundary, memory in memories.items()}
    inside = [rim[free] for rim in rims.values()]
    assert torch.equal(inside[0], inside[1]) and torch.equal(inside[0], inside[2])
    assert (rims["imposed"][:, 0, 0, 1:-1] == KNOWN[:, 3:4]).all()
    assert (rims["masked"][~free] == 0).all()
    assert (rims["predicted"][~free] != 0).all()
    # so that what comes next is another in each
    seconds = [memory[2] for memory in memories.values()]
    assert not torch.allclose(seconds[0], seconds[1]) and not torch.allclose(seconds[0], seconds[2])


@pytest.mark.parametrize(("boundary", "matters"), [("imposed", False), ("predicted", True)])
def test_no_loss_is_about_what_is_imposed(boundary, matters):
    module = in_channel("cfdbench", boundary)
    framed = module.framed(torch.cat([flow(), flow()], 1), KNOWN)
    outside = ~module._walls(KNOWN).free[:, None].expand_as(framed)
    module.step = lambda history, conditions, generator: torch.zeros_like(history[:, -1])

    def loss(following):
        return module.frame_loss(framed[:, :1], following, KNOWN, torch.Generator())[0]

    other = torch.where(outside, framed + 1, framed)[:, 1]
    assert (loss(framed[:, 1]) != loss(other)) == matters


def test_training_rolls_out_as_a_forecast_does():
    module = in_channel("cfdbench", "imposed")
    frames = flow()
    _, frame, memory = module.step_loss(
        module.begin(frames, KNOWN), frames[:, 0], torch.Generator(), True
    )
    ahead, after = module.advance(module.begin(frames, KNOWN))
    assert torch.equal(frame, ahead)
    assert torch.equal(memory["history"], after["history"])
    assert torch.equal(module.stages(frames, KNOWN)[-1], ahead)


def test_no_loss_is_about_channels_that_do_not_move():
    module = checkpoint.build("unet", SIZES | {"dims": 1, "fields": 2, "width": 4}, seed=0)
    frames, parameters = torch.randn(2, 2, 2, 16), torch.empty(2, 0)
    other = frames.clone()
    other[:, 1, 1] += 1
    for static in ((), (1,)):
        module.fit_data(description(("wall",), static))
        losses = [
            module.frame_loss(f[:, :1], f[:, 1], parameters, torch.Generator())[0]
            for f in (frames, other)
        ]
        assert (losses[0] == losses[1]) == bool(static)


def test_a_boundary_without_effect_is_refused():
    with pytest.raises(UserError, match="takes frames in a rim"):
        checkpoint.build(
            "sinenet", {"fields": 1, "dims": 2, "conditions": 0, "boundary": "masked"}, 0
        )
    with pytest.raises(UserError, match="smoke with length, dt"):
        smoke = {"name": "smoke", "points": 16}
        module = checkpoint.build("unet", SIZES | {"dims": 2, "boundary": "imposed"}, seed=0)
        module.fit_data(description(()) | {"equation": smoke, "parameter_names": ["length", "dt"]})
    with pytest.raises(UserError, match="all its parameters"):
        in_channel("unet", "imposed", names=NAMES[:-1])
