"""What Snakemake prints: one line for each job that ends, and at the end those that failed.

A line says what the job was, how long it took, how many are left and when the last may end. All
else is in `logs/` and in Snakemake's own log below `.snakemake/log`. Plans, and calls that are not
about jobs, look as Snakemake has them.

Snakemake finds this package by its name; profiles/default asks for it.
"""

import logging
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from longrun.runtime.cli import last_line
from longrun.runtime.times import SHORT, Key, Times, in_words, key

NAMES = ("experiment", "method", "point", "dataset", "part", "sweep")
# what Snakemake says of a failed job besides the record that we show
FAILURES = ("Exiting because a job", "WorkflowError:\nAt least one job did not complete")
RAISED = ("CalledProcessError", "RuleException", "SpawnedJobError")
# what it says of every run before it begins
CHATTER = ("Config file ", "Assuming unrestricted shared filesystem usage")


@dataclass
class Job:
    """A job to come, or one that runs.

    Attributes
    ----------
    name
        As it is shown.
    kind
        What its time is looked up by.
    seconds
        That it may take; None where nothing like it was timed.
    uses
        Shares of cores, of GPUs and the like.
    began
        When it started.
    """

    name: str
    kind: Key
    seconds: float | None = None
    uses: dict[str, float] = field(default_factory=dict)
    began: float | None = None


class LogHandler(LogHandlerBase):
    """One line for each job."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        """Set up what prints all that is not about jobs."""
        settings: Any = self.common_settings
        self._stream = sys.stdout if settings.stdout else sys.stderr
        options = settings.debug_dag, settings.verbose, settings.dryrun, settings.printshellcmds
        self._plain = ColorizingTextHandler(settings.nocolor, self._stream)
        self._plain.addFilter(DefaultFilter(settings.quiet, *options))
        self._plain.setFormatter(DefaultFormatter(settings.quiet, settings.show_failed_logs))
        quiet = {str(what).rpartition(".")[2].lower() for what in settings.quiet or ()}
        self._silent = bool(quiet & {"all", "progress", "rules"})
        self._takes_over = not (settings.dryrun or settings.verbose or settings.debug_dag)
        self._runs = False
        self._jobs: dict[int, Job] = {}  # to come, or running
        self._failed: dict[int, tuple[Job, list[str], str]] = {}
        self._done = self._total = 0
        self._spent: list[tuple[float, float]] = []  # seconds that were expected, and that it took
        self._started = time.monotonic()

    def plan(self, jobs: Iterable[Any], preset: str, limits: Mapping[str, Any]) -> None:
        """Note and say what is to be made, and what it may take.

        Parameters
        ----------
        jobs
            Snakemake's jobs that are to run.
        preset
            Whose times are looked up.
        limits
            How much there is of each resource.
        """
        times, counts = Times(preset), Counter[str]()
        for job in jobs:
            kind = key(job.rule.name, job.wildcards_dict)
            counts[kind.rule] += bool(job.output)
            self._jobs[job.jobid] = Job(
                named(job.rule.name, job.wildcards_dict),
                kind,
                times.of(kind) if job.output else 0.0,
                {
                    name: min(job.resources.get(name) / limit, 1.0)
                    for name, limit in limits.items()
                    if isinstance(limit, int)
                    and 0 < limit < sys.maxsize
                    and isinstance(job.resources.get(name), int)
                },
            )
        self._total = len(self._jobs)
        counted = ", ".join(f"{number} {rule}" for rule, number in counts.items() if number)
        self._say(f"{self._total} jobs: {counted}{self._outlook()}")

    # Records -------------------------------------------------------------------------------------

    def emit(self, record: logging.LogRecord) -> None:
        """Print a line where a job ends, pass on what is not about jobs, and drop the rest."""
        event = getattr(record, "event", None)
        if event == LogEvent.WORKFLOW_STARTED and self._takes_over:
            self._runs = True
        elif not self._runs:
            if not (self._takes_over and record.getMessage().startswith(CHATTER)):
                self._plain.handle(record)
        elif event == LogEvent.RUN_INFO:
            self._total = record.stats["total"]  # type: ignore[attr-defined]
        elif event == LogEvent.JOB_INFO:
            self._start(record.__dict__)
        elif event == LogEvent.JOB_FINISHED:
            self._finish(record.job_id)  # type: ignore[attr-defined]
        elif event == LogEvent.JOB_ERROR:
            self._fail(record.__dict__)
        elif event == LogEvent.GROUP_ERROR:
            for entry in record.job_error_info:  # type: ignore[attr-defined]
                self._fail(entry)
        elif event == LogEvent.SHELLCMD or self._is_worth_a_line(record):
            self._clear()
            self._plain.handle(record)

    def _is_worth_a_line(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.levelno < logging.WARNING:
            return text == NOTHING_TO_BE_DONE_MSG
        return getattr(record, "exception", None) not in RAISED and not text.startswith(FAILURES)

    def _start(self, about: Mapping[str, Any]) -> None:
        rule, wildcards = about["rule_name"], about["wildcards"] or {}
        known = Job(named(rule, wildcards), key(rule, wildcards))
        job = self._jobs.setdefault(about["jobid"], known)
        job.began = time.monotonic()
        self._failed.pop(about["jobid"], None)  # another attempt
        self._show_running()

    def _finish(self, number: int) -> None:
        job = self._jobs.pop(number, None)
        self._done += 1
        if job is None or (not job.kind.name and job.kind.rule not in SHORT):
            return  # a target
        seconds = 0.0 if job.began is None else time.monotonic() - job.began
        if job.kind.rule not in SHORT:
            self._learn(job, seconds)
        self._line(f"{job.name}, {in_words(seconds)}")

    def _learn(self, job: Job, seconds: float) -> None:
        """Note what a job took, for others like it and for the pace of this machine."""
        if job.seconds:
            self._spent.append((job.seconds, seconds))
        for other in self._jobs.values():
            if other.seconds is None and other.kind == job.kind:
                other.seconds = seconds / self._pace()

    def _pace(self) -> float:
        """Return how much longer jobs took than was expected."""
        if not self._spent:
            return 1.0
        expected, took = map(sum, zip(*self._spent, strict=True))
        return max(took / expected, 1e-3)

    def _fail(self, about: Mapping[str, Any]) -> None:
        number = about["jobid"]
        job = self._jobs.get(number) or Job(named(about["rule_name"], {}), Key("", ""))
        said = about.get("rule_msg") or ""
        self._failed[number] = job, list(about["log"]), " ".join(str(said).split())
        seconds = 0.0 if job.began is None else time.monotonic() - job.began
        job.began = None
        self._line(self._red(f"{job.name} failed after {in_words(seconds)}"))

    def close(self) -> None:
        """List what failed, with the last line of its log."""
        if self._runs and self._total:
            self._runs = False
            took = in_words(time.monotonic() - self._started)
            self._say(f"{self._done} of {self._total} jobs done in {took}")
            if self._failed:
                self._say(self._red(f"{len(self._failed)} failed:"), True)
            for job, logs, said in self._failed.values():
                lines = [f"{last_line(Path(log))} ({log})" for log in logs if Path(log).exists()]
                self._say(f"  {job.name}: {'; '.join([*lines, said] if said else lines)}", True)
        super().close()

    # Lines ---------------------------------------------------------------------------------------

    def _line(self, text: str) -> None:
        """Print that a job has ended."""
        number = f"{self._done:{len(str(self._total))}d}/{self._total}"
        self._say(f"{time.strftime('%H:%M:%S')}  {number}  {text}{self._outlook()}")
        self._show_running()

    def _outlook(self) -> str:
        """Say how many are left, and until when they may take."""
        left = self._total - self._done
        if not left:
            return ""
        seconds, unknown = self.seconds_left()
        found = f"; {left} left"
        if seconds:
            clock = "%H:%M" if seconds < 12 * 3600 else "%a %H:%M"
            until = time.strftime(clock, time.localtime(time.time() + seconds))
            found += f", about {in_words(seconds)}, until {until}"
        if unknown:
            found += f"{', and' if seconds else ','} {unknown} that were never timed"
        return found

    def seconds_left(self) -> tuple[float, int]:
        """Return what the jobs that are known may take, and how many are not known.

        The resource of which most is asked decides, but no job is split. Times are corrected by
        those of the jobs so far: this machine may be another.
        """
        pace, now, longest, unknown = self._pace(), time.monotonic(), 0.0, 0
        load: dict[str, float] = {}
        for number, job in self._jobs.items():
            if number in self._failed:
                continue
            if job.seconds is None:
                unknown += 1
                continue
            left = pace * job.seconds
            if job.began is not None:
                left = max(left - (now - job.began), 0.0)
            longest = max(longest, left)
            for name, share in (job.uses or {"": 1.0}).items():
                load[name] = load.get(name, 0.0) + left * share
        return max([longest, *load.values()]), unknown

    def _show_running(self) -> None:
        """Show on a terminal, in a line that the next one replaces, what runs."""
        running = [job for job in self._jobs.values() if job.began is not None]
        if not self._plain.is_tty or self._silent or not running:
            return
        width = shutil.get_terminal_size().columns - 1
        text = ", ".join(job.name for job in running)
        self._stream.write(f"\r\033[K{f'... {text}'[:width]}")
        self._stream.flush()

    def _clear(self) -> None:
        if self._plain.is_tty:
            self._stream.write("\r\033[K")

    def _say(self, text: str, always: bool = False) -> None:
        if self._silent and not always:
            return
        self._clear()
        self._stream.write(f"{text}\n")
        self._stream.flush()

    def _red(self, text: str) -> str:
        return text if self._plain.nocolor else f"\033[31m{text}\033[0m"


def named(rule: str, wildcards: Mapping[str, Any]) -> str:
    """Return a job's name as one says it: `train pde_refiner.unet, seed 0`."""
    place = ".".join(str(wildcards[name]) for name in NAMES if name in wildcards)
    seed = f", seed {wildcards['seed']}" if "seed" in wildcards else ""
    return f"{rule} {place}{seed}".strip()
