"""Students of transformer layers: layers and heads of the teacher or a checkpoint, and the change of their logits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_classifier, tiny_data

from distiltune.errors import ModelError
from distiltune.training.checkpoints.load import label_names, load_classifier, load_tokenizer
from distiltune.training.student.build import build_student
from distiltune.training.student.config import StudentConfig, student_config
from distiltune.training.student.layers import student_from_layers
from distiltune.training.student.logit_change import compare_logits
from distiltune.training.student.size_config import WidthConfig
from distiltune.training.student.vocabulary import pieces_to_keep
from distiltune.training.student.width import narrow

LABELS = ["balance", "oos", "transfer", "weather"]
FAMILIES = ["bert", "distilbert", "roberta"]


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("teachers")
    return {
        family: tiny_classifier(root / family, family=family, num_layers=4, label_names=LABELS)
        for family in FAMILIES
    }


def from_layers(*layers: int) -> StudentConfig:
    return student_config(layers=list(layers))


def layers_of(model) -> torch.nn.ModuleList:
    base = model.base_model
    return base.transformer.layer if hasattr(base, "transformer") else base.encoder.layer


def same(one, other) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("family", FAMILIES)
def test_embeddings_chosen_layers_pooler_and_head_are_the_teachers(family, teachers, tmp_path) -> None:
    record = build_student(from_layers(0, 2), teachers[family], LABELS, tmp_path / "student", max_length=64)
    teacher, _ = load_classifier(teachers[family])
    student, tokenizer = load_classifier(tmp_path / "student")
    assert record == {
        "family": family,
        "num_layers": 2,
        "num_parameters": student.num_parameters(),
        "layers": [0, 2],
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "num_embeddings": len(tokenizer),
        "parity": [],
    }
    kept, held = layers_of(student), layers_of(teacher)
    assert len(kept) == 2
    assert same(kept[0], held[0])
    assert same(kept[1], held[2])
    assert same(student.base_model.embeddings, teacher.base_model.embeddings)
    assert same(student.classifier, teacher.classifier)
    if family == "bert":
        assert same(student.base_model.pooler, teacher.base_model.pooler)
    if family == "distilbert":
        assert same(student.pre_classifier, teacher.pre_classifier)
    assert label_names(student) == LABELS
    assert tokenizer("open red")["input_ids"] == load_classifier(teachers[family])[1]("open red")["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_all_layers_make_the_teacher_again(family, teachers) -> None:
    teacher, tokenizer = load_classifier(teachers[family])
    student = student_from_layers(teacher, [0, 1, 2, 3])
    inputs = tokenizer(["open red", "slow"], padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        assert torch.equal(student(**inputs).logits, teacher(**inputs).logits)
    # It has weights of its own: training it must not change the teacher.
    next(student.parameters()).data.zero_()
    assert next(teacher.parameters()).abs().sum() > 0


@pytest.mark.parametrize("layers", [[4], [0, 0], [2, 0], [0, 99]])
def test_layers_that_the_teacher_does_not_have_are_refused(layers, teachers, tmp_path) -> None:
    with pytest.raises(ModelError, match=r"student\.layers: .* layers 0 to 3; "):
        build_student(from_layers(*layers), teachers["bert"], LABELS, tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_a_checkpoint_gets_a_new_head_for_other_labels(teachers, tmp_path) -> None:
    config = student_config(checkpoint=str(teachers["distilbert"]))
    names = ["a", "b", "c", "d"]  # as many labels, but others, for which the old rows mean nothing
    record = build_student(config, teachers["bert"], names, tmp_path / "student")
    student, _ = load_classifier(tmp_path / "student")
    held, _ = load_classifier(teachers["distilbert"])
    assert record["layers"] is None
    assert record["family"] == "distilbert"
    assert label_names(student) == names
    assert same(student.base_model, held.base_model)
    assert not torch.equal(student.classifier.weight, held.classifier.weight)
    assert build_student(config, teachers["bert"], [*names, "e"], tmp_path / "five")["num_layers"] == 4
    assert label_names(load_classifier(tmp_path / "five")[0]) == [*names, "e"]


def test_a_checkpoint_for_the_same_labels_keeps_its_head_by_name(teachers, tmp_path) -> None:
    names = LABELS[::-1]
    build_student(
        student_config(checkpoint=str(teachers["roberta"])), teachers["bert"], names, tmp_path / "s"
    )
    student, held = load_classifier(tmp_path / "s")[0], load_classifier(teachers["roberta"])[0]
    assert torch.equal(student.classifier.out_proj.weight, held.classifier.out_proj.weight.flip(0))
    assert label_names(student) == names


def test_the_seed_determines_new_weights(teachers, tmp_path) -> None:
    def head(seed: int) -> torch.Tensor:
        config = student_config(checkpoint=str(teachers["bert"]), seed=seed)
        build_student(config, teachers["bert"], ["a", "b"], tmp_path / str(seed))
        return load_classifier(tmp_path / str(seed))[0].classifier.weight

    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))


def test_a_family_without_known_layers_is_refused(teachers, tmp_path) -> None:
    from transformers import ErnieConfig, ErnieForSequenceClassification

    config = ErnieConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    ErnieForSequenceClassification(config).save_pretrained(tmp_path / "ernie")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "ernie" / name).write_bytes((teachers["bert"] / name).read_bytes())
    student = student_config(checkpoint=str(tmp_path / "ernie"))
    with pytest.raises(
        ModelError, match=r"student: 'ernie' given.*: albert, bert, .*, roberta, xlm-roberta;"
    ):
        build_student(student, teachers["bert"], LABELS, tmp_path / "student")


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_longer_than_the_student_takes_are_refused(family, teachers, tmp_path) -> None:
    most = 65 if family == "roberta" else 66
    build_student(from_layers(0), teachers[family], LABELS, tmp_path / "s", max_length=most)
    with pytest.raises(ModelError, match=f"max_length: {most + 1} given; the student takes at most {most}"):
        build_student(from_layers(0), teachers[family], LABELS, tmp_path / "s", max_length=most + 1)


def test_a_checkpoint_can_give_some_of_its_layers(teachers, tmp_path) -> None:
    given = {"checkpoint": str(teachers["bert"]), "layers": [0, 3]}
    record = build_student(student_config(**given), teachers["roberta"], LABELS, tmp_path / "student")
    own, _ = load_classifier(teachers["bert"])
    student, _ = load_classifier(tmp_path / "student")
    assert record["num_layers"] == 2
    assert same(layers_of(student)[1], layers_of(own)[3])
    assert same(student.classifier, own.classifier)
    wrong = student_config(checkpoint=given["checkpoint"], layers=[0, 4])
    with pytest.raises(
        ModelError, match=r"student\.layers: \[0, 4\] given; the checkpoint has layers 0 to 3"
    ):
        build_student(wrong, teachers["roberta"], LABELS, tmp_path / "other")


def test_a_checkpoint_with_too_few_positions_is_refused(teachers, tmp_path) -> None:
    config = student_config(checkpoint=str(teachers["distilbert"]))
    with pytest.raises(ModelError, match=r"training\.max_length: 67 given; the student takes at most 66"):
        build_student(config, teachers["bert"], LABELS, tmp_path / "student", max_length=67)
    assert not (tmp_path / "student").exists()


TEXTS = [text for text, _ in tiny_data()]


def test_changed_logits_are_measured_in_their_spread() -> None:
    before = np.array([[0.0, 2.0], [4.0, 2.0]])
    assert compare_logits(before, before) == {"logits_rmse": 0, "predictions_changed": 0}
    after = before + [[3.0, 0.0], [1.0, 0.0]]
    assert compare_logits(before, after) == {
        "logits_rmse": pytest.approx(np.sqrt(10 / 4) / before.std()),
        "predictions_changed": 0.5,
    }


@pytest.mark.parametrize("others", ["spelled", "nearest"])
def test_the_change_of_the_logits_by_each_step_is_recorded(others, teachers, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("distiltune.training.student.logit_change.NUM_TEXTS", 5)
    texts, loaded = [TEXTS[place] for place in (0, 12, 24, 35, 47)], []

    def parity(name: str, **more) -> list[dict]:
        config = student_config(layers=[0, 2], **more)
        record = build_student(config, teachers["bert"], LABELS, tmp_path / name, texts=(TEXTS, ()))
        loaded.append(load_classifier(tmp_path / name))
        return record["parity"]

    def logits(model, tokenizer) -> np.ndarray:
        batch = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            return model.eval()(**batch).logits.numpy()

    needed = pieces_to_keep(load_tokenizer(teachers["bert"]), [], others_spelled=others == "spelled")
    assert parity("plain") == []
    both = parity("both", width={"intermediate_size": 40}, vocabulary={"others": others})
    assert [each["step"] for each in both] == ["width", "vocabulary"]
    assert 0 < both[0]["logits_rmse"] < 2
    # All pieces of these texts are kept. What is left is rounding: a matrix that lies elsewhere in memory can
    # be summed in another order.
    assert both[1] == {
        "step": "vocabulary",
        "logits_rmse": pytest.approx(0, abs=1e-6),
        "predictions_changed": 0,
    }
    [trimmed] = parity("trimmed", vocabulary={"others": others, "size": len(needed) + 4})
    expected = compare_logits(logits(*loaded[0]), logits(*loaded[2]))
    assert trimmed == {"step": "vocabulary", **{name: pytest.approx(each) for name, each in expected.items()}}
    assert trimmed["logits_rmse"] > 0.01
    narrowed, tokenizer = load_classifier(teachers["bert"])
    whole = logits(narrowed, tokenizer)
    narrow(narrowed, tokenizer, WidthConfig(intermediate_size=40), TEXTS)
    assert both[0]["logits_rmse"] == pytest.approx(
        compare_logits(whole, logits(narrowed, tokenizer))["logits_rmse"], rel=1e-3
    )


def test_a_new_head_is_not_compared(teachers, tmp_path) -> None:
    given = {"checkpoint": str(teachers["bert"]), "width": {"intermediate_size": 40}}
    config = student_config(**given)
    nothing = [{"step": "width", "logits_rmse": None, "predictions_changed": None}]
    record = build_student(config, teachers["bert"], ["a", "b"], tmp_path / "new", texts=(TEXTS, ()))
    assert record["parity"] == nothing
    record = build_student(config, teachers["bert"], LABELS[::-1], tmp_path / "own", texts=(TEXTS, ()))
    assert record["parity"][0]["logits_rmse"] > 0
