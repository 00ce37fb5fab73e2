"""``DistillationTrainingArguments``, and their construction from a job's specification."""

from __future__ import annotations

import dataclasses
import difflib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from pydantic import ValidationError
from transformers import TrainingArguments
from transformers.utils.import_utils import is_torch_xla_available

from ...errors import ConfigError, InputError, shown
from ..checkpoints.unfinished import kept_in_bf16
from ..section import Balance
from .compiled import MULTIPLE
from .config import TrainingConfig
from .losses.base import section_paths, with_sections

logger = logging.getLogger(__name__)

# Short names in the specification -> the arguments that they set.
_SHORT_NAMES = {
    "batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    # In transformers 5, warm-up steps below 1 are a share of all steps.
    "warmup_ratio": "warmup_steps",
}
# Arguments for where a trial runs, logs and saves, which the search sets itself.
_NOT_SEARCHED_PREFIXES = (
    "hub_",
    "push_to_hub",
    "fsdp",
    "deepspeed",
    "ddp_",
    "do_",
    "log_",
    "trackio_",
    "save_",
)
_NOT_SEARCHED = {
    "output_dir", "report_to", "run_name", "project", "local_rank", "debug", "resume_from_checkpoint",
    "eval_strategy", "eval_steps", "logging_strategy", "logging_steps", "load_best_model_at_end",
    "metric_for_best_model", "greater_is_better", "disable_tqdm", "remove_unused_columns", "label_names",
    "length_column_name", "data_on_device", "use_cpu", "max_batch_tokens", "accelerator_config", "parallelism_config",
    "enable_jit_checkpoint",
}  # fmt: skip


@dataclass
class FastTrainingArguments(TrainingArguments):
    """``TrainingArguments`` with fast defaults.

    Differences from transformers' defaults: batches are grouped by length, bf16 is used where the hardware supports
    it, AdamW is fused, a NaN loss is logged instead of filtered, and checkpoints are saved once per epoch. A process
    uses a single GPU, and ``tf32`` applies only during training. Batches of long texts are split into passes that fit
    in memory.
    """

    bf16: bool | None = field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default=None,
        metadata={"help": "Mixed precision in bfloat16. Default: on if the hardware multiplies bfloat16."},
    )
    per_device_train_batch_size: int = field(default=64, metadata={"help": "Texts per step and device."})
    per_device_eval_batch_size: int = field(
        default=256, metadata={"help": "Texts per evaluation step and device."}
    )
    optim: str = field(default="adamw_torch_fused", metadata={"help": "The optimizer."})
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={
            "help": "group_by_length (default), random, sequential or batch_rebalance.",
            "choices": ["random", "sequential", "group_by_length", "batch_rebalance"],
        },
    )
    max_batch_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Most tokens of a forward pass of several texts, padding included: a batch with more is split into "
            "passes, without a change of loss and gradients. Default: what half of the free memory holds."
        },
    )
    logging_steps: float = field(default=50, metadata={"help": "Log every this many optimizer steps."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Hide losses that are not finite (checks every loss)."}
    )
    save_strategy: str = field(default="epoch", metadata={"help": "When to save: no, epoch, steps or best."})

    def __post_init__(self) -> None:
        if not torch.accelerator.is_available() and not is_torch_xla_available():
            # Without this, transformers rejects bf16 on a CPU, and the data loader warns about pinned memory.
            self.use_cpu = True
        most = self.max_batch_tokens
        accepted = most is None or (type(most) is int and most > 0)
        check_range("max_batch_tokens", most, accepted, "a whole number above 0, or null")
        if self.bf16 is None:
            resolved = not self.fp16 and hardware_has_bf16(use_cpu=self.use_cpu)
            self.bf16 = resolved  # pyright: ignore[reportIncompatibleVariableOverride]
        # transformers would set it for the whole process, including later trainings, and reject it even where the
        # arguments are only checked. The trainers set it while they train.
        tf32, self.tf32 = self.tf32, None
        if self.accelerator_config is None and not self.use_cpu and torch.cuda.is_available():
            self.accelerator_config = {"non_blocking": True}  # copies of pinned batches need not wait
        super().__post_init__()
        self.tf32 = tf32
        if self.n_gpu > 1:
            logger.warning(
                "only one of %d GPUs is used; start one process for each GPU (accelerate launch)", self.n_gpu
            )
            self._n_gpu = 1  # not DataParallel: it copies the model at every step, and hides hidden states


SAMPLED = ("group_by_length", "random")
"""Values of ``train_sampling_strategy`` that ``balance: sampler`` can be combined with."""


@dataclass
class DistillationTrainingArguments(FastTrainingArguments):
    """``FastTrainingArguments`` with the arguments of distillation.

    Raises:
        InputError: A value is out of its range.
    """

    alpha: float = field(
        default=0.5, metadata={"help": "Weight of cross-entropy, 0 to 1; 1 - alpha weighs distillation."}
    )
    temperature: float = field(
        default=4.0, metadata={"help": "Softmax temperature of the distillation loss, above 0."}
    )
    hidden_loss_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the squared difference between the student's hidden states and those of "
            "matched teacher layers, added to the loss; above 0 it needs a teacher_model of the same width."
        },
    )
    hidden_layers: list[int] | None = field(
        default=None,
        metadata={
            "help": "Teacher layer (from 0) matched with each student layer. "
            "Default: evenly spaced, last with last."
        },
    )
    eval_with_teacher: bool = field(
        default=False,
        metadata={"help": "Also report the distillation loss in evaluation, running the teacher if needed."},
    )
    dropout: float | None = field(
        default=None,
        metadata={
            "help": "Probability of every dropout of the student, 0 up to 1; small students with much data learn "
            "best with none. Default: that of its checkpoint."
        },
    )
    freeze_embeddings: bool = field(
        default=False, metadata={"help": "Do not train the student's embeddings: faster, less memory."}
    )
    balance: str = field(
        default="none",
        metadata={
            "help": "How to balance labels with different numbers of texts: none, class_weights (weigh the "
            "cross-entropy of a text by the inverse frequency of its label) or sampler (draw every label equally "
            "often).",
            "choices": list(get_args(Balance)),
        },
    )
    data_on_device: bool | None = field(
        default=None,
        metadata={
            "help": "Keep the training texts on the device and gather batches there. Default: on a GPU, if a quarter "
            "of its free memory suffices."
        },
    )
    pad_to_multiple_of: int | None = field(
        default=None,
        metadata={
            "help": "Pad the texts of a batch to a multiple of this many tokens, for few shapes. Default: 1."
        },
    )
    compile_step: bool = field(
        default=False,
        metadata={
            "help": "Compile the student's forward and backward for full batches, padded to a multiple of 8 tokens, "
            "with CUDA graphs on a GPU. Where that fails, the training is not compiled, with a warning."
        },
    )
    losses: dict | str | None = field(
        default=None,
        metadata={"help": 'Additional loss terms by name, each with its keys: {"cosine": {"weight": 1.0}}.'},
    )

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*TrainingArguments._VALID_DICT_FIELDS, "losses"]

    def __post_init__(self) -> None:
        check_range("alpha", self.alpha, 0 <= self.alpha <= 1, "a number from 0 to 1")
        check_range("temperature", self.temperature, self.temperature > 0, "a number above 0")
        check_range(
            "hidden_loss_weight",
            self.hidden_loss_weight,
            self.hidden_loss_weight >= 0,
            "a number of 0 or more",
        )
        accepted = self.dropout is None or 0 <= self.dropout < 1
        check_range("dropout", self.dropout, accepted, "a number from 0 to below 1, or null")
        names = get_args(Balance)
        check_range("balance", self.balance, self.balance in names, ", ".join(names))
        strategy = self.train_sampling_strategy
        accepted = self.balance != "sampler" or strategy in SAMPLED
        check_range(
            "train_sampling_strategy", strategy, accepted, f"{', '.join(SAMPLED)}, where balance is 'sampler'"
        )
        if self.compile_step and self.pad_to_multiple_of is None:
            self.pad_to_multiple_of = MULTIPLE
        multiple = self.pad_to_multiple_of
        accepted = multiple is None or (type(multiple) is int and multiple > 0)
        check_range("pad_to_multiple_of", multiple, accepted, "a whole number above 0, or null")
        super().__post_init__()
        _check_losses(self.losses)


def _check_losses(losses: object) -> None:
    """Raise ``InputError`` unless each is a registered term with a section and has only that section's keys."""
    known = with_sections()
    accepted = f"a mapping of loss terms ({', '.join(known)}), each with a mapping of its keys"
    check_range("losses", losses, losses is None or isinstance(losses, dict), accepted)
    for name, keys in losses.items() if isinstance(losses, dict) else ():
        check_range("losses", losses, name in known, accepted)
        try:
            known[name].model_validate(keys)
        except ValidationError as error:
            [fault, *_] = error.errors(include_url=False)
            path = ".".join(map(str, ("losses", name, *fault["loc"])))
            raise InputError(
                f"{path} is {shown(fault['input'])}: {fault['msg']}; keys: {', '.join(known[name].model_fields)}"
            ) from None


def hardware_has_bf16(*, use_cpu: bool) -> bool:
    """Return whether the hardware multiplies bfloat16: CUDA compute capability 8 or higher, AVX512-BF16, AMX."""
    if not use_cpu:
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        # x86 lists them in "flags", ARM in "Features" ("bf16").
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "").split()
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def resumed_bf16(checkpoint: Path | None, *, use_cpu: bool) -> bool | None:
    """Return whether to resume a training in bfloat16, as it began; None for a new one, where the hardware decides.

    Args:
        checkpoint: The checkpoint that ``KeepEpochs`` has kept, or None.
        use_cpu: Whether the training is resumed on a CPU.
    """
    began = kept_in_bf16(checkpoint)
    if began and not hardware_has_bf16(use_cpu=use_cpu):
        logger.warning(
            "the training began in bfloat16 and is resumed in float32: this device does not multiply bfloat16"
        )
        return False
    return began


def argument_names() -> set[str]:
    """Return the names allowed in a search space: the arguments' fields and the specification's short names."""
    names = {each.name for each in dataclasses.fields(DistillationTrainingArguments) if each.init}
    searched = {
        name for name in names if name not in _NOT_SEARCHED and not name.startswith(_NOT_SEARCHED_PREFIXES)
    }
    return (searched - {"losses"}) | set(_SHORT_NAMES) | set(section_paths())


def arguments_from_config(
    config: TrainingConfig, output_dir: str, **overrides: Any
) -> DistillationTrainingArguments:
    """Build the arguments of one training.

    Args:
        config: The ``training`` section; its ``arguments`` take precedence over its other fields.
        output_dir: Directory for checkpoints.
        **overrides: Arguments, short names (``batch_size``, ``eval_batch_size``, ``warmup_ratio``) or keys of loss
            terms (``training.losses.NAME.KEY``); they take precedence over both.

    Raises:
        ConfigError: A name is unknown (the nearest valid one is given), or a value is rejected.
    """
    no_arguments = {
        "arguments",
        "max_length",
        "logits_precision",
        "quantization_aware",
        "pruning",
        "losses",
        "by_kind",
    }
    values = config.model_dump(exclude=no_arguments)
    values = {_SHORT_NAMES.get(name, name): value for name, value in values.items()}
    values["disable_tqdm"], values["max_batch_tokens"] = True, config.batch_tokens
    values["losses"] = _losses(config, overrides)
    overrides = {name: value for name, value in overrides.items() if name not in section_paths()}
    for where, given in (("training.arguments", config.arguments), ("overrides", overrides)):
        values.update(_known(given, where))
    try:
        return DistillationTrainingArguments(output_dir=output_dir, **values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"training arguments are rejected: {error}") from error


def _losses(config: TrainingConfig, overrides: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the terms of ``training.losses`` with the overrides applied to their keys."""
    losses = {name: section.model_dump() for name, section in config.losses.items()}
    for path, (name, key) in section_paths().items():
        if path in overrides:
            losses.setdefault(name, {})[key] = overrides[path]
    return losses


def _known(given: dict[str, Any], where: str) -> dict[str, Any]:
    """Return ``given`` under the arguments' own names after checking each name."""
    fields = {each.name: each for each in dataclasses.fields(DistillationTrainingArguments) if each.init}
    valid = (set(fields) | set(_SHORT_NAMES)) - {"output_dir", "losses"}
    known: dict[str, Any] = {}
    for name, value in given.items():
        if name not in valid:
            nearest = difflib.get_close_matches(name, sorted(valid), n=1, cutoff=0.5)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            if name == "max_length":
                hint = (
                    "; set training.max_length, which is the same for all trials (logits are cached for it)"
                )
            if name == "losses":
                hint = "; set training.losses"
            raise ConfigError(f"{where}: {name!r} is not an argument of DistillationTrainingArguments{hint}")
        own = _SHORT_NAMES.get(name, name)
        if own in known:
            raise ConfigError(f"{where}: {own!r} is given twice, once under its short name; keep one")
        if (kind := _expected(fields[own].default, value)) is not None:
            raise ConfigError(f"{where}.{name}: {shown(value)} given; accepted: {kind}")
        known[own] = value
    return known


def _expected(default: object, value: object) -> str | None:
    """Return the type that an argument accepts if ``value`` has another one; transformers does not check it."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int | float) and (isinstance(value, bool) or not isinstance(value, int | float)):
        return "a number"
    return None


def check_range(name: str, value: object, accepted: bool, range_text: str) -> None:
    """Raise ``InputError``, naming the accepted range, unless ``accepted``."""
    if not accepted:
        raise InputError(f"{name} is {value!r}; accepted: {range_text}")
