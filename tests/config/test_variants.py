"""Datasets that are variants of another in the same file."""

import json
from pathlib import Path

import pytest

from longrun import config

ROOT = Path("configs")
FILE = "configs/datasets/waves.yaml"
SPLIT = {"trajectories": 8, "frames": 60}
BASE = {
    "equation": {"name": "kuramoto_sivashinsky", "points": 64, "dt": 0.2},
    "seed": 1,
    "splits": dict.fromkeys(("train", "valid", "test"), SPLIT),
    "presets": {"smoke": {"equation": {"points": 32}, "jobs": 2}},
}
VARIANTS = {
    "short": {"seed": 2, "equation": {"dt": 0.1}},
    "32": {"equation": {"points": 32}, "presets": {"gpu": {"equation": {"points": 16}}}},
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Two presets and `waves.yaml`; `write(variants)` gives it variants."""
    monkeypatch.chdir(tmp_path)
    (ROOT / "datasets").mkdir(parents=True)
    (ROOT / "presets").mkdir()
    for preset in ("smoke", "gpu"):
        (ROOT / "presets" / f"{preset}.yaml").write_text("{}")

    def write(variants, name="waves"):
        text = json.dumps(BASE | {"variants": variants})
        (ROOT / "datasets" / f"{name}.yaml").write_text(text)

    write(VARIANTS)
    return write


def refused(name="waves_32", preset="smoke"):
    with pytest.raises(config.ConfigError) as caught:
        config.compose_dataset(ROOT, name, preset)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_variant_is_its_base_at_the_same_preset_with_changes(write):
    assert config.datasets(ROOT) == ["waves", "waves_short", "waves_32"]
    for preset in ("smoke", "gpu"):
        whole = config.compose_dataset(ROOT, "waves", preset)
        assert "variants" not in whole
        short = config.compose_dataset(ROOT, "waves_short", preset)
        assert short == whole | {"seed": 2, "equation": whole["equation"] | {"dt": 0.1}}
    assert short["equation"]["points"] == 64
    assert config.compose_dataset(ROOT, "waves_short", "smoke")["equation"]["points"] == 32
    points = config.compose_dataset(ROOT, "waves_32", "gpu")["equation"]["points"]
    assert points == 16  # its own preset has the last word


def test_one_name_looks_into_no_other_file(write):
    (ROOT / "datasets" / "broken.yaml").write_text("variants: [1")
    assert config.compose_dataset(ROOT, "waves_32", "smoke")
    with pytest.raises(config.ConfigError, match=r"broken\.yaml: line 2"):
        config.datasets(ROOT)


@pytest.mark.parametrize(
    ("variants", "line"),
    [
        ({"32": {"sed": 3}}, "variants.32.sed: unknown key; allowed: ...; did you mean seed?"),
        ({"32": {"equation": {"point": 3}}}, "variants.32.equation.point: unknown key; ..."),
        ({"32": {"presets": {"smokey": {}}}}, "variants.32.presets.smokey: unknown preset ..."),
        (
            {"32": {"presets": {"smoke": {"seed": -1}}}},
            "variants.32.presets.smoke.seed: must be at least 0, is -1",
        ),
        ({"32": {"variants": {}}}, "variants.32.variants: unknown key; allowed: ..."),
        ({"32": 3}, "variants.32: must be a mapping, is 3"),
        (["32"], "variants: must be a mapping of suffixes to sections, is ['32']"),
        (
            {"Thirty": {}, "32": {}},
            "variants: 'Thirty' is not a valid suffix; allowed: lower-case letters, digits and _",
        ),
    ],
)
def test_mistakes_are_refused_where_they_are(write, variants, line):
    write(variants)
    first, dots, last = f"{FILE}: {line}".partition("...")
    said = refused()
    assert said.startswith(first) and said.endswith(last) and (dots or said == first)


def test_unknown_variants_are_refused_with_the_nearest(write):
    assert refused("waves_23") == (
        "configs/datasets: waves_23: no such dataset; allowed: waves, waves_32, waves_short; "
        "did you mean waves_32?"
    )


@pytest.mark.parametrize(
    ("name", "other", "variants"),
    [("waves_32", "waves_32", {}), ("waves_long_32", "waves_long", {"32": {}})],
)
def test_two_datasets_of_one_name_are_refused(write, name, other, variants):
    write(VARIANTS | {"long_32": {}})
    assert config.compose_dataset(ROOT, name, "smoke")
    write(variants, other)
    suffix = name.removeprefix("waves_")
    assert refused(name) == f"{FILE}: variants.{suffix}: {name} is in {other}.yaml already"
