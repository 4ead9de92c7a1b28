"""Metrics have known answers, and the statistics of a verdict the coverage they claim."""

import time

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from longrun.metrics import ensemble, pointwise, spectrum, statistics
from longrun.metrics.climate import Histograms, kinetic_energy
from longrun.metrics.crossing import crossing_time
from longrun.metrics.statistics import Interval
from longrun.metrics.table import ABSENT, ScoreTable, read_scores, write_scores
from longrun.runtime.cli import UserError

few = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**32 - 1)
spaces = st.sampled_from([(16,), (15,), (8, 12), (4, 6, 8)])


def fields(seed: int, space: tuple[int, ...], batch: int = 2, channels: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, channels, *space))


# Pointwise -------------------------------------------------------------------------------------


@few
@given(seeds, spaces, st.floats(1e-3, 1e3), st.floats(-10, 10))
def test_normalised_errors_and_correlation_do_not_depend_on_units(seed, space, scale, shift):
    prediction, truth = fields(seed, space), fields(seed + 1, space)
    dims = len(space)
    for score in (pointwise.nrmse, pointwise.vrmse, pointwise.correlation):
        other = score(scale * prediction, scale * truth, dims)
        assert np.allclose(score(prediction, truth, dims), other)
    for score in (pointwise.vrmse, pointwise.correlation):
        other = score(prediction + shift, truth + shift, dims)
        assert np.allclose(score(prediction, truth, dims), other)
    scaled = pointwise.rmse(scale * prediction, scale * truth, dims)
    assert np.allclose(scaled, scale * pointwise.rmse(prediction, truth, dims))


@few
@given(seeds, spaces)
def test_correlation_is_pearsons(seed, space):
    prediction, truth = fields(seed, space), fields(seed + 1, space)
    expected = [
        np.mean([np.corrcoef(p.ravel(), t.ravel())[0, 1] for p, t in zip(a, b, strict=True)])
        for a, b in zip(prediction, truth, strict=True)
    ]
    assert np.allclose(pointwise.correlation(prediction, truth, len(space)), expected)


def test_kinetic_energy_is_half_the_mean_square_speed():
    velocity = np.stack([np.full((4, 6), 3.0), np.full((4, 6), -4.0)])
    assert kinetic_energy(velocity, 2) == 12.5
    assert kinetic_energy(fields(0, (4, 6, 8), 5, 3), 3).shape == (5,)


def test_a_forecast_of_the_mean_has_a_vrmse_of_one():
    truth = 7 + fields(0, (32,))
    mean = np.broadcast_to(truth.mean(-1, keepdims=True), truth.shape)
    assert np.allclose(pointwise.vrmse(mean, truth, 1), 1)
    assert (pointwise.nrmse(mean, truth, 1) < 0.2).all()
    assert np.allclose(pointwise.nrmse(np.zeros_like(truth), truth, 1), 1)


@pytest.mark.parametrize("value", [0.1, 0.0, 1e300, np.nan, np.inf, -np.inf])
def test_a_constant_or_non_finite_forecast_has_correlation_zero(value):
    truth = fields(0, (64,))
    for dtype in (np.float32, np.float64):
        with np.errstate(over="ignore"):
            forecast = np.full_like(truth, value, dtype=dtype)
        assert (pointwise.correlation(forecast, truth, 1) == 0).all()
    half = truth.copy()
    half[0, 1, 3] = value if not np.isfinite(value) else np.nan
    correlation = pointwise.correlation(half, truth, 1)
    assert np.allclose(correlation, [0.5, 1])  # one of two fields is lost, the other perfect


def test_a_forecast_without_error_of_a_truth_without_size_has_no_error():
    zeros = np.zeros((1, 1, 8))
    assert pointwise.nrmse(zeros, zeros, 1) == 0
    assert pointwise.nrmse(zeros + 1, zeros, 1) == np.inf


def test_the_relative_l1_error_takes_all_fields_together():
    """As of a velocity: a component that hardly moves doesn't count as much as the other."""
    truth = np.stack([np.full((4, 4), 3.0), np.full((4, 4), -1.0)])
    prediction = truth + np.array([0.5, 0.5])[:, None, None]
    assert pointwise.relative_l1(prediction, truth, 2) == pytest.approx(0.25)  # not (1/6 + 1/2) / 2
    several = np.stack([prediction, 2 * truth])
    assert pointwise.relative_l1(several, truth, 2) == pytest.approx([0.25, 1.0])


# Spectra ---------------------------------------------------------------------------------------


@few
@given(seeds, st.sampled_from([15, 16, 64]))
def test_the_energies_sum_to_the_mean_square(seed, points):
    field = fields(seed, (points,))
    energy = spectrum.energy_spectrum(field, 1)
    assert energy.shape == (2, 2, points // 2 + 1)
    assert np.allclose(energy.sum(-1), np.square(field).mean(-1))


@pytest.mark.parametrize("space", [(32,), (31,), (16, 24), (24, 15), (8, 10, 12)])
def test_a_wave_has_its_energy_in_the_bin_of_its_length(space):
    grid = np.meshgrid(*(2 * np.pi * np.arange(n) / n for n in space), indexing="ij")
    wave = 3 * np.cos(2 * grid[0] + 2 * grid[-1] * (len(space) > 1)) + 5
    energy = spectrum.energy_spectrum(wave, len(space))
    length = 2 if len(space) == 1 else 3  # |(2, 2)| = 2.83
    assert energy[0] == pytest.approx(25)
    assert energy[length] == pytest.approx(4.5)
    assert energy.sum() == pytest.approx(29.5)
    assert len(energy) == min(space) // 2 + 1


@pytest.mark.parametrize("space", [(32, 64), (32, 32), (64, 48)])
def test_bins_are_of_the_wavenumber_in_a_box_of_unequal_sides(space):
    """The same wave along x and y of a 1 x 2 box: three on the short side, six on the long."""
    x, y = np.meshgrid(*(np.arange(n) / n for n in space), indexing="ij")
    along_x, along_y = (np.cos(2 * np.pi * n * place) for n, place in ((3, x), (6, y)))
    energies = [spectrum.energy_spectrum(wave, 2, (1.0, 2.0)) for wave in (along_x, along_y)]
    assert np.allclose(*energies)
    numbers = spectrum.wavenumbers(space, (1.0, 2.0))
    assert numbers[energies[0].argmax()] == pytest.approx(2 * np.pi * 3)
    assert len(numbers) == len(energies[0]) == min(2 * (space[0] // 2), space[1] // 2) + 1
    turned = spectrum.energy_spectrum(along_y.T + 1, 2, (2.0, 1.0))
    assert np.allclose(turned[1:], energies[0][1:]) and turned[0] == pytest.approx(1)
    fast = np.cos(2 * np.pi * (min(2 * (space[0] // 2), space[1] // 2) - 1) * y)
    assert spectrum.energy_spectrum(fast, 2, (1.0, 2.0)).sum() == pytest.approx(0.5)


def test_a_window_keeps_ends_that_do_not_meet_out_of_the_spectrum():
    x = np.linspace(0, 1, 64, endpoint=False)
    ramp = 3 + x
    jump, seen = (spectrum.energy_spectrum(ramp, 1, periodic=[p]) for p in (True, False))
    assert jump[10:].sum() > 1e-3 and seen[10:].sum() < 1e-6
    noise = np.random.default_rng(0).normal(size=(400, 32, 16))
    seen = spectrum.energy_spectrum(noise, 2, periodic=[True, False]).sum(-1).mean()
    assert seen == pytest.approx(spectrum.energy_spectrum(noise, 2).sum(-1).mean(), rel=0.02)
    still = spectrum.energy_spectrum(np.full((8, 8), 2.0), 2, periodic=[False, False])
    assert still[0] == pytest.approx(4) and np.allclose(still[1:], 0)
    # along a periodic axis nothing changes
    wave = np.cos(2 * np.pi * 3 * x)[:, None] * np.ones(8)
    assert np.argmax(spectrum.energy_spectrum(wave, 2, (8.0, 1.0), [True, False])) == 3


def test_bands_follow_the_reference_spectrum():
    energy = [50.0, 0.1, 1, 0.5, 0.011, 9e-3, 0.02, 1e-6, 1e-8, 9e-10, 1e-12]
    masks = spectrum.bands(energy, 11)
    places = {name: np.flatnonzero(mask).tolist() for name, mask in masks.items()}
    assert places == {"low": [1, 2], "middle": [3, 4], "high": [5, 6, 7, 8]}
    assert np.flatnonzero(spectrum.bands(energy, 7)["high"]).tolist() == [5, 6]
    assert np.flatnonzero(spectrum.bands(energy, 20)["high"]).tolist() == [5, 6, 7, 8]
    assert not spectrum.bands([1.0, 0.5, 1.0], 3)["high"].any()


def test_spectrum_errors_and_amplitudes():
    truth = np.array([[9.0, 1, 2, 3]])
    band = np.array([False, True, True, False])
    assert spectrum.relative_error(truth, truth, band) == 0
    assert spectrum.relative_error(truth * [1, 2, 0, 99], truth, band) == pytest.approx(1)
    assert spectrum.amplitude(truth, band) == pytest.approx(2**0.25)
    assert spectrum.amplitude(0 * truth, band) < 1e-100


# Crossing --------------------------------------------------------------------------------------


def test_crossing_is_interpolated_and_censored():
    times = np.array([1.0, 2, 3, 4])
    scores = np.array(
        [
            [0.9, 0.7, 0.9, 0.1],  # the first crossing counts
            [0.6, 0.6, 0.6, 0.6],  # between time 0, where it is 1, and the first step
            [0.9, 0.8, 0.8, 0.8],  # reaching the threshold is not crossing it
            [0.9, np.nan, 0.9, 0.9],  # NaN is 0
            [np.nan, np.nan, np.nan, np.nan],
        ]
    )
    time_, censored = crossing_time(scores, times, 0.8)
    assert np.allclose(time_, [1.5, 0.5, 4, 1 + 0.1 / 0.9, 0.2])
    assert censored.tolist() == [False, False, True, False, False]


@few
@given(seeds, st.floats(0.1, 0.95), st.integers(1, 20))
def test_crossings_lie_within_the_rollout_and_come_later_for_lower_thresholds(
    seed, threshold, steps
):
    rng = np.random.default_rng(seed)
    times = rng.uniform(0.1, 1, size=(3, steps)).cumsum(-1)
    score = rng.uniform(-1, 1, size=(3, steps))
    score[rng.random(score.shape) < 0.1] = np.nan
    crossing, censored = crossing_time(score, times, threshold)
    assert (crossing >= 0).all() and (crossing <= times[:, -1]).all()
    assert (crossing[censored] == times[censored, -1]).all()
    lower, _ = crossing_time(score, times, threshold - 0.05)
    assert (lower >= crossing - 1e-12).all()


# Climate ---------------------------------------------------------------------------------------


@few
@given(seeds, st.floats(-3, 3))
def test_a_shift_moves_the_distribution_by_itself(seed, shift):
    rng = np.random.default_rng(seed)
    values = rng.normal(5, 2, size=(2, 40, 1, 50))
    mean, std = np.array([5.0]), np.array([2.0])
    ours, theirs = Histograms(2, mean, std, 1), Histograms(2, mean, std, 1)
    for part in np.split(values, 4, axis=1):  # as a stream
        ours.add(part + 2 * shift)
        theirs.add(part)
    assert np.allclose(ours.wasserstein(theirs), abs(shift), atol=0.01)


def test_distances_pair_members_with_their_truth_and_average_fields():
    truth, forecast = (Histograms(n, np.zeros(2), np.ones(2), 1) for n in (2, 4))
    truth.add(np.stack([np.zeros((2, 8)), np.ones((2, 8))]))
    shifts = np.array([0.0, 1, 1, 3])
    forecast.add(shifts[:, None, None] + np.array([[0.0], [0.5]]) + np.zeros((4, 2, 8)))
    assert np.allclose(forecast.wasserstein(truth), [0.25, 1.25, 0.25, 2.25], atol=0.02)
    lost = Histograms(1, np.zeros(1), np.ones(1), 1)
    lost.add(np.full((1, 1, 8), 1e30))
    zero = Histograms(1, np.zeros(1), np.ones(1), 1)
    zero.add(np.zeros((1, 1, 8)))
    assert lost.wasserstein(zero) == pytest.approx(100, rel=0.01)


# Ensembles -------------------------------------------------------------------------------------


@few
@given(seeds, spaces, st.integers(1, 5))
def test_crps_is_never_negative_and_is_the_absolute_error_of_one_member(seed, space, count):
    members = np.random.default_rng(seed).normal(size=(3, count, 2, *space))
    truth = fields(seed + 1, space, batch=3)
    score = ensemble.crps(members, truth, len(space))
    assert score.shape == (3,) and (score >= 0).all()
    error = np.abs(members - truth[:, None]).mean(axis=tuple(range(1, members.ndim)))
    assert (score <= error + 1e-12).all()
    if count == 1:
        assert np.allclose(score, error)


def test_crps_agrees_with_its_definition():
    rng = np.random.default_rng(0)
    members, truth = rng.normal(size=(6, 1, 4)), rng.normal(size=(1, 4))
    near = np.abs(members - truth).mean()
    pairs = np.abs(members[:, None] - members[None]).mean()
    assert ensemble.crps(members[None], truth[None], 1) == pytest.approx(near - pairs / 2)


def test_a_reliable_ensemble_spreads_as_far_as_it_errs():
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(200, 1, 1, 64))
    members = centre + 0.3 * rng.normal(size=(200, 5, 1, 64))
    truth = (centre + 0.3 * rng.normal(size=(200, 1, 1, 64)))[:, 0]
    spread, error = ensemble.spread(members, 1), ensemble.ensemble_rmse(members, truth, 1)
    assert np.sqrt(np.mean(spread**2) / np.mean(error**2)) == pytest.approx(1, abs=0.02)


@few
@given(seeds, spaces, st.integers(2, 5))
def test_member_correlation_is_the_mean_over_pairs(seed, space, count):
    members = np.random.default_rng(seed).normal(size=(3, count, 2, *space))
    members[0, 0] = np.nan  # its pairs count 0
    members[1] = members[1, :1]
    dims = len(space)
    pairs = [
        pointwise.correlation(members[:, i], members[:, j], dims)
        for i in range(count)
        for j in range(i)
    ]
    correlation = ensemble.member_correlation(members, dims)
    assert np.allclose(correlation, np.mean(pairs, axis=0))
    assert correlation[1] == pytest.approx(1)
    assert not (count == 2 and correlation[0])


# The table -------------------------------------------------------------------------------------


def test_a_table_has_a_row_per_cell_and_no_score_that_is_not_finite():
    table = ScoreTable("waves")
    table.add("rmse", [[1.0, 2], [3, 4]], trajectory=np.arange(2)[:, None], step=[1, 2])
    table.add("parameters", 7)
    frame = table.frame()
    assert list(frame.columns) == list(ABSENT)
    assert frame["value"].tolist() == [1, 2, 3, 4, 7]
    assert frame["trajectory"].tolist() == [0, 0, 1, 1, -1]
    assert frame["step"].tolist() == [1, 2, 1, 2, -1]
    assert frame["censored"].dtype == bool and set(frame["dataset"]) == {"waves"}
    with pytest.raises(ValueError, match="rmse"):
        table.add("rmse", [np.nan])
    with pytest.raises(TypeError, match="steps"):
        table.add("rmse", [1.0], steps=[1])


def test_a_table_that_lacks_a_column_is_refused(tmp_path):
    file = tmp_path / "scores.parquet"
    table = ScoreTable("waves")
    table.add("sliced_w2", [1.0, 2], nfe=[1, 4])
    write_scores(file, table.frame())
    assert read_scores(file)["nfe"].tolist() == [1, 4]
    write_scores(file, table.frame().drop(columns="nfe"))  # as it was once
    with pytest.raises(UserError, match="of an older version"):
        read_scores(file, ["sliced_w2"])


# Statistics ------------------------------------------------------------------------------------


def effects(rng: np.random.Generator, seeds: int, trajectories: int) -> np.ndarray:
    """Scores with mean 10 that vary between seeds, between trajectories and otherwise."""
    return (
        10
        + rng.normal(size=(seeds, 1))
        + rng.normal(size=(1, trajectories))
        + rng.normal(size=(seeds, trajectories))
    )


def mean(scores, rng):
    return statistics.interval(statistics.value(), [scores], rng)


def ratio(of, against, rng, paired=False):
    groups = [[0, 1]] if paired else []
    return statistics.interval(statistics.ratio(), [of, against], rng, statistics.LOG, groups)


def shared_variance(x, y, rng):
    scale = statistics.SHARE
    return statistics.interval(statistics.squared_pearson, [x, y], rng, scale, [[0, 1]])


@few
@given(seeds, st.integers(1, 6), st.integers(1, 40))
def test_intervals_contain_the_value(seed, seeds, trajectories):
    rng = np.random.default_rng(seed)
    scores = np.abs(effects(rng, seeds, trajectories)) + 0.1
    value, low, high = mean(scores, rng)
    assert value == pytest.approx(scores.mean()) and low <= value <= high
    assert ratio(scores, scores, rng, paired=True) == pytest.approx((1, 1, 1))
    assert shared_variance(scores, scores, rng).value == pytest.approx(float(trajectories > 1))


def test_intervals_shrink_with_seeds_and_trajectories():
    rng = np.random.default_rng(0)
    widths = []
    for seeds, trajectories in ((4, 8), (36, 72), (324, 648)):
        _, low, high = mean(effects(rng, seeds, trajectories), rng)
        widths.append(high - low)
    assert widths[0] > 1.5 * widths[1] > 3 * widths[2]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5, 8])
@pytest.mark.parametrize("spreads", [(0.1, 0.1), (0.02, 0.2), (0.0, 0.1)])
@pytest.mark.parametrize(("trajectories", "own"), [(1, 0.0), (8, 0.1), (64, 0.1)])
def test_intervals_of_a_ratio_cover_the_truth_as_often_as_they_say(
    seeds, spreads, trajectories, own, monkeypatch
):
    """Also where one method has no seeds, and where its seeds vary ten times less."""

    def effects(spread, size):
        return np.exp(rng.normal(-(spread**2) / 2, spread, size=size))

    monkeypatch.setattr(statistics, "DRAWS", 200)
    rng = np.random.default_rng(seeds)
    covered = []
    for _ in range(400):
        hard = rng.lognormal(0, 0.5, size=(1, trajectories))
        runs = [seeds if spread else 1 for spread in spreads]
        arms = [
            hard * effects(spread, (count, 1)) * effects(own, (count, trajectories))
            for spread, count in zip(spreads, runs, strict=True)
        ]
        _, low, high = ratio(*arms, rng)
        covered.append(low <= 1 <= high)
    assert 0.92 <= np.mean(covered) <= 0.98


def test_seeds_that_belong_together_cancel():
    rng = np.random.default_rng(3)
    origin = rng.lognormal(0, 0.3, size=(3, 1))  # what both runs of a seed start from
    first, second = 1.1 * origin * rng.normal(1, 0.01, size=(3, 20)), origin * np.ones((3, 20))
    paired, apart = (ratio(first, second, rng, paired) for paired in (True, False))
    assert paired.low > 1.05 and apart.low < 1


def test_shared_trajectories_cancel_in_a_ratio():
    rng = np.random.default_rng(2)
    hard = rng.lognormal(0, 1, size=(1, 50))  # trajectories differ much more than methods
    first = 1.3 * hard * rng.normal(1, 0.02, size=(3, 50))
    second = hard * rng.normal(1, 0.02, size=(5, 50))
    value, low, high = ratio(first, second, rng)
    assert 1.25 < low < value < high < 1.35
    _, low, high = mean(first, rng)
    assert high - low > 0.4 * first.mean()


def test_squared_pearson_is_that_of_numpy_and_zero_where_nothing_varies():
    rng = np.random.default_rng(3)
    x = 1e3 + rng.normal(size=(2, 60))
    y = x + rng.normal(size=(2, 60))
    value, low, high = shared_variance(x, y, rng)
    assert value == pytest.approx(
        np.mean([np.corrcoef(a, b)[0, 1] ** 2 for a, b in zip(x, y, strict=True)])
    )
    assert 0.2 < low < value < high < 0.8
    assert shared_variance(np.full_like(x, 0.1), y, rng) == (0, 0, 0)


def test_rank_correlation_is_that_of_scipy():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 30))
    y = np.exp(x) + rng.normal(size=(2, 30))
    expected = np.mean([scipy.stats.spearmanr(a, b)[0] for a, b in zip(x, y, strict=True)])
    assert statistics.spearman([x, y]) == pytest.approx(expected)


def test_a_slope_is_that_of_the_logarithms():
    at, rng = [1, 2, 4, 8], np.random.default_rng(3)
    tables = [x**-1.5 * rng.normal(1, 0.1, size=(3, 9)) for x in at]
    expected, _ = np.polyfit(np.log(at), np.log([table.mean() for table in tables]), 1)
    assert statistics.slope(at)(tables) == pytest.approx(expected)


def test_intervals_are_reproducible_and_fast():
    scores = effects(np.random.default_rng(4), 5, 128)
    begin = time.perf_counter()
    first = ratio(scores, scores[:3], np.random.default_rng(0))
    assert time.perf_counter() - begin < 0.5
    assert first == ratio(scores, scores[:3], np.random.default_rng(0))
    assert np.isnan(ratio(scores * 0, scores * 0, np.random.default_rng(0))).all()


@pytest.mark.parametrize(
    ("low", "high", "threshold", "direction", "equality", "expected"),
    [
        (1.05, 1.4, 1.05, "above", 1.0, "holds"),
        (1.04, 1.4, 1.05, "above", 1.0, "open"),
        (0.7, 0.99, 1.05, "above", 1.0, "contradicted"),
        (0.7, 1.0, 1.05, "above", 1.0, "weaker"),
        (1.01, 1.04, 1.05, "above", 1.0, "weaker"),  # better, but by less than is claimed
        (0.97, 1.04, 1.05, "above", 1.0, "weaker"),
        (0.6, 0.9, 0.5, "below", 1.0, "weaker"),
        (0.7, 1.0, 1.0, "below", 1.0, "holds"),
        (0.7, 1.01, 1.0, "below", 1.0, "open"),
        (1.01, 1.3, 1.0, "below", 1.0, "contradicted"),
        (0.2, 0.4, 0.5, "above", None, "contradicted"),
        (0.2, 0.5, 0.5, "above", None, "open"),
        (0.5, 0.9, 0.5, "above", None, "holds"),
        (np.nan, np.nan, 1.0, "above", 1.0, "open"),
        (1.2, np.inf, 1.0, "above", 1.0, "open"),
    ],
)
def test_verdicts(low, high, threshold, direction, equality, expected):
    interval = Interval((low + high) / 2, low, high)
    assert statistics.verdict(interval, threshold, direction, equality) == expected
