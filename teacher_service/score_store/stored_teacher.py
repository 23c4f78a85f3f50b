"""A teacher that is not there: a store in the place of a client."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from teacher_service.candidates import TokenTable
from teacher_service.codec import ModelInfo, PayloadRequest, ScoreResult, join
from teacher_service.errors import TeacherMismatch, TeacherRefused, TeacherStoreError
from teacher_service.payloads import empty_arrays, result_payload
from teacher_service.requests import Ids
from teacher_service.score_store.form import ScoreForm
from teacher_service.score_store.reader import ScoreStore
from teacher_service.score_store.writer import TOKENIZER


class StoredTeacher:
    """Answers from a store what :class:`TeacherClient` would have answered; safe between threads.

    Args:
        directory: a score store.
        expected_fingerprint, expected_revision: of the teacher whose scores must be there.

    Attributes:
        form: whose scores, and in which form.

    Raises:
        TeacherStoreError: no store there, or it cannot be read.
        TeacherMismatch: scores of another teacher or vocabulary.
    """

    def __init__(
        self,
        directory: Path,
        *,
        expected_fingerprint: str | None = None,
        expected_revision: str | None = None,
    ) -> None:
        self.directory = directory
        self._store = ScoreStore(directory)
        self.form = self._store.form
        self._keys = self.form.keys()
        expected = {"revision": expected_revision, "fingerprint": expected_fingerprint}
        for what, wanted in expected.items():
            found = getattr(self.form.info, what)
            if wanted and wanted != found:
                self.close()
                raise TeacherMismatch(
                    f"score store {directory} was written by a teacher of {what} {found}, expected "
                    f"is {wanted}; name the store of that teacher"
                )

    def model_info(self) -> ModelInfo:
        """The teacher as it was when the store was begun, offering what the store holds."""
        return self.form.info

    def artifact(self, kind: str = TOKENIZER) -> dict[str, bytes]:
        """The teacher's tokenizer files by their relative names.

        Raises:
            TeacherRefused: any other artefact.
            TeacherStoreError: they cannot be read.
        """
        if kind != TOKENIZER:
            raise TeacherRefused(f"a score store has no artefact {kind!r}; serve the teacher")
        root = self.directory / TOKENIZER
        try:
            files = [file for file in sorted(root.rglob("*")) if file.is_file()]
            found = {file.relative_to(root).as_posix(): file.read_bytes() for file in files}
        except OSError as error:
            raise TeacherStoreError(f"cannot read {error.filename}: {error.strerror}") from error
        if not found:
            raise TeacherStoreError(f"{root} is empty; name the vocabulary with vocabulary.from")
        return found

    def check_question(self, payload: PayloadRequest, temperature: float) -> None:
        """Whether the store can answer this payload choice at all.

        Raises:
            TeacherMismatch: it holds another payload, k, dtype or temperature.
        """
        asked = ScoreForm.of(self.form.info, payload, temperature)
        if not asked.same_question(self.form):
            raise TeacherMismatch(
                f"score store {self.directory} holds {self.form.asked()}, and "
                f"{asked.asked()} is asked for; a top-k with its tail cannot be made into another "
                "one: change the question or write another store"
            )

    def find(self, sources: Sequence[Ids], targets: Sequence[Ids]) -> np.ndarray:
        """int64 ``[B]``: the record of each pair; -1 where the store has none."""
        pairs = zip(sources, targets, strict=True)
        return self._store.find([self._keys.key(source, target) for source, target in pairs])

    def score(
        self,
        sources: Sequence[Ids],
        targets: Sequence[Ids],
        payload: PayloadRequest,
        *,
        temperature: float = 1.0,
        candidates: Sequence[TokenTable] | None = None,
    ) -> ScoreResult:
        """The same as :meth:`TeacherClient.score`, bit by bit.

        Raises:
            TeacherRefused: candidates are given.
            TeacherMismatch: another question than the store holds answers to.
            TeacherStoreError: a pair is not there, or its record is damaged.
        """
        if candidates is not None:
            raise TeacherRefused("a score store has no answers about candidates; serve the teacher")
        self.check_question(payload, temperature)
        places = self.find(sources, targets).tolist()
        if -1 in places:
            raise TeacherStoreError(
                f"score store {self.directory} lacks {places.count(-1)} of {len(places)} "
                "pairs asked for; run `imitkd teacher score-corpus` on this corpus again"
            )
        kind, rows = self.form.spec.kind, self.form.rows
        arrays = join([self._store.read(place) for place in places] or [empty_arrays(rows)])
        return ScoreResult(
            lengths_B=np.fromiter((len(t) for t in targets), np.int32, len(targets)),
            token_log_probs_P=arrays["token_log_probs"],
            payload=result_payload(kind, arrays, rows),
            revision=self.form.info.revision,
        )

    def close(self) -> None:
        """Close the files."""
        self._store.close()
