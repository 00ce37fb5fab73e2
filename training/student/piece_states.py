"""The teacher's hidden states of single word pieces, kept in a store by their content."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from ...errors import ModelError
from ...progress import Progress, ReportProgress
from ...storage.folders import new_folder
from ...storage.store import Store
from ..checkpoints.load import checkpoint_fingerprint, load_classifier
from ..models.runtime import evaluation_device, intra_op_threads
from ..tasks import SINGLE_LABEL, Task

logger = logging.getLogger(__name__)

_STATES, _META = "states.npy", "meta.json"
_FORMAT = 1
_BATCH_SIZE = 512
_REPORT_EVERY_S = 1.0


@dataclass(frozen=True)
class StatesCache:
    """A cache of states, which students of the same teacher share.

    Attributes:
        store: The store.
        folder: Key of the folder that contains the states of each teacher and each list of word pieces.
    """

    store: Store
    folder: str

    def read(self, name: str, num_pieces: int) -> tuple[np.ndarray | None, bool]:
        """Return the stored states float32[N, H], or None, and whether damaged ones are stored."""
        try:
            folder = self.store.fetch(f"{self.folder}/{name}")
        except FileNotFoundError:
            return None, False
        try:
            states = np.load(folder / _STATES)
            meta = json.loads((folder / _META).read_text(encoding="utf-8"))
        except (OSError, ValueError, EOFError):
            states, meta = np.zeros(0), None
        if meta == _meta(states) and len(states) == num_pieces:
            return states, False
        logger.warning("%s: damaged; computing the teacher's states again", folder)
        return None, True

    def keep(self, name: str, states: np.ndarray, *, keep_existing: bool) -> None:
        """Store states.

        Raises:
            StorageError: The store cannot be written.
        """
        key = f"{self.folder}/{name}"
        with new_folder(self.store.local(key), keep_existing=keep_existing) as folder:
            np.save(folder / _STATES, states)
            (folder / _META).write_text(json.dumps(_meta(states), indent=2) + "\n", encoding="utf-8")
        self.store.publish(key, shared=True)


def states_of_pieces(
    teacher_dir: Path,
    pieces: Sequence[int],
    *,
    cache: StatesCache | None = None,
    num_threads: int | None = None,
    use_gpu: bool | None = None,
    task: Task = SINGLE_LABEL,
    report: ReportProgress | None = None,
) -> tuple[np.ndarray, str]:
    """Return the teacher's states of word pieces, from the cache or by running the teacher.

    Args:
        teacher_dir: The teacher's checkpoint.
        pieces: Token ids, N of them.
        cache: Keeps the states, so that other students of this teacher need not run it; None: they are not kept.
        num_threads: Intra-op threads; None does not change them.
        use_gpu: Whether a GPU may be used; None uses one if available.
        task: The teacher's task.
        report: Called at most once a second while the teacher runs; ``done`` and ``total`` count pieces.

    Returns:
        The states float32[N, H], and their name in a cache.

    Raises:
        ModelError: The teacher cannot be loaded, or its states are not finite.
        StorageError: The store does not respond.
    """
    ids = np.asarray(pieces, dtype="<i8")
    name = _name(teacher_dir, ids)
    held, is_damaged = (None, False) if cache is None else cache.read(name, len(ids))
    if held is not None:
        return held, name
    with torch.random.fork_rng(devices=[]):  # later random numbers must not depend on what is cached
        teacher, tokenizer = load_classifier(teacher_dir, task)
        threads = num_threads or torch.get_num_threads()
        states = compute_states(teacher, tokenizer, ids, num_threads=threads, use_gpu=use_gpu, report=report)
    if cache is not None:
        # States written concurrently are equal and may be in use, so keep them; replace damaged ones.
        cache.keep(name, states, keep_existing=not is_damaged)
    return states, name


def _name(teacher_dir: Path, ids: np.ndarray) -> str:
    """Return a hash of all that the states depend on: the teacher's weights and tokenizer, and the pieces."""
    digest = hashlib.sha256(f"{_FORMAT}:{checkpoint_fingerprint(teacher_dir)}\n".encode() + ids.tobytes())
    return digest.hexdigest()[:32]


def compute_states(
    teacher: PreTrainedModel,
    tokenizer: Any,
    ids: np.ndarray,
    *,
    num_threads: int,
    use_gpu: bool | None = None,
    report: ReportProgress | None = None,
) -> np.ndarray:
    """Return the mean of the teacher's last hidden states over each word piece as a text, float32[N, H].

    The text of a piece is the piece between the tokenizer's special tokens, given by their ids, so that any tokenizer
    works: a piece in the middle of a word has no spelling of its own. This is the first step of Model2Vec
    (https://github.com/MinishLab/model2vec).

    Args:
        teacher: A classifier of any family; it is moved to the device that is used.
        tokenizer: Its tokenizer.
        ids: int64[N].
        num_threads: Intra-op threads.
        use_gpu: Whether a GPU may be used; None uses one if available.
        report: Called at most once a second; ``done`` and ``total`` count pieces.

    Raises:
        ModelError: Some states are not finite.
    """
    before, after = special_tokens(tokenizer)
    device = evaluation_device(use_gpu)
    network: Any = teacher.base_model
    network.to(device).eval()
    batches = torch.from_numpy(np.asarray(ids, dtype=np.int64)).split(_BATCH_SIZE)
    found, num_done, reported = [], 0, time.monotonic()
    with intra_op_threads(num_threads), torch.inference_mode():
        for batch in batches:
            rows = torch.cat(
                [torch.tensor(before).repeat(len(batch), 1), batch[:, None], torch.tensor(after).repeat(len(batch), 1)],
                dim=1,
            ).long().to(device)  # fmt: skip
            states = network(input_ids=rows, attention_mask=torch.ones_like(rows)).last_hidden_state
            found.append(states.float().mean(dim=1).cpu().numpy())
            num_done += len(batch)
            if report is not None and time.monotonic() - reported > _REPORT_EVERY_S:
                reported = time.monotonic()
                message = f"{num_done:,} of {len(ids):,} word pieces read by the teacher"
                report(Progress(message, {"done": num_done, "total": len(ids)}))
    states = np.concatenate(found)
    if not np.isfinite(states).all():
        raise ModelError("the teacher's hidden states are not finite; train it with a lower learning rate")
    return states


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the ids that a tokenizer puts before and after a text."""
    text = "a"
    bare: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole: list[int] = tokenizer(text)["input_ids"]
    starts = range(len(whole) - len(bare) + 1)
    start = next((start for start in starts if whole[start : start + len(bare)] == bare), len(whole))
    return whole[:start], whole[start + len(bare) :]


def _meta(states: np.ndarray) -> dict[str, Any]:
    digest = hashlib.sha256(np.ascontiguousarray(states).tobytes()).hexdigest()
    return {"shape": list(states.shape), "dtype": str(states.dtype), "sha256": digest}
