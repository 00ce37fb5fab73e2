"""Commands for a run's result: pull, push, choose, benchmark."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ...errors import InputError
from .options import (
    ArtifactArgument,
    JsonOption,
    RunArgument,
    StorageOption,
    complete_runs,
    echo_json,
    open_run,
)

_MOST_RUNS = 1_000_000

app = typer.Typer()


@app.command()
def pull(
    run_id: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="Id of a run, `latest`, or hf://user/name[@revision] of a model hub.",
            autocompletion=complete_runs,
        ),
    ],
    to: Annotated[str, typer.Option("--to", metavar="DIR", help="Directory to create; it must not exist.")],
    storage: StorageOption = None,
) -> None:
    """Copy a sealed artifact of a run or a hub; every hash is verified before the directory appears."""
    from ...export.artifact.files import HUB_PREFIX
    from ..store.artifact_folder import predict_command
    from ..store.runs import own_name

    copy = (_pull_from_hub if run_id.startswith(HUB_PREFIX) else partial(_pull_from_run, storage))(run_id, to)
    typer.echo(f"{copy}: verified; try: {predict_command(own_name(), copy, str(copy))}")


def _pull_from_hub(name: str, to: str) -> Path:
    from ...export.artifact.hub.pull import pull_artifact
    from ...export.artifact.hub.repository import repository_named

    return pull_artifact(repository_named(name, "RUN"), to)


def _pull_from_run(storage: str | None, run_id: str, to: str) -> Path:
    from ...export.artifact.copying import folder_to_make
    from ...export.artifact.seal import copy_artifact

    target = folder_to_make(to)
    opened = open_run(run_id, storage)
    if not opened.store.has_folder(opened.artifact):
        raise InputError(
            f"run {opened.id} is {opened.state} and has no artifact yet; see `distiltune show {opened.id}`"
        )
    return copy_artifact(opened.store.fetch(opened.artifact), target)


@app.command()
def push(
    directory: ArtifactArgument,
    to: Annotated[
        str, typer.Option("--to", metavar="USER/NAME", help="Repository; created if it does not exist.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Create a private repository; else everyone can download it.")
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="BRANCH", help="Branch to push to; created if it does not exist."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Push into a repository that holds something else.")
    ] = False,
    storage: StorageOption = None,
) -> None:
    """Push an artifact and its model card to a model hub, in one commit; needs a token (`hf auth login`)."""
    from ...export.artifact.hub.push import push_artifact
    from ...export.artifact.hub.repository import repository_named
    from ..store.artifact_folder import find_artifact

    repository = repository_named(to, "--to", revision)
    folder = find_artifact(directory, storage)
    pushed = push_artifact(
        folder, repository, private=private, force=force, log=lambda line: typer.echo(line, err=True)
    )
    done = (
        f"{pushed.num_files} files pushed"
        if pushed.is_new
        else "nothing changed, it holds these files already"
    )
    typer.echo(f"{pushed.url}: {done}; commit {pushed.commit}")
    typer.echo(f"try: distiltune pull {repository} --to ./model")


@app.command()
def choose(
    run_id: RunArgument,
    trial: Annotated[
        str, typer.Argument(metavar="TRIAL", help="Name or number of the trial, as `show` lists them.")
    ],
    storage: StorageOption = None,
) -> None:
    """Select another trial of a finished search to export, such as one of its Pareto front."""
    from ..pipeline.best_trial import select_other_trial
    from ..store.runs import command

    opened = open_run(run_id, storage)
    select_other_trial(opened, trial)
    typer.echo(
        f"run {opened.id}: trial {trial} is selected; export and measure it with: {command('resume', opened)}"
    )


@app.command()
def benchmark(
    directory: ArtifactArgument,
    storage: StorageOption = None,
    texts: Annotated[
        Path | None,
        typer.Option(
            "--texts", metavar="FILE", help="Texts to time: one per line, or a table such as texts.csv."
        ),
    ] = None,
    text_column: Annotated[
        str, typer.Option("--text-column", metavar="NAME", help="Column of the table with the text.")
    ] = "text",
    text_pair_column: Annotated[
        str | None,
        typer.Option(
            "--text-pair-column",
            metavar="NAME",
            help="Column of the second text, where the artifact takes pairs; default: text_pair.",
        ),
    ] = None,
    runs: Annotated[int, typer.Option("--runs", min=1, max=_MOST_RUNS, help="Timed runs of one text.")] = 100,
    warmups: Annotated[
        int, typer.Option("--warmups", min=0, max=_MOST_RUNS, help="Runs before timing.")
    ] = 10,
    threads: Annotated[int, typer.Option("--threads", min=1, max=1024, help="Intra-op threads.")] = 1,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Also vary the number of threads, batch size and text length.")
    ] = False,
    load: Annotated[
        bool,
        typer.Option(
            "--load", help="Also measure 1, 2, 4 and 8 concurrent clients, as threads and as processes."
        ),
    ] = False,
    startup: Annotated[
        bool, typer.Option("--startup", help="Also measure the time from process start to the first label.")
    ] = False,
    session: Annotated[
        bool,
        typer.Option("--session", help="Also try ONNX Runtime session options, one by one and combined."),
    ] = False,
    floors: Annotated[
        bool,
        typer.Option("--floors", help="Also compute this machine's minimum time, from bytes and operations."),
    ] = False,
    thorough: Annotated[bool, typer.Option("--thorough", help="Make all of these measurements.")] = False,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds",
            min=0.1,
            max=3600,
            help="Duration of each measurement under load and of each point of a sweep.",
        ),
    ] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Measure an artifact on this machine: latency, throughput, size, memory."""
    from ...export.benchmark.serving.measure import ExtraMeasurements
    from ..store.artifact_folder import find_artifact
    from .measure import measure_artifact
    from .measure_tables import print_measurement

    wanted = {"sweep": sweep, "load": load, "startup": startup, "session": session, "floors": floors}
    measured = measure_artifact(
        find_artifact(directory, storage),
        texts_file=texts,
        text_column=text_column,
        text_pair_column=text_pair_column,
        num_runs=runs,
        num_warmups=warmups,
        num_threads=threads,
        extras=ExtraMeasurements(
            **{name: each or thorough for name, each in wanted.items()}, seconds=seconds
        ),
    )
    echo_json(measured) if as_json else print_measurement(measured)
