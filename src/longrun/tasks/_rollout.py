"""Evaluation of a forecaster: rolled out far past its training horizon, scored frame by frame.

The protocol, for every method of an experiment alike:

- Frames of a trajectory are numbered from 0 as they lie in the store. One model step is `stride`
  frames. `start` is the number of the LAST input frame. A method of history h sees the frames
  `start - (h - 1) stride, ..., start - stride, start`, so `start >= (h - 1) stride`; methods with
  different histories are scored on the same target frames when they are given the same `start`.
- Step n = 1, 2, ..., `steps` is the forecast of frame `start + n stride`, at lead time n times the
  trajectory's own `dt` times `stride`. The true frames after `start` are never shown.
- The trajectories are the first `trajectories` of the split; each has `members` rollouts, which
  differ in the method's noise alone (one where the method has none).
- Fields are scored in physical units on the grid of the store, each for itself; a score is the mean
  over fields, a spectrum is the sum over fields. Of fields that the equation derives from them, as
  vorticity from velocity, the correlation is scored, each under its own name. A field that the
  store lacks, for which a view gives a constant, is shown to a method and not scored.
- A rollout has *diverged* at its first frame that is not finite, or in which any value is more than
  100 standard deviations from the mean of the training data. From then on it is frozen: the method
  remembers what it did before that frame, so that nothing spreads, and its forecast counts as a
  constant field 100 standard deviations from the mean. Its correlation is 0 and `bounded` is 0.
- Errors have a ceiling, for diverged and bounded frames alike: RMSE 100 standard deviations, nRMSE,
  VRMSE, relative L1 and spread-skill 100, relative errors of a spectrum 1e4. A value at its ceiling
  is marked as censored: it is a lower bound, and so is a mean that contains it. No score is ever
  NaN.
- The climate is that of the second half of the rollout, compared with the same frames of the same
  trajectory; the Wasserstein distance is in standard deviations of the training data.
- One-step scores start from true frames: up to 8 starts, evenly spread over the same frames. A
  direct method has none: it sees no frame, and its rollout begins at the first of a trajectory.
- The generalisation gap is the nRMSE of a test trajectory, mean over the rollout, over that of the
  first `train_trajectories` of the training split, rolled out in the same way.
- Noise comes from generators seeded with the run's seed, one for each batch of trajectories, so the
  same call gives the same bits, on any number of devices; how trajectories are split into batches
  shifts that noise, and changes nothing where there is none.

The truth is read and the forecast is scored in blocks of frames. Besides the scores, what is held
does not grow with the length of the rollout, except the few trajectories that are kept whole.
"""

import logging
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from longrun.data import schema
from longrun.data.describe import sides
from longrun.metrics import ensemble, pointwise, spectrum
from longrun.metrics.climate import Histograms
from longrun.metrics.crossing import crossing_time
from longrun.metrics.pointwise import UNBOUNDED
from longrun.metrics.table import ScoreTable
from longrun.runtime import registry
from longrun.runtime.cli import UserError
from longrun.tasks._evaluation import (
    TIMED_CALLS,
    Evaluation,
    check_size,
    field_coordinates,
    is_first,
    score_size,
    seconds_per_call,
    seeded,
    spread,
)

_log = logging.getLogger(__name__)

THRESHOLDS = (0.8, 0.9)
HORIZON = 0.8  # correlation between members that ends the horizon an ensemble predicts for itself
ONE_STEP_STARTS = 8
BLOCK = 2**22  # values of a forecast that are scored at once


@runtime_checkable
class Forecaster(Protocol):
    """What evaluation asks of a method; `longrun.tasks.forecast.AbstractForecaster` gives it."""

    description: Any
    direct: bool
    history: int
    stochastic: bool
    period: int

    @property
    def device(self) -> torch.device: ...
    @property
    def noise_levels(self) -> tuple[float, ...]: ...
    @property
    def target_scale(self) -> Tensor: ...
    def parameters(self) -> Iterator[torch.nn.Parameter]: ...
    def begin(self, history: Tensor, parameters: Tensor) -> dict[str, Tensor]: ...
    def advance(
        self, memory: dict[str, Tensor], generator: torch.Generator | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]: ...
    def stages(
        self, history: Tensor, parameters: Tensor, generator: torch.Generator | None = None
    ) -> Tensor: ...


def evaluate_forecast(
    module: Forecaster, store: Any, options: Mapping[str, Any], seed: int
) -> Evaluation:
    """Roll a method out over a store and score it, by the protocol of this module.

    Parameters
    ----------
    module
        On the device that it shall run on, in evaluation mode.
    store
        A `longrun.data.store.Store`.
    options
        `steps`, `stride`, `trajectories`; and `members` (1), `start` (0), `keep` (0), `batch_size`
        (64, forecasts in one call of the network), `split` ("test"), `train_trajectories` (0).
    seed
        Of the noise of a stochastic method.

    Returns
    -------
    Evaluation

    Raises
    ------
    UserError
        If the store has too few frames or trajectories, or `start` leaves no room for the history.
    """
    setting = _setting(module, store, options)
    table = ScoreTable(store.path.stem)
    with torch.no_grad():
        kept = _score_rollouts(module, setting, table, seed)
        if not module.direct:
            _score_one_step(module, setting, table, seed)
        if options.get("train_trajectories"):
            _score_gap(module, store, options, table, seed)
        if is_first():
            _score_cost(module, setting, table, seeded(module.device, seed, 2))
            _compare_with_predictability(setting, table)
    return Evaluation(table.frame(), _predictions(setting, kept))


def rollout(
    module: Forecaster,
    history: Float[Tensor, "batch frame channel *space"],
    parameters: Float[Tensor, "batch condition"],
    steps: int,
    *,
    generator: torch.Generator | None = None,
    batch_size: int = 64,
) -> Iterator[Float[Tensor, "batch channel *space"]]:
    """Feed a method its own forecasts; one frame per step, physical units.

    Parameters
    ----------
    module
        The method.
    history
        True frames, oldest first, as many as the method sees, on its device.
    parameters
        Of each trajectory, in the order of the store.
    steps
        Number of frames to forecast.
    generator
        Source of a stochastic method's noise.
    batch_size
        Forecasts in one call of the network.

    Yields
    ------
    Tensor
        The next frame; NaN from the frame on at which a trajectory diverges.
    """
    alive = torch.ones(len(history), dtype=torch.bool, device=history.device)
    pieces = zip(history.split(batch_size), parameters.split(batch_size), strict=True)
    memories = [module.begin(*piece) for piece in pieces]
    for _ in range(steps):
        ahead = [module.advance(memory, generator) for memory in memories]
        frame = torch.cat([frames for frames, _ in ahead])
        alive = alive & _bounded(module, frame)
        yield torch.where(_as_frames(alive, frame), frame, math.nan)
        memories = [
            {name: torch.where(_as_frames(going, new), new, old[name]) for name, new in now.items()}
            for going, old, (_, now) in zip(alive.split(batch_size), memories, ahead, strict=True)
        ]


# What is evaluated, on what --------------------------------------------------------------------


@dataclass(frozen=True)
class _Setting:
    store: Any
    split: Any
    trajectories: int
    members: int
    start: int
    stride: int
    steps: int
    history: int
    keep: int
    batch_size: int
    scored: np.ndarray  # channels that are scored; below and in all arrays, `channel` counts these
    mean: np.ndarray  # (channel,)
    std: np.ndarray  # (channel,)
    bands: dict[str, np.ndarray]  # masks of the spectrum's bins; no band is empty
    equation: Any
    seconds: np.ndarray = field(init=False)  # of one model step, per trajectory
    parameters: dict[str, np.ndarray] = field(init=False)  # of the trajectories that are used

    def __post_init__(self) -> None:
        used = {name: v[: self.trajectories] for name, v in self.split.parameters.items()}
        object.__setattr__(self, "parameters", used)
        dt = used.get(schema.DT, np.ones(self.trajectories))  # as in `longrun.data.describe`
        object.__setattr__(self, "seconds", dt * self.stride)

    @property
    def dims(self) -> int:
        return len(self.split.space)

    @property
    def sides(self) -> tuple[float, ...]:
        return sides(self.parameters, self.dims)

    @property
    def wavenumbers(self) -> np.ndarray:
        """Of each bin, rad per unit of length on the mean domain; indices without a length."""
        return spectrum.wavenumbers(self.split.space, self.sides)

    def groups(self, width: int) -> Iterator[np.ndarray]:
        """Trajectories whose `width` forecasts each fit into one call of the network."""
        size = max(1, self.batch_size // width)
        for first in range(0, self.trajectories, size):
            yield np.arange(first, min(first + size, self.trajectories))

    def read(self, chosen: np.ndarray, first: int, count: int) -> np.ndarray:
        """Read `count` true frames, a model step apart, from frame `first` on."""
        return self._read(chosen, first, count)[:, :, self.scored]

    def _read(self, chosen: np.ndarray, first: int, count: int) -> np.ndarray:
        stop = first + (count - 1) * self.stride + 1
        return self.split.read(chosen, slice(first, stop, self.stride))

    def inputs(
        self, module: Forecaster, chosen: np.ndarray, last: int, repeats: int = 1
    ) -> tuple[Tensor, Tensor]:
        """History up to frame `last` and parameters, each trajectory `repeats` times in a row."""
        first = last - (self.history - 1) * self.stride
        frames = torch.from_numpy(self._read(chosen, first, self.history)).to(module.device)
        columns = [values[chosen] for values in self.parameters.values()]
        given = torch.from_numpy(np.stack(columns, axis=1)).to(frames)
        return frames.repeat_interleave(repeats, 0), given.repeat_interleave(repeats, 0)

    def tame(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frames with diverged ones (not finite) moved to the bound, and which are not diverged."""
        shape = (-1,) + (1,) * self.dims
        alive = np.isfinite(frames).all(axis=tuple(range(-self.dims - 1, 0)))
        bound = (self.mean + UNBOUNDED * self.std).reshape(shape)
        return np.where(alive.reshape(*alive.shape, 1, *(1,) * self.dims), frames, bound), alive

    def energy(self, frames: np.ndarray) -> np.ndarray:
        return spectrum.energy_spectrum(frames, self.dims, self.sides)


def _setting(module: Forecaster, store: Any, options: Mapping[str, Any]) -> _Setting:
    split = store.split(options.get("split", "test"))
    if not split.space:
        raise UserError(f"{store.path}: has no axis of space, over which these scores are taken")
    start, stride, steps = options.get("start", 0), options["stride"], options["steps"]
    check_size(store, split, options["trajectories"], start + steps * stride + 1)
    if start < (module.history - 1) * stride:
        raise UserError(
            f"evaluate.start must be at least {(module.history - 1) * stride}, the last input "
            f"frame of a method that sees {module.history} frames, is {start}"
        )
    if module.direct and start:
        raise UserError(f"evaluate.start must be 0 for a direct method, is {start}")
    statistics = module.description["statistics"]
    scored = np.flatnonzero([name not in split.constants for name in split.fields])
    used = {name: values[: options["trajectories"]] for name, values in split.parameters.items()}
    bins = len(spectrum.wavenumbers(split.space, sides(used, len(split.space))))
    masks = spectrum.bands(module.description["spectrum"], bins)
    name = store.equation["name"]
    section = {key: value for key, value in store.equation.items() if key != "name"}
    # a store converted from another format has none, and one seen in part not its state
    known = name in registry.names("equations") and store.whole
    return _Setting(
        store=store,
        split=split,
        trajectories=options["trajectories"],
        members=options.get("members", 1) if module.stochastic else 1,
        start=start,
        stride=stride,
        steps=steps,
        history=module.history,
        keep=min(options.get("keep", 0), options["trajectories"]),
        batch_size=options.get("batch_size", 64),
        scored=scored,
        mean=np.asarray(statistics["mean"], dtype=np.float64)[scored],
        std=np.asarray(statistics["std"], dtype=np.float64)[scored],
        bands={name: mask for name, mask in masks.items() if mask.any()},
        equation=registry.find("equations", name)(**section) if known else None,
    )


def _bounded(module: Forecaster, frame: Float[Tensor, "..."]) -> Bool[Tensor, "*batch"]:
    """Which frames are finite and within the bound; NaN compares as false."""
    statistics = module.description["statistics"]
    dims = module.description["dims"]
    mean, std = (
        torch.tensor(statistics[name], device=frame.device, dtype=frame.dtype).reshape(
            -1, *(1,) * dims
        )
        for name in ("mean", "std")
    )
    return ((frame - mean).abs() <= UNBOUNDED * std).flatten(-dims - 1).all(-1)


def _as_frames(mask: Bool[Tensor, "*batch"], frames: Tensor) -> Tensor:
    """Append axes of length 1 until a mask of frames broadcasts against them."""
    return mask.reshape(*mask.shape, *(1,) * (frames.ndim - mask.ndim))


# Rollouts --------------------------------------------------------------------------------------


def _score_rollouts(
    module: Forecaster, setting: _Setting, table: ScoreTable, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Score all rollouts; return truth and forecast of the trajectories to keep."""

    def score_group(number: int, chosen: np.ndarray) -> tuple[ScoreTable, _Spectra, Any]:
        rows, pooled = ScoreTable(setting.store.path.stem), _Pooled(setting)
        generator = seeded(module.device, seed, 0, number)
        group = _Group(setting, chosen, rows)
        history, parameters = setting.inputs(module, chosen, setting.start, setting.members)
        group.begin(history[:: setting.members, -1].cpu().numpy()[:, setting.scored])
        frames = rollout(
            module,
            history,
            parameters,
            setting.steps,
            generator=generator,
            batch_size=setting.batch_size,
        )
        whole = []
        for steps in _blocks(setting, len(chosen)):
            forecast = torch.stack([next(frames) for _ in steps], dim=1).cpu().numpy()
            forecast = forecast[:, :, setting.scored]
            forecast = forecast.reshape(len(chosen), setting.members, *forecast.shape[1:])
            first = setting.start + int(steps[0]) * setting.stride
            truth = setting.read(chosen, first, len(steps))
            group.score(steps, forecast, truth, pooled)
            few = chosen < setting.keep
            whole.append((truth[few], forecast[few, 0]))
        group.end(pooled)
        kept = tuple(np.concatenate(part, axis=1) for part in zip(*whole, strict=True))
        return rows, pooled.spectra, kept

    groups = spread(score_group, setting.groups(setting.members))
    pooled = _Pooled(setting)
    for rows, spectra, _ in groups:
        table.extend(rows)
        pooled.merge(spectra)
    pooled.report(table)
    return [kept for _, _, kept in groups if len(kept[0])]


def _blocks(setting: _Setting, trajectories: int) -> Iterator[np.ndarray]:
    """Step numbers, in blocks small enough to score at once."""
    values = trajectories * setting.members * len(setting.mean) * math.prod(setting.split.space)
    size = max(1, BLOCK // values)
    for first in range(1, setting.steps + 1, size):
        yield np.arange(first, min(first + size, setting.steps + 1))


class _Group:
    """Scores of the trajectories that are rolled out together, block after block."""

    def __init__(self, setting: _Setting, chosen: np.ndarray, table: ScoreTable):
        self.setting, self.chosen, self.table = setting, chosen, table
        shape = (len(chosen), setting.members)
        fields = len(setting.mean)
        histogram = (setting.mean, setting.std, setting.dims)
        self.forecasts = Histograms(math.prod(shape), *histogram)
        self.truths = Histograms(len(chosen), *histogram)
        self.energy = np.zeros((*shape, fields, len(setting.wavenumbers)))
        self.true_energy = np.zeros((len(chosen), 1, *self.energy.shape[2:]))
        self.alive = np.ones(shape, dtype=bool)  # to the end of the rollout
        self.correlation: dict[str, list[np.ndarray]] = defaultdict(list)  # of fields, of derived
        self.agreement: list[np.ndarray] = []  # between members

    def begin(self, initial: np.ndarray) -> None:
        """Note what the equation conserves."""
        initial = initial[:, None, None].astype(np.float64)
        self.conserved = self._of_equation("invariants", initial)

    def score(
        self, steps: np.ndarray, forecast: np.ndarray, truth: np.ndarray, pooled: "_Pooled"
    ) -> None:
        """Score a block.

        Parameters
        ----------
        steps
            Numbers of the steps.
        forecast
            Shape (trajectory, member, step, channel, *space), NaN where diverged.
        truth
            Shape (trajectory, step, channel, *space).
        pooled
            Collects what is averaged over all trajectories.
        """
        setting, dims = self.setting, self.setting.dims
        forecast, alive = setting.tame(forecast.astype(np.float64))
        true = truth[:, None].astype(np.float64)
        self.alive &= alive.all(axis=2)
        rows = {
            "trajectory": self.chosen[:, None, None],
            "member": np.arange(setting.members)[:, None],
            "step": steps,
            "lead_time": self._lead_times(steps)[:, None],
        }
        for score, unit in (
            (pointwise.rmse, float(setting.std.mean())),
            (pointwise.nrmse, 1.0),
            (pointwise.vrmse, 1.0),
            (pointwise.relative_l1, 1.0),
        ):
            error = score(forecast, true, dims)
            self._add_error(score.__name__, error, UNBOUNDED * unit, alive, rows)
        fields = {"": (forecast, true)}
        predicted = self._of_equation("derived", forecast)
        for name, field_ in self._of_equation("derived", true).items():
            axis = -dims - 1
            pair = np.expand_dims(predicted[name], axis), np.expand_dims(field_, axis)
            fields[f"_{name}"] = pair
        for name, pair in fields.items():
            correlation = pointwise.correlation(*pair, dims)
            self.correlation[name].append(correlation)
            self.table.add(f"correlation{name}", correlation, **rows)
        self.table.add("bounded", alive, **rows)
        for name, values in self._of_equation("invariants", forecast).items():
            drift = np.abs(values - self.conserved[name])
            self.table.add(f"drift_{name}", drift, censored=~alive, **rows)
        energy, true_energy = setting.energy(forecast), setting.energy(true)
        self._add_spectrum_errors("spectrum_error", energy, true_energy, alive, rows)
        pooled.add(steps, energy, true_energy, alive)
        if setting.members > 1:
            self._score_ensemble(steps, forecast, true[:, 0], alive)
        late = steps > setting.steps // 2
        if late.any():
            streams = forecast[:, :, late].reshape(-1, *forecast[:, :, late].shape[2:])
            self.forecasts.add(streams)
            self.truths.add(true[:, 0, late])
            self.energy += energy[:, :, late].sum(axis=2)
            self.true_energy += true_energy[:, :, late].sum(axis=2)

    def end(self, pooled: "_Pooled") -> None:
        """Score what needs the whole rollout."""
        setting = self.setting
        times = self._lead_times(np.arange(1, setting.steps + 1))
        rows = {"trajectory": self.chosen[:, None], "member": np.arange(setting.members)}
        for name, blocks in self.correlation.items():
            correlation = np.concatenate(blocks, axis=-1)
            for threshold in THRESHOLDS:
                crossing, censored = crossing_time(correlation, times[:, None], threshold)
                metric = f"correlation_time_{threshold}{name}"
                self.table.add(metric, crossing, censored=censored, **rows)
        if self.agreement:
            agreement = np.concatenate(self.agreement, axis=-1)
            crossing, censored = crossing_time(agreement, times, HORIZON)
            self.table.add("predicted_horizon", crossing, censored=censored, trajectory=self.chosen)
        distance = self.forecasts.wasserstein(self.truths).reshape(self.alive.shape)
        self.table.add("climate_w1", distance, censored=~self.alive, **rows)
        self._add_spectrum_errors(
            "climate_spectrum_error", self.energy, self.true_energy, self.alive, rows
        )
        pooled.add_climate(self.energy, self.true_energy, self.alive)

    def _score_ensemble(
        self, steps: np.ndarray, forecast: np.ndarray, truth: np.ndarray, alive: np.ndarray
    ) -> None:
        dims = self.setting.dims
        members = np.moveaxis(forecast, 1, 2)  # (trajectory, step, member, channel, *space)
        rows = {
            "trajectory": self.chosen[:, None],
            "step": steps,
            "lead_time": self._lead_times(steps),
            "censored": ~alive.all(axis=1),
        }
        spread = ensemble.spread(members, dims)
        error = ensemble.ensemble_rmse(members, truth, dims)
        self.table.add("crps", ensemble.crps(members, truth, dims), **rows)
        self.table.add("spread", spread, **rows)
        self.table.add("ensemble_rmse", error, **rows)
        skill = np.minimum(pointwise.ratio(spread, error), UNBOUNDED)
        self.table.add("spread_skill", skill, **rows)
        agreement = ensemble.member_correlation(members, dims)
        self.agreement.append(agreement)
        self.table.add("member_correlation", agreement, **rows | {"censored": False})

    def _add_error(
        self, name: str, error: np.ndarray, ceiling: float, alive: np.ndarray, rows: dict[str, Any]
    ) -> None:
        error = np.where(alive, np.minimum(error, ceiling), ceiling)
        self.table.add(name, error, censored=error >= ceiling, **rows)

    def _add_spectrum_errors(
        self,
        name: str,
        energy: np.ndarray,
        true_energy: np.ndarray,
        alive: np.ndarray,
        rows: dict[str, Any],
    ) -> None:
        for band, mask in self.setting.bands.items():
            error = spectrum.relative_error(energy, true_energy, mask).mean(axis=-1)
            self._add_error(f"{name}_{band}", error, UNBOUNDED**2, alive, rows)

    def _lead_times(self, steps: np.ndarray) -> np.ndarray:
        return self.setting.seconds[self.chosen, None] * steps

    def _of_equation(self, what: str, state: np.ndarray) -> dict[str, np.ndarray]:
        """Return the `invariants` of states, or the fields `derived` from them."""
        lead = state.shape[: -self.setting.dims - 1]
        parameters = {
            name: np.broadcast_to(values[self.chosen].reshape(-1, 1, 1), lead)
            for name, values in self.setting.parameters.items()
        }
        equation = self.setting.equation
        return getattr(equation, what)(state, parameters) if equation else {}


_Spectra = dict[tuple[str, int], tuple[Any, int]]
"""Sum of the spectra of a metric at a step, and how many they are."""


class _Pooled:
    """Spectra averaged over the trajectories and members that have not diverged."""

    def __init__(self, setting: _Setting):
        self.setting = setting
        self.at = sorted({1, (setting.steps + 1) // 2, setting.steps})
        self.spectra: _Spectra = {}

    def add(
        self, steps: np.ndarray, energy: np.ndarray, true_energy: np.ndarray, alive: np.ndarray
    ) -> None:
        for place, step in enumerate(steps.tolist()):
            if step in self.at:
                self._add("energy_spectrum", step, energy[:, :, place][alive[:, :, place]])
                self._add("truth_spectrum", step, true_energy[:, 0, place])

    def add_climate(self, energy: np.ndarray, true_energy: np.ndarray, alive: np.ndarray) -> None:
        frames = self.setting.steps - self.setting.steps // 2
        self._add("climate_spectrum", -1, energy[alive] / frames)
        self._add("climate_truth_spectrum", -1, true_energy[:, 0] / frames)

    def _add(self, metric: str, step: int, energy: np.ndarray) -> None:
        """Add spectra of shape (any, channel, bin)."""
        self.merge({(metric, step): (energy.sum(axis=(0, 1)), len(energy))})

    def merge(self, spectra: _Spectra) -> None:
        """Add those of another group of trajectories."""
        for key, (total, count) in spectra.items():
            before, number = self.spectra.get(key, (0.0, 0))
            self.spectra[key] = before + total, number + count

    def report(self, table: ScoreTable) -> None:
        lead = float(self.setting.seconds.mean())
        for (metric, step), (total, count) in self.spectra.items():
            if count:  # else every rollout has diverged, and there is no spectrum to show
                time_ = lead * step if step > 0 else np.nan
                where = {"step": step, "lead_time": time_, "wavenumber": self.setting.wavenumbers}
                table.add(metric, total / count, **where)


# One step --------------------------------------------------------------------------------------


def _score_one_step(module: Forecaster, setting: _Setting, table: ScoreTable, seed: int) -> None:
    """Score single steps from true frames, after every stage of a step."""
    last = setting.start + (setting.steps - 1) * setting.stride
    starts = np.unique(np.linspace(setting.start, last, ONE_STEP_STARTS).astype(int)).tolist()
    axes = range(-setting.dims, 0)
    scale = module.target_scale.cpu().numpy()[setting.scored].reshape(-1, *(1,) * setting.dims)

    def score_group(
        number: int, chosen: np.ndarray
    ) -> tuple[ScoreTable, list[Any], Any, list[Any]]:
        rows = ScoreTable(setting.store.path.stem)
        generator = seeded(module.device, seed, 1, number)
        levels, true_spectra = [], []  # of every start
        nrmse: Any = 0.0
        energy: Any = 0.0
        diverged: Any = False
        for start in starts:
            frames, parameters = setting.inputs(module, chosen, start)
            stages = module.stages(frames, parameters, generator)
            bounded = _bounded(module, stages)
            stages = torch.where(_as_frames(bounded, stages), stages, math.nan)
            scored = stages.cpu().numpy()[:, :, setting.scored]
            forecast, alive = setting.tame(scored.astype(np.float64))
            truth = setting.read(chosen, start + setting.stride, 1)[:, 0].astype(np.float64)
            error = forecast - truth
            score = np.minimum(pointwise.nrmse(forecast, truth, setting.dims), UNBOUNDED)
            nrmse = nrmse + np.where(alive, score, UNBOUNDED) / len(starts)
            energy = energy + setting.energy(error).sum(axis=2) / len(starts)
            diverged = diverged | ~alive
            levels.append(np.square(error / scale).mean(axis=(2, *axes)).sum(axis=1))
            true_spectra.append(setting.energy(truth).sum(axis=(0, 1)))
        cells: dict[str, Any] = {"trajectory": chosen, "stage": np.arange(len(energy))[:, None]}
        rows.add("one_step_nrmse", nrmse, censored=diverged, **cells)
        for band, mask in setting.bands.items():
            amplitude = spectrum.amplitude(energy, mask)
            rows.add(f"one_step_error_{band}", amplitude, censored=diverged, **cells)
        return rows, levels, energy.sum(axis=1), true_spectra

    levels: Any = 0.0
    spectra: Any = 0.0
    true_spectrum: Any = 0.0
    for rows, squares, energy, true_spectra in spread(score_group, setting.groups(1)):
        table.extend(rows)
        levels = sum(squares, levels)
        spectra = spectra + energy
        true_spectrum = sum(true_spectra, true_spectrum)
    stage = np.arange(len(levels))
    count = setting.trajectories
    where: dict[str, Any] = {"stage": stage[:, None], "wavenumber": setting.wavenumbers}
    table.add("one_step_error_spectrum", spectra / count, **where)
    table.add(
        "one_step_truth_spectrum",
        np.broadcast_to(true_spectrum / (count * len(starts)), spectra.shape),
        **where,
    )
    table.add("level_error", np.sqrt(levels / (count * len(starts))), stage=stage)
    table.add("noise_level", module.noise_levels, stage=np.arange(len(module.noise_levels)))


# Trajectories that were trained on -------------------------------------------------------------


def _score_gap(
    module: Forecaster,
    store: Any,
    options: Mapping[str, Any],
    table: ScoreTable,
    seed: int,
) -> None:
    """Score each trajectory's error over the mean error on trajectories of the training split."""
    count = options["train_trajectories"]
    setting = _setting(
        module, store, {**options, "split": "train", "trajectories": count, "keep": 0}
    )
    seen = ScoreTable(store.path.stem)
    _score_rollouts(module, setting, seen, seed)
    trained = _mean_nrmse(seen)
    tested = _mean_nrmse(table)
    table.add("train_nrmse", trained.mean())
    table.add("generalisation_gap", tested / trained.mean(), trajectory=tested.index)


def _mean_nrmse(table: ScoreTable) -> pd.Series:
    """Mean over steps and members of each trajectory."""
    scores = table.frame()
    return scores[scores["metric"] == "nrmse"].groupby("trajectory")["value"].mean()


# Cost ------------------------------------------------------------------------------------------


def _score_cost(
    module: Forecaster, setting: _Setting, table: ScoreTable, generator: torch.Generator
) -> None:
    """Score wall time, parameters and memory of one batch of trajectories."""
    chosen = next(setting.groups(1))
    history, parameters = setting.inputs(module, chosen, setting.start)
    if module.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(module.device)
    size = len(history)
    period = module.period
    steps = period * (1 + TIMED_CALLS)
    frames = rollout(module, history, parameters, steps, generator=generator, batch_size=size)
    wall = seconds_per_call(lambda: [next(frames) for _ in range(period)])
    table.add("wall_time_per_second", wall / period / float(setting.seconds[chosen].sum()))
    score_size(module, table)


# Predictability --------------------------------------------------------------------------------


def _compare_with_predictability(setting: _Setting, table: ScoreTable) -> None:
    """Report for how long the data can be predicted at all, and warn of rollouts beyond."""
    limit = float(setting.store.predictability)
    if not np.isfinite(limit):
        return
    at_least = setting.store.attrs[schema.CENSORED] > 0
    table.add("predictability", limit, censored=at_least)
    longest = setting.steps * float(setting.seconds.max())
    if longest > limit:
        _log.warning(
            "%s: rollouts reach %.4g s, but the data is predictable for %s%.4g s: beyond, "
            "correlations and errors compare with one of many possible truths",
            setting.store.path.name,
            longest,
            "at least " if at_least else "",
            limit,
        )


# Fields for figures ----------------------------------------------------------------------------


def _predictions(setting: _Setting, kept: list[tuple[np.ndarray, np.ndarray]]) -> xr.Dataset:
    axes = schema.AXES[: setting.dims]
    dims = (schema.TRAJECTORY, schema.LEAD_TIME, schema.FIELD, *axes)
    empty = np.empty((0, setting.steps, len(setting.mean), *setting.split.space), np.float32)
    names = ("truth", "prediction")
    fields = {
        name: (dims, np.concatenate([part[place] for part in kept] or [empty]))
        for place, name in enumerate(names)
    }
    seconds = setting.seconds[: setting.keep]
    length = setting.parameters.get(schema.LENGTH, np.ones(setting.trajectories))[: setting.keep]
    # Each trajectory has its own clock and domain: the axes are means, the exact values beside.
    mean_seconds = float(seconds.mean()) if setting.keep else float(setting.seconds.mean())
    lead_times = mean_seconds * np.arange(1, setting.steps + 1)
    mean_length = float(length.mean()) if setting.keep else 1.0
    scored_fields = [setting.store.fields[i] for i in setting.scored]
    coordinates = field_coordinates(
        scored_fields, setting.keep, lead_times, setting.split.space, mean_length
    )
    coordinates["seconds_per_step"] = (schema.TRAJECTORY, seconds, {"units": "s"})
    coordinates[schema.LENGTH] = (schema.TRAJECTORY, length)
    return xr.Dataset(fields, coords=coordinates)
