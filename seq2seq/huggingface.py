"""An encoder-decoder of ``transformers`` behind the shared model interface.

What the library computes is used as it is: its encoder, its decoder with its caches, its output
projection. Decoding, scoring, seeds and beams are ours, so they are the same for every teacher.
Nothing here imports the library; ``huggingface_directory`` does, where it loads a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seq2seq.batch import length_mask
from seq2seq.errors import UserError
from seq2seq.model import DecoderState, EncoderOutput, Seq2SeqModel


@dataclass(frozen=True)
class HuggingFaceConfig:
    """What the rest of the program asks of a model's configuration.

    Attributes:
        start_ids: decoder start symbol and forced prefix, read before the first target.
    """

    vocab_size: int
    d_model: int
    max_source_length: int
    max_target_length: int
    pad_id: int
    eos_id: int
    start_ids: tuple[int, ...]

    @property
    def start_id(self) -> int:
        """The last id read before the first target."""
        return self.start_ids[-1]


class HuggingFaceModel(Seq2SeqModel):
    """Hidden states are those that the output projection takes: T5's are scaled already."""

    config: HuggingFaceConfig
    _bias: Tensor

    def __init__(self, library: Any, config: HuggingFaceConfig) -> None:
        """Wrap a ``PreTrainedModel`` with a language-model head."""
        super().__init__()
        self.library, self.config = library, config
        # Not registered a second time: they are parts of the library's model.
        head = library.get_output_embeddings()
        self._parts = (library.get_encoder(), library.get_decoder(), head)
        self._scale = hidden_scale(library.config)
        bias = torch.zeros(config.vocab_size)
        for part in (getattr(library, "final_logits_bias", None), head.bias):
            if part is not None:
                bias = bias + part.detach().float().flatten()
        self.register_buffer("_bias", bias, persistent=False)

    @property
    def start_ids(self) -> tuple[int, ...]:
        return self.config.start_ids

    def encode(self, source_BS: Tensor, lengths_B: Tensor) -> EncoderOutput:
        mask = length_mask(lengths_B, source_BS.shape[1]).long()
        found = self._parts[0](input_ids=source_BS, attention_mask=mask)
        return EncoderOutput(found.last_hidden_state, lengths_B)

    def decode(self, encoded: EncoderOutput, inputs_BT: Tensor) -> Tensor:
        forced = self._before(len(inputs_BT), inputs_BT.device)
        states = encoded.states_BSD
        mask = length_mask(encoded.lengths_B, states.shape[1]).long()
        hidden, _ = self._read(torch.cat([forced, inputs_BT], dim=1), states, mask, use_cache=False)
        return hidden[:, forced.shape[1] :]

    def output_projection(self) -> tuple[Tensor, Tensor]:
        weight = self._parts[2].weight
        return weight, self._bias.to(weight.dtype)

    def start(self, encoded: EncoderOutput, beams: int = 1) -> HuggingFaceState:
        states = encoded.states_BSD.repeat_interleave(beams, 0)
        mask = length_mask(encoded.lengths_B, encoded.states_BSD.shape[1]).long()
        group = _Group(states, mask.repeat_interleave(beams, 0))
        forced = self._before(len(states), states.device)
        if forced.shape[1]:
            _, group.cache = self._read(forced, group.states_NSD, group.mask_NS)
        return HuggingFaceState([group], beams)

    def step(self, tokens_N: Tensor, state: DecoderState) -> Tensor:
        assert isinstance(state, HuggingFaceState)
        parts = tokens_N.split([len(group) for group in state.groups])
        return torch.cat(
            [self._step(tokens, group) for tokens, group in zip(parts, state.groups, strict=True)]
        )

    def _step(self, tokens_N: Tensor, group: _Group) -> Tensor:
        longest = self.config.max_target_length
        group.position += 1
        if group.position > longest:
            # Only finished hypotheses run past the library's position table before they leave.
            return group.states_NSD.new_zeros(len(group), self.config.d_model)
        hidden, group.cache = self._read(
            tokens_N[:, None], group.states_NSD, group.mask_NS, cache=group.cache
        )
        return hidden.squeeze(1)

    def _before(self, count: int, device: torch.device) -> Tensor:
        """Ids ``[count, n]`` that are read before ``start_id``."""
        forced = torch.tensor(self.config.start_ids[:-1], dtype=torch.int64, device=device)
        return forced.expand(count, -1)

    def _read(
        self,
        inputs_NT: Tensor,
        states_NSD: Tensor,
        mask_NS: Tensor,
        *,
        cache: Any = None,
        use_cache: bool = True,
    ) -> tuple[Tensor, Any]:
        """Hidden states ``[N, T, D]`` of the library's decoder, and its cache grown by T."""
        found = self._parts[1](
            input_ids=inputs_NT,
            encoder_hidden_states=states_NSD,
            encoder_attention_mask=mask_NS,
            past_key_values=cache,
            use_cache=use_cache,
        )
        return found.last_hidden_state * self._scale, found.past_key_values


def hidden_scale(config: Any) -> float:
    """What the library multiplies hidden states by before its output projection: D ** -0.5 where
    T5 ties it to the embeddings, 1 elsewhere."""
    scaled = getattr(config, "scale_decoder_outputs", None)
    if scaled is None:
        scaled = config.model_type in ("umt5", "switch_transformers")
        scaled = scaled and config.tie_word_embeddings
    return config.d_model**-0.5 if scaled else 1.0


@dataclass
class _Group:
    """Hypotheses that have read equally much, as the library's caches want it.

    Attributes:
        states_NSD, mask_NS: of the encoder, once for each hypothesis.
        position: tokens read, a forced prefix not counted.
        cache: the library's; None before the first token.
    """

    states_NSD: Tensor
    mask_NS: Tensor
    position: int = 0
    cache: Any = None

    def __len__(self) -> int:
        return len(self.states_NSD)

    def keep(self, index_N: Tensor) -> None:
        """Keep only these hypotheses."""
        self.states_NSD = self.states_NSD.index_select(0, index_N)
        self.mask_NS = self.mask_NS.index_select(0, index_N)
        if self.cache is not None:
            self.cache.batch_select_indices(index_N)


class HuggingFaceState(DecoderState):
    """Sources that joined later stay in a group of their own: the library's decoders take one
    position for all rows of a call."""

    def __init__(self, groups: list[_Group], beams: int) -> None:
        self.groups, self.beams = groups, beams

    @property
    def position(self) -> int:  # type: ignore[override]
        return max(group.position for group in self.groups)

    def extend(self, other: DecoderState) -> None:
        assert isinstance(other, HuggingFaceState) and other.beams == self.beams
        self.groups = [*self.groups, *other.groups]

    def keep_sources(self, index_B: Tensor) -> None:
        beams = torch.arange(self.beams, device=index_B.device)
        kept = []
        for group, index in self._by_group((index_B[:, None] * self.beams + beams).flatten()):
            if len(index):
                group.keep(index)
                kept.append(group)
        self.groups = kept

    def reorder(self, index_N: Tensor) -> None:
        for group, index in self._by_group(index_N):
            if group.cache is not None:
                group.cache.reorder_cache(index)

    def _by_group(self, index_N: Tensor) -> list[tuple[_Group, Tensor]]:
        """Each group with what of an index falls into it, counted from its own first row."""
        found, begin = [], 0
        for group in self.groups:
            end = begin + len(group)
            found.append((group, index_N[(index_N >= begin) & (index_N < end)] - begin))
            begin = end
        return found


@torch.inference_mode()
def check_against_library(model: HuggingFaceModel, name: str) -> None:
    """Score one short pair here and with the library's own forward, all at once and step by step.

    Whatever a family does behind its decoder that is not known here (another scale, a soft cap)
    shows in this.

    Raises:
        UserError: the logits differ, or the family has not the usual parts.
    """
    config = model.config
    ids = [i for i in range(config.vocab_size) if i != config.pad_id][:3]
    source = torch.tensor([[*ids, config.eos_id]], device=model.device)
    inputs = torch.tensor([[config.start_id, *ids]], device=model.device)
    lengths = torch.tensor([source.shape[1]], device=model.device)
    try:
        before = torch.tensor([config.start_ids[:-1]], device=model.device).long()
        whole = model.library(
            input_ids=source,
            attention_mask=torch.ones_like(source),
            decoder_input_ids=torch.cat([before, inputs], dim=1),
            use_cache=False,
        ).logits[:, before.shape[1] :]
        ours = model(source, lengths, inputs)
        state = model.start(model.encode(source, lengths))
        steps = [model.project(model.step(token, state)) for token in inputs.t()]
    except Exception as error:  # whatever a family of the library raises
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(f"{name} cannot be used as a teacher ({reason})") from error
    if not whole.isfinite().all():
        return  # damaged weights, which is for the warm-up to say
    scale = max(1.0, float(whole.abs().max()))
    allowed = (1e-3 if whole.dtype == torch.float32 else 0.1) * scale
    for found in (ours, torch.stack(steps, dim=1)):
        difference = float((found.float() - whole.float()).abs().max())
        if not difference <= allowed:
            raise UserError(
                f"{name} computes its logits in a way unknown here (they differ by "
                f"{difference:.3g} from the library's own); it cannot be used as a teacher"
            )
