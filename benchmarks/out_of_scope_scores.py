"""Compare out-of-scope scores of a classifier's features, the inputs of its head, with scores of its logits.

    python benchmarks/out_of_scope_scores.py --job job.yaml --model NAME=DIR [--model NAME=DIR ...] [--splits 50]
        [--max-length 64] [--threads 2] [--json FILE]

The models are classifiers fine-tuned on the job's data, such as a run's teacher (``cache/teachers/KEY``) and its best
student (``runs/RUN/best``). Features are the inputs float32[N, D] of the linear layer whose outputs are the logits.
Scores are fitted on the in-scope training texts:

- ``mahalanobis``: minus the smallest squared distance to a class mean under the tied covariance (Lee et al., "A Simple
  Unified Framework for Detecting Out-of-Distribution Samples", NeurIPS 2018); ``relative``: less the distance under one
  Gaussian over all classes (Ren et al., "A Simple Fix to Mahalanobis Distance", 2021);
- ``knn-K``: minus the distance to the K-th nearest training text, features divided by their norm (Sun et al.,
  "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022); ``centroid``: to the nearest class mean;
- ``margin``, with a weight fitted on the texts that the threshold is selected on: the largest in-scope logit minus the
  weight times the out-of-scope logit;
- ``energy + X``: the sum of two scores, each in standard deviations of its values on the training texts.

As in an export, each threshold is selected on the validation split by the goal of the job's ``export.out_of_scope``,
and measured on the test split. To estimate the noise, validation and test texts are joined and split at random into
halves, one to select the threshold and one to measure it; the table has the mean difference from ``energy`` on the same
halves, and its standard deviation.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from distiltune.cluster.specification.config import load_config
from distiltune.cluster.specification.goal import goal_of
from distiltune.export.out_of_scope.best_threshold import best_threshold
from distiltune.export.out_of_scope.thresholds import ScopeGoal, area_under_roc, fit_weight
from distiltune.export.runtime.scores import SCORES, margins
from distiltune.training.checkpoints.heads import head_of
from distiltune.training.checkpoints.load import label_names, load_classifier
from distiltune.training.data.text_data import TextData, load_data
from distiltune.training.data.tokenized import TokenizedSplit, tokenize_split
from distiltune.training.models.first_token import first_token_in_last_layer
from distiltune.training.models.inference import length_batches, logits_of_batches
from distiltune.training.models.runtime import intra_op_threads

NEIGHBOURS = (1, 10, 50)
BASE, MARGIN = "energy", "margin"
_BATCH = 256


@dataclass(frozen=True)
class Outputs:
    """Outputs of a model on a split: features[N, D], logits[N, C] and labels[N], indices of the data's labels."""

    features: np.ndarray
    logits: np.ndarray
    labels: np.ndarray


def outputs_of(model: Any, tokens: TokenizedSplit, pad: int, threads: int) -> Outputs:
    """Run a model on a split, and keep the inputs of its last linear layer."""
    inputs: list[torch.Tensor] = []
    layer = head_of(model)
    hook = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    features = np.empty((len(tokens), layer.in_features), dtype=np.float32)
    logits = np.empty((len(tokens), layer.out_features), dtype=np.float32)
    batches = length_batches(tokens.lengths, _BATCH)
    with intra_op_threads(threads), torch.inference_mode(), first_token_in_last_layer(model):
        for rows, _, found in logits_of_batches(model, tokens, batches, pad_token_id=pad):
            features[rows], logits[rows] = inputs.pop().numpy(), found.numpy()
    hook.remove()
    return Outputs(features, logits, np.asarray(tokens.labels))


def read_outputs(directory: str, data: TextData, max_length: int, threads: int) -> dict[str, Outputs]:
    """Return a model's outputs on each split of a job's data."""
    model, tokenizer = load_classifier(directory)
    if label_names(model) != data.label_names:
        raise SystemExit(f"--model {directory}: its labels are not those of the job's data")
    found = {}
    for split, rows in data.splits.items():
        tokens = tokenize_split(rows["text"][:], rows["label"][:], tokenizer, max_length)
        found[str(split)] = outputs_of(model, tokens, int(tokenizer.pad_token_id), threads)
    return found


def feature_scores(train: Outputs, outside: int, given: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores float64[M] of the features given[M, D], fitted on the in-scope training texts."""
    known = train.labels != outside
    features, labels = train.features[known].astype(np.float64), train.labels[known]
    classes, number = np.unique(labels, return_inverse=True)
    means = np.stack([features[number == each].mean(axis=0) for each in range(len(classes))])
    tied = _distances(features - means[number], given.astype(np.float64), means).min(axis=1)
    middle = features.mean(axis=0, keepdims=True)
    background = _distances(features - middle, given.astype(np.float64), middle)[:, 0]
    unit = _unit(features)
    unit_means = _unit(np.stack([unit[number == each].mean(axis=0) for each in range(len(classes))]))
    queries = _unit(given.astype(np.float64))
    found = {
        "mahalanobis": -tied,
        "relative": background - tied,
        "centroid": (queries @ unit_means.T).max(axis=1),
    }
    return found | _neighbour_scores(unit, queries)


def _neighbour_scores(unit: np.ndarray, queries: np.ndarray) -> dict[str, np.ndarray]:
    known, most, nearest = unit.T.astype(np.float32), max(NEIGHBOURS), []
    for part in np.array_split(queries.astype(np.float32), max(1, len(queries) // 512)):
        similarities = np.partition(part @ known, -most, axis=1)[:, -most:]
        nearest.append(-np.sqrt(np.maximum(0, 2 + 2 * np.sort(-similarities, axis=1))))
    distances = np.concatenate(nearest)
    return {f"knn-{k}": distances[:, k - 1] for k in NEIGHBOURS}


def _distances(residuals: np.ndarray, given: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return squared Mahalanobis distances [M, C] under the covariance of residuals[N, D]."""
    values, vectors = np.linalg.eigh(residuals.T @ residuals / len(residuals))
    kept = values > values[-1] * 1e-9
    whitened = vectors[:, kept] / np.sqrt(values[kept])
    points, centres = given @ whitened, means @ whitened
    squares = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)[None] - 2 * points @ centres.T
    return np.maximum(squares, 0)


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def all_scores(outputs: dict[str, Outputs], outside: int) -> dict[str, dict[str, np.ndarray]]:
    """Return every score by split and name."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for split, each in outputs.items():
        own = {str(name): score(each.logits) for name, score in SCORES.items()}
        found[split] = own | feature_scores(outputs["train"], outside, each.features)
    known = outputs["train"].labels != outside
    for name in ("mahalanobis", "relative", "knn-10", "centroid"):
        spread = {each: found["train"][each][known].std() for each in (BASE, name)}
        for own in found.values():
            own[f"{BASE} + {name}"] = own[BASE] / spread[BASE] + own[name] / spread[name]
    return found


def measured(
    name: str,
    scores: tuple[np.ndarray, np.ndarray],
    predictions: tuple[np.ndarray, np.ndarray],
    labels: tuple[np.ndarray, np.ndarray],
    outside: int,
    goal: ScopeGoal,
) -> dict[str, float]:
    """Select the threshold of a score on the first of two splits; return its figures on the second."""
    is_probability = name == "max_softmax"
    given = scores[0], predictions[0], labels[0], outside, goal.config
    value = best_threshold(*given, are_probabilities=is_probability)
    answers = np.where(scores[1] < value, outside, predictions[1])
    is_right, is_outside = answers == labels[1], labels[1] == outside
    ranked = np.where(predictions[1] == outside, -np.inf, scores[1])
    area = area_under_roc(ranked, is_outside)
    return {
        "auroc": float("nan") if area is None else area,
        "accuracy": float(is_right.mean()),
        "in_scope": float(is_right[~is_outside].mean()),
        "recall": float(is_right[is_outside].mean()),
    }


def margins_of(
    logits: tuple[np.ndarray, np.ndarray], labels: np.ndarray, outside: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the score ``margin`` of two splits, its weight fitted on the first, whose labels are int[N]."""
    weight = fit_weight(logits[0], labels == outside, outside)
    first, second = (margins(each, outside, weight) for each in logits)
    return first, second


def rows_of(outputs: dict[str, Outputs], outside: int, goal: ScopeGoal, splits: int) -> list[dict[str, Any]]:
    """Return a row for each score: its figures on the test split, and its difference from energy on random halves."""
    scores = all_scores(outputs, outside)
    predictions = {split: each.logits.argmax(axis=1) for split, each in outputs.items()}
    held_out = ("validation", "test")
    labels = (outputs["validation"].labels, outputs["test"].labels)
    guesses = (predictions["validation"], predictions["test"])
    pooled = {name: np.concatenate([scores[split][name] for split in held_out]) for name in scores["test"]}
    every_label, every_guess = np.concatenate(labels), np.concatenate(guesses)
    every_logit = np.concatenate([outputs[split].logits for split in held_out])
    halves: dict[str, list[dict[str, float]]] = {name: [] for name in (MARGIN, *pooled)}
    for seed in range(splits):
        order = np.random.default_rng(seed).permutation(len(every_label))
        parts = (order[: len(order) // 2], order[len(order) // 2 :])
        guess, label, logits = (
            (each[parts[0]], each[parts[1]]) for each in (every_guess, every_label, every_logit)
        )
        of_halves = {name: (values[parts[0]], values[parts[1]]) for name, values in pooled.items()}
        for name, own in {MARGIN: margins_of(logits, label[0], outside), **of_halves}.items():
            halves[name].append(measured(name, own, guess, label, outside, goal))
    pairs = {name: (scores["validation"][name], scores["test"][name]) for name in pooled}
    given = (outputs["validation"].logits, outputs["test"].logits)
    rows = []
    for name, pair in {MARGIN: margins_of(given, labels[0], outside), **pairs}.items():
        row: dict[str, Any] = {"score": name, **measured(name, pair, guesses, labels, outside, goal)}
        for figure in ("accuracy", "auroc"):
            gains = [a[figure] - b[figure] for a, b in zip(halves[name], halves[BASE], strict=True)]
            row[f"{figure}_gain"] = statistics.mean(gains)
            row[f"{figure}_gain_std"] = statistics.stdev(gains)
        row["halves_accuracy"] = statistics.mean(each["accuracy"] for each in halves[name])
        row["halves_accuracy_std"] = statistics.stdev(each["accuracy"] for each in halves[name])
        rows.append(row)
    return rows


def show(model: str, rows: list[dict[str, Any]]) -> None:
    """Print the rows of a model as a table."""
    heads = ("AUROC", "accuracy", "in scope", "recall", "halves", "gain", "std", "AUROC gain", "std")
    print(f"{model:26}" + "".join(f"{name:>11}" for name in heads))
    keys = ("auroc", "accuracy", "in_scope", "recall", "halves_accuracy")
    keys += ("accuracy_gain", "accuracy_gain_std", "auroc_gain", "auroc_gain_std")
    for row in rows:
        print(f"{row['score']:26}" + "".join(f"{row[key]:11.4f}" for key in keys))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--job", required=True, help="job file with the data that the models were trained on")
    parser.add_argument("--model", action="append", required=True, metavar="NAME=DIR", help="a classifier")
    parser.add_argument("--max-length", type=int, default=64, help="tokens that texts are truncated to")
    parser.add_argument("--splits", type=int, default=50, help="random halves of validation and test texts")
    parser.add_argument("--threads", type=int, default=2, help="intra-op threads")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    config = load_config(given.job, [])
    data = load_data(config.data)
    goal = goal_of(config, data)
    if goal is None or data.out_of_scope_id is None:
        parser.error(
            f"--job is {given.job}, which has no out-of-scope threshold; its data need an out-of-scope label in "
            "validation, and export.out_of_scope must not be null"
        )
    found = {}
    for each in given.model:
        name, _, directory = each.partition("=")
        began = time.monotonic()
        outputs = read_outputs(directory, data, given.max_length, given.threads)
        found[name] = rows_of(outputs, data.out_of_scope_id, goal, given.splits)
        show(name, found[name])
        print(f"{time.monotonic() - began:.0f} s\n")
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
