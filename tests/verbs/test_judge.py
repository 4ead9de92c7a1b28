"""Verdicts follow from scores alone: tables with known answers."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import synthetic
from synthetic import METRICS

from longrun import judge as verb
from longrun.config import KINDS
from longrun.judge import NO_CURVES, judge
from longrun.metrics.table import ABSENT
from longrun.runtime.cli import UserError

SEEDS, TRAJECTORIES = 3, 40


def rows(method, metric, value, seeds=SEEDS, trajectories=TRAJECTORIES, **columns):
    """Scores of every seed and trajectory; the arguments broadcast against (seed, trajectory)."""
    cells = {
        "method": method,
        "metric": metric,
        "dataset": "waves",
        "seed": np.arange(seeds)[:, None],
        "trajectory": np.arange(trajectories),
        "value": value,
    } | columns
    shape = np.broadcast_shapes((seeds, trajectories), *(np.shape(v) for v in cells.values()))
    filled = {name: np.broadcast_to(v, shape).ravel() for name, v in cells.items()}
    return pd.DataFrame(ABSENT | filled)


def noise(seed, scale=0.05, shape=(SEEDS, TRAJECTORIES)):
    return np.random.default_rng(seed).normal(1, scale, size=shape)


def verdict(scores, curves=NO_CURVES, **claim):
    claim = {"says": "...", "metric": "correlation_time_0.8", "of": "new", "against": "old"} | claim
    (kind,) = set(claim) & set(KINDS)
    if KINDS[kind] != "against":
        del claim["against"]
    claim[kind] = {"direction": "above"} | claim[kind]
    methods = {name: {} for name in ("new", "old", "third")}
    experiment = {"claims": {"it": claim}, "methods": methods, "metrics": {}}
    experiment["validation"] = ["error"]
    (judged,), _ = judge(experiment, pd.concat(scores), curves)
    assert json.loads(json.dumps(judged, allow_nan=False)) == judged
    return judged


@pytest.mark.parametrize(
    ("true", "test", "expected"),
    [
        (1.3, {"holds": 1.05}, "holds"),
        (1.3, {"holds": 3.0}, "weaker"),
        (0.8, {"holds": 1.05}, "contradicted"),
        (1.0, {"holds": 1.05}, "weaker"),
        (0.8, {"holds": 1.0, "direction": "below"}, "holds"),
        (1.3, {"holds": 1.0, "direction": "below"}, "contradicted"),
        (1.0, {"holds": 1.0, "direction": "below"}, "open"),
        (0.8, {"holds": 0.5, "direction": "below"}, "weaker"),
    ],
)
def test_ratios(true, test, expected):
    hard = np.random.default_rng(9).lognormal(0, 0.5, size=TRAJECTORIES)
    judged = verdict(
        [
            rows("new", "correlation_time_0.8", 50 * true * hard * noise(0)),
            rows("old", "correlation_time_0.8", 50 * hard * noise(1, shape=(5, 40)), seeds=5),
        ],
        ratio=test | {"paper": 1.25},
    )
    assert judged["verdict"] == expected
    assert judged["low"] < judged["value"] < judged["high"]
    assert judged["value"] == pytest.approx(true, rel=0.03)
    assert judged["direction"] == test.get("direction", "above")
    assert (judged["kind"], judged["paper"], judged["holds"]) == ("ratio", 1.25, test["holds"])
    assert (judged["seeds"], judged["trajectories"], judged["censored"]) == (3, 40, 0)
    assert judged["bound"] is None and judged["note"] == ""


@pytest.mark.parametrize(("signal", "expected"), [(3, "holds"), (0.1, "contradicted"), (1, "open")])
def test_shares_of_variance(signal, expected):
    rng = np.random.default_rng(5)
    horizon = rng.normal(50, 10, size=(SEEDS, TRAJECTORIES))
    guess = signal * horizon + 10 * rng.normal(size=horizon.shape)
    judged = verdict(
        [
            rows("new", "predicted_horizon", guess),
            *(
                rows("new", "correlation_time_0.8", horizon + shift, member=member)
                for member, shift in enumerate((-5.0, 5.0))
            ),
        ],
        metric="predicted_horizon",
        explains="correlation_time_0.8",
        r_squared={"holds": 0.5},
    )
    assert judged["verdict"] == expected
    expected_value = np.mean(
        [np.corrcoef(g, h)[0, 1] ** 2 for g, h in zip(guess, horizon, strict=True)]
    )
    assert judged["value"] == pytest.approx(expected_value)
    assert judged["kind"] == "r_squared" and judged["against"] is None and judged["paper"] is None


def test_members_are_averaged_within_their_trajectory():
    """One trajectory with many rows (members, or steps) weighs no more than another."""
    new = pd.concat([rows("new", "nrmse", 1.0, member=m) for m in range(3)])
    extra = rows("new", "nrmse", 7.0, trajectories=1, member=2)
    scores = [new, extra, rows("old", "nrmse", 1.0)]
    judged = verdict(scores, metric="nrmse", ratio={"holds": 1.0})
    assert judged["value"] == pytest.approx((39 + (1 + 1 + 4) / 3) / 40)


def test_the_last_stage_counts_unless_another_is_named():
    scores = [
        *(rows("new", "one_step_error_high", value, stage=s) for s, value in enumerate((8.0, 2.0))),
        rows("old", "one_step_error_high", 4.0, stage=0),
    ]
    claim = {"metric": "one_step_error_high", "ratio": {"holds": 1.0}}
    assert verdict(scores, **claim)["value"] == 0.5
    assert verdict(scores, **claim, at={"stage": 0})["value"] == 2
    with pytest.raises(UserError, match="old has no scores of one_step_error_high, stage 1"):
        verdict(scores, **claim, at={"stage": 1})


def test_a_step_may_be_named():
    scores = [
        *(rows("new", "nrmse", float(step), step=step) for step in (1, 2, 6)),
        *(rows("old", "nrmse", 1.0, step=step) for step in (1, 2, 6)),
    ]
    claim = {"metric": "nrmse", "ratio": {"holds": 1.0}}
    assert verdict(scores, **claim)["value"] == pytest.approx(3)
    assert verdict(scores, **claim, at={"step": 2})["value"] == pytest.approx(2)


def test_censored_rows_make_a_bound_and_say_so():
    def judged(new, old, **test):
        censored = [np.arange(TRAJECTORIES) < share * TRAJECTORIES for share in (new, old)]
        return verdict(
            [
                rows("new", "correlation_time_0.8", 60 * noise(0), censored=censored[0]),
                rows("old", "correlation_time_0.8", 40 * noise(1), censored=censored[1]),
            ],
            ratio={"holds": 1.05} | test,
        )

    lower = judged(0.25, 0)
    assert (lower["bound"], lower["censored"], lower["verdict"]) == ("lower", 0.125, "holds")
    assert "only a lower bound" in lower["note"] and "25% of correlation_time_0.8" in lower["note"]
    assert judged(0, 0.5)["bound"] == "upper"
    both = judged(0.25, 0.5)
    assert both["bound"] == "unclear" and both["verdict"] == "holds"
    short = judged(0.9, 0.6)
    assert short["verdict"] == "open" and "too short" in short["note"]


def test_rollouts_that_all_reach_the_end_do_not_prove_a_tie():
    same = [rows(m, "correlation_time_0.8", 64.0, censored=True) for m in ("new", "old")]
    judged = verdict(same, ratio={"holds": 1.0, "direction": "below"})
    assert (judged["value"], judged["verdict"], judged["bound"]) == (1, "open", "unclear")


def test_one_run_on_one_trajectory_proves_nothing():
    scores = [
        rows(m, "wall_time_per_second", v, 1, 1, trajectory=-1)
        for m, v in (("new", 1.0), ("old", 9.0))
    ]
    judged = verdict(
        scores, metric="wall_time_per_second", ratio={"holds": 1, "direction": "below"}
    )
    assert judged["verdict"] == "open" and "no interval" in judged["note"]


@pytest.mark.parametrize(
    ("seeds", "parameters", "expected"),
    [(2, 9, "not judged"), (2, 0, "not judged"), (1, 9, "not judged"), (1, 0, "holds")],
)
def test_too_few_runs_are_not_judged(seeds, parameters, expected):
    scores = [rows("new", "correlation_time_0.8", 2.0 * noise(0)), rows("new", "parameters", 9)]
    few = {"seeds": seeds, "trajectories": TRAJECTORIES}
    scores.append(rows("old", "correlation_time_0.8", noise(1, shape=(seeds, 40)), **few))
    scores.append(rows("old", "parameters", parameters, **few))
    judged = verdict(scores, ratio={"holds": 1.5})
    assert judged["verdict"] == expected and judged["value"] == pytest.approx(2, rel=0.05)
    assert ("3 seeds are needed of old" in judged["note"]) == (expected == "not judged")


@pytest.mark.parametrize(("left", "expected"), [(0.0236, "not judged"), (0.011, "holds")])
def test_a_refinement_that_leaves_its_noise_is_not_judged(left, expected):
    """.0236 is the root of .0125 squared plus .02 squared: nothing was removed."""
    scores = [rows("new", "correlation_time_0.8", 2.0 * noise(0))]
    scores.append(rows("old", "correlation_time_0.8", noise(1)))
    for metric, values in (("level_error", (0.0125, left)), ("noise_level", (1.0, 0.02))):
        scores += [rows("new", metric, v, stage=stage) for stage, v in enumerate(values)]
    judged = verdict(scores, ratio={"holds": 1.5})
    assert judged["verdict"] == expected
    assert ("leaves the noise that it adds" in judged["note"]) == (expected == "not judged")


def test_runs_that_descend_from_the_same_are_paired():
    """What a seed shares cancels: its parent's quality, here ten times the effect."""
    parent = np.random.default_rng(4).lognormal(0, 0.3, size=(SEEDS, 1))
    scores = [
        rows("new", "nrmse", 0.9 * parent * noise(0, 0.01)),
        rows("old", "nrmse", parent * noise(1, 0.01)),
    ]
    claim = {"says": "...", "metric": "nrmse", "of": "new", "against": "old"}
    claim |= {"ratio": {"holds": 0.95, "direction": "below"}}
    starts = {
        "apart": ({}, {}),
        "child": ({"starts_from": {"method": "old"}}, {}),
        "siblings": ({"starts_from": {"method": "third"}}, {"starts_from": {"method": "third"}}),
        "one run": ({"starts_from": {"method": "old", "seed": 0}}, {}),
    }
    found = {}
    for name, (new, old) in starts.items():
        methods = {"new": new, "old": old, "third": {}}
        experiment = {"claims": {"it": claim}, "methods": methods, "metrics": {}}
        (judged,), _ = judge(experiment, pd.concat(scores))
        found[name] = judged["verdict"]
    assert found == {"apart": "open", "child": "holds", "siblings": "holds", "one run": "open"}


def test_what_cannot_be_predicted_is_named():
    scores = [rows(m, "correlation_time_0.8", v) for m, v in (("new", 60.0), ("old", 40.0))]
    limit = rows("new", "predictability", 50.0, trajectories=1, trajectory=-1)
    assert "beyond the time of 50" in verdict([*scores, limit], ratio={"holds": 1.0})["note"]
    assert verdict([*scores, limit.assign(value=61.0)], ratio={"holds": 1.0})["note"] == ""


def test_a_ratio_to_nothing_is_open():
    scores = [rows("new", "nrmse", noise(0)), rows("old", "nrmse", 0.0)]
    judged = verdict(scores, metric="nrmse", ratio={"holds": 1.0})
    assert judged["verdict"] == "open" and judged["value"] is judged["high"] is None
    assert "no finite interval" in judged["note"]


def test_missing_scores_are_refused():
    new = rows("new", "nrmse", noise(0))
    claim = {"metric": "nrmse", "ratio": {"holds": 1.0}}
    with pytest.raises(UserError, match=r"claims[.]it: old has no scores of nrmse"):
        verdict([new], **claim)
    with pytest.raises(UserError, match="different trajectories"):
        verdict([new, rows("old", "nrmse", 1.0, trajectories=39)], **claim)
    with pytest.raises(UserError, match="different trajectories"):
        verdict([new.iloc[:-1], rows("old", "nrmse", 1.0)], **claim)


def test_a_verdict_does_not_depend_on_its_neighbours():
    scores = pd.concat([rows("new", "nrmse", noise(0)), rows("old", "nrmse", noise(1))])
    claim = {"says": "", "metric": "nrmse", "of": "new", "against": "old"}
    claim["ratio"] = {"holds": 1.0, "direction": "above"}
    methods = {"new": {}, "old": {}}
    alone, _ = judge({"claims": {"b": claim}, "methods": methods, "metrics": {}}, scores)
    both = {"claims": {"a": claim, "b": claim}, "methods": methods, "metrics": {}}
    beside, _ = judge(both, scores[::-1])
    assert beside[1] == alone[0]


def test_methods_are_summed_up():
    scores = pd.concat(
        [
            rows("new", "nrmse", noise(0)),
            rows("new", "correlation_time_0.8", 60.0, censored=np.arange(TRAJECTORIES) < 10),
            rows("new", "one_step_nrmse", 5.0, stage=0),
            rows("new", "one_step_nrmse", 2.0, stage=1),
            rows("old", "parameters", 7.0, seeds=1, trajectories=1, trajectory=-1),
        ]
    )
    claims, methods = judge(
        {"claims": {}, "methods": {"old": {}, "new": {}, "none": {}}, "metrics": METRICS}, scores
    )
    table = {(row["method"], row["metric"]): row for row in methods}
    assert claims == [] and len(table) == len(methods) == 4
    assert methods[0]["method"] == "old"
    row = table["new", "nrmse"]
    assert row["low"] < row["value"] < row["high"]
    assert (row["seeds"], row["trajectories"]) == (SEEDS, TRAJECTORIES)
    assert table["new", "correlation_time_0.8"]["censored"] == 0.25
    assert table["new", "one_step_nrmse"]["value"] == 2
    row = table["old", "parameters"]
    assert (row["value"], row["low"], row["high"], row["seeds"]) == (7, 7, 7, 1)


CONFIG = """
import sys, types
from pathlib import Path
from longrun import config, judge
experiment = {{
    "task": {{"name": "forecast"}}, "seeds": 3, "trainer": {{}}, "train": ["waves"],
    "methods": {{"new": {{"name": "unet"}}, "old": {{"name": "unet"}}}},
    "claims": {{"it": {{"says": "It is better.", "metric": "nrmse", "of": "new", "against": "old",
                        "ratio": {{"holds": 1.0, "direction": "below"}}}}}},
    "metrics": {{"nrmse": {{"table": "short"}}}},
}}
config.compose = lambda configs, name, preset: experiment
sys.argv = ["judge", "--experiment", "e", "--preset", "p", "--results", {results!r},
            "--output", {output!r}]
judge.main()
assert "torch" not in sys.modules
"""


def test_the_verb_reads_runs_and_writes_claims_without_torch(tmp_path):
    for method, value in (("new", 1.0), ("old", 2.0)):
        table = rows(method, "nrmse", value * noise(3))
        for seed in range(SEEDS):
            folder = tmp_path / "p" / "e" / method / f"seed{seed}"
            folder.mkdir(parents=True)
            mine = table[table["seed"] == seed]
            mine[list(ABSENT)].to_parquet(folder / "scores.parquet", index=False)
    output = tmp_path / "p" / "e" / "claims.json"
    script = CONFIG.format(results=str(tmp_path), output=str(output))
    subprocess.run([sys.executable, "-c", script], check=True)
    judged = json.loads(output.read_text())
    assert (judged["experiment"], judged["preset"]) == ("e", "p")
    assert judged["claims"][0]["verdict"] == "holds"
    assert judged["claims"][0]["value"] == pytest.approx(0.5)
    assert {row["method"] for row in judged["methods"]} == {"new", "old"}
    again = output.read_bytes()
    subprocess.run([sys.executable, "-c", script], check=True)
    assert output.read_bytes() == again


def test_a_run_without_scores_is_named(tmp_path):
    experiment = {"claims": {}, "methods": {"new": {"name": "unet"}}, "metrics": {}}
    experiment |= {"task": {"name": "forecast"}, "seeds": 1, "trainer": {}, "train": ["waves"]}
    with pytest.raises(UserError, match=r"new/seed0/scores.parquet: no scores"):
        verb.read_runs(tmp_path, experiment)


def test_a_method_is_compared_with_itself_at_another_stage():
    level = np.arange(TRAJECTORIES) % 7 + 1.0
    scores = [
        rows("new", "rmse", level * noise(0), measured=0),
        rows("new", "rmse", 0.25 * level * noise(1), measured=10),
    ]
    judged = verdict(
        scores,
        metric="rmse",
        against="new",
        at={"measured": 0},
        against_at={"measured": 10},
        ratio={"holds": 2.0},
    )
    assert judged["verdict"] == "holds"
    assert judged["value"] == pytest.approx(4, rel=0.05)


def test_a_value_is_judged_against_a_number():
    scores = [rows("new", "nrmse", 0.1 * noise(0))]
    below = verdict(scores, metric="nrmse", value={"holds": 0.12, "direction": "below"})
    assert below["verdict"] == "holds" and below["value"] == pytest.approx(0.1, rel=0.02)
    assert verdict(scores, metric="nrmse", value={"holds": 0.12})["verdict"] == "contradicted"
    assert verdict(scores, metric="nrmse", value={"holds": below["value"]})["verdict"] == "open"


def test_a_slope_over_evaluations_is_the_order_of_the_error():
    scores = [rows("new", "nrmse", 3 * calls**-2 * noise(0), nfe=calls) for calls in (4.0, 8, 16)]

    def judged(holds, direction="below"):
        test = {"along": "nfe", "holds": holds, "direction": direction}
        return verdict(scores, metric="nrmse", slope=test)

    found = judged(-1.8)
    assert found["value"] == pytest.approx(-2) and found["verdict"] == "holds"
    assert found["along"] == "nfe" and found["high"] - found["low"] < 1e-6  # runs are shared
    assert judged(-2.5)["verdict"] == "weaker"
    assert judged(1.0, "above")["verdict"] == "contradicted"  # it falls, and should grow


def test_a_slope_along_an_option_compares_methods(monkeypatch):
    widths = {"new": 4, "old": 8, "third": 16}
    monkeypatch.setattr(verb.config, "option", lambda experiment, method, name: widths[method])
    scores = [rows(method, "nrmse", 8 / width * noise(width)) for method, width in widths.items()]
    claim = {"along": "width", "holds": -0.9, "direction": "below"}
    judged = verdict(scores, metric="nrmse", of=["new", "old", "third"], slope=claim)
    assert judged["value"] == pytest.approx(-1, abs=0.05) and judged["verdict"] == "holds"
    assert judged["low"] < judged["value"] < judged["high"]
    assert judged["of"] == "new | old | third"


def curves_of(method, ends, steps=100):
    """Errors on valid that fall with the inverse of the updates, to these values at the last."""
    at = np.arange(10, steps + 1, 10)
    return pd.concat(
        pd.DataFrame({"step": at, "value": end * steps / at}).assign(
            method=method, seed=seed, metric="valid/error"
        )
        for seed, end in enumerate(ends)
    )


def test_updates_until_anothers_last_value():
    scores = [rows("new", "nrmse", 1.0)]
    slow, fast = curves_of("old", [0.30, 0.32, 0.28]), curves_of("new", [0.10, 0.11, 0.09])
    claim = {"metric": "error", "updates": {"holds": 0.6, "direction": "below"}}
    judged = verdict(scores, pd.concat([slow, fast]), **claim)
    assert judged["value"] == pytest.approx((40 + 40 + 30) / 3 / 100)
    assert judged["low"] < judged["value"] < judged["high"] and judged["verdict"] == "holds"
    assert (judged["seeds"], judged["bound"]) == (3, None)
    never = verdict(scores, pd.concat([slow, fast]), **claim, of="old", against="new")
    assert never["bound"] == "lower" and never["value"] == 1 and "lower bound" in never["note"]
    with pytest.raises(UserError, match="new has no curve of valid/error"):
        verdict(scores, slow, **claim)


def test_what_the_last_doubling_gained_says_who_is_under_trained():
    scores = [rows(method, "nrmse", 1.0 * noise(0)) for method in ("new", "old")]
    claim = {"says": "...", "metric": "nrmse", "of": "new", "against": "old"}
    claim |= {"ratio": {"holds": 0.95, "direction": "below"}}
    experiment = {"claims": {"it": claim}, "methods": {"new": {}, "old": {}}, "metrics": {}}
    experiment["validation"] = ["error"]
    curves = [curves_of("new", [0.8, 9.9]), curves_of("old", [0.97, 9.9])]
    halves = pd.concat([curves_of("new", [1.0], 50), curves_of("old", [1.0], 50)])
    (judged,), methods = judge(experiment, pd.concat(scores), pd.concat(curves), halves)
    gains = {row["method"]: row["value"] for row in methods if row["metric"] == "last_doubling"}
    assert gains == pytest.approx({"new": 0.2, "old": 0.03})
    assert judged["note"] == "under-trained: new"


def test_a_rank_correlation_sees_order_alone():
    level = np.linspace(0.1, 4, TRAJECTORIES) * noise(0, 0.001)
    claim = {"metric": "nrmse", "explains": "exponent", "rank_correlation": {"holds": 0.8}}
    grows = [rows("new", "nrmse", np.exp(level)), rows("new", "exponent", level)]
    judged = verdict(grows, **claim)
    assert judged["value"] == pytest.approx(1) and judged["verdict"] == "holds"
    falls = [rows("new", "nrmse", -level), rows("new", "exponent", level)]
    assert verdict(falls, **claim)["verdict"] == "contradicted"


def test_the_best_of_several_is_chosen_on_valid():
    """Not by the score: `third` scores better here, but nobody could have known."""
    curves = pd.concat([curves_of("new", [0.1] * 3), curves_of("third", [0.2] * 3)])
    scores = [rows("new", "nrmse", 2.0), rows("third", "nrmse", 1.0), rows("old", "nrmse", 4.0)]
    claim = {"metric": "nrmse", "of": ["third", "new"], "ratio": {"holds": 1.0}}
    best = verdict(scores, curves, **claim, over="min")
    assert best["value"] == pytest.approx(0.5) and "new is the min on valid of 2" in best["note"]
    assert verdict(scores, curves, **claim, over="max")["value"] == pytest.approx(0.25)
    assert verdict(scores, curves, **claim, over="mean")["value"] == pytest.approx(1.5 / 4)
    with pytest.raises(UserError, match="no error on valid to choose by"):
        verdict(scores, **claim, over="min")


def test_a_median_ignores_a_few_lost_tracks():
    lost = np.where(np.arange(TRAJECTORIES) < 3, 1000.0, 1.0)
    scores = [rows("new", "nrmse", 2.0 * noise(0)), rows("old", "nrmse", lost * noise(1))]
    claim = {"metric": "nrmse", "ratio": {"holds": 1.0}}
    assert verdict(scores, **claim)["value"] < 0.1
    median = verdict(scores, **claim, statistic="median")
    assert median["value"] == pytest.approx(2, rel=0.05) and median["verdict"] == "holds"
    assert median["statistic"] == "median"


def test_a_claim_may_compare_one_dataset_with_another():
    hard = np.random.default_rng(3).lognormal(0, 0.3, size=(2, TRAJECTORIES))
    scores = [
        rows("new", "nrmse", 2.0 * hard[0] * noise(0)),
        rows("new", "nrmse", 9.0, dataset="other"),
        rows("old", "nrmse", 7.0),
        rows("old", "nrmse", hard[1] * noise(1), dataset="other"),
    ]
    claim = {"metric": "nrmse", "ratio": {"holds": 1.0}}
    places = {"at": {"dataset": "waves"}, "against_at": {"dataset": "other"}}
    judged = verdict(scores, **claim, **places)
    assert judged["value"] == pytest.approx(2, rel=0.15) and judged["verdict"] == "holds"
    # the interval knows both spreads over trajectories, sqrt(2) 0.3 / sqrt(40) on the logarithm
    half = np.log(judged["high"] / judged["low"]) / 2
    assert half == pytest.approx(2 * np.sqrt(2) * 0.3 / np.sqrt(TRAJECTORIES), rel=0.3)
    with pytest.raises(UserError, match="different trajectories"):
        verdict(scores, **claim, at={"dataset": "waves"}, against_at={})


def test_a_claim_may_be_about_one_dataset():
    scores = [
        rows("new", "nrmse", 1.0),
        rows("old", "nrmse", 2.0),
        rows("new", "nrmse", 9.0, dataset="other"),
        rows("old", "nrmse", 2.0, dataset="other"),
    ]
    claim = {"metric": "nrmse", "ratio": {"holds": 1.0}}
    assert verdict(scores, **claim, at={"dataset": "waves"})["value"] == pytest.approx(0.5)
    assert verdict(scores, **claim)["value"] == pytest.approx(2.5)


def test_runs_of_old_and_new_settings_are_not_judged_as_one(tmp_path):
    """As where a folder of results was copied, and a part of it made anew."""
    spec = synthetic.inputs(("unet",)).spec
    synthetic.write_runs(tmp_path, ("unet",))
    folder = tmp_path / "cpu" / "pde_refiner"

    def note(seed, settings):
        path = folder / "unet" / f"seed{seed}" / "evaluation.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"settings": settings}))

    note(0, "old")
    note(1, "old")
    verb.read_runs(folder, spec)
    note(1, "new")
    with pytest.raises(UserError, match=r"unet/seed0 and .*unet/seed1 were made with different"):
        verb.read_runs(folder, spec)
