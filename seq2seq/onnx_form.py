"""A model in the form of ONNX: its encoder, and one step of its decoder with what it remembers.

Any :class:`~seq2seq.encoder_decoder.EncoderDecoder` goes, whatever its layers remember: one row
each, or keys and values that grow with every step; an encoder may have cells too. The names say
what belongs together::

    encoder   source [rows, length] int64, lengths [rows] int64     ->  memory.*
    decoder   tokens [rows] int64, position [1] int64, memory.*, state.*  ->  logits, next.*

The first token is the start symbol, at position 0, with states of zeros in which nothing has been
read (a size of 0 along ``read``); ``next.X`` of one step is ``state.X`` of the one after it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seq2seq.batch import length_mask
from seq2seq.cells import Cell
from seq2seq.encoder_decoder import EncoderDecoder
from seq2seq.errors import UserError
from seq2seq.transformer_state import Memory, TransformerState

ROWS, LENGTH, READ = "rows", "length", "read"
_OPSET = 17


class TracedState(TransformerState):
    """A state over given tensors, all hypotheses at one position, one for each source.

    Attributes:
        own: per layer, what it remembers: a row, or a :class:`Memory` of just what was read.
    """

    own: list[Any]

    def __init__(self, cross: list[Memory], mask: Tensor, own: list[Any], position: Tensor) -> None:
        self.beams = 1
        self.cross, self.cross_mask, self.own = cross, mask, own
        self._position = position

    def begin_step(self, table: Tensor) -> Tensor:
        return table.index_select(0, self._position)[None]

    def end_step(self) -> None:
        pass

    def attend_own(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        before = self.own[layer]
        keys = torch.cat([before.keys, k.transpose(2, 3)], dim=3)
        self.own[layer] = Memory(keys, torch.cat([before.values, v], dim=2))
        return self.own[layer].attend(q, None)


class _OneStep(nn.Module):
    """A cell's step as a module, to be traced."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x_ND: Tensor, memory_NW: Tensor) -> tuple[Tensor, Tensor]:
        return self.cell.step(x_ND, memory_NW)


class _Looped(nn.Module):
    """A cell over whole texts. Scripted, so that ONNX gets a loop: a trace has but one length."""

    def __init__(self, step: nn.Module, width: int) -> None:
        super().__init__()
        self.step, self.width = step, width

    def forward(self, x_BTD: Tensor) -> Tensor:
        memory = torch.zeros([x_BTD.size(0), self.width], dtype=x_BTD.dtype)
        said: list[Tensor] = []
        for position in range(x_BTD.size(1)):
            now, memory = self.step(x_BTD[:, position], memory)
            said.append(now)
        return torch.stack(said, 1)


def looped(cell: Cell, x_BTD: Tensor) -> Any:
    """``cell.forward`` for texts of any length, with rows like those of ``x_BTD``."""
    example = x_BTD[:, 0].detach(), x_BTD.new_zeros(len(x_BTD), cell.width)
    return torch.jit.script(_Looped(torch.jit.trace(_OneStep(cell), example), cell.width))


@contextlib.contextmanager
def _looped_cells(encoder: _Encoder, inputs: tuple[Tensor, ...]) -> Iterator[None]:
    """Cells of an encoder read step by step inside the block."""
    layers = encoder.model.encoder_layers
    cells = [module for module in layers.modules() if isinstance(module, Cell)]
    # Those of torch's own are one operator of ONNX.
    cells = [c for c in cells if not any(isinstance(m, nn.RNNBase) for m in c.modules())]
    seen: dict[Cell, Tensor] = {}
    hooks = [
        cell.register_forward_pre_hook(lambda module, given: seen.update({module: given[0]}))
        for cell in cells
    ]
    encoder(*inputs)
    for hook in hooks:
        hook.remove()
    for cell in cells:
        # A tracer wants to find what it meets among the submodules.
        cell.looped = loop = looped(cell, seen[cell])
        vars(cell)["forward"] = loop.__call__
    try:
        yield
    finally:
        for cell in cells:
            del cell.looped, vars(cell)["forward"]


class _Encoder(nn.Module):
    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, source_BS: Tensor, lengths_B: Tensor) -> tuple[Tensor, ...]:
        states = self.model.encode(source_BS, lengths_B).states_BSD
        real = length_mask(lengths_B, source_BS.shape[1])
        mask = torch.where(real, 0.0, -torch.inf)[:, None, None, :]
        cross = self.model.cross_memory(states)
        return mask, *(tensor for _, tensor in _parts("", cross))


class _Step(nn.Module):
    """One step; its inputs follow each other as :func:`_parts` lays them out."""

    def __init__(self, model: EncoderDecoder, attentions: int, own: Sequence[Any]) -> None:
        super().__init__()
        self.model, self.attentions = model, attentions
        self.grows = [isinstance(memory, Memory) for memory in own]

    def forward(
        self, tokens_N: Tensor, position: Tensor, mask: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        given = iter(rest)
        cross = [Memory(next(given), next(given)) for _ in range(self.attentions)]
        own = [Memory(next(given), next(given)) if g else next(given) for g in self.grows]
        state = TracedState(cross, mask, own, position)
        logits = self.model.project(self.model.step(tokens_N, state))
        return logits, *(tensor for _, tensor in _parts("", state.own))


def _parts(prefix: str, layers: Sequence[Any]) -> Iterator[tuple[str, Tensor]]:
    """Tensors of what the layers hold, with their names."""
    for number, memory in enumerate(layers):
        if isinstance(memory, Memory):
            yield f"{prefix}.{number}.keys", memory.keys
            yield f"{prefix}.{number}.values", memory.values
        else:
            yield f"{prefix}.{number}", memory


def _axes(name: str, tensor: Tensor, last: str) -> dict[int, str]:
    """Which sizes are free; ``last`` names that along which keys and values grow."""
    if name.endswith(".keys"):
        return {0: ROWS, 3: last}
    if name.endswith(".values"):
        return {0: ROWS, 2: last}
    return {0: ROWS}


# With gradients on, models work on padded rows; without, the layout would hang on the lengths.
@torch.enable_grad()
def save(model: EncoderDecoder, encoder_file: Path, decoder_file: Path) -> None:
    """Write both models, weights in float32.

    Raises:
        UserError: the exporter of torch cannot be used or does not know an operation of the model.
    """
    # Rows of different lengths: nothing may be taken for a constant.
    config = model.config
    source = torch.tensor([[5 % config.vocab_size] * 3, [config.eos_id] * 3])
    lengths = torch.tensor([3, 1])
    started: Any = model.start(model.encode(source, lengths))
    encoder = _Encoder(model).eval()
    outputs = encoder(source, lengths)
    names = ["memory.mask", *(name for name, _ in _parts("memory", started.cross))]
    memory = dict(zip(names, outputs, strict=True))
    memory_axes = {name: _axes(name, tensor, LENGTH) for name, tensor in memory.items()}
    memory_axes["memory.mask"] = {0: ROWS, 3: LENGTH}
    with _looped_cells(encoder, (source, lengths)):
        _trace(
            encoder,
            encoder_file,
            {"source": source, "lengths": lengths},
            names,
            {"source": {0: ROWS, 1: LENGTH}, "lengths": {0: ROWS}, **memory_axes},
        )
    state = dict(_parts("state", started.own))
    following = [name.replace("state", "next", 1) for name in state]
    axes: dict[str, dict[int, str]] = {"tokens": {0: ROWS}, "logits": {0: ROWS}, **memory_axes}
    axes |= {name: _axes(name, tensor, READ) for name, tensor in state.items()}
    axes |= {
        name: _axes(name, tensor, f"{READ}_next")
        for name, tensor in zip(following, state.values(), strict=True)
    }
    first = {"tokens": torch.tensor([config.start_id] * 2), "position": torch.tensor([1])}
    _trace(
        _Step(model, len(started.cross), started.own).eval(),
        decoder_file,
        first | memory | state,
        ["logits", *following],
        axes,
    )


def _trace(
    module: nn.Module,
    file: Path,
    inputs: dict[str, Tensor],
    outputs: list[str],
    axes: dict[str, dict[int, str]],
) -> None:
    try:
        with warnings.catch_warnings():
            # Sizes that are the model's own are constants to the tracer, which says so each time.
            warnings.simplefilter("ignore")
            # Traced here: the exporter's own tracer does not take scripted modules inside.
            given = tuple(tensor.detach() for tensor in inputs.values())
            torch.onnx.export(
                torch.jit.trace(module, given, check_trace=False),
                given,
                str(file),
                input_names=list(inputs),
                output_names=outputs,
                dynamic_axes=axes,
                opset_version=_OPSET,
                # Folded, a transposed weight would lie in the file a second time; engines fold.
                do_constant_folding=False,
                dynamo=False,
            )
    except (ImportError, RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"torch cannot write this model as ONNX ({reason}); pip install 'imitkd[export]'"
        ) from error
