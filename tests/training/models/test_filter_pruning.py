"""Removing the least important filters of a convolution, against plain NumPy and against the whole model."""

import copy

import numpy as np
import pytest
import torch
from convolution_students import convolution

from distiltune.training.models.convolution import filter_importance, keep_filters

SHAPES = {
    "maximum": {"pooling": "max"},
    "maximum and mean": {"pooling": "max_mean"},
    "three window sizes and a block": {"pooling": "max_mean", "window_sizes": [1, 2, 3], "num_blocks": 1},
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def model(request):
    """A convolution whose running statistics are those of some random texts."""
    made = convolution(**request.param)
    with torch.no_grad():
        pooled = made.encoder(texts())
        made.norm.running_mean.copy_(pooled.mean(0))
        made.norm.running_var.copy_(pooled.var(0, unbiased=False))
    return made


def texts() -> torch.Tensor:
    return torch.randint(1, 60, (40, 7), generator=torch.Generator().manual_seed(0))


def test_the_importance_is_the_deviation_of_what_a_filter_adds_to_the_hidden_layer(model):
    with torch.no_grad():
        normalized = model.norm(model.encoder(texts())).double().numpy()
    weight = model.dense.weight.detach().double().numpy()
    found = filter_importance(model)
    num_groups, num_filters = len(model.config.window_sizes), model.config.num_filters
    assert found.shape == (num_groups, num_filters)
    for group in range(num_groups):
        for number in range(num_filters):
            columns = range(group * num_filters + number, normalized.shape[1], num_groups * num_filters)
            added = [normalized[:, None, each] * weight[:, each] for each in columns]
            variance = sum(each.var(axis=0).sum() for each in added)
            assert float(found[group, number]) == pytest.approx(np.sqrt(variance), rel=1e-5)


def test_the_others_compute_as_if_removed_filters_had_their_mean(model):
    kept = [[0, 2, 5], [1, 2, 3], [0, 4, 5]][: len(model.config.window_sizes)]
    num_filters = model.config.num_filters
    stays = np.zeros((len(kept), num_filters), dtype=bool)
    for group, each in enumerate(kept):
        stays[group, each] = True
    columns = torch.from_numpy(np.tile(stays.flatten(), model.norm.num_features // stays.size))
    smaller = copy.deepcopy(model)
    keep_filters(smaller, kept)
    model.encoder.register_forward_hook(
        lambda _, __, pooled: torch.where(columns, pooled, model.norm.running_mean)
    )
    with torch.no_grad():
        torch.testing.assert_close(smaller(texts()).logits, model(texts()).logits)
    assert smaller.config.num_filters == 3
    assert not smaller.norm.training
    assert all(each.linear.out_features == 3 for each in smaller.encoder.filters)


def test_a_smaller_model_is_trained_and_loaded_again(model, tmp_path):
    keep_filters(model, [[1, 3]] * len(model.config.window_sizes))
    model.train()
    model(texts(), labels=torch.zeros(40, dtype=torch.long)).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.eval().save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(again(texts()).logits, model(texts()).logits)
