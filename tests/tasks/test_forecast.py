"""The options of the forecast task, each against what it means."""

import math

import numpy as np
import pytest
import torch
from contracts.forecast import description, sample
from methods.test_methods import build, generator, perturb

from longrun.methods.forecast.coarse_solver import CoarseSolver
from longrun.nn.unet import ResidualBlock, UNetBackbone
from longrun.runtime import registry


def window(frames=3, batch=5):
    first, parameters = sample(batch)
    steps = [first[:, 0] * (1 - 0.1 * i) + 0.05 * i for i in range(frames)]
    return torch.stack(steps, dim=1), parameters


def trained_for(module, step, monkeypatch):
    monkeypatch.setattr(type(module), "global_step", property(lambda self: step))


def test_the_unet_of_the_paper_has_its_size():
    network = UNetBackbone(dims=1, inputs=2, outputs=1, scalars=3, width=64)
    count = sum(p.numel() for p in network.parameters())
    ups = [layer for layer in network.up if not isinstance(layer, ResidualBlock)]
    # Ours goes up with kernels of 3 where the public module has transposed ones of 4: the weights
    # (all but a bias per channel) are a third more there.
    weights = sum(layer[1].convolution.weight.numel() for layer in ups)
    assert round((count + weights / 3) / 1e6, 1) == 53.9


@pytest.mark.parametrize("dims", [1, 2])
def test_the_unet_commutes_with_translations_of_its_coarsest_grid(dims):
    network = UNetBackbone(dims, 1, 1, scalars=1, width=4, multipliers=(1, 2, 2))
    perturb(network)
    x, scalar = torch.randn(2, 1, *(16,) * dims, generator=generator()), torch.ones(2, 1)
    axes = tuple(range(2, 2 + dims))
    moved = network(x.roll((4,) * dims, axes), scalar)
    torch.testing.assert_close(
        moved, network(x, scalar).roll((4,) * dims, axes), rtol=1e-4, atol=1e-5
    )


def test_a_grid_that_cannot_be_halved_is_refused():
    network = UNetBackbone(1, 1, 1, scalars=0, width=4, multipliers=(1, 2, 2))
    with pytest.raises(ValueError, match="multiple of 4"):
        network(torch.zeros(1, 1, 18), torch.zeros(1, 0))


@pytest.mark.parametrize("target", ["residual", "state"])
@pytest.mark.parametrize("normalise", [True, False])
def test_target_and_frame_undo_each_other(target, normalise):
    module, _ = build("unet", target=target, normalise=normalise)
    frames, _ = window(2)
    scaled = module.scaled_target(frames[:, 0], frames[:, 1])
    torch.testing.assert_close(module.next_frame(frames[:, 0], scaled), frames[:, 1])


def test_the_residual_has_the_scale_that_was_asked_for():
    frames, _ = window(2)
    increment = frames[:, 1] - frames[:, 0]
    given, _ = build("unet", target_scale=0.25)
    measured, _ = build("unet")
    torch.testing.assert_close(given.scaled_target(frames[:, 0], frames[:, 1]), increment / 0.25)
    torch.testing.assert_close(measured.scaled_target(frames[:, 0], frames[:, 1]), increment / 0.3)


def test_conditions_are_what_varies_scaled_to_its_training_range():
    module, _ = build("unet")
    low, high = torch.tensor([[14.0, 0.2, 1.0]]), torch.tensor([[18.0, 0.2, 1.0]])
    assert module.scaled_conditions(low).tolist() == [[0]]
    torch.testing.assert_close(module.scaled_conditions(high), torch.tensor([[10.0]]))


def test_a_solver_gets_all_parameters_as_they_are():
    module, _ = build("coarse_solver")
    parameters = torch.tensor([[14.0, 0.2, 1.0]])
    assert torch.equal(module.scaled_conditions(parameters), parameters)


def test_a_condition_changes_the_forecast():
    module = perturb(build("unet")[0])
    frames, parameters = sample()
    other = parameters + torch.tensor([1.0, 0, 0])
    assert not torch.equal(module.predict(frames, parameters), module.predict(frames, other))


def test_one_step_loss_is_the_mean_squared_error_of_the_scaled_target():
    module = perturb(build("unet")[0])
    frames, parameters = window(2)
    loss = module.window_loss(frames, parameters, generator())
    forecast = module.predict(frames[:, :1], parameters)
    expected = ((forecast - frames[:, 1]) / 0.3).square().mean()
    torch.testing.assert_close(loss, expected)


def test_pushforward_sees_its_own_forecast_and_no_gradient_through_it(monkeypatch):
    module = perturb(build("unet", training={"name": "pushforward"})[0])
    trained_for(module, 0, monkeypatch)
    frames, parameters = window(3)
    loss = module.window_loss(frames, parameters, generator())
    own = module.predict(frames[:, :1], parameters).detach()
    one_step = perturb(build("unet")[0])
    expected = one_step.window_loss(
        torch.stack([own, frames[:, 2]], dim=1), parameters, generator()
    )
    torch.testing.assert_close(loss, expected)
    mine = torch.autograd.grad(loss, list(module.parameters()))
    theirs = torch.autograd.grad(expected, list(one_step.parameters()))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_unrolled_loss_is_the_mean_over_steps_with_the_gradient(monkeypatch):
    module = perturb(build("unet", training={"name": "unrolled"})[0])
    trained_for(module, 0, monkeypatch)
    frames, parameters = window(3)
    loss = module.window_loss(frames, parameters, generator())
    first = module.predict(frames[:, :1], parameters)
    second = module.predict(first[:, None], parameters)
    errors = [((a - b) / 0.3).square().mean() for a, b in ((first, frames[:, 1]),)]
    target = (frames[:, 2] - first) / 0.3
    errors.append(((second - first) / 0.3 - target).square().mean())
    torch.testing.assert_close(loss, torch.stack(errors).mean())


def test_unrolling_waits_for_its_updates(monkeypatch):
    module = perturb(build("unet", training={"name": "pushforward", "after": 10})[0])
    frames, parameters = window(3)
    plain = perturb(build("unet")[0]).window_loss(frames[:, :2], parameters, generator())
    trained_for(module, 9, monkeypatch)
    assert torch.equal(module.window_loss(frames, parameters, generator()), plain)
    trained_for(module, 10, monkeypatch)
    assert not torch.equal(module.window_loss(frames, parameters, generator()), plain)


def test_input_noise_has_its_standard_deviation_and_the_target_corrects_it():
    module, _ = build("persistence", input_noise=0.1)
    frames = torch.zeros(4000, 2, 1, 32)
    loss = module.window_loss(frames, torch.zeros(4000, 3), generator())
    # Persistence predicts no increment: the loss is the variance of the noise it should remove.
    expected = (
        0.1 * description(registry.find("methods", "unet"))["statistics"]["std"][0] / 0.3
    ) ** 2
    assert loss.item() == pytest.approx(expected, rel=0.02)


def test_sobolev_losses_weigh_a_mode_by_its_wavenumber():
    x = torch.arange(32) / 32 * 2 * torch.pi
    error = torch.cos(3 * x).reshape(1, 1, 32)
    zero = torch.zeros_like(error)
    values = [build("unet", sobolev_order=s)[0].distance(error, zero).item() for s in (0, 1, 2)]
    mean_square = 0.5
    assert values == pytest.approx([mean_square, mean_square * 10, mean_square * 91], rel=1e-5)


def test_sobolev_losses_in_two_dimensions_use_the_length_of_the_wavevector():
    x = torch.arange(16) / 16 * 2 * torch.pi
    error = (torch.cos(3 * x)[:, None] * torch.cos(4 * x)).reshape(1, 1, 16, 16)
    module, _ = build("unet", sobolev_order=1)
    value = module.distance(error, torch.zeros_like(error)).item()
    assert value == pytest.approx(0.25 * (1 + 25), rel=1e-5)


def test_no_refinement_is_the_one_step_method_bit_for_bit():
    refiner, _ = build("pde_refiner", refinement_steps=0)
    unet, _ = build("unet")
    pairs = zip(refiner.state_dict().items(), unet.state_dict().items(), strict=False)
    shared = [(k, a, b) for (k, a), (_, b) in pairs if k.startswith("network")]
    assert shared and all(torch.equal(a, b) for _, a, b in shared)
    perturb(refiner), perturb(unet)
    frames, parameters = window(2)
    losses = [m.window_loss(frames, parameters, generator()) for m in (refiner, unet)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    gradients = zip(refiner.network.parameters(), unet.network.parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in gradients)
    assert torch.equal(
        refiner.predict(frames[:, :1], parameters), unet.predict(frames[:, :1], parameters)
    )
    assert not refiner.stochastic


def test_the_noise_levels_are_those_of_the_public_schedule():
    module, _ = build("pde_refiner", refinement_steps=3, min_noise_std=math.sqrt(4e-7))
    levels = module.noise_levels
    assert levels[0] == 1
    assert levels[1:] == pytest.approx([0.086, 0.0074, 6.3e-4], rel=0.01)


def test_a_perfect_network_refines_to_the_truth(monkeypatch):
    module, _ = build("pde_refiner", refinement_steps=3, min_noise_std=0.01)
    frames, parameters = window(2)
    target = module.scaled_target(frames[:, 0], frames[:, 1])

    def perfect(history, noisy, conditions, level):
        """Return -v of a network that knows y: the noise follows from the noisy input."""
        j = level[0]
        if j == module.refinement_steps:
            return target
        epsilon = (noisy - module.signal[j] * target) / module.noise[j]
        return module.noise[j] * target - module.signal[j] * epsilon

    monkeypatch.setattr(module, "_network", perfect)
    stages = module.step_stages(frames[:, :1], parameters, generator())
    for stage in stages:
        torch.testing.assert_close(stage, target, rtol=1e-4, atol=1e-4)


def test_the_noisy_input_of_a_level_has_the_noise_that_training_showed(monkeypatch):
    """The sampler's input at level j is distributed as in training, when the estimate is exact."""
    module, _ = build("pde_refiner", refinement_steps=2, min_noise_std=0.1)
    target = torch.full((4000, 1, 32), 0.5)
    seen = {}

    def perfect(history, noisy, conditions, level):
        j = int(level[0])
        seen[j] = noisy
        if j == module.refinement_steps:
            return target
        epsilon = (noisy - module.signal[j] * target) / module.noise[j]
        return module.noise[j] * target - module.signal[j] * epsilon

    monkeypatch.setattr(module, "_network", perfect)
    module.step_stages(torch.zeros(4000, 1, 1, 32), torch.zeros(4000, 3), generator())
    for j in (0, 1):
        assert seen[j].mean().item() == pytest.approx(0.5 * module.signal[j].item(), abs=2e-3)
        assert seen[j].std().item() == pytest.approx(module.noise[j].item(), rel=0.01)


@pytest.mark.parametrize(
    "options",
    [{"min_noise_std": 0.0}, {"min_noise_std": 1.0}, {"level_shares": [1.0, 1.0]}],
)
def test_impossible_ladders_are_refused(options):
    with pytest.raises(Exception, match="pde_refiner"):
        build("pde_refiner", **options)


def test_level_shares_choose_the_levels_that_are_trained(monkeypatch):
    module, _ = build("pde_refiner", refinement_steps=2, level_shares=[0, 0, 1])
    frames, parameters = window(2)
    seen = []
    plain = module._network
    monkeypatch.setattr(
        module, "_network", lambda h, n, c, level: seen.append(level) or plain(h, n, c, level)
    )
    module.window_loss(frames, parameters, generator())
    assert seen[0].tolist() == [2] * len(frames)


def test_the_coarse_solver_at_the_reference_setting_is_the_reference():
    module, arguments = build("coarse_solver")
    frames, parameters = sample(dtype=torch.float64)
    solver = module.equation.solver(
        {"length": parameters[:, 0], "dt": parameters[:, 1], "viscosity": parameters[:, 2]},
        stride=arguments["stride"],
    )
    expected = solver.step(frames[:, -1])
    torch.testing.assert_close(module.double().predict(frames, parameters), expected)


def test_the_coarse_solver_may_have_another_closure_but_no_other_parameters():
    equation = {"name": "navier_stokes_3d", "points": 8, "viscosity": 0.1}

    def solver(**changes):
        return CoarseSolver(3, 3, 0, equation=equation, stride=1, changes=changes)

    plain, les = solver(), solver(closure="dynamic_smagorinsky")
    generators = [np.random.default_rng(0)]
    parameters, state = plain.equation.sample(generators)
    columns = torch.tensor([[value[0] for value in parameters.values()]])
    history = torch.tensor(state)[:, None]
    reference = les.equation.solver({name: torch.tensor(v) for name, v in parameters.items()})
    torch.testing.assert_close(les.predict(history, columns), reference.step(history[:, 0]))
    free = modelled = history
    for _ in range(10):  # of random waves, until there are small eddies to model
        free, modelled = (
            m.predict(h, columns)[:, None] for m, h in ((plain, free), (les, modelled))
        )
    assert (free - modelled).abs().max() > 1e-4
    with pytest.raises(ValueError, match="has no option closures"):
        solver(closures="none")
    with pytest.raises(ValueError, match="change the parameters of navier_stokes_3d"):
        solver(closure="smagorinsky")


def test_coarsening_costs_accuracy_and_the_choice_follows_the_match():
    reference, _ = build("coarse_solver")
    frames, parameters = sample(batch=4)
    truth = reference.predict(frames, parameters)

    class Data:
        def val_dataloader(self):
            return [{"window": torch.stack([frames[:, 0], truth], 1), "parameters": parameters}]

    source, _ = build("persistence")
    chosen, _ = build("coarse_solver", match="error")
    chosen.prepare(Data(), [source])
    # Persistence is so poor that the coarsest solver beats it; the equal-error one is far cheaper.
    assert int(chosen.steps) < int(reference.steps) or int(chosen.points) < int(reference.points)
    error = (chosen.predict(frames, parameters) - truth).square().mean()
    allowed = (source.predict(frames, parameters) - truth).square().mean()
    assert error <= allowed
    with pytest.raises(Exception, match="starts_from"):
        chosen.prepare(Data(), [])


def test_a_level_weight_of_two_weighs_the_error_of_y(monkeypatch):
    """|sigma (out - v)|^2 is the squared error of the estimate of y, at every level."""
    frames, parameters = window(2)
    for level in range(3):
        shares = [float(j == level) for j in range(3)]
        module = perturb(
            build("pde_refiner", refinement_steps=2, level_shares=shares, level_weight=2.0)[0]
        )
        seen = {}
        network = module._network

        def record(history, noisy, conditions, j, network=network, seen=seen):
            seen["noisy"], seen["out"] = noisy, network(history, noisy, conditions, j)
            return seen["out"]

        monkeypatch.setattr(module, "_network", record)
        loss = module.window_loss(frames, parameters, generator())
        estimate = module.signal[level] * seen["noisy"] + module.noise[level] * seen["out"]
        target = module.scaled_target(frames[:, 0], frames[:, 1])
        torch.testing.assert_close(loss, (estimate - target).square().mean(), rtol=1e-3, atol=0)
