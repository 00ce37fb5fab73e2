"""Masks of batches whose padding is known: the same logits bit for bit, without asking the device."""

from __future__ import annotations

import pytest
import torch
from models import tiny_classifier
from transformers import AutoModelForSequenceClassification

from distiltune.training.models.attention_mask import with_known_padding

IDS = torch.tensor([[2, 9, 8, 7, 3], [2, 6, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
FULL = torch.ones_like(MASK)


@pytest.fixture(scope="module", params=["bert", "roberta", "distilbert"])
def folder(request, tmp_path_factory):
    return tiny_classifier(tmp_path_factory.mktemp(request.param), family=request.param)


@pytest.mark.parametrize(("mask", "padded"), [(MASK, True), (FULL, False), (FULL, True)])
def test_logits_are_the_same_bit_for_bit(folder, mask, padded):
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="sdpa").eval()
    features = {"input_ids": IDS, "attention_mask": mask}
    known = with_known_padding(model, features, padded)
    assert ("attention_mask" in known) == padded
    assert features.keys() == {"input_ids", "attention_mask"}, "the given inputs are not changed"
    with torch.no_grad():
        found, expected = model(**known).logits, model(**features).logits
    if padded and mask is FULL:  # another kernel, since the batch was declared as padded
        torch.testing.assert_close(found, expected)
    else:
        assert torch.equal(found, expected)


@pytest.mark.parametrize("padded", [True, False, None])
def test_other_attention_and_unknown_padding_change_nothing(folder, padded):
    features = {"input_ids": IDS, "attention_mask": MASK}
    eager = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager")
    assert with_known_padding(eager, features, padded) == features
    fused = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="sdpa")
    assert with_known_padding(fused, features, None) == features
    assert with_known_padding(fused, {"input_ids": IDS}, padded).keys() == {"input_ids"}
    assert with_known_padding(torch.nn.Linear(2, 2), features, padded) == features
