"""The contract of every registered baseline, and baselines in a specification."""

from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest

from distiltune.cluster.specification.config import load_config
from distiltune.errors import ConfigError, InputError
from distiltune.export.baselines import BASELINES, base
from distiltune.export.baselines.base import TrainingTexts
from distiltune.export.baselines.fit import BaselineTexts, fit_baseline, open_baseline
from distiltune.export.baselines.linear import class_columns
from distiltune.export.config import BenchmarkConfig

LABELS = ["billing", "greeting", "oos", "weather"]
WORDS = {"billing": "invoice payment", "greeting": "hello morning", "weather": "rain sunshine"}
TEXTS = [
    f"{word} {WORDS[label].split()[n % 2]} number {n}" for label in WORDS for n, word in enumerate("abcdef")
]
NUMBERS = [LABELS.index(label) for label in WORDS for _ in range(6)]
QUERIES = ["the invoice", "hello", "rain again", "payment of an invoice"]
GIVEN = BaselineTexts(TEXTS, NUMBERS, [*TEXTS[::3], "zzz"], [*NUMBERS[::3], 2], LABELS, "oos")
INSTALLED = [each.name for each in BASELINES if find_spec(each.module) is not None]


@pytest.fixture(scope="session")
def given(tmp_path_factory) -> BaselineTexts:
    """The texts, with a small model for the baseline that starts from one."""
    if "model2vec" not in INSTALLED:
        return GIVEN
    from model2vec import StaticModel  # pyright: ignore[reportMissingImports]
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", *sorted({word for text in TEXTS for word in text.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    vectors = np.random.default_rng(0).normal(size=(len(words), 16)).astype(np.float32)
    folder = tmp_path_factory.mktemp("static") / "model"
    StaticModel(vectors, tokenizer).save_pretrained(str(folder))
    return replace(GIVEN, model=str(folder))


@pytest.fixture(scope="session", params=INSTALLED)
def made(request, given, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "made"
    return request.param, fit_baseline(request.param, given, folder), open_baseline(folder), folder


def test_it_learns_what_it_was_trained_on_and_answers_each_text_alone(made) -> None:
    _, record, opened, folder = made
    assert opened.labels == ["billing", "greeting", "weather"]  # out of scope has no training text
    logits = opened.logits(TEXTS)
    assert (logits.shape, logits.dtype) == ((len(TEXTS), 3), np.float32)
    assert [opened.labels[i] for i in logits.argmax(axis=1)] == [LABELS[each] for each in NUMBERS]
    np.testing.assert_allclose(logits, np.concatenate([opened.logits([text]) for text in TEXTS]), atol=1e-4)
    assert (record["num_texts"], record["num_classes"]) == (len(TEXTS), 3)
    assert record["bytes"] == (folder / "model").stat().st_size > 0
    assert record["seconds"] > 0 and record["features"]


def test_it_answers_as_a_pipeline(made) -> None:
    opened = made[2]
    logits = opened.logits(QUERIES)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = weights / weights.sum(axis=1, keepdims=True)
    answers = opened(QUERIES, batch_size=3)
    assert [each["label"] for each in answers] == [opened.labels[i] for i in logits.argmax(axis=1)]
    assert [each["score"] for each in answers] == pytest.approx(shares.max(axis=1).tolist(), rel=1e-4)
    assert opened(QUERIES[0])["label"] == answers[0]["label"]


def test_it_reads_long_texts_to_their_end(made) -> None:
    rain, hello = made[2].logits([f"{'number ' * 1000}{word}" for word in ("rain", "hello")])
    assert not np.array_equal(rain, hello)


def test_the_same_seed_gives_the_same_scores(made, given, tmp_path) -> None:
    fit_baseline(made[0], given, tmp_path / "again")
    np.testing.assert_array_equal(open_baseline(tmp_path / "again").logits(QUERIES), made[2].logits(QUERIES))


@pytest.mark.parametrize("name", INSTALLED)
def test_two_labels_have_two_scores(name, given, tmp_path) -> None:
    two = replace(
        given,
        train_texts=TEXTS[:12],
        train_labels=NUMBERS[:12],
        validation_texts=TEXTS[:12],
        validation_labels=NUMBERS[:12],
        out_of_scope_label=None,
    )
    fit_baseline(name, two, tmp_path / "made")
    opened = open_baseline(tmp_path / "made")
    logits = opened.logits(TEXTS[:12])
    assert (opened.labels, logits.shape) == (["billing", "greeting"], (12, 2))
    assert logits.argmax(axis=1).tolist() == [0] * 6 + [1] * 6


@pytest.mark.parametrize("name", INSTALLED)
def test_balance_gives_a_rare_label_the_weight_of_a_frequent_one(name, given, tmp_path) -> None:
    texts = ["hello invoice"] * 40 + ["hello invoice"] * 4 + ["rain"] * 4
    rare = replace(given, train_texts=texts, train_labels=[0] * 40 + [1] * 4 + [3] * 4)
    scores = []
    for is_balanced in (False, True):
        folder = tmp_path / str(is_balanced)
        fit_baseline(
            name, replace(rare, is_balanced=is_balanced, validation_texts=[], validation_labels=[]), folder
        )
        [logits] = open_baseline(folder).logits(["hello invoice"])
        scores.append(logits[1] - logits[0])
    assert scores[1] > scores[0] + 0.1


@pytest.mark.parametrize("name", BASELINES.names)
def test_it_reports_what_is_missing_and_how_to_install_it(name, monkeypatch) -> None:
    baseline = BASELINES[name]
    other = baseline.why_not("ranking", "a-model")
    assert other is not None and "single_label" in other and "ranking" in other
    monkeypatch.setattr(base, "find_spec", lambda module: None)
    missing = baseline.why_not("single_label", "a-model")
    assert missing == f"{baseline.package} is not installed; {baseline.install}"
    assert baseline.install.startswith("pip install ")
    monkeypatch.setattr(base, "find_spec", lambda module: object())
    assert baseline.why_not("single_label", "a-model") is None
    without = baseline.why_not("single_label", None)
    assert (without is None) == (baseline.model_key is None)
    assert without is None or f"set {baseline.model_key} " in without


def test_one_label_or_no_words_are_refused(given, tmp_path) -> None:
    with pytest.raises(InputError, match="1 label"):
        fit_baseline("tfidf-svm", replace(given, train_labels=[0] * len(TEXTS)), tmp_path / "one")
    with pytest.raises(InputError, match="no training text has a word"):
        fit_baseline("tfidf-svm", replace(given, train_texts=[" "] * len(TEXTS)), tmp_path / "blank")
    assert not list(tmp_path.iterdir())


def test_columns_of_two_classes_have_the_sigmoid_of_the_one_score() -> None:
    weights, bias = np.array([[1.0, -2.0, 0.5]]), np.array([0.3])
    columns, offsets = class_columns(weights, bias)
    assert (columns.shape, columns.dtype, columns.flags["C_CONTIGUOUS"]) == ((3, 2), np.float32, True)
    row = np.array([0.2, 0.4, 0.9])
    score, logits = float(row @ weights[0] + bias[0]), row @ columns + offsets
    assert np.exp(logits[1]) / np.exp(logits).sum() == pytest.approx(1 / (1 + np.exp(-score)))
    three = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(class_columns(three, np.zeros(3))[0], three.T)


def test_the_scores_are_the_products_of_tf_idf_and_weights() -> None:
    """Against plain arithmetic: 1 + ln of the count, times the smoothed idf, of unit length for each kind of n-gram."""
    texts = ["rain rain again", "no rain today", "pay the bill", "the bill again"]
    fitted = BASELINES["tfidf-svm"].fit(TrainingTexts(texts, np.array([0, 0, 1, 1])))
    words = {"rain": 2, "again": 1, "rain rain": 1, "rain again": 1}
    frequency = {gram: sum(f" {gram} " in f" {text} " for text in texts) for gram in words}
    values = {
        gram: (1 + np.log(count)) * (np.log(5 / (1 + frequency[gram])) + 1) for gram, count in words.items()
    }
    length = np.sqrt(sum(value**2 for value in values.values()))
    vectorizer, weights = fitted.vectorizers[0], fitted.weights[0]
    found = vectorizer.transform(texts[:1]).tocoo()
    names = vectorizer.get_feature_names_out()
    assert {names[i]: float(value) for i, value in zip(found.col, found.data, strict=True)} == pytest.approx(
        {gram: value / length for gram, value in values.items()}, rel=1e-5
    )
    expected = sum(value / length * weights[vectorizer.vocabulary_[gram]] for gram, value in values.items())
    characters = fitted.vectorizers[1].transform(texts[:1]).toarray()[0] @ fitted.weights[1]
    np.testing.assert_allclose(fitted.logits(texts[:1])[0], expected + characters + fitted.bias, atol=1e-5)


def test_characters_of_long_texts_are_left_out(monkeypatch) -> None:
    monkeypatch.setattr("distiltune.export.baselines.tfidf_svm._MOST_CHARACTERS", 10)
    fitted = BASELINES["tfidf-svm"].fit(TrainingTexts(TEXTS, np.repeat([0, 1, 2], 6)))
    assert len(fitted.vectorizers) == 1 and "character" not in fitted.features
    assert fitted.logits(TEXTS).argmax(axis=1).tolist() == np.repeat([0, 1, 2], 6).tolist()


def test_texts_without_words_are_classified_by_characters() -> None:
    texts = ["!!! ??", "!!!! ?", "... ,,", ".... ,"]
    fitted = BASELINES["tfidf-svm"].fit(TrainingTexts(texts, np.array([0, 0, 1, 1])))
    assert fitted.logits(texts).argmax(axis=1).tolist() == [0, 0, 1, 1]


def test_the_record_has_no_word_of_the_texts(made) -> None:
    """Nothing but the record leaves the scratch folder."""
    words = {word for text in TEXTS for word in text.split() if len(word) > 3 and word != "number"}
    assert not [word for word in words if word in str(made[1])]


# In a specification


def test_the_default_is_the_svm_and_an_empty_list_turns_it_off() -> None:
    assert BenchmarkConfig().baselines == ["tfidf-svm"]
    assert BenchmarkConfig(effort="quick").baselines == ["tfidf-svm"]
    assert load_config("quickstart-scratch", ["benchmark.baselines=[]"]).benchmark.baselines == []
    assert load_config("quickstart-scratch", [f"benchmark.baselines={BASELINES.names}"])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[tfidf-svn]", r"benchmark\.baselines\.0: .*did you mean 'tfidf-svm'.*'tfidf-svn'"),
        ("[bert]", r"benchmark\.baselines.*accepted: fasttext, model2vec, tfidf-svm"),
        ("[tfidf-svm, tfidf-svm]", r"benchmark\.baselines.*once"),
        ("tfidf-svm", r"benchmark\.baselines"),
        ("[7]", r"benchmark\.baselines"),
        ("null", r"benchmark\.baselines"),
    ],
)
def test_a_wrong_name_is_one_clear_error(value, message) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load_config("quickstart-scratch", [f"benchmark.baselines={value}"])
    assert "\n" not in str(raised.value)


def test_the_schema_lists_what_is_registered() -> None:
    with BASELINES.temporarily(replace(BASELINES["tfidf-svm"], name="other", description="another one")):
        items = BenchmarkConfig.model_json_schema()["properties"]["baselines"]["items"]
        assert (items["enum"][-1], items["enumDescriptions"][-1]) == ("other", "another one")
        assert BenchmarkConfig(baselines=["other"]).baselines == ["other"]
    with pytest.raises(ValueError, match="not a baseline"):
        BenchmarkConfig(baselines=["other"])


def test_a_baseline_is_registered_once() -> None:
    with pytest.raises(ValueError, match="tfidf-svm"):
        BASELINES.register(BASELINES["tfidf-svm"])


def test_what_a_baseline_needs_is_loaded_when_it_is_trained() -> None:
    import subprocess
    import sys

    code = "import sys, distiltune.export.baselines; print(sorted({'sklearn', 'scipy', 'pydantic'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
