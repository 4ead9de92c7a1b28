"""Finite volumes on uniform periodic, open or walled grids, shared by hyperbolic equations.

Cell averages are advanced by the method of lines: primitive variables are reconstructed linearly
in each cell with van Leer's limiter (MUSCL), a Riemann solver turns the two values at a face into
a flux, axes are summed without splitting, and SSP-RK3 steps in time. Second order in space where
the solution is smooth, third in time; shocks are captured over a few cells.

Inside a solver the channel comes first, (channel, batch, *space), so that one variable is one
contiguous block.

Sources: van Leer (1979), J. Comput. Phys. 32, 101 (MUSCL); Toro, Spruce and Speares (1994), Shock
Waves 4, 25 (HLLC); Einfeldt et al. (1991), J. Comput. Phys. 92, 273 (bounds of the wave speeds);
Shu and Osher (1988), J. Comput. Phys. 77, 439 (the Runge-Kutta scheme); Audusse et al. (2004),
SIAM J. Sci. Comput. 25, 2050 (bottoms).
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from longrun.runtime.cli import UserError
from longrun.solvers._base import AbstractSolver

COURANT = 0.5
"""Largest sum over axes of time step times wave speed over cell size, for an initial state.

The scheme is stable, and first order positive, to 1; a flow may double its fastest wave.
"""

DIFFUSION = 0.5
"""Largest 2 axes viscosity (time step) / (cell size)^2, for an initial state.

SSP-RK3 is stable to 1.25: the margin is for a run at half the step and twice the resolution.
"""


def extend(
    cells: Float[Tensor, "channel batch *space"],
    axis: int,
    width: int,
    boundary: str,
    odd: Sequence[int] = (),
) -> Float[Tensor, "channel batch *extended"]:
    """Add ghost cells at both ends of a spatial axis.

    Parameters
    ----------
    cells
        Cell values.
    axis
        Number of the spatial axis, from 0.
    width
        Ghost cells at each end.
    boundary
        "periodic"; "outflow" repeats the last cell; "reflecting" mirrors.
    odd
        Channels that change sign in the mirror: the velocity along the axis.
    """
    dim = 2 + axis
    points = cells.shape[dim]
    first, last = cells.narrow(dim, 0, width), cells.narrow(dim, points - width, width)
    if boundary == "periodic":
        low, high = last, first
    elif boundary == "outflow":
        shape = list(first.shape)
        low = cells.narrow(dim, 0, 1).expand(shape)
        high = cells.narrow(dim, points - 1, 1).expand(shape)
    else:
        sign = cells.new_ones(len(cells))
        sign[list(odd)] = -1
        sign = sign.reshape(-1, *[1] * (cells.ndim - 1))
        low, high = first.flip(dim) * sign, last.flip(dim) * sign
    return torch.cat([low, cells, high], dim)


def half_slope(
    before: Float[Tensor, "*cells"], after: Float[Tensor, "*cells"]
) -> Float[Tensor, "*cells"]:
    """Limit the change from the centre of a cell to its faces, as van Leer does.

    Half the harmonic mean of the differences to both neighbours, 0 where their signs differ.
    """
    product = (before * after).clamp_min_(0.0)
    total = before + after
    # instead of product / total except at 0 / 0: torch.where is slow on a CPU
    return product * total / (total * total + torch.finfo(total.dtype).tiny)


def faces(
    cells: Float[Tensor, "channel batch *extended"],
    axis: int,
    keep: Float[Tensor, "1 batch *extended"] | None = None,
) -> tuple[Float[Tensor, "channel batch *faces"], Float[Tensor, "channel batch *faces"]]:
    """Reconstruct the values at both sides of each face across an axis.

    Parameters
    ----------
    cells
        Cell values with two ghost cells at both ends of the axis.
    axis
        Number of the spatial axis.
    keep
        1, or 0 where a cell is treated as constant; with the same ghost cells.

    Returns
    -------
    left, right
        Values at the faces, the first and the last of which are the ends of the grid.
    """
    dim = 2 + axis
    inner = cells.shape[dim] - 2
    jump = cells.diff(dim=dim)
    half = half_slope(jump.narrow(dim, 0, inner), jump.narrow(dim, 1, inner))
    if keep is not None:
        half = half * keep.narrow(dim, 1, inner)
    left = cells.narrow(dim, 1, inner - 1) + half.narrow(dim, 0, inner - 1)
    right = cells.narrow(dim, 2, inner - 1) - half.narrow(dim, 1, inner - 1)
    return left, right


def hllc_euler(
    left: Float[Tensor, "channel batch *faces"],
    right: Float[Tensor, "channel batch *faces"],
    gamma: float,
    axis: int,
) -> Float[Tensor, "channel batch *faces"]:
    """HLLC flux of an ideal gas; contacts and shear waves at rest are kept exactly.

    Parameters
    ----------
    left, right
        Density, velocity components, pressure at both sides of each face.
    gamma
        Ratio of specific heats.
    axis
        Axis along which the flux goes.

    Returns
    -------
    Tensor
        Flux of density, momentum components, total energy.
    """
    density_l, normal_l, pressure_l = left[0], left[1 + axis], left[-1]
    density_r, normal_r, pressure_r = right[0], right[1 + axis], right[-1]
    square_l, square_r = gamma * pressure_l / density_l, gamma * pressure_r / density_r
    weight = 1.0 / (1.0 + (density_l / density_r).sqrt())  # of the right side, in Roe's mean
    jump = normal_r - normal_l
    change = weight * jump
    mean = normal_l + change
    sound = square_l + weight * (square_r - square_l) + 0.5 * change * (jump - change)
    sound = sound.sqrt()
    slowest = torch.minimum(normal_l - square_l.sqrt(), mean - sound)
    fastest = torch.maximum(normal_r + square_r.sqrt(), mean + sound)
    mass_l, mass_r = density_l * (slowest - normal_l), density_r * (fastest - normal_r)
    contact = pressure_r - pressure_l + mass_l * normal_l - mass_r * normal_r
    contact = contact / (mass_l - mass_r)

    upwind = _Choice(contact >= 0.0, left)
    state = upwind(left, right)
    speed, mass = upwind(slowest, fastest), upwind(mass_l, mass_r)
    density, normal, pressure = state[0], state[1 + axis], state[-1]
    speeds = state[1:-1].unbind(0)
    energy = pressure / (gamma - 1) + 0.5 * density * _square(speeds)
    # where the whole fan goes to one side, a contact at the flow's speed leaves the state unchanged
    contact = _Choice(speed * contact > 0.0, left)(normal, contact)
    within = speed - contact
    star = pressure + mass * (contact - normal)
    energy = ((speed - normal) * energy - pressure * normal + star * contact) / within
    flow = mass / within * contact
    momentum = [
        flow * contact + star if number == axis else flow * along
        for number, along in enumerate(speeds)
    ]
    return torch.stack([flow, *momentum, contact * (energy + star)])


def hllc_shallow(
    left: Float[Tensor, "channel batch *faces"],
    right: Float[Tensor, "channel batch *faces"],
    gravity: Float[Tensor, "batch *ones"],
    axis: int,
) -> Float[Tensor, "channel batch *faces"]:
    """HLLC flux of shallow water: HLL, and the velocity along the face upwind of the contact.

    Parameters
    ----------
    left, right
        Depth and velocity components at both sides of each face; depths are positive.
    gravity
        Acceleration.
    axis
        Axis along which the flux goes.

    Returns
    -------
    Tensor
        Flux of depth and of depth times velocity components.
    """
    depth_l, normal_l, depth_r, normal_r = left[0], left[1 + axis], right[0], right[1 + axis]
    weight = 1.0 / (1.0 + (depth_l / depth_r).sqrt())  # of the right side, in Roe's mean
    mean = normal_l + weight * (normal_r - normal_l)
    sound = (0.5 * gravity * (depth_l + depth_r)).sqrt()
    slowest = torch.minimum(normal_l - (gravity * depth_l).sqrt(), mean - sound).clamp_max(0.0)
    fastest = torch.maximum(normal_r + (gravity * depth_r).sqrt(), mean + sound).clamp_min(0.0)
    share = slowest / (fastest - slowest)
    flow_l, flow_r = depth_l * normal_l, depth_r * normal_r
    push_l = flow_l * normal_l + 0.5 * gravity * depth_l * depth_l
    push_r = flow_r * normal_r + 0.5 * gravity * depth_r * depth_r
    # starting from the left flux, which equal sides return exactly: a lake stays at rest
    flow = flow_l + share * (fastest * (depth_r - depth_l) - (flow_r - flow_l))
    push = push_l + share * (fastest * (flow_r - flow_l) - (push_r - push_l))
    upwind = _Choice(flow >= 0.0, left)
    momentum = [
        push if number == axis else flow * upwind(a, b)
        for number, (a, b) in enumerate(zip(left[1:].unbind(0), right[1:].unbind(0), strict=True))
    ]
    return torch.stack([flow, *momentum])


class _Choice:
    """One of two finite tensors, exactly, by a condition; on a CPU far faster than torch.where."""

    def __init__(self, condition: Tensor, like: Tensor):
        self.first = condition.to(like.dtype)
        self.second = 1.0 - self.first

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        return self.first * first + self.second * second


def _square(speeds: Sequence[Tensor]) -> Tensor:
    """Square of a vector, from its components."""
    square = speeds[0] * speeds[0]
    for speed in speeds[1:]:
        square = square + speed * speed
    return square


def ssp_rk3(state: Tensor, euler: Callable[[Tensor], Tensor]) -> Tensor:
    """Take one step of the strong-stability-preserving Runge-Kutta scheme of third order.

    Parameters
    ----------
    state
        Any tensor.
    euler
        One step of the forward Euler scheme, of which this one is a convex combination: whatever
        every Euler step keeps positive stays positive.
    """
    half = 0.75 * state + 0.25 * euler(euler(state))
    return (state + 2.0 * euler(half)) / 3.0


class AbstractFiniteVolumeSolver(AbstractSolver):
    """Advances cell averages of conserved quantities; states hold primitive ones.

    Each frame begins with the primitive state, so a run restarted from a stored frame repeats the
    same bits. Where a step would leave a cell that is not `admissible`, it is repeated with that
    cell and its neighbours at first order.

    Parameters
    ----------
    spacing
        Size of the cells along every axis, one number per trajectory.
    boundary
        "periodic", "outflow" or "reflecting", one per axis.
    frame
        Time between frames, one per trajectory.
    steps
        Time steps per frame.
    dtype
        Precision of the states; coefficients are computed in float64.
    """

    def __init__(
        self,
        spacing: Float[Tensor, " batch"],
        boundary: Sequence[str],
        frame: Float[Tensor, " batch"],
        steps: int,
        dtype: torch.dtype = torch.float64,
    ):
        self.boundary = tuple(boundary)
        self.axes = range(len(self.boundary))
        self.steps = steps
        self.dtype = dtype
        self.time_step = self._shaped(frame.double() / steps)
        self.inverse_spacing = self._shaped(1 / spacing.double())

    @abstractmethod
    def conserved(
        self, state: Float[Tensor, "channel batch *space"]
    ) -> Float[Tensor, "channel batch *space"]:
        """Return what is advanced, from what is stored."""

    @abstractmethod
    def primitive(
        self, cells: Float[Tensor, "channel batch *space"]
    ) -> Float[Tensor, "channel batch *space"]:
        """Return what is stored, from what is advanced."""

    @abstractmethod
    def admissible(self, cells: Float[Tensor, "channel batch *space"]) -> Bool[Tensor, "batch *s"]:
        """Whether each cell has a positive density, depth or pressure."""

    @abstractmethod
    def sweep(
        self,
        state: Float[Tensor, "channel batch *space"],
        axis: int,
        keep: Float[Tensor, "1 batch *space"] | None,
    ) -> Float[Tensor, "channel batch *space"]:
        """Difference of the fluxes through the two faces of each cell across an axis."""

    def source(self, state: Float[Tensor, "channel batch *space"]) -> Tensor | None:
        """Rate of change besides the fluxes; none by default."""
        return None

    def step(
        self, state: Float[Tensor, "batch channel *space"]
    ) -> Float[Tensor, "batch channel *space"]:
        """Advance by one frame."""
        cells = self.conserved(state.transpose(0, 1).contiguous())
        for _ in range(self.steps):
            cells = ssp_rk3(cells, self._euler)
        return self.primitive(cells).transpose(0, 1).contiguous()

    def sides(
        self,
        state: Float[Tensor, "channel batch *space"],
        axis: int,
        keep: Float[Tensor, "1 batch *space"] | None,
        odd: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        """Reconstruct a state at both sides of the faces across an axis, see `faces`."""
        boundary = self.boundary[axis]
        if keep is not None:
            keep = extend(keep, axis, 2, boundary)
        return faces(extend(state, axis, 2, boundary, odd), axis, keep)

    def _euler(self, cells: Tensor) -> Tensor:
        state = self.primitive(cells)
        advanced = cells + self.time_step * self._rate(state, None)
        sound = self.admissible(advanced)
        if bool(sound.all()):
            return advanced
        return cells + self.time_step * self._rate(state, self._away_from(~sound))

    def _rate(self, state: Tensor, keep: Tensor | None) -> Tensor:
        change = self.sweep(state, 0, keep)
        for axis in self.axes[1:]:
            change = change + self.sweep(state, axis, keep)
        rate = -self.inverse_spacing * change
        source = self.source(state)
        return rate if source is None else rate + source

    def _away_from(self, bad: Bool[Tensor, "batch *space"]) -> Float[Tensor, "1 batch *space"]:
        """Return 0 in the cells that are bad and in their neighbours, 1 elsewhere."""
        keep = (~bad).to(self.dtype)[None]
        near = keep
        for axis in self.axes:
            around = extend(keep, axis, 1, self.boundary[axis])
            points = keep.shape[2 + axis]
            near = near * around.narrow(2 + axis, 0, points) * around.narrow(2 + axis, 2, points)
        return near

    def _shaped(self, values: Float[Tensor, " batch"]) -> Float[Tensor, "batch *ones"]:
        """Return one number per trajectory so that it broadcasts against cells."""
        return values.to(self.dtype).reshape(-1, *[1] * len(self.boundary))


def check_substeps(
    substeps: int,
    rate: float,
    diffusion_rate: float = 0.0,
) -> None:
    """Refuse a time step that is too long for an explicit scheme.

    Parameters
    ----------
    substeps
        Steps per frame.
    rate
        Largest sum over axes of wave speed over cell size, times the time between frames.
    diffusion_rate
        Largest 2 axes viscosity / (cell size)^2, times the time between frames.

    Raises
    ------
    UserError
        The step is too long; the message says how many substeps to use.
    """
    needed = math.ceil(rate / COURANT + diffusion_rate / DIFFUSION)
    if substeps < needed:
        raise UserError(
            f"substeps must be at least {needed} for this initial state, is {substeps}: the "
            f"Courant number is {rate / substeps:.3g} of at most {COURANT:g}, and "
            f"viscous diffusion adds {diffusion_rate / substeps:.3g} of at most {DIFFUSION:g}"
        )


def resample(
    cells: Float[Tensor, "batch channel *space"],
    grid: Sequence[int],
    boundary: Sequence[str],
    admissible: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "batch channel *other"]:
    """Move cell averages to another grid of the same box; sums over the box are kept.

    A coarser grid takes averages; on a finer one each cell is linear, with van Leer's slope. Where
    the ratio is not a whole number, the way leads over the smallest grid that both divide.

    Parameters
    ----------
    cells
        Averages of conserved quantities.
    grid
        Cells along each axis of the new grid.
    boundary
        Boundary condition of each axis; cells at an end that is not periodic have no slope.
    admissible
        From averages, shape (batch, channel, *cells), to which cells are possible, shape (batch, 1,
        *cells); a cell with an impossible part is treated as constant.
    """
    for axis, (points, kind) in enumerate(zip(grid, boundary, strict=True)):
        common = math.gcd(points, cells.shape[2 + axis])
        cells = _refine(cells, points // common, axis, kind, admissible)
        cells = coarsen(cells, cells.shape[2 + axis] // points, axis)
    return cells


def coarsen(
    cells: Float[Tensor, "batch channel *space"], factor: int, axis: int
) -> Float[Tensor, "batch channel *coarse"]:
    """Average groups of `factor` cells along a spatial axis."""
    if factor == 1:
        return cells
    parts = cells.unflatten(2 + axis, (-1, factor)).unbind(3 + axis)
    total = parts[0]
    for part in parts[1:]:  # in this order for any batch, unlike a reduction
        total = total + part
    return total / factor


def _refine(
    cells: Tensor,
    factor: int,
    axis: int,
    boundary: str,
    admissible: Callable[[Tensor], Tensor] | None,
) -> Tensor:
    if factor == 1:
        return cells
    dim = 2 + axis
    points = cells.shape[dim]
    kind = "periodic" if boundary == "periodic" else "outflow"
    jump = extend(cells, axis, 1, kind).diff(dim=dim)
    slope = half_slope(jump.narrow(dim, 0, points), jump.narrow(dim, 1, points))
    places = [(2 * part + 1 - factor) / factor for part in range(factor)]  # the faces are at 1
    if admissible is not None:
        possible = admissible(cells + places[0] * slope) & admissible(cells + places[-1] * slope)
        slope = torch.where(possible, slope, 0.0)
    return torch.stack([cells + place * slope for place in places], dim + 1).flatten(dim, dim + 1)
