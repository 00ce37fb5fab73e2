"""ELECTRA: BERT's layers below a head without a pooler; word pieces may have narrower rows than the layers."""

from __future__ import annotations

from dataclasses import replace

from .base import register
from .bert import BERT

ELECTRA = register(
    replace(
        BERT,
        model_types=("electra",),
        classifier="classifier.out_proj",
        pooler=(),
        masked_lm_head=("generator_predictions", "generator_lm_head"),
    )
)
