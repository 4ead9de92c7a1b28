"""What the YAML files may say, section by section. Names and combinations are in `checks`."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, Tag

from longrun.config.section import (
    OMITTED,
    ONE,
    SEVERAL,
    Count,
    Distinct,
    Name,
    Natural,
    Positive,
    Section,
    by_length,
)

Tracking = Literal["disabled", "offline", "online"]


class Settings(Section):
    """`configs/config.yaml`."""

    preset: str
    experiments: Literal["all"] | Distinct[str] = Field(
        description="names of files in configs/experiments/, or `all` of them"
    )
    tracking: Tracking


class Named(Section):
    """A name, and options of the constructor of what it names."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str


# Datasets ----------------------------------------------------------------------------------------


Axis = Literal["x", "y", "z"]
Boundary = Literal[
    "periodic", "wall", "open", "unknown", "dirichlet", "no flux", "outflow", "absorbing"
]


class DataSource(Section):
    """Files of one's own that a dataset is read from; which keys a format has is in `checks`."""

    format: Literal["pdebench", "the_well", "store", "xarray", "numpy"] = Field(
        description="xarray: netCDF, zarr and what else it opens; numpy: .npy and .npz"
    )
    path: str = Field(
        description="file, folder, or a pattern such as runs/*.nc; below the folder in which one "
        "works"
    )
    dims: Annotated[
        Annotated[dict[Literal["trajectory", "time", "x", "y", "z"], str], Tag(ONE)]
        | Annotated[Distinct[Literal["trajectory", "time", "field", "x", "y", "z"]], Tag(SEVERAL)],
        by_length,
    ] = Field(
        default=OMITTED,
        description="xarray: name of each dimension in the files; numpy: a list of the axes in "
        "order. Without trajectory, each file is one",
    )
    fields: Annotated[
        Annotated[dict[Name, str], Tag(ONE)] | Annotated[Distinct[str], Tag(SEVERAL)], by_length
    ] = Field(
        default=OMITTED,
        description="a list of those to take (their names, where files give none), or new names: "
        "names in the files. Default: all",
    )
    parameters: Annotated[
        Annotated[dict[str, float | str], Tag(ONE)] | Annotated[Distinct[str], Tag(SEVERAL)],
        by_length,
    ] = Field(
        default=OMITTED,
        description="a list of those to keep, or names: a number for all trajectories, or the name "
        "in the files. Default: one for each trajectory, as the files have them",
    )
    boundary: Boundary | dict[Axis, Boundary] = Field(
        default=OMITTED, description="of all axes, or of each; unknown by default"
    )
    dt: Positive = Field(
        default=OMITTED, description="time between frames, in place of the files' coordinate"
    )
    length: Positive | dict[Axis, Positive] = Field(
        default=OMITTED, description="of the box, in place of the files' coordinates"
    )
    stride: dict[Literal["time", "x", "y", "z"], Count] = Field(
        default=OMITTED, description="take every n-th frame or point"
    )
    coarsen: dict[Axis, Count] = Field(
        default=OMITTED, description="take the mean of every n neighbouring points"
    )
    cut: Count = Field(
        default=OMITTED, description="cut trajectories into pieces of this many frames"
    )


class Split(Section):
    """Size of a split."""

    trajectories: Count | Annotated[float, Field(gt=0, lt=1)] = Field(
        default=OMITTED, description="a count; of a source a share of its trajectories too"
    )
    frames: Count = Field(default=OMITTED, description="of a source all by default")
    files: str = Field(
        default=OMITTED, description="of a source: a pattern for the names of its files"
    )


class Splits(Section):
    """The three splits."""

    train: Split = OMITTED
    valid: Split = OMITTED
    test: Split = OMITTED


class Storage(Section):
    """How a store is laid out."""

    frames_per_chunk: Count = 10
    trajectories_per_shard: Count = 64
    dtype: Literal["float32", "float64"] = "float32"
    compression: Literal["zstd"] = Field(
        default=OMITTED,
        description="without loss, slower to write and to read: docs/stores.md says by how much",
    )


class Measure(Section):
    """Test trajectories and frames on which error and predictability are measured."""

    trajectories: Count = 8
    frames: Count | None = Field(default=None, description="default: all")


class Dataset(Section):
    """`configs/datasets/*.yaml`, composed.

    A file may hold `variants: {suffix: section}`: datasets that differ from it in few values. That
    of `darcy.yaml` with the suffix `32` is `darcy_32`, and is composed of `darcy` at the same
    preset <- the variant's section <- that section's own `presets`.
    """

    equation: Named = Field(
        default=OMITTED, description="what is simulated; beside a source, what its files obey"
    )
    source: DataSource = OMITTED
    seed: Natural = Field(
        default=OMITTED,
        description="of the simulation; of a source, draws which trajectories are in which split",
    )
    splits: Splits = OMITTED
    store: Storage = OMITTED
    measure: Measure = OMITTED
    jobs: Count = Field(
        default=1,
        le=10000,
        description="jobs that share the shards, for a cluster; changes no bit of the data",
    )


# Experiments -------------------------------------------------------------------------------------


class Paper(Section):
    """What is reproduced."""

    title: str
    arxiv: str = OMITTED
    venue: str = OMITTED


class Online(Section):
    """Train on trajectories that solvers stream; the training set gives the statistics alone."""

    policy: Literal["fifo", "firo", "reservoir"] = Field(
        description="fifo: in order of arrival; firo: at random, each window once; reservoir: at "
        "random, kept until new ones take their place"
    )
    capacity: Count = Field(description="windows that the buffer holds")
    threshold: Count = Field(description="windows that it must hold before the first update")
    solvers: Natural = Field(
        default=1,
        description="processes to start on this machine; 0: they come by themselves, to `listen`",
    )
    together: Count = Field(
        default=1, description="trajectories that a solver simulates as one batch"
    )
    listen: str = Field(
        default="tcp://127.0.0.1:*",
        description="address at which solvers are awaited, tcp://host:port; seed n adds n to the "
        "port. Default: this machine alone, any free port",
    )
    patience: Positive = Field(
        default=60.0, description="seconds after which a silent solver counts as dead"
    )
    deterministic: bool = Field(
        default=False,
        description="let as many windows in as a batch takes, by their number: equal bits, also "
        "after a resume",
    )


class Trainer(Section):
    """How a method is trained, and what its job may take."""

    max_steps: Natural | None = Field(
        default=None,
        description="updates of the weights; this or max_epochs. 0: take those of starts_from",
    )
    max_epochs: Count | None = Field(default=None, description="passes over the training windows")
    batch_size: Count = Field(le=2**20, description="over all devices")
    accumulate: Count = Field(default=1, description="batches per update")
    clip: Positive | None = Field(
        default=None, description="largest norm of the gradient; null: any"
    )
    diverged: Literal["fail", "keep"] = Field(
        default="fail",
        description="when the loss is not finite: fail, or keep the last weights for which it was",
    )
    precision: Literal["32-true", "64-true", "16-mixed", "bf16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "gpu"] = Field(
        default="auto", description="only gpu asks the scheduler for GPUs"
    )
    devices: Count = Field(default=1, le=1024, description="of each node")
    num_nodes: Count = Field(default=1, le=1024, description="machines; more than one need Slurm")
    strategy: Literal["ddp", "fsdp"] = Field(
        default="ddp",
        description="how several devices share the work: whole weights on each, or a part",
    )
    mem_mb: Count = Field(
        default=16000,
        description="main memory of a job in MB; each attempt asks for half as much more",
    )
    runtime: Count = Field(
        default=1440,
        description="minutes of a training, after which it is stopped and goes on in another job; "
        "a rollout gets 240 of them at most",
    )
    in_memory: bool = Field(
        default=True, description="hold the training set in memory; false streams it"
    )
    workers: Natural = Field(default=2, le=256, description="processes that stream")
    valid_windows: Count = Field(default=1024, description="windows of a validation")
    validate_every: Count = Field(default=1000, description="updates between validations")
    checkpoint_every: Count = Field(
        default=1000, description="updates between states to resume from"
    )
    log_every: Count = Field(default=50, description="updates between rows of the curves")
    trajectories: Count | None = Field(
        default=None,
        description="of each training set, the first ones; null: all. Online they are the pilot "
        "that gives the statistics",
    )
    online: Online | None = Field(default=None, description="null: train from the store")


class PartOfTrainer(Trainer):
    """What a method trains in another way than the rest of its experiment."""

    batch_size: Count = Field(default=OMITTED, le=2**20, description="over all devices")


class Start(Section):
    """The run whose checkpoint a run starts from."""

    experiment: str = Field(default=OMITTED, description="whose method it is; this one by default")
    method: str
    seed: Natural = Field(default=OMITTED, description="the run's own by default")


class Origin(Section):
    """A run of another experiment."""

    experiment: str
    method: str


class Method(Named):
    """A method's entry: besides these keys, options of its constructor."""

    name: str = OMITTED
    run_of: Origin = Field(
        default=OMITTED,
        description="in place of all other keys: borrow the runs of another experiment, their "
        "scores and curves, without training them again",
    )
    trainer: PartOfTrainer = OMITTED
    seeds: Count = Field(default=OMITTED, le=1000)
    starts_from: Annotated[
        Annotated[Start, Tag(ONE)] | Annotated[Distinct[Start], Tag(SEVERAL)], by_length
    ] = Field(default=OMITTED, description="a list where the method takes several")
    train: Distinct[str] = Field(
        default=OMITTED, description="train on these datasets instead of the experiment's"
    )


class At(Section):
    """Rows of the scores that a claim is about; all where nothing is said."""

    step: Count = OMITTED
    stage: Natural = Field(
        default=OMITTED, description="of the refinements of a step; the last one by default"
    )
    nfe: Count = Field(default=OMITTED, description="evaluations for a sample; the most by default")
    measured: Natural = Field(
        default=OMITTED, le=100, description="steps that are measured, %; the most by default"
    )
    dataset: str = Field(default=OMITTED, description="one of those that are tested")


class Threshold(Section):
    """The number that decides a claim."""

    paper: float | None = Field(default=None, description="what the paper found")
    holds: float
    direction: Literal["above", "below"] = Field(description="side of it that is claimed")


class PositiveThreshold(Threshold):
    """The number that decides a claim on a ratio."""

    holds: Positive


class Slope(Threshold):
    """The number that decides a claim on how a score grows."""

    along: str = Field(
        description="step, stage, nfe, measured, or an option in which the methods of the claim "
        "differ"
    )


class Claim(Section):
    """A sentence of the paper, and the number that confirms or contradicts it."""

    says: str
    main: bool = Field(default=False, description="what the paper is cited for; one claim is")
    metric: str = Field(description="a score; for `updates` one that is logged on valid")
    of: str | Distinct[str] = Field(description="a method, or several")
    against: str | Distinct[str] = OMITTED
    over: Literal["min", "mean", "max"] = Field(
        default=OMITTED,
        description="what several methods count as: that with the smallest or largest value on "
        "valid, or their mean",
    )
    explains: str = Field(default=OMITTED, description="another score of the same runs")
    statistic: Literal["mean", "median"] = Field(
        default="mean", description="over trajectories; over seeds it is the mean"
    )
    ratio: PositiveThreshold = Field(default=OMITTED, description="of over against")
    value: Threshold = Field(default=OMITTED, description="the score itself")
    slope: Slope = Field(default=OMITTED, description="of log score over the log of something")
    updates: PositiveThreshold = Field(
        default=OMITTED,
        description="until `of` reaches the last value of `against` on valid, over those of the "
        "latter",
    )
    r_squared: Threshold = Field(default=OMITTED, description="share of variance explained")
    rank_correlation: Threshold = Field(default=OMITTED, description="Spearman's")
    at: At = OMITTED
    against_at: At = Field(
        default=OMITTED, description="the same of what is compared with, where it differs"
    )


class Experiment(Section):
    """`configs/experiments/*.yaml`, composed."""

    paper: Paper
    task: Named = Field(description="name, and options of the task shared by all methods")
    dataset: str = Field(default=OMITTED, description="short for train and test")
    train: Distinct[str] = OMITTED
    test: Distinct[str] = OMITTED
    seeds: Count = Field(le=1000)
    tracking: Tracking = OMITTED
    evaluate: dict[str, Any] = Field(description="as the task says, see tasks/")
    trainer: Trainer
    halve: bool = Field(
        default=False,
        description="train one seed of every method with half its updates too, to say what the "
        "last doubling gained; nothing in tasks that log no error on valid",
    )
    methods: dict[Name, Method] = Field(min_length=1)
    claims: dict[Name, Claim] = OMITTED
    fields: dict[str, float | None] = Field(
        default=OMITTED,
        min_length=1,
        description="see every store with these fields, in this order: null for one that it must "
        "have, a number for what a store without it has everywhere, which no forecast is scored on",
    )
    parameters: list[str] = Field(
        default=OMITTED, description="see these parameters of every store only"
    )


class PresetTrainer(Section):
    """What of a trainer depends on the machine."""

    accelerator: Any = None
    devices: Any = None
    num_nodes: Any = None
    strategy: Any = None
    mem_mb: Any = None
    precision: Any = None
    runtime: Any = None
    workers: Any = None


class PresetEvaluate(Section):
    """Caps of an evaluation."""

    trajectories: Any = None
    members: Any = None
    batch_size: Any = None


class Preset(Section):
    """`configs/presets/*.yaml`: caps only; the values are checked where they are used."""

    seeds: Any = None
    halve: Any = None
    tracking: Any = None
    trainer: PresetTrainer = OMITTED
    evaluate: PresetEvaluate = OMITTED
