import json
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import stores
import torch

from longrun.data import describe as describing
from longrun.data.describe import describe
from longrun.data.module import TrajectoryData
from longrun.data.store import View
from longrun.data.windows import WindowBatches, Windows
from longrun.metrics.spectrum import energy_spectrum
from longrun.runtime.cli import UserError

OPTIONS = {"stride": 4, "history": 2, "horizon": 1, "batch_size": 6, "seed": 5, "batches": 40}
STARTS = 23 - 8  # first frames at which three frames, four apart, fit


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return stores.make(tmp_path_factory.mktemp("data") / "toy.zarr")


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    splits = stores.SPLITS | {"train": {"trajectories": 4, "frames": 31}}
    return stores.make(tmp_path_factory.mktemp("data") / "longer.zarr", splits=splits, seed=1)


def module(*some, **options):
    return TrajectoryData(list(some), **OPTIONS | options)


def stub(step=0, accumulate=1, rank=0, world=1):
    return SimpleNamespace(
        global_step=step,
        accumulate_grad_batches=accumulate,
        global_rank=rank,
        world_size=world,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )


def batches(data, trainer=None):
    data.trainer = trainer
    return list(data.train_dataloader())


def same(left, right):
    return len(left) == len(right) and all(
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        for a, b in zip(left, right, strict=True)
    )


def test_windows_hold_what_the_store_holds(store):
    data = module(store)
    split = store.split("train")
    states = split.read(slice(None), slice(None))
    order = WindowBatches(data.train_windows, OPTIONS["seed"], OPTIONS["batch_size"])
    for number, batch in enumerate(batches(data)):
        assert batch["window"].shape == (6, 3, 1, 8)
        assert batch["window"].dtype == batch["parameters"].dtype == torch.float32
        located = zip(*data.train_windows.locate(order.choose(number)), strict=True)
        for row, (_, trajectory, start) in enumerate(located):
            assert np.array_equal(batch["window"][row], states[trajectory, start : start + 9 : 4])
            expected = [split.parameters[name][trajectory] for name in ("length", "dt")]
            assert np.allclose(batch["parameters"][row], expected)


def test_streamed_batches_are_the_same_bits(store, longer):
    expected = batches(module(store, longer))
    state = torch.get_rng_state()
    assert same(batches(module(store, longer, in_memory=False, workers=0)), expected)
    streamed = module(store, longer, in_memory=False)
    assert same(batches(streamed), expected)
    assert len(streamed.train_dataloader()) == 40
    assert torch.equal(torch.get_rng_state(), state)  # no draw from the global generator


def test_damage_is_one_line_from_a_worker_too(tmp_path):
    store = stores.make(tmp_path / "toy.zarr")
    for shard in (store.path / "train" / "u").glob("c/*/0/0"):
        shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(UserError) as caught:
        batches(module(store, in_memory=False, workers=1))
    assert str(caught.value).startswith(str(store.path))
    assert "\n" not in str(caught.value)


def test_every_epoch_sees_every_window_once_in_an_order_of_its_own(store):
    windows = Windows([store], "train", 3, 4)
    assert len(windows) == 7 * STARTS
    order = WindowBatches(windows, 5, 6)
    seen = np.concatenate([order.choose(b) for b in range(35)])  # two epochs of 105 windows
    epochs = seen.reshape(2, 105)
    assert (np.sort(epochs, 1) == np.arange(105)).all()
    assert not (epochs[0] == epochs[1]).all()
    assert not (epochs[0] == np.arange(105)).all()
    assert set(windows.locate(epochs[0])[2]) == set(range(STARTS))  # every phase of the stride
    other = WindowBatches(windows, 6, 6)
    assert not np.array_equal(order.choose(0), other.choose(0))


def test_a_batch_larger_than_an_epoch(store):
    order = WindowBatches(Windows([store], "train", 3, 4), 5, 250)
    seen = np.concatenate([order.choose(b) for b in range(2)])
    assert (np.bincount(seen[:420]) == 4).all()


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_resumed_run_goes_on_with_the_next_batch(store, in_memory):
    data = module(store, in_memory=in_memory, workers=0)
    everything = batches(data)
    assert same(batches(data, stub(step=7, accumulate=3)), everything[21:])
    assert len(data.train_dataloader()) == 40


def test_devices_share_every_batch(store):
    whole = batches(module(store))
    parts = [batches(module(store), stub(rank=rank, world=3)) for rank in range(3)]
    for number, batch in enumerate(whole):
        shares = torch.stack([part[number]["window"] for part in parts], 1).flatten(0, 1)
        assert torch.equal(shares, batch["window"])
    with pytest.raises(UserError, match="batch_size 6 can't be divided among 4 devices"):
        batches(module(store), stub(world=4))


def test_a_mixture_is_drawn_uniformly_over_all_windows(store, longer):
    windows = Windows([store, longer], "train", 3, 4)
    assert len(windows) == 7 * STARTS + 4 * (STARTS + 8)
    epoch = WindowBatches(windows, 0, len(windows)).choose(0)
    assert np.array_equal(np.sort(epoch), np.arange(len(windows)))
    stores_of, trajectories, starts = windows.locate(np.arange(len(windows)))
    assert (np.bincount(stores_of) == [105, 92]).all()
    assert trajectories[stores_of == 1].max() == 3
    assert starts[stores_of == 1].max() == 22


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"fields": ("w",)}, "fields"),
        ({"space": (10,)}, "grid"),
        ({"splits": stores.SPLITS | {"valid": {"trajectories": 2, "frames": 5}}}, "need 9"),
    ],
)
def test_stores_that_do_not_fit_are_refused(store, tmp_path, options, what):
    other = stores.make(tmp_path / "other.zarr", **options)
    with pytest.raises(UserError, match=what) as caught:
        module(store, other)
    assert str(caught.value).startswith(str(other.path))
    assert "\n" not in str(caught.value)


def test_validation_is_always_the_same_and_spread_out(store):
    def chosen(**options):
        return list(module(store, **options).val_dataloader())

    first = chosen(valid_windows=20)
    assert [len(batch["window"]) for batch in first] == [6, 6, 6, 2]
    assert same(first, chosen(valid_windows=20, seed=99, in_memory=False))
    windows = Windows([store], "valid", 3, 4)
    _, trajectories, starts = windows.locate(windows.spread(20))
    assert (np.bincount(trajectories) >= 6).all()
    assert starts.min() <= 1
    assert starts.max() >= 20
    assert sum(len(batch["window"]) for batch in chosen(valid_windows=1000)) == len(windows)
    data = module(store, valid_windows=20)
    data.trainer = stub(rank=1, world=2)
    assert sum(len(batch["window"]) for batch in data.val_dataloader()) == 10


class Recorder(pl.LightningModule):
    """Records the windows that it is trained on."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 1)
        torch.nn.init.ones_(self.layer.weight)
        torch.nn.init.ones_(self.layer.bias)
        self.windows = []

    def training_step(self, batch):
        self.windows.append(batch["window"].clone())
        return self.layer(batch["window"]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(data, folder, steps, checkpoint=None):
    recorder = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        accumulate_grad_batches=2,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(recorder, data, ckpt_path=checkpoint)
    trainer.save_checkpoint(folder / f"{steps}.ckpt")
    return recorder


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_resumes_in_the_middle_of_its_batches(store, tmp_path):
    whole = fit(module(store), tmp_path, 20)
    part = fit(module(store), tmp_path, 7)
    rest = fit(module(store), tmp_path, 20, tmp_path / "7.ckpt")
    assert len(whole.windows) == 40
    assert len(part.windows) == 14
    windows = part.windows + rest.windows
    assert len(windows) == 40
    assert all(torch.equal(a, b) for a, b in zip(windows, whole.windows, strict=True))
    assert torch.equal(whole.layer.weight, rest.layer.weight)
    assert not torch.equal(whole.layer.weight, part.layer.weight)


@pytest.mark.parametrize("block", [1, 2**26])
def test_description_is_that_of_the_training_split(store, longer, monkeypatch, block):
    monkeypatch.setattr(describing, "BLOCK", block)
    description = json.loads(json.dumps(describe([store, longer], stride=4)))
    states = [
        s.split("train").read(slice(None), slice(None)).astype(float) for s in (store, longer)
    ]
    pooled = np.concatenate([s.reshape(-1) for s in states])
    increments = np.concatenate([(s[:, 4:] - s[:, :-4]).reshape(-1) for s in states])
    dt = np.concatenate([s.split("train").parameters["dt"] for s in (store, longer)])
    statistics = description["statistics"]
    assert np.allclose(statistics["mean"], pooled.mean(), atol=1e-12)
    assert np.allclose(statistics["std"], pooled.std())
    assert np.allclose(statistics["increment_std"], increments.std())
    assert np.allclose(statistics["condition_low"][1], dt.min(), rtol=1e-12)
    assert np.allclose(statistics["condition_high"][1], dt.max(), rtol=1e-12)
    assert np.isclose(description["dt"], 4 * dt.mean())
    assert len(description["spectrum"]) == 5
    assert np.isclose(sum(description["spectrum"]), np.square(pooled).mean())
    assert description["fields"] == description["dims"] == 1
    assert description["conditions"] == 2
    assert description["points"] == [8]
    assert description["equation_name"] == "toy"
    assert description["parameter_names"] == ["length", "dt"]


def test_description_in_two_dimensions_keeps_fields_apart(tmp_path):
    store = stores.make(tmp_path / "toy.zarr", ("u", "v"), (8, 6))
    description = describe([store], stride=1)
    states = store.split("train").read(slice(None), slice(None)).astype(float)
    assert np.allclose(description["statistics"]["std"], states.std((0, 1, 3, 4)))
    assert description["points"] == [8, 6]
    assert len(description["spectrum"]) == 4


def test_boxes_of_unequal_sides_have_bins_of_their_own(tmp_path, monkeypatch):
    store = stores.make(tmp_path / "toy.zarr", ("u",), (8, 8))
    split = store.split("train")
    parameters = {"length": np.ones(7), "dt": np.ones(7), "length_y": np.full(7, 2.0)}
    assert describing.sides(parameters, 2) == (1.0, 2.0)
    monkeypatch.setattr(
        describing, "parameter_table", lambda _: np.stack([*parameters.values()], 1)
    )
    monkeypatch.setitem(store.attrs, "parameters", list(parameters))
    states = split.read(slice(None), slice(None)).astype(float)
    expected = energy_spectrum(states, 2, (1.0, 2.0)).sum(2).mean((0, 1))
    assert np.allclose(describe([store], stride=1)["spectrum"], expected)
    assert not np.allclose(energy_spectrum(states, 2).sum(2).mean((0, 1)), expected)


def test_what_never_varies_is_scaled_by_its_size(tmp_path):
    store = stores.make(tmp_path / "toy.zarr", ("u",), (8, 6))
    seen = store.view(View({"rho": 0.1, "u": None}))
    statistics = describe([seen], stride=1)["statistics"]
    assert statistics["mean"][0] == pytest.approx(0.1)
    for scale in ("std", "increment_std"):
        assert statistics[scale][0] == pytest.approx(0.1)
        alone = describe([store], stride=1)["statistics"][scale][0]
        assert statistics[scale][1] == pytest.approx(alone)


def test_no_increment_to_describe(store):
    with pytest.raises(UserError, match="no increment"):
        describe([store], stride=23)
