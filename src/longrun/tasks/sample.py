"""Drawing from a distribution: p(frame) of a store, or p(next frame | what is seen of this one).

What is drawn, and what is shown:

- `conditional: false` draws from the distribution of the store's frames. A window is one frame:
  the datum.
- `conditional: true` draws the next frame, `evaluate.stride` frames on, given an observation of the
  present one. Shown the whole frame, a deterministic equation has one answer, and its distribution
  is a point. So the observation is degraded, for training, re-flow and evaluation alike: along
  every axis only one in `observe_every` points is seen, with normal noise of `observe_noise`
  standard deviations of the field; elsewhere the observation holds the field's mean. What is left
  open is what the distribution is made of.

Evaluation draws with `nfe` N = 1, 2, 4, ... calls of the network, each from the same noise,
and scores every N (the column `nfe`):

- All scores are in standard deviations of the training data, field by field (of all fields
  together with `one_scale`).
- `trajectories` of the test split give one truth each: frame `start`, or with a condition
  frame `start + stride`, the observation being of frame `start`. There are `members` samples for
  each truth (one where the method has no noise).
- All noise, of observations and of draws, belongs to the test set: it is the same for every method
  and every seed of a run, so that they are compared on equal terms. How trajectories are split into
  batches shifts it.
- Samples beyond 100 standard deviations, or not finite, are moved to that bound and counted in
  `bounded`. No score is ever NaN.
- `sliced_w2` compares all samples with all truths; `sliced_w2_data` is what as many other true
  frames score, mean over up to 8 sets of the training split: about there a sampler can't be told
  from a perfect one.
- Without a condition there may be more `truths` than samples. Samples and truths are cut into 16
  equal parts, and each part of the samples is compared with its part of the truths, so that the
  error of both is known. Rows of these scores are parts, in the column `trajectory`:
  `sliced_w2_excess`, the squared distance less that of as many other true frames from the training
  split, which is 0 for a perfect sampler, or a little below by chance; `variance_ratio`; and where
  the distribution is known, `log_density_gap`, the mean log of the true density at the truths less
  that at the samples, and `cluster_spread`, the root mean square distance of samples to the nearest
  cluster over that of the truths.
- `endpoint_error` is the root mean square distance to the method's own exact answer from the same
  noise; `transport_cost` is the mean square of z1 - z0 per value; `straightness` is the integral
  over time of the mean square of (z1 - z0) - dz/dt per value, 0 for straight paths. The latter
  two, of the exact answer, have no N and exist where the method is a flow.
- Straightness and cost have one row per trajectory; so have scores that compare a few samples with
  their truth, and the error of the end-point, where there is a condition; without, that has one
  for each part.
"""

import itertools
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from longrun.data import schema
from longrun.data.describe import sides
from longrun.metrics import ensemble, spectrum
from longrun.metrics.pointwise import UNBOUNDED
from longrun.metrics.samples import SlicedTruth, energy_score, mixture_scores, sliced_w2
from longrun.metrics.table import ScoreTable
from longrun.runtime import registry
from longrun.runtime.cli import UserError
from longrun.tasks._evaluation import (
    Evaluation,
    check_size,
    field_coordinates,
    score_size,
    seconds_per_call,
    seeded,
)
from longrun.tasks._learner import Batch
from longrun.tasks._scaling import ScaledLearner

VALIDATED = 8  # evaluations of the draws that validation looks at
PARTS = 16  # of the samples, each scored for itself
FLOORS = 8  # sets of true frames that are compared with the truth


class AbstractSampler(ScaledLearner):
    """A method that draws frames. See this module for what it is shown and how it is scored.

    Parameters
    ----------
    conditional : bool
        Draw the next frame given an observation of this one, not just a frame.
    observe_noise : float
        Standard deviation of the observation's noise, relative to each field's.
    observe_every : int
        Of the points along every axis, one in this many is observed.
    one_scale : bool
        Divide all fields by one number, the root of their mean variance, not each by its own
        deviation: large fields stay large.
    **options
        Of `ScaledLearner`.

    Attributes
    ----------
    order
        At which power of the number of evaluations the error of a draw falls; None where more
        evaluations change nothing. The contract of the methods measures it.

    Raises
    ------
    ValueError
        An observation that is impossible, or asked for where there is no condition.
    """

    stochastic = True
    preview = "samples"
    order: int | None = None
    supported_dims: tuple[int, ...] = (0, 1, 2, 3)

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        conditional: bool = False,
        observe_noise: float = 0.0,
        observe_every: int = 1,
        one_scale: bool = False,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        if observe_noise < 0 or observe_every < 1:
            raise ValueError(
                "observe_noise must not be negative and observe_every at least 1, are "
                f"{observe_noise} and {observe_every}"
            )
        if not conditional and (observe_noise or observe_every > 1):
            raise ValueError("observe_noise and observe_every need conditional: true")
        self.conditional = conditional
        self.observe_noise, self.observe_every = observe_noise, observe_every
        self.one_scale = one_scale
        self.history, self.unroll = 1, int(conditional)

    # What a method gives -------------------------------------------------------------------------

    def loss(
        self,
        data: Float[Tensor, "batch channel *space"],
        context: Float[Tensor, "batch observed *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Return the training loss of normalised frames and what is observed beside them.

        Without a condition, `context` has no channels: networks may always concatenate it. By
        default there is nothing to learn.
        """
        return data.new_zeros(())

    @abstractmethod
    def sample(
        self,
        context: Float[Tensor, "batch observed *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator,
        nfe: int | None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return one normalised frame per observation, see `draw`."""

    def paths(
        self,
        context: Float[Tensor, "batch observed *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator,
    ) -> Float[Tensor, "time batch channel *space"] | None:
        """Return the exact way of each sample from noise to data, at equal steps of time.

        It begins with the noise and ends with what `sample` returns from the same generator with
        `nfe` None. None where the method is no flow.
        """
        return None

    # Variables -----------------------------------------------------------------------------------

    @property
    def view(self) -> tuple[bool, int, float]:
        """What it is shown; methods that work together must be shown the same."""
        return self.conditional, self.observe_every, self.observe_noise

    def fit_statistics(self, statistics: dict[str, list[float]]) -> None:
        """Store the training data's statistics, with one scale for all fields where asked for."""
        super().fit_statistics(statistics)
        if self.one_scale:
            self.field_std.copy_(self.field_std.square().mean().sqrt().expand_as(self.field_std))

    @property
    def observed_fields(self) -> int:
        """Channels of an observation."""
        return self.fields if self.conditional else 0

    def observe(
        self, frames: Float[Tensor, "batch channel *space"], generator: torch.Generator
    ) -> Float[Tensor, "batch observed *space"]:
        """Return what is seen of frames, in physical units; no channels without a condition.

        Parameters
        ----------
        frames
            Physical units.
        generator
            Source of the noise, on the device of `frames`.
        """
        if not self.conditional:
            return frames[:, :0]
        noise = torch.empty_like(frames).normal_(generator=generator)
        noisy = frames + self.observe_noise * self.per_channel(self.field_std) * noise
        seen = torch.zeros(frames.shape[2:], dtype=torch.bool, device=frames.device)
        seen[(slice(None, None, self.observe_every),) * self.dims] = True
        return torch.where(seen, noisy, self.per_channel(self.field_mean))

    def context_of(
        self, condition: Float[Tensor, "batch observed *space"]
    ) -> Float[Tensor, "batch observed *space"]:
        """Return an observation as networks take it: what is not seen is 0."""
        return self.normalised(condition) if self.conditional else condition

    # Draws ---------------------------------------------------------------------------------------

    def draw(
        self,
        condition: Float[Tensor, "batch observed *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator,
        nfe: int | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Draw one frame per observation, physical units in and out.

        Parameters
        ----------
        condition
            What `observe` returns; without a condition its shape alone says what to draw.
        parameters
            Each trajectory's, in the order of the store.
        generator
            Source of the noise, on the device of `condition`. Its state fixes the noise that a
            draw starts from, whatever the number of evaluations.
        nfe
            Calls of the network; None is as many as an exact answer needs.
        """
        context = self.context_of(condition)
        sample = self.sample(context, self.scaled_conditions(parameters), generator, nfe)
        return self.physical(sample)

    # Training ------------------------------------------------------------------------------------

    def batch_loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, ""]:
        """Return the loss of windows of one frame, or of the present and the next one."""
        window = batch["window"]
        context = self.context_of(self.observe(window[:, 0], generator))
        conditions = self.scaled_conditions(batch["parameters"])
        return self.loss(self.normalised(window[:, -1]), context, conditions, generator)

    def validate(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the sliced distance between true frames and as many quick draws."""
        window = batch["window"]
        condition = self.observe(window[:, 0], generator)
        drawn = self.draw(condition, batch["parameters"], generator, VALIDATED)
        points, truth = (
            self.normalised(frames.detach()).flatten(1).nan_to_num(UNBOUNDED).cpu().double().numpy()
            for frames in (drawn, window[:, -1])
        )
        return {"sliced_w2": torch.tensor(sliced_w2(points, truth))}

    def evaluate(self, store: Any, options: dict[str, Any], seed: int) -> Evaluation:
        """Draw beside the test split of a store and score, see this module.

        Parameters
        ----------
        store
            A `longrun.data.store.Store`.
        options
            `trajectories`; and `nfe` ([1, 2, 4, 8, 100]), `members` (1), `start` (0),
            `stride` (1), `keep` (0), `batch_size` (1024, samples in one call of the network),
            `projections` (128), `truths` (as many as trajectories), `split` ("test").
        seed
            Of the run; the noise of an evaluation doesn't depend on it.

        Raises
        ------
        UserError
            If the store has too few frames or trajectories, or `truths` that don't suit.
        """
        cases = _Cases.of(self, store, options)
        table = ScoreTable(store.path.stem)
        with torch.no_grad():
            drawn = _draw_all(self, cases)
            _score_distribution(cases, drawn, table)
            if not self.conditional:
                _score_parts(cases, drawn, table)
            _score_flow(cases, drawn, table)
            if self.conditional:
                _score_conditional(cases, drawn, table)
            _score_cost(self, cases, table)
        return Evaluation(table.frame(), _predictions(cases, drawn))


# What is evaluated, on what ----------------------------------------------------------------------


@dataclass(frozen=True)
class _Cases:
    """The test cases: which trajectories, how often, in which units."""

    store: Any
    split: Any
    trajectories: int
    truths: int  # of the same frame, the first ones are those of `trajectories`
    members: int
    start: int
    stride: int
    conditional: bool
    nfe: list[int]
    keep: int
    batch_size: int
    projections: int
    mean: ndarray  # (channel, *ones)
    std: ndarray
    bands: dict[str, ndarray]
    sides: tuple[float, ...]  # of the mean box
    equation: Any  # None where it isn't known

    @classmethod
    def of(cls, module: AbstractSampler, store: Any, options: dict[str, Any]) -> Any:
        split = store.split(options.get("split", "test"))
        start, stride = options.get("start", 0), options.get("stride", 1)
        needs, trajectories = start + 1 + stride * module.unroll, options["trajectories"]
        truths = options.get("truths") or trajectories
        check_size(store, split, max(trajectories, truths), needs)
        if truths != trajectories and module.conditional:
            raise UserError("evaluate.truths needs conditional: false")
        if truths % trajectories:
            raise UserError(
                f"evaluate.truths must be a multiple of trajectories, {trajectories}, is {truths}"
            )
        dims, name = len(split.space), store.equation["name"]
        shape = (-1, *(1,) * dims)
        used = {n: values[:trajectories] for n, values in split.parameters.items()}
        box = sides(used, dims)
        bins = len(spectrum.wavenumbers(split.space, box)) if dims else 0
        masks = spectrum.bands(module.description["spectrum"], bins) if dims else {}
        return cls(
            store=store,
            split=split,
            trajectories=trajectories,
            truths=truths,
            members=options.get("members", 1) if module.stochastic else 1,
            start=start,
            stride=stride,
            conditional=module.conditional,
            nfe=sorted(options.get("nfe", [1, 2, 4, 8, 100])),
            keep=min(options.get("keep", 0), trajectories),
            batch_size=options.get("batch_size", 1024),
            projections=options.get("projections", 128),
            mean=module.field_mean.cpu().double().numpy().reshape(shape),
            std=module.field_std.cpu().double().numpy().reshape(shape),
            bands={name: mask for name, mask in masks.items() if mask.any()},
            sides=box,
            equation=registry.build("equations", store.equation)
            if name in registry.names("equations") and store.whole
            else None,
        )

    @property
    def dims(self) -> int:
        return len(self.split.space)

    def read(self, split: Any, chosen: ndarray, frame: int) -> Float[ndarray, "row channel *space"]:
        frames: ndarray = split.read(chosen, slice(frame, frame + 1))[:, 0]
        return frames

    @property
    def target(self) -> int:
        """Frame that is drawn."""
        return self.start + self.stride * self.conditional

    def batches(self, module: AbstractSampler) -> Iterator[tuple[ndarray, Tensor, Tensor]]:
        """Trajectories, and for each of their members in a row what is seen, and parameters."""
        size = max(1, self.batch_size // self.members)
        names = self.split.parameter_names
        for first in range(0, self.trajectories, size):
            chosen = np.arange(first, min(first + size, self.trajectories))
            frames = torch.from_numpy(self.read(self.split, chosen, self.start)).to(module.device)
            seen = module.observe(frames.float(), seeded(module.device, 0, first))
            columns = np.stack([self.split.parameters[name][chosen] for name in names], axis=1)
            given = torch.from_numpy(columns).to(seen)
            yield (
                chosen,
                seen.repeat_interleave(self.members, 0),
                given.repeat_interleave(self.members, 0),
            )

    def normalised(self, frames: ndarray) -> Float[ndarray, "row channel *space"]:
        return (frames.astype(np.float64) - self.mean) / self.std


@dataclass
class _Drawn:
    """What was drawn, normalised, float64 and bounded; first axes (trajectory, member)."""

    truth: ndarray  # (trajectory, channel, *space)
    others: ndarray  # further truths, of no trajectory
    seen: ndarray  # (trajectory, observed, *space), physical units
    samples: dict[int, ndarray]  # by number of evaluations
    alive: dict[int, ndarray]  # (trajectory, member)
    exact: ndarray
    cost: ndarray | None  # (trajectory, member), as the next
    bend: ndarray | None
    path: ndarray | None  # (time, kept trajectory, channel, *space), of the first member


def _draw_all(module: AbstractSampler, cases: _Cases) -> _Drawn:
    """Draw everything, batch by batch, each number of evaluations from the same noise."""
    parts: dict[Any, list[ndarray]] = {}

    def keep(name: Any, values: Tensor | ndarray, members: bool = True) -> None:
        array = values if isinstance(values, np.ndarray) else values.cpu().numpy()
        if members:
            array = array.reshape(-1, cases.members, *array.shape[1:])
        parts.setdefault(name, []).append(array)

    for chosen, seen, parameters in cases.batches(module):
        first = int(chosen[0])
        keep("truth", cases.normalised(cases.read(cases.split, chosen, cases.target)), False)
        keep("seen", seen[:: cases.members], False)

        def bounded(drawn: Tensor) -> Tensor:
            return drawn.double().nan_to_num(UNBOUNDED).clamp(-UNBOUNDED, UNBOUNDED)

        for count in cases.nfe:
            generator = seeded(module.device, 1, first)
            drawn = module.normalised(module.draw(seen, parameters, generator, count))
            alive = (drawn.abs() <= UNBOUNDED).flatten(1).all(1)  # NaN compares as false
            keep(("alive", count), alive)
            keep(("samples", count), bounded(drawn))
        context = module.context_of(seen)
        conditions = module.scaled_conditions(parameters)
        path = module.paths(context, conditions, seeded(module.device, 1, first))
        exact = (
            module.draw(seen, parameters, seeded(module.device, 1, first))
            if path is None
            else module.physical(path[-1])  # in the precision of other draws
        )
        keep("exact", bounded(module.normalised(exact)))
        if path is not None:
            path = bounded(path)
            straight = path[-1] - path[0]
            keep("cost", straight.square().flatten(1).mean(1))
            bend = torch.zeros(len(straight), device=straight.device, dtype=straight.dtype)
            for before, after in itertools.pairwise(path):
                slope = (after - before) * (len(path) - 1)
                bend += (straight - slope).square().flatten(1).mean(1) / (len(path) - 1)
            keep("bend", bend)
            few = (chosen < cases.keep).sum()
            keep("path", path[:, :: cases.members][:, :few].transpose(0, 1), False)
    whole = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    further = np.arange(cases.trajectories, cases.truths)
    return _Drawn(
        truth=whole["truth"],
        others=cases.normalised(cases.read(cases.split, further, cases.target)),
        seen=whole["seen"],
        samples={count: whole["samples", count] for count in cases.nfe},
        alive={count: whole["alive", count] for count in cases.nfe},
        exact=whole["exact"],
        cost=whole.get("cost"),
        bend=whole.get("bend"),
        path=np.moveaxis(whole["path"], 0, 1) if "path" in whole else None,
    )


# Scores ------------------------------------------------------------------------------------------


def _score_distribution(cases: _Cases, drawn: _Drawn, table: ScoreTable) -> None:
    """Score all samples against all truths, one value per number of evaluations."""
    dims, box = cases.dims, cases.sides
    flat = drawn.truth.reshape(len(drawn.truth), -1)
    repeated = flat.repeat(cases.members, axis=0)
    true_energy = wavenumber = None
    if dims:
        true_energy = spectrum.energy_spectrum(drawn.truth, dims, box).mean(axis=(0, 1))
        wavenumber = spectrum.wavenumbers(cases.split.space, box)
    for count, samples in drawn.samples.items():
        alive = drawn.alive[count]
        table.add("bounded", alive.mean(), nfe=count)
        rows = {"nfe": count, "censored": not alive.all()}
        points = samples.reshape(len(repeated), -1)
        distance = sliced_w2(points, repeated, cases.projections)
        table.add("sliced_w2", distance, **rows)
        if cases.conditional:
            variance = points.var(axis=0).mean() / flat.var(axis=0).mean()
            table.add("variance_ratio", variance, **rows)
        if true_energy is None:
            continue
        energy = spectrum.energy_spectrum(samples, dims, box).mean(axis=(0, 1, 2))
        for band, mask in cases.bands.items():
            error = min(float(spectrum.relative_error(energy, true_energy, mask)), UNBOUNDED**2)
            table.add(f"spectrum_error_{band}", error, **rows)
        table.add("energy_spectrum", energy, nfe=count, wavenumber=wavenumber)
    if true_energy is not None:
        table.add("truth_spectrum", true_energy, wavenumber=wavenumber)
    train = cases.store.split("train")
    size = min(cases.trajectories, train.trajectories)
    floors = []
    for first in range(0, train.trajectories - size + 1, size)[:FLOORS]:
        chosen = np.arange(first, first + size)
        others = cases.normalised(cases.read(train, chosen, cases.target))
        floors.append(sliced_w2(others.reshape(size, -1), flat[:size], cases.projections))
    table.add("sliced_w2_data", np.mean(floors))


def _score_parts(cases: _Cases, drawn: _Drawn, table: ScoreTable) -> None:
    """Score parts of the samples beside parts of the truths, see this module."""
    count = min(PARTS, cases.trajectories)
    size, number = cases.trajectories // count, np.arange(count)
    flat = np.concatenate([drawn.truth, drawn.others]).reshape(cases.truths, -1)
    truths = flat[: count * size * (cases.truths // cases.trajectories)].reshape(
        count, -1, flat.shape[1]
    )
    lines = [SlicedTruth(truth, cases.projections) for truth in truths]
    train = cases.store.split("train")
    sets = min(count, train.trajectories // size)
    chance = None
    if sets:
        others = cases.normalised(cases.read(train, np.arange(sets * size), cases.target))
        others = others.reshape(sets, size, -1)
        # a set that stands for two parts makes their chance look smaller than it is
        chance = np.array([line.squared(others[n % sets]) for n, line in enumerate(lines)])
    law_of_truths = _of_law(cases, truths)
    centre = flat.mean(axis=0)
    width = np.square(truths - centre).mean(axis=(1, 2))
    for nfe, samples in drawn.samples.items():
        rows: dict[str, Any] = {"nfe": nfe, "trajectory": number}
        rows["censored"] = not drawn.alive[nfe].all()
        points = samples[: count * size, 0].reshape(count, size, -1)  # first members
        middle = points.mean(axis=(0, 1))
        table.add("variance_ratio", np.square(points - middle).mean(axis=(1, 2)) / width, **rows)
        if chance is not None:
            found = [line.squared(part) for line, part in zip(lines, points, strict=True)]
            table.add("sliced_w2_excess", np.array(found) - chance, **rows)
        law = _of_law(cases, points)
        if law:
            gap = law_of_truths["log_density"].mean(axis=1) - law["log_density"].mean(axis=1)
            table.add("log_density_gap", gap, **rows)
            far, usual = (np.square(of["distance"]).mean(axis=1) for of in (law, law_of_truths))
            table.add("cluster_spread", np.sqrt(far / usual), **rows)


def _of_law(
    cases: _Cases, points: Float[ndarray, "part row value"]
) -> dict[str, Float[ndarray, "part row"]]:
    """Compare normalised points of the first trajectories with their law, where that is known."""
    count = points.shape[0] * points.shape[1]
    given = {name: values[:count] for name, values in cases.split.parameters.items()}
    law = cases.equation.law(given) if cases.equation is not None else None
    if law is None:
        return {}
    frames = points.reshape(count, len(cases.store.fields), *cases.split.space)
    physical = (cases.mean + frames * cases.std).reshape(count, -1)
    values = physical if law.basis is None else physical @ law.basis.T
    known = mixture_scores(values, law.means, law.variances)
    return {name: score.reshape(points.shape[:2]) for name, score in known.items()}


def _score_flow(cases: _Cases, drawn: _Drawn, table: ScoreTable) -> None:
    """Score the way from noise to sample."""
    trajectories = np.arange(cases.trajectories)
    axes = tuple(range(2, drawn.exact.ndim))
    for count, samples in drawn.samples.items():
        squares = np.square(samples - drawn.exact).mean(axis=axes).mean(axis=1)
        if not cases.conditional:
            parts = min(PARTS, cases.trajectories)
            size = cases.trajectories // parts
            squares = squares[: parts * size].reshape(parts, size).mean(axis=1)
        table.add("endpoint_error", np.sqrt(squares), nfe=count, trajectory=np.arange(len(squares)))
    if drawn.cost is not None and drawn.bend is not None:
        table.add("transport_cost", drawn.cost.mean(axis=1), trajectory=trajectories)
        table.add("straightness", drawn.bend.mean(axis=1), trajectory=trajectories)


def _score_conditional(cases: _Cases, drawn: _Drawn, table: ScoreTable) -> None:
    """Score the samples of each condition against its one truth."""
    dims, flat = cases.dims, drawn.truth.reshape(len(drawn.truth), -1)
    for count, samples in drawn.samples.items():
        rows: dict[str, Any] = {
            "trajectory": np.arange(cases.trajectories),
            "nfe": count,
            "censored": ~drawn.alive[count].all(axis=1),
        }
        table.add("crps", ensemble.crps(samples, drawn.truth, dims), **rows)
        members = samples.reshape(*samples.shape[:2], -1)
        table.add("energy_score", energy_score(members, flat), **rows)
        error = ensemble.ensemble_rmse(samples, drawn.truth, dims)
        table.add("ensemble_rmse", error, **rows)
        if cases.members > 1:
            spread = ensemble.spread(samples, dims)
            table.add("spread", spread, **rows)
            # of the means over trajectories: a ratio of single cases is dominated by lucky hits
            whole = np.sqrt(np.square(spread).mean()) / np.sqrt(np.square(error).mean())
            table.add("spread_skill", min(whole, UNBOUNDED), nfe=count)


def _score_cost(module: AbstractSampler, cases: _Cases, table: ScoreTable) -> None:
    """Score the wall time of one evaluation, and the size of the method."""
    if module.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(module.device)
    _, seen, parameters = next(cases.batches(module))
    generator = seeded(module.device, 2)
    wall = seconds_per_call(lambda: module.draw(seen, parameters, generator, 1))
    table.add("wall_time_per_sample", wall / len(seen), nfe=1)
    score_size(module, table)


# Fields for figures ------------------------------------------------------------------------------


def _predictions(cases: _Cases, drawn: _Drawn) -> xr.Dataset:
    """Truth and samples of the first `keep` trajectories, in physical units.

    `prediction` is the first member of the most evaluations; `samples` has them all, `path` the
    exact ways of first members at up to 21 times, `observation` what was shown.
    """
    keep, axes = cases.keep, schema.AXES[: cases.dims]
    frame = (schema.FIELD, *axes)

    def physical(values: ndarray) -> ndarray:
        return (cases.mean + values * cases.std).astype(np.float32)

    samples = np.stack([physical(values[:keep]) for values in drawn.samples.values()])
    dims = (schema.TRAJECTORY, schema.LEAD_TIME, *frame)
    content: dict[str, Any] = {
        "truth": (dims, physical(drawn.truth[:keep])[:, None]),
        "prediction": (dims, samples[-1, :, 0][:, None]),
        "samples": (("nfe", schema.TRAJECTORY, "member", *frame), samples),
    }
    if cases.conditional:
        content["observation"] = ((schema.TRAJECTORY, *frame), drawn.seen[:keep])
    path_time = np.zeros(0)
    if drawn.path is not None:
        times = np.unique(np.linspace(0, len(drawn.path) - 1, 21).astype(int))
        path_time = times / max(len(drawn.path) - 1, 1)
        content["path"] = (("path_time", schema.TRAJECTORY, *frame), physical(drawn.path[times]))
    parameters = cases.split.parameters
    dt = parameters.get(schema.DT, np.ones(cases.trajectories))[: cases.trajectories]
    length = parameters.get(schema.LENGTH, np.ones(cases.trajectories))[: cases.trajectories]
    lead = float(dt.mean()) * cases.stride if cases.conditional else 0.0
    coordinates = field_coordinates(
        cases.store.fields, keep, [lead], cases.split.space, float(length.mean())
    )
    coordinates |= {"nfe": list(drawn.samples), "member": np.arange(cases.members)}
    if drawn.path is not None:
        coordinates["path_time"] = path_time
    return xr.Dataset(content, coords=coordinates)
