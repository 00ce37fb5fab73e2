"""The parts of every registered model family, and a family that is registered by the test.

What the families support is tested in test_family_findings.py.
"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from family_probes import PROBES, Subject
from tiny_families import TINY, Tiny, tokenizer_of
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from distiltune.errors import ModelError
from distiltune.export.onnx.components import part_of, products_by_part
from distiltune.export.onnx.convert import export_onnx
from distiltune.export.onnx.inference_form import inference_form
from distiltune.export.onnx.parts import ATTENTION, OTHER, Part
from distiltune.export.variants.parity import onnx_logits
from distiltune.training.checkpoints.heads import head_of, match_labels
from distiltune.training.compression.pruning.state import encoder_matrices
from distiltune.training.models.families import (
    CAPABILITIES,
    Family,
    base,
    families,
    family_names,
    family_of,
    find_family,
    register,
)
from distiltune.training.models.families.bert import BERT, after_attention
from distiltune.training.models.first_token import first_token_in_last_layer, reads_first_token

LABELS = ["a", "b", "c"]
IDS = torch.tensor([[2, 9, 8, 7, 3], [2, 6, 3, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
# A complete family: layers, head, pruning and export need no more than this declaration.
ERNIE = Family(
    model_types=("ernie",),
    classifier="classifier",
    head_reads="first_token",
    layers="encoder.layer",
    attention=BERT.attention,
    feed_forward=BERT.feed_forward,
    after_attention=after_attention,
)
PARAMS = [*families(), ERNIE]


@pytest.fixture(params=PARAMS, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Family]:
    """A registered family; ERNIE is registered for the duration of a test."""
    monkeypatch.setattr(base, "_FAMILIES", dict(base._FAMILIES))
    if request.param is ERNIE:
        register(ERNIE)
    yield request.param


def config_of(family: Family):
    """The configuration of a tiny model; the other families accept BERT's names of the sizes."""
    own = TINY[family.name].fields if family.name in TINY else {}
    return CONFIG_MAPPING[family.name](
        **{
            "vocab_size": 40,
            "hidden_size": 16,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            family.intermediate_size: 24,
            "max_position_embeddings": 20,
            "pad_token_id": 1,
            "type_vocab_size": 1,
            "initializer_range": 0.3,
            "id2label": dict(enumerate(LABELS)),
            "label2id": {name: number for number, name in enumerate(LABELS)},
            **own,
        }
    )


def tiny(family: Family, kind=AutoModelForSequenceClassification) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind.from_config(config_of(family)).eval()
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter) * 0.1)
    return model


def logits_of(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, attention_mask=MASK).logits


def test_its_parts_are_where_it_declares_them(family: Family) -> None:
    model = tiny(family)
    assert family_of(model) is family_of(model.config) is family
    assert model.base_model.get_submodule(family.word_embeddings) is model.get_input_embeddings()
    assert getattr(model.config, family.intermediate_size) == 24
    layers = family.layers_of(model)
    assert len(layers) == (1 if family.shared_layers else 3)
    assert family.place_of_layer(model.config, 2) == len(layers) - 1
    assert family.attention is not None and family.feed_forward is not None
    matrices = {id(each) for each in encoder_matrices(model).values()}
    for number, layer in enumerate(layers):
        core = layer.get_submodule(family.attention.module)
        shapes = [core.get_submodule(name).weight.shape for name in family.attention.projections]
        assert shapes in ([(16, 16)] * 3, [(48, 16)])
        output = layer.get_submodule(family.attention.output)
        first, second = (
            layer.get_submodule(name) for name in (family.feed_forward.first, family.feed_forward.second)
        )
        assert output.weight.shape == (16, 16) and second.weight.shape == (16, 24)
        assert first.weight.shape in ((24, 16), (48, 16))
        assert {id(each.weight) for each in (output, first, second)} <= matrices
        for name in (family.attention.norm, family.feed_forward.norm):
            if number > 0 or not family.own_first_layer:
                assert layer.get_submodule(name).weight.shape == (16,)
    names = "\n".join(model.state_dict())
    assert not family.other_embeddings or any(f".{each}." in names for each in family.other_embeddings)


def test_the_head_is_found_and_its_rows_permuted(family: Family) -> None:
    model = tiny(family)
    assert head_of(model) is model.get_submodule(family.classifier)
    before = logits_of(model)
    match_labels(model, ["c", "a", "b"])
    torch.testing.assert_close(logits_of(model), before[:, [2, 0, 1]], atol=0, rtol=0)


def test_a_head_that_reads_every_token_gets_them(family: Family) -> None:
    stock = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config_of(family))]
    derived = type("Pooling", (stock,), {})(config_of(family))
    tokens = AutoModelForTokenClassification.from_config(config_of(family))
    for model in (derived, tokens, tiny(family).base_model):
        assert not reads_first_token(model)
        with first_token_in_last_layer(model.eval()):
            found = model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
        assert found.hidden_states[-1].shape[1] == 5


def test_positions_are_bounded_by_the_table(family: Family) -> None:
    model = tiny(family)
    counted = {"camembert", "mpnet", "roberta", "xlm-roberta"}
    assert base.first_position(model) == (2 if family.name in counted else 0)
    place = family.position_embeddings
    if (
        place is None
        or getattr(model.base_model.get_submodule("embeddings"), "position_embeddings", None) is None
    ):
        model(input_ids=torch.full((1, 21), 5))
        return
    most = 20 - base.first_position(model)
    model(input_ids=torch.full((1, most), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, most + 1), 5))


@pytest.mark.slow  # tests/export/onnx/test_export.py exports some among the fast tests, and counts the names
def test_every_weight_of_the_exported_graph_has_a_name_and_its_logits_are_the_models(
    family: Family, tmp_path: Path
) -> None:
    model = tiny(family)
    export_onnx(model, tmp_path / "model.onnx", max_length=8)
    graph = onnx.load(str(tmp_path / "model.onnx")).graph
    found = onnx_logits(tmp_path / "model.onnx")(IDS.numpy(), MASK.numpy())
    torch.testing.assert_close(torch.from_numpy(found), logits_of(model), atol=1e-5, rtol=1e-4)
    products, attention = products_by_part(graph), family.attention
    assert not [part for part in products if part.group == OTHER]
    assert attention is not None
    num_entries = len(family.layers_of(model))
    for layer in range(num_entries):
        repeated = 3 // num_entries  # layers that share weights
        own = len(attention.projections) * repeated
        assert len(products[Part("query, key, value", ATTENTION, layer)]) == own
        for name in ("attention output", "feed-forward in", "feed-forward out"):
            [part] = [each for each in products if (each.name, each.layer) == (name, layer)]
            assert len(products[part]) == repeated
    weights = [each for each in graph.initializer if each.name.endswith(".weight")]
    assert len({each.raw_data for each in weights}) == len(weights), "weights that are shared are stored once"
    assert [part.name for part in products if part.layer is None][-1] == "classifier"
    sizes = [each.dims[0] for each in graph.initializer if "position_embeddings" in each.name]
    has_table = any("position_embeddings" in name for name in model.state_dict())
    expected = [8 + base.first_position(model)] if has_table else []
    assert sizes == expected, "the positions that a text of max_length reaches"


def test_every_parameter_of_the_model_is_of_a_part(family: Family) -> None:
    assert not [name for name in tiny(family).state_dict() if part_of(name) is None]


# ---- The registry ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("capability", ["depth", "heads", "rows", "first_token", "vocabulary", "students"])
def test_a_declaration_is_all_that_a_family_needs(capability: str, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(base, "_FAMILIES", dict(base._FAMILIES))
    monkeypatch.setitem(TINY, "ernie", Tiny(lambda: tokenizer_of("bert")))
    register(ERNIE)
    assert PROBES[capability].run(Subject("ernie", "ernie", tmp_path)).works


def test_a_family_declares_what_it_does_not_support(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_FAMILIES", {})
    bare = register(
        Family(model_types=("ernie",), classifier="classifier.out_proj", head_reads="every_token")
    )
    assert [bare.supports(each) for each in CAPABILITIES] == [False] * len(CAPABILITIES)
    config = config_of(bare)
    for needs in CAPABILITIES:
        with pytest.raises(ModelError, match=r"student\.x: 'ernie' given"):
            family_of(config, "student.x", needs)
    assert family_of(config) is bare
    every = replace(ERNIE, head_reads="every_token")
    assert every.supports("heads") and every.supports("rows") and not every.supports("first_token")
    assert not replace(ERNIE, feed_forward=None).supports("rows")
    assert not replace(ERNIE, attention=None).supports("heads")
    assert not replace(ERNIE, layers=None).supports("first_token")
    limited = replace(
        ERNIE, unsupported={"rows": "reason"}, limits=lambda config: {"heads": config.model_type}
    )
    assert [limited.why_not(each, config) for each in ("rows", "heads", "layers")] == [
        "reason",
        "ernie",
        None,
    ]
    assert limited.supports("heads") and not limited.supports("heads", config)
    register(replace(limited, model_types=("layoutlm",)))
    with pytest.raises(ModelError, match=r"^student\.x: 'layoutlm' given.* \(reason\); supported: ; use"):
        family_of(CONFIG_MAPPING["layoutlm"](), "student.x", "rows")


def test_the_whole_last_layer_is_exported_for_a_head_that_reads_every_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "_FAMILIES", {})
    every = register(replace(ERNIE, head_reads="every_token"))
    model = tiny(every)
    whole = type(every.layers_of(model)[-1])
    assert not reads_first_token(model)
    with first_token_in_last_layer(model):
        assert model(input_ids=IDS, output_hidden_states=True).hidden_states[-1].shape[1] == 5
    assert type(every.layers_of(inference_form(model))[-1]) is whole
    monkeypatch.setattr(base, "_FAMILIES", {})
    register(ERNIE)
    assert type(ERNIE.layers_of(inference_form(model))[-1]) is not whole
    # A derived class with the name of transformers' class may read more than the family declares.
    model.__class__ = type(type(model).__name__, (type(model),), {})
    assert type(ERNIE.layers_of(inference_form(model))[-1]) is whole


def test_a_family_that_is_not_registered_is_refused_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(ERNIE)
    assert find_family(config) is None
    known = (
        "albert, bert, camembert, deberta-v2, distilbert, electra, modernbert, mpnet, roberta, xlm-roberta"
    )
    with pytest.raises(ModelError, match=rf"^teacher: 'ernie' given.*: {known};"):
        family_of(config, "teacher")
    with pytest.raises(ValueError, match="model_types: 'bert'"):
        register(replace(ERNIE, model_types=("ernie", "bert")))
    assert find_family(config) is None, "nothing is half registered"
    monkeypatch.setattr(base, "_FAMILIES", dict(base._FAMILIES))
    register(ERNIE)
    with pytest.raises(ModelError, match=r"^teacher: 'gpt2' given.*, electra, ernie, modernbert, "):
        family_of(CONFIG_MAPPING["gpt2"](), "teacher")
    assert "ernie" not in family_names("masked_lm") and "electra" in family_names("masked_lm")
    with pytest.raises(ModelError, match=r"^student\.pretraining: 'ernie' given.*: albert, bert, "):
        family_of(config, "student.pretraining", "masked_lm")


@pytest.mark.parametrize("model_type", ["data2vec-text", "roberta-prelayernorm"])
def test_positions_of_an_unregistered_family_begin_after_its_padding_row(model_type: str) -> None:
    config = CONFIG_MAPPING[model_type](
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=20,
        pad_token_id=1,
    )
    model = AutoModelForSequenceClassification.from_config(config)
    assert find_family(model) is None
    assert base.first_position(model) == 2
    model(input_ids=torch.full((1, 18), 5))
    assert base.first_position(copy.deepcopy(tiny(BERT))) == 0
