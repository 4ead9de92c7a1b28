"""Three-dimensional incompressible flow in a periodic box, with or without a subgrid model.

The velocity is advanced in the rotational form, u_t = P[u x omega - div tau] + viscosity lap u;
P, the projection onto fields without divergence, takes the pressure's place. The subgrid stress is
that of Smagorinsky, tau = -2 C Delta^2 |S| S, |S| = sqrt(2 S:S), S the rate of strain. A force on
the longest waves may keep the flow going, see `IncompressibleSolver`.

Symmetric tensors without trace are five fields, in the order xx, yy, xy, xz, yz.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from longrun.solvers.spectral import SpectralSolver, each, forward, indices, inverse

Velocity = Complex[Tensor, "batch 3 mode_x mode_y mode_z"]
Symmetric = Complex[Tensor, "batch 5 mode_x mode_y mode_z"]
Scalar = Float[Tensor, "batch 1 x y z"]
Vector = Float[Tensor, "batch 3 x y z"]
Deviator = Float[Tensor, "batch 5 x y z"]

TEST_RATIO = 2.0  # width of the dynamic model's test filter over the grid's


class IncompressibleSolver(SpectralSolver):
    """Pseudo-spectral solver for the velocity, three channels.

    States are projected when they enter, so any velocity is accepted; the mean is kept.

    Without a subgrid model a tendency takes nine real transforms in two calls, with Smagorinsky's
    nineteen, with the dynamic one forty-two. Quadratic terms are free of aliasing, |S| S is not.

    Parameters
    ----------
    lengths
        Extent of the box along each axis, each of shape (batch, 1, 1, 1, 1).
    viscosity
        Same shape.
    grid
        Points along each axis.
    smagorinsky
        C Delta^2, same shape; None without a subgrid model.
    test_filter
        Largest wavenumber along each axis that the test filter of the dynamic model keeps, same
        shape; C Delta^2 is then found from the resolved velocity (Germano et al. 1991, Phys. Fluids
        A 3, 1760; least squares of Lilly 1992, Phys. Fluids A 4, 633), averaged over the box,
        one number per trajectory, and at least zero.
    power
        Work per unit of mass and time of a force on the longest waves, same shape; None without
        one. The force is their velocity times power / (mean square of it), so what it does is
        `power` at every instant, whatever the flow (Machiels 1997, Phys. Rev. Lett. 79, 3411).
    driven
        Largest index of the wavevector, as a length, that the force acts on.
    **options
        The other options of `SpectralSolver`.
    """

    def __init__(
        self,
        lengths: Sequence[Float[Tensor, "batch 1 1 1 1"]],
        viscosity: Float[Tensor, "batch 1 1 1 1"],
        grid: Sequence[int],
        *,
        smagorinsky: Float[Tensor, "batch 1 1 1 1"] | None = None,
        test_filter: Float[Tensor, "batch 1 1 1 1"] | None = None,
        power: Float[Tensor, "batch 1 1 1 1"] | None = None,
        driven: float = 2.0,
        dtype: torch.dtype = torch.float64,
        **options: Any,
    ):
        device = viscosity.device
        wavenumbers = [
            2 * torch.pi / length * index.to(device)
            for length, index in zip(map(_once, lengths), indices(grid), strict=True)
        ]
        squared = sum(k**2 for k in wavenumbers)
        assert isinstance(squared, Tensor)
        super().__init__(
            linear=-viscosity * squared,
            symbol=(squared > 0).double(),  # the mean velocity is constant
            product=self._tendency if power is None else self._driven_tendency,
            grid=grid,
            dtype=dtype,
            **options,
        )
        spectral = dtype.to_complex()  # real coefficients would be converted in every product
        self.wavenumbers = [k.to(spectral) for k in wavenumbers]
        self.derivatives = [(1j * k).to(spectral) for k in wavenumbers]
        self.inverse_squared = torch.where(squared > 0, 1 / squared, 0.0).to(spectral)
        self.smagorinsky = None if smagorinsky is None else smagorinsky.to(dtype)
        self.test_filter: Tensor | None = None
        if test_filter is not None:
            keep = torch.ones((), dtype=torch.bool, device=device)
            for k in wavenumbers:
                keep = keep & (k.abs() < _once(test_filter) * (1 - 1e-9))
            self.test_filter = keep.to(dtype)
        self.power = None if power is None else power.to(dtype)
        index = sum(index.to(device) ** 2 for index in indices(grid))
        assert isinstance(index, Tensor)
        long = (index > 0) & (index <= driven**2 * (1 + 1e-9))
        self.long = long[..., : math.floor(driven) + 1].to(dtype)

    def enter(self, state: Vector) -> Velocity:
        """Return the spectrum of a velocity, without its divergence."""
        return self._project(super().enter(state))

    def _project(self, spectrum: Velocity) -> Velocity:
        """Remove the gradient part."""
        return self._without_gradient(spectrum.split(1, dim=1))

    def _without_gradient(self, parts: Sequence[Tensor]) -> Velocity:
        along = self.wavenumbers[0] * parts[0]
        for k, part in zip(self.wavenumbers[1:], parts[1:], strict=True):
            along.addcmul_(k, part)
        along.mul_(self.inverse_squared)
        pairs = zip(self.wavenumbers, parts, strict=True)
        return torch.cat([part.addcmul(k, along, value=-1) for k, part in pairs], dim=1)

    def _curl(self, velocity: Velocity) -> Velocity:
        dx, dy, dz = (d[:, 0] for d in self.derivatives)
        u, v, w = velocity.unbind(1)
        return torch.stack(
            [(dy * w).sub_(dz * v), (dz * u).sub_(dx * w), (dx * v).sub_(dy * u)], dim=1
        )

    def _strain(self, velocity: Velocity) -> Symmetric:
        dx, dy, dz = (d[:, 0] for d in self.derivatives)
        u, v, w = velocity.unbind(1)
        cross = [(dx * v).add_(dy * u), (dx * w).add_(dz * u), (dy * w).add_(dz * v)]
        return torch.stack([dx * u, dy * v, *(part.mul_(0.5) for part in cross)], dim=1)

    def _divergence(self, tensor: Symmetric) -> Velocity:
        dx, dy, dz = (d[:, 0] for d in self.derivatives)
        xx, yy, xy, xz, yz = tensor.unbind(1)
        zz = -(xx + yy)
        return torch.stack(
            [
                (dx * xx).add_(dy * xy).add_(dz * xz),
                (dx * xy).add_(dy * yy).add_(dz * yz),
                (dx * xz).add_(dy * yz).add_(dz * zz),
            ],
            dim=1,
        )

    def _driven_tendency(self, velocity: Velocity) -> Velocity:
        """Return P[u x omega - div tau] and the force; its waves lie in the first columns."""
        assert self.power is not None
        columns = self.long.shape[-1]
        long = self.long * velocity[..., :columns]
        square = long.real.square() + long.imag.square()
        # a half-spectrum holds one of each pair of waves, but both where the last index is 0
        square = 2 * square.sum(4, keepdim=True) - square[..., :1]
        for axis in (3, 2, 1):  # axis by axis: the bits depend on neither batch nor threads
            square = square.sum(axis, keepdim=True)
        square = square.clamp_min(torch.finfo(square.dtype).tiny)  # at rest
        tendency = self._tendency(velocity)
        tendency[..., :columns] += self.power / square * long
        return tendency

    def _tendency(self, velocity: Velocity) -> Velocity:
        """Return P[u x omega - div tau]."""
        spectra = [velocity, self._curl(velocity)]
        if self.smagorinsky is None and self.test_filter is None:
            parts = [part for spectrum in spectra for part in spectrum.split(1, dim=1)]
            u, v, w, *vorticity = each(lambda part: inverse(part, self.grid), *parts)
            products = _cross((u, v, w), vorticity)
            return self._without_gradient(each(lambda part: forward(part, 3), *products))
        spectra.append(self._strain(velocity))
        u, vorticity, strain = inverse(torch.cat(spectra, dim=1), self.grid).split([3, 3, 5], dim=1)
        products = [cross(u, vorticity), norm(strain) * strain]
        tendency, flux = forward(torch.cat(products, dim=1), 3).split([3, 5], dim=1)
        factor = self.smagorinsky
        if factor is None:
            factor = self._dynamic(u, velocity, spectra[2], flux)
        return self._project(self._divergence(2 * factor * flux).add_(tendency))

    def _dynamic(
        self, velocity: Vector, spectrum: Velocity, strain: Symmetric, flux: Symmetric
    ) -> Float[Tensor, "batch 1 1 1 1"]:
        """Return C Delta^2 of the dynamic model, from velocity, strain and |S| S of the grid."""
        assert self.test_filter is not None
        products = forward(_deviator(velocity), 3)
        filtered = inverse(
            self.test_filter * torch.cat([spectrum, strain, flux, products], dim=1), self.grid
        )
        coarse, coarse_strain, of_flux, of_products = filtered.split([3, 5, 5, 5], dim=1)
        resolved = of_products - _deviator(coarse)
        model = of_flux - TEST_RATIO**2 * norm(coarse_strain) * coarse_strain
        square = _mean(_contract(_with_trace(model), model))
        ratio = _mean(_contract(resolved, model)) / square.clamp_min(torch.finfo(square.dtype).tiny)
        return 0.5 * ratio.clamp_min(0)

    def subgrid_viscosity(self, state: Vector) -> Float[Tensor, "_ 1 1 1 1"]:
        """Return C Delta^2 of a state: the eddy viscosity is this times |S|.

        Parameters
        ----------
        state
            Velocity.

        Returns
        -------
        Tensor
            Zero without a subgrid model.
        """
        if self.test_filter is None:
            return state.new_zeros(1, 1, 1, 1, 1) if self.smagorinsky is None else self.smagorinsky
        spectrum = self.enter(state)
        strain = self._strain(spectrum)
        fields = inverse(torch.cat([spectrum, strain], dim=1), self.grid)
        flux = forward(norm(fields[:, 3:]) * fields[:, 3:], 3)
        return self._dynamic(fields[:, :3], spectrum, strain, flux)


def cross(a: Vector, b: Vector) -> Vector:
    """Cross product of two vector fields."""
    return torch.cat(_cross(a.split(1, dim=1), b.split(1, dim=1)), dim=1)


def _cross(a: Sequence[Tensor], b: Sequence[Tensor]) -> list[Tensor]:
    (ax, ay, az), (bx, by, bz) = a, b
    return [
        (ay * bz).sub_(az * by),
        (az * bx).sub_(ax * bz),
        (ax * by).sub_(ay * bx),
    ]


def norm(strain: Deviator) -> Scalar:
    """Return |S| = sqrt(2 S:S); its gradient is finite at rest."""
    square = 2 * _contract(_with_trace(strain), strain)
    return (square + torch.finfo(square.dtype).tiny).sqrt()


def _once(value: Tensor) -> Tensor:
    """Keep one row of a batch of equal rows."""
    return value[:1] if bool((value == value[:1]).all()) else value


def _deviator(velocity: Vector) -> Deviator:
    """Products u_i u_j with w w taken off the diagonal; the trace belongs to the pressure."""
    u, v, w = velocity.unbind(1)
    return torch.stack([(u - w) * (u + w), (v - w) * (v + w), u * v, u * w, v * w], dim=1)


def _with_trace(tensor: Deviator) -> Deviator:
    """Take zz off the diagonal of a tensor without trace, as `_contract` needs it."""
    xx, yy, xy, xz, yz = tensor.unbind(1)
    return torch.stack([2 * xx + yy, xx + 2 * yy, xy, xz, yz], dim=1)


def _contract(left: Deviator, right: Deviator) -> Scalar:
    """Contract a tensor, with zz taken off its diagonal, with one that has no trace."""
    product = left * right
    return product[:, :2].sum(1, keepdim=True) + 2 * product[:, 2:].sum(1, keepdim=True)


def _mean(field: Scalar) -> Float[Tensor, "batch 1 1 1 1"]:
    """Average over the box, axis by axis: the bits depend on neither batch nor threads."""
    return field.mean(4, keepdim=True).mean(3, keepdim=True).mean(2, keepdim=True)
