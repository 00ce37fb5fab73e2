"""Nodes and jobs for `distiltune cluster status`, from the dashboard's HTTP API."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ...errors import InputError
from .addresses import ClusterAddress, get_json


def cluster_status(cluster: ClusterAddress) -> dict[str, Any]:
    """Return the nodes with their resources, and the jobs, newest first.

    Jobs come from Ray's documented jobs API; nodes come from the API that ``ray list nodes`` uses.

    Raises:
        InputError: Nothing responds, the token is missing or wrong, or the server is not a Ray dashboard.
    """
    try:
        return {"address": cluster.dashboard, "nodes": _nodes(cluster), "jobs": _jobs(cluster)}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"--address: {cluster.dashboard} does not respond like the dashboard of Ray 2.55 or later"
        ) from error


def print_status(found: dict[str, Any]) -> None:
    """Print a table of nodes and one of jobs."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    nodes = Table("node", "address", "state", "CPUs used", "GPUs used", title=found["address"])
    for each in found["nodes"]:
        name = f"{each['id'][:8]}{' (head)' if each['head'] else ''}"
        nodes.add_row(name, each["ip"], each["state"], _share(each, "cpus"), _share(each, "gpus"))
    console.print(nodes)
    if not found["jobs"]:
        console.print("no jobs")
        return
    jobs = Table("job", "status", "started", "entrypoint")
    for each in found["jobs"]:
        jobs.add_row(escape(each["id"]), each["status"], each["started"] or "", escape(each["entrypoint"]))
    console.print(jobs)


def _nodes(cluster: ClusterAddress) -> list[dict[str, Any]]:
    nodes = get_json(cluster, "/api/v0/nodes")["data"]["result"]["result"]
    report = get_json(cluster, "/api/cluster_status")["data"]["clusterStatus"]
    usage = ((report or {}).get("loadMetricsReport") or {}).get("usageByNode") or {}
    rows = [_node(node, usage.get(node["node_id"], {})) for node in nodes]
    return sorted(rows, key=lambda row: (row["state"] != "ALIVE", not row["head"], row["ip"], row["id"]))


def _jobs(cluster: ClusterAddress) -> list[dict[str, Any]]:
    jobs = [job for job in get_json(cluster, "/api/jobs/") if job.get("submission_id")]
    return [_job(job) for job in sorted(jobs, key=lambda job: job.get("start_time") or 0, reverse=True)]


def _node(node: dict[str, Any], usage: dict[str, Any]) -> dict[str, Any]:
    total = node.get("resources_total") or {}
    row: dict[str, Any] = {
        "id": node["node_id"],
        "ip": node["node_ip"],
        "head": bool(node["is_head_node"]),
        "state": node["state"],
    }
    for name, resource in (("cpus", "CPU"), ("gpus", "GPU")):
        row[name] = total.get(resource, 0)
        row[f"{name}_used"] = usage.get(resource, [0])[0]
    return row


def _job(job: dict[str, Any]) -> dict[str, Any]:
    started = job.get("start_time")
    return {
        "id": job["submission_id"],
        "status": job["status"],
        "started": datetime.fromtimestamp(started / 1000, UTC).isoformat(timespec="seconds")
        if started
        else None,
        "entrypoint": job.get("entrypoint") or "",
        "message": job.get("message"),
    }


def _share(row: dict[str, Any], name: str) -> str:
    return f"{row[f'{name}_used']:g} of {row[name]:g}"
