"""Cells against their published equations, and the recurrence's gradients against autograd's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from seq2seq.cells import CELLS, LSTM, SRU, Cell
from seq2seq.recurrence import gated_recurrence, gated_step
from tests import recurrent_oracles


def lively(name: str, d_in: int, d_out: int) -> Cell:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return with_noise(CELLS[name](d_in, d_out), d_in + 7 * d_out)


def with_noise(cell: Cell, seed: int) -> Cell:
    """In float64, every parameter other than where it starts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in cell.double().parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    return cell


def texts(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.mark.parametrize("widths", [(6, 6), (6, 3)], ids=["same", "narrower"])
@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_its_published_equations(name: str, widths: tuple[int, int]) -> None:
    cell, x = lively(name, *widths), texts(3, 9, widths[0])
    weights = {k: v.numpy() for k, v in cell.state_dict().items()}
    with torch.no_grad():
        said = cell(x)
    assert said.shape == (3, 9, widths[1])
    for row in range(3):
        expected = recurrent_oracles.CELLS[name](list(x[row].numpy()), weights)
        for t in range(9):
            torch.testing.assert_close(said[row, t], torch.from_numpy(expected[t]))


SRU_FORMS: list[tuple[int, int, int, range | None]] = [
    (6, 8, 4, None),  # matrices in two parts, the highway's among them
    (6, 6, 4, None),
    (6, 8, 6, None),  # two parts would save nothing
    (8, 4, 0, range(4, 8)),
    (8, 4, 3, range(4)),
    (6, 6, 0, range(0)),
]


@pytest.mark.parametrize("form", SRU_FORMS)
def test_forms_of_sru_are_its_equations_as_well(form: tuple[int, int, int, range | None]) -> None:
    d_in, d_out, projection, carried = form
    x = texts(2, 7, d_in)
    cell = with_noise(SRU(d_in, d_out, projection, carried), 3)
    weights = {k: v.numpy() for k, v in cell.state_dict().items()}
    assert ("projection.weight" in weights) == (0 < projection < min(d_in, d_out))
    memory = x.new_zeros(2, cell.width)
    with torch.no_grad():
        said = cell(x)
        expected = [recurrent_oracles.sru(list(row.numpy()), weights, carried) for row in x]
        torch.testing.assert_close(said, torch.tensor(np.array(expected)))
        for t in range(7):
            now, memory = cell.step(x[:, t], memory)
            torch.testing.assert_close(now, said[:, t])


@pytest.mark.parametrize("widths", [(6, 6), (6, 3)], ids=["same", "narrower"])
@pytest.mark.parametrize("name", CELLS)
def test_step_by_step_it_says_the_same(name: str, widths: tuple[int, int]) -> None:
    cell, x = lively(name, *widths), texts(3, 9, widths[0])
    memory = x.new_zeros(3, cell.width)
    with torch.no_grad():
        expected = cell(x)
        for t in range(9):
            said, memory = cell.step(x[:, t], memory)
            torch.testing.assert_close(said, expected[:, t])


def plain(new: Tensor, gate: Tensor, feedback: Tensor | None) -> Tensor:
    """The recurrence with autograd's own graph over positions."""
    memory, found = torch.zeros_like(new[:, 0]), []
    for t in range(new.shape[1]):
        memory = gated_step(new[:, t], gate[:, t], memory, feedback)
        found.append(memory)
    return torch.stack(found, 1)


@pytest.mark.parametrize("length", [1, 2, 11])
@pytest.mark.parametrize("fed_back", [False, True])
def test_gradients_are_those_of_the_graph_over_positions(length: int, fed_back: bool) -> None:
    new, gate, weight = texts(3, length, 4), 2 * texts(3, length, 4).flip(2), texts(3, length, 4)
    feedback = texts(4) if fed_back else None
    inputs = [x.requires_grad_() for x in (new, gate, feedback) if x is not None]
    found, expected = gated_recurrence(new, gate, feedback), plain(new, gate, feedback)
    torch.testing.assert_close(found, expected)
    ours = torch.autograd.grad((found * weight).square().sum(), inputs, allow_unused=length == 1)
    theirs = torch.autograd.grad(
        (expected * weight).square().sum(), inputs, allow_unused=length == 1
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b)


def test_the_gradient_is_its_finite_difference() -> None:
    inputs = texts(2, 4, 3), texts(2, 4, 3).flip(1).contiguous(), texts(3)
    assert torch.autograd.gradcheck(gated_recurrence, [x.requires_grad_() for x in inputs])


def test_how_cells_start() -> None:
    """SRU's products have variance 1 / d, and its alpha keeps it; an LSTM forgets little."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        sru, lstm = SRU(128, 128), LSTM(8, 5)
    assert float(sru.packed.weight.detach().var()) == pytest.approx(1 / 128, rel=0.03)
    bias = lstm.kernel.bias_ih_l0 + lstm.kernel.bias_hh_l0
    assert bias[5:10].tolist() == [1.0] * 5 and abs(bias[:5]).max() < 1
