"""Run whole experiments at preset smoke, to see that everything runs here.

The verbs of each experiment run in the order of the workflow, write the files that it would write,
and log where it would log. Programs start and import once, which takes longest in a run of seconds:
every job is forked from a process that has done so. Nothing is reused from an earlier call, a job
whose inputs failed is left out, and what failed is listed at the end.
"""

import argparse
import graphlib
import importlib
import itertools
import logging
import multiprocessing
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from longrun import config
from longrun.config.layers import check_folder
from longrun.exchange.sources import look
from longrun.runtime import cli, registry
from longrun.runtime.cli import UserError

PRESET = "smoke"
VERBS = ("generate", "train", "evaluate", "judge", "plot", "tabulate")
FAILED, LEFT_OUT = "failed", "left out"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """A call of a verb.

    Attributes
    ----------
    verb
        Its module in this package.
    words
        Its command line.
    log
        File for what it prints.
    needs
        Names of the jobs that must be done first.
    """

    verb: str
    words: tuple[str, ...]
    log: Path
    needs: tuple[str, ...] = ()


def plan(configs: Path, experiments: Iterable[str]) -> dict[str, Job]:
    """Compose experiments and list their jobs by name, as the workflow has them at preset smoke.

    Raises
    ------
    longrun.config.ConfigError
        An experiment, or a dataset of one, that can't be used.
    """
    jobs: dict[str, Job] = {}
    chosen = list(experiments)
    for experiment in chosen:
        _add_experiment(jobs, configs, experiment)
    jobs["tabulate"] = Job(
        "tabulate",
        ("--preset", PRESET, "--configs", f"{configs}", "--output-dir", f"results/{PRESET}"),
        Path("logs", PRESET, "tabulate.log"),
        tuple(f"{experiment}/{verb}" for experiment in chosen for verb in ("judge", "plot")),
    )
    return jobs


def _add_experiment(jobs: dict[str, Job], configs: Path, experiment: str) -> None:
    spec = config.compose(configs, experiment, PRESET, look=look)
    at = ("--experiment", experiment, "--preset", PRESET, "--configs", f"{configs}")
    logs, results = Path("logs", PRESET, experiment), f"results/{PRESET}/{experiment}"
    # the end of a run's folder says who makes it: another experiment where it is borrowed
    scored = tuple(
        _add_run(jobs, configs, run.folder.parts[-3], run.folder.parts[-2], run.seed)
        for run in config.runs(spec, Path(results))
    )
    judged = f"{experiment}/judge"
    words = (*at, "--output", f"{results}/claims.json")
    jobs[judged] = Job("judge", words, logs / "judge.log", scored)
    words = (*at, "--output", f"{results}/figures")
    jobs[f"{experiment}/plot"] = Job("plot", words, logs / "plot.log", (judged,))


def _add_run(jobs: dict[str, Job], configs: Path, experiment: str, method: str, seed: int) -> str:
    """Add training and evaluation of a method, and what they need; return the latter's name."""
    spec = config.compose(configs, experiment, PRESET)
    trained = _add_training(jobs, configs, experiment, method, seed)
    tests = tuple(_add_dataset(jobs, configs, name) for name in spec["test"])
    at, logs = _run_of(configs, experiment, method, seed)
    name = f"{experiment}/{method}/seed{seed}/evaluate"
    jobs[name] = Job("evaluate", at, logs / "evaluate.log", (trained, *tests))
    return name


def _add_training(
    jobs: dict[str, Job], configs: Path, experiment: str, method: str, seed: int
) -> str:
    name = f"{experiment}/{method}/seed{seed}/train"
    if name in jobs:
        return name
    spec = config.method_spec(config.compose(configs, experiment, PRESET), method)
    needs = [_add_dataset(jobs, configs, dataset) for dataset in spec["train"]]
    for origin in config.origins(spec, PRESET, experiment, seed):
        whose, which, number = origin.parts[-3:]
        needs.append(_add_training(jobs, configs, whose, which, int(number.removeprefix("seed"))))
    at, logs = _run_of(configs, experiment, method, seed)
    jobs[name] = Job("train", at, logs / "train.log", tuple(needs))
    return name


def _run_of(configs: Path, experiment: str, method: str, seed: int) -> tuple[tuple[str, ...], Path]:
    """Return the command line of a run, and the folder of its logs."""
    at = ("--experiment", experiment, "--method", method, "--seed", f"{seed}", "--preset", PRESET)
    folder = config.run_folder(PRESET, experiment, method, seed)
    return (*at, "--configs", f"{configs}"), Path("logs") / folder


def _add_dataset(jobs: dict[str, Job], configs: Path, dataset: str) -> str:
    name = f"{dataset}.zarr"
    if name not in jobs:
        config.compose_dataset(configs, dataset, PRESET)
        words = ("--dataset", dataset, "--preset", PRESET, "--configs", f"{configs}")
        output = ("--output", f"data/{PRESET}/{dataset}.zarr")
        jobs[name] = Job(
            "generate", (*words, *output), Path("logs", PRESET, "generate", f"{dataset}.log")
        )
    return name


def run(
    jobs: dict[str, Job], workers: int, report: Callable[[str, str, float], None]
) -> tuple[list[str], float]:
    """Run jobs, as many at a time as there are workers.

    Parameters
    ----------
    report
        Called when a job has ended: name, outcome, wall seconds.

    Returns
    -------
    failed
        Names of the jobs that failed.
    seconds
        Processor time of all jobs, without the imports.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_modules())
    order = graphlib.TopologicalSorter({name: job.needs for name, job in jobs.items()})
    order.prepare()
    spent = context.Value("d", 0.0)
    running: dict[Any, tuple[str, float]] = {}
    waiting: list[str] = []
    lost: set[str] = set()
    failed = []
    try:
        while order.is_active():
            waiting += order.get_ready()
            # depth first: what is begun is finished before another experiment starts
            while waiting and len(running) < workers:
                name = waiting.pop()
                if lost & {*jobs[name].needs} and jobs[name].verb != "tabulate":
                    lost.add(name)
                    report(name, LEFT_OUT, 0.0)
                    order.done(name)
                    waiting += order.get_ready()
                    continue
                process = context.Process(target=_call, args=(jobs[name], spent))
                process.start()
                running[process] = name, time.perf_counter()
            if running:  # else all ready jobs were left out
                wait([process.sentinel for process in running])
            for process in [one for one in running if not one.is_alive()]:
                name, began = running.pop(process)
                process.join()
                if process.exitcode:
                    failed.append(name)
                    lost.add(name)
                outcome = FAILED if process.exitcode else "done"
                report(name, outcome, time.perf_counter() - began)
                order.done(name)
    finally:
        for process in running:
            process.terminate()
    return failed, spent.value


def _modules() -> list[str]:
    """Names of the modules that jobs will import: verbs, and all units that they may ask for."""
    units = [
        registry.module_name(registry.path(kind, name))
        for kind in ("equations", "methods", "figures")
        for name in registry.names(kind)
    ]
    return [*(f"longrun.{verb}" for verb in VERBS), *units]


def _call(job: Job, spent: Any) -> None:
    """Call a verb as its command line would, in a process of its own; what it prints is logged."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import torch

    torch.set_num_threads(1)  # as many jobs as cores
    sys.argv = [f"longrun.{job.verb}", *job.words]
    try:
        cli.run(importlib.import_module(f"longrun.{job.verb}").main)
    except Exception:  # a bug: the log shows where
        traceback.print_exc()
        sys.exit(1)
    finally:
        with spent.get_lock():
            for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
                spent.value += sum(resource.getrusage(whose)[:2])


def _chosen(configs: Path, named: list[str], besides: list[str]) -> list[str]:
    check_folder(configs)
    known = config.experiments(configs)
    for name in (*named, *besides):
        if name not in known:
            raise UserError(f"{name}: no such experiment; {registry.allowed(known, name)}")
    return [name for name in named or known if name not in besides]


def _progress(total: int) -> Callable[[str, str, float], None]:
    """Return what logs one line for each job that ends, numbered."""
    numbers = itertools.count(1)

    def report(name: str, outcome: str, seconds: float) -> None:
        number = f"{next(numbers):{len(str(total))}d}/{total}"
        log.info("%s  %5.1f s  %s %s", number, seconds, name, outcome)

    return report


EXAMPLES = """
python -m longrun.smoke
python -m longrun.smoke cape tsm
python -m longrun.smoke --workers 1 --besides pde_refiner cape
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    made = cli.parser("smoke", __doc__, EXAMPLES, "configs")
    made.add_argument("experiments", nargs="*", help="default: all in configs/experiments")
    made.add_argument(
        "--besides", nargs="+", default=[], metavar="EXPERIMENT", help="leave these out"
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    made.add_argument("--workers", type=int, default=cores, help="default: one for each core")
    return made


def main() -> None:
    """Read the command line, plan, run, and list what failed."""
    arguments = parser().parse_args()
    if arguments.workers < 1:
        raise UserError(f"--workers must be at least 1, is {arguments.workers}")
    experiments = _chosen(arguments.configs, arguments.experiments, arguments.besides)
    jobs = plan(arguments.configs, experiments)
    began = time.perf_counter()
    failed, spent = run(jobs, arguments.workers, _progress(len(jobs)))
    seconds = time.perf_counter() - began
    runs = sum(job.verb == "train" for job in jobs.values())
    what = f"{len(experiments)} experiments, {runs} runs, {len(jobs)} jobs"
    log.info("%s in %.0f s, %.0f s of processor time without imports", what, seconds, spent)
    for name in failed:
        log.info("failed: %s: %s (%s)", name, cli.last_line(jobs[name].log), jobs[name].log)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    cli.run(main)
