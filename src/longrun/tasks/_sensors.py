"""Estimates of whole trajectories from scattered sensors at their first frame.

Nothing but what sensors measure is seen, in training too: there, of every window, all sensors at
the first frame and those at every `known_every`-th frame after it. A random part of the sensors
gives the input of a batch, so a network doesn't rely on where they are.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from longrun.nn import scattered
from longrun.tasks._estimation import AbstractEstimator, relative_square, sensor_places
from longrun.tasks._learner import Batch

PARTS = 32  # random parts of the sensors that training takes turns with: triangulating is slow


@dataclass(frozen=True)
class Sensors:
    """Sensors that a network sees.

    Parameters
    ----------
    numbers
        Of their points in the flattened grid.
    positions
        Between 0 and 1 along each axis.
    ends
        Of the edges between neighbours, see `longrun.nn.graph`.
    edges
        Features: both positions, the squared distance. The position of the node that an edge
        leaves is that seen from the other, beyond the end where an axis closes.
    """

    numbers: Int[Tensor, " sensor"]
    positions: Float[Tensor, "sensor 2"]
    ends: Int[Tensor, "2 edge"]
    edges: Float[Tensor, "edge 5"]


class AbstractSensorForecaster(AbstractEstimator):
    """What answers for all points and frames from sensors at the first.

    Parameters
    ----------
    unroll : int
        Frames after the first in a training window.
    known_every : int
        Of those, every so-manyth is known to the training.
    kept : float
        Share of the sensors that give the input of a training batch.
    options
        Of `AbstractEstimator`; `sensor_share` is 0.25 here.
    """

    supported_dims = (2,)
    first_frame_only = True
    preview = "assimilation"

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        unroll: int = 20,
        known_every: int = 2,
        kept: float = 0.75,
        snr: float | None = None,
        sensor_share: float | None = 0.25,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, snr=snr, sensor_share=sensor_share, **options)
        if known_every < 1 or unroll < known_every:
            raise ValueError("known_every must be at least 1 and at most unroll")
        if not 0 < kept <= 1:
            raise ValueError(f"kept must lie between 0 and 1, is {kept}")
        self.unroll, self.known_every, self.kept = unroll, known_every, kept
        self.periodic = (True,) * dims
        self._cached: dict[Any, Any] = {}

    @abstractmethod
    def rollout(
        self,
        first: Float[Tensor, "batch sensor channel"],
        sensors: Sensors,
        conditions: Float[Tensor, "batch condition"],
        frames: int,
    ) -> Any:
        """Return what `answers` needs to know of this many frames after the first, normalised."""

    @abstractmethod
    def answers(
        self, state: Any, sensors: Sensors, space: Sequence[int], frame: int
    ) -> Float[Tensor, "batch channel *space"]:
        """Return a whole frame, normalised; 1 is that after the first."""

    @abstractmethod
    def known_loss(
        self,
        known: Float[Tensor, "batch frame sensor channel"],
        every: Sensors,
        part: Int[Tensor, " kept"],
        sensors: Sensors,
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Return the training loss of a batch.

        Parameters
        ----------
        known
            What all sensors measure, normalised, at the first and every `known_every`-th frame.
        every
            All sensors.
        part, sensors
            Those of them that the network sees, by number, and by themselves.
        """

    def fit_data(self, description: dict[str, Any]) -> None:
        """Note which axes close."""
        self.periodic = tuple(kind == "periodic" for kind in description["boundary"])

    # Sensors -------------------------------------------------------------------------------------

    def sensors(self, numbers: Int[np.ndarray, " sensor"], space: Sequence[int]) -> Sensors:
        """Return sensors at these points of a grid; those that were asked for before are kept."""
        key = (numbers.tobytes(), tuple(space), self.periodic, self.device, self.field_mean.dtype)
        if key not in self._cached:
            positions = np.stack(np.unravel_index(numbers, tuple(space)), axis=1) / np.array(space)
            ends, away = scattered.neighbours(positions, self.periodic)
            reached = positions[ends[1]]
            distance = np.square(away).sum(1, keepdims=True)
            features = np.concatenate([reached + away, reached, distance], axis=1)
            self._cached[key] = Sensors(
                torch.from_numpy(numbers).to(self.device),
                torch.from_numpy(positions).to(self.field_mean),
                torch.from_numpy(ends).to(self.device),
                torch.from_numpy(features).to(self.field_mean),
            )
        found: Sensors = self._cached[key]
        return found

    def _part(self, numbers: np.ndarray, place: int) -> np.ndarray:
        """Return a random part of the sensors, by number among them."""
        count = max(4, round(self.kept * len(numbers)))
        return np.sort(np.random.default_rng((1, place)).permutation(len(numbers))[:count])

    # Training ------------------------------------------------------------------------------------

    def batch_loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the loss of windows of which sensors alone are seen."""
        window, space = batch["window"], batch["window"].shape[3:]
        places = sensor_places(space, self.spacing, self.sensor_share)
        numbers = np.flatnonzero(places)
        frames = window[:, :: self.known_every]
        measured = torch.ones(frames.shape[:2], dtype=torch.bool, device=window.device)
        measurement, _ = self.measure(frames, measured, generator)
        every = self.sensors(numbers, space)
        known = self.normalised(measurement).flatten(3)[..., every.numbers].mT
        draw = int(torch.randint(PARTS, (), generator=generator, device=window.device))
        part = self._part(numbers, draw)
        seen = self.sensors(numbers[part], space)
        conditions = self.scaled_conditions(batch["parameters"])
        chosen = torch.from_numpy(part).to(window.device)
        return self.known_loss(known, every, chosen, seen, conditions, generator)

    def validate(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the relative squared error at all points of the known frames of windows."""
        window = batch["window"]
        measured = torch.zeros(window.shape[:2], dtype=torch.bool, device=window.device)
        measured[:, 0] = True
        measurement, mask = self.measure(window, measured, generator)
        found = torch.stack([*self.follow(measurement, mask, batch["parameters"], generator)], 1)
        found, truth = (each[:, 1:].flatten(0, 1) for each in (found, window))
        return {"free_relative_mse": relative_square(found - truth, truth).mean()}

    # Use -----------------------------------------------------------------------------------------

    def follow(
        self,
        measurement: Float[Tensor, "batch frame channel *space"],
        mask: Bool[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator,
    ) -> Iterator[Float[Tensor, "batch channel *space"]]:
        """Answer for every frame; see `AbstractEstimator.follow`.

        Raises
        ------
        ValueError
            Where samples or fields have sensors in different places.
        """
        space, first = measurement.shape[3:], mask[:, 0]
        if (first != first[:1, :1]).any():
            raise ValueError("the sensors must be the same for all samples and fields")
        numbers = np.flatnonzero(first[0, 0].cpu().numpy())
        sensors = self.sensors(numbers, space)
        start = self.normalised(measurement[:, 0]).flatten(2)[..., sensors.numbers].mT
        frames = measurement.shape[1] - 1
        state = self.rollout(start, sensors, self.scaled_conditions(parameters), frames)
        for frame in range(frames + 1):
            found = self.physical(self.answers(state, sensors, space, frame))
            alive = self.bounded(found).reshape(-1, *(1,) * (found.ndim - 1))
            yield torch.where(alive, found, torch.nan)


def grid_positions(space: Sequence[int]) -> Float[np.ndarray, "point axis"]:
    """Return the positions of all points of a grid, between 0 and 1."""
    axes = np.meshgrid(*(np.arange(points) / points for points in space), indexing="ij")
    return np.stack([axis.ravel() for axis in axes], axis=1)
