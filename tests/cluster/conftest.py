import signal

import pytest

from distiltune.cluster.cli import main


@pytest.fixture
def here(monkeypatch, tmp_path):
    """The command line in this process, which has the libraries loaded already."""
    monkeypatch.chdir(tmp_path)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield lambda *arguments: main(list(arguments))
    for number, handler in before.items():
        signal.signal(number, handler)
