"""Options of `evaluate`, and metrics, of the task `sample`."""

from pydantic import Field

from longrun.config.section import Count, Distinct, Natural, Section
from longrun.config.tasks._metric import Metric, metric


class Evaluate(Section):
    """Section `evaluate` of an experiment of the task `sample`."""

    nfe: Distinct[Count] = Field(
        default=[1, 2, 4, 8, 100],
        description="numbers of calls of the network to draw with; each is scored for itself",
    )
    stride: Count = Field(
        default=1,
        description="frames of the dataset from what is observed to what is drawn, in training too",
    )
    start: Natural = Field(
        default=0, description="number of the frame that is observed, or without a condition drawn"
    )
    trajectories: Count = Field(description="of the test split, the first ones")
    truths: Count | None = Field(
        default=None,
        description=(
            "frames of the test split, a multiple of trajectories, with which samples drawn "
            "without a condition are compared part by part; trajectories by default"
        ),
    )
    members: Count = Field(
        default=1, le=65536, description="samples for each of them, of methods that are random"
    )
    projections: Count = Field(default=128, description="directions of the sliced distance")
    keep: Natural = Field(default=1, description="trajectories whose samples are kept for figures")
    batch_size: Count = Field(default=1024, description="samples in one call of the network")


ALL_DEVICES = False  # an evaluation uses one device
# what methods log on `valid`, smaller is better
VALIDATION: tuple[str, ...] = ("sliced_w2",)
COLUMNS: tuple[str, ...] = ("nfe",)  # of the scores, that a claim may choose from
METRICS: dict[str, Metric] = {
    "sliced_w2": metric(
        "sliced W2",
        "Sliced Wasserstein-2 distance between samples and test data, in standard "
        "deviations of the data; in tables with the most evaluations of the network.",
        table="short",
    ),
    "sliced_w2_data": metric(
        "sliced W2, data",
        "The same between test and training data: what a perfect sampler would score "
        "with as many samples.",
        table="long",
    ),
    "sliced_w2_excess": metric(
        "sliced W2², excess",
        "Squared sliced Wasserstein-2 distance to the test data less that of as many other true "
        "points, a part of the samples at a time: what is not chance; 0 for a perfect sampler.",
        table="long",
    ),
    "log_density_gap": metric(
        "log density, gap",
        "Mean log of the known density at test data less that at the samples, nats: 0 for a "
        "perfect sampler, positive where samples are too wide.",
        table="long",
    ),
    "cluster_spread": metric(
        "cluster spread",
        "Root mean square distance of the samples to the nearest cluster of the known density "
        "over that of the test data: 1 for a perfect sampler.",
        table="long",
    ),
    "endpoint_error": metric(
        "end-point error",
        "Root mean square distance between a draw and the method's own exact answer "
        "from the same noise, in standard deviations.",
        table="long",
    ),
    "straightness": metric(
        "straightness S",
        "Integral over time of E |(z1 - z0) - dz/dt|^2 per value: 0 where every path "
        "from noise to data is a straight line at constant speed.",
        table="short",
    ),
    "transport_cost": metric(
        "transport cost",
        "E |z1 - z0|^2 per value: how far the flow carries the noise.",
        table="long",
    ),
    "variance_ratio": metric(
        "variance ratio",
        "Variance of the samples over that of the test data: less than 1 is the sign of "
        "too few steps on curved paths.",
        table="long",
    ),
    "crps": metric(
        "CRPS",
        "Continuous ranked probability score of the samples of one condition against "
        "the truth, mean over values, in standard deviations. Of a single forecast it "
        "is the mean absolute error.",
        table="short",
        ensemble=True,
    ),
    "energy_score": metric(
        "energy score",
        "The CRPS of whole fields: it also sees whether the values of a sample belong "
        "together. Of a single forecast it is the root mean square error.",
        table="long",
        ensemble=True,
    ),
    "ensemble_rmse": metric(
        "RMSE of mean",
        "Root mean square error of the mean of the samples, in standard deviations.",
        table="long",
        ensemble=True,
    ),
    "spread_skill": metric(
        "spread / skill",
        "Root mean square spread of the samples over that of the error of their mean: 1 "
        "where they are as uncertain as they should be.",
        table="long",
        ensemble=True,
    ),
    "spectrum_error_low": metric(
        "spectrum error, low",
        "Relative error of the samples' mean energy spectrum in the low band, where the "
        "spectrum is near its peak.",
        table="long",
    ),
    "spectrum_error_middle": metric(
        "spectrum error, middle", "The same in the middle band.", table="long"
    ),
    "spectrum_error_high": metric(
        "spectrum error, high",
        "The same in the high band: wavenumbers that hold less than 1 % of the peak energy.",
        table="long",
    ),
    "wall_time_per_sample": metric(
        "cost (s)",
        "Wall seconds per sample and evaluation of the network, in a full batch on the "
        "machine named above.",
        table="short",
    ),
    "bounded": metric(
        "bounded",
        "Share of the samples that are finite and within 100 standard deviations of the data.",
    ),
    "spread": metric(
        "spread", "Standard deviation of the samples of one condition.", ensemble=True
    ),
    "energy_spectrum": metric("energy spectrum", "Mean energy of the samples per wavenumber."),
    "truth_spectrum": metric("true spectrum", "The same of the test data."),
}
