"""A file of logits as a teacher: its forms, its faults, how it is joined, and how texts that it lacks are learned."""

import csv
import json

import datasets
import numpy as np
import pytest
import torch
from datafiles import write as write_rows
from models import tiny_classifier, tiny_data

from distiltune.cluster.specification.config import JobConfig
from distiltune.errors import DataError, InputError, ModelError
from distiltune.training.checkpoints.heads import LabelMatch
from distiltune.training.checkpoints.load import load_classifier, load_tokenizer
from distiltune.training.data.config import data_config
from distiltune.training.data.text_data import load_data
from distiltune.training.data.tokenized import tokenize_split
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.distillation.losses.base import LossInputs
from distiltune.training.distillation.losses.soft_targets import SoftTargets
from distiltune.training.models.inference import compute_logits
from distiltune.training.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from distiltune.training.teacher.config import LogitsFileConfig, TeacherConfig
from distiltune.training.teacher.file_teacher import is_measurable, prepare_file_teacher, stored_logits
from distiltune.training.teacher.logits_file import check_coverage, missing_rows, read_logits
from distiltune.training.teacher.prepare import prepare_teacher, teacher_key
from distiltune.training.teacher.write_logits import check_format, write_logits

NAMES = ["a", "b", "c"]
EACH_LOGIT, EACH_SHARE = (
    ["text", *(f"{form}.{name}" for name in NAMES)] for form in ("logits", "probabilities")
)
TEXTS = ["open early", "close\rlate", 'red, "blue"\nand more', "slow\r\n"]
LOGITS = np.array([[1.5, -2.25, 0.1], [0, 0, 3], [1e-7, 7, -7], [0.3, 0.1, 0.2]], dtype=np.float32)


def read(path, task=SINGLE_LABEL, names=NAMES, *, renamed=None, drop=False, has_pairs=False, **section):
    config = LogitsFileConfig(path=str(path), **section)
    return read_logits(config, task, names, LabelMatch(renamed or {}, drop, "teacher"), has_pairs=has_pairs)


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def table(path, names, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])
    return path


# ---- Forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
@pytest.mark.parametrize("texts", [TEXTS, [(text, f"{text} too") for text in TEXTS]], ids=["single", "pairs"])
def test_what_is_written_is_read_in_every_bit(tmp_path, suffix, texts):
    path = tmp_path / f"teacher{suffix}"
    write_logits(path, texts, NAMES, LOGITS)
    found = read(path, has_pairs=isinstance(texts[0], tuple))
    np.testing.assert_array_equal(found.of(texts), LOGITS)
    assert found.of(texts).dtype == np.float32
    np.testing.assert_array_equal(found.of(texts[::-1]), LOGITS[::-1])
    reordered = read(path, names=["c", "a", "b"], has_pairs=isinstance(texts[0], tuple))
    np.testing.assert_array_equal(reordered.of(texts), LOGITS[:, [2, 0, 1]])


def test_objects_of_label_and_number(tmp_path):
    rows = [
        {"text": text, "logits": dict(zip(NAMES, row.tolist(), strict=True))}
        for text, row in zip(TEXTS, LOGITS, strict=True)
    ]
    found = read(lines(tmp_path / "objects.jsonl", rows))
    np.testing.assert_allclose(found.of(TEXTS), LOGITS)
    as_text = [[row["text"], json.dumps(row["logits"])] for row in rows]
    found = read(table(tmp_path / "objects.csv", ["text", "logits"], as_text))
    np.testing.assert_allclose(found.of(TEXTS), LOGITS)


def test_probabilities_become_logits_with_the_same_softmax(tmp_path):
    shares = SINGLE_LABEL.class_probabilities(LOGITS.astype(float))
    names = ["text", *(f"probabilities.{name}" for name in NAMES)]
    rows = [[text, *row] for text, row in zip(TEXTS, shares.tolist(), strict=True)]
    found = read(table(tmp_path / "shares.csv", names, rows)).of(TEXTS)
    np.testing.assert_allclose(SINGLE_LABEL.class_probabilities(found), shares, atol=2e-6)
    sure = read(table(tmp_path / "sure.csv", names, [["open early", 1, 0, 0]])).of(["open early"])
    assert np.isfinite(sure).all()
    np.testing.assert_allclose(SINGLE_LABEL.class_probabilities(sure), [[1, 0, 0]], atol=1e-5)
    several = np.array([[0.9, 0.5, 0.0]])
    path = table(tmp_path / "several.csv", names, [["open early", *several[0]]])
    logits = read(path, MULTI_LABEL).of(["open early"])
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), several, atol=1e-5)


def test_hard_labels_with_confidence(tmp_path):
    rows = [["open early", "a", 0.8], ["close late", "b", ""], ["slow", "", 0.5], ["fast", "Z", 0.6]]
    path = table(tmp_path / "llm.csv", ["text", "label", "confidence"], rows)
    found = read(path, renamed={"Z": "c"}).of(["open early", "close late", "slow", "fast"])
    shares = SINGLE_LABEL.class_probabilities(found[[0, 1, 3]].astype(float))
    np.testing.assert_allclose(shares, [[0.8, 0.1, 0.1], [0, 1, 0], [0.2, 0.2, 0.6]], atol=1e-5)
    assert missing_rows(found).tolist() == [False, False, True, False]
    alone = read(table(tmp_path / "alone.csv", ["text", "label"], [["slow", "c"]])).of(["slow"])
    assert alone.argmax() == 2
    left_out = read(path, drop=True).of(["fast"])
    assert missing_rows(left_out).all()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_lists_of_labels_and_labels_with_confidences(tmp_path, suffix):
    given = [["a", "Z"], [], {"a": 0.9, "b": 0.25}, {"c": None}, ["b"]]
    confidences = [None, None, None, 0.5, 0.75]
    values = given if suffix == ".jsonl" else [json.dumps(each) for each in given]
    texts = [f"text {number}" for number in range(5)]
    rows = list(zip(texts, values, confidences, strict=True))
    path = write_rows(tmp_path / f"llm{suffix}", rows, ("text", "label", "confidence"))
    found = read(path, MULTI_LABEL, renamed={"Z": "c"}).of(texts)
    expected = [[1, 0, 1], [0, 0, 0], [0.9, 0.25, 0], [0, 0, 1], [0, 0.75, 0]]
    np.testing.assert_allclose(1 / (1 + np.exp(-found)), expected, atol=1e-5)
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(read(path, MULTI_LABEL, drop=True).of(texts)[0] > 0, [True, False, False])


def test_class_numbers_of_a_parquet_file_are_read_by_their_names(tmp_path):
    own = datasets.ClassLabel(names=["c", "a", "b"])
    texts = datasets.Value("string")
    made = datasets.Dataset.from_dict(
        {"text": ["x", "y", "z"], "label": [0, 1, 2]},
        features=datasets.Features({"text": texts, "label": own}),
    )
    made.to_parquet(str(tmp_path / "t.parquet"))
    found = read(tmp_path / "t.parquet").of(["x", "y", "z"])
    assert [NAMES[row] for row in found.argmax(axis=1)] == ["c", "a", "b"]
    several = datasets.Dataset.from_dict(
        {"text": ["x", "y"], "label": [[0, 2], [1]]},
        features=datasets.Features({"text": texts, "label": datasets.List(own)}),
    )
    several.to_parquet(str(tmp_path / "s.parquet"))
    found = read(tmp_path / "s.parquet", MULTI_LABEL).of(["x", "y"])
    assert ((found > 0) == [[False, True, True], [True, False, False]]).all()


def test_a_number_is_the_output_itself(tmp_path):
    rows = [["x", 3.5, 0.9], ["y", "-1e2", ""], ["z", "", ""]]
    path = table(tmp_path / "llm.csv", ["text", "label", "confidence"], rows)
    found = read(path, REGRESSION, names=["label"]).of(["x", "y", "z"])
    np.testing.assert_array_equal(found, np.array([[3.5], [-100], [np.nan]], dtype=np.float32))
    with pytest.raises(DataError, match=r"task is regression with 2 outputs; give logits\.LABEL"):
        read(path, REGRESSION, names=["valence", "arousal"])


@pytest.mark.parametrize(
    ("task", "label", "confidence", "parts"),
    [
        (MULTI_LABEL, "a", "", ["line 2", "label is 'a', not a list"]),
        (MULTI_LABEL, '["a"', "", ["line 2", "not a list"]),
        (MULTI_LABEL, '["d"]', "", ["line 2", "label 'd'", "teacher.labels"]),
        (MULTI_LABEL, '{"a": 1.5}', "", ["line 2", "confidence is 1.5", "0 to 1"]),
        (MULTI_LABEL, '["a"]', "high", ["line 2", "confidence is 'high'"]),
        (REGRESSION, "much", "", ["line 2", "label is 'much', not a finite number"]),
        (REGRESSION, "inf", "", ["line 2", "not a finite number"]),
    ],
)
def test_wrong_labels_of_other_tasks_are_one_clear_error(tmp_path, task, label, confidence, parts):
    path = table(tmp_path / "llm.csv", ["text", "label", "confidence"], [["x", label, confidence]])
    with pytest.raises(DataError) as caught:
        read(path, task, names=["label"] if task is REGRESSION else NAMES)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_labels_are_matched_as_those_of_a_checkpoint(tmp_path):
    path = tmp_path / "teacher.parquet"
    write_logits(path, TEXTS, ["A", "b", "c", "extra"], np.column_stack([LOGITS, LOGITS[:, 0]]))
    found = read(path, renamed={"A": "a"}, drop=True)
    np.testing.assert_array_equal(found.of(TEXTS), LOGITS)
    with pytest.raises(ModelError, match=r"teacher\.logits.*only the data has: a.*teacher\.labels"):
        read(path, drop=True)


# ---- Faults -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "rows", "parts"),
    [
        (["body", "logits.a"], [["x", 1]], ["no column 'text'", "teacher.logits.text_column"]),
        (["text", "score"], [["x", 1]], ["'score'", "logits.LABEL", "confidence"]),
        (["text", "logits.a", "probabilities.a"], [["x", 1, 1]], ["logits and of probabilities"]),
        (EACH_LOGIT, [["x", 1, "?", 2], ["y", 1, 2, "nan"]], ["2 faults", "line 2", "'?' of 'b'", "line 3"]),
        (EACH_LOGIT, [["x", 1, "", 2]], ["line 2", "'' of 'b'"]),
        (EACH_SHARE, [["x", 0.5, 0.6, 0.2]], ["line 2", "1.3", "accepted: 1"]),
        (EACH_SHARE, [["x", -0.5, 1.3, 0.2]], ["line 2", "0 to 1"]),
        (["text", "label"], [["x", "d"]], ["line 2", "label 'd'", "teacher.labels"]),
        (["text", "label", "confidence"], [["x", "a", 0.2]], ["line 2", "confidence", "0.333 to 1"]),
        (["text", "label", "confidence"], [["x", "a", "high"]], ["line 2", "'high'"]),
        (["text", "label"], [["x", "a"], ["x", "b"]], ["two rows", "'x'"]),
        (["text", "label"], [["x", ""], ["", "b"]], ["no row has a text and a value"]),
        (["text", "logits"], [["x", "[1, 2]"]], ["line 2", "'[1, 2]'", "object"]),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_clear_error(tmp_path, names, rows, parts):
    with pytest.raises(DataError) as caught:
        read(table(tmp_path / "teacher.csv", names, rows))
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_rows_with_other_labels_and_missing_files(tmp_path):
    rows = [{"text": "x", "logits": {"a": 1, "b": 2, "c": 3}}, {"text": "y", "logits": {"a": 1, "b": 2}}]
    with pytest.raises(DataError, match=r"line 2: logits: .*'a', 'b', .*'a', 'b', 'c'"):
        read(lines(tmp_path / "rows.jsonl", rows))
    with pytest.raises(DataError, match=r"teacher\.logits\.path does not exist"):
        read(tmp_path / "nothing.csv")
    with pytest.raises(DataError, match="extension"):
        read(lines(tmp_path / "rows.npz", [{"text": "x", "label": "a"}]))
    path = tmp_path / "teacher.jsonl"
    write_logits(path, TEXTS, NAMES, LOGITS)
    with pytest.raises(DataError, match=r"no column 'text_pair'.*teacher\.logits\.text_pair_column"):
        read(path, has_pairs=True)
    with pytest.raises(DataError, match="texts are single"):
        read(path, text_pair_column="other")
    with pytest.raises(DataError, match="the task is regression"):
        read(table(tmp_path / "hard.csv", ["text", "label"], [["x", "a"]]), REGRESSION)
    names = ["text", *(f"probabilities.{name}" for name in NAMES)]
    with pytest.raises(DataError, match="regression has no probabilities"):
        read(table(tmp_path / "p.csv", names, [["x", 0.5, 0.5, 0]]), REGRESSION)


@pytest.mark.parametrize(("limit", "lacks"), [(0.1, True), (0.25, False), (1.0, False)])
def test_what_is_missing_is_counted_and_limited(limit, lacks):
    logits = LOGITS.copy()
    logits[2] = np.nan
    config = LogitsFileConfig(path="teacher.csv", max_missing=limit)
    if not lacks:
        assert check_coverage(config, TEXTS, logits) == 1
        return
    with pytest.raises(DataError) as caught:
        check_coverage(config, TEXTS, logits)
    assert all(
        part in str(caught.value)
        for part in ("max_missing: 0.1", "1 of 4", "25.0%", repr(TEXTS[2]), "up to 0.25")
    )


# ---- Learning ---------------------------------------------------------------------------------------------------


def test_a_text_without_a_teacher_adds_no_loss_and_no_gradient():
    own = torch.from_numpy(LOGITS[[3, 0, 1, 2]]).requires_grad_()
    teacher = torch.from_numpy(LOGITS.copy())
    teacher[1] = torch.nan
    term = SoftTargets(weight=1.0, temperature=2.0)
    loss = term.value(LossInputs(logits=own, num_items=4, teacher_logits=teacher))
    loss.backward()
    kept = [0, 2, 3]
    alone = torch.from_numpy(LOGITS[[3, 1, 2]]).requires_grad_()
    expected = term.value(LossInputs(logits=alone, num_items=4, teacher_logits=teacher[kept]))
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(own.grad[kept], alone.grad)
    assert own.grad[1].abs().max() < 1e-7


# ---- Preparation ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = write_rows(tmp_path_factory.mktemp("data") / "rows.csv", tiny_data(3, 20))
    return load_data(data_config(source="files", train=str(path)))


@pytest.fixture(scope="module")
def labelled(data, tmp_path_factory):
    """A checkpoint, and its logits on all texts."""
    checkpoint = tiny_classifier(tmp_path_factory.mktemp("teacher"), label_names=data.label_names)
    model, tokenizer = load_classifier(checkpoint, SINGLE_LABEL)
    texts = {name: split["text"][:] for name, split in data.splits.items()}
    logits = {
        name: compute_logits(
            model,
            tokenize_split(each, None, tokenizer, 16),
            pad_token_id=tokenizer.pad_token_id,
            num_threads=1,
        )
        for name, each in texts.items()
    }
    return texts, logits


def file_of(labelled, path, labels, left_out=()):
    texts, logits = labelled
    rows = [
        (text, row)
        for name in texts
        for text, row in zip(texts[name], logits[name], strict=True)
        if text not in left_out
    ]
    distinct = dict(rows)
    write_logits(path, list(distinct), labels, np.stack(list(distinct.values())))
    return path


def test_the_teacher_is_the_file_joined_with_every_split(data, labelled, tmp_path):
    texts, logits = labelled
    path = file_of(labelled, tmp_path / "teacher.parquet", data.label_names)
    config = TeacherConfig.model_validate({"logits": str(path)})
    options = {"max_length": 16, "num_threads": 1, "task": SINGLE_LABEL}
    record = prepare_teacher(config, data, tmp_path / "made", **options)
    for name in texts:
        np.testing.assert_array_equal(stored_logits(tmp_path / "made", name), logits[name])
    labels = np.array(data.splits["validation"]["label"][:])
    assert record["kind"] == "logits" and not record["reused"]
    assert record["validation_accuracy"] == (logits["validation"].argmax(axis=1) == labels).mean()
    assert record["missing"] == dict.fromkeys(texts, 0)
    assert is_measurable(record)
    assert record["key"] == teacher_key(config, data, TrainingConfig(max_length=16))
    assert prepare_teacher(config, data, tmp_path / "made", **options)["reused"]
    assert len(load_tokenizer(tmp_path / "made")) > 20
    other = file_of(labelled, tmp_path / "other.parquet", data.label_names, {texts["train"][0]})
    changed = TeacherConfig.model_validate({"logits": {"path": str(other)}})
    assert teacher_key(changed, data, TrainingConfig(max_length=16)) != record["key"]
    (tmp_path / "made" / "logits.npz").write_bytes(b"damaged")
    assert not prepare_teacher(config, data, tmp_path / "made", **options)["reused"]


def test_missing_validation_texts_are_left_out_of_its_accuracy(data, labelled, tmp_path):
    texts, logits = labelled
    lacking = set(texts["validation"][:3])
    path = file_of(labelled, tmp_path / "teacher.jsonl", data.label_names, lacking)
    config = TeacherConfig.model_validate({"logits": {"path": str(path), "max_missing": 0.5}})
    made = {"key": "k", "task": SINGLE_LABEL, "metric": "accuracy"}
    record = prepare_file_teacher(config, data, tmp_path / "made", **made)
    rows = [row for row, text in enumerate(texts["validation"]) if text not in lacking]
    labels = np.array(data.splits["validation"]["label"][:])[rows]
    assert record["validation_accuracy"] == (logits["validation"][rows].argmax(axis=1) == labels).mean()
    assert record["missing"]["validation"] == len(texts["validation"]) - len(rows) >= 3
    assert not is_measurable(record)
    nothing = file_of(labelled, tmp_path / "few.jsonl", data.label_names, set(texts["validation"]))
    config = TeacherConfig.model_validate({"logits": {"path": str(nothing), "max_missing": 1.0}})
    record = prepare_file_teacher(config, data, tmp_path / "few", **made)
    assert record["validation_accuracy"] is None


def ids_of(tmp_path, **others):
    rows = [(f"{text} {n}", label, f"id-{n}") for n, (text, label) in enumerate(tiny_data(3, 8))]
    path = write_rows(tmp_path / "rows.csv", rows, ("text", "label", "key"))
    return load_data(data_config(source="files", train=path, id_column="key", **others)), rows


def test_a_file_is_joined_by_ids(tmp_path):
    data, rows = ids_of(tmp_path)
    assert data.splits["train"].column_names == ["text", "id", "label"]
    answers = [(key, label, 0.9) for text, label, key in rows[::-1]]
    table(tmp_path / "llm.csv", ["row", "label", "confidence"], answers)
    section = {"path": str(tmp_path / "llm.csv"), "id_column": "row"}
    config = TeacherConfig.model_validate({"logits": section})
    made = {"key": "k", "task": SINGLE_LABEL, "metric": "accuracy"}
    record = prepare_file_teacher(config, data, tmp_path / "made", **made)
    assert record["validation_accuracy"] == 1.0 and not any(record["missing"].values())
    for name, split in data.splits.items():
        assert stored_logits(tmp_path / "made", name).argmax(axis=1).tolist() == split["label"][:]
    plain = load_data(data_config(source="files", train=str(tmp_path / "rows.csv")))
    with pytest.raises(DataError, match=r"teacher\.logits\.id_column: 'row' given, but the data has no ids"):
        prepare_file_teacher(config, plain, tmp_path / "plain", **made)
    other = TeacherConfig.model_validate({"logits": {**section, "id_column": "number"}})
    with pytest.raises(DataError, match=r"no column 'number' \(teacher\.logits\.id_column\)"):
        prepare_file_teacher(other, data, tmp_path / "other", **made)


def test_ids_are_distinct_and_not_blank(tmp_path):
    rows = [(text, label, f"id-{n}") for n, (text, label) in enumerate(tiny_data(3, 8))]
    wrong = write_rows(
        tmp_path / "twice.csv", [*rows, ("red boat", "label_0", "id-3")], ("text", "label", "key")
    )
    with pytest.raises(
        DataError, match=r"data\.id_column: 'id-3' is the id of two rows \(.*line 5 and .*line 26\)"
    ):
        load_data(data_config(source="files", train=wrong, id_column="key"))
    blank = write_rows(tmp_path / "blank.csv", [*rows, ("red boat", "label_0", "")], ("text", "label", "key"))
    with pytest.raises(DataError, match="line 26: id is empty or blank"):
        load_data(data_config(source="files", train=blank, id_column="key"))
    with pytest.raises(DataError, match=r"no column 'uid' \(data\.id_column\)"):
        load_data(data_config(source="files", train=blank, id_column="uid"))


# ---- The specification ------------------------------------------------------------------------------------------


def job(teacher="t.parquet", **sections):
    student = {"kind": "convolution"}
    return JobConfig.model_validate({"teacher": {"logits": teacher}, "student": student, **sections})


def test_a_path_alone_is_a_section_and_the_table_is_random():
    config = job()
    assert config.teacher.logits == LogitsFileConfig(path="t.parquet")
    assert not config.teacher.is_trained
    assert config.student.table == "random"
    assert job(student={"kind": "static", "table": "teacher"}).student.table == "teacher"
    assert JobConfig.model_validate({"student": {"kind": "convolution"}}).student.table == "teacher"


@pytest.mark.parametrize(
    ("sections", "parts"),
    [
        ({"teacher": {"logits": "a", "checkpoint": "b"}}, ["exactly one of", "logits", "checkpoint"]),
        ({"teacher": {"logits": "a", "ensemble": 2}}, ["ensemble is 2", "file of logits"]),
        (
            {"data": {"augmentation": {"spliced": {"count": 3}}}},
            ["data.augmentation.spliced", "teacher.logits"],
        ),
        ({"data": {"diagnostics": {"cross_fit": 3}}}, ["cross_fit", "teacher.logits is a file"]),
        ({"teacher": {"logits": {"path": "a", "max_missing": 2}}}, ["max_missing"]),
        ({"teacher": {"logits": {}}}, ["path"]),
    ],
)
def test_what_a_file_cannot_do_is_refused_by_name(sections, parts):
    with pytest.raises(ValueError, match="logits") as caught:
        job(**sections) if "teacher" not in sections else JobConfig.model_validate(sections)
    assert all(part in str(caught.value) for part in parts), caught.value


@pytest.mark.parametrize(
    ("student", "sections", "parts"),
    [
        ({"layers": [0]}, {}, ["student.kind", "checkpoint", "convolution", "teacher.logits"]),
        ({"kind": "static", "table": "teacher"}, {}, ["student.table", "random"]),
        ({"checkpoint": "x", "pretraining": {}}, {}, ["student.pretraining", "beta and gamma"]),
        (
            {"kind": "convolution"},
            {"training": {"losses": {"cosine": {"weight": 0.5}}}},
            ["cosine", "hidden states"],
        ),
    ],
)
def test_students_that_need_the_teachers_weights_are_refused(student, sections, parts):
    from distiltune.cluster.pipeline.checks.models import check_models
    from distiltune.errors import ConfigError

    with pytest.raises(ConfigError) as caught:
        check_models(job(student=student, **sections))
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_the_name_of_a_file_to_write_is_checked(tmp_path):
    check_format(tmp_path / "x.parquet", "--out")
    for path in (tmp_path / "x.npz", tmp_path / "no" / "x.csv", tmp_path):
        with pytest.raises(InputError, match="--out"):
            check_format(path, "--out")
