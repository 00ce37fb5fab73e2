"""Write the untrained reference: the architecture of ``bert-base-uncased``, for latency and size only."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..measurements import model_bytes
from ..processes import end_with_parent

SIZE_FILE = "reference.json"


def write_reference(
    tokenizer_dir: str | Path, out_dir: str | Path, *, num_labels: int, task: str = "single_label"
) -> int:
    """Write a checkpoint of BERT-base's published shape, with random weights and a given tokenizer.

    The shape is ``transformers.BertConfig()``: 12 layers, hidden size 768, 12 heads, 30,522 tokens. If the
    tokenizer has more tokens, the embedding table is enlarged *after* the size was measured, so that every token
    id can be looked up; neither the reported size nor the latency is affected.

    Args:
        tokenizer_dir: checkpoint whose tokenizer is used, so that all rows get the same number of tokens.
        out_dir: output folder; ``reference.json`` in it contains the size in bytes at the published shape.
        num_labels: number of outputs of the classification head.
        task: name of the task that the head is for.

    Returns:
        Bytes of the saved safetensors file at the published shape.
    """
    from transformers import BertConfig

    from ....training import tasks
    from ....training.checkpoints.load import load_tokenizer, new_classifier

    out_dir = Path(out_dir)
    shapes = BertConfig(num_labels=num_labels)  # pyright: ignore[reportCallIssue]
    model: Any = new_classifier(shapes, tasks.get(task))
    tokenizer = load_tokenizer(tokenizer_dir)
    model.save_pretrained(out_dir)
    size = model_bytes(out_dir)
    if len(tokenizer) > model.config.vocab_size:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    (out_dir / SIZE_FILE).write_text(json.dumps({"bytes": size}), encoding="utf-8")
    return size


def main() -> None:
    """Write the reference from the command line, in a separate process that frees its memory on exit."""
    end_with_parent()
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("tokenizer_dir")
    parser.add_argument("out_dir")
    parser.add_argument("num_labels", type=int)
    parser.add_argument("task")
    given = parser.parse_args()
    write_reference(given.tokenizer_dir, given.out_dir, num_labels=given.num_labels, task=given.task)


if __name__ == "__main__":
    main()
