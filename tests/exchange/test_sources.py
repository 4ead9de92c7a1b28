"""Datasets read from files: all formats, what is taken, what is refused, how they are made."""

import logging
import os
import re
import tracemalloc

import h5py
import jsonschema
import numpy as np
import pytest
import stores
import xarray as xr
import yaml

from longrun import config, convert
from longrun.config.schemas import schemas
from longrun.data.store import StoreWriter, open_store
from longrun.exchange import formats as exchange
from longrun.exchange import sources
from longrun.generate import build, generate, simulate
from longrun.runtime.cli import UserError

SHARES = {
    name: {"trajectories": share}
    for name, share in zip(stores.SPLITS, (0.5, 0.25, 0.25), strict=True)
}
STORE = {"frames_per_chunk": 10, "trajectories_per_shard": 64, "dtype": "float32"}
DIMS = {"trajectory": "sample", "time": "t", "x": "lon"}
VISCOSITY = np.linspace(0.1, 0.4, 12)


def waves(trajectories=12, frames=21, points=32):
    """Two fields that travel, at a speed of each trajectory, and a mask that doesn't."""
    x = np.arange(points) * 2 * np.pi / points
    phase = np.arange(trajectories)[:, None, None] + 0.1 * np.arange(frames)[:, None]
    u = np.sin(x + phase).astype("f4")
    return {"u": u, "v": 2 * u + 1, "mask": (x < 3).astype("f4")}


def netcdf(path, fields=None, **variables):
    """As xarray writes it: names of its own, parameters beside the fields."""
    fields = fields or waves()
    count, frames, points = fields["u"].shape
    data = xr.Dataset(
        {name: (("sample", "t", "lon"), fields[name]) for name in ("u", "v")}
        | {"mask": ("lon", fields["mask"]), "viscosity": ("sample", VISCOSITY[:count])},
        coords={"t": 0.1 * np.arange(frames), "lon": np.arange(points) / points * 6.4},
        attrs={"Re": 100.0},
    ).assign(variables)
    data.u.attrs |= {"units": "m/s", "long_name": "velocity"}
    data.to_netcdf(path, engine="h5netcdf")
    return {"format": "xarray", "path": str(path), "dims": DIMS, "fields": ["u", "v", "mask"]}


def zarr_folder(path):
    netcdf(path.with_suffix(".nc"))
    with xr.open_dataset(path.with_suffix(".nc")) as data:
        data.to_zarr(path, zarr_format=3, consolidated=False)
    return {"format": "xarray", "path": str(path), "dims": DIMS, "fields": ["u", "v", "mask"]}


def npz(path, save=np.savez):
    fields = waves()
    t, x = 0.1 * np.arange(21), np.arange(32) / 32 * 6.4
    save(path, u=fields["u"], v=fields["v"], mask=fields["mask"], t=t, x=x, viscosity=VISCOSITY)
    dims = ["trajectory", "time", "x"]
    return {"format": "numpy", "path": str(path), "dims": dims, "fields": ["u", "v", "mask"]}


def packed(path):
    return npz(path, np.savez_compressed)


def npy(path):
    """Fields along an axis of their own, the order of Fortran."""
    fields = waves()
    mask = np.broadcast_to(fields["mask"], fields["u"].shape)
    np.save(path, np.asfortranarray(np.stack([fields["u"], fields["v"], mask], axis=2)))
    return {
        "format": "numpy",
        "path": str(path),
        "dims": ["trajectory", "time", "field", "x"],
        "fields": ["u", "v", "mask"],
        "dt": 0.1,
        "length": 6.4,
        "parameters": {"viscosity": 0.3},
    }


def pdebench(path):
    """One array for each field, as in its files of gas dynamics."""
    fields = waves()
    with h5py.File(path, "w") as file:
        for name, array in (("density", fields["u"]), ("pressure", fields["v"])):
            file[name] = array
        file["Vx"] = np.broadcast_to(fields["mask"], fields["u"].shape)
        file["x-coordinate"], file["t-coordinate"] = np.arange(32) / 5, 0.1 * np.arange(22)
        file["parameters/viscosity"] = VISCOSITY
    names = {"u": "density", "v": "pressure", "mask": "Vx"}
    return {"format": "pdebench", "path": str(path), "fields": names}


def the_well(path):
    """One file in the layout of The Well, a mask that is constant in time."""
    fields = waves()
    with h5py.File(path, "w") as file:
        file.attrs["grid_type"], file.attrs["n_spatial_dims"] = "cartesian", 1
        file.attrs["dataset_name"], file.attrs["n_trajectories"] = "waves", 12
        dims = file.create_group("dimensions")
        dims.attrs["spatial_dims"] = ["x"]
        dims["time"], dims["x"] = 0.1 * np.arange(21), np.arange(32) / 5
        edge = file.create_group("boundary_conditions").create_group("x_wall")
        edge.attrs["bc_type"], edge.attrs["associated_dims"] = "WALL", ["x"]
        edge["mask"] = np.isin(np.arange(32), (0, 31))
        scalars = file.create_group("scalars")
        scalars.attrs["field_names"] = ["viscosity"]
        scalars["viscosity"] = VISCOSITY
        scalars["viscosity"].attrs["time_varying"] = False
        for order, names in enumerate((["u", "v", "mask"], [], [])):
            group = file.create_group(f"t{order}_fields")
            group.attrs["field_names"] = names
            for name in names:
                group[name], moves = fields[name], name != "mask"
                group[name].attrs["sample_varying"] = group[name].attrs["time_varying"] = moves
                group[name].attrs["dim_varying"] = [True]
    return {"format": "the_well", "path": str(path)}


def own(path):
    fields = waves()
    splits = {"train": (0, 6), "valid": (6, 9), "test": (9, 12)}
    sizes = {name: {"trajectories": b - a, "frames": 21} for name, (a, b) in splits.items()}
    writer = stores.begin(path, ("u", "v", "mask"), (32,), sizes)
    for split, rows in list(writer.missing()):
        begin = splits[split][0]
        here = slice(begin + rows.start, begin + rows.stop)
        mask = np.broadcast_to(fields["mask"], fields["u"].shape)
        states = np.stack([fields["u"], fields["v"], mask], axis=2)[here]
        count = len(states)
        parameters = {"length": np.full(count, 6.4), "dt": np.full(count, 0.1)}
        writer.write(split, rows, parameters, states)
    unknown = {"reference_error": None, "predictability": None, "predictability_censored": None}
    writer.finish(np.empty(0), np.empty(0), unknown)
    return {"format": "store", "path": str(path)}


FORMATS = {
    "netcdf": (netcdf, "a.nc"),
    "zarr": (zarr_folder, "a.zarr"),
    "npz": (npz, "a.npz"),
    "compressed npz": (packed, "a.npz"),
    "npy": (npy, "a.npy"),
    "pdebench": (pdebench, "a.hdf5"),
    "the_well": (the_well, "a.hdf5"),
    "store": (own, "a.zarr"),
}


def made(source, output, splits=SHARES, **more):
    if source["format"] == "store":
        splits = {}
    generate({"source": source, "splits": splits, "store": STORE} | more, output, {})
    return open_store(output)


def read(store, split="train"):
    return store.split(split).read(slice(None), slice(None))


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_becomes_the_same_store(name, tmp_path):
    write, file = FORMATS[name]
    (tmp_path / "raw").mkdir()
    source = write(tmp_path / "raw" / file)
    store, fields = made(source, tmp_path / "s.zarr"), waves()
    assert store.fields == ("u", "v", "mask") and store.equation == {"name": "imported"}
    for split, rows in {"train": (0, 6), "valid": (6, 9), "test": (9, 12)}.items():
        states = read(store, split)
        assert states.shape == (rows[1] - rows[0], 21, 3, 32)
        assert np.array_equal(states[:, :, 0], fields["u"][slice(*rows)])
        assert np.array_equal(states[:, :, 1], fields["v"][slice(*rows)])
        assert (states[:, :, 2] == fields["mask"]).all()
        parameters = store.split(split).parameters
        assert np.allclose(parameters["length"], 6.4) and np.allclose(parameters["dt"], 0.1)
        if name == "npy":
            assert (parameters["viscosity"] == 0.3).all()
        elif name != "store":
            assert np.allclose(parameters["viscosity"], VISCOSITY[slice(*rows)])
    still = name in ("netcdf", "zarr", "npz", "compressed npz", "the_well")
    assert store.static == (("mask",) if still else ())
    if name == "netcdf":
        about = store.split("train").array("u")["attrs"]
        assert about["units"] == "m/s" and about["long_name"] == "velocity"
    (made_of,) = (
        {file["sha256"] for file in store.attrs["source"]["files"]}
        if still and (name != "zarr")
        else {"several"}
    )
    assert len(made_of) in (64, 7)


class TestTaken:
    def test_fewer_points_and_frames(self, tmp_path):
        source = netcdf(tmp_path / "a.nc") | {"stride": {"time": 4}, "coarsen": {"x": 2}}
        store, u = made(source, tmp_path / "s.zarr"), waves()["u"][:6, ::4]
        assert np.allclose(read(store)[:, :, 0], u.reshape(6, 6, 16, 2).mean(-1), atol=1e-6)
        parameters = store.split("train").parameters
        assert np.allclose(parameters["dt"], 0.4) and np.allclose(parameters["length"], 6.4)
        source = netcdf(tmp_path / "a.nc") | {"stride": {"x": 4}}
        assert np.array_equal(
            read(made(source, tmp_path / "t.zarr"))[:, :, 0], waves()["u"][:6, :, ::4]
        )

    def test_between_walls_the_last_point_stays(self, tmp_path):
        source = netcdf(tmp_path / "a.nc", waves(points=33)) | {"stride": {"x": 2}}
        store = made(source, tmp_path / "s.zarr")
        assert store.split("train").space == (17,)
        spacing = 6.4 / 33 * 2
        assert np.allclose(store.split("train").parameters["length"], 17 * spacing)
        with pytest.raises(UserError, match=r"source.stride.x: must divide the 33 points, is 2"):
            made(source | {"boundary": "periodic"}, tmp_path / "t.zarr")

    def test_one_long_trajectory_is_cut(self, tmp_path):
        source = netcdf(tmp_path / "a.nc", waves(1, 100)) | {"cut": 8}
        store, u = made(source, tmp_path / "s.zarr"), waves(1, 100)["u"][0]
        assert np.array_equal(read(store)[:, :, 0], u[:48].reshape(6, 8, 32))
        assert np.array_equal(read(store, "test")[:, :, 0], u[72:96].reshape(3, 8, 32))

    def test_a_seed_draws_the_trajectories_of_each_split(self, tmp_path):
        source = netcdf(tmp_path / "a.nc")
        store = made(source, tmp_path / "s.zarr", seed=1)
        drawn = [store.split(name).parameters["viscosity"] for name in stores.SPLITS]
        assert sorted(np.concatenate(drawn)) == pytest.approx(VISCOSITY)
        assert not np.allclose(drawn[0], VISCOSITY[:6])
        for name, values in zip(stores.SPLITS, drawn, strict=True):
            rows = np.searchsorted(VISCOSITY, values - 1e-9)
            assert np.array_equal(read(store, name)[:, :, 0], waves()["u"][rows])

    def test_several_files_are_divided_by_their_names(self, tmp_path):
        fields = waves()
        for number in range(6):
            few = {n: a[2 * number : 2 * number + 2] for n, a in fields.items() if n != "mask"}
            netcdf(tmp_path / f"run{number}.nc", few | {"mask": fields["mask"]})
        source = netcdf(tmp_path / "other.nc") | {"path": str(tmp_path / "run*.nc")}
        splits = dict(train={"files": "run[0-3].nc"}, valid={"files": "run4.nc"})
        splits["test"] = {"files": "run5.nc", "frames": 9, "trajectories": 1}
        store = made(source, tmp_path / "s.zarr", splits)
        assert np.array_equal(read(store)[:, :, 0], fields["u"][:8])
        assert np.array_equal(read(store, "test")[:, :, 0], fields["u"][10:11, :9])
        assert [f["name"] for f in store.attrs["source"]["files"]] == [
            f"run{n}.nc" for n in range(6)
        ]

    def test_files_without_trajectories_are_one_each(self, tmp_path):
        for number in range(4):
            data = xr.Dataset(
                {"h": (("time", "lat"), waves()["u"][number])},
                coords={
                    "time": np.datetime64("2020-01-01", "ns")
                    + np.arange(21) * np.timedelta64(6, "h"),
                    "lat": np.linspace(60, -60, 32),
                },
                attrs={"Re": 100.0 + number},
            )
            data.to_netcdf(tmp_path / f"{number}.nc", engine="h5netcdf")
        source = {
            "format": "xarray",
            "path": str(tmp_path),
            "dims": {"time": "time", "x": "lat"},
            "parameters": {"reynolds": "Re"},
        }
        splits = {n: {"trajectories": c} for n, c in zip(stores.SPLITS, (2, 1, 1), strict=True)}
        store = made(source, tmp_path / "s.zarr", splits)
        train = store.split("train")
        assert np.array_equal(read(store)[:, :, 0], waves()["u"][:2, :, ::-1])  # south first
        assert (train.parameters["dt"] == 6 * 3600).all()
        assert train.parameters["reynolds"].tolist() == [100.0, 101.0]

    def test_only_these_parameters(self, tmp_path):
        source = netcdf(tmp_path / "a.nc") | {"parameters": ["Re"]}
        store = made(source, tmp_path / "s.zarr")
        assert set(store.parameters) == {"length", "dt", "Re"}


class TestMaking:
    def test_memory_is_bounded(self, tmp_path, monkeypatch):
        """Of files of 10 MB, at a limit of 1 MB."""
        big = np.random.default_rng(0).normal(size=(80, 16, 2048)).astype("f4")
        data = xr.Dataset({"u": (("sample", "t", "lon"), big)})
        data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        np.savez(tmp_path / "a.npz", u=big)
        np.savez_compressed(tmp_path / "b.npz", u=big)
        numpy = {"format": "numpy", "dims": ["trajectory", "time", "x"]}
        monkeypatch.setattr(exchange, "BLOCK", 2**20)
        grid = {"dt": 1.0, "length": 1.0}
        for number, source in enumerate(
            (
                {"format": "xarray", "path": str(tmp_path / "a.nc"), "dims": DIMS},
                numpy | {"path": str(tmp_path / "a.npz")},
                numpy | {"path": str(tmp_path / "b.npz"), "coarsen": {"x": 2}},
            )
        ):
            tracemalloc.start()
            store = made(source | grid, tmp_path / f"{number}.zarr")
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 6e6
            if number < 2:
                assert np.array_equal(read(store)[:, :, 0], big[:40])

    def test_it_goes_on_where_it_stopped(self, tmp_path, monkeypatch):
        source, options = (
            netcdf(tmp_path / "a.nc"),
            {"store": STORE | {"trajectories_per_shard": 2}},
        )
        written = []
        write = StoreWriter.write

        def stop_at_third(self, split, numbers, *rest):
            if len(written) == 2:
                written.append(None)
                raise KeyboardInterrupt
            written.append((split, numbers.start))
            write(self, split, numbers, *rest)

        monkeypatch.setattr(StoreWriter, "write", stop_at_third)
        with pytest.raises(KeyboardInterrupt):
            made(source, tmp_path / "s.zarr", **options)
        store = made(source, tmp_path / "s.zarr", **options)
        starts = [shard for shard in written if shard]
        assert starts[:2] == [("train", 0), ("train", 2)]
        assert len(starts) == len(set(starts)) == 7
        assert np.array_equal(read(store)[:, :, 0], waves()["u"][:6])

    def test_a_changed_file_makes_it_anew(self, tmp_path, caplog):
        path = tmp_path / "a.npz"
        source = npz(path)
        made(source, tmp_path / "s.zarr")
        with caplog.at_level(logging.INFO):
            made(source, tmp_path / "s.zarr")
        assert "complete already" in caplog.text
        told = os.stat(path)
        content = bytearray(path.read_bytes())
        place = content.index(waves()["u"][0].tobytes()[:64])
        content[place : place + 4] = np.float32(0.5).tobytes()
        path.write_bytes(content)
        os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))  # as copies often have it
        store = made(source, tmp_path / "s.zarr")
        assert read(store)[0, 0, 0, 0] == 0.5

    def test_numbers_that_are_not_finite_are_refused(self, tmp_path):
        fields = waves()
        fields["u"][7, 3, 2] = np.nan
        source = netcdf(tmp_path / "a.nc", fields)
        with pytest.raises(UserError, match="valid, trajectory 1: field u holds values not finite"):
            made(source, tmp_path / "s.zarr")
        assert not (tmp_path / "s.zarr").exists()

    def test_convert_takes_the_same_way(self, tmp_path):
        source = pdebench(tmp_path / "a.hdf5")
        counts = {n: {"trajectories": c} for n, c in zip(stores.SPLITS, (6, 3, 3), strict=True)}
        del source["fields"]
        store = made(source, tmp_path / "s.zarr", counts)
        convert.convert(tmp_path / "a.hdf5", tmp_path / "t.zarr", "pdebench", {}, splits=(6, 3, 3))
        other = open_store(tmp_path / "t.zarr")
        assert other.attrs["source"] == store.attrs["source"]
        assert np.array_equal(read(other), read(store))


EQUATION = {"name": "kuramoto_sivashinsky", "length": 16.0, "dt": 0.2, "viscosity": 1.0}


class TestEquation:
    """What the files obey may be said; then solvers and invariants are known."""

    @pytest.fixture
    def source(self, tmp_path):
        section = EQUATION | {"points": 32, "burn_in": 0}
        _, states = simulate(build(section), 0, "train", range(6), 9, "float32")
        np.save(tmp_path / "a.npy", states)
        return {
            "format": "numpy",
            "path": str(tmp_path / "a.npy"),
            "dims": ["trajectory", "time", "field", "x"],
            "dt": 0.2,
            "length": 16.0,
        }

    def test_it_completes_what_the_files_lack(self, source, tmp_path):
        store = made(source, tmp_path / "s.zarr", equation=EQUATION)
        assert store.equation == EQUATION | {"points": 32}
        assert store.boundary == ("periodic",)
        equation = build(store.equation)
        assert list(store.parameters) == [quantity.name for quantity in equation.parameters]
        assert (store.split("test").parameters["viscosity"] == 1).all()
        assert store.attrs["reference_error"] is None

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"fields": ["h"]}, r"has the fields \['u'\], the files have \['h'\]"),
            ({"stride": {"x": 1}, "equation": {"points": 64}}, r"the grid \(64,\), .* \(32,\)"),
            ({"equation": {"viscosity": {"uniform": [1, 2]}}}, "has the parameters"),
        ],
    )
    def test_other_data_are_refused(self, source, tmp_path, change, message):
        equation = EQUATION | change.pop("equation", {})
        with pytest.raises(UserError, match=f"equation: .*{message}"):
            made(source | change, tmp_path / "s.zarr", equation=equation)


DATASET = {
    "source": {"format": "xarray", "path": "a.nc", "dims": DIMS, "fields": ["u", "v"]},
    "splits": SHARES,
}
EXPERIMENT = {
    "paper": {"title": "A test"},
    "task": {"name": "forecast"},
    "dataset": "mine",
    "seeds": 1,
    "evaluate": {"steps": 10, "trajectories": 3},
    "methods": {"unet": {"name": "unet", "width": 4, "multipliers": [1, 2]}},
    "trainer": {"max_steps": 3, "batch_size": 4},
}


class TestPlan:
    """What a plan says in one line, before anything runs."""

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        netcdf(tmp_path / "a.nc")
        for kind in ("datasets", "experiments", "presets"):
            (tmp_path / "configs" / kind).mkdir(parents=True)
        (tmp_path / "configs/presets/smoke.yaml").write_text("{}")
        return tmp_path

    def compose(self, folder, dataset=None, experiment=None):
        for kind, name, base, change in (
            ("datasets", "mine", DATASET, dataset),
            ("experiments", "test", EXPERIMENT, experiment),
        ):
            content = config.merge(base, change or {})
            content = {key: value for key, value in content.items() if value is not None}
            (folder / f"configs/{kind}/{name}.yaml").write_text(yaml.safe_dump(content))
        return config.compose(folder / "configs", "test", "smoke", look=sources.look)

    def test_what_the_page_says_is_allowed(self, root):
        page = (root / "docs/own_data.md").read_text()
        blocks = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
        assert len(blocks) == 2
        for block in blocks:
            jsonschema.validate(yaml.safe_load(block), schemas()["dataset"])

    def test_what_fits_is_taken(self, folder):
        self.compose(folder)
        jsonschema.validate(DATASET, schemas()["dataset"])
        size = config.dataset_sizes(folder / "configs", "mine", "smoke", sources.look)
        assert size["splits"]["test"] == {"trajectories": 3, "frames": 21}
        # without a look into the files nothing is refused that only they know
        changed = {"evaluate": {"steps": 999}}
        config.compose(folder / "configs", "test", "smoke", changed)

    @pytest.mark.parametrize(
        ("dataset", "message"),
        [
            ({"source": {"path": "b.nc"}}, r"source.path: b.nc: no such file"),
            ({"source": {"path": "b*.nc"}}, r"source.path: b\*.nc: nothing is there"),
            ({"source": {"format": "xaray"}}, "did you mean xarray"),
            (
                {"source": {"dims": {"x": "lom"}}},
                r"source.dims.x: a.nc: has no dimension 'lom'.*lon",
            ),
            ({"source": {"dims": {"y": "lon"}}}, r"source.dims: 'lon' is named twice"),
            ({"source": {"dims": None}}, r"source.dims: must be|source.dims: is missing"),
            ({"source": {"fields": ["w"]}}, r"source.fields: a.nc: has no variable 'w'; allowed: "),
            ({"source": {"fields": {"dt": "u"}}}, r"source.fields.dt: the name is taken"),
            ({"source": {"fields": {"viscosity": "u"}}}, r"source.fields.viscosity: the name is"),
            ({"source": {"parameters": ["mu"]}}, r"source.parameters: a.nc: has no variable or"),
            ({"source": {"boundary": "periodc"}}, r"source.boundary.*periodic"),
            ({"source": {"cut": 99}}, r"source.cut: must be at most 21"),
            ({"source": {"cut": 5}, "seed": 1}, r"seed: would draw pieces of one trajectory"),
            (
                {"source": {"stride": {"y": 2}}},
                r"source.stride.y: there is no such axis; allowed: x",
            ),
            (
                {"source": {"coarsen": {"x": 5}}},
                r"source.coarsen.x: must divide the 32 points, is 5",
            ),
            (
                {"splits": {"test": {"trajectories": 9}}},
                r"18 trajectories are wanted, there are 12",
            ),
            ({"splits": {"test": {"frames": 99}}}, r"splits.test.frames: must be at most 21"),
            ({"splits": {"test": {"files": "*"}}}, r"files: is (missing|given for some)"),
            ({"splits": None}, r"splits.train.trajectories: is missing"),
            ({"measure": {"frames": 3}}, r"measure: has no effect beside source"),
            ({"equation": {"name": "burgesr"}}, "did you mean burgers"),
            (
                {"source": {"format": "the_well"}},
                r"source.dims: has no effect with format the_well",
            ),
            ({"source": None}, r"equation: is missing; a dataset needs it, or a source"),
        ],
    )
    def test_what_does_not_is_one_line(self, folder, dataset, message):
        with pytest.raises(config.ConfigError, match=message) as caught:
            self.compose(folder, dataset)
        assert str(caught.value).startswith(f"{folder}/configs/datasets/mine.yaml: ")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("experiment", "message"),
        [
            (
                {"evaluate": {"steps": 21}},
                r"evaluate.steps: 21 steps .* need 22 test frames of mine",
            ),
            (
                {"trainer": {"online": {"policy": "fifo", "capacity": 64, "threshold": 8}}},
                "trainer.online: needs data that are simulated, mine is read from files",
            ),
            (
                {"evaluate": {"trajectories": 4}},
                r"must be at most 3, the test trajectories of mine",
            ),
            (
                {"methods": {"unet": {"multipliers": [1] * 7}}},
                "sides are multiples of 64, mine has 32",
            ),
            (
                {
                    "methods": {
                        "solver": {"name": "coarse_solver", "starts_from": {"method": "unet"}}
                    }
                },
                "methods.solver: needs the equation of mine, which has none: give equation beside",
            ),
        ],
    )
    def test_an_experiment_fits_its_files(self, folder, experiment, message):
        with pytest.raises(config.ConfigError, match=message):
            self.compose(folder, None, experiment)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ("one", r"source.path: 1 trajectory can't be divided .* source.cut: n cuts"),
            ("uneven", r"source.dt: is missing; without it a.nc: t isn't evenly spaced"),
            ("bare", r"source.length: is missing: a.nc has no coordinate along lon"),
            ("text", r"source.path: a.nc: can't be opened"),
            ("land", r"source.path: a.nc: train, trajectory 0: field u holds values not finite"),
        ],
    )
    def test_files_that_cannot_be_used(self, folder, change, message):
        if change == "one":
            netcdf(folder / "a.nc", waves(1))
        elif change == "land":
            fields = waves()
            fields["u"][:, :, 4] = np.nan
            netcdf(folder / "a.nc", fields)
        elif change == "text":
            (folder / "a.nc").write_text("no data")
        else:
            with xr.open_dataset(folder / "a.nc") as data:
                data = data.load()
            data = data.assign_coords(t=data.t**2) if change == "uneven" else data.drop_vars("lon")
            data.to_netcdf(folder / "a.nc", engine="h5netcdf")
        with pytest.raises(config.ConfigError, match=message):
            self.compose(folder)
