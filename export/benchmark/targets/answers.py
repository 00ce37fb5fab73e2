"""Open a PyTorch model that answers questions, for which transformers no longer has a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from .base import Opened, OpenOptions

if TYPE_CHECKING:
    import numpy as np

    from ....training.tasks.spans.windows import Window, Windowing


def open_answerer(
    model: Any, tokenizer: Any, logits: Any, options: OpenOptions, *, device: str = "cpu"
) -> Opened:
    """Wrap a model of spans in a function from pairs to answers, in inference mode.

    All windows of a batch of pairs are run together, fewer where they are long, and decoded as in the runtime.

    Args:
        model: The model, on its device.
        tokenizer: Its fast tokenizer.
        logits: Function from pairs to the logits of their windows, rows of [L, 2].
        options: Options, of which ``max_length`` is the length of a window.
        device: Device of the model.
    """
    import numpy as np

    from ....training.checkpoints.load import label_names
    from ....training.ragged import Ragged
    from ....training.tasks.spans.windows import Windowing
    from ...runtime.tasks import DECODERS, WindowDecoder

    decoder = DECODERS[options.task]
    assert isinstance(decoder, WindowDecoder)
    windowing = Windowing.of_transformers(tokenizer, options.max_length)

    def answered(pairs: list[tuple[str, str]], windowing: Windowing) -> list[dict[str, Any]]:
        windows = windowing.windows(pairs)
        rows = _run(model, windows, int(tokenizer.pad_token_id), device)
        contexts = [context for _, context in pairs]
        return decoder.decode_windows(contexts, windows, Ragged.of(rows, np.float32, (2,)), None)

    def call(texts: Any, batch_size: int = 1, windowing: Windowing = windowing) -> Any:
        pairs = list(texts) if isinstance(texts, list) else [texts]
        found = [
            answer
            for start in range(0, len(pairs), batch_size)
            for answer in answered(pairs[start : start + batch_size], windowing)
        ]
        return found if isinstance(texts, list) else found[0]

    def at_length(num_tokens: int) -> Any:
        return partial(call, windowing=windowing.cut_to(num_tokens))

    return Opened(call, logits, label_names(model.config), windows=windowing.windows, at_length=at_length)


def window_inputs(model: Any, windows: Sequence[Window], pad_token_id: int) -> dict[str, Any]:
    """Return the inputs [B, L] that a model reads of windows, padded to the longest of them."""
    import torch

    from ....training.data.tokenized import TOKEN_TYPES
    from ....training.models.token_types import without_unread_types

    shape = len(windows), max(map(len, windows))
    given = {
        "input_ids": torch.full(shape, pad_token_id),
        TOKEN_TYPES: torch.zeros(shape, dtype=torch.long),
        "attention_mask": torch.zeros(shape, dtype=torch.long),
    }
    for row, each in enumerate(windows):
        given["input_ids"][row, : len(each)] = torch.tensor(each.ids)
        given[TOKEN_TYPES][row, : len(each)] = torch.tensor(each.type_ids)
        given["attention_mask"][row, : len(each)] = 1
    return without_unread_types(model, given)


def _run(model: Any, windows: Sequence[Window], pad_token_id: int, device: str) -> list[np.ndarray]:
    """Return the logits float32[L, 2] of each window; as many windows are run together as memory allows."""
    import torch

    from ...runtime.session.feeds import runs_of

    found: dict[int, np.ndarray] = {}
    for places in runs_of([len(each) for each in windows], len(windows)):
        batch = window_inputs(model, [windows[place] for place in places], pad_token_id)
        with torch.inference_mode():
            logits = model(**{name: each.to(device) for name, each in batch.items()}).logits
        for place, own in zip(places, logits.float().cpu().numpy(), strict=True):
            found[place] = own[: len(windows[place])]
    return [found[place] for place in range(len(windows))]
