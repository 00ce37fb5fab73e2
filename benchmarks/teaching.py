"""Compare ways of teaching a student without attention: selected transfer texts, averaged weights, pairs of pieces.

    python benchmarks/teaching.py --job job.yaml --teacher DIR [--teacher DIR ...] --cache DIR [--only NAME ...]
        [--seeds 2] [--pool 3] [--epochs 8] [--json FILE]

The teachers are fine-tuned on the job's data (``cache/teachers/KEY`` of a storage); students learn only the mean of
their logits (alpha 0), on the training texts and on as many transfer texts as the job has. Recipes:

- ``as it is``: the job's transfer texts;
- ``by disagreement``: the generated texts are selected from ``--pool`` times as many candidates, those on which a
  student of ``as it is`` is furthest from the teacher (KL at the job's temperature); ``half by disagreement``: half of
  the generated texts; ``in two rounds``: half of them, and the others with a student that has learnt from these;
- ``least certain``: the generated texts are those candidates for which the mean of the teachers' distributions has the
  highest entropy, as with ``candidates`` in a job; ``all candidates``: all of them;
- ``EMA D``: at the end, the weights are replaced by their exponential moving average with decay D; ``last N epochs``:
  by the mean of the weights after each of the last N epochs;
- ``twice the epochs``; and students of other kinds.

Figures are those of the student in 32 bits: KL from the teacher and in-scope accuracy on the validation split, in-scope
accuracy and accuracy with the threshold (selected on validation by the job's goal) on the test split; means over seeds.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import TrainerCallback

from distiltune.cluster.remote.teacher_labels import SELECTION_TEMPERATURE
from distiltune.cluster.specification.config import load_config
from distiltune.cluster.specification.goal import goal_of
from distiltune.export.out_of_scope.thresholds import answers_with_threshold, choose_threshold
from distiltune.storage.store import Store
from distiltune.texts import TextOrPair
from distiltune.training.checkpoints.load import load_classifier, load_tokenizer
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.text_data import load_data
from distiltune.training.data.tokenized import JoinedDataset, LabelledSplit, selected, tokenize_split
from distiltune.training.data.transfer_set import extra_texts, least_certain
from distiltune.training.distillation.arguments import DistillationTrainingArguments
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.models.inference import compute_logits
from distiltune.training.models.trainable_embedding_rows import train_used_rows
from distiltune.training.ragged import flat
from distiltune.training.student.build import build_student
from distiltune.training.student.config import student_config
from distiltune.training.student.piece_states import StatesCache
from distiltune.training.tasks import SINGLE_LABEL, TASKS
from distiltune.training.teacher.logits_cache import teacher_logits

CONVOLUTION = {"kind": "convolution", "hidden_size": 64, "num_filters": 512, "pooling": "max"}
STATIC = {"kind": "static", "hidden_size": 64}


@dataclass(frozen=True)
class Recipe:
    """A way of teaching a student.

    Attributes:
        student: Section ``student`` of the job.
        chosen: Share of the generated texts that are selected by disagreement, 0 to 1.
        rounds: Number of students that select them, each after the texts of those before it.
        least_certain: Whether they are selected by the teachers' entropy.
        pool: Whether all candidates are used.
        epochs: Factor of the number of epochs.
        average: Creates the callback that averages weights; None: they are not averaged.
    """

    student: dict[str, Any] = field(default_factory=lambda: CONVOLUTION)
    chosen: float = 0.0
    rounds: int = 1
    least_certain: bool = False
    pool: bool = False
    epochs: float = 1.0
    average: Callable[[], Averaged] | None = None


class Averaged(TrainerCallback):
    """Replace the weights by their average when training ends.

    Args:
        decay: Decay of the exponential moving average over steps; None: the mean of the weights after the last epochs.
        last: Number of these epochs.
    """

    def __init__(self, decay: float | None = None, last: int = 0) -> None:
        self.decay, self.last, self.count = decay, last, 0
        self.mean: dict[str, torch.Tensor] = {}

    def _add(self, model: Any, share: float) -> None:
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.mean.setdefault(name, value.clone()).lerp_(value, share)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Update the moving average, faster in the first steps."""
        if self.decay is not None:
            step = state.global_step
            self._add(given["model"], 1 - min(self.decay, (1 + step) / (10 + step)))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Add the weights after one of the last epochs."""
        if self.decay is None and round(state.epoch) > args.num_train_epochs - self.last:
            self.count += 1
            self._add(given["model"], 1 / self.count)

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Load the average."""
        given["model"].load_state_dict(self.mean, strict=False)


RECIPES = {
    "as it is": Recipe(),
    "by disagreement": Recipe(chosen=1.0),
    "half by disagreement": Recipe(chosen=0.5),
    "by disagreement, in two rounds": Recipe(chosen=1.0, rounds=2),
    "least certain": Recipe(least_certain=True),
    "all candidates": Recipe(pool=True),
    "EMA 0.99": Recipe(average=lambda: Averaged(0.99)),
    "EMA 0.999": Recipe(average=lambda: Averaged(0.999)),
    "last 3 epochs": Recipe(average=lambda: Averaged(last=3)),
    "twice the epochs": Recipe(epochs=2.0),
    "static": Recipe(STATIC),
    "static, 16,384 pairs": Recipe({**STATIC, "hashed_bigrams": 16384}),
    "static, 65,536 pairs": Recipe({**STATIC, "hashed_bigrams": 65536}),
    "static of 128, 16,384 pairs": Recipe({**STATIC, "hidden_size": 128, "hashed_bigrams": 16384}),
}


class Bench:
    """The texts with the teachers' logits, and students taught by recipes."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.config = load_config(given.job, [])
        self.data = load_data(self.config.data)
        goal, outside = goal_of(self.config, self.data), self.data.out_of_scope_id
        assert goal is not None and outside is not None, "the job's data has an out-of-scope label"
        self.goal, self.outside = goal, outside
        self.tokenizer = load_tokenizer(given.teacher[0])
        self.cache = Path(given.cache)
        self.train = self._labelled("train")
        self.held = {split: self._labelled(split) for split in ("validation", "test")}
        made = self.config.data.augmentation
        self.texts = extra_texts(self.config.data, self.data)
        more = {
            name: getattr(made, name).model_copy(update={"count": given.pool * getattr(made, name).count})
            for name in ("spliced", "dropped")
        }
        wide = self.config.data.model_copy(update={"augmentation": made.model_copy(update=more)})
        self.pool = {name: texts for name, texts in extra_texts(wide, self.data).items() if name in more}
        self.extra = {name: self._with_logits(texts) for name, texts in self.texts.items()}
        self.base: Any = None

    def _labelled(self, split: str) -> LabelledSplit:
        rows = self.data.splits[split]
        return self._with_logits(rows["text"][:], np.asarray(rows["label"][:]))

    def _with_logits(self, texts: Sequence[TextOrPair], labels: np.ndarray | None = None) -> LabelledSplit:
        tokens = tokenize_split(texts, labels, self.tokenizer, self.config.training.num_tokens)
        found = [
            teacher_logits(
                Path(each), tokens, max_length=self.config.training.num_tokens, cache_dir=self.cache / "logits",
                num_threads=self.given.threads,
            ).logits
            for each in self.given.teacher
        ]  # fmt: skip
        mean = np.mean([flat(each) for each in found], axis=0, dtype=np.float32)  # float32[N, C]
        return LabelledSplit(tokens, np.asarray(mean))

    def taught(self, recipe: Recipe, seed: int, transfer: list[LabelledSplit]) -> Any:
        """Teach a student by a recipe; return it in evaluation mode."""
        training, names = self.config.training, self.data.class_names
        with tempfile.TemporaryDirectory() as work:
            start = Path(work) / "start"
            section = student_config(**recipe.student, seed=seed)
            states = StatesCache(Store(str(self.cache)), "states")
            build_student(
                section,
                Path(self.given.teacher[0]),
                names,
                start,
                num_threads=self.given.threads,
                states=states,
            )
            model, _ = load_classifier(start)
            splits = [self.train, *transfer]
            train_used_rows(model, np.concatenate([each.tokens.input_ids for each in splits]))
            args = DistillationTrainingArguments(
                output_dir=work, num_train_epochs=round(recipe.epochs * self.given.epochs), alpha=0.0,
                temperature=training.temperature, learning_rate=3e-3, per_device_train_batch_size=128, seed=seed,
                save_strategy="no", eval_strategy="no", logging_strategy="no",
                report_to="none", disable_tqdm=True, use_cpu=True, bf16=False,
            )  # fmt: skip
            trainer = DistillationTrainer(
                model=model,
                args=args,
                train_dataset=JoinedDataset(splits),
                data_collator=DistillationCollator(self.tokenizer.pad_token_id),
                callbacks=[recipe.average()] if recipe.average else [],
            )
            trainer.train()
        return model.eval()

    def chosen(self, share: float, rounds: int) -> list[LabelledSplit]:
        """Return the transfer set, with a share of the generated texts selected by the students' disagreement."""
        own = {name: len(self.extra[name]) for name in self.pool}
        wide = {name: self._with_logits(texts) for name, texts in self.pool.items()}
        # The job's own texts are the first candidates.
        rows = {name: np.arange(num - round(share * num)) for name, num in own.items()}
        transfer = list(self.extra.values())
        for number in range(1, rounds + 1):
            student = self._base() if number == 1 else self._taught_before(transfer)
            for name, split in wide.items():
                distance = self.distances(student, split)
                others = np.setdiff1d(np.arange(len(split)), rows[name])
                num_more = own[name] - round(share * own[name] * (1 - number / rounds)) - len(rows[name])
                more = others[np.argsort(-distance[others], kind="stable")[:num_more]]
                rows[name] = np.concatenate([rows[name], more])
            transfer = [each for name, each in self.extra.items() if name not in self.pool]
            transfer += [_rows_of(split, rows[name]) for name, split in wide.items()]
        return transfer

    def least_certain(self) -> list[LabelledSplit]:
        """Return the transfer set with the candidates that the teachers are least certain about."""
        found = [each for name, each in self.extra.items() if name not in self.pool]
        for name, texts in self.pool.items():
            split = self._with_logits(texts)
            logits = np.asarray(split.teacher_logits) / SELECTION_TEMPERATURE
            probabilities = TASKS["single_label"].class_probabilities(logits)
            assert probabilities is not None
            found.append(_rows_of(split, least_certain(probabilities, len(self.extra[name]))))
        return found

    def _base(self) -> Any:
        if self.base is None:
            self.base = self._taught_before(list(self.extra.values()))
        return self.base

    def _taught_before(self, transfer: list[LabelledSplit]) -> Any:
        return self.taught(Recipe(), self.given.first_seed - 1, transfer)

    def logits(self, student: Any, split: LabelledSplit) -> np.ndarray:
        """Return the student's logits float32[N, C]."""
        pad = self.tokenizer.pad_token_id
        return flat(compute_logits(student, split.tokens, pad_token_id=pad, num_threads=self.given.threads))

    def distances(self, student: Any, split: LabelledSplit) -> np.ndarray:
        """Return KL(teacher ‖ student) of each text at the job's temperature, float[N]."""
        temperature = self.config.training.temperature
        own = torch.from_numpy(self.logits(student, split)).div(temperature).log_softmax(-1)
        taught = torch.tensor(np.asarray(split.teacher_logits)).div(temperature).log_softmax(-1)
        return (taught.exp() * (taught - own)).sum(-1).numpy()

    def measured(self, student: Any) -> dict[str, float]:
        """Return the figures of a student."""
        logits = {split: self.logits(student, each) for split, each in self.held.items()}
        labels = {split: np.asarray(each.tokens.labels) for split, each in self.held.items()}
        predicted = {split: each.argmax(-1) for split, each in logits.items()}
        scope = SINGLE_LABEL.out_of_scope
        assert scope is not None
        threshold = choose_threshold(
            scope, logits["validation"], labels["validation"], self.outside, self.goal
        )
        answers = answers_with_threshold(scope, threshold, logits["test"], self.outside)
        known = {split: each != self.outside for split, each in labels.items()}
        return {
            "KL": float(self.distances(student, self.held["validation"]).mean()),
            "validation": _share(predicted, labels, known, "validation"),
            "test": _share(predicted, labels, known, "test"),
            "with threshold": float((answers == labels["test"]).mean()),
        }

    def run(self, recipe: Recipe, seed: int) -> dict[str, float]:
        """Teach a student by a recipe and measure it."""
        transfer = list(self.extra.values())
        if recipe.chosen:
            transfer = self.chosen(recipe.chosen, recipe.rounds)
        elif recipe.least_certain:
            transfer = self.least_certain()
        elif recipe.pool:
            transfer = [each for name, each in self.extra.items() if name not in self.pool]
            transfer += [self._with_logits(texts) for texts in self.pool.values()]
        began = time.monotonic()
        student = self.taught(recipe, seed, transfer)
        return {**self.measured(student), "seconds": time.monotonic() - began}


def _rows_of(split: LabelledSplit, rows: np.ndarray) -> LabelledSplit:
    assert split.teacher_logits is not None
    return LabelledSplit(selected(split.tokens, rows.tolist()), split.teacher_logits[rows])


def _share(predicted: Any, labels: Any, known: Any, split: str) -> float:
    return float((predicted[split] == labels[split])[known[split]].mean())


def main() -> None:
    """Teach and measure students; print a line of JSON for each to stderr, and the table to stdout."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--job", required=True, help="job file")
    parser.add_argument(
        "--teacher", action="append", required=True, metavar="DIR", help="a fine-tuned teacher"
    )
    parser.add_argument("--cache", required=True, metavar="DIR", help="for logits and states of word pieces")
    parser.add_argument("--only", nargs="*", metavar="NAME", choices=list(RECIPES), help="only these recipes")
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=42, help="first seed")
    parser.add_argument("--pool", type=int, default=3, help="candidates for each generated text")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of a student")
    parser.add_argument("--threads", type=int, default=1, help="intra-op threads")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(given.threads)
    bench, found = Bench(given), {}
    for name in given.only or RECIPES:
        found[name] = []
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            found[name].append(bench.run(RECIPES[name], seed))
            print(json.dumps({"recipe": name, "seed": seed, **found[name][-1]}), file=sys.stderr, flush=True)
            if given.json:
                given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    columns = list(next(iter(found.values()))[0])
    print(f"| recipe | {' | '.join(columns)} |\n| --- |{' ---: |' * len(columns)}")
    for name, rows in found.items():
        means = [statistics.mean(row[column] for row in rows) for column in columns]
        print(f"| {name} | {' | '.join(f'{value:.4f}' for value in means[:-1])} | {means[-1]:.0f} |")


if __name__ == "__main__":
    main()
