"""The last stages, run by the driver on the records: gate, variant selection, report, sealed artifact."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import RunFailedError
from ...export.artifact.licences import LICENCE_SEPARATOR, is_non_commercial
from ...export.artifact.seal import seal_artifact
from ...export.benchmark.measure_models import Measurement
from ...export.benchmark.targets import CPU
from ...export.markdown import times_faster
from ...export.report.report import build_report, write_report
from ...export.selection.against_baselines import compare_with_baselines
from ...export.selection.against_teacher import compare_with_teacher
from ...export.selection.breakdown import break_down
from ...export.selection.gate import TEACHER
from ...export.selection.select_variant import select_variant
from ...search.space.space import VALIDATION
from ...search.student_arguments import STUDENT_KIND
from ...storage.temporary import temporary_directory
from ...texts import texts_of
from ...training.checkpoints.offline import OFFLINE_PREFIX, OFFLINE_SOURCES
from ...training.student.config import StudentConfig, as_kind
from ...training.tasks import get as get_task
from ...training.teacher.config import OneTeacher, TeacherConfig
from ..specification.config import JobConfig
from ..specification.goal import goal_of
from ..store.records import trials_of
from ..store.runs import STAGES, Run

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from ...training.data.text_data import TextData
    from .stages import StageResult


def choose_variant(
    config: JobConfig,
    run: Run,
    data: TextData,
    ratios_of: Callable[[str, Mapping[str, Measurement]], dict[str, dict[str, Any]]],
) -> StageResult:
    """Apply the gate and select a variant, on the validation split; possibly none passes.

    ``ratios_of`` returns how many times faster the selected variant is than other models, timed in turns.
    """
    measured = [
        Measurement.from_json(each) for each in run.stage_record("benchmark")["result"]["measurements"]
    ]
    choose = config.export.choose
    task, place = get_task(config.task), config.benchmark.targets[0]
    metric = task.metric(config.metric, data.label_names, data.out_of_scope_id)
    selection = select_variant(measured, choose, metric=metric, task=task, place=place)
    by_name = {each.name: each for each in selection.measurements}
    compared, broken_down, ratios, baselines = None, None, {}, []
    if selection.chosen is not None:
        ratios = ratios_of(selection.chosen, by_name)
        variant, teacher = by_name[selection.chosen], teacher_beside(place, by_name)
        baselines = compare_with_baselines(
            variant,
            by_name.values(),
            choose,
            metric=metric,
            has_attention=_student_of(config, _best_trial(run)).has_layers,
        )
        test, names = data.splits["test"], data.label_names
        labels = task.measured_labels(texts_of(test), test["label"][:])
        goal = goal_of(config, data)
        predicted = [*names, *([goal.label] if goal is not None and goal.label not in names else [])]
        broken_down = break_down(variant, teacher, labels, predicted, choose, data.slices, task)
        if teacher is not None:
            compared = compare_with_teacher(
                variant,
                teacher,
                labels,
                names,
                choose,
                metric=metric,
                task=task,
                ratio=ratios.get(TEACHER),
                slices=data.slices,
            )
    # The answers stay in the benchmark's record: only the gate needs them, and they are long.
    measurements = [replace(each, answers=None) for each in selection.measurements]
    record: dict[str, Any] = {
        "variants": [each.to_json() for each in measurements],
        "chosen": selection.chosen,
        "reason": selection.reason or None,
        "warning": selection.warning or None,
        "against_teacher": None if compared is None else compared.to_json(),
        "against_baselines": [each.to_json() for each in baselines],
        "ratios": ratios,
        "breakdown": broken_down,
    }
    if selection.warning:
        logger.warning("%s", selection.warning)
    counts = Counter(each.gate for each in measurements)
    shown = ", ".join(
        f"{counts[name]} {name}" for name in ("passed", "inconclusive", "failed") if counts[name]
    )
    faster = f", {times_faster(ratios[TEACHER])} faster than its teacher" if TEACHER in ratios else ""
    return record, f"{shown}; selected: {selection.chosen or 'none'}{faster}"


def teacher_beside(place: str, measured: Mapping[str, Measurement]) -> Measurement | None:
    """Return the teacher's measurement to compare a variant with, preferably on the same kind of device."""
    teachers = [each for each in measured.values() if each.model_name == TEACHER]
    same = [each for each in teachers if (each.place == CPU) == (place == CPU)]
    return next(iter(same or teachers), None)


def seal_chosen(config: JobConfig, run: Run, data: TextData) -> StageResult:
    """Seal the selected variant as the run's artifact.

    Raises:
        RunFailedError: No variant meets the limits of ``export.choose``.
    """
    gate = run.stage_record("gate")["result"]
    if gate["chosen"] is None:
        raise RunFailedError(gate["reason"])
    chosen = next(each for each in gate["variants"] if each["name"] == gate["chosen"])
    measured = Measurement.from_json(chosen)
    source, target = run.store.fetch(run.variant(measured.model_name)), run.store.local(run.artifact)
    measurements = {name: value for name, value in chosen.items() if name not in ("curves", "answers")}
    measurements["target"] = measured.place
    measurements["ratios"] = gate["ratios"] or None
    measurements["against_baselines"] = gate["against_baselines"] or None
    made_from = _made_from(config, run, data, on_gpu=measured.place != CPU)
    seal_artifact(
        source,
        target,
        made_from=made_from,
        measurements=measurements,
        session=chosen.get("session"),
        num_threads=chosen["num_threads"],
    )
    run.store.publish(run.artifact)
    return {}, f"{chosen['name']}: {chosen['size_mb']:.1f} MB, {chosen['latency_ms']['p50']:.2f} ms"


def _made_from(config: JobConfig, run: Run, data: TextData, *, on_gpu: bool) -> dict[str, Any]:
    """Return the provenance of an artifact: its inputs, and the machine that measured it (``on_gpu``: the GPU's)."""
    teacher = run.stage_record("teacher")["result"]
    base_model, _ = _origin(config.teacher.first)
    goal = f"{VALIDATION}{config.metric}"
    best = _best_trial(run)
    settings = config.training.of_kind(best["parameters"].get(STUDENT_KIND))
    training = settings.model_dump(mode="json", exclude={"by_kind"})
    return {
        "run_id": run.id,
        "data": {
            "source": config.data.source,
            "dataset": getattr(config.data, "dataset", None),
            "fingerprint": data.fingerprint,
        },
        "base_model": base_model,
        "licences": {"teacher": _licence(config.teacher), "data": config.data.licence},
        "teacher": _teacher_keys(config.teacher),
        **{
            f"teacher_{name}": teacher[name]
            for name in dict.fromkeys((goal, "validation_accuracy"))
            if name in teacher
        },
        **_mixture((run.stage_record("logits").get("result") or {}).get("ensemble")),
        "student": _student_of(config, best).model_dump(mode="json", exclude_none=True),
        "hyperparameters": training | best["parameters"],
        "max_length": _max_length(config, run),
        "machine": run.stage_record("benchmark")["result"]["gpu_machine" if on_gpu else "machine"],
    }


def _best_trial(run: Run) -> dict[str, Any]:
    return run.stage_record("search")["result"]["best"]


def _student_of(config: JobConfig, trial: Mapping[str, Any]) -> StudentConfig:
    """Return the section of a trial's student, of whose kind the search may have tried several."""
    return as_kind(config.student, trial["parameters"].get(STUDENT_KIND, config.student.kind))


def _max_length(config: JobConfig, run: Run) -> str:
    """Describe the maximum length in words: the number of tokens, and whether it was chosen automatically."""
    lengths = (run.stage_record("data").get("result") or {}).get("lengths") or {}
    chosen = "chosen automatically" if lengths.get("automatic") else "as given"
    return f"{config.training.max_length} tokens, {chosen}"


def _teacher_keys(teacher: TeacherConfig) -> dict[str, Any]:
    """Return the section ``teacher`` as JSON values, with a list of teachers as a mapping from their index."""
    section = teacher.model_dump(mode="json", exclude_none=True)
    members = section["ensemble"]
    if isinstance(members, list):
        section = {
            "weights": section["weights"],
            "ensemble": {str(n): each for n, each in enumerate(members)},
        }
    return section


def _mixture(found: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the weights and metrics of several teachers, and the metrics of their mixture, for the model card."""
    if found is None:
        return {}
    members = {
        str(number): {name: value for name, value in each.items() if name != "missing"}
        for number, each in enumerate(found["members"])
    }
    return {"teachers": members, "mixture_of_teachers": found["mixture"]}


def _licence(teacher: TeacherConfig) -> str | None:
    """Return the licences of all teachers, joined; None if one of them is unknown.

    A licence that excludes commercial use takes precedence over all others.
    """
    licences = [_origin(each)[1] for each in teacher.members]
    restricted = next((each for each in licences if is_non_commercial(each)), None)
    if restricted is not None or None in licences:
        return restricted
    return LICENCE_SEPARATOR.join(dict.fromkeys(each for each in licences if each is not None))


def _origin(teacher: OneTeacher) -> tuple[str | None, str | None]:
    """Return the hub name of the model that the teacher was made from, and its licence; None where unknown."""
    name = teacher.encoder  # None for a file of logits
    if name is None:
        return None, teacher.licence
    packaged, licence = OFFLINE_SOURCES.get(name.removeprefix(OFFLINE_PREFIX), (None, None))
    if name.startswith(OFFLINE_PREFIX) and packaged is not None:
        return packaged, teacher.licence or licence
    is_path = name.startswith((".", "/", "~")) or name.count("/") != 1 or Path(name).exists()
    return None if is_path else name, teacher.licence


def make_report(config: JobConfig, run: Run) -> StageResult:
    """Write the report's files from the records of the stages."""
    choice = run.stage_record("gate")["result"]
    records = {stage: run.stage_record(stage) for stage in STAGES}
    search = records["search"]["result"]
    with temporary_directory("report") as scratch:
        pictures = _draw_search(config, search, scratch)
        exported = records["export"]["result"]
        graphs = _draw_graphs(exported["variants"], _chosen_variant(choice), scratch)
        graphs["skipped"] = exported["skipped"]
        report = build_report(
            run_id=run.id,
            state="finished" if choice["chosen"] else "failed",
            best=search["best"],
            rows=[Measurement.from_json(each) for each in choice["variants"]],
            chosen=choice["chosen"],
            artifact=run.store.location(run.artifact) if choice["chosen"] else None,
            machine=run.stage_record("benchmark")["result"]["machine"],
            extra={
                "metric": config.metric,
                "teacher_file": _teacher_file(records["teacher"].get("result") or {}),
                "teachers": (records["logits"].get("result") or {}).get("ensemble"),
                **{
                    name: (records["data"].get("result") or {}).get(name)
                    for name in ("lengths", "few_labels")
                },
                "diagnostics": (records["logits"].get("result") or {}).get("diagnostics"),
                "against_teacher": choice["against_teacher"],
                "against_baselines": choice["against_baselines"],
                "left_out": records["benchmark"]["result"]["left_out"],
                "gpu_machine": records["benchmark"]["result"].get("gpu_machine"),
                "interleaved": choice["ratios"],
                "breakdown": choice["breakdown"],
                "warning": choice["warning"],
                "stages": {
                    stage: record.get("seconds") for stage, record in records.items() if record.get("seconds")
                },
                "trials": search["trials"],
                "search": {
                    **{name: search.get(name) for name in ("front", "choice", "ended_by")},
                    **pictures,
                },
                "graphs": graphs,
                "job": run.read("job.json"),
            },
        )
        paths = write_report(report, run.store.local(run.report))
        for picture in scratch.iterdir():
            shutil.copy(picture, run.store.local(run.report))
    run.store.publish(run.report)
    names = sorted([*(path.name for path in paths.values()), *pictures["pictures"], *graphs["pictures"]])
    return {"files": names}, ", ".join(names)


def _chosen_variant(choice: Mapping[str, Any]) -> str | None:
    """Return the name of the variant whose measurement was selected."""
    chosen = (each for each in choice["variants"] if each["name"] == choice["chosen"])
    return next((Measurement.from_json(each).model_name for each in chosen), None)


def _teacher_file(record: dict[str, Any]) -> dict[str, Any] | None:
    """Return how many texts of each kind a file of logits covers and lacks; None for other teachers."""
    if record.get("kind") != "logits":
        return None
    return {name: record[name] for name in ("num_texts", "missing")}


def _draw_search(config: JobConfig, search: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Draw the plots of the search in ``folder``; return their names, and why others were skipped."""
    from ...search.plots.study import draw_study
    from ...search.space.space import searched
    from ...search.study.frozen_trial import frozen_trial, reached_values

    parameters, objectives = searched(config.search), config.search.all_objectives
    if not parameters:
        return {"pictures": [], "left_out": {}}
    trials = trials_of(search)
    numbers = {trial.trial_id: trial.number for trial in trials}
    drawn = draw_study(
        [frozen_trial(trial, parameters, reached_values(trial, objectives)) for trial in trials],
        folder,
        metric_names=[each.metric for each in objectives],
        directions=[each.direction for each in objectives],
        chosen=numbers[search["best"]["trial_id"]],
        front=[numbers[trial_id] for trial_id in search["front"]],
    )
    return {"pictures": [path.name for path in drawn.paths], "left_out": drawn.left_out}


def _draw_graphs(made: list[dict[str, Any]], chosen: str | None, folder: Path) -> dict[str, Any]:
    """Draw plots of the exported graphs in ``folder``; return the graphs' composition and the plots' names."""
    from ...export.report.plots.graphs import draw_graphs

    records = {each["name"]: each["graph"] for each in made if each.get("graph")}
    paths = draw_graphs(records, chosen, folder)
    shown = {
        name: {key: value for key, value in record.items() if key != "weights"}
        for name, record in records.items()
    }
    return {"variants": shown, "pictures": [path.name for path in paths]}
