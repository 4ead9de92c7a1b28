"""What the contract suite needs to build and feed any sampler."""

import torch

POINTS = 16
SMALL = {"width": 8, "multipliers": [1, 2], "layers": 2, "fine_steps": 5}
FIELD = {
    "fields": 1,
    "dims": 1,
    "conditions": 1,  # only the length varies
    "points": [POINTS],
    "equation": {"name": "kuramoto_sivashinsky", "points": POINTS, "length": 8.0, "dt": 1.0},
    "equation_name": "kuramoto_sivashinsky",
    "field_names": ["u"],
    "parameter_names": ["length", "dt", "viscosity"],
    "boundary": ["periodic"],
    "dt": 2.0,
    "stride": 2,
    "steady": False,
    "spectrum": [0.0, 1.0, 0.3, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6],
    "statistics": {
        "mean": [0.1],
        "std": [1.3],
        "increment_std": [0.3],
        "condition_low": [7.0, 1.0, 1.0],
        "condition_high": [9.0, 1.0, 1.0],
    },
}
POINT = {
    "fields": 2,
    "dims": 0,
    "conditions": 0,
    "points": [],
    "equation": {"name": "gaussian_mixture", "components": 3, "radius": 1.0, "spread": 0.3},
    "equation_name": "gaussian_mixture",
    "field_names": ["x", "y"],
    "parameter_names": ["radius", "spread"],
    "boundary": [],
    "dt": 1.0,
    "stride": 1,
    "steady": True,
    "spectrum": [1.0],
    "statistics": {
        "mean": [0.0, 0.0],
        "std": [0.8, 0.8],
        "increment_std": [0.8, 0.8],
        "condition_low": [1.0, 0.3],
        "condition_high": [1.0, 0.3],
    },
}


def description(kind):
    """What `longrun.data.describe` would say of the data."""
    return FIELD if 1 in kind.supported_dims else POINT


def batch(module, size=3, dtype=torch.float32):
    """Return a batch of training windows: waves, or points on a circle."""
    frames = module.history + module.unroll
    phase = torch.arange(size * frames, dtype=dtype).reshape(size, frames, 1)
    if module.dims:
        x = 2 * torch.pi * torch.arange(POINTS, dtype=dtype) / POINTS
        window = (x + phase).sin() + 0.5 * (2 * x - phase).cos()
        return {
            "window": window[:, :, None].expand(-1, -1, module.fields, -1),
            "parameters": torch.tensor([[8.5, 1.0, 1.0]] * size, dtype=dtype),
        }
    return {
        "window": torch.cat([phase.cos(), phase.sin()], dim=-1),
        "parameters": torch.tensor([[1.0, 0.3]] * size, dtype=dtype),
    }


def output(module, size=3, seed=0, dtype=torch.float32):
    """Return what is drawn in two evaluations, of what is seen of a batch."""
    given = batch(module, size, dtype)
    unnoisy = torch.Generator().manual_seed(0)
    condition = module.observe(given["window"][:, 0], unnoisy)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return module.draw(condition, given["parameters"], generator, 2)
