"""What the contract suite needs to build and feed any method that assimilates."""

import torch

POINTS = 32
SMALL = {"width": 8, "modes": 4, "layers": 2, "gain_width": 6, "unroll": 3, "members": 5}
EQUATION = {
    "name": "kuramoto_sivashinsky",
    "points": POINTS,
    "length": {"uniform": [14.0, 18.0]},
    "dt": 0.2,
    "viscosity": 1.0,
    "substeps": 2,
    "burn_in": 0,
}


def description(kind):
    """What `longrun.data.describe` would say of the data."""
    return {
        "fields": 1,
        "dims": 1,
        "conditions": 1,  # only the length varies
        "points": [POINTS],
        "equation": EQUATION,
        "field_names": ["u"],
        "parameter_names": ["length", "dt", "viscosity"],
        "boundary": ["periodic"],
        "stride": 2,
        "statistics": {
            "mean": [0.1],
            "std": [1.3],
            "increment_std": [0.3],
            "condition_low": [14.0, 0.2, 1.0],
            "condition_high": [18.0, 0.2, 1.0],
        },
    }


def batch(module, size=3, dtype=torch.float32):
    """Return a batch of training windows: waves that travel, of mean 0.1."""
    x = torch.arange(POINTS, dtype=dtype) / POINTS * 2 * torch.pi
    frames = torch.arange(module.history + module.unroll, dtype=dtype)[:, None, None]
    phase = torch.arange(size, dtype=dtype)[:, None, None, None] + 0.2 * frames
    window = 0.1 + torch.sin(x + phase) + 0.5 * torch.cos(2 * x - phase)
    return {
        "window": window,
        "parameters": torch.tensor([[15.0, 0.2, 1.0]] * size, dtype=dtype),
    }


def output(module, size=3, seed=0, dtype=torch.float32):
    """Return a method's output for a window in which only the last step is not measured."""
    given = batch(module, size, dtype)
    measured = torch.ones(given["window"].shape[:2], dtype=torch.bool)
    measured[:, -1] = False
    noise = torch.Generator().manual_seed(0)  # seeds the method's own noise
    measurement, mask = module.measure(given["window"], measured, noise)
    generator = torch.Generator().manual_seed(seed)
    found = list(module.follow(measurement, mask, given["parameters"], generator))
    return torch.stack(found, dim=1)
