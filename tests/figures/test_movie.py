"""A rollout as a movie: small, its time in the equation's unit, one colour scale."""

import dataclasses

import numpy as np
import pytest
import synthetic
import xarray as xr
from PIL import Image

from longrun import plot
from longrun.figures import _movie

STEPS, POINTS = 60, 16


def kept(error=0.0, offset=0.0, dims=("x", "y")):
    """Truth, a wave that moves along x, and a forecast with an error that grows."""
    x = np.arange(POINTS) / POINTS
    time = np.arange(1, STEPS + 1)
    wave = np.sin(2 * np.pi * (x[None, :, None] - 0.02 * time[:, None, None]))
    truth = np.broadcast_to(wave, (STEPS, POINTS, POINTS))[None, :, None] + offset
    forecast = truth + error * (time / STEPS)[None, :, None, None, None]
    axes = ("trajectory", "lead_time", "field", *dims)
    shape = (slice(None),) * 3 + (slice(None),) * len(dims) + (0,) * (2 - len(dims))
    fields = {"truth": (axes, truth[shape]), "prediction": (axes, forecast[shape])}
    coordinates = {"lead_time": 0.5 * time, "field": ["u"], **dict.fromkeys(dims, x)}
    coordinates["seconds_per_step"] = ("trajectory", [0.25])
    coordinates = {k: (k, v) if k in dims else v for k, v in coordinates.items()}
    return xr.Dataset(fields, coords=coordinates)


@pytest.fixture
def given():
    """Inputs in which the main claim's method, and one that comes before it, kept a plane."""
    inputs = synthetic.inputs(("unet", "pde_refiner"))
    return dataclasses.replace(inputs, predictions={"unet": kept(), "pde_refiner": kept(1.0)})


def test_a_movie_is_of_the_main_claims_method_and_at_most_so_many_frames(given):
    assert _movie._method(given) == "pde_refiner"
    frames = _movie.film(given)
    assert len(frames) == _movie.FRAMES < STEPS
    assert {frame.shape for frame in frames} == {frames[0].shape}
    assert not np.array_equal(frames[0], frames[-1])


def test_the_last_frame_says_the_time_of_this_trajectory(given, monkeypatch):
    said = []
    frame = _movie._Stage.frame
    monkeypatch.setattr(
        _movie._Stage,
        "frame",
        lambda self, fields, label: said.append((fields, label)) or frame(self, fields, label),
    )
    _movie.film(dataclasses.replace(given, unit="time units"))
    assert said[-1][1] == "lead time 15 time units" and said[0][1] == "lead time 0.25 time units"
    truth, forecast, error = said[-1][0]
    np.testing.assert_allclose(forecast - truth, error)
    assert np.ptp(truth, axis=0).max() < 1e-12 < np.ptp(truth, axis=1).max()  # columns are x


def test_a_field_of_one_sign_is_shown_around_its_mean(given):
    truth = kept(offset=5.0)["truth"].values
    assert _movie._shift(truth[0, :, 0]) == pytest.approx(truth.mean())
    assert _movie._shift(kept()["truth"].values[0, :, 0]) == 0.0


def test_what_is_no_number_is_grey(given):
    lost = kept(1.0)
    lost["prediction"][:, 30:] = np.nan
    frames = _movie.film(dataclasses.replace(given, predictions={"pde_refiner": lost}))
    grey = [np.all(frame == 0xBD, axis=2).sum() for frame in frames]
    assert grey[0] < 500 < 20_000 < grey[-1]


def test_nothing_in_two_dimensions_is_no_movie(given):
    line = {"unet": kept(dims=("x",)), "pde_refiner": kept(dims=("x",))}
    assert _movie.film(dataclasses.replace(given, predictions=line)) == []
    assert _movie.film(dataclasses.replace(given, predictions={})) == []
    steady = {name: kept().isel(lead_time=[0]) for name in ("unet", "pde_refiner")}
    assert _movie.film(dataclasses.replace(given, predictions=steady)) == []


def test_a_movie_fits_into_its_bytes_with_fewer_frames_if_need_be(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    frames = [rng.integers(0, 256, (40, 60, 3), np.uint8) for _ in range(20)]
    plot.save_movie(frames, tmp_path / "whole.webp")
    with Image.open(tmp_path / "whole.webp") as whole:
        assert whole.n_frames == 20 and whole.is_animated
    monkeypatch.setattr(plot, "MOVIE", 15_000)
    plot.save_movie(frames, tmp_path / "less.webp")
    assert (tmp_path / "less.webp").stat().st_size <= 15_000
    with Image.open(tmp_path / "less.webp") as less:
        assert 2 < less.n_frames < 20
    monkeypatch.setattr(plot, "MOVIE", 10)
    plot.save_movie(frames, tmp_path / "none.webp")
    assert not (tmp_path / "none.webp").exists()
