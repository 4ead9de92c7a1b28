"""What the contract of all methods needs to know of the task `solve`."""

import torch

ALLEN_CAHN = {
    "name": "allen_cahn",
    "points": 64,
    "length": 2.0,
    "dt": 0.025,
    "diffusivity": 0.01,
    "reaction": 5.0,
    "initial": "cosine",
    "substeps": 2,
}
HELMHOLTZ = {
    "name": "helmholtz",
    "points": 40,
    "length": 2.0,
    "wavenumber": 1.0,
    "contrast": 0.0,
    "given": "sines",
    "modes": [1, 4],
}
#: Small sizes for options that a constructor may have; what it doesn't name is left out.
SMALL = {"width": 8, "layers": 2, "harmonics": 3, "gaussians": 10, "sigma": 0.3, "wall_points": 8}
#: A steady problem has no times.
OPTIONS = {"pig": {"collocation": [64]}}


def _describe(equation, points, values, field_names, parameter_names, **more):
    fields = len(field_names)
    statistics = {name: [1.0] * fields for name in ("std", "increment_std")}
    statistics |= {"mean": [0.0] * fields, "condition_low": values, "condition_high": values}
    return {
        "fields": fields,
        "dims": len(points),
        "conditions": 0,  # one problem: nothing varies
        "points": points,
        "equation": equation,
        "equation_name": equation["name"],
        "field_names": field_names,
        "parameter_names": parameter_names,
        "stride": 1,
        "statistics": statistics,
        **more,
    }


def description(kind):
    """Describe a problem that a method can solve: periodic if possible, else between walls."""
    if "periodic" in kind.boundaries:
        names = ["length", "dt", "diffusivity", "reaction"]
        values = [2.0, 0.025, 0.01, 5.0]
        return _describe(ALLEN_CAHN, [64], values, ["u"], names, dt=0.025, steady=False)
    fields = ["medium", "source", "solution"]
    names = ["length", "wavenumber", "contrast"]
    return _describe(HELMHOLTZ, [40, 40], [2.0, 1.0, 0.0], fields, names, dt=1.0, steady=True)


def batch(module, size=3, dtype=torch.float32):
    """Return a training batch; a method of this task uses none of it."""
    about = description(type(module))
    values = torch.tensor(about["statistics"]["condition_low"], dtype=dtype)
    window = torch.zeros(size, 1, about["fields"], *about["points"], dtype=dtype)
    return {"window": window, "parameters": values.expand(size, -1)}


def output(module, size=3, seed=0, dtype=torch.float32):
    """Return the field at random points of the problem, always the same ones."""
    generator = torch.Generator().manual_seed(0)
    unit = torch.rand(10 * size, len(module.variables), generator=generator, dtype=dtype)
    return module.forward(unit * module.extent.to(dtype))
