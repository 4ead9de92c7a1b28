"""Options of `evaluate`, and metrics, of the task `assimilate`."""

from typing import Annotated

from pydantic import Field

from longrun.config.section import OMITTED, Count, Distinct, Natural, Section
from longrun.config.tasks._metric import Metric, metric


class Evaluate(Section):
    """Section `evaluate` of an experiment of the task `assimilate`."""

    steps: Count = Field(description="model steps after the warm-up")
    warm_up: Count = Field(
        description="frames before them, all measured; the first is what a method starts from"
    )
    measured: Distinct[Annotated[float, Field(ge=0, le=1)]] = Field(
        description="fractions of the steps that are measured; each is scored for itself"
    )
    snr: float | None = Field(
        description="signal-to-noise ratio of the measurements, dB; null for none"
    )
    spacing: Count = Field(
        default=OMITTED, description="grid points between sensors, along every axis; 1 by default"
    )
    sensor_share: float = Field(
        default=OMITTED,
        gt=0,
        le=1,
        description="instead of spacing, the share of the points with a sensor",
    )
    known_every: Count = Field(
        default=1, description="of the frames, those that training knows; others are scored apart"
    )
    window: Count = Field(
        default=OMITTED, description="steps that scores apart are of, the first; all by default"
    )
    draws: Count = Field(
        default=1,
        description=(
            "times that each trajectory is followed, with other noise and other measured steps"
        ),
    )
    lyapunov_time: float | None = Field(
        default=None,
        gt=0,
        description="inverse of the largest Lyapunov exponent, s; null where there is no chaos",
    )
    stride: Count = Field(
        default=1, description="frames of the dataset per model step, in training too"
    )
    start: Natural = Field(default=0, description="number of the first frame")
    trajectories: Count = Field(description="of the test split, the first ones")
    keep: Natural = Field(default=1, description="trajectories whose fields are kept for figures")
    batch_size: Count = Field(
        default=64, description="states in one call: trajectories times draws times fractions"
    )


ALL_DEVICES = False  # an evaluation uses one device
# what methods log on `valid`, smaller is better
VALIDATION: tuple[str, ...] = (
    "free_relative_mse",
    "measured_relative_mse",
)
COLUMNS: tuple[str, ...] = ("step", "measured")  # of the scores, that a claim may choose from
METRICS: dict[str, Metric] = {
    "early_relative_mse": metric(
        "early relative MSE",
        "Mean squared error over the mean square of the truth, over the first two "
        "Lyapunov times after the warm-up.",
        table="short",
    ),
    "late_relative_mse": metric(
        "late relative MSE",
        "The same over the second half of the steps. A state that has nothing to do "
        "with the truth has about 2, the climate's mean has 1.",
        table="short",
    ),
    "lost": metric(
        "lost",
        "Share of the trajectories whose late relative MSE is above 1, that of the climate's mean: "
        "a few of them may carry the mean error.",
        table="short",
    ),
    "correlation_time_0.8": metric(
        "free r > 0.8 (time)",
        "Time since the last measurement until the correlation of the free forecast "
        "with the truth first falls below 0.8, interpolated between frames; censored "
        "(≥) where it never does.",
        table="short",
    ),
    "bounded": metric(
        "bounded",
        "Share of the steps with a state that is finite and not far outside what the "
        "truth reaches.",
        table="long",
    ),
    "wall_time_per_second": metric(
        "cost (s per unit of time)",
        "Wall seconds of a step and its correction, per simulated unit of time and "
        "trajectory, on the machine named above.",
        table="short",
    ),
    "relative_mse": metric(
        "relative MSE",
        "Mean squared error over the mean square of the truth, mean over fields and steps.",
        table="long",
    ),
    **{
        f"relative_mse_{place}{when}": metric(
            f"relative MSE {place.replace('_', ' ')}{when.replace('_', ' ')}",
            f"Relative MSE at the points {where}, in frames {whose}.",
            table="long",
        )
        for place, where in (
            ("at_sensors", "with a sensor"),
            ("between_sensors", "without a sensor"),
        )
        for when, whose in (
            ("", "whose like the training has measurements of"),
            ("_between_frames", "between those, which no training has seen"),
        )
    },
    "nrmse": metric(
        "nRMSE",
        "Root mean square error over the root mean square of the truth, mean over "
        "fields and steps.",
        table="long",
    ),
    "correlation": metric(
        "correlation", "Pearson correlation of estimate and truth over space, mean over fields."
    ),
}
