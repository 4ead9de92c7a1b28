"""Graph network on scattered sensors, and interpolation between them (MeshGraphNets).

What a continuous observer is compared with by Janny et al. (2024, arXiv:2401.09198): an encoder,
message passing and a decoder (Pfaff et al., 2021, arXiv:2010.03409) advance the values at the
sensors from one known frame to the next,

    u_(k+1) = u_k + decoder(messages(encoder(u_k, x))),

and other points and frames are interpolated, piecewise cubic in space and linear in time. It is
trained on its own rollout over all known frames of a window, as what it is compared with.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from longrun.nn import scattered
from longrun.nn.graph import MessagePassing, perceptron
from longrun.tasks._sensors import AbstractSensorForecaster, Sensors, grid_positions


class GraphNetwork(AbstractSensorForecaster):
    """Message passing between sensors, interpolation between them and between frames.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractSensorForecaster`, also for the options.
    width : int
        Features of nodes and edges.
    layers : int
        Of message passing in a step.
    """

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        width: int = 128,
        layers: int = 8,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        self.nodes = perceptron(fields + dims + conditions, width, width, hidden=2)
        self.edges = perceptron(2 * dims + 1, width, width, hidden=2)
        self.messages = MessagePassing(width, layers)
        self.decoder = perceptron(width, width, fields, activation=nn.SiLU)

    def step(
        self,
        values: Float[Tensor, "batch sensor channel"],
        sensors: Sensors,
        conditions: Float[Tensor, "batch condition"],
    ) -> Float[Tensor, "batch sensor channel"]:
        """Return what the sensors read at the next known frame, normalised in and out."""
        fixed = torch.cat(
            [
                sensors.positions.expand(len(values), *sensors.positions.shape),
                conditions[:, None].expand(-1, values.shape[1], -1),
            ],
            dim=2,
        )
        h = self.nodes(torch.cat([values, fixed], dim=2))
        h, _ = self.messages(h, self.edges(sensors.edges)[None], sensors.ends)
        return values + self.decoder(h)

    def rollout(
        self,
        first: Float[Tensor, "batch sensor channel"],
        sensors: Sensors,
        conditions: Float[Tensor, "batch condition"],
        frames: int,
    ) -> Float[Tensor, "known batch sensor channel"]:
        """Return what the sensors read at the known frames, the first too."""
        known = [first]
        for _ in range(-(-frames // self.known_every)):
            known.append(self.step(known[-1], sensors, conditions))
        return torch.stack(known)

    def answers(
        self,
        state: Float[Tensor, "known batch sensor channel"],
        sensors: Sensors,
        space: Sequence[int],
        frame: int,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return a frame interpolated between known ones, and between sensors."""
        before, past = divmod(frame, self.known_every)
        values = state[before]
        if past:
            values = torch.lerp(values, state[before + 1], past / self.known_every)
        return (values.mT @ self._weights(sensors, space).T).unflatten(2, tuple(space))

    def _weights(self, sensors: Sensors, space: Sequence[int]) -> Float[Tensor, "point sensor"]:
        numbers, like = sensors.numbers.cpu().numpy().tobytes(), sensors.positions
        key = ("weights", numbers, tuple(space), like.dtype, like.device)
        if key not in self._cached:
            positions = sensors.positions.double().cpu().numpy()
            weights = scattered.cubic(positions, grid_positions(space), self.periodic)
            self._cached[key] = torch.from_numpy(weights).to(sensors.positions)
        found: Tensor = self._cached[key]
        return found

    def known_loss(
        self,
        known: Float[Tensor, "batch frame sensor channel"],
        every: Sensors,
        part: Int[Tensor, " kept"],
        sensors: Sensors,
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Return the mean squared error of a rollout of the sensors that are seen."""
        seen = known[:, :, part]
        frames = (known.shape[1] - 1) * self.known_every
        found = self.rollout(seen[:, 0], sensors, conditions, frames)
        return (found[1:].transpose(0, 1) - seen[:, 1:]).square().mean()
