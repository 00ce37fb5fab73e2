"""The runtime on pairs of texts, with a handmade artifact whose graph reads token types."""

import json
from pathlib import Path

import numpy as np
import pytest
from artifacts import LABELS, MAX_LENGTH, tiny_artifact, tiny_graph
from onnx import numpy_helper
from tokenizers import Tokenizer

from distiltune.errors import ArtifactError, InputError
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.runtime.probe_file import read_probes
from distiltune.export.runtime.probes import run_probes, write_probes
from distiltune.export.runtime.profile import PROFILED

PAIRS = [
    ("open early", "red"),
    ("red", "open early"),
    ("close late blue", "unable close"),
    ("red " * 40, "blue"),
    ("blue", "late " * 40),
    ("open " * 30, "close " * 29),
]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_artifact(tmp_path_factory.mktemp("pairs") / "artifact", takes_pairs=True)


@pytest.fixture
def classifier(artifact: Path) -> TextClassifier:
    return TextClassifier.load(artifact)


def logits_by_hand(artifact: Path, pair: tuple[str, str], *, with_types: bool = True) -> np.ndarray:
    graph = tiny_graph(reads_types=True).graph
    weights = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    tokenizer = Tokenizer.from_file(str(artifact / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_LENGTH, strategy="longest_first")
    found = tokenizer.encode(*pair)
    types = np.array(found.type_ids) if with_types else np.zeros(len(found), dtype=int)
    rows = weights["table"][found.ids] + weights["kinds"][types]
    mixed = rows + rows.mean(axis=0)
    return (np.maximum(mixed @ weights["inner"], 0) @ weights["outer"])[0]


def test_the_graph_is_given_both_texts_with_their_types(artifact, classifier) -> None:
    expected = np.stack([logits_by_hand(artifact, pair) for pair in PAIRS])
    np.testing.assert_allclose(classifier.logits(PAIRS, batch_size=1), expected, rtol=1e-4, atol=1e-4)
    without = np.stack([logits_by_hand(artifact, pair, with_types=False) for pair in PAIRS])
    assert (np.abs(expected - without).max(axis=1) > 0.1).all()
    answers = [classifier(pair) for pair in PAIRS]
    assert [each["label"] for each in answers] == [LABELS[i] for i in expected.argmax(axis=1)]


def test_one_pair_is_a_batch_of_one(classifier) -> None:
    for pair in PAIRS:
        assert classifier(pair) == classifier([pair])[0] == classifier([list(pair)])[0]
        assert classifier(pair, top_k=2) == classifier([pair], top_k=2)[0]
        np.testing.assert_array_equal(classifier.logits(pair), classifier.logits([pair]))
    assert classifier([]) == []


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("open", ["the text 'open'", "takes pairs", "(text, text_pair)"]),
        (["open", "red"], ["text 0", "'open'", "takes pairs"]),
        ([("open", "red"), "red"], ["text 1", "'red'", "takes pairs"]),
        ([("open", "red", "blue")], ["text 0 is tuple"]),
        ([("open", None)], ["text 0 is tuple", "None"]),
        ([None], ["text 0 is NoneType", "(text, text_pair)"]),
        (("open", 3), ["text 0", "'open'"]),
        (7, ["int", "(text, text_pair)"]),
    ],
)
def test_what_is_no_pair_is_refused_with_the_remedy(classifier, given, parts) -> None:
    for call in (classifier, classifier.logits):
        with pytest.raises(InputError) as caught:
            call(given)
        assert all(part in str(caught.value) for part in parts), caught.value


def test_an_artifact_of_single_texts_refuses_pairs(tmp_path) -> None:
    single = TextClassifier.load(tiny_artifact(tmp_path / "single"))
    assert not single.takes_pairs
    with pytest.raises(
        InputError, match=r"text 0 is the pair \('open', 'red'\).*takes single texts; give a string"
    ):
        single([("open", "red")])
    assert len(single(("open", "red"))) == 2  # a tuple of texts is a sequence of them


def test_a_pair_with_a_blank_text_is_marked(classifier) -> None:
    for pair in (("", "red"), ("red", " \n"), ("", "")):
        assert classifier(pair)["blank"] is True
        assert classifier([pair, ("open", "red")])[0]["blank"] is True
    assert "blank" not in classifier(("open", "red"))


def test_lone_surrogates_and_very_long_texts(artifact, classifier) -> None:
    with pytest.raises(InputError, match="text 0 is not valid Unicode"):
        classifier(("open", "red \ud800"))
    with pytest.raises(InputError, match="text 1 is not valid Unicode"):
        classifier([("open", "red"), ("\udfff", "red")])
    long = "red " * 20_000
    for pair in ((long, "open"), ("open early", long), (long, "open " * 30)):
        np.testing.assert_allclose(
            classifier.logits([pair])[0], logits_by_hand(artifact, pair), rtol=1e-4, atol=1e-4
        )
        np.testing.assert_allclose(
            classifier.logits([pair, pair])[0], classifier.logits([pair])[0], rtol=1e-4
        )


def test_its_time_is_profiled(classifier) -> None:
    found = classifier.profile(("open early", "red"), num_runs=2, num_warmups=1, seconds=0.0)
    assert list(found) == list(PROFILED)
    assert all(value > 0 for value in found.values())


def test_probes_are_pairs(artifact, tmp_path) -> None:
    copy = tiny_artifact(tmp_path / "copy", takes_pairs=True)
    write_probes(copy)
    probes = read_probes(copy)
    assert {len(each.types) - len(each.ids) for each in probes} == {0}
    for each in probes:
        assert each.ids[0] == 2 and each.ids[-1] == 3
        types = np.array(each.types)
        assert types[0] == 0 and types[-1] == 1 and (np.diff(types) >= 0).all()
        assert each.ids[int(types.argmax()) - 1] == 3  # the separator that ends the first text
        assert len(each.ids) <= MAX_LENGTH
    assert max(len(each.ids) for each in probes) == MAX_LENGTH
    assert run_probes(copy) == {
        "num_probes": 32,
        "num_changed": 0,
        "max_abs_diff": pytest.approx(0, abs=1e-5),
    }
    content = json.loads((copy / "probes.json").read_text())
    content["probes"][5]["types"] = [0] * len(content["probes"][5]["types"])
    (copy / "probes.json").write_text(json.dumps(content))
    assert run_probes(copy)["max_abs_diff"] > 0.1
    for damaged in ([0], "0", None, [-1] * len(content["probes"][5]["ids"])):
        content["probes"][5]["types"] = damaged
        (copy / "probes.json").write_text(json.dumps(content))
        with pytest.raises(ArtifactError, match="probes must be a list"):
            read_probes(copy)


def test_probes_of_single_texts_have_no_types(tmp_path) -> None:
    single = tiny_artifact(tmp_path / "single")
    write_probes(single)
    content = json.loads((single / "probes.json").read_text())
    assert {tuple(each) for each in content["probes"]} == {("ids", "logits")}


@pytest.mark.parametrize("value", ["yes", 1, None, []])
def test_a_damaged_key_is_refused(tmp_path, value) -> None:
    damaged = tiny_artifact(tmp_path / "damaged")
    settings = json.loads((damaged / "distiltune.json").read_text())
    (damaged / "distiltune.json").write_text(json.dumps({**settings, "takes_pairs": value}))
    with pytest.raises(ArtifactError, match="takes_pairs"):
        TextClassifier.load(damaged)


def test_special_tokens_of_a_pair_must_leave_room(tmp_path) -> None:
    with pytest.raises(ArtifactError, match="adds 3 tokens to every pair, but max_length is 3"):
        TextClassifier.load(tiny_artifact(tmp_path / "short", takes_pairs=True, max_length=3))


def test_a_fast_tokenizer_is_not_used(artifact) -> None:
    classifier = TextClassifier.load(artifact, tokenizer="fast")
    assert classifier.tokenizer_name == "tokenizers"
    assert "pairs" in str(classifier.tokenizer_why)
