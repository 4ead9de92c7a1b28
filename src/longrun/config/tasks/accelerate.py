"""Options of `evaluate`, and metrics, of the task `accelerate`."""

from typing import Literal

from pydantic import Field

from longrun.config.section import Count, Natural, Section
from longrun.config.tasks._metric import Metric, metric


class Evaluate(Section):
    """Section `evaluate` of an experiment of the task `accelerate`."""

    steps: Count = Field(description="systems of a trial")
    stride: Literal[1] = Field(default=1, description="frames per system: each is one")
    block: Count = Field(
        default=1,
        description=(
            "consecutive systems over which scores of single systems are averaged; divides steps"
        ),
    )
    late: float = Field(
        default=0.125,
        le=1,
        gt=0,
        description="share of the systems, the last ones, that count as late",
    )
    trajectories: Count = Field(
        description="trials: trajectories of the test split, the first ones"
    )
    keep: Natural = Field(
        default=1, description="trials whose solutions and choices are kept for figures"
    )


ALL_DEVICES = False  # an evaluation uses one device
# what methods log on `valid`, smaller is better
VALIDATION: tuple[str, ...] = ()
COLUMNS: tuple[str, ...] = ("step",)  # of the scores, that a claim may choose from
METRICS: dict[str, Metric] = {
    "iterations_late": metric(
        "late iterations",
        "Iterations of the solver per system, mean over the last systems of a trial.",
        table="short",
    ),
    "iterations_mean": metric(
        "iterations",
        "Iterations of the solver per system, mean over the whole trial.",
        table="short",
    ),
    "wall_time": metric(
        "cost (s)",
        "Wall seconds per system: choosing, solving and learning, on the machine named above.",
        table="short",
    ),
    "solution_error": metric(
        "solution error",
        "Distance of the solution from the stored one, relative to its norm, mean over systems.",
        table="long",
    ),
    "iterations": metric(
        "iterations of a block",
        "Iterations of the solver per system, mean over a block of systems.",
    ),
    "omega": metric("omega", "Relaxation parameter, mean over a block of systems."),
}
