"""Converters: The Well and PDEBench, both ways, read by their own clients where there are any."""

import logging
import sys
import tracemalloc

import h5py
import numpy as np
import pytest
import stores
import torch
import yaml
import zarr

from longrun import config, convert, inspect, train
from longrun.data.store import StoreWriter, create_store, open_store
from longrun.exchange import formats as exchange
from longrun.exchange import sources
from longrun.exchange.pdebench import _group_names, export_pdebench
from longrun.exchange.well import export_well, read_well
from longrun.runtime.cli import UserError

SPLITS = {
    "train": {"trajectories": 7, "frames": 9},
    "valid": {"trajectories": 3, "frames": 11},
    "test": {"trajectories": 2, "frames": 6},
}


def contents(path):
    """Every array of a store, and what must survive a conversion."""
    store = open_store(path)
    arrays = {}
    for split in stores.SPLITS:
        part = store.split(split)
        arrays |= {(split, name): value for name, value in part.parameters.items()}
        for name in store.fields:
            arrays[split, name] = zarr.open_array(part.path / name, mode="r")[:]
    return arrays, store.attrs["boundary"]


def same(left, right, rtol=1e-12):
    (arrays, boundary), (others, other_boundary) = contents(left), contents(right)
    assert boundary == other_boundary
    assert set(arrays) == set(others)
    for key, value in arrays.items():
        assert value.dtype == others[key].dtype, key
        np.testing.assert_allclose(others[key], value, rtol=rtol, err_msg=str(key))


def call(*arguments):
    """Run the verb in this process."""
    before, sys.argv = sys.argv, ["convert", *map(str, arguments)]
    try:
        convert.main()
    finally:
        sys.argv = before


def refusal(function, *arguments, **options):
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """A store of two fields on a box that isn't square, lengths and steps of each trajectory."""
    path = tmp_path_factory.mktemp("flow") / "flow.zarr"
    return stores.make(path, ("u", "vorticity"), (8, 6), SPLITS, dtype="float64")


@pytest.fixture(scope="module")
def exported(flow, tmp_path_factory):
    folder = tmp_path_factory.mktemp("well") / "flow"
    export_well(flow, folder)
    return folder


class TestWell:
    @pytest.mark.parametrize("split", SPLITS)
    def test_its_own_dataset_class_reads_the_same_numbers(self, flow, exported, split):
        datasets = pytest.importorskip("the_well.data.datasets")
        dataset = datasets.WellDataset(
            path=str(exported), well_split_name=split, n_steps_input=2, n_steps_output=3
        )
        part = flow.split(split)
        assert dataset.metadata.n_trajectories_per_file == [part.trajectories]
        assert dataset.metadata.field_names[0] == ["u", "vorticity"]
        assert dataset.metadata.spatial_resolution == (8, 6)
        assert set(dataset.metadata.constant_scalar_names) == {"length", "dt"}
        assert dataset.metadata.boundary_condition_types == ["PERIODIC"]
        starts = part.frames - 4
        assert len(dataset) == part.trajectories * starts
        names = dataset.metadata.constant_scalar_names
        for index in range(len(dataset)):
            trajectory, start = divmod(index, starts)
            item = dataset[index]
            frames = torch.cat([item["input_fields"], item["output_fields"]])
            stored = np.stack(
                [
                    zarr.open_array(part.path / name)[trajectory, start : start + 5]
                    for name in ("u", "vorticity")
                ],
                -1,
            )
            assert np.array_equal(frames.numpy(), stored)
            values = dict(zip(names, item["constant_scalars"].tolist(), strict=True))
            assert values["dt"] == part.parameters["dt"][trajectory]
            times = torch.cat([item["input_time_grid"], item["output_time_grid"]])
            np.testing.assert_allclose(times, values["dt"] * np.arange(5), atol=1e-12)
            grid = item["space_grid"].numpy()
            assert grid.shape == (8, 6, 2)
            np.testing.assert_allclose(grid[:, 0, 0], values["length"] * np.arange(8) / 8)
            np.testing.assert_allclose(grid[0, :, 1], values["length"] * np.arange(6) / 6)
            assert (item["boundary_conditions"] == 2).all()  # periodic

    def test_there_and_back(self, flow, exported, tmp_path):
        call("--from", "the_well", "--to", "store", exported, tmp_path / "back.zarr")
        same(flow.path, tmp_path / "back.zarr")
        back = open_store(tmp_path / "back.zarr")
        assert (
            back.equation == {"name": "imported"} and back.attrs["source"]["format"] == "the_well"
        )
        assert back.predictability == np.inf and len(back.reference_error()[0]) == 0
        assert any("not known" in line for line in inspect.summary(back))

    def test_tensors_constants_and_other_shapes_come_back(self, tmp_path):
        """Like the files of The Well, by the same rules as its own example."""
        random = np.random.default_rng(0)
        (tmp_path / "in" / "data").mkdir(parents=True)
        sizes = {"train": 3, "valid": 2, "test": 2}
        held = {}
        for split, count in sizes.items():
            (tmp_path / "in" / "data" / split).mkdir()
            held[split] = self.write(tmp_path / "in" / "data" / split / "a.hdf5", count, random)
        source = {"format": "the_well", "path": str(tmp_path / "in")}
        foreign = sources.undivided({"source": source})
        assert foreign.boundary == ("periodic", "wall; open") and foreign.space == (4, 5)
        convert.convert(tmp_path / "in", tmp_path / "s.zarr", "the_well", {})
        store = open_store(tmp_path / "s.zarr")
        vectors = ("velocity_x", "velocity_y", "D_xx", "D_xy", "D_yx", "D_yy")
        assert store.fields == ("height", "mask", *vectors)
        train = store.split("train")
        assert set(train.parameters) == {"length", "length_y", "dt", "first_time", "Re", "x_"}
        assert np.allclose(train.parameters["length"], 2) and np.allclose(
            train.parameters["length_y"], 5
        )
        assert np.allclose(train.parameters["first_time"], 3.0)
        assert np.allclose(train.parameters["dt"], 0.25)
        read = train.read(slice(None), slice(None))
        assert np.array_equal(read[:, :, 0], held["train"]["height"])
        assert (read[:, :, 1] == held["train"]["mask"][None, None, :, None]).all()
        assert np.array_equal(read[:, :, 3], held["train"]["velocity"][..., 1])
        assert np.array_equal(read[:, :, 5], held["train"]["D"][..., 0, 1])
        export_well(store, tmp_path / "out")
        with h5py.File(tmp_path / "out" / "data" / "test" / "s.hdf5") as file:
            for group, name in (("t0", "height"), ("t1", "velocity"), ("t2", "D")):
                assert np.array_equal(file[f"{group}_fields"][name], held["test"][name])
            mask = file["t0_fields/mask"]
            assert not mask.attrs["time_varying"] and mask.shape == (2, 4, 5)
            np.testing.assert_allclose(file["dimensions/time"], 3 + 0.25 * np.arange(6))
            np.testing.assert_allclose(file["dimensions/y"], -1 + np.arange(5.0))
        convert.convert(tmp_path / "out", tmp_path / "again.zarr", "the_well", {})
        same(tmp_path / "s.zarr", tmp_path / "again.zarr")

    @staticmethod
    def write(path, count, random):
        def varying(array, sample, time, dims=(True, True)):
            array.attrs["sample_varying"], array.attrs["time_varying"] = sample, time
            array.attrs["dim_varying"] = dims

        values = {
            "height": random.normal(size=(count, 6, 4, 5)).astype("f4"),
            "mask": random.integers(0, 2, 4).astype("f4"),
            "velocity": random.normal(size=(count, 6, 4, 5, 2)).astype("f4"),
            "D": random.normal(size=(count, 6, 4, 5, 2, 2)).astype("f4"),
        }
        with h5py.File(path, "w") as file:
            file.attrs["grid_type"], file.attrs["n_spatial_dims"] = "cartesian", 2
            file.attrs["dataset_name"], file.attrs["n_trajectories"] = "a", count
            dims = file.create_group("dimensions")
            dims.attrs["spatial_dims"] = ["x", "y"]
            for name, grid in (
                ("time", 3 + 0.25 * np.arange(6)),
                ("x", np.arange(4) / 2),
                ("y", np.arange(5) - 1.0),
            ):
                dims[name] = grid.astype("f4")
                dims[name].attrs["sample_varying"] = False
            edges = file.create_group("boundary_conditions")
            for name, kind, marked, length in (
                ("px", "PERIODIC", [0, -1], 4),
                ("wy", "WALL", [0], 5),
                ("oy", "OPEN", [-1], 5),
            ):
                group = edges.create_group(name)
                group.attrs["bc_type"], group.attrs["associated_dims"] = kind, [name[1]]
                mask = np.zeros(length, bool)
                mask[marked] = True
                group["mask"] = mask
            scalars = file.create_group("scalars")
            scalars.attrs["field_names"] = ["Re", "x", "drift"]
            scalars["Re"], scalars["x"] = 100.0, np.arange(float(count))
            scalars["drift"] = np.arange(6.0)
            for name, sample, time in (("Re", 0, 0), ("x", 1, 0), ("drift", 0, 1)):
                scalars[name].attrs["sample_varying"] = bool(sample)
                scalars[name].attrs["time_varying"] = bool(time)
            for order, names in enumerate((["height", "mask"], ["velocity"], ["D"])):
                group = file.create_group(f"t{order}_fields")
                group.attrs["field_names"] = names
                for name in names:
                    group[name] = values[name]
                    varying(group[name], name != "mask", name != "mask", (True, name != "mask"))
        return values

    def test_scalars_that_vary_in_time_are_left_out_aloud(self, tmp_path, caplog):
        self.write(tmp_path / "a.hdf5", 6, np.random.default_rng(0))
        with caplog.at_level(logging.WARNING):
            read_well(tmp_path / "a.hdf5")
        assert "drift varies in time and is left out" in caplog.text

    def test_files_that_are_not_split_are_divided(self, tmp_path):
        random = np.random.default_rng(0)
        first = self.write(tmp_path / "a.hdf5", 4, random)
        mask = first["mask"]
        second = self.write(tmp_path / "b.hdf5", 4, random)
        message = refusal(convert.convert, tmp_path, tmp_path / "s.zarr", "the_well", {})
        assert message.endswith("is missing; the files don't say how to divide 8 trajectories")
        call("--from", "the_well", "--to", "store", "--splits", 3, 2, 2, tmp_path, tmp_path / "s")
        both = np.concatenate([first["height"], second["height"]])
        store = open_store(tmp_path / "s")
        for split, block in (("train", both[:3]), ("valid", both[3:5]), ("test", both[5:7])):
            assert np.array_equal(store.split(split).read(slice(None), slice(None))[:, :, 0], block)
        assert mask.shape == (4,)

    def test_what_cannot_be_stored_is_refused_in_one_line(self, tmp_path, flow):
        random = np.random.default_rng(0)
        good = tmp_path / "good.hdf5"
        self.write(good, 6, random)
        data = good.read_bytes()
        bad = tmp_path / "bad.hdf5"
        output = tmp_path / "out.zarr"

        def message(change=None):
            if change is not None:
                bad.write_bytes(data)
                with h5py.File(bad, "r+") as file:
                    change(file)
            options = {"splits": (3, 2, 1)}
            found = refusal(convert.convert, bad, output, "the_well", {}, **options)
            assert not output.exists() and not list(tmp_path.glob(".out*"))
            return found

        bad.write_bytes(data[: len(data) // 2])
        assert "can't be read as HDF5, or is cut short" in message()
        bad.write_bytes(b"no")
        assert "can't be read as HDF5" in message()
        assert "not in the layout of The Well: " in message(lambda f: f.__delitem__("t1_fields"))
        assert "only cartesian" in message(lambda f: f.attrs.__setitem__("grid_type", "spherical"))

        def stretch(file):
            file["dimensions/x"][2] = 1.4

        assert "x isn't evenly spaced" in message(stretch)

        def shorten(file):
            attrs = dict(file["t0_fields/height"].attrs)
            del file["t0_fields/height"]
            file["t0_fields/height"] = np.zeros((6, 5, 4, 5))
            file["t0_fields/height"].attrs.update(attrs)

        assert "height has the shape (6, 5, 4, 5), not (6, 6, 4, 5)" in message(shorten)

        def poison(file):
            file["t1_fields/velocity"][4, 2, 1, 1, 0] = np.nan

        assert "valid, trajectory 1: field velocity_x holds values not finite" in message(poison)
        assert "no such file" in refusal(read_well, tmp_path / "nowhere")
        assert "exists already" in refusal(export_well, flow, tmp_path)

    def test_systems_without_space_have_no_place(self, tmp_path):
        create_store(
            tmp_path / "ode.zarr",
            fields={"x": stores.QUANTITY},
            parameters={"dt": stores.QUANTITY},
            boundary=(),
            space=(),
            splits=SPLITS,
            layout={"frames_per_chunk": 5, "trajectories_per_shard": 3, "dtype": "float32"},
            attrs={"equation": {"name": "toy"}, "seed": 0, "provenance": {}},
        )
        writer = StoreWriter(tmp_path / "ode.zarr")
        for split, numbers in list(writer.missing()):
            shape = (len(numbers), SPLITS[split]["frames"], 1)
            writer.write(split, numbers, {"dt": np.ones(len(numbers))}, np.zeros(shape))
        unknown = dict.fromkeys(
            ("reference_error", "predictability", "predictability_censored"), None
        )
        writer.finish(np.empty(0), np.empty(0), unknown)
        store = open_store(tmp_path / "ode.zarr")
        for export in (export_well, export_pdebench):
            assert "no axis of space" in refusal(export, store, tmp_path / "out")
            assert not (tmp_path / "out").exists()


def burgers(path, count=10, frames=21, points=32, seed=0):
    """One field in one dimension as PDEBench lays it out; time has an entry more than frames."""
    random = np.random.default_rng(seed)
    x = (np.arange(points) + 0.5) / points
    waves = np.arange(1, 4)[:, None, None]
    phase = random.uniform(0, 2 * np.pi, (count, 3, 1, 1))
    t = 0.1 * np.arange(frames + 1)
    tensor = (np.cos(2 * np.pi * waves * (x - 0.1 * t[:-1, None]) + phase) / waves).sum(1)
    with h5py.File(path, "w") as file:
        file["tensor"] = tensor.astype("f4")
        file["x-coordinate"], file["t-coordinate"] = x.astype("f4"), t.astype("f4")
        file.attrs["Nu"] = 0.01
    return tensor.astype("f4")


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pdebench")
    tensor = burgers(folder / "1D_Burgers.hdf5")
    options = ["--splits", 6, 2, 2, "--boundary", "periodic", "--parameter", "beta=0.4"]
    paths = folder / "1D_Burgers.hdf5", folder / "burgers.zarr"
    call("--from", "pdebench", "--to", "store", *paths, *options)
    return tensor, open_store(folder / "burgers.zarr")


class TestPDEBench:
    def test_one_field_in_one_dimension(self, imported):
        tensor, store = imported
        assert store.fields == ("u",) and store.attrs["boundary"] == {"x": "periodic"}
        blocks = dict(zip(SPLITS, np.split(tensor, [6, 8]), strict=True))
        for split, block in blocks.items():
            part = store.split(split)
            assert np.array_equal(part.read(slice(None), slice(None))[:, :, 0], block)
            for name, value in {"length": 1.0, "dt": 0.1, "Nu": 0.01, "beta": 0.4}.items():
                assert (part.parameters[name] == value).all()
        x = zarr.open_array(store.path / "train" / "x")[:]
        assert np.array_equal(x, (np.arange(32) + 0.5) / 32)

    def test_it_is_trained_on_and_scored(self, imported, root, tmp_path):
        """Through the functions of the verbs; the dataset that the YAML names isn't used."""
        _, store = imported
        experiment = {
            "paper": {"title": "A test", "arxiv": "0000.00000"},
            "task": {"name": "forecast"},
            "dataset": "toy",
            "seeds": 1,
            "evaluate": {"steps": 5, "stride": 1, "trajectories": 2},
            "methods": {"unet": {"name": "unet", "width": 4, "multipliers": [1, 2]}},
            "trainer": {
                "max_steps": 3,
                "batch_size": 4,
                "accelerator": "cpu",
                "validate_every": 3,
                "valid_windows": 4,
            },
        }
        dataset = {
            "equation": {"name": "kuramoto_sivashinsky"},
            "seed": 0,
            "splits": {name: {"trajectories": 2, "frames": 21} for name in SPLITS},
        }
        for kind, name, content in (
            ("experiments", "test", experiment),
            ("presets", "smoke", {}),
            ("datasets", "toy", dataset),
        ):
            file = tmp_path / "configs" / kind / f"{name}.yaml"
            file.parent.mkdir(parents=True)
            file.write_text(yaml.safe_dump(content))
        spec = config.compose(tmp_path / "configs", "test", "smoke")
        module, content = train.train(spec, "unet", 0, [store], tmp_path / "run", [])
        assert content["updates"] == 3 and content["description"]["equation_name"] == "imported"
        scores = module.eval().evaluate(store, spec["evaluate"], seed=0).scores
        error = scores[scores.metric == "nrmse"].value
        assert len(error) and np.isfinite(error).all()
        spec["methods"]["unet"]["multipliers"] = [1] * 7  # halves 32 points six times
        with pytest.raises(UserError, match=r"sides are multiples of 64, this one has \[32\]"):
            train.train(spec, "unet", 0, [store], tmp_path / "run", [])

    def test_written_back_it_is_what_it_was(self, imported, tmp_path):
        tensor, store = imported
        export_pdebench(store, tmp_path / "back")
        files = [tmp_path / "back" / f"{split}.hdf5" for split in SPLITS]
        read = []
        for path in files:
            with h5py.File(path) as file:
                assert {"tensor", "x-coordinate", "t-coordinate"} == set(file)
                assert file.attrs["Nu"] == 0.01 and file.attrs["boundary_x"] == "periodic"
                assert file["tensor"].dtype == np.float32
                read.append(file["tensor"][:])
                np.testing.assert_allclose(file["x-coordinate"], (np.arange(32) + 0.5) / 32)
                np.testing.assert_allclose(file["t-coordinate"], 0.1 * np.arange(21))
        assert np.array_equal(np.concatenate(read), tensor)
        call("--from", "pdebench", "--to", "store", tmp_path / "back", tmp_path / "again.zarr")
        same(store.path, tmp_path / "again.zarr")

    def test_compressible_flow(self, tmp_path):
        """One array per field, two dimensions, in PDEBench's order and not the alphabet's."""
        random = np.random.default_rng(0)
        names = ("density", "pressure", "Vx", "Vy")
        values = {name: random.normal(size=(6, 4, 8, 6)).astype("f4") for name in names}
        path = tmp_path / "2D_CFD.hdf5"
        with h5py.File(path, "w") as file:
            for name, array in values.items():
                file[name] = array
            file["x-coordinate"] = ((np.arange(8) + 0.5) / 8).astype("f4")
            file["y-coordinate"] = ((np.arange(6) + 0.5) / 6 * 0.5).astype("f4")
            file["t-coordinate"] = np.arange(5, dtype="f4") * 0.05
            file.attrs["eta"], file.attrs["zeta"], file.attrs["M"] = 0.1, 0.1, 1.0
        convert.convert(path, tmp_path / "s.zarr", "pdebench", {}, splits=(2, 2, 2))
        store = open_store(tmp_path / "s.zarr")
        assert store.fields == names and store.attrs["boundary"] == dict.fromkeys("xy", "unknown")
        part = store.split("valid")
        assert {k: float(v[0]) for k, v in part.parameters.items()} == {
            "length": 1.0,
            "length_y": 0.5,
            "dt": 0.05,
            "eta": 0.1,
            "zeta": 0.1,
            "M": 1.0,
        }
        read = part.read(slice(None), slice(None))
        assert all(np.array_equal(read[:, :, i], values[n][2:4]) for i, n in enumerate(names))
        export_pdebench(store, tmp_path / "back")
        with h5py.File(tmp_path / "back" / "test.hdf5") as file:
            assert all(np.array_equal(file[name], values[name][4:]) for name in names)
        convert.convert(tmp_path / "back", tmp_path / "again.zarr", "pdebench", {})
        same(store.path, tmp_path / "again.zarr")

    def test_velocities_of_ours_get_the_names_of_theirs(self, tmp_path):
        fields = ("density", "u", "v", "pressure")
        splits = {name: {"trajectories": 2, "frames": 4} for name in SPLITS}
        store = stores.make(tmp_path / "gas.zarr", fields, (8, 8), splits)
        for split in splits:  # one grid and one step for all, as that layout wants
            for name in ("length", "dt"):
                zarr.open_array(store.path / split / name, mode="r+")[:] = 2.0
        export_pdebench(open_store(store.path), tmp_path / "gas")
        with h5py.File(tmp_path / "gas" / "train.hdf5") as file:
            assert list(file.attrs["fields"]) == ["density", "Vx", "Vy", "pressure"]
            states, _ = stores.values("train", 4, (8, 8), splits)
            assert np.array_equal(file["Vy"], states[:, :, 2])

    def test_a_group_per_trajectory(self, tmp_path):
        random = np.random.default_rng(0)
        path = tmp_path / "2D_diff-react.h5"
        data = random.normal(size=(5, 7, 6, 6, 2)).astype("f4")
        with h5py.File(path, "w") as file:
            for number, sample in enumerate(data):
                group = file.create_group(f"{number:04d}")
                group["data"] = sample
                for axis in "xy":
                    group[f"grid/{axis}"] = np.linspace(-1 + 1 / 6, 1 - 1 / 6, 6, dtype="f4")
                group["grid/t"] = np.linspace(0, 3, 7, dtype="f4")
                group.attrs["config"] = "sim: {}"
        options = {"splits": (3, 1, 1), "boundary": ("no flux",)}
        convert.convert(path, tmp_path / "s.zarr", "pdebench", {}, **options)
        store = open_store(tmp_path / "s.zarr")
        assert store.fields == ("u", "v")
        read = store.split("train").read(slice(None), slice(None))
        assert np.array_equal(np.moveaxis(read, 2, -1), data[:3])
        assert np.allclose(store.split("train").parameters["length"], 2)
        export_pdebench(store, tmp_path / "back")
        with h5py.File(tmp_path / "back" / "train.hdf5") as file:
            assert np.array_equal(file["0002/data"], data[2])
            np.testing.assert_allclose(
                file["0002/grid/x"], np.linspace(-1 + 1 / 6, 1 - 1 / 6, 6), atol=1e-5
            )
            np.testing.assert_allclose(file["0002/grid/t"], np.linspace(0, 3, 7), rtol=1e-6)
        convert.convert(tmp_path / "back", tmp_path / "again.zarr", "pdebench", {})
        same(store.path, tmp_path / "again.zarr")

    def test_stores_of_ours_come_back(self, flow, tmp_path):
        """Lengths and steps differ between trajectories: then every one has a group."""
        call("--from", "store", "--to", "pdebench", flow.path, tmp_path / "out")
        with h5py.File(tmp_path / "out" / "valid.hdf5") as file:
            assert {"0000", "0001", "0002"} == set(file)
        call("--from", "pdebench", "--to", "store", tmp_path / "out", tmp_path / "back.zarr")
        same(flow.path, tmp_path / "back.zarr")

    def test_darcy_flow(self, tmp_path):
        random = np.random.default_rng(0)
        path = tmp_path / "2D_DarcyFlow.hdf5"
        nu, tensor = random.normal(size=(2, 6, 8, 8)).astype("f4")
        with h5py.File(path, "w") as file:
            file["nu"], file["tensor"] = nu, tensor[:, None]
            for axis in "xy":
                file[f"{axis}-coordinate"] = (np.arange(8) + 0.5) / 8
            file.attrs["beta"] = 1.0
        convert.convert(path, tmp_path / "s.zarr", "pdebench", {}, splits=(4, 1, 1))
        store = open_store(tmp_path / "s.zarr")
        assert store.fields == ("nu", "u") and "dt" not in store.parameters
        read = store.split("train").read(slice(None), slice(None))
        assert read.shape == (4, 1, 2, 8, 8) and np.array_equal(read[:, 0, 0], nu[:4])
        export_pdebench(store, tmp_path / "back")
        with h5py.File(tmp_path / "back" / "train.hdf5") as file:
            assert np.array_equal(file["nu"], nu[:4])
            assert np.array_equal(file["tensor"], tensor[:4, None])

    def test_what_cannot_be_read_is_refused_in_one_line(self, tmp_path):
        path, output = tmp_path / "a.hdf5", tmp_path / "s.zarr"

        def message(splits=(6, 2, 2), **options):
            options = {"splits": splits} | options
            found = refusal(convert.convert, path, output, "pdebench", {}, **options)
            assert not output.exists() and not list(tmp_path.glob(".s*"))
            return found

        assert "no such file" in message()
        burgers(path)
        assert "12 trajectories are wanted, there are 10" in message((8, 2, 2))
        assert "don't say how to divide 10 trajectories" in message(None)
        assert "test.trajectories: must be between 1 and 10" in message((7, 2, 0))
        assert "has 1 fields, 2 names are given" in message(fields=("u", "v"))
        assert "boundary.y: there is no such axis" in message(boundary=("wall", "wall"))
        data = path.read_bytes()
        path.write_bytes(data[:3000])
        assert "can't be read as HDF5, or is cut short" in message()
        path.write_bytes(data)
        with h5py.File(path, "r+") as file:
            file["tensor"][9, 3, 2] = np.inf
        assert "test, trajectory 1: field u holds values not finite" in message()
        with h5py.File(path, "r+") as file:
            del file["t-coordinate"]
            file["t-coordinate"] = np.arange(5.0)
        assert "t has 5 values for 21 points" in message()
        with h5py.File(path, "r+") as file:
            del file["t-coordinate"]
        assert "layout of PDEBench" in message()
        with h5py.File(path, "w") as file:
            file["stuff"] = [1.0]
        assert "in no known layout of PDEBench; it holds stuff" in message()


def change(path, **attributes):
    """Change attributes of a file; a key is `group/array@name`, or the name alone."""
    with h5py.File(path, "r+") as file:
        for key, value in attributes.items():
            place, _, name = key.rpartition("@")
            (file[place] if place else file).attrs[name] = value


class TestOtherWriters:
    """What MATLAB, Fortran and others write differently, and what disagrees."""

    def of_burgers(self, path, output, **options):
        convert.convert(path, output, "pdebench", {}, splits=(6, 2, 2), **options)
        return open_store(output).split("train")

    def test_the_coordinates_win(self, tmp_path):
        burgers(tmp_path / "a.hdf5")
        change(tmp_path / "a.hdf5", dt=10.0, length=5.0, first_time=3.0)
        train = self.of_burgers(tmp_path / "a.hdf5", tmp_path / "s.zarr")
        expected = {"length": 1, "dt": 0.1, "Nu": 0.01, "dt_": 10, "length_": 5, "first_time_": 3}
        assert {k: v[0] for k, v in train.parameters.items()} == pytest.approx(expected)
        change(tmp_path / "a.hdf5", dt=0.1, length=1.0, first_time=0.0)
        agreeing = self.of_burgers(tmp_path / "a.hdf5", tmp_path / "t.zarr")
        assert agreeing.parameters["dt"][0] == 0.1
        assert not {"dt_", "length_"} & set(agreeing.parameters)

    def test_the_coordinates_win_in_the_well_too(self, tmp_path):
        path = tmp_path / "a.hdf5"
        TestWell.write(path, 6, np.random.default_rng(0))
        with h5py.File(path, "r+") as file:
            file["scalars"].attrs["field_names"] = ["dt", "first_time", "length"]
            for name, value in (("dt", 99.0), ("first_time", 3.0), ("length", 2.0)):
                file[f"scalars/{name}"] = value
                for flag in ("sample_varying", "time_varying"):
                    file[f"scalars/{name}"].attrs[flag] = False
        values = {k: v[0] for k, v in read_well(path).parts[""].parameters.items()}
        expected = {"length": 2, "length_y": 5, "dt": 0.25, "first_time": 3, "dt_": 99}
        assert values == pytest.approx(expected)

    def test_text_may_be_bytes(self, tmp_path, flow, exported):
        """NumPy's bytes, Fortran's of fixed length, and a list of one."""
        name = "data/train/flow.hdf5"
        plain = read_well(exported / name)
        copy = tmp_path / "flow.hdf5"
        copy.write_bytes((exported / name).read_bytes())
        changed = 0

        def convert_attributes(_, item):
            nonlocal changed
            for key, value in item.attrs.items():
                if isinstance(value, str):
                    item.attrs[key] = [np.bytes_(value), np.array([value.encode()])][changed % 2]
                elif np.asarray(value).dtype == object:
                    item.attrs[key] = np.array([v.encode() for v in value], "S20")
                changed += 1

        with h5py.File(copy, "r+") as file:
            convert_attributes("", file)
            file.visititems(convert_attributes)
            for group in file["boundary_conditions"].values():
                del group.attrs["longrun_boundary"]
        read = read_well(copy)
        assert changed > 20 and read.boundary == plain.boundary == ("periodic", "periodic")
        assert read.fields == plain.fields and read.fields["u"]["units"] == "1"
        assert read.parameters == plain.parameters and read.layout == plain.layout
        assert np.array_equal(read.read("", 0, 2), plain.read("", 0, 2))

    @pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
    def test_numbers_may_be_arrays_of_one(self, tmp_path, shape):
        burgers(tmp_path / "a.hdf5")
        change(tmp_path / "a.hdf5", Nu=np.full(shape, 0.01), boundary_x=np.bytes_("periodic"))
        with h5py.File(tmp_path / "a.hdf5", "r+") as file:
            for name in ("x-coordinate", "t-coordinate"):
                grid = file[name][:]
                del file[name]
                file[name] = grid.reshape(1, -1) if shape else grid
        train = self.of_burgers(tmp_path / "a.hdf5", tmp_path / "s.zarr")
        assert train.parameters["Nu"].tolist() == [0.01] * 6
        assert open_store(tmp_path / "s.zarr").boundary == ("periodic",)
        assert train.parameters["dt"][0] == 0.1
        path = tmp_path / "well.hdf5"
        TestWell.write(path, 6, np.random.default_rng(0))
        with h5py.File(path, "r+") as file:
            del file["scalars/Re"]
            file["scalars/Re"] = np.full(shape, 100.0)
            file["scalars/Re"].attrs["time_varying"] = np.zeros(shape, bool)
            file.attrs["n_trajectories"] = np.full(shape, 6)
        assert read_well(path).parts[""].parameters["Re"].tolist() == [100.0] * 6

    def test_a_mask_of_every_trajectory(self, tmp_path):
        path = tmp_path / "a.hdf5"
        TestWell.write(path, 6, np.random.default_rng(0))
        with h5py.File(path, "r+") as file:
            for name in ("px", "wy", "oy"):
                mask = file[f"boundary_conditions/{name}/mask"][:]
                del file[f"boundary_conditions/{name}/mask"]
                file[f"boundary_conditions/{name}/mask"] = np.tile(mask, (6, 1))
                file[f"boundary_conditions/{name}"].attrs["sample_varying"] = True
        assert read_well(path).boundary == ("periodic", "wall; open")
        with h5py.File(path, "r+") as file:
            file["boundary_conditions/wy/mask"][3, 0] = False
        assert "differs between trajectories" in refusal(read_well, path)

    @pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
    def test_parameters_that_are_not_finite_are_refused(self, tmp_path, value):
        path, output = tmp_path / "a.hdf5", tmp_path / "s.zarr"
        burgers(path)
        with h5py.File(path, "r+") as file:
            file["parameters/force"] = [1.0] * 7 + [value] + [1.0] * 2
        message = refusal(self.of_burgers, path, output)
        assert "valid, trajectory 1: parameter force holds values" in message
        assert message.endswith("too large for float32" if value == 1e300 else "not finite")
        assert not output.exists()

    def test_fields_beyond_single_precision_are_refused(self, tmp_path):
        path = tmp_path / "a.hdf5"
        tensor = burgers(path).astype(float)
        tensor[9, 2, 3] = 1e39
        with h5py.File(path, "r+") as file:
            del file["tensor"]
            file["tensor"] = tensor
        message = refusal(self.of_burgers, path, tmp_path / "s.zarr")
        assert message.endswith("test, trajectory 1: field u holds values too large for float32")

    @pytest.mark.parametrize("dtype", [np.complex64, np.longdouble])
    def test_other_numbers_are_refused(self, tmp_path, dtype):
        path = tmp_path / "a.hdf5"
        tensor = burgers(path)
        with h5py.File(path, "r+") as file:
            del file["tensor"]
            file["tensor"] = tensor.astype(dtype)
        message = refusal(self.of_burgers, path, tmp_path / "s.zarr")
        assert f"fields are {np.dtype(dtype)}; a store holds float32 and float64" in message
        path = tmp_path / "well.hdf5"
        height = TestWell.write(path, 6, np.random.default_rng(0))["height"]
        with h5py.File(path, "r+") as file:
            attrs = dict(file["t0_fields/height"].attrs)
            del file["t0_fields/height"]
            file["t0_fields/height"] = height.astype(dtype)
            file["t0_fields/height"].attrs.update(attrs)
        assert f"fields are {np.dtype(dtype)}" in refusal(read_well, path)
        with h5py.File(path, "r+") as file:
            file["scalars/Re"].attrs["time_varying"] = True
            del file["scalars/x"]
            file["scalars/x"] = np.full(6, 1j)
            file["scalars/x"].attrs["time_varying"] = False
            file["t0_fields"].attrs["field_names"] = ["mask"]
        assert "scalar x must be one real number" in refusal(read_well, path)

    def test_a_field_may_be_named_like_a_parameter(self, tmp_path):
        path = tmp_path / "a.hdf5"
        burgers(path)
        change(path, length_=7.0, u=1.0)
        train = self.of_burgers(path, tmp_path / "s.zarr", fields=["length"])
        assert train.fields == ("length_",)
        assert set(train.parameters) == {"length", "dt", "Nu", "length__", "u"}
        train = self.of_burgers(path, tmp_path / "t.zarr")
        assert train.fields == ("u",)
        assert train.parameters["u_"][0] == 1 and train.read(slice(None), slice(None)).size
        message = refusal(self.of_burgers, path, tmp_path / "x.zarr", parameters={"u": 1.0})
        assert message == "source.parameters.u: a field has that name"

    def test_a_field_of_the_well_may_be_named_like_a_parameter(self, tmp_path):
        path = tmp_path / "a.hdf5"
        TestWell.write(path, 6, np.random.default_rng(0))
        with h5py.File(path, "r+") as file:
            file["scalars"].move("Re", "height")
            file["scalars"].attrs["field_names"] = ["height"]
            file["t0_fields"].move("mask", "length")
            file["t0_fields"].attrs["field_names"] = ["height", "length"]
        foreign = read_well(path)
        assert list(foreign.fields)[:2] == ["height", "length_"]
        assert foreign.parts[""].parameters["height_"].tolist() == [100.0] * 6
        convert.convert(path, tmp_path / "s.zarr", "the_well", {}, splits=(3, 2, 1))
        assert open_store(tmp_path / "s.zarr").fields[:2] == ("height", "length_")

    def test_groups_are_in_the_order_of_their_numbers(self, tmp_path, monkeypatch):
        path = tmp_path / "a.h5"
        with h5py.File(path, "w") as file:
            for number in (8, 9, 10, 100, 99):
                file[f"{number}/data"] = np.full((2, 4, 1), float(number))
                file[f"{number}/grid/x"], file[f"{number}/grid/t"] = np.arange(4.0), np.arange(2.0)
        convert.convert(path, tmp_path / "s.zarr", "pdebench", {}, splits=(3, 1, 1))
        train = open_store(tmp_path / "s.zarr").split("train")
        assert train.read(slice(None), slice(1))[:, 0, 0, 0].tolist() == [8, 9, 10]

    @pytest.mark.parametrize("count", [1, 10_000, 10_001])
    def test_groups_of_an_export_sort_as_text(self, count):
        names = _group_names(count)
        assert names == sorted(names) and [int(name) for name in names] == list(range(count))
        assert names[0] == ("00000" if count > 10_000 else "0000")


class TestVerb:
    def test_one_side_is_a_store(self, flow, tmp_path):
        pair = ["--from", "store", "--to", "store"]
        assert "one of --from and --to must be store" in refusal(call, *pair, flow.path, tmp_path)
        options = ["--from", "store", "--to", "the_well", "--splits", 1, 1, 1]
        assert "knows its splits" in refusal(call, *options, flow.path, tmp_path / "x")
        options = ["--from", "pdebench", "--to", "store", "--parameter", "beta"]
        assert "name=number" in refusal(call, *options, flow.path, tmp_path / "x")
        options = ["--from", "store", "--to", "the_well", tmp_path / "none", tmp_path / "x"]
        assert "no such store" in refusal(call, *options)

    def test_a_killed_conversion_leaves_nothing(self, flow, tmp_path, monkeypatch):
        def stop(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr("longrun.exchange.well._write_fields", stop)
        with pytest.raises(KeyboardInterrupt):
            export_well(flow, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_memory_is_bounded_by_a_shard(self, tmp_path, monkeypatch):
        """Of a file of 32 MB, at shards of 2 MB, never more than a few are held."""
        path = tmp_path / "big.hdf5"
        with h5py.File(path, "w") as file:
            array = file.create_dataset("tensor", (64, 32, 4096), "f4")
            for row in range(64):
                array[row] = row
            file["x-coordinate"], file["t-coordinate"] = np.arange(4096.0), np.arange(32.0)
        monkeypatch.setattr(exchange, "BLOCK", 2**21)
        tracemalloc.start()
        convert.convert(path, tmp_path / "s.zarr", "pdebench", {}, splits=(40, 12, 12))
        imported = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        export_well(open_store(tmp_path / "s.zarr"), tmp_path / "well")
        exported = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert imported < 16e6 and exported < 16e6
        with h5py.File(tmp_path / "well" / "data" / "test" / "s.hdf5") as file:
            assert (file["t0_fields/u"][:, 0, 0] == np.arange(52, 64)).all()


def test_names_that_a_store_cannot_have():
    assert exchange.as_name("Re") == "Re"
    assert exchange.as_name("t/c") == "t_c"
    assert exchange.as_name("2nd") == "_2nd"
    assert exchange.as_name("x") == "x_" and exchange.as_name("u", ["u"]) == "u_"


def test_an_even_grid_in_single_precision_is_even():
    first, step = exchange.spacing(np.linspace(0, 6.4, 65)[None, :-1].astype("f4"), "x")
    assert first[0] == 0 and step[0] == pytest.approx(0.1, rel=1e-6)
