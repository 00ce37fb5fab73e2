"""A process computes on one GPU, whatever else it sees: never ``DataParallel``."""

from __future__ import annotations

import logging

import pytest
import torch
from accelerate.state import AcceleratorState
from fake_gpus import fake_cuda, needs_gpu
from models import tiny_classifier
from searches import split
from torch import nn

from distiltune.training.checkpoints.load import load_model
from distiltune.training.data.tokenized import TokenizedDataset
from distiltune.training.distillation.arguments import DistillationTrainingArguments, FastTrainingArguments
from distiltune.training.distillation.trainer import DistillationTrainer


@pytest.fixture
def no_state_left():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("no_state_left")
@pytest.mark.parametrize(("num_gpus", "warned"), [(1, False), (2, True), (8, True)])
def test_only_one_of_several_gpus_is_used_with_a_warning(num_gpus, warned, tmp_path, monkeypatch, caplog):
    fake_cuda(monkeypatch, num_gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    with caplog.at_level(logging.WARNING):
        args = FastTrainingArguments(output_dir=str(tmp_path), bf16=False, report_to="none")
    assert args.device.type == "cuda"
    assert args.n_gpu == 1
    assert args.train_batch_size == args.per_device_train_batch_size
    assert (f"only one of {num_gpus} GPUs is used" in caplog.text) == warned


@pytest.mark.gpu
@needs_gpu
def test_a_process_that_sees_two_gpus_trains_without_data_parallel(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    args = DistillationTrainingArguments(
        output_dir=str(tmp_path), alpha=1.0, max_steps=2, save_strategy="no", report_to="none"
    )
    model = load_model(tiny_classifier(tmp_path / "student", num_layers=1, hidden_size=16))
    trainer = DistillationTrainer(model, args, train_dataset=TokenizedDataset(split(36, 1)))
    trainer.train()
    assert args.n_gpu == 1
    assert not isinstance(trainer.model_wrapped, nn.DataParallel)
    assert {each.device.index for each in model.parameters()} == {0}
