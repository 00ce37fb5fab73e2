"""Target of a teacher that is not run, because only its stored logits on both splits are known."""

from __future__ import annotations

from typing import NoReturn

from ....errors import InputError
from .base import OpenOptions, Target, register

KNOWN_ANSWERS = "known-answers"
"""Name of the target."""


def _open(options: OpenOptions) -> NoReturn:
    raise InputError(f"{options.directory}: a file of logits cannot be opened to classify texts; use a model")


register(
    Target(
        KNOWN_ANSWERS, "logits of a file, which are not computed here", _open, is_run=False, color="#4c78a8"
    )
)
