"""Reuse the search of another run in the same storage whose inputs are the same."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ....errors import DistiltuneError
from ....search.space.students import is_measured
from ....storage.folders import link_or_copy, new_folder
from ....storage.store import Store
from ...specification.config import JobConfig
from ...store.runs import TEACHERS, Run, now
from ...store.stage_index import enter, entry_of
from ..diagnose import DUPLICATES_FILE, ISSUES_FILE
from .extension import is_extended, threshold_of_search

if TYPE_CHECKING:
    from ....training.data.text_data import TextData

logger = logging.getLogger(__name__)

_METHOD = 2
"""Raised where the same inputs give another search: 2 since thresholds are smoothed and graphs in integers timed."""
_STAGES = ("teacher", "logits", "student", "search")
"""Stages that are reused together."""


class SearchReuse:
    """Finds the search of one job, and the stages before it, in another run, by the content of their inputs.

    The key covers the texts, each teacher's own key (which covers its checkpoint's content), their weights, the
    sections ``student``, ``training`` and ``search``, and the versions of the libraries. Variants and measurements are
    found one by one, see :class:`~distiltune.cluster.pipeline.reuse.models.ModelReuse`.

    Args:
        config: The specification.
        local_config: The specification with paths of this machine.
        run: The run of the job.
        data: Texts of the job.
    """

    def __init__(self, config: JobConfig, local_config: JobConfig, run: Run, data: TextData) -> None:
        self._config = config
        self._local_config = local_config
        self._run = run
        self._data = data
        self._is_missing = False

    def copy_search(self) -> dict[str, str]:
        """Copy the search of another run into this one, if there is one with all of its files.

        Returns:
            For each stage that was copied, a description of what was reused.
        """
        self._is_missing = not self._is_finished()
        key = self._key() if self._is_missing else None
        source = None if key is None else self._source(key)
        if source is None:
            return {}
        copied: dict[str, str] = {}
        self._copy(source)
        for stage in _STAGES:
            record = source.stage_record(stage)
            copied[stage] = f"{record.get('text', '')} (of run {source.id})"
            moment = {"started": now(), "ended": now(), "seconds": 0.0}
            reused = {**record, **moment, "text": copied[stage], "reused_from": source.id}
            self._run.write(f"stages/{stage}.json", reused)
        self._is_missing = False
        return copied

    def available(self) -> Run | None:
        """Return the run whose search ``copy_search`` would copy into a new one, or None."""
        key = self._key()
        return None if key is None else self._source(key)

    def index_search(self) -> None:
        """Enter the search in the index if this process has run it since ``copy_search``.

        A search of an earlier process is already in the index, or may have been changed by ``distiltune choose``.
        """
        key = self._key() if self._is_missing and self._is_finished() else None
        if key is not None:
            enter(self._run, key, best=self._best(self._run))

    def _key(self) -> str | None:
        """Return the search's key; None if its result must not be reused."""
        # Latencies measured on a cluster are not those of this machine.
        is_timed_elsewhere = self._is_timed and self._config.resources.address is not None
        return None if self._config.search.warm_start or is_timed_elsewhere else self._hash

    @cached_property
    def _hash(self) -> str:
        return hash_of(self._search_parts())  # cached, since this reads the checkpoints

    @property
    def _is_timed(self) -> bool:
        """Whether students are selected by measurements of their exported graphs."""
        return is_measured(self._config.search)

    def _latency_parts(self) -> dict[str, Any] | None:
        """Return the inputs that determine a student's latency; None if students are not selected by it."""
        if not self._is_timed:
            return None
        from ....export.machine import describe_machine, without_load

        sections = {
            name: getattr(self._config, name).model_dump(mode="json") for name in ("export", "benchmark")
        }
        return sections | without_load(describe_machine())

    def _search_parts(self) -> dict[str, Any]:
        from ....export.machine import describe_machine
        from ....training import tasks
        from ....training.teacher.prepare import teacher_key

        config, task = self._local_config, tasks.get(self._config.task)
        teachers = [
            teacher_key(each, self._data, config.training, task, config.metric)
            for each in config.teacher.members
        ]
        return {
            "versions": describe_machine()["versions"],
            "method": _METHOD,
            "latency": self._latency_parts(),
            "task": self._config.task,
            "metric": self._config.metric,
            "data": self._data.fingerprint,
            "unlabelled": self._data.unlabelled,
            "augmentation": self._config.data.augmentation.model_dump(mode="json"),
            "diagnostics": self._config.data.diagnostics.model_dump(mode="json"),
            "teachers": teachers,
            "mixture": config.teacher.mixture_keys(),
            "student": self._config.student.model_dump(mode="json"),
            "student_checkpoints": _contents(config),
            "training": self._config.training.model_dump(mode="json"),
            "search": self._config.search.model_dump(mode="json"),
            "threshold": threshold_of_search(self._config),
            "processes": self._config.resources.trial.processes,
        }

    def _source(self, key: str) -> Run | None:
        """Return the run that has the result of this key with all of its files, or None."""
        store = self._run.store
        found = entry_of(store, key)
        if found is None or found[0] == self._run:
            return None
        source, entry = found
        try:
            if any(source.stage_record(each).get("state") != "finished" for each in _STAGES):
                return None
            # A trial selected by hand, or in an extended search, is not the result of these inputs alone.
            if entry.get("best") != self._best(source) or is_extended(source):
                return None
            teacher = source.stage_record("teacher")["result"]["key"]
            folders = [source.best, *([teacher] if teacher.startswith(TEACHERS) else [])]
            return source if all(store.has_folder(each) for each in folders) else None
        except (DistiltuneError, KeyError, TypeError, ValueError) as error:
            logger.info("the search of another run cannot be reused: %s", error)
            return None

    def _copy(self, source: Run) -> None:
        copy_folder(self._run.store, source.best, self._run.best)
        for name in (ISSUES_FILE, DUPLICATES_FILE):
            if (content := source.store.read(source.key(name))) is not None:
                self._run.store.write(self._run.key(name), content)

    def _is_finished(self) -> bool:
        return self._run.stage_record("search").get("state") == "finished"

    def _best(self, run: Run) -> Any:
        best = (run.stage_record("search").get("result") or {}).get("best") or {}
        return [best.get("trial_id"), best.get("epoch")]


def copy_folder(store: Store, source: str, target: str, change: Callable[[Path], None] | None = None) -> None:
    """Copy a folder of the store to another key, applying ``change`` to the copy before it appears there.

    If the store is a directory, large files are hard links: ``change`` must replace files, not write into them.
    """
    with new_folder(store.local(target)) as folder:
        shutil.copytree(store.fetch(source), folder, dirs_exist_ok=True, copy_function=link_or_copy)
        if change is not None:
            change(folder)
    store.publish(target)


def _contents(config: JobConfig) -> dict[str, str]:
    """Return the fingerprint of each checkpoint on this machine that the section ``student`` names."""
    from ....training.checkpoints.load import checkpoint_fingerprint, resolve_checkpoint

    values, found = config.student.model_dump(mode="json"), {}
    for path in config.student.checkpoint_keys:
        value: Any = values
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, str) and Path(directory := resolve_checkpoint(value)).is_dir():
            found[".".join(path)] = checkpoint_fingerprint(directory)
    return found


def hash_of(parts: Mapping[str, Any]) -> str:
    """Return a key for inputs given as JSON values: 32 hexadecimal digits of their SHA-256."""
    content = json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()
    return hashlib.sha256(content).hexdigest()[:32]
