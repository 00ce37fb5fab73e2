"""Mask word pieces of a batch for a masked-language model, reproducibly for every step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DataCollatorForLanguageModeling

from ...errors import InputError


class Masking:
    """Select word pieces of a batch; 80 % of them become the mask token, 10 % another piece, 10 % are unchanged.

    Devlin et al. 2018 (arXiv 1810.04805), section 3.1. Special tokens and padding are never selected. The selection
    depends on the seed, the given position in the training and the batch, not on earlier batches: a resumed training
    masks the same pieces as an uninterrupted one.

    Args:
        tokenizer: A tokenizer with a mask token.
        probability: Probability that a piece is selected.
        seed: Seed of the draw.

    Raises:
        InputError: There is no tokenizer, or it has no mask token.
    """

    def __init__(self, tokenizer: Any, probability: float, seed: int) -> None:
        if getattr(tokenizer, "mask_token_id", None) is None:
            raise InputError(
                "pretraining masks word pieces, but there is no tokenizer with a mask token; pass one "
                "(processing_class), or use a student and a teacher that have one"
            )
        # Used for masking only: its own generator's state advances with each batch and is lost on resuming.
        self._collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=probability)
        self._special = torch.tensor(sorted(tokenizer.all_special_ids))
        self._seed = seed

    def __call__(self, batch: dict[str, Any], *place: int) -> dict[str, Tensor]:
        """Mask a batch.

        Args:
            batch: ``input_ids[B, L]`` and, with padding, ``attention_mask[B, L]``.
            place: Position in the training: numbers unique to this batch.

        Returns:
            ``input_ids[B, L]`` with masks, ``attention_mask[B, L]`` and ``labels[B, L]``: the original piece where
            one was selected, else -100.
        """
        device, ids = batch["input_ids"].device, batch["input_ids"].cpu()
        kept = batch.get("attention_mask")
        kept = torch.ones_like(ids) if kept is None else kept.cpu()
        number = np.random.SeedSequence([self._seed, *place]).generate_state(1, np.uint64)[0]
        # 63 bits: the CPU's generator takes any 64-bit number, but manual_seed accepts signed ones as well.
        self._collator.generator = torch.Generator().manual_seed(int(number >> np.uint64(1)))
        never = torch.isin(ids, self._special) | (kept == 0)
        masked, labels = self._collator.torch_mask_tokens(ids.clone(), special_tokens_mask=never)
        made = {"input_ids": masked, "attention_mask": kept, "labels": labels}
        return {name: value.to(device) for name, value in made.items()}
