"""Text2PDE: blocks of frames through a latent, drawn by diffusion, on a frame or a sentence."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from contracts import forecast as contract
from methods.test_methods import build, generator, perturb

from longrun.config.compose import compose
from longrun.methods.forecast.text2pde import (
    LEVELS,
    VOCABULARY,
    FrameEncoder,
    caption,
    numbers,
    plumes,
)
from longrun.nn.dit import DiffusionTransformer
from longrun.nn.space_time import Autoencoder, Convolution, latent_shape
from longrun.runtime.cli import UserError


def made(**options):
    return perturb(build("text2pde", **options)[0])


# Autoencoder -------------------------------------------------------------------------------------


def test_the_latent_has_the_shape_of_the_paper():
    """48 frames of 128 x 128 points and 3 fields: 96 times fewer numbers."""
    shape = latent_shape(48, [128, 128], levels=4)
    assert shape == (6, 16, 16)
    assert 96 * 16 * math.prod(shape) == 48 * 128 * 128 * 3
    with pytest.raises(ValueError, match="multiples of 8"):
        latent_shape(12, [128, 128], levels=4)


def test_a_block_comes_back_in_its_shape():
    network = Autoencoder(3, 1, channels=4, multipliers=[1, 2, 2], latent=5)
    block, told = torch.randn(2, 8, 3, 16, 16, generator=generator()), torch.ones(2, 1)
    mean, log_variance = network.encode(block, told)
    assert mean.shape == log_variance.shape == (2, 5, 2, 4, 4)
    assert network.decode(mean, told).shape == block.shape


def test_convolutions_close_space_and_not_time():
    layer = Convolution(1, 2)
    x = torch.randn(1, 1, 6, 8, 8, generator=generator())
    moved = layer(x.roll((3, 5), (3, 4)))
    torch.testing.assert_close(moved, layer(x).roll((3, 5), (3, 4)), atol=1e-5, rtol=0)
    assert not torch.allclose(layer(x.roll(2, 2)), layer(x).roll(2, 2))
    later = x.clone()
    later[:, :, 5] += 1
    assert torch.equal(layer(later)[:, :, 0], layer(x)[:, :, 0])


def test_the_loss_is_what_is_lost_and_a_little_divergence():
    module = perturb(build("space_time_autoencoder", kl_weight=0.0)[0])
    heavy = perturb(build("space_time_autoencoder", kl_weight=2.0)[0])
    batch = contract.batch(module)
    block, told = (
        module.normalised(batch["window"]),
        module.scaled_conditions(batch["parameters"]) / 10,
    )
    mean, log_variance = module.autoencoder.encode(block, told)
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (0.5 * log_variance).exp()),
        torch.distributions.Normal(0.0, 1.0),
    )
    difference = heavy.batch_loss(batch, generator()) - module.batch_loss(batch, generator())
    torch.testing.assert_close(difference, 2 * divergence.sum() / len(block), rtol=1e-4, atol=0)


# Diffusion ---------------------------------------------------------------------------------------


def test_the_noise_schedule_is_linear_in_the_root():
    module = made()
    beta = 1 - module.remaining[1:] / module.remaining[:-1]
    assert len(module.remaining) == LEVELS
    torch.testing.assert_close(beta[[0, -1]], torch.tensor([8.53e-4, 1.2e-2]), rtol=5e-3, atol=0)
    root = beta.sqrt()
    torch.testing.assert_close(
        root[1:] - root[:-1], root.diff().mean().expand(998), atol=5e-5, rtol=0
    )
    assert module.remaining[-1] < 5e-3


def test_a_sampler_that_knows_the_noise_returns_the_latent():
    """One Gaussian latent: the best guess of its noise is known, and DDIM and DDPM both find it."""
    for eta, steps in ((0.0, 500), (1.0, LEVELS)):
        module = made(eta=eta, sampling_steps=steps)
        mean, deviation = 0.7, 0.3
        draws = generator()
        z = torch.randn(4000, 1, 1, 1, 1, generator=draws)
        levels = torch.linspace(LEVELS - 1, 0, steps).round().long().tolist()
        for level, following in zip(levels, [*levels[1:], None], strict=True):
            kept = float(module.remaining[level])
            variance = kept * deviation**2 + 1 - kept
            noise = math.sqrt(1 - kept) * (z - math.sqrt(kept) * mean) / variance
            z = module.denoised(z, noise, level, following, draws)
        assert z.mean().item() == pytest.approx(mean, abs=0.03)
        assert z.std().item() == pytest.approx(deviation, rel=0.06)


def test_a_transformer_begins_as_nothing_and_then_hears_all_it_is_told():
    network = DiffusionTransformer(2, (2, 4, 4), (1, 2, 2), width=12, depth=2, heads=2)
    z, level = torch.randn(3, 2, 2, 4, 4, generator=generator()), torch.tensor([0.0, 10.0, 999.0])
    tokens = torch.randn(3, 5, 12, generator=generator())
    assert torch.equal(network(z, level, tokens), torch.zeros_like(z))
    perturb(network)
    found = network(z, level, tokens)
    assert not torch.allclose(network(z, level + 1, tokens), found)
    assert not torch.allclose(network(z, level, tokens + tokens.roll(1, 0)), found)
    mask = torch.tensor([[True] * 3 + [False] * 2] * 3)
    other = torch.where(mask[..., None], tokens, 7.0)
    torch.testing.assert_close(network(z, level, other, mask), network(z, level, tokens, mask))


def test_patches_come_together_again(monkeypatch):
    """A head that copies what each patch's embedding keeps puts every value where it was."""
    network = DiffusionTransformer(1, (2, 4, 6), (1, 2, 3), width=12, depth=0, heads=2)
    z = torch.arange(48.0).reshape(1, 1, 2, 4, 6)
    cut = z.unfold(2, 1, 1).unfold(3, 2, 2).unfold(4, 3, 3)  # (1, 1, 2, 2, 2, 1, 2, 3)
    monkeypatch.setattr(network.head, "forward", lambda x: cut.flatten(5).flatten(2, 4)[:, 0])
    assert torch.equal(network(z, torch.zeros(1), torch.zeros(1, 1, 12)), z)


def test_the_latent_is_divided_by_its_own_deviation(monkeypatch):
    source = perturb(build("space_time_autoencoder")[0])
    module = build("text2pde")[0]
    batch = contract.batch(module, size=16)

    class Windows:
        def spread(self, count):
            return np.arange(16)

        def read(self, chosen):
            return batch["window"][chosen].numpy(), batch["parameters"][chosen].numpy()

    data = type("Data", (), {"train_windows": Windows()})()
    module.prepare(data, [source])
    z = module._latent(batch["window"], batch["parameters"]) / module.deviation
    assert z.square().mean().item() == pytest.approx(1, rel=1e-4)
    with pytest.raises(ValueError, match="starts_from"):
        module.prepare(data, [])
    with pytest.raises(ValueError, match="frames"):
        module.prepare(data, [build("space_time_autoencoder", frames=6)[0]])
    with pytest.raises(ValueError, match="channels, multipliers and latent"):
        module.prepare(data, [build("space_time_autoencoder", latent=3)[0]])


def latents(module, monkeypatch, mean, log_variance):
    """Give every latent the same moments; return what the transformer is asked."""
    asked = []

    def encode(block, told):
        moments = torch.zeros(len(block), *module.shape)
        return moments + mean, moments + log_variance

    def transformer(z, level, tokens, mask=None):
        asked.append((z, level))
        return torch.zeros_like(z)

    monkeypatch.setattr(module.autoencoder, "encode", encode)
    monkeypatch.setattr(module.transformer, "forward", transformer)
    return asked


def test_a_latent_is_scaled_and_noised_as_its_level_says(monkeypatch):
    module = made()
    module.deviation.fill_(3.0)
    asked = latents(module, monkeypatch, mean=3e4, log_variance=-30.0)
    loss = module.batch_loss(contract.batch(module, size=32), generator())
    ((z, level),) = asked
    kept = module.remaining[level.long()].sqrt()
    torch.testing.assert_close(z.mean((1, 2, 3, 4)) / 1e4, kept, rtol=1e-2, atol=1e-4)
    assert loss.item() == pytest.approx(1.0, abs=0.05)  # the noise itself


def test_the_posterior_is_sampled_in_training(monkeypatch):
    module = made()
    asked = latents(module, monkeypatch, mean=0.0, log_variance=2 * math.log(50.0))
    module.batch_loss(contract.batch(module, size=32), generator())
    assert asked[0][0].std() > 10


def test_a_sample_is_scaled_back_before_it_is_decoded(monkeypatch):
    module = made(sampling_steps=1)
    module.deviation.fill_(4.0)
    given = contract.batch(module)
    decoded = []

    def decode(latent, told):
        decoded.append(latent)
        return torch.zeros(len(latent), module.frames, 2, 16, 16)

    monkeypatch.setattr(module.autoencoder, "decode", decode)
    monkeypatch.setattr(module, "denoised", lambda z, *_: torch.ones_like(z))
    module.block(given["window"][:, 0], given["parameters"], generator())
    assert torch.equal(decoded[0], torch.full_like(decoded[0], 4.0))


def test_the_autoencoder_is_frozen():
    module = made()
    module.batch_loss(contract.batch(module), generator()).backward()
    assert all(p.grad is None for p in module.autoencoder.parameters())
    assert any(p.grad is not None for p in module.transformer.parameters())


def test_a_remembered_latent_is_the_encoded_one_and_is_encoded_once(monkeypatch):
    plain, module = made(), made(remember_latents=True)
    module.load_state_dict(plain.state_dict())
    batch = contract.batch(module, size=4)
    loss = plain.batch_loss(batch, generator())
    torch.testing.assert_close(module.batch_loss(batch, generator()), loss)
    moved = {name: values.flip(0) for name, values in batch.items()}
    expected = plain.batch_loss(moved, generator())
    monkeypatch.setattr(module.autoencoder, "encode", None)
    torch.testing.assert_close(module.batch_loss(moved, generator()), expected)


# Rollout -----------------------------------------------------------------------------------------


def test_a_rollout_hands_out_blocks_one_after_the_other(monkeypatch):
    module = made()
    given = contract.batch(module)
    asked = []

    def block(first, parameters, generator):
        asked.append(first)
        count = torch.arange(module.frames).reshape(1, -1, 1, 1, 1)
        return first[:, None] + count

    monkeypatch.setattr(module, "block", block)
    memory = module.begin(given["window"][:, :1], given["parameters"])
    start = given["window"][:, 0]
    for step in range(1, 3 * (module.frames - 1) + 1):
        frame, memory = module.advance(memory, generator())
        torch.testing.assert_close(frame, start + step)
    assert len(asked) == 3


# First frame -------------------------------------------------------------------------------------


def test_a_first_frame_has_a_token_for_each_point_of_the_latent():
    """128 x 128 points to 256 tokens of 512 in the paper."""
    layer = FrameEncoder(3, 1, channels=2, halvings=3, width=12, grid=(4, 4))
    assert layer(torch.zeros(2, 3, 32, 32), torch.zeros(2, 1)).shape == (2, 16, 12)
    module = made()
    given = contract.batch(module)
    tokens, _ = module.tokens(given["window"][:, 0], given["parameters"])
    assert tokens.shape[1] == math.prod(module.shape[2:])


def test_it_matters_where_in_the_first_frame_something_is():
    """Without positions a frame that moves by a token would say the same, in another order."""
    module = made()
    given = contract.batch(module)
    first = given["window"][:, 0]
    moved = first.roll(first.shape[2] // module.shape[2], 2)
    z, level = torch.randn(3, *module.shape, generator=generator()), torch.full((3,), 10.0)
    answers = [
        module.transformer(z, level, *module.tokens(frame, given["parameters"]))
        for frame in (first, moved)
    ]
    assert (answers[0] - answers[1]).abs().max() > 1e-5


@pytest.mark.parametrize("preset", ["smoke", "cpu", "gpu", "paper"])
def test_claims_are_made_at_the_end_of_a_block(preset):
    spec = compose(Path("configs"), "text2pde", preset)
    frames = spec["methods"]["first_frame"]["frames"]
    named = [claim for claim in spec["claims"].values() if "at" in claim]
    assert {claim["at"]["step"] for claim in named} == {frames - 1}
    quarters = {claim["against_at"]["step"] for claim in named if "against_at" in claim}
    assert quarters == {frames // 4}
    if preset != "smoke":
        assert spec["evaluate"]["steps"] == 2 * (frames - 1)


def test_the_transformer_has_the_size_of_the_paper():
    """Width 512 and 24 blocks of 22 width^2: attention twice 4, perceptron 8, modulation 6."""
    with torch.device("meta"):
        network = DiffusionTransformer(16, (6, 16, 16), (1, 2, 2), width=512, depth=24, heads=16)
    assert network.position.shape == (384, 512)
    size = sum(parameter.numel() for parameter in network.blocks.parameters())
    assert size == pytest.approx(24 * 22 * 512**2, rel=0.005)


# Text --------------------------------------------------------------------------------------------


def picture(*squares):
    smoke = np.zeros((32, 32))
    for x, y, side in squares:
        rows, columns = (np.arange(start, start + side) % 32 for start in (x, y))
        smoke[np.ix_(rows, columns)] = 1.0
    return smoke


def test_plumes_are_counted_around_the_box():
    assert plumes(picture((2, 2, 4), (20, 20, 4)))[1] == 2
    labels, count = plumes(picture((30, 10, 4), (10, 30, 4), (20, 20, 2)))
    assert count == 3 and set(np.unique(labels)) == {0, 1, 2, 3}
    assert labels[31, 11] == labels[1, 11] and labels[11, 31] == labels[11, 1]


def test_a_caption_says_number_size_place_and_buoyancy():
    text = caption(picture((1, 1, 10), (14, 26, 3)), 0.351)
    assert text == (
        "two plumes : large in the lower left , small in the upper centre , buoyancy is 0 . 3 5"
    )
    assert caption(picture((29, 14, 6)), 0.2).startswith("one plume : medium in the middle ")
    assert len(numbers(text)) == 40 and numbers(text)[0] == VOCABULARY["two"]


def test_a_text_tells_of_nothing_but_its_words():
    """Two frames with one caption give one condition, another buoyancy another."""
    module = made(condition="text")
    given = contract.batch(module)
    first, parameters = given["window"][:, 0], torch.ones(3, 5)
    tokens, mask = module.tokens(first, parameters)
    other, _ = module.tokens(first + 0.01, parameters)
    torch.testing.assert_close(other, tokens)
    lifted, _ = module.tokens(first, parameters + 0.5)
    assert not torch.allclose(lifted, tokens) and mask.any(1).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"frames": 5}, "multiples"),
        ({"width": 9, "heads": 3}, "must be even"),
        ({"sampling_steps": 0}, "sampling_steps"),
        ({"patch": [1, 3, 2]}, "divide"),
        ({"input_noise": 0.1}, "no effect"),
    ],
)
def test_what_cannot_be_is_refused(options, says):
    with pytest.raises(UserError, match=says):
        build("text2pde", **options)
