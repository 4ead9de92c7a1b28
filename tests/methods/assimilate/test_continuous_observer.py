"""The continuous observer sees sensors alone, and answers anywhere; so do its baselines."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from contracts import assimilate as contract
from methods.test_methods import build, generator, perturb
from scipy.interpolate import griddata

from longrun.config.compose import compose
from longrun.nn import scattered
from longrun.nn.graph import EdgeUpdate, MessagePassing
from longrun.runtime.cli import UserError
from longrun.tasks._estimation import sensor_places
from longrun.tasks._sensors import grid_positions

LEARNT = ["continuous_observer", "graph_network"]
SPACE = (contract.PLANE, contract.PLANE)


def made(name, **options):
    module = perturb(build(name, unroll=4, sensor_share=0.5, **{"known_every": 2} | options)[0])
    module.fit_data(contract.description(type(module)))
    return module


def followed(module, batch, frames=None):
    """Every frame, from the sensors at the first."""
    window = batch["window"][:, :frames]
    measured = torch.zeros(window.shape[:2], dtype=torch.bool)
    measured[:, 0] = True
    measurement, mask = module.measure(window, measured, generator())
    return torch.stack([*module.follow(measurement, mask, batch["parameters"], generator())], 1)


# Geometry ----------------------------------------------------------------------------------------


def test_the_graph_of_a_torus_has_three_edges_a_point():
    points = np.random.default_rng(0).uniform(size=(60, 2))
    ends, away = scattered.neighbours(points, (True, True))
    assert ends.shape[1] == 2 * 3 * len(points)  # Euler: V - E + F = 0 and 3 F = 2 E, both ways
    assert {(b, a) for a, b in ends.T} == {(a, b) for a, b in ends.T}
    shortest = points[ends[0]] - points[ends[1]]
    np.testing.assert_allclose(away, shortest - np.round(shortest), atol=1e-12)


def test_the_graph_of_a_square_stays_inside():
    points = np.random.default_rng(0).uniform(size=(60, 2))
    ends, away = scattered.neighbours(points, (False, False))
    assert ends.shape[1] < 2 * 3 * len(points)
    np.testing.assert_allclose(away, points[ends[0]] - points[ends[1]], atol=1e-12)


def test_weights_of_interpolation_are_those_of_scipy_between_walls():
    rng = np.random.default_rng(1)
    points, values = rng.uniform(size=(80, 2)), rng.normal(size=80)
    at = grid_positions((9, 9))
    expected = griddata(points, values, at, method="cubic")
    inside = np.isfinite(expected)
    found = scattered.cubic(points, at, (False, False)) @ values
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-4)
    nearest = griddata(points, values, at, method="nearest")
    np.testing.assert_allclose(found[~inside], nearest[~inside], atol=1e-6)


def test_interpolation_on_a_torus_has_no_seam():
    points = np.random.default_rng(2).uniform(size=(200, 2))
    at = grid_positions((16, 16))

    def error(periodic):
        wave = [np.sin(2 * np.pi * x.sum(1)) for x in (points, at)]
        wrong = np.abs(scattered.cubic(points, at, periodic) @ wave[0] - wave[1])
        return wrong.max()

    assert error((True, True)) < 0.1 < error((False, False))


def test_sensors_at_a_smaller_share_are_some_of_those_at_a_larger():
    few, many = (sensor_places((32, 32), share=share) for share in (0.1, 0.25))
    assert few.sum() == 102 and many.sum() == 256
    assert not (few & ~many).any()


# What they see -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNT)
def test_training_sees_nothing_but_the_sensors_in_known_frames(name):
    module = made(name)
    batch = contract.batch(module)
    places = torch.from_numpy(sensor_places(SPACE, share=0.5))

    def loss(change):
        window = batch["window"] + change
        return module.batch_loss(batch | {"window": window}, generator())

    hidden = torch.where(places, 0.0, 5.0).expand(1, 5, 1, *SPACE).clone()
    hidden[:, 1::2] = 5.0  # of frames 0 to 4 those are unknown
    assert torch.equal(loss(hidden), loss(0.0))
    for frame in (0, 2, 4):
        seen = torch.zeros_like(hidden)
        seen[:, frame] = places.float()
        assert not torch.equal(loss(seen), loss(0.0)), frame


@pytest.mark.parametrize("name", LEARNT)
def test_a_forecast_depends_on_the_sensors_of_the_first_frame_alone(name):
    module = made(name)
    batch = contract.batch(module)
    places = torch.from_numpy(sensor_places(SPACE, share=0.5))
    other = {**batch, "window": batch["window"].clone()}
    other["window"][:, 1:] += 3.0
    other["window"][:, 0] += torch.where(places, 0.0, 3.0)
    assert torch.equal(followed(module, other), followed(module, batch))
    other["window"][:, 0] += torch.where(places, 0.1, 0.0)
    assert not torch.equal(followed(module, other), followed(module, batch))


@pytest.mark.parametrize("name", LEARNT)
def test_sensors_in_different_places_are_refused(name):
    module = made(name)
    batch = contract.batch(module)
    mask = torch.from_numpy(sensor_places(SPACE, share=0.5)).repeat(3, 5, 1, 1, 1)
    mask[1] = ~mask[1]
    with pytest.raises(ValueError, match="same for all"):
        next(module.follow(batch["window"], mask, batch["parameters"], generator()))


@pytest.mark.parametrize("name", LEARNT)
def test_only_a_test_that_measures_the_first_frame_alone_is_run(name):
    store = type("Store", (), {"split": lambda self, name: None})()
    options = {"steps": 2, "trajectories": 1, "snr": None, "warm_up": 1}
    with pytest.raises(UserError, match="sees no other"):
        made(name).evaluate(store, options | {"measured": [0.0, 0.3]}, 0)
    with pytest.raises(UserError, match="sees no other"):
        made(name).evaluate(store, options | {"measured": [0.0], "warm_up": 2}, 0)


@pytest.mark.parametrize(("key", "value"), [("known_every", 4), ("window", 3)])
def test_scores_apart_are_of_what_the_training_knew(key, value):
    store = type("Store", (), {"split": lambda self, name: None})()
    options = {"steps": 8, "trajectories": 1, "snr": None, "warm_up": 1, "measured": [0.0]}
    options |= {"known_every": 2, "window": 4} | {key: value}
    with pytest.raises(UserError, match=f"evaluate.{key} must be"):
        made("graph_network").evaluate(store, options, 0)


# The observer ------------------------------------------------------------------------------------


def test_anchors_are_counted_as_in_the_paper():
    """21 frames, every second known, an anchor at every second of those: 4, 8, ..., 20."""
    module, _ = build("continuous_observer", unroll=20, known_every=2, delta=2)
    assert module.anchors(20) == 5
    assert [module._time(k) * 20 for k in range(5)] == [4, 8, 12, 16, 20]


def test_codes_begin_as_harmonics_of_the_domain():
    module, _ = build("continuous_observer", width=24)
    place, time = torch.rand(5, 2, generator=generator()), torch.zeros(5)
    codes = module.code(place, time)
    assert codes.shape == (5, 24)
    torch.testing.assert_close(module.code(place + 1, time), codes, atol=1e-4, rtol=0)
    assert not torch.allclose(module.code(place + 0.5, time), codes, atol=1e-2)
    half = codes.unflatten(1, (4, 6))[:, 2, :2]  # second harmonic along x and y
    torch.testing.assert_close(half, torch.sin(2 * 2 * math.pi * place), atol=1e-5, rtol=0)


@pytest.mark.parametrize("preset", ["cpu", "paper"])
def test_no_code_turns_faster_than_known_frames_can_tell(preset):
    spec = compose(Path("configs"), "continuous_observer", preset)
    options = spec["methods"]["observer"]
    options = {name: options[name] for name in ("width", "known_every", "delta", "heads")}
    module, _ = build("continuous_observer", unroll=spec["task"]["unroll"], **options)
    place = torch.zeros(2, 2)
    codes = module.code(place, torch.tensor([0.0, module.known_every / module.unroll]))
    turned = module.frequency[-1] * (math.ceil(module.width / 6) - 1) / module.unroll
    assert module.known_every * turned < math.pi + 1e-5
    assert not torch.allclose(codes[0], codes[1], atol=0.1)


def test_what_the_decoder_errs_is_not_fed_back():
    """Anchors are states of the graph alone: an observer that answers otherwise leaves them."""
    module = made("continuous_observer")
    batch = contract.batch(module)
    before = followed(module, batch)
    with torch.no_grad():
        module.decoder[-1].bias += 1.0
    shift = module.per_channel(module.field_std)
    torch.testing.assert_close(followed(module, batch), before + shift, atol=1e-4, rtol=0)


def test_a_frame_beyond_the_window_has_no_say_in_those_within():
    module = made("continuous_observer")
    batch = contract.batch(module)
    longer = torch.cat([batch["window"]] * 3, 1)
    found = followed(module, {**batch, "window": longer})
    torch.testing.assert_close(found[:, :5], followed(module, batch), atol=1e-5, rtol=0)
    assert found.isfinite().all() and found.shape[1] == 15


@pytest.mark.parametrize(("reader", "differs"), [("gru", True), ("mean", False), ("max", False)])
def test_only_a_gru_reads_the_anchors_in_their_order(reader, differs, monkeypatch):
    module = made("continuous_observer", reader=reader, delta=1)
    sensors = module.sensors(np.arange(0, 64, 2), SPACE)
    states, where = torch.zeros(2, 3, 32, 8), torch.rand(5, 2, generator=generator())
    found = []
    read = torch.randn(2, 3, 5, 8, generator=generator())  # by anchor, what the attention gives
    for order in ([0, 1], [1, 0]):
        answer = (read[order].flatten(0, 1), None)
        monkeypatch.setattr(module.attention, "forward", lambda *_, answer=answer, **__: answer)
        found.append(module.observe(states, sensors, where, torch.ones(5)))
    assert torch.allclose(*found, atol=1e-5) != differs


def test_points_that_err_or_wait_are_drawn_more_often():
    module = made("continuous_observer", queries=4)
    module._note(torch.tensor([0, 1, 2, 3]), torch.tensor([4.0, 0.0, 0.0, 0.0]))
    assert module.score[0] > 3 * module.score[4] > module.score[1]
    waited = module.score[1].item()
    module._note(torch.tensor([4, 5, 6, 7]), torch.ones(4))
    assert module.score[1] > waited


@pytest.mark.parametrize("preset", ["gpu", "paper"])
def test_the_learning_rate_is_halved_four_times_as_in_the_paper(preset):
    spec = compose(Path("configs"), "continuous_observer", preset)
    updates, every = spec["trainer"]["max_steps"], spec["task"]["decay_every"]
    assert spec["task"]["staircase"] and (updates - 1) // every == 4


def test_only_points_with_a_score_are_drawn():
    module = made("continuous_observer", queries=4).train()
    chosen = [5, 9, 11, 30]
    module.score.zero_()
    module.score[chosen] = 1.0
    module.batch_loss(contract.batch(module), generator())
    others = torch.ones_like(module.score, dtype=torch.bool)
    others[chosen] = False
    torch.testing.assert_close(module.score[others], torch.full((others.sum(),), 4 / len(others)))


def test_each_anchor_goes_on_from_the_last():
    module = made("continuous_observer", delta=1)
    sensors = module.sensors(np.arange(0, 64, 2), SPACE)
    first = torch.randn(2, 32, 1, generator=generator())
    steps = []
    messages = module.messages.forward
    module.messages.forward = lambda h, *rest: steps.append(h) or messages(h, *rest)
    states = module.rollout(first, sensors, torch.zeros(2, 1), frames=4)
    assert len(states) == len(steps) == 2
    assert torch.equal(steps[1], states[0]) and not torch.allclose(states[1], states[0])


def test_the_observer_knows_where_sensors_are():
    module = made("continuous_observer", delta=1)
    sensors = module.sensors(np.arange(0, 64, 2), SPACE)
    moved = dataclasses.replace(sensors, positions=sensors.positions.roll(1, 0))
    states = torch.randn(2, 3, 32, 8, generator=generator())
    where = torch.rand(5, 2, generator=generator())
    found = [module.observe(states, each, where, torch.ones(5)) for each in (sensors, moved)]
    assert not torch.allclose(*found)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_anchors_are_trained_at_the_sensors_too(weight):
    module = made("continuous_observer", anchor_weight=weight)
    batch = contract.batch(module)
    before = module.batch_loss(batch, generator())
    with torch.no_grad():
        module.head[-1].bias += 1.0
    assert torch.allclose(module.batch_loss(batch, generator()), before) == (not weight)


# Baselines ---------------------------------------------------------------------------------------


def test_a_graph_network_interpolates_in_time():
    module = made("graph_network")
    found = followed(module, contract.batch(module))
    torch.testing.assert_close(found[:, 1], (found[:, 0] + found[:, 2]) / 2)
    assert not torch.allclose(found[:, 2], (found[:, 1] + found[:, 3]) / 2, atol=1e-6)


def test_interpolation_with_all_sensors_is_persistence_or_the_solver():
    for then in ("persistence", "solver"):
        module, _ = build("interpolation", then=then, snr=None)
        batch = contract.batch(module)
        found = followed(module, batch)
        expected = batch["window"][:, 0]
        torch.testing.assert_close(found[:, 0], expected)
        assert torch.allclose(found[:, 1], expected) == (then == "persistence")
    shown = found[:, 1]
    flow = module.equation.solver(
        dict(zip(contract.PARAMETERS, batch["parameters"].T, strict=True)),
        stride=2,
        dtype=torch.float32,
    )
    torch.testing.assert_close(shown, flow.step(expected))


def test_the_climatology_is_the_mean_of_the_training_frames(monkeypatch):
    module, _ = build("interpolation", then="climatology", sensor_share=0.5, snr=None)
    mean = np.random.default_rng(0).normal(size=module.mean.shape).astype(np.float32)
    monkeypatch.setattr(
        "longrun.methods.assimilate.interpolation.time_mean", lambda windows: (mean, None)
    )
    module.prepare(type("Data", (), {"train_windows": None})(), [])
    found = followed(module, contract.batch(module))
    assert torch.equal(found[:, 1], torch.from_numpy(mean).expand_as(found[:, 1]))


def test_interpolation_fills_what_lies_between_sensors():
    module, _ = build("interpolation", sensor_share=0.5, snr=None)
    wave = np.sin(2 * np.pi * grid_positions((16, 16)).sum(1)).reshape(1, 1, 1, 16, 16)
    window = torch.from_numpy(wave).float().expand(1, 2, 1, 16, 16)
    batch = {"window": window, "parameters": contract.batch(module, 1)["parameters"]}
    error = (followed(module, batch) - window)[:, 0]
    places = torch.from_numpy(sensor_places((16, 16), share=0.5))
    assert error[..., places].abs().max() < 1e-5
    assert 1e-3 < error[..., ~places].square().mean().sqrt() < 0.1  # of a spread of 0.7


def test_nodes_receive_the_messages_and_not_the_edges_themselves():
    network = MessagePassing(4, 1)
    torch.nn.init.zeros_(network.edges[0].second.weight)
    torch.nn.init.constant_(network.edges[0].second.bias, 0.5)
    h, e = (torch.randn(2, n, 4, generator=generator()) for n in (3, 4))
    found, edges = network(h, e, torch.tensor([[0, 1, 2, 0], [1, 1, 1, 2]]))
    count = torch.tensor([0.0, 3.0, 1.0])[None, :, None].expand(2, 3, 4)
    expected = h + network.nodes[0](torch.cat([h, 0.5 * count], dim=2))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(edges, e + 0.5)


def test_an_edge_update_is_a_perceptron_of_both_ends_and_the_edge():
    update = EdgeUpdate(4)
    h, e = (torch.randn(2, n, 4, generator=generator()) for n in (5, 7))
    ends = torch.randint(0, 5, (2, 7), generator=generator())
    together = torch.cat([h[:, ends[0]], h[:, ends[1]], e], dim=2)
    torch.testing.assert_close(update(h, e, ends), update.second(update.first(together).relu()))
