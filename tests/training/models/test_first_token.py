"""The last layer for the first token alone: the same logits and gradients."""

import copy

import pytest
import torch
from models import tiny_classifier
from transformers import AutoModelForSequenceClassification

from distiltune.training.models.first_token import first_token_in_last_layer

IDS = torch.tensor([[2, 9, 8, 7, 3], [2, 6, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def _run(model, mask=MASK):
    """Logits, gradient of every parameter, and how many tokens reached the last layer's feed-forward part."""
    model.zero_grad()
    widths = []
    last = [module for name, module in model.named_modules() if name.endswith(("intermediate", "ffn"))][-1]
    with last.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[1])):
        logits = model(input_ids=IDS, attention_mask=mask).logits
    logits.square().sum().backward()
    return logits.detach(), {name: value.grad for name, value in model.named_parameters()}, widths


@pytest.mark.parametrize("mask", [MASK, torch.ones_like(MASK)])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_logits_and_gradients_are_the_same(tmp_path, family, attention, mask):
    tiny_classifier(tmp_path, family=family)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, attn_implementation=attention).eval()
    logits, gradients, widths = _run(model, mask)
    assert widths == [5]
    with first_token_in_last_layer(model):
        fewer = _run(model, mask)
        with first_token_in_last_layer(model):
            pass
        assert _run(copy.deepcopy(model), mask)[2] == [1], (
            "a copy, also after entering twice, computes one token"
        )
    assert fewer[2] == [1]
    torch.testing.assert_close(fewer[0], logits, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(fewer[1], gradients, atol=1e-6, rtol=1e-4)
    assert _run(model, mask)[2] == [5], "the model is restored"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_it_trains_in_mixed_precision_with_dropout(tmp_path, attention):
    tiny_classifier(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(
        tmp_path, attn_implementation=attention
    ).train()
    first_token_in_last_layer(model)
    with torch.autocast("cpu", torch.bfloat16):
        logits, gradients, widths = _run(model, MASK)
        again = _run(model, MASK)[0]
    assert logits.isfinite().all() and widths == [1]
    assert not torch.equal(logits, again), "dropout was not drawn"
    assert all(each is not None and each.isfinite().all() for each in gradients.values())


def test_an_unknown_model_is_not_changed(tmp_path):
    class Pooling(AutoModelForSequenceClassification.from_pretrained(tiny_classifier(tmp_path)).__class__):
        """Its head may read every token."""

    model = Pooling.from_pretrained(tmp_path).eval()
    with first_token_in_last_layer(model):
        assert _run(model)[2] == [5]
