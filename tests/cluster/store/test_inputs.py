"""Files that a job names: sent into the store by their content, and found on every node; in a directory and on S3."""

import http.server
import shutil
import threading
from functools import partial
from pathlib import Path

import datasets
import pytest
from models import tiny_classifier

from distiltune.cluster.specification.config import JobConfig
from distiltune.cluster.store.input_files import data_is_local, ship_inputs, with_local_inputs
from distiltune.errors import DataError, ModelError
from distiltune.storage.store import Store
from distiltune.training.data.text_data import load_data

SPLITS = ("train", "validation", "test")


@pytest.fixture(params=["directory", "s3"])
def store(request, tmp_path):
    url = str(tmp_path / "store") if request.param == "directory" else request.getfixturevalue("s3_url")
    return Store(url, retry_s=2)


@pytest.fixture
def node(monkeypatch):
    """Act as another machine, which has none of this machine's copies."""

    def move(directory):
        monkeypatch.setenv("DISTILTUNE_CACHE", str(directory))

    return move


def write_data(directory):
    directory.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        (directory / f"{split}.csv").write_text(f"text,label\na {split},x\nb {split},y\n")
    return {"source": "files", **{split: str(directory / f"{split}.csv") for split in SPLITS}}


def texts(config):
    return [Path(getattr(config.data, split)).read_text() for split in SPLITS]


def test_data_files_come_to_another_machine_as_they_are(store, tmp_path, node):
    config = JobConfig.model_validate({"data": write_data(tmp_path / "data")})
    assert data_is_local(config)
    node(tmp_path / "here")
    shipped = ship_inputs(config, store)
    assert not data_is_local(shipped)
    assert shipped.data.train.startswith("storage:cache/inputs/")
    assert shipped.data.train.endswith("/train.csv")
    node(tmp_path / "there")
    assert texts(with_local_inputs(shipped, store)) == texts(config)


def test_a_file_of_logits_comes_to_another_machine(store, tmp_path, node):
    (tmp_path / "teacher.csv").write_text("text,label\na train,x\n")
    config = JobConfig.model_validate(
        {
            "data": write_data(tmp_path / "data"),
            "teacher": {"logits": str(tmp_path / "teacher.csv")},
            "student": {"kind": "static"},
        }
    )
    node(tmp_path / "here")
    shipped = ship_inputs(config, store)
    assert shipped.teacher.logits.path.startswith("storage:cache/inputs/")
    node(tmp_path / "there")
    local = with_local_inputs(shipped, store).teacher.logits
    assert Path(local.path).read_text() == (tmp_path / "teacher.csv").read_text()
    (tmp_path / "teacher.csv").unlink()
    with pytest.raises(DataError, match=r"teacher\.logits\.path does not exist"):
        ship_inputs(config, store)


def test_every_teacher_of_a_list_comes_to_another_machine(store, tmp_path, node):
    checkpoint = tiny_classifier(tmp_path / "teacher")
    (tmp_path / "llm.csv").write_text("text,label\na train,x\n")
    members = [
        {"fine_tune": {"checkpoint": str(checkpoint)}},
        {"checkpoint": str(checkpoint), "weight": 2, "labels": {"label_0": "x"}},
        {"logits": str(tmp_path / "llm.csv")},
        {"checkpoint": "owner/on-the-hub"},
    ]
    config = JobConfig.model_validate(
        {"data": write_data(tmp_path / "data"), "teacher": {"ensemble": members}}
    )
    node(tmp_path / "here")
    shipped = ship_inputs(config, store)
    first, second, file, hub = shipped.teacher.members
    assert first.fine_tune.checkpoint == second.checkpoint and second.checkpoint.startswith("storage:cache/")
    assert file.logits.path.endswith("/llm.csv") and file.logits.path.startswith("storage:cache/inputs/")
    assert hub.checkpoint == "owner/on-the-hub"
    assert second.labels == {"label_0": "x"} and shipped.teacher.given_weights == [1, 2, 1, 1]
    assert str(tmp_path) not in shipped.teacher.model_dump_json()
    node(tmp_path / "there")
    local = with_local_inputs(JobConfig.model_validate(shipped.model_dump(mode="json")), store)
    assert Path(local.teacher.members[2].logits.path).read_text() == "text,label\na train,x\n"
    assert (Path(local.teacher.members[1].checkpoint) / "model.safetensors").is_file()
    missing = {**members[1], "checkpoint": str(tmp_path / "nowhere")}
    config = JobConfig.model_validate({"teacher": {"ensemble": [members[0], missing]}})
    with pytest.raises(ModelError, match=r"teacher\.ensemble\.1\.checkpoint: .*nowhere"):
        ship_inputs(config, store)


def test_the_same_content_is_sent_once_and_named_the_same_wherever_it_lies(store, tmp_path):
    config = JobConfig.model_validate({"data": write_data(tmp_path / "data")})
    elsewhere = JobConfig.model_validate({"data": write_data(tmp_path / "elsewhere" / "again")})
    shipped = ship_inputs(config, store)
    sent = store.sizes("cache")
    assert sum(path.endswith(".csv") for path in sent) == 3
    assert ship_inputs(elsewhere, store) == shipped
    assert ship_inputs(shipped, store) == shipped
    assert store.sizes("cache") == sent
    (tmp_path / "data" / "train.csv").write_text("text,label\nother,x\n")
    assert ship_inputs(config, store).data.train != shipped.data.train
    assert set(store.sizes("cache")) > set(sent)


def test_optional_files_and_saved_datasets_are_sent_whole(store, tmp_path, node):
    rows = datasets.Dataset.from_dict({"text": list("abcdefgh"), "label": list("xyxyxyxy")})
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(str(tmp_path / "saved"))
    rows.save_to_disk(str(tmp_path / "alone"))
    (tmp_path / "saved" / "train" / "other.pkl").write_bytes(b"x")
    data = {"train": str(tmp_path / "saved"), "validation": str(tmp_path / "alone")}
    config = JobConfig.model_validate({"data": data})
    assert data_is_local(config)
    shipped = ship_inputs(config, store)
    assert shipped.data.train.endswith("/saved") and shipped.data.validation.startswith("storage:")
    assert shipped.data.test is None
    before = load_data(config.data)
    shutil.rmtree(tmp_path / "saved")
    shutil.rmtree(tmp_path / "alone")
    node(tmp_path / "there")
    received = with_local_inputs(shipped, store).data
    assert load_data(received).fingerprint == before.fingerprint
    assert not list(Path(received.train).rglob("*.pkl"))


def test_a_single_file_is_sent_and_its_missing_splits_stay_missing(tmp_path):
    path = tmp_path / "my.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{i % 2}\n" for i in range(40)))
    config, store = JobConfig.model_validate({"data": {"train": str(path)}}), Store(str(tmp_path / "store"))
    received = with_local_inputs(ship_inputs(config, store), store).data
    assert (received.validation, received.test) == (None, None)
    assert load_data(received).fingerprint == load_data(config.data).fingerprint


def test_a_checkpoint_is_sent_without_unrelated_files(store, tmp_path, node):
    directory = tmp_path / "teacher"
    tiny_classifier(directory)
    (directory / "optimizer.pt").write_bytes(b"x")
    (directory / "checkpoint-5").mkdir()
    config = JobConfig.model_validate(
        {
            "teacher": {"fine_tune": {"checkpoint": str(directory)}},
            "student": {"checkpoint": str(directory)},
        }
    )
    shipped = ship_inputs(config, store)
    assert shipped.teacher.fine_tune.checkpoint == shipped.student.checkpoint
    node(tmp_path / "there")
    received = with_local_inputs(shipped, store)
    path = Path(received.teacher.fine_tune.checkpoint)
    assert path.name == "teacher"
    names = {each.name for each in path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert not names & {"optimizer.pt", "checkpoint-5"}
    assert (path / "model.safetensors").read_bytes() == (directory / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    "section",
    [
        {},
        {"teacher": {"checkpoint": "owner/model"}},
        {"teacher": {"fine_tune": {"checkpoint": "offline:all-MiniLM-L6-v2"}}},
        {"data": {"source": "hub"}},
        {"data": {"source": "embedded", "path": "not-read-by-this-source.json"}},
    ],
)
def test_what_is_no_file_of_this_machine_stays(section, tmp_path):
    config, store = JobConfig.model_validate(section), Store(str(tmp_path / "store"))
    assert ship_inputs(config, store) is config
    assert with_local_inputs(config, store) is config
    assert not (tmp_path / "store").exists()


def test_every_missing_file_is_named_before_anything_is_sent(tmp_path):
    data = write_data(tmp_path / "data")
    data |= {"validation": str(tmp_path / "data" / "validatoin.csv"), "test": str(tmp_path / "data")}
    store = Store(str(tmp_path / "store"))
    with pytest.raises(DataError, match=r"data\.validation does not exist; .*'validation.csv'") as raised:
        ship_inputs(JobConfig.model_validate({"data": data}), store)
    assert "data.test is a directory" in str(raised.value)
    config = JobConfig.model_validate(
        {"data": write_data(tmp_path / "data"), "teacher": {"checkpoint": "./no"}}
    )
    with pytest.raises(ModelError, match="no such checkpoint directory"):
        ship_inputs(config, store)
    assert not (tmp_path / "store").exists()


def test_a_reference_into_another_store_is_reported(store):
    config = JobConfig.model_validate(
        {"data": {"source": "clinc_json", "path": "storage:cache/inputs/0/a.json"}}
    )
    with pytest.raises(DataError, match=r"data\.path: storage:cache/inputs/0/a.json .*submit the job again"):
        with_local_inputs(config, store)


def test_a_data_file_of_an_s3_url_is_downloaded_and_downloaded_again_when_it_changed(s3_url, tmp_path, node):
    node(tmp_path / "there")
    remote = Store(s3_url)
    base, _, query = s3_url.partition("?")
    remote.write("data/all.json", b"first")
    config = JobConfig.model_validate(
        {"data": {"source": "clinc_json", "path": f"{base}/data/all.json?{query}"}}
    )
    local = Store(str(tmp_path / "store"))
    assert ship_inputs(config, local) is config
    path = Path(with_local_inputs(config, local).data.path)
    assert (path.name, path.read_text()) == ("all.json", "first")
    before = path.stat().st_mtime_ns
    assert with_local_inputs(config, local).data.path == str(path)
    assert path.stat().st_mtime_ns == before
    remote.write("data/all.json", b"second")
    with_local_inputs(config, local)
    assert path.read_text() == "second"
    remote.delete("data/all.json")
    with pytest.raises(
        DataError, match=r"data\.path: s3://.*/all.json cannot be read \(there is no such file\)"
    ):
        with_local_inputs(config, local)


def test_a_data_file_of_the_web_is_downloaded(tmp_path, node):
    node(tmp_path / "there")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "all.json").write_text("content")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):  # noqa: A002
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "web"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/all.json"
        config = JobConfig.model_validate({"data": {"source": "clinc_json", "path": url}})
        found = with_local_inputs(config, Store(str(tmp_path / "store")))
        assert Path(found.data.path).read_text() == "content"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "url",
    [
        "foo://host/all.json",
        pytest.param(  # pyarrow tries for seconds
            "s3://b-q/all.json?endpoint_override=127.0.0.1:1&scheme=http", marks=pytest.mark.slow
        ),
    ],
)
def test_a_url_that_cannot_be_read_is_one_line(url, tmp_path, s3_endpoint):
    config = JobConfig.model_validate({"data": {"source": "clinc_json", "path": url}})
    with pytest.raises(
        DataError, match=r"^data\.path: .*cannot be read.*check the URL and its credentials$"
    ) as raised:
        with_local_inputs(config, Store(str(tmp_path / "store")))
    assert "\n" not in str(raised.value)
