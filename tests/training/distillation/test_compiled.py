"""The compiled step and its fallback, with a fake compiler, since a real one takes a minute."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from fake_gpus import needs_gpu
from models import tiny_classifier
from searches import split

from distiltune.errors import InputError
from distiltune.training.checkpoints.load import load_model
from distiltune.training.data.tokenized import TokenizedDataset
from distiltune.training.distillation import trainer as module
from distiltune.training.distillation.arguments import DistillationTrainingArguments
from distiltune.training.distillation.compiled import CompiledModel
from distiltune.training.distillation.trainer import DistillationTrainer


class Compiler:
    """A fake of ``torch.compile`` that records shapes, and fails at a given call."""

    def __init__(self, fails_at: int | None = None, error: Exception | None = None) -> None:
        self.options: dict[str, object] = {}
        self.shapes: list[tuple[int, ...]] = []
        self._fails_at, self._error = fails_at, error or RuntimeError("no C++ compiler\nand a long trace")

    def __call__(self, model, **options):
        self.options = options

        def compiled(**features):
            self.shapes.append(tuple(features["input_ids"].shape))
            if len(self.shapes) - 1 == self._fails_at:
                raise self._error
            return model(**features)

        return compiled


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return tiny_classifier(tmp_path_factory.mktemp("student"), num_layers=1, hidden_size=16)


def train(student, path, monkeypatch, compiler=None, device="cpu", **given):
    if compiler is not None:
        monkeypatch.setattr(module, "CompiledModel", lambda *args: CompiledModel(*args, compiler=compiler))
    settings = {"alpha": 1.0, "learning_rate": 1e-2, "save_strategy": "no", "bf16": False, "logging_steps": 1}
    args = DistillationTrainingArguments(
        output_dir=str(path),
        per_device_train_batch_size=8,
        num_train_epochs=2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=device == "cpu",
        **{**settings, **given},
    )
    torch.manual_seed(0)
    trainer = DistillationTrainer(load_model(student), args, train_dataset=TokenizedDataset(split(36, 1)))
    trainer.train()
    return [each["loss"] for each in trainer.state.log_history if "loss" in each]


def test_full_batches_are_compiled_in_few_shapes(student, tmp_path, monkeypatch):
    compiler = Compiler()
    compiled = train(student, tmp_path, monkeypatch, compiler, compile_step=True)
    assert set(compiler.shapes) == {(8, 8)}, "the last batch of an epoch, of 4 texts, is left out"
    assert len(compiler.shapes) == 8 and len(compiled) == 10
    assert compiler.options == {"mode": "default", "dynamic": False}
    assert compiled == train(student, tmp_path, monkeypatch, pad_to_multiple_of=8)


@pytest.mark.parametrize("fails_at", [0, 3])
def test_what_cannot_be_compiled_is_trained_as_it_is(fails_at, student, tmp_path, monkeypatch, caplog):
    compiler = Compiler(fails_at)
    with caplog.at_level(logging.WARNING):
        losses = train(student, tmp_path, monkeypatch, compiler, compile_step=True)
    assert losses == train(student, tmp_path, monkeypatch, pad_to_multiple_of=8)
    assert len(compiler.shapes) == fails_at + 1, "it is not tried again"
    [record] = [each for each in caplog.records if "compiled" in each.message]
    assert record.message.endswith("RuntimeError: no C++ compiler")


class FailingBackward(torch.autograd.Function):
    """The identity, whose backward fails as one that cannot be compiled."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError("no C++ compiler\nand a long trace")


class BackwardCompiler(Compiler):
    """A fake of ``torch.compile`` whose backward fails at a given call, in the middle of the model."""

    def __call__(self, model, **options):
        def compiled(**features):
            self.shapes.append(tuple(features["input_ids"].shape))
            if len(self.shapes) - 1 != self._fails_at:
                return model(**features)
            # The classifier, above it, gets its gradients before the failure.
            hook = model.bert.register_forward_hook(
                lambda _, __, found: type(found)(
                    last_hidden_state=FailingBackward.apply(found.last_hidden_state),
                    pooler_output=FailingBackward.apply(found.pooler_output),
                )
            )
            try:
                return model(**features)
            finally:
                hook.remove()

        return compiled


@pytest.mark.parametrize("accumulated", [1, 2])
@pytest.mark.parametrize("fails_at", [0, 3])
def test_a_backward_that_cannot_be_compiled_is_computed_as_it_is(
    fails_at, accumulated, student, tmp_path, monkeypatch, caplog
):
    settings = {"gradient_accumulation_steps": accumulated, "dropout": 0.0}
    compiler = BackwardCompiler(fails_at)
    with caplog.at_level(logging.WARNING):
        losses = train(student, tmp_path, monkeypatch, compiler, compile_step=True, **settings)
    assert losses == train(student, tmp_path, monkeypatch, pad_to_multiple_of=8, **settings)
    assert len(compiler.shapes) == fails_at + 1, "it is not tried again"
    [record] = [each for each in caplog.records if "compiled" in each.message]
    assert record.message.endswith("RuntimeError: no C++ compiler")


def test_a_fault_of_the_loss_is_raised_as_it_is(student, tmp_path, monkeypatch, caplog):
    """It does not count as a failure of the compiler."""
    compiler = Compiler()
    monkeypatch.setattr(module, "weighted_sum", lambda *_: (_ for _ in ()).throw(ValueError("shapes differ")))
    with pytest.raises(InputError, match="shapes differ"):
        train(student, tmp_path, monkeypatch, compiler, compile_step=True)
    assert "not compiled" not in caplog.text and len(compiler.shapes) == 1


def test_a_lack_of_memory_is_raised(student, tmp_path, monkeypatch):
    compiler = Compiler(0, torch.cuda.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        train(student, tmp_path, monkeypatch, compiler, compile_step=True)


@pytest.mark.parametrize(
    ("given", "multiple"),
    [
        ({}, None),
        ({"compile_step": True}, 8),
        ({"compile_step": True, "pad_to_multiple_of": 16}, 16),
        ({"pad_to_multiple_of": 4}, 4),
    ],
)
def test_batches_are_padded_to_few_lengths_where_they_are_compiled(given, multiple, tmp_path):
    args = DistillationTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **given)
    assert args.pad_to_multiple_of == multiple


@pytest.mark.parametrize(
    ("device", "with_graphs", "mode"),
    [("cuda", True, "reduce-overhead"), ("cuda", False, "default"), ("cpu", True, "default")],
)
def test_graphs_are_recorded_on_a_gpu_where_gradients_are_those_of_one_batch(device, with_graphs, mode):
    model = SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=torch.device(device))]))
    CompiledModel(model, 8, with_graphs, compiler := Compiler())
    assert compiler.options == {"mode": mode, "dynamic": False}


def test_no_graphs_are_recorded_where_gradients_are_added(student, tmp_path, monkeypatch):
    given = []

    def compiled(*args):
        given.append(args[2])
        return CompiledModel(*args, compiler=Compiler())

    monkeypatch.setattr(module, "CompiledModel", compiled)
    for accumulated in (1, 2):
        train(student, tmp_path, monkeypatch, compile_step=True, gradient_accumulation_steps=accumulated)
    assert given == [True, False]


@pytest.mark.parametrize("value", [0, -8, 2.5, True])
def test_a_multiple_is_a_whole_number(value, tmp_path):
    with pytest.raises(InputError, match=f"pad_to_multiple_of is {value}"):
        DistillationTrainingArguments(output_dir=str(tmp_path), use_cpu=True, pad_to_multiple_of=value)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("accumulated", [1, 2])
def test_graphs_on_a_gpu_learn_as_the_plain_step_does(accumulated, student, tmp_path, monkeypatch):
    # A compiled step draws other masks of dropout.
    settings = {"dropout": 0.0, "gradient_accumulation_steps": accumulated}
    plain = train(student, tmp_path, monkeypatch, device="cuda", pad_to_multiple_of=8, **settings)
    compiled = train(student, tmp_path, monkeypatch, device="cuda", compile_step=True, **settings)
    torch.testing.assert_close(torch.tensor(compiled), torch.tensor(plain), atol=1e-2, rtol=1e-2)
