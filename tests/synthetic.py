"""Results like those of real runs, made in seconds: a small KS solver with an error per method."""

import functools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml

from longrun import judge as verdicts
from longrun import plot, tabulate
from longrun.config.tasks import _common, forecast
from longrun.data.store import write_predictions
from longrun.figures._inputs import Inputs
from longrun.judge import judge
from longrun.metrics.table import ABSENT

LENGTH, POINTS, STEP, FRAMES = 64.0, 96, 0.8, 110
TRAJECTORIES, SEEDS, KEEP, PREDICTABILITY = 8, 2, 2, 84.0
# Relative error that each method starts a rollout with; persistence has none, it stays put.
ERRORS = {
    "unet": 1e-2,
    "unet_history": 4e-2,
    "pushforward": 1.3e-2,
    "sobolev": 8e-2,
    "fno": 3e-2,
    "pde_refiner": 1.5e-3,
    "persistence": None,
    "coarse_equal_cost": 2e-4,
}
STAGES = 4
NOISE = (1.0, 0.17, 0.03, 0.005)
LEVEL_ERRORS = (0.043, 0.033, 0.0085, 0.0018)
COST = dict(zip(ERRORS, (4e-4, 5e-4, 4e-4, 4e-4, 7e-4, 1.6e-3, 2e-6, 1.5e-3), strict=True))
EXPERIMENT = {
    "paper": {
        "title": "PDE-Refiner: Achieving Accurate Long Rollouts with Neural PDE Solvers",
        "arxiv": "2308.05732",
        "venue": "NeurIPS 2023",
    },
    "task": {"name": "forecast"},
    "dataset": "kuramoto_sivashinsky",
    "seeds": SEEDS,
    "evaluate": {
        "steps": FRAMES,
        "stride": 4,
        "trajectories": TRAJECTORIES,
        "keep": KEEP,
        "members": 4,
        "start": 4,
    },
    "trainer": {"max_steps": 10_000, "batch_size": 64, "accelerator": "cpu"},
    "methods": {
        "unet": {"name": "unet"},
        "unet_history": {"name": "unet", "history": 2},
        "pushforward": {"name": "unet", "training": {"name": "pushforward"}},
        "sobolev": {"name": "unet", "sobolev_order": 1},
        "fno": {"name": "fno"},
        "pde_refiner": {"name": "pde_refiner"},
        "persistence": {"name": "persistence", "seeds": 1},
        "coarse_equal_cost": {"name": "coarse_solver", "seeds": 1},
    },
    "claims": {
        "longer_horizon": {
            "main": True,
            "says": "With equal network, data and updates, refinement keeps correlation above 0.8 "
            "longer than one-step MSE.",
            "metric": "correlation_time_0.8",
            "of": "pde_refiner",
            "against": "unet",
            "ratio": {"paper": 1.30, "holds": 1.05, "direction": "above"},
        },
        "spectrum": {
            "says": "The one-step error above the dominant wavenumbers is at least 3 times lower.",
            "metric": "one_step_error_high",
            "of": "unet",
            "against": "pde_refiner",
            "ratio": {"holds": 3.0, "direction": "above"},
        },
        "pushforward_not_better": {
            "says": "Pushforward training is not better than one-step MSE.",
            "metric": "correlation_time_0.8",
            "of": "pushforward",
            "against": "unet",
            "ratio": {"paper": 0.995, "holds": 1.0, "direction": "below"},
        },
        "sobolev_better": {
            "says": "One-step MSE does not keep correlation above 0.8 longer than a Sobolev loss.",
            "metric": "correlation_time_0.8",
            "of": "unet",
            "against": "sobolev",
            "ratio": {"holds": 1.0, "direction": "below"},
        },
        "spread": {
            "says": "The spread of samples predicts the horizon.",
            "metric": "predicted_horizon",
            "of": "pde_refiner",
            "explains": "correlation_time_0.8",
            "r_squared": {"paper": 0.86, "holds": 0.5, "direction": "above"},
        },
    },
}
METRICS = forecast.METRICS | _common.METRICS
TRAINED = ("unet", "unet_history", "pushforward", "sobolev", "fno", "pde_refiner")


def solve(state: np.ndarray, frames: int) -> np.ndarray:
    """KS by ETDRK4 (Kassam and Trefethen, 2005), (batch, x) -> (batch, frame, x)."""
    h, substeps = 0.2, round(STEP / 0.2)
    k = 2 * np.pi / LENGTH * np.arange(POINTS // 2 + 1)
    linear = h * (k**2 - k**4)
    circle = np.exp(1j * np.pi * (np.arange(32) + 0.5) / 32)
    z = linear[:, None] + circle
    half = h * ((np.exp(z / 2) - 1) / z).real.mean(1)
    f1 = h * ((-4 - z + np.exp(z) * (4 - 3 * z + z**2)) / z**3).real.mean(1)
    f2 = h * ((2 + z + np.exp(z) * (-2 + z)) / z**3).real.mean(1)
    f3 = h * ((-4 - 3 * z - z**2 + np.exp(z) * (4 - z)) / z**3).real.mean(1)
    full, middle = np.exp(linear), np.exp(linear / 2)
    slope = -0.5j * k * (np.arange(k.size) < POINTS // 3)

    def nonlinear(v):
        return slope * np.fft.rfft(np.fft.irfft(v, POINTS) ** 2)

    v = np.fft.rfft(state)
    out = np.empty((len(state), frames, POINTS))
    for frame in range(frames):
        for _ in range(substeps):
            n0 = nonlinear(v)
            a = middle * v + half * n0
            n1 = nonlinear(a)
            b = middle * v + half * n1
            n2 = nonlinear(b)
            n3 = nonlinear(middle * a + half * (2 * n2 - n0))
            v = full * v + f1 * n0 + 2 * f2 * (n1 + n2) + f3 * n3
        out[:, frame] = np.fft.irfft(v, POINTS)
    return out


@functools.cache
def rollouts() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Truth (trajectory, frame, x) and each method's rollouts (seed, trajectory, frame, x)."""
    rng = np.random.default_rng(7)
    start = solve(rng.normal(size=(TRAJECTORIES, POINTS)).cumsum(1) * 0.05, 90)[:, -1]
    noisy = {name: error for name, error in ERRORS.items() if error is not None}
    batch = [start]
    for error in noisy.values():
        kicks = error * start.std() * rng.normal(size=(SEEDS, *start.shape)).cumsum(-1) * 0.2
        batch.append((start + kicks).reshape(-1, POINTS))
    runs = solve(np.concatenate(batch), FRAMES)
    truth, rest = runs[:TRAJECTORIES], runs[TRAJECTORIES:]
    rest = rest.reshape(len(noisy), SEEDS, TRAJECTORIES, FRAMES, POINTS)
    forecasts = dict(zip(noisy, rest, strict=True))
    forecasts["persistence"] = np.broadcast_to(start[None, :, None], rest[0].shape)[:1]
    forecasts["coarse_equal_cost"] = forecasts["coarse_equal_cost"][:1]
    forecasts["unet_history"] = forecasts["unet_history"].copy()
    forecasts["unet_history"][0, 1, 50:] = np.nan  # a rollout that blew up
    return truth, forecasts


def spectrum(fields: np.ndarray) -> np.ndarray:
    """Mean energy per wavenumber of (..., x)."""
    energy = np.abs(np.fft.rfft(fields) / POINTS) ** 2
    return np.nanmean(energy.reshape(-1, energy.shape[-1]), 0)


def crossing(correlation: np.ndarray, times: np.ndarray, level: float) -> tuple[float, bool]:
    """First time that a correlation falls below a level, and whether it never does."""
    below = np.flatnonzero(correlation < level)
    return (times[below[0]], False) if below.size else (times[-1], True)


def table(rows: list[dict]) -> pd.DataFrame:
    """Scores in the columns of scores.parquet."""
    empty = ABSENT | {"dataset": EXPERIMENT["dataset"]}
    return pd.DataFrame([empty | row for row in rows])


@functools.cache
def scores(method: str, seed: int) -> pd.DataFrame:
    """One run's scores."""
    truth, forecasts = rollouts()
    forecast = forecasts[method][seed]
    rng = np.random.default_rng([seed, list(ERRORS).index(method)])
    times = STEP * np.arange(1, FRAMES + 1)
    k = 2 * np.pi / LENGTH * np.arange(POINTS // 2 + 1)
    rows: list[dict] = []
    for i in range(TRAJECTORIES):
        t, f = truth[i], forecast[i]
        tc, fc = t - t.mean(-1, keepdims=True), f - f.mean(-1, keepdims=True)
        r = (tc * fc).mean(-1) / np.sqrt((tc**2).mean(-1) * (fc**2).mean(-1))
        r = np.where(np.isfinite(r), r, 0.0)
        nrmse = np.sqrt(((t - f) ** 2).mean(-1) / (t**2).mean(-1))
        for step in range(FRAMES):
            where = {"trajectory": i, "member": 0, "step": step + 1, "lead_time": times[step]}
            rows.append(where | {"metric": "correlation", "value": r[step]})
            rows.append(where | {"metric": "nrmse", "value": nrmse[step]})
        for level in (0.8, 0.9):
            value, censored = crossing(r, times, level)
            rows.append(
                {
                    "trajectory": i,
                    "member": 0,
                    "metric": f"correlation_time_{level}",
                    "value": value,
                    "censored": censored,
                }
            )
            if method in ("pde_refiner", "fno") and level == 0.8:  # the methods with an ensemble
                rows.append(
                    {
                        "trajectory": i,
                        "metric": "predicted_horizon",
                        "censored": censored,
                        "value": value * rng.normal(0.9, 0.08),
                    }
                )
        scale = ERRORS[method] or 0.5
        stages = STAGES if method == "pde_refiner" else 1
        for stage in range(stages):
            size = scale * (30 * LEVEL_ERRORS[stage] if stages > 1 else 1)
            rows.append(
                {
                    "trajectory": i,
                    "stage": stage,
                    "metric": "one_step_nrmse",
                    "value": size * rng.lognormal(0, 0.1),
                }
            )
            rows.append(
                {
                    "trajectory": i,
                    "stage": stage,
                    "metric": "one_step_error_high",
                    "value": 1e-2 * size * rng.lognormal(0, 0.1),
                }
            )
    for step in (1, FRAMES // 2, FRAMES):
        for metric, fields in (("energy_spectrum", forecast), ("truth_spectrum", truth)):
            rows += [
                {
                    "step": step,
                    "lead_time": step * STEP,
                    "wavenumber": k[n],
                    "metric": metric,
                    "value": value,
                }
                for n, value in enumerate(spectrum(fields[:, step - 1]))
            ]
    for metric, fields in (("climate_spectrum", forecast), ("climate_truth_spectrum", truth)):
        rows += [
            {"wavenumber": k[n], "metric": metric, "value": value}
            for n, value in enumerate(spectrum(fields))
        ]
    energy = spectrum(np.diff(truth, axis=1))
    for stage in range(stages):
        rows += [
            {
                "stage": stage,
                "wavenumber": k[n],
                "metric": "one_step_truth_spectrum",
                "value": value,
            }
            for n, value in enumerate(energy)
        ]
        floor = (scale * (30 * LEVEL_ERRORS[stage] if stages > 1 else 1)) ** 2 * energy.max() / 10
        error = np.minimum(floor * np.exp(-k / 2), energy * 2) * rng.lognormal(0, 0.05, k.size)
        rows += [
            {
                "stage": stage,
                "wavenumber": k[n],
                "metric": "one_step_error_spectrum",
                "value": value,
            }
            for n, value in enumerate(error)
        ]
        if stages > 1:
            rows.append({"stage": stage, "metric": "noise_level", "value": NOISE[stage]})
            rows.append({"stage": stage, "metric": "level_error", "value": LEVEL_ERRORS[stage]})
    finite = float(np.isfinite(forecast).mean())
    rows += [
        {"trajectory": i, "member": 0, "metric": metric, "value": value}
        for i in range(TRAJECTORIES)
        for metric, value in (("bounded", finite), ("climate_w1", scale))
    ]
    trained = method in TRAINED
    rows += [
        {"metric": "wall_time_per_second", "value": COST[method] * rng.lognormal(0, 0.05)},
        {"metric": "parameters", "value": 160_000.0 * trained},
        {"metric": "peak_memory_mb", "value": 340.0},
        {"metric": "train_seconds", "value": 95.0 * trained},
        {"metric": "predictability", "value": PREDICTABILITY},
    ]
    return table(rows)


def curves(method: str, seed: int) -> pd.DataFrame:
    """One run's training curves: step, metric, value."""
    if method not in TRAINED:
        return pd.DataFrame({"step": [], "metric": [], "value": []})
    rng = np.random.default_rng(seed)
    steps = np.arange(50, 10_001, 50)
    loss = 0.6 * (steps / 50) ** -0.8 * rng.lognormal(0, 0.15, steps.size) + 1e-3
    rate = 1e-4 * 0.5 * (1 + np.cos(np.pi * steps / steps[-1])) + 1e-6
    sparse = steps[19::20]
    valid = ERRORS[method] * (1 + 20 * (sparse / 500.0) ** -1.2) * rng.lognormal(0, 0.05)
    return pd.concat(
        pd.DataFrame({"step": at, "metric": metric, "value": value})
        for metric, at, value in (
            ("train/loss", steps, loss),
            ("learning_rate", steps, rate),
            ("valid/increment_error", sparse, valid),
        )
    )


def predictions(method: str) -> xr.Dataset:
    """What predictions.zarr holds."""
    truth, forecasts = rollouts()
    dims = ("trajectory", "lead_time", "field", "x")
    return xr.Dataset(
        {
            "truth": (dims, truth[:KEEP, :, None].astype("float32")),
            "prediction": (dims, forecasts[method][0, :KEEP, :, None].astype("float32")),
        },
        coords={
            "trajectory": np.arange(KEEP),
            "lead_time": ("lead_time", STEP * np.arange(1, FRAMES + 1), {"units": "s"}),
            "field": np.array(["u"], dtype=object),
            "x": ("x", LENGTH / POINTS * np.arange(POINTS), {"units": "1"}),
        },
    )


def seeds(method: str) -> int:
    """How many seeds a method has: one where nothing is random."""
    return EXPERIMENT["methods"][method].get("seeds", SEEDS)


def experiment(methods: tuple[str, ...]) -> dict:
    """The experiment with some of the methods, and the claims that they allow."""
    claims = {
        name: claim
        for name, claim in EXPERIMENT["claims"].items()
        if {claim["of"], claim.get("against", claim["of"])} <= set(methods)
    }
    chosen = {name: EXPERIMENT["methods"][name] for name in methods}
    return EXPERIMENT | {"methods": chosen, "claims": claims}


def inputs(methods: tuple[str, ...] = tuple(ERRORS)) -> Inputs:
    """What a figure gets, for some of the methods; the verdicts are the real ones."""
    runs = [(method, seed) for method in methods for seed in range(seeds(method))]
    data = [EXPERIMENT["dataset"]]
    spec = experiment(methods) | {"train": data, "test": data, "metrics": METRICS}
    table = pd.concat([scores(*run).assign(method=run[0], seed=run[1]) for run in runs])
    judged, summary = judge(spec, table)
    return Inputs(
        spec=spec,
        preset="cpu",
        experiment="pde_refiner",
        scores=table,
        claims={"claims": judged, "methods": summary},
        curves=pd.concat([curves(*run).assign(method=run[0], seed=run[1]) for run in runs]),
        predictions={method: predictions(method) for method in methods},
    )


SITE = ("unet", "pushforward", "sobolev", "pde_refiner", "persistence")
SITE_FIGURES = ("claims", "error_over_time", "space_time")


@pytest.fixture(name="site", scope="session")
def built_site(root, tmp_path_factory) -> Path:
    """Configs and results of the methods in SITE, with the figures in SITE_FIGURES, by real verbs.

    Import it under this name and ask for it as `site`; a process builds it once.
    """
    folder = tmp_path_factory.getbasetemp() / "site"
    if folder.exists():
        return folder
    configs = write_configs(folder / "configs", root / "configs", SITE)
    results = folder / "results"
    write_runs(results, SITE)
    at = f"--experiment pde_refiner --preset cpu --configs {configs} --results {results}"
    made = results / "cpu" / "pde_refiner"
    run(verdicts.main, f"{at} --output {made}/claims.json")
    for name in SITE_FIGURES:
        run(plot.main, f"{name} {at} --output {made}/figures/{name}.svg")
    at = f"--preset cpu --configs {configs} --results {results} --captions {root}/workflow/report"
    run(tabulate.main, f"{at} --output-dir {results}/cpu")
    return folder


def run(main, arguments: str) -> None:
    """Call a verb's main as the command line would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["verb", *arguments.split()])
        main()


def write_configs(folder: Path, shipped: Path, methods: tuple[str, ...]) -> Path:
    """A folder of configs with only this experiment; the rest is as shipped."""
    shutil.copytree(shipped, folder, ignore=shutil.ignore_patterns("experiments"))
    (folder / "experiments").mkdir()
    settings = {"preset": "cpu", "experiments": ["pde_refiner"], "tracking": "disabled"}
    for name, content in (
        ("config", settings),
        ("experiments/pde_refiner", experiment(methods)),
        ("presets/cpu", {"seeds": SEEDS}),
    ):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder


def write_runs(results: Path, methods: tuple[str, ...]) -> None:
    """What train and evaluate leave behind, for every run."""
    hardware = {"platform": "Linux", "cpu": "Imaginary CPU", "cores": 2, "gpu": None}
    made = {"commit": "0123456789abcdef", "dirty": False, "hardware": hardware}
    made["versions"] = {"longrun": "0.1.0", "torch": "2.13.0"}
    note = json.dumps({"provenance": made, "trained": made, "wall_seconds": 12.5})
    for method in methods:
        for seed in range(seeds(method)):
            run = results / "cpu" / "pde_refiner" / method / f"seed{seed}"
            run.mkdir(parents=True)
            scores(method, seed).to_parquet(run / "scores.parquet")
            curves(method, seed).to_csv(run / "curves.csv", index=False)
            (run / "evaluation.json").write_text(note)
            if seed == 0:
                write_predictions(run / "predictions.zarr", predictions(method))
