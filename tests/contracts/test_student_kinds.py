"""The contract of every student kind, and a kind registered from outside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal

import datasets
import numpy as np
import pytest
import torch
from convolution_students import convolution_student
from models import tiny_classifier, tiny_data
from pydantic import Field, ValidationError

from distiltune.cluster.pipeline.checks.models import check_models
from distiltune.cluster.pipeline.checks.texts import check_new_pieces, check_texts
from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.cluster.specification.printing import as_yaml
from distiltune.cluster.specification.reading import parse_yaml
from distiltune.cluster.specification.reference import as_markdown
from distiltune.cluster.store.input_files import ship_inputs, with_local_inputs
from distiltune.errors import ConfigError, ModelError
from distiltune.export.config import ExportConfig
from distiltune.export.onnx.convert import export_onnx
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.variants.build import build_variant
from distiltune.export.variants.parity import onnx_logits
from distiltune.search.config import SearchConfig
from distiltune.search.space.validation import space_faults
from distiltune.search.student_arguments import STUDENT_KIND, student_arguments
from distiltune.storage.store import Store
from distiltune.training.checkpoints.load import (
    label_names,
    load_classifier,
    load_model,
    load_tokenizer,
    new_classifier,
)
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.text_data import TextData
from distiltune.training.data.tokenized import JoinedDataset, LabelledSplit, tokenize_split
from distiltune.training.distillation.arguments import DistillationTrainingArguments
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.models.first_token import first_token_in_last_layer
from distiltune.training.models.trainable_embedding_rows import train_used_rows
from distiltune.training.section import Width
from distiltune.training.student.build import build_student
from distiltune.training.student.config import student_config
from distiltune.training.student.kinds.base import STUDENT_KINDS, BuiltStudent, StudentConfig, StudentInputs

LABELS = ["balance", "oos", "transfer", "weather"]
TEXTS = [text for text, _ in tiny_data()]
TARGETS = [number // 12 for number in range(48)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("kinds") / "teacher", num_layers=4, label_names=LABELS)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint other than the teacher, with other labels and other word pieces; beside it a convolution."""
    folder = tmp_path_factory.mktemp("kinds") / "other"
    convolution_student(folder.with_name("trained"), num_pieces=80, window_sizes=[1, 3], num_blocks=1)
    return tiny_classifier(folder, family="distilbert", label_names=["a", "b"], texts=TEXTS[:30], seed=1)


class FreshStudent(StudentConfig):
    """One untrained layer of the teacher's shape, with any number of feed-forward rows."""

    kind: Literal["fresh"] = Field(default="fresh", description="An untrained layer.")
    rows: Width = Field(default=16, description="fresh: feed-forward rows.")

    searched_keys: ClassVar[tuple[str, ...]] = ("intermediate_size",)

    def with_searched(self, values, teacher_dir):
        return self.model_copy(update={"rows": values.get("intermediate_size", self.rows)})

    def check_shapes(self, teacher, searched):
        if self.rows > 64:
            raise ModelError(f"student.rows: {self.rows} given; accepted: 1 to 64")
        return teacher

    def build(self, inputs: StudentInputs) -> BuiltStudent:
        source, tokenizer = load_classifier(inputs.teacher_dir)
        source.config.num_hidden_layers, source.config.intermediate_size = 1, self.rows
        model = new_classifier(source.config)
        table = source.get_input_embeddings().weight
        record = {"family": "bert", "num_layers": 1, "num_embeddings": len(table), "parity": []}
        return BuiltStudent(model, tokenizer, record)


def values_of(kind: str, other: Path) -> dict[str, Any]:
    """Values that make a student of a kind, with one key beside its name that selects it as well."""
    own: dict[str, dict[str, Any]] = {
        "layers": {"layers": [0, 2]},
        "checkpoint": {"checkpoint": str(other)},
        "convolution": {"num_filters": 12, "window_sizes": [1, 3], "num_blocks": 1, "hidden_size": 8},
        "static": {"hidden_size": 8},
        "pruned": {"trained": str(other.with_name("trained")), "kept_filters": 5},
        "fresh": {"rows": 24},
    }
    return {"kind": kind, **own[kind]}


@pytest.fixture(params=[*STUDENT_KINDS.names, "fresh"])
def config(request: pytest.FixtureRequest, other: Path) -> Iterator[StudentConfig]:
    """A section of each kind, and of one that is registered from outside."""
    with STUDENT_KINDS.temporarily(FreshStudent) if request.param == "fresh" else nullcontext():
        yield student_config(**values_of(request.param, other))


def built(config: StudentConfig, teacher: Path, folder: Path) -> dict[str, torch.Tensor]:
    """The weights that a kind writes."""
    texts = (TEXTS, ["more texts"])
    record = build_student(
        config,
        teacher,
        LABELS,
        folder,
        max_length=16,
        texts=texts,
        labels=TARGETS,
        validation_texts=TEXTS[:4],
    )
    assert record["num_parameters"] > 0
    assert json.loads(json.dumps(record)) == record
    return load_classifier(folder)[0].state_dict()


def job(config: StudentConfig, teacher: Path) -> JobConfig:
    section = config.model_dump(mode="json")
    return JobConfig.model_validate({"teacher": {"checkpoint": str(teacher)}, "student": section})


def test_the_kinds():
    assert STUDENT_KINDS.names == ["layers", "checkpoint", "convolution", "static", "pruned"], (
        "the default is listed first"
    )
    assert type(student_config()) is STUDENT_KINDS["layers"]


def test_a_student_is_built_and_its_checkpoint_answers(config, teacher, tmp_path):
    built(config, teacher, tmp_path / "student")
    model, tokenizer = load_classifier(tmp_path / "student")
    batch = tokenizer(TEXTS[:5], padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        logits = model(**batch).logits
    assert logits.shape == (5, len(LABELS))
    assert logits.isfinite().all()
    assert label_names(model) == LABELS
    is_own = tokenizer.get_vocab() != load_tokenizer(teacher).get_vocab()
    assert is_own == config.own_tokenizer


def test_the_seed_determines_new_weights(config, teacher, tmp_path):
    first, again = (built(config, teacher, tmp_path / name) for name in ("first", "again"))
    assert first.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    torch.rand(3)  # random numbers that were drawn before make no difference
    moved = built(config.model_copy(update={"seed": 1}), teacher, tmp_path / "moved")
    same = all(torch.equal(value, moved[name]) for name, value in first.items())
    assert same == (config.kind == "layers"), "a student of the teacher's layers has no new weights"


def test_a_section_survives_json_the_printed_job_and_its_own_keys(config, teacher, other):
    assert student_config(**json.loads(config.model_dump_json())) == config
    given = job(config.model_copy(update={"seed": 3}), teacher)
    for all_keys in (False, True):
        printed = parse_yaml(as_yaml(given, all_keys=all_keys))
        assert JobConfig.model_validate(printed) == given
    alone = {key: value for key, value in values_of(config.kind, other).items() if key != "kind"}
    is_selected = STUDENT_KINDS.named_by(alone) is not None or config.kind == "layers"
    if is_selected:  # otherwise several kinds have these keys
        assert student_config(**alone) == config
    with pytest.raises(ValidationError, match="speed"):
        student_config(**values_of(config.kind, other), speed=3)


def test_a_kind_is_described_and_refuses_keys_of_other_kinds(config, other):
    section = STUDENT_KINDS[config.kind]
    schema = JobConfig.model_json_schema()["$defs"][section.__name__]
    assert all("description" in each for each in schema["properties"].values())
    assert f"## `student`, kind `{config.kind}`" in as_markdown()
    for each in STUDENT_KINDS:
        for key in set(each.model_fields) - set(section.model_fields):
            with pytest.raises(ValidationError, match=key):
                student_config(**values_of(config.kind, other), **{key: "x"})


def test_checkpoints_of_this_machine_travel_with_a_job(config, teacher, tmp_path):
    named = config.checkpoints()
    assert set(named) <= set(config.checkpoint_keys)
    assert config.source is None or config.source in named.values()
    store = Store(str(tmp_path / "store"))
    sent = ship_inputs(job(config, teacher), store)
    assert all(name.startswith("storage:") for name in sent.student.checkpoints().values())
    there = with_local_inputs(sent, store)
    assert there.student.checkpoints().keys() == named.keys()
    assert all(
        Path(name).is_dir() and name not in named.values() for name in there.student.checkpoints().values()
    )
    check_models(there)
    paths = [path for path in config.checkpoint_keys if path in named]
    for path in paths:
        wrong = config.model_copy(update={path[-1]: str(tmp_path / "nowhere")})
        with pytest.raises(ModelError, match=rf"student\.{'.'.join(path)}: .*nowhere"):
            check_models(job(wrong, teacher))


def test_a_kind_passes_the_checks_of_a_job(config, teacher):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=LABELS)}
    )
    rows = datasets.Dataset.from_dict({"text": TEXTS, "label": TARGETS}, features=features)
    data = TextData(datasets.DatasetDict(dict.fromkeys(("train", "validation", "test"), rows)), None)
    for section in ({"checkpoint": str(teacher)}, {"scratch": {"num_hidden_layers": 4}}):
        given = JobConfig.model_validate({"teacher": section, "student": config})
        check_models(given)
        check_new_pieces(given, data)
        check_texts(given, data)


def test_a_search_varies_only_the_keys_that_a_kind_names(config, teacher):
    choices: Mapping[str, Any] = {
        "student.layers": [[0], [0, 1]],
        "student.window_sizes": [[3], [1, 3]],
        "student.pooling": ["max", "max_mean"] if config.kind == "convolution" else ["mean", "max_mean"],
    }
    for name in (each for each in student_arguments() if each != STUDENT_KIND):
        choice = {"type": "choice", "values": choices.get(name, [1, 2])}
        search, key = SearchConfig.model_validate({"space": {name: choice}}), name.removeprefix("student.")
        faults = space_faults(search, TrainingConfig(), config)
        if key not in config.searched_keys:
            assert len(faults) == 1 and faults[0].startswith(f"search.space.{name}: ")
            continue
        assert faults == []
        first, second = (config.with_searched({key: each}, teacher) for each in choice["values"])
        assert first != second
        assert type(first) is type(second) is type(config)
    assert config.with_searched({}, teacher) == config


def test_a_kind_that_is_added_from_outside_is_configured_and_built(teacher, tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"student\.kind: 'fresh' is not known; accepted: layers, checkpoint, convolution, static, pruned",
    ):
        load_config("clinc150", ["student.kind=fresh"])
    with STUDENT_KINDS.temporarily(FreshStudent):
        given = ["student.rows=24", f"teacher.checkpoint={teacher}"]
        config = load_config("clinc150", given)  # `rows` is a key of this kind alone
        assert config.student == FreshStudent(rows=24, seed=42)
        assert "| `student.rows` | whole number ≥ 1 | `16` | fresh: feed-forward rows. |" in as_markdown()
        with pytest.raises(ConfigError, match=r"student\.layers: .* kind layers, checkpoint"):
            load_config("quickstart", ["student={kind: fresh, layers: [0]}"])
        with pytest.raises(ConfigError, match=r"student\.row: .*'rows'"):
            load_config("quickstart", ["student={kind: fresh, row: 8}"])
    check_models(config)
    with pytest.raises(ModelError, match=r"student\.rows: 99"):
        check_models(config.model_copy(update={"student": FreshStudent(rows=99)}))
    weights = built(config.student, teacher, tmp_path / "student")
    assert sum(value.shape == (24, 32) for value in weights.values()) == 1


def trained(student: Path, folder: Path, num_epochs: int, resume: str | None = None) -> DistillationTrainer:
    """Train a student's checkpoint for a few steps on a teacher's random logits."""
    model, tokenizer = load_classifier(student)
    split = tokenize_split(TEXTS, np.array(TARGETS), tokenizer, 16)
    logits = np.random.default_rng(0).normal(size=(len(TEXTS), len(LABELS))).astype(np.float32)
    args = DistillationTrainingArguments(
        output_dir=str(folder), num_train_epochs=2, max_steps=3 * num_epochs, per_device_train_batch_size=16,
        learning_rate=1e-2, lr_scheduler_type="constant", save_strategy="steps", save_steps=3, use_cpu=True, bf16=False,
        report_to="none", disable_tqdm=True, alpha=0.3,
    )  # fmt: skip
    trainer = DistillationTrainer(
        model=model,
        args=args,
        train_dataset=JoinedDataset([LabelledSplit(split, logits)], with_teacher=True),
        data_collator=DistillationCollator(tokenizer.pad_token_id),
    )
    train_used_rows(model, split.input_ids)
    first_token_in_last_layer(model)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_a_student_is_trained_and_resumed_to_the_same_weights(config, teacher, tmp_path):
    before = built(config, teacher, tmp_path / "student")
    whole = trained(tmp_path / "student", tmp_path / "whole", 2).model.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in whole.items())
    trained(tmp_path / "student", tmp_path / "half", 1)
    resumed = trained(tmp_path / "student", tmp_path / "half", 2, str(tmp_path / "half" / "checkpoint-3"))
    assert resumed.state.global_step == 6
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, whole[name]), name
    saved = load_model(tmp_path / "half" / "checkpoint-6", complete=True)
    for name, value in saved.state_dict().items():
        assert torch.equal(value, whole[name]), name


def test_a_student_without_layers_is_exported_with_equal_logits(config, teacher, tmp_path):
    if config.has_layers:
        return  # the families' contract
    built(config, teacher, tmp_path / "student")
    model = trained(tmp_path / "student", tmp_path / "trained", 1).model.eval()
    export_onnx(model, tmp_path / "model.onnx", max_length=16)
    tokenizer = load_tokenizer(tmp_path / "student")
    batch = tokenizer(TEXTS[:7], padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        expected = model(**batch).logits.numpy()
    found = onnx_logits(tmp_path / "model.onnx")(batch["input_ids"].numpy(), batch["attention_mask"].numpy())
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_artifact_of_a_student_without_layers_answers_as_pytorch_does(config, teacher, tmp_path):
    """The torch-free runtime, with the texts of its own tokenizer, in 32 and in 8 bits."""
    if config.has_layers:
        return  # the families' contract
    built(config, teacher, tmp_path / "student")
    model = trained(tmp_path / "student", tmp_path / "trained", 1).model.eval()
    model.save_pretrained(tmp_path / "student")
    tokenizer = load_tokenizer(tmp_path / "student")
    texts = [*TEXTS[:7], "a", "", "unseen w\u00f6rds, more of them than the table has pieces for"]
    for name, tolerance in (("onnx", 1e-5), ("onnx-int8", 0.1)):
        build_variant(name, tmp_path / "student", tmp_path / name, config=ExportConfig(), max_length=16)
        found = TextClassifier.load(tmp_path / name).logits(texts)
        for text, row in zip(texts, found, strict=True):
            batch = tokenizer([text], truncation=True, max_length=16, return_tensors="pt")
            with torch.no_grad():
                expected = model(batch["input_ids"], batch["attention_mask"]).logits[0].numpy()
            np.testing.assert_allclose(row, expected, atol=tolerance * np.abs(expected).max(), err_msg=text)
