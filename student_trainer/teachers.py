"""The teacher of a run, or its teachers by corpus, and which of them is asked about which rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from seq2seq.vocabulary import Vocabulary
from student_trainer.config import RunConfig, TeacherConfig
from student_trainer.labels import asked_payload
from student_trainer.source_config import TeacherRevision
from teacher_service.channel import Credentials
from teacher_service.client import TeacherClient
from teacher_service.codec import ModelInfo, ScoreResult
from teacher_service.errors import TeacherError
from teacher_service.score_store.stored_teacher import StoredTeacher

# Asks a teacher about the rows of a mask.
Ask = Callable[[TeacherClient, np.ndarray], ScoreResult]
# Of one teacher, or by corpus.
TeacherInfos = ModelInfo | dict[str, ModelInfo]
# Shards that a process has with its teachers at once, at most.
_AT_ONCE = 8


class RoutedTeachers:
    """A teacher for each corpus; several corpora may have the same one.

    Args:
        of_corpus: by the name of each corpus, in the order of their places.
    """

    def __init__(self, of_corpus: Mapping[str, TeacherClient]) -> None:
        self.of_corpus = dict(of_corpus)
        self._teachers = list(self.of_corpus.values())
        self._distinct = list(dict.fromkeys(self._teachers))
        self._pool = ThreadPoolExecutor(_AT_ONCE * len(self._distinct), "teachers")

    @property
    def address(self) -> str:
        """All of them."""
        return ", ".join(f"{name}: {t.address}" for name, t in self.of_corpus.items())

    def ask_each(
        self, asked_B: np.ndarray, corpora_B: np.ndarray, ask: Ask
    ) -> list[tuple[np.ndarray, ScoreResult]]:
        """Ask side by side, each teacher about its rows.

        Args:
            asked_B: bool, the rows to be asked about.
            corpora_B: place of each row's corpus.

        Returns:
            For each teacher that has rows the mask of these, and what it answered.

        Raises:
            TeacherError: names the corpus.
        """
        of_row = np.array([self._distinct.index(t) for t in self._teachers])[corpora_B]
        masks = [asked_B & (of_row == place) for place in range(len(self._distinct))]
        calls = [
            (mask, self._pool.submit(self._named, teacher, mask, ask))
            for teacher, mask in zip(self._distinct, masks, strict=True)
            if mask.any()
        ]
        return [(mask, call.result()) for mask, call in calls]

    def _named(self, teacher: TeacherClient, mask: np.ndarray, ask: Ask) -> ScoreResult:
        with self.naming(teacher):
            return ask(teacher, mask)

    @contextlib.contextmanager
    def naming(self, teacher: TeacherClient) -> Iterator[None]:
        """Faults inside the block name the corpora of this teacher."""
        try:
            yield
        except TeacherError as error:
            names = ", ".join(n for n, t in self.of_corpus.items() if t is teacher)
            error.args = (f"teacher of {names}: {error}",)
            raise

    def infos(self, ask: Callable[[str, TeacherClient], ModelInfo]) -> dict[str, ModelInfo]:
        """By corpus what ``ask`` learns of its teacher.

        Raises:
            TeacherError: names the corpus.
        """
        found = {}
        for name, teacher in self.of_corpus.items():
            with self.naming(teacher):
                found[name] = ask(name, teacher)
        return found

    def close(self) -> None:
        """Close all connections."""
        for teacher in self._distinct:
            teacher.close()
        self._pool.shutdown()


AnyTeacher = TeacherClient | StoredTeacher | RoutedTeachers


def make_teacher(config: RunConfig, vocabulary: Vocabulary) -> AnyTeacher | None:
    """Clients, or a store in their place, that refuse teachers of another vocabulary; None where
    no teacher is asked.

    Raises:
        TeacherSecretError: a token, certificate or key cannot be read.
        TeacherStoreError, TeacherMismatch: a store that cannot be read, or of other scores.
    """
    settings = config.teacher
    if not config.asks_teacher or settings is None:
        return None
    if settings.routes:
        return _routed(settings, list(config.corpus.directories), vocabulary.fingerprint)
    teacher = one_teacher(settings, vocabulary.fingerprint)
    if isinstance(teacher, StoredTeacher):
        teacher.check_question(asked_payload(config), config.loss.temperature)
    return teacher


def teacher_infos(teacher: AnyTeacher, settings: TeacherConfig) -> TeacherInfos:
    """What answers; replicas of a teacher that no revision pins must agree.

    Raises:
        TeacherError: absent past the deadline, or of another vocabulary or revision.
    """

    def info(name: str, client: TeacherClient) -> ModelInfo:
        if settings.of_corpus(name)[1] is None:
            # Which of two models is meant nobody can say; later on the one that was found is.
            client.wait_ready(settings.timeout_s)
        return client.model_info()

    if isinstance(teacher, RoutedTeachers):
        return teacher.infos(info)
    return teacher.model_info() if isinstance(teacher, StoredTeacher) else info("", teacher)


def revision_of(infos: TeacherInfos) -> TeacherRevision:
    """What every request of the run is pinned to."""
    if isinstance(infos, ModelInfo):
        return infos.revision
    return {name: info.revision for name, info in infos.items()}


def one_teacher(settings: TeacherConfig, fingerprint: str | None) -> TeacherClient | StoredTeacher:
    """The teacher of a run that has one; with routes one whose vocabulary is that of all."""
    if settings.store is not None:
        pinned = settings.revision if isinstance(settings.revision, str) else None
        return StoredTeacher(
            settings.store, expected_fingerprint=fingerprint, expected_revision=pinned
        )
    name = next(iter(settings.routes), "")
    return _client(settings, *settings.of_corpus(name), fingerprint)


def _routed(settings: TeacherConfig, names: list[str], fingerprint: str) -> RoutedTeachers:
    clients: dict[tuple[tuple[str, ...], str | None], TeacherClient] = {}
    of_corpus = {}
    for name in names:
        wanted = settings.of_corpus(name)
        if wanted not in clients:
            clients[wanted] = _client(settings, *wanted, fingerprint)
        of_corpus[name] = clients[wanted]
    return RoutedTeachers(of_corpus)


def _client(
    settings: TeacherConfig,
    address: tuple[str, ...],
    revision: str | None,
    fingerprint: str | None,
) -> TeacherClient:
    credentials = Credentials.read(
        settings.token_file,
        settings.root_certificates,
        settings.client_certificate,
        settings.client_key,
        where="teacher.",
    )
    return TeacherClient(
        address,
        attempt_timeout_s=settings.attempt_timeout_s,
        timeout_s=settings.timeout_s,
        refresh_s=settings.refresh_s,
        expected_fingerprint=fingerprint,
        expected_revision=revision,
        token=credentials.token,
        root_certificates=credentials.root_certificates,
        client_certificate=credentials.client_certificate,
        client_key=credentials.client_key,
    )
