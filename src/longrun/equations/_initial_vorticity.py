"""Initial vorticity of two-dimensional flows in a periodic square.

A flow is drawn as amplitudes of Fourier modes, so it is the same function on every grid that holds
them. Its velocity, as a function of position over the length of the box, doesn't depend on that
length: functions here return the vorticity in a box of length 2 pi; in any other it is 2 pi /
length times as large. Mean velocity and mean vorticity are zero.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Complex, Float
from numpy import ndarray

MODES = 64  # highest mode that is drawn: 192 points hold all of them
INDEX_X = np.arange(-MODES, MODES + 1.0)[:, None]
INDEX_Y = np.arange(MODES + 1.0)
RADIUS = np.hypot(INDEX_X, INDEX_Y)
RADIUS[MODES, 0] = np.inf  # divisions by it remove the mean

Modes = Complex[ndarray, "mode_x mode_y"]


def on_grid(modes: Modes, points: int) -> Float[ndarray, "x y"]:
    """Evaluate modes on a grid; those that a dealiased solver on it cuts off are left out."""
    held = min(MODES, (points - 1) // 3)
    spectrum = np.zeros((points, points // 2 + 1), complex)
    low = np.arange(-held, held + 1)
    spectrum[low, : held + 1] = modes[MODES + low, : held + 1]
    return np.fft.irfft2(spectrum, s=(points, points), norm="forward")


def velocity(modes: Modes) -> tuple[Modes, Modes]:
    """Return the modes of u and v from those of the vorticity, in a box of length 2 pi."""
    stream = modes / RADIUS**2
    return 1j * INDEX_Y * stream, -1j * INDEX_X * stream


def noise(generator: np.random.Generator) -> Modes:
    """Draw white noise: independent modes of unit mean square."""
    parts = generator.standard_normal((2, 2 * MODES + 1, MODES + 1)) / np.sqrt(2)
    modes = parts[0] + 1j * parts[1]
    modes[:MODES, 0] = modes[:MODES:-1, 0].conj()  # of a real field
    modes[MODES, 0] = 0
    return modes


def random_field(generator: np.random.Generator) -> Modes:
    """Draw the Gaussian random field of Li et al. (2021), arXiv:2010.08895.

    On the unit torus the vorticity has mean 0 and covariance 7^3 (-laplacian + 49)^(-2.5), as in
    its public generator.
    """
    variance = 7**3 * ((2 * np.pi * RADIUS) ** 2 + 49) ** -2.5
    return noise(generator) * np.sqrt(variance) / (2 * np.pi)


def mcwilliams(generator: np.random.Generator) -> Modes:
    """Draw decaying turbulence after McWilliams (1984), J. Fluid Mech. 146, 21.

    The start of Cao et al. (2024), arXiv:2405.17211: a stream function of white noise times
    1 / (k (1 + (k / 4)^4)), scaled to a kinetic energy of 1 per unit area.
    """
    modes = noise(generator) / (1 / RADIUS + RADIUS**3 / 4**4)
    modes[MODES, 0] = 0
    twice = np.where(INDEX_Y > 0, 2, 1)  # the half-spectrum holds one of each pair
    energy = 0.5 * (twice * np.abs(modes / RADIUS) ** 2).sum()
    return modes / np.sqrt(energy)


def filtered_velocity(generator: np.random.Generator) -> Modes:
    """Draw a solenoidal velocity of waves around k = 4 with a largest speed of 7.

    White noise times exp(-(ln 4 + 1/4 - ln k)^2 / (1/2)) / k^2, as in jax-cfd (Kochkov et al.,
    2021, arXiv:2102.01010). The projection on solenoidal fields would leave the component across
    each wavevector; only that one is drawn.
    """
    weight = np.exp(-2 * (np.log(4) + 0.25 - np.log(RADIUS)) ** 2) / RADIUS**2
    modes = noise(generator) * weight * np.where(np.isinf(RADIUS), 0, RADIUS)
    return modes * 7 / _largest_speed(modes)


def sines(generator: np.random.Generator) -> Modes:
    """Draw velocities of random sines, in the manner of NS-Sines of Poseidon, arXiv:2405.19101.

    u and v are sums over i, j = 1 to 8 of a sin(2 pi i x + b) sin(2 pi j y + c) / (i + j), with a
    from U(-1, 1) and uniform phases b and c, then made solenoidal and scaled to a largest
    speed of 1. The numbers are ours.
    """
    count, points = 8, 64
    x = 2 * np.pi * np.arange(points) / points
    waves = np.arange(1, count + 1)
    components = []
    for _ in range(2):
        a = generator.uniform(-1, 1, (count, count)) / (waves[:, None] + waves)
        b, c = generator.uniform(0, 2 * np.pi, (2, count, count, 1))
        field = np.einsum(
            "ij,ijx,ijy->xy",
            a,
            np.sin(waves[:, None, None] * x + b),
            np.sin(waves[:, None] * x + c),
        )
        components.append(np.fft.rfft2(field, norm="forward"))
    modes = np.zeros(RADIUS.shape, complex)
    low = np.arange(-count, count + 1)
    u, v = (spectrum[low, : count + 1] for spectrum in components)
    modes[MODES + low, : count + 1] = 1j * low[:, None] * v - 1j * np.arange(count + 1) * u
    return modes / _largest_speed(modes)


def vortices(generator: np.random.Generator) -> Modes:
    """Draw 30 Gaussian vortices, in the manner of NS-Gauss of Poseidon, arXiv:2405.19101.

    Radii (standard deviations) are from U(0.04, 0.1) times the length of the box, peaks from
    U(-1, 1), centres anywhere; scaled to a largest speed of 1. The numbers are ours; 48 points
    resolve the smallest radius.
    """
    count = 30
    peak = generator.uniform(-1, 1, count)
    radius = 2 * np.pi * generator.uniform(0.04, 0.1, (count, 1))
    centre_x, centre_y = generator.uniform(0, 2 * np.pi, (2, count, 1))
    along_x, along_y = (
        radius * np.exp(-0.5 * (radius * index) ** 2 - 1j * centre * index)
        for index, centre in ((INDEX_X.T, centre_x), (INDEX_Y, centre_y))
    )
    modes = (peak[:, None] * along_x).T @ along_y
    modes[MODES, 0] = 0
    return modes / _largest_speed(modes)


def piecewise_constant(generator: np.random.Generator) -> Modes:
    """Draw vorticity that is constant on 10 x 10 squares, like NS-PwC of Poseidon.

    Values are from U(-1, 1); edges are smoothed by a Gaussian whose standard deviation is 1/100 of
    the box, so that a grid can hold them; scaled to a largest speed of 1. The numbers are ours.
    """
    count, width = 10, 2 * np.pi / 100
    values = generator.uniform(-1, 1, (count, count))
    middle = 2 * np.pi * (np.arange(count) + 0.5) / count
    along_x, along_y = (
        np.sinc(index / count)[:, None]
        * np.exp(-0.5 * (width * index[:, None]) ** 2 - 1j * index[:, None] * middle)
        for index in (INDEX_X[:, 0], INDEX_Y)
    )
    modes = along_x @ values @ along_y.T
    modes[MODES, 0] = 0
    return modes / _largest_speed(modes)


def _largest_speed(modes: Modes) -> float:
    """Largest speed, on a grid independent of the solver's."""
    u, v = (on_grid(component, 3 * MODES + 1) for component in velocity(modes))
    return float(np.sqrt((u**2 + v**2).max()))


def rest(generator: np.random.Generator) -> Modes:
    """Draw nothing: the flow begins at rest."""
    return np.zeros(RADIUS.shape, complex)


def random_force(generator: np.random.Generator) -> Modes:
    """Draw the curl of a force: a Gaussian random field, as MG-TFNO's data has it.

    Its covariance on a box of length 2 pi is 27 (-laplacian + 9)^(-4), without a mean; Kossaifi et
    al. (2024), arXiv:2310.00120, from memory. That is the variance of every mode.
    """
    return noise(generator) * np.sqrt(27) / (RADIUS**2 + 9) ** 2


FLOWS: dict[str, Callable[[np.random.Generator], Modes]] = {
    "random_field": random_field,
    "mcwilliams": mcwilliams,
    "filtered_velocity": filtered_velocity,
    "sines": sines,
    "vortices": vortices,
    "piecewise_constant": piecewise_constant,
    "rest": rest,
}
