import json
import pickle
import re
import shutil
import warnings

import numpy as np
import pytest
import stores
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.data.store import (
    Split,
    StoreWriter,
    open_store,
    read_predictions,
    write_predictions,
)
from longrun.runtime.cli import UserError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return stores.make(tmp_path_factory.mktemp("store") / "toy.zarr", ("u", "v"), (8, 6))


@pytest.fixture
def copy(store, tmp_path):
    """A copy to be damaged."""
    shutil.copytree(store.path, tmp_path / "toy.zarr")
    return tmp_path / "toy.zarr"


def refusal(call, *arguments):
    with pytest.raises(UserError) as caught:
        call(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_what_is_read_is_what_was_written(store):
    for name in stores.SPLITS:
        states, parameters = stores.values(name, 2, (8, 6))
        split = store.split(name)
        assert (split.trajectories, split.frames, split.space) == (*states.shape[:2], (8, 6))
        assert np.array_equal(split.read(slice(None), slice(None)), states)
        assert list(split.parameters) == ["length", "dt"]
        for key, expected in parameters.items():
            assert split.parameters[key].dtype == np.float64
            assert np.array_equal(split.parameters[key], expected)


@settings(max_examples=40, deadline=None)
@given(
    trajectories=st.lists(st.integers(0, 6), max_size=5),
    start=st.integers(0, 22),
    stop=st.integers(0, 30),
    step=st.integers(1, 12),
)
def test_read_agrees_with_numpy(store, trajectories, start, stop, step):
    states, _ = stores.values("train", 2, (8, 6))
    chosen = np.array(trajectories, dtype=int)
    read = store.split("train").read(chosen, slice(start, stop, step))
    assert np.array_equal(read, states[chosen][:, start:stop:step])


@settings(max_examples=40, deadline=None)
@given(data=st.data(), length=st.integers(1, 5), stride=st.integers(1, 5))
def test_windows_agree_with_numpy(store, data, length, stride):
    states, _ = stores.values("train", 2, (8, 6))
    last = states.shape[1] - (length - 1) * stride - 1
    draw = st.lists(st.tuples(st.integers(0, 6), st.integers(0, last)), min_size=1, max_size=6)
    trajectories, starts = np.array(data.draw(draw)).T
    windows = store.split("train").windows(trajectories, starts, length, stride)
    expected = [
        states[i, s : s + length * stride : stride][:length]
        for i, s in zip(trajectories, starts, strict=True)
    ]
    assert np.array_equal(windows, np.stack(expected))


@pytest.mark.parametrize("start", [-1, 20])
def test_windows_beyond_a_trajectory_are_refused(store, start):
    with pytest.raises(IndexError):
        store.split("train").windows(np.array([0]), np.array([start]), 2, 3)


def test_our_reader_agrees_with_zarr(store):
    for name in stores.SPLITS:
        read = store.split(name).read(slice(None), slice(None))
        for channel, field in enumerate(("u", "v")):
            assert np.array_equal(
                zarr.open_array(store.path / name / field)[:], read[:, :, channel]
            )


def test_layout_is_sharded_chunked_and_checksummed(store):
    array = zarr.open_array(store.path / "train" / "u")
    assert array.chunks == (1, 5, 8, 6)
    assert array.shards == (3, 25, 8, 6)
    assert [type(codec).__name__ for codec in array.compressors] == ["Crc32cCodec"]
    assert len(list((store.path / "train" / "u" / "c").glob("*/0/0/0"))) == 3
    assert not any("consolidated" in p.read_text() for p in store.path.rglob("zarr.json"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_compressed_store_holds_the_same_in_fewer_bytes(tmp_path, dtype):
    """Frames of one wave: our reader and zarr's agree, a writer resumes, and damage shows."""
    wave = np.sin(np.arange(64) / 10 + np.arange(23)[:, None]).astype(dtype)
    size = {"train": {"trajectories": 7, "frames": 23}}
    sizes = []
    for layout in ({}, {"compression": "zstd"}):
        writer = stores.begin(
            tmp_path / f"{len(layout)}.zarr", space=(64,), splits=size, dtype=dtype, **layout
        )
        for split, trajectories in list(writer.missing()):
            ones = np.ones(len(trajectories))
            states = np.resize(wave, (len(trajectories), 23, 1, 64))
            writer.write(split, trajectories, {"length": ones, "dt": ones}, states)
        array = writer.path / "train/u"
        sizes.append(sum(file.stat().st_size for file in array.rglob("c/*/0/0")))
        assert list(StoreWriter(writer.path).missing()) == []  # which reads all of it
        assert np.array_equal(zarr.open_array(array)[:], np.resize(wave, (7, 23, 64)))
        read = Split(writer.path / "train", ("u",), ()).read(slice(2, 7), slice(2, 20, 3), dtype)
        assert np.array_equal(read[:, :, 0], np.resize(wave, (7, 23, 64))[2:, 2:20:3])
    assert sizes[1] < 0.7 * sizes[0]
    shard = array / "c/0/0/0"
    content = bytearray(shard.read_bytes())
    content[40] ^= 1
    shard.write_bytes(content)
    assert "is damaged" in refusal(
        Split(writer.path / "train", ("u",), ()).read, slice(None), slice(None)
    )


def test_a_parameter_is_never_compressed(tmp_path):
    store = stores.make(tmp_path / "toy.zarr", compression="zstd")
    file = store.path / "train/dt/zarr.json"
    meta = json.loads(file.read_text())
    field = json.loads((store.path / "train/u/zarr.json").read_text())
    blosc = field["codecs"][0]["configuration"]["codecs"][1]
    assert blosc["name"] == "blosc"
    meta["codecs"] = [meta["codecs"][0], blosc]
    file.write_text(json.dumps(meta))
    split = open_store(store.path).split("train")
    assert "is not an array of a store" in refusal(lambda: split.parameters)


def test_float64_is_stored_and_read_as_float32(tmp_path):
    store = stores.make(tmp_path / "toy.zarr", dtype="float64")
    assert zarr.open_array(store.path / "train" / "u").dtype == np.float64
    read = store.split("train").read(slice(None), slice(None))
    assert read.dtype == np.float32
    assert np.array_equal(read, stores.values("train")[0])


def test_xarray_reads_it_and_time_stays_a_number(store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = xr.open_dataset(
            store.path, group="train", engine="zarr", consolidated=False, decode_timedelta=True
        )
    assert dataset.u.dims == ("trajectory", "time", "x", "y")
    assert dataset.time.dtype == dataset.x.dtype == dataset.dt.dtype == np.float64
    assert np.array_equal(dataset.time, np.arange(23))
    assert np.array_equal(dataset.x, np.arange(8) / 8)
    assert dataset.u.attrs["units"] == "1"
    assert {"length", "dt"} <= set(dataset.coords)
    root = xr.open_dataset(store.path, engine="zarr", consolidated=False)
    assert root.attrs["boundary"] == {"x": "periodic", "y": "periodic"}
    assert root.reference_error.dims == ("lead_time",)


def test_attributes_have_a_checksum(store, tmp_path):
    assert store.boundary == ("periodic", "periodic")
    meta = shutil.copytree(store.path, tmp_path / "copy.zarr") / "zarr.json"
    content = meta.read_text()
    for old, new, problem in (
        ('"x": "periodic"', '"x": "perhodic"', "is damaged: its attributes"),
        ('"boundary": {', '"bound": {', "lacks boundary"),
    ):
        assert old in content
        meta.write_text(content.replace(old, new))
        with pytest.raises(UserError, match=problem):
            open_store(meta.parent)
    older = re.sub(r'"complete": "\w+"', '"complete": true', content)
    meta.write_text(older)
    assert open_store(meta.parent).attrs == store.attrs | {"complete": True}


def test_reference_error_comes_with_lead_times(store):
    lead_time, error = store.reference_error()
    assert np.array_equal(lead_time, [1, 2, 3])
    assert np.allclose(error, lead_time / 10)
    assert store.predictability == 5


def test_a_store_travels_as_its_path(store):
    store.split("train").read(slice(None), slice(None))
    text = pickle.dumps(store)
    assert len(text) < 500
    assert np.array_equal(
        pickle.loads(text).split("test").parameters["dt"], store.split("test").parameters["dt"]
    )


def test_snakemake_may_leave_its_timestamp(copy):
    (copy / ".snakemake_timestamp").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_store(copy, "toy").split("train").trajectories == 7


def test_refused_stores_are_named_in_one_line(tmp_path, copy):
    absent = tmp_path / "absent.zarr"
    assert refusal(open_store, absent).startswith(f"{absent}: no such store")
    file = tmp_path / "file"
    file.write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    zarr.create_group(tmp_path / "other.zarr")
    broken = tmp_path / "broken.zarr"
    broken.mkdir()
    (broken / "zarr.json").write_text("{")
    for path in (file, folder, tmp_path / "other.zarr", broken, copy / "train"):
        assert refusal(open_store, path) == f"{path}: is not a Longrun store"
    unfinished = tmp_path / "unfinished.zarr"
    stores.fill(stores.begin(unfinished))
    assert "incomplete" in refusal(open_store, unfinished)
    message = refusal(open_store, copy, "burgers")
    assert message == f"{copy}: holds trajectories of toy, not of burgers"
    assert "has no split future" in refusal(open_store(copy).split, "future")
    zarr.open_group(copy).attrs["longrun_store"] = 99
    assert "schema 99" in refusal(open_store, copy)


def flip(path, position):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("position", [0, 100, -5, -1])  # two chunks' data, the index, its checksum
def test_a_flipped_bit_in_a_shard_is_found(copy, position):
    flip(copy / "train" / "u" / "c" / "0" / "0" / "0" / "0", position)
    split = open_store(copy).split("train")
    message = refusal(split.read, slice(None), slice(None))
    assert str(copy / "train" / "u") in message
    assert "checksum" in message
    assert np.array_equal(  # the other shards are sound
        split.read(slice(3, None), slice(None)), stores.values("train", 2, (8, 6))[0][3:]
    )


def test_other_damage_is_found(copy):
    shards = copy / "train" / "u" / "c"
    flip(copy / "train" / "dt" / "c" / "0", 3)
    assert "checksum" in refusal(lambda: open_store(copy).split("train").parameters)
    whole = shards / "1" / "0" / "0" / "0"
    whole.write_bytes(whole.read_bytes()[:-1000])
    assert "checksum" in refusal(open_store(copy).split("train").read, slice(3, 6), slice(None))
    whole.write_bytes(b"")
    store = open_store(copy)
    assert "missing" in refusal(store.split("train").read, slice(3, 6), slice(None))
    whole.unlink()
    assert "missing" in refusal(store.split("train").read, slice(3, 6), slice(None))


def test_a_store_that_lost_a_file_is_not_opened(copy):
    """Zarr reads an absent chunk as the fill value: as zeros or NaN, silently."""
    chunks = [file for file in copy.rglob("*") if file.is_file() and "c" in file.parts]
    described = [file for file in copy.rglob("zarr.json") if len(file.relative_to(copy).parts) > 2]
    names = {file.relative_to(copy).parts[:2] for file in chunks}
    assert {("train", "x"), ("train", "time"), ("test", "dt"), ("reference_error", "c")} <= names
    for file in (*chunks, *described):
        data = file.read_bytes()
        file.unlink()
        assert refusal(open_store, copy) == f"{file}: is missing; generate the store anew"
        file.write_bytes(data)
    assert open_store(copy).split("train").trajectories == 7


def test_zeros_are_written_and_so_can_be_lost(tmp_path):
    splits = {name: {"trajectories": 1, "frames": 1} for name in stores.SPLITS}
    path = stores.make(tmp_path / "still.zarr", splits=splits).path
    assert (zarr.open_array(path / "train" / "time")[:] == 0).all()
    (path / "train" / "time" / "c" / "0").unlink()
    assert "time/c/0: is missing" in refusal(open_store, path)
    described = path / "train" / "time" / "zarr.json"  # as earlier versions wrote it
    described.write_text(re.sub('"fill_value": "NaN"', '"fill_value": 0.0', described.read_text()))
    assert open_store(path).split("train").frames == 1


def test_a_writer_continues_at_what_is_missing(tmp_path):
    writer = stores.begin(tmp_path / "toy.zarr", ("u", "v"))
    shards = [("train", range(3)), ("train", range(3, 6)), ("train", range(6, 7))]
    shards += [("valid", range(3)), ("test", range(1))]
    assert list(writer.missing()) == shards
    stores.fill(writer, 2)
    assert list(writer.missing()) == []
    folder = tmp_path / "toy.zarr" / "train"
    (folder / "v" / "c" / "1" / "0" / "0").unlink()  # killed between two fields
    leftover = folder / "v" / "c" / "1" / "0" / "0.0123.partial"  # zarr's own temporary file
    leftover.write_text("half")
    again = StoreWriter(tmp_path / "toy.zarr")
    assert list(again.missing()) == shards[1:2]
    assert not leftover.exists()


def test_nothing_counts_as_written_before_it_is(tmp_path, monkeypatch):
    writer = stores.begin(tmp_path / "toy.zarr")
    states, parameters = stores.values("train")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        writer.write("train", range(3), {k: v[:3] for k, v in parameters.items()}, states[:3])
    monkeypatch.undo()
    assert next(StoreWriter(tmp_path / "toy.zarr").missing()) == ("train", range(3))


def test_predictions_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "predictions.zarr"
    dims = ("trajectory", "lead_time", "field", "x")
    dataset = xr.Dataset(
        {"truth": (dims, np.random.default_rng(0).normal(size=(2, 3, 1, 4)).astype("f4"))},
        {"lead_time": ("lead_time", [0.0, 0.5, 1.0], {"units": "seconds"}), "field": ["u"]},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_predictions(path, dataset)
    (path / ".snakemake_timestamp").touch()  # as the workflow marks its folders
    with warnings.catch_warnings(action="error"):
        assert xr.testing.assert_identical(read_predictions(path), dataset) is None
    assert read_predictions(path).lead_time.dtype == np.float64
    write_predictions(path, read_predictions(path).isel(x=slice(2)))  # with the old encoding
    assert read_predictions(path).sizes["x"] == 2

    def fail(self, store, **options):
        (store / "half").mkdir(parents=True)
        raise RuntimeError("full")

    monkeypatch.setattr(xr.Dataset, "to_zarr", fail)
    for target in (path, tmp_path / "new.zarr"):
        with pytest.raises(RuntimeError):
            write_predictions(target, dataset)
    assert read_predictions(path).sizes["x"] == 2
    assert sorted(p.name for p in tmp_path.rglob("*.zarr")) == ["predictions.zarr"]
    assert "no predictions" in refusal(read_predictions, tmp_path / "new.zarr")


def test_predictions_that_lost_a_file_are_not_drawn(tmp_path):
    path = tmp_path / "predictions.zarr"
    values = np.zeros((2, 3), "f4")
    values[1] = np.nan  # neither zeros nor NaN may be left to the fill value
    dataset = xr.Dataset(
        {"truth": (("trajectory", "lead_time"), values), "one": ((), 0.0)},
        {"lead_time": ("lead_time", [0.0, 0.5, 1.0]), "field": ["u"]},
    )
    write_predictions(path, dataset)
    files = [f for f in path.rglob("*") if f.is_file() and len(f.relative_to(path).parts) > 1]
    assert {f.relative_to(path).parts[0] for f in files} == {"truth", "one", "lead_time", "field"}
    for file in files:
        data = file.read_bytes()
        file.unlink()
        assert refusal(read_predictions, path) == f"{file}: is missing; run longrun.evaluate again"
        file.write_bytes(data)
    assert read_predictions(path).identical(dataset)
