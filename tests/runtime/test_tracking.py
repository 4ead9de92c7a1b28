"""Curves that survive a resume, and a wandb run read back from disk."""

import json
import logging
import struct
import time

import pandas as pd
import pytest
from matplotlib.figure import Figure
from pytorch_lightning.loggers import WandbLogger

from longrun.runtime import tracking
from longrun.runtime.cli import UserError


def run(mode, folder, **changes):
    options = {
        "run_id": tracking.run_id("pde_refiner", "unet", 0, "0123456789ab"),
        "group": "pde_refiner",
        "name": "unet seed 0",
        "tags": ["smoke"],
        "config": {"trainer": {"max_steps": 20}, "seeds": 3},
    }
    return tracking.loggers(mode, folder, **options | changes)


def curves(folder):
    return pd.read_csv(folder / "curves.csv").values.tolist()


def test_run_id_names_experiment_method_seed_and_specification():
    assert tracking.run_id("a", "b", 3, "c0ffee") == "a-b-s3-c0ffee"


def test_curves_are_one_row_per_step_metric_and_value(tmp_path):
    (logger,) = run("disabled", tmp_path / "new")
    logger.log_hyperparams({"width": 8})
    logger.log_metrics({"train/loss": 0.1, "learning_rate": 1e-4, "epoch": 0}, step=5)
    logger.log_metrics({"valid/nrmse": 1 / 3}, step=9)
    assert curves(tmp_path / "new") == [
        [5, "train/loss", 0.1],
        [5, "learning_rate", 1e-4],
        [9, "valid/nrmse", 1 / 3],
    ]


def test_a_resumed_run_neither_loses_nor_repeats_rows(tmp_path):
    (whole,) = run("disabled", tmp_path / "whole")
    (killed,) = run("disabled", tmp_path / "resumed")

    def train(logger, steps):
        for step in steps:
            logger.log_metrics({"train/loss": 1 / step}, step=step)
            if step % 10 == 0:
                logger.log_metrics({"valid/nrmse": 2 / step}, step=step)

    train(whole, range(5, 45, 5))
    train(killed, range(5, 35, 5))  # killed after 30, its last checkpoint is that of step 20
    with (tmp_path / "resumed/curves.csv").open("a") as file:
        file.write("35,train/lo")  # in the middle of a row
    (resumed,) = run("disabled", tmp_path / "resumed")
    train(resumed, range(25, 45, 5))
    assert curves(tmp_path / "resumed") == curves(tmp_path / "whole")


def test_a_run_that_starts_again_from_nothing_replaces_its_rows(tmp_path):
    for value in (1.0, 2.0):
        (logger,) = run("disabled", tmp_path)
        logger.log_metrics({"train/loss": value}, step=1)
    assert curves(tmp_path) == [[1, "train/loss", 2.0]]


def test_images_and_summaries_need_no_wandb(tmp_path):
    made = run("disabled", tmp_path)
    tracking.log_image(made, "rollout", Figure(), 3)
    tracking.log_summary(made, {"correlation_time_0.8": 12.0})
    tracking.finish(made)
    assert not (tmp_path / "curves.csv").exists()


def test_unknown_modes_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"'of' is unknown; allowed: disabled, offline, online"):
        run("of", tmp_path)


def records(path):
    """Records of a .wandb file: LevelDB's log format with a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # a record's header never crosses the end of a block
            at += 32768 - at % 32768
            continue
        _checksum, size, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # full or last
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


def read_back(folder):
    """All that the offline runs in a folder hold: run, config, history, summary."""
    import wandb

    wandb.teardown()  # its writer is another process, done only when that has ended
    found = {"config": {}, "history": [], "summary": {}}
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    for record in records(path):
        if record.HasField("run"):
            found["run"] = record.run
            update = record.run.config.update
            found["config"] |= {item.key: json.loads(item.value_json) for item in update}
        if record.HasField("history"):
            items = record.history.item
            found["history"].append(
                {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items}
            )
        if record.HasField("summary"):
            items = record.summary.update
            found["summary"] |= {
                "/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items
            }
    return found, path.parent


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("offline")
    made = run("offline", folder)
    for step in (10, 20):
        for logger in made:
            logger.log_metrics({"train/loss": 1 / step}, step=step)
    figure = Figure()
    figure.subplots().plot([0, 1])
    tracking.log_image(made, "rollout", figure, 20)
    tracking.log_summary(made, {"correlation_time_0.8": 12.5})
    tracking.finish(made)
    return *read_back(folder), folder


def test_an_offline_run_holds_its_identity(offline):
    found, _, _ = offline
    assert found["run"].run_id == "pde_refiner-unet-s0-0123456789ab"
    assert found["run"].run_group == "pde_refiner"
    assert found["run"].job_type == "train"
    assert found["run"].project == "longrun"
    assert list(found["run"].tags) == ["smoke"]
    assert found["config"]["trainer"] == {"max_steps": 20}
    assert found["config"]["seeds"] == 3


def test_an_offline_run_holds_curves_against_the_global_step(offline):
    found, _, folder = offline
    curve = [
        (row["trainer/global_step"], row["train/loss"])
        for row in found["history"]
        if "train/loss" in row
    ]
    assert curve == [(10, 0.1), (20, 0.05)]
    assert found["summary"]["correlation_time_0.8"] == 12.5
    assert [row[0] for row in curves(folder)] == [10, 20]  # the CSV file too


def test_an_offline_run_holds_the_image(offline):
    found, folder, _ = offline
    rows = [row for row in found["history"] if "rollout/path" in row or "rollout" in row]
    assert rows and rows[0]["trainer/global_step"] == 20
    (image,) = (folder / "files/media/images").glob("rollout_*.png")
    assert image.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("reason", ["no key", "no network"])
def test_online_without_key_or_network_goes_offline_with_one_line(
    tmp_path, monkeypatch, caplog, reason
):
    import wandb

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    init = wandb.init
    if reason == "no network":  # what wandb raises after its time-out

        def unreachable(**options):
            if options["mode"] == "online":
                raise wandb.errors.CommError("Timed out while retrying: dial tcp\nConsider ...")
            return init(**options)

        monkeypatch.setattr(wandb, "init", unreachable)
    with caplog.at_level(logging.WARNING, "longrun.runtime.tracking"):
        made = run("online", tmp_path)
    tracking.finish(made)
    assert isinstance(made[1], WandbLogger)
    (warning,) = [r.getMessage() for r in caplog.records if r.name == "longrun.runtime.tracking"]
    assert "offline" in warning and "\n" not in warning
    assert read_back(tmp_path)[0]["run"].run_group == "pde_refiner"


def test_a_resumed_offline_run_continues_its_curve(tmp_path):
    """Two folders to send in order of time: one run, steps that go on, nothing twice."""
    import wandb

    for steps in ((10, 20), (30, 40)):
        made = run("offline", tmp_path)
        for step in steps:
            for logger in made:
                logger.log_metrics({"train/loss": 1 / step}, step=step)
        tracking.finish(made)
        began = int(time.time())  # wandb names a folder by the second
        while int(time.time()) == began:
            time.sleep(0.02)
    wandb.teardown()
    folders = sorted(tmp_path.glob("wandb/offline-run-*"))
    assert len(folders) == 2
    ids, seen = set(), []
    for folder in folders:
        for record in records(next(folder.glob("*.wandb"))):
            if record.HasField("run"):
                ids.add(record.run.run_id)
            if record.HasField("history"):
                row = {"/".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
                seen += [int(row["trainer/global_step"])] if "train/loss" in row else []
    assert ids == {"pde_refiner-unet-s0-0123456789ab"}
    assert seen == [10, 20, 30, 40]
    assert [row[0] for row in curves(tmp_path)] == [10, 20, 30, 40]
