"""What the watchdog does when its process is killed, and that it does nothing otherwise."""

import os
import subprocess
import sys
import time

import psutil
import pytest
from commands import lives, soon

from distiltune.cluster.session.watchdog import Watchdog, end_users_of

PARENT = """
import psutil, subprocess, sys, time
from pathlib import Path
from distiltune.cluster.session.watchdog import Watchdog
from distiltune.storage.temporary import TemporaryDirectory
directory = Path(sys.argv[1])
own = TemporaryDirectory("teacher")
code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
code += "; time.sleep(60)"
open_file = "import sys, time; held = open(sys.argv[1].replace('@', '/')); time.sleep(60)"
children = [
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", f"--dir={directory}/a"]),
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], cwd=directory),
    subprocess.Popen([sys.executable, "-c", open_file, str(directory / "log").replace("/", "@")]),
]
named = subprocess.Popen([sys.executable, "-c", code])
bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
while not psutil.Process(named.pid).children():
    time.sleep(0.02)
time.sleep(0.5)
watchdog = Watchdog([directory], [named.pid])
print(*[each.pid for each in children], named.pid, bystander.pid, flush=True)
if sys.argv[2] == "dismiss":
    watchdog.dismiss()
time.sleep(60)
"""


@pytest.fixture
def parent(tmp_path, request):
    """A process with children, killed with SIGKILL once its watchdog watches; the directory and the children's ids."""
    directory = tmp_path / "watched"
    directory.mkdir()
    (directory / "log").touch()
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(directory), request.param],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    *used, named, bystander = map(int, process.stdout.readline().split())
    below = [each.pid for each in psutil.Process(named).children(recursive=True)]
    process.kill()
    process.wait()
    process.stdout.close()
    yield directory, [*used, named, *below], bystander
    for pid in (*used, named, *below, bystander):
        if lives(pid):
            psutil.Process(pid).kill()


@pytest.mark.parametrize("parent", ["kill"], indirect=True)
def test_a_killed_process_leaves_neither_what_it_started_nor_its_directory(parent):
    directory, watched, bystander = parent
    assert len(watched) == 5
    assert soon(lambda: not any(map(lives, watched)))
    assert soon(lambda: not directory.exists())
    assert soon(lambda: not list(directory.parent.glob("distiltune-*")))
    assert lives(bystander)


@pytest.mark.parametrize("parent", ["dismiss"], indirect=True)
def test_a_watchdog_that_was_dismissed_does_nothing(parent):
    directory, watched, _ = parent
    time.sleep(0.5)
    assert all(map(lives, watched))
    assert directory.exists()


def test_a_dismissed_watchdog_has_ended(tmp_path):
    watchdog = Watchdog([tmp_path])
    process = psutil.Process(watchdog._process.pid)
    watchdog.dismiss()
    assert not process.is_running()
    assert tmp_path.exists()


def test_a_process_that_uses_a_directory_of_a_longer_name_keeps_running(tmp_path):
    beside = tmp_path / "watched-not"
    beside.mkdir()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", f"{beside}/a"]) as process:
        end_users_of([tmp_path / "watched"])
        assert process.poll() is None
        process.kill()
