"""Damaged checkpoints of the teacher, the encoder and the student; the error names the key of the checkpoint."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distiltune.training.student.config import StudentConfig
from distiltune.training.teacher.config import FineTuneConfig, TeacherConfig

from .case import Case
from .damages import ABSENT, Damage, both, cut, edit_json, fifo, folder, link, remove, write
from .goods import job
from .paths import write_job
from .schema import Field, field

CONFIG, WEIGHTS = "checkpoint/config.json", "checkpoint/model.safetensors"
TOKENIZER, TOKENIZER_CONFIG = "checkpoint/tokenizer.json", "checkpoint/tokenizer_config.json"
INDEX = "checkpoint/model.safetensors.index.json"

TEACHER = field(TeacherConfig, "checkpoint")
OTHERS = {
    field(FineTuneConfig, "checkpoint"): {"teacher": {"fine_tune": {"checkpoint": "checkpoint"}}},
    field(StudentConfig, "checkpoint"): {"student": {"checkpoint": "checkpoint"}, "teacher": {}},
}


def weights(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change the tensors of the checkpoint, a dictionary by name, in place."""

    def damage() -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(WEIGHTS)
        change(tensors)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, WEIGHTS, {"format": "pt"})

    return damage


def header(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change the header of the weight file, in place, without changing the tensors' bytes."""

    def damage() -> None:
        content = Path(WEIGHTS).read_bytes()
        size = struct.unpack("<Q", content[:8])[0]
        document = json.loads(content[8 : 8 + size])
        change(document)
        made = json.dumps(document).encode()
        Path(WEIGHTS).write_bytes(struct.pack("<Q", len(made)) + made + content[8 + size :])

    return damage


def _first(names: dict[str, Any], part: str) -> str:
    return next(name for name in names if part in name)


def _fill(part: str, value: float) -> Callable[[dict[str, Any]], object]:
    return lambda tensors: tensors[_first(tensors, part)].fill_(value)


def _drop(part: str) -> Callable[[dict[str, Any]], object]:
    return lambda tensors: [tensors.pop(name) for name in list(tensors) if part in name]


def _reshaped(part: str) -> Callable[[dict[str, Any]], object]:
    return lambda tensors: tensors.update({_first(tensors, part): tensors[_first(tensors, part)][:-1]})


def _sharded(file: str) -> Damage:
    """Replace the weight file by a shard index that refers to ``file`` for all tensors."""

    def damage() -> None:
        from safetensors.torch import load_file

        names = list(load_file(WEIGHTS))
        Path(WEIGHTS).rename("checkpoint/model-1.safetensors")
        index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, file)}
        Path(INDEX).write_text(json.dumps(index), encoding="utf-8")

    return damage


def _renamed(source: str, target: str) -> Damage:
    return lambda: Path(source).rename(target)


WHOLE: dict[str, Damage] = {
    "empty-folder": folder("checkpoint"),
    "a-file": write("checkpoint", "text"),
    "a-pipe": fifo("checkpoint"),
    "no-config": remove(CONFIG),
    "no-weights": remove(WEIGHTS),
    "pickled-weights": _renamed(WEIGHTS, "checkpoint/pytorch_model.bin"),
    "weights-folder": folder(WEIGHTS),
    "weights-pipe": fifo(WEIGHTS),
    "weights-endless": link(WEIGHTS, "/dev/zero"),
    "weights-dangling": link(WEIGHTS, "nowhere"),
    "weights-empty": write(WEIGHTS, ""),
    "weights-text": write(WEIGHTS, "weights"),
    "weights-cut": cut(WEIGHTS),
    "weights-cut-in-header": cut(WEIGHTS, 0.001),
    "weights-cut-at-end": cut(WEIGHTS, 0.99),
    "weights-huge-header": write(WEIGHTS, struct.pack("<Q", 2**62) + b"{}"),
    "weights-header-no-json": write(WEIGHTS, struct.pack("<Q", 4) + b"{{{{" + bytes(8)),
    "weights-header-list": write(WEIGHTS, struct.pack("<Q", 2) + b"[]"),
    "weights-none": write(WEIGHTS, struct.pack("<Q", 2) + b"{}"),
    "weights-other-dtype": header(lambda names: names[_first(names, "weight")].update(dtype="F99")),
    "weights-offsets-outside": header(
        lambda names: names[_first(names, "weight")].update(data_offsets=[0, 1 << 40])
    ),
    "weights-offsets-fall": header(lambda names: names[_first(names, "weight")].update(data_offsets=[64, 0])),
    "weights-shape-lies": header(lambda names: names[_first(names, "word_embeddings")].update(shape=[7, 7])),
    "weights-nan": weights(_fill("word_embeddings", float("nan"))),
    "weights-infinite": weights(_fill("layer.0", float("inf"))),
    "weights-mis-shaped": weights(_reshaped("layer.0.attention")),
    "weights-table-short": weights(_reshaped("word_embeddings")),
    "weights-head-mis-shaped": weights(_reshaped("classifier.weight")),
    "weights-no-head": weights(_drop("classifier")),
    "weights-no-layer": weights(_drop("layer.1")),
    "weights-no-table": weights(_drop("word_embeddings")),
    "index-outside": _sharded("../data/train.csv"),
    "index-absolute": _sharded("/etc/passwd"),
    "index-missing": _sharded("model-9.safetensors"),
    "index-pickled": both(
        _sharded("pytorch_model.bin"),
        _renamed("checkpoint/model-1.safetensors", "checkpoint/pytorch_model.bin"),
    ),
    "index-no-json": both(_sharded("model-1.safetensors"), write(INDEX, "{")),
    "index-list": both(_sharded("model-1.safetensors"), write(INDEX, "[]")),
    "index-no-map": both(_sharded("model-1.safetensors"), write(INDEX, "{}")),
    "index-numbers": both(_sharded("model-1.safetensors"), edit_json(INDEX, "weight_map", {"a": 1})),
    "tokenizer-none": both(remove(TOKENIZER), remove(TOKENIZER_CONFIG), remove("checkpoint/vocab.txt")),
    "tokenizer-file-none": both(remove(TOKENIZER), remove("checkpoint/vocab.txt")),
    "tokenizer-empty": write(TOKENIZER, ""),
    "tokenizer-no-json": write(TOKENIZER, "{"),
    "tokenizer-list": write(TOKENIZER, "[]"),
    "tokenizer-nothing-in-it": write(TOKENIZER, "{}"),
    "tokenizer-cut": cut(TOKENIZER),
    "tokenizer-folder": folder(TOKENIZER),
    "tokenizer-pipe": fifo(TOKENIZER),
    "tokenizer-binary": write(TOKENIZER, bytes(range(256))),
    "tokenizer-no-model": edit_json(TOKENIZER, "model", None),
    "tokenizer-unknown-model": edit_json(TOKENIZER, "model.type", "Dice"),
    "tokenizer-no-pieces": edit_json(TOKENIZER, "model.vocab", {}),
    "tokenizer-pieces-a-list": edit_json(TOKENIZER, "model.vocab", [1, 2]),
    "tokenizer-larger-than-table": edit_json(TOKENIZER, "model.vocab.surplus", 99_999),
    "tokenizer-below-zero": edit_json(TOKENIZER, "model.vocab.surplus", -1),
    "tokenizer-config-no-json": write(TOKENIZER_CONFIG, "{"),
    "tokenizer-config-list": write(TOKENIZER_CONFIG, "[]"),
    "config-empty": write(CONFIG, ""),
    "config-no-json": write(CONFIG, "{"),
    "config-list": write(CONFIG, "[]"),
    "config-null": write(CONFIG, "null"),
    "config-binary": write(CONFIG, bytes(range(256))),
    "config-deep": write(CONFIG, "[" * 100_000),
    "config-folder": folder(CONFIG),
    "config-pipe": fifo(CONFIG),
    "config-endless": link(CONFIG, "/dev/zero"),
    "config-nothing-in-it": write(CONFIG, "{}"),
}
CONFIG_VALUES: dict[str, tuple[str, Any]] = {
    "no-type": ("model_type", ABSENT),
    "unknown-type": ("model_type", "no-such-model"),
    "type-a-number": ("model_type", 7),
    "no-heads": ("num_attention_heads", 0),
    "heads-below": ("num_attention_heads", -2),
    "heads-indivisible": ("num_attention_heads", 5),
    "heads-a-word": ("num_attention_heads", "two"),
    "heads-a-fraction": ("num_attention_heads", 2.5),
    "no-layers": ("num_hidden_layers", 0),
    "layers-below": ("num_hidden_layers", -1),
    "more-layers": ("num_hidden_layers", 3),
    "a-million-layers": ("num_hidden_layers", 1_000_000),
    "layers-a-word": ("num_hidden_layers", "two"),
    "layers-a-list": ("num_hidden_layers", [2]),
    "layers-null": ("num_hidden_layers", None),
    "width-zero": ("hidden_size", 0),
    "width-other": ("hidden_size", 64),
    "width-huge": ("hidden_size", 10**9),
    "rows-huge": ("intermediate_size", 10**12),
    "rows-other": ("intermediate_size", 32),
    "table-zero": ("vocab_size", 0),
    "table-smaller": ("vocab_size", 20),
    "table-larger": ("vocab_size", 100_000),
    "table-a-word": ("vocab_size", "many"),
    "positions-few": ("max_position_embeddings", 4),
    "positions-zero": ("max_position_embeddings", 0),
    "unknown-activation": ("hidden_act", "dice"),
    "dropout-not-a-number": ("hidden_dropout_prob", float("nan")),
    "dropout-above": ("hidden_dropout_prob", 7),
    "padding-outside": ("pad_token_id", 10**6),
    "labels-a-list": ("id2label", ["a", "b"]),
    "labels-a-word": ("id2label", "alarm"),
    "labels-other": ("id2label", {"0": "x", "1": "y", "2": "z"}),
    "labels-fewer": ("id2label", {"0": "alarm", "1": "oos"}),
    "labels-twice": ("id2label", {"0": "alarm", "1": "alarm", "2": "oos"}),
    "labels-null": ("id2label", {"0": None, "1": "oos", "2": "weather"}),
}
# Not faults of an encoder or a student, whose head may be missing.
NO_FAULT_ELSEWHERE = ("weights-no-head", "weights-head-mis-shaped", "labels")


def _case(key: Field, how: str, sections: dict[str, Any], damage: Damage) -> Case:
    def prepare() -> None:
        write_job(job(**sections))
        damage()

    named = (key.path,)
    return Case(
        f"checkpoint/{key.path}/{how}",
        ("run", "job.yaml"),
        names=named,
        needs=("data", "checkpoint"),
        damage=prepare,
    )


def _cases() -> Iterator[Case]:
    damages = WHOLE | {
        f"config-{how}": edit_json(CONFIG, name, value) for how, (name, value) in CONFIG_VALUES.items()
    }
    for how, damage in damages.items():
        yield _case(TEACHER, how, {}, damage)
    # For the others every second one, since the checks are the same.
    elsewhere = [how for how in damages if not any(part in how for part in NO_FAULT_ELSEWHERE)]
    turn = itertools.cycle(OTHERS.items())
    for how, (key, sections) in zip(elsewhere[::2], turn, strict=False):
        yield _case(key, how, sections, damages[how])


CASES: tuple[Case, ...] = tuple(_cases())
