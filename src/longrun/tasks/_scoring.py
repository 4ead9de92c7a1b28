"""Scores of forecasts that are arrays, whatever made them. See `longrun.tasks._rollout`."""

import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float

from longrun.data import schema
from longrun.data.describe import periodic, sides
from longrun.metrics import ensemble, pointwise, spectrum
from longrun.metrics.climate import Histograms, kinetic_energy
from longrun.metrics.crossing import crossing_time
from longrun.metrics.pointwise import UNBOUNDED
from longrun.metrics.table import ScoreTable
from longrun.tasks._evaluation import field_coordinates

_log = logging.getLogger(__name__)

THRESHOLDS = (0.8, 0.9)
HORIZON = 0.8  # correlation between members that ends the horizon an ensemble predicts for itself
WINDOWED = "windowed"  # attribute of predictions: axes along which spectra have a window
BLOCK = 2**22  # values of a forecast that are scored at once

Block = tuple[np.ndarray, np.ndarray]
"""Numbers of some steps, and their forecasts (row, step, channel, *space), NaN where diverged."""
Spectra = dict[tuple[str, int], tuple[Any, int]]
"""Sum of the spectra of a metric at a step, and how many they are."""


@dataclass(frozen=True)
class Cases:
    """The trajectories that are forecast, from where and how far, and what their truth is like."""

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
        self, chosen: np.ndarray, last: int
    ) -> tuple[Float[np.ndarray, "row frame channel *space"], Float[np.ndarray, "row parameter"]]:
        """History up to frame `last`, and parameters."""
        first = last - (self.history - 1) * self.stride
        columns = [values[chosen] for values in self.parameters.values()]
        return self._read(chosen, first, self.history), np.stack(columns, axis=1)

    def tame(self, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Frames with diverged ones (not finite) moved to the bound, and which are not diverged."""
        shape = (-1,) + (1,) * self.dims
        alive = np.isfinite(frames).all(axis=tuple(range(-self.dims - 1, 0)))
        bound = (self.mean + UNBOUNDED * self.std).reshape(shape)
        return np.where(alive.reshape(*alive.shape, 1, *(1,) * self.dims), frames, bound), alive

    @property
    def windowed(self) -> list[str]:
        """Axes that aren't periodic: spectra are taken through a window along them."""
        joined = periodic(self.store.boundary)
        return [axis for axis, ends in zip(schema.AXES, joined, strict=False) if not ends]

    @property
    def between_walls(self) -> bool:
        """Whether the equation prescribes values."""
        return self.equation is not None and self.equation.rim is not None

    def without_walls(self, frames: np.ndarray, chosen: np.ndarray, axis: int) -> np.ndarray:
        """Frames with 0 for what is prescribed on walls and in bodies; `axis` is trajectories'."""
        if not self.between_walls:
            return frames
        free = self.free(chosen)
        after = frames.ndim - axis - free.ndim  # axes between trajectories and channels
        return np.where(free.reshape(len(free), *(1,) * after, *free.shape[1:]), frames, 0.0)

    def free(self, chosen: np.ndarray) -> np.ndarray:
        """Where nothing is prescribed (trajectory, channel, *space), of an equation with walls."""
        return self._stored(self.walls(chosen))[:, self.scored]

    def near_walls(self, chosen: np.ndarray) -> np.ndarray | None:
        """Which points (trajectory, channel, *space) lie next to one with a prescribed value."""
        if not self.between_walls:
            return None
        free = self.walls(chosen)
        near = np.zeros_like(free)
        for axis in range(-self.dims, 0):
            for step in (1, -1):
                other = np.roll(free, step, axis)
                edge = [slice(None)] * free.ndim
                edge[axis] = slice(0, 1) if step > 0 else slice(-1, None)
                other[tuple(edge)] = True  # nothing is prescribed beyond the rim
                near |= free & ~other
        return self._stored(near)[:, self.scored]

    def walls(self, chosen: np.ndarray) -> np.ndarray:
        """Where nothing is prescribed (trajectory, channel, *framed)."""
        given = {name: torch.from_numpy(v[chosen]) for name, v in self.parameters.items()}
        return np.asarray(self.equation.prescribed(given).free.numpy())

    def _stored(self, framed: np.ndarray) -> np.ndarray:
        """Cut off the rim."""
        sides = zip(self.equation.rim, framed.shape[-self.dims :], strict=True)
        inner: Any = (..., *(slice(before, n - after) for (before, after), n in sides))
        return np.asarray(framed[inner])

    @property
    def velocity(self) -> list[int]:
        """Those scored channels that are a velocity; empty unless all its components are scored."""
        if self.equation is None or not self.equation.velocity:
            return []
        names = [self.equation.fields[channel].name for channel in self.scored]
        parts = self.equation.velocity
        return [names.index(part) for part in parts] if {*parts} <= {*names} else []

    def energy(self, frames: np.ndarray) -> np.ndarray:
        joined = periodic(self.store.boundary)
        return spectrum.energy_spectrum(frames, self.dims, self.sides, joined)


def blocks(cases: Cases, trajectories: int) -> Iterator[np.ndarray]:
    """Step numbers, in blocks small enough to score at once."""
    values = trajectories * cases.members * len(cases.mean) * math.prod(cases.split.space)
    size = max(1, BLOCK // values)
    for first in range(1, cases.steps + 1, size):
        yield np.arange(first, min(first + size, cases.steps + 1))


def score_rollouts(
    cases: Cases, chosen: np.ndarray, initial: np.ndarray, forecasts: Iterable[Block]
) -> tuple[ScoreTable, Spectra, Block]:
    """Score the rollouts of some trajectories.

    Parameters
    ----------
    cases
        Where the truth is.
    chosen
        Numbers of the trajectories.
    initial
        Their last true frames before the rollout (trajectory, channel, *space).
    forecasts
        Block after block; rows are the members of each trajectory in a row.

    Returns
    -------
    scores, spectra
        One row per score; sums that are averaged over all trajectories.
    kept
        Truth and forecast of the trajectories to keep.
    """
    rows, pooled = ScoreTable(cases.store.path.stem), Pooled(cases)
    scores, kept = _Rollouts(cases, chosen, rows), []
    scores.begin(initial)
    for steps, forecast in forecasts:
        forecast = forecast.reshape(len(chosen), cases.members, *forecast.shape[1:])
        truth = cases.read(chosen, cases.start + int(steps[0]) * cases.stride, len(steps))
        scores.score(steps, forecast, truth, pooled)
        few = chosen < cases.keep
        kept.append((truth[few], forecast[few, 0]))
    scores.end(pooled)
    truths, forecasts_ = (np.concatenate(part, axis=1) for part in zip(*kept, strict=True))
    return rows, pooled.spectra, (truths, forecasts_)


class _Rollouts:
    """Scores of the trajectories that are rolled out together, block after block."""

    def __init__(self, cases: Cases, chosen: np.ndarray, table: ScoreTable):
        self.cases, self.chosen, self.table = cases, chosen, table
        shape = (len(chosen), cases.members)
        fields = len(cases.mean)
        histogram = (cases.mean, cases.std, cases.dims)
        self.forecasts = Histograms(math.prod(shape), *histogram)
        self.truths = Histograms(len(chosen), *histogram)
        self.energy = np.zeros((*shape, fields, len(cases.wavenumbers)))
        self.true_energy = np.zeros((len(chosen), 1, *self.energy.shape[2:]))
        self.alive = np.ones(shape, dtype=bool)  # to the end of the rollout
        self.correlation: dict[str, list[np.ndarray]] = defaultdict(list)  # of fields, of derived
        self.agreement: list[np.ndarray] = []  # between members
        self.near = cases.near_walls(chosen)
        self.kinetic, self.true_kinetic = np.zeros(shape), np.zeros((len(chosen), 1))
        self.motion, self.true_motion = np.zeros(shape), np.zeros((len(chosen), 1))
        self.derived = self._histograms_of_derived()

    def _histograms_of_derived(self) -> dict[str, tuple[Histograms, Histograms]]:
        """Of forecasts and truths, in units of the first trajectory's first frame."""
        cases, one = self.cases, np.arange(1)
        first = cases.read(one, cases.start, 1)[:, None].astype(np.float64)
        streams = len(self.chosen)
        made: dict[str, tuple[Histograms, Histograms]] = {}
        for name, values in self._of_equation("derived", first, one).items():
            unit = (values.mean()[None], values.std()[None], cases.dims)
            made[name] = Histograms(streams * cases.members, *unit), Histograms(streams, *unit)
        return made

    def begin(self, initial: np.ndarray) -> None:
        """Note what the equation conserves, and where the motion begins."""
        initial = initial[:, None, None].astype(np.float64)
        self.conserved = self._of_equation("invariants", initial)
        self.last = initial.repeat(self.cases.members, axis=1), initial

    def score(
        self, steps: np.ndarray, forecast: np.ndarray, truth: np.ndarray, pooled: "Pooled"
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
        cases, dims = self.cases, self.cases.dims
        forecast, alive = cases.tame(forecast.astype(np.float64))
        whole = forecast
        forecast = cases.without_walls(forecast, self.chosen, 0)
        true = cases.without_walls(truth[:, None].astype(np.float64), self.chosen, 0)
        self.alive &= alive.all(axis=2)
        rows = {
            "trajectory": self.chosen[:, None, None],
            "member": np.arange(cases.members)[:, None],
            "step": steps,
            "lead_time": self._lead_times(steps)[:, None],
        }
        for score, unit in (
            (pointwise.rmse, float(cases.std.mean())),
            (pointwise.nrmse, 1.0),
            (pointwise.vrmse, 1.0),
            (pointwise.relative_l1, 1.0),
        ):
            error = score(forecast, true, dims)
            self._add_error(score.__name__, error, UNBOUNDED * unit, alive, rows)
        if self.near is not None:
            error = pointwise.beside(forecast, true, self.near[:, None, None], dims)
            self._add_error("wall_error", error, UNBOUNDED, alive, rows)
        outflows = self._of_equation("outflows", whole)
        if outflows:
            net = pointwise.imbalance(list(outflows.values()), dims)
            self._add_error("divergence", net, UNBOUNDED, alive, rows)
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
        for name, values in self._of_equation("invariants", whole).items():
            drift = np.abs(values - self.conserved[name])
            self.table.add(f"drift_{name}", drift, censored=~alive, **rows)
        energy, true_energy = cases.energy(forecast), cases.energy(true)
        self._add_spectrum_errors("spectrum_error", energy, true_energy, alive, rows)
        pooled.add(steps, energy, true_energy, alive)
        if cases.members > 1:
            self._score_ensemble(steps, forecast, true[:, 0], alive)
        motion = [
            _motion(last, frames, dims)
            for last, frames in zip(self.last, (forecast, true), strict=True)
        ]
        self.last = forecast[:, :, -1:], true[:, :, -1:]
        late = steps > cases.steps // 2
        if late.any():
            for name, pair in fields.items():
                held = self.derived[name[1:]] if name else (self.forecasts, self.truths)
                for histograms, frames in zip(held, pair, strict=True):
                    frames = frames[:, :, late]
                    histograms.add(frames.reshape(-1, *frames.shape[2:]))
            self.energy += energy[:, :, late].sum(axis=2)
            self.true_energy += true_energy[:, :, late].sum(axis=2)
            self.motion += motion[0][:, :, late].sum(axis=2)
            self.true_motion += motion[1][:, :, late].sum(axis=2)
        if cases.velocity:
            self._score_kinetic_energy(forecast, true, alive, late, rows)

    def _score_kinetic_energy(
        self,
        forecast: np.ndarray,
        true: np.ndarray,
        alive: np.ndarray,
        late: np.ndarray,
        rows: dict[str, Any],
    ) -> None:
        channels, dims = self.cases.velocity, self.cases.dims
        kinetic, true_kinetic = (
            kinetic_energy(frames.take(channels, axis=3), dims) for frames in (forecast, true)
        )
        self.table.add("kinetic_energy", kinetic, censored=~alive, **rows)
        of_truth = {name: column for name, column in rows.items() if name != "member"}
        self.table.add("truth_kinetic_energy", true_kinetic, **of_truth)
        self.kinetic += kinetic[:, :, late].sum(axis=2)
        self.true_kinetic += true_kinetic[:, :, late].sum(axis=2)

    def end(self, pooled: "Pooled") -> None:
        """Score what needs the whole rollout."""
        cases = self.cases
        times = self._lead_times(np.arange(1, cases.steps + 1))
        rows = {"trajectory": self.chosen[:, None], "member": np.arange(cases.members)}
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
        for name, (ours, theirs) in self.derived.items():
            distance = ours.wasserstein(theirs).reshape(self.alive.shape)
            self.table.add(f"climate_w1_{name}", distance, censored=~self.alive, **rows)
        means = {"motion": (np.sqrt(self.motion), np.sqrt(self.true_motion))}
        if cases.velocity:
            means["energy"] = self.kinetic, self.true_kinetic
        for name, (mean, true_mean) in means.items():
            error = pointwise.ratio(np.abs(mean - true_mean), true_mean)
            self._add_error(f"climate_{name}_error", error, UNBOUNDED, self.alive, rows)
        self._add_spectrum_errors(
            "climate_spectrum_error", self.energy, self.true_energy, self.alive, rows
        )
        pooled.add_climate(self.energy, self.true_energy, self.alive)

    def _score_ensemble(
        self, steps: np.ndarray, forecast: np.ndarray, truth: np.ndarray, alive: np.ndarray
    ) -> None:
        dims = self.cases.dims
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
        for band, mask in self.cases.bands.items():
            error = spectrum.relative_error(energy, true_energy, mask).mean(axis=-1)
            self._add_error(f"{name}_{band}", error, UNBOUNDED**2, alive, rows)

    def _lead_times(self, steps: np.ndarray) -> np.ndarray:
        return self.cases.seconds[self.chosen, None] * steps

    def _of_equation(
        self, what: str, state: np.ndarray, chosen: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Return the `invariants` of states, or the fields `derived` from them."""
        lead = state.shape[: -self.cases.dims - 1]
        chosen = self.chosen if chosen is None else chosen
        parameters = {
            name: np.broadcast_to(values[chosen].reshape(-1, 1, 1), lead)
            for name, values in self.cases.parameters.items()
        }
        equation = self.cases.equation
        return getattr(equation, what)(state, parameters) if equation else {}


def _motion(last: np.ndarray, frames: np.ndarray, dims: int) -> np.ndarray:
    """Mean square change since the frame before, over fields and space."""
    change = np.diff(frames, axis=2, prepend=last)
    return np.asarray(np.square(change).mean(axis=tuple(range(-dims - 1, 0))))


class Pooled:
    """Spectra averaged over the trajectories and members that have not diverged."""

    def __init__(self, cases: Cases):
        self.cases = cases
        self.at = sorted({1, (cases.steps + 1) // 2, cases.steps})
        self.spectra: Spectra = {}

    def add(
        self, steps: np.ndarray, energy: np.ndarray, true_energy: np.ndarray, alive: np.ndarray
    ) -> None:
        for place, step in enumerate(steps.tolist()):
            if step in self.at:
                self._add("energy_spectrum", step, energy[:, :, place][alive[:, :, place]])
                self._add("truth_spectrum", step, true_energy[:, 0, place])

    def add_climate(self, energy: np.ndarray, true_energy: np.ndarray, alive: np.ndarray) -> None:
        frames = self.cases.steps - self.cases.steps // 2
        self._add("climate_spectrum", -1, energy[alive] / frames)
        self._add("climate_truth_spectrum", -1, true_energy[:, 0] / frames)

    def _add(self, metric: str, step: int, energy: np.ndarray) -> None:
        """Add spectra of shape (any, channel, bin)."""
        self.merge({(metric, step): (energy.sum(axis=(0, 1)), len(energy))})

    def merge(self, spectra: Spectra) -> None:
        """Add those of another group of trajectories."""
        for key, (total, count) in spectra.items():
            before, number = self.spectra.get(key, (0.0, 0))
            self.spectra[key] = before + total, number + count

    def report(self, table: ScoreTable) -> None:
        lead = float(self.cases.seconds.mean())
        for (metric, step), (total, count) in self.spectra.items():
            if count:  # else every rollout has diverged, and there is no spectrum to show
                time_ = lead * step if step > 0 else np.nan
                where = {"step": step, "lead_time": time_, "wavenumber": self.cases.wavenumbers}
                table.add(metric, total / count, **where)


# One step ----------------------------------------------------------------------------------------

OneStep = tuple[list[Any], np.ndarray, list[Any]]
"""Of every start, mean squares (stage, channel) and true spectra; between them, the error's."""


def score_one_step(
    cases: Cases,
    chosen: np.ndarray,
    forecasts: Iterable[tuple[int, np.ndarray]],
    scale: np.ndarray,
) -> tuple[ScoreTable, OneStep]:
    """Score single steps of some trajectories, after every stage of a step.

    Parameters
    ----------
    cases, chosen
        See `score_rollouts`.
    forecasts
        For each start, the number of the true frame before the step, and the forecasts of the next
        (stage, trajectory, channel, *space), NaN where diverged.
    scale
        What one unit of a scaled target is of each channel.
    """
    rows = ScoreTable(cases.store.path.stem)
    axes = tuple(range(-cases.dims, 0))
    unit = scale.reshape(-1, *(1,) * cases.dims)
    levels, true_spectra, errors, energies, lost = [], [], [], [], []  # of every start
    for start, stages in forecasts:
        forecast, alive = cases.tame(stages.astype(np.float64))
        truth = cases.read(chosen, start + cases.stride, 1)[:, 0].astype(np.float64)
        forecast = cases.without_walls(forecast, chosen, 1)
        truth = cases.without_walls(truth, chosen, 0)
        error = forecast - truth
        score = np.minimum(pointwise.nrmse(forecast, truth, cases.dims), UNBOUNDED)
        errors.append(np.where(alive, score, UNBOUNDED))
        energies.append(cases.energy(error).sum(axis=2))
        lost.append(~alive)
        levels.append(np.square(error / unit).mean(axis=(2, *axes)).sum(axis=1))
        true_spectra.append(cases.energy(truth).sum(axis=(0, 1)))
    nrmse: Any = sum(part / len(errors) for part in errors)
    energy: Any = sum(part / len(energies) for part in energies)
    diverged = np.any(lost, axis=0)
    cells: dict[str, Any] = {"trajectory": chosen, "stage": np.arange(len(energy))[:, None]}
    rows.add("one_step_nrmse", nrmse, censored=diverged, **cells)
    for band, mask in cases.bands.items():
        amplitude = spectrum.amplitude(energy, mask)
        rows.add(f"one_step_error_{band}", amplitude, censored=diverged, **cells)
    return rows, (levels, energy.sum(axis=1), true_spectra)


def report_one_step(
    cases: Cases,
    parts: Iterable[tuple[ScoreTable, OneStep]],
    noise_levels: tuple[float, ...],
    table: ScoreTable,
) -> None:
    """Add the scores of single steps, and what is averaged over all trajectories."""
    levels: Any = 0.0
    spectra: Any = 0.0
    true_spectrum: Any = 0.0
    starts = 1
    for rows, (squares, energy, true_spectra) in parts:
        table.extend(rows)
        starts = len(squares)
        levels = sum(squares, levels)
        spectra = spectra + energy
        true_spectrum = sum(true_spectra, true_spectrum)
    stage, count = np.arange(len(levels)), cases.trajectories
    where: dict[str, Any] = {"stage": stage[:, None], "wavenumber": cases.wavenumbers}
    table.add("one_step_error_spectrum", spectra / count, **where)
    table.add(
        "one_step_truth_spectrum",
        np.broadcast_to(true_spectrum / (count * starts), spectra.shape),
        **where,
    )
    table.add("level_error", np.sqrt(levels / (count * starts)), stage=stage)
    table.add("noise_level", noise_levels, stage=np.arange(len(noise_levels)))


# What is not scored ------------------------------------------------------------------------------


def say_what_is_left_out(cases: Cases) -> None:
    """Name what the data don't allow: spectra without a window, what only an equation knows."""
    name = cases.store.path.name
    if cases.windowed:
        axes, kinds = ", ".join(cases.windowed), ", ".join(cases.store.boundary)
        said = "spectra are taken through a Hann window along"
        _log.info("%s: boundary %s: %s %s", name, kinds, said, axes)
    if cases.equation is None:
        why = "its equation is not known" if cases.store.whole else "it is seen in part"
        said = "quantities that an equation conserves, and fields derived from others, are left out"
        _log.info("%s: %s: %s", name, why, said)


# Predictability --------------------------------------------------------------------------------


def compare_with_predictability(cases: Cases, table: ScoreTable) -> None:
    """Report for how long the data can be predicted at all, and warn of rollouts beyond."""
    limit = float(cases.store.predictability)
    if not np.isfinite(limit):
        return
    at_least = cases.store.attrs[schema.CENSORED] > 0
    table.add("predictability", limit, censored=at_least)
    longest = cases.steps * float(cases.seconds.max())
    if longest > limit:
        _log.warning(
            "%s: rollouts reach %.4g s, but the data is predictable for %s%.4g s: beyond, "
            "correlations and errors compare with one of many possible truths",
            cases.store.path.name,
            longest,
            "at least " if at_least else "",
            limit,
        )


# Fields for figures ----------------------------------------------------------------------------


def predictions(cases: Cases, kept: list[tuple[np.ndarray, np.ndarray]]) -> xr.Dataset:
    axes = schema.AXES[: cases.dims]
    dims = (schema.TRAJECTORY, schema.LEAD_TIME, schema.FIELD, *axes)
    empty = np.empty((0, cases.steps, len(cases.mean), *cases.split.space), np.float32)
    names = ("truth", "prediction")
    fields = {
        name: (dims, np.concatenate([part[place] for part in kept] or [empty]))
        for place, name in enumerate(names)
    }
    seconds = cases.seconds[: cases.keep]
    length = cases.parameters.get(schema.LENGTH, np.ones(cases.trajectories))[: cases.keep]
    # Each trajectory has its own clock and domain: the axes are means, the exact values beside.
    mean_seconds = float(seconds.mean()) if cases.keep else float(cases.seconds.mean())
    lead_times = mean_seconds * np.arange(1, cases.steps + 1)
    mean_length = float(length.mean()) if cases.keep else 1.0
    scored_fields = [cases.store.fields[i] for i in cases.scored]
    coordinates = field_coordinates(
        scored_fields, cases.keep, lead_times, cases.split.space, mean_length
    )
    coordinates["seconds_per_step"] = (schema.TRAJECTORY, seconds, {"units": "s"})
    coordinates[schema.LENGTH] = (schema.TRAJECTORY, length)
    if cases.between_walls:
        fields["free"] = (
            (schema.TRAJECTORY, schema.FIELD, *axes),
            cases.free(np.arange(cases.keep)),
        )
    return xr.Dataset(fields, coords=coordinates, attrs={WINDOWED: cases.windowed})
