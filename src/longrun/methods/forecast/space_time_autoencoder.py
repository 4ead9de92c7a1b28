"""The autoencoder of Text2PDE (Zhou et al., 2025, arXiv:2410.01153), for grids.

A block of frames becomes a small regular latent and comes back,

    z ~ N(mean, exp(log variance)) = encoder(block),    block = decoder(z),
    loss = mean |block - decoder(z)| + kl_weight * sum KL(z | N(0, 1)) / batch

in normalised variables; parameters that vary enter every residual block. `text2pde` starts from
it. What it can't bring back no diffusion in its latent can: the metric `floor`. As a forecast, it
brings back a block of the last frame, which is persistence through its bottleneck.

The GAN and perceptual terms of the paper are options that its released autoencoders don't use, and
are left out; so is the attention at the coarsest level of such autoencoders, and norms have 4
groups for its 16. The paper's other one, for meshes, lifts nodes to a grid before it, and is left
out with the data that it is for.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from longrun.metrics import pointwise
from longrun.metrics.table import ScoreTable
from longrun.nn.space_time import Autoencoder, latent_shape
from longrun.tasks._blocks import AbstractBlockForecaster, true_blocks

METRICS = {
    "floor": (
        "floor",
        "Error of the last frame of true blocks that were encoded and decoded, measured as nRMSE "
        "is: what a forecast through this latent errs at least at the end of a block.",
    ),
}


class SpaceTimeAutoencoder(AbstractBlockForecaster):
    """Variational autoencoder of blocks of frames.

    Parameters
    ----------
    fields, dims, conditions, frames
        See `AbstractBlockForecaster`, also for the options.
    points : list of int
        Of the grid along each axis; from the data.
    channels, multipliers, latent : int, list of int, int
        Of the autoencoder, see `longrun.nn.space_time.Autoencoder`.
    kl_weight : float
        Of the divergence, which is a sum over the latent: a larger latent needs a smaller one.
    """

    def __init__(
        self,
        fields: int,
        dims: int,
        conditions: int,
        points: list[int],
        frames: int = 48,
        channels: int = 64,
        multipliers: list[int] = [1, 2, 4, 4],  # noqa: B006 (read, never written)
        latent: int = 16,
        kl_weight: float = 1e-7,
        **options: Any,
    ):
        super().__init__(fields, dims, conditions, frames=frames, **options)
        latent_shape(frames, points, len(multipliers))
        self.kl_weight = kl_weight
        self.autoencoder = Autoencoder(fields, conditions, channels, multipliers, latent)

    def window_loss(
        self,
        window: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Return what is lost of blocks, and how far their latents are from noise."""
        block, told = self.normalised(window), self._told(parameters)
        mean, log_variance = self.autoencoder.encode(block, told)
        noise = torch.empty_like(mean).normal_(generator=generator)
        found = self.autoencoder.decode(mean + (0.5 * log_variance).exp() * noise, told)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        return (found - block).abs().mean() + self.kl_weight * divergence / len(block)

    def rebuilt(
        self,
        block: Float[Tensor, "batch frame channel *space"],
        parameters: Float[Tensor, "batch parameter"],
    ) -> Float[Tensor, "batch frame channel *space"]:
        """Return a block that was encoded and decoded, physical units in and out."""
        told = self._told(parameters)
        mean, _ = self.autoencoder.encode(self.normalised(block), told)
        return self.physical(self.autoencoder.decode(mean, told))

    def block(
        self,
        first: Float[Tensor, "batch channel *space"],
        parameters: Float[Tensor, "batch parameter"],
        generator: torch.Generator | None,
    ) -> Float[Tensor, "batch frame channel *space"]:
        """Return the frame, again and again, through the bottleneck."""
        still = first[:, None].expand(-1, self.frames, *first.shape[1:])
        return self.rebuilt(still, parameters)

    def validate(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return what is lost of true blocks, over the spread of the fields."""
        found = self.rebuilt(batch["window"], batch["parameters"])
        error = (found - batch["window"]) / self.per_channel(self.field_std)
        return {"field_error": error.square().mean().sqrt()}

    @torch.no_grad()
    def own_scores(self, store: Any, options: dict[str, Any]) -> ScoreTable:
        """Score true blocks that were encoded and decoded."""
        table = ScoreTable(store.path.stem)
        for chosen, block, parameters in true_blocks(self, store, options):
            last, truth = (
                frames[:, -1].double().cpu().numpy()
                for frames in (self.rebuilt(block, parameters), block)
            )
            table.add("floor", pointwise.nrmse(last, truth, dims=self.dims), trajectory=chosen)
        return table
