"""Options of `evaluate`, and metrics, of the task `forecast`."""

from pydantic import Field

from longrun.config.section import Count, Natural, Section
from longrun.config.tasks._metric import Metric, metric


class Evaluate(Section):
    """Section `evaluate` of an experiment of the task `forecast`."""

    steps: Count = Field(description="model steps of a rollout")
    stride: Count = Field(
        default=1, description="frames of the dataset per model step, in training too"
    )
    start: Natural = Field(
        default=0,
        description="number of the last frame shown to a method; it may see history before it",
    )
    trajectories: Count = Field(description="of the test split, the first ones")
    members: Count = Field(
        default=1, le=65536, description="samples per trajectory of methods that are random"
    )
    keep: Natural = Field(default=1, description="trajectories whose fields are kept for figures")
    batch_size: Count = Field(default=64)
    train_trajectories: Count | None = Field(
        default=None,
        description=(
            "of the training split, the first ones: score the gap between them and the test "
            "split. Default: don't"
        ),
    )


ALL_DEVICES = True  # an evaluation uses all devices of a node
# what methods log on `valid`, smaller is better
VALIDATION: tuple[str, ...] = (
    "increment_error",
    "field_error",
    "noise_error",
)
COLUMNS: tuple[str, ...] = ("step", "stage")  # of the scores, that a claim may choose from
METRICS: dict[str, Metric] = {
    "correlation_time_0.8": metric(
        "r > 0.8 (time)",
        "Time, in the equation's units, until the Pearson correlation between forecast and "
        "truth, over space, first falls below 0.8, interpolated between frames. A rollout "
        "that never falls below counts with its whole length and is marked censored (≥): the "
        "true value is longer. A forecast that is constant or not finite has correlation 0.",
        table="short",
    ),
    "correlation_time_0.9": metric("r > 0.9 (time)", "The same for the level 0.9.", table="short"),
    "correlation_time_0.8_vorticity": metric(
        "vorticity r > 0.8 (time)",
        "As r > 0.8, of the vorticity, whose smaller scales are lost first; where the "
        "equation derives it from the velocity.",
        table="short",
    ),
    "correlation_time_0.9_vorticity": metric(
        "vorticity r > 0.9 (time)", "The same for the level 0.9.", table="long"
    ),
    "correlation_vorticity": metric(
        "correlation of vorticity",
        "Pearson correlation of the vorticity of forecast and truth over space; in three "
        "dimensions of its magnitude.",
    ),
    "one_step_nrmse": metric(
        "one-step nRMSE",
        "Error of a single model step from true data: root mean square error over the "
        "root mean square of the truth.",
        table="short",
    ),
    "one_step_error_low": metric(
        "one-step error, low",
        "Geometric mean of the amplitudes of the one-step error's Fourier modes in the low "
        "band, where the spectrum is near its peak: each wavenumber counts the same.",
        table="long",
    ),
    "one_step_error_middle": metric(
        "one-step error, middle", "The same in the middle band.", table="long"
    ),
    "one_step_error_high": metric(
        "one-step error, high",
        "The same in the high band: wavenumbers that hold less than 1 % of the peak energy, "
        "and more than a billionth.",
        table="long",
    ),
    "nrmse": metric(
        "nRMSE",
        "Root mean square error over the root mean square of the truth, mean over "
        "fields and frames.",
        table="short",
    ),
    "bounded": metric(
        "bounded",
        "Share of the rollout's frames that are finite and not far outside what the truth reaches.",
        table="short",
    ),
    "climate_w1": metric(
        "climate W1",
        "Wasserstein-1 distance between the distributions of field values of a long "
        "forecast and of the truth: does the forecast still look like the system once "
        "it has lost the track?",
        table="long",
    ),
    "climate_w1_vorticity": metric(
        "climate W1 of vorticity",
        "The same of the vorticity, which shows the small scales; where the equation derives it "
        "from the velocity. In three dimensions, of its magnitude.",
        table="long",
    ),
    "climate_energy_error": metric(
        "climate energy",
        "Relative error of the long forecast's mean kinetic energy; where there is a velocity.",
        table="long",
    ),
    "climate_motion_error": metric(
        "climate motion",
        "Relative error of the root mean square change from step to step in the long forecast: 1 "
        "where it stands still, which no other score of the climate shows.",
        table="long",
    ),
    "climate_spectrum_error_low": metric(
        "climate spectrum, low",
        "Relative error of the long forecast's energy spectrum in the low band.",
        table="long",
    ),
    "climate_spectrum_error_middle": metric(
        "climate spectrum, middle", "The same in the middle band.", table="long"
    ),
    "climate_spectrum_error_high": metric(
        "climate spectrum, high",
        "Relative error of the long forecast's energy spectrum in the high band.",
        table="long",
    ),
    "crps": metric(
        "CRPS",
        "Continuous ranked probability score of an ensemble: its mean absolute error "
        "less half the mean distance between its members.",
        table="long",
        ensemble=True,
    ),
    "spread_skill": metric(
        "spread / skill",
        "Spread of an ensemble over the error of its mean: 1 where the ensemble knows "
        "how uncertain it is, less where it is too sure.",
        table="long",
        ensemble=True,
    ),
    "predicted_horizon": metric(
        "predicted horizon (time)",
        "Time at which an ensemble's members, on average, stop being correlated above "
        "0.8 with each other: an estimate of the true horizon that needs no truth.",
        table="long",
        ensemble=True,
    ),
    "wall_time_per_second": metric(
        "cost (s per unit of time)",
        "Wall seconds per simulated unit of time and trajectory, in a full batch on the "
        "machine named above.",
        table="short",
    ),
    "wall_error": metric(
        "error at walls",
        "Root mean square error in the cells next to a wall, an inlet or a body, over the root "
        "mean square of the whole true frame, mean over fields and frames; where the equation "
        "prescribes values there.",
        table="long",
    ),
    "divergence": metric(
        "divergence",
        "What flows out of a cell on balance, over what flows out of it along each axis, root "
        "mean squares over cells: 0 for an incompressible flow, 1 where the parts are unrelated.",
        table="long",
    ),
    "rmse": metric("RMSE", "Root mean square error over space, mean over fields."),
    "vrmse": metric("VRMSE", "Error over the standard deviation in space of the true frame."),
    "relative_l1": metric(
        "relative L1",
        "Mean absolute error over the mean absolute value of the true frame, all fields together.",
    ),
    "correlation": metric(
        "correlation", "Pearson correlation of forecast and truth over space, mean over fields."
    ),
    "spectrum_error_low": metric(
        "spectrum error low", "Relative error of the energy spectrum in the low band."
    ),
    "spectrum_error_middle": metric("spectrum error middle", "The same in the middle band."),
    "spectrum_error_high": metric("spectrum error high", "The same in the high band."),
    "kinetic_energy": metric(
        "kinetic energy", "Half the mean square of the velocity, of the forecast."
    ),
    "truth_kinetic_energy": metric("kinetic energy, truth", "The same of the truth."),
    "spread": metric("spread", "Standard deviation of an ensemble's members.", ensemble=True),
    "ensemble_rmse": metric(
        "ensemble RMSE", "Root mean square error of an ensemble's mean.", ensemble=True
    ),
    "member_correlation": metric(
        "member correlation", "Mean correlation between an ensemble's members.", ensemble=True
    ),
    "generalisation_gap": metric(
        "test / train",
        "nRMSE of the rollout on test trajectories over that on the first trajectories "
        "of the training set: 1 where a method is as good on what it has not seen.",
        table="short",
    ),
    "train_nrmse": metric(
        "nRMSE, trained",
        "nRMSE of the rollout on the first trajectories of the training set.",
        table="long",
    ),
    "level_error": metric("level error", "Error of the scaled target after each stage of a step."),
    "drift_*": metric("drift", "Change of a quantity that the equation conserves."),
}
