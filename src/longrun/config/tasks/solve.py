"""Options of `evaluate`, and metrics, of the task `solve`."""

from typing import Literal

from pydantic import Field

from longrun.config.section import Count, Natural, Section
from longrun.config.tasks._metric import Metric, metric


class Evaluate(Section):
    """Section `evaluate` of an experiment of the task `solve`."""

    stride: Count = Field(
        default=1, description="frames of the dataset between two that are scored"
    )
    split: Literal["train", "valid", "test"] = Field(
        default="test",
        description=(
            "where the solution lies that a method is compared with; it must be that of the "
            "training split's first problem"
        ),
    )
    trajectories: Count = Field(default=1, description="of that split, the first ones")
    keep: Natural = Field(default=1, description="trajectories whose fields are kept for figures")
    batch_size: Count = Field(default=16384, description="points in one call of the network")


ALL_DEVICES = False  # an evaluation uses one device
# what methods log on `valid`, smaller is better
VALIDATION: tuple[str, ...] = ("residual_rms",)
COLUMNS: tuple[str, ...] = ("step",)  # of the scores, that a claim may choose from
METRICS: dict[str, Metric] = {
    "relative_l2": metric(
        "relative L2",
        "Norm of the error over the norm of the solution, over all frames, positions and fields.",
        table="short",
    ),
    "relative_l2_final": metric(
        "relative L2, last frame", "The same for the last frame alone.", table="long"
    ),
    "relative_l2_over_time": metric(
        "relative L2 over time", "The same for each frame; a step is a frame of the dataset."
    ),
    "max_error": metric(
        "largest error",
        "Largest absolute error over all frames and positions, in units of the field.",
        table="long",
    ),
    "residual_rms": metric(
        "residual",
        "Root mean square of what the equation leaves, without any weights, on the grid "
        "of the data.",
        table="short",
    ),
}
