"""What the contract suite needs to build and feed any map between steady fields."""

import torch

POINTS = [16, 16]
#: Small sizes for options that a constructor may have; what it doesn't name is left out.
SMALL = {
    "width": 8,
    "layers": 2,
    "modes": 4,
    "multipliers": [1, 2],
    "smoothing": [[1, 0], [1, 1], [2, 0]],
    "scales": 2,
    "patch": 4,
    "tokens": 3,
    "basis": 4,
    "heads": 2,
}
PARAMETERS = {"length": (1.0, 1.0, 1.0), "source": (0.5, 2.0, 1.25)}  # lowest, highest, here


def description(kind):
    """What `longrun.data.describe` would say of the data."""
    low, high, _ = zip(*PARAMETERS.values(), strict=True)
    return {
        "fields": 2,
        "dims": 2,
        "conditions": 1,  # parameters that vary
        "points": POINTS,
        "boundary": ["dirichlet", "dirichlet"],
        "equation": {"name": "darcy", "points": POINTS[0]},
        "equation_name": "darcy",
        "field_names": ["coefficient", "pressure"],
        "parameter_names": list(PARAMETERS),
        "steady": True,
        "stride": 1,
        "statistics": {
            "mean": [7.5, 0.01],
            "std": [4.5, 0.005],
            "increment_std": [4.5, 0.005],
            "condition_low": list(low),
            "condition_high": list(high),
        },
    }


def states(size, dtype=torch.float32, points=POINTS):
    """Smooth media, each with a bump of another height to be found; batch, channel, x, y."""
    x, y = ((torch.arange(n, dtype=dtype) + 0.5) / n for n in points)
    phase = torch.arange(size, dtype=dtype)[:, None, None]
    medium = 7.5 + 4.5 * torch.sin(5 * x[:, None] + phase) * torch.cos(4 * y - 2 * phase)
    bump = torch.sin(torch.pi * x)[:, None] * torch.sin(torch.pi * y) * (1 + 0.2 * phase.cos())
    return torch.stack([medium, 0.02 * bump], dim=1)


def batch(module, size=3, dtype=torch.float32):
    """Return a batch of training windows of one frame."""
    here = [value for _, _, value in PARAMETERS.values()]
    return {
        "window": states(size, dtype)[:, None],
        "parameters": torch.tensor([here] * size, dtype=dtype),
    }


def output(module, size=3, seed=0, dtype=torch.float32):
    """Return the sought fields, in units of their standard deviation, so that changes show."""
    given = batch(module, size, dtype)
    generator = torch.Generator().manual_seed(seed)
    prediction = module.predict(module.split(given["window"])[0], given["parameters"], generator)
    return prediction / 0.005
