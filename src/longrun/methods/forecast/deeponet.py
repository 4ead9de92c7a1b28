"""DeepONet from frame to frame (Lu et al., 2021, arXiv:1910.03193), as in CFDBench (2310.05963).

A branch network codes a frame w and the conditions c of a case, a trunk network a place; what they
say together is added to the frame there.

    joint     u'(x) = u(x) + B([w, c]) . T(x) + b                          "Auto-DeepONet"
    separate  u'(x) = u(x) + (B1(w) B2(c)) . T(x) + b                      "Auto-EDeepONet"
    cnn       u'(x) = u(x) + M(C([w, mask, c]) T(x))                       "Auto-DeepONetCNN"

B, B1, B2 and T are fully connected with ReLU, `depth` layers of `width` units, the last one linear.
C is convolutions 5 x 5 of 32 channels, the grid halved four times by max-pooling; its T has four
layers of 100 units and one more, M two of as many as C gives.

The public code models u alone; here the last layer of B (of B1 and B2, of M) has one set for each
field, and `separate` takes u and v. There the point (i, j) of the frame is (i, j) / 100 - 1/2 on 64
points, here from -1/2 to 1/2 on any grid. Its activations that keep the scale of their input are
those of `direct_deeponet`, the only one for which it switched them on.
"""

import itertools
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longrun.nn.coordinates import coordinates
from longrun.nn.fno import as_channels
from longrun.tasks.forecast import AbstractForecaster, framed_points

CHANNELS, KERNEL, HALVINGS = 32, 5, 4  # of the convolutional branch
TRUNK = [100] * 4  # beside it


class DeepONet(AbstractForecaster):
    """DeepONet as a one-step forecaster.

    Parameters
    ----------
    fields, dims, conditions, points, equation
        From the data; see `AbstractForecaster`, also for the options.
    branch : {"joint", "separate", "cnn"}
        What codes frame and conditions.
    width, depth : int
        Units and layers of branch and trunk; `cnn` has its own.
    """

    translates = False
    in_rim = True

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        equation: dict[str, Any],
        branch: Literal["joint", "separate", "cnn"] = "joint",
        width: int = 100,
        depth: int = 8,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if min(width, depth) < 1:
            raise ValueError("width and depth must be at least 1")
        if branch == "cnn" and dims != 2:
            raise ValueError(f"branch: cnn needs two dimensions, the data has {dims}")
        grid = framed_points(points, equation, self.boundary)
        seen = self.history * fields * int(torch.tensor(grid).prod())
        self.kind = branch
        if branch == "cnn":
            coded = CHANNELS * int(torch.tensor([n >> HALVINGS for n in grid]).prod())
            if not coded:
                least = 1 << HALVINGS
                raise ValueError(f"branch: cnn needs a grid of {least} x {least} at least")
            self.branch: nn.Module = convolutional(self.inputs + self.scalars)
            self.trunk = fully_connected([dims, *TRUNK, coded])
            self.head = fully_connected([coded, coded, coded, fields])
            return
        sizes = [*[width] * (depth - 1), fields * width]
        own = self.scalars if branch == "joint" else 0
        self.branch = fully_connected([seen + own, *sizes])
        if branch == "separate":
            self.conditions_branch = fully_connected([self.scalars, *sizes])
        self.trunk = fully_connected([dims, *[width] * depth])
        self.bias = nn.Parameter(torch.zeros(fields))

    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the scaled target of the next frame."""
        grid, given = history.shape[3:], conditions / 10
        trunk = self.trunk(coordinates(grid, history).flatten(1).T)
        if self.kind == "cnn":
            frames = history.flatten(1, 2)
            code = self.branch(torch.cat([frames, as_channels(conditions, frames)], dim=1))
            values = self.head(code[:, None] * trunk).transpose(1, 2)
        else:
            frames = history[:, -self.history :].flatten(1)  # sees no mask
            if self.kind == "joint":
                code = self.branch(torch.cat([frames, given], dim=1))
            else:
                code = self.branch(frames) * self.conditions_branch(given)
            values = code.unflatten(1, (self.fields, -1)) @ trunk.T + self.bias[:, None]
        return values.unflatten(2, grid)


def fully_connected(sizes: list[int]) -> nn.Sequential:
    """Make linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.ReLU(), nn.Linear(inputs, outputs)]
    return nn.Sequential(*layers[1:])


def convolutional(inputs: int) -> nn.Sequential:
    """Make the branch that halves the grid and flattens what is left."""

    def layer(before: int) -> nn.Module:
        return nn.Conv2d(before, CHANNELS, KERNEL, padding=KERNEL // 2)

    halving = [m for _ in range(HALVINGS) for m in (layer(CHANNELS), nn.MaxPool2d(2), nn.ReLU())]
    return nn.Sequential(layer(inputs), *halving, layer(CHANNELS), nn.Flatten())
