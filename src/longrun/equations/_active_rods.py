"""What the kinetic theory of an active fluid and its moment equations have in common."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Complex
from torch import Tensor

from longrun.equations._base import Distribution, Quantity, Varying
from longrun.runtime.cli import UserError
from longrun.solvers.spectral import indices
from longrun.solvers.stokes import ActiveStokes

PARAMETERS = (
    Quantity("length", "extent of the box", "1"),
    Quantity("dt", "time between frames", "1"),
    Quantity("alpha", "active stress, negative for pushers", "1"),
    Quantity("beta", "resistance of the rods to strain", "1"),
    Quantity("zeta", "alignment of the rods with each other", "1"),
    Quantity("translational_diffusion", "translational diffusion", "1"),
    Quantity("rotational_diffusion", "rotational diffusion", "1"),
)


def distributions(values: Mapping[str, Varying]) -> dict[str, Distribution]:
    """Read the parameters, in the order of `PARAMETERS`."""
    lowest = {"alpha": -math.inf, "beta": 0.0, "zeta": 0.0}
    return {
        quantity.name: Distribution.of(
            quantity.name, values[quantity.name], at_least=lowest.get(quantity.name)
        )
        for quantity in PARAMETERS
    }


def check(drawn: Mapping[str, Distribution], points: int, modes: int, amplitude: float) -> None:
    """Refuse a grid that can't hold the waves which grow from the isotropic state.

    The fastest waves grow at the rate zeta - 4 d_R + s - d_T k^2 with the flow's part
    s = (zeta beta / 2 - alpha) / (4 + beta / 2), so those beyond some wavenumber decay.

    Raises
    ------
    UserError
        Too few points, or an impossible perturbation.
    """
    zeta, alpha, beta = drawn["zeta"].high, drawn["alpha"].low, drawn["beta"]
    flow = max((zeta * b / 2 - alpha) / (4 + b / 2) for b in (beta.low, beta.high))
    growth = zeta + max(0.0, flow) - 4 * drawn["rotational_diffusion"].low
    highest = math.sqrt(max(0.0, growth) / drawn["translational_diffusion"].low)
    needed = 2 * math.ceil(3 * highest * drawn["length"].high / (4 * math.pi))
    if points < needed:
        raise UserError(
            f"points must be at least {needed} to hold all waves that grow, is {points}"
        )
    if modes < 1:
        raise UserError(f"modes must be at least 1, is {modes}")
    if not 0 <= amplitude <= 0.2:
        raise UserError(f"amplitude must lie in [0, 0.2] for a positive density, is {amplitude}")


def wavenumbers(length: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """Return the wavenumbers of a half-spectrum, given lengths that broadcast against it."""
    x, y = indices((points, points))
    scale = 2 * torch.pi / length
    return scale * x.to(length.device), scale * y.to(length.device)


def stokes(
    columns: Mapping[str, Tensor],
    waves: tuple[Tensor, Tensor],
    points: int,
    largest: float,
    dtype: torch.dtype,
) -> ActiveStokes:
    """Build the solver of the flow, good to 1e-8 for resistances up to `largest`."""
    factor = largest / 8 / (1 + largest / 8)
    return ActiveStokes(
        *waves,
        (points, points),
        columns["alpha"],
        columns["beta"],
        columns["zeta"],
        iterations=math.ceil(math.log(1e-8) / math.log(factor)) if factor > 0 else 0,
        dtype=dtype,
    )


def perturbed(
    generator: np.random.Generator, points: int, harmonics: int, modes: int, amplitude: float
) -> Complex[np.ndarray, "harmonic x y"]:
    """Draw moments m_0, m_2, m_4, ... of a perturbed isotropic state of mean concentration one.

    psi = (1 + amplitude sum_i (r_0 - 1/2) cos(2 pi k_1 x / L + r_1) cos(2 pi k_2 y / L + r_2)
    cos(2 theta + r_3)^i) / 2 pi for i = 1 ... 8, with r uniform in [0, 1] and k_1, k_2 among
    1 ... `modes`, as in the public generator of Maddu, Weady & Shelley (2024), where amplitude is
    0.1 and modes 8.

    Parameters
    ----------
    generator
        Where the numbers come from.
    points
        Grid points along each axis; waves that they can't hold are left out.
    harmonics
        Highest n of the moments m_2n.
    modes
        Highest number of waves along an axis.
    amplitude
        Of the perturbation.
    """
    x = 2 * np.pi * np.arange(points) / points
    angle = 2 * np.pi * np.arange(32) / 32  # of 2 theta: enough for the eighth power
    moments = np.zeros((harmonics + 1, points, points), complex)
    moments[0] = 1
    for power in range(1, 9):
        waves = generator.integers(1, modes + 1, 2)
        r = generator.uniform(0, 1, 4)
        if 2 * waves.max() >= points:
            continue
        pattern = np.outer(np.cos(waves[0] * x + r[1]), np.cos(waves[1] * x + r[2]))
        of_angle = np.fft.ifft(np.cos(angle + r[3]) ** power)[: min(harmonics, 8) + 1]
        moments[: len(of_angle)] += (amplitude * (r[0] - 0.5)) * np.multiply.outer(
            of_angle, pattern
        )
    return moments
