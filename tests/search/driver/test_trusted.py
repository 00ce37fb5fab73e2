"""A search is resumed only from files that no other user could have written."""

import os
import pickle

import pytest

from distiltune.errors import PermanentStorageError
from distiltune.search.driver import trusted
from distiltune.search.driver.trusted import refuse_untrusted
from distiltune.storage.store import Store

EXPERIMENT = "runs/a/search"
FILES = (
    "tuner.pkl",
    "searcher-state-1.pkl",
    "experiment_state-1.json",
    "0000/error.pkl",
    "0000/checkpoint_000001/x.pt",
)
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


@pytest.fixture
def store(tmp_path):
    """A search's folder as it is written with a umask of 022."""
    store = Store(str(tmp_path / "store"))
    for name in FILES:
        store.write(f"{EXPERIMENT}/{name}", b"x")
    for parent, _, files in os.walk(store.directory):
        os.chmod(parent, 0o755)  # noqa: PTH101
        for name in files:
            os.chmod(os.path.join(parent, name), 0o644)  # noqa: PTH101, PTH118
    return store


def refused(store, match):
    with pytest.raises(PermanentStorageError, match=match) as caught:
        refuse_untrusted(store, EXPERIMENT)
    assert "\n" not in str(caught.value)
    assert "delete" not in str(caught.value)


def test_own_files_are_trusted_and_a_search_that_has_none_yet(store):
    refuse_untrusted(store, EXPERIMENT)
    refuse_untrusted(store, "runs/another/search")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("mode", [0o646, 0o666])
def test_a_file_that_others_can_write_is_refused(store, name, mode):
    (store.directory / EXPERIMENT / name).chmod(mode)
    refused(store, rf"{name}: can be written by others \(mode {mode:o}\).*chmod")


@pytest.mark.parametrize("key", ["", "runs", "runs/a", "runs/a/search", "runs/a/search/0000"])
def test_a_directory_that_others_can_write_is_refused_up_to_the_store(store, key):
    (store.directory / key).chmod(0o757)
    refused(store, r"can be written by others \(mode 757\)")


@pytest.mark.parametrize("key", ["", "runs", "runs/a"])
def test_others_may_add_to_a_sticky_directory_above_it(store, key):
    (store.directory / key).chmod(0o1777)
    refuse_untrusted(store, EXPERIMENT)


@pytest.mark.parametrize("key", [EXPERIMENT, f"{EXPERIMENT}/0000"])
def test_a_sticky_directory_of_the_search_is_refused(store, key):
    (store.directory / key).chmod(0o1777)
    refused(store, r"can be written by others \(mode 1777\)")


@root_only
@pytest.mark.parametrize("name", ["", *FILES])
def test_a_file_of_another_user_is_refused(store, name):
    os.chown(store.directory / EXPERIMENT / name, 65534, -1)
    refused(store, rf"{name}: belongs to .*uid 65534.*resume the run as its owner")


@root_only
def test_a_directory_of_another_user_above_it_is_refused(store):
    os.chown(store.directory / "runs", 65534, -1)
    refused(store, r"/runs: belongs to .*uid 65534")


@root_only
def test_the_group_may_write_only_where_it_is_the_users_own(store, monkeypatch):
    path = store.directory / EXPERIMENT / "tuner.pkl"
    os.chown(path, -1, 4321)
    path.chmod(0o664)
    refused(store, r"tuner\.pkl: can be written by its group \(mode 664\)")
    monkeypatch.setattr(trusted, "_private_group", lambda: 4321)
    refuse_untrusted(store, EXPERIMENT)


def test_a_link_is_not_followed(store, tmp_path):
    (tmp_path / "planted").write_bytes(pickle.dumps(1))
    path = store.directory / EXPERIMENT / "tuner.pkl"
    path.unlink()
    path.symlink_to(tmp_path / "planted")
    refused(store, r"tuner\.pkl: .*link")


def test_of_a_store_that_is_reached_by_a_link_the_target_is_checked(store, tmp_path):
    (tmp_path / "link").symlink_to(store.directory)
    refuse_untrusted(Store(str(tmp_path / "link")), EXPERIMENT)
    store.directory.chmod(0o777)
    refused(Store(str(tmp_path / "link")), "can be written by others")


def test_nothing_is_unpickled_before_that(store, tmp_path):
    """Through the entry point itself: the planted snapshot would run a command."""
    from distiltune.search.driver import experiment as experiments

    class Planted:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    folder = store.directory / EXPERIMENT
    (folder / "tuner.pkl").write_bytes(pickle.dumps(Planted()))
    (folder / "search_gen_state-1.json").write_text("{}")
    (folder / "tuner.pkl").chmod(0o666)

    class Settings:
        pass

    settings = Settings()
    settings.store, settings.experiment = store, EXPERIMENT

    class Plan:
        pass

    plan = Plan()
    plan.settings = settings
    with pytest.raises(PermanentStorageError, match=r"tuner\.pkl"):
        experiments._tuner(plan, None, Settings())
    assert not (tmp_path / "ran").exists()
