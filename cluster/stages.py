"""Each stage of a job, seen from the driver: which task it sends where, and what it keeps of the answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DistiltuneError, RunFailedError
from ..storage.folders import new_folder
from . import tasks
from .config import JobConfig, TaskResources
from .head import num_gpus, whole_node
from .runs import Run

if TYPE_CHECKING:
    from ..search.progress import SearchProgress
    from ..training.data import TextData

Tell = Callable[[str], None]
StageResult = tuple[dict[str, Any], str]

STUDENT_ROW = "student-pytorch"
TEACHER_ROW = "teacher-pytorch"
REFERENCE_ROW = "reference-bert-base"
BASE_VARIANT = "onnx"


class Stages:
    """The stages of one job; each method returns what its record keeps and one line for a person."""

    def __init__(self, config: JobConfig, run: Run, data: TextData) -> None:
        self._config = config
        self._run = run
        self._data = data
        self._splits: dict[str, tasks.SplitWithLogits] = {}

    def teacher(self, tell: Tell) -> StageResult:
        """Load, fine-tune or train the teacher, once for all runs with the same data and settings."""
        from ..training.teacher import teacher_key

        key = teacher_key(self._config.teacher, self._data, self._config.training)
        directory = self._run.storage.teachers / key
        cpus, gpus = self._whole(self._config.resources.teacher)
        progress = self._progress("teacher")
        arguments = (self._config, self._data, directory, _threads(cpus), gpus > 0, progress)
        record = _wait(_send(tasks.make_teacher, cpus, gpus, *arguments), progress, tell)
        text = f"{record['kind']}, validation accuracy {record['validation_accuracy']:.4f}"
        return {**record, "directory": str(directory)}, text

    def logits(self, tell: Tell) -> StageResult:
        """Have the teacher label train and validation."""
        del tell
        cpus, gpus = self._whole(self._config.resources.teacher)
        arguments = (
            self._config,
            self._data,
            self._teacher(),
            self._run.storage.logits,
            _threads(cpus),
            gpus > 0,
        )
        self._splits, record = _wait(_send(tasks.label_with_teacher, cpus, gpus, *arguments))
        if not record["keys"]:
            return record, "not needed: alpha is 1"
        computed = record["texts_computed"]
        return record, f"{computed:,} texts labelled" if computed else "every text is in the cache"

    def student(self, tell: Tell) -> StageResult:
        """Write the checkpoint that every trial starts from, and see the texts through its tokenizer."""
        del tell
        names = self._data.label_names
        arguments = (self._config, self._teacher(), names, self._run.student)
        record = _wait(_send(tasks.make_student, 1, 0, *arguments))
        if self._config.student.checkpoint is not None:
            arguments = (self._config, self._data, self._run.student, self._splits)
            self._splits = _wait(_send(tasks.tokenize_for_student, 1, 0, *arguments))
        parameters = record["num_parameters"] / 1e6
        return record, f"{record['num_layers']} layers, {parameters:.2f} M parameters"

    def search(self, tell: Tell) -> StageResult:
        """Run the trials, and keep the best epoch of the best one."""
        from ..search.tuner import TrialInputs, run_search

        config = self._config
        train, validation = self._splits["train"], self._splits["validation"]
        inputs = TrialInputs(
            student_dir=str(self._run.student),
            train=train.tokens,
            validation=validation.tokens,
            train_logits=train.teacher_logits,
            validation_logits=validation.teacher_logits,
            out_of_scope_id=self._data.out_of_scope_id,
            label_names=self._data.label_names,
            teacher_dir=str(self._teacher()),
        )
        trial = config.resources.trial
        outcome = run_search(
            config.search,
            config.training,
            inputs,
            experiment_dir=self._run.search,
            tensorboard_dir=self._run.tensorboard,
            cpus_per_trial=trial.cpu,
            gpus_per_trial=min(1, num_gpus()) if trial.gpu is None else trial.gpu,
            on_progress=lambda progress: tell(_progress_line(progress)),
        )
        assert outcome.best.checkpoint is not None, "a best trial has reported an epoch, and so saved one"
        _keep_best(Path(outcome.best.checkpoint), self._run.student, self._run.best)
        record = outcome.to_json()
        best = self._best(record["best"])
        finished = sum(trial["state"] == "finished" for trial in record["trials"])
        accuracy = f"validation accuracy {best['validation_accuracy']:.4f}"
        text = f"{finished} of {len(record['trials'])} trials, {accuracy}"
        return {"trials": record["trials"], "best": best}, text

    def export(self, tell: Tell) -> StageResult:
        """Make the variants, each in a task of its own."""
        names = list(self._config.export.variants)
        first = [name for name in names if name == BASE_VARIANT]
        base = self._run.variants / BASE_VARIANT / "model.onnx" if first else None
        records = {}
        # The plain graph goes first: the others start from it instead of each exporting again.
        for group in (first, [name for name in names if name not in first]):
            sent = {name: self._send_variant(name, None if name in first else base) for name in group}
            for name, task in sent.items():
                records[name] = _wait(task)
                tell(f"{name} ({len(records)} of {len(names)})")
        return {"variants": [records[name] for name in names]}, ", ".join(names)

    def _send_variant(self, name: str, base: Path | None) -> Any:
        wanted = self._config.resources.export
        directory = self._run.variants / name
        outside = self._data.out_of_scope_label
        arguments = (name, self._run.best, directory, self._config, outside, base)
        return _send(tasks.make_variant, wanted.cpu, wanted.gpu or 0, *arguments)

    def benchmark(self, tell: Tell) -> StageResult:
        """Measure every row on a node that does nothing else meanwhile."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node, cpus = whole_node()
        progress = self._progress("benchmark")
        task = _send(
            tasks.measure,
            cpus,
            0,
            self._rows(),
            self._data,
            self._config,
            progress,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        )
        measured = _wait(task, progress, tell)
        return measured, f"{len(measured['rows'])} rows measured"

    def _rows(self) -> list[tasks.RowSpec]:
        length = self._config.training.max_length
        best, teacher = str(self._run.best), str(self._teacher())
        rows = [
            tasks.RowSpec(TEACHER_ROW, "pytorch", teacher, length),
            tasks.RowSpec(STUDENT_ROW, "pytorch", best, length),
        ]
        for made in self._run.stage_record("export")["result"]["variants"]:
            name = made["name"]
            rows.append(
                tasks.RowSpec(
                    name,
                    "pytorch-int8" if name == "student-pytorch-int8" else "onnx",
                    str(self._run.variants / name),
                    length,
                    tokenizer_dir=best,
                    max_abs_diff=made["max_abs_diff"],
                    fused=made["fused"],
                )
            )
        if self._config.benchmark.reference:
            rows.append(tasks.RowSpec(REFERENCE_ROW, "reference", teacher, length))
        return rows

    def _teacher(self) -> Path:
        return Path(self._run.stage_record("teacher")["result"]["directory"])

    def _best(self, best: dict[str, Any]) -> dict[str, Any]:
        """The best trial with the three values that every report names, searched or not."""
        training = self._config.training
        values = {
            name: best["parameters"].get(name, getattr(training, name))
            for name in ("alpha", "temperature", "num_train_epochs")
        }
        return {
            **values,
            "validation_accuracy": best["metrics"]["validation_accuracy"],
            "trial_id": best["trial_id"],
            "epoch": best["best_epoch"],
            "parameters": best["parameters"],
            "metrics": best["metrics"],
        }

    def _progress(self, stage: str) -> Path:
        return self._run.dir / "stages" / f"{stage}.progress.json"

    def _whole(self, resources: TaskResources | None) -> tuple[float, float]:
        if resources is None:
            return whole_node()[1], min(1, num_gpus())
        return resources.cpu, min(1, num_gpus()) if resources.gpu is None else resources.gpu


def _threads(cpus: float) -> int:
    return max(1, int(cpus))


def _send(function: Callable[..., Any], cpus: float, gpus: float, *arguments: Any, **options: Any) -> Any:
    import ray

    task = ray.remote(function).options(num_cpus=cpus, num_gpus=gpus, max_retries=2, **options)
    return task.remote(*arguments)


def _wait(task: Any, progress: Path | None = None, tell: Tell | None = None) -> Any:
    """A task's result; what it writes into its progress file meanwhile is told.

    Raises:
        DistiltuneError: As the task raised it.
        RunFailedError: The task failed in another way.
    """
    import ray
    from ray.exceptions import RayError, RayTaskError

    while not ray.wait([task], timeout=0.5)[0]:
        if progress is not None and tell is not None and progress.exists():
            tell(json.loads(progress.read_text(encoding="utf-8"))["text"])
    if progress is not None:
        progress.unlink(missing_ok=True)
    try:
        return ray.get(task)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, DistiltuneError):
            raise cause from None
        first = next(iter(str(cause).strip().splitlines()), "")
        raise RunFailedError(f"{type(cause).__name__}: {first}") from error
    except RayError as error:
        raise RunFailedError(f"a worker was lost: {str(error).strip().splitlines()[0]}") from error


def _keep_best(checkpoint: Path, student: Path, best: Path) -> None:
    """Copy what is a model out of a training checkpoint: weights and configuration; add the tokenizer."""
    with new_folder(best) as folder:
        shutil.copytree(student, folder, dirs_exist_ok=True)
        for name in ("model.safetensors", "config.json"):
            shutil.copyfile(checkpoint / name, folder / name)


def _progress_line(progress: SearchProgress) -> str:
    line = f"{progress.done} of {progress.num_trials} trials done, {progress.running} running"
    if progress.failed:
        line += f", {progress.failed} failed"
    if progress.best_value is not None:
        line += f", best {progress.best_value:.4f}"
    return line
