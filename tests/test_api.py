"""Longrun from Python: labelled arrays in and out, and the same numbers as the verbs'."""

import importlib
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import stores
import torch
import toy
import xarray as xr

import longrun
from longrun.data.describe import describe
from longrun.data.store import open_store
from longrun.runtime import checkpoint, registry
from longrun.runtime.cli import UserError

STRIDE = 2


def saved(name, path, description, perturb=0.05, **options):
    """Write an untrained method as `train` writes it, its weights off their initial zeros."""
    arguments = checkpoint.sizes(name, description) | options
    module = checkpoint.build(name, arguments, seed=0)
    module.fit_statistics(description["statistics"])
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in module.parameters():
            real = torch.view_as_real(weight) if weight.is_complex() else weight
            real.add_(perturb * torch.randn(real.shape, generator=generator))
    checkpoint.save(path, module, method=name, arguments=arguments, description=description)
    return path


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = toy.with_store(tmp_path_factory.mktemp("api"), toy.DATASET, {})
    described = describe([open_store(folder / "toy.zarr")], STRIDE) | {"stride": STRIDE}
    unet = {"width": 4, "multipliers": [1, 2]}
    saved("unet", folder / "unet.ckpt", described, 0.02, history=2, **unet)
    saved("pde_refiner", folder / "refiner.ckpt", described, 0.02, refinement_steps=1, **unet)
    return folder


@pytest.fixture(scope="module")
def split(project):
    return longrun.open_store(project / "toy.zarr")["test"].to_dataset()


def test_importing_the_package_imports_nothing(root):
    code = (
        "import sys, longrun\n"
        "assert {'load', 'open_store', 'score', 'simulate'} <= set(dir(longrun))\n"
        "print(*sorted({'numpy', 'pandas', 'torch', 'xarray', 'yaml', 'zarr'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "", done.stderr


def test_data_open_without_torch(root, project):
    code = (
        "import sys, longrun\n"
        f"tree = longrun.open_store({str(project / 'toy.zarr')!r})\n"
        "print(tree['test'].u.shape, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.split() == ["(3,", "30,", "32)", "False"], done.stderr


def test_only_what_is_public_is_there():
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        longrun.lode  # noqa: B018


# Data --------------------------------------------------------------------------------------------


def test_a_store_is_a_tree_of_labelled_arrays(project):
    store = open_store(project / "toy.zarr")
    tree = longrun.open_store(project / "toy.zarr")
    assert set(tree.children) == {"train", "valid", "test"}
    assert tree.attrs["equation"]["name"] == "kuramoto_sivashinsky"
    lead_time, error = store.reference_error()
    assert np.array_equal(tree["reference_error"], error)
    assert np.array_equal(tree["lead_time"], lead_time)
    for name in tree.children:
        stored, found = store.split(name), tree[name].to_dataset()
        assert found.u.dims == ("trajectory", "time", "x") and found.u.attrs["units"] == "1"
        assert np.array_equal(found.u, stored.read(slice(None), slice(None))[:, :, 0])
        for parameter, values in stored.parameters.items():
            assert np.array_equal(found.coords[parameter], values)


def test_what_is_no_store_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such store"):
        longrun.open_store(tmp_path / "nothing.zarr")
    stores.begin(tmp_path / "begun.zarr")
    with pytest.raises(UserError, match="is incomplete"):
        longrun.open_store(tmp_path / "begun.zarr")


def test_a_simulation_is_a_trajectory_of_the_dataset(split):
    options = {key: value for key, value in toy.DATASET["equation"].items() if key != "name"}
    found = longrun.simulate(
        "kuramoto_sivashinsky", trajectories=2, frames=30, seed=1, split="test", **options
    )
    expected = split.isel(trajectory=slice(2))
    xr.testing.assert_equal(found, expected)
    assert found.u.attrs == expected.u.attrs
    assert found.length.attrs["units"] == "1" and found.attrs["boundary"] == ["periodic"]


def test_a_steady_map_has_one_frame():
    found = longrun.simulate("darcy", points=16, trajectories=2)
    assert found.sizes == {"trajectory": 2, "time": 1, "x": 16, "y": 16}


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("kuramoto_sivashinski", {}, "did you mean kuramoto_sivashinsky?"),
        ("kuramoto_sivashinsky", {"pionts": 64}, "has no pionts; .* did you mean points?"),
        ("kuramoto_sivashinsky", {"points": 64.5}, "points must be int, is 64.5"),
        ("kuramoto_sivashinsky", {"points": 16}, "16 points are too few"),
        ("kuramoto_sivashinsky", {"frames": 0}, "must be at least 1"),
    ],
)
def test_what_can_not_be_simulated_is_refused_in_one_line(name, options, says):
    with pytest.raises(UserError, match=says) as caught:
        longrun.simulate(name, **options)
    assert "\n" not in str(caught.value)


# Forecasts ---------------------------------------------------------------------------------------


def evaluated(path, project, **options):
    module = checkpoint.load(path)
    store = open_store(project / "toy.zarr")
    return module.evaluate(store, {"stride": STRIDE, "trajectories": 3, **options}, seed=5)


@pytest.mark.parametrize(("name", "members"), [("unet", 1), ("refiner", 3)])
def test_a_forecast_scores_what_the_verb_says(project, split, name, members):
    """Same method, data, noise and steps: every score that needs no method is the same."""
    path = project / f"{name}.ckpt"
    wanted = evaluated(path, project, steps=6, start=4, members=members).scores
    method = longrun.load(path, device="cpu")
    history = split.isel(time=slice(0, 5))
    forecast = method.forecast(history, steps=6, members=members, seed=5)
    found = longrun.score(forecast, split)
    keys = ["metric", "trajectory", "member", "stage", "step", "wavenumber"]
    left, right = (
        table.astype({"metric": str})
        .fillna({"wavenumber": -1.0})
        .set_index(keys)
        .drop(columns="dataset")
        .sort_index()
        for table in (found, wanted)
    )
    assert {"rmse", "correlation_time_0.8", "drift_mean", "climate_w1"} <= set(found["metric"])
    assert ("crps" in set(found["metric"])) == (members > 1)
    only = right.loc[right.index.isin(left.index)]
    pd.testing.assert_frame_equal(left, only, rtol=1e-6)
    rest = set(wanted["metric"].astype(str)) - set(found["metric"].astype(str))
    of_the_method = {"level_error", "noise_level", "parameters", "peak_memory_mb", "predictability"}
    assert all(m in of_the_method or m.startswith(("one_step", "wall_time")) for m in rest)


def test_a_forecast_says_where_and_when_it_is(project, split):
    method = longrun.load(project / "unet.ckpt")
    assert "unet" in repr(method) and "u on 32" in repr(method)
    found = method.forecast(split.isel(time=slice(3, 8)), steps=4)
    assert found.u.dims == ("trajectory", "time", "x")
    assert found.time.values.tolist() == [9, 11, 13, 15]
    assert np.allclose(found.lead_time, np.outer(split.dt, [2, 4, 6, 8]))
    assert found.u.attrs == split.u.attrs
    xr.testing.assert_equal(found.x, split.x)
    assert np.isfinite(found.u - split.u).sizes["time"] == 4  # labels are the truth's


def test_arrays_and_datasets_give_the_same(project, split):
    method = longrun.load(project / "unet.ckpt")
    labelled = method.forecast(split.isel(time=[1, 3]), steps=3)
    plain = method.forecast(split.u.values[:, [1, 3], None], {"length": split.length.values}, 3)
    assert np.array_equal(labelled.u, plain.u)
    one = method.forecast(split.isel(trajectory=1, time=[1, 3]), steps=3)
    assert np.allclose(one.u[0], labelled.u[1], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "options", "says"),
    [
        (lambda d: d.rename(u="v"), {}, "history: lacks the field u; allowed: v"),
        (lambda d: d.rename(x="lon"), {}, "u must be over .* rename its dimensions"),
        (lambda d: d.isel(time=[4]), {}, "needs the frames at times 2, 4; there are 4 to 4"),
        (lambda d: d.drop_vars("length"), {}, "length is missing; in training it was 16"),
        (lambda d: d, {"parameters": {"lenght": 1}}, "knows no lenght; .* did you mean length?"),
        (lambda d: d, {"parameters": {"length": [15, 16]}}, "one for each of 3 trajectories"),
        (lambda d: d, {"members": 2}, "unet has no noise"),
        (lambda d: d, {"steps": 0}, "must be at least 1"),
        (lambda d: d.isel(x=slice(31)), {}, "sides are multiples of 2, is on \\[31\\]"),
        (lambda d: d.u.values, {}, r"an array must be \(trajectory, time, 1 fields, 1 axes"),
    ],
)
def test_what_can_not_be_forecast_is_refused_in_one_line(project, split, change, options, says):
    method = longrun.load(project / "unet.ckpt")
    with pytest.raises(UserError, match=says) as caught:
        method.forecast(change(split.isel(time=slice(0, 5))), **options)
    assert "\n" not in str(caught.value)


def test_a_parameter_outside_of_training_is_warned_of(project, split):
    method, history = longrun.load(project / "unet.ckpt"), split.isel(time=slice(0, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        method.forecast(history, {"length": 16.5})
    with pytest.warns(UserWarning, match="length reaches from 90 to 90, in training it was 16"):
        method.forecast(history, {"length": 90.0})


def test_what_is_no_checkpoint_or_device_is_refused(project):
    with pytest.raises(UserError, match="no such checkpoint"):
        longrun.load(project / "nothing.ckpt")
    with pytest.raises(UserError, match="device cuba: "):
        longrun.load(project / "unet.ckpt", "cuba")


# Scores of what comes from elsewhere -------------------------------------------------------------


def test_a_forecast_from_elsewhere_is_scored(split):
    truth = split.isel(time=slice(5, 12))
    still = (split.isel(time=4).drop_vars("time") + 0 * truth).drop_attrs()
    found = longrun.score(still, split).set_index(["metric", "trajectory", "step"])["value"]
    error = np.sqrt(np.square(still.u - truth.u).mean("x"))
    assert np.allclose(
        found["rmse"].to_numpy(), error.transpose("trajectory", "time").values.ravel()
    )
    lead = longrun.score(still, split)["lead_time"].dropna().round(6).unique()
    assert np.allclose(np.sort(lead), 0.2 * np.arange(1, 8))
    exact = longrun.score(truth, split)
    assert (exact[exact["metric"] == "correlation"]["value"] > 0.999999).all()


def test_a_field_that_never_moves_is_not_scored(split):
    """A mask would make every error look smaller."""
    truth = split.assign(mask=split.u.isel(time=0, drop=True).broadcast_like(split.u))
    forecast = truth.isel(time=slice(5, 9)) * 1.1
    alone = longrun.score(forecast, truth, fields=["u"])
    pd.testing.assert_frame_equal(longrun.score(forecast, truth), alone)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.rename(u="v"), "no field in common"),
        (lambda d: d.assign_coords(time=d.time + 100), "the truth has no time 105"),
        (lambda d: d.isel(time=[0, 1, 4]), "steps of time are 1 to 3: unequal"),
        (lambda d: d.isel(x=slice(16)), "16 points along x forecast, 32 true"),
    ],
)
def test_what_can_not_be_scored_is_refused_in_one_line(split, change, says):
    with pytest.raises(UserError, match=says) as caught:
        longrun.score(change(split.isel(time=slice(5, 10))), split)
    assert "\n" not in str(caught.value)


# Other tasks -------------------------------------------------------------------------------------


def contract_of(name):
    return importlib.import_module(f"contracts.{registry.task(name)}")


def loaded(name, folder, description=None, **options):
    """Return a small method of another task, from a file."""
    contract = contract_of(name)
    about = description or contract.description(registry.find("methods", name))
    takes = registry.arguments("methods", name)
    small = {key: value for key, value in contract.SMALL.items() if key in takes}
    small |= getattr(contract, "OPTIONS", {}).get(name, {})
    path = saved(name, folder / f"{name}.ckpt", about, **small | options)
    return longrun.load(path, "cpu"), contract


def test_a_solution_is_given_on_any_grid(tmp_path):
    method, _ = loaded("causal_pinn", tmp_path)
    method.module.duration.fill_(1.0)
    found = method.solve(times=[0.0, 0.5], points=32)
    assert found.u.dims == ("time", "x") and found.sizes == {"time": 2, "x": 32}
    points = torch.tensor([[0.5, float(found.x[7])]])
    with torch.no_grad():
        assert np.allclose(found.u[1, 7], method.module(points), atol=1e-6)
    assert found.x.max() < 2.0 and float(found.length) == 2.0
    assert len(method.solve().time) == 41  # the frames of the data


def test_a_steady_solution_has_no_time(tmp_path):
    method, _ = loaded("pig", tmp_path)
    found = method.solve()
    assert set(found.data_vars) == {"solution"} and found.sizes == {"x": 40, "y": 40}
    with pytest.raises(UserError, match="has no times"):
        method.solve(times=[1.0])


def test_a_map_finds_and_its_scores_are_the_verbs(tmp_path):
    method, contract = loaded("unet_map", tmp_path)
    states = contract.states(3).numpy()
    given = xr.Dataset(
        {name: (("trajectory", "x", "y"), states[:, i]) for i, name in enumerate(method.fields)},
        coords={"source": ("trajectory", [0.5, 1.0, 2.0])},
    )
    found = method.map(given[["coefficient"]])
    assert set(found.data_vars) == {"pressure"} and found.pressure.dims == ("trajectory", "x", "y")
    table = torch.tensor([[1.0, s] for s in (0.5, 1.0, 2.0)])
    with torch.no_grad():
        expected = method.module.predict(torch.from_numpy(states[:, :1]), table)
    assert np.allclose(found.pressure, expected[:, 0], atol=1e-6)
    scores = longrun.score(found, given)
    assert set(scores["metric"]) == {"relative_l2", "relative_h1", "max_error", "wall_error"}
    error = np.linalg.norm(states[:, 1] - found.pressure, axis=(1, 2))
    relative = scores[scores["metric"] == "relative_l2"]["value"]
    assert np.allclose(relative, error / np.linalg.norm(states[:, 1], axis=(1, 2)))


def test_measurements_are_followed_and_gaps_are_not(tmp_path):
    method, contract = loaded("direct_insertion", tmp_path)
    window = contract.batch(method.module)["window"].numpy()
    seen = window.copy()
    seen[:, 2, :, 1::2] = np.nan
    found = method.assimilate(seen, {"length": 15.0})
    assert found.u.dims == ("trajectory", "time", "x")
    assert np.allclose(found.u[:, 2, ::2], window[:, 2, 0, ::2], atol=1e-5)  # inserted
    assert not np.allclose(found.u[:, 2, 1::2], window[:, 2, 0, 1::2], atol=1e-5)  # predicted
    assert found.time.values.tolist() == [2 * k for k in range(window.shape[1])]
    frames = xr.Dataset({"u": (("trajectory", "time", "x"), seen[:, :, 0])})
    with pytest.raises(UserError, match="frames must be 2 apart"):
        method.assimilate(frames.assign_coords(time=np.arange(window.shape[1])), {"length": 15.0})


def test_samples_are_drawn_given_what_is_seen_or_nothing(tmp_path):
    about = contract_of("rectified_flow").FIELD
    method, _ = loaded("rectified_flow", tmp_path, about, conditional=True, observe_every=2)
    frame = np.sin(np.linspace(0, 6, 16, endpoint=False), dtype=np.float32)[None, None, None]
    options = {"parameters": {"length": 8.0}, "members": 4, "nfe": 2}
    found = method.sample(frame, **options)
    assert found.u.dims == ("trajectory", "member", "x") and found.sizes["member"] == 4
    assert float(found.u.std("member").mean()) > 0
    hidden = frame.copy()
    hidden[..., 1::2] = np.nan  # these are never seen
    assert np.array_equal(method.sample(hidden, **options).u, found.u)
    with pytest.raises(UserError, match="needs an observation"):
        method.sample(members=4)
    free, _ = loaded("rectified_flow", tmp_path, about)
    assert free.sample(**options).u.dims == ("member", "x")
    with pytest.raises(UserError, match="was trained without an observation"):
        free.sample(frame, **options)


def test_every_task_can_be_loaded(tmp_path):
    """A task without a call of its own still gives its module."""
    method, _ = loaded("fixed_relaxation", tmp_path)
    assert type(method.module).__name__ == "FixedRelaxation"
    assert {"forecast", "solve", "map", "assimilate", "sample", "accelerate"} == set(
        registry.names("tasks")
    )
