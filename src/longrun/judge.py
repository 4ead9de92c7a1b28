"""Turn the scores of an experiment into verdicts on the claims of its paper."""

import argparse
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from longrun import config
from longrun.metrics import statistics
from longrun.metrics.statistics import Interval
from longrun.metrics.table import ABSENT
from longrun.metrics.table import read_scores as read_table
from longrun.runtime import cli
from longrun.runtime.cli import UserError

Groups = Mapping[Any, pd.DataFrame]  # scores by method and metric

NOTHING = pd.DataFrame(columns=[*ABSENT, "method", "seed"])

UNJUDGED = ("smoke",)  # presets whose numbers mean nothing: judging is only seen to run
NOT_JUDGED = "not judged"
TOO_SHORT = 0.5  # censored in more than this share of both methods, a ratio says nothing


def judge(
    experiment: Mapping[str, Any], scores: pd.DataFrame
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Judge an experiment.

    Parameters
    ----------
    experiment
        Composed, with `claims`, `methods` and `metrics`: those with a table are summarised.
    scores
        The score tables of all runs, with the columns `method` and `seed`.

    Returns
    -------
    claims
        One dict per claim: name, says, metric, of, against, at, against_at, kind, value, low, high,
        paper, holds, direction, verdict, seeds (the fewest of the methods), trajectories, censored
        (fraction of the rows that are lower bounds), bound ("lower" or "upper" where the ratio is
        one, "unclear" where rows of both methods are censored, else None) and note (what to know of
        the value).
        Value and interval are None where they are not finite.
    methods
        One dict per method and metric: method, metric, value, low, high, censored, seeds,
        trajectories.

    Raises
    ------
    UserError
        If scores that a claim needs are missing.
    """
    groups = dict(iter(scores.groupby(["method", "metric"], observed=True, sort=False)))
    claims = [_judge_claim(name, claim, groups) for name, claim in experiment["claims"].items()]
    return claims, _summary(list(experiment["methods"]), tabulated(experiment), groups)


def tabulated(experiment: Mapping[str, Any]) -> list[str]:
    """Metrics that stand in a table of methods; a method has those that its scores hold."""
    return [name for name, entry in experiment["metrics"].items() if entry.get("table")]


def _judge_claim(name: str, claim: Mapping[str, Any], groups: Groups) -> dict[str, Any]:
    kind = "ratio" if "ratio" in claim else "r_squared"
    test, metric, of = claim[kind], claim["metric"], claim["of"]
    other = (claim["against"], metric) if kind == "ratio" else (of, claim["explains"])
    places = claim.get("at", {}), claim.get("against_at", claim.get("at", {}))
    parts = [
        _values(name, groups, *which, at)
        for which, at in zip(((of, metric), other), places, strict=True)
    ]
    first, second = (_table(part) for part in parts)
    _check_pair(name, kind, *parts)
    statistic = statistics.ratio_of_means if kind == "ratio" else statistics.squared_pearson
    interval = statistic(first, second, _generator(name))
    direction, holds = test.get("direction", "above"), float(test["holds"])
    equality = 1.0 if kind == "ratio" else holds
    verdict: str = statistics.verdict(interval, holds, direction, equality)
    censored = [float(part["censored"].mean()) for part in parts]
    bound, notes = None, []
    if not np.isfinite(interval).all():
        notes = [f"the mean of {other[1]} of {other[0]} can be zero"]
    elif first.size == second.size == 1:
        verdict, notes = "open", ["one run on one trajectory gives no interval"]
    elif any(censored):
        bound, note = _bound(kind, f"{metric} of {of}", f"{other[1]} of {other[0]}", censored)
        notes = [note]
        if kind == "ratio" and min(censored) > TOO_SHORT:
            verdict, notes = "open", ["the rollout is too short to tell", note]
    limit = groups.get((of, "predictability"), NOTHING)["value"].min()
    if metric.startswith("correlation_time") and max(first.mean(), second.mean()) > limit:
        notes.append(f"beyond the {limit:.4g} s for which the data is predictable")
    return {
        "name": name,
        "says": claim["says"],
        "metric": metric,
        "of": of,
        "against": claim.get("against"),
        "at": places[0],
        "against_at": places[1],
        "explains": claim.get("explains"),
        "kind": kind,
        **_finite(interval),
        "paper": test.get("paper"),
        "holds": holds,
        "direction": direction,
        "verdict": verdict,
        "seeds": min(len(first), len(second)),
        "trajectories": first.shape[1],
        "censored": float(np.mean(censored)),
        "bound": bound,
        "note": "; ".join(notes),
    }


def _bound(kind: str, first: str, second: str, censored: list[float]) -> tuple[str, str]:
    """Say what a value is when some of what it is made of are lower bounds."""
    shares = f"{censored[0]:.0%} of {first} and {censored[1]:.0%} of {second} are lower bounds"
    if kind == "r_squared" or all(censored):
        return "unclear", f"made with lower bounds: {shares}"
    bound = "lower" if censored[0] else "upper"
    return bound, f"the ratio is only {'a lower' if censored[0] else 'an upper'} bound: {shares}"


def _summary(methods: list[str], metrics: list[str], groups: Groups) -> list[dict[str, Any]]:
    rows = []
    for method in methods:
        for metric in metrics:
            if (method, metric) not in groups:
                continue
            values = _rows(groups, method, metric, {})
            table = _table(_collapse(values))
            rows.append(
                {"method": method, "metric": metric}
                | _finite(statistics.mean(table, _generator(f"{method} {metric}")))
                | {
                    "censored": float(values["censored"].mean()),
                    "seeds": table.shape[0],
                    "trajectories": table.shape[1],
                }
            )
    return rows


def _values(
    name: str, groups: Groups, method: str, metric: str, at: Mapping[str, int]
) -> pd.DataFrame:
    rows = _rows(groups, method, metric, at)
    if rows.empty:
        where = "".join(f", {column} {value}" for column, value in at.items())
        raise UserError(f"claims.{name}: {method} has no scores of {metric}{where}")
    return _collapse(rows)


def _rows(groups: Groups, method: str, metric: str, at: Mapping[str, int]) -> pd.DataFrame:
    """Rows of a metric, of the last stage unless another is asked for."""
    rows = groups.get((method, metric), NOTHING)
    if "step" in at:
        rows = rows[rows["step"] == at["step"]]
    return rows[rows["stage"] == at.get("stage", rows["stage"].max())]


def _collapse(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over members, then over what is left, within each seed and trajectory."""
    keys = ["seed", "dataset", "trajectory"]
    members = rows.groupby([*keys, "member"], observed=True)[["value", "censored"]].mean()
    return members.groupby(keys, observed=True).mean()


def _table(values: pd.DataFrame) -> np.ndarray:
    """Shape (seed, trajectory); every seed must have every trajectory."""
    table = values["value"].unstack("seed").T
    if table.isna().any(axis=None):
        raise UserError("runs of one method are scored on different trajectories: evaluate anew")
    return table.to_numpy(dtype=np.float64)


def _check_pair(name: str, kind: str, first: pd.DataFrame, second: pd.DataFrame) -> None:
    """Refuse scores of different trajectories, or for R squared also of different runs."""
    keys = ["dataset", "trajectory"] + ["seed"] * (kind == "r_squared")
    ours, theirs = (
        set(part.reset_index()[keys].itertuples(index=False, name=None)) for part in (first, second)
    )
    if ours != theirs:
        raise UserError(f"claims.{name}: compares scores of different trajectories: evaluate anew")


def _finite(interval: Interval) -> dict[str, float | None]:
    return {
        name: value if math.isfinite(value) else None for name, value in interval._asdict().items()
    }


def _generator(name: str) -> np.random.Generator:
    """Return a generator seeded by a name alone: a verdict never depends on chance or order."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def read_scores(folder: Path, experiment: Mapping[str, Any]) -> pd.DataFrame:
    """Read what judging needs of the score tables of all runs of an experiment.

    Parameters
    ----------
    folder
        `results/{preset}/{experiment}`.
    experiment
        Composed.

    Raises
    ------
    UserError
        If a run has no scores.
    """
    claims = experiment["claims"].values()
    wanted = {claim[key] for claim in claims for key in ("metric", "explains") if key in claim}
    wanted |= {*tabulated(experiment), "predictability"}
    columns = ["dataset", "trajectory", "member", "stage", "step", "metric", "value", "censored"]
    frames = []
    for method in experiment["methods"]:
        for seed in range(config.method_spec(experiment, method)["seeds"]):
            path = folder / method / f"seed{seed}" / "scores.parquet"
            frame = read_table(path, wanted, columns)
            frames.append(frame.assign(method=method, seed=seed))
    return pd.concat(frames, ignore_index=True)


EXAMPLES = """
python -m longrun.judge --experiment pde_refiner --preset cpu \\
    --output results/cpu/pde_refiner/claims.json
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    made = cli.parser("judge", __doc__, EXAMPLES, "experiment", "preset", "configs", "results")
    made.add_argument("--output", type=Path, required=True, help="claims.json to write")
    return made


def main() -> None:
    """Judge one experiment at one preset."""
    args = parser().parse_args()
    experiment = config.compose(args.configs, args.experiment, args.preset)
    scores = read_scores(args.results / args.preset / args.experiment, experiment)
    claims, methods = judge(experiment, scores)
    if args.preset in UNJUDGED:
        claims = [claim | {"verdict": NOT_JUDGED} for claim in claims]
    judged = {
        "experiment": args.experiment,
        "preset": args.preset,
        "claims": claims,
        "methods": methods,
    }
    with cli.atomic(args.output) as part:
        part.write_text(json.dumps(judged, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    cli.run(main)
