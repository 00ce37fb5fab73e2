"""What the help shows: groups, an example of each command that its own parser accepts, presets, and completion."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from distiltune.cluster.app import app
from distiltune.cluster.cli import main
from distiltune.cluster.commands.examples import EXAMPLES
from distiltune.cluster.specification.preset_files import preset_names
from distiltune.export import commands as lean

COMMANDS = {name: each for name, each in typer.main.get_command(app).commands.items() if name != "cluster"}  # pyright: ignore[reportAttributeAccessIssue]


def test_every_command_is_in_a_group_and_has_an_example() -> None:
    assert set(EXAMPLES) == set(COMMANDS)
    assert {each.rich_help_panel for each in COMMANDS.values()} == {"Jobs", "Runs", "Artifacts"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_accepted_by_its_command(name: str) -> None:
    program, command, *arguments = shlex.split(EXAMPLES[name])
    assert (program, command) == ("distiltune", name)
    parsed = COMMANDS[name].make_context(name, arguments, resilient_parsing=False)
    assert parsed.params


@pytest.mark.parametrize("name", ["run", "gc", "predict"])
def test_the_help_ends_with_the_example(name: str, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Example: {EXAMPLES[name]}" in shown
    if name == "run":
        assert all(preset in shown for preset in preset_names())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_shows_names_of_values_without_doubled_brackets(name: str, capsys) -> None:
    assert main([name, "--help"]) == 0
    usage = capsys.readouterr().out.split("Usage:")[1].splitlines()[0]
    assert "[[" not in usage
    assert "......" not in usage
    assert "...}..." not in usage


@pytest.mark.parametrize("name", lean.COMMANDS)
def test_only_options_that_take_numbers_have_limits(name: str, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([name, "--help"]) == 0
    limited = [
        line.split()[1] for line in capsys.readouterr().out.splitlines() if re.search("x>=|<=x<=", line)
    ]
    assert limited == [each.option for each in lean.COMMANDS[name].parameters if each.kind is int]


def completed(words: str, directory: Path) -> list[str]:
    """Return the completions that bash gets for the last word."""
    environment = {
        **os.environ,
        "_DISTILTUNE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
        "DISTILTUNE_STORAGE": str(directory),
    }
    program = (
        "import sys; from distiltune.cluster.cli import main; sys.argv = ['distiltune']; sys.exit(main())"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, env=environment, cwd=directory, capture_output=True, text=True, check=False
    )
    return done.stdout.split()


def test_a_shell_completes_commands_presets_files_and_runs(tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text("seed: 1")
    (tmp_path / "runs" / "mine-20260101").mkdir(parents=True)
    (tmp_path / "runs" / "mine-20260101" / "run.json").write_text("{}")
    assert completed("distiltune ini", tmp_path) == ["init"]
    assert completed("distiltune run ", tmp_path) == ["mine.yaml", *preset_names()]
    assert completed("distiltune show ", tmp_path) == ["latest", "mine-20260101"]
    assert re.fullmatch("--storage", " ".join(completed("distiltune runs --sto", tmp_path)))
