"""Labels with few training texts: how they are counted, and the remedies for a job."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from distiltune.training.data.analysis.few_labels import FEW_TEXTS, few_labels
from distiltune.training.data.config import data_config
from distiltune.training.data.label_kinds import ANSWERS, NAME_SETS, NAMES, NUMBERS, TAGS, LabelKind
from distiltune.training.data.label_kinds.tag_scheme import tag_names

CONTRAST = "teacher.fine_tune.contrastive: {}"


def data(kind: LabelKind, names: list[str], stored: list[Any], outside: str | None = None) -> Any:
    return SimpleNamespace(
        label_kind=kind, label_names=names, splits={"train": {"label": stored}}, out_of_scope_label=outside
    )


def single(counts: list[int], outside: str | None = None) -> Any:
    names = [f"l{n}" for n in range(len(counts))]
    stored = [n for n, count in enumerate(counts) for _ in range(count)]
    return few_labels(data(NAMES, names, stored, outside))


@pytest.mark.parametrize(
    ("counts", "outside", "expected"),
    [
        ([8, 8, 8], None, (3, 3, 8, True)),
        ([15, 16, 15], None, (2, 3, 15, True)),
        ([16, 16, 15], None, (1, 3, 16, False)),
        ([100, 90, 80, 3], None, (1, 4, 85, False)),  # a rare tail
        ([3, 5, 500], None, (2, 3, 5, True)),
        ([12, 20], None, (1, 2, 16, False)),
        ([8, 9, 400], "l2", (2, 2, 8.5, True)),  # the out-of-scope label is not counted
        ([40, 50, 4], "l2", None),
        ([16, 17], None, None),
        ([400], None, None),
    ],
)
def test_labels_below_sixteen_texts_are_counted(counts, outside, expected) -> None:
    found = single(counts, outside)
    if expected is None:
        assert found is None
        return
    assert (found.num_few, found.num_labels, found.median, found.are_most) == expected
    assert f"{expected[0]} of {expected[1]} labels ha" in found.in_words()
    assert f"fewer than {FEW_TEXTS} training texts (the median has {expected[2]:g})" in found.in_words()
    assert found.to_json()["are_most"] == expected[3]


def test_each_label_of_a_text_counts() -> None:
    stored = [[1, 1, 0]] * 10 + [[1, 0, 0]] * 10
    found = few_labels(data(NAME_SETS, ["a", "b", "never"], stored))
    assert found is not None and (found.num_few, found.num_labels, found.median) == (1, 2, 15)


def test_labels_that_are_numbers_are_not_counted() -> None:
    assert few_labels(data(NUMBERS, ["price"], [[1.5], [-2.0]])) is None


def test_types_of_entities_are_counted_and_answers_are_not() -> None:
    stored = [[[0, 1, 0], [2, 3, 0], [4, 5, 1]]] * 10 + [[[0, 1, 0]]] * 10 + [[]] * 10
    found = few_labels(data(TAGS, tag_names(["a", "b"]), stored))
    assert found is not None and (found.num_few, found.num_labels, found.median) == (1, 2, 15)
    assert few_labels(data(ANSWERS, ["start", "end"], [[[0, 4]]] * 3)) is None


def test_classes_are_not_balanced_where_a_text_has_several_labels() -> None:
    config, found = data_config(source="files", train="x.csv"), single([90, 80, 3])
    assert "training.balance" in found.advice(config, None)
    advice = found.advice(config, None, has_classes=False)
    assert "training.balance" not in advice and "data.min_examples_per_label" in advice


@pytest.mark.parametrize(
    ("counts", "section", "remedy", "named", "unnamed"),
    [
        ([8, 8], {}, CONTRAST, [CONTRAST, "data.unlabelled", "data.augmentation"], ["min_examples"]),
        ([8, 8], {"unlabelled": {"path": "x.txt"}}, CONTRAST, [CONTRAST], ["data.unlabelled"]),
        ([8, 8], {"augmentation": {"spliced": {"count": 9}}}, CONTRAST, [CONTRAST], ["data.augmentation"]),
        ([8, 8], {}, None, ["data.unlabelled"], ["contrastive"]),
        ([8, 8], {"unlabelled": {"path": "x.txt"}}, None, ["more labelled texts"], ["data.", "contrastive"]),
        ([90, 80, 3], {}, CONTRAST, ["data.min_examples_per_label", "training.balance"], [CONTRAST]),
    ],
)
def test_the_advice_names_what_the_job_lacks(counts, section, remedy, named, unnamed) -> None:
    config = data_config(source="files", train="x.csv", **section)
    advice = single(counts).advice(config, remedy)
    assert all(each in advice for each in named), advice
    assert not any(each in advice for each in unnamed), advice
