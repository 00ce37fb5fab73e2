"""The search of another run is found by the content of its inputs, and only while all of its files are there."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from distiltune.cluster.pipeline.diagnose import DUPLICATES_FILE, ISSUES_FILE
from distiltune.cluster.pipeline.reuse.search import SearchReuse
from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.cluster.store.runs import Run, Storage, now
from distiltune.cluster.store.stage_index import INDEX
from distiltune.export import machine
from distiltune.training.data.text_data import TextData, load_data

BEST: dict[str, Any] = {
    "trial_id": "0002",
    "epoch": 3,
    "metric": "accuracy",
    "value": 0.8,
    "validation_accuracy": 0.8,
    "parameters": {},
    "metrics": {},
    "alpha": 0.5,
    "temperature": 2,
    "num_train_epochs": 3,
}
RESULTS: dict[str, dict[str, Any]] = {
    "teacher": {"key": "cache/teachers/" + "a" * 32, "validation_accuracy": 0.9},
    "logits": {"keys": {}},
    "student": {"students": {}},
    "search": {
        "best": BEST,
        "trials": [],
    },
}
SEARCHED = ["teacher", "logits", "student", "search"]


@pytest.fixture(scope="module")
def data() -> TextData:
    return load_data(job().data)


def job(*overrides: str) -> JobConfig:
    usual = {"export.variants": "[onnx, onnx-int8]"}
    given = usual | dict(each.split("=", 1) for each in overrides)
    return load_config("quickstart-scratch", [f"{name}={value}" for name, value in given.items()])


@pytest.fixture
def storage(tmp_path) -> Storage:
    return Storage(str(tmp_path))


def folder(run: Run, key: str, content: str) -> None:
    local = run.store.local(key)
    local.mkdir(parents=True)
    (local / "file").write_text(content)
    run.store.publish(key)


@pytest.fixture
def made(storage, data) -> Run:
    """A run whose search is finished and entered in the index."""
    run = Run(storage.store, "first")
    reuse_of = SearchReuse(job(), job(), run, data)
    assert reuse_of.copy_search() == {}
    for stage, result in RESULTS.items():
        moment = {"started": now(), "ended": now(), "seconds": 9.0}
        run.write(f"stages/{stage}.json", {"state": "finished", "text": stage, "result": result, **moment})
    for key in (run.best, RESULTS["teacher"]["key"]):
        folder(run, key, key)
    storage.store.write(run.key(ISSUES_FILE), b"split,row")
    reuse_of.index_search()
    return run


@pytest.fixture
def reused_stages(storage, data) -> Callable[..., list[str]]:
    """Return a function that lists the stages which a new run of a job reuses."""

    def of(*overrides: str, name: str = "second", texts: TextData = data) -> list[str]:
        config = job(*overrides)
        return list(SearchReuse(config, config, Run(storage.store, name), texts).copy_search())

    return of


@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("export.choose.minimise=size_mb", SEARCHED),
        ("export.variants=[onnx]", SEARCHED),
        ("export.out_of_scope.in_scope_weight=0.5", SEARCHED),
        ("storage.retry_s=3", SEARCHED),
        ("benchmark.num_threads=2", SEARCHED),
        ("resources.address=10.0.0.1:6379", SEARCHED),
        ("search.num_trials=9", []),
        ("training.learning_rate=0.1", []),
        ("student.layers=[1]", []),
        ("teacher.scratch.hidden_size=64", []),
        ("seed=9", []),
    ],
)
def test_what_a_change_does_not_touch_is_reused(override, stages, reused_stages) -> None:
    assert reused_stages(override) == stages


def test_a_reused_stage_has_the_files_and_names_its_run(made, reused_stages, storage) -> None:
    assert reused_stages() == SEARCHED
    run = Run(storage.store, "second")
    for stage, result in RESULTS.items():
        record = run.stage_record(stage)
        assert (record["state"], record["seconds"], record["result"]) == ("finished", 0.0, result)
        assert (record["text"], record["reused_from"]) == (f"{stage} (of run first)", "first")
    assert storage.store.read(run.key(ISSUES_FILE)) == b"split,row"
    assert storage.store.read(run.key(DUPLICATES_FILE)) is None
    assert (storage.store.fetch(run.best) / "file").read_text() == made.best


@pytest.mark.usefixtures("made")
def test_a_run_that_reused_is_not_entered_in_its_place(reused_stages, storage, data) -> None:
    second = SearchReuse(job(), job(), Run(storage.store, "second"), data)
    assert list(second.copy_search()) == SEARCHED
    second.index_search()
    entries = [storage.store.read_json(f"{INDEX}/{name}") for name in storage.store.names(INDEX)]
    assert {entry["run_id"] for entry in entries if entry} == {"first"}
    assert reused_stages(name="third") == SEARCHED


@pytest.mark.parametrize("key", ["best", "teacher"])
def test_results_that_lost_their_files_are_computed_again(key, made, reused_stages) -> None:
    lost = {"best": made.best, "teacher": RESULTS["teacher"]["key"]}[key]
    shutil.rmtree(made.store.local(lost))
    assert reused_stages() == []


def test_a_trial_selected_by_hand_is_not_the_result_of_a_search(made, reused_stages, data) -> None:
    record = made.stage_record("search")
    record["result"] = {**record["result"], "best": {**record["result"]["best"], "trial_id": "0005"}}
    made.write("stages/search.json", record)
    assert reused_stages() == []
    resumed = SearchReuse(job(), job(), made, data)
    assert resumed.copy_search() == {}
    resumed.index_search()
    assert reused_stages(name="third") == []


@pytest.mark.usefixtures("made")
def test_other_texts_versions_or_a_warm_start_are_other_inputs(reused_stages, data, monkeypatch) -> None:
    assert reused_stages("search.warm_start=first") == []
    fewer = TextData(data.splits, data.out_of_scope_label, ["one more text"])
    assert reused_stages(texts=fewer) == []
    monkeypatch.setattr(machine.metadata, "version", lambda name: "0")
    assert reused_stages() == []


def test_a_run_that_is_gone_or_damaged_is_skipped(made, reused_stages) -> None:
    made.store.write(made.key("stages/search.json"), b"{")
    assert reused_stages() == []
    for name in made.store.names(INDEX):
        made.store.write_json(f"{INDEX}/{name}", {"run_id": "nowhere"})
    assert reused_stages() == []
    for name in made.store.names(INDEX):
        made.store.write_json(f"{INDEX}/{name}", {"run_id": None})
    assert reused_stages() == []


def test_a_search_by_a_threshold_depends_on_its_goal(storage, data) -> None:
    goal = "export.out_of_scope.in_scope_weight=0.5"
    by_threshold = "search.metric=validation_accuracy_with_threshold"

    def key(*overrides: str) -> str | None:
        config = job(*overrides)
        return SearchReuse(config, config, Run(storage.store, "a"), data)._key()

    assert key() == key(goal)
    assert key(by_threshold) != key(by_threshold, goal)
    assert key(by_threshold) == key(by_threshold, "export.choose.minimise=size_mb")
