"""State-space layers: their start against HiPPO, the layer against the system that it solves."""

import numpy as np
import pytest
import scipy.linalg
import torch

from longrun.methods.forecast.s5_ptd import (
    S5PTD,
    StateSpaceBlock,
    accumulated,
    diagonalised,
    hippo,
    transfer_error,
)


def test_hippo_is_the_matrix_of_the_paper():
    matrix, given = hippo(3)
    expected = [[-1, 0, 0], [-(3**0.5), -2, 0], [-(5**0.5), -(15**0.5), -3]]
    np.testing.assert_allclose(matrix, expected)
    np.testing.assert_allclose(given, [1, 3**0.5, 5**0.5])


@pytest.mark.parametrize("state", [8, 32, 64])
def test_ptd_diagonalises_a_neighbour_of_hippo(state):
    matrix, _ = hippo(state)
    values, vectors = diagonalised(state, "ptd")
    near = vectors @ np.diag(values) @ np.linalg.inv(vectors)
    size = np.linalg.norm(matrix, 2)
    assert np.linalg.norm(near - matrix, 2) == pytest.approx(3e-4 * size, rel=1e-3)
    assert values.real.max() < -0.5 and 100 < np.linalg.cond(vectors) < 1e5
    np.testing.assert_allclose(np.abs(near.imag).max(), 0, atol=1e-8 * size)


def test_hippo_itself_cannot_be_diagonalised():
    """The reason for all this: its eigenvectors are as good as parallel."""
    _, vectors = np.linalg.eig(hippo(32)[0])
    assert np.linalg.cond(vectors) > 1e12


def test_the_normal_part_is_that_of_s5():
    matrix, _ = hippo(16)
    low_rank = np.sqrt(np.arange(16) + 0.5)
    values, vectors = diagonalised(16, "normal")
    normal = vectors @ np.diag(values) @ vectors.conj().T
    np.testing.assert_allclose(normal, matrix + np.outer(low_rank, low_rank), atol=1e-10)
    np.testing.assert_allclose(values.real, -0.5)


def test_its_transfer_function_is_ten_times_nearer_to_hippos():
    assert transfer_error(64, "ptd") < 0.1 * transfer_error(64, "normal")
    assert transfer_error(8, "ptd") < 0.01


def impulse(block, dt, time):
    """Response of the linear part of a block with one input and output, in its own code."""
    with torch.no_grad():
        values = torch.complex(-block.decay.exp(), block.frequency)
        into = torch.view_as_complex(block.into)
        into = into * ((values * dt).exp() - 1).div(values)[..., None]
        drive = torch.zeros(1, 1, values.shape[1], time, dtype=into.dtype)
        drive[..., 0] = into[..., 0]
        states = accumulated(drive, values * dt, None)
        return (
            torch.einsum("bcst,cws->bt", states, torch.view_as_complex(block.out)).real[0].numpy()
        )


def by_hippo(state, dt, time):
    """Return the same of HiPPO-LegS with the input and output that the block drew."""
    torch.manual_seed(0)
    given = torch.randn(1, state, 1, dtype=torch.float64)[0].numpy()
    read = torch.randn(1, 1, state, dtype=torch.float64)[0].numpy() / state**0.5
    matrix, _ = hippo(state)
    step = scipy.linalg.expm(matrix * dt)
    now = np.linalg.solve(matrix, (step - np.eye(state)) @ given)
    response = []
    for _ in range(time):
        response.append(float((read @ now)[0, 0]))
        now = step @ now
    return np.array(response)


@pytest.mark.parametrize(("initialisation", "near"), [("ptd", True), ("normal", False)])
def test_a_new_layer_answers_as_hippo_does(initialisation, near):
    torch.manual_seed(0)
    block = StateSpaceBlock(1, 16, 1, initialisation).double()
    found, expected = impulse(block, 0.01, 200), by_hippo(16, 0.01, 200)
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert (error < 0.1) == near and (error > 0.3) != near


def test_a_convolution_is_the_recurrence():
    generator = torch.Generator().manual_seed(0)
    drive = torch.randn(2, 3, 4, 11, generator=generator, dtype=torch.complex128)
    growth = torch.complex(-torch.rand(3, 4), torch.randn(3, 4, generator=generator)).to(drive)
    before = torch.randn(2, 3, 4, generator=generator, dtype=torch.complex128)
    state, expected = before, []
    for t in range(11):
        state = growth.exp() * state + drive[..., t]
        expected.append(state)
    found = accumulated(drive, growth, before)
    torch.testing.assert_close(found, torch.stack(expected, -1), rtol=0, atol=1e-10)


def test_no_weights_make_a_state_grow():
    block = StateSpaceBlock(4, 8, 2, "ptd")
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(
                3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
            )
    assert (torch.complex(-block.decay.exp(), block.frequency).real < 0).all()


def test_both_starts_have_as_many_parameters_and_the_same_draws():
    count = []
    for initialisation in ("ptd", "normal"):
        torch.manual_seed(0)
        module = S5PTD(1, 1, 0, [4], width=8, state=8, initialisation=initialisation)
        count.append(sum(parameter.numel() for parameter in module.parameters()))
        block = module.blocks[0]
        product = torch.einsum(
            "csw,cvs->csvw", torch.view_as_complex(block.into), torch.view_as_complex(block.out)
        ).sum(1)
        if initialisation == "ptd":
            first = product.real
    assert count[0] == count[1]
    torch.testing.assert_close(product.real, first, rtol=0, atol=1e-2)  # C B, whatever the basis


def test_a_hum_has_a_tenth_of_the_deviation():
    module = S5PTD(2, 1, 0, [4], width=8, state=4, history=32)
    module.field_std.copy_(torch.tensor([1.0, 3.0]))
    highest, half = (module._hum(torch.pi / part) for part in (1, 2))
    assert highest.shape == (32, 2, 1)
    torch.testing.assert_close(highest[:2, :, 0], torch.tensor([[0.1, 0.3], [-0.1, -0.3]]))
    torch.testing.assert_close(half[4:], half[:-4], rtol=0, atol=1e-5)  # four frames a period


def test_layers_resonate_where_they_say():
    """One state with little damping: of all angles it answers most to its own."""
    module = S5PTD(1, 1, 0, [1], width=4, layers=1, state=1, copies=1, history=32)
    (block,) = module.blocks
    with torch.no_grad():
        block.decay.fill_(-2.0)
        block.frequency.fill_(2.1)
        block.log_step.fill_(0.0)
        growth, _ = block._discrete()
        angles = torch.linspace(0.1, 3.1, 301)
        waves = (1j * angles[:, None] * torch.arange(400)).exp()
        found = accumulated(waves[:, None, None], growth, None)[..., -1].abs().flatten()
        angle, _ = block.resonances()
        block.frequency.fill_(-2.1 - 4 * torch.pi)
        folded, _ = block.resonances()
    assert angle.item() == pytest.approx(angles[found.argmax()].item(), abs=0.011)
    assert folded.item() == pytest.approx(2.1, abs=1e-4)
    assert len(module._angles()) == 17 and max(module._angles()) <= torch.pi + 1e-6
