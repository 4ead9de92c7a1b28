"""Composition of the YAML files, and what is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun import config
from longrun.config.schemas import schemas
from longrun.runtime import registry

ROOT = Path("configs")
FILES = {
    "config.yaml": """
preset: smoke
experiments: [paper]
tracking: offline
""",
    "presets/smoke.yaml": """
seeds: 1
trainer: {accelerator: cpu}
tracking: disabled
""",
    "presets/gpu.yaml": "trainer: {accelerator: gpu}",
    "datasets/waves.yaml": """
equation: {name: kuramoto_sivashinsky, points: 64, length: {uniform: [28.8, 35.2]}}
seed: 1
splits:
  train: {trajectories: 8, frames: 60}
  valid: {trajectories: 4, frames: 80}
  test: {trajectories: 4, frames: 80}
presets:
  gpu: {splits: {train: {trajectories: 16}}}
""",
    "experiments/paper.yaml": """
paper: {title: A title, arxiv: "2308.05732"}
task: {name: forecast, learning_rate: 1e-3}
dataset: waves
seeds: 3
evaluate: {steps: 10, stride: 4, start: 4, trajectories: 4, members: 2}
methods:
  plain: {name: unet}
  refined: {name: pde_refiner, width: 8, trainer: {max_steps: 7}}
  still: {name: persistence, seeds: 1}
trainer: {max_steps: 20, batch_size: 8}
presets:
  smoke: {methods: {plain: {multipliers: [1, 2]}}}
  gpu: {methods: {plain: null}}
claims:
  longer:
    main: true
    says: Refinement lasts longer.
    metric: correlation_time_0.8
    of: refined
    against: plain
    ratio: {paper: 1.3, holds: 1.05, direction: above}
  spread:
    says: Spread predicts the horizon.
    metric: predicted_horizon
    of: refined
    explains: correlation_time_0.8
    r_squared: {holds: 0.5, direction: above}
""",
}
PAPER, WAVES = "configs/experiments/paper.yaml", "configs/datasets/waves.yaml"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Small configuration files in the working directory; `tree(file, key, value)` edits one."""
    for name, text in FILES.items():
        (tmp_path / "configs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "configs" / name).write_text(text)
    monkeypatch.chdir(tmp_path)

    def edit(file, key, value):
        content = config.load(Path(file))
        parent = content
        for part in key[:-1]:
            parent = parent.setdefault(part, {})
        if value is ...:
            del parent[key[-1]]
        else:
            parent[key[-1]] = value
        Path(file).write_text(json.dumps(content))

    return edit


def refused(call, *arguments):
    with pytest.raises(config.ConfigError) as caught:
        call(*arguments)
    line = str(caught.value)
    assert "\n" not in line
    return line


def shipped(pytestconfig, kind):
    configs = pytestconfig.rootpath / "configs"
    return configs, getattr(config, kind)(configs), config.presets(configs)


def test_every_shipped_file_composes_at_every_preset(pytestconfig):
    configs, experiments, presets = shipped(pytestconfig, "experiments")
    assert {"smoke", "cpu", "gpu", "paper"} == set(presets)
    config.settings(configs)
    config.validate_all(configs)
    for experiment in experiments:
        for preset in presets:
            spec = config.compose(configs, experiment, preset)
            assert spec["train"] and spec["test"] and spec["claims"]
            for method in spec["methods"]:
                json.loads(config.train_spec(spec, method))
                json.loads(config.evaluate_spec(spec, method))


def test_layers_replace_in_order(tree):
    spec = config.compose(ROOT, "paper", "smoke")
    assert spec["seeds"] == 1  # the preset's
    assert spec["methods"]["plain"] == {"name": "unet", "multipliers": [1, 2]}  # the section's
    assert spec["trainer"]["accelerator"] == "cpu"
    assert spec["trainer"]["accumulate"] == 1  # the schema's default
    assert spec["task"]["learning_rate"] == 1e-3
    assert (spec["train"], spec["test"]) == (["waves"], ["waves"])
    assert "presets" not in spec and "dataset" not in spec
    assert config.compose_dataset(ROOT, "waves", "gpu")["splits"]["train"] == {
        "trajectories": 16,
        "frames": 60,
    }


def test_tracking_is_the_presets_or_the_settings(tree):
    assert config.compose(ROOT, "paper", "smoke")["tracking"] == "disabled"
    assert config.compose(ROOT, "paper", "gpu")["tracking"] == "offline"
    Path("configs/config.yaml").unlink()
    assert config.compose(ROOT, "paper", "gpu")["tracking"] == "disabled"


def test_null_drops_a_method_and_the_claims_that_need_it(tree):
    spec = config.compose(ROOT, "paper", "gpu")
    assert list(spec["methods"]) == ["refined", "still"]
    assert list(spec["claims"]) == ["spread"]


def test_method_spec_merges_task_and_trainer(tree):
    spec = config.compose(ROOT, "paper", "smoke")
    refined = config.method_spec(spec, "refined")
    assert refined["name"] == "pde_refiner"
    assert refined["options"] == {"learning_rate": 1e-3, "width": 8}
    assert refined["trainer"] == spec["trainer"] | {"max_steps": 7}
    assert (refined["seeds"], refined["starts_from"]) == (1, None)


def test_method_spec_leaves_out_options_that_the_method_fixes(tree):
    tree(PAPER, ("task", "target"), "residual")
    spec = config.compose(ROOT, "paper", "smoke")
    assert "target" in config.method_spec(spec, "plain")["options"]
    assert "target" not in config.method_spec(spec, "still")["options"]


def test_gpus_follow_the_composed_trainer(tree):
    assert config.gpus(config.compose(ROOT, "paper", "smoke")["trainer"]) == 0
    trainer = config.compose(ROOT, "paper", "gpu")["trainer"]
    assert config.gpus(trainer) == 1
    assert config.gpus(trainer | {"devices": 4}) == 4
    assert config.gpus(trainer | {"devices": 4, "num_nodes": 2}) == 8
    assert config.gpus(trainer | {"accelerator": "auto"}) == 0


def test_an_evaluation_takes_the_gpus_that_it_uses(tree):
    tree(PAPER, ("trainer",), {"max_steps": 20, "batch_size": 8, "num_nodes": 2})
    tree("configs/presets/gpu.yaml", ("trainer", "devices"), 4)
    spec = config.compose(ROOT, "paper", "gpu")
    assert config.gpus(config.method_spec(spec, "refined")["trainer"]) == 8
    assert config.rollout_gpus(spec, "refined") == 4
    assert config.rollout_gpus(spec | {"all_devices": False}, "refined") == 1
    assert config.rollout_gpus(config.compose(ROOT, "paper", "smoke"), "refined") == 0


def test_how_devices_share_is_no_part_of_a_run_on_one(tree):
    """Otherwise runs from before the choice existed would be trained again."""
    trainer = json.loads(config.train_spec(config.compose(ROOT, "paper", "smoke"), "plain"))[
        "trainer"
    ]
    assert trainer["devices"] == 1 and not {"num_nodes", "strategy"} & set(trainer)
    tree(PAPER, ("trainer", "devices"), 2)
    trainer = json.loads(config.train_spec(config.compose(ROOT, "paper", "smoke"), "plain"))[
        "trainer"
    ]
    assert trainer["num_nodes"] == 1 and trainer["strategy"] == "ddp"


def specs():
    spec = config.compose(ROOT, "paper", "smoke")
    return {
        "generate": config.canonical(config.compose_dataset(ROOT, "waves", "smoke")),
        "train": config.train_spec(spec, "plain"),
        "evaluate": config.evaluate_spec(spec, "plain"),
        "judge": config.judge_spec(spec),
    }


@pytest.mark.parametrize(
    ("file", "key", "value", "changed"),
    [
        (PAPER, ("trainer", "batch_size"), 4, {"train"}),
        (PAPER, ("trainer", "mem_mb"), 4000, set()),
        (PAPER, ("trainer", "runtime"), 60, set()),
        (PAPER, ("task", "learning_rate"), 1e-2, {"train"}),
        (PAPER, ("methods", "plain", "history"), 2, {"train"}),
        (PAPER, ("methods", "refined", "refinement_steps"), 1, set()),
        (PAPER, ("evaluate", "steps"), 9, {"evaluate"}),
        (PAPER, ("evaluate", "stride"), 2, {"train", "evaluate"}),
        (PAPER, ("claims", "longer", "ratio", "holds"), 1.1, {"judge"}),
        (PAPER, ("methods", "plain", "seeds"), 2, {"judge"}),
        (PAPER, ("paper", "title"), "Another title", set()),
        (WAVES, ("splits", "train", "frames"), 70, {"generate"}),
        ("configs/presets/smoke.yaml", ("seeds",), 2, {"judge"}),
        ("configs/config.yaml", ("tracking",), "disabled", set()),
    ],
)
def test_a_change_reaches_only_what_depends_on_it(tree, file, key, value, changed):
    before = specs()
    tree(file, key, value)
    after = specs()
    assert {name for name in before if before[name] != after[name]} == changed


def test_comments_and_order_change_nothing(tree):
    before = specs()
    for name in FILES:
        path = Path("configs") / name
        if name == "experiments/paper.yaml":  # the same keys in reverse order
            reverse = dict(reversed(config.load(path).items()))
            path.write_text(json.dumps(reverse))
        path.write_text(f"# a comment\n{path.read_text()}\n# another\n")
    assert specs() == before


def test_the_data_enter_train_spec_where_they_are_given(tree):
    spec = config.compose(ROOT, "paper", "smoke")
    composed = {"waves": config.compose_dataset(ROOT, "waves", "smoke")}
    before = config.train_spec(spec, "plain", composed)
    composed["waves"]["seed"] = 2
    assert config.train_spec(spec, "plain", composed) != before


REFUSALS = [
    (
        PAPER,
        ("trainer", "batch_sise"),
        8,
        f"{PAPER}: trainer.batch_sise: unknown key; allowed: accelerator, accumulate, batch_size, "
        "checkpoint_every, clip, devices, diverged, in_memory, log_every, max_epochs, max_steps, "
        "mem_mb, num_nodes, online, precision, runtime, strategy, trajectories, valid_windows, "
        "validate_every, workers; did you mean batch_size?",
    ),
    (
        PAPER,
        ("methods", "plain", "trainer"),
        {"runtime": "24h"},
        f"{PAPER}: methods.plain.trainer.runtime: must be integer, is '24h'",
    ),
    (
        PAPER,
        ("evaluate", "step"),
        8,
        f"{PAPER}: evaluate.step: unknown key; allowed: batch_size, keep, members, start, steps, "
        "stride, train_trajectories, trajectories; did you mean steps?",
    ),
    (
        PAPER,
        ("methods", "plain", "name"),
        "unett",
        f"{PAPER}: methods.plain.name: unknown method 'unett'; allowed: "
        f"{', '.join(m for m in registry.names('methods') if registry.task(m) == 'forecast')}"
        "; did you mean unet?",
    ),
    (
        PAPER,
        ("methods", "plain", "name"),
        "fno_map",
        f"{PAPER}: methods.plain.name: fno_map is a method of the task map; allowed: ...",
    ),
    (
        PAPER,
        ("task", "name"),
        "forcast",
        f"{PAPER}: task.name: unknown task 'forcast'; allowed: {', '.join(registry.names('tasks'))}"
        "; did you mean forecast?",
    ),
    (
        PAPER,
        ("dataset",),
        "wave",
        f"{PAPER}: dataset: unknown dataset 'wave'; allowed: waves; did you mean waves?",
    ),
    (
        WAVES,
        ("equation", "name"),
        "kuramoto",
        f"{WAVES}: equation.name: unknown equation 'kuramoto'; allowed: ...",
    ),
    (
        WAVES,
        ("equation", "points"),
        50,
        f"{PAPER}: methods.refined: needs a grid whose sides are multiples of 8, waves has 50 "
        "points; change the dataset's, or the method's depth",
    ),
    (
        PAPER,
        ("presets", "smoky"),
        {},
        f"{PAPER}: presets.smoky: unknown preset 'smoky'; allowed: gpu, smoke; did you mean smoke?",
    ),
    (
        PAPER,
        ("claims", "longer", "against"),
        "plane",
        f"{PAPER}: claims.longer.against: unknown method 'plane'; allowed: plain, refined, still; "
        "did you mean plain?",
    ),
    (
        PAPER,
        ("trainer", "max_steps"),
        "many",
        f"{PAPER}: trainer.max_steps: must be integer or null, is 'many'",
    ),
    (
        PAPER,
        ("trainer", "batch_size"),
        -3,
        f"{PAPER}: trainer.batch_size: must be at least 1, is -3",
    ),
    (
        PAPER,
        ("trainer", "max_steps"),
        1e6,
        f"{PAPER}: trainer.max_steps: must be integer or null, is 1000000.0",
    ),
    (
        PAPER,
        ("paper", "arxiv"),
        2308.05732,
        f"{PAPER}: paper.arxiv: must be string (quote it), is 2308.05732",
    ),
    (
        PAPER,
        ("trainer", "precision"),
        "32-tru",
        f"{PAPER}: trainer.precision: '32-tru' is not allowed; allowed: 16-mixed, 32-true, "
        "64-true, bf16-mixed; did you mean 32-true?",
    ),
    (PAPER, ("evaluate", "trajectories"), ..., f"{PAPER}: evaluate.trajectories: is missing"),
    (
        PAPER,
        ("methods", "../up"),
        {"name": "unet"},
        f"{PAPER}: methods.../up: '../up' is not a valid name; allowed: lower-case letters, digits "
        "and _, a letter first",
    ),
    # options, read from the constructors
    (
        PAPER,
        ("methods", "plain", "widht"),
        8,
        f"{PAPER}: methods.plain.widht: unknown key; allowed: ...",
    ),
    (
        PAPER,
        ("methods", "plain", "width"),
        -8,
        f"{PAPER}: methods.plain.width: must not be negative, is -8",
    ),
    (
        PAPER,
        ("methods", "plain", "width"),
        8.5,
        f"{PAPER}: methods.plain.width: must be int, is 8.5",
    ),
    (
        PAPER,
        ("methods", "plain", "fields"),
        1,
        f"{PAPER}: methods.plain.fields: unknown key; allowed: ...",
    ),
    (
        PAPER,
        ("methods", "plain", "training", "name"),
        "push_forward",
        f"{PAPER}: methods.plain.training.name: unknown training 'push_forward'; allowed: all2all, "
        "curriculum, one2all, one_step, pushforward, teacher_forcing, unrolled; did you mean "
        "pushforward?",
    ),
    (
        PAPER,
        ("task", "learning_rate"),
        "fast",
        f"{PAPER}: task.learning_rate: must be float, is 'fast'",
    ),
    (
        PAPER,
        ("task", "learning_rates"),
        1.0,
        f"{PAPER}: task.learning_rates: unknown key; allowed: ...",
    ),
    (
        WAVES,
        ("equation", "integrator"),
        "etdrk3",
        f"{WAVES}: equation.integrator: 'etdrk3' is not allowed; allowed: etdrk2, etdrk4, "
        "etdrk4b; did you mean etdrk4?",
    ),
    (
        WAVES,
        ("equation", "length"),
        {"uniform": [2.0, 1.0]},
        f"{WAVES}: equation.length: must be a number, {{uniform: [low, high]}}, "
        "{log_uniform: [low, high]} or {choice: [value, ...]}, is {'uniform': [2.0, 1.0]}",
    ),
    (
        WAVES,
        ("equation",),
        {"name": "final_state", "of": {"name": "burgers", "over_pie": True}},
        f"{WAVES}: equation.of.over_pie: unknown key; allowed: ...",
    ),
    (
        WAVES,
        ("equation",),
        {"name": "final_state", "of": {"viscosity": 0.1}},
        f"{WAVES}: equation.of.name: is missing",
    ),
    (
        WAVES,
        ("equation", "viscocity"),
        1.0,
        f"{WAVES}: equation.viscocity: unknown key; allowed: burn_in, dt, growth, initial, "
        "integrator, length, points, steepening, substeps, viscosity; did you mean viscosity?",
    ),
    (
        WAVES,
        ("splits", "test", "frames"),
        "all",
        f"{WAVES}: splits.test.frames: must be integer, is 'all'",
    ),
    (WAVES, ("splits", "valid"), ..., f"{WAVES}: splits.valid: is missing"),
    # impossible combinations
    (
        PAPER,
        ("trainer", "max_epochs"),
        3,
        f"{PAPER}: trainer.max_steps: allowed: max_steps or max_epochs; both are given",
    ),
    (
        PAPER,
        ("trainer", "max_steps"),
        None,
        f"{PAPER}: trainer.max_steps: allowed: max_steps or max_epochs; neither is given",
    ),
    (
        PAPER,
        ("methods", "plain", "trainer"),
        {"devices": 3},
        f"{PAPER}: trainer.batch_size: must be divisible by the number of devices (3), is 8",
    ),
    (
        PAPER,
        ("trainer",),
        {"max_steps": 20, "batch_size": 12, "devices": 2, "num_nodes": 4},
        f"{PAPER}: trainer.batch_size: must be divisible by the number of devices (8), is 12",
    ),
    (
        PAPER,
        ("methods", "plain", "trainer"),
        {"devices": 2, "valid_windows": 1},
        f"{PAPER}: methods.plain.trainer.valid_windows: must be at least the number of devices (2)",
    ),
    (
        PAPER,
        ("methods", "plain"),
        {"name": "unet", "optimiser": {"name": "lbfgs"}, "trainer": {"num_nodes": 2}},
        f"{PAPER}: methods.plain.trainer.num_nodes: must be 1 with the optimiser lbfgs: its "
        "search sees one device's loss",
    ),
    (
        PAPER,
        ("methods", "plain", "trainer"),
        {"devices": 2, "strategy": "fsdp", "precision": "16-mixed"},
        f"{PAPER}: methods.plain.trainer.precision: must be 32-true, bf16-mixed with strategy fsdp",
    ),
    (
        PAPER,
        ("methods", "plain", "trainer"),
        {"devices": 2, "strategy": "fsdp"},
        f"{PAPER}: methods.plain.trainer.strategy: fsdp needs ema_decay 0 of plain: no device has "
        "all weights",
    ),
    (
        PAPER,
        ("trainer", "strategy"),
        "dp",
        f"{PAPER}: trainer.strategy: 'dp' is not allowed; allowed: ddp, fsdp; did you mean ddp?",
    ),
    (
        PAPER,
        ("methods", "plain", "starts_from"),
        {"method": "plain"},
        f"{PAPER}: methods.plain.starts_from.method: a method can't start from itself",
    ),
    (
        PAPER,
        ("methods", "plain", "starts_from"),
        {"method": "refine"},
        f"{PAPER}: methods.plain.starts_from.method: unknown method 'refine'; allowed: plain, "
        "refined, still; did you mean refined?",
    ),
    (
        PAPER,
        ("methods", "plain", "starts_from"),
        {"method": "still", "seed": 2},
        f"{PAPER}: methods.plain.starts_from.seed: still has seeds 0 to 0, 2 is needed",
    ),
    (
        PAPER,
        ("evaluate", "steps"),
        19,
        f"{PAPER}: evaluate.steps: 19 steps of 4 frames from frame 4 need 81 test frames of "
        "waves, allowed: 80",
    ),
    (
        PAPER,
        ("evaluate", "trajectories"),
        5,
        f"{PAPER}: evaluate.trajectories: must be at most 4, the test trajectories of waves, is 5",
    ),
    (
        PAPER,
        ("evaluate", "keep"),
        5,
        f"{PAPER}: evaluate.keep: must be at most evaluate.trajectories (4)",
    ),
    (
        PAPER,
        ("evaluate", "members"),
        1,
        f"{PAPER}: evaluate.members: must be at least 2, claims.spread needs an ensemble",
    ),
    (
        PAPER,
        ("methods", "plain", "history"),
        3,
        f"{PAPER}: evaluate.start: must be at least 8, the last frame that plain sees, is 4",
    ),
    (
        PAPER,
        ("methods", "plain", "training"),
        {"name": "unrolled", "unroll": 15},
        f"{PAPER}: methods.plain.training.unroll: a window of 1 + 15 frames 4 apart needs 61 "
        "frames of waves, allowed: 60",
    ),
    (
        PAPER,
        ("claims", "longer", "metric"),
        "corelation_time_0.8",
        f"{PAPER}: claims.longer.metric: 'corelation_time_0.8' is not allowed; allowed: ...",
    ),
    (
        PAPER,
        ("claims", "longer", "r_squared"),
        {"holds": 0.5, "direction": "above"},
        f"{PAPER}: claims.longer: allowed: ratio or value or slope or updates or r_squared or "
        "rank_correlation, exactly one",
    ),
    (
        PAPER,
        ("claims", "longer", "against"),
        ...,
        f"{PAPER}: claims.longer.against: is missing; ratio needs it",
    ),
    (
        PAPER,
        ("claims", "longer", "ratio"),
        {"holds": 1.05},
        f"{PAPER}: claims.longer.ratio.direction: is missing",
    ),
    (
        PAPER,
        ("claims", "longer", "ratio", "holds"),
        0,
        f"{PAPER}: claims.longer.ratio.holds: must be more than 0, is 0",
    ),
    (
        PAPER,
        ("claims", "longer", "explains"),
        "nrmse",
        f"{PAPER}: claims.longer.explains: has no effect beside ratio",
    ),
    (
        PAPER,
        ("claims", "spread", "statistic"),
        "median",
        f"{PAPER}: claims.spread.statistic: has no effect beside r_squared",
    ),
    (
        PAPER,
        ("claims", "longer", "over"),
        "min",
        f"{PAPER}: claims.longer.over: has no effect of one method",
    ),
    (
        PAPER,
        ("claims", "longer", "of"),
        ["refined", "still"],
        f"{PAPER}: claims.longer.over: is missing; several methods need it",
    ),
    (
        PAPER,
        ("claims", "longer", "main"),
        False,
        f"{PAPER}: claims: one claim must say main: true, found: none",
    ),
    (
        PAPER,
        ("claims", "spread", "main"),
        True,
        f"{PAPER}: claims: one claim must say main: true, found: longer, spread",
    ),
    (
        PAPER,
        ("claims", "longer", "at"),
        {"dataset": "wave"},
        f"{PAPER}: claims.longer.at.dataset: unknown dataset 'wave'; allowed: waves; did "
        "you mean waves?",
    ),
    (
        PAPER,
        ("claims", "longer", "at"),
        {"nfe": 4},
        f"{PAPER}: claims.longer.at.nfe: unknown key 'nfe'; allowed: dataset, stage, step",
    ),
    (
        PAPER,
        ("claims", "order"),
        {
            "says": "...",
            "metric": "nrmse",
            "of": "plain",
            "slope": {"along": "width", "holds": 1, "direction": "above"},
        },
        f"{PAPER}: claims.order.of: must be methods that differ in width",
    ),
    (
        PAPER,
        ("claims", "order"),
        {
            "says": "...",
            "metric": "nrmse",
            "of": ["plain", "refined"],
            "slope": {"along": "target", "holds": 1, "direction": "above"},
        },
        f"{PAPER}: claims.order.slope.along: must be step, stage or an option with a "
        "positive number, is 'target'",
    ),
    (
        PAPER,
        ("claims", "sooner"),
        {
            "says": "...",
            "metric": "nrmse",
            "of": "plain",
            "against": "refined",
            "updates": {"holds": 1, "direction": "below"},
        },
        f"{PAPER}: claims.sooner.metric: unknown metric 'nrmse'; allowed: field_error, "
        "increment_error, noise_error",
    ),
    (
        PAPER,
        ("claims", "spread"),
        {
            "says": "...",
            "metric": "predictability",
            "of": ["plain", "refined"],
            "over": "mean",
            "explains": "nrmse",
            "r_squared": {"holds": 0.5, "direction": "above"},
        },
        f"{PAPER}: claims.spread.over: must be min or max beside r_squared: scores are of one run",
    ),
    (
        PAPER,
        ("claims", "longer", "at"),
        {"step": 11},
        f"{PAPER}: claims.longer.at.step: must be at most evaluate.steps (10)",
    ),
    (
        PAPER,
        ("train",),
        ["waves"],
        f"{PAPER}: train: dataset is short for train and test: give it or them",
    ),
    (PAPER, ("dataset",), ..., f"{PAPER}: dataset: is missing; give dataset, or train and test"),
    # the layer at fault
    (
        PAPER,
        ("presets", "smoke", "trainer"),
        {"batch_size": 0},
        f"{PAPER}: presets.smoke.trainer.batch_size: must be at least 1, is 0",
    ),
    (
        PAPER,
        ("presets", "smoke", "methods", "plan"),
        None,
        f"{PAPER}: presets.smoke.methods.plan: null drops nothing; allowed: plain, refined, "
        "still; did you mean plain?",
    ),
    (
        "configs/presets/smoke.yaml",
        ("trainer", "accelerator"),
        "cuda",
        "configs/presets/smoke.yaml: trainer.accelerator: 'cuda' is not allowed; allowed: auto, "
        "cpu, gpu",
    ),
    (
        "configs/presets/smoke.yaml",
        ("dataset",),
        "waves",
        "configs/presets/smoke.yaml: dataset: unknown key; allowed: evaluate, halve, seeds, "
        "tracking, trainer",
    ),
    (
        "configs/config.yaml",
        ("experiments",),
        ["papers"],
        "configs/config.yaml: experiments.0: unknown experiment 'papers'; allowed: paper; "
        "did you mean paper?",
    ),
    (
        "configs/config.yaml",
        ("preset",),
        "smole",
        "configs/config.yaml: preset: unknown preset 'smole'; allowed: gpu, smoke; "
        "did you mean smoke?",
    ),
    (
        "configs/config.yaml",
        ("tracking",),
        "of",
        "configs/config.yaml: tracking: 'of' is not allowed; allowed: disabled, offline, online",
    ),
]


@pytest.mark.parametrize(("file", "key", "value", "line"), REFUSALS)
def test_refusals_are_one_line_with_file_key_and_what_is_allowed(tree, file, key, value, line):
    tree(file, key, value)
    said = refused(config.compose, ROOT, "paper", "smoke")
    if line.endswith("..."):  # a long list of options follows
        assert said.startswith(line[:-3])
    else:
        assert said == line


@pytest.fixture
def two(tree):
    """A second experiment, whose method starts from one of the first."""
    second = Path("configs/experiments/tuned.yaml")
    shutil.copy(PAPER, second)
    tree(second, ("methods", "plain", "starts_from"), {"experiment": "paper", "method": "refined"})
    return tree


def test_a_method_may_start_from_another_experiment(two):
    spec = config.compose(ROOT, "tuned", "smoke")
    start = config.method_spec(spec, "plain")["starts_from"]
    assert start == {"experiment": "paper", "method": "refined"}
    # though its namesake there starts from it: they are different runs
    two(PAPER, ("methods", "refined", "starts_from"), {"experiment": "tuned", "method": "still"})
    config.compose(ROOT, "tuned", "smoke")


@pytest.mark.parametrize(
    ("start", "problem"),
    [
        (
            {"experiment": "papr", "method": "refined"},
            "experiment: unknown experiment 'papr'; allowed: paper; did you mean paper?",
        ),
        (  # its own is in no claim
            {"experiment": "tuned", "method": "refined"},
            "experiment: unknown experiment 'tuned'; allowed: paper",
        ),
        (
            {"experiment": "paper", "method": "refine"},
            "method: unknown method 'refine'; allowed: plain, refined, still; did you mean "
            "refined?",
        ),
        (
            {"experiment": "paper", "method": "still", "seed": 1},
            "seed: still has seeds 0 to 0, 1 is needed",
        ),
    ],
)
def test_starts_from_elsewhere_that_lead_nowhere_are_refused(two, start, problem):
    file = Path("configs/experiments/tuned.yaml")
    two(file, ("methods", "plain", "starts_from"), start)
    said = refused(config.compose, ROOT, "tuned", "smoke")
    assert said == f"{file}: methods.plain.starts_from.{problem}"


@pytest.fixture
def borrower(tree):
    """A second experiment, one of whose methods is a run of the first."""
    second = Path("configs/experiments/second.yaml")
    shutil.copy(PAPER, second)
    tree(second, ("methods", "plain"), {"run_of": {"experiment": "paper", "method": "refined"}})
    tree(second, ("presets",), {})
    return lambda key, value: tree(second, key, value)


def test_a_borrowed_run_is_the_other_experiments(borrower):
    spec, paper = (config.compose(ROOT, name, "smoke") for name in ("second", "paper"))
    assert config.method_spec(spec, "plain") == config.method_spec(paper, "refined")
    folders = {run.folder for run in config.runs(spec, Path("results/smoke/second"))}
    assert Path("results/smoke/paper/refined/seed0") in folders
    assert Path("results/smoke/second/refined/seed0") in folders
    assert not [folder for folder in folders if "plain" in folder.parts]
    assert config.figures(spec) == config.figures(paper)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        (("evaluate", "steps"), 9, "plain.run_of: is scored otherwise: steps is 10 there, 9 here"),
        (
            ("methods", "plain", "run_of", "method"),
            "refine",
            "plain.run_of.method: unknown method 'refine'; allowed: plain, refined, still; did you "
            "mean refined?",
        ),
        (
            ("methods", "plain", "run_of", "experiment"),
            "second",
            "plain.run_of.experiment: unknown experiment 'second'; allowed: paper",
        ),
        (
            ("methods", "plain", "width"),
            8,
            "plain.width: has no effect beside run_of: the run is made elsewhere",
        ),
        (
            ("methods", "refined", "starts_from"),
            {"method": "plain"},
            "refined.starts_from.method: is a borrowed run; name the experiment that makes it",
        ),
        (("methods", "still", "name"), ..., "still.name: is missing"),
    ],
)
def test_a_run_that_is_no_other_ones_equal_is_not_borrowed(borrower, key, value, problem):
    borrower(key, value)
    said = refused(config.compose, ROOT, "second", "smoke")
    assert said == f"configs/experiments/second.yaml: methods.{problem}"


def test_cycles_are_refused(tree):
    tree(PAPER, ("methods", "plain", "starts_from"), {"method": "refined"})
    tree(PAPER, ("methods", "refined", "starts_from"), {"method": "plain"})
    assert refused(config.compose, ROOT, "paper", "smoke") == (
        f"{PAPER}: methods.plain.starts_from.method: a method can't start from itself"
    )


@pytest.mark.parametrize(
    ("experiment", "claim", "at", "problem"),
    [
        ("rectified_flow", "one_step", {"nfe": 3}, "nfe: unknown nfe 3; allowed: "),
        ("noda", "forecast_early", {"measured": 11}, "measured: unknown measured 11; allowed: 0, "),
        ("noda", "forecast_early", {"stage": 0}, "stage: unknown key 'stage'; allowed: "),
    ],
)
def test_a_claim_is_about_what_is_scored(pytestconfig, experiment, claim, at, problem):
    configs = pytestconfig.rootpath / "configs"
    changes = {"claims": {claim: {"at": at}}}
    said = refused(config.compose, configs, experiment, "cpu", changes)
    assert f"claims.{claim}.at.{problem}" in said


@pytest.mark.parametrize("name", ["../paper", "paper/../paper", "Paper", "", "papers"])
def test_names_never_leave_their_folder(tree, name):
    assert refused(config.compose, ROOT, name, "smoke").startswith(
        f"configs/experiments: {name}: no such experiment; allowed: paper"
    )
    assert "no such preset" in refused(config.compose, ROOT, "paper", name)
    assert "no such dataset" in refused(config.compose_dataset, ROOT, name, "smoke")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: {c: 1, c: 2}\n", "line 2: key 'c' is given twice"),
        ("a: 1\na: 2\n", "line 2: key 'a' is given twice"),
        ("1: a\n", "line 1: a key must be text"),
        ("- a\n", "must be a mapping of keys to values"),
        ("a: [1\n", "line 2: did not find expected ',' or ']'"),
        ("a: !!python/name:os.system x\n", "line 1: tags such as tag:yaml.org,2002:python/name"),
    ],
)
def test_broken_yaml_is_one_line(tmp_path, text, line):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    assert refused(config.load, path).startswith(f"{path}: {line}")


def test_missing_and_binary_files_are_one_line(tmp_path):
    path = tmp_path / "x.yaml"
    assert refused(config.load, path) == f"{path}: No such file or directory"
    path.write_bytes(b"\xff\xfe\x00")
    assert refused(config.load, path) == f"{path}: is not text in UTF-8"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1.0e-4", 1e-4),
        (".5", 0.5),
        ("-3.", -3.0),
        ("900_000", 900000),
        ("010", 10),
        ("-7", -7),
        ("no", "no"),
        ("true", True),
        ("null", None),
        ("2020-01-01", "2020-01-01"),
        ("1:30", "1:30"),
        (".inf", ".inf"),
        ("'1'", "1"),
    ],
)
def test_scalars_are_those_of_json(tmp_path, text, value):
    path = tmp_path / "x.yaml"
    path.write_text(f"a: {text}\n")
    read = config.load(path)["a"]
    assert read == value and type(read) is type(value)


def test_load_gives_a_fresh_copy(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("a: {b: [1]}\n")
    config.load(path)["a"]["b"].append(2)
    assert config.load(path) == {"a": {"b": [1]}}


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
keys = st.sampled_from("abcd")
trees = st.recursive(
    leaves | st.lists(leaves, max_size=2),
    lambda inner: st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
dicts = st.dictionaries(keys, trees, max_size=3)
# lower-case keys hold leaves, upper-case keys hold mappings: the shapes of all trees agree
shaped = st.dictionaries(keys, leaves, max_size=3).flatmap(
    lambda low: st.dictionaries(
        st.sampled_from("AB"), st.dictionaries(keys, leaves, max_size=3), max_size=2
    ).map(lambda high: low | high)
)
few = settings(deadline=None, max_examples=50)


@few
@given(dicts, dicts)
def test_merge_is_idempotent_with_identity(a, b):
    assert config.merge(a, a) == a
    assert config.merge(a, {}) == a
    assert config.merge({}, a) == a
    once = config.merge(a, b)
    assert config.merge(once, b) == once


@few
@given(shaped, shaped, shaped)
def test_merge_is_associative_where_shapes_agree(a, b, c):
    assert config.merge(config.merge(a, b), c) == config.merge(a, config.merge(b, c))


@few
@given(dicts, dicts)
def test_merge_changes_and_shares_nothing(a, b):
    before = json.dumps([a, b])
    merged = config.merge(a, b)
    for value in merged.values():
        if isinstance(value, list | dict):
            value.clear()
    assert json.dumps([a, b]) == before


@few
@given(dicts)
def test_canonical_knows_no_order(a):
    def turned(value):
        if isinstance(value, dict):
            return {k: turned(v) for k, v in reversed(value.items())}
        return value

    assert config.canonical(turned(a)) == config.canonical(a)
    assert config.fingerprint(turned(a)) == config.fingerprint(a)
    assert json.loads(config.canonical(a)) == a
    assert len(config.fingerprint(a)) == 12


def test_the_schemas_for_editors_are_those_of_the_models(pytestconfig):
    folder = pytestconfig.rootpath / "workflow/schemas"
    written = {file.stem: json.loads(file.read_text("utf-8")) for file in folder.glob("*.json")}
    assert written == schemas()


@pytest.mark.parametrize("name", ["dataset", "experiment", "preset"])
def test_an_editor_finds_no_fault_in_what_is_shipped(pytestconfig, name):
    validator = jsonschema.Draft202012Validator(schemas()[name])
    files = sorted((pytestconfig.rootpath / "configs" / f"{name}s").glob("*.yaml"))
    assert files
    for file in files:
        assert not [error.message for error in validator.iter_errors(config.load(file))], file
    broken = config.load(files[0]) | {"sedes": 1}
    assert [error.validator for error in validator.iter_errors(broken)] == ["additionalProperties"]


def test_every_task_has_its_options_and_metrics():
    assert registry.names("config/tasks") == registry.names("tasks")


def test_importing_the_configuration_stays_light():
    code = "import sys, longrun.config; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["torch", "numpy", "pandas", "zarr", "pytorch_lightning", "wandb", "snakemake"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_half_the_updates_of_what_learns(root):
    configs = root / "configs"
    spec = config.compose(configs, "pde_refiner", "cpu")
    halves = config.halves(spec)
    learns = {name for name in spec["methods"] if config.method_spec(spec, name)["seeds"] > 1}
    assert halves.keys() == learns and "persistence" not in learns
    run = config.compose_run(configs, "pde_refiner", "cpu", "unet", halves["unet"])
    steps = [config.method_spec(one, "unet")["trainer"]["max_steps"] for one in (spec, run)]
    assert steps[1] == steps[0] // 2
    epochs = config.compose(configs, "mgno", "gpu")
    assert config.halves(epochs)["mgno"]["trainer.max_epochs"] == 50
    assert config.halves(config.compose(configs, "pde_refiner", "smoke")) == {}
    assert config.halves(config.compose(configs, "learning_to_relax", "cpu")) == {}


def test_a_training_that_is_halved_ends_with_a_validation(tree):
    tree("configs/presets/smoke.yaml", ("seeds",), 3)
    tree(PAPER, ("halve",), True)
    tree(PAPER, ("trainer", "validate_every"), 5)
    tree(PAPER, ("methods", "refined", "trainer"), {"max_steps": 10})
    halves = config.halves(config.compose(Path("configs"), "paper", "smoke"))
    assert halves.keys() == {"plain", "refined"}
    for method, half in halves.items():  # which validates once
        config.compose_run(Path("configs"), "paper", "smoke", method, half)
    tree(PAPER, ("methods", "refined", "trainer"), {"max_steps": 7})
    with pytest.raises(config.ConfigError, match=r"must divide max_steps \(7\) with halve: true"):
        config.compose(Path("configs"), "paper", "smoke")
