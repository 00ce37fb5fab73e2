"""Out-of-scope thresholds and their measurements, against counts by hand and plain NumPy."""

import json
import pickle

import datasets
import numpy as np
import pytest

from distiltune.cluster.specification.config import JobConfig
from distiltune.cluster.specification.goal import accuracy_with_threshold, check_goals, check_metrics
from distiltune.errors import ConfigError
from distiltune.export.config import OutOfScopeConfig
from distiltune.export.out_of_scope.best_threshold import best_threshold, threshold_curve
from distiltune.export.out_of_scope.thresholds import (
    AccuracyWithThreshold,
    ScopeGoal,
    area_under_roc,
    choose_threshold,
    measure_threshold,
    reliability,
    scope_goal,
    threshold_curves,
)
from distiltune.export.runtime.scores import SCORES, Threshold, log_sum_exp
from distiltune.training.data.text_data import TextData
from distiltune.training.tasks import SINGLE_LABEL

OUTSIDE = 3
SCOPE = SINGLE_LABEL.out_of_scope


def drawn(num_texts=300, num_labels=4, seed=0):
    """Return logits that are right four times in five, with less confidence for out-of-scope texts, and labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_labels, num_texts)
    logits = random.normal(size=(num_texts, num_labels)).astype(np.float32)
    largest = np.where(random.random(num_texts) < 0.8, labels, random.integers(0, num_labels, num_texts))
    logits[np.arange(num_texts), largest] += np.where(labels == OUTSIDE, 1.5, 4)
    return logits, labels


def answers(logits, threshold, score="energy"):
    return np.where(SCORES[score](logits) < threshold, OUTSIDE, logits.argmax(axis=1))


def test_scores_are_what_their_papers_say():
    logits = np.array([[0.0, 1.0, 2.0], [700.0, -700.0, 0.0]], dtype=np.float32)
    wide = logits.astype(np.longdouble)
    sums = np.exp(wide).sum(axis=1)
    np.testing.assert_allclose(log_sum_exp(logits), np.log(sums).astype(float))
    np.testing.assert_allclose(SCORES["energy"](logits), np.log(sums).astype(float))
    np.testing.assert_allclose(SCORES["max_logit"](logits), [2, 700])
    np.testing.assert_allclose(SCORES["max_softmax"](logits), (np.exp(wide.max(axis=1)) / sums).astype(float))


@pytest.mark.parametrize("score", list(SCORES))
def test_the_curve_is_what_each_threshold_does(score):
    logits, labels = drawn()
    scores = np.round(SCORES[score](logits), 1)  # ties
    predictions = logits.argmax(axis=1)
    curve = threshold_curve(scores, predictions, labels, OUTSIDE)
    assert len(curve.values) == len(np.unique(scores)) + 1
    assert np.isfinite(curve.values).all()
    outside = labels == OUTSIDE
    for number, value in enumerate(curve.values):
        answered = np.where(scores < value, OUTSIDE, predictions)
        assert curve.accuracy[number] == pytest.approx((answered == labels).mean())
        assert curve.in_scope_accuracy[number] == pytest.approx((answered == labels)[~outside].mean())
        assert curve.recall[number] == pytest.approx((answered == labels)[outside].mean())
        assert curve.in_scope_refused[number] == pytest.approx((answered == OUTSIDE)[~outside].mean())
    assert (curve.recall[-1], curve.in_scope_accuracy[-1]) == (1, 0)


def smoothed_goal(scores, predictions, labels, value, weight):
    """The goal if logistic noise of Silverman's bandwidth is added to the scores; written out text by text."""

    def share_below(of):
        quartiles = np.quantile(of, 0.75) - np.quantile(of, 0.25)
        deviation = 0.9 * min(of.std(), quartiles / 1.349) / len(of) ** 0.2
        scale = deviation * np.sqrt(3) / np.pi
        return sum(1 / (1 + np.exp((each - value) / scale)) for each in of)

    outside = labels == OUTSIDE
    inside = share_below(scores[~outside & (predictions == labels)])
    kept = ((predictions == labels) & ~outside).sum() - inside
    refused = (outside & (predictions == OUTSIDE)).sum() + share_below(
        scores[outside & (predictions != OUTSIDE)]
    )
    return weight * kept / (~outside).sum() + (1 - weight) * refused / outside.sum()


@pytest.mark.parametrize("weight", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_no_threshold_reaches_the_smoothed_goal_better(weight):
    logits, labels = drawn()
    goal = ScopeGoal(OutOfScopeConfig(in_scope_weight=weight, score="energy"), "oos")
    chosen = choose_threshold(SCOPE, logits, labels, OUTSIDE, goal)
    scores = SCORES["energy"](logits).astype(float)
    values = np.linspace(scores.min() - 0.01, scores.max() + 0.01, 1500)
    found, *others = (
        smoothed_goal(scores, logits.argmax(axis=1), labels, value, weight)
        for value in (chosen.value, *values)
    )
    assert found >= max(others) - 1e-4
    assert (chosen.score, chosen.label) == ("energy", "oos")


def split_of(num_inside, num_outside, seed):
    """Return scores, predictions and labels of texts whose predictions are right, with fewer out-of-scope ones."""
    random = np.random.default_rng(seed)
    scores = np.concatenate([random.normal(4, 1.5, num_inside), random.normal(0, 1.5, num_outside)])
    labels = np.where(np.arange(len(scores)) < num_inside, 0, OUTSIDE)
    return scores, np.zeros(len(scores), dtype=int), labels


def test_smoothing_brings_the_threshold_nearer_to_the_best_one():
    everything, weight = split_of(100_000, 100_000, 100), 0.75

    def gained(curve):
        return weight * curve.in_scope_accuracy + (1 - weight) * curve.recall

    curve = threshold_curve(*everything, OUTSIDE)
    lost = {"smoothed": [], "plain": []}
    for seed in range(20):
        split = split_of(600, 40, seed)
        own = threshold_curve(*split, OUTSIDE)
        values = {
            "smoothed": best_threshold(*split, OUTSIDE, OutOfScopeConfig(in_scope_weight=weight)),
            "plain": own.values[gained(own).argmax()],
        }
        for name, value in values.items():
            lost[name].append(gained(curve).max() - gained(curve)[np.searchsorted(curve.values, value)])
    assert np.mean(lost["smoothed"]) < 0.6 * np.mean(lost["plain"])


def test_a_gap_between_the_scores_is_divided():
    scores, labels = np.array([0.0, 1.0, 2.0, 10.0, 11.0, 12.0]), np.array([OUTSIDE] * 3 + [0] * 3)
    value = best_threshold(scores, np.zeros(6, dtype=int), labels, OUTSIDE, OutOfScopeConfig())
    assert 3 < value < 9


def test_one_out_of_scope_text_is_not_at_the_threshold():
    scores, labels = np.array([0.0, 10.0, 11.0, 12.0, 13.0]), np.array([OUTSIDE] + [0] * 4)
    value = best_threshold(scores, np.zeros(5, dtype=int), labels, OUTSIDE, OutOfScopeConfig())
    assert 2 < value < 9


def test_out_of_scope_texts_of_one_high_score_can_be_refused_alone():
    scores = np.array([5.0] * 3 + [0.0, 2.0, 4.0, 6.0, 20.0, 21.0, 22.0, 23.0])
    labels = np.array([OUTSIDE] * 3 + [0] * 8)
    config = OutOfScopeConfig(in_scope_weight=0.5)
    assert 5 < best_threshold(scores, np.zeros(11, dtype=int), labels, OUTSIDE, config) < 20


@pytest.mark.parametrize("scale", [1, 8])
@pytest.mark.parametrize("weight", [0.0, 0.5, 0.75, 1.0])
def test_probabilities_near_one_are_told_apart(scale, weight):
    logits, labels = drawn(num_texts=2000)
    goal = ScopeGoal(OutOfScopeConfig(in_scope_weight=weight, score="max_softmax"), "oos")
    chosen = choose_threshold(SCOPE, scale * logits, labels, OUTSIDE, goal)
    outside = labels == OUTSIDE

    def reached(value):
        right = answers(scale * logits, value, "max_softmax") == labels
        return weight * right[~outside].mean() + (1 - weight) * right[outside].mean()

    best = max(reached(value) for value in [0, 2, *np.sort(SCORES["max_softmax"](scale * logits))[::10]])
    assert reached(chosen.value) == pytest.approx(best, abs=0.01)


@pytest.mark.parametrize("score", [0.0, -3.5])
def test_equal_scores_have_a_finite_threshold(score):
    scores, labels = np.full(6, score), np.array([OUTSIDE] * 3 + [0] * 3)
    for weight, is_refused in ((0.2, True), (0.8, False)):
        config = OutOfScopeConfig(in_scope_weight=weight)
        value = best_threshold(scores, np.zeros(6, dtype=int), labels, OUTSIDE, config)
        assert np.isfinite(value) and (score < value) == is_refused


def test_a_threshold_that_can_change_one_kind_of_texts_alone_keeps_all_of_them():
    scores, labels = np.array([0.0, 1.0, 2.0, 3.0]), np.array([OUTSIDE, OUTSIDE, 0, 0])
    found_by_logits, all_wrong = labels, np.array([0, 0, 1, 1])
    assert best_threshold(scores, found_by_logits, labels, OUTSIDE, OutOfScopeConfig()) < 0
    assert best_threshold(scores, all_wrong, labels, OUTSIDE, OutOfScopeConfig()) > 3


def test_as_many_are_refused_as_may_be_and_not_one_more():
    logits, labels = drawn()
    for share in (0.0, 0.02, 0.3):
        goal = ScopeGoal(OutOfScopeConfig(max_in_scope_refused=share, score="max_logit"), "oos")
        chosen = choose_threshold(SCOPE, logits, labels, OUTSIDE, goal)
        inside = logits[labels != OUTSIDE]
        by_logits = (inside.argmax(axis=1) == OUTSIDE).mean()
        refused = (answers(inside, chosen.value, "max_logit") == OUTSIDE).mean()
        assert refused <= max(share, by_logits)
        higher = np.sort(SCORES["max_logit"](inside)[inside.max(axis=1) > chosen.value])[0] + 1e-9
        assert (answers(inside, higher, "max_logit") == OUTSIDE).mean() > share


def test_a_label_that_the_model_does_not_know_can_be_given():
    logits, labels = drawn()
    inside = labels != OUTSIDE
    logits, labels = logits[inside][:, :OUTSIDE], labels[inside]
    goal = ScopeGoal(OutOfScopeConfig(max_in_scope_refused=0.1), "none of these")
    chosen = choose_threshold(SCOPE, logits, labels, OUTSIDE, goal)
    found = measure_threshold(SCOPE, chosen, logits, labels, OUTSIDE)
    assert 0.09 < found["in_scope_refused"] <= 0.1
    assert found["oos_recall"] is found["auroc"] is None
    assert threshold_curves(SCOPE, chosen, logits, labels, OUTSIDE)["roc"] is None
    assert found["label"] == "none of these"


def test_what_a_threshold_is_worth():
    logits, labels = drawn(2000)
    threshold = Threshold("energy", 3.0, "oos")
    found = measure_threshold(SCOPE, threshold, logits, labels, OUTSIDE)
    right, outside = answers(logits, 3.0) == labels, labels == OUTSIDE
    assert found["accuracy"] == right.mean()
    assert found["in_scope_accuracy"] == right[~outside].mean()
    assert found["oos_recall"] == right[outside].mean()
    predicted_outside = logits.argmax(axis=1) == OUTSIDE
    assert predicted_outside.any()
    scores = np.where(predicted_outside, -1e9, SCORES["energy"](logits))
    pairs = np.sign(scores[~outside][:, None] - scores[outside][None])
    assert found["auroc"] == pytest.approx(((pairs + 1) / 2).mean())
    curves = threshold_curves(SCOPE, threshold, logits, labels, OUTSIDE)
    first, roc = curves["refused"], curves["roc"]
    assert (first["share"][0], first["accuracy"][0]) == (0, (logits.argmax(axis=1) == labels).mean())
    assert (roc["in_scope"][0], roc["recall"][0], roc["in_scope"][-1], roc["recall"][-1]) == (0, 0, 1, 1)
    assert np.trapezoid(roc["recall"], roc["in_scope"]) == pytest.approx(found["auroc"], abs=5e-3)
    below = scores < 3.0
    assert roc["chosen"] == {"in_scope": below[~outside].mean(), "recall": below[outside].mean()}
    assert max(len(first["share"]), len(roc["in_scope"])) <= 200
    json.dumps([found, curves], allow_nan=False)


def test_area_under_roc_counts_ties_half():
    assert area_under_roc(np.array([1.0, 1.0, 2.0, 0.0]), np.array([True, False, False, True])) == 0.875
    assert area_under_roc(np.array([1.0, 2.0]), np.array([True, True])) is None


def test_calibration_error_is_the_mean_gap_of_the_bins():
    """Three bins of ten texts, computed with loops; the order of the texts does not matter."""
    generator = np.random.default_rng(0)
    confidence, right = generator.uniform(0.3, 1, 30), generator.random(30) < 0.6
    found = reliability(confidence, right)
    assert [each["count"] for each in found["bins"]] == [10, 10, 10]
    ranked = sorted(range(30), key=lambda i: confidence[i])
    gaps = [
        abs(
            np.mean([right[i] for i in ranked[k : k + 10]])
            - np.mean([confidence[i] for i in ranked[k : k + 10]])
        )
        for k in (0, 10, 20)
    ]
    assert found["ece"] == pytest.approx(np.mean(gaps))
    shuffled = generator.permutation(30)
    assert reliability(confidence[shuffled], right[shuffled])["ece"] == pytest.approx(found["ece"])


def test_there_are_at_most_15_bins_and_equal_confidences_share_one():
    many = np.linspace(0.1, 1, 3000)
    counts = [each["count"] for each in reliability(many, many > 0.5)["bins"]]
    assert counts == [200] * 15
    assert len(reliability(np.full(3000, 0.75), np.arange(3000) < 1500)["bins"]) == 1
    same = np.concatenate([np.linspace(0.1, 0.9, 100), np.ones(900)])
    assert reliability(same, same > 0.5)["bins"][-1]["count"] == 900
    few = reliability(np.array([1.0, 0.5]), np.array([True, True]))
    assert few == {"ece": pytest.approx(0.25), "bins": [{"confidence": 0.75, "accuracy": 1.0, "count": 2}]}


def by_hand(logits, labels, goal, outside=OUTSIDE):
    chosen = choose_threshold(SCOPE, logits, labels, outside, goal)
    return measure_threshold(SCOPE, chosen, logits, labels, outside)["accuracy"]


@pytest.mark.parametrize(
    "section", [{}, {"score": "energy"}, {"score": "max_softmax"}, {"max_in_scope_refused": 0.05}]
)
def test_an_epoch_is_measured_with_the_threshold_that_an_export_would_select(section):
    goal = ScopeGoal(OutOfScopeConfig(**section), "oos")
    measure = pickle.loads(pickle.dumps(AccuracyWithThreshold("single_label", goal, OUTSIDE)))
    for seed in range(3):
        logits, labels = drawn(seed=seed)
        assert measure(logits, labels) == by_hand(logits, labels, goal)


def test_a_class_that_only_the_threshold_gives_counts():
    logits, labels = drawn(2000)
    goal = ScopeGoal(OutOfScopeConfig(), "oos")
    measure = AccuracyWithThreshold("single_label", goal, OUTSIDE)
    assert choose_threshold(SCOPE, logits[:, :OUTSIDE], labels, OUTSIDE, goal).score == "energy"
    assert measure(logits[:, :OUTSIDE], labels) > (logits[:, :OUTSIDE].argmax(axis=1) == labels).mean()


NAMES = ["balance", "oos", "transfer"]


def test_the_goal_comes_of_specification_and_data():
    config = OutOfScopeConfig()
    assert scope_goal(None, "oos", NAMES, 5) is None
    assert scope_goal(config, None, NAMES, 0) is None
    assert scope_goal(config, "oos", NAMES, 5) == ScopeGoal(config, "oos")
    assert scope_goal(config, "oos", NAMES, 0) is None
    named = OutOfScopeConfig(label="other", max_in_scope_refused=0.02)
    assert scope_goal(named, None, NAMES, 0) == ScopeGoal(named, "other")
    assert scope_goal(OutOfScopeConfig(label="oos"), "oos", NAMES, 5) is not None


@pytest.mark.parametrize(
    ("given", "data_label", "message"),
    [
        ({"label": "other"}, "oos", r"label: 'other', .*'oos'; remove"),
        ({"label": "balance"}, None, r"one of the data's labels; .* data\.out_of_scope_label: balance"),
        (
            {"label": "other"},
            None,
            r"no text of the validation split .* set .*max_in_scope_refused, such as 0\.02",
        ),
    ],
)
def test_goals_that_cannot_be_reached_are_refused(given, data_label, message):
    with pytest.raises(ConfigError, match=message):
        scope_goal(OutOfScopeConfig(**given), data_label, NAMES, 0)


def text_data(data_label, validation):
    """Return data with texts of every label in train and test, and of the given labels in validation."""
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)}
    )

    def split(labels):
        return datasets.Dataset.from_dict({"text": ["a"] * len(labels), "label": labels}, features=features)

    splits = {"train": split([0, 1, 2]), "validation": split(validation), "test": split([0, 1, 2])}
    return TextData(datasets.DatasetDict(splits), data_label)


METRIC = "validation_accuracy_with_threshold"


@pytest.mark.parametrize(
    ("search", "key"),
    [
        ({"metric": METRIC}, "search.metric"),
        ({"objectives": [{"metric": METRIC, "mode": "max"}]}, "search.objectives"),
        ({"constraints": [f"{METRIC} >= 0.5"]}, "search.constraints"),
    ],
)
@pytest.mark.parametrize(("data_label", "section"), [(None, {}), ("oos", None)])
def test_a_search_by_a_threshold_that_the_job_lacks_is_refused(search, key, data_label, section):
    config = JobConfig.model_validate({"search": search, "export": {"out_of_scope": section}})
    with pytest.raises(ConfigError, match=rf"^{key}: '{METRIC}' given, .*export\.out_of_scope") as raised:
        check_metrics(config, text_data(data_label, [0, 1, 2]))
    assert "\n" not in str(raised.value)
    with_threshold = JobConfig.model_validate({"search": search})
    check_metrics(with_threshold, text_data("oos", [0, 1, 2]))


def test_a_job_that_is_judged_by_a_threshold_that_it_lacks_is_told_so_under_its_own_key():
    config = JobConfig.model_validate({"export": {"choose": {"accuracy": "with_threshold"}}})
    assert config.search.metric == METRIC
    check_metrics(config, text_data(None, [0, 1, 2]))
    with pytest.raises(ConfigError, match=r"^export\.choose\.accuracy: with_threshold given"):
        check_goals(config, text_data(None, [0, 1, 2]))


def test_epochs_are_measured_by_the_goal_of_the_export():
    own = {"label": "none of these", "max_in_scope_refused": 0.02}
    job = JobConfig.model_validate({"export": {"out_of_scope": own}})
    found = accuracy_with_threshold(job, text_data(None, [0, 1, 2]))
    goal = ScopeGoal(OutOfScopeConfig(**own), "none of these")
    assert found == AccuracyWithThreshold("single_label", goal, 3)
    usual = accuracy_with_threshold(JobConfig(), text_data("oos", [0, 1, 2]))
    assert usual == AccuracyWithThreshold("single_label", ScopeGoal(OutOfScopeConfig(), "oos"), 1)
    assert accuracy_with_threshold(JobConfig(), text_data(None, [0, 1, 2])) is None


@pytest.mark.parametrize(
    ("data_label", "validation", "section", "warned"),
    [
        ("oos", [0, 2], {}, True),
        ("oos", [0, 1], {}, False),
        ("oos", [0, 2], {"max_in_scope_refused": 0.02}, False),
        ("oos", [0, 2], None, False),
        (None, [0, 2], {}, False),
    ],
)
def test_a_job_without_out_of_scope_texts_to_choose_by_says_so(
    data_label, validation, section, warned, caplog
):
    data = text_data(data_label, validation * 200)
    check_goals(JobConfig.model_validate({"export": {"out_of_scope": section}}), data)
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len(warnings) == warned
    assert not warned or "no text of the validation split has the out-of-scope label 'oos'" in warnings[0]
