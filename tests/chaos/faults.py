"""The faults, each with its test bed: a Ray cluster, a store, and a way to break one of them."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from job import SEARCH
from look import Sight, look
from processes import Cluster, Driver, Drivers, ended, make_environment
from servers import free_port, make_bucket, s3_server, small_disk
from stored_searches import KEYS, eventually, proxy

from distiltune.search.trial.checkpoints import RECORD_NAME, SavedEpoch, find_checkpoint, saved_epochs
from distiltune.storage.store import Store

END_S = 150  # a search takes some seconds; one that has not ended by then hangs
RETRY_S, SHORT_S = 30.0, 2.0
AWAY_S = 3.0


@dataclass
class Disturbed:
    """The effect of a fault.

    Attributes:
        hit: Description of what was hit.
        before: The trials at that time.
        found: Results of the driver with which the search ended.
        late: Whether the search had ended before the fault.
    """

    hit: str
    before: dict[str, Sight]
    found: dict[str, Any]
    late: bool = False


class Grounds:
    """A test bed on which the searches of one kind of fault run, one after another.

    Args:
        folder: Folder for the stores and logs.
        stack: Ends the processes of the test bed.
    """

    all_points = True
    """Whether TensorBoard must show every epoch."""
    head_cpus = 2
    from_start = 0.0
    """Share of the moments that are before the first worker is up."""
    checkpoint_every_s = 0.0
    """``storage.checkpoint_every_s`` of the searches that are started."""

    def __init__(self, folder: Path, stack: ExitStack, **environment: str) -> None:
        self.folder = folder
        self.stack = stack
        self.environment = make_environment(folder / "cache", **environment)
        self.cluster = stack.enter_context(ended(lambda: Cluster(self.environment, self.head_cpus)))
        self.drivers = stack.enter_context(ended(lambda: Drivers(self.environment, folder)))
        self._count = 0

    @contextmanager
    def store(self) -> Iterator[Store]:
        """Yield a new store for one search."""
        self._count += 1
        path = self.folder / f"store-{self._count}"
        path.mkdir()
        yield Store(str(path), retry_s=RETRY_S)
        shutil.rmtree(path, ignore_errors=True)

    def start(
        self,
        store: Store,
        *,
        retry_s: float = RETRY_S,
        snapshot_s: int | None = None,
        setup_hook: str | None = None,
        **search: Any,
    ) -> Driver:
        """Start a driver that searches in a store.

        Args:
            store: The store.
            retry_s: Seconds for which it retries the storage.
            snapshot_s: Seconds between Tune's snapshots.
            setup_hook: Function that every worker calls first.
            search: Keys that replace those of the usual search.
        """
        address, url = self.cluster.head["address"], self.url_for_drivers(store)
        return self.drivers.start(
            {
                "address": address,
                "url": url,
                "retry_s": retry_s,
                "snapshot_s": snapshot_s,
                "setup_hook": setup_hook,
                "checkpoint_every_s": self.checkpoint_every_s,
                "search": {**SEARCH, **search},
            }
        )

    def driver_options(self, number: int) -> dict[str, Any]:
        """Return options of ``start`` for the driver of a moment, before the fault."""
        del number
        return {}

    def url_for_drivers(self, store: Store) -> str:
        return store.url

    def finish(self, driver: Driver, timeout_s: float = END_S) -> dict[str, Any]:
        """Return the results of a driver, which must reach the end of the search."""
        found = driver.wait(timeout_s)
        if driver.running():
            driver.kill()
            raise AssertionError(f"the search hangs: {driver.log.read_text()[-1500:]}")
        assert found is not None, f"the driver died: {driver.log.read_text()[-1500:]}"
        assert "error" not in found, found
        return found

    def disturb(self, store: Store, driver: Driver, number: int, dice: random.Random) -> Disturbed:
        """Break something now, let the search end, and return what was hit and the trials at that time."""
        raise NotImplementedError

    def wait_for_worker(self, driver: Driver) -> list[int]:
        """Wait for the first workers that hold a trial, and return them; ``[0]`` if the search ends before."""
        return eventually(lambda: self.cluster.workers() or (not driver.running() and [0]), 60)

    def wait_no_worker(self) -> None:
        eventually(lambda: not self.cluster.workers(), 60)


class WorkerKilled(Grounds):
    """``kill -9`` of a process that runs a trial; the search continues by itself."""

    def disturb(self, store: Store, driver: Driver, number: int, dice: random.Random) -> Disturbed:
        victim = dice.choice(self.wait_for_worker(driver))
        late = not victim
        if victim:
            try:
                os.kill(victim, signal.SIGKILL)
            except ProcessLookupError:
                late = True
        before = look(store)
        return Disturbed("a trial's worker", before, self.finish(driver), late)


class DriverKilled(Grounds):
    """``kill -9`` of the driver; another one resumes."""

    from_start = 0.1

    def driver_options(self, number: int) -> dict[str, Any]:
        """Return a short interval of snapshots for odd numbers; otherwise only the first snapshot is written."""
        return {"snapshot_s": 1} if number % 2 else {}

    def disturb(self, store: Store, driver: Driver, number: int, dice: random.Random) -> Disturbed:
        late = not driver.running()
        driver.kill()
        before = look(store)
        hit = "the driver" + (", a snapshot each second" if number % 2 else "")
        return Disturbed(hit, before, self.finish(self.start(store)), late)


class RayletKilled(Grounds):
    """``kill -9`` of the raylet of one of two nodes; the other takes its trial, then a new node is added."""

    head_cpus = 0

    def __init__(self, folder: Path, stack: ExitStack, **environment: str) -> None:
        super().__init__(folder, stack, **environment)
        for _ in range(2):
            self.cluster.add_node(1)

    def disturb(self, store: Store, driver: Driver, number: int, dice: random.Random) -> Disturbed:
        self.wait_for_worker(driver)
        late = not driver.running()
        busy = [raylet for raylet in self.cluster.nodes if self.cluster.workers(raylet)]
        victim = dice.choice(busy or self.cluster.nodes)
        os.kill(victim, signal.SIGKILL)
        before = look(store)
        self.cluster.nodes.remove(victim)
        try:
            found = self.finish(driver)
        finally:
            self.cluster.add_node(1)
        return Disturbed("a busy node's raylet" if busy else "an idle node's raylet", before, found, late)


class HeadKilled(Grounds):
    """``kill -9`` of the head (GCS and raylet); a new head without the old one's state, and another driver, follow."""

    from_start = 0.1

    def __init__(self, folder: Path, stack: ExitStack, **environment: str) -> None:
        # By default Ray waits a minute for a head that is gone.
        super().__init__(folder, stack, RAY_gcs_rpc_server_reconnect_timeout_s="5", **environment)

    def disturb(self, store: Store, driver: Driver, number: int, dice: random.Random) -> Disturbed:
        old = self.cluster
        late = not driver.running()
        old.kill_head()
        before = look(store)
        self.cluster = Cluster(self.environment, self.head_cpus)
        self.stack.callback(self.cluster.end)
        driver.wait(20)
        hit = f"the head; its driver {'was killed too' if driver.running() else 'ended'}"
        driver.kill()
        old.end()
        return Disturbed(hit, before, self.finish(self.start(store)), late)


class DiskFull(Grounds):
    """The disk fills up so that only a part of a checkpoint fits; space is freed in time, or too late."""

    all_points = False  # the event files are on that disk
    size = 24 * 2**20

    @contextmanager
    def store(self) -> Iterator[Store]:
        self._count += 1
        path = self.folder / f"disk-{self._count}"
        with small_disk(path, str(self.size)):
            yield Store(str(path), retry_s=RETRY_S)

    def driver_options(self, number: int) -> dict[str, Any]:
        return {"retry_s": SHORT_S} if number % 2 else {}

    def disturb(self, store: Store, driver: Driver, number: int, dice: random.Random) -> Disturbed:
        assert store.directory is not None
        before = look(store)
        late = not driver.running()
        filler = store.directory / "filler"
        room = dice.randrange(1, 80_000)  # a checkpoint takes some 80 kB
        fill(filler, room)
        in_time = number % 2 == 0
        hit = f"room for {room} bytes, {'in time again' if in_time else 'for longer than it is tried'}"
        if in_time:
            time.sleep(AWAY_S)
        else:
            driver.wait(END_S)
        filler.unlink()
        if driver.running():
            return Disturbed(hit, before, self.finish(driver), late)
        found = driver.wait(0)
        assert found is not None
        if "error" not in found:  # the search had nothing left to write
            return Disturbed(hit, before, found, late=True)
        assert found["error"] == "StorageError", found
        return Disturbed(hit, before, self.finish(self.start(store)))


def fill(path: Path, room: int) -> None:
    """Write a file that leaves ``room`` bytes on its disk."""
    with path.open("wb") as file:
        free = shutil.disk_usage(path.parent).free
        while free > room:
            try:
                file.write(bytes(max(1, free - room)))
                file.flush()
            except OSError:
                break
            free = shutil.disk_usage(path.parent).free


class StorageAway(Grounds):
    """The S3 server refuses, or hangs; it is back in time, or only after the search gave up, and is resumed."""

    def __init__(self, folder: Path, stack: ExitStack, **environment: str) -> None:
        super().__init__(folder, stack, **environment)
        self._endpoint = stack.enter_context(s3_server(port=free_port()))
        self._away = threading.Event()
        self._proxied = ""

    @contextmanager
    def store(self) -> Iterator[Store]:
        self._count += 1
        url = make_bucket(self._endpoint, f"bucket-{self._count}")
        with proxy(url) as (proxied, away):
            self._proxied, self._away = proxied, away
            yield Store(url, retry_s=RETRY_S)

    def url_for_drivers(self, store: Store) -> str:
        return self._proxied

    def driver_options(self, number: int) -> dict[str, Any]:
        return {"retry_s": SHORT_S} if number % 3 == 1 else {}

    def disturb(self, store: Store, driver: Driver, number: int, dice: random.Random) -> Disturbed:
        before = look(store)
        late = not driver.running()
        if number % 3 == 1:
            self._away.set()
            found = driver.wait(END_S)
            self._away.clear()
            if found and "error" not in found:
                return Disturbed("nothing that it still needed", before, found, late=True)
            assert found is not None, driver.log.read_text()[-1500:]
            assert found["error"] == "StorageError", found
            hit = "refused for longer than it is tried"
            return Disturbed(hit, before, self.finish(self.start(store)))
        if number % 3 == 0:
            self._away.set()
            time.sleep(AWAY_S)
            self._away.clear()
        else:
            server = self._server()
            server.suspend()
            time.sleep(AWAY_S)
            server.resume()
        how = "hung" if number % 3 else "refused"
        return Disturbed(f"{how} for {AWAY_S:g} s", before, self.finish(driver), late)

    def _server(self) -> psutil.Process:
        port = self._endpoint.rpartition(":")[2]
        [server] = [each for each in psutil.Process().children() if port in each.cmdline()]
        return server


def unfinished_epochs(store: Store) -> list[SavedEpoch]:
    """Return the newest checkpoint of every trial that has one and has not reached its last epoch."""
    trials = {name.split("/")[0] for name in store.sizes(KEYS["experiment"]) if "/checkpoint_" in name}
    last = [find_checkpoint(saved_epochs(store, f"{KEYS['experiment']}/{trial}")) for trial in sorted(trials)]
    return [each for each in last if each is not None and each.metrics["progress"] < 1]


class Corrupted(Grounds):
    """The driver is killed, and an unfinished trial's newest checkpoint is damaged before another driver resumes."""

    how = ""

    def disturb(self, store: Store, driver: Driver, number: int, dice: random.Random) -> Disturbed:
        eventually(lambda: unfinished_epochs(store) or not driver.running(), 60)
        driver.kill()
        self.wait_no_worker()
        found = unfinished_epochs(store)
        if not found:
            found_again = self.finish(self.start(store))
            return Disturbed("no trial between two epochs", look(store), found_again, late=True)
        newest = dice.choice(found)
        name = dice.choice([*newest.record["files"], RECORD_NAME])
        where = self.damage(store, f"{newest.key}/{name}", dice)
        before = look(store, without=newest.key)
        return Disturbed(f"{name} {where}", before, self.finish(self.start(store)))

    def damage(self, store: Store, key: str, dice: random.Random) -> str:
        raise NotImplementedError


class Truncated(Corrupted):
    """A file is truncated."""

    def damage(self, store: Store, key: str, dice: random.Random) -> str:
        content = store.read(key) or b""
        left = dice.randrange(len(content))
        store.write(key, content[:left])
        return f"cut off after {left} of {len(content)} bytes"


class BitFlipped(Corrupted):
    """A bit of a file is flipped."""

    def damage(self, store: Store, key: str, dice: random.Random) -> str:
        content = bytearray(store.read(key) or b"")
        bit = dice.randrange(8 * len(content))
        content[bit // 8] ^= 1 << bit % 8
        store.write(key, bytes(content))
        return f"with bit {bit % 8} of byte {bit // 8} turned over"
