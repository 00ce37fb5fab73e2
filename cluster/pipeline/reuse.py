"""Reuse finished stages of other runs in the same storage whose inputs are the same."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import DistiltuneError
from ...storage.folders import new_folder
from ..specification.config import JobConfig
from ..store.runs import TEACHERS, Run, now
from .diagnose import DUPLICATES_FILE, ISSUES_FILE
from .extension import is_extended

if TYPE_CHECKING:
    from ...training.data.text_data import TextData

logger = logging.getLogger(__name__)

INDEX = "cache/stages"
"""Folder of the index: for each key of a stage, the run that has its result."""
# Stages that are reused together, under the key of the last one.
_GROUPS: Mapping[str, tuple[str, ...]] = {
    "search": ("teacher", "logits", "student", "search"),
    "export": ("export",),
    "benchmark": ("benchmark",),
}


class StageReuse:
    """Search, export and benchmark of one job, found in other runs by the content of their inputs.

    The search's key has the texts, the teacher's own key (which has its checkpoint's content), the sections
    ``student``, ``training`` and ``search``, and the versions of the libraries. The export's has the search's, the
    selected trial and the section ``export`` without ``choose``. The benchmark's has the export's, the section
    ``benchmark``, and this machine, since a measurement is worth nothing on another; one on a cluster is not reused.

    Args:
        config: The specification.
        local_config: The specification with paths of this machine.
        run: The run of the job.
        data: Its texts.
    """

    def __init__(self, config: JobConfig, local_config: JobConfig, run: Run, data: TextData) -> None:
        self._config = config
        self._local_config = local_config
        self._run = run
        self._data = data
        self._search_key: str | None = None
        self._missing: list[str] = []

    def bring(self) -> dict[str, str]:
        """Copy what other runs have into this one, until the first stage that no run has or whose files are gone.

        Returns:
            Each stage that was copied, and what was reused, in words.
        """
        brought: dict[str, str] = {}
        self._missing = [last for last in _GROUPS if not self._is_finished(last)]
        for last in list(self._missing):
            key = self._key(last)
            source = None if key is None else self._source(key, last)
            if source is None:
                break
            self._copy(source, last)
            for stage in _GROUPS[last]:
                record = source.stage_record(stage)
                brought[stage] = f"{record.get('text', '')} (of run {source.id})"
                moment = {"started": now(), "ended": now(), "seconds": 0.0}
                reused = {**record, **moment, "text": brought[stage], "reused_from": source.id}
                self._run.write(f"stages/{stage}.json", reused)
            self._missing.remove(last)
        return brought

    def remember(self) -> None:
        """Enter the stages that this process has run since ``bring`` in the index.

        Others may have been changed by hand since they were run (``distiltune choose``), or are entered already.
        """
        for last in self._missing:
            key = self._key(last) if self._is_finished(last) else None
            if key is not None:
                entry = {"run_id": self._run.id, "best": self._best(self._run)}
                self._run.store.write_json(f"{INDEX}/{key}.json", entry)

    def _key(self, stage: str) -> str | None:
        """Return a stage's key, whose earlier stages are finished; None if its result must not be reused."""
        if self._search_key is None and self._config.search.warm_start is None:
            self._search_key = _hash(self._search_parts())
        if self._search_key is None or stage == "search":
            return self._search_key
        export = self._config.export.model_dump(mode="json", exclude={"choose"})
        parts = {"search": self._search_key, "best": self._best(self._run), "export": export}
        parts["num_threads"] = self._config.benchmark.num_threads
        if stage == "export":
            return _hash(parts)
        if self._config.resources.address is not None:
            return None
        from ...export.machine import describe_machine

        machine = {name: value for name, value in describe_machine().items() if name != "load_average"}
        parts |= {"benchmark": self._config.benchmark.model_dump(mode="json"), "machine": machine}
        return _hash(parts)

    def _search_parts(self) -> dict[str, Any]:
        from ...export.machine import describe_machine
        from ...training import tasks
        from ...training.teacher.prepare import teacher_key

        config, task = self._local_config, tasks.get(self._config.task)
        teachers = [teacher_key(each, self._data, config.training, task) for each in config.teacher.members]
        return {
            "versions": describe_machine()["versions"],
            "task": self._config.task,
            "data": self._data.fingerprint,
            "unlabelled": self._data.unlabelled,
            "augmentation": self._config.data.augmentation.model_dump(mode="json"),
            "teachers": teachers,
            "student": self._config.student.model_dump(mode="json"),
            "student_checkpoints": _contents(config),
            "training": self._config.training.model_dump(mode="json"),
            "search": self._config.search.model_dump(mode="json"),
            "processes": self._config.resources.trial.processes,
        }

    def _source(self, key: str, stage: str) -> Run | None:
        """Return the run that has the result of this key with all of its files, or None."""
        store = self._run.store
        try:
            entry = store.read_json(f"{INDEX}/{key}.json") or {}
            source = Run(store, str(entry.get("run_id")))
            stages = _GROUPS[stage]
            if any(source.stage_record(each).get("state") != "finished" for each in stages):
                return None
            # A trial that was selected by hand, or in a search that was extended, is not the result of these inputs.
            if entry.get("best") != self._best(source) or source.id == self._run.id or is_extended(source):
                return None
            folders = self._folders(source, stage)
            return source if all(store.has_folder(each) for each in folders) else None
        except (DistiltuneError, KeyError, TypeError, ValueError) as error:
            logger.info("the %s of another run cannot be reused: %s", stage, error)
            return None

    def _folders(self, source: Run, stage: str) -> list[str]:
        """Return the keys of the folders that a stage's later ones need."""
        if stage == "search":
            teacher = source.stage_record("teacher")["result"]["key"]
            return [source.best, *([teacher] if teacher.startswith(TEACHERS) else [])]
        if stage == "export":
            variants = source.stage_record("export")["result"]["variants"]
            return [source.variant(each["name"]) for each in variants]
        return []

    def _copy(self, source: Run, stage: str) -> None:
        if stage == "search":
            self._copy_folder(source.best, self._run.best)
            for name in (ISSUES_FILE, DUPLICATES_FILE):
                if (content := source.store.read(source.key(name))) is not None:
                    self._run.store.write(self._run.key(name), content)
        elif stage == "export":
            for each in source.stage_record("export")["result"]["variants"]:
                self._copy_folder(source.variant(each["name"]), self._run.variant(each["name"]))

    def _copy_folder(self, source: str, target: str) -> None:
        store = self._run.store
        with new_folder(store.local(target)) as folder:
            shutil.copytree(store.fetch(source), folder, dirs_exist_ok=True)
        store.publish(target)

    def _is_finished(self, stage: str) -> bool:
        return self._run.stage_record(stage).get("state") == "finished"

    def _best(self, run: Run) -> Any:
        best = (run.stage_record("search").get("result") or {}).get("best") or {}
        return [best.get("trial_id"), best.get("epoch")]


def _contents(config: JobConfig) -> dict[str, str]:
    """Return the fingerprint of each checkpoint on this machine that the section ``student`` names."""
    from ...training.checkpoints.load import checkpoint_fingerprint, resolve_checkpoint

    values, found = config.student.model_dump(mode="json"), {}
    for path in config.student.checkpoint_keys:
        value: Any = values
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, str) and Path(directory := resolve_checkpoint(value)).is_dir():
            found[".".join(path)] = checkpoint_fingerprint(directory)
    return found


def _hash(parts: Mapping[str, Any]) -> str:
    content = json.dumps(parts, sort_keys=True, ensure_ascii=True).encode()
    return hashlib.sha256(content).hexdigest()[:32]
