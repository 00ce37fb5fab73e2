"""CamemBERT: RoBERTa on a French SentencePiece vocabulary."""

from __future__ import annotations

from dataclasses import replace

from .base import register
from .roberta import ROBERTA

CAMEMBERT = register(replace(ROBERTA, model_types=("camembert",)))
