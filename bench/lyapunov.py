"""Lyapunov exponents of every chaotic system, ours beside those that dysts stores, as a table.

dysts stores an estimate of the largest exponent and one of the spectrum, which differ from each
other (0.892 and 1.091 for Lorenz, for which 0.906 is quoted elsewhere). Ours are means over many
trajectories of QR measurements, each over many periods, with their standard errors.
"""

import argparse
import typing

import numpy as np
import torch

from longrun.equations._base import AbstractEquation
from longrun.equations.chaotic_system import ChaoticSystem
from longrun.equations.lorenz_96 import Lorenz96
from longrun.solvers.lyapunov import lyapunov_spectrum

SYSTEMS = typing.get_args(typing.get_type_hints(ChaoticSystem.__init__)["system"])


def measure(
    equation: AbstractEquation, trajectories: int, exponents: int, frames: int, stride: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return exponents and their standard errors, over the trajectories that stay bounded."""
    generators = [np.random.default_rng([0, number]) for number in range(trajectories)]
    parameters, state = equation.sample(generators)
    tensors = {name: torch.from_numpy(value) for name, value in parameters.items()}
    with torch.no_grad():
        start = equation.solver(tensors, stride=equation.burn_in).step(torch.from_numpy(state))
        found = lyapunov_spectrum(
            equation.solver, tensors, start, exponents, frames, frames // 2, stride
        ).numpy()
    found = found[np.isfinite(found).all(1)]
    return found.mean(0), found.std(0) / np.sqrt(len(found))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trajectories", type=int, default=256)
    parser.add_argument("--periods", type=int, default=30)
    parser.add_argument("--systems", nargs="*", default=SYSTEMS, choices=SYSTEMS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| system | largest exponent | sum of all | dysts' largest | dysts' spectrum, largest |")
    print("|---|---|---|---|---|")
    for system in arguments.systems:
        equation = ChaoticSystem(system, burn_in=1500)
        stored = equation._system
        count = len(equation.fields)
        mean, error = measure(equation, arguments.trajectories, count, 20 * arguments.periods, 5)
        print(
            f"| {system} | {mean[0]:.4f} ± {error[0]:.4f} | {mean.sum():.3f} "
            f"| {stored.maximum_lyapunov_estimated:.4f} "
            f"| {stored.lyapunov_spectrum_estimated[0]:.4f} |",
            flush=True,
        )
    mean, error = measure(Lorenz96(), 4 * arguments.trajectories, 1, 30 * arguments.periods, 1)
    print(f"| Lorenz 96, 40 sites, forcing 8 | {mean[0]:.4f} ± {error[0]:.4f} | | | |")


if __name__ == "__main__":
    main()
