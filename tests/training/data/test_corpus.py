"""The embedded intent corpus: enough texts per intent, no near-copies, every label in a domain."""

import json
from collections import Counter
from importlib.resources import files

import pytest

CORPUS_DIR = files("distiltune.training.data.sources") / "corpus"
OUT_OF_SCOPE = "oos"
PARTS = ("train", "val", "test")

Rows = list[list[str]]


@pytest.fixture(scope="module")
def corpus() -> dict[str, Rows]:
    return json.loads((CORPUS_DIR / "embedded.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def domains() -> dict[str, list[str]]:
    return json.loads((CORPUS_DIR / "domains.json").read_text(encoding="utf-8"))


def test_has_the_six_parts_of_the_clinc150_format(corpus: dict[str, Rows]) -> None:
    assert set(corpus) == {*PARTS, *(f"oos_{part}" for part in PARTS)}
    for rows in corpus.values():
        for row in rows:
            assert len(row) == 2
            assert all(isinstance(value, str) and value == value.strip() != "" for value in row)


@pytest.mark.parametrize(("part", "minimum"), [("train", 60), ("val", 10), ("test", 12)])
def test_every_intent_has_enough_utterances(
    corpus: dict[str, Rows], domains: dict[str, list[str]], part: str, minimum: int
) -> None:
    counts = Counter(label for _, label in corpus[part])
    labels = {label for intents in domains.values() for label in intents}
    assert set(counts) == labels
    assert {label: n for label, n in counts.items() if n < minimum} == {}


@pytest.mark.parametrize(("part", "minimum"), [("train", 200), ("val", 40), ("test", 60)])
def test_out_of_scope_parts_hold_only_out_of_scope_rows(
    corpus: dict[str, Rows], part: str, minimum: int
) -> None:
    rows = corpus[f"oos_{part}"]
    assert len(rows) >= minimum
    assert {label for _, label in rows} == {OUT_OF_SCOPE}


def test_no_text_occurs_twice_within_or_across_splits(corpus: dict[str, Rows]) -> None:
    counts = Counter(text.strip().lower() for rows in corpus.values() for text, _ in rows)
    assert [text for text, n in counts.items() if n > 1] == []


def test_no_evaluation_text_is_a_near_copy_of_a_training_text(corpus: dict[str, Rows]) -> None:
    texts = {part: [frozenset(text.split()) for text, _ in rows] for part, rows in corpus.items()}
    training = [*texts["train"], *texts["oos_train"]]
    held_out = [words for part in ("val", "test", "oos_val", "oos_test") for words in texts[part]]
    close = [(a, b) for a in held_out for b in training if len(a & b) >= 0.75 * len(a | b)]
    assert close == []


def test_training_texts_are_not_one_sentence_with_its_nouns_exchanged(corpus: dict[str, Rows]) -> None:
    by_label: dict[str, list[frozenset[str]]] = {}
    for text, label in corpus["train"]:
        by_label.setdefault(label, []).append(frozenset(text.split()))
    close = [
        (a, b)
        for texts in by_label.values()
        for number, a in enumerate(texts)
        for b in texts[:number]
        if len(a & b) >= 0.8 * len(a | b)
    ]
    assert close == []


def test_the_corpus_stays_small_enough_for_a_quickstart(corpus: dict[str, Rows]) -> None:
    assert 1500 <= sum(map(len, corpus.values())) <= 3000


def test_domains_cover_every_intent_once(domains: dict[str, list[str]]) -> None:
    intents = [label for labels in domains.values() for label in labels]
    assert len(domains) == 3
    assert len(intents) == len(set(intents)) >= 15
    assert OUT_OF_SCOPE not in intents


def test_utterances_are_short_spoken_style_requests(corpus: dict[str, Rows]) -> None:
    texts = [text for rows in corpus.values() for text, _ in rows]
    assert [text for text in texts if text != text.lower() or len(text.split()) > 16] == []
