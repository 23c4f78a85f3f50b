"""Having a served teacher write the targets of one part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imitkd.distilling.parts import Record
from seq2seq.corpus import Example
from seq2seq.vocabulary import Vocabulary
from teacher_service.client import TeacherClient
from teacher_service.codec import Beam, GeneratedHypothesis, Greedy, LengthLimit, Sample

# Why a source has no record.
TOO_LONG = "source longer than the teacher takes"
UNFINISHED = "no hypothesis ended within the length limit"
EMPTY = "nothing written"


@dataclass(frozen=True)
class TeacherWriter:
    """The teacher with its own tokenizer, and how it is to decode.

    Attributes:
        max_source_length: longest source it takes, in ids.
    """

    client: TeacherClient
    vocabulary: Vocabulary
    mode: Greedy | Sample | Beam
    limit: LengthLimit
    max_source_length: int

    def write(self, examples: Sequence[Example], first: int) -> list[Record]:
        """A line for each example, in order: its record with ``candidates``, or why there is none.

        Args:
            first: row of the first one; rows address the noise of sampling.

        Raises:
            TeacherError: the teacher refused or stayed away past its deadline.
        """
        encoded = self.vocabulary.encode_many([e.source for e in examples])
        sources = [self.vocabulary.as_source(ids) for ids in encoded]
        records: list[Record] = [{"left_out": TOO_LONG} for _ in examples]
        # Longest first: equal lengths share a request, and the last ones under way are short.
        asked = sorted(
            (i for i, ids in enumerate(sources) if len(ids) <= self.max_source_length),
            key=lambda i: -len(sources[i]),
        )
        found = self.client.generate(
            [sources[i] for i in asked],
            self.mode,
            limit=self.limit,
            keys=[first + i for i in asked],
        )
        for i, hypotheses in zip(asked, found, strict=True):
            records[i] = self._record(examples[i], hypotheses)
        return records

    def _record(self, example: Example, hypotheses: Sequence[GeneratedHypothesis]) -> Record:
        """A record of the corpus; one text from several segmentations counts once, as its best."""
        finished = [h for h in hypotheses if h.finished]
        if not finished:
            return {"left_out": UNFINISHED}
        scores: dict[str, float] = {}
        for hypothesis in finished:
            scores.setdefault(self.vocabulary.decode(hypothesis.ids), hypothesis.log_prob)
        scores.pop("", None)
        if not scores:
            return {"left_out": EMPTY}
        return {
            "source": example.source,
            "references": list(example.references),
            "candidates": [{"text": t, "score": round(p, 6)} for t, p in scores.items()],
        }
