"""A Ray cluster of several nodes on one machine, as a program: `remove N` on stdin takes node N away at once.

A process of its own, because Ray reads how to authenticate once a process.
"""

import sys

from ray.cluster_utils import Cluster


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1, num_gpus=gpus) for gpus in (2, 0, 0)]
        cluster.wait_for_nodes()
        sys.stdout.write(f"{cluster.address}\n")
        sys.stdout.flush()
        for line in sys.stdin:
            cluster.remove_node(nodes[int(line.split()[1])], allow_graceful=False)
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
