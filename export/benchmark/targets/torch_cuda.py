"""Target of PyTorch checkpoints on an NVIDIA GPU in 16-bit floats, tokenized in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .base import Opened, OpenOptions, Target, register
from .pytorch import set_threads

if TYPE_CHECKING:
    import numpy as np

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
    import numpy as np
    import torch

    from ....training import tasks
    from ....training.checkpoints.load import label_names, load_classifier
    from ...runtime.tasks import DECODERS

    set_threads(options.num_threads)
    model, tokenizer = load_classifier(options.directory, tasks.get(options.task))
    model = model.to(DEVICE, torch.float16).eval()
    names, decoder = label_names(model.config), DECODERS[options.task]
    pinned = torch.cuda.is_available()

    def run(texts: list[str]) -> np.ndarray:
        batch = tokenizer(
            texts, truncation=True, max_length=options.max_length, padding=True, return_tensors="pt"
        )
        if pinned:
            batch = {name: each.pin_memory() for name, each in batch.items()}
        with torch.inference_mode():
            given = {name: each.to(DEVICE, non_blocking=True) for name, each in batch.items()}
            return model(**given).logits.float().cpu().numpy()

    def logits(texts: Sequence[str], batch_size: int = 1) -> np.ndarray:
        batches = [list(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)]
        return np.concatenate([run(batch) for batch in batches])

    def classify(texts: str | Sequence[str], batch_size: int = 32) -> Any:
        single = isinstance(texts, str)
        answers = decoder.decode(logits([texts] if single else texts, batch_size), names, None)
        return answers[0] if single else answers

    return Opened(classify, logits, names)


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
