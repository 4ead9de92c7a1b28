"""What the contract suite needs to build and feed any method that assimilates."""

import torch

POINTS = 32
SMALL = {
    "width": 8,
    "known_every": 1,
    "delta": 1,
    "heads": 2,
    "queries": 16,
    "modes": 4,
    "layers": 2,
    "gain_width": 6,
    "unroll": 3,
    "members": 5,
}
ONLY_IN_LOSS = {"continuous_observer": ("head",)}
EQUATION = {
    "name": "kuramoto_sivashinsky",
    "points": POINTS,
    "length": {"uniform": [14.0, 18.0]},
    "dt": 0.2,
    "viscosity": 1.0,
    "substeps": 2,
    "burn_in": 0,
}
PARAMETERS = ["length", "dt", "viscosity", "drag", "beta"]
PARAMETER_VALUES = [15.0, 0.2, 1.0, 0.0, 0.0]
PLANE = 8
FLOW = {
    "name": "navier_stokes_2d",
    "points": PLANE,
    "length": {"uniform": [14.0, 18.0]},
    "dt": 0.2,
    "viscosity": 1.0,
    "initial": "random_field",
    "substeps": 2,
    "burn_in": 0,
}


def description(kind):
    """What `longrun.data.describe` would say of the data."""
    dims = kind.supported_dims[0]
    return {
        "fields": 1,
        "dims": dims,
        "conditions": 1,  # only the length, or the viscosity, varies
        "points": [POINTS] if dims == 1 else [PLANE, PLANE],
        "equation": EQUATION if dims == 1 else FLOW,
        "field_names": ["u"],
        "parameter_names": PARAMETERS[:3] if dims == 1 else PARAMETERS,
        "boundary": ["periodic"] * dims,
        "stride": 2,
        "statistics": {
            "mean": [0.1],
            "std": [1.3],
            "increment_std": [0.3],
            "condition_low": [14.0, 0.2, 1.0, 0.0, 0.0][: 3 if dims == 1 else 5],
            "condition_high": [18.0, 0.2, 1.0, 0.0, 0.0][: 3 if dims == 1 else 5],
        },
    }


def batch(module, size=3, dtype=torch.float32):
    """Return a batch of training windows: waves that travel, of mean 0.1."""
    x = torch.arange(POINTS if module.dims == 1 else PLANE, dtype=dtype)
    x = x / len(x) * 2 * torch.pi
    x = x if module.dims == 1 else x[:, None] + x
    shape = (-1, *(1,) * (module.dims + 1))
    frames = torch.arange(module.history + module.unroll, dtype=dtype).reshape(shape)
    phase = torch.arange(size, dtype=dtype).reshape(-1, 1, *shape[1:]) + 0.2 * frames
    window = 0.1 + torch.sin(x + phase) + 0.5 * torch.cos(2 * x - phase)
    return {
        "window": window,
        "parameters": torch.tensor(
            [PARAMETER_VALUES[: 3 if module.dims == 1 else 5]] * size, dtype=dtype
        ),
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
