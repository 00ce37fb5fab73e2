"""Narrower students: parts that contribute nothing go first, the others by importance; loaded, trained, exported."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from models import tiny_classifier, tiny_data
from transformers import AutoModelForSequenceClassification, ErnieConfig

from distiltune.cluster.pipeline.checks.models import check_models
from distiltune.cluster.remote.tasks import Task, make_student
from distiltune.cluster.specification.config import JobConfig
from distiltune.errors import ModelError
from distiltune.export.config import ExportConfig
from distiltune.export.onnx.inference_form import inference_form
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.variants.build import build_variant
from distiltune.export.variants.torch_int8 import load_pytorch_int8
from distiltune.search.config import SearchConfig
from distiltune.search.space.students import (
    Student,
    student_keys,
    student_name,
    student_names,
    without_misfits,
)
from distiltune.search.space.validation import space_faults
from distiltune.storage.store import Store
from distiltune.training.checkpoints.load import (
    load_classifier,
    load_model,
    load_tokenizer,
    new_classifier,
    save_checkpoint,
)
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.text_data import TextData
from distiltune.training.data.tokenized import IGNORED_LABEL, TokenizedDataset, tokenize_split
from distiltune.training.distillation.arguments import DistillationTrainingArguments
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.models.first_token import first_token_in_last_layer
from distiltune.training.models.structured_pruning import (
    KEPT_HEADS,
    keep_heads,
    keep_rows,
    num_heads,
    num_rows,
    readers,
)
from distiltune.training.student.build import build_student
from distiltune.training.student.config import StudentConfig, student_config
from distiltune.training.student.layers import student_from_layers
from distiltune.training.student.size_config import WidthConfig
from distiltune.training.student.width import check_width, importance, narrow
from distiltune.training.tasks import SINGLE_LABEL

FAMILIES = ["bert", "distilbert", "roberta"]
LABELS = [f"label_{n}" for n in range(4)]
TEXTS = [text for text, _ in tiny_data()]
TARGETS = [LABELS.index(label) for _, label in tiny_data()]
# Two layers with 4 heads of 8 columns and 64 rows: what each layer keeps.
HEADS = [[0, 2, 3], [1, 2, 3]]
ROWS = [[*range(40)], sorted([*range(3, 63, 2), *range(44, 64, 2)])]
WIDTH = WidthConfig(num_attention_heads=3, intermediate_size=40)


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> dict[str, Path]:
    """A classifier of each family whose weights and biases are all random."""
    made = {}
    for family in FAMILIES:
        made[family] = tiny_classifier(tmp_path_factory.mktemp(family), family=family, label_names=LABELS)
        config, tokenizer = load_model(made[family]).config, load_tokenizer(made[family])
        config.num_attention_heads = 4
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(3)
            model = new_classifier(config)
            for name, value in model.named_parameters():
                if not name.endswith(("LayerNorm.weight", "layer_norm.weight")):
                    value.normal_(std=0.2)
        save_checkpoint(model, tokenizer, made[family])
    return made


def logits_of(model, tokenizer, texts=TEXTS[:6]) -> torch.Tensor:
    batch = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        return model.eval()(**batch).logits


def width(**counts) -> StudentConfig:
    return student_config(layers=[0, 1], width=counts)


def without(model, heads=HEADS, rows=ROWS):
    """The model in which heads and rows that are not kept contribute nothing."""
    with torch.no_grad():
        for (out, second), kept_heads, kept_rows in zip(readers(model), heads, rows, strict=True):
            columns = out.weight.view(len(out.weight), -1, 8)
            columns[:, [head for head in range(4) if head not in kept_heads]] = 0
            second.weight[:, [row for row in range(64) if row not in set(kept_rows)]] = 0
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_that_contribute_nothing_are_pruned_and_the_logits_stay(family, wide):
    model, tokenizer = load_classifier(wide[family])
    before, parameters = logits_of(without(model), tokenizer), model.num_parameters()
    split = tokenize_split(TEXTS, TARGETS, tokenizer, 32)
    heads, rows = importance(model, split)
    assert heads is not None and rows is not None
    assert [sorted(each.topk(3).indices.tolist()) for each in heads] == HEADS
    assert [sorted(each.topk(40).indices.tolist()) for each in rows] == ROWS
    narrow(model, tokenizer, WIDTH, TEXTS, TARGETS)
    torch.testing.assert_close(logits_of(model, tokenizer), before, atol=1e-5, rtol=0)
    for out, second in readers(model):
        assert out.weight.shape == (32, 24) and second.weight.shape == (32, 40)
        assert (out.in_features, second.in_features) == (24, 40)
    # Each layer loses 8 rows of 3 projections with their biases, 8 columns; 24 rows with their biases, 24 columns.
    assert parameters - model.num_parameters() == 2 * (3 * 8 * 33 + 8 * 32 + 24 * 33 + 24 * 32)
    assert (num_heads(model.config), num_rows(model.config)) == (3, 40)
    with first_token_in_last_layer(model):
        torch.testing.assert_close(logits_of(model, tokenizer), before, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_importance_is_the_mean_size_of_the_derivative_by_a_mask(family, wide):
    model, tokenizer = load_classifier(wide[family])
    model = model.double()
    texts = [*TEXTS[:3], "open"]
    split = tokenize_split(texts, [2, 0, 1, IGNORED_LABEL], tokenizer, 32)
    found: Any = importance(model.train(), split)
    assert model.training, "its mode is restored"
    masked: dict[torch.nn.Module, torch.Tensor] = {}
    for out, second in readers(model.eval()):
        masked |= {out: torch.ones(32).double(), second: torch.ones(64).double()}
    for module in masked:
        module.register_forward_pre_hook(lambda module, inputs: (inputs[0] * masked[module],))
    with torch.no_grad():
        ids = [torch.tensor(split.row(number))[None].long() for number in range(4)]
        labels = [2, 0, 1, int(model(ids[3]).logits.argmax())]

        def losses() -> np.ndarray:
            rows = np.stack([model(each).logits[0].numpy() for each in ids])
            return np.log(np.exp(rows).sum(1)) - rows[range(4), labels]

        def derivative(mask: torch.Tensor, columns: slice) -> float:
            either = []
            for step in (1e-6, -1e-6):  # small: DistilBERT's head has kinks
                mask[columns] = 1 + step
                either.append(losses())
            mask[columns] = 1
            return float(np.abs((either[0] - either[1]) / 2e-6).mean())

        for layer, (out, second) in enumerate(readers(model)):
            heads = [derivative(masked[out], slice(8 * head, 8 * head + 8)) for head in range(4)]
            rows = [derivative(masked[second], slice(row, row + 1)) for row in range(0, 64, 13)]
            np.testing.assert_allclose(found[0][layer], heads, rtol=1e-5)
            np.testing.assert_allclose(found[1][layer][::13], rows, rtol=1e-5)


def test_texts_are_spread_over_all_and_what_is_kept_is_the_same_again(wide, monkeypatch):
    monkeypatch.setattr("distiltune.training.student.width.NUM_TEXTS", 5)
    seen, tokenize = [], SINGLE_LABEL.tokenize_labelled
    monkeypatch.setattr(
        SINGLE_LABEL, "tokenize_labelled", lambda *given: seen.append(given[:2]) or tokenize(*given)
    )
    states = []
    for _ in range(2):
        model, tokenizer = load_classifier(wide["bert"])
        narrow(model, tokenizer, WidthConfig(num_attention_heads=2), TEXTS, TARGETS)
        states.append(model.state_dict())
    places = [0, 12, 24, 35, 47]
    assert seen[0] == ([TEXTS[place] for place in places], [TARGETS[place] for place in places])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    narrow(model, tokenizer, WidthConfig(num_attention_heads=1), TEXTS)  # once more, and without labels
    assert num_heads(model.config) == 1 and num_rows(model.config) == 64


@pytest.mark.parametrize("family", FAMILIES)
def test_a_narrow_student_is_built_loaded_and_loaded_by_nothing_else(family, wide, tmp_path):
    config = student_config(layers=[1], width=WIDTH.model_dump())
    made = build_student(config, wide[family], LABELS, tmp_path / "s", texts=(TEXTS, ()), labels=TARGETS)
    assert (made["num_attention_heads"], made["intermediate_size"]) == (3, 40)
    student, tokenizer = load_classifier(tmp_path / "s")
    assert made["num_parameters"] == student.num_parameters()
    saved = json.loads((tmp_path / "s" / "config.json").read_text())
    assert saved[KEPT_HEADS] == 3 and type(student).__name__ == saved["architectures"][0]
    teacher = load_classifier(wide[family])[0]
    narrow(teacher, tokenizer, WIDTH, TEXTS, TARGETS)  # importance is measured in the whole teacher
    expected = student_from_layers(teacher, [1])
    assert torch.equal(logits_of(student, tokenizer), logits_of(expected, tokenizer))
    assert torch.equal(readers(student)[0][0].weight, readers(teacher)[1][0].weight)
    # Other labels give it a new head; all else is that of the checkpoint.
    other = student_config(checkpoint=str(tmp_path / "s"))
    build_student(other, wide[family], ["a", "b"], tmp_path / "other")
    bodies = (
        each.base_model.state_dict() for each in (load_model(tmp_path / "other", complete=True), student)
    )
    assert all(torch.equal(*pair) for pair in zip(*(body.values() for body in bodies), strict=True))
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "s")


@pytest.mark.parametrize("family", FAMILIES)
def test_fewer_rows_alone_load_with_transformers_alone(family, wide, tmp_path):
    build_student(width(intermediate_size=40), wide[family], LABELS, tmp_path / "s", texts=(TEXTS, ()))
    ours, tokenizer = load_classifier(tmp_path / "s")
    assert KEPT_HEADS not in json.loads((tmp_path / "s" / "config.json").read_text())
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "s")
    assert torch.equal(logits_of(stock, tokenizer), logits_of(ours, tokenizer))


def test_only_one_function_loads_classifiers():
    root = Path(__file__).parents[3]
    folders = ("training", "search", "export", "cluster")
    direct = re.compile(r"ForSequenceClassification\.from_(pretrained|config)")
    for path in (path for folder in folders for path in (root / folder).rglob("*.py")):
        assert not direct.search(path.read_text(encoding="utf-8")), (
            f"{path}: use training.checkpoints.load_model"
        )


def test_keeping_all_changes_nothing(wide):
    model, tokenizer = load_classifier(wide["bert"])
    before = model.state_dict()
    narrow(model, tokenizer, WidthConfig(num_attention_heads=4, intermediate_size=64), TEXTS)
    narrow(model, tokenizer, WidthConfig(), TEXTS)
    assert not hasattr(model.config, KEPT_HEADS)
    assert all(value is before[name] or torch.equal(value, before[name]) for name, value in before.items())


def test_it_learns_from_the_teacher_and_is_loaded_from_its_checkpoint(wide, tmp_path):
    teacher, tokenizer = load_classifier(wide["bert"])
    config = width(num_attention_heads=1, intermediate_size=4)
    build_student(config, wide["bert"], LABELS, tmp_path / "s", texts=(TEXTS, ()), labels=TARGETS)
    split = tokenize_split(TEXTS, TARGETS, tokenizer, 32)
    student = load_model(tmp_path / "s", complete=True)
    first_token_in_last_layer(student)
    trainer = DistillationTrainer(
        model=student,
        args=DistillationTrainingArguments(
            output_dir=str(tmp_path / "out"),
            num_train_epochs=6,
            per_device_train_batch_size=16,
            learning_rate=5e-3,
            alpha=0.0,
            temperature=2.0,
            use_cpu=True,
            save_strategy="epoch",
            report_to="none",
            disable_tqdm=True,
        ),
        teacher_model=teacher,
        train_dataset=TokenizedDataset(split),
        data_collator=DistillationCollator(tokenizer.pad_token_id),
    )

    def distance(model) -> float:
        both = (torch.log_softmax(logits_of(each, tokenizer, TEXTS), -1) for each in (model, teacher))
        return torch.nn.functional.kl_div(*both, log_target=True, reduction="batchmean").item()

    before = distance(student)
    trainer.train()
    assert distance(student) < 0.5 * before
    [last] = (tmp_path / "out").glob("checkpoint-18")
    trained = load_model(last, complete=True)
    pairs = zip(trained.state_dict().items(), student.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
    assert num_rows(trained.config) == 4 and num_heads(trained.config) == 1


def narrow_checkpoint(directory: Path, family: str, wide: dict[str, Path]) -> Path:
    model, tokenizer = load_classifier(wide[family])
    keep_heads(model, HEADS)
    keep_rows(model, ROWS)
    save_checkpoint(model, tokenizer, directory)
    return directory


def exported(name, student: Path, out: Path, base: Path | None = None):
    return build_variant(name, student, out, config=ExportConfig(), max_length=32, base_onnx=base)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_narrow_student_is_quantized_in_pytorch_and_rewritten_for_export(family, wide, tmp_path):
    student = narrow_checkpoint(tmp_path / "s", family, wide)
    model, tokenizer = load_classifier(student)
    logits = logits_of(model, tokenizer)
    made = exported("student-pytorch-int8", student, tmp_path / "int8")
    assert made.max_abs_diff < 0.2 * logits.std()
    assert readers(load_pytorch_int8(tmp_path / "int8"))[0][0].in_features == 24
    ids = tokenizer(TEXTS[:1], return_tensors="pt")["input_ids"]
    mask = torch.zeros(1, 1, ids.shape[1], ids.shape[1])
    with torch.no_grad():
        found = inference_form(model)(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(found, logits[:1], atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_exported_plain_and_fused(family, wide, tmp_path):
    student = narrow_checkpoint(tmp_path / "s", family, wide)
    logits = logits_of(*load_classifier(student))
    for name in ("onnx", "onnx-fused", "onnx-int8"):
        made = exported(
            name, student, tmp_path / name, None if name == "onnx" else tmp_path / "onnx/model.onnx"
        )
        found = TextClassifier.load(tmp_path / name).logits(TEXTS[:6])
        np.testing.assert_allclose(found, logits, atol=1e-5 if "int8" not in name else 0.2 * logits.std())
        if made.fused:
            assert (made.fused["Attention"], made.fused["MultiHeadAttention"]) == (1, 1)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (
            {"intermediate_size": 65},
            "intermediate_size: 65 given; each layer .* has 64 .* rows; accepted: 1 to 64",
        ),
        (
            {"num_attention_heads": 5},
            "num_attention_heads: 5 given; .* has 4 attention heads; accepted: 1 to 4",
        ),
    ],
)
def test_more_heads_or_rows_than_exist_are_refused_before_the_job_begins(counts, message, wide, tmp_path):
    with pytest.raises(ModelError, match=rf"student\.width\.{message}"):
        build_student(width(**counts), wide["bert"], LABELS, tmp_path / "s", texts=(TEXTS, ()))
    student, teacher = {"layers": [0]}, {"checkpoint": str(wide["bert"])}
    scratch = {"scratch": {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}}
    [[name, value]] = counts.items()
    space = {"search": {"space": {f"student.{name}": {"type": "choice", "values": [1, value]}}}}
    for each in (teacher, scratch):
        with pytest.raises(ModelError, match=rf"student\.width\.{message}"):
            check_models(JobConfig.model_validate({"teacher": each, "student": {**student, "width": counts}}))
        with pytest.raises(ModelError, match=rf"search\.space\.student\.{message}"):
            check_models(JobConfig.model_validate({"teacher": each, "student": student, **space}))
    own = {"checkpoint": str(wide["distilbert"]), "width": counts}
    with pytest.raises(ModelError, match=rf"student\.width\.{message}"):
        check_models(JobConfig.model_validate({"teacher": {"scratch": {}}, "student": own}))


def test_missing_texts_counts_of_zero_and_unknown_families_are_refused(wide, tmp_path):
    with pytest.raises(ModelError, match=r"student.width: .*training texts"):
        build_student(width(intermediate_size=40), wide["bert"], LABELS, tmp_path / "s")
    for name in ("intermediate_size", "num_attention_heads"):
        with pytest.raises(ValueError, match="greater than or equal to 1"):
            width(**{name: 0})
    with pytest.raises(
        ModelError, match=r"student\.width: 'ernie' given.*: albert, bert, .*, roberta, xlm-roberta;"
    ):
        check_width(WidthConfig(num_attention_heads=1), ErnieConfig())


def test_widths_are_searched_beside_layers():
    space = {
        "student.layers": {"type": "choice", "values": [[0], [0, 1]]},
        "student.num_attention_heads": {"type": "int", "low": 1, "high": 2},
        "student.intermediate_size": {"type": "choice", "values": [16, 64]},
    }
    config = SearchConfig.model_validate({"space": space, "constraints": ["latency_ms <= 1.0"]})
    assert space_faults(config, TrainingConfig(), student_config()) == []
    own = student_config(width={"num_attention_heads": 7})
    names = student_names(config)
    assert len(names) == 8
    for name, arguments in names.items():
        assert student_name({**arguments, "alpha": 0.5}) == name
        made = own.with_searched(student_keys({**arguments, "alpha": 0.5}), Path("not read"))
        assert made.width == WidthConfig(
            num_attention_heads=arguments["student.num_attention_heads"],
            intermediate_size=arguments["student.intermediate_size"],
        )
        assert made.layers == arguments["student.layers"]
    assert own.with_searched({}, Path("not read")) == own
    # 64 rows are too slow with any layers, two layers with any rows but with one head.
    students = {
        name: Student(
            name,
            {
                "latency_ms": len(each["student.layers"]) * each["student.num_attention_heads"] / 2
                + each["student.intermediate_size"] / 60,
                "num_parameters": 1.0,
            },
        )
        for name, each in names.items()
    }
    kept = without_misfits(config, students).space
    assert kept["student.intermediate_size"].values == [16]
    assert kept["student.layers"].values == [[0]]
    assert kept["student.num_attention_heads"].values == [1]


def test_a_searched_student_is_made_with_the_labels_of_train(wide, tmp_path):
    rows = datasets.Dataset.from_dict(
        {"text": TEXTS, "label": TARGETS},
        features=datasets.Features(
            {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=LABELS)}
        ),
    )
    data = TextData(datasets.DatasetDict(dict.fromkeys(("train", "validation", "test"), rows)), None)
    shutil.copytree(wide["bert"], tmp_path / "teacher")
    job = JobConfig.model_validate(
        {
            "teacher": {"checkpoint": str(wide["bert"])},
            "student": {"width": {"intermediate_size": 40}},
            "training": {"max_length": 64},
        }
    )
    task = Task(
        Store(str(tmp_path)), job, "log", "progress", num_threads=1, use_gpu=False, unfinished="unfinished"
    )
    searched = {"student.num_layers": 2, "student.num_attention_heads": 3}
    made = make_student(task, "teacher", data, "made", searched)
    assert [made[name] for name in ("num_layers", "num_attention_heads", "intermediate_size")] == [2, 3, 40]
    config = student_config(layers=[0, 1], width=WIDTH.model_dump())
    build_student(
        config, wide["bert"], LABELS, tmp_path / "s", max_length=64, texts=(TEXTS, ()), labels=TARGETS
    )
    found, expected = (load_model(tmp_path / name).state_dict() for name in ("made", "s"))
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_widths_that_cannot_be_searched_are_refused():
    space = {
        "student.num_attention_heads": {"type": "choice", "values": [0, 2.5]},
        "student.intermediate_size": {"type": "int", "low": 16, "high": 64},
    }
    config = SearchConfig.model_validate({"space": space})
    own = student_config(checkpoint="distilbert-base-uncased")  # its width may be searched
    faults = "\n".join(space_faults(config, TrainingConfig(), own))
    assert "search.space.student.num_attention_heads: 0 is rejected: it must be a whole number" in faults
    assert "search.space.student.num_attention_heads: 2.5 is rejected" in faults
    assert "search.space.student.intermediate_size: a range is rejected, " in faults
    assert len(faults.splitlines()) == 3
