"""Options of `evaluate`, and metrics, of the task `map`."""

from typing import Literal

from pydantic import Field

from longrun.config.section import Count, Natural, Section
from longrun.config.tasks._metric import Metric, metric


class Evaluate(Section):
    """Section `evaluate` of an experiment of the task `map`."""

    trajectories: Count = Field(
        description=(
            "states of the test split, the first ones; as many training states are scored too"
        )
    )
    keep: Natural = Field(default=1, description="states whose fields are kept for figures")
    batch_size: Count = Field(default=64)
    stride: Literal[1] = Field(default=1, description="a steady state is one frame")


ALL_DEVICES = False  # an evaluation uses one device
# what methods log on `valid`, smaller is better
VALIDATION: tuple[str, ...] = ("relative_l2",)
COLUMNS: tuple[str, ...] = ()  # of the scores, that a claim may choose from
METRICS: dict[str, Metric] = {
    "relative_l2": metric(
        "relative L2 error",
        "Norm of the error of the sought field over the norm of the truth, on test states.",
        table="short",
    ),
    "relative_h1": metric(
        "relative H1 error",
        "The same in the Sobolev norm H1, which also counts the gradient: Fourier modes "
        "weigh 1 + |k|², with k in indices of wavenumbers.",
        table="short",
    ),
    "train_relative_l2": metric(
        "relative L2 error, training states",
        "The relative L2 error on states that the method was trained on.",
        table="long",
    ),
    "generalisation_ratio": metric(
        "test / training error",
        "Relative L2 error on test states over the mean of that on training states: 1 "
        "where nothing is lost on states not seen.",
        table="long",
    ),
    "max_error": metric(
        "maximum error",
        "Largest absolute error over the largest absolute value of the truth.",
        table="long",
    ),
    "wall_error": metric(
        "error at the walls",
        "Root mean square error in the outermost points of the grid over the root mean "
        "square of the truth in all.",
        table="long",
    ),
    "wall_time_per_sample": metric(
        "wall time (s / state)",
        "Seconds to predict one state, in a batch, on the machine of the evaluation.",
        table="short",
    ),
}
