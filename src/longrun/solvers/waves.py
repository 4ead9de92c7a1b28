"""Random periodic functions for initial conditions, the same on every grid.

The waves' coefficients are drawn; a grid is only where their sum is evaluated.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float


def random_field(
    generator: np.random.Generator, grid: Sequence[int], highest: int
) -> Float[np.ndarray, "*space"]:
    """Draw an isotropic random function of mean 0 and mean square 1.

    Parameters
    ----------
    generator
        Source of the coefficients; their number doesn't depend on the grid.
    grid
        Points along each axis, more than twice `highest`.
    highest
        Waves have up to this many periods over the box, in any direction; all have the same
        expected square.

    Raises
    ------
    ValueError
        A grid that can't hold the waves.
    """
    if min(grid) <= 2 * highest:
        raise ValueError(f"waves of {highest} periods need more than {2 * highest} points: {grid}")
    shape = (2 * highest + 1,) * len(grid)
    axes = np.meshgrid(*[np.arange(-highest, highest + 1)] * len(grid), indexing="ij")
    squares = sum(axis**2 for axis in axes)
    coefficients = generator.standard_normal((2, *shape))
    coefficients = (coefficients[0] + 1j * coefficients[1]) * (
        (squares > 0) & (squares <= highest**2)
    )
    spectrum = np.zeros(tuple(grid), complex)
    spectrum[np.ix_(*[np.arange(-highest, highest + 1)] * len(grid))] = coefficients
    field = np.fft.ifftn(spectrum, norm="forward").real
    return field / np.sqrt(np.mean(field**2))


def two_sines(
    generator: np.random.Generator,
    points: int,
    absolute: float = 0.1,
    windowed: float = 0.1,
) -> Float[np.ndarray, " space"]:
    """Draw the one-dimensional initial condition of PDEBench as CAPE describes it.

    The sum of two sines of 1 to 8 periods, amplitudes from U(0, 1), any phase; of some the absolute
    value is taken, some are confined to a window with edges of width 0.01 of the interval. The sign
    is random. Source: Takamoto et al. (2023), arXiv:2304.14118; where the window lies is our
    choice: its edges in (0.1, 0.45) and (0.55, 0.9).

    Parameters
    ----------
    generator
        Source of the numbers; how many are drawn depends on no argument.
    points
        Grid points.
    absolute, windowed
        Probability that the absolute value is taken, and that there is a window.
    """
    x = np.arange(points) / points
    periods = generator.integers(1, 9, (2, 1))
    amplitude = generator.uniform(0, 1, (2, 1))
    phase = generator.uniform(0, 2 * np.pi, (2, 1))
    u = (amplitude * np.sin(2 * np.pi * periods * x + phase)).sum(0)
    takes_absolute, has_window, sign = generator.uniform(0, 1, 3)
    left, right = generator.uniform(0.1, 0.45), generator.uniform(0.55, 0.9)
    if takes_absolute < absolute:
        u = np.abs(u)
    if has_window < windowed:
        u = u * (np.tanh((x - left) / 0.01) - np.tanh((x - right) / 0.01)) / 2
    return u if sign < 0.5 else -u
