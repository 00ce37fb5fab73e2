"""The cache of a teacher's logits: order, keys, damaged entries, and concurrent writers."""

import json
import logging
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from models import tiny_classifier, tiny_data

from distiltune.errors import InputError, ModelError
from distiltune.storage.folders import new_folder
from distiltune.training.checkpoints.load import load_classifier, save_checkpoint
from distiltune.training.data.tokenized import TokenizedSplit, tokenize_split
from distiltune.training.teacher.logits_cache import LogitsResult, logits_key, teacher_logits

MAX_LENGTH = 16
TEXTS = [text for text, _ in tiny_data()] + [
    "red",
    "open close early late red blue slow fast big small old",
    "red",
]


@pytest.fixture(scope="module", params=["bert", "distilbert", "roberta"])
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("teacher")
    return tiny_classifier(root, family=request.param, texts=TEXTS)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("bert"), texts=TEXTS)


def split_of(directory: Path, texts: list[str] = TEXTS) -> TokenizedSplit:
    return tokenize_split(texts, list(range(len(texts))), load_classifier(directory)[1], MAX_LENGTH)


def cached(directory: Path, split: TokenizedSplit, cache: Path, **options) -> LogitsResult:
    options = {"max_length": MAX_LENGTH, "num_threads": 1, "batch_size": 8, **options}
    return teacher_logits(directory, split, cache_dir=cache, **options)


def one_by_one(directory: Path, split: TokenizedSplit) -> np.ndarray:
    model, _ = load_classifier(directory)
    with torch.no_grad():
        rows = [torch.tensor(split.row(index)[None].astype(np.int64)) for index in range(len(split))]
        return np.concatenate([model(row, torch.ones_like(row)).logits.numpy() for row in rows])


def test_each_row_equals_its_text_run_alone_without_padding(family: Path, tmp_path: Path) -> None:
    split = split_of(family)
    found = cached(family, split, tmp_path)
    assert found.logits.dtype == np.float32
    np.testing.assert_allclose(found.logits, one_by_one(family, split), atol=1e-5)


def test_a_second_call_reads_and_loads_no_model(teacher: Path, tmp_path: Path, monkeypatch) -> None:
    split = split_of(teacher)
    first = cached(teacher, split, tmp_path)
    # At the boundary: loading a model fails.
    monkeypatch.setattr("distiltune.training.teacher.logits_cache.load_classifier", None)
    second = cached(teacher, split, tmp_path)
    assert (first.computed, second.computed) == (True, False)
    assert first.key == second.key
    assert isinstance(second.logits, np.memmap)
    assert not second.logits.flags.writeable
    np.testing.assert_array_equal(first.logits, second.logits)


def test_shuffled_texts_get_their_own_logits_from_the_same_entry(teacher: Path, tmp_path: Path) -> None:
    cached(teacher, split_of(teacher), tmp_path)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled = split_of(teacher, [TEXTS[index] for index in order])
    found = cached(teacher, shuffled, tmp_path)
    assert not found.computed
    assert not found.logits.flags.writeable
    np.testing.assert_allclose(found.logits, one_by_one(teacher, shuffled), atol=1e-5)


def test_equal_texts_have_equal_logits(teacher: Path, tmp_path: Path) -> None:
    found = cached(teacher, split_of(teacher), tmp_path)
    np.testing.assert_array_equal(found.logits[TEXTS.index("red")], found.logits[-1])


def test_the_key_changes_with_each_thing_the_logits_depend_on(teacher: Path, tmp_path: Path) -> None:
    split = split_of(teacher)
    key = logits_key(teacher, split, MAX_LENGTH, "float32")
    copy = shutil.copytree(teacher, tmp_path / "copy")
    assert logits_key(copy, split, MAX_LENGTH, "float32") == key

    others = {
        logits_key(teacher, split_of(teacher, TEXTS[:-1]), MAX_LENGTH, "float32"),
        logits_key(teacher, split_of(teacher, [*TEXTS[:-1], "blue"]), MAX_LENGTH, "float32"),
        logits_key(teacher, split, MAX_LENGTH + 1, "float32"),
        logits_key(teacher, split, MAX_LENGTH, "bfloat16"),
    }
    tokenizer_file = copy / "tokenizer.json"
    tokenizer_file.write_text(tokenizer_file.read_text().replace('"lowercase": true', '"lowercase": false'))
    others.add(logits_key(copy, split, MAX_LENGTH, "float32"))
    shutil.copy(teacher / "tokenizer.json", tokenizer_file)
    model, tokenizer = load_classifier(teacher)
    model.classifier.bias.data[0] += 1e-3
    save_checkpoint(model, tokenizer, copy)
    others.add(logits_key(copy, split, MAX_LENGTH, "float32"))
    assert key not in others
    assert len(others) == 6


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def swap_rows(path: Path) -> None:
    array = np.load(path)
    array[[0, 1]] = array[[1, 0]]
    np.save(path, array)


def other_meta(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "key": "0" * 32}))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("logits.npy", truncate),
        ("logits.npy", swap_rows),
        ("logits.npy", Path.unlink),
        ("logits.npy", lambda path: path.write_bytes(b"")),
        ("logits.npy", lambda path: np.save(path, np.load(path)[:-1])),
        ("logits.npy", lambda path: np.save(path, np.array([{}], dtype=object))),
        ("example_ids.npy", truncate),
        ("example_ids.npy", swap_rows),
        ("meta.json", truncate),
        ("meta.json", other_meta),
        ("meta.json", lambda path: path.write_text("[]")),
    ],
)
def test_a_damaged_entry_is_a_miss(teacher: Path, tmp_path: Path, file: str, damage, caplog) -> None:
    split = split_of(teacher)
    first = cached(teacher, split, tmp_path)
    expected = np.array(first.logits)
    damage(tmp_path / first.key / file)
    with caplog.at_level(logging.WARNING):
        again = cached(teacher, split, tmp_path)
    assert again.computed
    assert "recomputing" in caplog.text
    np.testing.assert_array_equal(again.logits, expected)
    assert not cached(teacher, split, tmp_path).computed


def test_an_entry_under_another_ones_name_is_a_miss(teacher: Path, tmp_path: Path) -> None:
    split, other = split_of(teacher), split_of(teacher, TEXTS[::-1][:-1])
    key = logits_key(teacher, other, MAX_LENGTH, "float32")
    shutil.copytree(tmp_path / cached(teacher, split, tmp_path).key, tmp_path / key)
    found = cached(teacher, other, tmp_path)
    assert found.computed
    np.testing.assert_allclose(found.logits, one_by_one(teacher, other), atol=1e-5)


def test_bfloat16_is_close_and_kept_apart(teacher: Path, tmp_path: Path) -> None:
    split = split_of(teacher)
    exact, rough = cached(teacher, split, tmp_path), cached(teacher, split, tmp_path, dtype="bfloat16")
    assert rough.computed
    assert rough.logits.dtype == np.float32
    np.testing.assert_allclose(rough.logits, exact.logits, atol=2e-2)
    with pytest.raises(InputError, match=r"'float8'.*float32, tf32, bfloat16"):
        cached(teacher, split, tmp_path, dtype="float8")


def test_logits_that_are_not_finite_are_refused(teacher: Path, tmp_path: Path) -> None:
    model, tokenizer = load_classifier(teacher)
    model.classifier.bias.data[0] = float("nan")
    save_checkpoint(model, tokenizer, tmp_path / "broken")
    with pytest.raises(ModelError, match="not finite"):
        cached(tmp_path / "broken", split_of(teacher), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_the_number_of_threads_is_restored(teacher: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    cached(teacher, split_of(teacher), tmp_path, num_threads=before + 1)
    assert torch.get_num_threads() == before


def test_no_gpu_is_touched_where_none_was_given(teacher: Path, tmp_path: Path, monkeypatch) -> None:
    from distiltune.training.models.runtime import evaluation_device

    # At the boundary: a GPU that belongs to another process.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert evaluation_device(None).type == evaluation_device(True).type == "cuda"
    assert cached(teacher, split_of(teacher), tmp_path, use_gpu=False).computed


def test_concurrent_writers_leave_one_complete_entry(tmp_path: Path) -> None:
    target, failures = tmp_path / "entry", []

    def write(number: int) -> None:
        try:
            for _ in range(30):
                with new_folder(target) as folder:
                    (folder / "a").write_text(str(number))
                    (folder / "b").write_text(str(number))
        except Exception as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failures
    assert (target / "a").read_text() == (target / "b").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_a_reader_of_an_entry_is_not_disturbed_by_a_second_writer(tmp_path: Path) -> None:
    target = tmp_path / "entry"
    for text in ("first", "second"):
        with new_folder(target, keep_existing=True) as folder:
            (folder / "a").write_text(text)
    assert (target / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


def test_an_entry_that_another_made_meanwhile_is_kept(teacher: Path, tmp_path: Path, monkeypatch) -> None:
    from distiltune.training.teacher import logits_cache as logits

    split = split_of(teacher)
    other = cached(teacher, split, tmp_path / "other")

    def beaten(*args, **options) -> np.ndarray:
        shutil.copytree(tmp_path / "other", tmp_path / "cache")
        (tmp_path / "cache" / other.key / "theirs").touch()
        return np.array(other.logits)

    monkeypatch.setattr(logits, "compute_logits", beaten)
    found = cached(teacher, split, tmp_path / "cache")
    assert found.computed
    assert (tmp_path / "cache" / other.key / "theirs").exists()
    np.testing.assert_array_equal(found.logits, other.logits)


def test_a_failed_writer_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "entry"
    with new_folder(target) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(KeyError), new_folder(target) as folder:
        (folder / "a").write_text("new")
        raise KeyError
    assert (target / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["entry"]


@pytest.mark.slow
def test_processes_that_compute_the_same_concurrently_agree(teacher: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; import numpy as np\n"
        "from distiltune.training.checkpoints.load import load_tokenizer\n"
        "from distiltune.training.teacher.logits_cache import teacher_logits\n"
        "from distiltune.training.data.tokenized import tokenize_split\n"
        "teacher, cache, texts = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]\n"
        "split = tokenize_split(texts, [0] * len(texts), load_tokenizer(teacher), 16)\n"
        "found = teacher_logits(teacher, split, max_length=16, cache_dir=cache, num_threads=1)\n"
        "print(found.key, float(np.abs(found.logits).sum()))\n"
    )
    command = [sys.executable, "-c", program, str(teacher), str(tmp_path), *TEXTS]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = {process.communicate(timeout=120)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(printed) == 1
    assert len(list(tmp_path.iterdir())) == 1
