"""Write the files beside a variant's graph: tokenizer, settings of the runtime, configuration for transformers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from transformers import PreTrainedModel

from ...errors import ExportError, ModelError
from ...storage.safe_reading import read_json
from ...texts import TextOrPair, num_characters
from ...training.checkpoints.load import label_names, load_tokenizer
from ...training.data.tokenized import tokenize_rows
from ...training.tasks import Task
from ..artifact.manifest import (
    CONFIG_FILE,
    SETTINGS_FILE,
    TAKES_PAIRS,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
)
from ..runtime.classifier_config import read_config
from ..runtime.tokenizer import Tokenizer

_NUM_COMPARED, _NUM_LONGEST = 200, 20  # texts whose token ids are compared
_SPECIAL_TOKENS_FILE = "special_tokens_map.json"
_TOKENIZER_FILES = (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE, _SPECIAL_TOKENS_FILE, "vocab.txt")
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "cls_token", "mask_token")
# Fields about the checkpoint, not the graph: its path, code to download, and the format of its weights.
_NOT_OF_A_GRAPH = ("_name_or_path", "auto_map", "dtype", "torch_dtype", "quantization_config")

# Fields with the same meaning in BERT's configuration and in that of a model type of this package.
_OF_EVERY_MODEL = (
    "vocab_size",
    "hidden_size",
    "pad_token_id",
    "id2label",
    "label2id",
    "problem_type",
    "transformers_version",
)


def pad_token_id(model: PreTrainedModel) -> int:
    """Return the id that pads the shorter texts of a batch."""
    return int(model.config.pad_token_id or 0)


def read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """Read a ``tokenizer.json``, without the padding and truncation that it may contain.

    Raises:
        ModelError: It is missing or is not a tokenizer.
    """
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise ModelError(f"{path}: it has no fast tokenizer ({error}); save the student with one") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def truncation_side(tokenizer: Any) -> str:
    """Return the side from which a tokenizer of transformers cuts long texts: ``right`` or ``left``."""
    return tokenizer.truncation_side


def check_tokens(
    student_dir: Path,
    folder: Path,
    texts: Sequence[TextOrPair],
    max_length: int,
    student_tokenizer: Any = None,
) -> None:
    """Check that the variant's tokenizer gives the token ids and types of the one that the student was trained with.

    It compares up to 200 texts, evenly spaced, and the 20 longest.

    Args:
        student_dir: The student's checkpoint.
        folder: Folder of the variant, whose files are complete.
        texts: Texts of the data.
        max_length: Number of tokens to which a text is truncated.
        student_tokenizer: The student's tokenizer, opened by transformers; None: it is opened.

    Raises:
        ExportError: The ids of a text differ.
    """
    chosen = [
        *texts[:: -(-len(texts) // _NUM_COMPARED) or 1],
        *sorted(texts, key=num_characters)[-_NUM_LONGEST:],
    ]
    if not chosen:
        return
    student_tokenizer = student_tokenizer or load_tokenizer(student_dir)
    trained = tokenize_rows(chosen, student_tokenizer, max_length)
    path = folder / TOKENIZER_FILE
    settings = read_config((folder / SETTINGS_FILE).read_bytes(), folder / SETTINGS_FILE)
    runtime = Tokenizer(
        path.read_bytes(),
        settings.max_length,
        settings.pad_token_id,
        path,
        takes_pairs=settings.takes_pairs,
    )
    for text, expected, encoding in zip(chosen, trained, runtime.encode(chosen), strict=True):
        found = encoding.ids if expected.types is None else [*encoding.ids, *encoding.type_ids]
        wanted = [each for part in expected if part is not None for each in part.tolist()]
        if wanted != found:
            raise ExportError(
                f"{student_dir}: the exported tokenizer gives other token ids than the one in training: of "
                f"{text!r:.60}, {found!s:.60} instead of {wanted!s:.60}; save the student's tokenizer "
                f"again as a fast one (tokenizer.json)"
            )


def copy_tokenizer(student_dir: Path, folder: Path) -> None:
    """Copy a checkpoint's tokenizer files to a variant that transformers opens."""
    for file in (student_dir / name for name in _TOKENIZER_FILES):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def write_model_files(
    model: PreTrainedModel,
    student_dir: Path,
    folder: Path,
    *,
    student_tokenizer: Any,
    input_names: Sequence[str],
    task: Task,
    max_length: int,
    out_of_scope_label: str | None,
    num_threads: int,
    takes_pairs: bool = False,
) -> None:
    """Write everything but the graph of a variant that can be sealed.

    ``distiltune.json`` is what :class:`TextClassifier` reads, and the only file that changes with a threshold or a
    session option. ``config.json`` and ``tokenizer_config.json`` are for transformers, optimum and transformers.js.

    Args:
        model: The student.
        student_dir: Its checkpoint, with the tokenizer.
        folder: Folder of the variant.
        student_tokenizer: The student's tokenizer, opened by transformers.
        input_names: Inputs of the graph.
        task: Task that the student was trained for.
        max_length: Number of tokens to which a text is truncated, here as in those libraries.
        out_of_scope_label: Label of out-of-scope texts; None where there is none.
        num_threads: Intra-op threads of the runtime.
        takes_pairs: Whether it classifies pairs of texts.

    Raises:
        ModelError: The checkpoint has no fast tokenizer.
    """
    tokenizer, side = read_tokenizer(student_dir / TOKENIZER_FILE), truncation_side(student_tokenizer)
    tokenizer.enable_truncation(max_length, direction=side)
    tokenizer.save(str(folder / TOKENIZER_FILE))
    labels, pad = label_names(model.config), pad_token_id(model)
    settings = {
        "task": task.name,
        "labels": labels,
        "max_length": max_length,
        "pad_token_id": pad,
        "out_of_scope_label": out_of_scope_label,
        "threshold": None,
        "num_threads": num_threads,
        **({TAKES_PAIRS: True} if takes_pairs else {}),
    }
    tokenizer_config = {
        # The family's class would build a tokenizer of its own, which may split words differently.
        "tokenizer_class": "PreTrainedTokenizerFast",
        **_special_tokens(student_dir),
        "pad_token": tokenizer.id_to_token(pad),
        "model_max_length": max_length,
        "truncation_side": side,
        "padding_side": "right",
        "model_input_names": list(input_names),
        "clean_up_tokenization_spaces": False,
    }
    _write_json(folder / SETTINGS_FILE, settings)
    _write_json(folder / CONFIG_FILE, _model_config(model, task, labels, max_length))
    _write_json(folder / TOKENIZER_CONFIG_FILE, tokenizer_config)


def _model_config(
    model: PreTrainedModel, task: Task, labels: Sequence[str], max_length: int
) -> dict[str, Any]:
    """Return the student's configuration, with the names that a pipeline of transformers shows.

    Optimum and transformers.js do not support a model type whose configuration is not a class of transformers. They run
    the graph and read only model type, labels and padding, so such a student is described as a BERT without layers, and
    its own configuration is stored under ``distiltune``.
    """
    config = json.loads(model.config.to_json_string())
    for name in _NOT_OF_A_GRAPH:
        config.pop(name, None)
    config |= {
        "architectures": [type(model).__name__],
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
        "problem_type": task.problem_type,
    }
    if type(model.config).__module__.partition(".")[0] == "transformers":
        return config
    own = {name: value for name, value in config.items() if name not in _OF_EVERY_MODEL}
    return {
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification"],
        **{name: config[name] for name in _OF_EVERY_MODEL if name in config},
        "num_hidden_layers": 0,
        "num_attention_heads": 1,
        "max_position_embeddings": max_length,
        "distiltune": own,
    }


def _special_tokens(student_dir: Path) -> dict[str, str]:
    """Return a checkpoint's special tokens by their role, from whichever of its files names them."""
    found: dict[str, str] = {}
    for name in (_SPECIAL_TOKENS_FILE, TOKENIZER_CONFIG_FILE):
        try:
            values = read_json((student_dir / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{student_dir / name}: cannot be read ({error}); save the student again"
            ) from error
        for role in _SPECIAL_TOKENS:
            token = values.get(role)
            token = token.get("content") if isinstance(token, Mapping) else token
            if isinstance(token, str):
                found[role] = token
    return found


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
