"""Building the collaborators of a run from its configuration; the same in every process."""

from __future__ import annotations

import contextlib
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

import torch

from seq2seq.checkpoint import (
    atomic_directory,
    check_device,
    load_model_directory,
    load_model_vocabulary,
)
from seq2seq.corpus import Example, stream_split
from seq2seq.errors import UserError
from seq2seq.model import Seq2SeqModel, build_model
from seq2seq.rouge import make_scorer
from seq2seq.vocabulary import SentencePieceVocabulary, Vocabulary, load_vocabulary
from student_trainer.config import InitialiseConfig, RunConfig
from student_trainer.data_parallel import Group
from student_trainer.determinism import prepare_process
from student_trainer.learner import Learner
from student_trainer.references import require_target_text
from student_trainer.rollout_worker import RolloutWorker
from student_trainer.run_directory import RunDirectory
from student_trainer.served_vocabulary import served_vocabulary
from student_trainer.stored_scores import require_pairs
from student_trainer.targets import training_examples
from student_trainer.teacher_head import TeacherHead
from student_trainer.teachers import AnyTeacher, RoutedTeachers, make_teacher, one_teacher
from student_trainer.training_data import TrainingData
from student_trainer.writers import make_writer
from teacher_service.projection import OutputProjection
from teacher_service.score_store.stored_teacher import StoredTeacher


def make_vocabulary(config: RunConfig) -> Vocabulary:
    """The vocabulary named by the configuration, or a new one trained on the training pairs.

    Raises:
        UserError: it cannot be read, or trained on so little text.
        TeacherError: the teacher whose vocabulary is wanted is absent past its deadline.
    """
    if config.vocabulary.from_ is not None:
        return load_model_vocabulary(config.vocabulary.from_)
    if config.vocabulary.served:
        assert config.teacher is not None
        with contextlib.closing(one_teacher(config.teacher, None)) as teacher:
            return served_vocabulary(teacher)
    assert config.vocabulary.size is not None
    require_target_text(training_examples(config), config.corpus.title)
    sources = (e.source for e in training_examples(config))
    targets = (r for e in training_examples(config) for r in e.references)
    return SentencePieceVocabulary.train(chain(sources, targets), config.vocabulary.size)


def make_model(config: RunConfig, vocabulary: Vocabulary) -> Seq2SeqModel:
    """The student as it starts: random by the run's seed, or from layers of another model.

    Raises:
        UserError: the model section is not valid, or the layers do not fit.
    """
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = build_model(_shape(config, vocabulary))
    if config.initialise is not None:
        copy_layers(model, vocabulary, config.initialise)
    return model


def _shape(config: RunConfig, vocabulary: Vocabulary) -> dict[str, Any]:
    """The model section with what follows from the vocabulary."""
    ids = {"pad_id": vocabulary.pad_id, "eos_id": vocabulary.eos_id}
    ids |= {"start_id": vocabulary.start_id, "vocab_size": vocabulary.size}
    return config.model | ids


def student_bytes(config: RunConfig, vocabulary: Vocabulary) -> int:
    """Size of one version of the student's weights, float32.

    Raises:
        UserError: the model section is not valid.
    """
    with torch.device("meta"):
        model = build_model(_shape(config, vocabulary))
    return 4 * model.parameter_count()


def copy_layers(model: Seq2SeqModel, vocabulary: Vocabulary, source: InitialiseConfig) -> None:
    """Start from a model directory or chosen layers of it; what is in no layer comes along.

    A side without chosen layers stays as it is: a recurrent decoder behind a copied encoder, say.

    Raises:
        UserError: another vocabulary, a layer that is not there, or another shape.
    """
    directory = load_model_directory(source.from_)
    if directory.vocabulary.fingerprint != vocabulary.fingerprint:
        raise UserError(
            f"initialise.from {source.from_} has another vocabulary than the run; set "
            f"vocabulary.from to it as well"
        )
    named = {"encoder_layers": source.encoder_layers, "decoder_layers": source.decoder_layers}
    chosen = {part: layers for part, layers in named.items() if layers is not None}
    given = directory.model.state_dict()
    state = {k: v for k, v in given.items() if k.split(".")[0] not in chosen}
    for part, layers in chosen.items():
        if not layers:
            state |= {k: v for k, v in model.state_dict().items() if k.split(".")[0] == part}
        for new, old in enumerate(layers):
            found = {k: v for k, v in given.items() if k.startswith(f"{part}.{old}.")}
            if not found:
                raise UserError(f"initialise.{part}: {source.from_} has no layer {old} (from 0)")
            prefix = f"{part}.{old}."
            state |= {f"{part}.{new}.{k.removeprefix(prefix)}": v for k, v in found.items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"initialise.from {source.from_} does not fit the model section: one entry for each "
            f"layer and the same widths are needed ({reason})"
        ) from error


def make_worker(
    config: RunConfig, vocabulary: Vocabulary, data: TrainingData, teacher: AnyTeacher | None
) -> RolloutWorker:
    """A worker with a student of its own; its weights come with the first version.

    Raises:
        UserError: the engine of ``rollout.engine`` is not there.
        TeacherStoreError: a score store lacks pairs of the training data.
    """
    if isinstance(teacher, StoredTeacher):
        require_pairs(teacher, data.split, config.corpus.only)
    prepare_process(config.deterministic)
    blank = config.model_copy(update={"initialise": None})
    writer = None
    if config.workers_need_student:
        writer = make_writer(config, make_model(blank, vocabulary).eval())
    return RolloutWorker(config, data.split, data.plan, writer, teacher)


def make_learner(
    config: RunConfig, vocabulary: Vocabulary, run: RunDirectory, group: Group | None = None
) -> Learner:
    """The learner with its student and the validation pairs.

    Args:
        group: the learner's processes, which this one leads; None: it is the only one.
    """
    check_device(config.device)
    prepare_process(config.deterministic)
    if config.validation.metric == "rouge":
        make_scorer()  # told now rather than at the first validation
    examples = validation_examples(config)
    head = make_teacher_head(config, vocabulary)
    model = make_model(config, vocabulary)
    return Learner(config, model, vocabulary, examples, run, head=head, group=group)


def make_teacher_head(config: RunConfig, vocabulary: Vocabulary) -> TeacherHead | None:
    """The teacher's output projection, fetched from it; None where no states travel.

    Raises:
        TeacherError: the teacher is absent past its deadline or gives no projection.
    """
    if not config.asks_teacher or config.payload != "hidden":
        return None
    teacher = make_teacher(config, vocabulary)
    assert teacher is not None and not isinstance(teacher, RoutedTeachers)
    with contextlib.closing(teacher):
        projection = OutputProjection.of(teacher.artifact("output_projection"))
    return TeacherHead.of(projection, config.device)


def validation_examples(config: RunConfig) -> list[Example]:
    """The first ``validation.sentences`` pairs of the validation split; of several corpora each
    gives one in turn.

    Raises:
        UserError: the split is not there, or has sentences without references.
    """
    splits = [stream_split(path, "validation") for path in config.corpus.directories.values()]
    in_turn = (e for each in zip_longest(*splits) for e in each if e is not None)
    examples = list(islice(in_turn, config.validation.sentences))
    bare = sum(not e.references for e in examples)
    if bare:
        raise UserError(
            f"{config.corpus.title} validation has {bare} sentences without references, which "
            "cannot be scored; add references, or have the teacher write some (`imitkd data "
            "distil`)"
        )
    return examples


def prepare_vocabulary(config: RunConfig, run: Path) -> Vocabulary:
    """The run's vocabulary, kept in ``run/vocabulary`` so that all its processes share one."""
    directory = run / "vocabulary"
    if directory.is_dir():
        return load_vocabulary(directory)
    vocabulary = make_vocabulary(config)
    with atomic_directory(directory) as fresh:
        vocabulary.save(fresh)
    return vocabulary
