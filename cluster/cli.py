"""The command line: each command's arguments, and how errors become lines and exit statuses."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from ..errors import DistiltuneError, InputError, RunInterruptedError

app = typer.Typer(
    name="distiltune",
    help="Turn a large text classifier into the smallest and fastest one that keeps its accuracy.",
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override one key of the specification.")
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage", metavar="DIR", envvar="DISTILTUNE_STORAGE", help="Directory that holds the runs."
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print one JSON value on stdout, and nothing else there.")
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or `latest`.")]
SourceArgument = Annotated[
    str | None,
    typer.Argument(metavar="[CONFIG|PRESET]", help="A YAML file or a preset; default: quickstart."),
]
RunIdOption = Annotated[
    str | None, typer.Option("--run-id", help="Name the run, or go on with the one of that name.")
]
ArtifactArgument = Annotated[Path, typer.Argument(metavar="DIR", help="An artifact's directory.")]


def _version(asked: bool) -> None:
    if asked:
        from .. import __version__

        typer.echo(f"distiltune {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    context: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more, and show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("distiltune")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO if verbose else logging.WARNING)


@app.command()
def run(
    source: SourceArgument = None,
    overrides: SetOption = None,
    storage: StorageOption = None,
    run_id: RunIdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search, distil, quantize, export, benchmark and seal, on this machine or on resources.address."""
    from .config import load_config

    _run(load_config(source, overrides or [], storage), source, run_id, as_json)


@app.command()
def train(
    source: SourceArgument = None,
    overrides: SetOption = None,
    storage: StorageOption = None,
    run_id: RunIdOption = None,
    as_json: JsonOption = False,
) -> None:
    """The same job with one trial: the values of the training section, nothing searched."""
    from .config import load_config, without_search

    _run(without_search(load_config(source, overrides or [], storage)), source, run_id, as_json)


def _run(config: Any, source: str | None, run_id: str | None, as_json: bool) -> None:
    from .console import ProgressPrinter
    from .pipeline import run_job
    from .show import print_summary, summary

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with ProgressPrinter() as printer:
            finished = run_job(config, Path(source or "quickstart").stem, run_id=run_id, listener=printer)
    except KeyboardInterrupt as error:
        raise RunInterruptedError(f"interrupted; {error}".rstrip("; ")) from None
    if as_json:
        _echo_json(summary(finished))
    else:
        print_summary(finished)


@app.command("runs")
def list_runs(storage: StorageOption = None, as_json: JsonOption = False) -> None:
    """Every run in the storage, newest first."""
    from .show import print_runs, run_rows

    rows = run_rows(_storage(storage))
    _echo_json(rows) if as_json else print_runs(rows)


@app.command()
def show(run_id: RunArgument, storage: StorageOption = None, as_json: JsonOption = False) -> None:
    """What a run found: its state, best trial, variants and choice."""
    from .show import print_summary, summary

    opened = _storage(storage).open(run_id)
    _echo_json(summary(opened)) if as_json else print_summary(opened)


@app.command()
def pull(
    run_id: RunArgument,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Directory to make; must not exist.")],
    storage: StorageOption = None,
) -> None:
    """Copy a run's sealed artifact; every hash is verified before the directory appears."""
    from ..export.artifact import copy_artifact

    opened = _storage(storage).open(run_id)
    if not opened.artifact.exists():
        raise InputError(
            f"run {opened.id} is {opened.state} and has no artifact yet; see `distiltune show {opened.id}`"
        )
    copy_artifact(opened.artifact, to)
    typer.echo(f"{to}: verified; try: distiltune predict {to} 'a text'")


@app.command()
def predict(
    directory: ArtifactArgument,
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts; none reads lines from stdin.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Classify texts with an artifact."""
    from ..export.runtime import TextClassifier

    if not texts and sys.stdin.isatty():
        raise InputError("TEXT: none given; name one or more texts, or pipe lines to stdin")
    given = texts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    results = TextClassifier.load(directory)(given)
    if as_json:
        _echo_json([{"text": text, **result} for text, result in zip(given, results, strict=True)])
        return
    for text, result in zip(given, results, strict=True):
        typer.echo(f"{result['label']}\t{result['score']:.4f}\t{text}")


@app.command()
def benchmark(
    directory: ArtifactArgument,
    texts: Annotated[
        Path | None, typer.Option("--texts", metavar="FILE", help="Texts to time, one a line.")
    ] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, help="Timed runs of one text.")] = 100,
    warmups: Annotated[int, typer.Option("--warmups", min=0, help="Runs before timing.")] = 10,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Intra-op threads.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Measure an artifact on this machine: latency, throughput, size, memory."""
    from .measure import measure_artifact, print_measurement

    measured = measure_artifact(
        directory, texts_file=texts, num_runs=runs, num_warmups=warmups, num_threads=threads
    )
    _echo_json(measured) if as_json else print_measurement(measured)


@app.command()
def report(run_id: RunArgument, storage: StorageOption = None) -> None:
    """Print a run's report as Markdown, and say where its files are."""
    opened = _storage(storage).open(run_id)
    page = opened.report / "report.md"
    if not page.exists():
        raise InputError(
            f"run {opened.id} is {opened.state} and has no report yet; see `distiltune show {opened.id}`"
        )
    typer.echo(page.read_text(encoding="utf-8"))
    typer.echo(f"{page.parent}: {', '.join(sorted(path.name for path in page.parent.iterdir()))}", err=True)


@app.command()
def tensorboard(
    run_id: RunArgument,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")
    ] = 6006,
    storage: StorageOption = None,
) -> None:
    """Serve a run's scalars and HParams with TensorBoard on 127.0.0.1."""
    opened = _storage(storage).open(run_id)
    if not opened.tensorboard.is_dir():
        raise InputError(f"run {opened.id} has no trials yet; its state is {opened.state}")
    arguments = ["--logdir", str(opened.tensorboard), "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "tensorboard.main", *arguments, "--reload_interval", "5"]
    sys.stdout.flush()
    # The server takes this process's place, and so its signals.
    os.execv(sys.executable, command)


@app.command()
def config(
    source: SourceArgument = None,
    overrides: SetOption = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON schema of a specification.")
    ] = False,
) -> None:
    """Print a specification as resolved, every key with its value; --schema for editors."""
    from .config import JobConfig, load_config

    if schema:
        _echo_json(JobConfig.model_json_schema())
        return
    import yaml

    resolved = load_config(source, overrides or []).model_dump(mode="json")
    typer.echo(yaml.safe_dump(resolved, sort_keys=False, width=110), nl=False)


def _interrupt(*_: Any) -> None:
    """Ctrl-C's way out: a search saves its state on SIGINT, and does not on SIGTERM."""
    signal.raise_signal(signal.SIGINT)


def _storage(path: str | None) -> Any:
    from .config import StorageConfig
    from .runs import Storage

    return Storage(path or StorageConfig().path)


def _echo_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, allow_nan=False))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status is 0, 1 (failed run), 2 (bad input) or 130 (Ctrl-C)."""
    given = _verbose_first(sys.argv[1:] if arguments is None else arguments)
    try:
        status = app(given, prog_name="distiltune", standalone_mode=False)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except TyperException as error:
        return _complain(f"{error.format_message()} (see: distiltune --help)", error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except DistiltuneError as error:
        _trace(given)
        return _complain(str(error), error.exit_status)
    except Exception as error:
        _trace(given)
        first = next(iter(str(error).splitlines()), "")
        return _complain(f"unexpected {type(error).__name__}: {first} (distiltune --verbose shows where)", 1)


def _verbose_first(arguments: list[str]) -> list[str]:
    """Let ``--verbose`` stand anywhere before ``--``."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if "--verbose" not in arguments[:end]:
        return arguments
    return ["--verbose", *(each for each in arguments[:end] if each != "--verbose"), *arguments[end:]]


def _complain(message: str, status: int) -> int:
    typer.echo(f"error: {'; '.join(message.splitlines())}", err=True)
    return status


def _trace(given: list[str]) -> None:
    if "--verbose" in given or "-v" in given:
        import traceback

        traceback.print_exc()
