# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Your own data
#
# From a file to a trained method, its forecast and its scores. Any file that xarray opens will do,
# and so will NumPy's, and those of PDEBench and The Well. Run this in the repository's folder. It
# writes a file of data and two YAML files, which the last cell removes.

# %%
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr

import longrun

# %% [markdown]
# This stands for the file that you have: waves on a ring, with dimensions and names of their own.

# %%
position = np.linspace(0, 2 * np.pi, 64, endpoint=False)
days = np.arange(40) * 0.05
numbers = np.random.default_rng(0)
phase, speed = numbers.uniform(0, 6, (30, 1, 1)), numbers.uniform(0.8, 1.2, (30, 1, 1))
angle = position - speed * days[:, None] + phase
height = np.sin(angle) + 0.3 * np.cos(3 * angle)
mine = xr.Dataset(
    {"height": (("run", "day", "lon"), height.astype("float32"), {"units": "m"})},
    coords={"day": days, "lon": position},
)
mine.to_netcdf("mine.nc")

# %% [markdown]
# One command looks into it and writes a dataset and an experiment, with a comment on every line.
# Usual names of dimensions are known; these are given.

# %%
words = ["mine", "--data", "mine.nc", "--boundary", "periodic", "--methods", "unet", "persistence"]
words += ["--dims", "trajectory=run", "time=day", "x=lon"]
subprocess.run([sys.executable, "-m", "longrun.new", *words], check=True)
print(Path("configs/datasets/mine.yaml").read_text("utf-8"))

# %% [markdown]
# The workflow makes the rest: `make reproduce PAPERS=mine`. Here are its steps at preset smoke, in
# one process and within a minute.

# %%
subprocess.run([sys.executable, "-m", "longrun.smoke", "mine"], check=True)

# %%
store = longrun.open_store("data/smoke/mine.zarr")
unet = longrun.load("results/smoke/mine/unet/seed0/model.ckpt")
test = store["test"].to_dataset()
forecast = unet.forecast(test.isel(time=slice(0, 3)), steps=5)
forecast

# %%
scores = longrun.score(forecast, test)
nrmse = scores[scores["metric"] == "nrmse"].groupby("step")["value"].mean()
nrmse.plot(marker="o", xlabel="step", ylabel="nRMSE", figsize=(5, 3))
plt.show()

# %%
for file in ("mine.nc", "configs/datasets/mine.yaml", "configs/experiments/mine.yaml"):
    Path(file).unlink()
