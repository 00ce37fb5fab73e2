"""The kind ``pruned``: which filters a student keeps, and what it refuses."""

from pathlib import Path

import pytest
import torch
from convolution_students import LABELS, convolution_student, static_student
from models import tiny_classifier, tiny_data

from distiltune.cluster.pipeline.checks.models import check_models
from distiltune.cluster.specification.config import JobConfig
from distiltune.errors import ConfigError, ModelError
from distiltune.training.checkpoints.load import load_classifier, save_checkpoint
from distiltune.training.models.convolution import filter_importance
from distiltune.training.models.tied_embedding_rows import share_rows
from distiltune.training.student.build import build_student
from distiltune.training.student.config import student_config

TEXTS = [text for text, _ in tiny_data()]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("teacher"), label_names=LABELS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return convolution_student(tmp_path_factory.mktemp("trained"), window_sizes=[2])


def test_the_most_important_filters_stay_and_the_change_is_recorded(teacher, trained, tmp_path):
    whole, _ = load_classifier(trained)
    scores = filter_importance(whole)[0]
    best = scores.argsort(descending=True)[:4].sort().values
    record = build_student(
        student_config(trained=str(trained), kept_filters=4),
        teacher,
        LABELS,
        tmp_path / "s",
        texts=(TEXTS, []),
    )
    model, _ = load_classifier(tmp_path / "s")
    kept = model.encoder.filters[0].linear.weight
    torch.testing.assert_close(kept, whole.encoder.filters[0].linear.weight[best])
    torch.testing.assert_close(model.classifier.weight, whole.classifier.weight)
    assert record["shape"] == "4 filters over 2 word pieces of 8 dimensions"
    (step,) = record["parity"]
    assert step["step"] == "pruning"
    assert 0 < step["logits_rmse"] < 1


def test_without_a_number_all_filters_stay(teacher, trained, tmp_path):
    record = build_student(
        student_config(trained=str(trained)), teacher, LABELS, tmp_path / "s", texts=(TEXTS, [])
    )
    assert record["parity"] == []
    whole, again = (load_classifier(each)[0].state_dict() for each in (trained, tmp_path / "s"))
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


@pytest.mark.parametrize("key", ["trained", "checkpoint"])
def test_rows_that_word_pieces_share_are_counted_once(teacher, trained, tmp_path, key):
    whole, tokenizer = load_classifier(trained if key == "trained" else teacher)
    share_rows(whole, range(40))
    save_checkpoint(whole, tokenizer, tmp_path / "shared")
    student = student_config(**{key: str(tmp_path / "shared")})
    assert build_student(student, teacher, LABELS, tmp_path / "s")["num_embeddings"] == 40


def job(teacher: Path, student: dict, **sections: dict) -> JobConfig:
    return JobConfig.model_validate(
        {
            "teacher": {"checkpoint": str(teacher)},
            "student": student,
            "export": {"variants": ["onnx"]},
            **sections,
        }
    )


@pytest.mark.parametrize("searched", [False, True])
def test_more_filters_than_there_are_are_refused(teacher, trained, searched):
    given = job(
        teacher,
        {"trained": str(trained), "kept_filters": 3 if searched else 7},
        search={"space": {"student.kept_filters": {"type": "choice", "values": [2, 7]}} if searched else {}},
    )
    where = r"search\.space\.student\.kept_filters" if searched else r"student\.kept_filters"
    with pytest.raises(ModelError, match=rf"^{where}: 7 given, but .* has 6 filters .*; accepted: 1 to 6$"):
        check_models(given)


def test_models_other_than_a_convolution_are_refused(teacher, tmp_path):
    for other, model_type in ((teacher, "bert"), (static_student(tmp_path / "s"), "distiltune-static")):
        with pytest.raises(ModelError, match=rf"student\.trained: .*'{model_type}' given; accepted: .*"):
            check_models(job(teacher, {"trained": str(other)}))


def test_integer_variants_need_the_maximum_alone_of_the_trained_student(teacher, trained, tmp_path):
    given = {"export": {"variants": ["onnx-integer"]}}
    maxima = convolution_student(tmp_path / "maxima", pooling="max")
    check_models(job(teacher, {"trained": str(maxima)}, **given))
    with pytest.raises(ConfigError, match=r"onnx-integer given, but the student's pooling is max_mean"):
        check_models(job(teacher, {"trained": str(trained)}, **given))
