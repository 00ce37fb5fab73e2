"""The contract of every loss term, and a term registered from outside."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from distiltune.cluster.specification.config import JobConfig, load_config, without_search
from distiltune.errors import ConfigError, InputError
from distiltune.search.config import SearchConfig
from distiltune.search.driver.gpu_sharing import heaviest_trials
from distiltune.search.space.space import is_training_argument
from distiltune.search.space.validation import check_space
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.distillation.arguments import DistillationTrainingArguments, arguments_from_config
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.distillation.losses.base import (
    LOSS_TERMS,
    NEED_TEACHER_MODEL,
    LossInputs,
    LossTerm,
    Need,
    terms_of,
    with_sections,
)
from distiltune.training.distillation.losses.total import weighted_sum
from distiltune.training.distillation.trainer import DistillationTrainer

B, C, L, D, LAYERS = 6, 5, 4, 3, 2
TERMS = list(LOSS_TERMS)
NAMES = LOSS_TERMS.names
COSINE = "training.losses.cosine.weight"


def log_softmax(values: np.ndarray) -> np.ndarray:
    shifted = values - values.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def mean_over_tokens(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.array([row[: keep.sum()].mean() for row, keep in zip(values, mask, strict=True)])


def cross_entropy(arrays: dict, args) -> float:
    labelled = np.flatnonzero(arrays["labels"] >= 0)
    return -log_softmax(arrays["logits"])[labelled, arrays["labels"][labelled]].sum() / B


def distillation(arrays: dict, args) -> float:
    own, teacher = (log_softmax(arrays[name] / args.temperature) for name in ("logits", "teacher_logits"))
    return args.temperature**2 * (np.exp(teacher) * (teacher - own)).sum() / B


def hidden_loss(arrays: dict, args) -> float:
    pairs = zip(arrays["states"][1:], arrays["teacher_states"][1:], strict=True)
    squared = [((own - teacher) ** 2).mean(axis=-1) for own, teacher in pairs]
    return float(np.mean([mean_over_tokens(each, arrays["mask"]) for each in squared]))


def cosine(arrays: dict, args) -> float:
    own, teacher = arrays["states"][-1], arrays["teacher_states"][-1]
    norms = np.linalg.norm(own, axis=-1) * np.linalg.norm(teacher, axis=-1)
    return float(mean_over_tokens(1 - (own * teacher).sum(axis=-1) / norms, arrays["mask"]).mean())


REFERENCES = {
    "cross_entropy": cross_entropy,
    "distillation": distillation,
    "hidden_loss": hidden_loss,
    "cosine": cosine,
}


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "logits": random.normal(size=(B, C)),
        "teacher_logits": random.normal(size=(B, C)),
        "labels": np.array([0, 4, 2, -100, 1, 3]),
        "states": random.normal(size=(LAYERS + 1, B, L, D)),
        "teacher_states": random.normal(size=(LAYERS + 1, B, L, D)),
        "mask": (np.arange(L) < random.integers(1, L + 1, size=B)[:, None]).astype(int),
    }


def inputs_of(
    arrays: dict[str, np.ndarray], rows: slice = slice(None), *, learns: bool = False
) -> LossInputs:
    """Tensors of some rows of a step of B examples."""
    values = {
        name: torch.from_numpy(each[:, rows] if name.endswith("states") else each[rows])
        for name, each in arrays.items()
    }
    for name in ("logits", "states", "teacher_logits", "teacher_states"):
        values[name].requires_grad_(learns)
    return LossInputs(
        logits=values["logits"],
        num_items=B,
        labels=values["labels"],
        teacher_logits=values["teacher_logits"],
        attention_mask=values["mask"],
        outputs={"logits": values["logits"], "hidden_states": tuple(values["states"])},
        teacher_outputs={
            "logits": values["teacher_logits"],
            "hidden_states": tuple(values["teacher_states"]),
        },
    )


def args_for(term: type[LossTerm], **more) -> DistillationTrainingArguments:
    """Arguments with which a term has weight."""
    given = {"alpha": 0.3, "temperature": 3.0, "use_cpu": True, **more}
    if term.argument is None:
        given.setdefault("losses", {term.name: {"weight": 0.7}})
    elif term.argument != "alpha":
        given.setdefault(term.argument, 0.7)
    return DistillationTrainingArguments(output_dir=".", **given)


def test_the_terms_in_the_order_of_their_sum():
    assert NAMES == ["cross_entropy", "distillation", "hidden_loss", "cosine"]
    assert list(REFERENCES) == NAMES


@pytest.mark.parametrize("term", TERMS, ids=NAMES)
def test_a_term_is_its_formula_in_numpy(arrays, term):
    args = args_for(term)
    made = term.of_arguments(args)
    assert made.weight > 0
    expected = REFERENCES[term.name](arrays, args)
    assert float(made.value(inputs_of(arrays))) == pytest.approx(expected, rel=1e-5)
    loss, values = weighted_sum([made], inputs_of(arrays))
    assert float(loss) == pytest.approx(made.weight * expected, rel=1e-5)
    assert list(values) == [term.name] and not values[term.name].requires_grad


@pytest.mark.parametrize("term", TERMS, ids=NAMES)
def test_the_terms_of_micro_batches_add_up(arrays, term):
    made = term.of_arguments(args_for(term))
    pieces = [made.value(inputs_of(arrays, rows)) for rows in (slice(0, 1), slice(1, 4), slice(4, B))]
    assert float(sum(pieces)) == pytest.approx(float(made.value(inputs_of(arrays))), rel=1e-5)


@pytest.mark.parametrize("term", TERMS, ids=NAMES)
def test_a_term_needs_what_it_declares_and_gives_the_teacher_no_gradient(arrays, term):
    made = term.of_arguments(args_for(term))
    inputs = inputs_of(arrays, learns=True)
    made.value(inputs).backward()
    assert inputs.outputs is not None and inputs.teacher_outputs is not None
    assert inputs.teacher_outputs["logits"].grad is None
    absent = {"labels": "labels", "teacher_logits": "teacher_logits", "hidden_states": "teacher_outputs"}
    for need, field in absent.items():
        without = dataclasses.replace(inputs_of(arrays), **{field: None})
        if need in made.needs:
            with pytest.raises(ValueError, match=f"{term.name} .*{need}"):
                weighted_sum([made], without)
        else:
            assert torch.equal(weighted_sum([made], without)[0], made.weight * made.value(inputs_of(arrays)))


@pytest.mark.parametrize("term", TERMS, ids=NAMES)
def test_a_term_without_weight_is_left_out(arrays, term):
    name = term.argument or "losses"
    off = {term.name: {"weight": 0.0}} if term.argument is None else (1.0 if term.off else 0.0)
    made = term.of_arguments(args_for(term, **{name: off}))
    assert made.weight == 0
    others = [each.of_arguments(args_for(term)) for each in TERMS[:2] if each is not term]
    loss, values = weighted_sum([*others, made], inputs_of(arrays))
    assert torch.equal(loss, weighted_sum(others, inputs_of(arrays))[0])
    assert (term.name in values) == term.always_logged


@pytest.mark.parametrize("term", with_sections().values(), ids=with_sections())
def test_a_term_is_configured_by_its_section_and_searched(term):
    name = term.name
    schema = JobConfig.model_json_schema()
    assert name in schema["$defs"]["TrainingConfig"]["properties"]["losses"]["properties"]
    assert all("description" in each for each in schema["$defs"][term.__name__]["properties"].values())
    job = load_config("quickstart", [f"training.losses.{name}.weight=0.25"])
    assert JobConfig.model_validate_json(job.model_dump_json()).training == job.training
    args = arguments_from_config(job.training, ".", use_cpu=True)
    assert term.of_arguments(args).weight == 0.25
    search = SearchConfig.model_validate({"space": {f"training.losses.{name}.weight": 0.5}})
    check_space(search, job.training)
    args = arguments_from_config(job.training, ".", **{f"training.losses.{name}.weight": 0.5}, use_cpu=True)
    assert term.of_arguments(args).weight == 0.5
    assert term.of_arguments(arguments_from_config(TrainingConfig(), ".", use_cpu=True)).weight == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.losses.cosin={}", r"training\.losses\.cosin: 'cosin' is not known; accepted: cosine"),
        ("training.losses.cosine.wieght=1", r"training\.losses\.cosine\.wieght: .*'weight'"),
        ("training.losses.cosine.weight=-1", r"training\.losses\.cosine\.weight: .*-1"),
        ("training.losses.distillation.weight=1", r"training\.losses\.distillation: .*accepted: cosine"),
        ("training.losses=cosine", r"training\.losses: .*dictionary.*'cosine'"),
    ],
)
def test_a_faulty_section_is_named_with_its_path(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("quickstart", [override])


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"cosin": {}}, "losses is .*cosin.*accepted: .*cosine"),
        ({"cosine": {"weight": -1}}, r"losses\.cosine\.weight is -1"),
        ({"cosine": {"wieght": 1}}, r"losses\.cosine\.wieght is 1.*keys: weight"),
        ([1], "losses is"),
    ],
)
def test_faulty_arguments_are_refused(losses, message):
    with pytest.raises(InputError, match=message):
        DistillationTrainingArguments(output_dir=".", use_cpu=True, losses=losses)


def test_faulty_searched_weights_are_refused():
    search = SearchConfig.model_validate({"space": {COSINE: {"type": "float", "low": -1, "high": 1}}})
    with pytest.raises(ConfigError, match=r"search\.space\.training\.losses\.cosine\.weight: -1"):
        check_space(search, TrainingConfig())
    with pytest.raises(ConfigError, match=r"training\.losses"):
        arguments_from_config(TrainingConfig(arguments={"losses": {}}), ".")


@pytest.mark.parametrize(
    ("space", "losses", "runs"),
    [
        ({}, {}, False),
        ({}, {"cosine": {"weight": 0.0}}, False),
        ({}, {"cosine": {}}, True),
        ({COSINE: 0.5}, {}, True),
        ({COSINE: 0.0}, {"cosine": {}}, False),
        ({COSINE: {"type": "float", "low": 0.0, "high": 1.0}}, {}, True),
    ],
)
def test_memory_is_measured_with_the_teacher_where_a_term_may_need_it(space, losses, runs):
    search = SearchConfig.model_validate({"space": {"num_train_epochs": 1, **space}})
    training = TrainingConfig.model_validate({"losses": losses})
    [heaviest] = heaviest_trials(search, training)
    searched = {name: value for name, value in heaviest.items() if is_training_argument(name)}
    terms = terms_of(arguments_from_config(training, ".", **searched, use_cpu=True))
    assert any(each.weight > 0 and each.needs & NEED_TEACHER_MODEL for each in terms) == runs


def test_one_training_keeps_the_weight_of_its_section():
    space = {"num_train_epochs": 1, COSINE: {"type": "choice", "values": [0.0, 1.0]}}
    job = load_config("quickstart", [f"{COSINE}=0.5"])
    job = job.model_copy(update={"search": SearchConfig.model_validate({"space": space})})
    alone = without_search(job)
    assert COSINE not in alone.search.space and alone.training.losses["cosine"].weight == 0.5


# ---- Trained --------------------------------------------------------------------------------------------


class Confidence(LossTerm):
    """Minus the entropy of the student's distribution, where the teacher's largest logit is above a bound."""

    bound: float = Field(default=0.0, ge=-9, le=9, description="Of the teacher's largest logit.")

    name: ClassVar[str] = "confidence"
    needs: ClassVar[frozenset[Need]] = frozenset({"teacher"})

    def value(self, inputs: LossInputs) -> Tensor:
        assert inputs.teacher_outputs is not None
        logs = inputs.logits.float().log_softmax(dim=-1)
        certain = inputs.teacher_outputs["logits"].amax(dim=-1) > self.bound
        return ((logs.exp() * logs).sum(dim=-1) * certain).sum() / inputs.num_items


def model(layers: int, seed: int, width: int = 16) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=40,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=32,
            num_labels=C,
        )
    )


def rows(num: int = 16) -> list[dict]:
    random = np.random.default_rng(1)
    return [
        {
            "input_ids": random.integers(1, 40, random.integers(3, 9)).tolist(),
            "labels": int(random.integers(0, C)),
        }
        for _ in range(num)
    ]


def trained(path, losses: dict, *, teacher=None, width: int = 16, **more) -> DistillationTrainer:
    given = {
        "alpha": 0.5,
        "per_device_train_batch_size": 8,
        "num_train_epochs": 2,
        "logging_steps": 1,
        **more,
    }
    args = DistillationTrainingArguments(
        output_dir=str(path), use_cpu=True, bf16=False, report_to="none", save_strategy="no",
        disable_tqdm=True, train_sampling_strategy="random", losses=losses, **given,
    )  # fmt: skip
    trainer = DistillationTrainer(
        model=model(2, 0, width),
        args=args,
        teacher_model=teacher,
        train_dataset=rows(),  # pyright: ignore[reportArgumentType]
        data_collator=DistillationCollator(0),
    )
    trainer.train()
    return trainer


def test_the_cosine_term_is_trained_and_logged(tmp_path):
    plain = trained(tmp_path, {}, teacher=model(4, 9), alpha=1.0)
    first = trained(tmp_path, {"cosine": {"weight": 0.4}}, teacher=model(4, 9)).state.log_history[0]
    total = 0.5 * first["cross_entropy"] + 0.5 * first["distillation"] + 0.4 * first["cosine"]
    assert first["loss"] == pytest.approx(total, rel=1e-5) and first["cosine"] > 0
    assert "cosine" not in plain.state.log_history[0]
    with pytest.raises(InputError, match=r"losses\.cosine\.weight is 0\.4 .*teacher_model.*weight to 0"):
        trained(tmp_path, {"cosine": {"weight": 0.4}}, alpha=1.0)
    with pytest.raises(InputError, match=r"training\.losses\.cosine\.weight needs equal widths"):
        trained(tmp_path, {"cosine": {"weight": 0.4}}, teacher=model(4, 9), width=8)


def test_a_term_that_is_added_from_outside_is_configured_trained_and_logged(tmp_path):
    given = ["training.losses.confidence.bound=-9", "training.losses.confidence.weight=0.2"]
    with pytest.raises(ConfigError, match=r"training\.losses\.confidence: .*accepted: cosine"):
        load_config("quickstart", given)
    without = trained(tmp_path, {}, teacher=model(4, 9))
    with LOSS_TERMS.temporarily(Confidence):
        training = load_config("quickstart", given).training
        losses = arguments_from_config(training, ".", use_cpu=True).losses
        with pytest.raises(ConfigError, match=r"training\.losses\.confidence\.bond: .*'bound'"):
            load_config("quickstart", ["training.losses.confidence.bond=1"])
        assert "Confidence" in JobConfig.model_json_schema()["$defs"]
        assert Confidence.needs <= NEED_TEACHER_MODEL
        assert losses == {"confidence": {"weight": 0.2, "bound": -9.0}}
        trainer = trained(tmp_path, dict(losses), teacher=model(4, 9))
    first = trainer.state.log_history[0]
    total = 0.5 * first["cross_entropy"] + 0.5 * first["distillation"] + 0.2 * first["confidence"]
    assert first["loss"] == pytest.approx(total, rel=1e-5) and first["confidence"] < 0
    assert without.state.log_history[0]["cross_entropy"] == pytest.approx(first["cross_entropy"], rel=1e-6)
