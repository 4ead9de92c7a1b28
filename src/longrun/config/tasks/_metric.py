"""What is known of a metric besides its values."""

from typing import Literal, TypedDict


class Metric(TypedDict):
    """Heading of its column, what it means, the table that shows it, whether members are needed."""

    heading: str
    meaning: str
    table: Literal["short", "long"] | None
    ensemble: bool


def metric(
    heading: str,
    meaning: str,
    table: Literal["short", "long"] | None = None,
    ensemble: bool = False,
) -> Metric:
    """Describe a metric; without a table it is for claims and figures alone."""
    return {"heading": heading, "meaning": meaning, "table": table, "ensemble": ensemble}
