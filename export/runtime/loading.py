"""Open the files of a classifier: verify them, and open its tokenizer and its graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..artifact.contents import Contents
from ..artifact.files import MAX_JSON_BYTES
from ..artifact.manifest import MODEL_FILE, SETTINGS_FILE, TOKENIZER_FILE
from .classifier_config import ClassifierConfig, read_config
from .fast.choose import choose_for_graph
from .session.bound_graph import open_with_buffers
from .session.graph import Graph
from .session.session_options import MAX_THREADS, check_session, session_options
from .tasks import DECODERS
from .tokenizer import MAX_TOKENIZER_BYTES, Tokenizer

TOKENIZERS = ("fast", "tokenizers")
"""Accepted values of the argument ``tokenizer``."""


def open_files(
    directory: Path,
    *,
    num_threads: int | None,
    providers: Sequence[Any] | None,
    session: Mapping[str, Any] | None,
    verify: bool,
    tokenizer: str | None,
    io_binding: bool,
    cuda_graphs: bool,
) -> tuple[Graph, Tokenizer, ClassifierConfig]:
    """Open graph, tokenizer and configuration in ``directory``.

    Arguments and errors are those of :meth:`~distiltune.export.runtime.classifier.TextClassifier.load`.
    """
    if num_threads is not None and (type(num_threads) is not int or not 1 <= num_threads <= MAX_THREADS):
        raise InputError(f"num_threads is {num_threads!r:.60}; give 1 to {MAX_THREADS}")
    if tokenizer is not None and tokenizer not in TOKENIZERS:
        raise InputError(f"tokenizer is {tokenizer!r:.60}; give {' or '.join(TOKENIZERS)}")
    try:
        check_session({} if session is None else session)
    except ValueError as error:
        raise InputError(f"session: {error}") from None
    contents = Contents(directory, verify=verify)
    config = read_config(contents.read(SETTINGS_FILE, MAX_JSON_BYTES), directory / SETTINGS_FILE)
    content = contents.read(TOKENIZER_FILE, MAX_TOKENIZER_BYTES)
    own = Tokenizer(
        content,
        config.max_length,
        config.pad_token_id,
        directory / TOKENIZER_FILE,
        takes_pairs=config.takes_pairs,
        with_offsets=DECODERS[config.task].of_tokens,
        with_windows=DECODERS[config.task].of_windows,
    )
    options = session_options(
        num_threads or config.num_threads or 1, config.session if session is None else session
    )
    graph = open_with_buffers(
        directory / MODEL_FILE, options, providers, config, io_binding=io_binding, cuda_graphs=cuda_graphs
    )
    if tokenizer == "fast":
        own.use(*choose_for_graph(own, content, graph.input_types, directory))
    contents.check_unchanged()
    return graph, own, config
