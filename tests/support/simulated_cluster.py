"""A Ray cluster of several nodes on one machine, as a program: a node's id on stdin removes that node at once.

It is a process of its own, because Ray reads its authentication settings once per process.
"""

import sys

from ray.cluster_utils import Cluster


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=cpus, num_gpus=gpus) for cpus, gpus in ((1, 2), (1, 0), (2, 0))]
        cluster.wait_for_nodes()
        sys.stdout.write(f"{cluster.address}\n")
        sys.stdout.flush()
        for line in sys.stdin:
            [lost] = [node for node in nodes if node.node_id.startswith(line.strip())]
            cluster.remove_node(lost, allow_graceful=False)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
