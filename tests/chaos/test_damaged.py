"""Damaged checkpoints: they are detected before they are used, and then ignored."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest
from faults import Grounds
from stored_searches import KEYS

from distiltune.search.trial.checkpoints import (
    RECORD_NAME,
    DamagedCheckpointError,
    download_checkpoint,
    saved_epochs,
    write_epoch,
)
from distiltune.search.trial.integrity import damage_of, last_intact, model_is_intact
from distiltune.storage.store import Store

pytestmark = pytest.mark.slow


@pytest.fixture(params=["directory", "s3"])
def store(request, tmp_path):
    """Epochs 1 to 3 of a trial ``s/t``."""
    url = str(tmp_path / "store") if request.param == "directory" else request.getfixturevalue("s3_url")
    made = Store(url, retry_s=1)
    for number in range(3):
        folder = tmp_path / f"made-{number}"
        (folder / "deep").mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(bytes([number]) * 300)
        (folder / "config.json").write_text("{}")
        (folder / "deep" / "optimizer.pt").write_bytes(b"x" * 200)
        write_epoch(folder, {"epoch": number + 1, "step": number, "metrics": {"accuracy": 0.5 + number / 10}})
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = path.relative_to(folder).as_posix()
                made.write(f"s/t/checkpoint_{number:06}/{name}", path.read_bytes())
    return made


def flip(store: Store, key: str, byte: int = 7) -> None:
    content = bytearray(store.read(key) or b"")
    content[byte] ^= 4
    store.write(key, bytes(content))


def numbers(store: Store) -> list[int]:
    return [each.epoch for each in saved_epochs(store, "s/t")]


def test_the_last_intact_epoch_is_found_and_damaged_ones_are_deleted(store):
    messages = []
    flip(store, "s/t/checkpoint_000002/deep/optimizer.pt")
    flip(store, "s/t/checkpoint_000000/model.safetensors")
    assert numbers(store) == [1, 2, 3]
    found = last_intact(store, saved_epochs(store, "s/t"), messages.append)
    assert found is not None
    assert found.epoch == 2
    [line] = messages
    assert "epoch 3" in line
    assert "deep/optimizer.pt is damaged" in line
    assert numbers(store) == [1, 2]
    assert store.names("s/t") == ["checkpoint_000000", "checkpoint_000001"]
    store.delete("s/t/checkpoint_000001/config.json")
    found = last_intact(store, [found], messages.append)
    assert found is None
    assert "config.json is missing" in messages[1]
    assert last_intact(store, saved_epochs(store, "s/t"), messages.append) is None
    assert numbers(store) == []


def test_only_what_is_used_is_read(store, caplog):
    last = saved_epochs(store, "s/t")[-1]
    flip(store, f"{last.key}/deep/optimizer.pt")
    assert damage_of(store, last) is not None
    assert model_is_intact(store, last.key)
    assert not caplog.text
    flip(store, f"{last.key}/model.safetensors")
    assert not model_is_intact(store, last.key)
    assert "model.safetensors is damaged" in caplog.text
    assert not model_is_intact(store, "s/t/checkpoint_000009")
    assert numbers(store) == [1, 2, 3], "the metrics of its epoch are still known"


def test_a_damaged_copy_is_refused(store, tmp_path):
    flip(store, "s/t/checkpoint_000001/model.safetensors")
    with pytest.raises(DamagedCheckpointError, match=r"model\.safetensors is damaged.*distiltune resume"):
        download_checkpoint(store, "s/t/checkpoint_000001", tmp_path / "copy")
    download_checkpoint(store, "s/t/checkpoint_000001", tmp_path / "other", ("config.json",))


def test_a_record_is_ignored_wherever_a_bit_of_it_is_flipped(tmp_path):
    folder = tmp_path / "s" / "t" / "checkpoint_000000"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"x")
    write_epoch(folder, {"epoch": 1, "step": 7, "metrics": {"accuracy": 0.8125}})
    store, content = Store(str(tmp_path)), (folder / RECORD_NAME).read_bytes()
    [whole] = saved_epochs(store, "s/t")
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (folder / RECORD_NAME).write_bytes(flipped)
        for each in saved_epochs(store, "s/t"):  # for example, white space changes nothing
            assert each.record == whole.record, bytes(flipped)


def test_a_record_without_its_seal_is_ignored(store):
    [first, *_] = saved_epochs(store, "s/t")
    bare = {name: value for name, value in first.record.items() if name != "seal"}
    store.write(f"{first.key}/{RECORD_NAME}", json.dumps(bare).encode())
    assert numbers(store) == [2, 3]


@pytest.mark.timeout(280)
def test_when_the_best_checkpoint_is_damaged_the_next_best_is_taken(tmp_path):
    with ExitStack() as stack:
        grounds = Grounds(tmp_path, stack)
        with grounds.store() as store:
            best = grounds.finish(grounds.start(store))["outcome"]["best"]
            flip(store, f"{best['checkpoint']}/model.safetensors", 999)
            found = grounds.finish(grounds.start(store))
            assert found["outcome"]["best"]["checkpoint"] != best["checkpoint"]
            values = {
                each.key: each.metrics["validation_accuracy"]
                for trial in found["outcome"]["trials"]
                for each in saved_epochs(store, f"{KEYS['experiment']}/{trial['trial_id']}")
                if each.key != best["checkpoint"] and "model.safetensors" in each.record["files"]
            }
            chosen = found["outcome"]["best"]
            assert chosen["metrics"]["validation_accuracy"] == max(values.values())
            assert values[chosen["checkpoint"]] == max(values.values())
            assert found["again"]
