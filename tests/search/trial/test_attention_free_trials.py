"""A trial of a student without attention: pruned, quantization-aware, interrupted, and resumed to the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from local_trial import LAST, epochs_of, run_here
from safetensors.torch import load_file
from searches import NUM_LABELS, TRAINING, accuracy_of, trial_inputs
from transformers import AutoModelForSequenceClassification

from distiltune.errors import StorageError
from distiltune.search.space.students import ONLY_STUDENT, Student
from distiltune.training.compression.config import QuantizationAwareConfig, pruning_config
from distiltune.training.models.convolution import ConvolutionConfig
from distiltune.training.models.static import StaticConfig

SIZES: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "classifier_size": 16, "num_labels": NUM_LABELS}
KINDS = {
    "convolution": (ConvolutionConfig(**SIZES, num_filters=16, num_blocks=1, block_size=16), True),
    "static": (StaticConfig(**SIZES), False),
}


@pytest.mark.parametrize(("config", "has_matrices"), KINDS.values(), ids=list(KINDS))
def test_a_trial_learns_and_is_resumed_to_the_same_bits(tmp_path: Path, config, has_matrices):
    inputs = trial_inputs(tmp_path / "bert")
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "own")
    inputs = replace(inputs, students={ONLY_STUDENT: Student(str(tmp_path / "own"))})
    training = TRAINING.model_copy(
        update={
            "learning_rate": 2e-2,
            "quantization_aware": QuantizationAwareConfig(num_epochs=1),
            "pruning": pruning_config(sparsity=0.5, end=0.5, update_every=2) if has_matrices else None,
        }
    )
    arguments = {"num_train_epochs": 4, "alpha": 0.3}
    seen = []

    def cut_off(metrics: dict[str, Any]) -> None:
        seen.append(metrics)
        if len(seen) == 2:
            raise StorageError("cut off")

    store = tmp_path / "store"
    with pytest.raises(StorageError, match="cut off"):
        run_here(inputs, store, arguments, training, name="cut", metric=LAST, report=cut_off)
    again = run_here(inputs, store, arguments, training, name="cut", metric=LAST)
    whole = run_here(inputs, store, arguments, training, name="whole", metric=LAST)
    assert again[-1]["validation_loss"] == whole[-1]["validation_loss"]
    assert whole[-1]["sparsity"] == pytest.approx(0.5 if has_matrices else 0, abs=0.01)
    last, same = (store / epochs_of(store, name)[-1].key for name in ("whole", "cut"))
    weights = load_file(last / "model.safetensors")
    assert all(
        torch.equal(value, weights[name]) for name, value in load_file(same / "model.safetensors").items()
    )
    assert (
        whole[-1]["validation_accuracy"] > whole[0]["validation_accuracy"]
        or whole[0]["validation_accuracy"] > 0.7
    )
    assert accuracy_of(last, inputs.validation) > 0.5
