"""Heat equation on a square plate whose four sides are held at different temperatures."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from longrun.equations._base import (
    AbstractEquation,
    Discretisation,
    Distribution,
    Quantity,
    Varying,
)
from longrun.solvers import cosine
from longrun.solvers._base import AbstractSolver
from longrun.solvers.cells import blocks

SIDES = ("left", "right", "bottom", "top")


class _Solver(AbstractSolver):
    """Implicit Euler steps, each solved exactly in the basis of the discrete Laplacian.

    In that basis a step moves every amplitude towards its steady value by a factor, so frame n of
    a rollout takes the n-th power of it and costs one transform, however many steps a frame has.
    Sines that vanish at the walls are cosines with alternating sign from cell to cell:
    sin(pi k (j + 1/2) / n) = (-1)^j cos(pi (n - k) (j + 1/2) / n).
    """

    def __init__(
        self,
        parameters: Mapping[str, Float[Tensor, "batch 1 1 1"]],
        points: int,
        frame: float,
        steps: int,
        dtype: torch.dtype,
    ):
        device = parameters["dt"].device
        alternate = 1 - 2 * (torch.arange(points, dtype=torch.float64, device=device) % 2)
        signs = alternate[:, None] * alternate
        rate = parameters["diffusivity"] * (points / parameters["length"]) ** 2
        place = torch.arange(points, dtype=torch.float64, device=device) / points
        symbol = (2 * torch.cos(math.pi / 2 * place)) ** 2
        decay = rate * (symbol[:, None] + symbol)
        source = torch.zeros_like(decay)
        for name, cells in zip(
            SIDES,
            (
                (slice(1),),
                (slice(-1, None),),
                (slice(None), slice(1)),
                (slice(None), slice(-1, None)),
            ),
            strict=True,
        ):
            source[(slice(None), slice(None), *cells)] += 2 * rate * parameters[name]
        self.steady = (cosine.forward(signs * source, 2) / decay).to(dtype)
        self.log_factor = -steps * torch.log1p(frame * parameters["dt"] / steps * decay)
        self.signs, self.dtype = signs.to(dtype), dtype

    def step(
        self, state: Float[Tensor, "batch channel *space"]
    ) -> Float[Tensor, "batch channel *space"]:
        """Advance by one frame."""
        return self._after(cosine.forward(self.signs * state, 2), 1)

    def rollout(
        self, state: Float[Tensor, "batch channel *space"], frames: int
    ) -> Float[Tensor, "batch frame channel *space"]:
        """Advance by several frames, each from the initial state."""
        amplitude = cosine.forward(self.signs * state, 2)
        return torch.stack([self._after(amplitude, n) for n in range(1, frames + 1)], dim=1)

    def _after(self, amplitude: Tensor, frames: int) -> Tensor:
        left = (frames * self.log_factor).exp().to(self.dtype)
        return self.signs * cosine.inverse(self.steady + left * (amplitude - self.steady), 2)


class HeatedPlate(AbstractEquation):
    """u_t = diffusivity Laplacian(u) on a square whose sides have constant temperatures.

    The plate starts at one temperature; it and those of the four sides are drawn for each
    trajectory. This is the heat equation of Meyer et al. (2023, arXiv:2306.16133), from memory,
    with its implicit Euler steps. Values are averages over square cells, whose faces the sides lie
    on; five-point differences of second order, time steps of first order.

    Parameters
    ----------
    points
        Cells along each axis.
    length
        Length of a side.
    dt
        Time between frames.
    diffusivity
        Positive.
    initial
        Initial temperature of the plate.
    left, right, bottom, top
        Temperatures of the sides: at the first and last x, at the first and last y.
    substeps
        Implicit Euler steps per frame; they change the result, at no cost.
    burn_in
        Frames to discard before the first frame that is kept.

    Raises
    ------
    UserError
        Impossible parameters.
    """

    fields = (Quantity("temperature", "temperature", "K"),)
    parameters = (
        Quantity("length", "length of a side", "1"),
        Quantity("dt", "time between frames", "1"),
        Quantity("diffusivity", "diffusivity", "1"),
        Quantity("initial", "initial temperature", "K"),
        *(Quantity(name, f"temperature of the {name} side", "K") for name in SIDES),
    )
    boundary = ("given temperature", "given temperature")
    centred = True

    def __init__(
        self,
        points: int = 32,
        length: Varying = 1.0,
        dt: Varying = 0.002,
        diffusivity: Varying = 1.0,
        initial: Varying = {"uniform": (100.0, 500.0)},  # noqa: B006  (never changed)
        left: Varying = {"uniform": (100.0, 500.0)},  # noqa: B006
        right: Varying = {"uniform": (100.0, 500.0)},  # noqa: B006
        bottom: Varying = {"uniform": (100.0, 500.0)},  # noqa: B006
        top: Varying = {"uniform": (100.0, 500.0)},  # noqa: B006
        substeps: int = 1,
        burn_in: int = 0,
    ):
        super().__init__(points, substeps, burn_in)
        given = (length, dt, diffusivity, initial, left, right, bottom, top)
        self.distributions = {
            quantity.name: Distribution.of(quantity.name, value)
            for quantity, value in zip(self.parameters, given, strict=True)
        }

    def sample(
        self, generators: Sequence[np.random.Generator]
    ) -> tuple[dict[str, Float[np.ndarray, " batch"]], Float[np.ndarray, "batch channel *space"]]:
        """Draw parameters; the plate begins at one temperature."""
        parameters = self._draw(generators)
        initial = parameters["initial"][:, None, None, None]
        return parameters, np.tile(initial, (1, 1, self.points, self.points))

    def _solver(self, at: Discretisation) -> _Solver:
        """Build the solver of a batch of trajectories."""
        return _Solver(at.columns, at.points, at.stride, at.steps, at.dtype)

    def resample(
        self, state: Float[Tensor, "batch channel *space"], points: int
    ) -> Float[Tensor, "batch channel *other"]:
        """Repeat cells or average blocks of them: heat is kept, whatever the walls."""
        return blocks(state, points)
