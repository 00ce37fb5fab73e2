"""The precision of a search is chosen once; TF32 lasts as long as its training."""

from __future__ import annotations

import logging
import shutil
from types import SimpleNamespace

import pytest
import torch
from fake_gpus import fake_cuda, needs_gpu

from distiltune.errors import InputError
from distiltune.search.trial import precision
from distiltune.search.trial.precision import precision_key, precision_of, settled_bf16
from distiltune.storage.store import Store
from distiltune.training.checkpoints.unfinished import KeepEpochs
from distiltune.training.distillation import arguments
from distiltune.training.distillation.arguments import DistillationTrainingArguments, resumed_bf16
from distiltune.training.models.runtime import float32_products

CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path))


def devices(monkeypatch, multiplies_bf16: bool, name: str) -> None:
    monkeypatch.setattr(precision, "hardware_has_bf16", lambda **_: multiplies_bf16)
    monkeypatch.setattr(precision, "describe_device", lambda **_: name)


@pytest.mark.parametrize("first", [True, False])
def test_the_first_trial_chooses_it_and_the_record_names_its_device(first, store, monkeypatch):
    devices(monkeypatch, first, "NVIDIA H200")
    assert settled_bf16(store, "a/search", use_gpu=True) is first
    assert store.read_json(precision_key("a/search")) == {"bf16": first, "device": "NVIDIA H200"}
    assert settled_bf16(store, "a/search", use_gpu=True) is first


def test_a_run_that_began_in_float32_keeps_it_on_better_hardware(store, monkeypatch, caplog):
    devices(monkeypatch, False, "CPU")
    settled_bf16(store, "a/search", use_gpu=False)
    devices(monkeypatch, True, "NVIDIA H200")
    with caplog.at_level(logging.WARNING):
        assert settled_bf16(store, "a/search", use_gpu=True) is False
    assert not caplog.records


def test_hardware_without_bf16_deviates_with_a_warning(store, monkeypatch, caplog):
    devices(monkeypatch, True, "NVIDIA H200 (140.4 GiB)")
    settled_bf16(store, "a/search", use_gpu=True)
    devices(monkeypatch, False, "Tesla T4")
    with caplog.at_level(logging.WARNING):
        assert settled_bf16(store, "a/search", use_gpu=True) is False
    [record] = caplog.records
    for named in ("float32", "NVIDIA H200 (140.4 GiB)", "Tesla T4", "training.arguments.bf16"):
        assert named in record.getMessage()
    assert store.read_json(precision_key("a/search"))["bf16"] is True, "the record is of the first trial"


@pytest.mark.parametrize(
    ("began", "possible", "resumed", "is_warned"),
    [
        (True, True, True, False),
        (True, False, False, True),
        (False, True, False, False),  # better hardware does not change it
        (False, False, False, False),
    ],
)
def test_a_teacher_is_resumed_in_the_precision_that_it_began_with(
    began, possible, resumed, is_warned, monkeypatch, tmp_path, caplog
):
    class Unfinished:
        def keep(self, folder):
            shutil.copytree(folder, tmp_path / "kept")

    (tmp_path / "checkpoint-3").mkdir()
    args = SimpleNamespace(output_dir=str(tmp_path), bf16=began)
    KeepEpochs(Unfinished()).on_save(args, SimpleNamespace(global_step=3), None)
    monkeypatch.setattr(arguments, "hardware_has_bf16", lambda **_: possible)
    with caplog.at_level(logging.WARNING):
        assert resumed_bf16(tmp_path / "kept", use_cpu=True) is resumed
    assert bool(caplog.records) == is_warned


@pytest.mark.parametrize("content", [None, "", "{}", "[1]", '"bf16"'])
def test_where_nothing_is_known_the_hardware_decides(content, tmp_path):
    if content is not None:
        (tmp_path / "precision.json").write_text(content)
    assert resumed_bf16(tmp_path, use_cpu=True) is None
    assert resumed_bf16(None, use_cpu=True) is None


@pytest.mark.parametrize(
    ("bf16", "fp16", "tf32", "name"),
    [
        (True, False, None, "bfloat16"),
        (False, True, True, "float16"),
        (False, False, True, "TF32"),
        (False, False, None, "float32"),
        (False, False, False, "float32"),
    ],
)
def test_a_precision_has_one_name(bf16, fp16, tf32, name):
    assert precision_of(SimpleNamespace(bf16=bf16, fp16=fp16, tf32=tf32)) == name


def test_tf32_lasts_as_long_as_its_block_however_it_ends(monkeypatch):
    fake_cuda(monkeypatch, 1)
    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError), float32_products(tf32=True, device=torch.device("cuda", 0)):
        assert torch.get_float32_matmul_precision() == "high"
        with float32_products(tf32=False, device=CPU):
            assert torch.get_float32_matmul_precision() == "highest"
        with float32_products(tf32=None, device=CPU):
            assert torch.get_float32_matmul_precision() == "high"
        raise KeyError
    assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize(("where", "capability"), [("cpu", (9, 0)), ("cuda", (7, 5))])
def test_tf32_is_refused_where_the_device_has_none(where, capability, monkeypatch):
    fake_cuda(monkeypatch, 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    named = "a CPU" if where == "cpu" else "NVIDIA H200"
    products = float32_products(tf32=True, device=torch.device(where))
    with pytest.raises(InputError, match=f"tf32 is True.*{named}"), products:
        pytest.fail("the block must not run")


@pytest.mark.parametrize("tf32", [True, False, None])
def test_arguments_keep_tf32_and_change_nothing_in_this_process(tf32, tmp_path):
    before = torch.get_float32_matmul_precision()
    args = DistillationTrainingArguments(output_dir=str(tmp_path), tf32=tf32, use_cpu=True)
    assert args.tf32 is tf32
    assert torch.get_float32_matmul_precision() == before


def test_a_trial_trains_in_the_precision_of_its_search_unless_the_job_gives_one(tmp_path, monkeypatch):
    from searches import TRAINING, linked, trial_inputs

    from distiltune.search.trial import run  # loads Ray
    from distiltune.search.trial.inputs import TrialSettings

    inputs = linked(trial_inputs(tmp_path / "student"), tmp_path / "store")
    store = Store(str(tmp_path / "store"))
    store.write_json(precision_key("s"), {"bf16": False, "device": "NVIDIA H200"})
    monkeypatch.setattr(precision, "hardware_has_bf16", lambda **_: True)

    def bf16_of(given, searched):
        training = TRAINING.model_copy(update={"arguments": given})
        settings = TrialSettings(training, "m", "max", store, "s", "t", "l", 1, use_gpu=False)
        return run.make_trainer({"alpha": 1.0, **searched}, inputs, settings, tmp_path).args.bf16

    assert bf16_of({}, {}) is False
    assert bf16_of({"bf16": True}, {}) is True
    assert bf16_of({}, {"bf16": True}) is True


@pytest.mark.gpu
@needs_gpu
def test_products_differ_in_tf32_and_are_exact_again_afterwards():
    torch.manual_seed(0)
    left, right = torch.randn(2, 512, 512, device="cuda")
    exact = left @ right
    with float32_products(tf32=True, device=exact.device):
        rounded = left @ right
    assert not torch.equal(exact, rounded)
    assert torch.equal(left @ right, exact)
