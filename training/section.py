"""The base class of every section of a job's specification, and the types of its numbers, names and plain values."""

from __future__ import annotations

import math
import unicodedata
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ..errors import shown, without_userinfo

MOST_DEPTH = 40
"""Maximum nesting depth of lists and mappings in a specification."""

MOST_SEED = 2**32 - 1
"""Largest seed that NumPy accepts."""

_MOST_VALUES = 100_000
_MOST_INTEGER = 2**63 - 1
_MOST_FLOAT = 1e30


class Section(BaseModel):
    """A part of the specification.

    Unknown keys are rejected, instances are frozen, and types are strict: text is not a number, true is not 1, and
    1.5 is not an integer, but an integer is accepted for a float. NaN and infinity are rejected.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), strict=True, allow_inf_nan=False
    )

    def implied(self) -> Section | None:
        """Return the section with the defaults that its own keys imply, or None where no key implies any."""
        return None


def _valid_name(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank; set a value, or remove the key")
    if any(unicodedata.category(each) in ("Cc", "Cs") for each in text):
        raise ValueError("contains a control character; remove it")
    if without_userinfo(text) != text:
        raise ValueError(
            "contains a user name or a secret in its URL; remove it, and provide credentials in the environment or "
            "by the machine's role"
        )
    return text


def plain(value: Any) -> Any:
    """Return a value of the specification that has no schema, after checking that it consists of JSON types only.

    Raises:
        ValueError: It contains NaN, infinity, a number or text beyond the limits, a type that JSON lacks, or too
            many values, or is nested too deeply.
    """
    waiting, count = [(value, 0)], 0
    while waiting:
        each, depth = waiting.pop()
        count += 1
        if depth > MOST_DEPTH or count > _MOST_VALUES:
            raise ValueError(
                f"at most {_MOST_VALUES:,} values, nested up to {MOST_DEPTH} levels, are accepted"
            )
        if isinstance(each, dict):
            waiting += [(part, depth + 1) for pair in each.items() for part in pair]
            if not all(isinstance(key, str) for key in each):
                raise ValueError("every key must be text; quote it")
        elif isinstance(each, list):
            waiting += [(part, depth + 1) for part in each]
        elif (fault := _scalar_fault(each)) is not None:
            raise ValueError(f"{shown(each)} {fault}")
    return value


def _scalar_fault(value: Any) -> str | None:
    if isinstance(value, float) and not math.isfinite(value):
        return "is not a finite number"
    limit = _MOST_INTEGER if isinstance(value, int) else _MOST_FLOAT
    if isinstance(value, int | float) and abs(value) > limit:
        return f"is beyond ±{limit:g}"
    if isinstance(value, str) and len(value) > _MOST_TEXT:
        return f"has {len(value):,} characters; at most {_MOST_TEXT:,} are accepted"
    if isinstance(value, str) and any(unicodedata.category(each) == "Cs" or each == "\0" for each in value):
        return "contains a character that is not valid text; remove it"
    if value is not None and not isinstance(value, str | int | float):
        return f"is a {type(value).__name__}; accepted: text, numbers, true, false, null, lists and mappings"
    return None


def scalar(value: Any) -> Any:
    """Return a string, a number or a Boolean unchanged.

    Raises:
        ValueError: It is something else, or not finite.
    """
    if not isinstance(value, str | int | float):
        raise ValueError("expected text, a number, true or false")
    return plain(value)


_MOST_TEXT = 100_000

# Upper limits: far above what anyone uses, yet low enough to catch a typing error.
Name = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_valid_name)]
Text = Annotated[str, Field(min_length=1, max_length=_MOST_TEXT)]
Plain = Annotated[Any, AfterValidator(plain)]
Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
Epochs = Annotated[int, Field(ge=1, le=100_000, description="Epochs.")]
LearningRate = Annotated[float, Field(gt=0, le=1000, description="Peak learning rate of AdamW.")]
BatchSize = Annotated[int, Field(ge=1, le=2**20, description="Texts per step.")]
WarmupRatio = Annotated[
    float, Field(ge=0, lt=1, description="Share of the steps over which the learning rate rises to its peak.")
]
Temperature = Annotated[float, Field(gt=0, le=10_000)]
Weight = Annotated[float, Field(ge=0, le=1e9)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
NumTrials = Annotated[int, Field(ge=1, le=10**6)]
Width = Annotated[int, Field(ge=1, le=2**20)]
Layer = Annotated[int, Field(ge=0, le=9999)]
Balance = Literal["none", "class_weights", "sampler"]
Layers = Annotated[list[Layer], Field(min_length=1, max_length=1000)]
Threads = Annotated[int, Field(ge=1, le=4096)]
Amount = Annotated[float, Field(ge=0, le=1e9)]
PositiveAmount = Annotated[float, Field(gt=0, le=1e9)]
Number = Annotated[float, Field(ge=-_MOST_FLOAT, le=_MOST_FLOAT)]
Integer = Annotated[int, Field(ge=-_MOST_INTEGER, le=_MOST_INTEGER)]


class OptimizationConfig(Section):
    """Optimization keys common to teacher training, student training and pretraining.

    Subclasses override the defaults.
    """

    num_train_epochs: Epochs = 5
    learning_rate: LearningRate = 5e-4
    batch_size: BatchSize = 32
    warmup_ratio: WarmupRatio = 0.1
