"""Incompressible flow in two dimensions on a staggered (MAC) grid, finite volumes.

Positions, for n x m cells of size dx x dy, i and j from 0: pressure at cell centres
((i + 1/2) dx, (j + 1/2) dy), channel 0 of a velocity, u, at the centre of each cell's right face
((i + 1) dx, (j + 1/2) dy), channel 1, v, at the centre of its upper face
((i + 1/2) dx, (j + 1) dy). Both are averages over their faces, so the divergence of a cell,
(u[i, j] - u[i-1, j]) / dx + (v[i, j] - v[i, j-1]) / dy, is its exact net outflow.

One step, first order in time, second in space, as in jax-cfd (Kochkov et al., 2021,
arXiv:2102.01010): convection by fluxes through the faces of each component's control volume, the
advected component by Lax-Wendroff under a van Leer limiter, the advecting one by linear
interpolation; forward Euler for it and for forces; projection onto velocities without divergence;
implicit diffusion. A learned scheme replaces the two interpolations and keeps the rest.
"""

from abc import abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Complex, Float
from torch import Tensor
from torch.nn import functional

from longrun.runtime.cli import UserError
from longrun.solvers._base import AbstractSolver

GHOSTS = 2
"""Cells beyond each edge that interpolations may use."""

Padded = Float[Tensor, "batch 2 x_and_ghosts y_and_ghosts"]
Faces = Float[Tensor, "batch x_faces y_faces"]

Advecting = Callable[[Tensor, int, int], Tensor]
"""From (padded velocity, component, axis) to the normal velocity through the faces, normal to
`axis`, of the control volumes of `component`: one face more than cells along `axis`, the first
one at the lower edge of the first control volume."""

Advected = Callable[[Tensor, int, int, Tensor], Tensor]
"""From (padded velocity, component, axis, Courant number at those faces) to the value of
`component` at those faces."""


def linear(padded: Padded, component: int, axis: int) -> Faces:
    """Return the mean of the two nearest normal velocities; `Advecting`."""
    first = 1 if component == axis else GHOSTS
    nx, ny = (size - 2 * GHOSTS for size in padded.shape[2:])
    cells = (nx, ny)[component] + (component == axis)
    velocity = padded[:, axis]
    if component != axis:  # at the corners, from the edge below the first control volume
        velocity = velocity.narrow(1 + axis, 1, (nx, ny)[axis] + 1)
    else:
        velocity = velocity.narrow(2 - axis, GHOSTS, (nx, ny)[1 - axis])
    along = 1 + component
    return 0.5 * (velocity.narrow(along, first, cells) + velocity.narrow(along, first + 1, cells))


def stencil(padded: Padded, component: int, axis: int) -> tuple[Faces, Faces, Faces, Faces]:
    """Return the four values along `axis` around each face, from the lower to the upper."""
    values = padded[:, component].narrow(2 - axis, GHOSTS, padded.shape[3 - axis] - 2 * GHOSTS)
    faces = padded.shape[2 + axis] - 2 * GHOSTS + 1
    first, second, third, fourth = (values.narrow(1 + axis, start, faces) for start in range(4))
    return first, second, third, fourth


def lax_wendroff(padded: Padded, component: int, axis: int, courant: Faces) -> Faces:
    """Return values at the faces, second order in space and time, not monotone; `Advected`."""
    _, below, above, _ = stencil(padded, component, axis)
    return torch.lerp(below, above, 0.5 - 0.5 * courant)


def limited(interpolation: Advected) -> Advected:
    """Blend an interpolation with the upwind value by van Leer's limiter.

    The result creates no new extrema along an axis as long as the Courant number is below 1.
    Where `interpolation` is `lax_wendroff` this is the classical scheme.

    Parameters
    ----------
    interpolation
        Of higher order.

    Returns
    -------
    callable
        The limited interpolation.
    """

    def interpolate(padded: Padded, component: int, axis: int, courant: Faces) -> Faces:
        lowest, below, above, highest = stencil(padded, component, axis)
        forward = courant > 0
        slope = above - below
        behind = torch.where(forward, below - lowest, highest - above)
        product = (slope * behind).clamp_(min=0)
        # r / (1 + r) for positive r = slope behind / slope, else 0; without dividing by 0
        size = torch.addcmul(product, slope, slope).add_(torch.finfo(slope.dtype).tiny)
        upwind = torch.where(forward, below, above)
        correction = interpolation(padded, component, axis, courant) - upwind
        return torch.addcmul(upwind, product / size, correction, value=2)

    return interpolate


van_leer = limited(lax_wendroff)


def convection(
    padded: Padded,
    spacing: tuple[Float[Tensor, "#shared 1 1"], Float[Tensor, "#shared 1 1"]],
    time_step: Float[Tensor, "#shared 1 1"],
    advected: Advected = van_leer,
    advecting: Advecting = linear,
) -> Float[Tensor, "batch 2 x y"]:
    """Return the tendency by convection, minus the divergence of the fluxes.

    Parameters
    ----------
    padded
        Velocity with `GHOSTS` cells beyond each edge.
    spacing
        Size of a cell along each axis.
    time_step
        Of the step, for Courant numbers.
    advected, advecting
        Interpolations of the value that is carried and of the velocity that carries it.
    """
    outflow = []
    for component in (0, 1):
        along = []
        for axis in (0, 1):
            courant = advecting(padded, component, axis) * (time_step / spacing[axis])
            flux = courant * advected(padded, component, axis, courant)
            along.append(flux.diff(dim=1 + axis))
        outflow.append(along[0] + along[1])
    return torch.stack(outflow, dim=1) * (-1 / time_step)[:, None]


def column(values: Float[Tensor, " batch"]) -> Float[Tensor, "shared 1 1"]:
    """Make a parameter broadcast against components, float64; one row if all are equal."""
    shared = values[:1] if bool((values == values[:1]).all()) else values
    return shared.double().reshape(-1, 1, 1)


class AbstractMACSolver(AbstractSolver):
    """Steps of incompressible flow; subclasses know the edges of the box.

    Parameters
    ----------
    spacing
        Size of a cell along each axis, one per trajectory; float64.
    frame
        Time between frames, one per trajectory; float64.
    steps
        Steps per frame.
    dtype
        Precision of the states.

    Raises
    ------
    UserError
        Impossible number of steps.
    """

    def __init__(
        self,
        spacing: tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]],
        frame: Float[Tensor, " batch"],
        steps: int,
        dtype: torch.dtype,
    ):
        if steps < 1:
            raise UserError(f"steps per frame must be at least 1, is {steps}")
        self.steps = steps
        self.exact_time_step = column(frame) / steps
        self.exact_spacing = tuple(column(size) for size in spacing)
        self.time_step = self.exact_time_step.to(dtype)
        self.spacing = (self.exact_spacing[0].to(dtype), self.exact_spacing[1].to(dtype))

    def step(self, state: Float[Tensor, "batch 2 x y"]) -> Float[Tensor, "batch 2 x y"]:
        """Advance by one frame."""
        for _ in range(self.steps):
            state = self.advance(state)
        return state

    def advance(
        self,
        state: Float[Tensor, "batch 2 x y"],
        advected: Advected = van_leer,
        advecting: Advecting = linear,
    ) -> Float[Tensor, "batch 2 x y"]:
        """Advance by one step, with interpolations of one's choice.

        Parameters
        ----------
        state
            Velocity.
        advected, advecting
            See `convection`.
        """
        tendency = self.convection(state, advected, advecting) + self.force(state)
        return self.settle(state, tendency)

    def convection(
        self,
        state: Float[Tensor, "batch 2 x y"],
        advected: Advected = van_leer,
        advecting: Advecting = linear,
    ) -> Float[Tensor, "batch 2 x y"]:
        """Return the tendency by convection, see the function of that name."""
        return convection(self.pad(state), self.spacing, self.time_step, advected, advecting)

    def divergence(self, state: Float[Tensor, "batch 2 x y"]) -> Float[Tensor, "batch x y"]:
        """Return the net outflow of each cell per area."""
        u, v = self.pad(state)[:, :, 1:-GHOSTS, 1:-GHOSTS].unbind(1)
        along_x = u.diff(dim=1)[:, :, 1:] / self.spacing[0]
        return along_x + v.diff(dim=2)[:, 1:] / self.spacing[1]

    @abstractmethod
    def pad(self, state: Float[Tensor, "batch 2 x y"]) -> Padded:
        """Add `GHOSTS` cells beyond each edge."""

    @abstractmethod
    def force(self, state: Float[Tensor, "batch 2 x y"]) -> Float[Tensor, "batch 2 x y"]:
        """Return the acceleration by everything explicit except convection."""

    @abstractmethod
    def project(self, velocity: Float[Tensor, "batch 2 x y"]) -> Float[Tensor, "batch 2 x y"]:
        """Remove the divergence by a pressure gradient; exact to rounding."""

    @abstractmethod
    def diffuse(self, velocity: Float[Tensor, "batch 2 x y"]) -> Float[Tensor, "batch 2 x y"]:
        """Diffuse over one step by backward Euler; exact to rounding."""

    @abstractmethod
    def settle(
        self, state: Float[Tensor, "batch 2 x y"], tendency: Float[Tensor, "batch 2 x y"]
    ) -> Float[Tensor, "batch 2 x y"]:
        """End a step, given the tendency of what is explicit: projection and diffusion."""


class PeriodicMACSolver(AbstractMACSolver):
    """Flow in a periodic box with a steady force and linear drag.

    Projection and diffusion are diagonal in Fourier space, where they commute, so one pair of
    transforms does both.

    Parameters
    ----------
    grid
        Cells along each axis, even along the second.
    spacing, frame, steps, dtype
        See `AbstractMACSolver`.
    viscosity
        Kinematic, one per trajectory; float64.
    force
        Averages over the faces, broadcastable to a state; float64.
    drag
        Rate at which the velocity decays, one per trajectory; float64.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        spacing: tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]],
        frame: Float[Tensor, " batch"],
        steps: int,
        viscosity: Float[Tensor, " batch"],
        force: Float[Tensor, "batch 2 ..."],
        drag: Float[Tensor, " batch"],
        dtype: torch.dtype = torch.float64,
    ):
        super().__init__(spacing, frame, steps, dtype)
        self.grid = grid
        self.steady = force.to(dtype)
        self.drag = column(drag)[:, None].to(dtype)
        device = viscosity.device
        turns = (
            torch.fft.fftfreq(grid[0], dtype=torch.float64, device=device)[:, None],
            torch.fft.rfftfreq(grid[1], dtype=torch.float64, device=device)[None],
        )
        gradients = []
        for turn, size in zip(turns, self.exact_spacing, strict=True):
            shift = torch.exp(2j * torch.pi * turn)
            gradients.append(((shift - 1) / size).expand(-1, grid[0], grid[1] // 2 + 1))
        gradient = torch.stack(gradients, dim=1)  # to the faces; minus its adjoint: the divergence
        laplacian = -gradient.abs().square().sum(1, keepdim=True)
        laplacian[..., 0, 0] = 1.0  # the gradient is zero there
        rate = column(viscosity) * self.exact_time_step
        decay = 1 / (1 - rate[:, None] * laplacian)
        decay[..., 0, 0] = 1.0
        # of the modes of pressure: from divergence to what is subtracted from the velocity
        self.gradient = gradient.to(dtype.to_complex())
        self.lift = (gradient / laplacian).to(dtype.to_complex())
        self.decay = decay.to(dtype)

    def pad(self, state: Float[Tensor, "batch 2 x y"]) -> Padded:
        """Add `GHOSTS` cells beyond each edge, from the opposite side."""
        return functional.pad(state, (GHOSTS,) * 4, mode="circular")

    def force(self, state: Float[Tensor, "batch 2 x y"]) -> Float[Tensor, "batch 2 x y"]:
        """Return the steady force less the drag."""
        return self.steady - self.drag * state

    def project(self, velocity: Float[Tensor, "batch 2 x y"]) -> Float[Tensor, "batch 2 x y"]:
        """Remove the divergence by a pressure gradient; exact to rounding."""
        return self._inverse(self._solenoidal(torch.fft.rfft2(velocity)))

    def diffuse(self, velocity: Float[Tensor, "batch 2 x y"]) -> Float[Tensor, "batch 2 x y"]:
        """Diffuse over one step by backward Euler; exact to rounding."""
        return self._inverse(self.decay * torch.fft.rfft2(velocity))

    def settle(
        self, state: Float[Tensor, "batch 2 x y"], tendency: Float[Tensor, "batch 2 x y"]
    ) -> Float[Tensor, "batch 2 x y"]:
        """End a step, given the tendency of what is explicit: projection, then diffusion."""
        spectrum = torch.fft.rfft2(state + self.time_step[:, None] * tendency)
        return self._inverse(self.decay * self._solenoidal(spectrum))

    def _solenoidal(self, spectrum: Complex[Tensor, "batch 2 *mode"]) -> Tensor:
        divergence = (self.gradient.conj() * spectrum).sum(1, keepdim=True)  # its negative
        return spectrum + self.lift * divergence

    def _inverse(self, spectrum: Complex[Tensor, "batch 2 *mode"]) -> Tensor:
        return torch.fft.irfft2(spectrum, s=self.grid)


def coarsen(state: Float[Tensor, "batch 2 x y"], factor: int) -> Float[Tensor, "batch 2 X Y"]:
    """Keep the faces that coarse cells have too, averaged along each coarse face.

    The divergence of a coarse cell is the mean of those of its fine cells.
    """
    u, v = state.unbind(1)
    u = u[:, factor - 1 :: factor].unflatten(2, (-1, factor)).mean(3)
    v = v[:, :, factor - 1 :: factor].unflatten(1, (-1, factor)).mean(2)
    return torch.stack([u, v], dim=1)


def refine_periodic(
    state: Float[Tensor, "batch 2 X Y"], factor: int
) -> Float[Tensor, "batch 2 x y"]:
    """Interpolate a periodic velocity to finer faces by Fourier series.

    `coarsen` gives back the coarse state, and no divergence is added: both hold since the series
    is that of the velocity of which the coarse values are averages over fine faces.
    """
    u, v = state.unbind(1)
    u = _averaged(_sampled(u, 1, factor), 2, factor)
    v = _averaged(_sampled(v, 2, factor), 1, factor)
    return torch.stack([u, v], dim=1)


def _sampled(values: Tensor, axis: int, factor: int) -> Tensor:
    """Interpolate along an axis between points of which the last is at the end of the period."""
    return _series(values.roll(1, axis), axis, factor, averaged=False).roll(-1, axis)


def _averaged(values: Tensor, axis: int, factor: int) -> Tensor:
    """Interpolate along an axis from averages over `factor` cells to averages over one."""
    return _series(values, axis, factor, averaged=True)


def _series(values: Tensor, axis: int, factor: int, averaged: bool) -> Tensor:
    points = values.shape[axis]
    index = torch.arange(points // 2 + 1, dtype=values.dtype, device=values.device)
    coefficients = torch.fft.rfft(values, dim=axis, norm="forward")
    weights = torch.ones_like(index)
    shift = torch.zeros_like(index)
    if averaged:
        angle = torch.pi * index / points
        weights[1:] = factor * torch.sin(angle[1:] / factor) / torch.sin(angle[1:])
        shift = angle / factor - angle  # the first fine cell's centre is before the coarse one's
    if points % 2 == 0:
        weights[-1] *= 0.5  # the highest wave is half of each sign
    shape = [1] * values.ndim
    shape[axis] = -1
    filtered = coefficients * torch.polar(weights, shift).reshape(shape)
    return torch.fft.irfft(filtered, n=points * factor, dim=axis, norm="forward")
