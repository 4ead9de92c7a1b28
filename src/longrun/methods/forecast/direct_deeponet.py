"""Networks of CFDBench that see no frame (Luo, Chen and Zhang, 2023, arXiv:2310.05963).

From the conditions c of a case, a place and a time to the values there and then, so that no error
is fed back; the conditions must determine the flow, also how it starts.

    deeponet  w(x, t) = B(c) . T(V x + v t) + b     (Lu et al., 2021, arXiv:1910.03193)
    ffn       w(x, t) = M([c, x, t])

Fully connected, `depth` layers of `width` units. As in the public code the activation keeps the
scale of its input: h -> s relu((h - m) / s) + m, m and s the mean and the deviation of h over each
sample. Each frame is trained on at `samples` random points, the same for a batch.

It models u alone, here u and v; fields are normalised, conditions, places and times scaled to
[-1, 1], where the public code has times in frames and indices of points.
"""

import itertools
import math
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from longrun.nn.coordinates import coordinates
from longrun.tasks._direct import AbstractDirectForecaster
from longrun.tasks._learner import Batch


class DirectDeepONet(AbstractDirectForecaster):
    """DeepONet, or one fully connected network, from conditions, place and time to a frame.

    Parameters
    ----------
    fields, dims, conditions, points
        See `AbstractDirectForecaster`, also for the options.
    network : {"deeponet", "ffn"}
        Which.
    width, depth : int
        Units and layers; of both branch and trunk.
    samples : int
        Random points of a frame in training; 0 is all.
    """

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        network: Literal["deeponet", "ffn"] = "deeponet",
        width: int = 100,
        depth: int = 8,
        samples: int = 1000,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, points, **options)
        if min(width, depth) < 1 or samples < 0:
            raise ValueError("width and depth must be at least 1, samples at least 0")
        self.samples = samples
        self.kind = network
        if network == "ffn":
            self.network = ScaledMLP([conditions + dims + 1, *[width] * depth, fields])
            return
        self.branch = ScaledMLP([conditions, *[width] * (depth - 1), fields * width])
        self.at_time, self.at_place = nn.Linear(1, width), nn.Linear(dims, width)
        self.trunk = ScaledMLP([width] * depth)
        self.bias = nn.Parameter(torch.zeros(fields))

    def field(self, given: Float[Tensor, "batch input"]) -> Float[Tensor, "batch channel *space"]:
        """Return the normalised frame."""
        return self._values(given, self._places(given)).unflatten(2, self.points)

    def _places(self, like: Tensor) -> Float[Tensor, "place axis"]:
        """Return the place of every point, from -1 to 1 along each axis."""
        return coordinates(self.points, like, -1, 1).flatten(1).T

    def _values(
        self,
        given: Float[Tensor, "batch input"],
        places: Float[Tensor, "place axis"],
    ) -> Float[Tensor, "batch channel place"]:
        """Return normalised values at places."""
        given, time = (given / 5 - 1).split([given.shape[1] - 1, 1], dim=1)
        if self.kind == "ffn":
            case = torch.cat([given, time], dim=1)[:, None].expand(-1, len(places), -1)
            there = places.expand(len(given), -1, -1)
            return self.network(torch.cat([case, there], dim=2)).transpose(1, 2)
        code = self.branch(given).unflatten(1, (self.fields, -1))
        trunk = self.trunk(self.at_place(places) + self.at_time(time)[:, None])
        return code @ trunk.transpose(1, 2) + self.bias[:, None]

    def batch_loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the error of the second frame of each window, at random points."""
        frames = self.normalised(batch["window"]).flatten(3)
        chosen = self._choose(frames, generator)
        places = self._places(frames)[chosen]
        given = self.case(batch["parameters"], batch["elapsed"] + 1)
        values = self._values(given, places)
        shape = (-1, *(1,) * (self.dims - 1))  # a row of points in place of space
        values, truth = (v.unflatten(2, shape) for v in (values, frames[:, 1][..., chosen]))
        return self.step_error(values, truth, truth[:, None])

    def _choose(self, frames: Tensor, generator: torch.Generator) -> Int[Tensor, " place"]:
        count = math.prod(self.points)
        if not 0 < self.samples < count:
            return torch.arange(count, device=frames.device)
        return torch.randint(count, (self.samples,), generator=generator, device=frames.device)


class ScaledMLP(nn.Module):
    """Linear layers; between them a ReLU of what has mean 0 and deviation 1 over each sample."""

    def __init__(self, sizes: list[int]):
        super().__init__()
        pairs = itertools.pairwise(sizes)
        self.layers = nn.ModuleList(nn.Linear(inputs, outputs) for inputs, outputs in pairs)

    def forward(self, x: Float[Tensor, "batch *place inputs"]) -> Tensor:
        """Return the outputs."""
        for number, layer in enumerate(self.layers):
            if number:
                axes = tuple(range(1, x.ndim))
                std, mean = torch.std_mean(x, dim=axes, keepdim=True)
                x = std * torch.relu((x - mean) / std.clamp_min(1e-6)) + mean
            x = layer(x)
        return x
