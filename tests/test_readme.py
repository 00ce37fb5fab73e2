"""The README's cluster section, typed as it stands."""

import os
import re
import secrets
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def cluster_commands():
    """The commands of the section `On a cluster`, without their comments."""
    section = README.read_text(encoding="utf-8").partition("## On a cluster")[2].partition("\n## ")[0]
    block = re.search(r"```\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return [line.partition(" #")[0].strip() for line in block[1].splitlines()]


@pytest.fixture
def shell(tmp_path):
    """Runs a line as a person's shell does, in an empty directory; where root, on a network of its own."""
    name, prefix = f"readme-{secrets.token_hex(3)}", []
    if os.geteuid() == 0 and subprocess.run(["ip", "netns", "add", name], check=False).returncode == 0:
        prefix = ["ip", "netns", "exec", name]
        subprocess.run([*prefix, "ip", "link", "set", "lo", "up"], check=True)
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    command = bin_dir / "distiltune"
    command.write_text(
        "#!/bin/sh\n"
        f'exec {shlex.quote(sys.executable)} -c "import sys; from distiltune.cluster.cli import main; '
        'sys.exit(main())" "$@"\n'
    )
    command.chmod(0o755)
    (tmp_path / "work").mkdir()
    environment = {
        **os.environ,
        "PATH": f"{bin_dir}:{os.environ['PATH']}",
        "DISTILTUNE_STATE_DIR": str(tmp_path / "state"),
    }

    def start(line):
        return subprocess.Popen(
            [*prefix, "bash", "-c", f"exec {line}"],
            cwd=tmp_path / "work",
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    try:
        yield start, prefix
    finally:
        start("distiltune cluster down").communicate(timeout=120)
        if prefix:
            subprocess.run(["ip", "netns", "del", name], check=False)


def serves_http(prefix, url, within_s=90):
    code = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).status)"
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        done = subprocess.run(
            [*prefix, sys.executable, "-c", code, url], capture_output=True, text=True, check=False
        )
        if done.stdout.strip() == "200":
            return True
        time.sleep(1)
    return False


def test_the_section_names_the_whole_way():
    verbs = [line.split()[1] for line in cluster_commands()]
    assert verbs == [
        "cluster",
        "submit",
        "status",
        "logs",
        "tensorboard",
        "stop",
        "resume",
        "runs",
        "pull",
        "cluster",
    ]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_cluster_section_works_word_for_word(shell, tmp_path):
    start, prefix = shell
    said = {}
    for line in cluster_commands():
        process = start(line)
        if " tensorboard " in line:
            assert serves_http(prefix, "http://127.0.0.1:6006/data/plugins_listing"), line
            process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=600)
        assert process.returncode == 0, (line, out, errors)
        assert "Traceback" not in errors
        said[line.split()[1]] = out
    assert "stopped" in said["stop"]
    assert re.search(r"first\s+finished", said["runs"])
    assert (tmp_path / "work" / "model" / "model.onnx").is_file()
    assert not list((tmp_path / "state").glob("*.json"))
