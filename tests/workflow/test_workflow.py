"""What the graph reruns, seen in dry runs. Stand-ins for the verbs write the outputs at once."""

import re
import sys
from pathlib import Path

import pytest
import synthetic
import yaml
from stand_in import comment, edit, figures

from longrun import config

DATA = {"simulate", "measure", "generate"}  # in two jobs at preset smoke
pytestmark = pytest.mark.xdist_group("workflow")


@pytest.fixture
def tree(finished, tmp_path):
    """A finished tree to edit."""
    return finished.copy(tmp_path / "tree")


def jobs(tree, *arguments, **settings):
    """Jobs of a dry run: (rule, wildcards as a dict, resources), without the target `all`."""
    done = tree.snakemake("--dry-run", *arguments, **settings)
    assert done.returncode == 0, done.stdout
    found = []
    for rule, lines in re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", done.stdout, re.M):
        entries = dict(re.findall(r"^    (\w+): (.*)$", lines, re.M))
        pairs = (entry.split("=") for entry in entries.get("wildcards", "").split(", ") if entry)
        if rule != "all":
            found.append((rule, dict(pairs), entries))
    assert found or "Nothing to be done" in done.stdout
    return found


def rules(found):
    return {rule for rule, _, _ in found}


def test_a_finished_workflow_has_nothing_to_do(finished):
    assert jobs(finished) == []


def test_commands_name_what_the_rule_declares(finished):
    """The stand-in prints its command line: the log shows what a person types."""
    log = finished.folder / "logs/smoke/pde_refiner/coarse_equal_cost/seed0/train.log"
    words = log.read_text().split()
    assert words[:2] == ["-m", "longrun.train"]
    assert words[words.index("--data") + 1] == "data/smoke/kuramoto_sivashinsky.zarr"
    start = "results/smoke/pde_refiner/pde_refiner/seed0/model.ckpt"
    assert words[words.index("--starts-from") + 1] == start
    others = finished.folder.glob("logs/smoke/pde_refiner/unet/seed*/train.log")
    assert not any("--starts-from" in other.read_text() for other in others)


def test_every_output_lies_under_its_preset(finished):
    for folder in ("data", "results", "logs", "benchmarks"):
        assert [path.name for path in (finished.folder / folder).iterdir()] == ["smoke"]


def test_an_edited_method_reruns_its_runs_and_what_rests_on_them(tree):
    comment(tree.folder / "src/longrun/methods/forecast/pde_refiner.py")
    found = jobs(tree)
    spec = config.compose(tree.folder / "configs", "pde_refiner", "smoke")
    own = {name for name, entry in spec["methods"].items() if entry["name"] == "pde_refiner"}
    based = {
        name
        for name, entry in spec["methods"].items()
        if entry.get("starts_from", {}).get("method") in own
    }
    assert own and based
    assert set(spec["methods"]) - own - based  # there are others, to be left alone
    for rule in ("train", "evaluate"):
        assert {wild["method"] for name, wild, _ in found if name == rule} == own | based
    assert rules(found) == {"train", "evaluate", "judge", "plot", "tabulate"}


def test_an_edited_equation_reruns_its_data(tree):
    comment(tree.folder / "src/longrun/equations/kuramoto_sivashinsky.py")
    assert rules(jobs(tree)) >= DATA


def test_shared_code_reruns_nothing(tree):
    """A refactoring must not retrain the world: `snakemake --forcerun train` does it on purpose."""
    for file in ("train.py", "data/store.py", "tasks/forecast.py", "figures/_style.py"):
        comment(tree.folder / "src/longrun" / file)
    assert jobs(tree) == []


def test_a_comment_in_the_yaml_files_reruns_nothing(tree):
    files = [*(tree.folder / "configs").rglob("*.yaml"), tree.folder / "environment.yml"]
    assert len(files) > 4
    for file in files:
        comment(file)
    assert jobs(tree) == []


def test_order_and_notation_in_the_yaml_files_rerun_nothing(tree):
    for kind in ("experiments", "datasets"):
        for file in (tree.folder / "configs" / kind).glob("*.yaml"):
            content = config.load(file)
            file.write_text(yaml.safe_dump(dict(sorted(content.items())), sort_keys=False))
    assert rules(jobs(tree)) <= {"judge", "plot", "tabulate"}


def test_a_changed_trainer_reruns_no_data(tree):
    def change(content):
        content["presets"]["smoke"]["trainer"]["log_every"] = 7

    edit(tree.folder / "configs/experiments/pde_refiner.yaml", change)
    found = rules(jobs(tree))
    assert "train" in found
    assert not DATA & found


def test_a_changed_rollout_reruns_no_training(tree):
    def change(content):
        content["presets"]["smoke"]["evaluate"]["steps"] -= 1

    edit(tree.folder / "configs/experiments/pde_refiner.yaml", change)
    assert rules(jobs(tree)) == {"evaluate", "judge", "plot", "tabulate"}


def test_a_changed_claim_reruns_no_rollout(tree):
    def change(content):
        content["claims"]["longer_horizon"]["ratio"]["holds"] = 1.2

    edit(tree.folder / "configs/experiments/pde_refiner.yaml", change)
    assert rules(jobs(tree)) == {"judge", "plot", "tabulate"}


def test_a_changed_dataset_reruns_everything(tree):
    def change(content):
        content["seed"] += 1

    edit(tree.folder / "configs/datasets/kuramoto_sivashinsky.yaml", change)
    assert rules(jobs(tree)) == {*DATA, "train", "evaluate", "judge", "plot", "tabulate"}


def test_a_large_dataset_is_made_in_parts(fresh, tmp_path):
    tree = fresh.copy(tmp_path / "tree")
    file = tree.folder / "configs/datasets/kuramoto_sivashinsky.yaml"
    edit(file, lambda content: content["presets"]["smoke"].update(jobs=3))
    found = jobs(tree)
    assert {wild["part"] for rule, wild, _ in found if rule == "simulate"} == {"0", "1", "2"}
    assert "measure" in rules(found)
    store = "data/smoke/kuramoto_sivashinsky.zarr"
    done = tree.snakemake(store)
    assert done.returncode == 0, done.stdout
    words = (tree.folder / "logs/smoke/generate/kuramoto_sivashinsky.log").read_text().split()
    parts = [f"data/smoke/parts/kuramoto_sivashinsky/{n}" for n in (0, 1, 2, "error.json")]
    assert words[words.index("--parts") + 1 :] == parts
    assert not (tree.folder / "data/smoke/parts").exists()  # they are in the store now


def test_every_dataset_can_be_asked_for(fresh):
    done = fresh.snakemake("datasets", "--dry-run")
    assert done.returncode == 0, done.stdout
    drawn = set(re.findall(r"output: results/smoke/datasets/(\w+)\.png", done.stdout))
    assert drawn == set(config.datasets(fresh.folder / "configs"))


@pytest.mark.parametrize(
    ("target", "planned"),
    [
        ("pde_refiner", {*DATA, "train", "evaluate", "judge", "plot"}),
        ("pde_refiner.unet", {*DATA, "train", "evaluate"}),
        ("pde_refiner.spectra.svg", {*DATA, "train", "evaluate", "judge", "plot"}),
    ],
)
def test_an_experiment_a_method_and_a_figure_can_be_asked_for(fresh, target, planned):
    done = fresh.snakemake("--dry-run", target)
    assert done.returncode == 0, done.stdout
    found = set(re.findall(r"^(?:local)?rule (\S+):$", done.stdout, re.M))
    assert found | DATA == planned | {target}
    trained = set(re.findall(r"wildcards: .*method=(\w+)", done.stdout))
    assert (trained == {"unet"}) == (target == "pde_refiner.unet")


def test_a_name_that_is_no_target_is_refused_with_the_nearest(fresh):
    done = fresh.snakemake("--dry-run", "pde_refiner.unte")
    assert done.returncode != 0
    assert "pde_refiner.unte: no such target at preset smoke" in done.stdout
    assert "did you mean pde_refiner.unet?" in done.stdout
    assert "did you mean pde_refiner?" in fresh.snakemake("--dry-run", "pde_refinr").stdout
    done = fresh.snakemake("--dry-run", "data/smoke/darcy_3.zarr")
    assert "did you mean darcy_32?" in done.stdout
    done = fresh.snakemake("--dry-run", "results/smoke/pde_refiner/unte/seed0/scores.parquet")
    assert "pde_refiner: no method unte at preset smoke" in done.stdout
    assert "did you mean unet?" in done.stdout


def test_all_papers_are_those_of_the_folder_whatever_the_settings_name(fresh):
    done = fresh.snakemake("all_papers", "--dry-run")  # config.yaml names one experiment
    assert done.returncode == 0, done.stdout
    judged = set(re.findall(r"output: results/smoke/(\w+)/claims.json", done.stdout))
    assert judged == set(config.experiments(fresh.folder / "configs"))
    assert re.findall(r"^(?:local)?rule (tabulate):$", done.stdout, re.M) == ["tabulate"]


def test_an_experiment_may_not_have_the_name_of_a_rule(fresh, tmp_path):
    tree = fresh.copy(tmp_path / "tree")
    experiments = tree.folder / "configs/experiments"
    (experiments / "train.yaml").write_text((experiments / "pde_refiner.yaml").read_text())
    done = tree.snakemake("--dry-run")
    assert done.returncode != 0
    assert "experiments/train.yaml: the name is that of a rule" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_broken_experiment_is_refused_only_where_it_is_asked_for(fresh, tmp_path):
    tree = fresh.copy(tmp_path / "tree")
    edit(tree.folder / "configs/experiments/cape.yaml", lambda c: c.update(sedes=1))
    assert tree.snakemake("--dry-run", "--quiet").returncode == 0
    done = tree.snakemake("--dry-run", "cape")
    assert done.returncode != 0
    assert "sedes: unknown key" in done.stdout and "did you mean seeds?" in done.stdout


def test_outcomes_are_logged_where_tracking_is_on_and_only_there(finished, tmp_path):
    tree = finished.copy(tmp_path / "tree")
    tree.tracking = "offline"
    found = jobs(tree)  # all else is done
    assert [(rule, wild["experiment"]) for rule, wild, _ in found] == [("publish", "pde_refiner")]
    done = tree.snakemake("pde_refiner")
    assert done.returncode == 0, done.stdout
    log = (tree.folder / "logs/smoke/pde_refiner/publish.log").read_text()
    assert "longrun.publish --experiment pde_refiner" in log
    assert jobs(tree) == []


def test_an_edited_figure_redraws_the_figures_of_its_experiments(tree):
    comment(tree.folder / "src/longrun/figures/forecast/spectra.py")
    assert rules(jobs(tree)) == {"plot", "tabulate"}
    comment(tree.folder / "src/longrun/figures/sample/samples.py")  # of another task
    assert rules(jobs(tree, "pde_refiner")) == {"plot", "pde_refiner"}


def test_jobs_run_by_the_python_that_runs_snakemake(fresh, tmp_path, monkeypatch):
    """Whatever is first on the PATH: nobody has to activate an environment."""
    tree = fresh.copy(tmp_path / "tree")
    other = tmp_path / "other"
    other.mkdir()
    (other / "python").write_text("#!/bin/sh\nexit 3\n")
    (other / "python").chmod(0o755)
    monkeypatch.setenv("PATH", f"{other}:/usr/bin:/bin")
    done = tree.snakemake("pde_refiner.unet")
    assert done.returncode == 0, done.stdout
    log = tree.folder / "logs/smoke/pde_refiner/unet/seed0/train.log"
    assert log.read_text().startswith("-m longrun.train")


PREFIX = """
import sys
import snakemake.cli
from snakemake.shell import shell
shell.prefix = lambda prefix: print(f"prefix: {prefix}")
sys.argv = ["snakemake", "--list-rules", *sys.argv[1:], "--config", "preset=smoke"]
snakemake.cli.main()
"""


@pytest.mark.parametrize(("words", "own"), [((), True), (("--sdm", "conda"), False)])
def test_a_conda_environment_of_the_jobs_keeps_its_python(fresh, words, own):
    """The prefix of a job's command runs after the environment of its rule is active."""
    done = fresh.python("-c", PREFIX, *words)
    (prefix,) = re.findall("^prefix: (.*)$", done.stdout, re.M)
    assert (f'export PATH={Path(sys.executable).parent}:"$PATH"' in prefix) == own


def test_only_what_is_asked_for_is_composed(fresh, tmp_path):
    """A house of a hundred papers starts as fast as one of a few."""
    tree = fresh.copy(tmp_path / "tree")
    for file in (tree.folder / "configs/experiments").glob("*.yaml"):
        if file.stem != "cape":
            file.write_text("broken: [\n")
    for target in ("cape", "cape.cape", "results/smoke/cape/cape/seed0/scores.parquet"):
        assert tree.snakemake(target, "--dry-run").returncode == 0


@pytest.mark.parametrize(
    "target", ["tsm", "tsm.li", "results/smoke/tsm/li/seed0/model.ckpt", "all"]
)
def test_what_is_asked_for_and_broken_is_refused_in_one_line(fresh, tmp_path, target):
    tree = fresh.copy(tmp_path / "tree")
    edit(tree.folder / "configs/experiments/tsm.yaml", lambda content: content.update(sedes=1))
    done = tree.snakemake(target, experiments="[tsm]")
    assert done.returncode != 0
    lines = [line for line in done.stdout.splitlines() if "sedes: unknown key" in line]
    assert len(lines) == 1 and "did you mean seeds?" in lines[0]
    assert "Traceback" not in done.stdout and "Building DAG" not in done.stdout
    assert not (tree.folder / "data").exists()


def test_a_broken_run_to_start_from_is_refused_before_any_job(fresh, tmp_path):
    tree = fresh.copy(tmp_path / "tree")
    edit(tree.folder / "configs/experiments/poseidon.yaml", lambda c: c["claims"].update(x={}))
    done = tree.snakemake("poseidon_unseen")
    assert done.returncode != 0
    assert "poseidon.yaml: claims.x" in done.stdout and "Building DAG" not in done.stdout


def test_a_job_on_a_cluster_composes_its_own_experiment_alone(fresh, tmp_path):
    """What the main process has checked, and nothing that a job doesn't need."""
    tree = fresh.copy(tmp_path / "tree")
    assert tree.snakemake("data/smoke/kuramoto_sivashinsky.zarr").returncode == 0
    for file in (tree.folder / "configs/experiments").glob("*.yaml"):
        if file.stem != "pde_refiner":
            file.write_text("broken: [\n")
    job = "train:preset=smoke,experiment=pde_refiner,method=unet,seed=0"
    words = ("--mode", "remote", "--target-jobs", job, "--allowed-rules", "train", "--nolock")
    done = tree.snakemake(*words, experiments="all")
    assert done.returncode == 0, done.stdout
    assert (tree.folder / "results/smoke/pde_refiner/unet/seed0/model.ckpt").exists()


def test_an_edited_training_scheme_reruns_what_is_trained_by_it(tree):
    spec = config.compose(tree.folder / "configs", "pde_refiner", "smoke")
    schemes = {name: config.option(spec, name, "training")["name"] for name in spec["methods"]}
    comment(tree.folder / "src/longrun/training/curriculum.py")
    assert "curriculum" not in schemes.values() and jobs(tree) == []
    comment(tree.folder / "src/longrun/training/one_step.py")
    own = {name for name, scheme in schemes.items() if scheme == "one_step"}
    assert own and own <= {wild["method"] for name, wild, _ in jobs(tree) if name == "train"}


def test_a_failed_training_fails_the_workflow_and_leaves_no_output(tree):
    comment(tree.folder / "src/longrun/methods/forecast/unet.py")
    stand_in = (tree.programs / "python").read_text()
    tree.programs = tree.folder / "programs"
    tree.programs.mkdir()
    (tree.programs / "python").write_text(f"{stand_in}\nsys.exit(1)\n")
    (tree.programs / "python").chmod(0o755)
    done = tree.snakemake()
    assert done.returncode != 0
    run = tree.folder / "results/smoke/pde_refiner/unet/seed0"
    assert (
        "longrun.train" in (tree.folder / "logs/smoke/pde_refiner/unet/seed0/train.log").read_text()
    )
    assert not (run / "model.ckpt").exists()
    assert (tree.folder / "results/smoke/pde_refiner/fno/seed0/model.ckpt").exists()


@pytest.mark.parametrize(("preset", "gpus"), [("smoke", 0), ("cpu", 0), ("gpu", 1), ("paper", 1)])
def test_every_preset_plans(fresh, preset, gpus):
    found = jobs(fresh, preset=preset)
    spec = config.compose(fresh.folder / "configs", "pde_refiner", preset)
    runs = sum(config.method_spec(spec, method)["seeds"] for method in spec["methods"])
    for rule in ("train", "evaluate"):
        these = [entries for name, _, entries in found if name == rule]
        assert len(these) == runs
        for entries in these:
            assert f"gpu={gpus}" in entries["resources"].split(", ")
    halves = {wild["method"] for name, wild, _ in found if name == "train_point"}
    assert halves == config.halves(spec).keys() and bool(halves) == (preset in ("cpu", "gpu"))
    made = {*DATA, "train", "evaluate", "judge", "plot", "tabulate"}
    assert rules(found) - {"train_point"} | DATA == made


@pytest.mark.parametrize("preset", ["cpu", "paper"])
def test_every_experiment_plans(fresh, root, preset):
    every = config.experiments(root / "configs")
    found = jobs(fresh, preset=preset, experiments=f"[{','.join(every)}]")
    assert {wild["experiment"] for rule, wild, _ in found if rule == "judge"} == set(every)
    drawn = {wild["experiment"]: entries for rule, wild, entries in found if rule == "plot"}
    for experiment in every:
        spec = config.compose(root / "configs", experiment, preset)
        sources = re.findall(r"figures/(?:\w+/)?(\w+)\.py", drawn[experiment]["input"])
        assert sorted(sources) == config.figures(spec)


def test_what_starts_from_another_experiment_has_its_run_made_and_no_more(fresh):
    found = jobs(fresh, preset="smoke", experiments="[poseidon_unseen]")
    trained = {(wild["experiment"], wild["method"]) for rule, wild, _ in found if rule == "train"}
    assert {method for name, method in trained if name == "poseidon"} == {"scot_pretrained"}
    assert {wild["experiment"] for rule, wild, _ in found if rule == "evaluate"} == {
        "poseidon_unseen"
    }


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"preset": "smoek"}, "smoke"),
        ({"experiments": "[pde_refinr]"}, "pde_refiner"),
        ({"colour": "blue"}, "tracking"),
        ({"tracking": "online"}, "WANDB_MODE"),
    ],
)
def test_wrong_settings_are_refused_before_any_job(fresh, settings, names):
    done = fresh.snakemake(**settings)
    assert done.returncode != 0
    assert names in done.stdout  # what is allowed
    assert "Traceback" not in done.stdout
    assert not (fresh.folder / "data").exists()


def test_the_report_holds_tables_and_figures_with_their_captions(finished):
    done = finished.snakemake("--report", "report.html")
    assert done.returncode == 0, done.stdout
    page = (finished.folder / "report.html").read_text()
    for figure in figures():
        assert f"figures/{figure}.svg" in page
        caption = (finished.folder / f"workflow/report/{figure}.rst").read_text()
        assert " ".join(caption.split()[:4]) in page
    assert "results.csv" in page
    assert "claims.html" in page


@pytest.mark.parametrize("name", ["slurm", "slurm-multinode"])
def test_the_cluster_profiles_plan(fresh, name):
    """What a profile names exists: Snakemake silently accepts unknown rules and resources."""
    folder = f"workflow/profiles/{name}"
    profile = yaml.safe_load((fresh.folder / folder / "profile.v9+.yaml").read_text())
    done = fresh.snakemake("--dry-run", "--workflow-profile", folder)
    assert done.returncode == 0, done.stdout
    planned = set(re.findall(r"^ *(?:local)?rule (\w+):", done.stdout, re.M))
    resources = set(re.findall(r"(\w+)=", " ".join(re.findall("resources: .*", done.stdout))))
    groups = dict(pair.split("=") for pair in profile.get("groups", []))
    components = dict(pair.split("=") for pair in profile.get("group-components", []))
    assert planned >= set(groups) | set(profile.get("set-resources", {}))
    assert set(components) == set(groups.values())
    limits = [*profile.get("resources", []), *profile.get("set-resource-scopes", [])]
    assert resources >= {limit.split("=")[0] for limit in limits}
    assert resources >= set(profile["default-resources"]) | {"gpu"}
    assert "tasks=" not in done.stdout  # a training on one node is one task


def test_a_training_on_several_nodes_asks_for_them(fresh, tmp_path):
    tree = fresh.copy(tmp_path / "tree")

    def change(content):
        content["methods"]["unet"]["trainer"] = {"num_nodes": 2, "devices": 4}

    edit(tree.folder / "configs/experiments/pde_refiner.yaml", change)
    asks = {
        (wild["method"], wild["seed"]): set(entries["resources"].split(", "))
        for rule, wild, entries in jobs(tree, preset="paper")
        if rule == "train"
    }
    several = {"nodes=2", "tasks_per_node=4", "gres=gpu:4", "mpi=srun"}
    assert {method for method, _ in asks} > {"unet"}
    for (method, _), resources in asks.items():
        assert resources >= several if method == "unet" else not resources & several
        assert "gpu=0" in resources if method == "unet" else "gpu=0" not in resources
    done = tree.snakemake("--dry-run", "--printshellcmds", preset="paper")
    launched = re.findall(r"srun (.*) python -m longrun\.train .* --method (\w+)", done.stdout)
    options = "--nodes=2 --ntasks-per-node=4 --cpus-per-task=2 --kill-on-bad-exit=1"
    assert set(launched) == {(options, "unet")}


def test_each_attempt_asks_for_more_memory_and_a_rollout_for_more_time(fresh, tmp_path):
    tree = fresh.copy(tmp_path / "tree")

    def change(content):
        content["presets"]["smoke"]["methods"]["fno"]["trainer"] = {"mem_mb": 2000, "runtime": 100}

    edit(tree.folder / "configs/experiments/pde_refiner.yaml", change)
    for attempt, memory, whole in ((1, 1, 1), (3, 2, 3)):
        for rule, wild, entries in jobs(tree, "--attempt", str(attempt)):
            own = wild.get("method") == "fno"
            resources = set(entries["resources"].split(", "))
            if rule == "train":
                assert f"mem_mb={memory * (2000 if own else 16000)}" in resources
                assert f"runtime={100 if own else 1440}" in resources
            if rule == "evaluate":
                assert f"mem_mb={memory * (2000 if own else 16000)}" in resources
                assert f"runtime={whole * (100 if own else 240)}" in resources


def test_the_examples_of_the_how_tos_work(fresh, root, tmp_path):
    """Each example is short; a file that exists is shown as it is, a new one joins the graph."""
    text = "".join(file.read_text() for file in sorted((root / "docs/howto").glob("*.md")))
    examples = dict(re.findall(r"^```(?:python|yaml) (\S+)\n(.*?)^```$", text, re.M | re.S))
    assert len(examples) == 4  # a method, a dataset, an experiment, a figure
    tree = fresh.copy(tmp_path / "tree")
    for name, example in examples.items():
        assert len(example.splitlines()) < 30
        if (root / name).exists():
            assert (root / name).read_text() == example
        (tree.folder / name).write_text(example)
    (tree.folder / "workflow/report/blow_up.rst").write_text("How many rollouts stay bounded.\n")
    for preset in ("smoke", "paper"):
        found = jobs(tree, preset=preset, experiments="[fno]")
        made = {wild["dataset"] for rule, wild, _ in found if rule == "generate"}
        assert made == {"kuramoto_sivashinsky_viscosity"}
        assert {wild["method"] for rule, wild, _ in found if rule == "train"} == {
            "fno",
            "unet",
            "persistence",
        }
        assert "blow_up.py" in next(
            entries["input"] for rule, _, entries in found if rule == "plot"
        )
    figure: dict = {}
    exec(examples["src/longrun/figures/blow_up.py"], figure)
    drawn = figure["draw"](synthetic.inputs())
    assert drawn.axes[0].get_lines()


def test_experiments_may_start_from_each_others_methods(tree):
    file = tree.folder / "configs/experiments/poseidon.yaml"
    content = yaml.safe_load(file.read_text())
    for method in content["methods"].values():
        if method["name"] == "fno":
            method["starts_from"] = {"experiment": "poseidon_unseen", "method": "scot_scratch_8"}
    file.write_text(yaml.safe_dump(content))
    planned = {
        (wild.get("experiment"), wild.get("method")) for _, wild, _ in jobs(tree, "poseidon")
    }
    assert ("poseidon_unseen", "scot_scratch_8") in planned
    assert ("poseidon_unseen", "fno_8") not in planned


def test_what_is_made_by_default_can_be_named(finished):
    """Snakemake's report names it so."""
    done = finished.snakemake("--dry-run", "all", experiments="[pde_refiner]")
    assert done.returncode == 0, done.stdout
    assert "Nothing to be done" in done.stdout
