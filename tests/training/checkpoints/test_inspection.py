"""Checkpoints that other tools wrote: read with a warning, or rejected before anything is trained with them."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny_classifier, tiny_data
from safetensors.torch import load_file, save_file
from transformers import CamembertConfig, MPNetConfig

from distiltune.errors import ModelError
from distiltune.training.checkpoints import loading
from distiltune.training.checkpoints.inspection import inspect_checkpoint
from distiltune.training.checkpoints.load import load_model, load_tokenizer
from distiltune.training.checkpoints.weight_files import unwrapped

LABELS = [f"label_{number}" for number in range(4)]
TEXTS = [text for text, _ in tiny_data()]


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("intact")
    return {
        family: tiny_classifier(root / family, family=family, label_names=LABELS, texts=TEXTS)
        for family in ("bert", "roberta")
    }


@pytest.fixture
def copy(intact, tmp_path) -> Callable[..., Path]:
    return lambda family="bert": Path(shutil.copytree(intact[family], tmp_path / f"copy-{family}"))


def renamed(directory: Path, rename: Callable[[str], str]) -> Path:
    path = directory / "model.safetensors"
    save_file({rename(name): value.clone() for name, value in load_file(path).items()}, path)
    return directory


def configured(directory: Path, **values: Any) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return directory


def refused(directory: Path, *parts: str, **options: Any) -> None:
    with pytest.raises(ModelError) as caught:
        inspect_checkpoint(directory, **options)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    for part in parts:
        assert part in message


WRAPPED = {
    "compiled": lambda name: f"_orig_mod.{name}",
    "data-parallel": lambda name: f"module.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "compiled-in-parallel": lambda name: f"_orig_mod.module.{name}",
    "twice": lambda name: f"module.module.{name}",
    "fsdp": lambda name: f"_fsdp_wrapped_module.{name}",
    "encoder-compiled": lambda name: name.replace("bert.", "bert._orig_mod.", 1),
    "layers-checkpointed": lambda name: name.replace(
        "attention.self.", "attention._checkpoint_wrapped_module.self."
    ),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_weights_of_a_wrapped_model_are_read_with_a_warning(wrapper, intact, copy, caplog) -> None:
    directory = renamed(copy(), WRAPPED[wrapper])
    with caplog.at_level(logging.WARNING, "distiltune"):
        inspect_checkpoint(directory, complete=True)
    assert "wrapped model" in caplog.text
    own, plain = load_model(directory, complete=True), load_model(intact["bert"], complete=True)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, own.state_dict()[name])


def test_an_ordinary_checkpoint_causes_no_warning(intact, caplog) -> None:
    for directory in intact.values():
        inspect_checkpoint(directory, complete=True, max_length=16)
    assert caplog.text == ""


def test_two_weights_of_one_name_are_not_merged(copy) -> None:
    directory = copy()
    path = directory / "model.safetensors"
    weights = load_file(path)
    save_file({**weights, **{f"_orig_mod.{name}": value.clone() for name, value in weights.items()}}, path)
    inspect_checkpoint(directory, complete=True)
    assert set(load_model(directory).state_dict()) == set(load_model(directory).state_dict())


@pytest.mark.parametrize("name", ["model.module_list.0.weight", "bert.orig_mod.weight", "submodule.weight"])
def test_only_whole_wrapper_names_are_removed(name) -> None:
    assert unwrapped(name) == name


@pytest.mark.parametrize(
    ("problem", "task"), [("multi_label_classification", "multi_label"), ("regression", "regression")]
)
def test_a_head_for_another_task_is_rejected_as_teacher_but_can_be_fine_tuned(problem, task, copy) -> None:
    directory = configured(copy(), problem_type=problem)
    refused(
        directory,
        f"problem_type: {problem}",
        "single_label",
        f"set task: {task} ",
        "teacher.fine_tune",
        complete=True,
    )
    inspect_checkpoint(directory)


def test_a_problem_type_of_the_same_task_is_accepted(copy) -> None:
    inspect_checkpoint(configured(copy(), problem_type="single_label_classification"), complete=True)


def test_more_tokens_than_positions_are_refused_before_training(intact) -> None:
    for family, directory in intact.items():
        values = json.loads((directory / "config.json").read_text())
        positions = values["max_position_embeddings"]
        positions -= values["pad_token_id"] + 1 if family == "roberta" else 0
        inspect_checkpoint(directory, max_length=positions)
        refused(directory, "training.max_length", str(positions), max_length=positions + 1)


# MPNet counts from row 2 whatever its padding id is.
@pytest.mark.parametrize(("config_class", "first"), [(CamembertConfig, None), (MPNetConfig, 2)])
def test_positions_after_the_padding_id_are_counted_in_unregistered_families(
    config_class, first, tmp_path
) -> None:
    from transformers import AutoModelForSequenceClassification

    source = tiny_classifier(tmp_path / "bert", label_names=LABELS, texts=TEXTS)
    tokenizer = load_tokenizer(source)
    shapes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = config_class(
        vocab_size=len(tokenizer),
        max_position_embeddings=20,
        pad_token_id=tokenizer.pad_token_id,
        num_labels=4,
        **shapes,
    )
    model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    most = 20 - (tokenizer.pad_token_id + 1 if first is None else first)
    inspect_checkpoint(tmp_path / "other", max_length=most)
    refused(tmp_path / "other", "training.max_length", str(most), max_length=most + 1)


def test_the_padding_ids_must_match_if_positions_are_counted_from_it(copy) -> None:
    refused(configured(copy("roberta"), pad_token_id=3), "pad_token_id: 3", "config.json")
    inspect_checkpoint(configured(copy("bert"), pad_token_id=3))  # its positions are counted from 0


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (
            Exception("data did not match any variant of untagged enum ModelWrapper at line 9"),
            "another version",
        ),
        (ImportError("requires the SentencePiece library but it was not found"), "pip install sentencepiece"),
        (ValueError("Converting from SentencePiece and Tiktoken failed"), "sentencepiece"),
        (ValueError("`tiktoken` is required to read a `tiktoken` file"), "tokenizer.json"),
    ],
)
def test_a_tokenizer_that_cannot_be_loaded_is_reported_with_a_remedy(error, part, copy) -> None:
    with pytest.raises(ModelError, match=part), loading.loading("a-checkpoint"):
        raise error


def test_a_tokenizer_file_of_another_version_is_refused(copy) -> None:
    directory = copy()
    path = directory / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["type"] = "WordPieceOfTheFuture"
    path.write_text(json.dumps(values))
    refused(directory, "another version of tokenizers")


def test_inspecting_leaves_the_random_state_as_it_was(intact) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    inspect_checkpoint(intact["bert"], max_length=8)
    assert torch.equal(torch.rand(3), expected)
