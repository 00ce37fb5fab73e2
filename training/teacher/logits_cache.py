"""A content-addressed cache of the teacher's logits over a split, joined by example id."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import InputError
from ...progress import ReportProgress
from ...storage.folders import new_folder
from ..checkpoints.load import checkpoint_fingerprint, load_classifier
from ..data.tokenized import TokenizedSplit
from ..models.inference import DTYPES, compute_logits
from ..ragged import Ragged, Rows, flat
from ..tasks import SINGLE_LABEL, Task

logger = logging.getLogger(__name__)

_LOGITS, _EXAMPLE_IDS, _META = "logits.npy", "example_ids.npy", "meta.json"
_OFFSETS = "offsets.npy"  # where the tokens of each text begin, if the teacher has logits for each token
_FORMAT = 1


@dataclass(frozen=True)
class LogitsResult:
    """Logits of a split.

    Attributes:
        logits: float32[N, C], or rows of [L, C], read-only, in the split's order; memory-mapped if the cache has the
            same order.
        computed: Whether the teacher had to be run.
        key: Name of the entry in the cache.
        seconds: Elapsed time, including hashing and reading.
    """

    logits: Rows
    computed: bool
    key: str
    seconds: float


def logits_key(model_dir: str | Path, split: TokenizedSplit, max_length: int, dtype: str) -> str:
    """Return a hash of all that the logits depend on: token ids, teacher's weights and tokenizer, length, dtype.

    The key does not depend on the order of the rows. Only files are read; no model is loaded.
    """
    digest = hashlib.sha256(f"{_FORMAT}:{checkpoint_fingerprint(model_dir)}:{max_length}:{dtype}\n".encode())
    digest.update(np.sort(split.example_ids).astype("<i8").tobytes())
    return digest.hexdigest()[:32]


def teacher_logits(
    model_dir: Path,
    split: TokenizedSplit,
    *,
    max_length: int,
    cache_dir: Path,
    dtype: str = "float32",
    num_threads: int,
    batch_size: int = 256,
    use_gpu: bool | None = None,
    task: Task = SINGLE_LABEL,
    report: ReportProgress | None = None,
) -> LogitsResult:
    """Return the teacher's logits over a split, from the cache or by running the teacher.

    Rows are looked up by the hash of their token ids. An entry that lacks a row, is damaged, or does not match its
    name counts as a miss and is recomputed, so a text never gets another text's logits.

    Args:
        model_dir: The teacher's checkpoint.
        split: Texts tokenized with the teacher's tokenizer.
        max_length: Tokens that texts were cut to.
        cache_dir: Contains ``<key>/logits.npy`` float32[N, C], ``<key>/example_ids.npy`` int64[N] and
            ``<key>/meta.json``; logits of tokens are [total, C], with ``<key>/offsets.npy`` int64[N + 1]; safe for
            concurrent writers.
        dtype: ``float32``, or ``tf32`` or ``bfloat16`` for the multiplications (the logits are float32 in all cases).
        num_threads: Intra-op threads while computing.
        batch_size: Maximum number of texts per batch; batches have texts of similar length.
        use_gpu: Whether a GPU may be used; None uses one if available.
        task: The teacher's task.
        report: Called while the teacher runs, as in ``compute_logits``.

    Raises:
        InputError: ``dtype`` is unknown, or the device does not have it.
        ModelError: The teacher cannot be loaded, or gives logits that are not finite.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is {dtype!r}; accepted: {', '.join(DTYPES)}")
    began = time.monotonic()
    key = logits_key(model_dir, split, max_length, dtype)
    held = _read(cache_dir / key, key, split)
    computed, damaged = held is None, held is None and (cache_dir / key).exists()
    if held is None:
        model, tokenizer = load_classifier(model_dir, task)
        values = compute_logits(
            model,
            split,
            pad_token_id=tokenizer.pad_token_id,
            num_threads=num_threads,
            batch_size=batch_size,
            dtype=dtype,
            use_gpu=use_gpu,
            report=report,
        )
        # An entry written concurrently is equal and may be in use, so keep it; replace a damaged one.
        for keep_existing in (not damaged, False):
            _write(cache_dir / key, key, split, values, keep_existing=keep_existing)
            held = _read(cache_dir / key, key, split)
            if held is not None:
                break
        assert held is not None, "what was just written can be read"
    return LogitsResult(held, computed, key, time.monotonic() - began)


def _read(directory: Path, key: str, split: TokenizedSplit) -> Rows | None:
    """Return the entry's logits in the split's order, read-only, or None if anything does not match."""
    if not directory.exists():
        return None
    try:
        meta = json.loads((directory / _META).read_text(encoding="utf-8"))
        example_ids = np.load(directory / _EXAMPLE_IDS)
        logits: Rows = np.load(directory / _LOGITS, mmap_mode="r")
        if (directory / _OFFSETS).is_file():
            logits = Ragged(flat(logits), np.load(directory / _OFFSETS))
        fits = meta == _meta(key, example_ids, logits)
    except (OSError, ValueError, EOFError) as error:
        logger.warning("%s: cannot be read (%s); recomputing the teacher's logits", directory, error)
        return None
    if not fits or not np.array_equal(np.sort(example_ids), np.sort(split.example_ids)):
        logger.warning("%s: does not match its key; recomputing the teacher's logits", directory)
        return None
    if np.array_equal(example_ids, split.example_ids):
        return logits
    order = np.argsort(example_ids)
    joined = logits[order[np.searchsorted(example_ids, split.example_ids, sorter=order)]]
    flat(joined).flags.writeable = False
    return joined


def _write(directory: Path, key: str, split: TokenizedSplit, logits: Rows, *, keep_existing: bool) -> None:
    with new_folder(directory, keep_existing=keep_existing) as folder:
        np.save(folder / _LOGITS, flat(logits))
        if isinstance(logits, Ragged):
            np.save(folder / _OFFSETS, logits.offsets)
        np.save(folder / _EXAMPLE_IDS, split.example_ids)
        meta = _meta(key, split.example_ids, logits)
        (folder / _META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def _meta(key: str, example_ids: np.ndarray, logits: Rows) -> dict[str, object]:
    digest, values = hashlib.sha256(), flat(logits)
    for array in (example_ids, values, *([logits.offsets] if isinstance(logits, Ragged) else [])):
        digest.update(np.ascontiguousarray(array).tobytes())
    return {"key": key, "shape": list(values.shape), "dtype": str(values.dtype), "sha256": digest.hexdigest()}
