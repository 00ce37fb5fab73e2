"""Licences of teacher and data: in the card and the manifest, and a warning where they exclude commercial use."""

import logging

import pytest
from huggingface_hub import ModelCard

from distiltune.cluster.pipeline.finalize import _origin
from distiltune.cluster.specification.config import JobConfig
from distiltune.cluster.specification.goal import check_goals
from distiltune.export.artifact.card import model_card
from distiltune.export.artifact.licences import is_non_commercial, licence_of_artifact
from distiltune.training.data.config import data_config
from distiltune.training.data.text_data import load_data
from distiltune.training.teacher.config import TeacherConfig


def card(**licences: str | None) -> ModelCard:
    made_from = {
        "run_id": "r",
        "licences": {"teacher": None, "data": None, **licences},
        "base_model": "someone/encoder",
        "data": {"dataset": "someone/texts", "fingerprint": "f" * 64},
    }
    return ModelCard(
        model_card(["a", "b"], made_from, {"accuracy": 0.9, "in_scope_accuracy": None, "oos_recall": 0.5})
    )


@pytest.mark.parametrize(
    "licence", ["cc-by-nc-4.0", "CC BY-NC-SA 4.0", "non-commercial", "Research only", "nc"]
)
def test_names_that_exclude_commercial_use(licence: str) -> None:
    assert is_non_commercial(licence)


@pytest.mark.parametrize("licence", ["apache-2.0", "mit", "cc-by-4.0", "bsl-1.0", "ncsa", "openrail", None])
def test_other_names_do_not(licence: str | None) -> None:
    assert not is_non_commercial(licence)


@pytest.mark.parametrize(
    ("licences", "stated"),
    [
        ({"teacher": "apache-2.0", "data": "cc-by-4.0"}, "apache-2.0"),
        ({"teacher": "apache-2.0", "data": None}, "apache-2.0"),
        ({"teacher": "apache-2.0", "data": "cc-by-nc-4.0"}, "other"),
        ({"teacher": "cc-by-nc-4.0", "data": None}, "cc-by-nc-4.0"),
        ({"teacher": None, "data": "mit"}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_the_stated_licence(licences, stated) -> None:
    assert licence_of_artifact(licences) == stated
    assert card(**licences).data.license == stated


def test_a_card_has_the_ratio_with_its_interval() -> None:
    ratio = {"faster": 20.81, "low": 20.13, "high": 21.48, "num_rounds": 24}
    text = model_card(["a"], {}, {"accuracy": 0.9, "ratios": {"teacher-pytorch": ratio}})
    assert "| faster than teacher-pytorch | 20.8x (20.1 to 21.5) |" in text
    assert "num_rounds" not in text
    assert "faster than" not in model_card(["a"], {}, {"accuracy": 0.9, "ratios": None})


def test_a_card_has_base_model_data_and_results() -> None:
    found = card(teacher="apache-2.0", data="cc-by-nc-4.0")
    assert (found.data.base_model, found.data.datasets) == ("someone/encoder", ["someone/texts"])
    results = {(each.metric_type, each.metric_value) for each in found.data.eval_results or []}
    assert results == {("accuracy", 0.9), ("recall", 0.5)}
    assert (
        "Teacher: apache-2.0. Data: cc-by-nc-4.0. **Not for commercial use**, by the licence of its data."
        in found.text
    )
    assert "Find out what is unknown" in card(teacher="mit").text
    assert "unknown" not in card(teacher="mit", data="mit").text


@pytest.mark.parametrize(
    ("section", "origin"),
    [
        (
            {"fine_tune": {"checkpoint": "offline:all-MiniLM-L6-v2"}},
            ("sentence-transformers/all-MiniLM-L6-v2", "apache-2.0"),
        ),
        ({"checkpoint": "someone/encoder"}, ("someone/encoder", None)),
        ({"checkpoint": "someone/encoder", "licence": "mit"}, ("someone/encoder", "mit")),
        ({"checkpoint": "./mine"}, (None, None)),
        ({"checkpoint": "/models/mine", "licence": "mit"}, (None, "mit")),
        ({"scratch": {}}, (None, None)),
    ],
)
def test_the_model_that_a_teacher_was_made_from(section, origin) -> None:
    assert _origin(TeacherConfig.model_validate(section)) == origin


def test_a_licence_without_commercial_use_warns_and_changes_no_teacher(caplog) -> None:
    data = load_data(data_config())
    job = {"data": {"licence": "cc-by-nc-4.0"}, "teacher": {"licence": "mit"}}
    with caplog.at_level(logging.WARNING, "distiltune"):
        check_goals(JobConfig.model_validate(job), data)
    assert "data.licence: cc-by-nc-4.0 excludes commercial use" in caplog.text
    assert "teacher.licence" not in caplog.text
