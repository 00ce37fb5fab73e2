"""Words of texts in any tokenizer's pieces: their first pieces, their places, and the tags of entities."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from tokenizers.pre_tokenizers import Metaspace, Split

from distiltune.training.tasks.words import find_words, hidden_entities, tags_of_words, words_of
from distiltune.training.teacher.from_scratch import train_tokenizer

TEXT = "in (New York), he's at 5pm  naïve"
WORDS = ["in", "(", "New", "York", ")", ",", "he", "'", "s", "at", "5pm", "naïve"]


def word_piece() -> Tokenizer:
    return train_tokenizer(["new york in he s at pm", "na"], vocab_size=60).backend_tokenizer


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(
        models.BPE({each: n for n, each in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def metaspace() -> Tokenizer:
    pieces = ["▁", *sorted(set(TEXT) - {" "}), "▁in", "▁(", "▁New", "ork", "))", "),", "▁at"]
    tokenizer = Tokenizer(models.Unigram([(each, -len(pieces) + len(each)) for each in pieces], unk_id=0))
    tokenizer.pre_tokenizer = Metaspace()
    return tokenizer


def found(tokenizer: Tokenizer, text: str) -> list[str]:
    encoding = tokenizer.encode(text)
    words = find_words(text, encoding.offsets, encoding.word_ids)
    assert len(words.pieces) == len(words.spans)
    for piece, (start, _) in zip(words.pieces, words.spans.tolist(), strict=True):
        assert encoding.offsets[piece][0] <= start < encoding.offsets[piece][1]
    return [text[start:end] for start, end in words.spans.tolist()]


@pytest.mark.parametrize("make", [word_piece, byte_level])
def test_words_are_the_same_for_every_tokenizer(make):
    assert found(make(), TEXT) == WORDS


def test_a_piece_of_two_words_is_one():
    assert found(metaspace(), TEXT) == [*WORDS[:4], "),", *WORDS[6:]]


def test_special_tokens_and_blank_texts_have_no_words():
    for text in ("", "   "):
        assert found(word_piece(), text) == []
    encoding = word_piece().encode("in New")
    assert (
        encoding.tokens[0] == "[CLS]"
        and find_words("in New", encoding.offsets, encoding.word_ids).pieces[0] == 1
    )


def test_scripts_without_blanks_have_a_word_for_each_character_of_a_piece():
    tokenizer = Tokenizer(models.Unigram([("▁", -9.0), ("東", -1.0), ("京", -1.0), ("に", -1.0)], unk_id=0))
    tokenizer.pre_tokenizer = Metaspace()
    assert found(tokenizer, "東京 に") == ["東", "京", "に"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ไปกรุงเทพ 5 ครั้ง", ["ไ", "ป", "ก", "รุ", "ง", "เ", "ท", "พ", "5", "ค", "รั้", "ง"]),  # Thai
        ("ວຽງ", ["ວ", "ຽ", "ງ"]),  # Lao
        ("ភ្នំពេញ", ["ភ្", "នំ", "ពេ", "ញ"]),  # Khmer
        ("ရန်ကုန်", ["ရ", "န်", "ကု", "န်"]),  # Burmese
        ("서울 in 서울", ["서", "울", "in", "서", "울"]),
        ("❤️ ok", ["❤️", "ok"]),
    ],
)
def test_each_character_of_some_scripts_is_a_word_with_its_marks(text, words):
    assert [text[start:end] for start, end in words_of(text).spans.tolist()] == words
    assert found(byte_level(), text) == words


def test_a_character_of_several_pieces_is_in_one_word():
    assert found(byte_level(), "né 😀 x") == ["né", "😀", "x"]


def test_marks_continue_a_word():
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0, "ह": 1, "##ि": 2, "##न": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split(" ", "removed")
    assert found(tokenizer, "हिन") == ["हिन"]


def tagged(entities: list[tuple[int, int, int]]) -> list[int]:
    encoding = byte_level().encode(TEXT)
    return tags_of_words(find_words(TEXT, encoding.offsets, encoding.word_ids), entities).tolist()


def test_the_first_word_of_an_entity_begins_it():
    start = TEXT.index("New")
    assert tagged([(start, start + 8, 1)]) == [0, 0, 3, 4, *[0] * 8]
    assert tagged([]) == [0] * len(WORDS)


def test_adjacent_entities_begin_each():
    start = TEXT.index("New")
    assert tagged([(start + 4, start + 8, 0), (start, start + 3, 0)])[:5] == [0, 0, 1, 1, 0]


def test_an_entity_has_the_words_that_it_shares_characters_with():
    start = TEXT.index("5pm")
    assert tagged([(start, start + 1, 0)]) == [*[0] * 10, 1, 0]
    assert tagged([(start + 1, start + 3, 0)]) == [*[0] * 10, 1, 0]
    assert tagged([(start, start + 1, 1), (start + 1, start + 3, 0)]) == [*[0] * 10, 3, 0], "the earlier one"


def test_an_entity_beyond_the_tokens_has_no_words():
    encoding = byte_level().encode(TEXT)
    words = find_words(TEXT, encoding.offsets[:6], encoding.word_ids[:6])
    assert (tags_of_words(words, [(25, 33, 0)]) == 0).all() and len(words.pieces) < len(WORDS)
    assert words.pieces.dtype == np.int64


def test_an_entity_inside_a_word_of_an_earlier_one_is_hidden():
    text = "see NewYork at 5pm."
    york, new, five, unit = (7, 11, 0), (4, 7, 0), (15, 16, 1), (16, 18, 2)
    assert hidden_entities(text, [york, unit, new, five]) == [york, unit]
    assert hidden_entities(text, [new, (12, 14, 0), five]) == [] == hidden_entities(text, [])
    assert hidden_entities(text, [(4, 7, 0), (7, 14, 1)]) == [], "it has the next word"
    assert hidden_entities("a-b c", [(0, 1, 0), (2, 3, 0), (1, 2, 1)]) == [], "marks are words of their own"
    assert hidden_entities("abc", [(0, 1, 0), (1, 2, 1), (2, 3, 0)]) == [(1, 2, 1), (2, 3, 0)]
