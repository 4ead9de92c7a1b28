"""Small stores with known contents, for tests of what reads them."""

import numpy as np

from longrun.data.store import StoreWriter, create_store, open_store

SPLITS = {
    "train": {"trajectories": 7, "frames": 23},
    "valid": {"trajectories": 3, "frames": 30},
    "test": {"trajectories": 1, "frames": 12},
}
QUANTITY = {"units": "1", "long_name": "test"}


def values(split, fields=1, space=(8,), splits=SPLITS, seed=0):
    """Frames `(trajectory, time, channel, *space)` and parameters of a split."""
    generator = np.random.default_rng([seed, *split.encode()])
    size = splits[split]
    states = generator.normal(size=(size["trajectories"], size["frames"], fields, *space))
    parameters = {name: generator.uniform(1, 2, size["trajectories"]) for name in ("length", "dt")}
    return states.astype(np.float32), parameters


def begin(
    path,
    fields=("u",),
    space=(8,),
    splits=SPLITS,
    equation="toy",
    dtype="float32",
    shard=3,
    **layout,
):
    """A store without trajectories, and its writer."""
    create_store(
        path,
        fields={name: QUANTITY for name in fields},
        parameters={"length": QUANTITY, "dt": QUANTITY},
        boundary=("periodic",) * len(space),
        space=space,
        splits=splits,
        layout={"frames_per_chunk": 5, "trajectories_per_shard": shard, "dtype": dtype} | layout,
        attrs={"equation": {"name": equation}, "seed": 0},
    )
    return StoreWriter(path)


def fill(writer, fields=1, space=(8,), splits=SPLITS, seed=0):
    """Write whatever is missing."""
    for split, trajectories in list(writer.missing()):
        states, parameters = values(split, fields, space, splits, seed)
        block = slice(trajectories.start, trajectories.stop)
        writer.write(
            split, trajectories, {k: v[block] for k, v in parameters.items()}, states[block]
        )


def make(path, fields=("u",), space=(8,), splits=SPLITS, seed=0, **options):
    """A finished store."""
    writer = begin(path, fields, space, splits, **options)
    fill(writer, len(fields), space, splits, seed)
    lead = np.arange(1.0, 4.0)
    measured = {"reference_error": 0.1, "predictability": 5.0, "predictability_censored": 0.0}
    writer.finish(lead, lead / 10, measured)
    return open_store(path)
