"""A Ray cluster on this machine as a program: requests on stdin add nodes, and replies on stdout name their processes.

First line in: ``{"temporary": folder, "head_cpus": int}``; then ``{"cpus": int}`` for each further node. Each is
answered with ``{"address": ..., "raylet": pid, "gcs": pid or null}``. The end of stdin ends the cluster.
"""

import json
import os
import sys
from pathlib import Path

import psutil
from ray.cluster_utils import Cluster


def started(before: set[int]) -> dict[str, int | None]:
    """Return the process ids of the daemons that are not in ``before``."""
    new = {child.name(): child.pid for child in psutil.Process().children() if child.pid not in before}
    return {"raylet": new["raylet"], "gcs": new.get("gcs_server")}


def answer(cluster: Cluster, before: set[int]) -> None:
    sys.stdout.write(json.dumps({"address": cluster.address, **started(before)}) + "\n")
    sys.stdout.flush()


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def main() -> None:
    first = json.loads(sys.stdin.readline())
    # Cluster writes the address to `ray` in that directory, which it does not create.
    os.environ["RAY_TMPDIR"] = first["temporary"]
    Path(first["temporary"], "ray").mkdir()
    head = {
        "num_cpus": first["head_cpus"],
        "include_dashboard": False,
        "temp_dir": first["temporary"],
        "object_store_memory": 80 * 2**20,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        answer(cluster, set())
        for line in sys.stdin:
            before = children()
            cluster.add_node(num_cpus=json.loads(line)["cpus"], object_store_memory=80 * 2**20)
            answer(cluster, before)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
