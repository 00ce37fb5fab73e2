"""Write the model card of an artifact: its ``README.md``, with the metadata that a model hub reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...training.tasks import SINGLE_LABEL, TASKS, title_of
from ..markdown import Markdown, render, times_faster
from .licences import UNKNOWN, is_non_commercial, licence_of_artifact

_METRICS = {
    "accuracy": "accuracy",
    "in_scope_accuracy": "accuracy, in scope",
    "oos_recall": "recall, out of scope",
}
_HUB_TYPES = {
    "f1": "f1",
    "precision": "precision",
    "recall": "recall",
    "mcc": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "rmse": "rmse",
    "map": "mean_average_precision",
}
"""Word in a metric's name -> what the hub calls it; otherwise ``accuracy``."""
_EXAMPLES = {False: '"your text"', True: '("your text", "its second text")'}
"""Example of the argument of a classifier of single texts (False) or of pairs (True)."""
# Keys of ``made_from`` and of the measurements that the card shows elsewhere than in the tables.
_OWN_PLACE = ("licences", "base_model")
_OWN_ROWS = ("ratios", "against_baselines", "length_ms")


def model_card(
    labels: Sequence[str],
    made_from: Mapping[str, Any],
    measurements: Mapping[str, Any],
    task: str = "single_label",
    *,
    takes_pairs: bool = False,
) -> str:
    """Return the text of a model card.

    Args:
        labels: Labels of the classifier.
        made_from: Data, teacher, hyperparameters and versions of the classifier; JSON values. ``licences`` of
            ``teacher`` and ``data``, ``base_model`` and ``data.dataset`` are names, or None where they are not known.
        measurements: Measurements of the classifier; JSON values. ``ratios``: name of a model → how many times faster
            the classifier is (``faster``, ``low``, ``high``). ``against_baselines``: what it gains over each baseline
            (``text``, ``verdict``).
        task: Name of the task.
        takes_pairs: Whether it classifies pairs of texts.
    """
    from huggingface_hub import ModelCard, ModelCardData

    shown_task = TASKS[task if task in TASKS else SINGLE_LABEL.name]
    licences, given = _mapping(made_from, "licences"), _mapping(made_from, "data")
    dataset = given.get("dataset")
    data = ModelCardData(
        library_name="onnxruntime",
        pipeline_tag=shown_task.pipeline,
        tags=["distiltune", "distillation", "onnx"],
        license=licence_of_artifact(licences),
        base_model=made_from.get("base_model"),
        datasets=None if dataset is None else [dataset],
        **_results(made_from, measurements, dataset),
    )
    shown = {name: value for name, value in made_from.items() if name not in _OWN_PLACE}
    values = {
        "labels": [] if shown_task.fixed_outputs else labels,
        "example": Markdown(shown_task.example or _EXAMPLES[takes_pairs]),
        "title": shown_task.title,
        "does": Markdown(_does(shown_task.does, takes_pairs).format(num=len(labels))),
        "answer": Markdown(shown_task.answer),
        "outputs": "Labels" if shown_task.has_named_labels else "Numbers",
        "result": _result(measurements),
        "licences": {name: licences.get(name) or UNKNOWN for name in ("teacher", "data")},
        "non_commercial": [name for name in ("teacher", "data") if is_non_commercial(licences.get(name))],
        "sections": {"Measured": [*_measured(measurements)], "Made from": [*_flatten(shown)]},
    }
    body = render(__name__, "card.md.j2", values)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}"))


def _does(sentence: str, takes_pairs: bool) -> str:
    """Return a task's description of its models, of pairs of texts if the model takes those."""
    return sentence.replace("a text", "a pair of texts", 1) if takes_pairs else sentence


def _results(
    made_from: Mapping[str, Any], measurements: Mapping[str, Any], dataset: str | None
) -> dict[str, Any]:
    """Return the metrics on the test split as the hub's ``model-index``."""
    from huggingface_hub import EvalResult

    fingerprint = _mapping(made_from, "data").get("fingerprint")
    values = {name: (title, measurements.get(name)) for name, title in _METRICS.items()}
    for name, each in _mapping(measurements, "metrics").items():
        values[name] = title_of(name), each.get("test") if isinstance(each, Mapping) else None
    own = _mapping(measurements, "metric")
    if "name" in own:  # the job's metric comes first
        title = _METRICS.get(own["name"], title_of(own["name"]))
        values = {
            own["name"]: (title, own.get("test")),
            **{k: v for k, v in values.items() if k != own["name"]},
        }
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=dataset or "custom",
            dataset_name=dataset or "the job's own data",
            dataset_split="test",
            dataset_revision=None if dataset else fingerprint,
            metric_type=_hub_type(name),
            metric_name=title,
            metric_value=round(value, 4),
        )
        for name, (title, value) in values.items()
        if value is not None
    ]
    return {"model_name": made_from.get("run_id") or "classifier", "eval_results": results} if results else {}


def _hub_type(name: str) -> str:
    words = name.partition(".")[0].split("_")
    return next((kind for word, kind in _HUB_TYPES.items() if word in words), "accuracy")


def _result(measurements: Mapping[str, Any]) -> str | None:
    """Return the job's metric on the test split as the artifact predicts, for the card's first lines."""
    own = _mapping(measurements, "metric")
    value = own.get("test")
    if not own:
        thresholded = _mapping(measurements, "with_threshold").get("accuracy")
        value = thresholded if thresholded is not None else measurements.get("accuracy")
    return None if value is None else f"{title_of(own.get('name', 'accuracy'))} {value:.4f}"


def _measured(measurements: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the rows of the measurements: first how many times faster it is, and what it gains over baselines."""
    for name, ratio in _mapping(measurements, "ratios").items():
        yield f"faster than {name}", times_faster(ratio)
    compared = measurements.get("against_baselines")
    for found in compared if isinstance(compared, list) else []:
        parts = [found.get(key) for key in ("text", "verdict")] if isinstance(found, Mapping) else []
        yield "gain", "; ".join(each for each in parts if isinstance(each, str))
    yield from _flatten({name: value for name, value in measurements.items() if name not in _OWN_ROWS})
    for length, times in _mapping(measurements, "length_ms").items():
        if isinstance(times, Mapping) and "p50" in times:
            yield f"latency_ms of {length} tokens", times["p50"]


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a value that is a mapping; an empty one for anything else, since ``made_from`` has no fixed schema."""
    value = values.get(name)
    return value if isinstance(value, Mapping) else {}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted name and value of everything that is not None."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value
