"""Masking the word pieces of a batch for a masked-language model, the same ones at every run of a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DataCollatorForLanguageModeling

from ...errors import InputError


class Masking:
    """Chooses word pieces of a batch; of those 80 % become the mask token, 10 % another piece, 10 % stay.

    Devlin et al. 2018 (arXiv 1810.04805), section 3.1. Special tokens and padding are never chosen. What is chosen
    depends on the seed, the place in the training that it is told and the batch, and on no former batch: a resumed
    training masks what the uninterrupted one does.

    Args:
        tokenizer: It has a mask token.
        probability: That a piece is chosen.
        seed: Of the draw.

    Raises:
        InputError: There is no tokenizer, or it has no mask token.
    """

    def __init__(self, tokenizer: Any, probability: float, seed: int) -> None:
        if getattr(tokenizer, "mask_token_id", None) is None:
            raise InputError(
                "pretraining masks word pieces, and there is no tokenizer with a mask token; give one "
                "(processing_class), or a student and teacher that have it"
            )
        # The collator only masks here: its own generator goes on from batch to batch, which resuming forgets.
        self._collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=probability)
        self._special = torch.tensor(sorted(tokenizer.all_special_ids))
        self._seed = seed

    def __call__(self, batch: dict[str, Any], *place: int) -> dict[str, Tensor]:
        """Mask a batch.

        Args:
            batch: ``input_ids[B, L]`` and, with padding, ``attention_mask[B, L]``.
            place: Where in the training it is: numbers that no other batch has.

        Returns:
            ``input_ids[B, L]`` with masks, ``attention_mask[B, L]`` and ``labels[B, L]``: the piece that stood there
            where one was chosen, else -100.
        """
        device, ids = batch["input_ids"].device, batch["input_ids"].cpu()
        kept = batch.get("attention_mask")
        kept = torch.ones_like(ids) if kept is None else kept.cpu()
        number = np.random.SeedSequence([self._seed, *place]).generate_state(1, np.uint64)[0]
        # Any number of 64 bits would do for the CPU's generator, but manual_seed takes signed ones as well.
        self._collator.generator = torch.Generator().manual_seed(int(number >> np.uint64(1)))
        never = torch.isin(ids, self._special) | (kept == 0)
        masked, labels = self._collator.torch_mask_tokens(ids.clone(), special_tokens_mask=never)
        made = {"input_ids": masked, "attention_mask": kept, "labels": labels}
        return {name: value.to(device) for name, value in made.items()}
