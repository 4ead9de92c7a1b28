# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Add a method
#
# A method is one file in the folder of its task: the folder is the registry. It gives a step from
# normalised frames to a scaled increment; data, training, rollouts and scores are there already.
# Run this in the repository's folder. It writes two files, which the last cell removes.

# %%
from pathlib import Path

from longrun.runtime import registry

method = registry.ROOT / "methods/forecast/three_points.py"
method.write_text(
    '''"""A linear stencil of three points: how far does one matrix go?"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from longrun.tasks.forecast import AbstractForecaster


class ThreePoints(AbstractForecaster):
    """Convolve the last frame with a learned stencil. See `AbstractForecaster` for the options.

    Parameters
    ----------
    fields, dims, conditions : int
        From the data.
    reach : int
        Points to either side that the stencil sees.
    """

    supported_dims = (1,)

    def __init__(self, fields: int, dims: int, conditions: int, reach: int = 1, **options: Any):
        super().__init__(fields, dims, conditions, **options)
        self.stencil = nn.Conv1d(
            fields, fields, 2 * reach + 1, padding=reach, padding_mode="circular", bias=False
        )

    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the scaled increment."""
        return self.stencil(history[:, -1])
''',
    "utf-8",
)

# %% [markdown]
# An experiment says on what it is trained, with what it is compared, and which number decides.
# Every argument with a default is an option in YAML, checked before anything runs.

# %%
experiment = Path("configs/experiments/three_points.yaml")
experiment.write_text(
    """
paper: {title: Three points, arxiv: "0000.00000"}
dataset: kuramoto_sivashinsky
seeds: 3
task: {name: forecast, learning_rate: 1.0e-2, ema_decay: 0.9}
methods:
  three_points: {name: three_points}
  five_points: {name: three_points, reach: 2}
  persistence: {name: persistence, seeds: 1}
trainer: {max_steps: 5000, batch_size: 64}
evaluate: {stride: 4, steps: 150, trajectories: 128}
presets:
  smoke:
    trainer: {max_steps: 100, batch_size: 8}
    evaluate: {steps: 18, trajectories: 4}
  cpu: {evaluate: {trajectories: 32}}
claims:
  beats_persistence:
    main: true
    says: A linear stencil of three points errs less than no change at all.
    metric: one_step_nrmse
    of: three_points
    against: persistence
    ratio: {holds: 1.0, direction: below}
""",
    "utf-8",
)

# %% [markdown]
# At preset smoke all of it runs within a minute: data, both trainings, rollouts, verdict and
# figures. `make test` would now also hold the new file to the contract of all methods.

# %%
import subprocess
import sys

subprocess.run([sys.executable, "-m", "longrun.smoke", "three_points"], check=True)

# %%
import pandas as pd

results = pd.read_csv("results/smoke/results.csv")
results[(results["row"] == "method") & (results["metric"] == "one_step_nrmse")][["name", "value"]]

# %% [markdown]
# `make reproduce PAPERS=three_points` makes it at preset cpu, with three seeds, and judges the
# claim.

# %%
method.unlink()
experiment.unlink()
