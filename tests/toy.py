"""A folder in which a verb can run: one dataset, one experiment, one preset."""

import yaml

from longrun import config
from longrun.generate import generate

DATASET = {
    "equation": {
        "name": "kuramoto_sivashinsky",
        "points": 32,
        "length": {"uniform": [15.0, 17.0]},
        "dt": 0.2,
        "viscosity": 1.0,
        "substeps": 1,
        "burn_in": 20,
    },
    "seed": 1,
    "splits": {
        "train": {"trajectories": 4, "frames": 30},
        "valid": {"trajectories": 2, "frames": 30},
        "test": {"trajectories": 3, "frames": 30},
    },
}


def configure(folder, dataset, experiment):
    """Write the dataset `toy`, the experiment `test` and the preset `smoke`."""
    for kind, name, content in (
        ("datasets", "toy", dataset),
        ("experiments", "test", experiment),
        ("presets", "smoke", {}),
    ):
        (folder / "configs" / kind).mkdir(parents=True)
        (folder / "configs" / kind / f"{name}.yaml").write_text(yaml.safe_dump(content))


def with_store(folder, dataset, experiment):
    """Write them, make `toy.zarr`, and return the folder."""
    configure(folder, dataset, experiment)
    spec = config.compose_dataset(folder / "configs", "toy", "smoke")
    generate(spec, folder / "toy.zarr", provenance={})
    return folder
