"""How long jobs of the workflow take, by what they took before: here, or where results were made.

`benchmarks/` holds the times of this folder's own jobs; docs/times.csv those of the machine on
which the committed results were made. A name is `experiment/method`, or a dataset.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from longrun.runtime.cli import atomic

COMMITTED = Path("docs/times.csv")
BENCHMARKS = Path("benchmarks")
HALF = {"train_point": ("train", 0.5)}  # most are runs with half the updates
SHORT = {"judge": 4.0, "plot": 15.0, "inspect": 4.0, "publish": 4.0, "tabulate": 4.0, "rank": 4.0}
_RUN = re.compile(r"(?P<name>\w+/\w+)/seed\d+/(?P<rule>train|evaluate)\.tsv")
_DATA = re.compile(r"(?P<rule>generate|simulate|measure)/(?P<name>\w+)(/\d+)?\.tsv")


class Key(NamedTuple):
    """Jobs that take about as long as each other: those of all seeds, or of all parts."""

    rule: str
    name: str


def key(rule: str, wildcards: Mapping[str, Any]) -> Key:
    """Return what a job's time is looked up by."""
    names = ("experiment", "method", "dataset", "sweep")
    return Key(rule, "/".join(str(wildcards[name]) for name in names if name in wildcards))


class Times:
    """Mean seconds of a preset's jobs.

    Parameters
    ----------
    preset
        Whose jobs.
    root
        Folder of `benchmarks/` and `docs/`.
    """

    def __init__(self, preset: str, root: Path = Path()):
        self._known = committed(root / COMMITTED, preset) | measured(root / BENCHMARKS / preset)
        whole: dict[Key, list[float]] = defaultdict(list)
        for (rule, name), seconds in self._known.items():
            whole[Key(rule, name.partition("/")[0])].append(seconds)
        self._of_experiment = {job: sum(each) / len(each) for job, each in whole.items()}

    def of(self, job: Key) -> float | None:
        """Return the seconds of a job, by others of its experiment if need be; None: not known."""
        if job.rule in SHORT:
            return SHORT[job.rule]
        if job.rule in HALF:
            rule, share = HALF[job.rule]
            whole = self.of(Key(rule, job.name))
            return None if whole is None else share * whole
        if job in self._known:
            return self._known[job]
        return self._of_experiment.get(Key(job.rule, job.name.partition("/")[0]))


def measured(folder: Path) -> dict[Key, float]:
    """Read what Snakemake wrote to `benchmarks/{preset}`, without sweeps."""
    found: dict[Key, list[float]] = defaultdict(list)
    for file in folder.rglob("*.tsv"):
        path = file.relative_to(folder).as_posix()
        match = _RUN.fullmatch(path) or _DATA.fullmatch(path)
        if match:
            found[Key(match["rule"], match["name"])] += _seconds(file)
    return {job: sum(seconds) / len(seconds) for job, seconds in found.items() if seconds}


def _seconds(file: Path) -> Iterator[float]:
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            yield from (float(row["s"]) for row in csv.DictReader(lines, delimiter="\t"))
    except (OSError, ValueError, KeyError, TypeError):  # cut short
        return


def committed(file: Path, preset: str) -> dict[Key, float]:
    """Read the times of a preset from docs/times.csv; none where there is no such file."""
    return {Key(*job): seconds for (of, *job), seconds in _rows(file).items() if of == preset}


def _rows(file: Path) -> dict[tuple[str, str, str], float]:
    """Return seconds by preset, rule and name."""
    if not file.exists():
        return {}
    with file.open(encoding="utf-8", newline="") as lines:
        return {
            (row["preset"], row["rule"], row["name"]): float(row["seconds"])
            for row in csv.DictReader(lines)
        }


def commit(preset: str, root: Path, benchmarks: Path = BENCHMARKS) -> None:
    """Take the times of a preset's jobs into docs/times.csv; what was not run here stays."""
    fresh = {(preset, *job): seconds for job, seconds in measured(benchmarks / preset).items()}
    if not fresh:
        return
    rows = _rows(root / COMMITTED) | fresh
    with (
        atomic(root / COMMITTED) as part,
        part.open("w", encoding="utf-8", newline="") as lines,
    ):
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(["preset", "rule", "name", "seconds"])
        writer.writerows([*job, f"{seconds:.1f}"] for job, seconds in sorted(rows.items()))


def in_words(seconds: float) -> str:
    """Return a duration as one says it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
