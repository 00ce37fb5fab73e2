"""``PretrainingArguments``: the arguments of ``PretrainingTrainer``."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..distillation.arguments import FastTrainingArguments, check_range

_POSITIONS = ("all", "masked")


@dataclass
class PretrainingArguments(FastTrainingArguments):
    """``FastTrainingArguments`` with the weights of DistilBERT's loss, by default those of its published script.

    Raises:
        InputError: A value is out of its range.
    """

    alpha: float = field(default=2.0, metadata={"help": "Weight of masked-language-model cross-entropy."})
    beta: float = field(default=5.0, metadata={"help": "Weight of distillation over the vocabulary."})
    gamma: float = field(default=1.0, metadata={"help": "Weight of 1 - cosine of the last hidden states."})
    temperature: float = field(default=2.0, metadata={"help": "Softmax temperature of the distillation."})
    mlm_probability: float = field(
        default=0.15, metadata={"help": "Share of word pieces to mask, above 0 and below 1."}
    )
    distil_positions: str = field(
        default="all",
        metadata={
            "help": "Distil at all tokens except padding, or only at masked ones, which is much faster.",
            "choices": list(_POSITIONS),
        },
    )
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Texts per step and device."})
    per_device_eval_batch_size: int = field(
        default=32, metadata={"help": "Texts per evaluation step and device."}
    )

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma"):
            check_range(name, getattr(self, name), getattr(self, name) >= 0, "a number of 0 or more")
        has_weight = self.alpha + self.beta + self.gamma > 0
        check_range("alpha", self.alpha, has_weight, "a number above 0, since beta and gamma are 0")
        check_range("temperature", self.temperature, self.temperature > 0, "a number above 0")
        share = self.mlm_probability
        check_range("mlm_probability", share, 0 < share < 1, "a number between 0 and 1")
        positions = self.distil_positions
        check_range("distil_positions", positions, positions in _POSITIONS, " or ".join(_POSITIONS))
        super().__post_init__()
