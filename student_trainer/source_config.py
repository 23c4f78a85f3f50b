"""The sections of a configuration that say what a run learns from: its corpora and its teachers.

One corpus and one teacher, or several corpora by name and, for those that want one of their own, a
teacher for each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from seq2seq.errors import UserError
from student_trainer.learning_config import Section
from teacher_service.addresses import written_addresses
from teacher_service.errors import TeacherRefused

# Of the teacher that scores; by corpus where there are routes; None where none is asked.
TeacherRevision: TypeAlias = "str | dict[str, str] | None"


class CorpusConfig(Section):
    """What to train on.

    Attributes:
        path: a prepared corpus directory.
        paths: several of them by name, in place of ``path``: one training split of all, one after
            the other, and a validation split that takes from each in turn.
        distilled: directory with the teacher's hypotheses for the training sources
            (`imitkd data distil`); unset: those of ``path``, if it is such a one itself.
        sentences: use only so many training pairs of a corpus, drawn once and for all (the low-data
            setting).
        long_sources: sentences whose source is over ``model.max_source_length``: ``leave-out``, or
            ``cut`` their end off, as every source is in evaluation. Summaries want the latter.
        source_candidates: n-best size of source subword regularisation; 1 turns it off.
    """

    path: Path | None = None
    paths: dict[str, Path] | None = Field(None, min_length=1)
    distilled: Path | None = None
    sentences: int | None = Field(None, ge=1)
    long_sources: Literal["leave-out", "cut"] = "leave-out"
    source_candidates: int = Field(1, ge=1)
    source_alpha: float = Field(0.2, gt=0)

    @model_validator(mode="after")
    def _one_or_several(self) -> CorpusConfig:
        if (self.path is None) == (self.paths is None):
            raise ValueError(
                "give either 'path' (a corpus directory) or 'paths' (several by name); the other "
                "one may be null"
            )
        if self.paths is not None and self.distilled is not None:
            raise ValueError(
                "'distilled' goes with one 'path'; of several corpora name in 'paths' what `imitkd "
                "data distil` wrote"
            )
        return self

    @property
    def directories(self) -> dict[str, Path]:
        """The corpora by name, in their order."""
        return self.paths or {self.only.name: self.only}

    @property
    def only(self) -> Path:
        """The one corpus, for what is done with one alone.

        Raises:
            UserError: there are several.
        """
        if self.path is None:
            raise UserError(
                f"this is done with one corpus, and corpus.paths names {self.title}; set "
                "corpus.path to one of them and corpus.paths=null, or name it with --corpus where "
                "the command has that"
            )
        return self.path

    @property
    def title(self) -> str:
        """For messages: the path, or the names of several."""
        return str(self.path) if self.path is not None else ", ".join(self.paths or {})


class TeacherConfig(Section):
    """Where teachers answer: from one or more addresses, by corpus, or from a score store.

    Attributes:
        address: host:port, unix:path or file:/path of the scoring service; a list, or several with
            commas between, where replicas serve it.
        routes: by the names of ``corpus.paths``, the address of the teacher that scores the rows of
            this corpus; ``address`` is of the teacher of all others.
        store: directory that `imitkd teacher score-corpus` wrote; nothing is served then.
        timeout_s: past it a call that found no teacher stops the run with everything saved.
        refresh_s: how often names with several addresses and files of them are read again.
        revision: the weights that must answer, all through the run; with ``routes`` by corpus, for
            those that are pinned; unset: those that answer when it begins.
        token_file: file with a bearer token.
        root_certificates: file with the authority that signed the service's certificate.
        client_certificate, client_key: files for a service that asks callers for a certificate.
    """

    address: tuple[str, ...] | None = None
    routes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    store: Path | None = None
    attempt_timeout_s: float = Field(60.0, gt=0)
    timeout_s: float = Field(300.0, gt=0)
    refresh_s: float = Field(30.0, gt=0)
    revision: TeacherRevision = None
    token_file: Path | None = None
    root_certificates: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    @field_validator("address", mode="before")
    @classmethod
    def _several(cls, address: Any) -> Any:
        return [address] if isinstance(address, str) else address

    @field_validator("routes", mode="before")
    @classmethod
    def _several_each(cls, routes: Any) -> Any:
        if not isinstance(routes, dict):
            return {} if routes is None else routes
        return {name: cls._several(address) for name, address in routes.items()}

    @field_validator("address")
    @classmethod
    def _written(cls, address: tuple[str, ...] | None) -> tuple[str, ...] | None:
        try:
            return None if address is None else written_addresses(address)
        except TeacherRefused as error:
            raise ValueError(str(error)) from error

    @field_validator("routes")
    @classmethod
    def _written_each(cls, routes: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        return {name: cls._written(address) or () for name, address in routes.items()}

    @model_validator(mode="after")
    def _one(self) -> TeacherConfig:
        # Not both: pairs that a store lacks would quietly go to the network.
        if (self.address is None and not self.routes) == (self.store is None):
            raise ValueError(
                "give either 'address' (a serving teacher, or 'routes' to several) or 'store' (a "
                "score store); the other one may be null"
            )
        if self.routes and isinstance(self.revision, str):
            raise ValueError("with 'routes' a 'revision' is by corpus: {NAME: REVISION, ...}")
        if not self.routes and isinstance(self.revision, dict):
            raise ValueError("'revision' by corpus goes with 'routes'")
        return self

    @property
    def replicas(self) -> int:
        """Addresses that are written."""
        return len({one for each in (self.address or (), *self.routes.values()) for one in each})

    def of_corpus(self, name: str) -> tuple[tuple[str, ...], str | None]:
        """Address and pinned revision of the teacher that scores a corpus."""
        address = self.routes.get(name, self.address)
        assert address is not None, "checked with the configuration"
        pinned = self.revision
        return address, pinned.get(name) if isinstance(pinned, dict) else pinned
