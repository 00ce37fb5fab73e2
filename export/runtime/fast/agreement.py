"""Compare the ids of a fast tokenizer with those of ``tokenizers``, on texts of every script and of every length."""
# ruff: noqa: RUF001

from __future__ import annotations

from collections.abc import Sequence

from ..tokenizer import Tokenizer, is_fault
from .base import Encode

MOST_TOKENS = 4096
"""Largest ``max_length`` at which truncation is compared; a fast tokenizer is not used beyond it."""
TEXTS = (
    "",
    " ",
    "\t\n\r\v\f",
    "\u00a0\u2003\u3000",
    "when is the next tram to the harbour?",
    "  two  spaces, and\ttabs\n\nand lines  ",
    "I'd pay $1,299.50 (or 50%) -- isn't it? e-mail: a.b+c@example.org, https://example.org/?q=1&r=2#x",
    "don't can't won't it's O'Neill rock'n'roll \u2019twas \u201cquoted\u201d \u2014 \u2026",
    "snake_case camelCase kebab-case <b>bold</b> {json: [1, 2.5e-3]} C++ #tag @name ~/x\\y ^ ` | =",
    "[CLS] open [SEP] the [MASK] [PAD] [UNK] ##able ## [sep] [CLS]x <s> </s> <pad> <unk> <mask>",
    "Crème brûlée, naïve façade, Ångström, Łódź, Dvořák, Þór, Straße, ĳ, ﬁne, ẞ, ŒUVRE, İstanbul ığdır",
    "e\u0301 a\u0308\u0323 n\u0303 \u0301 o\u0302\u0301\u0323 Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f",
    "Καλημέρα κόσμε, ΌΣΟΣ ὅδε ᾧ",
    "Привет, мир! Ёлка объём київ ѣ",
    "مرحبا بالعالم، كيف الحال؟ ١٢٣ لُغَةٌ",
    "שלום עולם, מה שלומך? שָׁלוֹם",
    "नमस्ते दुनिया, क्या हाल है? १२३ क्षत्रिय",
    "বাংলা தமிழ் తెలుగు ಕನ್ನಡ മലയാളം ગુજરાતી ਪੰਜਾਬੀ සිංහල",
    "สวัสดีชาวโลก ภาษาไทยไม่มีช่องว่าง ๑๒๓",
    "ພາສາລາວ မြန်မာဘာသာ ភាសាខ្មែរ བོད་སྐད",
    "你好，世界。今天天气怎么样？𠀀𪚥",
    "繁體中文與English混排，２０２４年",
    "こんにちは世界、カタカナとｶﾀｶﾅ、ひらがな。",
    "안녕하세요 세계, \u1112\u1161\u11ab\u1100\u1173\u11af",
    "ქართული Հայերեն አማርኛ ᏣᎳᎩ ᠮᠣᠩᠭᠣᠯ",
    "😀 👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪 ❤️ ☺ 1️⃣ 🫠",
    "\u200b zero\u200bwidth \u200d\u200c \ufeff bom \u00ad soft\u00adhyphen \u2060 \u180e",
    "\u202eright to left\u202c \u2066isolate\u2069 \u061c",
    "a\x00b \x01\x02\x1b[31m \x7f \x80\x85 \x9f \ufffd \ufffe \uffff \U0010ffff \ue000",
    "line\u2028separator\u2029paragraph\u0085next",
    "½ ² ① Ⅷ ㎏ ℃ ™ ﷺ ㍿ ﬀ 𝔘𝔫𝔦 𝕏 ＦＵＬＬ ｗｉｄｔｈ",
    "∑∫√∞≠≤ → ⇒ ∀x∈ℝ ± × ÷ € £ ¥ ₹ ₿ § ¶ † ‡ •",
    "donaudampfschifffahrtsgesellschaftskapitän pneumonoultramicroscopicsilicovolcanoconiosis",
    "a" * 99 + " " + "b" * 100 + " " + "c" * 101 + " " + "d" * 250,
    "é" * 60 + " " + "漢" * 30 + " " + "🙂" * 60,
    "!" * 70 + "?!?!... ,,, ;;; ((([[[{{{}}}]]])))",
    "0 12 345 6789 1234567890123456789 3.14159 1,000,000 0x1F 1e10 -5 +7",
    "MiXeD CaSe ÀÉÎÕÜ ǅ ſ K Å Ω",
)
"""Blank texts, everyday English, every script, marks, controls, emoji, and words that are too long."""
_NOT_UNICODE = ("\ud800", "open \udfff")  # lone surrogates, which must fail


def disagreement(encode: Encode, tokenizer: Tokenizer, further: Sequence[str]) -> str | None:
    """Return why a fast tokenizer cannot be used; None where it can.

    For texts of fewer than ``max_length`` tokens, its ids must be those of ``tokenizers``. Longer texts are left to
    ``tokenizers``; for these it must give at least ``max_length`` ids, by which they are recognized.

    Args:
        encode: The fast tokenizer.
        tokenizer: The artifact's own.
        further: Texts to compare besides ``TEXTS``.
    """
    if tokenizer.max_length > MOST_TOKENS:
        return f"max_length is {tokenizer.max_length}, but ids are compared only up to {MOST_TOKENS} tokens"
    for text in (*TEXTS, *further, *_long_texts(tokenizer)):
        expected = tokenizer.encode_one(text).ids
        try:
            found = encode(text)
        except BaseException as error:
            if not is_fault(error):
                raise
            return f"it fails on {text!r:.60} ({type(error).__name__})"
        is_cut = len(expected) >= tokenizer.max_length
        if len(found) < tokenizer.max_length if is_cut else list(found) != expected:
            return f"its ids differ for {text!r:.60}"
    for text in _NOT_UNICODE:
        if not _fails(encode, text):
            return f"it accepts {text!r}, which is not valid Unicode"
    return None


def _long_texts(tokenizer: Tokenizer) -> list[str]:
    """Return texts of about ``max_length`` tokens: a few less, as many, more, and many more."""
    around = {tokenizer.max_length + more for more in (-4, -3, -2, -1, 0, 1, 2)}
    counts = sorted({each for each in around if each > 0} | {2 * tokenizer.max_length})
    return ["a" + " a" * (count - 1) for count in counts]


def _fails(encode: Encode, text: str) -> bool:
    try:
        encode(text)
    except BaseException as error:
        if not is_fault(error):
            raise
        return True
    return False
