"""What the contract suite needs to build and feed any sampler."""

import numpy as np
import torch
from scipy.integrate import solve_ivp

from longrun.tasks._denoising import AbstractDenoising, levels

POINTS = 16
SMALL = {"width": 8, "multipliers": [1, 2], "layers": 2, "fine_steps": 5}
# in time the first steps, of lower degree, are seen before the order is
OPTIONS = {"deis": {"variable": "level", "grid": "karras"}}
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
    """Return draws in two evaluations, given what is seen of a batch."""
    given = batch(module, size, dtype)
    unnoisy = torch.Generator().manual_seed(0)
    condition = module.observe(given["window"][:, 0], unnoisy)
    generator = torch.Generator().manual_seed(seed)
    return module.draw(condition, given["parameters"], generator, 2)


def reference(module, size=2):
    """Return what `draw` should come to, normalised: its noise carried along by scipy's solver."""
    given = batch(module, size, torch.float64)
    observed = module.observe(given["window"][:, 0], torch.Generator().manual_seed(0))
    context = module.context_of(observed)
    conditions = module.scaled_conditions(given["parameters"])
    if isinstance(module, AbstractDenoising):
        return denoised(module, context, conditions, size)
    noise = module.paths(context, conditions, torch.Generator().manual_seed(1))[0]

    def slope(time, flat):
        state = torch.from_numpy(flat).reshape(noise.shape)
        at = torch.full((size,), time, dtype=torch.float64)
        return module.velocity(state, at, context, conditions).detach().numpy().ravel()

    solved = solve_ivp(slope, (0, 1), noise.detach().numpy().ravel(), rtol=1e-9, atol=1e-9)
    return torch.from_numpy(solved.y[:, -1]).reshape(noise.shape)


def denoised(module, context, conditions, size):
    """Return the same of a sampler with a denoiser, which moves along the levels of noise."""
    noise = module.noise(context, conditions)
    first, last = levels("log", 1, module.last)
    start = torch.empty(size, module.fields, *context.shape[2:], dtype=torch.float64)
    start.normal_(generator=torch.Generator().manual_seed(1)).mul_(first)

    def slope(logarithm, flat):
        level = float(np.exp(logarithm))
        with torch.no_grad():
            found = noise(torch.from_numpy(flat).reshape(start.shape), level)
        return level * found.numpy().ravel()

    span = np.log(first), np.log(last)
    solved = solve_ivp(slope, span, start.numpy().ravel(), rtol=1e-10, atol=1e-10)
    return torch.from_numpy(solved.y[:, -1]).reshape(start.shape)


def errors(module, evaluations, size=2):
    """Return the root mean square errors of draws with these numbers of evaluations."""
    given, wanted = batch(module, size, torch.float64), reference(module, size)
    observed = module.observe(given["window"][:, 0], torch.Generator().manual_seed(0))
    found = []
    for count in evaluations:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            drawn = module.draw(observed, given["parameters"], generator, count)
        found.append((module.normalised(drawn) - wanted).square().mean().sqrt().item())
    return found


def check_order(module, evaluations=(64, 128, 256, 512)):
    """Refuse a sampler whose error doesn't fall at about the order that it states."""
    found = errors(module, evaluations)
    slope = np.polyfit(np.log(evaluations), np.log(found), 1)[0]
    assert abs(-slope - module.order) < 0.25, f"order {-slope:.2f}, stated {module.order}: {found}"
    assert found[-1] < 0.05, f"errors {found}"
