"""Errors and wrong results of ONNX Runtime and tokenizers are reported as one line of this package."""

import json
import os
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tokenizers
from artifacts import LABELS, PIECES, TEXTS, tiny_artifact, tiny_graph
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from distiltune.errors import ArtifactError, DistiltuneError, InputError
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.runtime.scores import Threshold


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return tiny_artifact(tmp_path / "artifact")


def refused(artifact: Path, *names: str) -> str:
    """Load an artifact that is rejected, and return the message, which contains each name."""
    with pytest.raises(ArtifactError) as raised:
        TextClassifier.load(artifact)
    return checked(raised.value, *names)


def checked(error: DistiltuneError, *names: str) -> str:
    message = str(error)
    assert "\n" not in message
    assert len(re.sub(r"/\S*/", "", message)) < 450, message
    for name in names:
        assert name in message, message
    return message


# --- graphs


def saved(artifact: Path, graph: onnx.ModelProto) -> None:
    (artifact / "model.onnx").write_bytes(graph.SerializeToString())


def changed_graph(change) -> onnx.ModelProto:
    model = tiny_graph()
    change(model)
    return model


def with_output(dtype: int, shape: list, *nodes: onnx.NodeProto, more: int = 0) -> onnx.ModelProto:
    """Return the tiny graph with its logits passed through ``nodes`` to ``out``, and ``more`` further outputs."""
    model = tiny_graph()
    model.graph.node.extend(nodes)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("out", dtype, shape))
    for number in range(more):
        model.graph.node.append(helper.make_node("Identity", ["logits"], [f"more{number}"]))
        model.graph.output.append(helper.make_tensor_value_info(f"more{number}", TensorProto.FLOAT, None))
    return model


def with_input(dtype: int, shape: list | None, name: str = "input_ids") -> onnx.ModelProto:
    model = tiny_graph()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info(name, dtype, shape))
    model.graph.node[0].input[1] = name
    return model


def with_node(node: onnx.NodeProto, *domains: onnx.OperatorSetIdProto) -> onnx.ModelProto:
    model = with_output(TensorProto.FLOAT, ["b", 3], node)
    model.opset_import.extend(domains)
    return model


def with_weight(value: float) -> onnx.ModelProto:
    model = tiny_graph()
    (outer,) = (each for each in model.graph.initializer if each.name == "outer")
    values = numpy_helper.to_array(outer).copy()
    values[:, 1] = value
    outer.CopyFrom(numpy_helper.from_array(values, "outer"))
    return model


def node(kind: str, **attributes) -> onnx.NodeProto:
    return helper.make_node(kind, ["logits"], ["out"], **attributes)


ROWS = numpy_helper.from_array(np.array([-1]), "flat")
GRAPHS = {
    "no output": changed_graph(lambda model: model.graph.ClearField("output")),
    "two outputs": with_output(TensorProto.FLOAT, ["b", 3], node("Identity"), more=1),
    "output of rank 1": with_output(TensorProto.FLOAT, ["b"], node("ReduceMean", keepdims=0)),
    "output of undeclared rank 0": with_output(TensorProto.FLOAT, [], node("ReduceMean", keepdims=0)),
    "integer output": with_output(TensorProto.INT64, ["b", 3], node("Cast", to=TensorProto.INT64)),
    "string output": with_output(TensorProto.STRING, ["b", 3], node("Cast", to=TensorProto.STRING)),
    "sequence output": changed_graph(
        lambda model: (
            model.graph.node.append(node("SequenceConstruct")),
            model.graph.output[0].CopyFrom(
                helper.make_tensor_sequence_value_info("out", TensorProto.FLOAT, None)
            ),
        )
    ),
    "other number of labels": with_output(
        TensorProto.FLOAT, ["b", 6], helper.make_node("Concat", ["logits", "logits"], ["out"], axis=1)
    ),
    "other number of labels, undeclared": with_output(
        TensorProto.FLOAT, ["b", "c"], helper.make_node("Concat", ["logits", "logits"], ["out"], axis=1)
    ),
    "one row for all": with_output(TensorProto.FLOAT, ["b", 3], node("ReduceMean", keepdims=1)),
    "fixed length": with_input(TensorProto.INT64, [1, 128]),
    "fixed batch": with_input(TensorProto.INT64, [1, "sequence"]),
    "input of rank 1": with_input(TensorProto.INT64, ["sequence"]),
    "input of rank 3": with_input(TensorProto.INT64, ["a", "b", "c"]),
    "string input": with_input(TensorProto.STRING, ["b", "s"]),
    "float input": with_input(TensorProto.FLOAT, ["b", "s"]),
    "input of another name": with_input(TensorProto.INT64, ["b", "s"], "tokens"),
    "unknown domain": with_node(node("Foo", domain="my.ops"), helper.make_opsetid("my.ops", 1)),
    "unknown operator": with_node(node("Foo")),
    "later operators": changed_graph(lambda model: setattr(model.opset_import[0], "version", 99)),
    "later format": changed_graph(lambda model: setattr(model, "ir_version", 99)),
    "out of memory": changed_graph(
        lambda model: (
            model.graph.initializer.append(numpy_helper.from_array(np.array([2**20, 2**24]), "huge")),
            model.graph.node.append(helper.make_node("ConstantOfShape", ["huge"], ["zeros"])),
            model.graph.node.append(helper.make_node("ReduceMax", ["zeros"], ["largest"], keepdims=0)),
            model.graph.node.append(helper.make_node("Add", ["logits", "largest"], ["out"])),
            model.graph.output[0].CopyFrom(helper.make_tensor_value_info("out", TensorProto.FLOAT, ["b", 3])),
        )
    ),
    "smaller table": changed_graph(
        lambda model: model.graph.initializer[0].CopyFrom(
            numpy_helper.from_array(np.ones((len(PIECES) - 1, 16), np.float32), "table")
        )
    ),
    "NaN weights": with_weight(np.nan),
    "infinite weights": with_weight(np.inf),
}


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_a_graph_that_is_no_classifier_is_refused_when_it_is_loaded(
    artifact: Path, graph: onnx.ModelProto, capfd: pytest.CaptureFixture[str]
) -> None:
    saved(artifact, graph)
    refused(artifact, "model.onnx")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("location", ["/etc/passwd", "../outside", "../../../../etc/passwd", "absent", ""])
def test_weights_outside_the_folder_are_not_read(artifact: Path, location: str) -> None:
    model = tiny_graph()
    (artifact.parent / "outside").write_bytes(bytes(4096))
    set_external_data(model.graph.initializer[0], location)
    model.graph.initializer[0].ClearField("raw_data")
    saved(artifact, model)
    refused(artifact, "model.onnx")


def test_weights_beside_the_model_are_read(artifact: Path) -> None:
    expected = TextClassifier.load(artifact).logits(TEXTS)
    model = tiny_graph()
    onnx.save_model(
        model,
        str(artifact / "model.onnx"),
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=512,
    )
    np.testing.assert_array_equal(TextClassifier.load(artifact).logits(TEXTS), expected)


@pytest.mark.parametrize("content", [b"", b"\0", b"no model", tiny_graph().SerializeToString()[:-100]])
def test_a_file_that_is_no_graph_is_refused(artifact: Path, content: bytes) -> None:
    (artifact / "model.onnx").write_bytes(content)
    refused(artifact, "model.onnx")


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "distiltune.json"])
@pytest.mark.parametrize("kind", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_is_not_a_file_is_refused_at_once(artifact: Path, name: str, kind) -> None:
    (artifact / name).unlink()
    kind(artifact / name)
    refused(artifact, name)


@pytest.mark.parametrize("folder", ["absent", "distiltune.json", "x" * 300, "a\0b"])
def test_a_folder_that_is_none_is_refused(artifact: Path, folder: str) -> None:
    refused(artifact / folder)


def test_logits_of_one_text_that_are_not_finite_are_not_an_answer(artifact: Path) -> None:
    model = tiny_graph()
    table = numpy_helper.to_array(model.graph.initializer[0]).copy()
    table[PIECES.index("red")] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(table, "table"))
    saved(artifact, model)
    classifier = TextClassifier.load(artifact)
    assert classifier("open")["label"] in LABELS
    for texts in ("open red", ["open", "open red"]):
        with pytest.raises(ArtifactError, match="not finite") as raised:
            classifier(texts)
        checked(raised.value, "model.onnx")


@pytest.mark.parametrize("large", [3e38, 1e30])
def test_large_logits_are_finite(artifact: Path, large: float) -> None:
    model = tiny_graph()
    model.graph.initializer.append(numpy_helper.from_array(np.array([large, 0, 0], np.float32), "large"))
    model.graph.node.append(helper.make_node("Add", ["logits", "large"], ["out"]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("out", TensorProto.FLOAT, ["b", 3]))
    saved(artifact, model)
    assert TextClassifier.load(artifact)("open") == {"label": "first", "score": 1.0}


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_logits_of_another_precision_are_answers(artifact: Path, dtype: int) -> None:
    expected = TextClassifier.load(artifact).logits(TEXTS)
    alone = TextClassifier.load(artifact).logits(TEXTS[:1])
    saved(artifact, with_output(dtype, ["b", 3], node("Cast", to=dtype)))
    classifier = TextClassifier.load(artifact)
    for texts, logits in ((TEXTS, expected), (TEXTS[:1], alone)):
        assert classifier.logits(texts).dtype == np.float32
        np.testing.assert_allclose(classifier.logits(texts), logits, rtol=2e-3)


def test_an_id_beyond_the_table_is_named_when_a_text_has_it(artifact: Path) -> None:
    edit_tokenizer(artifact, lambda given: given["model"]["vocab"].update({"rare": 99}))
    classifier = TextClassifier.load(artifact)
    assert classifier("open")["label"] in LABELS
    with pytest.raises(ArtifactError, match=r"idx=99.*range \[-12,11\]") as raised:
        classifier(["open", "rare"])
    checked(raised.value, "model.onnx")


# --- tokenizers


def edit_tokenizer(artifact: Path, change) -> None:
    path = artifact / "tokenizer.json"
    given = json.loads(path.read_text())
    change(given)
    path.write_text(json.dumps(given))


def template(*pieces: dict) -> dict:
    return {"type": "TemplateProcessing", "single": list(pieces), "pair": [], "special_tokens": {}}


def vocabulary(**pieces: int) -> dict:
    return {"vocab": {"[UNK]": 1, **pieces}}


TOKENIZERS = {
    "a list": lambda given: given.clear(),
    "no model": lambda given: given.update(model=None),
    "negative id": lambda given: given["model"].update(vocabulary(a=-1)),
    "no unknown token": lambda given: given["model"].update(unk_token="[NO]"),
    "no vocabulary": lambda given: given["model"].update(vocab={}),
    "normalizer that panics": lambda given: given.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    ),
    "normalizer that is no base64": lambda given: given.update(
        normalizer={"type": "Precompiled", "precompiled_charsmap": "!!"}
    ),
    "expression": lambda given: given.update(
        normalizer={"type": "Replace", "pattern": {"Regex": "("}, "content": ""}
    ),
    "template that panics": lambda given: given.update(
        post_processor=template({"SpecialToken": {"id": "[NO]", "type_id": 0}})
    ),
    "template of a second text": lambda given: given.update(
        post_processor=template({"Sequence": {"id": "B", "type_id": 0}})
    ),
    "ids beyond the table": lambda given: given["model"]["vocab"].update({"[NEW]": len(PIECES)}),
    "an added token beyond the table": lambda given: given["added_tokens"].append(
        {
            "id": len(PIECES),
            "content": "[NEW]",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
    ),
    "special tokens beyond the table": lambda given: given["post_processor"].update(
        sep=["[SEP]", 4_000_000_000]
    ),
}


@pytest.mark.parametrize("change", TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_tokenizer_that_fails_is_refused_when_it_is_loaded(artifact: Path, change) -> None:
    edit_tokenizer(artifact, change)
    refused(artifact, "tokenizer.json")


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[]", b"null", b"[" * 100_000, b"\0"])
def test_a_file_that_is_no_tokenizer_is_refused(artifact: Path, content: bytes) -> None:
    (artifact / "tokenizer.json").write_bytes(content)
    refused(artifact, "tokenizer.json")


def test_special_tokens_that_leave_no_room_are_refused(tmp_path: Path) -> None:
    refused(tiny_artifact(tmp_path / "two", max_length=2), "tokenizer.json", "max_length is 2")
    assert TextClassifier.load(tiny_artifact(tmp_path / "three", max_length=3))(TEXTS[0])


def backtracking(given: dict) -> None:
    given["normalizer"] = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "x"}


@pytest.mark.parametrize("texts", ["a" * 40 + "b", ["open", "a" * 40 + "b"]])
def test_a_panic_during_a_call_is_one_line(artifact: Path, texts: str | list[str]) -> None:
    edit_tokenizer(artifact, backtracking)
    classifier = TextClassifier.load(artifact)
    with pytest.raises(ArtifactError, match="retry-limit") as raised:
        classifier(texts)
    checked(raised.value, "tokenizer.json")
    assert classifier("open")["label"] in LABELS


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_is_not_taken_for_a_panic(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, raised: type[BaseException]
) -> None:
    def interrupted(*_, **__):
        raise raised

    classifier = TextClassifier.load(artifact)
    monkeypatch.setattr(classifier._predictor.tokenizer, "tokenizer", type("T", (), {"encode": interrupted}))
    with pytest.raises(raised):
        classifier("open")
    monkeypatch.setattr(tokenizers.Tokenizer, "from_buffer", interrupted)
    with pytest.raises(raised):
        TextClassifier.load(artifact)


ODD = ["a\0b", "\x01\x02", "\u200b\u200d", "\ufeff", "\u202eopen", "e" + "\u0301" * 5000, "\U0010ffff", "🙂"]


def test_odd_texts_are_answered(artifact: Path) -> None:
    classifier = TextClassifier.load(artifact)
    alone = [classifier(text) for text in ODD]
    assert [answer["label"] for answer in classifier(ODD)] == [answer["label"] for answer in alone]
    assert all(np.isfinite(answer["score"]) for answer in alone)


@pytest.mark.parametrize("text", ["\ud800", "open \udfff", "\udcff"])
def test_lone_surrogates_are_named(artifact: Path, text: str) -> None:
    classifier = TextClassifier.load(artifact)
    for texts, number in ((text, 0), (["open", "late", text], 2)):
        with pytest.raises(InputError, match=f"text {number} is not valid Unicode") as raised:
            classifier(texts)
        checked(raised.value, repr(text))


@pytest.mark.parametrize("blank", ["", " \n\t", "\u3000"])
def test_a_blank_text_is_answered_and_flagged_beside_the_others(artifact: Path, blank: str) -> None:
    classifier = TextClassifier.load(artifact)
    first, middle, last = classifier(["open early", blank, "late"])
    assert [first, last] == classifier(["open early", "late"])
    assert middle["blank"] is True
    assert middle["label"] in LABELS
    assert classifier(blank) == middle
    assert "blank" not in first
    assert all(each["blank"] for each in classifier(blank, top_k=2))
    np.testing.assert_array_equal(classifier.logits([blank, "late"])[1], classifier.logits(["late"])[0])


@pytest.mark.parametrize("threshold", [None, -1e9, 1e9])
@pytest.mark.parametrize("label", ["none_of_these", LABELS[1]])
def test_the_best_labels_begin_with_the_answer(artifact: Path, threshold: float | None, label: str) -> None:
    classifier = TextClassifier.load(artifact)
    if threshold is not None:
        classifier.threshold = Threshold("energy", threshold, label)
    answers = classifier(TEXTS)
    for count in (1, 2, 3, 9):
        ranked = classifier(TEXTS, top_k=count)
        assert [each[0] for each in ranked] == answers
        for text, each in zip(TEXTS, ranked, strict=True):
            names = [answer["label"] for answer in each]
            assert len(set(names)) == len(names) <= count
            assert len(names) >= min(count, len(LABELS))
            scores = [answer["score"] for answer in each if answer != each[0]]
            assert scores == sorted(scores, reverse=True)
            assert [answer["label"] for answer in classifier(text, top_k=count)] == names
    softmax = np.exp(classifier.logits(TEXTS[:1])[0])
    if threshold != 1e9:
        assert [each["score"] for each in classifier(TEXTS[0], top_k=3)] == pytest.approx(
            sorted(softmax / softmax.sum(), reverse=True)
        )


@pytest.mark.parametrize("top_k", [0, -1, True, 1.5, "2"])
def test_a_top_k_that_is_no_count_is_refused(artifact: Path, top_k: object) -> None:
    with pytest.raises(InputError, match="top_k is "):
        TextClassifier.load(artifact)("open", top_k=top_k)  # pyright: ignore[reportArgumentType, reportCallIssue]


def test_a_text_without_tokens_is_blank(artifact: Path) -> None:
    edit_tokenizer(artifact, lambda given: given.update(post_processor=None, normalizer={"type": "Nmt"}))
    classifier = TextClassifier.load(artifact)
    assert classifier("open")["label"] in LABELS
    for texts in ("\u0001", ["open", "\u0001"]):
        answers = classifier(texts)
        last = answers[-1] if isinstance(answers, list) else answers
        assert last["blank"] is True
        assert np.isfinite(last["score"])


def test_a_very_long_text_is_cut_as_a_long_one_is(artifact: Path) -> None:
    classifier = TextClassifier.load(artifact)
    words = "open early red " * 700_000  # 10 MB; tokenizing all of it takes 10 s
    begin = words[:200]
    np.testing.assert_array_equal(classifier.logits([words]), classifier.logits([begin]))
    np.testing.assert_array_equal(classifier.logits(["open", words]), classifier.logits(["open", begin]))
    # One word is one unknown token, however long it is, so the text after it counts.
    long_word = "x" * 100_000
    np.testing.assert_array_equal(
        classifier.logits([f"{long_word} open"]), classifier.logits(["x" * 200 + " open"])
    )


# --- configuration

CONFIGS = [
    ({"max_length": 2**40}, "max_length is 1099511627776"),
    ({"max_length": 10**100}, "max_length is"),
    ({"max_length": True}, "max_length is True"),
    ({"max_length": 24.0}, r"max_length is 24\.0"),
    ({"max_length": "24"}, "max_length is '24'"),
    ({"pad_token_id": -1}, "pad_token_id is -1"),
    ({"pad_token_id": 2**64}, "pad_token_id is 18446744073709551616"),
    ({"pad_token_id": len(PIECES)}, rf"tokenizer\.json .*{len(PIECES)}, .*pad_token_id"),
    ({"pad_token_id": False}, "pad_token_id is False"),
    ({"num_threads": 10**6}, "num_threads is 1000000"),
    ({"num_threads": 0}, "num_threads is 0"),
    ({"num_threads": True}, "num_threads is True"),
    ({"num_threads": "2"}, "num_threads is '2'"),
    ({"labels": ["a", "b", "a"]}, "labels has 'a' twice"),
    ({"labels": ["a", "b", ""]}, r"labels\[2\] is ''"),
    ({"labels": ["a", " \n", "c"]}, r"labels\[1\] is ' \\n'"),
    ({"labels": ["a", "\ud800", "c"]}, r"labels\[1\] is '\\ud800'"),
    ({"labels": "abc"}, "labels is 'abc'"),
    ({"labels": {"0": "a"}}, "labels is {"),
    ({"labels": ["a" * 10_000, 1, 2]}, "labels is"),
    ({"labels": [f"label {n}" for n in range(5000)]}, "names 5000 labels"),
    ({"out_of_scope_label": 1}, "out_of_scope_label is 1"),
    ({"out_of_scope_label": ""}, "out_of_scope_label is ''"),
    ({"session": []}, "session: it is"),
    ({"session": {"x" * 5000: 1}}, "session: unknown option"),
    ({"session": {"enable_mem_pattern": "x" * 5000}}, "session: enable_mem_pattern is"),
    ({"threshold": {"score": [], "value": 1.0, "label": "a"}}, "threshold is"),
    ({"threshold": {"score": "energy", "value": 10**400, "label": "a"}}, "threshold is"),
    ({"threshold": {"score": "energy", "value": 1.0, "label": "\ud800"}}, "threshold is"),
    ({"threshold": {"score": "energy", "value": 1.0, "label": "x" * 5000, "more": 1}}, "threshold is"),
]


@pytest.mark.parametrize(("change", "message"), CONFIGS)
def test_a_configuration_that_cannot_be_used_is_named(tmp_path: Path, change: dict, message: str) -> None:
    artifact = tiny_artifact(tmp_path / "artifact", **change)
    with pytest.raises(ArtifactError, match=message) as raised:
        TextClassifier.load(artifact)
    checked(raised.value, "distiltune.json")


def test_keys_of_others_are_left_alone(tmp_path: Path) -> None:
    artifact = tiny_artifact(tmp_path / "artifact", session=None, num_threads=None, made_by="me")
    assert TextClassifier.load(artifact)(TEXTS[0])["label"] in LABELS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_threads": 10**6}, "num_threads is 1000000"),
        ({"num_threads": True}, "num_threads is True"),
        ({"num_threads": "2"}, "num_threads is '2'"),
        ({"num_threads": -1}, "num_threads is -1"),
        ({"providers": "CPUExecutionProvider"}, "providers is 'CPU"),
        ({"providers": []}, r"providers is \[\]"),
        ({"providers": [()]}, "providers is"),
        ({"providers": [1]}, "providers is"),
        ({"providers": 1}, "providers is 1"),
        ({"providers": [("CPUExecutionProvider", 1)]}, "providers"),
        ({"session": "fast"}, "session: it is 'fast'"),
        ({"session": 0}, "session: it is 0"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(artifact: Path, arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        TextClassifier.load(artifact, **arguments)
    assert not isinstance(raised.value, ArtifactError)
    checked(raised.value)


@pytest.mark.parametrize("batch_size", [0, -1, True, 1.5, "2", None])
def test_a_batch_size_that_is_none_is_named(artifact: Path, batch_size: object) -> None:
    classifier = TextClassifier.load(artifact)
    with pytest.raises(InputError, match="batch_size is"):
        classifier(TEXTS, batch_size=batch_size)  # pyright: ignore[reportCallIssue, reportArgumentType]
    assert len(classifier(TEXTS, batch_size=np.int64(2))) == len(TEXTS)  # pyright: ignore[reportCallIssue, reportArgumentType]


def test_a_provider_that_does_not_start_is_not_replaced_by_the_cpu(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ort.get_available_providers()[0]
    monkeypatch.setattr(ort.InferenceSession, "get_providers", lambda self: ["OtherExecutionProvider"])
    with pytest.raises(InputError, match=f"providers: {wanted} does not start"):
        TextClassifier.load(artifact, providers=[wanted])
