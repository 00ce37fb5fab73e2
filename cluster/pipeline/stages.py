"""The driver's side of a job's stages: the tasks that each stage sends, and the results that it records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...export.benchmark import targets
from ...export.benchmark.measure_models import Measurement
from ...export.variants import kinds
from ...progress import Progress, ReportProgress
from ...search.space.space import VALIDATION
from ...search.space.students import ONLY_STUDENT, student_names, student_sections
from ...search.student_arguments import STUDENT_KIND
from ...search.trial.inputs import StudentTexts
from ...search.trial.packing import AUTO
from ...training.tasks import get as get_task
from ...training.tasks import title_of
from ...training.teacher.in_words import describe_mixture, describe_teachers
from ..remote import tasks
from ..remote import teacher_labels as labelling
from ..remote.cross_fit import label_fold
from ..session.mps import mps_daemons
from ..session.ray_session import node_share, num_gpus, whole_node
from ..specification.config import JobConfig
from ..specification.goal import accuracy_with_threshold
from ..specification.resources import TaskResources
from ..store.runs import LOGITS, TEACHERS, Run, Storage
from .best_trial import best_of, keep_best
from .diagnose import CrossFit, diagnose
from .diagnose import describe as describe_problems
from .dispatch import Dispatcher
from .reuse.models import ModelReuse
from .reuse.specs import measurement_specs
from .students import Students
from .warm_start import warm_start_trials

if TYPE_CHECKING:
    from ...search.space.students import Student
    from ...training.data.text_data import TextData
    from ...training.data.tokenized import LabelledSplit

StageResult = tuple[dict[str, Any], str]
_MOST_NAMED = 3  # students in a summary


class Stages:
    """The stages of one job; each method returns the values to record and a one-line summary.

    Args:
        config: The specification; files and checkpoints of the submitting machine are references into the store.
        local_config: The specification with paths of this machine.
        run: Run that stores all results.
        data: The texts.
        models: Finds variants and measurements of other runs.
    """

    def __init__(
        self, config: JobConfig, local_config: JobConfig, run: Run, data: TextData, models: ModelReuse
    ) -> None:
        self._config = config
        self._local_config = local_config
        self._run = run
        self._data = data
        self._models = models
        self._splits: dict[str, LabelledSplit] = {}
        self._students: dict[str, Student] = {}
        self._respelled: dict[str, StudentTexts] = {}
        self._dispatcher = Dispatcher(config, run)
        self._metric = f"{VALIDATION}{config.metric}"
        self._metric_title = f"validation {title_of(config.metric)}"

    def teacher(self, report: ReportProgress) -> StageResult:
        """Load, fine-tune or train the teachers, once for all runs with the same data and settings."""
        from ...training import tasks
        from ...training.teacher.prepare import teacher_key

        task = tasks.get(self._config.task)
        local, wanted = self._local_config, self._teacher_resources(report)
        keys = [
            f"{TEACHERS}/{teacher_key(each, self._data, local.training, task, self._config.metric)}"
            for each in local.teacher.members
        ]
        if len(keys) == 1:
            record = self._dispatcher.do(
                "teacher", labelling.make_teacher, wanted, self._data, 0, keys[0], report=report
            )
            text = describe_teachers([record], self._config.metric)
            return {**record, "key": keys[0], "keys": keys}, text
        parts = {str(number + 1): (self._data, number, key) for number, key in enumerate(keys)}
        records = self._dispatcher.do_parts(
            "teacher", labelling.make_teacher, wanted, parts, name="teacher", report=report
        )
        names = dict.fromkeys(
            ("kind", self._metric, "validation_accuracy", "missing", "num_texts", "seconds", "reused")
        )
        members = [{name: record[name] for name in names if name in record} for record in records]
        text = describe_teachers(records, self._config.metric)
        return {**records[0], "key": keys[0], "keys": keys, "members": members}, text

    def logits(self, report: ReportProgress) -> StageResult:
        """Label the train and validation splits with the teachers."""
        wanted = self._teacher_resources(report)
        made = self._run.stage_record("teacher")["result"]
        teachers = made.get("keys", [made["key"]])
        computed: set[str] = set()
        if len(teachers) > 1:
            members = enumerate(self._config.teacher.members)
            parts = {str(n + 1): (self._data, teachers, n) for n, each in members if each.logits is None}
            computed = set().union(
                *self._dispatcher.do_parts(
                    "logits", labelling.label_with_teacher, wanted, parts, name="teacher", report=report
                )
            )
        self._splits, record = self._dispatcher.do(
            "logits", labelling.label_with_teachers, wanted, self._data, teachers, computed, report=report
        )
        teacher = self._config.teacher
        record["diagnostics"] = diagnose(
            self._run,
            self._data,
            self._splits,
            get_task(self._config.task),
            learned_here=any(each.is_trained for each in teacher.members),
            cross_fit=self._cross_fit(wanted, report),
        )
        problems = describe_problems(record["diagnostics"])
        if not record["keys"]:
            return record, "; ".join(filter(None, ["not needed: alpha is 1", problems]))
        computed = record["texts_computed"]
        extra = [f"{count:,} {kind}" for kind, count in record["texts"].items() if kind != "train"]
        text = f"{computed:,} texts labelled" if computed else "all logits are in the cache"
        text = "the logits of the file" if teacher.logits is not None else text
        text = f"{text}; in addition to train: {', '.join(extra)}" if extra else text
        if "ensemble" in record:
            text += f"; {describe_mixture(record['ensemble'])}"
        return record, "; ".join(filter(None, [text, problems]))

    def _cross_fit(self, wanted: TaskResources, report: ReportProgress) -> Callable[[], CrossFit] | None:
        """Return a function that labels each training text with a teacher trained without it; None if not wanted."""
        from ...training.teacher.cross_fit import cross_fit_epochs, fold_key, fold_teacher, folds_of

        local, task = self._local_config, get_task(self._config.task)
        diagnostics = local.data.diagnostics
        if diagnostics.cross_fit is None:
            return None

        def compute() -> CrossFit:
            teacher = fold_teacher(diagnostics, local.teacher)
            folds = folds_of(diagnostics, self._data, local.teacher.first.seed)
            keys = [
                fold_key(teacher, self._data, local.training, rows, task, self._config.metric)
                for rows in folds
            ]
            parts = {
                f"fold-{number}": (self._data, rows, f"{LOGITS}/{key}")
                for number, (rows, key) in enumerate(zip(folds, keys, strict=True), 1)
            }
            results = self._dispatcher.do_parts(
                "logits", label_fold, wanted, parts, name="cross-fit fold", report=report
            )
            num_rows, num_outputs = len(self._data.splits["train"]), results[0][0].shape[1]
            logits = np.empty((num_rows, num_outputs), dtype=np.float32)
            for rows, (found, _) in zip(folds, results, strict=True):
                logits[rows] = found
            epochs = cross_fit_epochs(diagnostics, local.teacher)
            return CrossFit(logits, {"num_folds": len(folds), "num_epochs": epochs, "keys": keys})

        return compute

    def student(self, report: ReportProgress) -> StageResult:
        """Write the checkpoint that trials start from, and tokenize the texts if it has its own word pieces."""
        sections = [each for each, _ in student_sections(self._config.student, self._config.search.space)]
        is_costly = any(each.is_costly for each in sections)
        teacher = self._config.resources.teacher
        wanted = self._or_whole_node(teacher, report) if is_costly else TaskResources(cpu=1, gpu=0)
        students = Students(self._config, self._run, self._data, self._dispatcher, wanted)
        record, self._students = students.make(self._teacher(), report)
        for each in filter(lambda section: section.own_tokenizer, sections):
            self._tokenize_for(each.kind, report)
        if ONLY_STUDENT not in self._students:
            return record, students_in_words(list(self._students))
        parameters = record["num_parameters"] / 1e6
        text = record.get("shape") or f"{record['num_layers']} layers"
        text += f", {parameters:.2f} M parameters"
        if "pretraining" in record:
            text += f", pretrained on {record['pretraining']['num_texts']:,} texts"
        if "vocabulary" in record:
            share = record["vocabulary"]["covered_share"]
            text += f", {record['num_embeddings']:,} word pieces"
            text += "" if share is None else f", sufficient for {share:.0%} of the validation texts"
        for each in record["parity"]:
            if each["predictions_changed"] is not None:
                text += f", {each['step']} changes {each['predictions_changed']:.1%} of the predictions"
        return record, text

    def _tokenize_for(self, kind: str, report: ReportProgress) -> None:
        """Tokenize the texts for a kind of student; for all students, if the kind is not searched."""
        space, names = self._config.search.space, student_names(self._config.search)
        first = next(name for name, each in names.items() if each.get(STUDENT_KIND, kind) == kind)
        splits = self._dispatcher.do(
            "student",
            labelling.tokenize_for_student,
            TaskResources(cpu=1, gpu=0),
            self._data,
            self._teacher(),
            self._students[first].key,
            self._splits,
            report=report,
        )
        if STUDENT_KIND in space:
            self._respelled[kind] = StudentTexts.of(splits)
        else:
            self._splits = splits

    def search(self, report: ReportProgress) -> StageResult:
        """Run the trials and keep the best epoch of the best one."""
        from ...search.driver.run_search import TrialInputs, run_search

        config = self._config
        inputs = TrialInputs(
            students=self._students,
            train={kind: split for kind, split in self._splits.items() if kind != "validation"},
            validation=self._splits["validation"].tokens,
            out_of_scope_id=self._data.out_of_scope_id,
            label_names=self._data.label_names,
            teacher=self._teacher(),
            task=config.task,
            metric=config.metric,
            accuracy_with_threshold=accuracy_with_threshold(config, self._data),
            respelled=self._respelled,
        )
        trial = config.resources.trial
        storage = Storage(self._run.store.url, retry_s=self._run.store.retry_s)
        on_gpus = num_gpus(config.resources) > 0 and trial.gpus(1) > 0
        shared = on_gpus and trial.processes == 1  # each of several processes has a GPU of its own
        with mps_daemons(wanted=shared and config.resources.mps) as mps:
            outcome = run_search(
                config.search,
                config.training,
                inputs,
                store=self._run.store,
                experiment=self._run.search,
                tensorboard=self._run.tensorboard,
                logs=self._run.trial_logs,
                cpus_per_trial=trial.cpu,
                gpus_per_trial=AUTO if trial.gpu == AUTO and on_gpus else trial.gpus(default=0),
                measure_packing=config.resources.measure_packing,
                mps=mps,
                checkpoint_every_s=config.storage.checkpoint_every_s,
                custom_per_trial=trial.custom,
                processes_per_trial=trial.processes,
                known=warm_start_trials(config, storage, self._run),
                journal=self._run.journal,
                report=report,
                check_resources=not config.resources.autoscaling,
            )
        assert outcome.best.checkpoint is not None, "a best trial has reported an epoch, and so saved one"
        keep_best(self._run, inputs.student_of(outcome.best.parameters).key, outcome.best.checkpoint)
        best = best_of(config, outcome.best)
        counts = Counter(trial.state for trial in outcome.trials)
        parts = [f"{counts['finished']} of {len(outcome.trials)} trials"]
        parts += [f"{counts[state]} {state}" for state in ("pruned", "failed") if counts[state]]
        parts += [f"{self._metric_title} {best['value']:.4f}", outcome.choice]
        if outcome.ended_by is not None:
            parts.append(f"ended: {outcome.ended_by}")
        return {**outcome.to_json(), "best": best, **self._search_records()}, "; ".join(
            filter(None, [", ".join(filter(None, parts[:-1])), parts[-1]])
        )

    def _search_records(self) -> dict[str, Any]:
        """Return the records of the trials' common precision and of their GPU sharing, if there are any."""
        from ...search.driver.gpu_sharing import packing_key
        from ...search.trial.precision import precision_key

        keys = {"precision": precision_key(self._run.search), "packing": packing_key(self._run.search)}
        found = {name: self._run.store.read_json(key) for name, key in keys.items()}
        return {name: record for name, record in found.items() if record is not None}

    def export(self, report: ReportProgress) -> StageResult:
        """Export the variants that no run has yet, each in a task of its own."""
        names = self._models.variant_names
        records = dict(self._models.variants())
        plain = kinds.plain.PLAIN.name
        base = self._run.variant(plain) if plain in names else None
        missing = [name for name in names if name not in records]
        first = [name for name in missing if name == plain]
        # The plain graph is exported first: the others start from it instead of exporting again.
        for group in (first, [name for name in missing if name not in first]):
            sent = {name: self._send_variant(name, None if name in first else base) for name in group}
            for name, task in sent.items():
                wanted = resources_for(name, self._config.resources.export)
                counts = {"done": len(records), "total": len(names)}

                def report_all(progress: Progress, counts: dict[str, int] = counts) -> None:
                    report(replace(progress, values={**progress.values, **counts}))

                records[name] = self._dispatcher.wait("export", task, report_all, wanted, part=name)
                counts = {"done": len(records), "total": len(names)}
                report(Progress(f"{len(records)} of {len(names)} variants exported", counts))
        return self._models.exported(records)

    def _send_variant(self, name: str, base: str | None) -> Any:
        arguments = (
            name,
            self._run.id,
            self._data,
            base,
            self._models.variant_key(name),
            self._models.instruction_sets,
        )
        wanted = resources_for(name, self._config.resources.export)
        return self._dispatcher.send("export", tasks.make_variant, wanted, *arguments, part=name)

    def benchmark(self, report: ReportProgress) -> StageResult:
        """Measure every model that no run has measured yet, on nodes reserved for the measurement.

        Measurements on a GPU run in a separate task, on a node that has one.
        """
        specs = measurement_specs(self._config, self._run)
        found, failed = dict(self._models.measurements(specs)), {}
        machines: dict[bool, dict[str, Any]] = {}
        for needs_gpu in (False, True):
            missing = [
                spec
                for spec in specs
                if spec.name not in found and targets.get(spec.kind).needs_gpu == needs_gpu
            ]
            if not missing:
                continue
            wanted, part = self._config.resources.benchmark, "gpu" if needs_gpu else ""
            if needs_gpu and not wanted.gpu:
                wanted = wanted.model_copy(update={"gpu": 1})
            arguments = (missing, self._data, self._run.id, self._models.measurement_keys(missing))
            measured = self._dispatcher.do_alone(
                "benchmark", tasks.measure, wanted, *arguments, report=report, part=part
            )
            machines[needs_gpu] = measured["machine"]
            failed |= measured["left_out"]
            found |= {each["name"]: Measurement.from_json(each) for each in measured["measurements"]}
        return self._models.measured(specs, found, machines.get(False), failed, machines.get(True))

    def _teacher(self) -> str:
        return self._run.stage_record("teacher")["result"]["key"]

    def _teacher_resources(self, report: ReportProgress) -> TaskResources:
        """Return the resources of a teacher: those requested, or its share of a node."""
        if self._config.resources.teacher is not None:
            return self._config.resources.teacher
        gpu = self._one_gpu_if_any()
        return TaskResources(
            cpu=node_share(TaskResources(gpu=gpu), self._config.teacher.num_members, report), gpu=gpu
        )

    def _or_whole_node(self, resources: TaskResources | None, report: ReportProgress) -> TaskResources:
        """Return the requested resources, or by default a whole node, with a GPU if the cluster has any."""
        if resources is not None:
            return resources
        gpu = self._one_gpu_if_any()
        return TaskResources(cpu=whole_node(TaskResources(gpu=gpu), report)[1], gpu=gpu)

    def _one_gpu_if_any(self) -> float:
        return min(1, num_gpus(self._config.resources))


def resources_for(name: str, wanted: TaskResources) -> TaskResources:
    """Return the resources of a variant's export task: those requested, plus a GPU if the variant needs one."""
    if kinds.get(name).needs_gpu and not wanted.gpu:
        return wanted.model_copy(update={"gpu": 1})
    return wanted


def students_in_words(students: Sequence[str]) -> str:
    """Return the number of searched students and their names, of many only the first and the last."""
    if len(students) > _MOST_NAMED:
        return f"{len(students)}, from {students[0]} to {students[-1]}"
    return f"{len(students)}: {', '.join(students)}"
