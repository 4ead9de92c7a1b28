"""MgNO: parameters counted, V-cycles computed by their formulas."""

import pytest
import torch
from contracts import map as contract_map

from longrun.methods.map.mgno import MgNO, Prolongation, Smoothing, VCycle

DARCY = [[1, 0]] * 5 + [[2, 0]]
NAVIER_STOKES = [[1, 0]] * 3 + [[2, 0]] * 2
SMALL = {"width": 4, "layers": 2, "smoothing": [[1, 0], [1, 1], [2, 0]]}


def build(points=(16, 16), **options):
    torch.manual_seed(0)
    sizes = {"fields": 2, "dims": len(points), "conditions": 0, "points": list(points)}
    return MgNO(**sizes | SMALL | options)


def cycle(points, padding="zeros", smoothing=((1, 0), (1, 1), (2, 0)), inputs=2, **options):
    torch.manual_seed(0)
    options = {"normalised": False} | options
    steps = [list(pair) for pair in smoothing]
    return VCycle(len(points), inputs, 4, list(points), steps, padding, **options).double()


def field(channels, points, seed=0, batch=2):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, *points, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("points", "options", "millions"),
    [
        (256, {"width": 24, "layers": 4, "smoothing": DARCY}, 0.57),
        (211, {"width": 24, "layers": 5, "smoothing": DARCY}, 0.68),
        (
            64,
            {
                "width": 32,
                "layers": 5,
                "smoothing": NAVIER_STOKES,
                "padding": "circular",
                "variant": "navier_stokes",
            },
            2.89,
        ),
    ],
    ids=["rough", "smooth", "navier_stokes"],
)
def test_the_papers_parameter_counts(points, options, millions):
    with torch.device("meta"):
        module = MgNO(fields=2, dims=2, conditions=0, points=[points, points], **options)
    count = sum(parameter.numel() for parameter in module.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("padding", ["zeros", "circular", "reflect"])
def test_a_cycle_is_linear(padding):
    points = (16, 8)
    w, f, g = cycle(points, padding), field(2, points), field(2, points, seed=1)
    torch.testing.assert_close(w(2.5 * f - 0.5 * g), 2.5 * w(f) - 0.5 * w(g))


def test_two_levels_follow_their_formulas():
    w, f = cycle((8, 8), smoothing=((2, 1), (1, 0))), field(2, (8, 8))
    (first, second), (coarse,), (post,) = w.down[0], w.down[1], w.up[0]
    u = first.smoother(f)
    u = u + second.smoother(f - second.residual(u))
    below, guess = w.restrict[0](f), w.guess[0](u)
    guess = guess + coarse.smoother(below - coarse.residual(guess))
    u = u + w.prolong[0](guess)
    u = u + post.smoother(f - post.residual(u))
    torch.testing.assert_close(w(f), u)
    assert first.residual is None


def test_the_very_first_step_alone_has_no_residual():
    w = cycle((16, 16), smoothing=((2, 1), (1, 1), (2, 0)))
    steps = [step for level in (*w.down, *w.up) for step in level]
    assert [step.residual is None for step in steps].count(True) == 1
    assert all(isinstance(step, Smoothing) for step in steps) and len(steps) == 7


@pytest.mark.parametrize("points", [(21, 22), (17, 32), (13, 7)])
@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_sides_need_not_be_divisible(points, padding):
    module = build(points, padding=padding, smoothing=[[1, 0], [1, 0], [2, 0]])
    assert module.operator(torch.randn(2, 1, *points)).shape == (2, 1, *points)


@pytest.mark.parametrize("points", [(20,), (12, 12), (8, 12, 8)])
def test_any_dimension(points):
    module = build(points, smoothing=[[1, 0], [2, 0]])
    assert module.operator(torch.randn(2, 1, *points)).shape == (2, 1, *points)


@pytest.mark.parametrize("variant", ["darcy", "navier_stokes"])
def test_circular_padding_commutes_with_translations(variant):
    module = build(padding="circular", variant=variant).double()
    with torch.no_grad():
        for cycle_ in module.cycles:  # its scales belong to points
            for norm in cycle_.norm:
                if isinstance(norm, torch.nn.LayerNorm):
                    norm.weight.fill_(1.0), norm.bias.fill_(0.0)
    x = field(1, (16, 16))
    moved = module.operator(x.roll((4, 8), (2, 3)))  # multiples of the coarsest cell
    torch.testing.assert_close(moved, module.operator(x).roll((4, 8), (2, 3)))


def test_zeros_beyond_the_walls_break_them():
    module, x = build().double(), field(1, (16, 16))
    moved = module.operator(x.roll(4, 2))
    assert not torch.allclose(moved, module.operator(x).roll(4, 2), rtol=1e-3)


@pytest.mark.parametrize(("fine", "coarse"), [(16, 8), (15, 8), (5, 3)])
def test_prolongation_hits_the_finer_grid_in_every_padding(fine, coarse):
    for padding in ("zeros", "circular", "reflect"):
        torch.manual_seed(0)
        prolong = Prolongation(1, 3, [fine], padding)
        assert prolong(torch.ones(1, 3, coarse)).shape == (1, 3, fine)
    torch.manual_seed(0)
    zeros = Prolongation(1, 3, [fine], "zeros").double()
    u = field(3, (coarse,))
    torch.manual_seed(0)
    reflect = Prolongation(1, 3, [fine], "reflect").double()
    inner = slice(2, -2)  # paddings differ at the ends alone
    torch.testing.assert_close(reflect(u)[..., inner], zeros(u)[..., inner])


def test_coarse_grids_carry_information_across_the_domain():
    x = field(1, (32, 32), batch=1).requires_grad_()

    def reach(smoothing):
        module = build((32, 32), layers=1, smoothing=smoothing).double()
        (gradient,) = torch.autograd.grad(module.operator(x)[0, 0, 16, 16], x)
        return int((gradient[0, 0] != 0).sum())

    assert reach([[1, 0]]) == 9  # one convolution
    assert reach([[1, 0], [1, 0], [1, 0], [2, 0]]) == 32 * 32


def test_without_bias_zero_stays_zero_on_the_finest_grid_alone():
    module = build()
    assert all(c.bias is None for w in module.cycles for c in w.modules() if hasattr(c, "bias"))
    assert all(layer.bias is not None for layer in module.beside) and module.head.bias is None
    flow = build(variant="navier_stokes")
    assert not flow.beside and flow.cycles[0].down[0][0].smoother.bias is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smoothing": []}, "smoothing"),
        ({"smoothing": [[0, 1], [1, 0]]}, "finest"),
        ({"smoothing": [[1, 0], [1, 1]]}, "coarsest"),
        ({"smoothing": [[1, 0], [1, -1]]}, "negative"),
        ({"smoothing": [[1, 0]] * 5}, "5 levels"),
        ({"points": (18, 16), "padding": "circular"}, "multiple of 4"),
        ({"width": 0}, "width"),
        ({"padding": "nothing"}, "padding"),
        ({"variant": "burgers"}, "variant"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build(**options)


def test_it_learns_a_solution_operator():
    module = MgNO(2, 2, 1, [16, 16], criterion="relative_h1", **SMALL)
    module.fit_statistics(contract_map.description(MgNO)["statistics"])
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    batch, generator = contract_map.batch(module, 4), torch.Generator()
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        losses.append(module.batch_loss(batch, generator))
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.2 * losses[0]
