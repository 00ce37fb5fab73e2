"""An exported DeBERTa has only the relative positions that a text reaches, multiplied once."""

import copy

import pytest
import torch
from tiny_families import OTHER_FORMS, config_of, tiny_model

from distiltune.export.onnx.relative_positions import fold_relative_positions

UNSHARED = OTHER_FORMS["deberta-v2-unshared"][1]


@pytest.mark.parametrize("fields", [{}, UNSHARED], ids=["shared", "unshared"])
@pytest.mark.parametrize(("buckets", "span"), [(32, 8), (-1, 8), (4, 4)])
def test_the_logits_stay_and_the_positions_are_those_that_a_text_reaches(fields, buckets, span) -> None:
    model = tiny_model(config_of("deberta-v2", **{**fields, "position_buckets": buckets}))
    folded = fold_relative_positions(copy.deepcopy(model), 8)
    ids = torch.tensor([[5, 9, 8, 7, 6, 11, 12, 13], [7, 6, 10, 0, 0, 0, 0, 0]])
    given = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    with torch.no_grad():
        torch.testing.assert_close(folded(**given).logits, model(**given).logits, atol=1e-6, rtol=1e-5)
    for layer in folded.deberta.encoder.layer:
        core = layer.attention.self
        assert core.pos_key_proj.values.shape == core.pos_query_proj.values.shape == (1, 2 * span, 32)


@pytest.mark.parametrize(
    ("kinds", "left"), [(["c2p"], "pos_key_proj"), (["p2c"], "pos_query_proj"), ([], None)]
)
def test_a_kind_of_product_that_a_model_lacks_is_not_made_up(kinds, left) -> None:
    model = tiny_model(config_of("deberta-v2", **{**UNSHARED, "pos_att_type": kinds}))
    expected = model(torch.tensor([[5, 9, 8]])).logits if kinds else None
    core = fold_relative_positions(model, 8).deberta.encoder.layer[0].attention.self
    made = {
        name for name in ("pos_key_proj", "pos_query_proj") if hasattr(getattr(core, name, None), "values")
    }
    assert made == ({left} if left else set())
    if expected is not None:
        torch.testing.assert_close(model(torch.tensor([[5, 9, 8]])).logits, expected, atol=1e-6, rtol=1e-5)


def test_other_models_are_not_changed() -> None:
    for family, fields in (
        ("bert", {}),
        ("deberta-v2", {"relative_attention": False, "position_biased_input": True}),
    ):
        model = tiny_model(config_of(family, **fields))
        before = str(model)
        assert str(fold_relative_positions(model, 8)) == before
