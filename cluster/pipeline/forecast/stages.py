"""Time, disk and memory of each stage, computed from the measurements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ....export.benchmark import targets
from ....export.benchmark.targets.baseline import BASELINE
from ....export.variants import kinds
from ....export.variants.base import Source
from ....search.space.space import searched
from ....search.space.students import is_measured, student_names
from ....training.teacher.cross_fit import cross_fit_work
from ...specification.config import JobConfig
from .request import Places, teacher_part
from .search_time import Span, makespan, search_span
from .teachers import checkpoint_bytes, how_made, in_passes, labelling_s, teacher_s, unlabelled
from .trial_seconds import TrialSeconds

_MEASURING_ERROR = 0.15  # relative error of a few steps measured on a machine whose load changes
_RAY_MIB = 700.0  # Ray's own processes and the command
# Times that are not measured, as multiples of the time to import the libraries; found in runs of several jobs.
_RAY_START = 0.6  # starting Ray on this machine
_PYTORCH_START = 0.6  # starting a process that measures a PyTorch model
_ONNX_START = 0.4  # starting a process that measures a graph, or its floor
_TUNING_START = 0.2  # starting a process that only opens a graph
_SEARCH_START = 0.5  # starting Tune and Optuna
_REPORT = 0.4  # drawing plots and writing tables
# In seconds.
_POLLING_S = 0.5  # until the end of a task is noticed
_FLOOR_S = 2.0
_PROFILE_S = 1.0  # no round of a profile begins after this time
_CALLS_OF_ROUND = 3  # the whole pipeline, its stages, and the bare session
_NUM_COMPARISONS = 7  # of session options, including repetitions
_REFERENCE_PARAMETERS = (
    130e6  # BERT-base and a little more, since its layers are a larger part of its parameters
)


@dataclass(frozen=True)
class StageForecast:
    """The forecast of one stage.

    Attributes:
        stage: Name of the stage; ``start`` stands for the start of Ray.
        seconds: Time in seconds.
        disk_bytes: Bytes that its result occupies in the storage.
        peak_disk_bytes: Bytes that it needs there while it runs.
        memory_mib: Memory of all processes, in MiB.
        how: Description of its work.
        is_reused: Whether its result exists already.
    """

    stage: str
    seconds: Span
    disk_bytes: int = 0
    peak_disk_bytes: int = 0
    memory_mib: float = 0.0
    how: str = ""
    is_reused: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the forecast as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Known:
    """Facts about a job that are known before it starts.

    Attributes:
        config: The specification.
        places: Threads and parallelism of each kind of work.
        num_texts: Number of texts by split.
        data_s: Seconds that it took to read and check the data.
        import_s: Seconds that a process takes to import the libraries.
        reused: Stages whose result exists already, in another run or in the cache.
    """

    config: JobConfig
    places: Places
    num_texts: Mapping[str, int]
    data_s: float
    import_s: float
    reused: frozenset[str]


class StageForecasts:
    """Computes the forecast of each stage of a job.

    Args:
        known: Facts about the job.
        measured: Result of ``measure``.
    """

    def __init__(self, known: Known, measured: Mapping[str, Any]) -> None:
        self._known = known
        self._config = known.config
        self._measured = measured
        self._worker_s = known.import_s  # a worker of Ray imports the same libraries

    def all(self) -> list[StageForecast]:
        """Return the forecasts of all stages in order."""
        made = [
            StageForecast("data", Span.exact(self._known.data_s), how="read and checked just now"),
            self._start(),
            *(self._reused(name) or make() for name, make in self._makers.items()),
            self._end(),
        ]
        return [each for each in made if each is not None]

    @property
    def _makers(self) -> dict[str, Any]:
        return {
            "teacher": self._teacher,
            "logits": self._logits,
            "student": self._student,
            "search": self._search,
            "export": self._export,
            "benchmark": self._benchmark,
        }

    def _reused(self, stage: str) -> StageForecast | None:
        if stage not in self._known.reused:
            return None
        return StageForecast(stage, Span.exact(0.0), how="reused from the storage", is_reused=True)

    def _start(self) -> StageForecast | None:
        if self._known.reused >= self._makers.keys():
            return None
        return StageForecast(
            "start", _about(_RAY_START * self._known.import_s), memory_mib=_RAY_MIB, how="Ray on this machine"
        )

    def _teacher(self) -> StageForecast:
        teachers = [each for each in self._teachers() if not each.get("is_held")]
        num_at_once = max(1, min(len(teachers), self._known.places.num_teachers))
        seconds = self._worker_s + makespan(list(map(teacher_s, teachers)), self._known.places.num_teachers)
        disk = sum(each["bytes"] for each in teachers)
        checkpoints = sorted(map(checkpoint_bytes, teachers))
        num, hows = self._config.teacher.num_members, dict.fromkeys(map(how_made, teachers))
        return StageForecast(
            "teacher",
            _about(seconds),
            disk,
            disk + sum(checkpoints[-num_at_once:]),
            self._teachers_mib(num_at_once),
            ", ".join([*([f"{num} teachers"] if num > 1 else []), *hows]),
        )

    def _teachers(self) -> list[Mapping[str, Any]]:
        """Return each teacher's measurement; teachers that differ only in their seed share that of the first."""
        teacher, first = self._config.teacher, self._measured["teacher"]
        if not teacher.are_different:
            return [first] * teacher.num_members
        others = (self._measured.get(teacher_part(number)) for number in range(1, teacher.num_members))
        return [first, *(each for each in others if each is not None)]

    def _teachers_mib(self, num_at_once: int) -> float:
        """Return the memory of the ``num_at_once`` largest teachers, in MiB."""
        return _RAY_MIB + sum(sorted(each["peak_mib"] for each in self._teachers())[-num_at_once:])

    def _logits(self) -> StageForecast:
        found, teachers = self._measured["teacher"], self._teachers()
        total = max(sum(each["num_texts"][name] for name in unlabelled(each)) for each in teachers)
        tokenizing = teachers if self._config.teacher.are_different else [found]
        seconds = sum(each["tokenize_s"] for each in tokenizing) + found["duplicates_s"]
        # Each teacher of an ensemble labels in a task of its own, which also tokenizes the texts.
        has_tasks = self._config.teacher.num_members > 1
        once = [labelling_s(each) + (each["tokenize_s"] if has_tasks else 0.0) for each in teachers]
        seconds += makespan(once, self._known.places.num_teachers)
        seconds += self._cross_fit_s()
        disk = sum(each["logits_bytes"][name] for each in teachers for name in unlabelled(each))
        how = (
            f"{total:,} texts labelled, near-duplicates" if total else "no text is labelled, near-duplicates"
        )
        num_folds = self._config.data.diagnostics.cross_fit
        if num_folds is not None:
            how += (
                ", cross-fitting not included"
                if found["training"] is None
                else f", {num_folds} folds trained"
            )
        num_at_once = min(max(len(teachers), num_folds or 1), self._known.places.num_teachers)
        memory = max(self._teachers_mib(num_at_once), _RAY_MIB + num_at_once * found["peak_mib"])
        return StageForecast("logits", _about(seconds), disk, disk, memory, how)

    def _cross_fit_s(self) -> float:
        """Return the seconds that training the teachers of the folds takes; 0 if no training step was measured."""
        diagnostics, found = self._config.data.diagnostics, self._measured["teacher"]
        if diagnostics.cross_fit is None or found["training"] is None:
            return 0.0
        num, work = diagnostics.cross_fit, cross_fit_work(diagnostics, self._config.teacher, num_texts=1)
        once = self._worker_s + found["build_s"] + found["tokenize_s"]
        after_epoch = found["labelling_s"]["validation"] + 2 * found["training"]["save_s"]
        fold_s = once + work / num * found["training"]["epoch_s"] + work / (num - 1) * after_epoch
        fold_s += (num - 1) / num * found["training"]["encoder_s"]
        return makespan([fold_s] * num, self._known.places.num_teachers)

    def _student(self) -> StageForecast:
        found, num = self._measured["student"], len(student_names(self._config.search))
        trained = self._measured.get("pretraining", {"pretraining_s": 0.0, "peak_mib": 0.0})
        pretraining = trained["pretraining_s"]
        seconds = num * (found["build_s"] + pretraining + self._latency_s()) + found["tokenize_s"]
        seconds += found["pieces_s"]  # shared by all students
        how = "1 built" if num == 1 else f"{num} built"
        how += f", pretrained for {pretraining:.0f} s each" if pretraining else ""
        pieces = found["num_pieces"]
        how += f", {pieces:,} word pieces read by the teacher" if pieces else ""
        disk = num * found["bytes"]
        memory = _RAY_MIB + max(found["peak_mib"], trained["peak_mib"])
        return StageForecast("student", _about(seconds), disk, disk, memory, how)

    def _latency_s(self) -> float:
        """Return the seconds of measuring a student's latency; 0 if the search does not use it."""
        if not is_measured(self._config.search):
            return 0.0
        calls = self._config.benchmark.num_runs * self._measured["latency of onnx"]["call_s"]
        return self._measured["export"]["seconds"] + _PYTORCH_START * self._known.import_s + calls

    def _search(self) -> StageForecast:
        config, places, found = self._config.search, self._known.places, self._measured["search"]
        num = config.num_trials if searched(config) else 1
        trials = TrialSeconds(self._config, found["points"], self._measured["lengths"])
        span = search_span(config, num, places.num_trials, trials)
        begins = Span.exact(self._worker_s + _SEARCH_START * self._known.import_s)
        weights = max(each["model_bytes"] for each in found["points"][0])
        resumable = max(each["checkpoint_bytes"] for each in found["points"][0])
        side = "1 trial at a time" if places.num_trials == 1 else f"{places.num_trials} at a time"
        how = f"{num} trials, {side}, about {trials.mean_epoch_s:.1f} s an epoch"
        how += ", early stopping" if config.scheduler.is_active else ""
        how += in_passes(*found["points"][0])
        span, most = span.widened(_MEASURING_ERROR).plus(begins), config.budget.wall_time_s
        if most is not None and span.high > most:
            how += f"; ended by search.budget.wall_time_s {most:g}" if span.middle > most else ""
            span = span.capped(most)
        return StageForecast(
            "search",
            span,
            (num + 1) * weights,
            num * weights + places.num_trials * resumable,
            _RAY_MIB + places.num_trials * places.num_processes * found["peak_mib"],
            how,
        )

    def _export(self) -> StageForecast:
        found, names = self._measured["export"], self._config.export.variants
        plain = found["seconds"]
        first = plain if kinds.plain.PLAIN.name in names else 0.0
        others = [
            plain * _share_of_plain(name, has_base=first > 0)
            for name in names
            if name != kinds.plain.PLAIN.name
        ]
        # Variants that are built in parallel need workers of their own, which start at the same time.
        starts = (1 + (len(others) > 1 and self._known.places.num_exports > 1)) * self._worker_s
        seconds = starts + first + makespan(others, self._known.places.num_exports)
        disk = sum(int(found["bytes"] * _bits(name) / 32) for name in names)
        parallel = min(self._known.places.num_exports, max(1, len(others)))
        memory = _RAY_MIB + parallel * found["peak_mib"]
        return StageForecast("export", _about(seconds), disk, disk, memory, f"{len(names)} variants")

    def _benchmark(self) -> StageForecast:
        models = self._models()
        seconds = sum(self._model_s(name, latency) for name, latency in models)
        trained = sum(latency["fit_s"] for name, latency in models if name == BASELINE)
        memory = _RAY_MIB + max(latency["peak_mib"] for _, latency in models)
        unknown = [each for each in self._config.benchmark.targets if each != targets.CPU]
        return StageForecast(
            "benchmark",
            _about(seconds + _POLLING_S),
            memory_mib=memory,
            how=f"{len(models)} models, one at a time"
            + (f"; baselines trained in {trained:.0f} s" if trained else "")
            + (f"; without those on {' and '.join(unknown)}" if unknown else ""),
        )

    def _models(self) -> list[tuple[str, dict[str, float]]]:
        """Return the target of each measured model, with its latency."""
        found = {name: self._measured[f"latency of {name}"] for name in ("teacher", "student", "onnx")}
        models = [("pytorch", found["teacher"]), ("pytorch", found["student"])]
        on_cpu = targets.CPU in self._config.benchmark.targets
        for name in self._config.export.variants if on_cpu else ():
            variant = kinds.get(name)
            if variant.target == "onnx":
                models.append(("onnx", _scaled(found["onnx"], 0.4 if variant.activation_bits == 8 else 1.0)))
            else:
                models.append((variant.target, _scaled(found["student"], 0.8)))
        if self._config.benchmark.reference:
            own = self._measured.get("teacher", {}).get("num_parameters", _REFERENCE_PARAMETERS)
            models.append(("reference", _scaled(found["teacher"], _REFERENCE_PARAMETERS / own)))
        measured = (self._measured.get(f"latency of {name}") for name in self._config.benchmark.baselines)
        return models + [(BASELINE, latency) for latency in measured if latency is not None]

    def _model_s(self, target: str, latency: Mapping[str, float]) -> float:
        """Return the seconds that ``measure_models`` takes for one model."""
        config, import_s = self._config.benchmark, self._known.import_s
        call, batched = latency["call_s"], latency["batched_s"]
        calls = 2 * config.num_warmups + config.num_runs + config.num_sample_texts
        num_sample = min(config.num_sample_texts, self._known.num_texts["test"])
        starts = {"onnx": _ONNX_START, BASELINE: 2 * _ONNX_START}  # a baseline has two processes
        seconds = starts.get(target, _PYTORCH_START) * import_s + latency["load_s"] + calls * call
        seconds += latency.get("fit_s", 0.0) + latency.get("lengths_s", 0.0)
        seconds += sum(max(0.5, num_sample * (call if size == 1 else batched)) for size in config.batch_sizes)
        if target == "reference":
            return seconds + import_s
        seconds += (self._known.num_texts["validation"] + self._known.num_texts["test"]) * latency["logits_s"]
        if target != "onnx":
            return seconds
        seconds += _CALLS_OF_ROUND * call * config.num_warmups
        seconds += min(_CALLS_OF_ROUND * call * config.num_runs, _PROFILE_S)
        if config.tune_session:
            comparison = max(0.2, 30 * call) + 35 * call + latency["load_s"] + 32 * latency["logits_s"]
            others = 0 if config.max_threads is None else 2 * (config.max_threads.bit_length() + 1)
            seconds += _TUNING_START * import_s + (_NUM_COMPARISONS + others) * comparison
        if config.floors and config.num_threads == 1:
            seconds += _ONNX_START * import_s + _FLOOR_S
        return seconds

    def _end(self) -> StageForecast:
        disk = 0
        if "export" in self._measured:
            disk = max(
                int(self._measured["export"]["bytes"] * _bits(name) / 32)
                for name in self._config.export.variants
            )
        return StageForecast(
            "report", _about(_REPORT * self._known.import_s), disk, disk, how="gate, report, artifact"
        )


def _about(seconds: float) -> Span:
    """Return a span around ``seconds`` that is as wide as the measuring error."""
    return Span.exact(seconds).widened(_MEASURING_ERROR)


def _scaled(latency: Mapping[str, float], share: float) -> dict[str, float]:
    """Multiply the times of computing on texts by ``share``; leave other times, such as loading, unchanged."""
    return {
        name: value * share if name in ("call_s", "batched_s", "logits_s", "lengths_s") else value
        for name, value in latency.items()
    }


def _share_of_plain(name: str, *, has_base: bool) -> float:
    """Return the time to build a variant relative to the plain graph; the shares were found in ten runs."""
    variant = kinds.get(name)
    if variant.source is Source.CHECKPOINT:
        return 0.05
    if variant.source is Source.FUSED_GRAPH:
        return 0.7 + (0.25 if variant.needs_texts else 0.0)
    converted = 0.5 if variant.needs_texts or variant.weight_bits == 16 else 0.25
    return converted if has_base else converted + 0.75


def _bits(name: str) -> float:
    """Return the bits per stored weight of a variant, including embedding tables."""
    return kinds.get(name).weight_bits
