"""Pruning during training: schedule, masks, scores, checkpoints, and its use in a search and in the report."""

import zlib

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)

from distiltune.cluster.specification.config import JobConfig, load_config, without_search
from distiltune.errors import ConfigError, InputError, ModelError
from distiltune.export.benchmark.measure_models import Measurement
from distiltune.export.benchmark.measurements import compressed_bytes, model_bytes
from distiltune.export.report.report import build_report, markdown_report
from distiltune.search.config import SearchConfig
from distiltune.search.selection import choose_trial
from distiltune.search.space.space import SPARSITY
from distiltune.search.space.validation import check_space
from distiltune.search.trial.checkpoints import SavedEpoch, find_checkpoint
from distiltune.search.trial.inputs import TrialSettings
from distiltune.search.trial_record import TrialRecord
from distiltune.storage.store import Store
from distiltune.training.compression.config import pruning_config
from distiltune.training.compression.pruning.callback import PruningCallback
from distiltune.training.compression.pruning.masks import cubic_sparsity, mean_sigmoid, soft_mask, top_mask
from distiltune.training.compression.pruning.state import STATE_FILE, encoder_matrices
from distiltune.training.data.collator import DistillationCollator
from distiltune.training.data.tokenized import TokenizedDataset, TokenizedSplit
from distiltune.training.distillation.arguments import DistillationTrainingArguments
from distiltune.training.distillation.config import TrainingConfig
from distiltune.training.distillation.trainer import DistillationTrainer

NUM_LABELS, PAD = 3, 1
METHODS = ("magnitude", "movement", "soft_movement")
SCHEDULE = {"begin": 0.2, "end": 0.8, "update_every": 2}
SOFT = {"method": "soft_movement", "score_learning_rate": 1.0, "regularization": 3.0}
CONFIGS = {
    "magnitude": pruning_config(method="magnitude", sparsity=0.7, **SCHEDULE),
    "movement": pruning_config(method="movement", sparsity=0.7, **SCHEDULE),
    "soft_movement": pruning_config(**SOFT, **SCHEDULE),
}


def classifier(family="bert", dropout=0.0):
    """Build an untrained one-layer classifier; the other families accept BERT's names of the sizes."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": PAD}
    config = AutoConfig.for_model(family, vocab_size=50, num_labels=NUM_LABELS, **sizes)
    config.update({name: 24 for name in ("intermediate_size", "hidden_dim") if hasattr(config, name)})
    config.update(
        {name: dropout for name in config.to_dict() if "dropout" in name and name != "classifier_dropout"}
    )
    torch.manual_seed(3)
    return AutoModelForSequenceClassification.from_config(config)


@pytest.fixture
def data():
    """24 texts with a teacher's logits."""
    random = np.random.default_rng(0)
    lengths = random.integers(3, 9, size=24)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    split = TokenizedSplit(
        input_ids=random.integers(2, 50, offsets[-1]).astype(np.int32),
        offsets=offsets,
        labels=random.integers(0, NUM_LABELS, size=24),
        example_ids=np.arange(24),
    )
    return TokenizedDataset(split, (3 * np.eye(NUM_LABELS, dtype=np.float32))[split.labels])


def trained(path, data, config, *, model=None, resume=None, callbacks=(), kind=DistillationTrainer, **more):
    """Train for 12 optimizer steps."""
    given = {
        "num_train_epochs": 4, "learning_rate": 1e-2, "alpha": 0.5, "per_device_train_batch_size": 8,
        "save_strategy": "no", "logging_steps": 1, **more,
    }  # fmt: skip
    args = DistillationTrainingArguments(
        output_dir=str(path), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, seed=5, **given
    )
    pruning = [] if config is None else [PruningCallback(config)]
    trainer = kind(
        model=model or classifier(),
        args=args,
        train_dataset=data,
        data_collator=DistillationCollator(PAD),
        callbacks=[*pruning, *callbacks],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def matrices(model):
    return {name: weight.detach().numpy().copy() for name, weight in encoder_matrices(model).items()}


def zero_shares(model):
    return {name: float((weight == 0).mean()) for name, weight in matrices(model).items()}


# ---- The formulas ---------------------------------------------------------------------------------------


def test_the_schedule_is_the_cubic_curve_and_stays_at_its_ends():
    steps = np.arange(0, 60)
    shape = {"initial": 0.1, "final": 0.9, "begin": 10, "num_updates": 8, "update_every": 5}
    found = [cubic_sparsity(int(step), **shape) for step in steps]
    inside = 0.9 + (0.1 - 0.9) * (1 - (steps - 10) / 40) ** 3
    expected = np.where(steps <= 10, 0.1, np.where(steps >= 50, 0.9, inside))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)
    assert (found[0], found[10], found[50], found[59]) == (0.1, 0.1, 0.9, 0.9)


@pytest.mark.parametrize(
    ("num_steps", "every", "expected"),
    [
        (100, 20, [10, 30, 50, 70]),
        (100, 25, [10, 35, 60]),
        (30, 20, [3, 21]),
        (1, 20, [0, 1]),
        (2, 1, [0, 1]),
    ],
)
def test_masks_are_updated_periodically_from_begin_to_end(num_steps, every, expected):
    assert list(pruning_config(begin=0.1, end=0.7, update_every=every).mask_steps(num_steps)) == expected


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.5, 0.901, 1.0])
def test_the_top_mask_matches_numpy_and_keeps_the_first_of_equal_values(sparsity):
    values = np.random.default_rng(1).integers(0, 20, (13, 7)).astype(np.float32)
    order = np.lexsort((-np.arange(values.size), values.ravel()))  # the lowest first, of equals the last
    expected = np.ones(values.size, dtype=bool)
    expected[order[: round(sparsity * values.size)]] = False
    np.testing.assert_array_equal(
        top_mask(torch.from_numpy(values), sparsity).numpy(), expected.reshape(13, 7)
    )


def test_the_soft_mask_and_its_penalty_match_numpy():
    random = np.random.default_rng(2)
    scores = [random.normal(size=shape).astype(np.float32) for shape in ((5, 4), (3, 9))]
    sigmoids = [1 / (1 + np.exp(-each.astype(np.float64))) for each in scores]
    leaves = [torch.from_numpy(each).requires_grad_() for each in scores]
    for leaf, sigmoid in zip(leaves, sigmoids, strict=True):
        np.testing.assert_array_equal(soft_mask(leaf, 0.4).numpy(), sigmoid > 0.4)
    penalty = mean_sigmoid(leaves)
    every = np.concatenate([each.ravel() for each in sigmoids])
    assert float(penalty.detach()) == pytest.approx(every.mean(), abs=1e-6)
    penalty.backward()
    gradients = np.concatenate([leaf.grad.numpy().ravel() for leaf in leaves])
    np.testing.assert_allclose(gradients, every * (1 - every) / every.size, rtol=1e-4)


# ---- Against NumPy ---------------------------------------------------------------------------------------


class _RecordingTrainer(DistillationTrainer):
    """A trainer that records each step's clipped gradient dL/dW', and the weights after the step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gradients, self.weights = [], []
        self.add_callback(_RecordWeights(self))

    def _clip_grad_norm(self, model):
        norm = super()._clip_grad_norm(model)
        assert norm > self.args.max_grad_norm
        found = {name: weight.grad.numpy().copy() for name, weight in encoder_matrices(self.model).items()}
        self.gradients.append(found)
        return norm


class _RecordWeights(TrainerCallback):
    def __init__(self, trainer):
        self.trainer = trainer

    def on_step_end(self, *args, **kwargs):
        self.trainer.weights.append(matrices(self.trainer.model))


def _rank_mask(values, sparsity):
    order = np.argsort(values.ravel(), kind="stable")
    mask = np.ones(values.size, dtype=bool)
    mask[order[: round(sparsity * values.size)]] = False
    return mask.reshape(values.shape)


@pytest.mark.parametrize(("method", "initial"), [*((name, 0.0) for name in METHODS), ("movement", 0.2)])
def test_every_step_matches_a_reference_in_numpy(tmp_path, data, method, initial):
    """12 clipped SGD steps of two micro-batches each; masks are updated after steps 2, 4, 6, 8 and 10."""
    rate, decay = 0.5, 0.1
    own = {"score_learning_rate": 0.3, "initial_sparsity": initial}
    fields = type(CONFIGS[method]).model_fields
    config = CONFIGS[method].model_copy(update={key: own[key] for key in own if key in fields})
    before = matrices(classifier().double())  # so that rounding moves no value across a threshold
    trainer = trained(
        tmp_path, data, config, model=classifier().double(), kind=_RecordingTrainer, optim="sgd",
        lr_scheduler_type="constant", learning_rate=rate,
        weight_decay=decay, max_grad_norm=0.05, per_device_train_batch_size=4, gradient_accumulation_steps=2,
    )  # fmt: skip
    names, num_scores = list(before), sum(weight.size for weight in before.values())
    dense = dict(before)
    masks = {name: np.ones(weight.shape, dtype=bool) for name, weight in before.items()}
    scores, first, second = ({name: np.zeros(dense[name].shape) for name in names} for _ in range(3))
    assert len(trainer.weights) == 12
    for number, (gradients, weights) in enumerate(zip(trainer.gradients, trainer.weights, strict=True)):
        step, before_step = number + 1, 1 - (1 - min(max(number - 2, 0) / 8, 1)) ** 3
        progress = 1 - (1 - min(max(step - 2, 0) / 8, 1)) ** 3
        for name in names:
            sensitivity = gradients[name] * dense[name]
            if method != "magnitude" and number < 10:  # Adam
                slope = sensitivity
                if method == "soft_movement":
                    sigmoid = 1 / (1 + np.exp(-scores[name]))
                    slope = slope + 3.0 * before_step * sigmoid * (1 - sigmoid) / num_scores
                first[name] = 0.9 * first[name] + 0.1 * slope
                second[name] = 0.999 * second[name] + 0.001 * slope**2
                size = np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8
                scores[name] = scores[name] - 0.3 * first[name] / (1 - 0.9**step) / size
            updated = dense[name] - rate * (gradients[name] + decay * dense[name])
            dense[name] = np.where(masks[name], updated, dense[name])
            if step in (2, 4, 6, 8, 10):
                by_rank = np.abs(dense[name]) if method == "magnitude" else scores[name]
                masks[name] = (
                    1 / (1 + np.exp(-scores[name])) > 0.1 * progress
                    if method == "soft_movement"
                    else _rank_mask(by_rank, initial + (0.7 - initial) * progress)
                )
            np.testing.assert_array_equal(weights[name] != 0, masks[name])
            np.testing.assert_allclose(weights[name], dense[name] * masks[name], rtol=1e-9, atol=1e-12)
    [pruning] = [each for each in trainer.callback_handler.callbacks if isinstance(each, PruningCallback)]
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert pruning.sparsity == pytest.approx(1 - kept / num_scores)
    assert 0.05 < pruning.sparsity < 1


# ---- In a training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["magnitude", "movement"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_each_encoder_matrix_has_the_given_sparsity_and_nothing_else_is_pruned(
    tmp_path, data, method, family
):
    trainer = trained(tmp_path, data, CONFIGS[method], model=classifier(family))
    assert isinstance(trainer.optimizer.optimizer, torch.optim.AdamW)
    assert trainer.optimizer.param_groups[0]["fused"]
    pruned = encoder_matrices(trainer.model)
    assert len(pruned) == 6
    for weight in pruned.values():
        assert int((weight == 0).sum()) == round(0.7 * weight.numel())
        assert not torch.signbit(weight[weight == 0]).any()
    for name, parameter in trainer.model.named_parameters():
        if name not in pruned and parameter.dim() > 1 and "embeddings" not in name:
            assert (parameter != 0).all(), name
    unread = classifier(family).get_input_embeddings().weight.eq(0)
    assert trainer.model.get_input_embeddings().weight.eq(0).sum() == unread.sum()
    logged = [entry["sparsity"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 12
    assert logged == sorted(logged)
    assert (logged[2], logged[-1]) == (0.0, pytest.approx(0.7, abs=1e-3))


def test_pruning_to_a_sparsity_of_zero_changes_nothing(tmp_path, data):
    none = CONFIGS["magnitude"].model_copy(update={"sparsity": 0.0})
    pruned, whole = (trained(tmp_path, data, config).model.state_dict() for config in (none, None))
    assert all(torch.equal(pruned[name], whole[name]) for name in whole)


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_holds_the_pruned_model_and_training_resumes_bit_for_bit(tmp_path, data, method):
    """Resumed after step 10, between two updates of the masks; with dropout."""
    more = {
        "save_strategy": "steps",
        "save_steps": 5,
        "gradient_accumulation_steps": 2,
        "num_train_epochs": 6,
    }
    more["per_device_train_batch_size"] = 4
    whole = trained(tmp_path / "whole", data, CONFIGS[method], model=classifier(dropout=0.2), **more)
    checkpoint = tmp_path / "whole" / "checkpoint-10"
    loaded = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    state = load_file(checkpoint / STATE_FILE)
    for name, weight in matrices(loaded).items():
        mask = state[f"mask:{name}"].numpy()
        assert 0 < mask.mean() < 1
        np.testing.assert_array_equal(weight != 0, mask)
        assert (state[f"dense:{name}"].numpy()[~mask] != 0).all()

    torch.manual_seed(99)
    resumed = trained(
        tmp_path / "rest",
        data,
        CONFIGS[method],
        model=classifier(dropout=0.2),
        resume=str(checkpoint),
        **more,
    )
    assert resumed.state.global_step == whole.state.global_step == 18
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    assert max(zero_shares(whole.model).values()) > max(zero_shares(loaded).values())
    assert (tmp_path / "rest" / "checkpoint-15" / STATE_FILE).read_bytes() == (
        tmp_path / "whole" / "checkpoint-15" / STATE_FILE
    ).read_bytes()


def test_another_trainer_resumes_from_its_own_folder(tmp_path, data):
    more = {"save_strategy": "epoch", "alpha": 1.0, "remove_unused_columns": False}
    plain = TokenizedDataset(data.split)
    whole = trained(tmp_path, plain, CONFIGS["movement"], kind=Trainer, **more)
    resumed = trained(
        tmp_path, plain, CONFIGS["movement"], kind=Trainer, resume=str(tmp_path / "checkpoint-6"), **more
    )
    assert torch.equal(
        torch.cat([torch.from_numpy(each).flatten() for each in matrices(whole.model).values()]),
        torch.cat([torch.from_numpy(each).flatten() for each in matrices(resumed.model).values()]),
    )


def test_a_checkpoint_without_matching_state_is_rejected(tmp_path, data):
    more = {"save_strategy": "epoch", "num_train_epochs": 2}
    trained(tmp_path / "whole", data, None, **more)
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    with pytest.raises(InputError, match=r"checkpoint-3: has no pruning\.state"):
        trained(tmp_path, data, CONFIGS["magnitude"], resume=str(checkpoint), **more)
    trained(tmp_path / "other", data, CONFIGS["magnitude"], **more)
    with pytest.raises(InputError, match="pruning method"):
        trained(tmp_path, data, CONFIGS["movement"], resume=str(tmp_path / "other" / "checkpoint-3"), **more)


def test_scores_with_scaled_gradients_and_unknown_families_are_rejected(tmp_path, data):
    callback = PruningCallback(CONFIGS["movement"])
    args = DistillationTrainingArguments(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    args.fp16 = True
    with pytest.raises(InputError, match="fp16, which scales the gradients"):
        callback.on_train_begin(args, TrainerState(max_steps=9), TrainerControl(), model=classifier())
    model = classifier()
    model.config.model_type = "other"
    with pytest.raises(
        ModelError, match=r"training\.pruning: 'other' given.*: albert, bert, .*, xlm-roberta;"
    ):
        encoder_matrices(model)


# ---- In a job -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pruning", "message"),
    [
        ({"sparsity": 1.0}, r"training\.pruning\.sparsity: .*\(given 1\.0\)"),
        ({"sparsity": -0.1}, r"training\.pruning\.sparsity: .*\(given -0\.1\)"),
        (
            {"sparsity": 0.4, "method": "soft_movement"},
            r"training\.pruning\.sparsity: is a key of method magnitude, movement",
        ),
        ({"initial_sparsity": 0.6}, "initial_sparsity 0.6 given; accepted: 0 to sparsity, 0.5"),
        (
            {"initial_sparsity": 0.1, "method": "soft_movement"},
            r"training\.pruning\.initial_sparsity: is a key of method magnitude, movement",
        ),
        (
            {"score_learning_rate": 0.1},
            r"training\.pruning\.score_learning_rate: .*movement, soft_movement",
        ),
        ({"method": "movement", "sparsty": 0.1}, r"training\.pruning\.sparsty: .*'sparsity'"),
        ({"begin": 0.7, "end": 0.7}, "begin 0.7 must be below end 0.7"),
        ({"method": "random"}, r"training\.pruning\.method: 'random' .*: magnitude, movement, soft_movement"),
        ({"update_every": 0}, r"training\.pruning\.update_every"),
    ],
)
def test_invalid_pruning_is_rejected(tmp_path, pruning, message):
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"training": {"pruning": pruning}}))
    with pytest.raises(ConfigError, match=message):
        load_config(str(tmp_path / "job.yaml"), [])
    with pytest.raises(ValidationError):
        pruning_config(**pruning)


@pytest.mark.parametrize(
    ("pruning", "search", "message"),
    [
        ({}, {"space": {SPARSITY: {"type": "float", "low": 0.3, "high": 0.9}}}, None),
        ({"method": "movement"}, {"objectives": [{"metric": "sparsity", "mode": "max"}]}, None),
        (
            {},
            {"space": {SPARSITY: {"type": "choice", "values": [0, 0.5, 1.0]}}},
            "1.0 is rejected: it must be a number",
        ),
        ({}, {"space": {SPARSITY: "much"}}, "'much' is rejected"),
        (None, {"space": {SPARSITY: 0.5}}, "nothing is pruned; configure training.pruning"),
        (None, {"objectives": [{"metric": "sparsity", "mode": "max"}]}, "sparsity: nothing is pruned"),
        (
            {"method": "soft_movement"},
            {"space": {SPARSITY: 0.5}},
            "set training.pruning.method to one of magnitude, movement",
        ),
    ],
)
def test_sparsity_can_be_searched(pruning, search, message):
    config = SearchConfig.model_validate(
        {**search, "space": {"num_train_epochs": 1, **search.get("space", {})}}
    )
    training = TrainingConfig.model_validate({"pruning": pruning})
    if message is None:
        check_space(config, training)
        return
    with pytest.raises(ConfigError, match=message):
        check_space(config, training)


def test_a_trial_is_pruned_by_its_own_arguments(tmp_path):
    given = {"training": {"pruning": {"method": "movement", "sparsity": 0.4}}}
    given["search"] = {"space": {SPARSITY: {"type": "float", "low": 0.3, "high": 0.9}}}
    config = JobConfig.model_validate(given)
    settings = TrialSettings(
        config.training, "validation_accuracy", "max", Store(str(tmp_path)), "", "", "", 1, use_gpu=False
    )
    assert settings.pruning_of({}).sparsity == 0.4
    assert settings.pruning_of({SPARSITY: 0.8}).sparsity == 0.8
    assert settings.pruning_of({SPARSITY: 0.8}).method == "movement"
    assert settings.counts_from(200) == 0.7
    assert SPARSITY not in without_search(config).search.space


def test_epochs_before_the_end_of_the_schedule_are_not_selected():
    def epoch(number, accuracy, start=0.6):
        metrics = {"validation_accuracy": accuracy, "progress": number / 5, "counts_from": start}
        return SavedEpoch(f"checkpoint_{number}", {"epoch": number, "metrics": metrics})

    epochs = [epoch(1, 0.99), epoch(2, 0.98), epoch(3, 0.90), epoch(4, 0.92), epoch(5, 0.91)]
    assert find_checkpoint(epochs, "validation_accuracy").epoch == 4
    assert find_checkpoint(epochs[:2], "validation_accuracy").epoch == 1
    assert find_checkpoint([epoch(1, 0.99, 0.0), epoch(5, 0.9, 0.0)], "validation_accuracy").epoch == 1

    def trial(number, saved, state="finished"):
        return TrialRecord(
            trial_id=f"{number:04}",
            number=number,
            parameters={},
            state=state,
            metrics=saved.record["metrics"],
            checkpoint=saved.key,
        )

    stopped, done = trial(0, epochs[0], "pruned"), trial(1, epochs[3])
    assert choose_trial([stopped, done], SearchConfig()).best is done
    only = choose_trial([stopped], SearchConfig())
    assert (only.best, only.text) == (stopped, "no trial completed its pruning")


# ---- Size -----------------------------------------------------------------------------------------------


def test_zeros_lower_only_the_compressed_size(tmp_path):
    model = classifier()
    model.save_pretrained(tmp_path / "whole")
    for weight in encoder_matrices(model).values():
        weight.data.masked_fill_(~top_mask(weight.abs(), 0.9), 0)
    model.save_pretrained(tmp_path / "pruned")
    whole, pruned = (tmp_path / name / "model.safetensors" for name in ("whole", "pruned"))
    assert model_bytes(tmp_path / "whole") == model_bytes(pruned) == whole.stat().st_size
    for file in (whole, pruned):
        assert compressed_bytes(file.parent) == len(zlib.compress(file.read_bytes(), 9))
    assert compressed_bytes(pruned) < 0.9 * compressed_bytes(whole)
    with pytest.raises(InputError, match="no weights"):
        compressed_bytes(tmp_path)


def test_the_report_of_a_pruned_student_explains_compressed_sizes():
    def row(name, compressed):
        times = dict.fromkeys(("mean", "std", "p50", "p90", "p99"), 1.0)
        more = {"compressed_size_mb": compressed}
        return Measurement(name, "onnx", 8.0, times, times, {"1": 9.0}, 50.0, 1, "a text", **more)

    for size, is_shown in ((3.21, True), (None, False)):
        rows = [row("onnx", size), row("onnx-int8", size)]
        report = build_report(
            run_id="r", state="finished", best=None, rows=rows, chosen="onnx", artifact=None, machine={}
        )
        text = markdown_report(report)
        assert ("| size MB | compressed MB | p50 ms |" in text) == is_shown
        assert ("| 8.00 | 3.21 | 1.00 |" in text) == is_shown
        assert ("they do not lower latency" in text) == is_shown
        widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
        assert len(widths) == 1
