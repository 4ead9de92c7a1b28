"""Rectified flow: its exact velocity, its theorems, its re-flow and its samplers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from contracts import sample as contract_sample
from scipy import stats

from longrun.equations.gaussian_mixture import GaussianMixture
from longrun.methods.sample.exact_flow import ExactFlow
from longrun.methods.sample.rectified_flow import FIRST, GROUP, RectifiedFlow, _assignment
from longrun.metrics.samples import mixture_scores, sliced_w2
from longrun.nn.flow import flow_states
from longrun.nn.mixture import posterior
from longrun.runtime import registry
from longrun.runtime.cli import UserError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def end(velocity, start, steps, scheme="rk4"):
    *_, last = flow_states(velocity, start, steps, scheme)
    return last


def mixture_velocity(state, time, means, variances):
    weight, scaled = posterior(state, time, 1 - time, means[None], variances[None])
    return (weight * (means + (time * variances - (1 - time)) * scaled)).sum(1)


def gmm():
    law = GaussianMixture()
    means = torch.from_numpy(law.centres)
    return means, torch.from_numpy(law.deviations**2).expand_as(means)


def field64(seed=0):
    """FIELD64: 16 Gaussians of 64 coefficients with a steep spectrum, mean variance one."""
    k = torch.arange(1.0, 33.0, dtype=torch.float64).repeat(2)
    amplitude = 1 / (1 + (k / 6) ** 4)
    amplitude /= amplitude.square().mean().sqrt()
    means = 0.8 * amplitude * normal(16, 64, seed=seed)
    variances = (0.6 * amplitude).square().expand(16, 64)
    total = (variances[0] + means.var(0, correction=0)).mean()
    return means / total.sqrt(), variances / total


def flow(**options):
    torch.manual_seed(0)
    given = {"fields": 2, "dims": 0, "conditions": 0, "width": 16, "layers": 2} | options
    return RectifiedFlow(**given)


# The exact velocity ------------------------------------------------------------------------------


def test_velocity_is_that_of_the_denoiser():
    means, variances = gmm()
    state, time = normal(50, 2), 0.6
    between = time**2 * variances[0, 0] + (1 - time) ** 2
    weight = (-0.5 * (state[:, None] - time * means).square().sum(-1) / between).softmax(-1)
    gain = time * variances[0, 0] / between
    denoised = (weight[..., None] * (means + gain * (state[:, None] - time * means))).sum(1)
    expected = (denoised - state) / (1 - time)
    torch.testing.assert_close(mixture_velocity(state, time, means, variances), expected)


def test_velocity_is_the_regression_on_lines():
    """E[z1 - z0 | z_t] leaves an error that is uncorrelated with every function of z_t."""
    means, variances = gmm()
    count = 200_000
    chosen = torch.randint(8, (count,), generator=generator(1))
    data = means[chosen] + variances[chosen].sqrt() * normal(count, 2, seed=2)
    noise = normal(count, 2, seed=3)
    state = 0.7 * data + 0.3 * noise
    error = data - noise - mixture_velocity(state, 0.7, means, variances)
    tests = [torch.ones_like(state), state, state.flip(1), state**3, (3 * state).sin()]
    for function in tests:
        assert (error * function).mean(0).abs().max() < 0.02


def test_velocity_at_both_ends():
    means, variances = gmm()
    state = normal(10, 2)
    mean = means.mean(0).expand(10, 2)
    torch.testing.assert_close(mixture_velocity(state, 0.0, means, variances), mean - state)
    assert mixture_velocity(state, 1.0, means, variances).isfinite().all()


def test_between_two_gaussians_the_map_is_optimal():
    """In one dimension the only monotone map: z -> m + s z; its cost is m^2 + (s - 1)^2."""
    m, s = torch.tensor([[3.0]]).double(), torch.tensor([[0.25]]).double()
    noise = normal(1000, 1)
    found = end(lambda x, t: mixture_velocity(x, t, m, s), noise, 100)
    torch.testing.assert_close(found, 3 + 0.5 * noise, rtol=1e-6, atol=1e-6)


def test_paths_keep_the_distribution_of_the_lines_at_every_time():
    means, variances = gmm()
    noise, other, count = normal(4000, 2), normal(4000, 2, seed=5), 4000
    chosen = torch.randint(8, (count,), generator=generator(1))
    data = means[chosen] + variances[chosen].sqrt() * normal(count, 2, seed=2)
    path = [*flow_states(lambda x, t: mixture_velocity(x, t, means, variances), noise, 40)]
    for step in (10, 20, 30, 40):
        time = step / 40
        lines = time * data + (1 - time) * other
        assert sliced_w2(path[step].numpy(), lines.numpy()) < 0.08  # of clusters at distance 1


@pytest.mark.parametrize(("law", "steps"), [(gmm, 50), (field64, 30)])
def test_the_flow_costs_less_than_the_random_coupling(law, steps):
    means, variances = law()
    noise = normal(300, means.shape[1])
    data = end(lambda x, t: mixture_velocity(x, t, means, variances), noise, steps)
    independent = 1 + data.var(0, correction=0).mean() + data.mean(0).square().mean()
    assert (data - noise).square().mean() < 0.7 * independent


def test_errors_of_few_euler_steps_are_those_of_an_independent_computation():
    """FIELD64 of unit variance: 0.372, 0.202, 0.110, 0.058 at 4, 8, 16, 32 steps.

    The means of the 16 components are random, so each draw of them differs by some 15 %. In four
    steps the samples have 0.68 of the standard deviation.
    """
    errors, deviations = [], []
    for seed in range(3):
        means, variances = field64(seed)

        def velocity(x, t, law=(means, variances)):
            return mixture_velocity(x, t, *law)

        noise = normal(150, 64, seed=9)
        fine = end(velocity, noise, 60)
        coarse = [end(velocity, noise, n, "euler") for n in (4, 8, 16, 32)]
        errors.append([float((c - fine).square().mean().sqrt()) for c in coarse])
        deviations.append(float(coarse[0].std() / fine.std()))
    np.testing.assert_allclose(np.mean(errors, axis=0), [0.372, 0.202, 0.110, 0.058], rtol=0.2)
    assert np.mean(deviations) == pytest.approx(0.68, abs=0.05)


def test_the_oracle_of_a_steep_spectrum_errs_as_the_independent_computation():
    """The same of the dataset's law, in the units of the store; one draw of the means."""
    law = {"name": "gaussian_mixture", "law": "spectrum", "values": 64}
    law |= {"components": 16, "radius": 0.8, "spread": 0.6}
    mixture = registry.build("equations", law)
    _, points = mixture.sample([np.random.default_rng(i) for i in range(4000)])
    assert points.var(0).mean() == pytest.approx(1, rel=0.05)
    module = ExactFlow(64, 0, 0, law, one_scale=True, fine_steps=60)
    module.field_mean.copy_(torch.from_numpy(points.mean(0)))
    module.field_std.fill_(float(np.sqrt(points.var(0).mean())))
    seen = torch.zeros(300, 0)
    noise = torch.randn(300, 64, generator=generator())
    fine = module.solve(noise, seen, seen)
    errors = [(module.solve(noise, seen, seen, n) - fine).square().mean() for n in (4, 8, 16, 32)]
    np.testing.assert_allclose(np.sqrt(errors), [0.372, 0.202, 0.110, 0.058], rtol=0.2)


def test_the_oracle_draws_its_distribution_in_the_units_of_the_store():
    module = ExactFlow(2, 0, 0, {"name": "gaussian_mixture"})
    module.field_mean.copy_(torch.tensor([0.3, -0.2]))
    module.field_std.copy_(torch.tensor([0.7, 1.5]))
    parameters = torch.ones(2000, 2)
    drawn = module.draw(torch.zeros(2000, 0), parameters, generator())
    law = torch.from_numpy(GaussianMixture().centres).float()
    distance, nearest = torch.cdist(drawn, law).min(1)
    assert distance.square().mean().sqrt() == pytest.approx(0.05 * 2**0.5, rel=0.05)
    assert (nearest.bincount(minlength=8) / 2000 - 1 / 8).abs().max() < 0.03


def test_the_oracle_refuses_other_data():
    with pytest.raises(ValueError, match="not known"):
        ExactFlow(2, 0, 0, {"name": "burgers"})
    with pytest.raises(ValueError, match="not known"):
        ExactFlow(2, 0, 0, {"name": "gaussian_mixture"}, conditional=True)


def test_points_of_the_mixture_have_its_moments():
    law = GaussianMixture(components=5, radius=2.0, spread=0.1)
    _, points = law.sample([np.random.default_rng(i) for i in range(4000)])
    shift = points[:, None] - law.centres
    distance = np.linalg.norm(shift, axis=-1)
    shares = np.bincount(distance.argmin(1), minlength=5) / 4000
    assert np.abs(shares - 0.2).max() < 0.03
    assert np.sqrt(np.square(distance.min(1)).mean() / 2) == pytest.approx(0.1, rel=0.03)


@pytest.mark.parametrize(
    "options", [{}, {"law": "spectrum", "values": 6, "components": 3, "spread": 0.6}]
)
def test_the_known_law_is_that_of_the_draws(options):
    mixture = GaussianMixture(**options)
    parameters, points = mixture.sample([np.random.default_rng(i) for i in range(20)])
    law = mixture.law(parameters)
    known = mixture_scores(points, law.means, law.variances)
    covariance = np.diag(mixture.deviations**2)
    densities = [stats.multivariate_normal(c, covariance).pdf(points) for c in mixture.centres]
    np.testing.assert_allclose(known["log_density"], np.log(np.mean(densities, axis=0)))
    nearest = np.min(
        [np.linalg.norm((points - c) / mixture.deviations, axis=1) for c in mixture.centres], 0
    )
    np.testing.assert_allclose(known["distance"], nearest)


@pytest.mark.parametrize(
    "options", [{"values": 3, "law": "spectrum"}, {"values": 4}, {"components": 0}]
)
def test_impossible_mixtures_are_refused(options):
    with pytest.raises(UserError, match="must be"):
        GaussianMixture(**options)


# Solvers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scheme", "order"), [("euler", 1), ("rk4", 4)])
def test_order_of_the_solvers(scheme, order):
    start = normal(3, 1)
    exact = start * np.exp(np.sin(1.0))
    errors = [
        float((end(lambda x, t: x * np.cos(t), start, n, scheme) - exact).abs().max())
        for n in (8, 16)
    ]
    assert np.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_one_step_is_exact_on_straight_paths():
    module = flow()
    module.velocity = lambda state, time, context, conditions: 0.0 * state + 1.5
    noise, nothing = torch.randn(4, 2, generator=generator()), torch.zeros(4, 0)
    ends = [module.solve(noise, nothing, nothing, n) for n in (1, 7, None)]
    for found in ends:
        torch.testing.assert_close(found, noise + 1.5)


def test_the_network_is_asked_for_no_time_that_training_has_not_seen():
    module, times = flow(fine_steps=3), []

    class Network(torch.nn.Module):
        def forward(self, given):  # of the state (x, y) and the time
            times.extend(given[:, 2].tolist())
            return 0.0 * given[:, :2]

    module.network = Network()
    noise, nothing = torch.zeros(2, 2), torch.zeros(2, 0)
    module.solve(noise, nothing, nothing)
    module.solve(noise, nothing, nothing, 4)
    module.loss(torch.zeros(5000, 2), torch.zeros(5000, 0), torch.zeros(5000, 0), generator())
    assert min(times) == pytest.approx(FIRST) and max(times) <= 1
    drawn = np.array(times[-5000:])
    assert drawn.min() >= FIRST and drawn.mean() == pytest.approx(0.5, abs=0.02)


# Training ----------------------------------------------------------------------------------------


def test_a_velocity_fitted_between_two_gaussians_gives_the_optimal_map():
    module = flow(fields=1, width=32)
    optimiser = torch.optim.Adam(module.parameters(), lr=5e-3)
    for step in range(400):
        data = 2 + 0.5 * torch.randn(512, 1, generator=generator(step))
        nothing = data[:, :0]
        loss = module.loss(data, nothing, nothing, generator(10_000 + step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    noise = torch.linspace(-2, 2, 41)[:, None]
    with torch.no_grad():
        found = module.solve(noise, noise[:, :0], noise[:, :0])
    assert (found.diff(dim=0) > 0).all()
    assert (found - (2 + 0.5 * noise)).abs().max() < 0.15


def test_size_of_the_perceptron():
    count = sum(p.numel() for p in flow(width=128, layers=4).parameters())
    assert count == (3 * 128 + 128) + 3 * (128 * 128 + 128) + (128 * 2 + 2)


class Teacher(RectifiedFlow):
    """Carries noise to noise plus what is seen, so its output shows its input."""

    def solve(self, noise, context, conditions, nfe=None):
        return noise + context + conditions.reshape(-1, 1, 1)


def data(seed=0, frames=2, count=30):
    """Stand-in for the data module: windows whose frames identify them."""

    def read(chosen):
        waves = np.sin(np.arange(16) + np.asarray(chosen)[:, None, None, None])
        window = np.broadcast_to(waves, (len(chosen), frames, 1, 16)).astype(np.float32)
        columns = np.stack([8 + 0.02 * np.asarray(chosen), np.ones(len(chosen))] * 2, axis=1)
        return window, columns[:, [0, 1, 1]].astype(np.float32)

    class Windows(list):
        pass

    windows = Windows(range(count))
    windows.read = read
    return SimpleNamespace(seed=seed, train_windows=windows)


def conditional(kind=RectifiedFlow, seed=0, **options):
    torch.manual_seed(seed)
    small = {"width": 8, "multipliers": [1, 2], "fine_steps": 3, "conditional": True}
    module = kind(1, 1, 1, **small, **options)
    module.fit_statistics(contract_sample.FIELD["statistics"])
    return module


def test_pairs_keep_together_and_are_made_from_the_seed():
    like = torch.zeros(4, 1, 16)
    made = []
    for seed in (0, 0, 1):
        module = conditional(pairs=600)
        module.prepare(data(seed), [conditional(Teacher, seed=1)])
        made.append(module._make_pairs(like).columns)
    noise, target, context, conditions = made[0]
    assert len(noise) == 600
    torch.testing.assert_close(target, noise + context + conditions.reshape(-1, 1, 1))
    assert all(torch.equal(a, b) for a, b in zip(made[0], made[1], strict=True))
    assert not torch.equal(made[0][0], made[2][0])
    module._made = module._make_pairs(like)
    noise, target, context, conditions = module._made.draw(50, generator())
    torch.testing.assert_close(target, noise + context + conditions.reshape(-1, 1, 1))
    assert noise.std() == pytest.approx(1, abs=0.1)


def test_a_reflow_learns_its_pairs_whatever_the_batch_holds():
    module = conditional(pairs=64)
    module.prepare(data(), [conditional(Teacher, seed=1)])
    batch = contract_sample.batch(module, 8)
    first = module.batch_loss(batch, generator(3))
    batch["window"] = 5 * batch["window"]
    # the observation of the batch draws noise before the loss does, of the same amount
    assert torch.equal(first, module.batch_loss(batch, generator(3)))


def test_a_reflow_starts_from_the_weights_of_its_teacher_which_stays_frozen():
    source, module = conditional(seed=1), conditional(pairs=32)
    module.prepare(data(), [source])
    before = [p.detach().clone() for p in source.parameters()]
    pairs = zip(module.network.parameters(), source.network.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    module.batch_loss(contract_sample.batch(module, 8), generator()).backward()
    assert all(p.grad is None for p in source.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, source.parameters(), strict=True))
    assert len(list(module.parameters())) == len(before)  # without the teacher
    assert not any("teacher" in key for key in module.state_dict())


def test_a_reflow_refuses_what_it_cannot_follow():
    module = conditional()
    with pytest.raises(ValueError, match="not a flow"):
        module.prepare(data(), [SimpleNamespace()])
    with pytest.raises(ValueError, match="sees"):
        module.prepare(data(), [conditional(observe_noise=0.1)])
    with pytest.raises(ValueError, match="network"):
        module.prepare(data(), [_wider()])
    with pytest.raises(ValueError, match="starts_from"):
        conditional(distil=True).prepare(data(), [])
    with pytest.raises(ValueError, match="separate data"):
        conditional(coupling="optimal")
    with pytest.raises(ValueError, match="at least 1"):
        flow(pairs=0)


def _wider():
    module = RectifiedFlow(1, 1, 1, width=12, multipliers=[1, 2], conditional=True)
    module.fit_statistics(contract_sample.FIELD["statistics"])
    return module


def test_distillation_learns_the_step_from_the_noise_itself():
    module, asked = conditional(distil=True, pairs=32), []
    module.prepare(data(), [conditional(Teacher, seed=1)])
    whole = module.velocity

    def velocity(state, time, context, conditions):
        asked.append((state, time))
        return whole(state, time, context, conditions)

    module.velocity = velocity
    module.batch_loss(contract_sample.batch(module, 8), generator())
    state, time = asked[0]
    assert (time == FIRST).all()
    assert any(torch.equal(state[0], noise) for noise in module._made.columns[0])
    condition = module.observe(torch.zeros(3, 1, 16), generator())
    parameters = torch.tensor([[8.0, 1.0, 1.0]] * 3)
    draws = [module.draw(condition, parameters, generator(), n) for n in (1, 8, None)]
    assert torch.equal(draws[0], draws[1]) and torch.equal(draws[0], draws[2])
    context = module.context_of(condition)
    assert len(module.paths(context, torch.zeros(3, 1), generator())) == 2


def test_a_second_round_on_exact_pairs_straightens_and_costs_no_more():
    """Two clusters on a line: the exact flow bends, its re-flow hardly does."""
    law = {"name": "gaussian_mixture", "components": 2, "radius": 1.0, "spread": 0.1}
    teacher = ExactFlow(2, 0, 0, law, fine_steps=20)
    module = flow(width=48, pairs=4000)

    class Windows(list):
        def read(self, chosen):
            return np.zeros((len(chosen), 1, 2), np.float32), np.ones((len(chosen), 2), np.float32)

    module.prepare(SimpleNamespace(seed=0, train_windows=Windows(range(10))), [teacher])
    optimiser = torch.optim.Adam(module.parameters(), lr=4e-3)
    nothing = torch.zeros(512, 0)
    for step in range(400):
        loss = module.loss(torch.zeros(512, 2), nothing, nothing, generator(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    seen = torch.zeros(2000, 0)
    with torch.no_grad():
        before, after = (m.paths(seen, seen, generator(7)) for m in (teacher, module))

    def measures(path):
        whole, steps = path[-1] - path[0], len(path) - 1
        bend = (whole - steps * path.diff(dim=0)).square().mean()
        return float(bend), float(whole.square().mean())

    (bend, cost), (bend_after, cost_after) = measures(before), measures(after)
    assert bend_after < 0.3 * bend
    assert cost_after < 1.05 * cost  # not more, except for the error of the fit


# The rival ---------------------------------------------------------------------------------------


def test_noise_is_assigned_within_groups_at_less_cost():
    noise, points = normal(2 * GROUP + 5, 2), normal(2 * GROUP + 5, 2, seed=1)
    rows = _assignment(noise, points)
    assert torch.equal(rows.sort().values, torch.arange(len(rows)))
    assert (rows[:GROUP] < GROUP).all() and (rows[2 * GROUP :] >= 2 * GROUP).all()
    cost, random = (noise[rows] - points).square().sum(), (noise - points).square().sum()
    assert cost < 0.3 * random
