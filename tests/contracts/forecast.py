"""What the contract suite needs to build and feed any forecaster."""

import torch

SMALL = {"width": 8, "multipliers": [1, 2], "modes": 4, "layers": 2}
OPTIONS = {
    "cfdbench": {"depth": 2},
    "deeponet": {"depth": 3},
    "direct_deeponet": {"depth": 3},
    "ifactformer": {"heads": 2, "head_width": 4, "iterations": 2},
    "poseidon": {"depths": [2, 2], "heads": [1, 2], "patch": 2, "window": 4},
    "sinenet": {"waves": 2},
    "prithvi_wxc": {
        "heads": 2,
        "encoder_pairs": 1,
        "decoder_pairs": 1,
        "window": [2, 2],
        "leads": [0, 1],
        "spacings": [1],  # of one frame, as some tests have it, there is no other
    },
}
BLOCKS = {"frames": 4, "channels": 4, "multipliers": [1, 2], "latent": 2}
OPTIONS |= {
    "space_time_autoencoder": BLOCKS,
    "text2pde": BLOCKS
    | {"width": 12, "heads": 2, "depth": 1, "frame_channels": 4, "sampling_steps": 3},
}
ONLY_IN_LOSS = {"prithvi_wxc": ("missing",)}
POINTS = {1: 32, 2: 16}
KURAMOTO_SIVASHINSKY = {
    "name": "kuramoto_sivashinsky",
    "points": POINTS[1],
    "length": 16.0,
    "dt": 0.2,
    "viscosity": 1.0,
    "substeps": 2,
    "burn_in": 0,
}
NAVIER_STOKES_MAC = {
    "name": "navier_stokes_mac",
    "points": POINTS[2],
    "dt": 0.05,
    "viscosity": 0.1,
    "speed": 2.0,
    "waves": 2,
    "refinement": 1,
    "substeps": 2,
    "burn_in": 0,
}
# by the equation that a method is written for, else by its dimensions
CASES = {
    1: {
        "equation": KURAMOTO_SIVASHINSKY,
        "field_names": ["u"],
        "parameters": {"length": (14.0, 18.0, 15.0), "dt": (0.2, 0.2, 0.2), "viscosity": (1, 1, 1)},
        "boundary": ["periodic"],
    },
    2: {
        "equation": {"name": "smoke", "points": POINTS[2]},
        "field_names": ["u", "v"],
        "parameters": {"length": (1, 1, 1), "dt": (0.1, 0.3, 0.2)},
        "boundary": ["periodic", "periodic"],
    },
    "navier_stokes_mac": {
        "equation": NAVIER_STOKES_MAC,
        "field_names": ["u", "v"],
        "parameters": {
            "length": (6.283185307179586,) * 3,
            "dt": (0.05, 0.05, 0.05),
            "viscosity": (0.05, 0.15, 0.1),
            "amplitude": (1, 1, 1),
            "drag": (0.1, 0.1, 0.1),
        },
        "boundary": ["periodic", "periodic"],
    },
}


def case(kind):
    return CASES[kind.equations[0] if kind.equations else min(kind.supported_dims)]


def description(kind):
    """What `longrun.data.describe` would say of the data."""
    chosen = case(kind)
    low, high, _ = zip(*chosen["parameters"].values(), strict=True)
    fields, dims = len(chosen["field_names"]), len(chosen["boundary"])
    return {
        "fields": fields,
        "dims": dims,
        "conditions": 1,  # parameters that vary
        "points": [POINTS[dims]] * dims,
        "equation": chosen["equation"],
        "field_names": chosen["field_names"],
        "parameter_names": list(chosen["parameters"]),
        "boundary": chosen["boundary"],
        "stride": 2,
        "statistics": {
            "mean": [0.1] * fields,
            "std": [1.3] * fields,
            "increment_std": [0.3] * fields,
            "condition_low": [float(value) for value in low],
            "condition_high": [float(value) for value in high],
        },
    }


def frames(kind, size, count, dtype=torch.float32):
    """Smooth frames, another phase in every one."""
    fields, dims = len(case(kind)["field_names"]), len(case(kind)["boundary"])
    x = torch.arange(POINTS[dims], dtype=dtype) / POINTS[dims] * 2 * torch.pi
    phase = (
        torch.arange(size, dtype=dtype)[:, None, None]
        + 0.3 * torch.arange(count, dtype=dtype)[:, None]
    )
    phase = (phase + 0.7 * torch.arange(fields, dtype=dtype)).reshape(size, count, fields, 1)
    field = torch.sin(x + phase) + 0.5 * torch.cos(2 * x - phase)
    if dims == 2:
        field = field[..., None] * torch.cos(x + phase)[..., None, :] + 0.1 * field[..., None]
    return field


def batch(module, size=3, dtype=torch.float32):
    """Return a batch of training windows."""
    kind = type(module)
    middle = [float(value) for _, _, value in case(kind)["parameters"].values()]
    return {
        "window": frames(kind, size, module.history + module.unroll, dtype),
        "parameters": torch.tensor([middle] * size, dtype=dtype),
        "elapsed": torch.arange(size, dtype=dtype),
    }


def output(module, size=3, seed=0, dtype=torch.float32):
    """Return two frames of a rollout: what the trained method is used for."""
    given = batch(module, size, dtype)
    generator = torch.Generator().manual_seed(seed)
    memory = module.begin(given["window"][:, : module.history], given["parameters"])
    found = []
    for _ in range(2):
        frame, memory = module.advance(memory, generator)
        found.append(frame)
    return torch.stack(found, dim=1)


def sample(batch=3, history=1, dtype=torch.float32):
    """Return one-dimensional frames and parameters, for tests of the task itself."""
    x = torch.arange(POINTS[1], dtype=dtype) / POINTS[1] * 2 * torch.pi
    phase = torch.arange(batch * history, dtype=dtype).reshape(batch, history, 1, 1)
    fields = torch.sin(x + phase) + 0.5 * torch.cos(2 * x - phase)
    return fields, torch.tensor([[15.0, 0.2, 1.0]] * batch, dtype=dtype)
