"""A job's checks are one sequence: every place that starts a job runs them, and rejects the same faults."""

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
from models import tiny_classifier

from distiltune.cluster.jobs import checks, submission
from distiltune.cluster.pipeline.checks import cluster, preflight
from distiltune.cluster.pipeline.checks.preflight import CHECKS, check_job
from distiltune.cluster.pipeline.run_job import run_job
from distiltune.cluster.plan.run_plan import run_plan
from distiltune.cluster.session import ray_session
from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.cluster.store.runs import Storage
from distiltune.errors import DataError, InputError

STEPS = {"key": "student.seed", "values": [1]}
GREEK = ("καλημέρα σας", "τι κάνεις σήμερα")
LATIN = ("good morning", "what is new")
# For each check, a change that makes a job fail it, and a part of the message.
FAULTS = {
    "space": (["search.space={alhpa: {type: float, low: 0, high: 1}}"], "alhpa"),
    "batches": (
        ["resources.trial.processes=3", "training.batch_size=64"],
        r"resources\.trial\.processes|training\.batch_size",
    ),
    "former trials": (["search.warm_start=nowhere"], "nowhere"),
    "models": (["student.layers=[0, 99]"], r"student\.layers.*99"),
    "metric": (["metric=recall.ye"], r"metric: 'recall\.ye'.*recall\.yes"),
    "goals": (
        ["export.choose.max_drop_from_student=0.0001", "export.choose.strict=true"],
        r"export\.choose\.max_drop_from_student",
    ),
    "baselines": (
        ["benchmark.baselines=[model2vec]"],
        r"benchmark\.baselines: 'model2vec' given, but .*(pip install|benchmark\.model2vec)",
    ),
    "targets": (
        ["benchmark.targets=[cpu, tensorrt]", "export.variants=[onnx]"],
        r"benchmark\.targets: tensorrt given, but TensorrtExecutionProvider is not in this ONNX Runtime",
    ),
    "folds": (
        ["data.diagnostics.cross_fit=10", "data.max_train_examples=6"],
        r"data\.diagnostics\.cross_fit: 10",
    ),
    "new pieces": (["student.vocabulary={size: 8}"], r"student\.vocabulary\.size: 8"),
    "texts": (["teacher={checkpoint: CHECKPOINT}", "student.width=null"], r"teacher\.checkpoint"),
    "long texts": (
        ["training.max_length=24", "training.max_batch_tokens=16"],
        r"training\.max_batch_tokens: 16 given, .* 24 tokens \(training\.max_length\)",
    ),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_classifier(
        tmp_path_factory.mktemp("latin") / "c", label_names=["no", "yes"], num_layers=4, texts=list(LATIN)
    )


@pytest.fixture
def job(tmp_path, checkpoint):
    """A job of two labels with Greek texts, in files of this machine."""
    files = []
    for split in ("train", "validation", "test"):
        rows = [
            f"{text} {number},{label}"
            for number in range(12)
            for text, label in zip(GREEK, ("yes", "no"), strict=True)
        ]
        (tmp_path / f"{split}.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
        files.append(f"data.{split}={tmp_path / f'{split}.csv'}")
    usual = [
        "data.source=files",
        "data.max_train_examples=null",
        *files,
        "student.layers=[0, 1]",
        "export.choose.max_drop_from_student=1.0",
        "export.choose.strict=false",
    ]

    def make(*overrides):
        given = [each.replace("CHECKPOINT", str(checkpoint)) for each in overrides]
        chosen = {each.partition("=")[0]: each for each in [*usual, *given]}
        return load_config("quickstart", list(chosen.values()), str(tmp_path / "store"))

    return make


def submit(config, monkeypatch):
    """Submit to a cluster that is this process: its check runs here."""

    @contextmanager
    def checked(client, shipped, run_id, store):
        yield on_cluster(shipped, monkeypatch, run_id)

    monkeypatch.setattr(
        submission, "_connect", lambda *_: SimpleNamespace(cluster=None, client=None, report=print)
    )
    monkeypatch.setattr(submission, "checked_on_cluster", checked)
    submission.submit(config, "job")


def on_cluster(config, monkeypatch, run_id="a"):
    monkeypatch.setattr(ray_session, "ray_session", nullcontext)
    monkeypatch.setattr(cluster, "check_cluster", lambda *_: None)
    Storage(config.storage.path).store.write("cache/probes/a", b"a")
    return checks._run_checks(config, "cache/probes/a", run_id)


def plan(config, monkeypatch):
    section = {"steps": [STEPS], "max_accuracy_drop": 1.0}
    run_plan(config.model_validate(config.model_dump() | {"plan": section}), "job")


PLACES = {
    "run": lambda config, _: run_job(config, "job"),
    "submit": submit,
    "cluster": on_cluster,
    "plan": plan,
}


def test_every_check_has_a_fault():
    assert list(FAULTS) == [check.name for check in CHECKS]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("check", FAULTS)
def test_a_fault_of_each_check_is_found_in_each_place(place, check, job, monkeypatch):
    overrides, message = FAULTS[check]
    config = job(*overrides)
    with pytest.raises(InputError, match=message) as raised:
        PLACES[place](config, monkeypatch)
    assert "\n" not in str(raised.value)
    assert Storage(config.storage.path).list() == []


@pytest.mark.parametrize("place", PLACES)
def test_each_place_makes_the_checks_in_their_order(place, job, monkeypatch):
    class EndOfChecks(Exception):
        pass

    made = []

    def record(check):
        made.append(check.name)
        if check.name == CHECKS[-1].name:
            raise EndOfChecks

    recorded = tuple(
        preflight.Check(each.name, each.sections, lambda _, each=each: record(each), each.reads)
        for each in CHECKS
    )
    monkeypatch.setattr(preflight, "CHECKS", recorded)
    with pytest.raises(EndOfChecks):
        PLACES[place](job(), monkeypatch)
    # Submitting skips checks that read checkpoints, since the cluster may have others; the cluster runs all checks.
    here = [check.name for check in CHECKS if place == "submit" and "checkpoints" not in check.reads]
    assert made == [*here, *(check.name for check in CHECKS)]


def test_data_of_other_machines_are_left_to_them(job, monkeypatch):
    made = []
    recorded = tuple(
        preflight.Check(each.name, each.sections, lambda _, each=each: made.append(each.name), each.reads)
        for each in CHECKS
    )
    monkeypatch.setattr(preflight, "CHECKS", recorded)
    config = job("data.train=s3://bucket/train.csv")
    check_job(config, Storage(config.storage.path), has_inputs=False)
    assert made == [check.name for check in CHECKS if not check.reads]


def test_only_the_checks_that_a_change_affects_run_again(job, monkeypatch):
    config = job()
    storage = Storage(config.storage.path)
    base = check_job(config, storage)
    made = []
    recorded = tuple(
        preflight.Check(each.name, each.sections, lambda _, each=each: made.append(each.name), each.reads)
        for each in CHECKS
    )
    monkeypatch.setattr(preflight, "CHECKS", recorded)
    changed = check_job(job("training.max_length=16"), storage, since=base)
    assert made == ["space", "batches", "models", "long texts"]
    assert changed.data is base.data
    made.clear()
    fewer = check_job(job("data.max_train_examples=6"), storage, since=base)
    assert made == ["space", "metric", "goals", "folds", "new pieces", "texts", "long texts"]
    assert len(fewer.data.splits["train"]) == 6


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["metric=oos_recall"],
            r"^metric: 'oos_recall' given.*no out-of-scope label.*data\.out_of_scope_label",
        ),
        (
            ["search.metric=validation_recall.maybe"],
            r"^search\.metric: 'recall\.maybe' given.*no label 'maybe'",
        ),
        (["search.metric=validation_oos_recall"], r"^search\.metric: 'oos_recall' given"),
        (["search.constraints=['validation_f1.y >= 0.5']"], r"^search\.constraints: 'f1\.y' given.*f1\.yes"),
    ],
)
def test_a_metric_that_the_texts_do_not_define_is_refused(overrides, message, job):
    config = job(*overrides)
    with pytest.raises(InputError, match=message):
        check_job(config, Storage(config.storage.path), has_inputs=False)


def test_a_label_that_no_validation_text_has_is_refused(job, tmp_path):
    config = job("metric=recall.no")
    (tmp_path / "validation.csv").write_text(
        "text,label\n" + "".join(f"{GREEK[0]} {n},yes\n" for n in range(9))
    )
    with pytest.raises(InputError, match=r"^metric: 'recall\.no' given, but no text of the validation split"):
        check_job(config, Storage(config.storage.path), has_inputs=False)


@pytest.mark.parametrize("task", [None, "single_label", "regression"])
def test_numbers_with_fractions_are_classes_only_if_the_task_is_named(task, tmp_path):
    rows = [f"text number {n},{1 + n % 40 / 10:g}" for n in range(240)]
    (tmp_path / "scores.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    config = JobConfig.model_validate(
        {"data": {"train": str(tmp_path / "scores.csv")}, **({} if task is None else {"task": task})}
    )
    job = preflight.CheckedJob(config, Storage(str(tmp_path / "runs")))
    if task is None:
        with pytest.raises(
            DataError, match=r"40 different numbers, such as 1 and 4\.9; set task: regression, or"
        ):
            _ = job.data
    else:
        assert len(job.data.label_names) == {"single_label": 40, "regression": 1}[task]
