"""Where training is recorded: a CSV file always, wandb optionally."""

import csv
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from longrun.runtime.cli import UserError, atomic
from longrun.runtime.registry import allowed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Mode = Literal["disabled", "offline", "online"]
PROJECT = "longrun"
COLUMNS = ("step", "metric", "value")

log = logging.getLogger(__name__)


class CurveLogger(Logger):
    """Write metrics to `curves.csv`, one row per step, metric and value.

    A resumed run continues the same file. It repeats the steps after its checkpoint, so rows from
    the first step that it logs on are dropped.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.path = Path(folder) / "curves.csv"
        self._resumed = False

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "curves"

    @property
    def version(self) -> str:
        """One version: resumed runs share the file."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Append metrics; Lightning's own `epoch` is left out."""
        if step is None:
            raise ValueError("curves need a step")
        if not self._resumed:
            self._resume(step)
            self._resumed = True
        rows = [(step, name, repr(float(v))) for name, v in metrics.items() if name != "epoch"]
        with self.path.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the resolved configuration is in the checkpoint."""

    def _resume(self, step: int) -> None:
        """Rewrite the file with the rows before `step`, without a row that a kill cut short."""
        kept: list[list[str]] = []
        if self.path.exists():
            with self.path.open(encoding="utf-8", newline="") as file:
                lines = [line for line in file if line.endswith("\n")]
            kept = [row for row in csv.reader(lines[1:]) if int(row[0]) < step]
        with atomic(self.path) as part, part.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows([COLUMNS, *kept])


def run_id(experiment: str, method: str, seed: int, fingerprint: str) -> str:
    """Name of a run; equal specifications have equal names."""
    return f"{experiment}-{method}-s{seed}-{fingerprint}"


def loggers(
    mode: str,
    run_dir: Path,
    run_id: str,
    group: str,
    name: str,
    tags: Sequence[str],
    config: Mapping[str, Any],
    job_type: Literal["train", "evaluate"] = "train",
) -> list[Logger]:
    """Make the loggers of a run: CSV always, wandb unless disabled.

    Parameters
    ----------
    mode
        "disabled", "offline" or "online". Online without network or key becomes offline.
    run_dir
        Folder of the run; holds `curves.csv` and wandb's folder.
    run_id
        Deterministic, so that a resumed or evaluated run joins the one that was trained.
    group
        What wandb groups by: the experiment.
    config
        Resolved configuration, plain JSON.

    Raises
    ------
    UserError
        Unknown mode.
    """
    _check_mode(mode)
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    made: list[Logger] = [CurveLogger(run_dir)]
    if mode != "disabled" and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        options: dict[str, Any] = {"id": run_id, "group": group, "name": name}
        options |= {"tags": list(tags), "job_type": job_type, "config": dict(config)}
        made.append(WandbLogger(experiment=_start(mode, {**options, "dir": str(run_dir)})))
    return made


def log_image(made: Sequence[Logger], key: str, figure: "Figure", step: int) -> None:
    """Log a figure to those loggers that take images."""
    for logger in _wandb(made):
        import wandb

        logger.experiment.log({key: wandb.Image(figure), "trainer/global_step": step})


def log_summary(made: Sequence[Logger], values: Mapping[str, float]) -> None:
    """Log the final values of a run; otherwise wandb keeps the last of a curve."""
    for logger in _wandb(made):
        logger.experiment.summary.update(dict(values))


def log_artefact(
    mode: str,
    folder: Path,
    name: str,
    group: str,
    tags: Sequence[str],
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
) -> None:
    """Log a folder as the artefact of a separate run.

    Parameters
    ----------
    mode
        "offline" or "online". Online without network or key becomes offline.
    folder
        Must not change: wandb may send these files later. Its own files go beside it.
    name
        Of the artefact and, with "-report", of the run; the same name is another version.
    group
        What wandb groups by: the experiment.
    config
        Resolved configuration, plain JSON.
    summary
        Final values of the run.

    Raises
    ------
    UserError
        Unknown mode.
    """
    _check_mode(mode)
    import wandb

    options: dict[str, Any] = {"id": f"{name}-report", "group": group, "name": f"{name}-report"}
    options |= {"tags": list(tags), "job_type": "report", "config": dict(config)}
    run = _start(mode, {**options, "dir": str(folder.parent)})
    run.summary.update(dict(summary))
    artefact = wandb.Artifact(name, type="outcome", metadata={"config": dict(config)})
    # not copied: the other policy leaves copies in the user's home
    artefact.add_dir(str(folder.resolve()), policy="immutable")
    run.log_artifact(artefact)
    run.finish()


def finish(made: Sequence[Logger]) -> None:
    """Write out what is pending and end the run."""
    for logger in _wandb(made):
        logger.experiment.finish()


def _check_mode(mode: str) -> None:
    if mode not in get_args(Mode):  # it may come from WANDB_MODE
        raise UserError(f"tracking {mode!r} is unknown; {allowed(get_args(Mode), mode)}")


def _wandb(made: Sequence[Logger]) -> list[WandbLogger]:
    return [logger for logger in made if isinstance(logger, WandbLogger)]


def _start(mode: Any, options: Mapping[str, Any]) -> Any:
    """Start a wandb run; where an online one can't start, say so in one line and go offline."""
    import wandb

    # wandb asks for a key where there is a terminal, and retries where there is no network
    settings = wandb.Settings(
        silent=True, console="off", save_code=False, init_timeout=30, login_timeout=30
    )
    common = {**options, "project": PROJECT, "settings": settings}
    try:
        run = wandb.init(mode=mode, resume="allow", **common)
    except wandb.errors.Error as error:
        reason = str(error).splitlines()[0]
        log.warning("wandb can't be reached, this run is tracked offline: %s", reason)
        run = wandb.init(mode="offline", resume="allow", **common)
    if run.offline:
        log.info("wandb: upload with `wandb sync %s`", run.settings.sync_dir)
    # steps of a resumed offline run restart at 0: this one doesn't
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return run
