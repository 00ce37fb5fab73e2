"""Run `ray start` for an additional node on a machine whose head listens on loopback only."""

from __future__ import annotations

import os
import sys

MULTI_NODE_ENV = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def main() -> None:
    """Run Ray's command line with 127.0.0.1 as this machine's address.

    Ray replaces 127.0.0.1 by an address that other machines can reach, unless its environment declares a cluster
    of one node; but then its command line refuses to add a second. So the variable allows several nodes while
    Ray is imported, and one node for its child processes. The only private part of Ray that this needs is the
    function that finds the machine's address.
    """
    os.environ[MULTI_NODE_ENV] = "1"
    from ray._private import services
    from ray.scripts import scripts

    if not callable(getattr(services, "get_node_ip_address", None)):
        raise RuntimeError(
            "this version of Ray cannot join on 127.0.0.1; use an address that other machines can reach"
        )
    services.get_node_ip_address = lambda address=None: "127.0.0.1"
    os.environ[MULTI_NODE_ENV] = "0"
    scripts.main()


if __name__ == "__main__":
    sys.exit(main())
