"""One text has a code path of its own, whose answers equal those of a batch of one in every bit."""

import json
import random
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
import tokenizers
from artifacts import LABELS, MAX_LENGTH, PIECES, TEXTS, WORDS, tiny_artifact, tiny_graph
from onnx import TensorProto, helper, numpy_helper
from tokenizers import models, pre_tokenizers, processors

from distiltune.errors import ArtifactError, InputError
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.runtime.profile import PROFILED
from distiltune.export.runtime.scores import SCORES, Threshold, margins
from distiltune.export.runtime.session.feeds import Feeds
from distiltune.export.runtime.tasks import DECODERS

BLANK = ["", " ", "\n\t", "\u3000", "\x1c\x1d", "\u00a0"]
ODD = [
    "open",
    " open ",
    "OPEN Early",
    "aé\u0301",
    "ελ",
    "мир",
    "سلام",
    "שלום",
    "नमस्ते",
    "ไทย",
    "漢字",
    "한글",
    "🙂",
    "a\0b",
    "\u200b",
]
LONG = ["open early red " * 40, "x" * 500 + " late", "x" * 70_000]


def drawn_texts(count: int) -> list[str]:
    rng = random.Random(0)
    return [
        " ".join(rng.choices([*WORDS, "x", "unable"], k=rng.randint(1, MAX_LENGTH + 4))) for _ in range(count)
    ]


EVERY = [*TEXTS, *BLANK, *ODD, *LONG, *drawn_texts(15)]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_artifact(tmp_path_factory.mktemp("one") / "artifact")


@pytest.fixture
def classifier(artifact: Path) -> TextClassifier:
    return TextClassifier.load(artifact)


def check_same(classifier: TextClassifier, texts: list[str] = EVERY) -> None:
    for text in texts:
        for options in ({}, {"top_k": 2}):
            assert classifier(text, **options) == classifier([text], **options)[0], text[:60]
        assert list(classifier(text)) == list(classifier([text])[0])


@pytest.mark.parametrize("temperature", [1.0, 0.02, 3.3])
def test_it_answers_as_a_batch_of_one_at_every_temperature(
    classifier: TextClassifier, temperature: float
) -> None:
    classifier.temperature = temperature
    check_same(classifier)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("label", ["none of these", LABELS[1]])
def test_it_answers_as_a_batch_of_one_under_every_threshold(
    classifier: TextClassifier, score, label: str
) -> None:
    found = SCORES[score](classifier.logits(TEXTS + ODD))
    classifier.temperature = 1.7
    rejected = set()
    for value in (-1e9, *found[:2], float(np.median(found)), np.nextafter(found[0], np.inf), 1e9):
        classifier.threshold = Threshold(score, float(value), label)
        check_same(classifier, TEXTS + ODD + BLANK)
        rejected.add(sum(classifier(text)["label"] == "none of these" for text in TEXTS + ODD))
    assert label != "none of these" or len(rejected) > 2


def test_it_answers_as_a_batch_of_one_under_a_margin(classifier: TextClassifier) -> None:
    found = margins(classifier.logits(TEXTS + ODD), 1, 0.4)
    classifier.temperature = 1.7
    for value in (-1e9, *found[:2], float(np.median(found)), np.nextafter(found[0], np.inf), 1e9):
        classifier.threshold = Threshold("margin", float(value), LABELS[1], 0.4, 1)
        check_same(classifier, TEXTS + ODD + BLANK)


# --- decoders

LABEL_NAMES = [f"label {number}" for number in range(150)]


def rows_of_logits(size: int = 150) -> list[np.ndarray]:
    """Return rows of different spreads, with ties from rounding, and with extremes."""
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=size) * spread for spread in (1e-9, 1e-7, 0.01, 1, 5, 30, 1000) for _ in range(8)]
    near = np.zeros(size)
    near[[7, 90]] = 1e-9, 2e-9  # the largest is not the first of those with the largest probability
    extremes = np.zeros(size)
    extremes[3], extremes[5] = 3e38, -3e38
    rows += [near, np.zeros(size), np.full(size, -7.5), -extremes / 16, extremes / 16]
    return [row.astype(np.float32) for row in rows]


@pytest.mark.parametrize("name", [name for name, each in DECODERS.items() if not each.of_windows])
@pytest.mark.parametrize("temperature", [1.0, 0.3, 50.0])
def test_every_decoder_decodes_one_row_as_it_decodes_several(name: str, temperature: float) -> None:
    decoder, labels = DECODERS[name], LABEL_NAMES
    rows = rows_of_logits(decoder.num_outputs(labels))
    thresholds: list[Threshold | None] = [None]
    if name == "single_label":  # the thresholds of several labels have another type
        thresholds += [
            Threshold(score, value, label)
            for score in SCORES
            for value in (0.01, 0.5, 2.0, 5.5)
            for label in ("label 7", "none")
        ]
        thresholds += [Threshold("margin", value, "label 7", 0.4, 7) for value in (0.01, 0.5, 2.0, 5.5)]
    for threshold in thresholds:
        together = decoder.decode(np.stack(rows), labels, threshold, temperature)
        for row, expected in zip(rows, together, strict=True):
            assert decoder.decode_one(row, labels, threshold, temperature) == expected
            assert decoder.decode(row[None], labels, threshold, temperature) == [expected]


@pytest.mark.parametrize("score", SCORES)
def test_a_text_at_its_threshold_is_rejected_as_among_several(score) -> None:
    for row in rows_of_logits():
        [value] = SCORES[score](row[None]).tolist()
        for near in (value, np.nextafter(value, -np.inf), np.nextafter(value, np.inf), value + 1e-9):
            threshold = Threshold(score, float(near), "none")
            assert threshold.refuses_one(row, row.max()) == threshold.refuses(row[None])[0]
        assert Threshold(score, float(np.nextafter(value, np.inf)), "none").refuses_one(row, row.max())
        assert not Threshold(score, value, "none").refuses_one(row, row.max())


@pytest.mark.parametrize("weight", [0.0, 0.35, 1.0])
@pytest.mark.parametrize("output", [0, 3, 149])
def test_a_margin_of_one_text_is_exactly_that_among_several(weight: float, output: int) -> None:
    drawn = np.random.default_rng(1).normal(size=(200, 150)).astype(np.float32)
    for row in [*rows_of_logits(), *drawn, *np.round(drawn)]:  # rounded: with ties, also for the largest
        [value] = margins(row[None], output, weight).tolist()
        for near in (value, np.nextafter(value, -np.inf), np.nextafter(value, np.inf)):
            threshold = Threshold("margin", float(near), "label", weight, output)
            refused = threshold.refuses_one(row, row.max())
            assert refused == threshold.refuses(row[None])[0] == (value < near)


def test_a_threshold_is_not_rounded_to_the_precision_of_the_logits() -> None:
    row = np.array([7.1, -1e4, -1e4], np.float32)
    just_above = float(row[0]) + 1e-8  # the same 32-bit number
    assert np.float32(just_above) == row[0]
    for score in ("energy", "max_logit"):
        assert Threshold(score, just_above, "none").refuses_one(row, row[0])


# --- inputs


def encoder(*, adds: bool = True) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(
        models.WordPiece({piece: number for number, piece in enumerate(PIECES)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    if adds:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A:0 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return tokenizer


INPUTS = {
    "ids": {"input_ids": np.int64},
    "ids of 32 bits": {"input_ids": np.int32},
    "mask": {"input_ids": np.int64, "attention_mask": np.int64},
    "mask of 32 bits": {"input_ids": np.int64, "attention_mask": np.int32},
    "all": {"input_ids": np.int64, "attention_mask": np.int64, "token_type_ids": np.int64},
    "types alone": {"input_ids": np.int32, "token_type_ids": np.int32},
}


@pytest.mark.parametrize("types", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("adds", [True, False])
def test_a_graph_is_given_what_it_declares(types: dict, adds: bool) -> None:
    feeds, tokenizer = Feeds(types, 0), encoder(adds=adds)
    for text in ["open", "", *TEXTS, "open " * 100, "late " * 63, "late " * 700, "red"]:
        encoding = tokenizer.encode(text)
        one, several = feeds.of_text(encoding.ids, encoding.type_ids), feeds.of_batch([encoding])
        assert list(one) == list(several) == list(types)
        for name, dtype in types.items():
            assert one[name].dtype == several[name].dtype == dtype
            assert one[name].flags.c_contiguous
            np.testing.assert_array_equal(one[name], several[name])


def test_a_mask_is_kept_and_cannot_be_changed() -> None:
    feeds = Feeds(INPUTS["mask"], 0)
    first, second = (feeds.of_text([1] * 5)["attention_mask"] for _ in range(2))
    assert first is second
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 0
    assert feeds.of_text([1] * 1000)["attention_mask"].sum() == 1000
    assert feeds.of_text([1] * 5)["attention_mask"] is first


def test_an_id_beyond_the_inputs_range_is_one_line() -> None:
    feeds, tokenizer = Feeds(INPUTS["ids of 32 bits"], 0), encoder()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 4_000_000_000), ("[CLS]", 2))
    encoding = tokenizer.encode("open")
    for build in (lambda: feeds.of_text(encoding.ids), lambda: feeds.of_batch([encoding])):
        with pytest.raises(ArtifactError, match=r"ids beyond the input range of model\.onnx"):
            build()


def graph_of(*more: str) -> onnx.ModelProto:
    """Return the tiny graph with the values of further inputs added to its rows."""
    model = tiny_graph()
    gather, *rest = list(model.graph.node)
    nodes, rows = [gather], "rows"
    for name in more:
        model.graph.input.append(
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        )
        nodes.append(helper.make_node("Cast", [name], [f"float {name}"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Unsqueeze", [f"float {name}", "last"], [f"column {name}"]))
        nodes.append(helper.make_node("Add", [rows, f"column {name}"], [f"with {name}"]))
        rows = f"with {name}"
    for node in rest:
        node.input[:] = [rows if name == "rows" else name for name in node.input]
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])
    model.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "last"))
    return model


@pytest.mark.parametrize(
    "more", [("attention_mask",), ("token_type_ids",), ("attention_mask", "token_type_ids")]
)
def test_a_graph_with_more_inputs_answers_as_for_a_batch_of_one(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    artifact = tiny_artifact(tmp_path / "artifact")
    model = graph_of(*more)
    onnx.checker.check_model(model)
    onnx.save_model(model, str(artifact / "model.onnx"))
    encoder().save(str(artifact / "tokenizer.json"))
    check_same(TextClassifier.load(artifact), TEXTS + ODD + BLANK + LONG[:1])


def test_a_tokenizer_that_adds_nothing_gives_a_blank_text_one_token_of_padding(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path / "artifact")
    encoder(adds=False).save(str(artifact / "tokenizer.json"))
    classifier = TextClassifier.load(artifact)
    check_same(classifier, TEXTS + BLANK + ["\u200b"])
    assert classifier("")["blank"] is True
    assert "blank" not in classifier("open")


# --- the rest


def test_a_text_of_a_class_of_its_own_is_a_text(classifier: TextClassifier) -> None:
    class Text(str):
        __slots__ = ()

    assert classifier(Text("open early")) == classifier("open early")


@pytest.mark.parametrize("text", ["\ud800", "open \udfff"])
def test_faults_are_those_of_a_batch(classifier: TextClassifier, text: str) -> None:
    messages = []
    for given in (text, [text]):
        with pytest.raises(InputError, match="text 0 is not valid Unicode") as raised:
            classifier(given)
        messages.append(str(raised.value))
    assert len(set(messages)) == 1


def test_threads_share_a_classifier(artifact: Path) -> None:
    classifier = TextClassifier.load(artifact)
    expected = {text: classifier([text])[0] for text in EVERY}
    wrong: list[str] = []

    def classify(seed: int) -> None:
        texts = random.Random(seed).choices(TEXTS + ODD + BLANK + drawn_texts(15), k=100)
        wrong.extend(text for text in texts if classifier(text) != expected[text])

    threads = [threading.Thread(target=classify, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_where_the_time_of_a_text_goes(classifier: TextClassifier) -> None:
    found = classifier.profile(TEXTS[0], num_runs=40, num_warmups=5)
    assert set(found) == set(PROFILED)
    assert all(each > 0 for each in found.values())
    assert json.loads(json.dumps(found)) == found
    stages = sum(found[name] for name in ("tokenize", "feed", "run", "decode"))
    assert stages == pytest.approx(found["total"], rel=0.5)


def test_a_profile_ends_in_time(classifier: TextClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = []
    predictor = classifier._predictor
    classify = predictor.classify
    monkeypatch.setattr(predictor, "classify", lambda text: rounds.append(text) or classify(text))
    classifier.profile("open", num_runs=10**7, num_warmups=2, seconds=0.0)
    assert len(rounds) == 7  # two warm-ups, and five that are timed
    classifier.profile("open", num_runs=3, num_warmups=0, seconds=0.0)
    assert len(rounds) == 10


@pytest.mark.parametrize(("runs", "warmups"), [(0, 1), (-1, 1), (1, -1)])
def test_a_profile_of_no_rounds_is_refused(classifier: TextClassifier, runs: int, warmups: int) -> None:
    with pytest.raises(InputError, match=rf"num_runs is {runs} and num_warmups {warmups}"):
        classifier.profile("open", num_runs=runs, num_warmups=warmups)
    with pytest.raises(InputError, match="not valid Unicode"):
        classifier.profile("\ud800")
