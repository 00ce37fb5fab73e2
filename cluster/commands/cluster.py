"""The commands `distiltune cluster up`, `join`, `status` and `down`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .options import JsonOption, echo_json

if TYPE_CHECKING:
    from ..nodes.daemon import Daemon

app = typer.Typer(
    name="cluster",
    help="Start, join, inspect and stop a Ray cluster.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_MOST = 100_000  # more than any machine has; Ray does not accept arbitrarily large numbers

CpusOption = Annotated[
    int | None,
    typer.Option("--cpus", min=0, max=_MOST, help="CPUs that trials may use here; default: all of them."),
]
GpusOption = Annotated[
    int | None,
    typer.Option("--gpus", min=0, max=_MOST, help="GPUs that trials may use here; default: all of them."),
]


@app.command()
def up(
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    port: Annotated[int | None, typer.Option("--port", help="Port that nodes join; default: 6379.")] = None,
    host: Annotated[
        str | None, typer.Option("--host", metavar="IP", help="Address that nodes join; default: 127.0.0.1.")
    ] = None,
    dashboard_host: Annotated[
        str | None,
        typer.Option("--dashboard-host", metavar="IP", help="Address that accepts jobs; default: 127.0.0.1."),
    ] = None,
    dashboard_port: Annotated[
        int | None, typer.Option("--dashboard-port", help="Port that accepts jobs; default: 8265.")
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Require no token; on 127.0.0.1 only.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start a Ray head on this machine, which runs until `distiltune cluster down`.

    On 127.0.0.1 other machines cannot reach it. With --host, Ray's own ports listen on all interfaces and require
    the token; its Prometheus metrics require none. The token does not encrypt the traffic.
    """
    from ..nodes.ray_node import HeadOptions, start_head

    token = False if no_token else None
    daemon, started = start_head(HeadOptions(cpus, gpus, port, host, dashboard_host, dashboard_port, token))
    if as_json:
        echo_json({"started": started, **_facts(daemon), "join": _join_command(daemon)})
        return
    typer.echo(f"a Ray head {'is running' if started else 'is already running'} at {daemon.address}")
    typer.echo(f"dashboard, for jobs    {daemon.dashboard}")
    if daemon.token_file:
        typer.echo(f"token                  {daemon.token_file}")
    before = "copy the token file there, then: " if daemon.token_file else ""
    typer.echo(f"add a machine          {before}{_join_command(daemon)}")
    typer.echo("next                   distiltune cluster status")


@app.command()
def join(
    head: Annotated[
        str, typer.Argument(metavar="HEAD:PORT", help="Address that `distiltune cluster up` printed.")
    ],
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="Copy of the head's token file.")
    ] = None,
    cpus: CpusOption = None,
    gpus: GpusOption = None,
    host: Annotated[
        str | None,
        typer.Option("--host", metavar="IP", help="This machine's address; default: as the head sees it."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Add this machine to a cluster, until `distiltune cluster down` here."""
    from ..nodes.ray_node import join_head

    daemon = join_head(head, token_file, cpus, gpus, host)
    if as_json:
        echo_json(_facts(daemon))
        return
    typer.echo(f"this machine ({daemon.options['host']}) is a node of {daemon.address}")
    typer.echo("leave with: distiltune cluster down")


@app.command()
def status(
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="URL", help="Dashboard; default: RAY_ADDRESS, or the head here."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", metavar="FILE", help="Copy of the head's token file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the nodes and jobs of a cluster, also from a machine that is not part of it."""
    from ..nodes.addresses import find_cluster
    from ..nodes.status import cluster_status, print_status

    found = cluster_status(find_cluster(address, token_file))
    echo_json(found) if as_json else print_status(found)


@app.command()
def down(as_json: JsonOption = False) -> None:
    """Stop everything that `distiltune cluster up` and `join` started on this machine, and nothing else."""
    from ..nodes.daemon import daemons, locked, stop

    with locked():
        # Stop the head last: nodes without a head would keep trying to reach it.
        running = daemons()[::-1]
        for daemon in running:
            stop(daemon)
    if as_json:
        echo_json({"stopped": [_facts(daemon) for daemon in running]})
        return
    for daemon in running:
        what = "the head at" if daemon.kind == "head" else "a node of"
        typer.echo(f"stopped {what} {daemon.address}")
    if not running:
        typer.echo("nothing is running here")


def _facts(daemon: Daemon) -> dict[str, Any]:
    return {
        "kind": daemon.kind,
        "address": daemon.dashboard,
        "gcs_address": daemon.address,
        "token_file": daemon.token_file,
        "pid": daemon.pid,
        "host": daemon.options["host"],
        "log": str(daemon.log),
    }


def _join_command(daemon: Daemon) -> str:
    token = f" --token-file {shlex.quote(str(daemon.token_file))}" if daemon.token_file else ""
    return f"distiltune cluster join {daemon.address}{token}"
