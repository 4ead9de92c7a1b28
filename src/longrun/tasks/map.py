"""The task `map`: of a steady state, find the sought fields from the given ones.

A state holds what is given first and what is sought last: the medium and the pressure of Darcy
flow, say. The base class owns variables, loss and evaluation; a method gives `operator`.

    given (physical) --normalise--> operator --scale back--> sought (physical)

Evaluation, for every method of an experiment alike: the first `trajectories` states of the split,
each scored for itself, in physical units on the grid of the store; a score is the mean over the
sought fields. The same number of training states is scored too: the generalisation ratio of a state
is its relative L2 error over the mean of theirs. Errors have a ceiling of 100, where a prediction
that is not finite lies too; a value there is marked as censored. The method is not told anything
but the given fields, and the parameters where these vary.
"""

import functools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from longrun.data import schema
from longrun.metrics import pointwise, steady
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
from longrun.tasks._learner import Batch, sharing
from longrun.tasks._scaling import ScaledLearner

BLOCK = 256  # states that are read at once
SMALLEST = 1e-5  # standard deviation of a point, relative to that of its field


class AbstractMap(ScaledLearner):
    """A model of the map from given to sought fields of a steady state.

    Parameters
    ----------
    points : list of int
        Points along each axis; from the data.
    sought : int
        How many of the fields are sought: the last ones.
    criterion : {"relative_l2", "relative_h1", "mse"}
        Norm of the error over the norm of the truth, in physical units, mean over fields and sum
        over the samples of a batch, as both papers have it: in L2 or in H1, see `relative_error`.
        Or the mean squared error of the normalised fields.
    truncation : int or None
        Wavenumber index, along each axis by itself, from which on a derivative no longer counts in
        the H1 criterion; None is no such limit.
    normalise : {"field", "point"}
        Mean and standard deviation by which fields are normalised: one for each field, or one for
        every point of it.
    options
        Of `ScaledLearner`.

    Attributes
    ----------
    coordinates
        Whether the operator also sees where each point lies, between 0 and 1 along each axis.
    """

    coordinates = False
    preview = "map_fields"

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        sought: int = 1,
        criterion: Literal["relative_l2", "relative_h1", "mse"] = "relative_l2",
        truncation: int | None = 20,
        normalise: Literal["field", "point"] = "field",
        **options: Any,
    ):
        shape = (fields, *(points if normalise == "point" else [1] * dims))
        super().__init__(fields, dims, conditions, shape, **options)
        if criterion not in ("relative_l2", "relative_h1", "mse"):
            raise ValueError(f"criterion: {criterion}; allowed: relative_l2, relative_h1, mse")
        if normalise not in ("field", "point"):
            raise ValueError(f"normalise: {normalise}; allowed: field, point")
        if truncation is not None and truncation < 1:
            raise ValueError(f"truncation must be at least 1, is {truncation}")
        if not 0 < sought < fields:
            raise ValueError(f"sought must be 1 to {fields - 1} of {fields} fields, is {sought}")
        self.sought, self.given = sought, fields - sought
        self.criterion, self.truncation, self.normalise = criterion, truncation, normalise

    # What a method gives -----------------------------------------------------------------------

    @abstractmethod
    def operator(
        self, x: Float[Tensor, "batch inputs *space"]
    ) -> Float[Tensor, "batch sought *space"]:
        """Return the normalised sought fields.

        Parameters
        ----------
        x : Tensor
            Normalised given fields, varying parameters as constants between 0 and 1, and the
            coordinates for methods that take them: `inputs` channels.
        """

    @property
    def inputs(self) -> int:
        """Channels that the operator gets."""
        return self.given + self.conditions + self.dims * self.coordinates

    # Variables ---------------------------------------------------------------------------------

    def prepare(self, data: Any, sources: Sequence[Any]) -> None:
        """Take mean and standard deviation of every point, where they are asked for."""
        if self.normalise == "point":
            self._fit_points(data)
        super().prepare(data, sources)

    def _fit_points(self, data: Any) -> None:
        count, total, squares = 0, 0.0, 0.0
        for store in data.stores:
            split = store.split("train")
            for first in range(0, split.trajectories, BLOCK):
                block = split.read(slice(first, first + BLOCK), slice(1))[:, 0].astype(np.float64)
                count += len(block)
                total, squares = total + block.sum(0), squares + np.square(block).sum(0)
        mean = total / count
        variance = torch.from_numpy(np.maximum(squares / count - mean**2, 0.0))
        self.field_mean.copy_(torch.from_numpy(mean))
        # The buffer still holds the standard deviations of whole fields.
        self.field_std.copy_(torch.maximum(variance.sqrt(), SMALLEST * self.field_std))

    def seen(
        self,
        given: Float[Tensor, "batch given *space"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Float[Tensor, "batch inputs *space"]:
        """Return what the operator gets of given fields and parameters in physical units."""
        scaled = self.scaled_conditions(parameters)
        parts = [self.normalised(given, slice(self.given)), as_channels(scaled, given)]
        if self.coordinates:
            axes = [(torch.arange(n, device=given.device) + 0.5) / n for n in given.shape[2:]]
            grid = torch.stack(torch.meshgrid(*axes, indexing="ij")).to(given.dtype)
            parts.append(grid.expand(len(given), *grid.shape))
        return torch.cat(parts, dim=1)

    def predict(
        self,
        given: Float[Tensor, "batch given *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch sought *space"]:
        """Return the sought fields, physical units in and out.

        Parameters
        ----------
        given : Tensor
            The given fields.
        parameters : Tensor
            All parameters of a state, in the order of the store.
        generator : torch.Generator, optional
            Of no use to methods that are deterministic.
        """
        return self.physical(self.operator(self.seen(given, parameters)), slice(self.given, None))

    # Training ----------------------------------------------------------------------------------

    def split(
        self, window: Float[Tensor, "batch frame channel *space"]
    ) -> tuple[Float[Tensor, "batch given *space"], Float[Tensor, "batch sought *space"]]:
        """Return the given and the sought fields of windows of one frame."""
        return window[:, 0, : self.given], window[:, 0, self.given :]

    def batch_loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the criterion between prediction and truth."""
        given, truth = self.split(batch["window"])
        prediction = self.predict(given, batch["parameters"], generator)
        with torch.no_grad():
            self.log_training("relative_l2", relative_error(prediction, truth).mean())
        if self.criterion == "mse":
            return ((prediction - truth) / self.field_std[self.given :]).square().mean()
        weight = None
        if self.criterion == "relative_h1":
            weight = h1_weight(truth.shape[2:], self.truncation).to(truth)
        return sharing() * relative_error(prediction, truth, weight).mean(1).sum()

    def validate(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean relative L2 error."""
        given, truth = self.split(batch["window"])
        prediction = self.predict(given, batch["parameters"], generator)
        return {"relative_l2": relative_error(prediction, truth).mean()}

    def evaluate(self, store: Any, options: dict[str, Any], seed: int) -> Evaluation:
        """Score the map on the store's test split; see the module's docstring."""
        return evaluate_map(self, store, options)


def relative_error(
    prediction: Float[Tensor, "batch channel *space"],
    truth: Float[Tensor, "batch channel *space"],
    weight: Float[Tensor, "*space"] | None = None,
) -> Float[Tensor, "batch channel"]:
    """Norm of the error over the norm of the truth, in L2 or in that of weighted Fourier modes."""
    axes = tuple(range(2, truth.ndim))

    def norm(field: Tensor) -> Tensor:
        if weight is not None:
            field = weight.sqrt() * torch.fft.fftn(field, dim=axes).abs()
        return torch.linalg.vector_norm(field, dim=axes)

    size = norm(truth).clamp_min(torch.finfo(truth.dtype).tiny)
    return norm(prediction - truth) / size


def h1_weight(shape: tuple[int, ...], truncation: int | None) -> Float[Tensor, "*space"]:
    """Return 1 + |k|^2 of the modes of a full Fourier transform, k the wavenumber indices.

    A component of k from `truncation` on counts as zero: the loss then asks for no more of rough
    modes than L2 does (the public code of MgNO has it so).
    """
    weight = torch.ones(shape)
    for axis, points in enumerate(shape):
        k = torch.fft.fftfreq(points, 1 / points)
        if truncation is not None:
            k = torch.where(k.abs() < truncation, k, 0.0)
        weight = weight + k.square().reshape(-1, *(1,) * (len(shape) - axis - 1))
    return weight


# Evaluation ------------------------------------------------------------------------------------


def evaluate_map(module: AbstractMap, store: Any, options: Mapping[str, Any]) -> Evaluation:
    """Score a map on a store, by the protocol of this module.

    Parameters
    ----------
    module
        On the device that it shall run on, in evaluation mode.
    store
        A `longrun.data.store.Store` of steady states.
    options
        `trajectories`; and `keep` (1), `batch_size` (64), `truncation` (None), `split` ("test").

    Returns
    -------
    Evaluation

    Raises
    ------
    UserError
        A store with time, or with too few states.
    """
    split, learnt = store.split(options.get("split", "test")), store.split("train")
    count = options["trajectories"]
    if split.frames != 1:
        raise UserError(f"{store.path}: has {split.frames} frames, the task map knows no time")
    check_size(store, split, count)
    size, truncation = options.get("batch_size", 64), options.get("truncation")
    states, prediction = _predicted(module, split, count, size)
    seen, recalled = _predicted(module, learnt, min(count, learnt.trajectories), size)
    table = ScoreTable(store.path.stem)
    rows = {"trajectory": np.arange(count)}
    truth, dims = states[:, module.given :], module.dims
    for name, score in (
        ("relative_l2", pointwise.nrmse),
        ("relative_h1", functools.partial(steady.relative_h1, truncation=truncation)),
        ("max_error", steady.max_error),
        ("wall_error", steady.wall_error),
    ):
        with np.errstate(invalid="ignore"):  # of what is not finite
            error = capped(score(prediction, truth, dims))
        table.add(name, error, censored=error >= UNBOUNDED, **rows)
    test = capped(pointwise.nrmse(prediction, truth, dims))
    train = capped(pointwise.nrmse(recalled, seen[:, module.given :], dims))
    where = np.arange(len(train))
    table.add("train_relative_l2", train, censored=train >= UNBOUNDED, trajectory=where)
    times = capped(pointwise.ratio(test, np.full_like(test, train.mean())))
    bounded = (test < UNBOUNDED) & (train < UNBOUNDED).all() & (times < UNBOUNDED)
    table.add("generalisation_ratio", times, censored=~bounded, **rows)
    _score_cost(module, split, min(size, count), table)
    keep = min(options.get("keep", 1), count)
    return Evaluation(table.frame(), _predictions(module, store, split, states, prediction, keep))


def _predicted(
    module: AbstractMap, split: Any, count: int, size: int
) -> tuple[Float[ndarray, "state channel *space"], Float[ndarray, "state sought *space"]]:
    """Return the first states of a split, and what the method makes of the given fields."""
    states, predictions = [], []
    for first in range(0, count, size):
        window, parameters = _inputs(module, split, slice(first, min(first + size, count)))
        with torch.no_grad():
            guess = module.predict(module.split(window)[0], parameters)
        states.append(window[:, 0].cpu().numpy().astype(np.float64))
        predictions.append(guess.cpu().numpy().astype(np.float64))
    return np.concatenate(states), np.concatenate(predictions)


def _inputs(module: AbstractMap, split: Any, chosen: slice) -> tuple[Tensor, Tensor]:
    """Windows of one frame and parameters, on the device of the method."""
    window = torch.from_numpy(split.read(chosen, slice(1))).to(module.device)
    columns = [values[chosen] for values in split.parameters.values()]
    return window, torch.from_numpy(np.stack(columns, axis=1)).to(window)


def capped(error: Float[ndarray, " state"]) -> Float[ndarray, " state"]:
    """Errors up to the ceiling; there lies what is not finite."""
    return np.minimum(np.nan_to_num(error, nan=UNBOUNDED, posinf=UNBOUNDED), UNBOUNDED)


def _score_cost(module: AbstractMap, split: Any, size: int, table: ScoreTable) -> None:
    """Score wall time, parameters and memory of one batch."""
    window, parameters = _inputs(module, split, slice(size))
    given = module.split(window)[0]
    if module.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(module.device)
    with torch.no_grad():
        wall = seconds_per_call(lambda: module.predict(given, parameters))
    table.add("wall_time_per_sample", wall / size)
    score_size(module, table)


def _predictions(
    module: AbstractMap,
    store: Any,
    split: Any,
    states: Float[ndarray, "state channel *space"],
    prediction: Float[ndarray, "state sought *space"],
    keep: int,
) -> xr.Dataset:
    """Return a few states whole; in the predicted ones, the given fields are the true ones."""
    whole = np.concatenate([states[:, : module.given], prediction], axis=1)
    whole = np.where(np.isfinite(whole), whole, np.nan)
    axes = schema.AXES[: module.dims]
    dims = (schema.TRAJECTORY, schema.LEAD_TIME, schema.FIELD, *axes)
    length = split.parameters.get(schema.LENGTH, np.ones(split.trajectories))[:keep]
    side = float(length.mean()) if keep else 1.0
    coordinates = field_coordinates(store.fields, keep, [0.0], split.space, side)
    coordinates[schema.LENGTH] = (schema.TRAJECTORY, length)
    fields = {
        name: (dims, values[:keep, None].astype(np.float32))
        for name, values in (("truth", states), ("prediction", whole))
    }
    return xr.Dataset(fields, coords=coordinates)
