"""XLM-RoBERTa: RoBERTa on a multilingual SentencePiece vocabulary."""

from __future__ import annotations

from dataclasses import replace

from .base import register
from .roberta import ROBERTA

XLM_ROBERTA = register(replace(ROBERTA, model_types=("xlm-roberta",)))
