"""A padded batch through the model, and what is sent about each real position.

Letters: B sequences, S source and T target length, P packed positions, V vocabulary, K candidates,
D decoder width. Everything but the final copy stays on the model's device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from protos.teacher.v1 import teacher_pb2 as pb
from seq2seq.batch import decoder_inputs, packed_index, pad_sequences
from seq2seq.model import Seq2SeqModel
from teacher_service.encoder_cache import CachedEncoder
from teacher_service.payloads import Arrays, id_dtype
from teacher_service.refusals import NonFiniteOutput
from teacher_service.work import ScoreChoice, ScoreItem

# Logits computed at once, in numbers. A CPU likes what stays near its caches (16 MiB of float32);
# elsewhere the host waits for the device a few times a chunk, so a batch is one or few (256 MiB).
_CHUNK_NUMBERS = {"cpu": 1 << 22}
_CHUNK_NUMBERS_ELSEWHERE = 1 << 26
_TORCH: dict[int, torch.dtype] = {
    pb.DATA_TYPE_FLOAT16: torch.float16,
    pb.DATA_TYPE_FLOAT32: torch.float32,
}


class Scorer:
    """Runs a model over batches of (source, target) pairs; used by one thread at a time.

    Args:
        chunk_numbers: logits computed at once; by default what suits the model's device.
        encoder_cache_bytes: of encoder states kept for sources that come again.
    """

    def __init__(
        self, model: Seq2SeqModel, chunk_numbers: int | None = None, encoder_cache_bytes: int = 0
    ) -> None:
        self._model = model
        self.encoder = CachedEncoder(model, encoder_cache_bytes)
        if chunk_numbers is None:
            chunk_numbers = _CHUNK_NUMBERS.get(model.device.type, _CHUNK_NUMBERS_ELSEWHERE)
        self._chunk = max(1, chunk_numbers // model.config.vocab_size)

    @torch.inference_mode()
    def score(self, choice: ScoreChoice, items: Sequence[ScoreItem]) -> list[Arrays]:
        """Score one batch.

        Returns:
            For each item its T rows in wire dtypes, named as in ``payloads.TENSORS``.

        Raises:
            NonFiniteOutput: a distribution cannot be normalised, or a state does not fit its dtype.
        """
        model, config = self._model, self._model.config
        targets_BT, lengths_B = pad_sequences(
            [item.target for item in items], config.pad_id, model.device
        )
        index_P = packed_index(lengths_B, targets_BT.shape[1])
        if len(index_P):
            encoded = self.encoder.encode([item.source for item in items])
            inputs_BT = decoder_inputs(targets_BT, config.start_id)
            hidden_PD = model.decode_real(encoded, inputs_BT, lengths_B)
        else:
            hidden_PD = torch.zeros((0, config.d_model), device=model.device)
        packed = self._payload(
            choice,
            hidden_PD,
            targets_BT.flatten().index_select(0, index_P),
            _candidates(items, model.device),
        )
        ends = np.cumsum([len(item.target) for item in items])[:-1]
        rows = {name: np.split(array, ends) for name, array in packed.items()}
        return [{name: parts[i] for name, parts in rows.items()} for i in range(len(items))]

    def _payload(
        self, choice: ScoreChoice, hidden_PD: Tensor, targets_P: Tensor, candidates_PK: Tensor
    ) -> Arrays:
        """Project chunk by chunk: logits of all positions at once would not fit."""
        count = max(1, -(-len(hidden_PD) // self._chunk))
        chunks = [
            payload(choice, self._model.project(hidden), targets, candidates)
            for hidden, targets, candidates in zip(
                hidden_PD.tensor_split(count),
                targets_P.tensor_split(count),
                candidates_PK.tensor_split(count),
                strict=True,
            )
        ]
        tensors = {
            name: torch.cat([chunk[name] for chunk in chunks]) if count > 1 else chunks[0][name]
            for name in chunks[0]
        }
        if choice.kind == pb.PAYLOAD_KIND_HIDDEN:
            tensors["states"] = narrow_states(hidden_PD, _TORCH[choice.dtype])
        ids = id_dtype(self._model.config.vocab_size)
        return {
            name: _ids_to_host(tensor, ids) if name == "ids" else tensor.cpu().numpy()
            for name, tensor in tensors.items()
        }


def payload(
    choice: ScoreChoice, logits_PV: Tensor, targets_P: Tensor, candidates_PK: Tensor | None = None
) -> dict[str, Tensor]:
    """What ``choice`` sends of these logits, floats in the wire dtype.

    Args:
        logits_PV: of the model, any float dtype; overwritten.
        targets_P: int64 actual tokens.
        candidates_PK: int64, CANDIDATES only.

    Raises:
        NonFiniteOutput: a row holds NaN or +inf, or nothing but -inf.
    """
    scaled_PV = logits_PV.float()
    if choice.temperature != 1.0:
        scaled_PV = scaled_PV / choice.temperature
    scores = {"token_log_probs": scaled_PV.gather(1, targets_P[:, None]).squeeze(1)}
    ids: dict[str, Tensor] = {}
    if choice.kind in (pb.PAYLOAD_KIND_TOP_K, pb.PAYLOAD_KIND_CANDIDATES):
        if choice.kind == pb.PAYLOAD_KIND_TOP_K:
            values_PK, chosen_PK = top_k(scaled_PV, min(choice.k, scaled_PV.shape[1]))
            ids["ids"] = chosen_PK
        else:
            assert candidates_PK is not None
            chosen_PK = candidates_PK
            values_PK = scaled_PV.gather(1, chosen_PK)
        # Summing what is left is exact where 1 - (mass of the chosen) would cancel to noise; and
        # the chosen added to that sum are the whole, so the vocabulary is summed once.
        rest_P = log_sum_exp_(scaled_PV.scatter_(1, chosen_PK, -torch.inf))
        normaliser_P = torch.cat([values_PK, rest_P[:, None]], 1).logsumexp(1)
        scores |= {"log_probs": values_PK, "tail_log_mass": rest_P}
    elif choice.kind == pb.PAYLOAD_KIND_FULL:
        normaliser_P = scaled_PV.logsumexp(1)
        scores["log_probs"] = scaled_PV
    else:
        if choice.kind == pb.PAYLOAD_KIND_ARGMAX:
            ids["ids"] = scaled_PV.argmax(1)  # the first among equals, by its documentation
            scores["log_probs"] = scaled_PV.gather(1, ids["ids"][:, None]).squeeze(1)
        normaliser_P = log_sum_exp_(scaled_PV)
    if not bool(normaliser_P.isfinite().all()):
        raise NonFiniteOutput(
            f"{int((~normaliser_P.isfinite()).sum())} of {len(normaliser_P)} distributions are not "
            "finite; the weights are damaged or the dtype is too narrow for this model"
        )
    wire = _TORCH[choice.dtype]
    log_probs = {
        name: score.sub_(normaliser_P if score.ndim == 1 else normaliser_P[:, None])
        for name, score in scores.items()
    }
    return ids | {name: _narrow(values, wire) for name, values in log_probs.items()}


def top_k(scores_PV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of each row with their ids, largest first, ties by ascending id.

    ``torch.topk`` leaves the order of equals open, and which of them are among the k; rows with
    equals at or above the cut are settled by stable sorts, the others cost nothing more.
    """
    width = scores_PV.shape[1]
    values_PK, ids_PK = largest(scores_PV, min(k + 1, width))
    equal = values_PK[:, 1:] == values_PK[:, :-1]
    tied = equal[:, : k - 1].any(1).nonzero().squeeze(1)
    cut = equal[:, k - 1].nonzero().squeeze(1) if k < width else tied[:0]
    values_PK, ids_PK = values_PK[:, :k], ids_PK[:, :k]
    if len(tied):
        ids, order = ids_PK[tied].sort(dim=1)
        values, order = values_PK[tied].gather(1, order).sort(dim=1, descending=True, stable=True)
        values_PK[tied], ids_PK[tied] = values, ids.gather(1, order)
    if len(cut):
        values, ids = scores_PV[cut].sort(dim=1, descending=True, stable=True)
        values_PK[cut], ids_PK[cut] = values[:, :k], ids[:, :k]
    return values_PK, ids_PK


def largest(scores_PV: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of each row and their ids, largest first; of equals any.

    On a CPU ``topk`` works through a row one number at a time. Maxima over every m-th column are
    vectorised, and the k largest lie in the k columns' sets of largest maximum.
    """
    width, depth = scores_PV.shape[1], 8
    if scores_PV.device.type != "cpu" or width < 4 * depth * k:
        return scores_PV.topk(k, dim=1)
    m = width // depth
    maxima_Pm = scores_PV[:, : m * depth].unflatten(1, (depth, m)).amax(1)
    sets_Pk = maxima_Pm.topk(k, dim=1, sorted=False).indices
    ids = (sets_Pk[:, None] + m * torch.arange(depth)[:, None]).flatten(1)
    left_over = torch.arange(m * depth, width).expand(len(ids), -1)
    ids = torch.cat([ids, left_over], dim=1)
    values_Pk, places_Pk = scores_PV.gather(1, ids).topk(k, dim=1)
    return values_Pk, ids.gather(1, places_Pk)


def log_sum_exp_(scores_PV: Tensor) -> Tensor:
    """``scores_PV.logsumexp(1)`` without a second array of that size; overwrites it."""
    top_P = scores_PV.amax(1)
    shift_P = top_P.masked_fill(top_P.isinf(), 0.0)  # -inf - -inf would be NaN
    return scores_PV.sub_(shift_P[:, None]).exp_().sum(1).log_().add_(shift_P)


def narrow_states(states_PD: Tensor, dtype: torch.dtype) -> Tensor:
    """To the wire dtype.

    Raises:
        NonFiniteOutput: a state lies beyond what the dtype holds.
    """
    narrowed_PD = states_PD.to(dtype)
    if not bool(narrowed_PD.isfinite().all()):
        beyond = int((~narrowed_PD.isfinite()).any(1).sum())
        raise NonFiniteOutput(
            f"states of {beyond} of {len(states_PD)} positions reach {states_PD.abs().max():.3g}, "
            f"beyond the {torch.finfo(dtype).max:g} of the dtype asked for; ask for FLOAT32"
        )
    return narrowed_PD


def _candidates(items: Sequence[ScoreItem], device: torch.device) -> Tensor:
    """``[P, K]`` int64; ``[P, 0]`` where the items have none."""
    tables = [
        np.zeros((len(item.target), 0)) if item.candidates is None else item.candidates
        for item in items
    ]
    return torch.from_numpy(np.concatenate(tables).astype(np.int64)).to(device)


def _ids_to_host(ids: Tensor, dtype: np.dtype) -> np.ndarray:
    """In the wire dtype, to which they are narrowed where they are: no more is copied than is sent.

    torch reckons with signed integers alone; the bits are the same.
    """
    signed = {2: torch.int16, 4: torch.int32}[dtype.itemsize]
    return ids.to(signed).cpu().numpy().view(f"u{dtype.itemsize}").astype(dtype, copy=False)


def _narrow(values: Tensor, dtype: torch.dtype) -> Tensor:
    """To the wire dtype; what is finite stays finite."""
    lowest = torch.finfo(dtype).min
    if dtype is torch.float32 or values.numel() == 0:
        return values.to(dtype)
    # A look spares a CPU two passes; elsewhere it would have the host wait for the device.
    if values.device.type == "cpu" and bool(values.min() >= lowest):
        return values.to(dtype)
    return values.clamp(min=lowest).masked_fill(values == -torch.inf, -torch.inf).to(dtype)
