import signal
from subprocess import CompletedProcess

import pytest
from commands import OF_THE_USER

from distiltune.cluster.cli import main


@pytest.fixture
def here(monkeypatch, tmp_path):
    """The command line in this process, which has the libraries loaded already."""
    monkeypatch.chdir(tmp_path)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield lambda *arguments: main(list(arguments))
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def distiltune_here(here, monkeypatch, capsys):
    """``commands.distiltune`` in this process: its environment, its result, and no libraries to load."""

    def run(state, *arguments, **others):
        for name in OF_THE_USER:
            monkeypatch.delenv(name, raising=False)
        for name, value in {
            "HOME": state.parent,
            "DISTILTUNE_STATE_DIR": state,
            "COLUMNS": 160,
            **others,
        }.items():
            monkeypatch.setenv(name, str(value))
        capsys.readouterr()
        status = here(*map(str, arguments))
        return CompletedProcess(arguments, status, *capsys.readouterr())

    return run
