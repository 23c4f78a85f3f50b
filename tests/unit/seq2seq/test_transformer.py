"""Both decoders against naive ones, and step by step against full prefixes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from seq2seq.batch import decoder_inputs, pad_sequences
from seq2seq.encoder_decoder import EncoderDecoder
from seq2seq.errors import UserError
from seq2seq.model import build_model
from seq2seq.transformer import sinusoidal_positions
from seq2seq.transformer_state import CAPACITY_STEP, TransformerState
from tests.builders import RECURRENT, sentences, tiny_model
from tests.oracles import naive

FORMS = [(norm, act) for norm in ("pre", "post") for act in ("relu", "gelu", "swish")]
SHAPES = [
    pytest.param({"kind": kind, "norm": norm}, id=f"{kind}-{norm}")
    for kind in ("transformer", "recurrent")
    for norm in ("pre", "post")
] + [pytest.param(shape, id=name) for name, shape in RECURRENT.items()]
TOLERANCE = 2e-5


def forced(model: EncoderDecoder, sources: list[list[int]], targets: list[list[int]]) -> Tensor:
    """Logits ``[B, T, V]`` by the full-prefix path."""
    target_BT, _ = pad_sequences(targets, 0)
    with torch.no_grad():
        return model(*pad_sequences(sources, 0), decoder_inputs(target_BT, 3))


def stepped(model: EncoderDecoder, sources: list[list[int]], targets: list[list[int]]) -> Tensor:
    """The same, token by token through the cache."""
    target_BT, _ = pad_sequences(targets, 0)
    inputs = decoder_inputs(target_BT, 3)
    with torch.no_grad():
        state = model.start(model.encode(*pad_sequences(sources, 0)))
        columns = [model.project(model.step(inputs[:, t], state)) for t in range(inputs.shape[1])]
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "rnn"}, "unknown model kind 'rnn'; known kinds: transformer, recurrent, stacked"),
        ({"kind": "transformer", "width": 3}, "unknown key 'width'"),
        ({"kind": "transformer", "d_model": 18, "heads": 4}, "d_model 18 .* heads 4"),
        ({"kind": "transformer", "d_model": 9, "heads": 3}, "d_model 9 must be even"),
        ({"kind": "transformer", "dropout": 1.0}, "dropout: .*given 1.0"),
        ({"kind": "transformer", "norm": "none"}, "norm: .*'pre' or 'post'"),
        ({"kind": "transformer", "vocab_size": 2}, "vocab_size: .*given 2"),
        ({"kind": "transformer", "cell": "ssru"}, "unknown key 'cell'"),
        ({"kind": "recurrent", "cell": "elman"}, "cell: .*'ssru', .* .given 'elman'"),
        ({"kind": "recurrent", "ffn": 0}, "ffn 0 needs encoder recurrent"),
        ({"kind": "recurrent", "positions": "none"}, "positions none needs encoder recurrent"),
        ({"kind": "transformer", "ffn": 0}, "ffn: .*given 0"),
        ({"kind": "recurrent", "decoder_width": 8}, "unknown key 'decoder_width'"),
        ({"kind": "stacked", "ffn": 0}, "unknown key 'ffn'"),
        ({"kind": "stacked", "encoder_width": 0}, "encoder_width: .*given 0"),
        ({"kind": "stacked", "cell": "gru", "projection": 8}, "projection is for cell sru; remove"),
    ],
)
def test_a_bad_shape_is_refused_on_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_model({"vocab_size": 12} | change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("norm", "activation"), FORMS)
def test_equals_the_naive_transformer(norm: str, activation: str) -> None:
    model = tiny_model(3, norm=norm, activation=activation)
    (source,), (target,) = sentences(1, [6]), sentences(2, [5])
    inputs = [3, *target[:-1]]
    expected = torch.from_numpy(naive(model).logits(source, inputs)).float()
    torch.testing.assert_close(
        forced(model, [source], [target])[0], expected, atol=TOLERANCE, rtol=1e-4
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_naive_one(shape: dict[str, str]) -> None:
    model = tiny_model(4, **shape)
    (source,), (target,) = sentences(3, [4]), sentences(4, [9])
    inputs = [3, *target[:-1]]
    expected = torch.from_numpy(naive(model).logits(source, inputs)).float()
    torch.testing.assert_close(
        forced(model, [source], [target])[0], expected, atol=TOLERANCE, rtol=1e-4
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_cached_decoding_equals_full_prefix(shape: dict[str, str]) -> None:
    model = tiny_model(4, **shape)
    sources, targets = sentences(1, [7, 3, 1]), sentences(2, [9, 4, 6])
    full, cached = forced(model, sources, targets), stepped(model, sources, targets)
    torch.testing.assert_close(cached, full, atol=TOLERANCE, rtol=1e-4)


def test_the_cache_grows_beyond_its_first_capacity() -> None:
    model = tiny_model(5, max_target_length=80)
    sources, targets = sentences(1, [4, 9]), sentences(2, [80, 71])
    assert CAPACITY_STEP < 40, "the targets no longer outgrow the cache: make them longer"
    full, cached = forced(model, sources, targets), stepped(model, sources, targets)
    torch.testing.assert_close(cached, full, atol=TOLERANCE, rtol=1e-4)


def test_a_target_at_the_length_limit_fits_and_a_longer_one_does_not() -> None:
    model = tiny_model(5, max_source_length=6, max_target_length=8)
    sources, targets = sentences(1, [6]), sentences(2, [8])
    torch.testing.assert_close(
        stepped(model, sources, targets), forced(model, sources, targets), atol=TOLERANCE, rtol=1e-4
    )
    with pytest.raises(RuntimeError):
        forced(model, sources, sentences(2, [10]))


@pytest.mark.parametrize("shape", SHAPES)
def test_batched_equals_single(shape: dict[str, str]) -> None:
    model = tiny_model(6, **shape)
    sources, targets = sentences(1, [5, 1, 9, 3]), sentences(2, [2, 8, 5, 1])
    together = forced(model, sources, targets)
    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        alone = forced(model, [source], [target])[0]
        torch.testing.assert_close(together[row, : len(target)], alone, atol=TOLERANCE, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_stands_in_padding_never_matters(shape: dict[str, str]) -> None:
    model = tiny_model(7, **shape)
    source, lengths = pad_sequences(sentences(1, [7, 3]), 0)
    target, _target_lengths = pad_sequences(sentences(2, [6, 2]), 0)
    inputs = decoder_inputs(target, 3)
    other_source, other_inputs = source.clone(), inputs.clone()
    other_source[1, 3:] = 9
    other_inputs[1, 2:] = 9
    with torch.no_grad():
        before = model(source, lengths, inputs)
        after = model(other_source, lengths, other_inputs)
        garbage = model.encode(source, lengths)
        garbage.states_BSD[1, 3:] = 1e3
        decoded = model.project(model.decode(garbage, inputs))
    torch.testing.assert_close(after[1, :2], before[1, :2], atol=1e-6, rtol=0)
    assert torch.equal(after[0], before[0])
    torch.testing.assert_close(decoded, before, atol=1e-6, rtol=0)
    assert not torch.allclose(after[1, 2:], before[1, 2:])


@pytest.mark.parametrize("shape", SHAPES)
def test_future_tokens_never_matter_and_past_ones_do(shape: dict[str, str]) -> None:
    model = tiny_model(8, **shape)
    (source,), (target,) = sentences(1, [6]), sentences(2, [7])
    before = forced(model, [source], [target])[0]
    for t in range(len(target) - 1):
        changed = list(target)
        changed[t] = 4 if target[t] != 4 else 5
        after = forced(model, [source], [changed])[0]
        # Logits t are read before token t: it may change only what comes behind it.
        torch.testing.assert_close(after[: t + 1], before[: t + 1], atol=1e-6, rtol=0)
        assert all(
            not torch.allclose(a, b, atol=1e-4)
            for a, b in zip(after[t + 1 :], before[t + 1 :], strict=True)
        )


def test_every_source_token_matters() -> None:
    model = tiny_model(9)
    (source,), (target,) = sentences(1, [6]), sentences(2, [3])
    before = forced(model, [source], [target])
    for s in range(len(source)):
        changed = list(source)
        changed[s] = 4 if source[s] != 4 else 5
        assert not torch.allclose(forced(model, [changed], [target]), before, atol=1e-4)


def test_word_order_matters() -> None:
    model = tiny_model(9)
    target = [[5, 6, 1]]
    assert not torch.allclose(
        forced(model, [[4, 5, 6, 1]], target), forced(model, [[6, 5, 4, 1]], target), atol=1e-4
    )


def test_positions_are_half_split_sinusoids() -> None:
    d, length = 16, 70
    table = sinusoidal_positions(length, d)
    assert table.shape == (length, d) and table.dtype == torch.float32
    for position in (0, 1, 2, 33, 69):
        for i in range(d // 2):
            angle = position / 10000 ** (2 * i / d)
            assert table[position, i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, d // 2 + i].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_positions_of_tensor2tensor_end_at_their_slowest() -> None:
    d, length = 16, 70
    table = sinusoidal_positions(length, d, "tensor2tensor").double()
    for position in (1, 2, 33, 69):
        assert table[position, 7].item() == pytest.approx(math.sin(position / 10000), abs=1e-7)
        for i in range(d // 2):
            angle = position * math.exp(-i * math.log(10000) / 7)
            assert table[position, i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, d // 2 + i].item() == pytest.approx(math.cos(angle), abs=1e-6)
    assert torch.equal(tiny_model(positions="tensor2tensor").positions[:40], table[:40].float())


def test_positions_are_no_weights() -> None:
    assert not [name for name in tiny_model().state_dict() if "position" in name]


def test_embeddings_are_tied_to_the_output_projection() -> None:
    model = tiny_model(10)
    names = [n for n, p in model.named_parameters() if 12 in p.shape]
    assert names == ["logit_bias", "embedding.weight"]
    hidden = torch.randn(3, 16)
    expected = hidden @ model.embedding.weight.T + model.logit_bias
    torch.testing.assert_close(model.project(hidden), expected)
    assert model.parameter_count() == sum(p.numel() for p in model.state_dict().values())


@pytest.mark.parametrize("shape", SHAPES)
def test_keep_sources_and_reorder(shape: dict[str, str]) -> None:
    """Hypotheses that swap their pasts and lose neighbours go on as if they had been alone."""
    model, beams = tiny_model(11, **shape), 2
    sources = sentences(1, [5, 2, 7])
    read = [[3, 4, 5], [3, 6, 7], [3, 8, 9], [3, 4, 9], [3, 5, 5], [3, 7, 4]]
    with torch.no_grad():
        state = model.start(model.encode(*pad_sequences(sources, 0)), beams)
        for t in range(3):
            model.step(torch.tensor([ids[t] for ids in read]), state)
        # Both of source 0 go on from its second, source 1 stays, source 2 swaps.
        past = [1, 1, 2, 3, 5, 4]
        state.reorder(torch.tensor(past))
        following = [5, 6, 7, 8, 9, 4]
        hidden = model.step(torch.tensor(following), state)
        _check_hypotheses(model, sources, [0, 0, 1, 1, 2, 2], read, past, following, hidden)
        state.keep_sources(torch.tensor([0, 2]))
        left = [0, 1, 4, 5]
        last = [4, 8, 6, 7]
        hidden = model.step(torch.tensor(last), state)
    for n, place in enumerate(left):
        ids = [*read[past[place]], following[place], last[n]]
        _check_alone(model, sources[place // beams], ids, hidden[n])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("beams", [1, 2])
def test_a_state_takes_in_another_that_has_read_less(shape: dict[str, str], beams: int) -> None:
    model = tiny_model(14, **shape)
    first, second = sentences(1, [5, 2]), sentences(2, [7])
    read: list[list[int]] = [[] for _ in range(3 * beams)]

    def step(state: Any, rows: list[int]) -> Tensor:
        tokens = [3 if not read[n] else 4 + (7 * n + len(read[n])) % 8 for n in rows]
        for n, token in zip(rows, tokens, strict=True):
            read[n].append(token)
        return model.step(torch.tensor(tokens), state)

    with torch.no_grad():
        state = model.start(model.encode(*pad_sequences(first, 0)), beams)
        for _ in range(3):
            step(state, list(range(2 * beams)))
        state.extend(model.start(model.encode(*pad_sequences(second, 0)), beams))
        everyone = list(range(3 * beams))
        for _ in range(34):  # past the first capacity
            hidden = step(state, everyone)
        _check_alone(model, second[0], read[-1], hidden[-1])
        _check_alone(model, first[1], read[2 * beams - 1], hidden[2 * beams - 1])
        # The one that was ahead leaves; who is left is at one position again.
        state.keep_sources(torch.tensor([2]))
        assert state.position == 34
        hidden = step(state, everyone[-beams:])
        _check_alone(model, second[0], read[-1], hidden[-1])


def _check_hypotheses(
    model: EncoderDecoder,
    sources: list[list[int]],
    source_of: list[int],
    read: list[list[int]],
    past: list[int],
    following: list[int],
    hidden: Tensor,
) -> None:
    for n, source in enumerate(source_of):
        _check_alone(model, sources[source], [*read[past[n]], following[n]], hidden[n])


def _check_alone(
    model: EncoderDecoder, source: list[int], inputs: list[int], hidden: Tensor
) -> None:
    ids, lengths = pad_sequences([source], 0)
    alone = model.decode(model.encode(ids, lengths), torch.tensor([inputs]))[0, -1]
    torch.testing.assert_close(hidden, alone, atol=TOLERANCE, rtol=1e-4)


def test_states_of_two_sentences_do_not_touch_each_other() -> None:
    model = tiny_model(12)
    encoded = model.encode(*pad_sequences(sentences(1, [5]), 0))
    first, second = model.start(encoded), model.start(encoded)
    assert isinstance(first, TransformerState)
    with torch.no_grad():
        a = model.step(torch.tensor([3]), first)
        model.step(torch.tensor([3]), second)
        model.step(torch.tensor([9]), second)
        again = model.start(encoded)
        torch.testing.assert_close(model.step(torch.tensor([3]), again), a)
    assert (first.position, second.position) == (1, 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_narrow_numbers_come_near_wide_ones(shape: dict[str, str]) -> None:
    """As the learner's ``precision: bf16`` and the teacher's ``--dtype`` have it."""
    model = tiny_model(15, **shape)
    sources, targets = sentences(1, [5, 3]), sentences(2, [4, 6])
    wide = forced(model, sources, targets)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = forced(model, sources, targets).float()
    narrow = stepped(model.to(torch.bfloat16), sources, targets).float()
    torch.testing.assert_close(mixed, wide, atol=0.3, rtol=0.1)
    torch.testing.assert_close(narrow, wide, atol=0.3, rtol=0.1)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_parameter_gets_a_gradient(shape: dict[str, str]) -> None:
    model = tiny_model(13, **shape).train()
    target, _ = pad_sequences(sentences(2, [4, 5]), 0)
    model(
        *pad_sequences(sentences(1, [5, 3]), 0), decoder_inputs(target, 3)
    ).square().sum().backward()
    silent = [
        n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert silent == []
