"""PDE-Refiner (Lippe et al., 2023, arXiv:2308.05732).

One network first predicts the scaled increment y, then refines it K times: the prediction is
perturbed with Gaussian noise of a smaller and smaller standard deviation, and the network removes
it again. Each noise level targets the content of y whose amplitude is just below that level.

    beta_j = s^((K - j) / K),  s = min_noise_std^2,
    alpha_j = 1 - beta_j,  abar_j = prod_{i<=j} alpha_i
    train:  y_j = sqrt(abar_j) y + sqrt(1 - abar_j) eps,   j ~ U{0..K}
            loss  | net(y_j, u, j) - (sqrt(1 - abar_j) y - sqrt(abar_j) eps) |^2
    sample: j = K..0:  yhat = sqrt(abar_j) y_j + sqrt(1 - abar_j) net(y_j, u, j),
            y_(j-1) ~ N(mean, beta_j (1 - abar_(j-1)) / (1 - abar_j))    (posterior of DDPM)

This is the form of the authors' public module (v-prediction), with three decisions of ours:

- The network's output is -v, so that at j = K it is y itself, and K = 0 is the one-step MSE method,
  bit for bit.
- At j = K the input holds no information (abar_K = 0). The public module feeds noise there, the
  paper's pseudo-code zeros; we feed zeros, so that the first prediction is not disturbed.
- `min_noise_std` is a standard deviation. The public module passes its square to the schedule, as a
  variance (4e-7, a standard deviation of 6.3e-4).
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from longrun.nn.unet import UNetBackbone, grid_multiple  # noqa: F401 (for the registry)
from longrun.tasks.forecast import AbstractForecaster


class PDERefiner(AbstractForecaster):
    """The U-Net with `refinement_steps` denoising steps after its prediction.

    Parameters
    ----------
    fields, dims, conditions : int
        See `AbstractForecaster`, also for the options.
    width : int
        Channels after the stem.
    multipliers : list of int
        Growth of the width from level to level, cumulative.
    refinement_steps : int
        K; 0 is the one-step U-Net.
    min_noise_std : float
        Standard deviation of the last step's noise, relative to the scaled target; it should be
        just below the network's own one-step error.
    level_shares : list of float or None
        How often each level j = 0..K is trained, relative to the others; None means equally often,
        as in the paper.
    level_weight : float
        Power p of the noise level's standard deviation sigma_j by which its squared error is
        multiplied. 0 is the paper's, an equal weight in v; 2 is an equal weight in y, which lets
        small noise levels disturb the first prediction less.
    """

    noise_variance: Tensor
    signal: Tensor
    noise: Tensor
    level_shares: Tensor

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        width: int = 64,
        multipliers: list[int] = [1, 2, 2, 4],  # noqa: B006 (read, never written)
        refinement_steps: int = 3,
        min_noise_std: float = 6.3e-4,
        level_shares: list[float] | None = None,
        level_weight: float = 0.0,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, **options)
        steps = refinement_steps
        if not 0 < min_noise_std < 1:
            raise ValueError(f"min_noise_std must lie between 0 and 1, is {min_noise_std}")
        shares = level_shares or [1.0] * (steps + 1)
        if len(shares) != steps + 1 or min(shares) < 0 or sum(shares) == 0:
            raise ValueError(f"level_shares must be {steps + 1} numbers, none negative")
        self.refinement_steps, self.level_weight = steps, level_weight
        self.stochastic = steps > 0
        refines = int(steps > 0)
        self.network = UNetBackbone(
            dims,
            (self.history + refines) * fields,
            fields,
            conditions + refines,
            width,
            multipliers,
        )
        level = torch.arange(steps + 1, dtype=torch.float64)
        beta = min_noise_std ** (2 * (steps - level) / max(steps, 1))
        kept = torch.cumprod(1 - beta, 0)
        self.register_buffer("noise_variance", beta.float(), persistent=False)
        self.register_buffer("signal", kept.sqrt().float(), persistent=False)
        self.register_buffer("noise", (1 - kept).sqrt().float(), persistent=False)
        self.register_buffer(
            "level_shares", torch.tensor(shares, dtype=torch.float32), persistent=False
        )

    @property
    def noise_levels(self) -> tuple[float, ...]:
        """Standard deviations of the noise, first stage (1) to last."""
        return tuple(self.noise.flip(0).tolist()) if self.refinement_steps else ()

    def _network(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        noisy: Float[Tensor, "batch channel *space"] | None,
        conditions: Float[Tensor, "batch condition"],
        level: Int[Tensor, " batch"],
    ) -> Float[Tensor, "batch channel *space"]:
        frames = history.flatten(1, 2)
        if noisy is None:
            return self.network(frames, conditions)
        # The public module spreads the levels over [0, 1000] before the sinusoid.
        scaled = level[:, None].to(conditions.dtype) * 1000 / self.refinement_steps
        return self.network(
            torch.cat([frames, noisy], dim=1), torch.cat([conditions, scaled], dim=1)
        )

    def loss(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        target: Float[Tensor, "batch channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Return the denoising loss at one random level per sample."""
        if not self.refinement_steps:
            return super().loss(history, target, conditions, generator)
        level = torch.multinomial(
            self.level_shares, len(target), replacement=True, generator=generator
        )
        shape = (-1, *(1,) * (target.ndim - 1))
        signal = self.signal[level].reshape(shape).to(target.dtype)
        noise = self.noise[level].reshape(shape).to(target.dtype)
        epsilon = torch.empty_like(target).normal_(generator=generator)
        is_first = (level == self.refinement_steps).reshape(shape)
        noisy = torch.where(is_first, 0.0, signal * target + noise * epsilon)
        prediction = self._network(history, noisy, conditions, level)
        scale = noise ** (self.level_weight / 2)
        return self.distance(scale * prediction, scale * (noise * target - signal * epsilon))

    def step_stages(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "stage batch channel *space"]:
        """Return the scaled increment before refinement and after each step of it."""
        batch = len(history)
        level = torch.full((batch,), self.refinement_steps, device=history.device)
        if not self.refinement_steps:
            return self._network(history, None, conditions, level)[None]
        signal, noise, variance = self.signal, self.noise, self.noise_variance
        noisy = torch.zeros_like(history[:, -1])
        stages: list[Tensor] = []
        for j in range(self.refinement_steps, -1, -1):
            output = self._network(history, noisy, conditions, torch.full_like(level, j))
            estimate = signal[j] * noisy + noise[j] * output
            stages.append(estimate)
            if j:
                removed = noise[j] ** 2
                mean = (
                    signal[j - 1] * variance[j] * estimate
                    + (1 - variance[j]).sqrt() * noise[j - 1] ** 2 * noisy
                ) / removed
                spread = noise[j - 1] * (variance[j] / removed).sqrt()
                epsilon = torch.empty_like(estimate).normal_(generator=generator)
                noisy = mean + spread * epsilon
        return torch.stack(stages)

    def step(
        self,
        history: Float[Tensor, "batch frame channel *space"],
        conditions: Float[Tensor, "batch condition"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the scaled increment after the last refinement."""
        return self.step_stages(history, conditions, generator)[-1]
