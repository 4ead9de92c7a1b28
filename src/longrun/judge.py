"""Turn the scores of an experiment into verdicts on the claims of its paper."""

import argparse
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from longrun import config
from longrun.config.layers import named
from longrun.metrics import statistics
from longrun.metrics.statistics import Interval
from longrun.metrics.table import ABSENT, SERIES
from longrun.metrics.table import read_scores as read_table
from longrun.runtime import cli
from longrun.runtime.cli import UserError

Groups = Mapping[Any, pd.DataFrame]  # scores by method and metric

_Chosen = Mapping[str, list[str]]  # methods of a claim by role

NOTHING = pd.DataFrame(columns=[*ABSENT, "method", "seed"])
NO_CURVES = pd.DataFrame(columns=["method", "seed", "step", "metric", "value"])

UNJUDGED = ("smoke",)  # presets whose numbers mean nothing: judging need only run
NOT_JUDGED = "not judged"
SEEDS = 3  # fewer runs of a method whose runs differ say too little of how much they do
UNDER_TRAINED = 0.05  # the last doubling of the updates took away more of the error on valid
REMOVED = 0.1  # share of its noise that a refinement removes at least, or it has learnt nothing
TOO_SHORT = 0.5  # if more than this share of both methods is censored, a ratio says nothing
# where there is no effect, by kind of claim; others have no such value
EQUALITY = {"ratio": 1.0, "updates": 1.0, "slope": 0.0, "rank_correlation": 0.0}


@dataclass(frozen=True)
class Measured:
    """What the scores say of a claim.

    `parts` are the rows that it rests on, collapsed to one value for each seed and trajectory;
    `censored` the share of lower bounds in what the claim is about and in what it compares with.
    """

    interval: Interval
    parts: Sequence[pd.DataFrame]
    censored: Sequence[float]


def judge(
    experiment: Mapping[str, Any],
    scores: pd.DataFrame,
    curves: pd.DataFrame = NO_CURVES,
    halves: pd.DataFrame = NO_CURVES,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Judge an experiment.

    Parameters
    ----------
    experiment
        Composed, with `claims`, `methods` and `metrics`: those with a table are summarised.
    scores
        The score tables of all runs, with the columns `method` and `seed`.
    curves
        The training curves of all runs, where a claim needs them.
    halves
        Those of the runs with half the updates, where there are such.

    Returns
    -------
    claims
        One dict per claim: name, says, main, metric, of, against, over, at, against_at, explains,
        statistic, kind, along, value, low, high, paper, holds, direction, verdict, seeds (the
        fewest of the methods), trajectories, censored (fraction of the rows that are lower bounds),
        bound ("lower" or "upper" where the value is one, "unclear" where rows of both methods are
        censored, else None) and note (what to know of the value).
        Value and interval are None where they are not finite.
    methods
        One dict per method and metric: method, metric, at, value, low, high, censored, seeds,
        trajectories.

    Raises
    ------
    UserError
        If scores that a claim needs are missing.
    """
    groups = dict(iter(scores.groupby(["method", "metric"], observed=True, sort=False)))
    gains = _gains(curves, halves, experiment)
    court = _Court(experiment, groups, curves, gains)
    claims = [court.judge(name, claim) for name, claim in experiment["claims"].items()]
    summary = _summary(list(experiment["methods"]), tabulated(experiment), groups)
    for method, gain in gains.items():
        row = {
            "method": method,
            "metric": "last_doubling",
            "at": {},
            **Interval(gain, gain, gain)._asdict(),
        }
        summary.append(row | {"censored": 0.0, "seeds": 1, "trajectories": 1})
    return claims, summary


def tabulated(experiment: Mapping[str, Any]) -> list[str]:
    """Return the metrics that the tables of methods show."""
    return [name for name, entry in experiment["metrics"].items() if entry.get("table")]


class _Court:
    """The claims of an experiment, each measured by the method named after its kind."""

    def __init__(
        self,
        experiment: Mapping[str, Any],
        groups: Groups,
        curves: pd.DataFrame,
        gains: Mapping[str, float],
    ):
        self.experiment, self.groups, self.curves = experiment, groups, curves
        self.gains = gains

    def judge(self, name: str, claim: Mapping[str, Any]) -> dict[str, Any]:
        """Return a claim, what was measured, and the verdict."""
        kind = next(kind for kind in config.KINDS if kind in claim)
        test = claim[kind]
        chosen, notes = self._chosen(claim)
        measured: Measured = getattr(self, f"_{kind}")(name, claim, chosen)
        equality = EQUALITY.get(kind)
        verdict: str = statistics.verdict(
            measured.interval, test["holds"], test["direction"], equality
        )
        bound, note = _bound(kind, claim, measured.censored)
        seeds, trajectories = (
            min(_table(part).shape[axis] for part in measured.parts) for axis in (0, 1)
        )
        if not np.isfinite(measured.interval).all():
            notes.append("the value has no finite interval")
        elif seeds == trajectories == 1 and measured.interval.low == measured.interval.high:
            verdict = "open"
            notes.append("one run on one trajectory gives no interval")
        elif bound and min(measured.censored) > TOO_SHORT and kind == "ratio":
            verdict = "open"
            notes.append("the rollout is too short to tell")
        of = dict.fromkeys([*chosen["of"], *chosen["against"]])
        if few := [method for method in of if self._few(method)]:
            verdict = NOT_JUDGED
            notes.append(f"{SEEDS} seeds are needed of {', '.join(few)}")
        if idle := [method for method in of if self._removed(method) < REMOVED]:
            verdict = NOT_JUDGED
            notes.append(f"the last refinement of {', '.join(idle)} leaves the noise that it adds")
        if rising := [method for method in of if self.gains.get(method, 0) > UNDER_TRAINED]:
            notes.append(f"under-trained: {', '.join(rising)}")
        limit = min(
            self.groups.get((method, "predictability"), NOTHING)["value"].min()
            for method in chosen["of"]
        )
        if claim["metric"].startswith("correlation_time") and any(
            part["value"].mean() > limit for part in measured.parts
        ):
            notes.append(f"beyond the time of {limit:.4g} for which the data is predictable")
        return {
            "name": name,
            "says": claim["says"],
            "main": claim.get("main", False),
            "metric": claim["metric"],
            "of": " | ".join(named(claim, "of")),
            "against": " | ".join(named(claim, "against")) or None,
            "over": claim.get("over"),
            "at": claim.get("at", {}),
            "against_at": claim.get("against_at", claim.get("at", {})),
            "explains": claim.get("explains"),
            "statistic": claim.get("statistic", "mean"),
            "kind": kind,
            "along": test.get("along"),
            **_finite(measured.interval),
            "paper": test.get("paper"),
            "holds": float(test["holds"]),
            "direction": test["direction"],
            "verdict": verdict,
            "seeds": seeds,
            "trajectories": trajectories,
            "censored": float(np.mean(measured.censored)),
            "bound": bound,
            "note": "; ".join(notes + ([note] if note else [])),
        }

    # One method for each kind of claim -----------------------------------------------------------

    def _ratio(self, name: str, claim: Mapping[str, Any], chosen: _Chosen) -> Measured:
        at = claim.get("at", {})
        places = {"of": at, "against": claim.get("against_at", at)}
        sides = [
            [self._values(name, method, claim["metric"], places[role]) for method in chosen[role]]
            for role in ("of", "against")
        ]
        parts = [*sides[0], *sides[1]]
        # trajectories of two datasets are independent: in any order they are pairs
        named = {place["dataset"] for place in places.values() if "dataset" in place}
        _check_equal(name, parts, ("dataset", "trajectory") if len(named) < 2 else ("trajectory",))
        statistic = statistics.ratio(claim.get("statistic", "mean"), len(sides[0]))
        methods = [*chosen["of"], *chosen["against"]]
        shares = [_share(side) for side in sides]
        paired = self._relatives(methods, parts)
        return self._measure(name, statistic, parts, statistics.LOG, shares, paired)

    def _value(self, name: str, claim: Mapping[str, Any], chosen: _Chosen) -> Measured:
        at = claim.get("at", {})
        parts = [self._values(name, method, claim["metric"], at) for method in chosen["of"]]
        _check_equal(name, parts)
        statistic = statistics.value(claim.get("statistic", "mean"))
        positive = all((part["value"] > 0).all() for part in parts)
        scale = statistics.LOG if positive else statistics.LINEAR
        paired = self._relatives(chosen["of"], parts)
        return self._measure(name, statistic, parts, scale, [_share(parts)], paired)

    def _slope(self, name: str, claim: Mapping[str, Any], chosen: _Chosen) -> Measured:
        along, at, metric = claim["slope"]["along"], claim.get("at", {}), claim["metric"]
        if along in ABSENT:
            (method,) = chosen["of"]
            rows = self.groups.get((method, metric), NOTHING)
            places = sorted(place for place in rows[along].unique() if place > 0)
            parts = [self._values(name, method, metric, {**at, along: place}) for place in places]
        else:
            places = [config.option(self.experiment, method, along) for method in chosen["of"]]
            parts = [self._values(name, method, metric, at) for method in chosen["of"]]
        if len(places) < 2:
            raise UserError(f"claims.{name}: a slope along {along} needs two values of it")
        _check_equal(name, parts)
        statistic = statistics.slope(places, claim.get("statistic", "mean"))
        shares = [_share(parts)]
        methods = chosen["of"] * (len(parts) // len(chosen["of"]))
        paired = self._relatives(methods, parts)
        return self._measure(name, statistic, parts, statistics.LINEAR, shares, paired)

    def _updates(self, name: str, claim: Mapping[str, Any], chosen: _Chosen) -> Measured:
        """Measure the updates until another's last value is reached, over the other's."""
        reached, others = (
            [curve for method in chosen[role] for curve in self._curves(method, claim["metric"])]
            for role in ("of", "against")
        )
        for curves, role in ((reached, "of"), (others, "against")):
            if not curves:
                where = f"{chosen[role][0]} has no curve of valid/{claim['metric']}"
                raise UserError(f"claims.{name}: {where}")

        def statistic(tables: Sequence[np.ndarray]) -> statistics.Values:
            ours, theirs = (table[..., 0].astype(int).ravel() for table in tables)
            target = np.mean([others[place][1][-1] for place in theirs])
            updates = [_until(reached[place], target)[0] for place in ours]
            return np.asarray(np.mean(updates) / np.mean([others[p][0][-1] for p in theirs]))

        parts = [_numbered(len(reached)), _numbered(len(others))]
        target = np.mean([values[-1] for _, values in others])
        never = float(np.mean([not _until(curve, target)[1] for curve in reached]))
        return self._measure(name, statistic, parts, statistics.LOG, [never, 0.0])

    def _r_squared(self, name: str, claim: Mapping[str, Any], chosen: _Chosen) -> Measured:
        return self._related(name, claim, chosen, statistics.squared_pearson, statistics.SHARE)

    def _rank_correlation(self, name: str, claim: Mapping[str, Any], chosen: _Chosen) -> Measured:
        return self._related(name, claim, chosen, statistics.spearman, statistics.FISHER)

    def _related(
        self,
        name: str,
        claim: Mapping[str, Any],
        chosen: _Chosen,
        statistic: statistics.Statistic,
        scale: statistics.Scale,
    ) -> Measured:
        (method,), at = chosen["of"], claim.get("at", {})
        metrics = claim["metric"], claim["explains"]
        parts = [self._values(name, method, metric, at) for metric in metrics]
        _check_equal(name, parts, ["dataset", "trajectory", "seed"])
        shares = [_share([part]) for part in parts]
        return self._measure(name, statistic, parts, scale, shares, [range(len(parts))])

    # What they share -----------------------------------------------------------------------------

    def _measure(
        self,
        name: str,
        statistic: statistics.Statistic,
        parts: Sequence[pd.DataFrame],
        scale: statistics.Scale,
        censored: Sequence[float],
        paired: Sequence[Sequence[int]] = (),
    ) -> Measured:
        tables = [_table(part) for part in parts]
        found = statistics.interval(statistic, tables, _generator(name), scale, paired)
        return Measured(found, parts, censored)

    def _few(self, method: str) -> bool:
        """Whether a method has too few runs: one is enough where nothing is trained."""
        size = self.groups.get((method, "parameters"), NOTHING)
        runs = size["seed"].nunique()
        return 0 < runs < SEEDS and (runs > 1 or bool((size["value"] > 0).any()))

    def _removed(self, method: str) -> float:
        """Return what share of its noise the last refinement of a step removes; 1 without any.

        Its input errs by what the stage before left and by the noise, which are independent.
        """
        left, noise = (
            self.groups.get((method, metric), NOTHING).groupby("stage")["value"].mean()
            for metric in ("level_error", "noise_level")
        )
        last = left.index.max()
        if noise.empty or last == 0:
            return 1.0
        return float((left[last - 1] ** 2 + noise[last] ** 2 - left[last] ** 2) / noise[last] ** 2)

    def _relatives(self, methods: Sequence[str], parts: Sequence[pd.DataFrame]) -> list[list[int]]:
        """Return the places of runs that belong together seed by seed.

        They are of one method, or start from runs of one method with the same seed.
        """
        origins = [self._origin(method) for method in methods]
        seeds = [tuple(part.index.unique("seed")) for part in parts]
        keys = list(zip(origins, seeds, strict=True))
        groups = [[n for n, key in enumerate(keys) if key == one] for one in dict.fromkeys(keys)]
        return [group for group in groups if len(group) > 1]

    def _origin(self, method: str) -> tuple[str, str]:
        """Return the run that a method's runs descend from, seed by seed: at last, its own."""
        here = "", method
        start = self.experiment["methods"].get(method, {}).get("starts_from")
        if not isinstance(start, Mapping) or "seed" in start:
            return here
        if "experiment" in start:
            return start["experiment"], start["method"]
        return self._origin(start["method"])

    def _chosen(self, claim: Mapping[str, Any]) -> tuple[_Chosen, list[str]]:
        """Return the methods that a claim rests on, and notes on the choice."""
        chosen, notes = {}, []
        for role in ("of", "against"):
            methods = named(claim, role)
            if len(methods) > 1 and claim.get("over") in ("min", "max"):
                pick = min if claim["over"] == "min" else max
                best = pick(methods, key=self._last_on_valid)
                notes.append(f"{best} is the {claim['over']} on valid of {len(methods)}")
                methods = [best]
            chosen[role] = methods
        return chosen, notes

    def _last_on_valid(self, method: str) -> float:
        """Mean over seeds of what was logged last on valid."""
        for metric in self.experiment["validation"]:
            if curves := self._curves(method, metric):
                return float(np.mean([values[-1] for _, values in curves]))
        raise UserError(f"{method}: its curves hold no error on valid to choose by")

    def _curves(self, method: str, metric: str) -> list[tuple[np.ndarray, np.ndarray]]:
        return _of_valid(self.curves, method, metric)

    def _values(self, name: str, method: str, metric: str, at: Mapping[str, Any]) -> pd.DataFrame:
        rows = _rows(self.groups, method, metric, at)
        if rows.empty:
            where = "".join(f", {column} {value}" for column, value in at.items())
            raise UserError(f"claims.{name}: {method} has no scores of {metric}{where}")
        return _collapse(rows)


def _of_valid(
    curves: pd.DataFrame, method: str, metric: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return updates and values of each run's error on valid."""
    of = (curves["method"] == method) & (curves["metric"] == f"valid/{metric}")
    runs = curves[of].sort_values("step").groupby("seed")
    return [(run["step"].to_numpy(), run["value"].to_numpy()) for _, run in runs]


def _gains(
    curves: pd.DataFrame, halves: pd.DataFrame, experiment: Mapping[str, Any]
) -> dict[str, float]:
    """Return what share of the error on valid the last doubling of the updates took away.

    Both runs end with a validation.
    """
    gains = {}
    for method in halves["method"].unique():
        for metric in experiment["validation"]:
            whole, half = (_of_valid(table, method, metric) for table in (curves, halves))
            if whole and half:
                gains[method] = 1 - float(whole[0][1][-1] / half[0][1][-1])
    return gains


def _until(curve: tuple[np.ndarray, np.ndarray], target: float) -> tuple[float, bool]:
    """Return the updates until a curve is at most the target, and whether it ever is."""
    steps, values = curve
    reached = values <= target
    return float(steps[reached.argmax() if reached.any() else -1]), bool(reached.any())


def _numbered(runs: int) -> pd.DataFrame:
    """Return a table of the runs' numbers, by which a statistic looks them up."""
    keys = pd.MultiIndex.from_tuples(
        [(seed, "", -1) for seed in range(runs)], names=["seed", "dataset", "trajectory"]
    )
    return pd.DataFrame({"value": np.arange(runs, dtype=float), "censored": 0.0}, index=keys)


def _share(parts: Sequence[pd.DataFrame]) -> float:
    return float(np.mean([part["censored"].mean() for part in parts]))


def _bound(
    kind: str, claim: Mapping[str, Any], censored: Sequence[float]
) -> tuple[str | None, str]:
    """Say what a value bounds when some of its parts are lower bounds."""
    if not any(censored):
        return None, ""
    if len(censored) == 1 or kind == "updates":
        share = f"{censored[0]:.0%} of its parts are lower bounds"
        if kind == "slope":
            return "unclear", f"made with lower bounds: {share}"
        return "lower", f"only a lower bound: {share}"
    first, second = claim["metric"], claim.get("explains", claim["metric"])
    names = [" | ".join(named(claim, role)) for role in ("of", "against")]
    shares = (
        f"{censored[0]:.0%} of {first} of {names[0]} and {censored[1]:.0%} of {second} of "
        f"{names[1] or names[0]} are lower bounds"
    )
    if kind != "ratio" or all(censored):
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
            scale = statistics.LOG if (table > 0).all() else statistics.LINEAR
            rows.append(
                {"method": method, "metric": metric, "at": _place(values)}
                | _finite(
                    statistics.interval(
                        statistics.value(), [table], _generator(f"{method} {metric}"), scale
                    )
                )
                | {
                    "censored": float(values["censored"].mean()),
                    "seeds": table.shape[0],
                    "trajectories": table.shape[1],
                }
            )
    return rows


def _place(rows: pd.DataFrame) -> dict[str, int]:
    """Return which of several answers of a run the rows hold; a last stage needs no name."""
    first = rows.iloc[0]
    columns = [name for name in SERIES if name != "stage" and first[name] != ABSENT[name]]
    return {name: int(first[name]) for name in columns}


def _rows(groups: Groups, method: str, metric: str, at: Mapping[str, Any]) -> pd.DataFrame:
    """Rows of a metric, of the last stage or the like unless another is asked for."""
    rows = groups.get((method, metric), NOTHING)
    for column in ("step", "dataset"):
        if column in at:
            rows = rows[rows[column] == at[column]]
    for column in SERIES:
        rows = rows[rows[column] == at.get(column, rows[column].max())]
    return rows


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


def _check_equal(
    name: str, parts: Sequence[pd.DataFrame], keys: Sequence[str] = ("dataset", "trajectory")
) -> None:
    """Refuse scores of different trajectories, or of different runs where `seed` is a key."""
    cells = [set(part.reset_index()[[*keys]].itertuples(index=False, name=None)) for part in parts]
    if any(cell != cells[0] for cell in cells):
        raise UserError(f"claims.{name}: compares scores of different trajectories: evaluate anew")


def _finite(interval: Interval) -> dict[str, float | None]:
    return {
        name: value if math.isfinite(value) else None for name, value in interval._asdict().items()
    }


def _generator(name: str) -> np.random.Generator:
    """Return a generator seeded by a name alone: a verdict never depends on chance or order."""
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def read_runs(
    folder: Path, experiment: Mapping[str, Any]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Read what judging needs: scores and curves of all runs, curves of those of half the updates.

    Parameters
    ----------
    folder
        `results/{preset}/{experiment}`.
    experiment
        Composed.

    Raises
    ------
    UserError
        If a run has no scores, or the runs of a method were made with different settings.
    """
    claims = experiment["claims"].values()
    wanted = {claim[key] for claim in claims for key in ("metric", "explains") if key in claim}
    wanted |= {*tabulated(experiment), "parameters", "predictability"}
    wanted |= {"level_error", "noise_level"}
    columns = [name for name in ABSENT if name not in ("lead_time", "wavenumber")]
    scores, curves, halves = [], [NO_CURVES], config.halves(experiment)
    made: dict[str, dict[str, Path]] = {}  # by method and settings, a run
    for method, seed, run in config.runs(experiment, folder):
        _note_settings(made.setdefault(method, {}), run)
        of_run = {"method": method, "seed": seed}
        scores.append(read_table(run / "scores.parquet", wanted, columns).assign(**of_run))
        if halves or any("updates" in claim or "over" in claim for claim in claims):
            curves.append(pd.read_csv(run / "curves.csv").assign(**of_run))
    half = [NO_CURVES] + [
        pd.read_csv(path).assign(method=method, seed=0)
        for method, path in config.half_curves(experiment, folder).items()
    ]
    tables = (scores, curves, half)
    full = ([part for part in table if len(part)] or table[:1] for table in tables)
    of_all, of_valid, of_half = (pd.concat(table, ignore_index=True) for table in full)
    return of_all, of_valid, of_half


def _note_settings(made: dict[str, Path], run: Path) -> None:
    """Refuse to judge runs of old and of new settings as one.

    The workflow makes them anew where settings change, unless they were copied from elsewhere.
    """
    note = run / "evaluation.json"
    settings = cli.read_json(note, "evaluate").get("settings") if note.exists() else None
    if settings is None:  # written before settings were noted
        return
    made.setdefault(settings, run)
    if len(made) > 1:
        one, other = made.values()
        raise UserError(
            f"{one} and {other} were made with different settings: delete the older one, and make "
            "it anew"
        )


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
    claims, methods = judge(
        experiment, *read_runs(args.results / args.preset / args.experiment, experiment)
    )
    if args.preset in UNJUDGED:
        claims = [claim | {"verdict": NOT_JUDGED} for claim in claims]
    judged = {
        "experiment": args.experiment,
        "preset": args.preset,
        "claims": claims,
        "methods": methods,
    }
    with cli.atomic(args.output) as part:
        part.write_text(json.dumps(judged, indent=1, allow_nan=False) + "\n", "utf-8")


if __name__ == "__main__":
    cli.run(main)
