"""`resume RUN --set …`: which changes extend a search, which begin a new run, and which are refused."""

import hashlib
import json
import logging
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml
from runfiles import Writer
from small_job import COMMAND, JOB, environment

from distiltune.cluster.cli import main
from distiltune.cluster.pipeline.best_trial import select_other_trial
from distiltune.cluster.pipeline.reuse.extension import changed_job, drop_outdated, extend, is_extended
from distiltune.cluster.pipeline.run_job import refuse_other_specification
from distiltune.cluster.specification.config import JobConfig
from distiltune.cluster.store.runs import Run, Storage, command
from distiltune.errors import ConfigError, InputError

NUM_TRIALS = 6


@pytest.fixture
def storage(tmp_path):
    return Storage(str(tmp_path / "store"), retry_s=0)


def config(**search):
    return JobConfig.model_validate({"search": {"num_trials": NUM_TRIALS, **search}})


@pytest.fixture
def run(storage):
    """A finished run with six trials."""
    run = Writer(storage).finished().run
    run.write("job.json", config().model_dump(mode="json"))
    for number in range(NUM_TRIALS):
        run.store.write_json(f"{run.search}/{number:04}/params.json", {})
    run.store.delete(run.key("lease.json"))
    return run


def changed(run, *overrides):
    return changed_job(run, run.specification(), list(overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["search.num_trials=40"],
        ["search.budget.wall_time_s=60"],
        ["search.budget={patience: 5}"],
        ["search.num_trials=7", "search.budget.target_value=0.99", "resources.trial.cpu=2"],
        ["search.max_failed_trials=9"],
    ],
)
def test_more_trials_or_another_budget_extend_the_search(overrides, run):
    found = changed(run, *overrides)
    assert found.kind == "extended"
    assert found.config.search.space == run.specification().search.space


@pytest.mark.parametrize(
    "overrides", [["search.num_trials=6"], ["resources.num_cpus=2"], ["storage.reuse=false"]]
)
def test_what_does_not_concern_the_search_resumes_the_run_as_it_is(overrides, run):
    assert changed(run, *overrides).kind == "same"


@pytest.mark.parametrize(
    "overrides",
    [
        ["search.space.alpha.high=0.5"],
        ["search.space.alpha=0.5", "search.num_trials=3"],
        ["search.space.learning_rate={type: float, low: 1e-4, high: 1e-3}", "search.seed=9"],
    ],
)
def test_a_changed_space_begins_a_new_run_that_is_warm_started(overrides, run):
    found = changed(run, *overrides)
    assert (found.kind, found.config.search.warm_start, found.because) == ("new", "a", "search.space")
    assert not is_extended(run)


@pytest.mark.parametrize(
    ("override", "former"),
    [
        ("search.sampler=gp", "a"),
        ("search.sampler={type: tpe, multivariate: false}", "a"),
        ("search.sampler.multivariate=true", "a"),
        ("search.sampler=random", None),
        ("search.sampler=qmc", None),
    ],
)
def test_a_changed_sampler_begins_a_new_run_that_is_warm_started_if_it_learns(override, former, run):
    found = changed(run, override, "search.num_trials=9")
    assert (found.kind, found.config.search.warm_start, found.because) == ("new", former, "search.sampler")
    both = changed(run, override, "search.space.alpha=0.5")
    assert both.because == "search.space, search.sampler"
    with pytest.raises(InputError, match=r"^--set training\.learning_rate: "):
        changed(run, override, "training.learning_rate=0.1")


@pytest.mark.parametrize("override", ["search.sampler=tpe", "search.sampler={type: tpe}"])
def test_the_same_sampler_is_no_change(override, run):
    assert changed(run, override).kind == "same"
    assert changed(run, override, "search.num_trials=9").kind == "extended"


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("search.num_trials=5", ["search.num_trials: 5", "6 trials"]),
        ("data.max_train_examples=50", ["data.max_train_examples", "search.warm_start=a"]),
        ("teacher.scratch.hidden_size=64", ["teacher", "search.warm_start=a"]),
        ("student.layers=[0]", ["student.layers", "search.warm_start=a"]),
        ("training.learning_rate=0.1", ["training.learning_rate", "search.warm_start=a"]),
        ("seed=7", ["seed", "search.warm_start=a"]),
        ("search.seed=7", ["search.seed", "search.warm_start=a"]),
        ("search.num_startup_trials=2", ["search.num_startup_trials", "search.warm_start=a"]),
        ("search.constraints=[latency_ms <= 1]", ["search.constraints", "search.warm_start=a"]),
        ("storage.path=elsewhere", ["storage.path", "--storage"]),
    ],
)
def test_what_makes_trials_incomparable_is_refused_by_its_key(override, parts, run):
    before = run.read("job.json")
    with pytest.raises(InputError) as raised:
        changed(run, override)
    message = str(raised.value)
    assert message.startswith("--set ")
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert run.read("job.json") == before


def test_a_search_that_is_not_finished_is_ended_by_a_budget(run):
    Writer(Storage(run.store.url)).stage("search", "stopped")
    with pytest.raises(InputError) as fewer:
        changed(run, "search.num_trials=5")
    with pytest.raises(InputError) as other:
        select_other_trial(run, "0000")
    for raised in (fewer, other):
        assert "choose" not in str(raised.value)
        assert command("resume", run, "--set search.budget.wall_time_s=1") in str(raised.value)
    assert changed(run, "search.budget.wall_time_s=1").kind == "extended"


def test_a_key_that_is_refused_is_named_beside_one_that_is_accepted(run):
    with pytest.raises(InputError, match=r"^--set data\.max_train_examples: .*also changed: training\.lear"):
        changed(run, "search.num_trials=9", "training.learning_rate=0.1", "data.max_train_examples=7")
    with pytest.raises(InputError, match=r"^--set training\.learning_rate: "):
        changed(run, "search.space.alpha=0.5", "training.learning_rate=0.1")


@pytest.mark.parametrize("override", ["search.num_trials=0", "search.num_trils=4", "search", "=3"])
def test_an_invalid_override_is_one_line(override, run):
    with pytest.raises(ConfigError, match=r"^run a: ") as raised:
        changed(run, override)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("state", ["running", "submitted"])
def test_a_live_run_is_refused(state, storage, run):
    writer = Writer(storage)
    if state == "running":
        writer.state("running")
    else:
        writer.submitted()
    with pytest.raises(InputError, match=rf"run a is {state}.*distiltune stop a"):
        changed(run, "search.num_trials=40")


def test_a_run_that_reused_a_search_names_the_run_to_extend(run):
    run.write("stages/search.json", {**run.stage_record("search"), "reused_from": "first"})
    with pytest.raises(InputError, match=r"reused the search of run first.*distiltune resume first"):
        changed(run, "search.num_trials=40")


def test_a_run_without_a_search_is_refused(run):
    fixed = {"alpha": 0.5, "temperature": 2, "num_train_epochs": 1}
    run.write("job.json", config(space=fixed).model_dump(mode="json"))
    with pytest.raises(InputError, match=r"every value of run a is fixed"):
        changed(run, "search.num_trials=40")


def test_a_run_that_was_cut_down_is_refused(run):
    run.write("cut.json", {"kept": "best", "at": "2026-01-01T00:00:00+00:00"})
    with pytest.raises(InputError, match=r"its search cannot be extended.*search\.warm_start=a"):
        changed(run, "search.num_trials=40")


def test_more_trials_of_a_search_that_its_budget_ended_need_a_larger_budget(run):
    run.write("job.json", config(budget={"wall_time_s": 3}).model_dump(mode="json"))
    record = run.stage_record("search")
    ended = {**record["result"], "ended_by": "its limit of 3 s is reached"}
    run.write("stages/search.json", {**record, "result": ended})
    with pytest.raises(InputError, match=r"its limit of 3 s is reached.*search\.budget=\{\}"):
        changed(run, "search.num_trials=40")
    assert changed(run, "search.num_trials=40", "search.budget={}").kind == "extended"


def test_extending_keeps_the_stages_before_the_search_and_what_the_best_trial_has(run):
    longer = changed(run, "search.num_trials=40").config
    extend(run, longer)
    states = {
        stage: run.stage_record(stage).get("state") for stage in ("student", "search", "export", "gate")
    }
    assert states == {"student": "finished", "search": None, "export": "finished", "gate": None}
    assert run.specification().search.num_trials == 40
    assert run.state == "stopped"
    assert is_extended(run)


@pytest.mark.parametrize("override", ["export.opset=20", "benchmark.num_runs=7"])
def test_sections_of_stages_after_the_search_may_change(override, run):
    assert changed(run, override).kind == "same"
    both = changed(run, "search.num_trials=40", override)
    assert both.kind == "extended"
    extend(run, both.config)
    stage = override.partition(".")[0]
    assert run.stage_record(stage) == run.stage_record("benchmark") == {}
    assert run.stage_record("export").get("state") == (None if stage == "export" else "finished")


def test_another_effort_has_its_own_defaults(run):
    found = changed(run, "benchmark.effort=quick", "benchmark.num_warmups=5").config.benchmark
    assert (found.effort, found.num_runs, found.tune_session, found.num_warmups) == ("quick", 30, False, 5)


def finish_search(run, trial_id):
    result = Writer.result("search")
    result["best"]["trial_id"] = trial_id
    Writer(Storage(str(run.store.directory))).stage("search", "finished", result=result)


def test_export_and_benchmark_are_repeated_only_for_another_best_trial(run):
    longer = changed(run, "search.num_trials=40").config
    extend(run, longer)
    finish_search(run, "0007")
    drop_outdated(run)
    assert run.stage_record("export")["state"] == run.stage_record("benchmark")["state"] == "finished"
    extend(run, longer)
    extend(run, longer)  # killed before the search had finished, and extended again
    finish_search(run, "0009")
    drop_outdated(run)
    assert run.stage_record("export") == run.stage_record("benchmark") == {}
    Writer(Storage(str(run.store.directory))).stage("export", "finished", result=Writer.result("export"))
    drop_outdated(run)
    assert run.stage_record("export")["state"] == "finished", "that of the new best trial"


def test_a_run_that_is_not_extended_drops_nothing(run):
    finish_search(run, "0009")
    drop_outdated(run)
    assert run.stage_record("export")["state"] == "finished"


@pytest.fixture
def quiet_logger():
    logger = logging.getLogger("distiltune")
    level, handlers = logger.level, logger.handlers
    yield
    logger.handlers = handlers
    logger.setLevel(level)


@pytest.mark.usefixtures("quiet_logger")
def test_a_new_run_is_announced_with_what_it_learns_from(run, capsys, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "distiltune.cluster.commands.run.run_here", lambda *given, **more: calls.append(given)
    )
    arguments = ["resume", "a", "--set", "search.space.alpha.high=0.5", "--storage", str(run.store.directory)]
    assert main(arguments) == 0
    [(new, name, run_id, as_json)] = calls
    assert (new.search.warm_start, name, as_json) == ("a", "job", False)
    message = capsys.readouterr().err
    assert f"new run {run_id}" in message
    assert "run a" in message
    assert run_id.startswith("job-")


def hashes(run: Run, *trials: str) -> dict[str, str]:
    assert run.store.directory is not None
    folders = [run.store.directory / run.search / each for each in trials]
    paths = [path for folder in folders for path in folder.rglob("*") if "checkpoint_" in str(path)]
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths) if path.is_file()
    }


@pytest.mark.slow
def test_a_finished_run_is_extended_killed_and_extended_to_its_end(tmp_path):
    job = {**JOB, "teacher": {**JOB["teacher"], "ensemble": 1}}
    job["search"] = {**JOB["search"], "max_concurrent_trials": 1}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))

    def call(*arguments):
        given = {"capture_output": True, "text": True, "cwd": tmp_path, "env": environment(), "check": False}
        done = subprocess.run([*COMMAND, *arguments], **given, timeout=280)
        assert done.returncode == 0, done.stderr
        return done

    call("run", "job.yaml", "--run-id", "a")
    run = Run(Storage(str(tmp_path / "distiltune-runs")).store, "a")
    first = run.stage_record("search")["result"]
    before, teacher = hashes(run, "0000", "0001"), run.stage_record("teacher")["result"]
    exported = run.stage_record("export")["ended"]
    assert before
    killed = subprocess.Popen(
        [*COMMAND, "resume", "a", "--set", "search.num_trials=4"],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not Path(run.store.directory or "", run.search, "0002").exists():
        assert killed.poll() is None, killed.stderr and killed.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    killed.kill()
    killed.communicate()
    done = call("resume", "a", "--json")
    found = json.loads(done.stdout)
    assert [trial["trial_id"] for trial in found["trials"]] == ["0000", "0001", "0002", "0003"]
    after = run.stage_record("search")["result"]
    assert after["trials"][:2] == first["trials"]
    assert hashes(run, "0000", "0001") == before
    assert run.stage_record("teacher")["result"]["key"] == teacher["key"]
    best = max(after["trials"], key=lambda trial: trial["metrics"]["validation_accuracy"])
    assert after["best"]["metrics"]["validation_accuracy"] == best["metrics"]["validation_accuracy"]
    same = [after["best"][name] for name in ("trial_id", "epoch")] == [
        first["best"][name] for name in ("trial_id", "epoch")
    ]
    assert (run.stage_record("export")["ended"] == exported) == same
    assert run.state == "finished"


BY_THRESHOLD = "validation_accuracy_with_threshold"
GOAL = "export.out_of_scope.in_scope_weight=0.5"


@pytest.mark.parametrize("metric", ["validation_accuracy", BY_THRESHOLD])
def test_trials_that_were_measured_with_another_threshold_are_not_extended(metric, run):
    run.write("job.json", config(metric=metric).model_dump(mode="json"))
    assert changed(run, GOAL).kind == "same", "the search has ended"
    assert changed(run, "search.num_trials=40").kind == "extended"
    if metric != BY_THRESHOLD:
        assert changed(run, "search.num_trials=40", GOAL).kind == "extended"
        return
    with pytest.raises(InputError, match=r"export\.out_of_scope.*makes new trials incomparable"):
        changed(run, "search.num_trials=40", GOAL)


@pytest.mark.parametrize(
    ("metric", "state", "refused"),
    [
        (BY_THRESHOLD, "failed", True),
        (BY_THRESHOLD, "finished", False),
        ("validation_accuracy", "failed", False),
    ],
)
def test_a_search_that_has_not_ended_keeps_the_goal_of_its_threshold(metric, state, refused, run):
    began = config(metric=metric)
    run.write("job.json", began.model_dump(mode="json"))
    run.write("stages/search.json", {**run.stage_record("search"), "state": state})
    scope = began.export.out_of_scope.model_copy(update={"in_scope_weight": 0.5})
    other = began.model_copy(update={"export": began.export.model_copy(update={"out_of_scope": scope})})
    with pytest.raises(InputError, match=r"different: export\.out_of_scope") if refused else nullcontext():
        refuse_other_specification(run, other)
    refuse_other_specification(run, began)
