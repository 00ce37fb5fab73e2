"""Write the file of a new job from an inspection of its data."""

from __future__ import annotations

import os
import re
import shlex
import textwrap
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DataError, shown
from ...texts import TextOrPair, num_characters, texts_of
from ...training.data.analysis.few_labels import FEW_TEXTS, FewLabels, few_labels
from ...training.data.analysis.guess import ColumnGuess, guess_columns, guess_out_of_scope, rare_labels
from ...training.tasks import SINGLE_LABEL, TASKS
from .config import JobConfig
from .for_task import few_labels_in_words
from .printing import as_yaml

if TYPE_CHECKING:
    from ...training.data.text_data import TextData

_OFFLINE = "offline:all-MiniLM-L6-v2"
_ON_THE_HUB = "sentence-transformers/all-MiniLM-L6-v2"
_LAYERS = [0, 2, 5]  # of the encoder's six layers
_SMALL = 5000  # training texts; with fewer, a training takes only minutes
_TEACHER_CHARACTERS = 3_400_000  # read by a fine-tuning: five epochs of 15,000 texts of 45 characters
_STUDENT_CHARACTERS = 6_100_000  # read by the longest trial: nine epochs of these texts
_RARE = 10  # a label with fewer texts is rare
_SKEWED = 20  # ratio of the most to the least frequent label, above which balancing is suggested
_WIDTH = 100


@dataclass(frozen=True)
class NewJob:
    """A job for the user's own data.

    Attributes:
        content: The commented YAML file.
        summary: Findings about the data, one line each.
    """

    content: str
    summary: list[str]


def new_job(
    data: str, path: Path, *, text: str | None = None, label: str | None = None, pair: str | None = None
) -> NewJob:
    """Inspect a file of labelled texts, and write a job for it.

    Args:
        data: Path of a file or folder that ``data.train`` can name.
        path: The job's file; the path of the data in it is relative to its directory.
        text: Column with the text; None to guess it.
        label: Column with the label; None to guess it.
        pair: Column with the second text of each pair; None to guess it, unless ``text`` is given.

    Raises:
        DataError: The data cannot be read, or its columns cannot be guessed; the message names the remedy.
    """
    from ...training.data.config import data_config
    from ...training.data.sources.table import open_table
    from ...training.data.text_data import load_data

    guess = guess_columns(open_table(data, parameter="DATA"), text, label, pair)
    section: dict[str, Any] = {"source": "files", "train": data}
    section |= {"text_column": guess.text, **_label_keys(guess)}
    if guess.pair is not None:
        section["text_pair_column"] = guess.pair
    kind = TASKS[guess.task].label_kind
    try:
        loaded = load_data(data_config(**section), kind)
    except DataError as error:
        raise DataError(_of_init(str(error))) from error
    outside = guess_out_of_scope(loaded.label_names) if kind.has_out_of_scope else None
    if outside is not None:
        section["out_of_scope_label"] = outside
    written = {**section, "train": _relative(data, path.parent)}
    values = _values(written, texts_of(loaded.splits["train"]))
    config = JobConfig.model_validate({**_task(guess), **values})
    task, few = TASKS[guess.task], few_labels(loaded)
    summary = list(_summary(loaded, guess, outside, few))
    content = as_yaml(config)
    if few is not None and few.are_most:
        summary.append(few_labels_in_words(few, task, config.data, config.teacher))
        content = _with_pairs_hint(content) if task.shares_labels else content
    if guess.task == SINGLE_LABEL.name and (ratio := _skew(loaded)) > _SKEWED:
        content = _with_balance_hint(content, ratio)
    return NewJob(f"{_header(data, path, summary)}\n{content}", summary)


def _of_init(message: str) -> str:
    """Return the message of an error in the data with the options of ``init`` for keys of a job."""
    for key, option in (
        ("label_column", "--label"),
        ("text_column", "--text"),
        ("text_pair_column", "--text-pair"),
    ):
        message = re.sub(rf"\bdata\.{key}\b", option, message)
    if re.search(r"\bset task: |\bdata\.\w", message):
        message += (
            "; for keys without an option of init, write the job by hand: see distiltune config --reference"
        )
    return message


def _label_keys(guess: ColumnGuess) -> dict[str, Any]:
    """Return the keys of ``data`` that locate the labels."""
    if guess.labels:
        return {"label_columns": guess.labels}
    separator = {} if guess.separator is None else {"label_separator": guess.separator}
    return {"label_column": guess.label, **separator}


def _task(guess: ColumnGuess) -> dict[str, str]:
    """Return the key ``task`` unless it is the default."""
    return {} if guess.task == SINGLE_LABEL.name else {"task": guess.task}


def _values(data: dict[str, Any], texts: list[TextOrPair]) -> dict[str, Any]:
    from ...training.checkpoints.offline import is_missing

    is_small = len(texts) < _SMALL
    most_epochs = _epochs(_STUDENT_CHARACTERS, texts, fewest=2, most=10)
    return {
        "data": data,
        "teacher": {
            "fine_tune": {
                "checkpoint": _ON_THE_HUB if is_missing(_OFFLINE) else _OFFLINE,
                "num_train_epochs": _epochs(_TEACHER_CHARACTERS, texts, fewest=2, most=5),
                "learning_rate": 2e-4,
                "batch_size": 32,
            }
        },
        "student": {"layers": _LAYERS},
        "training": {
            "learning_rate": 6e-4,
            "batch_size": 32 if is_small else 128,
        },
        "search": {
            "num_trials": 8 if is_small else 4,
            "num_startup_trials": 4,
            "space": {
                "num_train_epochs": {"type": "int", "low": (most_epochs + 1) // 2, "high": most_epochs}
            },
        },
    }


def _epochs(num_read: int, texts: list[TextOrPair], *, fewest: int, most: int) -> int:
    """Return the number of epochs, within limits, in which a training reads about ``num_read`` characters."""
    return min(most, max(fewest, round(num_read / max(sum(map(num_characters, texts)), 1))))


def _skew(data: TextData) -> float:
    """Return the ratio of the training texts of the most frequent label to those of the rarest."""
    counts = Counter(data.splits["train"]["label"][:])
    return max(counts.values()) / min(counts.values())


def _with_balance_hint(content: str, ratio: float) -> str:
    """Return a job with a comment at the head of ``training`` that proposes ``balance``."""
    head = "training:\n"
    before, _, after = content.partition(f"\n{head}")
    hint = f"""  # One label has {ratio:,.0f} times the texts of another. `class_weights` gives rare labels more weight;
  # `sampler` draws every label equally often. Both raise the recall of rare labels and may lower the accuracy.
  # balance: class_weights
"""
    return f"{before}\n{head}{hint}{after}"


def _with_pairs_hint(content: str) -> str:
    """Return a job with a comment at the head of ``teacher.fine_tune`` that proposes ``contrastive``."""
    head = "  fine_tune:\n"
    before, _, after = content.partition(head)
    hint = f"""    # Most labels have fewer than {FEW_TEXTS} texts: fine-tune on pairs of texts first.
    # contrastive: {{}}
"""
    return f"{before}{head}{hint}{after}"


def _summary(data: TextData, guess: ColumnGuess, outside: str | None, few: FewLabels | None) -> Iterator[str]:
    where = f"label: column {shown(guess.label)}"
    if guess.labels:
        where = f"labels: columns {', '.join(map(shown, guess.labels[:10]))}{', …' if len(guess.labels) > 10 else ''}"
    elif guess.separator is not None:
        where = f"labels: column {shown(guess.label)}, divided by {shown(guess.separator)}"
    second = "" if guess.pair is None else f", with that of column {shown(guess.pair)} as a pair"
    yield f"text: column {shown(guess.text)}{second}; {where}"
    if guess.task != SINGLE_LABEL.name:
        yield f"task: {guess.task}, {TASKS[guess.task].description}"
    if guess.others:
        yield f"not used: {', '.join(map(shown, guess.others[:10]))}"
    stored = [label for split in data.splits.values() for label in split["label"][:]]
    named = data.label_kind.counts(stored, data.label_names)
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in data.splits.items())
    if (own_summary := data.label_kind.summary(stored, data.label_names)) is not None:
        yield f"{own_summary} ({sizes})"
        return
    if named is None:
        yield f"{len(stored):,} texts ({sizes}), {len(data.label_names):,} number(s) a text"
        return
    counts = Counter(named)
    yield f"{len(stored):,} texts ({sizes}), {len(counts):,} labels"
    (most, num_most), (least, num_least) = counts.most_common()[0], counts.most_common()[-1]
    yield f"most texts: {shown(most)} ({num_most:,}); fewest: {shown(least)} ({num_least:,})"
    if outside is not None:
        yield f"{shown(outside)} is taken for the out-of-scope label"
    rare = rare_labels(counts, _RARE)
    if rare and not (few is not None and few.are_most):  # else nearly all would be left out
        some = ", ".join(f"{shown(name)} {count}" for name, count in list(rare.items())[:5])
        yield (
            f"{len(rare):,} label{'s have' if len(rare) > 1 else ' has'} fewer than {_RARE} texts ({some}); "
            f"data.min_examples_per_label: {_RARE} with data.rare: drop or other leaves them out"
        )


def _header(data: str, path: Path, summary: list[str]) -> str:
    lines = [f"A job for {data}, written after a look at it:", *(f"  {line}" for line in summary)]
    lines += [f"Run it: distiltune run {shlex.quote(path.name)}. All keys: distiltune config --reference."]
    wrapped = (textwrap.wrap(line, _WIDTH, subsequent_indent="    ") for line in lines)
    return "".join(f"# {line}\n" for each in wrapped for line in each)


def _relative(data: str, directory: Path) -> str:
    """Return a path relative to the job's directory; an absolute one stays absolute."""
    path = Path(data).expanduser()
    return str(path) if path.is_absolute() else os.path.relpath(path.absolute(), directory.absolute())
