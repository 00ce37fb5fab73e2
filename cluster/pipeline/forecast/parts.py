"""Measure teachers, students and trials for the forecast, each in a process of its own."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ....search.space.space import fixed_values
from ....search.space.students import Student, student_keys, student_name, student_sections
from ....search.student_arguments import STUDENT_KIND
from ....search.trial.inputs import StudentTexts, TrialInputs, TrialSettings
from ....texts import texts_of
from ....training import tasks
from ....training.checkpoints.load import load_classifier, load_tokenizer, save_checkpoint
from ....training.data.analysis.diagnostics import near_duplicates
from ....training.data.tokenized import LabelledSplit
from ....training.data.transfer_set import extra_splits
from ....training.models.runtime import intra_op_threads, quiet
from ....training.ragged import Ragged, flat
from ....training.student.build import build_student
from ....training.student.config import student_section
from ....training.student.kinds.base import StudentInputs
from ....training.student.piece_states import compute_states
from ....training.teacher.initial import InitialTeacher, initial_teacher
from ....training.teacher.logits_cache import logits_key
from ...remote.tasks import Task
from ...remote.teacher_labels import tokenize_for_student
from .cost import BatchCost, tokens_of, training_batches
from .request import BATCH_SIZES, TEACHER, teacher_part
from .stopwatch import Stopwatch
from .training import measure_inference, measure_teacher, measure_training, measure_trials

if TYPE_CHECKING:
    from ...specification.config import JobConfig
    from .request import Point, Request

_SPLITS = "splits.pickle"
_PIECES_MEASURED = 2048
_OWN_SPLITS = "own-splits.pickle"  # texts of the kinds of students with a tokenizer of their own
_MOST_COMPARED = 6000  # texts of the sample on which the search for near-duplicates is timed
Wait = Callable[[], None]


def measure_teacher_part(request: Request, wait: Wait, number: int = 0) -> dict[str, Any]:
    """Measure tokenization, training and labelling of a teacher; save the first and its texts for the other parts.

    Returns:
        ``is_held`` (whether the teacher exists already), ``training`` (result of ``measure_teacher``; None if nothing
        is trained), ``build_s``, ``tokenize_s``, ``save_s``, ``bytes``, ``num_parameters``; by kind of text
        ``labelling_s``, ``num_texts`` and ``logits_bytes``; the kinds whose logits are ``cached``; and
        ``duplicates_s``, 0 except for the first teacher.
    """
    config, data, places = request.config, request.data, request.places
    task, length = tasks.get(config.task), config.training.num_tokens
    watch = Stopwatch()
    initial = _initial(request, number)
    build_s = watch.lap()
    splits = {
        name: task.tokenize(data.splits[name], initial.tokenizer, length) for name in ("train", "validation")
    }
    tokenize_s = watch.lap()
    measured: dict[str, Any] = {"training": None}
    if initial.recipe is not None and TEACHER in request.parts:
        member = config.teacher.members[number]
        measured["training"] = measure_teacher(
            initial,
            splits,
            member.seed,
            places.teacher_threads,
            request.seconds,
            request.work / f"steps-{number}",
            wait,
            config.training.balance,
        )
    folder = request.store.local(teacher_part(number))
    watch.lap()
    save_checkpoint(initial.model.cpu(), initial.tokenizer, folder)
    save_s = watch.lap()
    learned = {**splits, **_transfer_set(request, initial.tokenizer)}
    kinds = {**learned, **_test_split(request, initial.tokenizer)}
    pad = initial.tokenizer.pad_token_id
    labelling = measure_inference(initial.model, kinds, pad, places.teacher_threads, request.seconds / 2)
    num_outputs = task.num_outputs(data.class_names)
    labelled = {
        name: _with_logits(each, num_outputs, of_tokens=task.of_tokens) for name, each in kinds.items()
    }
    num_logits = {
        name: len(flat(each.teacher_logits))
        for name, each in labelled.items()
        if each.teacher_logits is not None
    }
    if number == 0:
        used = config.data.augmentation.num_selected
        kept = {
            name: each.first(used.get(name, len(each))) for name, each in labelled.items() if name in learned
        }
        (request.work / _SPLITS).write_bytes(pickle.dumps(kept))
    return {
        **measured,
        "is_held": request.teachers[number] is not None,
        "build_s": build_s,
        "tokenize_s": tokenize_s,
        "save_s": save_s,
        "bytes": _bytes(folder),
        "num_parameters": initial.model.num_parameters(),
        "labelling_s": labelling,
        "cached": _cached(request, kinds, number),
        "num_texts": {name: len(each) for name, each in kinds.items()},
        "logits_bytes": {
            name: 4 * num_outputs * num_logits[name] + 8 * len(each) for name, each in kinds.items()
        },
        "duplicates_s": _duplicates_s(request) if number == 0 else 0.0,
    }


def measure_student_part(request: Request, points: list[Point]) -> dict[str, Any]:
    """Build the students of the measured trials as the job does, except for pretraining and the teacher's states.

    Returns:
        ``build_s`` of one student; ``num_pieces``, the word pieces that the teacher reads for all students, and the
        ``pieces_s`` that it takes; ``tokenize_s``; ``bytes`` and ``num_parameters`` of the largest student; and
        ``lengths``, the tokens of each training text, by kind.
    """
    config, data, store = request.config, request.data, request.store
    names = {student_name(each.arguments): each for each in points}
    seconds, sizes, counts = [], [], []
    for name, point in names.items():
        watch = Stopwatch()
        section = student_section(config.student, student_keys(point.arguments), store.local(TEACHER))
        section = section.at_low_cost()
        key = request.student_key(names, name)
        with intra_op_threads(1):
            record = build_student(
                section,
                store.local(TEACHER),
                data.class_names,
                store.local(key),
                max_length=config.training.num_tokens,
                texts=(texts_of(data.splits["train"]), data.unlabelled),
                labels=data.splits["train"]["label"][:],
                validation_texts=texts_of(data.splits["validation"]),
                num_threads=1,
                use_gpu=False,
                task=tasks.get(config.task),
            )
        seconds.append(watch.lap())
        sizes.append(_bytes(store.local(key)))
        counts.append(record["num_parameters"])
    watch = Stopwatch()
    splits, own = pickle.loads((request.work / _SPLITS).read_bytes()), {}
    context = Task(store, config, "log", "progress", 1, False, "unfinished")
    for section, _ in student_sections(config.student, config.search.space):
        if section.own_tokenizer:
            of_kind = (name for name in names if _kind(config, names[name]) == section.kind)
            key = request.student_key(names, next(of_kind))
            own[section.kind] = tokenize_for_student(context, data, TEACHER, key, splits)
    if STUDENT_KIND not in config.search.space:
        splits = own.get(config.student.kind, splits)
    (request.work / _SPLITS).write_bytes(pickle.dumps(splits))
    (request.work / _OWN_SPLITS).write_bytes(pickle.dumps(own))
    tokenize_s = watch.lap()
    return {
        "build_s": float(np.mean(seconds)),
        **_reading_pieces(request),
        "tokenize_s": tokenize_s,
        "bytes": max(sizes),
        "num_parameters": max(counts),
        "lengths": {
            name: each.tokens.lengths.tolist() for name, each in splits.items() if name != "validation"
        },
    }


def _reading_pieces(request: Request) -> dict[str, Any]:
    """Return the ``num_pieces`` that the teacher reads to build the students, and the ``pieces_s`` that it takes."""
    config, data, folder = request.config, request.data, request.store.local(TEACHER)
    tokenizer, texts = load_tokenizer(folder), texts_of(data.splits["train"])
    sections = [section for section, _ in student_sections(config.student, config.search.space)]
    # Students with the same pieces share the states, even if their kinds differ.
    read = {tuple(each.pieces_read(tokenizer, texts, data.unlabelled)) for each in sections} - {()}
    if not read:
        return {"num_pieces": 0, "pieces_s": 0.0}
    num_pieces, pieces = sum(map(len, read)), max(read, key=len)
    model, _ = load_classifier(folder, tasks.get(config.task))
    sample = np.asarray(pieces[:: max(1, len(pieces) // _PIECES_MEASURED)])
    compute_states(model, tokenizer, sample[:1], num_threads=request.places.teacher_threads)  # warms up
    watch = Stopwatch()
    compute_states(model, tokenizer, sample, num_threads=request.places.teacher_threads)
    return {"num_pieces": num_pieces, "pieces_s": watch.lap() * num_pieces / len(sample)}


def measure_pretraining_part(request: Request, points: list[Point], wait: Wait) -> dict[str, Any]:
    """Measure steps of a student's pretraining; return its ``pretraining_s``."""
    from ....training.pretraining.pretrain_student import pretraining_trainers

    config, data = request.config, request.data
    largest = max(points, key=lambda point: point.size)
    teacher = request.store.local(TEACHER)
    section = student_section(config.student, student_keys(largest.arguments), teacher)
    pretraining = getattr(section, "pretraining", None)
    if pretraining is None:
        return {"pretraining_s": 0.0}
    texts = texts_of(data.splits["train"])
    before = section.model_copy(update={"pretraining": None, "vocabulary": None})  # trimmed afterwards
    built = before.build(
        StudentInputs(
            teacher,
            data.class_names,
            config.training.num_tokens,
            texts=texts,
            labels=data.splits["train"]["label"][:],
            task=tasks.get(config.task),
        )
    )
    total = 0.0
    with intra_op_threads(request.places.teacher_threads), quiet():
        for trainer, epochs, split in pretraining_trainers(
            built.model,
            built.tokenizer,
            teacher,
            [*texts, *data.unlabelled],
            pretraining,
            max_length=config.training.num_tokens,
            work=request.work / "pretraining",
        ):
            measured = measure_training(trainer, split.lengths, request.seconds, wait)
            batches = training_batches(split.lengths, pretraining.batch_size, pretraining.seed)
            cost = BatchCost.fit(measured["tokens"], measured["seconds"])
            total += epochs * (cost.of(tokens_of(batches, split.lengths)) + measured["save_s"])
    return {"pretraining_s": total}


def measure_trial_part(
    request: Request, points: list[Point], number: int, wait: Wait
) -> list[dict[str, Any]]:
    """Measure trials; ``number`` distinguishes the processes that do so in parallel."""
    config, data = request.config, request.data
    splits, own = (pickle.loads((request.work / name).read_bytes()) for name in (_SPLITS, _OWN_SPLITS))
    if fixed_values(config.search).get("alpha") == 1:
        splits = {name: LabelledSplit(each.tokens) for name, each in splits.items()}
        own = {
            kind: {name: LabelledSplit(each.tokens) for name, each in found.items()}
            for kind, found in own.items()
        }
    names = {student_name(each.arguments): each for each in points}
    inputs = TrialInputs(
        students={name: Student(request.student_key(names, name), {}) for name in names},
        train={kind: each for kind, each in splits.items() if kind != "validation"},
        validation=splits["validation"].tokens,
        out_of_scope_id=data.out_of_scope_id,
        label_names=data.label_names,
        teacher=TEACHER,
        task=config.task,
        respelled={kind: StudentTexts.of(each) for kind, each in own.items()},
    )
    settings = TrialSettings(
        training=_training_of_process(request),
        metric=config.search.metric,
        mode=config.search.mode,
        store=request.store,
        experiment="search",
        tensorboard="tensorboard",
        logs="logs",
        num_threads=request.places.trial_threads,
        use_gpu=torch.cuda.is_available() and config.resources.trial.gpu != 0,
    )
    num_processes = request.places.num_processes
    points = [
        replace(each, arguments=_with_divided_batches(each.arguments, num_processes)) for each in points
    ]
    return measure_trials(points, inputs, settings, request.seconds, request.work / f"trial-{number}", wait)


def _kind(config: JobConfig, point: Point) -> str:
    return point.arguments.get(STUDENT_KIND, config.student.kind)


def _initial(request: Request, number: int) -> InitialTeacher:
    config, task = request.config, tasks.get(request.config.task)
    folder, member = request.teachers[number], config.teacher.members[number]
    if folder is not None:
        model, tokenizer = load_classifier(folder, task)
        return InitialTeacher(model, tokenizer, None, task)
    torch.manual_seed(member.seed)
    return initial_teacher(member, request.data, config.training.num_tokens, task)


def _test_split(request: Request, tokenizer: Any) -> dict[str, Any]:
    """Return the tokenized test split if there are several teachers, which label it to measure each one's accuracy."""
    if request.config.teacher.num_members == 1:
        return {}
    length, task = request.config.training.num_tokens, tasks.get(request.config.task)
    return {"test": task.tokenize(request.data.splits["test"], tokenizer, length)}


def _transfer_set(request: Request, tokenizer: Any) -> dict[str, Any]:
    """Return the tokenized texts of the transfer set, by kind, with missing labels."""
    config, data, task = request.config, request.data, tasks.get(request.config.task)
    if fixed_values(config.search).get("alpha") == 1:
        return {}
    return extra_splits(config.data, data, tokenizer, config.training.num_tokens, task)


def _cached(request: Request, kinds: dict[str, Any], number: int) -> list[str]:
    """Return the kinds of text whose logits are in the cache, or are not needed because alpha is 1."""
    if fixed_values(request.config.search).get("alpha") == 1:
        return list(kinds)
    training = request.config.training
    teacher, folder, length = request.teachers[number], request.logits, training.num_tokens
    if teacher is None or folder is None:
        return []
    return [
        name
        for name, split in kinds.items()
        if (folder / logits_key(teacher, split, length, training.logits_precision)).is_dir()
    ]


def _with_logits(split: Any, num_outputs: int, *, of_tokens: bool) -> LabelledSplit:
    """Return a split with random logits; training on them takes as long as on real ones."""
    num_rows, random = len(split.input_ids) if of_tokens else len(split), np.random.default_rng(0)
    logits = random.standard_normal((num_rows, num_outputs), dtype=np.float32)
    return LabelledSplit(split, Ragged(logits, split.offsets) if of_tokens else logits)


def _duplicates_s(request: Request) -> float:
    """Estimate the seconds of the search for near-duplicates, from a sample if there are many texts."""
    splits = request.data.splits
    total = sum(len(splits[name]) for name in splits)
    share = min(1.0, _MOST_COMPARED / total)
    texts = {str(name): texts_of(splits[name])[: max(1, int(share * len(splits[name])))] for name in splits}
    watch = Stopwatch()
    near_duplicates(texts)
    return watch.lap() / share


def _training_of_process(request: Request) -> Any:
    """Return the training section for one process of a trial, which trains on an equal share of each batch."""
    training, num_processes = request.config.training, request.places.num_processes
    arguments = _with_divided_batches(training.arguments, num_processes)
    return training.model_copy(
        update={"batch_size": max(1, training.batch_size // num_processes), "arguments": arguments}
    )


def _with_divided_batches(arguments: Mapping[str, Any], num_processes: int) -> dict[str, Any]:
    """Return a trial's arguments with batch sizes divided by its number of processes."""
    return {
        name: max(1, int(value) // num_processes) if name in BATCH_SIZES else value
        for name, value in arguments.items()
    }


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
