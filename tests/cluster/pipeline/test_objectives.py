"""The job with students that are searched, measured and chosen between; from the command line."""

import json
import subprocess

import pytest
import yaml
from small_job import COMMAND, SMALLEST_JOB, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SEARCH = {
    "num_trials": 4,
    "num_startup_trials": 4,
    "space": {"num_train_epochs": 1, "student.num_layers": {"type": "int", "low": 1, "high": 2}},
    "points": [{"student.num_layers": 1}, {"student.num_layers": 2}],
    "objectives": [{"metric": "latency_ms", "mode": "min"}],
}


def distiltune(*arguments, cwd):
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(),
        check=False,
        timeout=400,
    )


def printed_json(done):
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    directory = tmp_path_factory.mktemp("home")
    (directory / "job.yaml").write_text(yaml.safe_dump({**SMALLEST_JOB, "search": SEARCH}))
    return directory


@pytest.fixture(scope="module")
def found(home):
    return printed_json(distiltune("run", "job.yaml", "--run-id", "both", "--json", cwd=home))


def test_another_run_takes_the_latencies_that_were_measured(home, found):
    options = ["--set", "storage.reuse=false"]
    again = printed_json(distiltune("run", "job.yaml", "--run-id", "again", "--json", *options, cwd=home))
    latencies = [{trial["metrics"]["latency_ms"] for trial in run["trials"]} for run in (found, again)]
    assert latencies[0] == latencies[1]
    assert len(list((home / "distiltune-runs/cache/latencies").glob("*.json"))) == 2


def test_each_student_is_measured_once_before_the_search(home, found):
    record = json.loads((home / "distiltune-runs/runs/both/stages/student.json").read_text())["result"]
    students = record["students"]
    assert [each["num_layers"] for each in students.values()] == [1, 2]
    latencies = {name: each["latency_ms"] for name, each in students.items()}
    assert all(0.01 < latency < 100 for latency in latencies.values())
    assert len(list((home / "distiltune-runs/cache/latencies").glob("*.json"))) == 2
    for trial in found["trials"]:
        name = f"student.num_layers={trial['parameters']['student.num_layers']}"
        assert trial["metrics"]["latency_ms"] == latencies[name]
    assert {trial["parameters"]["student.num_layers"] for trial in found["trials"]} == {1, 2}


def test_the_front_is_shown_drawn_and_mirrored(home, found):
    assert found["best"]["trial_id"] in found["front"]
    assert "on the Pareto front" in found["choice"]
    report = home / "distiltune-runs/runs/both/report"
    text = (report / "report.md").read_text()
    assert "Chosen: trial" in text
    for name in ("search-history.png", "search-parallel.png", "search-front.png"):
        assert (report / name).read_bytes().startswith(b"\x89PNG")
        assert f"({name})" in text
    assert (home / "distiltune-runs/runs/both/study/optuna.journal").is_file()


def test_another_trial_may_be_chosen(home, found):
    other = next(trial for trial in found["trials"] if trial["trial_id"] != found["best"]["trial_id"])
    refused = distiltune("choose", "both", "nothing", cwd=home)
    assert refused.returncode == 2
    assert "has no trial 'nothing' with a checkpoint; it has: " in refused.stderr
    done = distiltune("choose", "both", other["trial_id"], cwd=home)
    assert done.returncode == 0, done.stderr
    assert f"trial {other['trial_id']} " in done.stdout
    assert "distiltune resume" in done.stdout
    again = distiltune("resume", "both", cwd=home)
    assert again.returncode == 0, again.stderr
    shown = printed_json(distiltune("show", "both", "--json", cwd=home))
    assert (shown["state"], shown["best"]["trial_id"]) == ("finished", other["trial_id"])
    assert shown["choice"].startswith(f"trial {other['trial_id']}, ")
    config = json.loads((home / "distiltune-runs/runs/both/best/config.json").read_text())
    assert config["num_hidden_layers"] == other["parameters"]["student.num_layers"]


@pytest.mark.usefixtures("found")
def test_a_search_learns_from_a_former_run_that_fits(home):
    runs = home / "distiltune-runs" / "runs"
    before = {path.name for path in runs.iterdir()}
    job = {**SMALLEST_JOB, "search": {**SEARCH, "num_trials": 1, "points": [], "warm_start": "both"}}
    (home / "more.yaml").write_text(yaml.safe_dump(job))
    more = printed_json(distiltune("run", "more.yaml", "--run-id", "more", "--json", cwd=home))
    assert len(more["trials"]) == 1
    (runs / "both").rename(runs / "elsewhere")
    again = distiltune("resume", "more", cwd=home)
    assert again.returncode == 0, "the former run may be gone when this one is resumed"
    (runs / "elsewhere").rename(runs / "both")
    refused = distiltune(
        "run", "more.yaml", "--set", "search.space.temperature={type: int, low: 30, high: 40}", cwd=home
    )
    assert refused.returncode == 2
    assert "search.warm_start: run 'both': temperature" in refused.stderr
    missing = distiltune("run", "more.yaml", "--set", "search.warm_start=nothing", cwd=home)
    assert missing.returncode != 0
    assert "no run 'nothing'" in missing.stderr
    assert {path.name for path in runs.iterdir()} == before | {"more"}
