"""The memory of texts of 8,192 tokens stays within the bound of a pass, as measured in separate processes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from typing import Any

import pytest

LENGTH, NUM_TEXTS = 8192, 3
MIB = 2**20


def measure(what: str, num_bytes: int, max_batch_tokens: int | None) -> dict[str, Any]:
    """Train a small ModernBERT on texts of 8,192 tokens, or label them; return the bytes that it takes."""
    import numpy as np
    import torch
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    from distiltune.export.benchmark.memory import peak_memory_mb
    from distiltune.training.data.collator import DistillationCollator
    from distiltune.training.data.tokenized import TokenizedDataset, from_rows
    from distiltune.training.distillation.arguments import DistillationTrainingArguments
    from distiltune.training.distillation.trainer import DistillationTrainer
    from distiltune.training.models import passes
    from distiltune.training.models.inference import compute_logits

    torch.set_num_threads(1)
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    config = ModernBertConfig(
        vocab_size=100, hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, num_labels=2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2,
    )  # fmt: skip
    model = ModernBertForSequenceClassification(config)

    def texts(length: int) -> Any:
        rows = [random.integers(3, 100, length - number).astype(np.int32) for number in range(NUM_TEXTS)]
        return from_rows(rows, [number % 2 for number in range(NUM_TEXTS)])

    def run(split: Any) -> DistillationTrainer | None:
        if what == "label":
            with passes.tokens_of_passes(max_batch_tokens):
                compute_logits(model, split, pad_token_id=0, num_threads=1)
            return None
        with tempfile.TemporaryDirectory() as folder:
            trainer = DistillationTrainer(
                model=model,
                args=DistillationTrainingArguments(
                    output_dir=folder,
                    alpha=1.0,
                    per_device_train_batch_size=NUM_TEXTS,
                    num_train_epochs=2,
                    bf16=False,
                    use_cpu=True,
                    save_strategy="no",
                    report_to="none",
                    disable_tqdm=True,
                    max_batch_tokens=max_batch_tokens,
                ),
                train_dataset=TokenizedDataset(split),
                data_collator=DistillationCollator(0),
            )
            trainer.train()
            return trainer

    passes.bytes_of_passes = lambda _: num_bytes  # pyright: ignore[reportAttributeAccessIssue]
    run(texts(16))  # a first run loads libraries and keeps memory
    before = peak_memory_mb()
    trainer = run(texts(LENGTH))
    added = (peak_memory_mb() - before) * MIB
    limit = passes.inference_limit(model) if trainer is None else trainer.pass_limit(is_trained=True)
    return {
        "added": added,
        "bound": limit.num_bytes,
        "of_text": limit.shape.text_bytes(LENGTH),
        **asdict(limit.shape),
    }


def in_a_process(*given: Any) -> dict[str, Any]:
    command = [sys.executable, __file__, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("what", ["train", "label"])
def test_the_peak_stays_below_the_bound_and_grows_without_it(what):
    # A training rounds what is left beside its weights down to a power of two: 4,096 MiB.
    num_bytes = 5000 * MIB if what == "train" else 1700 * MIB
    bounded = in_a_process(what, num_bytes, None)
    assert bounded["of_text"] <= bounded["bound"] < NUM_TEXTS * bounded["of_text"]
    assert 0.2 * bounded["of_text"] < bounded["added"] < bounded["bound"]
    whole = in_a_process(what, num_bytes, NUM_TEXTS * LENGTH)
    assert whole["added"] > 1.1 * bounded["added"]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(*json.loads(sys.argv[1]))))
