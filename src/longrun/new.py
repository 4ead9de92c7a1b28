"""Begin with files of one's own: look into them, and write a dataset and an experiment.

Every line of what is written says what it is for, with sizes for each preset: smoke shows in a
minute whether it runs, cpu is for a laptop. Nothing is copied: the workflow reads the files when it
makes the store.
"""

import argparse
import ast
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import xarray as xr
import yaml

from longrun import config
from longrun.config.checks import TAKES
from longrun.config.layers import NAME
from longrun.data import schema
from longrun.exchange import arrays, sources
from longrun.exchange.formats import Foreign
from longrun.runtime import cli, registry
from longrun.runtime.cli import UserError

log = logging.getLogger(__name__)

NAMES = {  # of dimensions, as files have them
    schema.TRAJECTORY: "trajectory sample batch ensemble member number realization run n",
    schema.TIME: "time t valid_time step frame",
    "x": "x lon longitude xc i",
    "y": "y lat latitude yc j",
    "z": "z lev level depth height altitude k",
}
AXES = (schema.TRAJECTORY, schema.TIME, *schema.AXES)  # in the order in which arrays have them
METHODS = ("unet", "fno", "persistence")
PIECES = 20  # trajectories to cut a single one into
MOST = {  # of each preset: points per axis in one, two and three dimensions, trajectories, frames
    "smoke": ((32, 16, 8), (8, 2, 2), 11),
    "cpu": ((128, 64, 16), (256, 32, 32), 101),
}
SIZES = {  # of each preset: width, modes, updates, batch
    "smoke": (8, 4, 30, 8),
    "cpu": (16, 12, 2000, 16),
    "gpu": (32, 16, 20_000, 32),
    "paper": (64, 16, 100_000, 32),
}
OPTION_OF = {"dt": "--dt", "length": "--length", "dims": "--dims", "fields": "--fields"}
STREAMED = 2e9  # bytes of training data that are read from disk rather than held in memory


# What the files are -----------------------------------------------------------------------------


def guess_format(path: Path) -> str:
    """Return the format of a file, a folder, or of the first file that fits a pattern.

    Raises
    ------
    UserError
        Nothing is there, or nothing that is known.
    """
    found = sorted(path.parent.glob(path.name)) if not path.exists() else [path]
    if not found:
        raise UserError(f"{path}: no such file")
    file = found[0]
    if file.is_dir() and file.suffix != ".zarr" and not (file / "zarr.json").exists():
        inside = sorted(f for f in file.rglob("*") if f.suffix in (".hdf5", ".h5", ".nc", ".npz"))
        if not inside:
            raise UserError(f"{path}: holds no files of a known format; --format names it")
        file = inside[0]
    if file.is_dir():
        marked = file / "zarr.json"
        own = marked.exists() and schema.VERSION in marked.read_text("utf-8")
        return "store" if own else "xarray"
    if file.suffix in (".npy", ".npz"):
        return "numpy"
    if file.suffix in (".hdf5", ".h5") and h5py.is_hdf5(file):
        with h5py.File(file, "r") as opened:
            if "t0_fields" in opened and "dimensions" in opened:
                return "the_well"
            numbered = any(name.isdigit() for name in opened)
            if "tensor" in opened or "t-coordinate" in opened or numbered:
                return "pdebench"
    return "xarray"


def guess_dims(path: Path, kind: str) -> dict[str, str] | list[str]:
    """Return the names of axes by their role, or in order, as far as names and shapes tell.

    Raises
    ------
    UserError
        They don't; the message says how to give them.
    """
    file = path if path.exists() else sorted(path.parent.glob(path.name))[0]
    if kind == "numpy":
        shapes = {name: array.shape for name, array in arrays.mapped(file).items()}
        most = max(len(shape) for shape in shapes.values())
        if not 2 <= most <= len(AXES):
            raise UserError(f"{file}: {shapes}: name the axes in order: --dims trajectory time x")
        return list(AXES[:most] if most > 2 else AXES[1:3])
    with xr.open_dataset(file, decode_timedelta=False) as data:
        variable = max(data.data_vars.values(), key=lambda v: v.ndim, default=None)
        sizes = {str(n): data.sizes[n] for n in variable.dims} if variable is not None else {}
    found: dict[str, str] = {}
    left = []
    for name in sizes:
        role = next((r for r, names in NAMES.items() if name.lower() in names.split()), None)
        if role and role not in found:
            found[role] = name
        elif sizes[name] > 1:
            left.append(name)
    if left and schema.TRAJECTORY not in found:
        found[schema.TRAJECTORY] = left.pop(0)
    if left or "x" not in found:
        raise UserError(
            f"{file}: which of the dimensions {', '.join(sizes)} is which? say "
            "--dims trajectory=... time=... x=..."
        )
    return {role: found[role] for role in AXES if role in found}


def look(source: dict[str, Any]) -> Foreign:
    """Look into the files, and cut a trajectory that is the only one.

    Parameters
    ----------
    source
        Section of the dataset; `cut` is added where it is needed.
    """
    try:
        foreign = sources.undivided({"source": source})
        alone = foreign.parts.get("")
        if alone and alone.trajectories < 3 and "cut" not in source:
            source["cut"] = max(2, alone.frames // PIECES)
            foreign = sources.undivided({"source": source})
    except config.KeyProblem as error:
        option = OPTION_OF.get(str(error.key[1]))
        raise UserError(f"{error}" + (f"; {option} gives it" if option else "")) from None
    if min(part.frames for part in foreign.parts.values()) < 3:
        raise UserError(f"{source['path']}: trajectories of one or two frames: nothing to forecast")
    return foreign


# Sizes ------------------------------------------------------------------------------------------


def divided(foreign: Foreign) -> dict[str, int]:
    """Return how many trajectories each split has: eight tenths, one and one if it is ours."""
    if "" not in foreign.parts:
        return {name: part.trajectories for name, part in foreign.parts.items()}
    total = foreign.parts[""].trajectories
    tenth = max(1, total // 10)
    return {"train": total - 2 * tenth, "valid": tenth, "test": tenth}


def factors(space: Sequence[int], most: Sequence[int]) -> dict[str, int]:
    """Return by what the points of each axis are coarsened to be no more than fit a preset."""
    limit, found = most[len(space) - 1], {}
    for axis, points in zip(schema.AXES, space, strict=False):
        whole = [n for n in range(1, points // 4 + 1) if points % n == 0]
        even = [n for n in whole if points // n <= limit and points // n % 2 == 0]
        small = even or [n for n in whole if points // n <= limit]
        if small and small[0] > 1:
            found[axis] = small[0]
    return found


def multipliers(space: Sequence[int], levels: Sequence[int]) -> list[int]:
    """Return as many levels of a U-Net as the grid can be halved for."""
    often = 0
    while often + 1 < len(levels) and all(side % 2 ** (often + 1) == 0 for side in space):
        often += 1
    return list(levels[: often + 1])


# What is written --------------------------------------------------------------------------------


class Page:
    """Lines of YAML, each with what it is for."""

    def __init__(self, heading: str):
        self.heading, self.lines = heading, list[tuple[str, str]]()

    def add(self, depth: int, key: str, value: Any, why: str) -> None:
        """Add a key; without a value it begins a section."""
        text = "" if value is None else f" {flow(value)}"
        self.lines.append((f"{'  ' * depth}{key}:{text}", why))

    def __str__(self) -> str:
        """Return the page, with the comments in a column."""
        width = min(60, max(len(text) for text, _ in self.lines))
        body = "".join(f"{text:<{width}}  # {why}\n" for text, why in self.lines)
        return f"# {self.heading}\n{body}"


def flow(value: Any) -> str:
    """Return a value on one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def dataset_page(source: Mapping[str, Any], foreign: Foreign, heading: str) -> Page:
    """Write the dataset."""
    page, counts = Page(heading), divided(foreign)
    frames = min(part.frames for part in foreign.parts.values())
    grid = " x ".join(map(str, foreign.space))
    about = {
        "format": "what the files are; docs/own_data.md says what each format has",
        "path": "a file, a folder or a pattern such as runs/*.nc",
        "dims": "which axis of the files is which",
        "fields": "what is forecast; default: all",
        "parameters": "what differs between trajectories, for a network to see",
        "boundary": "periodic, wall or open, of all axes or {x: ..., y: ...}: networks pad so",
        "dt": "time between frames",
        "length": "of the box",
        "cut": "frames of the pieces into which the one trajectory is cut",
    }
    page.add(0, "source", None, f"fields {', '.join(foreign.fields)}; {grid} points")
    for key, value in source.items():
        page.add(1, key, value, about[key])
    why = "as the files are divided" if "" not in foreign.parts else "in the order of the files"
    page.add(0, "splits", None, f"{why}; all {frames} frames of each")
    for split, count in counts.items():
        of = {"train": "to learn from", "valid": "to watch it", "test": "to score it"}[split]
        page.add(1, split, {"trajectories": count}, of)
    page.add(0, "store", None, "how the store is written")
    page.add(1, "frames_per_chunk", min(10, frames), "frames that are read together")
    page.add(0, "presets", None, "smaller for a first look; gpu and paper take everything")
    for preset, (points, most, longest) in MOST.items():
        page.add(1, preset, None, {"smoke": "does it run?", "cpu": "a laptop"}[preset])
        if fewer := factors(foreign.space, points):
            page.add(2, "source", {"coarsen": fewer}, "means over so many neighbouring points")
        page.add(2, "splits", None, "the first ones")
        for split, limit in zip(schema.SPLITS, most, strict=True):
            size = {"trajectories": min(counts[split], limit), "frames": min(frames, longest)}
            page.add(3, split, size, f"of {counts[split]} x {frames}")
    return page


def experiment_page(name: str, foreign: Foreign, methods: Sequence[str], heading: str) -> Page:
    """Write the experiment."""
    page, counts = Page(heading), divided(foreign)
    learning = [method for method in methods if _takes(method, "width")]
    frames = min(part.frames for part in foreign.parts.values())
    size = counts["train"] * frames * foreign.frame_bytes
    page.add(0, "paper", None, "what the pages call it")
    page.add(1, "title", f"Own data: {name}", "yours to change")
    page.add(0, "dataset", name, f"configs/datasets/{name}.yaml")
    page.add(0, "seeds", 3, "runs of each method: intervals come from them")
    page.add(0, "task", None, "what is asked of the methods")
    page.add(1, "name", "forecast", "given a frame, the next, and so on")
    page.add(1, "learning_rate", 1e-3, "the peak; it falls by a cosine")
    page.add(0, "methods", None, "files in src/longrun/methods/forecast")
    for method in methods:
        if method in learning:
            page.add(1, method, _options(method, "paper", foreign.space), _about(method))
        else:
            alone = {"name": method, "seeds": 1, "trainer": {"max_steps": 1}}
            page.add(1, method, alone, _about(method))
    page.add(0, "trainer", None, "how they are trained")
    page.add(1, "max_steps", SIZES["paper"][2], "updates of the weights")
    page.add(1, "batch_size", SIZES["paper"][3], "windows of each")
    page.add(1, "in_memory", size < STREAMED, f"the training set is {size / 1e9:.2g} GB")
    page.add(0, "evaluate", None, "how far they are rolled out")
    page.add(1, "steps", frames - 1, "all that a test trajectory holds")
    page.add(1, "trajectories", counts["test"], "all of the test split")
    page.add(0, "presets", None, "smaller networks, shorter trainings")
    for preset in ("smoke", "cpu", "gpu"):
        _add_preset(page, preset, foreign, learning, counts["test"], frames)
    if learning and "persistence" in methods:
        page.add(0, "claims", None, "what the run decides")
        page.add(1, "learns", None, "a claim; its name")
        page.add(2, "main", True, "what the page shows first")
        says = f"{learning[0]} forecasts better than to say that nothing changes."
        page.add(2, "says", says, "in words")
        page.add(2, "metric", "nrmse", "error over the size of the truth, mean over the rollout")
        page.add(2, "of", learning[0], "its error")
        page.add(2, "against", "persistence", "over that of the last frame, repeated")
        page.add(2, "ratio", {"holds": 1.0, "direction": "below"}, "is less than one")
    return page


def _add_preset(
    page: Page,
    preset: str,
    foreign: Foreign,
    learning: Sequence[str],
    tested: int,
    frames: int,
) -> None:
    words = {"smoke": "does it run?", "cpu": "a laptop", "gpu": "one data-centre GPU"}
    page.add(1, preset, None, words[preset])
    space = list(foreign.space)
    if preset in MOST:
        fewer = factors(foreign.space, MOST[preset][0])
        space = [n // fewer.get(a, 1) for a, n in zip(schema.AXES, space, strict=False)]
    for number, method in enumerate(learning):
        if not number:
            page.add(2, "methods", None, "of another size; all else as above")
        own = {k: v for k, v in _options(method, preset, space).items() if k != "name"}
        page.add(3, method, own, "its size")
    steps, batch = SIZES[preset][2:]
    every = max(1, steps // 10)
    trainer = {"max_steps": steps, "batch_size": batch, "validate_every": every}
    page.add(2, "trainer", trainer, "updates, windows of each, updates between validations")
    if preset in MOST:
        _, most, longest = MOST[preset]
        told = {"steps": min(frames, longest) - 1, "trajectories": min(tested, most[2])}
        page.add(2, "evaluate", told, "what this preset's data hold")


def _takes(method: str, option: str) -> bool:
    return option in registry.arguments("methods", method)


def _about(method: str) -> str:
    text = ast.get_docstring(ast.parse(registry.path("methods", method).read_text("utf-8"))) or ""
    return text.partition("\n")[0].rstrip(".")


def _options(method: str, preset: str, space: Sequence[int]) -> dict[str, Any]:
    width, modes, *_ = SIZES[preset]
    options: dict[str, Any] = {"name": method, "width": width}
    if _takes(method, "multipliers"):
        levels = (1, 2, 2, 4) if preset in ("gpu", "paper") else (1, 2)
        options["multipliers"] = multipliers(space, levels)
    if _takes(method, "modes"):
        options["modes"] = max(1, min(modes, min(space) // 2))
    return options


def write(configs: Path, name: str, dataset: Page, experiment: Page) -> list[Path]:
    """Write both files, or neither where the workflow could not use them.

    Raises
    ------
    UserError
        A file of that name is there, or the name is none.
    """
    files = [configs / folder / f"{name}.yaml" for folder in ("datasets", "experiments")]
    if not NAME.fullmatch(name):
        raise UserError(f"{name}: is not a name; allowed: lower-case letters, digits and _")
    for file in files:
        if file.exists():
            raise UserError(f"{file}: exists already; choose another name, or move it away")
    try:
        for file, page in zip(files, (dataset, experiment), strict=True):
            with cli.atomic(file) as part:
                part.write_text(str(page), "utf-8")
        for preset in config.presets(configs):
            config.compose(configs, name, preset, look=sources.look)
    except BaseException:
        for file in files:
            file.unlink(missing_ok=True)
        raise
    return files


EXAMPLES = """
python -m longrun.new ocean --data 'runs/*.nc' --boundary wall
python -m longrun.new burgers_theirs --data 1D_Burgers_Sols_Nu0.01.hdf5 --boundary periodic
python -m longrun.new mine --data frames.npz --dims trajectory time x --dt 0.1 --length 1.0
python -m longrun.new mixing --data the_well/datasets/shear_flow --methods unet fno persistence
"""


def parser() -> argparse.ArgumentParser:
    """Make the command line's parser."""
    made = cli.parser("new", __doc__, EXAMPLES, "configs")
    made.add_argument("name", help="of the dataset and of the experiment")
    made.add_argument("--data", required=True, help="file, folder, or a pattern in quotes")
    made.add_argument(
        "--format",
        choices=["pdebench", "the_well", "store", "xarray", "numpy"],
        help="default: as the files look",
    )
    made.add_argument(
        "--dims", nargs="+", help="time=t x=lon ..., of NumPy's arrays the axes in order"
    )
    made.add_argument("--fields", nargs="+", help="default: all")
    made.add_argument("--boundary", nargs="+", help="periodic, wall, open: of all axes or x=...")
    made.add_argument("--dt", type=float, help="time between frames, where the files don't say")
    made.add_argument("--length", type=float, help="of the box, where the files don't say")
    made.add_argument("--cut", type=int, help="cut trajectories into pieces of so many frames")
    made.add_argument("--methods", nargs="+", help="default: unet fno persistence")
    made.add_argument("--task", choices=["forecast"], default="forecast", help="the only one yet")
    return made


def source_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the section that the command line and the files amount to."""
    path = Path(arguments.data)
    kind = arguments.format or guess_format(path)
    source: dict[str, Any] = {"format": kind, "path": arguments.data}
    if arguments.dims:
        pairs = [pair.partition("=") for pair in arguments.dims]
        named = {role: name for role, _, name in pairs}
        source["dims"] = list(named) if kind == "numpy" else named
    elif kind in ("xarray", "numpy"):
        source["dims"] = guess_dims(path, kind)
    if arguments.fields:
        source["fields"] = arguments.fields
    if arguments.boundary:
        pairs = [pair.partition("=") for pair in arguments.boundary]
        each = {axis: kind for axis, equals, kind in pairs if equals}
        source["boundary"] = each or arguments.boundary[0]
    elif kind not in TAKES or "boundary" in TAKES[kind]:
        source["boundary"] = "unknown"
    for key in ("dt", "length", "cut"):
        if getattr(arguments, key) is not None:
            source[key] = getattr(arguments, key)
    return source


def main() -> None:
    """Read the command line, look, write, and say what is next."""
    arguments = parser().parse_args()
    name, source = arguments.name, source_of(arguments)
    foreign = look(source)
    methods = arguments.methods or [m for m in METHODS if m != "unet" or len(foreign.space) < 3]
    for method in methods:
        known = registry.names("methods", "forecast")
        if method not in known:
            raise UserError(f"{method}: no such method; {registry.allowed(known, method)}")
    heading = f"Written by: python -m longrun.new {name} --data {arguments.data}"
    pages = (
        dataset_page(source, foreign, heading),
        experiment_page(name, foreign, methods, heading),
    )
    files = write(arguments.configs, name, *pages)
    log.info("written: %s", ", ".join(map(str, files)))
    log.info("next:    snakemake --cores 2 --config preset=smoke 'experiments=[%s]'", name)
    log.info("then the same with preset=cpu; results are in results/cpu/results.html")


if __name__ == "__main__":
    cli.run(main)
