"""Pretraining on texts without labels: the loss, the masks, what a student keeps, what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_classifier
from transformers import AutoModelForMaskedLM, DistilBertConfig, DistilBertForMaskedLM

import distiltune
from distiltune.cluster.pipeline.checks.models import check_models
from distiltune.cluster.specification.config import JobConfig
from distiltune.errors import InputError, ModelError
from distiltune.storage.store import Store
from distiltune.training.checkpoints.load import label_names, load_classifier, load_tokenizer, save_checkpoint
from distiltune.training.checkpoints.masked_lm import (
    head_parameters,
    language_head,
    load_masked_lm,
    masked_lm_around,
)
from distiltune.training.checkpoints.unfinished import UnfinishedTraining
from distiltune.training.data.tokenized import IGNORED_LABEL, TokenizedDataset, tokenize_split
from distiltune.training.models.structured_pruning import KEPT_HEADS
from distiltune.training.pretraining import loss as triple_loss
from distiltune.training.pretraining.arguments import PretrainingArguments
from distiltune.training.pretraining.config import PretrainingConfig
from distiltune.training.pretraining.loss import pretraining_loss
from distiltune.training.pretraining.masking import Masking
from distiltune.training.pretraining.trainer import PretrainingTrainer
from distiltune.training.student.build import build_student
from distiltune.training.student.config import student_config

LABELS = ["balance", "oos", "transfer", "weather"]
FAMILIES = ["bert", "distilbert", "roberta"]
_TALE = "the small red boat sails over a wide blue lake while old men watch from green hills"


def _sentences(count, seed=0):
    random = np.random.default_rng(seed)
    # Words follow one another in one order, so that there is something to learn.
    words = _TALE.split()
    starts, lengths = random.integers(len(words), size=count), random.integers(3, 9, size=count)
    return [
        " ".join(words[(start + n) % len(words)] for n in range(length))
        for start, length in zip(starts, lengths, strict=True)
    ]


TEXTS = _sentences(48)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    root = tmp_path_factory.mktemp("teachers")
    return {
        family: tiny_classifier(root / family, family=family, num_layers=3, label_names=LABELS, texts=TEXTS)
        for family in FAMILIES
    }


@pytest.fixture(scope="module")
def with_head(teachers, tmp_path_factory):
    """The BERT teacher's encoder with a masked-language head in its checkpoint."""
    torch.manual_seed(5)
    model, has_head = load_masked_lm(teachers["bert"])
    assert not has_head
    directory = tmp_path_factory.mktemp("with_head")
    save_checkpoint(model, load_tokenizer(teachers["bert"]), directory)
    return directory


def _arguments(directory, **more):
    given = {
        "learning_rate": 3e-3, "num_train_epochs": 2, "per_device_train_batch_size": 8, "bf16": False,
        "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, "report_to": "none", "seed": 3,
    }  # fmt: skip
    return PretrainingArguments(output_dir=str(directory), **(given | more))


def _trainer(teacher_dir, directory, *, student=None, texts=TEXTS, with_teacher=True, **more):
    tokenizer = load_tokenizer(teacher_dir)
    torch.manual_seed(0)
    teacher, _ = load_masked_lm(teacher_dir)
    if student is None:
        student = masked_lm_around(teacher, teacher)
        with torch.no_grad():  # another model than the teacher
            for parameter in student.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return PretrainingTrainer(
        model=student,
        args=_arguments(directory, **more),
        teacher_model=teacher if with_teacher else None,
        train_dataset=TokenizedDataset(tokenize_split(texts, [0] * len(texts), tokenizer, 16)),
        processing_class=tokenizer,
    )


def _batch(trainer, rows=6):
    collated = trainer.data_collator([trainer.train_dataset[number] for number in range(rows)])
    return trainer.masking(collated, 0)


def _weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def _logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


# ---- The loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [2**25, 400])
@pytest.mark.parametrize("positions", ["all", "masked"])
def test_the_loss_and_its_gradient_are_those_of_all_logits(
    teachers, tmp_path, monkeypatch, positions, at_once
):
    """Whole and in chunks of three tokens, against ``pretraining_loss`` on every token's logits."""
    monkeypatch.setattr(triple_loss, "LOGITS_AT_ONCE", at_once)
    trainer = _trainer(teachers["bert"], tmp_path, distil_positions=positions)
    student, teacher, batch = trainer.model.eval(), trainer.triple_loss._teacher, _batch(trainer)
    trainer.compute_loss(student, batch).backward()
    found = [parameter.grad.clone() for parameter in student.parameters()]
    loss = float(trainer.compute_loss(student, batch).detach())

    student.zero_grad()
    features = {name: batch[name] for name in ("input_ids", "attention_mask")}
    own = student(**features, output_hidden_states=True)
    with torch.no_grad():
        others = teacher(**features, output_hidden_states=True)
    states = own.hidden_states[-1], others.hidden_states[-1]
    expected = pretraining_loss(own.logits, others.logits, batch["labels"], *states, batch["attention_mask"])
    if positions == "masked":
        mask = (batch["labels"] != IGNORED_LABEL).long()
        weights = {"alpha": 2.0, "beta": 5.0, "gamma": 0.0}
        expected = pretraining_loss(own.logits, others.logits, batch["labels"], *states, mask, **weights)
        cosine = {"alpha": 0.0, "beta": 0.0, "gamma": 1.0}
        whole = own.logits, others.logits, batch["labels"], *states, batch["attention_mask"]
        expected = expected + pretraining_loss(*whole, **cosine)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for gradient, parameter in zip(found, student.parameters(), strict=True):
        assert torch.allclose(gradient, parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_of_fixed_logits_are_the_formulas_in_numpy(teachers, tmp_path, family):
    trainer = _trainer(teachers[family], tmp_path, temperature=3.0)
    student, batch = trainer.model.eval(), _batch(trainer)
    teacher = trainer.triple_loss._teacher
    counts = trainer.triple_loss.counts(batch)
    with torch.no_grad():
        parts = trainer.triple_loss.parts(student, batch, counts).numpy()
        features = {name: batch[name] for name in ("input_ids", "attention_mask")}
        own, others = (
            model(**features, output_hidden_states=True).to_tuple() for model in (student, teacher)
        )
    (z_s, h_s), (z_t, h_t) = ((out[0].double().numpy(), out[1][-1].double().numpy()) for out in (own, others))
    labels, keep = batch["labels"].numpy(), batch["attention_mask"].numpy() == 1

    def log_softmax(z):
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    at = labels != IGNORED_LABEL
    masked = -np.mean(np.take_along_axis(log_softmax(z_s[at]), labels[at][:, None], -1))
    p, q = log_softmax(z_t[keep] / 3), log_softmax(z_s[keep] / 3)
    soft = 9 * np.mean((np.exp(p) * (p - q)).sum(-1))
    norms = np.linalg.norm(h_s[keep], axis=-1) * np.linalg.norm(h_t[keep], axis=-1)
    cosine = np.mean(1 - (h_s[keep] * h_t[keep]).sum(-1) / norms)
    assert parts == pytest.approx([masked, soft, cosine], rel=1e-4)
    assert counts.tolist() == [at.sum(), keep.sum(), keep.sum()]


def test_a_student_that_is_its_teacher_only_learns_words(teachers, tmp_path):
    torch.manual_seed(0)
    teacher, _ = load_masked_lm(teachers["bert"])
    trainer = _trainer(teachers["bert"], tmp_path, student=masked_lm_around(teacher, teacher))
    trainer.triple_loss._teacher.load_state_dict(trainer.model.state_dict())
    metrics = trainer.evaluate(trainer.train_dataset)
    assert metrics["eval_distillation"] == pytest.approx(0, abs=1e-5)
    assert metrics["eval_cosine"] == pytest.approx(0, abs=1e-5)
    assert metrics["eval_loss"] == pytest.approx(2 * metrics["eval_masked_lm"], abs=1e-4)


def test_accumulation_changes_neither_loss_nor_weights(teachers, tmp_path):
    """With rows of unequal length, so that micro-batches hold unequally many tokens."""
    run = {}
    for size in (8, 2):
        more = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 8 // size}
        more |= {"optim": "sgd"}  # Adam takes full steps even along gradients that are next to 0
        run[size] = _trainer(teachers["bert"], tmp_path, train_sampling_strategy="sequential", **more)
        for module in run[size].model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        # Masks are drawn for each micro-batch; here for each row, so that both runs have the same ones.
        run[size].masking = _MaskingByRow(run[size].masking)
        run[size].train()
    assert _logged(run[8], "loss") == pytest.approx(_logged(run[2], "loss"), rel=1e-4)
    for name in ("masked_lm", "distillation", "cosine"):
        assert _logged(run[8], name) == pytest.approx(_logged(run[2], name), rel=1e-3)
    assert torch.allclose(_weights(run[8].model), _weights(run[2].model), atol=1e-5)


class _MaskingByRow:
    def __init__(self, masking):
        self.masking = masking

    def __call__(self, batch, *place):
        rows = []
        for row in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            kept = int(row[1].sum())
            masked = self.masking(
                {"input_ids": row[0][None, :kept], "attention_mask": row[1][None, :kept]},
                int(row[0][:kept].sum()),
            )
            fill = {"input_ids": 0, "attention_mask": 0, "labels": IGNORED_LABEL}
            pad = (0, len(row[0]) - kept)
            rows.append({n: torch.nn.functional.pad(v, pad, value=fill[n]) for n, v in masked.items()})
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


# ---- The masks ------------------------------------------------------------------------------------------


def test_masks_are_on_word_pieces_alone_in_the_shares_of_bert(teachers):
    tokenizer = load_tokenizer(teachers["bert"])
    encoded = tokenizer(_sentences(3000), padding=True, return_tensors="pt")
    batch = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    before = batch["input_ids"].clone()
    masking = Masking(tokenizer, 0.15, seed=1)
    made = masking(batch, 0, 7)
    assert torch.equal(batch["input_ids"], before)

    at = made["labels"] != IGNORED_LABEL
    special = torch.isin(before, torch.tensor(tokenizer.all_special_ids))
    assert not (at & (made["attention_mask"] == 0)).any()
    assert not (at & special).any()
    assert torch.equal(made["labels"][at], before[at])
    assert torch.equal(made["input_ids"][~at], before[~at])
    now, was = made["input_ids"][at], before[at]
    assert float(at.sum() / (~special).sum()) == pytest.approx(0.15, abs=0.01)
    assert float((now == tokenizer.mask_token_id).float().mean()) == pytest.approx(0.8, abs=0.02)
    # Another piece, which by chance is the old one or the mask itself.
    assert float((now == was).float().mean()) == pytest.approx(0.1, abs=0.02)

    assert torch.equal(masking(batch, 0, 7)["labels"], made["labels"])
    for other in (masking(batch, 0, 8), Masking(tokenizer, 0.15, seed=2)(batch, 0, 7)):
        assert not torch.equal(other["labels"], made["labels"])


# ---- The training ---------------------------------------------------------------------------------------


def test_training_lowers_every_part_and_logs_them(teachers, tmp_path):
    trainer = _trainer(teachers["bert"], tmp_path, num_train_epochs=8)
    start = trainer.evaluate(trainer.train_dataset)
    again = trainer.evaluate(trainer.train_dataset)
    trainer.train()
    end = trainer.evaluate(trainer.train_dataset)
    for name in ("loss", "masked_lm", "distillation", "cosine"):
        assert again[f"eval_{name}"] == start[f"eval_{name}"]
        assert end[f"eval_{name}"] < 0.9 * start[f"eval_{name}"], name
    parts = zip(*(_logged(trainer, name) for name in ("masked_lm", "distillation", "cosine")), strict=True)
    sums = [2 * masked + 5 * soft + cosine for masked, soft, cosine in parts]
    assert len(sums) == 48
    assert _logged(trainer, "loss") == pytest.approx(sums, rel=1e-3)


@pytest.mark.parametrize("checkpoint", [pytest.param(6, marks=pytest.mark.slow), 8])
def test_resumed_training_ends_with_the_same_bits(teachers, tmp_path, checkpoint):
    """At the end of the first epoch, and in the middle of the second; with dropout."""
    more = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 2}
    whole = _trainer(teachers["bert"], tmp_path / "whole", **more)
    whole.train()
    at = tmp_path / "whole" / f"checkpoint-{checkpoint}"
    assert "cosine" in json.loads((at / "trainer_state.json").read_text())["log_history"][0]
    student = AutoModelForMaskedLM.from_pretrained(at)
    resumed = _trainer(teachers["bert"], tmp_path / "resumed", student=student, **more)
    torch.manual_seed(77)  # the resumed process begins with another random state
    resumed.train(resume_from_checkpoint=str(at))
    assert resumed.state.global_step == whole.state.global_step == 12
    assert torch.equal(_weights(whole.model), _weights(resumed.model))


def test_parts_without_weight_are_neither_computed_nor_required(teachers, tmp_path):
    words = _trainer(teachers["bert"], tmp_path, with_teacher=False, beta=0.0, gamma=0.0)
    words.train()
    assert _logged(words, "loss") == pytest.approx([2 * part for part in _logged(words, "masked_lm")])
    assert not _logged(words, "distillation") and not _logged(words, "cosine")
    states = _trainer(teachers["bert"], tmp_path, alpha=0.0, beta=0.0)
    head = [parameter.clone() for _, parameter in head_parameters(states.model)]
    states.train()
    assert _logged(states, "cosine")[-1] < _logged(states, "cosine")[0]
    after = [parameter for _, parameter in head_parameters(states.model)]
    assert all(torch.equal(one, other) for one, other in zip(head, after, strict=True))


def test_what_the_trainer_cannot_use_is_refused(teachers, tmp_path):
    with pytest.raises(InputError, match=r"beta is 5\.0 .* no teacher_model"):
        _trainer(teachers["bert"], tmp_path, with_teacher=False)
    torch.manual_seed(0)
    small = DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
    with pytest.raises(InputError, match=r"the student's has 50 pieces, the teacher's \d+; set beta to 0"):
        _trainer(teachers["bert"], tmp_path, student=DistilBertForMaskedLM(small))
    with pytest.raises(InputError, match="the student's is 16, the teacher's 32; set gamma to 0"):
        _trainer(teachers["bert"], tmp_path, student=DistilBertForMaskedLM(small), beta=0.0)
    with pytest.raises(InputError, match="no tokenizer with a mask token"):
        PretrainingTrainer(DistilBertForMaskedLM(small), _arguments(tmp_path, beta=0.0, gamma=0.0))
    for name, value in {
        "alpha": -1,
        "temperature": 0,
        "mlm_probability": 1,
        "distil_positions": "some",
    }.items():
        with pytest.raises(InputError, match=f"{name} is {value!r}; accepted: "):
            _arguments(tmp_path, **{name: value})


def test_the_package_exports_the_trainer():
    assert distiltune.PretrainingTrainer is PretrainingTrainer
    assert distiltune.PretrainingArguments is PretrainingArguments


# ---- A student ------------------------------------------------------------------------------------------


def _student(directory, teacher, unfinished=None, **pretraining):
    given = {"num_train_epochs": 1, "learning_rate": 3e-3, "batch_size": 8} | pretraining
    section = {"layers": [0, 2], "pretraining": given}
    messages = []
    record = build_student(
        student_config(**section),
        teacher,
        LABELS,
        directory,
        max_length=16,
        texts=(TEXTS[:30], TEXTS[30:]),
        num_threads=1,
        use_gpu=False,
        report=lambda progress: messages.append(progress.message),
        unfinished=unfinished,
    )
    return record, messages


@pytest.mark.parametrize("family", ["bert", "distilbert", pytest.param("roberta", marks=pytest.mark.slow)])
def test_a_pretrained_student_keeps_all_but_its_encoder(teachers, tmp_path, family):
    record, messages = _student(tmp_path / "warm", teachers[family])
    plain = student_config(layers=[0, 2])
    expected = build_student(plain, teachers[family], LABELS, tmp_path / "plain", max_length=16)
    pretraining = record.pop("pretraining")
    assert record == expected
    assert (pretraining["num_texts"], pretraining["steps"], pretraining["head"]) == (48, 6, "trained")
    assert pretraining["losses"]["end"]["loss"] < pretraining["losses"]["start"]["loss"]
    assert set(pretraining["losses"]["end"]) == {"loss", "masked_lm", "distillation", "cosine"}
    assert pretraining["seconds"] > 0
    assert [line.rpartition(" ")[0] for line in messages] == [
        "the teacher's masked-language head: step 1 of 6, loss",
        "pretraining: step 1 of 6, loss",
    ]

    (student, tokenizer), (other, others) = (load_classifier(tmp_path / name) for name in ("warm", "plain"))
    assert label_names(student) == label_names(other) == LABELS
    assert tokenizer.get_vocab() == others.get_vocab()
    before = other.state_dict()
    assert set(before) == set(student.state_dict())
    same = {name for name, value in student.state_dict().items() if torch.equal(value, before[name])}
    kept = {name for name in before if name.startswith(("classifier", "pre_classifier")) or "pooler" in name}
    assert kept <= same
    assert not {name for name in same - kept if name.endswith("weight")}


def test_the_same_student_twice(teachers, tmp_path):
    for past, name in enumerate(("one", "two")):
        torch.manual_seed(past)
        _student(tmp_path / name, teachers["bert"], max_texts=8)
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_an_interrupted_pretraining_is_resumed_after_its_last_epoch_in_the_same_bits(
    teachers, tmp_path, monkeypatch
):
    """It is interrupted after the only epoch of the teacher's head, then after the first one of the encoder."""
    record, _ = _student(tmp_path / "whole", teachers["bert"], num_train_epochs=2, max_texts=16)
    keep, kept = UnfinishedTraining.keep, []

    def keep_and_end(self, checkpoint):
        keep(self, checkpoint)
        kept.append(self.key)
        if len(kept) < 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(UnfinishedTraining, "keep", keep_and_end)
    unfinished = UnfinishedTraining(Store(str(tmp_path)), "unfinished")
    for past in range(2):
        torch.manual_seed(past)
        with pytest.raises(KeyboardInterrupt):
            _student(tmp_path / "cut", teachers["bert"], unfinished, num_train_epochs=2, max_texts=16)
    again, _ = _student(tmp_path / "cut", teachers["bert"], unfinished, num_train_epochs=2, max_texts=16)
    assert kept == ["unfinished/head", "unfinished/encoder", "unfinished/encoder"]
    for each in (record, again):
        del each["pretraining"]["seconds"]
    assert again == record
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert one == two


def test_where_the_teachers_head_is_from(teachers, with_head, tmp_path, caplog):
    caplog.set_level("INFO", logger="distiltune")
    more = {"max_texts": 8}
    heads = {
        "checkpoint": {"checkpoint": str(with_head), "head_epochs": 0},
        "none": {"beta": 0.0, "head_epochs": 0},
    }
    for head, section in heads.items():
        record, _ = _student(tmp_path / head, teachers["bert"], **more, **section)
        assert record["pretraining"]["head"] == head
        assert record["pretraining"]["num_texts"] == 8
    assert "none is needed, since beta is 0" in caplog.text
    with pytest.raises(
        ModelError, match=r"head_epochs: 0 given, .* has no masked-language head, .*set beta to 0"
    ):
        _student(tmp_path / "refused", teachers["bert"], head_epochs=0)
    assert not (tmp_path / "refused").exists()


@pytest.mark.slow
def test_a_head_is_trained_on_the_frozen_teacher(teachers, tmp_path, monkeypatch):
    """The student learns from a head that predicts words better than a new one, over the teacher's own states."""
    from distiltune.training.pretraining import pretrain_student as module

    seen = {}

    def around(encoder, like):
        seen["teacher"] = like
        return masked_lm_around(encoder, like)

    monkeypatch.setattr(module, "masked_lm_around", around)
    _student(tmp_path / "s", teachers["bert"], head_epochs=4)
    teacher, held = seen["teacher"].state_dict(), load_classifier(teachers["bert"])[0].state_dict()
    encoder = {name for name in teacher if name.startswith("bert.")}
    assert encoder and all(torch.equal(teacher[name], held[name]) for name in encoder)
    torch.manual_seed(0)
    new, _ = load_masked_lm(teachers["bert"])
    loss = {}
    for name, model in (("new", new), ("trained", seen["teacher"].eval())):
        words = _trainer(teachers["bert"], tmp_path, student=model, with_teacher=False, beta=0.0, gamma=0.0)
        loss[name] = words.evaluate(words.train_dataset)["eval_masked_lm"]
    assert loss["trained"] < loss["new"] - 0.3


def test_pretraining_comes_after_narrowing_and_before_trimming(teachers, tmp_path):
    section = {
        "layers": [1],
        "width": {"num_attention_heads": 1, "intermediate_size": 24},
        "pretraining": {"num_train_epochs": 4, "batch_size": 16},
        "vocabulary": {},
    }
    config = student_config(**section)
    texts = (TEXTS[:4], TEXTS[4:6])
    record = build_student(config, teachers["bert"], LABELS, tmp_path / "s", texts=texts)
    student, tokenizer = load_classifier(tmp_path / "s")
    whole = load_tokenizer(teachers["bert"])
    assert record["pretraining"]["num_texts"] == 6
    assert record["num_embeddings"] == len(tokenizer) < len(whole)
    assert tokenizer.tokenize(TEXTS[0]) == whole.tokenize(TEXTS[0])
    assert student.get_input_embeddings().num_embeddings == len(tokenizer)
    assert (record["num_attention_heads"], record["intermediate_size"]) == (1, 24)
    assert student.base_model.encoder.layer[0].attention.self.query.out_features == 16
    assert record["pretraining"]["losses"]["end"]["loss"] < record["pretraining"]["losses"]["start"]["loss"]


@pytest.mark.parametrize("texts", [([], []), ((), ())])
def test_no_texts_are_refused(teachers, tmp_path, texts):
    config = student_config(layers=[0], pretraining={})
    with pytest.raises(ModelError, match=r"there are no texts to train on; .*data\.unlabelled"):
        build_student(config, teachers["bert"], LABELS, tmp_path / "s", texts=texts)
    assert not (tmp_path / "s").exists()


def test_models_that_do_not_fit_are_refused_before_anything_begins(teachers, tmp_path):
    from transformers import ErnieConfig, ErnieForMaskedLM

    tiny_classifier(tmp_path / "wide", hidden_size=48, label_names=LABELS, texts=TEXTS)
    tiny_classifier(tmp_path / "other", label_names=LABELS, texts=["quite other words stand here"])
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": 32}
    tokenizer = load_tokenizer(teachers["bert"])
    ernie = ErnieForMaskedLM(ErnieConfig(vocab_size=len(tokenizer), **small))
    save_checkpoint(ernie, tokenizer, tmp_path / "ernie")
    narrowed = json.loads((teachers["bert"] / "config.json").read_text()) | {KEPT_HEADS: 1}
    shutil.copytree(teachers["bert"], tmp_path / "narrow")
    (tmp_path / "narrow" / "config.json").write_text(json.dumps(narrowed))
    for name, message in {
        "narrow": r"fewer attention heads \(kept_attention_heads .*student\.pretraining\.checkpoint",
        "wide": r"gamma: 1\.0 given; the cosine needs equal widths, .* 32 .* 48; set it to 0",
        "other": r"word pieces, .* has \d+ .*student\.pretraining\.checkpoint",
        "ernie": r"student\.pretraining: 'ernie' given.*: albert, bert, .*, roberta, xlm-roberta;",
    }.items():
        section = {
            "layers": [0],
            "pretraining": {"checkpoint": str(tmp_path / name)},
        }
        with pytest.raises(ModelError, match=message):
            check_models(
                JobConfig.model_validate(
                    {"teacher": {"checkpoint": str(teachers["bert"])}, "student": section}
                )
            )
        with pytest.raises(ModelError, match=message):
            config = student_config(**section)
            build_student(config, teachers["bert"], LABELS, tmp_path / "s", texts=(TEXTS, []))
    with pytest.raises(ModelError, match="no such checkpoint directory"):
        _student(tmp_path / "s", teachers["bert"], checkpoint=str(Path("/nowhere/at/all")))
    # Without the cosine, a wider model is accepted.
    _student(tmp_path / "s", teachers["bert"], checkpoint=str(tmp_path / "wide"), gamma=0.0, max_texts=8)


def test_weights_that_are_all_0_are_refused():
    with pytest.raises(ValueError, match="alpha, beta and gamma are all 0"):
        PretrainingConfig(alpha=0, beta=0, gamma=0)


def test_a_training_that_diverges_is_refused(teachers, tmp_path):
    student = student_config(layers=[0, 2], pretraining={"max_texts": 16})
    # The learning rate is beyond the range that a specification accepts.
    diverging = student.pretraining.model_copy(update={"learning_rate": 1e20})
    student = student.model_copy(update={"pretraining": diverging})
    with pytest.raises(ModelError, match=r"learning_rate: 1e\+20 given, .* not finite; lower it"):
        build_student(student, teachers["bert"], LABELS, tmp_path / "s", max_length=16, texts=(TEXTS, []))
    assert not (tmp_path / "s").exists()


def test_heads_are_the_models_own(teachers):
    for family in FAMILIES:
        torch.manual_seed(0)
        model, _ = load_masked_lm(teachers[family])
        ids = torch.tensor([[2, 7, 9, 3]])
        with torch.no_grad():
            states = model.base_model(ids)[0]
            assert torch.equal(language_head(model)(states[0]), model(ids).logits[0])


def test_batches_in_passes_have_the_losses_and_weights_of_whole_ones(teachers, tmp_path):
    given = {"optim": "sgd", "learning_rate": 0.05, "num_train_epochs": 1, "gradient_accumulation_steps": 2}
    whole, split = (
        _trainer(teachers["bert"], tmp_path, max_batch_tokens=each, **given) for each in (10_000, 20)
    )
    for module in [*whole.model.modules(), *split.model.modules()]:
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # it would draw other numbers
    evaluated = [each.evaluate(whole.train_dataset) for each in (whole, split)]
    for name in ("eval_loss", "eval_masked_lm", "eval_distillation", "eval_cosine"):
        assert evaluated[1][name] == pytest.approx(evaluated[0][name], rel=1e-4)
    logs = []
    for trainer in (whole, split):
        trainer.train()
        names = ("loss", "masked_lm", "distillation", "cosine")
        logs.append([[each[name] for name in names] for each in trainer.state.log_history if "loss" in each])
    np.testing.assert_allclose(logs[1], logs[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(_weights(split.model), _weights(whole.model), atol=1e-5, rtol=1e-4)
