"""Ensembles against a slow mean of probabilities, written out in plain loops."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from seq2seq.checkpoint import ModelDirectory
from seq2seq.decoding import Beam, Greedy, LengthLimit, Sample, generate
from seq2seq.ensemble import Ensemble, join
from seq2seq.errors import UserError
from seq2seq.model import Seq2SeqModel
from tests import oracles
from tests.builders import sentences, tiny_model, tiny_vocabulary

LIMIT = LengthLimit(1.0, 2, 20)
SOURCES = sentences(3, [6, 2, 4, 7])


def members() -> list[Seq2SeqModel]:
    """Three models of different widths, depths and limits."""
    return [
        tiny_model(1),
        tiny_model(2, d_model=8, decoder_layers=1, max_source_length=40),
        tiny_model(3, heads=4, norm="post", max_target_length=30),
    ]


def slow_mean(source: list[int], prefix: list[int]) -> list[float]:
    """log of the arithmetic mean of the members' probabilities."""
    rows = [oracles.next_log_probs(model, source, prefix) for model in members()]
    return [
        math.log(math.fsum(map(math.exp, column)) / len(rows)) for column in zip(*rows, strict=True)
    ]


def directory(name: str, model: Seq2SeqModel, revision: str = "sha256:0") -> ModelDirectory:
    return ModelDirectory(Path(name), model, tiny_vocabulary(), revision, name)


# ------------------------------------------------------------------------------------------- faults


def test_members_of_different_vocabularies_are_refused():
    other = replace(directory("b", tiny_model(2)), vocabulary=tiny_vocabulary(40))
    with pytest.raises(UserError, match=r"a and b have different vocabularies .*one vocabulary"):
        join([directory("a", tiny_model(1)), other])


def test_members_that_begin_differently_are_refused():
    with pytest.raises(UserError, match=r"begin targets with different ids \(\(3,\), \(1,\)\)"):
        join([directory("a", tiny_model(1)), directory("b", tiny_model(2, start_id=1))])


def test_there_is_no_output_projection():
    ensemble = Ensemble(members())
    assert not ensemble.has_output_projection and tiny_model().has_output_projection
    with pytest.raises(NotImplementedError):
        ensemble.output_projection()


# ---------------------------------------------------------------------------------------- identity


def test_one_directory_stays_what_it_is():
    alone = directory("a", tiny_model(1))
    assert join([alone]) is alone


def test_the_revision_is_that_of_the_members_in_any_order():
    a, b, c = (directory(n, tiny_model(i), f"sha256:{n}") for i, n in enumerate("abc"))
    found = join([a, b, c])
    assert found.revision == join([c, a, b]).revision
    assert found.revision.startswith("sha256:") and len(found.revision) == 7 + 64
    others = [join(m).revision for m in ([a, b], [a, b, replace(c, revision="sha256:d")])]
    assert len({found.revision, a.revision, *others}) == 4
    assert found.name == "a + b + c" and found.vocabulary is a.vocabulary


def test_limits_are_the_strictest_and_parameters_add_up():
    ensemble = Ensemble(members())
    config = ensemble.config
    assert (config.max_source_length, config.max_target_length) == (40, 30)
    assert config.d_model == 16 + 8 + 16
    assert ensemble.parameter_count() == sum(m.parameter_count() for m in members())


# ------------------------------------------------------------------------------------ distributions


def test_scores_are_the_log_of_the_mean_probability():
    ensemble = Ensemble(members()).eval()
    for source in SOURCES:
        found = ensemble.project(torch.zeros(0, ensemble.config.d_model))
        assert found.shape == (0, 12)
        target = [5, 7, 4, 8]
        found = oracles.distributions(ensemble, source, target)
        for t, row in enumerate(found):
            assert row == pytest.approx(slow_mean(source, target[:t]), abs=1e-5)


def test_impossible_ids_stay_impossible_where_all_members_agree():
    ensemble = Ensemble(members()[:2])
    for number, member in enumerate(ensemble.members):
        with torch.no_grad():
            member.logit_bias[5] = -torch.inf
            member.logit_bias[6] = -torch.inf if number else 0.0
    log_probs = ensemble.project(torch.randn(3, ensemble.config.d_model))
    assert torch.isneginf(log_probs[:, 5]).all() and log_probs[:, 6].isfinite().all()
    torch.testing.assert_close(log_probs.logsumexp(1), torch.zeros(3), atol=1e-5, rtol=0)


# ----------------------------------------------------------------------------------------- decoding


def test_every_step_is_written_with_the_mixture():
    ensemble = Ensemble(members()).eval()
    found = generate(ensemble, SOURCES, Greedy(), limit=LIMIT, batch_rows=2)
    differs = False
    for source, (hypothesis,) in zip(SOURCES, found, strict=True):
        limit = LIMIT.of(len(source))
        assert hypothesis.ids == oracles.greedy(ensemble, source, limit)
        assert hypothesis.log_prob == pytest.approx(
            oracles.sequence_log_prob(ensemble, source, hypothesis.ids), abs=1e-4
        )
        differs |= any(hypothesis.ids != oracles.greedy(m, source, limit) for m in members())
    assert differs, "members that agree prove nothing"


def test_beams_of_the_mixture_equal_the_oracle():
    ensemble = Ensemble(members()).eval()
    found = generate(ensemble, SOURCES, Beam(3, 2), limit=LIMIT, prefixes=[[], [7], [], [5, 6]])
    for source, prefix, row in zip(SOURCES, [[], [7], [], [5, 6]], found, strict=True):
        best = oracles.beam(ensemble, source, size=3, limit=LIMIT.of(len(source)), prefix=prefix)
        assert row[0].ids == best[0][0]
        assert row[0].log_prob == pytest.approx(best[0][1], abs=1e-4)


def test_sampling_draws_from_the_tempered_mixture():
    ensemble = Ensemble(members()).eval()
    source, count, temperature = SOURCES[0], 2000, 0.7
    mode = Sample(0, temperature, seed=5)
    found = generate(ensemble, [source] * count, mode, limit=LengthLimit(0, 1, 1))
    drawn = [row[0].ids[0] for row in found]
    expected = oracles.top_k_distribution(oracles.writable(ensemble, source, []), 0, temperature)
    for token, share in expected.items():
        assert drawn.count(token) / count == pytest.approx(share, abs=0.035)
