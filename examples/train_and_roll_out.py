# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
# ---

# %% [markdown]
# # Train and roll out
#
# Data and training come from the workflow's programs, here at sizes of seconds: a U-Net learns one
# step of the Kuramoto-Sivashinsky equation. Run this in the repository's folder, where `configs/`
# is.

# %%
import subprocess
import sys

import matplotlib.pyplot as plt

import longrun


def verb(name, **options):
    """Run a program: `verb("train", seed=0)` is `python -m longrun.train --seed 0`."""
    words = [word for key, value in options.items() for word in (f"--{key}", *str(value).split())]
    subprocess.run([sys.executable, "-m", f"longrun.{name}", *words], check=True)


store = "data/smoke/kuramoto_sivashinsky.zarr"
verb("generate", dataset="kuramoto_sivashinsky", preset="smoke", output=store)

# %%
run = "results/example/model.ckpt"
changes = "trainer.max_steps=400 trainer.validate_every=200 learning_rate=3e-3"
training = {"experiment": "pde_refiner", "method": "unet", "seed": 0, "preset": "smoke"}
verb("train", **training, set=changes, output=run)

# %% [markdown]
# What was trained is loaded with one call, on any device. It takes a few true frames, with their
# parameters, and returns as many steps as it is asked for.

# %%
unet = longrun.load(run)
test = longrun.open_store(store)["test"].to_dataset()
forecast = unet.forecast(test.isel(time=slice(0, 5)), steps=18)
forecast

# %% [markdown]
# Forecast and truth have the same labels, so xarray lines them up.

# %%
shown = forecast.u.isel(trajectory=0)
panels = {"truth": test.u.isel(trajectory=0).sel(time=shown.time), "forecast": shown}
panels["difference"] = panels["forecast"] - panels["truth"]
figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained", sharey=True)
for panel, (title, field) in zip(axes, panels.items(), strict=True):
    field.plot(ax=panel, x="x", cmap="RdBu_r", vmin=-3, vmax=3, add_colorbar=title == "difference")
    panel.set_title(title)
plt.show()

# %% [markdown]
# The scores are those of `python -m longrun.evaluate`, as a tidy table: one row for each
# trajectory, step and metric.

# %%
scores = longrun.score(forecast, test)
by_step = scores[scores["metric"].isin(["nrmse", "correlation"])]
by_step = by_step.pivot_table("value", "lead_time", "metric", observed=True)
by_step.plot(subplots=True, figsize=(6, 4))
plt.show()

# %%
horizon = scores[scores["metric"] == "correlation_time_0.8"]["value"]
print(f"correlated above 0.8 for {horizon.mean():.2g} units of time")
