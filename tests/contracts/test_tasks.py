"""The contract of every registered task, in training and in the runtime, and a task registered from outside."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from artifacts import LABELS, TEXTS, tiny_artifact
from torch import nn
from transformers import BertConfig, ClapAudioConfig

from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.errors import ArtifactError, ConfigError, InputError, ModelError
from distiltune.export.out_of_scope.thresholds import answers_with_threshold
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.runtime.scores import SCORES, Threshold, margins
from distiltune.export.runtime.tasks import DECODERS, Decoder
from distiltune.search.space.space import metrics_of
from distiltune.search.space.validation import check_space
from distiltune.training import tasks
from distiltune.training.checkpoints.load import label_names, load_classifier, new_classifier, save_checkpoint
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.tokenized import JoinedDataset, LabelledSplit
from distiltune.training.distillation.arguments import DistillationTrainingArguments
from distiltune.training.distillation.losses.base import LossInputs
from distiltune.training.distillation.losses.hard_targets import HardTargets
from distiltune.training.distillation.losses.soft_targets import SoftTargets
from distiltune.training.distillation.losses.total import weighted_sum
from distiltune.training.distillation.trainer import DistillationTrainer
from distiltune.training.tasks import SINGLE_LABEL, TASKS, OutOfScope, Task
from distiltune.training.tasks.single_label import SingleLabel
from distiltune.training.teacher.best_epoch import BestEpoch
from distiltune.training.teacher.from_scratch import train_tokenizer

ROOT = Path(__file__).parents[2]
NUM_TEXTS, TEMPERATURE = 60, 3.0
TINY: dict[str, Any] = {
    "vocab_size": 120, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip
# Calls of argmax outside the tasks' folders; none of them computes the prediction of a task's model.
NO_PREDICTIONS = {
    "export/baselines/fit.py": "the answer of a baseline, which is not a task's model",
    "export/runtime/session/graph.py": "the largest logit, which shows whether all are finite",
    "training/data/analysis/diagnostics.py": "the most probable of the labels whose threshold is reached",
    "training/data/sampling.py": "the group with the longest text",
    "training/models/tied_embedding_rows.py": "the kept embedding row that is most similar",
    "training/student/piece_table.py": "the largest entry of a principal axis, which determines its sign",
    "export/variants/sensitivity.py": "the embedding row with the largest value",
}


def drawn(task: Task, labels: list[str], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of a student and of a teacher, and labels; in four of five texts they are the teacher's predictions."""
    random = np.random.default_rng(seed)
    student, teacher = random.normal(size=(2, NUM_TEXTS, task.num_outputs(labels))).astype(np.float32)
    missing = torch.from_numpy(task.missing_labels(NUM_TEXTS, teacher.shape[-1]))
    targets = (
        task.predictions(teacher)
        if task.has_classes
        else task.with_own_labels(missing, torch.from_numpy(teacher)).numpy()
    )
    shuffled = random.permutation(targets)
    is_own = (random.random(NUM_TEXTS) < 0.8).reshape(-1, *[1] * (targets.ndim - 1))
    return student, teacher, np.where(is_own, targets, shuffled)


OF_TEXTS = [task for task in TASKS if not task.of_tokens]
"""Tasks with outputs for a text; the computations of a task of tokens are tested in a module of its own."""


@pytest.fixture(params=OF_TEXTS, ids=[task.name for task in OF_TEXTS])
def task(request: pytest.FixtureRequest) -> Task:
    return request.param


@pytest.fixture(params=list(TASKS), ids=TASKS.names)
def any_task(request: pytest.FixtureRequest) -> Task:
    return request.param


def softmax(logits: np.ndarray) -> np.ndarray:
    wide = np.exp(logits.astype(np.longdouble))
    return wide / wide.sum(axis=-1, keepdims=True)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The sum over texts for single labels, in plain NumPy."""
    return float(-np.log(softmax(logits)[np.arange(len(labels)), labels]).sum())


def divergence(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    z_s, z_t = softmax(student / temperature), softmax(teacher / temperature)
    return float(temperature**2 * (z_t * (np.log(z_t) - np.log(z_s))).sum())


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.longdouble)))


def binary_cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    p = sigmoid(logits)
    return float(-np.where(labels == 1, np.log(p), np.log(1 - p)).mean(axis=1).sum())


def binary_divergence(student: np.ndarray, teacher: np.ndarray, temperature: float) -> float:
    q, p = sigmoid(student / temperature), sigmoid(teacher / temperature)
    each = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    return float(temperature**2 * each.mean(axis=1).sum())


def squared_error(outputs: np.ndarray, targets: np.ndarray, _: float = 1.0) -> float:
    return float(((outputs.astype(float) - targets) ** 2).mean(axis=1).sum())


def argmax(logits: np.ndarray) -> np.ndarray:
    return np.array([max(range(len(row)), key=row.__getitem__) for row in logits])


@dataclass(frozen=True)
class Reference:
    """A task's computations in plain NumPy: the sums of its losses over texts, and its predictions as labels."""

    hard: Callable[[np.ndarray, np.ndarray], float]
    soft: Callable[[np.ndarray, np.ndarray, float], float]
    own: Callable[[np.ndarray], np.ndarray]
    accuracy: str | None
    """The metric that is the share of right texts; None if texts are neither right nor wrong."""


REFERENCES: dict[str, Reference] = {
    "single_label": Reference(cross_entropy, divergence, argmax, "accuracy"),
    "multi_label": Reference(
        binary_cross_entropy, binary_divergence, lambda logits: (logits > 0).astype(int), "subset_accuracy"
    ),
    "regression": Reference(squared_error, squared_error, lambda logits: logits + 1, None),
}


def test_every_task_has_a_decoder_and_a_reference():
    assert TASKS.names == list(DECODERS)
    assert (
        [task.name for task in OF_TEXTS] == list(REFERENCES) == ["single_label", "multi_label", "regression"]
    )
    of_tokens = [task.name for task in TASKS if task.of_tokens]
    assert of_tokens == ["question_answering", "token_classification"]
    assert of_tokens == [name for name, decoder in DECODERS.items() if decoder.of_tokens]
    assert [task.name for task in TASKS if task.of_windows] == [
        name for name, decoder in DECODERS.items() if decoder.of_windows
    ]


def test_the_model_of_a_task_has_its_outputs_and_names_its_labels(any_task, tmp_path):
    task, names = any_task, list(any_task.fixed_outputs) or LABELS
    shapes = BertConfig(**TINY, **task.model_config(names))
    assert shapes.num_labels == task.num_outputs(names)
    torch.manual_seed(0)
    model = new_classifier(shapes, task).eval()
    assert type(model) is task.model_class(shapes)
    assert type(model).__name__ == task.auto_class.replace("AutoModel", "Bert")
    found = model(torch.tensor([[1, 2, 3], [4, 5, 6]])).logits
    assert found.shape[0] == 2 and found.shape[-1] == task.num_outputs(names)
    tokenizer = train_tokenizer(["red", "blue"], vocab_size=100)
    save_checkpoint(model, tokenizer, tmp_path / "model")
    again, _ = load_classifier(tmp_path / "model", task)
    assert type(again) is type(model)
    assert again.config.problem_type == task.problem_type
    assert label_names(again) == names
    torch.testing.assert_close(again(torch.tensor([[1, 2, 3]])).logits, found[:1], rtol=0, atol=1e-6)
    with pytest.raises(ModelError, match=rf"'clap_audio_model' has no model for the task {task.name}.*bert"):
        new_classifier(ClapAudioConfig(), task)


def test_a_task_with_one_class_per_text_weighs_the_classes(task):
    logits, _, labels = drawn(task, LABELS)
    classes = task.text_classes(labels)
    if classes is None:
        return
    given = torch.from_numpy(logits), torch.from_numpy(labels)
    even = task.hard_loss(*given, class_weights=torch.full((len(LABELS),), 2.0))
    torch.testing.assert_close(even, task.hard_loss(*given))
    only = torch.zeros(len(LABELS))
    only[classes[0]] = 3.0
    rows = classes == classes[0]
    alone = task.hard_loss(torch.from_numpy(logits[rows]), torch.from_numpy(labels[rows]))
    torch.testing.assert_close(task.hard_loss(*given, class_weights=only), alone)
    missing = task.missing_labels(3, task.num_outputs(LABELS))
    assert (np.asarray(task.text_classes(missing)) == -100).all()


def test_labels_have_the_tasks_type_with_and_without_a_label(task):
    rows = {"text": ["red", "blue", "red blue"], task.label_column: drawn(task, LABELS)[2][:3].tolist()}
    tokenizer = train_tokenizer(["red", "blue"], vocab_size=100)
    split = task.tokenize(rows, tokenizer, 8)
    missing = task.missing_labels(len(split), task.num_outputs(LABELS))
    assert split.labels.dtype == missing.dtype == np.dtype(task.label_dtype)
    assert split.labels.shape == missing.shape
    joined = JoinedDataset(
        [LabelledSplit(split), LabelledSplit(replace(split, labels=missing))], with_teacher=False
    )
    labels = DistillationCollator(0)([joined[number] for number in range(6)])["labels"]
    assert labels.numpy().dtype.kind == np.dtype(task.label_dtype).kind
    logits = torch.from_numpy(drawn(task, LABELS)[0][:6])
    mean = float(task.hard_loss(logits, labels))
    assert mean == pytest.approx(float(task.hard_loss(logits[:3], labels[:3]))), (
        "texts without a label are ignored"
    )


def test_the_first_metric_is_what_models_are_selected_by(task):
    from distiltune.search.trial.reporter import failure_metrics

    student, teacher, labels = drawn(task, LABELS)
    assert set(task.metric_modes) == set(task.metrics(task.predictions(student), labels))
    assert set(task.metric_modes.values()) <= {"max", "min"}
    metric, mode = task.goal
    of_teacher, of_student = (
        task.metrics(task.predictions(logits), labels)[metric] for logits in (teacher, student)
    )
    assert of_teacher is not None and of_student is not None
    assert (of_teacher > of_student) == (mode == "max"), "the teacher is right four times in five"
    reported = metrics_of(task.name)
    assert next(iter(reported.items())) == (f"validation_{metric}", mode)
    search = JobConfig.model_validate({"task": task.name}).search
    assert (search.metric, search.mode) == (f"validation_{metric}", mode)
    assert failure_metrics(ValueError("no"), task.name).keys() == {*reported, "failure"}


def test_hard_loss(task):
    student, _, labels = drawn(task, LABELS)
    expected = REFERENCES[task.name].hard(student, labels)
    logits, targets = torch.from_numpy(student), torch.from_numpy(labels)
    assert float(task.hard_loss(logits, targets, num_items=7)) == pytest.approx(expected / 7, rel=1e-6)
    assert float(task.hard_loss(logits, targets)) == pytest.approx(expected / NUM_TEXTS, rel=1e-6)
    half = task.hard_loss(logits.to(torch.bfloat16), targets)
    assert half.dtype == torch.float32


def test_soft_loss(task):
    student, teacher, _ = drawn(task, LABELS)
    given = torch.from_numpy(student), torch.from_numpy(teacher).requires_grad_()
    loss = task.soft_loss(*given, temperature=TEMPERATURE, num_items=7)
    expected = REFERENCES[task.name].soft(student, teacher, TEMPERATURE)
    assert float(loss.detach()) == pytest.approx(expected / 7, rel=1e-5)
    mean = task.soft_loss(*given, temperature=TEMPERATURE)
    assert float(mean.detach()) == pytest.approx(expected / NUM_TEXTS, rel=1e-5)
    assert not mean.requires_grad
    same = task.soft_loss(given[1], given[1], temperature=TEMPERATURE)
    assert float(same.detach()) == pytest.approx(0, abs=1e-6)


def test_the_loss_of_a_step_is_made_of_both(task):
    student, teacher, labels = map(torch.from_numpy, drawn(task, LABELS))
    terms = (HardTargets(weight=0.25), SoftTargets(weight=0.75, temperature=TEMPERATURE))
    loss, _ = weighted_sum(terms, LossInputs(student, NUM_TEXTS, labels, teacher, task=task))
    hard, soft = task.hard_loss(student, labels), task.soft_loss(student, teacher, temperature=TEMPERATURE)
    assert float(loss) == pytest.approx(float(0.25 * hard + 0.75 * soft), rel=1e-6)


def test_predictions_correctness_and_metrics(task):
    student, teacher, labels = drawn(task, LABELS)
    right = task.correct(task.predictions(student), labels)
    metrics = task.metrics(task.predictions(student), labels)
    reference = REFERENCES[task.name]
    if reference.accuracy is None:
        assert right is None and task.changed(task.predictions(student), task.predictions(teacher)) is None
    else:
        assert right is not None
        assert (right.dtype, right.shape) == (bool, (NUM_TEXTS,))
        expected = (reference.own(student) == labels).reshape(NUM_TEXTS, -1).all(axis=1)
        np.testing.assert_array_equal(right, expected)
        again = task.correct(task.predictions(teacher), task.predictions(teacher))
        assert again is not None and again.all()
        assert metrics[reference.accuracy] == pytest.approx(right.mean())
    evaluated = SimpleNamespace(predictions=student, label_ids=labels)
    assert task.compute_metrics(evaluated) == {
        name: value for name, value in metrics.items() if value is not None
    }
    with pytest.raises(ValueError, match=r"for .* labels"):
        task.metrics(task.predictions(student)[:0], labels[:0])


def test_missing_labels_are_the_models_own(task):
    student, _, labels = drawn(task, LABELS)
    given = torch.from_numpy(labels.copy())
    assert torch.equal(task.with_own_labels(given, torch.from_numpy(student)), given)
    given[3:] = torch.from_numpy(task.missing_labels(NUM_TEXTS - 3, student.shape[-1]))
    found = task.with_own_labels(given, torch.from_numpy(student)).numpy()
    np.testing.assert_array_equal(found[:3], labels[:3])
    np.testing.assert_array_equal(found[3:], REFERENCES[task.name].own(student)[3:])
    if not task.has_classes:
        known = task.known_labels(labels, student.shape[-1])
        np.testing.assert_array_equal(known, labels)
        assert known.flags.writeable and not np.shares_memory(known, labels)
        return
    known = task.known_labels(labels, student.shape[-1] - 1)
    assert (known[labels == student.shape[-1] - 1] == -100).all()
    assert (known[labels < student.shape[-1] - 1] == labels[labels < student.shape[-1] - 1]).all()


def test_the_runtime_decodes_what_training_predicts(task):
    decoder = DECODERS[task.name]
    student, _, _ = drawn(task, LABELS)
    assert decoder.num_outputs(LABELS) == task.num_outputs(LABELS)
    assert task.has_classes == decoder.names_one
    if not task.has_classes:  # tests of the task
        return
    names = np.array(LABELS)[task.predictions(student)].tolist()
    answers = decoder.decode(student, LABELS, None)
    assert [answer["label"] for answer in answers] == names
    np.testing.assert_allclose(
        [answer["score"] for answer in answers], softmax(student).max(axis=1), rtol=1e-5
    )


def test_both_sides_agree_on_texts_out_of_scope(task):
    decoder = DECODERS[task.name]
    assert decoder.has_threshold == (task.out_of_scope is not None or task.has_label_sets)
    if task.out_of_scope is None:
        return
    student, _, _ = drawn(task, LABELS)
    for label in (*LABELS[:1], "none of these"):
        names = list(dict.fromkeys([*LABELS, label]))
        thresholds = [Threshold(score, float(np.median(of(student))), label) for score, of in SCORES.items()]
        if label in LABELS:
            value = float(np.median(margins(student, LABELS.index(label), 0.3)))
            thresholds.append(Threshold("margin", value, label, 0.3, LABELS.index(label)))
        for threshold in thresholds:
            given = answers_with_threshold(task.out_of_scope, threshold, student, names.index(label))
            decoded = [answer["label"] for answer in decoder.decode(student, LABELS, threshold)]
            assert decoded == [names[number] for number in given]


def test_a_task_is_in_the_schema_and_a_wrong_one_is_named(any_task):
    task = any_task
    schema = JobConfig.model_json_schema()["properties"]["task"]
    assert task.name in schema["enum"]
    assert task.name in schema["description"]
    assert load_config("quickstart", [f"task={task.name}"]).task == task.name
    with pytest.raises(ConfigError, match=rf"task: not a task; did you mean '{task.name}'"):
        load_config("quickstart", [f"task={task.name[:-1]}"])
    with pytest.raises(InputError, match=rf"'none'.*{task.name}"):
        tasks.get("none")


def test_an_artifact_is_decoded_as_the_task_that_it_records(tmp_path, task):
    assert TextClassifier.load(tiny_artifact(tmp_path / "right", task=task.name)).task == task.name
    with pytest.raises(ArtifactError, match=r"task is 'ranking'; .*single_label"):
        TextClassifier.load(tiny_artifact(tmp_path / "wrong", task="ranking"))


class LeastLabel(SingleLabel):
    """Predict the class of the smallest logit; there are no out-of-scope texts."""

    name = "least_label"
    description = "the least likely label"
    label_dtype = "float32"
    auto_class = "AutoModelForTokenClassification"
    problem_type = None
    metric_modes: ClassVar[Any] = {"error": "min", "accuracy": "max"}

    def __init__(self) -> None:
        self.out_of_scope: OutOfScope | None = None

    def hard_loss(self, logits, labels, **options):
        return super().hard_loss(-logits, labels.long(), **options)

    def metrics(self, predictions, labels, out_of_scope_id=None):
        accuracy = super().metrics(predictions, labels)["accuracy"]
        return {"error": 1 - accuracy, "accuracy": accuracy}

    def predictions(self, logits):
        return (-logits).argmax(axis=-1)


class LeastDecoder(Decoder):
    name = "least_label"

    def num_outputs(self, labels):
        return len(labels)

    def decode(self, logits, labels, threshold, temperature=1.0):
        return [{"label": labels[number]} for number in logits.argmin(axis=-1)]


class Linear(nn.Module):
    """Token ids [B, L] to logits [B, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 3)

    def forward(self, input_ids, attention_mask=None, labels=None):
        return {"logits": self.table(input_ids).mean(dim=1)}


def test_a_task_that_is_added_from_outside_is_trained_and_measured(tmp_path):
    rows = [{"input_ids": [number, number], "labels": number % 3} for number in range(12)]
    args = DistillationTrainingArguments(
        output_dir=str(tmp_path), alpha=1.0, max_steps=60, learning_rate=0.3, report_to="none", use_cpu=True,
        save_strategy="no", logging_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    with TASKS.temporarily(LeastLabel()) as task:
        torch.manual_seed(0)
        trainer = DistillationTrainer(Linear(), args, train_dataset=rows, eval_dataset=rows, task=task)
        trainer.train()
    assert trainer.evaluate()["eval_accuracy"] == 1
    logits = torch.as_tensor(trainer.predict(rows).predictions)  # pyright: ignore[reportArgumentType]
    assert (logits.argmin(dim=-1) == torch.arange(12) % 3).all()


@pytest.fixture
def least() -> Iterator[Task]:
    with TASKS.temporarily(LeastLabel()) as task:
        yield task


def test_the_model_the_labels_and_the_goal_of_a_task_from_outside(least, tmp_path):
    test_the_model_of_a_task_has_its_outputs_and_names_its_labels(least, tmp_path)
    test_labels_have_the_tasks_type_with_and_without_a_label(least)
    test_the_first_metric_is_what_models_are_selected_by(least)
    chosen = load_config(
        "quickstart", ["task=least_label", "search.metric=validation_loss", "search.mode=min"]
    )
    assert (chosen.search.metric, chosen.search.mode) == ("validation_loss", "min")
    with pytest.raises(ConfigError, match=r"search\.metric: 'validation_oos_recall' is not a metric"):
        config = load_config("quickstart", ["task=least_label", "search.metric=validation_oos_recall"])
        check_space(config.search, config.training, task=config.task)


def test_a_teacher_of_a_task_from_outside_keeps_the_epoch_of_its_goal(least):
    errors = iter([0.4, 0.1, 0.3])
    model = new_classifier(BertConfig(**TINY, **SINGLE_LABEL.model_config(LABELS)))
    best = BestEpoch(
        model, lambda: {"error": (error := next(errors)), "accuracy": 1 - error}, None, *least.goal
    )
    for epoch in (1.0, 2.0, 3.0):
        best.on_epoch_end(None, SimpleNamespace(epoch=epoch), None)
    assert best.number == 2
    assert [each["validation_error"] for each in best.epochs] == [0.4, 0.1, 0.3]


def test_an_artifact_of_a_task_from_outside(tmp_path, monkeypatch):
    monkeypatch.setitem(DECODERS, "least_label", LeastDecoder())
    artifact = TextClassifier.load(tiny_artifact(tmp_path / "model", task="least_label"))
    expected = [LABELS[number] for number in artifact.logits(TEXTS).argmin(axis=-1)]
    assert [answer["label"] for answer in artifact(TEXTS)] == expected
    threshold = {"score": "energy", "value": 1.0, "label": "oos"}
    with pytest.raises(ArtifactError, match=r"threshold.*least_label"):
        TextClassifier.load(tiny_artifact(tmp_path / "refused", task="least_label", threshold=threshold))


def test_a_task_without_out_of_scope_texts_refuses_a_threshold_for_them():
    with TASKS.temporarily(LeastLabel()):
        config = load_config("quickstart", ["task=least_label"])
        assert config.export.out_of_scope is None
        assert JobConfig.model_validate_json(config.model_dump_json()) == config
        for given in ("export.out_of_scope={}", "data.out_of_scope_label=oos"):
            with pytest.raises(ConfigError, match=rf"{given.split('=')[0]}: .*least_label.*single_label"):
                load_config("quickstart", ["task=least_label", given])
    with pytest.raises(ConfigError, match=r"task: not a task"):
        load_config("quickstart", ["task=least_label"])


def argmax_calls(path: Path) -> list[int]:
    """Lines that call or name ``argmax``."""
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return [
        node.lineno
        for node in tree
        if (isinstance(node, ast.Attribute) and node.attr == "argmax")
        or (isinstance(node, ast.Name) and node.id == "argmax")
    ]


def test_tasks_alone_take_the_largest_logit():
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in ("storage", "training", "search", "export", "cluster")
        for path in (ROOT / folder).rglob("*.py")
        if argmax_calls(path)
    }
    own = {path for path in found if path.startswith(("training/tasks/", "export/runtime/tasks/"))}
    assert own
    assert found - own == set(NO_PREDICTIONS)


def test_the_reader_of_calls_sees_them_all(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "a = logits.argmax(-1)\nb = np.argmax(logits)\nc = argmax(logits)\nd = largest(logits)\n"
    )
    assert argmax_calls(wrong) == [1, 2, 3]


def test_the_default_of_the_library_is_a_registered_task():
    assert TASKS[JobConfig.model_validate({}).task] is SINGLE_LABEL
