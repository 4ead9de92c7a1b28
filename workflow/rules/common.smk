"""Names, wildcards and helpers of the workflow. Rules are in the other files."""

import os
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from shlex import join, quote

from snakemake.cli import get_argument_parser
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.settings.types import DeploymentMethod
from snakemake_logger_plugin_longrun import LogHandler

from longrun import config as yaml_files
from longrun.runtime import registry
from longrun import sweep
from longrun.runtime.cli import UserError, may_have_gpu

CONFIGS = Path("configs")
EXPERIMENTS = yaml_files.experiments(CONFIGS)
RUN = "{preset}/{experiment}/{method}/seed{seed}"
POINT = "{preset}/{experiment}/{method}/{point}/seed{seed}"
SWEEPS = yaml_files.sweeps(CONFIGS)
NO_GPU = (
    "trainer.accelerator is gpu and this machine has none: take preset cpu, another machine, or a "
    "cluster (docs/cluster.md)"
)


def look(spec):
    """Look into the files that a dataset is read from."""
    from longrun.exchange import sources  # a second of imports, which few plans need

    return sources.look(spec)


@cache
def compose(experiment, preset):
    """Return the composed experiment; jobs on a cluster trust what was checked before."""
    checks = {"look": look} if workflow.is_main_process else {}
    try:
        return yaml_files.compose(CONFIGS, experiment, preset, **checks)
    except UserError as error:
        raise WorkflowError(str(error)) from None


@cache
def datasets():
    """Return the names of all datasets."""
    try:
        return yaml_files.datasets(CONFIGS)
    except UserError as error:
        raise WorkflowError(str(error)) from None


@cache
def compose_dataset(dataset, preset):
    """Return the composed dataset."""
    try:
        return yaml_files.compose_dataset(CONFIGS, dataset, preset)
    except UserError as error:
        raise WorkflowError(str(error)) from None


if workflow.is_main_process:  # a job on a cluster runs what was checked before it was submitted
    try:
        yaml_files.check_settings(config, CONFIGS)
        yaml_files.tracking_mode(config["tracking"], os.environ)
    except UserError as error:
        raise WorkflowError(str(error)) from None
    if config["tracking"] != yaml_files.settings(CONFIGS)["tracking"]:
        raise WorkflowError("set tracking in configs/config.yaml, or WANDB_MODE, not with --config")


# A scheduler that ends a job sends SIGTERM to all of its processes. The shell must outlive its program: as soon as it
# is gone Slurm kills the rest, even a training that is writing its checkpoint.
STRICT = "set -euo pipefail; trap : TERM; "
# `python` is the one that runs Snakemake, whatever is first on the PATH, or that of the job's own
# environment, which is active when the prefix is read.
OWN_PYTHON = f'export PATH={quote(str(Path(sys.executable).parent))}:"$PATH"; '
with_conda = DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method
shell.prefix(STRICT if with_conda else STRICT + OWN_PYTHON)


wildcard_constraints:
    preset="|".join(yaml_files.presets(CONFIGS)),
    dataset=r"[a-z][a-z0-9_]*",
    part=r"\d+",
    experiment="|".join(EXPERIMENTS),
    method=r"[a-z][a-z0-9_]*",
    seed=r"\d+",
    point=r"[0-9a-f]{12}",
    sweep=r"[a-z][a-z0-9_]*",


@cache
def read_sweep(name):
    """Return what a file in configs/sweeps says, and the changes of every point."""
    try:
        swept = sweep.read(CONFIGS / "sweeps" / f"{name}.yaml")
        return swept, list(swept.points())
    except UserError as error:
        raise WorkflowError(str(error)) from None


@cache
def grid():
    """Return the changes by experiment, method and fingerprint, of the sweeps that can be read."""
    found = {}
    for name in SWEEPS:
        with suppress(WorkflowError):
            swept, points = read_sweep(name)
            run = swept.experiment, swept.method
            found |= {(*run, yaml_files.fingerprint(point)): point for point in points}
    return found


@cache
def compose_point(experiment, preset, method, point):
    """Return the experiment as a point of a sweep changes it."""
    changes = changes_of(experiment, preset, method, point)
    try:
        return yaml_files.compose_run(CONFIGS, experiment, preset, method, changes)
    except UserError as error:
        raise WorkflowError(f"configs/sweeps: {error}") from None


def changes_of(experiment, preset, method, point):
    """Return what a point of a sweep changes, or a run with half its updates."""
    half = yaml_files.halves(compose(experiment, preset)).get(method)
    if half and yaml_files.fingerprint(half) == point:
        return half
    return grid()[experiment, method, point]


def experiment_of(wildcards):
    """Return the composed experiment, for a sweep as the point changes it."""
    if wildcards.get("point"):
        run = wildcards.experiment, wildcards.preset, wildcards.method
        return compose_point(*run, wildcards.point)
    return compose(wildcards.experiment, wildcards.preset)


def dataset_of(wildcards):
    """Return the composed dataset."""
    return compose_dataset(wildcards.dataset, wildcards.preset)


def method_of(wildcards):
    """Return what the composed experiment says of the method: name, options, trainer, ..."""
    run = wildcards.experiment, wildcards.preset, wildcards.method
    return method_spec(*run, wildcards.get("point"))


@cache
def method_spec(experiment, preset, method, point=None):
    """Return what an experiment, or a point of a sweep of it, says of a method."""
    methods = compose(experiment, preset)["methods"]
    if method not in methods:
        problem = f"{experiment}: no method {method} at preset {preset}"
        raise WorkflowError(f"{problem}; {registry.allowed(methods, method)}")
    whole = compose_point(experiment, preset, method, point) if point else None
    return yaml_files.method_spec(whole or compose(experiment, preset), method)


def dataset_sources(wildcards):
    """Return the files of the dataset's equation, and the files that it is read from."""
    spec = dataset_of(wildcards)
    equation = spec.get("equation", {})
    named = [source("equations", one["name"]) for one in (equation, equation.get("of")) if one]
    return named + data_files(spec)


def data_files(spec):
    """Return the files of one's own that a dataset is read from."""
    if "source" not in spec:
        return []
    try:
        return [file for found in yaml_files.source_files(spec).values() for file in found]
    except UserError as error:
        raise WorkflowError(str(error)) from None


def method_source(wildcards):
    """Return the file of the method."""
    return source("methods", method_of(wildcards)["name"])


def train_sources(wildcards):
    """Return the files of the method, of its optimiser and of its training scheme."""
    spec, method = experiment_of(wildcards), wildcards.method
    units = {kind: yaml_files.option(spec, method, name) for name, kind in yaml_files.UNITS.items()}
    named = [source(kind, unit["name"]) for kind, unit in units.items() if unit]
    return [method_source(wildcards), *named]


@cache
def source(kind, name):
    """Return the file of a unit, as seen from the repository's root."""
    return Path("src/longrun") / registry.path(kind, name).relative_to(registry.ROOT)


def train_stores(wildcards):
    """Return the stores that the method trains on."""
    return stores(wildcards.preset, method_of(wildcards)["train"])


def test_stores(wildcards):
    """Return the stores that the experiment is scored on."""
    return stores(wildcards.preset, experiment_of(wildcards)["test"])


def stores(preset, names):
    """Return the stores of these datasets."""
    return expand("data/{preset}/{dataset}.zarr", preset=preset, dataset=names)


def all_facts(wildcards):
    """Return what is measured of every dataset."""
    return [f"results/{config['preset']}/datasets/{name}.json" for name in datasets()]


def start(wildcards):
    """Return the checkpoints that the run starts from; most start from none."""
    run = wildcards.preset, wildcards.experiment, int(wildcards.seed)
    return [
        f"results/{folder}/model.ckpt" for folder in yaml_files.origins(method_of(wildcards), *run)
    ]


def start_option(wildcards, input):
    """Return the command line's option for a run that starts from another."""
    return f"--starts-from {input.start}" if input.get("start") else ""


def point_options(wildcards, input):
    """Return the command line's options for a point of a sweep."""
    run = wildcards.experiment, wildcards.preset, wildcards.method
    changes = changes_of(*run, wildcards.point)
    pairs = [f"{key}={yaml_files.canonical(value)}" for key, value in changes.items()]
    return f"{start_option(wildcards, input)} --set {join(pairs)}"


def sweep_curves(wildcards):
    """Return the curves of every point of a sweep."""
    swept, points = read_sweep(wildcards.sweep)
    run = wildcards.preset, swept.experiment, swept.method, swept.seed
    return [f"results/{yaml_files.run_folder(*run, point)}/curves.csv" for point in points]


def sweep_spec(wildcards):
    """Return all that the order of a sweep's points depends on besides their curves."""
    swept, points = read_sweep(wildcards.sweep)
    return yaml_files.canonical([swept.metric, points])


def dataset_spec(wildcards):
    """Return all that the dataset depends on, as canonical JSON: of files of one's own the sizes."""
    spec = {k: v for k, v in dataset_of(wildcards).items() if k != "jobs"}
    sizes = [file.stat().st_size for file in data_files(spec)]
    return yaml_files.canonical(spec | ({"sizes": sizes} if sizes else {}))


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
    spec = dataset_of(wildcards)
    return 1 if spec["jobs"] > 1 or "source" in spec else 16


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
    """Return the number of GPUs that the training needs."""
    number = yaml_files.gpus(method_of(wildcards)["trainer"])
    if number and workflow.dryrun and not may_have_gpu():
        warn_of_no_gpu()
    return number


@cache
def warn_of_no_gpu():
    """Say in a plan, once, that this machine can't carry it out; a cluster may."""
    logger.warning(NO_GPU)


def check_gpu(jobs):
    """Refuse to start jobs on a machine that lacks the GPU that they need."""
    here = workflow.is_main_process and workflow.local_exec and not workflow.touch
    if here and not may_have_gpu() and any(job.resources.get("gpu") for job in jobs):
        raise WorkflowError(NO_GPU)


def announce(jobs):
    """Tell what prints our lines which jobs there are, so that it can say how long they may take."""
    for handler in workflow.logger_manager.get_log_handlers():
        if isinstance(handler, LogHandler):
            handler.plan(jobs, config["preset"], workflow.global_resources)


def rollout_gpus(wildcards):
    """Return the number of GPUs that the evaluation needs."""
    return yaml_files.rollout_gpus(experiment_of(wildcards), wildcards.method)


def cores(wildcards):
    """Return the cores of one run, or of one of its tasks where they are on several nodes.

    One for every device, one more beside a GPU, and those that provide the data.
    """
    trainer = method_of(wildcards)["trainer"]
    streaming = 0 if trainer["in_memory"] else trainer["workers"]
    if trainer.get("online"):
        streaming = trainer["online"].get("solvers", 1)
    devices = 1 if nodes(wildcards) else trainer["devices"]
    return devices * (1 + (gpus(wildcards) > 0) + streaming)


def grown(mem_mb, attempt):
    """Return the memory of an attempt: each requests another half of the first one's."""
    return mem_mb * (1 + attempt) // 2


def run_memory(wildcards, attempt):
    """Return the memory of a training, or of its rollout, in MB."""
    return grown(method_of(wildcards)["trainer"]["mem_mb"], attempt)


def train_runtime(wildcards):
    """Return the minutes of a training: a later attempt resumes it, and needs no more."""
    return method_of(wildcards)["trainer"]["runtime"]


def rollout_runtime(wildcards, attempt):
    """Return the minutes of a rollout, which starts over at each attempt."""
    return min(240, train_runtime(wildcards)) * attempt


def generate_memory(wildcards, attempt):
    """Return the memory of the job that makes a dataset whole, or joins its parts, in MB."""
    return grown(16000, attempt)


def part_memory(wildcards, attempt):
    """Return the memory of a job that makes a part of a dataset, in MB."""
    return grown(8000, attempt)


def nodes(wildcards):
    """Return the number of nodes of a training, where they are several."""
    number = method_of(wildcards)["trainer"]["num_nodes"]
    return number if number > 1 else None


def tasks(wildcards):
    """Return the processes of a training on several nodes of one device each.

    On one node there is nothing to say: a training is one task, and Lightning starts the rest.
    """
    several = nodes(wildcards) and method_of(wildcards)["trainer"]["devices"] == 1
    return nodes(wildcards) if several else None


def tasks_per_node(wildcards):
    """Return the processes of each of several nodes, one for each of its devices."""
    devices = method_of(wildcards)["trainer"]["devices"]
    return devices if nodes(wildcards) and devices > 1 else None


def gres(wildcards):
    """Return the GPUs of each of several nodes: a total could be split unevenly among them."""
    several = nodes(wildcards) and gpus(wildcards)
    return f"gpu:{gpus(wildcards) // nodes(wildcards)}" if several else None


def job_gpus(wildcards):
    """Return the GPUs of a training on one node."""
    return 0 if nodes(wildcards) else gpus(wildcards)


def launcher(wildcards, threads):
    """Return what starts the tasks; nothing on one node."""
    if not nodes(wildcards):
        return ""
    devices = method_of(wildcards)["trainer"]["devices"]
    return (
        f"srun --nodes={nodes(wildcards)} --ntasks-per-node={devices} "
        f"--cpus-per-task={threads} --kill-on-bad-exit=1"
    )


def mpi(wildcards):
    """Return the resource that leaves it to a rule to start its tasks."""
    return "srun" if nodes(wildcards) else None


@cache
def runs(experiment, preset):
    """Return all runs of an experiment, those that it borrows too."""
    return yaml_files.runs(compose(experiment, preset), Path("results", preset, experiment))


def of_runs(file):
    """Return an input function: this file of every run of the experiment."""

    def paths(wildcards):
        return [run.folder / file for run in runs(wildcards.experiment, wildcards.preset)]

    return paths


def half_curves(wildcards):
    """Return the curves of the runs with half the updates."""
    run = wildcards.experiment, wildcards.preset
    folder = Path("results", wildcards.preset, wildcards.experiment)
    return list(yaml_files.half_curves(compose(*run), folder).values())


def of_first_seeds(file):
    """Return an input function: this file of every method's seed 0."""

    def paths(wildcards):
        every = runs(wildcards.experiment, wildcards.preset)
        return [run.folder / file for run in every if run.seed == 0]

    return paths


def figure_sources(wildcards):
    """Return the files of the figures that the experiment has."""
    return [source("figures", figure) for figure in yaml_files.figures(experiment_of(wildcards))]


def captions_of(wildcards):
    """Return the captions of the experiment's figures, for Snakemake's report."""
    names = yaml_files.figures(experiment_of(wildcards))
    return {figure: Path("workflow/report", f"{figure}.rst").read_text("utf-8") for figure in names}


def tracking(experiment):
    """Return the mode of tracking, as the programs will see it."""
    spec = compose(experiment, config["preset"])
    return yaml_files.tracking_mode(spec["tracking"], os.environ)


def publish_spec(wildcards):
    """Return what an artefact depends on besides its files, as canonical JSON."""
    return yaml_files.canonical([experiment_of(wildcards), tracking(wildcards.experiment)])


def artefacts(wildcards):
    """Return what says that the outcomes were logged, of the experiments that are tracked."""
    tracked = (experiment for experiment in wanted() if tracking(experiment) != "disabled")
    return [f"results/{config['preset']}/{experiment}/artefact.json" for experiment in tracked]


@cache
def targets():
    """Return the targets that the command line names; none where it names none.

    Snakemake tells its workflow only after the rules are read.
    """
    if "snakemake" not in Path(sys.argv[0]).parts[-2:]:  # started from Python
        return []
    return get_argument_parser().parse_known_args()[0].targets or []


def wanted():
    """Return the experiments to tabulate: all for `all_papers`, else those of config.yaml."""
    everything = "all_papers" in targets()
    return EXPERIMENTS if everything else yaml_files.chosen(config, CONFIGS)


def wanted_spec(wildcards):
    """Return the experiments to tabulate as canonical JSON."""
    return yaml_files.canonical(wanted())


def verdicts(wildcards):
    """Return the verdicts of every experiment to tabulate."""
    return [f"results/{wildcards.preset}/{experiment}/claims.json" for experiment in wanted()]


def figures(wildcards):
    """Return the folders of figures of every experiment to tabulate."""
    return [f"results/{wildcards.preset}/{experiment}/figures" for experiment in wanted()]


def check_asked():
    """Refuse what can't be made before any job starts: compose whatever the targets stand for."""
    for name in {*EXPERIMENTS} & {one.name for one in workflow.rules}:
        raise WorkflowError(f"experiments/{name}.yaml: the name is that of a rule")
    preset, names = config["preset"], targets() or ["all"]
    for target in names:
        if target in ("all", "all_papers"):
            for experiment in wanted():
                check(experiment, preset)
        elif target == "datasets":
            for dataset in datasets():
                check_dataset(dataset, preset)
        elif "/" in target:
            check_path(Path(target).parts)


def check_path(parts):
    """Compose what a file belongs to: `results/{preset}/{experiment}/...`, `data/...`."""
    preset = next((part for part in parts if part in yaml_files.presets(CONFIGS)), config["preset"])
    for part in parts:
        name = part.partition(".")[0]
        if name in EXPERIMENTS:
            check(name, preset)
        elif name in datasets() or (parts[0] == "data" and part.endswith(".zarr")):
            check_dataset(name, preset)


def check_dataset(name, preset):
    """Compose a dataset, and look into the files that it is read from."""
    try:
        yaml_files.dataset_sizes(CONFIGS, name, preset, look)
    except UserError as error:
        raise WorkflowError(str(error)) from None


def check(experiment, preset):
    """Compose an experiment, those whose runs it borrows or starts from, those of these, ..."""
    found, waiting = set(), [experiment]
    while waiting:  # two experiments may start from each other's methods
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += used_by(name, preset)


@cache
def used_by(experiment, preset):
    """Compose an experiment; return those whose runs it borrows or starts from, itself among them."""
    spec = compose(experiment, preset)
    folders = [run.folder for run in yaml_files.runs(spec, Path(preset, experiment))]
    for method in spec["methods"]:
        run = preset, experiment, 0
        folders += yaml_files.origins(method_spec(experiment, preset, method), *run)
    return {folder.parts[1] for folder in folders}


def asked_by_name():
    """Return the files by target, of the targets that are neither files nor rules."""
    names = [name for name in targets() if "/" not in name and not workflow.is_rule(name)]
    return {name: files_of(name) for name in names}


def files_of(target):
    """Return the files that a name stands for.

    `experiment`: its verdicts and figures; `experiment.method`: the scores of all seeds;
    `experiment.figure.svg`: the figures; `sweep.name`: the table of a sweep. What the folders hold
    has no dot in its name.
    """
    preset = config["preset"]
    name, _, part = target.partition(".")
    if name == "sweep" and part in SWEEPS:
        return [f"results/{preset}/sweeps/{part}.csv"]
    if name not in EXPERIMENTS:
        refuse_target(target, [*EXPERIMENTS, *(f"sweep.{sweep}" for sweep in SWEEPS)])
    check(name, preset)
    spec, folder = compose(name, preset), f"results/{preset}/{name}"
    if part in spec["methods"]:
        return [run.folder / "scores.parquet" for run in runs(name, preset) if run.method == part]
    figures = [f"{figure}.svg" for figure in yaml_files.figures(spec)]
    if part in figures:
        return [f"{folder}/figures"]
    if part:
        refuse_target(target, [f"{name}.{known}" for known in (*spec["methods"], *figures)])
    logged = [f"{folder}/artefact.json"] if tracking(name) != "disabled" else []
    return [f"{folder}/claims.json", f"{folder}/figures", *logged]


def refuse_target(target, names):
    """Refuse a name that is no target, with what is allowed and the nearest spelling."""
    problem = f"no such target at preset {config['preset']}"
    raise WorkflowError(f"{target}: {problem}; {registry.allowed(names, target)}")
