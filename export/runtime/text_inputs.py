"""Check the texts, or pairs of texts, that a classifier is called with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...errors import InputError
from ...texts import TextOrPair, is_pair


def checked_texts(texts: Any, takes_pairs: bool) -> list[TextOrPair]:
    """Return texts as a list, which may be empty; a pair may be given as a list of two strings.

    Args:
        texts: What a classifier was called with.
        takes_pairs: Whether the classifier takes pairs.

    Raises:
        InputError: One is not what the classifier takes; the message has the remedy.
    """
    wanted = "a tuple (text, text_pair)" if takes_pairs else "a string"
    if isinstance(texts, str):
        raise InputError(
            f"texts is the text {texts!r:.60}, but this artifact takes pairs of texts; give {wanted}"
        )
    if not isinstance(texts, Iterable):
        raise InputError(f"texts is {type(texts).__name__}; give {wanted}, or a sequence of them")
    given = [tuple(text) if takes_pairs and isinstance(text, list) else text for text in texts]
    for i, text in enumerate(given):
        if is_pair(text) if takes_pairs else isinstance(text, str):
            continue
        if takes_pairs and isinstance(text, str):
            raise InputError(
                f"text {i} is the text {text!r:.60}, but this artifact takes pairs of texts; give {wanted}"
            )
        if is_pair(text):
            raise InputError(
                f"text {i} is the pair {text!r:.60}, but this artifact takes single texts; give {wanted}"
            )
        raise InputError(f"text {i} is {type(text).__name__} {text!r:.60}; give {wanted}")
    return given
