"""PIG: sizes of the paper, closed forms, and a linear basis when nothing else is trained."""

import numpy as np
import pandas as pd
import pytest
import torch
from contracts.solve import HELMHOLTZ
from matplotlib.collections import EllipseCollection
from tasks.test_solve import as_data, build, generator, helmholtz_store

from longrun.figures._inputs import Inputs
from longrun.figures.solve import adaptive_gaussians
from longrun.methods.solve.pig import PIG
from longrun.tasks.solve import AbstractFieldSolver

NEUMANN = {"name": "poisson", "wall": "neumann"}


@pytest.mark.parametrize(
    ("gaussians", "dims", "parameters"),
    [(800, 2, 16_097), (4000, 3, 112_097), (100, 3, 2_897)],  # from the paper's code
)
def test_parameters_of_the_paper(gaussians, dims, parameters):
    module = build(PIG, gaussians=gaussians)
    if dims == 3:  # Helmholtz has two: count a third centre and width for every Gaussian
        parameters -= 2 * 4 * gaussians
    assert sum(p.numel() for p in module.parameters()) == parameters


def test_gaussians_are_gaussians():
    module = build(PIG, gaussians=6).double()
    with torch.no_grad():
        module.log_sigma.add_(torch.randn(module.log_sigma.shape, generator=generator()) / 3)
    s = 2 * torch.rand(5, 2, generator=generator(), dtype=torch.float64) - 1
    z = (s[None, :, None] - module.centre[:, None]) / module.log_sigma.exp()[:, None]
    expected = torch.exp(-z.square().sum(-1) / 2)
    torch.testing.assert_close(module.gaussians(s), expected, rtol=1e-10, atol=1e-12)


def test_float32_keeps_the_second_derivatives():
    """Powers around the origin cancel; little is lost at the paper's widths."""
    module = build(PIG, gaussians=200, sigma=0.1, weight_std=1.0)
    points = 2 * torch.rand(300, 2, generator=generator())
    with torch.no_grad():
        single = module.feature_derivatives(points, ("xx", "yy"))
        double = module.double().feature_derivatives(points.double(), ("xx", "yy"))
    for name in ("", "x", "xx", "yy"):
        assert (single[name] - double[name]).norm() < 2e-5 * double[name].norm()


def test_weights_alone_are_a_linear_least_squares_problem():
    """With fixed Gaussians and one linear feature, the best weights are those of numpy."""
    module = build(PIG, gaussians=30, features=1, sigma=0.4, centres="lattice").double()
    points = 2 * torch.rand(200, 2, generator=generator(), dtype=torch.float64)
    target = torch.sin(3 * points[:, 0]) * points[:, 1]
    with torch.no_grad():
        basis = module.gaussians(points * 2 / module.extent - 1)[0]
        best = torch.from_numpy(np.linalg.lstsq(basis.numpy(), target.numpy(), rcond=None)[0])
        module.weight.copy_(best[None])
    feature = module.feature_derivatives(points, ())[""][:, 0]
    torch.testing.assert_close(feature, basis @ best, rtol=1e-10, atol=1e-10)
    (gradient,) = torch.autograd.grad((feature - target).square().sum(), module.weight)
    size = float((basis.T @ target).abs().max())
    assert gradient.abs().max() < 1e-8 * size


def test_the_least_squares_solution_of_the_equation():
    """Collocation by numpy, on Gaussians and their derivatives, solves the problem itself."""
    module = build(PIG, gaussians=1, features=400, sigma=0.2, centres="lattice", wall_points=60)
    module = module.double()
    with torch.no_grad():
        module.weight.fill_(1.0)  # each feature is a Gaussian
        inner = 2 * torch.rand(900, 2, generator=generator(), dtype=torch.float64)
        table = module.feature_derivatives(inner, ("xx", "yy"))
        wall = module.feature_derivatives(module.walls(generator(1)).double(), ())[""]
        at = dict(zip("xy", inner.unbind(1), strict=True))
        right = module.equation._source(at, module.parameter_values)
        matrix = torch.cat([1e-2 * (table["xx"] + table["yy"] + table[""]), wall])
        given = torch.cat([1e-2 * right, torch.zeros(len(wall), dtype=torch.float64)])
        best = np.linalg.lstsq(matrix.numpy(), given.numpy(), rcond=1e-12)[0]
        x = module.positions()
        found = module.feature_derivatives(x, ())[""] @ torch.from_numpy(best)
    exact = torch.sin(torch.pi * (x[:, 0] - 1)) * torch.sin(4 * torch.pi * (x[:, 1] - 1))
    assert (found - exact).norm() < 1e-2 * exact.norm()


def test_centres_that_move_begin_where_others_stay():
    still, moving = (build(PIG, gaussians=9, centres="lattice", moving=m) for m in (False, True))
    assert "centre" not in dict(still.named_parameters())
    assert "centre" in dict(moving.named_parameters())
    assert torch.equal(still.centre, moving.centre)


def test_a_lattice_is_even():
    module = build(PIG, gaussians=100, centres="lattice")
    centres = module.centre.detach().flatten(0, 1)
    assert centres.abs().max() <= 1 and len(centres.unique(dim=0)) == 400
    counts = np.histogram2d(*centres.T.numpy(), bins=5, range=[[-1, 1]] * 2)[0]
    assert counts.min() >= 13 and counts.max() <= 19  # 16 on average
    again = build(PIG, seed=1, gaussians=100, centres="lattice")
    assert torch.equal(again.centre, module.centre)


def test_the_tiny_network_s_derivatives():
    module = build(PIG, gaussians=8, sigma=0.5, weight_std=1.0).double()
    points = 2 * torch.rand(6, 2, generator=generator(), dtype=torch.float64)
    names = ("x", "y", "xx", "yy")
    found = module.differentiate(points, names)
    expected = AbstractFieldSolver.differentiate(module, points, names)
    for name in names:
        assert expected[name].abs().max() > 1e-3
        torch.testing.assert_close(found[name], expected[name], rtol=1e-9, atol=1e-9)


def test_widths_stay_positive():
    module = build(PIG, gaussians=5)
    with torch.no_grad():
        module.log_sigma.fill_(-3.0)
    assert (module.exhibits()["width"].values > 0).all()


def test_the_loss_is_that_of_the_public_code():
    module = build(PIG, gaussians=5, collocation=[20], residual_weight=1e-4, wall_points=6)
    loss = module.batch_loss({}, generator())
    random = generator()
    points = module.collocate(random)[0]
    residual = module.residual(points).detach().square().mean()
    walls = module(module.walls(random)).detach().square().mean()
    assert float(loss.detach()) == pytest.approx(float(walls + 1e-4 * residual), rel=1e-5)


def test_figure_draws_every_gaussian():
    store, module = helmholtz_store(), build(PIG, gaussians=5)
    module.prepare(as_data(store), [])
    evaluation = module.evaluate(store, {}, 0)
    scores = evaluation.scores.assign(method="pig", seed=0)
    spec, kept = {"methods": {"pig": {}}, "test": ["store"]}, {"pig": evaluation.predictions}
    figure = adaptive_gaussians.draw(Inputs(spec, "cpu", "e", scores, {}, pd.DataFrame(), kept))
    found = [c for axes in figure.axes for c in axes.collections]
    (ellipses,) = (c for c in found if isinstance(c, EllipseCollection))
    np.testing.assert_allclose(ellipses.get_offsets(), kept["pig"]["centre"].values, rtol=1e-6)
    error = scores[scores["metric"] == "relative_l2"]["value"].item()
    assert f"{error:.1e}" in figure.get_suptitle()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build(PIG, gaussians=0), "must be positive"),
        (lambda: build(PIG, sigma=0.0), "must be positive"),
        (lambda: build(PIG, equation=NEUMANN, points=[32, 32]), "poisson gives no residual"),
        (lambda: build(PIG, equation=HELMHOLTZ, collocation=[4, 4]), "must be 1 positive"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
