# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Make data and look at it
#
# A solver runs with one call and returns an xarray dataset. What it solves, with which options,
# says the page of the equation, or `help` of its class.

# %%
import matplotlib.pyplot as plt
import numpy as np

import longrun

waves = longrun.simulate(
    "kuramoto_sivashinsky", points=128, length=64.0, trajectories=2, frames=400
)
waves

# %% [markdown]
# Each trajectory has its own `dt` and `length`, so `time` counts frames and `x` is a share of the
# length: physical time is `time * dt`.

# %%
one = waves.isel(trajectory=0)
one = one.assign_coords(time=one.time * one.dt, x=one.x * one.length)
one.u.plot(x="time", cmap="RdBu_r", size=3, aspect=3)
plt.title("Kuramoto-Sivashinsky equation")
plt.show()

# %% [markdown]
# Numbers are drawn for each trajectory where a range stands in place of a number. Trajectory i
# depends on the seed and on i alone, whatever is simulated with it.

# %%
shock = {"viscosity": {"log_uniform": [0.005, 0.1]}, "points": 128}
flows = longrun.simulate("burgers", trajectories=3, frames=60, seed=1, **shock)
again = longrun.simulate("burgers", trajectories=1, frames=60, seed=1, **shock)
assert np.array_equal(flows.u[0], again.u[0])
flows.u.isel(time=[0, 20, 59]).plot(hue="time", col="trajectory", size=2.5)
plt.show()

# %% [markdown]
# A dataset in `configs/datasets/` is made once, checksummed, with its error measured against half
# the step and twice the resolution. In a shell: `python -m longrun.generate --dataset
# kuramoto_sivashinsky --preset smoke --output data/smoke/kuramoto_sivashinsky.zarr`

# %%
import subprocess
import sys

store = "data/smoke/kuramoto_sivashinsky.zarr"
options = ["--dataset", "kuramoto_sivashinsky", "--preset", "smoke", "--output", store]
subprocess.run([sys.executable, "-m", "longrun.generate", *options], check=True)
tree = longrun.open_store(store)
tree

# %% [markdown]
# Two runs that differ by a millionth stay alike for `predictability`. Beyond, no forecast can be
# judged by how near it is to the one true trajectory.

# %%
tree.reference_error.plot(x="lead_time", yscale="log", size=3)
plt.axvline(tree.attrs["predictability"], color="grey")
plt.title("error of the stored solution")
plt.show()
