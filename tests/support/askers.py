"""Questions with contexts that a tiny model learns in seconds, such a model, and SQuAD files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertConfig,
    DistilBertConfig,
    RobertaConfig,
)

from distiltune.training.checkpoints.load import new_classifier, save_checkpoint
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.tokenized import TokenizedDataset
from distiltune.training.distillation.arguments import DistillationTrainingArguments
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.models.token_types import reads_token_types
from distiltune.training.tasks import QUESTION_ANSWERING
from distiltune.training.teacher.from_scratch import train_tokenizer

CITIES = ["berlin", "paris", "new york", "rome", "san juan", "oslo"]
PEOPLE = ["ann", "bo", "eve lee", "max"]
_FRAMES = [
    "Yesterday {name} went to {city} by train.",
    "By train, {name} went to {city}.",
    "To {city} went {name}, and came back.",
    "It was {name} who liked {city} most.",
]
_ASKED = {"who was it?": "name", "where was it?": "city", "why was it?": None}

Row = tuple[str, str, list[list[int]]]


def questions(count: int, *, unanswerable: bool = False) -> list[Row]:
    """Question, context, and answers as in the data's column; the rows of a smaller count are a prefix."""
    asked = list(_ASKED.items())[: 3 if unanswerable else 2]
    rows: list[Row] = []
    for number in range(count):
        place, (question, kind) = number // len(asked), asked[number % len(asked)]
        chosen = {"name": PEOPLE[place % 4], "city": CITIES[(place * 5 + 1) % 6]}
        context = _FRAMES[(place // 4) % 4].format(**chosen)
        if kind is None:
            rows.append((question, context, []))
        else:
            start = context.index(chosen[kind])
            rows.append((question, context, [[start, start + len(chosen[kind])]]))
    return rows


def squad(rows: list[Row]) -> dict[str, Any]:
    """Rows as a file of SQuAD 2.0 has them, each context a paragraph."""
    paragraphs: dict[str, list[dict[str, Any]]] = {}
    for number, (question, context, answers) in enumerate(rows):
        given = [{"text": context[start:end], "answer_start": start} for start, end in answers]
        entry = {"id": f"q{number}", "question": question, "answers": given, "is_impossible": not given}
        paragraphs.setdefault(context, []).append(entry)
    listed = [{"context": context, "qas": qas} for context, qas in paragraphs.items()]
    return {"version": "v2.0", "data": [{"title": "Journeys", "paragraphs": listed}]}


def write_squad(path: Path, rows: list[Row]) -> Path:
    """Write rows as a file of SQuAD."""
    path.write_text(json.dumps(squad(rows)), encoding="utf-8")
    return path


def tiny_asker(
    directory: Path,
    *,
    family: str = "bert",
    steps: int = 200,
    vocab_size: int = 110,
    unanswerable: bool = False,
    max_length: int = 40,
) -> Path:
    """Write a model trained on ``questions`` for some steps; words such as "berlin" have several pieces."""
    rows = questions(96, unanswerable=unanswerable)
    pairs, labels = [(question, context) for question, context, _ in rows], [row[2] for row in rows]
    tokenizer = train_tokenizer([part for pair in pairs for part in pair], vocab_size=vocab_size)
    names: dict[str, Any] = {
        "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": 66,
        **QUESTION_ANSWERING.model_config(["start", "end"]),
    }  # fmt: skip
    wide = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = {
            "bert": lambda: BertConfig(**wide, **names),
            "roberta": lambda: RobertaConfig(**wide, **names, type_vocab_size=1),
            "distilbert": lambda: DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=64, **names),
        }[family]()
        model = new_classifier(config, QUESTION_ANSWERING)
        split = QUESTION_ANSWERING.tokenize_labelled(pairs, labels, tokenizer, max_length)
        args = DistillationTrainingArguments(
            output_dir=str(directory / "work"), alpha=1.0, max_steps=steps, learning_rate=3e-3,
            per_device_train_batch_size=16, report_to="none", use_cpu=True, save_strategy="no",
            logging_strategy="no", disable_tqdm=True,
        )  # fmt: skip
        DistillationTrainer(
            model, args, train_dataset=TokenizedDataset(split), task=QUESTION_ANSWERING,
            data_collator=DistillationCollator(tokenizer.pad_token_id),
        ).train()  # fmt: skip
    save_checkpoint(model.eval(), tokenizer, directory)
    return directory


def _possible_answers(
    student: Path, question: str, context: str, max_length: int
) -> tuple[dict[tuple[int, int], list[float]], float]:
    """The values of every span of every window, and that of no answer, by transformers' model and windows."""
    model: Any = AutoModelForQuestionAnswering.from_pretrained(str(student)).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(str(student))
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True)
    asked = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)
    kept = asked["offset_mapping"][: room // 2]
    question = question[: kept[-1][1]]
    given = tokenizer(
        question, context, truncation="only_second", max_length=max_length, stride=(room - len(kept)) // 3,
        return_overflowing_tokens=True, padding=True, return_tensors="pt", return_token_type_ids=True,
    )  # fmt: skip
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if reads_token_types(model) else [])]
    with torch.inference_mode():
        found = model(**{name: given[name] for name in names})
    every: dict[tuple[int, int], list[float]] = {}
    null = float("inf")
    for row, encoding in enumerate(given.encodings):
        starts, ends = found.start_logits[row].tolist(), found.end_logits[row].tolist()
        null = min(null, starts[0] + ends[0])
        inside = [place for place, sequence in enumerate(encoding.sequence_ids) if sequence == 1]
        for first in inside:
            for last in inside:
                if first <= last < first + 30:
                    span = encoding.offsets[first][0], encoding.offsets[last][1]
                    every.setdefault(span, []).append(starts[first] + ends[last])
    return every, null


def independent_answer(
    student: Path,
    pair: tuple[str, str],
    max_length: int,
    threshold: float | None = None,
    temperature: float = 1.0,
) -> dict[str, Any]:
    """The answer by brute force over PyTorch's logits of transformers' windows, in the runtime's form."""
    every, null = _possible_answers(student, *pair, max_length)
    best = max(every, key=lambda span: max(every[span]))
    weights = {span: sum(np.exp(value / temperature) for value in values) for span, values in every.items()}
    total = sum(weights.values()) + (0.0 if threshold is None else np.exp(null / temperature))
    if threshold is not None and null - max(every[best]) > threshold:
        return {"answer": "", "score": np.exp(null / temperature) / total, "start": 0, "end": 0}
    start, end = best
    inside = pair[1][start:end]  # some tokenizers count the blank before a word as a part of it
    start, end = start + len(inside) - len(inside.lstrip()), end - len(inside) + len(inside.rstrip())
    return {"answer": pair[1][start:end], "score": weights[best] / total, "start": start, "end": end}
