"""RoBERTa: BERT's layers, a head without a pooler, and positions that begin after the padding id."""

from __future__ import annotations

from dataclasses import replace

from .base import register
from .bert import BERT

ROBERTA = register(
    replace(
        BERT,
        model_types=("roberta",),
        classifier="classifier.out_proj",
        pooler=(),
        masked_lm_head=("lm_head",),
    )
)
