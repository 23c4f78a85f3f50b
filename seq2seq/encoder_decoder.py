"""What all models of ours have in common: ids become rows, layers read them, layers write.

Embeddings are scaled by sqrt(D) and tied to the output projection, which has a bias.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from seq2seq.cells import Cell
from seq2seq.dropout import DropoutSource, PooledDropout
from seq2seq.model import DecoderState, EncoderOutput, Seq2SeqModel
from seq2seq.packing import PADDED, Packed, Padded, packing
from seq2seq.transformer_state import Memory, SourceState
from seq2seq.vocabulary import EOS_ID, PAD_ID, START_ID


class ShapeConfig(BaseModel):
    """Shape of an :class:`EncoderDecoder`; unknown keys are refused.

    Attributes:
        d_model: D, numbers of an embedding and of what the output projection reads.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = Field(ge=5)
    d_model: int = Field(256, ge=2)
    encoder_layers: int = Field(3, ge=1)
    decoder_layers: int = Field(3, ge=1)
    dropout: float = Field(0.1, ge=0.0, lt=1.0)
    max_source_length: int = Field(256, ge=1)
    max_target_length: int = Field(256, ge=1)
    pad_id: int = PAD_ID
    eos_id: int = EOS_ID
    start_id: int = START_ID

    def in_words(self) -> str:
        """Layers and widths, for people."""
        layers = f"{self.encoder_layers} encoder and {self.decoder_layers} decoder layers"
        return f"{layers} of {self.d_model}"


class EncoderDecoder(Seq2SeqModel):
    """A stack of layers that reads and one that writes; what they are is a subclass's."""

    config: ShapeConfig
    encoder_layers: nn.ModuleList
    decoder_layers: nn.ModuleList
    positions: Tensor

    def __init__(self, config: ShapeConfig) -> None:
        super().__init__()
        self.config = config
        self.dropout_source = DropoutSource()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.logit_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.dropout = PooledDropout(config.dropout, self.dropout_source)
        self._make_layers()
        # One more than the longest target: a target at the limit is read behind a start symbol.
        length = max(config.max_source_length, config.max_target_length) + 1
        self.register_buffer("positions", self._position_table(length), persistent=False)
        self._scale = math.sqrt(config.d_model)
        self._initialise()

    @abstractmethod
    def _make_layers(self) -> None:
        """Make ``encoder_layers``, ``decoder_layers`` and all that stands around them.

        A layer of the encoder takes states, what :meth:`_encoder_view` says, and a layout.
        """

    @abstractmethod
    def _encoder_view(self, lengths_B: Tensor, width: int) -> Tensor:
        """What the encoder's layers have to know of a batch's padding."""

    @abstractmethod
    def _encoder_end(self, x: Tensor) -> Tensor:
        """What the decoder is given of the states of the encoder's last layer."""

    @abstractmethod
    def _decode(
        self, encoded: EncoderOutput, inputs_BT: Tensor, sources: Padded, targets: Padded
    ) -> Tensor:
        """Hidden states in the layout of the targets."""

    @abstractmethod
    def cross_memory(self, states_BSD: Tensor) -> list[Memory]:
        """The source as each attention of the decoder sees it."""

    @abstractmethod
    def _decoder_state(self, cross: list[Memory], lengths_B: Tensor, beams: int) -> SourceState:
        """What the decoder's layers remember before the first token."""

    @abstractmethod
    def _step(self, x_N1D: Tensor, state: Any) -> Tensor:
        """Hidden states ``[N, D]`` of one more embedded token, which ``state`` then remembers."""

    def _position_table(self, length: int) -> Tensor:
        """``[length, D]``, added to embeddings; zeros here."""
        return torch.zeros(length, self.config.d_model)

    def _source_embedding(self) -> nn.Embedding:
        return self.embedding

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=self.config.d_model**-0.5)
        for module in self.modules():
            if isinstance(module, Cell):
                module.initialise()

    def _embed(self, rows_BLD: Tensor, positions: Tensor | None = None) -> Tensor:
        """Rows of a table as the layers read them."""
        if positions is None:
            positions = self.positions[: rows_BLD.shape[1]]
        return self.dropout(torch.add(positions, rows_BLD, alpha=self._scale))

    def encode(self, source_BS: Tensor, lengths_B: Tensor) -> EncoderOutput:
        width = source_BS.shape[1]
        layout = packing(lengths_B, width, self.training)
        x = layout.pack(self._embed(self._source_embedding()(source_BS)))
        view = self._encoder_view(lengths_B, width)
        for layer in self.encoder_layers:
            x = layer(x, view, layout)
        return EncoderOutput(layout.lay_out(self._encoder_end(x)), lengths_B)

    def decode(self, encoded: EncoderOutput, inputs_BT: Tensor) -> Tensor:
        return self._decode(encoded, inputs_BT, PADDED, PADDED)

    def decode_real(self, encoded: EncoderOutput, inputs_BT: Tensor, lengths_B: Tensor) -> Tensor:
        width = encoded.states_BSD.shape[1]
        sources = packing(encoded.lengths_B, width, self.training)
        return self._decode(encoded, inputs_BT, sources, Packed(lengths_B, inputs_BT.shape[1]))

    def output_projection(self) -> tuple[Tensor, Tensor]:
        return self.embedding.weight, self.logit_bias

    def start(self, encoded: EncoderOutput, beams: int = 1) -> SourceState:
        cross = self.cross_memory(encoded.states_BSD)
        return self._decoder_state(cross, encoded.lengths_B, beams)

    def step(self, tokens_N: Tensor, state: DecoderState) -> Tensor:
        assert isinstance(state, SourceState)
        positions = state.begin_step(self.positions)
        hidden_ND = self._step(self._embed(self.embedding(tokens_N[:, None]), positions), state)
        state.end_step()
        return hidden_ND
