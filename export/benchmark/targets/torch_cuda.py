"""Target of PyTorch checkpoints on an NVIDIA GPU in 16-bit floats, tokenized in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .base import Opened, OpenOptions, Target, register
from .pytorch import length_bound, open_pipeline, set_threads

if TYPE_CHECKING:
    import numpy as np

    from ....texts import TextOrPair
    from ....training.ragged import Rows

DEVICE = "cuda"


def _missing() -> str | None:
    from importlib import util

    if util.find_spec("torch") is None:
        return "torch is not installed; install its build with CUDA"
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} was built without CUDA; install its build with CUDA"
    return None


def _open(options: OpenOptions) -> Opened:
    import torch

    from ....training import tasks
    from ....training.checkpoints.load import load_classifier, most_tokens
    from ....training.models.inference import compute_logits

    set_threads(options.num_threads)
    task = tasks.get(options.task)
    model, tokenizer = load_classifier(options.directory, task)
    network: Any = model
    network.to(DEVICE, torch.float16).eval()

    def logits(texts: Sequence[TextOrPair]) -> Rows:
        split = task.tokenize_texts(texts, tokenizer, options.max_length, int(model.config.num_labels or 0))
        return compute_logits(
            model,
            split,
            pad_token_id=int(model.config.pad_token_id or 0),
            num_threads=options.num_threads,
            batch_size=1,  # the logits of each text alone
            use_gpu=DEVICE != "cpu",
        )

    opened = open_pipeline(model, tokenizer, logits, options, device=DEVICE)
    if task.of_tokens:
        return opened

    def at_length(num_tokens: int) -> Any:
        most = most_tokens(model)
        cut = replace(options, max_length=num_tokens)
        return None if most is not None and num_tokens > most else _classifier(model, tokenizer, opened, cut)

    return replace(opened, pipeline=_classifier(model, tokenizer, opened, options), at_length=at_length)


def _classifier(model: Any, tokenizer: Any, opened: Opened, options: OpenOptions) -> Any:
    """Return a function that classifies texts in batches, without the overhead of the transformers pipeline."""
    import numpy as np
    import torch

    from ....texts import is_pair
    from ...runtime.session.feeds import most_texts
    from ...runtime.tasks import DECODERS

    decoder, pinned = DECODERS[options.task], torch.cuda.is_available()

    def run(texts: list[Any]) -> np.ndarray:
        columns = [list(column) for column in zip(*texts, strict=True)] if is_pair(texts[0]) else [texts]
        batch = tokenizer(
            *columns, truncation=True, max_length=options.max_length, padding=True, return_tensors="pt"
        )
        given = {name: each.pin_memory() if pinned else each for name, each in batch.items()}
        with torch.inference_mode():
            given = {name: each.to(DEVICE, non_blocking=True) for name, each in given.items()}
            return model(**given).logits.float().cpu().numpy()

    def classify(texts: Any, batch_size: int = 32) -> Any:
        single = not isinstance(texts, list)
        texts = [texts] if single else texts
        batch_size = most_texts(batch_size, length_bound(texts, options.max_length))
        found = [run(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)]
        answers = decoder.decode(np.concatenate(found), opened.labels, None)
        return answers[0] if single else answers

    return classify


register(
    Target(
        "torch-cuda",
        "PyTorch on an NVIDIA GPU, in 16-bit floats",
        _open,
        color="#9d755d",
        measures="pytorch",
        missing=_missing,
    )
)
