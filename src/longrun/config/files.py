"""The files that a dataset is read from. Only their names are looked at."""

from collections.abc import Mapping
from fnmatch import fnmatch
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from longrun.config.yaml import KeyProblem

SPLITS = ("train", "valid", "test")
HDF5 = (".hdf5", ".h5")
SUFFIXES = {  # of the files that are looked for in a folder; nothing: the folder itself is read
    "pdebench": HDF5,
    "the_well": HDF5,
    "store": (),
    "xarray": (".nc", ".nc4", ".cdf", ".grib", ".grib2", ".h5"),
    "numpy": (".npz", ".npy"),
}


def source_files(spec: Mapping[str, Any]) -> dict[str, list[Path]]:
    """Return the files of a dataset by split, or all under the name "" that are yet to be divided.

    They are divided by the patterns of `splits`; by the folders `train`, `valid` and `test` in the
    source's, or in `data` there; by files of these names.

    Parameters
    ----------
    spec
        Composed dataset with a `source`.

    Raises
    ------
    KeyProblem
        No such file, or none for a split.
    """
    source = spec["source"]
    path, suffixes = Path(source["path"]), SUFFIXES[source["format"]]
    patterns = {
        split: size["files"] for split, size in spec.get("splits", {}).items() if "files" in size
    }
    if has_magic(str(path)):
        files = sorted(map(Path, glob(str(path), recursive=True)))
    elif not path.exists():
        raise KeyProblem(("source", "path"), f"{path}: no such file")
    elif path.is_file() or path.suffix == ".zarr" or not suffixes or (path / "zarr.json").exists():
        files = [path]
    else:
        files = _in(path, suffixes)
        if not patterns:
            for folder in (path / "data", path):
                found = {split: _in(folder / split, suffixes) for split in SPLITS}
                named = {split: [f for f in files if f.stem == split] for split in SPLITS}
                for divided in (found, named if folder == path else {}):
                    if any(divided.values()):
                        return _complete(divided, path)
    if not files:
        kinds = " or ".join(suffixes)
        what = "nothing is there" if has_magic(str(path)) else f"holds no {kinds} files"
        raise KeyProblem(("source", "path"), f"{path}: {what}")
    if not patterns:
        return {"": files}
    return _matched(files, patterns)


def _in(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(file for file in found if file.suffix.lower() in suffixes)


def _complete(divided: dict[str, list[Path]], path: Path) -> dict[str, list[Path]]:
    for split, files in divided.items():
        if not files:
            raise KeyProblem(("source", "path"), f"{path}: has no files of {split}")
    return divided


def _matched(files: list[Path], patterns: Mapping[str, str]) -> dict[str, list[Path]]:
    divided = {}
    for split in SPLITS:
        if split not in patterns:
            raise KeyProblem(("splits", split, "files"), "is missing; the other splits have it")
        divided[split] = [file for file in files if fnmatch(file.name, patterns[split])]
        if not divided[split]:
            problem = f"{patterns[split]}: fits none of {len(files)} files, such as {files[0].name}"
            raise KeyProblem(("splits", split, "files"), problem)
    seen: dict[Path, str] = {}
    for split, found in divided.items():
        for file in found:
            if seen.setdefault(file, split) != split:
                problem = f"{file.name} is among the files of {seen[file]} too"
                raise KeyProblem(("splits", split, "files"), problem)
    return divided
