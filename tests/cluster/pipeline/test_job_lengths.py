"""``training.max_length``: a number that is given, or one chosen from the lengths of the training texts."""

import json
import logging
import re

import pytest
import yaml
from askers import questions, write_squad
from models import tiny_classifier

from distiltune.cluster.pipeline import lengths
from distiltune.cluster.pipeline.checks import passes as long_texts
from distiltune.cluster.pipeline.checks.preflight import CHECKS, check_job
from distiltune.cluster.pipeline.reuse.search import SearchReuse
from distiltune.cluster.pipeline.run_job import describe_data, refuse_other_specification
from distiltune.cluster.specification.config import JobConfig, load_config
from distiltune.cluster.store.runs import Run, Storage, now
from distiltune.errors import ConfigError, InputError
from distiltune.training import tasks
from distiltune.training.checkpoints import load
from distiltune.training.distillation.config import MOST_AUTOMATIC, TrainingConfig
from distiltune.training.models import passes
from distiltune.training.teacher.prepare import teacher_key

POSITIONS = 66
TEXTS = ["word " * (1 + n % 20) + f"{n % 7}" for n in range(400)]  # 4 to 23 tokens of a tiny tokenizer
LONG = ["word " * (1 + n % 100) + f"{n % 7}" for n in range(400)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two families with 66 rows of positions, of which RoBERTa's first stand for padding."""
    folder = tmp_path_factory.mktemp("models")
    return {
        family: tiny_classifier(folder / family, family=family, label_names=["a", "b"], texts=TEXTS)
        for family in ("bert", "roberta")
    }


@pytest.fixture
def files(tmp_path):
    def write(texts):
        sections = {}
        for split in ("train", "validation", "test"):
            rows = texts if split == "train" else texts[:40]
            sections[split] = str(tmp_path / f"{split}-{len(max(texts))}.csv")
            lines = (f"{text},{'ab'[n % 2]}\n" for n, text in enumerate(rows))
            (tmp_path / sections[split]).write_text("text,label\n" + "".join(lines))
        return {"source": "files", **sections}

    return write


@pytest.fixture
def check(files, tmp_path):
    """Check a job of two labels; its teacher is a checkpoint."""

    def made(teacher, texts=TEXTS, run=None, tuned=None, **sections):
        teachers = {"checkpoint": str(teacher)} if teacher else {"scratch": {"vocab_size": 200}}
        values = {
            "data": files(texts),
            "teacher": {"fine_tune": {"checkpoint": tuned}} if tuned else teachers,
            "student": {"layers": [0]},
            "export": {"choose": {"max_drop_from_student": 1.0, "strict": False}},
            "storage": {"path": str(tmp_path / "runs")},
        }
        config = JobConfig.model_validate(values | sections)
        return check_job(config, Storage(config.storage.path), run)

    return made


def test_auto_is_what_nearly_all_training_texts_need(check, models):
    job = check(models["bert"])
    counts = sorted(len(load.load_tokenizer(models["bert"])(text)["input_ids"]) for text in TEXTS)
    assert job.lengths.automatic
    assert job.lengths.max_length == 24 >= counts[-1]
    assert job.config.training.max_length == "auto"
    assert job.settled_config.training.num_tokens == 24
    assert job.settled_local_config.training.num_tokens == 24


@pytest.mark.parametrize(("family", "most"), [("bert", POSITIONS), ("roberta", POSITIONS - 1)])
def test_a_model_with_few_positions_bounds_it_and_the_cut_texts_are_counted(
    family, most, check, models, caplog
):
    with caplog.at_level(logging.WARNING, "distiltune"):
        job = check(models[family], LONG)
    offset = load.first_position(load.load_model(models[family]))
    assert job.lengths.max_length == POSITIONS - offset <= most
    assert job.lengths.share_truncated > 0.2
    assert f"training.max_length: auto is {POSITIONS - offset} here" in caplog.text
    record, text = describe_data(job)
    assert record["lengths"]["max_length"] == POSITIONS - offset
    assert record["lengths"]["automatic"] is True
    assert re.search(rf"% truncated to {POSITIONS - offset} tokens \(auto\)", text)


def test_a_student_with_fewer_positions_bounds_it_too(check, models):
    student = {"kind": "checkpoint", "checkpoint": str(models["roberta"])}
    alone = check(models["bert"], LONG)
    job = check(models["bert"], LONG, student=student)
    assert job.lengths.max_length < alone.lengths.max_length == POSITIONS


def test_a_student_whose_tokenizer_needs_more_gets_more(check, models, tmp_path):
    short = tiny_classifier(tmp_path / "short", label_names=["a", "b"], texts=["wo or rd 0 1 2 3 4 5 6"])
    alone = check(models["bert"])
    job = check(models["bert"], student={"kind": "checkpoint", "checkpoint": str(short)})
    assert job.lengths.max_length > alone.lengths.max_length


@pytest.mark.parametrize(("most", "fits"), [(16, False), (23, False), (24, True), (4096, True)])
def test_a_pass_has_room_for_a_text_of_the_chosen_length(most, fits, check, models):
    if fits:
        assert check(models["bert"], training={"max_batch_tokens": most}).lengths.max_length == 24
        return
    with pytest.raises(
        ConfigError, match=rf"training\.max_batch_tokens: {most} given, .* 24 tokens .* 24 or more"
    ):
        check(models["bert"], training={"max_batch_tokens": most})


@pytest.mark.parametrize("value", ["automatic", 3, 2**20 + 1, 2.0, True, None, [16]])
def test_other_bounds_on_a_pass_are_refused_with_the_accepted_ones(value, tmp_path):
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"training": {"max_batch_tokens": value}}))
    with pytest.raises(ConfigError, match=r"training\.max_batch_tokens: .*auto.* 4 .*given"):
        load_config(str(tmp_path / "job.yaml"), [])


def test_auto_is_at_most_8192(check, tmp_path, caplog, monkeypatch):
    folder = tiny_classifier(tmp_path / "long", label_names=["a", "b"], texts=TEXTS)
    config = json.loads((folder / "config.json").read_text())
    monkeypatch.setattr(lengths, "MOST_AUTOMATIC", 40)
    assert config["max_position_embeddings"] == POSITIONS > 40
    with caplog.at_level(logging.WARNING, "distiltune"):
        job = check(folder, LONG)
    assert job.lengths.max_length == 40 and job.lengths.automatic
    assert "training.max_length: auto is at most 40, and" in caplog.text
    assert MOST_AUTOMATIC == 8192


@pytest.fixture
def little_memory(monkeypatch):
    """Treat texts of any length as long, and give passes a fixed number of bytes."""
    monkeypatch.setattr(long_texts, "_LONG", 0)
    return lambda free: monkeypatch.setattr(passes, "free_memory", lambda: free)


def test_a_text_that_exceeds_memory_is_reported_before_the_run(check, models, little_memory, caplog):
    sections = {"tuned": str(models["bert"]), "training": {"max_length": POSITIONS}}
    with caplog.at_level(logging.WARNING, "distiltune"):
        little_memory(10**12)
        check(None, **sections)
        assert "training.max_length" not in caplog.text
        little_memory(4 * 50_000)
        check(None, **sections)
    found = re.search(
        r"training.max_length: 66 tokens need about \S+ MiB when the teacher is trained .* set it to 64 or less",
        caplog.text,
    )
    assert found, caplog.text
    assert caplog.text.count("66 tokens need") == 1


def test_with_a_finished_teacher_only_the_student_counts(check, models, little_memory, caplog):
    with caplog.at_level(logging.WARNING, "distiltune"):
        little_memory(4 * 20_000)
        check(models["bert"], training={"max_length": POSITIONS})
    assert "when the student is trained" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "distiltune"):
        little_memory(10**9)
        check(models["bert"], training={"max_length": POSITIONS})
    assert "when the" not in caplog.text


def test_the_filters_of_a_student_without_attention_count(check, models, little_memory, caplog, monkeypatch):
    monkeypatch.setattr(passes, "num_usable_cores", lambda: 1)
    student = {"kind": "convolution", "hidden_size": 8, "num_filters": 1000, "table": "random"}
    sections = {"training": {"max_length": POSITIONS}, "student": student}
    of_text = 4 * 3 * (8 + 3 * 8 + 3 * 1000) * POSITIONS
    for share, is_reported in ((2.1, False), (1.9, True)):
        caplog.clear()
        little_memory(int(share * of_text))
        with caplog.at_level(logging.WARNING, "distiltune"):
            check(models["bert"], **sections)
        assert ("when the student is trained" in caplog.text) == is_reported


def test_a_teacher_from_scratch_is_measured_in_the_pieces_that_it_will_have(check):
    job = check(None)
    assert job.lengths.automatic
    assert job.lengths.max_length == 24
    long = check(None, ["word " * 700 + f"{n}" for n in range(12)])
    assert long.lengths.max_length == 512
    assert check(None, training={"max_length": 20}).lengths is None


def test_an_equal_number_has_the_same_cache_keys_and_another_has_others(check, models):
    auto, equal, other = (check(models["bert"], training={"max_length": each}) for each in ("auto", 24, 32))
    assert not equal.lengths.automatic

    def keys(job):
        config, run = job.settled_config, Run(job.storage.store, "a")
        reuse = SearchReuse(config, job.settled_local_config, run, job.data)
        teacher = teacher_key(config.teacher, job.data, config.training, tasks.SINGLE_LABEL)
        return teacher, reuse._key()

    assert keys(auto) == keys(equal)
    assert not set(keys(auto)) & set(keys(other))


def test_a_resumed_run_keeps_its_number(check, models, tmp_path):
    run = Run(Storage(str(tmp_path / "runs")).store, "a-run")
    job = check(models["bert"], run=run)
    record, text = describe_data(job)
    finished = {"stage": "data", "state": "finished", "started": now(), "seconds": 0.1, "ended": now()}
    run.write("job.json", job.config.model_dump(mode="json"))
    run.write("stages/data.json", {**finished, "text": text, "result": record})
    refuse_other_specification(run, job.config)
    assert check(models["bert"], run=run).lengths == job.lengths
    record["lengths"]["max_length"] = 40  # as if the tokenizer had changed since
    run.write("stages/data.json", {**finished, "text": text, "result": record})
    assert check(models["bert"], run=run).settled_config.training.num_tokens == 40
    with pytest.raises(InputError, match="training"):
        refuse_other_specification(run, check(models["bert"], training={"max_length": 24}).config)


@pytest.mark.parametrize(("max_length", "warns"), [(8, True), (60, False)])
def test_a_number_stays_as_given_and_warns_if_it_truncates_many(max_length, warns, check, models, caplog):
    with caplog.at_level(logging.WARNING, "distiltune"):
        job = check(models["bert"], training={"max_length": max_length})
    assert job.lengths.max_length == max_length == job.settled_config.training.num_tokens
    assert not job.lengths.automatic
    assert (f"training.max_length: {max_length} given" in caplog.text) == warns


@pytest.mark.parametrize("value", ["automatic", 3, 2**20 + 1, 2.0, True, None, [16]])
def test_other_values_are_refused_with_the_accepted_ones(value, tmp_path):
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"training": {"max_length": value}}))
    with pytest.raises(ConfigError, match=r"training\.max_length: .*auto.* 4 .*given") as raised:
        load_config(str(tmp_path / "job.yaml"), [])
    assert "\n" not in str(raised.value)


def test_without_texts_there_is_no_number():
    with pytest.raises(ValueError, match="auto"):
        _ = TrainingConfig().num_tokens
    assert TrainingConfig(max_length=16).num_tokens == 16


def test_a_tokenizer_is_loaded_once(check, models, monkeypatch):
    loaded = []
    plain = load.AutoTokenizer.from_pretrained

    def from_pretrained(name, **options):
        loaded.append(name)
        return plain(name, **options)

    monkeypatch.setattr(load.AutoTokenizer, "from_pretrained", from_pretrained)
    check(models["bert"])
    assert loaded == [str(models["bert"])]
    assert any(each.name == "texts" for each in CHECKS)


def test_long_contexts_are_divided_into_windows_of_at_most_384_tokens(tmp_path, caplog):
    rows = [
        (question, f"{'word ' * 600}{context}", [[start + 3000, end + 3000] for start, end in answers])
        for question, context, answers in questions(24)
    ]
    path = str(write_squad(tmp_path / "train.json", rows))
    values = {
        "data": {"train": path, "validation": path, "test": path},
        "teacher": {"scratch": {"vocab_size": 200}},
        "student": {"layers": [0]},
        "export": {"choose": {"max_drop_from_student": 1.0, "strict": False}},
        "storage": {"path": str(tmp_path / "runs")},
    }
    job = check_job(JobConfig.model_validate(values), Storage(values["storage"]["path"]), None)
    assert job.config.task == "question_answering"
    assert job.lengths is not None and job.lengths.automatic and job.lengths.max_length == 384
    assert "100.0% divided into windows of 384 tokens (auto)" in describe_data(job)[1]
    assert "lose their end" not in caplog.text
