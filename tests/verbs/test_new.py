"""From a file to a report in three commands, for each format, by files that others wrote."""

import re
import shutil
import sys

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import yaml
from conftest import Tree

from longrun import config, new
from longrun.config.schemas import schemas
from longrun.data.store import open_store
from longrun.exchange import sources
from longrun.runtime.cli import UserError


def field(*shape):
    """Waves that travel; the last axis is x."""
    random = np.random.default_rng(0)
    x = 2 * np.pi * np.arange(shape[-1]) / shape[-1]
    phase = random.uniform(0, 6, (shape[0], *(1,) * (len(shape) - 1)))
    time = 0.2 * np.arange(shape[1]).reshape(-1, *(1,) * (len(shape) - 2))
    y = np.zeros(1) if len(shape) == 3 else np.arange(shape[2])[:, None] / shape[2]
    return np.broadcast_to(np.sin(x + y - time + phase), shape).astype("f4")


def netcdf(folder):
    """A channel: x around, y between walls, land as a mask."""
    data = xr.Dataset(
        {
            "speed": (("member", "time", "lat", "lon"), field(8, 12, 8, 16)),
            "land": (("lat", "lon"), np.eye(8, 16, dtype="f4")),
        },
        coords={
            "time": np.datetime64("2020-01-01", "ns") + np.arange(12) * np.timedelta64(1, "h"),
            "lat": np.linspace(70, -70, 8),
            "lon": np.arange(16) * 22.5,
        },
    )
    data.to_netcdf(folder / "ocean.nc", engine="h5netcdf")
    edges = ["--boundary", "x=wall", "y=periodic"]
    return ["ocean", "--data", "raw/ocean.nc", *edges, "--methods", "unet", "persistence"]


def npz(folder):
    np.savez(folder / "own.npz", u=field(8, 12, 32), t=np.arange(12.0), x=np.arange(32.0))
    return ["own", "--data", "raw/own.npz", "--boundary", "open", "--methods", "fno"]


def pdebench(folder):
    """As in its files of Burgers' equation: one tensor, one time more than frames."""
    with h5py.File(folder / "1D_Burgers_Nu0.01.hdf5", "w") as file:
        file["tensor"] = field(10, 12, 32)
        file["x-coordinate"] = (np.arange(32, dtype="f4") + 0.5) / 32
        file["t-coordinate"] = np.arange(13, dtype="f4") * 0.2
        file.attrs["Nu"] = 0.01
    data = "raw/1D_Burgers_Nu0.01.hdf5"
    return ["theirs", "--data", data, "--boundary", "periodic", "--methods", "persistence"]


def the_well(folder):
    """A folder of files that are divided already, with a vector."""
    for split, count in (("train", 4), ("valid", 2), ("test", 2)):
        (folder / "well/data" / split).mkdir(parents=True)
        with h5py.File(folder / f"well/data/{split}/a.hdf5", "w") as file:
            file.attrs["grid_type"], file.attrs["n_trajectories"] = "cartesian", count
            dims = file.create_group("dimensions")
            dims.attrs["spatial_dims"] = ["x", "y"]
            dims["time"] = 0.2 * np.arange(12)
            dims["x"], dims["y"] = np.arange(8.0), np.arange(8.0)
            file.create_group("boundary_conditions")
            file.create_group("scalars").attrs["field_names"] = []
            for order, names in enumerate((["density"], ["velocity"], [])):
                group = file.create_group(f"t{order}_fields")
                group.attrs["field_names"] = names
                for name in names:
                    array = field(count, 12, 8, 8)
                    group[name] = np.stack([array, array], -1) if order else array
                    for varies in ("sample_varying", "time_varying"):
                        group[name].attrs[varies] = True
                    group[name].attrs["dim_varying"] = [True, True]
    return ["well", "--data", "raw/well", "--methods", "unet"]


FORMATS = {"ocean": netcdf, "own": npz, "theirs": pdebench, "well": the_well}


@pytest.mark.slow
@pytest.mark.xdist_group("new")
def test_from_file_to_report_in_three_commands(root, tmp_path):
    tree = Tree.of_repository(root, tmp_path)
    for file in (tree.folder / "configs/experiments").glob("*.yaml"):
        file.unlink()
    (tree.folder / "configs/config.yaml").write_text(
        "preset: smoke\nexperiments: all\ntracking: disabled\n"
    )
    (tree.folder / "raw").mkdir()
    for write in FORMATS.values():
        said = tree.python("-m", "longrun.new", *write(tree.folder / "raw"))
        assert said.returncode == 0, said.stdout
    assert "snakemake --cores 2 --config preset=smoke 'experiments=[well]'" in said.stdout
    done = tree.snakemake(experiments=f"[{','.join(FORMATS)}]")
    logs = "\n".join(f"{p}: {p.read_text()[-999:]}" for p in tree.folder.glob("logs/**/*.log"))
    assert done.returncode == 0, done.stdout[-3000:] + logs[-6000:]
    report = tree.snakemake("--report", "report.html", experiments=f"[{','.join(FORMATS)}]")
    assert report.returncode == 0 and (tree.folder / "report.html").stat().st_size > 1e5
    results = tree.folder / "results/smoke"
    for name in FORMATS:
        assert name in (results / "results.html").read_text()
        spec = config.compose(tree.folder / "configs", name, "smoke")
        for method in spec["methods"]:
            scores = pd.read_parquet(results / name / method / "seed0/scores.parquet")
            assert {"nrmse", "spectrum_error_low", "correlation_time_0.8"} <= {*scores["metric"]}
    store = open_store(tree.folder / "data/smoke/ocean.zarr")
    assert store.fields == ("speed", "land") and store.static == ("land",)
    assert store.attrs["source"]["files"][0]["name"] == "ocean.nc"
    log = (tree.folder / "logs/smoke/ocean/unet/seed0/evaluate.log").read_text()
    assert "spectra are taken through a Hann window along x" in log
    assert "its equation is not known" in log
    spectra = (results / "ocean/figures/spectra.svg").read_text()
    assert "Hann" in spectra
    changed_file_makes_it_anew(tree)


def changed_file_makes_it_anew(tree):
    names = [f"data/smoke/{name}.zarr" for name in ("own", "theirs")]
    array = field(9, 12, 32)
    np.savez(tree.folder / "raw/own.npz", u=array, t=np.arange(12.0), x=np.arange(32.0))
    planned = tree.snakemake(*names, "--dry-run").stdout  # of theirs nothing is to be done
    assert len(re.findall(r"^rule generate", planned, re.M)) == 1, planned
    (tree.folder / "raw/own.npz").unlink()
    refused = tree.snakemake("data/smoke/own.zarr", "--dry-run")
    assert refused.returncode and "own.yaml: source.path: raw/own.npz: no such" in refused.stdout


# In this process ----------------------------------------------------------------------------------


@pytest.fixture
def folder(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(root / "configs/presets", tmp_path / "configs/presets")
    (tmp_path / "raw").mkdir()
    return tmp_path


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["new", *map(str, words)])
    new.main()


@pytest.mark.parametrize("write", FORMATS.values())
def test_every_line_is_explained_and_every_preset_fits(folder, monkeypatch, write):
    words = write(folder / "raw")
    call(monkeypatch, *words)
    for kind in ("datasets", "experiments"):
        text = (folder / f"configs/{kind}/{words[0]}.yaml").read_text()
        assert all("  # " in line or line.startswith("# ") for line in text.splitlines())
        assert yaml.safe_load(text)
    for preset in config.presets(folder / "configs"):
        spec = config.compose(folder / "configs", words[0], preset, look=sources.look)
        assert set(spec["methods"]) == set(words[words.index("--methods") + 1 :])
    assert len(schemas()) == 4


@pytest.mark.parametrize(
    ("array", "words", "message"),
    [
        (np.zeros((3, 4, 5)), ["--length", 1], r"source.dt: is missing: .*; --dt gives it"),
        (np.zeros((3, 4, 5)), ["--dt", 1], r"source.length: is missing: .*; --length gives it"),
        (np.zeros(5), [], "name the axes in order: --dims trajectory time x"),
        (np.zeros((3, 4, 5)), ["--dt", 1, "--length", 1, "--methods", "umet"], "did you mean unet"),
        (np.zeros((3, 1, 5)), ["--dt", 1, "--length", 1], "nothing to forecast"),
        (
            np.zeros((4, 4, 5)),
            ["--dt", 1, "--length", 1, "--methods", "coarse_solver"],
            "needs the equation of mine, which has none",
        ),
    ],
)
def test_what_it_cannot_know_it_asks_for(folder, monkeypatch, array, words, message):
    np.save("a.npy", array)
    with pytest.raises(UserError, match=message):
        call(monkeypatch, "mine", "--data", "a.npy", *words)
    assert not list((folder / "configs").glob("*/mine.yaml"))


def test_names_that_are_taken_or_none_are_refused(folder, monkeypatch):
    words = npz(folder / "raw")
    call(monkeypatch, *words)
    with pytest.raises(UserError, match=r"own.yaml: exists already; choose another name"):
        call(monkeypatch, *words)
    with pytest.raises(UserError, match="is not a name; allowed: lower-case letters"):
        call(monkeypatch, "Own-Data", *words[1:])
    with pytest.raises(UserError, match=r"nowhere.nc: no such file"):
        call(monkeypatch, "other", "--data", "nowhere.nc")


def test_one_long_trajectory_is_cut(folder, monkeypatch):
    data = xr.Dataset(
        {"h": (("t", "x"), field(1, 100, 30)[0])}, {"t": np.arange(100), "x": np.arange(30)}
    )
    data.to_netcdf("a.nc", engine="h5netcdf")
    call(monkeypatch, "mine", "--data", "a.nc")
    source = config.compose_dataset(folder / "configs", "mine", "paper")["source"]
    assert source["cut"] == 5 and source["dims"] == {"time": "t", "x": "x"}
    # 30 points can be halved once
    spec = config.compose(folder / "configs", "mine", "paper")
    assert spec["methods"]["unet"]["multipliers"] == [1, 2]
