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

from longrun.tasks._learner import Batch
from longrun.tasks.forecast import AbstractForecaster, Memory


class DirectDeepONet(AbstractForecaster):
    """DeepONet, or one fully connected network, from conditions, place and time to a frame.

    Parameters
    ----------
    fields, dims, conditions, points
        From the data.
    network : {"deeponet", "ffn"}
        Which.
    width, depth : int
        Units and layers; of both branch and trunk.
    samples : int
        Random points of a frame in training; 0 is all.
    horizon : int
        Model steps of a trajectory, over which the time goes from -1 to 1.
    options
        See `AbstractForecaster`; the method fixes history, target, training and normalisation.
    """

    direct = True
    translates = False

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
        horizon: int = 50,
        **options: Any,
    ):
        super().__init__(
            fields,
            dims,
            conditions,
            history=1,
            target="state",
            training={"name": "one_step"},
            normalise=True,
            input_noise=0.0,
            **options,
        )
        if min(horizon, width, depth) < 1 or samples < 0:
            raise ValueError("horizon, width and depth must be at least 1, samples at least 0")
        self.horizon, self.points, self.samples = horizon, points, samples
        self.kind = network
        if network == "ffn":
            self.network = ScaledMLP([conditions + dims + 1, *[width] * depth, fields])
            return
        self.branch = ScaledMLP([conditions, *[width] * (depth - 1), fields * width])
        self.at_time, self.at_place = nn.Linear(1, width), nn.Linear(dims, width)
        self.trunk = ScaledMLP([width] * depth)
        self.bias = nn.Parameter(torch.zeros(fields))

    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the normalised frame of conditions and time, both from 0 to 10."""
        values = self._values(conditions[:, :-1], conditions[:, -1:], self._places(conditions))
        return values.unflatten(2, self.points)

    def begin(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Memory:
        """Return the parameters, at the first frame of the trajectory."""
        return {"parameters": parameters, "elapsed": torch.zeros_like(parameters[:, 0])}

    def advance(
        self, memory: Memory, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "batch channel *space"], Memory]:
        """Return the next frame."""
        elapsed = memory["elapsed"] + 1
        return self._frame(memory["parameters"], elapsed), memory | {"elapsed": elapsed}

    def _frame(
        self, parameters: Float[Tensor, "batch parameter"], elapsed: Float[Tensor, " batch"]
    ) -> Float[Tensor, "batch channel *space"]:
        values = self._values(*self._case(parameters, elapsed), self._places(self.field_mean))
        return self.physical(values.unflatten(2, self.points))

    def _case(self, parameters: Tensor, elapsed: Tensor) -> tuple[Tensor, Tensor]:
        """Return conditions and time, from 0 to 10."""
        time = (10 / self.horizon * elapsed).to(self.field_mean)[:, None]
        return self.scaled_conditions(parameters), time

    def _places(self, like: Tensor) -> Float[Tensor, "place axis"]:
        """Return the place of every point, from -1 to 1 along each axis."""
        axes = [torch.linspace(-1, 1, n, dtype=like.dtype, device=like.device) for n in self.points]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).flatten(0, -2)

    def _values(
        self,
        conditions: Float[Tensor, "batch condition"],
        time: Float[Tensor, "batch 1"],
        places: Float[Tensor, "place axis"],
    ) -> Float[Tensor, "batch channel place"]:
        """Return normalised values at places."""
        given, time = conditions / 5 - 1, time / 5 - 1
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
        values = self._values(*self._case(batch["parameters"], batch["elapsed"] + 1), places)
        shape = (-1, *(1,) * (self.dims - 1))  # a row of points in place of space
        values, truth = (v.unflatten(2, shape) for v in (values, frames[:, 1][..., chosen]))
        return self.step_error(values, truth, truth[:, None])

    def _choose(self, frames: Tensor, generator: torch.Generator) -> Int[Tensor, " place"]:
        count = math.prod(self.points)
        if not 0 < self.samples < count:
            return torch.arange(count, device=frames.device)
        return torch.randint(count, (self.samples,), generator=generator, device=frames.device)

    def validate(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the error relative to the field's spread, of frames over the whole horizon."""
        error = self._frame(batch["parameters"], batch["elapsed"] + 1) - batch["window"][:, 1]
        scaled = error / self.per_channel(self.field_std)
        return {"field_error": scaled.square().mean().sqrt()}


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
