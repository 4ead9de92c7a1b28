"""What the contract suite needs to build and feed any method that chooses relaxation parameters."""

import itertools

import torch

from longrun.equations.shifted_laplacian import ShiftedLaplacian

SMALL = {"arms": 5, "terms": 3, "bins": 2}
EQUATION = {"name": "shifted_laplacian", "points": 5, "lowest": -0.15, "spread": 0.6}


def description(kind):
    """What `longrun.data.describe` would say of the data."""
    return {
        "fields": 3,
        "dims": 2,
        "conditions": 1,
        "points": [5, 5],
        "equation": EQUATION,
        "field_names": ["shift", "source", "solution"],
        "parameter_names": ["length", "dt", "sequence"],
        "boundary": ["dirichlet", "dirichlet"],
        "stride": 1,
        "statistics": {
            "mean": [0.0] * 3,
            "std": [0.15, 0.9, 1.0],
            "increment_std": [0.2, 1.3, 1.4],
            "condition_low": [1.0, 1.0, 3.0],
            "condition_high": [1.0, 1.0, 9.0],
        },
    }


def batch(module, size=3, dtype=torch.float32):
    """Return a batch of windows, which these methods don't train on."""
    return {
        "window": torch.zeros(size, module.history + module.unroll, 3, 5, 5, dtype=dtype),
        "parameters": torch.ones(size, 3, dtype=dtype),
    }


def output(module, size=3, seed=0, dtype=torch.float32):
    """Return omega and iterations of the first 10 systems of some sequences."""
    found = []
    equation = ShiftedLaplacian(**{k: v for k, v in EQUATION.items() if k != "name"})
    for sequence in range(size):
        module.begin()
        generator = torch.Generator().manual_seed(seed + 1000 * sequence)
        for system in itertools.islice(equation.systems({"sequence": sequence}), 10):
            omega = module.choose(system.context, system.matrix, generator)
            iterations = module.solve(system, omega).iterations
            module.learn(omega, iterations, system.context)
            found.append((omega, iterations))
    return torch.tensor(found, dtype=dtype).reshape(size, 10, 2)
