"""Teachers of different kinds in one job: each reads with its own tokenizer, and a student learns their mixture."""

import csv
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from different_teachers import LABELS, NAMES, TEXTS, bytewise_classifier, file_of_logits, text_data
from models import tiny_classifier
from remote_tasks import task
from small_job import COMMAND, JOB, environment
from taggers import conll, tiny_tagger

from distiltune.cluster.commands.check import _teachers
from distiltune.cluster.pipeline.checks.models import check_models
from distiltune.cluster.pipeline.checks.texts import check_texts
from distiltune.cluster.pipeline.finalize import _licence, _teacher_keys
from distiltune.cluster.pipeline.reuse.search import SearchReuse
from distiltune.cluster.remote.tasks import Task
from distiltune.cluster.remote.teacher_labels import label_with_teacher, label_with_teachers, make_teacher
from distiltune.cluster.specification.config import JobConfig
from distiltune.cluster.store.runs import Run
from distiltune.errors import ConfigError, DataError, ModelError
from distiltune.storage.store import Store
from distiltune.training.checkpoints.load import load_classifier, load_tokenizer
from distiltune.training.data.text_data import load_data
from distiltune.training.models.inference import compute_logits
from distiltune.training.tasks import SINGLE_LABEL, TOKEN_CLASSIFICATION
from distiltune.training.teacher.config import TeacherConfig

LENGTH = 16


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """A BERT of word pieces, a RoBERTa of bytes whose labels are in another order, and a file of logits."""
    folder = tmp_path_factory.mktemp("kinds")
    return {
        "pieces": {"checkpoint": str(tiny_classifier(folder / "pieces", label_names=NAMES, texts=TEXTS))},
        "bytes": {"checkpoint": str(bytewise_classifier(folder / "bytes"))},
        "file": {"logits": str(folder / "file.csv")},
        "logits": file_of_logits(folder / "file.csv", TEXTS[:-2]),
    }


@pytest.fixture(scope="module")
def data():
    return text_data()


def job(*members, **keys) -> JobConfig:
    more = {name: keys.pop(name) for name in ("data", "task") if name in keys}
    values = {"teacher": {"ensemble": list(members), **keys}, "training": {"max_length": LENGTH}, **more}
    return JobConfig.model_validate({**values, "student": {"layers": [0]}})


def labelled(here: Task, data, num: int = 2):
    keys = [f"t{number}" for number in range(num)]
    for number, key in enumerate(keys):
        make_teacher(here, data, number, key)
    return label_with_teachers(here, data, keys)


def own_logits(folder: Path, texts=TEXTS) -> np.ndarray:
    """The logits of a prepared teacher on texts, read with its own tokenizer."""
    model, tokenizer = load_classifier(folder)
    split = SINGLE_LABEL.tokenize_labelled(texts, LABELS[: len(texts)], tokenizer, LENGTH)
    found = compute_logits(model, split, pad_token_id=tokenizer.pad_token_id, num_threads=1)
    assert isinstance(found, np.ndarray)
    return found


def test_each_teacher_reads_with_its_own_tokenizer(kinds, data, tmp_path):
    here = task(tmp_path, job({**kinds["pieces"], "weight": 3}, kinds["bytes"]))
    splits, record = labelled(here, data)
    first, other = (own_logits(tmp_path / key) for key in ("t0", "t1"))
    found = record["ensemble"]
    scales = [each["temperature"] for each in found["members"]]
    np.testing.assert_allclose(
        splits["train"].teacher_logits, 0.75 * first / scales[0] + 0.25 * other / scales[1], atol=1e-5
    )
    assert [each["weight"] for each in found["members"]] == [0.75, 0.25]
    own = SINGLE_LABEL.tokenize(data.splits["train"], load_tokenizer(tmp_path / "t0"), LENGTH)
    np.testing.assert_array_equal(splits["train"].tokens.input_ids, own.input_ids)
    assert set(splits) == {"train", "validation"}, "the test split is measured, and never learned from"
    assert record["texts_computed"] == len(TEXTS) and len(set(record["keys"]["train"])) == 2
    for number, logits in enumerate((first, other)):
        right = float((logits.argmax(1) == LABELS).mean())
        assert found["members"][number]["test"]["accuracy"] == pytest.approx(right)
    mixed = np.asarray(splits["validation"].teacher_logits).argmax(1) == LABELS
    assert found["mixture"]["validation"]["accuracy"] == pytest.approx(mixed.mean())
    assert found["mixture"]["validation"]["in_scope_accuracy"] == pytest.approx(mixed.mean())


def test_a_changed_weight_and_a_changed_member_label_only_what_is_new(kinds, data, tmp_path):
    labelled(task(tmp_path, job(kinds["pieces"], kinds["bytes"])), data)
    held = Store(str(tmp_path)).names("cache/logits")
    _, record = labelled(task(tmp_path, job({**kinds["pieces"], "weight": 9}, kinds["bytes"])), data)
    assert make_teacher(task(tmp_path, job(kinds["pieces"], kinds["bytes"])), data, 1, "t1")["reused"]
    assert record["texts_computed"] == 0 and Store(str(tmp_path)).names("cache/logits") == held
    changed = job(kinds["pieces"], {"scratch": {"num_hidden_layers": 1, "num_train_epochs": 1}})
    here = task(tmp_path, changed)
    make_teacher(here, data, 1, "t2")
    assert label_with_teacher(here, data, ["t0", "t2"], 0) == []
    assert label_with_teacher(here, data, ["t0", "t2"], 1) == ["train"], "the splits have the same texts"


def test_a_file_among_the_teachers_is_mixed_where_it_has_a_row(kinds, data, tmp_path):
    here = task(tmp_path, job(kinds["pieces"], kinds["file"]))
    splits, record = labelled(here, data)
    assert label_with_teacher(here, data, ["t0", "t1"], 1) == [], "a file computes nothing"
    scales = [each["temperature"] for each in record["ensemble"]["members"]]
    assert scales[0] > 10 * scales[1], "an untrained model knows nothing, however large its logits are"
    alone = own_logits(tmp_path / "t0") / scales[0]
    found = np.asarray(splits["train"].teacher_logits)
    np.testing.assert_allclose(found[:-2], (alone[:-2] + kinds["logits"] / scales[1]) / 2, atol=1e-5)
    np.testing.assert_allclose(found[-2:], alone[-2:], atol=1e-5)
    file = record["ensemble"]["members"][1]
    assert file["missing"] == {"validation": 2, "test": 2} and file["test"]["accuracy"] == 1
    assert len(record["keys"]["train"]) == 1


def test_fitted_weights_follow_the_labels(kinds, data, tmp_path, caplog):
    config = job(kinds["pieces"], kinds["file"], weights="fit")
    _, record = labelled(task(tmp_path, config), data)
    weights = [each["weight"] for each in record["ensemble"]["members"]]
    assert weights[1] > 0.8 and sum(weights) == pytest.approx(1), "an untrained model knows nothing"
    check_texts(config, data)
    assert re.search(r"teacher\.weights: fit, but .* 18 validation texts.*200 or more", caplog.text)


def test_a_seed_each_is_a_mixture_as_well(data, tmp_path):
    tiny = {"vocab_size": 100, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tiny |= {"intermediate_size": 16, "num_train_epochs": 1}
    values = {"teacher": {"scratch": tiny, "ensemble": 2}, "training": {"max_length": LENGTH}}
    splits, record = labelled(task(tmp_path, JobConfig.model_validate(values)), data)
    mean = (own_logits(tmp_path / "t0") + own_logits(tmp_path / "t1")) / 2
    np.testing.assert_allclose(splits["train"].teacher_logits, mean, atol=1e-6)
    assert [each["temperature"] for each in record["ensemble"]["members"]] == [1, 1]
    assert "seed 43" in record["ensemble"]["members"][1]["teacher"]


# ---- Tokens -------------------------------------------------------------------------------------------------------


def test_logits_of_tokens_need_the_same_tokens(tmp_path):
    """Teachers of one tokenizer are mixed; another tokenizer is refused before a job, and at the latest there."""
    one, more, other = (
        str(tiny_tagger(tmp_path / name, steps=1, vocab_size=size))
        for name, size in (("one", 90), ("more", 90), ("other", 60))
    )
    data = tagged_data(tmp_path)
    keys = {"task": "token_classification"}
    same = job({"checkpoint": one}, {"checkpoint": more, "weight": 3}, **keys)
    check_texts(same, data)
    splits, record = labelled(task(tmp_path / "same", same), data)
    assert splits["train"].teacher_logits.lengths.tolist() == splits["train"].tokens.lengths.tolist()
    assert record["ensemble"]["mixture"]["test"] is not None
    differing = job({"checkpoint": one}, {"checkpoint": other}, **keys)
    with pytest.raises(ModelError, match=r"^teacher\.ensemble\.1\.checkpoint: .*tokenizer differs"):
        check_texts(differing, data)
    with pytest.raises(ModelError, match=r"^teacher\.ensemble\.1: its tokens differ"):
        labelled(task(tmp_path / "differing", differing), data)


def tagged_data(folder):
    files = {split: str(folder / f"{split}.conll") for split in ("train", "validation", "test")}
    for file in files.values():
        Path(file).write_text(conll(12))
    config = JobConfig.model_validate({"data": {"source": "files", **files}})
    return load_data(config.data, TOKEN_CLASSIFICATION.label_kind)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([{"checkpoint": "a"}, {"scratch": {}}], r"teacher\.ensemble\.1\.scratch: its tokenizer differs"),
        ([{"scratch": {}}, {"fine_tune": {"checkpoint": "a"}}], r"teacher\.ensemble\.1\.fine_tune: its tokenizer"),
        ([{"scratch": {}}, {"scratch": {"vocab_size": 99 + 1}}], r"teacher\.ensemble\.1\.scratch: its tokenizer"),
        ([{"scratch": {}}, {"logits": "x.csv"}], r"teacher\.ensemble\.1\.logits: a file with logits for each text"),
    ],
)  # fmt: skip
def test_teachers_that_cannot_have_the_same_tokens_are_refused_by_their_keys(members, message):
    with pytest.raises(ValueError, match=message):
        job(*members, task="token_classification")


# ---- Checks -------------------------------------------------------------------------------------------------------


def test_every_member_is_checked_under_its_own_key(kinds, data, tmp_path):
    good = kinds["pieces"]
    check_models(job(good, kinds["bytes"]))
    check_texts(job(good, kinds["bytes"], kinds["file"]), data)
    wrong = str(bytewise_classifier(tmp_path / "wrong", ["buy", "find", "play", "halt"]))
    with pytest.raises(
        ModelError, match=r"^teacher\.ensemble\.1\.checkpoint: its labels differ.*halt"
    ) as raised:
        check_texts(job(good, {"checkpoint": wrong}), data)
    assert "teacher.ensemble.1.labels: {halt: stop}" in str(raised.value)
    check_texts(job(good, {"checkpoint": wrong, "labels": {"halt": "stop"}}), data)
    with pytest.raises(ModelError, match=r"^teacher\.ensemble\.1\.checkpoint: .*nowhere"):
        check_models(job(good, {"checkpoint": str(tmp_path / "nowhere")}))
    with pytest.raises(ModelError, match=r"^teacher\.ensemble\.1\.fine_tune\.checkpoint: .*nowhere"):
        check_models(job(good, {"fine_tune": {"checkpoint": str(tmp_path / "nowhere")}}))
    file_of_logits(tmp_path / "few.csv", TEXTS[:4])
    with pytest.raises(DataError, match=r"teacher\.ensemble\.1\.logits\.max_missing"):
        check_texts(job(good, {"logits": str(tmp_path / "few.csv")}), data)


def test_weights_cannot_be_fitted_without_validation_texts_of_all(kinds, tmp_path):
    data = text_data()
    data.splits["validation"] = data.splits["validation"].map(lambda row: {"text": f"{row['text']} please"})
    with pytest.raises(ConfigError, match=r"teacher\.weights: 'fit' given, but no validation text"):
        check_texts(job(kinds["pieces"], kinds["file"], weights="fit"), data)


@pytest.mark.parametrize(
    ("members", "made", "message"),
    [
        ([{"scratch": {}}, {"logits": "x.csv"}], {"dropped": {"count": 5}}, r"teacher\.ensemble\.1\.logits is a file"),
        ([{"scratch": {}}, {"checkpoint": "x"}], {"masked": {"count": 5}}, r"augmentation\.masked: .*one tokenizer"),
    ],
    ids=["generated texts of a file", "masked pieces"],
)  # fmt: skip
def test_texts_that_a_member_cannot_read_are_refused(members, made, message):
    with pytest.raises(ValueError, match=message):
        job(*members, data={"augmentation": made})


def test_only_the_first_teacher_is_cross_fitted():
    folds = {"diagnostics": {"cross_fit": 2}}
    assert job({"scratch": {}}, {"checkpoint": "x"}, data=folds).teacher.first.scratch is not None
    with pytest.raises(
        ValueError, match=r"cross_fit: 2 given, but teacher\.ensemble\.0\.checkpoint is a finished"
    ):
        job({"checkpoint": "x"}, {"scratch": {}}, data=folds)


def test_the_search_of_other_weights_is_another(kinds, data, tmp_path):
    run = Run(Store(str(tmp_path)), "a")

    def key(*members, **keys):
        config = job(*members, **keys)
        return SearchReuse(config, config, run, data)._key()

    pair = (kinds["pieces"], kinds["bytes"])
    keys = [
        key(*pair),
        key({**pair[0], "weight": 2}, pair[1]),
        key(*pair, weights="fit"),
        key(*reversed(pair)),
        key(pair[0], kinds["file"]),
    ]
    assert len(set(keys)) == len(keys)
    assert key(*({**each, "licence": "mit"} for each in pair)) == keys[0]


# ---- What is shown ------------------------------------------------------------------------------------------------


def test_a_check_and_a_card_say_which_teachers_there_are():
    members = [
        {"checkpoint": "hub/a", "weight": 3, "licence": "mit"},
        {"logits": "llm.csv", "licence": "apache-2.0"},
    ]
    teacher = TeacherConfig.model_validate({"ensemble": members})
    assert _teachers(teacher) == "2: hub/a, as it is (weight 0.75); the logits of llm.csv (weight 0.25)"
    assert _licence(teacher) == "mit, apache-2.0"
    assert _teacher_keys(teacher)["ensemble"]["1"]["logits"]["path"] == "llm.csv"
    for licences, expected in (
        ((None, "mit"), None),
        (("mit", "cc-by-nc-4.0"), "cc-by-nc-4.0"),
        (("mit",) * 2, "mit"),
    ):
        each = [{**member, "licence": licence} for member, licence in zip(members, licences, strict=True)]
        assert _licence(TeacherConfig.model_validate({"ensemble": each})) == expected
    fitted = [{"scratch": {"num_train_epochs": 2}}, {"checkpoint": "hub/a"}]
    assert _teachers(TeacherConfig.model_validate({"ensemble": fitted, "weights": "fit"})) == (
        "2: a small BERT trained from scratch for 2 epochs; hub/a, as it is; their weights are fitted on the "
        "validation split"
    )
    assert _teachers(TeacherConfig.model_validate({"scratch": {}, "ensemble": 3})).endswith(", 3 of them")


# ---- A whole job --------------------------------------------------------------------------------------------------


def distiltune(*arguments, cwd):
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(),
        check=False,
        timeout=400,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_learns_from_two_tokenizers_and_a_file(tmp_path):
    """From the command line: a teacher trained here, a RoBERTa of bytes, and a file that is always right."""
    rows = [
        f"{text} {more}" for text in TEXTS for more in ("now", "please", "today", "soon", "again", "at once")
    ]
    for number, split in enumerate(("train", "validation", "test")):
        kept = [text for place, text in enumerate(rows) if (place % 3 == number) or split == "train"]
        kept = [text if split == "train" else f"{text} {split}" for text in kept]
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["text", "label"], *([text, text.split()[0]] for text in kept)])
    bytewise_classifier(tmp_path / "bytes")
    texts = [
        row["text"]
        for split in ("train", "validation", "test")
        for row in csv.DictReader((tmp_path / f"{split}.csv").read_text().splitlines())
    ]
    file_of_logits(tmp_path / "llm.csv", texts)
    members = [{"scratch": JOB["teacher"]["scratch"]}, {"checkpoint": "bytes"}, {"logits": "llm.csv"}]
    job = {
        **JOB,
        "data": {"source": "files", **{each: f"{each}.csv" for each in ("train", "validation", "test")}},
        "teacher": {"ensemble": members, "weights": "fit"},
        "search": {"num_trials": 1, "space": {"num_train_epochs": 1}},
        "export": {**JOB["export"], "variants": ["onnx"]},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    done = distiltune("run", "job.yaml", "--run-id", "fit", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = tmp_path / "distiltune-runs/runs/fit"
    stage = json.loads((run / "stages/logits.json").read_text())
    assert "mean of 3 teachers with fitted weights" in stage["text"]
    found = stage["result"]["ensemble"]
    assert found["members"][2]["weight"] > 0.5 > found["members"][1]["weight"], "the file is always right"
    report = (run / "report/report.md").read_text()
    assert "## Teachers" in report and "| logits of llm.csv |" in report
    assert "teachers.2.weight" in (run / "artifact/README.md").read_text()
    shown = distiltune("show", "fit", cwd=tmp_path).stdout
    assert "mixture of 3 teachers: accuracy validation 1.0000, test 1.0000" in shown
