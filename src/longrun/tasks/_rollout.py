"""Evaluation of a forecaster: rolled out far past its training horizon, scored frame by frame.

The protocol, for every method of an experiment alike:

- Frames of a trajectory are numbered from 0 as they lie in the store. One model step is `stride`
  frames. `start` is the number of the LAST input frame. A method of history h sees the frames
  `start - (h - 1) stride, ..., start - stride, start`, so `start >= (h - 1) stride`; methods with
  different histories are scored on the same target frames when they are given the same `start`.
- Step n = 1, 2, ..., `steps` is the forecast of frame `start + n stride`, at lead time n times the
  trajectory's own `dt` times `stride`. The true frames after `start` are never shown.
- The trajectories are the first `trajectories` of the split; each has `members` rollouts, which
  differ in the method's noise alone (one where the method has none).
- Fields are scored in physical units on the grid of the store, each for itself; a score is the mean
  over fields, a spectrum is the sum over fields. Of fields that the equation derives from them, as
  vorticity from velocity, the correlation is scored, each under its own name. A field that the
  store lacks, for which a view gives a constant, is shown to a method and not scored; nor is one
  that never moves, such as a mask.
- What an equation prescribes on walls and in bodies is not scored: it counts as 0 in both.
- Spectra are taken through a window along axes that aren't periodic, or of which it isn't known;
  see `longrun.metrics.spectrum`.
- A rollout has *diverged* at its first frame that is not finite, or in which any value is more than
  100 standard deviations from the mean of the training data. From then on it is frozen: the method
  remembers what it did before that frame, so that nothing spreads, and its forecast counts as a
  constant field 100 standard deviations from the mean. Its correlation is 0 and `bounded` is 0.
- Errors have a ceiling, for diverged and bounded frames alike: RMSE 100 standard deviations, nRMSE,
  VRMSE, relative L1 and spread-skill 100, relative errors of a spectrum 1e4. A value at its ceiling
  is marked as censored: it is a lower bound, and so is a mean that contains it. No score is ever
  NaN.
- The climate is that of the second half of the rollout, compared with the same frames of the same
  trajectory; the Wasserstein distance is in standard deviations of the training data.
- One-step scores start from true frames: up to 8 starts, evenly spread over the same frames. A
  direct method has none: it sees no frame, and its rollout begins at the first of a trajectory.
- The generalisation gap is the nRMSE of a test trajectory, mean over the rollout, over that of the
  first `train_trajectories` of the training split, rolled out in the same way.
- Noise comes from generators seeded with the run's seed, one for each batch of trajectories, so the
  same call gives the same bits, on any number of devices; how trajectories are split into batches
  shifts that noise, and changes nothing where there is none.

The truth is read and the forecast is scored in blocks of frames. Besides the scores, what is held
does not grow with the length of the rollout, except the few trajectories that are kept whole.
"""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from longrun.data.describe import sides
from longrun.metrics import spectrum
from longrun.metrics.pointwise import UNBOUNDED
from longrun.metrics.table import ScoreTable
from longrun.runtime import registry
from longrun.runtime.cli import UserError
from longrun.tasks._evaluation import (
    TIMED_CALLS,
    Evaluation,
    check_size,
    is_first,
    score_size,
    seconds_per_call,
    seeded,
    share_out,
)
from longrun.tasks._scoring import (
    Block,
    Cases,
    Pooled,
    blocks,
    compare_with_predictability,
    predictions,
    report_one_step,
    say_what_is_left_out,
    score_one_step,
    score_rollouts,
)

if TYPE_CHECKING:
    from longrun.tasks.forecast import AbstractForecaster

ONE_STEP_STARTS = 8


def evaluate_forecast(
    module: "AbstractForecaster", store: Any, options: Mapping[str, Any], seed: int
) -> Evaluation:
    """Roll a method out over a store and score it, by the protocol of this module.

    Parameters
    ----------
    module
        On the device that it shall run on, in evaluation mode.
    store
        A `longrun.data.store.Store`.
    options
        `steps`, `stride`, `trajectories`; and `members` (1), `start` (0), `keep` (0), `batch_size`
        (64, forecasts in one call of the network), `split` ("test"), `train_trajectories` (0).
    seed
        Of the noise of a stochastic method.

    Returns
    -------
    Evaluation

    Raises
    ------
    UserError
        If the store has too few frames or trajectories, or `start` leaves no room for the history.
    """
    cases = _cases(module, store, options)
    table = ScoreTable(store.path.stem)
    with torch.no_grad():
        kept = _score_rollouts(module, cases, table, seed)
        if not module.direct:
            _score_one_step(module, cases, table, seed)
        if options.get("train_trajectories"):
            _score_gap(module, store, options, table, seed)
        if is_first():
            _score_cost(module, cases, table, seeded(module.device, seed, 2))
            compare_with_predictability(cases, table)
            say_what_is_left_out(cases)
    return Evaluation(table.frame(), predictions(cases, kept))


def rollout(
    module: "AbstractForecaster",
    history: Float[Tensor, "batch frame channel *space"],
    parameters: Float[Tensor, "batch condition"],
    steps: int,
    *,
    generator: torch.Generator | None = None,
    batch_size: int = 64,
) -> Iterator[Float[Tensor, "batch channel *space"]]:
    """Feed a method its own forecasts; one frame per step, physical units.

    Parameters
    ----------
    module
        The method.
    history
        True frames, oldest first, as many as the method sees, on its device.
    parameters
        Of each trajectory, in the order of the store.
    steps
        Number of frames to forecast.
    generator
        Source of a stochastic method's noise.
    batch_size
        Forecasts in one call of the network.

    Yields
    ------
    Tensor
        The next frame; NaN from the frame on at which a trajectory diverges.
    """
    alive = torch.ones(len(history), dtype=torch.bool, device=history.device)
    pieces = zip(history.split(batch_size), parameters.split(batch_size), strict=True)
    memories = [module.begin(*piece) for piece in pieces]
    for _ in range(steps):
        ahead = [module.advance(memory, generator) for memory in memories]
        frame = torch.cat([frames for frames, _ in ahead])
        alive = alive & _bounded(module, frame)
        yield torch.where(_as_frames(alive, frame), frame, math.nan)
        memories = [
            {name: torch.where(_as_frames(going, new), new, old[name]) for name, new in now.items()}
            for going, old, (_, now) in zip(alive.split(batch_size), memories, ahead, strict=True)
        ]


# What is evaluated, on what --------------------------------------------------------------------


def _cases(module: "AbstractForecaster", store: Any, options: Mapping[str, Any]) -> Cases:
    split = store.split(options.get("split", "test"))
    if not split.space:
        raise UserError(f"{store.path}: has no axis of space, over which these scores are taken")
    start, stride, steps = options.get("start", 0), options["stride"], options["steps"]
    check_size(store, split, options["trajectories"], start + steps * stride + 1)
    if start < (module.history - 1) * stride:
        raise UserError(
            f"evaluate.start must be at least {(module.history - 1) * stride}, the last input "
            f"frame of a method that sees {module.history} frames, is {start}"
        )
    if module.direct and start:
        raise UserError(f"evaluate.start must be 0 for a direct method, is {start}")
    statistics = module.description["statistics"]
    given = {*split.constants, *store.static}
    scored = np.flatnonzero([name not in given for name in split.fields])
    if not len(scored):
        raise UserError(f"{store.path}: no field of it moves: there is nothing to forecast")
    used = {name: values[: options["trajectories"]] for name, values in split.parameters.items()}
    bins = len(spectrum.wavenumbers(split.space, sides(used, len(split.space))))
    masks = spectrum.bands(module.description["spectrum"], bins)
    name = store.equation["name"]
    # a store converted from another format has none, and one seen in part not its state
    known = name in registry.names("equations") and store.whole
    return Cases(
        store=store,
        split=split,
        trajectories=options["trajectories"],
        members=options.get("members", 1) if module.stochastic else 1,
        start=start,
        stride=stride,
        steps=steps,
        history=module.history,
        keep=min(options.get("keep", 0), options["trajectories"]),
        batch_size=options.get("batch_size", 64),
        scored=scored,
        mean=np.asarray(statistics["mean"], dtype=np.float64)[scored],
        std=np.asarray(statistics["std"], dtype=np.float64)[scored],
        bands={name: mask for name, mask in masks.items() if mask.any()},
        equation=registry.build("equations", store.equation) if known else None,
    )


def _inputs(
    module: "AbstractForecaster", cases: Cases, chosen: np.ndarray, last: int, repeats: int = 1
) -> tuple[Tensor, Tensor]:
    """History up to frame `last` and parameters, each trajectory `repeats` times in a row."""
    history, parameters = cases.inputs(chosen, last)
    frames = torch.from_numpy(history).to(module.device)
    given = torch.from_numpy(parameters).to(frames)
    return frames.repeat_interleave(repeats, 0), given.repeat_interleave(repeats, 0)


def _bounded(module: "AbstractForecaster", frame: Float[Tensor, "..."]) -> Bool[Tensor, "*batch"]:
    """Which frames are finite and within the bound; NaN compares as false."""
    statistics = module.description["statistics"]
    dims = module.description["dims"]
    mean, std = (
        torch.tensor(statistics[name], device=frame.device, dtype=frame.dtype).reshape(
            -1, *(1,) * dims
        )
        for name in ("mean", "std")
    )
    return ((frame - mean).abs() <= UNBOUNDED * std).flatten(-dims - 1).all(-1)


def _as_frames(mask: Bool[Tensor, "*batch"], frames: Tensor) -> Tensor:
    """Append axes of length 1 until a mask of frames broadcasts against them."""
    return mask.reshape(*mask.shape, *(1,) * (frames.ndim - mask.ndim))


# Forecasts, scored as they come -----------------------------------------------------------------


def _score_rollouts(
    module: "AbstractForecaster", cases: Cases, table: ScoreTable, seed: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Score all rollouts; return truth and forecast of the trajectories to keep."""

    def score_group(number: int, chosen: np.ndarray) -> Any:
        history, parameters = _inputs(module, cases, chosen, cases.start, cases.members)
        initial = history[:: cases.members, -1].cpu().numpy()[:, cases.scored]
        frames = rollout(
            module,
            history,
            parameters,
            cases.steps,
            generator=seeded(module.device, seed, 0, number),
            batch_size=cases.batch_size,
        )
        return score_rollouts(cases, chosen, initial, _in_blocks(frames, cases, chosen))

    groups = share_out(score_group, cases.groups(cases.members))
    pooled = Pooled(cases)
    for rows, spectra, _ in groups:
        table.extend(rows)
        pooled.merge(spectra)
    pooled.report(table)
    return [kept for _, _, kept in groups if len(kept[0])]


def _in_blocks(frames: Iterator[Tensor], cases: Cases, chosen: np.ndarray) -> Iterator[Block]:
    """Yield frames as arrays of the scored channels, some steps at a time."""
    for steps in blocks(cases, len(chosen)):
        forecast = torch.stack([next(frames) for _ in steps], dim=1).cpu().numpy()
        yield steps, forecast[:, :, cases.scored]


def _score_one_step(
    module: "AbstractForecaster", cases: Cases, table: ScoreTable, seed: int
) -> None:
    """Score single steps from true frames, after every stage of a step."""
    last = cases.start + (cases.steps - 1) * cases.stride
    starts = np.unique(np.linspace(cases.start, last, ONE_STEP_STARTS).astype(int)).tolist()
    scale = module.target_scale.cpu().numpy()[cases.scored]

    def score_group(number: int, chosen: np.ndarray) -> Any:
        generator = seeded(module.device, seed, 1, number)

        def forecasts() -> Iterator[tuple[int, np.ndarray]]:
            for start in starts:
                frames, parameters = _inputs(module, cases, chosen, start)
                stages = module.stages(frames, parameters, generator)
                bounded = _bounded(module, stages)
                stages = torch.where(_as_frames(bounded, stages), stages, math.nan)
                yield start, stages.cpu().numpy()[:, :, cases.scored]

        return score_one_step(cases, chosen, forecasts(), scale)

    report_one_step(cases, share_out(score_group, cases.groups(1)), module.noise_levels, table)


# Trajectories that were trained on -------------------------------------------------------------


def _score_gap(
    module: "AbstractForecaster",
    store: Any,
    options: Mapping[str, Any],
    table: ScoreTable,
    seed: int,
) -> None:
    """Score each trajectory's error over the mean error on trajectories of the training split."""
    count = options["train_trajectories"]
    cases = _cases(module, store, {**options, "split": "train", "trajectories": count, "keep": 0})
    seen = ScoreTable(store.path.stem)
    _score_rollouts(module, cases, seen, seed)
    trained = _mean_nrmse(seen)
    tested = _mean_nrmse(table)
    table.add("train_nrmse", trained.mean())
    table.add("generalisation_gap", tested / trained.mean(), trajectory=tested.index)


def _mean_nrmse(table: ScoreTable) -> pd.Series:
    """Mean over steps and members of each trajectory."""
    scores = table.frame()
    return scores[scores["metric"] == "nrmse"].groupby("trajectory")["value"].mean()


# Cost ------------------------------------------------------------------------------------------


def _score_cost(
    module: "AbstractForecaster", cases: Cases, table: ScoreTable, generator: torch.Generator
) -> None:
    """Score wall time, parameters and memory of one batch of trajectories."""
    chosen = next(cases.groups(1))
    history, parameters = _inputs(module, cases, chosen, cases.start)
    if module.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(module.device)
    size = len(history)
    period = module.period
    steps = period * (1 + TIMED_CALLS)
    frames = rollout(module, history, parameters, steps, generator=generator, batch_size=size)
    wall = seconds_per_call(lambda: [next(frames) for _ in range(period)])
    table.add("wall_time_per_second", wall / period / float(cases.seconds[chosen].sum()))
    score_size(module, table)
