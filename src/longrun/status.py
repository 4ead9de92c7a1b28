"""Say of every experiment what is done, running, failed or out of date, and what it would cost.

Snakemake says what is missing and what an edit or a newer input has put out of date; locks say what
is being written; logs, what failed. Costs are the times of the jobs that would run, one after the
other, by what they took before; data that several experiments need counts for each.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longrun import config
from longrun.runtime import cli, registry
from longrun.runtime.cli import UserError
from longrun.runtime.times import Key, Times, in_words

STATES = ("done", "running", "failed", "stale", "missing")
POINT = r"(?:(?P<point>[0-9a-f]{12})/)?"
PLACES = (
    re.compile(r"data/\w+/(?P<dataset>\w+)\.zarr"),
    re.compile(rf"results/\w+/(?P<experiment>\w+)/(?P<method>\w+)/{POINT}seed(?P<seed>\d+)/[\w.]+"),
    re.compile(r"results/\w+/(?P<experiment>\w+)/(claims\.json|figures|artefact\.json)"),
)
# how a log ends whose program has failed
FAILED = re.compile(r"longrun\.\w+: error: |(\w+\.)*\w*(Error|Exception|Exit)\b")


@dataclass(frozen=True)
class Job:
    """A job of the workflow, and how it stands."""

    rule: str
    place: Path  # of its outputs: a run's folder, a store, a file
    kind: Key
    state: str
    log: Path


def jobs(preset: str, summary: str) -> list[Job]:
    """Read what Snakemake's `--summary` says of each output; the worst of a job's counts."""
    found: dict[tuple[str, Path], Job] = {}
    for line in summary.splitlines():
        cells = line.split("\t")
        match = next((m for place in PLACES if (m := place.fullmatch(cells[0]))), None)
        if match is None:  # the header, tables of all experiments
            continue
        job = _job(preset, Path(cells[0]), cells[2], match.groupdict(), *cells[-2:])
        other = found.setdefault((job.rule, job.place), job)
        if STATES.index(job.state) > STATES.index(other.state):
            found[job.rule, job.place] = job
    return list(found.values())


def _job(
    preset: str, output: Path, rule: str, names: Mapping[str, Any], status: str, plan: str
) -> Job:
    place = output.parent if names.get("seed") else output
    if "dataset" in names:
        kind, log = names["dataset"], Path("logs", preset, rule, f"{names['dataset']}.log")
    else:
        kind = "/".join(names[name] for name in ("experiment", "method") if names.get(name))
        log = Path("logs", *output.parts[1:-1], f"{rule.partition('_')[0]}.log")
    state = "missing" if status == "missing" else "stale" if plan == "update pending" else "done"
    if state != "done" and any(map(cli.is_locked, _written(rule, place))):
        state = "running"
    elif state == "missing" and log.exists() and FAILED.match(cli.last_line(log)):
        state = "failed"
    return Job(rule, place, Key(rule, kind), state, log)


def _written(rule: str, place: Path) -> Iterator[Path]:
    """Yield what a program locks while it makes these outputs."""
    yield place
    if rule.startswith("train"):
        folder = Path("runs", *place.parts[1:])
        yield from (folder / lock.name[1:-5] for lock in folder.glob(".*.lock"))


def needed(configs: Path, experiment: str, preset: str) -> tuple[set[Path], set[Path]]:
    """Return the stores that an experiment needs, and the folders of its runs, borrowed ones too.

    Raises
    ------
    longrun.config.ConfigError
        It can't be composed.
    """
    spec = config.compose(configs, experiment, preset)
    names = {*spec["test"]}
    for method in spec["methods"]:
        names |= {*config.method_spec(spec, method)["train"]}
    folder = Path("results", preset, experiment)
    runs = {run.folder for run in config.runs(spec, folder)}
    halves = {curves.parent for curves in config.half_curves(spec, folder).values()}
    return {*config.stores(preset, names)}, runs | halves


def table(
    configs: Path, preset: str, experiments: Iterable[str], found: Iterable[Job], times: Times
) -> str:
    """Write a row for each experiment: jobs by state, and the cost of those that would run."""
    found = list(found)
    width = max(map(len, experiments := list(experiments)), default=10)
    lines = [f"{'':{width}}  " + "".join(f"{state:>9}" for state in STATES) + "  cost"]
    for experiment in experiments:
        stores, runs = needed(configs, experiment, preset)
        home = Path("results", preset, experiment)
        own = [j for j in found if j.place in stores | runs or j.place.parent == home]
        counts = [sum(job.state == state for job in own) for state in STATES]
        numbers = "".join(f"{number or '-':>9}" for number in counts)
        lines.append(f"{experiment:{width}}  {numbers}  {cost(own, times)}")
    lines.append(f"{'all of it':{width}}  {'':{9 * len(STATES)}}  {cost(found, times)}")
    return "\n".join(lines)


def cost(found: Iterable[Job], times: Times) -> str:
    """Say what the jobs that would run take, one after the other."""
    pending = [times.of(job.kind) for job in found if job.state != "done"]
    known = [seconds for seconds in pending if seconds is not None]
    parts = [in_words(sum(known))] if known else []
    if unknown := len(pending) - len(known):
        parts.append(f"{unknown} job{'s' if unknown > 1 else ''} never timed")
    return " and ".join(parts) or "-"


def summarise(preset: str, environment: Mapping[str, str] | None = None) -> str:
    """Ask Snakemake how every output of every experiment stands.

    Raises
    ------
    UserError
        It refuses the configuration, or there is no workflow here.
    """
    cli.check_checkout()
    words = ["--summary", "--nolock", "--config", f"preset={preset}", "--", "all_papers"]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *words],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["Snakemake failed"]
        raise UserError(lines[-1].strip())
    return done.stdout


EXAMPLES = """
python -m longrun.status --preset cpu
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    return cli.parser("status", __doc__, EXAMPLES, "preset")


def main() -> None:
    """Print the table, and what failed."""
    preset, configs = parser().parse_args().preset, Path("configs")
    cli.check_checkout()
    known = config.presets(configs)
    if preset not in known:
        raise UserError(f"{preset}: no such preset; {registry.allowed(known, preset)}")
    found = jobs(preset, summarise(preset))
    print(f"preset {preset}, jobs by how they stand")
    print(table(configs, preset, config.experiments(configs), found, Times(preset)))
    failed = [job for job in found if job.state == "failed"]
    if failed:
        print("\nfailed:")
    for job in failed:
        print(f"  {job.rule} {job.place}: {cli.last_line(job.log)} ({job.log})")


if __name__ == "__main__":
    cli.run(main)
