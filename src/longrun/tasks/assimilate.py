"""The task `assimilate`: follow a trajectory with a model and with noisy, incomplete measurements.

    state --predict--> forecast --correct, where measured--> analysis = next state

A measurement is `y_k = C z_k + noise`: C takes every `spacing`-th point along each axis, the noise
is white and Gaussian, its standard deviation that of the field in the training data times
`10^(-snr / 20)`. It is drawn anew each time, never stored. The first `warm_up` frames of a test
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
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Literal

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
from longrun.nn.fno import as_channels
from longrun.runtime.cli import UserError
from longrun.tasks._evaluation import (
    Evaluation,
    check_size,
    field_coordinates,
    score_size,
    seconds_per_call,
)
from longrun.tasks._learner import Batch
from longrun.tasks._scaling import ScaledLearner

EARLY = 2  # Lyapunov times of `early_relative_mse`
THRESHOLD = 0.8
LOST = 1.0  # late relative error of the climate's mean


class AbstractAssimilator(ScaledLearner):
    """A model of one step, and a correction by measurements.

    Parameters
    ----------
    snr : float
        Signal-to-noise ratio of the measurements in training, dB: variance of the field over that
        of the noise.
    spacing : int
        Distance between sensors in training, grid points along every axis.
    unroll : int
        Steps of a training window that the loss is of, and through which the gradient goes.
    spin_up : int
        Steps before those, measured as they are, that the gradient stops at: with them the error of
        a state in training is one that assimilation leaves, not that of a first measurement.
    least_measured, most_measured : float
        The fraction of measured steps is drawn uniformly between these.
    share_of : {"batch", "sample"}
        Whether it is drawn anew for each batch, as in the paper, or for each of its samples.
    fixed_mean : bool
        The mean over space of every field is always that of the climate, as where the equation
        conserves it and all trajectories share it: neither step nor correction changes it.
    coordinates : bool
        Show networks where they are: the sine and cosine of each coordinate, because axes close.
    options
        Of `ScaledLearner`.
    """

    scales_increments = True
    preview = "assimilation"

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        snr: float = 20.0,
        spacing: int = 1,
        unroll: int = 8,
        spin_up: int = 0,
        least_measured: float = 0.0,
        most_measured: float = 1.0,
        share_of: Literal["batch", "sample"] = "batch",
        fixed_mean: bool = False,
        coordinates: bool = True,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if unroll < 1 or spacing < 1 or spin_up < 0:
            raise ValueError("unroll and spacing must be at least 1, spin_up not negative")
        if not 0 <= least_measured <= most_measured <= 1:
            raise ValueError("least_measured and most_measured must lie in order between 0 and 1")
        self.snr, self.spacing = snr, spacing
        self.spin_up, self.unroll = spin_up, spin_up + unroll  # all frames of a window after one
        self.least_measured, self.most_measured = least_measured, most_measured
        self.share_of = share_of
        self.fixed_mean, self.coordinates = fixed_mean, coordinates

    # What a method gives -------------------------------------------------------------------------

    @abstractmethod
    def predict(
        self, state: Float[Tensor, "batch *state"], parameters: Float[Tensor, "batch parameter"]
    ) -> Float[Tensor, "batch *state"]:
        """Return the forecast of the next state, physical units in and out."""

    @abstractmethod
    def correct(
        self,
        forecast: Float[Tensor, "batch *state"],
        measurement: Float[Tensor, "batch channel *space"],
        mask: Bool[Tensor, "batch channel *space"],
    ) -> Float[Tensor, "batch *state"]:
        """Return the analysis: the forecast, corrected by what was measured.

        Parameters
        ----------
        forecast
            As `predict` returns it.
        measurement
            Physical units; 0 where nothing was measured.
        mask
            What was measured. A sample in which nothing was keeps its forecast.
        """

    def begin(
        self,
        measurement: Float[Tensor, "batch channel *space"],
        mask: Bool[Tensor, "batch channel *space"],
        generator: torch.Generator,
    ) -> Float[Tensor, "batch *state"]:
        """Return the first state: the first measurement, and the climate's mean between sensors."""
        mean = self.per_channel(self.field_mean)
        state = torch.where(mask, measurement, mean)
        return mean + self.keep_mean(state - mean)

    def estimate(
        self, state: Float[Tensor, "batch *state"]
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the best guess of the truth that a state holds: by default, it is the guess."""
        return state

    def loss(
        self,
        forecast: Float[Tensor, "batch *state"],
        analysis: Float[Tensor, "batch *state"],
        truth: Float[Tensor, "batch channel *space"],
        measurement: Float[Tensor, "batch channel *space"],
        mask: Bool[Tensor, "batch channel *space"],
    ) -> Float[Tensor, ""]:
        """Return the training loss of one step: the relative squared error of the analysis."""
        return relative_square(self.estimate(analysis) - truth, truth).mean()

    # Variables -----------------------------------------------------------------------------------

    @property
    def inputs(self) -> int:
        """Channels of `network_input`."""
        return self.fields + self.conditions + 2 * self.dims * self.coordinates

    def network_input(
        self,
        state: Float[Tensor, "batch channel *space"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Float[Tensor, "batch input *space"]:
        """Return the normalised state, the parameters that vary, and the coordinates if wanted."""
        conditions = self.scaled_conditions(parameters)
        parts = [self.normalised(state), as_channels(conditions, state)]
        if self.coordinates:
            parts.append(_coordinates(state).expand(len(state), *[-1] * (state.ndim - 1)))
        return torch.cat(parts, dim=1)

    def keep_mean(self, change: Float[Tensor, "batch *state"]) -> Float[Tensor, "batch *state"]:
        """Return a change of a state without its mean over space, where that is fixed."""
        if not self.fixed_mean:
            return change
        return change - change.mean(dim=tuple(range(-self.dims, 0)), keepdim=True)

    # Measurements --------------------------------------------------------------------------------

    def noise_std(self, snr: float) -> Float[Tensor, "channel *ones"]:
        """Return the standard deviation of the noise of measurements, per field."""
        return self.per_channel(self.field_std) * 10 ** (-snr / 20)

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
        mask = _where_measured(frames, measured, self.spacing)
        measurement = frames + self.noise_std(self.snr) * noise
        return torch.where(mask, measurement, 0.0), mask

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
            Of every frame; see `correct`.
        parameters
            Of each trajectory, in the order of the store.
        generator
            Source of the method's own noise.

        Yields
        ------
        Tensor
            The estimate of each frame after its correction, NaN from the one on that diverges.
        """
        state = self.begin(measurement[:, 0], mask[:, 0], generator)
        alive = torch.ones(len(state), dtype=torch.bool, device=state.device)
        yield self.estimate(state)
        for k in range(1, measurement.shape[1]):
            ahead = self.correct(self.predict(state, parameters), measurement[:, k], mask[:, k])
            alive = alive & self._bounded(ahead)
            state = torch.where(alive.reshape(-1, *(1,) * (state.ndim - 1)), ahead, state)
            frame = self.estimate(state)
            yield torch.where(alive.reshape(-1, *(1,) * (frame.ndim - 1)), frame, torch.nan)

    def _bounded(self, state: Float[Tensor, "batch *state"]) -> Bool[Tensor, " batch"]:
        deviation = (state - self.per_channel(self.field_mean)).abs()
        return (deviation <= UNBOUNDED * self.per_channel(self.field_std)).flatten(1).all(1)

    # Training ------------------------------------------------------------------------------------

    def batch_loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the mean loss over the steps of windows of which a random share is measured."""
        window, parameters = batch["window"], batch["parameters"]
        shares = (len(window), 1) if self.share_of == "sample" else ()
        share = torch.rand(shares, generator=generator, device=window.device)
        share = self.least_measured + (self.most_measured - self.least_measured) * share
        drawn = torch.rand(window.shape[:2], generator=generator, device=window.device)
        measured = drawn < share
        measured[:, 0] = True
        measurement, mask = self.measure(window, measured, generator)
        state = self.begin(measurement[:, 0], mask[:, 0], generator)
        losses = []
        for k in range(1, window.shape[1]):
            learns = k > self.spin_up
            with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
                forecast = self.predict(state, parameters)
                state = self.correct(forecast, measurement[:, k], mask[:, k])
            if learns:
                truth = window[:, k]
                losses.append(self.loss(forecast, state, truth, measurement[:, k], mask[:, k]))
        return torch.stack(losses).mean()

    def validate(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the relative squared error at the end of windows, without and with measurements.

        The fraction of measured steps is then the largest of training.
        """
        window, parameters = batch["window"], batch["parameters"]
        errors = {}
        for name, share in (("free", 0.0), ("measured", self.most_measured)):
            drawn = torch.rand(window.shape[:2], generator=generator, device=window.device)
            measured = drawn < share
            measured[:, 0] = True
            measurement, mask = self.measure(window, measured, generator)
            *_, last = self.follow(measurement, mask, parameters, generator)
            errors[f"{name}_relative_mse"] = relative_square(last - window[:, -1], window[:, -1])
        return {name: error.mean() for name, error in errors.items()}

    # Evaluation ----------------------------------------------------------------------------------

    def evaluate(self, store: Any, options: dict[str, Any], seed: int) -> Evaluation:
        """Follow the trajectories of a store's test split and score, see this module's docstring.

        Parameters
        ----------
        store
            A `longrun.data.store.Store`.
        options
            `steps`, `warm_up`, `trajectories`, `measured` (fractions), `snr`; and `spacing` (1),
            `draws` (1), `start` (0), `stride` (1), `keep` (0), `batch_size` (64, states in one
            call), `lyapunov_time` (None, s), `split` ("test").
        seed
            Of a stochastic method's own noise.

        Raises
        ------
        UserError
            If the store has too few frames or trajectories, or two fractions are one percentage.
        """
        return evaluate_assimilation(self, store, options, seed)


def relative_square(
    error: Float[Tensor, "batch channel *space"], truth: Float[Tensor, "batch channel *space"]
) -> Float[Tensor, " batch"]:
    """Return `|error|^2 / |truth|^2` over space, mean over channels."""
    axes = tuple(range(2, error.ndim))
    return (error.square().mean(axes) / truth.square().mean(axes)).mean(1)


def _where_measured(
    frames: Float[Tensor, "batch frame channel *space"],
    measured: Bool[Tensor, "batch frame"],
    spacing: int,
) -> Bool[Tensor, "batch frame channel *space"]:
    """Return where sensors give a value: at every `spacing`-th point of the measured frames."""
    sensors = torch.zeros(frames.shape[3:], dtype=torch.bool, device=frames.device)
    sensors[tuple(slice(None, None, spacing) for _ in frames.shape[3:])] = True
    when = measured.reshape(*measured.shape, *(1,) * (frames.ndim - 2))
    return (when & sensors).expand(frames.shape)


def _coordinates(
    state: Float[Tensor, "batch channel *space"],
) -> Float[Tensor, "1 coordinate *space"]:
    """Return the sine and the cosine of each coordinate, one period over the domain."""
    axes = [
        2 * torch.pi / points * torch.arange(points, dtype=state.dtype, device=state.device)
        for points in state.shape[2:]
    ]
    grid = torch.meshgrid(*axes, indexing="ij")
    return torch.stack([wave(x) for x in grid for wave in (torch.sin, torch.cos)])[None]


# Evaluation --------------------------------------------------------------------------------------


def evaluate_assimilation(
    module: AbstractAssimilator, store: Any, options: Mapping[str, Any], seed: int
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

    def __init__(self, module: AbstractAssimilator, store: Any, options: Mapping[str, Any]):
        self.store = store
        self.split = store.split(options.get("split", "test"))
        self.steps, self.warm_up = options["steps"], options["warm_up"]
        self.trajectories, self.measured = options["trajectories"], list(options["measured"])
        self.snr, self.spacing = options["snr"], options.get("spacing", 1)
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
        self.frames = self.warm_up + self.steps
        last = self.start + (self.frames - 1) * self.stride
        check_size(store, self.split, self.trajectories, last + 1)
        self.dims = len(self.split.space)
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
    module: AbstractAssimilator,
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
    mask = _where_measured(samples, measured.flatten(0, 2).to(module.device), cases.spacing)
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


def _score_cost(
    module: AbstractAssimilator, cases: _Cases, table: ScoreTable, generator: torch.Generator
) -> None:
    """Score the wall time of a step with its correction, for one batch of trajectories."""
    chosen = next(cases.groups())
    frames = torch.from_numpy(cases.truth(chosen)[:, :2]).to(module.device)
    if module.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(module.device)
    measured = torch.ones(frames.shape[:2], dtype=torch.bool, device=module.device)
    mask = _where_measured(frames, measured, cases.spacing)
    columns = np.stack([values[chosen] for values in cases.parameters.values()], axis=1)
    parameters = torch.from_numpy(columns).to(frames)
    state = module.begin(frames[:, 0], mask[:, 0], generator)
    wall = seconds_per_call(
        lambda: module.correct(module.predict(state, parameters), frames[:, 1], mask[:, 1])
    )
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
    coordinates[schema.LENGTH] = (schema.TRAJECTORY, length[: cases.keep])
    return xr.Dataset(fields, coords=coordinates)
