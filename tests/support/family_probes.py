"""Probes of what a family's models can do: each capability works, or is refused by name with the reason."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from models import tiny_classifier, tiny_data
from tiny_families import (
    ALIKE,
    LABELS,
    TEXTS,
    TINY,
    TOPICS,
    config_of,
    tiny_checkpoint,
    tiny_model,
    tokenizer_of,
    trained_checkpoint,
)
from transformers import AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel

from distiltune.errors import ExportError, ModelError
from distiltune.export.config import ExportConfig
from distiltune.export.onnx.fusion import ATTENTION_OPS
from distiltune.export.onnx.operation_counts import count_graph
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.variants import kinds
from distiltune.export.variants.base import Source
from distiltune.export.variants.build import build_variant
from distiltune.training.checkpoints.heads import match_labels
from distiltune.training.checkpoints.inspection import inspect_checkpoint
from distiltune.training.checkpoints.load import load_classifier, load_model, save_checkpoint
from distiltune.training.checkpoints.masked_lm import check_head, language_head
from distiltune.training.data.tokenized import TokenizedSplit, tokenize_split
from distiltune.training.models.families import Capability, Family, find_family, first_position
from distiltune.training.models.first_token import first_token_in_last_layer, reads_first_token
from distiltune.training.models.inference import compute_logits
from distiltune.training.models.structured_pruning import keep_heads, keep_rows, readers
from distiltune.training.models.token_types import reads_token_types
from distiltune.training.student.build import build_student
from distiltune.training.student.config import student_config
from distiltune.training.student.kinds.base import StudentConfig
from distiltune.training.student.layers import check_layers, student_from_layers
from distiltune.training.student.piece_states import compute_states
from distiltune.training.student.pieces import piece_model
from distiltune.training.student.size_config import VocabularyConfig, WidthConfig
from distiltune.training.student.vocabulary import pieces_of, respelled, with_pieces
from distiltune.training.student.width import check_width, importance

MAX_LENGTH = 32
PAIRS = list(zip(TOPICS[:12], TOPICS[7:19], strict=True))
# Words with pieces that TOPICS do not use, and characters that no text has.
RARE = ["berlin goes to san juan", "xyz white ?", "new york's grey paris", "日本 red"]


@dataclass(frozen=True)
class Finding:
    """What was found out about a capability of a family.

    Attributes:
        works: Whether it works.
        note: Why it is refused, or a remark.
        agreement: Share of the texts for which the quantized graph predicts what the plain one does, in percent; None
            where nothing is quantized. It may differ a little between processors.
    """

    works: bool
    note: str = ""
    agreement: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value not in ("", None)}


LEAST_AGREEMENT = {"int8": 95.0, "precisions": 90.0}
"""Agreement that a probe requires, in percent."""


class Subject:
    """A tiny model of a family, in one of its forms.

    Args:
        name: Name of the family, or of another form of it.
        family: Name of the family.
        folder: An empty folder.
        fields: Fields of the configuration in which the form differs.
        graphs: Cache of the plain graphs that families of the same computation share.
    """

    def __init__(
        self,
        name: str,
        family: str,
        folder: Path,
        fields: dict[str, Any] | None = None,
        graphs: dict[tuple[str, ...], Path] | None = None,
    ) -> None:
        self.name, self.model_type, self.folder, self.fields = name, family, folder, fields or {}
        self.graphs = {} if graphs is None else graphs

    @property
    def family(self) -> Family:
        found = find_family(self.model_type)
        assert found is not None
        return found

    @property
    def tokenizer(self) -> Any:
        return tokenizer_of(self.model_type)

    def config(self, **fields: Any) -> PreTrainedConfig:
        return config_of(self.model_type, **{"names": LABELS, **self.fields, **fields})

    def model(self, **fields: Any) -> PreTrainedModel:
        """An untrained model of three layers."""
        return tiny_model(self.config(**fields))

    @cached_property
    def checkpoint(self) -> Path:
        """The same model, with its tokenizer."""
        return tiny_checkpoint(self.folder / "model", self.model_type, names=LABELS, **self.fields)

    @cached_property
    def trained(self) -> Path:
        """A model of two layers that has learned the topics."""
        return trained_checkpoint(
            self.folder / "trained", self.model_type, **{**self.fields, "num_hidden_layers": 2}
        )

    @cached_property
    def exported(self) -> Path:
        """The folder of the trained model's plain graph, whose logits the export has compared."""
        alike = ALIKE.get(self.name)
        given = {} if alike not in self.graphs else {"base_onnx": self.graphs[alike]}
        self.build("onnx", self.trained, self.folder / "onnx", **given)
        if alike is not None:
            self.graphs[alike] = self.folder / "onnx" / "model.onnx"
        return self.folder / "onnx"

    def build(self, variant: str, student: Path, folder: Path, **options: Any) -> Any:
        options = {"config": ExportConfig(), "max_length": MAX_LENGTH, **options}
        return build_variant(variant, student, folder, **options)

    def refused(self, capability: Capability, call: Callable[[], Any], key: str = "") -> Finding:
        """Check that a capability is refused with the parameter, the model type and the reason."""
        reason = self.family.why_not(capability, self.config())
        assert reason, f"{self.name}: a capability that does not work has a reason"
        with pytest.raises((ModelError, ExportError)) as refusal:
            call()
        message = str(refusal.value)
        assert reason in message and self.model_type in message and message.startswith(key), message
        return Finding(False, reason)


def rows_of(tokenizer: Any, texts: Sequence[Any]) -> dict[str, torch.Tensor]:
    """A padded batch without token types."""
    return dict(
        tokenizer(
            list(texts), padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt",
            return_token_type_ids=False,
        )
    )  # fmt: skip


def logits_of(model: Any, tokenizer: Any, texts: Sequence[Any] = TEXTS[:6]) -> torch.Tensor:
    with torch.no_grad():
        return model(**rows_of(tokenizer, texts)).logits


def bypass(model: PreTrainedModel, family: Family, layer: int) -> None:
    """Remove a layer of a model without the functions of the package."""
    if family.shared_layers and model.config.num_hidden_groups == 1:
        model.config.num_hidden_layers -= 1
        return
    del family.layers_of(model)[layer]
    model.config.num_hidden_layers -= 1
    if family.shared_layers:
        model.config.num_hidden_groups -= 1


# ---- Smaller students -------------------------------------------------------------------------------------


def depth(subject: Subject) -> Finding:
    """A student of some layers computes what the model without the others does, and can be saved."""
    model, tokenizer, family = subject.model(), subject.tokenizer, subject.family
    if not family.supports("layers", model.config):
        return subject.refused("layers", lambda: student_from_layers(model, [0, 2]), "student.layers")
    whole = logits_of(model, tokenizer)
    student = student_from_layers(model, [0, 2])
    bypass(model, family, 1)
    found = logits_of(student, tokenizer)
    torch.testing.assert_close(found, logits_of(model, tokenizer), atol=0, rtol=0)
    assert (found - whole).abs().max() > 1e-2, "the layer that is missing mattered"
    save_checkpoint(student, tokenizer, subject.folder / "shallow")
    again, _ = load_classifier(subject.folder / "shallow")
    torch.testing.assert_close(logits_of(again, tokenizer), found, atol=0, rtol=0)
    for layers in ([], [2, 0], [0, 3], [1, 1]):
        with pytest.raises(ModelError, match=r"student\.layers: "):
            check_layers(layers, subject.config(), "the teacher")
    if family.own_first_layer:
        with pytest.raises(
            ModelError, match=rf"student\.layers: \[1, 2\] given.*{family.name}.*begin with 0"
        ):
            check_layers([1, 2], subject.config(), "the teacher")
        return Finding(True, "the first layer stays the first")
    return Finding(
        True, "its layers share weights, and so do those that are kept" if family.shared_layers else ""
    )


def heads(subject: Subject) -> Finding:
    """Pruning attention heads that contribute nothing changes nothing."""
    return _cut(subject, "heads", WidthConfig(num_attention_heads=3), "student.width.num_attention_heads")


def rows(subject: Subject) -> Finding:
    """Pruning feed-forward rows that contribute nothing changes nothing."""
    return _cut(subject, "rows", WidthConfig(intermediate_size=40), "student.width.intermediate_size")


def _cut(subject: Subject, part: Any, width: WidthConfig, key: str) -> Finding:
    model, tokenizer = subject.model(), subject.tokenizer
    if not subject.family.supports(part, model.config):
        return subject.refused(part, lambda: check_width(width, model.config), key)
    check_width(width, model.config)
    modules = [pair[0 if part == "heads" else 1] for pair in readers(model)]
    kept = (
        [[0, 2, 3]] * len(modules)
        if part == "heads"
        else [sorted({*range(64)} - {*range(5, 29)})] * len(modules)
    )
    gone = torch.arange(8, 16) if part == "heads" else torch.arange(5, 29)
    for module in modules:
        module.weight.data[:, gone] = 0
    before, expected = model.num_parameters(), logits_of(model, tokenizer)
    split = tokenize_split(TOPICS[:8], [n % len(LABELS) for n in range(8)], tokenizer, MAX_LENGTH)
    scores = importance(model, split)[0 if part == "heads" else 1]
    assert scores is not None and scores.shape == (len(modules), 4 if part == "heads" else 64)
    assert [sorted(each.topk(len(kept[0])).indices.tolist()) for each in scores] == kept
    (keep_heads if part == "heads" else keep_rows)(model, kept)
    torch.testing.assert_close(logits_of(model, tokenizer), expected, atol=1e-5, rtol=1e-4)
    assert model.num_parameters() < before
    save_checkpoint(model, tokenizer, subject.folder / part)
    loaded = load_model(subject.folder / part)
    torch.testing.assert_close(logits_of(loaded, tokenizer), logits_of(model, tokenizer), atol=0, rtol=0)
    assert reads_first_token(loaded) is reads_first_token(model)
    return Finding(True)


def first_token(subject: Subject) -> Finding:
    """The last layer is computed for the first token alone, with the same logits and gradients."""
    family, config = subject.family, subject.config()
    works = family.supports("first_token", config)
    inputs = rows_of(subject.tokenizer, TEXTS[:5])
    for attention in ("sdpa", "eager"):
        model = subject.model()
        if attention == "sdpa" and not model._supports_sdpa:
            continue
        model.set_attn_implementation(attention)
        expected = model(**inputs).logits
        expected.square().sum().backward()
        gradients = {name: each.grad for name, each in model.named_parameters()}
        model.zero_grad()
        with first_token_in_last_layer(model):
            found = model(**inputs, output_hidden_states=True)
        length = inputs["input_ids"].shape[1]
        assert found.hidden_states[-1].shape[1] == (1 if works else length)
        found.logits.square().sum().backward()
        torch.testing.assert_close(found.logits, expected, atol=1e-5, rtol=1e-5)
        for name, each in model.named_parameters():
            if each.grad is not None or gradients[name] is not None:
                torch.testing.assert_close(each.grad, gradients[name], atol=1e-4, rtol=1e-3, msg=name)
    reason = family.why_not("first_token", config)
    assert works == (reason is None)
    return Finding(works, reason or "")


def masked_lm(subject: Subject) -> Finding:
    """The head of a masked-language model is found, so that a student can be pretrained."""
    config = subject.config()
    if not subject.family.supports("masked_lm", config):
        return subject.refused("masked_lm", lambda: check_head(config), "student.pretraining")
    model: Any = tiny_model(config, kind=AutoModelForMaskedLM)
    inputs = rows_of(subject.tokenizer, TEXTS[:5])
    with torch.no_grad():
        states = model.base_model(**inputs)[0]
        torch.testing.assert_close(language_head(model)(states), model(**inputs).logits, atol=1e-5, rtol=1e-4)
    return Finding(True)


def vocabulary(subject: Subject) -> Finding:
    """Pieces are removed; texts of kept pieces have the same pieces and logits, and no text becomes unknown."""
    model, tokenizer = load_classifier(subject.checkpoint)
    small, _ = load_classifier(subject.checkpoint)
    kept = pieces_of(tokenizer, VocabularyConfig(), TOPICS, [], range(first_position(model)))
    trimmed, num_rows, record = with_pieces(small, tokenizer, VocabularyConfig(), kept, TOPICS)
    assert num_rows == len(kept) == len(trimmed) < len(tokenizer) and record == {"covered_share": 1.0}
    save_checkpoint(small, trimmed, subject.folder / "trimmed")
    inspect_checkpoint(subject.folder / "trimmed", max_length=MAX_LENGTH)
    again, left = load_classifier(subject.folder / "trimmed")
    expected = logits_of(model, tokenizer, TOPICS)
    for each in (small, again):
        torch.testing.assert_close(logits_of(each, left, TOPICS), expected, atol=1e-6, rtol=1e-5)
    assert [left.tokenize(text) for text in TOPICS] == [tokenizer.tokenize(text) for text in TOPICS]
    assert any(left.tokenize(text) != tokenizer.tokenize(text) for text in RARE)
    for text in [*RARE, *_made_up()]:
        before, after = (each(text, add_special_tokens=False)["input_ids"] for each in (tokenizer, left))
        unknown = before.count(tokenizer.unk_token_id)
        assert after.count(left.unk_token_id) == unknown, text
        if not unknown:
            assert left.decode(after) == tokenizer.decode(before), text
        if set(before) <= set(kept):
            assert [kept[piece] for piece in after] == before, text
    fewer = len(kept) - 12
    small_enough = pieces_of(
        tokenizer, VocabularyConfig(size=fewer), TOPICS, [], range(first_position(model))
    )
    assert len(small_enough) <= fewer and set(small_enough) < set(kept)
    _check_masked_rows(tokenizer, left)
    return Finding(True, piece_model(tokenizer).type)


def _check_masked_rows(old: Any, new: Any) -> None:
    """Masked texts are spelled in the pieces that are left."""
    split = tokenize_split(RARE[:3], None, old, MAX_LENGTH)
    split.input_ids[split.offsets[:-1] + 1] = old.mask_token_id
    again = respelled(split, old, new, 64)
    for number in range(3):
        before, after = split.row(number).tolist(), again.row(number).tolist()
        for place in (0, 1, -1):  # the special tokens at both ends, and the mask
            names = [each.convert_ids_to_tokens(row[place]) for each, row in ((old, before), (new, after))]
            assert names[0] == names[1]
        assert new.decode(after) == old.decode(before)


def _made_up() -> Iterator[str]:
    """Words of the texts' characters in random order."""
    characters, draw = sorted({c for text in TEXTS for c in text if c != " "}), random.Random(0)
    for _ in range(60):
        yield " ".join("".join(draw.choices(characters, k=draw.randint(1, 7))) for _ in range(3))


# ---- Teachers, students, pairs ----------------------------------------------------------------------------


def teacher(subject: Subject) -> Finding:
    """It teaches students of other families: its labels are put in order, it labels, and it reads single pieces."""
    model, tokenizer = load_classifier(subject.checkpoint)
    split = tokenize_split(TEXTS, None, tokenizer, MAX_LENGTH)
    before = logits_of(model, tokenizer, TEXTS)
    names = LABELS[::-1]
    match_labels(model, names)
    pad = tokenizer.pad_token_id
    found: Any = compute_logits(model, split, pad_token_id=pad, num_threads=1, use_gpu=False)
    np.testing.assert_allclose(found, before.numpy()[:, ::-1], atol=1e-4)
    for batch_size in (1, 3):  # in other batches, with other padding
        kind: Any = {"pad_token_id": pad, "num_threads": 1, "use_gpu": False}
        other = compute_logits(model, split, batch_size=batch_size, **kind)
        np.testing.assert_allclose(other, found, atol=1e-4)
    states = compute_states(model, tokenizer, np.arange(20, 30), num_threads=1, use_gpu=False)
    assert states.shape == (10, 32) and np.ptp(states, axis=0).min() > 0
    return Finding(True)


def students(subject: Subject) -> Finding:
    """Students are built from its checkpoints: whole, shallower, narrower and with fewer pieces."""
    other = tiny_classifier(subject.folder / "other", label_names=["a", "b", "c", "d"], num_layers=1)
    source, tokenizer = load_classifier(subject.checkpoint)
    own: Any = source.base_model
    config = student_config(checkpoint=str(subject.checkpoint))
    config.check_checkpoints(str(other), max_length=MAX_LENGTH)
    record = _built(config, other, subject.folder / "whole", ["a", "b", "c", "d"])
    assert record["family"] == subject.family.name and record["num_layers"] == 3
    student, again = load_classifier(subject.folder / "whole")
    inputs = rows_of(again, TEXTS[:5])
    with torch.no_grad():
        states: Any = student.base_model
        torch.testing.assert_close(states(**inputs)[0], own(**inputs)[0], atol=1e-6, rtol=1e-5)
    counts = {"intermediate_size": 40} | (
        {"num_attention_heads": 2} if subject.family.supports("heads") else {}
    )
    config = student_config(layers=[0, 2], width=counts, vocabulary={"min_count": 1})
    config.check_shapes(subject.config(), {})
    record = _built(config, subject.checkpoint, subject.folder / "small", LABELS)
    assert (record["num_layers"], record["intermediate_size"]) == (2, 40)
    assert record["num_embeddings"] < len(tokenizer)
    inspect_checkpoint(subject.folder / "small", complete=True, max_length=MAX_LENGTH)
    student, small = load_classifier(subject.folder / "small")
    assert torch.isfinite(logits_of(student, small, [*TOPICS, *RARE])).all()
    return Finding(True)


def _built(config: StudentConfig, teacher_dir: Path, folder: Path, names: list[str]) -> dict[str, Any]:
    targets = [number % len(names) for number in range(len(TOPICS))]
    return build_student(
        config, teacher_dir, names, folder, max_length=MAX_LENGTH, texts=(TOPICS, ()), labels=targets,
        use_gpu=False,
    )  # fmt: skip


def token_types(subject: Subject) -> Finding:
    """The types of the two texts of a pair reach the model where its family has them."""
    model, tokenizer = load_classifier(subject.checkpoint)
    split = tokenize_split(PAIRS, None, tokenizer, MAX_LENGTH)
    bare = TokenizedSplit(split.input_ids, split.offsets, split.labels, split.example_ids)
    kind: Any = {"pad_token_id": tokenizer.pad_token_id, "num_threads": 1, "use_gpu": False}
    found = [compute_logits(model, each, **kind) for each in (split, bare)]
    reads = reads_token_types(model)
    assert np.allclose(found[0], found[1], atol=1e-6) is not reads
    if not reads:
        return Finding(False, "special tokens alone divide the texts of a pair")
    assert split.token_types is not None and split.token_types.max() == 1
    with torch.no_grad():
        row = split.row(0)
        types = split.types(0)
        assert types is not None
        given = {"input_ids": row, "attention_mask": np.ones_like(row), "token_type_ids": types}
        one = model(
            **{name: torch.from_numpy(np.asarray(each, np.int64))[None] for name, each in given.items()}
        )
    np.testing.assert_allclose(one.logits[0].numpy(), found[0][0], atol=1e-5)
    return Finding(True)


# ---- Exported ---------------------------------------------------------------------------------------------


def runtime(subject: Subject) -> Finding:
    """The exported graph gives PyTorch's logits, and the runtime without torch its answers."""
    model, tokenizer = load_classifier(subject.trained)
    classifier = TextClassifier.load(subject.exported)
    texts = [*TOPICS[::5], *RARE, " ".join(TOPICS)]
    expected = logits_of(model, tokenizer, texts).numpy()
    for batch_size in (1, 4):
        found = classifier.logits(texts, batch_size=batch_size)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    answers = classifier(texts)
    names = [LABELS[number] for number in expected.argmax(axis=1)]
    assert [each["label"] for each in answers] == names
    correct = [each["label"] for each in classifier(TOPICS)] == [label for _, label in tiny_data()]
    assert correct, "it has learned its texts"
    counted = count_graph(subject.exported / "model.onnx", batch_size=1, num_tokens=8)
    assert counted.weight_bytes > 0 and counted.embedding_bytes > 0 and counted.float_operations > 0
    return Finding(True)


def int8(subject: Subject) -> Finding:
    """The dynamic int8 graph predicts what the 32-bit one does, after some steps of training."""
    made = subject.folder / "onnx-int8"
    graph = subject.exported / "model.onnx"
    record = subject.build("onnx-int8", subject.trained, made, base_onnx=graph)
    assert record.max_abs_diff > 0
    plain, quantized = (onnx.load(str(folder / "model.onnx")).graph for folder in (subject.exported, made))
    weights = {each.name for each in plain.initializer}
    products = [
        each for each in plain.node if each.op_type in ("MatMul", "Gemm") and each.input[1] in weights
    ]
    assert sum(each.op_type.startswith("MatMulInteger") for each in quantized.node) == len(products)
    texts = [*TOPICS, *RARE]
    whole, small = (
        TextClassifier.load(each).logits(texts).argmax(axis=1) for each in (subject.exported, made)
    )
    agreement = 100 * float((whole == small).mean())
    assert agreement >= LEAST_AGREEMENT["int8"]
    return Finding(True, agreement=round(agreement, 1))


def precisions(subject: Subject) -> Finding:
    """The other variants of the plain graph are made and stay within their tolerances."""
    graph = subject.exported / "model.onnx"
    expected = TextClassifier.load(subject.exported).logits(TOPICS).argmax(axis=1)
    agreements = []
    for name in ("onnx-int8-per-channel", "onnx-static-minmax", "onnx-weights-8bit", "onnx-weights-4bit"):
        made = subject.folder / name
        subject.build(name, subject.trained, made, base_onnx=graph, training_texts=TOPICS)
        predicted = TextClassifier.load(made).logits(TOPICS).argmax(axis=1)
        agreements.append(100 * float((predicted == expected).mean()))
        assert agreements[-1] >= LEAST_AGREEMENT["precisions"], name
    options: dict[str, Any] = {"base_onnx": graph, "training_texts": TOPICS}
    whole = subject.build(
        "onnx-int8",
        subject.trained,
        subject.folder / "parts",
        config=ExportConfig(sensitivity=True),
        **options,
    )
    parts = whole.graph.sensitivity
    assert parts and {each.group for each in parts} >= {"attention", "feed-forward", "word embeddings"}
    return Finding(True, agreement=round(min(agreements), 1))


def fused(subject: Subject) -> Finding:
    """Attention is fused, and the graph has the same logits; or a fused variant is refused before anything is made."""
    family, student = subject.family, subject.checkpoint
    if not family.supports("fused_attention", subject.config()):
        names = [each.name for each in kinds.variants() if each.source is Source.FUSED_GRAPH]
        assert set(names) <= set(kinds.inapplicable(kinds.names(), {"model_type": subject.model_type}))
        found = subject.refused(
            "fused_attention",
            lambda: subject.build("onnx-fused", student, subject.folder / "fused"),
            "onnx-fused",
        )
        assert not (subject.folder / "fused").exists()
        return found
    record = subject.build("onnx-fused", student, subject.folder / "fused")
    assert record.fused is not None and sum(record.fused[op] for op in ATTENTION_OPS) == 3, record.fused
    assert record.max_abs_diff < 1e-4
    counts = count_graph(subject.folder / "fused" / "model.onnx", batch_size=1, num_tokens=8)
    assert counts.float_operations > 0
    return Finding(True)


def pair_graphs(subject: Subject) -> Finding:
    """A graph of pairs has token types as an input where the family reads them, with PyTorch's logits."""
    model, tokenizer = load_classifier(subject.trained)
    folder = subject.folder / "pairs"
    subject.build("onnx", subject.trained, folder, takes_pairs=True)
    has_types = reads_token_types(model)
    graph = onnx.load(str(folder / "model.onnx"), load_external_data=False).graph
    assert ("token_type_ids" in {each.name for each in graph.input}) is has_types
    classifier, split = TextClassifier.load(folder), tokenize_split(PAIRS, None, tokenizer, MAX_LENGTH)
    kind: Any = {"pad_token_id": tokenizer.pad_token_id, "num_threads": 1, "use_gpu": False}
    np.testing.assert_allclose(classifier.logits(PAIRS), compute_logits(model, split, **kind), atol=1e-4)
    return Finding(True)


@dataclass(frozen=True)
class Probe:
    """A capability, as a column of the page.

    Attributes:
        title: Its title there.
        run: Tries it on a subject; fails where something is computed wrongly.
        means: One sentence for the page.
        is_slow: Whether it needs one or several exports of its own.
    """

    title: str
    run: Callable[[Subject], Finding]
    means: str
    is_slow: bool = False


PROBES: dict[str, Probe] = {
    "teacher": Probe("teacher", teacher, "teaches students of any family, labels texts"),
    "students": Probe(
        "student", students, "`student.layers` of a teacher, or `student.checkpoint`, trained and saved"
    ),
    "depth": Probe("layers", depth, "`student.layers`: some of the layers"),
    "heads": Probe("heads", heads, "`student.width.num_attention_heads`: fewer attention heads"),
    "rows": Probe("rows", rows, "`student.width.intermediate_size`: fewer feed-forward rows"),
    "vocabulary": Probe(
        "fewer pieces", vocabulary, "`student.vocabulary`, by the kind of the tokenizer's model"
    ),
    "masked_lm": Probe("pretraining", masked_lm, "`student.pretraining` with its masked-language head"),
    "first_token": Probe(
        "first token",
        first_token,
        "the last layer is computed for the token that the head reads, which is faster",
    ),
    "token_types": Probe("token types", token_types, "tell the texts of a pair apart"),
    "runtime": Probe("exported", runtime, "as ONNX, with PyTorch's logits in the runtime without torch"),
    "int8": Probe(
        "int8",
        int8,
        "dynamic 8 bits, and how many of its predictions are those of 32 bits, at least 95 %",
    ),
    "precisions": Probe(
        "other precisions",
        precisions,
        "per channel, static 8 bits, weights of 8 and 4 bits, and the lowest such share, at least 90 %",
        is_slow=True,
    ),
    "pair_graphs": Probe(
        "pairs exported", pair_graphs, "graphs of pairs, with token types where it has them", is_slow=True
    ),
    "fused": Probe("fused attention", fused, "the variants `onnx-fused…`", is_slow=True),
}


def with_other_form(name: str, family: str, fields: dict[str, Any], folder: Path) -> Subject:
    """A subject of another form, with its fields in addition to those of the family's tiny model."""
    return Subject(name, family, folder, {**TINY[family].fields, **fields})
