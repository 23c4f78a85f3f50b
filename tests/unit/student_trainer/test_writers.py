"""Both engines write the same; what one of them cannot do is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from seq2seq.decoding import Greedy
from seq2seq.errors import UserError
from student_trainer.config import RunConfig, make_config
from student_trainer.writers import CTranslate2Writer, OwnWriter, make_writer
from tests.builders import sentences, tiny_model, weights_of

V = 31
SOURCES = [np.array(ids, np.int32) for ids in sentences(5, [7, 2, 12, 4, 9, 3], V)]
KEYS = list(range(len(SOURCES)))


def config_of(**rollout: Any) -> RunConfig:
    limit = {"ratio": 1.0, "offset": 3, "cap": 12}
    return make_config(
        {
            "name": "writers",
            "method": "imitkd-full",
            "corpus": {"path": "corpus"},
            "vocabulary": {"size": V},
            "model": {"kind": "transformer"},
            "rollout": {"limit": limit} | rollout,
            "batch": {"sentences": 5},
            "optimiser": {"steps": 10},
            "teacher": {"address": "nowhere:1"},
        }
    )


def test_sampling_needs_our_own_engine() -> None:
    with pytest.raises(UserError, match="engine own"):
        config_of(engine="ctranslate2", decoding="sample")


def test_an_absent_engine_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ctranslate2.specs", None)
    with pytest.raises(UserError, match="pip install"):
        make_writer(config_of(engine="ctranslate2"), tiny_model(1, vocab_size=V))


@pytest.mark.parametrize("end_bias", [-1.0, 0.5, 3.0])
def test_ctranslate2_writes_what_our_engine_writes(end_bias: float) -> None:
    pytest.importorskip("ctranslate2")
    config = config_of(engine="ctranslate2")
    model = tiny_model(1, vocab_size=V, spread=0.5)
    writers = [
        make_writer(config, model),
        make_writer(config_of(), tiny_model(2, vocab_size=V, spread=0.5)),
    ]
    assert [type(w) for w in writers] == [CTranslate2Writer, OwnWriter]
    weights = weights_of(tiny_model(3, vocab_size=V, spread=0.5, end_bias=end_bias))
    # A model that would rather write padding or the start symbol must not.
    weights["logit_bias"][[0, 3]] += 5.0
    found = []
    for writer in writers:
        writer.load(weights)
        found.append(writer.write(SOURCES, Greedy(), KEYS))
    assert found[0] == found[1]
    lengths = {len(ids) for ids in found[0]}
    assert len(lengths) > 1
    assert not {0, 3} & {token for ids in found[0] for token in ids}
