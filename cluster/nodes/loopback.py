"""`ray start` for a further node on a machine whose head listens on loopback only."""

from __future__ import annotations

import os
import sys

MULTI_NODE_ENV = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def main() -> None:
    """Run Ray's command line with 127.0.0.1 as this machine's address.

    Ray replaces 127.0.0.1 by an address that others reach unless it is told that the cluster has one node, and
    then its command line refuses to add a second. So the command line is told that there may be several, its
    children that there is one; the only private part is the function that finds the machine's address.
    """
    os.environ[MULTI_NODE_ENV] = "1"
    from ray._private import services
    from ray.scripts import scripts

    if not callable(getattr(services, "get_node_ip_address", None)):
        raise RuntimeError("this version of Ray cannot join on 127.0.0.1; use an address that others reach")
    services.get_node_ip_address = lambda address=None: "127.0.0.1"
    os.environ[MULTI_NODE_ENV] = "0"
    scripts.main()


if __name__ == "__main__":
    sys.exit(main())
