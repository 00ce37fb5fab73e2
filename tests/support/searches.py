"""Small searches: their data, student, space, and the driver's side of running one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from distiltune.search.config import SearchConfig
from distiltune.search.driver.run_search import TrialInputs, run_search
from distiltune.search.space.students import ONLY_STUDENT, Student
from distiltune.storage.store import Store
from distiltune.training.data.tokenized import LabelledSplit, TokenizedSplit
from distiltune.training.distillation.config import TrainingConfig

NUM_LABELS = 4


OUT_OF_SCOPE = 3


def split(num_rows: int, seed: int) -> TokenizedSplit:
    """Texts of 3 to 8 tokens; the first token determines the label, wrongly in one text of eight."""
    random = np.random.default_rng(seed)
    lengths = random.integers(3, 9, num_rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    labels = random.integers(0, NUM_LABELS, num_rows)
    input_ids = random.integers(10, 40, offsets[-1]).astype(np.int32)
    input_ids[offsets[:-1]] = 2 + np.where(random.random(num_rows) < 1 / 8, (labels + 1) % NUM_LABELS, labels)
    return TokenizedSplit(input_ids, offsets, labels.astype(np.int64), np.arange(num_rows, dtype=np.int64))


def trial_inputs(student: Path) -> TrialInputs:
    """The inputs of every trial; the student's checkpoint and the logits are written to a directory."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=40,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            num_labels=NUM_LABELS,
        )
    )
    model.save_pretrained(student)
    train, validation = split(96, 1), split(48, 2)
    logits = 4 * np.eye(NUM_LABELS, dtype=np.float32)
    logits_file = student / "logits.npy"
    np.save(logits_file, logits[train.labels])
    return TrialInputs(
        students={ONLY_STUDENT: Student(str(student))},
        train={"train": LabelledSplit(train, np.load(logits_file, mmap_mode="r"))},
        validation=validation,
        out_of_scope_id=OUT_OF_SCOPE,
        label_names=["a", "b", "c", "oos"],
    )


TRAINING = TrainingConfig(learning_rate=5e-3, batch_size=16)


def search_config(num_trials: int, **space) -> SearchConfig:
    """A short search in which one of the two learning rates makes its trials diverge."""
    short = {
        "num_train_epochs": {"type": "int", "low": 2, "high": 4},
        "learning_rate": {"type": "choice", "values": [5e-3, 1e30]},
        "weight_decay": 0.0,
    }
    return SearchConfig.model_validate(
        {"num_trials": num_trials, "num_startup_trials": 2, "seed": 4, "space": {**short, **space}}
    )


def linked(inputs: TrialInputs, directory: Path) -> TrialInputs:
    """Link the models that ``inputs`` names by path into a store in ``directory``; returns the inputs with its keys."""
    directory.mkdir(exist_ok=True)
    for name, path in (("student", inputs.students[ONLY_STUDENT].key), ("teacher", inputs.teacher)):
        if path is not None and not (directory / name).exists():
            (directory / name).symlink_to(path)
    students = {**inputs.students, ONLY_STUDENT: Student("student")}
    return replace(inputs, students=students, teacher=inputs.teacher and "teacher")


def search(config: SearchConfig, inputs: TrialInputs, directory: Path, **options):
    """Run a search in ``directory``, into which the models that ``inputs`` names by path are linked."""
    return run_search(
        config,
        options.pop("training", TRAINING),
        linked(inputs, directory),
        store=Store(str(directory)),
        experiment="search",
        tensorboard="tensorboard",
        logs="logs",
        cpus_per_trial=options.pop("cpus", 1),
        gpus_per_trial=0,
        **options,
    )


def logits_of(checkpoint: Path, split: TokenizedSplit) -> torch.Tensor:
    """Logits of the reloaded checkpoint, each text alone, in 32 bits."""
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, dtype="float32").eval()
    rows = [torch.tensor(split.row(row), dtype=torch.int64)[None] for row in range(len(split))]
    with torch.no_grad():
        return torch.cat([model(input_ids=ids).logits for ids in rows])


def accuracy_of(checkpoint: Path, validation: TokenizedSplit) -> float:
    predicted = logits_of(checkpoint, validation).argmax(dim=-1).numpy()
    return float((predicted == validation.labels).mean())
