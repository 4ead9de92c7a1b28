"""What a perfect denoiser answers where the data are a mixture of Gaussians."""

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.equations._base import Law


def posterior(
    points: Float[Tensor, "batch value"],
    data_share: float | Float[Tensor, "batch 1 1"],
    noise_share: float | Float[Tensor, "batch 1 1"],
    means: Float[Tensor, "#batch #component value"],
    variances: Float[Tensor, "#batch #component value"],
) -> tuple[Float[Tensor, "batch component 1"], Float[Tensor, "batch component value"]]:
    """Return what points p = a x + s z say of x, of a mixture, and of z, which is normal.

    They are the posterior weights r_k of the components, and d_k = (p - a mu_k) / (a^2 S_k + s^2):

        E[x | p] = sum_k r_k (mu_k + a S_k d_k),   E[z | p] = sum_k r_k s d_k

    so neither has a singularity where a or s vanishes.

    Parameters
    ----------
    points
        What is seen.
    data_share, noise_share
        a and s.
    means, variances
        Of equally likely Gaussians with diagonal covariances; one law for each point or for all.
    """
    between = data_share**2 * variances + noise_share**2
    deviation = points[:, None] - data_share * means
    log_weight = -0.5 * (deviation.square() / between + between.log()).sum(-1)
    return log_weight.softmax(-1)[..., None], deviation / between


class ExactNoise:
    """E[z | y] of y = x + rho z with normalised frames x of a known law.

    Parameters
    ----------
    law
        In physical units.
    mean, std
        Of each field, by which frames are normalised; one of each where the law has a basis.
    like
        A tensor of the device and the precision of the states.

    Raises
    ------
    ValueError
        A basis of several fields, whose law is no longer diagonal when each has its own scale.
    """

    def __init__(
        self, law: Law, mean: Float[Tensor, " field"], std: Float[Tensor, " field"], like: Tensor
    ):
        if law.basis is not None and len(std) > 1:
            raise ValueError(f"a law on a basis needs one field, not {len(std)}")
        mean, std = mean.to(like), std.to(like)
        means, variances = (torch.from_numpy(part).to(like) for part in law[:2])
        self.basis = None if law.basis is None else torch.from_numpy(law.basis).to(like)
        # the mean of a field is no part of what the basis spans
        self.means = means / std if law.basis is not None else (means - mean) / std
        self.variances = variances / std.square()
        self.offset = -mean / std

    def __call__(
        self, states: Float[Tensor, "batch channel *space"], level: float
    ) -> Float[Tensor, "batch channel *space"]:
        """Return the mean of the noise in states at level rho."""
        flat = states.flatten(1)
        if self.basis is None:
            found = self._noise(flat, level)
        else:
            free = flat - self.offset
            values = free @ self.basis.T
            # all that the basis doesn't span is noise
            found = free / level + (self._noise(values, level) - values / level) @ self.basis
        return found.reshape(states.shape)

    def _noise(self, values: Tensor, level: float) -> Tensor:
        weight, scaled = posterior(values, 1.0, level, self.means, self.variances)
        return level * (weight * scaled).sum(1)
