"""The last layer for the first token alone: the same logits and gradients."""

import pytest
import torch
from models import tiny_classifier
from transformers import AutoModelForSequenceClassification

from distiltune.training.first_token import first_token_in_last_layer

IDS = torch.tensor([[2, 9, 8, 7, 3], [2, 6, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def _run(model):
    """Logits, gradient of every parameter, and how many tokens reached the last layer's feed-forward part."""
    model.zero_grad()
    widths = []
    last = [module for name, module in model.named_modules() if name.endswith(("intermediate", "ffn"))][-1]
    with last.register_forward_pre_hook(lambda _, inputs: widths.append(inputs[0].shape[1])):
        logits = model(input_ids=IDS, attention_mask=MASK).logits
    logits.square().sum().backward()
    return logits.detach(), {name: value.grad for name, value in model.named_parameters()}, widths


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_logits_and_gradients_are_the_same(tmp_path, family):
    tiny_classifier(tmp_path, family=family)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    logits, gradients, widths = _run(model)
    assert widths == [5]
    with first_token_in_last_layer(model):
        fewer = _run(model)
    assert fewer[2] == [1]
    torch.testing.assert_close(fewer[0], logits, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(fewer[1], gradients, atol=1e-6, rtol=1e-4)
    assert _run(model)[2] == [5], "it ends with its context"


def test_a_model_that_it_does_not_know_is_left_alone(tmp_path):
    class Pooling(AutoModelForSequenceClassification.from_pretrained(tiny_classifier(tmp_path)).__class__):
        """Its head may read every token."""

    model = Pooling.from_pretrained(tmp_path).eval()
    with first_token_in_last_layer(model):
        assert _run(model)[2] == [5]
