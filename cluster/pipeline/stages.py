"""The stages of a job on the driver's side: the tasks that each sends, and the results that it records."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...export.variants import kinds
from ...progress import Progress, ReportProgress
from ...search.space.students import ONLY_STUDENT
from ...training.tasks import get as get_task
from ..remote import tasks
from ..remote import teacher_labels as labelling
from ..session.ray_session import num_gpus, whole_node
from ..specification.config import JobConfig, TaskResources
from ..store.runs import TEACHERS, Run, Storage
from .best_trial import best_of, keep_best
from .diagnose import describe as describe_problems
from .diagnose import diagnose
from .dispatch import Dispatcher
from .students import Students
from .warm_start import warm_start_trials

if TYPE_CHECKING:
    from ...search.space.students import Student
    from ...training.data.text_data import TextData
    from ...training.data.tokenized import LabelledSplit

StageResult = tuple[dict[str, Any], str]

_KINDS = {"checkpoint": "as given", "fine_tune": "fine-tuned", "scratch": "trained from scratch"}
STUDENT = "student-pytorch"
TEACHER = "teacher-pytorch"
REFERENCE = "reference-bert-base"


class Stages:
    """The stages of one job; each method returns the values to record and a one-line summary.

    Args:
        config: The specification; files and checkpoints of the submitting machine are references into the store.
        local_config: The specification with paths of this machine.
        run: Run that stores all results.
        data: The texts.
    """

    def __init__(self, config: JobConfig, local_config: JobConfig, run: Run, data: TextData) -> None:
        self._config = config
        self._local_config = local_config
        self._run = run
        self._data = data
        self._splits: dict[str, LabelledSplit] = {}
        self._students: dict[str, Student] = {}
        self._dispatcher = Dispatcher(config, run)

    def teacher(self, report: ReportProgress) -> StageResult:
        """Load, fine-tune or train the teachers, once for all runs with the same data and settings."""
        from ...training import tasks
        from ...training.teacher.prepare import teacher_key

        task = tasks.get(self._config.task)
        local, wanted = self._local_config, self._whole(self._config.resources.teacher)
        keys = [
            f"{TEACHERS}/{teacher_key(each, self._data, local.training, task)}"
            for each in local.teacher.members
        ]
        if len(keys) == 1:
            record = self._dispatcher.do(
                "teacher", labelling.make_teacher, wanted, self._data, 0, keys[0], report=report
            )
            text = f"{_KINDS[record['kind']]}, validation accuracy {record['validation_accuracy']:.4f}"
            return {**record, "key": keys[0], "keys": keys}, text
        records = self._ensemble(keys, wanted, report)
        accuracies = [record["validation_accuracy"] for record in records]
        text = f"{len(keys)} teachers, each {_KINDS[records[0]['kind']]}, validation accuracy "
        text += f"{min(accuracies):.4f} to {max(accuracies):.4f}"
        members = [
            {name: record[name] for name in ("validation_accuracy", "seconds", "reused")}
            for record in records
        ]
        return {**records[0], "key": keys[0], "keys": keys, "members": members}, text

    def _ensemble(
        self, keys: list[str], wanted: TaskResources, report: ReportProgress
    ) -> list[dict[str, Any]]:
        """Prepare each teacher in a task of its own, in parallel if resources allow."""
        parts = [str(number) for number in range(1, len(keys) + 1)]
        sent = [
            self._dispatcher.send(
                "teacher", labelling.make_teacher, wanted, self._data, number, key, part=part
            )
            for number, (key, part) in enumerate(zip(keys, parts, strict=True))
        ]

        def report_part(part: str) -> ReportProgress:
            def prefixed(progress: Progress) -> None:
                text = ": ".join(filter(None, [f"teacher {part} of {len(keys)}", progress.message]))
                values, before = dict(progress.values), int(part) - 1
                if values.get("total"):  # of all teachers
                    values["done"] = before * values["total"] + values["done"]
                    values["total"] = len(keys) * values["total"]
                report(replace(progress, message=text, values=values))

            return prefixed

        return [
            self._dispatcher.wait("teacher", task, report_part(part), wanted, part=part)
            for task, part in zip(sent, parts, strict=True)
        ]

    def logits(self, report: ReportProgress) -> StageResult:
        """Label the train and validation splits with the teachers."""
        wanted = self._whole(self._config.resources.teacher)
        made = self._run.stage_record("teacher")["result"]
        teachers = made.get("keys", [made["key"]])
        self._splits, record = self._dispatcher.do(
            "logits", labelling.label_with_teachers, wanted, self._data, teachers, report=report
        )
        teacher = self._config.teacher
        record["diagnostics"] = diagnose(
            self._run,
            self._data,
            self._splits,
            get_task(self._config.task),
            learned_here=teacher.checkpoint is None,
        )
        problems = describe_problems(record["diagnostics"])
        if not record["keys"]:
            return record, "; ".join(filter(None, ["not needed: alpha is 1", problems]))
        computed = record["texts_computed"]
        more = [f"{count:,} {kind}" for kind, count in record["texts"].items() if kind != "train"]
        text = f"{computed:,} texts labelled" if computed else "all logits are in the cache"
        text = f"{text}; in addition to train: {', '.join(more)}" if more else text
        if "ensemble" in record:
            text += f"; mean of {len(teachers)} teachers: validation accuracy "
            text += f"{record['ensemble']['validation_accuracy']:.4f}"
        return record, "; ".join(filter(None, [text, problems]))

    def student(self, report: ReportProgress) -> StageResult:
        """Write the checkpoint that trials start from, and tokenize the texts if it has its own word pieces."""
        trains = self._config.student.is_pretrained
        wanted = self._whole(self._config.resources.teacher) if trains else TaskResources(cpu=1, gpu=0)
        students = Students(self._config, self._run, self._data, self._dispatcher, wanted)
        record, self._students = students.make(self._teacher(), report)
        if self._config.student.own_tokenizer:
            self._splits = self._dispatcher.do(
                "student",
                labelling.tokenize_for_student,
                TaskResources(cpu=1, gpu=0),
                self._data,
                self._teacher(),
                record["key"],
                self._splits,
                report=report,
            )
        if ONLY_STUDENT not in self._students:
            return record, f"{len(self._students)}: {', '.join(self._students)}"
        parameters = record["num_parameters"] / 1e6
        text = f"{record['num_layers']} layers, {parameters:.2f} M parameters"
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
        )
        trial = config.resources.trial
        storage = Storage(self._run.store.url, retry_s=self._run.store.retry_s)
        outcome = run_search(
            config.search,
            config.training,
            inputs,
            store=self._run.store,
            experiment=self._run.search,
            tensorboard=self._run.tensorboard,
            logs=self._run.trial_logs,
            cpus_per_trial=trial.cpu,
            gpus_per_trial=min(1, num_gpus()) if trial.gpu is None else trial.gpu,
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
        parts += [f"validation accuracy {best['validation_accuracy']:.4f}", outcome.choice]
        if outcome.ended_by is not None:
            parts.append(f"ended: {outcome.ended_by}")
        return {**outcome.to_json(), "best": best}, "; ".join(
            filter(None, [", ".join(filter(None, parts[:-1])), parts[-1]])
        )

    def export(self, report: ReportProgress) -> StageResult:
        """Export the variants, each in a task of its own."""
        names = list(self._config.export.variants)
        plain = kinds.plain.PLAIN.name
        first = [name for name in names if name == plain]
        base = self._run.variant(plain) if first else None
        records = {}
        # The plain graph is exported first: the others start from it instead of exporting again.
        for group in (first, [name for name in names if name not in first]):
            sent = {name: self._send_variant(name, None if name in first else base) for name in group}
            for name, task in sent.items():
                wanted = resources_for(name, self._config.resources.export)
                counts = {"done": len(records), "total": len(names)}

                def report_all(progress: Progress, counts: dict[str, int] = counts) -> None:
                    report(replace(progress, values={**progress.values, **counts}))

                records[name] = self._dispatcher.wait("export", task, report_all, wanted, part=name)
                counts = {"done": len(records), "total": len(names)}
                report(Progress(f"{len(records)} of {len(names)} variants exported", counts))
        return {"variants": [records[name] for name in names]}, ", ".join(names)

    def _send_variant(self, name: str, base: str | None) -> Any:
        arguments = (name, self._run.best, self._run.variant(name), self._data, base)
        wanted = resources_for(name, self._config.resources.export)
        return self._dispatcher.send("export", tasks.make_variant, wanted, *arguments, part=name)

    def benchmark(self, report: ReportProgress) -> StageResult:
        """Measure every model on a node that is reserved for the measurement."""
        wanted = self._config.resources.benchmark
        measured = self._dispatcher.do_alone(
            "benchmark", tasks.measure, wanted, self._measurement_specs(), self._data, report=report
        )
        return measured, f"{len(measured['measurements'])} models measured"

    def _measurement_specs(self) -> list[tasks.MeasurementSpec]:
        length = self._config.training.max_length
        best, teacher = self._run.best, self._teacher()
        specs = [
            tasks.MeasurementSpec(TEACHER, "pytorch", teacher, length),
            tasks.MeasurementSpec(STUDENT, "pytorch", best, length),
        ]
        for made in self._run.stage_record("export")["result"]["variants"]:
            name = made["name"]
            specs.append(
                tasks.MeasurementSpec(
                    name,
                    kinds.get(name).target,
                    self._run.variant(name),
                    length,
                    tokenizer_dir=best,
                    max_abs_diff=made["max_abs_diff"],
                    fused=made["fused"],
                )
            )
        if self._config.benchmark.reference:
            specs.append(tasks.MeasurementSpec(REFERENCE, "reference", teacher, length))
        return specs

    def _teacher(self) -> str:
        return self._run.stage_record("teacher")["result"]["key"]

    def _whole(self, resources: TaskResources | None) -> TaskResources:
        """Return the requested resources, or by default a whole node, with a GPU if the cluster has any."""
        if resources is not None:
            return resources
        gpu = min(1, num_gpus())
        return TaskResources(cpu=whole_node(TaskResources(gpu=gpu))[1], gpu=gpu)


def resources_for(name: str, wanted: TaskResources) -> TaskResources:
    """Return the resources of a variant's export task: those requested, plus a GPU if the variant needs one."""
    if kinds.get(name).needs_gpu and not wanted.gpu:
        return wanted.model_copy(update={"gpu": 1})
    return wanted
