"""Progress of a run as the user sees it: bars on a terminal of any width, plain lines everywhere else."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.cells import cell_len
from rich.console import Console

from distiltune.cluster.watching.bars import StageBar, TimeLeft
from distiltune.cluster.watching.console import ProgressPrinter
from distiltune.cluster.watching.events import StageEvent

BEST = "3 of 40 trials done, 2 running, best 0.9512"
LONG = "loading libraries on a-host-with-a-very-long-name.of-a-cluster.example.com, which takes a while"
# A run's events, drawn by the command line's own printer and logging; the last stage is interrupted.
PROGRAM = """
import logging, os, signal, sys, time
from distiltune.cluster import app
from distiltune.cluster.watching.console import ProgressPrinter
from distiltune.cluster.watching.events import StageEvent

app._main(type("Context", (), {"invoked_subcommand": "run"})(), verbose=False, version=False)
best, long = sys.argv[1:3]
with ProgressPrinter(live="--json" not in sys.argv) as printer:
    printer(StageEvent("run", "begun", "job-1 in distiltune-runs"))
    printer(StageEvent("data", "finished", "20 intents; 300 train", 0.3))
    printer(StageEvent("teacher", "started"))
    printer(StageEvent("teacher", "progress", long))
    time.sleep(0.4)
    for epoch in range(3):
        text = f"epoch {epoch + 1} of 5, fine-tuning the teacher"
        printer(StageEvent("teacher", "progress", text, values={"done": epoch, "total": 5}))
        time.sleep(0.3)
    logging.getLogger("distiltune").warning("a line of the log")
    print("a line that a library prints", file=sys.stderr)
    time.sleep(0.3)
    printer(StageEvent("teacher", "finished", "fine-tuned, validation accuracy 0.9123", 1.2))
    for done in (2, 3):
        printer(StageEvent("search", "progress", best, values={"done": done, "total": 40}))
        time.sleep(0.3)
    signal.raise_signal(signal.SIGINT)
"""
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7][0-9;]*m")


def program(*options):
    return [sys.executable, "-c", PROGRAM, BEST, LONG, *options]


def environment(**others):
    unwanted = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    return {**{name: value for name, value in os.environ.items() if name not in unwanted}, **others}


def on_a_terminal(columns, *options, **others):
    """Return what the program writes to a terminal of that many columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    variables = environment(**{"TERM": "xterm-256color", **others})
    process = subprocess.Popen(program(*options), stdout=theirs, stderr=theirs, stdin=theirs, env=variables)
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 65536):
            shown += data
    except OSError:  # the other end was closed
        pass
    finally:
        os.close(ours)
    assert process.wait(timeout=30) not in (0, None), "it was interrupted"
    return shown.decode()


class Screen:
    """A terminal's final content: interprets the few sequences that rich writes."""

    def __init__(self, columns):
        self.columns, self.lines, self.row, self.column = columns, [""], 0, 0
        self.num_wrapped = 0

    def write(self, text):
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x1b]|\x1b", text):
            if part.startswith("\x1b["):
                self._control(part)
            elif part == "\r":
                self.column = 0
            elif part == "\n":
                self._down()
            else:
                self._put(part)
        return self

    def _put(self, character):
        if self.column >= self.columns:
            self.num_wrapped += 1
            self.column = 0
            self._down()
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += cell_len(character)

    def _down(self):
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")

    def _control(self, sequence):
        count = int(sequence[2:-1]) if sequence[2:-1].isdigit() else 1
        if sequence[-1] == "A":
            self.row = max(0, self.row - count)
        elif sequence == "\x1b[2K":
            self.lines[self.row] = ""
        else:
            assert sequence[-1] in "mhl", f"{sequence!r} is not known here"


def in_a_pipe():
    done = subprocess.run(
        program(), capture_output=True, text=True, env=environment(), check=False, timeout=60
    )
    assert done.stdout == ""
    return done.stderr


PLACES = {
    60: lambda: on_a_terminal(60),
    120: lambda: on_a_terminal(120),
    "NO_COLOR": lambda: on_a_terminal(80, NO_COLOR="1"),
    "--json": lambda: on_a_terminal(200, "--json"),
    "dumb": lambda: on_a_terminal(200, TERM="dumb"),
    "pipe": in_a_pipe,
}


@pytest.fixture(scope="module")
def terminal():
    """The program's output in each place; these run in parallel, since each mostly waits."""
    with ThreadPoolExecutor(len(PLACES)) as pool:
        found = {place: pool.submit(shown) for place, shown in PLACES.items()}
        return {place: each.result() for place, each in found.items()}


@pytest.mark.parametrize("columns", [60, 120])
def test_bars_show_done_total_and_the_time_left_and_never_wrap(columns, terminal):
    shown = terminal[columns]
    screen = Screen(columns)
    drawn, teacher = [], []
    for piece in re.split(r"(?=\r\x1b\[2K)", shown.partition("Traceback")[0]):
        screen.write(piece)
        drawn.append("\n".join(screen.lines))
    assert screen.num_wrapped == 0
    teacher = [line for screen in drawn for line in screen.splitlines() if line.startswith("teacher")]
    assert any(re.search(r"━+.* 2/5 0:0\d 0:0\d left$", line.rstrip()) for line in teacher), teacher[-1:]
    assert any("epoch 2 of 5, fine-tuning the teacher" in each for each in drawn)
    assert any(re.search(r"^search .*━+.* 3/40 0:0\d", each, re.MULTILINE) for each in drawn)
    assert any(BEST in each for each in drawn)
    assert any("…" in each for each in drawn) == (columns < len(LONG))


@pytest.mark.parametrize("columns", [60, 120])
def test_the_log_stays_above_the_bars_and_ctrl_c_leaves_a_clean_screen(columns, terminal):
    shown, traceback, _ = terminal[columns].partition("Traceback")
    assert traceback
    left = [line.rstrip() for line in Screen(columns).write(shown).lines if line.strip()]
    assert left == [
        "  run        job-1 in distiltune-runs",
        "✓ data       20 intents; 300 train (0.3 s)",
        "WARNING: a line of the log",
        "a line that a library prints",
        "✓ teacher    fine-tuned, validation accuracy 0.9123 (1.2 s)",
    ]
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor is back"


def test_no_color_means_no_colours_but_bars(terminal):
    shown = terminal["NO_COLOR"]
    assert "━" in shown
    assert not _COLOUR.search(shown)


def test_colours_are_used_where_they_may_be(terminal):
    assert _COLOUR.search(terminal[120])


PLAIN = [
    "  run        job-1 in distiltune-runs",
    "✓ data       20 intents; 300 train (0.3 s)",
    f"  teacher    {LONG}",
    "WARNING: a line of the log",
    "a line that a library prints",
    "✓ teacher    fine-tuned, validation accuracy 0.9123 (1.2 s)",
    f"  search     {BEST}",
]


@pytest.mark.parametrize("place", ["--json", "dumb"])
def test_a_terminal_without_bars_has_plain_lines(place, terminal):
    shown = terminal[place].partition("Traceback")[0]
    lines = [_CONTROL.sub("", line).rstrip() for line in shown.splitlines()]
    assert [line for line in lines if line] == PLAIN
    assert "\x1b[2K" not in shown


def test_without_a_terminal_there_are_plain_lines_alone(terminal):
    assert terminal["pipe"].partition("Traceback")[0].splitlines() == PLAIN
    assert "\x1b" not in terminal["pipe"]


def plain(times_and_texts, stage="search"):
    """The lines that a printer writes without a terminal, of progress at those times."""
    now = [0.0]
    console = Console(file=io.StringIO(), width=200)
    printer = ProgressPrinter(console, clock=lambda: now[0])
    for moment, text in times_and_texts:
        now[0] = moment
        printer(StageEvent(stage, "progress", text))
    return console.file.getvalue().split()[1::2]


def test_a_stage_writes_at_most_a_plain_line_every_few_seconds():
    assert plain([(0.0, "a"), (0.1, "b"), (2.9, "c"), (3.1, "d"), (3.2, "e"), (9.0, "f"), (99.0, "f")]) == [
        "a",
        "d",
        "f",
    ]
    assert plain([(0.0, "a"), (1.0, ""), (9.0, "")]) == ["a"]


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_time_left_comes_from_the_measured_rate():
    clock = Clock()
    left = TimeLeft(clock)
    assert left.seconds is None
    left.update(0, 10)
    clock.now = 20.0
    assert left.seconds is None, "nothing has been measured"
    left.update(2, 10)
    assert left.seconds == pytest.approx(80)
    clock.now = 25.0
    assert left.seconds == pytest.approx(75)
    left.update(2, 10)
    assert left.seconds == pytest.approx(75), "nothing new"
    clock.now = 500.0
    assert left.seconds == 0
    left.update(10, 10)
    assert left.seconds == 0


def test_a_resumed_stage_is_not_taken_for_a_fast_one():
    clock = Clock()
    left = TimeLeft(clock)
    clock.now = 1.0
    left.update(90, 100)
    assert left.seconds is None
    clock.now = 11.0
    left.update(91, 100)
    assert left.seconds == pytest.approx(90)


@pytest.mark.parametrize(("done", "total"), [(1, 10), (5, 20)])
def test_another_computation_has_a_rate_of_its_own(done, total):
    clock = Clock()
    left = TimeLeft(clock)
    for step in range(5):
        clock.now += 1.0
        left.update(step, 10)
    left.update(done, total)
    assert left.seconds is None


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("counts", [(), (3, 5), (999_999, 1_000_000), (0, 7), (7, 7)])
def test_no_line_of_a_bar_is_wider_than_the_terminal(width, counts):
    clock = Clock()
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    bar = StageBar(console, "benchmark", clock)
    bar.update("x" * 500, *((counts[0] - 1, counts[1]) if counts and counts[0] else ()))
    clock.now = 4000.0
    bar.update("two\nlines " * 50, *counts)
    console.print(bar)
    lines = console.file.getvalue().splitlines()
    assert len(lines) == 2
    assert all(cell_len(line) <= width for line in lines)
    assert lines[0].startswith("benchmark")


def test_the_clock_of_a_long_stage_has_hours():
    clock = Clock()
    console = Console(file=io.StringIO(), width=80)
    bar = StageBar(console, "teacher", clock)
    clock.now = 3723.0
    console.print(bar)
    assert "1:02:03" in console.file.getvalue()


def test_parallel_tasks_have_a_line_each():
    console = Console(file=io.StringIO(), width=60)
    bar = StageBar(console, "teacher", Clock())
    bar.update("both", 3, 8, ["teacher 1 of 2: epoch 2", "teacher 2 of 2:  epoch 3", " "])
    console.print(bar)
    bar.update("all teachers are done")
    console.print(bar)
    first, *others = console.file.getvalue().splitlines()
    assert "3/8" in first
    assert others[:2] == ["  teacher 1 of 2: epoch 2", "  teacher 2 of 2: epoch 3"]
    assert others[3:] == ["  all teachers are done"]
