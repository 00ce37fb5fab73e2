"""Quiet loading through transformers and the hub, with every failure turned into one ``ModelError``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import logging as transformers_logging

from ...errors import DistiltuneError, ModelError, cut, first_line
from ..models.runtime import quiet

_MOST_SHOWN = 240  # characters of another library's reason


@contextmanager
def loading(name: str | Path) -> Iterator[None]:
    """Silence logging and turn any failure into one ``ModelError``."""
    try:
        with quiet():
            # transformers also raises the errors that it logs, some of which contain a whole configuration.
            transformers_logging.set_verbosity(logging.CRITICAL)
            yield
    except DistiltuneError:
        raise
    except Exception as error:  # strict configurations and tokenizers raise many types
        raise ModelError(_reason(str(name), error)) from error
    except BaseException as error:
        # A panic in tokenizers or safetensors is not an Exception, and its class cannot be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise ModelError(_reason(str(name), error)) from error


@contextmanager
def naming(key: str) -> Iterator[None]:
    """Prefix the message of a ``ModelError`` with the key that names the checkpoint."""
    try:
        yield
    except ModelError as error:
        message = str(error)
        is_named = message.startswith(key.rpartition(".")[0])
        raise ModelError(message if is_named else f"{key}: {message}") from error


# Words in another library's message -> the reason, and a remedy.
_KNOWN = {
    "untagged enum": "its tokenizer.json was written by another version of tokenizers than the installed one; save "
    "the tokenizer again with the installed version, or copy the vocabulary files of the original model instead",
    "sentencepiece": "its tokenizer needs SentencePiece, which is not installed; install it (pip install sentencepiece "
    "protobuf), or save the tokenizer once with tokenizer.json where it is installed",
    "tiktoken": "its tokenizer has no tokenizer.json; save it once with tokenizer.json where tiktoken or SentencePiece "
    "is installed",
}


def _reason(name: str, error: BaseException) -> str:
    for words, reason in _KNOWN.items():
        if words in str(error).lower():
            return f"{name}: cannot be loaded: {reason}"
    if not isinstance(error, OSError) or Path(name).is_dir():
        message = " ".join(str(error).split()) or first_line(error)
        return (
            f"{name}: cannot be loaded: {cut(message, _MOST_SHOWN)}; "
            "save it again with save_pretrained, or download it again"
        )
    if "safetensors" in str(error):
        return f"{name}: has no safetensors weights on the hub; use a revision or copy that has them"
    return (
        f"{name!r}: no such directory, and the model is not on the hub or the hub cannot be reached; use a local "
        f"directory, download it once with network (hf download), or use offline:all-MiniLM-L6-v2"
    )
