"""Incompressible flow between walls on the staggered grid of `longrun.solvers.mac`."""

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.solvers.mac import GHOSTS, AbstractMACSolver, Padded, column


class Reflection:
    """Sine or cosine transform along one axis, which diagonalises the second difference.

    Values are continued beyond both edges, oddly where the field is zero there and evenly where
    its slope is, until they are periodic; the real or the imaginary part of their Fourier series
    is the transform. That way every kind of real transform is one FFT, on any device.

    Parameters
    ----------
    points
        Number of values along the axis.
    faces
        Whether values are at upper faces of cells, the last one on the upper edge, or at centres.
        At faces the field must be zero on the lower edge, and the value on the upper edge must be
        zero if `upper` is "value".
    lower, upper
        What is zero on the edge: "value" or "slope".
    dtype, device
        Of the values.
    """

    def __init__(
        self,
        points: int,
        faces: bool,
        lower: str,
        upper: str,
        dtype: torch.dtype,
        device: torch.device,
    ):
        assert not faces or lower == "value"
        self.points, self.faces = points, faces
        self.odd_below, self.odd_above = lower == "value", upper == "value"
        self.twice = self.odd_below != self.odd_above  # then continuing once gives half a period
        self.period = points * (4 if self.twice else 2)
        index = torch.arange(self.period // 2 + 1, dtype=torch.float64, device=device)
        turn = 2 * torch.pi * (index[1::2] if self.twice else index) / self.period
        self.eigenvalues = 2 * torch.cos(turn) - 2
        phase = torch.exp(-1j * turn * (1.0 if faces else 0.5))
        self.phase = (-1j * phase if self.odd_below else phase).to(dtype.to_complex())

    def forward(self, values: Float[Tensor, "*batch points"]) -> Float[Tensor, "*batch wave"]:
        """Return the coefficients of the values along the last axis."""
        mirrored = values[..., : self.points - self.faces].flip(-1)
        parts = [values, -mirrored if self.odd_above else mirrored]
        if self.faces:
            parts.append(torch.zeros_like(values[..., :1]))
        continued = torch.cat(parts, -1)
        if self.twice:
            continued = torch.cat([continued, -continued], -1)
        spectrum = torch.fft.rfft(continued, norm="forward")
        if self.twice:
            spectrum = spectrum[..., 1::2]
        return (spectrum * self.phase).real

    def backward(
        self, coefficients: Float[Tensor, "*batch wave"]
    ) -> Float[Tensor, "*batch points"]:
        """Return the values of these coefficients, along the last axis."""
        spectrum = coefficients * self.phase.conj()
        if self.twice:  # odd waves only
            spectrum = torch.stack([torch.zeros_like(spectrum), spectrum], -1).flatten(-2)
        return torch.fft.irfft(spectrum, n=self.period, norm="forward")[..., : self.points]


class Diagonal:
    """A function of the Laplacian on a box, applied by fast diagonalisation.

    Transforms run along the last axis, contiguous in memory: bits of an FFT along another axis
    depend on the size of the batch.

    Parameters
    ----------
    along_x, along_y
        Transforms of each axis.
    """

    def __init__(self, along_x: Reflection, along_y: Reflection):
        self.along_x, self.along_y = along_x, along_y

    def laplacian(self, spacing: tuple[Tensor, ...]) -> Float[Tensor, "shared waves_y waves_x"]:
        """Return the eigenvalues of the Laplacian; float64."""
        along_x = self.along_x.eigenvalues / spacing[0] ** 2
        return along_x + self.along_y.eigenvalues[:, None] / spacing[1] ** 2

    def apply(
        self, values: Float[Tensor, "batch x y"], factors: Float[Tensor, "shared waves_y waves_x"]
    ) -> Float[Tensor, "batch x y"]:
        """Multiply the components of `values` along the eigenvectors."""
        half = self.along_y.forward(values).transpose(1, 2).contiguous()
        half = self.along_x.backward(self.along_x.forward(half) * factors)
        return self.along_y.backward(half.transpose(1, 2).contiguous())


class ConfinedMACSolver(AbstractMACSolver):
    """Flow in a box with walls below and above, closed at its sides or with an inlet and an outlet.

    All walls are no-slip; the upper one may slide. With an inlet, fluid enters on the left at one
    speed and leaves on the right, where pressure is zero and the velocity has no slope. A body is a
    resistance that stops the fluid (Brinkman's penalisation).

    Between walls projection and diffusion don't commute. A step first takes the gradient from all
    accelerations, of convection, viscosity and resistance; then come implicit diffusion and
    resistance and, last, the projection, which has little left to do. With one projection, at the
    end, fluid would slip along walls by a step times the pressure gradient.

    Parameters
    ----------
    grid
        Cells along each axis.
    spacing, frame, steps, dtype
        See `AbstractMACSolver`.
    viscosity
        Kinematic, one per trajectory; float64.
    lid
        Velocity of the upper wall, one per trajectory; float64.
    inlet
        Velocity at the inlet, one per trajectory, or None for a closed box; float64.
    resistance
        Rate at which the velocity decays on each face, float64; none by default.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        spacing: tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]],
        frame: Float[Tensor, " batch"],
        steps: int,
        viscosity: Float[Tensor, " batch"],
        lid: Float[Tensor, " batch"],
        inlet: Float[Tensor, " batch"] | None = None,
        resistance: Float[Tensor, "batch 2 x y"] | None = None,
        dtype: torch.dtype = torch.float64,
    ):
        super().__init__(spacing, frame, steps, dtype)
        self.open = inlet is not None
        inflow = torch.zeros_like(lid) if inlet is None else inlet
        self.lid, self.inflow = column(lid).to(dtype), column(inflow).to(dtype)
        (nx, ny), device = grid, viscosity.device
        end = "slope" if self.open else "value"

        def reflection(points: int, faces: bool, lower: str, upper: str) -> Reflection:
            return Reflection(points, faces, lower, upper, dtype, device)

        self.pressure = Diagonal(
            reflection(nx, False, "slope", "value" if self.open else "slope"),
            reflection(ny, False, "slope", "slope"),
        )
        laplacian = self.pressure.laplacian(self.exact_spacing)
        if not self.open:
            laplacian[:, 0, 0] = torch.inf  # pressure is defined up to a constant
        self.inverse = (1 / laplacian).to(dtype)

        self.velocity = (
            Diagonal(reflection(nx, True, "value", end), reflection(ny, False, "value", "value")),
            Diagonal(reflection(nx, False, "value", end), reflection(ny, True, "value", "value")),
        )
        rate = column(viscosity) * self.exact_time_step
        self.decay = [
            (1 / (1 - rate * component.laplacian(self.exact_spacing))).to(dtype)
            for component in self.velocity
        ]
        # what moving walls and the inlet add to the Laplacian of u, times the step
        source = torch.zeros(max(len(rate), len(lid)), nx, ny, dtype=torch.float64, device=device)
        source[:, :, -1:] += 2 * rate * column(lid) / self.exact_spacing[1] ** 2
        source[:, :1] += rate * column(inflow) / self.exact_spacing[0] ** 2
        inside = torch.ones(2, nx, ny, dtype=torch.float64, device=device)
        inside[1, :, -1] = 0
        if not self.open:
            inside[0, -1] = 0
        self.source, self.inside = source.to(dtype), inside.to(dtype)
        if resistance is None:
            resistance = torch.zeros(1, 1, 1, 1, dtype=torch.float64, device=device)
        self.resistance = resistance.to(dtype)
        self.viscosity = column(viscosity)[:, None].to(dtype)

    def pad(self, state: Float[Tensor, "batch 2 x y"]) -> Padded:
        """Add `GHOSTS` cells beyond each edge: images behind walls, uniform flow upstream."""
        u, v = state.unbind(1)
        if self.open:
            inflow = self.inflow.expand(len(u), GHOSTS, u.shape[2])
            u = torch.cat([inflow, u, u[:, -1:], u[:, -1:]], 1)
            v = torch.cat([torch.zeros_like(inflow), v, v[:, -1:], v[:, -1:]], 1)
        else:
            u = torch.cat([-u[:, :1], torch.zeros_like(u[:, :1]), u, -u[:, -3:-1].flip(1)], 1)
            v = torch.cat([-v[:, :2].flip(1), v, -v[:, -2:].flip(1)], 1)
        u = torch.cat([-u[:, :, :2].flip(2), u, 2 * self.lid - u[:, :, -2:].flip(2)], 2)
        v = torch.cat([-v[:, :, :1], torch.zeros_like(v[:, :, :1]), v, -v[:, :, -3:-1].flip(2)], 2)
        return torch.stack([u, v], 1)

    def force(self, state: Float[Tensor, "batch 2 x y"]) -> Float[Tensor, "batch 2 x y"]:
        """Return zero: nothing else acts."""
        return torch.zeros_like(state)

    def project(self, velocity: Float[Tensor, "batch 2 x y"]) -> Float[Tensor, "batch 2 x y"]:
        """Remove the divergence by a pressure gradient; exact to rounding."""
        return self._solenoidal(velocity, self.inflow)

    def _solenoidal(self, field: Tensor, inflow: Tensor) -> Tensor:
        """Subtract the gradient that leaves no divergence with this inflow, and none into walls."""
        u, v = (field * self.inside).unbind(1)
        inflow = inflow.expand(len(u), 1, u.shape[2])
        divergence = torch.cat([inflow, u], 1).diff(dim=1) / self.spacing[0]
        divergence = divergence + (
            torch.cat([torch.zeros_like(v[:, :, :1]), v], 2).diff(dim=2) / self.spacing[1]
        )
        pressure = self.pressure.apply(divergence, self.inverse)
        last = pressure[:, -1:]
        beyond = -last if self.open else last
        u = u - torch.cat([pressure, beyond], 1).diff(dim=1) / self.spacing[0]
        v = v - torch.cat([pressure, pressure[:, :, -1:]], 2).diff(dim=2) / self.spacing[1]
        return torch.stack([u, v], 1)

    def diffuse(self, velocity: Float[Tensor, "batch 2 x y"]) -> Float[Tensor, "batch 2 x y"]:
        """Diffuse over one step by backward Euler; exact to rounding."""
        u, v = (velocity * self.inside).unbind(1)
        u = (u + self.source) * self.inside[0]
        parts = zip(self.velocity, (u, v), self.decay, strict=True)
        return torch.stack([on.apply(values, decay) for on, values, decay in parts], 1)

    def settle(
        self, state: Float[Tensor, "batch 2 x y"], tendency: Float[Tensor, "batch 2 x y"]
    ) -> Float[Tensor, "batch 2 x y"]:
        """End a step, given the explicit tendency."""
        time_step = self.time_step[:, None]
        damping = self._viscous(state) - self.resistance * state
        balanced = self._solenoidal(tendency + damping, torch.zeros_like(self.inflow))
        velocity = self.diffuse(state + time_step * (balanced - damping * self.inside))
        return self.project(velocity / (1 + time_step * self.resistance))

    def _viscous(self, state: Tensor) -> Tensor:
        """Viscosity times Laplacian."""
        padded = self.pad(state)
        along_x = padded[..., 2:-2].diff(n=2, dim=2)[:, :, 1:-1] / self.spacing[0][:, None] ** 2
        along_y = padded[:, :, 2:-2].diff(n=2, dim=3)[..., 1:-1] / self.spacing[1][:, None] ** 2
        return self.viscosity * (along_x + along_y)


def refine_confined(
    state: Float[Tensor, "batch 2 X Y"], factor: int
) -> Float[Tensor, "batch 2 x y"]:
    """Interpolate a velocity between walls to finer faces, by cubics of its stream function.

    `coarsen` returns the coarse state, no divergence is added and walls stay tight, whatever the
    shape of the cells. A left edge that is not a wall has the same velocity everywhere.
    """
    u, v = state.unbind(1)
    inflow = u[:, :1].mean(2, keepdim=True).expand(-1, 1, u.shape[2])
    rising = torch.cat([inflow, u], 1).cumsum(2)  # the stream function at corners, per dy
    falling = torch.cat([torch.zeros_like(v[:, :, :1]), v], 2).cumsum(1)  # minus it, per dx
    rising = torch.cat([torch.zeros_like(rising[:, :, :1]), rising], 2)
    falling = torch.cat([torch.zeros_like(falling[:, :1]), falling], 1)
    rising, falling = (_cubic(_cubic(part, 1, factor), 2, factor) for part in (rising, falling))
    u = factor * rising[:, 1:].diff(dim=2)
    v = factor * falling[:, :, 1:].diff(dim=1)
    return torch.stack([u, v], 1)


def _cubic(values: Tensor, axis: int, factor: int) -> Tensor:
    """Put `factor - 1` values between neighbours, by the cubic through the four nearest."""
    cells = values.shape[axis] - 1
    place = torch.arange(cells * factor + 1, device=values.device)
    first = (place // factor - 1).clamp(0, cells - 3)
    offset = (place - first * factor).to(values.dtype) / factor
    shape = [-1 if other == axis else 1 for other in range(values.ndim)]
    found = torch.zeros((), dtype=values.dtype, device=values.device)
    for node in range(4):
        weight = torch.ones_like(offset)
        for other in range(4):
            if other != node:
                weight = weight * (offset - other) / (node - other)
        found = found + values.index_select(axis, first + node) * weight.reshape(shape)
    return found
