"""Names, wildcards and helpers of the workflow. Rules are in the other files."""

from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

from longrun import config as yaml_files
from longrun import registry
from longrun.cli import UserError

CONFIGS = Path("configs")
DATASETS = yaml_files.datasets(CONFIGS)
FIGURES = registry.names("figures")
RUN = "{preset}/{experiment}/{method}/seed{seed}"

try:
    yaml_files.check_settings(config, CONFIGS)
    EXPERIMENTS = yaml_files.chosen(config, CONFIGS)
    yaml_files.validate_all(CONFIGS, EXPERIMENTS, config["preset"])
except UserError as error:
    raise WorkflowError(str(error)) from None
if config["tracking"] != yaml_files.settings(CONFIGS)["tracking"]:
    raise WorkflowError("set tracking in configs/config.yaml, or WANDB_MODE, not with --config")


wildcard_constraints:
    preset="|".join(yaml_files.presets(CONFIGS)),
    dataset="|".join(DATASETS),
    part=r"\d+",
    experiment="|".join(yaml_files.experiments(CONFIGS)),
    method=r"[a-z][a-z0-9_]*",
    seed=r"\d+",


compose = cache(yaml_files.compose)
compose_dataset = cache(yaml_files.compose_dataset)


def experiment_of(wildcards):
    """Return the composed experiment."""
    return compose(CONFIGS, wildcards.experiment, wildcards.preset)


def dataset_of(wildcards):
    """Return the composed dataset."""
    return compose_dataset(CONFIGS, wildcards.dataset, wildcards.preset)


def method_of(wildcards):
    """Return what the composed experiment says of the method: name, options, trainer, ..."""
    return yaml_files.method_spec(experiment_of(wildcards), wildcards.method)


def equation_source(wildcards):
    """Return the file of the dataset's equation."""
    return f"src/longrun/equations/{dataset_of(wildcards)['equation']['name']}.py"


def method_source(wildcards):
    """Return the file of the method."""
    return f"src/longrun/methods/{method_of(wildcards)['name']}.py"


def train_stores(wildcards):
    """Return the stores that the method trains on."""
    return stores(wildcards.preset, method_of(wildcards)["train"])


def test_stores(wildcards):
    """Return the stores that the experiment is scored on."""
    return stores(wildcards.preset, experiment_of(wildcards)["test"])


def stores(preset, datasets):
    """Return the stores of these datasets."""
    return expand("data/{preset}/{dataset}.zarr", preset=preset, dataset=datasets)


def start(wildcards):
    """Return the checkpoint that the run starts from, in a list; most start from none."""
    origin = method_of(wildcards)["starts_from"]
    return (
        expand(
            f"results/{RUN}/model.ckpt",
            preset=wildcards.preset,
            experiment=wildcards.experiment,
            method=origin["method"],
            seed=origin.get("seed", wildcards.seed),
        )
        if origin
        else []
    )


def start_option(wildcards, input):
    """Return the command line's option for a run that starts from another."""
    return f"--starts-from {input.start}" if input.get("start") else ""


def dataset_spec(wildcards):
    """Return all that the dataset depends on, as canonical JSON."""
    return yaml_files.canonical({k: v for k, v in dataset_of(wildcards).items() if k != "jobs"})


def parts(wildcards):
    """Return what other jobs make of the dataset: nothing, where one job is enough."""
    jobs = dataset_of(wildcards)["jobs"]
    names = [*range(jobs), "error.json"] if jobs > 1 else []
    return [f"data/{wildcards.preset}/parts/{wildcards.dataset}/{name}" for name in names]


def parts_option(wildcards, input):
    """Return the command line's option for a dataset that is made in parts."""
    return f"--parts {input.parts}" if input.parts else ""


def generate_cores(wildcards):
    """Return the cores of the job that makes a dataset whole, or joins its parts."""
    return 1 if dataset_of(wildcards)["jobs"] > 1 else 16


def train_spec(wildcards):
    """Return all that the training depends on, as canonical JSON."""
    return yaml_files.train_spec(experiment_of(wildcards), wildcards.method)


def evaluate_spec(wildcards):
    """Return all that the evaluation depends on, as canonical JSON."""
    return yaml_files.evaluate_spec(experiment_of(wildcards), wildcards.method)


def judge_spec(wildcards):
    """Return all that the verdicts depend on, as canonical JSON."""
    return yaml_files.judge_spec(experiment_of(wildcards))


def gpus(wildcards):
    """Return the number of GPUs that the training asks for; a rollout takes one of them."""
    return yaml_files.gpus(method_of(wildcards)["trainer"])


def rollout_gpus(wildcards):
    """Return 1 where the training asks for GPUs, else 0."""
    return min(1, gpus(wildcards))


def cores(wildcards):
    """Return the cores of one run: one, one more beside a GPU, and those that give the data."""
    trainer = method_of(wildcards)["trainer"]
    streaming = 0 if trainer["in_memory"] else trainer["workers"]
    if trainer.get("online"):
        streaming = trainer["online"].get("solvers", 1)
    return 1 + (gpus(wildcards) > 0) + streaming


def of_runs(file):
    """Return an input function: this file of every run of the experiment."""

    def paths(wildcards):
        experiment = experiment_of(wildcards)
        return [
            f"results/{wildcards.preset}/{wildcards.experiment}/{method}/seed{seed}/{file}"
            for method in experiment["methods"]
            for seed in range(yaml_files.method_spec(experiment, method)["seeds"])
        ]

    return paths


def of_first_seeds(file):
    """Return an input function: this file of every method's seed 0."""

    def paths(wildcards):
        folder = f"results/{wildcards.preset}/{wildcards.experiment}"
        return [f"{folder}/{method}/seed0/{file}" for method in experiment_of(wildcards)["methods"]]

    return paths


def verdicts(wildcards):
    """Return the verdicts of every experiment that config.yaml names."""
    return expand(
        "results/{preset}/{experiment}/claims.json",
        preset=wildcards.preset,
        experiment=EXPERIMENTS,
    )


def figures(wildcards):
    """Return the figures of every experiment that config.yaml names."""
    return [
        f"results/{wildcards.preset}/{experiment}/figures/{figure}.svg"
        for experiment in EXPERIMENTS
        for figure in yaml_files.figures(compose(CONFIGS, experiment, wildcards.preset))
    ]
