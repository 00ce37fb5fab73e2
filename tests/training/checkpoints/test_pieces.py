"""Texts that a checkpoint's tokenizer does not cover: rejected before training."""

import logging
from pathlib import Path

import datasets
import pytest
from models import tiny_classifier, tiny_data
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast

from distiltune.cluster.pipeline.checks.texts import check_texts
from distiltune.cluster.specification.config import JobConfig
from distiltune.errors import ModelError
from distiltune.training.checkpoints.load import load_tokenizer
from distiltune.training.checkpoints.word_pieces import check_known, unknown_share
from distiltune.training.data.label_kinds import TAGS
from distiltune.training.data.label_kinds.tag_scheme import tag_names
from distiltune.training.data.text_data import TextData
from distiltune.training.student.build import build_student
from distiltune.training.student.config import student_config
from distiltune.training.teacher.config import TeacherConfig
from distiltune.training.teacher.prepare import prepare_teacher

LABELS = [f"label_{number}" for number in range(4)]
KNOWN = [text for text, _ in tiny_data()]
AMHARIC = ["ሰላም እንዴት ነህ", "ዛሬ አየሩ ጥሩ ነው", "መጽሐፉን አነበብኩት"]
THAI = ["จองตั๋วเครื่องบินไปเชียงใหม่วันพรุ่งนี้ red 2", "อากาศวันนี้เป็นอย่างไรบ้าง open late"]  # no spaces between words


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(
        tmp_path_factory.mktemp("whole") / "c", label_names=LABELS, texts=[*KNOWN, "0123456789"]
    )


def data_of(texts: list[str]) -> TextData:
    rows = [texts[number % len(texts)] for number in range(8)]
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=LABELS)}
    )
    columns = {"text": rows, "label": [number % 4 for number in range(8)]}
    split = datasets.Dataset.from_dict(columns, features=features)
    return TextData(datasets.DatasetDict({"train": split, "validation": split, "test": split}), None)


def jobs(checkpoint: Path) -> dict[str, JobConfig]:
    name, layers = str(checkpoint), {"layers": [0]}
    sections = {
        "teacher.checkpoint": {"teacher": {"checkpoint": name}, "student": layers},
        "teacher.fine_tune.checkpoint": {
            "teacher": {"fine_tune": {"checkpoint": name}},
            "student": layers,
        },
        "student.checkpoint": {"student": {"checkpoint": name}},
    }
    return {parameter: JobConfig.model_validate(each) for parameter, each in sections.items()}


@pytest.mark.parametrize("texts", [AMHARIC, THAI, [*AMHARIC * 3, *KNOWN[:2]]])
def test_texts_in_an_unknown_script_are_rejected(texts, checkpoint):
    for parameter, config in jobs(checkpoint).items():
        with pytest.raises(ModelError, match=parameter) as caught:
            check_texts(config, data_of(texts))
        assert "at most 50%" in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_they_are_also_rejected_where_they_are_first_tokenized(checkpoint, tmp_path):
    data = data_of(AMHARIC)
    for config in ({"checkpoint": str(checkpoint)}, {"fine_tune": {"checkpoint": str(checkpoint)}}):
        with pytest.raises(ModelError, match=rf"teacher\.{next(iter(config))}.*at most 50%"):
            prepare_teacher(
                TeacherConfig.model_validate(config), data, tmp_path / "t", max_length=16, num_threads=1
            )
    with pytest.raises(ModelError, match=r"student\.checkpoint.*at most 50%"):
        build_student(
            student_config(checkpoint=str(checkpoint)),
            checkpoint,
            LABELS,
            tmp_path / "s",
            texts=(AMHARIC, ()),
        )
    assert not list(tmp_path.iterdir())


def test_partly_covered_texts_cause_a_warning(checkpoint, caplog):
    mixed = [f"{text} {AMHARIC[0]}" for text in KNOWN]
    assert 0.1 < unknown_share(load_tokenizer(checkpoint), mixed) < 0.5
    with caplog.at_level(logging.WARNING):
        for parameter, config in jobs(checkpoint).items():
            check_texts(config, data_of(mixed))
            assert parameter in caplog.text


def test_ordinary_texts_cause_no_warning(checkpoint, caplog):
    tokenizer = load_tokenizer(checkpoint)
    assert unknown_share(tokenizer, KNOWN) == 0.0
    assert unknown_share(tokenizer, []) == 0.0
    assert unknown_share(tokenizer, [" ", "\u200b"]) == 0.0
    emoji = [f"{text} 🎉" for text in KNOWN]
    with caplog.at_level(logging.WARNING):
        for config in jobs(checkpoint).values():
            check_texts(config, data_of(emoji))
    assert 0 < unknown_share(tokenizer, emoji) < 0.1
    assert "of the characters" not in caplog.text
    check_texts(JobConfig(), data_of(AMHARIC))  # a teacher from scratch trains its word pieces on the texts


def test_characters_are_counted_not_pieces(checkpoint):
    tokenizer = load_tokenizer(checkpoint)
    text = "ሰላምእንዴትነህ red open"
    pieces = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert pieces.count(tokenizer.unk_token_id) / len(pieces) == pytest.approx(1 / 3)
    assert unknown_share(tokenizer, [text]) == pytest.approx(9 / 16)


def test_a_byte_level_tokenizer_covers_every_text(tmp_path):
    bytewise = ByteLevelBPETokenizer()
    bytewise.train_from_iterator(KNOWN, 300)
    bytewise.save(str(tmp_path / "t.json"))
    for more in ({}, {"unk_token": "<unk>"}):
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(tmp_path / "t.json"), pad_token="<pad>", **more
        )
        assert check_known(tokenizer, AMHARIC, "student.checkpoint") == 0.0


def test_the_check_does_not_change_the_saved_tokenizer(checkpoint, tmp_path):
    from distiltune.training.checkpoints.load import checkpoint_fingerprint, load_classifier, save_checkpoint

    for name in ("checked", "plain"):
        model, tokenizer = load_classifier(checkpoint)
        if name == "checked":
            check_known(tokenizer, KNOWN * 200, "teacher.checkpoint")
        save_checkpoint(model, tokenizer, tmp_path / name)
    assert checkpoint_fingerprint(tmp_path / "checked") == checkpoint_fingerprint(tmp_path / "plain")


def test_entities_that_no_tag_marks_are_warned_of_once_for_each_split(caplog):
    rows = {"text": ["a NewYork trip", "ann went"], "label": [[[2, 5, 0], [5, 9, 0]], [[0, 3, 0]]]}
    names = tag_names(["city"])
    features = datasets.Features({"text": datasets.Value("string"), "label": TAGS.feature(names)})
    split = datasets.Dataset.from_dict(rows, features=features)
    splits = datasets.DatasetDict(train=split, validation=split.select([1]), test=split)
    data = TextData(splits, None, label_kind=TAGS, output_names=tuple(names))
    check_texts(JobConfig.model_validate({"task": "token_classification"}), data)
    found = [each.getMessage() for each in caplog.records if "entity" in each.getMessage()]
    assert [each.partition(":")[0] for each in found] == ["train split", "test split"]
