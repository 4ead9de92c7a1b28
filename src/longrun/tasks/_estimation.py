"""What estimates states from measurements, and how that is scored.

A measurement is `y_k = C z_k + noise`: C takes every `spacing`-th point along each axis, or a share
of the points at random, the same for all that is simulated. The noise is white and Gaussian, its
standard deviation that of the field in the training data times `10^(-snr / 20)`; without `snr`
there is none. It is drawn anew each time, never stored. The first `warm_up` frames of a test
are all measured; of the steps after them each is measured with the same probability, which is 0
for a free forecast. The protocol of a test, for every method of an experiment alike:

- Frames `start`, `start + stride`, ... of the first `trajectories` test trajectories are used. The
  method is shown the measurement of the first, then it predicts and corrects. Step 1 is the first
  after the warm-up, at lead time `dt * stride` since the last frame of the warm-up. What is scored
  is the state after the correction.
- Each trajectory is followed `draws` times, with other noise and other measured steps; the column
  `member` of the scores is the number of the draw, `measured` the percentage of measured steps.
  Noise and measured steps depend on the trajectory and the draw alone: they are the same for every
  method, seed and machine, and a step measured at one percentage is measured at all larger ones.
- A state has diverged as in `longrun.tasks._rollout`: not finite, or more than 100 standard
  deviations from the climate's mean. From then on it counts as a constant field at that bound,
  whatever is measured. Errors have a ceiling, 1e4 for `relative_mse` and 100 for `nrmse`, and are
  censored there; no score is ever NaN.
- Where sensors are scattered the error is also scored apart at them and between them, and that of
  frames whose like no training saw (`known_every`) apart from the others, over a training window.
"""

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from longrun.data import schema
from longrun.metrics import pointwise
from longrun.metrics.crossing import crossing_time
from longrun.metrics.pointwise import UNBOUNDED
from longrun.metrics.table import ScoreTable
from longrun.runtime.cli import UserError
from longrun.tasks._evaluation import (
    Evaluation,
    check_size,
    field_coordinates,
    score_size,
    seconds_per_call,
)
from longrun.tasks._scaling import ScaledLearner

EARLY = 2  # Lyapunov times of `early_relative_mse`
THRESHOLD = 0.8
LOST = 1.0  # late relative error of the climate's mean


class AbstractEstimator(ScaledLearner):
    """What follows measurements, in whatever way.

    Parameters
    ----------
    snr : float or None
        Signal-to-noise ratio of the measurements in training, dB: variance of the field over that
        of the noise. None: there is no noise.
    spacing : int
        Distance between sensors in training, grid points along every axis.
    sensor_share : float or None
        Instead of that, the share of the points that have a sensor, see `sensor_places`.
    options
        Of `ScaledLearner`.

    Attributes
    ----------
    first_frame_only
        Whether the method has no use for measurements after the first.
    """

    first_frame_only: bool = False

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        snr: float | None = 20.0,
        spacing: int = 1,
        sensor_share: float | None = None,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if spacing < 1:
            raise ValueError(f"spacing must be at least 1, is {spacing}")
        if sensor_share is not None and not 0 < sensor_share <= 1:
            raise ValueError(f"sensor_share must lie between 0 and 1, is {sensor_share}")
        if sensor_share is not None and spacing != 1:
            raise ValueError("spacing has no effect beside sensor_share")
        self.snr, self.spacing, self.sensor_share = snr, spacing, sensor_share

    @abstractmethod
    def follow(
        self,
        measurement: Float[Tensor, "batch frame channel *space"],
        mask: Bool[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator,
    ) -> Iterator[Float[Tensor, "batch channel *space"]]:
        """Follow measurements frame by frame.

        Parameters
        ----------
        measurement, mask
            Of every frame, physical units: 0 where nothing was measured, and what was.
        parameters
            Of each trajectory, in the order of the store.
        generator
            Source of the method's own noise.

        Yields
        ------
        Tensor
            The estimate of each frame after its correction, NaN from the one on that diverges.
        """

    def seconds_per_step(
        self,
        measurement: Float[Tensor, "batch frame channel *space"],
        mask: Bool[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator,
    ) -> float:
        """Return the wall time of a step of a batch, the mean over those that are given."""
        whole = seconds_per_call(
            lambda: deque(self.follow(measurement, mask, parameters, generator), maxlen=0)
        )
        return whole / (measurement.shape[1] - 1)

    # Measurements --------------------------------------------------------------------------------

    def noise_std(self, snr: float | None) -> Float[Tensor, "channel *ones"]:
        """Return the standard deviation of the noise of measurements, per field."""
        scale = 0.0 if snr is None else 10 ** (-snr / 20)
        return self.per_channel(self.field_std) * scale

    def measure(
        self,
        frames: Float[Tensor, "batch frame channel *space"],
        measured: Bool[Tensor, "batch frame"],
        generator: torch.Generator,
    ) -> tuple[
        Float[Tensor, "batch frame channel *space"], Bool[Tensor, "batch frame channel *space"]
    ]:
        """Measure frames as in training; return the measurements and what was measured."""
        noise = torch.empty_like(frames).normal_(generator=generator)
        places = sensor_places(frames.shape[3:], self.spacing, self.sensor_share)
        mask = _where_measured(frames, measured, places)
        measurement = frames + self.noise_std(self.snr) * noise
        return torch.where(mask, measurement, 0.0), mask

    def bounded(self, state: Float[Tensor, "batch *state"]) -> Bool[Tensor, " batch"]:
        """Return which states are finite and not far outside what the truth reaches."""
        deviation = (state - self.per_channel(self.field_mean)).abs()
        return (deviation <= UNBOUNDED * self.per_channel(self.field_std)).flatten(1).all(1)

    # Evaluation ----------------------------------------------------------------------------------

    def evaluate(self, store: Any, options: dict[str, Any], seed: int) -> Evaluation:
        """Follow the trajectories of a store's test split and score, see this module's docstring.

        Parameters
        ----------
        store
            A `longrun.data.store.Store`.
        options
            `steps`, `warm_up`, `trajectories`, `measured` (fractions), `snr`; and `spacing`
            (None: 1), `sensor_share` (None), `known_every` (1), `window` (`steps`), `draws` (1),
            `start` (0), `stride` (1),
            `keep` (0), `batch_size` (64, states in one call), `lyapunov_time` (None, s), `split`
            ("test").
        seed
            Of a stochastic method's own noise.

        Raises
        ------
        UserError
            If the store has too few frames or trajectories, two fractions are one percentage, or
            the method has no use for measurements that it would be shown.
        """
        return evaluate_assimilation(self, store, options, seed)


def relative_square(
    error: Float[Tensor, "batch channel *space"], truth: Float[Tensor, "batch channel *space"]
) -> Float[Tensor, " batch"]:
    """Return `|error|^2 / |truth|^2` over space, mean over channels."""
    axes = tuple(range(2, error.ndim))
    return (error.square().mean(axes) / truth.square().mean(axes)).mean(1)


def sensor_places(
    space: Sequence[int], spacing: int = 1, share: float | None = None
) -> Bool[np.ndarray, "*space"]:
    """Return where the sensors are.

    Parameters
    ----------
    space
        Points along each axis.
    spacing
        Distance between sensors along every axis.
    share
        Instead of that, the share of the points that have one: the same points for every method,
        seed and machine, and a point that has one has it at all larger shares.
    """
    places = np.zeros(tuple(space), dtype=bool)
    if share is None:
        places[tuple(slice(None, None, spacing) for _ in space)] = True
        return places
    count = max(1, round(share * places.size))
    places.flat[np.random.default_rng(0).permutation(places.size)[:count]] = True
    return places


def _where_measured(
    frames: Float[Tensor, "batch frame channel *space"],
    measured: Bool[Tensor, "batch frame"],
    places: Bool[np.ndarray, "*space"],
) -> Bool[Tensor, "batch frame channel *space"]:
    """Return where sensors give a value in the measured frames."""
    when = measured.reshape(*measured.shape, *(1,) * (frames.ndim - 2))
    return (when & torch.from_numpy(places).to(frames.device)).expand(frames.shape)


# Evaluation --------------------------------------------------------------------------------------


def evaluate_assimilation(
    module: AbstractEstimator, store: Any, options: Mapping[str, Any], seed: int
) -> Evaluation:
    """Score a method, by the protocol of this module; see `AbstractAssimilator.evaluate`."""
    cases = _Cases(module, store, options)
    generator = torch.Generator(device=module.device).manual_seed(seed)
    table = ScoreTable(store.path.stem)
    kept = []
    with torch.no_grad():
        for chosen in cases.groups():
            truth, estimate = _follow(module, cases, chosen, generator)
            _score(cases, table, chosen, truth, estimate)
            few = chosen < cases.keep
            kept.append((truth[few], estimate[few, 0]))
        _score_cost(module, cases, table, generator)
    return Evaluation(table.frame(), _predictions(cases, kept))


class _Cases:
    """What is evaluated, on what."""

    def __init__(self, module: AbstractEstimator, store: Any, options: Mapping[str, Any]):
        self.store = store
        self.split = store.split(options.get("split", "test"))
        self.steps, self.warm_up = options["steps"], options["warm_up"]
        self.trajectories, self.measured = options["trajectories"], list(options["measured"])
        self.snr, self.known_every = options["snr"], options.get("known_every", 1)
        self.window = options.get("window") or self.steps
        if self.window > self.steps:
            raise UserError(f"evaluate.window must be at most evaluate.steps ({self.steps})")
        self.draws, self.keep = options.get("draws", 1), options.get("keep", 0)
        self.start, self.stride = options.get("start", 0), options.get("stride", 1)
        self.batch_size = options.get("batch_size", 64)
        self.lyapunov_time = options.get("lyapunov_time")
        self.keep = min(self.keep, self.trajectories)
        self.percentages = [round(100 * fraction) for fraction in self.measured]
        if len(set(self.percentages)) < len(self.percentages):
            raise UserError(
                f"evaluate.measured: two fractions are one percentage: {self.percentages}"
            )
        if module.first_frame_only and (self.warm_up, self.measured) != (1, [0.0]):
            raise UserError(
                f"{type(module).__name__} starts from one frame and sees no other: it needs "
                "evaluate.warm_up 1 and evaluate.measured [0.0]"
            )
        for name, mine in (("known_every", self.known_every), ("unroll", self.window)):
            trained = getattr(module, name, mine) if module.first_frame_only else mine
            if trained != mine:
                key = "window" if name == "unroll" else name
                raise UserError(f"evaluate.{key} must be {trained}, the {name} of the training")
        self.frames = self.warm_up + self.steps
        last = self.start + (self.frames - 1) * self.stride
        check_size(store, self.split, self.trajectories, last + 1)
        self.dims = len(self.split.space)
        self.share = options.get("sensor_share")
        spacing = options.get("spacing")
        if self.share is not None and spacing is not None:
            raise UserError("evaluate.spacing has no effect beside sensor_share")
        self.places = sensor_places(self.split.space, spacing or 1, self.share)
        self.parameters = {n: v[: self.trajectories] for n, v in self.split.parameters.items()}
        dt = self.parameters.get(schema.DT, np.ones(self.trajectories))
        self.seconds = dt * self.stride  # of one model step, per trajectory
        shape = (-1,) + (1,) * self.dims
        mean, std = (v.double().cpu().numpy() for v in (module.field_mean, module.field_std))
        self.bound = (mean + UNBOUNDED * std).reshape(shape)

    def groups(self) -> Iterator[np.ndarray]:
        """Trajectories whose draws and percentages fit into one call of the network."""
        size = max(1, self.batch_size // (self.draws * len(self.percentages)))
        for first in range(0, self.trajectories, size):
            yield np.arange(first, min(first + size, self.trajectories))

    def truth(self, chosen: np.ndarray) -> np.ndarray:
        """Read the frames that are followed: (trajectory, frame, channel, *space)."""
        stop = self.start + (self.frames - 1) * self.stride + 1
        return self.split.read(chosen, slice(self.start, stop, self.stride))

    def chance(self, trajectory: int, draw: int, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
        """Draw what decides when a draw is measured (frame,), and its noise (frame, *shape)."""
        generator = np.random.default_rng(np.random.SeedSequence((trajectory, draw)))
        when = generator.uniform(size=self.frames)
        when[: self.warm_up] = -1.0  # always
        return when, generator.standard_normal((self.frames, *shape), dtype=np.float32)


def _follow(
    module: AbstractEstimator,
    cases: _Cases,
    chosen: np.ndarray,
    generator: torch.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the truth (trajectory, step, ...) and the estimates.

    The latter are (trajectory, draw, percentage, step, channel, *space), NaN where diverged.
    """
    truth = cases.truth(chosen)
    shape = truth.shape[2:]
    drawn = [
        [cases.chance(number, draw, shape) for draw in range(cases.draws)]
        for number in chosen.tolist()
    ]
    when = np.array([[pair[0] for pair in row] for row in drawn])
    noise = torch.from_numpy(np.array([[pair[1] for pair in row] for row in drawn]))
    measured = torch.from_numpy(when[:, :, None] < np.array(cases.measured)[:, None])
    frames = torch.from_numpy(truth)[:, None].to(module.device)
    lead = (len(chosen), cases.draws, len(cases.percentages))
    samples = frames + module.noise_std(cases.snr) * noise.to(module.device)
    samples = samples[:, :, None].expand(*lead, *samples.shape[2:]).flatten(0, 2)
    mask = _where_measured(samples, measured.flatten(0, 2).to(module.device), cases.places)
    samples = torch.where(mask, samples, 0.0)
    columns = np.stack([values[chosen] for values in cases.parameters.values()], axis=1)
    parameters = torch.from_numpy(columns).to(samples).repeat_interleave(lead[1] * lead[2], 0)
    estimates = [
        frame.cpu()
        for k, frame in enumerate(module.follow(samples, mask, parameters, generator))
        if k >= cases.warm_up
    ]
    return truth[:, cases.warm_up :], torch.stack(estimates, 1).unflatten(0, lead).numpy()


def _score(
    cases: _Cases, table: ScoreTable, chosen: np.ndarray, truth: np.ndarray, found: np.ndarray
) -> None:
    space = tuple(range(-cases.dims, 0))
    true = truth[:, None, None].astype(np.float64)
    alive = np.isfinite(found).all(axis=(-cases.dims - 1, *space))
    dead = ~alive.reshape(*alive.shape, 1, *(1,) * cases.dims)
    estimate = np.where(dead, cases.bound, found.astype(np.float64))
    square = pointwise.ratio(
        np.square(estimate - true).mean(space), np.square(true).mean(space)
    ).mean(-1)
    square = np.where(alive, np.minimum(square, UNBOUNDED**2), UNBOUNDED**2)
    nrmse = np.minimum(pointwise.nrmse(estimate, true, cases.dims), UNBOUNDED)
    nrmse = np.where(alive, nrmse, UNBOUNDED)
    correlation = pointwise.correlation(estimate, true, cases.dims)

    steps = np.arange(1, cases.steps + 1)
    times = cases.seconds[chosen, None] * steps
    rows: dict[str, Any] = {
        "trajectory": chosen[:, None, None],
        "member": np.arange(cases.draws)[:, None],
        "measured": np.array(cases.percentages),
    }
    each = {name: values[..., None] for name, values in rows.items()}
    each |= {"step": steps, "lead_time": times[:, None, None]}
    table.add("relative_mse", square, censored=square >= UNBOUNDED**2, **each)
    table.add("nrmse", nrmse, censored=nrmse >= UNBOUNDED, **each)
    table.add("correlation", correlation, **each)
    table.add("bounded", alive, **each)
    _score_apart(cases, table, estimate - true, true, alive, each)
    parts = {"late_relative_mse": np.broadcast_to(steps > cases.steps // 2, times.shape)}
    if cases.lyapunov_time is not None:
        parts["early_relative_mse"] = (times <= EARLY * cases.lyapunov_time) | (steps == 1)
    for name, part in parts.items():
        inside = np.where(part[:, None, None], square, 0.0)
        mean = inside.sum(-1) / part.sum(-1)[:, None, None]
        table.add(name, mean, censored=inside.max(-1) >= UNBOUNDED**2, **rows)
        if name == "late_relative_mse":
            table.add("lost", mean > LOST, **rows)
    if 0 in cases.percentages:  # the horizon of the free forecast; with measurements there is none
        free = cases.percentages.index(0)
        time, censored = crossing_time(correlation[:, :, free], times[:, None], THRESHOLD)
        only = {"trajectory": chosen[:, None], "member": np.arange(cases.draws), "measured": 0}
        table.add(f"correlation_time_{THRESHOLD}", time, censored=censored, **only)


def _score_apart(
    cases: _Cases,
    table: ScoreTable,
    error: np.ndarray,
    true: np.ndarray,
    alive: np.ndarray,
    each: Mapping[str, Any],
) -> None:
    """Score where and when no training saw a measurement apart from the rest."""
    if cases.share is None and cases.known_every == 1:
        return
    known = (cases.warm_up - 1 + each["step"]) % cases.known_every == 0
    within = each["step"] <= cases.window
    for place, inside in (("at_sensors", cases.places), ("between_sensors", ~cases.places)):
        if not inside.any():
            continue
        parts = (np.square(values[..., inside]).mean(-1) for values in (error, true))
        square = np.where(alive, pointwise.ratio(*parts).mean(-1), UNBOUNDED**2)
        square = np.minimum(square, UNBOUNDED**2)
        for when, chosen in (("", known & within), ("_between_frames", ~known & within)):
            if chosen.any():
                rows = {name: each[name][..., chosen] for name in ("step", "lead_time")}
                values = square[..., chosen]
                table.add(
                    f"relative_mse_{place}{when}",
                    values,
                    censored=values >= UNBOUNDED**2,
                    **{**each, **rows},
                )


def _score_cost(
    module: AbstractEstimator, cases: _Cases, table: ScoreTable, generator: torch.Generator
) -> None:
    """Score the wall time of a step with its correction, for one batch of trajectories."""
    chosen = next(cases.groups())
    truth = cases.truth(chosen)[:, cases.warm_up - 1 :]
    frames = torch.from_numpy(truth).to(module.device)
    if module.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(module.device)
    measured = torch.ones(frames.shape[:2], dtype=torch.bool, device=module.device)
    mask = _where_measured(frames, measured, cases.places)
    columns = np.stack([values[chosen] for values in cases.parameters.values()], axis=1)
    parameters = torch.from_numpy(columns).to(frames)
    measurement = torch.where(mask, frames, 0.0)
    wall = module.seconds_per_step(measurement, mask, parameters, generator)
    table.add("wall_time_per_second", wall / float(cases.seconds[chosen].sum()))
    score_size(module, table)


def _predictions(cases: _Cases, kept: list[tuple[np.ndarray, np.ndarray]]) -> xr.Dataset:
    """Return truth and estimates of the first draw.

    `prediction` is at the first fraction of `measured`; `prediction_30` is at 30 %, and so on.
    """
    axes = schema.AXES[: cases.dims]
    dims = (schema.TRAJECTORY, schema.LEAD_TIME, schema.FIELD, *axes)
    truth, estimate = (np.concatenate(parts) for parts in zip(*kept, strict=True))
    fields = {"truth": (dims, truth)}
    for place, percentage in enumerate(cases.percentages):
        name = f"prediction_{percentage}" if place else "prediction"
        fields[name] = (dims, estimate[:, place].astype(np.float32))
    seconds = cases.seconds[: max(cases.keep, 1)]
    length = cases.parameters.get(schema.LENGTH, np.ones(cases.trajectories))
    lead_times = float(seconds.mean()) * np.arange(1, cases.steps + 1)
    coordinates = field_coordinates(
        cases.store.fields, cases.keep, lead_times, cases.split.space, float(length.mean())
    )
    coordinates["seconds_per_step"] = (
        schema.TRAJECTORY,
        cases.seconds[: cases.keep],
        {"units": "s"},
    )
    if not cases.places.all():
        coordinates["sensor"] = (axes, cases.places)
    coordinates[schema.LENGTH] = (schema.TRAJECTORY, length[: cases.keep])
    return xr.Dataset(fields, coords=coordinates)
