"""Target of ONNX graphs on the CPU, run as in deployment: through ``TextClassifier``."""

from __future__ import annotations

from functools import partial
from typing import Any

from .base import Opened, OpenOptions, Target, register


def open_classifier(options: OpenOptions, **load: Any) -> Opened:
    """Open an ONNX variant; ``load`` are further arguments of ``TextClassifier.load``."""
    from ...runtime.classifier import TextClassifier

    classifier = TextClassifier.load(
        options.directory,
        num_threads=options.num_threads,
        session=options.session,
        tokenizer=options.tokenizer,
        **load,
    )
    logits = partial(classifier.logits, batch_size=1)
    return Opened(
        classifier,
        logits,
        labels=classifier.labels,
        threshold=classifier.threshold,
        temperature=classifier.temperature,
        profile=classifier.profile,
        num_nodes=classifier.num_nodes,
        tokens=classifier.tokens if classifier.of_tokens and not classifier.of_windows else None,
        windows=classifier.windows if classifier.of_windows else None,
        at_length=classifier.cut_to,
    )


register(
    Target(
        "onnx",
        "ONNX Runtime on the CPU, through TextClassifier",
        open_classifier,
        is_gated=True,
        can_be_sealed=True,
        is_onnx=True,
        color="#f58518",
    )
)
