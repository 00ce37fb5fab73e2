import json
from pathlib import Path

import numpy as np
import pytest
from artifacts import TEXTS, tiny_artifact

from distiltune.errors import ArtifactError, InputError
from distiltune.export.artifact.seal import seal_artifact, verify_artifact
from distiltune.export.benchmark import session_tuning as tuning
from distiltune.export.benchmark.measure_models import (
    BenchmarkTexts,
    Measurement,
    MeasurementSpec,
    measure_models,
)
from distiltune.export.benchmark.session_tuning import candidates, paired_gains, tune_session
from distiltune.export.config import BenchmarkConfig
from distiltune.export.runtime.classifier import TextClassifier
from distiltune.export.runtime.session.session_options import VALUES, session_options

ALL = {
    "enable_cpu_mem_arena": False,
    "enable_mem_pattern": False,
    "allow_spinning": False,
    "disable_prepacking": True,
    "graph_optimization_level": "basic",
    "execution_mode": "parallel",
}


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return tiny_artifact(tmp_path / "artifact")


def write(artifact: Path, session: object) -> Path:
    path = artifact / "distiltune.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"session": session}))
    return artifact


def options_of(classifier: TextClassifier):
    return classifier._predictor.graph.session.get_session_options()


def test_options_of_the_config_are_used(artifact: Path) -> None:
    before = options_of(TextClassifier.load(artifact))
    assert (before.enable_cpu_mem_arena, before.enable_mem_pattern) == (True, True)
    write(artifact, ALL)
    options = options_of(TextClassifier.load(artifact, num_threads=2))
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (False, False)
    assert options.graph_optimization_level.name == "ORT_ENABLE_BASIC"
    assert options.execution_mode.name == "ORT_PARALLEL"
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 2)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.get_session_config_entry("session.disable_prepacking") == "1"
    # An argument overrides the artifact's options.
    assert options_of(TextClassifier.load(artifact, session={})).enable_mem_pattern is True


def test_without_options_all_is_as_before() -> None:
    for num_threads, spins in ((1, "0"), (2, "1")):
        options = session_options(num_threads, {})
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (num_threads, 1)
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == spins
        assert options.graph_optimization_level.name == "ORT_ENABLE_ALL"
        assert options.execution_mode.name == "ORT_SEQUENTIAL"


def test_no_option_changes_the_logits(artifact: Path) -> None:
    expected = TextClassifier.load(artifact).logits(TEXTS)
    assert set(ALL) == set(VALUES)
    for session in ({}, ALL, *({name: value} for name, values in VALUES.items() for value in values)):
        logits = TextClassifier.load(write(artifact, session)).logits(TEXTS)
        np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("session", "message"),
    [
        ({"intra_op": 4}, "unknown option 'intra_op'; accepted: enable_cpu_mem_arena, "),
        ({"set_denormal_as_zero": True}, "unknown option 'set_denormal_as_zero'"),
        ({"enable_mem_pattern": 1}, "enable_mem_pattern is 1; it must be one of true, false"),
        ({"graph_optimization_level": "most"}, "is 'most'; it must be one of disable_all, basic, extended"),
        ({"execution_mode": None}, "execution_mode is None; it must be one of sequential, parallel"),
        ({"graph_optimization_level": ["basic"]}, "graph_optimization_level is"),
        (["enable_mem_pattern"], "must be an object of session options"),
        ("fast", "must be an object of session options"),
    ],
)
def test_other_options_are_refused(artifact: Path, session: object, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        TextClassifier.load(write(artifact, session))
    with pytest.raises(InputError, match=message):
        TextClassifier.load(write(artifact, None), session=session)  # pyright: ignore[reportArgumentType]


class Machine:
    """A clock that each call of a classifier advances by the cost of its options, with reproducible noise."""

    def __init__(self, costs: dict[str, float], changed: str = "", noise: float = 0.003) -> None:
        self.now, self.costs, self.changed, self.noise = 0.0, costs, changed, noise
        self.rng = np.random.default_rng(0)

    def perf_counter(self) -> float:
        return self.now

    def load(self, directory: str, *, num_threads: int, session: dict) -> "Machine.Classifier":
        return Machine.Classifier(self, session | {"num_threads": num_threads})

    class Classifier:
        def __init__(self, machine: "Machine", session: dict) -> None:
            self.machine, self.session = machine, session
            self.cost = 1e-3 * np.prod(
                [machine.costs.get(f"{name}={value}", 1.0) for name, value in session.items()]
            )

        def __call__(self, text: str) -> None:
            self.machine.now += self.cost * (1 + self.machine.rng.normal(scale=self.machine.noise))

        def logits(self, texts: list[str]) -> np.ndarray:
            differs = any(f"{name}={value}" == self.machine.changed for name, value in self.session.items())
            return np.full((len(texts), 2), 1e-3 if differs else 0.0)


def tuned(machine: Machine, monkeypatch: pytest.MonkeyPatch, num_threads: int = 1, **more: int) -> dict:
    monkeypatch.setattr(tuning, "time", machine)
    monkeypatch.setattr(tuning, "TextClassifier", machine)
    return tune_session("artifact", query="open", texts=TEXTS, num_threads=num_threads, seconds=0.06, **more)


def test_options_that_help_are_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {
        "enable_mem_pattern=False": 0.9,
        "enable_cpu_mem_arena=False": 0.95,
        "graph_optimization_level=basic": 0.8,
        "graph_optimization_level=extended": 0.85,
        "disable_prepacking=True": 1.3,
    }
    found = tuned(Machine(costs), monkeypatch)
    assert found["session"] == {
        "enable_mem_pattern": False,
        "enable_cpu_mem_arena": False,
        "graph_optimization_level": "basic",
    }
    assert found["gain"] == pytest.approx(1 - 0.9 * 0.95 * 0.8, abs=0.02)
    better = {(each["option"], each["value"]): each["better"] for each in found["options"]}
    assert not better["disable_prepacking", True]
    assert better["graph_optimization_level", "extended"]


def test_an_option_that_changes_logits_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {"graph_optimization_level=basic": 0.5, "enable_mem_pattern=False": 0.9}
    found = tuned(Machine(costs, changed="graph_optimization_level=basic"), monkeypatch)
    assert found["session"] == {"enable_mem_pattern": False}
    (basic,) = [each for each in found["options"] if each["value"] == "basic"]
    assert (basic["better"], basic["max_abs_diff"]) == (False, 1e-3)
    assert basic["gain"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("noise", [0.0, 0.003, 0.1, 0.3])
def test_noise_chooses_nothing(monkeypatch: pytest.MonkeyPatch, noise: float) -> None:
    # A saving of half a percent does not count.
    found = tuned(Machine({"enable_mem_pattern=False": 0.995}, noise=noise), monkeypatch, num_threads=2)
    assert (found["session"], found["gain"]) == ({}, 0.0)
    tried = {each["option"] for each in found["options"]}
    assert tried == set(VALUES)


def test_a_busy_machine_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine({})
    monkeypatch.setattr(tuning, "time", machine)
    calls = 0

    def stalls(text: str) -> None:
        nonlocal calls
        calls += 1
        machine.now += 1e-3 if calls < 20 else 10.0

    gains = paired_gains(stalls, stalls, "open", 0.03)
    assert 0 < len(gains) < 15
    assert not tuning.is_better(np.full(len(gains), 0.5), 0.01)


def test_threads_that_help_are_chosen_with_the_options(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {
        "enable_mem_pattern=False": 0.9,
        "num_threads=2": 0.7,
        "num_threads=3": 0.6,
        "num_threads=4": 0.8,
    }
    found = tuned(Machine(costs | {"allow_spinning=False": 1.2}), monkeypatch, max_threads=3)
    assert (found["session"], found["num_threads"]) == ({"enable_mem_pattern": False}, 3)
    found = tuned(Machine(costs | {"allow_spinning=False": 0.8}), monkeypatch, max_threads=4)
    spinning = {"enable_mem_pattern": False, "allow_spinning": False}
    assert (found["session"], found["num_threads"]) == (spinning, 2)
    assert [(each["num_threads"], each["better"]) for each in found["threads"]] == [
        (2, True),
        (2, True),
        (4, False),
        (4, False),
    ]
    assert tuned(Machine(costs), monkeypatch)["num_threads"] == 1
    costs = dict.fromkeys(("num_threads=1", "num_threads=2"), 1.0) | {"num_threads=1": 0.5}
    assert tuned(Machine(costs), monkeypatch, num_threads=2, max_threads=2)["num_threads"] == 1


def test_tunes_a_real_artifact(artifact: Path) -> None:
    found = tune_session(str(artifact), query=TEXTS[0], texts=TEXTS, max_threads=2, seconds=0.01)
    assert [each["num_threads"] for each in found["threads"]] == [2, 2]
    assert [{each["option"]: each["value"]} for each in found["options"]] == candidates(1)
    assert "allow_spinning" not in {each["option"] for each in found["options"]}
    assert all(each["max_abs_diff"] < 1e-5 for each in found["options"])
    TextClassifier.load(artifact, session=found["session"])
    json.dumps(found, allow_nan=False)


def test_a_row_is_timed_and_sealed_with_its_options(artifact: Path, tmp_path: Path) -> None:
    texts = BenchmarkTexts(TEXTS, [0, 1, 2], TEXTS, [0, 1, 2], ["first", "second", "third"])
    config = BenchmarkConfig(num_warmups=1, num_runs=3, num_sample_texts=2, batch_sizes=[1])
    (row,) = measure_models([MeasurementSpec("onnx", "onnx", str(artifact), 24)], texts, config)
    assert row.session is not None
    assert Measurement.from_json(json.loads(json.dumps(row.to_json()))) == row
    session = {"enable_mem_pattern": False}
    made = {"made_from": {}, "measurements": {}, "session": session, "num_threads": 2}
    sealed = seal_artifact(artifact, tmp_path / "sealed", **made)
    verify_artifact(sealed)
    assert json.loads((sealed / "distiltune.json").read_text()) == json.loads(
        (artifact / "distiltune.json").read_text()
    ) | {"session": session, "num_threads": 2}
    classifier = TextClassifier.load(sealed)
    assert options_of(classifier).enable_mem_pattern is False
    assert options_of(classifier).intra_op_num_threads == 2
    np.testing.assert_array_equal(classifier.logits(TEXTS), TextClassifier.load(artifact).logits(TEXTS))
