"""Choose a fast tokenizer for an artifact, and cache whether its ids agree with those of ``tokenizers``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import tokenizers

from ...artifact.manifest import MODEL_FILE, PROBES_FILE
from ...artifact.private_cache import read_lines, write_lines
from ..probe_file import read_probes
from ..session.graph import cause
from ..tokenizer import Tokenizer, is_fault
from .agreement import TEXTS, disagreement
from .base import FAST_TOKENIZERS, Encode, FastTokenizer

_FILE = "fast-tokenizers-1"
_MAX_ENTRIES = 256
_KEY_LENGTH = 64


class ChosenTokenizer(NamedTuple):
    """The fast tokenizer for an artifact.

    Attributes:
        name: Name of the package; None: none can be used.
        encode: Maps a text to its ids.
        why: Why no earlier one is used; None where the first one is.
    """

    name: str | None
    encode: Encode | None
    why: str | None


def choose_for_graph(
    own: Tokenizer, content: bytes, input_names: Iterable[str], folder: Path
) -> ChosenTokenizer:
    """Choose a fast tokenizer that gives the same ids, for a graph with these inputs.

    Args:
        own: The artifact's own tokenizer.
        content: Content of its ``tokenizer.json``.
        input_names: Names of the graph's inputs.
        folder: Folder of the artifact, whose probes are compared as well if it has any.
    """
    if own.takes_pairs:
        return ChosenTokenizer(None, None, "only the package tokenizers supports pairs of texts")
    if own.with_offsets:
        return ChosenTokenizer(None, None, "fast tokenizers do not give the places of tokens in a text")
    if "token_type_ids" in input_names:
        return ChosenTokenizer(
            None, None, f"{MODEL_FILE} reads token_type_ids, which fast tokenizers do not give"
        )
    has_probes = (folder / PROBES_FILE).is_file()
    return choose_fast_tokenizer(
        own, content, [each.ids for each in read_probes(folder)] if has_probes else []
    )


def choose_fast_tokenizer(
    tokenizer: Tokenizer, content: bytes, probes: Sequence[Sequence[int]]
) -> ChosenTokenizer:
    """Choose the first fast tokenizer that is installed and gives the same ids.

    Args:
        tokenizer: The artifact's own.
        content: Content of its ``tokenizer.json``.
        probes: Ids whose texts are compared as well.
    """
    reasons = []
    for fast in FAST_TOKENIZERS.values():
        version = fast.version()
        if version is None:
            reasons.append(f"{fast.name} is not installed")
            continue
        encode, reason = _opened(fast, version, tokenizer, content, probes)
        if reason is None:
            return ChosenTokenizer(fast.name, encode, "; ".join(reasons) or None)
        reasons.append(f"{fast.name} {version}: {reason}")
    return ChosenTokenizer(None, None, "; ".join(reasons))


def _opened(
    fast: FastTokenizer, version: str, tokenizer: Tokenizer, content: bytes, probes: Sequence[Sequence[int]]
) -> tuple[Encode | None, str | None]:
    """Return the opened fast tokenizer, or why it cannot be used."""
    known = _load_verdicts()
    key = _key(fast, version, tokenizer, content, probes)
    if known.get(key) is not None:
        return None, known[key]
    try:
        encode = fast.open(content, tokenizer.path)
    except BaseException as error:
        if not is_fault(error):
            raise
        return None, f"it does not open tokenizer.json ({cause(error)})"
    if key not in known:
        decode = tokenizer.tokenizer.decode
        reason = disagreement(encode, tokenizer, [decode(list(ids)) for ids in probes])
        _save_verdicts({**known, key: reason})
        if reason is not None:
            return None, reason
    return encode, None


def _key(
    fast: FastTokenizer, version: str, tokenizer: Tokenizer, content: bytes, probes: Sequence[Sequence[int]]
) -> str:
    """Return the SHA-256 of everything that a verdict depends on."""
    parts = [
        hashlib.sha256(content).hexdigest(),
        fast.name,
        version,
        tokenizers.__version__,
        tokenizer.max_length,
        TEXTS,
        [list(ids) for ids in probes],
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _load_verdicts() -> dict[str, str | None]:
    """Return key → why the ids disagree, None where they agree; empty if the cache cannot be trusted."""
    try:
        entries = [line.split(" ", 1) for line in read_lines(_FILE)]
        verdicts = {key: json.loads(value) for key, value in entries}
    except ValueError:
        return {}
    if all(len(key) == _KEY_LENGTH and isinstance(each, str | None) for key, each in verdicts.items()):
        return verdicts
    return {}


def _save_verdicts(verdicts: dict[str, str | None]) -> None:
    entries = list(verdicts.items())[-_MAX_ENTRIES:]
    write_lines(_FILE, (f"{key} {json.dumps(reason)}" for key, reason in entries))
