"""Energy spectra on periodic grids, and their errors in bands of wavenumbers."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float

BANDS = ("low", "middle", "high")

_MIDDLE_ENDS = 1e-2  # of the peak's energy
_HIGH_ENDS = 1e-9  # of the peak's energy: below lies the rounding of a float32 store


def energy_spectrum(
    field: Float[np.ndarray, "..."], dims: int, sides: Sequence[float] | None = None
) -> Float[np.ndarray, "..."]:
    """Mean square of a periodic field, split over wavenumbers.

    Bin k holds the modes whose wavenumber, in units of 2 pi / (longest side), rounds to k: in one
    dimension k and -k, in more a shell. The corners beyond the last full shell are left out. The
    sum over the bins is the mean square over space (in 1D exactly: Parseval). Without space there
    is one bin, the square.

    Parameters
    ----------
    field
        Shape (..., *space), real.
    dims
        Number of space dimensions.
    sides
        Extent of the box along each axis; equal ones where it isn't given.

    Returns
    -------
    Shape (..., bins), see `wavenumbers`; square of the field's unit.
    """
    if not dims:
        return np.square(field)[..., None]
    order, starts, weight = _shells(field.shape[-dims:], _stretch(sides or (1.0,) * dims))
    modes = np.fft.rfftn(field, axes=range(-dims, 0), norm="forward")
    energy = (modes.real**2 + modes.imag**2).reshape(*field.shape[:-dims], -1)
    return np.add.reduceat(energy[..., order] * weight, starts, axis=-1)


def wavenumbers(space: tuple[int, ...], sides: Sequence[float]) -> Float[np.ndarray, " bins"]:
    """Wavenumber that each bin of `energy_spectrum` stands for.

    Parameters
    ----------
    space
        Points along each axis, at least one axis.
    sides
        Extent of the box along each axis.

    Returns
    -------
    Shape (bins,), rad per unit of length. The last is the smallest Nyquist wavenumber of the axes:
    (smallest axis // 2 + 1) bins where the sides are equal.
    """
    return 2 * np.pi / max(sides) * np.arange(_bins(space, _stretch(sides)))


def bands(spectrum: Sequence[float], bins: int) -> dict[str, Bool[np.ndarray, " bins"]]:
    """Which bins are low, middle and high, judged by a reference spectrum.

    Low ends at the peak, middle where the energy falls below 1 % of the peak, high where it falls
    below 1e-9 of the peak. The mean of the field (bin 0) is in no band.

    Parameters
    ----------
    spectrum
        Mean energy per bin of the training set.
    bins
        Bins of the spectra to be masked; those beyond the reference are in no band.

    Returns
    -------
    One mask per band, shape (bins,). A band may be empty.
    """
    energy = np.zeros(bins)
    known = min(bins, len(spectrum))
    energy[:known] = np.asarray(spectrum, dtype=np.float64)[:known]
    index = np.arange(bins)
    peak = 1 + int(energy[1:].argmax())
    edges = [0, peak]
    for fraction in (_MIDDLE_ENDS, _HIGH_ENDS):
        below = (index > peak) & (energy < fraction * energy[peak])
        edges.append(int(below.argmax()) - 1 if below.any() else bins - 1)
    return {
        name: (index > low) & (index <= high)
        for name, low, high in zip(BANDS, edges, edges[1:], strict=False)
    }


def relative_error(
    spectrum: Float[np.ndarray, "... bins"],
    truth: Float[np.ndarray, "... bins"],
    band: Bool[np.ndarray, " bins"],
) -> Float[np.ndarray, "..."]:
    """Absolute error of a spectrum summed over a band, relative to the true energy of the band.

    Returns
    -------
    Shape (...), dimensionless: 0 is perfect, 1 is what an empty band scores.
    """
    error = np.abs(spectrum[..., band] - truth[..., band]).sum(axis=-1)
    energy = truth[..., band].sum(axis=-1)
    return np.asarray(error / np.maximum(energy, np.finfo(np.float64).tiny))


def amplitude(
    spectrum: Float[np.ndarray, "... bins"], band: Bool[np.ndarray, " bins"]
) -> Float[np.ndarray, "..."]:
    """Typical amplitude of a band's bins: their geometric mean.

    Spectra fall by decades within a band; so each wavenumber counts the same, where a mean of
    energies would be that of the first few.

    Returns
    -------
    Shape (...), unit of the field.
    """
    energy = np.maximum(spectrum[..., band], np.finfo(np.float64).tiny)
    return np.asarray(np.exp(np.log(energy).mean(axis=-1) / 2))


def _stretch(sides: Sequence[float]) -> tuple[float, ...]:
    """Return how many units of the longest side's wavenumber lie between two modes of each axis."""
    return tuple(round(max(sides) / side, 9) for side in sides)


def _bins(space: tuple[int, ...], stretch: tuple[float, ...]) -> int:
    nyquist = (points // 2 * factor for points, factor in zip(space, stretch, strict=True))
    return int(min(nyquist) + 1e-6) + 1


@lru_cache
def _shells(
    space: tuple[int, ...], stretch: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order that sorts the flat modes of `rfftn` by shell, first mode of each, weight of each."""
    axes = [np.fft.fftfreq(points, 1 / points) for points in space[:-1]]
    axes.append(np.arange(space[-1] // 2 + 1.0))
    grid = np.meshgrid(*axes, indexing="ij")
    squares = sum((axis * factor) ** 2 for axis, factor in zip(grid, stretch, strict=True))
    shell = np.rint(np.sqrt(squares)).astype(int).ravel()
    half = grid[-1].ravel()
    weight = np.where((half > 0) & (half < space[-1] / 2), 2.0, 1.0)  # the other half is its mirror
    bins = _bins(space, stretch)
    order = np.argsort(shell, kind="stable")
    order = order[shell[order] < bins]
    return order, np.searchsorted(shell[order], np.arange(bins)), weight[order]
