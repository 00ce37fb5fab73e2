"""Trimmed vocabularies: texts of kept pieces have the same pieces and logits, and no text becomes unknown."""

import random
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from models import tiny_classifier, tiny_data
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, DistilBertTokenizerFast

from distiltune.cluster.pipeline.checks.models import check_models
from distiltune.cluster.pipeline.checks.texts import check_new_pieces
from distiltune.cluster.specification.config import JobConfig
from distiltune.errors import ModelError
from distiltune.export.config import ExportConfig
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.variants.build import build_variant
from distiltune.training.checkpoints.load import load_classifier, load_tokenizer, save_checkpoint
from distiltune.training.data.config import data_config
from distiltune.training.data.text_data import load_data
from distiltune.training.data.tokenized import tokenize_split
from distiltune.training.student.build import build_student
from distiltune.training.student.config import student_config
from distiltune.training.student.size_config import VocabularyConfig
from distiltune.training.student.vocabulary import covered_share, pieces_to_keep, respelled, trim_vocabulary
from distiltune.training.teacher.from_scratch import train_tokenizer

TRAIN = [text for text, _ in tiny_data()]
OTHERS = ["a zebra crossing", "the colours of Öland: blue, red"]
WORDS = [
    "unhappiness",
    "zebra",
    "crossing",
    "Öland",
    "colours",
    "of",
    "the",
    "a",
    "rain,",
    "東京",
    "newest",
    "happy",
]
LABELS = [f"label_{n}" for n in range(4)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A checkpoint whose tokenizer has many words."""
    return tiny_classifier(
        tmp_path_factory.mktemp("teacher"), texts=[*TRAIN, *OTHERS, *WORDS] * 2, label_names=LABELS
    )


@pytest.fixture(params=["bert", "distilbert"])
def trimmed(request, teacher, tmp_path):
    """Model and tokenizer, before and after trimming."""
    model, tokenizer = load_classifier(teacher)
    if request.param == "distilbert":
        tokenizer = DistilBertTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    kept = pieces_to_keep(tokenizer, TRAIN)
    small, _ = load_classifier(teacher)
    return model, tokenizer, small, trim_vocabulary(small, tokenizer, kept)


def test_covered_texts_have_the_same_pieces_and_logits(trimmed):
    model, tokenizer, small, left = trimmed
    assert len(left) < len(tokenizer)
    assert small.config.vocab_size == len(left) == small.get_input_embeddings().num_embeddings
    for text in [*TRAIN, "open red, topic0!"]:
        assert left.tokenize(text) == tokenizer.tokenize(text)
        with torch.no_grad():
            before = model(**tokenizer(text, return_tensors="pt")).logits
            after = small(**left(text, return_tensors="pt")).logits
        assert torch.equal(before, after)
    assert left.model_input_names == tokenizer.model_input_names
    assert small.config.pad_token_id == left.pad_token_id
    batch = left(TRAIN[:5], padding=True, return_tensors="pt")
    np.testing.assert_allclose(
        small(**batch).logits.detach(),
        model(**tokenizer(TRAIN[:5], padding=True, return_tensors="pt")).logits.detach(),
        atol=1e-6,
    )


def test_nothing_becomes_unknown_that_was_known(trimmed):
    _, tokenizer, _, left = trimmed
    characters = sorted(
        {c for piece in tokenizer.get_vocab() for c in piece.removeprefix("##") if c not in "[]"}
    )
    draw = random.Random(0)
    words = [*WORDS, *("".join(draw.choices(characters, k=draw.randint(1, 9))) for _ in range(3000))]
    unknown = {True: 0, False: 0}
    for word in words:
        known = tokenizer.unk_token not in tokenizer.tokenize(word)
        assert known == (left.unk_token not in left.tokenize(word)), word
        unknown[known] += 1
    assert unknown[True] > 1000
    assert left.tokenize("zebra") != tokenizer.tokenize("zebra") == ["zebra"]
    assert "".join(piece.removeprefix("##") for piece in left.tokenize("zebra")) == "zebra"


def test_size_and_count_determine_what_is_kept(teacher):
    tokenizer = load_tokenizer(teacher)
    needed = set(pieces_to_keep(tokenizer, []))
    train, both = set(pieces_to_keep(tokenizer, TRAIN)), set(pieces_to_keep(tokenizer, TRAIN, OTHERS))
    assert needed < train < both < set(range(len(tokenizer)))
    assert set(tokenizer.all_special_ids) <= needed
    zebra = tokenizer.convert_tokens_to_ids("zebra")
    assert zebra in both - train
    assert zebra not in pieces_to_keep(tokenizer, TRAIN, OTHERS, min_count=2)
    assert zebra in pieces_to_keep(tokenizer, TRAIN, [*OTHERS, *OTHERS], min_count=2)
    # The pieces of the training texts come first, those that are frequent before the rare.
    assert set(pieces_to_keep(tokenizer, TRAIN, OTHERS * 99, size=len(train))) == train
    few = pieces_to_keep(tokenizer, ["rain rain zebra"], size=len(needed) + 1)
    longer = [tokenizer.convert_ids_to_tokens(piece) for piece in set(few) - needed]
    assert len(longer) <= 1
    assert "zebra" not in longer
    assert few == sorted(few)


def test_a_character_without_a_piece_of_its_own_keeps_those_that_have_it():
    tokenizer = train_tokenizer(["aß", "b", "ab", "abb"], vocab_size=60)
    vocabulary = tokenizer.get_vocab()
    for piece in ("ß", "##ß"):
        vocabulary.pop(piece, None)
    vocabulary |= {"aß": len(vocabulary) + 5}
    ordered = {
        piece: number for number, piece in enumerate(sorted(vocabulary, key=lambda each: vocabulary[each]))
    }
    bare = tokenizers.BertWordPieceTokenizer(ordered, lowercase=True)
    given = type(tokenizer)(
        tokenizer_object=tokenizers.Tokenizer.from_str(bare.to_str()), **tokenizer.special_tokens_map
    )
    assert given.tokenize("aß") == ["aß"]
    assert ordered["aß"] in pieces_to_keep(given, [])


def test_what_cannot_be_trimmed_is_refused(teacher, tmp_path):
    tokenizer = load_tokenizer(teacher)
    with pytest.raises(ModelError, match=r"student\.vocabulary\.size: 7 given; .* give more than that"):
        pieces_to_keep(tokenizer, TRAIN, size=7)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<pad>": 0, "<unk>": 1, "red": 2}, "<unk>"))
    marked = tokenizers.CharBPETokenizer()
    marked.train_from_iterator(TRAIN, vocab_size=60, special_tokens=["<pad>", "<unk>"])
    for other, message in (
        (words, "the tokenizer's model is WordLevel; vocabularies of BPE, Unigram, WordPiece can"),
        (tokenizers.Tokenizer.from_str(marked.to_str()), "model is BPE and has a end_of_word_suffix"),
    ):
        given = type(tokenizer)(tokenizer_object=other, pad_token="<pad>")
        with pytest.raises(ModelError, match=rf"student\.vocabulary: .*{message}.*others to nearest"):
            pieces_to_keep(given, TRAIN)
        added = {*given.all_special_ids, *given.added_tokens_decoder}
        assert pieces_to_keep(given, [], others_spelled=False) == sorted(added)


@pytest.mark.parametrize("section", ["teacher", "student"])
def test_a_vocabulary_that_cannot_spell_is_refused_before_anything_begins(teacher, section):
    trimmed = {"vocabulary": {"size": 7}}
    student = {"layers": [1]} if section == "teacher" else {"checkpoint": str(teacher)}
    given = {"teacher": {"checkpoint": str(teacher)}, "student": {**student, **trimmed}}
    with pytest.raises(ModelError, match=r"student\.vocabulary\.size: 7 given"):
        check_models(JobConfig.model_validate(given))


def test_a_vocabulary_that_cannot_spell_is_refused_before_a_teacher_from_nothing_is_trained(corpus):
    """Its word pieces do not exist before the data is read."""
    for others, size in (("spelled", 40), ("nearest", 5)):
        student = {"layers": [0], "vocabulary": {"size": size, "others": others}}
        config = JobConfig.model_validate({"teacher": {"scratch": {}}, "student": student})
        check_models(config)
        message = rf"student\.vocabulary\.size: {size} given; the special tokens.* are \d+ pieces of [\d,]+; give more"
        with pytest.raises(ModelError, match=message):
            check_new_pieces(config, corpus)
        enough = config.student.model_copy(update={"vocabulary": VocabularyConfig(size=500, others=others)})
        check_new_pieces(config.model_copy(update={"student": enough}), corpus)


def pieces_known_to(tokenizer, texts):
    """Token strings of each text."""
    return [tokenizer.convert_ids_to_tokens(row) for row in tokenizer(texts)["input_ids"]]


@pytest.fixture(scope="module")
def corpus():
    return load_data(data_config())


@pytest.fixture(scope="module")
def corpus_tokenizer(corpus):
    """A tokenizer with words of every split, like a pretrained one."""
    return train_tokenizer([text for split in corpus.splits.values() for text in split["text"]], 4000)


def trimmed_tokenizer(tokenizer, kept):
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = BertConfig(vocab_size=len(tokenizer), **shape)
    return trim_vocabulary(BertForSequenceClassification(config), tokenizer, kept)


def test_test_texts_whose_pieces_are_kept_have_the_same_token_strings(corpus, corpus_tokenizer):
    texts = {name: split["text"][:] for name, split in corpus.splits.items()}
    kept = pieces_to_keep(corpus_tokenizer, texts["train"])
    left = trimmed_tokenizer(corpus_tokenizer, kept)
    unknowable = ["play 東京 now", "wie heißt ☃"]  # unknown before, in part or as a whole
    num_covered, test = 0, [*texts["test"], *unknowable]
    before, after = pieces_known_to(corpus_tokenizer, test), pieces_known_to(left, test)
    for ids, old, new in zip(corpus_tokenizer(test)["input_ids"], before, after, strict=True):
        if set(ids) <= set(kept):
            num_covered += 1
            assert new == old
        else:
            assert new != old
            assert new.count("[UNK]") == old.count("[UNK]")
    assert before[-2].count("[UNK]") > 0
    assert 100 < num_covered < len(test) - 100
    assert covered_share(corpus_tokenizer, kept, test) == num_covered / len(test)
    assert covered_share(corpus_tokenizer, kept, texts["train"]) == 1
    assert covered_share(corpus_tokenizer, kept, []) is None


def test_no_labelled_text_gets_unknown_pieces_in_the_least_vocabulary(corpus, corpus_tokenizer):
    """So nothing but `size` has to be refused: every single character stays."""
    train, needed = corpus.splits["train"]["text"][:], pieces_to_keep(corpus_tokenizer, [])
    with pytest.raises(ModelError, match=rf"size: {len(needed)} given"):
        pieces_to_keep(corpus_tokenizer, train, size=len(needed))
    left = trimmed_tokenizer(corpus_tokenizer, pieces_to_keep(corpus_tokenizer, train, size=len(needed) + 1))
    assert len(left) == len(needed) + 1
    assert not any("[UNK]" in pieces for pieces in pieces_known_to(left, train))


def test_rows_with_masks_are_spelled_anew(trimmed):
    _, tokenizer, _, left = trimmed
    split = tokenize_split(["zebra rain", TRAIN[0]], [3, 1], tokenizer, 16)
    split.input_ids[2] = tokenizer.mask_token_id
    again = respelled(split, tokenizer, left, 64)
    assert left.convert_ids_to_tokens(again.row(0)) == ["[CLS]", *left.tokenize("zebra"), "[MASK]", "[SEP]"]
    assert left.convert_ids_to_tokens(again.row(1)) == tokenizer.convert_ids_to_tokens(split.row(1))
    assert again.labels.tolist() == [3, 1]


def test_a_trimmed_student_is_saved_exported_and_answers_alike(teacher, tmp_path):
    whole = {"layers": [1]}
    records = {}
    for name, more in (("whole", {}), ("small", {"vocabulary": {"min_count": 1}})):
        config = student_config(**whole, **more)
        records[name] = build_student(
            config, teacher, LABELS, tmp_path / name, texts=(TRAIN, OTHERS[:1]), validation_texts=OTHERS
        )
    build_variant("onnx", tmp_path / "small", tmp_path / "onnx", config=ExportConfig(), max_length=16)
    assert records["small"]["num_embeddings"] < records["whole"]["num_embeddings"]
    assert records["small"]["vocabulary"] == {"covered_share": 0.5}
    assert "vocabulary" not in records["whole"]
    assert len(AutoTokenizer.from_pretrained(tmp_path / "small")) == records["small"]["num_embeddings"]
    texts = [*TRAIN, OTHERS[0]]
    model, tokenizer = load_classifier(tmp_path / "whole")
    batch = tokenizer(texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).logits.numpy()
    np.testing.assert_allclose(TextClassifier.load(tmp_path / "onnx").logits(texts), expected, atol=1e-5)
    model, tokenizer = load_classifier(tmp_path / "small")
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(model, tokenizer, Path(folder))
        assert load_tokenizer(folder).get_vocab() == tokenizer.get_vocab()
