import pytest

from distiltune.export.benchmark.accuracy.evaluation import evaluate, wilson_interval


def answers(*labels: str, score: float = 1.0) -> list[dict]:
    return [{"label": label, "score": score} for label in labels]


def test_figures_are_those_counted_by_hand() -> None:
    truth = ["a", "a", "a", "b", "b", "x"]
    found = evaluate(answers("a", "a", "b", "b", "a", "b", score=0.75), truth, ["a", "b", "c"])
    assert found["num_texts"] == 6
    assert found["accuracy"] == pytest.approx(3 / 6)
    assert found["calibration_error"] == pytest.approx(0.75 - 3 / 6)
    a, b, x = found["labels"]
    assert a == {
        "label": "a",
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "num_texts": 3,
    }
    assert (b["precision"], b["recall"], b["num_texts"]) == (pytest.approx(1 / 3), 0.5, 2)
    assert b["f1"] == pytest.approx(0.4)
    assert (x["precision"], x["recall"], x["f1"]) == (None, 0.0, 0.0)
    assert found["unknown"] == ["x"]
    assert found["confusion"] == {"labels": ["a", "b", "x"], "counts": [[2, 1, 0], [1, 1, 0], [0, 1, 0]]}


def test_a_threshold_s_own_label_is_one_of_the_rows() -> None:
    found = evaluate(answers("none", "a"), ["none", "none"], ["a"])
    assert found["confusion"] == {"labels": ["a", "none"], "counts": [[0, 0], [1, 1]]}
    assert found["unknown"] == []
    assert found["labels"][0]["recall"] is None


@pytest.mark.parametrize(
    ("num_right", "num_texts", "low", "high"),
    [(0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (81, 263, 0.25528, 0.36621), (1, 1, 0.20654, 1.0)],
)
def test_the_interval_is_wilson_s(num_right: int, num_texts: int, low: float, high: float) -> None:
    assert wilson_interval(num_right, num_texts) == pytest.approx([low, high], abs=1e-4)
