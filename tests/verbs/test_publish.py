"""What an experiment logs: one artefact, the same files whatever the mode."""

import json
import sys

import pytest
from runtime.test_tracking import records

from longrun import config, publish
from longrun.runtime.cli import UserError

CLAIMS = {"claims": [{"name": "longer_horizon", "value": 1.25, "verdict": "holds"}]}


@pytest.fixture
def results(root, tmp_path):
    """Results of an experiment at preset smoke, with letters for scores and figures."""
    spec = config.compose(root / "configs", "pde_refiner", "smoke")
    folder = tmp_path / "results/smoke/pde_refiner"
    for method in spec["methods"]:
        run = folder / method / "seed0"
        run.mkdir(parents=True)
        (run / "scores.parquet").write_text(f"scores of {method}")
    (folder / "figures").mkdir()
    for figure in config.figures(spec):
        (folder / "figures" / f"{figure}.svg").write_text(f"<svg>{figure}</svg>")
    (folder / "claims.json").write_text(json.dumps(CLAIMS))
    return tmp_path / "results"


def run(root, results, monkeypatch, mode):
    output = results.parent / f"{mode}.json"
    words = ["--experiment", "pde_refiner", "--preset", "smoke", "--results", results]
    words += ["--configs", root / "configs", "--runs", results.parent / "runs", "--output", output]
    monkeypatch.setattr(sys, "argv", ["publish", *map(str, words)])
    monkeypatch.setenv("WANDB_MODE", mode)
    publish.main()
    return json.loads(output.read_text())


def test_disabled_writes_the_list_and_logs_nothing(root, results, monkeypatch):
    listed = run(root, results, monkeypatch, "disabled")["files"]
    assert {
        "config.json",
        "claims.json",
        "figures/space_time.svg",
        "scores/unet/seed0.parquet",
    } <= (set(listed))
    assert not (results.parent / "runs").exists()
    again = run(root, results, monkeypatch, "disabled")["files"]
    assert again == listed
    (results / "smoke/pde_refiner/figures/space_time.svg").write_text("<svg>another</svg>")
    changed = run(root, results, monkeypatch, "disabled")["files"]
    assert [name for name in listed if listed[name] != changed[name]] == ["figures/space_time.svg"]


@pytest.mark.parametrize(
    ("missing", "verb"),
    [
        ("claims.json", "judge"),
        ("figures/spectra.svg", "plot"),
        ("unet/seed0/scores.parquet", "evaluate"),
    ],
)
def test_a_missing_file_is_named_with_what_writes_it(root, results, monkeypatch, missing, verb):
    (results / "smoke/pde_refiner" / missing).unlink()
    with pytest.raises(UserError, match=f"{missing}: no such file; longrun.{verb} writes it"):
        run(root, results, monkeypatch, "disabled")


def test_an_unknown_mode_is_refused(root, results, monkeypatch):
    with pytest.raises(
        UserError, match=r"WANDB_MODE, of the environment: 'onlin'; .*did you mean online\?"
    ):
        run(root, results, monkeypatch, "onlin")


def test_offline_logs_the_same_files_as_disabled_lists(root, results, monkeypatch):
    """Read back from what `wandb sync` would send."""
    import wandb

    monkeypatch.setenv("HOME", str(results.parent / "home"))
    disabled = run(root, results, monkeypatch, "disabled")
    offline = run(root, results, monkeypatch, "offline")
    wandb.teardown()  # its writer is another process, done only when that has ended
    assert offline["files"] == disabled["files"]
    (path,) = results.parent.glob("runs/smoke/pde_refiner/artefacts/wandb/offline-run-*/*.wandb")
    found = list(records(path))
    (started,) = [record.run for record in found if record.HasField("run")]
    assert (started.run_id, started.run_group) == ("pde_refiner-smoke-report", "pde_refiner")
    assert started.job_type == "report"
    summary = {
        "/".join(item.nested_key) or item.key: json.loads(item.value_json)
        for record in found
        if record.HasField("summary")
        for item in record.summary.update
    }
    assert summary["longer_horizon/value"] == 1.25
    assert summary["longer_horizon/verdict"] == "holds"
    logged = [record.request.log_artifact for record in found if record.HasField("request")]
    logged = [request.artifact for request in logged if request.artifact.name]
    logged += [record.artifact for record in found if record.HasField("artifact")]
    (artefact,) = logged
    assert (artefact.name, artefact.type) == ("pde_refiner-smoke", "outcome")
    contents = {entry.path: entry.local_path for entry in artefact.manifest.contents}
    assert set(contents) == set(disabled["files"])
    # what is sent later is a copy: results may have changed by then
    (results / "smoke/pde_refiner/claims.json").write_text("{}")
    with open(contents["claims.json"]) as file:
        assert json.load(file) == CLAIMS
    assert str(results.parent / "runs") in contents["claims.json"]
    # wandb's own place for copies
    assert not [p for p in (results.parent / "home/.local").rglob("*") if p.is_file()]
