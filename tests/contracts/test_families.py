"""What every registered model family can do, or declares that it cannot; and a family that is registered here."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from models import tiny_data
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForMaskedLM,
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
from distiltune.training.checkpoints.load import load_model, save_checkpoint
from distiltune.training.checkpoints.masked_lm import language_head
from distiltune.training.compression.pruning.state import encoder_matrices
from distiltune.training.models.families import Family, base, families, family_of, find_family, register
from distiltune.training.models.families.bert import BERT, after_attention
from distiltune.training.models.first_token import first_token_in_last_layer, reads_first_token
from distiltune.training.models.structured_pruning import keep_heads, keep_rows, readers
from distiltune.training.student.layers import student_from_layers
from distiltune.training.teacher.from_scratch import train_tokenizer

LABELS = ["a", "b", "c"]
IDS = torch.tensor([[2, 9, 8, 7, 3], [2, 6, 3, 1, 1]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
CAPABILITIES = ("layers", "width", "first_token", "masked_lm")
# All that it takes to add a family: what it says here goes through layers, head, pruning and export.
ELECTRA = Family(
    model_types=("electra",),
    classifier="classifier.out_proj",
    head_reads="first_token",
    layers="encoder.layer",
    attention=BERT.attention,
    feed_forward=BERT.feed_forward,
    after_attention=after_attention,
)
PARAMS = [*families(), ELECTRA]


@pytest.fixture(params=PARAMS, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Family]:
    """A registered family; Electra is registered for the length of a test."""
    monkeypatch.setattr(base, "_FAMILIES", dict(base._FAMILIES))
    if request.param is ELECTRA:
        register(ELECTRA)
    yield request.param


def config_of(family: Family):
    """The configuration of a tiny model; BERT's names of the sizes are known to the other families."""
    return CONFIG_MAPPING[family.name](
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        **{family.intermediate_size: 24},
        max_position_embeddings=20,
        pad_token_id=1,
        type_vocab_size=1,
        initializer_range=0.3,
        id2label=dict(enumerate(LABELS)),
        label2id={name: number for number, name in enumerate(LABELS)},
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


def test_its_parts_are_where_it_says(family: Family) -> None:
    model = tiny(family)
    assert family_of(model) is family_of(model.config) is family
    assert model.base_model.get_submodule(family.word_embeddings) is model.get_input_embeddings()
    assert getattr(model.config, family.intermediate_size) == 24
    if family.layers is None:
        return
    assert len(family.layers_of(model)) == 3
    for layer in family.layers_of(model):
        if family.attention is not None:
            core = layer.get_submodule(family.attention.module)
            assert [core.get_submodule(name).weight.shape for name in family.attention.projections] == [
                (16, 16)
            ] * 3
            assert layer.get_submodule(family.attention.output).weight.shape == (16, 16)
            assert layer.get_submodule(family.attention.norm).weight.shape == (16,)
        if family.feed_forward is not None:
            assert layer.get_submodule(family.feed_forward.first).weight.shape == (24, 16)
            assert layer.get_submodule(family.feed_forward.second).weight.shape == (16, 24)
            assert layer.get_submodule(family.feed_forward.norm).weight.shape == (16,)


def test_layers_are_taken_or_refused(family: Family) -> None:
    model = tiny(family)
    if not family.supports("layers"):
        with pytest.raises(ModelError, match=rf"student\.layers: '{family.name}'"):
            student_from_layers(model, [0, 2], "student.layers")
        return
    student = student_from_layers(model, [0, 2])
    del family.layers_of(model)[1]
    torch.testing.assert_close(logits_of(student), logits_of(model), atol=0, rtol=0)
    # Six matrices a layer of these families, and no other parameter of theirs is a matrix.
    shapes = sorted(tuple(each.shape) for each in encoder_matrices(student).values())
    assert shapes == sorted(2 * [*[(16, 16)] * 4, (24, 16), (16, 24)])


def test_width_is_cut_and_comes_back_from_a_checkpoint(family: Family, tmp_path: Path) -> None:
    model = tiny(family)
    if not family.supports("width"):
        with pytest.raises(ModelError, match=rf"student\.width: '{family.name}'"):
            keep_heads(model, [[0]] * 3)
        return
    heads, rows = [[0, 2, 3]] * 3, [list(range(3, 20))] * 3
    # What is cut contributes nothing, so that nothing changes.
    for output, second in readers(model):
        output.weight.data[:, 4:8] = 0
        second.weight.data[:, [0, 1, 2, 20, 21, 22, 23]] = 0
    expected = logits_of(model)
    keep_heads(model, heads)
    keep_rows(model, rows)
    torch.testing.assert_close(logits_of(model), expected, atol=1e-5, rtol=1e-4)
    save_checkpoint(model, train_tokenizer([text for text, _ in tiny_data()], vocab_size=40), tmp_path)
    loaded = load_model(tmp_path)
    torch.testing.assert_close(logits_of(loaded), logits_of(model), atol=0, rtol=0)
    assert reads_first_token(loaded) is reads_first_token(model) is family.supports("first_token")


def test_the_head_is_found_and_its_rows_permuted(family: Family) -> None:
    model = tiny(family)
    assert head_of(model) is model.get_submodule(family.classifier)
    before = logits_of(model)
    match_labels(model, ["c", "a", "b"])
    torch.testing.assert_close(logits_of(model), before[:, [2, 0, 1]], atol=0, rtol=0)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_first_token_is_enough_where_it_says_so(family: Family, attention: str) -> None:
    model = tiny(family)
    model.set_attn_implementation(attention)
    logits = model(input_ids=IDS, attention_mask=MASK).logits
    logits.square().sum().backward()
    gradients = {name: each.grad for name, each in model.named_parameters()}
    model.zero_grad()
    with first_token_in_last_layer(model):
        states = model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
    assert states.hidden_states[-1].shape[1] == (1 if family.supports("first_token") else 5)
    states.logits.square().sum().backward()
    torch.testing.assert_close(states.logits, logits, atol=1e-6, rtol=1e-5)
    for name, each in model.named_parameters():
        if each.grad is not None or gradients[name] is not None:
            torch.testing.assert_close(each.grad, gradients[name], atol=1e-5, rtol=1e-4, msg=name)


def test_a_head_that_reads_every_token_gets_them(family: Family) -> None:
    stock = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config_of(family))]
    derived = type("Pooling", (stock,), {})(config_of(family))
    tokens = AutoModelForTokenClassification.from_config(config_of(family))
    for model in (derived, tokens, tiny(family).base_model):
        assert not reads_first_token(model)
        with first_token_in_last_layer(model.eval()):
            found = model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
        assert found.hidden_states[-1].shape[1] == 5


def test_the_masked_language_head_is_found_or_declared_unsupported(family: Family) -> None:
    model = tiny(family, AutoModelForMaskedLM)
    if not family.supports("masked_lm"):
        with pytest.raises(ModelError, match=rf"student\.pretraining: '{family.name}'"):
            language_head(model)
        return
    with torch.no_grad():
        states = model.base_model(input_ids=IDS, attention_mask=MASK)[0]
        torch.testing.assert_close(language_head(model)(states), logits_of(model), atol=1e-6, rtol=1e-5)


def test_positions_are_bound_by_the_table(family: Family) -> None:
    model = tiny(family)
    most = 20 - base.first_position(model)
    assert most == (18 if family.positions_after_padding else 20)
    model(input_ids=torch.full((1, most), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, most + 1), 5))


# tests/test_export.py exports the others among the fast tests, and counts the names.
@pytest.mark.parametrize(
    "family",
    [*(pytest.param(each, marks=pytest.mark.slow, id=each.name) for each in families()), ELECTRA],
    ids=lambda family: family.name,
    indirect=True,
)
def test_every_weight_of_the_exported_graph_has_a_name_and_its_logits_are_the_models(
    family: Family, tmp_path: Path
) -> None:
    model = tiny(family)
    export_onnx(model, tmp_path / "model.onnx", max_length=8)
    graph = onnx.load(str(tmp_path / "model.onnx")).graph
    found = onnx_logits(tmp_path / "model.onnx")(IDS.numpy(), MASK.numpy())
    torch.testing.assert_close(torch.from_numpy(found), logits_of(model), atol=1e-5, rtol=1e-4)
    products = products_by_part(graph)
    assert not [part for part in products if part.group == OTHER]
    for layer in range(3):
        assert len(products[Part("query, key, value", ATTENTION, layer)]) == 3
        for name in ("attention output", "feed-forward in", "feed-forward out"):
            [part] = [each for each in products if (each.name, each.layer) == (name, layer)]
            assert len(products[part]) == 1
    assert [part.name for part in products if part.layer is None][-1] == "classifier"
    sizes = [each.dims[0] for each in graph.initializer if "position_embeddings" in each.name]
    assert sizes == [8 + base.first_position(model)], "the positions that a text of max_length reaches"


def test_every_parameter_of_the_model_is_of_a_part(family: Family) -> None:
    assert not [name for name in tiny(family).state_dict() if part_of(name) is None]


# ---- The registry ---------------------------------------------------------------------------------------


def test_a_family_declares_what_it_does_not_support(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_FAMILIES", {})
    bare = register(
        Family(model_types=("electra",), classifier="classifier.out_proj", head_reads="every_token")
    )
    assert [bare.supports(each) for each in CAPABILITIES] == [False] * 4
    config = config_of(bare)
    for needs in CAPABILITIES:
        with pytest.raises(ModelError, match=r"student\.x: 'electra' given"):
            family_of(config, "student.x", needs)
    assert family_of(config) is bare
    every = replace(ELECTRA, head_reads="every_token")
    assert every.supports("width") and not every.supports("first_token")
    assert not replace(ELECTRA, feed_forward=None).supports("width")
    assert not replace(ELECTRA, layers=None).supports("first_token")


def test_what_is_exported_of_a_head_that_reads_every_token_is_the_whole_layer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "_FAMILIES", {})
    every = register(replace(ELECTRA, head_reads="every_token"))
    model = tiny(every)
    whole = type(every.layers_of(model)[-1])
    assert not reads_first_token(model)
    with first_token_in_last_layer(model):
        assert model(input_ids=IDS, output_hidden_states=True).hidden_states[-1].shape[1] == 5
    assert type(every.layers_of(inference_form(model))[-1]) is whole
    monkeypatch.setattr(base, "_FAMILIES", {})
    register(ELECTRA)
    assert type(ELECTRA.layers_of(inference_form(model))[-1]) is not whole
    # A class of one's own, under a name of transformers', may read more than its head says.
    model.__class__ = type(type(model).__name__, (type(model),), {})
    assert type(ELECTRA.layers_of(inference_form(model))[-1]) is whole


def test_a_family_that_is_not_registered_is_refused_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = config_of(ELECTRA)
    assert find_family(config) is None
    with pytest.raises(ModelError, match=r"^teacher: 'electra' given.*: bert, distilbert, roberta;"):
        family_of(config, "teacher")
    with pytest.raises(ValueError, match="model_types: 'bert'"):
        register(replace(ELECTRA, model_types=("electra", "bert")))
    assert find_family(config) is None, "nothing is half registered"
    monkeypatch.setattr(base, "_FAMILIES", dict(base._FAMILIES))
    register(ELECTRA)
    with pytest.raises(ModelError, match=r"^teacher: 'gpt2' given.*: bert, distilbert, electra, roberta;"):
        family_of(CONFIG_MAPPING["gpt2"](), "teacher")
    with pytest.raises(
        ModelError, match=r"^student\.pretraining: 'electra' given.*: bert, distilbert, roberta;"
    ):
        family_of(config, "student.pretraining", "masked_lm")


@pytest.mark.parametrize("model_type", ["xlm-roberta", "mpnet"])
def test_positions_of_an_unregistered_family_begin_behind_its_padding_row(model_type: str) -> None:
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
