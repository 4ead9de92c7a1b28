"""Sweeps: the written file, how wandb's agent runs it, and the grid that Snakemake trains."""

import re
import sys

import pandas as pd
import pytest
import yaml
from conftest import OWN, Tree
from stores import make

from longrun import config, rank, sweep, train
from longrun.runtime import checkpoint
from longrun.runtime.cli import UserError


@pytest.fixture
def say(monkeypatch, root):
    """Call the verb as a command line does, on the repository's configs."""

    def call(output, *words, method="unet"):
        start = ["--experiment", "pde_refiner", "--method", method, "--preset", "smoke"]
        start += ["--configs", str(root / "configs"), "--output", str(output)]
        monkeypatch.setattr(sys, "argv", ["sweep", *start, *words])
        sweep.main()
        return yaml.safe_load(output.read_text())  # as wandb reads it

    return call


def test_the_file_is_one_of_wandbs(say, tmp_path):
    content = say(tmp_path / "x.yaml", "--key", "width=4,8", "--key", "learning_rate=1e-3,3.0e-5")
    # the keys of wandb's own schema; others it refuses
    assert set(content) == {"name", "method", "metric", "parameters", "command"}
    assert content["method"] == "grid"
    assert content["metric"] == {"name": "valid/increment_error", "goal": "minimize"}
    assert content["parameters"]["width"] == {"values": [4, 8]}
    assert content["parameters"]["learning_rate"] == {"values": [1e-3, 3e-5]}


def test_intervals_are_wandbs_distributions(say, tmp_path):
    key = "learning_rate={log_uniform: [1e-4, 1e-2]}"
    content = say(tmp_path / "x.yaml", "--key", key, "--search", "bayes")
    assert content["parameters"]["learning_rate"] == {
        "distribution": "log_uniform_values",
        "min": 1e-4,
        "max": 1e-2,
    }
    with pytest.raises(UserError, match="learning_rate is drawn from an interval"):
        list(sweep.read(tmp_path / "x.yaml").points())


def test_what_wandbs_agent_starts_is_a_run_of_that_point(say, tmp_path, root):
    """By the functions of wandb that fill in the command."""
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    keys = ["multipliers=[1, 2],[1]", "learning_rate=1e-5", "normalise=true,false", "history=1"]
    content = say(tmp_path / "x.yaml", *(word for key in keys for word in ("--key", key)))
    for point in sweep.read(tmp_path / "x.yaml").points():
        given = {"args": {key: {"value": value} for key, value in point.items()}}
        made = utils.create_sweep_command_args(given)["args_no_hyphens"]
        command = utils.create_sweep_command(content["command"])
        where = command.index("${args_no_hyphens}")
        words = [*command[:where], *made, *command[where + 1 :]]
        start = words.index("longrun.train") + 1
        assert "WANDB_MODE=online" in words[:start]
        options = train.parser().parse_args(words[start:])
        assert (options.experiment, options.method, options.seed) == ("pde_refiner", "unet", 0)
        assert config.changes(options.set) == point  # with lists, numbers and booleans
        run = root / "configs", "pde_refiner", "smoke", "unet", config.changes(options.set)
        entry = config.compose_run(*run)["methods"]["unet"]
        assert {key: entry[key] for key in point} == point


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--key", "widht=4,8"], r"methods\.unet\.widht: unknown key; .*did you mean width\?"),
        (["--key", "width=4,big"], r"methods\.unet\.width: must be int, is 'big'"),
        (["--key", "trainer.batch_size=0"], r"methods\.unet\.trainer\.batch_size: "),
        (["--key", "width"], "must be key=value,value"),
        (["--key", "width=4,4"], "each once"),
        (["--key", "width=4", "--key", "width=8"], "given twice"),
        (["--key", "width=[4"], "can't be read"),
        (["--key", "learning_rate={uniform: [2, 1]}"], "low, high"),
        (["--key", "learning_rate={uniform: [1, 2]}"], "a grid needs values"),
        (
            ["--key", "width=4", "--metric", "valid/loss"],
            "allowed: valid/field_error, valid/increment_error, valid/noise_error",
        ),
    ],
)
def test_what_cannot_be_swept_is_refused_in_one_line(say, tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        say(tmp_path / "x.yaml", *words)
    assert not (tmp_path / "x.yaml").exists()


def test_an_unknown_method_and_a_bad_name_are_refused(say, tmp_path):
    with pytest.raises(UserError, match="did you mean unet"):
        say(tmp_path / "x.yaml", "--key", "width=4", method="unett")
    with pytest.raises(UserError, match="lower-case"):
        say(tmp_path / "Of-Mine.yaml", "--key", "width=4")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"command": ["python"]}, "--experiment is missing"),
        ({"metric": "loss"}, "metric: must have a name"),
        ({"parameters": {}}, "must have a key"),
        ({"parameters": {"width": 3}}, r"parameters\.width: must have values"),
    ],
)
def test_a_file_that_was_edited_badly_is_refused_with_its_name(say, tmp_path, change, message):
    file = tmp_path / "x.yaml"
    file.write_text(yaml.safe_dump(say(file, "--key", "width=4") | change))
    with pytest.raises(UserError, match=rf"x\.yaml: .*{message}"):
        sweep.read(file)


def test_settings_of_a_command_line():
    assert config.changes(["width=4", "trainer.clip=None", "normalise=True", "name_2=no"]) == {
        "width": 4,
        "trainer.clip": None,
        "normalise": True,
        "name_2": "no",
    }
    for wrong in ("width", "Width=3", "a..b=1", "../x=1"):
        with pytest.raises(UserError, match="must be key=value"):
            config.changes([wrong])
    with pytest.raises(UserError, match="given twice"):
        config.changes(["a=1", "a=2"])
    assert config.of_method("unet", {"trainer.clip": 1, "trainer.devices": 2, "width": 4}) == {
        "methods": {"unet": {"trainer": {"clip": 1, "devices": 2}, "width": 4}}
    }


def write_curves(results, swept, values):
    for point, value in zip(swept.points(), values, strict=True):
        run = config.run_folder("smoke", "pde_refiner", "unet", 0, point)
        (results / run).mkdir(parents=True)
        rows = [(10, "valid/increment_error", 0.0), (20, "train/loss", 0.0)]
        rows += [(20, "valid/increment_error", value)]
        table = pd.DataFrame(rows, columns=["step", "metric", "value"])
        table.to_csv(results / run / "curves.csv", index=False)


def test_points_are_sorted_by_their_last_value_on_validation_data(say, tmp_path):
    say(tmp_path / "x.yaml", "--key", "width=2,4,8,16", "--key", "multipliers=[1]")
    swept = sweep.read(tmp_path / "x.yaml")
    write_curves(tmp_path / "results", swept, [0.3, float("nan"), 0.1, 0.2])
    table = rank.rank(swept, tmp_path / "results", "smoke")
    assert table["width"].tolist() == [8, 16, 2, 4]
    assert table["value"].tolist()[:3] == [0.1, 0.2, 0.3] and pd.isna(table["value"][3])
    assert set(table["step"]) == {20} and set(table["multipliers"]) == {"[1]"}
    best = tmp_path / "results" / table["folder"][0] / "curves.csv"
    best.write_text("step,metric,value\n1,train/loss,1.0\n")
    with pytest.raises(UserError, match=r"has no valid/increment_error; it has train/loss"):
        rank.rank(swept, tmp_path / "results", "smoke")
    best.unlink()
    with pytest.raises(UserError, match=r"longrun\.train writes it"):
        rank.rank(swept, tmp_path / "results", "smoke")


def test_what_a_command_line_leaves_out_is_where_the_workflow_has_it(root):
    words = "--experiment pde_refiner --method coarse_equal_cost --seed 0 --preset smoke"
    for settings, point in (([], []), (["width=4"], [config.fingerprint({"width": 4})])):
        arguments = train.parser().parse_args(
            [*words.split(), *(["--set", *settings] if settings else [])]
        )
        experiment = config.compose(root / "configs", "pde_refiner", "smoke")
        spec = config.method_spec(experiment, "coarse_equal_cost")
        train.fill_paths(arguments, spec, config.changes(settings))
        run = "/".join(["smoke/pde_refiner/coarse_equal_cost", *point, "seed0"])
        assert [str(path) for path in arguments.data] == ["data/smoke/kuramoto_sivashinsky.zarr"]
        assert str(arguments.output) == f"results/{run}/model.ckpt"
        assert str(arguments.run_dir) == f"runs/{run}"
        start = "results/smoke/pde_refiner/pde_refiner/seed0/model.ckpt"
        assert [str(path) for path in arguments.starts_from] == [start]


@pytest.mark.slow
@pytest.mark.xdist_group("workflow")
def test_snakemake_trains_the_grid_without_test_data(root, tmp_path):
    """Two points on an existing store, by the target that the verb names."""
    tree = Tree.of_repository(root, tmp_path, programs=OWN)
    splits = {name: {"trajectories": 4, "frames": 60} for name in ("train", "valid", "test")}
    store = tmp_path / "data/smoke/kuramoto_sivashinsky.zarr"
    make(store, space=(32,), splits=splits, equation="kuramoto_sivashinsky")
    words = "--experiment pde_refiner --method unet --preset smoke --key width=4,8"
    done = tree.python("-m", "longrun.sweep", *words.split(), "--key", "trainer.max_steps=8")
    assert done.returncode == 0, done.stdout
    (target,) = re.findall(r"-- (sweep\.\w+)$", done.stdout, re.M)
    done = tree.snakemake(target)
    assert done.returncode == 0, done.stdout
    table = pd.read_csv(tmp_path / "results/smoke/sweeps/pde_refiner_unet.csv")
    assert sorted(table["width"]) == [4, 8] and table["value"].is_monotonic_increasing
    assert table["value"].notna().all() and (table["trainer.max_steps"] == 8).all()
    for width, folder in zip(table["width"], table["folder"], strict=True):
        point = {"width": width, "trainer.max_steps": 8}
        assert folder == str(config.run_folder("smoke", "pde_refiner", "unet", 0, point))
        content = checkpoint.read(tmp_path / "results" / folder / "model.ckpt")
        assert (content["arguments"]["width"], content["updates"]) == (width, 8)
    assert not [*tmp_path.rglob("scores.parquet")]
    assert "Nothing to be done" in tree.snakemake("--dry-run", target).stdout
